/* Outlier detection: every kind of ejection, its limits and its end; with the manager around it. */
#include "build.h"

#include "proxy/upstream/breaker.h"
#include "proxy/upstream/outlier.h"

#include <errno.h>

static void no_change(void *owner, struct weft_host *h)
{
}

static struct bed *bed_from(const struct weft_clusters_conf *like, const char *outlier, int hosts)
{
	struct bed *b = bed_new(like);
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

static struct bed *bed_with(const char *outlier, int hosts)
{
	return bed_from(NULL, outlier, hosts);
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

/* Intervals enough to decide. */
static void intervals(struct bed *b)
{
	for (int i = 0; i < 6; i++) {
		event_base_loop(b->main->base, EVLOOP_ONCE);
		bed_run(b);
	}
}

/* What is detected, and by enforcing_* of 0 never enforced. */
static void what_is_not_enforced_is_detected(void **state)
{
	struct bed *b = bed_with("max_ejection_percent: 100, enforcing_consecutive_5xx: 0", 3);

	codes(b, 0, 500, 5);
	assert_false(ejected(b, 0));
	assert_int_equal(STAT_OF(b, detected_consecutive_5xx), 1);
	assert_int_equal(STAT_OF(b, enforced_total), 0);
	bed_free(b);
	b = bed_with("max_ejection_percent: 100, split_external_local_origin_errors: true, "
		     "consecutive_local_origin_failure: 2, "
		     "enforcing_consecutive_local_origin_failure: 0",
		     3);
	outcomes(b, 0, WEFT_OUT_LOCAL_CONNECT_FAILED, 2);
	assert_false(ejected(b, 0));
	assert_int_equal(STAT_OF(b, detected_consecutive_local_origin_failure), 1);
	bed_free(b);
}

#define QUICK                                                                                      \
	"max_ejection_percent: 100, interval: 0.01s, consecutive_5xx: 1000, "                      \
	"consecutive_gateway_failure: 1000, consecutive_local_origin_failure: 1000, "

/* Six hosts, one without a success, by rate: what keeps it from being seen. */
static void success_rates_want_hosts_requests_and_deviation(void **state)
{
	static const struct {
		const char *more;
		bool seen;
	} cases[] = {
		{"", true},
		{"success_rate_minimum_hosts: 6", true},
		{"success_rate_minimum_hosts: 7", false},
		{"success_rate_request_volume: 200", false},
		{"success_rate_stdev_factor: 2300", false},
	};

	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
		char conf[512];
		struct bed *b;

		snprintf(conf, sizeof(conf), "%s%s", QUICK, cases[c].more);
		b = bed_with(conf, 6);
		for (size_t i = 0; i < 6; i++)
			codes(b, i, i == 2 ? 500 : 200, 100);
		if (cases[c].seen) {
			WAIT_FOR(b, ejected(b, 2));
		} else {
			intervals(b);
			assert_int_equal(STAT_OF(b, detected_success_rate), 0);
		}
		bed_free(b);
	}
}

static void failure_percentages_want_hosts_and_requests(void **state)
{
	static const struct {
		const char *more;
		bool seen;
	} cases[] = {
		{"", true},
		{"failure_percentage_minimum_hosts: 7", false},
		{"failure_percentage_request_volume: 200", false},
	};

	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
		char conf[512];
		struct bed *b;

		snprintf(conf, sizeof(conf),
			 QUICK "enforcing_success_rate: 0, enforcing_failure_percentage: 100, %s",
			 cases[c].more);
		b = bed_with(conf, 6);
		for (size_t i = 0; i < 6; i++)
			codes(b, i, i == 2 ? 500 : 200, 100);
		if (cases[c].seen) {
			WAIT_FOR(b, ejected(b, 2));
		} else {
			intervals(b);
			assert_int_equal(STAT_OF(b, detected_failure_percentage), 0);
		}
		bed_free(b);
	}
}

/* Failures of our own side, by rate and by percentage: each has its own switch. */
static void local_rates_have_their_own_switches(void **state)
{
	static const struct {
		const char *more;
		bool rate, pct;
	} cases[] = {
		{"enforcing_local_origin_success_rate: 100", true, false},
		{"enforcing_local_origin_success_rate: 0, "
		 "enforcing_failure_percentage_local_origin: 100",
		 false, true},
		{"enforcing_local_origin_success_rate: 0", false, false},
	};

	for (size_t c = 0; c < 3; c++) {
		char conf[512];
		struct bed *b;

		snprintf(conf, sizeof(conf), QUICK "split_external_local_origin_errors: true, %s",
			 cases[c].more);
		b = bed_with(conf, 6);
		for (size_t i = 0; i < 6; i++)
			outcomes(b, i, i == 2 ? WEFT_OUT_LOCAL_CONNECT_FAILED : WEFT_OUT_CONNECTED,
				 100);
		if (cases[c].rate || cases[c].pct) {
			WAIT_FOR(b, ejected(b, 2));
		} else {
			intervals(b);
		}
		assert_int_equal(ejected(b, 2), cases[c].rate || cases[c].pct);
		assert_int_equal(STAT_OF(b, detected_local_origin_success_rate), 1);
		assert_int_equal(STAT_OF(b, enforced_local_origin_success_rate), cases[c].rate);
		assert_int_equal(STAT_OF(b, enforced_local_origin_failure_percentage),
				 cases[c].pct);
		bed_free(b);
	}
}

/* Of an hour almost nothing is less than the time the test has. */
static void jitter_makes_it_longer(void **state)
{
	struct bed *b =
		bed_with("max_ejection_percent: 100, interval: 0.01s, base_ejection_time: 0.01s, "
			 "max_ejection_time_jitter: 36000s",
			 3);

	codes(b, 0, 500, 5);
	intervals(b);
	assert_true(ejected(b, 0));
	bed_free(b);
}

/* By rates as well each time is longer than the one before: nothing is forgotten in the interval
 * that ejects again. It would stay at one interval; a machine that stands still for one has more
 * rounds. */
static void time_grows_with_ejections(void **state)
{
	struct bed *b = bed_with("max_ejection_percent: 100, consecutive_5xx: 1000, "
				 "consecutive_gateway_failure: 1000, interval: 0.1s, "
				 "base_ejection_time: 0.08s, max_ejection_time: 3600s",
				 10);
	uint64_t t = 0, away = 0;

	for (int n = 0; n < 8 && away < 270000000; n++) {
		while (!ejected(b, 3)) {
			for (size_t i = 0; i < 10; i++)
				codes(b, i, i == 3 ? 500 : 200, 100);
			event_base_loop(b->main->base, EVLOOP_ONCE);
			bed_run(b);
		}
		t = weft_now_ns();
		WAIT_FOR(b, !ejected(b, 3));
		away = weft_now_ns() - t;
	}
	assert_true(away >= 270000000);
	bed_free(b);
}

/* A check that passes brings an ejected host back, unless that is switched off. */
static void checks_bring_it_back(void **state)
{
	for (int on = 0; on < 2; on++) {
		char conf[256];
		struct weft_outlier *o;
		struct bed *b;

		snprintf(conf, sizeof(conf),
			 "max_ejection_percent: 100, "
			 "successful_active_health_check_uneject_host: %s",
			 on ? "true" : "false");
		b = bed_with(conf, 3);
		o = weft_outlier_start(b->main->base, weft_clusters_find(b->m, "c"), no_change, b);
		weft_outlier_hosts(o, (struct weft_hosts *)weft_balancer_hosts(
					      weft_wcluster_find(b->w, "c")->balancer));
		codes(b, 0, 500, 5);
		assert_true(ejected(b, 0));
		weft_outlier_checked(o, host(b, 0));
		assert_int_equal(ejected(b, 0), !on);
		weft_outlier_stop(o);
		bed_free(b);
	}
}

/* ---- the log of ejections */
static char told[8][1024];
static size_t n_told;

static void on_told(void *owner, const char *line, size_t n)
{
	assert_true(n < sizeof(told[0]) && n_told < 8);
	assert_int_equal(line[n - 1], '\n');
	memcpy(told[n_told], line, n);
	told[n_told++][n - 1] = 0;
}

#define TOLD(i, part) assert_non_null(strstr(told[i], part))

static void ejections_are_told(void **state)
{
	const struct weft_clusters_conf like = {.outlier_event = on_told};
	struct bed *b;

	n_told = 0;
	b = bed_from(&like,
		     "max_ejection_percent: 100, interval: 0.01s, base_ejection_time: 0.02s, "
		     "consecutive_gateway_failure: 3",
		     3);
	codes(b, 0, 503, 3);
	codes(b, 0, 503, 2);
	WAIT_FOR(b, !ejected(b, 0));
	codes(b, 0, 500, 5);
	assert_int_equal(n_told, 4);
	TOLD(0, "{\"type\":\"CONSECUTIVE_GATEWAY_FAILURE\",\"timestamp\":\"20");
	TOLD(0, "Z\",\"cluster_name\":\"c\",\"upstream_url\":\"10.0.0.0:80\",\"action\":\"EJECT\","
		"\"num_ejections\":0,\"enforced\":false,\"eject_consecutive_event\":{}}");
	TOLD(1, "{\"type\":\"CONSECUTIVE_5XX\",");
	TOLD(1, "\"num_ejections\":1,\"enforced\":true,");
	TOLD(2, "\"secs_since_last_action\":\"0\",\"cluster_name\":\"c\",\"upstream_url\":"
		"\"10.0.0.0:80\",\"action\":\"UNEJECT\",\"num_ejections\":1,\"enforced\":false}");
	TOLD(3, "\"secs_since_last_action\":\"0\",");
	TOLD(3, "\"num_ejections\":2,\"enforced\":true,");
	bed_free(b);
	n_told = 0;
	b = bed_from(&like, QUICK "enforcing_failure_percentage: 0", 10);
	for (size_t i = 0; i < 10; i++)
		codes(b, i, i == 3 ? 500 : 200, 100);
	WAIT_FOR(b, n_told > 0);
	TOLD(0, "\"SUCCESS_RATE\"");
	TOLD(0, ",\"eject_success_rate_event\":{\"host_success_rate\":0,"
		"\"cluster_average_success_rate\":90,"
		"\"cluster_success_rate_ejection_threshold\":33}}");
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
		cmocka_unit_test(what_is_not_enforced_is_detected),
		cmocka_unit_test(success_rates_want_hosts_requests_and_deviation),
		cmocka_unit_test(failure_percentages_want_hosts_and_requests),
		cmocka_unit_test(local_rates_have_their_own_switches),
		cmocka_unit_test(jitter_makes_it_longer),
		cmocka_unit_test(time_grows_with_ejections),
		cmocka_unit_test(checks_bring_it_back),
		cmocka_unit_test(ejections_are_told),
		cmocka_unit_test(settings_are_checked),
		cmocka_unit_test(retries_have_a_gate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
