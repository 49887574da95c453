/* Files, pipes and sockets that lines are written to, and never a wait for them. */
#include "proxy/l4/logsink.h"

#include "proxy/core/arena.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum sink_kind {
	SINK_FILE,   /* a disk does not make a non-blocking writer wait: any size */
	SINK_PIPE,   /* non-blocking, pieces a pipe takes whole or not at all */
	SINK_SOCKET, /* MSG_DONTWAIT */
	SINK_POLL    /* could not be made non-blocking: asked before each piece */
};
struct weft_log_sink {
	int fd; /* the number stays when it is opened again */
	_Atomic int kind;
};

/* Another file description of the same pipe or terminal: O_NONBLOCK on ours must not change our
 * parent's. */
static int reopen_nonblock(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

/* The descriptor as it can be written to without waiting, and its kind; -errno. */
static int target_open(const char *target, enum sink_kind *ret_kind)
{
	struct stat st;
	int fd, again;

	/* these two also where they are sockets, which cannot be opened by path */
	if (!strcmp(target, "-") || !strcmp(target, "/dev/stdout"))
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
	else if (!strcmp(target, "/dev/stderr"))
		fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	else
		fd = open(target, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
			  0640);
	if (fd < 0 || fstat(fd, &st)) {
		int err = errno;

		if (fd >= 0)
			close(fd);
		return -err;
	}
	if (S_ISREG(st.st_mode)) {
		*ret_kind = SINK_FILE;
	} else if (S_ISSOCK(st.st_mode)) {
		*ret_kind = SINK_SOCKET;
	} else if (fcntl(fd, F_GETFL) & O_NONBLOCK) {
		*ret_kind = SINK_PIPE;
	} else if ((again = reopen_nonblock(fd)) >= 0) {
		close(fd);
		fd = again;
		*ret_kind = SINK_PIPE;
	} else {
		*ret_kind = SINK_POLL;
	}
	return fd;
}

int weft_log_sink_open(const char *target, struct weft_log_sink **ret, struct weft_err *reterr)
{
	enum sink_kind kind = SINK_FILE;
	int fd = target_open(target, &kind);
	struct weft_log_sink *s;

	if (fd < 0)
		return weft_fail(reterr, NULL, -fd, "access log \"%s\": %s", target, strerror(-fd));
	s = weft_xcalloc(1, sizeof(*s));
	s->fd = fd;
	s->kind = kind;
	*ret = s;
	return 0;
}

int weft_log_sink_reopen(struct weft_log_sink *s, const char *target, struct weft_err *reterr)
{
	enum sink_kind kind = SINK_FILE;
	int fd = target_open(target, &kind);

	if (fd < 0)
		return weft_fail(reterr, NULL, -fd, "access log \"%s\": %s", target, strerror(-fd));
	/* in one step: a write on another thread goes to the old file or to the new one */
	if (dup3(fd, s->fd, O_CLOEXEC) < 0) {
		int err = errno;

		close(fd);
		return weft_fail(reterr, NULL, err, "access log \"%s\": %s", target, strerror(err));
	}
	close(fd);
	s->kind = kind;
	return 0;
}

void weft_log_sink_free(struct weft_log_sink *s)
{
	if (!s)
		return;
	close(s->fd);
	free(s);
}

static ssize_t sink_write(const struct weft_log_sink *s, const char *p, size_t n)
{
	struct pollfd pfd = {.fd = s->fd, .events = POLLOUT};

	if (s->kind == SINK_SOCKET)
		return send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (s->kind == SINK_POLL && (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLOUT))) {
		errno = EAGAIN;
		return -1;
	}
	return write(s->fd, p, n);
}

static size_t whole_lines(const char *p, size_t n, size_t max)
{
	const char *nl;

	if (n <= max)
		return n;
	nl = memrchr(p, '\n', max);
	if (nl)
		return (size_t)(nl - p) + 1;
	/* a line longer than a piece goes by itself */
	nl = memchr(p + max, '\n', n - max);
	return nl ? (size_t)(nl - p) + 1 : n;
}

size_t weft_log_lines(const char *p, size_t n)
{
	size_t lines = 0;

	for (const char *end = p + n; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
		lines++;
	return lines;
}

size_t weft_log_sink_put(struct weft_log_sink *s, const char *p, size_t n)
{
	size_t at = 0, max = s->kind == SINK_FILE ? n : WEFT_ACCESS_LINE_MAX;

	while (at < n) {
		ssize_t done = sink_write(s, p + at, whole_lines(p + at, n - at, max));

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			break;
		at += (size_t)done;
	}
	return at;
}
