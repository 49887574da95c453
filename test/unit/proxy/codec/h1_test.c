/* HTTP/1: what golden files cannot say. */
#include "proxy/codec/h1.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct weft_h1_conf requests, responses = {.response = true};

#define S(lit) ((struct weft_h1_slice){(lit), sizeof(lit) - 1})

static bool is(struct weft_h1_slice s, const char *want)
{
	return s.n == strlen(want) && !memcmp(s.p, want, s.n);
}

static void small(void **st)
{
	assert_true(sizeof(struct weft_h1) <= 64);
}

/* No memory is taken for a block in one piece; one that came in pieces goes with the next call. */
static void buffers(void **st)
{
	static const char in[] = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
	struct weft_h1_event ev = {0};
	struct weft_h1 p;

	weft_h1_init(&p, &requests);
	assert_int_equal(weft_h1_feed(&p, in, sizeof(in) - 1, &ev), sizeof(in) - 1);
	assert_int_equal(ev.type, WEFT_H1_HEAD);
	assert_true(ev.end);
	assert_null(p.buf);
	assert_ptr_equal(ev.head.block, in);
	assert_true(weft_h1_idle(&p));
	assert_int_equal(weft_h1_feed(&p, in, 5, &ev), 5);
	assert_int_equal(ev.type, WEFT_H1_MORE);
	assert_false(weft_h1_idle(&p));
	assert_int_equal(weft_h1_feed(&p, in + 5, sizeof(in) - 6, &ev), sizeof(in) - 6);
	assert_true(is(ev.head.path, "/a"));
	assert_true(weft_h1_idle(&p));
	assert_int_equal(weft_h1_feed(&p, in, 3, &ev), 3);
	weft_h1_done(&p);
	assert_null(p.buf);
	weft_h1_event_done(&ev);
}

static void moved(void **st)
{
	static const char in[] = "GET http://A.example/X?Y HTTP/1.1\r\nHost: A.example\r\nX-CaSe: "
				 "KeeP\r\n\r\n";
	struct weft_h1_event ev = {0};
	struct weft_h1 p;
	char *mem;

	weft_h1_init(&p, &requests);
	assert_int_equal(weft_h1_feed(&p, in, sizeof(in) - 1, &ev), sizeof(in) - 1);
	assert_int_equal(ev.head.block_len, sizeof(in) - 1);
	mem = malloc(ev.head.block_len);
	assert_non_null(mem);
	weft_h1_head_move(&ev.head, mem, true);
	assert_ptr_equal(ev.head.block, mem);
	assert_ptr_equal(ev.head.method.p, mem);
	assert_true(is(ev.head.scheme, "http") && is(ev.head.authority, "A.example"));
	assert_true(is(ev.head.path, "/X?Y"));
	assert_memory_equal(ev.head.v[1].name, "x-case", 6);
	assert_memory_equal(ev.head.v[1].value, "KeeP", 4);
	assert_int_equal(ev.head.host, 0);
	free(mem);
	weft_h1_done(&p);
	weft_h1_event_done(&ev);
}

/* One event a call: the second request waits until it is asked for. */
static void pipelined(void **st)
{
	static const char in[] = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
				 "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
	struct weft_h1_event ev = {0};
	struct weft_h1 p;
	size_t at;

	weft_h1_init(&p, &requests);
	at = weft_h1_feed(&p, in, sizeof(in) - 1, &ev);
	assert_true(ev.type == WEFT_H1_HEAD && !ev.end && ev.head.content_length == 2);
	at += weft_h1_feed(&p, in + at, sizeof(in) - 1 - at, &ev);
	assert_true(ev.type == WEFT_H1_BODY && ev.end && is(ev.body, "hi"));
	at += weft_h1_feed(&p, in + at, sizeof(in) - 1 - at, &ev);
	assert_true(ev.type == WEFT_H1_HEAD && ev.end && is(ev.head.path, "/2"));
	assert_int_equal(at, sizeof(in) - 1);
	weft_h1_done(&p);
	weft_h1_event_done(&ev);
}

static void tunnels(void **st)
{
	static const char up[] = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: "
				 "x\r\n\r\n\x81GET";
	struct weft_h1_event ev = {0};
	struct weft_h1 p;
	size_t at;

	weft_h1_init(&p, &requests);
	at = weft_h1_feed(&p, up, sizeof(up) - 1, &ev);
	assert_true(ev.head.upgrade && ev.end);
	assert_int_equal(at, sizeof(up) - 5);
	weft_h1_tunnel(&p);
	assert_int_equal(weft_h1_feed(&p, up + at, 4, &ev), 0);
	assert_int_equal(ev.type, WEFT_H1_OPAQUE);
	weft_h1_eof(&p, &ev);
	assert_int_equal(ev.type, WEFT_H1_OPAQUE);
	weft_h1_done(&p);
	weft_h1_event_done(&ev);
}

static void asked_again(void **st)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	struct weft_h1_event ev = {0};
	struct weft_h1 p;

	weft_h1_init(&p, &responses);
	for (int i = 0; i < 3; i++) {
		assert_true(weft_h1_idle(&p));
		weft_h1_expect(&p, WEFT_H1_ASKED_OTHER);
		assert_false(weft_h1_idle(&p));
		assert_int_equal(weft_h1_feed(&p, ok, sizeof(ok) - 1, &ev), sizeof(ok) - 1);
		assert_true(ev.type == WEFT_H1_HEAD && ev.end && ev.head.keep_alive);
	}
	weft_h1_eof(&p, &ev);
	assert_int_equal(ev.type, WEFT_H1_MORE);
	assert_int_equal(weft_h1_feed(&p, ok, sizeof(ok) - 1, &ev), 0);
	assert_int_equal(ev.error, WEFT_H1_E_UNASKED);
	assert_int_equal(weft_h1_feed(&p, ok, sizeof(ok) - 1, &ev), 0);
	assert_int_equal(ev.error, WEFT_H1_E_UNASKED); /* it stays so */
	weft_h1_done(&p);
	weft_h1_event_done(&ev);
}

static enum weft_h1_error first_error(const struct weft_h1_conf *conf, const char *in, size_t n)
{
	struct weft_h1_event ev = {0};
	enum weft_h1_error e;
	struct weft_h1 p;
	size_t at = 0;

	weft_h1_init(&p, conf);
	do {
		at += weft_h1_feed(&p, in + at, n - at, &ev);
	} while (at < n && ev.type != WEFT_H1_FAIL);
	e = ev.error;
	weft_h1_done(&p);
	weft_h1_event_done(&ev);
	return e;
}

static void limits(void **st)
{
	const struct weft_h1_conf few = {.max_headers = 2}, short_head = {.max_head_bytes = 36},
				  no_ext = {.max_chunk_ext = 3}, any = {.any_method = true},
				  star = {.asterisk = true};
	static const char two[] = "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n",
			  three[] = "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\n\r\n",
			  frob[] = "FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
			  options[] = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
			  ext[] = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
				  "1;abc\r\nx\r\n1;abcd\r\nx\r\n";

	assert_int_equal(first_error(&few, two, sizeof(two) - 1), WEFT_H1_OK);
	assert_int_equal(first_error(&few, three, sizeof(three) - 1), WEFT_H1_E_TOO_MANY);
	assert_int_equal(first_error(&short_head, two, sizeof(two) - 1), WEFT_H1_OK);
	assert_int_equal(first_error(&short_head, three, sizeof(three) - 1), WEFT_H1_E_TOO_LARGE);
	assert_int_equal(first_error(&no_ext, ext, sizeof(ext) - 1), WEFT_H1_E_CHUNK);
	assert_int_equal(first_error(&requests, ext, sizeof(ext) - 1), WEFT_H1_OK);
	assert_int_equal(first_error(&requests, frob, sizeof(frob) - 1), WEFT_H1_E_METHOD);
	assert_int_equal(first_error(&any, frob, sizeof(frob) - 1), WEFT_H1_OK);
	assert_int_equal(first_error(&requests, options, sizeof(options) - 1), WEFT_H1_E_PATH);
	assert_int_equal(first_error(&star, options, sizeof(options) - 1), WEFT_H1_OK);
}

static void error_texts(void **st)
{
	for (int e = WEFT_H1_OK + 1; e < WEFT_H1_ERRORS; e++) {
		assert_true(strlen(weft_h1_error_text((enum weft_h1_error)e)) > 0);
		assert_in_range(weft_h1_error_status((enum weft_h1_error)e), 400, 505);
	}
}

static void written(const struct weft_h1_out *o, const char *want)
{
	char buf[512];
	ssize_t n = weft_h1_head_write(o, NULL, 0);

	assert_int_equal(n, strlen(want));
	memset(buf, '?', sizeof(buf));
	assert_int_equal(weft_h1_head_write(o, buf, (size_t)n - 1), n);
	assert_int_equal(buf[0], '?'); /* too small: untouched */
	assert_int_equal(weft_h1_head_write(o, buf, (size_t)n), n);
	assert_memory_equal(buf, want, (size_t)n);
	assert_int_equal(buf[n], '?');
}

static void writes(void **st)
{
	static const struct weft_h1_header v[] = {
		{":path", "/", 5, 1},
		{"content-type", "a/b", 12, 3},
		{"foo$b#$are", "", 10, 0},
		{"x-9lives", "c", 8, 1},
	};
	struct weft_h1_out o = {
		.method = S("GET"), .target = S("/x?y"), .minor = 1, .v = v, .n = 4};

	written(&o, "GET /x?y HTTP/1.1\r\ncontent-type: a/b\r\nfoo$b#$are: \r\nx-9lives: "
		    "c\r\n\r\n");
	o.name_case = WEFT_H1_PROPER_CASE;
	written(&o, "GET /x?y HTTP/1.1\r\nContent-Type: a/b\r\nFoo$B#$Are: \r\nX-9lives: "
		    "c\r\n\r\n");
	o = (struct weft_h1_out){.status = 404, .minor = 0};
	written(&o, "HTTP/1.0 404 Not Found\r\n\r\n");
	o = (struct weft_h1_out){.status = 299, .minor = 1};
	written(&o, "HTTP/1.1 299 Unknown\r\n\r\n");
	o = (struct weft_h1_out){.status = 200, .minor = 1, .reason = S("Fine")};
	written(&o, "HTTP/1.1 200 Fine\r\n\r\n");
}

/* Nothing that came from elsewhere can end a line. */
static void no_injection(void **st)
{
	static const struct weft_h1_header bad[] = {
		{"a", "b\r\nc: d", 1, 7}, {"a", "b\nc", 1, 3}, {"a", "\0", 1, 1},
		{"a b", "c", 3, 1},	  {"a:", "c", 2, 1},   {"", "c", 0, 1},
		{"a\r\n", "c", 3, 1},	  {"a", "\x7f", 1, 1},
	};
	struct weft_h1_out o = {.method = S("GET"), .target = S("/"), .minor = 1, .n = 1};
	char buf[64];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		o.v = &bad[i];
		assert_int_equal(weft_h1_head_write(&o, buf, sizeof(buf)), -EINVAL);
		assert_int_equal(
			weft_h1_last_chunk_write(&bad[i], 1, WEFT_H1_AS_IS, buf, sizeof(buf)),
			-EINVAL);
	}
	o = (struct weft_h1_out){.method = S("GET"), .target = S("/ HTTP/1.1"), .minor = 1};
	assert_int_equal(weft_h1_head_write(&o, buf, sizeof(buf)), -EINVAL);
	o = (struct weft_h1_out){.method = S("G T"), .target = S("/"), .minor = 1};
	assert_int_equal(weft_h1_head_write(&o, buf, sizeof(buf)), -EINVAL);
	o = (struct weft_h1_out){.status = 200, .reason = S("a\r\nb"), .minor = 1};
	assert_int_equal(weft_h1_head_write(&o, buf, sizeof(buf)), -EINVAL);
	o = (struct weft_h1_out){.status = 99, .minor = 1};
	assert_int_equal(weft_h1_head_write(&o, buf, sizeof(buf)), -EINVAL);
}

static void chunk_frames(void **st)
{
	static const struct {
		uint64_t n;
		const char *want;
	} t[] = {
		{1, "1\r\n"},	     {15, "f\r\n"},
		{16, "10\r\n"},	     {255, "ff\r\n"},
		{4096, "1000\r\n"},  {0xdeadbeef, "deadbeef\r\n"},
		{65535, "ffff\r\n"}, {UINT64_MAX, "ffffffffffffffff\r\n"},
	};
	static const struct weft_h1_header v[] = {{"x-sum", "1", 5, 1}};
	char buf[64];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_int_equal(weft_h1_chunk_head(buf, t[i].n), strlen(t[i].want));
		assert_memory_equal(buf, t[i].want, strlen(t[i].want));
	}
	assert_int_equal(weft_h1_last_chunk_write(NULL, 0, WEFT_H1_AS_IS, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "0\r\n\r\n", 5);
	assert_int_equal(weft_h1_last_chunk_write(v, 1, WEFT_H1_PROPER_CASE, buf, sizeof(buf)), 15);
	assert_memory_equal(buf, "0\r\nX-Sum: 1\r\n\r\n", 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small),	cmocka_unit_test(buffers),
		cmocka_unit_test(moved),	cmocka_unit_test(pipelined),
		cmocka_unit_test(tunnels),	cmocka_unit_test(asked_again),
		cmocka_unit_test(limits),	cmocka_unit_test(error_texts),
		cmocka_unit_test(writes),	cmocka_unit_test(no_injection),
		cmocka_unit_test(chunk_frames),
	};

	return cmocka_run_group_tests_name("proxy/codec/h1", tests, NULL, NULL);
}
