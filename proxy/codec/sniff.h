/* What a connection speaks, from its first bytes; nothing is consumed. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WEFT_SNIFF_HELLO_MAX = 64 << 10, /* ClientHello, any limit asked for is cut to this */
	WEFT_SNIFF_HELLO_DEFAULT = 16 << 10,
	WEFT_SNIFF_RECORDS_MAX = 64, /* one ClientHello in so many TLS records */
	WEFT_SNIFF_NAME_MAX = 255,
	WEFT_SNIFF_ALPN_MAX = 1024,	/* bytes of the list */
	WEFT_SNIFF_HTTP_MAX = 64 << 10, /* of a request line */
	WEFT_SNIFF_JA3 = 32,		/* bytes of the text */
	WEFT_SNIFF_JA4 = 38,
};
enum { WEFT_SNIFF_WANT_JA3 = 1, WEFT_SNIFF_WANT_JA4 = 2 }; /* fingerprints to be made */

enum weft_sniff {
	WEFT_SNIFF_MORE,      /* more bytes will tell */
	WEFT_SNIFF_NO,	      /* something else */
	WEFT_SNIFF_TOO_LARGE, /* it is, but beyond the limit */
	WEFT_SNIFF_TLS,
	WEFT_SNIFF_HTTP10,
	WEFT_SNIFF_HTTP11,
	WEFT_SNIFF_HTTP2, /* with prior knowledge */
};

struct weft_sniff_hello {
	char server_name[WEFT_SNIFF_NAME_MAX + 1]; /* lower-case; empty: none */
	uint8_t alpn[WEFT_SNIFF_ALPN_MAX];	   /* as on the wire: length, name, ... */
	size_t alpn_len;
	uint16_t version; /* highest offered: 0x0304 is TLS 1.3 */
	char ja3[WEFT_SNIFF_JA3 + 1], ja4[WEFT_SNIFF_JA4 + 1]; /* where asked for; else "" */
};
/* MORE, NO, TOO_LARGE or TLS; *ret is filled on TLS alone. max_hello 0: the default. The bytes of
 * what was sniffed so far need only grow at the end from call to call. RFC 8446 §4.1.2, RFC 6066,
 * RFC 7301. */
enum weft_sniff weft_sniff_tls(const uint8_t *p, size_t n, size_t max_hello, unsigned prints,
			       struct weft_sniff_hello *ret);
/* Next name of hello->alpn: its length, *ret points to it; 0: no more. *at begins at 0. */
size_t weft_sniff_alpn(const struct weft_sniff_hello *h, size_t *at, const char **ret);

/* MORE, NO, HTTP10, HTTP11, HTTP2. A request line of a known method, whole; or the preface. */
enum weft_sniff weft_sniff_http(const uint8_t *p, size_t n);
