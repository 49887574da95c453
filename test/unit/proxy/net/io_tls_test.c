#include "proxy/core/arena.h"
#include "proxy/net/io_tls.h"
#include "proxy/net/tls_more.h"
#include "test/unit/proxy/net/certs.h"
#include "test/unit/proxy/net/io_fix.h"

#include <openssl/ssl.h>
#include <stdio.h>

#define ID_S "spiffe://cluster.local/ns/app/sa/server"
#define ID_C "spiffe://cluster.local/ns/app/sa/client"

struct fix {
	struct event_base *base;
	struct test_cert ca, other, leaf[2]; /* client's, server's */
	SSL_CTX *ctx[2];
	struct weft_io_tls tls[2];
	struct peer c, s;
	int fd;
};

static int pick_h2(SSL *ssl, const unsigned char **out, unsigned char *out_n,
		   const unsigned char *in, unsigned n, void *arg)
{
	size_t own_n;
	const uint8_t *own = weft_tls_session_alpn(ssl, &own_n);
	unsigned char *o;

	if (!own)
		return SSL_TLSEXT_ERR_NOACK;
	if (SSL_select_next_proto(&o, out_n, own, (unsigned)own_n, in, n) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK;
	*out = o;
	return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *ctx_new(bool server, const struct test_cert *leaf, const struct test_cert *root,
			int max_version)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	weft_tls_ctx_setup(ctx);
	SSL_CTX_set_max_proto_version(ctx, max_version);
	if (leaf) {
		assert_int_equal(SSL_CTX_use_certificate(ctx, leaf->x), 1);
		assert_int_equal(SSL_CTX_use_PrivateKey(ctx, leaf->key), 1);
	}
	if (root) {
		X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), root->x);
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	}
	if (server) {
		SSL_CTX_set_alpn_select_cb(ctx, pick_h2, NULL);
		SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"t", 1);
	}
	return ctx;
}

static void contexts(struct fix *f, const struct test_cert *client_root, bool mutual, int version)
{
	f->ctx[0] = ctx_new(false, &f->leaf[0], client_root, version);
	f->ctx[1] = ctx_new(true, &f->leaf[1], mutual ? &f->ca : NULL, version);
	f->tls[0] = (struct weft_io_tls){.ctx = f->ctx[0]};
	f->tls[1] = (struct weft_io_tls){.ctx = f->ctx[1]};
}

static int up(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct test_san c = {ID_C, 0}, s = {ID_S, 0};

	signal(SIGPIPE, SIG_IGN);
	f->base = event_base_new();
	f->ca = test_cert_new(NULL, NULL, 0, NULL, -10, 1000);
	f->other = test_cert_new(NULL, NULL, 0, NULL, -10, 1000);
	f->leaf[0] = test_cert_new(&f->ca, &c, 1, NULL, -10, 1000);
	f->leaf[1] = test_cert_new(&f->ca, &s, 1, NULL, -10, 1000);
	f->fd = -1;
	*state = f;
	return 0;
}

static int down(void **state)
{
	struct fix *f = *state;

	weft_io_free(f->c.io);
	weft_io_free(f->s.io);
	SSL_CTX_free(f->ctx[0]);
	SSL_CTX_free(f->ctx[1]);
	test_cert_free(&f->ca);
	test_cert_free(&f->other);
	test_cert_free(&f->leaf[0]);
	test_cert_free(&f->leaf[1]);
	if (f->fd >= 0)
		close(f->fd);
	event_base_free(f->base);
	free(f);
	return 0;
}

static void connect_client(struct fix *f, int *ret_fd)
{
	struct weft_dial d = {.tls = &f->tls[0]};
	int l = fix_listen(&d.to);

	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->c, &f->c.io), 0);
	*ret_fd = accept(l, NULL, NULL);
	assert_true(*ret_fd >= 0);
	fcntl(*ret_fd, F_SETFL, O_NONBLOCK);
	close(l);
}

static void both(struct fix *f)
{
	int fd;

	memset(&f->c, 0, sizeof(f->c));
	memset(&f->s, 0, sizeof(f->s));
	connect_client(f, &fd);
	f->s.io = weft_io_new(f->base, fd, &f->tls[1], NULL, &peer_ops, &f->s);
}

static void say(struct peer *p, const char *s)
{
	evbuffer_add(weft_io_out(p->io), s, strlen(s));
	weft_io_flush(p->io);
}

static void test_mutual(void **state)
{
	static const char *const h2[] = {"h2", "http/1.1", NULL}, *const ids[] = {"x", ID_S, NULL};
	struct fix *f = *state;
	const struct weft_io_info *i;

	contexts(f, &f->ca, true, 0);
	f->tls[0].alpn = f->tls[1].alpn = h2;
	f->tls[0].sni = "a.example";
	f->tls[0].ids = ids;
	both(f);
	say(&f->c, "early"); /* before the handshake */
	RUN_UNTIL(f->base, f->c.ready && f->s.got == 5);
	say(&f->s, "answer");
	RUN_UNTIL(f->base, f->c.got == 6);
	i = weft_io_info(f->s.io);
	assert_string_equal(i->sni, "a.example");
	assert_string_equal(i->alpn, "h2");
	assert_string_equal(i->tls->version, "TLSv1.3");
	assert_string_equal(i->tls->peer_uri[0], ID_C);
	assert_null(i->tls->peer_uri[1]);
	assert_string_equal(i->tls->local_uri[0], ID_S);
	assert_true(i->tls->peer_presented && i->tls->peer_verified && !i->tls->resumed);
	assert_int_equal(strlen(i->tls->peer_sha256), 64);
	assert_true(i->tls->peer_not_after > i->tls->peer_not_before);
	assert_non_null(strstr(weft_io_peer_pem(f->s.io), "-----BEGIN%20CERTIFICATE-----%0A"));
	assert_string_equal(weft_io_info(f->c.io)->alpn, "h2");
	assert_string_equal(weft_io_info(f->c.io)->tls->peer_uri[0], ID_S);
	assert_int_equal(weft_io_stat(f->c.io).tx, 5);
	assert_int_equal(weft_io_stat(f->c.io).rx, 6);
}

static void test_versions(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, TLS1_2_VERSION);
	both(f);
	say(&f->c, "hello");
	RUN_UNTIL(f->base, f->s.got == 5);
	assert_string_equal(weft_io_info(f->s.io)->tls->version, "TLSv1.2");
	assert_false(weft_io_info(f->s.io)->tls->peer_presented);
	assert_string_equal(weft_io_info(f->s.io)->tls->peer_subject, "");
}

static SSL *server_ssl;

static void on_info(const SSL *ssl, int where, int ret)
{
	server_ssl = (SSL *)ssl;
}

static void may_renegotiate(struct fix *f)
{
	contexts(f, &f->ca, false, TLS1_2_VERSION);
	SSL_CTX_clear_options(f->ctx[0], SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_clear_options(f->ctx[1], SSL_OP_NO_RENEGOTIATION);
	/* a second HelloRequest may be answered after the first handshake */
	SSL_CTX_set_options(f->ctx[1], SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
	SSL_CTX_set_info_callback(f->ctx[1], on_info);
}

/* Where a context allows it: what both ends write meanwhile waits, and comes. */
static void test_renegotiation(void **state)
{
	static char bulk[2 << 20];
	struct fix *f = *state;

	may_renegotiate(f);
	both(f);
	say(&f->c, "hello");
	RUN_UNTIL(f->base, f->s.got == 5);
	for (uint64_t i = 1; i <= 3; i++) {
		evbuffer_add_reference(weft_io_out(f->c.io), bulk, sizeof(bulk), NULL, NULL);
		weft_io_flush(f->c.io);
		assert_int_equal(SSL_renegotiate(server_ssl), 1);
		evbuffer_add_reference(weft_io_out(f->s.io), bulk, sizeof(bulk), NULL, NULL);
		weft_io_flush(f->s.io);
		RUN_UNTIL(f->base,
			  f->s.got == 5 + i * sizeof(bulk) && f->c.got == i * sizeof(bulk));
		assert_true(SSL_total_renegotiations(server_ssl) >= (long)i);
	}
}

/* One exact peer is looked at in the first handshake; there is no other. */
static void test_no_renegotiation(void **state)
{
	static const char *const ids[] = {ID_S, NULL};
	struct fix *f = *state;

	may_renegotiate(f);
	f->tls[0].ids = ids;
	both(f);
	say(&f->c, "hello");
	RUN_UNTIL(f->base, f->s.got == 5);
	assert_int_equal(SSL_renegotiate(server_ssl), 1);
	say(&f->s, "x");
	RUN_UNTIL(f->base, f->s.closed);
}

struct pump {
	struct peer p;
	uint64_t left, at, sent;
};

static void pump_more(struct pump *u)
{
	uint8_t b[20000];

	while (u->left > 0 && !weft_io_full(u->p.io)) {
		size_t n = 1 + u->at % sizeof(b);

		n = n < u->left ? n : u->left;
		for (size_t i = 0; i < n; i++) {
			b[i] = (uint8_t)(u->at * 2654435761u >> 13);
			u->sent = mix(u->sent, b[i]);
			u->at++;
		}
		evbuffer_add(weft_io_out(u->p.io), b, n);
		u->left -= n;
	}
	weft_io_flush(u->p.io);
	if (u->left == 0)
		weft_io_shutdown(u->p.io);
}

static void pump_writable(struct weft_io *io)
{
	pump_more(weft_io_owner(io));
}

static const struct weft_io_ops pump_ops = {.readable = peer_readable,
					    .writable = pump_writable,
					    .ready = pump_writable,
					    .closed = peer_closed};

static void big(struct fix *f, int version)
{
	struct pump a = {.left = 7654321}, b = {.left = 5432109};
	uint64_t na = a.left, nb = b.left;

	contexts(f, &f->ca, false, version);
	both(f);
	a.p.io = f->c.io;
	b.p.io = f->s.io;
	f->c.io = f->s.io = NULL;
	weft_io_set_ops(a.p.io, &pump_ops, &a);
	weft_io_set_ops(b.p.io, &pump_ops, &b);
	RUN_UNTIL(f->base, a.p.eof && b.p.eof);
	assert_int_equal(b.p.got, na);
	assert_int_equal(a.p.got, nb);
	assert_true(b.p.sum == a.sent && a.p.sum == b.sent);
	assert_int_equal(a.p.closed + b.p.closed, 0);
	weft_io_free(a.p.io);
	weft_io_free(b.p.io);
}

static void test_big_13(void **state)
{
	big(*state, 0);
}

static void test_big_12(void **state)
{
	big(*state, TLS1_2_VERSION);
}

static void test_half_close(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	both(f);
	say(&f->c, "all I have");
	weft_io_shutdown(f->c.io);
	RUN_UNTIL(f->base, f->s.eof);
	assert_int_equal(f->s.got, 10);
	say(&f->s, "mine");
	RUN_UNTIL(f->base, f->c.got == 4);
	weft_io_close_after_flush(f->s.io, 1000);
	f->s.io = NULL;
	RUN_UNTIL(f->base, f->c.eof);
	assert_int_equal(f->c.closed, 0);
}

static void test_fin_is_eof(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	both(f);
	say(&f->c, "x");
	RUN_UNTIL(f->base, f->s.got == 1);
	shutdown(weft_io_fd(f->c.io), SHUT_WR);
	RUN_UNTIL(f->base, f->s.eof);
	assert_int_equal(f->s.closed, 0);
}

static void test_free_notifies(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	both(f);
	RUN_UNTIL(f->base, f->s.ready && f->c.ready);
	weft_io_free(f->s.io);
	f->s.io = NULL;
	RUN_UNTIL(f->base, f->c.eof || f->c.closed);
	assert_true(f->c.eof);
}

static void test_unknown_ca(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->other, false, 0);
	both(f);
	RUN_UNTIL(f->base, f->c.closed && f->s.closed);
	assert_int_equal(f->c.why, WEFT_IO_TLS);
	assert_non_null(strstr(f->c.detail, "CERTIFICATE_VERIFY_FAILED"));
	assert_int_equal(f->c.fault, WEFT_TLS_FAULT_VERIFY);
	assert_int_equal(f->s.fault, WEFT_TLS_FAULT_CONNECTION);
	assert_non_null(strstr(f->c.detail, ":TLS_error_end"));
	assert_int_equal(f->s.why, WEFT_IO_TLS);
	assert_non_null(strstr(f->s.detail, "TLSV1_ALERT_"));
	assert_int_equal(f->s.ready + f->c.ready, 0);
}

static void test_no_client_cert(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, true, 0);
	SSL_CTX_free(f->ctx[0]);
	f->tls[0].ctx = f->ctx[0] = ctx_new(false, NULL, &f->ca, 0);
	both(f);
	RUN_UNTIL(f->base, f->c.closed && f->s.closed);
	assert_int_equal(f->s.why, WEFT_IO_TLS);
	assert_int_equal(f->s.ready, 0);
	assert_non_null(strstr(f->s.detail, "PEER_DID_NOT_RETURN_A_CERTIFICATE"));
	assert_int_equal(f->s.fault, WEFT_TLS_FAULT_NO_CERT);
	/* with TLS 1.3 the client learns it after its own end of the handshake */
	assert_non_null(strstr(f->c.detail, "CERTIFICATE_REQUIRED"));
}

static void test_wrong_id(void **state)
{
	static const char *const ids[] = {ID_C, NULL};
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	f->tls[0].ids = ids;
	both(f);
	say(&f->c, "not for you");
	RUN_UNTIL(f->base, f->c.closed && (f->s.closed || f->s.eof));
	assert_int_equal(f->c.why, WEFT_IO_TLS);
	assert_non_null(strstr(f->c.detail, "verify SAN list"));
	assert_int_equal(f->c.fault, WEFT_TLS_FAULT_SAN);
	assert_int_equal(f->s.got, 0);
}

static void test_handshake_timeout(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	f->tls[0].handshake_ms = 50;
	connect_client(f, &f->fd);
	RUN_UNTIL(f->base, f->c.closed);
	assert_int_equal(f->c.why, WEFT_IO_TIMEOUT);
}

static void test_not_tls(void **state)
{
	struct fix *f = *state;
	int x;

	contexts(f, &f->ca, false, 0);
	fix_pair(&f->fd, &x);
	f->s.io = weft_io_new(f->base, x, &f->tls[1], NULL, &peer_ops, &f->s);
	assert_int_equal(send(f->fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
	RUN_UNTIL(f->base, f->s.closed);
	assert_int_equal(f->s.why, WEFT_IO_TLS);
	assert_non_null(strstr(f->s.detail, "HTTP_REQUEST"));
}

static void test_gone_in_handshake(void **state)
{
	struct fix *f = *state;
	int x;

	contexts(f, &f->ca, false, 0);
	fix_pair(&f->fd, &x);
	f->s.io = weft_io_new(f->base, x, &f->tls[1], NULL, &peer_ops, &f->s);
	close(f->fd);
	f->fd = -1;
	RUN_UNTIL(f->base, f->s.closed);
	assert_int_equal(f->s.why, WEFT_IO_RESET);
}

/* A flipped bit in a record. */
static void test_bad_record(void **state)
{
	static const uint8_t junk[] = {23, 3,  3,  0,  32, 1,  2,  3,  4,  5,  6,  7,  8,
				       9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
				       22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	both(f);
	say(&f->c, "fine");
	RUN_UNTIL(f->base, f->s.got == 4);
	assert_int_equal(send(weft_io_fd(f->c.io), junk, sizeof(junk), 0), sizeof(junk));
	RUN_UNTIL(f->base, f->s.closed && f->c.closed);
	assert_int_equal(f->s.why, WEFT_IO_TLS);
	assert_non_null(strstr(f->s.detail, "BAD_RECORD_MAC"));
	assert_int_equal(f->c.why, WEFT_IO_RESET);
	assert_non_null(strstr(f->c.detail, "ALERT_BAD_RECORD_MAC"));
}

static void test_already(void **state)
{
	struct fix *f = *state;
	struct evbuffer *b = evbuffer_new();
	int fd;

	contexts(f, &f->ca, false, 0);
	connect_client(f, &fd);
	while (evbuffer_get_length(b) == 0) { /* as a listener filter would */
		event_base_loop(f->base, EVLOOP_NONBLOCK);
		(void)evbuffer_read(b, fd, 100000);
	}
	f->s.io = weft_io_new(f->base, fd, &f->tls[1], b, &peer_ops, &f->s);
	assert_int_equal(evbuffer_get_length(b), 0);
	evbuffer_free(b);
	say(&f->c, "x");
	RUN_UNTIL(f->base, f->s.got == 1);
}

static void resume_with(struct fix *f, int version)
{
	contexts(f, &f->ca, false, version);
	weft_tls_ctx_cache(f->ctx[0], 2);
	for (int i = 0; i < 3; i++) {
		both(f);
		say(&f->c, "x");
		RUN_UNTIL(f->base, f->s.got == 1);
		say(&f->s, "y");
		RUN_UNTIL(f->base, f->c.got == 1);
		assert_int_equal(weft_io_info(f->c.io)->tls->resumed, i > 0);
		assert_string_equal(weft_io_info(f->c.io)->tls->peer_uri[0], ID_S);
		weft_io_free(f->c.io);
		weft_io_free(f->s.io);
		f->c.io = f->s.io = NULL;
	}
}

static void test_resume_13(void **state)
{
	resume_with(*state, 0);
}

static void test_resume_12(void **state)
{
	resume_with(*state, TLS1_2_VERSION);
}

static void test_free_in_callbacks(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	both(f);
	f->s.free_in_ready = true;
	RUN_UNTIL(f->base, f->s.ready && (f->c.eof || f->c.closed));
	assert_null(f->s.io);
	weft_io_free(f->c.io);
	both(f);
	f->s.free_in_readable = true;
	say(&f->c, "x");
	RUN_UNTIL(f->base, f->s.readable && (f->c.eof || f->c.closed));
	assert_null(f->s.io);
}

static void test_pause(void **state)
{
	struct fix *f = *state;

	contexts(f, &f->ca, false, 0);
	both(f);
	RUN_UNTIL(f->base, f->s.ready && f->c.ready);
	weft_io_pause(f->s.io);
	say(&f->c, "held");
	run_a_while(f->base, 20);
	assert_int_equal(f->s.readable, 0);
	weft_io_resume(f->s.io);
	RUN_UNTIL(f->base, f->s.got == 4);
}

static void test_preamble(void **state)
{
	struct fix *f = *state;
	struct weft_dial d = {.tls = &f->tls[0], .preamble = "PROXY x\r\n", .preamble_n = 9};
	char b[10] = {0};
	int l = fix_listen(&d.to), fd;

	contexts(f, &f->ca, false, 0);
	assert_int_equal(weft_io_dial(f->base, &d, &peer_ops, &f->c, &f->c.io), 0);
	fd = accept(l, NULL, NULL);
	close(l);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (recv(fd, b, 9, 0) < 0)
		event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_string_equal(b, "PROXY x\r\n");
	f->s.io = weft_io_new(f->base, fd, &f->tls[1], NULL, &peer_ops, &f->s);
	say(&f->c, "x");
	RUN_UNTIL(f->base, f->s.got == 1);
}

/* Only once a log wants it: chains, digests, ids. */
static void test_more(void **state)
{
	struct fix *f = *state;
	const struct weft_tls_more *m;
	const struct weft_tls_info *i;

	contexts(f, &f->ca, true, 0);
	both(f);
	RUN_UNTIL(f->base, f->c.ready && f->s.ready);
	assert_null(weft_io_info(f->s.io)->tls->more);
	weft_io_free(f->c.io);
	weft_io_free(f->s.io);
	memset(&f->c, 0, sizeof(f->c));
	memset(&f->s, 0, sizeof(f->s));
	weft_tls_more_want();
	both(f);
	RUN_UNTIL(f->base, f->c.ready && f->s.ready);
	i = weft_io_info(f->s.io)->tls;
	m = i->more;
	assert_non_null(m);
	assert_string_equal(m->chain_sha256[0], i->peer_sha256);
	assert_int_equal(strlen(m->chain_sha1[0]), 40);
	assert_string_equal(m->peer_sha1, m->chain_sha1[0]);
	assert_string_equal(m->chain_serial[0], i->peer_serial);
	assert_memory_equal(m->peer_pem, "-----BEGIN%20CERTIFICATE", 24);
	assert_null(m->peer_other[0]);
	assert_null(m->local_email[0]);
	assert_string_equal(m->session_id, ""); /* of TLS 1.3's server */
	weft_tls_more_ref(m);
	assert_int_equal(m->refs, 2);
	weft_tls_more_unref((void *)m);
	say(&f->s, "tickets come before it");
	RUN_UNTIL(f->base, f->c.got == 22);
	assert_non_null(weft_io_info(f->c.io)->tls->more);
	weft_tls_more_renew(f->c.io);
	assert_int_equal(strlen(weft_io_info(f->c.io)->tls->more->session_id), 64);
}

/* Every type that a SAN's otherName may have, as Envoy writes it. */
static void test_other_names(void **state)
{
	static const char *const want[] = {"one", "two", "77", "-5", "true", "1.2.840", "", NULL};
	struct weft_arena *a = weft_arena_new(0);
	X509 *x = X509_new();
	const char *const *v;
	size_t i;

	test_cert_ext(x, x, NID_subject_alt_name,
		      "otherName:1.2.3.4;UTF8:one,DNS:a,otherName:1.2.3.5;IA5:two,"
		      "otherName:1.2.3.6;INTEGER:77,otherName:1.2.3.6;INTEGER:-5,"
		      "otherName:1.2.3.7;BOOL:TRUE,otherName:1.2.3.8;OID:1.2.840,"
		      "otherName:1.2.3.9;NULL,email:e@x,IP:10.0.0.1");
	v = weft_cert_sans(x, WEFT_SAN_OTHER, a);
	for (i = 0; want[i]; i++)
		assert_string_equal(v[i], want[i]);
	assert_null(v[i]);
	assert_string_equal(weft_cert_sans(x, WEFT_SAN_EMAIL, a)[0], "e@x");
	assert_string_equal(weft_cert_sans(x, WEFT_SAN_IP, a)[0], "10.0.0.1");
	X509_free(x);
	weft_arena_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_mutual, up, down),
		cmocka_unit_test_setup_teardown(test_versions, up, down),
		cmocka_unit_test_setup_teardown(test_renegotiation, up, down),
		cmocka_unit_test_setup_teardown(test_no_renegotiation, up, down),
		cmocka_unit_test_setup_teardown(test_big_13, up, down),
		cmocka_unit_test_setup_teardown(test_big_12, up, down),
		cmocka_unit_test_setup_teardown(test_half_close, up, down),
		cmocka_unit_test_setup_teardown(test_fin_is_eof, up, down),
		cmocka_unit_test_setup_teardown(test_free_notifies, up, down),
		cmocka_unit_test_setup_teardown(test_unknown_ca, up, down),
		cmocka_unit_test_setup_teardown(test_no_client_cert, up, down),
		cmocka_unit_test_setup_teardown(test_wrong_id, up, down),
		cmocka_unit_test_setup_teardown(test_handshake_timeout, up, down),
		cmocka_unit_test_setup_teardown(test_not_tls, up, down),
		cmocka_unit_test_setup_teardown(test_gone_in_handshake, up, down),
		cmocka_unit_test_setup_teardown(test_bad_record, up, down),
		cmocka_unit_test_setup_teardown(test_already, up, down),
		cmocka_unit_test_setup_teardown(test_resume_13, up, down),
		cmocka_unit_test_setup_teardown(test_resume_12, up, down),
		cmocka_unit_test_setup_teardown(test_free_in_callbacks, up, down),
		cmocka_unit_test_setup_teardown(test_pause, up, down),
		cmocka_unit_test_setup_teardown(test_more, up, down),
		cmocka_unit_test(test_other_names),
		cmocka_unit_test_setup_teardown(test_preamble, up, down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
