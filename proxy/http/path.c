#include "proxy/http/path.h"

#include "proxy/core/utf8.h"
#include <sys/types.h>

#include <string.h>

static int hex_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* %XX at s: its byte; -1: none. */
static int escape_at(const char *s, size_t n)
{
	int hi, lo;

	if (n < 3 || s[0] != '%')
		return -1;
	hi = hex_of(s[1]);
	lo = hex_of(s[2]);
	return hi < 0 || lo < 0 ? -1 : 16 * hi + lo;
}

static bool unreserved(int c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_' || c == '~';
}

/* Bytes that stand in a path only as %XX. */
static bool must_escape(unsigned char c)
{
	return c <= ' ' || c >= 0x7f || strchr("\"<>^`{|}", c);
}

/* A dot, plain or escaped: how many bytes; 0: none. */
static size_t dot_at(const char *s, size_t n)
{
	if (n && *s == '.')
		return 1;
	return escape_at(s, n) == '.' ? 3 : 0;
}

static bool ends_segment(const char *s, size_t n)
{
	return !n || *s == '/' || *s == '\\';
}

static size_t put_escaped(char *to, unsigned char c)
{
	static const char hex[] = "0123456789ABCDEF";

	to[0] = '%';
	to[1] = hex[c >> 4];
	to[2] = hex[c & 15];
	return 3;
}

/* After a slash: "." and ".." segments. Returns the bytes eaten, 0: another segment; *at moves back
 * for "..". */
static size_t eat_dots(const char *s, size_t n, const char *out, size_t *at)
{
	size_t one = dot_at(s, n), two;

	if (!one)
		return 0;
	if (ends_segment(s + one, n - one))
		return one + (n > one);
	two = dot_at(s + one, n - one);
	if (!two || !ends_segment(s + one + two, n - one - two))
		return 0;
	/* to the slash before the last segment; the root has none above */
	if (*at > 1)
		for ((*at)--; *at && out[*at - 1] != '/'; (*at)--)
			;
	return one + two + (n > one + two);
}

/* to has room for 3 n + 1. -1: not a path. */
static ssize_t normalize(const char *s, size_t n, char *to)
{
	size_t at = 0, i = 0, eaten;

	while (i < n) {
		unsigned char c = (unsigned char)s[i];
		int esc;

		if (c == '/' || c == '\\') {
			to[at++] = '/';
			i++;
			while ((eaten = eat_dots(s + i, n - i, to, &at)))
				i += eaten;
			continue;
		}
		esc = escape_at(s + i, n - i);
		if (esc == 0)
			return -1;
		if (esc > 0) {
			if (unreserved(esc)) {
				to[at++] = (char)esc;
			} else {
				memcpy(to + at, s + i, 3);
				at += 3;
			}
			i += 3;
			continue;
		}
		if (c >= 0x80) {
			size_t len = weft_utf8_len(s + i);

			if (!len || len > n - i)
				return -1;
			for (; len; len--)
				at += put_escaped(to + at, (unsigned char)s[i++]);
			continue;
		}
		if (must_escape(c))
			at += put_escaped(to + at, c);
		else
			to[at++] = (char)c;
		i++;
	}
	return (ssize_t)at;
}

static size_t unescape_slashes(char *s, size_t n, bool *ret_found)
{
	size_t to = 0;

	for (size_t i = 0; i < n; i++) {
		int esc = escape_at(s + i, n - i);

		if (esc == '/' || esc == '\\') {
			s[to++] = (char)esc;
			i += 2;
			*ret_found = true;
		} else {
			s[to++] = s[i];
		}
	}
	return to;
}

static size_t merge_slashes(char *s, size_t n)
{
	size_t to = 0;

	for (size_t i = 0; i < n; i++)
		if (s[i] != '/' || !to || s[to - 1] != '/')
			s[to++] = s[i];
	return to;
}

/* Nothing here would change: the usual case costs one look. */
static bool is_plain(const struct weft_path_conf *conf, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c == '%' || c == '\\')
			return false;
		if (conf->normalize && must_escape(c))
			return false;
		if (c == '/' && i + 1 < n && (p[i + 1] == '.' || p[i + 1] == '/'))
			return false;
	}
	return true;
}

enum weft_path_verdict weft_path_fix(const struct weft_path_conf *conf, struct weft_arena *a,
				     const char *p, size_t n, const char **ret, size_t *ret_n)
{
	const char *query = memchr(p, '?', n);
	size_t path_n = query ? (size_t)(query - p) : n, query_n = n - path_n;
	bool found = false;
	char *work, *out;
	ssize_t r;

	*ret = p;
	*ret_n = n;
	if (memchr(p, '#', n))
		return WEFT_PATH_REJECT;
	if ((!conf->normalize && !conf->merge && conf->slashes == WEFT_SLASHES_KEEP) ||
	    is_plain(conf, p, path_n))
		return WEFT_PATH_OK;
	work = weft_arena_alloc(a, path_n + 1);
	memcpy(work, p, path_n);
	if (conf->slashes != WEFT_SLASHES_KEEP)
		path_n = unescape_slashes(work, path_n, &found);
	if (found && conf->slashes == WEFT_SLASHES_REJECT)
		return WEFT_PATH_REJECT;
	work[path_n] = '\0';
	out = weft_arena_alloc(a, 3 * path_n + query_n + 1);
	if (conf->normalize) {
		r = normalize(work, path_n, out);
		if (r < 0)
			return WEFT_PATH_REJECT;
		path_n = (size_t)r;
	} else {
		memcpy(out, work, path_n);
	}
	if (conf->merge)
		path_n = merge_slashes(out, path_n);
	if (query_n)
		memcpy(out + path_n, query, query_n);
	out[path_n + query_n] = '\0';
	*ret = out;
	*ret_n = path_n + query_n;
	return found && conf->slashes == WEFT_SLASHES_REDIRECT ? WEFT_PATH_REDIRECT : WEFT_PATH_OK;
}
