/* also built: tsan */
#include "fake_bytes.h"

#include <arpa/inet.h>
#include <errno.h>

static struct {
	struct weft_npod *p;
	enum weft_sock_kind k;
	unsigned count;
} wants[256];
static int n_wants, want_result;

static int want(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	if (want_result)
		return want_result;
	assert_true(count >= 1 && count <= WEFT_WANT_MAX);
	wants[n_wants].p = (struct weft_npod *)p;
	wants[n_wants].k = k;
	wants[n_wants++].count = count;
	return 0;
}

static struct weft_node *node;
static struct weft_npod *pod;
static unsigned fds_before;

static int got_fd, got_n;
static void got(void *arg, int fd)
{
	got_fd = fd;
	got_n++;
}

static int setup(void **state)
{
	struct weft_reserve_conf conf = {.min = 4, .max = 64, .total = 1000, .want = want};
	struct weft_npod_conf c = fake_pod_conf("pod-a");

	fds_before = open_fd_count();
	n_wants = want_result = got_n = 0;
	got_fd = -1;
	node = fake_node(2);
	node->reserve = weft_reserve_new(node, &conf);
	pod = weft_npod_new(&c, 0);
	return 0;
}

static int teardown(void **state)
{
	struct weft_reserve *r = node->reserve;

	pump(node);
	node->reserve = NULL;
	weft_reserve_free(r);
	weft_npod_unref(pod);
	fake_node_free(node);
	assert_int_equal(open_fd_count(), fds_before);
	return 0;
}

static int tcp(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void answer(int i)
{
	int fds[WEFT_WANT_MAX];

	for (unsigned j = 0; j < wants[i].count; j++)
		fds[j] = tcp();
	weft_reserve_got(node->reserve, wants[i].p, wants[i].k, fds, wants[i].count, false);
}

/* In the order asked; answers may make more wants. */
static void answer_all(void)
{
	for (int i = 0; i < n_wants; i++)
		answer(i);
	n_wants = 0;
}

/* The pod is known, the link is up, and what was asked first is there. */
static void filled(void)
{
	weft_reserve_link(node->reserve, true);
	atomic_store(&node->broker_up, true);
	weft_reserve_pod_add(node->reserve, pod);
	assert_int_equal(n_wants, 2);
	answer(0);
	answer(1);
	n_wants = 0;
}

static void test_ahead_of_need(void **state)
{
	struct weft_reserve_count c;

	filled();
	assert_int_equal(wants[0].k, WEFT_SOCK_OUT4);
	assert_int_equal(wants[0].count, 4);
	assert_int_equal(wants[1].k, WEFT_SOCK_IN4);
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_IN4, &c);
	assert_int_equal(c.kept, 4);
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_IN6, &c);
	assert_int_equal(c.kept + c.target, 0);
}

static void test_take_waits_then_is_at_once(void **state)
{
	struct weft_sock_wait *w = NULL;
	int fd;

	filled();
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w), -EAGAIN);
	assert_int_equal(got_n, 0);
	pump(node);
	assert_int_equal(got_n, 1);
	assert_true(got_fd >= 0);
	close(got_fd);
	/* the worker's goal grew, so the rest of the reserve came along */
	fd = weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w);
	assert_true(fd >= 0);
	close(fd);
}

static void test_refilled_by_broker(void **state)
{
	struct weft_sock_wait *w = NULL;
	int served = 0;

	filled();
	for (int round = 0; round < 200; round++) {
		int fd = weft_stock_take(&node->ws[round & 1], pod, WEFT_SOCK_OUT4, got, NULL, &w);

		if (fd >= 0) {
			close(fd);
			served++;
		}
		pump(node);
		answer_all();
		pump(node);
		if (got_n) {
			assert_true(got_fd >= 0);
			close(got_fd);
			served += got_n;
			got_n = 0;
		}
	}
	assert_int_equal(served, 200);
}

static void test_cancel(void **state)
{
	struct weft_sock_wait *w = NULL;
	int fd;

	filled();
	assert_int_equal(weft_stock_take(&node->ws[1], pod, WEFT_SOCK_OUT4, got, NULL, &w),
			 -EAGAIN);
	weft_stock_cancel(w);
	pump(node);
	assert_int_equal(got_n, 0);
	fd = weft_stock_take(&node->ws[1], pod, WEFT_SOCK_OUT4, got, NULL, &w);
	assert_true(fd >= 0);
	close(fd);
}

static void test_agent_absent(void **state)
{
	struct weft_sock_wait *w = NULL;

	weft_reserve_pod_add(node->reserve, pod);
	assert_int_equal(n_wants, 0);
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w), -EAGAIN);
	assert_true(pump_until(node, &got_n));
	assert_int_equal(got_fd, -ETIMEDOUT);
	/* the next one waits until the agent is back, and not longer */
	got_n = 0;
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w), -EAGAIN);
	pump(node);
	assert_int_equal(got_n, 0);
	weft_reserve_link(node->reserve, true);
	answer_all();
	assert_true(pump_until(node, &got_n));
	assert_true(got_fd >= 0);
	close(got_fd);
}

static void test_broker_fails(void **state)
{
	struct weft_sock_wait *w = NULL;

	weft_reserve_link(node->reserve, true);
	weft_reserve_pod_add(node->reserve, pod);
	assert_int_equal(n_wants, 2);
	n_wants = 0;
	weft_reserve_got(node->reserve, pod, WEFT_SOCK_OUT4, NULL, 0, true);
	assert_int_equal(n_wants, 0); /* not again at once */
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_OUT4, got, NULL, &w),
			 -EAGAIN);
	pump(node);
	assert_int_equal(n_wants, 0);
	usleep(110000);
	assert_int_equal(weft_reserve_tick(node->reserve, weft_now_ns()), 0);
	assert_true(n_wants >= 1);
	while (n_wants)
		if (wants[--n_wants].k == WEFT_SOCK_OUT4)
			answer(n_wants);
	pump(node);
	if (got_fd >= 0)
		close(got_fd);
	/* an agent that never answers is told of */
	assert_int_equal(weft_reserve_tick(node->reserve, weft_now_ns() + 11000000000ull),
			 -ETIMEDOUT);
}

static void test_pod_removed(void **state)
{
	struct weft_sock_wait *w = NULL;

	weft_reserve_pod_add(node->reserve, pod);
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w), -EAGAIN);
	atomic_store(&pod->removed, true);
	weft_reserve_pod_del(node->reserve, pod);
	weft_stock_drop(&node->ws[0], pod);
	assert_int_equal(got_n, 1);
	assert_int_equal(got_fd, -ECANCELED);
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w),
			 -ECANCELED);
	pump(node);
}

static void test_too_many_wait(void **state)
{
	struct weft_sock_wait *w = NULL;
	int rc = -EAGAIN, n = 0;

	weft_reserve_pod_add(node->reserve, pod);
	while (rc == -EAGAIN && n < 10000) {
		rc = weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w);
		n++;
	}
	assert_int_equal(rc, -ENOBUFS);
	assert_int_equal(n, 4097);
	for (int i = 0; i < 500 && got_n < 4096; i++) {
		pump(node);
		usleep(1000);
	}
	assert_int_equal(got_n, 4096);
}

static int listener(struct sockaddr_in *sin)
{
	socklen_t n = sizeof(*sin);
	int l = tcp();

	*sin = (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_equal(bind(l, (struct sockaddr *)sin, n), 0);
	assert_int_equal(listen(l, 16), 0);
	getsockname(l, (struct sockaddr *)sin, &n);
	return l;
}

/* One connection over fd with a byte each way; ended in order from the side told. */
static void talk(int fd, int l, const struct sockaddr_in *sin, bool we_first)
{
	char c = 'x';
	int a;

	assert_true(!connect(fd, (const struct sockaddr *)sin, sizeof(*sin)) ||
		    errno == EINPROGRESS);
	a = accept(l, NULL, NULL);
	assert_true(a >= 0);
	assert_int_equal(write(fd, &c, 1), 1);
	assert_int_equal(read(a, &c, 1), 1);
	if (we_first)
		shutdown(fd, SHUT_WR);
	shutdown(a, SHUT_WR);
	if (!we_first)
		shutdown(fd, SHUT_WR);
	assert_int_equal(read(fd, &c, 1), 0);
	close(a);
}

static void test_used_again(void **state)
{
	struct weft_sock_wait *w = NULL;
	struct sockaddr_in sin;
	int l = listener(&sin), fd, mark = 0;
	socklen_t n = sizeof(mark);
	bool marked;

	filled();
	(void)weft_stock_take(&node->ws[0], pod, WEFT_SOCK_OUT4, got, NULL, &w);
	pump(node);
	fd = got_fd;
	mark = 0x539;
	marked = !setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	for (int i = 0; i < 50; i++) {
		int kept;

		talk(fd, l, &sin, i & 1);
		weft_stock_give(&node->ws[0], pod, WEFT_SOCK_OUT4, fd);
		/* LIFO: the one just given comes first */
		kept = weft_stock_take(&node->ws[0], pod, WEFT_SOCK_OUT4, got, NULL, &w);
		assert_int_equal(kept, fd);
	}
	if (marked) {
		mark = 0;
		getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &n);
		assert_int_equal(mark, 0x539);
	}
	close(l);
	/* a refused connect leaves a socket that can be used again, without its error */
	(void)connect(fd, (struct sockaddr *)&sin, sizeof(sin));
	weft_stock_give(&node->ws[0], pod, WEFT_SOCK_OUT4, fd);
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_OUT4, got, NULL, &w), fd);
	n = sizeof(mark);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &mark, &n), 0);
	assert_int_equal(mark, 0);
	close(fd);
}

/* A socket that spoke as one client must not speak as that one for the next. */
static void test_source_is_forgotten(void **state)
{
	struct weft_sock_wait *w = NULL;
	struct sockaddr_in sin, me = {.sin_family = AF_INET}, peer;
	int l = listener(&sin), fd, on = 1, a;
	socklen_t n = sizeof(peer);

	filled();
	(void)weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w);
	pump(node);
	fd = got_fd;
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	for (int i = 0; i < 20; i++) {
		/* as a client, as another one, as nobody in particular */
		me.sin_addr.s_addr = htonl(0x7f000000 + 10 + (unsigned)i % 3);
		if (i % 3)
			assert_int_equal(bind(fd, (struct sockaddr *)&me, sizeof(me)), 0);
		(void)connect(fd, (struct sockaddr *)&sin, sizeof(sin));
		a = accept(l, (struct sockaddr *)&peer, &n);
		assert_int_equal(ntohl(peer.sin_addr.s_addr),
				 i % 3 ? ntohl(me.sin_addr.s_addr) : INADDR_LOOPBACK);
		shutdown(a, SHUT_WR);
		shutdown(fd, SHUT_WR);
		close(a);
		weft_stock_give(&node->ws[0], pod, WEFT_SOCK_IN4, fd);
		assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w),
				 fd);
	}
	close(fd);
	close(l);
}

/* The peer sees the reset, and the next one a fresh socket. */
static void test_abort(void **state)
{
	struct weft_sock_wait *w = NULL;
	struct sockaddr_in sin;
	int l = listener(&sin), fd, a;
	char c = 'x', buf[8];

	filled();
	(void)weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w);
	pump(node);
	fd = got_fd;
	for (int i = 0; i < 20; i++) {
		(void)connect(fd, (struct sockaddr *)&sin, sizeof(sin));
		a = accept(l, NULL, NULL);
		assert_int_equal(write(a, &c, 1), 1);
		if (i & 1)
			shutdown(a, SHUT_WR);
		weft_stock_abort(&node->ws[0], pod, WEFT_SOCK_IN4, fd);
		assert_int_equal(read(a, buf, 8), -1);
		assert_int_equal(errno, ECONNRESET);
		close(a);
		assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w),
				 fd);
	}
	/* nothing of the last one is left in it */
	assert_int_equal(read(fd, buf, 8), -1);
	assert_int_equal(errno, ENOTCONN);
	/* under way, and nobody answers */
	sin.sin_addr.s_addr = htonl(0xc0000201); /* 192.0.2.1 */
	(void)connect(fd, (struct sockaddr *)&sin, sizeof(sin));
	weft_stock_abort(&node->ws[0], pod, WEFT_SOCK_IN4, fd);
	assert_int_equal(weft_stock_take(&node->ws[0], pod, WEFT_SOCK_IN4, got, NULL, &w), fd);
	close(fd);
	close(l);
}

static void test_live_is_not_used_again(void **state)
{
	struct weft_sock_wait *w = NULL;
	struct sockaddr_in sin;
	int l = listener(&sin), fd, a;
	char c;

	filled();
	(void)weft_stock_take(&node->ws[0], pod, WEFT_SOCK_OUT4, got, NULL, &w);
	pump(node);
	fd = got_fd;
	(void)connect(fd, (struct sockaddr *)&sin, sizeof(sin));
	a = accept(l, NULL, NULL);
	weft_stock_give(&node->ws[0], pod, WEFT_SOCK_OUT4, fd);
	assert_int_equal(read(a, &c, 1), 0); /* closed, in order */
	close(a);
	close(l);
}

static void test_absent_agent_steady_load(void **state)
{
	struct weft_sock_wait *w = NULL;
	struct sockaddr_in sin;
	int l = listener(&sin);

	filled();
	weft_reserve_link(node->reserve, false);
	atomic_store(&node->broker_up, false);
	for (int i = 0; i < 300; i++) {
		struct weft_wstate *ws = &node->ws[i % 2];
		int fd;

		got_n = 0;
		fd = weft_stock_take(ws, pod, WEFT_SOCK_IN4, got, NULL, &w);
		if (fd == -EAGAIN) {
			pump(node);
			assert_int_equal(got_n, 1);
			fd = got_fd;
		}
		assert_true(fd >= 0);
		talk(fd, l, &sin, false);
		weft_stock_give(ws, pod, WEFT_SOCK_IN4, fd);
		pump(node);
		if (i % 50 == 0)
			assert_int_equal(weft_reserve_tick(node->reserve, weft_now_ns()), 0);
	}
	assert_int_equal(n_wants, 0);
	close(l);
}

static void test_follows_rate(void **state)
{
	struct weft_reserve_count c;

	filled();
	for (int i = 0; i < 20; i++) {
		weft_reserve_demand(node->reserve, pod, WEFT_SOCK_IN4, 0, 8);
		answer_all();
	}
	weft_reserve_tick(node->reserve, weft_now_ns());
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_IN4, &c);
	assert_int_equal(c.target, 64); /* max */
	answer_all();
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_IN4, &c);
	assert_int_equal(c.kept, 64);
	/* half of what is open */
	atomic_store(&pod->conns, 60);
	for (int i = 0; i < 40; i++)
		weft_reserve_tick(node->reserve, weft_now_ns());
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_IN4, &c);
	assert_int_equal(c.kept, 30);
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_OUT4, &c);
	assert_int_equal(c.kept, 4); /* no connection ever wanted one */
	atomic_store(&pod->conns, 0);
	for (int i = 0; i < 40; i++)
		weft_reserve_tick(node->reserve, weft_now_ns());
	weft_reserve_count(node->reserve, pod, WEFT_SOCK_IN4, &c);
	assert_int_equal(c.target, 4);
	assert_int_equal(c.kept, 4);
}

static void test_link_lost_forgets_wants(void **state)
{
	weft_reserve_link(node->reserve, true);
	weft_reserve_pod_add(node->reserve, pod);
	assert_int_equal(n_wants, 2);
	weft_reserve_link(node->reserve, false);
	n_wants = 0;
	weft_reserve_link(node->reserve, true);
	assert_int_equal(n_wants, 2);
}

struct todo {
	struct weft_npod *p;
	enum weft_sock_kind k;
	unsigned count;
};
static atomic_int taken, failed;

static void on_answer(struct weft_worker *w, void *arg)
{
	struct todo *t = arg;
	int fds[WEFT_WANT_MAX];

	for (unsigned j = 0; j < t->count; j++)
		fds[j] = tcp();
	weft_reserve_got(node->reserve, t->p, t->k, fds, t->count, false);
	free(t);
}

static int want_later(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	struct todo *t = weft_xcalloc(1, sizeof(*t));

	*t = (struct todo){(struct weft_npod *)p, k, count};
	weft_worker_post(node->main, on_answer, t);
	return 0;
}

static void count_fd(struct weft_wstate *ws, int fd)
{
	if (fd < 0)
		atomic_fetch_add(&failed, 1);
	else if (weft_rand64() & 1)
		close(fd);
	else
		weft_stock_give(ws, pod, WEFT_SOCK_IN4, fd); /* never connected: used again */
	atomic_fetch_add(&taken, 1);
}

static void got_on_worker(void *arg, int fd)
{
	count_fd(arg, fd);
}

static void take_some(struct weft_worker *w, void *arg)
{
	for (int i = 0; i < 5; i++) {
		struct weft_sock_wait *wait;
		int fd = weft_stock_take(w->owner, pod, WEFT_SOCK_IN4, got_on_worker, w->owner,
					 &wait);

		if (fd != -EAGAIN)
			count_fd(w->owner, fd);
	}
	if (arg)
		weft_worker_post(w, take_some, (char *)arg - 1);
}

/* The interesting one is the run under the thread sanitizer. */
static void test_threads(void **state)
{
	struct weft_reserve_conf conf = {.min = 4, .max = 64, .total = 1000, .want = want_later};
	struct weft_err err = {0};

	weft_reserve_free(node->reserve);
	node->reserve = weft_reserve_new(node, &conf);
	node->conf.connect_ms = 5000;
	atomic_store(&node->broker_up, true);
	weft_reserve_link(node->reserve, true);
	weft_reserve_pod_add(node->reserve, pod);
	assert_int_equal(weft_node_start(node, &err), 0);
	for (unsigned i = 0; i < node->n_ws; i++)
		weft_worker_post(node->ws[i].w, take_some, (char *)NULL + 199);
	for (int i = 0; i < 10000 && atomic_load(&taken) < 2000; i++) {
		event_base_loop(node->main->base, EVLOOP_NONBLOCK);
		/* the agent comes and goes */
		if (i % 100 == 50 || i % 100 == 60) {
			atomic_store(&node->broker_up, i % 100 == 60);
			weft_reserve_link(node->reserve, i % 100 == 60);
		}
		usleep(100);
	}
	weft_node_stop(node);
	assert_int_equal(atomic_load(&taken), 2000);
	assert_int_equal(atomic_load(&failed), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_ahead_of_need, setup, teardown),
		cmocka_unit_test_setup_teardown(test_take_waits_then_is_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refilled_by_broker, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_agent_absent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_broker_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pod_removed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_source_is_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_abort, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live_is_not_used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_absent_agent_steady_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_follows_rate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_link_lost_forgets_wants, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
