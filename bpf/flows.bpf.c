/* TCP events in enrolled namespaces: carries an original destination from the connecting socket to
 * the accepted one, and notes flows of a pod to itself until they are accepted. Touches no bytes.
 *
 * Both notes live from the SYN to the accepting side's ESTABLISHED, not shorter: with SYN cookies
 * the accepting side is looked up a second time at the final ACK. A flow that is never accepted is
 * reclaimed when its client closes. */
#include "bpf/addr.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void ends(struct bpf_sock_ops *ctx, struct weft_abi_addr *local,
				 struct weft_abi_addr *remote)
{
	bool six = ctx->family == WEFT_AF_INET6;

	if (six) {
		remote->be[0] = loaded(ctx->remote_ip6[0]);
		remote->be[1] = loaded(ctx->remote_ip6[1]);
		remote->be[2] = loaded(ctx->remote_ip6[2]);
		remote->be[3] = loaded(ctx->remote_ip6[3]);
	}
	/* a v6 socket bound to a v6 address may still speak v4: then its v4 side is what the wire
	 * has */
	if (!six || addr_is4(remote)) {
		addr_from4(local, loaded(ctx->local_ip4));
		addr_from4(remote, loaded(ctx->remote_ip4));
		return;
	}
	local->be[0] = loaded(ctx->local_ip6[0]);
	local->be[1] = loaded(ctx->local_ip6[1]);
	local->be[2] = loaded(ctx->local_ip6[2]);
	local->be[3] = loaded(ctx->local_ip6[3]);
}

static __always_inline void add(__s64 *counter, __s64 n)
{
	__sync_fetch_and_add(counter, n);
}

static __always_inline void count(__u64 netns, bool self, __s64 n)
{
	struct weft_abi_load *load = bpf_map_lookup_elem(&weft_load, &netns), *all;
	__u32 zero = 0;

	all = bpf_map_lookup_elem(&weft_total, &zero);
	if (all)
		add(self ? &all->selfc : &all->tuples, n);
	/* missing: the pod has left the mesh; an entry made anew starts at 0 and must not go below
	 */
	if (!load) {
		WEFT_COUNT(load_missing);
	} else if (n > 0 || (self ? load->selfc : load->tuples) > 0) {
		add(self ? &load->selfc : &load->tuples, n);
	}
}

static __always_inline void note_tuple(struct bpf_sock_ops *ctx, struct weft_abi_tuple *t)
{
	struct bpf_sock *sk = ctx->sk;
	struct weft_abi_client *c = sk ? bpf_sk_storage_get(&weft_client, sk, NULL, 0) : NULL;
	struct weft_abi_pending p = {};
	long err;

	if (!c || !addr_eq(&c->target.addr, &t->flow.dst) || c->target.port != t->flow.dst_port)
		return;
	p.client = bpf_get_socket_cookie(ctx);
	p.dest = c->dest;
	err = bpf_map_update_elem(&weft_tuples, t, &p, BPF_NOEXIST);
	if (!err) {
		count(t->netns, false, 1);
		return;
	}
	/* the same tuple of a socket whose close has not been seen yet: taken over, counted already
	 */
	if (bpf_map_update_elem(&weft_tuples, t, &p, BPF_EXIST))
		WEFT_COUNT(tuple_lost);
}

static __always_inline void note_self(struct bpf_sock_ops *ctx, struct weft_abi_tuple *t)
{
	struct weft_abi_self s = {.client = bpf_get_socket_cookie(ctx), .netns = t->netns};

	if (!bpf_map_update_elem(&weft_selfc, &t->flow, &s, BPF_NOEXIST))
		count(t->netns, true, 1);
	else if (bpf_map_update_elem(&weft_selfc, &t->flow, &s, BPF_EXIST))
		WEFT_COUNT(selfc_lost);
}

static __always_inline void started(struct bpf_sock_ops *ctx, const struct weft_abi_pod *pod,
				    struct weft_abi_tuple *t)
{
	ends(ctx, &t->flow.src, &t->flow.dst);
	t->flow.src_port = ctx->local_port;
	t->flow.dst_port = bpf_ntohl(ctx->remote_port);
	if (pod_owns(pod, &t->flow.dst))
		note_self(ctx, t);
	else if (!addr_is_loopback(&t->flow.dst))
		return;
	note_tuple(ctx, t);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void accepted(struct bpf_sock_ops *ctx, const struct weft_abi_pod *pod,
				     struct weft_abi_tuple *t)
{
	struct bpf_sock *sk = ctx->sk;
	struct weft_abi_pending *p;
	struct weft_abi_dest d;

	ends(ctx, &t->flow.dst, &t->flow.src);
	t->flow.dst_port = ctx->local_port;
	t->flow.src_port = bpf_ntohl(ctx->remote_port);
	if (pod_owns(pod, &t->flow.dst) && !bpf_map_delete_elem(&weft_selfc, &t->flow))
		count(t->netns, true, -1);
	if (t->flow.dst_port != WEFT_ABI_PORT_OUTBOUND)
		return;
	p = bpf_map_lookup_elem(&weft_tuples, t);
	if (!p || !sk) {
		WEFT_COUNT(orphans);
		return;
	}
	d = p->dest;
	if (bpf_sk_storage_get(&weft_accepted, sk, &d, BPF_SK_STORAGE_GET_F_CREATE))
		WEFT_COUNT(accepted);
	else
		WEFT_COUNT(orphans);
	if (!bpf_map_delete_elem(&weft_tuples, t))
		count(t->netns, false, -1);
}

static __always_inline void closed(struct bpf_sock_ops *ctx, struct weft_abi_tuple *t)
{
	__u64 me = bpf_get_socket_cookie(ctx);
	struct weft_abi_pending *p;
	struct weft_abi_self *s;

	ends(ctx, &t->flow.src, &t->flow.dst);
	t->flow.src_port = ctx->local_port;
	t->flow.dst_port = bpf_ntohl(ctx->remote_port);
	p = bpf_map_lookup_elem(&weft_tuples, t);
	if (p && p->client == me && !bpf_map_delete_elem(&weft_tuples, t)) {
		count(t->netns, false, -1);
		WEFT_COUNT(reclaimed);
	}
	s = bpf_map_lookup_elem(&weft_selfc, &t->flow);
	if (s && s->client == me && s->netns == t->netns &&
	    !bpf_map_delete_elem(&weft_selfc, &t->flow))
		count(t->netns, true, -1);
}

SEC("sockops")
int weft_flows(struct bpf_sock_ops *ctx)
{
	struct weft_abi_tuple t = {};
	struct weft_abi_pod *pod;
	__u32 op = ctx->op;

	if (op == BPF_SOCK_OPS_STATE_CB) { /* only sockets that asked for it, below */
		if (ctx->args[1] != BPF_TCP_CLOSE)
			return 1;
	} else if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		return 1;
	}
	t.netns = bpf_get_netns_cookie(ctx);
	if (op == BPF_SOCK_OPS_STATE_CB) {
		closed(ctx, &t);
		return 1;
	}
	pod = bpf_map_lookup_elem(&weft_pods, &t.netns);
	if (!pod)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		started(ctx, pod, &t);
	else
		accepted(ctx, pod, &t);
	return 1;
}
