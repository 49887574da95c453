/* health_checks of a Cluster. */
#include "proxy/upstream/health_priv.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Config__Core__V3__HealthCheck HealthCheck;
typedef Envoy__Config__Core__V3__HealthCheck__HttpHealthCheck HttpCheck;
typedef Envoy__Config__Core__V3__HealthCheck__TcpHealthCheck TcpCheck;
typedef Envoy__Config__Core__V3__HealthCheck__GrpcHealthCheck GrpcCheck;
typedef Envoy__Config__Core__V3__HealthCheck__Payload Payload;
typedef Envoy__Config__Core__V3__HeaderValueOption HeaderOption;

static int hex_of(char ch)
{
	return ch >= '0' && ch <= '9'	? ch - '0'
	       : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10
	       : ch >= 'A' && ch <= 'F' ? ch - 'A' + 10
					: -1;
}

static int read_payload(struct weft_cfg *c, const struct weft_path *at, const Payload *m,
			struct hc_bytes *ret)
{
	struct weft_path text = {at, "text", -1};
	const char *s = m->text;
	size_t n;
	uint8_t *p;

	if (m->payload_case == ENVOY__CONFIG__CORE__V3__HEALTH_CHECK__PAYLOAD__PAYLOAD_BINARY) {
		*ret = (struct hc_bytes){weft_arena_memdup(c->arena, m->binary.data, m->binary.len),
					 m->binary.len};
		return 0;
	}
	n = strlen(s);
	p = weft_arena_alloc(c->arena, n / 2 + 1);
	for (size_t i = 0; i + 1 < n; i += 2) {
		int hi = hex_of(s[i]), lo = hex_of(s[i + 1]);

		if (hi < 0 || lo < 0)
			n = 1;
		else
			p[i / 2] = (uint8_t)(hi << 4 | lo);
	}
	if (n % 2)
		return weft_cfg_fail(c, &text, "must be hex digits in pairs, is \"%.40s\"", s);
	*ret = (struct hc_bytes){p, n / 2};
	return 0;
}

static int read_ranges(struct weft_cfg *c, const struct weft_path *at, const char *field,
		       Envoy__Type__V3__Int64Range *const *v, size_t n, const struct hc_range **ret)
{
	struct hc_range *out = weft_arena_alloc(c->arena, (n + 1) * sizeof(*out));

	for (size_t i = 0; i < n; i++) {
		struct weft_path one = {at, field, (int)i};

		out[i] = (struct hc_range){v[i]->start, v[i]->end};
		if (out[i].from >= out[i].to)
			return weft_cfg_fail(c, &one, "start must be below end, is %lld of %lld",
					     (long long)out[i].from, (long long)out[i].to);
		if (out[i].from < 100 || out[i].to > 600)
			return weft_cfg_fail(c, &one, "must be in [100,600), is [%lld,%lld)",
					     (long long)out[i].from, (long long)out[i].to);
	}
	*ret = out;
	return 0;
}

static const char *value_of(struct weft_cfg *c, const Envoy__Config__Core__V3__HeaderValue *h)
{
	if (h && h->raw_value.len)
		return weft_arena_strndup(c->arena, (const char *)h->raw_value.data,
					  h->raw_value.len);
	return h && h->value ? h->value : "";
}

static int read_headers(struct weft_cfg *c, const struct weft_path *at, const char *field,
			HeaderOption *const *v, size_t n, struct weft_hc_conf *ret)
{
	struct hc_header *out = weft_arena_alloc(c->arena, (n + 1) * sizeof(*out));

	for (size_t i = 0; i < n; i++) {
		struct weft_path one = {at, field, (int)i};
		const Envoy__Config__Core__V3__HeaderValue *h = v[i]->header;
		const char *name = h && h->key ? h->key : "", *value = value_of(c, h);

		if (!*name || *name == ':' || !strcasecmp(name, "host"))
			return weft_cfg_fail(c, &one,
					     "must name a header other than :-prefixed "
					     "ones and Host, is \"%.40s\"",
					     name);
		if (strchr(value, '%'))
			return weft_cfg_fail(c, &one,
					     "command operators are not supported in the headers "
					     "of health checks, is \"%.60s\"",
					     value);
		if (!*value && !v[i]->keep_empty_value)
			continue;
		out[ret->n_add] = (struct hc_header){
			weft_arena_strdup(c->arena, name), weft_arena_strdup(c->arena, value),
			strlen(name), strlen(value), (int)v[i]->append_action};
		if (v[i]->append && !v[i]->append->value)
			out[ret->n_add].action =
				ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD;
		ret->n_add++;
	}
	ret->add = out;
	return 0;
}

static int read_http(struct weft_cfg *c, const struct weft_path *at, const HttpCheck *m,
		     struct weft_hc_conf *ret)
{
	static const char *const methods[] = {"GET",	"GET",	   "HEAD",    "POST",  "PUT",
					      "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};
	static const struct hc_range ok = {200, 201};
	struct weft_path codec = {at, "codec_client_type", -1};
	struct weft_path matcher = {at, "service_name_matcher", -1};
	int r;

	ret->kind = HC_HTTP;
	ret->host = m->host ? m->host : "";
	ret->path = m->path;
	ret->method = methods[m->method];
	ret->h2 = m->codec_client_type == ENVOY__TYPE__V3__CODEC_CLIENT_TYPE__HTTP2;
	if (m->codec_client_type == ENVOY__TYPE__V3__CODEC_CLIENT_TYPE__HTTP3)
		return weft_cfg_fail(c, &codec, "HTTP3 is not supported");
	r = read_headers(c, at, "request_headers_to_add", m->request_headers_to_add,
			 m->n_request_headers_to_add, ret);
	ret->remove = m->request_headers_to_remove;
	ret->n_remove = m->n_request_headers_to_remove;
	r |= read_ranges(c, at, "expected_statuses", m->expected_statuses, m->n_expected_statuses,
			 &ret->expected);
	r |= read_ranges(c, at, "retriable_statuses", m->retriable_statuses,
			 m->n_retriable_statuses, &ret->retriable);
	ret->n_expected = m->n_expected_statuses;
	ret->n_retriable = m->n_retriable_statuses;
	if (!ret->n_expected) {
		ret->expected = &ok;
		ret->n_expected = 1;
	}
	if (m->service_name_matcher) {
		struct weft_strmatch *s = weft_arena_alloc(c->arena, sizeof(*s));

		r |= weft_strmatch_prepare(c, &matcher, m->service_name_matcher, s);
		ret->service_name = s;
	}
	return r < 0 ? -EINVAL : 0;
}

/* The header speaks of the check itself: there is no client whose values could be told. */
static int read_proxy(struct weft_cfg *c, const struct weft_path *at,
		      const Envoy__Config__Core__V3__ProxyProtocolConfig *m,
		      struct weft_hc_conf *ret)
{
	struct weft_path added = {at, "added_tlvs", -1};

	ret->proxy =
		m->version == ENVOY__CONFIG__CORE__V3__PROXY_PROTOCOL_CONFIG__VERSION__V2 ? 2 : 1;
	return m->n_added_tlvs ? weft_cfg_fail(c, &added, "is not supported in health checks") : 0;
}

static int read_tcp(struct weft_cfg *c, const struct weft_path *at, const TcpCheck *m,
		    struct weft_hc_conf *ret)
{
	struct weft_path send = {at, "send", -1}, proxy = {at, "proxy_protocol_config", -1};
	struct hc_bytes *v = weft_arena_alloc(c->arena, (m->n_receive + 1) * sizeof(*v));
	int r = 0;

	ret->kind = HC_TCP;
	if (m->send)
		r = read_payload(c, &send, m->send, &ret->send);
	for (size_t i = 0; i < m->n_receive; i++) {
		struct weft_path one = {at, "receive", (int)i};

		r |= read_payload(c, &one, m->receive[i], &v[i]);
	}
	ret->receive = v;
	ret->n_receive = m->n_receive;
	if (m->proxy_protocol_config)
		r |= read_proxy(c, &proxy, m->proxy_protocol_config, ret);
	return r < 0 ? -EINVAL : 0;
}

static int read_grpc(struct weft_cfg *c, const struct weft_path *at, const GrpcCheck *m,
		     const struct weft_cluster *cl, struct weft_hc_conf *ret)
{
	ret->kind = HC_GRPC;
	ret->h2 = true;
	ret->host = m->authority ? m->authority : "";
	ret->service = m->service_name ? m->service_name : "";
	ret->path = "/grpc.health.v1.Health/Check";
	ret->method = "POST";
	if (cl->http != WEFT_UP_H2 && cl->http != WEFT_UP_AUTO)
		return weft_cfg_fail(c, at, "the cluster must speak HTTP/2 for gRPC health checks");
	return read_headers(c, at, "initial_metadata", m->initial_metadata, m->n_initial_metadata,
			    ret);
}

static unsigned ms(const Google__Protobuf__Duration *d, unsigned dflt)
{
	int64_t v = weft_cfg_ms(d, dflt);

	return v < 0 ? 0 : v > INT_MAX ? INT_MAX : (unsigned)v;
}

static void read_times(const HealthCheck *m, struct weft_hc_conf *ret)
{
	ret->timeout_ms = ms(m->timeout, 0);
	ret->interval_ms = ms(m->interval, 0);
	ret->initial_jitter_ms = ms(m->initial_jitter, 0);
	ret->jitter_ms = ms(m->interval_jitter, 0);
	ret->jitter_pct = m->interval_jitter_percent;
	ret->unhealthy_threshold = weft_cfg_u32(m->unhealthy_threshold, 0);
	ret->healthy_threshold = weft_cfg_u32(m->healthy_threshold, 0);
	ret->no_traffic_ms = ms(m->no_traffic_interval, 60000);
	ret->no_traffic_healthy_ms = ms(m->no_traffic_healthy_interval, ret->no_traffic_ms);
	ret->unhealthy_ms = ms(m->unhealthy_interval, ret->interval_ms);
	ret->unhealthy_edge_ms = ms(m->unhealthy_edge_interval, ret->unhealthy_ms);
	ret->healthy_edge_ms = ms(m->healthy_edge_interval, ret->interval_ms);
	ret->reuse = weft_cfg_bool(m->reuse_connection, true);
}

static int read_one(struct weft_cfg *c, const struct weft_path *at, const HealthCheck *m,
		    const struct weft_cluster *cl, struct weft_hc_conf *ret)
{
	struct weft_path http = {at, "http_health_check", -1}, tcp = {at, "tcp_health_check", -1};
	struct weft_path grpc = {at, "grpc_health_check", -1};

	read_times(m, ret);
	if (weft_hc_files(c, at, m, ret) < 0)
		return -EINVAL;
	ret->criteria = m->transport_socket_match_criteria;
	if (m->tls_options && m->tls_options->n_alpn_protocols) {
		const char **v = weft_arena_alloc(c->arena, (m->tls_options->n_alpn_protocols + 1) *
								    sizeof(*v));

		for (size_t i = 0; i < m->tls_options->n_alpn_protocols; i++)
			v[i] = m->tls_options->alpn_protocols[i];
		ret->alpn = v;
	}
	switch (m->health_checker_case) {
	case ENVOY__CONFIG__CORE__V3__HEALTH_CHECK__HEALTH_CHECKER_HTTP_HEALTH_CHECK:
		return read_http(c, &http, m->http_health_check, ret);
	case ENVOY__CONFIG__CORE__V3__HEALTH_CHECK__HEALTH_CHECKER_TCP_HEALTH_CHECK:
		return read_tcp(c, &tcp, m->tcp_health_check, ret);
	case ENVOY__CONFIG__CORE__V3__HEALTH_CHECK__HEALTH_CHECKER_GRPC_HEALTH_CHECK:
		return read_grpc(c, &grpc, m->grpc_health_check, cl, ret);
	default:
		return weft_cfg_fail(c, at,
				     "must be an HTTP, TCP or gRPC health check; custom "
				     "ones are not supported");
	}
}

int weft_health_prepare(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl)
{
	const Envoy__Config__Cluster__V3__Cluster *m = cl->msg;
	struct weft_path list = {at, "health_checks", -1}, one = {at, "health_checks", 0};
	struct weft_hc_conf *v;

	if (!m->n_health_checks)
		return 0;
	if (m->n_health_checks > 1)
		return weft_cfg_fail(c, &list, "must have one health check at most, has %zu",
				     m->n_health_checks);
	v = weft_arena_alloc(c->arena, sizeof(*v));
	if (read_one(c, &one, m->health_checks[0], cl, v) < 0)
		return -EINVAL;
	cl->health = v;
	cl->n_health = 1;
	return 0;
}
