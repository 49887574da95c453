/* Matchers that many parts share, compiled from Envoy's messages: strings, regular expressions,
 * headers, query parameters, metadata, paths. Immutable; any thread. */
#pragma once
#include "proxy/session/headers.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/core/v3/base.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route_components.pb-c.h"
#include "xds/proto/envoy/type/matcher/v3/metadata.pb-c.h"
#include "xds/proto/envoy/type/matcher/v3/regex.pb-c.h"
#include "xds/proto/envoy/type/matcher/v3/string.pb-c.h"
#include "xds/proto/envoy/type/matcher/v3/value.pb-c.h"
#include "xds/proto/envoy/type/v3/percent.pb-c.h"

/* A verdict that a limit of a regular expression cut short is WEFT_MATCH_LIMIT: who allows takes it
 * for no, who denies for yes. */
enum weft_match { WEFT_MATCH_NO = 0, WEFT_MATCH_YES = 1, WEFT_MATCH_LIMIT = 2 };
enum {
	WEFT_REGEX_MATCH_LIMIT = 100000,
	WEFT_REGEX_DEPTH_LIMIT = 1000,
	WEFT_REGEX_BYTES_MAX = 64 << 10
};

/* RE2's syntax by PCRE2: no back-references, no lookaround. Freed with the arena. */
struct weft_regex;
int weft_regex_compile(struct weft_cfg *c, const struct weft_path *at, const char *text,
		       const struct weft_regex **ret);
enum weft_match weft_regex_full(const struct weft_regex *r, const char *s,
				size_t n); /* the whole of s */
enum weft_match weft_regex_search(const struct weft_regex *r, const char *s, size_t n);
/* Every match replaced by subst (\0..\9 are groups); into a. NULL: a limit was hit, or the result
 * would be too long. */
const char *weft_regex_replace(const struct weft_regex *r, const char *subst, const char *s,
			       size_t n, struct weft_arena *a, size_t *ret_n);
/* Capture groups of one full match: start and end offsets, pairs; returns how many pairs, 0: no
 * match. */
size_t weft_regex_groups(const struct weft_regex *r, const char *s, size_t n, size_t *ret_pairs,
			 size_t max_pairs);
/* {pattern, substitution}: checks that the groups named exist. */
struct weft_rewrite {
	const struct weft_regex *re;
	const char *subst;
};
int weft_rewrite_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Type__Matcher__V3__RegexMatchAndSubstitute *m,
			 struct weft_rewrite *ret);

enum weft_str_kind {
	WEFT_STR_EXACT,
	WEFT_STR_PREFIX,
	WEFT_STR_SUFFIX,
	WEFT_STR_CONTAINS,
	WEFT_STR_REGEX,
	WEFT_STR_ANY
};
struct weft_strmatch {
	enum weft_str_kind kind;
	bool ignore_case;
	const char *v;
	size_t n;
	const struct weft_regex *re;
};
int weft_strmatch_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Type__Matcher__V3__StringMatcher *m,
			  struct weft_strmatch *ret);
enum weft_match weft_strmatch(const struct weft_strmatch *m, const char *s, size_t n);

struct weft_hdrmatch {
	const char *name;
	size_t name_n;
	enum weft_hid id;
	enum { WEFT_HM_PRESENT, WEFT_HM_ABSENT, WEFT_HM_STRING, WEFT_HM_RANGE } kind;
	bool invert, missing_as_empty;
	struct weft_strmatch str;
	int64_t from, to; /* [from, to) */
};
int weft_hdrmatch_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Route__V3__HeaderMatcher *m,
			  struct weft_hdrmatch *ret);
/* An array; *ret NULL when n is 0. */
int weft_hdrmatches_prepare(struct weft_cfg *c, const struct weft_path *at,
			    Envoy__Config__Route__V3__HeaderMatcher *const *v, size_t n,
			    const struct weft_hdrmatch **ret);
enum weft_match weft_hdrmatch(const struct weft_hdrmatch *m, const struct weft_headers *h);
enum weft_match weft_hdrmatch_all(const struct weft_hdrmatch *v, size_t n,
				  const struct weft_headers *h);

struct weft_querymatch {
	const char *name;
	size_t name_n;
	bool present; /* only that it is there */
	struct weft_strmatch str;
};
int weft_querymatches_prepare(struct weft_cfg *c, const struct weft_path *at,
			      Envoy__Config__Route__V3__QueryParameterMatcher *const *v, size_t n,
			      const struct weft_querymatch **ret);
/* query: what stands behind '?', encoded; values are compared decoded. */
enum weft_match weft_querymatch_all(const struct weft_querymatch *v, size_t n, const char *query,
				    size_t query_n);
/* Values as they stand in the path, without decoding: as Envoy compares them for routes. */
enum weft_match weft_querymatch_raw(const struct weft_querymatch *v, size_t n, const char *query,
				    size_t query_n);
/* The first value of a parameter, decoded into the arena; NULL: absent. */
const char *weft_query_get(const char *query, size_t n, const char *name, struct weft_arena *a,
			   size_t *ret_n);

/* envoy.type.matcher.v3.ValueMatcher and MetadataMatcher on a Struct. */
struct weft_valuematch;
int weft_valuematch_prepare(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Type__Matcher__V3__ValueMatcher *m,
			    const struct weft_valuematch **ret);
enum weft_match weft_valuematch(const struct weft_valuematch *m,
				const Google__Protobuf__Value *v); /* v NULL: absent */
struct weft_metamatch {
	const char *ns;
	const char *const *path;
	size_t n_path;
	const struct weft_valuematch *value;
	bool invert;
};
int weft_metamatch_prepare(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Type__Matcher__V3__MetadataMatcher *m,
			   struct weft_metamatch *ret);
enum weft_match weft_metamatch(const struct weft_metamatch *m,
			       const Google__Protobuf__Struct *ns); /* ns NULL: absent */
const Google__Protobuf__Value *weft_struct_get(const Google__Protobuf__Struct *s, const char *key);
/* Follows keys; NULL: absent. */
const Google__Protobuf__Value *weft_struct_path(const Google__Protobuf__Struct *s,
						const char *const *path, size_t n);
bool weft_value_equal(const Google__Protobuf__Value *a, const Google__Protobuf__Value *b);
/* filter_metadata[ns] of a Metadata message; NULL. */
const Google__Protobuf__Struct *weft_metadata_ns(const Envoy__Config__Core__V3__Metadata *m,
						 const char *ns);

/* The value of a cookie in "a=1; b=2" text(s); NULL: absent. */
const char *weft_cookie_get(const struct weft_headers *h, const char *name, struct weft_arena *a,
			    size_t *ret_n);

/* numerator per denominator → parts per million; a default when m is NULL. */
uint32_t weft_fraction(const Envoy__Config__Core__V3__RuntimeFractionalPercent *m, uint32_t dflt);
uint32_t weft_percent(const Envoy__Type__V3__FractionalPercent *m, uint32_t dflt);
bool weft_fraction_hit(uint32_t per_million, uint64_t random);
