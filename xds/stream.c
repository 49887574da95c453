/* One gRPC stream: connecting, HTTP/2, coming back. */
#include "xds/stream.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>

enum { STREAM_WINDOW = 1 << 20, ANSWER_MS = 10000, HEADERS = 6, HEADERS_MAX = 32 };

static void tell(struct weft_xds_stream *s, bool up)
{
	struct xtype *t;

	if (s->connected == up)
		return;
	s->connected = up;
	TAILQ_FOREACH (t, &s->types, link)
		if (t->sink->connected)
			t->sink->connected(t->owner, up);
}

/* Doubles, with up to a quarter off so that many clients do not come together. */
static void dial_later(struct weft_xds_stream *s)
{
	unsigned ms = s->backoff_ms - (unsigned)(weft_rand64() % (s->backoff_ms / 4 + 1));
	struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	s->backoff_ms *= 2;
	if (s->backoff_ms > s->conf.backoff_max_ms)
		s->backoff_ms = s->conf.backoff_max_ms;
	event_add(s->ev_dial, &tv);
}

static void lost(struct weft_xds_stream *s, const char *why)
{
	struct weft_xds_link *l = s->link;
	char text[sizeof(s->why)];

	snprintf(text, sizeof(text), "%s", why); /* may be the link's */
	s->link = NULL;
	weft_xds_link_free(l);
	s->s = NULL;
	weft_grpc_in_done(&s->in);
	evbuffer_drain(s->out, evbuffer_get_length(s->out));
	event_del(s->ev_answer);
	event_del(s->ev_send);
	if (s->heard)
		s->backoff_ms = s->conf.backoff_min_ms;
	s->heard = s->broken = false;
	dial_later(s);
	tell(s, false);
	if (s->conf.lost)
		s->conf.lost(s->conf.owner, text);
}

static void on_down(void *owner, const char *why)
{
	lost(owner, why);
}

/* ---- HTTP/2 */

static void drop_for_status(struct weft_xds_stream *s, const struct weft_h2_headers *h)
{
	const char *status = weft_h2_headers_get(h, "grpc-status");
	const char *message = weft_h2_headers_get(h, "grpc-message");

	snprintf(s->why, sizeof(s->why), "the server ended the stream: grpc-status %.8s %.256s",
		 status ?: "unknown", message ?: "");
	weft_xds_link_drop(s->link, s->why);
}

static void on_headers(struct weft_h2_stream *hs, const struct weft_h2_headers *h, bool end)
{
	struct weft_xds_stream *s = weft_h2_stream_user(hs);
	const char *status = weft_h2_headers_get(h, ":status");
	const char *type = weft_h2_headers_get(h, "content-type");

	if (!status || strcmp(status, "200") || !type || strncmp(type, "application/grpc", 16))
		weft_xds_link_drop(s->link, "the server does not speak gRPC here");
	else if (end)
		drop_for_status(s, h);
	else
		tell(s, true);
	event_del(s->ev_answer);
}

static void on_trailers(struct weft_h2_stream *hs, const struct weft_h2_headers *h)
{
	drop_for_status(weft_h2_stream_user(hs), h);
}

static void on_answer_late(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_stream *s = arg;

	weft_xds_link_drop(s->link, "no answer to the stream in time");
}

static void on_data(struct weft_h2_stream *hs, const uint8_t *p, size_t n)
{
	struct weft_xds_stream *s = weft_h2_stream_user(hs);
	uint8_t *m;
	size_t len;
	int r;

	weft_h2_consume(hs, n);
	if (s->broken)
		return;
	weft_grpc_in_feed(&s->in, p, n);
	while ((r = weft_grpc_in_next(&s->in, &m, &len)) == 1) {
		s->heard = true;
		r = weft_xds_stream_response(s, m, len);
		free(m);
		if (r)
			break;
	}
	s->broken = r != 0;
	if (r)
		weft_xds_link_drop(s->link, r == -EMSGSIZE ? "a response is too large"
							   : "a response cannot be read");
}

static void on_end(struct weft_h2_stream *hs)
{
	struct weft_xds_stream *s = weft_h2_stream_user(hs);

	weft_xds_link_drop(s->link, "the server ended the stream");
}

static void on_stream_closed(struct weft_h2_stream *hs, uint32_t code)
{
	struct weft_xds_stream *s = weft_h2_stream_user(hs);

	s->s = NULL;
	if (s->link) /* else it is being freed */
		weft_xds_link_drop(s->link, "the stream was closed");
}

static ssize_t on_pull(struct weft_h2_stream *hs, uint8_t *dst, size_t max, bool *ret_end)
{
	struct weft_xds_stream *s = weft_h2_stream_user(hs);

	return evbuffer_remove(s->out, dst, max);
}

static void on_settings(struct weft_h2 *h)
{
	struct weft_xds_stream *s = weft_h2_owner(h);

	weft_xds_link_up(s->link);
}

static const struct weft_h2_ops h2_ops = {
	.headers = on_headers,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
	.closed = on_stream_closed,
	.pull = on_pull,
	.settings = on_settings,
};

/* ---- connecting */

static struct weft_h2_header header(const char *name, const char *value)
{
	return (struct weft_h2_header){name, value, strlen(name), strlen(value)};
}

static void start_stream(struct weft_xds_stream *s)
{
	const struct timeval tv = {ANSWER_MS / 1000, 0};
	struct weft_h2_header h[HEADERS_MAX] = {
		header(":method", "POST"),
		header(":scheme", "http"),
		header(":path", s->conf.method),
		header(":authority", s->conf.authority),
		header("content-type", "application/grpc"),
		header("te", "trailers"),
	};
	size_t n = HEADERS;

	for (size_t i = 0; i < s->conf.n_metadata && n < HEADERS_MAX; i++)
		h[n++] = s->conf.metadata[i];
	event_add(s->ev_answer, &tv);
	weft_grpc_in_init(&s->in, s->conf.message_max);
	weft_xds_stream_renew(s);
	s->s = weft_h2_request(weft_xds_link_h2(s->link), h, n, true, s);
	if (s->s)
		weft_xds_stream_send(s);
	else
		weft_xds_link_drop(s->link, "no stream could be opened");
}

static void on_dial(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_stream *s = arg;
	const struct weft_xds_link_conf conf = {
		.h2 = {.stream_window = STREAM_WINDOW},
		.ops = &h2_ops,
		.times = s->conf.times,
		.down = on_down,
		.owner = s,
	};
	struct weft_err err = {0};
	char text[600];

	if (s->conf.connect(s->conf.owner, s->base, &conf, &s->link, &err)) {
		dial_later(s);
		if (s->conf.lost)
			s->conf.lost(s->conf.owner, weft_err_text(&err, text, sizeof(text)));
		return;
	}
	start_stream(s);
}

/* ---- the stream */

static void on_send(evutil_socket_t fd, short what, void *arg)
{
	weft_xds_stream_send(arg);
}

struct weft_xds_stream *weft_xds_stream_new(struct event_base *base,
					    const struct weft_xds_stream_conf *conf)
{
	struct weft_xds_stream *s = weft_xcalloc(1, sizeof(*s));

	s->base = base;
	s->conf = *conf;
	s->backoff_ms = conf->backoff_min_ms;
	s->tokens = conf->max_tokens;
	s->tokens_ns = weft_now_ns();
	TAILQ_INIT(&s->types);
	s->out = evbuffer_new();
	s->ev_dial = event_new(base, -1, 0, on_dial, s);
	s->ev_answer = event_new(base, -1, 0, on_answer_late, s);
	s->ev_send = event_new(base, -1, 0, on_send, s);
	if (!s->out || !s->ev_dial || !s->ev_answer || !s->ev_send)
		abort();
	return s;
}

void weft_xds_stream_start(struct weft_xds_stream *s)
{
	if (!s->started)
		event_active(s->ev_dial, EV_TIMEOUT, 1);
	s->started = true;
}

static void type_free(struct xtype *t)
{
	struct xack *a;

	while ((a = TAILQ_FIRST(&t->acks))) {
		TAILQ_REMOVE(&t->acks, a, link);
		free(a->nonce);
		free(a->error);
		free(a);
	}
	weft_xds_held_free_all(t);
	free(t->names);
	free(t->version);
	free(t->nonce);
	free(t->refused_version);
	free(t);
}

void weft_xds_stream_free(struct weft_xds_stream *s)
{
	struct weft_xds_link *l;
	struct xtype *t;

	if (!s)
		return;
	l = s->link;
	s->link = NULL;
	weft_xds_link_free(l);
	weft_grpc_in_done(&s->in);
	while ((t = TAILQ_FIRST(&s->types))) {
		TAILQ_REMOVE(&s->types, t, link);
		type_free(t);
	}
	event_free(s->ev_dial);
	event_free(s->ev_answer);
	event_free(s->ev_send);
	evbuffer_free(s->out);
	for (size_t i = 0; i < s->conf.n_metadata; i++) {
		free((char *)s->conf.metadata[i].name);
		free((char *)s->conf.metadata[i].value);
	}
	free(s->conf.metadata);
	free(s->conf.method);
	free(s->conf.authority);
	free(s);
}

struct xtype *weft_xds_stream_find(struct weft_xds_stream *s, const char *url)
{
	struct xtype *t;

	TAILQ_FOREACH (t, &s->types, link)
		if (!strcmp(t->type->url, url))
			return t;
	return NULL;
}

struct xtype *weft_xds_stream_type(struct weft_xds_stream *s, const struct weft_xds_type *type,
				   const struct weft_xds_sink *sink, void *owner)
{
	int index = weft_xds_type_index(type->url);
	struct xtype *t = weft_xds_stream_find(s, type->url), *at;

	if (t)
		return t;
	t = weft_xcalloc(1, sizeof(*t));
	t->stream = s;
	t->type = type;
	t->sink = sink;
	t->owner = owner;
	TAILQ_INIT(&t->queue);
	TAILQ_INIT(&t->acks);
	TAILQ_FOREACH (at, &s->types, link)
		if (weft_xds_type_index(at->type->url) > index)
			break;
	if (at)
		TAILQ_INSERT_BEFORE(at, t, link);
	else
		TAILQ_INSERT_TAIL(&s->types, t, link);
	return t;
}
