/* Places for requests: who gets which connection, and who waits. */
#include "proxy/core/worker.h"
#include "proxy/upstream/pool_priv.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { LEASES_KEPT = 256 };

/* Leases of this thread that are free. */
static __thread struct lease_list spare;
static __thread unsigned n_spare;
static pthread_key_t spare_key; /* set where there are some: they end with the thread */
static uint64_t hash_seed;

static void spare_free(void *p)
{
	struct weft_lease_priv *l;

	while (n_spare) {
		l = TAILQ_FIRST(&spare);
		TAILQ_REMOVE(&spare, l, link);
		n_spare--;
		free(l);
	}
}

__attribute__((constructor)) static void seed(void)
{
	hash_seed = weft_rand64();
	if (pthread_key_create(&spare_key, spare_free))
		abort();
}

unsigned weft_pool_hash(const void *p, size_t n)
{
	return (unsigned)XXH3_64bits_withSeed(p, n, hash_seed);
}

static struct weft_lease_priv *lease_new(struct pool *p, const struct weft_lease_ops *ops,
					 void *owner)
{
	struct weft_lease_priv *l = n_spare ? TAILQ_FIRST(&spare) : NULL;

	if (l) {
		TAILQ_REMOVE(&spare, l, link);
		n_spare--;
	} else {
		l = weft_xcalloc(1, sizeof(*l));
		l->l.priv = l;
	}
	l->l.session = NULL;
	l->l.fresh = false;
	l->l.host = p->host;
	l->l.wc = p->all->wc;
	weft_host_ref(p->host);
	weft_wcluster_ref(p->all->wc);
	l->pool = p;
	l->conn = NULL;
	l->ops = ops;
	l->owner = owner;
	l->priority = p->priority;
	return l;
}

static void lease_free(struct weft_lease_priv *l)
{
	struct weft_host *h = l->l.host;
	struct weft_wcluster *wc = l->l.wc;

	if (n_spare < LEASES_KEPT) {
		if (!n_spare) {
			TAILQ_INIT(&spare);
			pthread_setspecific(spare_key, &spare);
		}
		TAILQ_INSERT_HEAD(&spare, l, link);
		n_spare++;
	} else {
		free(l);
	}
	weft_host_unref(h);
	weft_wcluster_unref(wc); /* may free the pools: nothing of them is touched after it */
}

/* ---- keys */

struct key_buf {
	struct pool_key k;
	char text[POOL_KEY_MAX];
	size_t n; /* of text */
};

static int put(struct key_buf *b, enum pool_text t, const void *s, size_t n)
{
	if (n > POOL_NAME_MAX || b->n + n + 1 > sizeof(b->text))
		return -EINVAL;
	b->k.set |= (uint8_t)(1 << t);
	memcpy(b->text + b->n, s, n);
	b->text[b->n + n] = 0;
	b->n += n + 1;
	return 0;
}

static int put_text(struct key_buf *b, enum pool_text t, const char *s)
{
	return s ? put(b, t, s, strlen(s)) : 0;
}

/* A peer given as a number is written, so that there is one form of it. */
static int put_peer(struct key_buf *b, const struct tunnel_want *t)
{
	char num[8];

	if (t->peer || !t->peer_port)
		return put_text(b, KEY_PEER, t->peer);
	snprintf(num, sizeof(num), "%u", (unsigned)t->peer_port);
	return put_text(b, KEY_PEER, num);
}

static int put_client(struct key_buf *b, const struct weft_take *how)
{
	char both[2 * WEFT_SOCKADDR_TEXT + 1] = "", *at = both;

	if (how->source)
		weft_sockaddr_text(how->source, at, WEFT_SOCKADDR_TEXT);
	at += strlen(at);
	*at++ = ' ';
	*at = 0;
	if (how->dest)
		weft_sockaddr_text(how->dest, at, WEFT_SOCKADDR_TEXT);
	return put_text(b, KEY_CLIENT, both);
}

static enum weft_upstream_http version_of(const struct weft_cluster *c, const struct weft_take *how)
{
	if (c->http != WEFT_UP_DOWNSTREAM)
		return c->http;
	return how->downstream == WEFT_HTTP_2 ? WEFT_UP_H2 : WEFT_UP_H1;
}

static int key_make(struct key_buf *b, const struct weft_cluster *c, const struct weft_host *h,
		    const struct weft_take *how)
{
	struct tunnel_want t;
	int r = 0;

	memset(&b->k, 0, sizeof(b->k));
	b->n = 0;
	b->k.host = h;
	b->k.socket = weft_transport_pick(c->transport, how->metadata);
	b->k.version = (uint8_t)version_of(c, how);
	b->k.priority = (uint8_t)how->priority;
	if (c->priv && c->priv->pool_per_downstream)
		b->k.downstream = how->downstream_id;
	if (weft_tsocket_tls(b->k.socket) && (how->sni || how->san || how->alpn))
		r = put_text(b, KEY_SNI, how->sni) | put_text(b, KEY_SAN, how->san) |
		    put_text(b, KEY_ALPN, how->alpn);
	if (weft_tunnel_want(how, h, &t))
		r |= put_text(b, KEY_TUNNEL, t.authority) | put_peer(b, &t) |
		     put_text(b, KEY_IDENTITY, t.identity);
	if (weft_tsocket_per_client(b->k.socket) || c->priv->pool_per_downstream)
		r |= put_client(b, how);
	return r;
}

/* ---- pools */

static void pool_texts(struct pool *p, uint8_t set)
{
	const char *s = p->key + sizeof(struct pool_key);

	for (int i = 0; i < KEYS; i++)
		if (set & (1 << i)) {
			p->text[i] = s;
			s += strlen(s) + 1;
		}
}

static struct pool *pool_new(struct weft_pools *a, const struct key_buf *b, struct weft_host *h,
			     const struct weft_take *how)
{
	size_t n = sizeof(b->k) + b->n;
	struct pool *p = weft_xcalloc(1, sizeof(*p) + n);

	p->all = a;
	p->host = h;
	weft_host_ref(h);
	p->socket = b->k.socket;
	p->version = b->k.version;
	p->seen = p->version == WEFT_UP_H1 ? WEFT_UP_H1 : WEFT_UP_H2;
	p->priority = b->k.priority;
	TAILQ_INIT(&p->ready);
	TAILQ_INIT(&p->busy);
	TAILQ_INIT(&p->connecting);
	TAILQ_INIT(&p->pending);
	p->draining = a->draining;
	if (how->source)
		p->source = *how->source;
	if (how->dest)
		p->dest = *how->dest;
	p->key_n = n;
	memcpy(p->key, &b->k, sizeof(b->k));
	memcpy(p->key + sizeof(b->k), b->text, b->n);
	pool_texts(p, b->k.set);
	p->hashed = true;
	HASH_ADD_KEYPTR(hh, a->by_key, p->key, p->key_n, p);
	return p;
}

void weft_pool_look(struct pool *p)
{
	struct weft_pools *a = p->all;

	if (p->dead || p->n_ready || p->n_busy || p->n_connecting || p->n_pending)
		return;
	HASH_DELETE(hh, a->by_key, p);
	p->dead = true;
	weft_gate_give(a->wc->cluster, p->priority, GATE_POOLS);
	TAILQ_INSERT_TAIL(&a->dead_pools, p, grave);
	weft_pools_soon(a);
}

/* A pool that holds nothing but idle connections is given up for another one. */
static bool pool_spare(struct weft_pools *a, enum weft_priority priority)
{
	struct pool *p, *next;

	HASH_ITER (hh, a->by_key, p, next) {
		struct pool_conn *c;

		if (p->priority != priority || p->n_busy || p->n_connecting || p->n_pending ||
		    p->n_active)
			continue;
		while ((c = TAILQ_FIRST(&p->ready)))
			weft_conn_close(c, true);
		weft_pool_look(p);
		return true;
	}
	return false;
}

static int pool_find(struct weft_pools *a, struct weft_host *h, const struct weft_take *how,
		     struct pool **ret)
{
	const struct weft_cluster *c = a->wc->cluster;
	struct key_buf b;
	struct pool *p;
	int r = key_make(&b, c, h, how);

	if (r < 0)
		return r;
	/* The text follows the key without a gap: both are one run of bytes. */
	_Static_assert(offsetof(struct key_buf, text) == sizeof(struct pool_key), "one run");
	HASH_FIND(hh, a->by_key, &b, sizeof(b.k) + b.n, p);
	if (!p) {
		if (!weft_gate_take(c, how->priority, GATE_POOLS, false) &&
		    !(pool_spare(a, how->priority) &&
		      weft_gate_take(c, how->priority, GATE_POOLS, false))) {
			COUNT(c, upstream_cx_pool_overflow, 1);
			return -EBUSY;
		}
		p = pool_new(a, &b, h, how);
	}
	*ret = p;
	return 0;
}

/* ---- requests */

int weft_pool_take(struct weft_wcluster *wc, struct weft_host *h, const struct weft_take *how,
		   const struct weft_lease_ops *ops, void *owner, struct weft_lease **ret)
{
	const struct weft_cluster *c = wc->cluster;
	struct weft_lease_priv *l;
	struct pool_conn *conn;
	struct pool *p;
	int r;

	*ret = NULL;
	r = pool_find(wc->pools, h, how, &p);
	if (r < 0)
		return r;
	while ((conn = TAILQ_FIRST(&p->ready)) && !weft_conn_usable(conn))
		weft_conn_place(conn);
	if (conn) {
		l = lease_new(p, ops, owner);
		if (!weft_conn_attach(conn, l)) {
			lease_free(l);
			return -EBUSY;
		}
		weft_conn_place(conn);
		*ret = &l->l;
		if (c->preconnect_ratio > 1)
			weft_pool_grow(p);
		return 1;
	}
	if (!weft_gate_take(c, how->priority, GATE_PENDING, false)) {
		COUNT(c, upstream_rq_pending_overflow, 1);
		weft_pool_look(p);
		return -EBUSY;
	}
	l = lease_new(p, ops, owner);
	l->state = LEASE_PENDING;
	TAILQ_INSERT_TAIL(&p->pending, l, link);
	p->n_pending++;
	COUNT(c, upstream_rq_pending_total, 1);
	COUNT(c, upstream_rq_pending_active, 1);
	*ret = &l->l;
	weft_pool_grow(p);
	return 0;
}

void weft_pool_pending_done(struct weft_lease_priv *l)
{
	struct pool *p = l->pool;
	const struct weft_cluster *c = p->all->wc->cluster;

	TAILQ_REMOVE(&p->pending, l, link);
	p->n_pending--;
	weft_gate_give(c, p->priority, GATE_PENDING);
	COUNT(c, upstream_rq_pending_active, -1);
	l->state = LEASE_OVER;
	l->pool = NULL;
}

/* Callers hold the weft_wcluster. Those who begin to wait meanwhile are not failed. */
void weft_pool_fail(struct pool *p, enum weft_reset why, const char *detail)
{
	const struct weft_cluster *c = p->all->wc->cluster;
	struct lease_list all = TAILQ_HEAD_INITIALIZER(all);
	struct weft_lease_priv *l;

	while ((l = TAILQ_FIRST(&p->pending))) {
		weft_pool_pending_done(l);
		COUNT(c, upstream_rq_pending_failure_eject, 1);
		/* Back in a list of its own: a failed() that gives another one back removes it. */
		l->state = LEASE_PENDING;
		l->pool = NULL;
		l->conn = (void *)&all;
		TAILQ_INSERT_TAIL(&all, l, link);
	}
	while ((l = TAILQ_FIRST(&all))) {
		TAILQ_REMOVE(&all, l, link);
		l->state = LEASE_OVER;
		l->conn = NULL;
		l->ops->failed(l->owner, &l->l, why, detail);
	}
}

static void attached_done(struct weft_lease_priv *l)
{
	struct pool_conn *c = l->conn;
	struct weft_pools *a;

	if (!c)
		return;
	a = c->pool->all;
	TAILQ_REMOVE(&c->leases, l, link);
	c->active--;
	c->pool->n_active--;
	weft_cx_bytes(a->wc->cluster, weft_session_io(c->session), &c->rx, &c->tx);
	if (!c->active && (a->wc->cluster->idle_ms || a->wc->cluster->max_connection_ms))
		c->idle_ns = weft_now_ns();
	if (c->pool->n_pending && weft_conn_usable(c))
		weft_pool_serve(c);
	else
		weft_conn_place(c);
}

void weft_lease_done(struct weft_lease *lease)
{
	struct weft_lease_priv *l = lease->priv;
	const struct weft_cluster *c = l->l.wc->cluster;

	if (l->state == LEASE_PENDING) {
		COUNT(c, upstream_rq_cancelled, 1);
		if (l->pool) {
			struct pool *p = l->pool;

			weft_pool_pending_done(l);
			weft_pool_look(p);
		} else { /* about to be told of its failure */
			struct lease_list *all = (void *)l->conn;

			TAILQ_REMOVE(all, l, link);
		}
	} else if (l->state == LEASE_ATTACHED) {
		l->state = LEASE_OVER;
		weft_gate_give(c, l->priority, GATE_RQ);
		COUNT(c, upstream_rq_active, -1);
		atomic_fetch_sub_explicit(&l->l.host->rq_active, 1, memory_order_relaxed);
		attached_done(l);
	}
	lease_free(l);
}

/* ---- all pools of a cluster */

static void bury(struct weft_pools *a)
{
	struct pool_conn *c;
	struct pool *p;

	while ((c = TAILQ_FIRST(&a->dead_conns))) {
		TAILQ_REMOVE(&a->dead_conns, c, link);
		free(c);
	}
	while ((p = TAILQ_FIRST(&a->dead_pools))) {
		TAILQ_REMOVE(&a->dead_pools, p, grave);
		weft_host_unref(p->host);
		free(p);
	}
}

static void on_soon(evutil_socket_t fd, short what, void *arg)
{
	bury(arg);
}

static void on_bytes(evutil_socket_t fd, short what, void *arg)
{
	weft_tcp_bytes(arg);
}

void weft_pools_soon(struct weft_pools *a)
{
	event_active(&a->soon, EV_TIMEOUT, 0);
}

size_t weft_pools_open(const struct weft_pools *a)
{
	return a->n_conns;
}

struct weft_pools *weft_pools_new(struct weft_wcluster *wc)
{
	struct weft_pools *a = weft_xcalloc(1, sizeof(*a));

	a->wc = wc;
	weft_gates_init(wc->cluster);
	TAILQ_INIT(&a->tcp);
	TAILQ_INIT(&a->peers);
	TAILQ_INIT(&a->dead_conns);
	TAILQ_INIT(&a->dead_pools);
	event_assign(&a->soon, wc->w->base, -1, 0, on_soon, a);
	evtimer_assign(&a->bytes, wc->w->base, on_bytes, a);
	return a;
}

/* Closes what is idle, marks what is not. */
static void pool_drain(struct pool *p)
{
	struct pool_conn *c, *next;

	p->draining = true;
	for (c = TAILQ_FIRST(&p->ready); c; c = next) {
		next = TAILQ_NEXT(c, link);
		weft_conn_place(c);
	}
	weft_pool_look(p);
}

void weft_pools_drain(struct weft_pools *a)
{
	struct pool *p, *next;

	a->draining = true;
	HASH_ITER (hh, a->by_key, p, next)
		pool_drain(p);
	weft_hbone_drain(a, NULL);
}

void weft_pool_downstream_gone(struct weft_wcluster *wc, uint64_t id)
{
	struct pool *p, *next;
	struct pool_key k;

	HASH_ITER (hh, wc->pools->by_key, p, next) {
		memcpy(&k, p->key, sizeof(k));
		if (id && k.downstream == id)
			pool_drain(p);
	}
}

static void drain_list(struct conn_list *l)
{
	struct pool_conn *c, *next;

	for (c = TAILQ_FIRST(l); c; c = next) {
		next = TAILQ_NEXT(c, link);
		weft_conn_drain(c);
	}
}

static void close_list(struct conn_list *l)
{
	struct pool_conn *c;

	while ((c = TAILQ_FIRST(l)))
		weft_conn_close(c, true);
}

void weft_pools_host_gone(struct weft_pools *a, struct weft_host *h)
{
	struct pool *p, *next;

	weft_wcluster_ref(a->wc);
	HASH_ITER (hh, a->by_key, p, next)
		if (p->host == h)
			pool_drain(p);
	weft_hbone_drain(a, h);
	weft_wcluster_unref(a->wc);
}

/* It may be well again soon: connections made from now on are kept. */
void weft_pools_host_failed(struct weft_pools *a, struct weft_host *h, bool close_tcp)
{
	struct pool *p, *next;

	weft_wcluster_ref(a->wc);
	HASH_ITER (hh, a->by_key, p, next) {
		if (p->host != h)
			continue;
		drain_list(&p->ready);
		drain_list(&p->busy);
		weft_pool_look(p);
	}
	if (close_tcp)
		weft_tcp_host_gone(a, h);
	weft_hbone_drain(a, h);
	weft_wcluster_unref(a->wc);
}

void weft_pools_free(struct weft_pools *a)
{
	struct pool *p, *next;

	if (!a)
		return;
	HASH_ITER (hh, a->by_key, p, next) {
		assert(!p->n_pending); /* a lease holds the cluster */
		close_list(&p->ready);
		close_list(&p->busy);
		close_list(&p->connecting);
		weft_pool_look(p);
	}
	weft_hbone_free(a);
	event_del(&a->soon);
	event_del(&a->bytes);
	bury(a);
	free(a);
}
