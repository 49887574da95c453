/* Certificates for tests, made in the process: a CA, and leaves with any URI SANs (NUL bytes
 * included). */
#pragma once
#include <assert.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <string.h>

struct test_cert {
	X509 *x;
	EVP_PKEY *key;
	char *pem, *key_pem;
	size_t pem_n, key_pem_n;
};
struct test_san {
	const char *s;
	size_t n; /* 0: strlen */
};

static inline char *test_pem(BIO *b, size_t *ret_n)
{
	char *p, *out;
	long n = BIO_get_mem_data(b, &p);

	out = malloc((size_t)n + 1);
	memcpy(out, p, (size_t)n);
	out[n] = 0;
	*ret_n = (size_t)n;
	BIO_free(b);
	return out;
}

static inline void test_cert_ext(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX c;
	X509_EXTENSION *e;

	X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &c, nid, value);
	assert(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
}

/* by NULL: a CA. eku NULL: both purposes. from, to: seconds from now. */
static inline struct test_cert test_cert_new(const struct test_cert *by,
					     const struct test_san *sans, size_t n, const char *eku,
					     long from, long to)
{
	static long serial = 100;
	struct test_cert c = {0};
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	X509_NAME *name;
	BIO *b;

	c.key = EVP_EC_gen("P-256");
	c.x = X509_new();
	X509_set_version(c.x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(c.x), serial++);
	X509_gmtime_adj(X509_getm_notBefore(c.x), from);
	X509_gmtime_adj(X509_getm_notAfter(c.x), to);
	name = X509_get_subject_name(c.x);
	X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC,
				   (const unsigned char *)(by ? "leaf" : "test root"), -1, -1, 0);
	X509_set_issuer_name(c.x, X509_get_subject_name(by ? by->x : c.x));
	X509_set_pubkey(c.x, c.key);
	test_cert_ext(c.x, by ? by->x : c.x, NID_basic_constraints,
		      by ? "critical,CA:FALSE" : "critical,CA:TRUE");
	if (!by)
		test_cert_ext(c.x, c.x, NID_key_usage, "critical,keyCertSign,cRLSign");
	else
		test_cert_ext(c.x, by->x, NID_ext_key_usage, eku ? eku : "serverAuth,clientAuth");
	for (size_t i = 0; i < n; i++) {
		GENERAL_NAME *g = GENERAL_NAME_new();
		ASN1_IA5STRING *u = ASN1_IA5STRING_new();

		ASN1_STRING_set(u, sans[i].s, (int)(sans[i].n ? sans[i].n : strlen(sans[i].s)));
		GENERAL_NAME_set0_value(g, GEN_URI, u);
		sk_GENERAL_NAME_push(names, g);
	}
	if (n > 0)
		X509_add1_ext_i2d(c.x, NID_subject_alt_name, names, 0, 0);
	GENERAL_NAMES_free(names);
	X509_sign(c.x, by ? by->key : c.key, EVP_sha256());
	b = BIO_new(BIO_s_mem());
	PEM_write_bio_X509(b, c.x);
	c.pem = test_pem(b, &c.pem_n);
	b = BIO_new(BIO_s_mem());
	PEM_write_bio_PrivateKey(b, c.key, NULL, NULL, 0, NULL, NULL);
	c.key_pem = test_pem(b, &c.key_pem_n);
	return c;
}

static inline void test_cert_free(struct test_cert *c)
{
	X509_free(c->x);
	EVP_PKEY_free(c->key);
	free(c->pem);
	free(c->key_pem);
}
