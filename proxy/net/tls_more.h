/* What few access logs tell of a TLS session, and so is read only when a format asks for it:
 * chains, digests, the session's id, rare kinds of names. */
#pragma once
#include <stdbool.h>

struct weft_arena;
struct weft_io;

/* Shared by the session and by logs that outlive it; of one thread. Lists are NULL-terminated. */
struct weft_tls_more {
	unsigned refs;
	struct weft_arena *arena;
	const char *session_id; /* hex; "" */
	const char *peer_pem;	/* URL-encoded PEM of the leaf */
	const char *peer_sha1;	/* hex of the DER */
	const char *const *chain_sha1, *const *chain_sha256, *const *chain_serial; /* leaf first */
	const char *const *peer_other; /* otherName SANs */
	const char *const *local_email, *const *local_ip, *const *local_other;
};
/* From the configuration, any thread: sessions that begin from now on have them. */
void weft_tls_more_want(void);
bool weft_tls_more_wanted(void);
void weft_tls_more_ref(const struct weft_tls_more *m);
void weft_tls_more_unref(void *m);
/* A client's session gets its id with the first ticket, after the handshake: looks again. */
void weft_tls_more_renew(struct weft_io *io);
