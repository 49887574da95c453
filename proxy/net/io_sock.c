#include "proxy/net/io_priv.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	CHAIN = 48,	  /* libevent's head of a chain, so that chunks are powers of two */
	SPILL = 16 << 10, /* small messages are read here and copied to where they fit */
	BIG = 16 << 10,	  /* a full small read: from now on straight into chunks */
	GROW_MAX = 2,	  /* BIG << GROW_MAX = 64 KiB */
	WRITE_VECS = 64,
	WRITE_TURN = 1 << 20, /* written in a turn before others have theirs */
	CONNECT_MS = 5000,
	HANDSHAKE_MS = 10000,
};

static __thread uint8_t spill[SPILL];

static void on_read(evutil_socket_t fd, short what, void *arg);
static void on_write(evutil_socket_t fd, short what, void *arg);

/* ---- events. The write event waits for room, or, where nothing is read, watches for a reset. */

static void wr_off(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	if (s->wr_mode == WEFT_WR_OFF)
		return;
	event_del(s->wr);
	s->wr_mode = WEFT_WR_OFF;
}

static void rd_off(struct weft_sock *s)
{
	if (!s->rd_on)
		return;
	event_del(&s->rd);
	s->rd_on = false;
}

static void wr_mode(struct weft_io *io, enum weft_sock_wr mode)
{
	struct weft_sock *s = weft_sock_of(io);
	short what = EV_WRITE | EV_PERSIST | (mode == WEFT_WR_WATCH ? EV_ET : 0);

	if (s->wr_mode == mode)
		return;
	wr_off(io);
	if (mode == WEFT_WR_OFF)
		return;
	if (!s->wr)
		s->wr = weft_xcalloc(1, sizeof(*s->wr));
	event_assign(s->wr, io->loop->base, s->fd, what, on_write, io);
	if (event_add(s->wr, NULL) < 0)
		weft_io_tell_closed(io, WEFT_IO_RESET, errno ? errno : ENOMEM, NULL);
	else
		s->wr_mode = (uint8_t)mode;
}

static void rd_on(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	if (s->rd_on)
		return;
	if (s->wr_mode == WEFT_WR_WATCH) /* edge and level do not go together on one socket */
		wr_off(io);
	if (event_add(&s->rd, NULL) < 0)
		weft_io_tell_closed(io, WEFT_IO_RESET, errno ? errno : ENOMEM, NULL);
	else
		s->rd_on = true;
}

/* Nobody reads: errors are still to be seen. */
static void rd_stop(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	rd_off(s);
	if (s->wr_mode == WEFT_WR_OFF && !io->dead)
		wr_mode(io, WEFT_WR_WATCH);
}

void weft_sock_quiet(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	rd_off(s);
	wr_off(io);
	weft_race_free(s->race);
	s->race = NULL;
}

static void fail(struct weft_io *io, enum weft_io_end why, int err)
{
	weft_sock_quiet(io);
	weft_io_timer(io, 0, NULL);
	weft_io_tell_closed(io, why, err, NULL);
}

/* ---- reading */

/* Small messages, by way of the thread's spill: a chunk of their size is cheaper than the room that
 * would have to be kept ready. */
static ssize_t read_small(struct weft_io *io, struct weft_sock *s)
{
	ssize_t n = recv(s->fd, spill, sizeof(spill), 0);

	if (n <= 0)
		return n < 0 ? -errno : 0;
	if (evbuffer_add(weft_io_in(io), spill, (size_t)n))
		return -ENOMEM;
	if ((size_t)n == sizeof(spill))
		s->grow = 1;
	return n;
}

static ssize_t read_big(struct weft_io *io, struct weft_sock *s)
{
	size_t want = ((size_t)BIG << (s->grow - 1)) - CHAIN;
	struct evbuffer *in = weft_io_in(io);
	struct evbuffer_iovec own;
	ssize_t n;

	if (evbuffer_reserve_space(in, (ev_ssize_t)want, &own, 1) != 1)
		return -ENOMEM;
	if (own.iov_len > want)
		own.iov_len = want;
	n = read(s->fd, own.iov_base, own.iov_len);
	if (n <= 0) {
		int e = n < 0 ? errno : 0;

		own.iov_len = 0;
		evbuffer_commit_space(in, &own, 1);
		return -e;
	}
	own.iov_len = (size_t)n;
	evbuffer_commit_space(in, &own, 1);
	if ((size_t)n >= want && s->grow <= GROW_MAX)
		s->grow++;
	else if ((size_t)n < want / 4)
		s->grow--;
	return n;
}

static void read_failed(struct weft_io *io, int err)
{
	struct weft_sock *s = weft_sock_of(io);

	if (err == EAGAIN || err == EINTR)
		return;
	if (err == EPROTO && s->tls)
		fail(io, WEFT_IO_TLS, err);
	else
		fail(io, WEFT_IO_RESET, s->werr ? s->werr : err);
}

static void continue_handshake(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);
	int r = weft_tls_sess_handshake(s->tls);

	if (r < 0) {
		fail(io, r == -EPROTO ? WEFT_IO_TLS : WEFT_IO_RESET, -r);
		return;
	}
	if (weft_tls_sess_pending(s->tls))
		wr_mode(io, WEFT_WR_WAIT);
	if (r == 0)
		return;
	s->state = WEFT_SOCK_OPEN;
	weft_io_timer(io, 0, NULL);
	io->info.alpn = weft_tls_sess_alpn(s->tls);
	if (!io->info.sni[0])
		io->info.sni = weft_tls_sess_sni(s->tls);
	weft_io_deliver_ready(io);
	if (!io->freed && (io->eof || (io->in && evbuffer_get_length(io->in) > 0)))
		weft_io_todo(io, WEFT_IO_T_READ);
}

static void read_ended(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	if (s->werr)
		fail(io, WEFT_IO_RESET, s->werr);
	else
		rd_stop(io);
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct weft_io *io = arg;
	struct weft_sock *s = weft_sock_of(io);
	ssize_t n;

	weft_io_hold(io);
	if (s->state == WEFT_SOCK_HANDSHAKE) {
		continue_handshake(io);
	} else if (!io->reading) {
		rd_stop(io);
	} else {
		n = s->tls    ? weft_tls_sess_read(s->tls)
		    : s->grow ? read_big(io, s)
			      : read_small(io, s);
		if (n > 0)
			io->stat.rx += (uint64_t)n;
		else if (n == 0)
			io->eof = true;
		if (n >= 0)
			weft_io_deliver(io);
		else
			read_failed(io, (int)-n);
		if (!io->freed && io->eof)
			read_ended(io);
	}
	weft_io_release(io);
}

static void sock_want_read(struct weft_io *io, bool on)
{
	struct weft_sock *s = weft_sock_of(io);

	/* off: the event stays until it fires in vain: short pauses cost nothing */
	if (on && !s->splice && s->state == WEFT_SOCK_OPEN)
		rd_on(io);
}

/* ---- writing */

static ssize_t send_some(int fd, struct evbuffer *b, bool *ret_short)
{
	struct evbuffer_iovec v[WRITE_VECS];
	int n = evbuffer_peek(b, -1, NULL, v, WRITE_VECS);
	struct msghdr m = {.msg_iov = (struct iovec *)v};
	size_t want = 0;
	ssize_t k;

	_Static_assert(sizeof(struct evbuffer_iovec) == sizeof(struct iovec), "one form");
	m.msg_iovlen = n < WRITE_VECS ? (size_t)n : WRITE_VECS;
	for (size_t i = 0; i < m.msg_iovlen; i++)
		want += v[i].iov_len;
	if (n == 1)
		k = send(fd, v[0].iov_base, v[0].iov_len, MSG_NOSIGNAL);
	else
		k = sendmsg(fd, &m, MSG_NOSIGNAL);
	if (k < 0)
		return -errno;
	evbuffer_drain(b, (size_t)k);
	*ret_short = (size_t)k < want;
	return k;
}

/* What the peer said before it went may still wait in the socket: read on, then say so. */
static void write_failed(struct weft_io *io, int err)
{
	struct weft_sock *s = weft_sock_of(io);

	s->werr = err;
	if (io->out)
		evbuffer_drain(io->out, evbuffer_get_length(io->out));
	if (io->reading && !io->closing && err != EPROTO) {
		wr_off(io);
		rd_on(io);
		return;
	}
	fail(io, err == EPROTO ? WEFT_IO_TLS : WEFT_IO_RESET, err);
}

static int write_plain(struct weft_io *io, struct weft_sock *s)
{
	size_t done = 0;
	bool full = false;

	while (weft_io_out_len(io) > 0) {
		ssize_t k;

		if (full || done >= WRITE_TURN)
			return -EAGAIN;
		k = send_some(s->fd, io->out, &full);
		if (k == -EINTR)
			continue;
		if (k < 0)
			return (int)k;
		io->stat.tx += (uint64_t)k;
		done += (size_t)k;
	}
	return 0;
}

static void sock_want_write(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);
	int r;

	if (s->wr_mode == WEFT_WR_WAIT || s->splice || s->race)
		return;
	if (s->werr) {
		if (io->out)
			evbuffer_drain(io->out, evbuffer_get_length(io->out));
		return;
	}
	r = s->tls ? weft_tls_sess_write(s->tls, &io->stat.tx) : write_plain(io, s);
	if (r == 0) {
		if (s->wr_mode == WEFT_WR_WAIT)
			wr_off(io);
	} else if (r == -EAGAIN) {
		wr_mode(io, WEFT_WR_WAIT);
	} else {
		write_failed(io, -r);
	}
}

static void sock_shutdown(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	if (s->werr)
		return;
	if (s->tls && weft_tls_sess_shutdown(s->tls) == -EAGAIN) {
		io->fin_done = false; /* again when the close_notify is out */
		wr_mode(io, WEFT_WR_WAIT);
		return;
	}
	(void)shutdown(s->fd, SHUT_WR); /* ENOTCONN: it is gone already, and reading tells */
}

static int sock_error(int fd)
{
	int e = 0;
	socklen_t n = sizeof(e);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0 ? errno : e;
}

static void handshake_timeout(struct weft_io *io)
{
	weft_io_set_detail(io, "TLS_error:|handshake timeout:TLS_error_end");
	fail(io, WEFT_IO_TIMEOUT, ETIMEDOUT);
}

static void connect_timeout(struct weft_io *io)
{
	fail(io, WEFT_IO_TIMEOUT, ETIMEDOUT);
}

static void begin_handshake(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);

	s->state = WEFT_SOCK_HANDSHAKE;
	weft_io_timer(io, s->handshake_ms ? s->handshake_ms : HANDSHAKE_MS, handshake_timeout);
	rd_on(io);
	continue_handshake(io);
}

static void connected(struct weft_io *io)
{
	struct weft_sock *s = weft_sock_of(io);
	int e = sock_error(s->fd);

	wr_off(io);
	if (e) {
		fail(io, WEFT_IO_REFUSED, e);
		return;
	}
	weft_io_timer(io, 0, NULL);
	io->info.connected_ns = weft_now_ns();
	if (s->tls) {
		begin_handshake(io);
		return;
	}
	s->state = WEFT_SOCK_OPEN;
	weft_io_deliver_ready(io);
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
	struct weft_io *io = arg;
	struct weft_sock *s = weft_sock_of(io);
	int e;

	weft_io_hold(io);
	if (s->state == WEFT_SOCK_CONNECT) {
		connected(io);
	} else if (s->wr_mode == WEFT_WR_WATCH) {
		e = sock_error(fd);
		if (e)
			fail(io, WEFT_IO_RESET, e);
	} else {
		wr_off(io);
		if (s->state == WEFT_SOCK_HANDSHAKE) {
			continue_handshake(io);
		} else {
			sock_want_write(io);
			weft_io_marks(io);
			if (!io->freed && s->wr_mode == WEFT_WR_OFF && !s->rd_on && !io->dead)
				rd_stop(io);
		}
	}
	weft_io_release(io);
}

static void sock_destroy(struct weft_io *io, bool reset)
{
	static const struct linger now = {1, 0};
	struct weft_sock *s = weft_sock_of(io);

	weft_splice_cancel(s->splice);
	weft_sock_quiet(io);
	free(s->wr);
	if (s->tls)
		weft_tls_sess_free(s->tls, !reset && s->state == WEFT_SOCK_OPEN && !s->werr &&
						   !io->eof); /* who left needs no farewell */
	s->tls = NULL;
	if (reset)
		(void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

static const struct weft_io_kind sock_kind = {
	.want_write = sock_want_write,
	.want_read = sock_want_read,
	.shutdown = sock_shutdown,
	.destroy = sock_destroy,
};

void weft_sock_await(struct weft_io *io, unsigned ms)
{
	weft_io_timer(io, ms ? ms : CONNECT_MS, connect_timeout);
	if (!weft_sock_of(io)->race)
		wr_mode(io, WEFT_WR_WAIT);
}

static void take_fd(struct weft_io *io, int fd)
{
	struct weft_sock *s = weft_sock_of(io);
	int on = 1;

	s->fd = fd;
	event_assign(&s->rd, io->loop->base, fd, EV_READ | EV_PERSIST, on_read, io);
	if (fd >= 0) /* unix: has none */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void weft_sock_won(struct weft_io *io, int fd, const struct weft_sockaddr *to)
{
	weft_io_hold(io);
	weft_sock_quiet(io);
	take_fd(io, fd);
	io->info.remote = io->info.direct_remote = *to;
	connected(io);
	weft_io_release(io);
}

void weft_sock_lost(struct weft_io *io, int err)
{
	weft_io_hold(io);
	fail(io, WEFT_IO_REFUSED, err);
	weft_io_release(io);
}

/* ---- making */

struct weft_io *weft_sock_make(struct event_base *base, int fd, const struct weft_io_tls *tls,
			       bool server, const struct weft_io_ops *ops, void *owner)
{
	void *state;
	struct weft_io *io =
		weft_io_make(base, &sock_kind, sizeof(struct weft_sock), &state, ops, owner);
	struct weft_sock *s = state;

	io->sock = true;
	take_fd(io, fd);
	if (tls) {
		s->handshake_ms = tls->handshake_ms;
		s->tls = weft_tls_sess_new(io, tls, server);
	}
	return io;
}

struct weft_io *weft_io_new(struct event_base *base, int fd, const struct weft_io_tls *tls,
			    struct evbuffer *already, const struct weft_io_ops *ops, void *owner)
{
	struct weft_io *io = weft_sock_make(base, fd, tls, true, ops, owner);
	struct weft_sock *s = weft_sock_of(io);

	if (tls && !s->tls) {
		weft_io_tell_closed(io, WEFT_IO_TLS, ENOMEM, "TLS_error:|no session:TLS_error_end");
		return io;
	}
	if (tls) {
		s->state = WEFT_SOCK_HANDSHAKE;
		weft_io_timer(io, s->handshake_ms ? s->handshake_ms : HANDSHAKE_MS,
			      handshake_timeout);
		rd_on(io);
		if (already && weft_tls_sess_feed(s->tls, already)) /* no op before we returned */
			event_active(&s->rd, EV_READ, 0);
		return io;
	}
	s->state = WEFT_SOCK_OPEN;
	if (already && evbuffer_get_length(already) > 0) {
		io->stat.rx += evbuffer_get_length(already);
		evbuffer_add_buffer(weft_io_in(io), already);
		weft_io_todo(io, WEFT_IO_T_READ);
	}
	io->ready = true;
	io->info.ready_ns = io->info.start_ns;
	weft_io_reading(io);
	return io;
}
