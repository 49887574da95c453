/* Addresses: what is taken, what is refused, how it is written, and the kernel's forms. */
#include "proxy/core/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* text → canonical text, or NULL: refused */
static const char *const ips[][2] = {
	{"1.2.3.4", "1.2.3.4"},
	{"0.0.0.0", "0.0.0.0"},
	{"255.255.255.255", "255.255.255.255"},
	{"::", "::"},
	{"::1", "::1"},
	{"2001:DB8:0:0::1", "2001:db8::1"},
	{"::ffff:10.0.0.1", "10.0.0.1"},
	{"::FFFF:0a00:0001", "10.0.0.1"},
	{"", NULL},
	{"1.2.3", NULL},
	{"1.2.3.04", NULL},
	{"1.2.3.256", NULL},
	{"1.2.3.4 ", NULL},
	{" 1.2.3.4", NULL},
	{"0x1.2.3.4", NULL},
	{"fe80::1%eth0", NULL},
	{"[::1]", NULL},
	{"1:2:3:4:5:6:7:8:9", NULL},
	{":::", NULL},
};
static const char *const cidrs[][2] = {
	{"10.0.0.0/8", "10.0.0.0/8"},
	{"10.1.2.3/8", "10.0.0.0/8"},
	{"10.1.2.255/25", "10.1.2.128/25"},
	{"1.2.3.4", "1.2.3.4/32"},
	{"1.2.3.4/0", "0.0.0.0/0"},
	{"::/0", "::/0"},
	{"2001:db8::ffff/33", "2001:db8::/33"},
	{"::1", "::1/128"},
	{"::ffff:10.1.0.0/104", "10.0.0.0/8"},
	{"::ffff:10.1.0.0/95", NULL},
	{"1.2.3.4/33", NULL},
	{"::/129", NULL},
	{"::/4294967296", NULL},
	{"1.2.3.4/", NULL},
	{"1.2.3.4/08", NULL},
	{"1.2.3.4/-1", NULL},
	{"1.2.3.4/+8", NULL},
	{"1.2.3.4/8/8", NULL},
	{"/8", NULL},
	{"1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111/8", NULL},
};
static const char *const sockaddrs[][2] = {
	{"1.2.3.4:80", "1.2.3.4:80"},
	{"[::1]:80", "[::1]:80"},
	{"[::ffff:1.2.3.4]:65535", "1.2.3.4:65535"},
	{"1.2.3.4", NULL},
	{"1.2.3.4:", NULL},
	{"1.2.3.4:0", NULL},
	{"1.2.3.4:65536", NULL},
	{"1.2.3.4:080", NULL},
	{"1.2.3.4:8x", NULL},
	{"[1.2.3.4]:80", NULL},
	{"::1:80", NULL},
	{"[::1]80", NULL},
	{"[::1]", NULL},
	{"[]:80", NULL},
	{":80", NULL},
	{"[:80", NULL},
	{"", NULL},
};

static void test_ip(void **state)
{
	char text[WEFT_IP_TEXT];
	struct weft_ip ip;

	for (size_t i = 0; i < sizeof(ips) / sizeof(ips[0]); i++) {
		int err = weft_ip_parse(ips[i][0], &ip);

		assert_int_equal(err, ips[i][1] ? 0 : -EINVAL);
		if (!err)
			assert_string_equal(weft_ip_text(&ip, text, sizeof(text)), ips[i][1]);
	}
}

static void test_cidr(void **state)
{
	char text[WEFT_CIDR_TEXT];
	struct weft_cidr c;

	for (size_t i = 0; i < sizeof(cidrs) / sizeof(cidrs[0]); i++) {
		int err = weft_cidr_parse(cidrs[i][0], &c);

		assert_int_equal(err, cidrs[i][1] ? 0 : -EINVAL);
		if (!err)
			assert_string_equal(weft_cidr_text(&c, text, sizeof(text)), cidrs[i][1]);
	}
}

static void test_sockaddr(void **state)
{
	char text[WEFT_SOCKADDR_TEXT];
	struct weft_sockaddr a;

	for (size_t i = 0; i < sizeof(sockaddrs) / sizeof(sockaddrs[0]); i++) {
		int err = weft_sockaddr_parse(sockaddrs[i][0], &a);

		assert_int_equal(err, sockaddrs[i][1] ? 0 : -EINVAL);
		if (!err)
			assert_string_equal(weft_sockaddr_text(&a, text, sizeof(text)),
					    sockaddrs[i][1]);
	}
}

static void test_longest_texts_fit(void **state)
{
	struct weft_sockaddr a = {.port = 65535};
	char text[WEFT_SOCKADDR_TEXT], small[5];
	struct weft_cidr c;

	memset(a.ip.b, 0xff, 16);
	a.ip.family = 6;
	assert_string_equal(weft_sockaddr_text(&a, text, sizeof(text)),
			    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
	assert_int_equal(weft_cidr_make(&a.ip, 128, &c), 0);
	assert_string_equal(weft_cidr_text(&c, text, sizeof(text)),
			    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128");
	assert_string_equal(weft_ip_text(&a.ip, small, sizeof(small)), "ffff");
	assert_string_equal(weft_ip_text(&(struct weft_ip){0}, text, sizeof(text)), "none");
}

static struct weft_ip ip(const char *s)
{
	struct weft_ip ret;

	assert_int_equal(weft_ip_parse(s, &ret), 0);
	return ret;
}

static void test_predicates(void **state)
{
	struct weft_ip a = ip("10.1.2.3"), b = ip("10.1.2.4"), six = ip("::1"), none = {0};
	struct weft_cidr c;

	assert_true(weft_ip_eq(&a, &a));
	assert_false(weft_ip_eq(&a, &b));
	assert_true(weft_ip_cmp(&a, &b) < 0 && weft_ip_cmp(&b, &a) > 0);
	assert_true(weft_ip_cmp(&a, &six) < 0);
	assert_false(weft_ip_is_any(&none));
	assert_false(weft_ip_is_loopback(&none));
	six = ip("127.255.0.1");
	assert_true(weft_ip_is_loopback(&six));
	six = ip("::ffff:127.0.0.1");
	assert_true(weft_ip_is_loopback(&six));
	six = ip("::2");
	assert_false(weft_ip_is_loopback(&six));
	six = ip("::");
	assert_true(weft_ip_is_any(&six));
	assert_int_equal(weft_cidr_parse("10.1.0.0/15", &c), 0);
	assert_true(weft_cidr_has(&c, &a));
	six = ip("10.2.0.1");
	assert_false(weft_cidr_has(&c, &six));
	assert_int_equal(weft_cidr_parse("::/0", &c), 0);
	assert_false(weft_cidr_has(&c, &a)); /* v4 is not in any v6 range */
	six = ip("fd00::1");
	assert_true(weft_cidr_has(&c, &six));
	assert_int_equal(weft_cidr_make(&a, 33, &c), -EINVAL);
	assert_int_equal(weft_cidr_make(&none, 0, &c), -EINVAL);
	assert_int_equal(weft_ip_from_bytes("abc", 3, &six), -EINVAL);
	assert_int_equal(weft_ip_bytes(&none) + weft_ip_bytes(&a), 4);
}

static void test_kernel_forms(void **state)
{
	struct sockaddr_storage ss;
	struct weft_sockaddr a, b;

	assert_int_equal(weft_sockaddr_parse("10.1.2.3:8080", &a), 0);
	assert_int_equal(weft_sockaddr_to_kernel(&a, 0, &ss), sizeof(struct sockaddr_in));
	assert_int_equal(((struct sockaddr_in *)&ss)->sin_port, htons(8080));
	assert_int_equal(weft_sockaddr_from_kernel(&ss, &b), 0);
	assert_true(weft_sockaddr_eq(&a, &b));
	assert_int_equal(weft_sockaddr_to_kernel(&a, AF_INET6, &ss), sizeof(struct sockaddr_in6));
	assert_true(IN6_IS_ADDR_V4MAPPED(&((struct sockaddr_in6 *)&ss)->sin6_addr));
	assert_int_equal(weft_sockaddr_from_kernel(&ss, &b), 0);
	assert_true(weft_sockaddr_eq(&a, &b));
	assert_int_equal(weft_sockaddr_parse("[fd00::7]:1", &a), 0);
	assert_int_equal(weft_sockaddr_to_kernel(&a, AF_INET, &ss), 0);
	assert_int_equal(weft_sockaddr_to_kernel(&a, 0, &ss), sizeof(struct sockaddr_in6));
	assert_int_equal(weft_sockaddr_from_kernel(&ss, &b), 0);
	assert_true(weft_sockaddr_eq(&a, &b));
	ss.ss_family = AF_UNIX;
	assert_int_equal(weft_sockaddr_from_kernel(&ss, &b), -EAFNOSUPPORT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ip),	   cmocka_unit_test(test_cidr),
		cmocka_unit_test(test_sockaddr),   cmocka_unit_test(test_longest_texts_fit),
		cmocka_unit_test(test_predicates), cmocka_unit_test(test_kernel_forms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
