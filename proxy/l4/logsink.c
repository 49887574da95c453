/* The writing half of accesslog.h: a buffer a thread, one write of whole lines. */
#include "proxy/l4/logsink.h"
#include "proxy/core/arena.h"
#include "proxy/core/stat.h"
#include "proxy/core/worker.h"
#include "proxy/l4/accesslog.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <xxhash.h>

enum { BUDGET_IDLE_S = 60, BUDGETS_MAX = 16384 };

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

void weft_access_log_flush(struct weft_access_log *l)
{
	size_t at;

	event_del(l->flush);
	at = weft_log_sink_put(l->sink, l->buf, l->n);
	/* blocked, full or gone: these lines are lost, traffic goes on */
	if (at < l->n)
		weft_stat_add(l->lost, weft_log_lines(l->buf + at, l->n - at));
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
