#include "proxy/codec/h2.h"
#include "proxy/codec/h2_priv.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MAX = 32 }; /* fields weft_h2_respond takes beside :status */

const char *weft_h2_headers_get(const struct weft_h2_headers *h, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < h->n; i++)
		if (h->v[i].name_len == len && !memcmp(h->v[i].name, name, len))
			return h->v[i].value;
	return NULL;
}

struct weft_h2_stream *weft_h2_stream_new(struct weft_h2 *h)
{
	struct weft_h2_stream *s = weft_xcalloc(1, sizeof(*s));

	s->h = h;
	TAILQ_INSERT_TAIL(&h->streams, s, all);
	h->n_streams++;
	return s;
}

void weft_h2_stream_free(struct weft_h2_stream *s)
{
	TAILQ_REMOVE(&s->h->streams, s, all);
	s->h->n_streams--;
	free(s->trailers);
	free(s);
}

enum { NO_COPY = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE, FEW = 64 };

static void to_nv(nghttp2_nv *nv, const struct weft_h2_header *f, int flags)
{
	*nv = (nghttp2_nv){
		.name = (uint8_t *)f->name,
		.value = (uint8_t *)f->value,
		.namelen = f->name_len,
		.valuelen = f->value_len,
		.flags = (uint8_t)flags,
	};
}

/* A block to send. Few fields need no memory. */
struct block_out {
	nghttp2_nv few[FEW], *v;
	size_t n;
};

static int block_out(struct block_out *b, const struct weft_h2 *h, const struct weft_h2_header *v,
		     size_t n)
{
	if (n > WEFT_H2_HEADERS_OUT_MAX)
		return -E2BIG;
	b->v = n <= FEW ? b->few : weft_xcalloc(n, sizeof(*b->v));
	b->n = n;
	for (size_t i = 0; i < n; i++)
		to_nv(&b->v[i], &v[i], h->conf.keep_headers ? NO_COPY : 0);
	return 0;
}

static void block_out_done(struct block_out *b)
{
	if (b->v != b->few)
		free(b->v);
}

static nghttp2_data_provider body_of(struct weft_h2_stream *s)
{
	return (nghttp2_data_provider){.source.ptr = s, .read_callback = weft_h2_read_body};
}

struct weft_h2_stream *weft_h2_request(struct weft_h2 *h, const struct weft_h2_header *v, size_t n,
				       bool body, void *user)
{
	nghttp2_data_provider dp;
	struct weft_h2_stream *s;
	struct block_out b;

	if (h->conf.server || h->dead || h->goaway_sent || n > WEFT_H2_HEADERS_OUT_MAX ||
	    h->n_streams >= weft_h2_peer_max_streams(h) ||
	    !nghttp2_session_check_request_allowed(h->ng) || block_out(&b, h, v, n))
		return NULL;
	s = weft_h2_stream_new(h);
	s->user = user;
	s->announced = true;
	dp = body_of(s);
	s->id = nghttp2_submit_request(h->ng, NULL, b.v, b.n, body ? &dp : NULL, s);
	block_out_done(&b);
	if (s->id < 0) {
		weft_h2_stream_free(s);
		return NULL;
	}
	return s;
}

int weft_h2_answer(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		   size_t n, bool body)
{
	nghttp2_nv nv[1 + ANSWER_MAX];
	nghttp2_data_provider dp = body_of(s);
	char text[12];
	int len;

	if (!s->h->conf.server || s->reset || s->answered || status < 200 || status > 599)
		return -EINVAL;
	if (n > ANSWER_MAX)
		return -E2BIG;
	len = snprintf(text, sizeof(text), "%d", status);
	to_nv(&nv[0], &(struct weft_h2_header){":status", text, 7, (size_t)len}, 0);
	for (size_t i = 0; i < n; i++)
		to_nv(&nv[1 + i], &extra[i], s->h->conf.keep_headers ? NO_COPY : 0);
	if (nghttp2_submit_response(s->h->ng, s->id, nv, 1 + n, body ? &dp : NULL))
		return -EINVAL;
	s->answered = true;
	s->stop_peer = !body;
	return 0;
}

int weft_h2_respond(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		    size_t n, bool body)
{
	int r = weft_h2_answer(s, status, extra, n, body);

	if (r)
		return r;
	weft_h2_credit(&s->h->noise, 1);
	weft_h2_credit(&s->h->rapid, 1);
	return 0;
}

int weft_h2_trailers(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n)
{
	size_t bytes = n * sizeof(nghttp2_nv);
	bool keep = s->h->conf.keep_headers;
	char *text;

	if (s->reset || s->trailers || !n)
		return -EINVAL;
	if (n > WEFT_H2_HEADERS_OUT_MAX)
		return -E2BIG;
	for (size_t i = 0; i < n && !keep; i++)
		bytes += v[i].name_len + v[i].value_len;
	s->trailers = weft_xcalloc(1, bytes);
	s->n_trailers = n;
	text = (char *)(s->trailers + n);
	for (size_t i = 0; i < n; i++) {
		struct weft_h2_header f = v[i];

		if (!keep) {
			f.name = memcpy(text, v[i].name, f.name_len);
			f.value = memcpy(text + f.name_len, v[i].value, f.value_len);
			text += f.name_len + f.value_len;
		}
		to_nv(&s->trailers[i], &f, keep ? NO_COPY : 0);
	}
	return 0;
}

static int submit(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n,
		  const nghttp2_data_provider *body, bool interim)
{
	struct block_out b;
	int r;

	if (!s->h->conf.server || s->reset || s->answered)
		return -EINVAL;
	r = block_out(&b, s->h, v, n);
	if (r)
		return r;
	if (interim)
		r = nghttp2_submit_headers(s->h->ng, NGHTTP2_FLAG_NONE, s->id, NULL, b.v, b.n,
					   NULL);
	else
		r = nghttp2_submit_response(s->h->ng, s->id, b.v, b.n, body);
	block_out_done(&b);
	return r ? -EINVAL : 0;
}

int weft_h2_send_head(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n, bool body)
{
	nghttp2_data_provider dp = body_of(s);
	int r = submit(s, v, n, body ? &dp : NULL, false);

	if (r)
		return r;
	s->answered = true;
	weft_h2_credit(&s->h->noise, 1);
	weft_h2_credit(&s->h->rapid, 1);
	return 0;
}

int weft_h2_send_interim(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n)
{
	return submit(s, v, n, NULL, true);
}

void weft_h2_stop_peer(struct weft_h2_stream *s)
{
	s->stop_peer = true;
}

bool weft_h2_peer_reset(const struct weft_h2_stream *s)
{
	return s->peer_reset;
}

void weft_h2_stream_bytes(const struct weft_h2_stream *s, struct weft_h2_bytes *ret)
{
	*ret = (struct weft_h2_bytes){s->rx, s->tx, s->rx_head, s->tx_head};
}

void weft_h2_resume(struct weft_h2_stream *s)
{
	/* Fails when nothing is deferred, which is fine: pull will be asked anyway. */
	(void)nghttp2_session_resume_data(s->h->ng, s->id);
}

void weft_h2_consume(struct weft_h2_stream *s, size_t n)
{
	bool conn = s->h->conf.conn_credit_on_consume;

	n = n < s->held ? n : s->held;
	s->held -= n;
	if (nghttp2_session_consume_stream(s->h->ng, s->id, n) ||
	    (conn && nghttp2_session_consume_connection(s->h->ng, n)))
		weft_h2_reset(s, WEFT_H2_INTERNAL_ERROR);
}

static size_t not_negative(int32_t n)
{
	return n > 0 ? (size_t)n : 0;
}

size_t weft_h2_send_window(const struct weft_h2_stream *s)
{
	size_t conn = not_negative(nghttp2_session_get_remote_window_size(s->h->ng));
	size_t one = not_negative(nghttp2_session_get_stream_remote_window_size(s->h->ng, s->id));

	return one < conn ? one : conn;
}

size_t weft_h2_stream_window(const struct weft_h2_stream *s)
{
	return not_negative(
		nghttp2_session_get_stream_effective_local_window_size(s->h->ng, s->id));
}

size_t weft_h2_stream_held(const struct weft_h2_stream *s)
{
	return s->held;
}

void weft_h2_grow_window(struct weft_h2_stream *s, uint32_t bytes)
{
	int32_t now = nghttp2_session_get_stream_effective_local_window_size(s->h->ng, s->id);

	if (bytes > s->h->conf.stream_window_max)
		bytes = s->h->conf.stream_window_max;
	if (now >= 0 && bytes > (uint32_t)now &&
	    nghttp2_session_set_local_window_size(s->h->ng, NGHTTP2_FLAG_NONE, s->id,
						  (int32_t)bytes))
		weft_h2_reset(s, WEFT_H2_INTERNAL_ERROR);
}

void weft_h2_reset(struct weft_h2_stream *s, uint32_t code)
{
	if (s->reset)
		return;
	s->reset = true;
	nghttp2_submit_rst_stream(s->h->ng, NGHTTP2_FLAG_NONE, s->id, code);
}

void *weft_h2_stream_user(const struct weft_h2_stream *s)
{
	return s->user;
}

void weft_h2_stream_set_user(struct weft_h2_stream *s, void *user)
{
	s->user = user;
}

struct weft_h2 *weft_h2_stream_session(const struct weft_h2_stream *s)
{
	return s->h;
}

int32_t weft_h2_stream_id(const struct weft_h2_stream *s)
{
	return s->id;
}
