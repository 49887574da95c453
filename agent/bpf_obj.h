/* The BPF objects in memory: opened, sharing one set of maps, loaded. Private to bpf_*.c. Main
 * thread. */
#pragma once
#include "bpf/abi.h"
#include "proxy/core/err.h"
#include <bpf/libbpf.h>
#include <stdbool.h>
#include <stdint.h>

/* In the order of the table in bpf_obj.c. */
enum weft_bpf_map {
	WEFT_BPF_ABI,
	WEFT_BPF_PODS,
	WEFT_BPF_NAMES,
	WEFT_BPF_LOAD,
	WEFT_BPF_TOTAL,
	WEFT_BPF_EXEMPT,
	WEFT_BPF_CLIENT,
	WEFT_BPF_ACCEPTED,
	WEFT_BPF_TUPLES,
	WEFT_BPF_SELFC,
	WEFT_BPF_LISTENERS,
	WEFT_BPF_COUNTERS,
	WEFT_BPF_MAPS
};
enum { WEFT_BPF_OBJECTS = 4, WEFT_BPF_HOOKS = 8 };

struct weft_bpf_set {
	struct weft_bpf_connect *connect;
	struct weft_bpf_origdst *origdst;
	struct weft_bpf_flows *flows;
	struct weft_bpf_inbound *inbound;
	int map[WEFT_BPF_MAPS]; /* owned; -1: not there yet */
};
/* A program attached at the cgroup. */
struct weft_bpf_hook {
	const char *prog;
	int attach_type; /* enum bpf_attach_type */
};
extern const struct weft_bpf_hook
	weft_bpf_hooks[WEFT_BPF_HOOKS]; /* in the order to attach: connect last */

const char *weft_bpf_map_name(enum weft_bpf_map m);
/* pin_dir NULL: nothing is pinned, every map is new. Reuses pinned maps of the same layout.
 * -EEXIST: pinned maps have another layout.  -EINVAL...: the kernel's refusal, with the last lines
 * of its log. */
int weft_bpf_set_load(struct weft_bpf_set *s, const char *pin_dir, uint32_t half_open_max,
		      struct weft_err *reterr);
void weft_bpf_set_done(struct weft_bpf_set *s);
struct bpf_program *weft_bpf_set_prog(const struct weft_bpf_set *s, const char *name);
/* weft_fail with what libbpf and the verifier said last. */
int weft_bpf_fail(struct weft_err *reterr, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
