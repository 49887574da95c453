/* Small pure helpers on addresses, and the counters. */
#pragma once
#include "bpf/maps.bpf.h"
#include <bpf/bpf_endian.h>
#include <stdbool.h>

enum { WEFT_AF_INET = 2, WEFT_AF_INET6 = 10, WEFT_TCP = 6, WEFT_STREAM = 1 };

static __always_inline struct weft_abi_counters *counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&weft_counters, &zero);
}

#define WEFT_COUNT(field)                                                                          \
	({                                                                                         \
		struct weft_abi_counters *c_ = counters();                                         \
		if (c_)                                                                            \
			c_->field++;                                                               \
	})

/* Ends what the compiler may merge: a load through a computed context pointer is refused by the
 * verifier. */
static __always_inline __u32 loaded(__u32 v)
{
	asm volatile("" : "+r"(v));
	return v;
}

static __always_inline void addr_from4(struct weft_abi_addr *a, __be32 ip4_be)
{
	a->be[0] = 0;
	a->be[1] = 0;
	a->be[2] = bpf_htonl(0xffff);
	a->be[3] = ip4_be;
}

static __always_inline bool addr_is4(const struct weft_abi_addr *a)
{
	return !a->be[0] && !a->be[1] && a->be[2] == bpf_htonl(0xffff);
}

static __always_inline bool addr_eq(const struct weft_abi_addr *a, const struct weft_abi_addr *b)
{
	return a->be[0] == b->be[0] && a->be[1] == b->be[1] && a->be[2] == b->be[2] &&
	       a->be[3] == b->be[3];
}

static __always_inline bool addr_is_any(const struct weft_abi_addr *a)
{
	return !a->be[0] && !a->be[1] && !a->be[3] && (!a->be[2] || addr_is4(a));
}

static __always_inline bool addr_is_loopback(const struct weft_abi_addr *a)
{
	if (addr_is4(a))
		return (a->be[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->be[0] && !a->be[1] && !a->be[2] && a->be[3] == bpf_htonl(1);
}

static __always_inline bool pod_owns(const struct weft_abi_pod *pod, const struct weft_abi_addr *a)
{
#pragma unroll
	for (int i = 0; i < WEFT_ABI_ADDRS; i++)
		if ((__u32)i < pod->n && addr_eq(&pod->addr[i], a))
			return true;
	return false;
}
