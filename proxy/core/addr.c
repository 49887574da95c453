#include "proxy/core/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

int weft_ip_from_bytes(const void *p, size_t n, struct weft_ip *ret)
{
	struct weft_ip ip = {0};

	if (n == 4) {
		ip.family = 4;
		memcpy(ip.b, p, 4);
	} else if (n == 16 && !memcmp(p, mapped_prefix, sizeof(mapped_prefix))) {
		ip.family = 4;
		memcpy(ip.b, (const uint8_t *)p + 12, 4);
	} else if (n == 16) {
		ip.family = 6;
		memcpy(ip.b, p, 16);
	} else {
		return -EINVAL;
	}
	*ret = ip;
	return 0;
}

int weft_ip_parse(const char *s, struct weft_ip *ret)
{
	uint8_t b[16];

	/* inet_pton takes neither zone ids, leading zeros, spaces nor short v4 forms */
	if (inet_pton(AF_INET, s, b) == 1)
		return weft_ip_from_bytes(b, 4, ret);
	if (inet_pton(AF_INET6, s, b) == 1)
		return weft_ip_from_bytes(b, 16, ret);
	return -EINVAL;
}

/* Decimal digits only, no sign, no leading zero, at most max. */
static int number_parse(const char *s, unsigned max, unsigned *ret)
{
	unsigned v = 0;

	if (!*s || (s[0] == '0' && s[1]))
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		v = v * 10 + (unsigned)(*s - '0');
		if (v > max)
			return -EINVAL;
	}
	*ret = v;
	return 0;
}

int weft_cidr_make(const struct weft_ip *ip, unsigned len, struct weft_cidr *ret)
{
	struct weft_cidr c = {.ip = *ip, .len = (uint8_t)len};
	size_t bytes = weft_ip_bytes(ip);

	if (!bytes || len > bytes * 8)
		return -EINVAL;
	for (size_t i = 0; i < bytes; i++) {
		unsigned keep = len > i * 8 ? len - (unsigned)i * 8 : 0;

		if (keep < 8)
			c.ip.b[i] &= (uint8_t)(0xff00u >> keep);
	}
	*ret = c;
	return 0;
}

int weft_cidr_parse(const char *s, struct weft_cidr *ret)
{
	const char *slash = strchr(s, '/');
	char text[WEFT_IP_TEXT];
	struct weft_ip ip;
	unsigned len;
	int err;

	if (!slash) {
		err = weft_ip_parse(s, &ip);
		return err ? err : weft_cidr_make(&ip, (unsigned)weft_ip_bytes(&ip) * 8, ret);
	}
	if ((size_t)(slash - s) >= sizeof(text))
		return -EINVAL;
	memcpy(text, s, (size_t)(slash - s));
	text[slash - s] = '\0';
	err = weft_ip_parse(text, &ip);
	if (err)
		return err;
	err = number_parse(slash + 1, 128, &len);
	if (err)
		return err;
	/* "::ffff:10.0.0.0/104" is 10.0.0.0/8; a shorter mapped prefix covers more than v4 */
	if (ip.family == 4 && strchr(text, ':')) {
		if (len < 96)
			return -EINVAL;
		len -= 96;
	}
	return weft_cidr_make(&ip, len, ret);
}

int weft_sockaddr_parse(const char *s, struct weft_sockaddr *ret)
{
	char text[WEFT_IP_TEXT];
	const char *colon = strrchr(s, ':'), *from = s, *to = colon;
	struct weft_sockaddr a = {0};
	unsigned port;
	int err;

	if (!colon)
		return -EINVAL;
	if (*s == '[') {
		if (colon == s || colon[-1] != ']')
			return -EINVAL;
		from = s + 1;
		to = colon - 1;
	}
	if (to < from || (size_t)(to - from) >= sizeof(text))
		return -EINVAL;
	memcpy(text, from, (size_t)(to - from));
	text[to - from] = '\0';
	/* brackets if and only if it is written as v6 */
	if ((*s == '[') != (strchr(text, ':') != NULL))
		return -EINVAL;
	err = weft_ip_parse(text, &a.ip);
	if (err)
		return err;
	err = number_parse(colon + 1, 65535, &port);
	if (err || !port)
		return -EINVAL;
	a.port = (uint16_t)port;
	*ret = a;
	return 0;
}

const char *weft_ip_text(const struct weft_ip *ip, char *dst, size_t cap)
{
	char text[WEFT_IP_TEXT] = "none";

	if (ip->family == 4 || ip->family == 6)
		inet_ntop(ip->family == 4 ? AF_INET : AF_INET6, ip->b, text, sizeof(text));
	snprintf(dst, cap, "%s", text);
	return dst;
}

const char *weft_cidr_text(const struct weft_cidr *c, char *dst, size_t cap)
{
	char text[WEFT_IP_TEXT];

	snprintf(dst, cap, "%s/%u", weft_ip_text(&c->ip, text, sizeof(text)), c->len);
	return dst;
}

const char *weft_sockaddr_text(const struct weft_sockaddr *a, char *dst, size_t cap)
{
	char text[WEFT_IP_TEXT];

	weft_ip_text(&a->ip, text, sizeof(text));
	snprintf(dst, cap, a->ip.family == 6 ? "[%s]:%u" : "%s:%u", text, a->port);
	return dst;
}

size_t weft_ip_bytes(const struct weft_ip *a)
{
	return a->family == 4 ? 4 : a->family == 6 ? 16 : 0;
}

bool weft_ip_eq(const struct weft_ip *a, const struct weft_ip *b)
{
	return a->family == b->family && !memcmp(a->b, b->b, weft_ip_bytes(a));
}

int weft_ip_cmp(const struct weft_ip *a, const struct weft_ip *b)
{
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	return memcmp(a->b, b->b, weft_ip_bytes(a));
}

bool weft_ip_is_loopback(const struct weft_ip *a)
{
	static const uint8_t one[16] = {[15] = 1};

	return a->family == 4 ? a->b[0] == 127 : a->family == 6 && memcmp(a->b, one, 16) == 0;
}

bool weft_ip_is_any(const struct weft_ip *a)
{
	static const uint8_t zero[16];

	return a->family && !memcmp(a->b, zero, weft_ip_bytes(a));
}

bool weft_sockaddr_eq(const struct weft_sockaddr *a, const struct weft_sockaddr *b)
{
	return a->port == b->port && weft_ip_eq(&a->ip, &b->ip);
}

bool weft_cidr_has(const struct weft_cidr *c, const struct weft_ip *ip)
{
	unsigned bytes = c->len / 8, bits = c->len % 8;

	if (!c->ip.family || c->ip.family != ip->family || memcmp(c->ip.b, ip->b, bytes) != 0)
		return false;
	return !bits || !((c->ip.b[bytes] ^ ip->b[bytes]) & (uint8_t)(0xff00u >> bits));
}

int weft_sockaddr_from_kernel(const struct sockaddr_storage *ss, struct weft_sockaddr *ret)
{
	struct weft_sockaddr a = {0};

	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)ss;

		weft_ip_from_bytes(&in->sin_addr, 4, &a.ip);
		a.port = ntohs(in->sin_port);
	} else if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

		weft_ip_from_bytes(&in6->sin6_addr, 16, &a.ip);
		a.port = ntohs(in6->sin6_port);
	} else {
		return -EAFNOSUPPORT;
	}
	*ret = a;
	return 0;
}

socklen_t weft_sockaddr_to_kernel(const struct weft_sockaddr *a, int want_family,
				  struct sockaddr_storage *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (a->ip.family == 4 && want_family != AF_INET6) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret;

		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		memcpy(&in->sin_addr, a->ip.b, 4);
		return sizeof(*in);
	}
	if (a->ip.family && (a->ip.family == 4 || want_family != AF_INET)) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(a->port);
		if (a->ip.family == 6) {
			memcpy(&in6->sin6_addr, a->ip.b, 16);
		} else {
			memcpy(&in6->sin6_addr, mapped_prefix, sizeof(mapped_prefix));
			memcpy((uint8_t *)&in6->sin6_addr + 12, a->ip.b, 4);
		}
		return sizeof(*in6);
	}
	return 0; /* no address, or v6 asked for as v4 */
}
