/* SSL_CTXs from PEM: what is true of every session of one identity and direction. */
#include "proxy/net/tls_int.h"

#include "proxy/net/io_tls.h"
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <string.h>
#include <time.h>

enum { CHAIN_MAX = 10, ROOTS_MAX = 1000, CRLS_MAX = 1000, CERT_LIST_BYTES = 64 << 10 };

static const unsigned char alpn_h2[] = {2, 'h', '2'};

static int no_password(char *buf, int size, int rwflag, void *u)
{
	return 0;
}

static int ssl_fail(struct weft_err *e, const char *what)
{
	unsigned long c = ERR_peek_last_error();
	const char *why = c ? ERR_reason_error_string(c) : NULL;
	int r = weft_fail(e, NULL, EINVAL, "%s: %s", what, why ? why : "not usable");

	ERR_clear_error();
	return r;
}

static BIO *bio_of(const char *pem, size_t n)
{
	return pem && n > 0 && n <= INT_MAX ? BIO_new_mem_buf(pem, (int)n) : NULL;
}

/* The end of the PEM is told by PEM_R_NO_START_LINE; anything else is a broken block. */
static bool pem_ended(void)
{
	unsigned long c = ERR_peek_last_error();
	bool end = ERR_GET_LIB(c) == ERR_LIB_PEM && ERR_GET_REASON(c) == PEM_R_NO_START_LINE;

	if (end)
		ERR_clear_error();
	return end;
}

static int64_t unix_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static int load_chain(SSL_CTX *ctx, const struct weft_tls_pem *pem, int64_t *ret_not_after,
		      struct weft_err *e)
{
	BIO *b = bio_of(pem->chain, pem->chain_n);
	X509 *x;
	int n = 0, r = 0;

	if (!b)
		return weft_fail(e, NULL, EINVAL, "certificate chain: must not be empty");
	while (r == 0 && (x = PEM_read_bio_X509(b, NULL, no_password, NULL))) {
		if (n == 0) {
			if (ret_not_after)
				*ret_not_after = unix_of(X509_get0_notAfter(x));
			if (X509_cmp_current_time(X509_get0_notAfter(x)) <= 0 ||
			    X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
				r = weft_fail(e, NULL, EINVAL,
					      "certificate: must be valid now, is not");
			else if (SSL_CTX_use_certificate(ctx, x) != 1)
				r = ssl_fail(e, "certificate");
			else
				weft_cert_own(x);
		} else if (n >= CHAIN_MAX) {
			r = weft_fail(e, NULL, EINVAL, "certificate chain: at most %d, has more",
				      CHAIN_MAX);
		} else if (SSL_CTX_add1_chain_cert(ctx, x) != 1) {
			r = ssl_fail(e, "certificate chain");
		}
		X509_free(x);
		n++;
	}
	if (r == 0 && (!pem_ended() || n == 0))
		r = ssl_fail(e, "certificate chain");
	BIO_free(b);
	return r;
}

static int load_key(SSL_CTX *ctx, const struct weft_tls_pem *pem, struct weft_err *e)
{
	BIO *b = bio_of(pem->key, pem->key_n);
	EVP_PKEY *k = b ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;
	int r = 0;

	BIO_free(b);
	if (!k)
		return ssl_fail(e, "private key");
	if (SSL_CTX_use_PrivateKey(ctx, k) != 1 || SSL_CTX_check_private_key(ctx) != 1)
		r = ssl_fail(e, "private key: must fit the certificate");
	EVP_PKEY_free(k);
	return r;
}

static int load_roots(SSL_CTX *ctx, const struct weft_tls_pem *pem, struct weft_err *e)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	BIO *b = bio_of(pem->roots, pem->roots_n);
	X509 *x;
	int n = 0, r = 0;

	if (!b)
		return weft_fail(e, NULL, EINVAL, "roots: must not be empty");
	while (r == 0 && (x = PEM_read_bio_X509(b, NULL, no_password, NULL))) {
		if (++n > ROOTS_MAX)
			r = weft_fail(e, NULL, EINVAL, "roots: at most %d, has more", ROOTS_MAX);
		else if (X509_STORE_add_cert(store, x) != 1)
			r = ssl_fail(e, "roots");
		X509_free(x);
	}
	if (r == 0 && (!pem_ended() || n == 0))
		r = ssl_fail(e, "roots");
	BIO_free(b);
	return r;
}

static int load_crls(SSL_CTX *ctx, const struct weft_tls_pem *pem, struct weft_err *e)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	BIO *b = bio_of(pem->crl, pem->crl_n);
	X509_CRL *x;
	int n = 0, r = 0;

	if (!b)
		return 0;
	while (r == 0 && (x = PEM_read_bio_X509_CRL(b, NULL, no_password, NULL))) {
		if (++n > CRLS_MAX)
			r = weft_fail(e, NULL, EINVAL, "CRL: at most %d, has more", CRLS_MAX);
		else if (X509_STORE_add_crl(store, x) != 1)
			r = ssl_fail(e, "CRL");
		X509_CRL_free(x);
	}
	if (r == 0 && (!pem_ended() || n == 0))
		r = ssl_fail(e, "CRL");
	BIO_free(b);
	if (r == 0)
		X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	return r;
}

static int alpn_pick(SSL *ssl, const unsigned char **out, unsigned char *outlen,
		     const unsigned char *in, unsigned int inlen, void *arg)
{
	for (unsigned i = 0; i < inlen; i += 1u + in[i]) {
		if (in[i] == 2 && i + 3 <= inlen && memcmp(in + i + 1, "h2", 2) == 0) {
			*out = alpn_h2 + 1;
			*outlen = 2;
			return SSL_TLSEXT_ERR_OK;
		}
	}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int set_rules(SSL_CTX *ctx, bool server)
{
	/* AES-128 first, whoever chooses. ChaCha is left out as upstream does. */
	if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384") != 1 ||
	    SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") != 1)
		return -EINVAL;
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
					 SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
					 SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_max_cert_list(ctx, CERT_LIST_BYTES);
	SSL_CTX_set_verify_depth(ctx, CHAIN_MAX);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, weft_tls_verify);
	/* each given root is an anchor, self-signed or not */
	X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), X509_V_FLAG_PARTIAL_CHAIN);
	if (server) {
		SSL_CTX_set_alpn_select_cb(ctx, alpn_pick, NULL);
		return SSL_CTX_set_num_tickets(ctx, 0) == 1 ? 0 : -EINVAL;
	}
	return SSL_CTX_set_alpn_protos(ctx, alpn_h2, sizeof(alpn_h2)) == 0 ? 0 : -EINVAL;
}

struct ssl_ctx_st *weft_tls_ctx_new(bool server, const struct weft_tls_pem *pem,
				    int64_t *ret_not_after, struct weft_err *reterr)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	int r;

	ERR_clear_error();
	if (!ctx || set_rules(ctx, server) < 0)
		r = ssl_fail(reterr, "TLS context");
	else
		r = load_chain(ctx, pem, ret_not_after, reterr);
	if (r == 0)
		r = load_key(ctx, pem, reterr);
	if (r == 0)
		r = load_roots(ctx, pem, reterr);
	if (r == 0)
		r = load_crls(ctx, pem, reterr);
	if (r < 0) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

void weft_tls_ctx_free(struct ssl_ctx_st *ctx)
{
	SSL_CTX_free(ctx);
}
