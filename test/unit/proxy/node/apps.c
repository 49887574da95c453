/* Included by tests of the byte path after two_nodes.c: applications in threads of their own,
 * checking every byte. */
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

static inline void run_clients(unsigned n, size_t bytes, bool together)
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

static inline void all_ended_ok(unsigned n)
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

/* ---- a thread runs one scripted connection, the main thread the loop */

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

static inline int recv_result(int fd, char *dst, size_t n)
{
	struct pollfd pf = {fd, POLLIN, 0};
	ssize_t k;

	if (poll(&pf, 1, 5000) <= 0)
		return -1000;
	k = recv(fd, dst, n, MSG_DONTWAIT);
	return k < 0 ? -errno : (int)k;
}

/* Opens a connection through both proxies; the app's end is accepted here too. */
static inline void both_ends(struct script *s)
{
	struct pollfd pf = {s->plain, POLLIN, 0};

	s->a = app_connect();
	s->b = poll(&pf, 1, 5000) == 1 ? accept(s->plain, NULL, NULL) : -1;
}

static void run_script_at(int (*run)(struct script *s), uint16_t port)
{
	struct script s = {.run = run, .a = -1, .b = -1};
	pthread_t t;

	s.plain = listen_at(ip_b, port, &server_addr);
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

static inline void ended_as(enum weft_reason in, enum weft_reason out)
{
	assert_true(wait_ended(2, 5000));
	for (unsigned i = 0; i < 2; i++)
		assert_string_equal(weft_reason_code(ended[i].r),
				    weft_reason_code(ended[i].inbound ? in : out));
}

static inline void run_script(int (*run)(struct script *s))
{
	run_script_at(run, 0);
}

#define STEP(cond)                                                                                 \
	if (!(cond))                                                                               \
	return __LINE__
