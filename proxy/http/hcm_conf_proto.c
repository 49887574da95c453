/* What a connection manager's configuration says of HTTP/1 and HTTP/2 themselves. */
#include "proxy/http/hcm_priv.h"
#include "proxy/policy/match.h"

#include "xds/proto/envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.pb-c.h"

#include <errno.h>
#include <string.h>

typedef Envoy__Config__Core__V3__Http1ProtocolOptions h1_msg;
typedef Envoy__Config__Core__V3__Http2ProtocolOptions h2_msg;
typedef Envoy__Extensions__Http__HeaderFormatters__PreserveCase__V3__PreserveCaseFormatterConfig
	case_msg;

enum {
	HEADERS_KB = 60,
	HEADERS_COUNT = 100,
	KEEPALIVE_TIMEOUT_MS = 1000,
	/* what Envoy 1.36 tells its clients */
	H2_STREAMS = 1024,
	H2_STREAM_WINDOW = 16 << 20,
	H2_CONN_WINDOW = 24 << 20,
};

static int prepare_case(struct weft_cfg *c, const struct weft_path *at, const h1_msg *m,
			struct weft_h1_options *o)
{
	struct weft_path p = {at, "header_key_format", -1}, t = {&p, "stateful_formatter", -1},
			 u = {&t, "typed_config", -1};
	const case_msg *pc;
	const ProtobufCMessage *x;

	switch (m->header_key_format->header_format_case) {
	case ENVOY__CONFIG__CORE__V3__HTTP1_PROTOCOL_OPTIONS__HEADER_KEY_FORMAT__HEADER_FORMAT_PROPER_CASE_WORDS:
		o->proper_case = true;
		return 0;
	case ENVOY__CONFIG__CORE__V3__HTTP1_PROTOCOL_OPTIONS__HEADER_KEY_FORMAT__HEADER_FORMAT_STATEFUL_FORMATTER:
		break;
	default:
		return weft_cfg_fail(c, &p, "must have proper_case_words or stateful_formatter");
	}
	x = weft_cfg_any(c, &u, m->header_key_format->stateful_formatter->typed_config, NULL);
	if (!x)
		return -EINVAL;
	if (x->descriptor !=
	    &envoy__extensions__http__header_formatters__preserve_case__v3__preserve_case_formatter_config__descriptor)
		return weft_cfg_fail(c, &u, "%s is not supported; preserve_case is",
				     x->descriptor->name);
	pc = (const void *)x;
	o->preserve_case = true;
	o->preserve_reason = pc->forward_reason_phrase;
	o->proper_rest =
		pc->formatter_type_on_envoy_headers ==
		ENVOY__EXTENSIONS__HTTP__HEADER_FORMATTERS__PRESERVE_CASE__V3__PRESERVE_CASE_FORMATTER_CONFIG__FORMATTER_TYPE_ON_ENVOY_HEADERS__PROPER_CASE;
	return 0;
}

struct ignored_upgrades {
	size_t n;
	struct weft_strmatch v[];
};

static bool ignore_upgrade(const void *ctx, const char *protocol, size_t n)
{
	const struct ignored_upgrades *u = ctx;

	for (size_t i = 0; i < u->n; i++)
		if (weft_strmatch(&u->v[i], protocol, n) == WEFT_MATCH_YES)
			return true;
	return false;
}

static int prepare_ignored(struct weft_cfg *c, const struct weft_path *at, const h1_msg *m,
			   struct weft_h1_options *o)
{
	size_t n = m->n_ignore_http_11_upgrade;
	struct ignored_upgrades *u = weft_arena_alloc(c->arena, sizeof(*u) + n * sizeof(*u->v));
	int err = 0;

	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at, "ignore_http_11_upgrade", (int)i};

		err |= weft_strmatch_prepare(c, &p, m->ignore_http_11_upgrade[i], &u->v[i]);
	}
	u->n = n;
	o->ignore_upgrade = n ? ignore_upgrade : NULL;
	o->ignore_ctx = u;
	return err ? -EINVAL : 0;
}

static int prepare_h1(struct weft_cfg *c, const struct weft_path *at, const h1_msg *m,
		      struct weft_h1_options *o)
{
	struct weft_path p = {at, "http_protocol_options", -1};
	int err;

	o->allow_absolute_url = true;
	if (!m)
		return 0;
	o->allow_absolute_url = weft_cfg_bool(m->allow_absolute_url, true);
	o->accept_http_10 = m->accept_http_10;
	if (m->default_host_for_http_10 && *m->default_host_for_http_10)
		o->default_host = weft_arena_strdup(c->arena, m->default_host_for_http_10);
	o->enable_trailers = m->enable_trailers;
	o->allow_chunked_length = m->allow_chunked_length;
	if (m->override_stream_error_on_invalid_http_message)
		o->stream_error_on_invalid =
			m->override_stream_error_on_invalid_http_message->value;
	err = prepare_ignored(c, &p, m, o);
	return m->header_key_format && prepare_case(c, &p, m, o) ? -EINVAL : err;
}

static int prepare_h2(struct weft_cfg *c, const struct weft_path *at, const h2_msg *m,
		      struct weft_h2_options *o)
{
	struct weft_path p = {at, "http2_protocol_options", -1};

	o->table_size = weft_cfg_u32(m ? m->hpack_table_size : NULL, UINT32_MAX);
	o->max_streams = weft_cfg_u32(m ? m->max_concurrent_streams : NULL, H2_STREAMS);
	o->stream_window = weft_cfg_u32(m ? m->initial_stream_window_size : NULL, H2_STREAM_WINDOW);
	o->conn_window = weft_cfg_u32(m ? m->initial_connection_window_size : NULL, H2_CONN_WINDOW);
	if (!m)
		return 0;
	o->allow_connect = m->allow_connect;
	o->max_outbound_frames = weft_cfg_u32(m->max_outbound_frames, 0);
	o->max_outbound_control_frames = weft_cfg_u32(m->max_outbound_control_frames, 0);
	if (m->override_stream_error_on_invalid_http_message)
		o->stream_error_on_invalid =
			m->override_stream_error_on_invalid_http_message->value;
	else if (m->stream_error_on_invalid_http_messaging)
		o->stream_error_on_invalid = true;
	if (m->connection_keepalive) {
		o->ping_interval_ms = (uint32_t)weft_cfg_ms(m->connection_keepalive->interval, 0);
		o->ping_timeout_ms = (uint32_t)weft_cfg_ms(m->connection_keepalive->timeout,
							   KEEPALIVE_TIMEOUT_MS);
	}
	if (m->allow_metadata)
		return weft_cfg_fail(c, &p, "allow_metadata: true is not supported");
	return 0;
}

/* A head is part of its stream: of the timeouts that run from its first byte the first one counts.
 */
static uint64_t head_ms(const hcm_msg *m, struct weft_hcm_conf *conf)
{
	const uint64_t v[] = {
		[HCM_LATE_HEADERS] = weft_cfg_ms(m->request_headers_timeout, 0),
		[HCM_LATE_REQUEST] = conf->ms.request,
		[HCM_LATE_IDLE] = conf->ms.stream_idle,
	};
	uint64_t ms = 0;

	for (uint8_t i = 0; i < sizeof(v) / sizeof(*v); i++)
		if (v[i] && (!ms || v[i] < ms)) {
			ms = v[i];
			conf->late = i;
		}
	return ms < UINT32_MAX ? ms : UINT32_MAX;
}

int weft_hcm_prepare_session(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			     struct weft_hcm_conf *conf)
{
	const Envoy__Config__Core__V3__HttpProtocolOptions *o = m->common_http_protocol_options;
	bool lenient = weft_cfg_bool(m->stream_error_on_invalid_http_message, false);
	uint32_t kb = weft_cfg_u32(m->max_request_headers_kb, HEADERS_KB);
	uint64_t ms = conf->ms.delayed_close;
	struct weft_session_conf s = {.server = true};
	int err;

	s.h1.max_headers = s.h2.max_headers =
		weft_cfg_u32(o ? o->max_headers_count : NULL, HEADERS_COUNT);
	s.h1.max_header_bytes = s.h2.max_header_bytes = kb * 1024;
	s.h1.stream_error_on_invalid = s.h2.stream_error_on_invalid = lenient;
	s.headers_ms = (uint32_t)head_ms(m, conf);
	s.delayed_close_ms = ms ? (uint32_t)ms : UINT32_MAX;
	s.h1.error_fields = weft_hcm_error_fields(c->arena, conf);
	s.h1.owner_checks = true;
	err = prepare_h1(c, at, m->http_protocol_options, &s.h1);
	err |= prepare_h2(c, at, m->http2_protocol_options, &s.h2);
	for (unsigned i = 0; i < HCM_CODECS; i++)
		conf->session[i] = s;
	conf->session[HCM_AUTO].version = WEFT_HTTP_10; /* found out by its first bytes */
	conf->session[HCM_H1].version = WEFT_HTTP_11;
	conf->session[HCM_H2].version = WEFT_HTTP_2;
	return err;
}
