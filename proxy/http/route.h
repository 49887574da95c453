/* Routes: a RouteConfiguration compiled once, found fast. 10,000 prefixes or hosts cost about what
 * one costs. Immutable and refcounted; the tables of the process are fed by RDS on the main thread
 * and reach workers whole. */
#pragma once
#include "proxy/core/scope.h"
#include "proxy/l4/als.h"
#include "proxy/l4/info.h"
#include "proxy/session/headers.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route_components.pb-c.h"

struct weft_routes; /* one RouteConfiguration */
struct weft_vhost;
struct weft_retry_policy;

enum weft_route_action {
	WEFT_ROUTE_FORWARD,
	WEFT_ROUTE_REDIRECT,
	WEFT_ROUTE_DIRECT,
	WEFT_ROUTE_NON_FORWARDING
};
struct weft_mirror {
	const char *cluster; /* NULL: cluster_header */
	const char *cluster_header;
	uint32_t fraction;  /* per million */
	bool append_shadow; /* host gets "-shadow" */
	bool trace_sampled;
};
struct weft_route {
	const struct weft_vhost *vhost;
	const struct weft_routes
		*routes; /* holds everything: referenced by whoever keeps a route */
	const Envoy__Config__Route__V3__Route *msg;
	const char *name; /* "" */
	enum weft_route_action action;
	/* FORWARD */
	const char *cluster;	 /* of the choice made for this request: weft_route_cluster() */
	int64_t timeout_ms;	 /* 15,000; 0: none */
	int64_t idle_timeout_ms; /* -1: the connection manager's; 0: none */
	int64_t max_stream_ms;	 /* -1: the connection manager's */
	int64_t grpc_timeout_max_ms, grpc_timeout_offset_ms; /* -1: grpc-timeout is not used */
	int64_t max_grpc_ms, grpc_offset_ms;   /* their deprecated forerunners; -1: not said */
	const struct weft_retry_policy *retry; /* NULL */
	const struct weft_mirror *mirrors;
	size_t n_mirrors;
	uint8_t priority;	  /* enum weft_priority */
	int64_t flush_timeout_ms; /* -1: the connection manager's */
	uint64_t body_limit;	  /* of a request's body kept for retries and mirrors */
	struct weft_scope *stats; /* vhost.V.route.PREFIX; NULL: no stat_prefix */
	bool hedge_on_try_timeout, include_timeout_retry;
	bool auto_host_rewrite, has_hash, internal_redirect, include_attempt_count,
		include_attempt_count_in_response, is_tunnel /* CONNECT is terminated here */,
		upgrade_set;
	struct weft_route_priv *priv;
};
/* What a match looks at. On the stack. */
struct weft_route_in {
	const struct weft_headers *h;
	const struct weft_info *info;
	uint64_t random;
	bool tls; /* scheme for require_tls */
};
/* Compiles. Errors have paths under `at`. *ret is referenced once. Extension configs for filters
 * are prepared here. */
int weft_routes_new(struct weft_cfg *c, const struct weft_path *at,
		    const Envoy__Config__Route__V3__RouteConfiguration *m,
		    struct weft_routes **ret);
/* The arena that it and its message live in is freed with the last reference. Without this it
 * belongs to another's arena (a listener's). */
void weft_routes_own(struct weft_routes *r, struct weft_arena *a);
const Envoy__Config__Route__V3__RouteConfiguration *weft_routes_msg(const struct weft_routes *r);
void weft_routes_ref(const struct weft_routes *r);
void weft_routes_unref(const struct weft_routes *r); /* any thread */
const char *weft_routes_name(const struct weft_routes *r);
/* The route for a request, or NULL. *ret_redirect: require_tls wants a redirect to https (then
 * NULL). Pure. */
const struct weft_route *weft_routes_find(const struct weft_routes *r,
					  const struct weft_route_in *in, bool *ret_tls_redirect);
/* Weighted clusters and cluster_header: the cluster for this request, and *ret_pick the weighted
 * entry (NULL: none). The name lives as long as the routes and the headers. NULL: cluster_header is
 * missing. */
struct weft_weighted;
const char *weft_route_cluster(const struct weft_route *r, const struct weft_route_in *in,
			       const struct weft_weighted **ret_pick);
/* Changes the request as the route wants before it is sent: rewrites, header options of route,
 * weighted entry, vhost, table. */
void weft_route_request(const struct weft_route *r, const struct weft_weighted *w,
			const struct weft_format_in *in, struct weft_headers *h);
/* Response header options, in Envoy's order. */
void weft_route_response(const struct weft_route *r, const struct weft_weighted *w,
			 const struct weft_format_in *in, struct weft_headers *h);
/* REDIRECT: status and Location in the arena. */
int weft_route_redirect(const struct weft_route *r, const struct weft_route_in *in,
			struct weft_arena *a, const char **ret_location);
/* DIRECT: status; *ret_body may be "". */
int weft_route_direct(const struct weft_route *r, const struct weft_format_in *in,
		      const char **ret_body, size_t *ret_n, const struct weft_format **ret_format);
/* Hash policies; false: none gave a hash. set_cookie (arena, may be NULL): a cookie to be set on
 * the answer. */
bool weft_route_hash(const struct weft_route *r, const struct weft_route_in *in,
		     struct weft_arena *a, uint64_t *ret, const char **ret_set_cookie);
/* Configuration of a filter for this route: of the weighted entry, route, virtual host, table: the
 * most specific; NULL: none. *ret_disabled: the filter is switched off here. name: the filter's
 * name in the chain. */
const void *weft_route_filter_conf(const struct weft_route *r, const struct weft_weighted *w,
				   const char *name, bool *ret_disabled);
/* Of all levels, the most specific first; how many of the four have one. */
size_t weft_route_filter_confs(const struct weft_route *r, const struct weft_weighted *w,
			       const char *name, const void *ret[4]);
/* Upgrade permission ("websocket";
 * -1: not said). */
int weft_route_upgrade(const struct weft_route *r, const char *type);
/* Why no route: for explain and logs: walks in order and says each mismatch. Text into out. */
void weft_routes_explain(const struct weft_routes *r, const struct weft_route_in *in,
			 struct evbuffer *out);
/* False: weft_route_filter_conf would find nothing for any name. */
bool weft_route_has_filter_confs(const struct weft_route *r, const struct weft_weighted *w);
/* auto_host_rewrite, once the host is chosen. */
void weft_route_host_auto(const struct weft_route *r, struct weft_headers *h, const char *hostname);
const char *weft_vhost_name(const struct weft_vhost *v);
const Envoy__Config__Route__V3__VirtualHost *weft_vhost_msg(const struct weft_vhost *v);
/* metadata_match of a weighted entry; NULL. */
const Envoy__Config__Core__V3__Metadata *weft_weighted_metadata(const struct weft_weighted *w);
/* A predicate of internal redirects allows this route (allow_listed_routes). */
bool weft_route_allowed_redirect(const struct weft_route *r, const char *to);
