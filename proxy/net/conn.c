#include "proxy/net/conn.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	READ_BYTES = 64 * 1024, /* a turn of the loop and connection */
	WRITE_VECS = 16,
	LINGER_MS = 1000, /* how long bytes that nobody wants are read after the last answer */
	FLUSH_MS = 10000, /* without progress, after close_after_flush */
	LINGER_BYTES = 1024 * 1024,
};

struct weft_conn {
	int fd;
	const struct weft_conn_ops *ops;
	void *owner;
	struct evbuffer *in, *out;
	struct event *ev_read, *ev_write, *ev_idle;
	uint64_t idle_ns, active_ns;
	int depth; /* callbacks running: freed when the last one has returned */
	int error; /* of a write in flush; told from the loop */
	size_t lingered;
	bool dead, wrote, closing, lingering;
};

static void conn_destroy(struct weft_conn *c)
{
	if (c->ev_read)
		event_free(c->ev_read);
	if (c->ev_write)
		event_free(c->ev_write);
	if (c->ev_idle)
		event_free(c->ev_idle);
	evbuffer_free(c->in);
	evbuffer_free(c->out);
	close(c->fd);
	free(c);
}

void weft_conn_free(struct weft_conn *c)
{
	if (!c)
		return;
	c->dead = true;
	if (!c->depth)
		conn_destroy(c);
}

static void leave(struct weft_conn *c)
{
	if (!--c->depth && c->dead)
		conn_destroy(c);
}

/* The last callback. */
static void conn_closed(struct weft_conn *c, int err)
{
	event_del(c->ev_read);
	event_del(c->ev_write);
	c->ops->closed(c, err);
	c->dead = true;
}

static void idle_arm(struct weft_conn *c, uint64_t ns)
{
	struct timeval tv = {(time_t)(ns / 1000000000), (suseconds_t)(ns % 1000000000 / 1000) + 1};

	event_add(c->ev_idle, &tv);
}

static void on_idle(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conn *c = arg;
	uint64_t now = weft_now_ns();

	if (now - c->active_ns < c->idle_ns) {
		idle_arm(c, c->idle_ns - (now - c->active_ns));
		return;
	}
	c->depth++;
	conn_closed(c, c->lingering ? 0 : -ETIMEDOUT);
	leave(c);
}

/* Bytes were taken out of in: go on reading where that had stopped. */
static void on_in_changed(struct evbuffer *in, const struct evbuffer_cb_info *info, void *arg)
{
	struct weft_conn *c = arg;

	if (info->n_deleted && !c->dead && !c->closing &&
	    evbuffer_get_length(in) <= WEFT_CONN_IN_MAX)
		event_add(c->ev_read, NULL);
}

/* Everything is written: say so with a FIN, and keep the peer's late bytes from turning it into a
 * reset. */
static void linger_start(struct weft_conn *c)
{
	c->lingering = true;
	c->idle_ns = (uint64_t)LINGER_MS * 1000000;
	c->active_ns = weft_now_ns();
	evbuffer_drain(c->in, evbuffer_get_length(c->in));
	event_del(c->ev_write);
	if (shutdown(c->fd, SHUT_WR)) {
		conn_closed(c, 0);
		return;
	}
	event_add(c->ev_read, NULL);
	idle_arm(c, c->idle_ns);
}

static void on_linger(struct weft_conn *c)
{
	char waste[4096];
	ssize_t n = recv(c->fd, waste, sizeof(waste), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		c->lingered += (size_t)n;
	/* active_ns stays: the linger time is for all of it */
	if (n <= 0 || c->lingered > LINGER_BYTES)
		conn_closed(c, 0);
}

/* > 0: bytes read; 0: the peer closed; -EAGAIN; -errno. */
static ssize_t read_some(struct weft_conn *c)
{
	struct evbuffer_iovec v[2];
	struct iovec iov[2];
	int nv = evbuffer_reserve_space(c->in, READ_BYTES, v, 2);
	struct msghdr m = {.msg_iov = iov};
	size_t left;
	ssize_t n;

	if (nv <= 0)
		return -ENOMEM;
	/* the buffer may have more room than was asked for */
	left = READ_BYTES;
	for (int i = 0; i < nv; i++) {
		iov[i] = (struct iovec){v[i].iov_base, v[i].iov_len < left ? v[i].iov_len : left};
		left -= iov[i].iov_len;
	}
	m.msg_iovlen = (size_t)nv;
	n = recvmsg(c->fd, &m, 0);
	if (n < 0)
		n = errno == EINTR ? -EAGAIN : -errno;
	left = n > 0 ? (size_t)n : 0;
	for (int i = 0; i < nv; i++) {
		if (v[i].iov_len > left)
			v[i].iov_len = left;
		left -= v[i].iov_len;
	}
	evbuffer_commit_space(c->in, v, n > 0 ? nv : 0);
	return n;
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conn *c = arg;
	ssize_t n;

	c->depth++;
	if (c->lingering) {
		on_linger(c);
		leave(c);
		return;
	}
	n = read_some(c);
	if (n > 0) {
		c->active_ns = weft_now_ns();
		if (evbuffer_get_length(c->in) > WEFT_CONN_IN_MAX)
			event_del(c->ev_read);
		c->ops->readable(c);
	} else if (n != -EAGAIN) {
		conn_closed(c, (int)n);
	}
	leave(c);
}

/* Writes until the socket or the buffer is full; 0 or -errno (never -EAGAIN). No SIGPIPE, which
 * writev would raise. */
static int write_out(struct weft_conn *c)
{
	while (evbuffer_get_length(c->out)) {
		struct evbuffer_iovec v[WRITE_VECS];
		struct iovec iov[WRITE_VECS];
		int nv = evbuffer_peek(c->out, READ_BYTES, NULL, v, WRITE_VECS);
		struct msghdr m = {.msg_iov = iov};
		ssize_t n;

		if (nv > WRITE_VECS)
			nv = WRITE_VECS;
		for (int i = 0; i < nv; i++)
			iov[i] = (struct iovec){v[i].iov_base, v[i].iov_len};
		m.msg_iovlen = (size_t)nv;
		n = sendmsg(c->fd, &m, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		evbuffer_drain(c->out, (size_t)n);
		c->active_ns = weft_now_ns();
		c->wrote = true;
	}
	return 0;
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conn *c = arg;

	c->depth++;
	if (!c->error)
		c->error = write_out(c);
	if (c->error) {
		conn_closed(c, c->error);
		leave(c);
		return;
	}
	if (evbuffer_get_length(c->out)) {
		event_add(c->ev_write, NULL);
	} else if (c->closing) {
		if (!c->lingering)
			linger_start(c);
	} else if (c->wrote) {
		c->wrote = false;
		if (c->ops->drained)
			c->ops->drained(c);
	}
	leave(c);
}

struct weft_conn *weft_conn_new(struct event_base *base, int fd, const struct weft_conn_ops *ops,
				void *owner, unsigned idle_ms)
{
	struct weft_conn *c = weft_xcalloc(1, sizeof(*c));

	c->fd = fd;
	c->ops = ops;
	c->owner = owner;
	c->in = evbuffer_new();
	c->out = evbuffer_new();
	c->ev_read = event_new(base, fd, EV_READ | EV_PERSIST, on_read, c);
	c->ev_write = event_new(base, fd, EV_WRITE, on_write, c);
	c->ev_idle = event_new(base, -1, 0, on_idle, c);
	c->active_ns = weft_now_ns();
	c->idle_ns = (uint64_t)idle_ms * 1000000;
	if (!c->in || !c->out || !c->ev_read || !c->ev_write || !c->ev_idle ||
	    !evbuffer_add_cb(c->in, on_in_changed, c) || event_add(c->ev_read, NULL))
		abort(); /* memory is out */
	if (idle_ms)
		idle_arm(c, c->idle_ns);
	return c;
}

struct evbuffer *weft_conn_in(struct weft_conn *c)
{
	return c->in;
}

struct evbuffer *weft_conn_out(struct weft_conn *c)
{
	return c->out;
}

void *weft_conn_owner(const struct weft_conn *c)
{
	return c->owner;
}

int weft_conn_fd(const struct weft_conn *c)
{
	return c->fd;
}

void weft_conn_flush(struct weft_conn *c)
{
	if (c->dead || c->lingering || c->error)
		return;
	c->error = write_out(c);
	if (evbuffer_get_length(c->out) && !c->error)
		event_add(c->ev_write, NULL);
	else if (c->error || c->wrote || c->closing)
		event_active(c->ev_write, EV_WRITE,
			     1); /* the caller gets no callback out of this call */
}

void weft_conn_close_after_flush(struct weft_conn *c)
{
	if (c->dead || c->closing)
		return;
	c->closing = true;
	event_del(c->ev_read);
	if (!c->idle_ns) {
		/* a peer that does not read must not keep it for ever */
		c->idle_ns = (uint64_t)FLUSH_MS * 1000000;
		c->active_ns = weft_now_ns();
		idle_arm(c, c->idle_ns);
	}
	weft_conn_flush(c);
}
