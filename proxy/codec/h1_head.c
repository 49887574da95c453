/* The scanner: one pass over a header block, slices and all guards of its form. */
#include "proxy/codec/h1.h"
#include "proxy/codec/h1_priv.h"
#include "proxy/core/arena.h"

enum { FIRST_SLOTS = 32, VERSION_LEN = 8 /* "HTTP/1.1" */ };

#define REP(b) (0x0101010101010101ULL * (uint8_t)(b))

/* Eight bytes at a time. The lowest byte that is marked is a control or DEL; those above it may be
 * marked by its borrow alone. */
const char *weft_h1_value_end(const char *s, const char *end)
{
	while (end - s >= 8) {
		uint64_t x, del, odd;

		memcpy(&x, s, 8);
		del = x ^ REP(0x7f);
		odd = ((x - REP(0x20)) & ~x) | ((del - REP(1)) & ~del);
		odd &= REP(0x80);
		if (!odd) {
			s += 8;
			continue;
		}
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		s += __builtin_ctzll(odd) / 8;
#endif
		if (!weft_h1_is_value(*s))
			return s;
		s++;
	}
	while (s < end && weft_h1_is_value(*s))
		s++;
	return s;
}

static const char *class_end(const char *s, const char *end, uint8_t classes)
{
	while (s < end && weft_h1_is(*s, classes))
		s++;
	return s;
}

static struct weft_h1_header *slot(struct weft_h1_event *ev, uint32_t max)
{
	uint32_t n = ev->head.n;

	if (n >= max)
		return NULL;
	if (n == ev->cap) {
		ev->cap = n ? 2 * n : FIRST_SLOTS;
		ev->v = weft_xrealloc(ev->v, ev->cap * sizeof(*ev->v));
	}
	ev->head.n++;
	return &ev->v[n];
}

/* What stands where a line ought to end: 2 for CRLF, 0 if more bytes must tell. */
static int line_end(const char *s, const char *end)
{
	if (s == end)
		return 0;
	if (*s == '\n')
		return -WEFT_H1_E_CODEC;
	if (*s != '\r')
		return -WEFT_H1_E_CHARACTERS;
	if (end - s < 2)
		return 0;
	return s[1] == '\n' ? 2 : -WEFT_H1_E_CODEC;
}

/* "name: value" and its CRLF. */
static ssize_t field(const char *s, const char *end, struct weft_h1_header *h)
{
	const char *name = s, *value, *stop;
	int r;

	s = class_end(s, end, CLASS_TOKEN);
	if (s == end)
		return 0;
	if (s == name || *s != ':') /* a folded line, a space before the colon, no name */
		return -WEFT_H1_E_CODEC;
	h->name = name;
	h->name_len = (uint32_t)(s - name);
	for (s++; s < end && (*s == ' ' || *s == '\t'); s++)
		;
	value = s;
	s = stop = weft_h1_value_end(s, end);
	r = line_end(s, end);
	if (r <= 0)
		return r;
	while (stop > value && (stop[-1] == ' ' || stop[-1] == '\t'))
		stop--;
	h->value = value;
	h->value_len = (uint32_t)(stop - value);
	return s + r - name;
}

/* Fields up to and with the empty line. */
static ssize_t fields(const struct weft_h1 *p, const char *s, const char *end,
		      struct weft_h1_event *ev)
{
	uint32_t max = p->conf->max_headers ?: WEFT_H1_HEADERS;
	const char *start = s;

	ev->head.n = 0;
	while (s < end) {
		struct weft_h1_header *h;
		ssize_t r;

		if (*s == '\r') {
			r = line_end(s, end);
			ev->head.v = ev->v;
			return r > 0 ? s + r - start : r;
		}
		h = slot(ev, max);
		if (!h)
			return -WEFT_H1_E_TOO_MANY;
		r = field(s, end, h);
		if (r <= 0)
			return r;
		s += r;
	}
	return 0;
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

/* "HTTP/1.0" or "HTTP/1.1" at s: 1; 0: need more. */
static int version(const char *s, const char *end, uint8_t *ret_minor)
{
	static const char want[] = "HTTP/";
	size_t n = (size_t)(end - s) < sizeof(want) - 1 ? (size_t)(end - s) : sizeof(want) - 1;

	if (memcmp(s, want, n))
		return -WEFT_H1_E_CODEC;
	if (end - s < VERSION_LEN)
		return 0;
	if (!digit(s[5]) || s[6] != '.' || !digit(s[7]))
		return -WEFT_H1_E_CODEC;
	if (s[5] != '1' || s[7] > '1')
		return -WEFT_H1_E_VERSION;
	*ret_minor = (uint8_t)(s[7] - '0');
	return 1;
}

/* Up to the space, which is passed. 0: need more; < 0: minus an error. */
static int word(const char **s, const char *end, uint8_t classes, struct weft_h1_slice *ret)
{
	const char *from = *s, *to = class_end(from, end, classes);

	if (to == end)
		return 0;
	*ret = (struct weft_h1_slice){from, (uint32_t)(to - from)};
	if (to == from || *to != ' ')
		return *to && *to != 0x7f ? -WEFT_H1_E_CODEC : -WEFT_H1_E_CHARACTERS;
	*s = to + 1;
	return 1;
}

static ssize_t request_line(const struct weft_h1 *p, const char *s, const char *end,
			    struct weft_h1_head *h)
{
	const char *start = s;
	int r = word(&s, end, CLASS_TOKEN, &h->method);

	if (r <= 0)
		return r;
	if (!p->conf->any_method && !weft_h1_known_method(h->method.p, h->method.n))
		return -WEFT_H1_E_METHOD;
	r = word(&s, end, CLASS_TARGET, &h->target);
	if (r <= 0)
		return r;
	r = version(s, end, &h->minor);
	if (r <= 0)
		return r;
	if (!h->minor && !p->conf->http10)
		return -WEFT_H1_E_VERSION;
	s += VERSION_LEN;
	r = line_end(s, end);
	if (r <= 0)
		return r ? -WEFT_H1_E_CODEC : 0;
	return s + r - start;
}

static ssize_t status_line(const char *s, const char *end, struct weft_h1_head *h)
{
	const char *start = s, *stop;
	int r = version(s, end, &h->minor);

	if (r <= 0)
		return r;
	s += VERSION_LEN;
	if (end - s < 5) /* " 200" and what ends it */
		return memchr(s, '\n', (size_t)(end - s)) ? -WEFT_H1_E_CODEC : 0;
	if (s[0] != ' ' || s[1] < '1' || s[1] > '9' || s[2] < '0' || s[2] > '9' || s[3] < '0' ||
	    s[3] > '9' || (s[4] != ' ' && s[4] != '\r'))
		return -WEFT_H1_E_CODEC;
	h->status = (uint16_t)((s[1] - '0') * 100 + (s[2] - '0') * 10 + s[3] - '0');
	s += s[4] == ' ' ? 5 : 4;
	stop = weft_h1_value_end(s, end);
	h->reason = (struct weft_h1_slice){s, (uint32_t)(stop - s)};
	r = line_end(stop, end);
	return r > 0 ? stop + r - start : r;
}

int weft_h1_check_line(const struct weft_h1 *p, bool start_line, uint32_t fields_before)
{
	const char *s = p->buf + p->line, *end = p->buf + p->len;
	struct weft_h1_header unused;
	struct weft_h1_head head;
	ssize_t r;

	if (start_line)
		r = p->conf->response ? status_line(s, end, &head) : request_line(p, s, end, &head);
	else if (fields_before >= (p->conf->max_headers ?: WEFT_H1_HEADERS))
		return -WEFT_H1_E_TOO_MANY;
	else
		r = field(s, end, &unused);
	return r > 0 ? 0 : r ? (int)r : -WEFT_H1_E_CODEC;
}

ssize_t weft_h1_parse_head(struct weft_h1 *p, const char *s, const char *end,
			   struct weft_h1_event *ev)
{
	ssize_t line, rest;
	int r;

	ev->head = (struct weft_h1_head){.block = s, .content_length = -1, .host = -1};
	line = p->conf->response ? status_line(s, end, &ev->head)
				 : request_line(p, s, end, &ev->head);
	if (line <= 0)
		return line;
	rest = fields(p, s + line, end, ev);
	if (rest <= 0)
		return rest;
	ev->head.block_len = (uint32_t)(line + rest);
	r = p->conf->response ? weft_h1_check_response(p, &ev->head)
			      : weft_h1_check_request(p, &ev->head);
	return r ? r : line + rest;
}

/* RFC 9110 §6.5.1: a trailer must not frame or route; some read it as if it did. */
static bool trailer_forbidden(const struct weft_h1_header *h)
{
	return weft_h1_same(h->name, h->name_len, "content-length", 14) ||
	       weft_h1_same(h->name, h->name_len, "transfer-encoding", 17) ||
	       weft_h1_same(h->name, h->name_len, "host", 4);
}

ssize_t weft_h1_parse_trailers(struct weft_h1 *p, const char *s, const char *end,
			       struct weft_h1_event *ev)
{
	ssize_t r;

	ev->head = (struct weft_h1_head){.block = s, .content_length = -1, .host = -1};
	r = fields(p, s, end, ev);
	if (r <= 0)
		return r;
	ev->head.block_len = (uint32_t)r;
	for (uint32_t i = 0; i < ev->head.n; i++)
		if (trailer_forbidden(&ev->head.v[i]))
			return -WEFT_H1_E_TRAILER;
	return r;
}

static void move(struct weft_h1_slice *s, ptrdiff_t by)
{
	if (s->p)
		s->p += by;
}

void weft_h1_head_move(struct weft_h1_head *head, char *mem, bool lower)
{
	const char *from = head->block;

	memcpy(mem, from, head->block_len);
	for (uint32_t i = 0; i < head->n; i++) {
		struct weft_h1_header *h = &head->v[i];
		char *name = mem + (h->name - from);

		h->name = name;
		h->value = mem + (h->value - from);
		for (uint32_t k = 0; lower && k < h->name_len; k++)
			name[k] = weft_h1_lower(name[k]);
	}
	move(&head->method, mem - from);
	move(&head->target, mem - from);
	move(&head->scheme, mem - from);
	move(&head->authority, mem - from);
	move(&head->path, mem - from);
	move(&head->reason, mem - from);
	head->block = mem;
}
