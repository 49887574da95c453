#include "proxy/net/io_tls_priv.h"

#include "proxy/core/arena.h"
#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	RECORD = 16384, /* plaintext of one */
	IN_BYTES = 64 << 10,
	OUT_BYTES = 256 << 10,	   /* of ciphertext gathered for one send */
	OUT_SLACK = RECORD + 1024, /* the last record, an alert */
	PEND_MAX = OUT_BYTES + 2 * OUT_SLACK,
	SWAP_BYTES = 32 << 10, /* a longer rest keeps the thread's buffer instead of a copy */
	WRITE_TURN = 1 << 20,
	RESERVE_MIN = 976,
	LAZY_MAX = 4096,
};

/* Of a thread; nothing in it outlives one call. */
struct scratch {
	struct weft_tls_sess *out_owner;
	uint8_t *out;
	size_t out_n;
	uint8_t in[IN_BYTES];
	uint8_t batch[RECORD];
};

static __thread struct scratch *scratch;
static pthread_key_t scratch_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static BIO_METHOD *bio_method;
static int ex_index;

static void scratch_free(void *p)
{
	struct scratch *s = p;

	free(s->out);
	free(s);
	scratch = NULL;
}

struct weft_tls_sess *weft_tls_sess_of(SSL *ssl)
{
	return ssl && bio_method ? SSL_get_ex_data(ssl, ex_index) : NULL;
}

/* ---- the BIO: memory on both sides */

static int put_pending(struct weft_tls_sess *t, const void *p, size_t n)
{
	if (t->pend.n + n > PEND_MAX)
		return -ENOBUFS;
	t->lazy = false;
	weft_tls_pend_put(&t->pend, p, n);
	return 0;
}

static int bio_write(BIO *b, const char *p, int n)
{
	struct weft_tls_sess *t = BIO_get_data(b);

	if (n <= 0)
		return 0;
	if (scratch->out_owner != t)
		return put_pending(t, p, (size_t)n) < 0 ? -1 : n;
	if (scratch->out_n + (size_t)n > OUT_BYTES + OUT_SLACK)
		return -1;
	memcpy(scratch->out + scratch->out_n, p, (size_t)n);
	scratch->out_n += (size_t)n;
	return n;
}

static int bio_read(BIO *b, char *dst, int n)
{
	struct weft_tls_sess *t = BIO_get_data(b);

	return weft_tls_in_read(&t->in, b, dst, n, false);
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	return cmd == BIO_CTRL_FLUSH;
}

static void setup_once(void)
{
	int r = pthread_key_create(&scratch_key, scratch_free);

	assert(r == 0);
	ex_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	bio_method = weft_tls_bio_method("weft_io", bio_write, bio_read, bio_ctrl);
	assert(ex_index >= 0 && bio_method);
}

static struct scratch *scratch_get(void)
{
	if (!scratch) {
		pthread_once(&once, setup_once);
		scratch = weft_xcalloc(1, sizeof(*scratch));
		pthread_setspecific(scratch_key, scratch);
	}
	if (!scratch->out)
		scratch->out = weft_xrealloc(NULL, OUT_BYTES + OUT_SLACK);
	return scratch;
}

/* ---- making */

static int apply(struct weft_tls_sess *t, const struct weft_io_tls *conf)
{
	size_t n = 0;
	int r = 0;

	if (conf->alpn) {
		t->alpn = weft_tls_alpn_wire(conf->alpn, &t->alpn_n);
		if (!t->server && t->alpn_n > 0)
			r = SSL_set_alpn_protos(t->ssl, t->alpn, (unsigned)t->alpn_n);
	}
	if (t->server)
		return r;
	if (conf->sni && *conf->sni && SSL_set_tlsext_host_name(t->ssl, conf->sni) != 1)
		return -1;
	while (conf->ids && conf->ids[n])
		n++;
	if (conf->ids) {
		t->ids = weft_xcalloc(n + 1, sizeof(*t->ids));
		for (size_t i = 0; i < n; i++)
			t->ids[i] = weft_xstrdup(conf->ids[i]);
	} else {
		weft_tls_cache_use(t); /* never past a check of one exact peer */
	}
	return r;
}

struct weft_tls_sess *weft_tls_sess_new(struct weft_io *io, const struct weft_io_tls *conf,
					bool server)
{
	struct weft_tls_sess *t = weft_xcalloc(1, sizeof(*t));
	BIO *b;

	scratch_get();
	t->io = io;
	t->server = server;
	t->ssl = SSL_new(conf->ctx);
	b = BIO_new(bio_method);
	if (!t->ssl || !b || SSL_set_ex_data(t->ssl, ex_index, t) != 1) {
		BIO_free(b);
		weft_tls_sess_free(t, false);
		return NULL;
	}
	BIO_set_data(b, t);
	SSL_set_bio(t->ssl, b, b);
	if (server)
		SSL_set_accept_state(t->ssl);
	else
		SSL_set_connect_state(t->ssl);
	if (apply(t, conf) != 0) {
		weft_tls_sess_free(t, false);
		return NULL;
	}
	return t;
}

void weft_tls_sess_free(struct weft_tls_sess *t, bool notify)
{
	if (notify && t->done && !t->notify_sent && !weft_tls_sess_pending(t))
		(void)weft_tls_sess_shutdown(t); /* as far as the socket takes it */
	if (scratch && scratch->out_owner == t)
		scratch->out_owner = NULL;
	/* not an orderly close in OpenSSL's eyes would forget the session */
	if (t->ssl)
		SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(t->ssl);
	for (char **p = t->ids; p && *p; p++)
		free(*p);
	free(t->ids);
	free(t->alpn);
	free(t->note);
	free(t->pend.p);
	free(t->carry);
	free(t);
}

const uint8_t *weft_tls_session_alpn(struct ssl_st *ssl, size_t *ret_n)
{
	struct weft_tls_sess *t = weft_tls_sess_of(ssl);

	*ret_n = t ? t->alpn_n : 0;
	return t ? t->alpn : NULL;
}

void weft_tls_sess_raw(struct weft_tls_sess *t, const void *p, size_t n)
{
	int r = put_pending(t, p, n);

	if (r < 0)
		weft_io_tell_closed(t->io, WEFT_IO_RESET, -r, "preamble too long");
}

bool weft_tls_sess_feed(struct weft_tls_sess *t, struct evbuffer *b)
{
	size_t n = evbuffer_get_length(b);

	if (n == 0)
		return false;
	t->carry = weft_xrealloc(NULL, n);
	t->carry_n = n;
	evbuffer_remove(b, t->carry, n);
	return true;
}

/* ---- sending */

static int fd_of(const struct weft_tls_sess *t)
{
	return weft_sock_of(t->io)->fd;
}

static ssize_t send_some(const struct weft_tls_sess *t, const uint8_t *p, size_t n)
{
	ssize_t k;

	do
		k = send(fd_of(t), p, n, MSG_NOSIGNAL);
	while (k < 0 && errno == EINTR);
	return k < 0 ? -errno : k;
}

bool weft_tls_sess_pending(const struct weft_tls_sess *t)
{
	return t->pend.n > 0 && !t->lazy;
}

static void pend_drop(struct weft_tls_sess *t)
{
	free(t->pend.p);
	t->pend.p = NULL;
	t->pend.off = t->pend.n = t->pend.cap = 0;
	t->lazy = false;
}

static int flush_pending(struct weft_tls_sess *t)
{
	while (weft_tls_sess_pending(t)) {
		ssize_t k = send_some(t, t->pend.p + t->pend.off, t->pend.n);

		if (k < 0)
			return (int)k;
		t->pend.off += (size_t)k;
		t->pend.n -= (size_t)k;
	}
	if (!t->lazy)
		pend_drop(t);
	return 0;
}

/* From here on what the SSL writes gathers in the scratch. */
static void out_begin(struct weft_tls_sess *t)
{
	struct scratch *s = scratch_get();

	s->out_n = 0;
	if (t->lazy) {
		memcpy(s->out, t->pend.p, t->pend.n);
		s->out_n = t->pend.n;
		pend_drop(t);
	}
	s->out_owner = t->pend.n == 0 ? t : NULL; /* order is kept */
}

/* Tickets alone are worth no packet: they go with the first answer. As Envoy's. */
static void out_hold(struct weft_tls_sess *t)
{
	struct scratch *s = scratch;

	s->out_owner = NULL;
	if (s->out_n == 0)
		return;
	t->pend.p = weft_xrealloc(NULL, s->out_n);
	memcpy(t->pend.p, s->out, s->out_n);
	t->pend.n = t->pend.cap = s->out_n;
	t->pend.off = 0;
	t->lazy = true;
}

/* Sends what gathered; what the socket does not take waits in pend. 0, -EAGAIN, -errno. */
static int out_end(struct weft_tls_sess *t)
{
	struct scratch *s = scratch;
	size_t rest;
	ssize_t k;

	if (s->out_owner != t)
		return flush_pending(t);
	s->out_owner = NULL;
	if (s->out_n == 0)
		return 0;
	k = send_some(t, s->out, s->out_n);
	if (k < 0 && k != -EAGAIN)
		return (int)k;
	k = k < 0 ? 0 : k;
	rest = s->out_n - (size_t)k;
	if (rest == 0)
		return 0;
	t->pend.n = rest;
	t->pend.off = 0;
	t->pend.cap = rest;
	if (rest >= SWAP_BYTES) {
		t->pend.p = s->out;
		t->pend.off = (size_t)k;
		t->pend.cap = OUT_BYTES + OUT_SLACK;
		s->out = NULL;
	} else {
		t->pend.p = weft_xrealloc(NULL, rest);
		memcpy(t->pend.p, s->out + k, rest);
	}
	return -EAGAIN;
}

/* One record, straight from out where a piece of it is long enough. */
static int write_record(struct weft_tls_sess *t, struct evbuffer *out, uint64_t *ret_tx)
{
	size_t all = evbuffer_get_length(out), n;
	struct evbuffer_iovec v;
	const void *p;
	int r;

	evbuffer_peek(out, 1, NULL, &v, 1);
	if (v.iov_len >= RECORD || v.iov_len >= all) {
		p = v.iov_base;
		n = v.iov_len < RECORD ? v.iov_len : RECORD;
	} else {
		n = (size_t)evbuffer_copyout(out, scratch->batch, RECORD);
		p = scratch->batch;
	}
	r = SSL_write(t->ssl, p, (int)n);
	if (r <= 0 && SSL_get_error(t->ssl, r) == SSL_ERROR_WANT_READ) {
		t->stalled = true; /* amid a renegotiation: written after it */
		return 1;
	}
	if (r <= 0) {
		weft_tls_set_detail(t, "write");
		return -EPROTO;
	}
	*ret_tx += (uint64_t)r;
	evbuffer_drain(out, (size_t)r);
	return 0;
}

int weft_tls_sess_write(struct weft_tls_sess *t, uint64_t *ret_tx)
{
	struct evbuffer *out = t->io->out;
	size_t done = 0;
	int r = flush_pending(t);

	if (r < 0 || t->stalled)
		return r;
	while (out && evbuffer_get_length(out) > 0) {
		if (done >= WRITE_TURN)
			return -EAGAIN;
		out_begin(t);
		ERR_clear_error();
		while (r == 0 && evbuffer_get_length(out) > 0 &&
		       scratch->out_n < OUT_BYTES - RECORD)
			r = write_record(t, out, ret_tx);
		done += scratch->out_n;
		if (r < 0)
			scratch->out_owner = NULL;
		else
			r = out_end(t);
		if (r < 0 || t->stalled)
			return r;
	}
	return 0;
}

int weft_tls_sess_shutdown(struct weft_tls_sess *t)
{
	int r;

	if (!t->done)
		return 0;
	if (!t->notify_sent) {
		t->notify_sent = true;
		out_begin(t);
		ERR_clear_error();
		SSL_shutdown(t->ssl);
		ERR_clear_error();
		r = out_end(t);
	} else {
		r = flush_pending(t);
	}
	return r;
}

/* ---- receiving */

/* One recv (or what was read ahead). 1, 0: FIN, -errno. */
static int fill(struct weft_tls_sess *t)
{
	ssize_t n;

	if (t->carry) {
		t->in.p = t->carry;
		t->in.n = t->carry_n;
		return 1;
	}
	n = recv(fd_of(t), scratch_get()->in, IN_BYTES, 0);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	t->in.p = scratch->in;
	t->in.n = (size_t)n;
	return 1;
}

static void fill_done(struct weft_tls_sess *t)
{
	t->in.p = NULL;
	t->in.n = 0;
	free(t->carry);
	t->carry = NULL;
	t->carry_n = 0;
}

static int ssl_failed(struct weft_tls_sess *t, const char *what)
{
	unsigned long c = ERR_peek_last_error();
	bool alert = ERR_GET_LIB(c) == ERR_LIB_SSL && ERR_GET_REASON(c) > SSL_AD_REASON_OFFSET;

	weft_tls_set_detail(t, what);
	ERR_clear_error();
	if (scratch->out_owner != t)
		(void)flush_pending(t); /* our alert, as far as the socket takes it */
	return alert && t->done ? -ECONNRESET : -EPROTO;
}

/* All that was received, into the io's in. Bytes, or -errno; sets io->eof. */
static ssize_t decrypt(struct weft_tls_sess *t, int *ret_err)
{
	struct evbuffer *in = weft_io_in(t->io);
	ssize_t total = 0;
	int e = SSL_ERROR_NONE;

	*ret_err = 0;
	ERR_clear_error();
	while (e == SSL_ERROR_NONE) {
		size_t pending = (size_t)SSL_pending(t->ssl), at = 0;
		size_t want = t->in.n > pending ? t->in.n : pending;
		struct evbuffer_iovec v;

		if (want < RESERVE_MIN)
			want = RESERVE_MIN;
		if (evbuffer_reserve_space(in, (ev_ssize_t)want, &v, 1) != 1)
			abort(); /* memory is out */
		while (at < v.iov_len) {
			int n = SSL_read(t->ssl, (char *)v.iov_base + at, (int)(v.iov_len - at));

			if (n <= 0) {
				e = SSL_get_error(t->ssl, n);
				break;
			}
			at += (size_t)n;
		}
		v.iov_len = at;
		evbuffer_commit_space(in, &v, 1);
		total += (ssize_t)at;
	}
	if (e == SSL_ERROR_ZERO_RETURN)
		t->io->eof = true;
	else if (e != SSL_ERROR_WANT_READ)
		*ret_err = ssl_failed(t, "read");
	return total;
}

ssize_t weft_tls_sess_read(struct weft_tls_sess *t)
{
	ssize_t n;
	int r = fill(t), err;

	if (r <= 0) /* a FIN without close_notify is an end like any other, as for Envoy */
		return r;
	n = decrypt(t, &err);
	fill_done(t);
	if (weft_tls_sess_pending(t) || (t->stalled && !SSL_in_init(t->ssl))) {
		t->stalled = false; /* the answer to a KeyUpdate, a renegotiation */
		weft_io_todo(t->io, WEFT_IO_T_FLUSH);
	}
	if (err < 0 && n > 0) {
		weft_io_tell_closed(t->io, err == -EPROTO ? WEFT_IO_TLS : WEFT_IO_RESET, -err,
				    NULL);
		return n;
	}
	if (err < 0)
		return err;
	if (n == 0)
		return t->io->eof ? 0 : -EAGAIN;
	return n;
}

static int finish(struct weft_tls_sess *t)
{
	X509 *leaf = SSL_get0_peer_certificate(t->ssl);
	int err = 0;

	if (t->ids && (!leaf || !weft_tls_ids_match(leaf, t->ids))) {
		weft_tls_note(t->ssl, WEFT_TLS_FAULT_SAN,
			      leaf ? "verify SAN list: the peer has none of the wanted ids"
				   : "the peer showed no certificate");
		weft_tls_set_detail(t, "certificate verify failed");
		return -EPROTO;
	}
	t->done = true;
	if (t->ids) /* another handshake would not look at them */
		SSL_set_options(t->ssl, SSL_OP_NO_RENEGOTIATION);
	for (char **p = t->ids; p && *p; p++)
		free(*p);
	free(t->ids);
	t->ids = NULL;
	free(t->alpn);
	t->alpn = NULL;
	if (t->in.n > 0)
		t->io->stat.rx += (uint64_t)decrypt(t, &err);
	return err < 0 ? err : 1;
}

int weft_tls_sess_handshake(struct weft_tls_sess *t)
{
	int r = flush_pending(t), sent, e;

	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	if (t->server || SSL_in_before(t->ssl) == 0) {
		r = fill(t);
		if (r == -EAGAIN || r == -EINTR)
			return 0;
		if (r <= 0) {
			ERR_clear_error();
			weft_tls_set_detail(t, "connection closed in the handshake");
			return r < 0 ? r : -ECONNRESET;
		}
	}
	out_begin(t);
	ERR_clear_error();
	r = SSL_do_handshake(t->ssl);
	e = r == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, r);
	if (r != 1 && e != SSL_ERROR_WANT_READ)
		r = ssl_failed(t, "handshake");
	else
		r = r == 1 ? finish(t) : 0;
	fill_done(t);
	if (r == 1 && t->server && scratch->out_owner == t && scratch->out_n <= LAZY_MAX &&
	    SSL_version(t->ssl) >= TLS1_3_VERSION) {
		out_hold(t);
		return r;
	}
	sent = out_end(t);
	return r >= 0 && sent < 0 && sent != -EAGAIN ? sent : r;
}
