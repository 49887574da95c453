/* The RBAC filter in a connection manager: answers, counters, shadow rules, routes' own rules, and
 * what is refused. */
#include "test/unit/proxy/http/hcm_fix.h"

#define FILTER                                                                                     \
	"  http_filters:\n"                                                                        \
	"  - name: rbac\n"                                                                         \
	"    typed_config:\n"                                                                      \
	"      \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n"
#define ANY_WHO "principals: [{any: true}]"
#define PER_ROUTE                                                                                  \
	"\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"

static int64_t counter(const char *name)
{
	struct weft_scope *s = weft_scope_get(&weft_http_scope_class, "t");
	int64_t v = weft_scope_value_named(s, name);

	weft_scope_unref(s);
	return v;
}

static struct env *open_with(const char *more, bool routes)
{
	struct env *e;

	fix_own_filters = true;
	e = env_new(more, 0, routes);
	env_connect(e);
	term.status = 200;
	return e;
}

static void denies(void **state)
{
	int64_t denied = counter("rbac.denied"), allowed = counter("rbac.allowed");
	struct env *e =
		open_with(FILTER "      rules:\n"
				 "        action: DENY\n"
				 "        policies:\n"
				 "          no way: {permissions: [{url_path: {path: {prefix: "
				 "/no}}}], " ANY_WHO "}\n",
			  true);

	say(e, "GET /no HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 403 Forbidden\r\n"));
	assert_true(has(e, "RBAC: access denied"));
	say(e, "GET /yes HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 200 OK\r\n"));
	assert_int_equal(counter("rbac.denied"), denied + 1);
	assert_int_equal(counter("rbac.allowed"), allowed + 1);
	env_free(e);
}

static void shadow_only_counts(void **state)
{
	int64_t was = counter("rbac.sh.shadow_denied"),
		one = counter("rbac.sh.policy.p.shadow_allowed");
	struct env *e =
		open_with(FILTER "      shadow_rules_stat_prefix: sh\n"
				 "      track_per_rule_stats: true\n"
				 "      shadow_rules: {policies: {p: {permissions: [{url_path: "
				 "{path: {exact: /p}}}], " ANY_WHO "}}}\n",
			  true);

	say(e, "GET /q HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 200 OK\r\n"));
	assert_int_equal(counter("rbac.sh.shadow_denied"), was + 1);
	say(e, "GET /p HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_int_equal(counter("rbac.sh.policy.p.shadow_allowed"), one + 1);
	env_free(e);
}

static void own_rules_of_routes(void **state)
{
	struct env *e = open_with(
		"  route_config:\n"
		"    virtual_hosts:\n"
		"    - name: all\n"
		"      domains: ['*']\n"
		"      routes:\n"
		"      - match: {prefix: /off}\n"
		"        non_forwarding_action: {}\n"
		"        typed_per_filter_config: {rbac: {" PER_ROUTE "}}\n"
		"      - match: {prefix: /own}\n"
		"        non_forwarding_action: {}\n"
		"        typed_per_filter_config: {rbac: {" PER_ROUTE ", rbac: {rules: {policies: "
		"{p: {permissions: [{header: {name: x-ok, present_match: true}}], " ANY_WHO
		"}}}}}}\n"
		"      - match: {prefix: /}\n"
		"        non_forwarding_action: {}\n" FILTER "      rules: {}\n",
		false);

	say(e, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 403"));
	e->n = 0;
	say(e, "GET /off HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 200"));
	e->n = 0;
	say(e, "GET /own HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 403"));
	e->n = 0;
	say(e, "GET /own HTTP/1.1\r\nhost: a\r\nx-ok: 1\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 200"));
	env_free(e);
}

static void refused(void **state)
{
	static const struct bad v[] = {
		{"      rules: {policies: {p: {permissions: [{destination_ip: {address_prefix: "
		 "nowhere}}], " ANY_WHO "}}}\n",
		 "rules.policies.p.permissions[0].destination_ip.address_prefix: must be an IP"},
		{"      shadow_rules: {policies: {p: {permissions: [{any: true}], principals: "
		 "[{filter_state: {key: a}}]}}}\n",
		 "shadow_rules.policies.p.principals[0].filter_state: is not supported"},
		{"      rules: {policies: {p: {permissions: [{uri_template: {name: t, "
		 "typed_config: "
		 "{\"@type\": type.googleapis.com/"
		 "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, "
		 "path_template: '/{'}}}], " ANY_WHO "}}}\n",
		 "uri_template.typed_config.path_template: "},
	};

	refuse_each(FILTER, v, sizeof(v) / sizeof(*v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(denies),
		cmocka_unit_test(shadow_only_counts),
		cmocka_unit_test(own_rules_of_routes),
		cmocka_unit_test(refused),
	};
	return cmocka_run_group_tests_name("http_rbac", tests, NULL, NULL);
}
