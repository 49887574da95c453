/* weft-proxy's own shape: what the main thread gives to workers, and what workers ask of it.
 * Main thread: broker client (podtab.c), xDS sinks (state.c), metrics, readiness, drain. Workers:
 * every user byte. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/reason.h"
#include "proxy/core/stat.h"
#include "proxy/core/worker.h"
#include "proxy/policy/model.h"
#include <event2/util.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ssl_ctx_st;
struct weft_node;

/* Named limits and waits; defaults in main.c, set by options. Immutable after start. */
struct weft_node_conf {
	unsigned workers;				    /* 0: one a CPU */
	unsigned connect_ms, tls_ms, preface_ms, answer_ms; /* 10000 each */
	unsigned workload_wait_ms;			    /* 5000 */
	unsigned drain_ms;				    /* 25000 */
	unsigned pool_idle_ms;				    /* 300000 */
	unsigned ping_ms, ping_timeout_ms;		    /* 10000, 20000 */
	unsigned max_conns;	 /* of users, in all; beyond: LIMIT. 200000 */
	unsigned max_handshakes; /* tunnels in TLS or before SETTINGS, a worker; beyond: the oldest
				    ends, LIMIT. 4096 */
	unsigned stream_window;	 /* bytes, 262144 */
	unsigned max_streams; /* we allow a peer on a tunnel, 200; we use at most 100 of a peer's */
};

/* A pod of this node. Refcounted; nothing but the atomics changes after publish. */
struct weft_npod {
	atomic_uint refs;
	char *uid, *name, *ns, *sa, *trust_domain;
	char *workload_uid; /* of its workload in the model; may be empty */
	char *identity;	    /* "spiffe://..." */
	struct weft_ip addrs[4];
	size_t n_addrs;
	char *network;
	int home; /* worker that owns its listeners */
	atomic_bool removed;
	atomic_uint conns;
};
struct weft_npod *weft_npod_ref(struct weft_npod *p);
void weft_npod_unref(struct weft_npod *p);

/* The certificate of one identity, as SSL_CTXs. Refcounted, immutable. A rotation makes a new one;
 * live tunnels keep theirs. */
struct weft_secret {
	atomic_uint refs;
	char *identity, *trust_domain;
	struct ssl_ctx_st *server, *client;
	uint64_t serial;   /* grows at each rotation */
	int64_t not_after; /* unix s */
};
void weft_secret_unref(struct weft_secret *s);

/* ---- state.c: main → workers by post; each worker reads its own pointers between events. */
struct weft_wstate { /* per worker, w->owner points to it */
	struct weft_worker *w;
	struct weft_node *node;
	const struct weft_node_conf *conf;
	struct weft_model *model;     /* swapped between events; hold a ref beyond a callback */
	struct weft_secrets *secrets; /* identity → weft_secret */
	struct weft_stock *stock;     /* unconnected sockets (stock.c) */
	struct weft_pool *pool;	      /* HBONE tunnels out (pool.c) */
	struct weft_inbound *inbound; /* tunnels and plain connections in (inbound.c) */
	struct weft_outbound *outbound;
	struct weft_conns *conns; /* listeners and live connections (accept.c, conns.c); made by the
				     first *_init below */
	struct weft_wstate *const *all; /* every worker's state, this one included, by worker id;
					   set before start. NULL: alone */
	unsigned n_all;
	struct weft_flows *flows; /* flowlog.c's series and log buffer */
	bool draining;
};
struct weft_secret *weft_secret_get(struct weft_wstate *ws,
				    const char *identity); /* a reference, or NULL */

/* ---- stock.c: sockets made in a pod's namespace, handed over by the broker in batches ahead of
 * need. Worker thread. take: an fd at once (>= 0), or -EAGAIN and got(fd or -errno) later; got is
 * not called from inside take. got's errors: -ETIMEDOUT (connect_ms; also while the agent is away),
 * -ECANCELED (the pod was removed). take's: -ECANCELED likewise, -ENOBUFS (too many wait for this
 * pod). ret_wait is set only with -EAGAIN. */
enum weft_sock_kind {
	WEFT_SOCK_OUT4 = 7,
	WEFT_SOCK_OUT6,
	WEFT_SOCK_IN4,
	WEFT_SOCK_IN6
}; /* SocketKind */
struct weft_sock_wait;
int weft_stock_take(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k,
		    void (*got)(void *arg, int fd), void *arg, struct weft_sock_wait **ret_wait);
void weft_stock_cancel(struct weft_sock_wait *w);
/* Instead of close(): a taken socket whose connection is over (both FINs passed, or the connect
 * failed), no longer in any event loop. Disconnected and used again (its namespace, mark and
 * options stay), so that the stock lasts while the agent is away; what cannot be used again is
 * closed. Call it only when no option of the socket was changed for good. */
void weft_stock_give(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k, int fd);
/* Instead of weft_sock_abort(): whatever its state, the peer gets a reset and the socket is used
 * again. */
void weft_stock_abort(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k, int fd);

/* ---- implemented by the byte path (outbound.c, inbound.c, pool.c), called by podtab.c/state.c on
 * the worker's thread. */
int weft_pool_init(struct weft_wstate *ws);
void weft_pool_done(struct weft_wstate *ws);
int weft_outbound_init(struct weft_wstate *ws);
void weft_outbound_done(struct weft_wstate *ws);
int weft_inbound_init(struct weft_wstate *ws);
void weft_inbound_done(struct weft_wstate *ws);
/* Takes the listening fd (kind: SocketKind 1..6) and accepts on it until pod_removed or drain. */
void weft_accept_add(struct weft_wstate *ws, struct weft_npod *p, int kind, int fd);
void weft_pod_removed(
	struct weft_wstate *ws,
	struct weft_npod *p); /* every worker: closes listeners, connections, tunnels of p */
void weft_model_changed(
	struct weft_wstate *ws,
	bool policies); /* after ws->model was swapped: re-check live connections, purge pool */
void weft_secret_changed(struct weft_wstate *ws, const char *identity);
void weft_drain_begin(struct weft_wstate *ws); /* close listeners, GOAWAY; go on with what lives */
unsigned weft_live_conns(struct weft_wstate *ws); /* users' connections that live on this worker */
void weft_drain_force(struct weft_wstate *ws);	  /* closes everything (reason DRAIN) */

/* ---- flowlog.c: one record a user connection; metrics and access log come from it and nowhere
 * else. */
struct weft_flow {
	bool inbound, mtls;
	struct weft_sockaddr src, dst, hbone; /* hbone: inbound: the CONNECT authority's address */
	struct weft_workload *src_w, *dst_w;  /* references, may be NULL */
	struct weft_service *dst_s;	      /* reference, may be NULL */
	/* Never NULL once initialised; set by weft_flow_set only. */
	const char *src_id, *dst_id; /* SPIFFE, empty: none */
	const char *dst_host;	     /* forwarded host or authority host */
	const char *trace_id;
	const char *src_labels_ns, *src_labels_workload, *src_labels_app; /* from baggage */
	const char *src_labels_version, *src_labels_cluster;
	uint64_t t0_ns;
	uint64_t sent,
		received; /* bytes as the local workload sees them: sent by it, received by it */
	uint64_t told_sent, told_received; /* already in metrics */
	struct weft_series *series;	   /* flowlog.c's; set once opened */
	struct weft_worker *worker;
};
/* Copies value into the field of a flow; longer ones are cut at 255 bytes. */
void weft_flow_set(const char **field, const char *value);
void weft_flow_init(struct weft_flow *f, struct weft_wstate *ws, bool inbound);
void weft_flow_open(struct weft_flow *f); /* identities and workloads are known: opened counter */
void weft_flow_tick(struct weft_flow *f); /* every 5 s for long ones, if bytes moved */
void weft_flow_close(
	struct weft_flow *f, enum weft_reason r,
	const char *detail); /* closed/failed counter, access log line, drops references */
