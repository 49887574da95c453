#include "proxy/node/reserve.h"

#include "proxy/core/arena.h"
#include "proxy/node/node_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>
#include <uthash.h>

enum { KINDS = 4, KEEP_SECONDS = 4, RETRY_FIRST_MS = 100, RETRY_MAX_MS = 2000, TIGHT_S = 5 };

struct demand {
	STAILQ_ENTRY(demand) link;
	unsigned worker, count;
};
struct shelf {
	int *fds;
	unsigned n, cap;
	unsigned target;
	unsigned asked;			    /* at the broker */
	unsigned wants[WEFT_WANT_INFLIGHT]; /* counts, oldest first */
	unsigned n_wants;
	unsigned waiting; /* sum of demands */
	unsigned taken;	  /* since the last tick */
	unsigned retry_ms;
	uint64_t retry_at_ns; /* after a failure: not before */
	uint64_t asked_ns;    /* when the oldest Want was sent, or answered last */
	bool used;	      /* kept ahead */
	bool demanded;	      /* ever by a connection */
	STAILQ_HEAD(, demand) demands;
};
struct bin {
	struct weft_npod *pod;
	struct shelf shelves[KINDS];
	UT_hash_handle hh;
};
struct weft_reserve {
	struct weft_node *node;
	struct weft_reserve_conf conf;
	struct bin *bins;
	unsigned kept;
	unsigned tight_s; /* left, in which nothing is kept ahead */
	bool up;
};

static unsigned min_u(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

struct weft_reserve *weft_reserve_new(struct weft_node *n, const struct weft_reserve_conf *conf)
{
	struct weft_reserve *r = weft_xcalloc(1, sizeof(*r));

	r->node = n;
	r->conf = *conf;
	return r;
}

static struct bin *bin_find(const struct weft_reserve *r, const struct weft_npod *p)
{
	struct bin *b;

	HASH_FIND_PTR(r->bins, &p, b);
	return b;
}

static struct shelf *shelf_find(const struct weft_reserve *r, const struct weft_npod *p,
				enum weft_sock_kind k)
{
	struct bin *b = bin_find(r, p);

	return b ? &b->shelves[k - WEFT_SOCK_OUT4] : NULL;
}

static void shelf_push(struct weft_reserve *r, struct shelf *s, int fd)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 8;
		s->fds = weft_xrealloc(s->fds, s->cap * sizeof(*s->fds));
	}
	s->fds[s->n++] = fd;
	r->kept++;
}

static int shelf_pop(struct weft_reserve *r, struct shelf *s)
{
	r->kept--;
	return s->fds[--s->n];
}

struct fill {
	struct weft_npod *pod;
	enum weft_sock_kind kind;
	unsigned n;
	int fds[];
};

static void on_fill(struct weft_worker *w, void *arg)
{
	struct fill *f = arg;

	weft_stock_fill(w->owner, f->pod, f->kind, f->fds, f->n);
	weft_npod_unref(f->pod);
	free(f);
}

static void give(struct weft_reserve *r, struct bin *b, enum weft_sock_kind k, unsigned worker,
		 unsigned count)
{
	struct shelf *s = &b->shelves[k - WEFT_SOCK_OUT4];
	struct fill *f = weft_xcalloc(1, sizeof(*f) + count * sizeof(f->fds[0]));

	f->pod = weft_npod_ref(b->pod);
	f->kind = k;
	while (f->n < count)
		f->fds[f->n++] = shelf_pop(r, s);
	weft_worker_post(r->node->ws[worker].w, on_fill, f);
}

static void on_recall(struct weft_worker *w, void *arg)
{
	struct fill *f = arg;

	weft_stock_recall(w->owner, f->pod, f->kind);
	weft_npod_unref(f->pod);
	free(f);
}

/* The agent is away and a worker has nothing: what the others keep ahead comes back here. */
static void recall(struct weft_reserve *r, struct bin *b, enum weft_sock_kind k, unsigned not )
{
	for (unsigned i = 0; i < r->node->n_ws; i++) {
		struct fill *f;

		if (i == not )
			continue;
		f = weft_xcalloc(1, sizeof(*f));
		f->pod = weft_npod_ref(b->pod);
		f->kind = k;
		weft_worker_post(r->node->ws[i].w, on_recall, f);
	}
}

/* Those who wait longest are served first; one that asked much does not hold up the kept rest. */
static void serve(struct weft_reserve *r, struct bin *b, enum weft_sock_kind k)
{
	struct shelf *s = &b->shelves[k - WEFT_SOCK_OUT4];
	struct demand *d;

	while (s->n && (d = STAILQ_FIRST(&s->demands))) {
		unsigned count = min_u(d->count, s->n);

		give(r, b, k, d->worker, count);
		d->count -= count;
		s->waiting -= count;
		if (d->count)
			return;
		STAILQ_REMOVE_HEAD(&s->demands, link);
		free(d);
	}
}

static void refill(struct weft_reserve *r, struct bin *b, enum weft_sock_kind k)
{
	struct shelf *s = &b->shelves[k - WEFT_SOCK_OUT4];
	bool ahead = r->kept < r->conf.total && !r->tight_s;
	unsigned goal = s->waiting + (ahead ? s->target : 0);

	if (!r->up || weft_now_ns() < s->retry_at_ns)
		return;
	while (s->n + s->asked < goal && s->n_wants < WEFT_WANT_INFLIGHT) {
		unsigned count = min_u(goal - s->n - s->asked, WEFT_WANT_MAX);

		if (r->conf.want(r->conf.owner, b->pod, k, count))
			return;
		if (!s->n_wants)
			s->asked_ns = weft_now_ns();
		s->wants[s->n_wants++] = count;
		s->asked += count;
	}
}

static void shelf_start(struct weft_reserve *r, struct shelf *s)
{
	if (s->used)
		return;
	s->used = true;
	s->target = r->conf.min;
}

void weft_reserve_pod_add(struct weft_reserve *r, struct weft_npod *p)
{
	struct bin *b = weft_xcalloc(1, sizeof(*b));

	b->pod = weft_npod_ref(p);
	for (int i = 0; i < KINDS; i++)
		STAILQ_INIT(&b->shelves[i].demands);
	HASH_ADD_PTR(r->bins, pod, b);
	for (size_t i = 0; i < p->n_addrs; i++) {
		bool v6 = p->addrs[i].family == 6;
		enum weft_sock_kind out = v6 ? WEFT_SOCK_OUT6 : WEFT_SOCK_OUT4;
		enum weft_sock_kind in = v6 ? WEFT_SOCK_IN6 : WEFT_SOCK_IN4;

		shelf_start(r, &b->shelves[out - WEFT_SOCK_OUT4]);
		shelf_start(r, &b->shelves[in - WEFT_SOCK_OUT4]);
		refill(r, b, out);
		refill(r, b, in);
	}
}

static void shelf_clear(struct weft_reserve *r, struct shelf *s)
{
	struct demand *d;

	while (s->n)
		close(shelf_pop(r, s));
	free(s->fds);
	while ((d = STAILQ_FIRST(&s->demands))) {
		STAILQ_REMOVE_HEAD(&s->demands, link);
		free(d);
	}
}

static void bin_free(struct weft_reserve *r, struct bin *b)
{
	HASH_DEL(r->bins, b);
	for (int i = 0; i < KINDS; i++)
		shelf_clear(r, &b->shelves[i]);
	weft_npod_unref(b->pod);
	free(b);
}

void weft_reserve_pod_del(struct weft_reserve *r, struct weft_npod *p)
{
	struct bin *b = bin_find(r, p);

	if (b)
		bin_free(r, b);
}

void weft_reserve_free(struct weft_reserve *r)
{
	struct bin *b, *next;

	if (!r)
		return;
	HASH_ITER (hh, r->bins, b, next)
		bin_free(r, b);
	free(r);
}

void weft_reserve_demand(struct weft_reserve *r, struct weft_npod *p, enum weft_sock_kind k,
			 unsigned worker, unsigned count)
{
	struct bin *b = bin_find(r, p);
	struct shelf *s;
	struct demand *d;

	if (!b || !count)
		return;
	s = &b->shelves[k - WEFT_SOCK_OUT4];
	shelf_start(r, s);
	s->demanded = true;
	/* without the agent every take comes by here: that is no rate to keep ahead for */
	if (r->up)
		s->taken += count;
	/* ran dry: the rate is not known yet, so grow at once instead of at the next tick */
	if (r->up && count > s->n)
		s->target = min_u(s->target * 2, r->conf.max);
	d = weft_xcalloc(1, sizeof(*d));
	d->worker = worker;
	d->count = count;
	s->waiting += count;
	STAILQ_INSERT_TAIL(&s->demands, d, link);
	serve(r, b, k);
	refill(r, b, k);
	if (s->waiting && !r->up)
		recall(r, b, k, worker);
}

void weft_reserve_put(struct weft_reserve *r, struct weft_npod *p, enum weft_sock_kind k, int fd)
{
	struct bin *b = bin_find(r, p);
	struct shelf *s = b ? &b->shelves[k - WEFT_SOCK_OUT4] : NULL;

	/* while the agent is away nothing that can be used again is thrown away */
	if (!s || (!s->waiting && s->n >= (r->up ? s->target : r->conf.max))) {
		close(fd);
		return;
	}
	shelf_push(r, s, fd);
	serve(r, b, k);
}

void weft_reserve_got(struct weft_reserve *r, struct weft_npod *p, enum weft_sock_kind k,
		      const int *fds, unsigned n, bool failed)
{
	struct bin *b = bin_find(r, p);
	struct shelf *s = b ? &b->shelves[k - WEFT_SOCK_OUT4] : NULL;
	uint64_t now = weft_now_ns();

	if (!s) {
		for (unsigned i = 0; i < n; i++)
			close(fds[i]);
		return;
	}
	if (s->n_wants) {
		s->asked -= s->wants[0];
		s->n_wants--;
		memmove(s->wants, s->wants + 1, s->n_wants * sizeof(s->wants[0]));
	}
	s->asked_ns = now;
	for (unsigned i = 0; i < n; i++) {
		if (r->conf.fd_tight && fds[i] >= r->conf.fd_tight)
			r->tight_s = TIGHT_S;
		shelf_push(r, s, fds[i]);
	}
	s->retry_ms = !failed	    ? 0
		      : s->retry_ms ? min_u(s->retry_ms * 2, RETRY_MAX_MS)
				    : RETRY_FIRST_MS;
	s->retry_at_ns = failed ? now + s->retry_ms * 1000000ull : 0;
	serve(r, b, k);
	refill(r, b, k);
}

void weft_reserve_link(struct weft_reserve *r, bool up)
{
	struct bin *b, *next;

	r->up = up;
	HASH_ITER (hh, r->bins, b, next) {
		for (int i = 0; i < KINDS; i++) {
			struct shelf *s = &b->shelves[i];

			/* the answers to these will not come any more */
			s->n_wants = s->asked = 0;
			s->retry_at_ns = 0;
			if (up)
				refill(r, b, (enum weft_sock_kind)(i + WEFT_SOCK_OUT4));
		}
	}
}

/* Keeps what a few seconds of the present rate take, and half of what is open: sockets are used
 * again, so that a busy pod takes few, but without the agent it must be able to open more. Grows at
 * once, shrinks by a quarter a second. */
static void follow_rate(struct weft_reserve *r, const struct bin *b, struct shelf *s)
{
	unsigned goal = s->taken < r->conf.max ? s->taken * KEEP_SECONDS : r->conf.max;
	unsigned open = atomic_load_explicit(&b->pod->conns, memory_order_relaxed);

	s->taken = 0;
	if (s->demanded && open / 2 > goal)
		goal = open / 2;
	goal = goal < r->conf.min || r->tight_s ? r->conf.min : min_u(goal, r->conf.max);
	if (goal >= s->target || r->tight_s)
		s->target = goal;
	else
		s->target -= (s->target - goal + 3) / 4;
	while (r->up && s->n > s->target)
		close(shelf_pop(r, s));
}

int weft_reserve_tick(struct weft_reserve *r, uint64_t now_ns)
{
	struct bin *b, *next;
	int err = 0;

	if (r->tight_s)
		r->tight_s--;
	HASH_ITER (hh, r->bins, b, next) {
		for (int i = 0; i < KINDS; i++) {
			struct shelf *s = &b->shelves[i];

			if (!s->used)
				continue;
			follow_rate(r, b, s);
			refill(r, b, (enum weft_sock_kind)(i + WEFT_SOCK_OUT4));
			if (s->n_wants && now_ns > s->asked_ns &&
			    now_ns - s->asked_ns > WEFT_WANT_ANSWER_MS * 1000000ull)
				err = -ETIMEDOUT;
		}
	}
	return err;
}

void weft_reserve_count(const struct weft_reserve *r, const struct weft_npod *p,
			enum weft_sock_kind k, struct weft_reserve_count *ret)
{
	const struct shelf *s = shelf_find(r, p, k);

	*ret = (struct weft_reserve_count){0};
	if (s)
		*ret = (struct weft_reserve_count){s->n, s->target, s->asked, s->waiting};
}
