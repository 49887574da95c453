/* The configuration of an HTTP connection manager, made ready. */
#include "proxy/http/hcm_priv.h"
#include "proxy/http/proxy_status.h"

#include "xds/proto/envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.pb-c.h"
#include "xds/proto/envoy/extensions/request_id/uuid/v3/uuid.pb-c.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define HCM(x)                                                                                     \
	ENVOY__EXTENSIONS__FILTERS__NETWORK__HTTP_CONNECTION_MANAGER__V3__HTTP_CONNECTION_MANAGER__##x

#define EARLY_TYPE                                                                                 \
	envoy__extensions__http__early_header_mutation__header_mutation__v3__header_mutation__descriptor
typedef Envoy__Extensions__Http__EarlyHeaderMutation__HeaderMutation__V3__HeaderMutation early_msg;

static const char *dup_or_null(struct weft_cfg *c, const char *s)
{
	return s && *s ? weft_arena_strdup(c->arena, s) : NULL;
}

static int prepare_codec(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			 struct weft_hcm_conf *conf)
{
	struct weft_path p = {at, "codec_type", -1};

	switch (m->codec_type) {
	case HCM(CODEC_TYPE__AUTO):
		conf->codec = HCM_AUTO;
		return 0;
	case HCM(CODEC_TYPE__HTTP1):
		conf->codec = HCM_H1;
		return 0;
	case HCM(CODEC_TYPE__HTTP2):
		conf->codec = HCM_H2;
		return 0;
	default:
		return weft_cfg_fail(c, &p, "HTTP3 is not supported; AUTO, HTTP1 and HTTP2 are");
	}
}

/* ---- routes */

static void give_table(void *t)
{
	weft_route_table_give(t);
}

static int prepare_rds(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
		       struct weft_hcm_conf *conf)
{
	struct weft_path p = {at, "rds", -1}, n = {&p, "route_config_name", -1},
			 s = {&p, "config_source", -1};
	const struct weft_net_context *x = c->context;

	if (!m->rds->config_source)
		return weft_cfg_fail(c, &s, "must be set");
	if (!m->rds->route_config_name || !*m->rds->route_config_name)
		return weft_cfg_fail(c, &n, "must be set");
	if (!x || !x->routes)
		return 0; /* only looked at, not run */
	conf->routes =
		weft_route_table_take(x->routes, m->rds->config_source, m->rds->route_config_name);
	return 0;
}

static int prepare_routes(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			  struct weft_hcm_conf *conf)
{
	struct weft_path p = {at, "route_config", -1};
	struct weft_routes *r = NULL;
	int err;

	switch (m->route_specifier_case) {
	case HCM(ROUTE_SPECIFIER_RDS):
		err = prepare_rds(c, at, m, conf);
		break;
	case HCM(ROUTE_SPECIFIER_ROUTE_CONFIG):
		err = weft_routes_new(c, &p, m->route_config, &r);
		if (!err)
			conf->routes = weft_route_table_fixed(r);
		break;
	case HCM(ROUTE_SPECIFIER_SCOPED_ROUTES):
		return weft_cfg_fail(c, at,
				     "scoped_routes: is not supported; rds and route_config "
				     "are");
	default:
		return weft_cfg_fail(c, at, "must have rds or route_config");
	}
	if (conf->routes)
		weft_arena_cleanup(c->arena, give_table, conf->routes);
	return err;
}

/* ---- filters, upgrades */

static int prepare_upgrades(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			    struct weft_hcm_conf *conf)
{
	struct hcm_upgrade *v = weft_arena_alloc(c->arena, m->n_upgrade_configs * sizeof(*v));
	int err = 0;

	for (size_t i = 0; i < m->n_upgrade_configs; i++) {
		struct weft_path p = {at, "upgrade_configs", (int)i}, f = {&p, "filters", -1};

		v[i].type = weft_arena_strdup(c->arena, m->upgrade_configs[i]->upgrade_type ?: "");
		v[i].enabled = weft_cfg_bool(m->upgrade_configs[i]->enabled, true);
		for (size_t j = 0; j < i; j++)
			if (!strcasecmp(v[i].type, v[j].type))
				err = weft_cfg_fail(c, &p,
						    "upgrade_type \"%s\" is there already: "
						    "upgrade_configs[%zu]",
						    v[i].type, j);
		if (m->upgrade_configs[i]->n_filters &&
		    weft_http_chain_prepare(c, &f, m->upgrade_configs[i]->filters,
					    m->upgrade_configs[i]->n_filters, &v[i].chain))
			err = -EINVAL;
	}
	conf->upgrades = v;
	conf->n_upgrades = m->n_upgrade_configs;
	return err;
}

/* ---- times */

static void prepare_times(const hcm_msg *m, struct weft_hcm_conf *conf)
{
	const Envoy__Config__Core__V3__HttpProtocolOptions *o = m->common_http_protocol_options;
	struct hcm_times *ms = &conf->ms;

	ms->idle = (uint64_t)weft_cfg_ms(o ? o->idle_timeout : NULL, 3600000);
	ms->max_connection = (uint64_t)weft_cfg_ms(o ? o->max_connection_duration : NULL, 0);
	conf->safe_max_duration = m->http1_safe_max_connection_duration;
	ms->max_stream = (uint64_t)weft_cfg_ms(o ? o->max_stream_duration : NULL, 0);
	ms->stream_idle = (uint64_t)weft_cfg_ms(m->stream_idle_timeout, 300000);
	ms->flush = (uint64_t)weft_cfg_ms(m->stream_flush_timeout, (int64_t)ms->stream_idle);
	ms->request = (uint64_t)weft_cfg_ms(m->request_timeout, 0);
	ms->drain = (uint64_t)weft_cfg_ms(m->drain_timeout, 5000);
	ms->delayed_close = (uint64_t)weft_cfg_ms(m->delayed_close_timeout, 1000);
	ms->log_interval = (uint64_t)weft_cfg_ms(m->access_log_flush_interval, 0);
	conf->max_requests = weft_cfg_u32(o ? o->max_requests_per_connection : NULL, 0);
	conf->underscores = o ? (uint8_t)o->headers_with_underscores_action : 0;
	conf->log_new = m->flush_access_log_on_new_request;
	if (!m->access_log_options)
		return;
	ms->log_interval =
		(uint64_t)weft_cfg_ms(m->access_log_options->access_log_flush_interval, 0);
	conf->log_new = m->access_log_options->flush_access_log_on_new_request;
	conf->log_tunnel = m->access_log_options->flush_log_on_tunnel_successfully_established;
}

/* ---- host, path, headers */

static int prepare_path(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			struct weft_hcm_conf *conf)
{
	conf->path.normalize = weft_cfg_bool(m->normalize_path, false);
	conf->path.merge = m->merge_slashes;
	switch (m->path_with_escaped_slashes_action) {
	case HCM(PATH_WITH_ESCAPED_SLASHES_ACTION__REJECT_REQUEST):
		conf->path.slashes = WEFT_SLASHES_REJECT;
		break;
	case HCM(PATH_WITH_ESCAPED_SLASHES_ACTION__UNESCAPE_AND_REDIRECT):
		conf->path.slashes = WEFT_SLASHES_REDIRECT;
		break;
	case HCM(PATH_WITH_ESCAPED_SLASHES_ACTION__UNESCAPE_AND_FORWARD):
		conf->path.slashes = WEFT_SLASHES_FORWARD;
		break;
	default:
		conf->path.slashes = WEFT_SLASHES_KEEP;
	}
	conf->strip_dot = m->strip_trailing_host_dot;
	if (m->strip_port_mode_case == HCM(STRIP_PORT_MODE_STRIP_ANY_HOST_PORT) &&
	    m->strip_any_host_port)
		conf->strip_port = HCM_PORT_ANY;
	if (!m->strip_matching_host_port)
		return 0;
	if (conf->strip_port)
		return weft_cfg_fail(c, at,
				     "only one of strip_matching_host_port and "
				     "strip_any_host_port may be set");
	conf->strip_port = HCM_PORT_MATCHING;
	return 0;
}

static int prepare_scheme(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			  struct weft_hcm_conf *conf)
{
	struct weft_path p = {at, "scheme_header_transformation", -1};
	const Envoy__Config__Core__V3__SchemeHeaderTransformation *t =
		m->scheme_header_transformation;

	if (!t)
		return 0;
	if (t->transformation_case ==
	    ENVOY__CONFIG__CORE__V3__SCHEME_HEADER_TRANSFORMATION__TRANSFORMATION_SCHEME_TO_OVERWRITE) {
		if (strcmp(t->scheme_to_overwrite, "http") != 0 &&
		    strcmp(t->scheme_to_overwrite, "https") != 0)
			return weft_cfg_fail(
				c, &p, "scheme_to_overwrite: must be http or https, is \"%s\"",
				t->scheme_to_overwrite);
		conf->set_scheme = weft_arena_strdup(c->arena, t->scheme_to_overwrite);
	}
	return 0;
}

static int prepare_request_id(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			      struct weft_hcm_conf *conf)
{
	struct weft_path p = {at, "request_id_extension", -1}, t = {&p, "typed_config", -1};
	const Envoy__Extensions__RequestId__Uuid__V3__UuidRequestIdConfig *u;
	const ProtobufCMessage *x;

	conf->generate_id = weft_cfg_bool(m->generate_request_id, true);
	conf->preserve_id = m->preserve_external_request_id;
	conf->id_in_response = m->always_set_request_id_in_response;
	conf->pack_trace_reason = true;
	if (!m->request_id_extension || !m->request_id_extension->typed_config)
		return 0;
	x = weft_cfg_any(c, &t, m->request_id_extension->typed_config, NULL);
	if (!x)
		return -EINVAL;
	if (x->descriptor !=
	    &envoy__extensions__request_id__uuid__v3__uuid_request_id_config__descriptor)
		return weft_cfg_fail(c, &t, "%s is not supported; the UUID extension is",
				     x->descriptor->name);
	u = (const void *)x;
	conf->pack_trace_reason = weft_cfg_bool(u->pack_trace_reason, true);
	return 0;
}

static int prepare_early(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			 struct weft_hcm_conf *conf)
{
	size_t n = m->n_early_header_mutation_extensions;
	struct weft_mutations *v = weft_arena_alloc(c->arena, (n + 1) * sizeof(*v));
	int err = 0;

	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at, "early_header_mutation_extensions", (int)i},
				 t = {&p, "typed_config", -1}, l = {&t, "mutations", -1};
		const ProtobufCMessage *x = weft_cfg_any(
			c, &t, m->early_header_mutation_extensions[i]->typed_config, NULL);
		const early_msg *e = (const void *)x;

		if (!x)
			err = -EINVAL;
		else if (x->descriptor != &EARLY_TYPE)
			err = weft_cfg_fail(c, &t, "%s is not supported; header_mutation is",
					    x->descriptor->name);
		else
			err |= weft_mutations_prepare(c, &l, e->mutations, e->n_mutations, &v[i]);
	}
	conf->early = v;
	conf->n_early = n;
	return err ? -EINVAL : 0;
}

static int prepare_headers(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			   struct weft_hcm_conf *conf)
{
	const char *name = m->server_name && *m->server_name ? m->server_name : "envoy";
	const struct weft_net_context *x = c->context;
	int err = prepare_scheme(c, at, m, conf);

	conf->server_name = weft_arena_strdup(c->arena, name);
	conf->server_name_n = strlen(name);
	conf->server_header = (uint8_t)m->server_header_transformation;
	conf->via = dup_or_null(c, m->via);
	conf->proxy_100 = m->proxy_100_continue;
	conf->append_overload = m->append_local_overload;
	conf->bypass_overload = x && x->bypass_overload;
	conf->modify_only = x && x->modify_only;
	conf->tracing = m->tracing;
	if (weft_cfg_bool(m->add_user_agent, false) && x) {
		conf->user_agent = dup_or_null(c, x->cluster);
		conf->node = dup_or_null(c, x->node);
	}
	weft_proxy_status_prepare(c, m, conf);
	if (prepare_request_id(c, at, m, conf) || prepare_early(c, at, m, conf))
		err = -EINVAL;
	if (weft_xff_prepare(c, at, m, &conf->xff))
		err = -EINVAL;
	if (weft_xfcc_prepare(c, at, m, &conf->xfcc))
		err = -EINVAL;
	return err;
}

static void unref_scope(void *s)
{
	weft_scope_unref(s);
}

int weft_hcm_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		     const void **ret)
{
	const hcm_msg *m = (const hcm_msg *)msg;
	struct weft_hcm_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	struct weft_path f = {at, "http_filters", -1}, l = {at, "access_log", -1},
			 r = {at, "local_reply_config", -1};
	struct weft_net_context *x = c->context;
	int err = 0;

	if (x)
		x->http_prefix = m->stat_prefix ?: "";
	conf->scope = weft_scope_get(&weft_http_scope_class, m->stat_prefix ?: "");
	weft_arena_cleanup(c->arena, unref_scope, conf->scope);
	prepare_times(m, conf);
	err |= prepare_codec(c, at, m, conf);
	err |= prepare_routes(c, at, m, conf);
	err |= weft_http_chain_prepare(c, &f, m->http_filters, m->n_http_filters, &conf->chain);
	err |= prepare_upgrades(c, at, m, conf);
	err |= prepare_path(c, at, m, conf);
	err |= prepare_headers(c, at, m, conf);
	err |= weft_hcm_prepare_session(c, at, m, conf);
	if (m->n_access_log)
		err |= weft_access_logs_prepare(c, &l, m->access_log, m->n_access_log, &conf->logs);
	if (m->local_reply_config)
		err |= weft_local_reply_prepare(c, &r, m->local_reply_config, &conf->replies);
	if (x)
		x->http_prefix = NULL;
	*ret = conf;
	return err ? -EINVAL : 0;
}
