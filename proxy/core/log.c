#include "proxy/core/log.h"

#include "proxy/core/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 4096, TEXT_MAX = 3072 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static char program_name[32] = "weft";
static _Atomic int level_now = WEFT_LOG_INFO;
static _Atomic bool json_now;

void weft_log_setup(const char *program, enum weft_log_level level, bool json)
{
	snprintf(program_name, sizeof(program_name), "%s", program);
	atomic_store(&level_now, (int)level);
	atomic_store(&json_now, json);
}

int weft_log_level_parse(const char *s, enum weft_log_level *ret)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++)
		if (!strcmp(s, level_names[i])) {
			*ret = (enum weft_log_level)i;
			return 0;
		}
	return -EINVAL;
}

bool weft_log_on(enum weft_log_level level)
{
	return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed);
}

/* Appends s with control bytes escaped (and what JSON wants escaped); never more than cap. */
static size_t put_escaped(char *dst, size_t cap, const char *s, bool json)
{
	size_t n = 0;

	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		char esc[8];
		int w;

		if (c == '\n' || c == '\t' || c == '\r')
			w = snprintf(esc, sizeof(esc), "\\%c",
				     c == '\n'	 ? 'n'
				     : c == '\t' ? 't'
						 : 'r');
		else if (c < 0x20 || c == 0x7f)
			w = snprintf(esc, sizeof(esc), json ? "\\u%04x" : "\\x%02x", c);
		else if (json && (c == '"' || c == '\\'))
			w = snprintf(esc, sizeof(esc), "\\%c", c);
		else
			w = snprintf(esc, sizeof(esc), "%c", c);
		if (n + (size_t)w >= cap)
			break;
		memcpy(dst + n, esc, (size_t)w);
		n += (size_t)w;
	}
	/* do not leave half a UTF-8 sequence behind a cut */
	if (*s)
		while (n && ((unsigned char)dst[n - 1] & 0x80)) {
			n--;
			if (((unsigned char)dst[n] & 0xc0) == 0xc0)
				break;
		}
	return n;
}

static void put_line(enum weft_log_level level, const char *text)
{
	char line[LINE_MAX_BYTES], when[48], day[24];
	bool json = atomic_load(&json_now);
	struct timespec ts;
	struct tm tm;
	int head;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(when, sizeof(when), "%s.%03ldZ", day, ts.tv_nsec / 1000000);
	head = snprintf(line, sizeof(line),
			json ? "{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",\"msg\":\""
			     : "%s %s %s: ",
			when, level_names[level], program_name);
	n = (size_t)head;
	n += put_escaped(line + n, sizeof(line) - n - 4, text, json);
	if (json) {
		line[n++] = '"';
		line[n++] = '}';
	}
	line[n++] = '\n';
	/* there is nowhere to report that stderr is gone */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

void weft_log(enum weft_log_level level, const char *fmt, ...)
{
	char text[TEXT_MAX];
	int saved = errno;
	va_list ap;

	if (!weft_log_on(level))
		return;
	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	put_line(level, text);
	errno = saved;
}

void weft_log_err(enum weft_log_level level, const struct weft_err *e, const char *what)
{
	char text[sizeof(struct weft_err) + 8];

	if (weft_log_on(level))
		weft_log(level, "%s: %s", what, weft_err_text(e, text, sizeof(text)));
}
