/* One HBONE session: TLS, HTTP/2 and its streams over a connected socket, as client or as server.
 * Worker thread. A loop turn reads at most WEFT_TUNNEL_TURN bytes of it, and writes once. */
#pragma once
#include "proxy/codec/h2.h"
#include "proxy/net/tls.h"
#include "proxy/node/conns.h"
#include "proxy/node/node.h"

struct weft_link;
struct weft_tunnel;

enum { WEFT_TUNNEL_TURN = 256 << 10, WEFT_TUNNEL_STREAMS = 100 /* of a peer's that we use */ };

struct weft_tunnel_ops { /* none may free the tunnel; weft_tunnel_close is fine */
	/* TLS is done and the peer's SETTINGS came. */
	void (*ready)(struct weft_tunnel *t);
	/* Server: a request. Answer with weft_link_refuse or bind a link by weft_link_accept, now.
	 */
	void (*request)(struct weft_tunnel *t, struct weft_h2_stream *s,
			const struct weft_h2_headers *h, bool end);
	/* Client: there may be room for a stream again, or never more (weft_tunnel_room tells). */
	void (*room)(struct weft_tunnel *t);
	/* Last call; its links were told before. was_ready: ready() came. The tunnel is freed after
	 * it. */
	void (*closed)(struct weft_tunnel *t, enum weft_reason r, const char *detail);
};
struct weft_tunnel_conf {
	struct weft_wstate *ws;
	int fd;			   /* connected, non-blocking; taken */
	struct ssl_ctx_st *ctx;	   /* referenced */
	struct weft_tls_want want; /* copied */
	const struct weft_tunnel_ops *ops;
	void *owner;
};
struct weft_tunnel *
weft_tunnel_new(const struct weft_tunnel_conf *conf); /* NULL: no memory for TLS; fd is closed */
void *weft_tunnel_owner(const struct weft_tunnel *t);
const char *weft_tunnel_peer(const struct weft_tunnel *t); /* SPIFFE id */
unsigned weft_tunnel_room(const struct weft_tunnel *t); /* client: streams that may be opened now */
bool weft_tunnel_finished(
	const struct weft_tunnel *t); /* takes no more streams: GOAWAY, retired or closing */
unsigned weft_tunnel_streams(const struct weft_tunnel *t); /* links on it */
/* No new streams; closes when the last has ended. server: GOAWAY in two steps. */
void weft_tunnel_retire(struct weft_tunnel *t);
/* GOAWAY if it can be sent at once, then closes; links end with r. closed() is called from the
 * loop, later in this turn. */
void weft_tunnel_close(struct weft_tunnel *t, enum weft_reason r, const char *detail);
/* Now: calls closed() and frees. Not from within the tunnel's callbacks. */
void weft_tunnel_kill(struct weft_tunnel *t, enum weft_reason r, const char *detail);
void weft_tunnel_dirty(struct weft_tunnel *t); /* has something to send at the end of this turn */

/* ---- for link.c */
struct weft_h2_stream *weft_tunnel_open(struct weft_tunnel *t, const struct weft_h2_header *v,
					size_t n, struct weft_link *k);
void weft_tunnel_attach(struct weft_tunnel *t, struct weft_link *k);
void weft_tunnel_detach(struct weft_tunnel *t, struct weft_link *k);
void weft_tunnel_todo(struct weft_tunnel *t,
		      struct weft_link *k); /* weft_link_step at the end of this read or write */
enum weft_reason weft_tunnel_reason(const struct weft_tunnel *t,
				    const char **ret_detail); /* why it closes */
bool weft_tunnel_take_budget(struct weft_tunnel *t,
			     uint32_t bytes); /* for a stream's larger window; false: used up */
void weft_tunnel_give_budget(struct weft_tunnel *t, uint32_t bytes);
