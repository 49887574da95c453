/* What a dump of the configuration must not show, and what it was asked to leave out. */
#include "proxy/waypoint/admin_priv.h"
#include "xds/cfg.h"
#include "xds/wire.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

static const struct {
	const char *message, *field;
} sensitive[] = {
#define SENSITIVE(message, field) {message, field},
#include "proxy/waypoint/admin_sensitive.def"
#undef SENSITIVE
};

static bool is_sensitive(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f)
{
	size_t i;

	for (i = 0; i < sizeof(sensitive) / sizeof(*sensitive); i++)
		if (!strcmp(d->name, sensitive[i].message) && !strcmp(f->name, sensitive[i].field))
			return true;
	return false;
}

static bool is_set(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	return !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
	       *(const uint32_t *)((const char *)m + f->quantifier_offset) == f->id;
}

/* Elements of a field: *ret_n of them, `size` apart. */
static char *elements(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t *ret_n)
{
	char *at = (char *)m + f->offset;

	*ret_n = 1;
	if (f->label != PROTOBUF_C_LABEL_REPEATED)
		return at;
	*ret_n = *(const size_t *)((const char *)m + f->quantifier_offset);
	return *(char *const *)at;
}

static void walk(struct weft_arena *a, ProtobufCMessage *m, bool hide, unsigned depth);

/* What an Any holds, for change. NULL: of a type that is not known. */
static ProtobufCMessage *open_any(struct weft_arena *a, const Google__Protobuf__Any *any)
{
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.arena = a, .errs = errs};
	const ProtobufCMessage *m = weft_cfg_any(&c, NULL, any, NULL);

	free(errs);
	return (ProtobufCMessage *)m; /* fresh: nothing was decoded into this arena before */
}

static void any_set(struct weft_arena *a, Google__Protobuf__Any *any, const ProtobufCMessage *in)
{
	Google__Protobuf__Any *to = weft_cfg_any_new(a, in);

	any->type_url = to->type_url;
	any->has_value = to->has_value;
	any->value = to->value;
}

static void walk_any(struct weft_arena *a, Google__Protobuf__Any *any, bool hide, unsigned depth)
{
	ProtobufCMessage *in = open_any(a, any);

	if (!in) { /* nobody knows what is in it */
		any->value.len = 0;
		return;
	}
	walk(a, in, hide, depth + 1);
	any_set(a, any, in);
}

static void hide_scalars(const ProtobufCFieldDescriptor *f, char *v, size_t n)
{
	static const char text[] = "[redacted]";
	size_t i;

	for (i = 0; i < n; i++)
		if (f->type == PROTOBUF_C_TYPE_STRING)
			((char **)v)[i] = (char *)text;
		else if (f->type == PROTOBUF_C_TYPE_BYTES)
			((ProtobufCBinaryData *)v)[i] =
				(ProtobufCBinaryData){sizeof(text) - 1, (uint8_t *)text};
}

static void walk(struct weft_arena *a, ProtobufCMessage *m, bool hide, unsigned depth)
{
	unsigned i;
	size_t n, k;

	if (depth > DEPTH_MAX)
		return;
	if (m->descriptor == &google__protobuf__any__descriptor) {
		walk_any(a, (Google__Protobuf__Any *)m, hide, depth);
		return;
	}
	for (i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		bool h = hide || is_sensitive(m->descriptor, f);
		char *v;

		if (!is_set(m, f))
			continue;
		v = elements(m, f, &n);
		if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
			for (k = 0; k < n; k++)
				if (((ProtobufCMessage **)v)[k])
					walk(a, ((ProtobufCMessage **)v)[k], h, depth + 1);
		} else if (h &&
			   (f->label == PROTOBUF_C_LABEL_REPEATED ||
			    f->type != PROTOBUF_C_TYPE_STRING || *(char **)v != f->default_value)) {
			hide_scalars(f, v, n);
		}
	}
}

ProtobufCMessage *admin_redact(struct weft_arena *a, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = weft_arena_alloc(a, n + 1);
	ProtobufCAllocator al = weft_wire_allocator(a);
	ProtobufCMessage *copy;

	protobuf_c_message_pack(m, p);
	copy = protobuf_c_message_unpack(m->descriptor, &al, n, p);
	if (copy)
		walk(a, copy, false, 0);
	return copy;
}

/* ---- masks */
static void unset(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	char *q = (char *)m + f->quantifier_offset, *v = (char *)m + f->offset;

	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		if (*(uint32_t *)q == f->id)
			*(uint32_t *)q = 0;
	} else if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		*(size_t *)q = 0;
	} else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
		*(void **)v = NULL;
	} else if (f->type == PROTOBUF_C_TYPE_STRING) {
		*(const void **)v = f->default_value;
	} else {
		*(protobuf_c_boolean *)q = 0;
	}
}

struct paths { /* those below one message */
	const char *v[64];
	size_t n;
};

/* Paths that go on below field `name`; *ret_all: one ends there. */
static bool below(const struct paths *p, const char *name, struct paths *ret, bool *ret_all)
{
	size_t len = strlen(name), i;
	bool found = false;

	ret->n = 0;
	*ret_all = false;
	for (i = 0; i < p->n; i++) {
		size_t k = strcspn(p->v[i], ".,");

		if (k != len || strncmp(p->v[i], name, len))
			continue;
		found = true;
		if (p->v[i][k] == '.')
			ret->v[ret->n++] = p->v[i] + k + 1;
		else
			*ret_all = true;
	}
	return found;
}

static bool trim(struct weft_arena *a, ProtobufCMessage *m, const struct paths *p, unsigned depth)
{
	struct paths under;
	bool any = false, all;
	unsigned i;
	size_t n, k;

	if (depth > DEPTH_MAX)
		return false;
	if (m->descriptor == &google__protobuf__any__descriptor) {
		ProtobufCMessage *in = open_any(a, (Google__Protobuf__Any *)m);

		if (!in)
			return false;
		any = trim(a, in, p, depth + 1);
		any_set(a, (Google__Protobuf__Any *)m, in);
		return any;
	}
	for (i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		char *v;

		if (!below(p, f->name, &under, &all)) {
			unset(m, f);
			continue;
		}
		any = true;
		if (all || f->type != PROTOBUF_C_TYPE_MESSAGE || !is_set(m, f))
			continue;
		v = elements(m, f, &n);
		for (k = 0; k < n; k++)
			if (((ProtobufCMessage **)v)[k])
				trim(a, ((ProtobufCMessage **)v)[k], &under, depth + 1);
	}
	return any;
}

bool admin_mask(struct weft_arena *a, ProtobufCMessage *m, const char *text)
{
	struct paths p = {.n = 0};

	for (; *text && p.n < sizeof(p.v) / sizeof(*p.v); text += strcspn(text, ",")) {
		text += *text == ',';
		if (*text && *text != ',')
			p.v[p.n++] = text;
	}
	return trim(a, m, &p, 0);
}
