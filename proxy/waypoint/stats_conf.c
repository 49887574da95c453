/* stats_config: which statistics are told, with which labels and buckets. */
#include "proxy/core/scope.h"
#include "proxy/policy/match.h"
#include "proxy/waypoint/waypoint.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TAGS_MAX = 16, PATTERNS_MAX = 1000, BUCKETS_MAX = 100 };

typedef Envoy__Config__Metrics__V3__StatsConfig conf_msg;
struct bounds {
	struct weft_strmatch match;
	const double *v;
	unsigned n;
};
struct stats_conf {
	bool reject_all, inclusion;
	const struct weft_strmatch *pattern;
	size_t n_patterns;
	const struct bounds *bounds;
	size_t n_bounds;
};

static bool keep(void *ctx, const char *name, size_t n)
{
	const struct stats_conf *s = ctx;
	size_t i;

	if (s->reject_all)
		return false;
	for (i = 0; i < s->n_patterns; i++)
		if (weft_strmatch(&s->pattern[i], name, n) == WEFT_MATCH_YES)
			return s->inclusion;
	return !s->inclusion;
}

static const double *bounds_of(void *ctx, const char *name, size_t n, unsigned *ret_n)
{
	const struct stats_conf *s = ctx;
	size_t i;

	for (i = 0; i < s->n_bounds; i++)
		if (weft_strmatch(&s->bounds[i].match, name, n) == WEFT_MATCH_YES) {
			*ret_n = s->bounds[i].n;
			return s->bounds[i].v;
		}
	return NULL;
}

static int matcher(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Metrics__V3__StatsMatcher *m, struct stats_conf *s)
{
	bool in = m->stats_matcher_case ==
		  ENVOY__CONFIG__METRICS__V3__STATS_MATCHER__STATS_MATCHER_INCLUSION_LIST;
	struct weft_path pl = {at, in ? "inclusion_list" : "exclusion_list", -1};
	const Envoy__Type__Matcher__V3__ListStringMatcher *l;
	struct weft_strmatch *v;
	size_t i;
	int err = 0;

	if (m->stats_matcher_case ==
	    ENVOY__CONFIG__METRICS__V3__STATS_MATCHER__STATS_MATCHER_REJECT_ALL) {
		s->reject_all = m->reject_all;
		return 0;
	}
	l = in ? m->inclusion_list : m->exclusion_list;
	if (l->n_patterns > PATTERNS_MAX)
		return weft_cfg_fail(c, &pl, "patterns must be at most %d, are %zu", PATTERNS_MAX,
				     l->n_patterns);
	v = weft_arena_alloc(c->arena, (l->n_patterns + 1) * sizeof(*v));
	for (i = 0; i < l->n_patterns; i++) {
		struct weft_path p = {&pl, "patterns", (int)i};

		err |= weft_strmatch_prepare(c, &p, l->patterns[i], &v[i]);
	}
	s->inclusion = in;
	s->pattern = v;
	s->n_patterns = l->n_patterns;
	return err ? -EINVAL : 0;
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* In any order, as Envoy takes them. */
static int buckets(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Metrics__V3__HistogramBucketSettings *m, struct bounds *b)
{
	struct weft_path pm = {at, "match", -1}, pb = {at, "buckets", -1};
	double *v;

	if (!m->n_buckets || m->n_buckets > BUCKETS_MAX)
		return weft_cfg_fail(c, &pb, "must be 1..%d, are %zu", BUCKETS_MAX, m->n_buckets);
	b->v = v = weft_arena_alloc(c->arena, m->n_buckets * sizeof(*v));
	b->n = (unsigned)m->n_buckets;
	memcpy(v, m->buckets, m->n_buckets * sizeof(*v));
	qsort(v, m->n_buckets, sizeof(*v), by_value);
	return weft_strmatch_prepare(c, &pm, m->match, &b->match);
}

static int tag(struct weft_cfg *c, const struct weft_path *at,
	       const Envoy__Config__Metrics__V3__TagSpecifier *m, const char **to)
{
	struct weft_path pn = {at, "tag_name", -1}, pr = {at, "regex", -1};
	char *name, *p;

	if (m->tag_value_case == ENVOY__CONFIG__METRICS__V3__TAG_SPECIFIER__TAG_VALUE_REGEX)
		return weft_cfg_fail(c, &pr, "is not supported; fixed_value is");
	if (!m->tag_name || !*m->tag_name ||
	    m->tag_value_case != ENVOY__CONFIG__METRICS__V3__TAG_SPECIFIER__TAG_VALUE_FIXED_VALUE)
		return weft_cfg_fail(c, &pn, "must be set, with a fixed_value");
	name = weft_arena_strdup(c->arena, m->tag_name);
	for (p = name; *p; p++) /* as Prometheus wants labels */
		if (!isalnum((unsigned char)*p))
			*p = '_';
	to[0] = name;
	to[1] = m->fixed_value;
	return 0;
}

int waypoint_stats_conf(struct weft_cfg *c, const conf_msg *m)
{
	struct weft_path top = {NULL, "stats_config", -1}, pt = {&top, "stats_matcher", -1},
			 pg = {&top, "stats_tags", -1}, pu = {&top, "use_all_default_tags", -1};
	struct weft_scope_view view = {0};
	struct stats_conf *s;
	struct bounds *b;
	const char **tags;
	size_t i;
	int err = 0;

	weft_scope_view(NULL);
	if (!m)
		return 0;
	if (!weft_cfg_bool(m->use_all_default_tags, true))
		return weft_cfg_fail(c, &pu,
				     "false is not supported: Envoy's tags are always told");
	if (m->n_stats_tags > TAGS_MAX)
		return weft_cfg_fail(c, &pg, "must be at most %d, are %zu", TAGS_MAX,
				     m->n_stats_tags);
	s = weft_arena_alloc(c->arena, sizeof(*s));
	b = weft_arena_alloc(c->arena, (m->n_histogram_bucket_settings + 1) * sizeof(*b));
	tags = weft_arena_alloc(c->arena, (2 * m->n_stats_tags + 1) * sizeof(*tags));
	if (m->stats_matcher)
		err |= matcher(c, &pt, m->stats_matcher, s);
	for (i = 0; i < m->n_histogram_bucket_settings; i++) {
		struct weft_path p = {&top, "histogram_bucket_settings", (int)i};

		err |= buckets(c, &p, m->histogram_bucket_settings[i], &b[i]);
	}
	for (i = 0; i < m->n_stats_tags; i++) {
		struct weft_path p = {&top, "stats_tags", (int)i};

		err |= tag(c, &p, m->stats_tags[i], &tags[2 * i]);
	}
	if (err)
		return -EINVAL;
	s->bounds = b;
	s->n_bounds = m->n_histogram_bucket_settings;
	view.ctx = s;
	view.keep = m->stats_matcher ? keep : NULL;
	view.bounds = s->n_bounds ? bounds_of : NULL;
	view.labels = tags;
	view.n_labels = m->n_stats_tags;
	weft_scope_view(&view);
	return 0;
}
