/* fault: aborts, delays, slow answers, and how many at a time. */
#include "test/unit/proxy/http/filters/filter_fix.h"

#define FAULT(body) "{name: f, typed_config: {" TYPE "fault.v3.HTTPFault, " body "}}"
#define ALL	    "percentage: {numerator: 100}"

static int64_t faults(const char *item)
{
	char name[64];

	snprintf(name, sizeof(name), "fault.%s", item);
	return named("http", "t", name);
}

static void aborts(void **state)
{
	struct env *e = filter_open(FAULT("abort: {http_status: 418, " ALL "}, headers: [{name: "
					  "x-go, present_match: true}]"),
				    NULL);

	say(e, GET("/"));
	assert_true(has(e, "200 OK"));
	e->n = 0;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-go: 1\r\nx-envoy-downstream-service-cluster: me\r\n"
	       "\r\n");
	assert_true(has(e, "HTTP/1.1 418 "));
	assert_true(has(e, "fault filter abort"));
	assert_int_equal(faults("aborts_injected"), 1);
	assert_int_equal(faults("me.aborts_injected"), 1);
	assert_int_equal(faults("active_faults"), 0);
	env_free(e);
}

static void by_header(void **state)
{
	struct env *e = filter_open(FAULT("abort: {header_abort: {}, " ALL "}"), NULL);

	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-fault-abort-request: 503\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 503 "));
	e->n = 0;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-fault-abort-request: 600\r\n\r\n");
	assert_true(has(e, "200 OK"));
	e->n = 0;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-fault-abort-request: 503\r\n"
	       "x-envoy-fault-abort-request-percentage: 0\r\n\r\n");
	assert_true(has(e, "200 OK"));
	e->n = 0;
	say(e, "POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\n"
	       "content-length: 0\r\nx-envoy-fault-abort-grpc-request: 9\r\n\r\n");
	assert_true(has(e, "grpc-status: 9\r\n"));
	env_free(e);
}

static void delays(void **state)
{
	struct env *e = filter_open(FAULT("delay: {fixed_delay: 0.03s, " ALL "}"), NULL);
	uint64_t t0 = weft_now_ns();

	say(e, GET("/"));
	assert_int_equal(e->n, 0);
	assert_int_equal(faults("active_faults"), 1);
	for (int i = 0; i < 100 && !e->n; i++)
		turn(e, 5);
	assert_true(weft_now_ns() - t0 >= 30000000);
	assert_true(has(e, "200 OK"));
	assert_int_equal(faults("delays_injected"), 1);
	assert_int_equal(faults("active_faults"), 0);
	/* the client goes away meanwhile */
	say(e, GET("/"));
	close(e->fd);
	e->fd = -1;
	turn(e, 10);
	assert_int_equal(faults("active_faults"), 0);
	env_free(e);
}

static void not_too_many(void **state)
{
	struct env *e = filter_open(
		FAULT("abort: {http_status: 503, " ALL "}, max_active_faults: 0"), NULL);

	say(e, GET("/"));
	assert_true(has(e, "200 OK"));
	assert_int_equal(faults("faults_overflow"), 1);
	env_free(e);
}

static char big[20001];

static void slows(void **state)
{
	struct env *e = filter_open(
		FAULT("response_rate_limit: {fixed_limit: {limit_kbps: 100}, " ALL "}"), NULL);
	uint64_t t0 = weft_now_ns();

	memset(big, 'x', sizeof(big) - 1);
	term.body = big;
	say(e, GET("/"));
	assert_true(e->n < 8000);
	for (int i = 0; i < 200 && e->n < 20000; i++)
		turn(e, 5);
	assert_true(e->n > 20000);
	assert_true(weft_now_ns() - t0 > 100000000);
	assert_int_equal(faults("response_rl_injected"), 1);
	/* trailers wait for the body */
	term.trailers = true;
	e->n = 0;
	say(e, GET("/"));
	assert_int_equal(faults("active_faults"), 1);
	for (int i = 0; i < 200 && faults("active_faults"); i++)
		turn(e, 5);
	assert_int_equal(faults("active_faults"), 0);
	/* one is cut in the middle */
	say(e, GET("/"));
	env_free(e);
	assert_true(faults("active_faults") <= 0);
}

static void not_this_one(void **state)
{
	struct env *e = filter_open(
		FAULT("abort: {http_status: 503, " ALL "}, upstream_cluster: other"), NULL);

	say(e, GET("/"));
	assert_true(has(e, "200 OK"));
	env_free(e);
	e = filter_open(FAULT("abort: {http_status: 503, " ALL "}, downstream_nodes: [n1]"), NULL);
	say(e, GET("/"));
	assert_true(has(e, "200 OK"));
	e->n = 0;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-downstream-service-node: n1\r\n\r\n");
	assert_true(has(e, "503 "));
	env_free(e);
	e = filter_open(FAULT("abort: {http_status: 503}"), NULL);
	say(e, GET("/"));
	assert_true(has(e, "200 OK"));
	env_free(e);
}

#define OF_ME(more)                                                                                \
	"GET / HTTP/1.1\r\nhost: a\r\nx-envoy-downstream-service-cluster: q\r\n" more "\r\n"
static void no_names_of_clients(void **state)
{
	struct env *e = filter_open(
		FAULT("abort: {http_status: 503, " ALL "}, disable_downstream_cluster_stats: true"),
		NULL);

	say(e, OF_ME(""));
	assert_true(has(e, "503 "));
	assert_int_equal(faults("q.aborts_injected"), -1);
	env_free(e);
	e = filter_open(FAULT("abort: {http_status: 503, " ALL "}"), NULL);
	say(e, OF_ME(""));
	assert_int_equal(faults("q.aborts_injected"), 1);
	env_free(e);
}

static void delays_by_header(void **state)
{
	struct env *e = filter_open(FAULT("delay: {header_delay: {}, " ALL "}"), NULL);
	uint64_t t0 = weft_now_ns();

	say(e, OF_ME("x-envoy-fault-delay-request: 30\r\n"));
	assert_int_equal(e->n, 0);
	for (int i = 0; i < 400 && !e->n; i++)
		turn(e, 5);
	assert_true(weft_now_ns() - t0 >= 30000000);
	assert_int_equal(faults("q.delays_injected"), 1);
	/* none asked for, not a number, the chance lowered to nothing */
	for (int i = 0; i < 3; i++) {
		e->n = 0;
		say(e, i == 0	? OF_ME("")
		       : i == 1 ? OF_ME("x-envoy-fault-delay-request: 30s\r\n")
				: OF_ME("x-envoy-fault-delay-request: 30\r\n"
					"x-envoy-fault-delay-request-percentage: 0\r\n"));
		assert_true(has(e, "200 OK"));
	}
	assert_int_equal(faults("q.delays_injected"), 1);
	env_free(e);
}

static void slows_by_header(void **state)
{
	struct env *e =
		filter_open(FAULT("response_rate_limit: {header_limit: {}, " ALL "}"), NULL);
	int64_t was = faults("response_rl_injected");

	memset(big, 'x', sizeof(big) - 1);
	term.body = big;
	say(e, OF_ME(""));
	assert_true(e->n > 20000);
	e->n = 0;
	say(e, OF_ME("x-envoy-fault-throughput-response: 100\r\n"));
	assert_true(e->n < 8000);
	assert_int_equal(faults("response_rl_injected"), (was > 0 ? was : 0) + 1);
	for (int i = 0; i < 400 && e->n < 20000; i++)
		turn(e, 5);
	assert_true(e->n > 20000);
	env_free(e);
}

static void bad(void **state)
{
	refused(FAULT("abort: {" ALL "}"), NULL, "must have one of http_status");
	refused(FAULT("delay: {" ALL "}"), NULL, "must have one of fixed_delay");
	refused(FAULT("response_rate_limit: {" ALL "}"), NULL, "must have one of fixed_limit");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(aborts),
		cmocka_unit_test(by_header),
		cmocka_unit_test(delays),
		cmocka_unit_test(not_too_many),
		cmocka_unit_test(slows),
		cmocka_unit_test(not_this_one),
		cmocka_unit_test(no_names_of_clients),
		cmocka_unit_test(delays_by_header),
		cmocka_unit_test(slows_by_header),
		cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
