/* The router's fields one by one, with real sessions over loopback: what differs with and without
 * each. */
#include "proxy/http/route_stats.h"
#include "test/unit/proxy/http/filters/router_fix.h"

#define INSIDE	    "x-forwarded-for: 10.0.0.1\r\n"
#define GRPC	    "content-type: application/grpc\r\n"
#define ASK(fields) say("GET / HTTP/1.1\r\nhost: h\r\n" fields "\r\n")

static bool asked(const char *text)
{
	return strstr(requests, text) != NULL;
}

static void forget(void)
{
	n_got = 0;
	got[0] = requests[0] = '\0';
	n_requests = 0;
}

/* A number of the process, as /stats tells it; 0: not there. */
static long long number(const char *name)
{
	struct evbuffer *out = evbuffer_new();
	struct weft_scope_query q = {0};
	char key[200], *text, *at;
	long long v;

	snprintf(key, sizeof(key), "\n%s: ", name);
	evbuffer_add(out, "\n", 1);
	weft_scope_text(out, &q);
	evbuffer_add(out, "", 1);
	text = (char *)evbuffer_pullup(out, -1);
	at = strstr(text, key);
	v = at ? atoll(at + strlen(key)) : 0;
	evbuffer_free(out);
	return v;
}

/* ---- headers */
static void headers_to_remove(void **state)
{
	static const char all[] = "HTTP/1.1 200 OK\r\nr: 1\r\nv: 1\r\nt: 1\r\nw: 1\r\nstays: 1\r\n"
				  "content-length: 2\r\n\r\nok";

	vhost_more = ", response_headers_to_remove: [v]";
	table_more = ", response_headers_to_remove: [t]";
	open_with("response_headers_to_remove: [r], route: {weighted_clusters: {clusters: [{name: "
		  "up, weight: 1, response_headers_to_remove: [w]}]}}",
		  "");
	answers[0] = all;
	get("/");
	assert_true(comes("stays: 1"));
	for (const char *const *n = (const char *[]){"\nr: ", "\nv: ", "\nt: ", "\nw: ", NULL}; *n;
	     n++)
		assert_null(strstr(got, *n));
	shut();
	open_with("route: {cluster: up}", "");
	answers[0] = all;
	get("/");
	assert_true(comes("\nw: 1") && comes("\nr: 1") && comes("\nv: 1") && comes("\nt: 1"));
	shut();
}

static void attempt_counts(void **state)
{
	vhost_more = ", include_request_attempt_count: true, include_attempt_count_in_response: "
		     "true, include_is_timeout_retry_header: true";
	open_with(RETRY("5xx", "per_try_timeout: 0.03s, num_retries: 2"), "");
	answers[0] = EMPTY;
	answers[1] = SILENT;
	get("/");
	assert_true(comes("x-envoy-attempt-count: 3"));
	assert_true(asked("x-envoy-attempt-count: 1") && asked("x-envoy-attempt-count: 2"));
	assert_true(asked("x-envoy-is-timeout-retry: false"));
	assert_true(asked("x-envoy-is-timeout-retry: true"));
	shut();
	open_with(RETRY("5xx", "num_retries: 1"), "");
	answers[0] = EMPTY;
	get("/");
	assert_true(comes("200 OK"));
	assert_false(asked("x-envoy-attempt-count") || asked("x-envoy-is-timeout-retry"));
	assert_null(strstr(got, "x-envoy-attempt-count"));
	shut();
}

static void suppressed(void **state)
{
	for (int on = 0; on < 2; on++) {
		router_more = on ? ", suppress_envoy_headers: true" : "";
		open_with("route: {cluster: up}", "");
		get("/");
		assert_true(comes("200 OK"));
		assert_true(!!strstr(got, "x-envoy-upstream-service-time") == !on);
		assert_true(asked("x-envoy-expected-rq-timeout-ms") == !on);
		shut();
	}
}

static void strict(void **state)
{
	router_more = ", strict_check_headers: [x-envoy-max-retries]";
	open_with("route: {cluster: up}", "");
	ASK(INSIDE "x-envoy-max-retries: many\r\n");
	assert_true(comes("400 Bad Request"));
	assert_true(comes("invalid header 'x-envoy-max-retries' with value 'many'"));
	assert_int_equal(n_requests, 0);
	leave();
	client();
	forget();
	ASK(INSIDE "x-envoy-max-retries: 2\r\nx-envoy-retry-on: nonsense\r\n"); /* not asked for */
	assert_true(comes("200 OK"));
	shut();
}

static void expected_timeout(void **state)
{
	router_more = ", respect_expected_rq_timeout: true";
	open_with("route: {cluster: up}", "");
	answers[0] = SILENT;
	ASK(INSIDE "x-envoy-expected-rq-timeout-ms: 30\r\n");
	assert_true(comes("504"));
	assert_true(asked("x-envoy-expected-rq-timeout-ms: 30\r\n"));
	shut();
	open_with("route: {cluster: up, timeout: 7s}", "");
	ASK(INSIDE "x-envoy-expected-rq-timeout-ms: 30\r\n");
	assert_true(comes("200 OK"));
	assert_true(asked("x-envoy-expected-rq-timeout-ms: 7000\r\n"));
	shut();
}

static void codes_of_grpc(void **state)
{
	long long all = number("cluster.up.upstream_rq_completed"), ok;

	for (int on = 0; on < 2; on++) {
		router_more = on ? ", suppress_grpc_request_failure_code_stats: true" : "";
		open_with("route: {cluster: up}", "");
		ok = number("cluster.up.upstream_rq_200");
		all = number("cluster.up.upstream_rq_completed");
		answers[0] = "HTTP/1.1 200 OK\r\ngrpc-status: 13\r\ncontent-length: 0\r\n\r\n";
		ASK(GRPC);
		assert_true(comes("grpc-status: 13"));
		assert_int_equal(number("cluster.up.upstream_rq_completed"), all + 1);
		assert_int_equal(number("cluster.up.upstream_rq_200"), ok + !on);
		shut();
	}
}

/* ---- timeouts of gRPC */
static void grpc_max(void **state)
{
	open_with("route: {cluster: up, timeout: 9s, max_grpc_timeout: 0.04s, grpc_timeout_offset: "
		  "0.01s}",
		  "");
	answers[0] = answers[1] = SILENT;
	ASK(GRPC "grpc-timeout: 30m\r\n");
	assert_true(comes("grpc-status: 14"));
	assert_true(asked("grpc-timeout: 20m\r\n"));
	leave();
	client();
	forget();
	ASK(GRPC);
	assert_true(comes("grpc-status: 14"));
	assert_true(asked("grpc-timeout: 40m\r\n"));
	forget();
	answers[0] = OK;
	ASK("grpc-timeout: 30m\r\n"); /* not of gRPC */
	assert_true(comes("200 OK"));
	assert_true(asked("x-envoy-expected-rq-timeout-ms: 9000"));
	shut();
}

static void grpc_header(void **state)
{
	open_with(
		"route: {cluster: up, timeout: 9s, max_stream_duration: {grpc_timeout_header_max: "
		"0.05s, grpc_timeout_header_offset: 0.02s}}",
		"");
	answers[0] = SILENT;
	ASK(GRPC "grpc-timeout: 100S\r\n");
	assert_true(comes("grpc-status: 4"));
	assert_true(asked("grpc-timeout: 30m\r\n"));
	leave();
	for (int i = 0; i < 2; i++) { /* no time left is not all of it */
		client();
		forget();
		answers[0] = SILENT;
		if (i)
			ASK(GRPC "grpc-timeout: 20m\r\n");
		else
			ASK(GRPC "grpc-timeout: 0S\r\n");
		assert_true(comes("grpc-status: 4"));
		leave();
	}
	client();
	forget();
	answers[0] = OK;
	get("/"); /* it stands in place of timeout */
	assert_true(comes("200 OK"));
	assert_false(asked("x-envoy-expected-rq-timeout-ms"));
	shut();
}

/* ---- retries */
static void codes_and_wishes(void **state)
{
	static const char teapot[] = "HTTP/1.1 418 T\r\ncontent-length: 0\r\n\r\n";

	open_with(RETRY("retriable-status-codes", "retriable_status_codes: [418]"), "");
	answers[0] = teapot;
	get("/");
	assert_true(comes("200 OK"));
	shut();
	open_with(RETRY("retriable-status-codes", "retriable_status_codes: [419]"), "");
	answers[0] = teapot;
	get("/");
	assert_true(comes("418"));
	shut();
	open_with(RETRY("5xx",
			"retriable_request_headers: [{name: again, string_match: {exact: 'yes'}}]"),
		  "");
	answers[0] = answers[2] = EMPTY;
	ASK("again: yes\r\n");
	assert_true(comes("200 OK"));
	forget();
	answers[0] = EMPTY;
	ASK("again: no\r\n");
	assert_true(comes("503"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void idle_tries(void **state)
{
	open_with(RETRY("5xx", "per_try_idle_timeout: 0.03s, num_retries: 1"), "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	open_with("route: {cluster: up, retry_policy: {per_try_idle_timeout: 0.03s}}", "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("504"));
	shut();
}

static bool kept(const char *route, const char *vhost, size_t n)
{
	char text[400];
	bool again;

	snprintf(text, sizeof(text), "%s " RETRY("5xx", "num_retries: 1"), route);
	vhost_more = vhost;
	open_with(text, "");
	answers[0] = BAD;
	post(n);
	again = comes("\r\n\r\n") && strstr(got, "200 OK");
	assert_int_equal(n_requests, again ? 2 : 1);
	assert_true(!again || ys(2) == n);
	shut();
	return again;
}

static void limits_of_bodies(void **state)
{
	assert_true(kept("request_body_buffer_limit: 1000,", "", 1000));
	assert_false(kept("request_body_buffer_limit: 1000,", "", 1001));
	assert_true(kept("per_request_buffer_limit_bytes: 1000,", "", 1000));
	assert_false(kept("per_request_buffer_limit_bytes: 1000,", "", 1001));
	assert_true(kept("request_body_buffer_limit: 2000, per_request_buffer_limit_bytes: 1000,",
			 "", 1500));
	assert_false(kept("", ", request_body_buffer_limit: 1000", 1500));
	assert_false(kept("", ", per_request_buffer_limit_bytes: 1000", 1500));
	assert_true(kept("request_body_buffer_limit: 2000,", ", request_body_buffer_limit: 1000",
			 1500));
	assert_true(kept("per_request_buffer_limit_bytes: 1000,",
			 ", request_body_buffer_limit: 2000", 1500));
	assert_true(kept("request_body_buffer_limit: 3000000,", "", 3 << 19));
}

/* ---- hedging */
#define HEDGE(more)                                                                                \
	"route: {cluster: up, timeout: 9s, hedge_policy: {hedge_on_per_try_timeout: true}, "       \
	"retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}, per_try_timeout: " \
	"0.04s, " more "}}"

static void hedges(void **state)
{
	open_with(HEDGE("num_retries: 1"), "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_conns, 2); /* the first is waited for beside it */
	assert_true(
		asked("x-envoy-expected-rq-timeout-ms: 9000")); /* the whole time is each one's */
	shut();
	/* the second is bad: the first, which comes later, is what the client gets */
	open_with(HEDGE("num_retries: 1"), "");
	late_ms = 120;
	answers[0] = LATE;
	answers[1] = SILENT;
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	open_with(HEDGE("num_retries: 1"), "");
	late_ms = 120;
	answers[0] = LATE;
	answers[1] = EMPTY;
	get("/");
	assert_true(comes("200 OK"));
	assert_null(strstr(got, "503"));
	shut();
	/* a first one that is bad in the end is nothing while the second may answer */
	open_with(HEDGE("num_retries: 1"), "");
	late_ms = 80;
	answers[0] = LATE_BAD;
	answers[1] = LATE;
	get("/");
	assert_true(comes("200 OK"));
	assert_null(strstr(got, "503"));
	shut();
	/* nor is a try given up that sends nothing for a while */
	open_with("route: {cluster: up, timeout: 9s, hedge_policy: {hedge_on_per_try_timeout: "
		  "true}, retry_policy: {retry_on: 5xx, num_retries: 1, per_try_idle_timeout: "
		  "0.04s, retry_back_off: {base_interval: 0.001s}}}",
		  "");
	late_ms = 120;
	answers[0] = LATE;
	answers[1] = SILENT;
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	/* who leaves takes all tries along */
	open_with(HEDGE("num_retries: 2"), "");
	answers[0] = answers[1] = answers[2] = SILENT;
	get("/");
	for (int i = 0; i < 2000 && n_requests < 2; i++)
		turn(1);
	assert_int_equal(n_requests, 2);
	shut();
}

static void hedges_end(void **state)
{
	open_with("route: {cluster: up, timeout: 0.2s, hedge_policy: {hedge_on_per_try_timeout: "
		  "true}, "
		  "retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}, "
		  "per_try_timeout: 0.04s, num_retries: 2}}",
		  "");
	for (int i = 0; i < ANSWERS; i++)
		answers[i] = SILENT;
	get("/");
	assert_true(comes("504"));
	assert_int_equal(n_requests, 3);
	shut();
	open_with(HEDGE("num_retries: 1"), ""); /* all are cut */
	answers[0] = LATE_CUT;
	answers[1] = CUT;
	late_ms = 80;
	get("/");
	assert_true(comes("503"));
	shut();
}

static void hedges_when_told(void **state)
{
	open_with("route: {cluster: up, timeout: 9s, retry_policy: {retry_on: connect-failure, "
		  "retry_back_off: {base_interval: 0.001s}, per_try_timeout: 0.04s}}",
		  "");
	answers[0] = SILENT;
	ASK(INSIDE "x-envoy-hedge-on-per-try-timeout: true\r\n");
	assert_true(comes("200 OK"));
	assert_false(asked("x-envoy-hedge"));
	leave();
	client();
	forget();
	answers[0] = SILENT;
	ASK(INSIDE "x-envoy-hedge-on-per-try-timeout: false\r\n");
	assert_true(comes("504"));
	assert_int_equal(n_requests, 1);
	shut();
}

/* ---- numbers of routes */
static void numbers(void **state)
{
	open_with("stat_prefix: p, " RETRY("5xx", "num_retries: 1"), "");
	answers[0] = EMPTY;
	get("/");
	assert_true(comes("200 OK"));
	forget();
	answers[0] = answers[1] = EMPTY;
	get("/");
	assert_true(comes("503"));
	assert_int_equal(number("vhost.v.route.p.upstream_rq_total"), 4);
	assert_int_equal(number("vhost.v.route.p.upstream_rq_retry"), 2);
	assert_int_equal(number("vhost.v.route.p.upstream_rq_retry_success"), 1);
	assert_int_equal(number("vhost.v.route.p.upstream_rq_retry_limit_exceeded"), 1);
	assert_int_equal(number("vhost.v.route.p.upstream_rq_200"), 1);
	assert_int_equal(number("vhost.v.route.p.upstream_rq_5xx"), 1);
	assert_int_equal(number("vhost.v.route.p.upstream_rq_completed"), 2);
	shut();
	assert_int_equal(number("vhost.v.route.p.upstream_rq_total"), 0); /* gone with its table */
	open_with("stat_prefix: q, route: {cluster: up, timeout: 0.03s}", "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("504"));
	assert_int_equal(number("vhost.v.route.q.upstream_rq_timeout"), 1);
	assert_int_equal(number("vhost.v.route.q.upstream_rq_504"), 1);
	shut();
}

/* ---- other places to go */
#define GO(to)		  "HTTP/1.1 302 R\r\nlocation: " to "\r\nx-keep: k\r\ncontent-length: 0\r\n\r\n"
#define REDIRECTING(more) "route: {cluster: up, internal_redirect_policy: {" more "}}"

static void redirects_have_an_end(void **state)
{
	open_with(REDIRECTING("max_internal_redirects: 2, response_headers_to_copy: [x-keep]"), "");
	answers[0] = answers[1] = answers[2] = GO("http://other/to");
	get("/");
	assert_true(comes("302"));
	assert_int_equal(n_requests, 3);
	assert_true(asked("x-keep: k"));
	shut();
	open_with(REDIRECTING("max_internal_redirects: 3"), "");
	answers[0] = answers[1] = answers[2] = GO("http://other/to");
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 4);
	assert_false(asked("x-keep: k"));
	shut();
}

static void redirects_across(void **state)
{
	for (int on = 0; on < 2; on++) {
		open_with(on ? REDIRECTING("allow_cross_scheme_redirect: true") : REDIRECTING(""),
			  "");
		answers[0] = GO("https://other/to");
		get("/");
		assert_true(comes(on ? "200 OK" : "302"));
		shut();
	}
}

static void redirects_that_are_listed(void **state)
{
	static const char routes[] =
		"[{name: good, match: {prefix: /good}, route: {cluster: up}}, {name: bad, match: "
		"{prefix: /bad}, route: {cluster: up}}, {match: {prefix: /}, " REDIRECTING(
			"predicates: [{name: p, typed_config: {'@type': type.googleapis.com/"
			"envoy.extensions.internal_redirect.allow_listed_routes.v3."
			"AllowListedRoutesConfig, allowed_route_names: [good]}}]") "}]";

	open_with(routes, "");
	answers[0] = GO("http://other/bad");
	get("/");
	assert_true(comes("302"));
	forget();
	answers[0] = GO("http://other/good");
	answers[1] = OK;
	get("/");
	assert_true(comes("200 OK"));
	shut();
}

static void shadow_names(void **state)
{
	open_with("route: {cluster: up, request_mirror_policies: [{cluster: up, "
		  "disable_shadow_host_suffix_append: true}]}",
		  "");
	get("/");
	assert_true(comes("200 OK"));
	for (int i = 0; i < 2000 && n_requests < 2; i++)
		turn(1);
	assert_int_equal(n_requests, 2);
	assert_false(asked("h-shadow"));
	shut();
}

static void words_of_their_own(void **state)
{
	open_with("direct_response: {status: 418, body: {inline_string: short}, body_format: "
		  "{text_format_source: {inline_string: '<%RESPONSE_CODE% %LOCAL_REPLY_BODY%>'}, "
		  "content_type: text/x-own}}",
		  "");
	get("/");
	assert_true(comes("<418 short>"));
	assert_true(comes("content-type: text/x-own"));
	shut();
	open_with("non_forwarding_action: {}", "");
	get("/");
	assert_true(comes("503"));
	shut();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_to_remove), cmocka_unit_test(attempt_counts),
		cmocka_unit_test(suppressed),	     cmocka_unit_test(strict),
		cmocka_unit_test(expected_timeout),  cmocka_unit_test(codes_of_grpc),
		cmocka_unit_test(grpc_max),	     cmocka_unit_test(grpc_header),
		cmocka_unit_test(codes_and_wishes),  cmocka_unit_test(idle_tries),
		cmocka_unit_test(limits_of_bodies),  cmocka_unit_test(hedges),
		cmocka_unit_test(hedges_end),	     cmocka_unit_test(hedges_when_told),
		cmocka_unit_test(numbers),	     cmocka_unit_test(redirects_have_an_end),
		cmocka_unit_test(redirects_across),  cmocka_unit_test(redirects_that_are_listed),
		cmocka_unit_test(shadow_names),	     cmocka_unit_test(words_of_their_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
