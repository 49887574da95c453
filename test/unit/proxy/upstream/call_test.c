/* Calls on clusters of the real manager: picks, pools, health checks and DNS together. */
#include "build.h"
#include "pool_fix.h"

#include <poll.h>

static struct bed *b;
static struct server s;
static struct weft_arena *a;
static const char *protocol;

struct got {
	unsigned n;
	int status;
	enum weft_reset why;
	char body[64], detail[128], header[32];
};

/* Both loops, until cond or ten seconds. */
#define BOTH(cond)                                                                                 \
	do {                                                                                       \
		uint64_t end_ = weft_now_ns() + 10000000000ull;                                    \
		while (!(cond) && weft_now_ns() < end_) {                                          \
			event_base_loop(b->main->base, EVLOOP_NONBLOCK);                           \
			event_base_loop(b->w->base, EVLOOP_NONBLOCK);                              \
			poll(NULL, 0, 1);                                                          \
		}                                                                                  \
		assert_true(cond);                                                                 \
	} while (0)

static int setup_version(void **state, enum weft_http v)
{
	memset(&s, 0, sizeof(s));
	a = weft_arena_new(0);
	b = bed_new(NULL);
	server_open(&s, b->w->base, v);
	return 0;
}

static int setup(void **state)
{
	protocol = "";
	return setup_version(state, WEFT_HTTP_11);
}

static int setup_h2(void **state)
{
	protocol = "http2_protocol_options: {},";
	return setup_version(state, WEFT_HTTP_2);
}

static int teardown(void **state)
{
	server_close(&s);
	for (int i = 0; i < 50; i++)
		bed_run(b);
	bed_free(b);
	weft_arena_free(a);
	return 0;
}

static void cluster(const char *more)
{
	const char *text = weft_arena_printf(
		a,
		"{name: c, connect_timeout: 1s, %s %s load_assignment: {cluster_name: c, "
		"endpoints: "
		"[{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: "
		"%u}}}}]}]}}",
		protocol, more, strstr(more, "DNS") ? "localhost" : "127.0.0.1", s.host.addr.port);

	if (bed_set(b, true, text) < 0) {
		print_error("%s: %s\n", b->errs.v[0].path, b->errs.v[0].msg);
		fail();
	}
}

static void done(void *owner, const struct weft_call_result *r)
{
	struct got *g = owner;

	g->n++;
	g->status = r->status;
	g->why = r->why;
	snprintf(g->detail, sizeof(g->detail), "%s", r->detail);
	if (r->headers) {
		const struct weft_header *h = weft_headers_find(r->headers, "content-length", 0);

		snprintf(g->header, sizeof(g->header), "%s", h ? h->value : "");
	}
	if (r->body) {
		size_t n = evbuffer_get_length(r->body);

		evbuffer_copyout(r->body, g->body, n < 63 ? n : 63);
		g->body[n < 63 ? n : 63] = 0;
	}
}

static struct weft_call *call_with(struct got *g, const char *name, struct evbuffer *body,
				   unsigned ms)
{
	struct weft_headers h;
	struct weft_call_conf conf = {.cluster = name,
				      .headers = &h,
				      .body = body,
				      .timeout_ms = ms,
				      .body_max = 1000,
				      .done = done,
				      .owner = g};

	memset(g, 0, sizeof(*g));
	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_METHOD, body ? "POST" : "GET", body ? 4 : 3);
	weft_headers_add_id(&h, WEFT_H_PATH, "/", 1);
	weft_headers_add_id(&h, WEFT_H_SCHEME, "http", 4);
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, "c", 1);
	return weft_call_start(b->w, &conf);
}

static struct weft_call *call(struct got *g)
{
	struct weft_call *c = call_with(g, "c", NULL, 5000);

	assert_int_equal(g->n, 0); /* never before it returns */
	return c;
}

/* The server's answer by hand, with a body of n bytes. */
static void answer_body(size_t n)
{
	struct served *r = TAILQ_FIRST(&s.open);
	struct evbuffer *e = evbuffer_new();
	struct weft_headers h;

	for (size_t i = 0; i < n; i++)
		evbuffer_add(e, "x", 1);
	weft_headers_init(&h, r->arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, "200", 3);
	weft_exchange_send_headers(r->x, &h, false);
	weft_exchange_send_data(r->x, e, true);
	evbuffer_free(e);
}

static void test_call(void **state)
{
	struct got g, k;

	cluster("");
	assert_non_null(call(&g));
	BOTH(g.n);
	assert_int_equal(g.status, 200);
	assert_string_equal(g.header, "0");
	bed_run(b);
	call(&g);
	BOTH(g.n);
	assert_int_equal(s.conns, 1); /* used again */
	bed_run(b);
	call(&g);
	call(&k);
	BOTH(g.n && k.n);
	assert_int_equal(g.status + k.status, 400);
	BOTH(!bed_stat(b, "c", WEFT_CLUSTER_upstream_rq_active));
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_upstream_rq_total), 4);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_upstream_rq_active), 0);
}

static void test_body(void **state)
{
	struct evbuffer *e = evbuffer_new();
	struct got g;

	cluster("");
	s.hold = true;
	evbuffer_add(e, "question", 8);
	call_with(&g, "c", e, 5000);
	assert_int_equal(evbuffer_get_length(e), 0);
	BOTH(s.requests == 1);
	answer_body(5);
	BOTH(g.n);
	assert_int_equal(g.status, 200);
	assert_string_equal(g.body, "xxxxx");
	call(&g);
	BOTH(s.requests == 2);
	answer_body(2000); /* more than was allowed */
	BOTH(g.n);
	assert_int_equal(g.status, 0);
	assert_non_null(strstr(g.detail, "too large"));
	evbuffer_free(e);
}

static void test_failures(void **state)
{
	struct got g;

	cluster("");
	assert_null(call_with(&g, "other", NULL, 5000));
	s.hold = true;
	call_with(&g, "c", NULL, 40);
	BOTH(g.n);
	assert_int_equal(g.status, 0);
	assert_int_equal(g.why, WEFT_RESET_TIMEOUT);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_upstream_rq_timeout), 1);
	s.requests = 0;
	call(&g);
	BOTH(s.requests == 1);
	server_drop(&s);
	BOTH(g.n);
	assert_int_equal(g.status, 0);
	assert_true(g.detail[0]);
	event_del(s.ev);
	close(s.fd);
	s.fd = dup(0);
	call(&g);
	BOTH(g.n);
	assert_int_equal(g.why, WEFT_RESET_CONNECT);
}

static void test_no_host(void **state)
{
	struct got g;

	assert_int_equal(bed_set(b, false, "{name: c, connect_timeout: 1s}"), 1);
	assert_non_null(call(&g));
	assert_int_equal(g.n, 0);
	BOTH(g.n);
	assert_int_equal(g.status, 0);
	assert_string_equal(g.detail, "no_healthy_upstream");
}

static void test_cancel(void **state)
{
	struct weft_call *c;
	struct got g;

	cluster("");
	weft_call_cancel(call(&g)); /* while it waits for its connection */
	s.hold = true;
	c = call(&g);
	BOTH(s.requests == 1);
	weft_call_cancel(c);
	BOTH(TAILQ_EMPTY(&s.open));
	assert_int_equal(g.n, 0);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_upstream_rq_active), 0);
}

/* The cluster is replaced and removed under requests that are open. */
static void test_replaced(void **state)
{
	struct got g, k;

	cluster("");
	s.hold = true;
	call(&g);
	BOTH(s.requests == 1);
	cluster("alt_stat_name: d,");
	call(&k);
	BOTH(s.requests == 2);
	assert_int_equal(s.conns, 2);
	assert_int_equal(weft_clusters_remove(b->m, "c"), 0);
	while (!TAILQ_EMPTY(&s.open)) {
		answer(TAILQ_FIRST(&s.open));
		bed_run(b);
	}
	BOTH(g.n && k.n);
	assert_int_equal(g.status + k.status, 400);
	BOTH(!server_peers(&s)); /* nothing is kept of a cluster that left */
}

static void test_health_warms(void **state)
{
	struct got g;

	s.status = "503";
	cluster("health_checks: [{timeout: 1s, interval: 0.02s, no_traffic_interval: 0.02s, "
		"unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}], "
		"common_lb_config: {healthy_panic_threshold: {value: 0}},");
	BOTH(strstr(b->live, "+c"));
	call(&g);
	BOTH(g.n);
	assert_string_equal(g.detail, "no_healthy_upstream");
	s.status = "200";
	BOTH(bed_stat(b, "c", WEFT_CLUSTER_membership_healthy) == 1);
	bed_run(b);
	call(&g);
	BOTH(g.n);
	assert_int_equal(g.status, 200);
}

static void test_dns(void **state)
{
	struct got g;

	cluster("type: STRICT_DNS, dns_lookup_family: V4_ONLY,");
	BOTH(strstr(b->live, "+c"));
	bed_run(b);
	call(&g);
	BOTH(g.n);
	assert_int_equal(g.status, 200);
}

#define H1(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
#define H2(t) cmocka_unit_test_setup_teardown(t, setup_h2, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		H1(test_call),	   H1(test_body),     H1(test_failures),     H1(test_no_host),
		H1(test_cancel),   H1(test_replaced), H1(test_health_warms), H1(test_dns),
		H2(test_call),	   H2(test_body),     H2(test_failures),     H2(test_cancel),
		H2(test_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
