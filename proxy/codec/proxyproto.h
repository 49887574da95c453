/* PROXY protocol, versions 1 and 2: the header in front of a connection's bytes. Pure.
 * haproxy/haproxy doc/proxy-protocol.txt */
#pragma once
#include "proxy/core/addr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	WEFT_PP_V1_MAX = 107, /* with its CRLF */
	WEFT_PP_V2_HEAD = 16,
	WEFT_PP_V2_MAX = 16 + (16 << 10), /* what is taken; a longer one is refused */
	WEFT_PP_ADDRS_MAX = 36,		  /* of version 2, but unix ones */
};

enum weft_pp_tlv { /* §2.2; others are as good */
		   WEFT_PP_ALPN = 0x01,
		   WEFT_PP_AUTHORITY = 0x02,
		   WEFT_PP_CRC32C = 0x03,
		   WEFT_PP_NOOP = 0x04,
		   WEFT_PP_UNIQUE_ID = 0x05,
		   WEFT_PP_SSL = 0x20,
		   WEFT_PP_NETNS = 0x30,
};

struct weft_proxyproto {
	uint8_t version;	       /* 1 or 2 */
	bool local;		       /* LOCAL: keep the connection's own addresses */
	bool unknown;		       /* UNKNOWN, unspec, unix: no addresses either */
	bool datagram;		       /* UDP was said */
	struct weft_sockaddr src, dst; /* unless local or unknown */
	const uint8_t *tlvs;	       /* well-formed, point into the parsed bytes */
	size_t tlvs_len;
};
/* > 0: bytes of the header; 0: more are needed; -ENOENT: no PROXY header begins so; -EPROTO:
 * broken; -E2BIG: beyond the limit. A CRC32C is checked where there is one. */
ssize_t weft_proxyproto_parse(const uint8_t *p, size_t n, struct weft_proxyproto *ret);

struct weft_proxyproto_tlv {
	uint8_t type;
	const uint8_t *value;
	size_t n;
};
/* false: no more. *at begins at 0. */
bool weft_proxyproto_tlv(const struct weft_proxyproto *pp, size_t *at,
			 struct weft_proxyproto_tlv *ret);

/* Bytes written (to dst only if they fit in cap: a cap of 0 asks for the size); -E2BIG: too many
 * TLVs. local or unknown write "UNKNOWN" and LOCAL. Version 2 with crc puts a CRC32C last. TLVs of
 * type CRC32C in v are left out. Addresses of two families are both written as v6. */
ssize_t weft_proxyproto_write_v1(const struct weft_proxyproto *pp, char *dst, size_t cap);
ssize_t weft_proxyproto_write_v2(const struct weft_proxyproto *pp,
				 const struct weft_proxyproto_tlv *v, size_t n, bool crc,
				 uint8_t *dst, size_t cap);
