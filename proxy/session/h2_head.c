/* Heads of HTTP/2 as the lists owners see, and back. An upgrade is h1's on the owner's side and an
 * extended CONNECT on the wire. */
#include "proxy/session/h2_priv.h"

#include <string.h>
#include <strings.h>

struct text {
	char *at;
};

static const char *put(struct text *t, const char *s, size_t n)
{
	char *p = t->at;

	memcpy(p, s, n);
	p[n] = 0;
	t->at += n + 1;
	return p;
}

static void add(struct weft_headers *h, enum weft_hid id, const char *value, size_t n)
{
	weft_headers_add_ref(h, id, weft_hid_name(id), weft_hid_len(id), value, n);
}

/* Cookies that came in crumbs are one again (RFC 9113 §8.2.3). */
static void join_cookies(struct weft_headers *h, uint32_t crumbs)
{
	size_t n = 2 * crumbs;
	char *all, *p;

	for (uint32_t i = 0; i < h->n; i++)
		n += h->v[i].id == WEFT_H_COOKIE ? h->v[i].value_len : 0;
	all = p = weft_arena_alloc(h->arena, n + 1);
	for (uint32_t i = 0; i < h->n; i++) {
		if (h->v[i].id != WEFT_H_COOKIE)
			continue;
		if (p != all) {
			memcpy(p, "; ", 2);
			p += 2;
		}
		memcpy(p, h->v[i].value, h->v[i].value_len);
		p += h->v[i].value_len;
	}
	weft_headers_set_id(h, WEFT_H_COOKIE, all, (size_t)(p - all));
}

static struct weft_headers *copy_list(struct weft_exchange *x, const struct weft_h2_headers *v)
{
	struct weft_headers *h = weft_arena_alloc(x->arena, sizeof(*h));
	size_t bytes = 0;
	uint32_t cookies = 0;
	struct text t;

	for (size_t i = 0; i < v->n; i++)
		bytes += v->v[i].name_len + v->v[i].value_len + 2;
	t.at = weft_arena_alloc(x->arena, bytes);
	weft_headers_init(h, x->arena);
	weft_headers_reserve(h, (uint32_t)v->n + 12);
	for (size_t i = 0; i < v->n; i++) {
		const struct weft_h2_header *f = &v->v[i];
		enum weft_hid id = weft_hid_of(f->name, f->name_len);
		const char *name = id ? weft_hid_name(id) : put(&t, f->name, f->name_len);

		cookies += id == WEFT_H_COOKIE;
		weft_headers_add_ref(h, id, name, f->name_len, put(&t, f->value, f->value_len),
				     f->value_len);
	}
	if (cookies > 1)
		join_cookies(h, cookies);
	return h;
}

static void to_h1_upgrade(struct weft_exchange *x, struct weft_headers *h)
{
	struct weft_header *p = weft_headers_get(h, WEFT_H_PROTOCOL);

	x->connect = false;
	x->upgrade = true;
	x->upgrade_to = p->value;
	weft_headers_set_id(h, WEFT_H_METHOD, "GET", 3);
	add(h, WEFT_H_UPGRADE, p->value, p->value_len);
	add(h, WEFT_H_CONNECTION, "upgrade", 7);
	weft_headers_remove_id(h, WEFT_H_PROTOCOL);
}

struct weft_headers *weft_h2_request_list(struct weft_exchange *x, const struct weft_h2_headers *v)
{
	struct weft_headers *h = copy_list(x, v);
	const char *method = weft_headers_value(h, WEFT_H_METHOD);
	struct weft_header *host = weft_headers_get(h, WEFT_H_HOST);

	x->head = !strcmp(method, "HEAD");
	x->connect = !strcmp(method, "CONNECT");
	if (host && !weft_headers_get(h, WEFT_H_AUTHORITY))
		weft_headers_set_id(h, WEFT_H_AUTHORITY, host->value, host->value_len);
	if (host)
		weft_headers_remove_id(h, WEFT_H_HOST);
	if (x->connect && weft_headers_get(h, WEFT_H_PROTOCOL))
		to_h1_upgrade(x, h);
	return h;
}

struct weft_headers *weft_h2_response_list(struct weft_exchange *x, const struct weft_h2_headers *v)
{
	struct weft_headers *h = copy_list(x, v);
	int status = weft_headers_status(h);

	if (x->upgrade && status == 200) {
		weft_headers_set_id(h, WEFT_H_STATUS, "101", 3);
		add(h, WEFT_H_UPGRADE, x->upgrade_to, strlen(x->upgrade_to));
		add(h, WEFT_H_CONNECTION, "upgrade", 7);
		x->opaque = true;
	} else if (x->connect && status / 100 == 2) {
		x->opaque = true;
	}
	return h;
}

struct weft_headers *weft_h2_trailer_list(struct weft_exchange *x, const struct weft_h2_headers *v)
{
	return copy_list(x, v);
}

/* ---- to the wire */

struct fields {
	struct weft_h2_header *v;
	size_t n;
};

static void put_field(struct fields *f, enum weft_hid id, const char *value, size_t n)
{
	f->v[f->n++] = (struct weft_h2_header){weft_hid_name(id), value, weft_hid_len(id), n};
}

static void put_pseudo(struct fields *f, const struct weft_headers *h, enum weft_hid id)
{
	const struct weft_header *e = weft_headers_get(h, id);

	if (e)
		put_field(f, id, e->value, e->value_len);
}

/* Fields that are h1's own do not travel (RFC 9113 §8.2.2). */
static void put_regular(struct fields *f, const struct weft_headers *h, bool upgrade)
{
	for (uint32_t i = 0; i < h->n; i++) {
		const struct weft_header *e = &h->v[i];

		switch (e->id) {
		case WEFT_H_METHOD ... WEFT_H_PROTOCOL:
		case WEFT_H_HOST:
		case WEFT_H_CONNECTION:
		case WEFT_H_KEEP_ALIVE:
		case WEFT_H_PROXY_CONNECTION:
		case WEFT_H_TRANSFER_ENCODING:
		case WEFT_H_UPGRADE:
			continue;
		case WEFT_H_TE:
			if (e->value_len != 8 || strncasecmp(e->value, "trailers", 8) != 0)
				continue;
			break;
		case WEFT_H_CONTENT_LENGTH:
			if (upgrade)
				continue;
			break;
		default:
			break;
		}
		f->v[f->n++] =
			(struct weft_h2_header){e->name, e->value, e->name_len, e->value_len};
	}
}

static void make_room(struct weft_exchange *x, struct fields *f, const struct weft_headers *h,
		      struct weft_h2_header *few)
{
	size_t need = h->n + 4;

	f->n = 0;
	f->v = need <= WEFT_H2_FEW ? few : weft_arena_alloc(x->arena, need * sizeof(*few));
}

size_t weft_h2_request_fields(struct weft_exchange *x, const struct weft_headers *h,
			      struct weft_h2_header few[WEFT_H2_FEW], struct weft_h2_header **ret_v)
{
	const char *method = weft_headers_value(h, WEFT_H_METHOD);
	const struct weft_header *up = weft_headers_get(h, WEFT_H_UPGRADE);
	const struct weft_header *host = weft_headers_get(h, WEFT_H_HOST);
	struct fields f;

	x->head = !strcmp(method, "HEAD");
	x->connect = !strcmp(method, "CONNECT");
	x->upgrade = up && !x->connect;
	make_room(x, &f, h, few);
	if (x->upgrade) {
		x->upgrade_to = weft_arena_strndup(x->arena, up->value, up->value_len);
		put_field(&f, WEFT_H_METHOD, "CONNECT", 7);
		put_field(&f, WEFT_H_PROTOCOL, x->upgrade_to, up->value_len);
	} else {
		put_pseudo(&f, h, WEFT_H_METHOD);
	}
	if (!x->connect) {
		put_pseudo(&f, h, WEFT_H_SCHEME);
		if (!weft_headers_get(h, WEFT_H_SCHEME))
			put_field(&f, WEFT_H_SCHEME, "http", 4);
		put_pseudo(&f, h, WEFT_H_PATH);
	}
	if (weft_headers_get(h, WEFT_H_AUTHORITY))
		put_pseudo(&f, h, WEFT_H_AUTHORITY);
	else if (host)
		put_field(&f, WEFT_H_AUTHORITY, host->value, host->value_len);
	put_regular(&f, h, x->upgrade || x->connect);
	*ret_v = f.v;
	return f.n;
}

size_t weft_h2_response_fields(struct weft_exchange *x, const struct weft_headers *h,
			       struct weft_h2_header few[WEFT_H2_FEW],
			       struct weft_h2_header **ret_v)
{
	int status = weft_headers_status(h);
	bool taken = x->upgrade && status == 101;
	struct fields f;

	make_room(x, &f, h, few);
	if (taken)
		put_field(&f, WEFT_H_STATUS, "200", 3);
	else
		put_pseudo(&f, h, WEFT_H_STATUS);
	if (status >= 200 || taken)
		x->opaque = taken || (x->connect && status / 100 == 2);
	put_regular(&f, h, x->opaque);
	*ret_v = f.v;
	return f.n;
}
