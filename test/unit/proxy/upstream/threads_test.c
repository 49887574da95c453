/* Workers pick while the main thread changes endpoints, configurations and health.
 * also built: tsan */
#include "build.h"

#include <stdatomic.h>

enum { WORKERS = 2, PICKS = 200, ROUNDS = 150 };

struct load {
	_Atomic unsigned left;
	_Atomic bool stop;
	_Atomic unsigned picked, none;
};

static void on_pick(struct weft_worker *w, void *arg)
{
	struct load *l = arg;
	struct weft_wcluster *wc = weft_wcluster_find(w, "c");

	for (int i = 0; wc && i < PICKS; i++) {
		struct weft_lb_ctx ctx = {.random = weft_rand64(), .now_ns = weft_now_ns()};
		const struct weft_endpoint_entry *e;
		const char *why;
		struct weft_host *h = weft_wcluster_pick(wc, &ctx, &e, &why);

		if (!h) {
			l->none++;
			continue;
		}
		l->picked++;
		assert_ptr_equal(e->host, h);
		weft_host_outcome(wc, h, WEFT_OUT_CODE, i % 3 ? 500 : 200);
		atomic_fetch_add(&h->rq_active, 1);
		atomic_fetch_sub(&h->rq_active, 1);
		weft_host_unref(h);
	}
	if (l->stop)
		l->left--;
	else
		weft_worker_post(w, on_pick, l);
}

static void workers_see_whole_sets(void **state)
{
	static const char *const policies[] = {"ROUND_ROBIN", "LEAST_REQUEST", "RING_HASH",
					       "MAGLEV"};
	struct weft_worker *main = weft_worker_new(-1, NULL), *w[WORKERS];
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = a, .errs = &errs};
	struct load l = {.left = WORKERS};
	struct weft_clusters_conf conf = {.base = main->base, .workers = w, .n_workers = WORKERS};
	struct weft_clusters *m;

	for (int i = 0; i < WORKERS; i++)
		w[i] = weft_worker_new(i, NULL);
	m = weft_clusters_new(&conf);
	for (int i = 0; i < WORKERS; i++) {
		assert_int_equal(weft_worker_start(w[i], false), 0);
		weft_worker_post(w[i], on_pick, &l);
	}
	for (int round = 0; round < ROUNDS; round++) {
		char text[2048];
		size_t at;

		if (round % 25 == 0) {
			snprintf(text, sizeof(text),
				 "name: c\ntype: EDS\nlb_policy: %s\nmaglev_lb_config: "
				 "{table_size: 251}\n"
				 "eds_cluster_config: {eds_config: {ads: {}}}\ncommon_lb_config: "
				 "{update_merge_window: 0s}\noutlier_detection: "
				 "{max_ejection_percent: 50}\n",
				 policies[round / 25 % 4]);
			if (round / 25 % 4 != 3)
				strcpy(strstr(text, "maglev_lb"),
				       "eds_cluster_config: {eds_config: {ads: "
				       "{}}}\noutlier_detection: "
				       "{max_ejection_percent: 50}\n");
			weft_clusters_set(
				m, &c, NULL,
				yaml_message(a, &envoy__config__cluster__v3__cluster__descriptor,
					     text),
				"v", true);
		}
		at = (size_t)snprintf(text, sizeof(text),
				      "cluster_name: c\nendpoints:\n- lb_endpoints:\n");
		for (int i = 0; i < 1 + round % 7; i++)
			at += (size_t)snprintf(text + at, sizeof(text) - at,
					       "  - {load_balancing_weight: %d, endpoint: "
					       "{address: {socket_address: "
					       "{address: 10.0.0.%d, port_value: 80}}}}\n",
					       1 + round % 3, round % 11 + i);
		assert_int_equal(
			weft_clusters_endpoints(
				m, &c, NULL, "c",
				yaml_message(
					a,
					&envoy__config__endpoint__v3__cluster_load_assignment__descriptor,
					text),
				"v"),
			0);
		event_base_loop(main->base, EVLOOP_NONBLOCK);
	}
	while (l.picked < PICKS)
		event_base_loop(main->base, EVLOOP_NONBLOCK);
	weft_clusters_remove(m, "c");
	l.stop = true;
	while (l.left)
		event_base_loop(main->base, EVLOOP_NONBLOCK);
	for (int i = 0; i < WORKERS; i++) {
		weft_worker_stop(w[i]);
		weft_worker_join(w[i]);
	}
	weft_clusters_free(m);
	for (int i = 0; i < WORKERS; i++)
		weft_worker_free(w[i]);
	weft_worker_free(main);
	weft_arena_free(a);
	assert_int_equal(errs.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workers_see_whole_sets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
