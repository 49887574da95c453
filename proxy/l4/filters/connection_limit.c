/* envoy.filters.network.connection_limit: how many connections may be open. */
#include "proxy/core/timer.h"
#include "proxy/core/worker.h"
#include "proxy/l4/chain.h"
#include "xds/proto/envoy/extensions/filters/network/connection_limit/v3/connection_limit.pb-c.h"

#include <stdatomic.h>
#include <stddef.h>

static const struct weft_scope_item items[] = {
	{"active_connections", WEFT_GAUGE,
	 "connections open, refused ones that wait for their "
	 "close too"},
	{"limited_connections", WEFT_COUNTER, "connections closed because there were enough"},
};
enum { S_ACTIVE, S_LIMITED };
static const struct weft_scope_class limit_class = {.prefix = "connection_limit",
						    .tag = "envoy_connection_limit_prefix",
						    .v = items,
						    .n = sizeof(items) / sizeof(*items)};

struct conf {
	uint64_t max, delay_ms;
	bool on;
	struct weft_scope *scope;
	_Atomic uint64_t *open; /* on all workers */
};
struct one {
	bool counted;
	struct weft_chain *ch;
	struct weft_timer delay;
};

static void conf_done(void *arg)
{
	weft_scope_unref(arg);
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const Envoy__Extensions__Filters__Network__ConnectionLimit__V3__ConnectionLimit *m =
		(const void *)msg;
	struct weft_path p = {at, "max_connections", -1};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	if (!m->max_connections)
		return weft_cfg_fail(c, &p, "must be set");
	conf->max = m->max_connections->value;
	conf->delay_ms = (uint64_t)weft_cfg_ms(m->delay, 0);
	conf->on = !m->runtime_enabled || weft_cfg_bool(m->runtime_enabled->default_value, true);
	conf->open = weft_arena_alloc(c->arena, sizeof(*conf->open));
	conf->scope = weft_scope_get(&limit_class, m->stat_prefix ?: "");
	weft_arena_cleanup(c->arena, conf_done, conf->scope);
	*ret = conf;
	return 0;
}

static void on_delay(struct weft_timer *t)
{
	struct one *o = (struct one *)((char *)t - offsetof(struct one, delay));

	weft_chain_close(o->ch, 0, "over_connection_limit");
}

static enum weft_flow opened(struct weft_chain *ch, const void *arg, void *state)
{
	const struct conf *conf = arg;
	struct one *o = state;

	if (!conf->on)
		return WEFT_NEXT;
	o->counted = true;
	weft_scope_add(conf->scope, S_ACTIVE, 1);
	if (atomic_fetch_add_explicit(conf->open, 1, memory_order_relaxed) < conf->max)
		return WEFT_NEXT;
	weft_scope_add(conf->scope, S_LIMITED, 1);
	if (!conf->delay_ms) {
		weft_chain_close(ch, 0, "over_connection_limit");
		return WEFT_DONE;
	}
	/* who comes back at once is slowed down */
	o->ch = ch;
	weft_timer_set(weft_timers_of(weft_chain_worker(ch)), &o->delay, conf->delay_ms,
		       weft_now_ns(), on_delay);
	return WEFT_WAIT;
}

static void closed(struct weft_chain *ch, const void *arg, void *state)
{
	const struct conf *conf = arg;
	struct one *o = state;

	weft_timer_clear(&o->delay);
	if (!o->counted)
		return;
	weft_scope_add(conf->scope, S_ACTIVE, -1);
	atomic_fetch_sub_explicit(conf->open, 1, memory_order_relaxed);
}

const struct weft_net_filter weft_net_filter_connection_limit = {
	.ext = {.name = "envoy.filters.network.connection_limit",
		.config =
			&envoy__extensions__filters__network__connection_limit__v3__connection_limit__descriptor,
		.state_size = sizeof(struct one),
		.prepare = prepare},
	.opened = opened,
	.closed = closed,
};
