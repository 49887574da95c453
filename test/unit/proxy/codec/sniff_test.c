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
		cmocka_unit_test(http_lines),
	};

	return cmocka_run_group_tests_name("proxy/codec/sniff", tests, NULL, NULL);
}
