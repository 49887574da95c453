#include "xds/cfg.h"
#include "xds/wire.h"
#include "xds/yaml_priv.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Anys in Anys that are opened. */
enum { ANYS_MAX = 32 };
struct enc {
	FILE *f;
	bool json;
	int anys;
	struct weft_arena *a; /* of what Anys hold */
};

static void put_message(struct enc *e, const ProtobufCMessage *m, int indent);
static void put_value(struct enc *e, const ProtobufCMessageDescriptor *d,
		      const ProtobufCFieldDescriptor *f, const void *v, int indent);

static void newline(struct enc *e, int indent)
{
	fprintf(e->f, "\n%*s", 2 * indent, "");
}

/* Characters beyond ASCII that YAML takes for line breaks or refuses; 0: none at s. */
static unsigned special(const unsigned char *s)
{
	if (s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f)
		return s[1];
	if (s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9))
		return 0x2000 | (s[2] & 0x3f);
	if (s[0] == 0xef && s[1] == 0xbb && s[2] == 0xbf)
		return 0xfeff;
	if (s[0] == 0xef && s[1] == 0xbf && s[2] >= 0xbe)
		return 0xffc0 | (s[2] & 0x3f);
	return 0;
}

static void put_quoted(struct enc *e, const char *s)
{
	putc('"', e->f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		unsigned u = special((const unsigned char *)s);

		if (u) {
			fprintf(e->f, "\\u%04x", u);
			s += u < 0x800 ? 1 : 2;
		} else if (c == '"' || c == '\\')
			fprintf(e->f, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", e->f);
		else if (c < 0x20 || c == 0x7f)
			fprintf(e->f, "\\u%04x", c);
		else
			putc(c, e->f);
	}
	putc('"', e->f);
}

/* Plain only where every reader takes it for a string. */
static bool is_plain(const char *s)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/";
	static const char rest[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/0123456789.-";
	struct yev e = {.type = YEV_SCALAR, .plain = true, .v = s, .n = strlen(s)};

	return *s && strchr(first, *s) && !s[strspn(s, rest)] && e.n > 1 &&
	       yaml_scalar_sort(&e) == YAML_STRING;
}

static void put_string(struct enc *e, const char *s)
{
	if (!e->json && is_plain(s))
		fputs(s, e->f);
	else
		put_quoted(e, s);
}

static void put_double(struct enc *e, double v, int digits)
{
	char text[40];

	if (isnan(v) || isinf(v)) {
		put_quoted(e, isnan(v) ? "NaN" : v < 0 ? "-Infinity" : "Infinity");
		return;
	}
	if (v == trunc(v) && fabs(v) < 1e15) { /* 5000000000 rather than 5e+09 */
		fprintf(e->f, "%.0f", v);
		return;
	}
	for (int n = 1; n <= digits; n++) {
		snprintf(text, sizeof(text), "%.*g", n, v);
		if (digits == 9 ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v)
			break;
	}
	fputs(text, e->f);
}

static void put_bytes(struct enc *e, const ProtobufCBinaryData *b)
{
	char *text = weft_xcalloc(1, 4 * (b->len + 2) / 3 + 4);

	yaml_base64_encode(b->data, b->len, text);
	put_quoted(e, text);
	free(text);
}

static void put_enum(struct enc *e, const ProtobufCEnumDescriptor *d, int v)
{
	const ProtobufCEnumValue *ev = protobuf_c_enum_descriptor_get_value(d, v);

	if (ev && e->json)
		put_quoted(e, ev->name);
	else if (ev)
		put_string(e, ev->name);
	else
		fprintf(e->f, "%d", v);
}

/* protobuf's JSON form of 64 bits is a string. */
static bool is_quoted(const struct enc *e, const ProtobufCMessageDescriptor *d, ProtobufCType t)
{
	return e->json && weft_value_sizeof(t) == 8 && t != PROTOBUF_C_TYPE_DOUBLE &&
	       t != PROTOBUF_C_TYPE_STRING && t != PROTOBUF_C_TYPE_MESSAGE && yaml_is_envoy(d);
}

static void put_number(struct enc *e, ProtobufCType t, const void *v)
{
	switch (t) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		fprintf(e->f, "%lld", (long long)*(const int64_t *)v);
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		fprintf(e->f, "%llu", (unsigned long long)*(const uint64_t *)v);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		fprintf(e->f, "%u", *(const uint32_t *)v);
		break;
	default:
		fprintf(e->f, "%d", *(const int32_t *)v);
	}
}

static bool is_set(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *q = (const char *)m + f->quantifier_offset, *v = (const char *)m + f->offset;

	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return *(const uint32_t *)q == f->id;
	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return *(const size_t *)q != 0;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(void *const *)v != NULL;
	if (f->type == PROTOBUF_C_TYPE_STRING)
		return *(void *const *)v != NULL && *(const void *const *)v != f->default_value;
	return f->label != PROTOBUF_C_LABEL_OPTIONAL || *(const protobuf_c_boolean *)q;
}

static bool any_set(const ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++)
		if (is_set(m, &m->descriptor->fields[i]))
			return true;
	return false;
}

/* Whether the text of m takes lines of its own in YAML. */
static bool is_block(const ProtobufCMessage *m)
{
	const Google__Protobuf__Value *v = (const Google__Protobuf__Value *)m;

	switch (yaml_form_of(m->descriptor)) {
	case YAML_DURATION:
	case YAML_TIMESTAMP:
	case YAML_WRAPPER:
		return false;
	case YAML_ANY:
		return true;
	case YAML_VALUE:
		if (v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE && v->struct_value)
			return is_block(&v->struct_value->base);
		if (v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE && v->list_value)
			return is_block(&v->list_value->base);
		return false;
	default:
		return any_set(m);
	}
}

static const void *element(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t i)
{
	const char *v = *(const char *const *)((const char *)m + f->offset);

	return v + i * weft_value_sizeof(f->type);
}

static size_t count(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	return *(const size_t *)((const char *)m + f->quantifier_offset);
}

/* A list whose first line continues the current one only in JSON. */
static void put_list(struct enc *e, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
		     int indent)
{
	size_t n = count(m, f);

	if (n == 0) {
		fputs("[]", e->f);
		return;
	}
	if (e->json)
		putc('[', e->f);
	for (size_t i = 0; i < n; i++) {
		if (e->json) {
			newline(e, indent + 1);
			put_value(e, m->descriptor, f, element(m, f, i), indent + 1);
			if (i + 1 < n)
				putc(',', e->f);
		} else {
			if (i)
				newline(e, indent);
			fputs("- ", e->f);
			put_value(e, m->descriptor, f, element(m, f, i), indent + 1);
		}
	}
	if (e->json) {
		newline(e, indent);
		putc(']', e->f);
	}
}

static void put_key(struct enc *e, const ProtobufCMessage *entry)
{
	const ProtobufCFieldDescriptor *f = &entry->descriptor->fields[0];
	const void *v = (const char *)entry + f->offset;

	if (f->type == PROTOBUF_C_TYPE_STRING) {
		const char *s = *(const char *const *)v;

		put_string(e, s ? s : "");
		return;
	}
	putc('"', e->f);
	if (f->type == PROTOBUF_C_TYPE_BOOL)
		fputs(*(const protobuf_c_boolean *)v ? "true" : "false", e->f);
	else
		put_number(e, f->type, v);
	putc('"', e->f);
}

/* Whether a field's value begins on a line of its own after "key:". */
static bool value_is_block(const ProtobufCFieldDescriptor *f, const void *v)
{
	return f->type == PROTOBUF_C_TYPE_MESSAGE && *(const ProtobufCMessage *const *)v &&
	       is_block(*(const ProtobufCMessage *const *)v);
}

static void put_after_key(struct enc *e, const ProtobufCMessage *m,
			  const ProtobufCFieldDescriptor *f, int indent)
{
	const void *v = (const char *)m + f->offset;

	putc(':', e->f);
	if (!e->json && value_is_block(f, v))
		newline(e, indent + 1);
	else
		putc(' ', e->f);
	put_value(e, m->descriptor, f, v, e->json ? indent : indent + 1);
}

static void put_map(struct enc *e, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
		    int indent)
{
	size_t n = count(m, f);

	if (n == 0) {
		fputs("{}", e->f);
		return;
	}
	if (e->json)
		putc('{', e->f);
	for (size_t i = 0; i < n; i++) {
		const ProtobufCMessage *entry = *(const ProtobufCMessage *const *)element(m, f, i);
		const ProtobufCFieldDescriptor *vf = &entry->descriptor->fields[1];

		if (e->json)
			newline(e, indent + 1);
		else if (i)
			newline(e, indent);
		put_key(e, entry);
		put_after_key(e, entry, vf, e->json ? indent + 1 : indent);
		if (e->json && i + 1 < n)
			putc(',', e->f);
	}
	if (e->json) {
		newline(e, indent);
		putc('}', e->f);
	}
}

static void put_field(struct enc *e, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
		      int in)
{
	char name[YAML_NAME_MAX];
	const char *key = yaml_field_name(m->descriptor, f, name);

	fprintf(e->f, e->json ? "\"%s\"" : "%s", key);
	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		put_after_key(e, m, f, in);
		return;
	}
	putc(':', e->f);
	if (e->json)
		putc(' ', e->f);
	else
		newline(e, yaml_is_map(f) ? in + 1 : in);
	if (yaml_is_map(f))
		put_map(e, m, f, e->json ? in : in + 1);
	else
		put_list(e, m, f, in);
}

/* type_url: of an Any, stands first; else NULL. */
static void put_fields(struct enc *e, const ProtobufCMessage *m, const char *type_url, int indent)
{
	const ProtobufCMessageDescriptor *d = m->descriptor;
	int in = e->json ? indent + 1 : indent;
	bool first = true;

	if (!type_url && !any_set(m)) {
		fputs("{}", e->f);
		return;
	}
	if (e->json)
		putc('{', e->f);
	if (type_url) {
		if (e->json)
			newline(e, in);
		fputs("\"@type\": ", e->f);
		put_string(e, type_url);
		first = false;
	}
	for (unsigned i = 0; i < d->n_fields; i++) {
		if (!is_set(m, &d->fields[i]))
			continue;
		if (e->json && !first)
			putc(',', e->f);
		if (e->json || !first)
			newline(e, in);
		first = false;
		put_field(e, m, &d->fields[i], in);
	}
	if (e->json) {
		newline(e, indent);
		putc('}', e->f);
	}
}

/* An Any whose message has a form of its own (in NULL: is not known) under the key value. */
static void put_any_as(struct enc *e, const Google__Protobuf__Any *any, const ProtobufCMessage *in,
		       int indent)
{
	int at = e->json ? indent + 1 : indent;

	if (e->json) {
		putc('{', e->f);
		newline(e, at);
	}
	fputs("\"@type\": ", e->f);
	put_string(e, any->type_url ? any->type_url : "");
	if (in || any->value.len) {
		if (e->json)
			putc(',', e->f);
		newline(e, at);
		fputs(e->json ? "\"value\":" : "value:", e->f);
		if (!e->json && in && is_block(in))
			newline(e, at + 1);
		else
			putc(' ', e->f);
		if (in)
			put_message(e, in, e->json ? at : at + 1);
		else
			put_bytes(e, &any->value);
	}
	if (e->json) {
		newline(e, indent);
		putc('}', e->f);
	}
}

static void put_any(struct enc *e, const Google__Protobuf__Any *any, int indent)
{
	const ProtobufCMessageDescriptor *d =
		e->anys < ANYS_MAX ? weft_cfg_type(any->type_url) : NULL;
	const ProtobufCMessage *in =
		d ? weft_wire_unpack(e->a, d, any->value.data, any->value.len, false, NULL) : NULL;

	e->anys++;
	if (in && yaml_form_of(d) == YAML_PLAIN)
		put_fields(e, in, any->type_url, indent);
	else
		put_any_as(e, any, in, indent);
	e->anys--;
}

static void put_any_value(struct enc *e, const Google__Protobuf__Value *v, int indent)
{
	switch (v->kind_case) {
	case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
		put_double(e, v->number_value, 17);
		break;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
		put_string(e, v->string_value ? v->string_value : "");
		break;
	case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
		fputs(v->bool_value ? "true" : "false", e->f);
		break;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
		put_message(e, &v->struct_value->base, indent);
		break;
	case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
		put_message(e, &v->list_value->base, indent);
		break;
	default:
		fputs("null", e->f);
	}
}

static void put_duration(struct enc *e, const Google__Protobuf__Duration *v)
{
	char text[48];

	yaml_duration_text(v->seconds, v->nanos, text, sizeof(text));
	fprintf(e->f, e->json ? "\"%s\"" : "%s", text);
}

static void put_time(struct enc *e, const Google__Protobuf__Timestamp *v)
{
	char text[48];

	yaml_time_text(v->seconds, v->nanos, text, sizeof(text));
	put_quoted(e, text);
}

/* At the place where its text begins; indent is of its lines after the first. */
static void put_message(struct enc *e, const ProtobufCMessage *m, int indent)
{
	const ProtobufCFieldDescriptor *f0 = m->descriptor->fields;

	switch (yaml_form_of(m->descriptor)) {
	case YAML_DURATION:
		put_duration(e, (const Google__Protobuf__Duration *)m);
		break;
	case YAML_TIMESTAMP:
		put_time(e, (const Google__Protobuf__Timestamp *)m);
		break;
	case YAML_ANY:
		put_any(e, (const Google__Protobuf__Any *)m, indent);
		break;
	case YAML_WRAPPER:
		put_value(e, m->descriptor, f0, (const char *)m + f0->offset, indent);
		break;
	case YAML_VALUE:
		put_any_value(e, (const Google__Protobuf__Value *)m, indent);
		break;
	case YAML_VALUES:
		put_list(e, m, f0, indent);
		break;
	case YAML_STRUCT:
		put_map(e, m, f0, indent);
		break;
	default:
		put_fields(e, m, NULL, indent);
	}
}

static void put_value(struct enc *e, const ProtobufCMessageDescriptor *d,
		      const ProtobufCFieldDescriptor *f, const void *v, int indent)
{
	const char *s;

	switch (f->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		if (*(const ProtobufCMessage *const *)v)
			put_message(e, *(const ProtobufCMessage *const *)v, indent);
		else
			fputs("{}", e->f);
		break;
	case PROTOBUF_C_TYPE_STRING:
		s = *(const char *const *)v;
		put_string(e, s ? s : "");
		break;
	case PROTOBUF_C_TYPE_BYTES:
		put_bytes(e, v);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		fputs(*(const protobuf_c_boolean *)v ? "true" : "false", e->f);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		put_enum(e, f->descriptor, *(const int *)v);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		put_double(e, *(const double *)v, 17);
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		put_double(e, (double)*(const float *)v, 9);
		break;
	default:
		if (is_quoted(e, d, f->type))
			putc('"', e->f);
		put_number(e, f->type, v);
		if (is_quoted(e, d, f->type))
			putc('"', e->f);
	}
}

char *weft_yaml_encode(const ProtobufCMessage *m, bool json)
{
	struct enc e = {.json = json, .a = weft_arena_new(0)};
	char *text = NULL;
	size_t n;

	e.f = open_memstream(&text, &n);
	if (!e.f)
		abort(); /* memory */
	put_message(&e, m, 0);
	putc('\n', e.f);
	if (fclose(e.f) != 0)
		abort();
	weft_arena_free(e.a);
	return text;
}
