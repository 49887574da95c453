#include "proxy/node/accept.h"

#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/node/pool.h"
#include <assert.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KIND_OUT4 = 1, KIND_OUT6, KIND_HBONE4, KIND_HBONE6, KIND_PLAIN4, KIND_PLAIN6 };

struct listener {
	LIST_ENTRY(listener) next;
	struct weft_wstate *ws;
	struct weft_npod *pod;
	int fd, kind;
	struct event ev;
	bool told; /* that descriptors ran out; once until it works again */
};

struct weft_listeners {
	LIST_HEAD(, listener) all;
	unsigned turn; /* of dealing out */
};

struct handoff {
	struct weft_npod *pod;
	struct weft_sockaddr peer;
	int fd, kind;
};

bool weft_port_illegal(uint16_t port)
{
	return port == 15001 || port == 15006 || port == 15008;
}

static void deliver(struct weft_wstate *ws, struct weft_npod *pod, int kind, int fd,
		    const struct weft_sockaddr *peer)
{
	if (atomic_load(&pod->removed))
		close(fd);
	else if (kind == KIND_OUT4 || kind == KIND_OUT6)
		weft_outbound_accept(ws, pod, fd, peer);
	else if (kind == KIND_HBONE4 || kind == KIND_HBONE6)
		weft_inbound_accept(ws, pod, fd, peer);
	else
		weft_plain_accept(ws, pod, fd, peer);
}

static void on_handoff(struct weft_worker *w, void *arg)
{
	struct weft_wstate *ws = w->owner;
	struct handoff *h = arg;

	if (ws && ws->conns)
		deliver(ws, h->pod, h->kind, h->fd, &h->peer);
	else
		close(h->fd);
	weft_npod_unref(h->pod);
	free(h);
}

/* Outbound connections stay until their tunnel's worker is known; inbound ones go round. */
static void deal(struct listener *l, int fd, const struct weft_sockaddr *peer)
{
	struct weft_wstate *ws = l->ws, *to = ws;
	struct handoff *h;

	if (ws->all && ws->n_all > 1 && l->kind >= KIND_HBONE4)
		to = ws->all[(*weft_conns_listeners(ws))->turn++ % ws->n_all];
	if (to == ws) {
		deliver(ws, l->pod, l->kind, fd, peer);
		return;
	}
	h = weft_xcalloc(1, sizeof(*h));
	*h = (struct handoff){weft_npod_ref(l->pod), *peer, fd, l->kind};
	weft_worker_post(to->w, on_handoff, h);
}

static void on_listener(evutil_socket_t fd, short what, void *arg);

static void out_of_fds(struct listener *l, int err)
{
	static const struct timeval pause = {0, WEFT_ACCEPT_PAUSE_MS * 1000};

	if (!l->told)
		weft_log(WEFT_LOG_ERROR, "accept: %s: paused pod=%s/%s", strerror(err), l->pod->ns,
			 l->pod->name);
	l->told = true;
	event_del(&l->ev);
	event_assign(&l->ev, l->ws->w->base, -1, 0, on_listener, l);
	event_add(&l->ev, &pause);
}

static void on_listener(evutil_socket_t fd, short what, void *arg)
{
	struct listener *l = arg;

	if (what & EV_TIMEOUT) {
		event_assign(&l->ev, l->ws->w->base, l->fd, EV_READ | EV_PERSIST, on_listener, l);
		event_add(&l->ev, NULL);
		return;
	}
	for (int i = 0; i < WEFT_ACCEPT_BATCH; i++) {
		struct sockaddr_storage ss;
		socklen_t n = sizeof(ss);
		struct weft_sockaddr peer = {0};
		int c = accept4(l->fd, (struct sockaddr *)&ss, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (c < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			    errno == ENOMEM)
				out_of_fds(l, errno);
			else if (errno == ECONNABORTED || errno == EINTR)
				continue;
			return; /* EAGAIN; anything else shows again at the next event */
		}
		l->told = false;
		if (weft_sockaddr_from_kernel(&ss, &peer) < 0)
			close(c);
		else
			deal(l, c, &peer);
	}
}

void weft_accept_add(struct weft_wstate *ws, struct weft_npod *p, int kind, int fd)
{
	struct weft_listeners **all;
	struct listener *l;

	if (kind < KIND_OUT4 || kind > KIND_PLAIN6 || ws->draining || !ws->conns ||
	    atomic_load(&p->removed)) {
		close(fd);
		return;
	}
	all = weft_conns_listeners(ws);
	if (!*all)
		*all = weft_xcalloc(1, sizeof(**all));
	evutil_make_socket_nonblocking(fd);
	l = weft_xcalloc(1, sizeof(*l));
	l->ws = ws;
	l->pod = weft_npod_ref(p);
	l->fd = fd;
	l->kind = kind;
	event_assign(&l->ev, ws->w->base, fd, EV_READ | EV_PERSIST, on_listener, l);
	event_add(&l->ev, NULL);
	LIST_INSERT_HEAD(&(*all)->all, l, next);
}

void weft_listeners_close(struct weft_wstate *ws, const struct weft_npod *pod)
{
	struct weft_listeners *all = ws->conns ? *weft_conns_listeners(ws) : NULL;
	struct listener *l, *next;

	for (l = all ? LIST_FIRST(&all->all) : NULL; l; l = next) {
		next = LIST_NEXT(l, next);
		if (pod && l->pod != pod)
			continue;
		LIST_REMOVE(l, next);
		event_del(&l->ev);
		close(l->fd);
		weft_npod_unref(l->pod);
		free(l);
	}
	if (all && LIST_EMPTY(&all->all)) {
		free(all);
		*weft_conns_listeners(ws) = NULL;
	}
}

/* ---- what the main thread asks of a worker */

void weft_pod_removed(struct weft_wstate *ws, struct weft_npod *p)
{
	weft_listeners_close(ws, p);
	weft_conns_cut(ws, p, WEFT_REASON_POD_REMOVED);
	weft_inbound_drop(ws, p, WEFT_REASON_POD_REMOVED);
	weft_pool_drop(ws, p, WEFT_REASON_POD_REMOVED);
}

void weft_model_changed(struct weft_wstate *ws, bool policies)
{
	weft_conns_model(ws);
	weft_pool_purge(ws);
	if (policies)
		weft_conns_recheck(ws);
}

void weft_secret_changed(struct weft_wstate *ws, const char *identity)
{
	weft_pool_rotated(ws, identity);
	weft_inbound_cert(ws, identity);
}

void weft_drain_begin(struct weft_wstate *ws)
{
	ws->draining = true;
	weft_listeners_close(ws, NULL);
	weft_inbound_drain(ws);
	weft_pool_drain(ws);
}

void weft_drain_force(struct weft_wstate *ws)
{
	ws->draining = true;
	weft_listeners_close(ws, NULL);
	weft_conns_cut(ws, NULL, WEFT_REASON_DRAIN);
	weft_inbound_drop(ws, NULL, WEFT_REASON_DRAIN);
	weft_pool_drop(ws, NULL, WEFT_REASON_DRAIN);
}
