/* One session over a socketpair whose other end is raw bytes, or two sessions back to back. What
 * the ops are told is written to a log, and a plan says what the exchanges do. */
#pragma once
#include "proxy/session/session.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { LOG = 1 << 16 };

struct side;
struct ex { /* the user of an exchange */
	struct side *side;
	struct weft_exchange *x;
	struct weft_arena *arena;
	struct weft_headers *h;
	size_t got;
	bool over;
	enum weft_reset why;
	char detail[64];
};

struct side {
	struct weft_session *s;
	struct weft_session_conf conf;
	char log[LOG];
	struct ex *ex[64];
	int n;
	bool closed, quiet; /* quiet: bodies are only counted */
	enum weft_io_end why;
	/* called after the log has the event; NULL: nothing */
	void (*on_headers)(struct ex *e, bool end);
	void (*on_data)(struct ex *e, struct evbuffer *b, bool end);
	void (*on_writable)(struct ex *e);
	bool free_on_close, refuse;
};

static struct event_base *base;

static void note(struct side *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct side *d, const char *fmt, ...)
{
	size_t n = strlen(d->log);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(d->log + n, LOG - n, fmt, ap);
	va_end(ap);
}

static void note_headers(struct side *d, const char *what, const struct weft_headers *h, bool end)
{
	note(d, "%s", what);
	for (uint32_t i = 0; i < h->n; i++) {
		assert_int_equal(strlen(h->v[i].name), h->v[i].name_len);
		assert_int_equal(strlen(h->v[i].value), h->v[i].value_len);
		note(d, " %s=%s", h->v[i].name, h->v[i].value);
	}
	note(d, "%s\n", end ? " END" : "");
}

static struct ex *ex_new(struct side *d)
{
	struct ex *e = calloc(1, sizeof(*e));

	e->side = d;
	e->arena = weft_arena_new(0);
	assert_true(d->n < 64);
	d->ex[d->n++] = e;
	return e;
}

static void on_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct ex *e = weft_exchange_user(x);

	e->h = h;
	note_headers(e->side, "headers", h, end);
	if (e->side->on_headers)
		e->side->on_headers(e, end);
}

static void on_informational(struct weft_exchange *x, struct weft_headers *h)
{
	struct ex *e = weft_exchange_user(x);

	note_headers(e->side, "interim", h, false);
}

static void on_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct ex *e = weft_exchange_user(x);
	size_t n = evbuffer_get_length(b);

	e->got += n;
	if (!e->side->quiet)
		note(e->side, "data %.*s%s\n", (int)n, n ? (char *)evbuffer_pullup(b, -1) : "",
		     end ? " END" : "");
	if (e->side->on_data)
		e->side->on_data(e, b, end);
}

static void on_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct ex *e = weft_exchange_user(x);

	note_headers(e->side, "trailers", h, true);
	if (e->side->on_data) {
		struct evbuffer *none = evbuffer_new();

		e->side->on_data(e, none, true);
		evbuffer_free(none);
	}
}

static void on_writable(struct weft_exchange *x)
{
	struct ex *e = weft_exchange_user(x);

	if (!e->side->quiet)
		note(e->side, "writable\n");
	if (e->side->on_writable)
		e->side->on_writable(e);
}

static void on_reset(struct weft_exchange *x, enum weft_reset why)
{
	static const char *const names[] = {"none",    "remote",   "refused",  "local",
					    "connect", "protocol", "overflow", "timeout"};
	struct ex *e = weft_exchange_user(x);

	snprintf(e->detail, sizeof(e->detail), "%s", weft_exchange_detail(x));
	note(e->side, "reset %s%s%s\n", names[why], *e->detail ? " " : "", e->detail);
	e->why = why;
	e->over = true;
	e->x = NULL;
}

static void on_done(struct weft_exchange *x)
{
	struct ex *e = weft_exchange_user(x);

	note(e->side, "done\n");
	e->over = true;
	e->x = NULL;
}

static const struct weft_exchange_ops ex_ops = {
	.headers = on_headers,
	.informational = on_informational,
	.data = on_data,
	.trailers = on_trailers,
	.writable = on_writable,
	.reset = on_reset,
	.done = on_done,
};

static const struct weft_exchange_ops *on_begin(struct weft_session *s, struct weft_exchange *x,
						void **ret_user, struct weft_arena **ret_arena)
{
	struct side *d = weft_session_owner(s);
	struct ex *e;

	if (d->refuse)
		return NULL;
	e = ex_new(d);
	e->x = x;
	*ret_user = e;
	*ret_arena = e->arena;
	return &ex_ops;
}

static void on_bad(struct weft_session *s, int status, const char *detail)
{
	note(weft_session_owner(s), "bad %d %s\n", status, detail);
}

static void on_goaway(struct weft_session *s)
{
	note(weft_session_owner(s), "goaway\n");
}

static void on_room(struct weft_session *s)
{
	note(weft_session_owner(s), "room\n");
}

static void on_idle(struct weft_session *s, bool idle)
{
}

static void on_session_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	static const char *const names[] = {"eof", "reset", "refused", "tls", "timeout"};
	struct side *d = weft_session_owner(s);

	note(d, "closed %s\n", names[why]);
	d->closed = true;
	d->why = why;
	if (d->free_on_close) {
		weft_session_free(s);
		d->s = NULL;
	}
}

static const struct weft_session_ops session_ops = {
	.begin = on_begin,
	.bad = on_bad,
	.goaway = on_goaway,
	.room = on_room,
	.idle = on_idle,
	.closed = on_session_closed,
};

static struct side *side_new(bool server, enum weft_http version)
{
	struct side *d = calloc(1, sizeof(*d));

	d->conf.server = server;
	d->conf.version = version;
	d->conf.h1.allow_absolute_url = true;
	d->free_on_close = true;
	return d;
}

static void side_start(struct side *d, int fd)
{
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	d->s = weft_session_new(weft_io_new(base, fd, NULL, NULL, NULL, NULL), &d->conf,
				&session_ops, d);
}

static void side_free(struct side *d)
{
	weft_session_free(d->s);
	for (int i = 0; i < d->n; i++) {
		weft_arena_free(d->ex[i]->arena);
		free(d->ex[i]);
	}
	free(d);
}

/* Turns of the loop until nothing happens any more. */
static void settle(void)
{
	for (int i = 0; i < 12; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

/* The raw end. */
__attribute__((unused)) static void put(int fd, const char *text)
{
	size_t n = strlen(text);

	assert_int_equal(send(fd, text, n, MSG_NOSIGNAL), (ssize_t)n);
	settle();
}

static char raw[1 << 18];

/* All there is to read; "<EOF>" where the other side ended. */
__attribute__((unused)) static const char *get(int fd)
{
	size_t n = 0;
	ssize_t k;

	settle();
	while ((k = recv(fd, raw + n, sizeof(raw) - n - 8, MSG_DONTWAIT)) > 0)
		n += (size_t)k;
	raw[n] = 0;
	if (!k)
		strcpy(raw + n, "<EOF>");
	else if (errno != EAGAIN)
		strcpy(raw + n, "<RST>");
	return raw;
}

static void assert_log(struct side *d, const char *want)
{
	settle();
	assert_string_equal(d->log, want);
	d->log[0] = 0;
}

/* "name: value" lines; the exchange's arena has the list. */
static struct weft_headers *list(struct ex *e, const char *text)
{
	struct weft_headers *h = weft_arena_alloc(e->arena, sizeof(*h));

	weft_headers_init(h, e->arena);
	while (*text) {
		const char *colon = strchr(text + 1, ':'), *end = strchrnul(text, '\n');

		weft_headers_add(h, text, (size_t)(colon - text), colon + 2,
				 (size_t)(end - colon - 2));
		text = *end ? end + 1 : end;
	}
	return h;
}

static int send_text(struct ex *e, const char *text, bool end)
{
	struct evbuffer *b = evbuffer_new();
	int r;

	evbuffer_add(b, text, strlen(text));
	r = weft_exchange_send_data(e->x, b, end);
	assert_int_equal(evbuffer_get_length(b), 0);
	evbuffer_free(b);
	return r;
}

__attribute__((unused)) static int answer(struct ex *e, const char *text, bool end)
{
	return weft_exchange_send_headers(e->x, list(e, text), end);
}

__attribute__((unused)) static struct ex *ask(struct side *d, const char *text, bool body)
{
	struct ex *e = ex_new(d);

	if (weft_exchange_open(d->s, &ex_ops, e, e->arena, list(e, text), body, &e->x))
		e->over = true;
	return e;
}

static int base_up(void **state)
{
	base = event_base_new();
	return 0;
}

static int base_down(void **state)
{
	event_base_free(base);
	return 0;
}
