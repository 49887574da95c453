/* Heads, trailers and chunk frames into a caller's buffer. */
#include "proxy/codec/h1.h"
#include "proxy/codec/h1_priv.h"
#include <errno.h>

#define T CLASS_TOKEN
#define H CLASS_HOST
#define G CLASS_TARGET
#define X CLASS_HEX
/* RFC 9110 §5.6.2 tokens; RFC 3986 reg-name; hexadecimal; a request target: what is seen but '#'.
 */
const uint8_t weft_h1_class[256] = {
	['!'] = T | H | G,
	['"'] = G,
	['#'] = T,
	['$'] = T | H | G,
	['%'] = T | H | G,
	['&'] = T | H | G,
	['\''] = T | H | G,
	['('] = H | G,
	[')'] = H | G,
	['*'] = T | H | G,
	['+'] = T | H | G,
	[','] = H | G,
	['-'] = T | H | G,
	['.'] = T | H | G,
	['/'] = G,
	['0' ... '9'] = T | H | G | X,
	[':'] = G,
	[';'] = H | G,
	['<'] = G,
	['='] = H | G,
	['>' ... '@'] = G,
	['A' ... 'F'] = T | H | G | X,
	['G' ... 'Z'] = T | H | G,
	['['] = G,
	['\\'] = G,
	[']'] = G,
	['^'] = T | G,
	['_'] = T | H | G,
	['`'] = T | G,
	['a' ... 'f'] = T | H | G | X,
	['g' ... 'z'] = T | H | G,
	['{'] = G,
	['|'] = T | G,
	['}'] = G,
	['~'] = T | H | G,
};

bool weft_h1_name_ok(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!weft_h1_is(s[i], CLASS_TOKEN))
			return false;
	return n;
}

bool weft_h1_value_ok(const char *s, size_t n)
{
	return !n || weft_h1_value_end(s, s + n) == s + n;
}

static bool pseudo(const struct weft_h1_header *h)
{
	return h->name_len && h->name[0] == ':';
}

/* -EINVAL, or the bytes of all fields. */
static ssize_t fields_size(const struct weft_h1_header *v, size_t n)
{
	size_t bytes = 0;

	for (size_t i = 0; i < n; i++) {
		if (pseudo(&v[i]))
			continue;
		if (!weft_h1_name_ok(v[i].name, v[i].name_len) ||
		    !weft_h1_value_ok(v[i].value, v[i].value_len))
			return -EINVAL;
		bytes += v[i].name_len + v[i].value_len + 4;
	}
	return (ssize_t)bytes;
}

static char *put(char *d, const char *s, size_t n)
{
	if (n)
		memcpy(d, s, n);
	return d + n;
}

static bool letter(char c)
{
	c = weft_h1_lower(c);
	return c >= 'a' && c <= 'z';
}

static char *put_proper(char *d, const char *s, size_t n)
{
	bool up = true;

	for (size_t i = 0; i < n; i++) {
		char c = weft_h1_lower(s[i]);

		*d++ = up && letter(c) ? (char)(c & ~0x20) : c;
		up = !letter(c) && !(c >= '0' && c <= '9');
	}
	return d;
}

static char *put_fields(char *d, const struct weft_h1_header *v, size_t n, enum weft_h1_case c)
{
	for (size_t i = 0; i < n; i++) {
		if (pseudo(&v[i]))
			continue;
		d = c == WEFT_H1_PROPER_CASE ? put_proper(d, v[i].name, v[i].name_len)
					     : put(d, v[i].name, v[i].name_len);
		d = put(d, ": ", 2);
		d = put(d, v[i].value, v[i].value_len);
		d = put(d, "\r\n", 2);
	}
	return put(d, "\r\n", 2);
}

static bool target_ok(const struct weft_h1_slice *t)
{
	for (uint32_t i = 0; i < t->n; i++)
		if ((uint8_t)t->p[i] <= ' ' || t->p[i] == 0x7f)
			return false;
	return t->n;
}

/* "GET / HTTP/1.1\r\n" */
static ssize_t request_size(const struct weft_h1_out *o)
{
	if (!weft_h1_name_ok(o->method.p, o->method.n) || !target_ok(&o->target))
		return -EINVAL;
	return (ssize_t)(o->method.n + o->target.n + 12);
}

/* "HTTP/1.1 200 OK\r\n" */
static ssize_t status_size(const struct weft_h1_out *o, struct weft_h1_slice reason)
{
	if (o->status < 100 || o->status > 999 || !weft_h1_value_ok(reason.p, reason.n))
		return -EINVAL;
	return 9 + 4 + reason.n + 2;
}

static char *put_version(char *d, uint8_t minor)
{
	return put(d, minor ? "HTTP/1.1" : "HTTP/1.0", 8);
}

static char *put_request(char *d, const struct weft_h1_out *o)
{
	d = put(d, o->method.p, o->method.n);
	*d++ = ' ';
	d = put(d, o->target.p, o->target.n);
	*d++ = ' ';
	return put(put_version(d, o->minor), "\r\n", 2);
}

static char *put_status(char *d, const struct weft_h1_out *o, struct weft_h1_slice reason)
{
	const char text[] = {
		' ',
		(char)('0' + o->status / 100),
		(char)('0' + o->status / 10 % 10),
		(char)('0' + o->status % 10),
		' ',
	};

	d = put(put_version(d, o->minor), text, sizeof(text));
	return put(put(d, reason.p, reason.n), "\r\n", 2);
}

ssize_t weft_h1_head_write(const struct weft_h1_out *o, char *dst, size_t cap)
{
	struct weft_h1_slice reason = o->reason;
	ssize_t line, rest = fields_size(o->v, o->n), all;

	if (!o->method.n && !reason.p) {
		reason.p = weft_h1_reason(o->status);
		reason.n = (uint32_t)strlen(reason.p);
	}
	line = o->method.n ? request_size(o) : status_size(o, reason);
	if (line < 0 || rest < 0)
		return -EINVAL;
	all = line + rest + 2;
	if ((size_t)all > cap)
		return all;
	dst = o->method.n ? put_request(dst, o) : put_status(dst, o, reason);
	(void)put_fields(dst, o->v, o->n, o->name_case);
	return all;
}

ssize_t weft_h1_last_chunk_write(const struct weft_h1_header *v, size_t n, enum weft_h1_case c,
				 char *dst, size_t cap)
{
	ssize_t bytes = fields_size(v, n);

	if (bytes < 0)
		return bytes;
	bytes += 3 + 2;
	if ((size_t)bytes <= cap)
		(void)put_fields(put(dst, "0\r\n", 3), v, n, c);
	return bytes;
}

size_t weft_h1_chunk_head(char dst[WEFT_H1_CHUNK_HEAD_MAX], uint64_t n)
{
	int digits = n ? (67 - __builtin_clzll(n)) / 4 : 1;

	for (int i = digits - 1; i >= 0; i--, n >>= 4)
		dst[i] = "0123456789abcdef"[n & 15];
	memcpy(dst + digits, "\r\n", 2);
	return (size_t)digits + 2;
}
