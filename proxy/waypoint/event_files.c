#include "proxy/waypoint/event_files.h"

#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/l4/logsink.h"
#include "proxy/upstream/health.h"
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

struct event_file {
	LIST_ENTRY(event_file) link;
	struct weft_log_sink *to;
	unsigned refs;
	bool stuck; /* told once, until it takes a line again */
	char path[];
};
static LIST_HEAD(, event_file) all = LIST_HEAD_INITIALIZER(all);

static void *file_open(const char *path, struct weft_err *reterr)
{
	struct weft_err err = {0}, *e = reterr ? reterr : &err;
	size_t n = strlen(path) + 1;
	struct event_file *f;

	LIST_FOREACH (f, &all, link)
		if (!strcmp(f->path, path)) {
			f->refs++;
			return f;
		}
	f = weft_xcalloc(1, sizeof(*f) + n);
	memcpy(f->path, path, n);
	f->refs = 1;
	if (weft_log_sink_open(path, &f->to, e)) {
		if (!reterr)
			weft_log_err(WEFT_LOG_WARN, e, "no events of health checks");
		free(f);
		return NULL;
	}
	LIST_INSERT_HEAD(&all, f, link);
	return f;
}

static void file_put(void *file, const char *line, size_t n)
{
	struct event_file *f = file;
	bool lost = weft_log_sink_put(f->to, line, n) < n;

	if (lost && !f->stuck)
		weft_log(WEFT_LOG_WARN, "events of health checks are lost: %s takes no line",
			 f->path);
	f->stuck = lost;
}

static void file_close(void *file)
{
	struct event_file *f = file;

	if (--f->refs)
		return;
	LIST_REMOVE(f, link);
	weft_log_sink_free(f->to);
	free(f);
}

void event_files_use(void)
{
	static const struct weft_event_files files = {
		.open = file_open, .put = file_put, .close = file_close};

	weft_health_events_to(&files);
}

void event_files_reopen(void)
{
	struct event_file *f;

	LIST_FOREACH (f, &all, link) {
		struct weft_err err = {0};

		if (weft_log_sink_reopen(f->to, f->path, &err))
			weft_log_err(WEFT_LOG_WARN, &err,
				     "the log of health checks stays where it was");
	}
}
