/* A list of network filters, from configuration. */
#include "proxy/l4/chain_conf.h"

#include <string.h>

enum { NET_FILTERS_MAX = 64 };

static const struct weft_net_filter *registry[NET_FILTERS_MAX] = {
#define NET_FILTER(name) &weft_net_filter_##name,
#include "proxy/l4/filters/filters.def"
#undef NET_FILTER
};

void weft_net_filter_register(const struct weft_net_filter *f)
{
	size_t i;

	for (i = 0; i < NET_FILTERS_MAX; i++) {
		if (registry[i] == f)
			return;
		if (!registry[i]) {
			registry[i] = f;
			return;
		}
	}
}

const struct weft_net_filter *weft_net_filter_find(const ProtobufCMessageDescriptor *config)
{
	size_t i;

	for (i = 0; i < NET_FILTERS_MAX && registry[i]; i++)
		if (registry[i]->ext.config == config)
			return registry[i];
	return NULL;
}

static int item_prepare(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Config__Listener__V3__Filter *m, struct weft_chain_item *it)
{
	struct weft_path tc = {at, "typed_config", -1};
	const ProtobufCMessage *msg;

	if (m->config_type_case != ENVOY__CONFIG__LISTENER__V3__FILTER__CONFIG_TYPE_TYPED_CONFIG)
		return weft_cfg_fail(c, at, "typed_config must be set (filter \"%s\")", m->name);
	msg = weft_cfg_any(c, &tc, m->typed_config, NULL);
	if (!msg)
		return -EINVAL;
	it->f = weft_net_filter_find(msg->descriptor);
	if (!it->f)
		return weft_cfg_fail(c, &tc, "%s is not a network filter that is supported",
				     msg->descriptor->name);
	it->name = weft_arena_strdup(c->arena, m->name && *m->name ? m->name : it->f->ext.name);
	it->conf = msg;
	return it->f->ext.prepare ? it->f->ext.prepare(c, &tc, msg, &it->conf) : 0;
}

int weft_chain_prepare(struct weft_cfg *c, const struct weft_path *at,
		       Envoy__Config__Listener__V3__Filter *const *v, size_t n,
		       const struct weft_chain_conf **ret)
{
	struct weft_chain_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	struct weft_chain_item *items = weft_arena_alloc(c->arena, (n + 1) * sizeof(*items));
	size_t i;
	int err = 0;

	if (!n)
		return weft_cfg_fail(
			c, at, "must have a filter: tcp_proxy or http_connection_manager at least");
	for (i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		if (item_prepare(c, &p, v[i], &items[i])) {
			err = -EINVAL;
			continue;
		}
		items[i].state = conf->state_bytes;
		conf->state_bytes += (items[i].f->ext.state_size + 15) & ~(size_t)15;
		if (items[i].f->take && i + 1 < n)
			err = weft_cfg_fail(c, &p,
					    "filter \"%s\" ends the chain and must be last, "
					    "%zu more follow",
					    items[i].name, n - 1 - i);
		if (!items[i].f->take && i + 1 == n)
			err = weft_cfg_fail(
				c, &p, "the last filter must be one that ends the chain, is \"%s\"",
				items[i].name);
	}
	conf->v = items;
	conf->n = n;
	*ret = conf;
	return err;
}
