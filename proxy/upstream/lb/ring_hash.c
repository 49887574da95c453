/* A ring of hashes, each host on it as often as its weight says; a request goes to the next one. */
#include "proxy/core/arena.h"
#include "proxy/upstream/cluster.h"
#include "proxy/upstream/lb_util.h"
#include "xds/proto/envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.pb-c.h"
#include "xds/wire.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef Envoy__Extensions__LoadBalancingPolicies__RingHash__V3__RingHash Message;
#define MURMUR                                                                                     \
	ENVOY__EXTENSIONS__LOAD_BALANCING_POLICIES__RING_HASH__V3__RING_HASH__HASH_FUNCTION__MURMUR_HASH_2
#define XX_HASH                                                                                    \
	ENVOY__EXTENSIONS__LOAD_BALANCING_POLICIES__RING_HASH__V3__RING_HASH__HASH_FUNCTION__XX_HASH
enum { RING_MAX = 8 << 20, RING_MIN = 1024, KEY_MAX = 512 };

struct conf {
	struct weft_lb_common common;
	struct weft_hashing_conf hashing;
	uint64_t min, max;
	bool murmur;
};
struct entry {
	uint64_t hash;
	uint32_t host;
};
struct ring {
	size_t n;
	struct entry v[];
};

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret_conf)
{
	const Message *r = (const Message *)m;
	const struct weft_path hashing = {at, "consistent_hashing_lb_config", -1},
			       min = {at, "minimum_ring_size", -1};
	struct conf *k = weft_arena_alloc(c->arena, sizeof(*k));
	int err = weft_lb_hashing(c, &hashing, r->consistent_hashing_lb_config, &k->hashing);

	if (!r->consistent_hashing_lb_config) {
		k->hashing.by_hostname = r->use_hostname_for_hashing;
		k->hashing.balance_factor = weft_cfg_u32(r->hash_balance_factor, 0);
	}
	k->common.locality.weighted = !!r->locality_weighted_lb_config;
	k->min = r->minimum_ring_size ? r->minimum_ring_size->value : RING_MIN;
	k->max = r->maximum_ring_size ? r->maximum_ring_size->value : RING_MAX;
	k->murmur = r->hash_function == MURMUR;
	if (k->min > k->max)
		err = weft_cfg_fail(c, &min, "must be at most maximum_ring_size (%llu), is %llu",
				    (unsigned long long)k->max, (unsigned long long)k->min);
	*ret_conf = k;
	return err;
}

static const ProtobufCMessage *of_cluster(struct weft_arena *a,
					  const Envoy__Config__Cluster__V3__Cluster *m)
{
	const Envoy__Config__Cluster__V3__Cluster__RingHashLbConfig *old;
	const Envoy__Extensions__LoadBalancingPolicies__Common__V3__LocalityLbConfig *l;
	Message *r;

	if (m->lb_policy != ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_POLICY__RING_HASH)
		return NULL;
	r = weft_arena_alloc(a, sizeof(*r));
	weft_message_init(weft_lb_ring_hash.ext.config, r);
	if (m->lb_config_case ==
	    ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_CONFIG_RING_HASH_LB_CONFIG) {
		old = m->ring_hash_lb_config;
		r->minimum_ring_size = old->minimum_ring_size;
		r->maximum_ring_size = old->maximum_ring_size;
		r->hash_function = old->hash_function ? MURMUR : XX_HASH;
	}
	r->consistent_hashing_lb_config = weft_lb_hashing_of(a, m);
	l = weft_lb_locality_of(a, m);
	r->locality_weighted_lb_config = weft_lb_weighted(l);
	return &r->base;
}

/* MurmurHash64A (Austin Appleby, public domain) with the seed of libstdc++'s std::hash. */
static uint64_t murmur(const void *key, size_t n)
{
	const uint64_t m = 0xc6a4a7935bd1e995u;
	const unsigned char *p = key;
	uint64_t h = 0xc70f6907u ^ (n * m), k;

	for (; n >= 8; p += 8, n -= 8) {
		memcpy(&k, p, 8);
		k *= m;
		k ^= k >> 47;
		h = (h ^ (k * m)) * m;
	}
	if (n) {
		k = 0;
		for (size_t i = 0; i < n; i++)
			k |= (uint64_t)p[i] << 8 * i;
		h = (h ^ k) * m;
	}
	h ^= h >> 47;
	h *= m;
	return h ^ (h >> 47);
}

static int by_hash(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return x->hash == y->hash ? (x->host > y->host) - (x->host < y->host)
				  : (x->hash > y->hash) - (x->hash < y->hash);
}

static int build(struct weft_arena *a, const struct weft_lb_list *l, const void *conf,
		 const void **ret_table, struct weft_err *reterr)
{
	const struct conf *k = conf;
	double sum = 0, min = INFINITY, scale, want = 0, have = 0;
	uint64_t least = UINT64_MAX, most = 0;
	struct ring *r;
	size_t cap;

	for (size_t i = 0; i < l->n; i++) {
		sum += l->weights[i];
		if (l->weights[i] > 0 && l->weights[i] < min)
			min = l->weights[i];
	}
	min /= sum;
	/* the least weight gets a whole number of places, as long as the ring stays small enough */
	scale = ceil(min * (double)k->min) / min;
	if (scale > (double)k->max)
		scale = (double)k->max;
	cap = (size_t)ceil(scale) + l->n;
	r = weft_arena_alloc(a, sizeof(*r) + cap * sizeof(r->v[0]));
	if (!r)
		return weft_fail(reterr, NULL, ENOMEM, "the ring would have %zu entries", cap);
	for (size_t i = 0; i < l->n; i++) {
		char key[KEY_MAX];
		uint64_t nth = 0;

		want += scale * (l->weights[i] / sum);
		for (; have < want && r->n < cap; have++, nth++) {
			int n = snprintf(key, sizeof(key), "%.480s_%llu",
					 weft_lb_hash_key(l->v[i], k->hashing.by_hostname),
					 (unsigned long long)nth);

			r->v[r->n++] = (struct entry){k->murmur ? murmur(key, (size_t)n)
								: XXH64(key, (size_t)n, 0),
						      (uint32_t)i};
		}
		least = nth < least ? nth : least;
		most = nth > most ? nth : most;
	}
	if (l->scope) {
		weft_scope_set(l->scope, WEFT_CLUSTER_ring_hash_lb_size, (int64_t)r->n);
		weft_scope_set(l->scope, WEFT_CLUSTER_ring_hash_lb_min_hashes_per_host,
			       (int64_t)least);
		weft_scope_set(l->scope, WEFT_CLUSTER_ring_hash_lb_max_hashes_per_host,
			       (int64_t)most);
	}
	qsort(r->v, r->n, sizeof(r->v[0]), by_hash);
	*ret_table = r;
	return 0;
}

static size_t pick(const void *table, const struct weft_lb_list *l, const void *conf,
		   struct weft_lb_ctx *ctx)
{
	const struct conf *k = conf;
	const struct ring *r = table;
	size_t lo = 0, hi = r->n, at;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (r->v[mid].hash < ctx->hash)
			lo = mid + 1;
		else
			hi = mid;
	}
	at = r->v[(lo + ctx->attempt) % r->n].host;
	return k->hashing.balance_factor
		       ? weft_lb_bounded(l, k->hashing.balance_factor, at, ctx->hash)
		       : at;
}

const struct weft_lb_policy weft_lb_ring_hash = {
	.ext = {.name = "envoy.load_balancing_policies.ring_hash",
		.config =
			&envoy__extensions__load_balancing_policies__ring_hash__v3__ring_hash__descriptor,
		.prepare = prepare},
	.by_hash = true,
	.of_cluster = of_cluster,
	.build = build,
	.pick = pick,
};
