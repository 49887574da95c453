/* What envoy.filters.http.ext_authz is told. */
#include "proxy/http/filters/ext_authz_priv.h"
#include "xds/wire.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- lists of names */
static int matchers(struct weft_cfg *c, const struct weft_path *at, const char *field,
		    const Envoy__Type__Matcher__V3__ListStringMatcher *m,
		    struct authz_matchers *ret)
{
	struct weft_path p = {at, field, -1};
	struct weft_strmatch *v;
	int err = 0;

	if (!m)
		return 0;
	v = weft_arena_alloc(c->arena, (m->n_patterns ?: 1) * sizeof(*v));
	ret->set = true;
	ret->v = v;
	ret->n = m->n_patterns;
	for (size_t i = 0; i < m->n_patterns; i++) {
		struct weft_path pi = {&p, "patterns", (int)i};

		if (weft_strmatch_prepare(c, &pi, m->patterns[i], &v[i]))
			err = -EINVAL;
	}
	return err;
}

bool authz_match(const struct authz_matchers *m, const char *s, size_t n, bool on_limit)
{
	for (size_t i = 0; i < m->n; i++) {
		enum weft_match one = weft_strmatch(&m->v[i], s, n);

		if (one == WEFT_MATCH_YES || (one == WEFT_MATCH_LIMIT && on_limit))
			return true;
	}
	return false;
}

/* ---- services */
static int headers_add(struct weft_cfg *c, const struct weft_path *at,
		       Envoy__Config__Core__V3__HeaderValue *const *v, size_t n,
		       struct weft_hdrops *ret)
{
	Envoy__Config__Core__V3__HeaderValueOption *opt, **list;

	if (!n)
		return 0;
	opt = weft_arena_alloc(c->arena, n * sizeof(*opt));
	list = weft_arena_alloc(c->arena, n * sizeof(*list));
	for (size_t i = 0; i < n; i++) {
		weft_message_init(&envoy__config__core__v3__header_value_option__descriptor,
				  &opt[i]);
		opt[i].header = v[i];
		opt[i].append_action =
			ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD;
		opt[i].has_append_action = true;
		list[i] = &opt[i];
	}
	return weft_hdrops_prepare(c, at, list, n, ret);
}

static int grpc_service(struct weft_cfg *c, const struct weft_path *at, const authz_grpc_msg *m,
			struct authz_service *s)
{
	struct weft_path pe = {at, "envoy_grpc", -1}, pc = {&pe, "cluster_name", -1},
			 pr = {&pe, "retry_policy", -1}, pi = {at, "initial_metadata", -1},
			 pg = {at, "google_grpc", -1};
	const Envoy__Config__Core__V3__GrpcService__EnvoyGrpc *e = m->envoy_grpc;

	if (m->target_specifier_case !=
	    ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__TARGET_SPECIFIER_ENVOY_GRPC)
		return weft_cfg_fail(c, &pg, "is not supported: use envoy_grpc");
	if (!e->cluster_name || !*e->cluster_name)
		return weft_cfg_fail(c, &pc, "must name a cluster");
	if (e->retry_policy)
		return weft_cfg_fail(c, &pr, "is not supported here");
	s->grpc = true;
	s->cluster = weft_arena_strdup(c->arena, e->cluster_name);
	s->authority = e->authority && *e->authority ? weft_arena_strdup(c->arena, e->authority)
						     : s->cluster;
	s->scheme = "http";
	s->timeout_ms = (unsigned)weft_cfg_ms(m->timeout, AUTHZ_TIMEOUT_MS);
	s->answer_max = weft_cfg_u32(e->max_receive_message_length, AUTHZ_ANSWER_MAX);
	if (!s->answer_max || s->answer_max > AUTHZ_ANSWER_MAX)
		s->answer_max = AUTHZ_ANSWER_MAX;
	return headers_add(c, &pi, m->initial_metadata, m->n_initial_metadata, &s->add);
}

static int server_uri(struct weft_cfg *c, const struct weft_path *at,
		      const Envoy__Config__Core__V3__HttpUri *u, struct authz_service *s)
{
	struct weft_path p = {at, "server_uri", -1}, pu = {&p, "uri", -1}, pc = {&p, "cluster", -1};
	const char *uri = u && u->uri ? u->uri : "", *sep = strstr(uri, "://"), *host;

	if (!u)
		return weft_cfg_fail(c, &p, "must be set");
	if (sep && strncmp(uri, "http://", 7) && strncmp(uri, "https://", 8))
		return weft_cfg_fail(c, &pu, "must begin with http:// or https://, is \"%.80s\"",
				     uri);
	host = sep ? sep + 3 : uri;
	if (!*host || strpbrk(host, "@ \r\n\t"))
		return weft_cfg_fail(c, &pu, "must name a host, is \"%.80s\"", uri);
	if (!u->cluster || !*u->cluster)
		return weft_cfg_fail(c, &pc, "must name a cluster");
	s->scheme = !strncmp(uri, "https", 5) ? "https" : "http";
	s->cluster = weft_arena_strdup(c->arena, u->cluster);
	s->authority = weft_arena_strndup(c->arena, host, strcspn(host, "/?#"));
	s->timeout_ms = (unsigned)weft_cfg_ms(u->timeout, AUTHZ_TIMEOUT_MS);
	s->answer_max = AUTHZ_ANSWER_MAX;
	return 0;
}

static int http_service(struct weft_cfg *c, const struct weft_path *at, const authz_http_msg *m,
			struct authz_service *s)
{
	struct weft_path pp = {at, "path_prefix", -1}, pq = {at, "authorization_request", -1},
			 pr = {at, "authorization_response", -1}, pa = {&pq, "headers_to_add", -1};
	const Envoy__Extensions__Filters__Http__ExtAuthz__V3__AuthorizationRequest *q =
		m->authorization_request;
	const Envoy__Extensions__Filters__Http__ExtAuthz__V3__AuthorizationResponse *r =
		m->authorization_response;
	int err = server_uri(c, at, m->server_uri, s);

	s->path_prefix = weft_arena_strdup(c->arena, m->path_prefix ?: "");
	if (*s->path_prefix && (*s->path_prefix != '/' || strpbrk(s->path_prefix, " \r\n\t?#")))
		err = weft_cfg_fail(c, &pp, "must begin with '/' and be a path, is \"%.80s\"",
				    s->path_prefix);
	if (q && matchers(c, &pq, "allowed_headers", q->allowed_headers, &s->allowed))
		err = -EINVAL;
	if (q && headers_add(c, &pa, q->headers_to_add, q->n_headers_to_add, &s->add))
		err = -EINVAL;
	if (!r)
		return err;
	err |= matchers(c, &pr, "allowed_upstream_headers", r->allowed_upstream_headers,
			&s->upstream);
	err |= matchers(c, &pr, "allowed_upstream_headers_to_append",
			r->allowed_upstream_headers_to_append, &s->append);
	err |= matchers(c, &pr, "allowed_client_headers", r->allowed_client_headers, &s->client);
	err |= matchers(c, &pr, "allowed_client_headers_on_success",
			r->allowed_client_headers_on_success, &s->client_ok);
	err |= matchers(c, &pr, "dynamic_metadata_from_headers", r->dynamic_metadata_from_headers,
			&s->meta);
	return err;
}

static int body_settings(struct weft_cfg *c, const struct weft_path *at, const authz_buffer_msg *m,
			 struct authz_body *ret)
{
	struct weft_path p = {at, "with_request_body", -1}, pm = {&p, "max_request_bytes", -1};

	if (!m)
		return 0;
	ret->max = m->max_request_bytes;
	ret->partial = m->allow_partial_message;
	ret->bytes = m->pack_as_bytes;
	if (!ret->max || ret->max > AUTHZ_BODY_MAX)
		return weft_cfg_fail(c, &pm, "must be 1..%d, is %u", AUTHZ_BODY_MAX, ret->max);
	return 0;
}

/* ---- the filter */
static int service(struct weft_cfg *c, const struct weft_path *at, const authz_msg *m,
		   struct authz_conf *conf)
{
	struct weft_path pg = {at, "grpc_service", -1}, ph = {at, "http_service", -1},
			 pv = {at, "transport_api_version", -1};
	struct authz_service *s = weft_arena_alloc(c->arena, sizeof(*s));

	conf->service = s;
	switch (m->services_case) {
	case ENVOY__EXTENSIONS__FILTERS__HTTP__EXT_AUTHZ__V3__EXT_AUTHZ__SERVICES_GRPC_SERVICE:
		if (m->transport_api_version != ENVOY__CONFIG__CORE__V3__API_VERSION__V3)
			return weft_cfg_fail(c, &pv, "must be V3");
		return grpc_service(c, &pg, m->grpc_service, s);
	case ENVOY__EXTENSIONS__FILTERS__HTTP__EXT_AUTHZ__V3__EXT_AUTHZ__SERVICES_HTTP_SERVICE:
		return http_service(c, &ph, m->http_service, s);
	default:
		return weft_cfg_fail(c, at, "must have grpc_service or http_service");
	}
}

static char **strings(struct weft_arena *a, char *const *v, size_t n)
{
	char **to = weft_arena_alloc(a, (n ?: 1) * sizeof(*to));

	for (size_t i = 0; i < n; i++)
		to[i] = weft_arena_strdup(a, v[i]);
	return to;
}

static int status_on_error(struct weft_cfg *c, const struct weft_path *at, const authz_msg *m,
			   struct authz_conf *conf)
{
	struct weft_path p = {at, "status_on_error", -1};

	conf->status_on_error = m->status_on_error ? (int)m->status_on_error->code : 403;
	if (conf->status_on_error < 200 || conf->status_on_error > 599)
		return weft_cfg_fail(c, &p, "code must be 200..599, is %d", conf->status_on_error);
	return 0;
}

static int mutation_rules(struct weft_cfg *c, const struct weft_path *at, const authz_msg *m,
			  struct authz_conf *conf)
{
	struct weft_path p = {at, "decoder_header_mutation_rules", -1};
	struct weft_mutation_rules *r;

	if (!m->decoder_header_mutation_rules)
		return 0;
	r = weft_arena_alloc(c->arena, sizeof(*r));
	conf->rules = r;
	return weft_mutation_rules_prepare(c, &p, m->decoder_header_mutation_rules, r);
}

int authz_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		  const void **ret)
{
	const authz_msg *m = (const void *)msg;
	struct authz_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	struct weft_path pm = {at, "filter_enabled_metadata", -1};
	struct weft_metamatch *meta;
	int err = service(c, at, m, conf);

	*ret = conf;
	err |= body_settings(c, at, m->with_request_body, &conf->body);
	err |= status_on_error(c, at, m, conf);
	err |= mutation_rules(c, at, m, conf);
	err |= matchers(c, at, "allowed_headers", m->allowed_headers, &conf->allowed);
	err |= matchers(c, at, "disallowed_headers", m->disallowed_headers, &conf->disallowed);
	if (m->filter_enabled_metadata) {
		meta = weft_arena_alloc(c->arena, sizeof(*meta));
		conf->enabled_meta = meta;
		err |= weft_metamatch_prepare(c, &pm, m->filter_enabled_metadata, meta);
	}
	conf->allow_on_failure = m->failure_mode_allow;
	conf->failure_header = m->failure_mode_allow_header_add;
	conf->clear_route = m->clear_route_cache;
	conf->deny_at_disable =
		m->deny_at_disable && weft_cfg_bool(m->deny_at_disable->default_value, false);
	conf->enabled = weft_fraction(m->filter_enabled, 1000000);
	conf->peer_cert = m->include_peer_certificate;
	conf->tls_session = m->include_tls_session;
	conf->raw_headers = m->encode_raw_headers;
	conf->validate = m->validate_mutations;
	conf->charge = weft_cfg_bool(m->charge_cluster_response_stats, true);
	conf->take_meta = weft_cfg_bool(m->enable_dynamic_metadata_ingestion, true);
	conf->denied_body_max = m->max_denied_response_body_bytes;
	conf->meta_ns =
		strings(c->arena, m->metadata_context_namespaces, m->n_metadata_context_namespaces);
	conf->n_meta_ns = m->n_metadata_context_namespaces;
	conf->route_meta_ns = strings(c->arena, m->route_metadata_context_namespaces,
				      m->n_route_metadata_context_namespaces);
	conf->n_route_meta_ns = m->n_route_metadata_context_namespaces;
	conf->prefix = weft_arena_printf(c->arena, "ext_authz.%s%s", m->stat_prefix ?: "",
					 m->stat_prefix && *m->stat_prefix ? "." : "");
	return err ? -EINVAL : 0;
}

static int settings(struct weft_cfg *c, const struct weft_path *at, const authz_check_msg *m,
		    struct authz_route_conf *conf)
{
	struct authz_pair *v =
		weft_arena_alloc(c->arena, (m->n_context_extensions ?: 1) * sizeof(*v));
	struct weft_path pd = {at, "disable_request_body_buffering", -1},
			 pg = {at, "grpc_service", -1}, ph = {at, "http_service", -1};
	struct authz_service *s;
	struct authz_body *b;

	conf->v = v;
	conf->n = m->n_context_extensions;
	for (size_t i = 0; i < conf->n; i++) {
		v[i].key = weft_arena_strdup(c->arena, m->context_extensions[i]->key ?: "");
		v[i].value = weft_arena_strdup(c->arena, m->context_extensions[i]->value ?: "");
	}
	conf->no_body = m->disable_request_body_buffering;
	if (m->with_request_body) {
		if (conf->no_body)
			return weft_cfg_fail(c, &pd, "must not stand with with_request_body");
		b = weft_arena_alloc(c->arena, sizeof(*b));
		conf->body = b;
		if (body_settings(c, at, m->with_request_body, b))
			return -EINVAL;
	}
	s = weft_arena_alloc(c->arena, sizeof(*s));
	switch (m->service_override_case) {
	case ENVOY__EXTENSIONS__FILTERS__HTTP__EXT_AUTHZ__V3__CHECK_SETTINGS__SERVICE_OVERRIDE_GRPC_SERVICE:
		conf->service = s;
		return grpc_service(c, &pg, m->grpc_service, s);
	case ENVOY__EXTENSIONS__FILTERS__HTTP__EXT_AUTHZ__V3__CHECK_SETTINGS__SERVICE_OVERRIDE_HTTP_SERVICE:
		conf->service = s;
		return http_service(c, &ph, m->http_service, s);
	default:
		return 0;
	}
}

int authz_prepare_route(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
			const void **ret)
{
	const authz_route_msg *m = (const void *)msg;
	struct authz_route_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	struct weft_path p = {at, "check_settings", -1};

	*ret = conf;
	if (m->override_case ==
	    ENVOY__EXTENSIONS__FILTERS__HTTP__EXT_AUTHZ__V3__EXT_AUTHZ_PER_ROUTE__OVERRIDE_CHECK_SETTINGS)
		return settings(c, &p, m->check_settings, conf);
	conf->disabled = m->disabled;
	return 0;
}
