#include "agent/envoy.h"

#include "xds/cfg.h"
#include "xds/wire.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *eb_new(struct weft_arena *a, const ProtobufCMessageDescriptor *d)
{
	void *m = weft_arena_alloc(a, d->sizeof_message);

	weft_message_init(d, m);
	return m;
}

static const ProtobufCFieldDescriptor *field_of(const void *m, const char *name, size_t n)
{
	char buf[80];
	const ProtobufCFieldDescriptor *f;

	if (n >= sizeof(buf))
		abort();
	memcpy(buf, name, n);
	buf[n] = '\0';
	f = protobuf_c_message_descriptor_get_field_by_name(
		((const ProtobufCMessage *)m)->descriptor, buf);
	if (!f)
		abort(); /* the caller misspelt it */
	return f;
}

/* Where the value goes, told to be there: of a repeated field, one more. */
static void *slot(struct weft_arena *a, void *m, const ProtobufCFieldDescriptor *f)
{
	size_t *n, size = weft_value_sizeof(f->type);
	char **list;

	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
			*(int *)((char *)m + f->quantifier_offset) = (int)f->id;
		else if (f->quantifier_offset)
			*(protobuf_c_boolean *)((char *)m + f->quantifier_offset) = 1;
		return (char *)m + f->offset;
	}
	n = (size_t *)((char *)m + f->quantifier_offset);
	list = (char **)((char *)m + f->offset);
	if (!(*n & (*n - 1))) { /* room is doubled at each power of two */
		char *to = weft_arena_alloc(a, (*n ? *n * 2 : 1) * size);

		if (*n)
			memcpy(to, *list, *n * size);
		*list = to;
	}
	return *list + (*n)++ * size;
}

static void *step(struct weft_arena *a, void *m, const ProtobufCFieldDescriptor *f)
{
	void **at;

	if (f->type != PROTOBUF_C_TYPE_MESSAGE)
		abort();
	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		bool other = (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
			     *(int *)((char *)m + f->quantifier_offset) != (int)f->id;

		at = (void **)((char *)m + f->offset);
		if (*at && !other)
			return *at;
	}
	at = slot(a, m, f);
	*at = eb_new(a, f->descriptor);
	return *at;
}

void *eb_in(struct weft_arena *a, void *m, const char *path)
{
	while (*path) {
		size_t n = strcspn(path, ".");

		m = step(a, m, field_of(m, path, n));
		path += n + (path[n] == '.');
	}
	return m;
}

/* The message that holds the last field of path, and that field. */
static void *holder(struct weft_arena *a, void *m, const char *path,
		    const ProtobufCFieldDescriptor **ret)
{
	const char *dot = strrchr(path, '.');

	if (dot)
		m = eb_in(a, m, weft_arena_strndup(a, path, (size_t)(dot - path)));
	dot = dot ? dot + 1 : path;
	*ret = field_of(m, dot, strlen(dot));
	return m;
}

void eb_str(struct weft_arena *a, void *m, const char *path, const char *s)
{
	const ProtobufCFieldDescriptor *f;

	if (!s)
		return;
	m = holder(a, m, path, &f);
	if (f->type == PROTOBUF_C_TYPE_ENUM) {
		const ProtobufCEnumValue *v =
			protobuf_c_enum_descriptor_get_value_by_name(f->descriptor, s);

		if (!v)
			abort();
		*(int *)slot(a, m, f) = v->value;
	} else if (f->type == PROTOBUF_C_TYPE_BYTES) {
		*(ProtobufCBinaryData *)slot(a, m, f) =
			(ProtobufCBinaryData){strlen(s), (uint8_t *)weft_arena_strdup(a, s)};
	} else if (f->type == PROTOBUF_C_TYPE_STRING) {
		*(char **)slot(a, m, f) = weft_arena_strdup(a, s);
	} else {
		abort();
	}
}

void eb_strf(struct weft_arena *a, void *m, const char *path, const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort(); /* memory is out */
	va_end(ap);
	eb_str(a, m, path, s);
	free(s);
}

void eb_num(struct weft_arena *a, void *m, const char *path, int64_t v)
{
	const ProtobufCFieldDescriptor *f;

	m = holder(a, m, path, &f);
	if (f->type == PROTOBUF_C_TYPE_MESSAGE) { /* a wrapper */
		m = step(a, m, f);
		f = field_of(m, "value", 5);
	}
	switch (f->type) {
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)slot(a, m, f) = v != 0;
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		*(double *)slot(a, m, f) = (double)v;
		break;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
	case PROTOBUF_C_TYPE_FLOAT:
		abort();
	default:
		if (weft_value_sizeof(f->type) == 8)
			*(int64_t *)slot(a, m, f) = v;
		else
			*(int32_t *)slot(a, m, f) = (int32_t)v;
	}
}

void eb_ms(struct weft_arena *a, void *m, const char *path, int64_t ms)
{
	Google__Protobuf__Duration *d = eb_in(a, m, path);

	d->has_seconds = 1;
	d->seconds = ms / 1000;
	d->has_nanos = ms % 1000 != 0;
	d->nanos = (int32_t)(ms % 1000) * 1000000;
}

void eb_any(struct weft_arena *a, void *m, const char *path, const void *v)
{
	const ProtobufCFieldDescriptor *f;

	m = holder(a, m, path, &f);
	if (f->descriptor != &google__protobuf__any__descriptor)
		abort();
	*(void **)slot(a, m, f) = weft_cfg_any_new(a, v);
}

void eb_typed(struct weft_arena *a, void *m, const char *name, const void *v)
{
	eb_str(a, m, "name", name);
	eb_any(a, m, "typed_config", v);
}

void *eb_entry(struct weft_arena *a, void *m, const char *path, const char *key)
{
	void *e = eb_in(a, m, path);

	eb_str(a, e, "key", key);
	return eb_in(a, e, "value");
}

void eb_struct(struct weft_arena *a, void *m, const char *path, const char *key, const char *value)
{
	Google__Protobuf__Struct *s = eb_in(a, m, path);

	eb_str(a, eb_entry(a, s, "fields", key), "string_value", value);
}

void eb_meta(struct weft_arena *a, void *m, const char *filter, const char *key, const char *value)
{
	void *md = eb_in(a, m, "metadata"), *s = NULL;
	const ProtobufCFieldDescriptor *f = field_of(md, "filter_metadata", 15);
	size_t n = *(size_t *)((char *)md + f->quantifier_offset);
	void **v = *(void ***)((char *)md + f->offset);

	for (size_t i = 0; i < n && !s; i++) {
		const ProtobufCFieldDescriptor *k = field_of(v[i], "key", 3);

		if (!strcmp(*(char **)((char *)v[i] + k->offset), filter))
			s = eb_in(a, v[i], "value");
	}
	if (!s)
		s = eb_entry(a, md, "filter_metadata", filter);
	eb_str(a, eb_entry(a, s, "fields", key), "string_value", value);
}

char *eb_quote(struct weft_arena *a, const char *s)
{
	char *to = weft_arena_alloc(a, 2 * strlen(s) + 1), *p = to;

	for (; *s; s++) {
		if (isascii((unsigned char)*s) && !isalnum((unsigned char)*s) && *s != '_' &&
		    *s != '/' && *s != '-')
			*p++ = '\\';
		*p++ = *s;
	}
	*p = '\0';
	return to;
}
