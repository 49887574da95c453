/* Load balancing: spread, priorities, panic, localities, zones, against slow and obvious sums. */
#include "build.h"

#include "proxy/upstream/lb_util.h"

#include <math.h>
#include <xxhash.h>

/* Hosts 10.PRIORITY.ZONE.N, n of them a locality, some of them unhealthy or degraded. */
struct place {
	const char *zone;
	int n, bad, degraded;
	unsigned weight, priority; /* weight 0: not given */
	unsigned host_weight;	   /* 0: 1 */
};

static char *endpoints(const char *cluster, const struct place *p, size_t n, const char *policy)
{
	size_t cap = 1 << 20, at = 0;
	char *s = weft_xcalloc(1, cap);

	at += (size_t)snprintf(s, cap, "cluster_name: %s\n%sendpoints:\n", cluster, policy);
	for (size_t i = 0; i < n; i++) {
		at += (size_t)snprintf(s + at, cap - at, "- locality: {zone: %s}\n  priority: %u\n",
				       p[i].zone, p[i].priority);
		if (p[i].weight)
			at += (size_t)snprintf(s + at, cap - at, "  load_balancing_weight: %u\n",
					       p[i].weight);
		at += (size_t)snprintf(s + at, cap - at, "  lb_endpoints:\n");
		for (int k = 0; k < p[i].n; k++)
			at += (size_t)snprintf(
				s + at, cap - at,
				"  - {health_status: %s, load_balancing_weight: %u, endpoint: "
				"{address: {socket_address: {address: 10.%u.%zu.%d, port_value: "
				"80}}}}\n",
				k < p[i].bad		       ? "UNHEALTHY"
				: k < p[i].bad + p[i].degraded ? "DEGRADED"
							       : "HEALTHY",
				p[i].host_weight ? p[i].host_weight : 1, p[i].priority, i, k);
	}
	return s;
}

static struct bed *bed_with(const char *conf, const struct place *p, size_t n, const char *policy)
{
	struct bed *b = bed_new(NULL);
	char yaml[2048], *eps = endpoints("c", p, n, policy);

	snprintf(yaml, sizeof(yaml),
		 "name: c\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n%s", conf);
	assert_int_equal(bed_set(b, true, yaml), 1);
	assert_int_equal(bed_endpoints(b, "c", eps, "1"), 0);
	free(eps);
	return b;
}

struct counted {
	unsigned prio[8], zone[16], host[8][16][64], none, all;
};

static struct counted picks(struct bed *b, unsigned n)
{
	struct counted *c = weft_xcalloc(1, sizeof(*c)), ret;

	for (unsigned i = 0; i < n; i++) {
		unsigned prio, zone, host;
		const char *s = bed_pick(b, "c");

		c->all++;
		if (!*s) {
			c->none++;
			continue;
		}
		assert_int_equal(sscanf(s, "10.%u.%u.%u:80", &prio, &zone, &host), 3);
		c->prio[prio]++;
		c->zone[zone]++;
		c->host[prio][zone][host]++;
	}
	ret = *c;
	free(c);
	return ret;
}

/* Within five standard deviations of a share of n picks. */
static void near(unsigned got, double share, unsigned n)
{
	double want = share * n, dev = sqrt(n * share * (1 - share));

	if (fabs(got - want) > 5 * dev + 1)
		print_message("# got %u of %u, wanted %f\n", got, n, want);
	assert_true(fabs(got - want) <= 5 * dev + 1);
}

static void round_robin_is_exact(void **state)
{
	struct place p[] = {{.zone = "a", .n = 1, .host_weight = 3},
			    {.zone = "b", .n = 1, .host_weight = 1},
			    {.zone = "c", .n = 1, .host_weight = 2}};
	struct bed *b = bed_with("", p, 3, "");
	struct counted c = picks(b, 600);

	assert_int_equal(c.zone[0], 300);
	assert_int_equal(c.zone[1], 100);
	assert_int_equal(c.zone[2], 200);
	/* and no run is longer than needs be */
	for (int i = 0; i < 100; i++) {
		c = picks(b, 6);
		assert_int_equal(c.zone[0], 3);
		assert_int_equal(c.zone[1], 1);
	}
	bed_free(b);
}

/* Weights that share no factor go by sums instead of turns. */
static void spread_is_even(void **state)
{
	static const double w[] = {1, 1000.5, 37.25, 0, 777777};
	struct weft_arena *a = weft_arena_new(0);
	struct weft_spread s = weft_spread_new(a, w, 5);
	unsigned n[5] = {0};
	double sum = 1 + 1000.5 + 37.25 + 777777;

	assert_null(s.turns);
	for (unsigned i = 0; i < 1000000; i++)
		n[weft_spread_at(&s, i)]++;
	assert_int_equal(n[3], 0);
	for (int i = 0; i < 5; i++)
		assert_true(fabs(n[i] - 1e6 * w[i] / sum) < 20);
	weft_arena_free(a);
}

static void random_is_even(void **state)
{
	struct place p[] = {{.zone = "a", .n = 7}};
	struct bed *b = bed_with("lb_policy: RANDOM\n", p, 1, "");
	struct counted c = picks(b, 7000);

	for (int i = 0; i < 7; i++)
		near(c.host[0][0][i], 1.0 / 7, 7000);
	bed_free(b);
}

static struct weft_host *host_of(struct bed *b, const char *text)
{
	struct weft_hosts *h = weft_balancer_hosts(weft_wcluster_find(b->w, "c")->balancer);

	for (size_t i = 0; i < h->n; i++)
		if (!strcmp(h->v[i].host->text, text))
			return h->v[i].host;
	return NULL;
}

static void least_request_looks_at_requests(void **state)
{
	struct place p[] = {{.zone = "a", .n = 4}};
	struct bed *b = bed_with("lb_policy: LEAST_REQUEST\n", p, 1, "");
	struct counted c;

	host_of(b, "10.0.0.1:80")->rq_active = 100;
	c = picks(b, 16000);
	/* two of four: only both choices being the busy one gets it */
	near(c.host[0][0][1], 1.0 / 16, 16000);
	for (int i = 0; i < 4; i += i ? 1 : 2)
		near(c.host[0][0][i], 5.0 / 16, 16000);
	bed_free(b);
	b = bed_with(
		"load_balancing_policy: {policies: [{typed_extension_config: {name: x, "
		"typed_config: {\"@type\": "
		"type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3."
		"LeastRequest, selection_method: FULL_SCAN}}}]}\n",
		p, 1, "");
	host_of(b, "10.0.0.1:80")->rq_active = 1;
	host_of(b, "10.0.0.2:80")->rq_active = 1;
	c = picks(b, 4000);
	assert_int_equal(c.host[0][0][1] + c.host[0][0][2], 0);
	near(c.host[0][0][0], 0.5, 4000);
	bed_free(b);
}

static void least_request_weighs(void **state)
{
	struct place p[] = {{.zone = "a", .n = 1, .host_weight = 4},
			    {.zone = "b", .n = 1, .host_weight = 1}};
	struct bed *b = bed_with("lb_policy: LEAST_REQUEST\n", p, 2, "");
	struct counted c = picks(b, 10000);

	near(c.zone[0], 0.8, 10000);
	/* 4/(3+1) against 1/1 */
	host_of(b, "10.0.0.0:80")->rq_active = 3;
	c = picks(b, 10000);
	near(c.zone[0], 0.5, 10000);
	bed_free(b);
}

static uint64_t hash_pick(struct bed *b, uint64_t hash, char *ret)
{
	struct weft_lb_ctx ctx = {.has_hash = true, .hash = hash, .random = weft_rand64()};

	strcpy(ret, bed_pick_with(b, "c", &ctx));
	return hash;
}

/* The ring, slowly: every key's hash, and the nearest one that is not below. */
static const char *slow_ring(char hosts[][32], size_t n, unsigned each, uint64_t hash)
{
	uint64_t best = UINT64_MAX, least = UINT64_MAX;
	size_t at = 0, first = 0;

	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < each; k++) {
			char key[64];
			uint64_t h;

			snprintf(key, sizeof(key), "%s_%u", hosts[i], k);
			h = XXH64(key, strlen(key), 0);
			if (h < least) {
				least = h;
				first = i;
			}
			if (h >= hash && h <= best) {
				best = h;
				at = i;
			}
		}
	return best == UINT64_MAX ? hosts[first] : hosts[at];
}

static void ring_hash_is_a_ring(void **state)
{
	struct place p[] = {{.zone = "a", .n = 8}};
	struct bed *b = bed_with("lb_policy: RING_HASH\n", p, 1, "");
	char hosts[8][32], got[128];

	for (int i = 0; i < 8; i++)
		snprintf(hosts[i], sizeof(hosts[i]), "10.0.0.%d:80", i);
	for (int i = 0; i < 500; i++) {
		uint64_t h = weft_rand64();

		hash_pick(b, h, got);
		assert_string_equal(got, slow_ring(hosts, 8, 128, h));
	}
	bed_free(b);
}

/* Taking one host away moves its own requests and few others. */
static void hashes_stay(const char *policy, unsigned most_moved)
{
	struct place all[] = {{.zone = "a", .n = 10}}, less[] = {{.zone = "a", .n = 10, .bad = 1}};
	struct bed *a = bed_with(policy, all, 1, ""), *b = bed_with(policy, less, 1, "");
	char x[128], y[128];
	unsigned moved = 0, of_gone = 0;

	for (uint64_t i = 0; i < 2000; i++) {
		hash_pick(a, weft_lb_mix(i), x);
		hash_pick(b, weft_lb_mix(i), y);
		assert_string_not_equal(y, "10.0.0.0:80");
		of_gone += !strcmp(x, "10.0.0.0:80");
		moved += strcmp(x, "10.0.0.0:80") != 0 && strcmp(x, y) != 0;
	}
	assert_in_range(of_gone, 100, 320);
	assert_in_range(moved, 0, most_moved);
	bed_free(a);
	bed_free(b);
}

static void ring_hash_stays(void **state)
{
	hashes_stay("lb_policy: RING_HASH\n", 250);
	hashes_stay("lb_policy: RING_HASH\nring_hash_lb_config: {hash_function: MURMUR_HASH_2}\n",
		    250);
}

static void maglev_stays(void **state)
{
	hashes_stay("lb_policy: MAGLEV\n", 60);
}

static void maglev_is_even(void **state)
{
	struct place p[] = {{.zone = "a", .n = 1, .host_weight = 3},
			    {.zone = "b", .n = 1, .host_weight = 1}};
	struct bed *b =
		bed_with("lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 65537}\n", p, 2, "");
	struct counted c = picks(b, 20000);

	near(c.zone[0], 0.75, 20000);
	bed_free(b);
}

static void bounded_load_moves_on(void **state)
{
	struct place p[] = {{.zone = "a", .n = 4}};
	struct bed *b =
		bed_with("lb_policy: MAGLEV\ncommon_lb_config: {consistent_hashing_lb_config: "
			 "{hash_balance_factor: 120}}\n",
			 p, 1, "");
	char first[128], then[128], again[128];

	hash_pick(b, 42, first);
	host_of(b, first)->rq_active = 10;
	hash_pick(b, 42, then);
	assert_string_not_equal(first, then);
	hash_pick(b, 42, again);
	assert_string_equal(then, again);
	host_of(b, first)->rq_active = 0;
	hash_pick(b, 42, again);
	assert_string_equal(first, again);
	bed_free(b);
}

static void priorities_spill_over(void **state)
{
	/* 50 % of P0 are healthy: 140 % of that is 70; the rest goes to P1 */
	struct place p[] = {{.zone = "a", .n = 10, .bad = 5}, {.zone = "a", .n = 4, .priority = 1}};
	struct bed *b = bed_with("", p, 2, "");
	struct counted c = picks(b, 10000);

	near(c.prio[0], 0.7, 10000);
	near(c.prio[1], 0.3, 10000);
	bed_free(b);
	b = bed_with("", p, 2, "policy: {overprovisioning_factor: 100}\n");
	c = picks(b, 10000);
	near(c.prio[0], 0.5, 10000);
	bed_free(b);
}

static void degraded_hosts_take_what_is_left(void **state)
{
	struct place p[] = {{.zone = "a", .n = 10, .bad = 0, .degraded = 5}};
	struct bed *b = bed_with("", p, 1, "");
	struct counted c = picks(b, 10000);
	unsigned degraded = 0;

	for (int i = 0; i < 5; i++)
		degraded += c.host[0][0][i];
	near(degraded, 0.3, 10000);
	bed_free(b);
}

static void panic_uses_everyone(void **state)
{
	struct place p[] = {{.zone = "a", .n = 10, .bad = 8}};
	struct bed *b = bed_with("", p, 1, "");
	struct counted c = picks(b, 1000);

	assert_int_equal(c.host[0][0][0], 100);
	assert_int_equal(c.none, 0);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_lb_healthy_panic), 1000);
	bed_free(b);
	b = bed_with("common_lb_config: {healthy_panic_threshold: {value: 0}}\n", p, 1, "");
	c = picks(b, 1000);
	assert_int_equal(c.host[0][0][9], 500);
	bed_free(b);
	p[0].bad = 10;
	b = bed_with("common_lb_config: {healthy_panic_threshold: {value: 0}}\n", p, 1, "");
	c = picks(b, 10);
	assert_int_equal(c.none, 10);
	bed_free(b);
	b = bed_with("common_lb_config: {zone_aware_lb_config: {fail_traffic_on_panic: true}}\n", p,
		     1, "");
	c = picks(b, 10);
	assert_int_equal(c.none, 10);
	bed_free(b);
}

static void localities_have_weights(void **state)
{
	/* b has half of its hosts: 70 % of its weight after overprovisioning */
	struct place p[] = {{.zone = "a", .n = 2, .weight = 3},
			    {.zone = "b", .n = 4, .bad = 2, .weight = 10}};
	struct bed *b = bed_with("common_lb_config: {locality_weighted_lb_config: {}}\n", p, 2, "");
	struct counted c = picks(b, 1000);

	assert_int_equal(c.zone[0], 300);
	assert_int_equal(c.zone[1], 700);
	assert_int_equal(c.host[0][0][0], 150);
	bed_free(b);
	p[1].bad = 0;
	b = bed_with("lb_policy: MAGLEV\ncommon_lb_config: {locality_weighted_lb_config: {}}\n", p,
		     2, "");
	c = picks(b, 20000);
	near(c.zone[0], 3.0 / 13, 20000);
	near(c.host[0][1][0], 10.0 / 13 / 4, 20000);
	bed_free(b);
}

static struct bed *zones(const struct place *local, size_t n_local, const struct place *up,
			 size_t n_up)
{
	const struct weft_clusters_conf conf = {.local_cluster = "me", .local = {.zone = "a"}};
	struct bed *b = bed_new(&conf);
	char *eps;

	bed_set(b, true, "name: me\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n");
	bed_set(b, true, "name: c\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n");
	eps = endpoints("c", up, n_up, "");
	bed_endpoints(b, "c", eps, "1");
	free(eps);
	eps = endpoints("me", local, n_local, "");
	bed_endpoints(b, "me", eps, "1");
	free(eps);
	return b;
}

static void zones_keep_their_requests(void **state)
{
	struct place local[] = {{.zone = "a", .n = 1}, {.zone = "b", .n = 1}},
		     up[] = {{.zone = "a", .n = 3}, {.zone = "b", .n = 3}};
	struct bed *b = zones(local, 2, up, 2);
	struct counted c = picks(b, 100);

	assert_int_equal(c.zone[0], 100);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_lb_zone_routing_all_directly), 100);
	bed_free(b);
}

static void zones_share_what_they_cannot_take(void **state)
{
	/* half of us are in a, a quarter of the hosts: half of ours stays, b and c have to spare */
	struct place local[] = {{.zone = "a", .n = 2},
				{.zone = "b", .n = 1},
				{.zone = "d", .n = 1}},
		     up[] = {{.zone = "a", .n = 2}, {.zone = "b", .n = 4}, {.zone = "d", .n = 2}};
	struct bed *b = zones(local, 3, up, 3);
	struct counted c = picks(b, 10000);

	near(c.zone[0], 0.5, 10000);
	near(c.zone[1], 0.5, 10000);
	assert_int_equal(c.zone[2], 0);
	bed_free(b);
}

static void small_clusters_have_no_zones(void **state)
{
	struct place local[] = {{.zone = "a", .n = 1}, {.zone = "b", .n = 1}},
		     up[] = {{.zone = "a", .n = 2}, {.zone = "b", .n = 2}};
	struct bed *b = zones(local, 2, up, 2);
	struct counted c = picks(b, 100);

	assert_int_equal(c.zone[0], 50);
	assert_true(bed_stat(b, "c", WEFT_CLUSTER_lb_zone_cluster_too_small) > 0);
	bed_free(b);
}

static void slow_start_is_slow(void **state)
{
	struct place p[] = {{.zone = "a", .n = 1}, {.zone = "b", .n = 1}};
	struct bed *b =
		bed_with("round_robin_lb_config: {slow_start_config: {slow_start_window: 100s}}\n",
			 p, 2, "");
	struct counted c;
	uint64_t now = weft_now_ns();

	host_of(b, "10.0.0.0:80")->made_ns = now - 200ull * 1000000000;
	host_of(b, "10.0.1.0:80")->made_ns = now - 50ull * 1000000000;
	c = picks(b, 3000);
	assert_in_range(c.zone[1], 980, 1020);
	host_of(b, "10.0.1.0:80")->made_ns = now;
	c = picks(b, 1100);
	assert_in_range(c.zone[1], 95, 105);
	bed_free(b);
}

static bool refuse(void *owner, const struct weft_endpoint_entry *e)
{
	return strcmp(e->host->text, owner) != 0;
}

static void only_priority_1(void *owner, uint32_t *pct, const uint32_t *there, size_t n)
{
	assert_int_equal(there[1], 100);
	pct[0] = 0;
	pct[1] = 100;
}

static void retries_choose_others(void **state)
{
	struct place p[] = {{.zone = "a", .n = 3}, {.zone = "a", .n = 1, .priority = 1}};
	static const char *const policies[] = {"", "lb_policy: RING_HASH\n", "lb_policy: MAGLEV\n",
					       "lb_policy: RANDOM\n"};

	for (size_t i = 0; i < 4; i++) {
		struct bed *b = bed_with(policies[i], p, 2, "");
		struct weft_lb_ctx ctx = {.has_hash = true, .hash = 7, .random = 7};
		char first[128];

		strcpy(first, bed_pick_with(b, "c", &ctx));
		ctx.accept = refuse;
		ctx.owner = first;
		ctx.max_tries = 50;
		assert_string_not_equal(bed_pick_with(b, "c", &ctx), first);
		ctx.priorities = only_priority_1;
		ctx.accept = NULL;
		assert_string_equal(bed_pick_with(b, "c", &ctx), "10.1.1.0:80");
		ctx.priorities = NULL;
		ctx.override_host = "10.0.0.2:80";
		assert_string_equal(bed_pick_with(b, "c", &ctx), "10.0.0.2:80");
		bed_free(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_robin_is_exact),
		cmocka_unit_test(spread_is_even),
		cmocka_unit_test(random_is_even),
		cmocka_unit_test(least_request_looks_at_requests),
		cmocka_unit_test(least_request_weighs),
		cmocka_unit_test(ring_hash_is_a_ring),
		cmocka_unit_test(ring_hash_stays),
		cmocka_unit_test(maglev_stays),
		cmocka_unit_test(maglev_is_even),
		cmocka_unit_test(bounded_load_moves_on),
		cmocka_unit_test(priorities_spill_over),
		cmocka_unit_test(degraded_hosts_take_what_is_left),
		cmocka_unit_test(panic_uses_everyone),
		cmocka_unit_test(localities_have_weights),
		cmocka_unit_test(zones_keep_their_requests),
		cmocka_unit_test(zones_share_what_they_cannot_take),
		cmocka_unit_test(small_clusters_have_no_zones),
		cmocka_unit_test(slow_start_is_slow),
		cmocka_unit_test(retries_choose_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
