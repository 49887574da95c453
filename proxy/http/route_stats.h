/* Numbers under vhost.VHOST.route.PREFIX.: of routes with a stat_prefix. */
#pragma once
#include "proxy/core/scope.h"

enum weft_route_stat {
#define STAT(name, kind, help) WEFT_ROUTE_STAT_##name,
#include "proxy/http/route_stats.def"
#undef STAT
};
extern const struct weft_scope_class weft_route_scope;
