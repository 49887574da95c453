/* What HTTP/1 servers and clients share: one exchange at a time, bytes to events. */
#include "proxy/session/h1_priv.h"

#include <errno.h>
#include <event2/buffer.h>

void weft_h1_begin(struct weft_session *s)
{
	const struct weft_h1_options *o = &s->conf->h1;

	s->h1.conf = (struct weft_h1_conf){
		.response = !s->conf->server,
		.http10 = o->accept_http_10,
		.chunked_length = o->allow_chunked_length,
		.asterisk = o->owner_checks,
		.hostless = o->owner_checks,
		.max_head_bytes = o->max_header_bytes,
		.max_headers = o->max_headers,
	};
	s->h1.reuse = true;
	weft_h1_init(&s->h1.p, &s->h1.conf);
}

void weft_h1_free(struct weft_session *s)
{
	weft_h1_done(&s->h1.p);
}

void weft_h1_lost(struct weft_session *s)
{
}

void weft_h1_left(struct weft_exchange *x)
{
	struct weft_session *s = x->s;

	if (s->h1.x == x)
		s->h1.x = NULL;
	if (x->held)
		weft_io_resume(s->io);
	if (s->h1.held)
		weft_io_resume(s->io);
	x->held = s->h1.held = false;
}

void weft_h1_pause(struct weft_exchange *x)
{
	if (x->held || x->rx_end)
		return;
	x->held = true;
	weft_io_pause(x->s->io);
}

void weft_h1_resume(struct weft_exchange *x)
{
	struct weft_io *io = x->s->io;

	if (!x->held)
		return;
	x->held = false;
	weft_io_resume(io);
	weft_io_kick(io); /* for what is in already, and for the end of it */
}

/* Our direction of a tunnel ends by itself; of a message with the last byte of its framing. */
static void sent_end(struct weft_exchange *x)
{
	x->tx_end = true;
	if (x->opaque && !x->rx_end)
		weft_io_shutdown(x->s->io);
	if (x->rx_end || (x->s->conf->server && !x->opaque))
		weft_exchange_finish(x);
}

int weft_h1_proto_send_headers(struct weft_exchange *x, const struct weft_headers *h, bool end)
{
	int r = weft_h1_send_response(x, h, end);

	if (!r && end && x->tx_left > 0 && !x->tx_no_body)
		r = -EPROTO;
	if (!r && end)
		sent_end(x);
	return r;
}

int weft_h1_proto_send_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	int r = weft_h1_send_body(x, b, end);

	if (r >= 0 && end)
		sent_end(x);
	return r;
}

int weft_h1_proto_send_trailers(struct weft_exchange *x, const struct weft_headers *h)
{
	int r = weft_h1_send_last(x, h);

	if (!r)
		sent_end(x);
	return r;
}

void weft_h1_writable(struct weft_session *s)
{
	struct weft_exchange *x = s->h1.x;

	if (!x || !x->blocked || x->tx_end)
		return;
	x->blocked = false;
	if (x->ops->writable)
		x->ops->writable(x);
}

/* What the owner did not take, or must not see any more, is thrown away. */
static void tell_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	bool wanted = !(x->s->conf->server && x->tx_end && !x->opaque);

	x->rx_end = end;
	if (wanted && (end || evbuffer_get_length(b)))
		x->ops->data(x, b, end);
}

static void deliver_body(struct weft_session *s, struct evbuffer *in, const char *at, size_t used,
			 const struct weft_h1_event *ev)
{
	struct weft_exchange *x = s->h1.x;
	size_t skip = (size_t)(ev->body.p - at), n = ev->body.n;
	bool end = ev->end;
	struct evbuffer *b;

	x->wire.rx += used;
	if (skip)
		evbuffer_drain(in, skip);
	if (evbuffer_get_length(in) == n) {
		tell_data(x, in, end);
		if (!s->freed)
			evbuffer_drain(in, evbuffer_get_length(in));
		return;
	}
	b = weft_session_buffer();
	evbuffer_remove_buffer(in, b, n);
	if (used > skip + n)
		evbuffer_drain(in, used - skip - n);
	tell_data(x, b, end);
	weft_session_buffer_give(b);
}

static void deliver_opaque(struct weft_session *s, struct evbuffer *in)
{
	struct weft_exchange *x = s->h1.x;

	x->wire.rx += evbuffer_get_length(in);
	if (evbuffer_get_length(in) && !x->rx_end)
		x->ops->data(x, in, false);
	if (!s->freed)
		evbuffer_drain(in, evbuffer_get_length(in));
}

static void deliver_end(struct weft_session *s, struct weft_h1_event *ev, size_t used)
{
	struct weft_exchange *x = s->h1.x;
	struct evbuffer *none;
	struct weft_headers *h = NULL;

	x->wire.rx += used;
	x->rx_end = true;
	if (s->conf->server && x->tx_end)
		return;
	if (ev->type == WEFT_H1_TRAILERS && s->conf->h1.enable_trailers)
		h = weft_h1_trailer_headers(x, &ev->head);
	if (h && x->ops->trailers) {
		x->ops->trailers(x, h);
		return;
	}
	none = weft_session_buffer();
	x->ops->data(x, none, true);
	weft_session_buffer_give(none);
}

/* One event. False: nothing more to do with what there is. */
static bool step(struct weft_session *s, const struct weft_h1_side *side)
{
	struct evbuffer *in = weft_io_in(s->io);
	struct weft_h1_event *ev = weft_session_h1_event();
	size_t n = evbuffer_get_contiguous_space(in), used;
	const char *p;

	if (!n)
		return false;
	p = (const char *)evbuffer_pullup(in, (ev_ssize_t)n);
	used = weft_h1_feed(&s->h1.p, p, n, ev);
	switch (ev->type) {
	case WEFT_H1_MORE:
		if (s->h1.x)
			s->h1.x->rx_began = true;
		evbuffer_drain(in, used);
		return used;
	case WEFT_H1_HEAD:
		side->head(s, ev, used);
		return true;
	case WEFT_H1_BODY:
		deliver_body(s, in, p, used, ev);
		return true;
	case WEFT_H1_TRAILERS:
	case WEFT_H1_END:
		deliver_end(s, ev, used);
		if (!s->freed)
			evbuffer_drain(in, used);
		return true;
	case WEFT_H1_OPAQUE:
		deliver_opaque(s, in);
		return false;
	default:
		return side->fail(s, ev->error);
	}
}

void weft_h1_read(struct weft_session *s, const struct weft_h1_side *side)
{
	struct weft_exchange *x;

	s->looping = true;
	while (!weft_session_over(s)) {
		x = s->h1.x;
		if (x && (x->finished || (x->rx_end && x->tx_end))) {
			if (!x->rx_end && evbuffer_get_length(weft_io_in(s->io)) && !x->upgrade &&
			    !x->connect && step(s, side))
				continue; /* an early answer: the body may be here already */
			if (!weft_session_over(s) && s->h1.x == x)
				side->end(s);
			continue;
		}
		if (x && (x->paused || (x->rx_end && !x->opaque)))
			break;
		if (!x && side->idle && !side->idle(s))
			break;
		if (!step(s, side))
			break;
	}
	s->looping = false;
}
