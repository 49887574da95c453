/* grpc_stats: calls and messages, by method and together. */
#include "test/unit/proxy/http/filters/filter_fix.h"
#include "test/unit/proxy/upstream/build.h"

/* its counters, under another name for the filter */
#define weft_http_filter_grpc_stats test_grpc_stats
#include "proxy/http/filters/grpc_stats.c"
#undef weft_http_filter_grpc_stats

#define STATS(body) "{name: g, typed_config: {" TYPE "grpc_stats.v3.FilterConfig, " body "}}"
#define CALL(path, type)                                                                           \
	"POST " path " HTTP/1.1\r\nhost: a\r\ncontent-type: " type "\r\ncontent-length: "          \
	"12\r\n\r\n"
#define TWO "\0\0\0\0\2ab\1\0\0\0\0"

static struct weft_worker *boss;
static struct weft_clusters *all;

static struct env *open_with(const char *filter, const char *cluster)
{
	struct env *e = filter_open(filter, NULL);
	struct weft_clusters_conf conf = {.n_workers = 1, .workers = &e->w};
	char yaml[128];

	boss = weft_worker_new(-1, NULL);
	conf.base = boss->base;
	all = weft_clusters_new(&conf);
	snprintf(yaml, sizeof(yaml), "{name: up, type: STATIC, alt_stat_name: %s}", cluster);
	assert_int_equal(
		weft_clusters_set(
			all, &e->cfg, NULL,
			yaml_message(e->a, &envoy__config__cluster__v3__cluster__descriptor, yaml),
			"1", false),
		1);
	for (int i = 0; i < 10; i++) {
		event_base_loop(boss->base, EVLOOP_NONBLOCK);
		turn(e, 1);
	}
	return e;
}

static void shut(struct env *e)
{
	close(e->fd);
	e->fd = -1;
	for (int i = 0; i < 2000 && e->ch; i++)
		turn(e, 1);
	weft_clusters_free(all);
	env_free(e);
	weft_worker_free(boss);
}

static void call(struct env *e, const char *head)
{
	e->n = 0;
	say(e, head);
	assert_int_equal(write(e->fd, TWO, 12), 12);
	turn(e, 0);
	assert_true(has(e, "200 OK"));
}

static void by_method(void **state)
{
	struct env *e = open_with(
		STATS("stats_for_all_methods: true, replace_dots_in_grpc_service_name: true"), "m");

	call(e, CALL("/a.svc/Call", "application/grpc"));
	call(e, CALL("/a.svc/Call?q", "application/grpc+proto"));
	assert_int_equal(named("cluster", "m", "grpc.a_svc.Call.request_message_count"), 4);
	call(e, CALL("/a.svc/Call", "text/plain"));
	call(e, CALL("/only", "application/grpc"));
	call(e, CALL("/a/b/c", "application/grpc"));
	assert_int_equal(named("cluster", "m", "grpc.a_svc.Call.request_message_count"), 4);
	assert_int_equal(named("cluster", "m", "grpc.request_message_count"), -1);
	shut(e);
}

static void together(void **state)
{
	struct env *e = open_with(STATS("individual_method_stats_allowlist: {services: [{name: s, "
					"method_names: [B, A]}]}"),
				  "t");

	call(e, CALL("/s/A", "application/grpc"));
	call(e, CALL("/s/C", "application/grpc"));
	call(e, CALL("/s", "application/grpc")); /* no call */
	call(e, CALL("/s/C/d", "application/grpc"));
	assert_int_equal(named("cluster", "t", "grpc.s.A.request_message_count"), 2);
	assert_int_equal(named("cluster", "t", "grpc.request_message_count"), 2);
	shut(e);
}

static void statuses(void **state)
{
	struct env *e = open_with(STATS("stats_for_all_methods: true"), "s");

	/* the terminal filter answers without a status; local replies have one */
	term.status = 0;
	say(e, CALL("/s/M", "application/grpc"));
	assert_int_equal(write(e->fd, TWO, 12), 12);
	turn(e, 0);
	weft_stream_reply(term.s, 503, "test", "no", NULL, NULL);
	turn(e, 0);
	assert_int_equal(named("cluster", "s", "grpc.s.M.14"), 1);
	assert_int_equal(named("cluster", "s", "grpc.s.M.failure"), 1);
	assert_int_equal(named("cluster", "s", "grpc.s.M.total"), 1);
	shut(e);
}

/* How long calls took is counted only when wanted. */
static void times(void **state)
{
	static const char *const conf[] = {
		STATS("stats_for_all_methods: true"),
		STATS("stats_for_all_methods: true, enable_upstream_stats: true")};

	for (int on = 0; on < 2; on++) {
		struct env *e = open_with(conf[on], "u");
		const struct weft_wcluster *wc = weft_wcluster_find(e->w, "up");

		term.status = 0;
		say(e, CALL("/s/M", "application/grpc"));
		assert_int_equal(write(e->fd, TWO, 12), 12);
		turn(e, 0);
		weft_stream_info(term.s)->up_last_tx_ns = 1000000;
		weft_stream_info(term.s)->up_last_rx_ns = 8000000;
		answer(term.s, 200, NULL, true);
		turn(e, 0);
		assert_true(has(e, "200 OK"));
		assert_int_equal(
			weft_scope_value_named(wc->cluster->scope, "grpc.s.M.upstream_rq_time"),
			on);
		shut(e);
	}
}

/* Cut anywhere, the same messages are counted. */
static void frames(void **state)
{
	static const uint8_t bytes[] = "\0\0\0\0\2ab\1\0\0\0\0\0\0\0\1\0";
	uint8_t text[272] = {0};

	memcpy(text, bytes, 17);
	for (size_t cut = 0; cut <= sizeof(text); cut++) {
		struct frames f = {0};
		unsigned n = frames_in(&f, text, cut);

		n += frames_in(&f, text + cut, sizeof(text) - cut);
		assert_int_equal(n, 3);
		assert_int_equal(f.left, 1);
	}
}

static void refuses(void **state)
{
	struct weft_errs errs = {0};
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = &errs};

	weft_cfg_check(&c, NULL,
		       yaml_message(a, weft_http_filter_grpc_stats.ext.config,
				    "{emit_filter_state: true}"));
	assert_int_equal(errs.n, 1);
	assert_string_equal(errs.v[0].path, "emit_filter_state");
	weft_arena_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_method), cmocka_unit_test(together), cmocka_unit_test(statuses),
		cmocka_unit_test(times),     cmocka_unit_test(frames),	 cmocka_unit_test(refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
