/* Listeners of the process: warming, replacement without a lost connection. */
#include "proxy/waypoint/listeners_priv.h"

#include "proxy/core/log.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include "xds/wire.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct listeners *listeners_new(const struct listeners_conf *conf)
{
	struct listeners *m = weft_xcalloc(1, sizeof(*m));

	m->conf = *conf;
	TAILQ_INIT(&m->list);
	TAILQ_INIT(&m->socks);
	lconf_free_on(conf->dry ? NULL : conf->main);
	return m;
}

/* ---- to workers; sockets that are let go are closed after every worker has let go */
struct told {
	struct lconf *l; /* NULL: removed */
	char *name;
	int fd[LISTENER_ADDRS_MAX];
	struct listeners *m;
	struct lsock *gone[LISTENER_ADDRS_MAX];
	struct weft_worker *main;
	_Atomic size_t *left;
	struct lsock **gone_all;
};

static void let_go(struct weft_worker *w, void *arg)
{
	struct lsock **v = arg;
	unsigned i;

	for (i = 0; i < LISTENER_ADDRS_MAX; i++)
		lsock_unref(v[i]);
	free(v);
}

static void tell_one(struct weft_worker *w, void *arg)
{
	struct told *t = arg;

	if (t->l) {
		wlistener_set(wlisteners_of(w), t->l, t->fd);
		lconf_unref(t->l);
	} else {
		wlistener_remove(wlisteners_of(w), t->name);
	}
	if (--*t->left == 0) {
		weft_worker_post(t->main, let_go, t->gone_all);
		free((void *)t->left);
	}
	free(t->name);
	free(t);
}

static void tell(struct listeners *m, const struct entry *e, struct lconf *l, struct lsock **old)
{
	_Atomic size_t *left = weft_xcalloc(1, sizeof(*left));
	struct lsock **gone = weft_xcalloc(LISTENER_ADDRS_MAX, sizeof(*gone));
	size_t i;
	unsigned k;

	*left = m->conf.n_workers;
	for (k = 0; old && k < LISTENER_ADDRS_MAX; k++) {
		gone[k] = old[k];
		if (old[k])
			old[k]->users--;
	}
	for (i = 0; i < m->conf.n_workers; i++) {
		struct told *t = weft_xcalloc(1, sizeof(*t));

		t->l = l;
		if (l)
			lconf_ref(l);
		t->name = weft_xstrdup(e->name);
		t->main = m->conf.main;
		t->left = left;
		t->gone_all = gone;
		for (k = 0; k < LISTENER_ADDRS_MAX; k++)
			t->fd[k] = l && e->sock[k] ? e->sock[k]->fd[e->sock[k]->n > 1 ? i : 0] : -1;
		weft_worker_post(m->conf.workers[i], tell_one, t);
	}
}

/* ---- secrets that a configuration names */
static const Envoy__Extensions__TransportSockets__Tls__V3__DownstreamTlsContext *
context_of(struct weft_cfg *c, const Envoy__Config__Listener__V3__FilterChain *ch)
{
	const ProtobufCMessage *m;

	if (!ch || !ch->transport_socket || !ch->transport_socket->typed_config)
		return NULL;
	m = weft_cfg_any(c, NULL, ch->transport_socket->typed_config, NULL);
	return m && m->descriptor == &envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor
		       ? (const void *)m
		       : NULL;
}

/* Calls fn for each secret name; stops and returns true when it does. */
static bool secrets_of(const struct lconf *l,
		       bool (*fn)(void *ctx, const Envoy__Config__Core__V3__ConfigSource *cs,
				  const char *name),
		       void *ctx)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = weft_xcalloc(1, sizeof(struct weft_errs))};
	const Envoy__Config__Listener__V3__Listener *m = l->msg;
	bool stop = false;
	size_t i, k;

	for (i = 0; i <= m->n_filter_chains && !stop; i++) {
		const Envoy__Extensions__TransportSockets__Tls__V3__DownstreamTlsContext *t =
			context_of(&c, i < m->n_filter_chains ? m->filter_chains[i]
							      : m->default_filter_chain);
		const Envoy__Config__Core__V3__ConfigSource *cs;
		const char *name;

		for (k = 0;
		     t && t->common_tls_context && !stop &&
		     weft_tls_want(
			     t->common_tls_context,
			     t->session_ticket_keys_type_case ==
					     ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__DOWNSTREAM_TLS_CONTEXT__SESSION_TICKET_KEYS_TYPE_SESSION_TICKET_KEYS_SDS_SECRET_CONFIG
				     ? t->session_ticket_keys_sds_secret_config
				     : NULL,
			     k, &name, &cs);
		     k++)
			stop = fn(ctx, cs, name);
	}
	free(c.errs);
	weft_arena_free(a);
	return stop;
}

static bool want_on(void *ctx, const Envoy__Config__Core__V3__ConfigSource *cs, const char *name)
{
	if (cs)
		secrets_want(ctx, cs, name, true);
	return false;
}

static bool want_off(void *ctx, const Envoy__Config__Core__V3__ConfigSource *cs, const char *name)
{
	if (cs)
		secrets_want(ctx, cs, name, false);
	return false;
}

static bool is_name(void *ctx, const Envoy__Config__Core__V3__ConfigSource *cs, const char *name)
{
	return !strcmp(ctx, name);
}

static void conf_gone(struct listeners *m, struct lconf *l)
{
	if (!l)
		return;
	secrets_of(l, want_off, m->conf.secrets);
	lconf_unref(l);
}

/* ---- states */

/* Inbound ones are stopped: they stay as they are, as Envoy's, and do not open again. */
static bool ended(const struct listeners *m, const Envoy__Config__Listener__V3__Listener *msg)
{
	return m->inbound_stopped &&
	       msg->traffic_direction == ENVOY__CONFIG__CORE__V3__TRAFFIC_DIRECTION__INBOUND;
}

static bool warm(const struct listeners *m, const struct lconf *l)
{
	return m->started && !l->secrets_missing && weft_route_deps_ready(&l->deps) &&
	       !ended(m, l->msg);
}

static void activate(struct entry *e)
{
	struct listeners *m = e->m;
	struct lsock *old[LISTENER_ADDRS_MAX];
	struct lconf *before = e->active;
	unsigned i;

	memcpy(old, e->sock, sizeof(old));
	memcpy(e->sock, e->warm_sock, sizeof(old));
	memset(e->warm_sock, 0, sizeof(e->warm_sock));
	e->active = e->warming;
	e->warming = NULL;
	for (i = e->n_bound = 0; i < e->active->n_addr; i++)
		e->bound[e->n_bound++] = e->sock[i] && !e->active->addr[i].unix_path
						 ? e->sock[i]->bound
						 : e->active->addr[i].addr;
	weft_scope_global_add("listener_manager.listener_create_success", WEFT_COUNTER,
			      (int64_t)m->conf.n_workers);
	if (!m->conf.dry && !m->stopped)
		tell(m, e, e->active, old);
	else
		for (i = 0; i < LISTENER_ADDRS_MAX; i++)
			lsock_leave(old[i]);
	conf_gone(m, before);
	if (!before && m->conf.live)
		m->conf.live(m->conf.owner, e->name, true);
	weft_log(WEFT_LOG_INFO, "listener %s name=\"%s\"", before ? "replaced" : "added", e->name);
}

static void warming_drop(struct entry *e)
{
	unsigned i;

	if (!e->warming)
		return;
	for (i = 0; i < LISTENER_ADDRS_MAX; i++)
		lsock_leave(e->warm_sock[i]);
	memset(e->warm_sock, 0, sizeof(e->warm_sock));
	conf_gone(e->m, e->warming);
	e->warming = NULL;
}

static struct entry *look(struct listeners *m, const char *name)
{
	struct entry *e;

	TAILQ_FOREACH (e, &m->list, link)
		if (!strcmp(e->name, name))
			return e;
	return NULL;
}

static bool same_place(const struct weft_listen_conf *a, const struct weft_listen_conf *b)
{
	if (a->unix_path || b->unix_path)
		return a->unix_path && b->unix_path && !strcmp(a->unix_path, b->unix_path);
	return a->addr.port && weft_sockaddr_eq(&a->addr, &b->addr);
}

/* Two listeners on one address: the later is told. Bound ones only. */
static int clash(struct listeners *m, struct weft_cfg *c, const struct weft_path *at,
		 const struct lconf *l)
{
	struct weft_path pa = {at, "address", -1};
	char text[WEFT_SOCKADDR_TEXT];
	struct entry *e;
	unsigned i, k;

	TAILQ_FOREACH (e, &m->list, link) {
		const struct lconf *o = e->warming ? e->warming : e->active;

		if (!o || !o->bind || !l->bind || !strcmp(e->name, l->name))
			continue;
		for (i = 0; i < l->n_addr; i++)
			for (k = 0; k < o->n_addr; k++)
				if (same_place(&l->addr[i], &o->addr[k]))
					return weft_cfg_fail(
						c, &pa, "%s is taken by the listener \"%s\"",
						l->addr[i].unix_path
							? l->addr[i].unix_path
							: weft_sockaddr_text(&l->addr[i].addr, text,
									     sizeof(text)),
						o->name);
	}
	return 0;
}

static uint64_t hash_of(const Envoy__Config__Listener__V3__Listener *msg)
{
	size_t n = protobuf_c_message_get_packed_size(&msg->base);
	uint8_t *p = weft_xcalloc(1, n + 1);
	uint64_t h;

	protobuf_c_message_pack(&msg->base, p);
	h = XXH3_64bits(p, n);
	free(p);
	return h;
}

int listeners_set(struct listeners *m, struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Listener__V3__Listener *msg, struct weft_arena *arena,
		  const char *version, bool from_xds)
{
	struct weft_tls_secrets secrets = secrets_lookup(m->conf.secrets);
	struct lconf_in in = {msg,     arena,	 m->conf.routes, &secrets,
			      version, from_xds, m->conf.node};
	struct entry *e = look(m, msg->name ? msg->name : "");
	struct weft_path pn = {at, "name", -1}, pa = {at, "address", -1};
	uint64_t hash = hash_of(msg);
	struct weft_err err = {0};
	struct lsock *socks[LISTENER_ADDRS_MAX];
	struct lconf *l;

	if (e && (e->warming ? e->warming : e->active)->hash == hash) {
		if (!from_xds)
			weft_cfg_warn(c, &pn, "\"%s\" stands twice, the same both times", e->name);
		weft_arena_free(arena);
		return 0;
	}
	if (e && !(e->active ? e->active : e->warming)->from_xds && from_xds) {
		weft_cfg_fail(c, &pn,
			      "\"%s\" is a listener of the bootstrap, which cannot be changed",
			      e->name);
		weft_arena_free(arena);
		return -EINVAL;
	}
	if (e && !from_xds) {
		weft_cfg_fail(c, &pn, "\"%s\" stands twice", e->name);
		weft_arena_free(arena);
		return -EINVAL;
	}
	if (ended(m, msg)) {
		weft_log(WEFT_LOG_INFO, "inbound listeners are stopped: not used name=\"%s\"",
			 msg->name ? msg->name : "");
		weft_arena_free(arena);
		return 0;
	}
	if (lconf_new(c, at, &in, &l)) {
		weft_scope_global_add("listener_manager.listener_create_failure", WEFT_COUNTER, 1);
		return -EINVAL;
	}
	l->hash = hash;
	if (clash(m, c, at, l)) {
		lconf_unref(l);
		return -EINVAL;
	}
	if (lsocks_take(m, e, l, socks, &err)) {
		weft_cfg_fail(c, &pa, "%s", err.msg);
		lconf_unref(l);
		return -EINVAL;
	}
	weft_scope_global_add(e ? "listener_manager.listener_modified"
				: "listener_manager.listener_added",
			      WEFT_COUNTER, 1);
	if (!e) {
		e = weft_xcalloc(1, sizeof(*e));
		e->m = m;
		e->name = weft_xstrdup(l->name);
		TAILQ_INSERT_TAIL(&m->list, e, link);
	}
	warming_drop(e);
	e->warming = l;
	memcpy(e->warm_sock, socks, sizeof(socks));
	if (!m->conf.dry)
		secrets_of(l, want_on, m->conf.secrets);
	if (warm(m, l))
		activate(e);
	return 1;
}

int listeners_remove(struct listeners *m, const char *name)
{
	struct entry *e = look(m, name);
	struct lsock *old[LISTENER_ADDRS_MAX];

	if (!e)
		return -ENOENT;
	if (!(e->active ? e->active : e->warming)->from_xds)
		return -EPERM;
	warming_drop(e);
	TAILQ_REMOVE(&m->list, e, link);
	if (e->active) {
		memcpy(old, e->sock, sizeof(old));
		memset(e->sock, 0, sizeof(e->sock));
		tell(m, e, NULL, old);
		conf_gone(m, e->active);
		if (m->conf.live)
			m->conf.live(m->conf.owner, e->name, false);
	}
	weft_scope_global_add("listener_manager.listener_removed", WEFT_COUNTER, 1);
	weft_log(WEFT_LOG_INFO, "listener removed name=\"%s\"", e->name);
	free(e->name);
	free(e);
	return 0;
}

void listeners_look(struct listeners *m)
{
	struct entry *e;

	TAILQ_FOREACH (e, &m->list, link)
		if (e->warming && warm(m, e->warming))
			activate(e);
}

/* The same message once more, now that a secret is another. */
static void rebuild(struct entry *e)
{
	const struct lconf *l = e->warming ? e->warming : e->active;
	struct listeners *m = e->m;
	struct weft_tls_secrets secrets = secrets_lookup(m->conf.secrets);
	size_t n = protobuf_c_message_get_packed_size(&l->msg->base);
	struct weft_arena *a = weft_arena_new(0);
	uint8_t *p = weft_arena_alloc(a, n + 1);
	ProtobufCAllocator al = weft_wire_allocator(a);
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.arena = a, .errs = errs, .file = l->files};
	struct lconf_in in = {NULL,	  a,	       m->conf.routes, &secrets,
			      l->version, l->from_xds, m->conf.node};
	struct lconf *to;
	struct weft_err err = {0};
	struct lsock *socks[LISTENER_ADDRS_MAX];

	protobuf_c_message_pack(&l->msg->base, p);
	in.msg = (const void *)protobuf_c_message_unpack(l->msg->base.descriptor, &al, n, p);
	if (lconf_new(&c, NULL, &in, &to)) {
		weft_log_err(WEFT_LOG_WARN, &errs->v[0], "new secret not used");
	} else if (to->hash = l->hash, lsocks_take(m, e, to, socks, &err)) {
		weft_log_err(WEFT_LOG_WARN, &err, "new secret not used");
		lconf_unref(to);
	} else {
		to->renewed = e->active && e->active->hash == l->hash;
		secrets_of(to, want_on, m->conf.secrets);
		warming_drop(e);
		e->warming = to;
		memcpy(e->warm_sock, socks, sizeof(socks));
		if (warm(m, to))
			activate(e);
	}
	free(errs);
}

void listeners_secret(struct listeners *m, const char *name)
{
	struct entry *e;

	TAILQ_FOREACH (e, &m->list, link)
		if (!ended(m, (e->warming ? e->warming : e->active)->msg) &&
		    secrets_of(e->warming ? e->warming : e->active, is_name, (void *)name))
			rebuild(e);
}

void listeners_start(struct listeners *m)
{
	m->started = true;
	listeners_look(m);
}

size_t listeners_count(const struct listeners *m, size_t *ret_warming)
{
	const struct entry *e;
	size_t n = 0;

	*ret_warming = 0;
	TAILQ_FOREACH (e, &m->list, link) {
		n += e->active != NULL;
		*ret_warming += e->warming != NULL;
	}
	return n;
}

/* ---- the end */
struct pausing {
	bool on;
};

static void pause_one(struct weft_worker *w, void *arg)
{
	struct pausing *p = arg;

	wlisteners_pause(wlisteners_of(w), p->on);
	free(p);
}

void listeners_pause(struct listeners *m, bool on)
{
	size_t i;

	for (i = 0; i < m->conf.n_workers; i++) {
		struct pausing *p = weft_xcalloc(1, sizeof(*p));

		p->on = on;
		weft_worker_post(m->conf.workers[i], pause_one, p);
	}
}

struct draining {
	struct listeners *m;
	bool inbound, stop;
	_Atomic size_t left;
};

/* No worker accepts any more: clients are refused at once and do not wait in the backlog. */
static void drained(struct weft_worker *w, void *arg)
{
	struct draining *d = arg;
	struct entry *e;
	unsigned k;

	TAILQ_FOREACH (e, &d->m->list, link) {
		const struct lconf *l = e->active ? e->active : e->warming;

		if (d->inbound && !ended(d->m, l->msg))
			continue;
		for (k = 0; k < LISTENER_ADDRS_MAX; k++) {
			lsock_close(e->sock[k]);
			lsock_close(e->warm_sock[k]);
		}
	}
	free(d);
}

static void drain_one(struct weft_worker *w, void *arg)
{
	struct draining *d = arg;
	struct weft_worker *main = d->m->conf.main;

	wlisteners_drain(wlisteners_of(w), d->stop, d->inbound);
	if (--d->left)
		return;
	if (d->stop)
		weft_worker_post(main, drained, d);
	else
		free(d);
}

void listeners_stop_accepting(struct listeners *m, bool inbound_only, bool stop)
{
	struct draining *d;
	size_t i;

	if (stop && !inbound_only)
		m->stopped = true;
	m->inbound_stopped |= stop;
	if (!m->conf.n_workers)
		return;
	d = weft_xcalloc(1, sizeof(*d));
	d->m = m;
	d->inbound = inbound_only;
	d->stop = stop;
	d->left = m->conf.n_workers;
	for (i = 0; i < m->conf.n_workers; i++)
		weft_worker_post(m->conf.workers[i], drain_one, d);
}

void listeners_each(struct listeners *m, void (*fn)(void *ctx, const struct listener_view *v),
		    void *ctx)
{
	struct entry *e;

	TAILQ_FOREACH (e, &m->list, link) {
		struct listener_view v = {e->active, e->warming, e->bound, e->n_bound};

		fn(ctx, &v);
	}
}

void listeners_free(struct listeners *m)
{
	struct entry *e;
	unsigned i;

	if (!m)
		return;
	/* what workers gave back needs the managers that are freed after this one */
	if (!m->conf.dry)
		weft_worker_flush(m->conf.main);
	lconf_free_on(NULL);
	while ((e = TAILQ_FIRST(&m->list)) != NULL) {
		TAILQ_REMOVE(&m->list, e, link);
		warming_drop(e);
		conf_gone(m, e->active);
		for (i = 0; i < LISTENER_ADDRS_MAX; i++)
			lsock_leave(e->sock[i]);
		free(e->name);
		free(e);
	}
	free(m);
}
