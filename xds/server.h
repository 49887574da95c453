/* xDS server over gRPC on HTTP/2: state of the world and delta, aggregated and a stream a type. One
 * thread (the main one). On one stream types go out in the order of types.def, and removals of
 * clusters and endpoints only after listeners and routes have been told and acked, so that nothing
 * refers to what is gone. */
#pragma once
#include "proxy/core/err.h"
#include "xds/link.h"
#include "xds/proto/envoy/config/core/v3/base.pb-c.h"
#include "xds/type.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct event_base;
struct weft_xds_server;

struct weft_xds_peer { /* valid during the call */
	pid_t pid;     /* 0 where not a unix socket; uid is (uid_t)-1 then */
	uid_t uid;
	const Envoy__Config__Core__V3__Node *node; /* of the first request */
	const char *authorization;		   /* header of the stream; "" none */
};
enum { WEFT_XDS_SCOPE_MAX = 256 }; /* bytes of a scope's name, NUL included */
struct weft_xds_server_conf {
	/* Decides on a new client by its unix credentials (see weft_xds_peer where it has none);
	 * NULL: only unix, the server's own uid and root. */
	bool (*allow)(void *owner, pid_t pid, uid_t uid);
	/* Decides at a stream's first request which scope it sees: ret_scope, "" when called. < 0
	 * with reterr: PERMISSION_DENIED. NULL: everybody sees "". */
	int (*admit)(void *owner, const struct weft_xds_peer *p, char ret_scope[WEFT_XDS_SCOPE_MAX],
		     struct weft_err *reterr);
	/* Told of every NACK and its text (log, counters). May be NULL. */
	void (*nacked)(void *owner, const char *node, const struct weft_xds_type *t,
		       const char *text);
	void *owner;
	unsigned ack_ms; /* a response must be acked in this time, or the stream ends; 0: 60,000 */
	struct weft_xds_times times; /* 0: the defaults */
};
enum { /* limits towards clients */
       WEFT_XDS_CLIENTS_MAX = 256,
       WEFT_XDS_STREAMS_MAX =
	       128, /* a client; Envoy opens one for each cluster that is not by ADS */
       WEFT_XDS_REQUEST_MAX = 4 << 20,	  /* bytes */
       WEFT_XDS_RESPONSE_BYTES = 4 << 20, /* about; a larger state comes in several responses */
       WEFT_XDS_NAMES_MAX = 200000,	  /* subscribed by name, a type and stream */
       WEFT_XDS_TEXT_MAX = 4096,	  /* of a NACK */
};
struct weft_xds_server *weft_xds_server_new(struct event_base *base,
					    const struct weft_xds_server_conf *conf);
/* Takes fd: a listening stream socket, unix or not. */
int weft_xds_server_listen(struct weft_xds_server *s, int fd, struct weft_err *reterr);
void weft_xds_server_free(struct weft_xds_server *s);

/* Sets (m copied as bytes) or removes (m NULL) a resource. aliases: NULL-terminated or NULL.
 * Changes are pushed together at the end of the current loop turn; an unchanged message changes no
 * version (the version is a hash of its bytes). */
void weft_xds_publish(struct weft_xds_server *s, const struct weft_xds_type *t, const char *name,
		      const ProtobufCMessage *m, const char *const *aliases);
/* The same into a scope: a stream sees the resources of one scope and no others, so that names need
 * be unique in a scope only (waypoints: one a Gateway). publish: scope "". */
void weft_xds_publish_to(struct weft_xds_server *s, const char *scope,
			 const struct weft_xds_type *t, const char *name, const ProtobufCMessage *m,
			 const char *const *aliases);
void weft_xds_unpublish_all(struct weft_xds_server *s, const char *scope);
/* Between begin and end nothing is pushed: one atomic update over all types. */
void weft_xds_server_begin(struct weft_xds_server *s);
void weft_xds_server_end(struct weft_xds_server *s);
size_t weft_xds_server_clients(const struct weft_xds_server *s);
size_t weft_xds_server_count(const struct weft_xds_server *s,
			     const struct weft_xds_type *t); /* of scope "" */
