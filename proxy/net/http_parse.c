#include "proxy/net/http_parse.h"

#include "proxy/net/http_admin.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

enum { METHOD_MAX = 16, HEADERS_MAX = 64 };
static const size_t LENGTH_MAX = (size_t)1 << 31;

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int weft_http_decode(const char *s, size_t n, bool plus, char *dst, size_t cap)
{
	size_t used = 0;

	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (c == '%') {
			int hi = n - i > 2 ? hex(s[i + 1]) : -1;
			int lo = n - i > 2 ? hex(s[i + 2]) : -1;

			if (hi < 0 || lo < 0 || !(hi | lo))
				return -EINVAL;
			c = (char)(hi << 4 | lo);
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		}
		if (used + 1 >= cap)
			return -E2BIG;
		dst[used++] = c;
	}
	if (used >= cap)
		return -E2BIG;
	dst[used] = '\0';
	return (int)used;
}

int weft_http_query(const char *q, const char *key, char *dst, size_t cap)
{
	size_t key_n = strlen(key);

	while (*q) {
		size_t n = strcspn(q, "&"), name = strcspn(q, "=&");
		int got;

		if (name == key_n && !memcmp(q, key, key_n)) {
			bool value = name < n;

			got = weft_http_decode(q + name + value, n - name - value, true, dst, cap);
			return got < 0 ? got : 0;
		}
		q += n + (q[n] == '&');
	}
	return -ENOENT;
}

/* RFC 9110 §5.6.2 */
static bool is_token(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c <= ' ' || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c))
			return false;
	}
	return n > 0;
}

/* "METHOD /path?query HTTP/1.x", NUL-terminated. */
static int request_line(char *line, struct weft_http_head *ret)
{
	char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
	char *query;
	int n;

	if (!version)
		return 400;
	*target++ = '\0';
	*version++ = '\0';
	if (!is_token(line, strlen(line)) || strlen(line) > METHOD_MAX || *target != '/')
		return 400;
	if (strncmp(version, "HTTP/", 5) != 0)
		return 400;
	if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
		return 505;
	for (const char *p = target; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f || *p == '#')
			return 400;
	query = target + strcspn(target, "?");
	if (*query)
		*query++ = '\0';
	n = weft_http_decode(target, strlen(target), false, target, strlen(target) + 1);
	if (n < 0)
		return 400;
	for (const char *p = target; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return 400;
	ret->method = line;
	ret->path = target;
	ret->query = query;
	return 0;
}

static int content_length(const char *s, struct weft_http_head *ret, bool *seen)
{
	size_t v = 0;

	if (!*s || *seen)
		return 400;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return 400;
		v = v * 10 + (size_t)(*s - '0');
		if (v > LENGTH_MAX)
			return 413;
	}
	*seen = true;
	ret->content_length = v;
	return 0;
}

/* "Name: value", NUL-terminated. */
static int header_line(char *line, struct weft_http_head *ret, bool *seen_length)
{
	char *colon = strchr(line, ':'), *value, *end;

	if (!colon || !is_token(line, (size_t)(colon - line)))
		return 400; /* also a folded line, and a space before the colon */
	*colon = '\0';
	value = colon + 1 + strspn(colon + 1, " \t");
	end = value + strlen(value);
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	for (const char *p = value; *p; p++)
		if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
			return 400;
	if (!strcasecmp(line, "content-length"))
		return content_length(value, ret, seen_length);
	if (!strcasecmp(line, "transfer-encoding"))
		return 501;
	if (!strcasecmp(line, "expect"))
		ret->expect_continue = !strcasecmp(value, "100-continue");
	if (!strcasecmp(line, "authorization")) {
		if (ret->bearer)
			return 400; /* which of them? */
		if (!strncasecmp(value, "Bearer ", 7))
			ret->bearer = value + 7 + strspn(value + 7, " ");
	}
	return 0;
}

int weft_http_head_parse(char *buf, size_t n, struct weft_http_head *ret)
{
	bool seen_length = false;
	char *line = buf, *end;
	int status;

	*ret = (struct weft_http_head){0};
	buf[n] = '\0';
	if (n < 4 || strlen(buf) != n || memcmp(buf + n - 4, "\r\n\r\n", 4) != 0)
		return 400;
	end = strchr(line, '\n');
	for (int i = 0; i < HEADERS_MAX; i++) {
		if (end == line || end[-1] != '\r')
			return 400; /* a bare line feed */
		end[-1] = '\0';
		if (!*line)
			return end + 1 == buf + n && i ? 0 : 400;
		status = i ? header_line(line, ret, &seen_length) : request_line(line, ret);
		if (status)
			return status;
		line = end + 1;
		end = strchr(line, '\n');
		if (!end)
			return 400;
	}
	return 431;
}
