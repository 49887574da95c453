/* Connections of their own: TCP streams, and what a pooled session runs on. */
#include "proxy/core/worker.h"
#include "proxy/upstream/pool_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum tcp_state { TCP_WAITS, TCP_OPEN, TCP_CLOSED };
struct tcp_conn { /* one weft_upstream_dial, until its io is freed */
	UT_hash_handle hh;
	TAILQ_ENTRY(tcp_conn) link;
	struct weft_io *io;
	struct weft_pools *all;
	struct weft_wcluster *wc; /* referenced */
	struct weft_host *host;
	const struct weft_io_ops *ops; /* the caller's */
	struct weft_io_ops mine;       /* the same, but for ready and closed */
	char *san;
	uint64_t start_ns, rx, tx;
	uint8_t priority, state;
	bool remote; /* closed by the peer, or not made */
};

static const struct timeval bytes_every = {5, 0};

/* By io; each thread has its own. */
static __thread struct tcp_conn *by_io;

/* To a host of several addresses they race. */
static int dial(const struct dial_ask *d, const struct weft_dial *one,
		const struct weft_io_ops *ops, void *owner, struct weft_io **ret)
{
	struct weft_race_try v[WEFT_RACE_MAX];
	const struct weft_wcluster *wc = d->all->wc;
	const struct weft_race_want want = {
		one, v, weft_transport_tries(wc->cluster->transport, d->host, v)};

	return want.n ? weft_io_dial_race(wc->w->base, &want, ops, owner, ret)
		      : weft_io_dial(wc->w->base, one, ops, owner, ret);
}

int weft_pool_dial(const struct dial_ask *d, const struct weft_io_ops *ops, void *owner,
		   struct weft_io **ret)
{
	struct weft_wcluster *wc = d->all->wc;
	struct weft_tdial_want want = {
		.socket = d->socket, .host = d->host, .how = d->how, .alpn = d->alpn};
	struct weft_tdial t;
	int r;

	if (d->tunnel.authority) {
		struct hbone_ask ask = {.host = d->host, .socket = d->socket, .to = d->tunnel};

		return weft_hbone_dial(d->all, &ask, ops, owner, ret);
	}
	r = weft_transport_prepare(wc->cluster->transport, &want, &t);
	if (r < 0)
		return r;
	r = dial(d, &t.dial, ops, owner, ret);
	weft_tdial_done(&t);
	return r;
}

static struct tcp_conn *tcp_find(struct weft_io *io)
{
	struct tcp_conn *c;

	HASH_FIND_PTR(by_io, &io, c);
	return c;
}

/* Waiting is over: it is open, or failed. */
static void waited(struct tcp_conn *c, enum tcp_state now)
{
	const struct weft_cluster *cl = c->wc->cluster;

	if (c->state != TCP_WAITS)
		return;
	c->state = (uint8_t)now;
	weft_gate_give(cl, c->priority, GATE_PENDING);
	COUNT(cl, upstream_rq_pending_active, -1);
	if (now != TCP_OPEN)
		return;
	weft_cx_connected(cl, c->io, c->start_ns);
	COUNT(cl, upstream_rq_total, 1);
	COUNT(cl, upstream_rq_active, 1);
	atomic_fetch_add_explicit(&c->host->rq_total, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->host->rq_active, 1, memory_order_relaxed);
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct tcp_conn *c = tcp_find(io);
	const struct weft_cluster *cl = c->wc->cluster;

	c->remote = why != WEFT_IO_TIMEOUT;
	if (c->state == TCP_WAITS) {
		if (why == WEFT_IO_TIMEOUT)
			COUNT(cl, upstream_cx_connect_timeout, 1);
		if (why == WEFT_IO_TLS)
			weft_cx_tls_failed(cl, io);
		COUNT(cl, upstream_rq_pending_failure_eject, 1);
		waited(c, TCP_CLOSED);
	}
	c->ops->closed(io, why, err);
}

static void on_ready(struct weft_io *io)
{
	struct tcp_conn *c = tcp_find(io);
	const struct weft_tls_info *tls = weft_io_info(io)->tls;

	if (c->san && tls && !weft_transport_san_ok(tls, c->san)) {
		COUNT(c->wc->cluster, ssl_fail_verify_san, 1);
		weft_io_tell_closed(io, WEFT_IO_TLS, EPROTO,
				    "TLS: the certificate is not of the name asked for");
		return;
	}
	waited(c, TCP_OPEN);
	if (c->ops->ready)
		c->ops->ready(io);
}

static int admitted(const struct weft_cluster *cl, const struct weft_host *h,
		    enum weft_priority priority)
{
	if (!weft_gate_take(cl, priority, GATE_PENDING, false)) {
		COUNT(cl, upstream_rq_pending_overflow, 1);
		return -EBUSY;
	}
	if ((!cl->priv || atomic_load_explicit(&h->cx_active, memory_order_relaxed) <
				  cl->priv->per_host_max_connections) &&
	    weft_gate_take(cl, priority, GATE_CX, false))
		return 0;
	weft_gate_give(cl, priority, GATE_PENDING);
	COUNT(cl, upstream_cx_overflow, 1);
	return -EBUSY;
}

static struct tcp_conn *tcp_new(struct weft_wcluster *wc, struct weft_host *h,
				const struct weft_take *how, const struct weft_io_ops *ops)
{
	struct tcp_conn *c = weft_xcalloc(1, sizeof(*c));

	c->all = wc->pools;
	c->wc = wc;
	weft_wcluster_ref(wc);
	c->host = h;
	weft_host_ref(h);
	c->ops = ops;
	c->mine = *ops;
	c->mine.ready = on_ready;
	c->mine.closed = on_closed;
	c->san = how->san ? weft_xstrdup(how->san) : NULL;
	c->start_ns = weft_now_ns();
	c->priority = (uint8_t)how->priority;
	return c;
}

static void tcp_free(struct tcp_conn *c)
{
	struct weft_wcluster *wc = c->wc;

	weft_host_unref(c->host);
	free(c->san);
	free(c);
	weft_wcluster_unref(wc);
}

int weft_upstream_dial(struct weft_wcluster *wc, struct weft_host *h, const struct weft_take *how,
		       const struct weft_io_ops *ops, void *owner, struct weft_io **ret)
{
	const struct weft_cluster *cl = wc->cluster;
	const char *alpn[2] = {how->alpn, NULL};
	struct dial_ask d = {.all = wc->pools,
			     .host = h,
			     .how = how,
			     .alpn = how->alpn ? alpn : NULL,
			     .socket = weft_transport_pick(cl->transport, how->metadata)};
	struct tcp_conn *c;
	int r = admitted(cl, h, how->priority);

	*ret = NULL;
	if (r < 0)
		return r;
	c = tcp_new(wc, h, how, ops);
	weft_tunnel_want(how, h, &d.tunnel);
	r = weft_pool_dial(&d, &c->mine, owner, &c->io);
	if (r < 0) {
		weft_gate_give(cl, c->priority, GATE_PENDING);
		weft_gate_give(cl, c->priority, GATE_CX);
		COUNT(cl, upstream_cx_connect_fail, 1);
		if (r == -EADDRNOTAVAIL)
			COUNT(cl, bind_errors, 1);
		tcp_free(c);
		return r;
	}
	if (cl->buffer_bytes)
		weft_io_set_high(c->io, cl->buffer_bytes);
	HASH_ADD_PTR(by_io, io, c);
	TAILQ_INSERT_TAIL(&wc->pools->tcp, c, link);
	if (!evtimer_pending(&wc->pools->bytes, NULL))
		evtimer_add(&wc->pools->bytes, &bytes_every);
	wc->pools->n_conns++;
	weft_cx_opened(cl, h);
	COUNT(cl, upstream_rq_pending_total, 1);
	COUNT(cl, upstream_rq_pending_active, 1);
	*ret = c->io;
	return 0;
}

void weft_upstream_io_free(struct weft_io *io)
{
	struct tcp_conn *c = io ? tcp_find(io) : NULL;
	const struct weft_cluster *cl;
	struct cx_end e;

	if (!c) {
		weft_io_free(io);
		return;
	}
	cl = c->wc->cluster;
	if (c->state == TCP_WAITS && weft_io_is_ready(io))
		waited(c, TCP_OPEN); /* its owner took the callbacks over before it was ready */
	if (c->state == TCP_WAITS) {
		COUNT(cl, upstream_rq_cancelled, 1);
		waited(c, TCP_CLOSED);
	}
	e = (struct cx_end){.local = !c->remote && !weft_io_eof(io),
			    .opened = c->state == TCP_OPEN,
			    .active = c->state == TCP_OPEN,
			    .start_ns = c->start_ns};
	if (e.opened) {
		COUNT(cl, upstream_rq_active, -1);
		atomic_fetch_sub_explicit(&c->host->rq_active, 1, memory_order_relaxed);
	}
	weft_cx_bytes(cl, io, &c->rx, &c->tx);
	weft_cx_closed(cl, c->host, &e);
	weft_gate_give(cl, c->priority, GATE_CX);
	HASH_DEL(by_io, c);
	TAILQ_REMOVE(&c->all->tcp, c, link);
	c->all->n_conns--;
	weft_io_free(io);
	tcp_free(c);
}

/* Long connections count while they live. */
void weft_tcp_bytes(struct weft_pools *a)
{
	struct tcp_conn *c;

	TAILQ_FOREACH (c, &a->tcp, link)
		weft_cx_bytes(a->wc->cluster, c->io, &c->rx, &c->tx);
	if (!TAILQ_EMPTY(&a->tcp))
		evtimer_add(&a->bytes, &bytes_every);
}

void weft_tcp_host_gone(struct weft_pools *a, const struct weft_host *h)
{
	struct tcp_conn *c;

	TAILQ_FOREACH (c, &a->tcp, link)
		if (c->host == h && c->state != TCP_CLOSED)
			weft_io_tell_closed(c->io, WEFT_IO_RESET, ECONNABORTED,
					    "the host's health check failed");
}

bool weft_pool_per_downstream(const struct weft_cluster *c)
{
	return c->priv->pool_per_downstream;
}
