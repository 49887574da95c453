/* local_ratelimit: buckets of the process and of a connection, descriptors, and what is refused. */
#include "test/unit/proxy/http/filters/filter_fix.h"

#define RL(body) "{name: rl, typed_config: {" TYPE "local_ratelimit.v3.LocalRateLimit, " body "}}"
#define ON                                                                                         \
	"filter_enabled: {default_value: {numerator: 100}}, "                                      \
	"filter_enforced: {default_value: {numerator: 100}}, "
#define BUCKET(n) "token_bucket: {max_tokens: " #n ", fill_interval: 1000s}"

static int64_t limits(const char *prefix, const char *item)
{
	char name[64];

	snprintf(name, sizeof(name), "http_local_rate_limit.%s", item);
	return named("", prefix, name);
}

static void again(struct env *e, const char *want)
{
	e->n = 0;
	say(e, GET("/"));
	assert_true(has(e, want));
}

static void bucket(void **state)
{
	struct env *e = filter_open(RL("stat_prefix: b, " ON BUCKET(
					    2) ", enable_x_ratelimit_headers: DRAFT_VERSION_03, "
					       "response_headers_to_add: [{header: {key: "
					       "x-lim, value: '1'}}]"),
				    NULL);

	again(e, "200 OK");
	assert_true(has(e, "x-ratelimit-limit: 2\r\n"));
	assert_true(has(e, "x-ratelimit-remaining: 1\r\n"));
	assert_true(has(e, "x-ratelimit-reset: 0\r\n"));
	again(e, "200 OK");
	again(e, "429 Too Many Requests");
	assert_true(has(e, "local_rate_limited"));
	assert_true(has(e, "x-lim: 1\r\n"));
	env_connect(e); /* another connection takes from the same */
	again(e, "429 ");
	assert_int_equal(limits("b", "enabled"), 4);
	assert_int_equal(limits("b", "ok"), 2);
	assert_int_equal(limits("b", "rate_limited"), 2);
	assert_int_equal(limits("b", "enforced"), 2);
	env_free(e);
}

static void fills(void **state)
{
	struct env *e = filter_open(RL("stat_prefix: f, " ON "token_bucket: {max_tokens: 1, "
				       "tokens_per_fill: 5, fill_interval: 0.1s}"),
				    NULL);

	again(e, "200 OK");
	again(e, "429 ");
	turn(e, 30);
	again(e, "200 OK");
	again(e, "429 ");
	env_free(e);
	/* centuries until it is full */
	e = filter_open(RL("stat_prefix: f, " ON "token_bucket: {max_tokens: 4000000000, "
			   "fill_interval: 864000s}"),
			NULL);
	again(e, "200 OK");
	again(e, "200 OK");
	env_free(e);
}

static void of_a_connection(void **state)
{
	struct env *e = filter_open(
		RL("stat_prefix: c, " ON BUCKET(1) ", local_rate_limit_per_downstream_connection: "
						   "true"),
		NULL);

	for (int i = 0; i < 3; i++) {
		again(e, "200 OK");
		again(e, "429 ");
		close(e->fd);
		e->fd = 0;
		turn(e, 2);
		env_connect(e);
	}
	env_free(e);
}

static void off_and_not_enforced(void **state)
{
	struct env *e = filter_open(RL("stat_prefix: o, " BUCKET(1)), NULL);

	again(e, "200 OK");
	again(e, "200 OK");
	assert_int_equal(limits("o", "enabled"), 0);
	env_free(e);
	e = filter_open(
		RL("stat_prefix: n, filter_enabled: {default_value: {numerator: 100}}, " BUCKET(
			1) ", request_headers_to_add_when_not_enforced: [{header: {key: "
			   "x-over, value: y}}]"),
		NULL);
	again(e, "200 OK");
	assert_null(strstr(term.last_headers, "x-over"));
	again(e, "200 OK");
	assert_non_null(strstr(term.last_headers, "x-over=y\n"));
	env_free(e);
}

static void descriptors(void **state)
{
	struct env *e = filter_open(
		RL("stat_prefix: d, " ON BUCKET(100) ", descriptors: [{entries: [{key: u, value: "
						     "joe}], " BUCKET(1) "}]"),
		"{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: up, "
		"rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: "
		"u}}]}]}}]}");

	again(e, "200 OK");
	again(e, "200 OK");
	for (int i = 0; i < 2; i++) {
		e->n = 0;
		say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-user: joe\r\n\r\n");
		assert_true(has(e, i ? "429 " : "200 OK"));
	}
	e->n = 0;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-user: ann\r\n\r\n");
	assert_true(has(e, "200 OK"));
	env_free(e);
}

static void user(struct env *e, const char *name, const char *want)
{
	char text[256];

	e->n = 0;
	snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nhost: a\r\nx-user: %s\r\n\r\n", name);
	say(e, text);
	assert_true(has(e, want));
}

#define BY_USER                                                                                    \
	"{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: up, "          \
	"rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: "        \
	"u}}]}]}}]}"
/* Every user has a bucket, one by name a larger one; the one not seen longest makes room. */
static void any_value(void **state)
{
	static const char *const conf[] = {
		RL("stat_prefix: w, " ON BUCKET(
			100) ", max_dynamic_descriptors: 2, enable_x_ratelimit_headers: "
			     "DRAFT_VERSION_03, descriptors: [{entries: [{key: u}], " BUCKET(
				     1) "}, {entries: [{key: u, value: joe}], " BUCKET(2) "}]"),
		RL("stat_prefix: w, " ON BUCKET(
			100) ", max_dynamic_descriptors: 2, enable_x_ratelimit_headers: "
			     "DRAFT_VERSION_03, local_rate_limit_per_downstream_connection: true, "
			     "descriptors: [{entries: [{key: u}], " BUCKET(
				     1) "}, {entries: [{key: u, value: joe}], " BUCKET(2) "}]")};

	for (int i = 0; i < 2; i++) {
		struct env *e = filter_open(conf[i], BY_USER);

		user(e, "ann", "200 OK");
		assert_true(has(e, "x-ratelimit-limit: 1\r\nx-ratelimit-remaining: 0\r\n"));
		user(e, "bob", "200 OK");
		user(e, "ann", "429 ");
		user(e, "bob", "429 ");
		user(e, "joe", "200 OK");
		user(e, "joe", "200 OK");
		user(e, "joe", "429 ");
		user(e, "cat", "200 OK"); /* ann was seen before bob */
		user(e, "bob", "429 ");
		user(e, "ann", "200 OK");
		again(e, "200 OK");
		env_free(e);
	}
}

static void grpc(void **state)
{
	struct env *e = filter_open(
		RL("stat_prefix: g, " ON BUCKET(1) ", rate_limited_as_resource_exhausted: true"),
		NULL);

	again(e, "200 OK");
	e->n = 0;
	say(e, "POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\n"
	       "content-length: 0\r\n\r\n");
	assert_true(has(e, "grpc-status: 8\r\n"));
	env_free(e);
}

static void bad(void **state)
{
	refused(RL("stat_prefix: x, token_bucket: {max_tokens: 1, fill_interval: 0.01s}"), NULL,
		"must be at least 50 ms, is 10 ms");
	refused(RL("stat_prefix: x, max_dynamic_descriptors: 1001, descriptors: [{entries: [{key: "
		   "a}], " BUCKET(1) "}]"),
		NULL, "max_dynamic_descriptors: must be 1..1000");
	refused(RL("stat_prefix: x, descriptors: [{entries: [{key: a, value: b}], " BUCKET(
			1) "}, {entries: [{key: a, value: b}], " BUCKET(1) "}]"),
		NULL, "must not name a descriptor twice");
	refused(RL("stat_prefix: x, rate_limits: [{stage: 1, actions: [{generic_key: "
		   "{descriptor_value: a}}]}]"),
		NULL, "must not have stage or disable_key here");
	refused(RL("stat_prefix: x"),
		"{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: up}, "
		"typed_per_filter_config: {rl: {" TYPE
		"local_ratelimit.v3.LocalRateLimit, stat_prefix: y}}}]}",
		"token_bucket: must be set");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bucket),
		cmocka_unit_test(fills),
		cmocka_unit_test(any_value),
		cmocka_unit_test(descriptors),
		cmocka_unit_test(of_a_connection),
		cmocka_unit_test(grpc),
		cmocka_unit_test(off_and_not_enforced),
		cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
