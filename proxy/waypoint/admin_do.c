/* What admin changes: levels of the log, draining, health, counters, the end. */
#include "proxy/core/log.h"
#include "proxy/l4/als.h"
#include "proxy/l4/local_health.h"
#include "proxy/waypoint/admin_priv.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- levels. There is one logger. */
static const char logger[] = "main";
static const struct {
	const char *name;
	enum weft_log_level level;
} levels[] = {
	{"error", WEFT_LOG_ERROR}, {"warning", WEFT_LOG_WARN}, {"info", WEFT_LOG_INFO},
	{"debug", WEFT_LOG_DEBUG}, {"trace", WEFT_LOG_DEBUG},  {"critical", WEFT_LOG_ERROR},
	{"off", WEFT_LOG_ERROR},   {"warn", WEFT_LOG_WARN},
};
enum { LEVELS = sizeof(levels) / sizeof(*levels), LEVELS_SHOWN = 4 };

const char *waypoint_level(void)
{
	int i = LEVELS_SHOWN - 1;

	while (i > 0 && !weft_log_on(levels[i].level))
		i--;
	return levels[i].name;
}

static int level_of(const char *s, size_t n)
{
	int i;

	for (i = 0; i < LEVELS; i++)
		if (strlen(levels[i].name) == n && !strncmp(levels[i].name, s, n))
			return (int)levels[i].level;
	return -1;
}

static int logging_bad(struct areq *r, const char *what)
{
	return areq_text(r, 400,
			 "error: %s\n\n"
			 "usage: /logging?<name>=<level> (change single level)\n"
			 "usage: /logging?paths=name1:level1,name2:level2,... (change multiple "
			 "levels)\n"
			 "usage: /logging?level=<level> (change all levels)\n"
			 "levels: trace debug info warning error critical off \n"
			 "active loggers:\n  %s: %s\n\n",
			 what, logger, waypoint_level());
}

static int level_set(struct areq *r, const char *s, size_t n)
{
	int to = level_of(s, n);

	if (to < 0)
		return logging_bad(r, "unknown logger level");
	weft_log_setup("weft-waypoint", (enum weft_log_level)to, r->w->opt.log_json);
	r->w->opt.log_level = to;
	return 0;
}

/* "name:level,…", or one pair. */
static int paths_set(struct areq *r, const char *s)
{
	int status = 0;

	while (*s && !status) {
		size_t n = strcspn(s, ","), name = strcspn(s, ":,");
		bool ours = name == 1 && *s == '*';

		if (name >= n)
			return logging_bad(r, "empty logger name or empty logger level");
		ours |= name == strlen(logger) && !strncmp(s, logger, name);
		if (!ours)
			return logging_bad(r, "unknown logger name");
		status = level_set(r, s + name + 1, n - name - 1);
		s += n + (s[n] == ',');
	}
	return status;
}

int admin_logging(struct areq *r)
{
	const char *level = areq_param(r, "level"), *paths = areq_param(r, "paths");
	const char *one = areq_param(r, logger);
	int status = 0;

	if (*r->http->query && !level && !paths && !one)
		return logging_bad(r, "unknown logger name");
	if (!!level + !!paths + !!one > 1)
		return logging_bad(r, "invalid number of parameters");
	if (level)
		status = level_set(r, level, strlen(level));
	else if (one)
		status = level_set(r, one, strlen(one));
	else if (paths)
		status = paths_set(r, paths);
	if (status)
		return status;
	return areq_text(r, 200, "active loggers:\n  %s: %s\n\n", logger, waypoint_level());
}

/* ---- draining */
static void on_drained(evutil_socket_t fd, short what, void *arg)
{
	struct waypoint *w = arg;

	listeners_stop_accepting(w->listeners, w->drain_inbound, true);
}

int admin_drain(struct areq *r)
{
	bool graceful = areq_param(r, "graceful") != NULL,
	     skip = areq_param(r, "skip_exit") != NULL;
	bool inbound = areq_param(r, "inboundonly") != NULL;
	const struct timeval tv = {.tv_sec = r->w->opt.drain_s};

	if (skip && !graceful)
		return areq_text(r, 400, "skip_exit requires graceful\n");
	if (!graceful) {
		listeners_stop_accepting(r->w->listeners, inbound, true);
		return areq_text(r, 200, "OK\n");
	}
	if (!r->w->draining) {
		r->w->draining = true;
		r->w->drain_inbound = inbound;
		listeners_stop_accepting(r->w->listeners, inbound, false);
		if (!skip) {
			r->w->drain_end = evtimer_new(r->w->main->base, on_drained, r->w);
			if (!r->w->drain_end || event_add(r->w->drain_end, &tv))
				abort(); /* memory is out */
		}
	}
	return areq_text(r, 200, "OK\n");
}

/* ---- the rest */
int admin_fail(struct areq *r)
{
	r->w->health_failed = true;
	weft_local_health_fail(true);
	return areq_text(r, 200, "OK\n");
}

int admin_ok(struct areq *r)
{
	r->w->health_failed = false;
	weft_local_health_fail(false);
	return areq_text(r, 200, "OK\n");
}

static void quit(struct weft_worker *w, void *arg)
{
	waypoint_quit(arg);
}

int admin_quit(struct areq *r)
{
	/* the answer goes first */
	weft_worker_post(r->w->main, quit, r->w);
	return areq_text(r, 200, "OK\n");
}

int admin_reset(struct areq *r)
{
	weft_scope_reset_counters();
	return areq_text(r, 200, "OK\n");
}

int admin_reopen(struct areq *r)
{
	waypoint_logs_reopen(r->w);
	return areq_text(r, 200, "OK\n");
}
