/* IP addresses, CIDRs, socket addresses. v4-mapped v6 is always canonicalised to v4. Ports are host
 * order. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct weft_ip {
	uint8_t family; /* 0 none, 4, 6 */
	uint8_t b[16];	/* network order; v4 in b[0..3], rest zero */
};
struct weft_sockaddr {
	struct weft_ip ip;
	uint16_t port;
};
struct weft_cidr {
	struct weft_ip ip; /* host bits zero */
	uint8_t len;
};

enum { WEFT_IP_TEXT = 48, WEFT_SOCKADDR_TEXT = 56, WEFT_CIDR_TEXT = 52 };

/* Parsers return 0 or -EINVAL; whole string must match; no zone ids, no leading zeros in v4. */
int weft_ip_parse(const char *s, struct weft_ip *ret);
int weft_ip_from_bytes(const void *p, size_t n, struct weft_ip *ret); /* n 4 or 16 */
int weft_cidr_parse(
	const char *s,
	struct weft_cidr *ret); /* "10.0.0.0/8" or a lone address; host bits are cleared */
int weft_cidr_make(const struct weft_ip *ip, unsigned len, struct weft_cidr *ret);
int weft_sockaddr_parse(const char *s,
			struct weft_sockaddr *ret); /* "1.2.3.4:80", "[::1]:80"; port 1..65535 */

/* Formatters write at most cap bytes and return dst. */
const char *weft_ip_text(const struct weft_ip *ip, char *dst, size_t cap);
const char *weft_cidr_text(const struct weft_cidr *c, char *dst, size_t cap);
const char *weft_sockaddr_text(const struct weft_sockaddr *a, char *dst, size_t cap);

bool weft_ip_eq(const struct weft_ip *a, const struct weft_ip *b);
int weft_ip_cmp(const struct weft_ip *a, const struct weft_ip *b);
bool weft_ip_is_loopback(const struct weft_ip *a);
bool weft_ip_is_any(const struct weft_ip *a);
bool weft_sockaddr_eq(const struct weft_sockaddr *a, const struct weft_sockaddr *b);
bool weft_cidr_has(const struct weft_cidr *c, const struct weft_ip *ip);
size_t weft_ip_bytes(const struct weft_ip *a); /* 0, 4 or 16 */

/* Kernel form. to: v4 address with want_family AF_INET6 is written v4-mapped; want_family 0:
 * natural. */
int weft_sockaddr_from_kernel(const struct sockaddr_storage *ss, struct weft_sockaddr *ret);
socklen_t weft_sockaddr_to_kernel(const struct weft_sockaddr *a, int want_family,
				  struct sockaddr_storage *ret);
