#include "proxy/codec/h2.h"
#include "proxy/core/arena.h"
#include <assert.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

enum {
	FRAME_HEAD = 9,
	USEFUL_MIN = 1024, /* a DATA frame is not cut smaller than this by the end of the caller's
			      buffer */
	DEFAULT_STREAMS = 100,
	DEFAULT_STREAM_WINDOW = 256 << 10,
	DEFAULT_CONN_WINDOW = 16 << 20,
	DEFAULT_MAX_FRAME = 1 << 20,
	DEFAULT_HEADER_LIST = 16 << 10,
	DEFAULT_SEND_FRAME = 16375,
	HEADER_OVERHEAD = 32, /* RFC 9113 §10.5.1 */
};

struct count { /* events in the current flood window */
	uint32_t n;
	time_t since;
};

struct weft_h2_stream {
	TAILQ_ENTRY(weft_h2_stream) all;
	struct weft_h2 *h;
	void *user;
	nghttp2_nv *trailers; /* owned; one block with its text */
	size_t n_trailers;
	int32_t id;
	bool announced : 1; /* the owner knows of it */
	bool final : 1;	    /* request or final response headers were seen */
	bool answered : 1;
	bool reset : 1;
	bool too_big : 1;
	bool bad : 1;
	bool peer_ended : 1;
	bool stop_peer : 1; /* once our answer, which is all, has gone out */
};

/* The header block being received: one at a time a session. nghttp2 keeps the text. */
struct block {
	struct weft_h2_header *v;
	nghttp2_rcbuf **rc; /* two a header */
	size_t n, cap, bytes;
};

struct weft_h2 {
	nghttp2_session *ng;
	const struct weft_h2_ops *ops;
	void *owner;
	struct weft_h2_conf conf;
	TAILQ_HEAD(, weft_h2_stream) streams;
	uint32_t n_streams;
	struct block block;
	const uint8_t *rest; /* nghttp2's, of a frame that did not fit */
	size_t rest_n;
	uint8_t *out; /* during weft_h2_send */
	size_t off, cap;
	struct count noise, rapid;
	uint32_t goaway_code;
	bool flood, dead, settings_seen, goaway_sent, goaway_due;
};

static time_t coarse_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec;
}

/* The clock is read only once in max events. */
static bool count_over(struct count *c, uint32_t max)
{
	time_t now;

	if (++c->n <= max)
		return false;
	now = coarse_now();
	if (now - c->since <= WEFT_H2_FLOOD_WINDOW_S)
		return true;
	c->since = now;
	c->n = 1;
	return false;
}

static void count_credit(struct count *c, uint32_t n)
{
	c->n -= n < c->n ? n : c->n;
}

static struct weft_h2_stream *stream_of(struct weft_h2 *h, int32_t id)
{
	return nghttp2_session_get_stream_user_data(h->ng, id);
}

static struct weft_h2_stream *stream_new(struct weft_h2 *h)
{
	struct weft_h2_stream *s = weft_xcalloc(1, sizeof(*s));

	s->h = h;
	TAILQ_INSERT_TAIL(&h->streams, s, all);
	h->n_streams++;
	return s;
}

static void stream_free(struct weft_h2_stream *s)
{
	TAILQ_REMOVE(&s->h->streams, s, all);
	s->h->n_streams--;
	free(s->trailers);
	free(s);
}

static void block_clear(struct block *b)
{
	for (size_t i = 0; i < 2 * b->n; i++)
		nghttp2_rcbuf_decref(b->rc[i]);
	b->n = b->bytes = 0;
}

static void block_add(struct block *b, nghttp2_rcbuf *name, nghttp2_rcbuf *value)
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

const char *weft_h2_headers_get(const struct weft_h2_headers *h, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < h->n; i++)
		if (h->v[i].name_len == len && !memcmp(h->v[i].name, name, len))
			return h->v[i].value;
	return NULL;
}

/* ---- receiving */

/* Frames by which a peer can keep us busy without doing anything. */
static bool is_noise(struct weft_h2 *h, const nghttp2_frame_hd *hd)
{
	switch (hd->type) {
	case NGHTTP2_DATA:
		return !hd->length && !(hd->flags & NGHTTP2_FLAG_END_STREAM);
	case NGHTTP2_HEADERS:
		return false;
	case NGHTTP2_RST_STREAM: /* of a live stream: counted when it closes */
		return !stream_of(h, hd->stream_id);
	default:
		return true;
	}
}

static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user)
{
	struct weft_h2 *h = user;

	if (is_noise(h, hd))
		h->flood |= count_over(&h->noise, WEFT_H2_NOISE_MAX);
	else
		count_credit(&h->noise, hd->type == NGHTTP2_DATA);
	return h->flood ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* Frames refused before they reached a stream, such as streams above the limit. */
static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *f, int code, void *user)
{
	struct weft_h2 *h = user;

	h->flood |= count_over(&h->rapid, WEFT_H2_RAPID_MAX);
	return 0;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s;

	block_clear(&h->block);
	if (f->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	s = stream_new(h);
	s->id = f->hd.stream_id;
	return nghttp2_session_set_stream_user_data(ng, s->id, s) ? NGHTTP2_ERR_CALLBACK_FAILURE
								  : 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *f, nghttp2_rcbuf *name,
		     nghttp2_rcbuf *value, uint8_t flags, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = stream_of(h, f->hd.stream_id);
	struct block *b = &h->block;

	if (!s || s->too_big)
		return 0;
	b->bytes += nghttp2_rcbuf_get_buf(name).len + nghttp2_rcbuf_get_buf(value).len +
		    HEADER_OVERHEAD;
	if (b->n == WEFT_H2_HEADERS_MAX || b->bytes > h->conf.max_header_list)
		s->too_big = true;
	else
		block_add(b, name, value);
	return 0;
}

static int on_bad_header(nghttp2_session *ng, const nghttp2_frame *f, nghttp2_rcbuf *name,
			 nghttp2_rcbuf *value, uint8_t flags, void *user)
{
	struct weft_h2_stream *s = stream_of(user, f->hd.stream_id);

	if (s)
		s->bad = true;
	return 0;
}

static int answer(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		  size_t n, bool body);

/* A block that broke a limit or a field rule ends its stream; the session goes on. */
static void refuse_block(struct weft_h2_stream *s)
{
	bool request = s->h->conf.server && !s->final;

	if (s->bad || !request || answer(s, 431, NULL, 0, false))
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
		if (!h->conf.server && is_interim(&hs))
			return;
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
	struct weft_h2_stream *s = f->hd.stream_id ? stream_of(h, f->hd.stream_id) : NULL;
	bool end = f->hd.flags & NGHTTP2_FLAG_END_STREAM;

	switch (f->hd.type) {
	case NGHTTP2_HEADERS:
		if (s)
			headers_done(s, end);
		block_clear(&h->block);
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
		if ((f->hd.flags & NGHTTP2_FLAG_ACK) && h->ops->pong)
			h->ops->pong(h);
		break;
	case NGHTTP2_GOAWAY:
		if (h->ops->goaway)
			h->ops->goaway(h, f->goaway.error_code, f->goaway.last_stream_id);
		break;
	default:
		break;
	}
	return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = stream_of(h, id);

	if (s && s->announced && !s->reset)
		h->ops->data(s, p, n);
	return nghttp2_session_consume_connection(ng, n) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s = stream_of(h, id);

	if (!s)
		return 0;
	if (h->conf.server && code && !s->answered && !s->reset)
		h->flood |= count_over(&h->rapid, WEFT_H2_RAPID_MAX);
	if (s->announced)
		h->ops->closed(s, code);
	nghttp2_session_set_stream_user_data(ng, id, NULL);
	stream_free(s);
	return 0;
}

static int on_sent(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
	struct weft_h2 *h = user;
	struct weft_h2_stream *s;

	switch (f->hd.type) {
	case NGHTTP2_GOAWAY: /* nghttp2 ends the session by itself on protocol errors */
		h->dead |= f->goaway.error_code && !h->goaway_sent;
		break;
	case NGHTTP2_HEADERS:
		s = stream_of(h, f->hd.stream_id);
		if (s && s->stop_peer && !s->peer_ended)
			nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, s->id, WEFT_H2_NO_ERROR);
		break;
	default:
		break;
	}
	return 0;
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
	nghttp2_session_terminate_session(h->ng, h->flood ? WEFT_H2_ENHANCE_YOUR_CALM
							  : WEFT_H2_PROTOCOL_ERROR);
	return -EPROTO;
}

/* ---- sending */

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
static ssize_t read_body(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t max, uint32_t *flags,
			 nghttp2_data_source *src, void *user)
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
	count_credit(&h->noise, 2); /* the window updates it will bring */
	return 0;
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

/* ---- streams */

static void to_nv(nghttp2_nv *nv, const char *name, size_t nlen, const char *value, size_t vlen)
{
	*nv = (nghttp2_nv){
		.name = (uint8_t *)name,
		.value = (uint8_t *)value,
		.namelen = nlen,
		.valuelen = vlen,
	};
}

static nghttp2_data_provider body_of(struct weft_h2_stream *s)
{
	return (nghttp2_data_provider){.source.ptr = s, .read_callback = read_body};
}

struct weft_h2_stream *weft_h2_request(struct weft_h2 *h, const struct weft_h2_header *v, size_t n,
				       bool body, void *user)
{
	nghttp2_nv nv[WEFT_H2_HEADERS_OUT_MAX];
	nghttp2_data_provider dp;
	struct weft_h2_stream *s;

	if (h->conf.server || h->dead || h->goaway_sent || n > WEFT_H2_HEADERS_OUT_MAX ||
	    h->n_streams >= weft_h2_peer_max_streams(h) ||
	    !nghttp2_session_check_request_allowed(h->ng))
		return NULL;
	for (size_t i = 0; i < n; i++)
		to_nv(&nv[i], v[i].name, v[i].name_len, v[i].value, v[i].value_len);
	s = stream_new(h);
	s->user = user;
	s->announced = true;
	dp = body_of(s);
	s->id = nghttp2_submit_request(h->ng, NULL, nv, n, body ? &dp : NULL, s);
	if (s->id < 0) {
		stream_free(s);
		return NULL;
	}
	return s;
}

static int answer(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		  size_t n, bool body)
{
	nghttp2_nv nv[1 + WEFT_H2_HEADERS_OUT_MAX];
	nghttp2_data_provider dp = body_of(s);
	char text[12];
	int len;

	if (!s->h->conf.server || s->reset || s->answered || status < 200 || status > 599)
		return -EINVAL;
	if (n > WEFT_H2_HEADERS_OUT_MAX)
		return -E2BIG;
	len = snprintf(text, sizeof(text), "%d", status);
	to_nv(&nv[0], ":status", 7, text, (size_t)len);
	for (size_t i = 0; i < n; i++)
		to_nv(&nv[1 + i], extra[i].name, extra[i].name_len, extra[i].value,
		      extra[i].value_len);
	if (nghttp2_submit_response(s->h->ng, s->id, nv, 1 + n, body ? &dp : NULL))
		return -EINVAL;
	s->answered = true;
	s->stop_peer = !body;
	return 0;
}

int weft_h2_respond(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		    size_t n, bool body)
{
	int r = answer(s, status, extra, n, body);

	if (r)
		return r;
	count_credit(&s->h->noise, 1);
	count_credit(&s->h->rapid, 1);
	return 0;
}

int weft_h2_trailers(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n)
{
	size_t bytes = n * sizeof(nghttp2_nv);
	char *text;

	if (s->reset || s->trailers || !n)
		return -EINVAL;
	if (n > WEFT_H2_HEADERS_OUT_MAX)
		return -E2BIG;
	for (size_t i = 0; i < n; i++)
		bytes += v[i].name_len + v[i].value_len;
	s->trailers = weft_xcalloc(1, bytes);
	s->n_trailers = n;
	text = (char *)(s->trailers + n);
	for (size_t i = 0; i < n; i++) {
		char *name = text, *value = name + v[i].name_len;

		memcpy(name, v[i].name, v[i].name_len);
		memcpy(value, v[i].value, v[i].value_len);
		to_nv(&s->trailers[i], name, v[i].name_len, value, v[i].value_len);
		text = value + v[i].value_len;
	}
	return 0;
}

void weft_h2_resume(struct weft_h2_stream *s)
{
	/* Fails when nothing is deferred, which is fine: pull will be asked anyway. */
	(void)nghttp2_session_resume_data(s->h->ng, s->id);
}

void weft_h2_consume(struct weft_h2_stream *s, size_t n)
{
	if (nghttp2_session_consume_stream(s->h->ng, s->id, n))
		weft_h2_reset(s, WEFT_H2_INTERNAL_ERROR);
}

void weft_h2_grow_window(struct weft_h2_stream *s, uint32_t bytes)
{
	int32_t now = nghttp2_session_get_stream_effective_local_window_size(s->h->ng, s->id);

	if (bytes > WEFT_H2_STREAM_WINDOW_MAX)
		bytes = WEFT_H2_STREAM_WINDOW_MAX;
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

void *weft_h2_owner(const struct weft_h2 *h)
{
	return h->owner;
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

/* ---- session */

void weft_h2_shutdown_notice(struct weft_h2 *h)
{
	nghttp2_submit_shutdown_notice(h->ng);
}

/* Submitted by the next send: streams that come in until then are still served. */
void weft_h2_goaway(struct weft_h2 *h, uint32_t code)
{
	h->goaway_sent = h->goaway_due = true;
	h->goaway_code = code;
}

void weft_h2_ping(struct weft_h2 *h)
{
	nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, NULL);
}

uint32_t weft_h2_streams(const struct weft_h2 *h)
{
	return h->n_streams;
}

uint32_t weft_h2_peer_max_streams(const struct weft_h2 *h)
{
	return nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

static void fill_defaults(struct weft_h2_conf *c)
{
	c->max_streams = c->max_streams ?: DEFAULT_STREAMS;
	c->stream_window = c->stream_window ?: DEFAULT_STREAM_WINDOW;
	c->conn_window = c->conn_window ?: DEFAULT_CONN_WINDOW;
	c->max_frame = c->max_frame ?: DEFAULT_MAX_FRAME;
	c->max_header_list = c->max_header_list ?: DEFAULT_HEADER_LIST;
	c->max_send_frame = c->max_send_frame ?: DEFAULT_SEND_FRAME;
}

static nghttp2_session *session_new(struct weft_h2 *h)
{
	nghttp2_session_callbacks *cb;
	nghttp2_option *o;
	nghttp2_session *ng;

	if (nghttp2_session_callbacks_new(&cb) || nghttp2_option_new(&o))
		abort();
	nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(cb, on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback2(cb, on_bad_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
	nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_size);
	nghttp2_session_callbacks_set_send_data_callback(cb, put_data);
	nghttp2_option_set_no_auto_window_update(o, 1);
	nghttp2_option_set_no_closed_streams(o, 1);
	nghttp2_option_set_peer_max_concurrent_streams(o, DEFAULT_STREAMS);
	nghttp2_option_set_max_outbound_ack(o, WEFT_H2_ACKS_MAX);
	nghttp2_option_set_max_settings(o, WEFT_H2_SETTINGS_MAX);
	nghttp2_option_set_max_continuations(o, WEFT_H2_CONTINUATIONS_MAX);
	/* Its own limit (33 a second) would cut tunnels whose clients abort a lot; ours looks at
	 * unanswered ones. */
	nghttp2_option_set_stream_reset_rate_limit(o, UINT32_MAX, UINT32_MAX);
	if (h->conf.server ? nghttp2_session_server_new2(&ng, cb, h, o)
			   : nghttp2_session_client_new2(&ng, cb, h, o))
		abort();
	nghttp2_option_del(o);
	nghttp2_session_callbacks_del(cb);
	return ng;
}

static void submit_settings(struct weft_h2 *h)
{
	const struct weft_h2_conf *c = &h->conf;
	nghttp2_settings_entry e[] = {
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, c->stream_window},
		{NGHTTP2_SETTINGS_MAX_FRAME_SIZE, c->max_frame},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, c->max_header_list},
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	};

	if (c->server)
		e[3] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
						c->max_streams};
	if (nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, e, sizeof(e) / sizeof(e[0])) ||
	    nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0,
						  (int32_t)c->conn_window))
		abort(); /* only values out of range: the program's mistake */
}

struct weft_h2 *weft_h2_new(const struct weft_h2_conf *conf, const struct weft_h2_ops *ops,
			    void *owner)
{
	struct weft_h2 *h = weft_xcalloc(1, sizeof(*h));

	h->conf = *conf;
	h->ops = ops;
	h->owner = owner;
	h->noise.since = h->rapid.since = coarse_now();
	TAILQ_INIT(&h->streams);
	fill_defaults(&h->conf);
	h->ng = session_new(h);
	submit_settings(h);
	return h;
}

void weft_h2_free(struct weft_h2 *h)
{
	struct weft_h2_stream *s;

	if (!h)
		return;
	while ((s = TAILQ_FIRST(&h->streams))) {
		if (s->announced)
			h->ops->closed(s, WEFT_H2_CANCEL);
		stream_free(s);
	}
	nghttp2_session_del(h->ng);
	block_clear(&h->block);
	free(h->block.v);
	free(h->block.rc);
	free(h);
}
