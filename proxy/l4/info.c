#include "proxy/l4/info.h"
#include "proxy/core/worker.h"
#include "proxy/net/tls_more.h"

#include <string.h>

static const struct {
	const char *brief, *full;
} names[] = {
#define FLAG(short_name, long_name, help) {#short_name, long_name},
#include "proxy/l4/flags.def"
#undef FLAG
};

const char *weft_flag_short(enum weft_flag f)
{
	return names[f].brief;
}

const char *weft_flag_long(enum weft_flag f)
{
	return names[f].full;
}

static const char *keep(struct weft_arena *a, const char *s)
{
	return s ? *s ? weft_arena_strdup(a, s) : "" : NULL;
}

static const char *const *keep_list(struct weft_arena *a, const char *const *v)
{
	const char **to;
	size_t n = 0, i;

	if (!v)
		return NULL;
	while (v[n])
		n++;
	to = weft_arena_alloc(a, (n + 1) * sizeof(*to));
	for (i = 0; i < n; i++)
		to[i] = weft_arena_strdup(a, v[i]);
	return to;
}

const struct weft_tls_info *weft_info_keep_tls(struct weft_arena *a, const struct weft_tls_info *t)
{
	struct weft_tls_info *c;

	if (!t)
		return NULL;
	c = weft_arena_memdup(a, t, sizeof(*t));
	c->version = keep(a, t->version);
	c->cipher = keep(a, t->cipher);
	c->peer_subject = keep(a, t->peer_subject);
	c->peer_issuer = keep(a, t->peer_issuer);
	c->peer_serial = keep(a, t->peer_serial);
	c->peer_sha256 = keep(a, t->peer_sha256);
	c->peer_pem = keep(a, t->peer_pem);
	c->local_subject = keep(a, t->local_subject);
	c->peer_uri = keep_list(a, t->peer_uri);
	c->peer_dns = keep_list(a, t->peer_dns);
	c->peer_email = keep_list(a, t->peer_email);
	c->peer_ip = keep_list(a, t->peer_ip);
	c->local_uri = keep_list(a, t->local_uri);
	c->local_dns = keep_list(a, t->local_dns);
	if (t->more) {
		weft_tls_more_ref(t->more);
		weft_arena_cleanup(a, weft_tls_more_unref, (void *)t->more);
	}
	return c;
}

void weft_info_upstream(struct weft_info *info, const struct weft_io_info *io)
{
	info->up_ready_ns = weft_now_ns();
	info->up_cx_ns = io->start_ns;
	info->up_connected_ns = io->connected_ns;
	info->up_hs_ns = io->tls ? io->ready_ns : 0;
	info->up_local = io->local;
	info->up_remote = io->remote;
	info->up_conn_id = io->id;
}

const struct weft_io_info *weft_info_keep(struct weft_arena *a, const struct weft_io_info *i,
					  bool tls)
{
	struct weft_io_info *c = weft_arena_memdup(a, i, sizeof(*i));

	c->unix_path = keep(a, i->unix_path);
	c->sni = keep(a, i->sni);
	c->alpn = keep(a, i->alpn);
	c->tls = tls ? weft_info_keep_tls(a, i->tls) : NULL;
	if (i->origin) {
		struct weft_io_origin *o = weft_arena_memdup(a, i->origin, sizeof(*o));

		o->ja3 = keep(a, o->ja3);
		o->ja4 = keep(a, o->ja4);
		c->origin = o;
	}
	return c;
}

const Google__Protobuf__Struct *weft_info_meta_get(const struct weft_info *i, const char *ns)
{
	const struct weft_meta *m;

	for (m = i->meta; m; m = m->next)
		if (!strcmp(m->ns, ns))
			return m->s;
	return NULL;
}

Google__Protobuf__Struct *weft_info_meta(struct weft_info *i, const char *ns)
{
	struct weft_meta *m;

	for (m = i->meta; m; m = m->next)
		if (!strcmp(m->ns, ns))
			return m->s;
	m = weft_arena_alloc(i->arena, sizeof(*m));
	m->ns = weft_arena_strdup(i->arena, ns);
	m->s = weft_arena_alloc(i->arena, sizeof(*m->s));
	google__protobuf__struct__init(m->s);
	m->next = i->meta;
	i->meta = m;
	return m->s;
}

void weft_struct_set(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
		     const Google__Protobuf__Value *v)
{
	Google__Protobuf__Struct__FieldsEntry **fields, *e;
	size_t i;

	for (i = 0; i < s->n_fields; i++)
		if (!strcmp(s->fields[i]->key, key)) {
			s->fields[i]->value = (Google__Protobuf__Value *)v;
			return;
		}
	/* room in powers of two: an arena frees nothing singly */
	if (!(s->n_fields & (s->n_fields - 1))) {
		size_t cap = s->n_fields ? s->n_fields * 2 : 1;

		fields = weft_arena_alloc(a, cap * sizeof(*fields));
		if (s->n_fields)
			memcpy(fields, s->fields, s->n_fields * sizeof(*fields));
		s->fields = fields;
	}
	e = weft_arena_alloc(a, sizeof(*e));
	google__protobuf__struct__fields_entry__init(e);
	e->key = weft_arena_strdup(a, key);
	e->value = (Google__Protobuf__Value *)v;
	s->fields[s->n_fields++] = e;
}

static Google__Protobuf__Value *value_new(struct weft_arena *a,
					  Google__Protobuf__Value__KindCase kind)
{
	Google__Protobuf__Value *v = weft_arena_alloc(a, sizeof(*v));

	google__protobuf__value__init(v);
	v->kind_case = kind;
	return v;
}

void weft_struct_set_string(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
			    const char *value)
{
	Google__Protobuf__Value *v = value_new(a, GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE);

	v->string_value = weft_arena_strdup(a, value);
	weft_struct_set(a, s, key, v);
}

void weft_struct_set_number(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
			    double value)
{
	Google__Protobuf__Value *v = value_new(a, GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE);

	v->number_value = value;
	weft_struct_set(a, s, key, v);
}

void weft_struct_set_bool(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
			  bool value)
{
	Google__Protobuf__Value *v = value_new(a, GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE);

	v->bool_value = value;
	weft_struct_set(a, s, key, v);
}
