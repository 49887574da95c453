/* The router with real sessions over loopback: retries, timeouts, mirrors, internal redirects,
 * tunnels, back-pressure, answers that come early and clients that leave. */
#include "test/unit/proxy/http/filters/router_fix.h"

static void retries_with_their_body(void **state)
{
	open_with(RETRY("5xx", "num_retries: 3"), "");
	answers[0] = answers[1] = EMPTY;
	post(BODY);
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 3);
	assert_int_equal(ys(1), BODY);
	assert_int_equal(ys(2), BODY);
	assert_int_equal(ys(3), BODY);
	assert_int_equal(n_conns, 1); /* whole answers leave their connection usable */
	shut();
}

static void retries_have_an_end(void **state)
{
	open_with(RETRY("5xx", "num_retries: 2"), "");
	for (int i = 0; i < ANSWERS; i++)
		answers[i] = BAD;
	get("/");
	assert_true(comes("503"));
	assert_true(comes("bad"));
	assert_int_equal(n_requests, 3);
	shut();
}

static void retries_after_a_cut(void **state)
{
	open_with(RETRY("reset", "num_retries: 2"), "");
	answers[0] = CUT;
	post(100);
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	open_with("route: {cluster: up}", "");
	answers[0] = CUT;
	post(100);
	assert_true(comes("503"));
	assert_true(comes("upstream connect error or disconnect/reset before headers"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void a_body_too_large_to_keep(void **state)
{
	open_with(RETRY("5xx", "num_retries: 2"), "");
	answers[0] = BAD;
	post((1 << 20) + 1);
	assert_true(comes("503"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void breaker_of_retries(void **state)
{
	open_with(RETRY("5xx", "num_retries: 2"),
		  ", circuit_breakers: {thresholds: [{max_retries: 0}]}");
	answers[0] = BAD;
	get("/");
	assert_true(comes("503"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void wishes_of_the_request(void **state)
{
	open_with("route: {cluster: up}", "");
	answers[0] = "HTTP/1.1 418 T\r\ncontent-length: 0\r\n\r\n";
	say("GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 10.0.0.1\r\nx-envoy-retry-on: "
	    "retriable-status-codes\r\n"
	    "x-envoy-retriable-status-codes: 418\r\nx-envoy-max-retries: 2\r\n\r\n");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	assert_null(strstr(requests, "x-envoy-retry-on"));
	shut();
}

static void times(void **state)
{
	open_with(RETRY("5xx", "per_try_timeout: 0.03s, num_retries: 1"), "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	open_with("route: {cluster: up, timeout: 0.03s}", "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("504"));
	assert_true(comes("upstream request timeout"));
	shut();
}

/* The time is up while another attempt waits: it is not made. */
static void times_in_a_back_off(void **state)
{
	open_with("route: {cluster: up, timeout: 0.02s, retry_policy: {retry_on: 5xx, num_retries: "
		  "9, rate_limited_retry_back_off: {reset_headers: [{name: again, format: "
		  "SECONDS}]}}}",
		  "");
	answers[0] = "HTTP/1.1 503 B\r\nagain: 1\r\ncontent-length: 0\r\n\r\n";
	say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nyyy");
	assert_true(comes("504"));
	turn(1600);
	assert_int_equal(n_requests, 1);
	assert_null(strstr(got, "200 OK"));
	shut();
}

static void early_answer(void **state)
{
	open_with(RETRY("5xx", "num_retries: 1"), "");
	answers[0] = EARLY;
	say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\nyyy");
	assert_true(comes("200 OK"));
	shut();
}

static void mirrors(void **state)
{
	open_with("route: {cluster: up, request_mirror_policies: [{cluster: up}, {cluster: none}, "
		  "{cluster: up}]}",
		  "");
	post(5000);
	assert_true(comes("200 OK"));
	for (int i = 0; i < 500 && n_requests < 3; i++)
		turn(1);
	assert_int_equal(n_requests, 3);
	assert_int_equal(ys(1), 5000);
	assert_int_equal(ys(2), 5000);
	assert_int_equal(ys(3), 5000);
	assert_non_null(strstr(requests, "h-shadow"));
	shut();
}

#define REDIRECT(code)                                                                             \
	"HTTP/1.1 " code " R\r\nlocation: http://other/to?x\r\ncontent-length: 0\r\n\r\n"

static void internal_redirects(void **state)
{
	open_with("route: {cluster: up, internal_redirect_policy: {redirect_response_codes: [302, "
		  "303, 307]}}",
		  "");
	answers[0] = REDIRECT("307");
	post(3000);
	assert_true(comes("200 OK"));
	assert_int_equal(ys(2), 3000);
	assert_non_null(strstr(requests, "POST /to?x HTTP/1.1"));
	leave();
	client();
	answers[2] = REDIRECT("303");
	post(3000);
	assert_true(comes("200 OK"));
	assert_non_null(strstr(requests, "GET /to?x HTTP/1.1"));
	leave();
	client();
	answers[4] = answers[5] = REDIRECT("302"); /* one is the limit */
	get("/");
	assert_true(comes("302"));
	assert_int_equal(n_requests, 6);
	shut();
}

static void redirect_in_an_upgrade(void **state)
{
	open_with("route: {cluster: up, internal_redirect_policy: {}}", "");
	answers[0] = REDIRECT("302");
	say("GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
	turn(20);
	assert_int_equal(n_requests, 1);
	shut();
}

static void tunnels(void **state)
{
	open_with("[{match: {connect_matcher: {}}, route: {cluster: up, upgrade_configs: "
		  "[{upgrade_type: CONNECT, connect_config: {}}]}}]",
		  "");
	echoing = true;
	say("CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n");
	assert_true(comes("200 OK"));
	say("hello there");
	assert_true(comes("hello there"));
	shut();
	open_with("[{match: {connect_matcher: {}}, route: {cluster: up, upgrade_configs: "
		  "[{upgrade_type: CONNECT, connect_config: {}}]}}]",
		  "");
	evconnlistener_disable(listener);
	say("CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n");
	close(fd); /* the client leaves while it is dialed, and the upstream says nothing */
	fd = -1;
	turn(5);
	evconnlistener_free(listener);
	listener = NULL;
	shut();
}

static void answers_of_routes(void **state)
{
	open_with("redirect: {path_redirect: /n}, response_headers_to_add: [{header: {key: x-r, "
		  "value: 'yes'}}]",
		  "");
	get("/");
	assert_true(comes("301"));
	assert_true(comes("location: http://h/n"));
	assert_true(comes("x-r: yes"));
	shut();
	open_with("route: {cluster_header: x-c, cluster_not_found_response_code: NOT_FOUND}", "");
	get("/");
	assert_true(comes("404"));
	shut();
	open_with("route: {cluster: none, cluster_not_found_response_code: NOT_FOUND}", "");
	get("/");
	assert_true(comes("404"));
	shut();
}

/* A client that does not read holds the upstream, and gets everything when it does. */
static void back_pressure(void **state)
{
	open_with("route: {cluster: up}", "");
	answers[0] = BIG;
	reads = false;
	get("/");
	turn(100);
	reads = true;
	for (int i = 0; i < 5000 && n_got < 8 << 20; i++)
		turn(1);
	assert_true(n_got > 8 << 20);
	shut();
}

/* Clients that leave at every moment. */
static void leavers(void **state)
{
	static const char *const what[] = {OK, BAD, SILENT, CUT, EARLY, BIG};

	open_with(RETRY("5xx,reset", "num_retries: 2"), "");
	for (unsigned i = 0; i < 6; i++)
		for (unsigned turns = 0; turns < 12; turns++) {
			for (int k = 0; k < ANSWERS; k++)
				answers[k] = what[i];
			n_requests = 0;
			requests[0] = '\0';
			say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nyyy");
			for (unsigned k = 0; k < turns; k++) {
				event_base_loop(w->base, EVLOOP_NONBLOCK);
				if (k == turns / 2)
					(void)!write(fd, "yyy", 3);
			}
			leave();
			client();
		}
	shut();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(retries_with_their_body),
		cmocka_unit_test(retries_have_an_end),
		cmocka_unit_test(retries_after_a_cut),
		cmocka_unit_test(a_body_too_large_to_keep),
		cmocka_unit_test(breaker_of_retries),
		cmocka_unit_test(wishes_of_the_request),
		cmocka_unit_test(times),
		cmocka_unit_test(times_in_a_back_off),
		cmocka_unit_test(early_answer),
		cmocka_unit_test(mirrors),
		cmocka_unit_test(internal_redirects),
		cmocka_unit_test(redirect_in_an_upgrade),
		cmocka_unit_test(tunnels),
		cmocka_unit_test(answers_of_routes),
		cmocka_unit_test(back_pressure),
		cmocka_unit_test(leavers),
	};

	return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
