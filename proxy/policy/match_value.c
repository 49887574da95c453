/* Values of metadata. */
#include "proxy/policy/match.h"

#include <errno.h>
#include <string.h>

struct weft_valuematch {
	Envoy__Type__Matcher__V3__ValueMatcher__MatchPatternCase kind;
	double exact, from, to;
	bool range, want;
	struct weft_strmatch str;
	const struct weft_valuematch *const *v; /* one_of: one; or_match: all */
	size_t n;
};

#define CASE(x) ENVOY__TYPE__MATCHER__V3__VALUE_MATCHER__MATCH_PATTERN_##x

static int or_prepare(struct weft_cfg *c, const struct weft_path *at,
		      Envoy__Type__Matcher__V3__ValueMatcher *const *v, size_t n,
		      struct weft_valuematch *to)
{
	const struct weft_valuematch **list = weft_arena_alloc(c->arena, (n + 1) * sizeof(*list));
	size_t i;
	int err = 0;

	for (i = 0; i < n; i++) {
		struct weft_path p = {at, "value_matchers", (int)i};

		if (weft_valuematch_prepare(c, &p, v[i], &list[i]))
			err = -EINVAL;
	}
	to->v = list;
	to->n = n;
	return err;
}

int weft_valuematch_prepare(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Type__Matcher__V3__ValueMatcher *m,
			    const struct weft_valuematch **ret)
{
	struct weft_valuematch *to = weft_arena_alloc(c->arena, sizeof(*to));
	struct weft_path ps = {at, "string_match", -1}, pl = {at, "list_match", -1},
			 po = {at, "or_match", -1}, pd = {at, "double_match", -1};

	*ret = to;
	to->kind = m->match_pattern_case;
	switch (to->kind) {
	case CASE(NULL_MATCH):
		return 0;
	case CASE(DOUBLE_MATCH):
		to->range = m->double_match->match_pattern_case ==
			    ENVOY__TYPE__MATCHER__V3__DOUBLE_MATCHER__MATCH_PATTERN_RANGE;
		if (to->range) {
			to->from = m->double_match->range->start;
			to->to = m->double_match->range->end;
		} else if (m->double_match->match_pattern_case ==
			   ENVOY__TYPE__MATCHER__V3__DOUBLE_MATCHER__MATCH_PATTERN_EXACT) {
			to->exact = m->double_match->exact;
		} else {
			return weft_cfg_fail(c, &pd, "must have one of range, exact; has none");
		}
		return 0;
	case CASE(STRING_MATCH):
		return weft_strmatch_prepare(c, &ps, m->string_match, &to->str);
	case CASE(BOOL_MATCH):
		to->want = m->bool_match;
		return 0;
	case CASE(PRESENT_MATCH):
		to->want = m->present_match;
		return 0;
	case CASE(LIST_MATCH):
		if (!m->list_match->one_of)
			return weft_cfg_fail(c, &pl, "one_of must be set");
		return or_prepare(c, &pl, &m->list_match->one_of, 1, to);
	case CASE(OR_MATCH):
		return or_prepare(c, &po, m->or_match->value_matchers,
				  m->or_match->n_value_matchers, to);
	default:
		return weft_cfg_fail(c, at, "must have one kind of match, has none");
	}
}

enum weft_match weft_valuematch(const struct weft_valuematch *m, const Google__Protobuf__Value *v)
{
	enum weft_match all = WEFT_MATCH_NO, r;
	size_t i;

	if (m->kind == CASE(PRESENT_MATCH))
		return (v != NULL) == m->want;
	if (!v)
		return WEFT_MATCH_NO;
	switch (m->kind) {
	case CASE(NULL_MATCH):
		return v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
	case CASE(DOUBLE_MATCH):
		if (v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE)
			return WEFT_MATCH_NO;
		return m->range ? v->number_value >= m->from && v->number_value < m->to
				: v->number_value == m->exact;
	case CASE(STRING_MATCH):
		if (v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE)
			return WEFT_MATCH_NO;
		return weft_strmatch(&m->str, v->string_value, strlen(v->string_value));
	case CASE(BOOL_MATCH):
		return v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE &&
		       !!v->bool_value == m->want;
	case CASE(LIST_MATCH):
		if (v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE)
			return WEFT_MATCH_NO;
		for (i = 0; i < v->list_value->n_values; i++) {
			r = weft_valuematch(m->v[0], v->list_value->values[i]);
			if (r == WEFT_MATCH_YES)
				return r;
			all = r == WEFT_MATCH_LIMIT ? r : all;
		}
		return all;
	case CASE(OR_MATCH):
		for (i = 0; i < m->n; i++) {
			r = weft_valuematch(m->v[i], v);
			if (r == WEFT_MATCH_YES)
				return r;
			all = r == WEFT_MATCH_LIMIT ? r : all;
		}
		return all;
	default:
		return WEFT_MATCH_NO;
	}
}

int weft_metamatch_prepare(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Type__Matcher__V3__MetadataMatcher *m,
			   struct weft_metamatch *ret)
{
	struct weft_path pv = {at, "value", -1};
	const char **path = weft_arena_alloc(c->arena, (m->n_path + 1) * sizeof(*path));
	size_t i;

	memset(ret, 0, sizeof(*ret));
	for (i = 0; i < m->n_path; i++) {
		struct weft_path p = {at, "path", (int)i};

		if (m->path[i]->segment_case !=
		    ENVOY__TYPE__MATCHER__V3__METADATA_MATCHER__PATH_SEGMENT__SEGMENT_KEY)
			return weft_cfg_fail(c, &p, "key must be set");
		path[i] = weft_arena_strdup(c->arena, m->path[i]->key);
	}
	ret->ns = weft_arena_strdup(c->arena, m->filter ? m->filter : "");
	ret->path = path;
	ret->n_path = m->n_path;
	ret->invert = m->invert;
	if (!m->value)
		return weft_cfg_fail(c, &pv, "must be set");
	return weft_valuematch_prepare(c, &pv, m->value, &ret->value);
}

const Google__Protobuf__Value *weft_struct_get(const Google__Protobuf__Struct *s, const char *key)
{
	size_t i;

	/* of equal keys the last one holds, as on the wire */
	for (i = s ? s->n_fields : 0; i-- > 0;)
		if (!strcmp(s->fields[i]->key, key))
			return s->fields[i]->value;
	return NULL;
}

const Google__Protobuf__Value *weft_struct_path(const Google__Protobuf__Struct *s,
						const char *const *path, size_t n)
{
	const Google__Protobuf__Value *v = NULL;
	size_t i;

	for (i = 0; i < n; i++) {
		if (i) {
			if (!v || v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE)
				return NULL;
			s = v->struct_value;
		}
		v = weft_struct_get(s, path[i]);
	}
	return v;
}

enum weft_match weft_metamatch(const struct weft_metamatch *m, const Google__Protobuf__Struct *ns)
{
	enum weft_match r =
		weft_valuematch(m->value, ns ? weft_struct_path(ns, m->path, m->n_path) : NULL);

	return r == WEFT_MATCH_LIMIT ? r : (r == WEFT_MATCH_YES) != m->invert;
}

const Google__Protobuf__Struct *weft_metadata_ns(const Envoy__Config__Core__V3__Metadata *m,
						 const char *ns)
{
	size_t i;

	for (i = 0; m && i < m->n_filter_metadata; i++)
		if (!strcmp(m->filter_metadata[i]->key, ns))
			return m->filter_metadata[i]->value;
	return NULL;
}

bool weft_value_equal(const Google__Protobuf__Value *a, const Google__Protobuf__Value *b)
{
	size_t i;

	if (a->kind_case != b->kind_case)
		return false;
	switch (a->kind_case) {
	case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
		return a->number_value == b->number_value;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
		return !strcmp(a->string_value, b->string_value);
	case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
		return !a->bool_value == !b->bool_value;
	case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
		if (a->list_value->n_values != b->list_value->n_values)
			return false;
		for (i = 0; i < a->list_value->n_values; i++)
			if (!weft_value_equal(a->list_value->values[i], b->list_value->values[i]))
				return false;
		return true;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
		if (a->struct_value->n_fields != b->struct_value->n_fields)
			return false;
		for (i = 0; i < a->struct_value->n_fields; i++) {
			const Google__Protobuf__Value *v =
				weft_struct_get(b->struct_value, a->struct_value->fields[i]->key);

			if (!v || !weft_value_equal(a->struct_value->fields[i]->value, v))
				return false;
		}
		return true;
	default:
		return true;
	}
}
