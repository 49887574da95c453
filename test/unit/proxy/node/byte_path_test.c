#include "proxy/node/link.h"
#include "test/unit/proxy/node/apps.c"

/* ---- tests */

static void one_connection(void **state)
{
	server_up();
	run_clients(1, 1000, false);
	all_ended_ok(2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(ended[i].sent, 1000);
		assert_int_equal(ended[i].received, 1000);
		assert_string_equal(ended[i].src_id, id_a);
		assert_string_equal(ended[i].dst_id, id_b);
	}
	assert_int_equal(n_opened, 2);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1);
	assert_true(weft_ip_eq(&last_peer.ip,
			       &na.pod->addrs[0])); /* the client's address came through */
	server_down();
}

static void many_in_turn(void **state)
{
	server_up();
	run_clients(200, 5000, false);
	all_ended_ok(400);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1);
	server_down();
}

static void thousand_streams(void **state)
{
	server_up();
	run_clients(1000, 3000, true);
	all_ended_ok(2000);
	assert_int_equal(weft_pool_tunnels(&na.ws), 10); /* 100 streams each */
	assert_int_equal(n_taken, 10 + 1000); /* one dial a tunnel, one socket an app connection */
	assert_int_equal(n_given, 1000);
	server_down();
}

static void bulk(void **state)
{
	server_up();
	run_clients(2, 64 << 20, false);
	all_ended_ok(4);
	server_down();
}

/* ---- plain TCP, both ways */

static void plain_out(void **state)
{
	set_model(&(struct model_conf){.b_plain = true});
	server_up();
	run_clients(20, 200000, false);
	all_ended_ok(20);
	assert_int_equal(n_given, 20);
	server_down();
}

static void passthrough(void **state)
{
	set_model(&(struct model_conf){.b_sa = "-"});
	server_up();
	run_clients(20, 200000, false);
	all_ended_ok(20);
	server_down();
}

static int plain_connect(void)
{
	struct weft_sockaddr to = addr_of(ip_b, 15006);
	struct weft_sockaddr was = na.capture;
	int fd;

	na.capture = to;
	fd = app_connect();
	na.capture = was;
	return fd;
}

static int plain_script(struct script *s)
{
	char c[8];
	struct sockaddr_in peer;
	socklen_t n = sizeof(peer);
	struct in_addr a;

	s->a = plain_connect();
	s->b = accept(s->plain, (struct sockaddr *)&peer, &n);
	inet_pton(AF_INET, ip_a, &a);
	STEP(s->b >= 0 && peer.sin_addr.s_addr == a.s_addr); /* the client's address */
	STEP(send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	STEP(send(s->b, "xyz", 3, 0) == 3 && recv_result(s->a, c, 8) == 3);
	shutdown(s->a, SHUT_WR);
	STEP(recv_result(s->b, c, 8) == 0);
	STEP(send(s->b, "x", 1, 0) == 1 && recv_result(s->a, c, 8) == 1);
	shutdown(s->b, SHUT_WR);
	STEP(recv_result(s->a, c, 8) == 0);
	return 0;
}

static int plain_abort_script(struct script *s)
{
	char c[8];

	s->a = plain_connect();
	s->b = accept(s->plain, NULL, NULL);
	STEP(send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	weft_sock_abort(s->a);
	s->a = -1;
	STEP(recv_result(s->b, c, 8) == -ECONNRESET);
	return 0;
}

static int plain_refused_script(struct script *s)
{
	char c[8];

	s->a = plain_connect();
	STEP(recv_result(s->a, c, 8) == -ECONNRESET);
	return 0;
}

static const char *own_port; /* NULL: at ip_a */

/* A pod's own port as original destination: connection tracking says so of what was not captured.
 */
static int own_port_script(struct script *s)
{
	char c[8];

	original = addr_of(own_port ? own_port : ip_a, 15001);
	s->a = app_connect();
	STEP(recv_result(s->a, c, 8) == -ECONNRESET);
	return 0;
}

static void own_port_out(void **state)
{
	set_model(&(struct model_conf){.b_sa = "-"});
	weft_ip_parse("10.7.7.7", &na.pod->addrs[1]); /* unlike ip_a, not loopback */
	na.pod->n_addrs = 2;
	run_script(own_port_script);
	assert_true(wait_ended(1, 2000));
	assert_int_equal(ended[0].r, WEFT_REASON_ILLEGAL_PORT);
	own_port = "10.7.7.7";
	run_script(own_port_script);
	assert_true(wait_ended(2, 2000));
	assert_int_equal(ended[1].r, WEFT_REASON_ILLEGAL_PORT);
}

static void plain_in(void **state)
{
	int fd = listen_at(ip_b, 0, &plain_dst);

	close(fd); /* its port is the next script's */
	run_script_at(plain_script, plain_dst.port);
	assert_true(wait_ended(1, 2000));
	assert_int_equal(ended[0].r, WEFT_REASON_OK);
	assert_true(ended[0].inbound);
	assert_int_equal(ended[0].sent, 4);
	assert_int_equal(ended[0].received, 1);
	assert_string_equal(ended[0].src_id, "");
	run_script_at(plain_abort_script, plain_dst.port);
	assert_true(wait_ended(2, 2000));
	assert_int_equal(ended[1].r, WEFT_REASON_CLIENT_RESET);
	plain_dst.port = 15001;
	run_script(plain_refused_script);
	assert_true(wait_ended(3, 2000));
	assert_int_equal(ended[2].r, WEFT_REASON_ILLEGAL_PORT);
}

/* ---- streams of a peer that does as it likes */

struct raw {
	struct weft_tunnel *t;
	struct weft_link k;
	struct weft_flow flow;
	int status;
	char why[32];
	enum weft_reason end;
	atomic_uint ready, done;
};

static void raw_ready(struct weft_tunnel *t)
{
	struct raw *r = weft_tunnel_owner(t);

	atomic_store(&r->ready, 1);
}

static void raw_closed(struct weft_tunnel *t, enum weft_reason why, const char *detail)
{
	struct raw *r = weft_tunnel_owner(t);

	r->t = NULL;
}

static void raw_answer(struct weft_link *k, int status, const char *why)
{
	struct raw *r = (struct raw *)((char *)k - offsetof(struct raw, k));

	r->status = status;
	snprintf(r->why, sizeof(r->why), "%s", why);
	weft_link_done(k, 8);
	atomic_store(&r->done, 1);
}

static void raw_ended(struct weft_link *k, enum weft_reason why, const char *detail, bool retry)
{
	struct raw *r = (struct raw *)((char *)k - offsetof(struct raw, k));

	r->end = why;
	atomic_store(&r->done, 1);
}

static void raw_open(struct raw *r)
{
	static const struct weft_tunnel_ops ops = {.ready = raw_ready, .closed = raw_closed};
	static const char *const want[] = {id_b};
	struct weft_tunnel_conf conf = {
		.ws = &na.ws, .ctx = na.secret->client, .ops = &ops, .owner = r};
	struct weft_sockaddr to = addr_of(ip_b, 15008);
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&to, 0, &ss);

	memset(r, 0, sizeof(*r));
	conf.want.ids = want;
	conf.want.n_ids = 1;
	conf.fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(conf.fd, (struct sockaddr *)&ss, n), 0);
	fcntl(conf.fd, F_SETFL, O_NONBLOCK);
	r->t = weft_tunnel_new(&conf);
	assert_true(loop_until(flag_set, &r->ready, 3000));
}

static int raw_ask(struct raw *r, const char *method, const char *authority)
{
	static const struct weft_link_ops ops = {.answer = raw_answer, .ended = raw_ended};
	struct weft_h2_header v[] = {{":method", method, 7, strlen(method)},
				     {":authority", authority, 10, strlen(authority)},
				     {":scheme", "http", 7, 4},
				     {":path", "/", 5, 1}};
	bool tunnel = strcmp(method, "CONNECT") == 0;

	memset(&r->k, 0, sizeof(r->k));
	r->k.ops = &ops;
	r->k.flow = &r->flow;
	r->status = 0;
	atomic_store(&r->done, 0);
	assert_int_equal(weft_link_open(&r->k, &na.ws, r->t, v, tunnel ? 2 : 4), 0);
	assert_true(loop_until(flag_set, &r->done, 3000));
	return r->status;
}

static void statuses(void **state)
{
	struct raw r;
	char at[64];

	server_up();
	set_model(&(struct model_conf){.service = true, .port = server_addr.port});
	raw_open(&r);
	snprintf(at, sizeof(at), "%s:%u", ip_b, server_addr.port);
	assert_int_equal(raw_ask(&r, "CONNECT", at), 200);
	assert_int_equal(raw_ask(&r, "GET", at), 400);
	assert_string_equal(r.why, "bad_request");
	assert_int_equal(raw_ask(&r, "CONNECT", ip_b), 400); /* no port */
	snprintf(at, sizeof(at), "%s:%u", ip_a, server_addr.port);
	assert_int_equal(raw_ask(&r, "CONNECT", at), 400); /* not the address dialled */
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned illegal[] = {15001, 15006, 15008};

		snprintf(at, sizeof(at), "%s:%u", ip_b, illegal[i]);
		assert_int_equal(raw_ask(&r, "CONNECT", at), 503);
		assert_string_equal(r.why, "illegal_port");
	}
	assert_int_equal(raw_ask(&r, "CONNECT", "web.app.svc.cluster.local:80"), 200);
	assert_int_equal(raw_ask(&r, "CONNECT", "web.app.svc.cluster.local:81"), 503);
	assert_string_equal(r.why, "no_port");
	assert_int_equal(raw_ask(&r, "CONNECT", "nobody.app.svc.cluster.local:80"), 503);
	set_model(&(struct model_conf){.deny_a = "deny"});
	snprintf(at, sizeof(at), "%s:%u", ip_b, server_addr.port);
	assert_int_equal(raw_ask(&r, "CONNECT", at), 401);
	set_model(&(struct model_conf){.b_sa = "-"});
	assert_int_equal(raw_ask(&r, "CONNECT", at), 503);
	assert_string_equal(r.why, "no_workload");
	weft_tunnel_kill(r.t, WEFT_REASON_OK, "");
	server_down();
}

/* A peer that allows four streams gets four a tunnel. */
static void few_streams_allowed(void **state)
{
	nb.conf.max_streams = 4;
	server_up();
	run_clients(22, 3000, true);
	all_ended_ok(44);
	assert_int_equal(weft_pool_tunnels(&na.ws), 6);
	server_down();
}

static void one_stream_allowed(void **state)
{
	nb.conf.max_streams = 1;
	server_up();
	run_clients(5, 100, true);
	all_ended_ok(10);
	assert_int_equal(weft_pool_tunnels(&na.ws), 5);
	server_down();
}

/* Two endpoints, nobody listens at one of them: every connection gets through. */
static void other_endpoint(void **state)
{
	unsigned failed = 0;

	server_up();
	set_model(&(struct model_conf){.service = true, .port = server_addr.port});
	original = addr_of(vip, 80);
	run_clients(40, 100, false);
	assert_true(wait_ended(80, 5000));
	for (unsigned i = 0; i < n_ended; i++)
		failed += ended[i].r != WEFT_REASON_OK;
	assert_int_equal(failed, 0);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1);
	server_down();
}

#define T(f) cmocka_unit_test_setup_teardown(f, nodes_up, nodes_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_connection), T(many_in_turn),	   T(thousand_streams),	  T(bulk),
		T(plain_out),	   T(passthrough),	   T(own_port_out),	  T(plain_in),
		T(statuses),	   T(few_streams_allowed), T(one_stream_allowed), T(other_endpoint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
