#include "proxy/codec/proxyproto.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	V2 = 0x2,
	CMD_LOCAL = 0,
	CMD_PROXY = 1,
	INET = 1,
	INET6 = 2,
	UNIX = 3,
	STREAM = 1,
	DGRAM = 2,
	INET_LEN = 12,
	UNIX_LEN = 216,
	TLV_HEAD = 3,
	CRC_LEN = 4,
};

static const uint8_t signature[12] = "\r\n\r\n\0\r\nQUIT\n";
static const char v1_start[6] = "PROXY ";

/* Reflected Castagnoli polynomial, a nibble at a time. */
static uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
	static const uint32_t t[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		crc = crc >> 4 ^ t[crc & 15];
		crc = crc >> 4 ^ t[crc & 15];
	}
	return crc;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint8_t *put16(uint8_t *d, size_t v)
{
	d[0] = (uint8_t)(v >> 8);
	d[1] = (uint8_t)v;
	return d + 2;
}

/* ---- version 1 */

/* The word at *s up to a space or the end, NUL-terminated in dst. */
static bool word(const char **s, const char *end, char *dst, size_t cap)
{
	const char *from = *s, *to = memchr(from, ' ', (size_t)(end - from)) ?: end;
	size_t n = (size_t)(to - from);

	if (!n || n >= cap || memchr(from, '\0', n))
		return false;
	memcpy(dst, from, n);
	dst[n] = '\0';
	*s = to < end ? to + 1 : end;
	return true;
}

/* 0..65535 without a leading zero. */
static bool port(const char *s, uint16_t *ret)
{
	uint32_t v = 0;

	if (s[0] == '0' && s[1])
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		v = v * 10 + (uint32_t)(*s - '0');
	}
	*ret = (uint16_t)v;
	return v <= UINT16_MAX;
}

static int parse_v1_line(const char *s, const char *end, struct weft_proxyproto *ret)
{
	char family[8], src[WEFT_IP_TEXT], dst[WEFT_IP_TEXT], sport[6], dport[6];
	bool v6;

	if (!word(&s, end, family, sizeof(family)))
		return -EPROTO;
	ret->unknown = !strcmp(family, "UNKNOWN");
	if (ret->unknown) /* whatever else is in the line */
		return 0;
	v6 = !strcmp(family, "TCP6");
	if (!v6 && strcmp(family, "TCP4") != 0)
		return -EPROTO;
	if (!word(&s, end, src, sizeof(src)) || !word(&s, end, dst, sizeof(dst)) ||
	    !word(&s, end, sport, sizeof(sport)) || !word(&s, end, dport, sizeof(dport)))
		return -EPROTO;
	if (s != end || end[-1] == ' ' || !strchr(src, ':') == v6 || !strchr(dst, ':') == v6)
		return -EPROTO;
	if (weft_ip_parse(src, &ret->src.ip) || weft_ip_parse(dst, &ret->dst.ip) ||
	    !port(sport, &ret->src.port) || !port(dport, &ret->dst.port))
		return -EPROTO;
	return 0;
}

static ssize_t parse_v1(const uint8_t *p, size_t n, struct weft_proxyproto *ret)
{
	size_t seen = n < WEFT_PP_V1_MAX ? n : WEFT_PP_V1_MAX;
	const char *s = (const char *)p, *lf = memchr(s, '\n', seen);
	int r;

	if (!lf)
		return seen == WEFT_PP_V1_MAX ? -E2BIG : 0;
	if (lf[-1] != '\r' || memchr(s, '\r', (size_t)(lf - s - 1)))
		return -EPROTO;
	ret->version = 1;
	r = parse_v1_line(s + sizeof(v1_start), lf - 1, ret);
	return r ? r : lf + 1 - s;
}

/* ---- version 2 */

/* Every TLV lies within; a CRC32C is right. */
static int check_tlvs(const uint8_t *p, size_t all, const struct weft_proxyproto *pp)
{
	struct weft_proxyproto_tlv t;
	static const uint8_t zero[CRC_LEN];
	size_t at = 0;

	while (weft_proxyproto_tlv(pp, &at, &t)) {
		uint32_t crc, want;

		if (t.type != WEFT_PP_CRC32C)
			continue;
		if (t.n != CRC_LEN)
			return -EPROTO;
		want = (uint32_t)get16(t.value) << 16 | get16(t.value + 2);
		crc = crc32c(~0U, p, (size_t)(t.value - p));
		crc = crc32c(crc, zero, CRC_LEN);
		crc = ~crc32c(crc, t.value + CRC_LEN, (size_t)(p + all - t.value) - CRC_LEN);
		if (crc != want)
			return -EPROTO;
	}
	return at == pp->tlvs_len ? 0 : -EPROTO;
}

/* Addresses at p; returns their length, or -EPROTO. */
static ssize_t addresses(const uint8_t *p, size_t n, uint8_t family, struct weft_proxyproto *ret)
{
	size_t len = family == INET ? 4 : 16;

	switch (family) {
	case 0:
		ret->unknown = true;
		return 0;
	case UNIX:
		ret->unknown = true;
		return n >= UNIX_LEN ? UNIX_LEN : -EPROTO;
	case INET:
	case INET6:
		if (n < 2 * len + 4 || weft_ip_from_bytes(p, len, &ret->src.ip) ||
		    weft_ip_from_bytes(p + len, len, &ret->dst.ip))
			return -EPROTO;
		ret->src.port = get16(p + 2 * len);
		ret->dst.port = get16(p + 2 * len + 2);
		return (ssize_t)(2 * len + 4);
	default:
		return -EPROTO;
	}
}

static ssize_t parse_v2(const uint8_t *p, size_t n, struct weft_proxyproto *ret)
{
	size_t len, all;
	ssize_t a;
	int r;

	if (n > 12 && (p[12] >> 4 != V2 || (p[12] & 15) > CMD_PROXY))
		return -EPROTO;
	if (n > 13 && (p[13] >> 4 > UNIX || (p[13] & 15) > DGRAM))
		return -EPROTO;
	if (n < WEFT_PP_V2_HEAD)
		return 0;
	len = get16(p + 14);
	all = WEFT_PP_V2_HEAD + len;
	if (all > WEFT_PP_V2_MAX)
		return -E2BIG;
	if (n < all)
		return 0;
	ret->version = 2;
	ret->local = (p[12] & 15) == CMD_LOCAL;
	ret->datagram = (p[13] & 15) == DGRAM;
	if (ret->local) /* the rest means nothing */
		return (ssize_t)all;
	a = addresses(p + WEFT_PP_V2_HEAD, len, p[13] >> 4, ret);
	if (a < 0 || (!(p[13] >> 4) != !(p[13] & 15)))
		return -EPROTO;
	ret->tlvs = p + WEFT_PP_V2_HEAD + a;
	ret->tlvs_len = p[13] ? len - (size_t)a : 0;
	r = check_tlvs(p, all, ret);
	return r ? r : (ssize_t)all;
}

ssize_t weft_proxyproto_parse(const uint8_t *p, size_t n, struct weft_proxyproto *ret)
{
	size_t k = n < sizeof(signature) ? n : sizeof(signature);

	*ret = (struct weft_proxyproto){0};
	if (!n)
		return 0;
	if (!memcmp(p, signature, k))
		return k < sizeof(signature) ? 0 : parse_v2(p, n, ret);
	k = n < sizeof(v1_start) ? n : sizeof(v1_start);
	if (memcmp(p, v1_start, k) != 0)
		return -ENOENT;
	return k < sizeof(v1_start) ? 0 : parse_v1(p, n, ret);
}

bool weft_proxyproto_tlv(const struct weft_proxyproto *pp, size_t *at,
			 struct weft_proxyproto_tlv *ret)
{
	size_t left = pp->tlvs_len - *at, n;
	const uint8_t *p;

	if (left < TLV_HEAD)
		return false;
	p = pp->tlvs + *at;
	n = get16(p + 1);
	if (n > left - TLV_HEAD)
		return false;
	*ret = (struct weft_proxyproto_tlv){p[0], p + TLV_HEAD, n};
	*at += TLV_HEAD + n;
	return true;
}

/* ---- writing */

static bool mixed(const struct weft_proxyproto *pp)
{
	return pp->src.ip.family != pp->dst.ip.family;
}

static bool nameless(const struct weft_proxyproto *pp)
{
	return pp->local || pp->unknown || !pp->src.ip.family || !pp->dst.ip.family;
}

static const char *text_of(const struct weft_ip *ip, bool mapped, char *dst, size_t cap)
{
	char text[WEFT_IP_TEXT];

	if (!mapped || ip->family == 6)
		return weft_ip_text(ip, dst, cap);
	snprintf(dst, cap, "::ffff:%s", weft_ip_text(ip, text, sizeof(text)));
	return dst;
}

ssize_t weft_proxyproto_write_v1(const struct weft_proxyproto *pp, char *dst, size_t cap)
{
	char line[WEFT_PP_V1_MAX + 1], src[WEFT_IP_TEXT + 8], to[WEFT_IP_TEXT + 8];
	bool mapped = mixed(pp);
	int n;

	if (nameless(pp))
		n = snprintf(line, sizeof(line), "PROXY UNKNOWN\r\n");
	else
		n = snprintf(line, sizeof(line), "PROXY TCP%d %s %s %u %u\r\n",
			     mapped ? 6 : pp->src.ip.family,
			     text_of(&pp->src.ip, mapped, src, sizeof(src)),
			     text_of(&pp->dst.ip, mapped, to, sizeof(to)), pp->src.port,
			     pp->dst.port);
	if ((size_t)n <= cap)
		memcpy(dst, line, (size_t)n);
	return n;
}

static uint8_t *put_ip(uint8_t *d, const struct weft_ip *ip, bool v6)
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

	if (v6 && ip->family == 4) {
		memcpy(d, prefix, sizeof(prefix));
		d += sizeof(prefix);
	}
	memcpy(d, ip->b, ip->family == 4 ? 4 : 16);
	return d + (ip->family == 4 ? 4 : 16);
}

static uint8_t *put_tlv(uint8_t *d, uint8_t type, const uint8_t *value, size_t n)
{
	*d++ = type;
	d = put16(d, n);
	if (n)
		memcpy(d, value, n);
	return d + n;
}

static uint8_t *put_head(uint8_t *d, const struct weft_proxyproto *pp, size_t len)
{
	bool v6 = mixed(pp) || pp->src.ip.family == 6;

	memcpy(d, signature, sizeof(signature));
	d += sizeof(signature);
	*d++ = V2 << 4 | (nameless(pp) ? CMD_LOCAL : CMD_PROXY);
	*d++ = (uint8_t)(nameless(pp) ? 0
				      : (v6 ? INET6 : INET) << 4 | (pp->datagram ? DGRAM : STREAM));
	d = put16(d, len);
	if (nameless(pp))
		return d;
	d = put_ip(put_ip(d, &pp->src.ip, v6), &pp->dst.ip, v6);
	return put16(put16(d, pp->src.port), pp->dst.port);
}

ssize_t weft_proxyproto_write_v2(const struct weft_proxyproto *pp,
				 const struct weft_proxyproto_tlv *v, size_t n, bool crc,
				 uint8_t *dst, size_t cap)
{
	static const uint8_t zero[CRC_LEN];
	size_t len = 0, all;
	uint8_t *d;

	if (!nameless(pp))
		len = mixed(pp) || pp->src.ip.family == 6 ? WEFT_PP_ADDRS_MAX : INET_LEN;
	for (size_t i = 0; i < n; i++) {
		if (v[i].type != WEFT_PP_CRC32C)
			len += TLV_HEAD + v[i].n;
		if (v[i].n > UINT16_MAX || len > UINT16_MAX)
			return -E2BIG;
	}
	len += crc ? TLV_HEAD + CRC_LEN : 0;
	all = WEFT_PP_V2_HEAD + len;
	if (all > WEFT_PP_V2_MAX)
		return -E2BIG;
	if (all > cap)
		return (ssize_t)all;
	d = put_head(dst, pp, len);
	for (size_t i = 0; i < n; i++)
		if (v[i].type != WEFT_PP_CRC32C)
			d = put_tlv(d, v[i].type, v[i].value, v[i].n);
	if (crc) {
		uint32_t sum;

		d = put_tlv(d, WEFT_PP_CRC32C, zero, CRC_LEN);
		sum = ~crc32c(~0U, dst, all);
		put16(put16(d - CRC_LEN, sum >> 16), sum & 0xffff);
	}
	return (ssize_t)all;
}
