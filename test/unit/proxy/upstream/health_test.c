/* Active health checks against servers in the same process. */
#include "pool_fix.h"

#include "proxy/codec/grpc.h"
#include "proxy/upstream/health.h"
#include "xds/yaml.h"

struct hc {
	struct fix f;
	struct weft_health *h;
	struct weft_hosts set;
	struct weft_endpoint_entry entry;
	unsigned changes, firsts;
	bool stop_in_changed;
};

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	return &envoy__config__cluster__v3__cluster__descriptor;
}

/* The cluster's message is read from text; -EINVAL is left to the caller. */
static int conf(struct hc *t, const char *text, struct weft_errs *errs)
{
	struct weft_cfg c = {.arena = t->f.arena, .errs = errs, .file = true};
	struct weft_yaml_doc *docs;
	size_t n;

	weft_yaml_decode(t->f.arena, "t", text, strlen(text), pick, NULL, &docs, &n, errs);
	assert_int_equal(errs->n, 0);
	t->f.cl.msg = (const Envoy__Config__Cluster__V3__Cluster *)docs[0].msg;
	return weft_health_prepare(&c, NULL, &t->f.cl);
}

static void on_changed(void *owner, struct weft_host *h)
{
	struct hc *t = owner;

	t->changes++;
	if (t->stop_in_changed) {
		weft_health_stop(t->h);
		t->h = NULL;
	}
}

static void on_first(void *owner)
{
	struct hc *t = owner;

	t->firsts++;
}

static void start(struct hc *t, const char *text)
{
	struct weft_errs errs = {0};

	if (conf(t, text, &errs) < 0) {
		print_error("%s: %s\n", errs.v[0].path, errs.v[0].msg);
		fail();
	}
	/* as if there were traffic: otherwise checks are 60 s apart */
	weft_scope_add(t->f.cl.scope, WEFT_CLUSTER_upstream_cx_total, 1);
	atomic_store(&t->f.server.host.flags,
		     WEFT_HOST_PENDING_ACTIVE_HC | WEFT_HOST_FAILED_ACTIVE_HC);
	t->entry.host = &t->f.server.host;
	t->set.v = &t->entry;
	t->set.n = 1;
	t->h = weft_health_start(t->f.base, &t->f.cl, on_changed, on_first, t);
	weft_health_hosts(t->h, &t->set);
	assert_int_equal(t->firsts, 0);
}

static int setup(void **state, enum weft_http v)
{
	static struct hc t;

	memset(&t, 0, sizeof(t));
	atomic_store(&t.set.refs, 1000000);
	*state = &t;
	return fix_open(&t.f, v);
}

static int setup_h1(void **state)
{
	return setup(state, WEFT_HTTP_11);
}

static int setup_h2(void **state)
{
	return setup(state, WEFT_HTTP_2);
}

static int teardown(void **state)
{
	struct hc *t = *state;

	weft_health_stop(t->h);
	assert_int_equal(t->set.refs, 1000000);
	weft_scope_set(t->f.cl.scope, WEFT_CLUSTER_upstream_cx_active, 0);
	fix_close(&t->f);
	return 0;
}

static bool healthy(const struct hc *t)
{
	return weft_host_healthy(&t->f.server.host);
}

#define HTTP                                                                                       \
	"{name: x, health_checks: [{timeout: 1s, interval: 0.02s, unhealthy_threshold: 2, "        \
	"healthy_threshold: 2, "

static void test_http(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	start(t, HTTP "http_health_check: {path: /h}}]}");
	UNTIL(f, healthy(t));
	assert_int_equal(t->firsts, 1);
	assert_int_equal(t->changes, 1); /* the first answer counts at once */
	assert_int_not_equal(f->server.host.made_ns, 0);
	STAT_IS(f, health_check_healthy, 1);
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 3);
	assert_int_equal(f->server.conns, 1); /* used again */
	f->server.status = "503";
	UNTIL(f, !healthy(t)); /* at once: a bad status does not wait for the threshold */
	assert_true(stat_of(f, WEFT_CLUSTER_health_check_failure) >= 1);
	STAT_IS(f, health_check_network_failure, 0);
	STAT_IS(f, health_check_healthy, 0);
	f->server.status = "200";
	UNTIL(f, healthy(t));
	assert_int_equal(t->changes, 3);
	assert_int_equal(t->firsts, 1);
}

static void test_http_network(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	start(t, HTTP "reuse_connection: false, http_health_check: {path: /h}}]}");
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 2);
	assert_true(f->server.conns >= 2);
	event_del(f->server.ev);
	close(f->server.fd);
	f->server.fd = dup(0);
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_failure) >= 1);
	UNTIL(f, !healthy(t));
	assert_true(stat_of(f, WEFT_CLUSTER_health_check_network_failure) >= 2);
}

static void test_http_timeout(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.hold = true;
	start(t, "{name: x, health_checks: [{timeout: 0.03s, interval: 0.02s, unhealthy_threshold: "
		 "1, healthy_threshold: 1, http_health_check: {path: /h}}]}");
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_network_failure) >= 2);
	assert_false(healthy(t));
	assert_int_equal(t->firsts, 1);
	assert_int_equal(f->server.host.flags, WEFT_HOST_FAILED_ACTIVE_HC);
}

static void test_statuses(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.status = "204";
	start(t, HTTP "http_health_check: {path: /h, expected_statuses: [{start: 204, end: 205}], "
		      "retriable_statuses: [{start: 503, end: 504}]}}]}");
	UNTIL(f, healthy(t));
	f->server.status = "503";
	UNTIL(f, !healthy(t));
	assert_true(stat_of(f, WEFT_CLUSTER_health_check_failure) >= 2); /* the threshold held */
	STAT_IS(f, health_check_network_failure, 0);
}

static void test_h2(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	start(t, HTTP "http_health_check: {path: /h, codec_client_type: HTTP2}}]}");
	UNTIL(f, healthy(t));
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 3);
	assert_int_equal(f->server.conns, 1);
}

static void test_peer_closes_between(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	start(t, HTTP "http_health_check: {path: /h}}]}");
	UNTIL(f, healthy(t));
	server_drop(&f->server);
	UNTIL(f, f->server.conns >= 2);
	assert_true(healthy(t));
}

static void test_stop_inside(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	t->stop_in_changed = true;
	start(t, HTTP "http_health_check: {path: /h}}]}");
	UNTIL(f, t->changes == 1);
	assert_null(t->h);
	assert_int_equal(t->firsts, 0);
}

static void test_host_leaves(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;
	struct weft_hosts none = {.refs = 1000000};

	f->server.hold = true;
	start(t, HTTP "http_health_check: {path: /h}}]}");
	UNTIL(f, f->server.requests == 1);
	weft_health_hosts(t->h, &none);
	UNTIL(f, t->firsts == 1); /* nobody is waited for any more */
	UNTIL(f, !server_peers(&f->server));
	assert_int_equal(f->server.host.refs, 1000000);
	weft_health_stop(t->h);
	t->h = NULL;
}

static void test_disabled(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.host.hc_disabled = true;
	start(t, HTTP "http_health_check: {path: /h}}]}");
	UNTIL(f, t->firsts == 1);
	assert_int_equal(f->server.requests, 0);
}

static void test_fail_now(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	start(t, "{name: x, health_checks: [{timeout: 1s, interval: 0.05s, unhealthy_threshold: 1, "
		 "healthy_threshold: 2, http_health_check: {path: /h}}]}");
	UNTIL(f, healthy(t));
	weft_health_fail_now(&f->cl, &f->server.host);
	assert_false(healthy(t));
	STAT_IS(f, health_check_passive_failure, 1);
	weft_health_look(t->h, &f->server.host); /* what the manager does on the main thread */
	assert_int_equal(t->changes, 2);
	weft_health_look(t->h, &f->server.host);
	assert_int_equal(t->changes, 2);
	UNTIL(f, healthy(t));
	assert_int_equal(f->server.host.flags, 0);
}

static void test_tcp(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.raw = true; /* echoes */
	start(t,
	      HTTP "tcp_health_check: {send: {text: \"0102a0\"}, receive: [{text: \"01\"}, {text: "
		   "\"A0\"}]}}]}");
	UNTIL(f, healthy(t));
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 3);
	assert_int_equal(f->server.conns, 1);
}

static void test_tcp_connect(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.raw = true;
	start(t, HTTP "tcp_health_check: {}}]}");
	UNTIL(f, healthy(t));
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 3);
	assert_true(f->server.conns >= 3);
}

static void test_tcp_wrong(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.raw = true;
	start(t, "{name: x, health_checks: [{timeout: 0.04s, interval: 0.02s, unhealthy_threshold: "
		 "1, healthy_threshold: 1, tcp_health_check: {send: {text: \"01\"}, receive: "
		 "[{text: \"02\"}]}}]}");
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_failure) >= 2);
	assert_false(healthy(t));
}

static void test_tcp_binary(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.raw = true;
	start(t, HTTP "tcp_health_check: {send: {binary: AAGg}, receive: [{binary: AAE=}, {binary: "
		      "oA==}]}}]}");
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 2);
	STAT_IS(f, health_check_failure, 0);
}

/* The server echoes what it gets: the header of the check's own connection, before its bytes. */
static void test_tcp_proxy(void **state)
{
	static const struct {
		const char *conf;
		bool ok;
	} v[] = {
		{"proxy_protocol_config: {version: V2}, receive: [{text: "
		 "0d0a0d0a000d0a515549540a2000000001}]",
		 true},
		{"proxy_protocol_config: {version: V1}, receive: [{text: "
		 "50524f58592054435034203132372e302e302e3120}, {text: 0d0a01}]",
		 true},
		{"proxy_protocol_config: {}, receive: [{text: 50524f585920}]", true},
		{"receive: [{text: 50524f585920}]", false},
	};
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.raw = true;
	for (size_t i = 0; i < 4; i++) {
		char text[512];
		int64_t ok = stat_of(f, WEFT_CLUSTER_health_check_success),
			bad = stat_of(f, WEFT_CLUSTER_health_check_failure);

		snprintf(text, sizeof(text),
			 "{name: x, health_checks: [{timeout: 0.1s, interval: 0.02s, "
			 "unhealthy_threshold: 1, healthy_threshold: 1, reuse_connection: false, "
			 "tcp_health_check: {send: {text: \"01\"}, %s}}]}",
			 v[i].conf);
		start(t, text);
		UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= ok + 2 ||
				 stat_of(f, WEFT_CLUSTER_health_check_failure) > bad);
		assert_int_equal(stat_of(f, WEFT_CLUSTER_health_check_failure) == bad, v[i].ok);
		weft_health_stop(t->h);
		t->h = NULL;
		t->firsts = 0;
	}
}

/* ---- events */

static struct {
	unsigned open;
	char text[65536];
	size_t n;
} events;

static void *events_open(const char *path, struct weft_err *reterr)
{
	if (strstr(path, "nowhere")) {
		weft_fail(reterr, NULL, ENOENT, "no such place");
		return NULL;
	}
	events.open++;
	return &events;
}

static void events_put(void *file, const char *line, size_t n)
{
	assert_true(events.n + n < sizeof(events.text));
	memcpy(events.text + events.n, line, n);
	events.n += n;
	events.text[events.n] = 0;
}

static void events_close(void *file)
{
	events.open--;
}

static unsigned told(const char *what)
{
	unsigned n = 0;

	for (const char *at = events.text; (at = strstr(at, what)); at++)
		n++;
	return n;
}

static void test_events(void **state)
{
	static const struct weft_event_files ops = {events_open, events_put, events_close};
	struct hc *t = *state;
	struct fix *f = &t->f;

	memset(&events, 0, sizeof(events));
	weft_health_events_to(&ops);
	start(t, HTTP "event_log_path: /a, event_logger: [{name: f, typed_config: {\"@type\": "
		      "type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3."
		      "HealthCheckEventFileSink, event_log_path: /b}}], http_health_check: "
		      "{path: /h}}]}");
	assert_int_equal(events.open, 2);
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 3);
	assert_int_equal(told("\n"), 2); /* one to each file */
	assert_int_equal(told("\"add_healthy_event\":{\"first_check\":true}"), 2);
	assert_non_null(strstr(events.text, "{\"health_checker_type\":\"HTTP\",\"host\":{"
					    "\"socket_address\":{\"protocol\":\"TCP\","
					    "\"address\":\"127.0.0.1\",\"port_value\":"));
	assert_non_null(strstr(events.text, "\"locality\":{\"region\":\"\",\"zone\":\"\","
					    "\"sub_zone\":\"\"}}\n"));
	f->server.status = "503";
	UNTIL(f, !healthy(t));
	assert_int_equal(told("\"eject_unhealthy_event\":{\"failure_type\":\"ACTIVE\"}"), 2);
	assert_int_equal(told("health_check_failure_event"), 0);
	f->server.status = "200";
	UNTIL(f, healthy(t));
	assert_int_equal(told("\"add_healthy_event\":{\"first_check\":false}"), 2);
	weft_health_fail_now(&f->cl, &f->server.host);
	weft_health_look(t->h, &f->server.host);
	assert_int_equal(told("\"eject_unhealthy_event\":{\"failure_type\":\"PASSIVE\"}"), 2);
	weft_health_stop(t->h);
	t->h = NULL;
	assert_int_equal(events.open, 0);
	weft_health_events_to(NULL);
}

static void test_every_event(void **state)
{
	static const struct weft_event_files ops = {events_open, events_put, events_close};
	struct hc *t = *state;
	struct fix *f = &t->f;

	memset(&events, 0, sizeof(events));
	weft_health_events_to(&ops);
	start(t, "{name: x, health_checks: [{timeout: 0.05s, interval: 0.02s, unhealthy_threshold: "
		 "2, healthy_threshold: 1, event_log_path: /a, always_log_health_check_failures: "
		 "true, always_log_health_check_success: true, http_health_check: {path: /h}}]}");
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_success) >= 3);
	assert_int_equal(told("\"successful_health_check_event\":{}"), 3);
	f->server.hold = true; /* silence */
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_failure) >= 3);
	assert_int_equal(told("\"eject_unhealthy_event\":{\"failure_type\":\"NETWORK_TIMEOUT\"}"),
			 1);
	assert_int_equal(told("\"health_check_failure_event\":{\"failure_type\":"
			      "\"NETWORK_TIMEOUT\",\"first_check\":false}"),
			 3);
	STAT_IS(f, health_check_network_failure, 3);
	weft_health_stop(t->h);
	t->h = NULL;
	weft_health_events_to(NULL);
}

static void test_events_nowhere(void **state)
{
	static const struct weft_event_files ops = {events_open, events_put, events_close};
	struct weft_errs errs = {0};
	struct hc *t = *state;

	weft_health_events_to(&ops);
	assert_int_equal(
		conf(t, HTTP "event_log_path: /nowhere, http_health_check: {path: /h}}]}", &errs),
		-EINVAL);
	assert_string_equal(errs.v[0].path, "health_checks[0].event_log_path");
	assert_non_null(strstr(errs.v[0].msg, "no such place"));
	weft_health_events_to(NULL);
}

/* ---- gRPC: a server that answers by hand */

static void grpc_answer(struct hc *t, uint8_t status, const char *grpc_status)
{
	struct served *r = TAILQ_FIRST(&t->f.server.open);
	struct weft_headers h, tr;
	struct evbuffer *b = evbuffer_new();
	const uint8_t msg[] = {8, status};

	weft_headers_init(&h, r->arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, "200", 3);
	weft_headers_add_id(&h, WEFT_H_CONTENT_TYPE, "application/grpc", 16);
	weft_exchange_send_headers(r->x, &h, false);
	weft_grpc_out(b, msg, sizeof(msg));
	weft_exchange_send_data(r->x, b, false);
	weft_headers_init(&tr, r->arena);
	weft_headers_add_id(&tr, WEFT_H_GRPC_STATUS, grpc_status, strlen(grpc_status));
	weft_exchange_send_trailers(r->x, &tr);
	evbuffer_free(b);
}

static void test_grpc(void **state)
{
	struct hc *t = *state;
	struct fix *f = &t->f;

	f->server.hold = true;
	start(t, HTTP "grpc_health_check: {service_name: web, initial_metadata: [{header: {key: "
		      "x-a, value: b}}]}}]}");
	UNTIL(f, f->server.requests == 1);
	grpc_answer(t, 1, "0");
	UNTIL(f, healthy(t));
	UNTIL(f, f->server.requests == 2);
	grpc_answer(t, 2, "0"); /* NOT_SERVING */
	UNTIL(f, !healthy(t));
	UNTIL(f, f->server.requests == 3);
	grpc_answer(t, 1, "13");
	UNTIL(f, stat_of(f, WEFT_CLUSTER_health_check_failure) == 2);
	assert_int_equal(f->server.conns, 1);
}

static void test_bad_conf(void **state)
{
	static const struct {
		const char *text, *path, *msg;
	} bad[] = {
		{HTTP "http_health_check: {path: /h, codec_client_type: HTTP3}}]}",
		 "health_checks[0].http_health_check.codec_client_type", "HTTP3 is not supported"},
		{HTTP
		 "http_health_check: {path: /h, expected_statuses: [{start: 300, end: 200}]}}]}",
		 "health_checks[0].http_health_check.expected_statuses[0]",
		 "start must be below end"},
		{HTTP
		 "http_health_check: {path: /h, expected_statuses: [{start: 20, end: 200}]}}]}",
		 "health_checks[0].http_health_check.expected_statuses[0]", "must be in [100,600)"},
		{HTTP "tcp_health_check: {send: {text: xyz}}}]}",
		 "health_checks[0].tcp_health_check.send.text", "must be hex digits"},
		{HTTP "http_health_check: {path: /h, request_headers_to_add: [{header: {key: x, "
		      "value: \"%START_TIME%\"}}]}}]}",
		 "health_checks[0].http_health_check.request_headers_to_add[0]",
		 "command operators are not supported"},
		{HTTP "tcp_health_check: {proxy_protocol_config: {added_tlvs: [{type: 3, value: "
		      "eA==}]}}}]}",
		 "health_checks[0].tcp_health_check.proxy_protocol_config.added_tlvs",
		 "is not supported in health checks"},
		{HTTP "grpc_health_check: {}}]}", "health_checks[0].grpc_health_check",
		 "must speak HTTP/2"},
	};
	struct hc *t = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct weft_errs errs = {0};

		assert_int_equal(conf(t, bad[i].text, &errs), -EINVAL);
		assert_string_equal(errs.v[0].path, bad[i].path);
		if (!strstr(errs.v[0].msg, bad[i].msg))
			print_error("%s\n", errs.v[0].msg);
		assert_non_null(strstr(errs.v[0].msg, bad[i].msg));
	}
}

#define H1(t) cmocka_unit_test_setup_teardown(t, setup_h1, teardown)
#define H2(t) cmocka_unit_test_setup_teardown(t, setup_h2, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		H1(test_http),	       H1(test_http_network),
		H1(test_http_timeout), H1(test_statuses),
		H2(test_h2),	       H1(test_peer_closes_between),
		H1(test_stop_inside),  H1(test_host_leaves),
		H1(test_disabled),     H1(test_fail_now),
		H1(test_tcp),	       H1(test_tcp_connect),
		H1(test_tcp_wrong),    H2(test_grpc),
		H1(test_bad_conf),     H1(test_tcp_binary),
		H1(test_tcp_proxy),    H1(test_events),
		H1(test_every_event),  H1(test_events_nowhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
