/* Streams to hosts of several addresses: who is tried when, who wins, what is left. */
#include "proxy/core/worker.h"
#include "proxy/net/race.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { HOLES = 4 };
struct place {
	int fd;
	struct weft_sockaddr at;
	int fill[HOLES]; /* of a hole: what its queue is full of */
};
struct seen {
	bool ready, closed;
	enum weft_io_end why;
	int err;
};

static int fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static struct place place(const char *ip, int backlog)
{
	struct place p = {.fill = {-1, -1, -1, -1}};
	struct sockaddr_storage ss;
	socklen_t n;

	assert_int_equal(weft_ip_parse(ip, &p.at.ip), 0);
	n = weft_sockaddr_to_kernel(&p.at, 0, &ss);
	p.fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(p.fd, (struct sockaddr *)&ss, n), 0);
	n = sizeof(ss);
	getsockname(p.fd, (struct sockaddr *)&ss, &n);
	assert_int_equal(weft_sockaddr_from_kernel(&ss, &p.at), 0);
	if (backlog >= 0)
		assert_int_equal(listen(p.fd, backlog), 0);
	return p;
}

/* A SYN to it gets no answer: its queue is full. */
static struct place hole(const char *ip)
{
	struct place p = place(ip, 0);
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&p.at, 0, &ss);

	for (int i = 0; i < HOLES; i++) {
		p.fill[i] = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)connect(p.fill[i], (struct sockaddr *)&ss, n);
	}
	return p;
}

static void leave(struct place *p)
{
	close(p->fd);
	for (int i = 0; i < HOLES; i++)
		if (p->fill[i] >= 0)
			close(p->fill[i]);
}

static void on_ready(struct weft_io *io)
{
	((struct seen *)weft_io_owner(io))->ready = true;
}

static void on_readable(struct weft_io *io)
{
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct seen *s = weft_io_owner(io);

	s->closed = true;
	s->why = why;
	s->err = err;
}

static const struct weft_io_ops ops = {
	.ready = on_ready, .readable = on_readable, .closed = on_closed};

static void until(struct event_base *base, const bool *a, const bool *b)
{
	uint64_t end = weft_now_ns() + 10000000000ull;
	struct timeval tv = {0, 5000};

	while (!*a && !*b && weft_now_ns() < end) {
		event_base_loopexit(base, &tv);
		event_base_loop(base, EVLOOP_ONCE);
	}
	assert_true(*a || *b);
}

static struct weft_io *dial(struct event_base *base, struct seen *s, const struct weft_dial *d,
			    struct place *const *v, size_t n)
{
	struct weft_race_try t[8] = {0};
	const struct weft_race_want want = {d, t, n};
	struct weft_io *io;

	for (size_t i = 0; i < n; i++)
		t[i].to = v[i]->at;
	assert_int_equal(weft_io_dial_race(base, &want, &ops, s, &io), 0);
	assert_int_equal(weft_io_fd(io), -1);
	until(base, &s->ready, &s->closed);
	return io;
}

static void goes_to(const struct weft_io *io, const struct place *p)
{
	assert_true(weft_sockaddr_eq(&weft_io_info(io)->remote, &p->at));
}

static void the_first_that_answers(void **state)
{
	struct event_base *base = event_base_new();
	struct place a = place("127.0.0.1", 8), b = place("127.0.0.1", 8);
	struct place *const v[] = {&a, &b};
	const struct weft_dial d = {.connect_ms = 8000};
	struct seen s = {0};
	struct weft_io *io = dial(base, &s, &d, v, 2);
	char buf[8];
	int c, before;

	assert_true(s.ready);
	goes_to(io, &a);
	/* the other one was not even tried */
	assert_int_equal(accept(b.fd, NULL, NULL), -1);
	evbuffer_add(weft_io_out(io), "hello", 5);
	weft_io_flush(io);
	for (int i = 0; i < 5; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
	c = accept(a.fd, NULL, NULL);
	assert_int_equal(read(c, buf, sizeof(buf)), 5);
	close(c);
	before = fds();
	weft_io_free(io);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(fds(), before - 1);
	leave(&a);
	leave(&b);
	event_base_free(base);
}

/* Who refuses is followed at once, who is silent after 300 ms, and is closed in the end. */
static void refused_and_silent(void **state)
{
	struct event_base *base = event_base_new();
	struct place shut = place("127.0.0.1", -1), mute = hole("127.0.0.1");
	struct place good = place("::1", 8);
	struct place *const v[] = {&shut, &mute, &good};
	const struct weft_dial d = {.connect_ms = 8000};
	struct seen s = {0};
	uint64_t t = weft_now_ns();
	int before = fds();
	struct weft_io *io = dial(base, &s, &d, v, 3);

	assert_true(s.ready);
	goes_to(io, &good);
	/* the loop's clock is a coarse one */
	assert_true(weft_now_ns() - t >= (WEFT_RACE_NEXT_MS - 50) * 1000000ull);
	assert_int_equal(fds(), before + 1);
	weft_io_free(io);
	leave(&shut);
	leave(&mute);
	leave(&good);
	event_base_free(base);
}

static void nobody_answers(void **state)
{
	struct event_base *base = event_base_new();
	struct place a = place("127.0.0.1", -1), b = place("127.0.0.1", -1), m = hole("127.0.0.1");
	struct place *const refuse[] = {&a, &b}, *const silent[] = {&a, &m};
	const struct weft_dial d = {.connect_ms = 400};
	struct seen s = {0};
	int before = fds();
	struct weft_io *io = dial(base, &s, &d, refuse, 2);

	assert_true(s.closed);
	assert_int_equal(s.why, WEFT_IO_REFUSED);
	assert_int_equal(s.err, ECONNREFUSED);
	weft_io_free(io);
	memset(&s, 0, sizeof(s));
	io = dial(base, &s, &d, silent, 2);
	assert_true(s.closed);
	assert_int_equal(s.why, WEFT_IO_TIMEOUT);
	weft_io_free(io);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(fds(), before);
	leave(&a);
	leave(&b);
	leave(&m);
	event_base_free(base);
}

static void given_up(void **state)
{
	struct event_base *base = event_base_new();
	struct place m = hole("127.0.0.1");
	struct weft_race_try v[2] = {{.to = m.at}, {.to = m.at}};
	const struct weft_dial d = {.connect_ms = 8000};
	const struct weft_race_want want = {&d, v, 2}, none = {&d, v, 0};
	struct seen s = {0};
	struct weft_io *io;
	int before = fds();

	assert_int_equal(weft_io_dial_race(base, &none, &ops, &s, &io), -EINVAL);
	assert_int_equal(weft_io_dial_race(base, &want, &ops, &s, &io), 0);
	event_base_loop(base, EVLOOP_NONBLOCK);
	weft_io_free(io);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(fds(), before);
	/* an address that is not ours to bind to */
	weft_ip_parse("203.0.113.1", &v[0].from.ip);
	v[1].from = v[0].from;
	assert_int_equal(weft_io_dial_race(base, &want, &ops, &s, &io), -EADDRNOTAVAIL);
	assert_int_equal(fds(), before);
	assert_false(s.ready || s.closed);
	leave(&m);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_that_answers),
		cmocka_unit_test(refused_and_silent),
		cmocka_unit_test(nobody_answers),
		cmocka_unit_test(given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
