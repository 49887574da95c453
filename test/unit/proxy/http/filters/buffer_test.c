/* buffer: a request is held until all of it is there. */
#include "test/unit/proxy/http/filters/filter_fix.h"

#define BUFFER "{name: b, typed_config: {" TYPE "buffer.v3.Buffer, max_request_bytes: 10}}"
#define ROUTE(body)                                                                                \
	"{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: up}, "         \
	"typed_per_filter_config: {b: {" TYPE "buffer.v3.BufferPerRoute, " body "}}}]}"
#define CHUNKED "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"

static void holds(void **state)
{
	struct env *e = filter_open(BUFFER, NULL);

	say(e, CHUNKED "3\r\nabc\r\n");
	assert_null(strstr(events, "HT"));
	say(e, "2\r\nde\r\n0\r\n\r\n");
	assert_string_equal(events, "HT DT:5. CT ");
	assert_non_null(strstr(term.last_headers, "content-length=5\n"));
	assert_null(strstr(term.last_headers, "transfer-encoding"));
	assert_true(has(e, "200 OK"));
	e->n = 0;
	say(e, GET("/"));
	assert_true(has(e, "200 OK"));
	assert_null(strstr(term.last_headers, "content-length"));
	env_free(e);
}

static void too_large(void **state)
{
	struct env *e = filter_open(BUFFER, NULL);

	say(e, CHUNKED "b\r\n0123456789a\r\n0\r\n\r\n");
	assert_true(has(e, "413 Payload Too Large"));
	assert_null(strstr(events, "HT"));
	env_free(e);
}

static void of_a_route(void **state)
{
	struct env *e = filter_open(BUFFER, ROUTE("buffer: {max_request_bytes: 20}"));

	say(e, CHUNKED "b\r\n0123456789a\r\n0\r\n\r\n");
	assert_true(has(e, "200 OK"));
	env_free(e);
	e = filter_open(BUFFER, ROUTE("disabled: true"));
	say(e, CHUNKED "3\r\nabc\r\n");
	assert_non_null(strstr(events, "HT DT:3 "));
	say(e, "0\r\n\r\n");
	assert_true(has(e, "200 OK"));
	env_free(e);
}

static void bad(void **state)
{
	refused(BUFFER, ROUTE("disabled: false"), "disabled: must be true, is false");
	refused("{name: b, typed_config: {" TYPE "buffer.v3.Buffer}}", NULL,
		"max_request_bytes: must be greater than 0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holds),
		cmocka_unit_test(too_large),
		cmocka_unit_test(of_a_route),
		cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
