#include "proxy/net/io_priv.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	PIPES = 16, /* kept by a thread */
	PIPE_BYTES = 1 << 20,
	PIPE_LESS = 256 << 10, /* where the user's share of pipe pages is used up */
	DEPTH = 4, /* pipes filled before they are emptied: fewer and longer turns wake fewer peers
		    */
	MORE = PIPE_LESS / 4, /* after as much there is most likely more in the socket */
	END = 2,
	SLOW_NS = 100000000,   /* a reader that lets us wait for longer */
	COPY_BYTES = 64 << 10, /* at once, where there is no pipe to be had */
};

struct pipe_pair {
	int rd, wr;
	size_t size, held;
};
struct side {
	struct weft_splice *s;
	struct weft_io *io;
	struct event rd, wr;
	int fd;
	/* towards this side: what waits in pipes, oldest first, the other's EOF, and that it was
	 * passed on */
	struct pipe_pair pipe[DEPTH];
	uint8_t n_pipe, depth; /* depth: as many may be filled; one where the reader is slow */
	uint64_t full_ns;      /* since when the socket takes no more */
	bool eof, shut;
	bool rd_on, wr_on;
};
struct weft_splice {
	struct side v[2];
	void (*done)(void *owner, enum weft_io_end a, enum weft_io_end b);
	void *owner;
	struct event timer;
	unsigned idle_ms;
	uint64_t last_ns;
};

static __thread struct pipe_pair spares[PIPES];
static __thread unsigned n_spares;

void weft_pipes_done(void)
{
	while (n_spares > 0) {
		n_spares--;
		close(spares[n_spares].rd);
		close(spares[n_spares].wr);
	}
}

static int pipe_take(struct pipe_pair *p)
{
	int fd[2], size;

	if (n_spares > 0) {
		*p = spares[--n_spares];
		return 0;
	}
	if (pipe2(fd, O_NONBLOCK | O_CLOEXEC) < 0)
		return -errno;
	size = fcntl(fd[1], F_SETPIPE_SZ, PIPE_BYTES);
	if (size < 0)
		size = fcntl(fd[1], F_SETPIPE_SZ, PIPE_LESS);
	if (size < 0)
		size = fcntl(fd[1], F_GETPIPE_SZ);
	*p = (struct pipe_pair){fd[0], fd[1], size > 0 ? (size_t)size : 4096, 0};
	return 0;
}

/* Only an empty one is used again. */
static void pipe_give(const struct pipe_pair *p)
{
	if (p->held == 0 && n_spares < PIPES && weft_io_thread_watch()) {
		spares[n_spares++] = *p;
		return;
	}
	close(p->rd);
	close(p->wr);
}

static struct side *other(struct side *d)
{
	return d == &d->s->v[0] ? &d->s->v[1] : &d->s->v[0];
}

static void ev_set(struct event *ev, bool *on, bool want)
{
	if (*on == want)
		return;
	if (want)
		event_add(ev, NULL);
	else
		event_del(ev);
	*on = want;
}

void weft_splice_cancel(struct weft_splice *s)
{
	if (!s)
		return;
	event_del(&s->timer);
	for (int i = 0; i < 2; i++) {
		struct side *d = &s->v[i];

		ev_set(&d->rd, &d->rd_on, false);
		ev_set(&d->wr, &d->wr_on, false);
		while (d->n_pipe > 0)
			pipe_give(&d->pipe[--d->n_pipe]);
		weft_sock_of(d->io)->splice = NULL;
	}
	free(s);
}

static void finish(struct weft_splice *s, enum weft_io_end a, enum weft_io_end b)
{
	void (*done)(void *, enum weft_io_end, enum weft_io_end) = s->done;
	void *owner = s->owner;

	weft_splice_cancel(s);
	done(owner, a, b);
}

static void reset_by(struct side *d)
{
	bool a = d == &d->s->v[0];

	finish(d->s, a ? WEFT_IO_RESET : WEFT_IO_EOF, a ? WEFT_IO_EOF : WEFT_IO_RESET);
}

/* What still stands in front of the pipes, then the pipes. 1: all gone, 0: socket full, -errno. */
static int push(struct side *to)
{
	struct evbuffer *out = to->io->out;

	while (out && evbuffer_get_length(out) > 0) {
		int n = evbuffer_write(out, to->fd);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		to->io->stat.tx += (uint64_t)n;
	}
	weft_evbuffer_give(out);
	to->io->out = NULL;
	while (to->n_pipe > 0) {
		struct pipe_pair *p = &to->pipe[0];
		ssize_t n = splice(p->rd, NULL, to->fd, NULL, p->held,
				   SPLICE_F_MOVE | SPLICE_F_NONBLOCK |
					   (to->n_pipe > 1 ? SPLICE_F_MORE : 0));

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (n == 0)
			return -EPIPE;
		p->held -= (size_t)n;
		to->io->stat.tx += (uint64_t)n;
		if (p->held > 0)
			continue;
		pipe_give(p);
		memmove(p, p + 1, --to->n_pipe * sizeof(*p));
	}
	return 1;
}

/* True: it is over, s is gone. */
static bool pass_eof(struct side *to)
{
	struct side *from = other(to);

	if (!to->eof || to->shut)
		return false;
	to->shut = true;
	to->io->fin_asked = to->io->fin_done = true;
	if (shutdown(to->fd, SHUT_WR) < 0 && errno != ENOTCONN) {
		reset_by(to);
		return true;
	}
	if (!from->shut)
		return false;
	finish(to->s, WEFT_IO_EOF, WEFT_IO_EOF);
	return true;
}

static void on_wr(evutil_socket_t fd, short what, void *arg)
{
	struct side *to = arg, *from = other(to);
	int r = push(to);

	to->s->last_ns = weft_now_ns();
	if (r < 0) {
		reset_by(to);
		return;
	}
	if (r == 0)
		return;
	if (to->s->last_ns - to->full_ns > SLOW_NS)
		to->depth = 1;
	ev_set(&to->wr, &to->wr_on, false);
	if (!to->eof)
		ev_set(&from->rd, &from->rd_on, true);
	pass_eof(to);
}

/* Into one pipe more; near the limit of open files through memory. As read(2), with errno. */
static ssize_t load(struct side *from, struct side *to)
{
	struct pipe_pair *p = &to->pipe[to->n_pipe];
	ssize_t n;
	int e;

	if (pipe_take(p) < 0) {
		if (to->n_pipe == 0)
			return evbuffer_read(weft_io_out(to->io), from->fd, COPY_BYTES);
		errno = EAGAIN; /* what is in the pipes goes first */
		return -1;
	}
	n = splice(from->fd, NULL, p->wr, NULL, p->size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (n > 0) {
		p->held = (size_t)n;
		to->n_pipe++;
	} else {
		e = errno;
		pipe_give(p);
		errno = e;
	}
	return n;
}

static void ended(struct side *from, struct side *to)
{
	to->eof = true;
	from->io->eof = true;
	ev_set(&from->rd, &from->rd_on, false);
	pass_eof(to);
}

/* What from's socket holds, as far as the pipes go. 1: it has more, 0: most likely not, END,
 * -errno.
 */
static int pull(struct side *from, struct side *to, bool *ret_any)
{
	ssize_t n;

	do {
		n = load(from, to);
		if (n < 0)
			return errno == EINTR ? -EAGAIN : -errno;
		if (n == 0)
			return END;
		*ret_any = true;
		from->io->stat.rx += (uint64_t)n;
	} while (n >= MORE && to->n_pipe > 0 && to->n_pipe < to->depth);
	return n >= MORE;
}

static void on_rd(evutil_socket_t fd, short what, void *arg)
{
	struct side *from = arg, *to = other(from);
	bool any = false;
	int r = pull(from, to, &any), w = any ? push(to) : 1;

	to->s->last_ns = weft_now_ns();
	if (w < 0) {
		reset_by(to);
	} else if (r < 0 && r != -EAGAIN) { /* what came before is passed on as far as it goes */
		reset_by(from);
	} else if (r == END && !any) {
		ended(from, to);
	} else {
		if (r == 1 && to->depth < DEPTH)
			to->depth++;
		if (w == 0) {
			to->full_ns = to->s->last_ns;
			ev_set(&from->rd, &from->rd_on, false);
			ev_set(&to->wr, &to->wr_on, true);
		}
	}
}

static void timer_set(struct weft_splice *s, uint64_t ns)
{
	struct timeval tv = {(time_t)(ns / 1000000000), (suseconds_t)(ns % 1000000000 / 1000)};

	event_add(&s->timer, &tv);
}

static void on_idle(evutil_socket_t fd, short what, void *arg)
{
	struct weft_splice *s = arg;
	uint64_t idle = weft_now_ns() - s->last_ns, max = (uint64_t)s->idle_ms * 1000000;

	if (idle >= max)
		finish(s, WEFT_IO_TIMEOUT, WEFT_IO_TIMEOUT);
	else
		timer_set(s, max - idle + 1000000);
}

static bool can(const struct weft_io *io)
{
	return io->sock && !weft_sock_of(io)->tls && !weft_sock_of(io)->splice &&
	       weft_sock_of(io)->state == WEFT_SOCK_OPEN && !io->dead && !io->freed &&
	       !weft_sock_of(io)->werr;
}

static void side_init(struct weft_splice *s, int i, struct weft_io *io)
{
	struct side *d = &s->v[i];

	d->s = s;
	d->io = io;
	d->fd = weft_sock_of(io)->fd;
	d->depth = 1;
	event_assign(&d->rd, io->loop->base, d->fd, EV_READ | EV_PERSIST, on_rd, d);
	event_assign(&d->wr, io->loop->base, d->fd, EV_WRITE | EV_PERSIST, on_wr, d);
	weft_sock_quiet(io);
	io->todo &= ~(unsigned)(WEFT_IO_T_READ | WEFT_IO_T_FLUSH);
	weft_sock_of(io)->splice = s;
}

static void side_start(struct side *to)
{
	struct side *from = other(to);

	to->eof = from->io->eof;
	if (from->io->in)
		evbuffer_add_buffer(weft_io_out(to->io), from->io->in);
	if (to->eof || weft_io_out_len(to->io) > 0)
		ev_set(&to->wr, &to->wr_on, true);
	else
		ev_set(&from->rd, &from->rd_on, true);
}

int weft_io_splice(struct weft_io *a, struct weft_io *b,
		   void (*done)(void *owner, enum weft_io_end a_end, enum weft_io_end b_end),
		   void *owner, unsigned idle_ms)
{
	struct weft_splice *s;

	if (!can(a) || !can(b) || a->loop != b->loop)
		return -ENOTSUP;
	s = weft_xcalloc(1, sizeof(*s));
	s->done = done;
	s->owner = owner;
	s->idle_ms = idle_ms;
	s->last_ns = weft_now_ns();
	event_assign(&s->timer, a->loop->base, -1, 0, on_idle, s);
	side_init(s, 0, a);
	side_init(s, 1, b);
	side_start(&s->v[0]);
	side_start(&s->v[1]);
	if (idle_ms)
		timer_set(s, (uint64_t)idle_ms * 1000000);
	return 0;
}
