#include "test/unit/proxy/net/io_fix.h"

#include "proxy/core/arena.h"
#include <pthread.h>
#include <stdio.h>
#include <sys/un.h>

struct fix {
	struct event_base *base;
	struct peer a, b;
	int fd; /* the far end where only a is an io */
};

static int up(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	signal(SIGPIPE, SIG_IGN);
	f->base = event_base_new();
	f->fd = -1;
	*state = f;
	return 0;
}

static int down(void **state)
{
	struct fix *f = *state;

	weft_io_free(f->a.io);
	weft_io_free(f->b.io);
	if (f->fd >= 0)
		close(f->fd);
	event_base_free(f->base);
	free(f);
	return 0;
}

static void both(struct fix *f)
{
	int a, b;

	fix_pair(&a, &b);
	f->a.io = weft_io_new(f->base, a, NULL, NULL, &peer_ops, &f->a);
	f->b.io = weft_io_new(f->base, b, NULL, NULL, &peer_ops, &f->b);
}

static void one(struct fix *f)
{
	int a;

	fix_pair(&a, &f->fd);
	f->a.io = weft_io_new(f->base, a, NULL, NULL, &peer_ops, &f->a);
}

static void say(struct peer *p, const char *s)
{
	evbuffer_add(weft_io_out(p->io), s, strlen(s));
	weft_io_flush(p->io);
}

static void test_hello(void **state)
{
	struct fix *f = *state;

	both(f);
	assert_true(weft_io_is_ready(f->a.io));
	say(&f->a, "hello");
	assert_int_equal(f->b.readable, 0); /* nothing before the loop */
	RUN_UNTIL(f->base, f->b.got == 5);
	say(&f->b, "hi");
	RUN_UNTIL(f->base, f->a.got == 2);
	assert_int_equal(weft_io_stat(f->a.io).tx, 5);
	assert_int_equal(weft_io_stat(f->a.io).rx, 2);
	assert_int_equal(f->a.ready, 0);
	assert_int_equal(weft_io_info(f->a.io)->remote.port, weft_io_info(f->b.io)->local.port);
	assert_true(weft_io_info(f->a.io)->id != weft_io_info(f->b.io)->id);
}

/* A turn's flushes are one write: the peer sees it as one piece. */
static void test_one_write(void **state)
{
	struct fix *f = *state;
	char b[64];

	one(f);
	say(&f->a, "a");
	say(&f->a, "b");
	say(&f->a, "c");
	weft_io_want_drained(f->a.io);
	RUN_UNTIL(f->base, f->a.drained);
	assert_int_equal(recv(f->fd, b, sizeof(b), 0), 3);
}

/* Megabytes in both directions at once, every byte looked at, from a source that heeds full(). */
struct pump {
	struct peer p;
	uint64_t left, at, sent;
};

static void pump_more(struct pump *u)
{
	uint8_t b[10000];

	while (u->left > 0 && !weft_io_full(u->p.io)) {
		size_t n = u->left < sizeof(b) ? u->left : 1 + u->at % sizeof(b);

		for (size_t i = 0; i < n; i++) {
			b[i] = (uint8_t)(u->at * 2654435761u >> 13);
			u->sent = mix(u->sent, b[i]);
			u->at++;
		}
		evbuffer_add(weft_io_out(u->p.io), b, n);
		u->left -= n;
	}
	weft_io_flush(u->p.io);
	if (u->left == 0)
		weft_io_shutdown(u->p.io);
}

static void pump_writable(struct weft_io *io)
{
	struct pump *u = weft_io_owner(io);

	u->p.writable++;
	pump_more(u);
}

static const struct weft_io_ops pump_ops = {.readable = peer_readable,
					    .writable = pump_writable,
					    .drained = peer_drained,
					    .closed = peer_closed};

static void test_big_both_ways(void **state)
{
	struct fix *f = *state;
	struct pump a = {.left = 23456789}, b = {.left = 12345678};
	uint64_t na = a.left, nb = b.left;
	int x, y;

	fix_pair(&x, &y);
	a.p.io = weft_io_new(f->base, x, NULL, NULL, &pump_ops, &a);
	b.p.io = weft_io_new(f->base, y, NULL, NULL, &pump_ops, &b);
	weft_io_set_high(a.p.io, 100000);
	pump_more(&a);
	pump_more(&b);
	RUN_UNTIL(f->base, a.p.eof && b.p.eof);
	assert_int_equal(b.p.got, na);
	assert_int_equal(a.p.got, nb);
	assert_true(b.p.sum == a.sent && a.p.sum == b.sent);
	assert_true(a.p.writable > 0);
	assert_int_equal(a.p.closed + b.p.closed, 0);
	assert_int_equal(weft_io_stat(a.p.io).tx, na);
	weft_io_free(a.p.io);
	weft_io_free(b.p.io);
}

static void test_half_close(void **state)
{
	struct fix *f = *state;

	both(f);
	say(&f->a, "last words");
	weft_io_shutdown(f->a.io);
	RUN_UNTIL(f->base, f->b.eof);
	assert_int_equal(f->b.got, 10);
	say(&f->b, "and mine");
	RUN_UNTIL(f->base, f->a.got == 8);
	assert_false(weft_io_eof(f->a.io));
	weft_io_shutdown(f->b.io);
	RUN_UNTIL(f->base, f->a.eof);
	assert_int_equal(f->a.closed + f->b.closed, 0);
}

static void test_reset_seen(void **state)
{
	struct fix *f = *state;

	both(f);
	weft_io_reset(f->a.io);
	f->a.io = NULL;
	RUN_UNTIL(f->base, f->b.closed);
	assert_int_equal(f->b.why, WEFT_IO_RESET);
	assert_int_equal(f->b.err, ECONNRESET);
}

/* Also while paused, when an EOF was read, and with an EOF and no reader. */
static void test_reset_seen_paused(void **state)
{
	struct fix *f = *state;

	both(f);
	weft_io_pause(f->b.io);
	say(&f->a, "x");
	run_a_while(f->base, 20);
	assert_int_equal(f->b.readable, 0);
	weft_io_reset(f->a.io);
	f->a.io = NULL;
	RUN_UNTIL(f->base, f->b.closed);
	assert_int_equal(f->b.why, WEFT_IO_RESET);
}

static void test_reset_after_eof(void **state)
{
	static const struct linger now = {1, 0};
	struct fix *f = *state;

	one(f);
	shutdown(f->fd, SHUT_WR);
	RUN_UNTIL(f->base, f->a.eof);
	run_a_while(f->base, 10);
	assert_int_equal(f->a.closed, 0);
	setsockopt(f->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(f->fd);
	f->fd = -1;
	RUN_UNTIL(f->base, f->a.closed);
	assert_int_equal(f->a.why, WEFT_IO_RESET);
}

/* The peer answered and closed while we still wrote: the answer arrives before the failure. */
static void test_answer_before_reset(void **state)
{
	struct fix *f = *state;
	char big[1 << 16];

	one(f);
	memset(big, 'x', sizeof(big));
	assert_int_equal(send(f->fd, "413", 3, 0), 3);
	usleep(1000);
	evbuffer_add(weft_io_out(f->a.io), big, sizeof(big));
	weft_io_pause(f->a.io);
	weft_io_flush(f->a.io);
	run_a_while(f->base, 5);
	close(f->fd); /* with unread bytes: RST */
	f->fd = -1;
	weft_io_resume(f->a.io);
	evbuffer_add(weft_io_out(f->a.io), big, sizeof(big));
	weft_io_flush(f->a.io);
	RUN_UNTIL(f->base, f->a.closed);
	assert_int_equal(f->a.got, 3);
	assert_int_equal(f->a.why, WEFT_IO_RESET);
}

static void test_pause_counts(void **state)
{
	struct fix *f = *state;

	both(f);
	weft_io_pause(f->b.io);
	weft_io_pause(f->b.io);
	say(&f->a, "x");
	weft_io_shutdown(f->a.io);
	run_a_while(f->base, 10);
	weft_io_resume(f->b.io);
	run_a_while(f->base, 10);
	assert_int_equal(f->b.readable, 0);
	assert_false(weft_io_eof(f->b.io));
	weft_io_resume(f->b.io);
	RUN_UNTIL(f->base, f->b.eof);
	assert_int_equal(f->b.got, 1);
}

/* What is left in `in` stops the reads at the mark; taking it starts them again. */
static void test_stuffed(void **state)
{
	struct fix *f = *state;
	struct pump a = {.left = 8 << 20};
	size_t n;
	int x, y;

	fix_pair(&x, &y);
	a.p.io = weft_io_new(f->base, x, NULL, NULL, &pump_ops, &a);
	f->b.io = weft_io_new(f->base, y, NULL, NULL, &peer_ops, &f->b);
	f->b.keep = true;
	weft_io_set_high(f->b.io, 200000);
	pump_more(&a);
	run_a_while(f->base, 100);
	n = evbuffer_get_length(weft_io_in(f->b.io));
	assert_in_range(n, 200000, 200000 + 65536);
	run_a_while(f->base, 20);
	assert_int_equal(evbuffer_get_length(weft_io_in(f->b.io)), n);
	f->b.keep = false;
	peer_take(&f->b);
	RUN_UNTIL(f->base, f->b.eof);
	assert_int_equal(f->b.got, 8 << 20);
	assert_true(f->b.sum == a.sent);
	weft_io_free(a.p.io);
}

static void test_free_in_callbacks(void **state)
{
	struct fix *f = *state;
	char big[300000] = {0};

	both(f);
	f->b.free_in_readable = true;
	say(&f->a, "x");
	RUN_UNTIL(f->base, !f->b.io);
	RUN_UNTIL(f->base, f->a.eof || f->a.closed);
	weft_io_free(f->a.io);
	memset(&f->a, 0, sizeof(f->a));
	memset(&f->b, 0, sizeof(f->b));
	both(f);
	f->a.free_in_writable = true;
	weft_io_set_high(f->a.io, 1000);
	evbuffer_add(weft_io_out(f->a.io), big, sizeof(big));
	assert_true(weft_io_full(f->a.io));
	weft_io_flush(f->a.io);
	RUN_UNTIL(f->base, f->a.writable == 1);
	assert_null(f->a.io);
}

static void test_already(void **state)
{
	struct fix *f = *state;
	struct evbuffer *b = evbuffer_new();
	int x;

	fix_pair(&x, &f->fd);
	evbuffer_add(b, "early", 5);
	f->a.io = weft_io_new(f->base, x, NULL, b, &peer_ops, &f->a);
	evbuffer_free(b);
	assert_int_equal(f->a.readable, 0);
	RUN_UNTIL(f->base, f->a.got == 5);
}

static void test_set_ops_offers(void **state)
{
	struct fix *f = *state;
	struct peer c = {0};

	both(f);
	f->b.keep = true;
	say(&f->a, "for the next owner");
	RUN_UNTIL(f->base, f->b.readable);
	c.io = f->b.io;
	f->b.io = NULL;
	weft_io_set_ops(c.io, &peer_ops, &c);
	RUN_UNTIL(f->base, c.got == 18);
	weft_io_free(c.io);
}

/* ---- dialling */

static void test_dial(void **state)
{
	struct fix *f = *state;
	struct weft_dial d = {.preamble = "PROXY\r\n", .preamble_n = 7};
	char b[32] = {0};
	int l = fix_listen(&d.to);

	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->a, &f->a.io), 0);
	say(&f->a, "body");
	assert_false(weft_io_is_ready(f->a.io));
	RUN_UNTIL(f->base, f->a.ready);
	f->fd = accept(l, NULL, NULL);
	weft_io_want_drained(f->a.io);
	RUN_UNTIL(f->base, f->a.drained);
	assert_int_equal(recv(f->fd, b, sizeof(b), MSG_WAITALL | MSG_DONTWAIT), 11);
	assert_string_equal(b, "PROXY\r\nbody");
	assert_true(weft_sockaddr_eq(&weft_io_info(f->a.io)->remote, &d.to));
	assert_true(weft_ip_is_loopback(&weft_io_info(f->a.io)->local.ip));
	close(l);
}

static void test_dial_refused(void **state)
{
	struct fix *f = *state;
	struct weft_dial d = {0};
	int l = fix_listen(&d.to);

	close(l);
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->a, &f->a.io), 0);
	assert_int_equal(f->a.closed, 0);
	RUN_UNTIL(f->base, f->a.closed);
	assert_int_equal(f->a.why, WEFT_IO_REFUSED);
	assert_int_equal(f->a.err, ECONNREFUSED);
}

static int refuse(void *ctx, int fd)
{
	return -EPERM;
}

static void test_dial_bind_and_prepare(void **state)
{
	struct fix *f = *state;
	struct weft_dial d = {.keep_idle_s = 7, .keep_interval_s = 3, .keep_probes = 2};
	int l = fix_listen(&d.to), v = 0;
	socklen_t n = sizeof(v);

	assert_int_equal(weft_ip_parse("127.0.0.77", &d.from.ip), 0);
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->a, &f->a.io), 0);
	RUN_UNTIL(f->base, f->a.ready);
	assert_int_equal(weft_io_info(f->a.io)->local.ip.b[3], 77);
	assert_int_equal(getsockopt(weft_io_fd(f->a.io), SOL_SOCKET, SO_KEEPALIVE, &v, &n), 0);
	assert_int_equal(v, 1);
	d.prepare = refuse;
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->b, &f->b.io), -EPERM);
	assert_null(f->b.io);
	close(l);
}

static void test_dial_timeout(void **state)
{
	struct fix *f = *state;
	struct weft_dial d = {.connect_ms = 60};
	struct sockaddr_storage ss;
	int l = socket(AF_INET, SOCK_STREAM, 0), fill[8];
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(ss);

	/* a full backlog drops SYNs */
	assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 0), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&ss, &n), 0);
	assert_int_equal(weft_sockaddr_from_kernel(&ss, &d.to), 0);
	for (int i = 0; i < 8; i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)connect(fill[i], (struct sockaddr *)&ss, n);
	}
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->a, &f->a.io), 0);
	RUN_UNTIL(f->base, f->a.closed);
	assert_int_equal(f->a.why, WEFT_IO_TIMEOUT);
	assert_int_equal(f->a.err, ETIMEDOUT);
	for (int i = 0; i < 8; i++)
		close(fill[i]);
	close(l);
}

static void test_dial_unix(void **state)
{
	struct fix *f = *state;
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct weft_dial d = {0};
	char dir[] = "/tmp/weft-io-XXXXXX", b[8];
	int l = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_non_null(mkdtemp(dir));
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
	d.unix_path = sa.sun_path;
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->b, &f->b.io), 0);
	RUN_UNTIL(f->base, f->b.closed);
	assert_int_equal(f->b.why, WEFT_IO_REFUSED);
	assert_int_equal(f->b.err, ENOENT);
	assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 4), 0);
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->a, &f->a.io), 0);
	say(&f->a, "unix");
	weft_io_want_drained(f->a.io);
	RUN_UNTIL(f->base, f->a.drained);
	assert_int_equal(f->a.ready, 1);
	f->fd = accept(l, NULL, NULL);
	assert_int_equal(recv(f->fd, b, sizeof(b), 0), 4);
	assert_string_equal(weft_io_info(f->a.io)->unix_path, sa.sun_path);
	assert_int_equal(weft_io_info(f->a.io)->remote.ip.family, 0);
	close(l);
	unlink(sa.sun_path);
	rmdir(dir);
}

/* ---- closing */

static void test_close_after_flush(void **state)
{
	struct fix *f = *state;
	size_t n = 3 << 20, got = 0;
	char *big = calloc(1, n), b[65536];
	ssize_t k;
	int fd;

	one(f);
	fd = weft_io_fd(f->a.io);
	evbuffer_add(weft_io_out(f->a.io), big, n);
	weft_io_close_after_flush(f->a.io, 5000);
	f->a.io = NULL;
	/* late bytes of the peer do not turn it into a reset */
	assert_int_equal(send(f->fd, "late", 4, 0), 4);
	do {
		event_base_loop(f->base, EVLOOP_NONBLOCK);
		k = recv(f->fd, b, sizeof(b), 0);
		got += k > 0 ? (size_t)k : 0;
	} while (k > 0 || (k < 0 && errno == EAGAIN));
	assert_int_equal(k, 0);
	assert_int_equal(got, n);
	assert_int_equal(fcntl(fd, F_GETFD), 0 | FD_CLOEXEC); /* lingers */
	close(f->fd);
	f->fd = -1;
	RUN_UNTIL(f->base, fcntl(fd, F_GETFD) < 0);
	assert_int_equal(f->a.closed + f->a.readable, 0);
	free(big);
}

static void test_close_after_flush_timeout(void **state)
{
	struct fix *f = *state;
	size_t n = 30 << 20;
	char *big = calloc(1, n);
	int fd;

	one(f);
	fd = weft_io_fd(f->a.io);
	evbuffer_add(weft_io_out(f->a.io), big, n);
	weft_io_close_after_flush(f->a.io, 50);
	f->a.io = NULL;
	RUN_UNTIL(f->base, fcntl(fd, F_GETFD) < 0);
	free(big);
}

static void test_free_unwritten_resets(void **state)
{
	struct fix *f = *state;
	char b[8];
	ssize_t n;

	one(f);
	evbuffer_add(weft_io_out(f->a.io), "x", 1);
	weft_io_free(f->a.io);
	f->a.io = NULL;
	fcntl(f->fd, F_SETFL, 0);
	n = recv(f->fd, b, sizeof(b), 0);
	assert_int_equal(n, -1);
	assert_int_equal(errno, ECONNRESET);
}

/* ---- other kinds */

struct kind_state {
	int writes, reads_on, shut, destroyed;
	size_t taken;
	bool *gone;
};

static void k_write(struct weft_io *io)
{
	struct kind_state *k = weft_io_state(io);
	size_t n = evbuffer_get_length(weft_io_out(io));

	k->writes++;
	n = n < 4 ? n : 4; /* takes four bytes at a time */
	evbuffer_drain(weft_io_out(io), n);
	k->taken += n;
	weft_io_tell_drained(io);
}

static void k_read(struct weft_io *io, bool on)
{
	((struct kind_state *)weft_io_state(io))->reads_on = on;
}

static void k_shutdown(struct weft_io *io)
{
	((struct kind_state *)weft_io_state(io))->shut++;
}

static void k_destroy(struct weft_io *io, bool reset)
{
	*((struct kind_state *)weft_io_state(io))->gone = true;
}

static const struct weft_io_kind kind = {k_write, k_read, k_shutdown, k_destroy};

static void test_kind(void **state)
{
	struct fix *f = *state;
	struct kind_state *k;
	bool gone = false;
	void *st;

	f->a.io = weft_io_make(f->base, &kind, sizeof(*k), &st, &peer_ops, &f->a);
	k = st;
	k->gone = &gone;
	assert_int_equal(weft_io_fd(f->a.io), -1);
	say(&f->a, "0123456789");
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(k->writes, 0); /* not ready */
	weft_io_tell_ready(f->a.io);
	assert_int_equal(f->a.ready, 0);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(f->a.ready, 1);
	assert_int_equal(k->reads_on, 1);
	assert_int_equal(k->taken, 4);
	weft_io_shutdown(f->a.io);
	for (int i = 0; i < 3; i++) {
		weft_io_flush(f->a.io);
		event_base_loop(f->base, EVLOOP_NONBLOCK);
	}
	assert_int_equal(k->taken, 10);
	assert_int_equal(k->shut, 1);
	evbuffer_add(weft_io_in(f->a.io), "abc", 3);
	weft_io_tell_readable(f->a.io, false);
	assert_int_equal(f->a.got, 0);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(f->a.got, 3);
	weft_io_pause(f->a.io);
	assert_int_equal(k->reads_on, 0);
	evbuffer_add(weft_io_in(f->a.io), "def", 3);
	weft_io_tell_readable(f->a.io, true);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(f->a.got, 3);
	weft_io_resume(f->a.io);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(f->a.got, 6);
	assert_true(f->a.eof);
	weft_io_tell_closed(f->a.io, WEFT_IO_RESET, ECONNRESET, "stream reset");
	assert_int_equal(f->a.closed, 0);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(f->a.closed, 1);
	assert_string_equal(f->a.detail, "stream reset");
	assert_true(gone);
}

/* An io may outlive the thread it was made on, and that thread's list of loops and spares. */
static void *outlived(void *arg)
{
	struct fix *f = arg;
	int fd;

	both(f);
	say(&f->a, "hello");
	RUN_UNTIL(f->base, f->b.got == 5);
	fix_pair(&f->fd, &fd);
	/* nobody's any more: it ends with the thread */
	weft_io_close_after_flush(weft_io_new(f->base, fd, NULL, NULL, &peer_ops, NULL), 60000);
	return NULL;
}

static void test_outlives_thread(void **state)
{
	struct fix *f = *state;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, outlived, f), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_int_equal(read(f->fd, &(char){0}, 1), 0);
	say(&f->b, "back");
	RUN_UNTIL(f->base, f->a.got == 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hello, up, down),
		cmocka_unit_test_setup_teardown(test_one_write, up, down),
		cmocka_unit_test_setup_teardown(test_big_both_ways, up, down),
		cmocka_unit_test_setup_teardown(test_half_close, up, down),
		cmocka_unit_test_setup_teardown(test_reset_seen, up, down),
		cmocka_unit_test_setup_teardown(test_reset_seen_paused, up, down),
		cmocka_unit_test_setup_teardown(test_reset_after_eof, up, down),
		cmocka_unit_test_setup_teardown(test_answer_before_reset, up, down),
		cmocka_unit_test_setup_teardown(test_pause_counts, up, down),
		cmocka_unit_test_setup_teardown(test_stuffed, up, down),
		cmocka_unit_test_setup_teardown(test_free_in_callbacks, up, down),
		cmocka_unit_test_setup_teardown(test_already, up, down),
		cmocka_unit_test_setup_teardown(test_set_ops_offers, up, down),
		cmocka_unit_test_setup_teardown(test_dial, up, down),
		cmocka_unit_test_setup_teardown(test_dial_refused, up, down),
		cmocka_unit_test_setup_teardown(test_dial_bind_and_prepare, up, down),
		cmocka_unit_test_setup_teardown(test_dial_timeout, up, down),
		cmocka_unit_test_setup_teardown(test_dial_unix, up, down),
		cmocka_unit_test_setup_teardown(test_close_after_flush, up, down),
		cmocka_unit_test_setup_teardown(test_close_after_flush_timeout, up, down),
		cmocka_unit_test_setup_teardown(test_free_unwritten_resets, up, down),
		cmocka_unit_test_setup_teardown(test_kind, up, down),
		cmocka_unit_test_setup_teardown(test_outlives_thread, up, down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
