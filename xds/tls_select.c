#include "xds/tls_priv.h"

#include "proxy/core/first.h"
#include "proxy/net/io_tls.h"
#include <ctype.h>
#include <openssl/ec.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* Which certificate: by the name asked for, exactly or by wildcard, then by what keys the client
 * can check; ECDSA first. As Envoy's default selector. */

static char *lower(struct weft_arena *a, const char *s)
{
	char *d = weft_arena_strdup(a, s);

	for (char *p = d; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return d;
}

static int by_name(const void *x, const void *y)
{
	const struct weft_tls_name *a = x, *b = y;
	int r = strcmp(a->name, b->name);

	return r ? r : (a->cert > b->cert) - (a->cert < b->cert);
}

static const char *common_name(X509 *x, struct weft_arena *a)
{
	char text[256];
	int n = X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, text,
					  sizeof(text));

	return n > 0 && strlen(text) == (size_t)n ? weft_arena_strdup(a, text) : NULL;
}

void weft_tls_names(struct weft_tls_priv *p)
{
	struct weft_arena *a = p->arena;
	const char *const **dns = weft_arena_alloc(a, p->n_ctxs * sizeof(*dns));
	size_t n = 0;

	for (unsigned i = 0; i < p->n_ctxs; i++) {
		X509 *x = SSL_CTX_get0_certificate(p->ctxs[i]);
		const char **cn;

		dns[i] = weft_cert_sans(x, WEFT_SAN_DNS, a);
		if (!dns[i][0]) {
			cn = weft_arena_alloc(a, 2 * sizeof(*cn));
			cn[0] = common_name(x, a);
			dns[i] = cn;
		}
		for (const char *const *s = dns[i]; *s; s++)
			n++;
	}
	p->names = weft_arena_alloc(a, (n + 1) * sizeof(*p->names));
	for (unsigned i = 0; i < p->n_ctxs; i++) {
		for (const char *const *s = dns[i]; *s; s++) {
			const char *name = **s == '*' && (*s)[1] == '.' ? *s + 1 : *s;

			p->names[p->n_names++] = (struct weft_tls_name){lower(a, name), i};
		}
	}
	qsort(p->names, p->n_names, sizeof(*p->names), by_name);
}

/* ---- what the ClientHello says */

enum { CAN_P256 = 1, CAN_P384 = 2, CAN_P521 = 4 };

static bool list16(const unsigned char **p, size_t *n)
{
	size_t k = *n >= 2 ? (size_t)((*p)[0] << 8 | (*p)[1]) : 1;

	if (*n < 2 || k != *n - 2 || k % 2)
		return false;
	*p += 2;
	*n = k;
	return true;
}

static unsigned curve_bit(unsigned group)
{
	return group == 23 ? CAN_P256 : group == 24 ? CAN_P384 : group == 25 ? CAN_P521 : 0;
}

/* Ciphers of TLS 1.2 with ECDHE-ECDSA; TLS 1.3's say nothing of keys. */
static bool cipher_ecdsa(SSL *ssl)
{
	const unsigned char *p;
	size_t n = SSL_client_hello_get0_ciphers(ssl, &p);

	for (size_t i = 0; i + 1 < n; i += 2) {
		unsigned c = (unsigned)(p[i] << 8 | p[i + 1]);

		if (c == 0xc02b || c == 0xc02c || c == 0xcca9 || c == 0xc009 || c == 0xc00a ||
		    c == 0xc023 || c == 0xc024 || (c & 0xff00) == 0x1300)
			return true;
	}
	return false;
}

static unsigned ecdsa_curves(SSL *ssl)
{
	const unsigned char *g, *s;
	size_t gn, sn;
	unsigned curves = 0;
	bool sig = false;

	if (!cipher_ecdsa(ssl) ||
	    SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_groups, &g, &gn) != 1 ||
	    !list16(&g, &gn) ||
	    SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_signature_algorithms, &s, &sn) != 1 ||
	    !list16(&s, &sn))
		return 0;
	for (size_t i = 0; i < sn; i += 2)
		sig |= s[i + 1] == 3 && s[i] >= 4 && s[i] <= 6; /* ecdsa with SHA-256 to 512 */
	for (size_t i = 0; i < gn; i += 2)
		curves |= curve_bit((unsigned)(g[i] << 8 | g[i + 1]));
	return sig ? curves : 0;
}

/* RFC 6066 §3: a list of one name of type 0. False: none, or one that cannot be. */
static bool sni_of(SSL *ssl, char *dst, size_t cap)
{
	const unsigned char *p;
	size_t n, k;

	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &n) != 1 || n < 5)
		return false;
	k = (size_t)(p[3] << 8 | p[4]);
	if (p[2] != 0 || k != n - 5 || k == 0 || k >= cap || memchr(p + 5, 0, k))
		return false;
	for (size_t i = 0; i < k; i++)
		dst[i] = (char)tolower(p[5 + i]);
	dst[k] = 0;
	return true;
}

/* ---- choosing */

static bool fits(const struct weft_tls_priv *p, unsigned cert, unsigned curves)
{
	switch (p->curves[cert]) {
	case NID_X9_62_prime256v1:
		return curves & CAN_P256;
	case NID_secp384r1:
		return curves & CAN_P384;
	case NID_secp521r1:
		return curves & CAN_P521;
	default:
		return false;
	}
}

/* What this ClientHello can use. */
struct wish {
	unsigned curves;
	bool staple; /* it asks for an OCSP response */
};

/* 1: a key it prefers, 0: RSA, -1: it cannot be. */
static int rank(const struct weft_tls_priv *p, unsigned cert, const struct wish *w)
{
	if (weft_tls_staple_do(p, cert, w->staple) == WEFT_STAPLE_FAILED)
		return -1;
	return fits(p, cert, w->curves) ? 1 : p->curves[cert] == 0 ? 0 : -1;
}

/* -1: no certificate of that name fits. */
static int find(const struct weft_tls_priv *p, const char *name, const struct wish *w)
{
	int rsa = -1;

	for (size_t k = WEFT_FIRST(p->names, p->n_names, name);
	     k < p->n_names && strcmp(p->names[k].name, name) == 0; k++) {
		unsigned cert = p->names[k].cert;
		int r = rank(p, cert, w);

		if (r > 0)
			return (int)cert;
		if (r == 0 && rsa < 0)
			rsa = (int)cert;
	}
	return rsa;
}

static int scan(const struct weft_tls_priv *p, const struct wish *w)
{
	int rsa = -1;

	for (unsigned i = 0; i < p->n_ctxs; i++) {
		int r = rank(p, i, w);

		if (r > 0)
			return (int)i;
		if (r == 0 && rsa < 0)
			rsa = (int)i;
	}
	return rsa;
}

/* By name; -1: none fits. */
static int by_sni(const struct weft_tls_priv *p, const char *sni, const struct wish *w)
{
	int i = find(p, sni, w);
	const char *dot = i < 0 ? strchr(sni, '.') : NULL;

	return dot && dot != sni ? find(p, dot, w) : i;
}

int weft_tls_select(SSL *ssl, int *alert, void *arg)
{
	const struct weft_tls_priv *p = arg;
	struct wish w = {ecdsa_curves(ssl), weft_tls_staple_asked(ssl)};
	enum weft_tls_staple_do staple;
	char sni[256];
	bool named = sni_of(ssl, sni, sizeof(sni));
	int i = named ? by_sni(p, sni, &w) : -1;

	if (i < 0 && p->require_sni) {
		weft_tls_note(ssl, WEFT_TLS_FAULT_CONNECTION,
			      named ? "no certificate has the client's SNI"
				    : "the client sent no SNI");
		*alert = SSL_AD_UNRECOGNIZED_NAME;
		return SSL_CLIENT_HELLO_ERROR;
	}
	if (i < 0 && (!named || p->full_scan))
		i = scan(p, &w);
	if (i < 0)
		i = 0;
	staple = weft_tls_staple_do(p, (unsigned)i, w.staple);
	weft_tls_note_staple(ssl, staple);
	if (staple == WEFT_STAPLE_FAILED) {
		weft_tls_note(ssl, WEFT_TLS_FAULT_CONNECTION,
			      "the client wants an OCSP response, and there is no valid one");
		*alert = SSL_AD_HANDSHAKE_FAILURE;
		return SSL_CLIENT_HELLO_ERROR;
	}
	if (i > 0)
		SSL_set_SSL_CTX(ssl, p->ctxs[i]);
	return SSL_CLIENT_HELLO_SUCCESS;
}
