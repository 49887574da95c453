#include "proxy/waypoint/overload.h"

#include "proxy/core/log.h"
#include "proxy/core/overload.h"
#include "xds/proto/envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections.pb-c.h"
#include "xds/proto/envoy/extensions/resource_monitors/fixed_heap/v3/fixed_heap.pb-c.h"
#include "xds/proto/envoy/extensions/resource_monitors/injected_resource/v3/injected_resource.pb-c.h"
#include <errno.h>
#include <event2/event.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS "envoy.resource_monitors.global_downstream_max_connections"
enum { REFRESH_MS = 1000, SHRINK_MS = 10000, MONITORS_MAX = 16, TRIGGERS_MAX = 16 };

struct monitor {
	const char *name;
	uint64_t heap_max;   /* 0: another kind */
	const char *path;    /* of a file that says it; NULL: another kind */
	bool of_connections; /* has no pressure: connections beyond it are refused */
	double pressure;     /* 0..; as last looked at */
};
struct trigger {
	const struct monitor *of;
	double from, full; /* the same: a threshold */
};
struct action { /* by enum weft_overload */
	bool on;
	const struct trigger *v;
	size_t n;
};
struct overload {
	struct monitor monitor[MONITORS_MAX];
	size_t n;
	struct action action[WEFT_OVERLOADS];
	unsigned refresh_ms;
	uint64_t shrunk_ns;
	struct event *timer;
	struct listeners *listeners;
};
static const char *const names[WEFT_OVERLOADS] = {
	[WEFT_OVERLOAD_STOP_REQUESTS] = "envoy.overload_actions.stop_accepting_requests",
	[WEFT_OVERLOAD_NO_KEEPALIVE] = "envoy.overload_actions.disable_http_keepalive",
	[WEFT_OVERLOAD_STOP_ACCEPTING] = "envoy.overload_actions.stop_accepting_connections",
	[WEFT_OVERLOAD_REJECT] = "envoy.overload_actions.reject_incoming_connections",
	[WEFT_OVERLOAD_SHRINK] = "envoy.overload_actions.shrink_heap",
};

/* ---- as configured */
static int monitor(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Overload__V3__ResourceMonitor *m, struct overload *o,
		   struct bootstrap *b)
{
	struct weft_path pt = {at, "typed_config", -1}, pn = {at, "name", -1};
	struct monitor *to = &o->monitor[o->n];
	const ProtobufCMessage *any;
	size_t i;

	for (i = 0; i < o->n; i++)
		if (!strcmp(o->monitor[i].name, m->name))
			return weft_cfg_fail(c, &pn, "\"%s\" stands twice", m->name);
	to->name = m->name;
	o->n++;
	if (!m->typed_config)
		return weft_cfg_fail(c, &pt, "must be set");
	any = weft_cfg_any(c, &pt, m->typed_config, NULL);
	if (!any)
		return -EINVAL;
	if (any->descriptor ==
	    &envoy__extensions__resource_monitors__fixed_heap__v3__fixed_heap_config__descriptor) {
		to->heap_max =
			((const Envoy__Extensions__ResourceMonitors__FixedHeap__V3__FixedHeapConfig
				  *)any)
				->max_heap_size_bytes;
	} else if (
		any->descriptor ==
		&envoy__extensions__resource_monitors__injected_resource__v3__injected_resource_config__descriptor) {
		to->path =
			((const Envoy__Extensions__ResourceMonitors__InjectedResource__V3__InjectedResourceConfig
				  *)any)
				->filename;
	} else if (
		any->descriptor ==
		&envoy__extensions__resource_monitors__downstream_connections__v3__downstream_connections_config__descriptor) {
		const Envoy__Extensions__ResourceMonitors__DownstreamConnections__V3__DownstreamConnectionsConfig
			*d = (const void *)any;

		if (strcmp(m->name, CONNECTIONS) != 0)
			return weft_cfg_fail(c, &pn, "must be \"" CONNECTIONS "\" for that");
		to->of_connections = true;
		b->max_connections = (uint64_t)d->max_active_downstream_connections;
		b->overload_failed = "overload." CONNECTIONS ".failed_updates";
	} else {
		return weft_cfg_fail(c, &pt, "%s is not a resource monitor that is supported",
				     any->descriptor->name);
	}
	return 0;
}

static int trigger(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Overload__V3__Trigger *m, const struct overload *o,
		   struct trigger *to, const struct trigger *before, size_t n_before)
{
	struct weft_path pn = {at, "name", -1}, ps = {at, "scaled", -1},
			 pt = {&ps, "scaling_threshold", -1};
	size_t i;

	for (i = 0; i < o->n; i++)
		if (!strcmp(o->monitor[i].name, m->name))
			to->of = &o->monitor[i];
	if (!to->of)
		return weft_cfg_fail(c, &pn, "\"%s\" is none of resource_monitors", m->name);
	if (to->of->of_connections)
		return weft_cfg_fail(c, &pn, "\"%s\" refuses connections itself: it is no trigger",
				     m->name);
	for (i = 0; i < n_before; i++)
		if (before[i].of == to->of)
			return weft_cfg_fail(c, &pn, "\"%s\" stands twice", m->name);
	if (m->trigger_oneof_case ==
	    ENVOY__CONFIG__OVERLOAD__V3__TRIGGER__TRIGGER_ONEOF_THRESHOLD) {
		to->from = to->full = m->threshold->value;
		return 0;
	}
	to->from = m->scaled->scaling_threshold;
	to->full = m->scaled->saturation_threshold;
	if (to->from >= to->full)
		return weft_cfg_fail(c, &pt, "must be less than saturation_threshold (%g), is %g",
				     to->full, to->from);
	return 0;
}

static int action(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Overload__V3__OverloadAction *m, struct overload *o)
{
	struct weft_path pn = {at, "name", -1}, pt = {at, "triggers", -1},
			 pc = {at, "typed_config", -1};
	struct trigger *v = weft_arena_alloc(c->arena, TRIGGERS_MAX * sizeof(*v));
	struct action *a;
	unsigned k;
	size_t i;
	int err = 0;

	for (k = 0; k < WEFT_OVERLOADS && strcmp(names[k], m->name) != 0; k++)
		;
	if (k == WEFT_OVERLOADS)
		return weft_cfg_fail(c, &pn, "\"%.80s\" is not an action that is supported",
				     m->name);
	a = &o->action[k];
	if (a->on)
		return weft_cfg_fail(c, &pn, "\"%s\" stands twice", m->name);
	if (m->typed_config)
		return weft_cfg_fail(c, &pc, "must not be set: \"%s\" has none", m->name);
	if (m->n_triggers > TRIGGERS_MAX)
		return weft_cfg_fail(c, &pt, "must be at most %d, are %zu", TRIGGERS_MAX,
				     m->n_triggers);
	a->on = true;
	a->v = v;
	for (i = 0; i < m->n_triggers; i++) {
		struct weft_path p = {at, "triggers", (int)i};

		err |= trigger(c, &p, m->triggers[i], o, &v[i], v, i);
	}
	a->n = m->n_triggers;
	return err ? -EINVAL : 0;
}

int overload_prepare(struct weft_cfg *c, const Envoy__Config__Overload__V3__OverloadManager *m,
		     struct overload **ret, struct bootstrap *b)
{
	struct weft_path top = {NULL, "overload_manager", -1}, pm = {&top, "resource_monitors", -1};
	struct overload *o;
	size_t i;
	int err = 0;

	*ret = NULL;
	if (!m)
		return 0;
	o = weft_arena_alloc(c->arena, sizeof(*o));
	if (m->n_resource_monitors > MONITORS_MAX)
		return weft_cfg_fail(c, &pm, "must be at most %d, are %zu", MONITORS_MAX,
				     m->n_resource_monitors);
	o->refresh_ms = (unsigned)weft_cfg_ms(m->refresh_interval, REFRESH_MS);
	if (!o->refresh_ms)
		o->refresh_ms = REFRESH_MS;
	for (i = 0; i < m->n_resource_monitors; i++) {
		struct weft_path p = {&top, "resource_monitors", (int)i};

		err |= monitor(c, &p, m->resource_monitors[i], o, b);
	}
	for (i = 0; i < m->n_actions; i++) {
		struct weft_path p = {&top, "actions", (int)i};

		err |= action(c, &p, m->actions[i], o);
	}
	*ret = o;
	return err ? -EINVAL : 0;
}

/* ---- looked at */
static void gauge(const char *of, const char *what, enum weft_scope_kind kind, int64_t v)
{
	char name[256];

	snprintf(name, sizeof(name), "overload.%.200s.%s", of, what);
	if (kind == WEFT_GAUGE)
		weft_scope_global_set(name, kind, v);
	else
		weft_scope_global_add(name, kind, v);
}

static uint64_t heap_used(void)
{
	struct mallinfo2 mi = mallinfo2();
	uint64_t used = mi.uordblks + mi.hblkhd;

	return used ? used : waypoint_rss(); /* memory is another allocator's, put before ours */
}

/* A number from 0 to 1, as the file has it now. */
static int read_file(const char *path, double *ret)
{
	char text[64], *end;
	FILE *f = fopen(path, "re");
	size_t n;
	double v;

	if (!f)
		return -errno;
	n = fread(text, 1, sizeof(text) - 1, f);
	(void)fclose(f);
	text[n] = 0;
	v = strtod(text, &end);
	if (end == text || end[strspn(end, " \r\n\t")] || !(v >= 0 && v <= 1))
		return -EINVAL;
	*ret = v;
	return 0;
}

static void monitor_look(struct monitor *m)
{
	if (m->of_connections)
		return;
	if (m->heap_max) {
		m->pressure = (double)heap_used() / (double)m->heap_max;
	} else if (read_file(m->path, &m->pressure)) {
		gauge(m->name, "failed_updates", WEFT_COUNTER, 1);
		return;
	}
	gauge(m->name, "pressure", WEFT_GAUGE, (int64_t)(m->pressure * 100));
}

static double level_of(const struct trigger *t)
{
	double p = t->of->pressure;

	if (p >= t->full)
		return 1;
	return p <= t->from ? 0 : (p - t->from) / (t->full - t->from);
}

static void shrink(struct overload *o)
{
	uint64_t now = weft_now_ns();

	if (weft_overload_level(WEFT_OVERLOAD_SHRINK) < WEFT_OVERLOAD_FULL ||
	    (o->shrunk_ns && now - o->shrunk_ns < SHRINK_MS * 1000000ull))
		return;
	o->shrunk_ns = now;
	malloc_trim(0);
	gauge(names[WEFT_OVERLOAD_SHRINK], "shrink_count", WEFT_COUNTER, 1);
}

static void action_look(struct overload *o, unsigned k)
{
	const struct action *a = &o->action[k];
	unsigned was = weft_overload_level(k), now;
	double v = 0;
	size_t i;

	for (i = 0; i < a->n; i++) {
		double x = level_of(&a->v[i]);

		v = x > v ? x : v;
	}
	now = (unsigned)(v * WEFT_OVERLOAD_FULL);
	gauge(names[k], "active", WEFT_GAUGE, now == WEFT_OVERLOAD_FULL);
	gauge(names[k], "scale_percent", WEFT_GAUGE, (int64_t)(v * 100));
	if (was == now)
		return;
	weft_overload_set(k, now);
	if ((was == WEFT_OVERLOAD_FULL) == (now == WEFT_OVERLOAD_FULL))
		return;
	weft_log(WEFT_LOG_WARN, "overload action=%s %s", names[k],
		 now == WEFT_OVERLOAD_FULL ? "begins" : "ends");
	if (k == WEFT_OVERLOAD_STOP_ACCEPTING && o->listeners)
		listeners_pause(o->listeners, now == WEFT_OVERLOAD_FULL);
}

void overload_look(struct overload *o)
{
	size_t i;

	for (i = 0; i < o->n; i++)
		monitor_look(&o->monitor[i]);
	for (i = 0; i < WEFT_OVERLOADS; i++)
		if (o->action[i].on)
			action_look(o, (unsigned)i);
	shrink(o);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	overload_look(arg);
}

void overload_start(struct overload *o, struct weft_worker *main, struct listeners *listeners)
{
	struct timeval tv;
	size_t i;

	if (!o)
		return;
	tv = (struct timeval){o->refresh_ms / 1000, o->refresh_ms % 1000 * 1000};
	o->listeners = listeners;
	for (i = 0; i < o->n; i++) {
		gauge(o->monitor[i].name, "failed_updates", WEFT_COUNTER, 0);
		if (o->monitor[i].of_connections)
			continue;
		gauge(o->monitor[i].name, "skipped_updates", WEFT_COUNTER, 0);
		gauge(o->monitor[i].name, "pressure", WEFT_GAUGE, 0);
	}
	for (i = 0; i < WEFT_OVERLOADS; i++) {
		if (!o->action[i].on)
			continue;
		gauge(names[i], "active", WEFT_GAUGE, 0);
		gauge(names[i], "scale_percent", WEFT_GAUGE, 0);
	}
	if (o->action[WEFT_OVERLOAD_SHRINK].on)
		gauge(names[WEFT_OVERLOAD_SHRINK], "shrink_count", WEFT_COUNTER, 0);
	o->timer = event_new(main->base, -1, EV_PERSIST, on_timer, o);
	if (!o->timer || event_add(o->timer, &tv))
		abort(); /* memory is out */
}

void overload_stop(struct overload *o)
{
	unsigned i;

	if (!o || !o->timer)
		return;
	event_free(o->timer);
	o->timer = NULL;
	for (i = 0; i < WEFT_OVERLOADS; i++)
		weft_overload_set(i, 0);
}
