/* Inside of tls_*.c. One priv belongs to all SSL_CTXs of a context and dies with the first of them.
 */
#pragma once
#define PCRE2_CODE_UNIT_WIDTH 8
#include "proxy/net/io_tls.h"
#include "xds/tls_conf.h"
#include <errno.h>
#include <openssl/ssl.h>
#include <pcre2.h>

#define TLS(x) Envoy__Extensions__TransportSockets__Tls__V3__##x

enum { WEFT_TLS_CERTS_MAX = 256, WEFT_TICKET_KEY = 80 };

struct weft_tls_san {
	int type; /* GEN_DNS, GEN_URI, GEN_EMAIL, GEN_IPADD; -1: any of them */
	enum { TLS_SAN_EXACT, TLS_SAN_PREFIX, TLS_SAN_SUFFIX, TLS_SAN_CONTAINS, TLS_SAN_REGEX } how;
	bool ignore_case;
	const char *v;
	size_t n;
	pcre2_code *re;
};
struct weft_tls_pin {
	uint8_t sha256[32];
};
struct weft_tls_name { /* of a certificate; "*.x" is kept as ".x" */
	const char *name;
	unsigned cert;
};
struct weft_tls_staple { /* of a certificate */
	uint8_t *der;
	size_t n;	     /* 0: none */
	int64_t next_update; /* unix s; 0: it tells none, and counts as expired */
	bool must;	     /* the certificate says so */
};
struct weft_tls_priv {
	struct weft_arena *arena;
	atomic_uint refs;
	bool server;
	/* ---- of the peer's certificate */
	bool verify, ca, untrusted, auto_sni_san, rsa_usage, no_time;
	struct weft_tls_san *sans;
	size_t n_sans;
	struct weft_tls_pin *hashes, *spkis;
	size_t n_hashes, n_spkis;
	X509_STORE *store;
	STACK_OF(X509_NAME) * ca_names;
	int depth; /* -1: OpenSSL's */
	/* ---- ours */
	SSL_CTX **ctxs;
	unsigned n_ctxs;
	int *curves;			 /* of each certificate's key; 0: RSA */
	struct weft_tls_staple *staples; /* of each certificate */
	int staple_policy;
	bool require_sni;
	struct weft_tls_name *names;
	size_t n_names;
	bool full_scan;
	uint8_t *alpn;
	size_t alpn_n;
	uint8_t (*ticket_keys)[WEFT_TICKET_KEY];
	size_t n_ticket_keys;
	struct weft_tls_cert *infos;
	size_t n_infos;
	uint8_t sid[32]; /* binds sessions to this configuration */
	EVP_MD_CTX *sid_md;
};
struct weft_tls_build {
	struct weft_cfg *c;  /* the caller's; errors go there */
	struct weft_cfg tmp; /* the same with an arena for what is read on the way */
	const struct weft_tls_secrets *secrets;
	struct weft_tls_priv *p;
	bool missing; /* a secret */
};

struct weft_tls_priv *weft_tls_priv_new(bool server);
void weft_tls_priv_unref(struct weft_tls_priv *p);
/* The secret that s names; NULL: missing (b->missing) or an error was added. */
const TLS(Secret) * weft_tls_secret(struct weft_tls_build *b, const struct weft_path *at,
				    const TLS(SdsSecretConfig) * s, int type_case);
void weft_tls_add_info(struct weft_tls_priv *p, X509 *x, const char *path, bool ca);
/* What SSL says of its last failure. */
const char *weft_tls_ssl_error(void);

/* tls_cert.c: certificates into contexts */
int weft_tls_certs(struct weft_tls_build *b, const struct weft_path *at,
		   const TLS(CommonTlsContext) * m);
void weft_tls_certs_room(struct weft_tls_priv *p, size_t n); /* once, before the first of n */
int weft_tls_cert_one(struct weft_tls_build *b, const struct weft_path *at,
		      const TLS(TlsCertificate) * m);
/* tls_staple.c: OCSP */
int weft_tls_staple_load(struct weft_tls_build *b, const struct weft_path *at,
			 const TLS(TlsCertificate) * m, const X509 *leaf, unsigned cert);
int weft_tls_staple_policy(struct weft_tls_build *b, const struct weft_path *at, int policy);
bool weft_tls_staple_asked(SSL *ssl); /* only in the callback of the ClientHello */
enum weft_tls_staple_do weft_tls_staple_do(const struct weft_tls_priv *p, unsigned cert,
					   bool asked);
/* Into the contexts; true: the choice of a certificate must look at them. */
bool weft_tls_staple_apply(struct weft_tls_priv *p);
/* A watched_directory where it does nothing, as in Envoy. */
void weft_tls_watch_warn(struct weft_tls_build *b, const struct weft_path *at,
			 const Envoy__Config__Core__V3__WatchedDirectory *m);
/* tls_verify.c */
int weft_tls_validation(struct weft_tls_build *b, const struct weft_path *at,
			const TLS(CommonTlsContext) * m);
void weft_tls_verify_apply(struct weft_tls_priv *p, SSL_CTX *ctx, bool require);
/* tls_params.c: versions, ciphers, curves, ALPN into every context */
int weft_tls_params(struct weft_tls_build *b, const struct weft_path *at,
		    const TLS(CommonTlsContext) * m);
/* tls_select.c */
void weft_tls_names(struct weft_tls_priv *p);
int weft_tls_select(SSL *ssl, int *alert, void *arg);
/* tls_san.c */
int weft_tls_san_prepare(struct weft_tls_build *b, const struct weft_path *at, int type,
			 const Envoy__Type__Matcher__V3__StringMatcher *m,
			 struct weft_tls_san *ret);
bool weft_tls_san_match(const struct weft_tls_san *v, size_t n, X509 *leaf);
/* want: a DNS name or an address. */
bool weft_tls_san_is(X509 *leaf, const char *want);
