/* getsockopt(SO_ORIGINAL_DST) on a socket accepted on 15001: v4 at level SOL_IP, v6 at level
 * SOL_IPV6, as netfilter answers for redirected connections. Anything else, also a socket that is
 * not ours, keeps the kernel's own answer. */
#include "bpf/addr.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { SOL_IP_ = 0, SOL_IPV6_ = 41, ORIGINAL_DST = 80 };

struct sockaddr4 {
	__u16 family;
	__be16 port_be;
	__be32 addr_be;
	__u8 zero[8];
};
struct sockaddr6 {
	__u16 family;
	__be16 port_be;
	__be32 flow_be;
	__be32 addr_be[4];
	__u32 scope;
};

SEC("cgroup/getsockopt")
int weft_origdst(struct bpf_sockopt *ctx)
{
	struct sockaddr4 *a4 = ctx->optval;
	struct sockaddr6 *a6 = ctx->optval;
	void *end = ctx->optval_end;
	struct weft_abi_dest *d;
	struct bpf_sock *sk;
	bool want4;

	if (ctx->optname != ORIGINAL_DST || (ctx->level != SOL_IP_ && ctx->level != SOL_IPV6_))
		return 1;
	want4 = ctx->level == SOL_IP_;
	sk = ctx->sk;
	d = sk ? bpf_sk_storage_get(&weft_accepted, sk, NULL, 0) : NULL;
	if (!d || addr_is4(&d->addr) != want4)
		return 1;
	if (want4) {
		if ((void *)(a4 + 1) > end)
			return 1;
		*a4 = (struct sockaddr4){.family = WEFT_AF_INET,
					 .port_be = bpf_htons(d->port),
					 .addr_be = d->addr.be[3]};
		ctx->optlen = sizeof(*a4);
	} else {
		if ((void *)(a6 + 1) > end)
			return 1;
		a6->family = WEFT_AF_INET6;
		a6->port_be = bpf_htons(d->port);
		a6->flow_be = 0;
		a6->addr_be[0] = d->addr.be[0];
		a6->addr_be[1] = d->addr.be[1];
		a6->addr_be[2] = d->addr.be[2];
		a6->addr_be[3] = d->addr.be[3];
		a6->scope = 0;
		ctx->optlen = sizeof(*a6);
	}
	ctx->retval = 0;
	return 1;
}
