/* Delta ADS client over gRPC on HTTP/2 on a unix socket; reconnects with backoff 20 ms..15 s and
 * keeps state and versions. One thread. */
#pragma once
#include "proxy/core/err.h"
#include "xds/link.h"
#include "xds/sink.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct weft_xds_client;

struct weft_xds_client_conf {
	const char *path;      /* unix socket */
	const char *node_id;   /* "ztunnel~ip~pod.ns~ns.svc.cluster.local" */
	const char *node_name; /* metadata NODE_NAME */
	/* Told each time a connection ends or cannot be made, with the reason (log). May be NULL.
	 */
	void (*lost)(void *owner, const char *why);
	void *owner;
	struct weft_xds_times times; /* 0: the defaults */
};
enum {
	WEFT_XDS_MESSAGE_MAX = 200 << 20, /* of a response */
	WEFT_XDS_BACKOFF_MIN_MS = 20,
	WEFT_XDS_BACKOFF_MAX_MS = 15000,
};
struct weft_xds_client *weft_xds_client_new(struct event_base *base,
					    const struct weft_xds_client_conf *conf);
/* Wildcard subscription; before start. sink must outlive the client. */
int weft_xds_subscribe(struct weft_xds_client *c, const struct weft_xds_type *t,
		       const struct weft_xds_sink *sink, void *owner);
void weft_xds_client_start(struct weft_xds_client *c);
void weft_xds_client_free(struct weft_xds_client *c);
bool weft_xds_ready(
	const struct weft_xds_client *c); /* each subscribed type had one response acked in full */
bool weft_xds_connected(const struct weft_xds_client *c);
