#include "proxy/node/pool.h"

#include "proxy/core/arena.h"
#include "proxy/node/dial.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

struct weft_pool_wait {
	TAILQ_ENTRY(weft_pool_wait) next;
	struct entry *e;
	void (*got)(void *arg, struct weft_tunnel *t, enum weft_reason r, const char *detail,
		    bool unreachable);
	void *arg;
};

struct pooled {
	TAILQ_ENTRY(pooled) next;
	struct entry *e;
	struct weft_tunnel *t;
	uint64_t serial; /* of the certificate it shows */
};

struct entry {
	UT_hash_handle hh;
	TAILQ_ENTRY(entry) all;
	struct weft_wstate *ws;
	struct weft_npod *pod;
	struct weft_sockaddr dial;
	char *uid; /* endpoint's */
	char **ids;
	size_t n_ids;
	TAILQ_HEAD(, pooled) tunnels;
	TAILQ_HEAD(waits, weft_pool_wait) waits;
	struct weft_dial *dialling;
	struct pooled *opening; /* connected, TLS or SETTINGS still to come */
	struct event *cert_wait;
	unsigned busy; /* got() calls in progress: it is not freed */
	bool stale;    /* no new streams: the key is not looked up any more */
	size_t key_n;
	char key[];
};

struct weft_pool {
	struct entry *by_key;
	unsigned n_tunnels;
	TAILQ_HEAD(, entry) all; /* stale ones as well */
};

static void dial_next(struct entry *e);

/* ---- keys: pod, address, endpoint, identities; '\n' is in none of them */

static bool put(char *dst, size_t *at, const char *s)
{
	size_t n = strlen(s);

	if (*at + n + 1 > WEFT_POOL_KEY_MAX)
		return false;
	memcpy(dst + *at, s, n);
	dst[*at + n] = '\n';
	*at += n + 1;
	return true;
}

static size_t key_of(const struct weft_npod *pod, const struct weft_route *r, char *dst)
{
	char addr[WEFT_SOCKADDR_TEXT];
	size_t at = 0;
	bool ok = put(dst, &at, pod->uid) &&
		  put(dst, &at, weft_sockaddr_text(&r->dial, addr, sizeof(addr))) &&
		  put(dst, &at, r->endpoint ? r->endpoint->uid : "") &&
		  put(dst, &at, r->id ? r->id : "");

	for (size_t i = 0; ok && i < r->n_sans; i++)
		ok = put(dst, &at, r->sans[i]);
	return ok ? at : 0;
}

static void entry_unhash(struct entry *e)
{
	if (!e->stale)
		HASH_DELETE(hh, e->ws->pool->by_key, e);
	e->stale = true;
}

static void entry_free(struct entry *e)
{
	entry_unhash(e);
	TAILQ_REMOVE(&e->ws->pool->all, e, all);
	weft_dial_cancel(e->dialling);
	if (e->cert_wait)
		event_free(e->cert_wait);
	weft_npod_unref(e->pod);
	free(e->uid);
	for (size_t i = 0; i < e->n_ids; i++)
		free(e->ids[i]);
	free(e->ids);
	free(e);
}

static void entry_check(struct entry *e)
{
	if (e->busy == 0 && TAILQ_EMPTY(&e->tunnels) && TAILQ_EMPTY(&e->waits) && !e->dialling &&
	    !e->opening && !e->cert_wait)
		entry_free(e);
}

/* A tunnel with room: the fullest first would let others idle out, but a list in order of making
 * does that as well. */
static struct weft_tunnel *pick(struct entry *e)
{
	struct pooled *p;

	TAILQ_FOREACH (p, &e->tunnels, next) {
		if (weft_tunnel_room(p->t) > 0)
			return p->t;
	}
	return NULL;
}

static void serve(struct entry *e)
{
	struct weft_pool_wait *w;
	struct weft_tunnel *t;

	e->busy++;
	while ((w = TAILQ_FIRST(&e->waits)) && (t = pick(e))) {
		TAILQ_REMOVE(&e->waits, w, next);
		w->got(w->arg, t, WEFT_REASON_OK, "", false);
		free(w);
	}
	if (!TAILQ_EMPTY(&e->waits))
		dial_next(e);
	e->busy--;
	entry_check(e);
}

/* Those that wait now; who asks again from got() is not among them. */
static void fail_all(struct entry *e, enum weft_reason r, const char *detail, bool unreachable)
{
	struct weft_pool_wait *w, *last = TAILQ_LAST(&e->waits, waits);

	e->busy++;
	while (last && (w = TAILQ_FIRST(&e->waits))) {
		if (w == last)
			last = NULL;
		TAILQ_REMOVE(&e->waits, w, next);
		w->got(w->arg, NULL, r, detail, unreachable);
		free(w);
	}
	e->busy--;
	entry_check(e);
}

/* ---- tunnels */

static void on_ready(struct weft_tunnel *t)
{
	struct pooled *p = weft_tunnel_owner(t);
	struct entry *e = p->e;

	struct weft_secret *s = weft_secret_get(e->ws, e->pod->identity);
	bool old = e->stale || !s || s->serial != p->serial;
	const char *why = weft_tunnel_finished(t) ? "GOAWAY before the first stream"
						  : "the peer allows no streams";

	if (s)
		weft_secret_unref(s);
	e->opening = NULL;
	TAILQ_INSERT_TAIL(&e->tunnels, p, next);
	if (weft_tunnel_room(t) == 0) {
		weft_tunnel_close(t, WEFT_REASON_H2_FAILED, why);
		fail_all(e, WEFT_REASON_H2_FAILED, why, false);
		return;
	}
	e->busy++;
	serve(e);
	if (old) /* while it was being opened the certificate was rotated, or the endpoint went */
		weft_tunnel_retire(t);
	e->busy--;
}

static void on_room(struct weft_tunnel *t)
{
	struct pooled *p = weft_tunnel_owner(t);

	if (!TAILQ_EMPTY(&p->e->waits))
		serve(p->e);
}

static void on_closed(struct weft_tunnel *t, enum weft_reason r, const char *detail)
{
	struct pooled *p = weft_tunnel_owner(t);
	struct entry *e = p->e;
	bool opening = e->opening == p;

	if (opening)
		e->opening = NULL;
	else
		TAILQ_REMOVE(&e->tunnels, p, next);
	e->ws->pool->n_tunnels--;
	free(p);
	if (opening)
		fail_all(e, r == WEFT_REASON_OK ? WEFT_REASON_TUNNEL_LOST : r, detail, false);
	else
		entry_check(e);
}

static const struct weft_tunnel_ops tunnel_ops = {
	.ready = on_ready,
	.room = on_room,
	.closed = on_closed,
};

static void open_tunnel(struct entry *e, int fd)
{
	struct weft_secret *s = weft_secret_get(e->ws, e->pod->identity);
	struct weft_tunnel_conf conf = {
		.ws = e->ws,
		.fd = fd,
		.ops = &tunnel_ops,
		.want.ids = (const char *const *)e->ids,
		.want.n_ids = e->n_ids,
	};
	struct pooled *p;

	if (!s) {
		close(fd);
		fail_all(e, WEFT_REASON_NO_CERT, "", false);
		return;
	}
	p = weft_xcalloc(1, sizeof(*p));
	p->e = e;
	conf.owner = p;
	p->serial = s->serial;
	conf.ctx = s->client;
	p->t = weft_tunnel_new(&conf);
	weft_secret_unref(s);
	if (!p->t) {
		free(p);
		fail_all(e, WEFT_REASON_INTERNAL, "TLS session", false);
		return;
	}
	e->opening = p;
	e->ws->pool->n_tunnels++;
}

static void on_dialled(void *arg, int fd, const char *why)
{
	struct entry *e = arg;
	char text[128];
	enum weft_reason r;

	e->dialling = NULL;
	if (fd >= 0) {
		open_tunnel(e, fd);
		return;
	}
	r = weft_dial_reason(fd);
	if (r == WEFT_REASON_CONNECT_TIMEOUT && strcmp(why, "connect") == 0)
		r = WEFT_REASON_NETWORK_POLICY;
	snprintf(text, sizeof(text), "%s: %s", why, strerror(-fd));
	fail_all(e, r, text, strcmp(why, "connect") == 0);
}

static void on_no_cert(evutil_socket_t fd, short what, void *arg)
{
	struct entry *e = arg;

	event_free(e->cert_wait);
	e->cert_wait = NULL;
	fail_all(e, WEFT_REASON_NO_CERT, e->pod->identity, false);
}

/* One dial at a time for a key: whoever finds no room waits for it, and the next is made when it
 * was not enough. */
static void dial_next(struct entry *e)
{
	struct weft_dial_conf conf = {
		.ws = e->ws, .pod = e->pod, .to = &e->dial, .done = on_dialled, .arg = e};
	struct weft_secret *s;

	if (e->dialling || e->opening || e->cert_wait)
		return;
	s = weft_secret_get(e->ws, e->pod->identity);
	if (!s) {
		unsigned ms = e->ws->conf->workload_wait_ms;
		struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

		e->cert_wait = evtimer_new(e->ws->w->base, on_no_cert, e);
		assert(e->cert_wait);
		evtimer_add(e->cert_wait, &tv);
		return;
	}
	weft_secret_unref(s);
	e->dialling = weft_dial_start(&conf);
}

/* ---- */

static struct entry *entry_new(const struct weft_pool_ask *ask, const char *key, size_t n)
{
	const struct weft_route *r = ask->route;
	struct entry *e = weft_xcalloc(1, sizeof(*e) + n);

	e->ws = ask->ws;
	e->pod = weft_npod_ref(ask->pod);
	e->dial = r->dial;
	e->uid = weft_xstrdup(r->endpoint ? r->endpoint->uid : "");
	e->ids = weft_xcalloc(r->n_sans + 1, sizeof(*e->ids));
	if (r->id)
		e->ids[e->n_ids++] = weft_xstrdup(r->id);
	for (size_t i = 0; i < r->n_sans; i++)
		e->ids[e->n_ids++] = weft_xstrdup(r->sans[i]);
	TAILQ_INIT(&e->tunnels);
	TAILQ_INIT(&e->waits);
	e->key_n = n;
	memcpy(e->key, key, n);
	HASH_ADD_KEYPTR(hh, ask->ws->pool->by_key, e->key, e->key_n, e);
	TAILQ_INSERT_TAIL(&ask->ws->pool->all, e, all);
	return e;
}

struct weft_tunnel *weft_pool_tunnel(const struct weft_pool_ask *ask,
				     struct weft_pool_wait **ret_wait)
{
	static __thread char key[WEFT_POOL_KEY_MAX];
	size_t n = key_of(ask->pod, ask->route, key);
	struct weft_tunnel *t;
	struct entry *e;

	*ret_wait = NULL;
	if (n == 0)
		return NULL;
	HASH_FIND(hh, ask->ws->pool->by_key, key, n, e);
	if (!e)
		e = entry_new(ask, key, n);
	t = TAILQ_EMPTY(&e->waits) ? pick(e) : NULL; /* first come, first served */
	if (t)
		return t;
	*ret_wait = weft_xcalloc(1, sizeof(**ret_wait));
	**ret_wait = (struct weft_pool_wait){.e = e, .got = ask->got, .arg = ask->arg};
	TAILQ_INSERT_TAIL(&e->waits, *ret_wait, next);
	dial_next(e);
	return NULL;
}

void weft_pool_cancel(struct weft_pool_wait *w)
{
	struct entry *e;

	if (!w)
		return;
	e = w->e;
	TAILQ_REMOVE(&e->waits, w, next);
	free(w);
	/* a dial under way goes on: the next connection will want it */
	entry_check(e);
}

/* fn may end with e freed. */
static void each(struct weft_wstate *ws, void (*fn)(struct entry *e, void *arg), void *arg)
{
	struct entry *e = TAILQ_FIRST(&ws->pool->all), *next;

	for (; e; e = next) {
		next = TAILQ_NEXT(e, all);
		fn(e, arg);
	}
}

static void retire_all(struct entry *e)
{
	struct pooled *p;

	TAILQ_FOREACH (p, &e->tunnels, next)
		weft_tunnel_retire(p->t);
}

static void purge_one(struct entry *e, void *arg)
{
	const struct weft_workload *w;

	if (e->stale || !e->uid[0])
		return;
	w = weft_model_workload_by_uid(e->ws->model, e->uid);
	if (w && e->n_ids > 0 && strcmp(w->identity, e->ids[0]) == 0)
		return;
	entry_unhash(e);
	retire_all(e);
}

void weft_pool_purge(struct weft_wstate *ws)
{
	each(ws, purge_one, NULL);
}

static void rotate_one(struct entry *e, void *arg)
{
	struct pooled *p;

	if (strcmp(e->pod->identity, arg) != 0)
		return;
	TAILQ_FOREACH (p, &e->tunnels, next)
		weft_tunnel_retire(p->t);
	if (e->cert_wait) {
		event_free(e->cert_wait);
		e->cert_wait = NULL;
		dial_next(e);
	}
}

void weft_pool_rotated(struct weft_wstate *ws, const char *identity)
{
	each(ws, rotate_one, (void *)identity);
}

struct drop {
	const struct weft_npod *pod;
	enum weft_reason r;
};

static void drop_one(struct entry *e, void *arg)
{
	const struct drop *d = arg;
	struct pooled *p;

	if (d->pod && e->pod != d->pod)
		return;
	entry_unhash(e);
	e->busy++;
	weft_dial_cancel(e->dialling);
	e->dialling = NULL;
	if (e->cert_wait) {
		event_free(e->cert_wait);
		e->cert_wait = NULL;
	}
	if (e->opening)
		weft_tunnel_kill(e->opening->t, d->r, "");
	while ((p = TAILQ_FIRST(&e->tunnels)))
		weft_tunnel_kill(p->t, d->r, "");
	e->busy--;
	fail_all(e, d->r, "", false);
}

void weft_pool_drop(struct weft_wstate *ws, const struct weft_npod *pod, enum weft_reason r)
{
	struct drop d = {pod, r};

	each(ws, drop_one, &d);
}

static void drain_one(struct entry *e, void *arg)
{
	struct pooled *p;

	/* those that connect now are served; tunnels at rest close, the others when their streams
	 * end */
	TAILQ_FOREACH (p, &e->tunnels, next) {
		if (weft_tunnel_streams(p->t) == 0)
			weft_tunnel_retire(p->t);
	}
}

void weft_pool_drain(struct weft_wstate *ws)
{
	each(ws, drain_one, NULL);
}

unsigned weft_pool_tunnels(const struct weft_wstate *ws)
{
	return ws->pool ? ws->pool->n_tunnels : 0;
}

int weft_pool_init(struct weft_wstate *ws)
{
	weft_conns_get(ws);
	ws->pool = weft_xcalloc(1, sizeof(*ws->pool));
	TAILQ_INIT(&ws->pool->all);
	return 0;
}

void weft_pool_done(struct weft_wstate *ws)
{
	if (!ws->pool)
		return;
	weft_pool_drop(ws, NULL, WEFT_REASON_DRAIN);
	assert(TAILQ_EMPTY(&ws->pool->all));
	free(ws->pool);
	ws->pool = NULL;
	weft_conns_put(ws);
}
