#include "proxy/l4/accesslog.h"

#include <string.h>
#include <time.h>

/* Bounded output: once full it stays full; callers leave room for the end of the line. */
struct out {
	char *p;
	size_t n, cap;
};

static void put_n(struct out *o, const char *s, size_t n)
{
	if (o->n + n > o->cap)
		n = o->cap - o->n;
	memcpy(o->p + o->n, s, n);
	o->n += n;
}

static void put(struct out *o, const char *s)
{
	put_n(o, s, strlen(s));
}

static void put_num(struct out *o, uint64_t v, unsigned width)
{
	char digits[24];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v || sizeof(digits) - at < width);
	put_n(o, digits + at, sizeof(digits) - at);
}

/* Names of peers are bytes that others chose: what could end a line or a string, or is no ASCII, is
 * written as \u00XX. UTF-8 is left as it is; bytes that are none never get here from xDS, and from
 * a header each is escaped. */
static size_t utf8_len(const unsigned char *s)
{
	size_t n = s[0] >= 0xc2 && s[0] < 0xe0	 ? 2
		   : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
		   : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
						 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* overlong forms, surrogates, beyond U+10FFFF; and U+0080..U+009F, which are control
	 * characters */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) ||
	    (s[0] == 0xc2 && s[1] < 0xa0))
		return 0;
	return n;
}

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* What is not plain, at most 6 bytes; moves *s on. */
static size_t escape(char *dst, const unsigned char **s)
{
	static const char hex[] = "0123456789abcdef";
	size_t len = **s < 0x80 ? 0 : utf8_len(*s);

	if (len) {
		memcpy(dst, *s, len);
		*s += len;
		return len;
	}
	if (**s == '"' || **s == '\\') {
		dst[0] = '\\';
		dst[1] = (char)*(*s)++;
		return 2;
	}
	memcpy(dst, "\\u00", 4);
	dst[4] = hex[**s >> 4];
	dst[5] = hex[*(*s)++ & 15];
	return 6;
}

static void put_quoted(struct out *o, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	char field[WEFT_ACCESS_FIELD_MAX + 16];
	size_t n = 0;

	field[n++] = '"';
	while (*s && n <= WEFT_ACCESS_FIELD_MAX - 10) {
		if (is_plain(*s))
			field[n++] = (char)*s++;
		else
			n += escape(field + n, &s);
	}
	if (*s) {
		memcpy(field + n, "...", 3);
		n += 3;
	}
	field[n++] = '"';
	put_n(o, field, n);
}

static void put_time(struct out *o, int64_t us)
{
	time_t sec = us / 1000000;
	struct tm tm;

	gmtime_r(&sec, &tm);
	put_num(o, (uint64_t)(tm.tm_year + 1900), 4);
	put(o, "-");
	put_num(o, (uint64_t)(tm.tm_mon + 1), 2);
	put(o, "-");
	put_num(o, (uint64_t)tm.tm_mday, 2);
	put(o, "T");
	put_num(o, (uint64_t)tm.tm_hour, 2);
	put(o, ":");
	put_num(o, (uint64_t)tm.tm_min, 2);
	put(o, ":");
	put_num(o, (uint64_t)tm.tm_sec, 2);
	put(o, ".");
	put_num(o, (uint64_t)(us % 1000000), 6);
	put(o, "Z");
}

/* Text writes addresses and numbers bare, as upstream does; JSON writes only numbers bare. */
struct line {
	struct out o;
	bool json, first;
};

static void key(struct line *l, const char *k)
{
	if (l->json) {
		put(&l->o, ",\"");
		put(&l->o, k);
		put(&l->o, "\":");
		return;
	}
	put(&l->o, l->first ? "\t" : " ");
	l->first = false;
	put(&l->o, k);
	put(&l->o, "=");
}

static void field_text(struct line *l, const char *k, const char *v)
{
	if (!v || !v[0])
		return;
	key(l, k);
	put_quoted(&l->o, v);
}

static void field_addr(struct line *l, const char *k, const struct weft_sockaddr *a)
{
	char text[WEFT_SOCKADDR_TEXT];

	if (!a || !a->ip.family)
		return;
	key(l, k);
	weft_sockaddr_text(a, text, sizeof(text));
	put(&l->o, l->json ? "\"" : "");
	put(&l->o, text);
	put(&l->o, l->json ? "\"" : "");
}

static void field_num(struct line *l, const char *k, uint64_t v)
{
	key(l, k);
	put_num(&l->o, v, 1);
}

static void line_start(struct line *l, const struct weft_access_rec *r)
{
	static const char *const levels[] = {"info", "warn", "error", "debug"};

	if (l->json) {
		put(&l->o, "{\"level\":\"");
		put(&l->o, levels[r->level]);
		put(&l->o, "\",\"time\":\"");
		put_time(&l->o, r->time_us);
		put(&l->o, "\",\"scope\":\"access\",\"message\":");
		put_quoted(&l->o, r->message);
		return;
	}
	put_time(&l->o, r->time_us);
	put(&l->o, "\t");
	put(&l->o, levels[r->level]);
	put(&l->o, "\taccess\t");
	put(&l->o, r->message);
}

size_t weft_access_format(enum weft_log_format f, const struct weft_access_rec *r, char *dst)
{
	struct line l = {
		.o = {dst, 0, WEFT_ACCESS_LINE_MAX - 2}, .json = f == WEFT_LOG_JSON, .first = true};

	line_start(&l, r);
	field_addr(&l, "src.addr", r->src.addr);
	field_text(&l, "src.workload", r->src.workload);
	field_text(&l, "src.namespace", r->src.ns);
	field_text(&l, "src.identity", r->src.identity);
	field_text(&l, "src.cluster", r->src.cluster);
	field_addr(&l, "dst.addr", r->dst.addr);
	field_addr(&l, "dst.hbone_addr", r->hbone);
	field_text(&l, "dst.service", r->service);
	field_text(&l, "dst.workload", r->dst.workload);
	field_text(&l, "dst.namespace", r->dst.ns);
	field_text(&l, "dst.identity", r->dst.identity);
	field_text(&l, "dst.cluster", r->dst.cluster);
	if (!r->bare)
		field_text(&l, "direction", r->inbound ? "inbound" : "outbound");
	if (r->reason && !r->bare) {
		field_num(&l, "bytes_sent", r->sent);
		field_num(&l, "bytes_recv", r->received);
		key(&l, "duration");
		put(&l.o, "\"");
		put_num(&l.o, r->duration_ms, 1);
		put(&l.o, "ms\"");
	}
	field_text(&l, "reason", r->reason);
	field_text(&l, "error", r->error);
	field_text(&l, "trace_id", r->trace_id);
	l.o.cap = WEFT_ACCESS_LINE_MAX;
	put(&l.o, l.json ? "}\n" : "\n");
	return l.o.n;
}
