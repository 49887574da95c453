/* Listeners of a worker: accepts, lets listener filters look, chooses the chain, and keeps the
 * connections of each configuration so that an old one drains while the new one serves. */
#include "proxy/waypoint/listener_worker.h"

#include "proxy/core/overload.h"
#include <errno.h>
#include <event2/event.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

void wconf_drop(struct wconf *c)
{
	if (c->n || !TAILQ_EMPTY(&c->pres) || !c->old)
		return;
	weft_timer_clear(&c->drain);
	TAILQ_REMOVE(&c->ws->confs, c, link);
	lconf_unref(c->l);
	free(c);
}

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
		wconn_start(to->conf, d, pre->start_ns);
	} else {
		wconn_start(c, d, pre->start_ns);
	}
	lpre_free(p);
	free(pre);
	wconf_drop(c);
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
	if (ws->conf.overload_failed)
		weft_scope_global_add(ws->conf.overload_failed, WEFT_COUNTER, 1);
	return true;
}

static bool overloaded(struct wconf *c)
{
	if (c->l->bypass_overload || !weft_overload_hit(WEFT_OVERLOAD_REJECT))
		return false;
	weft_scope_add(c->l->scope, WEFT_LISTENER_downstream_cx_overload_reject, 1);
	return true;
}

static void accepted_by(struct wlistener *wl, int fd, const struct weft_sockaddr *peer)
{
	struct wconf *c = wl->conf;
	struct wpre *pre;
	struct lpre *p;

	if (over_limit(c) || overloaded(c)) {
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

static void on_turn(void *owner, unsigned n)
{
	weft_scope_record(((struct wlistener *)owner)->conf->l->scope,
			  WEFT_LISTENER_connections_accepted_per_socket_event, n);
}

static const struct weft_acceptor_ops acceptor_ops = {.accepted = on_accepted, .turn = on_turn};

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
	const struct lchain *lc = wl ? wconn_choose(wl->conf, &d) : NULL;

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

	if (!lc || over_limit(wl->conf)) {
		weft_io_free(io);
		return false;
	}
	wconn_start_io(wl->conf, lc, io);
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
		wconf_drop(c);
		return;
	}
	for (x = TAILQ_FIRST(&c->conns); x; x = next) {
		next = TAILQ_NEXT(x, link);
		if (x->chain) {
			weft_chain_close(x->chain, 0, "drain_timeout");
		} else {
			weft_io_free(x->io);
			wconn_free(x);
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
	wconf_drop(c);
}

static void fds_set(struct wlistener *wl, struct lconf *l, const int *fds)
{
	unsigned i;

	for (i = 0; i < LISTENER_ADDRS_MAX; i++) {
		int fd = i < l->n_addr && l->bind ? fds[i] : -1;

		if (!wl->acceptor[i] || wl->fd[i] != fd || wl->max_accept != l->max_accept) {
			weft_acceptor_free(wl->acceptor[i]);
			wl->acceptor[i] = NULL;
			wl->fd[i] = fd;
			if (fd >= 0)
				wl->acceptor[i] =
					weft_acceptor_new(wl->ws->conf.worker->base, fd,
							  l->max_accept, &acceptor_ops, wl);
		}
		/* a kept one, too: whether it bypasses overload may be another now */
		if (wl->acceptor[i] && wl->ws->paused)
			weft_acceptor_enable(wl->acceptor[i], l->bypass_overload);
	}
	wl->max_accept = l->max_accept;
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
		if (c->l->modify_only)
			continue;
		if (!inbound_only || c->l->msg->traffic_direction ==
					     ENVOY__CONFIG__CORE__V3__TRAFFIC_DIRECTION__INBOUND)
			conf_drain(c);
	}
}

void wlisteners_pause(struct wlisteners *ws, bool on)
{
	struct wlistener *wl;
	unsigned i;

	ws->paused = on;
	TAILQ_FOREACH (wl, &ws->list, link)
		for (i = 0; !wl->conf->l->bypass_overload && i < LISTENER_ADDRS_MAX; i++)
			if (wl->acceptor[i])
				weft_acceptor_enable(wl->acceptor[i], !on);
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
				wconn_free(x);
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
