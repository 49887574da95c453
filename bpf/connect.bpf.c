/* connect(), getpeername() and getsockname() of apps in enrolled network namespaces.
 *
 * A TCP connect there is sent to the proxy's listener in the same namespace; where it wanted to go
 * is kept with the socket. The app is shown the addresses it expects. Decisions: what cannot be
 * remembered is denied (fail closed); a namespace that is not enrolled is left after one map
 * lookup. */
#include "bpf/addr.bpf.h"
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 half_open_max = 8192;

enum { DENY = 0, PASS = 1, CAPTURE = 2 };
/* 127.64.0.0/10: one fixed target would run out of ports after some 28,000 connections held or in
 * TIME_WAIT */
enum { SPREAD_BASE = 0x7f400000, SPREAD_MASK = 0x003fffff };

struct tcp6_sock;
/* only what is read; the rest is found by CO-RE */
struct sock_common {
	unsigned char skc_ipv6only : 1;
} __attribute__((preserve_access_index));

/* TCP cannot be dialled there, or (link-local v6) the scope would be lost; no mesh address is one
 * of these */
static __always_inline bool unroutable(const struct weft_abi_addr *a)
{
	if (addr_is4(a))
		return (a->be[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
	return (a->be[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
	       (a->be[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool full(__s64 pod, __s64 all, __s64 max)
{
	return pod >= (__s64)half_open_max || all >= max - WEFT_ABI_SLACK;
}

static __always_inline int decide(const struct weft_abi_pod *pod, __u64 netns,
				  const struct weft_abi_addr *dst)
{
	__u64 group = bpf_get_current_cgroup_id();
	struct weft_abi_load *load, *all;
	__u32 zero = 0;

	if (addr_is_any(dst) || addr_is_loopback(dst) || unroutable(dst))
		return PASS;
	load = bpf_map_lookup_elem(&weft_load, &netns);
	all = bpf_map_lookup_elem(&weft_total, &zero);
	if (!load || !all) {
		WEFT_COUNT(load_missing);
		return DENY;
	}
	if (pod_owns(pod, dst)) {
		if (!full(load->selfc, all->selfc, WEFT_ABI_SELFC))
			return PASS;
		WEFT_COUNT(denied_full);
		return DENY;
	}
	if (bpf_map_lookup_elem(&weft_exempt, &group)) {
		WEFT_COUNT(exempt);
		return PASS;
	}
	if (!(pod->flags & (addr_is4(dst) ? WEFT_ABI_POD_HAS4 : WEFT_ABI_POD_HAS6))) {
		WEFT_COUNT(denied_family);
		return DENY;
	}
	if (full(load->tuples, all->tuples, WEFT_ABI_TUPLES)) {
		WEFT_COUNT(denied_full);
		return DENY;
	}
	return CAPTURE;
}

/* A v6-only socket cannot dial 127.0.0.0/8: it gets the one loopback address there is. */
static __always_inline bool v6only(struct bpf_sock *sk)
{
	struct tcp6_sock *t = bpf_skc_to_tcp6_sock(sk);
	const struct sock_common *c = (const void *)t;

	return t && BPF_CORE_READ_BITFIELD(c, skc_ipv6only);
}

static __always_inline void target(struct bpf_sock *sk, const struct weft_abi_pod *pod,
				   struct weft_abi_client *c)
{
	bool only6 = sk->family == WEFT_AF_INET6 && v6only(sk);
	bool is4 = addr_is4(&c->dest.addr);

	c->self = is4 ? pod->self4 : pod->self6;
	c->target.port = WEFT_ABI_PORT_OUTBOUND;
	if (sk->bound_dev_if >
	    1) { /* not lo (always 1): the route to 127.0.0.0/8 would not be found */
		c->target.addr = c->self;
	} else if (only6) {
		c->target.addr.be[3] = bpf_htonl(1);
	} else {
		addr_from4(&c->target.addr,
			   bpf_htonl(SPREAD_BASE | (bpf_get_prandom_u32() & SPREAD_MASK)));
	}
}

/* On CAPTURE *ret is what the socket must dial. */
static __always_inline int connect(struct bpf_sock_addr *ctx, const struct weft_abi_addr *dst,
				   struct weft_abi_dest *ret)
{
	struct weft_abi_client c = {}, *kept;
	struct bpf_sock *sk = ctx->sk;
	struct weft_abi_pod *pod;
	__u64 netns;
	int verdict;

	netns = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(&weft_pods, &netns);
	if (!pod)
		return PASS;
	if (!sk) {
		WEFT_COUNT(denied_storage);
		return DENY;
	}
	verdict = decide(pod, netns, dst);
	if (verdict != CAPTURE) {
		/* a socket that was captured before, disconnected by AF_UNSPEC and used again */
		bpf_sk_storage_delete(&weft_client, sk);
		if (verdict == PASS)
			WEFT_COUNT(passed);
		return verdict;
	}
	c.dest.addr = *dst;
	c.dest.port = bpf_ntohs((__u16)ctx->user_port);
	target(sk, pod, &c);
	kept = bpf_sk_storage_get(&weft_client, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept) {
		WEFT_COUNT(denied_storage);
		return DENY;
	}
	*kept = c;
	*ret = c.target;
	WEFT_COUNT(captured);
	return CAPTURE;
}

static __always_inline bool tcp(const struct bpf_sock_addr *ctx)
{
	return ctx->type == WEFT_STREAM && ctx->protocol == WEFT_TCP;
}

SEC("cgroup/connect4")
int weft_connect4(struct bpf_sock_addr *ctx)
{
	struct weft_abi_dest to = {};
	struct weft_abi_addr dst;
	int verdict;

	if (!tcp(ctx))
		return PASS;
	addr_from4(&dst, ctx->user_ip4);
	verdict = connect(ctx, &dst, &to);
	if (verdict != CAPTURE)
		return verdict;
	ctx->user_ip4 = to.addr.be[3];
	ctx->user_port = bpf_htons(to.port);
	return PASS;
}

SEC("cgroup/connect6")
int weft_connect6(struct bpf_sock_addr *ctx)
{
	struct weft_abi_dest to = {};
	struct weft_abi_addr dst;
	int verdict;

	if (!tcp(ctx))
		return PASS;
	dst.be[0] = ctx->user_ip6[0];
	dst.be[1] = ctx->user_ip6[1];
	dst.be[2] = ctx->user_ip6[2];
	dst.be[3] = ctx->user_ip6[3];
	verdict = connect(ctx, &dst, &to);
	if (verdict != CAPTURE)
		return verdict;
	ctx->user_ip6[0] = to.addr.be[0];
	ctx->user_ip6[1] = to.addr.be[1];
	ctx->user_ip6[2] = to.addr.be[2];
	ctx->user_ip6[3] = to.addr.be[3];
	ctx->user_port = bpf_htons(to.port);
	return PASS;
}

static __always_inline const struct weft_abi_client *captured(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&weft_client, sk, NULL, 0) : NULL;
}

SEC("cgroup/getpeername4")
int weft_getpeer4(struct bpf_sock_addr *ctx)
{
	const struct weft_abi_client *c = captured(ctx);

	if (!c || ctx->user_ip4 != c->target.addr.be[3] ||
	    ctx->user_port != bpf_htons(c->target.port))
		return PASS;
	ctx->user_ip4 = c->dest.addr.be[3];
	ctx->user_port = bpf_htons(c->dest.port);
	return PASS;
}

SEC("cgroup/getpeername6")
int weft_getpeer6(struct bpf_sock_addr *ctx)
{
	const struct weft_abi_client *c = captured(ctx);

	if (!c || ctx->user_ip6[0] != c->target.addr.be[0] ||
	    ctx->user_ip6[1] != c->target.addr.be[1] || ctx->user_ip6[2] != c->target.addr.be[2] ||
	    ctx->user_ip6[3] != c->target.addr.be[3] || ctx->user_port != bpf_htons(c->target.port))
		return PASS;
	ctx->user_ip6[0] = c->dest.addr.be[0];
	ctx->user_ip6[1] = c->dest.addr.be[1];
	ctx->user_ip6[2] = c->dest.addr.be[2];
	ctx->user_ip6[3] = c->dest.addr.be[3];
	ctx->user_port = bpf_htons(c->dest.port);
	return PASS;
}

/* Connected to our target now? A stale entry (the pod left the mesh between two uses of a socket)
 * must not show. */
static __always_inline bool current(struct bpf_sock_addr *ctx, const struct weft_abi_client *c)
{
	struct bpf_sock *sk = ctx->sk;
	struct weft_abi_addr dst;

	if (!sk || sk->dst_port != bpf_htons(c->target.port))
		return false;
	if (addr_is4(&c->target.addr))
		return loaded(sk->dst_ip4) == c->target.addr.be[3];
	dst.be[0] = loaded(sk->dst_ip6[0]);
	dst.be[1] = loaded(sk->dst_ip6[1]);
	dst.be[2] = loaded(sk->dst_ip6[2]);
	dst.be[3] = loaded(sk->dst_ip6[3]);
	return addr_eq(&dst, &c->target.addr);
}

SEC("cgroup/getsockname4")
int weft_getsock4(struct bpf_sock_addr *ctx)
{
	const struct weft_abi_client *c = captured(ctx);
	struct weft_abi_addr a;

	addr_from4(&a, ctx->user_ip4);
	if (c && addr_is_loopback(&a) && current(ctx, c))
		ctx->user_ip4 = c->self.be[3];
	return PASS;
}

SEC("cgroup/getsockname6")
int weft_getsock6(struct bpf_sock_addr *ctx)
{
	const struct weft_abi_client *c = captured(ctx);
	struct weft_abi_addr a;

	a.be[0] = ctx->user_ip6[0];
	a.be[1] = ctx->user_ip6[1];
	a.be[2] = ctx->user_ip6[2];
	a.be[3] = ctx->user_ip6[3];
	if (!c || !addr_is_loopback(&a) || !current(ctx, c))
		return PASS;
	ctx->user_ip6[0] = c->self.be[0];
	ctx->user_ip6[1] = c->self.be[1];
	ctx->user_ip6[2] = c->self.be[2];
	ctx->user_ip6[3] = c->self.be[3];
	return PASS;
}
