/* Options of the connection manager, each with and without: what clients, the terminal filter and
 * the log see. */
#include "test/unit/proxy/http/hcm_fix.h"

#include "proxy/l4/als.h"

#define GET   "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
#define TYPED "{\"@type\": type.googleapis.com/envoy.extensions."

static bool sent_on(const char *text)
{
	return strstr(term.last_headers, text) != NULL;
}

/* What goes on of one request; the answer is in the connection. */
static struct env *asked(const char *more, const char *request)
{
	struct env *e = env_open(more, 0);

	term.status = 200;
	say(e, request);
	turn(e, 2);
	return e;
}

static bool goes_on(const char *more, const char *request, const char *text)
{
	struct env *e = asked(more, request);
	bool there = sent_on(text);

	env_free(e);
	return there;
}

static bool answers(const char *more, const char *request, const char *text)
{
	struct env *e = asked(more, request);
	bool there = strstr(e->got, text) != NULL;

	env_free(e);
	return there;
}

/* ---- heads */

static void add_user_agent(void **state)
{
	fix_cluster = "the-cluster";
	fix_node = "the-node";
	assert_true(goes_on("  add_user_agent: true\n", GET, "user-agent=the-cluster\n"));
	assert_true(goes_on("  add_user_agent: true\n", GET,
			    "x-envoy-downstream-service-cluster=the-cluster\n"));
	assert_true(goes_on("  add_user_agent: true\n", GET,
			    "x-envoy-downstream-service-node=the-node\n"));
	assert_true(goes_on("  add_user_agent: true\n",
			    "GET / HTTP/1.1\r\nhost: a\r\nuser-agent: own\r\n\r\n",
			    "user-agent=own\n"));
	assert_false(goes_on("", GET, "the-cluster"));
	fix_cluster = fix_node = NULL;
}

#define ID(v)                                                                                      \
	"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: f4dca0a9-12c7-" v                              \
	"307-8002-969403baf480\r\n\r\n"
#define IS_ID(v) "x-request-id=f4dca0a9-12c7-" v "307-8002-969403baf480\n"

static void request_ids(void **state)
{
	static const char EDGE[] = "  use_remote_address: true\n",
			  KEEP[] = "  use_remote_address: true\n"
				   "  preserve_external_request_id: true\n",
			  LEFT[] = "  use_remote_address: true\n"
				   "  preserve_external_request_id: true\n"
				   "  request_id_extension: {typed_config: " TYPED
				   "request_id.uuid.v3.UuidRequestIdConfig, "
				   "pack_trace_reason: false}}\n";

	assert_true(goes_on("", GET, "x-request-id="));
	assert_false(goes_on("  generate_request_id: false\n", GET, "x-request-id="));
	assert_false(goes_on(EDGE, ID("4"), IS_ID("4")));
	assert_true(goes_on(EDGE, ID("4"), "x-request-id="));
	assert_true(goes_on(KEEP, ID("4"), IS_ID("4")));
	assert_true(goes_on(KEEP, ID("9"), IS_ID("4"))); /* not to be taken for traced */
	assert_true(goes_on(LEFT, ID("9"), IS_ID("9")));
}

static const char *const uris[] = {"spiffe://t/ns/n/sa/s", NULL}, *const no_names[] = {NULL};
static const struct weft_tls_info tls = {
	.version = "TLSv1.3",
	.cipher = "c",
	.peer_subject = "CN=me",
	.peer_issuer = "",
	.peer_serial = "1",
	.peer_sha256 = "abcd",
	.peer_uri = uris,
	.peer_dns = no_names,
	.peer_email = no_names,
	.peer_ip = no_names,
	.local_uri = uris,
	.local_dns = no_names,
	.local_subject = "",
	.peer_presented = true,
	.peer_verified = true,
};

static void client_certificates(void **state)
{
	static const char FORGED[] =
		"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: Hash=ff\r\n\r\n";

	fix_tls = &tls;
	assert_false(goes_on("", FORGED, "x-forwarded-client-cert="));
	assert_true(goes_on("  forward_client_cert_details: ALWAYS_FORWARD_ONLY\n", FORGED,
			    "x-forwarded-client-cert=Hash=ff\n"));
	assert_true(goes_on("  forward_client_cert_details: SANITIZE_SET\n"
			    "  set_current_client_cert_details: {uri: true, subject: true}\n",
			    FORGED,
			    "x-forwarded-client-cert=By=spiffe://t/ns/n/sa/s;Hash=abcd;"
			    "Subject=\"CN=me\";URI=spiffe://t/ns/n/sa/s\n"));
	assert_false(goes_on("  forward_client_cert_details: SANITIZE_SET\n"
			     "  set_current_client_cert_details: {uri: true}\n",
			     FORGED, "Subject="));
	fix_tls = NULL;
}

static void expectations_are_passed_on(void **state)
{
	static const char POST[] = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n"
				   "content-length: 1\r\n\r\n";

	assert_true(answers("", POST, "100 Continue"));
	assert_false(answers("  proxy_100_continue: true\n", POST, "100 Continue"));
	assert_true(goes_on("  proxy_100_continue: true\n", POST, "expect=100-continue\n"));
}

static void addresses(void **state)
{
	static const char
		TOLD[] = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4, "
			 "10.7.7.7\r\n\r\n",
		INSIDE[] = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: "
			   "10.7.7.7\r\n\r\n",
		DETECT[] = "  original_ip_detection_extensions: [{name: x, typed_config: " TYPED
			   "http.original_ip_detection.xff.v3.XffConfig, "
			   "xff_trusted_cidrs: {cidrs: [{address_prefix: 10.0.0.0, "
			   "prefix_len: %d}]}}}]\n"
			   "  internal_address_config: {cidr_ranges: [{address_prefix: "
			   "10.0.0.0, prefix_len: 8}]}\n"
			   "  access_log: []\n";
	char text[1024];

	assert_true(goes_on("  use_remote_address: true\n", GET, "x-forwarded-for=10.1.2.3\n"));
	assert_true(goes_on("  use_remote_address: true\n"
			    "  represent_ipv4_remote_address_as_ipv4_mapped_ipv6: true\n",
			    GET, "x-forwarded-for=::ffff:10.1.2.3\n"));
	assert_true(goes_on("  use_remote_address: true\n  append_x_forwarded_port: true\n", GET,
			    "x-forwarded-port=8080\n"));
	assert_false(goes_on("  use_remote_address: true\n", GET, "x-forwarded-port="));
	/* a trusted peer is not appended, another one is */
	snprintf(text, sizeof(text), DETECT, 8);
	assert_true(goes_on(text, TOLD, "x-forwarded-for=1.2.3.4, 10.7.7.7\n"));
	assert_false(goes_on(text, TOLD, "x-envoy-internal=true\n"));
	assert_true(goes_on(text, INSIDE, "x-envoy-internal=true\n"));
	snprintf(text, sizeof(text), DETECT, 32);
	assert_true(goes_on(text, TOLD, "x-forwarded-for=1.2.3.4, 10.7.7.7,10.1.2.3\n"));
}

static void clients_on_unix_sockets(void **state)
{
	fix_unix = true;
	assert_true(goes_on("  use_remote_address: true\n"
			    "  internal_address_config: {unix_sockets: true}\n",
			    GET, "x-envoy-internal=true\n"));
	assert_false(goes_on("  use_remote_address: true\n"
			     "  internal_address_config: {unix_sockets: false}\n",
			     GET, "x-envoy-internal"));
	fix_unix = false;
}

static void early_mutations(void **state)
{
	static const char EARLY[] =
		"  use_remote_address: true\n  xff_num_trusted_hops: 1\n"
		"  early_header_mutation_extensions: [{name: e, typed_config: " TYPED
		"http.early_header_mutation.header_mutation.v3.HeaderMutation, mutations: "
		"[{append: {header: {key: x-forwarded-for, value: 9.8.7.6}}}, "
		"{append: {header: {key: x-raw, raw_value: cmF3}}}, "
		"{remove: x-old}]}}]\n";

	assert_true(goes_on(EARLY, "GET / HTTP/1.1\r\nhost: a\r\nx-old: 1\r\nx-b: 2\r\n\r\n",
			    "x-envoy-external-address=9.8.7.6\n"));
	assert_false(goes_on(EARLY, "GET / HTTP/1.1\r\nhost: a\r\nx-old: 1\r\n\r\n", "x-old"));
	assert_true(goes_on(EARLY, GET, "x-raw=raw\n"));
	assert_true(goes_on("", "GET / HTTP/1.1\r\nhost: a\r\nx-old: 1\r\n\r\n", "x-old=1\n"));
}

static void proxy_status(void **state)
{
	static const char BASE[] = "  stream_idle_timeout: 0.02s\n  proxy_status_config: {%s}\n";
	static const struct {
		const char *options, *want;
	} v[] = {
		{"", "HTTP/1.1 504 Gateway Timeout\r\nproxy-status: envoy; "
		     "error=http_response_timeout; details=\"stream_idle_timeout; SI\""},
		{"remove_response_flags: true, literal_proxy_name: me",
		 "proxy-status: me; error=http_response_timeout; "
		 "details=\"stream_idle_timeout\"\r\n"},
		{"remove_details: true, use_node_id: true",
		 "proxy-status: the-node; error=http_response_timeout\r\n"},
	};
	char text[256];

	fix_node = "the-node";
	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct env *e;
		const char *status;

		snprintf(text, sizeof(text), BASE, v[i].options);
		e = env_open(text, 0);
		say(e, GET);
		turn(e, 60);
		status = strstr(e->got, "proxy-status:");
		assert_non_null(status);
		assert_non_null(strstr(e->got, strstr(v[i].want, "proxy-status") ?: v[i].want));
		env_free(e);
	}
	assert_false(answers("  proxy_status_config: {}\n", GET, "proxy-status"));
	/* the code that is recommended, and without how the connection ended */
	snprintf(
		text, sizeof(text), BASE,
		"set_recommended_response_code: true, remove_connection_termination_details: true");
	for (int coded = 0; coded < 2; coded++) {
		struct env *e = env_open(coded ? text : "  proxy_status_config: {}\n", 0);

		say(e, GET);
		assert_non_null(term.s);
		weft_stream_info(term.s)->termination_details = "gone";
		weft_info_flag(weft_stream_info(term.s), WEFT_FLAG_UC);
		answer(term.s, 503, NULL, true);
		turn(e, 2);
		assert_true(has(e, coded ? "HTTP/1.1 502 " : "HTTP/1.1 503 "));
		assert_true(has(e, "error=connection_terminated"));
		env_free(e);
	}
	fix_node = NULL;
}

/* ---- HTTP/1 */

static void counts_and_hosts(void **state)
{
	static const char MANY[] = "GET / HTTP/1.1\r\nhost: a\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n";

	assert_true(answers("  common_http_protocol_options: {max_headers_count: 3}\n", MANY,
			    "431 Request Header Fields Too Large"));
	assert_true(answers("  common_http_protocol_options: {max_headers_count: 4}\n", MANY,
			    "200 OK"));
	assert_true(answers("", "GET / HTTP/1.0\r\n\r\n", "426 Upgrade Required"));
	assert_true(goes_on("  http_protocol_options: {accept_http_10: true, "
			    "default_host_for_http_10: old.example}\n",
			    "GET / HTTP/1.0\r\n\r\n", ":authority=old.example\n"));
}

static void names_of_answers(void **state)
{
	static const char FORMAT[] = "  http_protocol_options: {header_key_format: {%s}}\n";
	char text[1024];

	assert_true(answers("", GET, "\r\ncontent-length: 0\r\n"));
	snprintf(text, sizeof(text), FORMAT, "proper_case_words: {}");
	assert_true(answers(text, GET, "\r\nContent-Length: 0\r\n"));
	snprintf(text, sizeof(text), FORMAT,
		 "stateful_formatter: {name: p, typed_config: " TYPED
		 "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}");
	assert_true(answers(text, GET, "\r\ncontent-length: 0\r\n")); /* ours: as without */
}

/* The head that came carries its spelling to whoever writes it on. */
static void names_of_requests(void **state)
{
	static const char KEEP[] =
		"  http_protocol_options: {header_key_format: {stateful_formatter: {name: p, "
		"typed_config: " TYPED
		"http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig, "
		"formatter_type_on_envoy_headers: %s, forward_reason_phrase: true}}}}\n";
	static const char ODD[] =
		"GET / HTTP/1.1\r\nHOST: a\r\nX-oDD: 1\r\nx-ODD: 2\r\nlow: 3\r\n\r\n";
	char text[512];

	for (int proper = 0; proper < 2; proper++) {
		const struct weft_headers *h;
		struct env *e;

		snprintf(text, sizeof(text), KEEP, proper ? "PROPER_CASE" : "DEFAULT");
		e = env_open(text, 0);
		say(e, ODD);
		assert_non_null(term.s);
		h = weft_stream_headers(term.s, WEFT_REQUEST);
		assert_non_null(h->spelling);
		assert_string_equal(weft_headers_spelling(h, "x-odd", 5), "X-oDD");
		assert_string_equal(weft_headers_spelling(h, "host", 4), "HOST");
		assert_string_equal(weft_headers_spelling(h, "low", 3), "low");
		if (proper)
			assert_string_equal(weft_headers_spelling(h, "x-new", 5), "X-New");
		else
			assert_null(weft_headers_spelling(h, "x-new", 5));
		env_free(e);
	}
}

static void upgrades_that_are_passed_over(void **state)
{
	static const char UP[] = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: "
				 "%s\r\n\r\n";
	static const char MORE[] = "  upgrade_configs: [{upgrade_type: websocket}]\n"
				   "  http_protocol_options: {ignore_http_11_upgrade: [{prefix: "
				   "TLS/}, {exact: foo}]}\n";
	static const struct {
		const char *to;
		bool plain, passed;
	} v[] = {
		{"TLS/1.2", false, true}, {"foo, TLS/1.3", false, true},
		{"bar", false, false},	  {"foo,websocket", false, true},
		{"h2c", true, true},
	};
	char text[256];

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		snprintf(text, sizeof(text), UP, v[i].to);
		assert_int_equal(goes_on("", text, ":path=/\n"), v[i].plain);
		assert_int_equal(goes_on(MORE, text, ":path=/\n"), v[i].passed);
		assert_int_equal(goes_on(MORE, text, "upgrade=websocket\n"),
				 strstr(v[i].to, "websocket") != NULL);
	}
}

static void broken_requests_may_be_lived_with(void **state)
{
	static const char TWO[] = "GET / HTTP/1.1\r\n\r\n" GET;
	static const struct {
		const char *more;
		bool second;
	} v[] = {
		{"", false},
		{"  stream_error_on_invalid_http_message: true\n", true},
		{"  http_protocol_options: {override_stream_error_on_invalid_http_message: "
		 "true}\n",
		 true},
		{"  stream_error_on_invalid_http_message: true\n  http_protocol_options: "
		 "{override_stream_error_on_invalid_http_message: false}\n",
		 false},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		assert_true(answers(v[i].more, TWO, "400 Bad Request"));
		assert_int_equal(answers(v[i].more, TWO, "200 OK"), v[i].second);
	}
}

static void heads_may_be_late(void **state)
{
	struct env *e = env_open("  request_headers_timeout: 0.03s\n", 0);

	say(e, "GET / HTTP/1.1\r\nhost: a\r\n");
	turn(e, 100);
	assert_true(has(e, "408 Request Timeout"));
	env_free(e);
	e = env_open("  request_headers_timeout: 30s\n", 0);
	say(e, "GET / HTTP/1.1\r\nhost: a\r\n");
	turn(e, 60);
	assert_int_equal(e->n, 0);
	env_free(e);
}

/* Late bytes of a client that was refused are let pass for that long. */
static void late_bytes(void **state)
{
	for (int later = 0; later < 2; later++) {
		struct env *e = env_open(later ? "  delayed_close_timeout: 10s\n"
					       : "  delayed_close_timeout: 0s\n",
					 0);

		say(e, "GET / HTTP/1.1\r\nhost : a\r\n\r\n");
		turn(e, 5);
		assert_true(has(e, "400 Bad Request"));
		assert_int_equal(write(e->fd, "x", 1), later ? 1 : -1);
		env_free(e);
	}
}

/* ---- answers made here */

static void bodies_of_local_replies(void **state)
{
	static const char MORE[] =
		"  local_reply_config:\n"
		"    body_format: {text_format_source: {inline_string: \"<%RESPONSE_CODE%>\"}}\n"
		"    mappers:\n"
		"    - filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: "
		"403, runtime_key: k}}}}\n"
		"      body_format_override: {json_format: {code: \"%RESPONSE_CODE%\"}}\n";
	static const char UP[] = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: "
				 "websocket\r\n\r\n";

	assert_true(answers(MORE, "GET / HTTP/1.1\r\n\r\n", "\r\n\r\n<400>"));
	assert_true(answers(MORE, UP, "\r\n\r\n{\"code\":403}"));
	assert_true(answers(MORE, UP, "content-type: application/json\r\n"));
	assert_false(answers("", UP, "{\"code\""));
}

/* ---- logs */

static char log_path[64];

static unsigned logged(const char *what)
{
	char text[4096];
	unsigned n = 0;
	FILE *f = fopen(log_path, "r");

	weft_access_logs_flush();
	assert_non_null(f);
	while (fgets(text, sizeof(text), f))
		n += strstr(text, what) != NULL;
	fclose(f);
	return n;
}

static struct env *env_logged(const char *more)
{
	char text[2048];
	int fd;

	strcpy(log_path, "/tmp/weft-hcm-test.XXXXXX");
	fd = mkstemp(log_path);
	assert_true(fd >= 0);
	close(fd);
	snprintf(text, sizeof(text),
		 "%s  upgrade_configs: [{upgrade_type: websocket}]\n"
		 "  access_log: [{name: f, typed_config: " TYPED
		 "access_loggers.file.v3.FileAccessLog, path: %s, log_format: "
		 "{text_format_source: {inline_string: \"%%ACCESS_LOG_TYPE%% "
		 "%%TRACE_ID%%\\n\"}}}}]\n",
		 more, log_path);
	return env_open(text, 0);
}

static void log_free(struct env *e)
{
	env_free(e);
	unlink(log_path);
}

static void lines_while_it_lasts(void **state)
{
	static const char *const more[] = {
		"  flush_access_log_on_new_request: true\n  access_log_flush_interval: 0.02s\n",
		"  access_log_options: {flush_access_log_on_new_request: true, "
		"access_log_flush_interval: 0.02s}\n",
		""};

	for (int i = 0; i < 3; i++) {
		struct env *e = env_logged(more[i]);

		say(e, GET);
		turn(e, 90);
		assert_int_equal(logged("DownstreamStart"), i < 2);
		assert_int_equal(logged("DownstreamPeriodic") > 1, i < 2);
		assert_int_equal(logged("DownstreamEnd"), 0);
		term.status = 200;
		answer(term.s, 200, NULL, true);
		turn(e, 2);
		assert_int_equal(logged("DownstreamEnd"), 1);
		log_free(e);
	}
}

/* flush_log_on_tunnel_successfully_established */
static void a_line_for_a_tunnel(void **state)
{
	for (int on = 0; on < 2; on++) {
		struct env *e = env_logged(on ? "  access_log_options: {flush_log_on_tunnel_"
						"successfully_established: true}\n"
					      : "");
		struct evbuffer *none = evbuffer_new();
		struct weft_headers *h;

		say(e, "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: "
		       "websocket\r\n\r\n");
		h = weft_arena_alloc(weft_stream_arena(term.s), sizeof(*h));
		weft_headers_init(h, weft_stream_arena(term.s));
		weft_headers_add_id(h, WEFT_H_STATUS, "101", 3);
		weft_headers_add_id(h, WEFT_H_UPGRADE, "websocket", 9);
		weft_headers_add_id(h, WEFT_H_CONNECTION, "upgrade", 7);
		weft_stream_respond_headers(term.s, h, false);
		turn(e, 2);
		assert_int_equal(logged("DownstreamTunnelSuccessfullyEstablished"), on);
		weft_stream_respond_data(term.s, none, true);
		evbuffer_free(none);
		log_free(e);
	}
}

static void tracing_is_told_in_the_log(void **state)
{
	for (int on = 0; on < 2; on++) {
		struct env *e = env_logged(on ? "  tracing: {}\n" : "");

		term.status = 200;
		say(e, "GET / HTTP/1.1\r\nhost: a\r\ntraceparent: "
		       "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n");
		turn(e, 2);
		assert_int_equal(logged("0af7651916cd43dd8448eb211c80319c"), on);
		log_free(e);
	}
}

static void watched_bodies_are_refused(void **state)
{
	struct env *e = env_new("  local_reply_config: {mappers: [{filter: {status_code_filter: "
				"{comparison: {op: EQ, value: {default_value: 403, runtime_key: "
				"k}}}}, body: {filename: /dev/null, watched_directory: {path: "
				"/dev}}}]}\n",
				0, true);
	char err[512];

	assert_int_equal(e->errs.n, 1);
	assert_non_null(strstr(weft_err_text(&e->errs.v[0], err, sizeof(err)),
			       "watched_directory: is not supported here"));
	weft_worker_free(e->w);
	weft_arena_free(e->a);
	free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(add_user_agent),
		cmocka_unit_test(request_ids),
		cmocka_unit_test(client_certificates),
		cmocka_unit_test(expectations_are_passed_on),
		cmocka_unit_test(addresses),
		cmocka_unit_test(clients_on_unix_sockets),
		cmocka_unit_test(early_mutations),
		cmocka_unit_test(proxy_status),
		cmocka_unit_test(counts_and_hosts),
		cmocka_unit_test(names_of_answers),
		cmocka_unit_test(names_of_requests),
		cmocka_unit_test(upgrades_that_are_passed_over),
		cmocka_unit_test(broken_requests_may_be_lived_with),
		cmocka_unit_test(heads_may_be_late),
		cmocka_unit_test(late_bytes),
		cmocka_unit_test(bodies_of_local_replies),
		cmocka_unit_test(lines_while_it_lasts),
		cmocka_unit_test(a_line_for_a_tunnel),
		cmocka_unit_test(tracing_is_told_in_the_log),
		cmocka_unit_test(watched_bodies_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
