#include "proxy/net/io_tls_priv.h"

#include "proxy/core/scope.h"
#include <stdio.h>

/* Counters of handshakes by what was agreed, under the names that Envoy has from its TLS library.
 */

static void count(struct weft_scope *scope, const char *kind, const char *what)
{
	char name[96];

	if (!what || !*what)
		return;
	snprintf(name, sizeof(name), "ssl.%s.%s", kind, what);
	weft_scope_add_named(scope, name, 1);
}

static const char *curve_name(SSL *ssl)
{
	switch ((int)SSL_get_negotiated_group(ssl)) {
	case NID_X25519:
		return "X25519";
	case NID_X9_62_prime256v1:
		return "P-256";
	case NID_secp384r1:
		return "P-384";
	case NID_secp521r1:
		return "P-521";
	default:
		return NULL;
	}
}

/* Of the peer's signature; NULL: it made none. */
static const char *sigalg_name(SSL *ssl)
{
	static const struct {
		int type, hash;
		const char *name;
	} v[] = {
		{EVP_PKEY_EC, NID_sha256, "ecdsa_secp256r1_sha256"},
		{EVP_PKEY_EC, NID_sha384, "ecdsa_secp384r1_sha384"},
		{EVP_PKEY_EC, NID_sha512, "ecdsa_secp521r1_sha512"},
		{EVP_PKEY_EC, NID_sha1, "ecdsa_sha1"},
		{EVP_PKEY_RSA_PSS, NID_sha256, "rsa_pss_rsae_sha256"},
		{EVP_PKEY_RSA_PSS, NID_sha384, "rsa_pss_rsae_sha384"},
		{EVP_PKEY_RSA_PSS, NID_sha512, "rsa_pss_rsae_sha512"},
		{EVP_PKEY_RSA, NID_sha256, "rsa_pkcs1_sha256"},
		{EVP_PKEY_RSA, NID_sha384, "rsa_pkcs1_sha384"},
		{EVP_PKEY_RSA, NID_sha512, "rsa_pkcs1_sha512"},
		{EVP_PKEY_RSA, NID_sha1, "rsa_pkcs1_sha1"},
		{EVP_PKEY_ED25519, NID_undef, "ed25519"},
	};
	int type = NID_undef, hash = NID_undef;

	if (SSL_get_peer_signature_type_nid(ssl, &type) != 1)
		return NULL;
	if (type != EVP_PKEY_ED25519)
		SSL_get_peer_signature_nid(ssl, &hash);
	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		if (v[i].type == type && v[i].hash == hash)
			return v[i].name;
	}
	return NULL;
}

static void count_staple(const struct weft_tls_sess *t, struct weft_scope *scope)
{
	static const char *const names[] = {
		[WEFT_STAPLE_OMITTED] = "ssl.ocsp_staple_omitted",
		[WEFT_STAPLE_DONE] = "ssl.ocsp_staple_responses",
		[WEFT_STAPLE_FAILED] = "ssl.ocsp_staple_failed",
	};
	unsigned what = t->staple;

	/* a context that staples nothing looks at no ClientHello */
	if (what == WEFT_STAPLE_UNASKED && t->done &&
	    SSL_get_tlsext_status_type(t->ssl) == TLSEXT_STATUSTYPE_ocsp)
		what = WEFT_STAPLE_OMITTED;
	if (what == WEFT_STAPLE_UNASKED)
		return;
	weft_scope_add_named(scope, "ssl.ocsp_staple_requests", 1);
	weft_scope_add_named(scope, names[what], 1);
}

void weft_io_tls_count(const struct weft_io *io, struct weft_scope *scope, bool done)
{
	const struct weft_tls_sess *t = io->sock ? weft_sock_of(io)->tls : NULL;

	if (!t)
		return;
	if (t->server)
		count_staple(t, scope);
	if (!done)
		return;
	count(scope, "versions", SSL_get_version(t->ssl));
	count(scope, "ciphers", SSL_CIPHER_get_name(SSL_get_current_cipher(t->ssl)));
	count(scope, "curves", curve_name(t->ssl));
	count(scope, "sigalgs", sigalg_name(t->ssl));
}

void weft_tls_note_staple(struct ssl_st *ssl, enum weft_tls_staple_do what)
{
	struct weft_tls_sess *t = weft_tls_sess_of(ssl);

	if (t)
		t->staple = (uint8_t)what;
}
