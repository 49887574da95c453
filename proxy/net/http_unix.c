#include "proxy/net/http_admin.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, READ_BYTES = 64 * 1024 };
/* A dump of every workload is the largest answer. */
static const size_t ANSWER_MAX = (size_t)512 << 20;

struct call {
	int fd;
	uint64_t end_ns;
	char *buf;
	size_t n, cap;
};

/* Waits for the socket until the deadline; 0 or -ETIMEDOUT. */
static int wait_for(struct call *c, short events)
{
	for (;;) {
		uint64_t now = weft_now_ns();
		struct pollfd p = {.fd = c->fd, .events = events};
		int n;

		if (now >= c->end_ns)
			return -ETIMEDOUT;
		n = poll(&p, 1, (int)((c->end_ns - now) / 1000000) + 1);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int call_open(struct call *c, const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int err;

	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	memcpy(un.sun_path, path, strlen(path));
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return -errno;
	while (connect(c->fd, (struct sockaddr *)&un, sizeof(un))) {
		struct timespec nap = {0, 5000000};

		if (errno != EAGAIN)
			return -errno;
		/* a full backlog of a unix socket cannot be polled for */
		if (weft_now_ns() >= c->end_ns)
			return -ETIMEDOUT;
		nanosleep(&nap, NULL);
	}
	err = wait_for(c, POLLOUT);
	return err;
}

static int send_all(struct call *c, const char *p, size_t n)
{
	while (n) {
		ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);

		if (w < 0 && errno == EAGAIN) {
			int err = wait_for(c, POLLOUT);

			if (err)
				return err;
		} else if (w < 0 && (errno == EPIPE || errno == ECONNRESET)) {
			return 0; /* the server may have answered before it read all */
		} else if (w < 0 && errno != EINTR) {
			return -errno;
		} else if (w > 0) {
			p += w;
			n -= (size_t)w;
		}
	}
	return 0;
}

static int read_all(struct call *c)
{
	for (;;) {
		ssize_t r;

		if (c->n > ANSWER_MAX)
			return -EFBIG;
		if (c->cap - c->n < READ_BYTES) {
			c->cap = c->cap ? c->cap * 2 : (size_t)2 * READ_BYTES;
			c->buf = weft_xrealloc(c->buf, c->cap + 1);
		}
		r = recv(c->fd, c->buf + c->n, READ_BYTES, 0);
		if (r == 0 || (r < 0 && errno == ECONNRESET && c->n))
			return 0;
		if (r > 0) {
			c->n += (size_t)r;
		} else if (errno == EAGAIN) {
			int err = wait_for(c, POLLIN);

			if (err)
				return err;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

/* One header's value as a number; -1: absent. head is NUL-terminated. */
static long long header_number(const char *head, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = strstr(head, "\r\n"); p; p = strstr(p + 2, "\r\n"))
		if (!strncasecmp(p + 2, name, n) && p[2 + n] == ':')
			return strtoll(p + 3 + n, NULL, 10);
	return -1;
}

/* Splits the answer; the status or -EPROTO. The body is moved to the front of buf. */
static int answer_split(struct call *c, bool head_only)
{
	char *end, *body;
	long long length;
	size_t body_n;
	int status;

	if (!c->buf)
		return -EPROTO;
	c->buf[c->n] = '\0';
	for (;;) {
		end = strstr(c->buf, "\r\n\r\n");
		if (!end || end - c->buf > HEAD_MAX || strncmp(c->buf, "HTTP/1.1 ", 9) != 0)
			return -EPROTO;
		status = (int)strtol(c->buf + 9, NULL, 10);
		body = end + 4;
		body_n = c->n - (size_t)(body - c->buf);
		if (status != 100)
			break;
		memmove(c->buf, body, body_n + 1);
		c->n = body_n;
	}
	if (status < 200 || status > 599)
		return -EPROTO;
	end[2] = '\0';
	length = header_number(c->buf, "content-length");
	if (!head_only && length >= 0 && (size_t)length != body_n)
		return -EPROTO; /* cut short */
	memmove(c->buf, body, body_n + 1);
	c->n = body_n;
	return status;
}

int weft_http_unix(const char *socket_path, const char *method, const char *target,
		   const char *body, size_t body_n, unsigned timeout_ms, char **ret_body,
		   size_t *ret_n, struct weft_err *reterr)
{
	struct call c = {.fd = -1, .end_ns = weft_now_ns() + (uint64_t)timeout_ms * 1000000};
	char head[HEAD_MAX];
	int n, ret;

	*ret_body = NULL;
	*ret_n = 0;
	n = snprintf(head, sizeof(head),
		     "%s %s HTTP/1.1\r\nHost: weft\r\nContent-Length: %zu\r\n"
		     "Connection: close\r\n\r\n",
		     method, target, body_n);
	if (n < 0 || (size_t)n >= sizeof(head))
		return weft_fail(reterr, NULL, E2BIG, "%s: the request is too long", socket_path);
	ret = call_open(&c, socket_path);
	if (!ret)
		ret = send_all(&c, head, (size_t)n);
	if (!ret && body_n)
		ret = send_all(&c, body, body_n);
	if (!ret)
		ret = read_all(&c);
	if (!ret)
		ret = answer_split(&c, !strcmp(method, "HEAD"));
	if (c.fd >= 0)
		close(c.fd);
	if (ret < 0) {
		free(c.buf);
		return weft_fail(reterr, NULL, -ret, "%s: %s %s: %s", socket_path, method, target,
				 ret == -EPROTO ? "no complete HTTP answer" : strerror(-ret));
	}
	*ret_body = c.buf;
	*ret_n = c.n;
	return ret;
}
