#include "proxy/net/io_tls_priv.h"
#include "proxy/net/tls_more.h"

#include "proxy/core/arena.h"
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { CHAIN_MAX = 16 };

static atomic_bool wanted;

void weft_tls_more_want(void)
{
	atomic_store_explicit(&wanted, true, memory_order_relaxed);
}

bool weft_tls_more_wanted(void)
{
	return atomic_load_explicit(&wanted, memory_order_relaxed);
}

void weft_tls_more_ref(const struct weft_tls_more *m)
{
	((struct weft_tls_more *)m)->refs++;
}

void weft_tls_more_unref(void *arg)
{
	struct weft_tls_more *m = arg;

	if (--m->refs == 0)
		weft_arena_free(m->arena);
}

static const char *digest(const X509 *x, const EVP_MD *md, struct weft_arena *a)
{
	uint8_t d[EVP_MAX_MD_SIZE];
	unsigned n = sizeof(d);

	return X509_digest(x, md, d, &n) == 1 ? weft_hex_text(d, n, a) : "";
}

/* All that the peer sent, leaf first. */
static int chain_of(struct weft_tls_sess *t, X509 *leaf, X509 *v[CHAIN_MAX])
{
	STACK_OF(X509) *rest = SSL_get_peer_cert_chain(t->ssl);
	int n = 0;

	v[n++] = leaf;
	/* a client has the leaf in its chain, too */
	for (int i = t->server ? 0 : 1; i < sk_X509_num(rest) && n < CHAIN_MAX; i++)
		v[n++] = sk_X509_value(rest, i);
	return n;
}

static void fill_chain(struct weft_tls_sess *t, X509 *leaf, struct weft_tls_more *m)
{
	size_t bytes = (CHAIN_MAX + 1) * sizeof(char *);
	const char **sha1 = weft_arena_alloc(m->arena, bytes),
		   **sha256 = weft_arena_alloc(m->arena, bytes),
		   **serial = weft_arena_alloc(m->arena, bytes);
	X509 *v[CHAIN_MAX];
	int n = chain_of(t, leaf, v);

	for (int i = 0; i < n; i++) {
		sha1[i] = digest(v[i], EVP_sha1(), m->arena);
		sha256[i] = digest(v[i], EVP_sha256(), m->arena);
		serial[i] = weft_cert_serial(v[i], m->arena);
	}
	m->peer_sha1 = sha1[0];
	m->chain_sha1 = sha1;
	m->chain_sha256 = sha256;
	m->chain_serial = serial;
}

/* A TLS 1.3 server has no session of its own making to name, in Envoy neither. */
static void fill_id(struct weft_tls_sess *t, struct weft_tls_more *m)
{
	const SSL_SESSION *s = SSL_get_session(t->ssl);
	const unsigned char *id;
	char text[2 * SSL_MAX_SSL_SESSION_ID_LENGTH + 1] = "";
	unsigned n = 0;

	if (!s || (t->server && SSL_version(t->ssl) >= TLS1_3_VERSION))
		return;
	id = SSL_SESSION_get_id(s, &n);
	for (unsigned i = 0; i < n && i < SSL_MAX_SSL_SESSION_ID_LENGTH; i++)
		snprintf(text + 2 * i, 3, "%02x", id[i]);
	if (strcmp(m->session_id, text) != 0)
		m->session_id = weft_arena_strdup(m->arena, text);
}

const struct weft_tls_more *weft_tls_more_of(struct weft_tls_sess *t)
{
	static const char *const none[] = {NULL};
	struct weft_arena *a = weft_arena_new(2048);
	struct weft_tls_more *m = weft_arena_alloc(a, sizeof(*m));
	X509 *peer = SSL_get0_peer_certificate(t->ssl), *own = SSL_get_certificate(t->ssl);

	m->refs = 1;
	m->arena = a;
	m->session_id = m->peer_pem = m->peer_sha1 = "";
	m->chain_sha1 = m->chain_sha256 = m->chain_serial = m->peer_other = none;
	m->local_email = m->local_ip = m->local_other = none;
	if (peer) {
		fill_chain(t, peer, m);
		m->peer_pem = weft_arena_strdup(a, weft_tls_sess_pem(t));
		m->peer_other = weft_cert_sans(peer, WEFT_SAN_OTHER, a);
	}
	if (own) {
		m->local_email = weft_cert_sans(own, WEFT_SAN_EMAIL, a);
		m->local_ip = weft_cert_sans(own, WEFT_SAN_IP, a);
		m->local_other = weft_cert_sans(own, WEFT_SAN_OTHER, a);
	}
	fill_id(t, m);
	weft_arena_cleanup(weft_io_arena(t->io), weft_tls_more_unref, m);
	return m;
}

void weft_tls_more_renew(struct weft_io *io)
{
	struct weft_tls_sess *t = io->sock ? weft_sock_of(io)->tls : NULL;

	if (t && t->info && t->info->more)
		fill_id(t, (struct weft_tls_more *)t->info->more);
}
