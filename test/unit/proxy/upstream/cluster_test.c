/* The manager of clusters: add, replace, warm, remove; endpoints; what workers see. */
#include "build.h"

#include <errno.h>

#define ENDPOINT(ip, port)                                                                         \
	"{endpoint: {address: {socket_address: {address: " ip ", port_value: " #port "}}}}"
#define STATIC(name, extra, eps)                                                                   \
	"name: " name "\ntype: STATIC\n" extra "load_assignment:\n  cluster_name: " name           \
	"\n  endpoints:\n  - lb_endpoints: [" eps "]\n"
#define EDS(name, extra)                                                                           \
	"name: " name "\ntype: EDS\n" extra "eds_cluster_config: {eds_config: {ads: {}}}\n"

static void a_static_cluster_serves(void **state)
{
	struct bed *b = bed_new(NULL);
	char first[128];

	assert_int_equal(
		bed_set(b, false,
			STATIC("one", "", ENDPOINT("10.0.0.1", 80) ", " ENDPOINT("10.0.0.2", 80))),
		1);
	assert_string_equal(b->live, "+one ");
	snprintf(first, sizeof(first), "%s", bed_pick(b, "one"));
	assert_string_not_equal(first, bed_pick(b, "one"));
	assert_string_equal(first, bed_pick(b, "one"));
	assert_int_equal(bed_stat(b, "one", WEFT_CLUSTER_membership_total), 2);
	assert_int_equal(bed_stat(b, "one", WEFT_CLUSTER_membership_healthy), 2);
	assert_null(weft_wcluster_find(b->w, "two"));
	/* the same again changes nothing */
	assert_int_equal(
		bed_set(b, false,
			STATIC("one", "", ENDPOINT("10.0.0.1", 80) ", " ENDPOINT("10.0.0.2", 80))),
		0);
	assert_int_equal(weft_clusters_remove(b->m, "one"), -EPERM);
	assert_int_equal(weft_clusters_remove(b->m, "two"), -ENOENT);
	bed_free(b);
}

static void a_replaced_cluster_is_a_new_one(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_wcluster *was;

	bed_set(b, true, STATIC("one", "", ENDPOINT("10.0.0.1", 80)));
	was = weft_wcluster_find(b->w, "one");
	weft_wcluster_ref(was);
	assert_int_equal(
		bed_set(b, true, STATIC("one", "connect_timeout: 1s\n", ENDPOINT("10.0.0.2", 80))),
		1);
	assert_ptr_not_equal(was, weft_wcluster_find(b->w, "one"));
	assert_string_equal(bed_pick(b, "one"), "10.0.0.2:80");
	assert_int_equal(weft_clusters_find(b->m, "one")->connect_ms, 1000);
	weft_wcluster_unref(was);
	assert_int_equal(weft_clusters_remove(b->m, "one"), 0);
	bed_run(b);
	assert_null(weft_wcluster_find(b->w, "one"));
	assert_null(weft_clusters_find(b->m, "one"));
	assert_string_equal(b->live, "+one +one -one ");
	bed_free(b);
}

static void the_bootstraps_are_not_xds(void **state)
{
	struct bed *b = bed_new(NULL);

	bed_set(b, false, STATIC("one", "", ENDPOINT("10.0.0.1", 80)));
	assert_int_equal(bed_set(b, true, STATIC("one", "", ENDPOINT("10.0.0.2", 80))), -EINVAL);
	bed_expect_error(b, "name: \"one\" is a cluster of the bootstrap");
	assert_string_equal(bed_pick(b, "one"), "10.0.0.1:80");
	bed_free(b);
}

static void eds_warms_until_endpoints_come(void **state)
{
	struct bed *b = bed_new(NULL);
	size_t warming;

	assert_int_equal(bed_set(b, true, EDS("e", "")), 1);
	assert_string_equal(b->wanted, "+e ");
	assert_null(weft_wcluster_find(b->w, "e"));
	assert_int_equal(weft_clusters_count(b->m, &warming), 1);
	assert_int_equal(warming, 1);
	assert_int_equal(bed_endpoints(b, "e",
				       "cluster_name: e\nendpoints:\n- lb_endpoints: [" ENDPOINT(
					       "10.0.0.1", 80) "]\n",
				       "1"),
			 0);
	assert_string_equal(b->live, "+e ");
	assert_string_equal(bed_pick(b, "e"), "10.0.0.1:80");
	/* another configuration has the endpoints at once */
	assert_int_equal(bed_set(b, true, EDS("e", "connect_timeout: 2s\n")), 1);
	assert_string_equal(b->wanted, "+e ");
	assert_string_equal(bed_pick(b, "e"), "10.0.0.1:80");
	assert_int_equal(weft_clusters_find(b->m, "e")->connect_ms, 2000);
	weft_clusters_remove(b->m, "e");
	bed_run(b);
	assert_string_equal(b->wanted, "+e -e ");
	bed_free(b);
}

static void eds_gives_up_waiting(void **state)
{
	struct bed *b = bed_new(NULL);

	bed_set(b, true, EDS("e", ""));
	weft_clusters_endpoints_gone(b->m, "e");
	bed_run(b);
	assert_string_equal(b->live, "+e ");
	assert_string_equal(bed_pick(b, "e"), "");
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_upstream_cx_none_healthy), 1);
	bed_free(b);
}

static void services_are_shared(void **state)
{
	struct bed *b = bed_new(NULL);

	bed_set(b, true,
		"name: a\ntype: EDS\neds_cluster_config: {service_name: s, eds_config: {ads: "
		"{}}}\n");
	bed_set(b, true,
		"name: b\ntype: EDS\neds_cluster_config: {service_name: s, eds_config: {ads: "
		"{}}}\n");
	assert_string_equal(b->wanted, "+s ");
	bed_endpoints(
		b, "s",
		"cluster_name: s\nendpoints:\n- lb_endpoints: [" ENDPOINT("10.0.0.1", 80) "]\n",
		"1");
	assert_string_equal(bed_pick(b, "a"), "10.0.0.1:80");
	assert_string_equal(bed_pick(b, "b"), "10.0.0.1:80");
	bed_free(b);
}

static void hosts_keep_their_identity(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_wcluster *wc;
	struct weft_lb_ctx ctx = {.random = 1};
	const struct weft_endpoint_entry *e;
	const char *why;
	struct weft_host *was, *is;
	unsigned heavy = 0;

	bed_set(b, true, EDS("e", "common_lb_config: {update_merge_window: 0s}\n"));
	bed_endpoints(
		b, "e",
		"cluster_name: e\nendpoints:\n- lb_endpoints: [" ENDPOINT("10.0.0.1", 80) "]\n",
		"1");
	wc = weft_wcluster_find(b->w, "e");
	was = weft_wcluster_pick(wc, &ctx, &e, &why);
	assert_int_equal(e->weight, 1);
	bed_endpoints(
		b, "e",
		"cluster_name: e\nendpoints:\n- lb_endpoints:\n"
		"  - load_balancing_weight: 3\n    metadata: {filter_metadata: {envoy.lb: {canary: "
		"true}}}\n"
		"    endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}\n"
		"  - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 80}}}\n",
		"2");
	assert_ptr_equal(wc, weft_wcluster_find(b->w, "e"));
	for (int i = 0; i < 400; i++) {
		is = weft_wcluster_pick(wc, &ctx, &e, &why);
		heavy += is == was;
		if (is == was) {
			assert_int_equal(e->weight, 3);
			assert_true(e->canary);
		}
		weft_host_unref(is);
	}
	assert_int_equal(heavy, 300);
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_membership_change), 2);
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_max_host_weight), 3);
	/* unhealthy by the assignment, and then gone */
	bed_endpoints(
		b, "e",
		"cluster_name: e\nendpoints:\n- lb_endpoints:\n"
		"  - health_status: UNHEALTHY\n"
		"    endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}\n"
		"  - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 80}}}\n",
		"3");
	for (int i = 0; i < 10; i++)
		assert_string_equal(bed_pick(b, "e"), "10.0.0.2:80");
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_membership_healthy), 1);
	bed_endpoints(b, "e", "cluster_name: e\n", "4");
	assert_string_equal(bed_pick(b, "e"), "");
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_update_empty), 1);
	weft_host_unref(was);
	bed_free(b);
}

static void bad_endpoints_change_nothing(void **state)
{
	struct bed *b = bed_new(NULL);

	bed_set(b, true, EDS("e", ""));
	bed_endpoints(
		b, "e",
		"cluster_name: e\nendpoints:\n- lb_endpoints: [" ENDPOINT("10.0.0.1", 80) "]\n",
		"1");
	assert_int_equal(bed_endpoints(b, "e",
				       "cluster_name: e\nendpoints:\n- lb_endpoints: [" ENDPOINT(
					       "10.0.0.2", 80) ", " ENDPOINT("host", 80) "]\n",
				       "2"),
			 -EINVAL);
	bed_expect_error(b, "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address: "
			    "must be an IP address");
	assert_int_equal(bed_endpoints(b, "e", "cluster_name: f\n", "3"), -EINVAL);
	bed_expect_error(b, "cluster_name: must be \"e\", is \"f\"");
	assert_string_equal(bed_pick(b, "e"), "10.0.0.1:80");
	bed_free(b);
}

static void drops_are_drops(void **state)
{
	struct bed *b = bed_new(NULL);
	unsigned dropped = 0;

	bed_set(b, true, EDS("e", ""));
	bed_endpoints(b, "e",
		      "cluster_name: e\npolicy: {drop_overloads: [{category: x, drop_percentage: "
		      "{numerator: 250000, denominator: MILLION}}]}\nendpoints:\n- lb_endpoints: "
		      "[" ENDPOINT("10.0.0.1", 80) "]\n",
		      "1");
	for (int i = 0; i < 4000; i++)
		dropped += !*bed_pick(b, "e");
	assert_in_range(dropped, 850, 1150);
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_upstream_rq_drop_overload), dropped);
	bed_free(b);
}

static void original_destinations_are_hosts(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_sockaddr to;
	struct weft_lb_ctx ctx = {.downstream_local = &to};

	assert_int_equal(weft_sockaddr_parse("10.1.2.3:8080", &to), 0);
	assert_int_equal(bed_set(b, true,
				 "name: od\ntype: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\n"
				 "cleanup_interval: 0.05s\n"
				 "original_dst_lb_config: {use_http_header: true, "
				 "upstream_port_override: 99}\n"),
			 1);
	assert_string_equal(weft_clusters_find(b->m, "od")->original_dst_header,
			    "x-envoy-original-dst-host");
	assert_string_equal(bed_pick_with(b, "od", &ctx), "10.1.2.3:99");
	ctx.original_dst = "10.9.9.9:80";
	assert_string_equal(bed_pick_with(b, "od", &ctx), "10.9.9.9:99");
	assert_int_equal(bed_stat(b, "od", WEFT_CLUSTER_membership_total), 2);
	ctx.original_dst = "nonsense";
	assert_string_equal(bed_pick_with(b, "od", &ctx), "");
	assert_int_equal(bed_stat(b, "od", WEFT_CLUSTER_original_dst_host_invalid), 1);
	/* two intervals without use */
	for (int i = 0; i < 100 && bed_stat(b, "od", WEFT_CLUSTER_membership_total); i++)
		event_base_loop(b->w->base, EVLOOP_ONCE);
	assert_int_equal(bed_stat(b, "od", WEFT_CLUSTER_membership_total), 0);
	bed_free(b);
}

static void errors_say_where(void **state)
{
	static const struct {
		const char *yaml, *error;
	} bad[] = {
		{"name: a\ntype: EDS\n", "eds_cluster_config: is required"},
		{STATIC("a", "lb_policy: CLUSTER_PROVIDED\n", ENDPOINT("10.0.0.1", 80)),
		 "lb_policy: CLUSTER_PROVIDED is for clusters of type ORIGINAL_DST"},
		{STATIC("a", "lb_policy: LOAD_BALANCING_POLICY_CONFIG\n", ENDPOINT("10.0.0.1", 80)),
		 "wants load_balancing_policy"},
		{STATIC("a", "lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 100}\n",
			ENDPOINT("10.0.0.1", 80)),
		 "table_size: must be a prime"},
		{STATIC("a",
			"lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 10, "
			"maximum_ring_size: 5}\n",
			ENDPOINT("10.0.0.1", 80)),
		 "minimum_ring_size: must be at most maximum_ring_size"},
		{STATIC("a", "", ENDPOINT("example.com", 80)),
		 "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address."
		 "address: must be an IP address"},
		{"name: a\ntype: LOGICAL_DNS\nload_assignment: {cluster_name: a}\n",
		 "load_assignment: a LOGICAL_DNS cluster must have one endpoint, has 0"},
		{STATIC("a", "circuit_breakers: {per_host_thresholds: [{max_requests: 1}]}\n",
			ENDPOINT("10.0.0.1", 80)),
		 "circuit_breakers.per_host_thresholds[0]: may only have max_connections"},
		{STATIC("a",
			"upstream_bind_config: {source_address: {address: x, port_value: 0}}\n",
			ENDPOINT("10.0.0.1", 80)),
		 "upstream_bind_config.source_address.address: must be an IP address"},
		{STATIC("a",
			"typed_extension_protocol_options: {other: {\"@type\": "
			"type.googleapis.com/google.protobuf.Empty}}\n",
			ENDPOINT("10.0.0.1", 80)),
		 "typed_extension_protocol_options[0]: \"other\" is not supported"},
	};
	struct bed *b = bed_new(NULL);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(bed_set(b, false, bad[i].yaml), -EINVAL);
		bed_expect_error(b, bad[i].error);
	}
	assert_int_equal(weft_clusters_count(b->m, NULL), 0);
	bed_free(b);
}

static void count_view(void *ctx, const struct weft_cluster_view *v)
{
	char *names = ctx;

	sprintf(names + strlen(names), "%s%s ", v->cluster->name, v->warming ? "*" : "");
}

static void views_are_in_order(void **state)
{
	struct bed *b = bed_new(NULL);
	char names[64] = "";

	bed_set(b, true, STATIC("b", "", ENDPOINT("10.0.0.1", 80)));
	bed_set(b, true, EDS("c", ""));
	bed_set(b, true, STATIC("a", "", ENDPOINT("10.0.0.1", 80)));
	weft_clusters_each(b->m, count_view, names);
	assert_string_equal(names, "a b c* ");
	bed_free(b);
}

static void http_options_are_read(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_cluster *c;

	assert_int_equal(
		bed_set(b, false,
			STATIC("h",
			       "typed_extension_protocol_options:\n"
			       "  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n"
			       "    \"@type\": "
			       "type.googleapis.com/"
			       "envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n"
			       "    common_http_protocol_options: {idle_timeout: 7s, "
			       "max_requests_per_connection: 9}\n"
			       "    explicit_http_config: {http2_protocol_options: "
			       "{max_concurrent_streams: 5}}\n"
			       "circuit_breakers: {thresholds: [{priority: HIGH, max_requests: 7, "
			       "retry_budget: {budget_percent: {value: 50}}}]}\n",
			       ENDPOINT("10.0.0.1", 80))),
		1);
	c = weft_clusters_find(b->m, "h");
	assert_int_equal(c->http, WEFT_UP_H2);
	assert_int_equal(c->idle_ms, 7000);
	assert_int_equal(c->max_requests_per_connection, 9);
	assert_int_equal(c->session_h2.h2.max_streams, 5);
	assert_int_equal(c->breaker[WEFT_PRIORITY_HIGH].max_requests, 7);
	assert_true(c->breaker[WEFT_PRIORITY_HIGH].budget_pct == 50);
	assert_int_equal(c->breaker[WEFT_PRIORITY_DEFAULT].max_requests, 1024);
	assert_true(c->breaker[WEFT_PRIORITY_DEFAULT].budget_pct < 0);
	bed_free(b);
}

/* Every field named here is one that coverage says is acted on; the checker agrees. */
static void the_checker_knows_the_fields(void **state)
{
	static const char *const good[] = {
		"name: a\ntype: EDS\neds_cluster_config: {service_name: s, eds_config: {ads: {}}}\n"
		"connect_timeout: 1s\nper_connection_buffer_limit_bytes: 1000\nlb_policy: "
		"LEAST_REQUEST\n"
		"least_request_lb_config: {choice_count: 3, active_request_bias: {default_value: "
		"0.5, runtime_key: k}, "
		"slow_start_config: {slow_start_window: 5s, aggression: {default_value: 2, "
		"runtime_key: k}, min_weight_percent: {value: 5}}}\n"
		"common_lb_config: {healthy_panic_threshold: {value: 10}, zone_aware_lb_config: "
		"{routing_enabled: {value: 50}, "
		"min_cluster_size: 3, fail_traffic_on_panic: true}, update_merge_window: 1s, "
		"ignore_new_hosts_until_first_hc: true, "
		"close_connections_on_host_set_change: true, override_host_status: {statuses: "
		"[HEALTHY]}}\n"
		"circuit_breakers: {thresholds: [{priority: HIGH, max_connections: 1, "
		"max_pending_requests: 1, max_requests: 1, max_retries: 1, "
		"track_remaining: true, max_connection_pools: 1, retry_budget: {budget_percent: "
		"{value: 1}, min_retry_concurrency: 1}}], "
		"per_host_thresholds: [{max_connections: 4}]}\n"
		"preconnect_policy: {per_upstream_preconnect_ratio: 1.5}\nalt_stat_name: b\n"
		"connection_pool_per_downstream_connection: "
		"true\nclose_connections_on_host_health_failure: true\n"
		"ignore_health_on_host_removal: true\nwait_for_warm_on_init: "
		"false\ncleanup_interval: 5s\n"
		"upstream_connection_options: {tcp_keepalive: {keepalive_time: 5}}\n"
		"upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}, "
		"freebind: true, "
		"socket_options: [{description: d, level: 6, name: 1, int_value: 1, state: "
		"STATE_PREBIND}], "
		"extra_source_addresses: [{address: {address: \"::1\", port_value: 0}}]}\n",
		"name: a\ntype: STATIC\nload_balancing_policy: {policies: "
		"[{typed_extension_config: {name: x, typed_config: "
		"{\"@type\": "
		"type.googleapis.com/"
		"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash, hash_function: "
		"XX_HASH, "
		"minimum_ring_size: 10, maximum_ring_size: 100, consistent_hashing_lb_config: "
		"{use_hostname_for_hashing: true, "
		"hash_balance_factor: 150}, locality_weighted_lb_config: {}}}}]}\n",
		"name: a\ntype: STATIC\nload_balancing_policy: {policies: "
		"[{typed_extension_config: {name: x, typed_config: "
		"{\"@type\": "
		"type.googleapis.com/"
		"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin, "
		"locality_lb_config: {zone_aware_lb_config: {force_local_zone: {min_size: 2}, "
		"locality_basis: HEALTHY_HOSTS_WEIGHT}}}}}]}\n",
	};
	static const char *const refused[][2] = {
		{"name: a\ntype: STATIC\nlb_subset_config: {subset_selectors: [{keys: [v]}]}\n",
		 "lb_subset_config"},
		{"name: a\ntype: STATIC\npreconnect_policy: {predictive_preconnect_ratio: 1.5}\n",
		 "preconnect_policy.predictive_preconnect_ratio"},
		{"name: a\ntype: STATIC\nfilters: [{name: f}]\n", "filters"},
	};
	struct bed *b = bed_new(NULL);
	struct weft_cfg c;
	const ProtobufCMessageDescriptor *d = &envoy__config__cluster__v3__cluster__descriptor;

	for (size_t i = 0; i < 3; i++) {
		c = bed_cfg(b);
		if (weft_cfg_check(&c, NULL, yaml_message(b->a, d, good[i])))
			bed_expect_error(b, "no error at all");
		assert_int_equal(bed_set_only(b, true, good[i]), 1);
	}
	for (size_t i = 0; i < 3; i++) {
		c = bed_cfg(b);
		assert_int_equal(weft_cfg_check(&c, NULL, yaml_message(b->a, d, refused[i][0])),
				 -EINVAL);
		bed_expect_error(b, refused[i][1]);
	}
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_static_cluster_serves),
		cmocka_unit_test(a_replaced_cluster_is_a_new_one),
		cmocka_unit_test(the_bootstraps_are_not_xds),
		cmocka_unit_test(eds_warms_until_endpoints_come),
		cmocka_unit_test(eds_gives_up_waiting),
		cmocka_unit_test(services_are_shared),
		cmocka_unit_test(hosts_keep_their_identity),
		cmocka_unit_test(bad_endpoints_change_nothing),
		cmocka_unit_test(drops_are_drops),
		cmocka_unit_test(original_destinations_are_hosts),
		cmocka_unit_test(errors_say_where),
		cmocka_unit_test(views_are_in_order),
		cmocka_unit_test(http_options_are_read),
		cmocka_unit_test(the_checker_knows_the_fields),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
