/* RFC 3339 times. */
#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t time_min = -62135596800, time_max = 253402300799; /* years 1 to 9999 */

/* n digits at *s as a number within lo..hi, or -1. */
static int digits(const char **s, size_t n, int lo, int hi)
{
	int v = 0;

	for (size_t i = 0; i < n; i++, (*s)++) {
		if (**s < '0' || **s > '9')
			return -1;
		v = v * 10 + (**s - '0');
	}
	return v < lo || v > hi ? -1 : v;
}

static int fraction(const char **s, int32_t *ret)
{
	int32_t scale = 100000000, v = 0;
	size_t n;

	if (**s != '.')
		return 0;
	(*s)++;
	n = strspn(*s, "0123456789");
	if (n == 0 || n > 9)
		return -EINVAL;
	for (; n; n--, (*s)++, scale /= 10)
		v += (**s - '0') * scale;
	*ret = v;
	return 0;
}

/* Z or +hh:mm, in seconds. */
static int zone(const char **s, int *ret)
{
	int sign = **s == '-' ? -1 : 1, h, m;

	if ((**s | 0x20) == 'z') {
		(*s)++;
		*ret = 0;
		return 0;
	}
	if (**s != '+' && **s != '-')
		return -EINVAL;
	(*s)++;
	h = digits(s, 2, 0, 23);
	if (h < 0 || *(*s)++ != ':')
		return -EINVAL;
	m = digits(s, 2, 0, 59);
	if (m < 0)
		return -EINVAL;
	*ret = sign * (h * 3600 + m * 60);
	return 0;
}

static int clock_time(const char **s, struct tm *t)
{
	t->tm_hour = digits(s, 2, 0, 23);
	if (t->tm_hour < 0 || *(*s)++ != ':')
		return -EINVAL;
	t->tm_min = digits(s, 2, 0, 59);
	if (t->tm_min < 0 || *(*s)++ != ':')
		return -EINVAL;
	t->tm_sec = digits(s, 2, 0, 59);
	return t->tm_sec < 0 ? -EINVAL : 0;
}

int yaml_time_parse(const char *s, int64_t *ret_seconds, int32_t *ret_nanos)
{
	struct tm t = {0};
	int32_t nanos = 0;
	int64_t v;
	time_t at;
	int off, day;

	t.tm_year = digits(&s, 4, 1, 9999) - 1900;
	if (t.tm_year <= -1900 || *s++ != '-')
		return -EINVAL;
	t.tm_mon = digits(&s, 2, 1, 12) - 1;
	if (t.tm_mon < 0 || *s++ != '-')
		return -EINVAL;
	t.tm_mday = digits(&s, 2, 1, 31);
	if (t.tm_mday < 0 || ((*s | 0x20) != 't' && *s != ' '))
		return -EINVAL;
	s++;
	if (clock_time(&s, &t) < 0 || fraction(&s, &nanos) < 0 || zone(&s, &off) < 0 || *s)
		return -EINVAL;
	day = t.tm_mday;
	at = timegm(&t);
	if (t.tm_mday != day) /* it takes 30 February for 2 March */
		return -EINVAL;
	v = (int64_t)at - off;
	if (v < time_min || v > time_max)
		return -ERANGE;
	*ret_seconds = v;
	*ret_nanos = nanos;
	return 0;
}

/* What is no time is written as its nearest end. */
void yaml_time_text(int64_t seconds, int32_t nanos, char *dst, size_t cap)
{
	time_t at = seconds < time_min ? time_min : seconds > time_max ? time_max : seconds;
	unsigned ns = nanos < 0 ? 0 : (unsigned)nanos % 1000000000;
	char frac[16] = "";
	struct tm t;

	gmtime_r(&at, &t);
	if (ns) {
		size_t n = (size_t)snprintf(frac, sizeof(frac), ".%09u", ns);

		while (frac[n - 1] == '0')
			frac[--n] = '\0';
	}
	snprintf(dst, cap, "%04d-%02d-%02dT%02d:%02d:%02d%sZ", t.tm_year + 1900, t.tm_mon + 1,
		 t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, frac);
}
