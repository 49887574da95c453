#include "proxy/codec/proxyproto.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIG "\r\n\r\n\0\r\nQUIT\n"

static ssize_t parse(const void *p, size_t n, struct weft_proxyproto *pp)
{
	uint8_t *exact = malloc(n ? n : 1);
	ssize_t r;

	assert_non_null(exact);
	memcpy(exact, p, n);
	r = weft_proxyproto_parse(exact, n, pp);
	free(exact);
	return r;
}

static void same(const struct weft_sockaddr *a, const char *want)
{
	char text[WEFT_SOCKADDR_TEXT];

	assert_string_equal(weft_sockaddr_text(a, text, sizeof(text)), want);
}

static void v1(void **st)
{
	static const char v4[] = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET",
			  v6[] = "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
			  unknown[] = "PROXY UNKNOWN\r\n", more[] = "PROXY UNKNOWN a b c\r\nx";
	struct weft_proxyproto pp;
	size_t head = sizeof(v4) - 4;

	for (size_t i = 0; i < head; i++)
		assert_int_equal(parse(v4, i, &pp), 0);
	assert_int_equal(parse(v4, sizeof(v4) - 1, &pp), head);
	assert_true(pp.version == 1 && !pp.local && !pp.unknown);
	same(&pp.src, "192.0.2.1:56324");
	same(&pp.dst, "198.51.100.2:443");
	assert_int_equal(parse(v6, sizeof(v6) - 1, &pp), sizeof(v6) - 1);
	same(&pp.src, "[2001:db8::1]:1");
	same(&pp.dst, "[2001:db8::2]:65535");
	assert_int_equal(parse(unknown, sizeof(unknown) - 1, &pp), sizeof(unknown) - 1);
	assert_true(pp.unknown);
	assert_int_equal(parse(more, sizeof(more) - 1, &pp), sizeof(more) - 2);
}

static void v1_broken(void **st)
{
	static const struct {
		const char *s;
		int want;
	} t[] = {
		{"GET / HTTP/1.1\r\n", -ENOENT},
		{"PROXYTCP4", -ENOENT},
		{"proxy TCP4 ", -ENOENT},
		{"PROXY \r\n", -EPROTO},
		{"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", -EPROTO},
		{"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999999\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n", -EPROTO},
		{"PROXY TCP4 ::1 ::2 1 2\r\n", -EPROTO},
		{"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", -EPROTO},
		{"PROXY TCP6 ::1%lo ::2 1 2\r\n", -EPROTO},
		{"PROXY TCP4 1.2.3.4\r1.2.3.4 1 2\r\n", -EPROTO},
		{"PROXY TCP4 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
		 -EPROTO},
	};
	struct weft_proxyproto pp;
	char line[WEFT_PP_V1_MAX + 10];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		assert_int_equal(parse(t[i].s, strlen(t[i].s), &pp), t[i].want);
	assert_int_equal(parse("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n", 33, &pp), -EPROTO);
	memset(line, ' ', sizeof(line));
	memcpy(line, "PROXY UNKNOWN", 13);
	assert_int_equal(parse(line, WEFT_PP_V1_MAX - 1, &pp), 0);
	assert_int_equal(parse(line, WEFT_PP_V1_MAX, &pp), -E2BIG);
	memcpy(line + WEFT_PP_V1_MAX - 2, "\r\n", 2);
	assert_int_equal(parse(line, sizeof(line), &pp), WEFT_PP_V1_MAX);
}

static void v2(void **st)
{
	static const char v4[] = SIG "\x21\x11\0\x14\xc0\0\2\1\xc6\x33\x64\2\xdc\4\1\xbb"
				     "\x05\0\2id\4\0\0rest";
	struct weft_proxyproto pp;
	struct weft_proxyproto_tlv t;
	const size_t head = 16 + 20;
	size_t at = 0;

	for (size_t i = 0; i < head; i++)
		assert_int_equal(parse(v4, i, &pp), 0);
	assert_int_equal(weft_proxyproto_parse((const uint8_t *)v4, sizeof(v4) - 1, &pp), head);
	assert_true(pp.version == 2 && !pp.local && !pp.unknown && !pp.datagram);
	same(&pp.src, "192.0.2.1:56324");
	same(&pp.dst, "198.51.100.2:443");
	assert_true(weft_proxyproto_tlv(&pp, &at, &t));
	assert_true(t.type == WEFT_PP_UNIQUE_ID && t.n == 2 && !memcmp(t.value, "id", 2));
	assert_true(weft_proxyproto_tlv(&pp, &at, &t));
	assert_true(t.type == WEFT_PP_NOOP && t.n == 0);
	assert_false(weft_proxyproto_tlv(&pp, &at, &t));
	assert_int_equal(parse(SIG "\x20\0\0\0", 16, &pp), 16);
	assert_true(pp.local);
	assert_int_equal(parse(SIG "\x20\x11\0\2zz", 18, &pp), 18); /* its rest is skipped */
	assert_true(pp.local);
	assert_int_equal(parse(SIG "\x21\0\0\0", 16, &pp), 16);
	assert_true(pp.unknown && !pp.local);
}

static void v2_broken(void **st)
{
	static const struct {
		const char *s;
		size_t n;
		int want;
	} t[] = {
		{SIG "\x11", 13, -EPROTO},     /* version */
		{SIG "\x22", 13, -EPROTO},     /* command */
		{SIG "\x21\x41", 14, -EPROTO}, /* family */
		{SIG "\x21\x13", 14, -EPROTO}, /* protocol */
		{SIG "\x21\x10\0\x0c\1\2\3\4\1\2\3\4\0\1\0\2", 28, -EPROTO},
		{SIG "\x21\x01\0\0", 16, -EPROTO},
		{SIG "\x21\x11\0\x0b\1\2\3\4\1\2\3\4\0\1\0", 27, -EPROTO}, /* short addresses */
		{SIG "\x21\x11\0\x0e\1\2\3\4\1\2\3\4\0\1\0\2\1\0", 30, -EPROTO}, /* cut TLV */
		{SIG "\x21\x11\0\x0f\1\2\3\4\1\2\3\4\0\1\0\2\1\0\1", 31, -EPROTO},
		{SIG "\x21\x11\0\x10\1\2\3\4\1\2\3\4\0\1\0\2\3\0\1x", 32, -EPROTO}, /* CRC's size */
		{SIG "\x21\x11\0\x13\1\2\3\4\1\2\3\4\0\1\0\2\3\0\4abcd", 35, -EPROTO}, /* wrong */
		{SIG "\x21\x11\xff\xff", 16, -E2BIG},
		{"\r\n\r\n\0\r\nQUIX", 11, -ENOENT},
		{"\r\nGET / HTTP/1.1", 16, -ENOENT},
	};
	struct weft_proxyproto pp;

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		assert_int_equal(parse(t[i].s, t[i].n, &pp), t[i].want);
}

static struct weft_proxyproto pair(const char *src, const char *dst)
{
	struct weft_proxyproto pp = {0};

	assert_int_equal(weft_sockaddr_parse(src, &pp.src), 0);
	assert_int_equal(weft_sockaddr_parse(dst, &pp.dst), 0);
	return pp;
}

static void there_and_back(void **st)
{
	static const char *const pairs[][2] = {
		{"192.0.2.1:56324", "198.51.100.2:443"},
		{"[2001:db8::1]:1", "[2001:db8::2]:65535"},
		{"192.0.2.1:5", "[2001:db8::2]:6"}, /* written as v6 */
	};
	const struct weft_proxyproto_tlv tlvs[] = {
		{WEFT_PP_AUTHORITY, (const uint8_t *)"a.example", 9},
		{WEFT_PP_CRC32C, (const uint8_t *)"left", 4},
		{0xea, NULL, 0},
	};
	struct weft_proxyproto again;
	struct weft_proxyproto_tlv t;
	uint8_t buf[256];

	for (size_t i = 0; i < 3; i++) {
		struct weft_proxyproto pp = pair(pairs[i][0], pairs[i][1]);
		ssize_t n = weft_proxyproto_write_v1(&pp, NULL, 0);
		size_t at = 0;

		assert_true(n <= WEFT_PP_V1_MAX);
		assert_int_equal(weft_proxyproto_write_v1(&pp, (char *)buf, (size_t)n), n);
		assert_int_equal(parse(buf, (size_t)n, &again), n);
		same(&again.src, pairs[i][0]);
		same(&again.dst, pairs[i][1]);
		n = weft_proxyproto_write_v2(&pp, tlvs, 3, true, NULL, 0);
		assert_int_equal(n, 16 + (i ? 36 : 12) + 12 + 3 + 7);
		assert_int_equal(weft_proxyproto_write_v2(&pp, tlvs, 3, true, buf, (size_t)n), n);
		assert_int_equal(weft_proxyproto_parse(buf, (size_t)n, &again), n);
		same(&again.src, pairs[i][0]);
		same(&again.dst, pairs[i][1]);
		assert_true(weft_proxyproto_tlv(&again, &at, &t));
		assert_memory_equal(t.value, "a.example", 9);
		assert_true(weft_proxyproto_tlv(&again, &at, &t) && t.type == 0xea && !t.n);
		assert_true(weft_proxyproto_tlv(&again, &at, &t) && t.type == WEFT_PP_CRC32C);
		buf[20] ^= 1; /* the sum covers the addresses */
		assert_int_equal(parse(buf, (size_t)n, &again), -EPROTO);
	}
}

static void nameless(void **st)
{
	struct weft_proxyproto pp = {.local = true}, again;
	uint8_t buf[64];

	assert_int_equal(weft_proxyproto_write_v1(&pp, (char *)buf, sizeof(buf)), 15);
	assert_memory_equal(buf, "PROXY UNKNOWN\r\n", 15);
	assert_int_equal(weft_proxyproto_write_v2(&pp, NULL, 0, false, buf, sizeof(buf)), 16);
	assert_int_equal(parse(buf, 16, &again), 16);
	assert_true(again.local);
}

static void limits(void **st)
{
	struct weft_proxyproto pp = {.local = true};
	struct weft_proxyproto_tlv t = {0xe0, NULL, 70000};

	assert_int_equal(weft_proxyproto_write_v2(&pp, &t, 1, false, NULL, 0), -E2BIG);
	t.n = 16 << 10;
	assert_int_equal(weft_proxyproto_write_v2(&pp, &t, 1, false, NULL, 0), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(v1),
		cmocka_unit_test(v1_broken),
		cmocka_unit_test(v2),
		cmocka_unit_test(v2_broken),
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(nameless),
		cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests_name("proxy/codec/proxyproto", tests, NULL, NULL);
}
