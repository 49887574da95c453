#include "proxy/net/listener.h"
#include "test/unit/proxy/net/io_fix.h"

#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

struct fix {
	struct event_base *base;
	struct weft_acceptor *a;
	int fd, last, n, failed, err;
	struct weft_sockaddr peer;
	bool free_in;
	char dir[32], path[64];
};

static void accepted(void *owner, int fd, const struct weft_sockaddr *peer)
{
	struct fix *f = owner;

	f->n++;
	f->peer = *peer;
	if (f->last >= 0)
		close(f->last);
	f->last = fd;
	if (f->free_in) {
		weft_acceptor_free(f->a);
		f->a = NULL;
	}
}

static void failed(void *owner, int err)
{
	struct fix *f = owner;

	f->failed++;
	f->err = err;
}

static const struct weft_acceptor_ops ops = {.accepted = accepted, .failed = failed};

static int up(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	f->base = event_base_new();
	f->fd = f->last = -1;
	strcpy(f->dir, "/tmp/weft-listen-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	*state = f;
	return 0;
}

static int down(void **state)
{
	struct fix *f = *state;

	weft_acceptor_free(f->a);
	if (f->fd >= 0)
		close(f->fd);
	if (f->last >= 0)
		close(f->last);
	event_base_free(f->base);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static int get_int(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	assert_int_equal(getsockopt(fd, level, name, &v, &n), 0);
	return v;
}

static socklen_t bound(int fd, struct sockaddr_storage *ss)
{
	socklen_t n = sizeof(*ss);

	assert_int_equal(getsockname(fd, (struct sockaddr *)ss, &n), 0);
	return n;
}

static int dial(int fd)
{
	struct sockaddr_storage ss;
	socklen_t n = bound(fd, &ss);
	int c = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

	assert_true(connect(c, (struct sockaddr *)&ss, n) == 0 || errno == EINPROGRESS);
	return c;
}

static void loopback(struct weft_listen_conf *c)
{
	assert_int_equal(weft_ip_parse("127.0.0.1", &c->addr.ip), 0);
}

static void test_options(void **state)
{
	struct fix *f = *state;
	struct linger li = {1, 7};
	const struct weft_sockopt opts[] = {
		{.level = SOL_SOCKET, .name = SO_RCVBUF, .value = 50000},
		{.level = SOL_SOCKET,
		 .name = SO_LINGER,
		 .is_bytes = true,
		 .bytes = &li,
		 .bytes_n = sizeof(li),
		 .when = WEFT_SOCKOPT_BOUND},
		{.level = IPPROTO_TCP,
		 .name = TCP_DEFER_ACCEPT,
		 .value = 3,
		 .when = WEFT_SOCKOPT_LISTENING},
	};
	struct weft_listen_conf c = {.reuse_port = true,
				     .keepalive = true,
				     .keep_idle_s = 33,
				     .keep_interval_s = 5,
				     .keep_probes = 4,
				     .fastopen = 16,
				     .freebind = true,
				     .backlog = 5,
				     .opts = opts,
				     .n_opts = 3};
	struct weft_err e = {0};
	int second;

	loopback(&c);
	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	assert_int_equal(get_int(f->fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
	assert_int_equal(get_int(f->fd, SOL_SOCKET, SO_REUSEPORT), 1);
	assert_int_equal(get_int(f->fd, SOL_SOCKET, SO_RCVBUF), 100000);
	assert_int_equal(get_int(f->fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(get_int(f->fd, IPPROTO_TCP, TCP_KEEPIDLE), 33);
	assert_int_equal(get_int(f->fd, IPPROTO_TCP, TCP_FASTOPEN), 16);
	assert_int_equal(get_int(f->fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(get_int(f->fd, SOL_IP, IP_FREEBIND), 1);
	assert_true(get_int(f->fd, IPPROTO_TCP, TCP_DEFER_ACCEPT) > 0);
	assert_true(fcntl(f->fd, F_GETFL) & O_NONBLOCK);
	/* a second one on the same port, then one that may not share */
	{
		struct sockaddr_storage ss;

		bound(f->fd, &ss);
		assert_int_equal(weft_sockaddr_from_kernel(&ss, &c.addr), 0);
	}
	assert_int_equal(weft_listen(&c, &second, &e), 0);
	close(second);
	c.reuse_port = false;
	assert_int_equal(weft_listen(&c, &second, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "cannot bind 127.0.0.1:"));
}

static void test_bad_option(void **state)
{
	struct fix *f = *state;
	const struct weft_sockopt o = {.level = 12345, .name = 6, .value = 1};
	struct weft_listen_conf c = {.opts = &o, .n_opts = 1};
	struct weft_err e = {0};

	loopback(&c);
	assert_true(weft_listen(&c, &f->fd, &e) < 0);
	assert_non_null(strstr(e.msg, "level 12345 name 6"));
	assert_int_equal(f->fd, -1);
}

static void test_v6only(void **state)
{
	struct fix *f = *state;
	struct weft_listen_conf c = {0};
	struct weft_err e = {0};

	assert_int_equal(weft_ip_parse("::", &c.addr.ip), 0);
	if (weft_listen(&c, &f->fd, &e) == -EAFNOSUPPORT)
		skip();
	assert_int_equal(get_int(f->fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	close(f->fd);
	c.v4_compat = true;
	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	assert_int_equal(get_int(f->fd, IPPROTO_IPV6, IPV6_V6ONLY), 0);
}

static void test_unix(void **state)
{
	struct fix *f = *state;
	struct weft_listen_conf c = {.unix_path = f->path, .unix_mode = 0620};
	struct weft_err e = {0};
	struct stat st;
	int second, x;

	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0620);
	assert_int_equal(weft_listen(&c, &second, &e), -EADDRINUSE); /* it is alive */
	close(f->fd);						     /* and now dead */
	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	f->a = weft_acceptor_new(f->base, f->fd, 0, &ops, f);
	x = dial(f->fd);
	RUN_UNTIL(f->base, f->n == 1);
	assert_int_equal(f->peer.ip.family, 0);
	close(x);
	c.unix_path = "@weft-listener-test-abstract";
	assert_int_equal(weft_listen(&c, &second, &e), 0);
	x = dial(second);
	close(x);
	close(second);
}

static void test_accept(void **state)
{
	struct fix *f = *state;
	struct weft_listen_conf c = {0};
	struct weft_err e = {0};
	int x[5];

	loopback(&c);
	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	f->a = weft_acceptor_new(f->base, f->fd, 2, &ops, f);
	for (int i = 0; i < 5; i++)
		x[i] = dial(f->fd);
	event_base_loop(f->base, EVLOOP_ONCE);
	assert_int_equal(f->n, 2); /* a turn */
	weft_acceptor_enable(f->a, false);
	run_a_while(f->base, 10);
	assert_int_equal(f->n, 2);
	weft_acceptor_enable(f->a, true);
	RUN_UNTIL(f->base, f->n == 5);
	assert_true(weft_ip_is_loopback(&f->peer.ip));
	assert_true(fcntl(f->last, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(f->last, F_GETFD) & FD_CLOEXEC);
	for (int i = 0; i < 5; i++)
		close(x[i]);
}

static void test_free_in_accepted(void **state)
{
	struct fix *f = *state;
	struct weft_listen_conf c = {0};
	struct weft_err e = {0};
	int x[2];

	loopback(&c);
	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	f->a = weft_acceptor_new(f->base, f->fd, 0, &ops, f);
	f->free_in = true;
	x[0] = dial(f->fd);
	x[1] = dial(f->fd);
	RUN_UNTIL(f->base, f->n == 1);
	run_a_while(f->base, 10);
	assert_int_equal(f->n, 1);
	close(x[0]);
	close(x[1]);
}

/* No descriptors left: one client is told, the others wait and are served once there is room. */
static void test_out_of_fds(void **state)
{
	struct fix *f = *state;
	struct weft_listen_conf c = {0};
	struct weft_err e = {0};
	struct rlimit was, low;
	int x[3], top;

	loopback(&c);
	assert_int_equal(weft_listen(&c, &f->fd, &e), 0);
	f->a = weft_acceptor_new(f->base, f->fd, 0, &ops, f);
	for (int i = 0; i < 3; i++)
		x[i] = dial(f->fd);
	top = dup(0);
	close(top);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	low = was;
	low.rlim_cur = (rlim_t)top;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	run_a_while(f->base, 30);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	assert_int_equal(f->failed, 1);
	assert_int_equal(f->err, EMFILE);
	assert_int_equal(f->n, 0);
	RUN_UNTIL(f->base, f->n == 2);
	for (int i = 0; i < 3; i++)
		close(x[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_options, up, down),
		cmocka_unit_test_setup_teardown(test_bad_option, up, down),
		cmocka_unit_test_setup_teardown(test_v6only, up, down),
		cmocka_unit_test_setup_teardown(test_unix, up, down),
		cmocka_unit_test_setup_teardown(test_accept, up, down),
		cmocka_unit_test_setup_teardown(test_free_in_accepted, up, down),
		cmocka_unit_test_setup_teardown(test_out_of_fds, up, down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
