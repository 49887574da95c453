/* What weft does of a handshake gives what OpenSSL's own gives. */
#include "proxy/net/tls_provider.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct job {
	const char *digest;
	int mode;
	uint8_t key[200], salt[64], data[64], label[32];
	size_t key_n, salt_n, data_n, label_n, out_n;
	bool has_key, has_salt;
	uint8_t out[300];
};

static size_t upto(size_t n)
{
	uint32_t r = 0;

	assert_int_equal(RAND_bytes((uint8_t *)&r, sizeof(r)), 1);
	return r % (n + 1);
}

static int derive(struct job *j, const char *props, bool set_first)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", props);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	OSSL_PARAM v[8], *p = v;
	int r;

	assert_non_null(ctx);
	memset(j->out, 0, sizeof(j->out));
	*p++ = OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &j->mode);
	*p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)j->digest, 0);
	if (j->has_key)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, j->key, j->key_n);
	if (j->has_salt)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, j->salt, j->salt_n);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, "tls13 ", 6);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, j->label, j->label_n);
	if (j->data_n)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_DATA, j->data, j->data_n);
	*p = OSSL_PARAM_construct_end();
	if (set_first) {
		assert_int_equal(EVP_KDF_CTX_set_params(ctx, v), 1);
		r = EVP_KDF_derive(ctx, j->out, j->out_n, NULL);
	} else {
		r = EVP_KDF_derive(ctx, j->out, j->out_n, v);
	}
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return r;
}

static void same(struct job *j)
{
	uint8_t theirs[sizeof(j->out)];
	int r = derive(j, "provider=default", false);

	memcpy(theirs, j->out, sizeof(theirs));
	for (int first = 0; first < 2; first++) {
		assert_int_equal(derive(j, "provider=weft", first), r);
		if (r == 1)
			assert_memory_equal(j->out, theirs, sizeof(theirs));
	}
}

static void fill(struct job *j, int i)
{
	bool big = i % 2;
	size_t size = big ? 48 : 32;

	j->digest = big ? "SHA2-384" : "SHA2-256";
	assert_int_equal(RAND_bytes(j->key, sizeof(j->key)), 1);
	assert_int_equal(RAND_bytes(j->salt, sizeof(j->salt)), 1);
	assert_int_equal(RAND_bytes(j->data, sizeof(j->data)), 1);
	assert_int_equal(RAND_bytes(j->label, sizeof(j->label)), 1);
	j->key_n = i % 3 ? size : 1 + upto(sizeof(j->key) - 1);
	j->salt_n = size;
	j->label_n = 1 + upto(11);
	j->has_key = true;
}

static void expands_as_openssl(void **state)
{
	for (int i = 0; i < 400; i++) {
		struct job j = {.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY};

		fill(&j, i);
		j.data_n = i % 5 ? upto(sizeof(j.data)) : 0;
		j.out_n = 1 + upto(sizeof(j.out) - 1);
		same(&j);
	}
}

static void extracts_as_openssl(void **state)
{
	for (int i = 0; i < 200; i++) {
		struct job j = {.mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY};

		fill(&j, i);
		j.has_key = i % 4 != 1;
		j.has_salt = i % 4 != 2;
		j.out_n = i % 2 ? 48 : 32;
		same(&j);
	}
}

static void refuses_what_it_cannot(void **state)
{
	struct job j = {.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY};

	fill(&j, 0);
	j.out_n = 32;
	assert_int_equal(derive(&j, "provider=weft", false), 1);
	j.has_key = false;
	assert_int_not_equal(derive(&j, "provider=weft", false), 1);
	j.has_key = true;
	j.digest = "SHA2-512";
	assert_int_not_equal(derive(&j, "provider=weft", false), 1);
	j.digest = "SHA2-256";
	j.mode = EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND;
	assert_int_not_equal(derive(&j, "provider=weft", false), 1);
	j.mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY;
	j.out_n = 31;
	assert_int_not_equal(derive(&j, "provider=weft", false), 1);
}

/* Who asks by name alone, as libssl does, has ours; and all else is there as before. */
static void is_chosen(void **state)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
	EVP_MD *md = EVP_MD_fetch(NULL, "SHA2-256", NULL);

	assert_non_null(kdf);
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_KDF_get0_provider(kdf)), "weft");
	assert_non_null(md);
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_MD_get0_provider(md)), "default");
	EVP_KDF_free(kdf);
	EVP_MD_free(md);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_chosen),
		cmocka_unit_test(expands_as_openssl),
		cmocka_unit_test(extracts_as_openssl),
		cmocka_unit_test(refuses_what_it_cannot),
	};

	weft_tls_provider_load();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
