/* The walk over a message: rules, then what is acted on and what is refused, then what it holds. */
#include "xds/cfg_priv.h"
#include "xds/wire.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Levels of messages altogether, and of Anys in Anys: each of these may hold 64 levels of its own.
 */
enum { DEPTH_MAX = 128, ANYS_MAX = 16 };

void cfg_bad(struct cfg_walk *w, const struct weft_path *at, const char *fmt, ...)
{
	va_list ap;

	w->n_errors++;
	va_start(ap, fmt);
	weft_vfail(weft_errs_next(w->c->errs), at, EINVAL, fmt, ap);
	va_end(ap);
}

void cfg_unsound(struct cfg_walk *w)
{
	struct weft_errs *e = w->c->errs;

	if (e && e->n)
		e->v[e->n - 1].code = WEFT_CFG_MISSING;
}

static void note(struct cfg_walk *w, const struct weft_path *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void note(struct cfg_walk *w, const struct weft_path *at, const char *fmt, ...)
{
	va_list ap;

	if (!w->c->notes)
		return;
	va_start(ap, fmt);
	weft_vfail(weft_errs_next(w->c->notes), at, EINVAL, fmt, ap);
	va_end(ap);
}

static bool is_zero(ProtobufCType t, const void *v)
{
	static const char zeros[8];

	switch (t) {
	case PROTOBUF_C_TYPE_STRING:
		return !*(const char *const *)v || !**(const char *const *)v;
	case PROTOBUF_C_TYPE_BYTES:
		return ((const ProtobufCBinaryData *)v)->len == 0;
	default:
		return !memcmp(v, zeros, weft_value_sizeof(t));
	}
}

/* As proto3 sees it: a scalar's zero is no value. */
static bool is_set(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *q = (const char *)m + f->quantifier_offset, *v = (const char *)m + f->offset;

	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return *(const uint32_t *)q == f->id;
	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return *(const size_t *)q != 0;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(void *const *)v != NULL;
	return !is_zero(f->type, v);
}

static void walk_message(struct cfg_walk *w, const struct weft_path *at, struct cfg_kind *k,
			 const ProtobufCMessage *m);

/* is_optional: whoever reads m leaves out an extension that is not known. */
static void walk_any(struct cfg_walk *w, const struct weft_path *at, bool is_optional,
		     const Google__Protobuf__Any *any)
{
	const ProtobufCMessage *in;

	if (is_optional && any->type_url && !weft_cfg_type(any->type_url))
		return;
	if (w->anys >= ANYS_MAX) {
		cfg_bad(w, at, "messages of type Any are nested deeper than %d levels", ANYS_MAX);
		return;
	}
	in = weft_cfg_any(w->c, at, any, NULL);
	if (!in) {
		w->n_errors++; /* it was told there */
		return;
	}
	w->anys++;
	if (in->descriptor == &google__protobuf__any__descriptor)
		walk_any(w, at, false, (const Google__Protobuf__Any *)in);
	else
		walk_message(w, at, cfg_kind_of(in->descriptor), in);
	w->anys--;
}

static void walk_value(struct cfg_walk *w, const struct weft_path *at, bool is_optional,
		       struct cfg_field *k, const void *v)
{
	const ProtobufCMessage *m;

	if (k->form == CFG_SCALAR || k->form == CFG_WRAPPER || k->form == CFG_DURATION)
		return;
	m = *(const ProtobufCMessage *const *)v;
	if (!m)
		return;
	if (k->form == CFG_ANY) {
		walk_any(w, at, is_optional, (const Google__Protobuf__Any *)m);
	} else if (k->form == CFG_MESSAGE) {
		if (!k->sub)
			k->sub = cfg_kind_of(m->descriptor);
		walk_message(w, at, k->sub, m);
	}
}

static void walk_list(struct cfg_walk *w, const struct weft_path *up, struct cfg_field *k,
		      const char *v, size_t n)
{
	size_t size = weft_value_sizeof(k->f->type);

	if (k->form == CFG_SCALAR && !k->items.n && k->f->type != PROTOBUF_C_TYPE_ENUM)
		return;
	for (size_t i = 0; i < n; i++) {
		struct weft_path at = {up, k->f->name, (int)i};

		cfg_rules_value(w, &at, k->items, k->f, v + i * size);
		walk_value(w, &at, false, k, v + i * size);
	}
}

static void walk_map(struct cfg_walk *w, const struct weft_path *at, struct cfg_field *k,
		     ProtobufCMessage *const *v, size_t n)
{
	struct cfg_field *value;

	if (!k->sub)
		k->sub = cfg_kind_of(k->f->descriptor);
	value = &k->sub->fields[1];
	for (size_t i = 0; i < n; i++) {
		const ProtobufCFieldDescriptor *kf = k->sub->fields[0].f;
		const char *key = (const char *)v[i] + kf->offset;
		char number[24] = "";
		struct weft_path sub = {at, number, -1};

		if (kf->type == PROTOBUF_C_TYPE_STRING)
			sub.field = is_zero(kf->type, key) ? "\"\"" : *(const char *const *)key;
		else if (weft_value_sizeof(kf->type) == 4)
			snprintf(number, sizeof(number), "%d", *(const int32_t *)key);
		cfg_rules_value(w, &sub, k->keys, kf, key);
		cfg_rules_value(w, &sub, k->items, value->f, (const char *)v[i] + value->f->offset);
		walk_value(w, &sub, false, value, (const char *)v[i] + value->f->offset);
	}
}

static void check_absent(struct cfg_walk *w, const struct weft_path *at, struct cfg_field *k)
{
	for (size_t i = 0; i < k->rules.n; i++)
		if (k->rules.v[i].kind == RULE_REQUIRED) {
			cfg_bad(w, at, "is required");
			cfg_unsound(w);
		}
}

/* Whether the field is one that is acted on; else why not is told. */
static bool check_class(struct cfg_walk *w, const struct weft_path *at, const struct cfg_kind *kind,
			const struct cfg_field *k)
{
	const char *instead;

	if (k->class == CFG_REFUSED) {
		cfg_bad(w, at, "is not supported");
		return false;
	}
	if (w->c->warns && (k->f->flags & PROTOBUF_C_FIELD_FLAG_DEPRECATED)) {
		instead = cfg_replacement(kind->d->name, k->f->name);
		weft_cfg_warn(w->c, at, "is deprecated%s%s", instead ? "; use " : "",
			      instead ? instead : "");
	}
	if (k->class == CFG_QUIET)
		note(w, at, "has no effect: %s", k->because);
	return k->class == CFG_ACTED;
}

static void walk_field(struct cfg_walk *w, const struct weft_path *up, struct cfg_kind *kind,
		       struct cfg_field *k, const ProtobufCMessage *m)
{
	const ProtobufCFieldDescriptor *f = k->f;
	const char *v = (const char *)m + f->offset;
	struct weft_path at = {up, f->name, -1};
	const ProtobufCFieldDescriptor *opt;
	bool many = f->label == PROTOBUF_C_LABEL_REPEATED, is_optional;
	size_t n = many ? *(const size_t *)((const char *)m + f->quantifier_offset) : 0;

	if (!is_set(m, f)) {
		if (many)
			cfg_rules_list(w, &at, k->rules, f, NULL, 0);
		else if (k->form == CFG_SCALAR)
			cfg_rules_value(w, &at, k->rules, f, v);
		else
			check_absent(w, &at, k);
		return;
	}
	if (!check_class(w, &at, kind, k))
		return;
	if (many) {
		v = *(const char *const *)v;
		cfg_rules_list(w, &at, k->rules, f, v, n);
		if (k->form == CFG_MAP)
			walk_map(w, &at, k, (ProtobufCMessage *const *)v, n);
		else
			walk_list(w, up, k, v, n);
		return;
	}
	cfg_rules_value(w, &at, k->rules, f, v);
	opt = kind->is_optional >= 0 ? kind->fields[kind->is_optional].f : NULL;
	is_optional = opt && *(const protobuf_c_boolean *)((const char *)m + opt->offset);
	walk_value(w, &at, is_optional, k, v);
}

/* "a b" as "a, b", cut where it is long. */
static const char *commas(const char *words, char dst[200])
{
	size_t n = 0;
	const char *p = words;

	for (; *p && n < 195; p++) {
		if (*p == ' ')
			dst[n++] = ',';
		dst[n++] = *p;
	}
	strcpy(dst + n, *p ? "..." : "");
	return dst;
}

static void check_oneofs(struct cfg_walk *w, const struct weft_path *at,
			 const struct cfg_kind *kind, const ProtobufCMessage *m)
{
	for (size_t i = 0; i < kind->rules.n; i++) {
		const struct cfg_rule *r = &kind->rules.v[i];
		char all[200];
		bool set = false;

		if (r->kind != RULE_ONEOF)
			continue;
		for (unsigned k = 0; k < kind->d->n_fields && !set; k++) {
			const ProtobufCFieldDescriptor *f = &kind->d->fields[k];

			set = (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && is_set(m, f) &&
			      cfg_word(r->text, f->name, strlen(f->name));
		}
		if (!set) {
			cfg_bad(w, at, "one of %.200s is required", commas(r->text, all));
			cfg_unsound(w);
		}
	}
}

static void walk_message(struct cfg_walk *w, const struct weft_path *at, struct cfg_kind *k,
			 const ProtobufCMessage *m)
{
	if (w->depth >= DEPTH_MAX) {
		cfg_bad(w, at, "nested deeper than %d messages", DEPTH_MAX);
		return;
	}
	w->depth++;
	if (k->n_oneofs)
		check_oneofs(w, at, k, m);
	for (unsigned i = 0; i < k->d->n_fields; i++)
		if (k->fields[i].always || is_set(m, k->fields[i].f))
			walk_field(w, at, k, &k->fields[i], m);
	w->depth--;
}

int weft_cfg_check(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m)
{
	struct cfg_walk w = {.c = c};

	if (m->descriptor == &google__protobuf__any__descriptor)
		walk_any(&w, at, false, (const Google__Protobuf__Any *)m);
	else
		walk_message(&w, at, cfg_kind_of(m->descriptor), m);
	return w.n_errors ? -EINVAL : 0;
}
