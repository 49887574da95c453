/* Inside of route*.c only: routes as compiled. */
#pragma once
#include "proxy/http/header_ops.h"
#include "proxy/http/ratelimit_actions.h"
#include "proxy/http/retry.h"
#include "proxy/http/route.h"
#include "proxy/policy/match.h"

enum route_path {
	PATH_PREFIX,
	PATH_EXACT,
	PATH_SEPARATED,
	PATH_REGEX,
	PATH_TEMPLATE,
	PATH_CONNECT
};
struct weft_template; /* URI template: route_template.c */

struct weft_weighted {
	const char *cluster, *cluster_header;
	uint64_t upto; /* sum of weights so far */
	const char *host_rewrite;
	struct weft_hdrops req, resp;
	const struct route_filters *filters;
	const Envoy__Config__Core__V3__Metadata *metadata_match;
};
struct route_filter {
	const char *name;
	const void *conf;
	bool disabled;
};
struct route_filters {
	const struct route_filter *v;
	size_t n;
};
enum hash_kind { HASH_HEADER, HASH_COOKIE, HASH_SOURCE_IP, HASH_QUERY };
struct route_hash {
	enum hash_kind kind;
	bool terminal, make_cookie, has_rewrite;
	const char *name;
	enum weft_hid id;
	struct weft_rewrite rewrite;
	int64_t ttl_s;		/* -1: a cookie that is found only, 0: of the browser session */
	const char *attributes; /* "; Path=/; Secure" */
};
struct route_redirect {
	int status;
	const char *host, *path, *scheme, *prefix;
	bool https, strip_query, has_regex;
	struct weft_rewrite regex;
	uint32_t port;
};
struct route_upgrade {
	const char *type;
	bool enabled, connect;
};
struct weft_route_priv {
	enum route_path kind;
	const char *path;
	size_t path_n;
	bool ignore_case, grpc, has_tls;
	const struct weft_regex *regex;
	const struct weft_template *tmpl, *tmpl_rewrite;
	const struct weft_hdrmatch *headers;
	size_t n_headers;
	const struct weft_querymatch *query;
	size_t n_query;
	const struct weft_metamatch *meta;
	size_t n_meta;
	int8_t tls_presented, tls_validated; /* -1: not asked */
	uint32_t fraction;		     /* per million; 1,000,000: always */
	bool plain;			     /* nothing but the path decides */
	/* forwarding */
	const char *cluster, *cluster_header;
	const struct weft_weighted *weighted;
	size_t n_weighted;
	uint64_t weights;
	const char *weight_header;
	bool weight_hash;
	const char *prefix_rewrite, *host_literal, *host_header;
	bool has_regex_rewrite, has_host_regex, append_forwarded_host;
	struct weft_rewrite regex_rewrite, host_regex;
	struct weft_hdrops req, resp;
	const struct route_filters *filters;
	const struct weft_ratelimits *ratelimits; /* NULL */
	const struct route_hash *hash;
	size_t n_hash;
	const struct route_upgrade *upgrades;
	size_t n_upgrades;
	struct route_redirect *redirect;
	char *const *redirect_to; /* routes that internal redirects may go to */
	size_t n_redirect_to;
	/* direct response */
	int status;
	const char *body;
	size_t body_n;
	const struct weft_format *body_format;
};
struct route_trie;
struct route_vclusters;
struct weft_vhost {
	const char *name;
	const struct weft_routes *routes;
	const struct weft_route *v;
	size_t n;
	struct route_trie *trie, *trie_nocase; /* NULL: none */
	const uint32_t *rest;		       /* routes that no trie has, ascending */
	size_t n_rest;
	int require_tls;
	struct weft_hdrops req, resp;
	const struct route_filters *filters;
	const struct weft_ratelimits *ratelimits; /* NULL */
	const struct route_vclusters *vclusters;  /* NULL */
	bool hedge;
	const Envoy__Config__Route__V3__VirtualHost *msg;
	const char *const *domains;
	size_t n_domains;
};
struct domain_slot {
	const char *name;
	uint32_t n;
	const struct weft_vhost *vhost;
};
struct domain_table { /* open addressing; domains of one kind, for wildcards of one length */
	struct domain_slot *v;
	size_t mask;
	size_t len;
};
struct weft_routes {
	_Atomic unsigned refs;
	struct weft_arena *owned; /* freed with the last reference; NULL: it lives in another's */
	const Envoy__Config__Route__V3__RouteConfiguration *msg;
	const char *name;
	struct weft_vhost *v;
	size_t n;
	struct domain_table exact;
	struct domain_table *suffix, *prefix; /* longest first */
	size_t n_suffix, n_prefix;
	const struct weft_vhost *any;
	bool ignore_port, ignore_params, most_specific;
	const char *vhost_header;
	struct weft_hdrops req, resp;
	const struct route_filters *filters;
};

/* The path without query and fragment. */
size_t route_path_len(const char *path, size_t n);

/* ---- route_trie.c */
enum { ROUTE_DEPTH_MAX = 64 }; /* lists met on one way down; */
struct route_list {
	const uint32_t *v; /* ascending */
	size_t n;
};
struct route_trie *route_trie_new(struct weft_arena *a);
/* Routes are added in their order. */
void route_trie_add(struct route_trie *t, const char *path, size_t n, enum route_path kind,
		    uint32_t route);
bool route_trie_seal(struct route_trie *t); /* false: nested too deep for route_trie_find */
size_t route_trie_find(const struct route_trie *t, const char *path, size_t n,
		       struct route_list ret[ROUTE_DEPTH_MAX]);

/* ---- route_template.c */
int route_template_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			   const struct weft_template **ret);
int route_template_rewrite_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
				   const struct weft_template *match,
				   const struct weft_template **ret);
bool route_template_match(const struct weft_template *t, const char *path, size_t n);
const char *route_template_rewrite(const struct weft_template *rewrite,
				   const struct weft_template *match, const char *path, size_t n,
				   struct weft_arena *a, size_t *ret_n);

/* The newer field goes first; what is kept without any is the connection's limit in Envoy. */
enum { ROUTE_BODY_LIMIT = 1 << 20 };
static inline uint64_t route_body_limit(const Envoy__Config__Route__V3__VirtualHost *v,
					const Envoy__Config__Route__V3__Route *r)
{
	const Google__Protobuf__UInt64Value *newer =
		r->request_body_buffer_limit ?: v->request_body_buffer_limit;
	const Google__Protobuf__UInt32Value *older =
		r->per_request_buffer_limit_bytes ?: v->per_request_buffer_limit_bytes;

	return newer ? newer->value : older ? older->value : ROUTE_BODY_LIMIT;
}

/* ---- vcluster.c */
int route_vclusters_prepare(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Config__Route__V3__VirtualHost *m,
			    const struct route_vclusters **ret);

/* ---- route_stats.c */
struct weft_scope *route_stats_new(struct weft_cfg *c, const char *vhost, const char *prefix);

/* ---- route_conf.c, route_conf_action.c */
int route_prepare(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Route__V3__Route *m, struct weft_route *r);
int route_action_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Route__V3__RouteAction *m, struct weft_route *r);
int route_redirect_prepare(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Config__Route__V3__RedirectAction *m, struct weft_route *r);
int route_filters_prepare(struct weft_cfg *c, const struct weft_path *at, void *const *entries,
			  size_t n, const struct route_filters **ret);
int route_mirrors_prepare(struct weft_cfg *c, const struct weft_path *at,
			  Envoy__Config__Route__V3__RouteAction__RequestMirrorPolicy *const *v,
			  size_t n, const struct weft_mirror **ret);
const char *route_data(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__DataSource *d, size_t max, size_t *ret_n);
