/* The bootstrap's typed_dns_resolver_config: for clusters that say nothing of resolvers. */
#pragma once
#include "xds/cfg.h"
#include "xds/proto/envoy/config/core/v3/extension.pb-c.h"

/* Before there are clusters. m NULL: there is none. 0, -EINVAL. */
int weft_dns_default(struct weft_cfg *c, const struct weft_path *at,
		     const Envoy__Config__Core__V3__TypedExtensionConfig *m);
