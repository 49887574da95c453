/* Virtual clusters: names for kinds of requests of a virtual host, each with numbers of its own
 * under vhost.VHOST.vcluster.NAME. */
#pragma once
#include "proxy/core/scope.h"
#include "proxy/http/route.h"

struct weft_vcluster {
	const char *name;
	struct weft_scope *stats; /* of items as enum weft_route_stat */
};
/* Of a request: the first whose headers match, else one without a name. NULL: the virtual host has
 * none. */
const struct weft_vcluster *weft_vhost_vcluster(const struct weft_vhost *v,
						const struct weft_headers *h);
