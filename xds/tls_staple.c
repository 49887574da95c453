#include "xds/tls_priv.h"

#include "proxy/net/io_tls.h"
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

/* OCSP responses that servers staple. As Envoy: the response is trusted (the client checks its
 * signature), it must be of one certificate and of ours, and it is shown until its nextUpdate. */

enum { STATUS_REQUEST = 5 }; /* in the TLS feature extension, RFC 7633 */

#define POLICY(x)                                                                                  \
	ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__DOWNSTREAM_TLS_CONTEXT__OCSP_STAPLE_POLICY__##x

static int64_t unix_of(const ASN1_GENERALIZEDTIME *t)
{
	struct tm tm;

	return t && ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static bool must_staple(const X509 *leaf)
{
	TLS_FEATURE *v = X509_get_ext_d2i(leaf, NID_tlsfeature, NULL, NULL);
	bool found = false;

	for (int i = 0; i < sk_ASN1_INTEGER_num(v); i++)
		found |= ASN1_INTEGER_get(sk_ASN1_INTEGER_value(v, i)) == STATUS_REQUEST;
	TLS_FEATURE_free(v);
	return found;
}

/* The one answer in it; NULL: *ret_why is what is wrong. */
static OCSP_SINGLERESP *only_answer(OCSP_RESPONSE *r, OCSP_BASICRESP **ret_basic,
				    const char **ret_why)
{
	if (OCSP_response_status(r) != OCSP_RESPONSE_STATUS_SUCCESSFUL) {
		*ret_why = "the OCSP response was unsuccessful";
		return NULL;
	}
	*ret_basic = OCSP_response_get1_basic(r);
	if (!*ret_basic) {
		*ret_why = "the OCSP response has no basic response";
		return NULL;
	}
	if (OCSP_resp_count(*ret_basic) != 1) {
		*ret_why = "the OCSP response must be for one certificate only";
		return NULL;
	}
	return OCSP_resp_get0(*ret_basic, 0);
}

static const char *read_answer(OCSP_RESPONSE *r, const X509 *leaf, struct weft_tls_staple *s)
{
	const char *why = NULL;
	OCSP_BASICRESP *basic = NULL;
	OCSP_SINGLERESP *one = only_answer(r, &basic, &why);
	ASN1_GENERALIZEDTIME *next = NULL;
	ASN1_INTEGER *serial = NULL;

	if (one) {
		/* the status is the client's to judge */
		OCSP_single_get0_status(one, NULL, NULL, NULL, &next);
		OCSP_id_get0_info(NULL, NULL, NULL, &serial,
				  (OCSP_CERTID *)OCSP_SINGLERESP_get0_id(one));
		s->next_update = unix_of(next);
		if (!serial || ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(leaf)) != 0)
			why = "the OCSP response does not match its certificate";
	}
	OCSP_BASICRESP_free(basic);
	return why;
}

int weft_tls_staple_load(struct weft_tls_build *b, const struct weft_path *at,
			 const TLS(TlsCertificate) * m, const X509 *leaf, unsigned cert)
{
	const struct weft_path sp = {at, "ocsp_staple", -1};
	const Envoy__Config__Core__V3__DataSource *d = m->ocsp_staple;
	struct weft_tls_staple *s = &b->p->staples[cert];
	const unsigned char *p;
	OCSP_RESPONSE *r;
	const char *der, *why;
	size_t n;

	s->must = must_staple(leaf);
	if (!d)
		return 0;
	if (d->specifier_case == ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_STRING)
		return weft_cfg_fail(b->c, &sp, "must not be an inline_string: it is DER");
	der = weft_data_source(&b->tmp, &sp, d, "OCSP staple", &n);
	if (!der)
		return -EINVAL;
	if (n == 0)
		return 0;
	p = (const unsigned char *)der;
	r = d2i_OCSP_RESPONSE(NULL, &p, (long)n);
	if (!r || p != (const unsigned char *)der + n) {
		OCSP_RESPONSE_free(r);
		weft_tls_ssl_error();
		return weft_cfg_fail(b->c, &sp, "must be one OCSP response in DER");
	}
	why = read_answer(r, leaf, s);
	OCSP_RESPONSE_free(r);
	if (why)
		return weft_cfg_fail(b->c, &sp, "%s", why);
	s->der = weft_arena_alloc(b->p->arena, n);
	memcpy(s->der, der, n);
	s->n = n;
	if (s->next_update < (int64_t)time(NULL))
		weft_cfg_warn(b->c, &sp, "the OCSP response has expired");
	return 0;
}

int weft_tls_staple_policy(struct weft_tls_build *b, const struct weft_path *at, int policy)
{
	struct weft_tls_priv *p = b->p;

	p->staple_policy = policy;
	for (unsigned i = 0; i < p->n_ctxs && !b->missing; i++) {
		if (p->staples[i].n > 0)
			continue;
		if (p->staples[i].must)
			return weft_cfg_fail(b->c, at,
					     "certificate %u is a must-staple one and has no "
					     "ocsp_staple",
					     i);
		if (policy == POLICY(MUST_STAPLE))
			return weft_cfg_fail(b->c, at,
					     "is MUST_STAPLE, and certificate %u has no "
					     "ocsp_staple",
					     i);
	}
	return 0;
}

/* ---- in the handshake */

bool weft_tls_staple_asked(SSL *ssl)
{
	const unsigned char *p;
	size_t n;

	return SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_status_request, &p, &n) == 1 && n > 0 &&
	       p[0] == TLSEXT_STATUSTYPE_ocsp;
}

enum weft_tls_staple_do weft_tls_staple_do(const struct weft_tls_priv *p, unsigned cert, bool asked)
{
	const struct weft_tls_staple *s = &p->staples[cert];
	int policy = s->must ? (int)POLICY(MUST_STAPLE) : p->staple_policy;

	if (!asked)
		return WEFT_STAPLE_UNASKED;
	if (s->n > 0 && s->next_update >= (int64_t)time(NULL))
		return WEFT_STAPLE_DONE;
	if (policy == POLICY(MUST_STAPLE) || (policy == POLICY(STRICT_STAPLING) && s->n > 0))
		return WEFT_STAPLE_FAILED;
	return WEFT_STAPLE_OMITTED;
}

static int on_status(SSL *ssl, void *arg)
{
	const struct weft_tls_staple *s = arg;
	uint8_t *copy;

	if (s->next_update < (int64_t)time(NULL))
		return SSL_TLSEXT_ERR_NOACK;
	copy = OPENSSL_memdup(s->der, s->n);
	if (!copy || SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)s->n) != 1) {
		OPENSSL_free(copy);
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	return SSL_TLSEXT_ERR_OK;
}

bool weft_tls_staple_apply(struct weft_tls_priv *p)
{
	bool any = false;

	for (unsigned i = 0; i < p->n_ctxs; i++) {
		any |= p->staples[i].must || p->staples[i].n > 0;
		if (p->staples[i].n == 0)
			continue;
		SSL_CTX_set_tlsext_status_cb(p->ctxs[i], on_status);
		SSL_CTX_set_tlsext_status_arg(p->ctxs[i], &p->staples[i]);
	}
	return any;
}
