#include "proxy/http/route_stats.h"
#include "proxy/http/route_priv.h"

static const struct weft_scope_item items[] = {
#define STAT(name, kind, help) {#name, WEFT_##kind, help},
#include "proxy/http/route_stats.def"
#undef STAT
};
const struct weft_scope_class weft_route_scope = {
	.prefix = "vhost",
	.tag = "envoy_virtual_host",
	.v = items,
	.n = sizeof(items) / sizeof(*items),
	.codes = true,
	.code_item = "upstream_rq",
	.infix = "route",
	.tag2 = "envoy_route",
};

static void drop(void *arg)
{
	weft_scope_unref(arg);
}

/* It lives as long as the table's arena. */
struct weft_scope *route_stats_new(struct weft_cfg *c, const char *vhost, const char *prefix)
{
	struct weft_scope *s = weft_scope_get(
		&weft_route_scope, weft_arena_printf(c->arena, "%s.route.%s", vhost, prefix));

	weft_arena_cleanup(c->arena, drop, s);
	return s;
}
