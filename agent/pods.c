#include "agent/pods.h"
#include "agent/netns.h"
#include "agent/podsock.h"
#include "proxy/core/arena.h"
#include "xds/proto/broker.pb-c.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Listeners that a live proxy handed back before their pod was enrolled. */
enum { ORPHANS_MAX = 8192 };
struct orphan {
	char *uid;
	int kind, fd;
	struct orphan *next;
};
struct weft_pods {
	struct weft_bpf *bpf;
	struct weft_pod *first;
	struct orphan *orphans;
	unsigned n_orphans;
};

struct weft_pods *weft_pods_new(struct weft_bpf *bpf)
{
	struct weft_pods *p = weft_xcalloc(1, sizeof(*p));

	p->bpf = bpf;
	return p;
}

/* ---- one pod */

static char *dup_or(const char *s, const char * or)
{
	return weft_xstrdup(s ? s : or);
}

static void pod_strings(struct weft_pod *pod, const struct weft_pod_conf *c)
{
	pod->uid = weft_xstrdup(c->uid);
	pod->name = dup_or(c->name, "");
	pod->ns = dup_or(c->ns, "");
	pod->sa = dup_or(c->sa, "default");
	pod->trust_domain = dup_or(c->trust_domain, "cluster.local");
	pod->workload_uid = dup_or(c->workload_uid, "");
	pod->netns_path = dup_or(c->netns_path, "");
}

static struct weft_pod *pod_new(const struct weft_pod_conf *c)
{
	struct weft_pod *pod = weft_xcalloc(1, sizeof(*pod));
	int i;

	pod_strings(pod, c);
	pod->netns_fd = -1;
	for (i = 0; i < WEFT_POD_LISTENERS; i++)
		pod->listeners[i] = -1;
	return pod;
}

static void strings_free(struct weft_pod *pod)
{
	free(pod->uid);
	free(pod->name);
	free(pod->ns);
	free(pod->sa);
	free(pod->trust_domain);
	free(pod->workload_uid);
	free(pod->netns_path);
}

static void sockets_close(struct weft_pod *pod)
{
	int i;

	for (i = 0; i < WEFT_POD_LISTENERS; i++) {
		if (pod->listeners[i] >= 0)
			close(pod->listeners[i]);
		pod->listeners[i] = -1;
	}
	if (pod->netns_fd >= 0)
		close(pod->netns_fd);
	pod->netns_fd = -1;
}

static void pod_free(struct weft_pod *pod)
{
	sockets_close(pod);
	strings_free(pod);
	free(pod);
}

static bool owns(const struct weft_ip *v, size_t n, const struct weft_ip *ip)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (weft_ip_eq(&v[i], ip))
			return true;
	return false;
}

/* The wanted addresses must be the namespace's; none wanted: all that it has. */
static int pod_addrs(struct weft_pod *pod, const struct weft_pod_conf *c, struct weft_err *reterr)
{
	struct weft_ip have[64];
	size_t n = 0, i;
	char text[WEFT_IP_TEXT];
	int r = weft_netns_addrs(pod->netns_fd, have, 64, &n);

	if (r < 0)
		return weft_fail(reterr, NULL, -r, "addresses of %s: %s", pod->netns_path,
				 strerror(-r));
	if (c->n_addrs > 4 || (!c->n_addrs && n > 4))
		return weft_fail(reterr, NULL, E2BIG, "a pod has at most 4 addresses, %s has %zu",
				 pod->netns_path, c->n_addrs ? c->n_addrs : n);
	if (!c->n_addrs && !n)
		return weft_fail(reterr, NULL, EADDRNOTAVAIL, "%s has no address yet",
				 pod->netns_path);
	n = n > 64 ? 64 : n;
	for (i = 0; i < c->n_addrs; i++)
		if (!owns(have, n, &c->addrs[i]))
			return weft_fail(reterr, NULL, EADDRNOTAVAIL,
					 "%s does not own the pod's address %s", pod->netns_path,
					 weft_ip_text(&c->addrs[i], text, sizeof(text)));
	pod->n_addrs = c->n_addrs ? c->n_addrs : n;
	memcpy(pod->addrs, c->n_addrs ? c->addrs : have, pod->n_addrs * sizeof(pod->addrs[0]));
	return 0;
}

static bool wants_v6(const struct weft_pod *pod)
{
	size_t i;

	for (i = 0; i < pod->n_addrs; i++)
		if (pod->addrs[i].family == 6)
			return true;
	return false;
}

int weft_pods_listen(struct weft_pod *pod, struct weft_err *reterr)
{
	bool v6 = false;
	int r = weft_netns_prepare(pod->netns_fd, &v6, reterr), kind;

	if (r < 0)
		return r;
	pod->ours |= r == 1;
	if (!v6 && wants_v6(pod))
		return weft_fail(reterr, NULL, EAFNOSUPPORT,
				 "the pod has an IPv6 address, but net.ipv6.conf.lo.disable_ipv6 "
				 "is 1 in its namespace");
	for (kind = 1; kind <= WEFT_POD_LISTENERS; kind++) {
		if (pod->listeners[kind - 1] >= 0 || (weft_podsock_is_v6(kind) && !v6))
			continue;
		r = weft_podsock_make(pod->netns_fd, kind, &pod->listeners[kind - 1], 1, reterr);
		if (r < 0) {
			pod->listeners[kind - 1] = -1;
			return r;
		}
	}
	return 0;
}

static int listener_of(const struct weft_ip *ip, bool hbone)
{
	if (ip->family == 6)
		return hbone ? WEFT__BROKER__SOCKET_KIND__LISTEN_HBONE6
			     : WEFT__BROKER__SOCKET_KIND__LISTEN_PLAIN6;
	return hbone ? WEFT__BROKER__SOCKET_KIND__LISTEN_HBONE4
		     : WEFT__BROKER__SOCKET_KIND__LISTEN_PLAIN4;
}

static int steer(struct weft_bpf *bpf, const struct weft_pod *pod, struct weft_err *reterr)
{
	size_t i;
	int r;

	for (i = 0; i < pod->n_addrs; i++) {
		bool v6 = pod->addrs[i].family == 6;

		r = weft_bpf_listener_set(
			bpf, &pod->addrs[i], v6 ? WEFT_BPF_HBONE6 : WEFT_BPF_HBONE4,
			pod->listeners[listener_of(&pod->addrs[i], true) - 1], reterr);
		if (r < 0)
			return r;
		r = weft_bpf_listener_set(
			bpf, &pod->addrs[i], v6 ? WEFT_BPF_PLAIN6 : WEFT_BPF_PLAIN4,
			pod->listeners[listener_of(&pod->addrs[i], false) - 1], reterr);
		if (r < 0)
			return r;
	}
	return 0;
}

static void orphans_claim(struct weft_pods *p, struct weft_pod *pod)
{
	struct orphan **at = &p->orphans, *o;

	while ((o = *at)) {
		if (strcmp(o->uid, pod->uid)) {
			at = &o->next;
			continue;
		}
		*at = o->next;
		p->n_orphans--;
		if (pod->listeners[o->kind - 1] < 0 &&
		    weft_podsock_verify(o->fd, o->kind, pod->cookie) == 0)
			pod->listeners[o->kind - 1] = o->fd;
		else
			close(o->fd);
		free(o->uid);
		free(o);
	}
}

/* Everything up to and with the capture, which comes last: nothing is redirected to a listener that
 * is not there. */
static int capture(struct weft_pods *p, struct weft_pod *pod, const struct weft_pod_conf *c,
		   struct weft_err *reterr)
{
	struct weft_bpf_pod b = {.uid = pod->uid};
	int r;

	if (!c->netns_path || !c->netns_path[0])
		return weft_fail(reterr, NULL, ENOENT,
				 "no network namespace: annotation weft.io/netns is missing");
	pod->netns_fd = weft_netns_open(c->netns_path, reterr);
	if (pod->netns_fd < 0)
		return pod->netns_fd;
	r = weft_netns_cookie(pod->netns_fd, &pod->cookie);
	if (r < 0)
		return weft_fail(reterr, NULL, -r, "cookie of %s: %s", pod->netns_path,
				 strerror(-r));
	r = pod_addrs(pod, c, reterr);
	if (r < 0)
		return r;
	orphans_claim(p, pod);
	r = weft_pods_listen(pod, reterr);
	if (r < 0)
		return r;
	b.cookie = pod->cookie;
	b.netns_fd = pod->netns_fd;
	b.n_addrs = pod->n_addrs;
	memcpy(b.addrs, pod->addrs, sizeof(b.addrs));
	r = steer(p->bpf, pod, reterr);
	/* where it fails it takes back what it did, and no more: the namespace may be captured
	 * already, by an earlier agent or as another pod. Steered listeners go with their sockets.
	 */
	return r < 0 ? r : weft_bpf_pod_set(p->bpf, &b, reterr);
}

/* Gives capture, rules and sockets back; the pod's strings stay. */
static int release(struct weft_pods *p, struct weft_pod *pod, struct weft_err *reterr)
{
	bool captured = pod->state == WEFT_POD_CAPTURED;
	int r = 0, r2;

	if (captured)
		r = weft_bpf_pod_del(p->bpf, pod->uid, pod->cookie, reterr);
	/* what failed before it captured leaves alone what an earlier agent may have set up for a
	 * proxy that lives */
	if (pod->netns_fd >= 0 && (captured || pod->ours)) {
		r2 = weft_netns_restore(pod->netns_fd, r < 0 ? NULL : reterr);
		r = r < 0 ? r : r2;
	}
	sockets_close(pod);
	pod->ours = false;
	pod->state = WEFT_POD_PENDING;
	return r;
}

static bool same_netns(const struct weft_pod *pod, const char *path)
{
	struct stat a, b;

	return pod->netns_fd >= 0 && path && stat(path, &a) == 0 && fstat(pod->netns_fd, &b) == 0 &&
	       a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static bool same_addrs(const struct weft_pod *pod, const struct weft_pod_conf *c)
{
	size_t i;

	if (c->n_addrs && c->n_addrs != pod->n_addrs)
		return false;
	for (i = 0; i < c->n_addrs; i++)
		if (!owns(pod->addrs, pod->n_addrs, &c->addrs[i]))
			return false;
	return true;
}

static bool eq_or(const char *have, const char *want, const char * or)
{
	return !strcmp(have, want ? want : or);
}

static bool same_strings(const struct weft_pod *pod, const struct weft_pod_conf *c)
{
	return eq_or(pod->name, c->name, "") && eq_or(pod->ns, c->ns, "") &&
	       eq_or(pod->sa, c->sa, "default") &&
	       eq_or(pod->trust_domain, c->trust_domain, "cluster.local") &&
	       eq_or(pod->workload_uid, c->workload_uid, "") &&
	       eq_or(pod->netns_path, c->netns_path, "");
}

/* The pod moves to other addresses in the same namespace; it stays captured all the while, and
 * where it cannot move, as it was: a wrong address in the configuration must not let it out. */
static int readdress(struct weft_pods *p, struct weft_pod *pod, const struct weft_pod_conf *c,
		     struct weft_err *reterr)
{
	struct weft_bpf_pod b = {.uid = pod->uid, .cookie = pod->cookie, .netns_fd = pod->netns_fd};
	struct weft_ip old[4];
	size_t n_old = pod->n_addrs;
	int r;

	memcpy(old, pod->addrs, sizeof(old));
	r = pod_addrs(pod, c, reterr);
	if (r >= 0)
		r = weft_pods_listen(pod, reterr);
	if (r >= 0) {
		b.n_addrs = pod->n_addrs;
		memcpy(b.addrs, pod->addrs, sizeof(b.addrs));
		r = steer(p->bpf, pod, reterr);
	}
	if (r >= 0)
		r = weft_bpf_pod_set(p->bpf, &b, reterr);
	if (r < 0) { /* tried again at the next sync */
		memcpy(pod->addrs, old, sizeof(old));
		pod->n_addrs = n_old;
	}
	return r;
}

static int failed(struct weft_pods *p, struct weft_pod *pod, const struct weft_err *e,
		  struct weft_err *reterr)
{
	if (pod->state != WEFT_POD_CAPTURED) {
		release(p, pod, NULL);
		pod->state = WEFT_POD_FAILED;
	}
	pod->err = *e;
	if (reterr)
		*reterr = *e;
	return -e->code;
}

int weft_pods_add(struct weft_pods *p, const struct weft_pod_conf *c, struct weft_pod **ret,
		  struct weft_err *reterr)
{
	struct weft_pod *pod = weft_pods_find(p, c->uid);
	struct weft_err e = {0};
	int r = 0, changed = 0;

	if (!pod) {
		pod = pod_new(c);
		pod->next = p->first;
		p->first = pod;
	}
	if (ret)
		*ret = pod;
	changed = pod->err.code != 0; /* what came with a failed change was not told */
	if (!same_strings(pod, c)) {
		strings_free(pod);
		pod_strings(pod, c);
		changed = 1;
	}
	if (pod->state == WEFT_POD_CAPTURED && same_netns(pod, c->netns_path)) {
		if (!same_addrs(pod, c)) {
			changed = 1;
			r = readdress(p, pod, c, &e);
		}
	} else {
		changed = 1;
		release(p, pod, NULL);
		r = capture(p, pod, c, &e);
	}
	if (r < 0)
		return failed(p, pod, &e, reterr);
	pod->state = WEFT_POD_CAPTURED;
	memset(&pod->err, 0, sizeof(pod->err));
	return changed;
}

int weft_pods_remove(struct weft_pods *p, const char *uid, struct weft_err *reterr)
{
	struct weft_pod **at = &p->first, *pod;
	int r;

	while (*at && strcmp((*at)->uid, uid))
		at = &(*at)->next;
	pod = *at;
	if (!pod)
		return weft_fail(reterr, NULL, ENOENT, "pod %s is not enrolled", uid);
	*at = pod->next;
	r = release(p, pod, reterr);
	pod_free(pod);
	return r;
}

struct weft_pod *weft_pods_find(struct weft_pods *p, const char *uid)
{
	struct weft_pod *pod = p->first;

	while (pod && strcmp(pod->uid, uid))
		pod = pod->next;
	return pod;
}

struct weft_pod *weft_pods_first(struct weft_pods *p)
{
	return p->first;
}

/* ---- sockets for the proxy */

int weft_pods_sockets(const struct weft_pod *pod, int kind, int *fds, unsigned n,
		      struct weft_err *reterr)
{
	if (pod->state != WEFT_POD_CAPTURED)
		return weft_fail(reterr, NULL, ENOENT, "pod %s is not captured", pod->uid);
	if (!weft_podsock_is_connect(kind))
		return weft_fail(reterr, NULL, EINVAL, "socket kind %d: must be 7..10", kind);
	return weft_podsock_make(pod->netns_fd, kind, fds, n, reterr);
}

int weft_pods_socket(const struct weft_pod *pod, int kind, struct weft_err *reterr)
{
	int fd, r = weft_pods_sockets(pod, kind, &fd, 1, reterr);

	return r < 0 ? r : fd;
}

/* ---- adoption */

int weft_pods_adopt(struct weft_pods *p, const char *uid, int kind, int fd)
{
	struct weft_pod *pod = weft_pods_find(p, uid);
	bool known = pod && pod->state == WEFT_POD_CAPTURED;
	struct orphan *o;
	int r = weft_podsock_verify(fd, kind, known ? pod->cookie : 0);

	if (r == 0 && known)
		/* a captured pod has its listeners: this is a duplicate of one of them */
		r = -EEXIST;
	else if (r == 0 && p->n_orphans >= ORPHANS_MAX)
		r = -E2BIG;
	if (r < 0) {
		close(fd);
		return r;
	}
	o = weft_xcalloc(1, sizeof(*o));
	o->uid = weft_xstrdup(uid);
	o->kind = kind;
	o->fd = fd;
	o->next = p->orphans;
	p->orphans = o;
	p->n_orphans++;
	return 0;
}

void weft_pods_adopt_end(struct weft_pods *p)
{
	struct orphan *o;

	while ((o = p->orphans)) {
		p->orphans = o->next;
		close(o->fd);
		free(o->uid);
		free(o);
	}
	p->n_orphans = 0;
}

void weft_pods_free(struct weft_pods *p)
{
	struct weft_pod *pod;

	if (!p)
		return;
	weft_pods_adopt_end(p);
	while ((pod = p->first)) {
		p->first = pod->next;
		pod_free(pod);
	}
	free(p);
}
