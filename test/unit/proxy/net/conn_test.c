/* Control connections: limits, idle time, orders of closing, freeing inside callbacks. */
#include "proxy/net/conn.h"

#include "proxy/core/worker.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct event_base *base;
static struct weft_conn *conn;
static int peer; /* the other end, blocking with a time limit */
static int readable, drained, closed, error;
static bool keep, free_in_readable, free_in_drained;

static void on_readable(struct weft_conn *c)
{
	readable++;
	if (free_in_readable) {
		weft_conn_free(c);
		assert_true(!closed);
	} else if (!keep) {
		/* an echo */
		evbuffer_add_buffer(weft_conn_out(c), weft_conn_in(c));
		weft_conn_flush(c);
	}
}

static void on_drained(struct weft_conn *c)
{
	drained++;
	if (free_in_drained)
		weft_conn_free(c);
}

static void on_closed(struct weft_conn *c, int err)
{
	assert_ptr_equal(weft_conn_owner(c), &conn);
	closed++;
	error = err;
	conn = NULL;
}

static const struct weft_conn_ops ops = {on_readable, on_drained, on_closed};

static int setup_idle(void **state, unsigned idle_ms)
{
	struct timeval limit = {5, 0};
	int fd[2];

	base = event_base_new();
	readable = drained = closed = error = 0;
	keep = free_in_readable = free_in_drained = false;
	if (!base || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		return -1;
	evutil_make_socket_nonblocking(fd[0]);
	peer = fd[1];
	setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	conn = weft_conn_new(base, fd[0], &ops, &conn, idle_ms);
	return conn && weft_conn_fd(conn) == fd[0] ? 0 : -1;
}

static int setup(void **state)
{
	return setup_idle(state, 0);
}

static int teardown(void **state)
{
	weft_conn_free(conn);
	conn = NULL;
	close(peer);
	event_base_free(base);
	return 0;
}

/* Turns the loop until *flag, at most 5 s. */
static void turn_until(const int *flag)
{
	uint64_t end = weft_now_ns() + 5000000000u;
	struct timeval tick = {0, 20000};

	while (!*flag && weft_now_ns() < end) {
		event_base_loopexit(base, &tick);
		event_base_loop(base, EVLOOP_ONCE);
	}
	assert_true(*flag);
}

static void turn_some(void)
{
	for (int i = 0; i < 5; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

static void test_echo_and_close(void **state)
{
	char buf[8];

	assert_int_equal(write(peer, "hello", 5), 5);
	turn_until(&drained);
	assert_int_equal(read(peer, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	shutdown(peer, SHUT_WR);
	turn_until(&closed);
	assert_int_equal(error, 0);
}

static void test_flush_never_calls_back(void **state)
{
	evbuffer_add(weft_conn_out(conn), "x", 1);
	weft_conn_flush(conn);
	assert_int_equal(drained, 0);
	turn_until(&drained);
	weft_conn_flush(conn); /* nothing to write: nothing to tell */
	turn_some();
	assert_int_equal(drained, 1);
	close(peer);
	peer = -1;
	evbuffer_add(weft_conn_out(conn), "x", 1);
	weft_conn_flush(conn); /* EPIPE, without its signal */
	assert_int_equal(closed, 0);
	turn_until(&closed);
	assert_true(error == -EPIPE || error == 0);
}

static void test_input_is_bounded(void **state)
{
	char *block = calloc(1, 64 * 1024);
	size_t held;

	assert_non_null(block);
	keep = true;
	evutil_make_socket_nonblocking(peer);
	for (int i = 0; i < 200; i++) {
		while (write(peer, block, 64 * 1024) > 0)
			;
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
	held = evbuffer_get_length(weft_conn_in(conn));
	assert_in_range(held, WEFT_CONN_IN_MAX, WEFT_CONN_IN_MAX + 64 * 1024);
	readable = 0;
	evbuffer_drain(weft_conn_in(conn), held);
	turn_until(&readable); /* goes on by itself */
	free(block);
}

static void test_large_output(void **state)
{
	size_t total = 8 << 20, got = 0;
	char *block = calloc(1, total);

	assert_non_null(block);
	evbuffer_add(weft_conn_out(conn), block, total);
	weft_conn_flush(conn);
	evutil_make_socket_nonblocking(peer);
	while (got < total) {
		ssize_t n = read(peer, block, 1 << 20);

		if (n > 0)
			got += (size_t)n;
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
	turn_until(&drained);
	free(block);
}

static void test_close_after_flush(void **state)
{
	char buf[8];

	keep = true;
	assert_int_equal(write(peer, "unread", 6), 6); /* must not turn the close into a reset */
	evbuffer_add(weft_conn_out(conn), "bye", 3);
	weft_conn_close_after_flush(conn);
	turn_some();
	assert_int_equal(read(peer, buf, sizeof(buf)), 3);
	assert_int_equal(read(peer, buf, sizeof(buf)), 0);
	assert_int_equal(write(peer, "late", 4), 4);
	turn_some();
	assert_int_equal(closed, 0);
	shutdown(peer, SHUT_WR);
	turn_until(&closed);
	assert_int_equal(error, 0);
	assert_int_equal(readable, 0);
}

static void test_linger_ends(void **state)
{
	weft_conn_close_after_flush(conn); /* and the peer never closes */
	turn_until(&closed);
	assert_int_equal(error, 0);
}

static int setup_short_idle(void **state)
{
	return setup_idle(state, 60);
}

static void test_idle(void **state)
{
	char c;

	assert_int_equal(write(peer, "a", 1), 1);
	turn_until(&drained);
	assert_int_equal(read(peer, &c, 1), 1);
	turn_until(&closed);
	assert_int_equal(error, -ETIMEDOUT);
}

static void test_idle_with_full_output(void **state)
{
	char *block = calloc(1, 4 << 20);

	assert_non_null(block);
	evbuffer_add(weft_conn_out(conn), block, 4 << 20);
	free(block);
	weft_conn_close_after_flush(conn); /* and the peer never reads */
	turn_until(&closed);
	assert_int_equal(error, -ETIMEDOUT);
}

static void test_free_in_callbacks(void **state)
{
	int gone = 0;

	free_in_readable = true;
	assert_int_equal(write(peer, "x", 1), 1);
	turn_until(&readable);
	conn = NULL;
	assert_int_equal(read(peer, &gone, 1), 0);
	turn_some();
	assert_int_equal(closed, 0);
}

static void test_free_in_drained(void **state)
{
	free_in_drained = true;
	evbuffer_add(weft_conn_out(conn), "x", 1);
	weft_conn_flush(conn);
	turn_until(&drained);
	conn = NULL;
	turn_some();
	assert_int_equal(closed, 0);
}

static void test_reset(void **state)
{
	evbuffer_add(weft_conn_out(conn), "x", 1);
	weft_conn_flush(conn);
	turn_some();
	close(peer); /* with a byte unread: a reset */
	peer = -1;
	turn_until(&closed);
	assert_int_equal(error, -ECONNRESET);
}

int main(void)
{
#define T(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)
#define IDLE(f) cmocka_unit_test_setup_teardown(f, setup_short_idle, teardown)
	const struct CMUnitTest tests[] = {
		T(test_echo_and_close),
		T(test_flush_never_calls_back),
		T(test_input_is_bounded),
		T(test_large_output),
		T(test_close_after_flush),
		T(test_linger_ends),
		IDLE(test_idle),
		IDLE(test_idle_with_full_output),
		T(test_free_in_callbacks),
		T(test_free_in_drained),
		T(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
