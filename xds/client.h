/* Delta ADS client over gRPC on HTTP/2 on a unix socket; reconnects with backoff 20 ms..15 s and
 * keeps state and versions. One thread. */
#pragma once
#include "proxy/core/err.h"
#include "xds/link.h"
#include "xds/type.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct weft_xds_client;

struct weft_xds_resource {
	const char *name, *version;
	const ProtobufCMessage *msg; /* checked and decoded; NULL in removals */
	const uint8_t *bytes;	     /* as received */
	size_t n;
};
struct weft_xds_sink {
	/* One response (a very large one: part of it): updates, then removals. For each update that
	 * is refused, call weft_xds_reject (the rest is applied; the NACK carries every text;
	 * versions of refused ones are not kept). Everything is valid during the call only. */
	void (*apply)(void *owner, struct weft_xds_client *c, const struct weft_xds_resource *up,
		      size_t n_up, const char *const *removed, size_t n_removed);
	void (*connected)(void *owner, bool up); /* may be NULL; told once a change */
	/* Once, after apply: the first state of this type is complete, refused resources and all.
	 * May be NULL. */
	void (*complete)(void *owner);
};
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
	WEFT_XDS_BATCH_BYTES = 8 << 20, /* a response with more comes to apply() in several calls */
	WEFT_XDS_VERSIONS_BYTES =
		3 << 20, /* of initial_resource_versions: servers take requests of 4 MiB */
};
struct weft_xds_client *weft_xds_client_new(struct event_base *base,
					    const struct weft_xds_client_conf *conf);
/* Wildcard subscription; before start. sink must outlive the client. */
int weft_xds_subscribe(struct weft_xds_client *c, const struct weft_xds_type *t,
		       const struct weft_xds_sink *sink, void *owner);
void weft_xds_client_start(struct weft_xds_client *c);
void weft_xds_client_free(struct weft_xds_client *c);
void weft_xds_reject(struct weft_xds_client *c, const char *name,
		     const struct weft_err *why); /* only inside apply */
bool weft_xds_ready(
	const struct weft_xds_client *c); /* each subscribed type had one response acked in full */
bool weft_xds_connected(const struct weft_xds_client *c);
