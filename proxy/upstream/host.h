/* An upstream host and the sets of hosts a cluster has. A host lives as long as any set, connection
 * or request that uses it; it is the same object across endpoint updates as long as its address
 * stays (weights and metadata stand in the set). The fields marked atomic are the only mutable
 * things reachable from a snapshot. */
#pragma once
#include "proxy/core/addr.h"
#include "xds/proto/envoy/config/core/v3/base.pb-c.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum weft_host_flag { /* bits of weft_host.flags; any set of the first six: not healthy */
		      WEFT_HOST_FAILED_ACTIVE_HC = 1,
		      WEFT_HOST_FAILED_OUTLIER = 2,
		      WEFT_HOST_FAILED_EDS = 4,
		      WEFT_HOST_PENDING_ACTIVE_HC = 8, /* never checked yet */
		      WEFT_HOST_DRAINING_EDS = 16,
		      WEFT_HOST_EXCLUDED_IMMEDIATE_HC = 32,
		      WEFT_HOST_DEGRADED_ACTIVE_HC = 64,
		      WEFT_HOST_DEGRADED_EDS = 128,
		      WEFT_HOST_PENDING_REMOVAL = 256,
};
struct weft_locality {
	const char *region, *zone, *sub_zone; /* "" */
};
struct weft_host_outlier; /* outlier.c */
struct weft_host {
	_Atomic unsigned refs;
	struct weft_sockaddr addr;
	const char *unix_path; /* instead of addr; else NULL */
	/* Of a host of several addresses: all of them in the order they are tried; else NULL. Main
	 * thread; others by weft_host_tries. */
	const struct weft_sockaddr *tries;
	size_t n_tries;
	pthread_mutex_t tries_lock;	 /* taken once a dial */
	struct weft_sockaddr *tries_own; /* tries, where they changed since it was made */
	const char *text;		 /* "10.0.0.1:80" or the path, for logs */
	const char *hostname;		 /* "" */
	struct weft_sockaddr hc_addr;	 /* where health checks go */
	const char *hc_hostname;
	bool hc_disabled;	/* health_check_config.disable_active_health_check */
	uint64_t hash;		/* of text, for consistent hashing */
	_Atomic uint32_t flags; /* enum weft_host_flag */
	_Atomic uint32_t rq_active, cx_active;
	_Atomic uint64_t rq_total, rq_success, rq_error, rq_timeout, cx_total, cx_connect_fail;
	_Atomic uint64_t made_ns; /* slow start: when it became healthy (CLOCK_MONOTONIC) */
	struct weft_host_outlier *outlier; /* NULL: no detection */
	struct weft_arena *arena;
};
void weft_host_ref(struct weft_host *h);
void weft_host_unref(struct weft_host *h); /* any thread; NULL is fine */
/* What a new host is made of; read during the call. */
struct weft_host_conf {
	struct weft_sockaddr addr;
	const char *unix_path, *hostname, *hc_hostname; /* NULL: none */
	struct weft_sockaddr hc_addr;			/* family 0: as addr */
	bool hc_disabled;
	const struct weft_sockaddr *tries; /* NULL: addr alone */
	size_t n_tries;
	bool logical; /* tries are what its name stands for now, and may change while it lives */
};
struct weft_host *weft_host_new(const struct weft_host_conf *c); /* one reference */
bool weft_host_is(const struct weft_host *h, const struct weft_host_conf *c);
/* A logical host's name stands for others now: who dials from now on has them. Main thread. */
void weft_host_tries_set(struct weft_host *h, const struct weft_host_conf *c);
/* Copies at most max; 0: addr alone. Any thread. */
size_t weft_host_tries(struct weft_host *h, struct weft_sockaddr *v, size_t max);
bool weft_host_healthy(const struct weft_host *h); /* no flag at all: degraded is not healthy */
bool weft_host_degraded(const struct weft_host *h);

/* One endpoint as the current update has it. */
struct weft_endpoint_entry {
	struct weft_host *host; /* referenced */
	uint32_t weight;	/* 1.. */
	uint32_t priority;
	uint32_t locality; /* index in weft_hosts.localities */
	bool canary;
	const Envoy__Config__Core__V3__Metadata *metadata; /* in the set's arena; NULL */
	const Envoy__Config__Core__V3__Metadata *locality_metadata;
};
struct weft_locality_entry {
	struct weft_locality id;
	uint32_t weight; /* load_balancing_weight; 0: none given */
	uint32_t priority;
};
/* Immutable, refcounted: all hosts of a cluster at one time, health aside. Ordered by priority,
 * then locality. */
struct weft_hosts {
	_Atomic unsigned refs;
	struct weft_arena *arena;
	const struct weft_endpoint_entry *v;
	size_t n;
	const struct weft_locality_entry *localities;
	size_t n_localities;
	uint32_t n_priorities;
	uint32_t overprovisioning_pct; /* 140 */
	bool weighted_priority_health;
	struct weft_drop {
		const char *category;
		uint32_t per_million;
	} *drops;
	size_t n_drops;
};
void weft_hosts_ref(struct weft_hosts *h);
void weft_hosts_unref(struct weft_hosts *h);
