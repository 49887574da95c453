#include "proxy/session/h1_priv.h"

#include <errno.h>
#include <event2/buffer.h>

static void no_reuse(struct weft_session *s)
{
	s->h1.reuse = false;
	weft_session_goaway(s);
}

static bool client_fail(struct weft_session *s, enum weft_h1_error e)
{
	struct weft_exchange *x = s->h1.x;

	no_reuse(s);
	if (x && !x->gone && !s->freed) {
		x->detail = e ? weft_h1_error_text(e) : x->detail;
		weft_exchange_tell_reset(x, WEFT_RESET_PROTOCOL);
	}
	weft_session_close(s, WEFT_IO_RESET, EPROTO, false);
	return false;
}

static void client_head(struct weft_session *s, struct weft_h1_event *ev, size_t used)
{
	struct weft_exchange *x = s->h1.x;
	struct weft_headers *h;
	bool end = ev->end, interim = ev->head.interim;
	bool keep = ev->head.keep_alive && !ev->head.until_close;

	x->wire.rx += ev->head.block_len;
	x->rx_began = true;
	if (!interim)
		x->opaque = ev->head.status == 101 || (x->connect && ev->head.connect);
	if (!weft_h1_connection_ok(&ev->head)) {
		x->detail = WEFT_H1_BAD_CONNECTION;
		client_fail(s, WEFT_H1_OK);
		return;
	}
	h = weft_h1_response_headers(x, &ev->head);
	evbuffer_drain(weft_io_in(s->io), used);
	if (interim) {
		if (x->ops->informational)
			x->ops->informational(x, h);
		return;
	}
	end = end && !x->opaque;
	x->rx_end = end;
	if (!keep || x->opaque)
		no_reuse(s);
	if (!x->gone)
		x->ops->headers(x, h, end);
}

static void client_end(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;

	if (s->draining || x->opaque)
		s->h1.reuse = false;
	if (!s->h1.reuse)
		no_reuse(s);
	s->h1.x = NULL;
	s->h1.stale = true;
	weft_exchange_tell_done(x);
	if (weft_session_over(s))
		return;
	if (!s->h1.reuse)
		weft_session_close(s, WEFT_IO_EOF, 0, false);
	else if (!s->h1.x && s->ops->room)
		s->ops->room(s);
}

/* Bytes that nobody asked for: the connection cannot be trusted any more. */
static bool client_idle(struct weft_session *s)
{
	if (!evbuffer_get_length(weft_io_in(s->io)))
		return false;
	client_fail(s, WEFT_H1_E_UNASKED);
	return false;
}

static const struct weft_h1_side side = {
	.head = client_head,
	.fail = client_fail,
	.end = client_end,
	.idle = client_idle,
};

static void end_by_eof(struct weft_session *s, struct weft_exchange *x)
{
	struct weft_h1_event *ev = weft_session_h1_event();
	struct evbuffer *none;

	if (!x->opaque) {
		weft_h1_eof(&s->h1.p, ev);
		if (ev->type != WEFT_H1_END) {
			enum weft_reset why = WEFT_RESET_REMOTE;

			if (x->rx_began) /* half an answer */
				why = WEFT_RESET_PROTOCOL;
			else if (s->h1.stale)
				why = WEFT_RESET_REFUSED;
			weft_exchange_tell_reset(x, why);
			weft_session_close(s, WEFT_IO_EOF, 0, false);
			return;
		}
	}
	x->rx_end = true;
	none = weft_session_buffer();
	x->ops->data(x, none, true);
	weft_session_buffer_give(none);
	if (!x->gone && x->tx_end)
		weft_exchange_finish(x);
}

static void at_eof(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;

	no_reuse(s);
	if (weft_session_over(s))
		return;
	if (!x)
		weft_session_close(s, WEFT_IO_EOF, 0, false);
	else if (!x->rx_end)
		end_by_eof(s, x);
}

static void client_readable(struct weft_session *s)
{
	struct weft_exchange *x;

	weft_h1_read(s, &side);
	if (weft_session_over(s))
		return;
	if (s->h1.room_due && s->ops->room && weft_session_room(s))
		s->ops->room(s);
	s->h1.room_due = false;
	x = s->h1.x;
	if (x && x->rx_end && !x->tx_end && !x->opaque)
		no_reuse(s); /* answered before it was asked in full */
	if (!weft_session_over(s) && weft_io_eof(s->io) && !(x && x->paused) &&
	    !evbuffer_get_length(weft_io_in(s->io)))
		at_eof(s);
}

static int client_open(struct weft_exchange *x, const struct weft_headers *h, bool body)
{
	struct weft_session *s = x->s;
	enum weft_h1_asked asked = WEFT_H1_ASKED_OTHER;
	int r = weft_h1_send_request(x, h, body);

	if (r)
		return r;
	s->h1.x = x;
	if (x->head)
		asked = WEFT_H1_ASKED_HEAD;
	else if (x->connect)
		asked = WEFT_H1_ASKED_CONNECT;
	else if (x->upgrade)
		asked = WEFT_H1_ASKED_UPGRADE;
	weft_h1_expect(&s->h1.p, asked);
	if (!body)
		x->tx_end = true;
	return 0;
}

static void client_lost(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;

	if (x && !x->finished && s->h1.stale && !x->rx_began)
		weft_exchange_tell_reset(x, WEFT_RESET_REFUSED);
}

static void client_reset(struct weft_exchange *x, enum weft_reset why)
{
	if (x->finished && x->s->h1.reuse) {
		x->s->h1.stale = x->s->h1.room_due = true;
		weft_io_kick(x->s->io);
		return;
	}
	x->s->h1.reuse = false;
	weft_session_close(x->s, WEFT_IO_EOF, 0, false);
}

static uint32_t client_room(const struct weft_session *s)
{
	return !s->h1.x && s->h1.reuse;
}

static void client_drain(struct weft_session *s, unsigned grace_ms)
{
	if (!s->h1.x)
		weft_session_close(s, WEFT_IO_EOF, 0, false);
}

static void nothing(struct weft_session *s)
{
}

static int not_here(struct weft_exchange *x, const struct weft_headers *h)
{
	return -EPIPE;
}

const struct weft_session_proto weft_session_h1_client = {
	.begin = weft_h1_begin,
	.readable = client_readable,
	.writable = weft_h1_writable,
	.turn = client_readable,
	.timer = nothing,
	.lost = client_lost,
	.closing = nothing,
	.left = weft_h1_left,
	.free = weft_h1_free,
	.drain = client_drain,
	.room = client_room,
	.open = client_open,
	.send_informational = not_here,
	.send_data = weft_h1_proto_send_data,
	.send_trailers = weft_h1_proto_send_trailers,
	.reset = client_reset,
	.pause = weft_h1_pause,
	.resume = weft_h1_resume,
};
