/* From an error's field path back to its place in the file. */
#include "xds/cfg.h"
#include "xds/wire.h"
#include "xds/yaml_priv.h"
#include <stdlib.h>
#include <string.h>

/* Where the walk along a path stands. */
struct place {
	const struct weft_marks *k;
	const ProtobufCMessage *m; /* NULL: nothing below */
	struct weft_mark mark;
	const char *rest;
};

/* name[idx] at the beginning of p; the length of both, or 0. */
static size_t piece(const char *p, char name[YAML_NAME_MAX], int *ret_idx)
{
	size_t n = strcspn(p, ".[");
	char *end;

	*ret_idx = -1;
	if (n == 0 || n >= YAML_NAME_MAX)
		return 0;
	memcpy(name, p, n);
	name[n] = '\0';
	if (p[n] == '[') {
		long v = strtol(p + n + 1, &end, 10);

		if (*end != ']' || v < 0 || v > 1 << 30)
			return 0;
		*ret_idx = (int)v;
		n = (size_t)(end + 1 - p);
	}
	return n;
}

/* Keys hold dots themselves: the longest one that fits is meant. */
static const ProtobufCMessage *entry_of(const char *rest, ProtobufCMessage *const *v, size_t n,
					size_t *ret_len)
{
	const ProtobufCMessage *best = NULL;

	*ret_len = 0;
	for (size_t i = 0; i < n; i++) {
		const ProtobufCFieldDescriptor *f = &v[i]->descriptor->fields[0];
		const char *key = f->type == PROTOBUF_C_TYPE_STRING
					  ? *(const char *const *)((const char *)v[i] + f->offset)
					  : NULL;
		size_t len = key ? strlen(key) : 0;

		if (!key || strncmp(rest, key, len) != 0 || (rest[len] && rest[len] != '.') ||
		    (best && len < *ret_len))
			continue;
		best = v[i];
		*ret_len = len;
	}
	return best;
}

static const ProtobufCMessage *message_at(const ProtobufCFieldDescriptor *f, const void *slot)
{
	return f->type == PROTOBUF_C_TYPE_MESSAGE ? *(const ProtobufCMessage *const *)slot : NULL;
}

static void step_map(struct place *p, ProtobufCMessage *const *v, size_t n)
{
	const ProtobufCFieldDescriptor *f;
	const ProtobufCMessage *entry;
	size_t len;

	p->m = NULL;
	if (*p->rest != '.')
		return;
	entry = entry_of(p->rest + 1, v, n, &len);
	if (!entry)
		return;
	f = &entry->descriptor->fields[1];
	p->mark = weft_marks_get(p->k, entry, "value", -1);
	p->m = message_at(f, (const char *)entry + f->offset);
	p->rest += 1 + len;
}

static void step_field(struct place *p, const ProtobufCFieldDescriptor *f, int idx)
{
	const char *m = (const char *)p->m, *slot = m + f->offset;
	bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
	size_t n = many ? *(const size_t *)(m + f->quantifier_offset) : 0;

	p->mark = weft_marks_get(p->k, p->m, f->name, idx);
	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)(m + f->quantifier_offset) != f->id) {
		p->m = NULL;
	} else if (!many) {
		p->m = message_at(f, slot);
	} else if (yaml_is_map(f)) {
		step_map(p, *(ProtobufCMessage *const *const *)slot, n);
	} else if (idx < 0 || (size_t)idx >= n) {
		p->m = NULL;
	} else {
		slot = *(const char *const *)slot + (size_t)idx * weft_value_sizeof(f->type);
		p->m = message_at(f, slot);
	}
}

struct weft_mark weft_marks_locate(const struct weft_marks *k, const ProtobufCMessage *root,
				   const char *path)
{
	struct place p = {k, root, weft_marks_get(k, root, NULL, -1), path};
	char name[YAML_NAME_MAX];

	while (p.m) {
		const ProtobufCFieldDescriptor *f;
		size_t len;
		int idx;

		while (p.m && yaml_form_of(p.m->descriptor) == YAML_ANY)
			p.m = yaml_marks_any(k, p.m);
		p.rest += *p.rest == '.';
		len = piece(p.rest, name, &idx);
		f = len && p.m ? yaml_field_find(p.m->descriptor, name) : NULL;
		if (!f)
			break;
		p.rest += len;
		step_field(&p, f, idx);
	}
	return p.mark;
}

void weft_cfg_place_errs(const struct weft_yaml_doc *doc, struct weft_errs *errs)
{
	for (int i = 0; errs && i < errs->n; i++) {
		struct weft_err *e = &errs->v[i];
		struct weft_mark at;

		if (e->where[0])
			continue;
		at = weft_marks_locate(doc->marks, doc->msg, e->path);
		yaml_err_place(e, doc->file, at.line, at.col);
	}
}
