/* envoy.filters.http.rbac: lets a request go on, or answers 403. Shadow rules only count. */
#include "proxy/policy/rbac.h"
#include "proxy/http/filter.h"
#include "proxy/http/route.h"
#include "proxy/http/route_priv.h"

#include "xds/proto/envoy/extensions/filters/http/rbac/v3/rbac.pb-c.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__Rbac__V3__RBAC rbac_msg;
typedef Envoy__Extensions__Filters__Http__Rbac__V3__RBACPerRoute route_msg;

#define NAMESPACE "envoy.filters.http.rbac"

/* The enforced or the shadow half. */
struct engine {
	const struct weft_rbac *rules; /* NULL: none */
	bool shadow;
	const char *allowed, *denied;	     /* counters in http.PREFIX. */
	bool per_policy;		     /* is counted */
	const char *policy_prefix;	     /* of those counters */
	const char *policy_key, *result_key; /* dynamic metadata */
};
struct conf {
	struct engine enforced, shadow;
};

/* ---- configuration */
static int template_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			    const void **ret)
{
	const struct weft_template *t = NULL;
	int err = route_template_prepare(c, at, text, &t);

	*ret = t;
	return err;
}

static bool template_match(const void *t, const char *path, size_t n)
{
	return route_template_match(t, path, n);
}

static const struct weft_rbac_template templates = {template_prepare, template_match};

static void names(struct weft_arena *a, struct engine *e, const char *prefix, bool per_policy)
{
	const char *kind = e->shadow ? "shadow_" : "", *meta = e->shadow ? "shadow" : "enforced";
	size_t n = strlen(prefix);
	const char *dot = n && prefix[n - 1] != '.' ? "." : "";

	e->allowed = weft_arena_printf(a, "rbac.%s%s%sallowed", prefix, dot, kind);
	e->denied = weft_arena_printf(a, "rbac.%s%s%sdenied", prefix, dot, kind);
	e->policy_key = weft_arena_printf(a, "%s%s_effective_policy_id", prefix, meta);
	e->result_key = weft_arena_printf(a, "%s%s_engine_result", prefix, meta);
	e->per_policy = per_policy;
	e->policy_prefix = weft_arena_printf(a, "rbac.%s%spolicy.", prefix, dot);
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const rbac_msg *m = (const void *)msg;
	const struct weft_rbac_conf enforced = {m->rules, m->matcher, "rules", "matcher",
						&templates},
				    shadow = {m->shadow_rules, m->shadow_matcher, "shadow_rules",
					      "shadow_matcher", &templates};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	int err = weft_rbac_prepare(c, at, &enforced, &conf->enforced.rules);

	if (weft_rbac_prepare(c, at, &shadow, &conf->shadow.rules))
		err = -EINVAL;
	conf->shadow.shadow = true;
	names(c->arena, &conf->enforced, m->rules_stat_prefix ?: "", m->track_per_rule_stats);
	names(c->arena, &conf->shadow, m->shadow_rules_stat_prefix ?: "", m->track_per_rule_stats);
	*ret = conf;
	return err;
}

static int prepare_route(struct weft_cfg *c, const struct weft_path *at,
			 const ProtobufCMessage *msg, const void **ret)
{
	static const struct conf off;
	const route_msg *m = (const void *)msg;
	struct weft_path p = {at, "rbac", -1};

	if (m->rbac)
		return prepare(c, &p, &m->rbac->base, ret);
	*ret = &off;
	return 0;
}

/* ---- requests */
static const Google__Protobuf__Struct *meta_get(const void *ctx, const char *ns)
{
	return weft_info_meta_get(ctx, ns);
}

/* Rules may be a route's; what is counted and noted goes under the filter's own names. */
static bool allowed(struct weft_stream *s, const struct engine *by, const struct engine *e,
		    const struct weft_rbac_in *in, struct weft_rbac_out *out)
{
	struct weft_info *info = weft_stream_info(s);
	struct weft_scope *scope = weft_stream_scope(s);
	struct weft_arena *a = weft_stream_arena(s);
	bool ok = weft_rbac_allowed(by->rules, in, out);
	Google__Protobuf__Struct *meta = weft_info_meta(info, NAMESPACE);

	weft_scope_add_named(scope, ok ? e->allowed : e->denied, 1);
	if (out->policy && *out->policy) {
		if (by->per_policy)
			weft_scope_add_named(scope,
					     weft_arena_printf(a, "%s%s.%s%s", e->policy_prefix,
							       out->policy,
							       e->shadow ? "shadow_" : "",
							       ok ? "allowed" : "denied"),
					     1);
		weft_struct_set_string(a, meta, e->policy_key, out->policy);
	}
	weft_struct_set_string(a, meta, e->result_key, ok ? "allowed" : "denied");
	if (out->hint_set && !e->shadow)
		weft_struct_set_bool(a, weft_info_meta(info, "envoy.common"), "access_log_hint",
				     out->hint);
	return ok;
}

static enum weft_flow deny(struct weft_stream *s, const char *policy)
{
	char *details =
		weft_arena_printf(weft_stream_arena(s), "rbac_access_denied_matched_policy[%s]",
				  policy && *policy ? policy : "none");

	for (char *p = details; *p; p++)
		if (isspace((unsigned char)*p))
			*p = '_';
	return weft_stream_reply(s, 403, details, "RBAC: access denied", NULL, NULL);
}

static enum weft_flow headers(struct weft_stream *s, const void *vconf, void *state,
			      enum weft_dir d, struct weft_headers *h, bool end)
{
	const struct conf *conf = vconf, *own = weft_stream_chain_conf(s, state);
	const struct weft_info *info = weft_stream_info(s);
	const struct weft_route *route;
	struct weft_rbac_out out;
	struct weft_rbac_in in;

	if (d != WEFT_REQUEST || (!conf->enforced.rules && !conf->shadow.rules))
		return WEFT_NEXT;
	route = weft_stream_route(s);
	in = (struct weft_rbac_in){
		.conn = weft_stream_downstream(s),
		.remote = info->remote,
		.sni = info->requested_server_name,
		.h = h,
		.meta = meta_get,
		.meta_ctx = info,
		.route_meta = route && route->msg ? route->msg->metadata : NULL,
	};
	if (conf->shadow.rules)
		allowed(s, &conf->shadow, &own->shadow, &in, &out);
	if (conf->enforced.rules && !allowed(s, &conf->enforced, &own->enforced, &in, &out))
		return deny(s, out.policy);
	return WEFT_NEXT;
}

const struct weft_http_filter weft_http_filter_rbac = {
	.ext = {.name = NAMESPACE,
		.config = &envoy__extensions__filters__http__rbac__v3__rbac__descriptor,
		.per_route = &envoy__extensions__filters__http__rbac__v3__rbacper_route__descriptor,
		.prepare = prepare,
		.prepare_route = prepare_route},
	.headers = headers,
};
