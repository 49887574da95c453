/* What the rules and the coverage files say of each descriptor, put together once. */
#include "xds/cfg_priv.h"
#include "xds/names.h"
#include "xds/yaml_priv.h"
#include <string.h>

/* a test has its own */
#ifndef CFG_COVERAGE
#define CFG_COVERAGE "coverage.inc"
#endif
static const struct cfg_cover covers[] = {
#define ACTED(message_, fields_)	  {message_, fields_, NULL},
#define QUIET(message_, field_, because_) {message_, field_, because_},
#include CFG_COVERAGE
#undef ACTED
#undef QUIET
};

static const struct cfg_rule rules[] = {
#define RULE(message_, field_, kind_, number_, text_)                                              \
	{message_, field_, RULE_##kind_, number_, text_},
#include "xds/rules.def"
#undef RULE
};
enum { COVERS = sizeof(covers) / sizeof(covers[0]), RULES = sizeof(rules) / sizeof(rules[0]) };

static const struct {
	const char *message, *field, *instead;
} deprecated[] = {
#define DEPRECATED(message_, field_, instead_) {message_, field_, instead_},
#include "xds/deprecated.def"
#undef DEPRECATED
};

struct slot {
	struct cfg_kind kind;
	UT_hash_handle hh;
};

const struct cfg_cover *cfg_covers(size_t *ret_n)
{
	*ret_n = COVERS;
	return covers;
}

const char *cfg_replacement(const char *message, const char *field)
{
	for (size_t i = 0; i < sizeof(deprecated) / sizeof(deprecated[0]); i++)
		if (!strcmp(deprecated[i].message, message) && !strcmp(deprecated[i].field, field))
			return deprecated[i].instead;
	return NULL;
}

bool cfg_word(const char *list, const char *word, size_t n)
{
	for (const char *p = list; *p;) {
		size_t len = strcspn(p, " ");

		if (len == n && !memcmp(p, word, n))
			return true;
		p += len;
		p += strspn(p, " ");
	}
	return false;
}

/* rules.def is ordered by message, then by field. */
struct cfg_rules cfg_rules_of(const char *message)
{
	size_t lo = 0, hi = RULES, end;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(rules[mid].message, message) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (end = lo; end < RULES && !strcmp(rules[end].message, message);)
		end++;
	return (struct cfg_rules){&rules[lo], end - lo};
}

struct cfg_rules cfg_rules_pick(struct cfg_rules all, const char *field, const char *suffix)
{
	size_t n = strlen(field), i = 0, end;

	while (i < all.n &&
	       (strncmp(all.v[i].field, field, n) != 0 || strcmp(all.v[i].field + n, suffix) != 0))
		i++;
	for (end = i; end < all.n && !strcmp(all.v[end].field, all.v[i].field);)
		end++;
	return (struct cfg_rules){all.v + i, end - i};
}

enum cfg_form cfg_form_of(const ProtobufCFieldDescriptor *f)
{
	const ProtobufCMessageDescriptor *d = f->descriptor;

	if (f->type != PROTOBUF_C_TYPE_MESSAGE)
		return CFG_SCALAR;
	if (yaml_is_map(f))
		return CFG_MAP;
	if (strcmp(d->package_name, "google.protobuf") != 0)
		return CFG_MESSAGE;
	if (!strcmp(d->short_name, "Any"))
		return CFG_ANY;
	switch (yaml_form_of(d)) {
	case YAML_WRAPPER:
		return CFG_WRAPPER;
	case YAML_DURATION:
		return CFG_DURATION;
	default:
		return CFG_OPAQUE;
	}
}

/* A scalar that is not set has its type's zero, and rules judge that; messages, members of oneofs
 * and repeated fields are judged only by rules that speak of their absence. */
static bool judged_unset(const struct cfg_field *k)
{
	const ProtobufCFieldDescriptor *f = k->f;

	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return false;
	for (size_t i = 0; i < k->rules.n; i++)
		if (k->rules.v[i].kind == RULE_REQUIRED || k->rules.v[i].kind == RULE_MIN_ITEMS)
			return true;
	return k->rules.n && k->form == CFG_SCALAR && f->label != PROTOBUF_C_LABEL_REPEATED;
}

static void cover(struct cfg_kind *k, const struct cfg_cover *c)
{
	for (unsigned i = 0; i < k->d->n_fields; i++) {
		struct cfg_field *f = &k->fields[i];

		if (!cfg_word(c->fields, f->f->name, strlen(f->f->name)))
			continue;
		f->class = c->because ? CFG_QUIET : CFG_ACTED;
		f->because = c->because;
	}
}

static void fill(struct cfg_kind *k, const ProtobufCMessageDescriptor *d)
{
	/* google.protobuf needs no coverage, nor does the entry of a map */
	bool open = !strcmp(d->package_name, "google.protobuf");

	k->d = d;
	k->rules = cfg_rules_of(d->name);
	k->fields = weft_xcalloc(d->n_fields + 1, sizeof(*k->fields));
	k->is_optional = -1;
	for (size_t i = 0; i < k->rules.n; i++)
		k->n_oneofs += k->rules.v[i].kind == RULE_ONEOF;
	for (unsigned i = 0; i < d->n_fields; i++) {
		struct cfg_field *f = &k->fields[i];

		f->f = &d->fields[i];
		f->class = open ? CFG_ACTED : CFG_REFUSED;
		f->form = cfg_form_of(f->f);
		f->rules = cfg_rules_pick(k->rules, f->f->name, "");
		f->items = cfg_rules_pick(k->rules, f->f->name, "[]");
		f->keys = cfg_rules_pick(k->rules, f->f->name, "{key}");
		f->always = judged_unset(f);
		if (!strcmp(f->f->name, "is_optional") && f->f->type == PROTOBUF_C_TYPE_BOOL)
			k->is_optional = (int)i;
	}
	for (size_t i = 0; i < COVERS; i++)
		if (!strcmp(covers[i].message, d->name))
			cover(k, &covers[i]);
}

struct cfg_kind *cfg_kind_of(const ProtobufCMessageDescriptor *d)
{
	static struct slot *all; /* one for each descriptor: there are no more */
	struct slot *s;

	HASH_FIND_PTR(all, &d, s);
	if (s)
		return &s->kind;
	s = weft_xcalloc(1, sizeof(*s));
	fill(&s->kind, d);
	HASH_ADD_PTR(all, kind.d, s);
	return &s->kind;
}
