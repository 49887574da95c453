/* Clusters: what configuration says (struct weft_cluster: immutable, refcounted, shared by all
 * threads), who manages them (struct weft_clusters: main thread: adds, warms, feeds endpoints,
 * checks health) and what a worker holds (struct weft_wcluster: balancer, pools). One changed
 * endpoint touches one cluster, however many there are. */
#pragma once
#include "proxy/core/scope.h"
#include "proxy/net/io.h"
#include "proxy/session/session.h"
#include "proxy/upstream/lb.h"
#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/proto/envoy/config/endpoint/v3/endpoint.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/secret.pb-c.h"

struct weft_worker;
enum weft_priority { WEFT_PRIORITY_DEFAULT, WEFT_PRIORITY_HIGH, WEFT_PRIORITIES };
enum weft_cluster_type {
	WEFT_CLUSTER_STATIC,
	WEFT_CLUSTER_STRICT_DNS,
	WEFT_CLUSTER_LOGICAL_DNS,
	WEFT_CLUSTER_EDS,
	WEFT_CLUSTER_ORIGINAL_DST
};
enum weft_upstream_http {
	WEFT_UP_H1,
	WEFT_UP_H2,
	WEFT_UP_AUTO /* ALPN */,
	WEFT_UP_DOWNSTREAM /* as the request came */
};

/* Index of the cluster scope's items: stats.def has STAT(name, kind, "help"), and STAT_AS(id,
 * "name", kind, "help") where the name has dots. */
enum weft_cluster_stat {
#define STAT(name, kind, help) WEFT_CLUSTER_##name,
#include "proxy/upstream/stats.def"
#undef STAT
};
struct weft_breaker { /* one priority's limits and what is open; the limits never change, the rest
			 is atomic */
	uint32_t max_connections, max_pending, max_requests, max_retries, max_pools;
	double budget_pct; /* retry budget; < 0: none, max_retries holds */
	uint32_t budget_min;
	bool track_remaining;
	_Atomic uint32_t connections, pending, requests, retries, pools;
};
struct weft_transport; /* transport.c: raw, TLS contexts, PROXY protocol; per endpoint match */
struct weft_outlier_conf;
struct weft_hc_conf;
struct weft_cluster {
	_Atomic unsigned refs;
	struct weft_arena *arena;
	const Envoy__Config__Cluster__V3__Cluster
		*msg; /* in the arena, or in a reference the arena holds */
	const char *name, *alt_stat_name;
	uint64_t id; /* new for each configuration of the same name */
	enum weft_cluster_type type;
	struct weft_scope *scope;
	const struct weft_lb_policy *lb;
	const void *lb_conf;
	unsigned connect_ms;
	uint32_t buffer_bytes;
	struct weft_breaker *breaker; /* [WEFT_PRIORITIES] */
	struct weft_transport *transport;
	/* HTTP */
	enum weft_upstream_http http;
	struct weft_session_conf session_h1, session_h2;
	uint32_t max_requests_per_connection;		    /* 0: no limit */
	unsigned idle_ms, max_connection_ms, max_stream_ms; /* 0: none; idle default 1 h */
	double preconnect_ratio;			    /* 1.0 */
	uint32_t max_response_headers;
	bool close_on_health_failure, drain_on_host_removal, round_trip_per_host_stats;
	/* ORIGINAL_DST with use_http_header: the request header to put into
	 * weft_lb_ctx.original_dst (lower case); NULL: none. */
	const char *original_dst_header;
	const struct weft_outlier_conf *outlier; /* NULL */
	const struct weft_hc_conf *health;	 /* NULL */
	size_t n_health;
	/* More the parts need is declared in cluster_priv.h. */
	struct weft_cluster_priv *priv;
};
void weft_cluster_ref(struct weft_cluster *c);
void weft_cluster_unref(struct weft_cluster *c); /* any thread */

/* ---- main thread */
struct weft_clusters;
struct weft_clusters_conf {
	struct event_base *base;
	struct weft_worker *const *workers;
	size_t n_workers;
	/* Endpoint and secret subscriptions, made by whoever speaks xDS. eds: begins or (on false)
	 * ends to want the endpoints of that service name; weft_clusters_endpoints answers. Secrets
	 * likewise by weft_clusters_secret. */
	void (*want_endpoints)(void *owner, const Envoy__Config__Core__V3__ConfigSource *cs,
			       const char *service, bool on);
	void (*want_secret)(void *owner, const Envoy__Config__Core__V3__ConfigSource *cs,
			    const char *name, bool on);
	/* One that is there already, as another cluster or a listener wanted it before; NULL: wait
	 * for it. May be NULL. */
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *(*have_secret)(
		void *owner, const char *name);
	/* The cluster went live (warmed: hosts known, secrets there, first health check done), or
	 * left. */
	void (*live)(void *owner, const char *name, bool on);
	/* A host was ejected or came back: a line of JSON as Envoy's event_log_path has it; NULL.
	 */
	void (*outlier_event)(void *owner, const char *line, size_t n);
	void *owner;
	const char *local_cluster;  /* cluster_manager.local_cluster_name; NULL */
	struct weft_locality local; /* of the bootstrap's node */
};
struct weft_clusters *weft_clusters_new(const struct weft_clusters_conf *conf);
/* cluster_manager.upstream_bind_config: of clusters that have none of their own, if they are set
 * after it. m is not copied. 0, -EINVAL. */
int weft_clusters_bind(struct weft_clusters *m, struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__BindConfig *msg);
void weft_clusters_free(struct weft_clusters *m); /* workers must be stopped */
/* Adds or replaces; the old one of that name serves until the new one is warm. m is copied. An
 * equal message changes nothing and returns 0; changed: 1. Errors (checked before anything changes)
 * in c. c->arena is not kept. */
int weft_clusters_set(struct weft_clusters *m, struct weft_cfg *c, const struct weft_path *at,
		      const Envoy__Config__Cluster__V3__Cluster *msg, const char *version,
		      bool from_xds);
int weft_clusters_remove(struct weft_clusters *m, const char *name); /* -ENOENT; -EPERM: static */
int weft_clusters_endpoints(struct weft_clusters *m, struct weft_cfg *c, const struct weft_path *at,
			    const char *service,
			    const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *msg,
			    const char *version);
void weft_clusters_endpoints_gone(struct weft_clusters *m,
				  const char *service); /* removed, or the fetch timed out */
int weft_clusters_secret(struct weft_clusters *m, struct weft_cfg *c, const char *name,
			 const Envoy__Extensions__TransportSockets__Tls__V3__Secret *msg);
struct weft_cluster *weft_clusters_find(struct weft_clusters *m,
					const char *name); /* active one; borrowed; NULL */
size_t weft_clusters_count(const struct weft_clusters *m, size_t *ret_warming);
/* Each cluster, active and warming, in order of name; for admin. hosts may be NULL. */
struct weft_cluster_view {
	const struct weft_cluster *cluster;
	const struct weft_hosts *hosts;
	const char *version, *eds_version;
	uint64_t updated_s;
	bool warming, from_xds;
};
void weft_clusters_each(struct weft_clusters *m,
			void (*fn)(void *ctx, const struct weft_cluster_view *v), void *ctx);

/* ---- worker thread */
struct weft_wcluster { /* this worker's; live while it is in the worker's table, or a lease or io of
			  it is open */
	unsigned refs;
	struct weft_worker *w;
	struct weft_cluster *cluster;
	struct weft_balancer *balancer;
	struct weft_lb_memory *memory;
	struct weft_pools *pools;
};
/* By name, in the worker's table; NULL: not there. Borrowed during the callback; weft_wcluster_ref
 * to keep. */
struct weft_wcluster *weft_wcluster_find(struct weft_worker *w, const char *name);
void weft_wcluster_ref(struct weft_wcluster *wc);
void weft_wcluster_unref(struct weft_wcluster *wc);
/* A host for the next request or connection, referenced, or NULL and *ret_why (static:
 * "no_healthy_upstream", "drop_overload" …). *ret_entry (may be NULL as argument) is valid during
 * the callback. */
struct weft_host *weft_wcluster_pick(struct weft_wcluster *wc, struct weft_lb_ctx *ctx,
				     const struct weft_endpoint_entry **ret_entry,
				     const char **ret_why);
