/* Maglev: a table that every host fills in its own order until it is full; a request's hash is an
 * index. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", §3.4. */
#include "proxy/core/arena.h"
#include "proxy/upstream/cluster.h"
#include "proxy/upstream/lb_util.h"
#include "xds/proto/envoy/extensions/load_balancing_policies/maglev/v3/maglev.pb-c.h"
#include "xds/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef Envoy__Extensions__LoadBalancingPolicies__Maglev__V3__Maglev Message;
enum { TABLE = 65537, TABLE_MAX = 5000011 };

struct conf {
	struct weft_lb_common common;
	struct weft_hashing_conf hashing;
	uint32_t size;
};

static bool is_prime(uint64_t n)
{
	for (uint64_t i = 2; i * i <= n; i++)
		if (n % i == 0)
			return false;
	return n > 1;
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret_conf)
{
	const Message *g = (const Message *)m;
	const struct weft_path hashing = {at, "consistent_hashing_lb_config", -1},
			       size = {at, "table_size", -1};
	struct conf *k = weft_arena_alloc(c->arena, sizeof(*k));
	int err = weft_lb_hashing(c, &hashing, g->consistent_hashing_lb_config, &k->hashing);
	uint64_t n = g->table_size ? g->table_size->value : TABLE;

	k->common.locality.weighted = !!g->locality_weighted_lb_config;
	if (n > TABLE_MAX || !is_prime(n))
		err = weft_cfg_fail(c, &size, "must be a prime of at most %d, is %llu", TABLE_MAX,
				    (unsigned long long)n);
	k->size = (uint32_t)n;
	*ret_conf = k;
	return err;
}

static const ProtobufCMessage *of_cluster(struct weft_arena *a,
					  const Envoy__Config__Cluster__V3__Cluster *m)
{
	const Envoy__Extensions__LoadBalancingPolicies__Common__V3__LocalityLbConfig *l;
	Message *g;

	if (m->lb_policy != ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_POLICY__MAGLEV)
		return NULL;
	g = weft_arena_alloc(a, sizeof(*g));
	weft_message_init(weft_lb_maglev.ext.config, g);
	if (m->lb_config_case == ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_CONFIG_MAGLEV_LB_CONFIG)
		g->table_size = m->maglev_lb_config->table_size;
	g->consistent_hashing_lb_config = weft_lb_hashing_of(a, m);
	l = weft_lb_locality_of(a, m);
	g->locality_weighted_lb_config = weft_lb_weighted(l);
	return &g->base;
}

struct filler {
	const char *key;
	uint64_t at, skip;
	double weight, target;
	uint32_t host, n;
};

static int by_key(const void *a, const void *b)
{
	const struct filler *x = a, *y = b;
	int r = strcmp(x->key, y->key);

	return r ? r : (x->host > y->host) - (x->host < y->host);
}

/* In the order of their keys: the table does not change with the order of hosts. Weights are shares
 * of 1, so that they round as Envoy's. */
static struct filler *fillers(const struct weft_lb_list *l, const struct conf *k, double *ret_max)
{
	struct filler *f = weft_xcalloc(l->n, sizeof(*f));
	double sum = 0;

	for (size_t i = 0; i < l->n; i++)
		sum += l->weights[i];
	*ret_max = 0;
	for (size_t i = 0; i < l->n; i++) {
		const char *key = weft_lb_hash_key(l->v[i], k->hashing.by_hostname);

		f[i].key = key;
		f[i].host = (uint32_t)i;
		f[i].at = XXH64(key, strlen(key), 0) % k->size;
		f[i].skip = k->size > 1 ? XXH64(key, strlen(key), 1) % (k->size - 1) + 1 : 1;
		f[i].weight = l->weights[i] / sum;
		*ret_max = f[i].weight > *ret_max ? f[i].weight : *ret_max;
	}
	qsort(f, l->n, sizeof(*f), by_key);
	return f;
}

static void tell(const struct weft_lb_list *l, const struct filler *f)
{
	uint32_t least = UINT32_MAX, most = 0;

	for (size_t i = 0; i < l->n; i++) {
		least = f[i].n < least ? f[i].n : least;
		most = f[i].n > most ? f[i].n : most;
	}
	weft_scope_set(l->scope, WEFT_CLUSTER_maglev_lb_min_entries_per_host, least);
	weft_scope_set(l->scope, WEFT_CLUSTER_maglev_lb_max_entries_per_host, most);
}

static int build(struct weft_arena *a, const struct weft_lb_list *l, const void *conf,
		 const void **ret_table, struct weft_err *reterr)
{
	const struct conf *k = conf;
	double max;
	struct filler *f = fillers(l, k, &max);
	uint32_t *t = weft_arena_alloc(a, k->size * sizeof(*t)), filled = 0;

	memset(t, 0xff, k->size * sizeof(*t));
	/* the heaviest has its turn in every round, the others by their share of its weight */
	for (uint32_t round = 1; filled < k->size; round++) {
		for (size_t i = 0; i < l->n && filled < k->size; i++) {
			if (round * f[i].weight < f[i].target || !(f[i].weight > 0))
				continue;
			f[i].target += max;
			while (t[f[i].at] != UINT32_MAX)
				f[i].at = (f[i].at + f[i].skip) % k->size;
			t[f[i].at] = f[i].host;
			f[i].n++;
			filled++;
		}
	}
	if (l->scope)
		tell(l, f);
	free(f);
	*ret_table = t;
	return 0;
}

static size_t pick(const void *table, const struct weft_lb_list *l, const void *conf,
		   struct weft_lb_ctx *ctx)
{
	const struct conf *k = conf;
	const uint32_t *t = table;
	/* another try: most bits change, so that the place is far away */
	uint64_t hash = ctx->attempt ? ctx->hash ^ (~(uint64_t)0 - ctx->attempt + 1) : ctx->hash;
	size_t at = t[hash % k->size];

	return k->hashing.balance_factor ? weft_lb_bounded(l, k->hashing.balance_factor, at, hash)
					 : at;
}

const struct weft_lb_policy weft_lb_maglev = {
	.ext = {.name = "envoy.load_balancing_policies.maglev",
		.config =
			&envoy__extensions__load_balancing_policies__maglev__v3__maglev__descriptor,
		.prepare = prepare},
	.by_hash = true,
	.of_cluster = of_cluster,
	.build = build,
	.pick = pick,
};
