/* JSON into the events of a YAML document. Only what is certain to mean the same in both: for
 * anything else, and for every error, the YAML reader takes the text. */
#include "xds/yaml_priv.h"
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = 500 }; /* YAML has a limit of about a thousand characters */

struct json {
	const char *p, *end, *line_start;
	int line;
	struct yaml_events *ev;
	struct yaml_keeper keeper;
	char *buf; /* of a string with escapes; owned */
	size_t cap;
	uint32_t open[WEFT_YAML_DEPTH_MAX];
	int depth;
};

/* Nothing that YAML would refuse or count differently. */
static bool is_plain_ascii(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c >= 0x7f || (c < 0x20 && c != '\n' && c != '\t'))
			return false;
	}
	return true;
}

static void blanks(struct json *j)
{
	for (; j->p < j->end; j->p++) {
		if (*j->p == '\n') {
			j->line++;
			j->line_start = j->p + 1;
		} else if (*j->p != ' ') {
			return; /* a tab too: YAML has rules for them */
		}
	}
}

static struct yev *push(struct json *j, enum yev_type type)
{
	struct yaml_events *ev = j->ev;
	struct yev *y;

	if (ev->n == ev->cap) {
		ev->cap = ev->cap ? ev->cap * 2 : 64;
		ev->v = weft_xrealloc(ev->v, ev->cap * sizeof(*ev->v));
	}
	y = &ev->v[ev->n++];
	*y = (struct yev){.type = type,
			  .line = j->line,
			  .col = (unsigned)(j->p - j->line_start) + 1,
			  .next = (uint32_t)ev->n};
	return y;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'			? c - '0'
	       : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
							: -1;
}

/* \uXXXX, but for NUL and surrogates, as UTF-8. */
static bool unescape_u(const char *p, const char *end, char *dst, size_t *n)
{
	unsigned v = 0;

	if (end - p < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		int h = hex(p[i]);

		if (h < 0)
			return false;
		v = v << 4 | (unsigned)h;
	}
	if (v == 0 || (v >= 0xd800 && v < 0xe000))
		return false;
	if (v < 0x80) {
		dst[(*n)++] = (char)v;
	} else if (v < 0x800) {
		dst[(*n)++] = (char)(0xc0 | v >> 6);
		dst[(*n)++] = (char)(0x80 | (v & 0x3f));
	} else {
		dst[(*n)++] = (char)(0xe0 | v >> 12);
		dst[(*n)++] = (char)(0x80 | (v >> 6 & 0x3f));
		dst[(*n)++] = (char)(0x80 | (v & 0x3f));
	}
	return true;
}

/* Of the length between the quotes, of which no escape makes more. */
static bool unescape(struct json *j, const char *p, const char *end, size_t *ret_n)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	size_t n = 0;

	if ((size_t)(end - p) + 1 > j->cap) {
		j->cap = 2 * (size_t)(end - p) + 64;
		j->buf = weft_xrealloc(j->buf, j->cap);
	}
	while (p < end) {
		const char *e;

		if (*p != '\\') {
			j->buf[n++] = *p++;
			continue;
		}
		p++; /* the character after it is there: it was looked at to find the end */
		if (*p == 'u') {
			if (!unescape_u(p + 1, end, j->buf, &n))
				return false;
			p += 5;
			continue;
		}
		e = strchr(from, *p++);
		if (!e)
			return false;
		j->buf[n++] = to[e - from];
	}
	j->buf[n] = '\0';
	*ret_n = n;
	return true;
}

static bool string(struct json *j)
{
	struct yev *y = push(j, YEV_SCALAR);
	const char *from = ++j->p;
	bool escaped = false;
	size_t n;

	for (; j->p < j->end && *j->p != '"'; j->p++) {
		if (*j->p == '\n' || *j->p == '\t')
			return false;
		if (*j->p == '\\') {
			escaped = true;
			if (++j->p == j->end || *j->p == '\n')
				return false;
		}
	}
	if (j->p == j->end)
		return false;
	n = (size_t)(j->p - from);
	if (escaped) {
		if (!unescape(j, from, j->p, &n))
			return false;
		y->v = yaml_keep(&j->keeper, j->buf, n);
	} else {
		if (n + 1 > j->cap) {
			j->cap = 2 * n + 64;
			j->buf = weft_xrealloc(j->buf, j->cap);
		}
		memcpy(j->buf, from, n);
		j->buf[n] = '\0';
		y->v = yaml_keep(&j->keeper, j->buf, n);
	}
	y->n = (uint32_t)n;
	j->p++;
	return true;
}

/* A number, true, false or null. */
static bool word(struct json *j)
{
	struct yev *y = push(j, YEV_SCALAR);
	char text[48];
	size_t n = 0;

	while (j->p + n < j->end && n < sizeof(text) - 1 && j->p[n] &&
	       strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", j->p[n])) {
		text[n] = j->p[n];
		n++;
	}
	text[n] = '\0';
	y->plain = true;
	y->n = (uint32_t)n;
	y->v = yaml_keep(&j->keeper, text, n);
	j->p += n;
	switch (n && n < sizeof(text) - 1 ? yaml_scalar_sort(y) : YAML_STRING) {
	case YAML_NULL:
	case YAML_BOOL:
	case YAML_INT:
	case YAML_FLOAT:
		return true;
	default:
		return false;
	}
}

static bool begin(struct json *j, enum yev_type type)
{
	if (j->depth == WEFT_YAML_DEPTH_MAX)
		return false;
	push(j, type);
	j->p++;
	j->open[j->depth++] = (uint32_t)(j->ev->n - 1);
	return true;
}

static void end(struct json *j)
{
	push(j, YEV_END);
	j->p++;
	j->ev->v[j->open[--j->depth]].next = (uint32_t)j->ev->n;
}

static bool in_map(const struct json *j)
{
	return j->ev->v[j->open[j->depth - 1]].type == YEV_MAP;
}

static bool key(struct json *j)
{
	blanks(j);
	if (j->p == j->end || *j->p != '"' || !string(j) || j->p == j->end || *j->p != ':' ||
	    j->ev->v[j->ev->n - 1].n > KEY_MAX)
		return false;
	j->p++;
	blanks(j);
	return j->p < j->end;
}

/* A scalar, or the beginning of a container that is not closed at once. */
static bool value(struct json *j, bool *ret_open)
{
	char close = *j->p == '{' ? '}' : ']';

	*ret_open = false;
	if (*j->p == '"')
		return string(j);
	if (*j->p != '{' && *j->p != '[')
		return word(j);
	if (!begin(j, *j->p == '{' ? YEV_MAP : YEV_LIST))
		return false;
	blanks(j);
	if (j->p < j->end && *j->p == close)
		end(j);
	else
		*ret_open = true;
	return true;
}

/* What follows a value: closing brackets, then a comma. False: neither. */
static bool after_value(struct json *j)
{
	for (;;) {
		blanks(j);
		if (!j->depth)
			return true;
		if (j->p == j->end)
			return false;
		if (*j->p == ',') {
			j->p++;
			return true;
		}
		if (*j->p != (in_map(j) ? '}' : ']'))
			return false;
		end(j);
	}
}

static bool document(struct json *j)
{
	bool open;

	do {
		if (j->depth && in_map(j) && !key(j))
			return false;
		blanks(j);
		if (j->p == j->end || !value(j, &open))
			return false;
		if (!open && !after_value(j))
			return false;
		if (j->ev->n > YAML_EVENTS_MAX)
			return false;
	} while (j->depth);
	blanks(j);
	return j->p == j->end;
}

bool yaml_json_read(struct weft_arena *a, const char *text, size_t n, struct yaml_events *ev)
{
	struct json j = {
		.p = text, .end = text + n, .line_start = text, .line = 1, .ev = ev, .keeper.a = a};
	bool ok;

	blanks(&j);
	if (j.p == j.end || (*j.p != '{' && *j.p != '[') || !is_plain_ascii(text, n))
		return false;
	ev->line = j.line;
	ok = document(&j);
	ev->end_line = j.line;
	if (!ok)
		ev->n = 0;
	free(j.buf);
	return ok;
}
