/* What a head means: target, framing, connection. */
#include "proxy/codec/h1.h"
#include "proxy/codec/h1_priv.h"
#include <stdlib.h>

enum { LENGTH_DIGITS = 18 /* no overflow of int64_t */ };

#define LIT(s) (s), sizeof(s) - 1

/* Those of Envoy; the frequent ones first. */
bool weft_h1_known_method(const char *s, size_t n)
{
	static const struct {
		const char *s;
		size_t n;
	} known[] = {
		{LIT("GET")},	     {LIT("POST")},	   {LIT("PUT")},      {LIT("DELETE")},
		{LIT("HEAD")},	     {LIT("OPTIONS")},	   {LIT("PATCH")},    {LIT("CONNECT")},
		{LIT("TRACE")},	     {LIT("ACL")},	   {LIT("BIND")},     {LIT("CHECKOUT")},
		{LIT("COPY")},	     {LIT("LINK")},	   {LIT("LOCK")},     {LIT("MERGE")},
		{LIT("MKACTIVITY")}, {LIT("MKCALENDAR")},  {LIT("MKCOL")},    {LIT("MOVE")},
		{LIT("MSEARCH")},    {LIT("NOTIFY")},	   {LIT("PROPFIND")}, {LIT("PROPPATCH")},
		{LIT("PURGE")},	     {LIT("REBIND")},	   {LIT("REPORT")},   {LIT("SEARCH")},
		{LIT("SOURCE")},     {LIT("SUBSCRIBE")},   {LIT("UNBIND")},   {LIT("UNLINK")},
		{LIT("UNLOCK")},     {LIT("UNSUBSCRIBE")},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].n == n && !memcmp(known[i].s, s, n))
			return true;
	return false;
}

/* host[:port] without userinfo, not empty. */
static bool is_authority(const char *s, size_t n, bool port_needed)
{
	const char *host_end = s + n, *end = s + n, *p;

	if (!n)
		return false;
	if (*s == '[') {
		p = memchr(s, ']', n);
		if (!p || p - s < 3)
			return false;
		for (const char *c = s + 1; c < p; c++)
			if (!weft_h1_is(*c, CLASS_HEX) && *c != ':' && *c != '.')
				return false;
		host_end = p + 1;
	} else {
		for (p = s; p < end && weft_h1_is(*p, CLASS_HOST); p++)
			;
		host_end = p;
	}
	if (host_end == s)
		return false;
	if (host_end == end)
		return !port_needed;
	if (*host_end != ':' || end - host_end > 6 || (port_needed && end - host_end < 2))
		return false;
	for (p = host_end + 1; p < end; p++)
		if (*p < '0' || *p > '9')
			return false;
	return true;
}

static int split_absolute(const struct weft_h1 *p, struct weft_h1_head *h)
{
	const char *s = h->target.p, *end = s + h->target.n, *colon = memchr(s, ':', h->target.n);
	const char *slash;

	if (!colon || colon == s || end - colon < 4 || colon[1] != '/' || colon[2] != '/')
		return -WEFT_H1_E_CODEC;
	h->form = WEFT_H1_ABSOLUTE;
	h->scheme = (struct weft_h1_slice){s, (uint32_t)(colon - s)};
	if (!weft_h1_same(s, h->scheme.n, LIT("http")) &&
	    !weft_h1_same(s, h->scheme.n, LIT("https")))
		return -WEFT_H1_E_SCHEME;
	s = colon + 3;
	for (slash = s; slash < end && *slash != '/' && *slash != '?'; slash++)
		;
	h->authority = (struct weft_h1_slice){s, (uint32_t)(slash - s)};
	h->path = (struct weft_h1_slice){slash, (uint32_t)(end - slash)};
	if (slash < end && *slash == '?')
		return -WEFT_H1_E_PATH;
	return is_authority(s, h->authority.n, false) ? 0 : -WEFT_H1_E_URL;
}

int weft_h1_split_target(const struct weft_h1 *p, struct weft_h1_head *h)
{
	if (h->connect) {
		h->form = WEFT_H1_AUTHORITY;
		h->authority = h->target;
		return is_authority(h->target.p, h->target.n, true) ? 0 : -WEFT_H1_E_URL;
	}
	h->path = h->target;
	if (h->target.p[0] == '/')
		return 0;
	if (h->target.p[0] != '*')
		return split_absolute(p, h);
	h->form = WEFT_H1_ASTERISK;
	if (h->target.n != 1 || h->method.n != 7 || memcmp(h->method.p, "OPTIONS", 7))
		return -WEFT_H1_E_PATH;
	return p->conf->asterisk ? 0 : -WEFT_H1_E_PATH;
}

struct found {
	const struct weft_h1_header *length, *upgrade;
	int codings;
	bool bad_coding, close, keep_alive, named_upgrade;
};

/* Some take a tab beside a framing value as part of it. */
static bool tab_around(const struct weft_h1_header *f)
{
	const char *from = f->name + f->name_len + 1, *end = f->value + f->value_len;

	return memchr(from, '\t', (size_t)(f->value - from)) || *end == '\t' ||
	       (*end == ' ' && end[strspn(end, " ")] == '\t');
}

static int length_of(const struct weft_h1_header *f, int64_t *ret)
{
	int64_t n = 0;

	if (!f->value_len || f->value_len > LENGTH_DIGITS || tab_around(f))
		return -WEFT_H1_E_LENGTH;
	for (uint32_t i = 0; i < f->value_len; i++) {
		if (f->value[i] < '0' || f->value[i] > '9')
			return -WEFT_H1_E_LENGTH;
		n = n * 10 + (f->value[i] - '0');
	}
	*ret = n;
	return 0;
}

static void connection_options(const struct weft_h1_header *f, struct found *o)
{
	const char *s = f->value, *end = s + f->value_len;

	while (s < end) {
		const char *comma = memchr(s, ',', (size_t)(end - s)), *stop = comma ?: end;
		size_t n;

		while (s < stop && (*s == ' ' || *s == '\t'))
			s++;
		while (stop > s && (stop[-1] == ' ' || stop[-1] == '\t'))
			stop--;
		n = (size_t)(stop - s);
		o->close |= weft_h1_same(s, n, LIT("close"));
		o->keep_alive |= weft_h1_same(s, n, LIT("keep-alive"));
		o->named_upgrade |= weft_h1_same(s, n, LIT("upgrade"));
		s = comma ? comma + 1 : end;
	}
}

static int one_field(struct weft_h1_head *h, uint32_t i, struct found *o)
{
	const struct weft_h1_header *f = &h->v[i];

	switch (f->name_len) {
	case 4:
		if (!weft_h1_same(f->name, 4, LIT("host")))
			break;
		if (h->host >= 0)
			return -WEFT_H1_E_HOST;
		h->host = (int32_t)i;
		break;
	case 6:
		if (weft_h1_same(f->name, 6, LIT("expect")))
			h->expect_continue |=
				weft_h1_same(f->value, f->value_len, LIT("100-continue"));
		break;
	case 7:
		if (weft_h1_same(f->name, 7, LIT("upgrade")) && f->value_len)
			o->upgrade = f;
		break;
	case 10:
		if (weft_h1_same(f->name, 10, LIT("connection")))
			connection_options(f, o);
		break;
	case 14:
		if (!weft_h1_same(f->name, 14, LIT("content-length")))
			break;
		if (o->length)
			return -WEFT_H1_E_LENGTH;
		o->length = f;
		return length_of(f, &h->content_length);
	case 17:
		if (!weft_h1_same(f->name, 17, LIT("transfer-encoding")))
			break;
		o->codings++;
		o->bad_coding |=
			tab_around(f) || !weft_h1_same(f->value, f->value_len, LIT("chunked"));
		break;
	default:
		break;
	}
	return 0;
}

static int all_fields(const struct weft_h1 *p, struct weft_h1_head *h, struct found *o)
{
	int r = 0;

	for (uint32_t i = 0; i < h->n && !r; i++)
		r = one_field(h, i, o);
	if (r)
		return r;
	if (o->codings && o->length) {
		if (!p->conf->chunked_length)
			return -WEFT_H1_E_LENGTH_CHUNKED;
		h->content_length = -1;
	}
	if (o->bad_coding || o->codings > h->minor) /* once, and never in HTTP/1.0 */
		return -WEFT_H1_E_CODING;
	h->chunked = o->codings;
	h->keep_alive = !o->close && (h->minor || o->keep_alive);
	h->upgrade = o->upgrade && o->named_upgrade;
	return 0;
}

int weft_h1_check_request(const struct weft_h1 *p, struct weft_h1_head *h)
{
	struct found o = {0};
	int r;

	h->connect = h->method.n == 7 && !memcmp(h->method.p, "CONNECT", 7);
	r = weft_h1_split_target(p, h);
	if (!r)
		r = all_fields(p, h, &o);
	if (r)
		return r;
	if (h->connect && (h->chunked || h->content_length > 0))
		return h->chunked ? -WEFT_H1_E_CODING : -WEFT_H1_E_BODY;
	if (h->host < 0)
		return h->minor && !p->conf->hostless ? -WEFT_H1_E_HOST_MISSING : 0;
	/* an empty Host is right where the target has no authority: RFC 9112 §3.2 */
	if (h->v[h->host].value_len &&
	    !is_authority(h->v[h->host].value, h->v[h->host].value_len, false))
		return -WEFT_H1_E_HOST;
	return 0;
}

int weft_h1_check_response(const struct weft_h1 *p, struct weft_h1_head *h)
{
	bool bodyless = h->status < 200 || h->status == 204;
	struct found o = {0};
	int r = all_fields(p, h, &o);

	if (r)
		return r;
	if (bodyless && h->chunked)
		return -WEFT_H1_E_CODING_FORBIDDEN;
	if (bodyless && h->content_length > 0)
		return -WEFT_H1_E_LENGTH_FORBIDDEN;
	h->interim = h->status < 200 && h->status != 101;
	h->upgrade = h->status == 101;
	return 0;
}
