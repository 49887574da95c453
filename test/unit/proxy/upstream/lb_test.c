/* Load balancing: spread, priorities, panic, localities, zones, against slow and obvious sums. */
#include "lb_fix.h"

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
	static const char *const scans[] = {"selection_method: FULL_SCAN", "enable_full_scan: true",
					    "choice_count: 2"};

	for (int i = 0; i < 3; i++) {
		char conf[512];

		snprintf(conf, sizeof(conf), TYPED("least_request", "LeastRequest", "%s"),
			 scans[i]);
		b = bed_with(conf, p, 1, "");
		host_of(b, "10.0.0.1:80")->rq_active = 1;
		host_of(b, "10.0.0.2:80")->rq_active = 1;
		c = picks(b, 4000);
		assert_int_equal(c.host[0][0][1] + c.host[0][0][2] > 0, i == 2);
		near(c.host[0][0][0], i == 2 ? 3.0 / 8 : 0.5, 4000);
		bed_free(b);
	}
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
	return zones_of("", local, n_local, up, n_up);
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

static void zones_can_be_forced(void **state)
{
	struct place local[] = {{.zone = "a", .n = 2}, {.zone = "b", .n = 2}},
		     up[] = {{.zone = "a", .n = 1}, {.zone = "b", .n = 3}};
	static const struct {
		const char *conf;
		unsigned a, none;
	} v[] = {
		{"min_cluster_size: 4", 50, 0},
		{"min_cluster_size: 4, force_locality_direct_routing: true", 100, 0},
		{"min_cluster_size: 4, force_local_zone: {min_size: 1}", 100, 0},
		{"min_cluster_size: 4, force_local_zone: {min_size: 2}", 50, 0},
		{"min_cluster_size: 4, routing_enabled: {value: 0}", 25, 0},
		{"min_cluster_size: 5", 25, 0},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		char conf[1024];
		struct bed *b;
		struct counted c;

		snprintf(conf, sizeof(conf),
			 TYPED("round_robin", "RoundRobin",
			       "locality_lb_config: {zone_aware_lb_config: {%s}}"),
			 v[i].conf);
		b = zones_of(conf, local, 2, up, 2);
		c = picks(b, 4000);
		if (v[i].a == 100)
			assert_int_equal(c.zone[0], 4000);
		else
			near(c.zone[0], v[i].a / 100.0, 4000);
		assert_int_equal(c.none, v[i].none);
		bed_free(b);
	}
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
		cmocka_unit_test(priorities_spill_over),
		cmocka_unit_test(degraded_hosts_take_what_is_left),
		cmocka_unit_test(panic_uses_everyone),
		cmocka_unit_test(localities_have_weights),
		cmocka_unit_test(zones_keep_their_requests),
		cmocka_unit_test(zones_share_what_they_cannot_take),
		cmocka_unit_test(zones_can_be_forced),
		cmocka_unit_test(small_clusters_have_no_zones),
		cmocka_unit_test(slow_start_is_slow),
		cmocka_unit_test(retries_choose_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
