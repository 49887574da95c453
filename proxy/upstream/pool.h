/* Connections to hosts: fresh ones for TCP, pooled sessions for HTTP. All of a worker; circuit
 * breakers are the cluster's, over all workers. */
#pragma once
#include "proxy/upstream/cluster.h"

/* What decides which connections may be shared, besides the host. Read only during the call. */
struct weft_take {
	enum weft_priority priority;
	enum weft_http downstream; /* for WEFT_UP_DOWNSTREAM */
	const char *sni;	   /* auto_sni: overrides; NULL */
	const char *san;	   /* auto_san_validation: DNS name that must match; NULL */
	const char *alpn;	   /* override; NULL */
	const struct weft_sockaddr *source,
		*dest; /* downstream addresses for PROXY protocol and source binding; NULL */
	const Envoy__Config__Core__V3__Metadata
		*metadata;  /* endpoint's, for transport_socket_matches; NULL */
	const char *tunnel; /* CONNECT authority ("10.0.0.1:80"): the session or stream runs inside
			       an HBONE tunnel */
	uint64_t downstream_id; /* connection the request came on (weft_io_info.id), for
				   connection_pool_per_downstream_connection; 0: none */
	const char *identity;	/* with tunnel: exact SPIFFE id of the peer; NULL: the transport's
				   checks only */
};

/* ---- HTTP */
struct weft_lease {		      /* a place for one request on a pooled session */
	struct weft_session *session; /* NULL while pending */
	struct weft_host *host;	      /* referenced */
	struct weft_wcluster *wc;     /* referenced */
	bool fresh;		      /* the session never carried a request before */
	struct weft_lease_priv *priv;
};
struct weft_lease_ops {
	/* The session is there: open the exchange now (weft_exchange_open cannot lack room inside
	 * this call). */
	void (*ready)(void *owner, struct weft_lease *l);
	/* It will not be. l is to be given back by weft_lease_done (here or later). why: CONNECT,
	 * TIMEOUT, OVERFLOW … */
	void (*failed)(void *owner, struct weft_lease *l, enum weft_reset why, const char *detail);
};
/* 1: *ret has its session: open the exchange before returning to the loop. 0: pending. -EBUSY:
 * circuit breaker (counted); -EINVAL: a name in how is longer than any host's. *ret is NULL then.
 * failed() is never called before it returns. */
int weft_pool_take(struct weft_wcluster *wc, struct weft_host *h, const struct weft_take *how,
		   const struct weft_lease_ops *ops, void *owner, struct weft_lease **ret);
/* The request is over (or never was): gives the place back, cancels where pending. */
void weft_lease_done(struct weft_lease *l);

/* ---- TCP: one fresh connection; ready()/closed() of ops follow. Counts against max_connections.
 * Free the io by weft_upstream_io_free, which gives it back. -EBUSY: circuit breaker. */
int weft_upstream_dial(struct weft_wcluster *wc, struct weft_host *h, const struct weft_take *how,
		       const struct weft_io_ops *ops, void *owner, struct weft_io **ret);
void weft_upstream_io_free(struct weft_io *io);

/* That downstream connection is gone: with connection_pool_per_downstream_connection its idle
 * connections to wc close, others after their last request. */
void weft_pool_downstream_gone(struct weft_wcluster *wc, uint64_t id);
bool weft_pool_per_downstream(const struct weft_cluster *c);
struct weft_pools;
size_t weft_pools_open(const struct weft_pools *p); /* connections, idle ones as well */

/* ---- outcomes, told by whoever made the request: feeds outlier detection, host and cluster
 * counters. */
enum weft_outcome {
	WEFT_OUT_SUCCESS,
	WEFT_OUT_CODE /* http_status */,
	WEFT_OUT_LOCAL_CONNECT_FAILED,
	WEFT_OUT_LOCAL_TIMEOUT,
	WEFT_OUT_LOCAL_RESET,
	WEFT_OUT_CONNECTED
};
void weft_host_outcome(struct weft_wcluster *wc, struct weft_host *h, enum weft_outcome o,
		       int http_status);

/* ---- a small HTTP client on a cluster, for filters that ask somebody (JWKS, ext_authz, mirror).
 * Worker thread, or the main thread with the main worker. */
struct weft_call;
struct weft_call_result {
	int status;			    /* 0: failed */
	const struct weft_headers *headers; /* NULL when failed */
	struct evbuffer *body;
	const struct weft_headers *trailers; /* NULL */
	const char *detail;		     /* why it failed; "" */
	enum weft_reset why;
};
struct weft_call_conf {
	const char *cluster;
	const struct weft_headers *headers; /* :method, :path, :authority … */
	struct evbuffer *body;		    /* drained; NULL: none */
	unsigned timeout_ms;
	size_t body_max; /* of the answer; beyond: failed */
	void (*done)(
		void *owner,
		const struct weft_call_result *r); /* once; not called after weft_call_cancel */
	void *owner;
};
/* Never calls done before it returns. NULL: no such cluster (done is not called). */
struct weft_call *weft_call_start(struct weft_worker *w, const struct weft_call_conf *conf);
void weft_call_cancel(struct weft_call *c);
