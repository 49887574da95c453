/* Sinks of access loggers: a buffer for each worker and sink, written by the worker's loop. What a
 * target does not take now is tried again; once the buffer is full, lines are dropped and counted.
 */
#include "proxy/l4/als_priv.h"

#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/l4/logsink.h"
#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
	BUFFER_BYTES = 64 << 10, /* written when this much waits */
	BUFFER_FIRST = 4 << 10,
	LINE_BYTES_MAX = 256 << 10,
	FLUSH_MS = 100,
	SINKS_MAX = 4096,
};

static const struct weft_scope_item items[] = {
	{"write_buffered", WEFT_COUNTER, "lines put into a buffer"},
	{"write_completed", WEFT_COUNTER, "buffers written to a file"},
	{"write_failed", WEFT_COUNTER, "lines lost: the target failed or did not keep up"},
	{"flushed_by_timer", WEFT_COUNTER, "buffers written because their time had come"},
	{"reopen_failed", WEFT_COUNTER, "files that could not be opened again"},
	{"write_total_buffered", WEFT_GAUGE, "bytes that wait in buffers"},
};
enum { S_BUFFERED, S_COMPLETED, S_FAILED, S_BY_TIMER, S_REOPEN_FAILED, S_WAITING };
static const struct weft_scope_class files_class = {
	.prefix = "filesystem", .v = items, .n = sizeof(items) / sizeof(*items)};

struct als_sink {
	TAILQ_ENTRY(als_sink) link;
	unsigned refs; /* under the lock */
	unsigned slot; /* index in every worker's table */
	struct weft_log_sink *to;
	char *path;
};
struct lines { /* of one worker for one sink */
	struct als_sink *sink;
	struct fbuf b;
	unsigned count; /* lines added since the last look */
	size_t told;	/* bytes that the gauge knows */
	bool stuck;	/* the target takes no more for now */
};
struct table { /* of a worker */
	TAILQ_ENTRY(table) link;
	struct lines **v;
	size_t n;
	struct event *timer;
};

/* Guards the lists of sinks and of tables, and the references of sinks: never taken for a line,
 * but when a worker meets a sink for the first time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, als_sink) sinks = TAILQ_HEAD_INITIALIZER(sinks);
static TAILQ_HEAD(, table) tables = TAILQ_HEAD_INITIALIZER(tables);
static struct weft_scope *stats; /* as long as the process */

static unsigned free_slot(void)
{
	const struct als_sink *s;
	unsigned slot = 0;

again:
	TAILQ_FOREACH (s, &sinks, link)
		if (s->slot == slot) {
			slot++;
			goto again;
		}
	return slot;
}

struct als_sink *als_sink_get(const char *path, struct weft_err *reterr)
{
	struct als_sink *s;

	pthread_mutex_lock(&lock);
	if (!stats)
		stats = weft_scope_get(&files_class, "");
	TAILQ_FOREACH (s, &sinks, link)
		if (!strcmp(s->path, path))
			break;
	if (!s) {
		struct weft_log_sink *to = NULL;
		unsigned slot = free_slot();

		if (slot >= SINKS_MAX) {
			weft_fail(reterr, NULL, ENFILE, "more than %d access log files", SINKS_MAX);
		} else if (!weft_log_sink_open(path, &to, reterr)) {
			s = weft_xcalloc(1, sizeof(*s));
			s->to = to;
			s->slot = slot;
			s->path = weft_xstrdup(path);
			TAILQ_INSERT_TAIL(&sinks, s, link);
		}
	}
	if (s)
		s->refs++;
	pthread_mutex_unlock(&lock);
	return s;
}

void als_sink_unref(void *sink)
{
	struct als_sink *s = sink;

	pthread_mutex_lock(&lock);
	if (--s->refs) {
		pthread_mutex_unlock(&lock);
		return;
	}
	TAILQ_REMOVE(&sinks, s, link);
	pthread_mutex_unlock(&lock);
	weft_log_sink_free(s->to);
	free(s->path);
	free(s);
}

/* ---- a worker's buffers */
static void tell_waiting(struct lines *l)
{
	weft_scope_add(stats, S_BUFFERED, l->count);
	weft_scope_add(stats, S_WAITING, (int64_t)l->b.n - (int64_t)l->told);
	l->told = l->b.n;
	l->count = 0;
}

static void put(struct lines *l, bool last)
{
	size_t done = weft_log_sink_put(l->sink->to, l->b.p, l->b.n);

	if (done)
		weft_scope_add(stats, S_COMPLETED, 1);
	if (done < l->b.n && last) {
		weft_scope_add(stats, S_FAILED,
			       (int64_t)weft_log_lines(l->b.p + done, l->b.n - done));
		done = l->b.n;
	}
	memmove(l->b.p, l->b.p + done, l->b.n - done);
	l->b.n -= done;
	l->stuck = l->b.n > 0;
	tell_waiting(l);
}

static void drop(struct table *t, size_t i)
{
	struct lines *l = t->v[i];

	t->v[i] = NULL;
	als_sink_unref(l->sink);
	free(l->b.p);
	free(l);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval again = {0, FLUSH_MS * 1000};
	struct table *t = arg;
	bool any = false;
	size_t i;

	for (i = 0; i < t->n; i++) {
		struct lines *l = t->v[i];

		if (!l)
			continue;
		if (l->b.n) {
			put(l, false);
			weft_scope_add(stats, S_BY_TIMER, 1);
		} else {
			/* quiet since the last look: its memory, and a sink that no
			 * configuration names any more, go */
			drop(t, i);
			continue;
		}
		any = true;
	}
	if (any)
		event_add(t->timer, &again);
}

static void table_done(struct weft_worker *w, void *part)
{
	struct table *t = part;
	size_t i;

	if (!t->timer)
		return;
	pthread_mutex_lock(&lock);
	TAILQ_REMOVE(&tables, t, link);
	pthread_mutex_unlock(&lock);
	event_free(t->timer);
	for (i = 0; i < t->n; i++)
		if (t->v[i]) {
			put(t->v[i], true);
			drop(t, i);
		}
	free(t->v);
}

static const struct weft_worker_part table_part = {.size = sizeof(struct table),
						   .done = table_done};

static struct lines *lines_of(struct weft_worker *w, struct als_sink *s)
{
	struct table *t = weft_worker_part(w, &table_part);
	struct lines *l;

	if (s->slot < t->n && t->v[s->slot])
		return t->v[s->slot];
	if (!t->timer) {
		t->timer = evtimer_new(w->base, on_timer, t);
		if (!t->timer)
			abort(); /* memory is out */
		pthread_mutex_lock(&lock);
		TAILQ_INSERT_TAIL(&tables, t, link);
		pthread_mutex_unlock(&lock);
	}
	if (s->slot >= t->n) {
		t->v = weft_xrealloc(t->v, (s->slot + 1) * sizeof(*t->v));
		memset(t->v + t->n, 0, (s->slot + 1 - t->n) * sizeof(*t->v));
		t->n = s->slot + 1;
	}
	l = t->v[s->slot] = weft_xcalloc(1, sizeof(*l));
	l->sink = s;
	l->b.cap = BUFFER_FIRST;
	l->b.p = weft_xrealloc(NULL, BUFFER_FIRST);
	l->b.heap = true;
	pthread_mutex_lock(&lock);
	s->refs++;
	pthread_mutex_unlock(&lock);
	if (!event_pending(t->timer, EV_TIMEOUT, NULL)) {
		static const struct timeval soon = {0, FLUSH_MS * 1000};

		event_add(t->timer, &soon);
	}
	return l;
}

/* false: it is longer than any may be, and left out. */
static bool add_line(struct fbuf *b, const struct weft_format *f, const struct weft_format_in *in)
{
	size_t before = b->n, cap = b->cap;

	b->max = before + LINE_BYTES_MAX;
	format_put(f, in, b);
	if (!b->cut)
		return true;
	b->n = before;
	/* what cutting took away from the end of the memory is there still */
	b->cap = cap;
	b->cut = false;
	return false;
}

void als_sink_line(struct als_sink *s, const struct weft_format *f, const struct weft_format_in *in)
{
	struct weft_worker *w = weft_worker_self();
	struct lines *l;

	if (!w) {
		char first[BUFFER_FIRST];
		struct fbuf b = {.p = first, .cap = sizeof(first)};

		if (!add_line(&b, f, in) || weft_log_sink_put(s->to, b.p, b.n) < b.n)
			weft_scope_add(stats, S_FAILED, 1);
		if (b.heap)
			free(b.p);
		return;
	}
	l = lines_of(w, s);
	if (l->b.n >= BUFFER_BYTES && !l->stuck)
		put(l, false);
	if (l->b.n >= BUFFER_BYTES || !add_line(&l->b, f, in))
		weft_scope_add(stats, S_FAILED, 1);
	else
		l->count++;
}

void weft_access_logs_reopen(void)
{
	struct weft_err err = {0};
	struct als_sink *s;

	pthread_mutex_lock(&lock);
	TAILQ_FOREACH (s, &sinks, link) {
		if (!strcmp(s->path, "/dev/stdout") || !strcmp(s->path, "/dev/stderr"))
			continue;
		if (weft_log_sink_reopen(s->to, s->path, &err))
			weft_scope_add(stats, S_REOPEN_FAILED, 1);
	}
	pthread_mutex_unlock(&lock);
}

void weft_access_logs_flush(void)
{
	struct table *t;
	size_t i;

	pthread_mutex_lock(&lock);
	TAILQ_FOREACH (t, &tables, link)
		for (i = 0; i < t->n; i++)
			if (t->v[i])
				put(t->v[i], false);
	pthread_mutex_unlock(&lock);
}
