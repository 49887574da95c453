#include "xds/wire.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One unpacked message may take this much memory: small elements grow about a hundredfold. */
enum { WIRE_MEMORY_MAX = 512 << 20, WIRE_COUNTED = 128, WIRE_OVERHEAD = 64 };
enum { WIRE_VARINT, WIRE_64, WIRE_LEN, WIRE_GROUP, WIRE_GROUP_END, WIRE_32 };

struct walk {
	bool strict;
	size_t memory; /* estimate of what unpacking takes */
	struct weft_err *err;
};
struct span {
	const uint8_t *p, *end;
};

/* Bytes read, or 0: cut off, or longer than max bytes. */
static size_t varint(const struct span *s, size_t max, uint64_t *ret)
{
	uint64_t v = 0;

	for (size_t i = 0; i < max && s->p + i < s->end; i++) {
		v |= (uint64_t)(s->p[i] & 0x7f) << (7 * i);
		if (!(s->p[i] & 0x80)) {
			*ret = v;
			return i + 1;
		}
	}
	return 0;
}

/* Values have up to ten bytes; of tags and lengths protobuf-c reads five, which is what 32 bits
 * need. */
enum { VALUE_BYTES = 10, SHORT_BYTES = 5 };

static int take_varint(struct walk *w, const struct weft_path *at, struct span *s, size_t max,
		       uint64_t *ret)
{
	size_t n = varint(s, max, ret);

	if (n == 0 && (size_t)(s->end - s->p) < max)
		return weft_fail(w->err, at, EINVAL, "the bytes end inside a varint");
	if (n == 0)
		return weft_fail(w->err, at, EINVAL, "a varint is longer than %zu bytes", max);
	s->p += n;
	return 0;
}

static int take(struct walk *w, const struct weft_path *at, struct span *s, uint64_t n,
		struct span *ret)
{
	if (n > WEFT_WIRE_FIELD_MAX)
		return weft_fail(w->err, at, E2BIG, "length must be at most %d, is %llu",
				 WEFT_WIRE_FIELD_MAX, (unsigned long long)n);
	if (n > (uint64_t)(s->end - s->p))
		return weft_fail(w->err, at, EINVAL, "length %llu, but only %zu bytes follow",
				 (unsigned long long)n, (size_t)(s->end - s->p));
	ret->p = s->p;
	ret->end = s->p += n;
	return 0;
}

/* Length of the UTF-8 character at p, or 0. Refuses overlong forms, surrogates and what is above
 * U+10FFFF. */
static size_t utf8_char(const uint8_t *p, size_t n)
{
	size_t len = p[0] < 0x80   ? 1
		     : p[0] < 0xc2 ? 0
		     : p[0] < 0xe0 ? 2
		     : p[0] < 0xf0 ? 3
		     : p[0] < 0xf5 ? 4
				   : 0;

	if (len == 0 || len > n)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

static int check_string(struct walk *w, const struct weft_path *at, struct span s)
{
	size_t len;

	for (const uint8_t *p = s.p; p < s.end; p += len) {
		if (*p == 0)
			return weft_fail(w->err, at, EILSEQ,
					 "string holds a NUL byte at offset %zu",
					 (size_t)(p - s.p));
		len = utf8_char(p, (size_t)(s.end - p));
		if (len == 0)
			return weft_fail(w->err, at, EILSEQ,
					 "string is not UTF-8: byte 0x%02x at offset %zu", *p,
					 (size_t)(p - s.p));
	}
	return 0;
}

static int wire_of(ProtobufCType t)
{
	switch (t) {
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return WIRE_32;
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return WIRE_64;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return WIRE_LEN;
	default:
		return WIRE_VARINT;
	}
}

static int check_enum(struct walk *w, const struct weft_path *at, const ProtobufCEnumDescriptor *e,
		      uint64_t v)
{
	if (w->strict && !protobuf_c_enum_descriptor_get_value(e, (int)v))
		return weft_fail(w->err, at, EINVAL, "%d is not a value of %s", (int)v,
				 e->short_name);
	return 0;
}

static int charge(struct walk *w, const struct weft_path *at, size_t n)
{
	w->memory += n;
	if (w->memory > WIRE_MEMORY_MAX)
		return weft_fail(w->err, at, E2BIG, "the message unpacks to more than %d MiB",
				 WIRE_MEMORY_MAX >> 20);
	return 0;
}

static int check_message(struct walk *w, const struct weft_path *up, int depth,
			 const ProtobufCMessageDescriptor *d, struct span s);

/* Several scalars in one length-delimited field. */
static int check_packed(struct walk *w, const struct weft_path *at,
			const ProtobufCFieldDescriptor *f, struct span s)
{
	int wire = wire_of(f->type), r;
	size_t step = wire == WIRE_32 ? 4 : 8;
	uint64_t v;

	r = charge(w, at, 8 * (size_t)(s.end - s.p));
	if (r < 0)
		return r;
	if (wire != WIRE_VARINT) {
		if ((size_t)(s.end - s.p) % step)
			return weft_fail(w->err, at, EINVAL,
					 "packed length %zu is not a multiple of %zu",
					 (size_t)(s.end - s.p), step);
		return 0;
	}
	while (s.p < s.end) {
		r = take_varint(w, at, &s, VALUE_BYTES, &v);
		if (r == 0 && f->type == PROTOBUF_C_TYPE_ENUM)
			r = check_enum(w, at, f->descriptor, v);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_field(struct walk *w, const struct weft_path *at, int depth,
		       const ProtobufCFieldDescriptor *f, int wire, struct span *s)
{
	int want = wire_of(f->type), r;
	struct span in;
	uint64_t v;

	if (wire != want && !(wire == WIRE_LEN && f->label == PROTOBUF_C_LABEL_REPEATED))
		return weft_fail(w->err, at, EINVAL, "wire type must be %d, is %d", want, wire);
	if (wire == WIRE_32 || wire == WIRE_64)
		return take(w, at, s, wire == WIRE_32 ? 4 : 8, &in);
	r = take_varint(w, at, s, wire == WIRE_VARINT ? VALUE_BYTES : SHORT_BYTES, &v);
	if (r < 0)
		return r;
	if (wire == WIRE_VARINT)
		return f->type == PROTOBUF_C_TYPE_ENUM ? check_enum(w, at, f->descriptor, v) : 0;
	r = take(w, at, s, v, &in);
	if (r == 0)
		r = charge(w, at, (size_t)v);
	if (r < 0)
		return r;
	if (want != WIRE_LEN)
		return check_packed(w, at, f, in);
	if (f->type == PROTOBUF_C_TYPE_STRING)
		return check_string(w, at, in);
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return check_message(w, at, depth + 1, f->descriptor, in);
	return 0;
}

static int skip_unknown(struct walk *w, const struct weft_path *up, uint64_t number, int wire,
			struct span *s)
{
	char name[32];
	struct weft_path at = {up, name, -1};
	struct span in;
	uint64_t v;
	int r;

	snprintf(name, sizeof(name), "#%llu", (unsigned long long)number);
	if (w->strict)
		return weft_fail(w->err, &at, EINVAL, "unknown field");
	if (wire == WIRE_32 || wire == WIRE_64)
		return take(w, &at, s, wire == WIRE_32 ? 4 : 8, &in);
	r = take_varint(w, &at, s, wire == WIRE_VARINT ? VALUE_BYTES : SHORT_BYTES, &v);
	if (r < 0 || wire == WIRE_VARINT)
		return r;
	r = take(w, &at, s, v, &in);
	return r < 0 ? r : charge(w, &at, (size_t)v);
}

/* What was seen so far of one message: how often each field came, which member of each oneof. */
struct seen {
	uint32_t count[WIRE_COUNTED];
};

/* Whole messages never carry a singular field twice; merging them is a part of protobuf nobody
 * needs. */
static int note_field(struct walk *w, const struct weft_path *up,
		      const ProtobufCMessageDescriptor *d, unsigned i, struct seen *seen)
{
	const ProtobufCFieldDescriptor *f = &d->fields[i];
	struct weft_path at = {up, f->name, -1};

	if (i >= WIRE_COUNTED || f->label == PROTOBUF_C_LABEL_REPEATED)
		return 0;
	if (seen->count[i])
		return weft_fail(w->err, &at, EINVAL, "given twice");
	if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
		return 0;
	for (unsigned k = 0; k < d->n_fields && k < WIRE_COUNTED; k++)
		if (k != i && seen->count[k] &&
		    (d->fields[k].flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		    d->fields[k].quantifier_offset == f->quantifier_offset)
			return weft_fail(w->err, &at, EINVAL, "%s of the same oneof is set too",
					 d->fields[k].name);
	return 0;
}

static int check_required(struct walk *w, const struct weft_path *up,
			  const ProtobufCMessageDescriptor *d, const struct seen *seen)
{
	for (unsigned i = 0; i < d->n_fields && i < WIRE_COUNTED; i++) {
		struct weft_path at = {up, d->fields[i].name, -1};

		if (d->fields[i].label == PROTOBUF_C_LABEL_REQUIRED && !seen->count[i])
			return weft_fail(w->err, &at, EINVAL, "required, but missing");
	}
	return 0;
}

static int take_tag(struct walk *w, const struct weft_path *up, struct span *s,
		    uint64_t *ret_number, int *ret_wire)
{
	uint64_t tag;
	int r = take_varint(w, up, s, SHORT_BYTES, &tag);

	if (r < 0)
		return r;
	*ret_number = tag >> 3;
	*ret_wire = (int)(tag & 7);
	if (*ret_number == 0 || *ret_number >= 1u << 29)
		return weft_fail(w->err, up, EINVAL, "field number must be 1..536870911, is %llu",
				 (unsigned long long)*ret_number);
	if (*ret_wire == WIRE_GROUP || *ret_wire == WIRE_GROUP_END)
		return weft_fail(w->err, up, EINVAL, "field %llu is a group; groups are refused",
				 (unsigned long long)*ret_number);
	if (*ret_wire > WIRE_32)
		return weft_fail(w->err, up, EINVAL, "field %llu has wire type %d",
				 (unsigned long long)*ret_number, *ret_wire);
	return 0;
}

static int check_message(struct walk *w, const struct weft_path *up, int depth,
			 const ProtobufCMessageDescriptor *d, struct span s)
{
	unsigned counted = d->n_fields < WIRE_COUNTED ? d->n_fields : WIRE_COUNTED;
	struct seen seen;
	int r, wire;

	memset(seen.count, 0, counted * sizeof(seen.count[0]));

	if (depth > WEFT_WIRE_DEPTH_MAX)
		return weft_fail(w->err, up, E2BIG, "nested deeper than %d messages",
				 WEFT_WIRE_DEPTH_MAX);
	r = charge(w, up, d->sizeof_message + WIRE_OVERHEAD);
	while (r == 0 && s.p < s.end) {
		const ProtobufCFieldDescriptor *f;
		uint64_t number;
		unsigned i;

		r = take_tag(w, up, &s, &number, &wire);
		if (r == 0)
			r = charge(w, up, WIRE_OVERHEAD);
		if (r < 0)
			return r;
		f = protobuf_c_message_descriptor_get_field(d, (unsigned)number);
		if (!f) {
			r = skip_unknown(w, up, number, wire, &s);
			continue;
		}
		i = (unsigned)(f - d->fields);
		r = note_field(w, up, d, i, &seen);
		if (r == 0) {
			bool many = f->label == PROTOBUF_C_LABEL_REPEATED && i < WIRE_COUNTED;
			struct weft_path at = {up, f->name, many ? (int)seen.count[i] : -1};

			r = check_field(w, &at, depth, f, wire, &s);
		}
		if (i < WIRE_COUNTED)
			seen.count[i]++;
	}
	return r < 0 ? r : check_required(w, up, d, &seen);
}

int weft_wire_check(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, bool strict,
		    struct weft_err *reterr)
{
	struct walk w = {.strict = strict, .err = reterr};

	if (n > WEFT_WIRE_FIELD_MAX)
		return weft_fail(reterr, NULL, E2BIG, "message must be at most %d bytes, is %zu",
				 WEFT_WIRE_FIELD_MAX, n);
	if (!p) /* an Any without a value */
		p = (const uint8_t *)"";
	return check_message(&w, NULL, 1, d, (struct span){p, p + n});
}

void weft_message_init(const ProtobufCMessageDescriptor *d, void *m)
{
	if (d->message_init) {
		protobuf_c_message_init(d, m);
		return;
	}
	memset(m, 0, d->sizeof_message); /* none of them has a default value */
	((ProtobufCMessage *)m)->descriptor = d;
}

static void *arena_alloc(void *data, size_t n)
{
	return weft_arena_alloc(data, n ? n : 1);
}

static void arena_free(void *data, void *p)
{
}

ProtobufCAllocator weft_wire_allocator(struct weft_arena *a)
{
	return (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = a};
}

/* A map's entry; protobuf-c does not mark them, the compiler names them. */
static bool is_entry(const ProtobufCMessageDescriptor *d)
{
	size_t n = strlen(d->short_name);

	return d->n_fields == 2 && n > 5 && !strcmp(d->short_name + n - 5, "Entry") &&
	       !strcmp(d->fields[0].name, "key") && !strcmp(d->fields[1].name, "value");
}

/* Encoders leave an entry's empty key or value out: users must not meet a NULL there. */
static void fill_entry(struct weft_arena *a, ProtobufCMessage *m)
{
	for (unsigned i = 0; i < 2; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		void **slot = (void **)((char *)m + f->offset);

		if (f->type == PROTOBUF_C_TYPE_STRING && !*slot)
			*slot = weft_arena_strdup(a, "");
		if (f->type == PROTOBUF_C_TYPE_MESSAGE && !*slot) {
			const ProtobufCMessageDescriptor *d = f->descriptor;

			*slot = weft_arena_alloc(a, d->sizeof_message);
			weft_message_init(d, *slot);
		}
	}
}

static void fill_maps(struct weft_arena *a, ProtobufCMessage *m)
{
	if (is_entry(m->descriptor))
		fill_entry(a, m);
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		char *slot = (char *)m + f->offset;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(size_t *)((char *)m + f->quantifier_offset);

			for (size_t k = 0; k < n; k++)
				fill_maps(a, (*(ProtobufCMessage ***)slot)[k]);
		} else if ((!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
			    *(uint32_t *)((char *)m + f->quantifier_offset) == f->id) &&
			   *(ProtobufCMessage **)slot) {
			fill_maps(a, *(ProtobufCMessage **)slot);
		}
	}
}

ProtobufCMessage *weft_wire_unpack(struct weft_arena *a, const ProtobufCMessageDescriptor *d,
				   const uint8_t *p, size_t n, bool strict, struct weft_err *reterr)
{
	ProtobufCAllocator alloc = weft_wire_allocator(a);
	ProtobufCMessage *m;

	if (weft_wire_check(d, p, n, strict, reterr) < 0)
		return NULL;
	m = protobuf_c_message_unpack(d, &alloc, n, p ? p : (const uint8_t *)"");
	if (!m) {
		weft_fail(reterr, NULL, EINVAL, "the bytes are not a %s", d->short_name);
		return NULL;
	}
	fill_maps(a, m);
	return m;
}

size_t weft_value_sizeof(ProtobufCType t)
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
