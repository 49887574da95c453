/* Retry policies: words, defaults, limits, predicates, what is refused. */
#include "proxy/http/retry.h"
#include "xds/yaml.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;
static struct weft_errs errs;
static const struct weft_retry_policy *p;

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

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return ctx;
}

static int load(const char *yaml)
{
	struct weft_cfg c = {.arena = arena, .errs = &errs, .file = true};
	struct weft_path at = {NULL, "retry_policy", -1};
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;

	memset(&errs, 0, sizeof(errs));
	if (weft_yaml_decode(arena, "t", yaml, strlen(yaml), pick,
			     (void *)&envoy__config__route__v3__retry_policy__descriptor, &docs, &n,
			     &errs))
		return -EINVAL;
	return weft_retry_prepare(&c, &at, (const void *)docs[0].msg, &p);
}

static void words(void **state)
{
	const char *unknown = NULL;
	size_t n = 0;

#define BITS(s) weft_retry_on_parse(s, strlen(s), &unknown, &n)
	assert_int_equal(BITS("5xx"), WEFT_RETRY_5XX);
	assert_int_equal(BITS("gateway-error, reset"), WEFT_RETRY_GATEWAY_ERROR | WEFT_RETRY_RESET);
	assert_int_equal(BITS(" retriable-4xx ,,refused-stream"),
			 WEFT_RETRY_RETRIABLE_4XX | WEFT_RETRY_REFUSED_STREAM);
	assert_int_equal(BITS("connect-failure,envoy-ratelimited,retriable-status-codes,"
			      "retriable-headers,reset-before-request,http3-post-connect-failure"),
			 WEFT_RETRY_CONNECT_FAILURE | WEFT_RETRY_RATELIMITED |
				 WEFT_RETRY_STATUS_CODES | WEFT_RETRY_HEADERS |
				 WEFT_RETRY_RESET_BEFORE_REQUEST);
	assert_null(unknown);
	assert_int_equal(BITS("5xx,cancelled,nonsense"), WEFT_RETRY_5XX);
	assert_memory_equal(unknown, "cancelled", n);
	assert_int_equal(weft_retry_grpc_on_parse("cancelled,unavailable,5xx", 25),
			 WEFT_RETRY_GRPC_CANCELLED | WEFT_RETRY_GRPC_UNAVAILABLE);
	assert_int_equal(weft_retry_grpc_on_parse("", 0), 0);
}

static void defaults(void **state)
{
	assert_int_equal(load("retry_on: '5xx,deadline-exceeded'"), 0);
	assert_int_equal(p->on, WEFT_RETRY_5XX | WEFT_RETRY_GRPC_DEADLINE);
	assert_int_equal(p->retries, 1);
	assert_int_equal(p->base_ms, 25);
	assert_int_equal(p->max_ms, 250);
	assert_int_equal(p->host_attempts, 1);
	assert_int_equal(p->per_try_ms, 0);
	assert_int_equal(load("{num_retries: 0, retry_back_off: {base_interval: 0.1s}}"), 0);
	assert_int_equal(p->retries, 0);
	assert_int_equal(p->max_ms, 1000); /* ten times base */
	assert_int_equal(load("{rate_limited_retry_back_off: {reset_headers: [{name: Retry-After, "
			      "format: SECONDS}, {name: x, format: UNIX_TIMESTAMP}]}}"),
			 0);
	assert_int_equal(p->n_resets, 2);
	assert_string_equal(p->resets[0].name, "retry-after");
	assert_true(p->resets[1].unix_time);
	assert_int_equal(p->resets_max_ms, 300000);
}

#define EXT "typed_config: {'@type': type.googleapis.com/envoy.extensions.retry."

static void predicates(void **state)
{
	assert_int_equal(load("{retry_host_predicate: [{name: a, " EXT
			      "host.previous_hosts.v3.PreviousHostsPredicate}}, {name: b, " EXT
			      "host.omit_canary_hosts.v3.OmitCanaryHostsPredicate}}], "
			      "retry_priority: {name: c, " EXT
			      "priority.previous_priorities.v3.PreviousPrioritiesConfig, "
			      "update_frequency: 2}}, host_selection_retry_max_attempts: 5}"),
			 0);
	assert_true(p->not_previous_hosts && p->not_canary && p->previous_priorities);
	assert_int_equal(p->priority_every, 2);
	assert_int_equal(p->host_attempts, 5);
}

static void refused(void **state)
{
	static const struct {
		const char *y, *path, *why;
	} v[] = {
		{"retry_on: 5xxx", "retry_policy.retry_on", "\"5xxx\""},
		{"retry_back_off: {base_interval: 2s, max_interval: 1s}",
		 "retry_policy.retry_back_off.max_interval", "at least base_interval"},
		{"host_selection_retry_max_attempts: -1",
		 "retry_policy.host_selection_retry_max_attempts", "0..1000"},
		{"retry_host_predicate: [{name: x}]", "retry_policy.retry_host_predicate[0]",
		 "must be set"},
		{"retriable_headers: [{name: a, range_match: {start: 2, end: 1}}]",
		 "retry_policy.retriable_headers[0].range_match", "end beyond start"},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		assert_int_not_equal(load(v[i].y), 0);
		assert_string_equal(errs.v[0].path, v[i].path);
		if (!strstr(errs.v[0].msg, v[i].why))
			fail_msg("%s: %s", v[i].y, errs.v[0].msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(words, fresh, gone),
		cmocka_unit_test_setup_teardown(defaults, fresh, gone),
		cmocka_unit_test_setup_teardown(predicates, fresh, gone),
		cmocka_unit_test_setup_teardown(refused, fresh, gone),
	};

	return cmocka_run_group_tests_name("retry", tests, NULL, NULL);
}
