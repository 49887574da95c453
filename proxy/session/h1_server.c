#include "proxy/session/h1_priv.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

static bool begin(struct weft_session *s, struct weft_exchange *x);

/* The owner answers, by the exchange there is or by one that begins for it. */
static bool owner_answers(struct weft_session *s, struct weft_headers *h, int status,
			  const char *detail, const char *body)
{
	struct weft_exchange *x = s->h1.x;

	if (!s->ops->broken || s->freed || (x && (x->tx_head || x->opaque)))
		return false;
	if (!x) {
		x = s->h1.x = weft_exchange_new(s);
		if (!begin(s, x))
			return true;
	}
	x->detail = detail;
	x->rx_end = true;
	s->h1.reuse = false;
	evbuffer_drain(weft_io_in(s->io), evbuffer_get_length(weft_io_in(s->io)));
	s->ops->broken(s, x, h, status, body);
	return true;
}

/* True: what was read may go on. */
static bool fail_with(struct weft_session *s, int status, const char *detail, const char *body)
{
	struct weft_exchange *x = s->h1.x;
	bool answered = x && x->tx_head;

	if (owner_answers(s, NULL, status, detail, body))
		return true;
	if (x) {
		x->detail = detail;
		weft_exchange_tell_reset(x, WEFT_RESET_PROTOCOL);
	} else {
		weft_session_bad(s, status, detail);
	}
	if (weft_session_over(s))
		return false;
	if (!answered)
		weft_h1_send_error(s, status, body, false);
	weft_session_close(s, WEFT_IO_EOF, 0, true);
	return false;
}

/* A head whose lines were all in order, without a body, and with its end at hand: what follows it
 * is the next request. Returns its bytes; 0: the connection cannot go on. */
static size_t whole_head(struct weft_session *s, enum weft_h1_error e)
{
	struct evbuffer *in = weft_io_in(s->io);
	struct evbuffer_ptr end;
	char *text;
	size_t n;

	if (!s->conf->h1.stream_error_on_invalid || s->h1.x || s->h1.p.len || s->draining ||
	    s->ops->broken)
		return 0;
	if (e < WEFT_H1_E_URL || e > WEFT_H1_E_HOST || e == WEFT_H1_E_CHARACTERS ||
	    e == WEFT_H1_E_TOO_LARGE || e == WEFT_H1_E_TOO_MANY)
		return 0;
	end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
	if (end.pos < 0)
		return 0;
	n = (size_t)end.pos + 4;
	text = weft_xcalloc(1, n + 1);
	evbuffer_copyout(in, text, n);
	if (strlen(text) != n || text[0] == '\r' || strcasestr(text, "content-length") ||
	    strcasestr(text, "transfer-encoding"))
		n = 0;
	free(text);
	return n;
}

static bool server_fail(struct weft_session *s, enum weft_h1_error e)
{
	int status = weft_h1_error_status(e);
	size_t n = whole_head(s, e);

	if (n) {
		weft_session_bad(s, status, weft_h1_error_text(e));
		if (weft_session_over(s))
			return false;
		weft_h1_send_error(s, status, weft_h1_reason(status), true);
		evbuffer_drain(weft_io_in(s->io), n);
		weft_h1_done(&s->h1.p);
		weft_h1_init(&s->h1.p, &s->h1.conf);
		return true;
	}
	return fail_with(s, status, weft_h1_error_text(e),
			 e == WEFT_H1_E_HOST_MISSING || e == WEFT_H1_E_PATH || e == WEFT_H1_E_URL
				 ? ""
				 : weft_h1_reason(status));
}

/* An exchange that the owner does not want ends the connection. */
static bool begin(struct weft_session *s, struct weft_exchange *x)
{
	x->ops = s->ops->begin(s, x, &x->user, &x->arena);
	if (x->ops && !weft_session_over(s))
		return !x->gone;
	weft_exchange_bury(x);
	weft_session_close(s, WEFT_IO_EOF, 0, true);
	return false;
}

static void server_head(struct weft_session *s, struct weft_h1_event *ev, size_t used)
{
	struct weft_exchange *x;
	struct weft_headers *h;
	bool end = ev->end, bad;

	if (s->timer)
		weft_session_timer(s, 0);
	bad = !weft_h1_connection_ok(&ev->head);
	if (bad && !s->ops->broken) {
		fail_with(s, 400, WEFT_H1_BAD_CONNECTION, weft_h1_reason(400));
		return;
	}
	x = s->h1.x = weft_exchange_new(s);
	if (!begin(s, x))
		return;
	x->wire.rx = ev->head.block_len;
	s->h1.reuse = ev->head.keep_alive;
	h = weft_h1_request_headers(x, &ev->head);
	evbuffer_drain(weft_io_in(s->io), used);
	if (bad) {
		owner_answers(s, h, 400, WEFT_H1_BAD_CONNECTION, "");
		return;
	}
	if (x->upgrade || x->connect) {
		weft_h1_tunnel(&s->h1.p);
		end = false;
	}
	x->rx_end = end;
	x->ops->headers(x, h, end);
}

static void server_end(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;
	bool go_on = x->rx_end && s->h1.reuse && !x->opaque;

	weft_exchange_tell_done(x);
	if (weft_session_over(s))
		return;
	if (!go_on)
		weft_session_close(s, WEFT_IO_EOF, 0, true);
	else if (s->draining && !s->timer)
		weft_session_timer(
			s, s->h1.grace_ms); /* that answer had left before it could say so */
}

static const struct weft_h1_side side = {
	.head = server_head,
	.fail = server_fail,
	.end = server_end,
};

static void at_eof(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;
	struct evbuffer *none;

	if (x && x->opaque) {
		if (x->rx_end)
			return;
		x->rx_end = true;
		none = weft_session_buffer();
		x->ops->data(x, none, true);
		weft_session_buffer_give(none);
		if (!x->gone && x->tx_end)
			weft_exchange_finish(x);
		return;
	}
	if (x && !x->finished)
		weft_exchange_tell_reset(x, WEFT_RESET_REMOTE);
	weft_session_close(s, WEFT_IO_EOF, 0, true);
}

/* Nobody reads ahead of the answer; a head that was begun must come to its end in time. */
static void look_waiting(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;
	size_t n = evbuffer_get_length(weft_io_in(s->io));

	if (x && x->rx_end && n && !s->h1.held) {
		s->h1.held = true;
		weft_io_pause(s->io);
	} else if (!x && s->conf->headers_ms && !s->timer && !weft_h1_idle(&s->h1.p)) {
		weft_session_timer(s, s->conf->headers_ms);
	}
}

static void server_readable(struct weft_session *s)
{
	struct weft_exchange *x;

	weft_h1_read(s, &side);
	if (weft_session_over(s))
		return;
	x = s->h1.x;
	if (weft_io_eof(s->io) && !(x && x->paused) && !evbuffer_get_length(weft_io_in(s->io)))
		at_eof(s);
	else
		look_waiting(s);
}

static void server_timer(struct weft_session *s)
{
	weft_session_timer(s, 0);
	if (s->h1.x)
		return;
	if (s->draining && weft_h1_idle(&s->h1.p))
		weft_session_close(s, WEFT_IO_EOF, 0, true);
	else
		fail_with(s, 408, "request_header_timeout", "request header timeout");
}

static void server_drain(struct weft_session *s, unsigned grace_ms)
{
	s->h1.grace_ms = grace_ms ?: 1;
	if (!s->h1.x && !s->timer)
		weft_session_timer(s, grace_ms ?: 1);
}

static void server_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct weft_session *s = x->s;

	if (x->finished && x->rx_end && s->h1.reuse && !x->opaque)
		weft_io_kick(s->io);
	else
		weft_session_close(s, WEFT_IO_EOF, 0, true);
}

static uint32_t no_room(const struct weft_session *s)
{
	return 0;
}

static void nothing(struct weft_session *s)
{
}

const struct weft_session_proto weft_session_h1_server = {
	.begin = weft_h1_begin,
	.readable = server_readable,
	.writable = weft_h1_writable,
	.turn = server_readable,
	.timer = server_timer,
	.lost = weft_h1_lost,
	.closing = nothing,
	.left = weft_h1_left,
	.free = weft_h1_free,
	.drain = server_drain,
	.room = no_room,
	.send_headers = weft_h1_proto_send_headers,
	.send_informational = weft_h1_send_interim,
	.send_data = weft_h1_proto_send_data,
	.send_trailers = weft_h1_proto_send_trailers,
	.reset = server_reset,
	.pause = weft_h1_pause,
	.resume = weft_h1_resume,
};
