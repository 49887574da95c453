/* A CA and leaves with a SPIFFE id, made on the spot. */
#pragma once
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_ca {
	EVP_PKEY *key;
	X509 *cert;
	char *pem;
};

static inline char *fake_bio_text(BIO *b)
{
	char *p, *s;
	long n = BIO_get_mem_data(b, &p);

	s = strndup(p, (size_t)n);
	BIO_free(b);
	return s;
}

static inline char *fake_cert_pem(X509 *x)
{
	BIO *b = BIO_new(BIO_s_mem());

	PEM_write_bio_X509(b, x);
	return fake_bio_text(b);
}

static inline X509 *fake_cert(EVP_PKEY *key, const char *cn, const char *san,
			      const struct fake_ca *ca, long days)
{
	X509 *x = X509_new();
	X509_NAME *name = X509_get_subject_name(x);
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), rand());
	X509_gmtime_adj(X509_getm_notBefore(x), -3600);
	X509_gmtime_adj(X509_getm_notAfter(x), days * 86400);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
	X509_set_issuer_name(x, ca ? X509_get_subject_name(ca->cert) : name);
	X509_set_pubkey(x, key);
	X509V3_set_ctx(&ctx, ca ? ca->cert : x, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints,
				ca ? "critical,CA:FALSE" : "critical,CA:TRUE");
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	if (san) {
		char text[300];

		snprintf(text, sizeof(text), "URI:%s", san);
		e = X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, text);
		X509_add_ext(x, e, -1);
		X509_EXTENSION_free(e);
		e = X509V3_EXT_conf_nid(NULL, &ctx, NID_ext_key_usage, "serverAuth,clientAuth");
		X509_add_ext(x, e, -1);
		X509_EXTENSION_free(e);
	}
	X509_sign(x, ca ? ca->key : key, EVP_sha256());
	return x;
}

static inline void fake_ca_init(struct fake_ca *ca)
{
	ca->key = EVP_EC_gen("P-256");
	ca->cert = fake_cert(ca->key, "root", NULL, NULL, 10);
	ca->pem = fake_cert_pem(ca->cert);
}

static inline void fake_ca_done(struct fake_ca *ca)
{
	EVP_PKEY_free(ca->key);
	X509_free(ca->cert);
	free(ca->pem);
}

/* PEM texts, to be freed. */
static inline void fake_leaf(const struct fake_ca *ca, const char *id, long days, char **ret_cert,
			     char **ret_key)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = fake_cert(key, "leaf", id, ca, days);
	BIO *b = BIO_new(BIO_s_mem());

	*ret_cert = fake_cert_pem(x);
	PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL);
	*ret_key = fake_bio_text(b);
	X509_free(x);
	EVP_PKEY_free(key);
}
