#include "proxy/node/broker_link.h"

#include "proxy/core/arena.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MESSAGES_A_TURN = 64 };

struct out {
	STAILQ_ENTRY(out) link;
	int fd; /* -1: none; owned */
	size_t n;
	uint8_t bytes[];
};
struct weft_broker_link {
	int fd;
	const struct weft_broker_link_ops *ops;
	void *owner;
	struct event *in, *out, *end;
	struct weft_err why; /* set once: lost() is under way */
	size_t queued;
	STAILQ_HEAD(, out) queue;
	bool *freed; /* while message() runs: tells that the link was freed in it */
};

static void fail(struct weft_broker_link *l, int code, const char *what)
{
	static const struct timeval now = {0, 0};

	if (l->why.code)
		return;
	weft_fail(&l->why, NULL, code, "%s: %s", what, strerror(code));
	event_del(l->in);
	event_del(l->out);
	event_add(l->end, &now);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
	struct weft_broker_link *l = arg;

	l->ops->lost(l->owner, &l->why);
}

static int send_one(struct weft_broker_link *l, const uint8_t *p, size_t n, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u = {0};
	struct iovec iov = {(void *)p, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *c;

		m.msg_control = u.bytes;
		m.msg_controllen = sizeof(u.bytes);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(l->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void out_free(struct weft_broker_link *l, struct out *o)
{
	STAILQ_REMOVE_HEAD(&l->queue, link);
	l->queued--;
	if (o->fd >= 0)
		close(o->fd);
	free(o);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_broker_link *l = arg;
	struct out *o;

	while ((o = STAILQ_FIRST(&l->queue))) {
		int err = send_one(l, o->bytes, o->n, o->fd);

		if (err == -EAGAIN || err == -EINTR) {
			event_add(l->out, NULL);
			return;
		}
		if (err) {
			fail(l, -err, "send");
			return;
		}
		out_free(l, o);
	}
}

void weft_broker_link_send(struct weft_broker_link *l, const uint8_t *p, size_t n, int fd)
{
	struct out *o;

	if (l->why.code)
		return;
	if (!l->queued) {
		int err = send_one(l, p, n, fd);

		if (!err)
			return;
		if (err != -EAGAIN && err != -EINTR) {
			fail(l, -err, "send");
			return;
		}
	}
	if (l->queued >= WEFT_BROKER_QUEUE_MAX) {
		fail(l, ENOBUFS, "the broker does not read");
		return;
	}
	o = weft_xcalloc(1, sizeof(*o) + n);
	o->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (fd >= 0 && o->fd < 0) {
		fail(l, errno, "dup");
		free(o);
		return;
	}
	o->n = n;
	memcpy(o->bytes, p, n);
	STAILQ_INSERT_TAIL(&l->queue, o, link);
	l->queued++;
	event_add(l->out, NULL);
}

/* All descriptors of the message are taken, whatever else is wrong with it, so that none leaks. */
static size_t take_fds(struct msghdr *m, int *fds)
{
	size_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t bytes;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		bytes = c->cmsg_len - CMSG_LEN(0);
		memcpy(fds + n, CMSG_DATA(c), bytes);
		n += bytes / sizeof(int);
	}
	return n;
}

/* 1: a message was handled, 0: none is there or the link failed. */
static int receive(struct weft_broker_link *l)
{
	union {
		char bytes[CMSG_SPACE(WEFT_BROKER_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} u;
	uint8_t buf[WEFT_BROKER_MSG_MAX];
	int fds[WEFT_BROKER_FDS_MAX + 1];
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.bytes,
			   .msg_controllen = sizeof(u.bytes)};
	ssize_t n = recvmsg(l->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	bool freed = false;
	size_t n_fds;
	int err;

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			fail(l, errno, "receive");
		return 0;
	}
	n_fds = take_fds(&m, fds);
	/* Descriptors cut off (we have too many open): sockets that came are good and more are
	 * asked for later; a pod without all of its listeners is refused by who reads the message.
	 */
	if (!n || (m.msg_flags & MSG_TRUNC)) {
		while (n_fds)
			close(fds[--n_fds]);
		if (!n)
			fail(l, ECONNRESET, "the broker closed the connection");
		else
			fail(l, EMSGSIZE, "a message of the broker");
		return 0;
	}
	l->freed = &freed;
	{
		struct weft_err why = {0};

		err = l->ops->message(l->owner, buf, (size_t)n, fds, n_fds, &why);
		if (freed)
			return 0;
		l->freed = NULL;
		if (err) {
			fail(l, -err, "a message of the broker");
			if (why.code)
				l->why = why;
			return 0;
		}
	}
	return !l->why.code;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_broker_link *l = arg;

	/* what is left wakes us again: the loop's other work comes between */
	for (int i = 0; i < MESSAGES_A_TURN; i++)
		if (!receive(l))
			return;
}

struct weft_broker_link *weft_broker_link_new(struct event_base *base, int fd,
					      const struct weft_broker_link_ops *ops, void *owner)
{
	struct weft_broker_link *l = weft_xcalloc(1, sizeof(*l));

	l->fd = fd;
	l->ops = ops;
	l->owner = owner;
	STAILQ_INIT(&l->queue);
	l->in = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, l);
	l->out = event_new(base, fd, EV_WRITE, on_writable, l);
	l->end = evtimer_new(base, on_end, l);
	if (!l->in || !l->out || !l->end || event_add(l->in, NULL))
		abort(); /* memory is out */
	return l;
}

int weft_broker_link_open(struct event_base *base, const char *path,
			  const struct weft_broker_link_ops *ops, void *owner,
			  struct weft_broker_link **ret, struct weft_err *reterr)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd, err;

	if (strlen(path) >= sizeof(sun.sun_path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "%s: longer than %zu bytes", path,
				 sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun))) {
		err = errno;
		close(fd);
		return weft_fail(reterr, NULL, err, "%s: %s", path, strerror(err));
	}
	*ret = weft_broker_link_new(base, fd, ops, owner);
	return 0;
}

void weft_broker_link_free(struct weft_broker_link *l)
{
	if (!l)
		return;
	if (l->freed)
		*l->freed = true;
	while (!STAILQ_EMPTY(&l->queue))
		out_free(l, STAILQ_FIRST(&l->queue));
	event_free(l->in);
	event_free(l->out);
	event_free(l->end);
	close(l->fd);
	free(l);
}
