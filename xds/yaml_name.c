#include "xds/yaml_priv.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

bool yaml_is_kube(const ProtobufCMessageDescriptor *d)
{
	return !strcmp(d->package_name, "weft.kube");
}

/* snake_case to lowerCamelCase; Kubernetes writes a last word ip or ips as IP, IPs. */
const char *yaml_field_name(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
			    char dst[YAML_NAME_MAX])
{
	size_t n = 0;
	bool up = false;

	for (const char *p = f->name; *p && n + 1 < YAML_NAME_MAX; p++) {
		if (*p == '_') {
			up = true;
			continue;
		}
		if (up && yaml_is_kube(d) && (!strcmp(p, "ip") || !strcmp(p, "ips")) &&
		    n + 4 < YAML_NAME_MAX) {
			memcpy(dst + n, "IPs", 3);
			n += strlen(p);
			break;
		}
		dst[n++] = up ? (char)toupper((unsigned char)*p) : *p;
		up = false;
	}
	dst[n] = '\0';
	return dst;
}

const ProtobufCFieldDescriptor *yaml_field_find(const ProtobufCMessageDescriptor *d,
						const char *key)
{
	char name[YAML_NAME_MAX];

	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		if (f->name[0] != key[0]) /* both forms begin alike */
			continue;
		if (!strcmp(f->name, key) || !strcmp(yaml_field_name(d, f, name), key))
			return f;
	}
	return NULL;
}

/* protobuf-c does not mark maps; the compiler gives their entries a name and two fields. */
bool yaml_is_map(const ProtobufCFieldDescriptor *f)
{
	const ProtobufCMessageDescriptor *d = f->descriptor;
	size_t n;

	if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label != PROTOBUF_C_LABEL_REPEATED)
		return false;
	n = strlen(d->short_name);
	return d->n_fields == 2 && n > 5 && !strcmp(d->short_name + n - 5, "Entry") &&
	       !strcmp(d->fields[0].name, "key") && !strcmp(d->fields[1].name, "value");
}

enum yaml_form yaml_form_of(const ProtobufCMessageDescriptor *d)
{
	static const struct {
		const char *name;
		enum yaml_form form;
	} forms[] = {{"Duration", YAML_DURATION},
		     {"UInt32Value", YAML_WRAPPER},
		     {"Struct", YAML_STRUCT},
		     {"Value", YAML_VALUE},
		     {"ListValue", YAML_VALUES}};

	if (strcmp(d->package_name, "google.protobuf") != 0)
		return YAML_PLAIN;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (!strcmp(d->short_name, forms[i].name))
			return forms[i].form;
	return YAML_PLAIN;
}

size_t yaml_sizeof(ProtobufCType t)
{
	switch (t) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	default:
		return 4;
	}
}

static const struct {
	const char *message, *field, *why;
} without_effect[] = {
#define WITHOUT_EFFECT(message_, field_, why_) {message_, field_, why_},
#include "xds/without_effect.def"
#undef WITHOUT_EFFECT
};

const char *yaml_without_effect(const char *message, const char *field)
{
	for (size_t i = 0; i < sizeof(without_effect) / sizeof(without_effect[0]); i++)
		if (!strcmp(without_effect[i].message, message) &&
		    !strcmp(without_effect[i].field, field))
			return without_effect[i].why;
	return NULL;
}

/* ---- marks: message → where it and its fields stood */
struct entry {
	const ProtobufCMessage *m;
	struct weft_mark own;
	struct weft_mark *field; /* n_fields */
	const struct weft_mark **elements;
	size_t *n_elements;
};
struct weft_marks {
	struct weft_arena *a;
	struct weft_mark doc;
	struct entry **slot; /* open addressing; cap is a power of two */
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

static struct entry **find(const struct weft_marks *k, const void *m)
{
	size_t h = ((uintptr_t)m >> 4) * 0x9e3779b97f4a7c15u;

	for (h ^= h >> 32;; h++) {
		struct entry **e = &k->slot[h & (k->cap - 1)];

		if (!*e || (*e)->m == m)
			return e;
	}
}

static struct entry *get(struct weft_marks *k, const ProtobufCMessage *m)
{
	struct entry **e = find(k, m);
	unsigned n = m->descriptor->n_fields;

	if (*e)
		return *e;
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
	(*e)->field = weft_arena_alloc(k->a, (n + 1) * sizeof(*(*e)->field));
	return *e;
}

void yaml_marks_message(struct weft_marks *k, const ProtobufCMessage *m, struct weft_mark at)
{
	get(k, m)->own = at;
}

void yaml_marks_field(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
		      struct weft_mark at)
{
	get(k, m)->field[field] = at;
}

void yaml_marks_elements(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
			 const struct weft_mark *v, size_t n)
{
	struct entry *e = get(k, m);
	unsigned fields = m->descriptor->n_fields;

	if (!e->elements) {
		e->elements = weft_arena_alloc(k->a, fields * sizeof(*e->elements));
		e->n_elements = weft_arena_alloc(k->a, fields * sizeof(*e->n_elements));
	}
	e->elements[field] = weft_arena_memdup(k->a, v, n * sizeof(*v));
	e->n_elements[field] = n;
}

struct weft_mark weft_marks_get(const struct weft_marks *k, const void *m, const char *field,
				int idx)
{
	const struct entry *e = m ? *find(k, m) : NULL;
	const ProtobufCFieldDescriptor *f;
	unsigned i;

	if (!e)
		return k->doc;
	f = field ? protobuf_c_message_descriptor_get_field_by_name(e->m->descriptor, field) : NULL;
	if (!f)
		return e->own.line ? e->own : k->doc;
	i = (unsigned)(f - e->m->descriptor->fields);
	if (idx >= 0 && e->elements && (size_t)idx < e->n_elements[i])
		return e->elements[i][idx];
	if (e->field[i].line)
		return e->field[i];
	return e->own.line ? e->own : k->doc;
}
