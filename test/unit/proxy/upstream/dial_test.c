/* TCP connections to hosts: accounting, limits, ends. */
#include "pool_fix.h"

#include <fcntl.h>

static int setup(void **state)
{
	static struct fix f;

	*state = &f;
	return fix_open(&f, WEFT_HTTP_11);
}

static int teardown(void **state)
{
	fix_close(*state);
	return 0;
}

struct tcp {
	struct weft_io *io;
	bool ready, closed;
	enum weft_io_end why;
	size_t got;
};

static void tcp_ready(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);

	t->ready = true;
	evbuffer_add(weft_io_out(io), "hello", 5);
	weft_io_flush(io);
}

static void tcp_readable(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);

	t->got += evbuffer_get_length(in);
	evbuffer_drain(in, evbuffer_get_length(in));
}

static void tcp_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct tcp *t = weft_io_owner(io);

	t->closed = true;
	t->why = why;
}

static const struct weft_io_ops tcp_ops = {
	.ready = tcp_ready, .readable = tcp_readable, .closed = tcp_closed};

static void test_tcp(void **state)
{
	struct fix *f = *state;
	struct tcp t = {0}, u = {0};

	f->server.raw = true;
	f->breaker[0].max_connections = 1;
	assert_int_equal(weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &t, &t.io),
			 0);
	assert_false(t.ready);
	assert_int_equal(weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &u, &u.io),
			 -EBUSY);
	STAT_IS(f, upstream_cx_overflow, 1);
	UNTIL(f, t.got == 5);
	STAT_IS(f, upstream_cx_total, 1);
	STAT_IS(f, upstream_cx_active, 1);
	weft_upstream_io_free(t.io);
	STAT_IS(f, upstream_cx_active, 0);
	STAT_IS(f, upstream_cx_destroy_local, 1);
	STAT_IS(f, upstream_cx_tx_bytes_total, 5);
	STAT_IS(f, upstream_cx_rx_bytes_total, 5);
}

static void test_tcp_failures(void **state)
{
	struct fix *f = *state;
	struct tcp t = {0};

	f->server.raw = true;
	weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &t, &t.io);
	UNTIL(f, t.got == 5);
	weft_pools_host_failed(f->wc.pools, &f->server.host, false);
	for (int i = 0; i < 20; i++)
		turn(f);
	assert_false(t.closed); /* close_connections_on_host_health_failure is off */
	weft_pools_host_failed(f->wc.pools, &f->server.host, true);
	assert_false(t.closed); /* from the loop */
	UNTIL(f, t.closed);
	weft_upstream_io_free(t.io);
	event_del(f->server.ev);
	close(f->server.fd);
	f->server.fd = open("/dev/null", O_RDONLY);
	memset(&t, 0, sizeof(t));
	weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &t, &t.io);
	UNTIL(f, t.closed);
	assert_int_equal(t.why, WEFT_IO_REFUSED);
	assert_false(t.ready);
	weft_upstream_io_free(t.io);
	STAT_IS(f, upstream_cx_connect_fail, 1);
	STAT_IS(f, upstream_rq_pending_failure_eject, 1);
}

/* Whoever takes the callbacks over is told of the end himself. */
static void other_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	bool *told = weft_io_owner(io);

	*told = true;
}

static void test_handed_over(void **state)
{
	static const struct weft_io_ops other = {.readable = tcp_readable, .closed = other_closed};
	struct fix *f = *state;
	struct tcp t = {0};
	bool told = false;

	f->server.raw = true;
	weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &t, &t.io);
	UNTIL(f, t.got == 5);
	weft_io_set_ops(t.io, &other, &told);
	weft_pools_host_failed(f->wc.pools, &f->server.host, true);
	UNTIL(f, told);
	assert_false(t.closed);
	weft_upstream_io_free(t.io);
	STAT_IS(f, upstream_cx_destroy, 1);
}

/* The first address refuses: one connection, to the second. */
static void test_several_addresses(void **state)
{
	struct fix *f = *state;
	struct weft_sockaddr tries[2] = {f->server.host.addr, f->server.host.addr};
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&tries[0], 0, &ss);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct tcp t = {0};

	((struct sockaddr_in *)&ss)->sin_port = 0;
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, n), 0);
	n = sizeof(ss);
	getsockname(fd, (struct sockaddr *)&ss, &n);
	weft_sockaddr_from_kernel(&ss, &tries[0]);
	f->server.raw = true;
	f->server.host.tries = tries;
	f->server.host.n_tries = 2;
	weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &t, &t.io);
	UNTIL(f, t.got == 5);
	assert_true(weft_sockaddr_eq(&weft_io_info(t.io)->remote, &tries[1]));
	STAT_IS(f, upstream_cx_total, 1);
	STAT_IS(f, upstream_cx_connect_fail, 0);
	weft_upstream_io_free(t.io);
	/* and where both refuse it fails once */
	tries[1] = tries[0];
	memset(&t, 0, sizeof(t));
	weft_upstream_dial(&f->wc, &f->server.host, &f->how, &tcp_ops, &t, &t.io);
	UNTIL(f, t.closed);
	assert_int_equal(t.why, WEFT_IO_REFUSED);
	weft_upstream_io_free(t.io);
	STAT_IS(f, upstream_cx_connect_fail, 1);
	close(fd);
}

#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_tcp),
		T(test_tcp_failures),
		T(test_handed_over),
		T(test_several_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
