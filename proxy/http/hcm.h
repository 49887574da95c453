/* The HTTP connection manager, as programs see it. */
#pragma once
#include "proxy/l4/chain.h"

extern const struct weft_net_filter weft_net_filter_http_connection_manager;
/* Makes it known to chains; before any configuration is read. */
void weft_http_register(void);
