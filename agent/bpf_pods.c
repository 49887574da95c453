/* Pods, listeners, exemptions and counters in the maps of a loaded set. */
#include "agent/bpf_int.h"
#include "agent/bpf_pin.h"
#include "agent/netns.h"
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* ---- network namespace cookies */

int weft_bpf_own_cookie(uint64_t *ret)
{
	socklen_t len = sizeof(*ret);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r = 0;

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len))
		r = -errno;
	close(fd);
	return r;
}

static int cookie_here(void *arg)
{
	return weft_bpf_own_cookie(arg);
}

int weft_netns_cookie(int netns_fd, uint64_t *ret)
{
	return weft_netns_run(netns_fd, cookie_here, ret);
}

/* ---- helpers */

static void addr_to_abi(const struct weft_ip *ip, struct weft_abi_addr *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ip->family == 6) {
		memcpy(ret->be, ip->b, 16);
		return;
	}
	ret->be[2] = htonl(0xffff);
	memcpy(&ret->be[3], ip->b, 4);
}

static void pod_to_abi(const struct weft_bpf_pod *p, struct weft_abi_pod *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->n = (uint32_t)p->n_addrs;
	for (size_t i = 0; i < p->n_addrs; i++) {
		bool v6 = p->addrs[i].family == 6;
		uint32_t flag = v6 ? WEFT_ABI_POD_HAS6 : WEFT_ABI_POD_HAS4;

		addr_to_abi(&p->addrs[i], &ret->addr[i]);
		if (!(ret->flags &
		      flag)) /* the first of a family is the one an app sees as its own */
			*(v6 ? &ret->self6 : &ret->self4) = ret->addr[i];
		ret->flags |= flag;
	}
}

static bool pod_owns(const struct weft_abi_pod *p, const struct weft_abi_addr *a)
{
	for (uint32_t i = 0; i < p->n && i < WEFT_ABI_ADDRS; i++)
		if (!memcmp(&p->addr[i], a, sizeof(*a)))
			return true;
	return false;
}

static int map_delete(int fd, const void *key)
{
	return bpf_map_delete_elem(fd, key) && errno != ENOENT ? -errno : 0;
}

/* Listeners at addresses of old that now (may be NULL) does not have. */
static int listeners_drop(struct weft_bpf *b, const struct weft_abi_pod *old,
			  const struct weft_abi_pod *now)
{
	int r = 0;

	for (uint32_t i = 0; i < old->n && i < WEFT_ABI_ADDRS; i++) {
		struct weft_abi_listener key = {.addr = old->addr[i]};

		if (now && pod_owns(now, &old->addr[i]))
			continue;
		for (key.kind = WEFT_ABI_PLAIN; key.kind <= WEFT_ABI_HBONE; key.kind++) {
			int d = map_delete(b->set.map[WEFT_BPF_LISTENERS], &key);

			r = r ? r : d;
		}
	}
	return r;
}

/* ---- pods */

static int pod_check(const struct weft_bpf *b, const struct weft_bpf_pod *p,
		     struct weft_err *reterr)
{
	if (!p->uid[0] || strlen(p->uid) >= WEFT_ABI_UID)
		return weft_fail(reterr, NULL, EINVAL,
				 "uid of a pod: must have 1..%d bytes, has %zu", WEFT_ABI_UID - 1,
				 strlen(p->uid));
	if (!p->n_addrs || p->n_addrs > WEFT_ABI_ADDRS)
		return weft_fail(reterr, NULL, EINVAL,
				 "pod %.120s: must have 1..%d addresses, has %zu", p->uid,
				 WEFT_ABI_ADDRS, p->n_addrs);
	for (size_t i = 0; i < p->n_addrs; i++) {
		char text[WEFT_IP_TEXT];
		const struct weft_ip *ip = &p->addrs[i];

		if ((ip->family == 4 || ip->family == 6) && !weft_ip_is_any(ip) &&
		    !weft_ip_is_loopback(ip))
			continue;
		return weft_fail(reterr, NULL, EINVAL, "pod %.120s: %s cannot be a pod's address",
				 p->uid, weft_ip_text(ip, text, sizeof(text)));
	}
	if (!p->cookie || p->cookie == b->own_cookie)
		return weft_fail(reterr, NULL, EINVAL,
				 "pod %.120s: the node's own network namespace cannot be enrolled",
				 p->uid);
	return 0;
}

/* Finds the namespace a uid is enrolled with, or 0. */
static uint64_t cookie_of(const struct weft_bpf *b, const char *uid)
{
	int fd = b->set.map[WEFT_BPF_NAMES];
	uint64_t key, *prev = NULL, at;
	char name[WEFT_ABI_UID];

	for (; !bpf_map_get_next_key(fd, prev, &key); at = key, prev = &at)
		if (!bpf_map_lookup_elem(fd, &key, name) && !strncmp(name, uid, sizeof(name)))
			return key;
	return 0;
}

/* 1: the pinned link is in that namespace, 0: there is none. A link into another namespace is taken
 * away. */
static int link_find(const char *path, int netns_fd, struct weft_err *reterr)
{
	struct bpf_link_info info = {};
	__u32 len = sizeof(info);
	struct bpf_link *link;
	struct stat st;
	int r;

	if (fstat(netns_fd, &st))
		return weft_fail(reterr, NULL, errno, "network namespace: %s", strerror(errno));
	link = bpf_link__open(path);
	if (!link)
		return errno == ENOENT ? 0 : weft_bpf_fail(reterr, errno, "open %s", path);
	r = bpf_obj_get_info_by_fd(bpf_link__fd(link), &info, &len) ? -errno : 0;
	if (!r && info.netns.netns_ino == st.st_ino)
		r = 1;
	else if (!r)
		r = unlink(path) ? -errno : 0;
	bpf_link__destroy(link);
	return r < 0 ? weft_bpf_fail(reterr, -r, "%s", path) : r;
}

static int link_make(struct weft_bpf *b, const struct weft_bpf_pod *p, struct weft_err *reterr)
{
	char path[WEFT_BPF_PATH];
	struct bpf_link *link;
	int r = weft_bpf_pod_path(b->pin_dir, p->uid, path, sizeof(path));

	if (r < 0)
		return weft_fail(reterr, NULL, -r, "pod %.120s: name too long", p->uid);
	r = link_find(path, p->netns_fd, reterr);
	if (r)
		return r < 0 ? r : 0;
	link = bpf_program__attach_netns(b->inbound, p->netns_fd);
	if (!link)
		return weft_bpf_fail(reterr, errno, "pod %.120s: attach weft_inbound", p->uid);
	r = bpf_link__pin(link, path);
	bpf_link__destroy(link);
	return r ? weft_bpf_fail(reterr, -r, "pin %s", path) : 0;
}

static int maps_set(struct weft_bpf *b, const struct weft_bpf_pod *p,
		    const struct weft_abi_pod *abi)
{
	struct weft_abi_load none = {};
	char name[WEFT_ABI_UID] = {};

	snprintf(name, sizeof(name), "%s", p->uid);
	if (bpf_map_update_elem(b->set.map[WEFT_BPF_NAMES], &p->cookie, name, BPF_ANY))
		return -errno;
	if (bpf_map_update_elem(b->set.map[WEFT_BPF_LOAD], &p->cookie, &none, BPF_NOEXIST) &&
	    errno != EEXIST)
		return -errno;
	return bpf_map_update_elem(b->set.map[WEFT_BPF_PODS], &p->cookie, abi, BPF_ANY) ? -errno
											: 0;
}

int weft_bpf_pod_set(struct weft_bpf *b, const struct weft_bpf_pod *p, struct weft_err *reterr)
{
	struct weft_abi_pod now, old;
	char name[WEFT_ABI_UID];
	uint64_t elsewhere;
	bool known;
	int r = pod_check(b, p, reterr);

	if (r)
		return r;
	if (!bpf_map_lookup_elem(b->set.map[WEFT_BPF_NAMES], &p->cookie, name) &&
	    strncmp(name, p->uid, sizeof(name)))
		return weft_fail(reterr, NULL, EEXIST,
				 "pod %.90s: its network namespace is enrolled as pod %.90s",
				 p->uid, name);
	elsewhere = cookie_of(b, p->uid);
	if (elsewhere && elsewhere != p->cookie) { /* the pod was made again */
		r = weft_bpf_pod_del(b, p->uid, elsewhere, reterr);
		if (r)
			return r;
	}
	pod_to_abi(p, &now);
	known = !bpf_map_lookup_elem(b->set.map[WEFT_BPF_PODS], &p->cookie, &old);
	r = maps_set(b, p, &now);
	if (r)
		r = weft_fail(reterr, NULL, -r, "pod %.120s: maps: %s", p->uid, strerror(-r));
	if (!r && known)
		r = listeners_drop(b, &old, &now);
	if (!r)
		r = link_make(b, p, reterr);
	if (r && !known) /* half enrolled would be worse than not */
		weft_bpf_pod_del(b, p->uid, p->cookie, NULL);
	return r;
}

static int link_drop(struct weft_bpf *b, const char *uid)
{
	char path[WEFT_BPF_PATH];
	struct bpf_link *link;
	int r = weft_bpf_pod_path(b->pin_dir, uid, path, sizeof(path));

	if (r < 0)
		return r;
	link = bpf_link__open(path);
	if (!link)
		return errno == ENOENT ? 0 : -errno;
	r = bpf_link__detach(link);
	bpf_link__destroy(link);
	if (r && r != -ENOLINK)
		return r;
	return unlink(path) && errno != ENOENT ? -errno : 0;
}

int weft_bpf_pod_del(struct weft_bpf *b, const char *uid, uint64_t cookie, struct weft_err *reterr)
{
	struct weft_abi_pod old;
	int r;

	/* the link first: while pods has the entry, the proxy's own connections to the app are
	 * still told apart */
	r = link_drop(b, uid);
	if (!r && !bpf_map_lookup_elem(b->set.map[WEFT_BPF_PODS], &cookie, &old)) {
		r = map_delete(b->set.map[WEFT_BPF_PODS], &cookie);
		if (!r)
			r = listeners_drop(b, &old, NULL);
	}
	if (!r)
		r = map_delete(b->set.map[WEFT_BPF_LOAD], &cookie);
	if (!r)
		r = map_delete(b->set.map[WEFT_BPF_NAMES], &cookie);
	return r ? weft_fail(reterr, NULL, -r, "pod %.120s: release: %s", uid, strerror(-r)) : 0;
}

int weft_bpf_each_pinned(struct weft_bpf *b,
			 void (*fn)(void *ctx, const char *uid, uint64_t cookie), void *ctx)
{
	struct pinned {
		uint64_t cookie;
		char uid[WEFT_ABI_UID];
	} *v = NULL, *grown;
	int fd = b->set.map[WEFT_BPF_NAMES], n = 0, r = 0;
	uint64_t key, *prev = NULL, at;

	/* copied first: fn may remove the pod it is told of */
	for (; n < WEFT_ABI_PODS && !bpf_map_get_next_key(fd, prev, &key); at = key, prev = &at) {
		grown = realloc(v, (size_t)(n + 1) * sizeof(*v));
		if (!grown) {
			r = -ENOMEM;
			break;
		}
		v = grown;
		if (bpf_map_lookup_elem(fd, &key, v[n].uid))
			continue;
		v[n].uid[WEFT_ABI_UID - 1] = '\0';
		v[n++].cookie = key;
	}
	for (int i = 0; i < n && !r; i++)
		fn(ctx, v[i].uid, v[i].cookie);
	free(v);
	return r;
}

/* ---- listeners, exemptions, counters */

int weft_bpf_listener_set(struct weft_bpf *b, const struct weft_ip *pod_ip,
			  enum weft_bpf_listener kind, int fd, struct weft_err *reterr)
{
	bool v6 = kind == WEFT_BPF_PLAIN6 || kind == WEFT_BPF_HBONE6;
	bool hbone = kind == WEFT_BPF_HBONE4 || kind == WEFT_BPF_HBONE6;
	struct weft_abi_listener key = {.kind = hbone ? WEFT_ABI_HBONE : WEFT_ABI_PLAIN};
	int family = 0, listening = 0;
	socklen_t len = sizeof(int);
	uint64_t value = (uint64_t)fd;
	char text[WEFT_IP_TEXT];

	if (kind < WEFT_BPF_PLAIN4 || kind > WEFT_BPF_HBONE6 || pod_ip->family != (v6 ? 6 : 4))
		return weft_fail(reterr, NULL, EINVAL, "listener of %s: wrong kind for the address",
				 weft_ip_text(pod_ip, text, sizeof(text)));
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len))
		return weft_fail(reterr, NULL, errno, "listener of %s: %s",
				 weft_ip_text(pod_ip, text, sizeof(text)), strerror(errno));
	if (family != (v6 ? AF_INET6 : AF_INET) || !listening)
		return weft_fail(reterr, NULL, EINVAL,
				 "listener of %s: must be a listening socket of that family",
				 weft_ip_text(pod_ip, text, sizeof(text)));
	addr_to_abi(pod_ip, &key.addr);
	if (bpf_map_update_elem(b->set.map[WEFT_BPF_LISTENERS], &key, &value, BPF_ANY))
		return weft_fail(reterr, NULL, errno, "listener of %s: %s",
				 weft_ip_text(pod_ip, text, sizeof(text)), strerror(errno));
	return 0;
}

int weft_bpf_exempt_set(struct weft_bpf *b, uint64_t cgroup_id, bool on, struct weft_err *reterr)
{
	uint32_t one = 1;
	int fd = b->set.map[WEFT_BPF_EXEMPT], r;

	/* 1: the hierarchy's own root, whatever we are attached at */
	if (on && (cgroup_id <= 1 || cgroup_id == b->cgroup_id))
		return weft_fail(reterr, NULL, EINVAL,
				 "the root cgroup (id %llu) cannot be exempt from capture",
				 (unsigned long long)cgroup_id);
	if (on)
		r = bpf_map_update_elem(fd, &cgroup_id, &one, BPF_ANY) ? -errno : 0;
	else
		r = map_delete(fd, &cgroup_id);
	return r ? weft_fail(reterr, NULL, -r, "exempt cgroup %llu: %s",
			     (unsigned long long)cgroup_id, strerror(-r))
		 : 0;
}

int weft_bpf_counters(struct weft_bpf *b, struct weft_bpf_counters *ret)
{
	int cpus = libbpf_num_possible_cpus(), r = 0;
	struct weft_abi_counters *v, sum = {};
	struct weft_abi_load total;
	uint32_t zero = 0;

	if (cpus < 0)
		return cpus;
	v = calloc((size_t)cpus, sizeof(*v));
	if (!v)
		return -ENOMEM;
	if (bpf_map_lookup_elem(b->set.map[WEFT_BPF_COUNTERS], &zero, v) ||
	    bpf_map_lookup_elem(b->set.map[WEFT_BPF_TOTAL], &zero, &total)) {
		r = -errno;
		goto out;
	}
	for (int c = 0; c < cpus; c++)
		for (size_t i = 0; i < sizeof(sum) / sizeof(__u64); i++)
			((__u64 *)&sum)[i] += ((const __u64 *)&v[c])[i];
	*ret = (struct weft_bpf_counters){
		.captured = sum.captured,
		.passed = sum.passed,
		.denied_full = sum.denied_full,
		.denied_storage = sum.denied_storage,
		.inbound_steered = sum.inbound_steered,
		.inbound_dropped = sum.inbound_closed + sum.inbound_lost,
		.selfc = sum.selfc,
		.orphans = sum.orphans,
		.tuples = total.tuples > 0 ? (uint64_t)total.tuples : 0,
		.selfc_entries = total.selfc > 0 ? (uint64_t)total.selfc : 0,
		.exempt = sum.exempt,
		.denied_family = sum.denied_family,
		.tuple_lost = sum.tuple_lost,
		.selfc_lost = sum.selfc_lost,
		.accepted = sum.accepted,
		.reclaimed = sum.reclaimed,
		.inbound_closed = sum.inbound_closed,
		.inbound_lost = sum.inbound_lost,
		.load_missing = sum.load_missing,
	};
out:
	free(v);
	return r;
}
