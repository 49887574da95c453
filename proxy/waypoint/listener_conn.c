/* A connection of a listener: its handshake, then its filter chain. */
#include "proxy/waypoint/listener_worker.h"

#include "proxy/net/io_tls.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void count_open(struct wconf *c, int n)
{
	c->ws->open += (size_t)n;
	if (!c->l->ignore_global_limit && c->ws->conf.connections)
		*c->ws->conf.connections += (uint64_t)n;
}

void wconn_free(struct wconn *x)
{
	struct wconf *c = x->c;

	weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_cx_active, -1);
	weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_cx_destroy, 1);
	weft_scope_record(c->l->scope, WEFT_LISTENER_downstream_cx_length_ms,
			  (weft_now_ns() - x->start_ns) / 1000000);
	TAILQ_REMOVE(&c->conns, x, link);
	c->n--;
	count_open(c, -1);
	free(x);
	wconf_drop(c);
}

static void on_chain_closed(void *owner, struct weft_chain *ch)
{
	wconn_free(owner);
}

static void chain_begin(struct wconn *x)
{
	struct weft_io *io = x->io;
	struct weft_chain_start s = {
		.worker = x->c->ws->conf.worker,
		.conf = x->lc->filters,
		.io = io,
		.listener_name = x->c->l->name,
		.listener_metadata = x->c->l->msg->metadata,
		.filter_chain_name = x->lc->name,
		.logs = x->c->l->logs,
		.closed = on_chain_closed,
		.owner = x,
	};

	x->io = NULL;
	x->chain = weft_chain_new(&s);
	if (x->c->draining)
		weft_chain_drain(x->chain);
}

/* ---- the handshake, before filters see anything */
static void count_handshake(const struct wconn *x, const struct weft_io *io)
{
	const struct weft_tls_info *tls = weft_io_info(io)->tls;
	struct weft_scope *scope = x->c->l->scope;

	if (!tls)
		return;
	weft_scope_add(scope, WEFT_LISTENER_ssl_handshake, 1);
	weft_io_tls_count(io, scope, true);
	if (tls->resumed)
		weft_scope_add(scope, WEFT_LISTENER_ssl_session_reused, 1);
	if (!tls->peer_presented)
		weft_scope_add(scope, WEFT_LISTENER_ssl_no_certificate, 1);
}

static void count_fault(const struct wconn *x, const struct weft_io *io)
{
	static const int counters[] = {
		[WEFT_TLS_FAULT_CONNECTION] = WEFT_LISTENER_ssl_connection_error,
		[WEFT_TLS_FAULT_NO_CERT] = WEFT_LISTENER_ssl_fail_verify_no_cert,
		[WEFT_TLS_FAULT_VERIFY] = WEFT_LISTENER_ssl_fail_verify_error,
		[WEFT_TLS_FAULT_SAN] = WEFT_LISTENER_ssl_fail_verify_san,
		[WEFT_TLS_FAULT_HASH] = WEFT_LISTENER_ssl_fail_verify_cert_hash,
	};
	enum weft_tls_fault f = weft_io_tls_fault(io);

	if (f != WEFT_TLS_FAULT_NONE)
		weft_scope_add(x->c->l->scope, counters[f], 1);
	weft_io_tls_count(io, x->c->l->scope, false);
}

static void hs_ready(struct weft_io *io)
{
	count_handshake(weft_io_owner(io), io);
	chain_begin(weft_io_owner(io));
}

static void hs_readable(struct weft_io *io)
{
}

static void log_refused(const struct wconn *x, const struct weft_io *io, enum weft_io_end why)
{
	llog_write(x->c->l,
		   &(struct llog){.io = weft_io_info(io),
				  .chain = x->lc->name,
				  .start_ns = x->start_ns,
				  .failure = weft_io_tls_fault(io) ? weft_io_detail(io) : NULL,
				  .termination = why == WEFT_IO_TIMEOUT
							 ? "transport socket timeout was reached"
							 : NULL});
}

static void hs_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct wconn *x = weft_io_owner(io);

	if (why == WEFT_IO_TIMEOUT)
		weft_scope_add(x->c->l->scope,
			       WEFT_LISTENER_downstream_cx_transport_socket_connect_timeout, 1);
	count_fault(x, io);
	log_refused(x, io, why);
	weft_io_free(io);
	wconn_free(x);
}

static const struct weft_io_ops hs_ops = {
	.ready = hs_ready, .readable = hs_readable, .closed = hs_closed};

static struct wconn *conn_new(struct wconf *c, const struct lchain *lc)
{
	struct wconn *x = weft_xcalloc(1, sizeof(*x));

	x->c = c;
	x->lc = lc;
	x->start_ns = weft_now_ns();
	TAILQ_INSERT_TAIL(&c->conns, x, link);
	c->n++;
	count_open(c, 1);
	weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_cx_total, 1);
	weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_cx_active, 1);
	return x;
}

const struct lchain *wconn_choose(struct wconf *c, const struct lpre_done *d)
{
	struct lkey k = {d->local, d->remote, d->direct_remote, d->sni, d->transport, d->alpn};
	const struct lchain *lc = lmatch_find(c->l, &k);

	if (!lc)
		weft_scope_add(c->l->scope, WEFT_LISTENER_no_filter_chain_match, 1);
	return lc;
}

/* Most connections have nothing of it. */
static void keep_origin(struct weft_io *io, const struct lpre_done *d, struct weft_io_info *info)
{
	struct weft_io_origin *o;
	bool moved = !weft_sockaddr_eq(&d->direct_local, &d->local);

	if (!moved && !(d->ja3 && *d->ja3) && !(d->ja4 && *d->ja4))
		return;
	o = weft_arena_alloc(weft_io_arena(io), sizeof(*o));
	if (moved)
		o->direct_local = d->direct_local;
	o->ja3 = d->ja3 && *d->ja3 ? weft_arena_strdup(weft_io_arena(io), d->ja3) : NULL;
	o->ja4 = d->ja4 && *d->ja4 ? weft_arena_strdup(weft_io_arena(io), d->ja4) : NULL;
	info->origin = o;
}

void wconn_start(struct wconf *c, const struct lpre_done *d, uint64_t start_ns)
{
	const struct lchain *lc = wconn_choose(c, d);
	struct weft_io_tls tls = {0};
	struct weft_io_info *info;
	struct wconn *x;

	if (!lc) {
		llog_early(c->l, d, start_ns, true);
		close(d->fd);
		return;
	}
	x = conn_new(c, lc);
	x->start_ns = start_ns;
	if (lc->tls) {
		tls.ctx = lc->tls->ctx;
		tls.handshake_ms = lc->handshake_ms;
	}
	x->io = weft_io_new(c->ws->conf.worker->base, d->fd, lc->tls ? &tls : NULL, d->already,
			    &hs_ops, x);
	weft_io_set_high(x->io, c->l->buffer_bytes);
	weft_io_set_peer(x->io, &d->direct_remote); /* known: the kernel is not asked again */
	info = weft_io_info_edit(x->io);
	info->local = d->local;
	info->remote = d->remote;
	info->direct_remote = d->direct_remote;
	keep_origin(x->io, d, info);
	if (d->sni && *d->sni)
		info->sni = weft_arena_strdup(weft_io_arena(x->io), d->sni);
	if (weft_io_is_ready(x->io))
		chain_begin(x);
}

void wconn_start_io(struct wconf *c, const struct lchain *lc, struct weft_io *io)
{
	struct wconn *x = conn_new(c, lc);

	x->io = io;
	weft_io_set_ops(io, &hs_ops, x);
	weft_io_set_high(io, c->l->buffer_bytes);
	if (weft_io_is_ready(io))
		chain_begin(x);
}
