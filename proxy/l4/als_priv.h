/* Inside of access_*.c only. */
#pragma once
#include "proxy/l4/format_priv.h"

/* A file, or standard output or error, that lines go to: one for each path, shared by all loggers
 * and threads; refcounted. */
struct als_sink;
/* NULL: it cannot be opened. Main thread. */
struct als_sink *als_sink_get(const char *path, struct weft_err *reterr);
void als_sink_unref(void *sink); /* any thread */
/* Any thread: into its buffer, written by the loop soon. A thread without a loop writes at once. */
void als_sink_line(struct als_sink *s, const struct weft_format *f,
		   const struct weft_format_in *in);
