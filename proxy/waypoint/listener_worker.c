/* Listeners of a worker: accepts, lets listener filters look, chooses the chain, and keeps the
 * connections of each configuration so that an old one drains while the new one serves. */
#include "proxy/waypoint/listener.h"

#include "proxy/core/timer.h"
#include <errno.h>
#include <event2/event.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

struct wconf { /* one configuration of a listener, and what runs by it */
	TAILQ_ENTRY(wconf) link;
	struct wlisteners *ws;
	struct lconf *l;
	TAILQ_HEAD(, wconn) conns;
	TAILQ_HEAD(, wpre) pres;
	size_t n;
	bool old;      /* replaced or removed: goes when its last connection does */
	bool leaving;  /* its connections are drained, and closed when time is up */
	bool draining; /* connections that begin from now on are told at once */
	struct weft_timer drain;
	int drain_step;
};
struct wlistener {
	TAILQ_ENTRY(wlistener) link;
	struct wlisteners *ws;
	struct wconf *conf;
	struct weft_acceptor *acceptor[LISTENER_ADDRS_MAX];
	int fd[LISTENER_ADDRS_MAX];
	unsigned n_fd;
};
struct wlisteners {
	struct wlisteners_conf conf;
	TAILQ_HEAD(, wlistener) list;
	TAILQ_HEAD(, wconf) confs;
	size_t open;
	struct weft_timers *timers;
};
struct wconn {
	TAILQ_ENTRY(wconn) link;
	struct wconf *c;
	struct weft_io *io;	  /* until the chain has it */
	struct weft_chain *chain; /* NULL: in the handshake */
	const struct lchain *lc;
	uint64_t start_ns;
};
struct wpre {
	TAILQ_ENTRY(wpre) link;
	struct wconf *c;
	struct wlistener *wl;
	struct lpre *p;
	int fd;
	uint64_t start_ns;
	bool counted;
};

enum { WORKERS_MAX = 257 };
static struct wlisteners *of_worker[WORKERS_MAX];

struct wlisteners *wlisteners_of(struct weft_worker *w)
{
	return of_worker[w->id + 1];
}

struct wlisteners *wlisteners_new(const struct wlisteners_conf *conf)
{
	struct wlisteners *ws = weft_xcalloc(1, sizeof(*ws));

	ws->conf = *conf;
	TAILQ_INIT(&ws->list);
	TAILQ_INIT(&ws->confs);
	of_worker[conf->worker->id + 1] = ws;
	return ws;
}

static void conf_drop(struct wconf *c)
{
	if (c->n || !TAILQ_EMPTY(&c->pres) || !c->old)
		return;
	weft_timer_clear(&c->drain);
	TAILQ_REMOVE(&c->ws->confs, c, link);
	lconf_unref(c->l);
	free(c);
}

static void count_open(struct wconf *c, int n)
{
	c->ws->open += (size_t)n;
	if (!c->l->ignore_global_limit && c->ws->conf.connections)
		*c->ws->conf.connections += (uint64_t)n;
}

static void conn_free(struct wconn *x)
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
	conf_drop(c);
}

static void on_chain_closed(void *owner, struct weft_chain *ch)
{
	conn_free(owner);
}

static void chain_begin(struct wconn *x)
{
	struct weft_io *io = x->io;
	struct weft_chain_start s = {
		.worker = x->c->ws->conf.worker,
		.conf = x->lc->filters,
		.io = io,
		.listener_name = x->c->l->name,
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
static void count_named(struct weft_scope *scope, const char *kind, const char *what)
{
	char name[96];

	if (!what || !*what)
		return;
	snprintf(name, sizeof(name), "ssl.%s.%s", kind, what);
	weft_scope_add_named(scope, name, 1);
}

static void count_handshake(const struct wconn *x, const struct weft_io *io)
{
	const struct weft_tls_info *tls = weft_io_info(io)->tls;
	struct weft_scope *scope = x->c->l->scope;

	if (!tls)
		return;
	weft_scope_add(scope, WEFT_LISTENER_ssl_handshake, 1);
	count_named(scope, "versions", tls->version);
	count_named(scope, "ciphers", tls->cipher);
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
	conn_free(x);
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

static const struct lchain *choose(struct wconf *c, const struct lpre_done *d)
{
	struct lkey k = {d->local, d->remote, d->direct_remote, d->sni, d->transport, d->alpn};
	const struct lchain *lc = lmatch_find(c->l, &k);

	if (!lc)
		weft_scope_add(c->l->scope, WEFT_LISTENER_no_filter_chain_match, 1);
	return lc;
}

static void conn_start(struct wconf *c, const struct lpre_done *d, uint64_t start_ns)
{
	const struct lchain *lc = choose(c, d);
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
	if (!lc->tls && d->sni && *d->sni)
		info->sni = weft_arena_strdup(weft_io_arena(x->io), d->sni);
	if (weft_io_is_ready(x->io))
		chain_begin(x);
}

static void accepted_by(struct wlistener *wl, int fd, const struct weft_sockaddr *peer);

static void pre_done(void *owner, struct lpre *p, const struct lpre_done *d, bool ok)
{
	struct wpre *pre = owner;
	struct wconf *c = pre->c;
	struct wlistener *to;

	TAILQ_REMOVE(&c->pres, pre, link);
	if (pre->counted)
		weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_pre_cx_active, -1);
	if (!ok) {
		llog_early(c->l, d, pre->start_ns, false);
		close(d->fd);
	} else if (d->restored && c->l->use_original_dst &&
		   (to = wlistener_by_dest(c->ws, &d->local, pre->wl)) != NULL) {
		conn_start(to->conf, d, pre->start_ns);
	} else {
		conn_start(c, d, pre->start_ns);
	}
	lpre_free(p);
	free(pre);
	conf_drop(c);
}

static void pre_drop(struct wpre *pre)
{
	struct wconf *c = pre->c;

	TAILQ_REMOVE(&c->pres, pre, link);
	if (pre->counted)
		weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_pre_cx_active, -1);
	lpre_free(pre->p);
	close(pre->fd);
	free(pre);
}

static bool over_limit(struct wconf *c)
{
	struct wlisteners *ws = c->ws;

	if (c->l->ignore_global_limit || !ws->conf.max_connections || !ws->conf.connections ||
	    *ws->conf.connections < ws->conf.max_connections)
		return false;
	weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_global_cx_overflow, 1);
	return true;
}

static void accepted_by(struct wlistener *wl, int fd, const struct weft_sockaddr *peer)
{
	struct wconf *c = wl->conf;
	struct wpre *pre;
	struct lpre *p;

	if (over_limit(c)) {
		close(fd);
		return;
	}
	pre = weft_xcalloc(1, sizeof(*pre));
	pre->c = c;
	pre->wl = wl;
	pre->fd = fd;
	pre->start_ns = weft_now_ns();
	TAILQ_INSERT_TAIL(&c->pres, pre, link);
	p = lpre_start(c->ws->conf.worker->base, c->l, fd, peer, pre_done, pre);
	if (p) {
		pre->p = p;
		pre->counted = true;
		weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_pre_cx_active, 1);
	}
}

static void on_accepted(void *owner, int fd, const struct weft_sockaddr *peer)
{
	accepted_by(owner, fd, peer);
}

static const struct weft_acceptor_ops acceptor_ops = {.accepted = on_accepted};

static struct wlistener *by_name(struct wlisteners *ws, const char *name)
{
	struct wlistener *wl;

	TAILQ_FOREACH (wl, &ws->list, link)
		if (!strcmp(wl->conf->l->name, name))
			return wl;
	return NULL;
}

/* TLS inside a tunnel is passed through by tcp_proxy chains: a chain that ends TLS takes none. */
static const struct lchain *choose_io(struct wlistener *wl, struct weft_io *io)
{
	const struct weft_io_info *i = weft_io_info(io);
	struct lpre_done d = {.fd = -1,
			      .local = i->local,
			      .remote = i->remote,
			      .direct_remote = i->direct_remote,
			      .sni = i->sni ? i->sni : "",
			      .transport = "raw_buffer"};
	const struct lchain *lc = wl ? choose(wl->conf, &d) : NULL;

	return lc && !lc->tls ? lc : NULL;
}

bool wlistener_takes(struct wlisteners *ws, const char *name, struct weft_io *io)
{
	return choose_io(by_name(ws, name), io) != NULL;
}

bool wlistener_accept_io(struct wlisteners *ws, const char *name, struct weft_io *io)
{
	struct wlistener *wl = by_name(ws, name);
	const struct lchain *lc = choose_io(wl, io);
	struct wconn *x;

	if (!lc || over_limit(wl->conf)) {
		weft_io_free(io);
		return false;
	}
	x = conn_new(wl->conf, lc);
	x->io = io;
	weft_io_set_ops(io, &hs_ops, x);
	weft_io_set_high(io, wl->conf->l->buffer_bytes);
	if (weft_io_is_ready(io))
		chain_begin(x);
	return true;
}

struct wlistener *wlistener_by_dest(struct wlisteners *ws, const struct weft_sockaddr *dst,
				    const struct wlistener * not )
{
	struct wlistener *wl, *wild = NULL;
	unsigned i;

	TAILQ_FOREACH (wl, &ws->list, link) {
		for (i = 0; wl != not &&i < wl->conf->l->n_addr; i++) {
			const struct weft_sockaddr *a = &wl->conf->l->addr[i].addr;

			if (a->port != dst->port || wl->conf->l->addr[i].unix_path)
				continue;
			if (weft_ip_eq(&a->ip, &dst->ip))
				return wl;
			if (weft_ip_is_any(&a->ip))
				wild = wl;
		}
	}
	return wild;
}

/* ---- configurations come and go */
static void on_drain(struct weft_timer *t)
{
	struct wconf *c = (struct wconf *)((char *)t - offsetof(struct wconf, drain));
	struct wconn *x, *next;
	struct wpre *pre;

	/* time is up: what is still open is closed */
	while ((pre = TAILQ_FIRST(&c->pres)) != NULL)
		pre_drop(pre);
	if (!c->n) {
		conf_drop(c);
		return;
	}
	for (x = TAILQ_FIRST(&c->conns); x; x = next) {
		next = TAILQ_NEXT(x, link);
		if (x->chain) {
			weft_chain_close(x->chain, 0, "drain_timeout");
		} else {
			weft_io_free(x->io);
			conn_free(x);
			if (!next)
				return;
		}
	}
}

static void conf_drain(struct wconf *c)
{
	struct wconn *x, *next;

	c->draining = true;
	for (x = TAILQ_FIRST(&c->conns); x; x = next) {
		next = TAILQ_NEXT(x, link);
		if (x->chain)
			weft_chain_drain(x->chain);
	}
}

static void conf_leave(struct wconf *c)
{
	if (c->leaving)
		return;
	c->leaving = true;
	conf_drain(c);
	if (c->n || !TAILQ_EMPTY(&c->pres))
		weft_timer_set(weft_timers_of(c->ws->conf.worker), &c->drain,
			       c->ws->conf.drain_ms ? c->ws->conf.drain_ms : 1, weft_now_ns(),
			       on_drain);
}

/* renewed: the same listener with another secret: its connections go on. */
static void conf_retire(struct wconf *c, bool renewed)
{
	struct wconf *o, *next;

	c->old = true;
	if (!renewed) {
		for (o = TAILQ_FIRST(&c->ws->confs); o; o = next) {
			next = TAILQ_NEXT(o, link);
			if (o->old && !strcmp(o->l->name, c->l->name))
				conf_leave(o);
		}
	}
	conf_drop(c);
}

static void fds_set(struct wlistener *wl, struct lconf *l, const int *fds)
{
	unsigned i;

	for (i = 0; i < LISTENER_ADDRS_MAX; i++) {
		int fd = i < l->n_addr && l->bind ? fds[i] : -1;

		if (wl->acceptor[i] && wl->fd[i] == fd)
			continue;
		weft_acceptor_free(wl->acceptor[i]);
		wl->acceptor[i] = NULL;
		wl->fd[i] = fd;
		if (fd >= 0)
			wl->acceptor[i] = weft_acceptor_new(wl->ws->conf.worker->base, fd,
							    l->max_accept, &acceptor_ops, wl);
	}
}

void wlistener_set(struct wlisteners *ws, struct lconf *l, const int *fds)
{
	struct wconf *c = weft_xcalloc(1, sizeof(*c)), *old = NULL;
	struct wlistener *wl;

	c->ws = ws;
	c->l = l;
	lconf_ref(l);
	TAILQ_INIT(&c->conns);
	TAILQ_INIT(&c->pres);
	TAILQ_INSERT_TAIL(&ws->confs, c, link);
	TAILQ_FOREACH (wl, &ws->list, link)
		if (!strcmp(wl->conf->l->name, l->name))
			break;
	if (!wl) {
		wl = weft_xcalloc(1, sizeof(*wl));
		wl->ws = ws;
		memset(wl->fd, 0xff, sizeof(wl->fd));
		TAILQ_INSERT_TAIL(&ws->list, wl, link);
	} else {
		old = wl->conf;
	}
	wl->conf = c;
	fds_set(wl, l, fds);
	if (old)
		conf_retire(old, l->renewed);
}

static void listener_free(struct wlistener *wl)
{
	struct wpre *pre;
	struct wconf *c;
	unsigned i;

	for (i = 0; i < LISTENER_ADDRS_MAX; i++)
		weft_acceptor_free(wl->acceptor[i]);
	TAILQ_REMOVE(&wl->ws->list, wl, link);
	/* sockets still in filters: they know the listener no more */
	TAILQ_FOREACH (c, &wl->ws->confs, link)
		TAILQ_FOREACH (pre, &c->pres, link)
			if (pre->wl == wl)
				pre->wl = NULL;
	free(wl);
}

void wlistener_remove(struct wlisteners *ws, const char *name)
{
	struct wlistener *wl;

	TAILQ_FOREACH (wl, &ws->list, link)
		if (!strcmp(wl->conf->l->name, name))
			break;
	if (!wl)
		return;
	{
		struct wconf *c = wl->conf;

		listener_free(wl);
		conf_retire(c, false);
	}
}

void wlisteners_drain(struct wlisteners *ws, bool stop, bool inbound_only)
{
	struct wlistener *wl;
	struct wconf *c, *next;
	unsigned i;

	TAILQ_FOREACH (wl, &ws->list, link) {
		if (inbound_only && wl->conf->l->msg->traffic_direction !=
					    ENVOY__CONFIG__CORE__V3__TRAFFIC_DIRECTION__INBOUND)
			continue;
		for (i = 0; stop && i < LISTENER_ADDRS_MAX; i++) {
			weft_acceptor_free(wl->acceptor[i]);
			wl->acceptor[i] = NULL;
		}
	}
	for (c = TAILQ_FIRST(&ws->confs); c; c = next) {
		next = TAILQ_NEXT(c, link);
		if (!inbound_only || c->l->msg->traffic_direction ==
					     ENVOY__CONFIG__CORE__V3__TRAFFIC_DIRECTION__INBOUND)
			conf_drain(c);
	}
}

size_t wlisteners_open(const struct wlisteners *ws)
{
	return ws->open;
}

void wlisteners_free(struct wlisteners *ws)
{
	struct wconf *c;
	struct wconn *x, *next;
	struct wpre *pre;

	if (!ws)
		return;
	/* what was told and not yet heard */
	weft_worker_flush(ws->conf.worker);
	while (!TAILQ_EMPTY(&ws->list)) {
		TAILQ_FIRST(&ws->list)->conf->old = true;
		listener_free(TAILQ_FIRST(&ws->list));
	}
	TAILQ_FOREACH (c, &ws->confs, link) {
		c->old = false; /* stays while it is walked */
		while ((pre = TAILQ_FIRST(&c->pres)) != NULL)
			pre_drop(pre);
		for (x = TAILQ_FIRST(&c->conns); x; x = next) {
			next = TAILQ_NEXT(x, link);
			if (x->chain) {
				weft_chain_close(x->chain, 0, NULL);
			} else { /* its handshake must not end in the loop below: in a chain */
				if (x->io)
					weft_io_free(x->io);
				conn_free(x);
			}
		}
	}
	/* chains end from the loop */
	while (ws->open) {
		size_t before = ws->open;

		event_base_loop(ws->conf.worker->base, EVLOOP_NONBLOCK);
		if (ws->open == before)
			break;
	}
	while ((c = TAILQ_FIRST(&ws->confs)) != NULL) {
		while ((x = TAILQ_FIRST(&c->conns)) != NULL) {
			if (x->io)
				weft_io_free(x->io);
			TAILQ_REMOVE(&c->conns, x, link);
			free(x);
		}
		weft_timer_clear(&c->drain);
		TAILQ_REMOVE(&ws->confs, c, link);
		lconf_unref(c->l);
		free(c);
	}
	of_worker[ws->conf.worker->id + 1] = NULL;
	free(ws);
}
