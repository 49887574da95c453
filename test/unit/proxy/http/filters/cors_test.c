/* cors: preflights, answers, levels of routes. */
#include "test/unit/proxy/http/filters/filter_fix.h"

#define CORS "{name: c, typed_config: {" TYPE "cors.v3.Cors}}"
#define POLICY(vhost, route)                                                                       \
	"{name: all, domains: ['*'], typed_per_filter_config: {c: {" TYPE                          \
	"cors.v3.CorsPolicy, " vhost                                                               \
	"}}, routes: [{match: {prefix: /}, route: {cluster: up}, typed_per_filter_config: "        \
	"{c: {" TYPE "cors.v3.CorsPolicy, " route "}}}]}"
#define ORIGIN(o) "origin: " o "\r\n"
#define ASK	  "access-control-request-method: PUT\r\n"

static void request(struct env *e, const char *method, const char *fields)
{
	char text[512];

	e->n = 0;
	snprintf(text, sizeof(text), "%s / HTTP/1.1\r\nhost: a\r\n%s\r\n", method, fields);
	say(e, text);
}

static void preflight(void **state)
{
	struct env *e = filter_open(
		CORS, POLICY("max_age: '7', expose_headers: x-e",
			     "allow_origin_string_match: [{suffix: .a}], allow_methods: 'GET,PUT', "
			     "allow_headers: x-h, allow_credentials: true"));

	request(e, "OPTIONS", ORIGIN("http://x.a") ASK);
	assert_true(has(e, "200 OK"));
	assert_true(has(e, "access-control-allow-origin: http://x.a\r\n"));
	assert_true(has(e, "access-control-allow-methods: GET,PUT\r\n"));
	assert_true(has(e, "access-control-allow-headers: x-h\r\n"));
	assert_true(has(e, "access-control-allow-credentials: true\r\n"));
	assert_true(has(e, "access-control-max-age: 7\r\n"));
	assert_null(strstr(events, "HT"));
	assert_int_equal(named("http", "t", "cors.origin_valid"), 1);
	/* one that is not allowed goes on */
	request(e, "OPTIONS", ORIGIN("http://x.b") ASK);
	assert_non_null(strstr(events, "HT"));
	assert_null(strstr(e->got, "access-control-allow-origin"));
	assert_int_equal(named("http", "t", "cors.origin_invalid"), 1);
	env_free(e);
}

static void answers(void **state)
{
	struct env *e =
		filter_open(CORS, POLICY("expose_headers: x-e",
					 "allow_origin_string_match: [{exact: 'http://a'}]"));

	request(e, "GET", ORIGIN("http://a"));
	assert_true(has(e, "access-control-allow-origin: http://a\r\n"));
	assert_true(has(e, "access-control-expose-headers: x-e\r\n"));
	assert_non_null(strstr(events, "HT"));
	request(e, "OPTIONS", ORIGIN("http://a")); /* not a preflight */
	assert_true(has(e, "ok"));
	request(e, "GET", ORIGIN("http://b"));
	assert_null(strstr(e->got, "access-control"));
	request(e, "GET", "");
	assert_null(strstr(e->got, "access-control"));
	env_free(e);
}

static void off(void **state)
{
	struct env *e = filter_open(
		CORS, POLICY("max_age: '1'", "allow_origin_string_match: [{exact: '*'}], "
					     "filter_enabled: {default_value: {numerator: 0}}, "
					     "shadow_enabled: {default_value: {numerator: 100}}"));
	int64_t was = named("http", "t", "cors.origin_valid");

	request(e, "OPTIONS", ORIGIN("http://a") ASK);
	assert_null(strstr(e->got, "access-control"));
	assert_non_null(strstr(events, "HT"));
	assert_true(was < 1);
	assert_int_equal(named("http", "t", "cors.origin_valid"), 1);
	env_free(e);
}

static void not_forwarded(void **state)
{
	struct env *e = filter_open(
		CORS, POLICY("max_age: '1'", "allow_origin_string_match: [{exact: 'http://a'}], "
					     "forward_not_matching_preflights: false"));

	request(e, "OPTIONS", ORIGIN("http://b") ASK);
	assert_true(has(e, "200 OK"));
	assert_null(strstr(e->got, "access-control-allow-origin"));
	assert_null(strstr(events, "HT"));
	env_free(e);
}

static void bad(void **state)
{
	refused(CORS,
		POLICY("max_age: '1'", "allow_origin_string_match: [{safe_regex: {regex: '('}}]"),
		"allow_origin_string_match[0]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(preflight),	 cmocka_unit_test(answers), cmocka_unit_test(off),
		cmocka_unit_test(not_forwarded), cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
