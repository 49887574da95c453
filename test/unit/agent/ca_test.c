/* The CA: what it signs, what it refuses, two processes at once, rotation by a clock of ours, the
 * verdict of OpenSSL. */
#include "agent/ca.h"
#include "agent/ca_int.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka wants the four above
#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ID "spiffe://cluster.local/ns/shop/sa/web"

static int64_t clock_s;

static int64_t fake_now(void *owner)
{
	(void)owner;
	return clock_s;
}

static char *dir_new(void)
{
	static char dir[64];
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%.40s/weft-ca-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	return dir;
}

static void dir_drop(const char *dir)
{
	static const char *const names[] = {"ca.pem", "ca-next.pem", "roots.pem", ""};
	char path[128];
	int i;

	for (i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		if (i < 3)
			unlink(path);
		else
			assert_int_equal(rmdir(dir), 0); /* nothing else was left in it */
	}
}

static struct weft_ca *open_ca(const char *dir, int64_t root_ttl)
{
	struct weft_ca_conf conf = {.dir = dir,
				    .trust_domain = "cluster.local",
				    .root_ttl_s = root_ttl,
				    .now = fake_now};
	struct weft_err e = {0};
	struct weft_ca *ca = NULL;
	int r = weft_ca_open(&conf, &ca, &e);

	if (r < 0)
		print_message("%s\n", e.msg);
	assert_int_equal(r, 0);
	return ca;
}

static X509 *parse(const char *pem)
{
	BIO *b = BIO_new_mem_buf(pem, -1);
	X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);

	BIO_free(b);
	assert_non_null(x);
	return x;
}

/* As a peer does it: chain to any of the roots, for the purpose, at the clock's time. */
static int verify(const char *roots, X509 *leaf, int purpose)
{
	BIO *b = BIO_new_mem_buf(roots, -1);
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	X509 *x;
	int r;

	while ((x = PEM_read_bio_X509(b, NULL, NULL, NULL))) {
		X509_STORE_add_cert(store, x);
		X509_free(x);
	}
	X509_STORE_CTX_init(ctx, store, leaf, NULL);
	X509_STORE_CTX_set_time(ctx, 0, (time_t)clock_s);
	X509_STORE_CTX_set_purpose(ctx, purpose);
	r = X509_verify_cert(ctx);
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	BIO_free(b);
	return r;
}

static void issues_what_the_contract_says(void **state)
{
	char *dir = dir_new(), path[128], cmd[400];
	struct weft_ca *ca;
	struct weft_ca_cert c = {0};
	GENERAL_NAMES *names;
	const GENERAL_NAME *name;
	struct stat st;
	int critical, i;
	X509 *x;
	FILE *f;

	(void)state;
	clock_s = 1800000000;
	ca = open_ca(dir, 0);
	snprintf(path, sizeof(path), "%s/ca.pem", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(weft_ca_issue(ca, ID, WEFT_CA_TTL_DEFAULT_S, &c, NULL), 0);
	x = parse(c.chain);
	assert_int_equal(X509_get_version(x), X509_VERSION_3);
	assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(x)), 0);
	assert_true(c.not_before == clock_s - 120 && c.not_after == clock_s + 86400 &&
		    c.issued == clock_s);
	names = X509_get_ext_d2i(x, NID_subject_alt_name, &critical, NULL);
	assert_int_equal(critical, 1);
	assert_int_equal(sk_GENERAL_NAME_num(names), 1);
	name = sk_GENERAL_NAME_value(names, 0);
	assert_int_equal(name->type, GEN_URI);
	assert_string_equal((const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier),
			    ID);
	assert_int_equal(X509_get_key_usage(x), KU_DIGITAL_SIGNATURE | KU_KEY_ENCIPHERMENT);
	assert_int_equal(X509_get_extended_key_usage(x), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	assert_int_equal(X509_check_ca(x), 0);
	assert_int_equal(verify(weft_ca_roots(ca), x, X509_PURPOSE_SSL_CLIENT), 1);
	assert_int_equal(verify(weft_ca_roots(ca), x, X509_PURPOSE_SSL_SERVER), 1);
	assert_non_null(strstr(c.key, "BEGIN PRIVATE KEY"));
	/* and by the program */
	snprintf(path, sizeof(path), "%s/leaf.pem", dir);
	f = fopen(path, "w");
	fputs(c.chain, f);
	fclose(f);
	snprintf(cmd, sizeof(cmd),
		 "openssl verify -attime %lld -purpose sslclient -x509_strict -CAfile %s/roots.pem "
		 "%s >/dev/null",
		 (long long)clock_s, dir, path);
	i = system(cmd);
	unlink(path);
	assert_int_equal(i, 0);
	GENERAL_NAMES_free(names);
	X509_free(x);
	weft_ca_cert_done(&c);
	assert_null(c.key);
	weft_ca_free(ca);
	dir_drop(dir);
}

static void refuses(void **state)
{
	static const char *const bad[] = {"",
					  "web",
					  "spiffe://cluster.local",
					  "spiffe://cluster.local/ns/shop/sa/",
					  "spiffe://cluster.local/ns//sa/web",
					  "spiffe://cluster.local/ns/shop/sa/web/x",
					  "spiffe://cluster.local/ns/shop/sa/w\x01",
					  "http://cluster.local/ns/shop/sa/web",
					  "spiffe://cluster.local/ns/shop/sa/w%00b",
					  "spiffe://cluster.local/ns/shop/sa/w?q"};
	char *dir = dir_new(), path[128];
	struct weft_ca *ca;
	struct weft_ca_cert c = {0};
	struct weft_ca_conf conf = {.dir = dir, .now = fake_now};
	struct weft_err e;
	size_t i;

	(void)state;
	clock_s = 1800000000;
	ca = open_ca(dir, 0);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(weft_ca_issue(ca, bad[i], 60, &c, &e), -EINVAL);
	assert_int_equal(weft_ca_issue(ca, ID, 0, &c, &e), -EINVAL);
	assert_int_equal(weft_ca_issue(ca, ID, 91 * 86400, &c, &e), -EINVAL);
	weft_ca_free(ca);
	/* a key that others may read, and a file that is none */
	snprintf(path, sizeof(path), "%s/ca.pem", dir);
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(weft_ca_open(&conf, &ca, &e), -EPERM);
	assert_non_null(strstr(e.msg, "0600"));
	assert_int_equal(truncate(path, 40), 0);
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(weft_ca_open(&conf, &ca, &e), -EINVAL);
	dir_drop(dir);
}

/* 8 processes open one empty folder at the same moment: one root, in everybody's hands. */
static void race(void **state)
{
	enum { PROCS = 8 };
	int round, i, go[2], out[2];

	(void)state;
	clock_s = 1800000000;
	for (round = 0; round < 10; round++) {
		char *dir = dir_new();
		char first[32] = "", got[32];

		assert_int_equal(pipe(go), 0);
		assert_int_equal(pipe(out), 0);
		for (i = 0; i < PROCS; i++) {
			if (fork() == 0) {
				struct weft_ca_conf conf = {.dir = dir, .now = fake_now};
				struct weft_ca *ca = NULL;
				char line[33] = "failed";
				unsigned char md[EVP_MAX_MD_SIZE];
				unsigned n;

				close(go[1]);
				if (read(go[0], line, 1) == 0 &&
				    weft_ca_open(&conf, &ca, NULL) == 0 &&
				    X509_digest(ca->now.cert, EVP_sha256(), md, &n) &&
				    weft_ca_n_roots(ca) == 1)
					for (n = 0; n < 15; n++)
						sprintf(line + 2 * n, "%02x", md[n]);
				_exit(write(out[1], line, 32) != 32);
			}
		}
		close(go[0]);
		close(go[1]); /* now */
		for (i = 0; i < PROCS; i++) {
			assert_int_equal(read(out[0], got, 32), 32);
			if (!i)
				memcpy(first, got, 32);
			assert_memory_equal(first, got, 32);
			assert_memory_not_equal(got, "failed", 6);
		}
		close(out[0]);
		close(out[1]);
		while (wait(NULL) > 0)
			;
		dir_drop(dir);
	}
}

/* Ten days of root, two agents: the next root is trusted by both before either signs with it; a
 * leaf is good at any time. */
static void rotation(void **state)
{
	char *dir = dir_new();
	struct weft_ca *a, *b;
	int64_t start = 1800000000, day = 86400, t;
	int changes = 0, before_switch = 0;
	X509 *first;

	(void)state;
	clock_s = start;
	a = open_ca(dir, 10 * day);
	b = open_ca(dir, 10 * day);
	first = X509_dup(a->now.cert);
	for (t = 0; t < 25 * day; t += day / 4) {
		struct weft_ca_cert c = {0}, d = {0};
		X509 *x, *y;
		int ra, rb;

		clock_s = start + t;
		/* b is behind by a step each second time */
		ra = weft_ca_tick(a, NULL);
		assert_true(ra >= 0);
		changes += ra;
		if ((t / (day / 4)) % 2 == 0) {
			rb = weft_ca_tick(b, NULL);
			assert_true(rb >= 0);
		}
		if (X509_cmp(a->now.cert, first) == 0 && weft_ca_n_roots(a) == 2)
			before_switch++;
		assert_int_equal(weft_ca_issue(a, ID, day, &c, NULL), 0);
		assert_int_equal(weft_ca_issue(b, ID, day, &d, NULL), 0);
		x = parse(c.chain);
		y = parse(d.chain);
		assert_int_equal(verify(weft_ca_roots(b), x, X509_PURPOSE_SSL_CLIENT), 1);
		assert_int_equal(verify(weft_ca_roots(a), y, X509_PURPOSE_SSL_CLIENT), 1);
		X509_free(x);
		X509_free(y);
		weft_ca_cert_done(&c);
		weft_ca_cert_done(&d);
	}
	assert_true(before_switch >= 2); /* a day, in steps of a quarter, less what b is behind */
	assert_true(changes >= 2);
	assert_int_not_equal(X509_cmp(a->now.cert, first), 0);
	assert_true(weft_ca_n_roots(a) <= 2); /* the first one has expired and is gone */
	X509_free(first);
	weft_ca_free(a);
	weft_ca_free(b);
	dir_drop(dir);
}

/* A root that somebody adds by hand is served; a leaf never outlives its signer. */
static void foreign_root(void **state)
{
	char *dir = dir_new(), path[128], *other = NULL;
	struct weft_ca *ca;
	struct weft_ca_cert c = {0};
	struct weft_ca_signer s;
	BIO *b = BIO_new(BIO_s_mem());
	char *p;
	long n;
	FILE *f;

	(void)state;
	clock_s = 1800000000;
	ca = open_ca(dir, 3600);
	assert_int_equal(weft_ca_root_make(ca, &s, NULL), 0);
	PEM_write_bio_X509(b, s.cert);
	n = BIO_get_mem_data(b, &p);
	other = strndup(p, (size_t)n);
	snprintf(path, sizeof(path), "%s/roots.pem", dir);
	f = fopen(path, "a");
	fputs(other, f);
	fclose(f);
	assert_int_equal(weft_ca_n_roots(ca), 1);
	assert_int_equal(weft_ca_tick(ca, NULL), 1);
	assert_int_equal(weft_ca_n_roots(ca), 2);
	assert_non_null(strstr(weft_ca_roots(ca), other));
	assert_int_equal(weft_ca_tick(ca, NULL), 0);
	assert_int_equal(weft_ca_issue(ca, ID, 86400, &c, NULL), 0);
	assert_int_equal(c.not_after, weft_ca_not_after(ca));
	/* broken by hand: said, and what was read before stays */
	f = fopen(path, "a");
	fputs("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", f);
	fclose(f);
	assert_int_equal(weft_ca_tick(ca, NULL), -EINVAL);
	assert_int_equal(weft_ca_n_roots(ca), 2);
	weft_ca_cert_done(&c);
	weft_ca_signer_done(&s);
	BIO_free(b);
	free(other);
	weft_ca_free(ca);
	dir_drop(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(issues_what_the_contract_says),
		cmocka_unit_test(refuses),
		cmocka_unit_test(race),
		cmocka_unit_test(rotation),
		cmocka_unit_test(foreign_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
