#include "proxy/codec/sniff.h"
#include "proxy/codec/h1_priv.h"
#include "proxy/codec/sniff_priv.h"
#include <stdlib.h>

enum {
	RECORD_HEAD = 5,
	RECORD_MAX = 16 << 10,
	HANDSHAKE = 22,
	CLIENT_HELLO = 1,
	MESSAGE_HEAD = 4,
	RANDOM_LEN = 32,
	SESSION_ID_MAX = 32,
	EXT_VERSIONS = 43,
	HOST_NAME = 0,
	METHOD_MAX = 16,
	EMPTY_LINES = 2 * WEFT_H1_EMPTY_LINES,
};

/* RFC 6066 §3: one name of a type; others are skipped. */
static bool server_name(struct span ext, struct weft_sniff_hello *ret)
{
	struct span list = span_vector(&ext, 2);

	while (!list.bad && list.n) {
		uint32_t type = span_int(&list, 1);
		struct span name = span_vector(&list, 2);

		if (type != HOST_NAME)
			continue;
		if (name.bad || !name.n || name.n > WEFT_SNIFF_NAME_MAX || ret->server_name[0])
			return false;
		for (size_t i = 0; i < name.n; i++) {
			if (name.p[i] <= ' ' || name.p[i] >= 0x7f)
				return false;
			ret->server_name[i] = weft_h1_lower((char)name.p[i]);
		}
		ret->server_name[name.n] = '\0';
	}
	return !list.bad && !ext.bad && !ext.n;
}

static bool alpn(struct span ext, struct weft_sniff_hello *ret)
{
	struct span list = span_vector(&ext, 2), names = list;

	if (list.bad || ext.n || !list.n || list.n > WEFT_SNIFF_ALPN_MAX)
		return false;
	while (names.n && !names.bad)
		if (!span_vector(&names, 1).n)
			return false;
	if (names.bad)
		return false;
	memcpy(ret->alpn, list.p, list.n);
	ret->alpn_len = list.n;
	return true;
}

static bool versions(struct span ext, struct weft_sniff_hello *ret)
{
	struct span list = span_vector(&ext, 1);

	while (!list.bad && list.n) {
		uint32_t v = span_int(&list, 2);

		if (!sniff_grease(v) && v > ret->version && v >> 8 == 3)
			ret->version = (uint16_t)v;
	}
	return !list.bad && !ext.bad;
}

static bool extensions(struct span all, struct weft_sniff_hello *ret)
{
	bool name = false, protocols = false;

	while (all.n) {
		uint32_t type = span_int(&all, 2);
		struct span ext = span_vector(&all, 2);

		if (all.bad)
			return false;
		switch (type) {
		case SNIFF_EXT_SERVER_NAME:
			if (name || !server_name(ext, ret))
				return false;
			name = true;
			break;
		case SNIFF_EXT_ALPN:
			if (protocols || !alpn(ext, ret))
				return false;
			protocols = true;
			break;
		case EXT_VERSIONS:
			if (!versions(ext, ret))
				return false;
			break;
		default:
			break;
		}
	}
	return true;
}

static bool hello(struct span body, unsigned prints, struct weft_sniff_hello *ret)
{
	struct span session, ciphers, methods, all = {0};
	struct hello_parts parts;

	*ret = (struct weft_sniff_hello){.version = (uint16_t)span_int(&body, 2)};
	span_take(&body, RANDOM_LEN);
	session = span_vector(&body, 1);
	ciphers = span_vector(&body, 2);
	methods = span_vector(&body, 1);
	if (body.bad || ret->version >> 8 != 3 || session.n > SESSION_ID_MAX || ciphers.n < 2 ||
	    ciphers.n % 2 || !methods.n)
		return false;
	parts = (struct hello_parts){.version = ret->version, .ciphers = ciphers};
	if (body.n)
		all = span_vector(&body, 2);
	if (body.bad || body.n || !extensions(all, ret))
		return false;
	parts.extensions = all;
	if (prints & WEFT_SNIFF_WANT_JA3)
		weft_sniff_ja3(&parts, ret->ja3);
	if (prints & WEFT_SNIFF_WANT_JA4)
		weft_sniff_ja4(&parts, ret->ja4);
	return true;
}

/* How many bytes of handshake the record at in holds, of those that are there; its head is passed.
 * < 0: no handshake record; 0: not a whole head. */
static ssize_t record(struct span *in, bool *ret_whole)
{
	size_t n;

	*ret_whole = false;
	for (size_t i = 0; i < in->n && i < 2; i++)
		if (in->p[i] != (i ? 3 : HANDSHAKE))
			return -1;
	if (in->n < RECORD_HEAD)
		return 0;
	n = (size_t)in->p[3] << 8 | in->p[4];
	if (!n || n > RECORD_MAX)
		return -1;
	span_take(in, RECORD_HEAD);
	*ret_whole = n <= in->n;
	return (ssize_t)(*ret_whole ? n : in->n);
}

struct gather {
	uint8_t head[MESSAGE_HEAD];
	size_t have, need; /* of the message; need is known with its head */
};

/* Head of the message, as far as it is there. */
static enum weft_sniff look_at_head(struct gather *g, size_t max)
{
	if (g->have && g->head[0] != CLIENT_HELLO)
		return WEFT_SNIFF_NO;
	if (g->have < MESSAGE_HEAD)
		return WEFT_SNIFF_MORE;
	g->need = MESSAGE_HEAD + ((size_t)g->head[1] << 16 | (size_t)g->head[2] << 8 | g->head[3]);
	return g->need > max ? WEFT_SNIFF_TOO_LARGE : WEFT_SNIFF_TLS;
}

/* Walks the records; with dst copies the message there. TLS: all of it is there. */
static enum weft_sniff gather(struct span in, size_t max, struct gather *g, uint8_t *dst)
{
	*g = (struct gather){0};
	for (int records = 0; records < WEFT_SNIFF_RECORDS_MAX; records++) {
		enum weft_sniff v;
		bool whole;
		ssize_t n = record(&in, &whole);
		const uint8_t *p = n > 0 ? span_take(&in, (size_t)n) : NULL;

		if (n <= 0)
			return n < 0 ? WEFT_SNIFF_NO : WEFT_SNIFF_MORE;
		for (size_t i = 0; i < (size_t)n && g->have + i < MESSAGE_HEAD; i++)
			g->head[g->have + i] = p[i];
		if (dst && g->have < max)
			memcpy(dst + g->have, p,
			       (size_t)n < max - g->have ? (size_t)n : max - g->have);
		g->have += (size_t)n;
		v = look_at_head(g, max);
		if (v != WEFT_SNIFF_TLS && v != WEFT_SNIFF_MORE)
			return v;
		if (v == WEFT_SNIFF_TLS && g->have >= g->need)
			return v;
		if (!whole)
			return WEFT_SNIFF_MORE;
	}
	return WEFT_SNIFF_NO;
}

enum weft_sniff weft_sniff_tls(const uint8_t *p, size_t n, size_t max_hello, unsigned prints,
			       struct weft_sniff_hello *ret)
{
	size_t max = max_hello ?: WEFT_SNIFF_HELLO_DEFAULT;
	struct gather g;
	struct span body;
	enum weft_sniff v;
	uint8_t *whole = NULL;
	bool ok;

	max = max < WEFT_SNIFF_HELLO_MAX ? max : WEFT_SNIFF_HELLO_MAX;
	v = gather((struct span){p, n, false}, max, &g, NULL);
	if (v != WEFT_SNIFF_TLS)
		return v;
	if (g.need <= ((size_t)p[3] << 8 | p[4])) { /* all in the first record */
		body = (struct span){p + RECORD_HEAD, g.need, false};
	} else {
		whole = malloc(g.need);
		if (!whole)
			abort();
		(void)gather((struct span){p, n, false}, g.need, &g, whole);
		body = (struct span){whole, g.need, false};
	}
	span_take(&body, MESSAGE_HEAD);
	ok = hello(body, prints, ret);
	free(whole);
	return ok ? WEFT_SNIFF_TLS : WEFT_SNIFF_NO;
}

size_t weft_sniff_alpn(const struct weft_sniff_hello *h, size_t *at, const char **ret)
{
	size_t n;

	if (*at >= h->alpn_len)
		return 0;
	n = h->alpn[*at];
	*ret = (const char *)h->alpn + *at + 1;
	*at += 1 + n;
	return n;
}

/* "HTTP/1.x" and CR or LF at s; what is missing may still come. */
static enum weft_sniff version(const char *s, size_t n)
{
	static const char want[] = "HTTP/1.";
	size_t k = n < sizeof(want) - 1 ? n : sizeof(want) - 1;

	if (k && memcmp(s, want, k))
		return WEFT_SNIFF_NO;
	if (n < sizeof(want) + 1)
		return n < sizeof(want) || s[7] == '0' || s[7] == '1' ? WEFT_SNIFF_MORE
								      : WEFT_SNIFF_NO;
	if (s[8] != '\r' && s[8] != '\n')
		return WEFT_SNIFF_NO;
	return s[7] == '1' ? WEFT_SNIFF_HTTP11 : s[7] == '0' ? WEFT_SNIFF_HTTP10 : WEFT_SNIFF_NO;
}

enum weft_sniff weft_sniff_http(const uint8_t *p, size_t n)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	size_t k = n < sizeof(preface) - 1 ? n : sizeof(preface) - 1, i;
	const char *s = (const char *)p, *end = s + n, *method;

	if (!k || !memcmp(p, preface, k))
		return k == sizeof(preface) - 1 ? WEFT_SNIFF_HTTP2 : WEFT_SNIFF_MORE;
	if (n > WEFT_SNIFF_HTTP_MAX)
		return WEFT_SNIFF_NO;
	for (i = 0; i < EMPTY_LINES && s < end && *s == (i % 2 ? '\n' : '\r'); i++)
		s++;
	for (method = s; s < end && *s >= 'A' && *s <= 'Z' && s - method <= METHOD_MAX; s++)
		;
	if (s == end)
		return WEFT_SNIFF_MORE;
	if (*s != ' ' || i % 2 || !weft_h1_known_method(method, (size_t)(s - method)))
		return WEFT_SNIFF_NO;
	for (method = ++s; s < end && weft_h1_is(*s, CLASS_TARGET); s++)
		;
	if (s == end)
		return n == WEFT_SNIFF_HTTP_MAX ? WEFT_SNIFF_NO : WEFT_SNIFF_MORE;
	if (s == method || *s != ' ')
		return WEFT_SNIFF_NO;
	return version(s + 1, (size_t)(end - s - 1));
}
