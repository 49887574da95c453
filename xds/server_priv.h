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
	uint64_t seq;
	size_t live;
};

struct xname {
	UT_hash_handle hh;
	TAILQ_ENTRY(xname) list;
	bool due;      /* to be answered, found or not */
	char *version; /* the client's, in a sub's known; NULL otherwise */
	char name[];
};
TAILQ_HEAD(xname_list, xname);

struct xsub { /* one type on one stream */
	bool subscribed, wildcard, first, waiting;
	uint64_t sent_seq;  /* changes up to here were sent or did not matter */
	uint64_t start_seq; /* graves up to here were dug before the client asked */
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
	struct xsub subs[WEFT_XDS_TYPES];
	char node[256];
	int status; /* of gRPC; < 0: goes on */
	char message[256];
};

struct xclient {
	TAILQ_ENTRY(xclient) list;
	struct weft_xds_server *server;
	struct weft_xds_link *link;
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
	struct xtable tables[WEFT_XDS_TYPES];
	struct event *ev_push, *ev_tick;
	uint64_t stamp, nonce;
	int depth; /* begin without end */
	bool dirty;
};

/* server_store.c */
void weft_xds_tables_init(struct weft_xds_server *s);
void weft_xds_tables_done(struct weft_xds_server *s);
struct xres *weft_xds_table_find(struct xtable *t, const char *name); /* live ones only */
struct xalias *weft_xds_table_alias(struct xtable *t, const char *name);
void weft_xds_table_bury(struct xtable *t,
			 uint64_t told); /* forgets graves that everyone was told of */

/* server_sub.c */
void weft_xds_sub_open(struct xsub *sub, const struct xtable *t);
void weft_xds_sub_done(struct xsub *sub);
int weft_xds_sub_add(struct xsub *sub, const struct xtable *t, const char *name); /* -E2BIG */
void weft_xds_sub_del(struct xsub *sub, const char *name);
void weft_xds_sub_known(struct xsub *sub, const char *name, const char *version);
bool weft_xds_sub_has(const struct xsub *sub, const struct xres *r);

/* server_push.c: puts the next response into st->out; false: there is none now. */
bool weft_xds_stream_build(struct xstream *st);
