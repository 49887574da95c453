#include "xds/wire.h"
#include "xds/yaml_dec.h"
#include <stdlib.h>
#include <string.h>

enum { SEEN_MAX = 128, NAMES_MAX = 96 };

static struct weft_mark mark_of(const struct yev *e)
{
	return (struct weft_mark){e->line, e->col};
}

/* The node itself, or what an alias stands for; NULL after too many of them. */
const struct yev *yaml_node(struct dec *d, const struct weft_path *at, uint32_t i)
{
	const struct yev *e = &d->ev[i];

	if (e->type != YEV_ALIAS)
		return e;
	if (d->aliases++ < WEFT_YAML_ALIAS_MAX)
		return &d->ev[e->target];
	if (d->aliases == WEFT_YAML_ALIAS_MAX + 1) /* one message is enough */
		yaml_fail(d, at, e, "a document may use aliases %d times", WEFT_YAML_ALIAS_MAX);
	return NULL;
}

static uint32_t index_of(const struct dec *d, const struct yev *e)
{
	return (uint32_t)(e - d->ev);
}

ProtobufCMessage *yaml_message_new(struct dec *d, const ProtobufCMessageDescriptor *desc)
{
	ProtobufCMessage *m = weft_arena_alloc(d->t->a, desc->sizeof_message);

	weft_message_init(desc, m);
	return m;
}

static ProtobufCMessage *decode_message(struct dec *d, const struct weft_path *at, uint32_t i,
					const ProtobufCMessageDescriptor *desc);

/* Fields that Kubernetes writes as a number or as a name. */
static bool int_or_string(const struct weft_path *at, const ProtobufCMessageDescriptor *desc,
			  const ProtobufCFieldDescriptor *f)
{
	return yaml_is_kube(desc) && !strcmp(desc->short_name, "ServicePort") &&
	       !strcmp(f->name, "target_port");
}

/* One value of field f of desc into dst (weft_value_sizeof bytes). */
static bool decode_value(struct dec *d, const struct weft_path *at, uint32_t i,
			 const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *f,
			 void *dst)
{
	const struct yev *e;

	if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
		*(ProtobufCMessage **)dst = decode_message(d, at, i, f->descriptor);
		return *(ProtobufCMessage **)dst != NULL;
	}
	e = yaml_node(d, at, i);
	if (!e)
		return false;
	if (e->type != YEV_SCALAR)
		return yaml_wrong(d, at, e,
				  f->type == PROTOBUF_C_TYPE_STRING ? "a string"
								    : "a single value");
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return yaml_value_string(d, at, e, int_or_string(at, desc, f), !yaml_is_kube(desc),
					 dst);
	case PROTOBUF_C_TYPE_BYTES:
		return yaml_value_bytes(d, at, e, dst);
	case PROTOBUF_C_TYPE_BOOL:
		return yaml_value_bool(d, at, e, dst);
	case PROTOBUF_C_TYPE_ENUM:
		return yaml_value_enum(d, at, e, f->descriptor, dst);
	case PROTOBUF_C_TYPE_FLOAT:
	case PROTOBUF_C_TYPE_DOUBLE:
		return yaml_value_float(d, at, e, f->type, dst);
	default:
		/* Kubernetes refuses "80" for a number; protobuf's JSON form allows it */
		if (yaml_scalar_sort(e) != YAML_INT && (e->plain || yaml_is_kube(desc)))
			return yaml_wrong(d, at, e, "a whole number");
		return yaml_value_int(d, at, e, f->type, dst);
	}
}

static void *grow(void *v, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return v;
	*cap = *cap ? *cap * 2 : 8;
	return weft_xrealloc(v, *cap * size);
}

static void set_repeated(struct dec *d, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
			 const void *v, size_t n)
{
	void *copy = n ? weft_arena_memdup(d->t->a, v, n * weft_value_sizeof(f->type)) : NULL;

	*(size_t *)((char *)m + f->quantifier_offset) = n;
	memcpy((char *)m + f->offset, &copy, sizeof(copy));
}

static void decode_list(struct dec *d, const struct weft_path *up, const char *key,
			const struct yev *e, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	size_t n = 0, cap = 0, mark_cap = 0, size = weft_value_sizeof(f->type);
	struct weft_mark *marks = NULL;
	char *v = NULL;
	uint32_t i;

	for (i = index_of(d, e) + 1; d->ev[i].type != YEV_END; i = d->ev[i].next) {
		struct weft_path at = {up, key, (int)n};

		v = grow(v, n, &cap, size);
		memset(v + n * size, 0, size);
		marks = grow(marks, n, &mark_cap, sizeof(*marks));
		marks[n] = mark_of(&d->ev[i]);
		/* a value that fails leaves its place empty: the document is left out anyway; of
		 * a partial one nobody is to meet a hole */
		if (decode_value(d, &at, i, m->descriptor, f, v + n * size) || !d->t->partial)
			n++;
	}
	set_repeated(d, m, f, v, n);
	if (n)
		yaml_marks_elements(d->marks, m, (unsigned)(f - m->descriptor->fields), marks, n);
	free(v);
	free(marks);
}

static int key_order(const void *a, const void *b)
{
	const struct yev *x = *(const struct yev *const *)a, *y = *(const struct yev *const *)b;
	int c = strcmp(x->v, y->v);

	return c ? c : (x > y) - (x < y);
}

/* Sorting finds duplicates of any number of keys in bounded time. */
static void check_keys(struct dec *d, const struct weft_path *at, const struct yev **keys, size_t n)
{
	if (n < 2)
		return;
	qsort(keys, n, sizeof(struct yev *), key_order);
	for (size_t i = 1; i < n; i++) {
		struct weft_path sub = {at, keys[i]->v, -1};

		if (!strcmp(keys[i - 1]->v, keys[i]->v))
			yaml_fail(d, &sub, keys[i], "given twice; first at %d:%d",
				  keys[i - 1]->line, keys[i - 1]->col);
	}
}

/* The key at i as a scalar; NULL after an error. */
static const struct yev *key_at(struct dec *d, const struct weft_path *at, uint32_t i)
{
	const struct yev *e = yaml_node(d, at, i);

	if (!e)
		return NULL;
	if (e->type != YEV_SCALAR || yaml_scalar_sort(e) == YAML_NULL) {
		yaml_wrong(d, at, e, "a key");
		return NULL;
	}
	if (memchr(e->v, 0, e->n)) {
		yaml_fail(d, at, e, "key holds a NUL character");
		return NULL;
	}
	return e;
}

static bool decode_map_key(struct dec *d, const struct weft_path *at, const struct yev *key,
			   ProtobufCMessage *entry)
{
	const ProtobufCFieldDescriptor *f = &entry->descriptor->fields[0];
	char *slot = (char *)entry + f->offset;

	if (f->label == PROTOBUF_C_LABEL_OPTIONAL && f->type != PROTOBUF_C_TYPE_STRING)
		*(protobuf_c_boolean *)((char *)entry + f->quantifier_offset) = 1;
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)slot = weft_arena_strdup(d->t->a, key->v);
		return true;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)slot = !strcmp(key->v, "true");
		return !strcmp(key->v, "true") || !strcmp(key->v, "false") ||
		       yaml_wrong(d, at, key, "true or false");
	default:
		return yaml_value_int(d, at, key, f->type, slot);
	}
}

static void decode_map(struct dec *d, const struct weft_path *at, const struct yev *e,
		       ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const ProtobufCMessageDescriptor *desc = f->descriptor;
	size_t n = 0, n_keys = 0, cap = 0, key_cap = 0;
	const struct yev **keys = NULL;
	ProtobufCMessage **v = NULL;

	for (uint32_t i = index_of(d, e) + 1; d->ev[i].type != YEV_END;) {
		uint32_t value = d->ev[i].next;
		const struct yev *key = key_at(d, at, i);
		const ProtobufCFieldDescriptor *vf = &desc->fields[1];
		ProtobufCMessage *entry = yaml_message_new(d, desc);
		struct weft_path sub = {at, key ? key->v : NULL, -1};

		i = d->ev[value].next;
		if (!key)
			continue;
		keys = grow(keys, n_keys, &key_cap, sizeof(*keys));
		keys[n_keys++] = key;
		yaml_marks_message(d->marks, entry, mark_of(key));
		yaml_marks_field(d->marks, entry, 1, mark_of(&d->ev[value]));
		if (vf->label == PROTOBUF_C_LABEL_OPTIONAL && vf->type != PROTOBUF_C_TYPE_STRING &&
		    vf->type != PROTOBUF_C_TYPE_MESSAGE)
			*(protobuf_c_boolean *)((char *)entry + vf->quantifier_offset) = 1;
		if (!decode_map_key(d, &sub, key, entry) ||
		    !decode_value(d, &sub, value, desc, vf, (char *)entry + vf->offset))
			continue;
		v = grow(v, n, &cap, sizeof(*v));
		v[n++] = entry;
	}
	check_keys(d, at, keys, n_keys);
	set_repeated(d, m, f, v, n);
	free(v);
	free(keys);
}

static bool is_null(const struct yev *e)
{
	return e->type == YEV_SCALAR && yaml_scalar_sort(e) == YAML_NULL;
}

/* Another member of f's oneof that is set, by the order of fields. */
static const ProtobufCFieldDescriptor *rival(const ProtobufCMessage *m,
					     const ProtobufCFieldDescriptor *f)
{
	uint32_t set;

	if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
		return NULL;
	set = *(const uint32_t *)((const char *)m + f->quantifier_offset);
	return set && set != f->id ? protobuf_c_message_descriptor_get_field(m->descriptor, set)
				   : NULL;
}

static void set_present(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		*(uint32_t *)((char *)m + f->quantifier_offset) = f->id;
	else if (f->label == PROTOBUF_C_LABEL_OPTIONAL && f->type != PROTOBUF_C_TYPE_STRING &&
		 f->type != PROTOBUF_C_TYPE_MESSAGE)
		*(protobuf_c_boolean *)((char *)m + f->quantifier_offset) = 1;
}

static void decode_field(struct dec *d, const struct weft_path *up, const struct yev *key,
			 uint32_t i, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	struct weft_path at = {up, key->v, -1};
	const struct yev *e = yaml_node(d, &at, i);
	const ProtobufCFieldDescriptor *other = rival(m, f);
	char name[YAML_NAME_MAX];

	if (!e)
		return;
	if (is_null(e) && (f->type != PROTOBUF_C_TYPE_STRING || d->envoy) &&
	    !(f->type == PROTOBUF_C_TYPE_MESSAGE && yaml_form_of(f->descriptor) == YAML_VALUE)) {
		/* in our own kinds an empty value is more often a file cut short than a wish */
		if (!d->t->lenient && yaml_is_kube(m->descriptor) &&
		    strcmp(m->descriptor->short_name, "ObjectMeta") != 0)
			yaml_fail(d, &at, e, "has no value; give it one or leave it out");
		return;
	}
	/* tools write "creationTimestamp: null" */
	if (is_null(e) && (d->t->lenient || !strcmp(m->descriptor->short_name, "ObjectMeta")))
		return;
	if (other) {
		yaml_fail(d, &at, key, "only one may be set, and %s is",
			  yaml_field_name(m->descriptor, other, name));
		return;
	}
	if (yaml_is_map(f)) {
		if (e->type == YEV_MAP)
			decode_map(d, &at, e, m, f);
		else
			yaml_wrong(d, &at, e, "a mapping");
	} else if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		if (e->type == YEV_LIST)
			decode_list(d, up, key->v, e, m, f);
		else
			yaml_wrong(d, &at, e, "a list");
	} else if (decode_value(d, &at, index_of(d, e), m->descriptor, f, (char *)m + f->offset)) {
		set_present(m, f);
	}
}

static void unknown_field(struct dec *d, const struct weft_path *up, const struct yev *key,
			  const ProtobufCMessageDescriptor *desc)
{
	struct weft_path at = {up, key->v, -1};
	char text[NAMES_MAX][YAML_NAME_MAX];
	const char *names[NAMES_MAX], *near;
	size_t n = 0;

	if (!strcmp(key->v, "<<")) {
		yaml_fail(d, up, key, "merge keys (<<) are not supported");
		return;
	}
	if (d->t->lenient || yaml_without_effect(desc->name, key->v))
		return;
	for (; n < desc->n_fields && n < NAMES_MAX; n++)
		names[n] = yaml_field_name(desc, &desc->fields[n], text[n]);
	near = weft_suggest(key->v, names, n);
	if (near)
		yaml_fail(d, &at, key, "unknown field; did you mean \"%s\"?", near);
	else
		yaml_fail(d, &at, key, "unknown field");
}

/* The same few fields come again and again. */
static const ProtobufCFieldDescriptor *
find_field(struct dec *d, const ProtobufCMessageDescriptor *desc, const struct yev *key)
{
	uintptr_t h = ((uintptr_t)desc >> 5) + 31 * (uintptr_t)key->n +
		      7 * (unsigned char)key->v[0] +
		      (key->n ? 127 * (unsigned char)key->v[key->n - 1] : 0);
	struct found *c = &d->found[h % FOUND_MAX];

	if (c->desc != desc || strcmp(c->f->name, key->v) != 0) {
		const ProtobufCFieldDescriptor *f = yaml_field_find(desc, key->v);

		if (!f)
			return NULL;
		c->desc = desc;
		c->f = f;
	}
	return c->f;
}

/* typed: in the mapping of an Any, which has the key @type too. */
static void decode_fields(struct dec *d, const struct weft_path *up, const struct yev *e,
			  ProtobufCMessage *m, bool typed)
{
	struct marks_entry *marks = yaml_marks_open(d->marks, m);
	unsigned n = m->descriptor->n_fields;
	const struct yev *seen[SEEN_MAX];

	memset(seen, 0, (n < SEEN_MAX ? n : SEEN_MAX) * sizeof(seen[0]));
	for (uint32_t i = index_of(d, e) + 1; d->ev[i].type != YEV_END;) {
		uint32_t value = d->ev[i].next;
		const struct yev *key = key_at(d, up, i);
		const ProtobufCFieldDescriptor *f = key ? find_field(d, m->descriptor, key) : NULL;
		unsigned k = f ? (unsigned)(f - m->descriptor->fields) : 0;
		struct weft_path at = {up, key ? key->v : NULL, -1};

		i = d->ev[value].next;
		if (!key || (typed && !strcmp(key->v, "@type")))
			continue;
		if (!f) {
			unknown_field(d, up, key, m->descriptor);
		} else if (k < SEEN_MAX && seen[k]) {
			yaml_fail(d, &at, key, "given twice; first at %d:%d", seen[k]->line,
				  seen[k]->col);
		} else {
			if (k < SEEN_MAX)
				seen[k] = key;
			yaml_marks_add(d->marks, marks, k, mark_of(&d->ev[value]));
			decode_field(d, up, key, value, m, f);
		}
	}
}

static bool decode_any_scalar(struct dec *d, const struct weft_path *at, const struct yev *e,
			      Google__Protobuf__Value *v)
{
	switch (yaml_scalar_sort(e)) {
	case YAML_NULL:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
		return true;
	case YAML_BOOL:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
		return yaml_value_bool(d, at, e, &v->bool_value);
	case YAML_INT:
	case YAML_FLOAT:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
		return yaml_value_float(d, at, e, PROTOBUF_C_TYPE_DOUBLE, &v->number_value);
	default:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
		return yaml_value_string(d, at, e, false, false, &v->string_value);
	}
}

static bool decode_any_value(struct dec *d, const struct weft_path *at, const struct yev *e,
			     Google__Protobuf__Value *v)
{
	if (e->type == YEV_SCALAR)
		return decode_any_scalar(d, at, e, v);
	if (e->type == YEV_LIST) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
		v->list_value = (Google__Protobuf__ListValue *)decode_message(
			d, at, index_of(d, e), &google__protobuf__list_value__descriptor);
		return v->list_value != NULL;
	}
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
	v->struct_value = (Google__Protobuf__Struct *)decode_message(
		d, at, index_of(d, e), &google__protobuf__struct__descriptor);
	return v->struct_value != NULL;
}

/* A message that is written in a form of its own, or as a mapping of its fields. */
static bool decode_form(struct dec *d, const struct weft_path *at, const struct yev *e,
			ProtobufCMessage *m)
{
	const ProtobufCMessageDescriptor *desc = m->descriptor;

	switch (yaml_form_of(desc)) {
	case YAML_DURATION:
		if (d->envoy && e->type == YEV_MAP) {
			decode_fields(d, at, e, m, false);
			return yaml_duration_fits(d, at, e, (Google__Protobuf__Duration *)m);
		}
		return yaml_value_duration(d, at, e, (Google__Protobuf__Duration *)m);
	case YAML_TIMESTAMP:
		return yaml_value_time(d, at, e, (Google__Protobuf__Timestamp *)m);
	case YAML_ANY:
		return yaml_decode_any(d, at, e, (Google__Protobuf__Any *)m);
	case YAML_WRAPPER:
		set_present(m, &desc->fields[0]);
		return decode_value(d, at, index_of(d, e), desc, &desc->fields[0],
				    (char *)m + desc->fields[0].offset);
	case YAML_VALUE:
		return decode_any_value(d, at, e, (Google__Protobuf__Value *)m);
	case YAML_VALUES:
		if (e->type != YEV_LIST)
			return yaml_wrong(d, at, e, "a list");
		decode_list(d, at, "", e, m, &desc->fields[0]);
		return true;
	case YAML_STRUCT:
		if (e->type != YEV_MAP)
			return yaml_wrong(d, at, e, "a mapping");
		decode_map(d, at, e, m, &desc->fields[0]);
		return true;
	default:
		if (e->type != YEV_MAP)
			return yaml_wrong(d, at, e, "a mapping");
		decode_fields(d, at, e, m, false);
		return true;
	}
}

bool yaml_decode_into(struct dec *d, const struct weft_path *at, uint32_t i, ProtobufCMessage *m)
{
	const struct yev *e = yaml_node(d, at, i);
	bool ok;

	if (!e)
		return false;
	/* aliases can nest deeper than the text does */
	if (d->depth >= WEFT_YAML_DEPTH_MAX)
		return yaml_fail(d, at, e, "nested deeper than %d levels", WEFT_YAML_DEPTH_MAX);
	yaml_marks_message(d->marks, m, mark_of(&d->ev[i]));
	d->depth++;
	ok = decode_form(d, at, e, m);
	d->depth--;
	return ok;
}

void yaml_decode_typed(struct dec *d, const struct weft_path *at, const struct yev *e,
		       ProtobufCMessage *m)
{
	yaml_marks_message(d->marks, m, mark_of(e));
	d->depth++;
	decode_fields(d, at, e, m, true);
	d->depth--;
}

static ProtobufCMessage *decode_message(struct dec *d, const struct weft_path *at, uint32_t i,
					const ProtobufCMessageDescriptor *desc)
{
	ProtobufCMessage *m = yaml_message_new(d, desc);

	return yaml_decode_into(d, at, i, m) ? m : NULL;
}

ProtobufCMessage *yaml_decode_root(const struct yaml_target *t, const struct yaml_events *ev,
				   struct weft_marks **ret_marks)
{
	struct dec d = {.t = t,
			.ev = ev->v,
			.envoy = yaml_is_envoy(t->desc),
			.errors_before = *t->n_errors};
	ProtobufCMessage *m;

	d.marks = yaml_marks_new(t->a, mark_of(&ev->v[0]));
	m = decode_message(&d, NULL, 0, t->desc);
	*ret_marks = d.marks;
	return *t->n_errors == d.errors_before || t->partial ? m : NULL;
}
