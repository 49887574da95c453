/* Sources against our own server, state of the world and delta, aggregated and a stream a type. */
#include "source_env.h"

#include "xds/source_priv.h"

static const struct mode {
	int api_type;
	bool ads;
} modes[] = {
	{API(GRPC), true},
	{API(DELTA_GRPC), true},
	{API(GRPC), false},
	{API(DELTA_GRPC), false},
	{API(AGGREGATED_GRPC), false},
	{API(AGGREGATED_DELTA_GRPC), false},
};

static void life(struct env *e, const struct mode *m)
{
	struct seen all = {0}, eds = {0}, rds = {0}, none = {0};
	struct weft_xds_stat st;

	snprintf(e->scope, sizeof(e->scope), "ns/gw");
	server_up(e);
	put_cluster(e, "a", "1");
	put_cluster(e, "b", "1");
	put_endpoints(e, "a", 1);
	put_route(e, "r", 1);
	sources_up(e, m->api_type, m->ads);
	watch(e, &all, &weft_xds_type_cluster, NULL);
	watch(e, &eds, &weft_xds_type_endpoint, "a");
	watch(e, &rds, &weft_xds_type_route, "r");
	watch(e, &none, &weft_xds_type_route, "nothing");
	UNTIL(e, all.completes && eds.completes && rds.completes);
	assert_int_equal(all.updates, 2);
	assert_int_equal(eds.updates, 1);
	assert_string_equal(eds.last, "a");
	assert_string_equal(e->node_seen, "way-1 ");
	assert_int_equal(all.ups, 1);
	st = weft_xds_watch_stat(eds.w);
	assert_int_equal(st.update_success, 1);
	assert_true(st.version && st.update_time_ms && st.connected && st.version_text[0]);
	assert_string_equal(st.control_plane, "weft");

	put_endpoints(e, "a", 7);
	UNTIL(e, eds.updates == 2);
	assert_int_equal(((const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *)eds.kept_msg)
				 ->endpoints[0]
				 ->priority,
			 7);
	put_cluster(e, "b", "2"); /* only what changed is given, whatever was sent */
	UNTIL(e, all.updates == 3);
	assert_string_equal(all.last, "b");
	put_cluster(e, "b", NULL);
	UNTIL(e, all.removals == 1);
	assert_string_equal(all.gone, "b");
	put_route(e, "nothing", 1);
	UNTIL(e, none.updates == 1 && none.completes == 1);
	assert_int_equal(e->nacks, 0);

	server_down(e); /* the state stays, and what changed meanwhile comes */
	UNTIL(e, e->lost > 0);
	assert_true(weft_xds_watch_stat(all.w).update_failure > 0);
	server_up(e);
	put_cluster(e, "a", "1");
	put_cluster(e, "c", "1");
	put_endpoints(e, "a", 8);
	put_route(e, "r", 1);
	put_route(e, "nothing", 1);
	UNTIL(e, all.updates == 4 && eds.updates == 3);
	assert_string_equal(all.last, "c");
	spin(e, 20);
	assert_int_equal(rds.updates, 1);
	assert_int_equal(all.removals, 1);
	assert_int_equal(all.ups, 2);
	weft_xds_unwatch(rds.w);
	spin(e, 20);
	put_route(e, "r", 0);
	put_endpoints(e, "a", 9);
	UNTIL(e, eds.updates == 4);
	assert_int_equal(rds.removals, 0);
	done(&all), done(&eds), done(&rds), done(&none);
}

static void every_mode(void **st)
{
	struct env *e;

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		life(*st, &modes[i]);
		teardown(st);
		setup(st);
	}
	e = *st;
	assert_non_null(e);
}

/* A refused resource: the good ones are there, the NACK says which, the last good stays. */
static void refused(void **st)
{
	for (int i = 0; i < 2; i++) {
		struct env *e = *st;
		struct seen all = {.refuse = "bad"}, eds = {.refuse = "bad"};
		struct weft_xds_stat stat;

		server_up(e);
		put_cluster(e, "bad", "1");
		put_cluster(e, "good", "1");
		put_endpoints(e, "bad", 1);
		sources_up(e, i ? API(GRPC) : API(DELTA_GRPC), true);
		watch(e, &all, &weft_xds_type_cluster, NULL);
		watch(e, &eds, &weft_xds_type_endpoint, "bad");
		UNTIL(e, e->nacks == 2);
		assert_non_null(strstr(e->nacked, "bad: must not be, is"));
		assert_int_equal(all.updates, 1);
		assert_int_equal(all.completes, 1);
		assert_int_equal(eds.completes, 1);
		stat = weft_xds_watch_stat(eds.w);
		assert_int_equal(stat.update_rejected, 1);
		assert_int_equal(stat.update_success, 0);
		all.refuse = NULL;
		put_cluster(e, "bad", "2");
		UNTIL(e, all.updates == 2);
		all.refuse = "bad";
		put_cluster(e, "bad", "3");
		UNTIL(e, e->nacks == 3);
		put_cluster(e, "bad", "2"); /* back to what is held: nothing to do */
		spin(e, 50);
		assert_int_equal(e->nacks, 3);
		assert_int_equal(all.updates, 2);
		assert_int_equal(all.removals, 0);
		done(&all);
		teardown(st);
		setup(st);
	}
}

/* The second watch of a name has the resource at once; the name stays asked for until both go. */
static void two_of_a_name(void **st)
{
	struct env *e = *st;
	struct seen a = {0}, b = {0}, other = {0};

	server_up(e);
	put_endpoints(e, "x", 1);
	sources_up(e, API(DELTA_GRPC), true);
	watch(e, &a, &weft_xds_type_endpoint, "x");
	UNTIL(e, a.completes);
	watch(e, &b, &weft_xds_type_endpoint, "x");
	weft_xds_unwatch(a.w);
	UNTIL(e, b.completes);
	assert_int_equal(b.updates, 1);
	put_endpoints(e, "x", 2);
	UNTIL(e, b.updates == 2);
	assert_int_equal(a.updates, 1);
	watch(e, &a, &weft_xds_type_endpoint, "x");
	UNTIL(e, a.updates == 2);
	put_endpoints(e, "x", 3);
	UNTIL(e, a.updates == 3 && b.updates == 3);
	weft_xds_unwatch(a.w);
	weft_xds_unwatch(b.w);
	spin(e, 20);
	put_endpoints(e, "x", 4);
	put_endpoints(e, "y", 1);
	watch(e, &other, &weft_xds_type_endpoint, "y");
	UNTIL(e, other.updates == 1);
	assert_int_equal(b.updates, 3);
	done(&a), done(&b), done(&other);
}

static void fetch_timeout(void **st)
{
	struct env *e = *st;
	struct seen s = {0}, never = {0};

	sources_up(e, API(GRPC), true);
	e->timeout.has_nanos = true;
	e->timeout.nanos = 50000000;
	e->cs.initial_fetch_timeout = &e->timeout;
	watch(e, &s, &weft_xds_type_cluster, NULL);
	e->timeout.nanos = 0;
	watch(e, &never, &weft_xds_type_listener, NULL);
	UNTIL(e, s.timeouts);
	assert_int_equal(weft_xds_watch_stat(s.w).init_fetch_timeout, 1);
	assert_true(weft_xds_watch_stat(s.w).update_failure > 0);
	assert_false(weft_xds_ads_connected(e->sources));
	assert_int_equal(s.completes, 0);
	server_up(e);
	UNTIL(e, s.completes && never.completes);
	assert_int_equal(s.timeouts, 1);
	assert_int_equal(never.timeouts, 0);
}

/* What one gateway sees another does not; a stranger is told so. */
static void scopes(void **st)
{
	struct env *e = *st;
	struct seen s = {0};

	snprintf(e->scope, sizeof(e->scope), "one");
	server_up(e);
	put_cluster(e, "same", "1");
	snprintf(e->scope, sizeof(e->scope), "two");
	put_cluster(e, "same", "2");
	put_cluster(e, "more", "2");
	snprintf(e->scope, sizeof(e->scope), "one");
	sources_up(e, API(GRPC), true);
	watch(e, &s, &weft_xds_type_cluster, NULL);
	UNTIL(e, s.completes);
	assert_int_equal(s.updates, 1);
	assert_string_equal(
		((const Envoy__Config__Cluster__V3__Cluster *)s.kept_msg)->alt_stat_name, "1");
	snprintf(e->scope, sizeof(e->scope), "two");
	put_cluster(e, "more", "3");
	spin(e, 30);
	assert_int_equal(s.updates, 1);
	weft_xds_unpublish_all(e->server, "one");
	UNTIL(e, s.removals == 1);
	weft_xds_sources_free(e->sources);
	snprintf(e->scope, sizeof(e->scope), "none");
	sources_up(e, API(DELTA_GRPC), true);
	watch(e, &s, &weft_xds_type_cluster, NULL);
	UNTIL(e, strstr(e->lost_why, "grpc-status 7"));
	assert_non_null(strstr(e->lost_why, "not a gateway of ours"));
	done(&s);
}

/* Removed clusters are told after the routes that leave them were. */
static void make_before_break(void **st)
{
	for (int i = 0; i < 2; i++) {
		struct env *e = *st;
		struct seen rds = {0}, cds = {.beside = &rds};

		server_up(e);
		put_cluster(e, "old", "1");
		put_route(e, "r", 1);
		sources_up(e, i ? API(GRPC) : API(DELTA_GRPC), true);
		watch(e, &cds, &weft_xds_type_cluster, NULL);
		watch(e, &rds, &weft_xds_type_route, "r");
		UNTIL(e, cds.completes && rds.completes);
		weft_xds_server_begin(e->server);
		put_cluster(e, "old", NULL);
		put_cluster(e, "new", "1");
		put_route(e, "r", 2);
		weft_xds_server_end(e->server);
		UNTIL(e, cds.removals == 1);
		assert_string_equal(cds.gone, "old");
		assert_int_equal(cds.updates, 2);
		assert_int_equal(cds.beside_updates, 2);
		done(&cds), done(&rds);
		teardown(st);
		setup(st);
	}
}

/* 10,000 clusters and their endpoints; each name asked for, one subscription. */
static void many(void **st)
{
	for (int i = 0; i < 2; i++) {
		struct env *e = *st;
		struct seen all = {.follow = true};
		uint64_t start, took;
		int updates = 0, before;
		char name[64];

		server_up(e);
		for (int k = 0; k < MANY; k++) {
			snprintf(name, sizeof(name), "outbound|80||s%d.ns.svc.cluster.local", k);
			put_cluster(e, name, name);
			put_endpoints(e, name, 1);
		}
		e->many = weft_xcalloc(MANY + 1, sizeof(*e->many));
		start = weft_now_ns();
		sources_up(e, i ? API(GRPC) : API(DELTA_GRPC), true);
		watch(e, &all, &weft_xds_type_cluster, NULL);
		UNTIL(e, e->n_many == MANY && e->many[MANY - 1].completes && e->many[0].completes);
		took = (weft_now_ns() - start) / 1000000;
		print_message("# %s: %d clusters with endpoints in %llu ms\n",
			      i ? "state of the world" : "delta", MANY, (unsigned long long)took);
		for (int k = 0; k < MANY; k++)
			updates += e->many[k].updates;
		assert_int_equal(updates, MANY);
		before = all.calls;
		put_endpoints(e, name, 2);
		UNTIL(e, e->many[MANY - 1].updates == 2 || e->many[0].updates == 2);
		assert_int_equal(all.calls, before);
		for (int k = 0; k < MANY; k++)
			done(&e->many[k]);
		teardown(st);
		setup(st);
	}
}

static void checks(void **st)
{
	struct env *e = *st;
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.errs = errs};
	struct weft_path at = {NULL, "eds_config", -1};
	Envoy__Config__Core__V3__SelfConfigSource self =
		ENVOY__CONFIG__CORE__V3__SELF_CONFIG_SOURCE__INIT;
	char text[600];

	e->cs.config_source_specifier_case = CS(SELF);
	e->cs.self = &self;
	assert_int_equal(weft_xds_source_check(&c, &at, &e->cs, &weft_xds_type_endpoint, true),
			 -EINVAL);
	assert_non_null(strstr(weft_err_text(&errs->v[0], text, sizeof(text)), "eds_config.self"));
	e->cs.config_source_specifier_case = CS(ADS);
	assert_int_equal(weft_xds_source_check(&c, &at, &e->cs, &weft_xds_type_endpoint, true), 0);
	assert_int_equal(weft_xds_source_check(&c, &at, &e->cs, &weft_xds_type_endpoint, false),
			 -EINVAL);
	e->cs.config_source_specifier_case = CS(API_CONFIG_SOURCE);
	e->cs.api_config_source = &e->api;
	e->api.api_type = API(GRPC);
	assert_int_equal(weft_xds_source_check(&c, &at, &e->cs, &weft_xds_type_endpoint, true), 0);
	e->api.api_type = API(REST);
	e->api.transport_api_version = ENVOY__CONFIG__CORE__V3__API_VERSION__V2;
	e->api.n_grpc_services = 2;
	errs->n = 0;
	assert_int_equal(weft_xds_source_check(&c, &at, &e->cs, &weft_xds_type_endpoint, true),
			 -EINVAL);
	assert_int_equal(errs->n, 3); /* all of them */
	e->cs.config_source_specifier_case = CS(PATH);
	e->cs.path = (char *)"/nowhere/at/all";
	assert_int_equal(weft_xds_source_check(&c, &at, &e->cs, &weft_xds_type_endpoint, true),
			 -EINVAL);
	free(errs);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
/* What the options of an ApiConfigSource make of a stream. */
static void options(void **st)
{
	struct env *e = *st;
	Google__Protobuf__UInt32Value max = GOOGLE__PROTOBUF__UINT32_VALUE__INIT,
				      tokens = GOOGLE__PROTOBUF__UINT32_VALUE__INIT;
	Google__Protobuf__DoubleValue rate = GOOGLE__PROTOBUF__DOUBLE_VALUE__INIT;
	Envoy__Config__Core__V3__RateLimitSettings limit =
		ENVOY__CONFIG__CORE__V3__RATE_LIMIT_SETTINGS__INIT;
	struct weft_xds_stream_conf c;
	char *cluster;

	sources_up(e, API(GRPC), true);
	for (int on = 0; on < 2; on++) {
		max.value = 1000;
		tokens.value = 7;
		rate.value = 2.5;
		limit.max_tokens = &tokens;
		limit.fill_rate = &rate;
		e->api.set_node_on_first_message_only = on;
		e->api.rate_limit_settings = on ? &limit : NULL;
		e->envoy.max_receive_message_length = on ? &max : NULL;
		assert_int_equal(
			weft_xds_source_stream_conf(e->sources, &e->api, NULL, true, &c, &cluster),
			0);
		assert_int_equal(c.node_always, !on);
		assert_true(c.fill_rate == (on ? 2.5 : 0));
		assert_int_equal(c.max_tokens, on ? 7 : 0);
		if (on)
			assert_int_equal(c.message_max, 1000);
		else
			assert_true(c.message_max > 1000000);
		free(c.method);
		free(c.authority);
		free(c.metadata);
		free(cluster);
	}
	e->api.rate_limit_settings = NULL;
	e->envoy.max_receive_message_length = NULL;
}

/* max_receive_message_length: a longer answer ends the stream, and is not taken. */
static void too_long(void **st)
{
	Google__Protobuf__UInt32Value max = GOOGLE__PROTOBUF__UINT32_VALUE__INIT;
	struct env *e = *st;
	struct seen all = {0};
	char alt[3000];

	memset(alt, 'x', sizeof(alt));
	alt[sizeof(alt) - 1] = 0;
	max.value = 2000;
	e->envoy.max_receive_message_length = &max;
	server_up(e);
	put_cluster(e, "a", alt);
	sources_up(e, API(GRPC), true);
	watch(e, &all, &weft_xds_type_cluster, NULL);
	UNTIL(e, e->lost > 0);
	assert_int_equal(all.updates, 0);
	put_cluster(e, "a", "short");
	UNTIL(e, all.updates == 1);
	done(&all);
	e->envoy.max_receive_message_length = NULL;
}

/* rate_limit_settings: requests wait for tokens, and all go in the end. */
static void limited(void **st)
{
	Google__Protobuf__UInt32Value tokens = GOOGLE__PROTOBUF__UINT32_VALUE__INIT;
	Google__Protobuf__DoubleValue rate = GOOGLE__PROTOBUF__DOUBLE_VALUE__INIT;
	Envoy__Config__Core__V3__RateLimitSettings limit =
		ENVOY__CONFIG__CORE__V3__RATE_LIMIT_SETTINGS__INIT;
	struct env *e = *st;
	struct seen eds[6] = {0};

	tokens.value = 2;
	rate.value = 50;
	limit.max_tokens = &tokens;
	limit.fill_rate = &rate;
	for (int on = 0; on < 2; on++) {
		e->api.rate_limit_settings = on ? &limit : NULL;
		server_up(e);
		sources_up(e, API(GRPC), true);
		for (int i = 0; i < 6; i++) {
			char name[16];

			snprintf(name, sizeof(name), "e%d", i);
			put_endpoints(e, name, 1);
			watch(e, &eds[i], &weft_xds_type_endpoint, name);
			UNTIL(e, eds[i].completes == on + 1);
		}
		assert_int_equal(weft_xds_rate_limited(e->sources) > 0, on);
		weft_xds_sources_free(e->sources);
		e->sources = NULL;
		server_down(e);
	}
	for (int i = 0; i < 6; i++)
		done(&eds[i]);
	e->api.rate_limit_settings = NULL;
}

int main(void)
{
	const struct CMUnitTest t[] = {
		T(options), T(too_long),	  T(limited),	    T(every_mode),
		T(refused), T(two_of_a_name),	  T(fetch_timeout), T(scopes),
		T(many),    T(make_before_break), T(checks),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
