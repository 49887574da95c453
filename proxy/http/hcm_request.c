/* A request's head before its filters: checked, made canonical, told who sent it. The order is that
 * of Envoy's connection manager; where one step refuses, the ones after it do not happen. */
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct weft_headers *head_of(struct weft_stream *s)
{
	return s->head[WEFT_REQUEST];
}

/* Nothing more is read from an HTTP/1 connection. */
static void end_after(struct weft_stream *s)
{
	if (s->info.protocol == WEFT_HTTP_2)
		return;
	s->c->drain = HCM_CLOSING;
	weft_session_drain(s->c->session, 0);
}

static bool refuse(struct weft_stream *s, int status, const char *details)
{
	weft_stream_reply(s, status, details, NULL, NULL, NULL);
	return false;
}

/* ---- names with underscores */

static bool underscores(struct weft_stream *s)
{
	struct weft_headers *h = head_of(s);
	bool h2 = s->info.protocol == WEFT_HTTP_2;

	if (s->c->conf->underscores ==
	    ENVOY__CONFIG__CORE__V3__HTTP_PROTOCOL_OPTIONS__HEADERS_WITH_UNDERSCORES_ACTION__ALLOW)
		return true;
	for (uint32_t i = 0; i < h->n; i++) {
		if (!memchr(h->v[i].name, '_', h->v[i].name_len))
			continue;
		if (s->c->conf->underscores ==
		    ENVOY__CONFIG__CORE__V3__HTTP_PROTOCOL_OPTIONS__HEADERS_WITH_UNDERSCORES_ACTION__DROP_HEADER) {
			weft_headers_remove_at(h, i--);
			continue;
		}
		if (h2) {
			weft_stream_cut(s, WEFT_RESET_PROTOCOL, "http2.unexpected_underscore");
			return false;
		}
		/* as one that could not be read */
		end_after(s);
		hcm_count(s->c, WEFT_HTTP_downstream_cx_protocol_error);
		weft_info_flag(&s->info, WEFT_FLAG_DPE);
		s->head[WEFT_REQUEST] = NULL;
		weft_stream_reply(s, 400, "http1.unexpected_underscore", "Bad Request", NULL, NULL);
		return false;
	}
	return true;
}

/* ---- 100-continue: answered here unless it is to be passed on */

static void look_continue(struct weft_stream *s)
{
	const struct weft_header *e = weft_headers_get(head_of(s), WEFT_H_EXPECT);
	struct weft_headers h;

	if (!e || s->c->conf->proxy_100 || e->value_len != 12 ||
	    strncasecmp(e->value, "100-continue", 12) != 0)
		return;
	weft_headers_init(&h, s->arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, "100", 3);
	if (s->x)
		weft_exchange_send_informational(s->x, &h);
	weft_headers_remove_id(head_of(s), WEFT_H_EXPECT);
}

/* ---- host */

static bool check_host(struct weft_stream *s)
{
	if (weft_headers_get(head_of(s), WEFT_H_AUTHORITY))
		return true;
	return refuse(s, 400, "missing_host_header");
}

/* Where the port of host[0..n) begins (at the colon); n: it has none. */
static size_t port_at(const char *host, size_t n)
{
	size_t i = n;

	while (i && host[i - 1] >= '0' && host[i - 1] <= '9')
		i--;
	if (i == n || !i || host[i - 1] != ':')
		return n;
	/* an IPv6 address without brackets has no port */
	if (host[0] != '[' && memchr(host, ':', i - 1))
		return n;
	return i - 1;
}

static void fix_host(struct weft_stream *s)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	struct weft_header *a = weft_headers_get(head_of(s), WEFT_H_AUTHORITY);
	size_t n, host_n;
	char *own;

	if (!a || (!conf->strip_port && !conf->strip_dot))
		return;
	n = a->value_len;
	host_n = port_at(a->value, n);
	if (conf->strip_dot && host_n && a->value[host_n - 1] == '.') {
		own = weft_arena_alloc(s->arena, n);
		memcpy(own, a->value, host_n - 1);
		memcpy(own + host_n - 1, a->value + host_n, n - host_n);
		weft_headers_set_id(head_of(s), WEFT_H_AUTHORITY, own, n - 1);
		n--;
		host_n--;
		a = weft_headers_get(head_of(s), WEFT_H_AUTHORITY);
	}
	if (host_n == n || !conf->strip_port)
		return;
	if (conf->strip_port == HCM_PORT_MATCHING &&
	    (s->is_connect || atoi(a->value + host_n + 1) != s->info.down->local.port))
		return;
	weft_headers_set_id(head_of(s), WEFT_H_AUTHORITY,
			    weft_arena_strndup(s->arena, a->value, host_n), host_n);
}

/* ---- path */

static void add_location(void *ctx, struct weft_headers *h)
{
	const char *to = ctx;

	weft_headers_set_id(h, WEFT_H_LOCATION, to, strlen(to));
}

static bool check_path(struct weft_stream *s)
{
	struct weft_headers *h = head_of(s);
	struct weft_header *p = weft_headers_get(h, WEFT_H_PATH);
	const char *fixed;
	size_t n;
	enum weft_path_verdict v;

	if (!p || !p->value_len)
		return s->is_connect ? true : refuse(s, 404, "missing_path_rejected");
	if (p->value[0] != '/') {
		hcm_count(s->c, WEFT_HTTP_downstream_rq_non_relative_path);
		return refuse(s, 404, "absolute_path_rejected");
	}
	v = weft_path_fix(&s->c->conf->path, s->arena, p->value, p->value_len, &fixed, &n);
	if (v == WEFT_PATH_REJECT || (v == WEFT_PATH_REDIRECT && s->grpc)) {
		hcm_count(s->c, WEFT_HTTP_downstream_rq_failed_path_normalization);
		return refuse(s, 400, "path_normalization_failed");
	}
	if (fixed != p->value) {
		h->bytes += (uint32_t)n - p->value_len;
		p->value = fixed;
		p->value_len = (uint32_t)n;
	}
	if (v == WEFT_PATH_OK)
		return true;
	hcm_count(s->c, WEFT_HTTP_downstream_rq_redirected_with_normalized_path);
	weft_stream_reply(s, 307, "path_normalization_failed", NULL, add_location, (void *)fixed);
	return false;
}

/* ---- headers that only we, or those inside, may set */

static void remove_ids(struct weft_headers *h, const uint16_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (h->first[ids[i]])
			weft_headers_remove_id(h, ids[i]);
}

static void sanitize(struct weft_stream *s, bool edge)
{
	static const uint16_t of_edge[] = {
		WEFT_H_X_ENVOY_DECORATOR_OPERATION,
		WEFT_H_X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
		WEFT_H_X_ENVOY_DOWNSTREAM_SERVICE_NODE,
		WEFT_H_X_ENVOY_ORIGINAL_PATH,
	};
	static const uint16_t of_any[] = {
		WEFT_H_X_ENVOY_RETRIABLE_STATUS_CODES,
		WEFT_H_X_ENVOY_RETRIABLE_HEADER_NAMES,
		WEFT_H_X_ENVOY_RETRY_ON,
		WEFT_H_X_ENVOY_RETRY_GRPC_ON,
		WEFT_H_X_ENVOY_MAX_RETRIES,
		WEFT_H_X_ENVOY_UPSTREAM_ALT_STAT_NAME,
		WEFT_H_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
		WEFT_H_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
		WEFT_H_X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
		WEFT_H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
		WEFT_H_X_ENVOY_FORCE_TRACE,
		WEFT_H_X_ENVOY_IP_TAGS,
		WEFT_H_X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
	};
	struct weft_headers *h = head_of(s);
	const Envoy__Config__Route__V3__RouteConfiguration *m;

	if (edge)
		remove_ids(h, of_edge, sizeof(of_edge) / sizeof(*of_edge));
	remove_ids(h, of_any, sizeof(of_any) / sizeof(*of_any));
	if (weft_headers_find(h, "x-envoy-original-url", 20))
		weft_headers_remove(h, "x-envoy-original-url", 20);
	m = s->routes ? weft_routes_msg(s->routes) : NULL;
	for (size_t i = 0; m && i < m->n_internal_only_headers; i++)
		weft_headers_remove(h, m->internal_only_headers[i], 0);
}

static void set_scheme(struct weft_stream *s)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	struct weft_headers *h = head_of(s);
	const struct weft_header *proto;

	if (conf->set_scheme) {
		weft_headers_set_id(h, WEFT_H_SCHEME, conf->set_scheme, strlen(conf->set_scheme));
		weft_headers_set_id(h, WEFT_H_X_FORWARDED_PROTO, conf->set_scheme,
				    strlen(conf->set_scheme));
		return;
	}
	/* h1 has none of its own; what h2 says is what was agreed with whoever sent it */
	if (s->info.protocol == WEFT_HTTP_2 && weft_headers_get(h, WEFT_H_SCHEME))
		return;
	proto = weft_headers_get(h, WEFT_H_X_FORWARDED_PROTO);
	if (proto && ((proto->value_len == 4 && !strncasecmp(proto->value, "http", 4)) ||
		      (proto->value_len == 5 && !strncasecmp(proto->value, "https", 5))))
		weft_headers_set_id(h, WEFT_H_SCHEME, proto->value, proto->value_len);
	else
		weft_headers_set_id(h, WEFT_H_SCHEME, weft_stream_is_tls(s) ? "https" : "http",
				    weft_stream_is_tls(s) ? 5 : 4);
}

static const char *peer_pem(void *ctx, bool chain)
{
	struct weft_stream *s = ctx;
	struct weft_io *io = weft_session_io(s->c->session);

	return chain ? weft_io_peer_chain_pem(io) : weft_io_peer_pem(io);
}

static void set_user_agent(struct weft_stream *s)
{
	const char *ua = s->c->conf->user_agent;
	const struct weft_header *h = weft_headers_get(head_of(s), WEFT_H_USER_AGENT);

	if (!ua)
		return;
	weft_headers_set_id(head_of(s), WEFT_H_X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, ua, strlen(ua));
	if (!h || !h->value_len)
		weft_headers_set_id(head_of(s), WEFT_H_USER_AGENT, ua, strlen(ua));
	if (s->c->conf->node)
		weft_headers_set_id(head_of(s), WEFT_H_X_ENVOY_DOWNSTREAM_SERVICE_NODE,
				    s->c->conf->node, strlen(s->c->conf->node));
}

static void mutate_early(struct weft_stream *s)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	struct weft_format_in in = {.info = &s->info, .req = head_of(s)};

	for (size_t i = 0; i < conf->n_early; i++)
		weft_mutations_apply(&conf->early[i], &in, head_of(s));
}

static void mutate(struct weft_stream *s)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	struct weft_headers *h = head_of(s);
	struct weft_xff_found who;
	char text[WEFT_IP_TEXT];

	if (conf->n_early)
		mutate_early(s);
	weft_headers_remove_id(h, WEFT_H_X_ENVOY_INTERNAL);
	weft_xff_apply(&conf->xff, s->info.down, h, &who);
	s->info.remote = who.remote;
	if (who.internal) {
		weft_headers_set_id(h, WEFT_H_X_ENVOY_INTERNAL, "true", 4);
	} else {
		sanitize(s, who.edge);
		if (who.edge && who.remote.ip.family) {
			weft_ip_text(&who.remote.ip, text, sizeof(text));
			weft_headers_set_id(h, WEFT_H_X_ENVOY_EXTERNAL_ADDRESS, text, strlen(text));
		}
	}
	set_user_agent(s);
	weft_hcm_via(conf, h);
	set_scheme(s);
	weft_request_id_set(s, who.edge);
	weft_xfcc_apply(&conf->xfcc, s->info.down->tls, peer_pem, s, h);
}

bool weft_hcm_request(struct weft_stream *s)
{
	struct hcm_conn *c = s->c;

	/* an h1 connection may speak 1.0 once and 1.1 later */
	s->info.protocol = weft_exchange_version(s->x);
	hcm_count(c, WEFT_HTTP_downstream_rq_total);
	weft_scope_add(c->conf->scope, WEFT_HTTP_downstream_rq_active, 1);
	hcm_count(c, s->info.protocol == WEFT_HTTP_2 ? WEFT_HTTP_downstream_rq_http2_total
						     : WEFT_HTTP_downstream_rq_http1_total);
	if (weft_hcm_overloaded(s))
		return false;
	if (!underscores(s))
		return false;
	look_continue(s);
	if (!check_host(s) || !check_path(s))
		return false;
	fix_host(s);
	mutate(s);
	if (c->conf->tracing && c->conf->logs)
		s->info.trace_id = weft_trace_id_of(head_of(s), s->arena);
	return true;
}
