#include "xds/tls_priv.h"

#include "proxy/net/io_tls.h"
#include <ctype.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

/* ---- in the handshake */

static bool pinned(const struct weft_tls_pin *v, size_t n, const uint8_t *digest)
{
	for (size_t i = 0; i < n; i++) {
		if (memcmp(v[i].sha256, digest, sizeof(v[i].sha256)) == 0)
			return true;
	}
	return false;
}

static bool pins_match(const struct weft_tls_priv *p, X509 *leaf)
{
	uint8_t d[SHA256_DIGEST_LENGTH];
	unsigned n = sizeof(d);
	unsigned char *der = NULL;
	int k;

	if (p->n_hashes > 0 && X509_digest(leaf, EVP_sha256(), d, &n) == 1 &&
	    pinned(p->hashes, p->n_hashes, d))
		return true;
	if (p->n_spkis == 0)
		return false;
	k = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf), &der);
	if (k <= 0)
		return false;
	SHA256(der, (size_t)k, d);
	OPENSSL_free(der);
	return pinned(p->spkis, p->n_spkis, d);
}

/* TLS 1.3 knows no other use of a key; before it enforce_rsa_key_usage says. */
static bool must_sign(const struct weft_tls_priv *p, const SSL *ssl, X509 *leaf)
{
	return SSL_version(ssl) >= TLS1_3_VERSION ||
	       (p->rsa_usage && EVP_PKEY_get_base_id(X509_get0_pubkey(leaf)) == EVP_PKEY_RSA);
}

/* What the leaf must be beyond its chain; NULL: nothing is wrong. */
static const char *leaf_fault(const struct weft_tls_priv *p, SSL *ssl, X509 *leaf, int *ret_err)
{
	const char *sni = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

	*ret_err = X509_V_ERR_HOSTNAME_MISMATCH;
	if (p->auto_sni_san && sni && *sni) {
		if (!weft_tls_san_is(leaf, sni))
			return "verify cert failed: verify SAN list";
	} else if (p->n_sans > 0 && !weft_tls_san_match(p->sans, p->n_sans, leaf)) {
		return "verify cert failed: SAN matcher";
	}
	*ret_err = X509_V_ERR_CERT_REJECTED;
	if ((p->n_hashes > 0 || p->n_spkis > 0) && !pins_match(p, leaf))
		return "verify cert failed: cert hash and spki";
	if (must_sign(p, ssl, leaf) && !(X509_get_key_usage(leaf) & KU_DIGITAL_SIGNATURE))
		return "verify cert failed: the key may not sign (key usage)";
	return NULL;
}

static enum weft_tls_fault fault_of(int err)
{
	return err == X509_V_ERR_HOSTNAME_MISMATCH ? WEFT_TLS_FAULT_SAN
	       : err == X509_V_ERR_CERT_REJECTED   ? WEFT_TLS_FAULT_HASH
						   : WEFT_TLS_FAULT_VERIFY;
}

static int refuse(const struct weft_tls_priv *p, SSL *ssl, X509_STORE_CTX *x, int err,
		  const char *why)
{
	X509_STORE_CTX_set_error(x, err);
	if (p->untrusted)
		return 1; /* passes, and counts as not verified */
	weft_tls_note(ssl, fault_of(err), why);
	return 0;
}

static int on_verify(X509_STORE_CTX *x, void *arg)
{
	const struct weft_tls_priv *p = arg;
	SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
	X509 *leaf = X509_STORE_CTX_get0_cert(x);
	const char *why;
	char text[256];
	int err;

	if (p->ca && X509_verify_cert(x) != 1) {
		err = X509_STORE_CTX_get_error(x);
		snprintf(text, sizeof(text),
			 "verify cert failed: X509_verify_cert: certificate verification error at "
			 "depth %d: %s",
			 X509_STORE_CTX_get_error_depth(x), X509_verify_cert_error_string(err));
		return refuse(p, ssl, x, err == X509_V_OK ? X509_V_ERR_UNSPECIFIED : err, text);
	}
	why = leaf_fault(p, ssl, leaf, &err);
	if (why)
		return refuse(p, ssl, x, err, why);
	/* neither a chain nor a pin was asked for: accepted, not verified */
	X509_STORE_CTX_set_error(x, p->ca || p->n_hashes || p->n_spkis ? X509_V_OK
								       : X509_V_ERR_CERT_UNTRUSTED);
	return 1;
}

void weft_tls_verify_apply(struct weft_tls_priv *p, SSL_CTX *ctx, bool require)
{
	int mode = SSL_VERIFY_NONE;

	if (p->verify || require)
		mode = SSL_VERIFY_PEER;
	if (p->server && require)
		mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	if (p->store)
		SSL_CTX_set1_cert_store(ctx, p->store);
	if (p->depth >= 0)
		SSL_CTX_set_verify_depth(ctx, p->depth);
	SSL_CTX_set_verify(ctx, mode, NULL);
	SSL_CTX_set_cert_verify_callback(ctx, on_verify, p);
	for (int i = 0; p->server && p->ca_names && i < sk_X509_NAME_num(p->ca_names); i++) {
		X509_NAME *n = X509_NAME_dup(sk_X509_NAME_value(p->ca_names, i));
		STACK_OF(X509_NAME) *have = SSL_CTX_get_client_CA_list(ctx);

		if (!have) {
			have = sk_X509_NAME_new_null();
			SSL_CTX_set_client_CA_list(ctx, have);
		}
		sk_X509_NAME_push(have, n);
	}
}

/* ---- from the messages. A combined context is two: singular fields of the second win, lists are
 * joined. */

struct two {
	const TLS(CertificateValidationContext) * m[2];
	struct weft_path at[2];
};

static int add_infos(struct weft_tls_build *b, STACK_OF(X509_INFO) * v, const char *path,
		     bool *ret_crl)
{
	int n = 0;

	for (int i = 0; i < sk_X509_INFO_num(v); i++) {
		const X509_INFO *in = sk_X509_INFO_value(v, i);

		if (in->x509) {
			X509_NAME *name = X509_get_subject_name(in->x509);

			X509_STORE_add_cert(b->p->store, in->x509);
			if (path)
				weft_tls_add_info(b->p, in->x509, path, true);
			sk_X509_NAME_push(b->p->ca_names, X509_NAME_dup(name));
			n++;
		}
		if (in->crl) {
			X509_STORE_add_crl(b->p->store, in->crl);
			*ret_crl = true;
		}
	}
	return n;
}

static int add_pem(struct weft_tls_build *b, const struct weft_path *at,
		   const Envoy__Config__Core__V3__DataSource *d, bool want_crl, bool *ret_crl)
{
	const char *what = want_crl ? "CRL" : "trusted CA", *pem;
	bool crl = false;
	STACK_OF(X509_INFO) * v;
	size_t n;
	BIO *in;
	int certs = 0;

	pem = weft_data_source(&b->tmp, at, d, what, &n);
	if (!pem)
		return -EINVAL;
	EVP_DigestUpdate(b->p->sid_md, pem, n);
	in = BIO_new_mem_buf(pem, (int)n);
	v = in ? PEM_X509_INFO_read_bio(in, NULL, NULL, NULL) : NULL;
	BIO_free(in);
	if (v)
		certs = add_infos(
			b, v,
			d->specifier_case ==
					ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME
				? d->filename
				: "<inline>",
			&crl);
	sk_X509_INFO_pop_free(v, X509_INFO_free);
	*ret_crl |= crl;
	if (!v || (want_crl ? !crl : certs == 0))
		return weft_cfg_fail(b->c, at, "must hold a %s in PEM, has none",
				     want_crl ? "CRL" : "CA certificate");
	return 0;
}

static int hex_value(char ch)
{
	return isdigit((unsigned char)ch)    ? ch - '0'
	       : isxdigit((unsigned char)ch) ? tolower((unsigned char)ch) - 'a' + 10
					     : -1;
}

static int hash_parse(struct weft_cfg *c, const struct weft_path *at, const char *s,
		      struct weft_tls_pin *ret)
{
	bool colons = strlen(s) == 95;
	const char *p = s;

	for (size_t i = 0; i < sizeof(ret->sha256); i++) {
		int hi = hex_value(p[0]), lo = hi < 0 ? -1 : hex_value(p[1]);

		if (hi < 0 || lo < 0 || (colons && i < 31 && p[2] != ':'))
			return weft_cfg_fail(c, at, "must be a SHA-256 in hex, is \"%s\"", s);
		ret->sha256[i] = (uint8_t)(hi << 4 | lo);
		p += colons && i < 31 ? 3 : 2;
	}
	if (*p)
		return weft_cfg_fail(c, at, "must be a SHA-256 in hex, is \"%s\"", s);
	return 0;
}

static int spki_parse(struct weft_cfg *c, const struct weft_path *at, const char *s,
		      struct weft_tls_pin *ret)
{
	unsigned char b[36];

	if (strlen(s) != 44 || s[43] != '=' ||
	    EVP_DecodeBlock(b, (const unsigned char *)s, 44) != 33)
		return weft_cfg_fail(c, at, "must be a SHA-256 in base64, is \"%s\"", s);
	memcpy(ret->sha256, b, sizeof(ret->sha256));
	return 0;
}

static int pins(struct weft_tls_build *b, const struct two *t)
{
	struct weft_tls_priv *p = b->p;
	size_t n = 0, k = 0;
	int r = 0;

	for (int i = 0; i < 2; i++) {
		n += t->m[i] ? t->m[i]->n_verify_certificate_hash : 0;
		k += t->m[i] ? t->m[i]->n_verify_certificate_spki : 0;
	}
	p->hashes = weft_arena_alloc(p->arena, (n + 1) * sizeof(*p->hashes));
	p->spkis = weft_arena_alloc(p->arena, (k + 1) * sizeof(*p->spkis));
	for (int i = 0; i < 2; i++) {
		for (size_t j = 0; t->m[i] && j < t->m[i]->n_verify_certificate_hash; j++) {
			const struct weft_path at = {&t->at[i], "verify_certificate_hash", (int)j};

			r |= hash_parse(b->c, &at, t->m[i]->verify_certificate_hash[j],
					&p->hashes[p->n_hashes++]);
		}
		for (size_t j = 0; t->m[i] && j < t->m[i]->n_verify_certificate_spki; j++) {
			const struct weft_path at = {&t->at[i], "verify_certificate_spki", (int)j};

			r |= spki_parse(b->c, &at, t->m[i]->verify_certificate_spki[j],
					&p->spkis[p->n_spkis++]);
		}
	}
	EVP_DigestUpdate(p->sid_md, p->hashes, p->n_hashes * sizeof(*p->hashes));
	EVP_DigestUpdate(p->sid_md, p->spkis, p->n_spkis * sizeof(*p->spkis));
	return r ? -EINVAL : 0;
}

static int san_type(struct weft_tls_build *b, const struct weft_path *at,
		    const TLS(SubjectAltNameMatcher) * m)
{
	switch (m->san_type) {
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SUBJECT_ALT_NAME_MATCHER__SAN_TYPE__EMAIL:
		return GEN_EMAIL;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SUBJECT_ALT_NAME_MATCHER__SAN_TYPE__DNS:
		return GEN_DNS;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SUBJECT_ALT_NAME_MATCHER__SAN_TYPE__URI:
		return GEN_URI;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SUBJECT_ALT_NAME_MATCHER__SAN_TYPE__IP_ADDRESS:
		return GEN_IPADD;
	default:
		return weft_cfg_fail(b->c, at,
				     "must be DNS, URI, EMAIL or IP_ADDRESS; other names are not "
				     "supported");
	}
}

static int sans(struct weft_tls_build *b, const struct two *t)
{
	struct weft_tls_priv *p = b->p;
	size_t n = 0;
	int r = 0;

	for (int i = 0; i < 2; i++)
		n += t->m[i] ? t->m[i]->n_match_typed_subject_alt_names +
				       t->m[i]->n_match_subject_alt_names
			     : 0;
	p->sans = weft_arena_alloc(p->arena, (n + 1) * sizeof(*p->sans));
	for (int i = 0; i < 2; i++) {
		const TLS(CertificateValidationContext) *m = t->m[i];

		for (size_t j = 0; m && j < m->n_match_typed_subject_alt_names; j++) {
			const TLS(SubjectAltNameMatcher) *s = m->match_typed_subject_alt_names[j];
			const struct weft_path at = {&t->at[i], "match_typed_subject_alt_names",
						     (int)j};
			const struct weft_path tp = {&at, "san_type", -1},
					       mp = {&at, "matcher", -1};
			int type = san_type(b, &tp, s);

			r |= type < 0 ? type
				      : weft_tls_san_prepare(b, &mp, type, s->matcher,
							     &p->sans[p->n_sans++]);
		}
		for (size_t j = 0; m && j < m->n_match_subject_alt_names; j++) {
			const struct weft_path at = {&t->at[i], "match_subject_alt_names", (int)j};

			r |= weft_tls_san_prepare(b, &at, -1, m->match_subject_alt_names[j],
						  &p->sans[p->n_sans++]);
		}
	}
	for (size_t i = 0; i < p->n_sans; i++) {
		EVP_DigestUpdate(p->sid_md, &p->sans[i].type, sizeof(p->sans[i].type));
		EVP_DigestUpdate(p->sid_md, p->sans[i].v ? p->sans[i].v : "", p->sans[i].n);
	}
	return r ? -EINVAL : 0;
}

/* A fixed name, so that a control plane may ask for it though it may name no files. */
static int system_roots(struct weft_tls_build *b, const struct weft_path *at, bool *crl)
{
	static char name[] = "/etc/ssl/certs/ca-certificates.crt";
	Envoy__Config__Core__V3__DataSource d = ENVOY__CONFIG__CORE__V3__DATA_SOURCE__INIT;
	const bool file = b->tmp.file;
	int r;

	d.specifier_case = ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME;
	d.filename = name;
	b->tmp.file = true;
	r = add_pem(b, at, &d, false, crl);
	b->tmp.file = file;
	return r;
}

static int chain(struct weft_tls_build *b, const struct two *t)
{
	struct weft_tls_priv *p = b->p;
	bool leaf_only = false, crl = false;
	int r = 0;

	for (int k = 1; k >= 0; k--) { /* the second's wins */
		const TLS(CertificateValidationContext) *m = t->m[k];
		const struct weft_path ca = {&t->at[k], "trusted_ca", -1};

		if (m && m->trusted_ca && !p->ca) {
			p->ca = true;
			r |= add_pem(b, &ca, m->trusted_ca, false, &crl);
		}
	}
	for (int k = 1; k >= 0; k--) {
		const struct weft_path at = {&t->at[k], "system_root_certs", -1};

		if (t->m[k] && t->m[k]->system_root_certs && !p->ca) {
			p->ca = true;
			r |= system_roots(b, &at, &crl);
		}
	}
	for (int k = 0; k < 2; k++) {
		const TLS(CertificateValidationContext) *m = t->m[k];
		const struct weft_path at = {&t->at[k], "crl", -1};

		if (!m)
			continue;
		if (m->crl)
			r |= add_pem(b, &at, m->crl, true, &crl);
		if (m->crl && !p->ca)
			r |= weft_cfg_fail(b->c, &at, "needs trusted_ca, which is not set");
		leaf_only |= m->only_verify_leaf_cert_crl;
		p->no_time |= m->allow_expired_certificate;
		p->untrusted |=
			m->trust_chain_verification ==
			ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__CERTIFICATE_VALIDATION_CONTEXT__TRUST_CHAIN_VERIFICATION__ACCEPT_UNTRUSTED;
		if (m->max_verify_depth) {
			/* with the trust anchor, which OpenSSL does not count */
			p->depth = (int)weft_cfg_u32(m->max_verify_depth, 0);
			p->depth -= p->depth > 0;
		}
	}
	if (crl)
		X509_STORE_set_flags(p->store, X509_V_FLAG_CRL_CHECK |
						       (leaf_only ? 0 : X509_V_FLAG_CRL_CHECK_ALL));
	X509_STORE_set_flags(p->store,
			     X509_V_FLAG_PARTIAL_CHAIN); /* an intermediate may be the CA */
	if (p->no_time)
		X509_STORE_set_flags(p->store, X509_V_FLAG_NO_CHECK_TIME);
	return r ? -EINVAL : 0;
}

static const TLS(CertificateValidationContext) * from_secret(struct weft_tls_build *b,
							     const struct weft_path *at,
							     const TLS(SdsSecretConfig) * s)
{
	const TLS(Secret) *x = weft_tls_secret(
		b, at, s,
		ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_VALIDATION_CONTEXT);

	return x ? x->validation_context : NULL;
}

static void gather(struct weft_tls_build *b, const struct weft_path *at,
		   const TLS(CommonTlsContext) * m, struct two *t, struct weft_path *combined)
{
	const TLS(CommonTlsContext__CombinedCertificateValidationContext) * two;

	switch (m->validation_context_type_case) {
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__VALIDATION_CONTEXT_TYPE_VALIDATION_CONTEXT:
		t->at[0] = (struct weft_path){at, "validation_context", -1};
		t->m[0] = m->validation_context;
		if (b->secrets) /* not where a secret is only looked at */
			weft_tls_watch_warn(b, &t->at[0], t->m[0]->watched_directory);
		break;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__VALIDATION_CONTEXT_TYPE_VALIDATION_CONTEXT_SDS_SECRET_CONFIG:
		t->at[0] = (struct weft_path){at, "validation_context_sds_secret_config", -1};
		t->m[0] = from_secret(b, &t->at[0], m->validation_context_sds_secret_config);
		break;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__VALIDATION_CONTEXT_TYPE_COMBINED_VALIDATION_CONTEXT:
		two = m->combined_validation_context;
		*combined = (struct weft_path){at, "combined_validation_context", -1};
		t->at[0] = (struct weft_path){combined, "default_validation_context", -1};
		t->at[1] = (struct weft_path){combined, "validation_context_sds_secret_config", -1};
		t->m[0] = two->default_validation_context;
		if (t->m[0])
			weft_tls_watch_warn(b, &t->at[0], t->m[0]->watched_directory);
		if (two->validation_context_sds_secret_config)
			t->m[1] = from_secret(b, &t->at[1],
					      two->validation_context_sds_secret_config);
		break;
	default:
		break;
	}
}

int weft_tls_validation(struct weft_tls_build *b, const struct weft_path *at,
			const TLS(CommonTlsContext) * m)
{
	struct weft_tls_priv *p = b->p;
	struct two t = {0};
	struct weft_path combined;
	int r;

	p->depth = -1;
	gather(b, at, m, &t, &combined);
	if (!t.m[0] && !t.m[1])
		return 0;
	p->store = X509_STORE_new();
	p->ca_names = sk_X509_NAME_new_null();
	r = chain(b, &t);
	r |= sans(b, &t);
	r |= pins(b, &t);
	p->verify = p->ca || p->n_hashes || p->n_spkis;
	if (!p->ca && p->n_sans > 0 && !b->missing)
		r |= weft_cfg_fail(b->c, &t.at[0],
				   "matching of subject alternative names needs trusted_ca, which "
				   "is not set");
	return r ? -EINVAL : 0;
}
