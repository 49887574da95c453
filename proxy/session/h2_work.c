#include "proxy/session/h2_priv.h"

#include <event2/buffer.h>
#include <string.h>

static const char BAD_MESSAGE[] = "http2.violation.of.messaging.rule";

void weft_h2_queue(struct weft_exchange *x)
{
	if (x->queued || x->gone)
		return;
	x->queued = true;
	TAILQ_INSERT_TAIL(&x->s->h2->work, x, work);
	if (!x->s->looping)
		weft_io_kick(x->s->io);
}

void weft_h2_forget(struct weft_exchange *x)
{
	struct weft_session_h2 *h = x->s->h2;

	if (x->st) {
		weft_h2_stream_bytes(x->st, &x->wire);
		weft_h2_stream_set_user(x->st, NULL);
		x->st = NULL;
	}
	if (x->queued)
		TAILQ_REMOVE(&h->work, x, work);
	x->queued = false;
	if (x->in)
		weft_session_buffer_give(x->in);
	if (x->out) {
		h->waiting -= evbuffer_get_length(x->out);
		weft_session_buffer_give(x->out);
	}
	x->in = x->out = NULL;
}

/* ---- nghttp2 tells */

static struct weft_session *session_of(struct weft_h2_stream *st)
{
	return weft_h2_owner(weft_h2_stream_session(st));
}

/* A request: its head is told at once, as nothing of nghttp2's is on the way out. */
static void on_request(struct weft_session *s, struct weft_h2_stream *st,
		       const struct weft_h2_headers *v, bool end)
{
	struct weft_exchange *x;
	struct weft_headers *h;

	if (s->draining && s->h2->last) {
		weft_h2_reset(st, WEFT_H2_REFUSED_STREAM);
		return;
	}
	x = weft_exchange_new(s);
	x->st = st;
	x->id = (uint64_t)weft_h2_stream_id(st);
	weft_h2_stream_set_user(st, x);
	x->ops = s->ops->begin(s, x, &x->user, &x->arena);
	if (!x->ops || x->gone) {
		weft_exchange_bury(x);
		weft_h2_reset(st, WEFT_H2_REFUSED_STREAM);
		return;
	}
	if (weft_session_over(s))
		return;
	h = weft_h2_request_list(x, v);
	x->in_end = x->rx_end = end;
	x->ops->headers(x, h, end);
}

static void on_answer(struct weft_exchange *x, const struct weft_h2_headers *v, bool end)
{
	struct weft_headers *h = weft_h2_response_list(x, v);

	x->rx_began = true;
	x->in_end = x->rx_end = end;
	x->ops->headers(x, h, end);
	if (end && !x->gone)
		weft_h2_queue(x);
}

static void on_headers(struct weft_h2_stream *st, const struct weft_h2_headers *v, bool end)
{
	struct weft_session *s = session_of(st);
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (weft_session_over(s))
		return;
	if (s->conf->server)
		on_request(s, st, v, end);
	else if (x)
		on_answer(x, v, end);
}

static void on_informational(struct weft_h2_stream *st, const struct weft_h2_headers *v)
{
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (!x || weft_session_over(x->s) || !x->ops->informational)
		return;
	x->ops->informational(x, weft_h2_trailer_list(x, v));
}

static void on_data(struct weft_h2_stream *st, const uint8_t *p, size_t n)
{
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (!x)
		return;
	if (!x->in)
		x->in = weft_session_buffer();
	evbuffer_add(x->in, p, n);
	weft_h2_queue(x);
}

static void on_trailers(struct weft_h2_stream *st, const struct weft_h2_headers *v)
{
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (!x || x->late)
		return;
	x->late = weft_h2_trailer_list(x, v);
	weft_h2_queue(x);
}

static void on_end(struct weft_h2_stream *st)
{
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (!x)
		return;
	x->in_end = true;
	weft_h2_queue(x);
}

static enum weft_reset why_of(const struct weft_exchange *x, uint32_t code, bool peer)
{
	if (x->detail[0])
		return WEFT_RESET_PROTOCOL;
	if (code == WEFT_H2_REFUSED_STREAM)
		return WEFT_RESET_REFUSED;
	if (!peer && (code == WEFT_H2_PROTOCOL_ERROR || code == 3 || code == 5))
		return WEFT_RESET_PROTOCOL;
	return WEFT_RESET_REMOTE;
}

/* A whole answer is an answer, whatever became of the rest of the request. */
static bool in_order(const struct weft_exchange *x, uint32_t code)
{
	if (x->detail[0])
		return false;
	if (x->opaque && code)
		return x->in_end && x->out_end;
	return x->s->conf->server ? x->out_end : x->in_end;
}

static void on_closed(struct weft_h2_stream *st, uint32_t code)
{
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (!x)
		return;
	if (code == WEFT_H2_PROTOCOL_ERROR && !weft_h2_peer_reset(st) && !x->detail[0])
		x->detail = BAD_MESSAGE; /* a content-length that was not kept */
	x->cut = true;
	x->finished = in_order(x, code);
	x->reset_why = (uint8_t)why_of(x, code, weft_h2_peer_reset(st));
	if (weft_h2_peer_reset(st) && !x->detail[0])
		x->detail = code == WEFT_H2_REFUSED_STREAM ? WEFT_DETAIL_REMOTE_REFUSED
							   : WEFT_DETAIL_REMOTE_RESET;
	weft_h2_stream_bytes(st, &x->wire);
	x->st = NULL;
	weft_h2_queue(x);
}

static void look_writable(struct weft_exchange *x)
{
	size_t high = x->s->conf->buffer_bytes ?: weft_io_high(x->s->io);

	if (!x->blocked || (x->out && evbuffer_get_length(x->out) > high / 2))
		return;
	x->blocked = false;
	x->marked = true;
	weft_h2_queue(x);
}

static ssize_t on_pull(struct weft_h2_stream *st, uint8_t *dst, size_t max, bool *ret_end)
{
	struct weft_exchange *x = weft_h2_stream_user(st);
	ssize_t n = 0;

	if (!x)
		return -1;
	if (x->out) {
		n = evbuffer_remove(x->out, dst, max);
		x->s->h2->waiting -= (size_t)n;
	}
	if (x->out && !evbuffer_get_length(x->out)) {
		weft_session_buffer_give(x->out);
		x->out = NULL;
	}
	if (x->tx_end && !x->out)
		*ret_end = x->out_end = true;
	look_writable(x);
	return n;
}

static void on_bad(struct weft_h2 *c, struct weft_h2_stream *st, enum weft_h2_bad what)
{
	static const struct {
		const char *detail;
		int status;
	} said[] = {
		[WEFT_H2_BAD_FIELD] = {"http2.invalid.header.field", 400},
		[WEFT_H2_BAD_MESSAGE] = {BAD_MESSAGE, 400},
		[WEFT_H2_BAD_TOO_LARGE] = {"http2.headers_too_large", 431},
		[WEFT_H2_BAD_TOO_MANY] = {"http2.too_many_headers", 431},
	};
	struct weft_session *s = weft_h2_owner(c);
	struct weft_exchange *x = weft_h2_stream_user(st);

	if (weft_session_over(s))
		return;
	if (x)
		x->detail = said[what].detail;
	else
		weft_session_bad(s, said[what].status, said[what].detail);
	if (what <= WEFT_H2_BAD_MESSAGE && !s->conf->h2.stream_error_on_invalid)
		s->h2->broken = said[what].detail;
}

static void on_goaway(struct weft_h2 *c, uint32_t code, int32_t last)
{
	weft_session_goaway(weft_h2_owner(c));
}

static void on_pong(struct weft_h2 *c)
{
	struct weft_session *s = weft_h2_owner(c);

	s->h2->pong_by = 0;
}

const struct weft_h2_ops weft_session_h2_ops = {
	.headers = on_headers,
	.informational = on_informational,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.bad = on_bad,
	.goaway = on_goaway,
	.pong = on_pong,
};

/* ---- telling it on */

static void give_credit(struct weft_exchange *x)
{
	if (!x->owed || !x->st)
		return;
	weft_h2_consume(x->st, x->owed);
	x->owed = 0;
}

/* The rest of a request that has its answer is nobody's business. */
static bool wanted(const struct weft_exchange *x)
{
	return !x->s->conf->server || !x->tx_end || x->opaque;
}

static void tell_data(struct weft_exchange *x)
{
	struct evbuffer *b = x->in ?: weft_session_buffer();
	bool end = x->in_end && !x->late;

	x->in = NULL;
	x->owed += (uint32_t)evbuffer_get_length(b);
	x->rx_end = end;
	if (wanted(x))
		x->ops->data(x, b, end);
	weft_session_buffer_give(b);
	if (!x->gone && !x->paused)
		give_credit(x);
}

static void tell_trailers(struct weft_exchange *x)
{
	struct weft_headers *h = x->late;
	struct evbuffer *none;

	x->late = NULL;
	x->rx_end = true;
	if (!wanted(x))
		return;
	if (x->ops->trailers) {
		x->ops->trailers(x, h);
		return;
	}
	none = weft_session_buffer();
	x->ops->data(x, none, true);
	weft_session_buffer_give(none);
}

static void tell_over(struct weft_exchange *x)
{
	x->s->h2->room_due = true;
	if (x->finished)
		weft_exchange_tell_done(x);
	else
		weft_exchange_tell_reset(x, x->reset_why);
}

static void tell(struct weft_exchange *x)
{
	if (!x->paused && !x->rx_end && (x->in || (x->in_end && !x->late)))
		tell_data(x);
	if (!x->gone && !x->paused && !x->rx_end && x->late)
		tell_trailers(x);
	if (!x->gone && x->cut && (!x->finished || x->rx_end || x->s->conf->server))
		tell_over(x);
	if (x->gone || !x->marked)
		return;
	x->marked = false;
	if (x->ops->writable && !x->tx_end)
		x->ops->writable(x);
}

void weft_h2_do_work(struct weft_session *s)
{
	struct weft_exchange *x;

	while (!s->freed && (x = TAILQ_FIRST(&s->h2->work))) {
		TAILQ_REMOVE(&s->h2->work, x, work);
		x->queued = false;
		tell(x);
	}
}
