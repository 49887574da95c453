#include "proxy/codec/h2.h"
#include "proxy/codec/h2_priv.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	FRAME_HEAD = 9,
	USEFUL_MIN = 1024, /* a DATA frame is not cut smaller by the end of the caller's buffer */
};

static int on_sent(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = f->hd.stream_id ? weft_h2_stream_of(h, f->hd.stream_id) : NULL;

	if (s)
		s->tx += FRAME_HEAD + f->hd.length;
	if (s && f->hd.type == NGHTTP2_HEADERS)
		s->tx_head += FRAME_HEAD + (uint32_t)f->hd.length;
	switch (f->hd.type) {
	case NGHTTP2_GOAWAY: /* nghttp2 ends the session by itself on protocol errors */
		h->dead |= f->goaway.error_code && !h->goaway_sent;
		h->cut_any = true;
		break;
	case NGHTTP2_RST_STREAM:
		h->cut_any = true;
		break;
	case NGHTTP2_HEADERS:
	case NGHTTP2_DATA:
		if (s && (f->hd.flags & NGHTTP2_FLAG_END_STREAM) && s->stop_peer && !s->peer_ended)
			nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, s->id, WEFT_H2_NO_ERROR);
		break;
	default:
		break;
	}
	return 0;
}

static ssize_t frame_size(nghttp2_session *ng, uint8_t type, int32_t id, int32_t conn_window,
			  int32_t stream_window, uint32_t peer_max, void *user)
{
	const struct weft_h2 *h = user;
	ssize_t n = h->conf.max_send_frame;

	n = n < conn_window ? n : conn_window;
	n = n < stream_window ? n : stream_window;
	return n < (ssize_t)peer_max ? n : (ssize_t)peer_max;
}

static int send_trailers(struct weft_h2_stream *s, uint32_t *flags)
{
	if (!s->trailers)
		return 0;
	*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
	return nghttp2_submit_trailer(s->h->ng, s->id, s->trailers, s->n_trailers);
}

/* The body goes to its place behind the frame head, which put_data writes next. */
ssize_t weft_h2_read_body(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t max,
			  uint32_t *flags, nghttp2_data_source *src, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = src->ptr;
	size_t room = h->cap - h->off;
	bool end = false;
	ssize_t n;

	if (!h->out || room < FRAME_HEAD + (max < USEFUL_MIN ? max : USEFUL_MIN))
		return NGHTTP2_ERR_PAUSE;
	room -= FRAME_HEAD;
	max = max < room ? max : room;
	n = h->ops->pull(s, h->out + h->off + FRAME_HEAD, max, &end);
	assert(n <= (ssize_t)max);
	if (n < 0)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (!n && !end)
		return NGHTTP2_ERR_DEFERRED;
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (end) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (send_trailers(s, flags))
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	return n;
}

static int put_data(nghttp2_session *ng, nghttp2_frame *f, const uint8_t *head, size_t n,
		    nghttp2_data_source *src, void *user)
{
	struct weft_h2 *h = user;

	assert(h->out && h->cap - h->off >= FRAME_HEAD + n);
	memcpy(h->out + h->off, head, FRAME_HEAD);
	h->off += FRAME_HEAD + n;
	weft_h2_credit(&h->noise, 2); /* the window updates it will bring */
	return 0;
}

void weft_h2_send_hooks(nghttp2_session_callbacks *cb)
{
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
	nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_size);
	nghttp2_session_callbacks_set_send_data_callback(cb, put_data);
}

static void put_rest(struct weft_h2 *h)
{
	size_t n = h->cap - h->off;

	n = n < h->rest_n ? n : h->rest_n;
	memcpy(h->out + h->off, h->rest, n);
	h->off += n;
	h->rest += n;
	h->rest_n -= n;
}

static void submit_goaway(struct weft_h2 *h)
{
	h->goaway_due = false;
	nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE,
			      nghttp2_session_get_last_proc_stream_id(h->ng), h->goaway_code, NULL,
			      0);
}

ssize_t weft_h2_send(struct weft_h2 *h, uint8_t *dst, size_t cap)
{
	if (!weft_h2_want_send(h))
		return h->dead ? -EPROTO : 0;
	if (h->goaway_due)
		submit_goaway(h);
	h->out = dst;
	h->off = 0;
	h->cap = cap;
	while (h->off < cap) {
		if (!h->rest_n) {
			ssize_t n = nghttp2_session_mem_send(h->ng, &h->rest);

			if (n < 0)
				h->dead = true;
			if (n <= 0)
				break;
			h->rest_n = (size_t)n;
		}
		put_rest(h);
	}
	h->out = NULL;
	h->cap = 0;
	return h->off || !h->dead ? (ssize_t)h->off : -EPROTO;
}

bool weft_h2_want_send(const struct weft_h2 *h)
{
	return h->rest_n || h->goaway_due || nghttp2_session_want_write(h->ng);
}

bool weft_h2_done(const struct weft_h2 *h)
{
	return !weft_h2_want_send(h) && !nghttp2_session_want_read(h->ng);
}
