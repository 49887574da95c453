#include "proxy/node/conns.h"

#include "proxy/core/arena.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Compatible with sys/queue.h, which lacks it in glibc. */
#define TAILQ_FOREACH_SAFE(var, head, field, tvar)                                                 \
	for ((var) = TAILQ_FIRST((head)); (var) && ((tvar) = TAILQ_NEXT((var), field), 1);         \
	     (var) = (tvar))

TAILQ_HEAD(turns, weft_turn);

struct weft_wwait {
	TAILQ_ENTRY(weft_wwait) next;
	struct weft_wstate *ws;
	struct weft_npod *pod;
	struct event *timer;
	void (*got)(void *arg, const struct weft_workload *w);
	void *arg;
};

struct weft_conns {
	unsigned users;
	unsigned n;
	TAILQ_HEAD(, weft_live) lives;
	struct weft_live *tick_at, *check_at; /* next of a walk in progress */
	struct event *tick, *walk, *flush, *again;
	struct turns soon, later;
	TAILQ_HEAD(, weft_wwait) waits;
	struct weft_listeners *listeners;
};

static atomic_uint live_all; /* on every worker */

/* ---- turns */

/* As many as there are now: what is queued meanwhile is of the next round. */
static void on_flush(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conns *c = arg;
	struct weft_turn *t, *last = TAILQ_LAST(&c->soon, turns);

	while (last && (t = TAILQ_FIRST(&c->soon))) {
		TAILQ_REMOVE(&c->soon, t, next);
		t->soon = false;
		if (t == last)
			last = NULL;
		t->run(t);
	}
	if (!TAILQ_EMPTY(&c->soon))
		event_active(c->flush, EV_TIMEOUT, 0);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conns *c = arg;
	struct weft_turn *t;

	while ((t = TAILQ_FIRST(&c->later))) {
		TAILQ_REMOVE(&c->later, t, next);
		t->later = false;
		t->soon = true;
		TAILQ_INSERT_TAIL(&c->soon, t, next);
	}
	event_active(c->flush, EV_TIMEOUT, 0);
}

void weft_turn_soon(struct weft_wstate *ws, struct weft_turn *t)
{
	if (t->soon || t->later)
		return;
	t->soon = true;
	TAILQ_INSERT_TAIL(&ws->conns->soon, t, next);
	event_active(ws->conns->flush, EV_TIMEOUT, 0);
}

void weft_turn_next(struct weft_wstate *ws, struct weft_turn *t)
{
	static const struct timeval now = {0, 0};

	if (t->soon || t->later)
		return;
	t->later = true;
	TAILQ_INSERT_TAIL(&ws->conns->later, t, next);
	event_add(ws->conns->again, &now);
}

void weft_turn_cancel(struct weft_wstate *ws, struct weft_turn *t)
{
	if (t->soon)
		TAILQ_REMOVE(&ws->conns->soon, t, next);
	if (t->later)
		TAILQ_REMOVE(&ws->conns->later, t, next);
	t->soon = t->later = false;
}

/* ---- lives */

static void walk_soon(struct weft_conns *c)
{
	static const struct timeval now = {0, 0};

	event_add(c->walk, &now);
}

static bool live_tick(struct weft_live *l)
{
	uint64_t n = l->flow.sent + l->flow.received;

	if (l->opened && n != l->ticked) {
		l->ticked = n;
		weft_flow_tick(&l->flow);
	}
	return true;
}

static enum weft_reason ask(struct weft_live *l, const struct weft_workload *w)
{
	struct weft_authz_query q = {
		.src = l->flow.src.ip,
		.dst = l->q_dst,
		.peer = l->flow.src_id[0] ? l->flow.src_id : NULL,
	};
	struct weft_verdict v;

	weft_authz_check(l->ws->model, w, &q, &v, NULL, 0);
	if (v.allow)
		return WEFT_REASON_OK;
	return v.reason != WEFT_REASON_OK ? v.reason : WEFT_REASON_POLICY_DENY;
}

enum weft_reason weft_live_check(struct weft_live *l, const struct weft_workload *w,
				 const struct weft_sockaddr *dst)
{
	l->q_dst = *dst;
	l->checked = true;
	return ask(l, w);
}

static void live_recheck(struct weft_live *l)
{
	const struct weft_workload *w;
	enum weft_reason r;

	if (!l->checked)
		return;
	w = weft_conns_workload(l->ws, l->pod);
	if (!w) /* it leaves the configuration: its pod's removal ends what lives */
		return;
	r = ask(l, w);
	if (r != WEFT_REASON_OK)
		l->cut(l, WEFT_REASON_POLICY_CHANGED, weft_reason_text(r));
}

static void on_walk(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conns *c = arg;

	for (int i = 0; i < WEFT_WALK_BATCH && c->tick_at; i++) {
		struct weft_live *l = c->tick_at;

		c->tick_at = TAILQ_NEXT(l, next);
		live_tick(l);
	}
	for (int i = 0; i < WEFT_WALK_BATCH && c->check_at; i++) {
		struct weft_live *l = c->check_at;

		c->check_at = TAILQ_NEXT(l, next);
		live_recheck(l);
	}
	if (c->tick_at || c->check_at)
		walk_soon(c);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct weft_conns *c = arg;

	c->tick_at = TAILQ_FIRST(&c->lives);
	if (c->tick_at)
		walk_soon(c);
}

void weft_conns_recheck(struct weft_wstate *ws)
{
	struct weft_conns *c = ws->conns;

	c->check_at = TAILQ_FIRST(&c->lives);
	if (c->check_at)
		walk_soon(c);
}

void weft_live_join(struct weft_live *l, struct weft_wstate *ws)
{
	l->ws = ws;
	l->flow.worker = ws->w;
	TAILQ_INSERT_TAIL(&ws->conns->lives, l, next);
	ws->conns->n++;
}

void weft_live_leave(struct weft_live *l)
{
	struct weft_conns *c = l->ws->conns;

	if (c->tick_at == l)
		c->tick_at = TAILQ_NEXT(l, next);
	if (c->check_at == l)
		c->check_at = TAILQ_NEXT(l, next);
	TAILQ_REMOVE(&c->lives, l, next);
	c->n--;
	l->ws = NULL;
}

bool weft_live_begin(struct weft_live *l, struct weft_wstate *ws, struct weft_npod *pod,
		     bool inbound)
{
	unsigned had = atomic_fetch_add_explicit(&live_all, 1, memory_order_relaxed);

	l->pod = weft_npod_ref(pod);
	atomic_fetch_add_explicit(&pod->conns, 1, memory_order_relaxed);
	weft_flow_init(&l->flow, ws, inbound);
	weft_live_join(l, ws);
	return had < ws->conf->max_conns;
}

void weft_live_opened(struct weft_live *l)
{
	if (l->opened)
		return;
	l->opened = true;
	weft_flow_open(&l->flow);
}

void weft_live_end(struct weft_live *l, enum weft_reason r, const char *detail)
{
	weft_live_leave(l);
	weft_flow_close(&l->flow, r, detail);
	atomic_fetch_sub_explicit(&live_all, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&l->pod->conns, 1, memory_order_relaxed);
	weft_npod_unref(l->pod);
	l->pod = NULL;
}

void weft_conns_cut(struct weft_wstate *ws, const struct weft_npod *p, enum weft_reason r)
{
	struct weft_live *l, *more;

	TAILQ_FOREACH_SAFE (l, &ws->conns->lives, next, more) {
		if (!p || l->pod == p)
			l->cut(l, r, "");
	}
}

unsigned weft_live_conns(struct weft_wstate *ws)
{
	return ws->conns ? ws->conns->n : 0;
}

/* ---- workloads */

const struct weft_workload *weft_conns_workload(const struct weft_wstate *ws,
						const struct weft_npod *pod)
{
	if (!ws->model)
		return NULL;
	if (pod->workload_uid && pod->workload_uid[0])
		return weft_model_workload_by_uid(ws->model, pod->workload_uid);
	return weft_model_workload_by_pod(ws->model, pod->ns, pod->name, pod->sa);
}

void weft_wwait_free(struct weft_wwait *x)
{
	if (!x)
		return;
	TAILQ_REMOVE(&x->ws->conns->waits, x, next);
	event_free(x->timer);
	weft_npod_unref(x->pod);
	free(x);
}

static void on_wwait_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct weft_wwait *x = arg;

	x->got(x->arg, NULL);
}

struct weft_wwait *weft_wwait_new(struct weft_wstate *ws, struct weft_npod *pod,
				  void (*got)(void *arg, const struct weft_workload *w), void *arg)
{
	struct weft_wwait *x = weft_xcalloc(1, sizeof(*x));
	unsigned ms = ws->conf->workload_wait_ms;
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	x->ws = ws;
	x->pod = weft_npod_ref(pod);
	x->got = got;
	x->arg = arg;
	x->timer = evtimer_new(ws->w->base, on_wwait_timeout, x);
	assert(x->timer);
	evtimer_add(x->timer, &tv);
	TAILQ_INSERT_TAIL(&ws->conns->waits, x, next);
	return x;
}

void weft_conns_model(struct weft_wstate *ws)
{
	struct weft_wwait *x, *more;

	/* got() frees its own wait and may start others, at the tail, whose workload is not there
	 * either */
	TAILQ_FOREACH_SAFE (x, &ws->conns->waits, next, more) {
		const struct weft_workload *w = weft_conns_workload(ws, x->pod);

		if (w)
			x->got(x->arg, w);
	}
}

/* ---- */

struct weft_listeners **weft_conns_listeners(struct weft_wstate *ws)
{
	return &ws->conns->listeners;
}

struct weft_conns *weft_conns_get(struct weft_wstate *ws)
{
	static const struct timeval every = {WEFT_TICK_MS / 1000, 0};
	struct weft_conns *c = ws->conns;

	if (!c) {
		c = ws->conns = weft_xcalloc(1, sizeof(*c));
		TAILQ_INIT(&c->lives);
		TAILQ_INIT(&c->soon);
		TAILQ_INIT(&c->later);
		TAILQ_INIT(&c->waits);
		c->tick = event_new(ws->w->base, -1, EV_PERSIST, on_tick, c);
		c->walk = evtimer_new(ws->w->base, on_walk, c);
		c->flush = evtimer_new(ws->w->base, on_flush, c);
		c->again = evtimer_new(ws->w->base, on_again, c);
		assert(c->tick && c->walk && c->flush && c->again);
		event_add(c->tick, &every);
	}
	c->users++;
	return c;
}

void weft_conns_put(struct weft_wstate *ws)
{
	struct weft_conns *c = ws->conns;

	if (--c->users > 0)
		return;
	assert(TAILQ_EMPTY(&c->lives) && TAILQ_EMPTY(&c->waits));
	event_free(c->tick);
	event_free(c->walk);
	event_free(c->flush);
	event_free(c->again);
	ws->conns = NULL;
	free(c);
}
