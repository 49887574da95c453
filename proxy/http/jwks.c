/* Sets of keys, and signatures made with them. */
#include "proxy/core/arena.h"
#include "proxy/http/jwt_priv.h"

#include <jose/openssl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { RSA_BITS_MIN = 1024, RSA_BITS_MAX = 16384, ED25519_BYTES = 32, ED25519_SIG = 64 };

struct jwk {
	enum jwt_kty kty;
	char *kid;			/* "" none */
	const struct weft_jwt_alg *alg; /* NULL: any of its kind */
	unsigned ec_bytes;
	EVP_PKEY *key;
	uint8_t *secret;
	size_t secret_n;
};
struct weft_jwks {
	_Atomic unsigned refs;
	size_t n;
	struct jwk *v;
};

/* ---- keys */
static const char *field(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static bool read_okp(struct jwk *k, const json_t *o)
{
	const char *crv = field(o, "crv"), *x = field(o, "x");
	uint8_t *raw;
	size_t n;

	if (!crv || !x || strcmp(crv, "Ed25519") != 0 ||
	    weft_base64url_decode(x, strlen(x), &raw, &n))
		return false;
	if (n == ED25519_BYTES)
		k->key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, n);
	free(raw);
	return k->key;
}

static bool read_oct(struct jwk *k, const json_t *o)
{
	const char *v = field(o, "k");

	return v && !weft_base64url_decode(v, strlen(v), &k->secret, &k->secret_n) && k->secret_n;
}

static bool read_rsa(struct jwk *k, const json_t *o)
{
	int bits;

	k->key = jose_openssl_jwk_to_EVP_PKEY(NULL, o);
	if (!k->key || EVP_PKEY_get_base_id(k->key) != EVP_PKEY_RSA)
		return false;
	bits = EVP_PKEY_get_bits(k->key);
	return bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX;
}

static bool read_ec(struct jwk *k, const json_t *o)
{
	const char *crv = field(o, "crv");

	k->ec_bytes = !crv		      ? 0
		      : !strcmp(crv, "P-256") ? 32
		      : !strcmp(crv, "P-384") ? 48
		      : !strcmp(crv, "P-521") ? 66
					      : 0;
	if (!k->ec_bytes || (k->alg && k->alg->ec_bytes != k->ec_bytes))
		return false;
	k->key = jose_openssl_jwk_to_EVP_PKEY(NULL, o);
	return k->key && EVP_PKEY_get_base_id(k->key) == EVP_PKEY_EC;
}

static bool read_key(struct jwk *k, const json_t *o)
{
	const json_t *alg = json_object_get(o, "alg"), *kid = json_object_get(o, "kid");
	const char *kty = field(o, "kty");

	if (!json_is_object(o) || !kty || (alg && !json_is_string(alg)) ||
	    (kid && !json_is_string(kid)))
		return false;
	k->kid = weft_xstrdup(json_string_value(kid) ?: "");
	k->alg = alg ? jwt_alg_find(json_string_value(alg)) : NULL;
	if (alg && !k->alg)
		return false;
	k->kty = !strcmp(kty, "RSA")   ? JWT_RSA
		 : !strcmp(kty, "EC")  ? JWT_EC
		 : !strcmp(kty, "OKP") ? JWT_OKP
				       : JWT_OCT;
	if (k->kty == JWT_OCT && strcmp(kty, "oct") != 0)
		return false;
	if (k->alg && k->alg->kty != k->kty)
		return false;
	switch (k->kty) {
	case JWT_RSA:
		return read_rsa(k, o);
	case JWT_EC:
		return read_ec(k, o);
	case JWT_OKP:
		return read_okp(k, o);
	case JWT_OCT:
		return read_oct(k, o);
	}
	return false;
}

static void key_done(struct jwk *k)
{
	free(k->kid);
	EVP_PKEY_free(k->key);
	if (k->secret)
		OPENSSL_cleanse(k->secret, k->secret_n);
	free(k->secret);
	memset(k, 0, sizeof(*k));
}

enum weft_jwt_status weft_jwks_parse(const char *text, size_t n, struct weft_jwks **ret)
{
	json_t *root = n > WEFT_JWKS_BYTES_MAX ? NULL : jwt_json(text, n), *keys;
	enum weft_jwt_status st = WEFT_JWT_OK;
	struct weft_jwks *k;

	if (!root)
		return WEFT_JWT_JWKS_JSON;
	keys = json_object_get(root, "keys");
	if (!keys || !json_is_array(keys)) {
		st = keys ? WEFT_JWT_JWKS_BAD_KEYS : WEFT_JWT_JWKS_NO_KEYS;
		json_decref(root);
		return st;
	}
	k = weft_xcalloc(1, sizeof(*k));
	k->refs = 1;
	k->v = weft_xcalloc(WEFT_JWKS_KEYS_MAX, sizeof(*k->v));
	for (size_t i = 0; i < json_array_size(keys) && k->n < WEFT_JWKS_KEYS_MAX; i++) {
		if (read_key(&k->v[k->n], json_array_get(keys, i)))
			k->n++;
		else
			key_done(&k->v[k->n]);
	}
	json_decref(root);
	if (k->n) {
		*ret = k;
		return WEFT_JWT_OK;
	}
	weft_jwks_unref(k);
	return WEFT_JWT_JWKS_NO_VALID;
}

struct weft_jwks *weft_jwks_ref(struct weft_jwks *k)
{
	if (k)
		atomic_fetch_add(&k->refs, 1);
	return k;
}

void weft_jwks_unref(struct weft_jwks *k)
{
	if (!k || atomic_fetch_sub(&k->refs, 1) != 1)
		return;
	for (size_t i = 0; i < k->n; i++)
		key_done(&k->v[i]);
	free(k->v);
	free(k);
}

/* ---- signatures */
static bool verify_hmac(const struct weft_jwt *t, const struct jwk *k)
{
	uint8_t out[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	return HMAC(EVP_get_digestbyname(t->alg->md), k->secret, (int)k->secret_n,
		    (const uint8_t *)t->text, t->signed_n, out, &n) &&
	       n == t->sig_n && !CRYPTO_memcmp(out, t->sig, n);
}

static bool verify_digest(const struct weft_jwt *t, EVP_PKEY *key, const uint8_t *sig, size_t n)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_PKEY_CTX *pctx = NULL;
	const EVP_MD *md = t->alg->md ? EVP_get_digestbyname(t->alg->md) : NULL;
	bool ok = EVP_DigestVerifyInit(ctx, &pctx, md, NULL, key) == 1;

	if (ok && t->alg->pss)
		ok = EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1 &&
		     EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST) == 1;
	ok = ok && EVP_DigestVerify(ctx, sig, n, (const uint8_t *)t->text, t->signed_n) == 1;
	EVP_MD_CTX_free(ctx);
	return ok;
}

/* r and s side by side (RFC 7518 §3.4) as the DER that the library wants. */
static bool verify_ec(const struct weft_jwt *t, const struct jwk *k)
{
	ECDSA_SIG *sig;
	uint8_t *der = NULL;
	int n;
	bool ok;

	if (t->sig_n != 2 * (size_t)k->ec_bytes)
		return false;
	sig = ECDSA_SIG_new();
	ECDSA_SIG_set0(sig, BN_bin2bn(t->sig, (int)k->ec_bytes, NULL),
		       BN_bin2bn(t->sig + k->ec_bytes, (int)k->ec_bytes, NULL));
	n = i2d_ECDSA_SIG(sig, &der);
	ECDSA_SIG_free(sig);
	ok = n > 0 && verify_digest(t, k->key, der, (size_t)n);
	OPENSSL_free(der);
	return ok;
}

static bool verify(const struct weft_jwt *t, const struct jwk *k)
{
	switch (k->kty) {
	case JWT_OCT:
		return verify_hmac(t, k);
	case JWT_EC:
		return verify_ec(t, k);
	case JWT_OKP:
		return t->sig_n == ED25519_SIG && verify_digest(t, k->key, t->sig, t->sig_n);
	case JWT_RSA:
		return verify_digest(t, k->key, t->sig, t->sig_n);
	}
	return false;
}

static bool named(const struct weft_jwt *t, const struct jwk *k)
{
	if (*t->kid && *k->kid && strcmp(t->kid, k->kid) != 0)
		return false;
	return !k->alg || k->alg == t->alg;
}

/* The kind of key decides, not the token: an RSA key never serves as a secret. */
static bool fits(const struct weft_jwt *t, const struct jwk *k)
{
	return k->kty == t->alg->kty && k->ec_bytes == t->alg->ec_bytes;
}

enum weft_jwt_status weft_jwt_verify(const struct weft_jwt *t, const struct weft_jwks *k)
{
	enum weft_jwt_status st = WEFT_JWT_JWKS_MISMATCH;

	for (size_t i = 0; i < k->n; i++) {
		if (!named(t, &k->v[i]))
			continue;
		st = WEFT_JWT_VERIFICATION;
		if (!fits(t, &k->v[i]))
			continue;
		if (k->v[i].kty == JWT_OKP && t->sig_n != ED25519_SIG)
			return WEFT_JWT_ED25519_LENGTH;
		if (verify(t, &k->v[i]))
			return WEFT_JWT_OK;
	}
	return st;
}
