/* Tokens, their times, key sets, signatures of every algorithm made here with OpenSSL. */
#include "proxy/core/arena.h"
#include "proxy/http/jwt.h"

#include <jose/openssl.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *b64(const void *p, size_t n)
{
	static const char abc[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const uint8_t *s = p;
	char *out = calloc(1, n * 4 / 3 + 4), *o = out;

	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)s[i] << 16;

		v |= i + 1 < n ? (uint32_t)s[i + 1] << 8 : 0;
		v |= i + 2 < n ? s[i + 2] : 0;
		*o++ = abc[v >> 18];
		*o++ = abc[v >> 12 & 63];
		if (i + 1 < n)
			*o++ = abc[v >> 6 & 63];
		if (i + 2 < n)
			*o++ = abc[v & 63];
	}
	return out;
}

static char *unsigned_token(const char *head, const char *payload)
{
	char *h = b64(head, strlen(head)), *p = b64(payload, strlen(payload)), *out = NULL;

	assert_true(asprintf(&out, "%s.%s", h, p) > 0);
	free(h);
	free(p);
	return out;
}

static enum weft_jwt_status parse(const char *s, struct weft_jwt **ret)
{
	return weft_jwt_parse(s, strlen(s), ret);
}

static enum weft_jwt_status status_of(const char *head, const char *payload)
{
	char *t = unsigned_token(head, payload), *whole = NULL;
	struct weft_jwt *j = NULL;
	enum weft_jwt_status st;

	assert_true(asprintf(&whole, "%s.AAAA", t) > 0);
	st = parse(whole, &j);
	if (!st)
		weft_jwt_free(j);
	free(t);
	free(whole);
	return st;
}

static void shapes(void **state)
{
	static const char *const bad[] = {"",	  "a",	  "a.b", "a.b.c.d", ".a.b",
					  "a..b", "a.b.", "..",	 "..."};
	struct weft_jwt *t;
	char *big;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(parse(bad[i], &t), WEFT_JWT_BAD_FORMAT);
	assert_int_equal(parse("!!.e30.AAAA", &t), WEFT_JWT_HEADER_BASE64);
	assert_int_equal(parse("e30=.e30.AAAA", &t), WEFT_JWT_HEADER_BASE64);
	assert_int_equal(parse("AAAAA.e30.AAAA", &t), WEFT_JWT_HEADER_BASE64);
	assert_int_equal(parse("eyI.e30.AAAA", &t), WEFT_JWT_HEADER_JSON);
	assert_int_equal(status_of("[]", "{}"), WEFT_JWT_HEADER_JSON);
	assert_int_equal(status_of("{}", "{}"), WEFT_JWT_HEADER_ALG);
	assert_int_equal(status_of("{\"alg\":1}", "{}"), WEFT_JWT_HEADER_ALG);
	assert_int_equal(status_of("{\"alg\":\"none\"}", "{}"), WEFT_JWT_ALG_NOT_SUPPORTED);
	assert_int_equal(status_of("{\"alg\":\"None\"}", "{}"), WEFT_JWT_ALG_NOT_SUPPORTED);
	assert_int_equal(status_of("{\"alg\":\"hs256\"}", "{}"), WEFT_JWT_ALG_NOT_SUPPORTED);
	assert_int_equal(status_of("{\"alg\":\"HS256\",\"alg\":\"RS256\"}", "{}"),
			 WEFT_JWT_HEADER_JSON);
	assert_int_equal(status_of("{\"alg\":\"HS256\",\"crit\":[\"x\"]}", "{}"),
			 WEFT_JWT_ALG_NOT_SUPPORTED);
	assert_int_equal(status_of("{\"alg\":\"HS256\",\"kid\":1}", "{}"), WEFT_JWT_HEADER_KID);
	assert_int_equal(status_of("{\"alg\":\"HS256\"}", "{"), WEFT_JWT_PAYLOAD_JSON);
	assert_int_equal(status_of("{\"alg\":\"HS256\"}", "{}"), WEFT_JWT_OK);
	big = calloc(1, WEFT_JWT_BYTES_MAX + 2);
	memset(big, 'A', WEFT_JWT_BYTES_MAX + 1);
	assert_int_equal(parse(big, &t), WEFT_JWT_BAD_FORMAT);
	free(big);
}

static void claims(void **state)
{
	static const struct {
		const char *payload;
		enum weft_jwt_status st;
	} v[] = {
		{"{\"iss\":1}", WEFT_JWT_PAYLOAD_ISS},
		{"{\"sub\":[]}", WEFT_JWT_PAYLOAD_SUB},
		{"{\"iat\":\"1\"}", WEFT_JWT_IAT_TYPE},
		{"{\"iat\":-1}", WEFT_JWT_IAT_RANGE},
		{"{\"nbf\":null}", WEFT_JWT_NBF_TYPE},
		{"{\"nbf\":-0.5}", WEFT_JWT_NBF_RANGE},
		{"{\"exp\":true}", WEFT_JWT_EXP_TYPE},
		{"{\"exp\":1e20}", WEFT_JWT_EXP_RANGE},
		{"{\"jti\":1}", WEFT_JWT_PAYLOAD_JTI},
		{"{\"aud\":1}", WEFT_JWT_PAYLOAD_AUD},
		{"{\"aud\":[\"a\",1]}", WEFT_JWT_PAYLOAD_AUD},
		{"{\"aud\":[]}", WEFT_JWT_OK},
		{"{\"exp\":1.5,\"aud\":\"a\"}", WEFT_JWT_OK},
		{"{\"iss\":\"\\u0000\"}", WEFT_JWT_PAYLOAD_JSON},
	};
	char deep[200] = "{\"a\":";

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++)
		if (status_of("{\"alg\":\"HS256\"}", v[i].payload) != v[i].st) {
			print_message("# %s\n", v[i].payload);
			fail();
		}
	memset(deep + 5, '[', 60);
	memset(deep + 65, ']', 60);
	deep[125] = '}';
	assert_int_equal(status_of("{\"alg\":\"HS256\"}", deep), WEFT_JWT_PAYLOAD_JSON);
}

static void times(void **state)
{
	struct weft_jwt t = {.has_exp = true, .exp = 1000, .has_nbf = true, .nbf = 500};

	assert_int_equal(weft_jwt_check_time(&t, 499, 0), WEFT_JWT_NOT_YET_VALID);
	assert_int_equal(weft_jwt_check_time(&t, 440, 60), WEFT_JWT_OK);
	assert_int_equal(weft_jwt_check_time(&t, 439, 60), WEFT_JWT_NOT_YET_VALID);
	assert_int_equal(weft_jwt_check_time(&t, 1000, 0), WEFT_JWT_OK);
	assert_int_equal(weft_jwt_check_time(&t, 1060, 60), WEFT_JWT_OK);
	assert_int_equal(weft_jwt_check_time(&t, 1061, 60), WEFT_JWT_EXPIRED);
	t.exp = UINT64_MAX;
	t.nbf = 0;
	assert_int_equal(weft_jwt_check_time(&t, 1061, 60), WEFT_JWT_OK);
}

/* ---- signatures */
static uint8_t *sign(const char *alg, EVP_PKEY *key, const char *s, size_t *ret_n)
{
	const EVP_MD *md = strstr(alg, "256")	? EVP_sha256()
			   : strstr(alg, "384") ? EVP_sha384()
			   : strstr(alg, "512") ? EVP_sha512()
						: NULL;
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	EVP_PKEY_CTX *pc;
	uint8_t *sig = calloc(1, 1024);

	*ret_n = 1024;
	assert_int_equal(EVP_DigestSignInit(c, &pc, md, NULL, key), 1);
	if (alg[0] == 'P') {
		EVP_PKEY_CTX_set_rsa_padding(pc, RSA_PKCS1_PSS_PADDING);
		EVP_PKEY_CTX_set_rsa_pss_saltlen(pc, RSA_PSS_SALTLEN_DIGEST);
	}
	assert_int_equal(EVP_DigestSign(c, sig, ret_n, (const uint8_t *)s, strlen(s)), 1);
	EVP_MD_CTX_free(c);
	return sig;
}

static void to_raw(uint8_t *sig, size_t *n, size_t size)
{
	const uint8_t *p = sig;
	ECDSA_SIG *e = d2i_ECDSA_SIG(NULL, &p, (long)*n);

	BN_bn2binpad(ECDSA_SIG_get0_r(e), sig, (int)size);
	BN_bn2binpad(ECDSA_SIG_get0_s(e), sig + size, (int)size);
	*n = 2 * size;
	ECDSA_SIG_free(e);
}

static char *token(const char *alg, EVP_PKEY *key, size_t ec, const char *kid)
{
	char head[128], *out = NULL, *s, *sig64;
	uint8_t *sig;
	size_t n;

	snprintf(head, sizeof(head), "{\"alg\":\"%s\"%s%s%s}", alg, kid ? ",\"kid\":\"" : "",
		 kid ?: "", kid ? "\"" : "");
	s = unsigned_token(head, "{\"iss\":\"me\"}");
	sig = sign(alg, key, s, &n);
	if (ec)
		to_raw(sig, &n, ec);
	sig64 = b64(sig, n);
	assert_true(asprintf(&out, "%s.%s", s, sig64) > 0);
	free(s);
	free(sig);
	free(sig64);
	return out;
}

static struct weft_jwks *keys_of(json_t *jwk, const char *kid, const char *alg)
{
	json_t *root = json_object(), *list = json_array();
	struct weft_jwks *k = NULL;
	char *text;

	if (kid)
		json_object_set_new(jwk, "kid", json_string(kid));
	if (alg)
		json_object_set_new(jwk, "alg", json_string(alg));
	json_array_append_new(list, jwk);
	json_object_set_new(root, "keys", list);
	text = json_dumps(root, 0);
	assert_int_equal(weft_jwks_parse(text, strlen(text), &k), WEFT_JWT_OK);
	free(text);
	json_decref(root);
	return k;
}

static enum weft_jwt_status check(const char *text, const struct weft_jwks *k)
{
	struct weft_jwt *t = NULL;
	enum weft_jwt_status st = parse(text, &t);

	assert_int_equal(st, WEFT_JWT_OK);
	st = weft_jwt_verify(t, k);
	weft_jwt_free(t);
	return st;
}

static json_t *public_jwk(EVP_PKEY *key)
{
	json_t *o;
	uint8_t raw[32];
	size_t n = sizeof(raw);
	char *x;

	if (EVP_PKEY_get_base_id(key) != EVP_PKEY_ED25519) {
		o = jose_openssl_jwk_from_EVP_PKEY(NULL, key);
		json_object_del(o, "d");
		return o;
	}
	assert_int_equal(EVP_PKEY_get_raw_public_key(key, raw, &n), 1);
	x = b64(raw, n);
	o = json_pack("{s:s,s:s,s:s}", "kty", "OKP", "crv", "Ed25519", "x", x);
	free(x);
	return o;
}

static void algorithms(void **state)
{
	static const struct {
		const char *alg, *type, *curve;
		size_t ec;
	} v[] = {
		{"RS256", "RSA", NULL, 0},    {"RS384", "RSA", NULL, 0},
		{"RS512", "RSA", NULL, 0},    {"PS256", "RSA", NULL, 0},
		{"PS384", "RSA", NULL, 0},    {"PS512", "RSA", NULL, 0},
		{"ES256", "EC", "P-256", 32}, {"ES384", "EC", "P-384", 48},
		{"ES512", "EC", "P-521", 66}, {"EdDSA", "ED25519", NULL, 0},
	};
	EVP_PKEY *rsa = EVP_RSA_gen(2048);

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		EVP_PKEY *key = !strcmp(v[i].type, "RSA") ? rsa
				: v[i].curve		  ? EVP_EC_gen(v[i].curve)
					     : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
		char *t = token(v[i].alg, key, v[i].ec, "a");
		struct weft_jwks *k = keys_of(public_jwk(key), "a", v[i].alg);
		size_t at = (size_t)(strrchr(t, '.') - t) + 4;

		assert_int_equal(check(t, k), WEFT_JWT_OK);
		t[at] = t[at] == 'x' ? 'y' : 'x';
		assert_int_equal(check(t, k), WEFT_JWT_VERIFICATION);
		weft_jwks_unref(k);
		/* a key that says nothing of kid and alg serves too; one with others does not */
		t[at] = 'A';
		k = keys_of(public_jwk(key), "b", NULL);
		assert_int_equal(check(t, k), WEFT_JWT_JWKS_MISMATCH);
		weft_jwks_unref(k);
		free(t);
		t = token(v[i].alg, key, v[i].ec, NULL);
		k = keys_of(public_jwk(key), NULL, NULL);
		assert_int_equal(check(t, k), WEFT_JWT_OK);
		weft_jwks_unref(k);
		free(t);
		if (key != rsa)
			EVP_PKEY_free(key);
	}
	EVP_PKEY_free(rsa);
}

static char *hmac_token(const char *alg, const EVP_MD *md, const char *secret)
{
	char head[64], *s, *out = NULL, *sig64;
	uint8_t sig[64];
	unsigned n;

	snprintf(head, sizeof(head), "{\"alg\":\"%s\"}", alg);
	s = unsigned_token(head, "{}");
	HMAC(md, secret, (int)strlen(secret), (uint8_t *)s, strlen(s), sig, &n);
	sig64 = b64(sig, n);
	assert_true(asprintf(&out, "%s.%s", s, sig64) > 0);
	free(s);
	free(sig64);
	return out;
}

static void secrets(void **state)
{
	char *s64 = b64("a secret", 8), *t;
	struct weft_jwks *k = keys_of(json_pack("{s:s,s:s}", "kty", "oct", "k", s64), NULL, NULL);

	t = hmac_token("HS256", EVP_sha256(), "a secret");
	assert_int_equal(check(t, k), WEFT_JWT_OK);
	free(t);
	t = hmac_token("HS384", EVP_sha384(), "a secret");
	assert_int_equal(check(t, k), WEFT_JWT_OK);
	free(t);
	t = hmac_token("HS512", EVP_sha512(), "another");
	assert_int_equal(check(t, k), WEFT_JWT_VERIFICATION);
	free(t);
	weft_jwks_unref(k);
	free(s64);
}

/* The text of a public key must never serve as a secret. */
static void key_confusion(void **state)
{
	EVP_PKEY *rsa = EVP_RSA_gen(2048);
	struct weft_jwks *k = keys_of(public_jwk(rsa), NULL, NULL);
	char *t = hmac_token("HS256", EVP_sha256(), "n");

	assert_int_equal(check(t, k), WEFT_JWT_VERIFICATION);
	free(t);
	weft_jwks_unref(k);
	EVP_PKEY_free(rsa);
}

static void key_sets(void **state)
{
	static const struct {
		const char *text;
		enum weft_jwt_status st;
	} v[] = {
		{"", WEFT_JWT_JWKS_JSON},
		{"{", WEFT_JWT_JWKS_JSON},
		{"{}", WEFT_JWT_JWKS_NO_KEYS},
		{"[]", WEFT_JWT_JWKS_NO_KEYS},
		{"{\"keys\":1}", WEFT_JWT_JWKS_BAD_KEYS},
		{"{\"keys\":[]}", WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[1,null,{}]}", WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"RSA\"}]}", WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
		 WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}",
		 WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AA\",\"y\":\"AA\"}]}",
		 WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"alg\":\"RS256\"}]}",
		 WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"oct\",\"k\":\"\"}]}", WEFT_JWT_JWKS_NO_VALID},
		{"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"alg\":\"none\"}]}",
		 WEFT_JWT_JWKS_NO_VALID},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct weft_jwks *k = NULL;

		if (weft_jwks_parse(v[i].text, strlen(v[i].text), &k) != v[i].st) {
			print_message("# %s\n", v[i].text);
			fail();
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shapes),   cmocka_unit_test(claims),
		cmocka_unit_test(times),    cmocka_unit_test(algorithms),
		cmocka_unit_test(secrets),  cmocka_unit_test(key_confusion),
		cmocka_unit_test(key_sets),
	};
	return cmocka_run_group_tests_name("jwt", tests, NULL, NULL);
}
