/* What those who make SSL_CTXs for weft_io share with it. */
#pragma once
#include "proxy/net/io.h"

struct ssl_st;
struct ssl_ctx_st;
struct x509_st;

/* Modes and options every context of a weft_io wants: no renegotiation, no buffers while idle. */
void weft_tls_ctx_setup(struct ssl_ctx_st *ctx);
/* Client: keeps up to max sessions of the peers for resumption (newest first, TLS 1.3 ones used
 * once). Any thread's sessions share them. 0: none. */
void weft_tls_ctx_cache(struct ssl_ctx_st *ctx, unsigned max);
/* From a verify callback: why the certificate was refused; ends up in weft_io_detail. */
void weft_tls_note(struct ssl_st *ssl, enum weft_tls_fault fault, const char *text);
/* From a server's choice of a certificate: what became of the client's wish for an OCSP response.
 */
enum weft_tls_staple_do {
	WEFT_STAPLE_UNASKED,
	WEFT_STAPLE_OMITTED,
	WEFT_STAPLE_DONE,
	WEFT_STAPLE_FAILED,
};
void weft_tls_note_staple(struct ssl_st *ssl, enum weft_tls_staple_do what);
/* Envoy's counters of one handshake beyond those of its end: ssl.versions, .ciphers, .curves,
 * .sigalgs, .ocsp_staple_*. done: it was finished. */
struct weft_scope;
void weft_io_tls_count(const struct weft_io *io, struct weft_scope *scope, bool done);
/* From an ALPN callback of a server: the list of this session in wire form; NULL: the context's. */
const uint8_t *weft_tls_session_alpn(struct ssl_st *ssl, size_t *ret_n);
/* Names in a certificate, newly allocated in a; NULL-terminated, none: an empty list. */
enum weft_san { WEFT_SAN_URI, WEFT_SAN_DNS, WEFT_SAN_EMAIL, WEFT_SAN_IP, WEFT_SAN_OTHER };
const char *const *weft_cert_sans(const struct x509_st *cert, enum weft_san which,
				  struct weft_arena *a);
const char *weft_cert_subject(const struct x509_st *cert, struct weft_arena *a); /* RFC 2253 */
const char *weft_cert_issuer(const struct x509_st *cert, struct weft_arena *a);
const char *weft_cert_serial(const struct x509_st *cert, struct weft_arena *a); /* lower-case hex */
/* A certificate that a context presents: its names are read once, for every connection's
 * weft_tls_info. Before the context is shared between threads. */
void weft_cert_own(struct x509_st *cert);
int64_t weft_cert_not_before(const struct x509_st *cert); /* unix s */
int64_t weft_cert_not_after(const struct x509_st *cert);
