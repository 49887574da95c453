/* Client's end of one stream of the xDS protocol, state of the world or delta: subscriptions of any
 * number of types, what is held of each by name and version, acks, and coming back after a loss.
 * Main thread. Private to xds/. */
#pragma once
#include "proxy/codec/grpc.h"
#include "xds/link.h"
#include "xds/names.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/sink.h"
#include <sys/queue.h>

struct event;
struct evbuffer;
struct event_base;
struct weft_xds_stream;
struct weft_yaml_doc;

enum {
	WEFT_XDS_BATCH_BYTES = 256 << 10,  /* a response with more is applied in several calls; */
	WEFT_XDS_WHOLE_BYTES = 8 << 20,	   /* so one of listeners: they hand on addresses */
	WEFT_XDS_VERSIONS_BYTES = 3 << 20, /* of a request: servers take 4 MiB */
	WEFT_XDS_NACK_MAX = 4096,
	WEFT_XDS_NACK_MIN_MS = 50, /* between refusals of one version; doubles */
	WEFT_XDS_NACK_MAX_MS = 1000,
};
struct weft_xds_stream_conf {	  /* copied; what it points to outlives the stream, unless said */
	char *method, *authority; /* malloc'ed: taken */
	struct weft_h2_header *metadata; /* malloc'ed: taken, with its strings */
	size_t n_metadata;
	bool delta;
	bool node_always; /* in every request; else in the first of a stream */
	bool keep;	  /* bytes of what was accepted, for weft_xds_stream_again */
	const Envoy__Config__Core__V3__Node *node;
	size_t message_max;
	unsigned backoff_min_ms, backoff_max_ms;
	double fill_rate; /* requests a second; 0: no limit */
	uint32_t max_tokens;
	struct weft_xds_times times;
	/* Makes the link; conf goes to weft_xds_link_new or _over as it is. */
	int (*connect)(void *owner, struct event_base *base, const struct weft_xds_link_conf *conf,
		       struct weft_xds_link **ret, struct weft_err *reterr);
	void (*lost)(void *owner, const char *why);
	void *owner;
};

struct xheld { /* a name that is asked for, or of which something is held */
	UT_hash_handle hh;
	TAILQ_ENTRY(xheld) link; /* while queued */
	char *version;		 /* of the last one accepted; NULL: none was */
	uint8_t *bytes;		 /* of it, where conf.keep */
	size_t n;
	uint64_t hash;	   /* of its bytes */
	uint32_t round;	   /* of the last response it was in */
	bool wanted;	   /* by its name */
	bool told;	   /* the server knows so, on this stream */
	bool queued;	   /* the last two may differ */
	bool refused;	   /* the last one given was */
	bool unsure;	   /* not seen since the connection was made, and not told to the server */
	struct event *ttl; /* NULL: lives until told otherwise */
	struct xtype *type;
	char name[];
};
TAILQ_HEAD(xheld_list, xheld);

struct xack {
	TAILQ_ENTRY(xack) link;
	char *nonce, *error; /* error NULL: accepted */
};

struct xtype {
	TAILQ_ENTRY(xtype) link;
	struct weft_xds_stream *stream;
	const struct weft_xds_type *type;
	const struct weft_xds_sink *sink;
	void *owner;
	void (*refused)(void *owner, const char *name); /* one that sink never saw; may be NULL */
	struct xheld *held;
	struct xheld_list queue; /* names whose subscription changed */
	size_t n_wanted;
	/* State of the world: resource_names as it stands in requests, for each one names all.
	 * NULL: to be made. */
	uint8_t *names;
	size_t n_names;
	bool wild, wild_told; /* everything is asked for; the server knows */
	bool asked;	      /* the first request on this stream was sent */
	bool due;	      /* state of the world: names changed */
	bool syncing;	      /* the first state on this connection is not complete */
	bool ready, complete; /* one response acked in full; a whole state has come once */
	uint32_t round;
	char *version; /* version_info last accepted, or of the last response (delta) */
	char *nonce;   /* state of the world: of the last response */
	TAILQ_HEAD(, xack) acks;
	/* State of the world: servers send a refused version again at once, so the answer to one
	 * that is refused again waits. */
	char *refused_version;
	unsigned refused_ms;
	uint64_t hold_ns; /* no request before; 0: none waits */
	uint64_t update_time_ms;
};

struct weft_xds_reply {
	struct xtype *type;
	char nack[WEFT_XDS_NACK_MAX];
	size_t nack_n, nacks, index; /* index: of the resource that is read */
	bool unnamed;		     /* a resource was refused whose name is not known */
};

struct weft_xds_stream {
	struct event_base *base;
	struct weft_xds_stream_conf conf;
	TAILQ_HEAD(, xtype) types; /* in the order of types.def */
	struct event *ev_dial, *ev_answer, *ev_send;
	unsigned backoff_ms;
	const struct weft_yaml_doc *doc; /* the file that is being given; NULL: a server's bytes */
	struct weft_xds_link *link;
	struct weft_h2_stream *s;
	struct weft_grpc_in in;
	struct evbuffer *out;
	bool connected, heard, broken, started, node_sent, applying;
	char why[320]; /* the server's reason to end the stream */
	char control_plane[128];
	double tokens;
	uint64_t tokens_ns, rate_limited;
};

struct weft_xds_stream *weft_xds_stream_new(struct event_base *base,
					    const struct weft_xds_stream_conf *conf);
void weft_xds_stream_free(struct weft_xds_stream *s);  /* not within apply; NULL is fine */
void weft_xds_stream_start(struct weft_xds_stream *s); /* connects, soon */
/* The type on this stream; made when first asked for (sink and owner count then). */
struct xtype *weft_xds_stream_type(struct weft_xds_stream *s, const struct weft_xds_type *t,
				   const struct weft_xds_sink *sink, void *owner);
struct xtype *weft_xds_stream_find(struct weft_xds_stream *s, const char *url);
/* Asked for at the end of the loop's turn. Not off, and not unwant, within apply. */
void weft_xds_stream_wild(struct xtype *t, bool on);
void weft_xds_stream_want(struct xtype *t, const char *name);
void weft_xds_stream_unwant(struct xtype *t, const char *name);
/* Gives what is held of a name to sink; false: nothing is. Needs conf.keep. */
bool weft_xds_stream_again(struct xtype *t, const char *name, const struct weft_xds_sink *sink,
			   void *owner);

/* ---- between stream*.c */

/* stream_held.c */
struct xheld *weft_xds_held_find(const struct xtype *t, const char *name);
struct xheld *weft_xds_held_get(struct xtype *t, const char *name); /* made if missing */
void weft_xds_held_queue(struct xtype *t, struct xheld *h);
/* Forgets the resource; the name too unless it is asked for or the server must be told. NULL is
 * fine. */
void weft_xds_held_clear(struct xheld *h);
void weft_xds_held_free_all(struct xtype *t);
void weft_xds_held_ttl(struct xheld *h, const Google__Protobuf__Duration *ttl);

/* stream_send.c */
void weft_xds_stream_send_soon(struct weft_xds_stream *s);
void weft_xds_stream_send(struct weft_xds_stream *s); /* all that is due and may go */
void weft_xds_stream_ack(struct xtype *t, const char *nonce, const char *error);
void weft_xds_stream_renew(struct weft_xds_stream *s); /* a new connection knows nothing */

/* stream_apply.c: -errno: it cannot be read. */
int weft_xds_stream_response(struct weft_xds_stream *s, const uint8_t *p, size_t n);
void weft_xds_stream_remove(struct xtype *t, const char *const *names, size_t n);
