#include "proxy/net/tls.h"
#include "test/unit/proxy/net/certs.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define ID_A "spiffe://cluster.local/ns/app/sa/a"
#define ID_B "spiffe://cluster.local/ns/app/sa/b"

struct side {
	SSL_CTX *ctx;
	struct weft_tls *tls;
	int fd, result;
};
struct pair {
	struct test_cert ca, ca_leaf[2];
	struct side s[2]; /* client, server */
};

static void make_ctx(struct side *s, bool server, const struct test_cert *leaf,
		     const struct test_cert *root, const char *crl)
{
	struct weft_tls_pem pem = {leaf->pem,	leaf->key_pem,	      root->pem,
				   crl,		leaf->pem_n,	      leaf->key_pem_n,
				   root->pem_n, crl ? strlen(crl) : 0};
	struct weft_err e = {0};
	int64_t end = 0;

	s->ctx = weft_tls_ctx_new(server, &pem, &end, &e);
	if (!s->ctx)
		fail_msg("%s", e.msg);
	assert_true(end > 0);
}

static void shake(struct pair *p, const char *const *want, size_t n, const char *trust_domain)
{
	struct weft_tls_want w[2] = {{.ids = want, .n_ids = n},
				     {.server = true, .trust_domain = trust_domain}};
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	for (int i = 0; i < 2; i++) {
		p->s[i].fd = fd[i];
		p->s[i].result = 0;
		p->s[i].tls = weft_tls_new(p->s[i].ctx, &w[i], fd[i]);
		assert_non_null(p->s[i].tls);
	}
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 2; i++) {
			if (p->s[i].result == 0)
				p->s[i].result = weft_tls_handshake(p->s[i].tls);
			if (p->s[i].result == 1)
				assert_int_equal(weft_tls_flush(p->s[i].tls), 0);
		}
	}
}

static int setup_with(struct pair *p, const struct test_san *a, size_t na, const struct test_san *b,
		      size_t nb)
{
	p->ca = test_cert_new(NULL, NULL, 0, NULL, -60, 600);
	p->ca_leaf[0] = test_cert_new(&p->ca, a, na, NULL, -60, 600);
	p->ca_leaf[1] = test_cert_new(&p->ca, b, nb, NULL, -60, 600);
	for (int i = 0; i < 2; i++)
		make_ctx(&p->s[i], i, &p->ca_leaf[i], &p->ca, NULL);
	return 0;
}

static const char *const want_b[] = {ID_B};

static struct pair *pair_new(void)
{
	struct pair *p = calloc(1, sizeof(*p));
	struct test_san a = {ID_A, 0}, b = {ID_B, 0};

	setup_with(p, &a, 1, &b, 1);
	return p;
}

static void pair_free(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		weft_tls_free(p->s[i].tls);
		if (p->s[i].tls)
			close(p->s[i].fd);
		weft_tls_ctx_free(p->s[i].ctx);
		test_cert_free(&p->ca_leaf[i]);
	}
	test_cert_free(&p->ca);
	free(p);
}

static void change_leaf(struct pair *p, int i, const struct test_cert *leaf,
			const struct test_cert *root)
{
	weft_tls_ctx_free(p->s[i].ctx);
	make_ctx(&p->s[i], i, leaf, root, NULL);
}

/* ---- */

static void agrees(void **state)
{
	struct pair *p = pair_new();

	shake(p, want_b, 1, "cluster.local");
	assert_int_equal(p->s[0].result, 1);
	assert_int_equal(p->s[1].result, 1);
	assert_string_equal(weft_tls_peer(p->s[0].tls), ID_B);
	assert_string_equal(weft_tls_peer(p->s[1].tls), ID_A);
	pair_free(p);
}

static void server_is_another(void **state)
{
	static const char *const want[] = {"spiffe://cluster.local/ns/app/sa/c",
					   "spiffe://cluster.local/ns/app/sa/bb"};
	struct pair *p = pair_new();

	shake(p, want, 2, "cluster.local");
	assert_true(p->s[0].result < 0);
	assert_int_equal(weft_tls_reason(p->s[0].tls), WEFT_REASON_IDENTITY);
	assert_non_null(strstr(weft_tls_detail(p->s[0].tls), ID_B));
	assert_true(p->s[1].result < 0); /* it gets the alert */
	pair_free(p);
}

static void second_of_accepted(void **state)
{
	static const char *const want[] = {"spiffe://cluster.local/ns/app/sa/c", ID_B};
	struct pair *p = pair_new();

	shake(p, want, 2, "cluster.local");
	assert_int_equal(p->s[0].result, 1);
	assert_string_equal(weft_tls_peer(p->s[0].tls), ID_B);
	pair_free(p);
}

static void nobody_is_accepted(void **state)
{
	struct pair *p = pair_new();

	shake(p, NULL, 0, "cluster.local");
	assert_true(p->s[0].result < 0);
	pair_free(p);
}

/* The client's Finished and the server's refusal cross: the client learns at its first read. */
static void client_refused(struct pair *p, enum weft_reason r, const char *why)
{
	assert_true(p->s[1].result < 0);
	assert_int_equal(weft_tls_reason(p->s[1].tls), r);
	if (!strstr(weft_tls_detail(p->s[1].tls), why))
		fail_msg("%s", weft_tls_detail(p->s[1].tls));
}

static void wrong_trust_domain(void **state)
{
	struct pair *p = pair_new();

	shake(p, want_b, 1, "other.domain");
	client_refused(p, WEFT_REASON_IDENTITY, "trust domain is cluster.local");
	pair_free(p);
}

static void first_id_decides(void **state)
{
	struct test_san a[] = {{"spiffe://evil/ns/app/sa/a", 0}, {ID_A, 0}}, b = {ID_B, 0};
	struct pair *p = calloc(1, sizeof(*p));

	setup_with(p, a, 2, &b, 1);
	shake(p, want_b, 1, "cluster.local");
	client_refused(p, WEFT_REASON_IDENTITY, "trust domain is evil");
	pair_free(p);
}

static void no_san(void **state)
{
	struct test_san b = {ID_B, 0};
	struct pair *p = calloc(1, sizeof(*p));

	setup_with(p, NULL, 0, &b, 1);
	shake(p, want_b, 1, "cluster.local");
	client_refused(p, WEFT_REASON_IDENTITY, "no SPIFFE id");
	pair_free(p);
}

static void nul_san(void **state)
{
	struct test_san a = {ID_A "\0x", sizeof(ID_A) + 1}, b = {ID_B "\0x", sizeof(ID_B) + 1};
	struct pair *p = calloc(1, sizeof(*p));

	setup_with(p, &a, 1, &b, 1);
	shake(p, want_b, 1, "cluster.local");
	assert_true(p->s[0].result < 0);
	assert_int_equal(weft_tls_reason(p->s[0].tls), WEFT_REASON_IDENTITY);
	pair_free(p);
	p = calloc(1, sizeof(*p));
	b = (struct test_san){ID_B, 0};
	setup_with(p, &a, 1, &b, 1);
	shake(p, want_b, 1, "cluster.local");
	client_refused(p, WEFT_REASON_IDENTITY, "no SPIFFE id");
	pair_free(p);
}

static void other_roots(void **state)
{
	struct pair *p = pair_new();
	struct test_cert ca2 = test_cert_new(NULL, NULL, 0, NULL, -60, 600);
	struct test_san b = {ID_B, 0};
	struct test_cert leaf = test_cert_new(&ca2, &b, 1, NULL, -60, 600);

	change_leaf(p, 1, &leaf, &p->ca);
	shake(p, want_b, 1, "cluster.local");
	assert_true(p->s[0].result < 0);
	assert_int_equal(weft_tls_reason(p->s[0].tls), WEFT_REASON_TLS_FAILED);
	pair_free(p);
	test_cert_free(&ca2);
	test_cert_free(&leaf);
}

static void wrong_purpose(void **state)
{
	struct pair *p = pair_new();
	struct test_san a = {ID_A, 0};
	struct test_cert leaf = test_cert_new(&p->ca, &a, 1, "serverAuth", -60, 600);

	change_leaf(p, 0, &leaf, &p->ca);
	shake(p, want_b, 1, "cluster.local");
	client_refused(p, WEFT_REASON_TLS_FAILED, "purpose");
	pair_free(p);
	test_cert_free(&leaf);
}

/* A context is not made of an expired certificate; one that expires later is refused by the peer.
 */
static void expired(void **state)
{
	struct pair *p = pair_new();
	struct test_san a = {ID_A, 0};
	struct test_cert old = test_cert_new(&p->ca, &a, 1, NULL, -600, -60);
	struct test_cert brief = test_cert_new(&p->ca, &a, 1, NULL, -600, 1);
	struct weft_tls_pem pem = {old.pem,   old.key_pem,   p->ca.pem,	  NULL,
				   old.pem_n, old.key_pem_n, p->ca.pem_n, 0};
	struct weft_err e = {0};

	assert_null(weft_tls_ctx_new(false, &pem, NULL, &e));
	assert_non_null(strstr(e.msg, "valid now"));
	change_leaf(p, 0, &brief, &p->ca);
	sleep(2);
	shake(p, want_b, 1, "cluster.local");
	client_refused(p, WEFT_REASON_TLS_FAILED, "expired");
	pair_free(p);
	test_cert_free(&old);
	test_cert_free(&brief);
}

static void bad_pem(void **state)
{
	struct pair *p = pair_new();
	const struct test_cert *l = &p->ca_leaf[0], *m = &p->ca_leaf[1];
	struct weft_tls_pem good = {l->pem,   l->key_pem,   p->ca.pem,	 NULL,
				    l->pem_n, l->key_pem_n, p->ca.pem_n, 0};
	struct weft_tls_pem bad[6];
	struct weft_err e;

	for (int i = 0; i < 6; i++)
		bad[i] = good;
	bad[0].chain_n = 0;
	bad[1].chain_n = l->pem_n / 2;
	bad[2].key = m->key_pem; /* of another certificate */
	bad[2].key_n = m->key_pem_n;
	bad[3].roots_n = 0;
	bad[4].roots = "no certificate";
	bad[4].roots_n = 14;
	bad[5].key = "x";
	bad[5].key_n = 1;
	for (int i = 0; i < 6; i++) {
		memset(&e, 0, sizeof(e));
		assert_null(weft_tls_ctx_new(true, &bad[i], NULL, &e));
		assert_true(e.code != 0 && e.msg[0]);
	}
	pair_free(p);
}

static void revoked(void **state)
{
	struct pair *p = pair_new();
	X509_CRL *crl = X509_CRL_new();
	X509_REVOKED *r = X509_REVOKED_new();
	ASN1_TIME *t = X509_gmtime_adj(NULL, -30);
	BIO *b = BIO_new(BIO_s_mem());
	size_t n;
	char *pem;

	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(p->ca.x));
	X509_CRL_set1_lastUpdate(crl, t);
	X509_gmtime_adj(t, 600);
	X509_CRL_set1_nextUpdate(crl, t);
	X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(p->ca_leaf[0].x));
	X509_gmtime_adj(t, -20);
	X509_REVOKED_set_revocationDate(r, t);
	X509_CRL_add0_revoked(crl, r);
	X509_CRL_sign(crl, p->ca.key, EVP_sha256());
	PEM_write_bio_X509_CRL(b, crl);
	pem = test_pem(b, &n);
	weft_tls_ctx_free(p->s[1].ctx);
	make_ctx(&p->s[1], true, &p->ca_leaf[1], &p->ca, pem);
	shake(p, want_b, 1, "cluster.local");
	client_refused(p, WEFT_REASON_TLS_FAILED, "revoked");
	pair_free(p);
	X509_CRL_free(crl);
	ASN1_TIME_free(t);
	free(pem);
}

/* ---- bytes */

struct sink {
	size_t n;
	bool bad;
};

static int take(void *owner, const uint8_t *p, size_t n)
{
	struct sink *s = owner;

	for (size_t i = 0; i < n; i++)
		s->bad |= p[i] != (uint8_t)((s->n + i) * 7 + ((s->n + i) >> 11));
	s->n += n;
	return 0;
}

/* Sends total bytes in records of step from one side to the other. */
static void transfer(struct side *from, struct side *to, size_t total, size_t step)
{
	struct sink sink = {0};
	size_t at = 0;
	bool full;

	for (int idle = 0; sink.n < total && idle < 1000; idle++) {
		size_t cap = 0;
		uint8_t *dst;
		ssize_t r;

		while (at < total && (dst = weft_tls_reserve(from->tls, &cap))) {
			size_t n = total - at < step ? total - at : step;

			assert_true(cap >= n);
			for (size_t i = 0; i < n; i++)
				dst[i] = (uint8_t)((at + i) * 7 + ((at + i) >> 11));
			assert_int_equal(weft_tls_commit(from->tls, n), 0);
			at += n;
		}
		r = weft_tls_flush(from->tls);
		assert_true(r == 0 || r == -EAGAIN);
		assert_int_equal(r == -EAGAIN, weft_tls_pending(from->tls));
		r = weft_tls_read(to->tls, take, &sink, &full);
		assert_true(r > 0 || r == -EAGAIN);
		if (r > 0)
			idle = 0;
	}
	assert_false(sink.bad);
	assert_int_equal(sink.n, total);
	assert_false(weft_tls_pending(from->tls));
}

static void bytes(void **state)
{
	struct pair *p = pair_new();

	shake(p, want_b, 1, "cluster.local");
	assert_int_equal(p->s[1].result, 1);
	transfer(&p->s[0], &p->s[1], 1, 1);
	transfer(&p->s[0], &p->s[1], 16384, 16384);
	transfer(&p->s[1], &p->s[0], 20 << 20, 16384);
	transfer(&p->s[0], &p->s[1], 20 << 20, 16384);
	transfer(&p->s[0], &p->s[1], 300000, 100); /* many records a read */
	transfer(&p->s[1], &p->s[0], 5000, 1);
	transfer(&p->s[1], &p->s[0], 3 << 20, 16000);
	pair_free(p);
}

static void close_in_order(void **state)
{
	struct pair *p = pair_new();
	struct sink sink = {0};
	bool full;
	size_t cap;

	shake(p, want_b, 1, "cluster.local");
	weft_tls_reserve(p->s[0].tls, &cap)[0] = 0;
	weft_tls_commit(p->s[0].tls, 1);
	weft_tls_close_notify(p->s[0].tls);
	assert_int_equal(weft_tls_flush(p->s[0].tls), 0);
	assert_int_equal(weft_tls_read(p->s[1].tls, take, &sink, &full), 0);
	assert_int_equal(sink.n, 1); /* what came before is given first */
	close(p->s[1].fd);
	p->s[1].fd = dup(0);
	assert_int_equal(weft_tls_read(p->s[0].tls, take, &sink, &full), 0);
	pair_free(p);
}

static void garbage(void **state)
{
	struct pair *p = pair_new();
	struct sink sink = {0};
	uint8_t junk[64] = {23, 3, 3, 0, 59, 1, 2, 3};
	bool full;

	shake(p, want_b, 1, "cluster.local");
	assert_int_equal(send(p->s[0].fd, junk, sizeof(junk), 0), (ssize_t)sizeof(junk));
	assert_int_equal(weft_tls_read(p->s[1].tls, take, &sink, &full), -EPROTO);
	assert_int_equal(sink.n, 0);
	assert_true(weft_tls_detail(p->s[1].tls)[0] != 0);
	pair_free(p);
}

static void not_tls(void **state)
{
	struct pair *p = pair_new();
	struct weft_tls_want w = {.server = true, .trust_domain = "cluster.local"};
	int fd[2];
	struct weft_tls *t;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	t = weft_tls_new(p->s[1].ctx, &w, fd[1]);
	assert_int_equal(send(fd[0], "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
	assert_true(weft_tls_handshake(t) < 0);
	assert_int_equal(weft_tls_reason(t), WEFT_REASON_TLS_FAILED);
	weft_tls_free(t);
	close(fd[0]);
	close(fd[1]);
	pair_free(p);
}

/* A stock OpenSSL client without a certificate, without ALPN, or with TLS 1.2 only is refused. */
static int stock_client(struct pair *p, bool cert, bool alpn, int version)
{
	struct weft_tls_want w = {.server = true, .trust_domain = "cluster.local"};
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	SSL *ssl;
	struct weft_tls *t;
	int fd[2], r = 0;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	SSL_CTX_set_max_proto_version(c, version);
	if (cert) {
		SSL_CTX_use_certificate(c, p->ca_leaf[0].x);
		SSL_CTX_use_PrivateKey(c, p->ca_leaf[0].key);
	}
	if (alpn)
		SSL_CTX_set_alpn_protos(c, (const unsigned char *)"\2h2", 3);
	ssl = SSL_new(c);
	SSL_set_fd(ssl, fd[0]);
	t = weft_tls_new(p->s[1].ctx, &w, fd[1]);
	for (int i = 0; i < 20 && r == 0; i++) {
		SSL_connect(ssl);
		r = weft_tls_handshake(t);
	}
	if (r == 1) {
		assert_int_equal(SSL_version(ssl), TLS1_3_VERSION);
		assert_string_equal(SSL_get_cipher(ssl), "TLS_AES_128_GCM_SHA256");
	}
	weft_tls_free(t);
	SSL_free(ssl);
	SSL_CTX_free(c);
	close(fd[0]);
	close(fd[1]);
	return r;
}

static void stock_clients(void **state)
{
	struct pair *p = pair_new();

	assert_int_equal(stock_client(p, true, true, TLS1_3_VERSION), 1);
	assert_true(stock_client(p, false, true, TLS1_3_VERSION) < 0);
	assert_true(stock_client(p, true, false, TLS1_3_VERSION) < 0);
	assert_true(stock_client(p, true, true, TLS1_2_VERSION) < 0);
	pair_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees),
		cmocka_unit_test(server_is_another),
		cmocka_unit_test(second_of_accepted),
		cmocka_unit_test(nobody_is_accepted),
		cmocka_unit_test(wrong_trust_domain),
		cmocka_unit_test(first_id_decides),
		cmocka_unit_test(no_san),
		cmocka_unit_test(nul_san),
		cmocka_unit_test(other_roots),
		cmocka_unit_test(wrong_purpose),
		cmocka_unit_test(expired),
		cmocka_unit_test(bad_pem),
		cmocka_unit_test(revoked),
		cmocka_unit_test(bytes),
		cmocka_unit_test(close_in_order),
		cmocka_unit_test(garbage),
		cmocka_unit_test(not_tls),
		cmocka_unit_test(stock_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
