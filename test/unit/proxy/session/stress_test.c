/* Two sessions back to back and owners that do anything at any time, in callbacks too: nothing may
 * break, every exchange ends once, and bytes arrive as they were sent. */
#include "proxy/session/session.h"

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

enum { ALL = 4096, STEPS = 400, LIVE = 24, HIGH = 20000 };

struct side;
struct ex {
	struct side *side;
	struct weft_exchange *x; /* NULL: over */
	struct weft_arena *arena;
	struct ex *peer; /* the other end's */
	uint64_t sent, got;
	int id, pauses;
	bool head, ended, complete, opaque, no_body, full;
};
struct side {
	struct weft_session *s;
	struct weft_session_conf conf;
	bool closed;
};

static struct event_base *base;
static struct side side[2]; /* client, server */
static struct ex *all[ALL];
static int n_all, n_done, n_reset, n_full;
static uint64_t moved;
static uint32_t seed;
static int wild; /* how often callbacks do something of their own, in a thousand */

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return n ? seed % n : 0;
}

static uint8_t byte_at(const struct ex *e, bool server, uint64_t i)
{
	return (uint8_t)(i * 7 + (i >> 8) + (unsigned)e->id * 3 + server);
}

static struct weft_headers *list(struct ex *e)
{
	struct weft_headers *h = weft_arena_alloc(e->arena, sizeof(*h));

	weft_headers_init(h, e->arena);
	return h;
}

static void add(struct weft_headers *h, const char *name, const char *value)
{
	weft_headers_add(h, name, strlen(name), value, strlen(value));
}

/* ---- what an owner may do */

static bool is_server(const struct ex *e)
{
	return e->side == &side[1];
}

static void do_head(struct ex *e)
{
	struct weft_headers *h = list(e);
	bool end = !rnd(4);
	int r;

	if (e->head || !is_server(e))
		return;
	if (!rnd(6)) {
		add(h, ":status", "103");
		(void)weft_exchange_send_informational(e->x, h);
		h = list(e);
	}
	if (e->opaque && rnd(4)) {
		add(h, ":status", e->peer->complete ? "200" : "200");
		end = false;
	} else {
		add(h, ":status", rnd(5) ? "200" : "404");
	}
	add(h, "x-some", "value");
	e->head = true;
	r = weft_exchange_send_headers(e->x, h, end);
	e->ended = end || r;
	e->complete = end && !r;
}

static void do_data(struct ex *e)
{
	struct evbuffer *b;
	size_t n = rnd(8) ? rnd(3000) : rnd(60000);
	bool end = !rnd(5);
	int r;

	if (!e->head || e->ended || e->full)
		return;
	b = evbuffer_new();
	for (size_t i = 0; i < n; i++) {
		uint8_t c = byte_at(e, is_server(e), e->sent + i);

		evbuffer_add(b, &c, 1);
	}
	e->sent += n;
	e->ended = end;
	e->complete = end;
	r = weft_exchange_send_data(e->x, b, end);
	assert_int_equal(evbuffer_get_length(b), 0);
	evbuffer_free(b);
	if (r < 0) {
		e->sent -= n;
		e->complete = false;
	}
	if (!r && !end) {
		e->full = true;
		n_full++;
	}
}

static void do_trailers(struct ex *e)
{
	struct weft_headers *h = list(e);

	if (!e->head || e->ended)
		return;
	add(h, "x-trailer", "t");
	e->ended = true;
	e->complete = !weft_exchange_send_trailers(e->x, h);
}

static void do_reset(struct ex *e)
{
	struct weft_exchange *x = e->x;

	e->x = NULL;
	e->complete = false;
	weft_exchange_reset(x, WEFT_RESET_LOCAL);
}

static void do_pause(struct ex *e)
{
	if (e->pauses && rnd(3)) {
		e->pauses--;
		weft_exchange_resume(e->x);
	} else if (e->pauses < 3) {
		e->pauses++;
		weft_exchange_pause(e->x);
	}
}

static void act(struct ex *e)
{
	uint32_t what = rnd(100);

	if (!e->x)
		return;
	if (what < 30)
		do_head(e);
	else if (what < 70)
		do_data(e);
	else if (what < 74)
		do_trailers(e);
	else if (what < 77)
		do_reset(e);
	else
		do_pause(e);
}

/* A socketpair knows no RST: what was not written yet looks like an end in order. */
static void kill_session(struct side *d)
{
	for (int i = 0; i < n_all; i++)
		if (all[i]->side == d)
			all[i]->complete = false;
	weft_session_free(d->s);
	d->s = NULL;
	d->closed = true;
}

/* In a callback: something of this exchange, of another, or the end of a session. */
static void act_wild(struct ex *e)
{
	if ((int)rnd(1000) >= wild)
		return;
	if (!rnd(60))
		kill_session(&side[rnd(2)]);
	else if (rnd(2))
		act(e);
	else if (n_all)
		act(all[rnd((uint32_t)n_all)]);
}

/* ---- what they are told */

static void gone(struct ex *e)
{
	assert_non_null(e->x);
	e->x = NULL;
}

static struct ex *told(struct weft_exchange *x)
{
	struct ex *e = weft_exchange_user(x);

	assert_ptr_equal(e->x, x);
	return e;
}

static void check_end(struct ex *e)
{
	struct ex *p = e->peer;

	if (p && p->complete && !p->no_body)
		if (e->got != p->sent)
			fail_msg("%s %d: got %llu of %llu", is_server(e) ? "server" : "client",
				 e->id, (unsigned long long)e->got, (unsigned long long)p->sent);
}

static void on_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct ex *e = weft_exchange_user(x);

	if (is_server(e)) {
		e->id = atoi(weft_headers_value(h, WEFT_H_X_REQUEST_ID));
		e->peer = all[e->id];
		e->peer->peer = e;
		e->opaque = e->peer->opaque;
		e->no_body = e->peer->no_body;
	}
	act_wild(e);
}

static void on_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct ex *e = told(x);
	size_t n = evbuffer_get_length(b);
	uint8_t *p = n ? evbuffer_pullup(b, -1) : NULL;

	assert_true(n || end);
	assert_int_equal(e->pauses, 0);
	for (size_t i = 0; i < n; i++)
		if (p[i] != byte_at(e, !is_server(e), e->got + i))
			fail_msg("byte %zu of %d", (size_t)e->got + i, e->id);
	e->got += n;
	moved += n;
	if (end)
		check_end(e);
	if (rnd(2))
		evbuffer_drain(b, n);
	act_wild(e);
}

static void on_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct ex *e = told(x);

	assert_int_equal(e->pauses, 0);
	check_end(e);
	act_wild(e);
}

static void on_writable(struct weft_exchange *x)
{
	struct ex *e = told(x);

	e->full = false;
	act_wild(e);
}

static void on_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct ex *e = told(x);

	gone(e);
	n_reset++;
	act_wild(e);
}

static void on_done(struct weft_exchange *x)
{
	struct ex *e = told(x);

	gone(e);
	n_done++;
	act_wild(e);
}

static const struct weft_exchange_ops ops = {
	.headers = on_headers,
	.data = on_data,
	.trailers = on_trailers,
	.writable = on_writable,
	.reset = on_reset,
	.done = on_done,
};

static struct ex *ex_new(struct side *d)
{
	struct ex *e = calloc(1, sizeof(*e));

	assert_true(n_all < ALL);
	e->side = d;
	e->arena = weft_arena_new(0);
	e->id = n_all;
	all[n_all++] = e;
	return e;
}

static const struct weft_exchange_ops *on_begin(struct weft_session *s, struct weft_exchange *x,
						void **ret_user, struct weft_arena **ret_arena)
{
	struct ex *e;

	if (!rnd(100))
		return NULL;
	e = ex_new(&side[1]);
	e->x = x;
	*ret_user = e;
	*ret_arena = e->arena;
	return &ops;
}

static void on_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	struct side *d = weft_session_owner(s);

	for (int i = 0; i < n_all; i++)
		assert_true(all[i]->side != d || !all[i]->x);
	d->closed = true;
	if (rnd(2))
		kill_session(d);
}

static void on_room(struct weft_session *s)
{
	assert_true(weft_session_room(s) > 0);
}

static const struct weft_session_ops sops = {
	.begin = on_begin, .closed = on_closed, .room = on_room};

/* ---- the run */

static void pair_up(bool h2)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	for (int i = 0; i < 2; i++) {
		struct side *d = &side[i];

		if (d->s)
			kill_session(d);
		memset(d, 0, sizeof(*d));
		d->conf.server = i;
		d->conf.version = h2 ? WEFT_HTTP_2 : WEFT_HTTP_11;
		d->conf.buffer_bytes = HIGH;
		d->conf.h1.enable_trailers = true;
		d->conf.h1.allow_absolute_url = true;
		d->conf.h2.table_size = UINT32_MAX;
		d->conf.h2.stream_window = d->conf.h2.conn_window = 65535;
		d->conf.h2.max_streams = 8;
		d->conf.h2.allow_connect = true;
		d->s = weft_session_new(weft_io_new(base, fds[i], NULL, NULL, NULL, NULL), &d->conf,
					&sops, d);
	}
}

static void open_one(void)
{
	struct ex *e;
	struct weft_headers *h;
	bool body = rnd(2);
	char id[12];

	if (!side[0].s || !weft_session_room(side[0].s) || n_all > ALL - 64)
		return;
	e = ex_new(&side[0]);
	h = list(e);
	snprintf(id, sizeof(id), "%d", e->id);
	e->opaque = !rnd(8);
	e->no_body = !e->opaque && !rnd(8);
	body |= e->opaque;
	add(h, ":method", e->opaque ? "CONNECT" : e->no_body ? "HEAD" : body ? "POST" : "GET");
	add(h, ":authority", "host:80");
	if (!e->opaque) {
		add(h, ":path", "/x");
		add(h, ":scheme", "http");
	}
	add(h, "x-request-id", id);
	e->head = true;
	e->ended = e->complete = !body;
	if (weft_exchange_open(side[0].s, &ops, e, e->arena, h, body, &e->x))
		e->x = NULL;
}

static void step(void)
{
	int live = 0;

	for (int i = 0; i < n_all; i++)
		live += all[i]->x != NULL;
	if (live < LIVE && rnd(3))
		open_one();
	for (int k = 0; k < 4 && n_all; k++) {
		int i = n_all - 1 - (int)rnd(n_all < 40 ? (uint32_t)n_all : 40);

		act(all[i]);
	}
	if (!rnd(300) && side[rnd(2)].s)
		weft_session_drain(side[1].s ? side[1].s : side[0].s, rnd(3));
	if (!rnd(400))
		kill_session(&side[rnd(2)]);
	for (uint32_t k = rnd(4); k; k--)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

static void end_all(void)
{
	for (int i = 0; i < 2; i++)
		kill_session(&side[i]);
	for (int i = 0; i < 8; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
	for (int i = 0; i < n_all; i++) {
		assert_null(all[i]->x);
		weft_arena_free(all[i]->arena);
		free(all[i]);
	}
	n_all = 0;
}

static void run(bool h2, uint32_t from, int rounds, int how_wild)
{
	n_done = n_reset = n_full = 0;
	moved = 0;
	for (int r = 0; r < rounds; r++) {
		seed = (from + (uint32_t)r) * 2654435761u | 1;
		wild = how_wild;
		base = event_base_new();
		pair_up(h2);
		for (int i = 0; i < STEPS; i++) {
			if (side[0].closed || side[1].closed || !side[0].s || !side[1].s) {
				for (int k = 0; k < 4; k++)
					event_base_loop(base, EVLOOP_NONBLOCK);
				pair_up(h2);
			}
			step();
		}
		wild = 0;
		end_all();
		event_base_free(base);
	}
	print_message("%d done, %d cut, %d times full, %llu bytes\n", n_done, n_reset, n_full,
		      (unsigned long long)moved);
	assert_true(n_done > 20 * rounds / 10);
	assert_true(moved > 10000);
}

static int rounds_of(int n)
{
	const char *s = getenv("WEFT_STRESS_ROUNDS");

	return s ? atoi(s) : n;
}

static void h1_calm(void **state)
{
	run(false, 1, rounds_of(6), 0);
}

static void h1_wild(void **state)
{
	run(false, 1000, rounds_of(12), 150);
}

static void h2_calm(void **state)
{
	run(true, 2000, rounds_of(6), 0);
}

static void h2_wild(void **state)
{
	run(true, 3000, rounds_of(12), 150);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(h1_calm),
		cmocka_unit_test(h1_wild),
		cmocka_unit_test(h2_calm),
		cmocka_unit_test(h2_wild),
	};

	return cmocka_run_group_tests_name("session_stress", tests, NULL, NULL);
}
