/* Heads of HTTP/1 as lists of fields: one copy of the block into the exchange's arena, and slices.
 */
#include "proxy/session/session_priv.h"

#include <string.h>
#include <strings.h>

static inline char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static bool token_is(const char *s, size_t n, const char *word)
{
	return strlen(word) == n && !strncasecmp(s, word, n);
}

/* The next element of a comma-separated list, trimmed; NULL: none left. */
static const char *next_token(const char **at, size_t *ret_n)
{
	const char *s = *at, *e;

	while (*s == ' ' || *s == '\t' || *s == ',')
		s++;
	if (!*s)
		return NULL;
	e = s + strcspn(s, ",");
	*at = e;
	while (e > s && (e[-1] == ' ' || e[-1] == '\t'))
		e--;
	*ret_n = (size_t)(e - s);
	return s;
}

static size_t trailing_space(const char *s, const char *e)
{
	size_t n = 0;

	while (e - n > s && (e[-(ptrdiff_t)n - 1] == ' ' || e[-(ptrdiff_t)n - 1] == '\t'))
		n++;
	return n;
}

const char WEFT_H1_BAD_CONNECTION[] = "http1.connection_header_rejected";

/* Slices are ended where they stand: after each there is a space, a colon or a line's end. */
static inline const char *ended(const char *p, uint32_t n)
{
	((char *)p)[n] = 0;
	return p;
}

/* Names of trailers go on in lower case, as Envoy has them. */
static void move_block(struct weft_exchange *x, struct weft_headers *h, struct weft_h1_head *head,
		       bool trailers)
{
	const struct weft_h1_options *o = &x->s->conf->h1;
	char *mem = weft_arena_alloc(x->arena, head->block_len + 1);

	if (!o->preserve_case || trailers) {
		weft_h1_head_move(head, mem, true);
		return;
	}
	weft_h1_head_move(head, mem, false);
	weft_headers_spell(h, o->proper_rest);
	if (o->preserve_reason && head->status)
		weft_headers_spell_reason(h, head->reason.p, head->reason.n);
	for (uint32_t i = 0; i < head->n; i++) {
		struct weft_h1_header *f = &head->v[i];
		char *name = (char *)f->name;

		weft_headers_spell_name(h, name, f->name_len);
		for (uint32_t k = 0; k < f->name_len; k++)
			name[k] = lower(name[k]);
	}
}

static void add_pseudo(struct weft_headers *h, enum weft_hid id, const char *value, size_t n)
{
	weft_headers_add_ref(h, id, weft_hid_name(id), weft_hid_len(id), value, n);
}

/* "close", "te" … name no field that would travel; others do. */
static void drop_named(struct weft_headers *h, const char *connection)
{
	static const char *const quiet[] = {"close", "keep-alive", "upgrade", "te"};
	const char *at = connection, *t;
	size_t n, i;

	while ((t = next_token(&at, &n))) {
		for (i = 0; i < 4 && !token_is(t, n, quiet[i]); i++)
			;
		if (i == 4)
			weft_headers_remove(h, t, n);
	}
}

static bool may_name(const char *t, size_t n)
{
	static const char *const never[] = {"host", "x-forwarded-for", "x-forwarded-host",
					    "x-forwarded-proto"};

	for (size_t i = 0; i < 4; i++)
		if (token_is(t, n, never[i]))
			return false;
	return !memchr(t, ':', n);
}

bool weft_h1_connection_ok(const struct weft_h1_head *head)
{
	for (uint32_t i = 0; i < head->n; i++) {
		const struct weft_h1_header *f = &head->v[i];
		const char *t = f->value, *end = t + f->value_len, *e;

		if (f->name_len != 10 || strncasecmp(f->name, "connection", 10) != 0)
			continue;
		for (; t < end; t = e + 1) {
			while (t < end && (*t == ' ' || *t == '\t'))
				t++;
			for (e = t; e < end && *e != ','; e++)
				;
			if (!may_name(t, (size_t)(e - t) - trailing_space(t, e)))
				return false;
		}
	}
	return true;
}

static bool has_token(const char *list, const char *word)
{
	const char *at = list, *t;
	size_t n;

	while ((t = next_token(&at, &n)))
		if (token_is(t, strcspn(t, ";,") < n ? strcspn(t, ";,") : n, word))
			return true;
	return false;
}

/* What the fields that stay within this connection said. */
struct hop {
	const char *connection; /* one that may name fields; NULL: none */
	bool trailers;		/* TE: trailers */
};

/* Connection: keep-alive and close are nearly all there is. */
static bool plain_connection(const struct weft_h1_header *f)
{
	return token_is(f->value, f->value_len, "keep-alive") ||
	       token_is(f->value, f->value_len, "close") ||
	       token_is(f->value, f->value_len, "upgrade");
}

static void note_connection(struct weft_exchange *x, struct hop *hop,
			    const struct weft_h1_header *f)
{
	if (plain_connection(f))
		return;
	hop->connection = hop->connection ? weft_arena_printf(x->arena, "%s,%.*s", hop->connection,
							      (int)f->value_len, f->value)
					  : weft_arena_strndup(x->arena, f->value, f->value_len);
}

static void add_fields(struct weft_exchange *x, struct weft_headers *h,
		       const struct weft_h1_head *head, bool upgrade, struct hop *hop)
{
	for (uint32_t i = 0; i < head->n; i++) {
		const struct weft_h1_header *f = &head->v[i];
		enum weft_hid id = weft_hid_of(f->name, f->name_len);

		ended(f->name, f->name_len);
		ended(f->value, f->value_len);
		x->wire.rx_head += f->name_len + f->value_len + 3;
		switch (id) {
		case WEFT_H_CONNECTION:
			note_connection(x, hop, f);
			continue;
		case WEFT_H_TE:
			hop->trailers |= has_token(f->value, "trailers");
			continue;
		case WEFT_H_UPGRADE:
			if (!upgrade)
				continue;
			break;
		case WEFT_H_CONTENT_LENGTH:
			if (upgrade || head->connect || head->chunked)
				continue;
			break;
		case WEFT_H_HOST:
			if (head->method.n)
				continue;
			break;
		case WEFT_H_KEEP_ALIVE:
		case WEFT_H_PROXY_CONNECTION:
		case WEFT_H_TRANSFER_ENCODING:
			continue;
		default:
			break;
		}
		weft_headers_add_ref(h, id, f->name, f->name_len, f->value, f->value_len);
	}
	if (hop->trailers)
		add_pseudo(h, WEFT_H_TE, "trailers", 8);
	if (upgrade)
		add_pseudo(h, WEFT_H_CONNECTION, "upgrade", 7);
}

static struct weft_headers *new_list(struct weft_exchange *x, struct weft_h1_head *head,
				     bool trailers)
{
	struct weft_headers *h = weft_arena_alloc(x->arena, sizeof(*h));

	weft_headers_init(h, x->arena);
	weft_headers_reserve(h, head->n + 12); /* with what filters usually add */
	move_block(x, h, head, trailers);
	return h;
}

static const char *const schemes[] = {"http", "https"};

static const char *scheme_of(const struct weft_exchange *x, const struct weft_h1_head *head)
{
	if (head->form == WEFT_H1_ABSOLUTE && head->scheme.n)
		return schemes[head->scheme.n == 5];
	return schemes[weft_io_info(x->s->io)->tls != NULL];
}

static struct weft_h1_slice authority_of(struct weft_exchange *x, const struct weft_h1_head *head)
{
	struct weft_h1_slice s = {"", 0};
	const struct weft_h1_options *o = &x->s->conf->h1;

	if (head->form == WEFT_H1_AUTHORITY) {
		ended(head->authority.p, head->authority.n);
		return head->authority;
	}
	if (head->form == WEFT_H1_ABSOLUTE && o->allow_absolute_url) {
		/* its path begins where it ends */
		s = head->authority;
		s.p = weft_arena_memdup(x->arena, s.p, s.n + 1);
		ended(s.p, s.n);
	} else if (head->host >= 0) {
		s.p = head->v[head->host].value;
		s.n = head->v[head->host].value_len;
	} else if (o->default_host) {
		s.p = o->default_host;
		s.n = (uint32_t)strlen(o->default_host);
	} else if (o->owner_checks) {
		s.p = NULL;
	}
	return s;
}

static struct weft_h1_slice path_of(const struct weft_exchange *x, const struct weft_h1_head *head)
{
	if (head->form == WEFT_H1_ABSOLUTE && !x->s->conf->h1.allow_absolute_url)
		return head->target;
	if (head->form == WEFT_H1_ABSOLUTE && !head->path.n)
		return (struct weft_h1_slice){"/", 1};
	return head->path;
}

static bool ignored(const struct weft_h1_options *o, const char *protocol, size_t n)
{
	return o->ignore_upgrade && o->ignore_upgrade(o->ignore_ctx, protocol, n);
}

/* What of Upgrade is let pass unheard: h2c, and what configuration names. The field keeps the rest;
 * false: nothing is left. */
static bool upgrade_left(struct weft_exchange *x, struct weft_h1_head *head)
{
	const struct weft_h1_options *o = &x->s->conf->h1;
	struct weft_h1_header *f = head->v;
	const char *s, *end, *comma, *e;
	char *to;

	while (!token_is(f->name, f->name_len, "upgrade"))
		f++; /* there is one: head->upgrade */
	if (token_is(f->value, f->value_len, "h2c"))
		return false;
	if (!o->ignore_upgrade)
		return true;
	s = to = (char *)f->value;
	for (end = s + f->value_len; s <= end; s = comma + 1) {
		comma = memchr(s, ',', (size_t)(end - s)) ?: end;
		for (; s < comma && (*s == ' ' || *s == '\t'); s++)
			;
		e = comma - trailing_space(s, comma);
		if (s == e || ignored(o, s, (size_t)(e - s)))
			continue;
		if (to != f->value)
			*to++ = ',';
		memmove(to, s, (size_t)(e - s));
		to += e - s;
	}
	f->value_len = (uint32_t)(to - f->value);
	return f->value_len;
}

struct weft_headers *weft_h1_request_headers(struct weft_exchange *x, struct weft_h1_head *head)
{
	struct weft_headers *h = new_list(x, head, false);
	struct weft_h1_slice authority, path;
	bool upgrade = head->upgrade && !head->connect;
	struct hop hop = {NULL, false};

	if (upgrade && x->s->proto == &weft_session_h1_server)
		upgrade = upgrade_left(x, head);
	authority = authority_of(x, head);
	path = path_of(x, head);
	if (authority.p)
		add_pseudo(h, WEFT_H_AUTHORITY, authority.p, authority.n);
	if (!head->connect) {
		if (path.n && path.p[path.n])
			ended(path.p, path.n);
		add_pseudo(h, WEFT_H_PATH, path.p, path.n);
	}
	add_pseudo(h, WEFT_H_METHOD, ended(head->method.p, head->method.n), head->method.n);
	if (!head->connect) {
		const char *scheme = scheme_of(x, head);

		add_pseudo(h, WEFT_H_SCHEME, scheme, strlen(scheme));
	}
	add_fields(x, h, head, upgrade, &hop);
	if (hop.connection)
		drop_named(h, hop.connection);
	x->upgrade = upgrade;
	x->connect = head->connect;
	x->head = head->method.n == 4 && !memcmp(head->method.p, "HEAD", 4);
	x->req_10 = !head->minor;
	return h;
}

struct weft_headers *weft_h1_response_headers(struct weft_exchange *x, struct weft_h1_head *head)
{
	struct weft_headers *h = new_list(x, head, false);
	struct hop hop = {NULL, false};
	char *status = weft_arena_alloc(x->arena, 4);

	status[0] = (char)('0' + head->status / 100);
	status[1] = (char)('0' + head->status / 10 % 10);
	status[2] = (char)('0' + head->status % 10);
	add_pseudo(h, WEFT_H_STATUS, status, 3);
	add_fields(x, h, head, head->status == 101, &hop);
	if (hop.connection)
		drop_named(h, hop.connection);
	return h;
}

struct weft_headers *weft_h1_trailer_headers(struct weft_exchange *x, struct weft_h1_head *head)
{
	struct weft_headers *h = new_list(x, head, true);
	struct hop hop = {NULL, false};

	add_fields(x, h, head, false, &hop);
	return h;
}
