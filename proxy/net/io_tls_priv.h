/* A TLS session of a weft_io: shared by io_tls*.c. */
#pragma once
#include "proxy/net/io_priv.h"
#include "proxy/net/io_tls.h"
#include "proxy/net/tls_bio.h"
#include <openssl/ssl.h>

struct weft_tls_sess {
	struct weft_io *io;
	SSL *ssl;
	/* ciphertext that the socket did not take */
	struct weft_tls_pend pend;
	/* ciphertext being read; only within a call */
	struct weft_tls_in in;
	uint8_t *carry; /* read ahead by others, for the first call */
	size_t carry_n;
	uint8_t *alpn; /* server: wire form */
	size_t alpn_n;
	char **ids; /* client: NULL-terminated */
	char *note;
	struct weft_tls_info *info;
	const char *chain_pem; /* NULL: not yet asked for */
	uint8_t fault;	       /* enum weft_tls_fault */
	uint8_t staple;	       /* enum weft_tls_staple_do */
	bool server, done, notify_sent;
	bool stalled; /* out waits for the end of a renegotiation */
	bool lazy;    /* pend holds tickets only, for the next write */
};

struct weft_tls_sess *weft_tls_sess_of(SSL *ssl);
/* io_tls_fault.c: from OpenSSL's queue of errors; otherwise: what to say where it is empty */
void weft_tls_set_detail(struct weft_tls_sess *t, const char *otherwise);
/* io_tls_cache.c */
void weft_tls_cache_use(struct weft_tls_sess *t);
/* io_tls_more.c: new; the io's arena drops its reference */
const struct weft_tls_more *weft_tls_more_of(struct weft_tls_sess *t);
/* io_tls_info.c */
uint8_t *weft_tls_alpn_wire(const char *const *v, size_t *ret_n);
const char *weft_hex_text(const uint8_t *p, size_t n, struct weft_arena *a);
bool weft_tls_ids_match(const struct x509_st *leaf, char *const *ids);
