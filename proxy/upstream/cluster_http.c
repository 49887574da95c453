/* How a cluster speaks HTTP: typed_extension_protocol_options, or the deprecated fields. */
#include "proxy/core/arena.h"
#include "proxy/upstream/cluster_int.h"
#include "xds/proto/envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.pb-c.h"
#include "xds/proto/envoy/extensions/upstreams/http/v3/http_protocol_options.pb-c.h"

#include <errno.h>
#include <string.h>

typedef Envoy__Config__Cluster__V3__Cluster Cluster;
typedef Envoy__Extensions__Upstreams__Http__V3__HttpProtocolOptions Options;
typedef Envoy__Config__Core__V3__Http1ProtocolOptions Http1;
typedef Envoy__Config__Core__V3__Http2ProtocolOptions Http2;
#define OPTIONS "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
#define PROTOCOL(x)                                                                                \
	ENVOY__EXTENSIONS__UPSTREAMS__HTTP__V3__HTTP_PROTOCOL_OPTIONS__UPSTREAM_PROTOCOL_OPTIONS_##x
#define EXPLICIT(x)                                                                                \
	ENVOY__EXTENSIONS__UPSTREAMS__HTTP__V3__HTTP_PROTOCOL_OPTIONS__EXPLICIT_HTTP_CONFIG__PROTOCOL_CONFIG_##x

#define FORMAT(x)                                                                                  \
	ENVOY__CONFIG__CORE__V3__HTTP1_PROTOCOL_OPTIONS__HEADER_KEY_FORMAT__HEADER_FORMAT_##x

/* Durations of 0 switch off: kept apart from those not given. */
static void common(struct weft_cluster *cl, const Envoy__Config__Core__V3__HttpProtocolOptions *m)
{
	uint32_t count;

	if (!m)
		return;
	cl->idle_ms = (unsigned)weft_cfg_ms(m->idle_timeout, cl->idle_ms);
	cl->max_connection_ms = (unsigned)weft_cfg_ms(m->max_connection_duration, 0);
	cl->max_stream_ms = (unsigned)weft_cfg_ms(m->max_stream_duration, 0);
	cl->max_requests_per_connection =
		weft_cfg_u32(m->max_requests_per_connection, cl->max_requests_per_connection);
	count = weft_cfg_u32(m->max_headers_count, 0);
	cl->max_response_headers = count;
	cl->session_h1.h1.max_headers = cl->session_h2.h2.max_headers = count;
	count = weft_cfg_u32(m->max_response_headers_kb, 60) * 1024;
	cl->session_h1.h1.max_header_bytes = cl->session_h2.h2.max_header_bytes = count;
}

static void http1(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		  const Http1 *m)
{
	const struct weft_path format = {at, "header_key_format", -1},
			       stateful = {&format, "stateful_formatter", -1};
	struct weft_h1_options *o = &cl->session_h1.h1;
	const Envoy__Extensions__Http__HeaderFormatters__PreserveCase__V3__PreserveCaseFormatterConfig
		*pc;

	if (!m)
		return;
	o->accept_http_10 = m->accept_http_10;
	o->default_host = m->default_host_for_http_10;
	o->enable_trailers = m->enable_trailers;
	o->allow_chunked_length = m->allow_chunked_length;
	o->send_fully_qualified_url = m->send_fully_qualified_url;
	o->allow_absolute_url = weft_cfg_bool(m->allow_absolute_url, true);
	o->stream_error_on_invalid =
		weft_cfg_bool(m->override_stream_error_on_invalid_http_message, false);
	if (!m->header_key_format)
		return;
	o->proper_case = m->header_key_format->header_format_case == FORMAT(PROPER_CASE_WORDS);
	if (m->header_key_format->header_format_case != FORMAT(STATEFUL_FORMATTER))
		return;
	o->preserve_case = true;
	pc = (const void *)weft_cfg_any(
		c, &stateful, m->header_key_format->stateful_formatter->typed_config,
		weft_cfg_type("type.googleapis.com/envoy.extensions.http.header_formatters."
			      "preserve_case.v3.PreserveCaseFormatterConfig"));
	if (!pc)
		return;
	o->preserve_reason = pc->forward_reason_phrase;
	o->proper_rest =
		pc->formatter_type_on_envoy_headers ==
		ENVOY__EXTENSIONS__HTTP__HEADER_FORMATTERS__PRESERVE_CASE__V3__PRESERVE_CASE_FORMATTER_CONFIG__FORMATTER_TYPE_ON_ENVOY_HEADERS__PROPER_CASE;
}

static void http2(struct weft_cluster *cl, const Http2 *m)
{
	struct weft_h2_options *o = &cl->session_h2.h2;

	o->table_size = UINT32_MAX;
	if (!m)
		return;
	o->table_size = weft_cfg_u32(m->hpack_table_size, UINT32_MAX);
	o->max_streams = weft_cfg_u32(m->max_concurrent_streams, 0);
	o->stream_window = weft_cfg_u32(m->initial_stream_window_size, 0);
	o->conn_window = weft_cfg_u32(m->initial_connection_window_size, 0);
	o->allow_connect = m->allow_connect;
	o->max_outbound_frames = weft_cfg_u32(m->max_outbound_frames, 0);
	o->max_outbound_control_frames = weft_cfg_u32(m->max_outbound_control_frames, 0);
	o->stream_error_on_invalid = weft_cfg_bool(m->override_stream_error_on_invalid_http_message,
						   m->stream_error_on_invalid_http_messaging);
	if (!m->connection_keepalive)
		return;
	o->ping_interval_ms = (unsigned)weft_cfg_ms(m->connection_keepalive->interval, 0);
	o->ping_timeout_ms = (unsigned)weft_cfg_ms(m->connection_keepalive->timeout, 0);
}

static int no_http3(struct weft_cfg *c, const struct weft_path *at, const void *m)
{
	const struct weft_path p = {at, "http3_protocol_options", -1};

	return m ? weft_cfg_fail(c, &p, "HTTP/3 is not supported") : 0;
}

/* Both protocols on one port want ALPN to choose, and ALPN wants TLS. */
static void automatic(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		      const Options *m)
{
	const struct weft_path p = {at, "auto_config", -1}, h1 = {&p, "http_protocol_options", -1};

	cl->http = WEFT_UP_AUTO;
	http1(c, &h1, cl, m->auto_config->http_protocol_options);
	http2(cl, m->auto_config->http2_protocol_options);
	no_http3(c, &p, m->auto_config->http3_protocol_options);
	if (!cl->msg->transport_socket && !cl->msg->n_transport_socket_matches)
		weft_cfg_fail(c, &p, "wants a transport_socket that negotiates by ALPN");
}

static void explicitly(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		       const Options *m)
{
	const struct weft_path p = {at, "explicit_http_config", -1},
			       h1 = {&p, "http_protocol_options", -1};

	switch (m->explicit_http_config->protocol_config_case) {
	case EXPLICIT(HTTP2_PROTOCOL_OPTIONS):
		cl->http = WEFT_UP_H2;
		http2(cl, m->explicit_http_config->http2_protocol_options);
		break;
	case EXPLICIT(HTTP3_PROTOCOL_OPTIONS):
		no_http3(c, &p, m->explicit_http_config->http3_protocol_options);
		break;
	default:
		cl->http = WEFT_UP_H1;
		http1(c, &h1, cl, m->explicit_http_config->http_protocol_options);
	}
}

static void as_downstream(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
			  const Options *m)
{
	const struct weft_path p = {at, "use_downstream_protocol_config", -1},
			       h1 = {&p, "http_protocol_options", -1};

	cl->http = WEFT_UP_DOWNSTREAM;
	http1(c, &h1, cl, m->use_downstream_protocol_config->http_protocol_options);
	http2(cl, m->use_downstream_protocol_config->http2_protocol_options);
	no_http3(c, &p, m->use_downstream_protocol_config->http3_protocol_options);
}

static void names(struct weft_cluster *cl,
		  const Envoy__Config__Core__V3__UpstreamHttpProtocolOptions *m)
{
	if (!m)
		return;
	cl->priv->auto_sni = m->auto_sni;
	cl->priv->auto_san = m->auto_san_validation;
	if (m->override_auto_sni_header && *m->override_auto_sni_header)
		cl->priv->auto_sni_header =
			weft_arena_strdup(cl->arena, m->override_auto_sni_header);
}

static void typed(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		  const Options *m)
{
	common(cl, m->common_http_protocol_options);
	names(cl, m->upstream_http_protocol_options);
	switch (m->upstream_protocol_options_case) {
	case PROTOCOL(EXPLICIT_HTTP_CONFIG):
		explicitly(c, at, cl, m);
		break;
	case PROTOCOL(USE_DOWNSTREAM_PROTOCOL_CONFIG):
		as_downstream(c, at, cl, m);
		break;
	case PROTOCOL(AUTO_CONFIG):
		automatic(c, at, cl, m);
		break;
	default:
		weft_cfg_fail(c, at,
			      "wants one of explicit_http_config, use_downstream_protocol_config, "
			      "auto_config");
	}
}

static void deprecated(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl)
{
	const struct weft_path h1 = {at, "http_protocol_options", -1};
	const Cluster *m = cl->msg;

	common(cl, m->common_http_protocol_options);
	names(cl, m->upstream_http_protocol_options);
	http1(c, &h1, cl, m->http_protocol_options);
	http2(cl, m->http2_protocol_options);
	if (m->http2_protocol_options)
		cl->http = WEFT_UP_H2;
	if (m->protocol_selection ==
	    ENVOY__CONFIG__CLUSTER__V3__CLUSTER__CLUSTER_PROTOCOL_SELECTION__USE_DOWNSTREAM_PROTOCOL)
		cl->http = WEFT_UP_DOWNSTREAM;
}

int cluster_http(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl)
{
	const Options *o = NULL;
	const Cluster *m = cl->msg;

	cl->http = WEFT_UP_H1;
	cl->idle_ms = 3600 * 1000;
	cl->max_requests_per_connection = weft_cfg_u32(m->max_requests_per_connection, 0);
	cl->session_h1.version = WEFT_HTTP_11;
	cl->session_h2.version = WEFT_HTTP_2;
	cl->session_h1.h1.allow_absolute_url = true;
	cl->session_h1.buffer_bytes = cl->session_h2.buffer_bytes = cl->buffer_bytes;
	cl->session_h2.h2.table_size = UINT32_MAX;
	for (size_t i = 0; i < m->n_typed_extension_protocol_options; i++) {
		const char *key = m->typed_extension_protocol_options[i]->key;
		const struct weft_path map = {at, "typed_extension_protocol_options", (int)i},
				       value = {&map, "value", -1};

		if (!key || strcmp(key, OPTIONS) != 0) {
			weft_cfg_fail(c, &map, "\"%.100s\" is not supported: must be " OPTIONS,
				      key ? key : "");
			continue;
		}
		o = (const Options *)weft_cfg_any(
			c, &value, m->typed_extension_protocol_options[i]->value,
			&envoy__extensions__upstreams__http__v3__http_protocol_options__descriptor);
		if (o)
			typed(c, &map, cl, o);
	}
	if (!m->n_typed_extension_protocol_options)
		deprecated(c, at, cl);
	return 0;
}
