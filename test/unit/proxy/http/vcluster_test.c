/* Virtual clusters: which one a request is of, and numbers of their own. */
#include "proxy/http/route_stats.h"
#include "proxy/http/vcluster.h"
#include "xds/yaml.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;
static struct weft_errs errs;
static struct weft_routes *routes;

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return ctx;
}

static int load(const char *more)
{
	struct weft_cfg c = {.arena = arena, .errs = &errs, .file = true};
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;
	const char *yaml = weft_arena_printf(
		arena,
		"{name: t, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, "
		"route: {cluster: c}}], %s}]}",
		more);

	if (weft_yaml_decode(arena, "t.yaml", yaml, strlen(yaml), pick,
			     (void *)&envoy__config__route__v3__route_configuration__descriptor,
			     &docs, &n, &errs))
		return -1;
	return weft_routes_new(&c, NULL, (const void *)docs[0].msg, &routes);
}

static const struct weft_vcluster *vcluster(const char *method, const char *path)
{
	struct weft_io_info down = {0};
	struct weft_info info = {.arena = arena, .down = &down};
	struct weft_headers h;
	struct weft_route_in in = {&h, &info, 0, false};
	bool tls;

	weft_headers_init(&h, arena);
	weft_headers_set_id(&h, WEFT_H_METHOD, method, strlen(method));
	weft_headers_set_id(&h, WEFT_H_PATH, path, strlen(path));
	weft_headers_set_id(&h, WEFT_H_AUTHORITY, "h", 1);
	return weft_vhost_vcluster(weft_routes_find(routes, &in, &tls)->vhost, &h);
}

static int64_t total(const struct weft_vcluster *vc)
{
	return weft_scope_value(vc->stats, WEFT_ROUTE_STAT_upstream_rq_total);
}

static void first_that_matches(void **state)
{
	const struct weft_vcluster *vc;

	assert_int_equal(
		load("virtual_clusters: ["
		     "{name: posts, headers: [{name: ':method', string_match: {exact: POST}}]},"
		     "{name: both, headers: [{name: ':path', string_match: {prefix: /a}},"
		     " {name: ':method', string_match: {exact: PUT}}]}]"),
		0);
	assert_string_equal(vcluster("POST", "/a")->name, "posts");
	assert_string_equal(vcluster("PUT", "/ab")->name, "both");
	vc = vcluster("PUT", "/b"); /* the rest has numbers, and no name */
	assert_null(vc->name);
	weft_scope_add(vc->stats, WEFT_ROUTE_STAT_upstream_rq_total, 2);
	assert_ptr_equal(vcluster("GET", "/")->stats, vc->stats);
	assert_int_equal(total(vc), 2);
	assert_int_equal(total(vcluster("POST", "/")), 0);
	weft_routes_unref(routes);
}

static void none(void **state)
{
	assert_int_equal(load("metadata: {}"), 0);
	assert_null(vcluster("POST", "/"));
	weft_routes_unref(routes);
}

static void refused(void **state)
{
	assert_true(load("virtual_clusters: [{name: a}]") < 0);
	assert_string_equal(errs.v[0].path, "virtual_hosts[0].virtual_clusters[0].headers");
	assert_string_equal(errs.v[0].msg, "must have an entry, has none");
}

static int fresh(void **state)
{
	arena = weft_arena_new(0);
	memset(&errs, 0, sizeof(errs));
	return 0;
}

static int gone(void **state)
{
	weft_arena_free(arena);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(first_that_matches, fresh, gone),
		cmocka_unit_test_setup_teardown(none, fresh, gone),
		cmocka_unit_test_setup_teardown(refused, fresh, gone),
	};

	return cmocka_run_group_tests_name("vcluster", tests, NULL, NULL);
}
