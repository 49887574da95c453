/* Active health checks of one cluster's hosts. Main thread. Results are the hosts' flags; whoever
 * made it rebuilds the balancer when it is told so. */
#pragma once
#include "proxy/upstream/cluster.h"
#include "xds/cfg.h"

struct weft_hc_conf;
/* Reads health_checks: *ret[*ret_n], in c->arena. Scope items: health_check.*. */
int weft_hc_prepare(struct weft_cfg *c, const struct weft_path *at,
		    const Envoy__Config__Cluster__V3__Cluster *m, const struct weft_hc_conf **ret,
		    size_t *ret_n);

struct weft_health;
struct weft_health_conf {
	struct event_base *base;
	struct weft_cluster *cluster; /* health, n_health, transport, scope; referenced */
	/* Flags of a host changed in a way that matters to balancing. Also called when it should be
	 * taken out at once: became_unhealthy (close_connections_on_host_health_failure). */
	void (*changed)(void *owner, struct weft_host *h, bool became_unhealthy);
	/* Each host of the set was checked once (or there is none); called once, from the loop. */
	void (*first)(void *owner);
	void *owner;
	const char *node_id; /* for nothing but user agents; NULL */
};
/* NULL: the cluster has no checks. */
struct weft_health *weft_health_new(const struct weft_health_conf *conf);
/* The cluster's hosts are these now. New ones get PENDING_ACTIVE_HC and FAILED_ACTIVE_HC until
 * checked (the caller sets nothing); those that left are no longer checked. */
void weft_health_hosts(struct weft_health *h, struct weft_hosts *hosts);
void weft_health_free(struct weft_health *h);
