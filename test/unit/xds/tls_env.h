/* For tests of TLS contexts: certificates by a line of text, messages from YAML, and a server and a
 * client that shake hands in memory. */
#pragma once
#include "xds/tls_conf.h"
#include "xds/yaml.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct tcert {
	X509 *x;
	EVP_PKEY *key;
	char pem[8192], key_pem[8192];
};
struct tcert_want {
	const char *key;  /* "P-256", "P-384", "rsa2048", "rsa1024" */
	const char *cn;	  /* NULL: none */
	const char *sans; /* as OpenSSL's configuration has them; NULL: none */
	const char *usage;
	long from, to; /* seconds from now; both 0: an hour each way */
	bool ca;
};

static inline void tcert_pem(BIO *b, char *dst, size_t cap)
{
	char *p;
	long n = BIO_get_mem_data(b, &p);

	assert_true(n > 0 && (size_t)n < cap);
	memcpy(dst, p, (size_t)n);
	dst[n] = 0;
	BIO_free(b);
}

static inline void tcert_ext(X509 *x, X509 *issuer, int nid, const char *v)
{
	X509V3_CTX c;
	X509_EXTENSION *e;

	X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &c, nid, v);
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
}

static inline struct tcert tcert_new(const struct tcert *by, struct tcert_want w)
{
	static long serial = 4096;
	struct tcert c = {.x = X509_new()};
	X509_NAME *name = X509_get_subject_name(c.x);
	BIO *b;

	if (!w.from && !w.to) {
		w.from = -3600;
		w.to = 3600;
	}
	c.key = w.key && !strncmp(w.key, "rsa", 3) ? EVP_RSA_gen((unsigned)atoi(w.key + 3))
						   : EVP_EC_gen(w.key ? w.key : "P-256");
	X509_set_version(c.x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(c.x), serial++);
	X509_gmtime_adj(X509_getm_notBefore(c.x), w.from);
	X509_gmtime_adj(X509_getm_notAfter(c.x), w.to);
	if (w.cn)
		X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)w.cn,
					   -1, -1, 0);
	X509_set_issuer_name(c.x, X509_get_subject_name(by ? by->x : c.x));
	X509_set_pubkey(c.x, c.key);
	tcert_ext(c.x, by ? by->x : c.x, NID_basic_constraints,
		  w.ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
	if (w.usage || w.ca)
		tcert_ext(c.x, by ? by->x : c.x, NID_key_usage,
			  w.usage ? w.usage : "critical,keyCertSign,cRLSign");
	if (w.sans)
		tcert_ext(c.x, by ? by->x : c.x, NID_subject_alt_name, w.sans);
	assert_true(X509_sign(c.x, by ? by->key : c.key, EVP_sha256()) > 0);
	b = BIO_new(BIO_s_mem());
	PEM_write_bio_X509(b, c.x);
	tcert_pem(b, c.pem, sizeof(c.pem));
	b = BIO_new(BIO_s_mem());
	PEM_write_bio_PrivateKey(b, c.key, NULL, NULL, 0, NULL, NULL);
	tcert_pem(b, c.key_pem, sizeof(c.key_pem));
	return c;
}

static inline void tcert_free(struct tcert *c)
{
	X509_free(c->x);
	EVP_PKEY_free(c->key);
	memset(c, 0, sizeof(*c));
}

static inline void tcrl(const struct tcert *by, const struct tcert *revoked, char *dst, size_t cap)
{
	X509_CRL *crl = X509_CRL_new();
	X509_REVOKED *r = X509_REVOKED_new();
	ASN1_TIME *t = X509_gmtime_adj(NULL, -60);
	BIO *b = BIO_new(BIO_s_mem());

	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(by->x));
	X509_CRL_set1_lastUpdate(crl, t);
	X509_REVOKED_set_revocationDate(r, t);
	X509_gmtime_adj(t, 3600);
	X509_CRL_set1_nextUpdate(crl, t);
	if (revoked) {
		X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(revoked->x));
		X509_CRL_add0_revoked(crl, r);
	} else {
		X509_REVOKED_free(r);
	}
	X509_CRL_sign(crl, by->key, EVP_sha256());
	PEM_write_bio_X509_CRL(b, crl);
	tcert_pem(b, dst, cap);
	X509_CRL_free(crl);
	ASN1_TIME_free(t);
}

/* ---- text: "@pem@" style names in YAML are replaced by indented blocks */

struct tval {
	const char *name, *text;
};

/* "{inline_string: @name@}" with the value quoted as JSON. */
static inline char *texpand(const char *yaml, const struct tval *v, size_t n)
{
	char *out = NULL;
	size_t out_n;
	FILE *f = open_memstream(&out, &out_n);

	for (const char *p = yaml; *p;) {
		const char *end = *p == '@' ? strchr(p + 1, '@') : NULL;
		size_t i = 0;

		while (end && i < n &&
		       (strlen(v[i].name) != (size_t)(end - p - 1) ||
			memcmp(v[i].name, p + 1, (size_t)(end - p - 1)) != 0))
			i++;
		if (!end || i == n) {
			fputc(*p++, f);
			continue;
		}
		fputc('"', f);
		for (const char *s = v[i].text; *s; s++) {
			if (*s == '\n')
				fputs("\\n", f);
			else
				fputc(*s, f);
		}
		fputc('"', f);
		p = end + 1;
	}
	fclose(f);
	return out;
}

static inline const ProtobufCMessageDescriptor *tpick(void *ctx, const char *v, const char *k,
						      bool *lenient, struct weft_err *e)
{
	return ctx;
}

struct tconf {
	struct weft_arena *a;
	struct weft_errs errs, warns;
	struct weft_cfg cfg;
};

static inline void tconf_init(struct tconf *t)
{
	memset(t, 0, sizeof(*t));
	t->a = weft_arena_new(0);
	t->cfg = (struct weft_cfg){
		.arena = t->a, .errs = &t->errs, .warns = &t->warns, .file = true};
}

static inline const ProtobufCMessage *tmsg(struct tconf *t, const ProtobufCMessageDescriptor *d,
					   const char *yaml, const struct tval *v, size_t n)
{
	struct weft_yaml_doc *docs;
	struct weft_errs errs = {0};
	char *text = texpand(yaml, v, n), *copy = weft_arena_strdup(t->a, text);
	size_t k;

	free(text);
	if (weft_yaml_decode(t->a, "t.yaml", copy, strlen(copy), tpick, (void *)d, &docs, &k,
			     &errs) != 0)
		fail_msg("%s: %s: %s", errs.v[0].where, errs.v[0].path, errs.v[0].msg);
	assert_int_equal(k, 1);
	return docs[0].msg;
}

/* ---- a handshake in memory */

struct thand {
	SSL *c, *s;
	bool ok;
	long c_verify, s_verify;
	char cn[64]; /* of the certificate that the server showed */
};

static inline void thand_new(struct thand *h, SSL_CTX *c, SSL_CTX *s, const char *sni)
{
	BIO *cb, *sb;

	memset(h, 0, sizeof(*h));
	assert_int_equal(BIO_new_bio_pair(&cb, 0, &sb, 0), 1);
	h->c = SSL_new(c);
	h->s = SSL_new(s);
	SSL_set_bio(h->c, cb, cb);
	SSL_set_bio(h->s, sb, sb);
	SSL_set_connect_state(h->c);
	SSL_set_accept_state(h->s);
	if (sni)
		SSL_set_tlsext_host_name(h->c, sni);
}

static inline bool thand_run(struct thand *h)
{
	char b[16];
	X509 *x;
	int c = 0, s = 0;

	for (int i = 0; i < 20; i++) {
		c = SSL_do_handshake(h->c);
		s = SSL_do_handshake(h->s);
		if (c == 1 && s == 1)
			break;
	}
	/* the server's verdict on a TLS 1.3 client comes with its first read; tickets too */
	(void)SSL_read(h->c, b, sizeof(b));
	h->ok = c == 1 && s == 1;
	h->c_verify = SSL_get_verify_result(h->c);
	h->s_verify = SSL_get_verify_result(h->s);
	x = SSL_get0_peer_certificate(h->c);
	if (x)
		X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, h->cn,
					  sizeof(h->cn));
	return h->ok;
}

static inline void thand_free(struct thand *h)
{
	SSL_free(h->c);
	SSL_free(h->s);
}
