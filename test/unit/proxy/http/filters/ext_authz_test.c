/* The ext_authz filter without its service: failure modes, bodies, routes, and what is refused.
 * What services say is in the scenario, with real ones. */
#include "test/unit/proxy/http/hcm_fix.h"

#define FILTER                                                                                     \
	"  http_filters:\n"                                                                        \
	"  - name: authz\n"                                                                        \
	"    typed_config:\n"                                                                      \
	"      \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3."         \
	"ExtAuthz\n"
#define HTTP "      http_service: {server_uri: {uri: 'http://a/', cluster: none, timeout: 1s}}\n"
#define PER_ROUTE                                                                                  \
	"\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3."               \
	"ExtAuthzPerRoute"
#define GET(path) "GET " path " HTTP/1.1\r\nhost: a\r\n\r\n"

static struct env *open_with(const char *more, bool routes)
{
	struct env *e;

	fix_own_filters = true;
	e = env_new(more, 0, routes);
	env_connect(e);
	term.status = 200;
	term.at_end = true;
	return e;
}

static int64_t counter(const char *name)
{
	struct weft_scope *s = weft_scope_get(&weft_http_scope_class, "t");
	int64_t v = weft_scope_value_named(s, name);

	weft_scope_unref(s);
	return v;
}

static void no_service(void **state)
{
	int64_t was = counter("ext_authz.error");
	struct env *e = open_with(FILTER HTTP, true);

	say(e, GET("/"));
	assert_true(has(e, "HTTP/1.1 403 Forbidden\r\n"));
	assert_int_equal(counter("ext_authz.error"), was + 1);
	env_free(e);
	e = open_with(FILTER HTTP "      status_on_error: {code: ServiceUnavailable}\n", true);
	say(e, GET("/"));
	assert_true(has(e, "HTTP/1.1 503"));
	env_free(e);
}

static void failure_is_allowed(void **state)
{
	int64_t was = counter("ext_authz.x.failure_mode_allowed");
	struct env *e = open_with(FILTER HTTP "      failure_mode_allow: true\n"
					      "      failure_mode_allow_header_add: true\n"
					      "      stat_prefix: x\n",
				  true);

	say(e, GET("/"));
	assert_true(has(e, "HTTP/1.1 200"));
	assert_non_null(strstr(term.last_headers, "x-envoy-auth-failure-mode-allowed=true\n"));
	assert_int_equal(counter("ext_authz.x.failure_mode_allowed"), was + 1);
	env_free(e);
}

/* The body is kept for the question, and goes on whole. */
static void bodies(void **state)
{
	struct env *e = open_with(FILTER HTTP "      failure_mode_allow: true\n"
					      "      with_request_body: {max_request_bytes: 8}\n",
				  true);

	term.echo = true;
	say(e, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345");
	assert_true(has(e, "HTTP/1.1 200"));
	assert_true(has(e, "12345"));
	e->n = 0;
	say(e, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n123456789");
	assert_true(has(e, "HTTP/1.1 413"));
	env_free(e);
	e = open_with(FILTER HTTP "      failure_mode_allow: true\n"
				  "      with_request_body: {max_request_bytes: 4, "
				  "allow_partial_message: true}\n",
		      true);
	term.echo = true;
	say(e, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
	       "6\r\n123456\r\n");
	say(e, "3\r\n789\r\n0\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 200"));
	assert_true(has(e, "123456"));
	assert_true(has(e, "789"));
	env_free(e);
}

static void switched_off(void **state)
{
	struct env *e = open_with(
		FILTER HTTP "      filter_enabled: {default_value: {numerator: 0}, runtime_key: "
			    "k}\n",
		true);

	say(e, GET("/"));
	assert_true(has(e, "HTTP/1.1 200"));
	env_free(e);
	e = open_with(FILTER HTTP "      filter_enabled: {default_value: {numerator: 0}, "
				  "runtime_key: k}\n"
				  "      deny_at_disable: {default_value: true, runtime_key: d}\n",
		      true);
	say(e, GET("/"));
	assert_true(has(e, "HTTP/1.1 403"));
	env_free(e);
	e = open_with("  route_config:\n"
		      "    virtual_hosts:\n"
		      "    - name: all\n"
		      "      domains: ['*']\n"
		      "      routes:\n"
		      "      - match: {prefix: /off}\n"
		      "        non_forwarding_action: {}\n"
		      "        typed_per_filter_config: {authz: {" PER_ROUTE ", disabled: true}}\n"
		      "      - match: {prefix: /on}\n"
		      "        non_forwarding_action: {}\n" FILTER HTTP,
		      false);
	say(e, GET("/off"));
	assert_true(has(e, "HTTP/1.1 200"));
	e->n = 0;
	say(e, GET("/on"));
	assert_true(has(e, "HTTP/1.1 403"));
	env_free(e);
}

static void refused(void **state)
{
	static const struct bad v[] = {
		{"      failure_mode_allow: true\n", "must have grpc_service or http_service"},
		{"      grpc_service: {envoy_grpc: {cluster_name: c}}\n",
		 "transport_api_version: must be V3"},
		{"      transport_api_version: V3\n"
		 "      grpc_service: {google_grpc: {target_uri: a, stat_prefix: b}}\n",
		 "grpc_service.google_grpc: is not supported"},
		{"      http_service: {server_uri: {uri: 'ftp://a', cluster: c, timeout: 1s}}\n",
		 "http_service.server_uri.uri: must begin with http:// or https://"},
		{"      http_service: {path_prefix: check, server_uri: {uri: 'http://a', cluster: "
		 "c, "
		 "timeout: 1s}}\n",
		 "http_service.path_prefix: must begin with '/'"},
		{HTTP "      with_request_body: {max_request_bytes: 100000000}\n",
		 "with_request_body.max_request_bytes: must be 1..67108864, is 100000000"},
		{HTTP
		 "      allowed_headers: {patterns: [{exact: a}, {safe_regex: {regex: '('}}]}\n",
		 "allowed_headers.patterns[1].safe_regex.regex: "},
	};

	refuse_each(FILTER, v, sizeof(v) / sizeof(*v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_service), cmocka_unit_test(failure_is_allowed),
		cmocka_unit_test(bodies),     cmocka_unit_test(switched_off),
		cmocka_unit_test(refused),
	};
	return cmocka_run_group_tests_name("ext_authz", tests, NULL, NULL);
}
