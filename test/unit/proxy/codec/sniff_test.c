/* ClientHellos of OpenSSL, whole, cut at every byte, and in many records; broken ones; HTTP. */
#include "proxy/codec/sniff.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/ssl.h>

#include <cmocka.h>

enum { HELLO_CAP = 4096, PAYLOAD = 5 };

static size_t make_hello(uint8_t *dst, const char *name, const uint8_t *alpn, unsigned alpn_n,
			 int version)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL *s;
	int n;

	assert_non_null(ctx);
	SSL_CTX_set_max_proto_version(ctx, version);
	s = SSL_new(ctx);
	SSL_set_bio(s, in, out);
	if (name)
		SSL_set_tlsext_host_name(s, name);
	if (alpn)
		assert_int_equal(SSL_set_alpn_protos(s, alpn, alpn_n), 0);
	assert_int_equal(SSL_connect(s), -1);
	n = BIO_read(out, dst, HELLO_CAP);
	assert_true(n > 0);
	SSL_free(s);
	SSL_CTX_free(ctx);
	return (size_t)n;
}

/* A copy of the very size, so that reading on is seen. */
static enum weft_sniff tls(const uint8_t *p, size_t n, size_t max, struct weft_sniff_hello *h)
{
	uint8_t *exact = malloc(n ? n : 1);
	enum weft_sniff v;

	assert_non_null(exact);
	memcpy(exact, p, n);
	v = weft_sniff_tls(exact, n, max, WEFT_SNIFF_WANT_JA3 | WEFT_SNIFF_WANT_JA4, h);
	free(exact);
	return v;
}

static void whole(void **st)
{
	static const uint8_t protos[] = "\x02h2\x08http/1.1";
	uint8_t b[HELLO_CAP];
	struct weft_sniff_hello h;
	size_t n = make_hello(b, "WWW.Example.com", protos, sizeof(protos) - 1, TLS1_3_VERSION);
	const char *s;
	size_t at = 0;

	for (size_t i = 0; i < n; i++)
		assert_int_equal(tls(b, i, 0, &h), WEFT_SNIFF_MORE);
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_TLS);
	assert_string_equal(h.server_name, "www.example.com");
	assert_int_equal(h.version, TLS1_3_VERSION);
	assert_int_equal(weft_sniff_alpn(&h, &at, &s), 2);
	assert_memory_equal(s, "h2", 2);
	assert_int_equal(weft_sniff_alpn(&h, &at, &s), 8);
	assert_memory_equal(s, "http/1.1", 8);
	assert_int_equal(weft_sniff_alpn(&h, &at, &s), 0);
	assert_int_equal(tls(b, n, n - PAYLOAD, &h), WEFT_SNIFF_TLS);
	assert_int_equal(tls(b, n, n - PAYLOAD - 1, &h), WEFT_SNIFF_TOO_LARGE);
	n = make_hello(b, NULL, NULL, 0, TLS1_2_VERSION);
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_TLS);
	assert_string_equal(h.server_name, "");
	assert_int_equal(h.version, TLS1_2_VERSION);
	assert_int_equal(h.alpn_len, 0);
}

/* The message of a hello in records of k bytes. */
static size_t split(uint8_t *dst, const uint8_t *b, size_t n, size_t k)
{
	size_t out = 0;

	for (size_t at = PAYLOAD; at < n; at += k) {
		size_t len = k < n - at ? k : n - at;

		memcpy(dst + out, "\x16\x03\x01", 3);
		dst[out + 3] = (uint8_t)(len >> 8);
		dst[out + 4] = (uint8_t)len;
		memcpy(dst + out + PAYLOAD, b + at, len);
		out += PAYLOAD + len;
	}
	return out;
}

static void in_records(void **st)
{
	uint8_t b[HELLO_CAP], cut[HELLO_CAP * 6];
	struct weft_sniff_hello h;
	size_t n = make_hello(b, "a.example", NULL, 0, TLS1_3_VERSION), m;

	for (size_t k = n / 50; k < n; k += 13) {
		m = split(cut, b, n, k);
		for (size_t i = 0; i < m; i += 7)
			assert_int_equal(tls(cut, i, 0, &h), WEFT_SNIFF_MORE);
		assert_int_equal(tls(cut, m, 0, &h), WEFT_SNIFF_TLS);
		assert_string_equal(h.server_name, "a.example");
	}
	m = split(cut, b, n, 1);
	assert_int_equal(tls(cut, m, 0, &h), WEFT_SNIFF_NO); /* too many records */
	memcpy(cut, "\x16\x03\x01\0\0", 5);
	assert_int_equal(tls(cut, 5, 0, &h), WEFT_SNIFF_NO); /* an empty one */
}

/* Whatever byte is wrong: an answer, and no reading beyond. */
static void broken(void **st)
{
	static const uint8_t protos[] = "\x02h2";
	uint8_t b[HELLO_CAP];
	struct weft_sniff_hello h;
	size_t n = make_hello(b, "a.example", protos, 3, TLS1_3_VERSION);
	int taken = 0;

	for (size_t i = 0; i < n; i++) {
		uint8_t was = b[i];

		for (int v = 0; v < 256; v += 17) {
			b[i] = (uint8_t)v;
			taken += tls(b, n, 0, &h) == WEFT_SNIFF_TLS;
		}
		b[i] = was;
	}
	assert_true(taken > 0);
	b[0] = 23;
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_NO);
	assert_int_equal(tls(b, 1, 0, &h), WEFT_SNIFF_NO);
	b[0] = 22;
	b[PAYLOAD] = 2; /* ServerHello */
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_NO);
	assert_int_equal(tls((const uint8_t *)"GET / HTTP/1.1\r\n", 16, 0, &h), WEFT_SNIFF_NO);
}

static void name_twice_or_odd(void **st)
{
	uint8_t b[HELLO_CAP];
	struct weft_sniff_hello h;
	size_t n = make_hello(b, "abcdefgh.example", NULL, 0, TLS1_3_VERSION);
	uint8_t *name = memmem(b, n, "abcdefgh", 8);

	assert_non_null(name);
	name[3] = '\0';
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_NO);
	name[3] = ' ';
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_NO);
	name[3] = 0xc3;
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_NO);
	name[3] = 'D';
	assert_int_equal(tls(b, n, 0, &h), WEFT_SNIFF_TLS);
	assert_string_equal(h.server_name, "abcdefgh.example");
}

static enum weft_sniff http(const char *s, size_t n)
{
	uint8_t *exact = malloc(n ? n : 1);
	enum weft_sniff v;

	assert_non_null(exact);
	memcpy(exact, s, n);
	v = weft_sniff_http(exact, n);
	free(exact);
	return v;
}

/* ---- fingerprints: vectors that their inventors publish */
struct hello {
	uint8_t b[HELLO_CAP];
	size_t n;
};

static void put(struct hello *h, const void *p, size_t n)
{
	memcpy(h->b + h->n, p, n);
	h->n += n;
}

static void put_number(struct hello *h, unsigned v, size_t bytes)
{
	while (bytes--)
		h->b[h->n++] = (uint8_t)(v >> (8 * bytes));
}

static void put_numbers(struct hello *h, const uint16_t *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		put_number(h, v[i], 2);
}

static void put_extension(struct hello *h, unsigned type, const void *p, size_t n)
{
	put_number(h, type, 2);
	put_number(h, (unsigned)n, 2);
	put(h, p, n);
}

/* Record, message, version, random and ciphers; one compression method. */
static void hello_begin(struct hello *h, unsigned version, const uint16_t *ciphers, size_t n)
{
	h->n = 0;
	put(h, "\x16\x03\x01\0\0\x01\0\0\0", 9);
	put_number(h, version, 2);
	memset(h->b + h->n, 'r', 32);
	h->n += 32;
	put_number(h, 0, 1);
	put_number(h, (unsigned)(2 * n), 2);
	put_numbers(h, ciphers, n);
	put(h, "\x01\0", 2);
}

static void hello_end(struct hello *h, size_t extensions)
{
	size_t n = h->n - PAYLOAD;

	if (extensions) {
		h->b[extensions] = (uint8_t)((h->n - extensions - 2) >> 8);
		h->b[extensions + 1] = (uint8_t)(h->n - extensions - 2);
	}
	h->b[3] = (uint8_t)(n >> 8);
	h->b[4] = (uint8_t)n;
	h->b[7] = (uint8_t)((n - 4) >> 8);
	h->b[8] = (uint8_t)(n - 4);
}

static void ja3_vectors(void **st)
{
	static const uint16_t one[] = {47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4},
			      two[] = {4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99};
	static const uint8_t name[] = "\0\x09\0\0\x06"
				      "a.b.cd",
			     groups[] = {0, 6, 0, 23, 0, 24, 0, 25}, formats[] = {1, 0};
	struct weft_sniff_hello got;
	struct hello h;
	size_t at;

	hello_begin(&h, 769, one, 12);
	at = h.n;
	put_number(&h, 0, 2);
	put_extension(&h, 0, name, 11);
	put_extension(&h, 10, groups, sizeof(groups));
	put_extension(&h, 11, formats, sizeof(formats));
	hello_end(&h, at);
	assert_int_equal(tls(h.b, h.n, 0, &got), WEFT_SNIFF_TLS);
	assert_string_equal(got.server_name, "a.b.cd");
	assert_string_equal(got.ja3, "ada70206e40642a3e4461f35503241d5");
	hello_begin(&h, 769, two, 11);
	hello_end(&h, 0);
	assert_int_equal(tls(h.b, h.n, 0, &got), WEFT_SNIFF_TLS);
	assert_string_equal(got.ja3, "de350869b8c85de67a350c8d186f11e6");
	assert_string_equal(got.ja4 + 10, "_" /* ciphers */ "3609b414f052"
					  "_000000000000");
}

static void ja4_vector(void **st)
{
	static const uint16_t ciphers[] = {0x8a8a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f,
					   0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
					   0x009c, 0x009d, 0x002f, 0x0035};
	static const uint16_t empty[] = {0x1b, 0x33, 0x4469, 0x17, 0x2d, 0x05,
					 0x23, 0x12, 0xff01, 0x0b, 0x0a, 0x15};
	static const uint8_t name[] = "\0\x09\0\0\x06"
				      "a.b.cd",
			     alpn[] = "\0\x0c\x02h2\x08http/1.1",
			     versions[] = {6, 0x9a, 0x9a, 3, 4, 3, 3},
			     algorithms[] = {0, 16, 4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 6, 6, 1};
	struct weft_sniff_hello got;
	struct hello h;
	size_t at;

	hello_begin(&h, 0x0303, ciphers, 16);
	at = h.n;
	put_number(&h, 0, 2);
	put_extension(&h, 0x2a2a, "", 0);
	for (size_t i = 0; i < sizeof(empty) / sizeof(*empty); i++)
		put_extension(&h, empty[i], "", 0);
	put_extension(&h, 0, name, 11);
	put_extension(&h, 16, alpn, 14);
	put_extension(&h, 43, versions, sizeof(versions));
	put_extension(&h, 13, algorithms, sizeof(algorithms));
	hello_end(&h, at);
	assert_int_equal(tls(h.b, h.n, 0, &got), WEFT_SNIFF_TLS);
	assert_string_equal(got.ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

/* Values are where they are asked for alone, and none for what is broken. */
static void fingerprints_asked_for(void **st)
{
	static const uint16_t grease[] = {0x0a0a, 0xfafa};
	struct weft_sniff_hello got;
	struct hello h;

	hello_begin(&h, 0x0301, grease, 2);
	hello_end(&h, 0);
	assert_int_equal(weft_sniff_tls(h.b, h.n, 0, 0, &got), WEFT_SNIFF_TLS);
	assert_string_equal(got.ja3, "");
	assert_string_equal(got.ja4, "");
	assert_int_equal(weft_sniff_tls(h.b, h.n, 0, WEFT_SNIFF_WANT_JA4, &got), WEFT_SNIFF_TLS);
	assert_string_equal(got.ja3, "");
	assert_string_equal(got.ja4, "t10i000000_000000000000_000000000000");
}

static void http_lines(void **st)
{
	static const struct {
		const char *s;
		enum weft_sniff want;
	} t[] = {
		{"GET / HTTP/1.1\r\n", WEFT_SNIFF_HTTP11},
		{"POST /a?b HTTP/1.0\r\n", WEFT_SNIFF_HTTP10},
		{"\r\nGET / HTTP/1.1\r", WEFT_SNIFF_HTTP11},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", WEFT_SNIFF_HTTP2},
		{"", WEFT_SNIFF_MORE},
		{"P", WEFT_SNIFF_MORE},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", WEFT_SNIFF_MORE},
		{"GET", WEFT_SNIFF_MORE},
		{"GET /abc", WEFT_SNIFF_MORE},
		{"GET / HTTP/1.", WEFT_SNIFF_MORE},
		{"GET / HTTP/1.1", WEFT_SNIFF_MORE},
		{"GET / HTTP/1.2", WEFT_SNIFF_NO},
		{"GET / HTTP/2.0\r\n", WEFT_SNIFF_NO},
		{"GET / HTTP/1.10\r\n", WEFT_SNIFF_NO},
		{"get / HTTP/1.1\r\n", WEFT_SNIFF_NO},
		{"FROB / HTTP/1.1\r\n", WEFT_SNIFF_NO},
		{"GET  / HTTP/1.1\r\n", WEFT_SNIFF_NO},
		{"GET /\r\n", WEFT_SNIFF_NO},
		{"SSH-2.0-OpenSSH\r\n", WEFT_SNIFF_NO},
		{"AAAAAAAAAAAAAAAAAAAAAAAA", WEFT_SNIFF_NO},
		{"\x16\x03\x01", WEFT_SNIFF_NO},
		{"\r\n\r\n\r\nGET / HTTP/1.1\r\n", WEFT_SNIFF_NO},
		{"PRI * HTTP/2.0\r\n\r\nSMx", WEFT_SNIFF_NO},
	};
	char *line = malloc(WEFT_SNIFF_HTTP_MAX + 1);

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_int_equal(http(t[i].s, strlen(t[i].s)), t[i].want);
		for (size_t n = 0; t[i].want >= WEFT_SNIFF_HTTP10 && n + 2 < strlen(t[i].s); n++)
			assert_int_equal(http(t[i].s, n), WEFT_SNIFF_MORE);
	}
	assert_non_null(line);
	memset(line, 'a', WEFT_SNIFF_HTTP_MAX + 1);
	memcpy(line, "GET /", 5);
	assert_int_equal(http(line, WEFT_SNIFF_HTTP_MAX - 1), WEFT_SNIFF_MORE);
	assert_int_equal(http(line, WEFT_SNIFF_HTTP_MAX), WEFT_SNIFF_NO);
	assert_int_equal(http(line, WEFT_SNIFF_HTTP_MAX + 1), WEFT_SNIFF_NO);
	free(line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole),      cmocka_unit_test(in_records),
		cmocka_unit_test(broken),     cmocka_unit_test(name_twice_or_odd),
		cmocka_unit_test(http_lines), cmocka_unit_test(ja3_vectors),
		cmocka_unit_test(ja4_vector), cmocka_unit_test(fingerprints_asked_for),
	};

	return cmocka_run_group_tests_name("proxy/codec/sniff", tests, NULL, NULL);
}
