/* What of the bootstrap stands beside clusters and listeners: read from text, and its effect. */
#include "proxy/core/scope.h"
#include "proxy/l4/local_health.h"
#include "proxy/upstream/dns.h"
#include "test/unit/proxy/waypoint/listener_fix.h"

#include <event2/buffer.h>

#define EXT "type.googleapis.com/envoy.extensions."

static struct bootstrap boot;

static int load(const char *yaml)
{
	struct waypoint_options opt = {.config_yaml = yaml};

	memset(&f.errs, 0, sizeof(f.errs));
	memset(&f.warns, 0, sizeof(f.warns));
	return bootstrap_load(&opt, &boot, &f.errs, &f.warns, NULL);
}

static void fails(const char *yaml, const char *path, const char *why)
{
	assert_int_equal(load(yaml), -EINVAL);
	assert_string_equal(f.errs.v[0].path, path);
	if (!strstr(f.errs.v[0].msg, why))
		fail_msg("%s: %s", path, f.errs.v[0].msg);
	bootstrap_free(&boot);
}

static void regex_engine(void **state)
{
	assert_int_equal(load("default_regex_engine: {name: r, typed_config: {\"@type\": " EXT
			      "regex_engines.v3.GoogleRE2}}"),
			 0);
	bootstrap_free(&boot);
	fails("default_regex_engine: {name: r, typed_config: {\"@type\": " EXT
	      "transport_sockets.raw_buffer.v3.RawBuffer}}",
	      "default_regex_engine.typed_config", "not a regex engine that is supported");
}

static void resolver(void **state)
{
	static const char own[] =
		"name: c\ntype: STRICT_DNS\ndns_resolvers: [{socket_address: {address: 127.0.0.9, "
		"port_value: 5}}]\n";
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = &f.errs, .file = true};
	struct weft_dns_conf conf;

	assert_int_equal(load("typed_dns_resolver_config: {name: c, typed_config: {\"@type\": " EXT
			      "network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: "
			      "[{socket_address: {address: 127.0.0.7, port_value: 77}}]}}"),
			 0);
	assert_int_equal(
		weft_dns_conf_read(
			&c, NULL,
			(const void *)of_text(a, "name: c\ntype: STRICT_DNS\n",
					      &envoy__config__cluster__v3__cluster__descriptor),
			&conf),
		0);
	assert_int_equal(conf.resolver.n_servers, 1);
	assert_int_equal(conf.resolver.servers[0].port, 77);
	assert_int_equal(weft_dns_conf_read(
				 &c, NULL,
				 (const void *)of_text(
					 a, own, &envoy__config__cluster__v3__cluster__descriptor),
				 &conf),
			 0);
	assert_int_equal(conf.resolver.servers[0].port, 5);
	bootstrap_free(&boot);
	assert_int_equal(load("node: {id: x}"), 0); /* the next has none */
	assert_int_equal(
		weft_dns_conf_read(
			&c, NULL,
			(const void *)of_text(a, "name: c\ntype: STRICT_DNS\n",
					      &envoy__config__cluster__v3__cluster__descriptor),
			&conf),
		0);
	assert_int_equal(conf.resolver.n_servers, 0);
	bootstrap_free(&boot);
	weft_arena_free(a);
}

/* All statistics as text, or as Prometheus has them. */
static const char *told(bool prometheus)
{
	static char text[200000];
	struct weft_scope_query q = {0};
	struct evbuffer *b = evbuffer_new();
	int n;

	assert_int_equal(prometheus ? weft_scope_prometheus(b, &q) : weft_scope_text(b, &q), 0);
	n = evbuffer_remove(b, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	evbuffer_free(b);
	return text;
}

static void statistics(void **state)
{
	struct weft_scope *a = weft_scope_get(&weft_listener_scope, "a"),
			  *b = weft_scope_get(&weft_listener_scope, "b");

	weft_scope_record(a, WEFT_LISTENER_downstream_cx_length_ms, 3);
	assert_int_equal(load("stats_config: {}"), 0);
	assert_non_null(strstr(told(false), "listener.a.downstream_cx_total"));
	assert_non_null(strstr(told(true), "le=\"0.5\""));
	bootstrap_free(&boot);
	assert_int_equal(load("stats_config: {stats_matcher: {exclusion_list: {patterns: [{prefix: "
			      "listener.a.}]}}}"),
			 0);
	assert_null(strstr(told(false), "listener.a.downstream_cx_total"));
	assert_non_null(strstr(told(false), "listener.b.downstream_cx_total"));
	bootstrap_free(&boot);
	assert_int_equal(load("stats_config: {stats_matcher: {inclusion_list: {patterns: [{prefix: "
			      "listener.a.}]}}}"),
			 0);
	assert_non_null(strstr(told(false), "listener.a.downstream_cx_total"));
	assert_null(strstr(told(false), "listener.b.downstream_cx_total"));
	bootstrap_free(&boot);
	assert_int_equal(load("stats_config: {stats_matcher: {reject_all: true}}"), 0);
	assert_string_equal(told(false), "");
	bootstrap_free(&boot);
	assert_int_equal(load("stats_config: {use_all_default_tags: true, stats_tags: [{tag_name: "
			      "some.where, fixed_value: here}], histogram_bucket_settings: "
			      "[{match: {prefix: listener.a}, buckets: [4, 2]}]}"),
			 0);
	assert_non_null(strstr(told(true), "some_where=\"here\""));
	assert_non_null(strstr(told(true), "le=\"4\"} 1\n"));
	assert_null(strstr(told(true), "le=\"0.5\""));
	bootstrap_free(&boot);
	assert_int_equal(load("node: {id: x}"), 0);
	assert_null(strstr(told(true), "some_where"));
	bootstrap_free(&boot);
	fails("stats_config: {use_all_default_tags: false}", "stats_config.use_all_default_tags",
	      "false is not supported");
	fails("stats_config: {stats_tags: [{tag_name: t, regex: a}]}",
	      "stats_config.stats_tags[0].regex", "is not supported");
	fails("stats_config: {histogram_bucket_settings: [{match: {exact: a}}]}",
	      "stats_config.histogram_bucket_settings[0].buckets", "must be 1..100");
	weft_scope_unref(a);
	weft_scope_unref(b);
}

static void connections(void **state)
{
	assert_int_equal(
		load("overload_manager: {resource_monitors: [{name: "
		     "envoy.resource_monitors.global_downstream_max_connections, typed_config: "
		     "{\"@type\": " EXT
		     "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, "
		     "max_active_downstream_connections: 12}}]}"),
		0);
	assert_int_equal(boot.max_connections, 12);
	assert_non_null(boot.overload);
	bootstrap_free(&boot);
}

/* What a listener's connections hear when the process is told to fail its health checks. */
static void drain_type(void **state)
{
	int a, b;

	listeners_start(f.m);
	assert_int_equal(set("plain", 0, "word", NULL, true), 1);
	assert_int_equal(set("only", 0, "word", "drain_type: MODIFY_ONLY", true), 1);
	turns(2);
	weft_local_health_fail(true);
	a = dial(port_of("plain"));
	b = dial(port_of("only"));
	assert_non_null(strstr(get(a, "word"), "connection: close"));
	assert_null(strstr(get(b, "word"), "connection: close"));
	weft_local_health_fail(false);
	close(a);
	a = dial(port_of("plain"));
	assert_null(strstr(get(a, "word"), "connection: close"));
	listeners_stop_accepting(f.m, false, false);
	turns(2);
	assert_non_null(strstr(get(a, "word"), "connection: close"));
	assert_null(strstr(get(b, "word"), "connection: close"));
	close(a);
	close(b);
}

/* An additional address may have options of its own. */
static void options_of_an_address(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = &f.errs, .file = true};
	const Envoy__Config__Bootstrap__V3__Admin *m = (const void *)of_text(
		a, "socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_BOUND}]",
		&envoy__config__bootstrap__v3__admin__descriptor);
	struct weft_listen_conf lc = {0};

	assert_int_equal(lsockopts_prepare(&c, NULL, m->socket_options, m->n_socket_options, &lc),
			 0);
	assert_int_equal(lc.n_opts, 1);
	assert_int_equal(lc.opts[0].name, 9);
	assert_int_equal(lc.opts[0].when, WEFT_SOCKOPT_BOUND);
	weft_arena_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(regex_engine, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(resolver, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(statistics, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(connections, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(drain_type, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(options_of_an_address, fix_setup, fix_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
