/* Inside of tls*.c only. */
#pragma once
#include "proxy/net/tls.h"

#include <openssl/ssl.h>

/* Buffers of a thread, shared by its sessions: what lives only within a callback needs no memory of
 * its own. */
struct weft_tls_scratch {
	uint8_t *out; /* ciphertext of out_owner, WEFT_TLS_OUT + OUT_SLACK bytes; NULL: handed to a
			 blocked session */
	size_t out_n;
	struct weft_tls *out_owner;
	bool reserved;
	uint8_t batch[WEFT_TLS_BATCH];
	uint8_t in[WEFT_TLS_READ];
	uint8_t plain[WEFT_TLS_READ + 2 * WEFT_TLS_RECORD];
};
struct weft_tls_scratch *weft_tls_scratch(void);

/* Checks a peer's chain (preverify) and, at the leaf, its SPIFFE ids. Finds the session by ex data.
 */
int weft_tls_verify(int preverify, X509_STORE_CTX *x);
