/* envoy.config.rbac.v3.RBAC and matcher trees that end in its actions: who may do what. Pure: the
 * caller brings what is known of the connection and the request. */
#pragma once
#include "proxy/net/io.h"
#include "proxy/session/headers.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/core/v3/base.pb-c.h"
#include "xds/proto/envoy/config/rbac/v3/rbac.pb-c.h"
#include "xds/proto/xds/type/matcher/v3/matcher.pb-c.h"

/* What a decision looks at. On the stack. */
struct weft_rbac_in {
	const struct weft_io_info *conn;
	struct weft_sockaddr remote;  /* after x-forwarded-for */
	const char *sni;	      /* NULL: conn's */
	const struct weft_headers *h; /* NULL: a connection */
	/* Dynamic metadata of a namespace, NULL: none; meta itself may be NULL. */
	const Google__Protobuf__Struct *(*meta)(const void *ctx, const char *ns);
	const void *meta_ctx;
	const Envoy__Config__Core__V3__Metadata *route_meta; /* NULL: none */
};
struct weft_rbac_out {
	const char *policy;  /* that decided, lives as long as the engine; NULL: none */
	bool hint_set, hint; /* access_log_hint of LOG */
};
/* Permission.uri_template is compiled by who knows templates of paths. */
struct weft_rbac_template {
	int (*prepare)(struct weft_cfg *c, const struct weft_path *at, const char *text,
		       const void **ret);
	bool (*match)(const void *t, const char *path, size_t n);
};
struct weft_rbac;
/* One of rules and matcher; http NULL: for connections, where header rules are refused. Lives in
 * c->arena; immutable, any thread. at: of the message that holds them; the fields' names say which
 * pair ("rules", "matcher" or the shadow ones). */
struct weft_rbac_conf {
	const Envoy__Config__Rbac__V3__RBAC *rules;
	const Xds__Type__Matcher__V3__Matcher *matcher;
	const char *rules_field, *matcher_field;
	const struct weft_rbac_template *http;
};
/* *ret NULL: neither rules nor matcher is there. */
int weft_rbac_prepare(struct weft_cfg *c, const struct weft_path *at,
		      const struct weft_rbac_conf *conf, const struct weft_rbac **ret);
/* False: denied. A regular expression that met a limit counts as matched where that denies. */
bool weft_rbac_allowed(const struct weft_rbac *r, const struct weft_rbac_in *in,
		       struct weft_rbac_out *ret);
/* Names of all policies in their order, to make counters; NULL at the end of rules. */
const char *weft_rbac_policy(const struct weft_rbac *r, size_t i);
