/* HTTP/2 sessions, server and client: bytes between the io and nghttp2, and what owners ask for. */
#include "proxy/session/h2_priv.h"

#include "proxy/core/worker.h"
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>

enum {
	OUT_HIGH = 256 << 10,	   /* bytes of frames ahead of the socket */
	SCRATCH = 32 << 10,	   /* frames are made here when there is little to send */
	STRAIGHT = 8 << 10,	   /* with more waiting they are made in the io's buffer */
	FRAMES = 10000,		   /* default of max_outbound_frames */
	CONTROL = 1000,		   /* default of max_outbound_control_frames */
	STREAM_WINDOW = 256 << 20, /* default of stream_window and conn_window */
	HEADERS = 100,		   /* default of max_headers */
	HEADER_BYTES = 60 << 10,   /* default of max_header_bytes */
	MAX_FRAME = 16 << 10,
};
static const uint32_t STREAMS = INT32_MAX; /* default of max_streams */
static const uint64_t MS = 1000000;

static __thread uint8_t scratch[SCRATCH];

static void h2_begin(struct weft_session *s)
{
	const struct weft_h2_options *o = &s->conf->h2;
	struct weft_session_h2 *h = weft_xcalloc(1, sizeof(*h));

	TAILQ_INIT(&h->work);
	h->conf = (struct weft_h2_conf){
		.server = s->conf->server,
		.max_streams = o->max_streams ?: STREAMS,
		.stream_window = o->stream_window ?: STREAM_WINDOW,
		.conn_window = o->conn_window ?: STREAM_WINDOW,
		.max_frame = MAX_FRAME,
		.max_header_list = o->max_header_bytes ?: HEADER_BYTES,
		.max_headers = o->max_headers ?: HEADERS,
		.max_control = o->max_outbound_control_frames ?: CONTROL,
		.set_table_size = o->table_size != UINT32_MAX,
		.table_size = o->table_size,
		.connect_protocol = o->allow_connect,
		.conn_credit_on_consume = true,
		.invalid_ends_conn = !o->stream_error_on_invalid,
	};
	h->c = weft_h2_new(&h->conf, &weft_session_h2_ops, s);
	s->h2 = h;
	h->peer_max = weft_h2_peer_max_streams(h->c);
	weft_io_set_high(s->io, OUT_HIGH);
	if (o->ping_interval_ms)
		h->ping_at = weft_now_ns() + o->ping_interval_ms * MS;
	weft_io_kick(s->io);
}

static void h2_free(struct weft_session *s)
{
	weft_h2_free(s->h2->c);
	free(s->h2);
}

/* ---- the clock: one timer for all that waits */

static void least(uint64_t *t, uint64_t at)
{
	if (at && (!*t || at < *t))
		*t = at;
}

static void arm(struct weft_session *s)
{
	struct weft_session_h2 *h = s->h2;
	uint64_t t = 0, now;

	least(&t, h->ping_at);
	least(&t, h->pong_by);
	least(&t, h->head_by);
	least(&t, h->grace_at);
	if (t == h->armed || weft_session_over(s))
		return;
	h->armed = t;
	now = t ? weft_now_ns() : 0;
	weft_session_timer(s, t ? (unsigned)(t > now ? (t - now) / MS + 1 : 1) : 0);
}

static void last_goaway(struct weft_session *s)
{
	s->h2->grace_at = 0;
	s->h2->last = true;
	weft_h2_goaway(s->h2->c, WEFT_H2_NO_ERROR);
}

/* ---- sending */

static ssize_t pump_straight(struct weft_session *s)
{
	struct evbuffer *out = weft_io_out(s->io);
	struct evbuffer_iovec vec;
	ssize_t n;

	if (evbuffer_reserve_space(out, 2 * SCRATCH, &vec, 1) != 1)
		return -ENOMEM;
	n = weft_h2_send(s->h2->c, vec.iov_base, vec.iov_len);
	vec.iov_len = n > 0 ? (size_t)n : 0;
	evbuffer_commit_space(out, &vec, 1);
	return n;
}

static ssize_t pump_some(struct weft_session *s)
{
	ssize_t n;

	if (s->h2->waiting > STRAIGHT)
		return pump_straight(s);
	n = weft_h2_send(s->h2->c, scratch, sizeof(scratch));
	if (n > 0)
		evbuffer_add(weft_io_out(s->io), scratch, (size_t)n);
	return n;
}

/* No owner is called from here. */
static void pump(struct weft_session *s)
{
	ssize_t n = 1;

	while (n > 0 && !weft_io_full(s->io) && weft_h2_want_send(s->h2->c)) {
		n = pump_some(s);
		if (n > 0)
			weft_io_flush(s->io);
	}
	if (n < 0)
		weft_session_close(s, WEFT_IO_RESET, EPROTO, true);
}

static void look_over(struct weft_session *s)
{
	struct weft_session_h2 *h = s->h2;
	uint32_t max = s->conf->h2.max_outbound_frames ?: FRAMES;

	if (weft_session_over(s))
		return;
	if (h->broken) {
		pump(s);
		weft_session_close(s, WEFT_IO_RESET, EPROTO, true);
	} else if (weft_h2_queued(h->c) > max) {
		h->broken = "http2.outbound_frames_flood";
		weft_session_bad(s, 0, h->broken);
		weft_session_close(s, WEFT_IO_RESET, EPROTO, false);
	} else if (!s->n_open && ((s->conf->server ? h->last : s->went_away || s->draining) ||
				  weft_h2_done(h->c))) {
		pump(s);
		weft_session_close(s, WEFT_IO_EOF, 0, true);
	}
}

static void look_room(struct weft_session *s)
{
	uint32_t max = weft_h2_peer_max_streams(s->h2->c);
	bool due = s->h2->room_due || max != s->h2->peer_max;

	s->h2->room_due = false;
	s->h2->peer_max = max;
	if (!s->conf->server && due && s->ops->room && weft_session_room(s))
		s->ops->room(s);
}

/* What came is told, what that brought about is sent, and what ended thereby is told. */
static void turn(struct weft_session *s)
{
	s->looping = true;
	for (int i = 0; i < 8 && !weft_session_over(s); i++) {
		weft_h2_do_work(s);
		if (weft_session_over(s))
			break;
		pump(s);
		if (TAILQ_EMPTY(&s->h2->work))
			break;
	}
	s->looping = false;
	if (!weft_session_over(s))
		look_room(s);
	look_over(s);
	if (weft_session_over(s))
		return;
	if (!TAILQ_EMPTY(&s->h2->work) || (weft_h2_want_send(s->h2->c) && !weft_io_full(s->io)))
		weft_io_kick(s->io);
	arm(s);
}

/* ---- receiving */

static void broke(struct weft_session *s)
{
	if (s->h2->broken)
		return;
	s->h2->broken = "codec_error:http2";
	if (!weft_session_over(s))
		weft_session_bad(s, 0, s->h2->broken);
}

static void h2_readable(struct weft_session *s)
{
	struct evbuffer *in = weft_io_in(s->io);
	size_t n;

	while (!weft_session_over(s) && !s->h2->broken && (n = evbuffer_get_contiguous_space(in))) {
		s->looping = true;
		if (weft_h2_recv(s->h2->c, evbuffer_pullup(in, (ev_ssize_t)n), n))
			broke(s);
		s->looping = false;
		evbuffer_drain(in, n);
		if (s->freed)
			return;
		s->looping = true;
		weft_h2_do_work(s);
		s->looping = false;
	}
	if (s->freed)
		return;
	if (s->conf->headers_ms && weft_h2_in_head(s->h2->c)) {
		if (!s->h2->head_by)
			s->h2->head_by = weft_now_ns() + s->conf->headers_ms * MS;
	} else {
		s->h2->head_by = 0;
	}
	turn(s);
	if (!weft_session_over(s) && weft_io_eof(s->io)) {
		weft_session_goaway(s);
		weft_session_close(s, WEFT_IO_EOF, 0, true);
	}
}

static void h2_timer(struct weft_session *s)
{
	const struct weft_h2_options *o = &s->conf->h2;
	struct weft_session_h2 *h = s->h2;
	uint64_t now = weft_now_ns();

	h->armed = 0;
	if ((h->pong_by && now >= h->pong_by) || (h->head_by && now >= h->head_by)) {
		weft_session_goaway(s);
		weft_session_close(s, WEFT_IO_TIMEOUT, ETIMEDOUT, !h->pong_by);
		return;
	}
	if (h->ping_at && now >= h->ping_at) {
		h->ping_at = now + o->ping_interval_ms * MS;
		if (!h->pong_by) {
			weft_h2_ping(h->c);
			h->pong_by = now + (o->ping_timeout_ms ?: o->ping_interval_ms) * MS;
		}
	}
	if (h->grace_at && now >= h->grace_at)
		last_goaway(s);
	turn(s);
}

/* The connection ends: what was not told why is told so now. */
static void h2_closing(struct weft_session *s)
{
	struct weft_session_h2 *h = s->h2;
	struct weft_exchange *x;

	if (h->broken)
		TAILQ_FOREACH (x, &s->open, link)
			x->detail = x->detail[0] ? x->detail : h->broken;
	while (h->broken && !s->freed && (x = TAILQ_FIRST(&s->open)))
		weft_exchange_tell_reset(x, WEFT_RESET_PROTOCOL);
	if (s->freed || !s->orderly || h->last || h->broken)
		return;
	h->last = true;
	weft_h2_goaway(h->c, WEFT_H2_NO_ERROR);
	pump(s);
}

static void h2_lost(struct weft_session *s)
{
	weft_h2_do_work(s);
}

static void h2_drain(struct weft_session *s, unsigned grace_ms)
{
	if (!s->conf->server) {
		weft_io_kick(s->io);
		return;
	}
	if (grace_ms) {
		weft_h2_shutdown_notice(s->h2->c);
		s->h2->grace_at = weft_now_ns() + grace_ms * MS;
		arm(s);
	} else {
		last_goaway(s);
	}
	weft_io_kick(s->io);
}

/* ---- exchanges */

static uint32_t h2_room(const struct weft_session *s)
{
	uint32_t max = weft_h2_peer_max_streams(s->h2->c), ours = s->conf->h2.max_streams;

	if (s->conf->server)
		return 0;
	if (ours && ours < max)
		max = ours;
	return s->n_open < max ? max - s->n_open : 0;
}

static int h2_open(struct weft_exchange *x, const struct weft_headers *h, bool body)
{
	struct weft_h2_header few[WEFT_H2_FEW], *v;
	size_t n = weft_h2_request_fields(x, h, few, &v);

	x->st = weft_h2_request(x->s->h2->c, v, n, body, x);
	if (!x->st)
		return -EAGAIN;
	x->id = (uint64_t)weft_h2_stream_id(x->st);
	x->tx_head = true;
	x->tx_end = x->out_end = !body;
	weft_io_kick(x->s->io);
	return 0;
}

static void sent_end(struct weft_exchange *x)
{
	x->tx_end = true;
	if (x->s->conf->server && !x->opaque && !x->in_end)
		weft_h2_stop_peer(x->st);
}

static int h2_send_headers(struct weft_exchange *x, const struct weft_headers *h, bool end)
{
	struct weft_h2_header few[WEFT_H2_FEW], *v;
	size_t n = weft_h2_response_fields(x, h, few, &v);
	int r;

	if (!x->st)
		return -EPIPE;
	if (end)
		sent_end(x);
	r = weft_h2_send_head(x->st, v, n, !end);
	if (r)
		return r;
	x->tx_head = true;
	x->out_end = end;
	weft_io_kick(x->s->io);
	return 0;
}

static int h2_send_informational(struct weft_exchange *x, const struct weft_headers *h)
{
	struct weft_h2_header few[WEFT_H2_FEW], *v;
	size_t n = weft_h2_response_fields(x, h, few, &v);
	int status = weft_headers_status(h), r;

	if (!x->st)
		return -EPIPE;
	if (status < 100 || status > 199 || status == 101)
		return -EINVAL;
	r = weft_h2_send_interim(x->st, v, n);
	if (!r)
		weft_io_kick(x->s->io);
	return r;
}

static int h2_send_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	size_t n = evbuffer_get_length(b),
	       high = x->s->conf->buffer_bytes ?: weft_io_high(x->s->io);

	if (!x->st) {
		evbuffer_drain(b, n);
		return -EPIPE;
	}
	if (x->head && x->s->conf->server && !x->opaque)
		evbuffer_drain(b, n); /* HEAD has no body */
	else if (n && !x->out)
		x->out = weft_session_buffer();
	n = evbuffer_get_length(b);
	x->s->h2->waiting += n;
	if (n)
		evbuffer_add_buffer(x->out, b);
	if (end)
		sent_end(x);
	if (n || end)
		weft_h2_resume(x->st);
	weft_io_kick(x->s->io);
	return !x->out || evbuffer_get_length(x->out) < high;
}

static int h2_send_trailers(struct weft_exchange *x, const struct weft_headers *h)
{
	struct weft_h2_header few[WEFT_H2_FEW], *v;
	size_t n = weft_h2_response_fields(x, h, few, &v);
	int r;

	if (!x->st)
		return -EPIPE;
	r = n ? weft_h2_trailers(x->st, v, n) : 0;
	if (r)
		return r;
	sent_end(x);
	weft_h2_resume(x->st);
	weft_io_kick(x->s->io);
	return 0;
}

static uint32_t code_of(const struct weft_exchange *x, enum weft_reset why)
{
	switch (why) {
	case WEFT_RESET_REFUSED:
	case WEFT_RESET_OVERFLOW:
		return WEFT_H2_REFUSED_STREAM;
	case WEFT_RESET_CONNECT:
		return WEFT_H2_CONNECT_ERROR;
	case WEFT_RESET_PROTOCOL:
		return WEFT_H2_PROTOCOL_ERROR;
	default:
		break;
	}
	if (!x->s->conf->server)
		return WEFT_H2_CANCEL;
	return x->tx_end ? WEFT_H2_NO_ERROR : WEFT_H2_INTERNAL_ERROR;
}

static void h2_reset(struct weft_exchange *x, enum weft_reset why)
{
	if (!x->st)
		return;
	x->s->h2->room_due = true;
	weft_h2_reset(x->st, code_of(x, why));
	weft_io_kick(x->s->io);
}

static void h2_pause(struct weft_exchange *x)
{
}

static void h2_resume(struct weft_exchange *x)
{
	if (x->st && x->owed) {
		weft_h2_consume(x->st, x->owed);
		x->owed = 0;
	}
	weft_h2_queue(x);
	weft_io_kick(x->s->io);
}

const struct weft_session_proto weft_session_h2 = {
	.begin = h2_begin,
	.readable = h2_readable,
	.writable = turn,
	.turn = turn,
	.timer = h2_timer,
	.lost = h2_lost,
	.closing = h2_closing,
	.left = weft_h2_forget,
	.free = h2_free,
	.drain = h2_drain,
	.room = h2_room,
	.open = h2_open,
	.send_headers = h2_send_headers,
	.send_informational = h2_send_informational,
	.send_data = h2_send_data,
	.send_trailers = h2_send_trailers,
	.reset = h2_reset,
	.pause = h2_pause,
	.resume = h2_resume,
};
