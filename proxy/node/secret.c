#include "proxy/core/arena.h"
#include "proxy/net/identity.h"
#include "proxy/net/tls.h"
#include "proxy/node/node_priv.h"
#include "xds/proto/secret.pb-c.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

enum { PEM_MAX = 1 << 20 };

struct entry {
	struct weft_secret *s;
	UT_hash_handle hh;
};
struct weft_secrets {
	atomic_uint refs;
	struct entry *by_id;
};

struct weft_secret *weft_secret_ref(struct weft_secret *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void weft_secret_unref(struct weft_secret *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	weft_tls_ctx_free(s->server);
	weft_tls_ctx_free(s->client);
	free(s->identity);
	free(s->trust_domain);
	free(s);
}

struct weft_secrets *weft_secrets_new(void)
{
	struct weft_secrets *t = weft_xcalloc(1, sizeof(*t));

	atomic_init(&t->refs, 1);
	return t;
}

struct weft_secrets *weft_secrets_ref(struct weft_secrets *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

void weft_secrets_unref(struct weft_secrets *t)
{
	struct entry *e, *next;

	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return;
	HASH_ITER (hh, t->by_id, e, next) {
		HASH_DEL(t->by_id, e);
		weft_secret_unref(e->s);
		free(e);
	}
	free(t);
}

static void table_add(struct weft_secrets *t, struct weft_secret *s)
{
	struct entry *e = weft_xcalloc(1, sizeof(*e));

	e->s = s;
	HASH_ADD_KEYPTR(hh, t->by_id, s->identity, strlen(s->identity), e);
}

struct weft_secrets *weft_secrets_without(const struct weft_secrets *prev, const char *identity)
{
	struct weft_secrets *t = weft_secrets_new();

	for (struct entry *e = prev->by_id; e; e = e->hh.next)
		if (strcmp(e->s->identity, identity) != 0)
			table_add(t, weft_secret_ref(e->s));
	return t;
}

struct weft_secrets *weft_secrets_with(const struct weft_secrets *prev, struct weft_secret *s)
{
	struct weft_secrets *t = weft_secrets_without(prev, s->identity);

	table_add(t, s);
	return t;
}

struct weft_secret *weft_secrets_find(const struct weft_secrets *t, const char *identity)
{
	struct entry *e;

	HASH_FIND_STR(t->by_id, identity, e);
	return e ? e->s : NULL;
}

void weft_secrets_each(const struct weft_secrets *t,
		       void (*fn)(void *ctx, const struct weft_secret *s), void *ctx)
{
	for (struct entry *e = t->by_id; e; e = e->hh.next)
		fn(ctx, e->s);
}

struct weft_secret *weft_secret_get(struct weft_wstate *ws, const char *identity)
{
	struct weft_secret *s = ws->secrets ? weft_secrets_find(ws->secrets, identity) : NULL;

	return s ? weft_secret_ref(s) : NULL;
}

/* Only what is in the message: a sealed proxy reads no file that a message names. */
static int source(const Envoy__Tls__DataSource *d, const char *field, const char **ret,
		  size_t *ret_n, struct weft_err *reterr)
{
	struct weft_path at = {.field = field, .idx = -1};

	switch (d ? d->specifier_case : ENVOY__TLS__DATA_SOURCE__SPECIFIER__NOT_SET) {
	case ENVOY__TLS__DATA_SOURCE__SPECIFIER_INLINE_BYTES:
		*ret = (const char *)d->inline_bytes.data;
		*ret_n = d->inline_bytes.len;
		break;
	case ENVOY__TLS__DATA_SOURCE__SPECIFIER_INLINE_STRING:
		*ret = d->inline_string;
		*ret_n = strlen(d->inline_string);
		break;
	case ENVOY__TLS__DATA_SOURCE__SPECIFIER_FILENAME:
		return weft_fail(reterr, &at, EINVAL,
				 "must be inline: files are not read by the proxy");
	default:
		return weft_fail(reterr, &at, EINVAL, "is missing");
	}
	if (!*ret_n || *ret_n > PEM_MAX)
		return weft_fail(reterr, &at, EINVAL, "must have 1..%d bytes, has %zu", PEM_MAX,
				 *ret_n);
	if (memchr(*ret, 0, *ret_n))
		return weft_fail(reterr, &at, EINVAL, "has a NUL byte");
	return 0;
}

static int sources(const Envoy__Tls__Secret *m, struct weft_tls_pem *pem, struct weft_err *reterr)
{
	const Envoy__Tls__TlsCertificate *c = m->tls_certificate;
	const Envoy__Tls__CertificateValidationContext *v = m->validation_context;
	int err;

	if (!c || !v)
		return weft_fail(reterr, NULL, EINVAL, "%s is missing",
				 c ? "validation_context" : "tls_certificate");
	err = source(c->certificate_chain, "tls_certificate.certificate_chain", &pem->chain,
		     &pem->chain_n, reterr);
	if (!err)
		err = source(c->private_key, "tls_certificate.private_key", &pem->key, &pem->key_n,
			     reterr);
	if (!err)
		err = source(v->trusted_ca, "validation_context.trusted_ca", &pem->roots,
			     &pem->roots_n, reterr);
	if (!err && v->crl)
		err = source(v->crl, "validation_context.crl", &pem->crl, &pem->crl_n, reterr);
	return err;
}

/* A certificate of someone else would make peers see the wrong workload. */
static int check_leaf(const struct ssl_ctx_st *ctx, const char *name, struct weft_err *reterr)
{
	const X509 *leaf = SSL_CTX_get0_certificate(ctx);

	if (!leaf || weft_identity_match(leaf, &name, 1) < 0)
		return weft_fail(reterr, NULL, EINVAL,
				 "tls_certificate: must have the URI SAN %.150s, has not", name);
	return 0;
}

int weft_secret_make(const char *name, const Envoy__Tls__Secret *m, struct weft_secret **ret,
		     struct weft_err *reterr)
{
	static uint64_t serial;
	struct weft_tls_pem pem = {0};
	struct weft_identity id;
	struct weft_secret *s;
	int err;

	if (weft_identity_parse(name, strlen(name), &id))
		return weft_fail(reterr, NULL, EINVAL, "name \"%.200s\": is not a SPIFFE id", name);
	if (m->name && strcmp(m->name, name) != 0)
		return weft_fail(reterr, NULL, EINVAL,
				 "name: is \"%.100s\", the resource is \"%.100s\"", m->name, name);
	err = sources(m, &pem, reterr);
	if (err)
		return err;
	s = weft_xcalloc(1, sizeof(*s));
	atomic_init(&s->refs, 1);
	s->identity = weft_xstrdup(name);
	s->trust_domain = weft_xstrdup(id.trust_domain);
	s->serial = ++serial;
	s->server = weft_tls_ctx_new(true, &pem, &s->not_after, reterr);
	if (s->server)
		s->client = weft_tls_ctx_new(false, &pem, NULL, reterr);
	err = s->client ? check_leaf(s->client, name, reterr) : -EINVAL;
	if (err) {
		weft_secret_unref(s);
		return err;
	}
	*ret = s;
	return 0;
}
