/* Fields of filters that meet routes: rate limits of virtual hosts, default buckets, CORS of
 * private networks, RBAC by matchers and under a name of its own. */
#include "test/unit/proxy/http/filters/filter_fix.h"

#define RL(body) "{name: rl, typed_config: {" TYPE "local_ratelimit.v3.LocalRateLimit, " body "}}"
#define ON                                                                                         \
	"filter_enabled: {default_value: {numerator: 100}}, "                                      \
	"filter_enforced: {default_value: {numerator: 100}}, "
#define BUCKET(n) "token_bucket: {max_tokens: " #n ", fill_interval: 1000s}"

static void ask(struct env *e, const char *path, const char *fields, const char *want)
{
	char text[512];

	e->n = 0;
	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nhost: a\r\n%s\r\n", path, fields);
	say(e, text);
	assert_true(has(e, want));
}

static void limits_of_the_host(void **state)
{
	static const char vhost[] =
		"{name: all, domains: ['*'], rate_limits: [{actions: [{generic_key: "
		"{descriptor_value: host}}]}], routes: [{match: {prefix: /own}, route: {cluster: "
		"up, "
		"rate_limits: [{actions: [{generic_key: {descriptor_value: own}}]}]}}, {match: "
		"{prefix: /}, route: {cluster: up}}]}";
	static const struct {
		const char *how;
		bool own, none; /* the host's limit holds for routes with and without their own */
	} v[] = {{"", false, true},
		 {"vh_rate_limits: OVERRIDE, ", false, true},
		 {"vh_rate_limits: INCLUDE, ", true, true},
		 {"vh_rate_limits: IGNORE, ", false, false}};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++)
		for (int own = 0; own < 2; own++) {
			char conf[600];
			struct env *e;

			snprintf(conf, sizeof(conf), "%s%s%s",
				 "{name: rl, typed_config: {" TYPE
				 "local_ratelimit.v3.LocalRateLimit, stat_prefix: h, ",
				 v[i].how,
				 ON BUCKET(100) ", descriptors: [{entries: [{key: generic_key, "
						"value: host}], " BUCKET(1) "}]}}");
			e = filter_open(conf, vhost);
			ask(e, own ? "/own" : "/", "", "200 OK");
			ask(e, own ? "/own" : "/", "",
			    (own ? v[i].own : v[i].none) ? "429 " : "200 OK");
			env_free(e);
		}
}

static void default_bucket(void **state)
{
#define BOTH(more)                                                                                 \
	RL("stat_prefix: a, " ON BUCKET(                                                           \
		2) ", " more "rate_limits: [{actions: [{request_headers: "                         \
		   "{header_name: who, descriptor_key: who}}]}], "                                 \
		   "descriptors: [{entries: [{key: who, value: me}], " BUCKET(3) "}]")
	struct env *e = filter_open(BOTH(""), NULL);

	ask(e, "/", "who: me\r\n", "200 OK");
	ask(e, "/", "who: me\r\n", "200 OK");
	ask(e, "/", "who: me\r\n", "429 "); /* the default's two are used up */
	env_free(e);
	e = filter_open(BOTH("always_consume_default_token_bucket: false, "), NULL);
	ask(e, "/", "who: me\r\n", "200 OK");
	ask(e, "/", "who: me\r\n", "200 OK");
	ask(e, "/", "who: me\r\n", "200 OK");
	ask(e, "/", "who: me\r\n", "429 ");
	ask(e, "/", "who: you\r\n", "200 OK"); /* and the default's are there */
	ask(e, "/", "who: you\r\n", "200 OK");
	ask(e, "/", "who: you\r\n", "429 ");
	env_free(e);
}

static void private_networks(void **state)
{
	static const char preflight[] =
		"OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: "
		"http://o\r\naccess-control-request-method: "
		"GET\r\naccess-control-request-private-network: true\r\n\r\n";

	for (int on = 0; on < 2; on++) {
		struct env *e = filter_open(
			"{name: c, typed_config: {" TYPE "cors.v3.Cors}}",
			on ? "{name: all, domains: ['*'], typed_per_filter_config: {c: {" TYPE
			     "cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "
			     "'http://o'}], "
			     "allow_private_network_access: true}}, routes: [{match: {prefix: /}, "
			     "route: {cluster: up}}]}"
			   : "{name: all, domains: ['*'], typed_per_filter_config: {c: {" TYPE
			     "cors.v3.CorsPolicy, allow_origin_string_match: [{exact: "
			     "'http://o'}]}}, routes: [{match: {prefix: /}, route: {cluster: "
			     "up}}]}");

		say(e, preflight);
		assert_true(has(e, "access-control-allow-origin: http://o\r\n"));
		assert_true(!!strstr(e->got, "access-control-allow-private-network: true\r\n") ==
			    on);
		env_free(e);
	}
}

#define ACT(name, what)                                                                            \
	"{action: {name: a, typed_config: {\"@type\": type.googleapis.com/"                        \
	"envoy.config.rbac.v3.Action, name: " name ", action: " what "}}}"
#define HEADER(name)                                                                               \
	"{single_predicate: {input: {name: i, typed_config: {\"@type\": type.googleapis.com/"      \
	"envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: " name                    \
	"}}, value_match: "                                                                        \
	"{exact: '1'}}}"
#define EITHER                                                                                     \
	"{matcher_list: {matchers: [{predicate: {or_matcher: {predicate: [" HEADER(                \
		"x") ", " HEADER("y") "]}}, on_match: " ACT("either",                              \
							    "DENY") "}]}, on_no_match: " ACT("res" \
											     "t",  \
											     "ALL" \
											     "OW") "}"

static void shadow_by_matchers(void **state)
{
	struct env *e = filter_open(
		"{name: r, typed_config: {" TYPE
		"rbac.v3.RBAC, shadow_rules_stat_prefix: sm, shadow_matcher: " EITHER "}}",
		NULL);

	ask(e, "/", "x: 1\r\n", "200 OK"); /* it only counts */
	ask(e, "/", "y: 1\r\n", "200 OK");
	ask(e, "/", "", "200 OK");
	assert_int_equal(named("http", "t", "rbac.sm.shadow_denied"), 2);
	assert_int_equal(named("http", "t", "rbac.sm.shadow_allowed"), 1);
	env_free(e);
	e = filter_open("{name: r, typed_config: {" TYPE "rbac.v3.RBAC, matcher: " EITHER "}}",
			NULL);
	ask(e, "/", "x: 1\r\n", "403 Forbidden");
	ask(e, "/", "y: 1\r\n", "403 Forbidden");
	ask(e, "/", "z: 1\r\n", "200 OK");
	env_free(e);
}

static void a_name_of_its_own(void **state)
{
	struct env *e =
		filter_open("{name: r, typed_config: {" TYPE
			    "rbac.v3.RBAC, rules_stat_prefix: mine, rules: {action: DENY, "
			    "policies: {p: {permissions: [{url_path: {path: {prefix: /no}}}], "
			    "principals: [{any: true}]}}}}}",
			    NULL);

	ask(e, "/no", "", "403 Forbidden");
	ask(e, "/yes", "", "200 OK");
	assert_int_equal(named("http", "t", "rbac.mine.denied"), 1);
	assert_int_equal(named("http", "t", "rbac.mine.allowed"), 1);
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_of_the_host), cmocka_unit_test(default_bucket),
		cmocka_unit_test(private_networks),   cmocka_unit_test(shadow_by_matchers),
		cmocka_unit_test(a_name_of_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
