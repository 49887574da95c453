/* What load balancing policies have in common. */
#pragma once
#include "proxy/upstream/lb.h"
#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/proto/envoy/extensions/load_balancing_policies/common/v3/common.pb-c.h"

#define WEFT_LB_MSG(x) Envoy__Extensions__LoadBalancingPolicies__Common__V3__##x

int weft_lb_slow_start(struct weft_cfg *c, const struct weft_path *at,
		       const WEFT_LB_MSG(SlowStartConfig) * m, struct weft_slow_start *ret);
int weft_lb_locality(struct weft_cfg *c, const struct weft_path *at,
		     const WEFT_LB_MSG(LocalityLbConfig) * m, struct weft_locality_conf *ret);
/* A cluster's own options as policies' messages, in a; NULL: not given. */
WEFT_LB_MSG(SlowStartConfig) *
	weft_lb_slow_start_of(struct weft_arena *a,
			      const Envoy__Config__Cluster__V3__Cluster__SlowStartConfig *m);
WEFT_LB_MSG(LocalityLbConfig) *
	weft_lb_locality_of(struct weft_arena *a, const Envoy__Config__Cluster__V3__Cluster *m);
/* Its locality weights; NULL: others, or none. */
WEFT_LB_MSG(LocalityLbConfig__LocalityWeightedLbConfig) *
	weft_lb_weighted(const WEFT_LB_MSG(LocalityLbConfig) * m);
WEFT_LB_MSG(ConsistentHashingLbConfig) *
	weft_lb_hashing_of(struct weft_arena *a, const Envoy__Config__Cluster__V3__Cluster *m);

/* What is left of a host's weight now: 1 after the window. */
double weft_lb_slow_factor(const struct weft_slow_start *s, const struct weft_host *h,
			   uint64_t now_ns);
/* Whether some host of the list is in its window at now. */
bool weft_lb_is_slow(const struct weft_slow_start *s, const struct weft_lb_list *l,
		     uint64_t now_ns);

/* A table that spreads a counter over weights: every run of its length has each index by its share,
 * spread evenly. Where the weights have too many parts, a low-discrepancy sequence instead. */
struct weft_spread {
	const uint32_t *turns; /* NULL: by sums */
	uint32_t n_turns;
	const double *sums; /* running sums, the last is the total */
	size_t n;
};
struct weft_spread weft_spread_new(struct weft_arena *a, const double *weights, size_t n);
size_t weft_spread_at(const struct weft_spread *s, uint64_t seq);
/* By a random number in proportion to weights: v(ctx, i) is the i-th, sum of all n is not 0. */
size_t weft_lb_by_weight(double (*v)(const void *ctx, size_t i), const void *ctx, size_t n,
			 uint64_t random);
uint64_t weft_lb_mix(uint64_t x); /* another random number out of one */

/* Bounded load: the hash's host unless it has more than factor percent of the mean of requests,
 * then another one, the same for the same hash while loads are the same. */
struct weft_hashing_conf {
	bool by_hostname;
	uint32_t balance_factor; /* 0: not bounded */
};
int weft_lb_hashing(struct weft_cfg *c, const struct weft_path *at,
		    const WEFT_LB_MSG(ConsistentHashingLbConfig) * m,
		    struct weft_hashing_conf *ret);
const char *weft_lb_hash_key(const struct weft_endpoint_entry *e, bool by_hostname);
size_t weft_lb_bounded(const struct weft_lb_list *l, uint32_t factor, size_t at, uint64_t hash);
