/* The host with the fewest open requests of a few chosen at random, or of all; with different
 * weights: at random by weight over open requests. */
#include "proxy/core/arena.h"
#include "proxy/upstream/lb_util.h"
#include "xds/proto/envoy/extensions/load_balancing_policies/least_request/v3/least_request.pb-c.h"
#include "xds/wire.h"

#include <math.h>

typedef Envoy__Extensions__LoadBalancingPolicies__LeastRequest__V3__LeastRequest Message;
struct conf {
	struct weft_lb_common common;
	uint32_t choices;
	double bias;
	bool full_scan;
};

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret_conf)
{
	const Message *lr = (const Message *)m;
	const struct weft_path slow = {at, "slow_start_config", -1},
			       locality = {at, "locality_lb_config", -1},
			       bias = {at, "active_request_bias", -1};
	struct conf *k = weft_arena_alloc(c->arena, sizeof(*k));
	int err = weft_lb_slow_start(c, &slow, lr->slow_start_config, &k->common.slow);

	if (!err)
		err = weft_lb_locality(c, &locality, lr->locality_lb_config, &k->common.locality);
	k->choices = weft_cfg_u32(lr->choice_count, 2);
	k->bias = lr->active_request_bias ? lr->active_request_bias->default_value : 1;
	k->full_scan =
		lr->selection_method ==
			ENVOY__EXTENSIONS__LOAD_BALANCING_POLICIES__LEAST_REQUEST__V3__LEAST_REQUEST__SELECTION_METHOD__FULL_SCAN ||
		weft_cfg_bool(lr->enable_full_scan, false);
	if (!(k->bias >= 0))
		err = weft_cfg_fail(c, &bias, "must not be below 0, is %g", k->bias);
	*ret_conf = k;
	return err;
}

static const ProtobufCMessage *of_cluster(struct weft_arena *a,
					  const Envoy__Config__Cluster__V3__Cluster *m)
{
	const Envoy__Config__Cluster__V3__Cluster__LeastRequestLbConfig *old;
	Message *lr;

	if (m->lb_policy != ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_POLICY__LEAST_REQUEST)
		return NULL;
	lr = weft_arena_alloc(a, sizeof(*lr));
	weft_message_init(weft_lb_least_request.ext.config, lr);
	if (m->lb_config_case ==
	    ENVOY__CONFIG__CLUSTER__V3__CLUSTER__LB_CONFIG_LEAST_REQUEST_LB_CONFIG) {
		old = m->least_request_lb_config;
		lr->choice_count = old->choice_count;
		lr->active_request_bias = old->active_request_bias;
		lr->slow_start_config = weft_lb_slow_start_of(a, old->slow_start_config);
	}
	lr->locality_lb_config = weft_lb_locality_of(a, m);
	return &lr->base;
}

static int build(struct weft_arena *a, const struct weft_lb_list *l, const void *conf,
		 const void **ret_table, struct weft_err *reterr)
{
	*ret_table = NULL;
	return 0;
}

static uint32_t active(const struct weft_lb_list *l, size_t i)
{
	return atomic_load_explicit(&l->v[i]->host->rq_active, memory_order_relaxed);
}

struct now {
	const struct weft_lb_list *l;
	const struct conf *k;
	uint64_t now_ns;
};

static double weight_now(const void *ctx, size_t i)
{
	const struct now *n = ctx;
	double load = active(n->l, i) + 1.0, w = n->l->weights[i];

	if (n->k->bias == 1)
		w /= load;
	else if (n->k->bias > 0)
		w /= pow(load, n->k->bias);
	return w * weft_lb_slow_factor(&n->k->common.slow, n->l->v[i]->host, n->now_ns);
}

/* All of the fewest are equally likely. */
static size_t scan(const struct weft_lb_list *l, uint64_t random)
{
	size_t best = 0;
	uint32_t least = active(l, 0), same = 1;

	for (size_t i = 1; i < l->n; i++) {
		uint32_t now = active(l, i);

		if (now > least)
			continue;
		same = now < least ? 1 : same + 1;
		least = now;
		random = weft_lb_mix(random);
		if (random % same == 0)
			best = i;
	}
	return best;
}

static size_t pick(const void *table, const struct weft_lb_list *l, const void *conf,
		   struct weft_lb_ctx *ctx)
{
	const struct conf *k = conf;
	uint64_t random = ctx->random;
	size_t best;

	if (!l->same_weights || weft_lb_is_slow(&k->common.slow, l, ctx->now_ns)) {
		const struct now n = {l, k, ctx->now_ns};

		return weft_lb_by_weight(weight_now, &n, l->n, random);
	}
	if (k->full_scan)
		return scan(l, random);
	best = random % l->n;
	for (uint32_t i = 1; i < k->choices && l->n > 1; i++) {
		size_t other;

		random = weft_lb_mix(random);
		other = random % l->n;
		if (active(l, other) < active(l, best))
			best = other;
	}
	return best;
}

const struct weft_lb_policy weft_lb_least_request = {
	.ext = {.name = "envoy.load_balancing_policies.least_request",
		.config =
			&envoy__extensions__load_balancing_policies__least_request__v3__least_request__descriptor,
		.prepare = prepare},
	.of_cluster = of_cluster,
	.build = build,
	.pick = pick,
};
