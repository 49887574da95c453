#include "proxy/node/accept.h"
#include "test/unit/proxy/node/two_nodes.c"

/* ---- apps: an echo server, and clients that check every byte; both in threads of their own */

enum { CONNS = 1200 };

static int listener = -1;
static atomic_uint server_stop, client_done, client_bad, server_rst, server_conns;
static struct weft_sockaddr server_addr, last_peer;

struct echo {
	int fd;
	bool eof;
	uint8_t *buf;
	size_t n, off;
};

static bool echo_step(struct echo *e)
{
	if (e->off == e->n && !e->eof) {
		ssize_t k = recv(e->fd, e->buf, 65536, 0);

		if (k < 0 && errno != EAGAIN) {
			atomic_fetch_add(&server_rst, 1);
			return false;
		}
		e->eof = k == 0;
		e->n = k > 0 ? (size_t)k : 0;
		e->off = 0;
	}
	if (e->off < e->n) {
		ssize_t k = send(e->fd, e->buf + e->off, e->n - e->off, MSG_NOSIGNAL);

		if (k < 0 && errno != EAGAIN) {
			atomic_fetch_add(&server_rst, 1);
			return false;
		}
		e->off += k > 0 ? (size_t)k : 0;
	}
	return !(e->eof && e->off == e->n);
}

static void *echo_server(void *arg)
{
	static struct echo es[CONNS];
	static struct pollfd pf[CONNS + 1];
	unsigned n = 0;

	while (!atomic_load(&server_stop)) {
		pf[0] = (struct pollfd){listener, POLLIN, 0};
		for (unsigned i = 0; i < n; i++)
			pf[i + 1] = (struct pollfd){es[i].fd,
						    es[i].off < es[i].n ? POLLOUT : POLLIN, 0};
		if (poll(pf, n + 1, 5) <= 0)
			continue;
		for (unsigned i = n; i-- > 0;) {
			if (!pf[i + 1].revents || echo_step(&es[i]))
				continue;
			close(es[i].fd);
			free(es[i].buf);
			es[i] = es[--n];
		}
		while (pf[0].revents && n < CONNS) {
			struct sockaddr_storage ss;
			socklen_t sn = sizeof(ss);
			int fd = accept4(listener, (struct sockaddr *)&ss, &sn, SOCK_NONBLOCK);

			if (fd < 0)
				break;
			weft_sockaddr_from_kernel(&ss, &last_peer);
			atomic_fetch_add(&server_conns, 1);
			es[n] = (struct echo){.fd = fd, .buf = malloc(65536)};
			n++;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		close(es[i].fd);
		free(es[i].buf);
	}
	return NULL;
}

static pthread_t server_thread;

static void server_up(void)
{
	listener = listen_at(ip_b, 0, &server_addr);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	atomic_store(&server_stop, 0);
	atomic_store(&server_rst, 0);
	atomic_store(&server_conns, 0);
	original = server_addr;
	assert_int_equal(pthread_create(&server_thread, NULL, echo_server, NULL), 0);
}

static void server_down(void)
{
	atomic_store(&server_stop, 1);
	pthread_join(server_thread, NULL);
	close(listener);
}

static int app_connect(void)
{
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&na.capture, 0, &ss);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_in me = {.sin_family = AF_INET};

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	inet_pton(AF_INET, ip_a, &me.sin_addr);
	if (bind(fd, (struct sockaddr *)&me, sizeof(me)) < 0 ||
	    connect(fd, (struct sockaddr *)&ss, n) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static uint8_t byte_at(unsigned id, size_t i)
{
	return (uint8_t)((i * 2654435761u >> 13) + id * 31 + i);
}

/* Sends n bytes, half-closes, reads the echo to its end. */
static bool exchange(int fd, unsigned id, size_t n)
{
	static __thread uint8_t buf[65536];
	size_t sent = 0, got = 0;
	bool shut = false;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (;;) {
		struct pollfd p = {fd, POLLIN | (sent < n ? POLLOUT : 0), 0};
		ssize_t k;

		if (poll(&p, 1, 20000) <= 0)
			return false;
		if (sent < n && p.revents & POLLOUT) {
			size_t m = n - sent < sizeof(buf) ? n - sent : sizeof(buf);

			for (size_t i = 0; i < m; i++)
				buf[i] = byte_at(id, sent + i);
			k = send(fd, buf, m, MSG_NOSIGNAL);
			if (k < 0 && errno != EAGAIN)
				return false;
			sent += k > 0 ? (size_t)k : 0;
		}
		if (sent == n && !shut) {
			shut = true;
			shutdown(fd, SHUT_WR);
		}
		if (!(p.revents & (POLLIN | POLLHUP | POLLERR)))
			continue;
		k = recv(fd, buf, sizeof(buf), 0);
		if (k < 0 && errno != EAGAIN)
			return false;
		if (k == 0)
			return got == n && shut;
		for (ssize_t i = 0; i < k; i++) {
			if (buf[i] != byte_at(id, got + (size_t)i))
				return false;
		}
		got += k > 0 ? (size_t)k : 0;
	}
}

struct clients {
	unsigned n;
	size_t bytes;
	bool together; /* all open at once */
};

static void *client_thread(void *arg)
{
	const struct clients *c = arg;
	static int fds[CONNS];
	unsigned bad = 0;

	for (unsigned i = 0; c->together && i < c->n; i++)
		fds[i] = app_connect();
	for (unsigned i = 0; c->together && i < c->n;
	     i++) { /* each has its stream before any ends */
		char x = (char)i, y = 0;

		bad += send(fds[i], &x, 1, MSG_NOSIGNAL) != 1;
		bad += recv(fds[i], &y, 1, 0) != 1 || x != y;
	}
	for (unsigned i = 0; i < c->n; i++) {
		int fd = c->together ? fds[i] : app_connect();

		if (fd < 0 || !exchange(fd, i, c->bytes + i % 7))
			bad++;
		if (fd >= 0)
			close(fd);
	}
	atomic_store(&client_bad, bad);
	atomic_store(&client_done, 1);
	return NULL;
}

static void run_clients(unsigned n, size_t bytes, bool together)
{
	struct clients c = {n, bytes, together};
	pthread_t t;

	atomic_store(&client_done, 0);
	assert_int_equal(pthread_create(&t, NULL, client_thread, &c), 0);
	assert_true(loop_until(flag_set, &client_done, 60000));
	pthread_join(t, NULL);
	if (atomic_load(&client_bad) == 0)
		return;
	for (unsigned i = 0; i < n_ended && i < 4; i++)
		print_message("%s %s: %s\n", ended[i].inbound ? "in" : "out",
			      weft_reason_code(ended[i].r), ended[i].detail);
	fail_msg("%u clients saw an error", atomic_load(&client_bad));
}

static void all_ended_ok(unsigned n)
{
	assert_true(wait_ended(n, 5000));
	assert_int_equal(n_ended, n);
	for (unsigned i = 0; i < n; i++) {
		if (ended[i].r != WEFT_REASON_OK)
			fail_msg("connection %u ended %s: %s", i, weft_reason_code(ended[i].r),
				 ended[i].detail);
	}
	assert_int_equal(weft_live_conns(&na.ws), 0);
	assert_int_equal(weft_live_conns(&nb.ws), 0);
}

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
	server_down();
}

static void bulk(void **state)
{
	server_up();
	run_clients(2, 64 << 20, false);
	all_ended_ok(4);
	server_down();
}

/* ---- ends: a thread runs one scripted connection, the main thread the loop */

struct script {
	int (*run)(struct script *s); /* client; returns 0 when it saw what it should */
	atomic_uint done;
	int result, a, b; /* b: accepted by the app */
	int plain;	  /* listener of the scripted app */
};

static void *script_thread(void *arg)
{
	struct script *s = arg;

	s->result = s->run(s);
	atomic_store(&s->done, 1);
	return NULL;
}

static int recv_result(int fd, char *dst, size_t n)
{
	struct pollfd pf = {fd, POLLIN, 0};
	ssize_t k;

	if (poll(&pf, 1, 5000) <= 0)
		return -1000;
	k = recv(fd, dst, n, MSG_DONTWAIT);
	return k < 0 ? -errno : (int)k;
}

/* Opens a connection through both proxies; the app's end is accepted here too. */
static void both_ends(struct script *s)
{
	struct pollfd pf = {s->plain, POLLIN, 0};

	s->a = app_connect();
	s->b = poll(&pf, 1, 5000) == 1 ? accept(s->plain, NULL, NULL) : -1;
}

static void run_script(int (*run)(struct script *s))
{
	struct script s = {.run = run, .a = -1, .b = -1};
	pthread_t t;

	s.plain = listen_at(ip_b, 0, &server_addr);
	original = server_addr;
	assert_int_equal(pthread_create(&t, NULL, script_thread, &s), 0);
	assert_true(loop_until(flag_set, &s.done, 30000));
	pthread_join(t, NULL);
	close(s.plain);
	if (s.a >= 0)
		close(s.a);
	if (s.b >= 0)
		close(s.b);
	if (s.result == 0)
		return;
	for (unsigned i = 0; i < n_ended && i < 4; i++)
		print_message("%s %s: %s\n", ended[i].inbound ? "in" : "out",
			      weft_reason_code(ended[i].r), ended[i].detail);
	fail_msg("step %d", s.result);
}

static void ended_as(enum weft_reason in, enum weft_reason out)
{
	assert_true(wait_ended(2, 5000));
	for (unsigned i = 0; i < 2; i++)
		assert_string_equal(weft_reason_code(ended[i].r),
				    weft_reason_code(ended[i].inbound ? in : out));
}

#define STEP(cond)                                                                                 \
	if (!(cond))                                                                               \
	return __LINE__

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

#define T(f) cmocka_unit_test_setup_teardown(f, nodes_up, nodes_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_connection),
		T(many_in_turn),
		T(thousand_streams),
		T(bulk),
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
		T(silent_peer),
		T(plain_out),
		T(passthrough),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
