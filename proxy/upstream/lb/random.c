/* Any host, weights aside. */
#include "proxy/core/arena.h"
#include "proxy/upstream/lb_util.h"
#include "xds/proto/envoy/extensions/load_balancing_policies/random/v3/random.pb-c.h"
#include "xds/wire.h"

typedef Envoy__Extensions__LoadBalancingPolicies__Random__V3__Random Message;

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret_conf)
{
	const struct weft_path locality = {at, "locality_lb_config", -1};
	struct weft_lb_common *k = weft_arena_alloc(c->arena, sizeof(*k));

	*ret_conf = k;
	return weft_lb_locality(c, &locality, ((const Message *)m)->locality_lb_config,
				&k->locality);
}

static const ProtobufCMessage *of_cluster(struct weft_arena *a,
					  const Envoy__Config__Cluster__V3__Cluster *m)
{
	Message *r;

	if (m->lb_policy != ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_POLICY__RANDOM)
		return NULL;
	r = weft_arena_alloc(a, sizeof(*r));
	weft_message_init(weft_lb_random.ext.config, r);
	r->locality_lb_config = weft_lb_locality_of(a, m);
	return &r->base;
}

static int build(struct weft_arena *a, const struct weft_lb_list *l, const void *conf,
		 const void **ret_table, struct weft_err *reterr)
{
	*ret_table = NULL;
	return 0;
}

static size_t pick(const void *table, const struct weft_lb_list *l, const void *conf,
		   struct weft_lb_ctx *ctx)
{
	return ctx->random % l->n;
}

const struct weft_lb_policy weft_lb_random = {
	.ext = {.name = "envoy.load_balancing_policies.random",
		.config =
			&envoy__extensions__load_balancing_policies__random__v3__random__descriptor,
		.prepare = prepare},
	.of_cluster = of_cluster,
	.build = build,
	.pick = pick,
};
