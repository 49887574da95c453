/* Answers' heads on their way to the client. */
#include "proxy/http/proxy_status.h"
#include "proxy/http/stream_priv.h"

#include "proxy/l4/local_health.h"

#include <string.h>

#define SERVER(x)                                                                                  \
	ENVOY__EXTENSIONS__FILTERS__NETWORK__HTTP_CONNECTION_MANAGER__V3__HTTP_CONNECTION_MANAGER__SERVER_HEADER_TRANSFORMATION__##x

static void set_server(const struct weft_hcm_conf *conf, struct weft_headers *h)
{
	struct weft_header *f = weft_headers_get(h, WEFT_H_SERVER);

	if (conf->server_header == SERVER(PASS_THROUGH) ||
	    (f && conf->server_header == SERVER(APPEND_IF_ABSENT)))
		return;
	if (f)
		weft_headers_remove_id(h, WEFT_H_SERVER);
	weft_headers_add_ref(h, WEFT_H_SERVER, "server", 6, conf->server_name, conf->server_name_n);
}

const char *weft_hcm_error_fields(struct weft_arena *a, const struct weft_hcm_conf *conf)
{
	bool server = conf->server_header != SERVER(PASS_THROUGH);

	return weft_arena_printf(a, "%s%s%s%s%s%s", server ? "server: " : "",
				 server ? conf->server_name : "", server ? "\r\n" : "",
				 conf->via ? "via: " : "", conf->via ?: "",
				 conf->via ? "\r\n" : "");
}

static void set_date(struct weft_stream *s, struct weft_headers *h)
{
	char *date;

	if (weft_headers_get(h, WEFT_H_DATE))
		return;
	date = weft_arena_alloc(s->arena, 30);
	memcpy(date, weft_hcm_date(s->c->w, s->now), 30);
	weft_headers_add_ref(h, WEFT_H_DATE, "date", 4, date, 29);
}

void weft_hcm_via(const struct weft_hcm_conf *conf, struct weft_headers *h)
{
	const struct weft_header *f;
	const char *text;

	if (!conf->via)
		return;
	f = weft_headers_get(h, WEFT_H_VIA);
	text = f && f->value_len ? weft_arena_printf(h->arena, "%s, %s", f->value, conf->via)
				 : conf->via;
	weft_headers_set_id(h, WEFT_H_VIA, text, strlen(text));
}

/* The connection ends with this answer where it must or was asked to. */
static void look_last(struct weft_stream *s, bool tunnel)
{
	struct hcm_conn *c = s->c;

	c->n_requests++;
	if (c->conf->max_requests && c->drain == HCM_OPEN &&
	    weft_session_total(c->session) >= c->conf->max_requests) {
		hcm_count(c, WEFT_HTTP_downstream_cx_max_requests_reached);
		weft_hcm_drain_begin(c);
	} else if (c->drain == HCM_OPEN && !c->conf->modify_only && weft_local_health_failed()) {
		hcm_count(c, WEFT_HTTP_downstream_cx_drain_close);
		weft_hcm_drain_begin(c);
	} else if (weft_hcm_no_keepalive(c)) {
		weft_hcm_drain_begin(c);
	} else if (c->soft) {
		c->soft = false;
		weft_scope_add(c->conf->scope, WEFT_HTTP_downstream_cx_http1_soft_drain, -1);
		weft_hcm_drain_begin(c);
	}
	if (s->rx_end)
		return;
	hcm_count(c, WEFT_HTTP_downstream_rq_response_before_rq_complete);
	/* nobody waits for the rest of the request: h1 has no other way to say so */
	if (s->info.protocol != WEFT_HTTP_2 && !tunnel) {
		c->drain = HCM_CLOSING;
		weft_session_drain(c->session, 0);
	}
}

void weft_hcm_response(struct weft_stream *s, struct weft_headers *h)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	const struct weft_headers *req = s->head[WEFT_REQUEST];

	int status = weft_headers_status(h);

	if (s->c->session)
		look_last(s, s->is_upgrade ? status == 101 : s->is_connect && status / 100 == 2);
	if (s->info.request_id && req &&
	    (conf->id_in_response || weft_headers_get(req, WEFT_H_X_ENVOY_FORCE_TRACE)))
		weft_headers_set_id(h, WEFT_H_X_REQUEST_ID, s->info.request_id,
				    strlen(s->info.request_id));
	weft_hcm_via(conf, h);
	set_date(s, h);
	set_server(conf, h);
	if (conf->proxy_status)
		weft_proxy_status_apply(conf->proxy_status, &s->info, h);
}
