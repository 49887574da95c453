#include "proxy/net/identity.h"
#include "test/unit/proxy/net/certs.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define ID "spiffe://cluster.local/ns/app/sa/web"

static void parses_five_pieces(void **state)
{
	struct weft_identity id;

	assert_int_equal(weft_identity_parse(ID, strlen(ID), &id), 0);
	assert_string_equal(id.text, ID);
	assert_string_equal(id.trust_domain, "cluster.local");
	assert_string_equal(id.ns, "app");
	assert_string_equal(id.sa, "web");
}

static void refuses_others(void **state)
{
	static const char *const bad[] = {
		"",
		"spiffe://",
		"spiffe:///ns/a/sa/b",
		"spiffe://td",
		"spiffe://td/ns/a/sa",
		"spiffe://td/ns/a/sa/",
		"spiffe://td/ns//sa/b",
		"spiffe://td/ns/a/sa/b/",
		"spiffe://td/ns/a/sa/b/c",
		"spiffe://td/NS/a/sa/b",
		"spiffe://td/ns/a/sb/b",
		"Spiffe://td/ns/a/sa/b",
		"https://td/ns/a/sa/b",
		"spiffe://td/ns/a/sa/b c",
		"spiffe://td/ns/a/sa/b%00",
		"spiffe://td/ns/a/sa/b?x",
		"spiffe://td/ns/a/sa/b#x",
		"spiffe://td/ns/a/sa/\x7f",
		"spiffe://td/ns/a/sa/\xc3\xa9",
		" " ID,
		ID "\n",
	};
	struct weft_identity id;
	char longer[400];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (weft_identity_parse(bad[i], strlen(bad[i]), &id) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
	}
	assert_int_equal(weft_identity_parse(ID "\0.evil", sizeof(ID) + 5, &id), -EINVAL);
	memset(longer, 'x', sizeof(longer));
	memcpy(longer, ID, strlen(ID));
	assert_int_equal(weft_identity_parse(longer, WEFT_IDENTITY_MAX, &id), 0);
	assert_int_equal(weft_identity_parse(longer, WEFT_IDENTITY_MAX + 1, &id), -EINVAL);
}

static void formats(void **state)
{
	char buf[64], small[10];

	assert_int_equal(weft_identity_format("cluster.local", "app", "web", buf, sizeof(buf)), 0);
	assert_string_equal(buf, ID);
	assert_int_equal(weft_identity_format("td", "a", "b", small, sizeof(small)), -E2BIG);
}

static struct test_cert cert_of(const struct test_san *s, size_t n)
{
	struct test_cert ca = test_cert_new(NULL, NULL, 0, NULL, -60, 60);
	struct test_cert c = test_cert_new(&ca, s, n, NULL, -60, 60);

	test_cert_free(&ca);
	return c;
}

static void several_sans(void **state)
{
	struct test_san s[] = {{"https://example.org/x", 0},
			       {"spiffe://td/not/an/id", 0},
			       {ID, 0},
			       {"spiffe://other/ns/a/sa/b", 0}};
	struct test_cert c = cert_of(s, 4);
	struct weft_identity ids[4];
	static const char *const want[] = {"spiffe://other/ns/x/sa/y", "spiffe://other/ns/a/sa/b"};
	static const char *const skipped[] = {"https://example.org/x", "spiffe://td/not/an/id"};

	assert_int_equal(weft_identity_of_cert(c.x, ids, 4), 2);
	assert_string_equal(ids[0].text, ID);
	assert_string_equal(ids[1].trust_domain, "other");
	assert_int_equal(weft_identity_of_cert(c.x, ids, 1), 2); /* all counted, one written */
	assert_int_equal(weft_identity_match(c.x, want, 2), 1);
	assert_int_equal(weft_identity_match(c.x, want, 1), -ENOENT);
	assert_int_equal(weft_identity_match(c.x, skipped, 2), -ENOENT);
	test_cert_free(&c);
}

static void nul_in_a_san(void **state)
{
	struct test_san s[] = {{ID "\0.evil.example", sizeof(ID) + 13}, {"\0" ID, sizeof(ID)}};
	struct test_cert c = cert_of(s, 2);
	struct weft_identity id;
	static const char *const want[] = {ID};

	assert_int_equal(weft_identity_of_cert(c.x, &id, 1), 0);
	assert_int_equal(weft_identity_match(c.x, want, 1), -ENOENT);
	test_cert_free(&c);
}

static void no_or_too_many_sans(void **state)
{
	struct test_san s[WEFT_CERT_SANS_MAX + 1];
	struct test_cert none = cert_of(NULL, 0), many;
	struct weft_identity id;
	static const char *const want[] = {ID};

	for (size_t i = 0; i <= WEFT_CERT_SANS_MAX; i++)
		s[i] = (struct test_san){ID, 0};
	many = cert_of(s, WEFT_CERT_SANS_MAX + 1);
	assert_int_equal(weft_identity_of_cert(none.x, &id, 1), 0);
	assert_int_equal(weft_identity_match(none.x, want, 1), -ENOENT);
	assert_int_equal(weft_identity_of_cert(many.x, &id, 1), -E2BIG);
	assert_int_equal(weft_identity_match(many.x, want, 1), -E2BIG);
	test_cert_free(&none);
	test_cert_free(&many);
}

static void twice_the_extension(void **state)
{
	struct test_san s[] = {{ID, 0}};
	struct test_cert c = cert_of(s, 1);
	struct weft_identity id;
	int at = X509_get_ext_by_NID(c.x, NID_subject_alt_name, -1);

	X509_add_ext(c.x, X509_get_ext(c.x, at), -1);
	assert_int_equal(weft_identity_of_cert(c.x, &id, 1), -EINVAL);
	test_cert_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_five_pieces),
		cmocka_unit_test(refuses_others),
		cmocka_unit_test(formats),
		cmocka_unit_test(several_sans),
		cmocka_unit_test(nul_in_a_san),
		cmocka_unit_test(no_or_too_many_sans),
		cmocka_unit_test(twice_the_extension),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
