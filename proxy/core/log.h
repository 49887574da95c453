/* Program log: one line an event, key=value text, to stderr. Library code does not log; programs
 * do. Any thread. */
#pragma once
#include <stdbool.h>

struct weft_err;
enum weft_log_level { WEFT_LOG_ERROR, WEFT_LOG_WARN, WEFT_LOG_INFO, WEFT_LOG_DEBUG };

void weft_log_setup(const char *program, enum weft_log_level level, bool json);
int weft_log_level_parse(const char *s, enum weft_log_level *ret); /* -EINVAL */
bool weft_log_on(enum weft_log_level level);
/* Control bytes in the text are escaped; lines are cut at 4 KiB. One write(2) a line. */
void weft_log(enum weft_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void weft_log_err(enum weft_log_level level, const struct weft_err *e, const char *what);
