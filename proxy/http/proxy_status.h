/* Proxy-Status (RFC 9209): why an answer is not the origin's. */
#pragma once
#include "proxy/http/hcm_priv.h"

struct weft_proxy_status {
	const char *name;
	bool details, termination, flags; /* what the parameter `details` tells */
	bool set_code;			  /* the status becomes the one the RFC recommends */
};
void weft_proxy_status_prepare(struct weft_cfg *c, const hcm_msg *m, struct weft_hcm_conf *conf);
/* Adds a member where something went wrong. */
void weft_proxy_status_apply(const struct weft_proxy_status *p, const struct weft_info *info,
			     struct weft_headers *h);
