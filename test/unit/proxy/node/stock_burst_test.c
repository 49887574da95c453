/* Bursts of one size: once the shelf knows them, nothing is asked of the agent any more. */
#include "fake_bytes.h"

#include <arpa/inet.h>
#include <errno.h>

enum { BURST = 32, WARM = 10, BURSTS = 30 };

static struct weft_node *node;
static struct weft_npod *pod;
static unsigned n_asked, due[256], n_due;

static int want(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	if (k != WEFT_SOCK_OUT4)
		return -EAGAIN;
	n_asked += count;
	due[n_due++] = count;
	return 0;
}

static int tcp(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void answer_all(void)
{
	for (unsigned i = 0; i < n_due; i++) {
		int fds[WEFT_WANT_MAX];

		for (unsigned j = 0; j < due[i]; j++)
			fds[j] = tcp();
		weft_reserve_got(node->reserve, pod, WEFT_SOCK_OUT4, fds, due[i], false);
	}
	n_due = 0;
	pump(node);
}

static int taken[BURST];
static unsigned n_taken;

static void got(void *arg, int fd)
{
	assert_true(fd >= 0);
	taken[n_taken++] = fd;
}

static void burst(void)
{
	struct weft_sock_wait *w[BURST];

	n_taken = 0;
	for (int i = 0; i < BURST; i++) {
		int fd = weft_stock_take(&node->ws[0], pod, WEFT_SOCK_OUT4, got, NULL, &w[i]);

		assert_true(fd >= 0 || fd == -EAGAIN);
		if (fd >= 0)
			taken[n_taken++] = fd;
	}
	for (int i = 0; i < 16 && (n_taken < BURST || n_due); i++) {
		pump(node);
		answer_all();
	}
	pump(node);
	assert_int_equal(n_taken, BURST);
	for (int i = 0; i < BURST; i++) /* never connected: as good as one that ended in order */
		weft_stock_give(&node->ws[0], pod, WEFT_SOCK_OUT4, taken[i]);
	pump(node);
}

static void test_bursts(void **state)
{
	unsigned before;

	weft_reserve_link(node->reserve, true);
	atomic_store(&node->broker_up, true);
	weft_reserve_pod_add(node->reserve, pod);
	answer_all();
	for (int i = 0; i < WARM; i++)
		burst();
	before = n_asked;
	assert_true(before > 0);
	for (int i = WARM; i < BURSTS; i++)
		burst();
	assert_int_equal(n_asked, before);
}

/* Few descriptors are left: what is waited for comes, nothing is kept ahead. */
static void test_tight(void **state)
{
	struct weft_reserve *mine = node->reserve;
	struct weft_reserve_count c;

	for (int tight = 0; tight < 2; tight++) {
		struct weft_reserve_conf conf = {
			.min = 4, .max = 64, .total = 1000, .want = want, .fd_tight = tight};

		node->reserve = weft_reserve_new(node, &conf);
		weft_reserve_link(node->reserve, true);
		weft_reserve_pod_add(node->reserve, pod);
		answer_all();
		for (int i = 0; i < 4; i++) {
			weft_reserve_demand(node->reserve, pod, WEFT_SOCK_OUT4, 0, BURST);
			answer_all();
			answer_all();
		}
		assert_int_equal(weft_reserve_tick(node->reserve, weft_now_ns()), 0);
		weft_reserve_count(node->reserve, pod, WEFT_SOCK_OUT4, &c);
		assert_int_equal(c.waiting, 0);
		if (tight) {
			assert_int_equal(c.kept, 4);
			assert_int_equal(c.asked, 0);
		} else {
			assert_int_equal(c.target, 64);
		}
		weft_reserve_free(node->reserve);
		n_due = 0;
	}
	node->reserve = mine;
}

int main(void)
{
	struct weft_reserve_conf conf = {.min = 4, .max = 64, .total = 1000, .want = want};
	struct weft_npod_conf c = fake_pod_conf("pod-a");
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_bursts),
					   cmocka_unit_test(test_tight)};
	struct weft_reserve *r;
	int n;

	node = fake_node(1);
	r = node->reserve = weft_reserve_new(node, &conf);
	pod = weft_npod_new(&c, 0);
	n = cmocka_run_group_tests(tests, NULL, NULL);
	pump(node);
	node->reserve = NULL;
	weft_reserve_free(r);
	weft_npod_unref(pod);
	fake_node_free(node);
	return n;
}
