#include "proxy/codec/h2.h"
#include "proxy/codec/h2_priv.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_OVERHEAD = 32, FRAME_HEAD = 9 }; /* RFC 9113 §10.5.1 */

time_t weft_h2_coarse_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec;
}

/* The clock is read only once in max events. */
static bool count_over(struct weft_h2_count *c, uint32_t max)
{
	time_t now;

	if (++c->n <= max)
		return false;
	now = weft_h2_coarse_now();
	if (now - c->since <= WEFT_H2_FLOOD_WINDOW_S)
		return true;
	c->since = now;
	c->n = 1;
	return false;
}

void weft_h2_block_clear(struct weft_h2_block *b)
{
	for (size_t i = 0; i < 2 * b->n; i++)
		nghttp2_rcbuf_decref(b->rc[i]);
	b->n = b->bytes = 0;
}

static void block_add(struct weft_h2_block *b, nghttp2_rcbuf *name, nghttp2_rcbuf *value)
{
	nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);

	if (b->n == b->cap) {
		b->cap = b->cap ? 2 * b->cap : 16;
		b->v = weft_xrealloc(b->v, b->cap * sizeof(*b->v));
		b->rc = weft_xrealloc(b->rc, 2 * b->cap * sizeof(*b->rc));
	}
	nghttp2_rcbuf_incref(name);
	nghttp2_rcbuf_incref(value);
	b->rc[2 * b->n] = name;
	b->rc[2 * b->n + 1] = value;
	b->v[b->n++] = (struct weft_h2_header){
		.name = (const char *)n.base,
		.value = (const char *)v.base,
		.name_len = n.len,
		.value_len = v.len,
	};
}

/* Frames by which a peer can keep us busy without doing anything. */
static bool is_noise(struct weft_h2 *h, const nghttp2_frame_hd *hd)
{
	switch (hd->type) {
	case NGHTTP2_DATA:
		return !hd->length && !(hd->flags & NGHTTP2_FLAG_END_STREAM);
	case NGHTTP2_HEADERS:
		return false;
	case NGHTTP2_RST_STREAM: /* of a live stream: counted when it closes */
		return !weft_h2_stream_of(h, hd->stream_id);
	default:
		return true;
	}
}

/* A frame for a stream that is over. It may be on its way since before we cut a stream; where we
 * never did, the peer itself ended it and knows. */
static bool on_closed_stream(const struct weft_h2 *h, const nghttp2_frame_hd *hd)
{
	return h->conf.server && !h->cut_any &&
	       (hd->type == NGHTTP2_HEADERS || hd->type == NGHTTP2_DATA) && hd->stream_id % 2 &&
	       hd->stream_id <= nghttp2_session_get_last_proc_stream_id(h->ng) &&
	       !nghttp2_session_find_stream(h->ng, hd->stream_id);
}

static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user)
{
	struct weft_h2 *h = user;

	if (is_noise(h, hd))
		h->flood |= count_over(&h->noise, WEFT_H2_NOISE_MAX);
	else
		weft_h2_credit(&h->noise, hd->type == NGHTTP2_DATA);
	h->late |= on_closed_stream(h, hd);
	return h->flood || h->late ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static void tell_bad(struct weft_h2_stream *s, enum weft_h2_bad what)
{
	if (s->h->ops->bad)
		s->h->ops->bad(s->h, s, what);
}

/* Frames refused before they reached a stream, such as streams above the limit. */
static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *f, int code, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = f->hd.stream_id ? weft_h2_stream_of(h, f->hd.stream_id) : NULL;

	h->flood |= count_over(&h->rapid, WEFT_H2_RAPID_MAX);
	if (code != NGHTTP2_ERR_HTTP_HEADER && code != NGHTTP2_ERR_HTTP_MESSAGING)
		return 0;
	if (s && !s->reset)
		tell_bad(s, WEFT_H2_BAD_MESSAGE);
	h->invalid |= h->conf.invalid_ends_conn;
	return h->invalid ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s;

	weft_h2_block_clear(&h->block);
	h->in_head = true;
	if (f->headers.cat != NGHTTP2_HCAT_REQUEST) {
		h->cur = weft_h2_stream_of(h, f->hd.stream_id);
		return 0;
	}
	h->cur = s = weft_h2_stream_new(h);
	s->id = f->hd.stream_id;
	return nghttp2_session_set_stream_user_data(ng, s->id, s) ? NGHTTP2_ERR_CALLBACK_FAILURE
								  : 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *f, nghttp2_rcbuf *name,
		     nghttp2_rcbuf *value, uint8_t flags, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = h->cur;
	struct weft_h2_block *b = &h->block;

	if (!s || s->too_big)
		return 0;
	b->bytes += nghttp2_rcbuf_get_buf(name).len + nghttp2_rcbuf_get_buf(value).len +
		    HEADER_OVERHEAD;
	if (b->n == h->conf.max_headers || b->bytes > h->conf.max_header_list) {
		s->too_big = true;
		s->many = b->bytes <= h->conf.max_header_list;
	} else {
		block_add(b, name, value);
	}
	return 0;
}

static int on_bad_header(nghttp2_session *ng, const nghttp2_frame *f, nghttp2_rcbuf *name,
			 nghttp2_rcbuf *value, uint8_t flags, void *user)
{
	struct weft_h2 *h = user;

	if (h->cur)
		h->cur->bad = true;
	return 0; /* with the whole block it is told of, and refused */
}

/* A block that broke a limit or a field rule ends its stream; the session goes on. */
static void refuse_block(struct weft_h2_stream *s)
{
	bool request = s->h->conf.server && !s->final;

	if (s->bad)
		tell_bad(s, WEFT_H2_BAD_FIELD);
	else
		tell_bad(s, s->many ? WEFT_H2_BAD_TOO_MANY : WEFT_H2_BAD_TOO_LARGE);
	if (s->bad && s->h->conf.invalid_ends_conn)
		s->h->invalid = true;
	else if (s->bad || !request || weft_h2_answer(s, 431, NULL, 0, false))
		weft_h2_reset(s, s->bad ? WEFT_H2_PROTOCOL_ERROR : WEFT_H2_ENHANCE_YOUR_CALM);
	s->final = true;
}

static bool is_interim(const struct weft_h2_headers *hs)
{
	const char *status = weft_h2_headers_get(hs, ":status");

	return status && status[0] == '1';
}

static void headers_done(struct weft_h2_stream *s, bool end)
{
	struct weft_h2 *h = s->h;
	struct weft_h2_headers hs = {h->block.v, h->block.n};

	s->peer_ended = end;
	if (s->too_big || s->bad) {
		refuse_block(s);
	} else if (s->reset) {
		return;
	} else if (!s->final) {
		if (!h->conf.server && is_interim(&hs)) {
			if (h->ops->informational)
				h->ops->informational(s, &hs);
			return;
		}
		s->final = s->announced = true;
		h->ops->headers(s, &hs, end);
	} else if (s->announced) {
		if (h->ops->trailers)
			h->ops->trailers(s, &hs);
		if (end && !s->reset)
			h->ops->end(s);
	}
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = f->hd.stream_id ? weft_h2_stream_of(h, f->hd.stream_id) : NULL;
	bool end = f->hd.flags & NGHTTP2_FLAG_END_STREAM;

	if (s)
		s->rx += FRAME_HEAD + f->hd.length;
	if (s && f->hd.type == NGHTTP2_HEADERS)
		s->rx_head += FRAME_HEAD + (uint32_t)f->hd.length;
	switch (f->hd.type) {
	case NGHTTP2_HEADERS:
		if (s)
			headers_done(s, end);
		weft_h2_block_clear(&h->block);
		h->cur = NULL;
		h->in_head = false;
		break;
	case NGHTTP2_RST_STREAM:
		if (s)
			s->peer_reset = true;
		break;
	case NGHTTP2_DATA:
		if (!s || !end)
			break;
		s->peer_ended = true;
		if (s->announced && !s->reset)
			h->ops->end(s);
		break;
	case NGHTTP2_SETTINGS:
		if (h->settings_seen || (f->hd.flags & NGHTTP2_FLAG_ACK))
			break;
		h->settings_seen = true;
		if (h->ops->settings)
			h->ops->settings(h);
		break;
	case NGHTTP2_PING:
		if (!(f->hd.flags & NGHTTP2_FLAG_ACK))
			break;
		if (h->ops->pong)
			h->ops->pong(h);
		if (h->ops->ping_ack)
			h->ops->ping_ack(h, f->ping.opaque_data);
		break;
	case NGHTTP2_GOAWAY:
		if (h->ops->goaway)
			h->ops->goaway(h, f->goaway.error_code, f->goaway.last_stream_id);
		break;
	default:
		break;
	}
	return h->invalid ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = weft_h2_stream_of(h, id);

	bool wanted = s && s->announced && !s->reset;

	if (wanted) {
		s->held += n;
		h->ops->data(s, p, n);
	}
	if (wanted && h->conf.conn_credit_on_consume)
		return 0;
	return nghttp2_session_consume_connection(ng, n) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = weft_h2_stream_of(h, id);

	if (!s)
		return 0;
	if (h->conf.server && code && !s->answered && !s->reset)
		h->flood |= count_over(&h->rapid, WEFT_H2_RAPID_MAX);
	if (s->announced)
		h->ops->closed(s, code);
	/* what nobody consumed of the connection's credit */
	if (s->held && h->conf.conn_credit_on_consume &&
	    nghttp2_session_consume_connection(ng, s->held))
		h->invalid = true;
	nghttp2_session_set_stream_user_data(ng, id, NULL);
	if (h->cur == s)
		h->cur = NULL;
	weft_h2_stream_free(s);
	return 0;
}

void weft_h2_recv_hooks(nghttp2_session_callbacks *cb)
{
	nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(cb, on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback2(cb, on_bad_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
}

int weft_h2_recv(struct weft_h2 *h, const uint8_t *p, size_t n)
{
	ssize_t got;

	if (h->dead)
		return -EPROTO;
	got = nghttp2_session_mem_recv(h->ng, p, n);
	if (got == (ssize_t)n && !h->flood)
		return 0;
	h->flood |= got == NGHTTP2_ERR_FLOODED;
	h->dead = true;
	nghttp2_session_terminate_session(h->ng, h->flood  ? WEFT_H2_ENHANCE_YOUR_CALM
						 : h->late ? WEFT_H2_STREAM_CLOSED
							   : WEFT_H2_PROTOCOL_ERROR);
	return -EPROTO;
}
