/* What the parts of proxy/upstream need of each other: parsed options that no other layer reads,
 * and the hooks between the manager of clusters (cluster.c) and transports, DNS, health checks,
 * pools. Included by proxy/upstream only. */
#pragma once
#include "proxy/upstream/cluster.h"
#include "xds/cfg.h"

struct event_base;
struct weft_take;
extern const struct weft_scope_class weft_cluster_scope; /* "cluster", of stats.def */

struct weft_bind {			/* upstream_bind_config */
	struct weft_sockaddr source[2]; /* one a family; family 0: none */
	bool freebind;
	const Envoy__Config__Core__V3__SocketOption *const *options;
	size_t n_options;
};
struct weft_cluster_priv {
	struct weft_clusters *manager; /* outlives workers */
	/* upstream_connection_options.tcp_keepalive; all 0: off */
	uint32_t keep_idle_s, keep_interval_s, keep_probes;
	struct weft_bind bind;
	bool pool_per_downstream; /* connection_pool_per_downstream_connection */
	bool auto_sni, auto_san;
	const char *auto_sni_header;	   /* NULL: :authority */
	uint32_t per_host_max_connections; /* per_host_thresholds; UINT32_MAX: none */
	/* Endpoints that need more than their host (all hosts: NULL). */
	const struct weft_original_dst_conf *original_dst; /* type ORIGINAL_DST */
	const struct weft_locality_conf *locality; /* balancer.c: panic, zone-aware, weights */
	bool ignore_new_hosts_until_first_hc, close_on_host_set_change, ignore_health_on_removal;
	unsigned merge_window_ms, cleanup_ms;
	uint32_t panic_pct;	    /* healthy_panic_threshold; 0: no panic mode */
	uint32_t override_statuses; /* bits 1 << HealthStatus */
};

/* ---- transport.c. Main thread, but where said. */
/* From cl->msg (transport_socket, transport_socket_matches), its type and options; lives as long as
 * the cluster. 0 or -EINVAL with errors in c->errs. */
int weft_transport_new(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		       struct weft_transport **ret);
void weft_transport_free(struct weft_transport *t); /* any thread; NULL is fine */
/* The i-th secret wanted by SDS, or false: no more. */
bool weft_transport_secret_at(const struct weft_transport *t, size_t i,
			      const Envoy__Config__Core__V3__ConfigSource **ret_source,
			      const char **ret_name);
/* Every secret it needs is there. */
bool weft_transport_ready(const struct weft_transport *t);
/* A secret came or changed; new connections use it, open ones stay. -EINVAL with errors: the old
 * one stays. Names not wanted are fine. */
int weft_transport_secret(struct weft_transport *t, struct weft_cfg *c, const char *name,
			  const Envoy__Extensions__TransportSockets__Tls__V3__Secret *msg);

/* ---- dns.c: names of a cluster resolved again and again. Main thread. */
struct weft_dns;
/* Checks cl->msg's dns options (dns_lookup_family, refresh rates, resolvers). */
int weft_dns_check(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Cluster__V3__Cluster *msg);
/* Starts to resolve the names; answer() comes from the loop, at least once a name. err 0: these are
 * the addresses (n may be 0: the name has none); < 0: could not be resolved, keep what was. names
 * are copied; the options are cl->msg's, cl is not kept beyond weft_dns_stop. */
struct weft_dns *weft_dns_start(struct event_base *base, struct weft_cluster *cl,
				const char *const *names, size_t n,
				void (*answer)(void *owner, size_t i, int err,
					       const struct weft_ip *ips, size_t n_ips),
				void *owner);
void weft_dns_stop(struct weft_dns *d); /* no answer() after it; NULL is fine; not from answer() */

/* ---- health.c: active checks. Main thread. */
struct weft_health;
/* Prepares cl->msg->health_checks into cl->health, cl->n_health. */
int weft_health_prepare(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl);
/* changed(): a host's flags changed (h NULL: several); first(): every host of the first set was
 * checked once. Both from the loop. It sets WEFT_HOST_FAILED_ACTIVE_HC, PENDING and so on by atomic
 * operations, and made_ns when a host becomes healthy. w: the main thread's worker; NULL: base
 * only. */
struct weft_health *weft_health_start(struct event_base *base, struct weft_cluster *cl,
				      void (*changed)(void *owner, struct weft_host *h),
				      void (*first)(void *owner), void *owner);
/* passed(): a host that is ejected passed a check, and is not failed by them. */
void weft_health_on_pass(struct weft_health *hc, void (*passed)(void *owner, struct weft_host *h));
/* The set of hosts from now on: new ones are checked at once, gone ones no more. */
void weft_health_hosts(struct weft_health *hc, struct weft_hosts *hosts);
/* A worker asked for a look at h (weft_clusters_eject_look): tells changed() when an answer of it
 * failed its health check (weft_health_fail_now). */
void weft_health_look(struct weft_health *hc, struct weft_host *h);
void weft_health_stop(struct weft_health *hc); /* NULL is fine; also from changed() and first() */

/* ---- pool.c. Worker thread. */
struct weft_pools *weft_pools_new(struct weft_wcluster *wc); /* wc outlives it */
void weft_pools_free(struct weft_pools *p);		     /* closes what is idle; NULL is fine */
/* The host left the set: connections without requests close at once, the others after their last
 * one. */
void weft_pools_host_gone(struct weft_pools *p, struct weft_host *h);
/* It failed its check or was ejected: those that are open likewise, as in Envoy whatever is
 * configured; close_tcp (close_connections_on_host_health_failure): TCP streams are cut. */
void weft_pools_host_failed(struct weft_pools *p, struct weft_host *h, bool close_tcp);
/* The cluster was replaced or removed: as host_gone for all. Leases stay good. */
void weft_pools_drain(struct weft_pools *p);

/* ---- cluster.c */
/* Tells the main thread that a host's outlier state wants a look; outlier.c. Any thread; what
 * comes when the manager is gone is forgotten. */
void weft_clusters_eject_look(struct weft_cluster *cl, struct weft_host *h);
