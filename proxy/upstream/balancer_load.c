/* How load is spread over priorities, and over zones. Pure arithmetic. */
#include "proxy/core/arena.h"
#include "proxy/upstream/balancer_priv.h"

#include <stdlib.h>
#include <string.h>

bool balancer_in_panic(const struct prio *p, uint32_t threshold_pct)
{
	size_t n = p->n - p->n_excluded;
	double healthy = n ? 100.0 * (double)p->n_healthy / (double)n : 0,
	       degraded = n ? 100.0 * (double)p->n_degraded / (double)n : 0;

	return healthy + degraded < threshold_pct;
}

/* Everything is unhealthy: by the number of hosts. */
static void loads_in_total_panic(struct prio *p, uint32_t n)
{
	uint64_t total = 0, left = 100;
	uint32_t first = n;

	for (uint32_t i = 0; i < n; i++)
		total += p[i].n;
	for (uint32_t i = 0; i < n; i++) {
		p[i].degraded_pct = 0;
		p[i].healthy_pct = total ? (uint32_t)(100 * p[i].n / total) : 0;
		left -= p[i].healthy_pct;
		if (first == n && p[i].n)
			first = i;
	}
	p[first == n ? 0 : first].healthy_pct += (uint32_t)left;
}

struct sums {
	double healthy, degraded, all;
};

static void sum_up(struct sums *s, uint32_t n, const struct weft_hosts *h,
		   const struct weft_cluster *c)
{
	memset(s, 0, n * sizeof(*s));
	for (size_t i = 0; i < h->n; i++) {
		const struct weft_endpoint_entry *e = &h->v[i];
		double w = h->weighted_priority_health ? e->weight : 1;

		if (!balancer_excluded(c, e->host))
			s[e->priority].all += w;
		if (weft_host_healthy(e->host))
			s[e->priority].healthy += w;
		else if (weft_host_degraded(e->host))
			s[e->priority].degraded += w;
	}
}

/* Healthy hosts first, by priority; then degraded ones; rounding goes to the first that has any. */
static void share(struct prio *p, uint32_t n, uint32_t total)
{
	uint32_t left = 100;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t want = p[i].healthy_pct * 100 / total;

		p[i].healthy_pct = want < left ? want : left;
		left -= p[i].healthy_pct;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t want = p[i].degraded_pct * 100 / total;

		p[i].degraded_pct = want < left ? want : left;
		left -= p[i].degraded_pct;
	}
	for (uint32_t i = 0; left && i < n; i++)
		if (p[i].healthy_pct) {
			p[i].healthy_pct += left;
			return;
		}
	for (uint32_t i = 0; left && i < n; i++)
		if (p[i].degraded_pct) {
			p[i].degraded_pct += left;
			return;
		}
}

void balancer_loads(struct prio *p, uint32_t n, const struct weft_hosts *h,
		    const struct weft_cluster *c)
{
	struct sums *s = weft_xcalloc(n, sizeof(*s));
	uint32_t total = 0, threshold = balancer_panic_pct(c);
	bool all_panic = true;

	sum_up(s, n, h, c);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t over = h->overprovisioning_pct;
		double good = s[i].all > 0 ? over * s[i].healthy / s[i].all : 0,
		       fair = s[i].all > 0 ? over * s[i].degraded / s[i].all : 0;

		p[i].healthy_pct = good < 100 ? (uint32_t)good : 100;
		p[i].degraded_pct = fair < 100 ? (uint32_t)fair : 100;
		total += p[i].healthy_pct + p[i].degraded_pct;
	}
	free(s);
	if (total > 100)
		total = 100;
	if (total)
		share(p, n, total);
	if (!total && !threshold) {
		/* nobody is there to take it, and panic is off: the pick will find no host */
		p[0].healthy_pct = 100;
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		p[i].panic = total != 100 && balancer_in_panic(&p[i], threshold);
		all_panic &= p[i].panic;
	}
	if (all_panic)
		loads_in_total_panic(p, n);
}

/* ---- zone-aware routing: requests stay in the zone as far as its hosts can take them */
bool balancer_same_locality(const struct weft_locality *a, const struct weft_locality *b)
{
	return !strcmp(a->region, b->region) && !strcmp(a->zone, b->zone) &&
	       !strcmp(a->sub_zone, b->sub_zone);
}

static double size_of(const struct weft_endpoint_entry *e, bool by_weight)
{
	return by_weight ? e->weight : 1;
}

/* Shares, of 10,000, of the local cluster's healthy hosts by place, and those of upstream. */
static void shares(const struct weft_balancer *b, const struct prio *p,
		   const struct weft_lb_local *local, bool by_weight, uint64_t *mine,
		   uint64_t *theirs)
{
	double here = 0, there = 0, *m = weft_xcalloc(p->healthy_at.n, sizeof(*m)),
	       *t = weft_xcalloc(p->healthy_at.n, sizeof(*t));

	for (size_t k = 0; k < p->healthy_at.n; k++) {
		const struct weft_lb_list *l = &p->healthy_at.v[k].l;

		for (size_t i = 0; i < l->n; i++)
			t[k] += size_of(l->v[i], by_weight);
		there += t[k];
	}
	for (size_t i = 0; i < local->hosts->n; i++) {
		const struct weft_endpoint_entry *e = &local->hosts->v[i];
		const struct weft_locality *at = &local->hosts->localities[e->locality].id;

		if (e->priority || !weft_host_healthy(e->host))
			continue;
		here += size_of(e, by_weight);
		for (size_t k = 0; k < p->healthy_at.n; k++) {
			const struct weft_lb_list *l = &p->healthy_at.v[k].l;

			if (l->n && balancer_same_locality(
					    at, &b->hosts->localities[l->v[0]->locality].id)) {
				m[k] += size_of(e, by_weight);
				break;
			}
		}
	}
	for (size_t k = 0; k < p->healthy_at.n; k++) {
		mine[k] = here > 0 ? (uint64_t)(10000 * m[k] / here) : 0;
		theirs[k] = there > 0 ? (uint64_t)(10000 * t[k] / there) : 0;
	}
	free(m);
	free(t);
}

static bool local_panics(const struct weft_balancer *b, const struct weft_hosts *h)
{
	struct prio p = {0};

	for (size_t i = 0; i < h->n; i++) {
		if (h->v[i].priority)
			continue;
		p.n++;
		p.n_healthy += weft_host_healthy(h->v[i].host);
		p.n_degraded += weft_host_degraded(h->v[i].host);
	}
	return balancer_in_panic(&p, balancer_panic_pct(b->c));
}

void balancer_zone(struct weft_balancer *b, struct prio *p, const struct weft_lb_local *local)
{
	const struct weft_locality_conf *k = b->c->priv->locality;
	size_t n = p->healthy_at.n, places = 0;
	uint64_t *mine, *theirs;

	b->local_panic = local_panics(b, local->hosts);
	for (size_t i = 0; i < n; i++)
		places += p->healthy_at.v[i].l.n > 0;
	/* the first place is ours; without a host there nothing can stay */
	if (places < 2 || !p->healthy_at.v[0].l.n)
		return;
	if (p->n_healthy < k->min_cluster_size) {
		weft_scope_add(b->c->scope, WEFT_CLUSTER_lb_zone_cluster_too_small, 1);
		return;
	}
	weft_scope_add(b->c->scope, WEFT_CLUSTER_lb_recalculate_zone_structures, 1);
	if (k->force_local && p->healthy_at.v[0].l.n >= k->force_local_min) {
		p->route = ROUTE_LOCAL;
		return;
	}
	mine = weft_arena_alloc(b->arena, n * sizeof(*mine));
	theirs = weft_arena_alloc(b->arena, n * sizeof(*theirs));
	shares(b, p, local, k->by_weight, mine, theirs);
	if (theirs[0] >= mine[0]) {
		p->route = ROUTE_LOCAL;
		return;
	}
	p->route = ROUTE_RESIDUAL;
	p->local_share = (uint32_t)(theirs[0] * 10000 / mine[0]);
	p->residual = weft_arena_alloc(b->arena, n * sizeof(*p->residual));
	for (size_t i = 1; i < n; i++)
		p->residual[i] =
			p->residual[i - 1] + (theirs[i] > mine[i] ? theirs[i] - mine[i] : 0);
}
