/* Inside of pool*.c and hbone.c. Everything is one worker's. */
#pragma once
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/pool.h"
#include "proxy/upstream/transport.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <sys/queue.h>

/* In seeded form, so that whoever chooses names in requests cannot choose collisions. */
unsigned weft_pool_hash(const void *p, size_t n);
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, n, ret) ((ret) = weft_pool_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>

enum { POOL_NAME_MAX = 512, POOL_KEY_MAX = 2560 };

/* Where a tunnel goes: of the endpoint's metadata and the take. Strings live as long as those. */
struct tunnel_want {
	const char *peer;      /* "10.0.0.1:15008", a port, or NULL: port 15008 of the host */
	double peer_port;      /* the same as a number; 0: none */
	const char *authority; /* NULL: no tunnel */
	const char *identity;  /* NULL: what the transport checks */
};

/* What connections of one pool have in common. Hashed and compared as bytes, the texts after it
 * included. */
struct pool_key {
	const struct weft_host *host;
	const struct weft_tsocket *socket;
	uint64_t downstream;	   /* 0: shared by all */
	uint8_t version, priority; /* enum weft_upstream_http, weft_priority */
	uint8_t set;		   /* which texts follow, bits 1 << enum pool_text */
	uint8_t pad[5];
};
enum pool_text { KEY_SNI, KEY_SAN, KEY_ALPN, KEY_TUNNEL, KEY_PEER, KEY_IDENTITY, KEY_CLIENT, KEYS };

TAILQ_HEAD(lease_list, weft_lease_priv);
TAILQ_HEAD(conn_list, pool_conn);
struct pool {
	UT_hash_handle hh;
	TAILQ_ENTRY(pool) grave;
	struct weft_pools *all;
	struct weft_host *host;
	const struct weft_tsocket *socket;
	enum weft_upstream_http version; /* AUTO: until one ALPN was seen it is taken for h2 */
	enum weft_upstream_http seen;	 /* what AUTO last came to */
	enum weft_priority priority;
	struct conn_list ready, busy, connecting; /* busy: full, or draining */
	struct lease_list pending;
	uint32_t n_ready, n_busy, n_connecting, n_pending, n_active;
	uint32_t peer_streams; /* h2: what the peer last allowed; 0: not known */
	bool draining;	       /* host gone: nothing idle is kept */
	bool dead, hashed;
	const char *text[KEYS]; /* of the key; NULL: not set */
	struct weft_sockaddr source, dest;
	size_t key_n;
	char key[];
};
enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_DRAINING, CONN_DEAD };
struct pool_conn {
	TAILQ_ENTRY(pool_conn) link;
	struct pool *pool;
	struct weft_io *io; /* until there is a session */
	struct weft_session *session;
	struct lease_list leases;
	uint8_t state, list; /* enum conn_state, conn_where */
	bool h2;
	int dial_err;
	uint32_t active, limit, left; /* left: requests before it is too old; UINT32_MAX: any */
	uint64_t served;
	uint64_t start_ns, ready_ns, idle_ns;
	uint64_t rx, tx; /* counted so far */
	struct event timer;
};
enum conn_where { WHERE_NONE, WHERE_READY, WHERE_BUSY, WHERE_CONNECTING };

enum lease_state { LEASE_PENDING, LEASE_ATTACHED, LEASE_OVER };
struct weft_lease_priv {
	struct weft_lease l;
	TAILQ_ENTRY(weft_lease_priv) link;
	struct pool *pool;	/* while pending */
	struct pool_conn *conn; /* while attached and the connection lives */
	const struct weft_lease_ops *ops;
	void *owner;
	uint8_t state, priority;
};

struct tcp_conn; /* pool_dial.c */
struct hbone_peer;
TAILQ_HEAD(tcp_list, tcp_conn);
TAILQ_HEAD(hbone_list, hbone_peer);
struct weft_pools {
	struct weft_wcluster *wc;
	struct pool *by_key;
	struct tcp_list tcp;
	struct hbone_list peers;
	struct conn_list dead_conns; /* freed by the next turn of the loop */
	TAILQ_HEAD(, pool) dead_pools;
	struct event soon, bytes; /* bytes: of TCP connections, counted while they live */
	size_t n_conns;
	bool draining;
};

/* pool_stat.c: circuit breakers and counters */
enum weft_gate { GATE_CX, GATE_PENDING, GATE_RQ, GATE_POOLS };
bool weft_gate_take(const struct weft_cluster *c, enum weft_priority p, enum weft_gate g,
		    bool force);
void weft_gate_give(const struct weft_cluster *c, enum weft_priority p, enum weft_gate g);
void weft_gates_init(const struct weft_cluster *c);
#define COUNT(cl, item, n) weft_scope_add((cl)->scope, WEFT_CLUSTER_##item, n)
/* A connection's beginning and end, of any kind. */
struct cx_end {
	bool local, active; /* closed by us; inside a request */
	bool opened;	    /* it had been connected */
	uint64_t start_ns;
};
void weft_cx_opened(const struct weft_cluster *c, struct weft_host *h);
void weft_cx_connected(const struct weft_cluster *c, const struct weft_io *io, uint64_t start_ns);
void weft_cx_closed(const struct weft_cluster *c, struct weft_host *h, const struct cx_end *e);
void weft_cx_bytes(const struct weft_cluster *c, const struct weft_io *io, uint64_t *rx,
		   uint64_t *tx);
void weft_cx_tls_failed(const struct weft_cluster *c, const struct weft_io *io);

/* pool_conn.c */
void weft_pool_grow(struct pool *p);
void weft_pool_serve(struct pool_conn *c); /* gives it to those who wait */
bool weft_conn_usable(const struct pool_conn *c);
bool weft_conn_attach(struct pool_conn *c, struct weft_lease_priv *l);
void weft_conn_place(struct pool_conn *c); /* in the list it belongs to now; may close it */
void weft_conn_close(struct pool_conn *c, bool local);
void weft_conn_drain(struct pool_conn *c);

/* pool.c */
void weft_pool_look(struct pool *p); /* frees it when it is empty */
void weft_pool_pending_done(struct weft_lease_priv *l);
void weft_pool_fail(struct pool *p, enum weft_reset why, const char *detail);
void weft_pools_soon(struct weft_pools *a);

/* hbone.c, hbone_want.c */
bool weft_tunnel_want(const struct weft_take *how, const struct weft_host *h,
		      struct tunnel_want *ret);
struct hbone_ask {
	struct weft_host *host;
	const struct weft_tsocket *socket;
	struct tunnel_want to;
};
/* The peer's address; -EINVAL. */
int weft_hbone_addr(const struct hbone_ask *ask, struct weft_sockaddr *ret);
/* A stream inside a pooled tunnel. -EINVAL: the peer's address or the authority is none. */
int weft_hbone_dial(struct weft_pools *a, const struct hbone_ask *ask,
		    const struct weft_io_ops *ops, void *owner, struct weft_io **ret);
/* Those without streams are closed; with host: only tunnels made for it. */
void weft_hbone_drain(struct weft_pools *a, const struct weft_host *h);
void weft_hbone_free(struct weft_pools *a);

/* pool_dial.c */
struct dial_ask {
	struct weft_pools *all;
	struct weft_host *host;
	const struct weft_tsocket *socket;
	const struct weft_take *how;
	const char *const *alpn;
	struct tunnel_want tunnel; /* authority NULL: none */
};
int weft_pool_dial(const struct dial_ask *d, const struct weft_io_ops *ops, void *owner,
		   struct weft_io **ret);
void weft_tcp_bytes(struct weft_pools *a);
void weft_tcp_host_gone(struct weft_pools *a, const struct weft_host *h);
