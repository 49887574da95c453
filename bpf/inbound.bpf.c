/* Where an arriving TCP flow of an enrolled namespace goes. Established flows never come here.
 *
 * Decision: closed. What has no listener is refused, so that no byte passes the proxy by while it
 * is away. */
#include "bpf/addr.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void flow_of(const struct bpf_sk_lookup *ctx, struct weft_abi_flow *f)
{
	if (ctx->family == WEFT_AF_INET) {
		addr_from4(&f->src, loaded(ctx->remote_ip4));
		addr_from4(&f->dst, loaded(ctx->local_ip4));
	} else {
		f->src.be[0] = loaded(ctx->remote_ip6[0]);
		f->src.be[1] = loaded(ctx->remote_ip6[1]);
		f->src.be[2] = loaded(ctx->remote_ip6[2]);
		f->src.be[3] = loaded(ctx->remote_ip6[3]);
		f->dst.be[0] = loaded(ctx->local_ip6[0]);
		f->dst.be[1] = loaded(ctx->local_ip6[1]);
		f->dst.be[2] = loaded(ctx->local_ip6[2]);
		f->dst.be[3] = loaded(ctx->local_ip6[3]);
	}
	f->src_port = bpf_ntohs(ctx->remote_port);
	f->dst_port = ctx->local_port;
}

SEC("sk_lookup")
int weft_inbound(struct bpf_sk_lookup *ctx)
{
	struct weft_abi_listener key = {};
	struct weft_abi_flow flow = {};
	struct bpf_sock *sk;
	long err;

	if (ctx->protocol != WEFT_TCP)
		return SK_PASS;
	flow_of(ctx, &flow);
	if (addr_is_loopback(&flow.dst))
		return SK_PASS;
	if (bpf_map_lookup_elem(&weft_selfc, &flow)) {
		WEFT_COUNT(selfc);
		return SK_PASS;
	}
	if (flow.dst_port == WEFT_ABI_PORT_OUTBOUND || flow.dst_port == WEFT_ABI_PORT_PLAIN) {
		WEFT_COUNT(inbound_closed);
		return SK_DROP;
	}
	key.addr = flow.dst;
	key.kind = flow.dst_port == WEFT_ABI_PORT_HBONE ? WEFT_ABI_HBONE : WEFT_ABI_PLAIN;
	sk = bpf_map_lookup_elem(&weft_listeners, &key);
	if (!sk) {
		WEFT_COUNT(inbound_lost);
		return SK_DROP;
	}
	err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(sk);
	if (err) {
		WEFT_COUNT(inbound_lost);
		return SK_DROP;
	}
	WEFT_COUNT(inbound_steered);
	return SK_PASS;
}
