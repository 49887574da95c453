#include "proxy/http/local_reply.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__LocalReplyConfig config_msg;
typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__ResponseMapper mapper_msg;

enum { BODY_MAX = 1 << 20 };
struct addition {
	const char *name;
	size_t name_n;
	const struct weft_format *value;
	uint8_t action; /* enum of HeaderValueOption */
	bool keep_empty;
};
struct mapper {
	const struct weft_access_filter *filter;
	int status; /* 0: as it is */
	const char *body;
	size_t body_n;
	const struct weft_format *format;
	struct addition *add;
	size_t n_add;
};
struct weft_local_reply {
	struct mapper *v;
	size_t n;
	const struct weft_format *format; /* NULL */
};

/* ---- configuration */

static int read_file(struct weft_cfg *c, const struct weft_path *at, const char *name,
		     struct mapper *m)
{
	struct stat st;
	FILE *f;
	char *p;
	size_t n;

	if (!c->file)
		return weft_cfg_fail(c, at, "filename: only a configuration file may name files");
	f = fopen(name, "re");
	if (!f || fstat(fileno(f), &st)) {
		int err = errno;

		if (f)
			fclose(f);
		return weft_cfg_fail(c, at, "filename: cannot read \"%s\": %s", name,
				     strerror(err));
	}
	if (st.st_size > BODY_MAX) {
		fclose(f);
		return weft_cfg_fail(c, at, "filename: must be at most %d bytes, \"%s\" has %lld",
				     BODY_MAX, name, (long long)st.st_size);
	}
	p = weft_arena_alloc(c->arena, (size_t)st.st_size + 1);
	n = fread(p, 1, (size_t)st.st_size, f);
	fclose(f);
	m->body = p;
	m->body_n = n;
	return 0;
}

static int read_body(struct weft_cfg *c, const struct weft_path *at,
		     const Envoy__Config__Core__V3__DataSource *d, struct mapper *m)
{
	const char *s = NULL;

	if (d->watched_directory)
		return weft_cfg_fail(c, at,
				     "watched_directory: is not supported here: the file is read "
				     "once");
	switch (d->specifier_case) {
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME:
		return read_file(c, at, d->filename, m);
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_BYTES:
		m->body = weft_arena_memdup(c->arena, d->inline_bytes.data, d->inline_bytes.len);
		m->body_n = d->inline_bytes.len;
		return 0;
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_STRING:
		s = d->inline_string;
		break;
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_ENVIRONMENT_VARIABLE:
		s = getenv(d->environment_variable);
		if (!s)
			return weft_cfg_fail(c, at, "environment_variable: \"%s\" is not set",
					     d->environment_variable);
		break;
	default:
		return weft_cfg_fail(c, at,
				     "must have filename, inline_bytes, inline_string or "
				     "environment_variable");
	}
	m->body = weft_arena_strdup(c->arena, s);
	m->body_n = strlen(s);
	return 0;
}

static int read_add(struct weft_cfg *c, const struct weft_path *at,
		    const Envoy__Config__Core__V3__HeaderValueOption *o, struct addition *a)
{
	struct weft_path p = {at, "header", -1}, v = {&p, "value", -1};
	char *name;

	if (!o->header || !o->header->key || !*o->header->key)
		return weft_cfg_fail(c, &p, "key must be set");
	name = weft_arena_strdup(c->arena, o->header->key);
	a->name = name;
	for (; *name; name++)
		if (*name >= 'A' && *name <= 'Z')
			*name |= 0x20;
	a->name_n = strlen(a->name);
	if (a->name[0] == ':' || !strcmp(a->name, "host"))
		return weft_cfg_fail(c, &p, "key \"%s\" cannot be changed by headers_to_add",
				     a->name);
	a->action = (uint8_t)o->append_action;
	if (o->append)
		a->action =
			o->append->value
				? ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__APPEND_IF_EXISTS_OR_ADD
				: ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD;
	a->keep_empty = o->keep_empty_value;
	return weft_format_prepare(c, &v, o->header->value ?: "", &a->value);
}

static int read_mapper(struct weft_cfg *c, const struct weft_path *at, const mapper_msg *m,
		       struct mapper *to)
{
	struct weft_path f = {at, "filter", -1}, b = {at, "body", -1},
			 o = {at, "body_format_override", -1};
	int err = 0;

	if (!m->filter)
		err = weft_cfg_fail(c, &f, "must be set");
	else
		err = weft_access_filter_prepare(c, &f, m->filter, &to->filter);
	if (m->status_code)
		to->status = (int)m->status_code->value;
	if (to->status && (to->status < 200 || to->status > 599)) {
		struct weft_path sc = {at, "status_code", -1};

		err = weft_cfg_fail(c, &sc, "must be 200..599, is %d", to->status);
	}
	if (m->body && read_body(c, &b, m->body, to))
		err = -EINVAL;
	if (m->body_format_override &&
	    weft_format_prepare_msg(c, &o, m->body_format_override, &to->format))
		err = -EINVAL;
	to->add = weft_arena_alloc(c->arena, m->n_headers_to_add * sizeof(*to->add));
	to->n_add = m->n_headers_to_add;
	for (size_t i = 0; i < m->n_headers_to_add; i++) {
		struct weft_path a = {at, "headers_to_add", (int)i};

		if (read_add(c, &a, m->headers_to_add[i], &to->add[i]))
			err = -EINVAL;
	}
	return err;
}

int weft_local_reply_prepare(struct weft_cfg *c, const struct weft_path *at, const config_msg *m,
			     const struct weft_local_reply **ret)
{
	struct weft_local_reply *r = weft_arena_alloc(c->arena, sizeof(*r));
	struct weft_path f = {at, "body_format", -1};
	int err = 0;

	r->v = weft_arena_alloc(c->arena, m->n_mappers * sizeof(*r->v));
	r->n = m->n_mappers;
	for (size_t i = 0; i < r->n; i++) {
		struct weft_path p = {at, "mappers", (int)i};

		if (read_mapper(c, &p, m->mappers[i], &r->v[i]))
			err = -EINVAL;
	}
	if (m->body_format && weft_format_prepare_msg(c, &f, m->body_format, &r->format))
		err = -EINVAL;
	*ret = r;
	return err;
}

/* ---- answers */

static void set_status(struct weft_headers *h, struct weft_info *info, int status)
{
	char text[12];

	snprintf(text, sizeof(text), "%d", status);
	weft_headers_set_id(h, WEFT_H_STATUS, text, strlen(text));
	info->status = status;
}

static void add_header(const struct addition *a, const struct weft_format_in *in,
		       struct weft_headers *h)
{
	bool empty = false, there = weft_headers_find(h, a->name, a->name_n);
	size_t n = 0;
	const char *v = weft_format_string(a->value, in, h->arena, &n, &empty);

	if (!n && !a->keep_empty)
		return;
	switch (a->action) {
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__ADD_IF_ABSENT:
		if (there)
			return;
		break;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS:
		if (!there)
			return;
		/* fall through */
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD:
		weft_headers_set(h, a->name, a->name_n, v, n);
		return;
	}
	weft_headers_add(h, a->name, a->name_n, v, n);
}

static void write_body(const struct weft_format *f, const struct weft_format_in *in,
		       struct weft_arena *a, struct weft_local_text *t)
{
	struct evbuffer *b = evbuffer_new();
	char *p;

	if (!b)
		abort();
	weft_format_write(f, in, b);
	t->n = evbuffer_get_length(b);
	p = weft_arena_alloc(a, t->n + 1);
	evbuffer_remove(b, p, t->n);
	evbuffer_free(b);
	t->body = p;
	t->content_type = weft_format_content_type(f);
}

void weft_local_reply_rewrite(const struct weft_local_reply *r, struct weft_info *info,
			      const struct weft_headers *req, struct weft_headers *h,
			      struct weft_local_text *t)
{
	struct weft_format_in in = {.info = info, .req = req, .resp = h};
	const struct weft_format *f;

	set_status(h, info, t->status);
	if (!r)
		return;
	f = r->format;
	for (size_t i = 0; i < r->n; i++) {
		const struct mapper *m = &r->v[i];

		if (!weft_access_filter_match(m->filter, &in))
			continue;
		if (m->body) {
			t->body = m->body;
			t->n = m->body_n;
		}
		for (size_t j = 0; j < m->n_add; j++)
			add_header(&m->add[j], &in, h);
		if (m->status && m->status != t->status) {
			t->status = m->status;
			set_status(h, info, t->status);
		}
		if (m->format)
			f = m->format;
		break;
	}
	if (!f)
		return;
	in.body = t->n ? t->body : "";
	write_body(f, &in, info->arena, t);
}
