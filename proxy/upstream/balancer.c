/* A cluster's hosts split by priority, health and locality, and the pick. */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/balancer_priv.h"

#include <stdlib.h>
#include <string.h>

enum { SEQ_MAX = 1024, PRIOS_MAX = 129 };

bool balancer_excluded(const struct weft_cluster *c, const struct weft_host *h)
{
	uint32_t f = atomic_load_explicit(&h->flags, memory_order_relaxed);

	return (f & WEFT_HOST_EXCLUDED_IMMEDIATE_HC) ||
	       ((f & WEFT_HOST_PENDING_ACTIVE_HC) && c->priv->ignore_new_hosts_until_first_hc);
}

uint32_t balancer_panic_pct(const struct weft_cluster *c)
{
	return c->priv->panic_pct;
}

/* ---- building */
struct builder {
	struct weft_balancer *b;
	const struct weft_lb_local *local; /* NULL: not zone-aware */
	struct weft_err *reterr;
	size_t *place; /* locality → place, of the priority at hand */
	size_t n_places;
};
enum want { WANT_HEALTHY, WANT_DEGRADED, WANT_ALL };

static bool wanted(const struct weft_host *h, enum want w)
{
	return w == WANT_ALL || (w == WANT_HEALTHY ? weft_host_healthy(h) : weft_host_degraded(h));
}

/* With locality weights a hash policy's hosts have their locality's share of the weight. */
static double weight_of(const struct builder *b, const struct weft_endpoint_entry *e,
			const double *locality_sum)
{
	const struct weft_locality_entry *l = &b->b->hosts->localities[e->locality];

	if (!locality_sum)
		return e->weight;
	return locality_sum[e->locality] > 0
		       ? (double)l->weight * e->weight / locality_sum[e->locality]
		       : 0;
}

static int finish_list(const struct builder *b, struct list *l)
{
	const struct weft_cluster *c = b->b->c;

	l->id = b->b->n_ids++;
	l->l.same_weights = true;
	for (size_t i = 1; i < l->l.n; i++)
		l->l.same_weights &= l->l.weights[i] == l->l.weights[0];
	return l->l.n ? c->lb->build(b->b->arena, &l->l, c->lb_conf, &l->table, b->reterr) : 0;
}

/* Hosts [from, to) of the set that are wanted; place SIZE_MAX: of any locality. */
static int make_list(const struct builder *b, size_t from, size_t to, enum want w, size_t place,
		     struct list *ret)
{
	const struct weft_hosts *h = b->b->hosts;
	bool by_locality = b->b->c->lb->by_hash && b->b->c->priv->locality->weighted;
	double *sum = NULL, *weights;
	const struct weft_endpoint_entry **v;
	size_t n = 0;
	int err;

	for (size_t i = from; i < to; i++)
		n += wanted(h->v[i].host, w) &&
		     (place == SIZE_MAX || b->place[h->v[i].locality] == place);
	v = weft_arena_alloc(b->b->arena, (n + !n) * sizeof(*v));
	weights = weft_arena_alloc(b->b->arena, (n + !n) * sizeof(*weights));
	if (by_locality) {
		sum = weft_xcalloc(h->n_localities, sizeof(*sum));
		for (size_t i = from; i < to; i++)
			if (wanted(h->v[i].host, w))
				sum[h->v[i].locality] += h->v[i].weight;
	}
	n = 0;
	for (size_t i = from; i < to; i++) {
		double weight = weight_of(b, &h->v[i], sum);

		if (!wanted(h->v[i].host, w) ||
		    (place != SIZE_MAX && b->place[h->v[i].locality] != place) || !(weight > 0))
			continue;
		v[n] = &h->v[i];
		weights[n++] = weight;
	}
	free(sum);
	ret->l = (struct weft_lb_list){.v = v, .weights = weights, .n = n};
	if (w != WANT_DEGRADED)
		ret->l.scope = b->b->c->scope;
	err = finish_list(b, ret);
	return err;
}

/* Localities' shares: weight by how much of the locality is there, overprovisioned. */
static void place_shares(const struct builder *b, size_t from, size_t to, struct places *p)
{
	const struct weft_hosts *h = b->b->hosts;
	double *w = weft_xcalloc(p->n, sizeof(*w)), total = 0;
	size_t *all = weft_xcalloc(p->n, sizeof(*all));

	for (size_t i = from; i < to; i++)
		all[b->place[h->v[i].locality]] += !balancer_excluded(b->b->c, h->v[i].host);
	for (size_t i = 0; i < h->n_localities; i++) {
		size_t k = b->place[i];
		double there;

		if (k == SIZE_MAX || !all[k])
			continue;
		there = h->overprovisioning_pct / 100.0 * (double)p->v[k].l.n / (double)all[k];
		w[k] = h->localities[i].weight * (there < 1 ? there : 1);
		total += w[k];
	}
	if (total > 0)
		p->spread = weft_spread_new(b->b->arena, w, p->n);
	p->id = b->b->n_ids++;
	free(all);
	free(w);
}

static int make_places(const struct builder *b, size_t from, size_t to, enum want w,
		       struct places *p)
{
	int err = 0;

	p->n = b->n_places;
	p->v = weft_arena_alloc(b->b->arena, (p->n + !p->n) * sizeof(*p->v));
	for (size_t i = 0; i < p->n && !err; i++)
		err = make_list(b, from, to, w, i, &p->v[i]);
	if (!err && b->b->c->priv->locality->weighted)
		place_shares(b, from, to, p);
	return err;
}

/* The localities of the priority in order, ours first. */
static void number_places(struct builder *b, size_t from, size_t to)
{
	const struct weft_hosts *h = b->b->hosts;

	b->n_places = 0;
	for (size_t i = 0; i < h->n_localities; i++)
		b->place[i] = SIZE_MAX;
	if (b->local)
		b->n_places = 1; /* kept for ours, even if no host is there */
	for (size_t i = from; i < to; i++) {
		size_t *at = &b->place[h->v[i].locality];

		if (*at != SIZE_MAX)
			continue;
		if (b->local &&
		    balancer_same_locality(&h->localities[h->v[i].locality].id, &b->local->at))
			*at = 0;
		else
			*at = b->n_places++;
	}
}

static int build_prio(struct builder *b, struct prio *p, size_t from, size_t to)
{
	const struct weft_cluster *c = b->b->c;
	bool places = !c->lb->by_hash && (c->priv->locality->weighted || b->local);
	int err;

	if (p->panic)
		return make_list(b, from, to, WANT_ALL, SIZE_MAX, &p->all);
	err = make_list(b, from, to, WANT_HEALTHY, SIZE_MAX, &p->healthy);
	if (!err)
		err = make_list(b, from, to, WANT_DEGRADED, SIZE_MAX, &p->degraded);
	if (err || !places)
		return err;
	number_places(b, from, to);
	err = make_places(b, from, to, WANT_HEALTHY, &p->healthy_at);
	if (!err)
		err = make_places(b, from, to, WANT_DEGRADED, &p->degraded_at);
	return err;
}

static int build_all(struct builder *b)
{
	struct weft_balancer *k = b->b;
	const struct weft_hosts *h = k->hosts;
	int err = 0;

	k->n_prios = h->n_priorities ? h->n_priorities : 1;
	k->prios = weft_arena_alloc(k->arena, k->n_prios * sizeof(*k->prios));
	for (size_t i = 0; i < h->n; i++) {
		struct prio *p = &k->prios[h->v[i].priority];

		p->n++;
		p->n_healthy += weft_host_healthy(h->v[i].host);
		p->n_degraded += weft_host_degraded(h->v[i].host);
		p->n_excluded += balancer_excluded(k->c, h->v[i].host);
	}
	balancer_loads(k->prios, k->n_prios, h, k->c);
	b->place = weft_xcalloc(h->n_localities + 1, sizeof(*b->place));
	for (size_t from = 0, to; from < h->n && !err; from = to) {
		for (to = from; to < h->n && h->v[to].priority == h->v[from].priority; to++)
			;
		err = build_prio(b, &k->prios[h->v[from].priority], from, to);
	}
	if (!err && b->local && !k->prios[0].panic && k->prios[0].healthy_at.n)
		balancer_zone(k, &k->prios[0], b->local);
	free(b->place);
	return err;
}

struct weft_balancer *weft_balancer_new(const struct weft_cluster *c, struct weft_hosts *hosts,
					const struct weft_lb_local *local, struct weft_err *reterr)
{
	struct weft_balancer *k = weft_xcalloc(1, sizeof(*k));
	struct builder b = {.b = k, .reterr = reterr};

	atomic_init(&k->refs, 1);
	k->c = c;
	k->hosts = hosts;
	weft_hosts_ref(hosts);
	if (hosts->n < 2)
		return k;
	if (local && local->hosts && local->hosts->n && !c->priv->locality->weighted)
		b.local = local;
	k->arena = weft_arena_new(0);
	if (!build_all(&b))
		return k;
	weft_balancer_unref(k);
	return NULL;
}

void weft_balancer_ref(struct weft_balancer *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
}

void weft_balancer_unref(struct weft_balancer *b)
{
	if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
		return;
	weft_hosts_unref(b->hosts);
	weft_arena_free(b->arena);
	free(b);
}

struct weft_hosts *weft_balancer_hosts(const struct weft_balancer *b)
{
	return b->hosts;
}

void weft_balancer_load(const struct weft_balancer *b, uint32_t priority, uint32_t *ret_healthy,
			uint32_t *ret_degraded, bool *ret_panic)
{
	const struct prio *p = priority < b->n_prios ? &b->prios[priority] : NULL;

	*ret_healthy = p ? p->healthy_pct : 0;
	*ret_degraded = p ? p->degraded_pct : 0;
	*ret_panic = p && p->panic;
}

/* ---- memory of a worker */
struct weft_lb_memory *weft_lb_memory_new(void)
{
	return weft_xcalloc(1, sizeof(struct weft_lb_memory));
}

void weft_lb_memory_free(struct weft_lb_memory *m)
{
	if (!m)
		return;
	free(m->seq);
	free(m);
}

static uint64_t *seq_of(struct weft_lb_memory *m, uint32_t id)
{
	if (id >= SEQ_MAX)
		return &m->last;
	if (id >= m->n) {
		m->seq = weft_xrealloc(m->seq, (id + 1) * sizeof(*m->seq));
		/* workers begin at different hosts, below 2^32 so that no turn is lost for long */
		for (; m->n <= id; m->n++)
			m->seq[m->n] = weft_rand64() >> 32;
	}
	return &m->seq[id];
}

/* ---- picking */
static void count(const struct weft_balancer *b, enum weft_cluster_stat item)
{
	weft_scope_add(b->c->scope, item, 1);
}

/* As in a priority of its own. */
static const struct weft_endpoint_entry *pick_only(const struct weft_balancer *b)
{
	const struct weft_endpoint_entry *e = &b->hosts->v[0];

	if (!b->hosts->n)
		return NULL;
	if (weft_host_healthy(e->host) || weft_host_degraded(e->host))
		return e;
	if (!balancer_panic_pct(b->c))
		return NULL;
	count(b, WEFT_CLUSTER_lb_healthy_panic);
	return b->c->priv->locality->fail_on_panic ? NULL : e;
}

static uint32_t share_there(const struct weft_balancer *b, const struct prio *p)
{
	size_t live = p->n_healthy + p->n_degraded;
	uint64_t pct = p->n ? live * b->hosts->overprovisioning_pct / p->n : 0;

	return pct > 100 ? 100 : pct || !live ? (uint32_t)pct : 1;
}

static struct prio *pick_priority(const struct weft_balancer *b, struct weft_lb_ctx *ctx,
				  uint64_t random, bool *ret_degraded)
{
	uint32_t at = (uint32_t)(random % 100) + 1, sum = 0, i;

	*ret_degraded = false;
	if (ctx->priorities) {
		uint32_t pct[PRIOS_MAX], there[PRIOS_MAX];

		for (i = 0; i < b->n_prios && i < PRIOS_MAX; i++) {
			pct[i] = b->prios[i].healthy_pct + b->prios[i].degraded_pct;
			there[i] = share_there(b, &b->prios[i]);
		}
		ctx->priorities(ctx->owner, pct, there, i);
		for (uint32_t k = 0; k < i; k++) {
			sum += pct[k];
			if (at <= sum) {
				*ret_degraded =
					!b->prios[k].healthy.l.n && b->prios[k].degraded.l.n;
				return &b->prios[k];
			}
		}
		sum = 0;
	}
	for (i = 0; i < b->n_prios; i++) {
		sum += b->prios[i].healthy_pct;
		if (at <= sum)
			return &b->prios[i];
	}
	*ret_degraded = true;
	for (i = 0; i < b->n_prios; i++) {
		sum += b->prios[i].degraded_pct;
		if (at <= sum)
			return &b->prios[i];
	}
	*ret_degraded = false;
	return &b->prios[0];
}

/* The zone: ours as far as its hosts can take it, else one that has hosts to spare. */
static const struct list *pick_zone(const struct weft_balancer *b, const struct prio *p,
				    uint64_t random)
{
	size_t n = p->healthy_at.n, i = 0;
	uint64_t at;

	if (p->route == ROUTE_LOCAL) {
		count(b, WEFT_CLUSTER_lb_zone_routing_all_directly);
		return &p->healthy_at.v[0];
	}
	if (random % 10000 < p->local_share) {
		count(b, WEFT_CLUSTER_lb_zone_routing_sampled);
		return &p->healthy_at.v[0];
	}
	count(b, WEFT_CLUSTER_lb_zone_routing_cross_zone);
	random = weft_lb_mix(random);
	if (!p->residual[n - 1]) {
		count(b, WEFT_CLUSTER_lb_zone_no_capacity_left);
		return &p->healthy_at.v[random % n];
	}
	at = random % p->residual[n - 1];
	while (at >= p->residual[i])
		i++;
	return &p->healthy_at.v[i];
}

static const struct list *pick_list(const struct weft_balancer *b, struct weft_lb_memory *m,
				    struct weft_lb_ctx *ctx)
{
	const struct weft_locality_conf *k = b->c->priv->locality;
	bool degraded;
	struct prio *p =
		pick_priority(b, ctx, b->c->lb->by_hash ? ctx->hash : ctx->random, &degraded);
	const struct places *at = degraded ? &p->degraded_at : &p->healthy_at;
	uint64_t random = weft_lb_mix(ctx->random);

	if (p->panic) {
		count(b, WEFT_CLUSTER_lb_healthy_panic);
		return k->fail_on_panic ? NULL : &p->all;
	}
	if (k->weighted && at->spread.n)
		return &at->v[weft_spread_at(&at->spread, (*seq_of(m, at->id))++)];
	if (p->route != ROUTE_ANY && !degraded && random % 100 < k->routing_enabled_pct) {
		if (b->local_panic) {
			count(b, WEFT_CLUSTER_lb_local_cluster_not_ok);
			if (k->fail_on_panic)
				return NULL;
		} else {
			return pick_zone(b, p, weft_lb_mix(random));
		}
	}
	return degraded ? &p->degraded : &p->healthy;
}

static bool dropped(const struct weft_balancer *b, const char **ret_drop)
{
	for (size_t i = 0; i < b->hosts->n_drops; i++)
		if (weft_rand64() % 1000000 < b->hosts->drops[i].per_million) {
			*ret_drop = b->hosts->drops[i].category;
			return true;
		}
	return false;
}

/* The status an endpoint has, as core.v3.HealthStatus. */
static unsigned status_of(const struct weft_host *h)
{
	uint32_t f = atomic_load_explicit(&h->flags, memory_order_relaxed);

	if (f & WEFT_HOST_DRAINING_EDS)
		return ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DRAINING;
	if (weft_host_healthy(h))
		return ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__HEALTHY;
	return weft_host_degraded(h) ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DEGRADED
				     : ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNHEALTHY;
}

static const struct weft_endpoint_entry *pick_override(const struct weft_balancer *b,
						       const char *text)
{
	for (size_t i = 0; i < b->hosts->n; i++)
		if (!strcmp(b->hosts->v[i].host->text, text))
			return b->c->priv->override_statuses >> status_of(b->hosts->v[i].host) & 1
				       ? &b->hosts->v[i]
				       : NULL;
	return NULL;
}

const struct weft_endpoint_entry *weft_balancer_pick(const struct weft_balancer *b,
						     struct weft_lb_memory *m,
						     struct weft_lb_ctx *ctx, const char **ret_drop)
{
	const struct weft_endpoint_entry *e = NULL;
	struct weft_lb_ctx now = *ctx;

	*ret_drop = NULL;
	if (dropped(b, ret_drop))
		return NULL;
	if (ctx->override_host && (e = pick_override(b, ctx->override_host)))
		return e;
	if (b->hosts->n < 2)
		return pick_only(b);
	if (!now.has_hash)
		now.hash = now.random;
	for (now.attempt = 0;; now.attempt++) {
		const struct list *l = pick_list(b, m, &now);

		if (!l || !l->l.n)
			return NULL;
		now.seq = seq_of(m, l->id);
		e = l->l.v[b->c->lb->pick(l->table, &l->l, b->c->lb_conf, &now)];
		/* the last one stands, refused or not */
		if (!now.accept || now.attempt + 1 >= now.max_tries || now.accept(now.owner, e))
			return e;
		now.random = weft_lb_mix(now.random);
	}
}
