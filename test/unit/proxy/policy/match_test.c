/* Matchers that many parts share: every kind, what is refused, limits, RE2's rules. */
#include "proxy/policy/match.h"
#include "xds/yaml.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;
static struct weft_errs errs;
static struct weft_cfg cfg;

static int fresh(void **state)
{
	arena = weft_arena_new(0);
	memset(&errs, 0, sizeof(errs));
	cfg = (struct weft_cfg){.arena = arena, .errs = &errs};
	return 0;
}

static int gone(void **state)
{
	weft_arena_free(arena);
	return 0;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return ctx;
}

static void *decode(const ProtobufCMessageDescriptor *d, const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;

	assert_int_equal(weft_yaml_decode(arena, "t.yaml", yaml, strlen(yaml), pick, (void *)d,
					  &docs, &n, &errs),
			 0);
	assert_int_equal(n, 1);
	return docs[0].msg;
}

static const struct weft_path at = {NULL, "m", -1};

static void refused(int rc, const char *want)
{
	assert_int_not_equal(rc, 0);
	assert_true(errs.n > 0);
	if (!strstr(errs.v[errs.n - 1].msg, want))
		fail_msg("\"%s\" is not in \"%s\"", want, errs.v[errs.n - 1].msg);
	memset(&errs, 0, sizeof(errs));
}

/* ---- strings */
static void strings(void **state)
{
	static const struct {
		const char *m, *s;
		bool yes;
	} t[] = {
		{"exact: abc", "abc", true},
		{"exact: abc", "abcd", false},
		{"exact: abc", "aBc", false},
		{"{exact: abc, ignore_case: true}", "aBC", true},
		{"prefix: ab", "abc", true},
		{"prefix: ab", "a", false},
		{"{prefix: AB, ignore_case: true}", "abc", true},
		{"suffix: bc", "abc", true},
		{"suffix: bc", "c", false},
		{"{suffix: BC, ignore_case: true}", "abc", true},
		{"contains: b", "abc", true},
		{"contains: x", "abc", false},
		{"{contains: B, ignore_case: true}", "abc", true},
		{"safe_regex: {regex: 'a.c'}", "abc", true},
		{"safe_regex: {regex: 'a.'}", "abc", false}, /* the whole of it */
		{"safe_regex: {regex: '(?i)A.C'}", "abc", true},
		{"exact: ''", "", true},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct weft_strmatch m;

		assert_int_equal(
			weft_strmatch_prepare(
				&cfg, &at,
				decode(&envoy__type__matcher__v3__string_matcher__descriptor,
				       t[i].m),
				&m),
			0);
		if (weft_strmatch(&m, t[i].s, strlen(t[i].s)) !=
		    (t[i].yes ? WEFT_MATCH_YES : WEFT_MATCH_NO))
			fail_msg("%s on \"%s\"", t[i].m, t[i].s);
	}
}

static void strings_refused(void **state)
{
	const ProtobufCMessageDescriptor *d = &envoy__type__matcher__v3__string_matcher__descriptor;
	struct weft_strmatch m;

	refused(weft_strmatch_prepare(&cfg, &at, decode(d, "ignore_case: true"), &m), "has none");
	refused(weft_strmatch_prepare(&cfg, &at,
				      decode(d, "{safe_regex: {regex: a}, ignore_case: true}"), &m),
		"(?i)");
	refused(weft_strmatch_prepare(&cfg, &at, decode(d, "safe_regex: {regex: '('}"), &m),
		"is not a regular expression");
}

/* ---- regular expressions */
static const struct weft_regex *re(const char *s)
{
	const struct weft_regex *r = NULL;

	if (weft_regex_compile(&cfg, &at, s, &r))
		fail_msg("%s: %s", s, errs.v[0].msg);
	return r;
}

static void re2_only(void **state)
{
	static const struct {
		const char *re, *why;
	} bad[] = {
		{"(a)\\1", "back-references"},
		{"(?P<x>a)(?P=x)", "this kind of group"},
		{"\\k<x>", "back-references"},
		{"a(?=b)", "lookaround"},
		{"a(?!b)", "lookaround"},
		{"(?<=a)b", "lookaround"},
		{"(?<!a)b", "lookaround"},
		{"(?>a)", "this kind of group"},
		{"(?|a)", "this kind of group"},
		{"(?R)", "this kind of group"},
		{"(?1)", "this kind of group"},
		{"(?#c)", "this kind of group"},
		{"(*ACCEPT)", "verbs"},
		{"a\\Kb", "this escape"},
		{"\\Ga", "this escape"},
		{"\\Ra", "this escape"},
		{"\\h", "this escape"},
		{"\\Z", "this escape"},
		{"a++", "possessive"},
		{"a*+", "possessive"},
		{"a?+", "possessive"},
		{"a{2}+", "possessive"},
		{"a{1001}", "more than 1000"},
		{"a{1,2000}", "more than 1000"},
		{"", "is empty"},
	};
	static const char *const good[] = {
		"a{1000}", "a{2,}?",	"a+?",	    "a{,3}",	"{",
		"[+*]+",   "\\+\\+",	"(?P<n>a)", "(?i:a)",	"\\pL",
		"\\x{41}", "\\Q(?=\\E", "\\A\\z",   "[\\]\\d]", "[[:alpha:]]",
	};
	const struct weft_regex *r;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		print_message("# %s\n", bad[i].re);
		refused(weft_regex_compile(&cfg, &at, bad[i].re, &r), bad[i].why);
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		(void)re(good[i]);
}

static void regex_limits(void **state)
{
	char *long_re = malloc(WEFT_REGEX_BYTES_MAX + 2), *text = malloc(60000);
	const struct weft_regex *r;

	memset(long_re, 'a', WEFT_REGEX_BYTES_MAX + 1);
	long_re[WEFT_REGEX_BYTES_MAX + 1] = '\0';
	refused(weft_regex_compile(&cfg, &at, long_re, &r), "at most");
	/* an expression that backtracks without end is cut short, soon */
	memset(text, 'a', 60000);
	text[60] = 'b';
	assert_int_equal(weft_regex_full(re("(a|aa|aaa)+"), text, 61), WEFT_MATCH_LIMIT);
	text[60] = 'a';
	/* and one that does not takes long texts */
	assert_int_equal(weft_regex_full(re("[a-z]*"), text, 60000), WEFT_MATCH_YES);
	assert_int_equal(weft_regex_full(re("/([^/]+/?)*"), "/a/b", 4), WEFT_MATCH_YES);
	/* bytes that are no UTF-8 */
	assert_int_equal(weft_regex_full(re("a.*b"),
					 "a\xff\xfe"
					 "b",
					 4),
			 WEFT_MATCH_NO);
	assert_int_equal(weft_regex_search(re("b"),
					   "a\xff"
					   "b",
					   3),
			 WEFT_MATCH_YES);
	assert_int_equal(weft_regex_full(re("a$"), "a\n", 2), WEFT_MATCH_NO);
	free(long_re);
	free(text);
}

static void replaced(void **state)
{
	static const struct {
		const char *re, *to, *s, *want;
	} t[] = {
		{"a", "b", "banana", "bbnbnb"},
		{"^/v[0-9]+/", "/", "/v12/x", "/x"},
		{"(\\w+)@(\\w+)", "\\2.\\1", "me@you us@them", "you.me them.us"},
		{"a*", "X", "baac", "XbXcX"}, /* as RE2::GlobalReplace */
		{"x*", "-", "ab", "-a-b-"},
		{"x", "y", "abc", "abc"},
		{"b", "", "abc", "ac"},
		{"b", "\\\\", "abc", "a\\c"},
		{"(z)?b", "[\\1]", "abc", "a[]c"},
		{"b", "<\\0>", "abc", "a<b>c"},
		{".*", "x", "", "x"},
		{"x*", "-", "\xc3\xa4", "-\xc3\xa4-"}, /* letters stay whole */
	};
	char *many = malloc(40001);
	size_t n;

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		const char *got =
			weft_regex_replace(re(t[i].re), t[i].to, t[i].s, strlen(t[i].s), arena, &n);

		assert_non_null(got);
		if (n != strlen(t[i].want) || memcmp(got, t[i].want, n))
			fail_msg("%s on %s: %.*s", t[i].re, t[i].s, (int)n, got);
	}
	memset(many, 'a', 40000);
	assert_null(weft_regex_replace(re("a"), "bb", many, 40000, arena, &n));
	assert_non_null(weft_regex_replace(re("a"), "b", many, 40000, arena, &n));
	assert_int_equal(n, 40000);
	free(many);
}

static void rewrites(void **state)
{
	const ProtobufCMessageDescriptor *d =
		&envoy__type__matcher__v3__regex_match_and_substitute__descriptor;
	struct weft_rewrite w;

	assert_int_equal(weft_rewrite_prepare(
				 &cfg, &at,
				 decode(d, "{pattern: {regex: '(a)(b)'}, substitution: '\\2\\1'}"),
				 &w),
			 0);
	refused(weft_rewrite_prepare(
			&cfg, &at, decode(d, "{pattern: {regex: '(a)'}, substitution: '\\2'}"), &w),
		"names group 2");
	refused(weft_rewrite_prepare(
			&cfg, &at, decode(d, "{pattern: {regex: '(a)'}, substitution: '\\x'}"), &w),
		"a digit");
	refused(weft_rewrite_prepare(&cfg, &at, decode(d, "substitution: x"), &w), "must be set");
}

/* ---- headers */
static void headers(void **state)
{
	static const struct {
		const char *m;
		bool none, one, two; /* without x; x: 5; x: 5 and x: 6 */
	} t[] = {
		{"{name: x}", false, true, true},
		{"{name: X, present_match: true}", false, true, true},
		{"{name: x, present_match: false}", true, false, false},
		{"{name: x, present_match: true, invert_match: true}", true, false, false},
		{"{name: x, string_match: {exact: '5'}}", false, true, false},
		{"{name: x, string_match: {exact: '5,6'}}", false, false, true},
		{"{name: x, string_match: {exact: '5'}, invert_match: true}", false, false, true},
		{"{name: x, string_match: {exact: '7'}, invert_match: true, "
		 "treat_missing_header_as_empty: true}",
		 true, true, true},
		{"{name: x, string_match: {exact: ''}, treat_missing_header_as_empty: true}", true,
		 false, false},
		{"{name: x, range_match: {start: 5, end: 6}}", false, true, false},
		{"{name: x, range_match: {start: 6, end: 9}, invert_match: true}", false, true,
		 true},
		{"{name: x, exact_match: '5'}", false, true, false},
		{"{name: x, prefix_match: '5'}", false, true, true},
		{"{name: x, suffix_match: '6'}", false, false, true},
		{"{name: x, contains_match: ','}", false, false, true},
		{"{name: x, safe_regex_match: {regex: '[0-9]'}}", false, true, false},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct weft_hdrmatch m;
		struct weft_headers h;

		assert_int_equal(
			weft_hdrmatch_prepare(
				&cfg, &at,
				decode(&envoy__config__route__v3__header_matcher__descriptor,
				       t[i].m),
				&m),
			0);
		weft_headers_init(&h, arena);
		print_message("# %s\n", t[i].m);
		assert_int_equal(weft_hdrmatch(&m, &h), t[i].none);
		weft_headers_add(&h, "x", 1, "5", 1);
		assert_int_equal(weft_hdrmatch(&m, &h), t[i].one);
		weft_headers_add(&h, "x", 1, "6", 1);
		assert_int_equal(weft_hdrmatch(&m, &h), t[i].two);
	}
}

static void ranges(void **state)
{
	static const struct {
		const char *v;
		bool yes;
	} t[] = {{"-3", true},	 {"3", false},	 {"-10", true},
		 {"-11", false}, {"0", true},	 {"1x", false},
		 {"", false},	 {"0.5", false}, {"99999999999999999999999999", false}};
	struct weft_hdrmatch m;

	assert_int_equal(
		weft_hdrmatch_prepare(&cfg, &at,
				      decode(&envoy__config__route__v3__header_matcher__descriptor,
					     "{name: ':path', range_match: {start: -10, end: 3}}"),
				      &m),
		0);
	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct weft_headers h;

		weft_headers_init(&h, arena);
		weft_headers_add(&h, ":path", 5, t[i].v, strlen(t[i].v));
		assert_int_equal(weft_hdrmatch(&m, &h), t[i].yes);
	}
	refused(weft_hdrmatch_prepare(&cfg, &at,
				      decode(&envoy__config__route__v3__header_matcher__descriptor,
					     "{name: a, range_match: {start: 3, end: 3}}"),
				      &m),
		"end beyond start");
}

static void host_is_authority(void **state)
{
	struct weft_hdrmatch m;
	struct weft_headers h;

	assert_int_equal(
		weft_hdrmatch_prepare(&cfg, &at,
				      decode(&envoy__config__route__v3__header_matcher__descriptor,
					     "{name: Host, string_match: {exact: a}}"),
				      &m),
		0);
	weft_headers_init(&h, arena);
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, "a", 1);
	assert_int_equal(weft_hdrmatch(&m, &h), WEFT_MATCH_YES);
}

/* ---- query parameters, cookies */
static void queries(void **state)
{
	Envoy__Config__Route__V3__QueryParameterMatcher *v[2] = {
		decode(&envoy__config__route__v3__query_parameter_matcher__descriptor,
		       "{name: a, string_match: {exact: x y}}"),
		decode(&envoy__config__route__v3__query_parameter_matcher__descriptor, "{name: b}"),
	};
	const struct weft_querymatch *m;
	size_t n;

	assert_int_equal(weft_querymatches_prepare(&cfg, &at, v, 2, &m), 0);
#define Q(s) weft_querymatch_all(m, 2, s, strlen(s))
	assert_int_equal(Q("a=x%20y&b"), WEFT_MATCH_YES);
	assert_int_equal(Q("b=1&c&a=x%20y&a=z"), WEFT_MATCH_YES); /* the first counts */
	assert_int_equal(Q("a=z&a=x%20y&b"), WEFT_MATCH_NO);
	assert_int_equal(Q("a=x%20y"), WEFT_MATCH_NO);
	assert_int_equal(Q("aa=x%20y&b"), WEFT_MATCH_NO);
	assert_int_equal(Q(""), WEFT_MATCH_NO);
	assert_int_equal(Q("&&&=&b&a=x%20y"), WEFT_MATCH_YES);
	assert_string_equal(weft_query_get("a=%41%4&b", 9, "a", arena, &n), "A%4");
	assert_int_equal(n, 3);
	assert_null(weft_query_get("a=1", 3, "b", arena, &n));
}

static void cookies(void **state)
{
	struct weft_headers h;
	size_t n;

	weft_headers_init(&h, arena);
	assert_null(weft_cookie_get(&h, "a", arena, &n));
	weft_headers_add_id(&h, WEFT_H_COOKIE, "aa=0; a=1;b=\"2\"; c=", 19);
	weft_headers_add_id(&h, WEFT_H_COOKIE, "d=4 ", 4);
	assert_string_equal(weft_cookie_get(&h, "a", arena, &n), "1");
	assert_string_equal(weft_cookie_get(&h, "b", arena, &n), "2");
	assert_string_equal(weft_cookie_get(&h, "c", arena, &n), "");
	assert_string_equal(weft_cookie_get(&h, "d", arena, &n), "4");
	assert_null(weft_cookie_get(&h, "e", arena, &n));
}

/* ---- metadata */
static void metadata(void **state)
{
	const Google__Protobuf__Struct *s =
		decode(&google__protobuf__struct__descriptor,
		       "{a: {b: hello, n: 1.5, t: true, z: null}, l: [x, 3]}");
	static const struct {
		const char *m;
		bool yes;
	} t[] = {
		{"{filter: f, path: [{key: a}, {key: b}], value: {string_match: {exact: hello}}}",
		 true},
		{"{filter: f, path: [{key: a}, {key: b}], value: {string_match: {exact: x}}}",
		 false},
		{"{filter: f, path: [{key: a}, {key: n}], value: {double_match: {exact: 1.5}}}",
		 true},
		{"{filter: f, path: [{key: a}, {key: n}], value: {double_match: {range: {start: 1, "
		 "end: 1.5}}}}",
		 false},
		{"{filter: f, path: [{key: a}, {key: t}], value: {bool_match: true}}", true},
		{"{filter: f, path: [{key: a}, {key: z}], value: {null_match: {}}}", true},
		{"{filter: f, path: [{key: q}], value: {present_match: true}}", false},
		{"{filter: f, path: [{key: q}], value: {present_match: false}}", true},
		{"{filter: f, path: [{key: l}], value: {list_match: {one_of: {string_match: "
		 "{prefix: x}}}}}",
		 true},
		{"{filter: f, path: [{key: l}], value: {list_match: {one_of: {bool_match: "
		 "true}}}}",
		 false},
		{"{filter: f, path: [{key: a}, {key: b}], value: {or_match: {value_matchers: "
		 "[{bool_match: true}, {string_match: {suffix: lo}}]}}}",
		 true},
		{"{filter: f, path: [{key: a}, {key: b}], value: {string_match: {exact: x}}, "
		 "invert: true}",
		 true},
		{"{filter: f, path: [{key: l}, {key: b}], value: {string_match: {exact: x}}}",
		 false},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct weft_metamatch m;

		assert_int_equal(
			weft_metamatch_prepare(
				&cfg, &at,
				decode(&envoy__type__matcher__v3__metadata_matcher__descriptor,
				       t[i].m),
				&m),
			0);
		if ((weft_metamatch(&m, s) == WEFT_MATCH_YES) != t[i].yes)
			fail_msg("%s", t[i].m);
	}
}

static void fractions(void **state)
{
	const ProtobufCMessageDescriptor *d = &envoy__type__v3__fractional_percent__descriptor;

	assert_int_equal(weft_percent(NULL, 7), 7);
	assert_int_equal(weft_percent(decode(d, "numerator: 3"), 0), 30000);
	assert_int_equal(weft_percent(decode(d, "{numerator: 3, denominator: TEN_THOUSAND}"), 0),
			 300);
	assert_int_equal(weft_percent(decode(d, "{numerator: 3, denominator: MILLION}"), 0), 3);
	assert_int_equal(weft_percent(decode(d, "numerator: 4294967295"), 0), 1000000);
	assert_false(weft_fraction_hit(0, 0));
	assert_true(weft_fraction_hit(1000000, 999999));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
	const struct CMUnitTest tests[] = {
		T(strings),  T(strings_refused),   T(re2_only), T(regex_limits), T(replaced),
		T(rewrites), T(headers),	   T(ranges),	T(queries),	 T(cookies),
		T(metadata), T(host_is_authority), T(fractions)};

	return cmocka_run_group_tests_name("match", tests, NULL, NULL);
}
