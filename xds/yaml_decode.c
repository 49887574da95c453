#include "xds/proto/wellknown.pb-c.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct dec {
	const struct yaml_target *t;
	const struct yev *ev;
	struct weft_marks *marks;
	int aliases, depth;
};
enum { SHOW_MAX = 96, SEEN_MAX = 128, NAMES_MAX = 64 };

static struct weft_mark mark_of(const struct yev *e)
{
	return (struct weft_mark){e->line, e->col};
}

static bool fail(struct dec *d, const struct weft_path *at, const struct yev *e, const char *fmt,
		 ...) __attribute__((format(printf, 4, 5)));
/* Adds an error; always false, so that callers return it. */
static bool fail(struct dec *d, const struct weft_path *at, const struct yev *e, const char *fmt,
		 ...)
{
	struct weft_err *err = weft_errs_next(d->t->errs);
	va_list ap;

	(*d->t->n_errors)++;
	va_start(ap, fmt);
	weft_vfail(err, at, EINVAL, fmt, ap);
	va_end(ap);
	if (err)
		yaml_err_place(err, d->t->file, e->line, e->col);
	return false;
}

static bool wrong(struct dec *d, const struct weft_path *at, const struct yev *e, const char *want)
{
	char is[SHOW_MAX];

	return fail(d, at, e, "must be %s, is %s", want, yaml_scalar_show(e, is, sizeof(is)));
}

/* The node itself, or what an alias stands for; NULL after too many of them. */
static const struct yev *node(struct dec *d, const struct weft_path *at, uint32_t i)
{
	const struct yev *e = &d->ev[i];

	if (e->type != YEV_ALIAS)
		return e;
	if (d->aliases++ < WEFT_YAML_ALIAS_MAX)
		return &d->ev[e->target];
	if (d->aliases == WEFT_YAML_ALIAS_MAX + 1) /* one message is enough */
		fail(d, at, e, "a document may use aliases %d times", WEFT_YAML_ALIAS_MAX);
	return NULL;
}

static uint32_t index_of(const struct dec *d, const struct yev *e)
{
	return (uint32_t)(e - d->ev);
}

static ProtobufCMessage *message_new(struct dec *d, const ProtobufCMessageDescriptor *desc)
{
	ProtobufCMessage *m = weft_arena_alloc(d->t->a, desc->sizeof_message);

	protobuf_c_message_init(desc, m);
	return m;
}

static ProtobufCMessage *decode_message(struct dec *d, const struct weft_path *at, uint32_t i,
					const ProtobufCMessageDescriptor *desc);

static bool decode_int(struct dec *d, const struct weft_path *at, const struct yev *e,
		       ProtobufCType type, void *dst)
{
	bool wide = yaml_sizeof(type) == 8, negative;
	bool is_unsigned = type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_FIXED32 ||
			   type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_FIXED64;
	uint64_t max =
		is_unsigned ? (wide ? UINT64_MAX : UINT32_MAX) : (wide ? INT64_MAX : INT32_MAX);
	uint64_t v;
	int r = yaml_scalar_u64(e->v, &negative, &v);

	if (r == -EINVAL)
		return wrong(d, at, e, "a whole number");
	if (r < 0 || v > max + (negative && !is_unsigned) || (negative && is_unsigned && v))
		return fail(d, at, e, "must be %s%llu..%llu, is %.40s", is_unsigned ? "" : "-",
			    is_unsigned ? 0ULL : (unsigned long long)max + 1,
			    (unsigned long long)max, e->v);
	v = negative ? 0 - v : v;
	if (wide)
		memcpy(dst, &v, 8);
	else
		memcpy(dst, &(uint32_t){(uint32_t)v}, 4);
	return true;
}

static bool decode_float(struct dec *d, const struct weft_path *at, const struct yev *e,
			 ProtobufCType type, void *dst)
{
	enum yaml_sort sort = yaml_scalar_sort(e);
	double v;
	char *end;

	if (sort == YAML_STRING && !strcmp(e->v, "NaN"))
		v = NAN;
	else if (sort == YAML_STRING && (!strcmp(e->v, "Infinity") || !strcmp(e->v, "-Infinity")))
		v = e->v[0] == '-' ? -INFINITY : INFINITY;
	else if (sort != YAML_INT && sort != YAML_FLOAT)
		return wrong(d, at, e, "a number");
	else {
		v = strtod(e->v, &end);
		if (*end)
			return wrong(d, at, e, "a decimal number");
		if (isinf(v) || (type == PROTOBUF_C_TYPE_FLOAT && fabs(v) > (double)FLT_MAX))
			return fail(d, at, e, "number out of range: %.40s", e->v);
	}
	if (type == PROTOBUF_C_TYPE_DOUBLE)
		memcpy(dst, &v, 8);
	else
		memcpy(dst, &(float){(float)v}, 4);
	return true;
}

static bool decode_enum(struct dec *d, const struct weft_path *at, const struct yev *e,
			const ProtobufCEnumDescriptor *desc, void *dst)
{
	char is[SHOW_MAX], all[128] = "";
	const char *near = NULL, *names[NAMES_MAX];
	size_t n = 0, used = 0;

	for (unsigned i = 0; i < desc->n_values; i++) {
		if (!strcmp(desc->values[i].name, e->v) && strlen(e->v) == e->n) {
			memcpy(dst, &desc->values[i].value, 4);
			return true;
		}
		if (!strcasecmp(desc->values[i].name, e->v))
			near = desc->values[i].name;
		if (n < NAMES_MAX)
			names[n++] = desc->values[i].name;
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s",
						 i ? ", " : "", desc->values[i].name);
	}
	if (!near)
		near = weft_suggest(e->v, names, n);
	return fail(d, at, e, "must be one of %s; is %s%s%s%s", all,
		    yaml_scalar_show(e, is, sizeof(is)), near ? "; did you mean " : "",
		    near ? near : "", near ? "?" : "");
}

/* Fields that Kubernetes writes as a number or as a name. */
static bool int_or_string(const struct weft_path *at, const ProtobufCMessageDescriptor *desc,
			  const ProtobufCFieldDescriptor *f)
{
	return yaml_is_kube(desc) && !strcmp(desc->short_name, "ServicePort") &&
	       !strcmp(f->name, "target_port");
}

static bool decode_string(struct dec *d, const struct weft_path *at, const struct yev *e,
			  bool number_too, char **dst)
{
	enum yaml_sort sort = yaml_scalar_sort(e);
	char is[SHOW_MAX];

	if (memchr(e->v, 0, e->n))
		return fail(d, at, e, "string holds a NUL character: %s",
			    yaml_scalar_show(e, is, sizeof(is)));
	if (sort == YAML_NULL)
		return wrong(d, at, e, "a string");
	if (sort != YAML_STRING && !(number_too && sort == YAML_INT))
		return fail(d, at, e, "must be a string, is %s; write it in quotes",
			    yaml_scalar_show(e, is, sizeof(is)));
	*dst = weft_arena_memdup(d->t->a, e->v, e->n + 1);
	return true;
}

static bool decode_bytes(struct dec *d, const struct weft_path *at, const struct yev *e,
			 ProtobufCBinaryData *dst)
{
	dst->data = weft_arena_alloc(d->t->a, e->n + 1);
	if (yaml_base64_decode(e->v, e->n, dst->data, &dst->len) == 0)
		return true;
	return wrong(d, at, e, "base64");
}

static bool decode_bool(struct dec *d, const struct weft_path *at, const struct yev *e, void *dst)
{
	protobuf_c_boolean v = e->v[0] == 't' || e->v[0] == 'T';

	if (yaml_scalar_sort(e) != YAML_BOOL)
		return wrong(d, at, e, "true or false");
	memcpy(dst, &v, sizeof(v));
	return true;
}

/* One value of field f of desc into dst (yaml_sizeof bytes). */
static bool decode_value(struct dec *d, const struct weft_path *at, uint32_t i,
			 const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *f,
			 void *dst)
{
	const struct yev *e;

	if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
		*(ProtobufCMessage **)dst = decode_message(d, at, i, f->descriptor);
		return *(ProtobufCMessage **)dst != NULL;
	}
	e = node(d, at, i);
	if (!e)
		return false;
	if (e->type != YEV_SCALAR)
		return wrong(d, at, e,
			     f->type == PROTOBUF_C_TYPE_STRING ? "a string" : "a single value");
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return decode_string(d, at, e, int_or_string(at, desc, f), dst);
	case PROTOBUF_C_TYPE_BYTES:
		return decode_bytes(d, at, e, dst);
	case PROTOBUF_C_TYPE_BOOL:
		return decode_bool(d, at, e, dst);
	case PROTOBUF_C_TYPE_ENUM:
		return decode_enum(d, at, e, f->descriptor, dst);
	case PROTOBUF_C_TYPE_FLOAT:
	case PROTOBUF_C_TYPE_DOUBLE:
		return decode_float(d, at, e, f->type, dst);
	default:
		/* Kubernetes refuses "80" for a number; protobuf's JSON form allows it */
		if (yaml_scalar_sort(e) != YAML_INT && (e->plain || yaml_is_kube(desc)))
			return wrong(d, at, e, "a whole number");
		return decode_int(d, at, e, f->type, dst);
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
	void *copy = n ? weft_arena_memdup(d->t->a, v, n * yaml_sizeof(f->type)) : NULL;

	*(size_t *)((char *)m + f->quantifier_offset) = n;
	memcpy((char *)m + f->offset, &copy, sizeof(copy));
}

static void decode_list(struct dec *d, const struct weft_path *up, const char *key,
			const struct yev *e, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	size_t n = 0, cap = 0, mark_cap = 0, size = yaml_sizeof(f->type);
	struct weft_mark *marks = NULL;
	char *v = NULL;
	uint32_t i;

	for (i = index_of(d, e) + 1; d->ev[i].type != YEV_END; i = d->ev[i].next) {
		struct weft_path at = {up, key, (int)n};

		v = grow(v, n, &cap, size);
		memset(v + n * size, 0, size);
		marks = grow(marks, n, &mark_cap, sizeof(*marks));
		marks[n] = mark_of(&d->ev[i]);
		/* a value that fails leaves its place empty: the document is left out anyway */
		decode_value(d, &at, i, m->descriptor, f, v + n * size);
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
			fail(d, &sub, keys[i], "given twice; first at %d:%d", keys[i - 1]->line,
			     keys[i - 1]->col);
	}
}

/* The key at i as a scalar; NULL after an error. */
static const struct yev *key_at(struct dec *d, const struct weft_path *at, uint32_t i)
{
	const struct yev *e = node(d, at, i);

	if (!e)
		return NULL;
	if (e->type != YEV_SCALAR || yaml_scalar_sort(e) == YAML_NULL) {
		wrong(d, at, e, "a key");
		return NULL;
	}
	if (memchr(e->v, 0, e->n)) {
		fail(d, at, e, "key holds a NUL character");
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
		return decode_bool(d, at, key, slot);
	default:
		return decode_int(d, at, key, f->type, slot);
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
		ProtobufCMessage *entry = message_new(d, desc);
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
	const struct yev *e = node(d, &at, i);
	const ProtobufCFieldDescriptor *other = rival(m, f);
	char name[YAML_NAME_MAX];

	if (!e)
		return;
	yaml_marks_field(d->marks, m, (unsigned)(f - m->descriptor->fields), mark_of(&d->ev[i]));
	if (is_null(e) && f->type != PROTOBUF_C_TYPE_STRING &&
	    !(f->type == PROTOBUF_C_TYPE_MESSAGE && yaml_form_of(f->descriptor) == YAML_VALUE)) {
		/* in our own kinds an empty value is more often a file cut short than a wish */
		if (!d->t->lenient && yaml_is_kube(m->descriptor) &&
		    strcmp(m->descriptor->short_name, "ObjectMeta") != 0)
			fail(d, &at, e, "has no value; give it one or leave it out");
		return;
	}
	if (is_null(e) && d->t->lenient)
		return;
	if (other) {
		fail(d, &at, key, "only one may be set, and %s is",
		     yaml_field_name(m->descriptor, other, name));
		return;
	}
	if (yaml_is_map(f)) {
		if (e->type == YEV_MAP)
			decode_map(d, &at, e, m, f);
		else
			wrong(d, &at, e, "a mapping");
	} else if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		if (e->type == YEV_LIST)
			decode_list(d, up, key->v, e, m, f);
		else
			wrong(d, &at, e, "a list");
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
		fail(d, up, key, "merge keys (<<) are not supported");
		return;
	}
	if (d->t->lenient || yaml_without_effect(desc->name, key->v))
		return;
	for (; n < desc->n_fields && n < NAMES_MAX; n++)
		names[n] = yaml_field_name(desc, &desc->fields[n], text[n]);
	near = weft_suggest(key->v, names, n);
	if (near)
		fail(d, &at, key, "unknown field; did you mean \"%s\"?", near);
	else
		fail(d, &at, key, "unknown field");
}

static void decode_fields(struct dec *d, const struct weft_path *up, const struct yev *e,
			  ProtobufCMessage *m)
{
	const struct yev *seen[SEEN_MAX] = {0};

	for (uint32_t i = index_of(d, e) + 1; d->ev[i].type != YEV_END;) {
		uint32_t value = d->ev[i].next;
		const struct yev *key = key_at(d, up, i);
		const ProtobufCFieldDescriptor *f =
			key ? yaml_field_find(m->descriptor, key->v) : NULL;
		unsigned k = f ? (unsigned)(f - m->descriptor->fields) : 0;
		struct weft_path at = {up, key ? key->v : NULL, -1};

		i = d->ev[value].next;
		if (!key)
			continue;
		if (!f) {
			unknown_field(d, up, key, m->descriptor);
		} else if (k < SEEN_MAX && seen[k]) {
			fail(d, &at, key, "given twice; first at %d:%d", seen[k]->line,
			     seen[k]->col);
		} else {
			if (k < SEEN_MAX)
				seen[k] = key;
			decode_field(d, up, key, value, m, f);
		}
	}
}

static bool decode_duration(struct dec *d, const struct weft_path *at, const struct yev *e,
			    Google__Protobuf__Duration *m)
{
	int r;

	if (e->type != YEV_SCALAR || yaml_scalar_sort(e) != YAML_STRING)
		return wrong(d, at, e, "a duration such as 90s or 1h30m");
	r = yaml_duration_parse(e->v, &m->seconds, &m->nanos);
	if (r == -ERANGE)
		return fail(d, at, e, "duration above 100 years: %.40s", e->v);
	if (r < 0)
		return wrong(d, at, e, "a duration such as 90s or 1h30m");
	m->has_seconds = true;
	m->has_nanos = m->nanos != 0;
	return true;
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
		return decode_bool(d, at, e, &v->bool_value);
	case YAML_INT:
	case YAML_FLOAT:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
		return decode_float(d, at, e, PROTOBUF_C_TYPE_DOUBLE, &v->number_value);
	default:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
		return decode_string(d, at, e, false, &v->string_value);
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
		return decode_duration(d, at, e, (Google__Protobuf__Duration *)m);
	case YAML_WRAPPER:
		set_present(m, &desc->fields[0]);
		return decode_value(d, at, index_of(d, e), desc, &desc->fields[0],
				    (char *)m + desc->fields[0].offset);
	case YAML_VALUE:
		return decode_any_value(d, at, e, (Google__Protobuf__Value *)m);
	case YAML_VALUES:
		if (e->type != YEV_LIST)
			return wrong(d, at, e, "a list");
		decode_list(d, at, "", e, m, &desc->fields[0]);
		return true;
	case YAML_STRUCT:
		if (e->type != YEV_MAP)
			return wrong(d, at, e, "a mapping");
		decode_map(d, at, e, m, &desc->fields[0]);
		return true;
	default:
		if (e->type != YEV_MAP)
			return wrong(d, at, e, "a mapping");
		decode_fields(d, at, e, m);
		return true;
	}
}

static ProtobufCMessage *decode_message(struct dec *d, const struct weft_path *at, uint32_t i,
					const ProtobufCMessageDescriptor *desc)
{
	const struct yev *e = node(d, at, i);
	ProtobufCMessage *m;
	bool ok;

	if (!e)
		return NULL;
	/* aliases can nest deeper than the text does */
	if (d->depth >= WEFT_YAML_DEPTH_MAX) {
		fail(d, at, e, "nested deeper than %d levels", WEFT_YAML_DEPTH_MAX);
		return NULL;
	}
	m = message_new(d, desc);
	yaml_marks_message(d->marks, m, mark_of(&d->ev[i]));
	d->depth++;
	ok = decode_form(d, at, e, m);
	d->depth--;
	return ok ? m : NULL;
}

ProtobufCMessage *yaml_decode_root(const struct yaml_target *t, const struct yaml_events *ev,
				   struct weft_marks **ret_marks)
{
	struct dec d = {.t = t, .ev = ev->v};
	int before = *t->n_errors;
	ProtobufCMessage *m;

	d.marks = yaml_marks_new(t->a, mark_of(&ev->v[0]));
	m = decode_message(&d, NULL, 0, t->desc);
	*ret_marks = d.marks;
	return *t->n_errors == before ? m : NULL;
}
