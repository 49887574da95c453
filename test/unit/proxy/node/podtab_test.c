#include "fake_bytes.h"
#include "proxy/node/broker_msg.h"
#include "proxy/node/podtab.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>

/* A broker by hand: a listening socket, and at most one proxy. */
static char dir[64], path[96];
static int listen_fd, conn;
static struct weft_node *node;
static unsigned fds_before;
static char welcomed_node[64];

static void on_welcome(void *owner, const char *n, const char *network, const char *td)
{
	snprintf(welcomed_node, sizeof(welcomed_node), "%s", n);
}

static int want(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	return weft_podtab_want(node->podtab, p, k, count);
}

static int setup(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct weft_reserve_conf conf = {.min = 2, .max = 16, .total = 100, .want = want};
	struct weft_podtab_conf pt = {.path = path, .version = "t", .welcome = on_welcome};

	fds_before = open_fd_count();
	strcpy(dir, "/tmp/weft-podtab-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/broker.sock", dir);
	strcpy(sun.sun_path, path);
	listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(listen_fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(listen_fd, 4), 0);
	conn = -1;
	node = fake_node(2);
	node->reserve = weft_reserve_new(node, &conf);
	node->podtab = weft_podtab_new(node, &pt);
	welcomed_node[0] = 0;
	return 0;
}

static int teardown(void **state)
{
	struct weft_reserve *r = node->reserve;

	weft_podtab_free(node->podtab);
	node->podtab = NULL;
	pump(node);
	node->reserve = NULL;
	weft_reserve_free(r);
	fake_clear();
	fake_node_free(node);
	if (conn >= 0)
		close(conn);
	close(listen_fd);
	unlink(path);
	rmdir(dir);
	assert_int_equal(open_fd_count(), fds_before);
	return 0;
}

static void accept_proxy(void)
{
	if (conn >= 0)
		close(conn);
	conn = -1;
	for (int i = 0; i < 2000 && conn < 0; i++) {
		conn = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK);
		pump(node);
		if (conn < 0)
			usleep(1000);
	}
	assert_true(conn >= 0);
}

static Weft__Broker__ToAgent *take(int *ret_fd)
{
	uint8_t buf[WEFT_BROKER_MSG_MAX];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u;
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = u.bytes,
			   .msg_controllen = sizeof(u.bytes)};
	ssize_t n = -1;

	for (int i = 0; i < 1000 && n < 0; i++) {
		pump(node);
		m.msg_controllen = sizeof(u.bytes);
		n = recvmsg(conn, &m, MSG_DONTWAIT);
		if (n < 0)
			usleep(500);
	}
	assert_true(n > 0);
	*ret_fd = -1;
	if (CMSG_FIRSTHDR(&m))
		memcpy(ret_fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return weft__broker__to_agent__unpack(NULL, (size_t)n, buf);
}

static void give_bytes(const void *p, size_t n, const int *fds, size_t n_fds)
{
	char cbuf[CMSG_SPACE(100 * sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = {(void *)p, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds) {
		struct cmsghdr *c;

		memset(cbuf, 0, sizeof(cbuf));
		m.msg_control = cbuf;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	assert_true(sendmsg(conn, &m, MSG_NOSIGNAL) > 0);
}

static void give(const Weft__Broker__ToProxy *m, const int *fds, size_t n_fds)
{
	uint8_t buf[WEFT_BROKER_MSG_MAX];

	give_bytes(buf, weft__broker__to_proxy__pack(m, buf), fds, n_fds);
	pump(node);
}

static void give_welcome(void)
{
	Weft__Broker__ToProxy m = WEFT__BROKER__TO_PROXY__INIT;
	Weft__Broker__Welcome w = WEFT__BROKER__WELCOME__INIT;

	w.has_version = true;
	w.version = 1;
	w.node = (char *)"node-a";
	w.network = (char *)"net";
	w.trust_domain = (char *)"cluster.local";
	m.m_case = WEFT__BROKER__TO_PROXY__M_WELCOME;
	m.welcome = &w;
	give(&m, NULL, 0);
}

static int listening(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

static void give_pod(const char *uid, const char *sa, const Weft__Broker__SocketKind *kinds,
		     size_t n_kinds, const int *fds, size_t n_fds)
{
	Weft__Broker__ToProxy m = WEFT__BROKER__TO_PROXY__INIT;
	Weft__Broker__PodAdd p = WEFT__BROKER__POD_ADD__INIT;
	uint8_t ip[4] = {10, 0, 0, 7};
	ProtobufCBinaryData addr = {4, ip};

	p.uid = (char *)uid;
	p.name = (char *)"web";
	p.namespace_ = (char *)"shop";
	p.service_account = (char *)sa;
	p.trust_domain = (char *)"cluster.local";
	p.addresses = &addr;
	p.n_addresses = 1;
	p.kinds = (Weft__Broker__SocketKind *)kinds;
	p.n_kinds = n_kinds;
	m.m_case = WEFT__BROKER__TO_PROXY__M_POD_ADD;
	m.pod_add = &p;
	give(&m, fds, n_fds);
}

static void give_listeners(const char *uid, const char *sa)
{
	static const Weft__Broker__SocketKind kinds[] = {1, 3, 5};
	int fds[3] = {listening(), listening(), listening()};

	give_pod(uid, sa, kinds, 3, fds, 3);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

static void give_snapshot(void)
{
	Weft__Broker__ToProxy m = WEFT__BROKER__TO_PROXY__INIT;
	Weft__Broker__SnapshotSent s = WEFT__BROKER__SNAPSHOT_SENT__INIT;

	m.m_case = WEFT__BROKER__TO_PROXY__M_SNAPSHOT_SENT;
	m.snapshot_sent = &s;
	give(&m, NULL, 0);
}

static void give_del(const char *uid)
{
	Weft__Broker__ToProxy m = WEFT__BROKER__TO_PROXY__INIT;
	Weft__Broker__PodDel d = WEFT__BROKER__POD_DEL__INIT;

	d.uid = (char *)uid;
	m.m_case = WEFT__BROKER__TO_PROXY__M_POD_DEL;
	m.pod_del = &d;
	give(&m, NULL, 0);
}

static void give_sockets(const char *uid, int kind, unsigned n)
{
	Weft__Broker__ToProxy m = WEFT__BROKER__TO_PROXY__INIT;
	Weft__Broker__Sockets s = WEFT__BROKER__SOCKETS__INIT;
	int fds[WEFT_WANT_MAX] = {0};

	for (unsigned i = 0; i < n; i++)
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
	s.pod_uid = (char *)uid;
	s.has_kind = true;
	s.kind = (Weft__Broker__SocketKind)kind;
	if (!n)
		s.error = (char *)"no";
	m.m_case = WEFT__BROKER__TO_PROXY__M_SOCKETS;
	m.sockets = &s;
	give(&m, fds, n);
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
}

/* Skips Wants; the next other message must be of this kind. */
static Weft__Broker__ToAgent *next_but_want(int which, int *ret_fd)
{
	Weft__Broker__ToAgent *m;

	while ((m = take(ret_fd))->m_case == WEFT__BROKER__TO_AGENT__M_WANT)
		weft__broker__to_agent__free_unpacked(m, NULL);
	assert_int_equal(m->m_case, which);
	return m;
}

static void next_ack(const char *uid, const char *error)
{
	int fd;
	Weft__Broker__ToAgent *m = next_but_want(WEFT__BROKER__TO_AGENT__M_ACK, &fd);

	assert_string_equal(m->ack->uid, uid);
	if (error)
		assert_non_null(strstr(m->ack->error, error));
	else
		assert_null(m->ack->error);
	weft__broker__to_agent__free_unpacked(m, NULL);
}

static unsigned greet(void)
{
	Weft__Broker__ToAgent *m;
	unsigned held = 0;
	bool done = false;
	int fd;

	accept_proxy();
	m = next_but_want(WEFT__BROKER__TO_AGENT__M_HELLO, &fd);
	assert_int_equal(m->hello->version, 1);
	assert_string_equal(m->hello->proxy_version, "t");
	weft__broker__to_agent__free_unpacked(m, NULL);
	while (!done) {
		m = next_but_want(WEFT__BROKER__TO_AGENT__M_HOLDING, &fd);
		done = m->holding->done;
		assert_true(done == (fd < 0));
		if (fd >= 0) {
			int on = 0;
			socklen_t n = sizeof(on);

			getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &n);
			assert_int_equal(on, 1);
			close(fd);
			held++;
		}
		weft__broker__to_agent__free_unpacked(m, NULL);
	}
	return held;
}

static void start(void)
{
	weft_podtab_start(node->podtab);
	assert_int_equal(greet(), 0);
	assert_false(weft_podtab_welcomed(node->podtab));
	give_welcome();
	assert_true(weft_podtab_welcomed(node->podtab));
	assert_string_equal(welcomed_node, "node-a");
}

/* The proxy gave up this link: it comes again. */
static void expect_reconnect(unsigned held)
{
	char c;
	int flag = 0;

	for (int i = 0; i < 1000 && !flag; i++) {
		pump(node);
		/* an orderly end, after whatever it still sent */
		flag = recv(conn, &c, 1, MSG_DONTWAIT) == 0;
		if (!flag)
			usleep(500);
	}
	assert_true(flag);
	assert_int_equal(greet(), held);
}

static void test_pod_comes_and_goes(void **state)
{
	start();
	give_listeners("pod-a", "web");
	next_ack("pod-a", NULL);
	assert_int_equal(fake.n_accepts, 3);
	assert_int_equal(fake.accepts[0].kind, 1);
	assert_int_equal(fake.accepts[1].kind, 3);
	assert_int_equal(fake.accepts[2].kind, 5);
	assert_string_equal(fake.accepts[0].p->identity, "spiffe://cluster.local/ns/shop/sa/web");
	assert_string_equal(fake.accepts[0].p->network, "net");
	assert_int_equal(fake.accepts[0].worker, fake.accepts[2].worker);
	give_snapshot();
	assert_true(weft_podtab_synced(node->podtab));
	/* the second pod goes to the other worker */
	give_listeners("pod-b", "db");
	next_ack("pod-b", NULL);
	assert_int_not_equal(fake.accepts[0].worker, fake.accepts[3].worker);
	assert_int_equal(weft_podtab_count(node->podtab), 2);
	give_del("pod-a");
	next_ack("pod-a", NULL);
	assert_int_equal(fake.n_removed, 2); /* every worker */
	assert_true(atomic_load(&fake.accepts[0].p->removed));
	assert_int_equal(weft_podtab_count(node->podtab), 1);
	give_del("pod-a"); /* what is gone is gone */
	next_ack("pod-a", NULL);
}

static void test_wants_and_sockets(void **state)
{
	struct weft_reserve_count c;
	Weft__Broker__ToAgent *m;
	unsigned seen = 0;
	int fd;

	start();
	give_listeners("pod-a", "web");
	for (int i = 0; i < 3; i++) {
		m = take(&fd);
		if (m->m_case == WEFT__BROKER__TO_AGENT__M_WANT) {
			assert_string_equal(m->want->pod_uid, "pod-a");
			assert_int_equal(m->want->count, 2);
			seen |= 1u << m->want->kind;
		}
		weft__broker__to_agent__free_unpacked(m, NULL);
	}
	assert_int_equal(seen, 1u << WEFT_SOCK_OUT4 | 1u << WEFT_SOCK_IN4);
	give_sockets("pod-a", WEFT_SOCK_IN4, 2);
	weft_reserve_count(node->reserve, fake.accepts[0].p, WEFT_SOCK_IN4, &c);
	assert_int_equal(c.kept, 2);
	give_sockets("pod-a", WEFT_SOCK_OUT4, 0);
	weft_reserve_count(node->reserve, fake.accepts[0].p, WEFT_SOCK_OUT4, &c);
	assert_int_equal(c.kept, 0);
	give_sockets("nobody", WEFT_SOCK_IN4, 2); /* closed */
	assert_true(weft_podtab_welcomed(node->podtab));
}

static void test_agent_restarts(void **state)
{
	start();
	give_listeners("pod-a", "web");
	give_listeners("pod-b", "web");
	give_snapshot();
	next_ack("pod-a", NULL);
	next_ack("pod-b", NULL);
	close(conn);
	conn = -1;
	/* pods stay, and what is held is offered to the next agent */
	assert_int_equal(greet(), 6);
	assert_int_equal(weft_podtab_count(node->podtab), 2);
	assert_int_equal(fake.n_removed, 0);
	assert_true(weft_podtab_synced(node->podtab));
	give_welcome();
	give_pod("pod-a", "web", NULL, 0, NULL, 0);
	next_ack("pod-a", NULL);
	assert_int_equal(fake.n_removed, 0);
	give_snapshot(); /* without pod-b */
	assert_int_equal(weft_podtab_count(node->podtab), 1);
	assert_int_equal(fake.n_removed, 2);
	assert_string_equal(fake.removed[0], "pod-b");
	assert_int_equal(fake.n_accepts, 6);
}

static void test_account_changes(void **state)
{
	start();
	give_listeners("pod-a", "web");
	next_ack("pod-a", NULL);
	give_pod("pod-a", "other", NULL, 0, NULL, 0);
	next_ack("pod-a", NULL);
	assert_int_equal(fake.n_removed, 2);
	assert_true(atomic_load(&fake.accepts[0].p->removed));
	assert_int_equal(fake.n_accepts, 6); /* the same listeners for the new one */
	assert_string_equal(fake.accepts[3].p->identity, "spiffe://cluster.local/ns/shop/sa/other");
	assert_false(atomic_load(&fake.accepts[3].p->removed));
}

static void test_replaced_listener(void **state)
{
	static const Weft__Broker__SocketKind kind[] = {3};
	int fd = listening();

	start();
	give_listeners("pod-a", "web");
	next_ack("pod-a", NULL);
	give_pod("pod-a", "web", kind, 1, &fd, 1);
	close(fd);
	next_ack("pod-a", NULL);
	assert_int_equal(fake.n_accepts, 4);
	assert_int_equal(fake.n_removed, 0);
}

static void test_not_a_listener(void **state)
{
	static const Weft__Broker__SocketKind kind[] = {3};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	start();
	give_pod("pod-a", "web", kind, 1, &fd, 1);
	close(fd);
	next_ack("pod-a", "not a listening socket");
	assert_int_equal(fake.n_accepts, 0);
}

static void test_malformed(void **state)
{
	static const Weft__Broker__SocketKind twice[] = {3, 3}, wrong[] = {7};
	int fds[2] = {listening(), listening()};
	static const uint8_t unknown_field[] = {0x7a, 1, 'x'};
	static const uint8_t garbage[] = {0x0a, 0xff, 0xff, 0x01};

	start();
	give_listeners("pod-a", "web");
	next_ack("pod-a", NULL);
	give_bytes(garbage, sizeof(garbage), NULL, 0);
	expect_reconnect(3);
	give_bytes(unknown_field, sizeof(unknown_field), fds, 2);
	expect_reconnect(3);
	give_welcome();
	give_pod("pod-b", "web", twice, 2, fds, 2);
	expect_reconnect(3);
	give_welcome();
	give_pod("pod-b", "web", wrong, 1, fds, 1);
	expect_reconnect(3);
	give_welcome();
	give_pod("pod-b", "web", twice, 1, NULL, 0); /* a kind without its descriptor */
	expect_reconnect(3);
	give_snapshot(); /* before Welcome */
	expect_reconnect(3);
	give_welcome();
	give_welcome();
	expect_reconnect(3);
	give_welcome();
	give_sockets("pod-a", 3, 1); /* not a connecting kind */
	expect_reconnect(3);
	assert_int_equal(weft_podtab_count(node->podtab), 1);
	assert_int_equal(fake.n_removed, 0);
	close(fds[0]);
	close(fds[1]);
}

static void test_too_many_descriptors(void **state)
{
	int fds[100];
	static const uint8_t welcome[] = {0x0a, 0x00};

	start();
	for (int i = 0; i < 100; i++)
		fds[i] = dup(0);
	give_bytes(welcome, sizeof(welcome), fds, 100);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
	expect_reconnect(0);
}

static void test_welcome_version(void **state)
{
	Weft__Broker__ToProxy m = WEFT__BROKER__TO_PROXY__INIT;
	Weft__Broker__Welcome w = WEFT__BROKER__WELCOME__INIT;

	weft_podtab_start(node->podtab);
	greet();
	w.has_version = true;
	w.version = 2;
	w.node = (char *)"n";
	m.m_case = WEFT__BROKER__TO_PROXY__M_WELCOME;
	m.welcome = &w;
	give(&m, NULL, 0);
	assert_false(weft_podtab_welcomed(node->podtab));
	expect_reconnect(0);
	assert_non_null(strstr(weft_podtab_last_error(node->podtab), "version is 2"));
}

static void test_leave(void **state)
{
	char c;

	start();
	give_listeners("pod-a", "web");
	next_ack("pod-a", NULL);
	give_snapshot();
	weft_podtab_leave(node->podtab);
	pump(node);
	while (recv(conn, &c, 1, MSG_DONTWAIT) > 0)
		;
	assert_int_equal(recv(conn, &c, 1, MSG_DONTWAIT), 0);
	usleep(60000);
	pump(node);
	assert_int_equal(accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK),
			 -1); /* it does not come again */
	assert_int_equal(fake.n_removed, 0);
}

/* The agent restarts while we drain: what we hold is handed over first. */
static void test_leave_without_agent(void **state)
{
	start();
	give_listeners("pod-a", "web");
	next_ack("pod-a", NULL);
	give_snapshot();
	close(conn);
	conn = -1;
	pump(node);
	weft_podtab_leave(node->podtab);
	pump(node);
	assert_false(weft_podtab_left(node->podtab));
	assert_int_equal(greet(), 3);
	give_welcome();
	give_pod("pod-a", "web", NULL, 0, NULL, 0);
	assert_false(weft_podtab_left(node->podtab));
	give_snapshot();
	assert_true(weft_podtab_left(node->podtab));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pod_comes_and_goes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wants_and_sockets, setup, teardown),
		cmocka_unit_test_setup_teardown(test_agent_restarts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_account_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_replaced_listener, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_a_listener, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_welcome_version, setup, teardown),
		cmocka_unit_test_setup_teardown(test_leave, setup, teardown),
		cmocka_unit_test_setup_teardown(test_leave_without_agent, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
