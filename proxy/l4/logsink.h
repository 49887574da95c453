/* Where log lines go, for the writers of this folder: never a wait for the target. */
#pragma once
#include "proxy/l4/accesslog.h"

/* Whole lines of p, in as few calls as the target allows; how many bytes it took. Any thread. */
size_t weft_log_sink_put(struct weft_log_sink *s, const char *p, size_t n);
size_t weft_log_lines(const char *p, size_t n);
/* Opens a file's path again (it was moved away); the old one stays on failure. Others may write
 * meanwhile. */
int weft_log_sink_reopen(struct weft_log_sink *s, const char *target, struct weft_err *reterr);
