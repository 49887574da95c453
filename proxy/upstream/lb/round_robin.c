/* Each host in its turn, as often as its weight says. */
#include "proxy/core/arena.h"
#include "proxy/upstream/lb_util.h"
#include "xds/proto/envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.pb-c.h"
#include "xds/wire.h"

typedef Envoy__Extensions__LoadBalancingPolicies__RoundRobin__V3__RoundRobin Message;

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret_conf)
{
	const Message *rr = (const Message *)m;
	const struct weft_path slow = {at, "slow_start_config", -1},
			       locality = {at, "locality_lb_config", -1};
	struct weft_lb_common *k = weft_arena_alloc(c->arena, sizeof(*k));
	int err = weft_lb_slow_start(c, &slow, rr->slow_start_config, &k->slow);

	if (!err)
		err = weft_lb_locality(c, &locality, rr->locality_lb_config, &k->locality);
	*ret_conf = k;
	return err;
}

static const ProtobufCMessage *of_cluster(struct weft_arena *a,
					  const Envoy__Config__Cluster__V3__Cluster *m)
{
	Message *rr;

	if (m->lb_policy != ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_POLICY__ROUND_ROBIN)
		return NULL;
	rr = weft_arena_alloc(a, sizeof(*rr));
	weft_message_init(weft_lb_round_robin.ext.config, rr);
	if (m->lb_config_case ==
	    ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_CONFIG_ROUND_ROBIN_LB_CONFIG)
		rr->slow_start_config =
			weft_lb_slow_start_of(a, m->round_robin_lb_config->slow_start_config);
	rr->locality_lb_config = weft_lb_locality_of(a, m);
	return &rr->base;
}

static int build(struct weft_arena *a, const struct weft_lb_list *l, const void *conf,
		 const void **ret_table, struct weft_err *reterr)
{
	struct weft_spread *s;

	*ret_table = NULL;
	if (l->same_weights)
		return 0;
	s = weft_arena_alloc(a, sizeof(*s));
	*s = weft_spread_new(a, l->weights, l->n);
	*ret_table = s;
	return 0;
}

struct slow {
	const struct weft_lb_list *l;
	const struct weft_slow_start *s;
	uint64_t now_ns;
};

static double slow_weight(const void *ctx, size_t i)
{
	const struct slow *s = ctx;

	return s->l->weights[i] * weft_lb_slow_factor(s->s, s->l->v[i]->host, s->now_ns);
}

static size_t pick(const void *table, const struct weft_lb_list *l, const void *conf,
		   struct weft_lb_ctx *ctx)
{
	const struct weft_lb_common *k = conf;
	uint64_t seq = (*ctx->seq)++;

	if (weft_lb_is_slow(&k->slow, l, ctx->now_ns)) {
		const struct slow s = {l, &k->slow, ctx->now_ns};

		/* multiples of the golden ratio: evenly spread, as the tables are */
		return weft_lb_by_weight(slow_weight, &s, l->n, seq * 0x9e3779b97f4a7c15u);
	}
	return table ? weft_spread_at(table, seq) : seq % l->n;
}

const struct weft_lb_policy weft_lb_round_robin = {
	.ext = {.name = "envoy.load_balancing_policies.round_robin",
		.config =
			&envoy__extensions__load_balancing_policies__round_robin__v3__round_robin__descriptor,
		.prepare = prepare},
	.of_cluster = of_cluster,
	.build = build,
	.pick = pick,
};
