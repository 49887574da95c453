/* Pools of sessions against servers in the same process. */
#include "pool_fix.h"

#include <fcntl.h>

static int setup_h1(void **state)
{
	static struct fix f;

	*state = &f;
	return fix_open(&f, WEFT_HTTP_11);
}

static int setup_h2(void **state)
{
	static struct fix f;

	*state = &f;
	return fix_open(&f, WEFT_HTTP_2);
}

static int teardown(void **state)
{
	fix_close(*state);
	return 0;
}

static void test_reuse(void **state)
{
	struct fix *f = *state;

	rq_whole(f, true);
	rq_whole(f, false);
	rq_whole(f, false);
	assert_int_equal(f->server.conns, 1);
	STAT_IS(f, upstream_cx_total, 1);
	STAT_IS(f, upstream_rq_total, 3);
	STAT_IS(f, upstream_rq_pending_total, 1);
	STAT_IS(f, upstream_cx_active, 1);
	assert_true(stat_of(f, WEFT_CLUSTER_upstream_cx_tx_bytes_total) > 0);
	assert_true(stat_of(f, WEFT_CLUSTER_upstream_cx_rx_bytes_total) > 0);
	assert_int_equal(stat_of(f, WEFT_CLUSTER_upstream_cx_http1_total) +
				 stat_of(f, WEFT_CLUSTER_upstream_cx_http2_total),
			 1);
	assert_int_equal(f->server.host.rq_total, 3);
	assert_int_equal(f->server.host.rq_active, 0);
	assert_int_equal(f->server.host.cx_active, 1);
}

static void test_parallel_h1(void **state)
{
	struct fix *f = *state;
	struct rq r[5];

	f->server.hold = true;
	for (int i = 0; i < 5; i++)
		assert_int_equal(rq_start(&r[i], f), 0);
	UNTIL(f, f->server.requests == 5);
	assert_int_equal(f->server.conns, 5); /* one request a connection */
	assert_int_equal(weft_pools_open(f->wc.pools), 5);
	STAT_IS(f, upstream_rq_active, 5);
	while (!TAILQ_EMPTY(&f->server.open)) {
		answer(TAILQ_FIRST(&f->server.open));
		turn(f);
	}
	for (int i = 0; i < 5; i++) {
		UNTIL(f, r[i].over);
		assert_int_equal(r[i].status, 200);
		rq_free(&r[i]);
	}
	f->server.hold = false;
	rq_whole(f, false);
	assert_int_equal(f->server.conns, 5);
}

static void test_pending_in_order(void **state)
{
	struct fix *f = *state;
	struct rq r[4];

	STAT_IS(f, circuit_breakers_default_remaining_rq, 1024);
	STAT_IS(f, circuit_breakers_high_remaining_cx, 1024);
	f->breaker[0].max_connections = 1;
	f->breaker[0].max_pending = 3;
	for (int i = 0; i < 3; i++)
		assert_int_equal(rq_start(&r[i], f), 0);
	assert_int_equal(rq_start(&r[3], f), -EBUSY);
	assert_null(r[3].lease);
	STAT_IS(f, upstream_rq_pending_overflow, 1);
	STAT_IS(f, upstream_cx_overflow, 2);
	STAT_IS(f, circuit_breakers_default_rq_pending_open, 1);
	STAT_IS(f, circuit_breakers_default_cx_open, 1);
	STAT_IS(f, circuit_breakers_default_remaining_pending, 0);
	UNTIL(f, r[0].over && r[1].over && r[2].over);
	assert_true(r[0].order < r[1].order && r[1].order < r[2].order);
	assert_int_equal(f->server.conns, 1);
	STAT_IS(f, circuit_breakers_default_rq_pending_open, 0);
	for (int i = 0; i < 4; i++)
		rq_free(&r[i]);
}

static void test_max_requests(void **state)
{
	struct fix *f = *state;
	struct rq a, b;

	f->breaker[0].max_requests = 1;
	f->server.hold = true;
	rq_start(&a, f);
	UNTIL(f, f->server.requests == 1);
	rq_start(&b, f);
	UNTIL(f, b.took < 0 || b.over);
	if (b.took == 0) { /* h1: it got a connection, and no leave to use it */
		assert_true(b.failed);
		assert_int_equal(b.why, WEFT_RESET_OVERFLOW);
	}
	STAT_IS(f, upstream_rq_pending_overflow, 1);
	STAT_IS(f, circuit_breakers_default_rq_open, 1);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, a.over);
	STAT_IS(f, circuit_breakers_default_rq_open, 0);
	rq_free(&a);
	rq_free(&b);
}

static void test_other_priority(void **state)
{
	struct fix *f = *state;
	struct rq a, b;

	f->server.hold = true;
	f->breaker[0].max_pending = 0;
	assert_int_equal(rq_start(&a, f), -EBUSY);
	f->how.priority = WEFT_PRIORITY_HIGH;
	assert_int_equal(rq_start(&b, f), 0);
	UNTIL(f, f->server.requests == 1);
	assert_int_equal(f->breaker[WEFT_PRIORITY_HIGH].requests, 1);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, b.over);
	f->how.priority = 0;
	rq_free(&a);
	rq_free(&b);
}

static void test_requests_per_connection(void **state)
{
	struct fix *f = *state;

	f->cl.max_requests_per_connection = 2;
	for (int i = 0; i < 5; i++)
		rq_whole(f, i % 2 == 0);
	assert_int_equal(f->server.conns, 3);
	STAT_IS(f, upstream_cx_max_requests, 2);
	STAT_IS(f, upstream_cx_destroy_local, 2);
	STAT_IS(f, upstream_cx_destroy_with_active_rq, 0);
}

static void test_refused(void **state)
{
	struct fix *f = *state;
	struct rq a, b;

	event_del(f->server.ev);
	close(f->server.fd);
	f->server.fd = open("/dev/null", O_RDONLY); /* closed in the end as if it were its own */
	f->breaker[0].max_connections = 1;
	rq_start(&a, f);
	rq_start(&b, f);
	assert_false(a.over);
	UNTIL(f, a.over && b.over);
	assert_true(a.failed && b.failed);
	assert_int_equal(a.why, WEFT_RESET_CONNECT);
	assert_true(a.detail[0]);
	STAT_IS(f, upstream_cx_connect_fail, 1);
	STAT_IS(f, upstream_rq_pending_failure_eject, 2);
	assert_int_equal(f->server.host.cx_connect_fail, 1);
	rq_free(&a);
	rq_free(&b);
}

/* A listener whose queue is full answers no SYN. */
static void test_connect_timeout(void **state)
{
	struct fix *f = *state;
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&f->server.host.addr, 0, &ss);
	int fill[4];
	struct rq r;

	event_del(f->server.ev);
	listen(f->server.fd, 0);
	for (int i = 0; i < 4; i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connect(fill[i], (struct sockaddr *)&ss, n);
	}
	f->cl.connect_ms = 50;
	rq_start(&r, f);
	UNTIL(f, r.over);
	assert_true(r.failed);
	assert_int_equal(r.why, WEFT_RESET_TIMEOUT);
	STAT_IS(f, upstream_cx_connect_timeout, 1);
	STAT_IS(f, upstream_cx_connect_fail, 1);
	for (int i = 0; i < 4; i++)
		close(fill[i]);
	rq_free(&r);
}

static void test_idle(void **state)
{
	struct fix *f = *state;

	f->cl.idle_ms = 30;
	rq_whole(f, true);
	assert_int_equal(weft_pools_open(f->wc.pools), 1);
	UNTIL(f, !weft_pools_open(f->wc.pools));
	STAT_IS(f, upstream_cx_idle_timeout, 1);
	STAT_IS(f, upstream_cx_destroy_local, 1);
	rq_whole(f, true);
}

static void test_age(void **state)
{
	struct fix *f = *state;
	struct rq r;

	f->cl.max_connection_ms = 30;
	f->server.hold = true;
	rq_start(&r, f);
	UNTIL(f, stat_of(f, WEFT_CLUSTER_upstream_cx_max_duration_reached) == 1);
	assert_false(r.over); /* its request goes on */
	assert_int_equal(weft_pools_open(f->wc.pools), 1);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, r.over);
	assert_int_equal(r.status, 200);
	UNTIL(f, !weft_pools_open(f->wc.pools));
	rq_free(&r);
}

static void test_peer_closes(void **state)
{
	struct fix *f = *state;
	struct rq r;

	rq_whole(f, true);
	server_drop(&f->server); /* while idle */
	UNTIL(f, !weft_pools_open(f->wc.pools));
	STAT_IS(f, upstream_cx_destroy_with_active_rq, 0);
	f->server.hold = true;
	rq_start(&r, f);
	UNTIL(f, f->server.requests == 2);
	server_drop(&f->server); /* inside a request */
	UNTIL(f, r.over);
	assert_true(r.cut);
	UNTIL(f, !weft_pools_open(f->wc.pools));
	STAT_IS(f, upstream_cx_total, 2);
	STAT_IS(f, upstream_cx_destroy, 2);
	rq_free(&r);
}

static void test_cancel(void **state)
{
	struct fix *f = *state;
	struct rq r;

	rq_start(&r, f);
	assert_int_equal(r.took, 0);
	rq_free(&r);
	STAT_IS(f, upstream_rq_cancelled, 1);
	/* the connection it began is kept for the next one */
	UNTIL(f, f->server.conns == 1);
	turn(f);
	rq_whole(f, true);
	assert_int_equal(f->server.conns, 1);
	/* cut in the middle: h1 loses its connection, h2 does not */
	f->server.hold = true;
	rq_start(&r, f);
	UNTIL(f, f->server.requests == 2);
	rq_free(&r);
	f->server.hold = false;
	UNTIL(f, TAILQ_EMPTY(&f->server.open));
	rq_whole(f, f->cl.http == WEFT_UP_H1);
}

static void test_host_gone(void **state)
{
	struct fix *f = *state;
	struct rq r;

	f->server.hold = true;
	rq_start(&r, f);
	UNTIL(f, f->server.requests == 1);
	weft_pools_host_gone(f->wc.pools, &f->server.host);
	assert_int_equal(weft_pools_open(f->wc.pools), 1);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, r.over);
	assert_int_equal(r.status, 200);
	UNTIL(f, !weft_pools_open(f->wc.pools));
	rq_free(&r);
	/* its health failed: likewise, and connections made after it are kept */
	rq_start(&r, f);
	UNTIL(f, f->server.requests == 2);
	weft_pools_host_failed(f->wc.pools, &f->server.host, true);
	assert_int_equal(weft_pools_open(f->wc.pools), 1);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, r.over);
	assert_int_equal(r.status, 200);
	UNTIL(f, !weft_pools_open(f->wc.pools));
	rq_free(&r);
	f->server.hold = false;
	rq_whole(f, true);
	rq_whole(f, false);
	weft_pools_host_failed(f->wc.pools, &f->server.host, false);
	assert_int_equal(weft_pools_open(f->wc.pools), 0);
}

static void test_drain(void **state)
{
	struct fix *f = *state;
	struct rq a, b;

	rq_whole(f, true);
	f->server.hold = true;
	rq_start(&a, f);
	UNTIL(f, f->server.requests == 2);
	if (f->cl.http == WEFT_UP_H1) {
		rq_start(&b, f); /* waits for its connection: still gets it */
		assert_int_equal(b.took, 0);
	} else {
		rq_start(&b, f);
	}
	weft_pools_drain(f->wc.pools);
	UNTIL(f, f->server.requests == 3);
	while (!TAILQ_EMPTY(&f->server.open)) {
		answer(TAILQ_FIRST(&f->server.open));
		turn(f);
		turn(f);
	}
	UNTIL(f, a.over && b.over);
	assert_int_equal(a.status + b.status, 400);
	UNTIL(f, !weft_pools_open(f->wc.pools));
	rq_free(&a);
	rq_free(&b);
}

static void test_preconnect(void **state)
{
	struct fix *f = *state;
	struct rq r;

	f->cl.preconnect_ratio = 2;
	f->server.hold = true;
	rq_start(&r, f);
	UNTIL(f, f->server.conns == 2);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, r.over);
	rq_free(&r);
}

static void test_max_pools(void **state)
{
	struct fix *f = *state;
	struct rq a, b;

	f->breaker[0].max_pools = 1;
	f->server.hold = true;
	rq_start(&a, f);
	UNTIL(f, f->server.requests == 1);
	f->how.tunnel = "10.0.0.1:80"; /* another key */
	assert_int_equal(rq_start(&b, f), -EBUSY);
	STAT_IS(f, upstream_cx_pool_overflow, 1);
	f->how.tunnel = NULL;
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, a.over);
	rq_free(&a);
	rq_free(&b);
}

static void test_long_name(void **state)
{
	struct fix *f = *state;
	char name[1024];
	struct rq r;

	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	f->how.tunnel = name;
	assert_int_equal(rq_start(&r, f), -EINVAL);
	rq_free(&r);
}

static void test_per_downstream(void **state)
{
	struct fix *f = *state;

	f->how.downstream_id = 7;
	rq_whole(f, true);
	f->how.downstream_id = 8;
	rq_whole(f, false); /* not asked for */
	f->priv.pool_per_downstream = true;
	rq_whole(f, true);
	rq_whole(f, false);
	f->how.downstream_id = 9;
	rq_whole(f, true);
	assert_int_equal(weft_pools_open(f->wc.pools), 3);
	weft_pool_downstream_gone(&f->wc, 8);
	assert_int_equal(weft_pools_open(f->wc.pools), 2);
	f->how.downstream_id = 0;
}

/* ---- h2 */

static void test_multiplex(void **state)
{
	struct fix *f = *state;
	struct rq r[50];

	f->server.hold = true;
	for (int i = 0; i < 50; i++)
		rq_start(&r[i], f);
	UNTIL(f, f->server.requests == 50);
	assert_int_equal(f->server.conns, 1);
	STAT_IS(f, upstream_cx_http2_total, 1);
	while (!TAILQ_EMPTY(&f->server.open)) {
		answer(TAILQ_FIRST(&f->server.open));
		turn(f);
		turn(f);
	}
	for (int i = 0; i < 50; i++) {
		UNTIL(f, r[i].over);
		assert_int_equal(r[i].status, 200);
		rq_free(&r[i]);
	}
}

static void streams(struct fix *f, unsigned conns)
{
	struct rq r[25];

	f->server.hold = true;
	for (int i = 0; i < 25; i++)
		rq_start(&r[i], f);
	UNTIL(f, f->server.requests == 25);
	assert_int_equal(f->server.conns, conns);
	while (!TAILQ_EMPTY(&f->server.open)) {
		answer(TAILQ_FIRST(&f->server.open));
		turn(f);
		turn(f);
	}
	for (int i = 0; i < 25; i++) {
		UNTIL(f, r[i].over);
		assert_int_equal(r[i].status, 200);
		rq_free(&r[i]);
	}
}

static void test_streams_conf(void **state)
{
	struct fix *f = *state;

	f->cl.session_h2.h2.max_streams = 10;
	streams(f, 3);
}

static void test_streams_peer(void **state)
{
	struct fix *f = *state;

	f->server.conf.h2.max_streams = 5;
	rq_whole(f, true); /* its SETTINGS are known */
	f->server.requests = 0;
	streams(f, 5);
}

static void test_goaway(void **state)
{
	struct fix *f = *state;
	struct rq a;

	f->server.hold = true;
	rq_start(&a, f);
	UNTIL(f, f->server.requests == 1);
	weft_session_drain(f->server.peers[0].session, 0);
	UNTIL(f, stat_of(f, WEFT_CLUSTER_upstream_cx_close_notify) == 1);
	f->server.hold = false;
	rq_whole(f, true); /* on a new connection */
	assert_int_equal(f->server.conns, 2);
	answer(TAILQ_FIRST(&f->server.open));
	UNTIL(f, a.over);
	assert_int_equal(a.status, 200);
	UNTIL(f, weft_pools_open(f->wc.pools) == 1);
	rq_free(&a);
}

/* What a request pays for its place. Told, not judged: machines differ. */
static void test_cost(void **state)
{
	struct fix *f = *state;
	enum { N = 200000 };
	struct weft_lease *l;
	uint64_t t0;

	f->cl.idle_ms = 3600000;
	rq_whole(f, true);
	t0 = weft_now_ns();
	for (int i = 0; i < N; i++) {
		assert_int_equal(
			weft_pool_take(&f->wc, &f->server.host, &f->how, &rq_ops, NULL, &l), 1);
		weft_lease_done(l);
	}
	print_message("take and give back: %.0f ns\n", (double)(weft_now_ns() - t0) / N);
}

#define H1(t) cmocka_unit_test_setup_teardown(t, setup_h1, teardown)
#define H2(t) cmocka_unit_test_setup_teardown(t, setup_h2, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		H1(test_reuse),
		H1(test_parallel_h1),
		H1(test_pending_in_order),
		H1(test_max_requests),
		H1(test_other_priority),
		H1(test_requests_per_connection),
		H1(test_refused),
		H1(test_connect_timeout),
		H1(test_idle),
		H1(test_age),
		H1(test_peer_closes),
		H1(test_cancel),
		H1(test_host_gone),
		H1(test_drain),
		H1(test_preconnect),
		H1(test_max_pools),
		H1(test_long_name),
		H1(test_per_downstream),
		H1(test_cost),
		H2(test_reuse),
		H2(test_max_requests),
		H2(test_requests_per_connection),
		H2(test_idle),
		H2(test_age),
		H2(test_peer_closes),
		H2(test_cancel),
		H2(test_host_gone),
		H2(test_drain),
		H2(test_multiplex),
		H2(test_streams_conf),
		H2(test_streams_peer),
		H2(test_goaway),
		H2(test_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
