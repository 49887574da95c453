/* The head of every extension: a filter, a load balancing policy, an access logger. All that
 * configuration code ever sees. An extension is found by the type URL of its typed_config. */
#pragma once
#include "xds/cfg.h"

struct weft_ext {
	const char *name;			  /* canonical: "envoy.filters.http.rbac" */
	const ProtobufCMessageDescriptor *config; /* of typed_config */
	const ProtobufCMessageDescriptor
		*per_route; /* of typed_per_filter_config; NULL: none; may be the same */
	size_t state_size;  /* zeroed bytes a stream or connection gets */
	/* Checks m and makes what the callbacks get as conf; in c->arena, immutable, used by many
	 * threads. What must be undone goes on the arena's clean-up list. Main thread. 0 or -EINVAL
	 * with the errors in c->errs. NULL: conf is m. */
	int (*prepare)(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		       const void **ret_conf);
	int (*prepare_route)(struct weft_cfg *c, const struct weft_path *at,
			     const ProtobufCMessage *m, const void **ret_conf);
};
