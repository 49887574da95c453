/* OCSP staples, require_sni, PKCS #12 and the FIPS policy of TLS contexts. */
#include "test/unit/xds/tls_env.h"

#include <errno.h>
#include <openssl/ocsp.h>
#include <openssl/pkcs12.h>
#include <unistd.h>

#define DOWN (&envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor)

static struct tcert ca, ec, ec2, rsa, must;
static char dir[] = "/tmp/weft-staple-XXXXXX";
static struct tval vals[32];
static size_t n_vals;

static void val(const char *name, const char *text)
{
	vals[n_vals++] = (struct tval){name, text};
}

/* A file of the folder; its path under this name, too. */
static void put(const char *name, const void *p, size_t n)
{
	char path[100];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	fclose(f);
	val(name, strdup(path));
}

/* An OCSP response of `of` (and of `also`), valid until then. */
static void response(const char *name, const struct tcert *of, const struct tcert *also, long until,
		     int status)
{
	OCSP_BASICRESP *b = OCSP_BASICRESP_new();
	ASN1_TIME *this = X509_gmtime_adj(NULL, -7200);
	ASN1_TIME *next = until ? X509_gmtime_adj(NULL, until) : NULL;
	const struct tcert *all[] = {of, also};
	unsigned char *der = NULL;
	OCSP_RESPONSE *r;
	int n;

	for (int i = 0; i < 2 && all[i]; i++) {
		OCSP_CERTID *id = OCSP_cert_to_id(NULL, all[i]->x, ca.x);

		assert_non_null(
			OCSP_basic_add1_status(b, id, V_OCSP_CERTSTATUS_GOOD, 0, NULL, this, next));
		OCSP_CERTID_free(id);
	}
	assert_int_equal(OCSP_basic_sign(b, ca.x, ca.key, EVP_sha256(), NULL, 0), 1);
	r = OCSP_response_create(status, status ? NULL : b);
	n = i2d_OCSP_RESPONSE(r, &der);
	put(name, der, (size_t)n);
	OPENSSL_free(der);
	OCSP_RESPONSE_free(r);
	OCSP_BASICRESP_free(b);
	ASN1_TIME_free(this);
	ASN1_TIME_free(next);
}

static void store(const char *name, const char *password)
{
	STACK_OF(X509) *chain = sk_X509_new_null();
	unsigned char *der = NULL;
	PKCS12 *p;
	int n;

	sk_X509_push(chain, ca.x);
	p = PKCS12_create(password, "ec", ec.key, ec.x, chain, 0, 0, 0, 0, 0);
	assert_non_null(p);
	n = i2d_PKCS12(p, &der);
	put(name, der, (size_t)n);
	OPENSSL_free(der);
	PKCS12_free(p);
	sk_X509_free(chain);
}

/* With "TLS feature: status_request". */
static struct tcert must_new(void)
{
	struct tcert c = tcert_new(&ca, (struct tcert_want){.cn = "must", .sans = "DNS:m.example"});
	BIO *b = BIO_new(BIO_s_mem());

	tcert_ext(c.x, ca.x, NID_tlsfeature, "status_request");
	assert_true(X509_sign(c.x, ca.key, EVP_sha256()) > 0);
	PEM_write_bio_X509(b, c.x);
	tcert_pem(b, c.pem, sizeof(c.pem));
	return c;
}

static int all_up(void **state)
{
	assert_non_null(mkdtemp(dir));
	ca = tcert_new(NULL, (struct tcert_want){.cn = "root", .ca = true});
	ec = tcert_new(&ca, (struct tcert_want){.cn = "ec", .sans = "DNS:a.example"});
	ec2 = tcert_new(&ca, (struct tcert_want){.cn = "ec2", .sans = "DNS:a.example"});
	rsa = tcert_new(&ca, (struct tcert_want){.key = "rsa2048", .cn = "rsa", .sans = "DNS:r."});
	must = must_new();
	val("ec", ec.pem);
	val("ec.key", ec.key_pem);
	val("ec2", ec2.pem);
	val("ec2.key", ec2.key_pem);
	val("must", must.pem);
	val("must.key", must.key_pem);
	val("rsa", rsa.pem);
	val("rsa.key", rsa.key_pem);
	response("good", &ec, NULL, 3600, 0);
	response("good2", &ec2, NULL, 3600, 0);
	response("must.good", &must, NULL, 3600, 0);
	response("late", &ec, NULL, -3600, 0);
	response("endless", &ec, NULL, 0, 0);
	response("two", &ec, &ec2, 3600, 0);
	response("later", &ec, NULL, 3600, OCSP_RESPONSE_STATUS_TRYLATER);
	put("junk", "junk", 4);
	put("empty", "", 0);
	store("p12", "sesame");
	return 0;
}

static int all_down(void **state)
{
	struct tcert *all[] = {&ca, &ec, &ec2, &rsa, &must};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		tcert_free(all[i]);
	for (size_t i = 0; i < n_vals; i++) {
		if (strncmp(vals[i].text, dir, strlen(dir)) != 0)
			continue;
		unlink(vals[i].text);
		free((void *)vals[i].text);
	}
	return rmdir(dir);
}

static struct weft_tls_server *server(const char *yaml)
{
	struct weft_tls_server *s = NULL;
	struct tconf t;

	tconf_init(&t);
	if (weft_tls_server_new(&t.cfg, NULL, (const void *)tmsg(&t, DOWN, yaml, vals, n_vals),
				NULL, &s))
		fail_msg("%s: %s", t.errs.v[0].path, t.errs.v[0].msg);
	weft_arena_free(t.a);
	return s;
}

static void refused(const char *yaml, const char *path, const char *msg)
{
	struct weft_tls_server *s = NULL;
	struct tconf t;

	tconf_init(&t);
	assert_int_equal(weft_tls_server_new(&t.cfg, NULL,
					     (const void *)tmsg(&t, DOWN, yaml, vals, n_vals), NULL,
					     &s),
			 -EINVAL);
	if (strcmp(t.errs.v[0].path, path) != 0 || !strstr(t.errs.v[0].msg, msg))
		fail_msg("got %s: %s", t.errs.v[0].path, t.errs.v[0].msg);
	weft_arena_free(t.a);
}

struct seen {
	bool ok;
	long staple; /* bytes; -1: none */
	char cn[64];
};

static struct seen shake_of(struct weft_tls_server *s, const char *sni, bool asks, int version)
{
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	struct seen r = {0};
	unsigned char *p;
	struct thand h;

	SSL_CTX_set_max_proto_version(c, version);
	thand_new(&h, c, s->ctx, sni);
	if (asks)
		SSL_set_tlsext_status_type(h.c, TLSEXT_STATUSTYPE_ocsp);
	r.ok = thand_run(&h);
	r.staple = SSL_get_tlsext_status_ocsp_resp(h.c, &p);
	memcpy(r.cn, h.cn, sizeof(r.cn));
	thand_free(&h);
	SSL_CTX_free(c);
	return r;
}

static struct seen shake(const char *yaml, const char *sni, bool asks)
{
	struct weft_tls_server *s = server(yaml);
	struct seen r = shake_of(s, sni, asks, 0), old = shake_of(s, sni, asks, TLS1_2_VERSION);

	assert_int_equal(r.ok, old.ok);
	assert_int_equal(r.staple, old.staple);
	weft_tls_server_unref(s);
	return r;
}

#define CERT(n, more)                                                                              \
	"{certificate_chain: {inline_string: @" n "@}, private_key: {inline_string: @" n           \
	".key@}" more "}"
#define STAPLE(f)	    ", ocsp_staple: {filename: @" f "@}"
#define SERVER(certs, more) "{common_tls_context: {tls_certificates: [" certs "]}" more "}"
#define POLICY(p)	    ", ocsp_staple_policy: " p

static void test_policies(void **state)
{
	static const struct {
		const char *staple, *policy;
		bool ok, stapled;
	} v[] = {
		{"", "LENIENT_STAPLING", true, false},
		{STAPLE("good"), "LENIENT_STAPLING", true, true},
		{STAPLE("late"), "LENIENT_STAPLING", true, false},
		{STAPLE("endless"), "LENIENT_STAPLING", true, false},
		{STAPLE("empty"), "LENIENT_STAPLING", true, false},
		{"", "STRICT_STAPLING", true, false},
		{STAPLE("good"), "STRICT_STAPLING", true, true},
		{STAPLE("late"), "STRICT_STAPLING", false, false},
		{STAPLE("good"), "MUST_STAPLE", true, true},
		{STAPLE("late"), "MUST_STAPLE", false, false},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		char y[500];
		struct seen r;

		snprintf(y, sizeof(y),
			 "{common_tls_context: {tls_certificates: [{certificate_chain: "
			 "{inline_string: @ec@}, private_key: {inline_string: @ec.key@}%s}]}%s%s}",
			 v[i].staple, ", ocsp_staple_policy: ", v[i].policy);
		r = shake(y, "a.example", true);
		if (r.ok != v[i].ok || (r.staple > 0) != v[i].stapled)
			fail_msg("%zu: ok %d, staple %ld", i, r.ok, r.staple);
		/* who does not ask is never refused, and gets none */
		r = shake(y, "a.example", false);
		assert_true(r.ok);
		assert_int_equal(r.staple, -1);
	}
}

/* A certificate whose response is over is passed by for another of the name. */
static void test_choice(void **state)
{
	static const char y[] = SERVER(CERT("ec", STAPLE("late")) ", " CERT("ec2", STAPLE("good2")),
				       POLICY("STRICT_STAPLING"));
	struct seen r = shake(y, "a.example", true);

	assert_true(r.ok);
	assert_true(r.staple > 0);
	assert_string_equal(r.cn, "ec2");
	assert_string_equal(shake(y, "a.example", false).cn, "ec");
	assert_string_equal(shake(y, NULL, true).cn, "ec2");
	assert_false(shake(y, "else.example", true).ok); /* the first, and its response is over */
}

static void test_must_staple(void **state)
{
	refused(SERVER(CERT("must", ""), ""), "ocsp_staple_policy",
		"certificate 0 is a must-staple one and has no ocsp_staple");
	assert_true(shake(SERVER(CERT("must", STAPLE("must.good")), ""), NULL, true).staple > 0);
	refused(SERVER(CERT("ec", STAPLE("good")) ", " CERT("rsa", ""), POLICY("MUST_STAPLE")),
		"ocsp_staple_policy", "is MUST_STAPLE, and certificate 1 has no ocsp_staple");
}

static void test_bad_responses(void **state)
{
	static const char at[] = "common_tls_context.tls_certificates[0].ocsp_staple";

	refused(SERVER(CERT("ec", STAPLE("good2")), ""), at, "does not match its certificate");
	refused(SERVER(CERT("ec", STAPLE("two")), ""), at, "for one certificate only");
	refused(SERVER(CERT("ec", STAPLE("later")), ""), at, "was unsuccessful");
	refused(SERVER(CERT("ec", STAPLE("junk")), ""), at, "must be one OCSP response in DER");
	refused(SERVER(CERT("ec", ", ocsp_staple: {inline_string: x}"), ""), at,
		"must not be an inline_string");
	refused(SERVER(CERT("ec", ", ocsp_staple: {filename: /nonexistent}"), ""),
		"common_tls_context.tls_certificates[0].ocsp_staple.filename", "cannot read");
}

static void test_require_sni(void **state)
{
	static const char y[] = SERVER(CERT("ec", ""), ", require_sni: true");

	assert_true(shake(y, "a.example", false).ok);
	assert_false(shake(y, "b.example", false).ok);
	assert_false(shake(y, NULL, false).ok);
	assert_true(shake(SERVER(CERT("ec", ""), ""), NULL, false).ok);
}

static void test_pkcs12(void **state)
{
	static const char at[] = "common_tls_context.tls_certificates[0].pkcs12";
	struct weft_tls_server *s = server(
		SERVER("{pkcs12: {filename: @p12@}, password: {inline_string: sesame}}", ""));
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	struct thand h;

	thand_new(&h, c, s->ctx, NULL);
	assert_true(thand_run(&h));
	assert_string_equal(h.cn, "ec");
	assert_int_equal(sk_X509_num(SSL_get_peer_cert_chain(h.c)), 2);
	assert_int_equal(s->n_certs, 1);
	assert_string_equal(s->certs[0].dns[0], "a.example");
	thand_free(&h);
	SSL_CTX_free(c);
	weft_tls_server_unref(s);
	refused(SERVER("{pkcs12: {filename: @p12@}, password: {inline_string: open}}", ""), at,
		"must be a PKCS #12 key store");
	refused(SERVER("{pkcs12: {filename: @junk@}}", ""), at, "must be a PKCS #12 key store");
	refused(SERVER("{pkcs12: {inline_string: x}}", ""), at, "must not be an inline_string");
	refused(SERVER(CERT("ec", ", pkcs12: {filename: @p12@}"), ""), at,
		"excludes certificate_chain and private_key");
}

#define PARAMS(p)                                                                                  \
	"{common_tls_context: {tls_params: {" p "}, tls_certificates: [" CERT("ec", "") "]}}"

static bool speaks(struct weft_tls_server *s, const char *groups, const char *ciphers,
		   const char *ciphers13)
{
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	struct thand h;
	bool ok;

	if (groups)
		assert_int_equal(SSL_CTX_set1_groups_list(c, groups), 1);
	if (ciphers) {
		SSL_CTX_set_max_proto_version(c, TLS1_2_VERSION);
		assert_int_equal(SSL_CTX_set_cipher_list(c, ciphers), 1);
	}
	if (ciphers13)
		assert_int_equal(SSL_CTX_set_ciphersuites(c, ciphers13), 1);
	thand_new(&h, c, s->ctx, NULL);
	ok = thand_run(&h);
	thand_free(&h);
	SSL_CTX_free(c);
	return ok;
}

static void test_fips(void **state)
{
	/* it goes before the other parameters */
	struct weft_tls_server *s = server(PARAMS("compliance_policies: [FIPS_202205], "
						  "ecdh_curves: [X25519]")),
			       *all = server(PARAMS(""));
	static const char chacha[] = "TLS_CHACHA20_POLY1305_SHA256",
			  chacha12[] = "ECDHE-ECDSA-CHACHA20-POLY1305";

	assert_true(speaks(s, "P-256", NULL, NULL));
	assert_true(speaks(s, "P-384", NULL, NULL));
	assert_false(speaks(s, "X25519", NULL, NULL));
	assert_true(speaks(all, "X25519", NULL, NULL));
	assert_false(speaks(s, NULL, NULL, chacha));
	assert_true(speaks(all, NULL, NULL, chacha));
	assert_false(speaks(s, NULL, chacha12, NULL));
	assert_true(speaks(all, NULL, chacha12, NULL));
	assert_true(speaks(s, NULL, "ECDHE-ECDSA-AES256-GCM-SHA384", NULL));
	weft_tls_server_unref(s);
	weft_tls_server_unref(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_policies),    cmocka_unit_test(test_choice),
		cmocka_unit_test(test_must_staple), cmocka_unit_test(test_bad_responses),
		cmocka_unit_test(test_require_sni), cmocka_unit_test(test_pkcs12),
		cmocka_unit_test(test_fips),
	};

	return cmocka_run_group_tests(tests, all_up, all_down);
}
