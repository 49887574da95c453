/* What the BPF programs and their loader share. Layouts are asserted here and compared with the
 * objects' BTF by test/unit/bpf/abi_test.c. `_be` is network order; everything else is host order.
 * An address is always 16 bytes; IPv4 is written v4-mapped, so that one key form serves both
 * families. */
#pragma once
#include <linux/types.h>

enum {
	WEFT_ABI_VERSION =
		1, /* raise it with any change of a struct's meaning: an old pin is then refused */
	WEFT_ABI_ADDRS = 4,
	WEFT_ABI_UID = 320,
	WEFT_ABI_TUPLES = 262144, /* room for 32 pods at the default limit of 8192 */
	WEFT_ABI_SELFC = 65536,
	WEFT_ABI_SLACK = 1024, /* connects that may pass the check of a full map at the same time */
	WEFT_ABI_PODS = 4096,
	WEFT_ABI_EXEMPT = 64,
	WEFT_ABI_LISTENERS = WEFT_ABI_PODS * WEFT_ABI_ADDRS * 2,
	WEFT_ABI_PORT_OUTBOUND = 15001,
	WEFT_ABI_PORT_PLAIN = 15006,
	WEFT_ABI_PORT_HBONE = 15008,
};

struct weft_abi_addr {
	__be32 be[4];
};
_Static_assert(sizeof(struct weft_abi_addr) == 16, "abi");

enum { WEFT_ABI_POD_HAS4 = 1, WEFT_ABI_POD_HAS6 = 2 };
struct weft_abi_pod {
	struct weft_abi_addr addr[WEFT_ABI_ADDRS]; /* n of them */
	struct weft_abi_addr self4, self6;	   /* shown by getsockname; there if flags say so */
	__u32 n;
	__u32 flags;
};
_Static_assert(sizeof(struct weft_abi_pod) == 104, "abi");

/* Flows that have begun and were not yet accepted, of one pod. */
struct weft_abi_load {
	__s64 tuples;
	__s64 selfc;
};
_Static_assert(sizeof(struct weft_abi_load) == 16, "abi");

/* A flow as its connecting side sees it. */
struct weft_abi_flow {
	struct weft_abi_addr src, dst;
	__u16 src_port, dst_port;
	__u32 pad;
};
_Static_assert(sizeof(struct weft_abi_flow) == 40, "abi");

struct weft_abi_tuple {
	__u64 netns;
	struct weft_abi_flow flow;
};
_Static_assert(sizeof(struct weft_abi_tuple) == 48, "abi");

struct weft_abi_dest {
	struct weft_abi_addr addr;
	__u16 port;
	__u16 pad[3];
};
_Static_assert(sizeof(struct weft_abi_dest) == 24, "abi");

/* Value of a tuple: where the app wanted to go, and which socket wrote the entry. */
struct weft_abi_pending {
	__u64 client; /* socket cookie */
	struct weft_abi_dest dest;
};
_Static_assert(sizeof(struct weft_abi_pending) == 32, "abi");

struct weft_abi_self {
	__u64 client; /* socket cookie */
	__u64 netns;
};
_Static_assert(sizeof(struct weft_abi_self) == 16, "abi");

/* Kept with a captured socket of an app. */
struct weft_abi_client {
	struct weft_abi_dest dest; /* dialled */
	struct weft_abi_dest
		target; /* dialled instead; what else the socket is connected to is not ours */
	struct weft_abi_addr self; /* the pod's address, for getsockname */
};
_Static_assert(sizeof(struct weft_abi_client) == 64, "abi");

enum { WEFT_ABI_PLAIN = 1, WEFT_ABI_HBONE = 2 };
struct weft_abi_listener {
	struct weft_abi_addr addr;
	__u32 kind;
};
_Static_assert(sizeof(struct weft_abi_listener) == 20, "abi");

struct weft_abi_counters {
	__u64 captured;	      /* connects sent to the proxy */
	__u64 passed;	      /* connects in an enrolled namespace that are not captured, by rule */
	__u64 exempt;	      /* of those, by the caller's cgroup */
	__u64 denied_full;    /* a pod's limit, or a full map */
	__u64 denied_storage; /* no memory for the destination */
	__u64 denied_family;  /* the pod has no address of that family */
	__u64 tuple_lost; /* tuple not stored: the proxy gets a connection without a destination */
	__u64 selfc_lost; /* self flow not stored */
	__u64 accepted;	  /* destinations handed to an accepted socket */
	__u64 orphans;	  /* accepted on 15001 without a destination */
	__u64 reclaimed;  /* tuples of connects that were never accepted */
	__u64 selfc;	  /* flows of a pod to itself let through */
	__u64 inbound_steered; /* arriving flows given to a listener */
	__u64 inbound_closed;  /* refused: 15001 or 15006 from outside */
	__u64 inbound_lost;    /* refused: no listener */
	__u64 load_missing;    /* a pod's load entry was not there */
};
_Static_assert(sizeof(struct weft_abi_counters) == 128, "abi");
