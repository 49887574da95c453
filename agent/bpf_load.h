/* Loads, pins, attaches and replaces the BPF objects; keeps their maps. Main thread. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct weft_bpf;
struct weft_bpf_conf {
	const char *pin_dir;	/* on a bpffs, e.g. /sys/fs/bpf/weft; made if missing */
	const char *cgroup;	/* cgroup2 root to attach at */
	uint32_t half_open_max; /* captured connects not yet accepted, a pod; 0: 8192 */
};
struct weft_bpf_pod {
	const char *uid; /* names the pinned link */
	uint64_t cookie; /* netns cookie */
	int netns_fd;
	struct weft_ip addrs[4];
	size_t n_addrs;
};
struct weft_bpf_counters {
	uint64_t captured, passed, denied_full, denied_storage, inbound_steered, inbound_dropped,
		selfc, orphans;
	uint64_t tuples, selfc_entries; /* entries in the maps now */
	/* causes in more detail; each has its comment in bpf/abi.h */
	uint64_t exempt, denied_family, tuple_lost, selfc_lost, accepted, reclaimed, inbound_closed,
		inbound_lost, load_missing;
};
enum weft_bpf_listener { WEFT_BPF_PLAIN4 = 1, WEFT_BPF_PLAIN6, WEFT_BPF_HBONE4, WEFT_BPF_HBONE6 };

/* Loads the real objects (the only honest probe), reuses pinned maps of the same layout, replaces
 * pinned links' programs atomically. */
int weft_bpf_open(const struct weft_bpf_conf *conf, struct weft_bpf **ret, struct weft_err *reterr);
void weft_bpf_close(struct weft_bpf *b); /* everything pinned stays: capture goes on */
/* Detaches and removes every pin; nothing there is no error. */
int weft_bpf_unload(const char *pin_dir, struct weft_err *reterr);
/* Set the pod's listeners first: outbound capture begins with this call. Again with the same uid:
 * updated, also when its namespace is a new one. -EEXIST: the namespace is enrolled under another
 * uid. -EINVAL: the node's own namespace, or an address no pod can have. */
int weft_bpf_pod_set(struct weft_bpf *b, const struct weft_bpf_pod *p, struct weft_err *reterr);
/* Releases capture; what is gone already is no error. */
int weft_bpf_pod_del(struct weft_bpf *b, const char *uid, uint64_t cookie, struct weft_err *reterr);
/* fd stays the caller's. The steering ends by itself when the last descriptor of the socket is
 * closed. -EINVAL: not a listening socket of the kind's family, or an address of another. */
int weft_bpf_listener_set(struct weft_bpf *b, const struct weft_ip *pod_ip,
			  enum weft_bpf_listener kind, int fd, struct weft_err *reterr);
/* The root's id: -EINVAL. */
int weft_bpf_exempt_set(struct weft_bpf *b, uint64_t cgroup_id, bool on, struct weft_err *reterr);
int weft_bpf_counters(struct weft_bpf *b, struct weft_bpf_counters *ret);
/* Pods pinned by an earlier agent and no longer wanted: calls fn(uid) for each pinned link. */
int weft_bpf_each_pinned(struct weft_bpf *b,
			 void (*fn)(void *ctx, const char *uid, uint64_t cookie), void *ctx);
/* SO_NETNS_COOKIE of a socket made there; -errno. */
int weft_netns_cookie(int netns_fd, uint64_t *ret);

/* One line a feature: name, "found" | "fallback" | "fatal", detail. Forks for the trial.
 * Returns the number of fatal ones; *ret_n may not exceed max, what does not fit is only counted.
 */
struct weft_feature {
	char name[40], state[12], detail[160];
};
int weft_bpf_check(const char *cgroup, const char *bpffs, struct weft_feature *v, size_t max,
		   size_t *ret_n);
