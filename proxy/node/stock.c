/* Worker's half of the stock of unconnected sockets. It is filled from the reserve (reserve.c), and
 * from connections that ended: those sockets are disconnected and used again, so that a steady load
 * asks the agent for nothing. */
#include "proxy/core/arena.h"
#include "proxy/net/origdst.h"
#include "proxy/node/node_priv.h"
#include "proxy/node/reserve.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>

enum {
	KINDS = 4,
	SHELF_FIRST = 4, /* goal when a pod and kind is first used */
	GOAL_MAX = 64,
	SHELF_MAX = 2 * GOAL_MAX, /* room for those that come back after the shelf was filled */
	WAITERS_MAX = 4096,	  /* a pod and kind */
	COOLING_MAX = 256,	  /* a worker; sockets whose last ACK is under way */
	COOLING_TRIES = 10,
	TICK_MS = 1000,
	COOL_MS = 20
};

struct weft_sock_wait {
	TAILQ_ENTRY(weft_sock_wait) link;
	struct shelf *shelf;
	struct event *timer;
	void (*got)(void *arg, int fd);
	void *arg;
};
TAILQ_HEAD(waits, weft_sock_wait);
struct shelf {
	int fds[SHELF_MAX];
	unsigned n, asked, goal;
	unsigned low; /* least n since the last tick */
	unsigned taken;
	unsigned n_waits;
	struct waits waits;
};
struct bin {
	struct weft_npod *pod;
	struct shelf *shelves[KINDS]; /* made on first use */
	UT_hash_handle hh;
};
struct cooling {
	struct weft_npod *pod;
	enum weft_sock_kind kind;
	int fd;
	unsigned tries;
};
struct weft_stock {
	struct weft_wstate *ws;
	struct bin *bins;
	struct event *tick, *cool, *serve;
	struct cooling cooling[COOLING_MAX];
	unsigned n_cooling;
};

struct ask {
	struct weft_node *node;
	struct weft_npod *pod;
	enum weft_sock_kind kind;
	unsigned worker, count;
	int fd;
};

static void on_ask(struct weft_worker *w, void *arg)
{
	struct ask *a = arg;

	if (a->node->reserve)
		weft_reserve_demand(a->node->reserve, a->pod, a->kind, a->worker, a->count);
	weft_npod_unref(a->pod);
	free(a);
}

static void on_put(struct weft_worker *w, void *arg)
{
	struct ask *a = arg;

	if (a->node->reserve)
		weft_reserve_put(a->node->reserve, a->pod, a->kind, a->fd);
	else
		close(a->fd);
	weft_npod_unref(a->pod);
	free(a);
}

static void post(struct weft_stock *st, struct weft_npod *p, enum weft_sock_kind k, unsigned count,
		 int fd)
{
	struct ask *a = weft_xcalloc(1, sizeof(*a));

	*a = (struct ask){st->ws->node, weft_npod_ref(p), k, (unsigned)st->ws->w->id, count, fd};
	weft_worker_post(st->ws->node->main, count ? on_ask : on_put, a);
}

static bool agent_here(const struct weft_stock *st)
{
	return atomic_load_explicit(&st->ws->node->broker_up, memory_order_relaxed);
}

static void refill(struct weft_stock *st, struct bin *b, enum weft_sock_kind k)
{
	struct shelf *s = b->shelves[k - WEFT_SOCK_OUT4];
	/* while the agent is away nobody keeps ahead what another worker may need */
	unsigned goal = agent_here(st) ? s->goal : 0;
	unsigned have = s->n + s->asked, want = goal + s->n_waits;

	/* asks at half, so that one ask brings many */
	if (have > goal / 2 + s->n_waits || have >= want)
		return;
	s->asked += want - have;
	post(st, b->pod, k, want - have, -1);
}

static struct bin *bin_get(struct weft_stock *st, struct weft_npod *p, bool make)
{
	struct bin *b;

	HASH_FIND_PTR(st->bins, &p, b);
	if (b || !make)
		return b;
	b = weft_xcalloc(1, sizeof(*b));
	b->pod = weft_npod_ref(p);
	HASH_ADD_PTR(st->bins, pod, b);
	return b;
}

static struct shelf *shelf_get(struct weft_stock *st, struct bin *b, enum weft_sock_kind k)
{
	struct shelf **s = &b->shelves[k - WEFT_SOCK_OUT4];
	static const struct timeval tick = {TICK_MS / 1000, TICK_MS % 1000 * 1000};

	if (!*s) {
		*s = weft_xcalloc(1, sizeof(**s));
		(*s)->goal = SHELF_FIRST;
		TAILQ_INIT(&(*s)->waits);
	}
	if (!event_pending(st->tick, EV_TIMEOUT, NULL))
		event_add(st->tick, &tick);
	return *s;
}

static void wait_end(struct weft_sock_wait *w)
{
	TAILQ_REMOVE(&w->shelf->waits, w, link);
	w->shelf->n_waits--;
	event_free(w->timer);
	free(w);
}

static void on_wait_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct weft_sock_wait *w = arg;
	void (*got)(void *arg, int fd) = w->got;
	void *got_arg = w->arg;

	wait_end(w);
	got(got_arg, -ETIMEDOUT);
}

int weft_stock_take(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k,
		    void (*got)(void *arg, int fd), void *arg, struct weft_sock_wait **ret_wait)
{
	struct weft_stock *st = ws->stock;
	unsigned ms = ws->conf->connect_ms;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	struct weft_sock_wait *w;
	struct bin *b;
	struct shelf *s;

	if (atomic_load(&p->removed))
		return -ECANCELED;
	b = bin_get(st, p, true);
	s = shelf_get(st, b, k);
	s->taken++;
	if (s->n && !s->n_waits) {
		int fd = s->fds[--s->n];

		if (s->n < s->low)
			s->low = s->n;
		refill(st, b, k);
		return fd;
	}
	if (s->n_waits >= WAITERS_MAX)
		return -ENOBUFS;
	s->low = 0;
	if (s->goal < GOAL_MAX)
		s->goal *= 2;
	w = weft_xcalloc(1, sizeof(*w));
	w->shelf = s;
	w->got = got;
	w->arg = arg;
	w->timer = evtimer_new(ws->w->base, on_wait_timeout, w);
	if (!w->timer || event_add(w->timer, &tv))
		abort(); /* memory is out */
	TAILQ_INSERT_TAIL(&s->waits, w, link);
	s->n_waits++;
	refill(st, b, k);
	*ret_wait = w;
	return -EAGAIN;
}

void weft_stock_cancel(struct weft_sock_wait *w)
{
	if (w)
		wait_end(w);
}

/* Calls out: the shelf lives as long as its pod's bin, which only weft_stock_drop and _done end. */
static void shelf_serve(struct shelf *s)
{
	struct weft_sock_wait *w;

	while (s->n && (w = TAILQ_FIRST(&s->waits))) {
		void (*got)(void *arg, int fd) = w->got;
		void *arg = w->arg;
		int fd = s->fds[--s->n];

		wait_end(w);
		got(arg, fd);
	}
}

void weft_stock_recall(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k)
{
	struct bin *b = ws->stock ? bin_get(ws->stock, p, false) : NULL;
	struct shelf *s = b ? b->shelves[k - WEFT_SOCK_OUT4] : NULL;

	while (s && s->n && !s->n_waits)
		post(ws->stock, p, k, 0, s->fds[--s->n]);
}

void weft_stock_fill(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k,
		     const int *fds, unsigned n)
{
	struct weft_stock *st = ws->stock;
	struct bin *b = st ? bin_get(st, p, false) : NULL; /* none: the worker ends */
	struct shelf *s = b ? b->shelves[k - WEFT_SOCK_OUT4] : NULL;

	if (s)
		s->asked -= n < s->asked ? n : s->asked;
	for (unsigned i = 0; i < n; i++) {
		if (s && s->n == SHELF_MAX)
			shelf_serve(s);
		if (!s)
			close(fds[i]);
		else if (s->n < SHELF_MAX)
			s->fds[s->n++] = fds[i];
		else
			post(st, p, k, 0, fds[i]);
	}
	if (!s)
		return;
	shelf_serve(s);
	/* who waited was served by a connection that ended meanwhile */
	if (!agent_here(st))
		weft_stock_recall(ws, p, k);
}

static void on_serve(evutil_socket_t fd, short what, void *arg)
{
	struct weft_stock *st = arg;
	struct bin *b, *next;

	HASH_ITER (hh, st->bins, b, next)
		for (int i = 0; i < KINDS; i++)
			if (b->shelves[i] && b->shelves[i]->n_waits)
				shelf_serve(b->shelves[i]);
}

static void keep(struct weft_stock *st, struct bin *b, enum weft_sock_kind k, int fd)
{
	struct shelf *s = shelf_get(st, b, k);
	static const struct timeval now = {0, 0};

	if (!agent_here(st) && !s->n_waits) {
		/* any worker may need it next */
		post(st, b->pod, k, 0, fd);
		return;
	}
	if (s->n == SHELF_MAX) {
		close(fd);
		return;
	}
	s->fds[s->n++] = fd;
	/* the giver's caller is in the middle of its own work: serve in the next turn */
	if (s->n_waits)
		event_add(st->serve, &now);
}

enum fate { FATE_CLOSE, FATE_LATER, FATE_KEEP };

/* A bound source address outlives the disconnect: the next user who binds none would speak as the
 * last one's client. */
static bool unbind(int fd, enum weft_sock_kind k)
{
	struct sockaddr_in any4 = {.sin_family = AF_INET};
	struct sockaddr_in6 any6 = {.sin6_family = AF_INET6};

	if (k == WEFT_SOCK_IN4)
		return !bind(fd, (struct sockaddr *)&any4, sizeof(any4));
	if (k == WEFT_SOCK_IN6)
		return !bind(fd, (struct sockaddr *)&any6, sizeof(any6));
	return true; /* those out are never bound */
}

/* Back to where it was when the agent made it. On a live connection this sends the reset. */
static enum fate disconnect(int fd, enum weft_sock_kind k)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	int err;
	socklen_t n = sizeof(err);

	/* a pending error must not meet the next user */
	if (connect(fd, &none, sizeof(none)) || getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) ||
	    !unbind(fd, k))
		return FATE_CLOSE;
	return FATE_KEEP;
}

static enum fate reuse(int fd, enum weft_sock_kind k)
{
	uint8_t state; /* the first byte of struct tcp_info */
	socklen_t n = sizeof(state);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &n))
		return FATE_CLOSE;
	if (state == TCP_LAST_ACK || state == TCP_CLOSING)
		return FATE_LATER;
	return state == TCP_CLOSE ? disconnect(fd, k) : FATE_CLOSE;
}

static void on_cool(evutil_socket_t evfd, short what, void *arg)
{
	static const struct timeval again = {0, COOL_MS * 1000};
	struct weft_stock *st = arg;
	unsigned left = 0;

	for (unsigned i = 0; i < st->n_cooling; i++) {
		struct cooling *c = &st->cooling[i];
		struct bin *b = bin_get(st, c->pod, false);
		enum fate f =
			b && !atomic_load(&c->pod->removed) ? reuse(c->fd, c->kind) : FATE_CLOSE;

		if (f == FATE_LATER && ++c->tries < COOLING_TRIES) {
			st->cooling[left++] = *c;
			continue;
		}
		if (f == FATE_KEEP)
			keep(st, b, c->kind, c->fd);
		else
			close(c->fd);
		weft_npod_unref(c->pod);
	}
	st->n_cooling = left;
	if (left)
		event_add(st->cool, &again);
}

void weft_stock_give(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k, int fd)
{
	static const struct timeval soon = {0, COOL_MS * 1000};
	struct weft_stock *st = ws->stock;
	enum fate f = atomic_load(&p->removed) ? FATE_CLOSE : reuse(fd, k);

	if (f == FATE_KEEP) {
		keep(st, bin_get(st, p, true), k, fd);
	} else if (f == FATE_LATER && st->n_cooling < COOLING_MAX) {
		st->cooling[st->n_cooling++] = (struct cooling){weft_npod_ref(p), k, fd, 0};
		if (st->n_cooling == 1)
			event_add(st->cool, &soon);
	} else {
		close(fd);
	}
}

void weft_stock_abort(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k, int fd)
{
	if (!atomic_load(&p->removed) && disconnect(fd, k) == FATE_KEEP)
		keep(ws->stock, bin_get(ws->stock, p, true), k, fd);
	else
		weft_sock_abort(fd);
}

/* What was not needed in the last second goes back; what is not used at all is not kept here. */
static bool shelf_tick(struct weft_stock *st, struct bin *b, int i)
{
	struct shelf *s = b->shelves[i];
	unsigned back = s->taken ? s->low / 2 : s->n;

	if (!s->taken && !s->n_waits)
		s->goal = SHELF_FIRST;
	else if (s->low > s->goal / 2 && s->goal > SHELF_FIRST)
		s->goal /= 2;
	while (back-- && s->n)
		post(st, b->pod, (enum weft_sock_kind)(i + WEFT_SOCK_OUT4), 0, s->fds[--s->n]);
	s->taken = 0;
	s->low = s->n;
	return s->n || s->n_waits || s->asked;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval tick = {TICK_MS / 1000, TICK_MS % 1000 * 1000};
	struct weft_stock *st = arg;
	struct bin *b, *next;
	bool alive = false;

	HASH_ITER (hh, st->bins, b, next)
		for (int i = 0; i < KINDS; i++)
			if (b->shelves[i])
				alive |= shelf_tick(st, b, i);
	/* shelf_get starts it again: an idle worker does not wake */
	if (alive)
		event_add(st->tick, &tick);
}

int weft_stock_init(struct weft_wstate *ws)
{
	struct weft_stock *st = weft_xcalloc(1, sizeof(*st));

	st->ws = ws;
	st->tick = evtimer_new(ws->w->base, on_tick, st);
	st->cool = evtimer_new(ws->w->base, on_cool, st);
	st->serve = evtimer_new(ws->w->base, on_serve, st);
	ws->stock = st;
	return st->tick && st->cool && st->serve ? 0 : -ENOMEM;
}

static void shelf_free(struct shelf *s)
{
	struct weft_sock_wait *w;

	if (!s)
		return;
	while (s->n)
		close(s->fds[--s->n]);
	while ((w = TAILQ_FIRST(&s->waits))) {
		void (*got)(void *arg, int fd) = w->got;
		void *arg = w->arg;

		wait_end(w);
		got(arg, -ECANCELED);
	}
	free(s);
}

static void bin_free(struct weft_stock *st, struct bin *b)
{
	HASH_DEL(st->bins, b);
	for (int i = 0; i < KINDS; i++)
		shelf_free(b->shelves[i]);
	weft_npod_unref(b->pod);
	free(b);
}

void weft_stock_drop(struct weft_wstate *ws, struct weft_npod *p)
{
	struct bin *b = bin_get(ws->stock, p, false);

	if (b)
		bin_free(ws->stock, b);
}

void weft_stock_done(struct weft_wstate *ws)
{
	struct weft_stock *st = ws->stock;
	struct bin *b, *next;

	if (!st)
		return;
	HASH_ITER (hh, st->bins, b, next)
		bin_free(st, b);
	for (unsigned i = 0; i < st->n_cooling; i++) {
		close(st->cooling[i].fd);
		weft_npod_unref(st->cooling[i].pod);
	}
	event_free(st->tick);
	event_free(st->cool);
	event_free(st->serve);
	free(st);
	ws->stock = NULL;
}
