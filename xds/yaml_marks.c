/* Where messages and their fields stood in a file. Lists are short and looked through only for
 * messages to people, so they are kept small rather than fast. */
#include "xds/yaml_priv.h"
#include <stdlib.h>
#include <string.h>

enum {
	SMALL = 256, /* messages; the marks of more go into an arena of their own */
	CAP_MIN = 16,
};

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
struct marks_slot {
	const void *m;
	struct marks_entry *e;
};
struct weft_marks {
	struct weft_arena *a;
	struct weft_arena *own; /* of many marks, so that they can go before the document does */
	struct weft_mark doc;
	struct marks_slot *slot;  /* open addressing; cap is a power of two */
	struct marks_entry *last; /* got: often wanted again at once */
	size_t n, cap;
};

static void marks_end(void *p)
{
	struct weft_marks *k = p;

	weft_arena_free(k->own);
	free(k->slot);
}

struct weft_marks *yaml_marks_new(struct weft_arena *a, struct weft_mark doc)
{
	struct weft_marks *k = weft_arena_alloc(a, sizeof(*k));

	k->a = a;
	k->doc = doc;
	k->cap = CAP_MIN;
	k->slot = weft_xcalloc(k->cap, sizeof(*k->slot));
	weft_arena_cleanup(a, marks_end, k);
	return k;
}

void weft_marks_drop(struct weft_marks *k)
{
	if (!k || !k->own)
		return; /* few: they go with the document */
	marks_end(k);
	k->own = NULL;
	k->last = NULL;
	k->n = 0;
	k->cap = CAP_MIN;
	k->slot = weft_xcalloc(k->cap, sizeof(*k->slot));
}

static void *room(struct weft_marks *k, size_t n)
{
	if (!k->own && k->n > SMALL)
		k->own = weft_arena_new(64 << 10);
	return weft_arena_alloc(k->own ? k->own : k->a, n);
}

static struct marks_slot *find(const struct weft_marks *k, const void *m)
{
	size_t h = ((uintptr_t)m >> 4) * 0x9e3779b97f4a7c15u;

	for (h ^= h >> 32;; h++) {
		struct marks_slot *s = &k->slot[h & (k->cap - 1)];

		if (!s->m || s->m == m)
			return s;
	}
}

static void grow(struct weft_marks *k)
{
	struct weft_marks old = *k;

	k->cap *= 4;
	k->slot = weft_xcalloc(k->cap, sizeof(*k->slot));
	for (size_t i = 0; i < old.cap; i++) {
		if (old.slot[i].m)
			*find(k, old.slot[i].m) = old.slot[i];
	}
	free(old.slot);
}

static struct marks_entry *get(struct weft_marks *k, const ProtobufCMessage *m)
{
	struct marks_slot *s;

	if (k->last && k->last->m == m)
		return k->last;
	s = find(k, m);
	if (s->m)
		return k->last = s->e;
	if (2 * (k->n + 1) > k->cap) {
		grow(k);
		s = find(k, m);
	}
	k->n++;
	s->m = m;
	s->e = room(k, sizeof(*s->e));
	s->e->m = m;
	return k->last = s->e;
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
	struct field_mark *f = room(k, sizeof(*f));

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
	if (n > 0)
		f->v = memcpy(room(k, n * sizeof(*v)), v, n * sizeof(*v));
	f->n = (uint32_t)n;
}

void yaml_marks_set_any(struct weft_marks *k, const ProtobufCMessage *any,
			const ProtobufCMessage *inner)
{
	get(k, any)->inner = inner;
}

const ProtobufCMessage *yaml_marks_any(const struct weft_marks *k, const void *any)
{
	const struct marks_entry *e = find(k, any)->e;

	return e ? e->inner : NULL;
}

void yaml_marks_join(struct weft_marks *k, const struct weft_marks *from)
{
	for (size_t i = 0; i < from->cap; i++)
		if (from->slot[i].m && from->slot[i].e->inner)
			yaml_marks_set_any(k, from->slot[i].m, from->slot[i].e->inner);
}

struct weft_mark weft_marks_get(const struct weft_marks *k, const void *m, const char *field,
				int idx)
{
	const struct marks_entry *e = m ? find(k, m)->e : NULL;
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
