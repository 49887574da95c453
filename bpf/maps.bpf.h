/* Every map. All are pinned by name and shared by the objects. */
#pragma once
#include "bpf/abi.h"
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

/* [0] → WEFT_ABI_VERSION. The loader writes it once and refuses a pin that says otherwise. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} weft_abi SEC(".maps");

/* netns cookie → an enrolled pod. The loader writes; connect, flows read. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WEFT_ABI_PODS);
	__type(key, __u64);
	__type(value, struct weft_abi_pod);
} weft_pods SEC(".maps");

/* netns cookie → the pod's uid, for a later agent. Only the loader writes and reads. */
struct weft_abi_name {
	char uid[WEFT_ABI_UID];
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WEFT_ABI_PODS);
	__type(key, __u64);
	__type(value, struct weft_abi_name);
} weft_names SEC(".maps");

/* netns cookie → half-open flows of the pod. The loader makes and removes entries; flows counts,
 * connect reads. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WEFT_ABI_PODS);
	__type(key, __u64);
	__type(value, struct weft_abi_load);
} weft_load SEC(".maps");

/* [0] → half-open flows of all pods: entries in weft_tuples and weft_selfc. flows counts, connect
 * reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weft_abi_load);
} weft_total SEC(".maps");

/* cgroup id → 1: connects made from it are not captured. The loader writes, connect reads. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEFT_ABI_EXEMPT);
	__type(key, __u64);
	__type(value, __u32);
} weft_exempt SEC(".maps");

/* A captured socket of an app → where it wanted to go. connect writes; flows, getpeername,
 * getsockname read. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct weft_abi_client);
} weft_client SEC(".maps");

/* A socket accepted on 15001 → where its peer wanted to go. flows writes, origdst reads. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct weft_abi_dest);
} weft_accepted SEC(".maps");

/* A captured flow between SYN and accept → where it wanted to go. Only flows; bounded by weft_load
 * and weft_total. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WEFT_ABI_TUPLES);
	__type(key, struct weft_abi_tuple);
	__type(value, struct weft_abi_pending);
} weft_tuples SEC(".maps");

/* A flow from inside a pod to one of its own addresses, between SYN and accept. flows writes,
 * inbound reads. Allocated ahead: a flow that could not be noted would be steered to the proxy that
 * made it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEFT_ABI_SELFC);
	__type(key, struct weft_abi_flow);
	__type(value, struct weft_abi_self);
} weft_selfc SEC(".maps");

/* {pod address, kind} → the proxy's listening socket there. The loader writes, inbound reads; a
 * closed socket leaves by itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, WEFT_ABI_LISTENERS);
	__type(key, struct weft_abi_listener);
	__type(value, __u64);
} weft_listeners SEC(".maps");

/* [0] → counters, one set a CPU. Every program writes, the loader sums. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weft_abi_counters);
} weft_counters SEC(".maps");
