/* Numbers under http.PREFIX.: of the connection manager and of the router. */
#pragma once
#include "proxy/core/scope.h"

enum weft_http_stat {
#define STAT(name, kind, help) WEFT_HTTP_##name,
#include "proxy/http/http_stats.def"
#undef STAT
	WEFT_HTTP_STATS
};
extern const struct weft_scope_class weft_http_scope_class;
