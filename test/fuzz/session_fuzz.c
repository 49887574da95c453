/* A session fed with foreign bytes. First byte: client or server, version, options; second: what
 * the owner does; third: into how many bytes the rest is cut. Every exchange must end exactly once.
 */
#include "proxy/session/session.h"

#include <assert.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

static bool short_one(const void *ctx, const char *protocol, size_t n)
{
	return n < 3;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct run {
	struct weft_session *s;
	unsigned plan, begun, ended, cut;
	bool closed;
};
struct one {
	struct run *r;
	struct weft_arena *arena;
	bool answered, over;
	struct weft_exchange *x;
};

static void take_write(struct weft_io *io)
{
	evbuffer_drain(weft_io_out(io), evbuffer_get_length(weft_io_out(io)));
	weft_io_tell_drained(io);
}

static void want_read(struct weft_io *io, bool on)
{
}

static void end_write(struct weft_io *io)
{
}

static void destroy(struct weft_io *io, bool reset)
{
}

static const struct weft_io_kind kind = {
	.want_write = take_write,
	.want_read = want_read,
	.shutdown = end_write,
	.destroy = destroy,
};

static void answer(struct one *o)
{
	struct evbuffer *b = evbuffer_new();
	struct weft_headers h;
	bool end = o->r->plan & 1;
	int r;

	o->answered = true;
	weft_headers_init(&h, o->arena);
	weft_headers_add(&h, ":status", 7, "200", 3);
	r = weft_exchange_send_headers(o->x, &h, end);
	evbuffer_add(b, "some body", 9);
	if (!r && !end)
		weft_exchange_send_data(o->x, b, true);
	evbuffer_free(b);
}

static void cut(struct one *o)
{
	o->r->cut++;
	o->over = true;
	weft_exchange_reset(o->x, WEFT_RESET_LOCAL);
}

static void look(const struct weft_headers *h)
{
	for (uint32_t i = 0; i < h->n; i++) {
		assert(strlen(h->v[i].name) == h->v[i].name_len);
		assert(strlen(h->v[i].value) == h->v[i].value_len);
		assert(!strpbrk(h->v[i].value, "\r\n"));
	}
}

static void on_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct one *o = weft_exchange_user(x);
	bool server = weft_headers_get(h, WEFT_H_METHOD);

	look(h);
	if (o->r->plan & 2)
		weft_exchange_pause(x);
	if (o->r->plan & 4 && server)
		answer(o);
	else if (end && server)
		answer(o);
	if (o->r->plan & 8)
		weft_exchange_resume((weft_exchange_pause(x), x));
}

static void on_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct one *o = weft_exchange_user(x);

	assert(!o->over);
	if (o->r->plan & 16) {
		cut(o);
		return;
	}
	if (o->r->plan & 32) {
		weft_session_free(o->r->s);
		o->r->s = NULL;
		return;
	}
	if (end && !o->answered)
		answer(o);
}

static void on_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	look(h);
}

static void on_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct one *o = weft_exchange_user(x);

	assert(!o->over);
	o->over = true;
	o->r->ended++;
}

static void on_done(struct weft_exchange *x)
{
	on_reset(x, WEFT_RESET_NONE);
}

static const struct weft_exchange_ops ops = {
	.headers = on_headers,
	.informational = on_trailers,
	.data = on_data,
	.trailers = on_trailers,
	.reset = on_reset,
	.done = on_done,
};

static struct weft_arena *arena;

static struct one *one_new(struct run *r)
{
	struct one *o = weft_arena_alloc(arena, sizeof(*o));

	o->r = r;
	o->arena = arena;
	return o;
}

static const struct weft_exchange_ops *on_begin(struct weft_session *s, struct weft_exchange *x,
						void **ret_user, struct weft_arena **ret_arena)
{
	struct run *r = weft_session_owner(s);
	struct one *o = one_new(r);

	r->begun++;
	o->x = x;
	*ret_user = o;
	*ret_arena = arena;
	return &ops;
}

static void on_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	struct run *r = weft_session_owner(s);

	assert(!r->closed);
	r->closed = true;
}

static const struct weft_session_ops sops = {.begin = on_begin, .closed = on_closed};

static void ask(struct run *r, const char *method, bool upgrade)
{
	struct one *o = one_new(r);
	struct weft_headers h;

	weft_headers_init(&h, arena);
	weft_headers_add(&h, ":method", 7, method, strlen(method));
	weft_headers_add(&h, ":authority", 10, "a", 1);
	weft_headers_add(&h, ":path", 5, "/", 1);
	weft_headers_add(&h, ":scheme", 7, "http", 4);
	if (upgrade)
		weft_headers_add(&h, "upgrade", 7, "websocket", 9);
	if (!weft_exchange_open(r->s, &ops, o, arena, &h, upgrade, &o->x))
		r->begun++;
}

static void feed(struct event_base *base, struct run *r, struct weft_io *io, const uint8_t *p,
		 size_t n, size_t piece)
{
	while (n && r->s && !r->closed) {
		size_t k = n < piece ? n : piece;

		evbuffer_add(weft_io_in(io), p, k);
		p += k;
		n -= k;
		weft_io_tell_readable(io, !n);
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_session_conf conf = {.buffer_bytes = 4096, .delayed_close_ms = UINT32_MAX};
	struct event_base *base;
	struct weft_io *io;
	struct run r = {0};

	if (n < 3)
		return 0;
	conf.server = data[0] & 1;
	conf.version = data[0] & 2 ? WEFT_HTTP_2 : conf.server ? WEFT_HTTP_10 : WEFT_HTTP_11;
	conf.h1.accept_http_10 = data[0] & 4;
	conf.h1.enable_trailers = data[0] & 8;
	conf.h1.allow_absolute_url = data[0] & 16;
	conf.h1.preserve_case = data[0] & 32;
	conf.h1.preserve_reason = conf.h1.proper_rest = data[0] & 64;
	conf.h1.ignore_upgrade = data[0] & 32 ? short_one : NULL;
	conf.h1.stream_error_on_invalid = conf.h2.stream_error_on_invalid = data[0] & 64;
	conf.h1.allow_chunked_length = conf.h2.allow_connect = data[0] & 128;
	conf.h2.table_size = UINT32_MAX;
	r.plan = data[1];
	base = event_base_new();
	arena = weft_arena_new(0);
	io = weft_io_make(base, &kind, 0, NULL, NULL, NULL);
	weft_io_tell_ready(io);
	r.s = weft_session_new(io, &conf, &sops, &r);
	event_base_loop(base, EVLOOP_NONBLOCK);
	for (int i = 0; i < 2 && !conf.server; i++)
		ask(&r, r.plan & 64 ? "HEAD" : "GET", r.plan & 128);
	feed(base, &r, io, data + 3, n - 3, data[2] ? data[2] : n);
	weft_session_free(r.s);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert(r.begun == r.ended + r.cut);
	weft_arena_free(arena);
	event_base_free(base);
	return 0;
}
