/* local_reply_config: answers made here, rewritten as configured: status, body, headers, format. */
#pragma once
#include "proxy/l4/als.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"

struct weft_local_reply; /* compiled, immutable */
int weft_local_reply_prepare(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__LocalReplyConfig *m,
	const struct weft_local_reply **ret);
struct weft_local_text { /* in and out */
	int status;
	const char *body;
	size_t n;
	const char *content_type;
};
/* h is the answer's head; its :status is set. info->status is set too, for the mappers' filters.
 * Texts live in info->arena or in the configuration. r NULL: as it is. */
void weft_local_reply_rewrite(const struct weft_local_reply *r, struct weft_info *info,
			      const struct weft_headers *req, struct weft_headers *h,
			      struct weft_local_text *t);
