/* Shared by client*.c. */
#pragma once
#include "proxy/codec/grpc.h"
#include "xds/client.h"
#include "xds/names.h"
#include "xds/proto/discovery.pb-c.h"

struct evbuffer;
struct event;

struct xheld { /* a resource the sink has, or is about to be given */
	UT_hash_handle hh;
	char *version; /* of the last one accepted; NULL: none was */
	bool refused;  /* the last one given was: its version is not told to servers */
	bool unsure;   /* not seen since the connection was made, and not told to the server */
	char name[];
};

struct xtype {
	const struct weft_xds_type *type;
	const struct weft_xds_sink *sink;
	void *owner;
	struct xheld *held;
	bool syncing; /* the first state on this connection is not complete */
	bool ready;
	bool complete; /* a whole state has come once */
};

enum { CLIENT_TYPES_MAX = 8, CLIENT_NACK_MAX = 4096 };

struct weft_xds_client {
	struct event_base *base;
	struct weft_xds_client_conf conf; /* strings are ours */
	struct xtype types[CLIENT_TYPES_MAX];
	size_t n_types;
	struct event *ev_dial, *ev_answer;
	unsigned backoff_ms;
	struct weft_xds_link *link;
	struct weft_h2_stream *s;
	struct weft_grpc_in in;
	struct evbuffer *out;
	bool connected, heard, broken;
	char why[320]; /* the server's reason to end the stream */
	/* of the response being applied */
	struct xtype *applying;
	char nack[CLIENT_NACK_MAX];
	size_t nack_n, nacks;
};

/* Queues a request message. */
void weft_xds_client_send(struct weft_xds_client *c, const ProtobufCMessage *m);
/* The first request of a type on a connection. */
void weft_xds_client_open_type(struct weft_xds_client *c, struct xtype *t);
/* Applies a response and queues its ack. -errno: it cannot be read. */
int weft_xds_client_response(struct weft_xds_client *c, const uint8_t *p, size_t n);
void weft_xds_held_free(struct xtype *t);
