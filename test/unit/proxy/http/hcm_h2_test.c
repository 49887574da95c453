/* Options of HTTP/2 at the connection manager, seen in frames. */
#include "test/unit/proxy/http/hcm_fix.h"

#define H2	"  codec_type: HTTP2\n"
#define OPTS(x) H2 "  http2_protocol_options: {" x "}\n"

enum { DATA, HEADERS, RST = 3, SETTINGS, PING = 6, GOAWAY, WINDOW };
struct frame {
	uint8_t type, flags;
	uint32_t stream, len;
	const uint8_t *p;
};

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The n-th frame of a type that came; on a stream, if one is named. */
static bool frame_of(const struct env *e, uint8_t type, uint32_t stream, unsigned n,
		     struct frame *f)
{
	const uint8_t *p = (const uint8_t *)e->got, *end = p + e->n;

	while (end - p >= 9) {
		uint32_t len = be32(p) >> 8;

		*f = (struct frame){p[3], p[4], be32(p + 5) & 0x7fffffff, len, p + 9};
		if ((size_t)(end - p) < 9 + len)
			return false;
		p += 9 + len;
		if (f->type == type && (!stream || f->stream == stream) && !n--)
			return true;
	}
	return false;
}

static size_t put(char *to, uint8_t type, uint8_t flags, uint32_t stream, const char *p, size_t n)
{
	const char head[9] = {0, (char)(n >> 8), (char)n, (char)type, (char)flags, 0, 0,
			      0, (char)stream};

	memcpy(to, head, 9);
	if (n)
		memcpy(to + 9, p, n);
	return 9 + n;
}

static void send_frame(struct env *e, uint8_t type, uint8_t flags, uint32_t stream, const char *p,
		       size_t n)
{
	char buf[1024];

	n = put(buf, type, flags, stream, p, n);
	assert_int_equal(write(e->fd, buf, n), n);
}

static const char GET[] = "\x82\x86\x84\x41\x01"
			  "a"; /* of http://a/ */

static struct env *h2_open(const char *more, const char *settings, size_t n)
{
	struct env *e = env_open(more, 0);

	say(e, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	send_frame(e, SETTINGS, 0, 0, settings, n);
	turn(e, 2);
	send_frame(e, SETTINGS, 1, 0, NULL, 0);
	turn(e, 2);
	return e;
}

static uint32_t setting(const struct env *e, uint16_t id, uint32_t otherwise)
{
	struct frame f;

	assert_true(frame_of(e, SETTINGS, 0, 0, &f));
	for (uint32_t i = 0; i + 6 <= f.len; i += 6)
		if ((f.p[i] << 8 | f.p[i + 1]) == id)
			return be32(f.p + i + 2);
	return otherwise;
}

/* hpack_table_size, max_concurrent_streams, initial_stream_window_size,
 * initial_connection_window_size */
static void sizes_are_told(void **state)
{
	struct env *e = h2_open(H2, NULL, 0);
	struct frame f;

	assert_int_equal(setting(e, 1, 4096), 4096);
	assert_int_equal(setting(e, 3, 0), 1024);
	assert_int_equal(setting(e, 4, 0), 16 << 20);
	assert_true(frame_of(e, WINDOW, 0, 0, &f));
	assert_int_equal(be32(f.p), (24 << 20) - 65535);
	env_free(e);
	e = h2_open(
		OPTS("hpack_table_size: 1024, max_concurrent_streams: 7, "
		     "initial_stream_window_size: 70000, initial_connection_window_size: 100000"),
		NULL, 0);
	assert_int_equal(setting(e, 1, 4096), 1024);
	assert_int_equal(setting(e, 3, 0), 7);
	assert_int_equal(setting(e, 4, 0), 70000);
	assert_true(frame_of(e, WINDOW, 0, 0, &f));
	assert_int_equal(be32(f.p), 100000 - 65535);
	env_free(e);
}

/* connection_keepalive */
static void silent_peers_are_left(void **state)
{
	static const char MORE[] = OPTS("connection_keepalive: {interval: 0.03s, timeout: 0.03s}");
	struct frame f;
	struct env *e = h2_open(MORE, NULL, 0);

	term.status = 0;
	send_frame(e, HEADERS, 5, 1, GET, sizeof(GET) - 1);
	turn(e, 150);
	assert_true(frame_of(e, PING, 0, 0, &f));
	assert_true(e->closed);
	env_free(e);
	e = h2_open(MORE, NULL, 0);
	send_frame(e, HEADERS, 5, 1, GET, sizeof(GET) - 1);
	for (unsigned i = 0; i < 4; i++) { /* one that answers */
		for (int j = 0; j < 100 && !frame_of(e, PING, 0, i, &f); j++)
			turn(e, 2);
		assert_true(frame_of(e, PING, 0, i, &f));
		send_frame(e, PING, 1, 0, (const char *)f.p, 8);
	}
	assert_false(e->closed);
	env_free(e);
	e = h2_open(H2, NULL, 0);
	send_frame(e, HEADERS, 5, 1, GET, sizeof(GET) - 1);
	turn(e, 100);
	assert_false(frame_of(e, PING, 0, 0, &f));
	env_free(e);
}

/* max_outbound_control_frames */
static void pings_in_a_row(void **state)
{
	char buf[17 * 50];

	for (int few = 0; few < 2; few++) {
		struct env *e =
			h2_open(few ? OPTS("max_outbound_control_frames: 10") : H2, NULL, 0);

		for (size_t i = 0; i < 50; i++)
			put(buf + 17 * i, PING, 0, 0, "12345678", 8);
		assert_int_equal(write(e->fd, buf, sizeof(buf)), sizeof(buf));
		turn(e, 10);
		assert_int_equal(e->closed, few);
		env_free(e);
	}
}

/* max_outbound_frames: of one who asks and does not read */
static void frames_that_wait(void **state)
{
	static char body[30001];

	memset(body, 'b', sizeof(body) - 1);
	for (int few = 0; few < 2; few++) {
		struct env *e = h2_open(few ? OPTS("max_outbound_frames: 20") : H2,
					"\0\4\x7f\xff\xff\xff", 6);

		send_frame(e, WINDOW, 0, 0, "\x7f\xff\0\0", 4);
		term.status = 200;
		term.body = body;
		for (uint32_t i = 0; i < 60; i++) {
			char buf[64];
			size_t n = put(buf, HEADERS, 5, 2 * i + 1, GET, sizeof(GET) - 1);

			if (write(e->fd, buf, n) < 0)
				break;
			event_base_loop(e->w->base, EVLOOP_NONBLOCK);
		}
		for (int i = 0; i < 20; i++)
			event_base_loop(e->w->base, EVLOOP_NONBLOCK);
		assert_int_equal(e->closed, few);
		env_free(e);
	}
}

/* stream_error_on_invalid_http_messaging and what overrides it */
static void bad_messages_may_cost_their_stream_alone(void **state)
{
	static const char BAD[] = "\x82\x86\x84\x41\x01"
				  "a"
				  "\x00\x0a"
				  "connection"
				  "\x05"
				  "close";
	static const struct {
		const char *more;
		bool lives;
	} v[] = {
		{H2, false},
		{OPTS("stream_error_on_invalid_http_messaging: true"), true},
		{OPTS("override_stream_error_on_invalid_http_message: true"), true},
		{H2 "  stream_error_on_invalid_http_message: true\n", true},
		{OPTS("override_stream_error_on_invalid_http_message: false") "  "
									      "stream_error_on_"
									      "invalid_http_"
									      "message: true\n",
		 false},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct env *e = h2_open(v[i].more, NULL, 0);
		struct frame f;

		term.status = 200;
		send_frame(e, HEADERS, 5, 1, BAD, sizeof(BAD) - 1);
		turn(e, 5);
		assert_int_equal(frame_of(e, RST, 1, 0, &f), v[i].lives);
		assert_int_equal(frame_of(e, GOAWAY, 0, 0, &f), !v[i].lives);
		if (v[i].lives) {
			send_frame(e, HEADERS, 5, 3, GET, sizeof(GET) - 1);
			turn(e, 5);
			assert_true(frame_of(e, HEADERS, 3, 0, &f));
		}
		env_free(e);
	}
}

/* stream_flush_timeout: an answer that the client gives no window for */
static void flushes_may_take_so_long(void **state)
{
	static const char *const more[] = {H2 "  stream_flush_timeout: 0.03s\n",
					   H2 "  stream_flush_timeout: 60s\n"
					      "  stream_idle_timeout: 0.03s\n"};

	for (int later = 0; later < 2; later++) {
		struct env *e = h2_open(more[later], "\0\4\0\0\0\x02", 6);
		struct frame f;

		term.status = 200;
		term.body = "more than two";
		send_frame(e, HEADERS, 5, 1, GET, sizeof(GET) - 1);
		turn(e, 100);
		assert_true(frame_of(e, DATA, 1, 0, &f));
		assert_int_equal(f.len, 2);
		assert_int_equal(frame_of(e, RST, 1, 0, &f), !later);
		env_free(e);
	}
}

static void metadata_frames_are_not_taken(void **state)
{
	struct env *e = env_new(OPTS("allow_metadata: true"), 0, true);
	char err[512];

	assert_int_equal(e->errs.n, 1);
	assert_non_null(strstr(weft_err_text(&e->errs.v[0], err, sizeof(err)),
			       "allow_metadata: true is not supported"));
	weft_worker_free(e->w);
	weft_arena_free(e->a);
	free(e);
	e = h2_open(OPTS("allow_metadata: false"), NULL, 0);
	assert_false(e->closed);
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_told),
		cmocka_unit_test(silent_peers_are_left),
		cmocka_unit_test(pings_in_a_row),
		cmocka_unit_test(frames_that_wait),
		cmocka_unit_test(bad_messages_may_cost_their_stream_alone),
		cmocka_unit_test(flushes_may_take_so_long),
		cmocka_unit_test(metadata_frames_are_not_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
