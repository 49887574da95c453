/* Circuit breakers, and the counters of a connection's life. */
#include "proxy/core/worker.h"
#include "proxy/net/io_tls.h"
#include "proxy/upstream/pool_priv.h"

#include <string.h>

struct gate {
	_Atomic uint32_t *n;
	uint32_t max;
	unsigned open, remaining; /* items of the default priority */
};
enum {
	HIGH = WEFT_CLUSTER_circuit_breakers_high_cx_open -
	       WEFT_CLUSTER_circuit_breakers_default_cx_open
};

static struct gate gate_of(struct weft_breaker *b, enum weft_gate g)
{
	switch (g) {
	case GATE_CX:
		return (struct gate){&b->connections, b->max_connections,
				     WEFT_CLUSTER_circuit_breakers_default_cx_open,
				     WEFT_CLUSTER_circuit_breakers_default_remaining_cx};
	case GATE_PENDING:
		return (struct gate){&b->pending, b->max_pending,
				     WEFT_CLUSTER_circuit_breakers_default_rq_pending_open,
				     WEFT_CLUSTER_circuit_breakers_default_remaining_pending};
	case GATE_RQ:
		return (struct gate){&b->requests, b->max_requests,
				     WEFT_CLUSTER_circuit_breakers_default_rq_open,
				     WEFT_CLUSTER_circuit_breakers_default_remaining_rq};
	default:
		return (struct gate){&b->pools, b->max_pools,
				     WEFT_CLUSTER_circuit_breakers_default_cx_pool_open,
				     WEFT_CLUSTER_circuit_breakers_default_remaining_cx_pools};
	}
}

static void told(const struct weft_cluster *c, const struct weft_breaker *b, const struct gate *g,
		 uint32_t now, uint32_t was)
{
	unsigned shift = b == &c->breaker[WEFT_PRIORITY_HIGH] ? HIGH : 0;

	if ((now >= g->max) != (was >= g->max))
		weft_scope_set(c->scope, g->open + shift, now >= g->max);
	if (b->track_remaining)
		weft_scope_set(c->scope, g->remaining + shift, now < g->max ? g->max - now : 0);
}

bool weft_gate_take(const struct weft_cluster *c, enum weft_priority p, enum weft_gate which,
		    bool force)
{
	struct weft_breaker *b = &c->breaker[p];
	struct gate g = gate_of(b, which);
	uint32_t was = atomic_fetch_add_explicit(g.n, 1, memory_order_relaxed);

	if (was >= g.max && !force) {
		atomic_fetch_sub_explicit(g.n, 1, memory_order_relaxed);
		return false;
	}
	told(c, b, &g, was + 1, was);
	return true;
}

void weft_gate_give(const struct weft_cluster *c, enum weft_priority p, enum weft_gate which)
{
	struct weft_breaker *b = &c->breaker[p];
	struct gate g = gate_of(b, which);
	uint32_t was = atomic_fetch_sub_explicit(g.n, 1, memory_order_relaxed);

	told(c, b, &g, was - 1, was);
}

/* What is left is told from the beginning, not only once something was taken. */
void weft_gates_init(const struct weft_cluster *c)
{
	for (int p = 0; p < WEFT_PRIORITIES; p++)
		for (int which = GATE_CX; which <= GATE_POOLS; which++) {
			struct gate g = gate_of(&c->breaker[p], (enum weft_gate)which);
			uint32_t now = atomic_load_explicit(g.n, memory_order_relaxed);

			if (c->breaker[p].track_remaining)
				told(c, &c->breaker[p], &g, now, now);
		}
}

void weft_cx_opened(const struct weft_cluster *c, struct weft_host *h)
{
	COUNT(c, upstream_cx_total, 1);
	COUNT(c, upstream_cx_active, 1);
	atomic_fetch_add_explicit(&h->cx_total, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->cx_active, 1, memory_order_relaxed);
}

void weft_cx_connected(const struct weft_cluster *c, const struct weft_io *io, uint64_t start_ns)
{
	const struct weft_tls_info *tls = weft_io_info(io)->tls;

	weft_scope_record(c->scope, WEFT_CLUSTER_upstream_cx_connect_ms,
			  (weft_now_ns() - start_ns) / 1000000);
	if (!tls)
		return;
	weft_io_tls_count(io, c->scope, true);
	COUNT(c, ssl_handshake, 1);
	if (tls->resumed)
		COUNT(c, ssl_session_reused, 1);
	if (!tls->peer_presented)
		COUNT(c, ssl_no_certificate, 1);
}

void weft_cx_closed(const struct weft_cluster *c, struct weft_host *h, const struct cx_end *e)
{
	COUNT(c, upstream_cx_active, -1);
	atomic_fetch_sub_explicit(&h->cx_active, 1, memory_order_relaxed);
	COUNT(c, upstream_cx_destroy, 1);
	weft_scope_add(c->scope,
		       e->local ? WEFT_CLUSTER_upstream_cx_destroy_local
				: WEFT_CLUSTER_upstream_cx_destroy_remote,
		       1);
	if (e->active) {
		COUNT(c, upstream_cx_destroy_with_active_rq, 1);
		weft_scope_add(c->scope,
			       e->local ? WEFT_CLUSTER_upstream_cx_destroy_local_with_active_rq
					: WEFT_CLUSTER_upstream_cx_destroy_remote_with_active_rq,
			       1);
	}
	if (!e->opened) {
		COUNT(c, upstream_cx_connect_fail, 1);
		atomic_fetch_add_explicit(&h->cx_connect_fail, 1, memory_order_relaxed);
	}
	weft_scope_record(c->scope, WEFT_CLUSTER_upstream_cx_length_ms,
			  (weft_now_ns() - e->start_ns) / 1000000);
}

void weft_cx_bytes(const struct weft_cluster *c, const struct weft_io *io, uint64_t *rx,
		   uint64_t *tx)
{
	struct weft_io_stat s = weft_io_stat(io);

	if (s.rx != *rx)
		COUNT(c, upstream_cx_rx_bytes_total, (int64_t)(s.rx - *rx));
	if (s.tx != *tx)
		COUNT(c, upstream_cx_tx_bytes_total, (int64_t)(s.tx - *tx));
	*rx = s.rx;
	*tx = s.tx;
}

void weft_cx_tls_failed(const struct weft_cluster *c, const struct weft_io *io)
{
	static const enum weft_cluster_stat of[] = {
		[WEFT_TLS_FAULT_NONE] = WEFT_CLUSTER_ssl_connection_error,
		[WEFT_TLS_FAULT_CONNECTION] = WEFT_CLUSTER_ssl_connection_error,
		[WEFT_TLS_FAULT_NO_CERT] = WEFT_CLUSTER_ssl_fail_verify_no_cert,
		[WEFT_TLS_FAULT_VERIFY] = WEFT_CLUSTER_ssl_fail_verify_error,
		[WEFT_TLS_FAULT_SAN] = WEFT_CLUSTER_ssl_fail_verify_san,
		[WEFT_TLS_FAULT_HASH] = WEFT_CLUSTER_ssl_fail_verify_cert_hash,
	};

	weft_scope_add(c->scope, of[weft_io_tls_fault(io)], 1);
}
