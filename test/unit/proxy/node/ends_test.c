#include "proxy/node/accept.h"
#include "test/unit/proxy/node/apps.c"
#include <openssl/ssl.h>

static int half_close_script(struct script *s)
{
	char c[8];

	both_ends(s);
	STEP(s->b >= 0);
	shutdown(s->b, SHUT_WR); /* the server ends first, the client goes on */
	STEP(recv_result(s->a, c, 8) == 0);
	STEP(send(s->a, "ab", 2, 0) == 2 && recv_result(s->b, c, 8) == 2);
	usleep(50000);
	STEP(send(s->a, "cd", 2, 0) == 2 && recv_result(s->b, c, 8) == 2 && c[0] == 'c');
	shutdown(s->a, SHUT_WR);
	STEP(recv_result(s->b, c, 8) == 0);
	return 0;
}

static void half_close(void **state)
{
	run_script(half_close_script);
	ended_as(WEFT_REASON_OK, WEFT_REASON_OK);
	assert_int_equal(n_given, 1);
}

static int client_abort_script(struct script *s)
{
	char c[8];

	both_ends(s);
	STEP(s->b >= 0);
	STEP(send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	weft_sock_abort(s->a);
	s->a = -1;
	STEP(recv_result(s->b, c, 8) == -ECONNRESET);
	return 0;
}

static void client_abort(void **state)
{
	run_script(client_abort_script);
	ended_as(WEFT_REASON_CLIENT_RESET, WEFT_REASON_CLIENT_RESET);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1); /* the tunnel lives on */
}

static int server_abort_script(struct script *s)
{
	char c[8];

	both_ends(s);
	STEP(s->b >= 0);
	STEP(send(s->b, "x", 1, 0) == 1 && recv_result(s->a, c, 8) == 1);
	weft_sock_abort(s->b);
	s->b = -1;
	STEP(recv_result(s->a, c, 8) == -ECONNRESET);
	return 0;
}

static void server_abort(void **state)
{
	run_script(server_abort_script);
	ended_as(WEFT_REASON_SERVER_RESET, WEFT_REASON_SERVER_RESET);
}

/* The client sends until everything between is full, then the server reads: nothing is lost, little
 * is held. */
static int slow_reader_script(struct script *s)
{
	static char buf[65536];
	size_t sent = 0, got = 0;
	int idle = 0;

	both_ends(s);
	STEP(s->b >= 0);
	while (idle < 100) {
		ssize_t n = send(s->a, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0) {
			usleep(5000);
			idle++;
		} else {
			sent += (size_t)n;
			idle = 0;
		}
		STEP(sent < 200u << 20);
	}
	STEP(sent < 40u << 20); /* socket buffers and one window, not all memory */
	shutdown(s->a, SHUT_WR);
	for (;;) {
		int n = recv_result(s->b, buf, sizeof(buf));

		STEP(n >= 0);
		if (n == 0)
			break;
		got += (size_t)n;
	}
	STEP(got == sent);
	close(s->b);
	s->b = -1;
	STEP(recv_result(s->a, buf, 8) == 0);
	return 0;
}

static void slow_reader(void **state)
{
	run_script(slow_reader_script);
	ended_as(WEFT_REASON_OK, WEFT_REASON_OK);
}

static int refused_script(struct script *s)
{
	char c[8];

	s->a = app_connect();
	STEP(recv_result(s->a, c, 8) == -ECONNRESET);
	return 0;
}

static int refused_app_script(struct script *s)
{
	close(s->plain);
	s->plain = -1;
	return refused_script(s);
}

static void app_not_there(void **state)
{
	run_script(refused_app_script);
	ended_as(WEFT_REASON_CONNECT_REFUSED, WEFT_REASON_PEER_UNAVAILABLE);
	assert_int_equal(n_opened, 0);
	assert_non_null(strstr(ended[1].detail, "503, connect_refused"));
}

static void denied(void **state)
{
	set_model(&(struct model_conf){.deny_a = "deny"});
	run_script(refused_script);
	ended_as(WEFT_REASON_POLICY_DENY, WEFT_REASON_PEER_DENY);
	assert_non_null(strstr(ended[1].detail, "401, policy_deny"));
}

static atomic_uint connected;

static int cut_script(struct script *s)
{
	char c[8];

	both_ends(s);
	STEP(s->b >= 0 && send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	atomic_store(&connected, 1);
	STEP(recv_result(s->a, c, 8) == -ECONNRESET);
	STEP(recv_result(s->b, c, 8) == -ECONNRESET);
	return 0;
}

static void change_policy(evutil_socket_t fd, short what, void *arg)
{
	if (atomic_exchange(&connected, 0))
		set_model(&(struct model_conf){.deny_a = "deny"});
}

static void policy_changes(void **state)
{
	struct timeval tv = {0, 1000};
	struct event *e = event_new(base, -1, EV_PERSIST, change_policy, NULL);

	event_add(e, &tv);
	run_script(cut_script);
	event_free(e);
	ended_as(WEFT_REASON_POLICY_CHANGED, WEFT_REASON_SERVER_RESET);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1); /* the tunnel lives on */
}

static void one_failure(const char *reason)
{
	run_script(refused_script);
	assert_true(wait_ended(1, 5000));
	for (unsigned i = 0; i < n_ended; i++) {
		if (!ended[i].inbound)
			assert_string_equal(weft_reason_code(ended[i].r), reason);
	}
}

static void no_capture(void **state)
{
	no_original = true;
	one_failure("no_original_dst");
}

static void no_workload(void **state)
{
	set_model(&(struct model_conf){.a_missing = true});
	one_failure("no_workload");
}

static void no_certificate(void **state)
{
	weft_secret_unref(na.secret);
	na.secret = NULL;
	one_failure("no_certificate");
}

static void identity_differs(void **state)
{
	set_model(&(struct model_conf){.b_sa = "someone"});
	one_failure("identity_mismatch");
}

static void no_socket(void **state)
{
	no_sockets = true;
	one_failure("limit");
}

static void too_many(void **state)
{
	na.conf.max_conns = 0;
	one_failure("limit");
}

/* The certificate and the workload come while connections wait for them. */
static void late_things(evutil_socket_t fd, short what, void *arg)
{
	if (!na.secret) {
		na.secret = secret_make(&leaf_a, id_a);
		weft_secret_changed(&na.ws, id_a);
		nb.secret = secret_make(&leaf_b, id_b);
		weft_secret_changed(&nb.ws, id_b);
		set_model(&(struct model_conf){0});
	}
}

static void late_configuration(void **state)
{
	struct timeval tv = {0, 100000};
	struct event *e = evtimer_new(base, late_things, NULL);

	weft_secret_unref(na.secret);
	weft_secret_unref(nb.secret);
	na.secret = nb.secret = NULL;
	set_model(&(struct model_conf){.a_missing = true});
	event_add(e, &tv);
	server_up();
	run_clients(3, 100, false);
	all_ended_ok(6);
	server_down();
	event_free(e);
}

static void rotation(void **state)
{
	server_up();
	run_clients(3, 100, false);
	weft_secret_unref(na.secret);
	na.secret = secret_make(&leaf_a, id_a);
	weft_secret_changed(&na.ws, id_a);
	loop_ms(50);
	assert_int_equal(weft_pool_tunnels(&na.ws), 0); /* it was at rest */
	run_clients(3, 100, false);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1);
	all_ended_ok(12);
	server_down();
}

static int rotated_alive_script(struct script *s)
{
	char c[8];

	both_ends(s);
	STEP(s->b >= 0 && send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	atomic_store(&connected, 1);
	usleep(200000);
	STEP(send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	shutdown(s->a, SHUT_WR);
	STEP(recv_result(s->b, c, 8) == 0);
	shutdown(s->b, SHUT_WR);
	STEP(recv_result(s->a, c, 8) == 0);
	return 0;
}

static void rotate_now(evutil_socket_t fd, short what, void *arg)
{
	if (!atomic_exchange(&connected, 0))
		return;
	weft_secret_unref(na.secret);
	na.secret = secret_make(&leaf_a, id_a);
	weft_secret_changed(&na.ws, id_a);
	weft_secret_changed(&nb.ws, id_b);
	set_model(
		&(struct model_conf){.b_sa = "-"}); /* and the endpoint leaves the configuration */
}

static void rotation_drops_nothing(void **state)
{
	struct timeval tv = {0, 1000};
	struct event *e = event_new(base, -1, EV_PERSIST, rotate_now, NULL);

	event_add(e, &tv);
	run_script(rotated_alive_script);
	event_free(e);
	ended_as(WEFT_REASON_OK, WEFT_REASON_OK);
	loop_ms(50);
	assert_int_equal(weft_pool_tunnels(&na.ws), 0); /* it took no more streams */
}

/* The peer's proxy dies while nothing is under way: the next connection finds the tunnel dead and
 * gets another. */
static void peer_lost_at_rest(void **state)
{
	server_up();
	run_clients(2, 100, false);
	weft_drain_force(&nb.ws);
	nb.ws.draining = false;
	weft_accept_add(&nb.ws, nb.pod, 3, listen_at(ip_b, 15008, &server_addr));
	run_clients(2, 100, false);
	all_ended_ok(8);
	server_down();
}

static void drain(void **state)
{
	server_up();
	run_clients(2, 100, false);
	weft_drain_begin(&nb.ws);
	loop_ms(1300); /* two GOAWAYs, a second apart */
	assert_int_equal(weft_pool_tunnels(&na.ws), 0);
	nb.ws.draining = false;
	all_ended_ok(4);
	server_down();
}

static int drain_alive_script(struct script *s)
{
	char c[8];

	both_ends(s);
	STEP(s->b >= 0 && send(s->a, "x", 1, 0) == 1 && recv_result(s->b, c, 8) == 1);
	atomic_store(&connected, 1);
	usleep(1500000);
	STEP(send(s->b, "x", 1, 0) == 1 && recv_result(s->a, c, 8) == 1);
	close(s->a);
	STEP(recv_result(s->b, c, 8) == 0);
	close(s->b);
	s->a = s->b = -1;
	return 0;
}

static void drain_now(evutil_socket_t fd, short what, void *arg)
{
	if (atomic_exchange(&connected, 0)) {
		weft_drain_begin(&nb.ws);
		weft_drain_begin(&na.ws);
	}
}

static void drain_lets_streams_end(void **state)
{
	struct timeval tv = {0, 1000};
	struct event *e = event_new(base, -1, EV_PERSIST, drain_now, NULL);

	event_add(e, &tv);
	run_script(drain_alive_script);
	event_free(e);
	ended_as(WEFT_REASON_OK, WEFT_REASON_OK);
	loop_ms(100);
	assert_int_equal(weft_pool_tunnels(&na.ws), 0);
}

static void remove_now(evutil_socket_t fd, short what, void *arg)
{
	if (atomic_exchange(&connected, 0))
		weft_pod_removed(&nb.ws, nb.pod);
}

static void pod_removed(void **state)
{
	struct timeval tv = {0, 1000};
	struct event *e = event_new(base, -1, EV_PERSIST, remove_now, NULL);

	event_add(e, &tv);
	run_script(cut_script);
	event_free(e);
	assert_true(wait_ended(2, 2000));
	assert_int_equal(ended[0].r, WEFT_REASON_POD_REMOVED);
	assert_int_equal(weft_pool_tunnels(&na.ws), 0);
}

static void idle_release(void **state)
{
	na.conf.pool_idle_ms = 200;
	server_up();
	run_clients(1, 10, false);
	assert_int_equal(weft_pool_tunnels(&na.ws), 1);
	loop_ms(600);
	assert_int_equal(weft_pool_tunnels(&na.ws), 0);
	all_ended_ok(2);
	server_down();
}

/* Connections that begin no handshake do not keep out those that do. */
static void handshakes_make_room(void **state)
{
	struct weft_sockaddr to = addr_of(ip_b, 15008);
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&to, 0, &ss);
	int fds[3];
	char c;

	nb.conf.max_handshakes = 2;
	for (int i = 0; i < 3; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fds[i], (struct sockaddr *)&ss, n), 0);
		loop_ms(20);
	}
	assert_true(wait_ended(1, 2000)); /* the oldest */
	assert_string_equal(weft_reason_code(ended[0].r), "limit");
	errno = 0;
	assert_true(recv(fds[0], &c, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
	assert_int_equal(recv(fds[1], &c, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	server_up();
	run_clients(1, 10, false);
	assert_true(wait_ended(4, 2000));
	assert_string_equal(weft_reason_code(ended[1].r), "limit");
	for (int i = 2; i < 4; i++)
		assert_int_equal(ended[i].r, WEFT_REASON_OK);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	server_down();
}

/* A listener that never speaks: each wait has its end. */
static void silent_peer(void **state)
{
	struct weft_sockaddr at;
	int fd;

	weft_listeners_close(&nb.ws, nb.pod);
	fd = listen_at(ip_b, 15008, &at);
	na.conf.tls_ms = 200;
	one_failure("tls_timeout");
	close(fd);
}

/* ---- peers that stop half-way: every wait has its end and its reason */

enum { BEFORE_SETTINGS, AFTER_SETTINGS, JUNK };
static int stops_at, silent_fd;

static int pick_h2(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
		   unsigned in_n, void *arg)
{
	*out = (const unsigned char *)"h2";
	*n = 2;
	return SSL_TLSEXT_ERR_OK;
}

static void *silent_server(void *arg)
{
	SSL_CTX *c = SSL_CTX_new(TLS_server_method());
	SSL *held[8];
	int fds[8], n = 0;

	SSL_CTX_use_certificate(c, leaf_b.x);
	SSL_CTX_use_PrivateKey(c, leaf_b.key);
	SSL_CTX_set_alpn_select_cb(c, pick_h2, NULL);
	while (n < 8 && (fds[n] = accept(silent_fd, NULL, NULL)) >= 0) {
		static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0,
						   0, 0, 0, 4, 1, 0, 0, 0, 0};
		struct timeval tv = {1, 0};

		setsockopt(fds[n], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
		held[n] = SSL_new(c);
		SSL_set_fd(held[n], fds[n]);
		if (SSL_accept(held[n]) == 1 && stops_at == AFTER_SETTINGS)
			SSL_write(held[n], settings, sizeof(settings));
		if (stops_at == JUNK)
			SSL_write(held[n], "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
		n++;
	}
	while (n-- > 0) {
		SSL_free(held[n]);
		close(fds[n]);
	}
	SSL_CTX_free(c);
	return NULL;
}

static void stopping_peer(int at, const char *reason)
{
	struct weft_sockaddr a;
	pthread_t t;

	weft_listeners_close(&nb.ws, nb.pod);
	silent_fd = listen_at(ip_b, 15008, &a);
	stops_at = at;
	assert_int_equal(pthread_create(&t, NULL, silent_server, NULL), 0);
	one_failure(reason);
	shutdown(silent_fd, SHUT_RDWR);
	pthread_join(t, NULL);
	close(silent_fd);
}

static void no_settings(void **state)
{
	na.conf.preface_ms = 200;
	stopping_peer(BEFORE_SETTINGS, "h2_timeout");
}

static void no_answer(void **state)
{
	na.conf.answer_ms = 200;
	stopping_peer(AFTER_SETTINGS, "tunnel_answer_timeout");
}

static void no_pong(void **state)
{
	na.conf.ping_ms = 50;
	na.conf.ping_timeout_ms = 100;
	stopping_peer(AFTER_SETTINGS, "tunnel_lost");
	assert_string_equal(ended[0].detail, "no answer to PING");
}

static void not_http2(void **state)
{
	stopping_peer(JUNK, "h2_failed");
}

#define T(f) cmocka_unit_test_setup_teardown(f, nodes_up, nodes_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(half_close),
		T(client_abort),
		T(server_abort),
		T(slow_reader),
		T(app_not_there),
		T(denied),
		T(policy_changes),
		T(no_capture),
		T(no_workload),
		T(no_certificate),
		T(identity_differs),
		T(no_socket),
		T(too_many),
		T(late_configuration),
		T(rotation),
		T(rotation_drops_nothing),
		T(peer_lost_at_rest),
		T(drain),
		T(drain_lets_streams_end),
		T(pod_removed),
		T(idle_release),
		T(handshakes_make_room),
		T(silent_peer),
		T(no_settings),
		T(no_answer),
		T(no_pong),
		T(not_http2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
