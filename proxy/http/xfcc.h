/* x-forwarded-client-cert: what is told of the client's certificate. */
#pragma once
#include "proxy/net/io.h"
#include "proxy/session/headers.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"

struct weft_xfcc_conf {
	uint8_t mode; /* ForwardClientCertDetails */
	bool subject, cert, chain, dns, uri;
};
int weft_xfcc_prepare(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager
		*m,
	struct weft_xfcc_conf *ret);
/* pem: called for the URL-encoded certificate, or all that the client sent, where it is wanted. */
void weft_xfcc_apply(const struct weft_xfcc_conf *conf, const struct weft_tls_info *tls,
		     const char *(*pem)(void *ctx, bool chain), void *ctx, struct weft_headers *h);
