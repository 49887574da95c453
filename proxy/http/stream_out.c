/* The response side of a stream: what the terminal filter says, and what goes to the client. */
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"

#include <string.h>

static bool deaf(const struct weft_stream *s)
{
	return s->over || s->local;
}

void weft_stream_respond_informational(struct weft_stream *s, struct weft_headers *h)
{
	if (deaf(s) || !s->x || s->answering)
		return;
	/* ours was sent already where the client waits for it */
	if (weft_headers_status(h) == 100 && !s->c->conf->proxy_100)
		return;
	weft_exchange_send_informational(s->x, h);
}

void weft_stream_respond_headers(struct weft_stream *s, struct weft_headers *h, bool end)
{
	if (deaf(s) || s->answering)
		return;
	stream_enter(s);
	s->answering = true;
	s->head[WEFT_RESPONSE] = h;
	s->info.status = weft_headers_status(h); /* filters may ask */
	s->resp_head_end = s->resp_end = end;
	weft_stream_run_headers(s, WEFT_RESPONSE, stream_first(s, WEFT_RESPONSE));
	weft_stream_leave(s);
}

void weft_stream_respond_data(struct weft_stream *s, struct evbuffer *b, bool end)
{
	if (deaf(s) || s->resp_end) {
		evbuffer_drain(b, evbuffer_get_length(b));
		return;
	}
	stream_enter(s);
	s->resp_end = end;
	weft_stream_run_data(s, WEFT_RESPONSE, stream_first(s, WEFT_RESPONSE), b, end);
	weft_stream_leave(s);
}

void weft_stream_respond_trailers(struct weft_stream *s, struct weft_headers *h)
{
	if (deaf(s) || s->resp_end)
		return;
	stream_enter(s);
	s->resp_end = true;
	s->trailers[WEFT_RESPONSE] = h;
	weft_stream_run_trailers(s, WEFT_RESPONSE, stream_first(s, WEFT_RESPONSE));
	weft_stream_leave(s);
}

/* ---- after the filters */

static void ended(struct weft_stream *s)
{
	s->tx_end = true;
	s->info.last_tx_ns = weft_now_ns();
	/* a tunnel's directions end each by itself */
	if (s->tunnel && !s->rx_end) {
		weft_stream_touch(s);
		return;
	}
	weft_stream_complete(s);
}

static void look_tunnel(struct weft_stream *s, int status)
{
	s->tunnel = s->is_upgrade ? status == 101 : s->is_connect && status / 100 == 2;
	if (!s->tunnel)
		return;
	s->counted_upgrade = true;
	hcm_count(s->c, WEFT_HTTP_downstream_cx_upgrades_total);
	weft_scope_add(s->c->conf->scope, WEFT_HTTP_downstream_cx_upgrades_active, 1);
	if (s->c->conf->log_tunnel)
		weft_stream_log(s, "DownstreamTunnelSuccessfullyEstablished");
}

void weft_stream_send_headers(struct weft_stream *s)
{
	struct weft_headers *h = s->head[WEFT_RESPONSE];
	bool end = s->resp_head_end;

	weft_hcm_response(s, h);
	s->info.status = weft_headers_status(h);
	s->info.tx_head_bytes += h->bytes;
	s->info.first_tx_ns = weft_now_ns();
	s->tx_head = true;
	if (s->upgrade)
		look_tunnel(s, s->info.status);
	if (s->x)
		weft_exchange_send_headers(s->x, h, end);
	if (end)
		ended(s);
	else
		weft_stream_touch(s);
}

void weft_stream_send_data(struct weft_stream *s, struct evbuffer *b, bool end)
{
	size_t n = evbuffer_get_length(b);
	int r = 1;

	if (s->tx_end || (!n && !end))
		return;
	s->info.tx_bytes += n;
	if (s->x)
		r = weft_exchange_send_data(s->x, b, end);
	else
		evbuffer_drain(b, n);
	if (end) {
		ended(s);
		return;
	}
	weft_stream_touch(s);
	if (!r && !s->full) {
		s->full = true;
		weft_stream_tell_full(s);
	}
}

void weft_stream_send_trailers(struct weft_stream *s)
{
	if (s->tx_end)
		return;
	s->info.tx_head_bytes += s->trailers[WEFT_RESPONSE]->bytes;
	if (s->x)
		weft_exchange_send_trailers(s->x, s->trailers[WEFT_RESPONSE]);
	ended(s);
}

/* ---- back-pressure */

bool weft_stream_response_full(const struct weft_stream *s)
{
	return s->full || s->paused[WEFT_RESPONSE];
}

void weft_stream_on_writable(struct weft_stream *s, void (*fn)(void *ctx, bool full), void *ctx)
{
	s->writable = fn;
	s->writable_ctx = ctx;
	s->told_full = false;
	weft_stream_tell_full(s);
}

void weft_stream_tell_full(struct weft_stream *s)
{
	bool full = weft_stream_response_full(s);

	if (full == s->told_full || !s->writable || s->over)
		return;
	s->told_full = full;
	s->writable(s->writable_ctx, full);
}

void weft_stream_pause_dir(struct weft_stream *s, enum weft_dir d)
{
	s->paused[d]++;
	if (d == WEFT_RESPONSE) {
		weft_stream_tell_full(s);
		return;
	}
	if (s->paused[d] > 1 || !s->x)
		return;
	hcm_count(s->c, WEFT_HTTP_downstream_flow_control_paused_reading_total);
	weft_exchange_pause(s->x);
}

void weft_stream_unpause_dir(struct weft_stream *s, enum weft_dir d)
{
	if (!s->paused[d])
		return;
	s->paused[d]--;
	if (d == WEFT_RESPONSE) {
		weft_stream_tell_full(s);
		return;
	}
	if (s->paused[d] || !s->x)
		return;
	hcm_count(s->c, WEFT_HTTP_downstream_flow_control_resumed_reading_total);
	weft_exchange_resume(s->x);
}

void weft_stream_pause(struct weft_stream *s, enum weft_dir d)
{
	weft_stream_pause_dir(s, d);
}

void weft_stream_unpause(struct weft_stream *s, enum weft_dir d)
{
	if (s->over)
		return;
	stream_enter(s);
	weft_stream_unpause_dir(s, d);
	weft_stream_leave(s);
}
