#include "fake_bytes.h"
#include "proxy/node/dial.h"

#include <arpa/inet.h>
#include <errno.h>

static struct weft_node *node;
static struct weft_npod *pod;
static int result, n_done, listener_fd;
static struct weft_sockaddr to;

static int want(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	int fds[WEFT_WANT_MAX], on = 1;

	for (unsigned i = 0; i < count; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		setsockopt(fds[i], IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	}
	weft_reserve_got(node->reserve, (struct weft_npod *)p, k, fds, count, false);
	return 0;
}

static void done(void *arg, int fd, const char *why)
{
	result = fd;
	n_done++;
}

static int setup(void **state)
{
	struct weft_reserve_conf conf = {.min = 4, .max = 64, .total = 1000, .want = want};
	struct weft_npod_conf c = fake_pod_conf("pod-a");
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_storage ss = {0};
	socklen_t n = sizeof(ss);

	node = fake_node(1);
	node->reserve = weft_reserve_new(node, &conf);
	pod = weft_npod_new(&c, 0);
	listener_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener_fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(listener_fd, 1024), 0);
	getsockname(listener_fd, (struct sockaddr *)&ss, &n);
	weft_sockaddr_from_kernel(&ss, &to);
	weft_reserve_pod_add(node->reserve, pod);
	atomic_store(&node->broker_up, true);
	weft_reserve_link(node->reserve, true);
	return 0;
}

static int teardown(void **state)
{
	struct weft_reserve *r = node->reserve;

	close(listener_fd);
	pump(node);
	node->reserve = NULL;
	weft_reserve_free(r);
	weft_npod_unref(pod);
	fake_node_free(node);
	return 0;
}

static int dial(const char *from)
{
	struct weft_ip ip;
	struct weft_dial_conf conf = {
		.ws = &node->ws[0], .pod = pod, .to = &to, .from = &ip, .done = done};

	weft_ip_parse(from, &ip);
	n_done = 0;
	weft_dial_start(&conf);
	assert_int_equal(n_done, 0);
	pump_until(node, &n_done);
	return result;
}

/* In the client's name, from a port that a Linux client's connect() does not take first. */
static void test_spoofed_ports_are_odd(void **state)
{
	int fds[200];

	for (int i = 0; i < 200; i++) {
		struct sockaddr_in peer;
		socklen_t n = sizeof(peer);
		int a;

		fds[i] = dial("127.0.0.9");
		assert_true(fds[i] >= 0);
		a = accept(listener_fd, (struct sockaddr *)&peer, &n);
		assert_int_equal(ntohl(peer.sin_addr.s_addr), 0x7f000009);
		if (!(ntohs(peer.sin_port) & 1))
			skip(); /* before Linux 6.3 */
		close(a);
	}
	for (int i = 0; i < 200; i++)
		close(fds[i]);
}

static void test_refused(void **state)
{
	close(listener_fd);
	assert_int_equal(dial("127.0.0.9"), -ECONNREFUSED);
	listener_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* All odd ports of one client taken: any port is better than none. */
static void test_many_from_one_client(void **state)
{
	enum { MANY = 600 };
	static int held[MANY];
	struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000009)};
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&to, AF_INET, &ss);

	for (int i = 0; i < MANY; i++) {
		uint32_t p = 32769 + 2 * (uint32_t)i, range = p | p << 16;
		int on = 1;

		held[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		setsockopt(held[i], IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
		setsockopt(held[i], IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */, &range,
			   sizeof(range));
		assert_int_equal(bind(held[i], (struct sockaddr *)&me, sizeof(me)), 0);
		(void)connect(held[i], (struct sockaddr *)&ss, n);
	}
	for (int i = 0; i < 50; i++) {
		int fd = dial("127.0.0.9");

		assert_true(fd >= 0);
		close(fd);
	}
	for (int i = 0; i < MANY; i++)
		close(held[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_spoofed_ports_are_odd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_from_one_client, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
