/* Shared by server*.c: resources by type, and what each stream has seen of them. */
#pragma once
#include "proxy/codec/grpc.h"
#include "xds/names.h"
#include "xds/server.h"
#include <sys/queue.h>

struct event;
struct evbuffer;

/* A resource, or the grave of one that some stream has not been told of. */
struct xres {
	UT_hash_handle hh;
	TAILQ_ENTRY(xres) all, grave;
	uint64_t seq;	/* of its last change */
	uint64_t stamp; /* last response it was put into */
	uint8_t *bytes;
	size_t n;
	char **aliases; /* NULL-terminated, or NULL */
	bool live;
	char version[20];
	char name[];
};
TAILQ_HEAD(xres_list, xres);

struct xalias { /* who answers to a name that is not its own */
	UT_hash_handle hh;
	struct xres **v;
	size_t n;
	char name[];
};

struct xtable {
	struct xres *by_name;
	struct xalias *by_alias;
	struct xres_list all;	 /* by seq */
	struct xres_list graves; /* by seq */
	uint64_t seq, hash;	 /* hash: of all names and versions */
	size_t live;
};

struct xscope { /* what one kind of client sees: all there is for it */
	UT_hash_handle hh;
	struct xtable tables[WEFT_XDS_TYPES];
	size_t n_streams;
	char name[];
};

struct xname {
	UT_hash_handle hh;
	TAILQ_ENTRY(xname) list;
	uint64_t stamp; /* of the last request that had it (state of the world) */
	bool due;	/* to be answered, found or not */
	char *version;	/* the client's, in a sub's known; NULL otherwise */
	char name[];
};
TAILQ_HEAD(xname_list, xname);

struct xsub { /* one type on one stream */
	bool subscribed, wildcard, first, waiting;
	bool named; /* names were given once: an empty list means none (state of the world) */
	uint64_t sent_seq; /* changes up to here were sent or did not matter */
	uint64_t gone_seq; /* the same of removals */
	struct xname *names;
	struct xname_list due;
	struct xname *known; /* initial_resource_versions, until the first pass is over */
	char nonce[40];
	uint64_t waiting_ns;
};

struct xstream {
	TAILQ_ENTRY(xstream) list;
	struct xclient *client;
	struct weft_h2_stream *s;
	struct weft_grpc_in in;
	struct evbuffer *out;
	struct xscope *scope; /* NULL: no request yet */
	bool delta;
	int only;	     /* the one type of this stream; -1: aggregated */
	char *authorization; /* of the request; until it is admitted */
	struct xsub subs[WEFT_XDS_TYPES];
	char node[256];
	int status; /* of gRPC; < 0: goes on */
	char message[256];
};

struct xclient {
	TAILQ_ENTRY(xclient) list;
	struct weft_xds_server *server;
	struct weft_xds_link *link;
	pid_t pid;
	uid_t uid;
	TAILQ_HEAD(, xstream) streams;
};

struct xlistener {
	TAILQ_ENTRY(xlistener) list;
	struct weft_xds_server *server;
	struct event *ev;
	int fd;
};

struct weft_xds_server {
	struct event_base *base;
	struct weft_xds_server_conf conf;
	TAILQ_HEAD(, xclient) clients;
	TAILQ_HEAD(, xlistener) listeners;
	size_t n_clients;
	struct xscope *scopes, *common; /* common: "" */
	struct event *ev_push, *ev_tick;
	uint64_t stamp, nonce;
	int depth; /* begin without end */
	bool dirty;
};

/* server_store.c */
struct xscope *weft_xds_scope_get(struct weft_xds_server *s, const char *name);
void weft_xds_scope_free(struct weft_xds_server *s, struct xscope *sc);
bool weft_xds_scope_empty(const struct xscope *sc);		      /* no resource, no grave */
struct xres *weft_xds_table_find(struct xtable *t, const char *name); /* live ones only */
struct xres *weft_xds_table_any(struct xtable *t, const char *name);  /* graves too */
struct xalias *weft_xds_table_alias(struct xtable *t, const char *name);
void weft_xds_table_bury(struct xtable *t,
			 uint64_t told); /* forgets graves that everyone was told of */

/* server_sub.c */
void weft_xds_sub_open(struct xsub *sub, const struct xtable *t);
void weft_xds_sub_done(struct xsub *sub);
int weft_xds_sub_add(struct xsub *sub, const struct xtable *t, const char *name); /* -E2BIG */
void weft_xds_sub_del(struct xsub *sub, const char *name);
/* state of the world: these and no others. stamp is greater than any before. -E2BIG */
int weft_xds_sub_set(struct xsub *sub, const struct xtable *t, char *const *names, size_t n,
		     uint64_t stamp);
void weft_xds_sub_known(struct xsub *sub, const char *name, const char *version);
bool weft_xds_sub_has(const struct xsub *sub, const struct xres *r);

/* server.c: ends the stream; the first reason counts. */
enum {
	GRPC_OK = 0,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
};
void weft_xds_finish(struct xstream *st, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* server_request.c: a message of the client. */
void weft_xds_request(struct xstream *st, const uint8_t *p, size_t n);

/* server_push.c: puts the next response into st->out; false: there is none now. */
bool weft_xds_stream_build(struct xstream *st);
