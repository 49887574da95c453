/* URI templates: what fits, what is refused, rewrites. */
#include "proxy/http/route_priv.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;
static struct weft_errs errs;
static struct weft_cfg cfg;
static const struct weft_path at = {NULL, "t", -1};

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

static const struct weft_template *tmpl(const char *text)
{
	const struct weft_template *t = NULL;

	if (route_template_prepare(&cfg, &at, text, &t))
		fail_msg("%s: %s", text, errs.v[0].msg);
	return t;
}

static void fits(void **state)
{
	static const struct {
		const char *t, *path;
		bool yes;
	} v[] = {
		{"/a/b", "/a/b", true},		{"/a/b", "/a/b/", false},
		{"/a.b", "/axb", false},	{"/a/*", "/a/x", true},
		{"/a/*", "/a/", false},		{"/a/*", "/a/x/y", false},
		{"/a/**", "/a/x/y", true},	{"/a/**", "/a/", true},
		{"/{n}/x", "/q/x", true},	{"/{n}/x", "/q/r/x", false},
		{"/{n=a/*}/x", "/a/b/x", true}, {"/{n=a/*}/x", "/b/b/x", false},
		{"/{n=**}", "/a/b/c", true},	{"/a/*.html", "/a/i.html", true},
		{"/{f}.{e}", "/i.html", true},	{"/a/{n}", "/a/x%20y", true},
		{"/a/{n}", "/a/x=y", false},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++)
		if (route_template_match(tmpl(v[i].t), v[i].path, strlen(v[i].path)) != v[i].yes)
			fail_msg("%s on %s", v[i].t, v[i].path);
}

static void refused(void **state)
{
	static const struct {
		const char *t, *why;
	} v[] = {
		{"", "no '/'"},
		{"a", "no '/'"},
		{"/a//b", "empty segment"},
		{"/{a", "without '}'"},
		{"/{}", "1..16"},
		{"/{aaaaaaaaaaaaaaaaa}", "1..16"},
		{"/{1a}", "letters"},
		{"/{a}/{a}", "twice"},
		{"/{a}/{b}/{c}/{d}/{e}/{f}", "more than 5"},
		{"/**/a", "behind **"},
		{"/{a=**}/b", "behind **"},
		{"/{a=**/b}", "must be the last"},
		{"/a b", "cannot have"},
		{"/{a={b}}", "cannot have"},
	};
	char many[5000] = "/";

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		const struct weft_template *t;

		memset(&errs, 0, sizeof(errs));
		assert_int_not_equal(route_template_prepare(&cfg, &at, v[i].t, &t), 0);
		if (!strstr(errs.v[0].msg, v[i].why))
			fail_msg("%s: %s", v[i].t, errs.v[0].msg);
	}
	memset(many + 1, '.', sizeof(many) - 2);
	memset(&errs, 0, sizeof(errs));
	{
		const struct weft_template *t;

		assert_int_not_equal(route_template_prepare(&cfg, &at, many, &t), 0);
		assert_non_null(strstr(errs.v[0].msg, "too many pieces"));
	}
}

static const char *rewritten(const char *match, const char *to, const char *path)
{
	const struct weft_template *m = tmpl(match), *r = NULL;
	const char *s;
	size_t n = 0;

	if (route_template_rewrite_prepare(&cfg, &at, to, m, &r))
		fail_msg("%s: %s", to, errs.v[0].msg);
	s = route_template_rewrite(r, m, path, strlen(path), arena, &n);
	return s ? weft_arena_strndup(arena, s, n) : "(none)";
}

static void rewrites(void **state)
{
	const struct weft_template *m = tmpl("/{a}"), *r;

	assert_string_equal(rewritten("/{a}/{b}", "/{b}/{a}", "/x/y"), "/y/x");
	assert_string_equal(rewritten("/{a}/{b}", "/{b}{b}-{a}.z", "/x/y"), "/yy-x.z");
	assert_string_equal(rewritten("/v/{rest=**}", "/{rest}", "/v/a/b/c"), "/a/b/c");
	assert_string_equal(rewritten("/v/{rest=**}", "/n", "/v/a"), "/n");
	assert_string_equal(rewritten("/v/{a}", "/{a}", "/other"), "(none)");
	assert_int_not_equal(route_template_rewrite_prepare(&cfg, &at, "/{b}", m, &r), 0);
	assert_non_null(strstr(errs.v[0].msg, "which the match does not have"));
	assert_int_not_equal(route_template_rewrite_prepare(&cfg, &at, "x", m, &r), 0);
	assert_int_not_equal(route_template_rewrite_prepare(&cfg, &at, "/{a", m, &r), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(fits, fresh, gone),
		cmocka_unit_test_setup_teardown(refused, fresh, gone),
		cmocka_unit_test_setup_teardown(rewrites, fresh, gone),
	};

	return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
