/* overload_manager: resources, how short they are, and what is done then. Main thread. */
#pragma once
#include "proxy/waypoint/waypoint.h"

struct overload; /* in the bootstrap's arena */
/* 0 and *ret (NULL: there is none), limits of connections in b; -EINVAL: errors in c. */
int overload_prepare(struct weft_cfg *c, const Envoy__Config__Overload__V3__OverloadManager *m,
		     struct overload **ret, struct bootstrap *b);
/* Looks at every resource, now; what the timer does. */
void overload_look(struct overload *o);
