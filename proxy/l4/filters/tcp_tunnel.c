/* tcp_proxy's tunneling_config: the connection's bytes inside a CONNECT (or POST) to the upstream.
 */
#include "proxy/l4/filters/tcp_priv.h"

#include "proxy/core/worker.h"
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { ANSWER_MS = 60 * 1000 }; /* for the peer to connect and say so */

static void on_answer_late(struct weft_timer *timer)
{
	struct tcp *t = (struct tcp *)((char *)timer - offsetof(struct tcp, answer));

	tcp_failed(t, true, "no answer to the CONNECT in time");
}

static void add(struct tcp *t, struct weft_headers *h, const struct tcp_header *a)
{
	struct weft_format_in in = {.info = t->info, .req = h};
	bool empty, there = weft_headers_find(h, a->name, 0);
	size_t n;
	const char *v = weft_format_string(a->value, &in, t->info->arena, &n, &empty);

	if ((!n && !a->keep_empty) || (there && a->how == TCP_IF_ABSENT) ||
	    (!there && a->how == TCP_IF_PRESENT))
		return;
	if (a->how == TCP_OVERWRITE || a->how == TCP_IF_PRESENT)
		weft_headers_set(h, a->name, strlen(a->name), v, n);
	else
		weft_headers_add(h, a->name, strlen(a->name), v, n);
}

static void head(struct tcp *t, struct weft_headers *h)
{
	const struct tcp_tunnel_conf *c = t->conf->tunnel;
	struct weft_format_in in = {.info = t->info};
	bool empty;
	size_t n, i;
	const char *host = weft_format_string(c->hostname, &in, t->info->arena, &n, &empty);

	weft_headers_init(h, t->info->arena);
	if (c->post_path) {
		bool tls = weft_io_info(weft_session_io(t->lease->session))->tls;

		weft_headers_add_id(h, WEFT_H_METHOD, "POST", 4);
		weft_headers_add_id(h, WEFT_H_SCHEME, tls ? "https" : "http", tls ? 5 : 4);
		weft_headers_add_id(h, WEFT_H_AUTHORITY, host, n);
		weft_headers_add_id(h, WEFT_H_PATH, c->post_path, strlen(c->post_path));
	} else {
		weft_headers_add_id(h, WEFT_H_METHOD, "CONNECT", 7);
		weft_headers_add_id(h, WEFT_H_AUTHORITY, host, n);
	}
	for (i = 0; i < c->n_headers; i++)
		add(t, h, &c->headers[i]);
}

static void on_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct tcp *t = weft_exchange_user(x);
	int status = weft_headers_status(h);
	char why[64];

	if (t->over || t->open)
		return;
	if (status < 200 || status > 299) {
		snprintf(why, sizeof(why), "the tunnel was answered with %d", status);
		tcp_failed(t, false, why);
		return;
	}
	t->info->up_protocol = weft_exchange_version(x) == WEFT_HTTP_2 ? "HTTP/2" : "HTTP/1.1";
	tcp_established(t);
	if (end && !t->over) {
		t->up_eof = true;
		weft_io_shutdown(t->down);
	}
}

static void on_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct tcp *t = weft_exchange_user(x);
	size_t n = evbuffer_get_length(b);

	if (t->over || !t->open)
		return;
	t->last_ns = weft_now_ns();
	tcp_count(t, 0, n);
	if (n) {
		evbuffer_add_buffer(weft_io_out(t->down), b);
		weft_io_flush(t->down);
	}
	if (end) {
		t->up_eof = true;
		weft_io_shutdown(t->down);
	}
	if (weft_io_full(t->down) && !t->up_held) {
		t->up_held = true;
		weft_exchange_pause(x);
	}
}

static void on_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct tcp *t = weft_exchange_user(x);

	if (t->over || !t->open)
		return;
	t->up_eof = true;
	weft_io_shutdown(t->down);
}

static void on_writable(struct weft_exchange *x)
{
	struct tcp *t = weft_exchange_user(x);

	if (!t->down_held || t->over)
		return;
	t->down_held = false;
	weft_scope_add(t->conf->scope, TCP_downstream_flow_control_resumed_reading_total, 1);
	weft_io_resume(t->down);
}

static void on_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct tcp *t = weft_exchange_user(x);
	const char *detail = weft_exchange_detail(x);

	if (t->over)
		return;
	if (!t->open) {
		t->x = NULL;
		tcp_failed(t, false, *detail ? detail : "the tunnel was reset");
		return;
	}
	weft_exchange_bytes(x, &t->info->up_rx_wire, &t->info->up_tx_wire);
	t->x = NULL;
	weft_info_flag(t->info, WEFT_FLAG_UC);
	tcp_finish(t, TCP_END_UP_RESET, NULL);
}

static void on_done(struct weft_exchange *x)
{
	struct tcp *t = weft_exchange_user(x);

	weft_exchange_bytes(x, &t->info->up_rx_wire, &t->info->up_tx_wire);
	t->x = NULL;
	if (!t->open && !t->over)
		tcp_failed(t, false, "the tunnel ended before it began");
	else
		tcp_finish(t, TCP_END_ORDER, NULL);
}

static const struct weft_exchange_ops x_ops = {.headers = on_headers,
					       .data = on_data,
					       .trailers = on_trailers,
					       .writable = on_writable,
					       .reset = on_reset,
					       .done = on_done};

static int begin(struct tcp *t)
{
	struct weft_headers *h = weft_arena_alloc(t->info->arena, sizeof(*h));
	int r;

	head(t, h);
	r = weft_exchange_open(t->lease->session, &x_ops, t, t->info->arena, h, true, &t->x);
	if (!r)
		weft_timer_set(t->timers, &t->answer, ANSWER_MS, weft_now_ns(), on_answer_late);
	return r;
}

static void on_lease(void *owner, struct weft_lease *l)
{
	struct tcp *t = owner;
	int r = begin(t);

	if (r)
		tcp_failed(t, false, strerror(-r));
}

static void on_no_lease(void *owner, struct weft_lease *l, enum weft_reset why, const char *detail)
{
	struct tcp *t = owner;

	if (why == WEFT_RESET_OVERFLOW) {
		weft_info_flag(t->info, WEFT_FLAG_UO);
		tcp_finish(t, TCP_END_LOCAL, "upstream_overflow");
		return;
	}
	tcp_failed(t, why == WEFT_RESET_TIMEOUT, detail);
}

static const struct weft_lease_ops lease_ops = {.ready = on_lease, .failed = on_no_lease};

int tcp_tunnel_start(struct tcp *t, struct weft_host *h, const struct weft_take *how)
{
	int r = weft_pool_take(t->wc, h, how, &lease_ops, t, &t->lease);

	return r > 0 ? begin(t) : r;
}

void tcp_tunnel_send(struct tcp *t, struct evbuffer *b, bool end)
{
	int r;

	if (!t->x) {
		evbuffer_drain(b, evbuffer_get_length(b));
		return;
	}
	r = weft_exchange_send_data(t->x, b, end);
	if (r || end || t->down_held)
		return;
	t->down_held = true;
	weft_scope_add(t->conf->scope, TCP_downstream_flow_control_paused_reading_total, 1);
	weft_io_pause(t->down);
}

void tcp_tunnel_resume(struct tcp *t)
{
	if (t->x)
		weft_exchange_resume(t->x);
}

void tcp_tunnel_end(struct tcp *t)
{
	struct weft_lease *l = t->lease;

	if (t->x)
		weft_exchange_reset(t->x, WEFT_RESET_LOCAL);
	t->x = NULL;
	t->lease = NULL;
	if (l)
		weft_lease_done(l);
}
