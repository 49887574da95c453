#include "test/unit/xds/tls_env.h"

#include <errno.h>
#include <openssl/sha.h>
#include <time.h>
#include <unistd.h>

#define DOWN (&envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor)
#define UP   (&envoy__extensions__transport_sockets__tls__v3__upstream_tls_context__descriptor)
#define SEC  (&envoy__extensions__transport_sockets__tls__v3__secret__descriptor)

static struct tcert ca, other_ca, sub_ca, ec, ec2, ec384, rsa, wild, cli, cli_sub, old;
static char crl[4096], empty_crl[4096], sub_crl[4096], sub_chain[20000];
static struct tval vals[32];
static size_t n_vals;

static void val(const char *name, const char *text)
{
	vals[n_vals++] = (struct tval){name, text};
}

static int all_up(void **state)
{
	ca = tcert_new(NULL, (struct tcert_want){.cn = "root", .ca = true});
	other_ca = tcert_new(NULL, (struct tcert_want){.cn = "other root", .ca = true});
	sub_ca = tcert_new(&ca, (struct tcert_want){.cn = "sub", .ca = true});
	ec = tcert_new(&ca, (struct tcert_want){.cn = "ec", .sans = "DNS:a.example,IP:127.0.0.1"});
	ec2 = tcert_new(&ca, (struct tcert_want){.cn = "b.example"});
	ec384 = tcert_new(
		&ca, (struct tcert_want){.key = "P-384", .cn = "ec384", .sans = "DNS:c.example"});
	rsa = tcert_new(
		&ca, (struct tcert_want){.key = "rsa2048", .cn = "rsa", .sans = "DNS:a.example"});
	wild = tcert_new(&ca, (struct tcert_want){.cn = "wild", .sans = "DNS:*.w.example"});
	cli = tcert_new(&ca, (struct tcert_want){.cn = "client",
						 .sans = "URI:spiffe://x/ns/n/sa/s,DNS:cli.example,"
							 "email:me@example.org,IP:10.0.0.7"});
	cli_sub = tcert_new(&sub_ca, (struct tcert_want){.cn = "client of sub"});
	old = tcert_new(&ca, (struct tcert_want){.cn = "old", .from = -7200, .to = -3600});
	tcrl(&ca, &cli, crl, sizeof(crl));
	tcrl(&ca, NULL, empty_crl, sizeof(empty_crl));
	tcrl(&sub_ca, NULL, sub_crl, sizeof(sub_crl));
	snprintf(sub_chain, sizeof(sub_chain), "%s%s", cli_sub.pem, sub_ca.pem);
	val("ca", ca.pem);
	val("other_ca", other_ca.pem);
	val("ec", ec.pem);
	val("ec.key", ec.key_pem);
	val("ec2", ec2.pem);
	val("ec2.key", ec2.key_pem);
	val("ec384", ec384.pem);
	val("ec384.key", ec384.key_pem);
	val("rsa", rsa.pem);
	val("rsa.key", rsa.key_pem);
	val("wild", wild.pem);
	val("wild.key", wild.key_pem);
	val("cli", cli.pem);
	val("cli.key", cli.key_pem);
	val("sub_ca", sub_ca.pem);
	val("sub", sub_chain);
	val("sub.key", cli_sub.key_pem);
	val("old", old.pem);
	val("old.key", old.key_pem);
	val("crl", crl);
	val("empty_crl", empty_crl);
	val("sub_crl", sub_crl);
	return 0;
}

static int all_down(void **state)
{
	struct tcert *all[] = {&ca,  &other_ca, &sub_ca, &ec,	   &ec2, &ec384,
			       &rsa, &wild,	&cli,	 &cli_sub, &old};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		tcert_free(all[i]);
	return 0;
}

static struct weft_tls_server *server_of(struct tconf *t, const char *yaml,
					 const struct weft_tls_secrets *secrets, int want)
{
	struct weft_tls_server *s = NULL;
	int r;

	tconf_init(t);
	r = weft_tls_server_new(&t->cfg, NULL, (const void *)tmsg(t, DOWN, yaml, vals, n_vals),
				secrets, &s);
	if (r != want)
		fail_msg("%d, want %d: %s: %s", r, want, t->errs.v[0].path, t->errs.v[0].msg);
	return s;
}

static struct weft_tls_client *client_of(struct tconf *t, const char *yaml, int want)
{
	struct weft_tls_client *s = NULL;
	int r;

	tconf_init(t);
	r = weft_tls_client_new(&t->cfg, NULL, (const void *)tmsg(t, UP, yaml, vals, n_vals), NULL,
				&s);
	if (r != want)
		fail_msg("%d, want %d: %s: %s", r, want, t->errs.v[0].path, t->errs.v[0].msg);
	return s;
}

static struct weft_tls_server *server(const char *yaml)
{
	struct tconf t;
	struct weft_tls_server *s = server_of(&t, yaml, NULL, 0);

	weft_arena_free(t.a); /* nothing of the messages is kept */
	return s;
}

static struct weft_tls_client *client(const char *yaml)
{
	struct tconf t;
	struct weft_tls_client *s = client_of(&t, yaml, 0);

	weft_arena_free(t.a);
	return s;
}

static void refused(bool down, const char *yaml, const char *path, const char *msg)
{
	struct tconf t;
	bool found = false;

	if (down)
		server_of(&t, yaml, NULL, -EINVAL);
	else
		client_of(&t, yaml, -EINVAL);
	for (int i = 0; i < t.errs.n; i++)
		found |= !strcmp(t.errs.v[i].path, path) && strstr(t.errs.v[i].msg, msg);
	if (!found)
		fail_msg("got %s: %s", t.errs.v[0].path, t.errs.v[0].msg);
	weft_arena_free(t.a);
}

#define CERT(n)                                                                                    \
	"{certificate_chain: {inline_string: @" n "@}, private_key: {inline_string: @" n ".key@}}"
#define SERVER	  "{common_tls_context: {tls_certificates: [" CERT("ec") "]}}"
#define V13	  "tls_params: {tls_maximum_protocol_version: TLSv1_3}"
#define CA(n)	  "trusted_ca: {inline_string: @" n "@}"
#define CLIENT(v) "{common_tls_context: {" V13 ", validation_context: {" v "}}}"

/* ---- what a client makes of a server's certificate */

static bool client_takes(const char *server_yaml, const char *client_yaml, const char *sni)
{
	struct weft_tls_server *s = server(server_yaml);
	struct weft_tls_client *c = client(client_yaml);
	struct thand h;
	bool ok;

	thand_new(&h, c->ctx, s->ctx, sni);
	ok = thand_run(&h);
	thand_free(&h);
	weft_tls_server_unref(s);
	weft_tls_client_unref(c);
	return ok;
}

static bool takes(const char *validation, const char *sni)
{
	char *y = NULL;
	bool ok;

	assert_true(asprintf(&y, "{common_tls_context: {" V13 ", validation_context: {%s}}}",
			     validation) > 0);
	ok = client_takes(SERVER, y, sni);
	free(y);
	return ok;
}

static void test_chain(void **state)
{
	assert_true(takes(CA("ca"), NULL));
	assert_false(takes(CA("other_ca"), NULL));
	assert_true(client_takes(SERVER, "{common_tls_context: {}}", NULL)); /* as Envoy */
	assert_true(client_takes(SERVER, "{}", NULL));
	assert_true(takes(CA("other_ca") ", trust_chain_verification: ACCEPT_UNTRUSTED", NULL));
}

#define SAN(t, m) CA("ca") ", match_typed_subject_alt_names: [{san_type: " t ", matcher: {" m "}}]"

static void test_sans(void **state)
{
	assert_true(takes(SAN("DNS", "exact: a.example"), NULL));
	assert_true(takes(SAN("DNS", "exact: A.Example"), NULL));
	assert_false(takes(SAN("DNS", "exact: b.example"), NULL));
	assert_false(takes(SAN("URI", "exact: a.example"), NULL));
	assert_true(takes(SAN("DNS", "prefix: a."), NULL));
	assert_false(takes(SAN("DNS", "prefix: example"), NULL));
	assert_true(takes(SAN("DNS", "suffix: .example"), NULL));
	assert_false(takes(SAN("DNS", "suffix: .exampl"), NULL));
	assert_true(takes(SAN("DNS", "contains: .ex"), NULL));
	assert_true(takes(SAN("DNS", "prefix: A., ignore_case: true"), NULL));
	assert_false(takes(SAN("DNS", "prefix: A."), NULL));
	assert_true(takes(SAN("DNS", "safe_regex: {regex: '[a-c]\\.ex.*'}"), NULL));
	assert_false(takes(SAN("DNS", "safe_regex: {regex: 'ample'}"), NULL));
	assert_true(takes(SAN("IP_ADDRESS", "exact: 127.0.0.1"), NULL));
	assert_false(takes(SAN("IP_ADDRESS", "exact: 127.0.0.2"), NULL));
	assert_true(takes(CA("ca") ", match_subject_alt_names: [{exact: x}, {exact: 127.0.0.1}]",
			  NULL));
}

static void test_san_wildcard(void **state)
{
	static const char srv[] = "{common_tls_context: {tls_certificates: [" CERT("wild") "]}}";

	assert_true(client_takes(srv, CLIENT(SAN("DNS", "exact: a.w.example")), NULL));
	assert_false(client_takes(srv, CLIENT(SAN("DNS", "exact: a.b.w.example")), NULL));
	assert_false(client_takes(srv, CLIENT(SAN("DNS", "exact: w.example")), NULL));
}

static void hex_of(const uint8_t *p, char *dst, bool colons)
{
	for (int i = 0; i < 32; i++)
		dst += sprintf(dst, "%s%02x", colons && i ? ":" : "", p[i]);
}

static void test_pins(void **state)
{
	uint8_t d[32];
	unsigned char *der = NULL, b64[64];
	unsigned n = 32;
	char y[400], hex[100];
	int k;

	X509_digest(ec.x, EVP_sha256(), d, &n);
	for (int colons = 0; colons < 2; colons++) {
		hex_of(d, hex, colons);
		snprintf(y, sizeof(y), "verify_certificate_hash: ['%s']", hex);
		assert_true(takes(y, NULL));
	}
	hex[0] = hex[0] == '0' ? '1' : '0';
	snprintf(y, sizeof(y), "verify_certificate_hash: ['%s']", hex);
	assert_false(takes(y, NULL));
	k = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(ec.x), &der);
	SHA256(der, (size_t)k, d);
	OPENSSL_free(der);
	EVP_EncodeBlock(b64, d, 32);
	snprintf(y, sizeof(y), "verify_certificate_hash: ['%s'], verify_certificate_spki: ['%s']",
		 hex, b64);
	assert_true(takes(y, NULL)); /* one of them is enough */
	d[0] ^= 1;
	EVP_EncodeBlock(b64, d, 32);
	snprintf(y, sizeof(y), "verify_certificate_spki: ['%s']", b64);
	assert_false(takes(y, NULL));
}

static void test_auto_sni_san(void **state)
{
	static const char cl[] = "{auto_sni_san_validation: true, common_tls_context: {" V13
				 ", validation_context: {" CA("ca") "}}}";

	assert_true(client_takes(SERVER, cl, "a.example"));
	assert_false(client_takes(SERVER, cl, "b.example"));
	refused(false, "{auto_sni_san_validation: true, common_tls_context: {}}",
		"auto_sni_san_validation", "needs trusted_ca");
}

static void test_expired(void **state)
{
	static const char srv[] = "{common_tls_context: {tls_certificates: [" CERT("old") "]}}";
	struct tconf t;
	struct weft_tls_server *s;

	assert_false(client_takes(srv, CLIENT(CA("ca")), NULL));
	assert_true(client_takes(srv, CLIENT(CA("ca") ", allow_expired_certificate: true"), NULL));
	s = server_of(&t, srv, NULL, 0);
	assert_int_equal(t.warns.n, 1);
	assert_string_equal(t.warns.v[0].path,
			    "common_tls_context.tls_certificates[0].certificate_chain");
	weft_arena_free(t.a);
	weft_tls_server_unref(s);
}

static void test_rsa_usage(void **state)
{
	struct tcert x = tcert_new(
		&ca, (struct tcert_want){.key = "rsa2048", .cn = "x", .usage = "keyEncipherment"});
	static const char srv[] = "{common_tls_context: {tls_certificates: [" CERT("x") "]}}";
	size_t was = n_vals;

	val("x", x.pem);
	val("x.key", x.key_pem);
#define OLD ", common_tls_context: {validation_context: {" CA("ca") "}}}"
	assert_true(client_takes(srv, "{enforce_rsa_key_usage: false" OLD, NULL));
	assert_false(client_takes(srv, "{enforce_rsa_key_usage: true" OLD, NULL));
	assert_false(client_takes(srv, CLIENT(CA("ca")), NULL)); /* TLS 1.3: always */
	n_vals = was;
	tcert_free(&x);
}

/* ---- what a server makes of a client's */

#define SERVER_WITH(v, more)                                                                       \
	"{common_tls_context: {tls_certificates: [" CERT("ec") "], validation_context: {" v        \
							       "}}" more "}"
#define REQUIRE ", require_client_certificate: true"

static bool server_takes(const char *srv, const char *cert, long *ret_verify)
{
	struct weft_tls_server *s = server(srv);
	struct weft_tls_client *c;
	struct thand h;
	char *y = NULL;
	bool ok;

	if (cert)
		assert_true(asprintf(&y,
				     "{common_tls_context: {" V13
				     ", tls_certificates: [{certificate_chain: {inline_string: "
				     "@%s@}, private_key: {inline_string: @%s.key@}}]}}",
				     cert, cert) > 0);
	c = client(cert ? y : "{common_tls_context: {" V13 "}}");
	free(y);
	thand_new(&h, c->ctx, s->ctx, NULL);
	ok = thand_run(&h);
	if (ret_verify)
		*ret_verify = h.s_verify;
	thand_free(&h);
	weft_tls_server_unref(s);
	weft_tls_client_unref(c);
	return ok;
}

static void test_client_certificates(void **state)
{
	long v;

	assert_true(server_takes(SERVER_WITH(CA("ca"), REQUIRE), "cli", &v));
	assert_int_equal(v, X509_V_OK);
	assert_false(server_takes(SERVER_WITH(CA("ca"), REQUIRE), NULL, NULL));
	assert_true(server_takes(SERVER_WITH(CA("ca"), ""), NULL, NULL));
	assert_false(server_takes(SERVER_WITH(CA("other_ca"), ""), "cli", NULL));
	assert_true(server_takes(
		SERVER_WITH(CA("other_ca") ", trust_chain_verification: ACCEPT_UNTRUSTED", REQUIRE),
		"cli", &v));
	assert_int_not_equal(v, X509_V_OK); /* let in, not verified */
	assert_true(server_takes("{common_tls_context: {tls_certificates: [" CERT("ec") "]}" REQUIRE
											"}",
				 "cli", &v));
	assert_int_not_equal(v, X509_V_OK);
	assert_true(server_takes(SERVER_WITH(SAN("URI", "prefix: 'spiffe://x/'"), REQUIRE), "cli",
				 NULL));
	assert_false(server_takes(SERVER_WITH(SAN("URI", "prefix: 'spiffe://y/'"), REQUIRE), "cli",
				  NULL));
	assert_true(server_takes(SERVER_WITH(SAN("EMAIL", "exact: me@example.org"), REQUIRE), "cli",
				 NULL));
}

static void test_crl_and_depth(void **state)
{
	assert_false(server_takes(SERVER_WITH(CA("ca") ", crl: {inline_string: @crl@}", REQUIRE),
				  "cli", NULL));
	assert_true(server_takes(
		SERVER_WITH(CA("ca") ", crl: {inline_string: @empty_crl@}", REQUIRE), "cli", NULL));
	assert_true(server_takes(SERVER_WITH(CA("ca"), REQUIRE), "sub", NULL));
	assert_true(server_takes(SERVER_WITH(CA("sub_ca"), REQUIRE), "sub", NULL));
	assert_false(server_takes(SERVER_WITH(CA("sub_ca"), REQUIRE), "cli", NULL));
	/* of a chain every issuer needs one, or the leaf's alone */
	assert_false(server_takes(
		SERVER_WITH(CA("ca") ", crl: {inline_string: @empty_crl@}", REQUIRE), "sub", NULL));
	assert_false(server_takes(
		SERVER_WITH(CA("ca") ", crl: {inline_string: @sub_crl@}", REQUIRE), "sub", NULL));
	assert_true(server_takes(SERVER_WITH(CA("ca") ", crl: {inline_string: @sub_crl@}, "
						      "only_verify_leaf_cert_crl: true",
					     REQUIRE),
				 "sub", NULL));
	assert_false(
		server_takes(SERVER_WITH(CA("ca") ", max_verify_depth: 1", REQUIRE), "sub", NULL));
	assert_true(
		server_takes(SERVER_WITH(CA("ca") ", max_verify_depth: 1", REQUIRE), "cli", NULL));
	assert_true(
		server_takes(SERVER_WITH(CA("ca") ", max_verify_depth: 2", REQUIRE), "sub", NULL));
}

/* ---- certificates by name and key */

static void shows(struct weft_tls_server *s, const char *sni, const char *sigalgs, const char *want)
{
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	struct thand h;

	if (sigalgs)
		assert_int_equal(SSL_CTX_set1_sigalgs_list(c, sigalgs), 1);
	thand_new(&h, c, s->ctx, sni);
	thand_run(&h);
	assert_string_equal(h.cn, want);
	thand_free(&h);
	SSL_CTX_free(c);
}

#define MANY                                                                                       \
	"{common_tls_context: {tls_certificates: [" CERT("ec2") ", " CERT("rsa") ", " CERT(        \
		"ec") ", " CERT("wild") ", " CERT("ec384") "]}"

static void test_by_name(void **state)
{
	struct weft_tls_server *s = server(MANY "}");

	shows(s, "a.example", NULL, "ec");
	shows(s, "A.EXAMPLE", NULL, "ec");
	shows(s, "a.example", "RSA-PSS+SHA256:RSA+SHA256", "rsa");
	shows(s, "b.example", NULL, "b.example"); /* the common name, as there is no SAN */
	shows(s, "x.w.example", NULL, "wild");
	shows(s, "c.example", NULL, "ec384");
	shows(s, "unknown.example", NULL, "b.example"); /* the first */
	shows(s, NULL, NULL, "b.example");
	shows(s, NULL, "RSA-PSS+SHA256:RSA+SHA256", "rsa");
	assert_int_equal(s->n_certs, 5);
	weft_tls_server_unref(s);
	s = server(MANY ", full_scan_certs_on_sni_mismatch: true}");
	shows(s, "unknown.example", "RSA-PSS+SHA256:RSA+SHA256", "rsa");
	weft_tls_server_unref(s);
}

/* ---- parameters */

static const char *agreed(const char *srv, const char *cl, const char **ret_cipher)
{
	struct weft_tls_server *s = server(srv);
	struct weft_tls_client *c = client(cl);
	struct thand h;
	const char *v;

	thand_new(&h, c->ctx, s->ctx, NULL);
	v = thand_run(&h) ? SSL_get_version(h.c) : "none";
	if (ret_cipher)
		*ret_cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(h.c));
	thand_free(&h);
	weft_tls_server_unref(s);
	weft_tls_client_unref(c);
	return v;
}

#define PARAMS(p)  "{common_tls_context: {tls_params: {" p "}, tls_certificates: [" CERT("ec") "]}}"
#define CPARAMS(p) "{common_tls_context: {tls_params: {" p "}}}"

static void test_params(void **state)
{
	const char *cipher;

	assert_string_equal(agreed(SERVER, "{common_tls_context: {}}", NULL), "TLSv1.2");
	assert_string_equal(agreed(SERVER, "{common_tls_context: {" V13 "}}", &cipher), "TLSv1.3");
	assert_string_equal(cipher, "TLS_AES_128_GCM_SHA256");
	assert_string_equal(agreed(PARAMS("tls_maximum_protocol_version: TLSv1_2"),
				   "{common_tls_context: {" V13 "}}", NULL),
			    "TLSv1.2");
	assert_string_equal(agreed(PARAMS("tls_minimum_protocol_version: TLSv1_3"),
				   "{common_tls_context: {}}", NULL),
			    "none");
	agreed(PARAMS("cipher_suites: ['[ECDHE-ECDSA-AES256-GCM-SHA384|AES128-SHA]']"),
	       "{common_tls_context: {}}", &cipher);
	assert_string_equal(cipher, "ECDHE-ECDSA-AES256-GCM-SHA384");
	assert_string_equal(
		agreed(PARAMS("ecdh_curves: [P-384]"), CPARAMS("ecdh_curves: [X25519]"), NULL),
		"none");
	assert_string_equal(agreed(PARAMS("ecdh_curves: [P-384]"),
				   CPARAMS("ecdh_curves: [X25519, P-384], "
					   "tls_maximum_protocol_version: TLSv1_3"),
				   NULL),
			    "TLSv1.3");
	assert_string_equal(agreed(PARAMS("signature_algorithms: [ecdsa_secp256r1_sha256]"),
				   CPARAMS("signature_algorithms: [rsa_pss_rsae_sha256]"), NULL),
			    "none");
}

#define TWO "cipher_suites: [ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-ECDSA-AES256-GCM-SHA384]"

static void test_prefer_client_ciphers(void **state)
{
	static const char cl[] = CPARAMS("cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384, "
					 "ECDHE-ECDSA-AES128-GCM-SHA256]");
	const char *cipher;

	agreed(PARAMS(TWO), cl, &cipher);
	assert_string_equal(cipher, "ECDHE-ECDSA-AES128-GCM-SHA256");
	agreed("{prefer_client_ciphers: true, common_tls_context: {tls_params: {" TWO
	       "}, tls_certificates: [" CERT("ec") "]}}",
	       cl, &cipher);
	assert_string_equal(cipher, "ECDHE-ECDSA-AES256-GCM-SHA384");
}

/* Those of the machine, which our test CA is not of. */
static void test_system_root_certs(void **state)
{
	struct weft_tls_client *c;

	if (access("/etc/ssl/certs/ca-certificates.crt", R_OK))
		skip();
	c = client(CLIENT("system_root_certs: {}"));
	assert_true(c->n_certs > 10 && c->certs[0].ca);
	weft_tls_client_unref(c);
	assert_false(takes("system_root_certs: {}", NULL));
	assert_true(takes("system_root_certs: {}, " CA("ca"), NULL)); /* trusted_ca goes first */
}

/* What becomes of a server's wish for another handshake. */
static long renegotiated(const char *yaml)
{
	struct weft_tls_server *s = server(SERVER);
	struct weft_tls_client *c = client(yaml);
	struct thand h;
	char b[16];
	long n;

	SSL_CTX_clear_options(s->ctx, SSL_OP_NO_RENEGOTIATION);
	thand_new(&h, c->ctx, s->ctx, NULL);
	assert_true(thand_run(&h));
	assert_int_equal(SSL_renegotiate(h.s), 1);
	for (int i = 0; i < 6; i++) {
		SSL_do_handshake(h.s);
		(void)SSL_read(h.c, b, sizeof(b));
		(void)SSL_read(h.s, b, sizeof(b));
	}
	n = SSL_total_renegotiations(h.c);
	thand_free(&h);
	weft_tls_server_unref(s);
	weft_tls_client_unref(c);
	return n;
}

static void test_renegotiation(void **state)
{
	assert_int_equal(renegotiated("{allow_renegotiation: true, common_tls_context: {}}"), 1);
	assert_int_equal(renegotiated("{common_tls_context: {}}"), 0);
}

/* A session that is over is not taken. */
static void test_session_timeout(void **state)
{
	struct weft_tls_server *s = server(
		"{session_timeout: 5s, common_tls_context: {tls_certificates: [" CERT("ec") "]}}");

	assert_int_equal(SSL_CTX_get_timeout(s->ctx), 5);
	weft_tls_server_unref(s);
	s = server(
		"{session_timeout: 0s, common_tls_context: {tls_certificates: [" CERT("ec") "]}}");
	assert_int_equal(SSL_CTX_get_timeout(s->ctx), 7200); /* the default, as in Envoy */
	weft_tls_server_unref(s);
}

static void test_alpn(void **state)
{
	struct weft_tls_server *s = server("{common_tls_context: {alpn_protocols: [h2, http/1.1], "
					   "tls_certificates: [" CERT("ec") "]}}");
	struct weft_tls_client *c =
		client("{sni: s.example, common_tls_context: {alpn_protocols: [http/1.1, h2]}}");
	const unsigned char *p;
	struct thand h;
	unsigned n;

	thand_new(&h, c->ctx, s->ctx, c->sni);
	assert_true(thand_run(&h));
	SSL_get0_alpn_selected(h.c, &p, &n);
	assert_int_equal(n, 2);
	assert_memory_equal(p, "h2", 2); /* the server's order */
	assert_string_equal(SSL_get_servername(h.s, TLSEXT_NAMETYPE_host_name), "s.example");
	assert_string_equal(c->alpn[0], "http/1.1");
	assert_null(c->alpn[2]);
	thand_free(&h);
	weft_tls_server_unref(s);
	weft_tls_client_unref(c);
}

/* ---- resumption */

static bool resumes_at(struct weft_tls_server *a, struct weft_tls_server *b, int version)
{
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	SSL_SESSION *sess;
	struct thand h;
	bool r;

	SSL_CTX_set_max_proto_version(c, version);
	thand_new(&h, c, a->ctx, NULL);
	assert_true(thand_run(&h));
	sess = SSL_get1_session(h.c);
	SSL_shutdown(h.c);
	SSL_shutdown(h.s);
	thand_free(&h);
	thand_new(&h, c, b->ctx, NULL);
	SSL_set_session(h.c, sess);
	assert_true(thand_run(&h));
	r = SSL_session_reused(h.s);
	thand_free(&h);
	SSL_SESSION_free(sess);
	SSL_CTX_free(c);
	return r;
}

static char *keys(const char *first, const char *second)
{
	char *y = NULL;

	assert_true(asprintf(&y,
			     "{common_tls_context: {tls_certificates: [" CERT(
				     "ec") "]}, "
					   "session_ticket_keys: {keys: [%s%s%s]}}",
			     first, second ? ", " : "", second ? second : "") > 0);
	return y;
}

#define K10    "0123456789"
#define KEY(c) "{inline_string: '" c K10 K10 K10 K10 K10 K10 K10 "012345678'}"

static void test_tickets(void **state)
{
	char *y[3] = {keys(KEY("A"), NULL), keys(KEY("B"), KEY("A")), keys(KEY("B"), NULL)};
	struct weft_tls_server *s[4];

	for (int i = 0; i < 3; i++) {
		s[i] = server(y[i]);
		free(y[i]);
	}
	s[3] = server(SERVER);
	for (int i = 0; i < 2; i++) {
		int v = i ? TLS1_2_VERSION : 0;

		assert_true(resumes_at(s[3], s[3], v));
		assert_true(resumes_at(s[0], s[0], v));
		assert_true(resumes_at(s[0], s[1], v)); /* an older key still opens */
		assert_false(resumes_at(s[0], s[2], v));
		assert_false(resumes_at(s[3], s[0], v));
	}
	for (int i = 0; i < 4; i++)
		weft_tls_server_unref(s[i]);
	s[0] = server("{common_tls_context: {tls_certificates: [" CERT(
		"ec") "]}, disable_stateless_session_resumption: true, "
		      "disable_stateful_session_resumption: true}");
	assert_false(resumes_at(s[0], s[0], 0));
	assert_false(resumes_at(s[0], s[0], TLS1_2_VERSION));
	weft_tls_server_unref(s[0]);
	s[0] = server("{common_tls_context: {tls_certificates: [" CERT(
		"ec") "]}, disable_stateless_session_resumption: true}");
	assert_true(resumes_at(s[0], s[0], TLS1_2_VERSION));
	weft_tls_server_unref(s[0]);
}

/* ---- secrets */

struct store {
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *v[4];
	int asked;
};

static const Envoy__Extensions__TransportSockets__Tls__V3__Secret *
store_get(void *ctx, const char *name, const Envoy__Config__Core__V3__ConfigSource *source)
{
	struct store *s = ctx;

	s->asked++;
	for (int i = 0; i < 4; i++) {
		if (s->v[i] && !strcmp(s->v[i]->name, name))
			return s->v[i];
	}
	return NULL;
}

static void test_secrets(void **state)
{
	static const char y[] =
		"{common_tls_context: {tls_certificate_sds_secret_configs: [{name: cert, "
		"sds_config: "
		"{ads: {}}}], combined_validation_context: {default_validation_context: "
		"{match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "
		"'spiffe://x/'}}]}, validation_context_sds_secret_config: {name: roots, "
		"sds_config: "
		"{ads: {}}}}}, require_client_certificate: true, "
		"session_ticket_keys_sds_secret_config: {name: keys, sds_config: {ads: {}}}}";
	const Envoy__Config__Core__V3__ConfigSource *src;
	const Envoy__Extensions__TransportSockets__Tls__V3__DownstreamTlsContext *m;
	struct store st = {0};
	struct weft_tls_secrets sec = {store_get, &st};
	struct weft_tls_server *s;
	struct tconf t, t2;
	const char *name;

	server_of(&t, y, &sec, -EAGAIN);
	assert_int_equal(t.errs.n, 0);
	st.v[0] = (const void *)tmsg(&t, SEC, "{name: cert, tls_certificate: " CERT("ec") "}", vals,
				     n_vals);
	st.v[1] = (const void *)tmsg(
		&t, SEC, "{name: keys, session_ticket_keys: {keys: [" KEY("A") "]}}", vals, n_vals);
	server_of(&t2, y, &sec, -EAGAIN);
	weft_arena_free(t2.a);
	st.v[2] = (const void *)tmsg(&t, SEC, "{name: roots, validation_context: {" CA("ca") "}}",
				     vals, n_vals);
	s = server_of(&t2, y, &sec, 0);
	assert_int_equal(s->n_certs, 2);
	assert_true(s->certs[1].ca);
	weft_tls_server_unref(s);
	m = (const void *)tmsg(&t2, DOWN, y, vals, n_vals);
	assert_true(weft_tls_want(m->common_tls_context, m->session_ticket_keys_sds_secret_config,
				  0, &name, &src));
	assert_string_equal(name, "cert");
	assert_non_null(src);
	assert_true(weft_tls_want(m->common_tls_context, m->session_ticket_keys_sds_secret_config,
				  1, &name, &src));
	assert_string_equal(name, "roots");
	assert_non_null(src);
	assert_true(weft_tls_want(m->common_tls_context, m->session_ticket_keys_sds_secret_config,
				  2, &name, &src));
	assert_string_equal(name, "keys");
	assert_false(weft_tls_want(m->common_tls_context, m->session_ticket_keys_sds_secret_config,
				   3, &name, &src));
	weft_arena_free(t2.a);
	/* of another kind */
	st.v[2] = (const void *)tmsg(&t, SEC, "{name: roots, tls_certificate: " CERT("ec") "}",
				     vals, n_vals);
	server_of(&t2, y, &sec, -EINVAL);
	assert_non_null(strstr(t2.errs.v[0].msg, "another kind"));
	weft_arena_free(t2.a);
	weft_arena_free(t.a);
}

/* A static secret is there or is not; it is not waited for. */
static void test_static_secret(void **state)
{
	struct store st = {0};
	struct weft_tls_secrets sec = {store_get, &st};
	struct tconf t;

	server_of(&t, "{common_tls_context: {tls_certificate_sds_secret_configs: [{name: cert}]}}",
		  &sec, -EINVAL);
	assert_non_null(strstr(t.errs.v[0].msg, "no secret \"cert\""));
	weft_arena_free(t.a);
}

static int secret_check(const char *yaml, char msg[512])
{
	struct tconf t;
	int r;

	tconf_init(&t);
	r = weft_tls_secret_check(&t.cfg, NULL, (const void *)tmsg(&t, SEC, yaml, vals, n_vals));
	assert_int_equal(r != 0, t.errs.n > 0);
	snprintf(msg, 512, "%s: %.150s", t.errs.v[0].path, t.errs.v[0].msg);
	weft_arena_free(t.a);
	return r;
}

/* By itself, before anything uses it. */
static void test_secret_check(void **state)
{
	static const struct {
		const char *yaml, *says; /* NULL: fine */
	} v[] = {
		{"{name: s, tls_certificate: " CERT("ec") "}", NULL},
		{"{name: s, tls_certificate: {certificate_chain: {inline_string: @ec@}, "
		 "private_key: {inline_string: @ec2.key@}}}",
		 "tls_certificate.private_key: does not fit the certificate"},
		{"{name: s, tls_certificate: {certificate_chain: {inline_string: x}, private_key: "
		 "{inline_string: @ec.key@}}}",
		 "tls_certificate.certificate_chain: must be a certificate chain"},
		{"{name: s, tls_certificate: {certificate_chain: {inline_string: @ec@}}}",
		 "tls_certificate.private_key: must be set"},
		{"{name: s, validation_context: {" CA("ca") "}}", NULL},
		{"{name: s, validation_context: {trusted_ca: {inline_string: x}}}",
		 "validation_context.trusted_ca"},
		/* its trusted_ca may stand in the other half of a combined context */
		{"{name: s, validation_context: {match_typed_subject_alt_names: [{san_type: URI, "
		 "matcher: {prefix: 'spiffe://x/'}}]}}",
		 NULL},
		{"{name: s, session_ticket_keys: {keys: [" KEY("A") "]}}", NULL},
		{"{name: s, session_ticket_keys: {keys: [{inline_string: short}]}}",
		 "session_ticket_keys.keys[0]: must have 80 bytes"},
		{"{name: s, generic_secret: {secret: {inline_string: x}}}", NULL},
	};
	char msg[512];

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		int r = secret_check(v[i].yaml, msg);

		if (r != (v[i].says ? -EINVAL : 0) || (v[i].says && !strstr(msg, v[i].says)))
			fail_msg("%zu: %d, %s", i, r, msg);
	}
}

/* Sessions outlive the object that made their context. */
static void test_outlived(void **state)
{
	struct weft_tls_server *s = server(MANY "}");
	struct weft_tls_client *c = client(CLIENT(CA("ca")));
	struct thand h;

	thand_new(&h, c->ctx, s->ctx, "a.example");
	weft_tls_server_unref(s);
	weft_tls_client_unref(c);
	assert_true(thand_run(&h));
	thand_free(&h);
}

static void test_infos(void **state)
{
	struct weft_tls_server *s = server(SERVER_WITH(CA("ca"), ""));
	const struct weft_tls_cert *c = s->certs;
	int64_t now = (int64_t)time(NULL);

	assert_int_equal(s->n_certs, 2);
	assert_string_equal(c[0].path, "<inline>");
	assert_string_equal(c[0].dns[0], "a.example");
	assert_string_equal(c[0].ip[0], "127.0.0.1");
	assert_true(strlen(c[0].serial) > 0);
	assert_true(c[0].not_before < now && c[0].not_after > now);
	assert_int_equal(weft_tls_cert_days(&c[0], c[0].not_after - 3 * 86400 - 5), 3);
	assert_int_equal(weft_tls_cert_days(&c[0], c[0].not_after + 5), 0);
	assert_true(c[1].ca);
	weft_tls_server_unref(s);
}

static void test_files(void **state)
{
	char dir[] = "/tmp/weft-tls-XXXXXX", chain[64], key[64];
	size_t was = n_vals;
	struct weft_tls_server *s;
	struct tconf t;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	snprintf(chain, sizeof(chain), "%s/chain", dir);
	snprintf(key, sizeof(key), "%s/key", dir);
	f = fopen(chain, "w");
	fputs(ec.pem, f);
	fclose(f);
	f = fopen(key, "w");
	fputs(ec.key_pem, f);
	fclose(f);
	val("f.chain", chain);
	val("f.key", key);
#define FILES                                                                                      \
	"{common_tls_context: {tls_certificates: [{certificate_chain: {filename: @f.chain@}, "     \
	"private_key: {filename: @f.key@}}]}}"
	s = server(FILES);
	assert_string_equal(s->certs[0].path, chain);
	weft_tls_server_unref(s);
	tconf_init(&t);
	t.cfg.file = false; /* a server may not make us read files */
	assert_int_equal(weft_tls_server_new(&t.cfg, NULL,
					     (const void *)tmsg(&t, DOWN, FILES, vals, n_vals),
					     NULL, &s),
			 -EINVAL);
	assert_string_equal(t.errs.v[0].path,
			    "common_tls_context.tls_certificates[0].certificate_chain.filename");
	weft_arena_free(t.a);
	setenv("WEFT_TEST_CHAIN", ec.pem, 1);
	s = server("{common_tls_context: {tls_certificates: [{certificate_chain: "
		   "{environment_variable: WEFT_TEST_CHAIN}, private_key: {filename: @f.key@}}]}}");
	weft_tls_server_unref(s);
	unsetenv("WEFT_TEST_CHAIN");
	unlink(key);
	refused(true, FILES, "common_tls_context.tls_certificates[0].private_key.filename",
		"cannot read");
	unlink(chain);
	rmdir(dir);
	n_vals = was;
}

static void test_password(void **state)
{
	BIO *b = BIO_new(BIO_s_mem());
	size_t was = n_vals;
	char pem[4096];

	PEM_write_bio_PrivateKey(b, ec.key, EVP_aes_128_cbc(), NULL, 0, NULL, (void *)"sesame");
	tcert_pem(b, pem, sizeof(pem));
	val("locked", pem);
#define LOCKED(p)                                                                                  \
	"{common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: @ec@}, "     \
	"private_key: {inline_string: @locked@}" p "}]}}"
	weft_tls_server_unref(server(LOCKED(", password: {inline_string: sesame}")));
	refused(true, LOCKED(", password: {inline_string: open}"),
		"common_tls_context.tls_certificates[0].private_key", "must be a private key");
	refused(true, LOCKED(""), "common_tls_context.tls_certificates[0].private_key",
		"must be a private key");
	n_vals = was;
}

static void test_refused(void **state)
{
	static const char key[] = "common_tls_context.tls_certificates[0].private_key";
	struct tcert weak = tcert_new(&ca, (struct tcert_want){.key = "rsa1024", .cn = "weak"});
	size_t was = n_vals;

	val("weak", weak.pem);
	val("weak.key", weak.key_pem);
	refused(true, "{common_tls_context: {}}", "common_tls_context", "needs a certificate");
	refused(true, "{}", "common_tls_context", "must be set");
	refused(true,
		"{common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: "
		"@ec@}, "
		"private_key: {inline_string: @ec2.key@}}]}}",
		key, "does not fit the certificate");
	refused(true,
		"{common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: "
		"@ec@}}]}}",
		key, "must be set");
	refused(true,
		"{common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: "
		"junk}, "
		"private_key: {inline_string: @ec.key@}}]}}",
		"common_tls_context.tls_certificates[0].certificate_chain",
		"must be a certificate");
	refused(true, "{common_tls_context: {tls_certificates: [" CERT("weak") "]}}",
		"common_tls_context.tls_certificates[0].certificate_chain", "2048 bits");
	refused(true, PARAMS("cipher_suites: [NO-SUCH]"),
		"common_tls_context.tls_params.cipher_suites[0]",
		"unknown cipher suite \"NO-SUCH\"");
	refused(true, PARAMS("ecdh_curves: [P-256, X25519MLKEM768]"),
		"common_tls_context.tls_params.ecdh_curves[1]", "not supported");
	refused(true, PARAMS("signature_algorithms: [what]"),
		"common_tls_context.tls_params.signature_algorithms[0]", "not supported");
	refused(true,
		PARAMS("tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: "
		       "TLSv1_2"),
		"common_tls_context.tls_params", "must not be above");
	refused(true, SERVER_WITH("trusted_ca: {inline_string: nothing}", ""),
		"common_tls_context.validation_context.trusted_ca", "has none");
	refused(true, SERVER_WITH("crl: {inline_string: @crl@}", ""),
		"common_tls_context.validation_context.crl", "needs trusted_ca");
	refused(true,
		SERVER_WITH("match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: x}}]",
			    ""),
		"common_tls_context.validation_context", "needs trusted_ca");
	refused(true,
		SERVER_WITH(CA("ca") ", match_typed_subject_alt_names: [{san_type: OTHER_NAME, "
				     "matcher: {exact: x}}]",
			    ""),
		"common_tls_context.validation_context.match_typed_subject_alt_names[0].san_type",
		"not supported");
	refused(true, SERVER_WITH(SAN("DNS", "safe_regex: {regex: '(a'}"), ""),
		"common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher."
		"safe_regex",
		"not a regular expression");
	refused(true, SERVER_WITH(SAN("DNS", "safe_regex: {regex: '(a)\\1'}"), ""),
		"common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher."
		"safe_regex",
		"back-references");
	refused(true,
		SERVER_WITH("verify_certificate_hash: "
			    "['zz34567890123456789012345678901234567890123456789012345678901234']",
			    ""),
		"common_tls_context.validation_context.verify_certificate_hash[0]", "SHA-256");
	refused(true,
		"{common_tls_context: {tls_certificates: [" CERT(
			"ec") "]}, ocsp_staple_policy: MUST_STAPLE}",
		"ocsp_staple_policy", "is MUST_STAPLE, and certificate 0 has no ocsp_staple");
	refused(true,
		"{common_tls_context: {tls_certificates: [" CERT(
			"ec") "]}, session_ticket_keys: {keys: [{inline_string: short}]}}",
		"session_ticket_keys.keys[0]", "must have 80 bytes, has 5");
	refused(false,
		"{common_tls_context: {tls_certificates: [" CERT("ec") ", " CERT("rsa") "]}}",
		"common_tls_context", "at most one certificate");
	n_vals = was;
	tcert_free(&weak);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_sans),
		cmocka_unit_test(test_san_wildcard),
		cmocka_unit_test(test_pins),
		cmocka_unit_test(test_auto_sni_san),
		cmocka_unit_test(test_expired),
		cmocka_unit_test(test_rsa_usage),
		cmocka_unit_test(test_client_certificates),
		cmocka_unit_test(test_crl_and_depth),
		cmocka_unit_test(test_by_name),
		cmocka_unit_test(test_params),
		cmocka_unit_test(test_alpn),
		cmocka_unit_test(test_prefer_client_ciphers),
		cmocka_unit_test(test_system_root_certs),
		cmocka_unit_test(test_session_timeout),
		cmocka_unit_test(test_renegotiation),
		cmocka_unit_test(test_tickets),
		cmocka_unit_test(test_secrets),
		cmocka_unit_test(test_static_secret),
		cmocka_unit_test(test_secret_check),
		cmocka_unit_test(test_outlived),
		cmocka_unit_test(test_infos),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_password),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, all_up, all_down);
}
