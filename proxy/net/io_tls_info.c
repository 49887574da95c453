#include "proxy/net/io_tls_priv.h"
#include "proxy/net/tls_more.h"

#include "proxy/core/arena.h"
#include <ctype.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SANS_MAX = 256, OID_TEXT = 256 };

static const char *const none[] = {NULL};

const char *weft_hex_text(const uint8_t *p, size_t n, struct weft_arena *a)
{
	static const char digits[] = "0123456789abcdef";
	char *s = weft_arena_alloc(a, 2 * n + 1);

	for (size_t i = 0; i < n; i++) {
		s[2 * i] = digits[p[i] >> 4];
		s[2 * i + 1] = digits[p[i] & 15];
	}
	return s;
}

static const char *bio_text(BIO *b, struct weft_arena *a)
{
	char *p = NULL;
	long n = BIO_get_mem_data(b, &p);

	return weft_arena_strndup(a, p, n > 0 ? (size_t)n : 0);
}

static const char *name_text(const X509_NAME *n, struct weft_arena *a)
{
	BIO *b = BIO_new(BIO_s_mem());
	const char *s = "";

	if (b && n && X509_NAME_print_ex(b, n, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) >= 0)
		s = bio_text(b, a);
	BIO_free(b);
	return s;
}

const char *weft_cert_subject(const struct x509_st *cert, struct weft_arena *a)
{
	return name_text(X509_get_subject_name(cert), a);
}

const char *weft_cert_issuer(const struct x509_st *cert, struct weft_arena *a)
{
	return name_text(X509_get_issuer_name(cert), a);
}

const char *weft_cert_serial(const struct x509_st *cert, struct weft_arena *a)
{
	const ASN1_INTEGER *s = X509_get0_serialNumber(cert);

	return weft_hex_text(ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s), a);
}

static int64_t unix_time(const ASN1_TIME *t)
{
	struct tm tm;

	return t && ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

int64_t weft_cert_not_before(const struct x509_st *cert)
{
	return unix_time(X509_get0_notBefore(cert));
}

int64_t weft_cert_not_after(const struct x509_st *cert)
{
	return unix_time(X509_get0_notAfter(cert));
}

/* ---- subject alternative names */

/* The value of an otherName as Envoy writes it, whatever its type is. */
static const char *other_text(const ASN1_TYPE *v, struct weft_arena *a)
{
	const ASN1_STRING *s = NULL;
	unsigned char *utf8 = NULL;
	const char *text = NULL;
	char oid[OID_TEXT];
	int n;

	switch (v ? v->type : V_ASN1_NULL) {
	case V_ASN1_NULL:
		return "";
	case V_ASN1_BOOLEAN:
		return v->value.boolean ? "true" : "false";
	case V_ASN1_ENUMERATED:
	case V_ASN1_INTEGER: {
		BIGNUM *bn = v->type == V_ASN1_INTEGER
				     ? ASN1_INTEGER_to_BN(v->value.integer, NULL)
				     : ASN1_ENUMERATED_to_BN(v->value.enumerated, NULL);
		char *dec = bn ? BN_bn2dec(bn) : NULL;

		text = dec ? weft_arena_strdup(a, dec) : NULL;
		OPENSSL_free(dec);
		BN_free(bn);
		return text;
	}
	case V_ASN1_OBJECT:
		n = OBJ_obj2txt(oid, sizeof(oid), v->value.object, 1);
		return n > 0 && n < OID_TEXT ? weft_arena_strdup(a, oid) : NULL;
	case V_ASN1_BMPSTRING:
	case V_ASN1_UNIVERSALSTRING:
		n = ASN1_STRING_to_UTF8(&utf8, v->value.asn1_string);
		if (n > 0 && !memchr(utf8, 0, (size_t)n))
			text = weft_arena_strndup(a, (const char *)utf8, (size_t)n);
		OPENSSL_free(utf8);
		return text;
	case V_ASN1_BIT_STRING:
	case V_ASN1_OCTET_STRING:
	case V_ASN1_PRINTABLESTRING:
	case V_ASN1_T61STRING:
	case V_ASN1_IA5STRING:
	case V_ASN1_GENERALSTRING:
	case V_ASN1_UTF8STRING:
	case V_ASN1_VISIBLESTRING:
	case V_ASN1_NUMERICSTRING:
	case V_ASN1_UTCTIME:
	case V_ASN1_GENERALIZEDTIME:
		s = v->value.asn1_string;
		break;
	default:
		return NULL;
	}
	n = ASN1_STRING_length(s);
	if (n <= 0 || memchr(ASN1_STRING_get0_data(s), 0, (size_t)n))
		return NULL;
	return weft_arena_strndup(a, (const char *)ASN1_STRING_get0_data(s), (size_t)n);
}

static const char *san_text(const GENERAL_NAME *g, enum weft_san which, struct weft_arena *a)
{
	static const int types[] = {GEN_URI, GEN_DNS, GEN_EMAIL, GEN_IPADD, GEN_OTHERNAME};
	const ASN1_STRING *s;
	size_t n;

	if (g->type != types[which])
		return NULL;
	if (which == WEFT_SAN_OTHER)
		return other_text(g->d.otherName->value, a);
	s = which == WEFT_SAN_IP ? g->d.iPAddress : g->d.ia5;
	n = (size_t)ASN1_STRING_length(s);
	if (which == WEFT_SAN_IP) {
		char text[WEFT_IP_TEXT];
		struct weft_ip ip;

		if (weft_ip_from_bytes(ASN1_STRING_get0_data(s), n, &ip) < 0)
			return NULL;
		return weft_arena_strdup(a, weft_ip_text(&ip, text, sizeof(text)));
	}
	if (n == 0 || memchr(ASN1_STRING_get0_data(s), 0, n)) /* a NUL would cut a name short */
		return NULL;
	return weft_arena_strndup(a, (const char *)ASN1_STRING_get0_data(s), n);
}

static const char *const *pick(GENERAL_NAMES *names, enum weft_san which, struct weft_arena *a)
{
	int n = names ? sk_GENERAL_NAME_num(names) : 0, k = 0;
	const char **v;

	if (n == 0)
		return none;
	n = n < SANS_MAX ? n : SANS_MAX;
	v = weft_arena_alloc(a, ((size_t)n + 1) * sizeof(*v));
	for (int i = 0; i < n; i++) {
		v[k] = san_text(sk_GENERAL_NAME_value(names, i), which, a);
		k += v[k] != NULL;
	}
	return v;
}

const char *const *weft_cert_sans(const struct x509_st *cert, enum weft_san which,
				  struct weft_arena *a)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	const char *const *v = pick(names, which, a);

	GENERAL_NAMES_free(names);
	return v;
}

bool weft_tls_ids_match(const struct x509_st *leaf, char *const *ids)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	bool ok = false;

	for (int i = 0; !ok && names && i < sk_GENERAL_NAME_num(names) && i < SANS_MAX; i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		const ASN1_STRING *u = g->d.ia5;

		for (char *const *id = ids; g->type == GEN_URI && !ok && *id; id++)
			ok = strlen(*id) == (size_t)ASN1_STRING_length(u) &&
			     memcmp(*id, ASN1_STRING_get0_data(u), strlen(*id)) == 0;
	}
	GENERAL_NAMES_free(names);
	return ok;
}

/* ---- of a session */

static void fill_peer(struct weft_tls_sess *t, struct weft_tls_info *i, X509 *x,
		      struct weft_arena *a)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	uint8_t digest[SHA256_DIGEST_LENGTH];
	unsigned n = sizeof(digest);

	i->peer_presented = true;
	i->peer_verified = SSL_get_verify_result(t->ssl) == X509_V_OK &&
			   SSL_get_verify_mode(t->ssl) != SSL_VERIFY_NONE;
	i->peer_subject = weft_cert_subject(x, a);
	i->peer_issuer = weft_cert_issuer(x, a);
	i->peer_serial = weft_cert_serial(x, a);
	if (X509_digest(x, EVP_sha256(), digest, &n) == 1)
		i->peer_sha256 = weft_hex_text(digest, n, a);
	i->peer_uri = pick(names, WEFT_SAN_URI, a);
	i->peer_dns = pick(names, WEFT_SAN_DNS, a);
	i->peer_email = pick(names, WEFT_SAN_EMAIL, a);
	i->peer_ip = pick(names, WEFT_SAN_IP, a);
	i->peer_not_before = weft_cert_not_before(x);
	i->peer_not_after = weft_cert_not_after(x);
	GENERAL_NAMES_free(names);
}

/* ---- our own certificate's names, kept with it */
struct own {
	struct weft_arena *a;
	const char *subject;
	const char *const *uri, *const *dns;
};

static int own_index = -1;
static pthread_once_t own_once = PTHREAD_ONCE_INIT;

static void own_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	struct own *o = ptr;

	if (o)
		weft_arena_free(o->a);
}

static void own_init(void)
{
	own_index = X509_get_ex_new_index(0, NULL, NULL, NULL, own_free);
	if (own_index < 0)
		abort();
}

static const struct own *own_read(const X509 *x, struct weft_arena *a)
{
	struct own *o = weft_arena_alloc(a, sizeof(*o));

	o->a = a;
	o->subject = weft_cert_subject(x, a);
	o->uri = weft_cert_sans(x, WEFT_SAN_URI, a);
	o->dns = weft_cert_sans(x, WEFT_SAN_DNS, a);
	return o;
}

void weft_cert_own(X509 *x)
{
	struct weft_arena *a;

	pthread_once(&own_once, own_init);
	if (X509_get_ex_data(x, own_index))
		return;
	a = weft_arena_new(512);
	if (X509_set_ex_data(x, own_index, (void *)own_read(x, a)) != 1)
		abort();
}

static void fill_own(struct weft_tls_info *i, const X509 *x, struct weft_arena *a)
{
	const struct own *o;

	pthread_once(&own_once, own_init);
	o = X509_get_ex_data(x, own_index);
	if (!o) /* of a context that others made */
		o = own_read(x, a);
	i->local_subject = o->subject;
	i->local_uri = o->uri;
	i->local_dns = o->dns;
}

const struct weft_tls_info *weft_tls_sess_info(struct weft_tls_sess *t)
{
	struct weft_arena *a;
	struct weft_tls_info *i;
	X509 *peer, *own;

	if (t->info || !t->done)
		return t->info;
	a = weft_io_arena(t->io);
	i = weft_arena_alloc(a, sizeof(*i));
	i->version = SSL_get_version(t->ssl);
	i->cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(t->ssl));
	i->peer_subject = i->peer_issuer = i->peer_serial = i->peer_sha256 = i->local_subject =
		i->peer_pem = "";
	i->peer_uri = i->peer_dns = i->peer_email = i->peer_ip = i->local_uri = i->local_dns = none;
	i->resumed = SSL_session_reused(t->ssl) == 1;
	peer = SSL_get0_peer_certificate(t->ssl);
	if (peer)
		fill_peer(t, i, peer, a);
	own = SSL_get_certificate(t->ssl);
	if (own)
		fill_own(i, own, a);
	t->info = i;
	if (weft_tls_more_wanted())
		i->more = weft_tls_more_of(t);
	return i;
}

const char *weft_tls_sess_alpn(struct weft_tls_sess *t)
{
	const unsigned char *p = NULL;
	unsigned n = 0;

	SSL_get0_alpn_selected(t->ssl, &p, &n);
	if (n == 0)
		return "";
	if (n == 2 && memcmp(p, "h2", 2) == 0)
		return "h2";
	if (n == 8 && memcmp(p, "http/1.1", 8) == 0)
		return "http/1.1";
	return weft_arena_strndup(weft_io_arena(t->io), (const char *)p, n);
}

const char *weft_tls_sess_sni(struct weft_tls_sess *t)
{
	const char *s = SSL_get_servername(t->ssl, TLSEXT_NAMETYPE_host_name);

	return s && *s ? weft_arena_strdup(weft_io_arena(t->io), s) : "";
}

/* As Envoy does for XFCC: all but what a URI's query may hold is %XX. */
static const char *url_encode(const char *p, size_t n, struct weft_arena *a)
{
	static const char digits[] = "0123456789ABCDEF";
	char *s = weft_arena_alloc(a, 3 * n + 1), *q = s;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (isalnum(c) || c == '-' || c == '_' || c == '.' || c == '~') {
			*q++ = (char)c;
		} else {
			*q++ = '%';
			*q++ = digits[c >> 4];
			*q++ = digits[c & 15];
		}
	}
	return s;
}

/* URL-encoded PEM of the peer's leaf, and of all that it sent; "": there is none. */
static const char *pem_text(struct weft_tls_sess *t, bool chain)
{
	X509 *leaf = t->done ? SSL_get0_peer_certificate(t->ssl) : NULL;
	STACK_OF(X509) *rest = leaf && chain ? SSL_get_peer_cert_chain(t->ssl) : NULL;
	const char *text = "";
	char *p = NULL;
	bool ok;
	BIO *b;
	long n;

	if (!leaf)
		return "";
	b = BIO_new(BIO_s_mem());
	ok = b && PEM_write_bio_X509(b, leaf) == 1;
	/* a client has the leaf in its chain, too */
	for (int i = t->server ? 0 : 1; ok && i < sk_X509_num(rest); i++)
		ok = PEM_write_bio_X509(b, sk_X509_value(rest, i)) == 1;
	n = ok ? BIO_get_mem_data(b, &p) : 0;
	if (n > 0)
		text = url_encode(p, (size_t)n, weft_io_arena(t->io));
	BIO_free(b);
	return text;
}

const char *weft_tls_sess_chain_pem(struct weft_tls_sess *t)
{
	if (!t->done)
		return "";
	if (!t->chain_pem)
		t->chain_pem = pem_text(t, true);
	return t->chain_pem;
}

const char *weft_tls_sess_pem(struct weft_tls_sess *t)
{
	if (!weft_tls_sess_info(t))
		return "";
	if (!t->info->peer_pem[0])
		t->info->peer_pem = pem_text(t, false);
	return t->info->peer_pem;
}

uint8_t *weft_tls_alpn_wire(const char *const *v, size_t *ret_n)
{
	size_t n = 0, at = 0;
	uint8_t *w;

	for (const char *const *p = v; *p; p++)
		n += strlen(*p) + 1;
	w = weft_xcalloc(1, n ? n : 1);
	for (const char *const *p = v; *p; p++) {
		size_t k = strlen(*p);

		if (k == 0 || k > 255)
			continue;
		w[at++] = (uint8_t)k;
		memcpy(w + at, *p, k);
		at += k;
	}
	*ret_n = at;
	return w;
}
