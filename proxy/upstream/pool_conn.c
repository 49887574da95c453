/* One pooled connection: dialled, opened, given out, drained, closed. */
#include "proxy/core/worker.h"
#include "proxy/upstream/pool_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { GROW_AT_ONCE = 3 }; /* connections begun for one request, when preconnecting */
static const uint32_t MANY = UINT32_MAX / 2;

static const struct weft_cluster *cluster_of(const struct pool_conn *c)
{
	return c->pool->all->wc->cluster;
}

static struct conn_list *list_of(struct pool *p, enum conn_where w, uint32_t **ret_n)
{
	*ret_n = w == WHERE_READY ? &p->n_ready : w == WHERE_BUSY ? &p->n_busy : &p->n_connecting;
	return w == WHERE_READY ? &p->ready : w == WHERE_BUSY ? &p->busy : &p->connecting;
}

static void move(struct pool_conn *c, enum conn_where to)
{
	struct pool *p = c->pool;
	struct conn_list *list;
	uint32_t *n;

	if (c->list == to)
		return;
	if (c->list != WHERE_NONE) {
		list = list_of(p, c->list, &n);
		TAILQ_REMOVE(list, c, link);
		--*n;
	}
	c->list = (uint8_t)to;
	if (to == WHERE_NONE)
		return;
	/* The one used last is taken first: others come to their idle timeout. */
	list = list_of(p, to, &n);
	TAILQ_INSERT_HEAD(list, c, link);
	++*n;
}

bool weft_conn_usable(const struct pool_conn *c)
{
	return c->state == CONN_OPEN && c->left && c->active < c->limit &&
	       weft_session_room(c->session);
}

void weft_conn_place(struct pool_conn *c)
{
	bool usable;

	if (c->state == CONN_DEAD || c->state == CONN_CONNECTING)
		return;
	if (!c->left)
		c->state = CONN_DRAINING;
	if (!c->active && !c->pool->n_pending &&
	    (c->state == CONN_DRAINING || c->pool->draining || c->pool->all->draining)) {
		weft_conn_close(c, true);
		return;
	}
	if (!c->active && c->state == CONN_DRAINING) {
		weft_conn_close(c, true);
		return;
	}
	usable = weft_conn_usable(c);
	move(c, usable ? WHERE_READY : WHERE_BUSY);
	if (!usable && c->state == CONN_DRAINING && c->pool->n_pending)
		weft_pool_grow(c->pool);
}

bool weft_conn_attach(struct pool_conn *c, struct weft_lease_priv *l)
{
	const struct weft_cluster *cl = cluster_of(c);
	struct weft_host *h = c->pool->host;

	if (!weft_gate_take(cl, l->priority, GATE_RQ, false)) {
		COUNT(cl, upstream_rq_pending_overflow, 1);
		return false;
	}
	COUNT(cl, upstream_rq_total, 1);
	COUNT(cl, upstream_rq_active, 1);
	atomic_fetch_add_explicit(&h->rq_total, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->rq_active, 1, memory_order_relaxed);
	l->state = LEASE_ATTACHED;
	l->conn = c;
	l->l.session = c->session;
	l->l.fresh = !c->served;
	TAILQ_INSERT_TAIL(&c->leases, l, link);
	c->active++;
	c->pool->n_active++;
	c->served++;
	if (cl->outlier)
		weft_host_outcome(c->pool->all->wc, h, WEFT_OUT_CONNECTED, 0);
	if (c->left != UINT32_MAX && !--c->left)
		COUNT(cl, upstream_cx_max_requests, 1);
	return true;
}

void weft_pool_serve(struct pool_conn *c)
{
	struct pool *p = c->pool;
	struct weft_wcluster *wc = p->all->wc;
	struct weft_lease_priv *l;

	weft_wcluster_ref(wc);
	while ((l = TAILQ_FIRST(&p->pending)) && weft_conn_usable(c)) {
		weft_pool_pending_done(l);
		if (weft_conn_attach(c, l))
			l->ops->ready(l->owner, &l->l);
		else
			l->ops->failed(l->owner, &l->l, WEFT_RESET_OVERFLOW, "overflow");
	}
	weft_conn_place(c);
	if (c->h2 && p->n_pending)
		weft_pool_grow(p); /* it takes fewer streams than was thought */
	weft_wcluster_unref(wc);
}

/* ---- ends */

static void orphan(struct pool_conn *c)
{
	struct weft_lease_priv *l;

	while ((l = TAILQ_FIRST(&c->leases))) {
		TAILQ_REMOVE(&c->leases, l, link);
		l->conn = NULL;
		l->l.session = NULL;
		c->pool->n_active--;
	}
	c->active = 0;
}

void weft_conn_close(struct pool_conn *c, bool local)
{
	struct pool *p = c->pool;
	struct weft_pools *a = p->all;
	const struct weft_cluster *cl = a->wc->cluster;
	struct weft_io *io = c->session ? weft_session_io(c->session) : c->io;
	struct cx_end e = {.local = local,
			   .active = c->active,
			   .opened = c->state != CONN_CONNECTING,
			   .start_ns = c->start_ns};

	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_DEAD;
	event_del(&c->timer);
	move(c, WHERE_NONE);
	if (io)
		weft_cx_bytes(cl, io, &c->rx, &c->tx);
	weft_cx_closed(cl, p->host, &e);
	if (e.opened)
		weft_scope_record(cl->scope, WEFT_CLUSTER_upstream_rq_per_cx, c->served);
	weft_gate_give(cl, p->priority, GATE_CX);
	a->n_conns--;
	TAILQ_INSERT_TAIL(&a->dead_conns, c, link);
	weft_pools_soon(a);
	orphan(c);
	/* Exchanges that are still open are told by the session. */
	if (c->session)
		weft_session_free(c->session);
	else
		weft_io_free(c->io);
	c->session = NULL;
	c->io = NULL;
	weft_pool_look(p);
}

void weft_conn_drain(struct pool_conn *c)
{
	if (c->state != CONN_OPEN)
		return;
	c->state = CONN_DRAINING;
	weft_conn_place(c);
}

/* Not made: those who wait are told, all of them, so that they may try elsewhere. */
static void failed(struct pool_conn *c, enum weft_reset why, const char *detail)
{
	struct pool *p = c->pool;
	struct weft_wcluster *wc = p->all->wc;
	char text[160];

	weft_wcluster_ref(wc);
	strncpy(text, detail, sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	if (c->io && p->socket && *weft_io_detail(c->io) && weft_tsocket_tls(p->socket))
		weft_cx_tls_failed(wc->cluster, c->io);
	weft_conn_close(c, why == WEFT_RESET_TIMEOUT || c->dial_err < 0);
	weft_pool_fail(p, why, text);
	weft_pool_look(p);
	weft_wcluster_unref(wc);
}

static uint32_t streams_max(const struct weft_cluster *cl)
{
	return cl->session_h2.h2.max_streams ? cl->session_h2.h2.max_streams : MANY;
}

/* ---- the session tells */

static void on_goaway(struct weft_session *s)
{
	struct pool_conn *c = weft_session_owner(s);

	COUNT(cluster_of(c), upstream_cx_close_notify, 1);
	weft_conn_drain(c);
}

/* How many streams the peer takes is known once its SETTINGS came; the next connection to it keeps
 * to that before they do, so that nothing is refused. */
static void learn(struct pool_conn *c)
{
	const struct weft_cluster *cl = cluster_of(c);
	uint32_t most = weft_session_open_count(c->session) + weft_session_room(c->session);

	if (!c->h2 || !most || c->state != CONN_OPEN)
		return;
	c->pool->peer_streams = most;
	c->limit = streams_max(cl);
}

static void on_room(struct weft_session *s)
{
	struct pool_conn *c = weft_session_owner(s);

	learn(c);
	if (c->pool->n_pending && weft_conn_usable(c))
		weft_pool_serve(c);
	else
		weft_conn_place(c);
}

static void on_session_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	struct pool_conn *c = weft_session_owner(s);
	struct pool *p = c->pool;
	struct weft_wcluster *wc = p->all->wc;

	weft_wcluster_ref(wc);
	weft_conn_close(c, false);
	if (p->n_pending)
		weft_pool_grow(p);
	weft_wcluster_unref(wc);
}

static const struct weft_session_ops session_ops = {
	.goaway = on_goaway,
	.room = on_room,
	.closed = on_session_closed,
};

/* ---- time */

static void arm(struct pool_conn *c, uint64_t after_ns)
{
	struct timeval tv = {.tv_sec = (time_t)(after_ns / 1000000000),
			     .tv_usec = (suseconds_t)(after_ns % 1000000000 / 1000)};

	evtimer_add(&c->timer, &tv);
}

static uint64_t ms_ns(unsigned ms)
{
	return (uint64_t)ms * 1000000;
}

/* One timer for idleness and age, set anew only when it fires: requests do not touch it. */
static void look_at_age(struct pool_conn *c)
{
	const struct weft_cluster *cl = cluster_of(c);
	uint64_t now = weft_now_ns(), next = UINT64_MAX;

	if (cl->max_connection_ms && c->state == CONN_OPEN) {
		uint64_t end = c->ready_ns + ms_ns(cl->max_connection_ms);

		if (now >= end) {
			COUNT(cl, upstream_cx_max_duration_reached, 1);
			weft_conn_drain(c);
			if (c->state == CONN_DEAD)
				return;
		} else {
			next = end - now;
		}
	}
	if (cl->idle_ms) {
		uint64_t end = (c->active ? now : c->idle_ns) + ms_ns(cl->idle_ms);

		if (!c->active && now >= end) {
			COUNT(cl, upstream_cx_idle_timeout, 1);
			weft_conn_close(c, true);
			return;
		}
		if (end - now < next)
			next = end - now;
	}
	if (next != UINT64_MAX)
		arm(c, next + 1000000);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct pool_conn *c = arg;

	if (c->state != CONN_CONNECTING) {
		look_at_age(c);
	} else if (c->dial_err < 0) {
		if (c->dial_err == -EADDRNOTAVAIL)
			COUNT(cluster_of(c), bind_errors, 1);
		failed(c, WEFT_RESET_CONNECT,
		       c->dial_err == -EAGAIN ? "TLS secret is not there yet"
					      : strerror(-c->dial_err));
	} else {
		COUNT(cluster_of(c), upstream_cx_connect_timeout, 1);
		failed(c, WEFT_RESET_TIMEOUT, "connect timeout");
	}
}

/* ---- beginnings */

static void on_ready(struct weft_io *io)
{
	struct pool_conn *c = weft_io_owner(io);
	const struct weft_cluster *cl = cluster_of(c);
	struct pool *p = c->pool;
	const struct weft_io_info *info = weft_io_info(io);
	const struct weft_session_conf *conf;

	if (p->text[KEY_SAN] && info->tls && !weft_transport_san_ok(info->tls, p->text[KEY_SAN])) {
		COUNT(cl, ssl_fail_verify_san, 1);
		failed(c, WEFT_RESET_CONNECT, "TLS: the certificate is not of the name asked for");
		return;
	}
	c->h2 = p->version == WEFT_UP_H2 ||
		(p->version == WEFT_UP_AUTO && !strcmp(info->alpn, "h2"));
	p->seen = c->h2 ? WEFT_UP_H2 : WEFT_UP_H1;
	weft_cx_connected(cl, io, c->start_ns);
	if (c->h2)
		COUNT(cl, upstream_cx_http2_total, 1);
	else
		COUNT(cl, upstream_cx_http1_total, 1);
	conf = c->h2 ? &cl->session_h2 : &cl->session_h1;
	c->limit = c->h2 ? streams_max(cl) : 1;
	if (c->h2 && p->peer_streams && p->peer_streams < c->limit)
		c->limit = p->peer_streams;
	c->state = CONN_OPEN;
	c->ready_ns = c->idle_ns = weft_now_ns();
	c->io = NULL;
	c->session = weft_session_new(io, conf, &session_ops, c);
	event_del(&c->timer);
	look_at_age(c);
	weft_pool_serve(c);
	if (p->n_pending)
		weft_pool_grow(p); /* taken for h2, and is not */
}

static void on_readable(struct weft_io *io)
{
}

static void on_io_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct pool_conn *c = weft_io_owner(io);
	const char *detail = weft_io_detail(io);

	if (why == WEFT_IO_TIMEOUT) {
		COUNT(cluster_of(c), upstream_cx_connect_timeout, 1);
		failed(c, WEFT_RESET_TIMEOUT, *detail ? detail : "connect timeout");
		return;
	}
	failed(c, WEFT_RESET_CONNECT, *detail ? detail : err ? strerror(err) : "closed");
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready,
	.readable = on_readable,
	.closed = on_io_closed,
};

static const char *const *alpn_of(enum weft_upstream_http v)
{
	static const char *const h1[] = {"http/1.1", NULL}, *const h2[] = {"h2", NULL},
				 *const any[] = {"h2", "http/1.1", NULL};

	return v == WEFT_UP_H1 ? h1 : v == WEFT_UP_H2 ? h2 : any;
}

static int dial(struct pool *p, struct pool_conn *c)
{
	struct weft_take how = {
		.priority = p->priority,
		.sni = p->text[KEY_SNI],
		.san = p->text[KEY_SAN],
		.alpn = p->text[KEY_ALPN],
		.source = p->source.ip.family ? &p->source : NULL,
		.dest = p->dest.ip.family ? &p->dest : NULL,
	};
	struct dial_ask d = {.all = p->all,
			     .host = p->host,
			     .socket = p->socket,
			     .how = &how,
			     .alpn = alpn_of(p->version),
			     .tunnel = {.peer = p->text[KEY_PEER],
					.authority = p->text[KEY_TUNNEL],
					.identity = p->text[KEY_IDENTITY]}};

	return weft_pool_dial(&d, &io_ops, c, &c->io);
}

static void connect_one(struct pool *p)
{
	const struct weft_cluster *cl = p->all->wc->cluster;
	struct pool_conn *c = weft_xcalloc(1, sizeof(*c));
	unsigned ms = cl->connect_ms ? cl->connect_ms : 5000;

	c->pool = p;
	c->left = cl->max_requests_per_connection ? cl->max_requests_per_connection : UINT32_MAX;
	c->start_ns = weft_now_ns();
	c->limit = 1;
	TAILQ_INIT(&c->leases);
	evtimer_assign(&c->timer, p->all->wc->w->base, on_timer, c);
	weft_cx_opened(cl, p->host);
	p->all->n_conns++;
	move(c, WHERE_CONNECTING);
	c->dial_err = dial(p, c);
	arm(c, c->dial_err < 0 ? 0 : ms_ns(ms));
}

/* What the connections that are being made will carry, for what they are taken to be. */
static uint64_t coming(const struct pool *p)
{
	const struct weft_cluster *cl = p->all->wc->cluster;
	uint32_t each = 1;

	if (p->seen == WEFT_UP_H2)
		each = p->peer_streams && p->peer_streams < streams_max(cl) ? p->peer_streams
									    : streams_max(cl);
	if (cl->max_requests_per_connection && cl->max_requests_per_connection < each)
		each = cl->max_requests_per_connection;
	return (uint64_t)each * p->n_connecting;
}

static bool wants_more(const struct pool *p)
{
	double ratio = p->all->wc->cluster->preconnect_ratio;
	uint64_t has = coming(p);

	if (ratio <= 1)
		return p->n_pending > has;
	has += p->seen == WEFT_UP_H2 && p->n_ready ? MANY : p->n_ready;
	return (double)(p->n_pending + p->n_active) * ratio > (double)(has + p->n_active);
}

static bool may_connect(const struct pool *p)
{
	const struct weft_cluster *cl = p->all->wc->cluster;
	uint32_t max = cl->priv ? cl->priv->per_host_max_connections : UINT32_MAX;
	bool none = !p->n_ready && !p->n_busy && !p->n_connecting;

	if (atomic_load_explicit(&p->host->cx_active, memory_order_relaxed) >= max) {
		COUNT(cl, upstream_cx_overflow, 1);
		if (none) /* as with the cluster's limit: nobody waits for nothing */
			return weft_gate_take(cl, p->priority, GATE_CX, true);
		return false;
	}
	if (weft_gate_take(cl, p->priority, GATE_CX, false))
		return true;
	COUNT(cl, upstream_cx_overflow, 1);
	return none && weft_gate_take(cl, p->priority, GATE_CX, true);
}

void weft_pool_grow(struct pool *p)
{
	for (int i = 0; i < GROW_AT_ONCE && wants_more(p) && may_connect(p); i++)
		connect_one(p);
}
