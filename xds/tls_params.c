#include "xds/tls_priv.h"

#include "proxy/net/io_tls.h"
#include <stdlib.h>
#include <string.h>

/* Envoy's defaults. BoringSSL's groups of equal preference become an order. */
#define CIPHERS                                                                                    \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"                             \
	"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"                                 \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
#define CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define CURVES	   "X25519:P-256"
/* what SP 800-52r2 leaves of BoringSSL's */
#define FIPS_CIPHERS                                                                               \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                               \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
#define FIPS_CIPHERS_13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#define FIPS_SIGNATURES                                                                            \
	"rsa_pkcs1_sha256:rsa_pkcs1_sha384:rsa_pkcs1_sha512:ecdsa_secp256r1_sha256:"               \
	"ecdsa_secp384r1_sha384:rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_rsae_sha512"

static int version(int v, int dflt)
{
	switch (v) {
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__TLS_PARAMETERS__TLS_PROTOCOL__TLSv1_0:
		return TLS1_VERSION;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__TLS_PARAMETERS__TLS_PROTOCOL__TLSv1_1:
		return TLS1_1_VERSION;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__TLS_PARAMETERS__TLS_PROTOCOL__TLSv1_2:
		return TLS1_2_VERSION;
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__TLS_PARAMETERS__TLS_PROTOCOL__TLSv1_3:
		return TLS1_3_VERSION;
	default:
		return dflt;
	}
}

static int versions(struct weft_tls_build *b, const struct weft_path *at,
		    const TLS(TlsParameters) * m)
{
	struct weft_tls_priv *p = b->p;
	int lo = version(m ? (int)m->tls_minimum_protocol_version : 0, TLS1_2_VERSION);
	int hi = version(m ? (int)m->tls_maximum_protocol_version : 0,
			 p->server ? TLS1_3_VERSION : TLS1_2_VERSION);

	/* a client told to speak 1.3 at least and nothing else */
	if (m && m->tls_minimum_protocol_version && !m->tls_maximum_protocol_version && lo > hi)
		hi = lo;
	if (lo > hi)
		return weft_cfg_fail(b->c, at,
				     "tls_minimum_protocol_version must not be above "
				     "tls_maximum_protocol_version");
	for (unsigned i = 0; i < p->n_ctxs; i++) {
		/* level 1: what BoringSSL takes; old versions need their old hashes */
		SSL_CTX_set_security_level(p->ctxs[i], lo < TLS1_2_VERSION ? 0 : 1);
		SSL_CTX_set_min_proto_version(p->ctxs[i], lo);
		SSL_CTX_set_max_proto_version(p->ctxs[i], hi);
	}
	return 0;
}

/* "[A|B]:C" → "A:B:C" */
static void add_cipher(char *dst, const char *s)
{
	size_t n = strlen(dst);

	if (n > 0)
		dst[n++] = ':';
	for (; *s; s++) {
		if (*s != '[' && *s != ']')
			dst[n++] = *s == '|' ? ':' : *s;
	}
	dst[n] = 0;
}

/* OpenSSL passes over names it does not know, unless there are no others. */
static int check_names(struct weft_tls_build *b, const struct weft_path *at, const char *list)
{
	char *copy = weft_arena_strdup(b->tmp.arena, list), *save = NULL;
	SSL_CTX *probe = b->p->ctxs[0];

	for (char *s = strtok_r(copy, ":", &save); s; s = strtok_r(NULL, ":", &save)) {
		if (strchr("!-+@", *s))
			continue;
		if (SSL_CTX_set_cipher_list(probe, s) != 1) {
			weft_tls_ssl_error();
			return weft_cfg_fail(b->c, at, "unknown cipher suite \"%s\"", s);
		}
	}
	return 0;
}

static int ciphers(struct weft_tls_build *b, const struct weft_path *at,
		   const TLS(TlsParameters) * m)
{
	const char *list = CIPHERS;
	size_t n = 1;
	char *own;
	int r = 0;

	for (size_t i = 0; m && i < m->n_cipher_suites; i++)
		n += strlen(m->cipher_suites[i]) + 1;
	own = weft_arena_alloc(b->tmp.arena, n);
	for (size_t i = 0; m && i < m->n_cipher_suites; i++) {
		const struct weft_path cp = {at, "cipher_suites", (int)i};
		char *clean = weft_arena_alloc(b->tmp.arena, strlen(m->cipher_suites[i]) + 2);

		add_cipher(clean, m->cipher_suites[i]);
		r |= check_names(b, &cp, clean);
		add_cipher(own, clean);
		list = own;
	}
	if (r)
		return -EINVAL;
	for (unsigned i = 0; i < b->p->n_ctxs; i++) {
		if (SSL_CTX_set_cipher_list(b->p->ctxs[i], list) != 1 ||
		    SSL_CTX_set_ciphersuites(b->p->ctxs[i], CIPHERS_13) != 1)
			return weft_cfg_fail(b->c, at, "cipher_suites: %s", weft_tls_ssl_error());
	}
	return 0;
}

static char *join(struct weft_tls_build *b, char *const *v, size_t n)
{
	size_t k = 1;
	char *s;

	for (size_t i = 0; i < n; i++)
		k += strlen(v[i]) + 1;
	s = weft_arena_alloc(b->tmp.arena, k);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			strcat(s, ":");
		strcat(s, v[i]);
	}
	return s;
}

static int curves(struct weft_tls_build *b, const struct weft_path *at,
		  const TLS(TlsParameters) * m)
{
	SSL_CTX *probe = b->p->ctxs[0];
	const char *list =
		m && m->n_ecdh_curves ? join(b, m->ecdh_curves, m->n_ecdh_curves) : CURVES;

	for (size_t i = 0; m && i < m->n_ecdh_curves; i++) {
		const struct weft_path cp = {at, "ecdh_curves", (int)i};

		if (SSL_CTX_set1_groups_list(probe, m->ecdh_curves[i]) != 1) {
			weft_tls_ssl_error();
			return weft_cfg_fail(b->c, &cp, "the curve \"%s\" is not supported",
					     m->ecdh_curves[i]);
		}
	}
	for (unsigned i = 0; i < b->p->n_ctxs; i++) {
		if (SSL_CTX_set1_groups_list(b->p->ctxs[i], list) != 1)
			return weft_cfg_fail(b->c, at, "ecdh_curves: %s", weft_tls_ssl_error());
	}
	return 0;
}

static int signatures(struct weft_tls_build *b, const struct weft_path *at,
		      const TLS(TlsParameters) * m)
{
	const char *list;

	if (!m || m->n_signature_algorithms == 0)
		return 0;
	for (size_t i = 0; i < m->n_signature_algorithms; i++) {
		const struct weft_path sp = {at, "signature_algorithms", (int)i};

		if (SSL_CTX_set1_sigalgs_list(b->p->ctxs[0], m->signature_algorithms[i]) != 1) {
			weft_tls_ssl_error();
			return weft_cfg_fail(b->c, &sp,
					     "the signature algorithm \"%s\" is not supported",
					     m->signature_algorithms[i]);
		}
	}
	list = join(b, m->signature_algorithms, m->n_signature_algorithms);
	for (unsigned i = 0; i < b->p->n_ctxs; i++) {
		if (SSL_CTX_set1_sigalgs_list(b->p->ctxs[i], list) != 1)
			return weft_cfg_fail(b->c, at, "signature_algorithms: %s",
					     weft_tls_ssl_error());
	}
	return 0;
}

/* FIPS_202205, the one there is: overrides what the other parameters say, as in Envoy. */
static int compliance(struct weft_tls_build *b, const struct weft_path *at,
		      const TLS(TlsParameters) * m)
{
	const struct weft_path cp = {at, "compliance_policies", 0};

	if (!m || m->n_compliance_policies == 0)
		return 0;
	if (m->compliance_policies[0] !=
	    ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__TLS_PARAMETERS__COMPLIANCE_POLICY__FIPS_202205)
		return weft_cfg_fail(b->c, &cp, "must be FIPS_202205");
	for (unsigned i = 0; i < b->p->n_ctxs; i++) {
		SSL_CTX *x = b->p->ctxs[i];

		if (SSL_CTX_set_min_proto_version(x, TLS1_2_VERSION) != 1 ||
		    SSL_CTX_set_max_proto_version(x, TLS1_3_VERSION) != 1 ||
		    SSL_CTX_set_cipher_list(x, FIPS_CIPHERS) != 1 ||
		    SSL_CTX_set_ciphersuites(x, FIPS_CIPHERS_13) != 1 ||
		    SSL_CTX_set1_groups_list(x, "P-256:P-384") != 1 ||
		    SSL_CTX_set1_sigalgs_list(x, FIPS_SIGNATURES) != 1)
			return weft_cfg_fail(b->c, &cp, "%s", weft_tls_ssl_error());
	}
	return 0;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n,
		   const unsigned char *in, unsigned n, void *arg)
{
	const struct weft_tls_priv *p = arg;
	size_t own_n;
	const uint8_t *own = weft_tls_session_alpn(ssl, &own_n);
	unsigned char *chosen;

	if (!own) {
		own = p->alpn;
		own_n = p->alpn_n;
	}
	if (own_n == 0 || SSL_select_next_proto(&chosen, out_n, own, (unsigned)own_n, in, n) !=
				  OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK; /* as Envoy: go on without */
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static int alpn(struct weft_tls_build *b, const struct weft_path *at,
		const TLS(CommonTlsContext) * m)
{
	struct weft_tls_priv *p = b->p;
	size_t n = 0;

	for (size_t i = 0; i < m->n_alpn_protocols; i++) {
		const struct weft_path ap = {at, "alpn_protocols", (int)i};
		size_t k = strlen(m->alpn_protocols[i]);

		if (k == 0 || k > 255)
			return weft_cfg_fail(b->c, &ap, "must be 1..255 bytes, is %zu", k);
		n += k + 1;
	}
	p->alpn = weft_arena_alloc(p->arena, n + 1);
	for (size_t i = 0; i < m->n_alpn_protocols; i++) {
		size_t k = strlen(m->alpn_protocols[i]);

		p->alpn[p->alpn_n++] = (uint8_t)k;
		memcpy(p->alpn + p->alpn_n, m->alpn_protocols[i], k);
		p->alpn_n += k;
	}
	for (unsigned i = 0; i < p->n_ctxs; i++) {
		if (p->server)
			SSL_CTX_set_alpn_select_cb(p->ctxs[i], on_alpn, p);
		else if (p->alpn_n > 0 &&
			 SSL_CTX_set_alpn_protos(p->ctxs[i], p->alpn, (unsigned)p->alpn_n) != 0)
			abort(); /* memory is out */
	}
	return 0;
}

int weft_tls_params(struct weft_tls_build *b, const struct weft_path *at,
		    const TLS(CommonTlsContext) * m)
{
	const struct weft_path tp = {at, "tls_params", -1};
	int r = 0;

	if (b->p->n_ctxs == 0)
		return 0;
	r |= versions(b, &tp, m->tls_params);
	r |= ciphers(b, &tp, m->tls_params);
	r |= curves(b, &tp, m->tls_params);
	r |= signatures(b, &tp, m->tls_params);
	if (r == 0)
		r = compliance(b, &tp, m->tls_params);
	r |= alpn(b, at, m);
	return r ? -EINVAL : 0;
}
