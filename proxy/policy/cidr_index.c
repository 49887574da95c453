#include "proxy/core/arena.h"
#include "proxy/core/lpm.h"
#include "proxy/policy/model_priv.h"

#include <stdlib.h>
#include <string.h>

/* One (network, CIDR): its services, then those of every wider CIDR around it, so that one look-up
 * has all candidates. */
struct group {
	const char *network;
	struct weft_cidr cidr;
	const struct group *wider;
	size_t n;
	const struct weft_service **v;
};
struct net {
	const char *network; /* borrowed of a service that the same root holds */
	struct weft_lpm *lpm;
};
struct weft_cidr_index {
	atomic_uint refs;
	struct net *nets;
	size_t n_nets;
	struct group *groups;
	size_t n_groups;
};
struct item {
	const char *network;
	struct weft_cidr cidr;
	const struct weft_service *s;
};

/* By network, then wide before narrow, so that a group's surroundings are there when it comes. */
static int item_cmp(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;
	int c = strcmp(a->network, b->network);

	if (!c)
		c = (int)a->cidr.len - (int)b->cidr.len;
	if (!c)
		c = weft_ip_cmp(&a->cidr.ip, &b->cidr.ip);
	return c ? c : strcmp(a->s->key, b->s->key);
}

static size_t items_collect(const struct weft_service *const *services, size_t n, struct item **ret)
{
	size_t total = 0, k = 0;
	struct item *v;

	for (size_t i = 0; i < n; i++)
		total += services[i]->n_vips;
	v = weft_xcalloc(total, sizeof(*v));
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < services[i]->n_vips; j++) {
			const struct weft_service_vip *vip = &services[i]->vips[j];

			if (vip->cidr.len < weft_ip_bytes(&vip->cidr.ip) * 8)
				v[k++] = (struct item){vip->network, vip->cidr, services[i]};
		}
	}
	qsort(v, k, sizeof(*v), item_cmp);
	*ret = v;
	return k;
}

static struct net *net_get(struct weft_cidr_index *x, const char *network)
{
	struct net *last = x->n_nets ? &x->nets[x->n_nets - 1] : NULL;

	if (last && !strcmp(last->network, network))
		return last;
	x->nets = weft_xrealloc(x->nets, (x->n_nets + 1) * sizeof(*x->nets));
	last = &x->nets[x->n_nets++];
	*last = (struct net){network, weft_lpm_new()};
	return last;
}

struct weft_cidr_index *weft_cidr_index_new(const struct weft_service *const *services, size_t n)
{
	struct weft_cidr_index *x;
	struct item *v;
	size_t n_items;

	if (!n)
		return NULL;
	n_items = items_collect(services, n, &v);
	x = weft_xcalloc(1, sizeof(*x));
	atomic_init(&x->refs, 1);
	x->groups = weft_xcalloc(n_items, sizeof(*x->groups));
	for (size_t i = 0, end; i < n_items; i = end) {
		struct group *g = &x->groups[x->n_groups++];
		struct net *net = net_get(x, v[i].network);

		for (end = i; end < n_items && !strcmp(v[end].network, v[i].network) &&
			      v[end].cidr.len == v[i].cidr.len &&
			      weft_ip_eq(&v[end].cidr.ip, &v[i].cidr.ip);)
			end++;
		*g = (struct group){.network = v[i].network, .cidr = v[i].cidr, .n = end - i};
		g->v = weft_xcalloc(g->n, sizeof(const struct weft_service *));
		for (size_t k = i; k < end; k++)
			g->v[k - i] = v[k].s;
		g->wider = weft_lpm_get(net->lpm, &g->cidr.ip);
		weft_lpm_set(net->lpm, &g->cidr, g);
	}
	free(v);
	return x;
}

struct weft_cidr_index *weft_cidr_index_ref(struct weft_cidr_index *x)
{
	if (x)
		atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
	return x;
}

void weft_cidr_index_unref(struct weft_cidr_index *x)
{
	if (!x || atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < x->n_nets; i++)
		weft_lpm_free(x->nets[i].lpm);
	for (size_t i = 0; i < x->n_groups; i++)
		free(x->groups[i].v);
	free(x->nets);
	free(x->groups);
	free(x);
}

/* Rank: same namespace, then the narrower range, then canonical, then the first by key. */
const struct weft_service *weft_cidr_index_get(const struct weft_cidr_index *x, const char *network,
					       const struct weft_ip *ip, const char *client_ns)
{
	const struct weft_service *best = NULL;
	const struct weft_lpm *lpm = NULL;
	bool best_same = false;
	uint8_t best_len = 0;

	for (size_t i = 0; x && i < x->n_nets; i++)
		if (!strcmp(x->nets[i].network, network))
			lpm = x->nets[i].lpm;
	for (const struct group *g = lpm ? weft_lpm_get(lpm, ip) : NULL; g; g = g->wider) {
		for (size_t i = 0; i < g->n; i++) {
			const struct weft_service *s = g->v[i];
			bool same = !strcmp(s->ns, client_ns);

			if (s->private_ns && !same)
				continue;
			if (!best || (same && !best_same) ||
			    (same == best_same && g->cidr.len == best_len && s->canonical &&
			     !best->canonical)) {
				best = s;
				best_same = same;
				best_len = g->cidr.len;
			}
		}
	}
	return best;
}
