#include "proxy/node/podtab.h"

#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/node/broker_msg.h"
#include "proxy/node/reserve.h"
#include "xds/wire.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>

enum { TICK_MS = 1000 };

struct pod {
	struct weft_npod *p;
	int held[WEFT_LISTEN_KINDS]; /* duplicates of what its home worker listens on; -1: none */
	bool named;		     /* since the last Welcome */
	UT_hash_handle hh;
};
struct weft_podtab {
	struct weft_node *node;
	struct weft_podtab_conf conf;
	char *path, *network;
	struct pod *pods;
	struct weft_broker_link *link;
	struct event *retry, *tick, *leave;
	unsigned retry_ms;
	uint64_t hello_ns;
	bool welcomed, synced;
	bool listed; /* the present agent sent its whole list, so that it has what we hold */
	bool leaving, left;
	struct weft_err last;
};

static void link_lost(void *owner, const struct weft_err *why);
static int link_message(void *owner, const uint8_t *p, size_t n, const int *fds, size_t n_fds,
			struct weft_err *reterr);
static const struct weft_broker_link_ops link_ops = {link_message, link_lost};

/* ---- towards workers */

struct to_worker {
	struct weft_npod *p;
	int kind, fd;
};

static void on_accept_add(struct weft_worker *w, void *arg)
{
	struct to_worker *m = arg;

	struct weft_wstate *ws = w->owner;

	/* without a stock the worker ends */
	if (atomic_load(&m->p->removed) || !ws->stock)
		close(m->fd);
	else
		weft_accept_add(ws, m->p, m->kind, m->fd);
	weft_npod_unref(m->p);
	free(m);
}

static void on_pod_removed(struct weft_worker *w, void *arg)
{
	struct to_worker *m = arg;

	struct weft_wstate *ws = w->owner;

	if (ws->stock) {
		weft_pod_removed(ws, m->p);
		weft_stock_drop(ws, m->p);
	}
	weft_npod_unref(m->p);
	free(m);
}

static void post(struct weft_podtab *t, unsigned worker, struct weft_npod *p, int kind, int fd)
{
	struct to_worker *m = weft_xcalloc(1, sizeof(*m));

	*m = (struct to_worker){weft_npod_ref(p), kind, fd};
	weft_worker_post(t->node->ws[worker].w, fd >= 0 ? on_accept_add : on_pod_removed, m);
}

/* ---- pods */

static unsigned home_pick(const struct weft_podtab *t)
{
	unsigned best = 0, load[256] = {0};

	for (const struct pod *p = t->pods; p; p = p->hh.next)
		load[p->p->home & 255]++;
	for (unsigned i = 1; i < t->node->n_ws && i < 256; i++)
		if (load[i] < load[best])
			best = i;
	return best;
}

static struct pod *pod_find(const struct weft_podtab *t, const char *uid)
{
	struct pod *p;

	HASH_FIND_STR(t->pods, uid, p);
	return p;
}

static struct pod *pod_make(struct weft_podtab *t, const struct weft_npod_conf *c)
{
	struct pod *p = weft_xcalloc(1, sizeof(*p));

	p->p = weft_npod_new(c, (int)home_pick(t));
	for (int i = 0; i < WEFT_LISTEN_KINDS; i++)
		p->held[i] = -1;
	HASH_ADD_KEYPTR(hh, t->pods, p->p->uid, strlen(p->p->uid), p);
	return p;
}

/* Its listeners are closed; workers close what lives on it. */
static void pod_remove(struct weft_podtab *t, struct pod *p)
{
	HASH_DEL(t->pods, p);
	atomic_store(&p->p->removed, true);
	weft_reserve_pod_del(t->node->reserve, p->p);
	for (unsigned i = 0; i < t->node->n_ws; i++)
		post(t, i, p->p, 0, -1);
	for (int i = 0; i < WEFT_LISTEN_KINDS; i++)
		if (p->held[i] >= 0)
			close(p->held[i]);
	weft_npod_unref(p->p);
	free(p);
}

static int check_listener(int fd, struct weft_err *reterr)
{
	int on = 0, type = 0, flags;
	socklen_t n = sizeof(on);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &n) || !on)
		return weft_fail(reterr, NULL, EINVAL, "a descriptor is not a listening socket");
	n = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) || type != SOCK_STREAM)
		return weft_fail(reterr, NULL, EINVAL, "a descriptor is not a stream socket");
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return weft_fail(reterr, NULL, errno, "fcntl: %s", strerror(errno));
	return 0;
}

/* Keeps fd (taken) and gives a duplicate to the home worker. */
static int pod_listen(struct weft_podtab *t, struct pod *p, int kind, int fd,
		      struct weft_err *reterr)
{
	int dup, err = check_listener(fd, reterr);

	if (!err) {
		dup = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (dup < 0)
			err = weft_fail(reterr, NULL, errno, "dup: %s", strerror(errno));
	}
	if (err) {
		close(fd);
		return err;
	}
	if (p->held[kind - 1] >= 0)
		close(p->held[kind - 1]);
	p->held[kind - 1] = fd;
	post(t, (unsigned)p->p->home, p->p, kind, dup);
	return 0;
}

/* The pod is another one now (address, account): what lives ends, the listeners stay. */
static struct pod *pod_replace(struct weft_podtab *t, struct pod *old,
			       const struct weft_npod_conf *c, struct weft_err *reterr)
{
	int held[WEFT_LISTEN_KINDS];
	struct pod *p;

	memcpy(held, old->held, sizeof(held));
	for (int i = 0; i < WEFT_LISTEN_KINDS; i++)
		old->held[i] = -1;
	pod_remove(t, old);
	p = pod_make(t, c);
	for (int i = 0; i < WEFT_LISTEN_KINDS; i++)
		if (held[i] >= 0)
			(void)pod_listen(t, p, i + 1, held[i], reterr);
	weft_reserve_pod_add(t->node->reserve, p->p);
	return p;
}

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static int on_pod_add(struct weft_podtab *t, const Weft__Broker__PodAdd *m, const int *fds,
		      size_t n_fds, struct weft_err *reterr)
{
	struct weft_npod_conf c;
	struct weft_err why = {0};
	struct pod *p;
	int err = weft_broker_check_pod(m, n_fds, t->network, &c, reterr);

	if (err) {
		close_all(fds, n_fds);
		return err;
	}
	p = pod_find(t, c.uid);
	if (p && !weft_npod_same(p->p, &c)) {
		p = pod_replace(t, p, &c, &why);
	} else if (!p && HASH_COUNT(t->pods) >= WEFT_PODS_MAX) {
		close_all(fds, n_fds);
		weft_fail(&why, NULL, ENOSPC, "at most %d pods a node", WEFT_PODS_MAX);
		goto out;
	} else if (!p) {
		p = pod_make(t, &c);
		weft_reserve_pod_add(t->node->reserve, p->p);
		weft_log(WEFT_LOG_INFO, "pod added uid=%s name=%s/%s identity=%s worker=%d", c.uid,
			 c.ns, c.name, p->p->identity, p->p->home);
	}
	p->named = true;
	for (size_t i = 0; i < n_fds; i++)
		(void)pod_listen(t, p, (int)m->kinds[i], fds[i], &why);
out:
	if (why.code)
		weft_log_err(WEFT_LOG_ERROR, &why, "broker: pod");
	weft_broker_send_ack(t->link, c.uid, &why);
	return 0;
}

static int on_pod_del(struct weft_podtab *t, const Weft__Broker__PodDel *m, struct weft_err *reterr)
{
	struct pod *p;

	if (!weft_broker_name_ok(m->uid))
		return weft_fail(reterr, NULL, EPROTO, "PodDel without a uid");
	p = pod_find(t, m->uid);
	if (p) {
		weft_log(WEFT_LOG_INFO, "pod removed uid=%s", m->uid);
		pod_remove(t, p);
	}
	weft_broker_send_ack(t->link, m->uid, NULL);
	return 0;
}

static void on_snapshot(struct weft_podtab *t)
{
	static const struct timeval now = {0, 0};
	struct pod *p, *next;

	HASH_ITER (hh, t->pods, p, next) {
		if (p->named)
			continue;
		weft_log(WEFT_LOG_INFO, "pod removed uid=%s: the agent does not have it any more",
			 p->p->uid);
		pod_remove(t, p);
	}
	t->synced = t->listed = true;
	/* not from within the link's own message */
	if (t->leaving)
		event_add(t->leave, &now);
}

static void nonblock(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int flags = fcntl(fds[i], F_GETFL);

		if (flags >= 0 && !(flags & O_NONBLOCK))
			(void)fcntl(fds[i], F_SETFL, flags | O_NONBLOCK);
	}
}

static int on_sockets(struct weft_podtab *t, const Weft__Broker__Sockets *m, const int *fds,
		      size_t n_fds, struct weft_err *reterr)
{
	struct pod *p = m->pod_uid ? pod_find(t, m->pod_uid) : NULL;

	if ((int)m->kind < (int)WEFT_SOCK_OUT4 || (int)m->kind > (int)WEFT_SOCK_IN6) {
		close_all(fds, n_fds);
		return weft_fail(reterr, NULL, EPROTO, "Sockets: kind is %d", (int)m->kind);
	}
	if (!p) { /* removed while the answer was under way */
		close_all(fds, n_fds);
		return 0;
	}
	nonblock(fds, n_fds);
	if (!n_fds)
		weft_log(WEFT_LOG_WARN, "broker: no sockets for pod uid=%s: %s", m->pod_uid,
			 m->error ? m->error : "no reason given");
	weft_reserve_got(t->node->reserve, p->p, (enum weft_sock_kind)m->kind, fds, (unsigned)n_fds,
			 !n_fds);
	return 0;
}

static int on_welcome(struct weft_podtab *t, const Weft__Broker__Welcome *m,
		      struct weft_err *reterr)
{
	if (t->welcomed)
		return weft_fail(reterr, NULL, EPROTO, "a second Welcome");
	if (m->version != WEFT_BROKER_VERSION)
		return weft_fail(reterr, NULL, EPROTO, "the broker's version is %u, must be %d",
				 m->version, WEFT_BROKER_VERSION);
	if (!weft_broker_name_ok(m->node))
		return weft_fail(reterr, NULL, EPROTO, "Welcome without a node name");
	t->welcomed = true;
	t->retry_ms = WEFT_BROKER_RETRY_FIRST_MS;
	t->last = (struct weft_err){0};
	free(t->network);
	t->network = weft_xstrdup(m->network ? m->network : "");
	for (struct pod *p = t->pods; p; p = p->hh.next)
		p->named = false;
	weft_log(WEFT_LOG_INFO, "broker connected node=%s network=\"%s\"", m->node, t->network);
	if (t->conf.welcome)
		t->conf.welcome(t->conf.owner, m->node, t->network,
				m->trust_domain ? m->trust_domain : "");
	atomic_store(&t->node->broker_up, true);
	weft_reserve_link(t->node->reserve, true);
	return 0;
}

static bool carries_fds(const Weft__Broker__ToProxy *m)
{
	return m->m_case == WEFT__BROKER__TO_PROXY__M_POD_ADD ||
	       m->m_case == WEFT__BROKER__TO_PROXY__M_SOCKETS;
}

static int link_message(void *owner, const uint8_t *bytes, size_t n, const int *fds, size_t n_fds,
			struct weft_err *reterr)
{
	struct weft_podtab *t = owner;
	struct weft_arena *a = weft_arena_new(0);
	const Weft__Broker__ToProxy *m = (const Weft__Broker__ToProxy *)weft_wire_unpack(
		a, &weft__broker__to_proxy__descriptor, bytes, n, true, reterr);
	int err = m ? 0 : -EPROTO;

	if (!m || !carries_fds(m)) {
		close_all(fds, n_fds);
		if (m && n_fds)
			err = weft_fail(reterr, NULL, EPROTO,
					"descriptors with a message that has none");
	}
	if (!err && !t->welcomed && m->m_case != WEFT__BROKER__TO_PROXY__M_WELCOME) {
		if (carries_fds(m))
			close_all(fds, n_fds);
		err = weft_fail(reterr, NULL, EPROTO, "the first message must be Welcome");
	}
	if (!err) {
		switch (m->m_case) {
		case WEFT__BROKER__TO_PROXY__M_WELCOME:
			err = on_welcome(t, m->welcome, reterr);
			break;
		case WEFT__BROKER__TO_PROXY__M_POD_ADD:
			err = on_pod_add(t, m->pod_add, fds, n_fds, reterr);
			break;
		case WEFT__BROKER__TO_PROXY__M_POD_DEL:
			err = on_pod_del(t, m->pod_del, reterr);
			break;
		case WEFT__BROKER__TO_PROXY__M_SNAPSHOT_SENT:
			on_snapshot(t);
			break;
		case WEFT__BROKER__TO_PROXY__M_SOCKETS:
			err = on_sockets(t, m->sockets, fds, n_fds, reterr);
			break;
		default:
			err = weft_fail(reterr, NULL, EPROTO, "an empty message");
		}
	}
	weft_arena_free(a);
	return err;
}

/* ---- the link */

static void send_holding(struct weft_podtab *t)
{
	for (struct pod *p = t->pods; p; p = p->hh.next)
		for (int i = 0; i < WEFT_LISTEN_KINDS; i++)
			if (p->held[i] >= 0)
				weft_broker_send_holding(t->link, p->p->uid, i + 1, p->held[i]);
	weft_broker_send_held(t->link);
}

int weft_podtab_want(struct weft_podtab *t, const struct weft_npod *p, enum weft_sock_kind k,
		     unsigned count)
{
	if (!t->welcomed)
		return -ENOTCONN;
	weft_broker_send_want(t->link, p->uid, k, count);
	return 0;
}

static void retry_later(struct weft_podtab *t)
{
	unsigned ms = t->retry_ms / 2 + (unsigned)(weft_rand64() % (t->retry_ms / 2 + 1));
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	t->retry_ms *= 2;
	if (t->retry_ms > WEFT_BROKER_RETRY_MAX_MS)
		t->retry_ms = WEFT_BROKER_RETRY_MAX_MS;
	event_add(t->retry, &tv);
}

static void link_down(struct weft_podtab *t, const struct weft_err *why)
{
	bool was_up = t->welcomed;

	weft_broker_link_free(t->link);
	t->link = NULL;
	t->welcomed = t->listed = false;
	atomic_store(&t->node->broker_up, false);
	weft_reserve_link(t->node->reserve, false);
	if (was_up || why->code != t->last.code)
		weft_log_err(WEFT_LOG_WARN, why, "broker: no connection; what is held goes on");
	t->last = *why;
	retry_later(t);
}

static void link_lost(void *owner, const struct weft_err *why)
{
	struct weft_err copy = *why;

	link_down(owner, &copy);
}

static void link_open(struct weft_podtab *t)
{
	struct weft_err why = {0};

	if (weft_broker_link_open(t->node->main->base, t->path, &link_ops, t, &t->link, &why)) {
		link_down(t, &why);
		return;
	}
	t->hello_ns = weft_now_ns();
	weft_broker_send_hello(t->link, t->conf.version);
	send_holding(t);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	link_open(arg);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct weft_podtab *t = arg;
	uint64_t now = weft_now_ns();
	struct weft_err why = {0};

	if (weft_reserve_tick(t->node->reserve, now) && t->welcomed)
		weft_fail(&why, NULL, ETIMEDOUT, "no answer to a Want in %d ms",
			  WEFT_WANT_ANSWER_MS);
	if (t->link && !t->welcomed && now - t->hello_ns > WEFT_BROKER_WELCOME_MS * 1000000ull)
		weft_fail(&why, NULL, ETIMEDOUT, "no answer to Hello in %d ms",
			  WEFT_BROKER_WELCOME_MS);
	if (why.code)
		link_down(t, &why);
}

static bool holds_any(const struct weft_podtab *t)
{
	for (const struct pod *p = t->pods; p; p = p->hh.next)
		for (int i = 0; i < WEFT_LISTEN_KINDS; i++)
			if (p->held[i] >= 0)
				return true;
	return false;
}

static void leave_now(struct weft_podtab *t)
{
	t->left = true;
	weft_broker_link_free(t->link);
	t->link = NULL;
	t->welcomed = t->listed = false;
	atomic_store(&t->node->broker_up, false);
	weft_reserve_link(t->node->reserve, false);
	event_del(t->retry);
	event_del(t->leave);
	for (struct pod *p = t->pods; p; p = p->hh.next) {
		for (int i = 0; i < WEFT_LISTEN_KINDS; i++) {
			if (p->held[i] >= 0)
				close(p->held[i]);
			p->held[i] = -1;
		}
	}
}

static void on_leave(evutil_socket_t fd, short what, void *arg)
{
	leave_now(arg);
}

struct weft_podtab *weft_podtab_new(struct weft_node *n, const struct weft_podtab_conf *conf)
{
	struct weft_podtab *t = weft_xcalloc(1, sizeof(*t));

	t->node = n;
	t->conf = *conf;
	t->path = weft_xstrdup(conf->path);
	t->network = weft_xstrdup("");
	t->retry_ms = WEFT_BROKER_RETRY_FIRST_MS;
	t->retry = evtimer_new(n->main->base, on_retry, t);
	t->tick = event_new(n->main->base, -1, EV_PERSIST, on_tick, t);
	t->leave = evtimer_new(n->main->base, on_leave, t);
	if (!t->retry || !t->tick || !t->leave)
		abort(); /* memory is out */
	return t;
}

void weft_podtab_start(struct weft_podtab *t)
{
	static const struct timeval tick = {TICK_MS / 1000, 0};

	event_add(t->tick, &tick);
	link_open(t);
}

void weft_podtab_leave(struct weft_podtab *t)
{
	static const struct timeval now = {0, 0};

	t->leaving = true;
	if (t->listed || !holds_any(t))
		leave_now(t);
	else if (!t->link)
		event_add(t->retry, &now);
}

bool weft_podtab_left(const struct weft_podtab *t)
{
	return t->left;
}

void weft_podtab_free(struct weft_podtab *t)
{
	struct pod *p, *next;

	if (!t)
		return;
	leave_now(t);
	HASH_ITER (hh, t->pods, p, next) {
		HASH_DEL(t->pods, p);
		weft_reserve_pod_del(t->node->reserve, p->p);
		weft_npod_unref(p->p);
		free(p);
	}
	event_free(t->retry);
	event_free(t->tick);
	event_free(t->leave);
	free(t->path);
	free(t->network);
	free(t);
}

bool weft_podtab_welcomed(const struct weft_podtab *t)
{
	return t->welcomed;
}

bool weft_podtab_synced(const struct weft_podtab *t)
{
	return t->synced;
}

size_t weft_podtab_count(const struct weft_podtab *t)
{
	return HASH_COUNT(t->pods);
}

const char *weft_podtab_last_error(const struct weft_podtab *t)
{
	return t->welcomed ? "" : t->last.code ? t->last.msg : "not connected yet";
}

void weft_podtab_each(const struct weft_podtab *t, void (*fn)(void *ctx, const struct weft_npod *p),
		      void *ctx)
{
	for (const struct pod *p = t->pods; p; p = p->hh.next)
		fn(ctx, p->p);
}
