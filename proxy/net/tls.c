#include "proxy/net/tls_int.h"

#include "proxy/core/arena.h"
#include "proxy/net/tls_bio.h"
#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	OUT_SLACK = /* beyond WEFT_TLS_OUT: the last batch, records' overhead, an alert */
	WEFT_TLS_BATCH + WEFT_TLS_RECORD,
	SWAP_BYTES = 32 << 10, /* a longer rest keeps the thread's buffer instead of being copied */
	PENDING_MAX = WEFT_TLS_OUT + OUT_SLACK,
	HANDSHAKE_READ = 16 << 10,
	DETAIL = 256,
};

struct weft_tls {
	SSL *ssl;
	int fd;
	bool server, eof, id_bad;
	const char *trust_domain;
	char **ids;
	size_t n_ids;
	char *peer;
	char *detail;
	/* ciphertext that the socket did not take, or that was made outside of a reserve..flush */
	struct weft_tls_pend pend;
	/* ciphertext being read: set only within weft_tls_read and weft_tls_handshake; what a
	 * handshake leaves is carried */
	struct weft_tls_in in;
	bool in_eof;
	uint8_t *carry;
	size_t carry_n;
};

static __thread struct weft_tls_scratch *scratch;
static pthread_key_t scratch_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static BIO_METHOD *bio_method;
static int ex_index;

static void scratch_free(void *p)
{
	struct weft_tls_scratch *s = p;

	free(s->out);
	free(s);
	scratch = NULL;
}

static int bio_write(BIO *b, const char *p, int n);
static int bio_read(BIO *b, char *dst, int n);

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	const struct weft_tls *t = BIO_get_data(b);

	switch (cmd) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		return t->in_eof && t->in.n == 0;
	default:
		return 0;
	}
}

static void setup_once(void)
{
	int r = pthread_key_create(&scratch_key, scratch_free);

	assert(r == 0);
	bio_method = weft_tls_bio_method("weft", bio_write, bio_read, bio_ctrl);
	assert(bio_method);
	ex_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	assert(ex_index >= 0);
}

struct weft_tls_scratch *weft_tls_scratch(void)
{
	if (!scratch) {
		pthread_once(&once, setup_once);
		scratch = weft_xcalloc(1, sizeof(*scratch));
		pthread_setspecific(scratch_key, scratch);
	}
	if (!scratch->out)
		scratch->out = weft_xrealloc(NULL, WEFT_TLS_OUT + OUT_SLACK);
	return scratch;
}

static void set_detail(struct weft_tls *t, const char *what)
{
	if (t->detail)
		return;
	t->detail = weft_xcalloc(1, DETAIL);
	snprintf(t->detail, DETAIL, "%s", what);
}

/* What OpenSSL says of the failure, the certificate's fault first. */
static void set_ssl_detail(struct weft_tls *t, const char *what)
{
	unsigned long c = ERR_peek_last_error();
	const char *why = c ? ERR_reason_error_string(c) : NULL;
	long v = SSL_get_verify_result(t->ssl);
	char text[DETAIL];

	if (v != X509_V_OK)
		snprintf(text, sizeof(text), "%s: peer's certificate: %s", what,
			 X509_verify_cert_error_string(v));
	else
		snprintf(text, sizeof(text), "%s: %s", what, why ? why : "connection closed");
	set_detail(t, text);
	ERR_clear_error();
}

static int bio_write(BIO *b, const char *p, int n)
{
	struct weft_tls *t = BIO_get_data(b);

	if (n <= 0)
		return 0;
	if (scratch && scratch->out_owner == t) {
		if (scratch->out_n + (size_t)n > WEFT_TLS_OUT + OUT_SLACK)
			return -1;
		memcpy(scratch->out + scratch->out_n, p, (size_t)n);
		scratch->out_n += (size_t)n;
		return n;
	}
	if (t->pend.n + (size_t)n > PENDING_MAX)
		return -1;
	weft_tls_pend_put(&t->pend, p, (size_t)n);
	return n;
}

static int bio_read(BIO *b, char *dst, int n)
{
	struct weft_tls *t = BIO_get_data(b);

	return weft_tls_in_read(&t->in, b, dst, n, t->in_eof);
}

struct weft_tls *weft_tls_new(struct ssl_ctx_st *ctx, const struct weft_tls_want *want, int fd)
{
	struct weft_tls *t = weft_xcalloc(1, sizeof(*t));
	BIO *b;

	weft_tls_scratch();
	t->fd = fd;
	t->server = want->server;
	t->trust_domain = weft_xstrdup(want->trust_domain ? want->trust_domain : "");
	t->ids = weft_xcalloc(want->n_ids ? want->n_ids : 1, sizeof(*t->ids));
	for (t->n_ids = 0; t->n_ids < want->n_ids; t->n_ids++)
		t->ids[t->n_ids] = weft_xstrdup(want->ids[t->n_ids]);
	t->ssl = SSL_new(ctx);
	b = BIO_new(bio_method);
	if (!t->ssl || !b || SSL_set_ex_data(t->ssl, ex_index, t) != 1) {
		BIO_free(b);
		weft_tls_free(t);
		return NULL;
	}
	BIO_set_data(b, t);
	SSL_set_bio(t->ssl, b, b);
	if (t->server)
		SSL_set_accept_state(t->ssl);
	else
		SSL_set_connect_state(t->ssl);
	return t;
}

static void forget_want(struct weft_tls *t)
{
	free((char *)t->trust_domain);
	t->trust_domain = NULL;
	for (size_t i = 0; i < t->n_ids; i++)
		free(t->ids[i]);
	free(t->ids);
	t->ids = NULL;
	t->n_ids = 0;
}

void weft_tls_free(struct weft_tls *t)
{
	if (!t)
		return;
	if (scratch && scratch->out_owner == t)
		scratch->out_owner = NULL;
	SSL_free(t->ssl);
	forget_want(t);
	free(t->peer);
	free(t->detail);
	free(t->pend.p);
	free(t->carry);
	free(t);
}

/* server: the first SPIFFE id decides, alone. Upstream lets any SAN of the trust domain pass and
 * then takes the first as the identity (contract §11.8): two ids could be had by one certificate.
 */
static int check_client(struct weft_tls *t, X509 *leaf)
{
	struct weft_identity id;
	int n = weft_identity_of_cert(leaf, &id, 1);

	if (n <= 0) {
		set_detail(t, n == 0 ? "the client's certificate has no SPIFFE id"
				     : "the client's certificate has unusable names");
		return 0;
	}
	if (strcmp(id.trust_domain, t->trust_domain) != 0) {
		char text[DETAIL];

		snprintf(text, sizeof(text), "the client's trust domain is %.60s, must be %.60s",
			 id.trust_domain, t->trust_domain);
		set_detail(t, text);
		return 0;
	}
	t->peer = weft_xstrdup(id.text);
	return 1;
}

static int check_server(struct weft_tls *t, X509 *leaf)
{
	int i = weft_identity_match(leaf, (const char *const *)t->ids, t->n_ids);
	struct weft_identity id;
	char text[DETAIL];

	if (i >= 0) {
		t->peer = weft_xstrdup(t->ids[i]);
		return 1;
	}
	if (weft_identity_of_cert(leaf, &id, 1) > 0)
		snprintf(text, sizeof(text), "the peer is %.70s, must be %.70s", id.text,
			 t->n_ids ? t->ids[0] : "nobody");
	else
		snprintf(text, sizeof(text), "the peer has no SPIFFE id, must be %.90s",
			 t->n_ids ? t->ids[0] : "nobody");
	set_detail(t, text);
	return 0;
}

int weft_tls_verify(int preverify, X509_STORE_CTX *x)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct weft_tls *t = ssl ? SSL_get_ex_data(ssl, ex_index) : NULL;
	X509 *leaf = X509_STORE_CTX_get_current_cert(x);
	int err = X509_STORE_CTX_get_error(x), ok;

	if (!t)
		return 0;
	if (!preverify) {
		/* as upstream: an issuer without a CRL passes, an old CRL is still used */
		if (err != X509_V_ERR_UNABLE_TO_GET_CRL && err != X509_V_ERR_CRL_HAS_EXPIRED)
			return 0;
		X509_STORE_CTX_set_error(x, X509_V_OK);
		return 1;
	}
	if (X509_STORE_CTX_get_error_depth(x) != 0)
		return 1;
	free(t->peer);
	t->peer = NULL;
	ok = t->server ? check_client(t, leaf) : check_server(t, leaf);
	if (!ok) {
		t->id_bad = true;
		X509_STORE_CTX_set_error(x, X509_V_ERR_APPLICATION_VERIFICATION);
	}
	return ok;
}

/* One read(2) after what was carried. */
static ssize_t fill(struct weft_tls *t, size_t max)
{
	size_t had = t->carry_n;
	ssize_t n;

	if (had > 0)
		memcpy(scratch->in, t->carry, had);
	n = recv(t->fd, scratch->in + had, max - had, 0);
	if (n < 0 && (errno != EAGAIN || had == 0))
		return -errno;
	free(t->carry);
	t->carry = NULL;
	t->carry_n = 0;
	t->in.p = scratch->in;
	t->in.n = had + (size_t)(n > 0 ? n : 0);
	t->in_eof = n == 0;
	return n < 0 ? -EAGAIN : n;
}

static void keep_rest(struct weft_tls *t)
{
	if (t->in.n > 0) {
		t->carry = weft_xrealloc(NULL, t->in.n);
		memcpy(t->carry, t->in.p, t->in.n);
		t->carry_n = t->in.n;
	}
	t->in.p = NULL;
	t->in.n = 0;
}

static int handshake_end(struct weft_tls *t)
{
	const unsigned char *alpn = NULL;
	unsigned alpn_n = 0;

	keep_rest(t);
	SSL_get0_alpn_selected(t->ssl, &alpn, &alpn_n);
	if (alpn_n != 2 || memcmp(alpn, "h2", 2) != 0) {
		set_detail(t, "the peer did not agree on ALPN h2");
		return -EPROTO;
	}
	if (!t->peer) {
		t->id_bad = true;
		set_detail(t, "the peer showed no certificate");
		return -EPROTO;
	}
	forget_want(t);
	return 1;
}

int weft_tls_handshake(struct weft_tls *t)
{
	ssize_t n;
	int r, e;

	weft_tls_scratch();
	for (;;) {
		ERR_clear_error();
		r = SSL_do_handshake(t->ssl);
		if (r == 1)
			return handshake_end(t);
		e = SSL_get_error(t->ssl, r);
		if (e != SSL_ERROR_WANT_READ) {
			set_ssl_detail(t, "handshake");
			weft_tls_flush(t); /* the alert; the session is over either way */
			return -EPROTO;
		}
		r = weft_tls_flush(t);
		if (r < 0 && r != -EAGAIN) {
			set_detail(t, strerror(-r));
			return r;
		}
		n = fill(t, HANDSHAKE_READ); /* what was carried is all with the SSL by now */
		if (n == -EAGAIN)
			return 0;
		if (n < 0) {
			set_detail(t, strerror((int)-n));
			return (int)n;
		}
	}
}

const char *weft_tls_peer(const struct weft_tls *t)
{
	return t->peer ? t->peer : "";
}

enum weft_reason weft_tls_reason(const struct weft_tls *t)
{
	return t->id_bad ? WEFT_REASON_IDENTITY : WEFT_REASON_TLS_FAILED;
}

const char *weft_tls_detail(const struct weft_tls *t)
{
	return t->detail ? t->detail : "";
}

/* Decrypts all that t->in.p has. 1: go on, 0: closed in order, -errno. */
static int decrypt(struct weft_tls *t, size_t *ret_n)
{
	size_t at = 0;
	int r = 1;

	while (at + WEFT_TLS_RECORD <= sizeof(scratch->plain)) {
		int n = SSL_read(t->ssl, scratch->plain + at, WEFT_TLS_RECORD);
		int e;

		if (n > 0) {
			at += (size_t)n;
			continue;
		}
		e = SSL_get_error(t->ssl, n);
		if (e == SSL_ERROR_WANT_READ)
			break;
		if (e == SSL_ERROR_ZERO_RETURN) {
			r = 0;
			break;
		}
		set_ssl_detail(t, "read");
		r = -EPROTO;
		break;
	}
	*ret_n = at;
	return r;
}

ssize_t weft_tls_read(struct weft_tls *t, int (*data)(void *owner, const uint8_t *p, size_t n),
		      void *owner, bool *ret_full)
{
	size_t plain_n = 0;
	ssize_t n, got;
	int r, d = 0;

	weft_tls_scratch();
	n = fill(t, WEFT_TLS_READ);
	if (n < 0 && (n != -EAGAIN || t->in.n == 0))
		return n;
	got = (ssize_t)t->in.n;
	*ret_full = n == WEFT_TLS_READ;
	ERR_clear_error();
	r = decrypt(t, &plain_n);
	keep_rest(t);
	if (plain_n > 0)
		d = data(owner, scratch->plain, plain_n);
	if (d < 0)
		return d;
	if (r < 0)
		return r;
	return r == 0 || n == 0 ? 0 : got;
}

uint8_t *weft_tls_reserve(struct weft_tls *t, size_t *ret_cap)
{
	struct weft_tls_scratch *s = weft_tls_scratch();

	if (t->pend.n > 0)
		return NULL;
	if (s->out_owner != t) {
		assert(!s->out_owner);
		s->out_owner = t;
		s->out_n = 0;
	}
	if (s->out_n >= WEFT_TLS_OUT - WEFT_TLS_RECORD)
		return NULL;
	*ret_cap = WEFT_TLS_BATCH;
	return s->batch;
}

int weft_tls_commit(struct weft_tls *t, size_t n)
{
	int r;

	if (n == 0)
		return 0;
	ERR_clear_error();
	r = SSL_write(t->ssl, scratch->batch, (int)n);
	if (r == (int)n)
		return 0;
	set_ssl_detail(t, "write");
	return -EPROTO;
}

static ssize_t send_some(int fd, const uint8_t *p, size_t n)
{
	ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

	return k < 0 ? -errno : k;
}

static int flush_pending(struct weft_tls *t)
{
	ssize_t k;

	if (t->pend.n == 0)
		return 0;
	k = send_some(t->fd, t->pend.p + t->pend.off, t->pend.n);
	if (k < 0)
		return (int)k;
	t->pend.off += (size_t)k;
	t->pend.n -= (size_t)k;
	if (t->pend.n > 0)
		return -EAGAIN;
	free(t->pend.p);
	t->pend.p = NULL;
	t->pend.off = t->pend.cap = 0;
	return 0;
}

int weft_tls_flush(struct weft_tls *t)
{
	struct weft_tls_scratch *s = weft_tls_scratch();
	ssize_t k;
	size_t rest;

	if (s->out_owner != t)
		return flush_pending(t);
	s->out_owner = NULL;
	if (s->out_n == 0)
		return 0;
	k = send_some(t->fd, s->out, s->out_n);
	if (k < 0 && k != -EAGAIN)
		return (int)k;
	k = k < 0 ? 0 : k;
	rest = s->out_n - (size_t)k;
	if (rest == 0)
		return 0;
	t->pend.n = rest;
	if (rest >= SWAP_BYTES) {
		t->pend.p = s->out;
		t->pend.off = (size_t)k;
		t->pend.cap = WEFT_TLS_OUT + OUT_SLACK;
		s->out = NULL;
	} else {
		t->pend.p = weft_xrealloc(NULL, rest);
		memcpy(t->pend.p, s->out + k, rest);
		t->pend.off = 0;
		t->pend.cap = rest;
	}
	return -EAGAIN;
}

bool weft_tls_pending(const struct weft_tls *t)
{
	return t->pend.n > 0;
}

void weft_tls_close_notify(struct weft_tls *t)
{
	ERR_clear_error();
	SSL_shutdown(t->ssl);
	ERR_clear_error();
}
