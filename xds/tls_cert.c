#include "xds/tls_priv.h"

#include "proxy/net/io_tls.h"
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/rsa.h>
#include <string.h>
#include <time.h>

enum { RSA_BITS_MIN = 2048, CHAIN_MAX = 64, INFOS_MAX = 1024 };

const char *weft_tls_ssl_error(void)
{
	unsigned long e = ERR_peek_last_error();
	const char *why = e ? ERR_reason_error_string(e) : NULL;

	ERR_clear_error();
	return why ? why : "cannot be read";
}

void weft_tls_add_info(struct weft_tls_priv *p, X509 *x, const char *path, bool ca)
{
	struct weft_tls_cert *i;

	if (!p->infos)
		p->infos = weft_arena_alloc(p->arena, INFOS_MAX * sizeof(*p->infos));
	if (p->n_infos == INFOS_MAX) /* told, no more: bundles of roots are long */
		return;
	i = &p->infos[p->n_infos++];
	i->path = weft_arena_strdup(p->arena, path);
	i->serial = weft_cert_serial(x, p->arena);
	i->dns = weft_cert_sans(x, WEFT_SAN_DNS, p->arena);
	i->uri = weft_cert_sans(x, WEFT_SAN_URI, p->arena);
	i->ip = weft_cert_sans(x, WEFT_SAN_IP, p->arena);
	i->not_before = weft_cert_not_before(x);
	i->not_after = weft_cert_not_after(x);
	i->ca = ca;
}

uint32_t weft_tls_cert_days(const struct weft_tls_cert *c, int64_t now)
{
	return c->not_after > now ? (uint32_t)((c->not_after - now) / 86400) : 0;
}

/* ---- one certificate */

static int read_chain(struct weft_tls_build *b, const struct weft_path *at, SSL_CTX *ctx,
		      const char *pem, size_t n, X509 **ret_leaf)
{
	BIO *in = BIO_new_mem_buf(pem, (int)n);
	X509 *x = in ? PEM_read_bio_X509_AUX(in, NULL, NULL, NULL) : NULL;
	int r = 0, k = 0;

	if (!x || SSL_CTX_use_certificate(ctx, x) != 1) {
		r = weft_cfg_fail(b->c, at, "must be a certificate chain in PEM, leaf first: %s",
				  weft_tls_ssl_error());
		X509_free(x);
		x = NULL;
	} else {
		weft_cert_own(x);
	}
	while (r == 0) {
		X509 *ca = PEM_read_bio_X509(in, NULL, NULL, NULL);

		if (!ca)
			break;
		if (++k > CHAIN_MAX) {
			X509_free(ca);
			r = weft_cfg_fail(b->c, at, "must hold at most %d certificates", CHAIN_MAX);
		} else if (SSL_CTX_add0_chain_cert(ctx, ca) != 1) {
			X509_free(ca);
			r = weft_cfg_fail(b->c, at, "cannot be used: %s", weft_tls_ssl_error());
		}
	}
	if (r == 0 && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE &&
	    ERR_peek_last_error())
		r = weft_cfg_fail(b->c, at, "certificate %d of the chain: %s", k + 2,
				  weft_tls_ssl_error());
	ERR_clear_error();
	BIO_free(in);
	*ret_leaf = x; /* freed by the caller */
	return r;
}

static int password_cb(char *dst, int cap, int write, void *arg)
{
	const char *s = arg;
	size_t n = s ? strlen(s) : 0;

	if (!s || n > (size_t)cap)
		return -1;
	memcpy(dst, s, n);
	return (int)n;
}

static int read_key(struct weft_tls_build *b, const struct weft_path *at, SSL_CTX *ctx,
		    const TLS(TlsCertificate) * m)
{
	const struct weft_path kp = {at, "private_key", -1}, pp = {at, "password", -1};
	const char *pem, *pw = NULL;
	EVP_PKEY *key;
	size_t n, pn;
	BIO *in;
	int r = 0;

	if (!m->private_key)
		return weft_cfg_fail(b->c, &kp, "must be set");
	pem = weft_data_source(&b->tmp, &kp, m->private_key, "private key", &n);
	if (!pem)
		return -EINVAL;
	if (m->password) {
		pw = weft_data_source(&b->tmp, &pp, m->password, "password", &pn);
		if (!pw)
			return -EINVAL;
	}
	in = BIO_new_mem_buf(pem, (int)n);
	key = in ? PEM_read_bio_PrivateKey(in, NULL, password_cb, (void *)pw) : NULL;
	BIO_free(in);
	if (!key)
		return weft_cfg_fail(b->c, &kp, "must be a private key in PEM: %s",
				     weft_tls_ssl_error());
	if (X509_check_private_key(SSL_CTX_get0_certificate(ctx), key) != 1)
		r = weft_cfg_fail(b->c, &kp, "does not fit the certificate: %s",
				  weft_tls_ssl_error());
	else if (SSL_CTX_use_PrivateKey(ctx, key) != 1)
		r = weft_cfg_fail(b->c, &kp, "cannot be used: %s", weft_tls_ssl_error());
	EVP_PKEY_free(key);
	return r;
}

/* As Envoy: RSA of 2048 bits or more, or one of the three curves. */
static int check_key(struct weft_tls_build *b, const struct weft_path *at, X509 *leaf,
		     int *ret_curve)
{
	EVP_PKEY *k = X509_get0_pubkey(leaf);
	char group[64] = "";
	int nid;

	*ret_curve = 0;
	switch (k ? EVP_PKEY_get_base_id(k) : 0) {
	case EVP_PKEY_RSA:
		if (EVP_PKEY_get_bits(k) < RSA_BITS_MIN)
			return weft_cfg_fail(b->c, at,
					     "an RSA key must have 2048 bits or more, has %d",
					     EVP_PKEY_get_bits(k));
		return 0;
	case EVP_PKEY_EC:
		EVP_PKEY_get_group_name(k, group, sizeof(group), NULL);
		nid = OBJ_txt2nid(group);
		if (nid != NID_X9_62_prime256v1 && nid != NID_secp384r1 && nid != NID_secp521r1)
			return weft_cfg_fail(b->c, at,
					     "an ECDSA key must be of P-256, P-384 or P-521, is of "
					     "%s",
					     group);
		*ret_curve = nid;
		return 0;
	default:
		return weft_cfg_fail(b->c, at, "the key must be RSA or ECDSA");
	}
}

/* ---- a key store: leaf, key and chain in one */

static int use_store(struct weft_tls_build *b, const struct weft_path *at, SSL_CTX *ctx,
		     EVP_PKEY *key, X509 *leaf, STACK_OF(X509) * rest)
{
	if (!key || !leaf)
		return weft_cfg_fail(b->c, at, "must hold a certificate and its key");
	if (sk_X509_num(rest) > CHAIN_MAX)
		return weft_cfg_fail(b->c, at, "must hold at most %d certificates", CHAIN_MAX);
	if (SSL_CTX_use_certificate(ctx, leaf) != 1 || SSL_CTX_use_PrivateKey(ctx, key) != 1)
		return weft_cfg_fail(b->c, at, "cannot be used: %s", weft_tls_ssl_error());
	for (int i = 0; i < sk_X509_num(rest); i++) {
		if (SSL_CTX_add1_chain_cert(ctx, sk_X509_value(rest, i)) != 1)
			return weft_cfg_fail(b->c, at, "cannot be used: %s", weft_tls_ssl_error());
	}
	weft_cert_own(leaf);
	return 0;
}

static int read_store(struct weft_tls_build *b, const struct weft_path *at, SSL_CTX *ctx,
		      const TLS(TlsCertificate) * m, X509 **ret_leaf)
{
	const struct weft_path sp = {at, "pkcs12", -1}, pp = {at, "password", -1};
	const char *der, *pw = NULL;
	const unsigned char *p;
	STACK_OF(X509) *rest = NULL;
	EVP_PKEY *key = NULL;
	PKCS12 *store;
	size_t n;
	int r;

	if (m->certificate_chain || m->private_key)
		return weft_cfg_fail(b->c, &sp,
				     "excludes certificate_chain and private_key, which are set");
	if (m->pkcs12->specifier_case ==
	    ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_STRING)
		return weft_cfg_fail(b->c, &sp, "must not be an inline_string: it is DER");
	der = weft_data_source(&b->tmp, &sp, m->pkcs12, "PKCS #12", &n);
	if (der && m->password)
		pw = weft_data_source(&b->tmp, &pp, m->password, "password", &(size_t){0});
	if (!der || (m->password && !pw))
		return -EINVAL;
	EVP_DigestUpdate(b->p->sid_md, der, n);
	p = (const unsigned char *)der;
	store = d2i_PKCS12(NULL, &p, (long)n);
	if (!store || PKCS12_parse(store, pw, &key, ret_leaf, &rest) != 1)
		r = weft_cfg_fail(b->c, &sp, "must be a PKCS #12 key store: %s",
				  weft_tls_ssl_error());
	else
		r = use_store(b, &sp, ctx, key, *ret_leaf, rest);
	PKCS12_free(store);
	EVP_PKEY_free(key);
	sk_X509_pop_free(rest, X509_free);
	return r;
}

static SSL_CTX *ctx_new(struct weft_tls_priv *p);

/* Chain and key of one, from wherever. */
static int read_pair(struct weft_tls_build *b, const struct weft_path *at, SSL_CTX *ctx,
		     const TLS(TlsCertificate) * m, X509 **ret_leaf)
{
	const struct weft_path cp = {at, "certificate_chain", -1}, kp = {at, "private_key", -1};
	struct weft_tls_priv *p = b->p;
	const char *pem;
	size_t n;
	int r;

	if (m->pkcs12) {
		r = read_store(b, at, ctx, m, ret_leaf);
		return r ? r : check_key(b, at, *ret_leaf, &p->curves[p->n_ctxs - 1]);
	}
	if (!m->certificate_chain)
		return weft_cfg_fail(b->c, &cp, "must be set");
	pem = weft_data_source(&b->tmp, &cp, m->certificate_chain, "certificate chain", &n);
	if (!pem) { /* both are told */
		if (m->private_key)
			(void)weft_data_source(&b->tmp, &kp, m->private_key, "private key", &n);
		return -EINVAL;
	}
	EVP_DigestUpdate(p->sid_md, pem, n);
	r = read_chain(b, &cp, ctx, pem, n, ret_leaf);
	if (r == 0)
		r = check_key(b, &cp, *ret_leaf, &p->curves[p->n_ctxs - 1]);
	return r ? r : read_key(b, at, ctx, m);
}

static const char *path_of(const TLS(TlsCertificate) * m)
{
	const Envoy__Config__Core__V3__DataSource *d = m->pkcs12 ? m->pkcs12 : m->certificate_chain;

	return d->specifier_case == ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME
		       ? d->filename
		       : "<inline>";
}

int weft_tls_cert_one(struct weft_tls_build *b, const struct weft_path *at,
		      const TLS(TlsCertificate) * m)
{
	const struct weft_path cp = {at, m->pkcs12 ? "pkcs12" : "certificate_chain", -1};
	struct weft_tls_priv *p = b->p;
	SSL_CTX *ctx = p->n_ctxs == 1 && p->curves[0] < 0 ? p->ctxs[0] : ctx_new(p);
	X509 *leaf = NULL;
	int r;

	if (!ctx)
		return weft_cfg_fail(b->c, at, "no TLS context: %s", weft_tls_ssl_error());
	r = read_pair(b, at, ctx, m, &leaf);
	if (r == 0 && p->server)
		r = weft_tls_staple_load(b, at, m, leaf, p->n_ctxs - 1);
	if (r == 0)
		weft_tls_add_info(p, leaf, path_of(m), false);
	if (r == 0 && X509_cmp_current_time(X509_get0_notAfter(leaf)) < 0)
		weft_cfg_warn(b->c, &cp, "the certificate has expired");
	X509_free(leaf);
	return r;
}

/* curves[i] -1: a context that has no certificate yet. */
static SSL_CTX *ctx_new(struct weft_tls_priv *p)
{
	SSL_CTX *ctx = SSL_CTX_new(p->server ? TLS_server_method() : TLS_client_method());

	if (!ctx)
		return NULL;
	weft_tls_ctx_setup(ctx);
	SSL_CTX_set_security_level(ctx, 0); /* keys are looked at by check_key */
	p->curves[p->n_ctxs] = -1;
	p->ctxs[p->n_ctxs++] = ctx;
	return ctx;
}

/* ---- all of them */

void weft_tls_watch_warn(struct weft_tls_build *b, const struct weft_path *at,
			 const Envoy__Config__Core__V3__WatchedDirectory *m)
{
	const struct weft_path wp = {at, "watched_directory", -1};

	if (m)
		weft_cfg_warn(b->c, &wp,
			      "has no effect here: only in secrets that come by SDS (from a file, "
			      "too)");
}

static int from_secret(struct weft_tls_build *b, const struct weft_path *at,
		       const TLS(SdsSecretConfig) * s)
{
	const TLS(Secret) *x = weft_tls_secret(
		b, at, s,
		ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_TLS_CERTIFICATE);

	if (!x)
		return b->missing ? 0 : -EINVAL;
	return weft_tls_cert_one(b, at, x->tls_certificate);
}

void weft_tls_certs_room(struct weft_tls_priv *p, size_t n)
{
	p->ctxs = weft_arena_alloc(p->arena, (n + 1) * sizeof(*p->ctxs));
	p->curves = weft_arena_alloc(p->arena, (n + 1) * sizeof(*p->curves));
	p->staples = weft_arena_alloc(p->arena, (n + 1) * sizeof(*p->staples));
}

int weft_tls_certs(struct weft_tls_build *b, const struct weft_path *at,
		   const TLS(CommonTlsContext) * m)
{
	struct weft_tls_priv *p = b->p;
	size_t n = m->n_tls_certificates + m->n_tls_certificate_sds_secret_configs;
	int r = 0;

	if (n > WEFT_TLS_CERTS_MAX)
		return weft_cfg_fail(b->c, at, "must have at most %d certificates, has %zu",
				     WEFT_TLS_CERTS_MAX, n);
	if (m->n_tls_certificates && m->n_tls_certificate_sds_secret_configs)
		return weft_cfg_fail(b->c, at,
				     "has tls_certificates and tls_certificate_sds_secret_configs; "
				     "must have one of them");
	weft_tls_certs_room(p, n);
	if (!p->server && n > 1)
		return weft_cfg_fail(b->c, at, "a client has at most one certificate, has %zu", n);
	if (p->server && n == 0)
		return weft_cfg_fail(b->c, at, "a server needs a certificate, has none");
	if (!p->server && !ctx_new(p))
		return weft_cfg_fail(b->c, at, "no TLS context: %s", weft_tls_ssl_error());
	for (size_t i = 0; i < m->n_tls_certificates; i++) {
		const struct weft_path cp = {at, "tls_certificates", (int)i};

		weft_tls_watch_warn(b, &cp, m->tls_certificates[i]->watched_directory);
		r |= weft_tls_cert_one(b, &cp, m->tls_certificates[i]);
	}
	for (size_t i = 0; i < m->n_tls_certificate_sds_secret_configs; i++) {
		const struct weft_path cp = {at, "tls_certificate_sds_secret_configs", (int)i};

		r |= from_secret(b, &cp, m->tls_certificate_sds_secret_configs[i]);
	}
	return r ? -EINVAL : 0;
}
