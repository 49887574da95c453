/* Ten thousand clusters: time, memory, and one changed endpoint among them.
 * also built: release */
#include "build.h"

#include <malloc.h>

enum { CLUSTERS = 10000 };

static uint64_t now_us(void)
{
	return weft_now_ns() / 1000;
}

static size_t heap(void)
{
	struct mallinfo2 i = mallinfo2();

	return i.uordblks + i.hblkhd;
}

static const Envoy__Config__Cluster__V3__Cluster *message(struct weft_arena *a, int i, bool eds)
{
	char text[1024], name[64];

	snprintf(name, sizeof(name), "outbound|80||svc-%d.default.svc.cluster.local", i);
	if (eds)
		snprintf(text, sizeof(text),
			 "name: %s\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n",
			 name);
	else
		snprintf(text, sizeof(text),
			 "name: %s\ntype: STATIC\nconnect_timeout: 1s\nload_assignment: "
			 "{cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: "
			 "{socket_address: {address: 10.0.%d.%d, port_value: 8080}}}}]}]}\n",
			 name, name, i / 250, i % 250);
	return yaml_message(a, &envoy__config__cluster__v3__cluster__descriptor, text);
}

static void many_static(void **state)
{
	static const Envoy__Config__Cluster__V3__Cluster *m[CLUSTERS];
	struct weft_arena *a = weft_arena_new(1 << 20);
	struct bed *b = bed_new(NULL);
	struct weft_cfg c = bed_cfg(b);
	uint64_t t0, t1, t2;
	size_t before, after;

	for (int i = 0; i < CLUSTERS; i++)
		m[i] = message(a, i, false);
	before = heap();
	t0 = now_us();
	for (int i = 0; i < CLUSTERS; i++)
		assert_int_equal(weft_clusters_set(b->m, &c, NULL, m[i], "v1", true), 1);
	t1 = now_us();
	bed_run(b);
	t2 = now_us();
	after = heap();
	print_message("# %d clusters: %llu us on the main thread, %llu us on the worker, %zu bytes "
		      "each\n",
		      CLUSTERS, (unsigned long long)(t1 - t0), (unsigned long long)(t2 - t1),
		      (after - before) / CLUSTERS);
#ifndef __SANITIZE_ADDRESS__
	assert_true((after - before) / CLUSTERS < 6000);
#endif
	assert_string_equal(bed_pick(b, "outbound|80||svc-9999.default.svc.cluster.local"),
			    "10.0.39.249:8080");
	bed_free(b);
	weft_arena_free(a);
}

/* What one change costs does not depend on how many clusters there are: printed, not judged, for
 * machines are busy. */
static uint64_t cost(int clusters)
{
	struct bed *b = bed_new(NULL);
	struct weft_arena *a = weft_arena_new(1 << 20);
	struct weft_cfg c = bed_cfg(b);
	uint64_t best = UINT64_MAX;
	char text[512];
	const char *name = "outbound|80||svc-5.default.svc.cluster.local";

	for (int i = 0; i < clusters; i++)
		weft_clusters_set(b->m, &c, NULL, message(a, i, true), "v1", true);
	for (int i = 0; i < 100; i++) {
		const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *m;
		uint64_t t0;

		snprintf(
			text, sizeof(text),
			"cluster_name: %s\nendpoints: [{lb_endpoints: [{load_balancing_weight: %d, "
			"endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: "
			"80}}}}, {endpoint: {address: {socket_address: {address: 10.0.0.2, "
			"port_value: 80}}}}]}]\n",
			name, i + 1);
		m = yaml_message(
			a, &envoy__config__endpoint__v3__cluster_load_assignment__descriptor, text);
		t0 = weft_now_ns();
		assert_int_equal(weft_clusters_endpoints(b->m, &c, NULL, name, m, "v"), 0);
		bed_run(b);
		if (weft_now_ns() - t0 < best)
			best = weft_now_ns() - t0;
	}
	bed_free(b);
	weft_arena_free(a);
	return best;
}

static void one_change_costs_the_same(void **state)
{
	uint64_t few = cost(10), many = cost(CLUSTERS);

	print_message("# one changed endpoint: %llu ns with 10 clusters, %llu ns with %d\n",
		      (unsigned long long)few, (unsigned long long)many, CLUSTERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_static),
		cmocka_unit_test(one_change_costs_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
