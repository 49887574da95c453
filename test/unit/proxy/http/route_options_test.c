/* Fields of routes one by one: what a route does with and without each. */
#include "test/unit/proxy/http/route_fix.h"

/* A field of the request after the route has changed it. */
static const char *changed(const char *field)
{
	const struct weft_route *r = find();
	struct weft_format_in fin = {.info = &info, .req = &req};
	const struct weft_weighted *w = NULL;
	const struct weft_header *h;

	weft_route_cluster(r, &in, &w);
	weft_route_request(r, w, &fin, &req);
	h = weft_headers_find(&req, field, 0);
	return h ? h->value : "(none)";
}

static bool response_keeps(const char *name)
{
	struct weft_headers h;
	struct weft_format_in fin = {.info = &info, .req = &req, .resp = &h};
	const struct weft_weighted *w = NULL;

	weft_headers_init(&h, arena);
	weft_headers_add(&h, name, strlen(name), "1", 1);
	weft_route_cluster(find(), &in, &w);
	weft_route_response(find(), w, &fin, &h);
	return weft_headers_find(&h, name, 0) != NULL;
}

static void response_headers(void **state)
{
	assert_int_equal(
		load("{name: t, response_headers_to_remove: [t], virtual_hosts: [{name: v, "
		     "domains: "
		     "['*'], response_headers_to_remove: [v], routes: [{match: {prefix: /}, "
		     "response_headers_to_remove: [r], route: {weighted_clusters: {clusters: "
		     "[{name: "
		     "c, weight: 1, response_headers_to_remove: [w]}]}}}]}]}"),
		0);
	request("h", "/", NULL);
	assert_false(response_keeps("t"));
	assert_false(response_keeps("v"));
	assert_false(response_keeps("r"));
	assert_false(response_keeps("w"));
	assert_true(response_keeps("x"));
}

static int direct(unsigned n, const char *max)
{
	static char body[9000], yaml[10000];

	fresh(NULL);
	memset(body, 'x', n);
	body[n] = '\0';
	snprintf(yaml, sizeof(yaml),
		 "{name: t, %s virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: "
		 "/}, direct_response: {status: 200, body: {inline_string: %s}}}]}]}",
		 max, body);
	return load(yaml);
}

static void direct_response_sizes(void **state)
{
	assert_int_equal(direct(4096, ""), 0);
	assert_int_not_equal(direct(4097, ""), 0);
	assert_int_equal(direct(8000, "max_direct_response_body_size_bytes: 8000,"), 0);
	assert_int_not_equal(direct(8001, "max_direct_response_body_size_bytes: 8000,"), 0);
	assert_non_null(strstr(errs.v[0].path, "direct_response.body"));
	assert_int_not_equal(direct(11, "max_direct_response_body_size_bytes: 10,"), 0);
}

static void path_parameters(void **state)
{
	static const char *const ignore[] = {"", "ignore_path_parameters_in_path_matching: true,"};
	char yaml[400];

	for (int on = 0; on < 2; on++) {
		fresh(NULL);
		snprintf(yaml, sizeof(yaml),
			 "{name: t, %s virtual_hosts: [{name: v, domains: ['*'], routes: [{name: "
			 "exact, match: {path: /a}, route: {cluster: c}}, {name: rest, match: "
			 "{prefix: /}, route: {cluster: c}}]}]}",
			 ignore[on]);
		assert_int_equal(load(yaml), 0);
		assert_string_equal(GOES("/a;v=1"), on ? "exact" : "rest");
		assert_string_equal(GOES("/a;v=1?q"), on ? "exact" : "rest");
		assert_string_equal(GOES("/a"), "exact");
	}
}

static void templates(void **state)
{
	static const char type[] = "'@type': type.googleapis.com/envoy.extensions.path.%s";
	char yaml[800], match[120], rewrite[120];

	snprintf(match, sizeof(match), type, "match.uri_template.v3.UriTemplateMatchConfig");
	snprintf(rewrite, sizeof(rewrite), type,
		 "rewrite.uri_template.v3.UriTemplateRewriteConfig");
	snprintf(yaml, sizeof(yaml),
		 "{match: {path_match_policy: {name: m, typed_config: {%s, path_template: "
		 "'/t/{a}/{b=**}'}}}, route: {cluster: c, path_rewrite_policy: {name: r, "
		 "typed_config: {%s, path_template_rewrite: '/n/{b}/{a}'}}}}",
		 match, rewrite);
	table(yaml);
	request("h", "/t/x/y/z?q", NULL);
	assert_string_equal(changed(":path"), "/n/y/z/x?q");
}

static void hosts(void **state)
{
	table("{match: {prefix: /auto}, route: {cluster: c, auto_host_rewrite: true}},"
	      "{match: {prefix: /}, route: {cluster: c}}");
	request("old", "/auto", NULL);
	assert_true(find()->auto_host_rewrite);
	weft_route_host_auto(find(), &req, "endpoint.name");
	assert_string_equal(weft_headers_value(&req, WEFT_H_AUTHORITY), "endpoint.name");
	request("old", "/", NULL);
	weft_route_host_auto(find(), &req, "endpoint.name");
	assert_string_equal(weft_headers_value(&req, WEFT_H_AUTHORITY), "old");
}

static void hash_of_the_address(void **state)
{
	struct weft_sockaddr a = {.ip.family = AF_INET, .port = 5};
	const char *set = NULL;
	uint64_t x, y, z;

	table("{match: {prefix: /on}, route: {cluster: c, hash_policy: [{connection_properties: "
	      "{source_ip: true}}]}}, {match: {prefix: /}, route: {cluster: c}}");
	assert_int_equal(weft_ip_parse("192.0.2.1", &a.ip), 0);
	info.remote = a;
	request("h", "/on", NULL);
	assert_true(weft_route_hash(find(), &in, arena, &x, &set));
	info.remote.port = 9; /* the address alone */
	assert_true(weft_route_hash(find(), &in, arena, &y, &set));
	assert_int_equal(x, y);
	assert_int_equal(weft_ip_parse("192.0.2.2", &info.remote.ip), 0);
	assert_true(weft_route_hash(find(), &in, arena, &z, &set));
	assert_int_not_equal(x, z);
	request("h", "/", NULL);
	assert_false(weft_route_hash(find(), &in, arena, &x, &set));
}

static void cookies(void **state)
{
	const char *set = NULL;
	uint64_t x;

	table("{match: {prefix: /}, route: {cluster: c, hash_policy: [{cookie: {name: s, ttl: 9s, "
	      "attributes: [{name: SameSite, value: Lax}, {name: Secure}]}}]}}");
	request("h", "/", NULL);
	assert_true(weft_route_hash(find(), &in, arena, &x, &set));
	assert_non_null(strstr(set, "; Max-Age=9"));
	assert_non_null(strstr(set, "; SameSite=Lax; Secure"));
}

static void weights_by_hash(void **state)
{
	static const char route[] =
		"{match: {prefix: /}, route: {hash_policy: [{header: {header_name: k}}], "
		"weighted_clusters: {%s clusters: [{name: a, weight: 50}, {name: b, weight: "
		"50}]}}}";
	const struct weft_weighted *w;
	char yaml[400], key[16];
	unsigned n[2] = {0};

	snprintf(yaml, sizeof(yaml), route, "use_hash_policy: true,");
	table(yaml);
	for (int i = 0; i < 40; i++) {
		const char *first = NULL;

		snprintf(key, sizeof(key), "k%d", i);
		request("h", "/", "k", key, NULL);
		for (in.random = 0; in.random < 100; in.random += 17) {
			const char *c = weft_route_cluster(find(), &in, &w);

			first = first ?: c;
			assert_string_equal(c, first); /* chance has no say */
		}
		n[*first == 'b']++;
	}
	assert_true(n[0] && n[1]);
	fresh(NULL);
	snprintf(yaml, sizeof(yaml), route, "");
	table(yaml);
	request("h", "/", "k", "k1", NULL);
	in.random = 0;
	assert_string_equal(weft_route_cluster(find(), &in, &w), "a");
	in.random = 99;
	assert_string_equal(weft_route_cluster(find(), &in, &w), "b");
}

static void totals(void **state)
{
#define TOTAL(n)                                                                                   \
	"{name: t, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, "       \
	"route: "                                                                                  \
	"{weighted_clusters: {total_weight: " n ", clusters: [{name: a, weight: 30}, {name: b, "   \
	"weight: 70}]}}}]}]}"
	assert_int_equal(load(TOTAL("100")), 0);
	fresh(NULL);
	assert_int_not_equal(load(TOTAL("99")), 0);
	assert_non_null(strstr(errs.v[0].path, "total_weight"));
	assert_non_null(strstr(errs.v[0].msg, "(100), is 99"));
}

static void flush_timeouts(void **state)
{
	table("{match: {prefix: /on}, route: {cluster: c, flush_timeout: 0.25s}},"
	      "{match: {prefix: /}, route: {cluster: c}}");
	request("h", "/on", NULL);
	assert_int_equal(find()->flush_timeout_ms, 250);
	request("h", "/", NULL);
	assert_int_equal(find()->flush_timeout_ms, -1);
}

/* A filter that nobody has: left alone where it may be, else refused. */
static void optional_filters(void **state)
{
#define OF(more)                                                                                   \
	"{name: t, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, "       \
	"route: "                                                                                  \
	"{cluster: c}, typed_per_filter_config: {x: {'@type': type.googleapis.com/"                \
	"envoy.config.route.v3.FilterConfig, " more "config: {'@type': type.googleapis.com/"       \
	"envoy.config.core.v3.Address, pipe: {path: x}}}}}]}]}"
	assert_int_equal(load(OF("is_optional: true, ")), 0);
	fresh(NULL);
	assert_int_not_equal(load(OF("")), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
	const struct CMUnitTest tests[] = {
		T(response_headers),
		T(direct_response_sizes),
		T(path_parameters),
		T(templates),
		T(hosts),
		T(hash_of_the_address),
		T(cookies),
		T(weights_by_hash),
		T(totals),
		T(flush_timeouts),
		T(optional_filters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
