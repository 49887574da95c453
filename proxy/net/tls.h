/* TLS 1.3 for HBONE over a non-blocking socket: mutual, SPIFFE checked, ALPN h2, no SNI, no
 * tickets, no resumption. ambient-contract §1.6. Memory is held only while bytes wait: an idle
 * session has no buffer. One thread a session. */
#pragma once
#include "proxy/core/err.h"
#include "proxy/core/reason.h"
#include "proxy/net/identity.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ssl_ctx_st;
struct weft_tls;

struct weft_tls_pem {
	const char *chain, *key, *roots, *crl; /* PEM; crl may be NULL. chain: leaf first */
	size_t chain_n, key_n, roots_n, crl_n;
};
/* A context for one direction. Checks that key fits the leaf, that the leaf is valid now, and that
 * roots hold a certificate. ret_not_after: the leaf's end (unix s), may be NULL. NULL and reterr on
 * failure. Free with weft_tls_ctx_free. Any thread; afterwards sessions on any thread may use it.
 */
struct ssl_ctx_st *weft_tls_ctx_new(bool server, const struct weft_tls_pem *pem,
				    int64_t *ret_not_after, struct weft_err *reterr);
void weft_tls_ctx_free(struct ssl_ctx_st *ctx);

struct weft_tls_want {
	bool server;
	const char *trust_domain; /* server: the first SPIFFE id of the client must be in it */
	const char *const *ids;	  /* client: the server must have one of these, exactly */
	size_t n_ids;
};
/* want is copied. Takes a reference on ctx. fd stays the caller's. */
struct weft_tls *weft_tls_new(struct ssl_ctx_st *ctx, const struct weft_tls_want *want, int fd);
void weft_tls_free(struct weft_tls *t);

/* 1: done, its last flight may be pending; 0: waits for the socket (call it again when readable);
 * -errno: failed, see weft_tls_reason. In the first two cases weft_tls_pending says whether
 * weft_tls_flush has work. */
int weft_tls_handshake(struct weft_tls *t);
/* After the handshake: the peer's id; "" before. Server: its first SPIFFE id; client: the accepted
 * one that it has. */
const char *weft_tls_peer(const struct weft_tls *t);
enum weft_reason
weft_tls_reason(const struct weft_tls *t); /* TLS_FAILED or IDENTITY after a failed handshake */
const char *weft_tls_detail(const struct weft_tls *t); /* sentence for the log */

/* One read(2) of at most WEFT_TLS_READ bytes; data() gets what they decrypt to, in order. The bytes
 * given to data() stay valid until the next weft_tls_read on this thread, so they can be gathered
 * for one writev. data() returning < 0 ends it with that code; data must not free t. Returns bytes
 * read; -EAGAIN; 0: the peer closed in order (close_notify or FIN); -ECONNRESET, -EPROTO (detail
 * set). ret_full: the socket may have more. */
enum { WEFT_TLS_READ = 128 << 10 };
ssize_t weft_tls_read(struct weft_tls *t, int (*data)(void *owner, const uint8_t *p, size_t n),
		      void *owner, bool *ret_full);

/* Output: room for the plaintext of four records (*ret_cap bytes, WEFT_TLS_BATCH), or NULL when
 * WEFT_TLS_OUT is reached or bytes of an earlier flush still wait; then commit n of them (0: none).
 * Between the two calls nothing else is done with this thread's sessions. */
enum { WEFT_TLS_RECORD = 16384, WEFT_TLS_BATCH = 4 * WEFT_TLS_RECORD, WEFT_TLS_OUT = 192 << 10 };
uint8_t *weft_tls_reserve(struct weft_tls *t, size_t *ret_cap);
int weft_tls_commit(struct weft_tls *t, size_t n); /* 0, -EPROTO */
/* One send(2) of all that waits. 0: nothing waits any more; -EAGAIN: rest kept, call again when
 * writable; -errno. */
int weft_tls_flush(struct weft_tls *t);
bool weft_tls_pending(const struct weft_tls *t);
void weft_tls_close_notify(struct weft_tls *t); /* queues the alert; flush sends it */
