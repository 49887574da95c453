#include "proxy/core/arena.h"
#include "proxy/node/node_priv.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

int weft_node_init(struct weft_node *n, struct weft_err *reterr)
{
	int err = 0;

	n->start_ns = weft_now_ns();
	n->main = weft_worker_new(-1, n);
	n->n_ws = n->conf.workers;
	n->ws = weft_xcalloc(n->n_ws, sizeof(*n->ws));
	n->all = weft_xcalloc(n->n_ws, sizeof(struct weft_wstate *));
	n->live = weft_xcalloc(n->n_ws, sizeof(*n->live));
	for (unsigned i = 0; i < n->n_ws; i++) {
		struct weft_wstate *ws = &n->ws[i];

		((struct weft_wstate **)n->all)[i] = ws;
		ws->w = weft_worker_new((int)i, ws);
		ws->node = n;
		ws->conf = &n->conf;
		ws->all = n->all;
		ws->n_all = n->n_ws;
		ws->model = weft_model_empty("");
		ws->secrets = weft_secrets_new();
	}
	weft_flowlog_setup(n);
	for (unsigned i = 0; i < n->n_ws && !err; i++) {
		struct weft_wstate *ws = &n->ws[i];

		err = weft_stock_init(ws);
		if (!err)
			err = weft_flowlog_init(ws);
		if (!err)
			err = weft_pool_init(ws);
		if (!err)
			err = weft_outbound_init(ws);
		if (!err)
			err = weft_inbound_init(ws);
	}
	if (err)
		return weft_fail(reterr, NULL, -err, "a worker cannot be made");
	return 0;
}

int weft_node_start(struct weft_node *n, struct weft_err *reterr)
{
	sigset_t all, old;
	int err = 0;

	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	for (unsigned i = 0; i < n->n_ws && !err; i++)
		err = weft_worker_start(n->ws[i].w, n->n_ws > 1);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err ? weft_fail(reterr, NULL, -err, "a thread cannot be started") : 0;
}

void weft_node_stop(struct weft_node *n)
{
	for (unsigned i = 0; i < n->n_ws; i++)
		weft_worker_stop(n->ws[i].w);
	for (unsigned i = 0; i < n->n_ws; i++)
		weft_worker_join(n->ws[i].w);
}

void weft_node_done(struct weft_node *n)
{
	for (unsigned i = 0; i < n->n_ws; i++) {
		struct weft_wstate *ws = &n->ws[i];

		weft_inbound_done(ws);
		weft_outbound_done(ws);
		weft_pool_done(ws);
		weft_stock_done(ws);
		weft_flowlog_done(ws);
	}
	/* runs the posts that are left: without a stock they only free what they carry */
	for (unsigned i = 0; i < n->n_ws; i++)
		weft_worker_free(n->ws[i].w);
	for (unsigned i = 0; i < n->n_ws; i++) {
		weft_model_unref(n->ws[i].model);
		weft_secrets_unref(n->ws[i].secrets);
	}
	weft_worker_free(n->main);
	free(n->ws);
	free((void *)n->all);
	free(n->live);
}

struct ask {
	struct weft_node *n;
	unsigned round;
};

static void on_ask_live(struct weft_worker *w, void *arg)
{
	struct ask *a = arg;
	struct weft_live *l = &a->n->live[w->id];

	if (((struct weft_wstate *)w->owner)->stock)
		atomic_store(&l->conns, weft_live_conns(w->owner));
	atomic_store(&l->round, a->round);
	free(a);
}

void weft_node_ask_live(struct weft_node *n)
{
	n->live_round++;
	for (unsigned i = 0; i < n->n_ws; i++) {
		struct ask *a = weft_xcalloc(1, sizeof(*a));

		a->n = n;
		a->round = n->live_round;
		weft_worker_post(n->ws[i].w, on_ask_live, a);
	}
}

int weft_node_live(const struct weft_node *n, unsigned *ret)
{
	*ret = 0;
	for (unsigned i = 0; i < n->n_ws; i++) {
		if (atomic_load(&n->live[i].round) != n->live_round)
			return -EAGAIN;
		*ret += atomic_load(&n->live[i].conns);
	}
	return 0;
}
