/* PROXY protocol v1 and v2 towards an upstream: the connection's first bytes name the client.
 * https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt */
#include "proxy/upstream/transport_priv.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

typedef Envoy__Config__Core__V3__ProxyProtocolConfig ProxyConfig;
enum { V2_HEAD = 16, V4_BYTES = 12, V6_BYTES = 36, TLV_HEAD = 3, TLVS_MAX = 256 };

static const ProxyConfig *conf_of(const struct weft_tsocket *s)
{
	return s->proxy->config;
}

static bool is_v2(const ProxyConfig *c)
{
	return c && c->has_version &&
	       c->version == ENVOY__CONFIG__CORE__V3__PROXY_PROTOCOL_CONFIG__VERSION__V2;
}

int weft_proxy_header_check(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Extensions__TransportSockets__ProxyProtocol__V3__ProxyProtocolUpstreamTransport
		*m)
{
	struct weft_path conf = {at, "config", -1};
	size_t bytes = 0;

	for (size_t i = 0; m->config && i < m->config->n_added_tlvs; i++) {
		const Envoy__Config__Core__V3__TlvEntry *e = m->config->added_tlvs[i];
		struct weft_path tlv = {&conf, "added_tlvs", (int)i};

		if (e->type > 255)
			return weft_cfg_fail(c, &tlv, "type must be 0..255, is %u", e->type);
		bytes += TLV_HEAD + e->value.len;
	}
	if (bytes > TLVS_MAX)
		return weft_cfg_fail(c, &conf,
				     "added_tlvs must have at most %d bytes in all, have %zu",
				     TLVS_MAX, bytes);
	return 0;
}

static int v1(const struct weft_sockaddr *from, const struct weft_sockaddr *to,
	      struct weft_tdial *d)
{
	char a[WEFT_IP_TEXT], b[WEFT_IP_TEXT];
	int n;

	if (!from || from->ip.family != to->ip.family)
		n = snprintf((char *)d->preamble, sizeof(d->preamble), "PROXY UNKNOWN\r\n");
	else
		n = snprintf((char *)d->preamble, sizeof(d->preamble),
			     "PROXY TCP%d %s %s %u %u\r\n", from->ip.family,
			     weft_ip_text(&from->ip, a, sizeof(a)),
			     weft_ip_text(&to->ip, b, sizeof(b)), from->port, to->port);
	return n;
}

static size_t put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return 2;
}

static size_t put_ip(uint8_t *p, const struct weft_ip *ip, bool v6)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (!v6) {
		memcpy(p, ip->b, 4);
		return 4;
	}
	if (ip->family == 6) {
		memcpy(p, ip->b, 16);
	} else {
		memcpy(p, mapped, 12);
		memcpy(p + 12, ip->b, 4);
	}
	return 16;
}

static size_t v2(const ProxyConfig *c, const struct weft_sockaddr *from,
		 const struct weft_sockaddr *to, uint8_t *p)
{
	static const uint8_t sign[12] = "\r\n\r\n\0\r\nQUIT\n";
	bool v6 = from && (from->ip.family == 6 || to->ip.family == 6);
	size_t at = V2_HEAD;

	memcpy(p, sign, sizeof(sign));
	p[12] = from ? 0x21 : 0x20; /* PROXY, LOCAL */
	p[13] = !from ? 0 : v6 ? 0x21 : 0x11;
	if (from) {
		at += put_ip(p + at, &from->ip, v6);
		at += put_ip(p + at, &to->ip, v6);
		at += put16(p + at, from->port);
		at += put16(p + at, to->port);
	}
	for (size_t i = 0; from && c && i < c->n_added_tlvs; i++) {
		const Envoy__Config__Core__V3__TlvEntry *e = c->added_tlvs[i];

		p[at++] = (uint8_t)e->type;
		at += put16(p + at, e->value.len);
		memcpy(p + at, e->value.data, e->value.len);
		at += e->value.len;
	}
	put16(p + 14, at - V2_HEAD);
	return at;
}

int weft_proxy_header(const struct weft_tsocket *s, const struct weft_take *how,
		      struct weft_tdial *d)
{
	const struct weft_sockaddr *from = how ? how->source : NULL, *to = how ? how->dest : NULL;
	bool any = from && to && from->ip.family && to->ip.family;

	if (is_v2(conf_of(s)))
		d->dial.preamble_n =
			v2(conf_of(s), any ? from : NULL, any ? to : NULL, d->preamble);
	else
		d->dial.preamble_n = (size_t)v1(any ? from : NULL, any ? to : NULL, d);
	d->dial.preamble = d->preamble;
	return 0;
}
