#include "proxy/core/log.h"

#include "proxy/core/err.h"
#include "proxy/core/utf8.h"

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

/* One character of s, escaped where it must be, to esc; returns its bytes in s. */
static size_t escape(const char *s, bool json, char esc[8])
{
	unsigned char c = (unsigned char)*s;
	size_t n = weft_utf8_len(s);

	if (!n)
		snprintf(esc, 8, json ? "\\ufffd" : "\\x%02x", c);
	else if (n > 1)
		snprintf(esc, 8, "%.*s", (int)n, s);
	else if (c == '\n' || c == '\t' || c == '\r')
		snprintf(esc, 8, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
	else if (c < 0x20 || c == 0x7f)
		snprintf(esc, 8, json ? "\\u%04x" : "\\x%02x", c);
	else
		snprintf(esc, 8, "%s%c", json && (c == '"' || c == '\\') ? "\\" : "", c);
	return n ? n : 1;
}

/* Writes at most cap bytes, whole characters only. */
static size_t put_escaped(char *dst, size_t cap, const char *s, bool json)
{
	size_t n = 0;
	char esc[8];

	while (*s) {
		size_t w;

		s += escape(s, json, esc);
		w = strlen(esc);
		if (n + w > cap)
			break;
		memcpy(dst + n, esc, w);
		n += w;
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
