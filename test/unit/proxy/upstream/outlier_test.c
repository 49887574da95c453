/* Outlier detection: every kind of ejection, its limits and its end; with the manager around it. */
#include "build.h"

#include "proxy/upstream/breaker.h"

#include <errno.h>

static struct bed *bed_with(const char *outlier, int hosts)
{
	struct bed *b = bed_new(NULL);
	char yaml[4096];
	size_t at;

	at = (size_t)snprintf(
		yaml, sizeof(yaml),
		"name: c\ntype: STATIC\ncommon_lb_config: {update_merge_window: 0s, "
		"healthy_panic_threshold: {value: 0}}\noutlier_detection: {%s}\n"
		"load_assignment:\n  cluster_name: c\n  endpoints:\n  - lb_endpoints:\n",
		outlier);
	for (int i = 0; i < hosts; i++)
		at += (size_t)snprintf(yaml + at, sizeof(yaml) - at,
				       "    - endpoint: {address: {socket_address: {address: "
				       "10.0.0.%d, port_value: 80}}}\n",
				       i);
	assert_int_equal(bed_set(b, true, yaml), 1);
	return b;
}

static struct weft_host *host(struct bed *b, size_t i)
{
	return weft_balancer_hosts(weft_wcluster_find(b->w, "c")->balancer)->v[i].host;
}

static bool ejected(struct bed *b, size_t i)
{
	return atomic_load(&host(b, i)->flags) & WEFT_HOST_FAILED_OUTLIER;
}

static void codes(struct bed *b, size_t i, int status, int times)
{
	while (times--)
		weft_host_outcome(weft_wcluster_find(b->w, "c"), host(b, i), WEFT_OUT_CODE, status);
	bed_run(b);
}

static void outcomes(struct bed *b, size_t i, enum weft_outcome o, int times)
{
	while (times--)
		weft_host_outcome(weft_wcluster_find(b->w, "c"), host(b, i), o, 0);
	bed_run(b);
}

/* The loop until cond, at most about two seconds of intervals. */
#define WAIT_FOR(b, cond)                                                                          \
	for (int n_ = 0; n_ < 200 && !(cond); n_++) {                                              \
		event_base_loop((b)->main->base, EVLOOP_ONCE);                                     \
		bed_run(b);                                                                        \
	}                                                                                          \
	assert_true(cond)

#define STAT_OF(b, name) bed_stat(b, "c", WEFT_CLUSTER_outlier_ejections_##name)

static void runs_of_5xx_eject(void **state)
{
	struct bed *b = bed_with("max_ejection_percent: 50", 4);

	codes(b, 0, 500, 4);
	codes(b, 0, 200, 1);
	codes(b, 0, 500, 4);
	assert_false(ejected(b, 0));
	codes(b, 0, 500, 1);
	assert_true(ejected(b, 0));
	for (int i = 0; i < 20; i++)
		assert_string_not_equal(bed_pick(b, "c"), "10.0.0.0:80");
	assert_int_equal(STAT_OF(b, active), 1);
	assert_int_equal(STAT_OF(b, enforced_total), 1);
	assert_int_equal(STAT_OF(b, enforced_consecutive_5xx), 1);
	assert_int_equal(STAT_OF(b, detected_consecutive_5xx), 1);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_membership_healthy), 3);
	assert_int_equal(host(b, 0)->rq_error, 9);
	assert_int_equal(host(b, 0)->rq_success, 1);
	bed_free(b);
}

static void no_more_than_a_share_is_ejected(void **state)
{
	struct bed *b = bed_with("max_ejection_percent: 50", 4);

	for (size_t i = 0; i < 3; i++)
		codes(b, i, 500, 5);
	assert_int_equal(STAT_OF(b, active), 2);
	assert_int_equal(STAT_OF(b, overflow), 1);
	assert_false(ejected(b, 2));
	bed_free(b);
	/* 10 % of two hosts is none, unless one may always go */
	b = bed_with("", 2);
	codes(b, 0, 500, 5);
	assert_false(ejected(b, 0));
	bed_free(b);
	b = bed_with("always_eject_one_host: true", 2);
	codes(b, 0, 500, 5);
	codes(b, 1, 500, 5);
	assert_true(ejected(b, 0));
	assert_false(ejected(b, 1));
	bed_free(b);
}

static void gateway_failures_are_a_kind(void **state)
{
	struct bed *b = bed_with("max_ejection_percent: 100, consecutive_5xx: 100, "
				 "consecutive_gateway_failure: 3, "
				 "enforcing_consecutive_gateway_failure: 100",
				 3);

	codes(b, 0, 502, 2);
	codes(b, 0, 500, 1);
	codes(b, 0, 504, 2);
	assert_false(ejected(b, 0));
	codes(b, 0, 503, 1);
	assert_true(ejected(b, 0));
	assert_int_equal(STAT_OF(b, enforced_consecutive_gateway_failure), 1);
	bed_free(b);
	/* detected, and enforced never */
	b = bed_with(
		"max_ejection_percent: 100, consecutive_gateway_failure: 3, consecutive_5xx: 100",
		3);
	codes(b, 0, 502, 3);
	assert_false(ejected(b, 0));
	assert_int_equal(STAT_OF(b, detected_consecutive_gateway_failure), 1);
	bed_free(b);
}

static void local_failures_count_as_5xx_or_apart(void **state)
{
	struct bed *b = bed_with("max_ejection_percent: 100", 3);

	outcomes(b, 0, WEFT_OUT_LOCAL_CONNECT_FAILED, 3);
	outcomes(b, 0, WEFT_OUT_LOCAL_TIMEOUT, 2);
	assert_true(ejected(b, 0));
	assert_int_equal(STAT_OF(b, enforced_consecutive_5xx), 1);
	bed_free(b);
	b = bed_with("max_ejection_percent: 100, split_external_local_origin_errors: true, "
		     "consecutive_local_origin_failure: 2",
		     3);
	outcomes(b, 0, WEFT_OUT_LOCAL_CONNECT_FAILED, 1);
	outcomes(b, 0, WEFT_OUT_CONNECTED, 1);
	outcomes(b, 0, WEFT_OUT_LOCAL_RESET, 1);
	assert_false(ejected(b, 0));
	outcomes(b, 0, WEFT_OUT_LOCAL_CONNECT_FAILED, 1);
	assert_true(ejected(b, 0));
	assert_int_equal(STAT_OF(b, enforced_consecutive_local_origin_failure), 1);
	assert_int_equal(STAT_OF(b, detected_consecutive_5xx), 0);
	bed_free(b);
}

static void it_ends(void **state)
{
	struct bed *b =
		bed_with("max_ejection_percent: 100, interval: 0.01s, base_ejection_time: 0.02s, "
			 "max_ejection_time: 0.1s",
			 3);

	codes(b, 0, 500, 5);
	assert_true(ejected(b, 0));
	WAIT_FOR(b, !ejected(b, 0));
	assert_int_equal(STAT_OF(b, active), 0);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_membership_healthy), 3);
	/* and it can happen again */
	codes(b, 0, 500, 5);
	assert_int_equal(STAT_OF(b, enforced_total), 2);
	bed_free(b);
}

/* Nine hosts without a fault and one with many: far below the mean. */
static void low_success_rates_eject(void **state)
{
	struct bed *b =
		bed_with("max_ejection_percent: 100, interval: 0.01s, consecutive_5xx: 1000, "
			 "consecutive_gateway_failure: 1000",
			 10);

	for (size_t i = 0; i < 10; i++)
		codes(b, i, 200, 100);
	codes(b, 3, 500, 100);
	WAIT_FOR(b, ejected(b, 3));
	assert_int_equal(STAT_OF(b, active), 1);
	assert_int_equal(STAT_OF(b, enforced_success_rate), 1);
	bed_free(b);
}

static void failure_percentages_eject(void **state)
{
	struct bed *b =
		bed_with("max_ejection_percent: 100, interval: 0.01s, consecutive_5xx: 1000, "
			 "consecutive_gateway_failure: 1000, enforcing_success_rate: 0, "
			 "enforcing_failure_percentage: 100, failure_percentage_threshold: 40",
			 6);

	for (size_t i = 0; i < 6; i++)
		codes(b, i, 200, 60);
	codes(b, 1, 500, 40);
	codes(b, 2, 500, 30);
	WAIT_FOR(b, ejected(b, 1));
	assert_false(ejected(b, 2));
	assert_int_equal(STAT_OF(b, enforced_failure_percentage), 1);
	bed_free(b);
}

static void a_removed_host_is_forgotten(void **state)
{
	struct bed *b = bed_new(NULL);
	static const char both[] =
		"cluster_name: c\nendpoints: [{lb_endpoints: [{endpoint: {address: "
		"{socket_address: "
		"{address: 10.0.0.1, port_value: 80}}}}, {endpoint: {address: {socket_address: "
		"{address: 10.0.0.2, port_value: 80}}}}]}]\n";
	struct weft_host *h;

	bed_set(b, true,
		"name: c\ntype: EDS\neds_cluster_config: {eds_config: {ads: "
		"{}}}\noutlier_detection: "
		"{max_ejection_percent: 100}\n");
	bed_endpoints(b, "c", both, "1");
	h = host(b, 0);
	weft_host_ref(h);
	codes(b, 0, 500, 5);
	assert_int_equal(STAT_OF(b, active), 1);
	bed_endpoints(b, "c",
		      "cluster_name: c\nendpoints: [{lb_endpoints: [{endpoint: {address: "
		      "{socket_address: {address: 10.0.0.2, port_value: 80}}}}]}]\n",
		      "2");
	assert_int_equal(STAT_OF(b, active), 0);
	/* what is still told of it has no effect */
	for (int i = 0; i < 10; i++)
		weft_host_outcome(weft_wcluster_find(b->w, "c"), h, WEFT_OUT_CODE, 500);
	bed_run(b);
	assert_int_equal(STAT_OF(b, enforced_total), 1);
	weft_host_unref(h);
	bed_free(b);
}

static void settings_are_checked(void **state)
{
	struct bed *b = bed_new(NULL);

	assert_int_equal(
		bed_set(b, true,
			"name: c\ntype: STATIC\noutlier_detection: {base_ejection_time: 10s, "
			"max_ejection_time: 5s}\n"),
		-EINVAL);
	bed_expect_error(
		b, "outlier_detection.max_ejection_time: must be at least base_ejection_time");
	bed_free(b);
}

static void retries_have_a_gate(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_cluster *c;

	bed_set(b, true,
		"name: c\ntype: STATIC\ncircuit_breakers: {thresholds: [{max_retries: 2, "
		"track_remaining: true}, {priority: HIGH, retry_budget: {budget_percent: {value: "
		"20}, "
		"min_retry_concurrency: 1}}]}\n");
	c = weft_clusters_find(b->m, "c");
	assert_true(weft_breaker_retry_take(c, WEFT_PRIORITY_DEFAULT));
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_circuit_breakers_default_remaining_retries),
			 1);
	assert_true(weft_breaker_retry_take(c, WEFT_PRIORITY_DEFAULT));
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_circuit_breakers_default_rq_retry_open), 1);
	assert_false(weft_breaker_retry_take(c, WEFT_PRIORITY_DEFAULT));
	weft_breaker_retry_give(c, WEFT_PRIORITY_DEFAULT);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_circuit_breakers_default_rq_retry_open), 0);
	weft_breaker_retry_give(c, WEFT_PRIORITY_DEFAULT);
	/* a fifth of ten requests */
	c->breaker[WEFT_PRIORITY_HIGH].requests = 10;
	assert_true(weft_breaker_retry_take(c, WEFT_PRIORITY_HIGH));
	assert_true(weft_breaker_retry_take(c, WEFT_PRIORITY_HIGH));
	assert_false(weft_breaker_retry_take(c, WEFT_PRIORITY_HIGH));
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_of_5xx_eject),
		cmocka_unit_test(no_more_than_a_share_is_ejected),
		cmocka_unit_test(gateway_failures_are_a_kind),
		cmocka_unit_test(local_failures_count_as_5xx_or_apart),
		cmocka_unit_test(it_ends),
		cmocka_unit_test(low_success_rates_eject),
		cmocka_unit_test(failure_percentages_eject),
		cmocka_unit_test(a_removed_host_is_forgotten),
		cmocka_unit_test(settings_are_checked),
		cmocka_unit_test(retries_have_a_gate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
