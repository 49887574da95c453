/* HTTP/2 as general HTTP needs it: two sessions back to back. */
#include "proxy/codec/h2.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CAP = 1 << 17, STREAMS = 8, TEXT = 512 };

struct end;
struct one { /* a stream, at one end */
	struct end *end;
	struct weft_h2_stream *s;
	char seen[TEXT]; /* events and fields of interest, as text */
	size_t got, fields, to_send;
	uint32_t code;
	bool closed, ended, end_sent, hold_credit, trailers;
};
struct end {
	struct weft_h2 *h;
	struct one v[STREAMS];
	int n;
	uint8_t opaque[8];
	int pongs, bad;
};

static void see(struct one *o, const char *what, const struct weft_h2_headers *h)
{
	size_t n = strlen(o->seen);

	n += (size_t)snprintf(o->seen + n, TEXT - n, "%s", what);
	for (size_t i = 0; h && i < h->n && n < TEXT; i++)
		if (h->v[i].name[0] != 'f')
			n += (size_t)snprintf(o->seen + n, TEXT - n, " %s=%s", h->v[i].name,
					      h->v[i].value);
	if (n < TEXT)
		snprintf(o->seen + n, TEXT - n, ";");
	o->fields = h ? h->n : o->fields;
}

static struct one *of(struct weft_h2_stream *s)
{
	struct one *o = weft_h2_stream_user(s);
	struct end *e = weft_h2_owner(weft_h2_stream_session(s));

	if (o)
		return o;
	assert_true(e->n < STREAMS);
	o = &e->v[e->n++];
	o->end = e;
	o->s = s;
	weft_h2_stream_set_user(s, o);
	return o;
}

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	see(of(s), "head", h);
	of(s)->ended |= end;
}

static void on_interim(struct weft_h2_stream *s, const struct weft_h2_headers *h)
{
	see(of(s), "interim", h);
}

static void on_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	of(s)->got += n;
	if (!of(s)->hold_credit)
		weft_h2_consume(s, n);
}

static void on_trailers(struct weft_h2_stream *s, const struct weft_h2_headers *h)
{
	see(of(s), "trailers", h);
}

static void on_end(struct weft_h2_stream *s)
{
	of(s)->ended = true;
}

static void on_closed(struct weft_h2_stream *s, uint32_t code)
{
	struct one *o = weft_h2_stream_user(s);

	if (!o)
		return;
	o->closed = true;
	o->code = code;
	o->s = NULL;
}

static ssize_t on_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	static const struct weft_h2_header t[] = {{"grpc-status", "0", 11, 1}, {"x-t", "v", 3, 1}};
	struct one *o = of(s);
	size_t n = o->to_send < max ? o->to_send : max;

	memset(dst, 'd', n);
	o->to_send -= n;
	*ret_end = !o->to_send && o->end_sent;
	if (*ret_end && o->trailers)
		assert_int_equal(weft_h2_trailers(s, t, 2), 0);
	return (ssize_t)n;
}

static void on_ping_ack(struct weft_h2 *h, const uint8_t opaque[8])
{
	struct end *e = weft_h2_owner(h);

	memcpy(e->opaque, opaque, 8);
	e->pongs++;
}

static void on_bad(struct weft_h2 *h, struct weft_h2_stream *s, enum weft_h2_bad what)
{
	((struct end *)weft_h2_owner(h))->bad = 1 + (int)what;
}

static const struct weft_h2_ops ops = {
	.headers = on_headers,
	.informational = on_interim,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.ping_ack = on_ping_ack,
	.bad = on_bad,
};

struct pair {
	struct end c, s;
};

static int move(struct end *from, struct end *to, bool *ret_some)
{
	uint8_t *buf = malloc(CAP);
	ssize_t n = weft_h2_send(from->h, buf, CAP);
	int r = n > 0 ? weft_h2_recv(to->h, buf, (size_t)n) : (int)n;

	*ret_some |= n > 0;
	free(buf);
	return r;
}

static int pump(struct pair *p)
{
	bool some;
	int r;

	do {
		some = false;
		r = move(&p->c, &p->s, &some);
		r = r ? r : move(&p->s, &p->c, &some);
	} while (!r && some);
	return r;
}

static struct pair *pair_new(struct weft_h2_conf c, struct weft_h2_conf s)
{
	struct pair *p = weft_xcalloc(1, sizeof(*p));

	s.server = true;
	p->c.h = weft_h2_new(&c, &ops, &p->c);
	p->s.h = weft_h2_new(&s, &ops, &p->s);
	assert_int_equal(pump(p), 0);
	return p;
}

static void pair_free(struct pair *p)
{
	weft_h2_free(p->c.h);
	weft_h2_free(p->s.h);
	free(p);
}

#define H(n, v)                                                                                    \
	{                                                                                          \
		n, v, sizeof(n) - 1, sizeof(v) - 1                                                 \
	}
static const struct weft_h2_header get[] = {
	H(":method", "POST"),
	H(":scheme", "https"),
	H(":authority", "u.example:8443"),
	H(":path", "/a?b"),
};
static const struct weft_h2_header ok[] = {H(":status", "200")};

static struct one *request(struct pair *p, const struct weft_h2_header *v, size_t n, bool body)
{
	struct one *o = &p->c.v[p->c.n++];

	assert_true(p->c.n <= STREAMS);
	o->end = &p->c;
	o->s = weft_h2_request(p->c.h, v, n, body, o);
	return o->s ? o : NULL;
}

static void passes_through(void **st)
{
	struct pair *p = pair_new((struct weft_h2_conf){0}, (struct weft_h2_conf){0});
	struct one *c = request(p, get, 4, false);

	assert_int_equal(pump(p), 0);
	assert_string_equal(p->s.v[0].seen, "head :method=POST :scheme=https "
					    ":authority=u.example:8443 :path=/a?b;");
	assert_int_equal(weft_h2_send_head(p->s.v[0].s, ok, 1, false), 0);
	assert_int_equal(pump(p), 0);
	assert_true(c->ended && c->closed && !c->code);
	pair_free(p);
}

static void extended_connect(void **st)
{
	static const struct weft_h2_header ws[] = {
		H(":method", "CONNECT"), H(":protocol", "websocket"), H(":scheme", "https"),
		H(":path", "/chat"),	 H(":authority", "a"),
	};
	struct pair *p =
		pair_new((struct weft_h2_conf){0}, (struct weft_h2_conf){.connect_protocol = true});
	struct one *c, *s = &p->s.v[0];

	assert_true(weft_h2_peer_connect_protocol(p->c.h));
	c = request(p, ws, 5, true);
	assert_int_equal(pump(p), 0);
	assert_non_null(strstr(s->seen, ":protocol=websocket"));
	assert_int_equal(weft_h2_send_head(s->s, ok, 1, true), 0);
	c->to_send = s->to_send = 1000;
	weft_h2_resume(c->s);
	assert_int_equal(pump(p), 0);
	assert_int_equal(s->got, 1000);
	assert_int_equal(c->got, 1000);
	assert_true(!c->closed && !s->closed);
	pair_free(p);

	p = pair_new((struct weft_h2_conf){0}, (struct weft_h2_conf){0}); /* not offered */
	assert_false(weft_h2_peer_connect_protocol(p->c.h));
	c = request(p, ws, 5, true);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.n, 0);
	assert_int_equal(c->code, WEFT_H2_PROTOCOL_ERROR);
	pair_free(p);
}

static void interim(void **st)
{
	static const struct weft_h2_header go_on[] = {H(":status", "100")},
					   hints[] = {H(":status", "103"), H("link", "</a>")};
	struct pair *p = pair_new((struct weft_h2_conf){0}, (struct weft_h2_conf){0});
	struct one *c = request(p, get, 4, true), *s = &p->s.v[0];

	assert_int_equal(pump(p), 0);
	assert_int_equal(weft_h2_send_interim(s->s, go_on, 1), 0);
	assert_int_equal(weft_h2_send_interim(s->s, hints, 2), 0);
	assert_int_equal(weft_h2_send_head(s->s, ok, 1, false), 0);
	assert_int_equal(weft_h2_send_interim(s->s, hints, 2), -EINVAL);
	assert_int_equal(pump(p), 0);
	assert_string_equal(c->seen, "interim :status=100;interim :status=103 link=</a>;"
				     "head :status=200;");
	pair_free(p);
}

static void request_trailers(void **st)
{
	for (int keep = 0; keep < 2; keep++) {
		struct weft_h2_conf conf = {.keep_headers = keep};
		struct pair *p = pair_new(conf, conf);
		struct one *c = request(p, get, 4, true), *s = &p->s.v[0];

		c->to_send = 40000;
		c->end_sent = c->trailers = true;
		weft_h2_resume(c->s);
		assert_int_equal(pump(p), 0);
		assert_int_equal(s->got, 40000);
		assert_true(s->ended);
		assert_non_null(strstr(s->seen, ";trailers grpc-status=0 x-t=v;"));
		s->end_sent = s->trailers = true;
		assert_int_equal(weft_h2_send_head(s->s, ok, 1, true), 0);
		assert_int_equal(pump(p), 0);
		assert_non_null(strstr(c->seen, ";trailers grpc-status=0 x-t=v;"));
		assert_true(c->closed && !c->code);
		pair_free(p);
	}
}

static void many_fields(void **st)
{
	static struct weft_h2_header v[WEFT_H2_HEADERS_OUT_MAX + 1];
	struct weft_h2_conf few = {.max_header_list = 1 << 20},
			    many = {.max_headers = 1000, .max_header_list = 1 << 20};
	struct pair *p = pair_new(few, many);
	struct one *c;

	memcpy(v, get, sizeof(get));
	for (size_t i = 4; i < sizeof(v) / sizeof(v[0]); i++)
		v[i] = (struct weft_h2_header)H("field", "value");
	assert_non_null(request(p, v, 1000, false));
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.v[0].fields, 1000);
	c = request(p, v, 1001, false);
	assert_int_equal(pump(p), 0);
	assert_string_equal(c->seen, "head :status=431;");
	assert_int_equal(p->s.bad, 1 + WEFT_H2_BAD_TOO_MANY);
	assert_null(request(p, v, WEFT_H2_HEADERS_OUT_MAX + 1, false));
	v[0] = ok[0];
	assert_int_equal(weft_h2_send_head(p->s.v[0].s, v, WEFT_H2_HEADERS_OUT_MAX + 1, false),
			 -E2BIG);
	pair_free(p);
}

/* Long blocks go in many CONTINUATIONs where the limit allows as much. */
static void long_blocks(void **st)
{
	struct weft_h2_conf conf = {.max_header_list = 900 << 10, .max_frame = 16 << 10};
	struct pair *p = pair_new(conf, conf);
	size_t n = 60 << 10;
	char *big = malloc(n);
	struct weft_h2_header v[4 + 12];

	assert_non_null(big);
	assert_int_equal(weft_h2_peer_max_header_list(p->c.h), 900 << 10);
	memset(big, '~', n); /* long in Huffman's code */
	memcpy(v, get, sizeof(get));
	for (int i = 0; i < 12; i++)
		v[4 + i] = (struct weft_h2_header){"field", big, 5, n};
	assert_non_null(request(p, v, 16, false));
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.v[0].fields, 16);
	free(big);
	pair_free(p);
}

static void tables(void **st)
{
	static const struct {
		bool set;
		uint32_t size;
	} t[] = {{false, 0}, {true, 0}, {true, 100}, {true, 64 << 10}};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct weft_h2_conf c = {.set_table_size = t[i].set, .table_size = t[i].size};
		struct pair *p = pair_new(c, c);

		for (int k = 0; k < 3; k++) {
			struct one *o = request(p, get, 4, false);

			assert_int_equal(pump(p), 0);
			assert_string_equal(p->s.v[k].seen,
					    "head :method=POST :scheme=https "
					    ":authority=u.example:8443 :path=/a?b;");
			assert_int_equal(weft_h2_send_head(p->s.v[k].s, ok, 1, false), 0);
			assert_int_equal(pump(p), 0);
			assert_true(o->closed);
		}
		pair_free(p);
	}
}

static void reset_codes(void **st)
{
	static const uint32_t codes[] = {
		WEFT_H2_REFUSED_STREAM,
		WEFT_H2_ENHANCE_YOUR_CALM,
		WEFT_H2_HTTP_1_1_REQUIRED,
		WEFT_H2_CANCEL,
	};
	struct pair *p = pair_new((struct weft_h2_conf){0}, (struct weft_h2_conf){0});

	for (int i = 0; i < 4; i++) {
		struct one *c = request(p, get, 4, true);

		assert_int_equal(pump(p), 0);
		weft_h2_reset(p->s.v[i].s, codes[i]);
		assert_int_equal(pump(p), 0);
		assert_true(c->closed && p->s.v[i].closed);
		assert_int_equal(c->code, codes[i]);
	}
	pair_free(p);
}

static void big_windows(void **st)
{
	struct weft_h2_conf sc = {.stream_window = UINT32_MAX, .conn_window = UINT32_MAX};
	struct pair *p = pair_new((struct weft_h2_conf){0}, sc);
	struct one *c = request(p, get, 4, true), *s = &p->s.v[0];

	assert_int_equal(pump(p), 0);
	assert_int_equal(weft_h2_stream_window(s->s), INT32_MAX);
	assert_int_equal(weft_h2_send_window(c->s), INT32_MAX);
	s->hold_credit = true;
	c->to_send = 20 << 20;
	weft_h2_resume(c->s);
	assert_int_equal(pump(p), 0);
	assert_int_equal(s->got, 20 << 20);
	assert_int_equal(weft_h2_stream_held(s->s), 20 << 20);
	assert_int_equal(weft_h2_send_window(c->s), INT32_MAX - (20 << 20));
	weft_h2_consume(s->s, 20 << 20);
	assert_int_equal(weft_h2_stream_held(s->s), 0);
	pair_free(p);

	sc = (struct weft_h2_conf){.stream_window = 64 << 10, .stream_window_max = 8 << 20};
	p = pair_new((struct weft_h2_conf){0}, sc);
	request(p, get, 4, true);
	assert_int_equal(pump(p), 0);
	weft_h2_grow_window(p->s.v[0].s, UINT32_MAX);
	assert_int_equal(weft_h2_stream_window(p->s.v[0].s), 8 << 20);
	pair_free(p);
}

/* One stream that is not read holds back the others, no more than the connection's window is ever
 * taken, and what a closed stream held comes back. */
static void credit_on_consume(void **st)
{
	struct weft_h2_conf sc = {
		.stream_window = 1 << 20, .conn_window = 1 << 20, .conn_credit_on_consume = true};
	struct pair *p = pair_new((struct weft_h2_conf){0}, sc);
	struct one *a = request(p, get, 4, true), *b = request(p, get, 4, true);

	assert_int_equal(pump(p), 0);
	p->s.v[0].hold_credit = p->s.v[1].hold_credit = true;
	a->to_send = b->to_send = 3 << 20;
	weft_h2_resume(a->s);
	assert_int_equal(pump(p), 0);
	weft_h2_resume(b->s);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.v[0].got + p->s.v[1].got, 1 << 20);
	assert_int_equal(weft_h2_send_window(b->s), 0);
	weft_h2_consume(p->s.v[0].s, 512 << 10);
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.v[0].got + p->s.v[1].got, (1 << 20) + (512 << 10));
	weft_h2_reset(p->s.v[0].s, WEFT_H2_CANCEL);
	assert_int_equal(pump(p), 0);
	assert_true(a->closed);
	p->s.v[1].hold_credit = false;
	weft_h2_consume(p->s.v[1].s, weft_h2_stream_held(p->s.v[1].s));
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.v[1].got, 3 << 20);
	/* credit goes back in halves of the window */
	assert_in_range(weft_h2_send_window(b->s), 512 << 10, 1 << 20);
	pair_free(p);
}

static void opaque_pings(void **st)
{
	struct pair *p = pair_new((struct weft_h2_conf){0}, (struct weft_h2_conf){0});

	weft_h2_ping_opaque(p->s.h, (const uint8_t *)"\1\2\3\4\5\6\7\x08");
	assert_int_equal(pump(p), 0);
	assert_int_equal(p->s.pongs, 1);
	assert_memory_equal(p->s.opaque, "\1\2\3\4\5\6\7\x08", 8);
	pair_free(p);
}

static const struct weft_h2_header wrong[][5] = {
	{H(":method", "GET"), H(":scheme", "https"), H(":authority", "a"), H(":path", "/"),
	 H("x", "a\nb")},
	{H(":method", "GET"), H(":scheme", "https"), H(":authority", "a"), H("x", "y"),
	 H(":path", "/")},
	{H(":method", "GET"), H(":scheme", "https"), H(":authority", "a"), H(":path", "/"),
	 H("connection", "close")},
	{H(":method", "GET"), H(":scheme", "https"), H(":authority", "a"), H(":path", "/"),
	 H("content-length", "x")},
};

static void invalid_messages(void **st)
{
	for (int ends = 0; ends < 2; ends++) {
		for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
			struct weft_h2_conf sc = {.invalid_ends_conn = ends};
			struct pair *p = pair_new((struct weft_h2_conf){0}, sc);
			struct one *c = request(p, wrong[i], 5, true);
			bool some = false;

			if (ends) {
				assert_int_equal(move(&p->c, &p->s, &some), -EPROTO);
				assert_int_equal(move(&p->s, &p->c, &some), 0); /* GOAWAY */
				assert_null(request(p, get, 4, false));
			} else {
				assert_int_equal(pump(p), 0);
				assert_true(c->closed);
				assert_int_equal(c->code, WEFT_H2_PROTOCOL_ERROR);
				assert_non_null(request(p, get, 4, false)); /* it lives */
				assert_int_equal(pump(p), 0);
				assert_int_equal(p->s.n, 1);
			}
			assert_int_equal(p->s.bad != 0, true);
			pair_free(p);
		}
	}
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(passes_through), cmocka_unit_test(extended_connect),
		cmocka_unit_test(interim),	  cmocka_unit_test(request_trailers),
		cmocka_unit_test(many_fields),	  cmocka_unit_test(long_blocks),
		cmocka_unit_test(tables),	  cmocka_unit_test(reset_codes),
		cmocka_unit_test(big_windows),	  cmocka_unit_test(credit_on_consume),
		cmocka_unit_test(opaque_pings),	  cmocka_unit_test(invalid_messages),
	};

	return cmocka_run_group_tests_name("proxy/codec/h2_http", t, NULL, NULL);
}
