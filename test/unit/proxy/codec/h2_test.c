/* Two sessions back to back over byte buffers. */
#include "proxy/codec/h2.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEND_CAP = 16384 + 9 };

struct side;
struct str { /* what one end of a stream saw and has to say */
	struct side *side;
	struct weft_h2_stream *s;
	uint64_t to_send, sent, got;
	uint32_t send_sum, got_sum;
	size_t chunk_max;
	int status;
	uint32_t code;
	bool headers, end, closed, hold, no_consume, fin, fail_pull, trailer;
	char trailer_status[32], method[16], authority[64];
};

struct side {
	struct weft_h2 *h;
	struct side *peer;
	struct str *strs[40000];
	int n;
	uint32_t rnd;
	int answer; /* status of the server's answers; 0: none */
	bool answer_body;
	int settings, goaways, pongs, closed, pull_calls;
	int32_t goaway_last;
	uint32_t goaway_code;
	size_t biggest; /* frame sent */
};

static uint32_t rnd(struct side *d)
{
	d->rnd = d->rnd * 1664525u + 1013904223u;
	return d->rnd >> 8;
}

static uint8_t byte_at(uint64_t off, uint32_t seed)
{
	return (uint8_t)((off * 2654435761u >> 7) + seed);
}

static uint32_t sum_add(uint32_t sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum = (sum ^ p[i]) * 16777619u;
	return sum;
}

static struct str *str_new(struct side *d)
{
	struct str *t = weft_xcalloc(1, sizeof(*t));

	assert_true(d->n < (int)(sizeof(d->strs) / sizeof(d->strs[0])));
	t->side = d;
	t->chunk_max = 5000;
	t->send_sum = t->got_sum = 2166136261u;
	d->strs[d->n++] = t;
	return t;
}

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	struct side *d = weft_h2_owner(weft_h2_stream_session(s));
	struct str *t = weft_h2_stream_user(s);
	const char *v;

	if (!t) {
		t = str_new(d);
		t->s = s;
		weft_h2_stream_set_user(s, t);
		v = weft_h2_headers_get(h, ":method");
		snprintf(t->method, sizeof(t->method), "%s", v ? v : "");
		v = weft_h2_headers_get(h, ":authority");
		snprintf(t->authority, sizeof(t->authority), "%s", v ? v : "");
		if (d->answer)
			assert_int_equal(weft_h2_respond(s, d->answer, NULL, 0, d->answer_body), 0);
	} else {
		v = weft_h2_headers_get(h, ":status");
		assert_non_null(v);
		t->status = atoi(v);
	}
	assert_false(t->headers);
	t->headers = true;
	if (end)
		t->end = true;
}

static void on_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	struct str *t = weft_h2_stream_user(s);

	assert_true(t->headers && !t->end && !t->closed);
	t->got += n;
	t->got_sum = sum_add(t->got_sum, p, n);
	if (!t->no_consume)
		weft_h2_consume(s, n);
}

static void on_trailers(struct weft_h2_stream *s, const struct weft_h2_headers *h)
{
	struct str *t = weft_h2_stream_user(s);
	const char *v = weft_h2_headers_get(h, "grpc-status");

	snprintf(t->trailer_status, sizeof(t->trailer_status), "%s", v ? v : "");
}

static void on_end(struct weft_h2_stream *s)
{
	struct str *t = weft_h2_stream_user(s);

	assert_false(t->end);
	t->end = true;
}

static void on_closed(struct weft_h2_stream *s, uint32_t code)
{
	struct str *t = weft_h2_stream_user(s);

	if (!t)
		return;
	assert_false(t->closed);
	t->side->closed++;
	t->closed = true;
	t->code = code;
	t->s = NULL;
}

static ssize_t on_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	struct str *t = weft_h2_stream_user(s);
	size_t n;

	t->side->pull_calls++;
	if (t->fail_pull)
		return -EIO;
	if (t->hold)
		return 0;
	n = 1 + rnd(t->side) % t->chunk_max;
	n = n < max ? n : max;
	n = n < t->to_send - t->sent ? n : t->to_send - t->sent;
	for (size_t i = 0; i < n; i++)
		dst[i] = byte_at(t->sent + i, 7);
	t->send_sum = sum_add(t->send_sum, dst, n);
	t->sent += n;
	if (n > t->side->biggest)
		t->side->biggest = n;
	if (t->sent == t->to_send && t->fin) {
		const struct weft_h2_header tr = {"grpc-status", "0", 11, 1};

		if (t->trailer)
			assert_int_equal(weft_h2_trailers(s, &tr, 1), 0);
		*ret_end = true;
	}
	return (ssize_t)n;
}

static void on_settings(struct weft_h2 *h)
{
	((struct side *)weft_h2_owner(h))->settings++;
}

static void on_goaway(struct weft_h2 *h, uint32_t code, int32_t last)
{
	struct side *d = weft_h2_owner(h);

	d->goaways++;
	d->goaway_code = code;
	d->goaway_last = last;
}

static void on_pong(struct weft_h2 *h)
{
	((struct side *)weft_h2_owner(h))->pongs++;
}

static const struct weft_h2_ops ops = {
	.headers = on_headers,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.settings = on_settings,
	.goaway = on_goaway,
	.pong = on_pong,
};

struct pair {
	struct side c, s;
	size_t feed_max; /* bytes a recv; 0: all */
	size_t cap;
};

static struct pair *pair_new(const struct weft_h2_conf *cc, const struct weft_h2_conf *sc)
{
	struct pair *p = weft_xcalloc(1, sizeof(*p));
	struct weft_h2_conf c = cc ? *cc : (struct weft_h2_conf){0};
	struct weft_h2_conf s = sc ? *sc : (struct weft_h2_conf){0};

	c.server = false;
	s.server = true;
	p->c.peer = &p->s;
	p->s.peer = &p->c;
	p->c.h = weft_h2_new(&c, &ops, &p->c);
	p->s.h = weft_h2_new(&s, &ops, &p->s);
	p->s.answer = 200;
	p->s.answer_body = true;
	p->cap = SEND_CAP;
	return p;
}

static void side_done(struct side *d)
{
	weft_h2_free(d->h);
	for (int i = 0; i < d->n; i++) {
		assert_true(d->strs[i]->closed || !d->strs[i]->s);
		free(d->strs[i]);
	}
}

static void pair_free(struct pair *p)
{
	side_done(&p->c);
	side_done(&p->s);
	free(p);
}

static int feed(struct pair *p, struct side *to, const uint8_t *b, size_t n)
{
	int r = 0;

	for (size_t off = 0; off < n && !r;) {
		size_t k = p->feed_max ? 1 + rnd(to) % p->feed_max : n;

		k = k < n - off ? k : n - off;
		r = weft_h2_recv(to->h, b + off, k);
		off += k;
	}
	return r;
}

/* Moves what one side has to its peer; bytes moved or an error of either. */
static ssize_t step(struct pair *p, struct side *from)
{
	uint8_t *buf = malloc(p->cap); /* exact, for ASan */
	ssize_t n = weft_h2_send(from->h, buf, p->cap);

	if (n > 0) {
		int r = feed(p, from->peer, buf, (size_t)n);

		n = r ? r : n;
	}
	free(buf);
	return n;
}

static int pump(struct pair *p)
{
	ssize_t a, b;

	do {
		a = step(p, &p->c);
		if (a < 0)
			return (int)a;
		b = step(p, &p->s);
		if (b < 0)
			return (int)b;
	} while (a || b);
	return 0;
}

#define H(n, v)                                                                                    \
	{                                                                                          \
		n, v, sizeof(n) - 1, sizeof(v) - 1                                                 \
	}
static const struct weft_h2_header connect_h[] = {H(":method", "CONNECT"),
						  H(":authority", "10.0.1.7:8080")};

static struct str *open_connect(struct pair *p, bool body)
{
	struct str *t = str_new(&p->c);

	t->hold = true;
	t->s = weft_h2_request(p->c.h, connect_h, 2, body, t);
	if (!t->s) {
		p->c.n--;
		free(t);
		return NULL;
	}
	return t;
}

static void connect_200(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *t;

	assert_int_equal(weft_h2_peer_max_streams(p->c.h), 100);
	t = open_connect(p, true);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->c.settings, 1);
	assert_int_equal(p->s.settings, 1);
	assert_int_equal(p->s.n, 1);
	assert_string_equal(p->s.strs[0]->method, "CONNECT");
	assert_string_equal(p->s.strs[0]->authority, "10.0.1.7:8080");
	assert_false(p->s.strs[0]->end);
	assert_int_equal(t->status, 200);
	assert_false(t->end);
	assert_int_equal(weft_h2_streams(p->c.h), 1);
	assert_int_equal(weft_h2_streams(p->s.h), 1);
	assert_int_equal(weft_h2_stream_id(t->s), 1);
	pair_free(p);
}

/* An error answer without a body ends the stream at both ends although the client did not end its
 * side. */
static void connect_refused(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *t;

	p->s.answer = 503;
	p->s.answer_body = false;
	t = open_connect(p, true);
	assert_int_equal(pump(p), 0);
	assert_int_equal(t->status, 503);
	assert_true(t->end && t->closed && p->s.strs[0]->closed);
	assert_int_equal(t->code, 0);
	assert_int_equal(weft_h2_streams(p->s.h), 0);
	pair_free(p);
}

static void start(struct str *t, uint64_t bytes, bool fin)
{
	t->to_send = bytes;
	t->fin = fin;
	t->hold = false;
	weft_h2_resume(t->s);
}

static void bulk(size_t feed_max, size_t cap, size_t chunk, uint64_t bytes, int streams)
{
	struct pair *p = pair_new(NULL, NULL);

	p->feed_max = feed_max;
	p->cap = cap;
	for (int i = 0; i < streams; i++)
		assert_non_null(open_connect(p, true));
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.n, streams);
	for (int i = 0; i < streams; i++) {
		p->c.strs[i]->chunk_max = p->s.strs[i]->chunk_max = chunk;
		start(p->c.strs[i], bytes + (uint64_t)i, true);
		start(p->s.strs[i], bytes / 2 + (uint64_t)i, true);
	}
	assert_int_equal(pump(p), 0);
	for (int i = 0; i < streams; i++) {
		struct str *c = p->c.strs[i], *s = p->s.strs[i];

		assert_true(c->closed && s->closed && c->end && s->end);
		assert_int_equal(c->code, 0);
		assert_true(s->got == bytes + (uint64_t)i && c->got == bytes / 2 + (uint64_t)i);
		assert_int_equal(s->got_sum, c->send_sum);
		assert_int_equal(c->got_sum, s->send_sum);
	}
	assert_true(p->c.biggest <= 16375 && p->s.biggest <= 16375);
	assert_int_equal(weft_h2_streams(p->c.h), 0);
	pair_free(p);
}

static void bulk_random_chunks(void **st)
{
	bulk(3000, SEND_CAP, 20000, 3 << 20, 7);
}

static void bulk_big_buffers(void **st)
{
	bulk(0, 256 << 10, 1 << 20, 40 << 20, 3);
}

static void bytes_one_at_a_time(void **st)
{
	bulk(1, SEND_CAP, 700, 100000, 3);
}

static void odd_caps(void **st)
{
	for (size_t cap = SEND_CAP; cap < SEND_CAP + 1200; cap += 97)
		bulk(0, cap, 100000, 200000, 2);
}

/* Full records: frame + head is exactly 16,384 bytes, four of them in 64 KiB. */
static void frames_fill_records(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	uint8_t *buf = malloc(65536);
	struct str *t = open_connect(p, true);

	assert_int_equal(pump(p), 0);
	t->chunk_max = 1;
	p->c.rnd = 0;
	t->chunk_max = (size_t)1 << 31;
	p->c.rnd = 0x7fffff00;
	start(t, 1 << 20, false);
	assert_int_equal(weft_h2_send(p->c.h, buf, 65536), 65536);
	for (int i = 0; i < 4; i++) {
		const uint8_t *f = buf + i * 16384;

		assert_int_equal(f[0] << 16 | f[1] << 8 | f[2], 16375);
		assert_int_equal(f[3], NGHTTP2_DATA);
	}
	free(buf);
	pair_free(p);
}

static void half_close(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *c = open_connect(p, true), *s;

	assert_int_equal(pump(p), 0);
	s = p->s.strs[0];
	s->hold = true;
	start(c, 1000, true);
	assert_int_equal(pump(p), 0);
	assert_true(s->end && !s->closed && !c->closed && !c->end);
	start(s, 500000, true);
	assert_int_equal(pump(p), 0);
	assert_true(c->end && c->closed && s->closed);
	assert_int_equal(c->got, 500000);

	c = open_connect(p, true); /* the other way round; and an end without bytes */
	assert_int_equal(pump(p), 0);
	s = p->s.strs[1];
	start(s, 0, true);
	assert_int_equal(pump(p), 0);
	assert_true(c->end && !c->closed);
	start(c, 300000, true);
	assert_int_equal(pump(p), 0);
	assert_true(s->end && s->closed && c->closed);
	assert_int_equal(s->got, 300000);
	pair_free(p);
}

static void resets(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *a = open_connect(p, true), *b = open_connect(p, true), *c;

	assert_int_equal(pump(p), 0);
	start(a, 1 << 20, false);
	start(b, 1 << 20, false);
	step(p, &p->c);
	weft_h2_reset(a->s, WEFT_H2_CANCEL);
	weft_h2_reset(p->s.strs[1]->s, WEFT_H2_CONNECT_ERROR);
	assert_int_equal(weft_h2_respond(p->s.strs[1]->s, 200, NULL, 0, false), -EINVAL);
	assert_int_equal(pump(p), 0);
	assert_true(a->closed && b->closed && p->s.strs[0]->closed && p->s.strs[1]->closed);
	assert_int_equal(a->code, WEFT_H2_CANCEL);
	assert_int_equal(p->s.strs[0]->code, WEFT_H2_CANCEL);
	assert_int_equal(b->code, WEFT_H2_CONNECT_ERROR);
	c = open_connect(p, true); /* before it was sent */
	weft_h2_reset(c->s, WEFT_H2_CANCEL);
	assert_int_equal(pump(p), 0);
	assert_true(c->closed);
	c = open_connect(p, true); /* pull fails */
	assert_int_equal(pump(p), 0);
	c->fail_pull = true;
	weft_h2_resume(c->s);
	assert_int_equal(pump(p), 0);
	assert_true(c->closed);
	assert_int_equal(c->code, WEFT_H2_INTERNAL_ERROR);
	assert_int_equal(weft_h2_streams(p->c.h), 0);
	assert_int_equal(weft_h2_streams(p->s.h), 0);
	pair_free(p);
}

static void goaway_two_steps(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *a = open_connect(p, true);

	assert_int_equal(pump(p), 0);
	weft_h2_shutdown_notice(p->s.h);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->c.goaways, 1);
	assert_int_equal(p->c.goaway_last, 0x7fffffff);
	assert_null(open_connect(p, true));
	weft_h2_goaway(p->s.h, 0);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->c.goaways, 2);
	assert_int_equal(p->c.goaway_last, 1);
	assert_false(weft_h2_done(p->c.h) || weft_h2_done(p->s.h));
	start(a, 700000, true);
	start(p->s.strs[0], 700000, true);
	assert_int_equal(pump(p), 0);
	assert_true(a->closed && a->code == 0 && p->s.strs[0]->got == 700000);
	assert_true(weft_h2_done(p->c.h) && weft_h2_done(p->s.h));
	pair_free(p);
}

/* Streams above the last id are refused, not lost. */
static void goaway_refuses_late_streams(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *late;

	uint8_t *buf = malloc(SEND_CAP);
	ssize_t n;

	open_connect(p, true);
	assert_int_equal(pump(p), 0);
	weft_h2_goaway(p->s.h, 0);
	n = weft_h2_send(p->s.h, buf, SEND_CAP);
	assert_true(n > 0);
	late = open_connect(p, true);
	assert_non_null(late);
	step(p, &p->c);
	assert_int_equal(weft_h2_recv(p->c.h, buf, (size_t)n), 0);
	free(buf);
	assert_int_equal(pump(p), 0);
	assert_true(late->closed);
	assert_int_equal(late->code, WEFT_H2_REFUSED_STREAM);
	assert_int_equal(p->s.n, 1);
	pair_free(p);
}

static void ping(void **st)
{
	struct pair *p = pair_new(NULL, NULL);

	assert_int_equal(pump(p), 0);
	weft_h2_ping(p->c.h);
	weft_h2_ping(p->s.h);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->c.pongs, 1);
	assert_int_equal(p->s.pongs, 1);
	pair_free(p);
}

static void windows(void **st)
{
	struct weft_h2_conf sc = {.stream_window = 64 << 10};
	struct pair *p = pair_new(NULL, &sc);
	struct str *a = open_connect(p, true), *b = open_connect(p, true), *s;

	assert_int_equal(pump(p), 0);
	s = p->s.strs[0];
	s->no_consume = true;
	start(a, 10 << 20, true);
	start(b, 40 << 20, true); /* more than the connection's window */
	assert_int_equal(pump(p), 0);
	assert_int_equal(s->got, 64 << 10);
	assert_int_equal(p->s.strs[1]->got, 40 << 20);
	assert_int_equal(p->s.strs[1]->got_sum, b->send_sum);
	weft_h2_grow_window(s->s, 256 << 10);
	assert_int_equal(pump(p), 0);
	assert_int_equal(s->got, 256 << 10);
	weft_h2_grow_window(s->s, UINT32_MAX);
	assert_int_equal(pump(p), 0);
	assert_int_equal(s->got, 4 << 20);
	s->no_consume = false;
	weft_h2_consume(s->s, 4 << 20);
	assert_int_equal(pump(p), 0);
	assert_int_equal(s->got, 10 << 20);
	assert_int_equal(s->got_sum, a->send_sum);
	assert_true(s->end);
	pair_free(p);
}

static void window_updates_are_few(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	uint8_t *buf = malloc(1 << 16);
	struct str *t = open_connect(p, true);
	size_t back = 0;
	ssize_t n;

	assert_int_equal(pump(p), 0);
	start(t, 32 << 20, false);
	t->chunk_max = 1 << 20;
	while ((n = weft_h2_send(p->c.h, buf, 1 << 16)) > 0) {
		assert_int_equal(weft_h2_recv(p->s.h, buf, (size_t)n), 0);
		n = weft_h2_send(p->s.h, buf, 1 << 16);
		assert_true(n >= 0);
		back += (size_t)n;
		assert_int_equal(weft_h2_recv(p->c.h, buf, (size_t)n), 0);
	}
	assert_int_equal(p->s.strs[0]->got, 32 << 20);
	assert_in_range(back, 13, 13 * 300); /* 32 MiB in halves of 256 KiB, and of 16 MiB */
	free(buf);
	pair_free(p);
}

static void max_streams(void **st)
{
	struct weft_h2_conf sc = {.max_streams = 4};
	struct pair *p = pair_new(NULL, &sc);
	struct str *first;
	int n = 0;

	while (open_connect(p, true)) /* before SETTINGS: 100 */
		n++;
	assert_int_equal(n, 100);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.n, 4);
	assert_int_equal(weft_h2_peer_max_streams(p->c.h), 4);
	assert_int_equal(weft_h2_streams(p->s.h), 4);
	pair_free(p);

	p = pair_new(NULL, &sc);
	assert_int_equal(pump(p), 0);
	first = open_connect(p, true);
	for (n = 1; open_connect(p, true); n++)
		;
	assert_int_equal(n, 4);
	weft_h2_reset(first->s, WEFT_H2_CANCEL);
	assert_int_equal(pump(p), 0);
	assert_non_null(open_connect(p, true));
	assert_null(open_connect(p, true));
	assert_int_equal(pump(p), 0);
	pair_free(p);
}

static void trailers(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *c = open_connect(p, true);

	assert_int_equal(pump(p), 0);
	p->s.strs[0]->trailer = true;
	start(p->s.strs[0], 30000, true);
	assert_int_equal(pump(p), 0);
	assert_string_equal(c->trailer_status, "0");
	assert_true(c->end && c->got == 30000);
	c = open_connect(p, true); /* trailers after no bytes */
	assert_int_equal(pump(p), 0);
	p->s.strs[1]->trailer = true;
	start(p->s.strs[1], 0, true);
	assert_int_equal(pump(p), 0);
	assert_string_equal(c->trailer_status, "0");
	assert_true(c->end);
	pair_free(p);
}

static void oversized_headers(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	char big[17000];
	struct weft_h2_header h[3] = {
		H(":method", "CONNECT"), H(":authority", "h:1"), {"x-big", big, 5, sizeof(big)}};
	struct str *t = str_new(&p->c);

	memset(big, 'a', sizeof(big));
	t->hold = true;
	t->s = weft_h2_request(p->c.h, h, 3, true, t);
	assert_int_equal(pump(p), 0);
	assert_int_equal(t->status, 431);
	assert_true(t->closed);
	assert_int_equal(p->s.n, 0);
	assert_non_null(open_connect(p, true)); /* the session lives */
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.n, 1);
	assert_int_equal(weft_h2_streams(p->s.h), 1);
	pair_free(p);
}

static void not_asked_for_values(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct weft_h2_header h[WEFT_H2_HEADERS_OUT_MAX + 1] = {H(":method", "CONNECT")};
	struct str *t;

	assert_null(weft_h2_request(p->c.h, h, WEFT_H2_HEADERS_OUT_MAX + 1, false, NULL));
	p->s.answer = 0;
	t = open_connect(p, true);
	assert_int_equal(pump(p), 0);
	assert_int_equal(weft_h2_respond(p->s.strs[0]->s, 100, NULL, 0, false), -EINVAL);
	assert_int_equal(weft_h2_respond(p->s.strs[0]->s, 600, NULL, 0, false), -EINVAL);
	assert_int_equal(weft_h2_respond(p->s.strs[0]->s, 200, h, WEFT_H2_HEADERS_OUT_MAX + 1, 1),
			 -E2BIG);
	assert_int_equal(weft_h2_respond(p->s.strs[0]->s, 200, NULL, 0, true), 0);
	assert_int_equal(weft_h2_respond(p->s.strs[0]->s, 200, NULL, 0, true), -EINVAL);
	assert_int_equal(pump(p), 0);
	assert_int_equal(t->status, 200);
	pair_free(p);
}

/* ---- a hostile client, by hand */

static const char magic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static size_t frame(uint8_t *b, uint8_t type, uint8_t flags, uint32_t id, const void *p, size_t n)
{
	const uint8_t head[9] = {
		(uint8_t)(n >> 16),  (uint8_t)(n >> 8),	  (uint8_t)n,	      type,	  flags,
		(uint8_t)(id >> 24), (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};

	memcpy(b, head, 9);
	if (n)
		memcpy(b + 9, p, n);
	return 9 + n;
}

static struct pair *hostile_new(void)
{
	struct pair *p = pair_new(NULL, NULL);
	uint8_t b[64];

	assert_int_equal(weft_h2_recv(p->s.h, (const uint8_t *)magic, 24), 0);
	assert_int_equal(weft_h2_recv(p->s.h, b, frame(b, NGHTTP2_SETTINGS, 0, 0, NULL, 0)), 0);
	return p;
}

/* Drains the server; the code of its GOAWAY, or -1. */
static int drain(struct side *d)
{
	static uint8_t buf[1 << 16];
	int code = -1;
	ssize_t n;

	while ((n = weft_h2_send(d->h, buf, sizeof(buf))) > 0)
		for (ssize_t o = 0; o + 9 <= n;
		     o += 9 + (buf[o] << 16 | buf[o + 1] << 8 | buf[o + 2]))
			if (buf[o + 3] == NGHTTP2_GOAWAY)
				code = buf[o + 16];
	return code;
}

static int flood(uint8_t type, uint8_t flags, const void *p, size_t n, bool drained, int *ret_code)
{
	struct pair *h = hostile_new();
	uint8_t b[64];
	size_t len = frame(b, type, flags, type == NGHTTP2_PRIORITY ? 5 : 0, p, n);
	int r = 0, i;

	for (i = 0; !r && i < 3 * WEFT_H2_NOISE_MAX; i++) {
		r = weft_h2_recv(h->s.h, b, len);
		if (drained && !r)
			drain(&h->s);
	}
	*ret_code = drain(&h->s);
	if (r)
		assert_int_equal(weft_h2_send(h->s.h, (uint8_t[SEND_CAP]){0}, SEND_CAP), -EPROTO);
	pair_free(h);
	return r;
}

static void floods(void **st)
{
	const uint8_t eight[8] = {0}, five[5] = {0, 0, 0, 0, 1}, wu[4] = {0, 0, 0, 1};
	int code;

	assert_int_equal(flood(NGHTTP2_PING, 0, eight, 8, false, &code), -EPROTO);
	assert_int_equal(code, WEFT_H2_ENHANCE_YOUR_CALM);
	assert_int_equal(flood(NGHTTP2_PING, 0, eight, 8, true, &code), -EPROTO);
	assert_int_equal(code, WEFT_H2_ENHANCE_YOUR_CALM);
	assert_int_equal(flood(NGHTTP2_PING, NGHTTP2_FLAG_ACK, eight, 8, true, &code), -EPROTO);
	assert_int_equal(flood(NGHTTP2_SETTINGS, 0, NULL, 0, false, &code), -EPROTO);
	assert_int_equal(flood(NGHTTP2_SETTINGS, 0, NULL, 0, true, &code), -EPROTO);
	assert_int_equal(flood(NGHTTP2_PRIORITY, 0, five, 5, true, &code), -EPROTO);
	assert_int_equal(flood(NGHTTP2_WINDOW_UPDATE, 0, wu, 4, true, &code), -EPROTO);
}

/* :method CONNECT, :authority h:1, literal without indexing. */
static const uint8_t block[] = "\x02\x07"
			       "CONNECT"
			       "\x01\x03h:1";
enum { BLOCK = sizeof(block) - 1 };

static void empty_data_flood(void **st)
{
	struct pair *p = hostile_new();
	uint8_t b[64];
	size_t n = frame(b, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, block, BLOCK);
	int r = 0;

	assert_int_equal(weft_h2_recv(p->s.h, b, n), 0);
	assert_int_equal(p->s.n, 1);
	n = frame(b, NGHTTP2_DATA, 0, 1, NULL, 0);
	for (int i = 0; !r && i < 2 * WEFT_H2_NOISE_MAX; i++)
		r = weft_h2_recv(p->s.h, b, n);
	assert_int_equal(r, -EPROTO);
	assert_int_equal(drain(&p->s), WEFT_H2_ENHANCE_YOUR_CALM);
	pair_free(p);
}

static int reset_many(int n, int answer)
{
	const uint8_t cancel[4] = {0, 0, 0, 8};
	struct pair *p = hostile_new();
	uint8_t b[128];
	int r = 0;

	p->s.answer = answer;
	for (int i = 0; !r && i < n; i++) {
		uint32_t id = 1 + 2 * (uint32_t)i;
		size_t k = frame(b, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, block, BLOCK);

		r = weft_h2_recv(p->s.h, b, k);
		drain(&p->s);
		if (!r)
			r = weft_h2_recv(p->s.h, b, frame(b, NGHTTP2_RST_STREAM, 0, id, cancel, 4));
	}
	if (!r)
		assert_int_equal(weft_h2_streams(p->s.h), 0);
	pair_free(p);
	return r;
}

static void rapid_reset(void **st)
{
	assert_int_equal(reset_many(2 * WEFT_H2_RAPID_MAX, 0), -EPROTO);
	assert_int_equal(reset_many(2 * WEFT_H2_RAPID_MAX, 200),
			 0); /* answered: real clients that abort */
}

/* Zero window updates make us reset streams: the same attack from behind. */
static void made_you_reset(void **st)
{
	const uint8_t zero[4] = {0};
	struct pair *p = hostile_new();
	uint8_t b[128];
	int r = 0, i;

	p->s.answer = 0;
	for (i = 0; !r && i < 2 * WEFT_H2_RAPID_MAX; i++) {
		uint32_t id = 1 + 2 * (uint32_t)i;
		size_t k = frame(b, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, block, BLOCK);

		k += frame(b + k, NGHTTP2_WINDOW_UPDATE, 0, id, zero, 4);
		r = weft_h2_recv(p->s.h, b, k);
		drain(&p->s);
	}
	assert_int_equal(r, -EPROTO);
	pair_free(p);
}

static void many_header_fields(void **st)
{
	struct pair *p = hostile_new();
	uint8_t b[4096], hb[2048];
	size_t n = BLOCK;

	memcpy(hb, block, BLOCK);
	for (int i = 0; i < WEFT_H2_HEADERS_MAX; i++) { /* "a: b", 5 bytes each */
		memcpy(hb + n,
		       "\x00\x01"
		       "a\x01"
		       "b",
		       5);
		n += 5;
	}
	n = frame(b, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, hb, n);
	assert_int_equal(weft_h2_recv(p->s.h, b, n), 0);
	assert_int_equal(p->s.n, 0);
	drain(&p->s);
	assert_int_equal(weft_h2_streams(p->s.h), 0);
	pair_free(p);
}

/* A field with a control byte resets its stream only. */
static void bad_field(void **st)
{
	static const uint8_t bad[] = "\x02\x07"
				     "CONNECT"
				     "\x01\x03h:1\x00\x01"
				     "a\x03"
				     "b\nc";
	struct pair *p = hostile_new();
	uint8_t b[128];

	assert_int_equal(weft_h2_recv(p->s.h, b,
				      frame(b, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, bad,
					    sizeof(bad) - 1)),
			 0);
	drain(&p->s);
	assert_int_equal(p->s.n, 0);
	assert_int_equal(
		weft_h2_recv(p->s.h, b,
			     frame(b, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 3, block, BLOCK)),
		0);
	assert_int_equal(p->s.n, 1);
	pair_free(p);
}

static void garbage(void **st)
{
	struct pair *p = pair_new(NULL, NULL);

	assert_int_equal(weft_h2_recv(p->s.h, (const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 18),
			 -EPROTO);
	assert_int_equal(drain(&p->s), WEFT_H2_PROTOCOL_ERROR);
	assert_int_equal(weft_h2_recv(p->s.h, (const uint8_t *)"x", 1), -EPROTO);
	pair_free(p);
}

/* What nghttp2 finds by itself shows at the latest after its GOAWAY was sent. */
static void protocol_error(void **st)
{
	struct pair *p = hostile_new();
	uint8_t b[64];
	size_t n = frame(b, NGHTTP2_DATA, 0, 0, "x", 1); /* DATA on stream 0 */

	(void)weft_h2_recv(p->s.h, b, n);
	assert_int_equal(drain(&p->s), WEFT_H2_PROTOCOL_ERROR);
	assert_int_equal(weft_h2_recv(p->s.h, b, n), -EPROTO);
	assert_int_equal(weft_h2_send(p->s.h, (uint8_t[SEND_CAP]){0}, SEND_CAP), -EPROTO);
	assert_true(weft_h2_done(p->s.h));
	pair_free(p);
}

static void interim_answers_are_skipped(void **st)
{
	struct pair *p = pair_new(NULL, NULL);
	struct str *t = open_connect(p, true);
	uint8_t b[128];
	size_t n = 0;

	n += frame(b, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
	n += frame(b + n, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1,
		   "\x08\x03"
		   "103",
		   5);
	n += frame(b + n, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, "\x88", 1);
	(void)drain(&p->c);
	assert_int_equal(weft_h2_recv(p->c.h, b, n), 0);
	assert_int_equal(t->status, 200);
	pair_free(p);
}

static void free_closes_all(void **st)
{
	struct pair *p = pair_new(NULL, NULL);

	for (int i = 0; i < 10; i++)
		open_connect(p, true);
	assert_int_equal(pump(p), 0);
	weft_h2_free(p->c.h);
	p->c.h = NULL;
	assert_int_equal(p->c.closed, 10);
	assert_int_equal(p->c.strs[3]->code, WEFT_H2_CANCEL);
	weft_h2_free(p->s.h);
	p->s.h = NULL;
	assert_int_equal(p->s.closed, 10);
	pair_free(p);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(connect_200),
		cmocka_unit_test(connect_refused),
		cmocka_unit_test(bulk_random_chunks),
		cmocka_unit_test(bulk_big_buffers),
		cmocka_unit_test(bytes_one_at_a_time),
		cmocka_unit_test(odd_caps),
		cmocka_unit_test(frames_fill_records),
		cmocka_unit_test(half_close),
		cmocka_unit_test(resets),
		cmocka_unit_test(goaway_two_steps),
		cmocka_unit_test(goaway_refuses_late_streams),
		cmocka_unit_test(ping),
		cmocka_unit_test(windows),
		cmocka_unit_test(window_updates_are_few),
		cmocka_unit_test(max_streams),
		cmocka_unit_test(trailers),
		cmocka_unit_test(oversized_headers),
		cmocka_unit_test(not_asked_for_values),
		cmocka_unit_test(floods),
		cmocka_unit_test(empty_data_flood),
		cmocka_unit_test(rapid_reset),
		cmocka_unit_test(made_you_reset),
		cmocka_unit_test(many_header_fields),
		cmocka_unit_test(bad_field),
		cmocka_unit_test(garbage),
		cmocka_unit_test(protocol_error),
		cmocka_unit_test(interim_answers_are_skipped),
		cmocka_unit_test(free_closes_all),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
