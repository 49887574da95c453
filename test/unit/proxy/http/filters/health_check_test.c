/* health_check: answers here, answers remembered, and what makes them fail. */
#include "proxy/l4/local_health.h"
#include "test/unit/proxy/http/filters/filter_fix.h"

#define HC(body)                                                                                   \
	"{name: h, typed_config: {" TYPE "health_check.v3.HealthCheck, headers: [{name: ':path', " \
	"string_match: {exact: /hc}}], " body "}}"

static void answers_here(void **state)
{
	struct env *e = filter_open(HC("pass_through_mode: false"), NULL);

	say(e, GET("/hc"));
	assert_true(has(e, "200 OK"));
	assert_true(has(e, "x-envoy-upstream-healthchecked-cluster"));
	assert_null(strstr(events, "HT"));
	e->n = 0;
	say(e, "POST /hc HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab");
	assert_int_equal(e->n, 0);
	say(e, "cde");
	assert_true(has(e, "200 OK"));
	assert_null(strstr(events, "HT"));
	e->n = 0;
	say(e, GET("/other"));
	assert_true(has(e, "ok"));
	assert_int_equal(named("http", "t", "health_check.request_total"), 2);
	assert_int_equal(named("http", "t", "health_check.ok"), 2);
	env_free(e);
}

static void told_to_fail(void **state)
{
	struct env *e = filter_open(HC("pass_through_mode: true"), NULL);

	weft_local_health_fail(true);
	say(e, GET("/hc"));
	assert_true(has(e, "503 Service Unavailable"));
	assert_true(has(e, "connection: close"));
	env_connect(e);
	say(e, GET("/other"));
	assert_true(has(e, "x-envoy-immediate-health-check-fail: true\r\n"));
	weft_local_health_fail(false);
	env_connect(e);
	say(e, GET("/hc"));
	assert_true(has(e, "ok"));
	env_free(e);
}

static void remembers(void **state)
{
	struct env *e = filter_open(HC("pass_through_mode: true, cache_time: 0.1s"), NULL);

	term.status = 404;
	term.body = NULL;
	say(e, GET("/hc"));
	term.status = 200;
	e->n = 0;
	say(e, GET("/hc"));
	assert_true(has(e, "404 Not Found"));
	assert_int_equal(named("http", "t", "health_check.cached_response"), 1);
	turn(e, 120);
	e->n = 0;
	say(e, GET("/hc"));
	assert_true(has(e, "200 OK"));
	env_free(e);
}

static void clusters(void **state)
{
	struct env *e = filter_open(
		HC("pass_through_mode: false, cluster_min_healthy_percentages: {none: {value: 1}}"),
		NULL);

	say(e, GET("/hc"));
	assert_true(has(e, "503 "));
	assert_int_equal(named("http", "t", "health_check.failed_cluster_not_found"), 1);
	env_free(e);
}

static void bad(void **state)
{
	refused(HC("pass_through_mode: false, cache_time: 1s"), NULL,
		"cache_time: must not be set without pass_through_mode");
	refused(HC("pass_through_mode: true, cluster_min_healthy_percentages: {a: {value: 1}}"),
		NULL, "must not be set with pass_through_mode");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_here), cmocka_unit_test(told_to_fail),
		cmocka_unit_test(remembers),	cmocka_unit_test(clusters),
		cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
