/* The writing half of accesslog.h: a buffer a thread, one write of whole lines, and never a wait
 * for the target. */
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/core/stat.h"
#include "proxy/core/worker.h"
#include "proxy/l4/accesslog.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>
#include <xxhash.h>

enum { BUDGET_IDLE_S = 60, BUDGETS_MAX = 16384 };

enum sink_kind {
	SINK_FILE,   /* a disk does not make a non-blocking writer wait: any size */
	SINK_PIPE,   /* non-blocking, pieces a pipe takes whole or not at all */
	SINK_SOCKET, /* MSG_DONTWAIT */
	SINK_POLL    /* could not be made non-blocking: asked before each piece */
};
struct weft_log_sink {
	int fd;
	enum sink_kind kind;
};

/* Another file description of the same pipe or terminal: O_NONBLOCK on ours must not change our
 * parent's. */
static int reopen_nonblock(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

int weft_log_sink_open(const char *target, struct weft_log_sink **ret, struct weft_err *reterr)
{
	struct weft_log_sink *s;
	struct stat st;
	int fd, again;

	if (strcmp(target, "-") == 0)
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
	else
		fd = open(target, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
			  0640);
	if (fd < 0 || fstat(fd, &st)) {
		int err = errno;

		if (fd >= 0)
			close(fd);
		return weft_fail(reterr, NULL, err, "access log \"%s\": %s", target, strerror(err));
	}
	s = weft_xcalloc(1, sizeof(*s));
	s->fd = fd;
	if (S_ISREG(st.st_mode)) {
		s->kind = SINK_FILE;
	} else if (S_ISSOCK(st.st_mode)) {
		s->kind = SINK_SOCKET;
	} else if (fcntl(fd, F_GETFL) & O_NONBLOCK) {
		s->kind = SINK_PIPE;
	} else if ((again = reopen_nonblock(fd)) >= 0) {
		close(fd);
		s->fd = again;
		s->kind = SINK_PIPE;
	} else {
		s->kind = SINK_POLL;
	}
	*ret = s;
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

struct budget {
	uint64_t id; /* seeded hash of the workload, so that names cannot be made to collide */
	uint64_t second;
	unsigned lines, dropped;
	char name[128];
	UT_hash_handle hh;
};
struct weft_access_log {
	struct weft_log_sink *sink;
	enum weft_log_format format;
	struct event *flush, *told;
	struct weft_stat *lost, *over;
	unsigned share; /* lines a second a workload on this thread */
	struct budget *budgets;
	uint64_t seed;
	size_t n;
	char buf[WEFT_ACCESS_BUFFER];
};

static size_t whole_lines(const char *p, size_t n, size_t max)
{
	const char *nl;

	if (n <= max)
		return n;
	nl = memrchr(p, '\n', max);
	return nl ? (size_t)(nl - p) + 1 : max;
}

static unsigned count_lines(const char *p, size_t n)
{
	unsigned lines = 0;

	for (const char *end = p + n; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
		lines++;
	return lines;
}

void weft_access_log_flush(struct weft_access_log *l)
{
	size_t at = 0, max = l->sink->kind == SINK_FILE ? sizeof(l->buf) : WEFT_ACCESS_LINE_MAX;

	event_del(l->flush);
	while (at < l->n) {
		size_t n = whole_lines(l->buf + at, l->n - at, max);
		ssize_t done = sink_write(l->sink, l->buf + at, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			/* blocked, full or gone: these lines are lost, traffic goes on */
			weft_stat_add(l->lost, count_lines(l->buf + at, l->n - at));
			break;
		}
		at += (size_t)done;
	}
	l->n = 0;
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
	weft_access_log_flush(arg);
}

static void append(struct weft_access_log *l, const char *line, size_t n)
{
	static const struct timeval soon = {0, WEFT_ACCESS_FLUSH_MS * 1000};

	if (l->n + n > sizeof(l->buf))
		weft_access_log_flush(l);
	if (!l->n)
		event_add(l->flush, &soon);
	memcpy(l->buf + l->n, line, n);
	l->n += n;
	if (l->n > sizeof(l->buf) / 2)
		weft_access_log_flush(l);
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void tell_dropped(struct weft_access_log *l, struct budget *b)
{
	char line[WEFT_ACCESS_LINE_MAX], error[96];
	struct weft_access_rec r = {.level = WEFT_ACCESS_WARN,
				    .message = "access log lines dropped",
				    .bare = true,
				    .time_us = (int64_t)now_us(),
				    .src.workload = b->name,
				    .reason = "log_budget",
				    .error = error};

	snprintf(error, sizeof(error), "%u lines beyond %d a second", b->dropped,
		 WEFT_ACCESS_LINES_A_SECOND);
	b->dropped = 0;
	append(l, line, weft_access_format(l->format, &r, line));
}

static void on_told(evutil_socket_t fd, short what, void *arg)
{
	struct weft_access_log *l = arg;
	uint64_t second = weft_now_ns() / 1000000000;
	struct budget *b, *next;
	static const struct timeval tv = {1, 0};

	HASH_ITER (hh, l->budgets, b, next) {
		if (b->dropped)
			tell_dropped(l, b);
		if (second - b->second > BUDGET_IDLE_S) {
			HASH_DEL(l->budgets, b);
			free(b);
		}
	}
	if (l->budgets)
		event_add(l->told, &tv);
}

/* A busy workload must not fill the disk for the node, nor hide the others' lines. */
static bool budget_take(struct weft_access_log *l, const char *workload)
{
	uint64_t second = weft_now_ns() / 1000000000;
	uint64_t id = XXH3_64bits_withSeed(workload, strlen(workload), l->seed);
	static const struct timeval tv = {1, 0};
	struct budget *b;

	HASH_FIND(hh, l->budgets, &id, sizeof(id), b);
	if (!b) {
		if (HASH_COUNT(l->budgets) >= BUDGETS_MAX)
			return false;
		b = weft_xcalloc(1, sizeof(*b));
		b->id = id;
		snprintf(b->name, sizeof(b->name), "%s", workload);
		HASH_ADD(hh, l->budgets, id, sizeof(id), b);
		if (!event_pending(l->told, EV_TIMEOUT, NULL))
			event_add(l->told, &tv);
	}
	if (b->second != second) {
		b->second = second;
		b->lines = 0;
	}
	if (b->lines >= l->share) {
		b->dropped++;
		return false;
	}
	b->lines++;
	return true;
}

void weft_access_log_write(struct weft_access_log *l, const char *workload,
			   const struct weft_access_rec *r)
{
	char line[WEFT_ACCESS_LINE_MAX];

	if (!budget_take(l, workload)) {
		weft_stat_add(l->over, 1);
		return;
	}
	append(l, line, weft_access_format(l->format, r, line));
}

struct weft_access_log *weft_access_log_new(struct event_base *base, struct weft_log_sink *s,
					    enum weft_log_format f, unsigned threads,
					    struct weft_stat *lost, struct weft_stat *over)
{
	struct weft_access_log *l = weft_xcalloc(1, sizeof(*l));

	l->sink = s;
	l->format = f;
	l->lost = lost;
	l->over = over;
	l->share = (WEFT_ACCESS_LINES_A_SECOND + threads - 1) / threads;
	l->seed = weft_rand64();
	l->flush = evtimer_new(base, on_flush, l);
	l->told = evtimer_new(base, on_told, l);
	if (!l->flush || !l->told)
		abort(); /* memory is out */
	return l;
}

void weft_access_log_free(struct weft_access_log *l)
{
	struct budget *b, *next;

	if (!l)
		return;
	HASH_ITER (hh, l->budgets, b, next) {
		if (b->dropped)
			tell_dropped(l, b);
		HASH_DEL(l->budgets, b);
		free(b);
	}
	weft_access_log_flush(l);
	event_free(l->flush);
	event_free(l->told);
	weft_stat_unref(l->lost);
	weft_stat_unref(l->over);
	free(l);
}
