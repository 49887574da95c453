#include "agent/broker.h"
#include "agent/broker_held.h"
#include "agent/broker_peer.h"
#include "agent/exempt.h"
#include "agent/podsock.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/core/worker.h"
#include "xds/proto/broker.pb-c.h"
#include "xds/wire.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

enum {
	VERSION = 1,
	PEERS_MAX = 8,
	HELLO_WAIT_S = 5,
	HOLDING_WAIT_S = 30,
	HOLDING_MAX = 32768,
	WANT_QUEUE_MAX = 512
};
enum { S_NEW = 1, S_HOLDING = 2, S_WAITING = 4, S_LIVE = 8 };

struct peer {
	TAILQ_ENTRY(peer) link;
	struct weft_broker *b;
	struct weft_bpeer *io;
	pid_t pid;
	int pidfd, state;
	struct event *deadline;
	struct weft_held *held;
	unsigned long total[5];
	unsigned in_second[5];
	uint64_t second;
};
struct weft_broker {
	struct event_base *base;
	struct weft_broker_conf conf;
	char *path, *node, *network, *trust_domain;
	struct weft_pods *pods;
	struct weft_exempt *exempt;
	int fd;
	struct event *ev;
	TAILQ_HEAD(peers, peer)
	peers; /* the newest that said Hello is the active one; it is first */
	unsigned n_peers;
	uint64_t start_ns;
	bool ready;
};

/* ---- to the proxy */

static void send_msg(struct peer *p, Weft__Broker__ToProxy__MCase which, void *m, const int *fds,
		     unsigned n)
{
	Weft__Broker__ToProxy out = WEFT__BROKER__TO_PROXY__INIT;

	out.m_case = which;
	out.welcome = m; /* one union of pointers */
	weft_bpeer_send(p->io, &out.base, fds, n);
}

static void send_pod(struct peer *p, const struct weft_pod *pod)
{
	Weft__Broker__PodAdd m = WEFT__BROKER__POD_ADD__INIT;
	Weft__Broker__SocketKind kinds[WEFT_POD_LISTENERS];
	ProtobufCBinaryData addrs[4];
	int fds[WEFT_POD_LISTENERS], kind;
	unsigned n = 0;

	m.uid = pod->uid;
	m.name = pod->name;
	m.namespace_ = pod->ns;
	m.service_account = pod->sa;
	m.trust_domain = pod->trust_domain;
	m.workload_uid = pod->workload_uid;
	for (m.n_addresses = 0; m.n_addresses < pod->n_addrs; m.n_addresses++) {
		addrs[m.n_addresses].data = (uint8_t *)pod->addrs[m.n_addresses].b;
		addrs[m.n_addresses].len = weft_ip_bytes(&pod->addrs[m.n_addresses]);
	}
	m.addresses = addrs;
	for (kind = 1; kind <= WEFT_POD_LISTENERS; kind++) {
		int fd = pod->listeners[kind - 1];
		ino_t ino;

		if (fd < 0 || weft_held_has(p->held, pod->uid, kind, ino = weft_held_ino(fd)))
			continue;
		weft_held_add(&p->held, pod->uid, kind, ino);
		kinds[n] = (Weft__Broker__SocketKind)kind;
		fds[n++] = fd;
	}
	m.kinds = kinds;
	m.n_kinds = n;
	send_msg(p, WEFT__BROKER__TO_PROXY__M_POD_ADD, &m, fds, n);
}

static void send_all(struct peer *p)
{
	Weft__Broker__SnapshotSent done = WEFT__BROKER__SNAPSHOT_SENT__INIT;
	struct weft_pod *pod;

	p->state = S_LIVE;
	for (pod = weft_pods_first(p->b->pods); pod; pod = pod->next)
		if (pod->state == WEFT_POD_CAPTURED)
			send_pod(p, pod);
	send_msg(p, WEFT__BROKER__TO_PROXY__M_SNAPSHOT_SENT, &done, NULL, 0);
}

/* ---- from the proxy. Each takes fds. */

typedef int handler(struct peer *p, const Weft__Broker__ToAgent *m, int *fds, unsigned n_fds,
		    struct weft_err *reterr);

static void deadline(struct peer *p, int s)
{
	const struct timeval tv = {.tv_sec = s};

	event_add(p->deadline, &tv);
}

static int on_hello(struct peer *p, const Weft__Broker__ToAgent *m, int *fds, unsigned n_fds,
		    struct weft_err *reterr)
{
	Weft__Broker__Welcome w = WEFT__BROKER__WELCOME__INIT;
	struct weft_broker *b = p->b;
	unsigned others = 0;
	struct peer *o;
	int r, pidfd;

	(void)fds;
	(void)n_fds;
	if (m->hello->version != VERSION)
		return weft_fail(reterr, NULL, EPROTO, "version %u: must be %d", m->hello->version,
				 VERSION);
	TAILQ_FOREACH (o, &b->peers, link)
		others += o != p && o->state != S_NEW;
	if (others >= 2)
		return weft_fail(reterr, NULL, EBUSY, "two proxies are connected already");
	pidfd = fcntl(p->pidfd, F_DUPFD_CLOEXEC, 0);
	if (pidfd < 0)
		return weft_fail(reterr, NULL, errno, "pidfd: %s", strerror(errno));
	/* before Welcome: its first connect must not come back to it */
	r = weft_exempt_process(b->exempt, p->pid, pidfd, reterr);
	if (r < 0)
		return r;
	TAILQ_REMOVE(&b->peers, p, link);
	TAILQ_INSERT_HEAD(&b->peers, p, link);
	p->state = S_HOLDING;
	deadline(p, HOLDING_WAIT_S);
	w.has_version = true;
	w.version = VERSION;
	w.node = b->node;
	w.network = b->network;
	w.trust_domain = b->trust_domain;
	send_msg(p, WEFT__BROKER__TO_PROXY__M_WELCOME, &w, NULL, 0);
	weft_log(WEFT_LOG_INFO, "proxy connected pid=%d version=%.40s%s", p->pid,
		 m->hello->proxy_version ? m->hello->proxy_version : "?",
		 others ? " successor=true" : "");
	return 0;
}

static int on_holding(struct peer *p, const Weft__Broker__ToAgent *m, int *fds, unsigned n_fds,
		      struct weft_err *reterr)
{
	const Weft__Broker__Holding *h = m->holding;
	int r;

	if (h->done) {
		event_del(p->deadline);
		p->state = S_WAITING;
		if (p->b->conf.settled)
			p->b->conf.settled(p->b->conf.owner);
		if (p->b->ready && p->state == S_WAITING)
			send_all(p);
		return 0;
	}
	if (!h->pod_uid || !h->pod_uid[0] || n_fds != 1)
		return weft_fail(reterr, NULL, EPROTO,
				 "Holding: must name a pod and carry one descriptor");
	weft_held_add(&p->held, h->pod_uid, (int)h->kind, weft_held_ino(fds[0]));
	r = weft_pods_adopt(p->b->pods, h->pod_uid, (int)h->kind, fds[0]);
	fds[0] = -1;
	/* a stale one is not a broken rule: the pod may have come back in another namespace */
	if (r < 0 && r != -EEXIST)
		weft_log(WEFT_LOG_WARN,
			 "a listener the proxy holds is not taken back pod=%s kind=%s: %s",
			 h->pod_uid, weft_podsock_name((int)h->kind), strerror(-r));
	return 0;
}

static int on_ack(struct peer *p, const Weft__Broker__ToAgent *m, int *fds, unsigned n_fds,
		  struct weft_err *reterr)
{
	(void)p;
	(void)fds;
	(void)n_fds;
	(void)reterr;
	if (m->ack->error && m->ack->error[0])
		weft_log(WEFT_LOG_ERROR, "the proxy could not take pod=%s: %s",
			 m->ack->uid ? m->ack->uid : "?", m->ack->error);
	return 0;
}

static int on_want(struct peer *p, const Weft__Broker__ToAgent *m, int *fds, unsigned n_fds,
		   struct weft_err *reterr)
{
	Weft__Broker__Sockets a = WEFT__BROKER__SOCKETS__INIT;
	const Weft__Broker__Want *w = m->want;
	int made[WEFT_BROKER_SEND_FDS];
	struct weft_err e = {0};
	const struct weft_pod *pod;
	unsigned n = w->count, i;

	(void)fds;
	(void)n_fds;
	if (!w->pod_uid || !weft_podsock_is_connect((int)w->kind) || n < 1 ||
	    n > WEFT_BROKER_SEND_FDS)
		return weft_fail(reterr, NULL, EPROTO,
				 "Want: kind must be 7..10 and count 1..32, are %d and %u",
				 (int)w->kind, n);
	if (weft_bpeer_queued(p->io) > WANT_QUEUE_MAX)
		return weft_fail(reterr, NULL, ENOBUFS, "Want: %u answers are not read",
				 weft_bpeer_queued(p->io));
	pod = weft_pods_find(p->b->pods, w->pod_uid);
	if (!pod)
		weft_fail(&e, NULL, ENOENT, "pod %s is not enrolled", w->pod_uid);
	else
		weft_pods_sockets(pod, (int)w->kind, made, n, &e);
	n = e.code ? 0 : n;
	a.pod_uid = w->pod_uid;
	a.has_kind = true;
	a.kind = w->kind;
	a.error = e.code ? e.msg : NULL;
	send_msg(p, WEFT__BROKER__TO_PROXY__M_SOCKETS, &a, made, n);
	for (i = 0; i < n; i++)
		close(made[i]);
	return 0;
}

/* Everything a proxy may ask: in which state, how often, with how many descriptors. Unlisted is
 * refused. */
static const struct permit {
	Weft__Broker__ToAgent__MCase which;
	const char *name;
	int states;
	unsigned a_second;
	unsigned long in_all; /* 0: no limit */
	unsigned fds;
	handler *fn;
} permits[] = {
	{WEFT__BROKER__TO_AGENT__M_HELLO, "Hello", S_NEW, 1, 1, 0, on_hello},
	{WEFT__BROKER__TO_AGENT__M_HOLDING, "Holding", S_HOLDING, HOLDING_MAX, HOLDING_MAX, 1,
	 on_holding},
	{WEFT__BROKER__TO_AGENT__M_ACK, "Ack", S_LIVE, 20000, 0, 0, on_ack},
	{WEFT__BROKER__TO_AGENT__M_WANT, "Want", S_HOLDING | S_WAITING | S_LIVE, 20000, 0, 0,
	 on_want},
};

static int permit_check(struct peer *p, size_t i, unsigned n_fds, struct weft_err *reterr)
{
	uint64_t now = weft_now_ns() / 1000000000u;

	if (!(permits[i].states & p->state))
		return weft_fail(reterr, NULL, EPROTO, "%s: not allowed in this state",
				 permits[i].name);
	if (n_fds > permits[i].fds)
		return weft_fail(reterr, NULL, EPROTO, "%s: at most %u descriptors, has %u",
				 permits[i].name, permits[i].fds, n_fds);
	if (now != p->second) {
		p->second = now;
		memset(p->in_second, 0, sizeof(p->in_second));
	}
	if (++p->in_second[i] > permits[i].a_second)
		return weft_fail(reterr, NULL, EDQUOT, "%s: more than %u a second", permits[i].name,
				 permits[i].a_second);
	if (++p->total[i] > permits[i].in_all && permits[i].in_all)
		return weft_fail(reterr, NULL, EDQUOT, "%s: more than %lu in all", permits[i].name,
				 permits[i].in_all);
	return 0;
}

static int peer_message(void *owner, const uint8_t *bytes, size_t n, int *fds, unsigned n_fds,
			struct weft_err *reterr)
{
	struct weft_arena *a = weft_arena_new(0);
	const Weft__Broker__ToAgent *m;
	struct peer *p = owner;
	size_t i;
	int r;

	m = (const void *)weft_wire_unpack(a, &weft__broker__to_agent__descriptor, bytes, n, true,
					   reterr);
	for (i = 0; m && i < sizeof(permits) / sizeof(permits[0]); i++)
		if (permits[i].which == m->m_case)
			break;
	if (!m)
		r = -EPROTO;
	else if (i == sizeof(permits) / sizeof(permits[0]))
		r = weft_fail(reterr, NULL, EPROTO, "an empty message");
	else if ((r = permit_check(p, i, n_fds, reterr)) >= 0)
		r = permits[i].fn(p, m, fds, n_fds, reterr);
	while (n_fds--)
		if (fds[n_fds] >= 0)
			close(fds[n_fds]);
	weft_arena_free(a);
	return r;
}

/* ---- peers */

static void peer_free(struct peer *p)
{
	TAILQ_REMOVE(&p->b->peers, p, link);
	p->b->n_peers--;
	weft_bpeer_free(p->io);
	event_free(p->deadline);
	close(p->pidfd);
	weft_held_drop(&p->held, NULL);
	free(p);
}

static void peer_closed(void *owner, const struct weft_err *why)
{
	struct peer *p = owner;
	struct weft_broker *b = p->b;
	struct peer *next;
	bool was_active = TAILQ_FIRST(&b->peers) == p;

	if (why->code)
		weft_log(WEFT_LOG_WARN, "proxy cut off pid=%d: %s", p->pid, why->msg);
	if (p->state != S_NEW)
		weft_log(WEFT_LOG_INFO, "proxy disconnected pid=%d", p->pid);
	peer_free(p);
	next = TAILQ_FIRST(&b->peers);
	/* a successor that failed: the one before it is told what it missed */
	if (was_active && next && next->state == S_LIVE && b->ready)
		send_all(next);
}

static const struct weft_bpeer_ops peer_ops = {peer_message, peer_closed};

static void peer_late(evutil_socket_t fd, short what, void *arg)
{
	struct peer *p = arg;
	struct weft_err e = {0};

	(void)fd;
	(void)what;
	weft_fail(&e, NULL, ETIMEDOUT, "pid %d: no %s in time", p->pid,
		  p->state == S_NEW ? "Hello" : "end of Holding");
	weft_bpeer_cut(p->io, &e);
}

static int peer_pidfd(int fd, pid_t pid)
{
	int pidfd;
	socklen_t n = sizeof(pidfd);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &n) == 0)
		return pidfd;
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void on_accept(evutil_socket_t lfd, short what, void *arg)
{
	struct weft_broker *b = arg;
	int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), pidfd = -1;
	struct ucred cred = {0};
	socklen_t n = sizeof(cred);
	struct peer *p;

	(void)what;
	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 ||
	    cred.uid != b->conf.proxy_uid || cred.pid <= 0 || b->n_peers >= PEERS_MAX ||
	    (pidfd = peer_pidfd(fd, cred.pid)) < 0) {
		weft_log(WEFT_LOG_WARN, "broker: connection refused pid=%d uid=%d: %s", cred.pid,
			 (int)cred.uid,
			 cred.uid != b->conf.proxy_uid ? "not the proxy's user"
			 : b->n_peers >= PEERS_MAX     ? "too many connections"
						       : "process not found");
		close(fd);
		return;
	}
	p = weft_xcalloc(1, sizeof(*p));
	p->b = b;
	p->pid = cred.pid;
	p->pidfd = pidfd;
	p->state = S_NEW;
	p->io = weft_bpeer_new(b->base, fd, &peer_ops, p);
	p->deadline = evtimer_new(b->base, peer_late, p);
	deadline(p, HELLO_WAIT_S);
	TAILQ_INSERT_TAIL(&b->peers, p, link);
	b->n_peers++;
}

/* ---- the broker */

static int listen_at(struct weft_broker *b, struct weft_err *reterr)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	mode_t old;
	int fd, r;

	if (strlen(b->path) >= sizeof(sun.sun_path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "%s: longer than %zu bytes", b->path,
				 sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, b->path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "broker: %s", strerror(errno));
	unlink(b->path);
	old = umask(0177); /* no moment in which others may connect */
	r = bind(fd, (struct sockaddr *)&sun, sizeof(sun));
	umask(old);
	if (r < 0 || chown(b->path, b->conf.proxy_uid, (gid_t)-1) < 0 || listen(fd, 16) < 0) {
		weft_fail(reterr, NULL, errno, "%s: %s", b->path, strerror(errno));
		r = -errno;
		close(fd);
		return r;
	}
	b->fd = fd;
	b->ev = event_new(b->base, fd, EV_READ | EV_PERSIST, on_accept, b);
	event_add(b->ev, NULL);
	return 0;
}

int weft_broker_new(struct event_base *base, const struct weft_broker_conf *conf,
		    struct weft_pods *pods, struct weft_bpf *bpf, struct weft_broker **ret,
		    struct weft_err *reterr)
{
	struct weft_exempt_conf xc = {conf->cgroup2, conf->instance, conf->move_cgroup};
	struct weft_broker *b = weft_xcalloc(1, sizeof(*b));
	int r;

	TAILQ_INIT(&b->peers);
	b->base = base;
	b->fd = -1;
	b->pods = pods;
	b->conf = *conf;
	if (!b->conf.adopt_wait_ms)
		b->conf.adopt_wait_ms = 2000;
	b->path = weft_xstrdup(conf->path);
	b->node = weft_xstrdup(conf->node);
	b->network = weft_xstrdup(conf->network ? conf->network : "");
	b->trust_domain = weft_xstrdup(conf->trust_domain ? conf->trust_domain : "cluster.local");
	b->start_ns = weft_now_ns();
	r = weft_exempt_new(base, &xc, bpf, &b->exempt, reterr);
	if (r >= 0)
		r = listen_at(b, reterr);
	if (r < 0) {
		weft_broker_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

void weft_broker_free(struct weft_broker *b)
{
	struct peer *p;

	if (!b)
		return;
	while ((p = TAILQ_FIRST(&b->peers)))
		peer_free(p);
	if (b->ev) {
		event_free(b->ev);
		close(b->fd);
		unlink(b->path);
	}
	weft_exempt_free(b->exempt);
	free(b->path);
	free(b->node);
	free(b->network);
	free(b->trust_domain);
	free(b);
}

void weft_broker_ready(struct weft_broker *b)
{
	struct peer *p;

	b->ready = true;
	TAILQ_FOREACH (p, &b->peers, link)
		if (p->state == S_WAITING)
			send_all(p);
}

bool weft_broker_adopting(const struct weft_broker *b)
{
	const struct peer *p;

	if (weft_now_ns() - b->start_ns > b->conf.adopt_wait_ms * 1000000ull)
		return false;
	TAILQ_FOREACH (p, &b->peers, link) {
		if (p->state == S_WAITING || p->state == S_LIVE)
			return false;
		if (p->state == S_HOLDING)
			return true;
	}
	return weft_exempt_live(b->exempt) > 0;
}

void weft_broker_pod_added(struct weft_broker *b, struct weft_pod *pod)
{
	struct peer *p = TAILQ_FIRST(&b->peers);

	if (p && p->state == S_LIVE)
		send_pod(p, pod);
}

void weft_broker_pod_removed(struct weft_broker *b, const char *uid)
{
	Weft__Broker__PodDel m = WEFT__BROKER__POD_DEL__INIT;
	struct peer *p;

	m.uid = (char *)uid;
	TAILQ_FOREACH (p, &b->peers, link) {
		weft_held_drop(&p->held, uid);
		if (p->state == S_LIVE)
			send_msg(p, WEFT__BROKER__TO_PROXY__M_POD_DEL, &m, NULL, 0);
	}
}

bool weft_broker_proxy_connected(const struct weft_broker *b)
{
	return weft_broker_proxy_pid(b) != 0;
}

pid_t weft_broker_proxy_pid(const struct weft_broker *b)
{
	const struct peer *p = TAILQ_FIRST(&b->peers);

	return p && p->state == S_LIVE ? p->pid : 0;
}
