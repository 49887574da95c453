/* Several workers a node, each with its thread: connections are handed to the worker of their
 * tunnel. Meant for TSan too. */
#include "proxy/node/accept.h"
#include "test/unit/proxy/node/apps.c"

enum { WORKERS = 3 };

struct many {
	struct weft_wstate ws[WORKERS], *all[WORKERS];
};
static struct many ma, mb;
static atomic_uint ready;

static void start_one(struct weft_worker *w, void *arg)
{
	weft_pool_init(w->owner);
	weft_outbound_init(w->owner);
	weft_inbound_init(w->owner);
	atomic_fetch_add(&ready, 1);
}

static void end_one(struct weft_worker *w, void *arg)
{
	struct weft_wstate *ws = w->owner;

	weft_inbound_done(ws);
	weft_outbound_done(ws);
	weft_pool_done(ws);
	weft_model_unref(ws->model);
	ws->model = NULL;
	atomic_fetch_add(&ready, 1);
}

struct listen_post {
	struct weft_npod *pod;
	int kind, fd;
};

static void add_listener(struct weft_worker *w, void *arg)
{
	struct listen_post *p = arg;

	weft_accept_add(w->owner, p->pod, p->kind, p->fd);
	free(p);
}

static void post_listener(struct weft_worker *w, struct weft_npod *pod, int kind, int fd)
{
	struct listen_post *p = malloc(sizeof(*p));

	*p = (struct listen_post){pod, kind, fd};
	weft_worker_post(w, add_listener, p);
}

static void all_ready(unsigned n)
{
	while (atomic_load(&ready) < n)
		usleep(1000);
}

static void many_up(struct many *m, struct node *n)
{
	struct weft_sockaddr any;
	const char *ip = n == &na ? ip_a : ip_b;

	/* the single-threaded node gives its pod, secret, model and settings, and stops listening
	 */
	weft_listeners_close(&n->ws, NULL);
	memset(m, 0, sizeof(*m));
	for (int i = 0; i < WORKERS; i++) {
		struct weft_wstate *ws = m->all[i] = &m->ws[i];

		ws->w = weft_worker_new(i, ws);
		ws->conf = &n->conf;
		ws->model = weft_model_ref(n->ws.model);
		ws->all = m->all;
		ws->n_all = WORKERS;
		assert_int_equal(weft_worker_start(ws->w, false), 0);
		weft_worker_post(ws->w, start_one, NULL);
	}
	all_ready(n == &na ? WORKERS : 2 * WORKERS);
	post_listener(m->ws[1].w, n->pod, 1, listen_at(ip, 15001, &n->capture));
	post_listener(m->ws[2].w, n->pod, 3, listen_at(ip, 15008, &any));
}

static void many_down(struct many *m)
{
	for (int i = 0; i < WORKERS; i++)
		weft_worker_post(m->ws[i].w, end_one, NULL);
}

static void many_free(struct many *m)
{
	for (int i = 0; i < WORKERS; i++) {
		weft_worker_stop(m->ws[i].w);
		weft_worker_join(m->ws[i].w);
		weft_worker_free(m->ws[i].w);
	}
}

static void *more_clients(void *arg)
{
	unsigned *bad = arg;

	for (unsigned i = 0; i < 100; i++) {
		int fd = app_connect();

		if (fd < 0 || !exchange(fd, i, 20000 + i))
			++*bad;
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

static void handed_over(void **state)
{
	pthread_t t[4];
	unsigned bad[4] = {0};

	atomic_store(&ready, 0);
	many_up(&ma, &na);
	many_up(&mb, &nb);
	server_up();
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, more_clients, &bad[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(bad[i], 0);
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(&ended_lock);
		bad[0] = n_ended;
		pthread_mutex_unlock(&ended_lock);
		if (bad[0] == 800)
			break;
		usleep(1000);
	}
	assert_int_equal(bad[0], 800);
	atomic_store(&ready, 0);
	many_down(&ma);
	many_down(&mb);
	all_ready(2 * WORKERS);
	many_free(&ma);
	many_free(&mb);
	for (unsigned i = 0; i < n_ended; i++)
		assert_int_equal(ended[i].r, WEFT_REASON_OK);
	server_down();
}

/* Workers end while connections are being handed over: nothing is used after its end. */
static void end_in_between(void **state)
{
	int fd[50];

	atomic_store(&ready, 0);
	many_up(&ma, &na);
	many_up(&mb, &nb);
	server_up();
	for (int i = 0; i < 50; i++)
		fd[i] = app_connect();
	atomic_store(&ready, 0);
	many_down(&ma);
	many_down(&mb);
	all_ready(2 * WORKERS);
	many_free(&ma);
	many_free(&mb);
	for (int i = 0; i < 50; i++)
		close(fd[i]);
	server_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(handed_over, nodes_up, nodes_down),
		cmocka_unit_test_setup_teardown(end_in_between, nodes_up, nodes_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
