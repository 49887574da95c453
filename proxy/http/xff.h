/* Who the client is: the connection's peer, or what x-forwarded-for says behind trusted proxies;
 * and whether that is inside. */
#pragma once
#include "proxy/net/io.h"
#include "proxy/session/headers.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"

struct weft_xff_detect { /* one of original_ip_detection_extensions */
	uint32_t hops;
	bool append;
	const struct weft_cidr *trusted; /* instead of hops; n 0: hops */
	size_t n;
};
struct weft_xff_conf {
	bool use_remote, skip_append, append_port, mapped, internal_unix;
	uint32_t hops;
	struct weft_ip self; /* appended in place of a loopback peer */
	const struct weft_xff_detect *detect;
	size_t n_detect;
	const struct weft_cidr *internal;
	size_t n_internal;
};
/* This machine's first address that is not loopback, found once: before the program is sealed. */
const struct weft_ip *weft_xff_self(void);
struct weft_xff_found {
	struct weft_sockaddr remote;
	bool internal, edge;
};
int weft_xff_prepare(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager
		*m,
	struct weft_xff_conf *ret);
/* Finds the client and writes x-forwarded-for, -proto and -port. */
void weft_xff_apply(const struct weft_xff_conf *conf, const struct weft_io_info *io,
		    struct weft_headers *h, struct weft_xff_found *ret);
