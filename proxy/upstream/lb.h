/* Load balancing: which host gets the next request. Everything that decides before the policy
 * (priority by health, overprovisioning, panic, locality weights, zone-aware routing, degraded) is
 * balancer.c's; a policy sees one list of hosts and picks. A policy is one file under lb/, one
 * LB_POLICY(name) line in policies.def. */
#pragma once
#include "proxy/upstream/host.h"
#include "xds/ext.h"

struct Envoy__Config__Cluster__V3__Cluster;

/* What a pick may look at. On the caller's stack. Worker thread. */
struct weft_lb_ctx {
	bool has_hash;
	uint64_t hash;	 /* from the route's hash policy */
	uint64_t random; /* fresh for each pick: weft_rand64() */
	uint64_t *seq;	 /* the worker's counter for the list at hand: round robin and the like
			    advance it */
	uint64_t now_ns; /* for slow start */
	const struct weft_sockaddr
		*downstream_local; /* original destination, for original_dst; NULL */
	const char *override_host; /* "ip:port" to prefer; NULL */
	/* Retry: false refuses a host; the pick is tried again up to max_tries. NULL: none. */
	bool (*accept)(void *owner, const struct weft_endpoint_entry *e);
	/* Retry: changes priority loads (previous_priorities): pct[n], sum 100; there[n]: how much
	 * of each could serve, 0..100. NULL: none. */
	void (*priorities)(void *owner, uint32_t *pct, const uint32_t *there, size_t n);
	void *owner;
	unsigned max_tries; /* 0: 1 */
	unsigned attempt;   /* set by the balancer: how many picks accept() refused already */
	/* ORIGINAL_DST: the value of weft_cluster.original_dst_header; NULL: not there */
	const char *original_dst;
};
/* The hosts of one list (a priority's healthy hosts, or one locality's of it), with effective
 * weights. */
struct weft_lb_list {
	const struct weft_endpoint_entry *const *v;
	const double *weights; /* host weight, slow start aside */
	size_t n;
	bool same_weights;
	struct weft_scope *scope; /* of the cluster, for what a table tells of itself; NULL */
};
/* Hosts that became healthy less than the window ago get less. */
struct weft_slow_start {
	uint64_t window_ns;
	double exponent;   /* 1 / aggression */
	double min_factor; /* 0.1 */
};
struct weft_locality_conf { /* of LocalityLbConfig */
	bool weighted;	    /* locality_weighted_lb_config; else zone-aware where that can be */
	bool fail_on_panic, force_local, by_weight;
	uint32_t routing_enabled_pct; /* 100 */
	uint64_t min_cluster_size;    /* 6 */
	uint32_t force_local_min;
};
/* First member of every policy's conf: what the balancer reads of it. */
struct weft_lb_common {
	struct weft_locality_conf locality;
	struct weft_slow_start slow; /* window 0: none */
};
struct weft_lb_policy {
	struct weft_ext
		ext; /* config: e.g.
			envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin */
	/* One table a priority, locality weights inside the hosts' weights; picks by ctx->hash. */
	bool by_hash;
	/* The message of ext.config that a cluster without load_balancing_policy means by lb_policy
	 * and the fields that go with it, in a; NULL: it means another policy. */
	const ProtobufCMessage *(*of_cluster)(struct weft_arena *a,
					      const struct Envoy__Config__Cluster__V3__Cluster *m);
	/* Makes the table of a list (may be the list itself). Main thread; in a; immutable. */
	int (*build)(struct weft_arena *a, const struct weft_lb_list *l, const void *conf,
		     const void **ret_table, struct weft_err *reterr);
	/* Index in the list; n is never 0. Pure: no lock, no clock of its own. Worker thread. */
	size_t (*pick)(const void *table, const struct weft_lb_list *l, const void *conf,
		       struct weft_lb_ctx *ctx);
};
#define LB_POLICY(name) extern const struct weft_lb_policy weft_lb_##name;
#include "proxy/upstream/lb/policies.def"
#undef LB_POLICY
/* All of policies.def; NULL: no more. */
const struct weft_lb_policy *weft_lb_policy_at(size_t i);
/* By the type of its message; NULL: none. */
const struct weft_lb_policy *weft_lb_policy_find(const ProtobufCMessageDescriptor *config);

/* Immutable, refcounted: a cluster's hosts split by priority, health and locality, with the
 * policies' tables. Made on the main thread whenever hosts or their health change; sent to workers.
 */
struct weft_balancer;
struct weft_cluster;
/* What zone-aware routing looks at besides. */
struct weft_lb_local {
	const struct weft_hosts *hosts; /* of the local cluster; NULL: no zone-aware routing */
	struct weft_locality at;	/* where we are */
};
/* c outlives it; takes a reference of hosts. local may be NULL, and is read during the call. */
struct weft_balancer *weft_balancer_new(const struct weft_cluster *c, struct weft_hosts *hosts,
					const struct weft_lb_local *local, struct weft_err *reterr);
struct weft_hosts *weft_balancer_hosts(const struct weft_balancer *b); /* borrowed */
void weft_balancer_ref(struct weft_balancer *b);
void weft_balancer_unref(struct weft_balancer *b);
/* Memory of a worker for one cluster: sequence counters of its lists. Survives a new balancer. */
struct weft_lb_memory;
/* The entry picked (valid while b is held), or NULL: no host; *ret_drop set: dropped by
 * drop_overloads. */
const struct weft_endpoint_entry *weft_balancer_pick(const struct weft_balancer *b,
						     struct weft_lb_memory *m,
						     struct weft_lb_ctx *ctx,
						     const char **ret_drop);
/* Whether the priority's load (healthy and degraded), in percent, and panic; for admin and tests.
 */
void weft_balancer_load(const struct weft_balancer *b, uint32_t priority, uint32_t *ret_healthy,
			uint32_t *ret_degraded, bool *ret_panic);
struct weft_lb_memory *weft_lb_memory_new(void);
void weft_lb_memory_free(struct weft_lb_memory *m);
