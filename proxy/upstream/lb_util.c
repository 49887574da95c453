#include "proxy/upstream/lb_util.h"

#include "proxy/core/arena.h"
#include "proxy/policy/match.h"
#include "xds/wire.h"

#include <math.h>
#include <string.h>

#define LB_POLICY(name) &weft_lb_##name,
static const struct weft_lb_policy *const policies[] = {
#include "proxy/upstream/lb/policies.def"
};
#undef LB_POLICY
enum { POLICIES = sizeof(policies) / sizeof(policies[0]), TURNS_MAX = 2048 };

#define OF_POLICY(x)                                                                               \
	ENVOY__EXTENSIONS__LOAD_BALANCING_POLICIES__COMMON__V3__LOCALITY_LB_CONFIG__LOCALITY_CONFIG_SPECIFIER_##x
#define OF_CLUSTER(x)                                                                              \
	ENVOY__CONFIG__CLUSTER__V3__CLUSTER__COMMON_LB_CONFIG__LOCALITY_CONFIG_SPECIFIER_##x

const struct weft_lb_policy *weft_lb_policy_at(size_t i)
{
	return i < POLICIES ? policies[i] : NULL;
}

const struct weft_lb_policy *weft_lb_policy_find(const ProtobufCMessageDescriptor *config)
{
	for (size_t i = 0; i < POLICIES; i++)
		if (policies[i]->ext.config == config)
			return policies[i];
	return NULL;
}

int weft_lb_slow_start(struct weft_cfg *c, const struct weft_path *at,
		       const WEFT_LB_MSG(SlowStartConfig) * m, struct weft_slow_start *ret)
{
	const struct weft_path aggression = {at, "aggression", -1};

	ret->window_ns = 0;
	if (!m)
		return 0;
	ret->window_ns = (uint64_t)weft_cfg_ms(m->slow_start_window, 0) * 1000000;
	ret->exponent = 1;
	if (m->aggression) {
		if (!(m->aggression->default_value > 0))
			return weft_cfg_fail(c, &aggression, "must be above 0, is %g",
					     m->aggression->default_value);
		ret->exponent = 1 / m->aggression->default_value;
	}
	ret->min_factor = m->min_weight_percent ? m->min_weight_percent->value / 100 : 0.1;
	return 0;
}

int weft_lb_locality(struct weft_cfg *c, const struct weft_path *at,
		     const WEFT_LB_MSG(LocalityLbConfig) * m, struct weft_locality_conf *ret)
{
	const WEFT_LB_MSG(LocalityLbConfig__ZoneAwareLbConfig) * z;

	*ret = (struct weft_locality_conf){.routing_enabled_pct = 100, .min_cluster_size = 6};
	if (!m)
		return 0;
	ret->weighted = m->locality_config_specifier_case == OF_POLICY(LOCALITY_WEIGHTED_LB_CONFIG);
	if (m->locality_config_specifier_case != OF_POLICY(ZONE_AWARE_LB_CONFIG))
		return 0;
	z = m->zone_aware_lb_config;
	if (z->routing_enabled)
		ret->routing_enabled_pct = (uint32_t)lround(z->routing_enabled->value);
	if (z->min_cluster_size)
		ret->min_cluster_size = z->min_cluster_size->value;
	ret->fail_on_panic = z->fail_traffic_on_panic;
	ret->force_local = z->force_locality_direct_routing || z->force_local_zone;
	ret->force_local_min =
		z->force_local_zone ? weft_cfg_u32(z->force_local_zone->min_size, 1) : 1;
	ret->by_weight = z->locality_basis == 1;
	return 0;
}

static void *message(struct weft_arena *a, const ProtobufCMessageDescriptor *d)
{
	void *m = weft_arena_alloc(a, d->sizeof_message);

	weft_message_init(d, m);
	return m;
}

#define NEW(a, type, desc)                                                                         \
	((WEFT_LB_MSG(type) *)message(                                                             \
		a, &envoy__extensions__load_balancing_policies__common__v3__##desc##__descriptor))

WEFT_LB_MSG(SlowStartConfig) *
	weft_lb_slow_start_of(struct weft_arena *a,
			      const Envoy__Config__Cluster__V3__Cluster__SlowStartConfig *m)
{
	WEFT_LB_MSG(SlowStartConfig) * r;

	if (!m)
		return NULL;
	r = NEW(a, SlowStartConfig, slow_start_config);
	r->slow_start_window = m->slow_start_window;
	r->aggression = m->aggression;
	r->min_weight_percent = m->min_weight_percent;
	return r;
}

WEFT_LB_MSG(LocalityLbConfig) *
	weft_lb_locality_of(struct weft_arena *a, const Envoy__Config__Cluster__V3__Cluster *m)
{
	const Envoy__Config__Cluster__V3__Cluster__CommonLbConfig *common = m->common_lb_config;
	WEFT_LB_MSG(LocalityLbConfig) * r;

	if (!common ||
	    common->locality_config_specifier_case ==
		    ENVOY__CONFIG__CLUSTER__V3__CLUSTER__COMMON_LB_CONFIG__LOCALITY_CONFIG_SPECIFIER__NOT_SET)
		return NULL;
	r = NEW(a, LocalityLbConfig, locality_lb_config);
	if (common->locality_config_specifier_case == OF_CLUSTER(LOCALITY_WEIGHTED_LB_CONFIG)) {
		r->locality_config_specifier_case = OF_POLICY(LOCALITY_WEIGHTED_LB_CONFIG);
		r->locality_weighted_lb_config =
			NEW(a, LocalityLbConfig__LocalityWeightedLbConfig,
			    locality_lb_config__locality_weighted_lb_config);
	} else {
		r->locality_config_specifier_case = OF_POLICY(ZONE_AWARE_LB_CONFIG);
		r->zone_aware_lb_config = NEW(a, LocalityLbConfig__ZoneAwareLbConfig,
					      locality_lb_config__zone_aware_lb_config);
		r->zone_aware_lb_config->routing_enabled =
			common->zone_aware_lb_config->routing_enabled;
		r->zone_aware_lb_config->min_cluster_size =
			common->zone_aware_lb_config->min_cluster_size;
		r->zone_aware_lb_config->fail_traffic_on_panic =
			common->zone_aware_lb_config->fail_traffic_on_panic;
	}
	return r;
}

WEFT_LB_MSG(LocalityLbConfig__LocalityWeightedLbConfig) *
	weft_lb_weighted(const WEFT_LB_MSG(LocalityLbConfig) * m)
{
	return m && m->locality_config_specifier_case == OF_POLICY(LOCALITY_WEIGHTED_LB_CONFIG)
		       ? m->locality_weighted_lb_config
		       : NULL;
}

WEFT_LB_MSG(ConsistentHashingLbConfig) *
	weft_lb_hashing_of(struct weft_arena *a, const Envoy__Config__Cluster__V3__Cluster *m)
{
	const Envoy__Config__Cluster__V3__Cluster__CommonLbConfig *common = m->common_lb_config;
	WEFT_LB_MSG(ConsistentHashingLbConfig) * r;

	if (!common || !common->consistent_hashing_lb_config)
		return NULL;
	r = NEW(a, ConsistentHashingLbConfig, consistent_hashing_lb_config);
	r->use_hostname_for_hashing =
		common->consistent_hashing_lb_config->use_hostname_for_hashing;
	r->hash_balance_factor = common->consistent_hashing_lb_config->hash_balance_factor;
	return r;
}

/* ---- slow start */
double weft_lb_slow_factor(const struct weft_slow_start *s, const struct weft_host *h,
			   uint64_t now_ns)
{
	uint64_t made = atomic_load_explicit(&h->made_ns, memory_order_relaxed), age;
	double f;

	if (!s->window_ns || made + s->window_ns <= now_ns)
		return 1;
	age = now_ns > made ? now_ns - made : 0;
	if (age < 1000000)
		age = 1000000;
	f = (double)age / (double)s->window_ns;
	if (s->exponent != 1)
		f = pow(f, s->exponent);
	return f > s->min_factor ? f : s->min_factor;
}

bool weft_lb_is_slow(const struct weft_slow_start *s, const struct weft_lb_list *l, uint64_t now_ns)
{
	for (size_t i = 0; s->window_ns && i < l->n; i++)
		if (atomic_load_explicit(&l->v[i]->host->made_ns, memory_order_relaxed) +
			    s->window_ns >
		    now_ns)
			return true;
	return false;
}

/* ---- spreading */
uint64_t weft_lb_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t t = a % b;

		a = b;
		b = t;
	}
	return a;
}

/* The number of turns for whole weights, each divided by *ret_div; 0: too many, or not whole. */
static uint64_t turns_of(const double *w, size_t n, uint64_t *ret_div)
{
	uint64_t div = 0, sum = 0;

	for (size_t i = 0; i < n; i++) {
		if (w[i] != floor(w[i]) || w[i] > 1e15)
			return 0;
		div = gcd(div, (uint64_t)w[i]);
	}
	if (!div)
		return 0;
	for (size_t i = 0; i < n; i++)
		sum += (uint64_t)w[i] / div;
	*ret_div = div;
	return sum <= TURNS_MAX ? sum : 0;
}

/* Who is furthest behind its share goes next. A heap would not pay below 2,048 turns of few hosts.
 */
static const uint32_t *turns_new(struct weft_arena *a, const double *w, size_t n, uint64_t turns)
{
	uint32_t *t = weft_arena_alloc(a, turns * sizeof(*t));
	double *credit = weft_arena_alloc(a, n * sizeof(*credit)), total = 0;

	for (size_t i = 0; i < n; i++)
		total += w[i];
	for (uint64_t k = 0; k < turns; k++) {
		size_t best = n;

		for (size_t i = 0; i < n; i++) {
			credit[i] += w[i];
			if (w[i] > 0 && (best == n || credit[i] > credit[best]))
				best = i;
		}
		credit[best] -= total;
		t[k] = (uint32_t)best;
	}
	return t;
}

struct weft_spread weft_spread_new(struct weft_arena *a, const double *weights, size_t n)
{
	struct weft_spread s = {.n = n};
	uint64_t div = 1, turns = turns_of(weights, n, &div);
	double *sums;

	if (turns && turns * n <= (uint64_t)TURNS_MAX * 64) {
		s.turns = turns_new(a, weights, n, turns);
		s.n_turns = (uint32_t)turns;
		return s;
	}
	sums = weft_arena_alloc(a, n * sizeof(*sums));
	for (size_t i = 0; i < n; i++)
		sums[i] = (i ? sums[i - 1] : 0) + weights[i];
	s.sums = sums;
	return s;
}

size_t weft_spread_at(const struct weft_spread *s, uint64_t seq)
{
	size_t lo = 0, hi = s->n;
	double at;

	if (s->turns)
		return s->turns[seq % s->n_turns];
	/* multiples of the golden ratio fill 0..1 evenly, however many are taken */
	at = (double)(seq * 0x9e3779b97f4a7c15u >> 11) * 0x1p-53 * s->sums[s->n - 1];
	while (lo + 1 < hi) {
		size_t mid = (lo + hi - 1) / 2;

		if (at < s->sums[mid])
			hi = mid + 1;
		else
			lo = mid + 1;
	}
	return lo < s->n ? lo : s->n - 1;
}

size_t weft_lb_by_weight(double (*v)(const void *ctx, size_t i), const void *ctx, size_t n,
			 uint64_t random)
{
	double sum = 0, at;

	for (size_t i = 0; i < n; i++)
		sum += v(ctx, i);
	at = (double)(random >> 11) * 0x1p-53 * sum;
	for (size_t i = 0; i < n; i++) {
		at -= v(ctx, i);
		if (at < 0)
			return i;
	}
	return n - 1;
}

/* ---- hashing */
int weft_lb_hashing(struct weft_cfg *c, const struct weft_path *at,
		    const WEFT_LB_MSG(ConsistentHashingLbConfig) * m, struct weft_hashing_conf *ret)
{
	const struct weft_path factor = {at, "hash_balance_factor", -1};

	*ret = (struct weft_hashing_conf){0};
	if (!m)
		return 0;
	ret->by_hostname = m->use_hostname_for_hashing;
	ret->balance_factor = weft_cfg_u32(m->hash_balance_factor, 0);
	if (m->hash_balance_factor && ret->balance_factor < 100)
		return weft_cfg_fail(c, &factor, "must be at least 100, is %u",
				     ret->balance_factor);
	return 0;
}

/* "hash_key" of the endpoint's envoy.lb metadata; NULL: none. */
static const char *own_key(const struct weft_endpoint_entry *e)
{
	const Google__Protobuf__Struct *s = weft_metadata_ns(e->metadata, "envoy.lb");
	const Google__Protobuf__Value *v = s ? weft_struct_get(s, "hash_key") : NULL;

	return v && v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE && *v->string_value
		       ? v->string_value
		       : NULL;
}

const char *weft_lb_hash_key(const struct weft_endpoint_entry *e, bool by_hostname)
{
	const char *own = own_key(e);

	if (own)
		return own;
	return by_hostname && *e->host->hostname ? e->host->hostname : e->host->text;
}
