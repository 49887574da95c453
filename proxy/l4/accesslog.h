/* Access log: lines, and a writer that never holds up its thread. Fields and their order:
 * ambient-contract §8. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct weft_stat;
struct weft_log_sink;	/* where lines go; shared by all threads, immutable */
struct weft_access_log; /* one thread's buffer in front of it */

enum weft_log_format { WEFT_LOG_TEXT, WEFT_LOG_JSON };
enum {
	WEFT_ACCESS_LINE_MAX = 4096, /* a pipe takes this much in one piece */
	WEFT_ACCESS_FIELD_MAX =
		256, /* bytes of a text field as written; longer ones end in "..." */
	WEFT_ACCESS_BUFFER = 64 << 10, /* a thread */
	WEFT_ACCESS_FLUSH_MS = 50,
	WEFT_ACCESS_LINES_A_SECOND = 1000 /* a workload, on all threads together */
};

struct weft_access_side {
	const struct weft_sockaddr *addr;
	const char *workload, *ns, *identity, *cluster; /* NULL or "": left out */
};
struct weft_access_rec {
	enum { WEFT_ACCESS_INFO, WEFT_ACCESS_WARN, WEFT_ACCESS_ERROR, WEFT_ACCESS_DEBUG } level;
	const char *message;
	struct weft_access_side src, dst;
	const struct weft_sockaddr *hbone; /* NULL: none */
	const char *service, *trace_id;
	bool inbound;
	bool bare; /* not of a connection: src.workload, reason and error only */
	uint64_t sent, received, duration_ms;
	const char *reason,
		*error;	 /* reason NULL: not ended yet, no counts. error NULL: it ended in order */
	int64_t time_us; /* unix */
};
/* One line with its newline, at most WEFT_ACCESS_LINE_MAX bytes; returns its length. Control bytes
 * are escaped. Pure. */
size_t weft_access_format(enum weft_log_format f, const struct weft_access_rec *r, char *dst);

/* "-": standard output; else a file to append to, made with mode 0640. Before the seal. */
int weft_log_sink_open(const char *target, struct weft_log_sink **ret, struct weft_err *reterr);
void weft_log_sink_free(struct weft_log_sink *s);

/* lost counts lines that the target did not take, over those beyond a budget: references, taken.
 * threads: among how many the budget of a workload is shared. Its events are on base; one thread.
 */
struct weft_access_log *weft_access_log_new(struct event_base *base, struct weft_log_sink *s,
					    enum weft_log_format f, unsigned threads,
					    struct weft_stat *lost, struct weft_stat *over);
void weft_access_log_free(struct weft_access_log *l); /* flushes; NULL is fine */
/* workload: whose budget the line is taken from. Dropped beyond it: counted in over, and told by a
 * line a second. */
void weft_access_log_write(struct weft_access_log *l, const char *workload,
			   const struct weft_access_rec *r);
void weft_access_log_flush(struct weft_access_log *l);
