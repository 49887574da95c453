/* overload_manager: what is refused of it, and what its actions are by a resource. */
#include "proxy/waypoint/overload.h"

#include "proxy/core/overload.h"
#include "test/unit/proxy/waypoint/listener_fix.h"

#define MON "type.googleapis.com/envoy.extensions.resource_monitors."
#define ACT "envoy.overload_actions."
#define INJ                                                                                        \
	"{name: r, typed_config: {\"@type\": " MON                                                 \
	"injected_resource.v3.InjectedResourceConfig, filename: %s}}"

static struct weft_arena *arena; /* of what was prepared */
static char path[] = "/tmp/weft-overload.XXXXXX";

static int prepare(const char *yaml, struct overload **ret, uint64_t *ret_max)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = &f.errs, .warns = &f.warns, .file = true};
	struct bootstrap b = {0};
	int err;

	memset(&f.errs, 0, sizeof(f.errs));
	err = overload_prepare(
		&c,
		(const void *)of_text(a, yaml,
				      &envoy__config__overload__v3__overload_manager__descriptor),
		ret, &b);
	*ret_max = b.max_connections;
	if (err) {
		weft_arena_free(a);
		return err;
	}
	arena = a;
	return 0;
}

static void done(void)
{
	weft_arena_free(arena);
}

static void say(const char *text)
{
	FILE *to = fopen(path, "w");

	assert_non_null(to);
	fputs(text, to);
	fclose(to);
}

static struct overload *injected(const char *actions)
{
	struct overload *o;
	char yaml[1000];
	uint64_t max = 0;

	snprintf(yaml, sizeof(yaml),
		 "refresh_interval: 0.01s\nresource_monitors: [" INJ "]\nactions: [%s]", path,
		 actions);
	assert_int_equal(prepare(yaml, &o, &max), 0);
	assert_int_equal(max, 0);
	return o;
}

static void triggers(void **state)
{
	struct overload *o = injected(
		"{name: " ACT "stop_accepting_requests, triggers: [{name: r, threshold: {value: "
		"0.5}}]}, {name: " ACT "reject_incoming_connections, triggers: [{name: r, scaled: "
		"{scaling_threshold: 0.2, saturation_threshold: 0.6}}]}");

	say("0.2\n");
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_STOP_REQUESTS), 0);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_REJECT), 0);
	assert_false(weft_overload_hit(WEFT_OVERLOAD_REJECT));
	say("0.3");
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_STOP_REQUESTS), 0);
	assert_in_range(weft_overload_level(WEFT_OVERLOAD_REJECT), 2490, 2510);
	say("0.5");
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_STOP_REQUESTS), WEFT_OVERLOAD_FULL);
	assert_true(weft_overload_hit(WEFT_OVERLOAD_STOP_REQUESTS));
	say("1");
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_REJECT), WEFT_OVERLOAD_FULL);
	say("much"); /* it stays what it was */
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_REJECT), WEFT_OVERLOAD_FULL);
	say("0");
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_STOP_REQUESTS), 0);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_REJECT), 0);
	done();
}

static void timer(void **state)
{
	struct overload *o = injected("{name: " ACT "disable_http_keepalive, triggers: [{name: r, "
				      "threshold: {value: 0.9}}]}");
	unsigned i;

	say("0.95");
	overload_start(o, f.main, f.m);
	for (i = 0; i < TURNS && !weft_overload_level(WEFT_OVERLOAD_NO_KEEPALIVE); i++)
		turn();
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_NO_KEEPALIVE), WEFT_OVERLOAD_FULL);
	overload_stop(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_NO_KEEPALIVE), 0);
	done();
}

static void heap(void **state)
{
	static const char yaml[] =
		"resource_monitors: [{name: h, typed_config: {\"@type\": " MON
		"fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: %s}}]\n"
		"actions: [{name: " ACT "stop_accepting_connections, triggers: [{name: h, "
		"threshold: {value: 0.9}}]}, {name: " ACT "shrink_heap, triggers: [{name: h, "
		"threshold: {value: 0.9}}]}]";
	struct overload *o;
	char text[900];
	uint64_t max = 0;

	snprintf(text, sizeof(text), yaml, "1000000000000");
	assert_int_equal(prepare(text, &o, &max), 0);
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_STOP_ACCEPTING), 0);
	done();
	snprintf(text, sizeof(text), yaml, "1");
	assert_int_equal(prepare(text, &o, &max), 0);
	overload_look(o);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_STOP_ACCEPTING), WEFT_OVERLOAD_FULL);
	assert_int_equal(weft_overload_level(WEFT_OVERLOAD_SHRINK), WEFT_OVERLOAD_FULL);
	weft_overload_set(WEFT_OVERLOAD_STOP_ACCEPTING, 0);
	weft_overload_set(WEFT_OVERLOAD_SHRINK, 0);
	done();
}

static void connections(void **state)
{
	struct overload *o;
	uint64_t max = 0;

	assert_int_equal(prepare("resource_monitors: [{name: "
				 "envoy.resource_monitors.global_downstream_max_connections, "
				 "typed_config: {\"@type\": " MON
				 "downstream_connections.v3.DownstreamConnectionsConfig, "
				 "max_active_downstream_connections: 77}}]",
				 &o, &max),
			 0);
	assert_int_equal(max, 77);
	done();
}

static void refused(void **state)
{
#define ONE                                                                                        \
	"{name: r, typed_config: {\"@type\": " MON                                                 \
	"injected_resource.v3.InjectedResourceConfig, filename: a}}"
	static const struct {
		const char *monitors, *actions, *at, *why;
	} v[] = {
		{ONE ", " ONE, "", "overload_manager.resource_monitors[1].name", "stands twice"},
		{"{name: x, typed_config: {\"@type\": "
		 "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}",
		 "", "overload_manager.resource_monitors[0].typed_config",
		 "not a resource monitor that is supported"},
		{"{name: c, typed_config: {\"@type\": " MON
		 "downstream_connections.v3.DownstreamConnectionsConfig, "
		 "max_active_downstream_connections: 77}}",
		 "", "overload_manager.resource_monitors[0].name", "must be "},
		{ONE, "{name: x, triggers: [{name: r, threshold: {value: 1}}]}",
		 "overload_manager.actions[0].name", "not an action that is supported"},
		{ONE, "{name: " ACT "shrink_heap, triggers: [{name: q, threshold: {value: 1}}]}",
		 "overload_manager.actions[0].triggers[0].name", "none of resource_monitors"},
		{ONE,
		 "{name: " ACT "shrink_heap, triggers: [{name: r, threshold: {value: 1}}, {name: "
		 "r, threshold: {value: 1}}]}",
		 "overload_manager.actions[0].triggers[1].name", "stands twice"},
		{ONE,
		 "{name: " ACT "shrink_heap, triggers: [{name: r, scaled: {scaling_threshold: 0.9, "
		 "saturation_threshold: 0.8}}]}",
		 "overload_manager.actions[0].triggers[0].scaled.scaling_threshold",
		 "must be less than saturation_threshold"},
		{ONE,
		 "{name: " ACT "shrink_heap, triggers: [{name: r, threshold: {value: 1}}]}, "
		 "{name: " ACT "shrink_heap, triggers: [{name: r, threshold: {value: 1}}]}",
		 "overload_manager.actions[1].name", "stands twice"},
	};
	char yaml[1500];
	struct overload *o;
	uint64_t max = 0;
	size_t i;

	for (i = 0; i < sizeof(v) / sizeof(*v); i++) {
		snprintf(yaml, sizeof(yaml), "resource_monitors: [%s]\nactions: [%s]",
			 v[i].monitors, v[i].actions);
		assert_int_equal(prepare(yaml, &o, &max), -EINVAL);
		assert_string_equal(f.errs.v[0].path, v[i].at);
		assert_non_null(strstr(f.errs.v[0].msg, v[i].why));
	}
}

static int file_new(void **state)
{
	int fd = mkstemp(path);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static int file_gone(void **state)
{
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(triggers, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(timer, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(heap, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(connections, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(refused, fix_setup, fix_end),
	};

	return cmocka_run_group_tests(tests, file_new, file_gone);
}
