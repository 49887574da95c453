/* Inside of transport*.c. */
#pragma once
#include "proxy/upstream/transport.h"
#include "xds/proto/envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"

struct upstream_tls; /* transport_tls.c */
struct weft_tsocket {
	const Google__Protobuf__Struct *match; /* NULL: the cluster's own */
	struct upstream_tls *tls;	       /* NULL: plain */
	const Envoy__Extensions__TransportSockets__ProxyProtocol__V3__ProxyProtocolUpstreamTransport
		*proxy; /* NULL: no PROXY header */
};
struct weft_transport {
	const struct weft_cluster *cl;
	struct weft_tsocket own, *matches;
	size_t n_matches;
};

/* What is used of s's configuration, in c->arena. NULL: errors are in c. */
struct upstream_tls *
weft_upstream_tls_new(struct weft_cfg *c, const struct weft_path *at, const struct weft_cluster *cl,
		      const Envoy__Extensions__TransportSockets__Tls__V3__UpstreamTlsContext *m);
void weft_upstream_tls_done(struct upstream_tls *t);
bool weft_upstream_tls_want(const struct upstream_tls *t, size_t i,
			    const Envoy__Config__Core__V3__ConfigSource **ret_source,
			    const char **ret_name);
bool weft_upstream_tls_ready(const struct upstream_tls *t);
int weft_upstream_tls_secret(struct upstream_tls *t, struct weft_cfg *c, const char *name,
			     const Envoy__Extensions__TransportSockets__Tls__V3__Secret *msg);
/* Fills d->tls; the context is referenced. 0, -EAGAIN. */
int weft_upstream_tls_prepare(struct upstream_tls *t, const struct weft_tdial_want *want,
			      struct weft_tdial *d);

/* transport_proxy.c: the header before anything else. */
int weft_proxy_header(const struct weft_tsocket *s, const struct weft_take *how,
		      struct weft_tdial *d);
int weft_proxy_header_check(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Extensions__TransportSockets__ProxyProtocol__V3__ProxyProtocolUpstreamTransport
		*m);
