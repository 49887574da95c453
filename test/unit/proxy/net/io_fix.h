/* Shared by the tests of weft_io: two ios on the ends of one loopback connection, and a loop that
 * runs until something is so. */
#pragma once
#include "proxy/net/io.h"

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

enum { FIX_SECS = 10 };

struct peer { /* owner of an io under test */
	struct weft_io *io;
	int ready, readable, writable, drained, closed;
	enum weft_io_end why;
	enum weft_tls_fault fault;
	int err;
	char detail[512];
	uint64_t got, sum; /* bytes taken and a checksum that knows their order */
	bool eof, keep;	   /* keep: leaves what came in `in` */
	bool free_in_readable, free_in_ready, free_in_writable;
};

static inline uint64_t mix(uint64_t sum, uint8_t b)
{
	return sum * 1099511628211u + b;
}

static inline void peer_free(struct peer *p)
{
	weft_io_free(p->io);
	p->io = NULL;
}

static inline void peer_take(struct peer *p)
{
	struct evbuffer *in = weft_io_in(p->io);
	uint8_t b[4096];
	int n;

	while ((n = evbuffer_remove(in, b, sizeof(b))) > 0) {
		for (int i = 0; i < n; i++)
			p->sum = mix(p->sum, b[i]);
		p->got += (uint64_t)n;
	}
}

static inline void peer_ready(struct weft_io *io)
{
	struct peer *p = weft_io_owner(io);

	p->ready++;
	if (p->free_in_ready)
		peer_free(p);
}

static inline void peer_readable(struct weft_io *io)
{
	struct peer *p = weft_io_owner(io);

	p->readable++;
	p->eof = weft_io_eof(io);
	if (p->free_in_readable)
		peer_free(p);
	else if (!p->keep)
		peer_take(p);
}

static inline void peer_writable(struct weft_io *io)
{
	struct peer *p = weft_io_owner(io);

	p->writable++;
	if (p->free_in_writable)
		peer_free(p);
}

static inline void peer_drained(struct weft_io *io)
{
	((struct peer *)weft_io_owner(io))->drained++;
}

static inline void peer_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct peer *p = weft_io_owner(io);

	p->closed++;
	p->why = why;
	p->err = err;
	p->fault = weft_io_tls_fault(io);
	strncpy(p->detail, weft_io_detail(io), sizeof(p->detail) - 1);
	peer_free(p);
}

static const struct weft_io_ops peer_ops = {.ready = peer_ready,
					    .readable = peer_readable,
					    .writable = peer_writable,
					    .drained = peer_drained,
					    .closed = peer_closed};

static inline int fix_listen(struct weft_sockaddr *ret)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 16), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&ss, &n), 0);
	assert_int_equal(weft_sockaddr_from_kernel(&ss, ret), 0);
	return l;
}

static inline void fix_pair(int *a, int *b)
{
	struct weft_sockaddr at;
	struct sockaddr_storage ss;
	int l = fix_listen(&at);
	socklen_t n = weft_sockaddr_to_kernel(&at, 0, &ss);

	*a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*a, (struct sockaddr *)&ss, n), 0);
	*b = accept(l, NULL, NULL);
	assert_true(*b >= 0);
	fcntl(*a, F_SETFL, O_NONBLOCK);
	fcntl(*b, F_SETFL, O_NONBLOCK);
	close(l);
}

static inline void fix_tick(evutil_socket_t fd, short what, void *arg)
{
	*(bool *)arg = true;
}

/* Runs the loop until cond is true; fails the test after FIX_SECS. */
#define RUN_UNTIL(base, cond)                                                                      \
	do {                                                                                       \
		struct timeval limit_ = {FIX_SECS, 0};                                             \
		bool late_ = false;                                                                \
		struct event *t_ = evtimer_new(base, fix_tick, &late_);                            \
		event_add(t_, &limit_);                                                            \
		while (!(cond) && !late_)                                                          \
			event_base_loop(base, EVLOOP_ONCE);                                        \
		event_free(t_);                                                                    \
		if (!(cond))                                                                       \
			fail_msg("%s:%d: not in time: %s", __FILE__, __LINE__, #cond);             \
	} while (0)

/* A few turns, for things that must not happen. */
static inline void run_a_while(struct event_base *base, int ms)
{
	struct timeval tv = {0, (suseconds_t)ms * 1000};

	event_base_loopexit(base, &tv);
	event_base_dispatch(base);
}
