#include "proxy/net/relay.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* near[0] - [relay a | relay b] - near[1]: two TCP connections over loopback. */
struct fix {
	struct event_base *base;
	struct weft_relay *r;
	int near[2], far[2];
	uint64_t to_b, to_a;
	int ended; /* -1: not yet */
};

static void on_end(void *owner, enum weft_relay_end why)
{
	struct fix *f = owner;

	f->r = NULL;
	f->ended = (int)why;
	close(f->far[0]);
	close(f->far[1]);
}

static void tcp_pair(int *a, int *b)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&sa, &n), 0);
	*a = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(*a, (struct sockaddr *)&sa, sizeof(sa)), 0);
	*b = accept(l, NULL, NULL);
	fcntl(*a, F_SETFL, O_NONBLOCK);
	fcntl(*b, F_SETFL, O_NONBLOCK);
	close(l);
}

static int up(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct weft_relay_conf c = {
		.a_to_b = &f->to_b, .b_to_a = &f->to_a, .ended = on_end, .owner = f};

	signal(SIGPIPE, SIG_IGN);
	f->base = event_base_new();
	f->ended = -1;
	tcp_pair(&f->near[0], &f->far[0]);
	tcp_pair(&f->near[1], &f->far[1]);
	c.base = f->base;
	c.a = f->far[0];
	c.b = f->far[1];
	f->r = weft_relay_new(&c);
	*state = f;
	return 0;
}

static int down(void **state)
{
	struct fix *f = *state;

	if (f->r) {
		weft_relay_free(f->r);
		close(f->far[0]);
		close(f->far[1]);
	}
	for (int i = 0; i < 2; i++) {
		if (f->near[i] >= 0)
			close(f->near[i]);
	}
	event_base_free(f->base);
	free(f);
	return 0;
}

static void turn(struct fix *f)
{
	struct timeval tv = {0, 5000};

	event_base_loopexit(f->base, &tv);
	event_base_dispatch(f->base);
}

static void both_ways(void **state)
{
	struct fix *f = *state;
	char b[16];

	assert_int_equal(send(f->near[0], "hello", 5, 0), 5);
	assert_int_equal(send(f->near[1], "hi", 2, 0), 2);
	turn(f);
	assert_int_equal(recv(f->near[1], b, 16, 0), 5);
	assert_int_equal(recv(f->near[0], b, 16, 0), 2);
	assert_int_equal(f->to_b, 5);
	assert_int_equal(f->to_a, 2);
}

static void half_close(void **state)
{
	struct fix *f = *state;
	char b[16];

	send(f->near[0], "x", 1, 0);
	shutdown(f->near[0], SHUT_WR);
	turn(f);
	assert_int_equal(recv(f->near[1], b, 16, 0), 1);
	assert_int_equal(recv(f->near[1], b, 16, 0), 0);
	assert_int_equal(f->ended, -1);
	send(f->near[1], "yz", 2, 0);
	turn(f);
	assert_int_equal(recv(f->near[0], b, 16, 0), 2);
	shutdown(f->near[1], SHUT_WR);
	turn(f);
	assert_int_equal(f->ended, WEFT_RELAY_OK);
	assert_int_equal(recv(f->near[0], b, 16, 0), 0);
}

static void reset(struct fix *f, int i, enum weft_relay_end want)
{
	struct linger l = {1, 0};

	setsockopt(f->near[i], SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(f->near[i]);
	f->near[i] = -1;
	turn(f);
	assert_int_equal(f->ended, want);
}

static void reset_by_a(void **state)
{
	reset(*state, 0, WEFT_RELAY_A_RESET);
}

static void reset_by_b(void **state)
{
	reset(*state, 1, WEFT_RELAY_B_RESET);
}

/* A reader that sleeps stops the writer; then every byte comes, in order, and the end after it. */
static void slow_reader(void **state)
{
	struct fix *f = *state;
	static uint8_t buf[65536];
	size_t sent = 0, got = 0;
	int idle = 0;

	while (idle < 3) {
		ssize_t n;

		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)((sent + i) * 31 >> 3);
		n = send(f->near[0], buf, sizeof(buf), 0);
		idle = n < 0 ? idle + 1 : 0;
		sent += n > 0 ? (size_t)n : 0;
		turn(f);
		assert_true(sent < 64u << 20);
	}
	shutdown(f->near[0], SHUT_WR);
	for (;;) {
		ssize_t n = recv(f->near[1], buf, sizeof(buf), 0);

		if (n == 0)
			break;
		assert_true(n > 0 || errno == EAGAIN);
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(buf[i], (uint8_t)((got + (size_t)i) * 31 >> 3));
		got += n > 0 ? (size_t)n : 0;
		if (n < 0)
			turn(f);
	}
	assert_int_equal(got, sent);
	assert_int_equal(f->to_b, sent);
	close(f->near[1]);
	f->near[1] = -1;
	turn(f);
	assert_int_equal(f->ended, WEFT_RELAY_OK);
}

#define T(f) cmocka_unit_test_setup_teardown(f, up, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(both_ways), T(half_close), T(reset_by_a), T(reset_by_b), T(slow_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
