/* Enrolled pods of this node: namespace fd, cookie, addresses, listeners (the agent keeps a
 * duplicate of each). Main thread. */
#pragma once
#include "agent/bpf_load.h"
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { WEFT_POD_LISTENERS = 6 }; /* index = SocketKind - 1 */
enum weft_pod_state { WEFT_POD_PENDING, WEFT_POD_CAPTURED, WEFT_POD_FAILED };
struct weft_pod {
	char *uid, *name, *ns, *sa, *trust_domain, *workload_uid; /* never NULL */
	struct weft_ip addrs[4];
	size_t n_addrs;
	char *netns_path;
	int netns_fd;
	uint64_t cookie;
	int listeners[WEFT_POD_LISTENERS]; /* -1: none; owned */
	bool ours;			   /* rule and route were made by this capture */
	enum weft_pod_state state;
	struct weft_err
		err; /* why FAILED or PENDING; CAPTURED: why not with the wanted addresses */
	struct weft_pod *next;
};
struct weft_pod_conf { /* what is wanted; strings are copied */
	const char *uid, *name, *ns, *sa, *trust_domain, *workload_uid, *netns_path;
	struct weft_ip addrs[4];
	size_t n_addrs;
};
struct weft_pods;
struct weft_pods *weft_pods_new(struct weft_bpf *bpf);
void weft_pods_free(struct weft_pods *p); /* leaves captures in place: fail closed */
/* Enrols: opens and verifies the namespace (it must own addrs; n_addrs 0: they are read there), ip
 * rule/route for spoofed replies, sysctls, listeners, BPF; the capture comes last. Same uid again:
 * updated in place where the namespace is the same. Returns 1: captured anew or changed (tell the
 * broker), 0: nothing changed. On failure nothing of this pod stays captured half-way, and the pod
 * is listed as FAILED with its err; but one that is captured and only cannot have other addresses
 * stays CAPTURED with those it has, and its err. */
int weft_pods_add(struct weft_pods *p, const struct weft_pod_conf *c, struct weft_pod **ret,
		  struct weft_err *reterr);
int weft_pods_remove(struct weft_pods *p, const char *uid,
		     struct weft_err *reterr); /* releases capture; -ENOENT */
struct weft_pod *weft_pods_find(struct weft_pods *p, const char *uid);
struct weft_pod *weft_pods_first(struct weft_pods *p);
int weft_pods_listen(struct weft_pod *pod,
		     struct weft_err *reterr); /* makes the missing listeners */
int weft_pods_socket(
	const struct weft_pod *pod, int kind,
	struct weft_err *reterr); /* unconnected socket of SocketKind CONNECT_*; fd or -errno */
int weft_pods_sockets(const struct weft_pod *pod, int kind, int *fds, unsigned n,
		      struct weft_err *reterr); /* n of them, or none */
/* Takes fd: a listener that a live proxy held. It must be one, of this kind and (checked when the
 * pod is known) in the pod's namespace. Kept for a pod that is not enrolled yet until
 * weft_pods_adopt_end. -EINVAL, -EEXIST: not needed, -E2BIG. */
int weft_pods_adopt(struct weft_pods *p, const char *uid, int kind, int fd);
void weft_pods_adopt_end(struct weft_pods *p);
