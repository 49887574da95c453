/* Statistics under Envoy's names: text, JSON, Prometheus, histograms, threads, memory.
 * also built: tsan */
#include "proxy/core/scope_buckets.h"

#include <errno.h>
#include <event2/buffer.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { RQ_TOTAL, CX_ACTIVE, RQ_TIME, ITEMS = 40 };
static const struct weft_scope_item items[ITEMS] = {
	[RQ_TOTAL] = {"upstream_rq_total", WEFT_COUNTER, "Requests"},
	[CX_ACTIVE] = {"upstream_cx_active", WEFT_GAUGE, "Connections open"},
	[RQ_TIME] = {"upstream_rq_time", WEFT_HISTOGRAM, "Time, in milliseconds"},
};
static const struct weft_scope_class cluster = {
	.prefix = "cluster",
	.tag = "envoy_cluster_name",
	.v = items,
	.n = 3,
	.codes = true,
	.code_item = "upstream_rq",
};
static const struct weft_scope_item listener_items[] = {
	{"downstream_rq_2xx", WEFT_COUNTER, "Answers 200 to 299"},
	{"downstream_rq_time", WEFT_HISTOGRAM, "Time, in milliseconds"},
};
static const struct weft_scope_class listener = {
	.prefix = "listener",
	.tag = "envoy_listener_address",
	.v = listener_items,
	.n = 2,
	.infix = "http",
	.tag2 = "envoy_http_conn_manager_prefix",
};
static const struct weft_scope_item server_items[] = {{"uptime", WEFT_GAUGE, "Seconds"}};
static const struct weft_scope_class server = {.prefix = "server", .v = server_items, .n = 1};

enum form { TEXT, JSON, PROM };
static char *page(enum form f, const struct weft_scope_query *q)
{
	static const struct weft_scope_query all = {0};
	struct evbuffer *b = evbuffer_new();
	char *text;
	size_t n;
	int err;

	q = q ? q : &all;
	err = f == TEXT	  ? weft_scope_text(b, q)
	      : f == JSON ? weft_scope_json(b, q)
			  : weft_scope_prometheus(b, q);
	assert_int_equal(err, 0);
	n = evbuffer_get_length(b);
	text = calloc(1, n + 1);
	assert_non_null(text);
	evbuffer_remove(b, text, n);
	evbuffer_free(b);
	return text;
}

static void expect(enum form f, const struct weft_scope_query *q, const char *part, int there)
{
	char *text = page(f, q);

	if (!!strstr(text, part) != there)
		print_message("# wanted%s: %s\n# in:\n%s", there ? "" : " none of", part, text);
	assert_int_equal(!!strstr(text, part), there);
	free(text);
}

static void text_has_envoys_names(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "a.b"),
			  *t = weft_scope_get(&cluster, "a.b");
	const struct weft_scope_query used = {.used_only = true}, re = {.filter = "cx_a.*e$"},
				      kind = {.type = "Gauges"};

	assert_ptr_equal(s, t);
	assert_string_equal(weft_scope_name(s), "a.b");
	weft_scope_add(s, RQ_TOTAL, 5);
	weft_scope_code(s, 200);
	weft_scope_code(s, 200);
	weft_scope_code(s, 204);
	weft_scope_code(s, 503);
	weft_scope_code(s, 99);
	weft_scope_add_named(s, "external.upstream_rq_200", 1);
	expect(TEXT, NULL, "cluster.a.b.upstream_rq_total: 5\n", 1);
	expect(TEXT, NULL, "cluster.a.b.upstream_rq_200: 2\n", 1);
	expect(TEXT, NULL, "cluster.a.b.upstream_rq_2xx: 3\n", 1);
	expect(TEXT, NULL, "cluster.a.b.upstream_rq_completed: 4\n", 1);
	expect(TEXT, NULL, "cluster.a.b.external.upstream_rq_200: 1\n", 1);
	expect(TEXT, NULL, "cluster.a.b.upstream_rq_time: No recorded values\n", 1);
	expect(TEXT, NULL, "cluster.a.b.upstream_cx_active: 0\n", 1);
	expect(TEXT, &used, "upstream_cx_active", 0);
	weft_scope_set(s, CX_ACTIVE, 0);
	expect(TEXT, &used, "cluster.a.b.upstream_cx_active: 0\n", 1);
	expect(TEXT, &re, "cluster.a.b.upstream_cx_active: 0\n", 1);
	expect(TEXT, &re, "upstream_rq_total", 0);
	expect(TEXT, &kind, "upstream_rq_total", 0);
	expect(TEXT, &kind, "upstream_cx_active", 1);
	weft_scope_unref(t);
	expect(TEXT, NULL, "cluster.a.b", 1);
	weft_scope_unref(s);
	expect(TEXT, NULL, "cluster.a.b", 0);
}

static void names_are_in_order(void **state)
{
	struct weft_scope *b = weft_scope_get(&cluster, "b"), *a = weft_scope_get(&cluster, "a");
	const struct weft_scope_query kinds = {.type = "Counters"};
	char *text, *line, *save = NULL, last[256] = "";

	weft_scope_add_named(a, "zone.x", 1);
	weft_scope_code(a, 404);
	text = page(TEXT, &kinds);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		assert_true(strcmp(last, line) < 0);
		snprintf(last, sizeof(last), "%s", line);
	}
	free(text);
	weft_scope_unref(a);
	weft_scope_unref(b);
}

static void a_bad_filter_is_refused(void **state)
{
	struct evbuffer *b = evbuffer_new();
	const struct weft_scope_query q = {.filter = "("};

	assert_int_equal(weft_scope_text(b, &q), -EINVAL);
	assert_int_equal(weft_scope_json(b, &q), -EINVAL);
	assert_int_equal(weft_scope_prometheus(b, &q), -EINVAL);
	assert_int_equal(evbuffer_get_length(b), 0);
	evbuffer_free(b);
}

static void histograms_have_envoys_quantiles(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "h");

	weft_scope_record(s, RQ_TIME, 1);
	expect(TEXT, NULL,
	       "upstream_rq_time: P0(nan,1) P25(nan,1.025) P50(nan,1.05) P75(nan,1.075) "
	       "P90(nan,1.09) P95(nan,1.095) P99(nan,1.099) P99.5(nan,1.0995) P99.9(nan,1.0999) "
	       "P100(nan,1.1)\n",
	       1);
	weft_scope_flush();
	expect(TEXT, NULL, "P25(1.025,1.025)", 1);
	weft_scope_flush();
	expect(TEXT, NULL, "P25(nan,1.025)", 1);
	for (int i = 0; i < 3; i++)
		weft_scope_record(s, RQ_TIME, 0);
	expect(TEXT, NULL, "P50(nan,0)", 1);
	weft_scope_record(s, RQ_TIME, 123456);
	expect(TEXT, NULL, "P100(nan,130000)", 1);
	weft_scope_record(s, RQ_TIME, UINT64_MAX);
	assert_int_equal(weft_scope_value(s, RQ_TIME), 6);
	weft_scope_reset_counters();
	expect(TEXT, NULL, "upstream_rq_time: No recorded values", 1);
	weft_scope_record_named(s, "external.upstream_rq_time", 7);
	expect(TEXT, NULL, "cluster.h.external.upstream_rq_time: P0(nan,7)", 1);
	assert_int_equal(weft_scope_value_named(s, "external.upstream_rq_time"), 1);
	weft_scope_unref(s);
}

/* Quantiles against the sorted values themselves. */
static void quantiles_are_near_the_truth(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "q");
	char *text, *at;
	double p50, p99;

	for (unsigned i = 0; i < 10000; i++)
		weft_scope_record(s, RQ_TIME, i);
	text = page(TEXT, &(struct weft_scope_query){.filter = "cluster\\.q\\.upstream_rq_time"});
	at = strstr(text, "P50(nan,");
	assert_non_null(at);
	p50 = atof(at + 8);
	at = strstr(text, "P99(nan,");
	assert_non_null(at);
	p99 = atof(at + 8);
	assert_true(p50 > 4950 && p50 < 5050);
	assert_true(p99 > 9850 && p99 < 9950);
	free(text);
	weft_scope_unref(s);
}

static void prometheus_has_labels(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "x\"y\\z"),
			  *l = weft_scope_get(&listener, "0.0.0.0_80.http.ingress"),
			  *one = weft_scope_get(&server, ""), *v = weft_scope_get(&cluster, "v");

	weft_scope_add(s, RQ_TOTAL, 2);
	weft_scope_code(v, 204);
	weft_scope_code(v, 418);
	weft_scope_record(v, RQ_TIME, 7);
	weft_scope_add(l, 0, 3);
	weft_scope_set(one, 0, 12);
	weft_scope_add_named(v, "grpc.pkg.Svc.Method.success", 1);
	weft_scope_add_named(v, "external.upstream_rq_200", 1);
	weft_scope_global_set("listener_manager.total_listeners_active", WEFT_GAUGE, 4);
	weft_scope_global_add("vhost.shop.vcluster.cart.upstream_rq_503", WEFT_COUNTER, 9);
	expect(PROM, NULL,
	       "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"x\\\"y\\\\z\"} 2\n", 1);
	expect(PROM, NULL, "# TYPE envoy_cluster_upstream_rq counter\n", 1);
	expect(PROM, NULL,
	       "envoy_cluster_upstream_rq{envoy_response_code=\"204\",envoy_cluster_name=\"v\"} "
	       "1\n",
	       1);
	expect(PROM, NULL,
	       "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"4\",envoy_cluster_name="
	       "\"v\"} "
	       "1\n",
	       1);
	expect(PROM, NULL,
	       "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_"
	       "listener_"
	       "address=\"0.0.0.0_80\",envoy_http_conn_manager_prefix=\"ingress\"} 3\n",
	       1);
	expect(PROM, NULL, "envoy_server_uptime{} 12\n", 1);
	expect(PROM, NULL, "envoy_listener_manager_total_listeners_active{} 4\n", 1);
	expect(PROM, NULL, "envoy_vhost_vcluster_upstream_rq{envoy_virtual_host=\"shop\"", 1);
	expect(PROM, NULL,
	       "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"v\",le=\"5\"} 0\n", 1);
	expect(PROM, NULL,
	       "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"v\",le=\"10\"} 1\n", 1);
	expect(PROM, NULL, "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"v\"} 7\n", 1);
	expect(PROM, NULL, "envoy_bridge_method", 0);
	weft_scope_unref(v);
	weft_scope_unref(s);
	weft_scope_unref(l);
	weft_scope_unref(one);
}

static void promtool_takes_it(void **state)
{
	struct weft_scope *v[20];
	char name[64], path[] = "/tmp/weft-scope-XXXXXX", cmd[256], *text, line[256];
	int fd = mkstemp(path), bad = 0;
	FILE *out;

	assert_true(fd >= 0);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "svc-%d.default", i);
		v[i] = weft_scope_get(&cluster, name);
		weft_scope_add(v[i], RQ_TOTAL, i);
		weft_scope_code(v[i], 200);
		weft_scope_record(v[i], RQ_TIME, 17);
	}
	text = page(PROM, NULL);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	/* what it says of Envoy's own choice of names (no _total) is no error */
	snprintf(cmd, sizeof(cmd), "promtool check metrics < %s 2>&1", path);
	out = popen(cmd, "r");
	assert_non_null(out);
	while (fgets(line, sizeof(line), out))
		if (strstr(line, "error") || strstr(line, "not found")) {
			print_message("# %s", line);
			bad++;
		}
	pclose(out);
	unlink(path);
	assert_int_equal(bad, 0);
	free(text);
	for (int i = 0; i < 20; i++)
		weft_scope_unref(v[i]);
}

static void json_is_json(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "j\"1");
	char *text;
	json_t *j, *stats;
	int seen = 0;

	weft_scope_add(s, RQ_TOTAL, 5);
	weft_scope_record(s, RQ_TIME, 3);
	text = page(JSON, NULL);
	j = json_loads(text, 0, NULL);
	assert_non_null(j);
	stats = json_object_get(j, "stats");
	for (size_t i = 0; i < json_array_size(stats); i++) {
		json_t *e = json_array_get(stats, i);
		const char *name = json_string_value(json_object_get(e, "name"));

		if (name && !strcmp(name, "cluster.j\"1.upstream_rq_total"))
			seen += json_integer_value(json_object_get(e, "value")) == 5;
		if (json_object_get(e, "histograms"))
			seen += json_array_size(json_object_get(json_object_get(e, "histograms"),
								"computed_quantiles")) > 0;
	}
	assert_int_equal(seen, 2);
	json_decref(j);
	free(text);
	weft_scope_unref(s);
}

/* /stats?histogram_buckets= */
static void histograms_by_bucket(void **state)
{
	static const struct weft_scope_query q = {.filter = "^cluster.buck.upstream_rq_time"};
	static const struct {
		enum weft_scope_buckets how;
		bool json;
		const char *part;
	} v[] = {
		{WEFT_BUCKETS_CUMULATIVE, false,
		 "upstream_rq_time: B0.5(0,1) B1(0,1) B5(0,3) B10("},
		{WEFT_BUCKETS_DISJOINT, false, " B0.5(0,1) B1(0,0) B5(0,2) B10(0,0) "},
		{WEFT_BUCKETS_DISJOINT, false, " B1000(0,1) "},
		{WEFT_BUCKETS_DETAILED, false,
		 "\n  totals=0,0:1, 3,0.1:2, 700,10:1\n  intervals=\n"},
		{WEFT_BUCKETS_DETAILED, false, "\n  summary=P0(nan,0) "},
		{WEFT_BUCKETS_SUMMARY, false, ": P0(nan,0) P25("},
		{WEFT_BUCKETS_CUMULATIVE, true,
		 "{\"histograms\":[{\"name\":\"cluster.buck.upstream_rq_time\",\"buckets\":[{"
		 "\"upper_"
		 "bound\":0.5,\"interval\":0,\"cumulative\":1},"},
		{WEFT_BUCKETS_DISJOINT, true,
		 "{\"upper_bound\":3600000,\"interval\":0,\"cumulative\":0}]}]}]}"},
		{WEFT_BUCKETS_DETAILED, true,
		 "\"totals\":[{\"lower_bound\":0,\"width\":0,\"count\":1},{\"lower_bound\":3,"},
		{WEFT_BUCKETS_DETAILED, true,
		 "\"intervals\":[],\"percentiles\":[{\"interval\":null,"},
	};
	struct weft_scope *s = weft_scope_get(&cluster, "buck");
	char text[8192];

	weft_scope_record(s, RQ_TIME, 0);
	weft_scope_record(s, RQ_TIME, 3);
	weft_scope_record(s, RQ_TIME, 3);
	weft_scope_record(s, RQ_TIME, 700);
	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct evbuffer *b = evbuffer_new();
		int n;

		assert_int_equal(v[i].json ? weft_scope_json_as(b, &q, v[i].how)
					   : weft_scope_text_as(b, &q, v[i].how),
				 0);
		n = evbuffer_remove(b, text, sizeof(text) - 1);
		text[n] = 0;
		if (!strstr(text, v[i].part))
			print_message("# wanted: %s\n# in: %s\n", v[i].part, text);
		assert_non_null(strstr(text, v[i].part));
		evbuffer_free(b);
	}
	weft_scope_unref(s);
}

/* No histogram asked for: none is told of. */
static void json_without_histograms(void **state)
{
	static const struct weft_scope_query q = {.filter = "^cluster.noh.upstream_rq_total"};
	struct weft_scope *s = weft_scope_get(&cluster, "noh");
	char *text = page(JSON, &q);

	assert_string_equal(
		text, "{\"stats\":[{\"name\":\"cluster.noh.upstream_rq_total\",\"value\":0}]}");
	free(text);
	weft_scope_unref(s);
}

static void names_by_use_are_bounded(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "many");
	char name[32];

	for (int i = 0; i < 10100; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		weft_scope_add_named(s, name, 1);
	}
	assert_int_equal(weft_scope_value_named(s, "n9999"), 1);
	assert_int_equal(weft_scope_value_named(s, "n10000"), 0);
	weft_scope_unref(s);
}

static void *hammer(void *arg)
{
	struct weft_scope *s = weft_scope_get(&cluster, "threads");
	char name[32];

	for (unsigned i = 0; i < 5000; i++) {
		weft_scope_add(s, RQ_TOTAL, 1);
		weft_scope_record(s, RQ_TIME, i % 1000);
		weft_scope_code(s, 200 + i % 7);
		snprintf(name, sizeof(name), "n%u", i % 50);
		weft_scope_add_named(s, name, 1);
	}
	weft_scope_unref(s);
	return NULL;
}

static void threads_lose_nothing(void **state)
{
	struct weft_scope *s = weft_scope_get(&cluster, "threads");
	pthread_t t[4];
	int64_t named = 0;
	char name[32];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, hammer, NULL), 0);
	for (int i = 0; i < 5; i++) {
		free(page(TEXT, NULL));
		free(page(PROM, NULL));
		weft_scope_flush();
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(weft_scope_value(s, RQ_TOTAL), 20000);
	assert_int_equal(weft_scope_value(s, RQ_TIME), 20000);
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		named += weft_scope_value_named(s, name);
	}
	assert_int_equal(named, 20000);
	expect(TEXT, NULL, "cluster.threads.upstream_rq_completed: 20000\n", 1);
	weft_scope_unref(s);
}

static void idle_clusters_are_small(void **state)
{
	static struct weft_scope_item many[140];
	static struct weft_scope *v[10000];
	static const struct weft_scope_class big = {
		.prefix = "cluster", .tag = "envoy_cluster_name", .v = many, .n = 140};
	size_t before = weft_scope_bytes();
	char name[64];

	for (unsigned i = 0; i < 140; i++)
		many[i] = (struct weft_scope_item){"x", WEFT_COUNTER, ""};
	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "outbound|80||svc-%d.default.svc.cluster.local", i);
		v[i] = weft_scope_get(&big, name);
		for (unsigned k = 0; k < 15; k++)
			weft_scope_add(v[i], k, 1);
	}
	assert_true(weft_scope_bytes() - before < 5 << 20);
	for (int i = 0; i < 10000; i++)
		weft_scope_unref(v[i]);
	assert_int_equal(weft_scope_bytes(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_has_envoys_names),
		cmocka_unit_test(names_are_in_order),
		cmocka_unit_test(a_bad_filter_is_refused),
		cmocka_unit_test(histograms_have_envoys_quantiles),
		cmocka_unit_test(quantiles_are_near_the_truth),
		cmocka_unit_test(prometheus_has_labels),
		cmocka_unit_test(promtool_takes_it),
		cmocka_unit_test(json_is_json),
		cmocka_unit_test(histograms_by_bucket),
		cmocka_unit_test(json_without_histograms),
		cmocka_unit_test(names_by_use_are_bounded),
		cmocka_unit_test(threads_lose_nothing),
		cmocka_unit_test(idle_clusters_are_small),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
