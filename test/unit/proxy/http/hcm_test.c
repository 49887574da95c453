/* The connection manager: what it makes of requests and answers, its timeouts, ends of connections.
 */
#include "test/unit/proxy/http/hcm_fix.h"

#define GET  "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
#define POST "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n"

static bool sent_on(const char *text)
{
	bool there = strstr(term.last_headers, text);

	if (!there)
		print_message("# \"%s\" is not in:\n%s", text, term.last_headers);
	return there;
}

static void request_is_completed(void **state)
{
	struct env *e = env_open("  use_remote_address: true\n  via: v\n"
				 "  always_set_request_id_in_response: true\n",
				 0);

	term.status = 200;
	say(e, "GET /x HTTP/1.1\r\nhost: a\r\nx-envoy-internal: true\r\nx-envoy-retry-on: 5xx\r\n"
	       "x-request-id: mine\r\n\r\n");
	assert_true(sent_on("x-forwarded-for=10.1.2.3\n"));
	assert_true(sent_on("x-forwarded-proto=http\n"));
	assert_true(sent_on("x-envoy-external-address=10.1.2.3\n"));
	assert_true(sent_on(":scheme=http\n"));
	assert_true(sent_on("via=v\n"));
	assert_null(strstr(term.last_headers, "x-envoy-internal"));
	assert_null(strstr(term.last_headers, "x-envoy-retry-on"));
	assert_null(strstr(term.last_headers, "x-request-id=mine"));
	assert_true(has(e, "x-request-id: "));
	assert_true(has(e, "via: v\r\n"));
	env_free(e);
}

static void inside_may_ask_more(void **state)
{
	struct env *e = env_open("  use_remote_address: true\n  internal_address_config: "
				 "{cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}\n",
				 0);

	term.status = 200;
	say(e, "GET /x HTTP/1.1\r\nhost: a\r\nx-envoy-retry-on: 5xx\r\nx-request-id: mine\r\n\r\n");
	assert_true(sent_on("x-envoy-internal=true\n"));
	assert_true(sent_on("x-envoy-retry-on=5xx\n"));
	assert_true(sent_on("x-request-id=mine\n"));
	env_free(e);
}

static void paths(void **state)
{
	struct env *e = env_open("  normalize_path: true\n  merge_slashes: true\n"
				 "  path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT\n",
				 0);

	term.status = 200;
	say(e, "GET /a/../b//c?d HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(sent_on(":path=/b/c?d\n"));
	e->n = 0;
	say(e, "GET /a%2fb?q HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 307 Temporary Redirect\r\n"));
	assert_true(has(e, "location: /a/b?q\r\n"));
	e->n = 0;
	say(e, "GET /a%00b HTTP/1.1\r\nhost: a\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 400 Bad Request\r\n"));
	env_free(e);
}

static void hosts(void **state)
{
	struct env *e = env_open("  strip_matching_host_port: true\n"
				 "  strip_trailing_host_dot: true\n",
				 0);

	term.status = 200;
	say(e, "GET / HTTP/1.1\r\nhost: a.b.:8080\r\n\r\n");
	assert_true(sent_on(":authority=a.b\n"));
	say(e, "GET / HTTP/1.1\r\nhost: a.b:81\r\n\r\n");
	assert_true(sent_on(":authority=a.b:81\n"));
	say(e, "GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n");
	assert_true(sent_on(":authority=[::1]\n"));
	env_free(e);
	e = env_open("  strip_any_host_port: true\n", 0);
	term.status = 200;
	say(e, "GET / HTTP/1.1\r\nhost: a.b:81\r\n\r\n");
	assert_true(sent_on(":authority=a.b\n"));
	env_free(e);
}

static void server_names(void **state)
{
	struct env *e = env_open("  server_name: me\n"
				 "  server_header_transformation: PASS_THROUGH\n",
				 0);

	term.status = 200;
	say(e, GET);
	assert_true(has(e, "200 OK"));
	assert_null(strstr(e->got, "server:"));
	env_free(e);
	e = env_open("  server_name: me\n", 0);
	term.status = 200;
	say(e, GET);
	assert_true(has(e, "server: me\r\n"));
	env_free(e);
}

static void underscores(void **state)
{
	struct env *e = env_open("  common_http_protocol_options: "
				 "{headers_with_underscores_action: DROP_HEADER}\n",
				 0);

	term.status = 200;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx_a: 1\r\nx-b: 2\r\n\r\n");
	assert_null(strstr(term.last_headers, "x_a"));
	assert_true(sent_on("x-b=2\n"));
	env_free(e);
	e = env_open("  common_http_protocol_options: "
		     "{headers_with_underscores_action: REJECT_REQUEST}\n",
		     0);
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx_a: 1\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 400 Bad Request\r\n"));
	env_free(e);
}

static void continues(void **state)
{
	struct env *e = env_open(NULL, 0);

	term.status = 200;
	term.at_end = true;
	say(e, "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
	assert_true(has(e, "HTTP/1.1 100 Continue\r\n\r\n"));
	assert_null(strstr(term.last_headers, "expect"));
	say(e, "ab");
	assert_true(has(e, "HTTP/1.1 200 OK\r\n"));
	env_free(e);
}

static void upgrades(void **state)
{
	static const char UP[] = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n"
				 "upgrade: websocket\r\n\r\n";
	struct env *e = env_open(NULL, 1);
	struct weft_headers *h;
	struct evbuffer *b;

	say(e, UP);
	assert_true(has(e, "HTTP/1.1 403 Forbidden\r\n"));
	assert_string_equal(events, "h0. C0 CT ");
	env_free(e);
	e = env_open("  upgrade_configs: [{upgrade_type: websocket}]\n", 1);
	say(e, UP);
	assert_string_equal(events, "H0 HT ");
	assert_string_equal(weft_stream_upgrade(term.s), "websocket");
	h = weft_arena_alloc(weft_stream_arena(term.s), sizeof(*h));
	weft_headers_init(h, weft_stream_arena(term.s));
	weft_headers_add_id(h, WEFT_H_STATUS, "101", 3);
	weft_headers_add_id(h, WEFT_H_UPGRADE, "websocket", 9);
	weft_headers_add_id(h, WEFT_H_CONNECTION, "upgrade", 7);
	weft_stream_respond_headers(term.s, h, false);
	turn(e, 0);
	assert_true(has(e, "HTTP/1.1 101 Switching Protocols\r\n"));
	assert_int_equal(stat_of(WEFT_HTTP_downstream_cx_upgrades_active), 1);
	say(e, "frame");
	assert_non_null(strstr(events, "D0:5 DT:5 "));
	b = evbuffer_new();
	evbuffer_add(b, "reply", 5);
	weft_stream_respond_data(term.s, b, true);
	turn(e, 0);
	assert_true(has(e, "\r\n\r\nreply"));
	assert_int_equal(term.closed, 0); /* the client's direction is still open */
	say(e, "more");
	assert_non_null(strstr(events, "DT:4 "));
	shutdown(e->fd, SHUT_WR);
	turn(e, 5);
	assert_int_equal(term.closed, 1);
	assert_int_equal(stat_of(WEFT_HTTP_downstream_cx_upgrades_active), 0);
	evbuffer_free(b);
	env_free(e);
}

/* ---- time */

static void stream_idle(void **state)
{
	struct env *e = env_open("  stream_idle_timeout: 0.05s\n", 1);
	int64_t was = stat_of(WEFT_HTTP_downstream_rq_idle_timeout);

	say(e, GET);
	turn(e, 120);
	assert_true(has(e, "HTTP/1.1 504 Gateway Timeout\r\n"));
	assert_true(has(e, "stream timeout"));
	assert_int_equal(term.closed, 1);
	e->n = 0;
	say(e, POST);
	turn(e, 120);
	assert_true(has(e, "HTTP/1.1 408 Request Timeout\r\n"));
	assert_int_equal(stat_of(WEFT_HTTP_downstream_rq_idle_timeout), was + 2);
	env_free(e);
}

static void request_times_out(void **state)
{
	struct env *e = env_open("  request_timeout: 0.05s\n", 0);

	say(e, POST "12");
	turn(e, 120);
	assert_true(has(e, "HTTP/1.1 408 Request Timeout\r\n"));
	assert_true(has(e, "request timeout"));
	env_free(e);
}

static void stream_lives_too_long(void **state)
{
	struct env *e =
		env_open("  common_http_protocol_options: {max_stream_duration: 0.05s}\n", 0);

	say(e, GET);
	turn(e, 120);
	assert_true(has(e, "HTTP/1.1 504 Gateway Timeout\r\n"));
	e->n = 0;
	say(e, "POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\n"
	       "content-length: 0\r\n\r\n");
	turn(e, 120);
	assert_true(has(e, "grpc-status: 4\r\n"));
	env_free(e);
}

static void connection_idle(void **state)
{
	struct env *e = env_open("  common_http_protocol_options: {idle_timeout: 0.04s}\n"
				 "  drain_timeout: 0.04s\n",
				 0);
	int64_t was = stat_of(WEFT_HTTP_downstream_cx_idle_timeout);

	turn(e, 120); /* nothing was ever said */
	assert_true(e->closed);
	assert_int_equal(stat_of(WEFT_HTTP_downstream_cx_idle_timeout), was + 1);
	env_connect(e);
	term.status = 200;
	say(e, GET);
	assert_true(has(e, "200 OK"));
	turn(e, 200);
	assert_true(e->closed);
	env_free(e);
}

static void drains(void **state)
{
	struct env *e = env_open("  drain_timeout: 0.05s\n", 0);

	term.status = 200;
	say(e, GET);
	assert_null(strstr(e->got, "connection: close"));
	weft_chain_drain(e->ch);
	turn(e, 0);
	assert_false(e->closed);
	e->n = 0;
	say(e, GET);
	assert_true(has(e, "connection: close\r\n"));
	turn(e, 5);
	assert_true(e->closed);
	env_connect(e); /* one that has nothing to say is closed later */
	say(e, GET);
	weft_chain_drain(e->ch);
	turn(e, 150);
	assert_true(e->closed);
	env_free(e);
}

/* By default the connection ends a while after it grew old; safely: with its next answer. */
static void age_ends_it(void **state)
{
	static const char OLD[] = "  common_http_protocol_options: {max_connection_duration: "
				  "0.03s}\n  drain_timeout: 0.03s\n";
	static const char SAFE[] = "  common_http_protocol_options: {max_connection_duration: "
				   "0.03s}\n  http1_safe_max_connection_duration: true\n";
	struct env *e = env_open(OLD, 0);

	term.status = 200;
	say(e, GET);
	turn(e, 150);
	assert_true(e->closed);
	env_free(e);
	e = env_open(SAFE, 0);
	term.status = 200;
	say(e, GET);
	turn(e, 150);
	assert_false(e->closed);
	assert_int_equal(stat_of(WEFT_HTTP_downstream_cx_http1_soft_drain), 1);
	e->n = 0;
	say(e, GET);
	assert_true(has(e, "connection: close\r\n"));
	turn(e, 5);
	assert_true(e->closed);
	assert_int_equal(stat_of(WEFT_HTTP_downstream_cx_http1_soft_drain), 0);
	env_free(e);
}

static void request_count_ends_it(void **state)
{
	struct env *e =
		env_open("  common_http_protocol_options: {max_requests_per_connection: 2}\n", 0);

	term.status = 200;
	say(e, GET);
	assert_null(strstr(e->got, "connection: close"));
	e->n = 0;
	say(e, GET);
	assert_true(has(e, "connection: close\r\n"));
	turn(e, 5);
	assert_true(e->closed);
	env_free(e);
}

static void bad_messages_are_counted(void **state)
{
	struct env *e = env_open(NULL, 0);
	int64_t was = stat_of(WEFT_HTTP_downstream_cx_protocol_error);
	int64_t fours = stat_of(WEFT_HTTP_downstream_rq_4xx);

	say(e, "GET / HTTP/1.1\r\nhost : a\r\n\r\n");
	turn(e, 5);
	assert_true(has(e, "HTTP/1.1 400 Bad Request\r\n"));
	assert_int_equal(stat_of(WEFT_HTTP_downstream_cx_protocol_error), was + 1);
	assert_int_equal(stat_of(WEFT_HTTP_downstream_rq_4xx), fours + 1);
	assert_int_equal(stat_of(WEFT_HTTP_downstream_rq_active), 0);
	assert_true(e->closed);
	env_free(e);
}

/* What cannot be read is answered as other requests are: mapped, through the filters, once. */
static void broken_requests_are_answered_through_the_filters(void **state)
{
	static const struct {
		const char *say, *status;
	} v[] = {
		{"GET / HTTP/1.1\r\nhost : a\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"},
		{"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"},
		{"GET / HTTP/9.9\r\nhost: a\r\n\r\n", "HTTP/1.1 426 Upgrade Required\r\n"},
		{"GET / HTTP/1.1\r\nhost: a\r\nconnection: host\r\n\r\n",
		 "HTTP/1.1 400 Bad Request\r\n"},
		{"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
		 "HTTP/1.1 501 Not Implemented\r\n"},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct env *e = env_open(NULL, 0);

		say(e, v[i].say);
		turn(e, 5);
		assert_true(has(e, v[i].status));
		assert_true(has(e, "server: "));
		assert_true(has(e, "date: "));
		assert_true(has(e, "connection: close\r\n"));
		assert_true(e->closed);
		assert_int_equal(stat_of(WEFT_HTTP_downstream_rq_active), 0);
		env_free(e);
	}
}

/* A target that is no path is refused, and the connection goes on. */
static void asterisk_is_refused_alone(void **state)
{
	struct env *e = env_open(NULL, 0);

	say(e, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
	turn(e, 5);
	assert_true(has(e, "HTTP/1.1 404 Not Found\r\n"));
	assert_false(e->closed);
	env_free(e);
}

/* ---- routes */

static struct weft_route_table *wanted;
static int wants;
static bool told_ready;

static void want(void *owner, struct weft_route_table *t,
		 const Envoy__Config__Core__V3__ConfigSource *cs, const char *name, bool on)
{
	assert_string_equal(name, "dyn");
	wanted = on ? t : NULL;
	wants += on ? 1 : -1;
}

static void ready(void *owner, struct weft_route_table *t)
{
	told_ready = true;
}

static const ProtobufCMessageDescriptor *pick_routes(void *ctx, const char *v, const char *k,
						     bool *lenient, struct weft_err *e)
{
	return &envoy__config__route__v3__route_configuration__descriptor;
}

static void set_routes(struct env *e, const char *prefix)
{
	struct weft_yaml_doc *docs;
	char yaml[512];
	size_t n;

	snprintf(yaml, sizeof(yaml),
		 "name: dyn\nvirtual_hosts: [{name: v, domains: ['*'], routes: [{match: "
		 "{prefix: %s}, non_forwarding_action: {}}]}]\n",
		 prefix);
	assert_int_equal(weft_yaml_decode(e->a, "r", yaml, strlen(yaml), pick_routes, NULL, &docs,
					  &n, &e->errs),
			 0);
	assert_int_equal(weft_route_table_set(wanted, &e->cfg, NULL, (void *)docs[0].msg, "1"), 0);
}

static void tables_change_under_streams(void **state)
{
	struct env *e = env_new(NULL, 0, true);
	struct weft_route_tables_conf conf = {
		.workers = &e->w, .n_workers = 1, .want = want, .ready = ready};
	struct weft_route_tables *ts = weft_route_tables_new(&conf);
	struct weft_route_deps deps = {.arena = e->a};
	struct weft_route_table *one, *two;
	struct weft_routes_hold *h1, *h2, *h3;
	const struct weft_routes *r1, *r2;

	env_ok(e);
	weft_route_tables_note(ts, &deps);
	one = weft_route_table_take(ts, NULL, "dyn");
	two = weft_route_table_take(ts, NULL, "dyn");
	weft_route_tables_note(ts, NULL);
	assert_ptr_equal(one, two);
	assert_int_equal(wants, 1);
	assert_int_equal(deps.n, 2);
	assert_false(weft_route_deps_ready(&deps));
	assert_null(weft_route_table_get(one, e->w, &h1));
	set_routes(e, "/a");
	assert_true(told_ready);
	assert_true(weft_route_deps_ready(&deps));
	turn(e, 1);
	r1 = weft_route_table_get(one, e->w, &h1);
	assert_non_null(r1);
	set_routes(e, "/b");
	turn(e, 1);
	r2 = weft_route_table_get(one, e->w, &h2);
	assert_ptr_not_equal(r1, r2);
	assert_string_equal(weft_routes_name(r1), "dyn"); /* still there for who began with it */
	weft_routes_hold_give(h1);
	weft_routes_hold_give(h2);
	weft_route_table_gone(one);
	turn(e, 1);
	assert_null(weft_route_table_get(one, e->w, &h3));
	weft_route_table_give(one);
	weft_route_table_give(two);
	assert_int_equal(wants, 0);
	weft_route_tables_free(ts);
	env_free(e);
}

/* ---- configuration that is refused */

static void refused(const char *more, bool routes, const char *text)
{
	struct env *e = env_new(more, 0, routes);
	char got[1024];
	bool found = false;

	for (int i = 0; i < e->errs.n; i++)
		found |= strstr(weft_err_text(&e->errs.v[i], got, sizeof(got)), text) != NULL;
	if (!found)
		fail_msg("\"%s\" is not said; \"%s\" is", text, e->errs.n ? got : "nothing");
	weft_worker_free(e->w);
	weft_arena_free(e->a);
	free(e);
}

static void bad_configuration(void **state)
{
	refused("  codec_type: HTTP3\n", true, "codec_type: HTTP3 is not supported");
	refused("  scoped_routes: {name: a}\n", false, "scoped_routes: is not supported");
	refused(NULL, false, "must have rds or route_config");
	refused("  strip_matching_host_port: true\n  strip_any_host_port: true\n", true,
		"only one of strip_matching_host_port and strip_any_host_port");
	refused("  upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: WebSocket}]\n", true,
		"upgrade_configs[1]: upgrade_type \"WebSocket\" is there already");
	refused("  internal_address_config: {cidr_ranges: [{address_prefix: nonsense}]}\n", true,
		"internal_address_config.cidr_ranges[0]: address_prefix: must be an IP address");
	refused("  http2_protocol_options: {allow_metadata: true}\n", true,
		"allow_metadata: true is not supported");
	refused("  early_header_mutation_extensions: [{name: x, typed_config: {\"@type\": "
		"type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3."
		"XffConfig}}]\n",
		true, "XffConfig is not supported; header_mutation is");
	refused("  early_header_mutation_extensions: [{name: x, typed_config: {\"@type\": "
		"type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation."
		"v3.HeaderMutation, mutations: [{remove: x-a}, {remove: host}]}}]\n",
		true,
		"mutations[1].remove: must be a header that requests and answers can be "
		"without, is \"host\"");
	refused("  http_protocol_options: {header_key_format: {stateful_formatter: {name: x, "
		"typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http."
		"original_ip_detection.xff.v3.XffConfig}}}}\n",
		true, "XffConfig is not supported; preserve_case is");
	refused("  http_protocol_options: {ignore_http_11_upgrade: [{safe_regex: {regex: "
		"\"(\"}}]}\n",
		true, "ignore_http_11_upgrade[0]");
	refused("  scheme_header_transformation: {scheme_to_overwrite: ftp}\n", true,
		"scheme_to_overwrite: must be http or https");
	refused("  use_remote_address: true\n  original_ip_detection_extensions: [{name: x, "
		"typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http."
		"original_ip_detection.xff.v3.XffConfig}}]\n",
		true, "cannot be set together with use_remote_address");
	refused("  local_reply_config: {mappers: [{status_code: 700}]}\n", true,
		"mappers[0].status_code: must be 200..599, is 700");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request_is_completed),
		cmocka_unit_test(inside_may_ask_more),
		cmocka_unit_test(paths),
		cmocka_unit_test(hosts),
		cmocka_unit_test(server_names),
		cmocka_unit_test(underscores),
		cmocka_unit_test(continues),
		cmocka_unit_test(upgrades),
		cmocka_unit_test(stream_idle),
		cmocka_unit_test(request_times_out),
		cmocka_unit_test(stream_lives_too_long),
		cmocka_unit_test(connection_idle),
		cmocka_unit_test(drains),
		cmocka_unit_test(age_ends_it),
		cmocka_unit_test(request_count_ends_it),
		cmocka_unit_test(bad_messages_are_counted),
		cmocka_unit_test(broken_requests_are_answered_through_the_filters),
		cmocka_unit_test(asterisk_is_refused_alone),
		cmocka_unit_test(tables_change_under_streams),
		cmocka_unit_test(bad_configuration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
