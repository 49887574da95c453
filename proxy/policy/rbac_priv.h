/* Inside of rbac*.c only. */
#pragma once
#include "proxy/policy/match.h"
#include "proxy/policy/rbac.h"

enum {
	RBAC_DEPTH_MAX = 64, /* nesting of rules */
	RBAC_POLICIES_MAX = 65536,
	RBAC_CURSORS_MAX = 64, /* lists that one decision merges; beyond: all policies in order */
	RBAC_KEYS_MAX = 1024,  /* of one policy; more: it is not indexed */
	RBAC_HEADERS_MAX = 16, /* header names with an index */
};
enum rbac_op {
	RBAC_AND,
	RBAC_OR,
	RBAC_NOT,
	RBAC_ANY,
	RBAC_NEVER,
	RBAC_HEADER,
	RBAC_PATH,
	RBAC_TEMPLATE,
	RBAC_DEST_IP,
	RBAC_DEST_PORT,
	RBAC_SNI,
	RBAC_META,
	RBAC_ROUTE_META,
	RBAC_TLS, /* some TLS */
	RBAC_PRINCIPAL,
	RBAC_CONN_IP, /* the connection's remote address */
	RBAC_DIRECT_IP,
	RBAC_REMOTE_IP,
};
struct rbac_node {
	enum rbac_op op;
	size_t n; /* AND, OR, NOT */
	union {
		const struct rbac_node *v;
		struct weft_hdrmatch header;
		struct weft_strmatch str;
		struct weft_cidr cidr;
		struct {
			uint32_t from, to; /* [from, to) */
		} port;
		struct weft_metamatch meta;
		const void *tmpl;
	};
};
struct rbac_policy {
	const char *name;
	struct rbac_node root;
};
struct rbac_index;
struct rbac_match;
struct weft_rbac {
	Envoy__Config__Rbac__V3__RBAC__Action action;
	const struct rbac_policy *v; /* by name */
	size_t n;
	const struct rbac_index *index;
	const struct weft_rbac_template *http;
	const struct rbac_match *matcher; /* instead of the rest; NULL */
};
/* What is derived from an input once. */
struct rbac_view {
	const struct weft_rbac_in *in;
	const struct weft_rbac_template *http;
	const struct weft_headers *h; /* never NULL */
	const char *path;	      /* without query; NULL: none */
	size_t path_n;
	const char *sni;
};
void rbac_view_init(struct rbac_view *v, const struct weft_rbac *r, const struct weft_rbac_in *in);
const struct weft_sockaddr *rbac_direct(const struct weft_rbac_in *in);

/* ---- rbac_tree.c */
int rbac_permissions(struct weft_cfg *c, const struct weft_path *at,
		     Envoy__Config__Rbac__V3__Permission *const *v, size_t n,
		     const struct weft_rbac_template *http, unsigned depth, struct rbac_node *ret);
int rbac_principals(struct weft_cfg *c, const struct weft_path *at,
		    Envoy__Config__Rbac__V3__Principal *const *v, size_t n,
		    const struct weft_rbac_template *http, unsigned depth, struct rbac_node *ret);
enum weft_match rbac_eval(const struct rbac_node *n, const struct rbac_view *v);

/* ---- rbac_index.c */
const struct rbac_index *rbac_index_new(struct weft_arena *a, const struct rbac_policy *v,
					size_t n);
/* Positions of policies that may match, ascending, one a call; -1: no more. */
struct rbac_walk {
	struct {
		const uint32_t *v;
		uint32_t n;
	} cursor[RBAC_CURSORS_MAX];
	unsigned n_cursors;
	bool all; /* every policy in order */
	uint32_t next, n;
};
void rbac_walk_init(struct rbac_walk *w, const struct rbac_index *x, const struct rbac_view *v);
int64_t rbac_walk_next(struct rbac_walk *w);

/* ---- rbac_matcher.c */
int rbac_matcher_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Xds__Type__Matcher__V3__Matcher *m, bool http,
			 const struct rbac_match **ret);
bool rbac_matcher_allowed(const struct rbac_match *m, const struct rbac_view *v,
			  struct weft_rbac_out *ret);
