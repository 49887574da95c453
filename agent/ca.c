#include "agent/ca.h"
#include "agent/ca_int.h"
#include "proxy/core/arena.h"
#include "proxy/net/identity.h"
#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t ROOT_TTL_S = 10LL * 365 * 86400;

int weft_ca_ssl(struct weft_err *reterr, const char *what)
{
	char text[160];
	unsigned long e = ERR_get_error();

	ERR_error_string_n(e, text, sizeof(text));
	ERR_clear_error();
	return weft_fail(reterr, NULL, EIO, "%s: %s", what, e ? text : "failed");
}

int64_t weft_ca_now(const struct weft_ca *ca)
{
	return ca->conf.now ? ca->conf.now(ca->conf.owner) : (int64_t)time(NULL);
}

int64_t weft_ca_time(const ASN1_TIME *t)
{
	struct tm tm;

	return t && ASN1_TIME_to_tm(t, &tm) ? (int64_t)timegm(&tm) : 0;
}

void weft_ca_signer_done(struct weft_ca_signer *s)
{
	EVP_PKEY_free(s->key);
	X509_free(s->cert);
	s->key = NULL;
	s->cert = NULL;
}

/* ---- building certificates */

static bool ext(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;
	bool ok;

	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = e && X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	return ok;
}

/* The URI goes in as bytes, not through a text form that has separators. */
static bool ext_uri(X509 *x, const char *uri)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *s = ASN1_IA5STRING_new();
	bool ok = names && name && s && ASN1_STRING_set(s, uri, (int)strlen(uri));

	if (!ok || !sk_GENERAL_NAME_push(names, name)) {
		ASN1_IA5STRING_free(s);
		GENERAL_NAME_free(name);
		sk_GENERAL_NAME_free(names);
		return false;
	}
	GENERAL_NAME_set0_value(name, GEN_URI, s);
	ok = X509_add1_ext_i2d(x, NID_subject_alt_name, names, 1, X509V3_ADD_APPEND) == 1;
	sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
	return ok;
}

static bool serial(X509 *x)
{
	unsigned char b[16];
	BIGNUM *n;
	bool ok;

	if (RAND_bytes(b, sizeof(b)) != 1)
		return false;
	b[0] = (unsigned char)((b[0] & 0x7f) | 0x40); /* positive, always of the same length */
	n = BN_bin2bn(b, sizeof(b), NULL);
	ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
	BN_free(n);
	return ok;
}

static X509 *cert_begin(EVP_PKEY *key, int64_t from, int64_t to)
{
	X509 *x = X509_new();

	if (x && X509_set_version(x, X509_VERSION_3) && serial(x) && X509_set_pubkey(x, key) &&
	    ASN1_TIME_set(X509_getm_notBefore(x), (time_t)from) &&
	    ASN1_TIME_set(X509_getm_notAfter(x), (time_t)to))
		return x;
	X509_free(x);
	return NULL;
}

static bool root_name(X509 *x, const char *trust_domain)
{
	X509_NAME *n = X509_get_subject_name(x);
	char cn[64];
	unsigned char r[4];

	if (RAND_bytes(r, sizeof(r)) != 1)
		return false;
	snprintf(cn, sizeof(cn), "weft root %02x%02x%02x%02x", r[0], r[1], r[2], r[3]);
	return X509_NAME_add_entry_by_txt(n, "O", MBSTRING_UTF8,
					  (const unsigned char *)trust_domain,
					  (int)strnlen(trust_domain, 64), -1, 0) &&
	       X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1,
					  0) &&
	       X509_set_issuer_name(x, n);
}

int weft_ca_root_make(const struct weft_ca *ca, struct weft_ca_signer *ret, struct weft_err *reterr)
{
	int64_t now = weft_ca_now(ca), ttl = ca->conf.root_ttl_s ? ca->conf.root_ttl_s : ROOT_TTL_S;
	struct weft_ca_signer s = {.key = EVP_EC_gen("P-256")};

	s.cert = s.key ? cert_begin(s.key, now - WEFT_CA_BACKDATE_S, now + ttl) : NULL;
	if (!s.cert || !root_name(s.cert, ca->trust_domain) ||
	    !ext(s.cert, s.cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
	    !ext(s.cert, s.cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
	    !ext(s.cert, s.cert, NID_subject_key_identifier, "hash") ||
	    !X509_sign(s.cert, s.key, EVP_sha256())) {
		weft_ca_signer_done(&s);
		return weft_ca_ssl(reterr, "root certificate");
	}
	*ret = s;
	return 0;
}

int weft_ca_sign(struct weft_ca *ca, EVP_PKEY *key, const char *identity, int64_t ttl_s, X509 **ret,
		 struct weft_err *reterr)
{
	int64_t now = weft_ca_now(ca), to = now + ttl_s, last = weft_ca_not_after(ca);
	X509 *issuer = ca->now.cert, *x;
	struct weft_identity id;

	if (weft_identity_parse(identity, strlen(identity), &id) < 0)
		return weft_fail(reterr, NULL, EINVAL,
				 "identity \"%.80s\": must be spiffe://<trust "
				 "domain>/ns/<namespace>/sa/<account>",
				 identity);
	if (ttl_s < 1 || ttl_s > WEFT_CA_TTL_MAX_S)
		return weft_fail(reterr, NULL, EINVAL,
				 "life of a certificate: must be 1 s..90 days, is %lld s",
				 (long long)ttl_s);
	if (last <= now)
		return weft_fail(reterr, NULL, EKEYEXPIRED, "the root has expired");
	x = cert_begin(key, now - WEFT_CA_BACKDATE_S, to < last ? to : last);
	if (!x || !X509_set_issuer_name(x, X509_get_subject_name(issuer)) ||
	    !ext(x, issuer, NID_basic_constraints, "critical,CA:FALSE") ||
	    !ext(x, issuer, NID_key_usage, "critical,digitalSignature,keyEncipherment") ||
	    !ext(x, issuer, NID_ext_key_usage, "serverAuth,clientAuth") ||
	    !ext(x, issuer, NID_authority_key_identifier, "keyid:always") ||
	    !ext_uri(x, identity) || !X509_sign(x, ca->now.key, EVP_sha256())) {
		X509_free(x);
		return weft_ca_ssl(reterr, "certificate");
	}
	*ret = x;
	return 0;
}

static char *bio_take(BIO *b)
{
	char *p, *text;
	long n = BIO_get_mem_data(b, &p);

	text = weft_xcalloc(1, (size_t)n + 1);
	memcpy(text, p, (size_t)n);
	return text;
}

int weft_ca_issue(struct weft_ca *ca, const char *identity, int64_t ttl_s, struct weft_ca_cert *ret,
		  struct weft_err *reterr)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	BIO *chain = BIO_new(BIO_s_mem()), *secret = BIO_new(BIO_s_secmem());
	X509 *x = NULL;
	int r = -EIO;

	if (!key || !chain || !secret) {
		weft_ca_ssl(reterr, "key");
		goto out;
	}
	r = weft_ca_sign(ca, key, identity, ttl_s, &x, reterr);
	if (r < 0)
		goto out;
	if (!PEM_write_bio_X509(chain, x) ||
	    !PEM_write_bio_PKCS8PrivateKey(secret, key, NULL, NULL, 0, NULL, NULL)) {
		r = weft_ca_ssl(reterr, "PEM");
		goto out;
	}
	ret->chain = bio_take(chain);
	ret->key = bio_take(secret);
	ret->not_before = weft_ca_time(X509_get0_notBefore(x));
	ret->not_after = weft_ca_time(X509_get0_notAfter(x));
	ret->issued = weft_ca_now(ca);
	r = 0;
out:
	X509_free(x);
	BIO_free(chain);
	BIO_free(secret);
	EVP_PKEY_free(key);
	return r;
}

void weft_ca_cert_done(struct weft_ca_cert *c)
{
	if (c->key)
		OPENSSL_cleanse(c->key, strlen(c->key));
	free(c->key);
	free(c->chain);
	memset(c, 0, sizeof(*c));
}

/* ---- the authority */

static bool same_cert(X509 *a, X509 *b)
{
	return a && b && X509_cmp(a, b) == 0;
}

/* The signer's root first; duplicates and expired ones left out. */
static int roots_build(struct weft_ca *ca, struct weft_err *reterr)
{
	X509 *all[WEFT_CA_ROOTS_MAX + 2];
	int64_t now = weft_ca_now(ca);
	unsigned n = 0, i, j, used = 0;
	BIO *b = BIO_new(BIO_s_mem());

	all[n++] = ca->now.cert;
	if (ca->next.cert)
		all[n++] = ca->next.cert;
	for (i = 0; i < ca->n_extra; i++)
		all[n++] = ca->extra[i];
	for (i = 0; b && i < n; i++) {
		for (j = 0; j < i && !same_cert(all[i], all[j]); j++)
			;
		if (j < i || weft_ca_time(X509_get0_notAfter(all[i])) <= now)
			continue;
		if (!PEM_write_bio_X509(b, all[i]))
			break;
		used++;
	}
	if (!b || i < n) {
		BIO_free(b);
		return weft_ca_ssl(reterr, "roots");
	}
	free(ca->roots);
	ca->roots = bio_take(b);
	ca->n_roots = used;
	BIO_free(b);
	return 0;
}

static int64_t life_used_pct(const struct weft_ca *ca, X509 *x)
{
	int64_t from = weft_ca_time(X509_get0_notBefore(x)),
		to = weft_ca_time(X509_get0_notAfter(x));

	return to > from ? (weft_ca_now(ca) - from) * 100 / (to - from) : 100;
}

int weft_ca_tick(struct weft_ca *ca, struct weft_err *reterr)
{
	char *before = weft_xstrdup(ca->roots ? ca->roots : "");
	int r = 0, pct;

	if (weft_ca_files_changed(ca))
		r = weft_ca_files_load(ca, reterr);
	pct = (int)life_used_pct(ca, ca->now.cert);
	if (r >= 0 && pct >= 70 && !ca->next.cert)
		r = weft_ca_next_make(ca, reterr);
	if (r >= 0 && pct >= 80 && ca->next.cert)
		r = weft_ca_next_promote(ca, reterr);
	if (r >= 0)
		r = roots_build(ca, reterr);
	if (r >= 0)
		r = strcmp(before, ca->roots) != 0;
	free(before);
	return r;
}

int weft_ca_open(const struct weft_ca_conf *conf, struct weft_ca **ret, struct weft_err *reterr)
{
	struct weft_ca *ca = weft_xcalloc(1, sizeof(*ca));
	int r;

	ca->conf = *conf;
	ca->dir = weft_xstrdup(conf->dir);
	ca->trust_domain = weft_xstrdup(conf->trust_domain ? conf->trust_domain : "cluster.local");
	r = weft_ca_files_load(ca, reterr);
	if (r >= 0)
		r = weft_ca_tick(ca, reterr);
	if (r < 0) {
		weft_ca_free(ca);
		return r;
	}
	*ret = ca;
	return 0;
}

void weft_ca_free(struct weft_ca *ca)
{
	if (!ca)
		return;
	weft_ca_signer_done(&ca->now);
	weft_ca_signer_done(&ca->next);
	while (ca->n_extra)
		X509_free(ca->extra[--ca->n_extra]);
	free(ca->roots);
	free(ca->dir);
	free(ca->trust_domain);
	free(ca);
}

const char *weft_ca_roots(const struct weft_ca *ca)
{
	return ca->roots;
}

unsigned weft_ca_n_roots(const struct weft_ca *ca)
{
	return ca->n_roots;
}

int64_t weft_ca_not_after(const struct weft_ca *ca)
{
	return weft_ca_time(X509_get0_notAfter(ca->now.cert));
}
