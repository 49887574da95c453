#include "agent/broker_peer.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGES_A_TURN = 64 };

struct out {
	STAILQ_ENTRY(out) link;
	int fds[WEFT_BROKER_SEND_FDS];
	unsigned n_fds;
	size_t n;
	uint8_t bytes[];
};
struct weft_bpeer {
	int fd;
	const struct weft_bpeer_ops *ops;
	void *owner;
	struct event *in, *out, *end;
	struct weft_err why;
	bool ending, *freed;
	unsigned queued;
	STAILQ_HEAD(, out) queue;
};

void weft_bpeer_cut(struct weft_bpeer *p, const struct weft_err *why)
{
	static const struct timeval now = {0, 0};

	if (p->ending)
		return;
	p->ending = true;
	p->why = *why;
	event_del(p->in);
	event_del(p->out);
	event_add(p->end, &now);
}

static void cut_errno(struct weft_bpeer *p, int code, const char *what)
{
	struct weft_err e = {0};

	weft_fail(&e, NULL, code, "%s: %s", what, strerror(code));
	weft_bpeer_cut(p, &e);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
	struct weft_bpeer *p = arg;

	(void)fd;
	(void)what;
	p->ops->closed(p->owner, &p->why);
}

/* ---- out */

static int send_one(struct weft_bpeer *p, const uint8_t *bytes, size_t n, const int *fds,
		    unsigned n_fds)
{
	union {
		char bytes[CMSG_SPACE(WEFT_BROKER_SEND_FDS * sizeof(int))];
		struct cmsghdr align;
	} u = {0};
	struct iovec iov = {(void *)bytes, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds) {
		struct cmsghdr *c;

		m.msg_control = u.bytes;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	return sendmsg(p->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void out_free(struct weft_bpeer *p, struct out *o)
{
	STAILQ_REMOVE_HEAD(&p->queue, link);
	p->queued--;
	while (o->n_fds)
		close(o->fds[--o->n_fds]);
	free(o);
}

static bool later(int err)
{
	return err == -EAGAIN || err == -EINTR;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_bpeer *p = arg;
	struct out *o;

	(void)fd;
	(void)what;
	while ((o = STAILQ_FIRST(&p->queue))) {
		int err = send_one(p, o->bytes, o->n, o->fds, o->n_fds);

		if (later(err)) {
			event_add(p->out, NULL);
			return;
		}
		if (err) {
			cut_errno(p, -err, "send");
			return;
		}
		out_free(p, o);
	}
}

static void enqueue(struct weft_bpeer *p, const uint8_t *bytes, size_t n, const int *fds,
		    unsigned n_fds)
{
	struct out *o;

	if (p->queued >= WEFT_BROKER_QUEUE_MAX) {
		cut_errno(p, ENOBUFS, "the proxy does not read");
		return;
	}
	o = weft_xcalloc(1, sizeof(*o) + n);
	o->n = n;
	memcpy(o->bytes, bytes, n);
	STAILQ_INSERT_TAIL(&p->queue, o, link);
	p->queued++;
	for (; o->n_fds < n_fds; o->n_fds++) {
		o->fds[o->n_fds] = fcntl(fds[o->n_fds], F_DUPFD_CLOEXEC, 0);
		if (o->fds[o->n_fds] < 0) {
			cut_errno(p, errno, "duplicate of a socket");
			return;
		}
	}
	event_add(p->out, NULL);
}

void weft_bpeer_send(struct weft_bpeer *p, const ProtobufCMessage *m, const int *fds,
		     unsigned n_fds)
{
	uint8_t bytes[WEFT_BROKER_MSG_MAX];
	size_t n = protobuf_c_message_get_packed_size(m);
	int err = -EAGAIN;

	if (p->ending)
		return;
	if (n > sizeof(bytes)) {
		cut_errno(p, EMSGSIZE, "a message to the proxy");
		return;
	}
	protobuf_c_message_pack(m, bytes);
	if (!p->queued)
		err = send_one(p, bytes, n, fds, n_fds);
	if (later(err))
		enqueue(p, bytes, n, fds, n_fds);
	else if (err)
		cut_errno(p, -err, "send");
}

unsigned weft_bpeer_queued(const struct weft_bpeer *p)
{
	return p->queued;
}

/* ---- in */

/* All descriptors of the message are taken, whatever else is wrong with it, so that none leaks. */
static unsigned take_fds(struct msghdr *m, int *fds)
{
	unsigned n = 0;
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t bytes;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		bytes = c->cmsg_len - CMSG_LEN(0);
		memcpy(fds + n, CMSG_DATA(c), bytes);
		n += (unsigned)(bytes / sizeof(int));
	}
	return n;
}

/* True: go on reading. */
static bool receive(struct weft_bpeer *p)
{
	union {
		char bytes[CMSG_SPACE(WEFT_BROKER_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} u;
	uint8_t buf[WEFT_BROKER_MSG_MAX];
	int fds[WEFT_BROKER_FDS_MAX + 1], r;
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.bytes,
			   .msg_controllen = sizeof(u.bytes)};
	ssize_t n = recvmsg(p->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct weft_err why = {0};
	bool freed = false;
	unsigned n_fds;

	if (n < 0) {
		if (errno == ECONNRESET)
			weft_bpeer_cut(p, &why);
		else if (!later(-errno))
			cut_errno(p, errno, "receive");
		return false;
	}
	n_fds = take_fds(&m, fds);
	if (n <= 0 || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		while (n_fds)
			close(fds[--n_fds]);
		if (n <= 0)
			weft_bpeer_cut(p, &why);
		else
			cut_errno(p, EMSGSIZE, "a message of the proxy");
		return false;
	}
	p->freed = &freed;
	r = p->ops->message(p->owner, buf, (size_t)n, fds, n_fds, &why);
	if (freed)
		return false;
	p->freed = NULL;
	if (r < 0)
		weft_bpeer_cut(p, &why);
	return r >= 0 && !p->ending;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	int i;

	(void)fd;
	(void)what;
	for (i = 0; i < MESSAGES_A_TURN; i++)
		if (!receive(arg))
			return;
}

struct weft_bpeer *weft_bpeer_new(struct event_base *base, int fd, const struct weft_bpeer_ops *ops,
				  void *owner)
{
	struct weft_bpeer *p = weft_xcalloc(1, sizeof(*p));

	p->fd = fd;
	p->ops = ops;
	p->owner = owner;
	STAILQ_INIT(&p->queue);
	p->in = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, p);
	p->out = event_new(base, fd, EV_WRITE, on_writable, p);
	p->end = evtimer_new(base, on_end, p);
	if (!p->in || !p->out || !p->end || event_add(p->in, NULL))
		abort(); /* memory is out */
	return p;
}

void weft_bpeer_free(struct weft_bpeer *p)
{
	if (!p)
		return;
	if (p->freed)
		*p->freed = true;
	while (!STAILQ_EMPTY(&p->queue))
		out_free(p, STAILQ_FIRST(&p->queue));
	event_free(p->in);
	event_free(p->out);
	event_free(p->end);
	close(p->fd);
	free(p);
}
