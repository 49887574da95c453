/* Where messages and their fields stood in a file. Lists are short and looked through only for
 * messages to people, so they are kept small rather than fast. */
#include "xds/yaml_priv.h"
#include <string.h>

struct field_mark {
	struct field_mark *next;
	struct weft_mark at;
	uint32_t field, n;
	const struct weft_mark *v; /* of n elements */
};
struct marks_entry {
	const ProtobufCMessage *m;
	struct weft_mark own;
	struct field_mark *fields;
	const ProtobufCMessage *inner; /* of an Any */
};
struct weft_marks {
	struct weft_arena *a;
	struct weft_mark doc;
	struct marks_entry **slot; /* open addressing; cap is a power of two */
	struct marks_entry *last;  /* got: often wanted again at once */
	size_t n, cap;
};

struct weft_marks *yaml_marks_new(struct weft_arena *a, struct weft_mark doc)
{
	struct weft_marks *k = weft_arena_alloc(a, sizeof(*k));

	k->a = a;
	k->doc = doc;
	k->cap = 16;
	k->slot = weft_arena_alloc(a, k->cap * sizeof(*k->slot));
	return k;
}

static struct marks_entry **find(const struct weft_marks *k, const void *m)
{
	size_t h = ((uintptr_t)m >> 4) * 0x9e3779b97f4a7c15u;

	for (h ^= h >> 32;; h++) {
		struct marks_entry **e = &k->slot[h & (k->cap - 1)];

		if (!*e || (*e)->m == m)
			return e;
	}
}

static struct marks_entry *get(struct weft_marks *k, const ProtobufCMessage *m)
{
	struct marks_entry **e;

	if (k->last && k->last->m == m)
		return k->last;
	e = find(k, m);
	if (*e)
		return k->last = *e;
	if (2 * (k->n + 1) > k->cap) {
		struct weft_marks old = *k;

		k->cap *= 2;
		k->slot = weft_arena_alloc(k->a, k->cap * sizeof(*k->slot));
		for (size_t i = 0; i < old.cap; i++)
			if (old.slot[i])
				*find(k, old.slot[i]->m) = old.slot[i];
		e = find(k, m);
	}
	k->n++;
	*e = weft_arena_alloc(k->a, sizeof(**e));
	(*e)->m = m;
	return k->last = *e;
}

static struct field_mark *field_of(const struct marks_entry *e, unsigned field)
{
	struct field_mark *f = e->fields;

	while (f && f->field != field)
		f = f->next;
	return f;
}

void yaml_marks_message(struct weft_marks *k, const ProtobufCMessage *m, struct weft_mark at)
{
	get(k, m)->own = at;
}

struct marks_entry *yaml_marks_open(struct weft_marks *k, const ProtobufCMessage *m)
{
	return get(k, m);
}

void yaml_marks_add(struct weft_marks *k, struct marks_entry *e, unsigned field,
		    struct weft_mark at)
{
	struct field_mark *f = weft_arena_alloc(k->a, sizeof(*f));

	f->field = field;
	f->at = at;
	f->next = e->fields;
	e->fields = f;
}

void yaml_marks_field(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
		      struct weft_mark at)
{
	struct marks_entry *e = get(k, m);
	struct field_mark *f = field_of(e, field);

	if (f)
		f->at = at;
	else
		yaml_marks_add(k, e, field, at);
}

void yaml_marks_elements(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
			 const struct weft_mark *v, size_t n)
{
	struct field_mark *f = field_of(get(k, m), field);

	if (!f) {
		yaml_marks_field(k, m, field, (struct weft_mark){0, 0});
		f = field_of(get(k, m), field);
	}
	f->v = weft_arena_memdup(k->a, v, n * sizeof(*v));
	f->n = (uint32_t)n;
}

void yaml_marks_set_any(struct weft_marks *k, const ProtobufCMessage *any,
			const ProtobufCMessage *inner)
{
	get(k, any)->inner = inner;
}

const ProtobufCMessage *yaml_marks_any(const struct weft_marks *k, const void *any)
{
	const struct marks_entry *e = *find(k, any);

	return e ? e->inner : NULL;
}

void yaml_marks_join(struct weft_marks *k, const struct weft_marks *from)
{
	for (size_t i = 0; i < from->cap; i++)
		if (from->slot[i] && from->slot[i]->inner)
			yaml_marks_set_any(k, from->slot[i]->m, from->slot[i]->inner);
}

struct weft_mark weft_marks_get(const struct weft_marks *k, const void *m, const char *field,
				int idx)
{
	const struct marks_entry *e = m ? *find(k, m) : NULL;
	const ProtobufCFieldDescriptor *d;
	const struct field_mark *f = NULL;

	if (!e)
		return k->doc;
	d = field ? protobuf_c_message_descriptor_get_field_by_name(e->m->descriptor, field) : NULL;
	if (d)
		f = field_of(e, (unsigned)(d - e->m->descriptor->fields));
	if (f && idx >= 0 && (size_t)idx < f->n)
		return f->v[idx];
	if (f && f->at.line)
		return f->at;
	return e->own.line ? e->own : k->doc;
}
