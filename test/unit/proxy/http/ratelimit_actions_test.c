/* Descriptors made of requests by the actions of rate limits. */
#include "proxy/http/ratelimit_actions.h"
#include "test/unit/proxy/upstream/build.h"

static struct weft_arena *a;
static struct weft_errs errs;
static const char *remote = "10.1.2.3";

/* The limits of a route's action; "a=b,c=d;" of each descriptor they give. */
static const char *run(const char *limits, const char *path, const char *user)
{
	static char out[1024];
	char yaml[2048];
	struct weft_cfg c = {.arena = a, .errs = &errs};
	struct weft_path at = {NULL, "rate_limits", -1};
	const Envoy__Config__Route__V3__RouteAction *m;
	const struct weft_ratelimits *l;
	struct weft_ratelimit_descriptor *d;
	struct weft_info info = {.arena = a};
	struct weft_headers h;
	struct weft_ratelimit_in in = {
		.h = &h, .info = &info, .route_cluster = "up", .local_cluster = "me", .arena = a};
	size_t n, len = 0;

	memset(&errs, 0, sizeof(errs));
	snprintf(yaml, sizeof(yaml), "{rate_limits: [%s]}", limits);
	m = yaml_message(a, &envoy__config__route__v3__route_action__descriptor, yaml);
	if (weft_ratelimits_prepare(&c, &at, m->rate_limits, m->n_rate_limits, &l))
		return NULL;
	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_PATH, path, strlen(path));
	if (user)
		weft_headers_add(&h, "x-user", 6, user, strlen(user));
	weft_ip_parse(remote, &info.remote.ip);
	weft_struct_set_string(a, weft_info_meta(&info, "ns"), "k", "v");
	n = weft_ratelimits_count(l);
	d = weft_arena_alloc(a, (n + 1) * sizeof(*d));
	n = weft_ratelimits_run(l, 0, &in, d, n);
	out[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < d[i].n; k++)
			len += (size_t)snprintf(out + len, sizeof(out) - len, "%s%s=%s",
						k ? "," : "", d[i].v[k].key, d[i].v[k].value);
		len += (size_t)snprintf(out + len, sizeof(out) - len, ";");
	}
	return out;
}

static void kinds(void **state)
{
	assert_string_equal(
		run("{actions: [{source_cluster: {}}, {destination_cluster: {}}]}", "/", NULL),
		"source_cluster=me,destination_cluster=up;");
	assert_string_equal(run("{actions: [{remote_address: {}}]}", "/", NULL),
			    "remote_address=10.1.2.3;");
	assert_string_equal(
		run("{actions: [{masked_remote_address: {v4_prefix_mask_len: 16}}]}", "/", NULL),
		"masked_remote_address=10.1.0.0/16;");
	assert_string_equal(run("{actions: [{masked_remote_address: {}}]}", "/", NULL),
			    "masked_remote_address=10.1.2.3/32;");
	remote = "2001:db8:1:2::3";
	assert_string_equal(run("{actions: [{masked_remote_address: {v6_prefix_mask_len: 48, "
				"v4_prefix_mask_len: 8}}]}",
				"/", NULL),
			    "masked_remote_address=2001:db8:1::/48;");
	assert_string_equal(run("{actions: [{masked_remote_address: {}}]}", "/", NULL),
			    "masked_remote_address=2001:db8:1:2::3/128;");
	remote = "10.1.2.3";
	assert_string_equal(run("{actions: [{generic_key: {descriptor_value: g}}, {generic_key: "
				"{descriptor_value: h, descriptor_key: k}}]}",
				"/", NULL),
			    "generic_key=g,k=h;");
	assert_string_equal(run("{actions: [{metadata: {descriptor_key: m, metadata_key: {key: ns, "
				"path: [{key: k}]}}}]}",
				"/", NULL),
			    "m=v;");
	assert_string_equal(run("{actions: [{metadata: {descriptor_key: m, default_value: d, "
				"metadata_key: {key: other, path: [{key: k}]}}}]}",
				"/", NULL),
			    "m=d;");
}

static void absent(void **state)
{
	static const char one[] = "{actions: [{request_headers: {header_name: x-user, "
				  "descriptor_key: u}}, {generic_key: {descriptor_value: g}}]}";
	static const char skip[] =
		"{actions: [{request_headers: {header_name: x-user, descriptor_key: u, "
		"skip_if_absent: true}}, {generic_key: {descriptor_value: g}}]}";

	assert_string_equal(run(one, "/", "joe"), "u=joe,generic_key=g;");
	assert_string_equal(run(one, "/", NULL), "");
	assert_string_equal(run(skip, "/", NULL), "generic_key=g;");
	assert_string_equal(run("{actions: [{query_parameters: {query_parameter_name: q, "
				"descriptor_key: k}}]}",
				"/?a=1&q=a%20b", NULL),
			    "k=a b;");
	assert_string_equal(run("{actions: [{query_parameters: {query_parameter_name: q, "
				"descriptor_key: k}}]}",
				"/", NULL),
			    "");
	/* all that there is was left out */
	assert_string_equal(run("{actions: [{query_parameters: {query_parameter_name: q, "
				"descriptor_key: k, skip_if_absent: true}}]}",
				"/", NULL),
			    "");
}

static void matches(void **state)
{
	static const char hv[] = "{actions: [{header_value_match: {descriptor_value: v, "
				 "expect_match: %s, headers: [{name: x-user, string_match: {exact: "
				 "joe}}]}}]}";
	char yes[256], no[256];

	snprintf(yes, sizeof(yes), hv, "true");
	snprintf(no, sizeof(no), hv, "false");
	assert_string_equal(run(yes, "/", "joe"), "header_match=v;");
	assert_string_equal(run(yes, "/", "ann"), "");
	assert_string_equal(run(no, "/", "joe"), "");
	assert_string_equal(run(no, "/", "ann"), "header_match=v;");
	assert_string_equal(run("{actions: [{query_parameter_value_match: {descriptor_value: v, "
				"query_parameters: [{name: a, present_match: true}]}}]}",
				"/?a", NULL),
			    "query_match=v;");
}

static void stages(void **state)
{
	assert_string_equal(run("{stage: 1, actions: [{generic_key: {descriptor_value: one}}]}, "
				"{actions: [{generic_key: {descriptor_value: nil}}]}",
				"/", NULL),
			    "generic_key=nil;");
}

static void hashes(void **state)
{
	const struct weft_ratelimit_entry x[] = {{"a", "b"}, {"c", "d"}},
					  y[] = {{"ab", ""}, {"c", "d"}},
					  z[] = {{"c", "d"}, {"a", "b"}};

	assert_true(weft_ratelimit_hash(x, 2) != weft_ratelimit_hash(y, 2));
	assert_true(weft_ratelimit_hash(x, 2) != weft_ratelimit_hash(z, 2));
	assert_true(weft_ratelimit_hash(x, 2) != weft_ratelimit_hash(x, 1));
}

static void bad(void **state)
{
	assert_null(run("{actions: [{}]}", "/", NULL));
	assert_string_equal(errs.v[0].path, "rate_limits[0].actions[0]");
	assert_null(run("{actions: [{dynamic_metadata: {descriptor_key: a, metadata_key: {key: "
			"b}}}]}",
			"/", NULL));
}

static int setup(void **state)
{
	a = weft_arena_new(0);
	return 0;
}

static int teardown(void **state)
{
	weft_arena_free(a);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),  cmocka_unit_test(absent), cmocka_unit_test(matches),
		cmocka_unit_test(stages), cmocka_unit_test(hashes), cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
