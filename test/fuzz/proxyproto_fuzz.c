/* PROXY headers. What is taken survives being written and parsed again. */
#include "proxy/codec/proxyproto.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { TLVS_MAX = 64 };

static void again(const struct weft_proxyproto *pp)
{
	static uint8_t buf[WEFT_PP_V2_MAX + 64];
	struct weft_proxyproto_tlv v[TLVS_MAX];
	struct weft_proxyproto two;
	size_t at = 0, k = 0;
	ssize_t n;

	while (k < TLVS_MAX && weft_proxyproto_tlv(pp, &at, &v[k]))
		k++;
	n = weft_proxyproto_write_v2(pp, v, k, true, buf, sizeof(buf));
	if (n < 0) /* the sum made it too long */
		return;
	assert(weft_proxyproto_parse(buf, (size_t)n, &two) == n);
	assert(weft_sockaddr_eq(&pp->src, &two.src) && weft_sockaddr_eq(&pp->dst, &two.dst));
	n = weft_proxyproto_write_v1(pp, (char *)buf, sizeof(buf));
	assert(n > 0 && n <= WEFT_PP_V1_MAX);
	assert(weft_proxyproto_parse(buf, (size_t)n, &two) == n);
	assert(weft_sockaddr_eq(&pp->src, &two.src) && weft_sockaddr_eq(&pp->dst, &two.dst));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_proxyproto pp, part;
	ssize_t r = weft_proxyproto_parse(data, n, &pp), half;

	half = weft_proxyproto_parse(data, n / 2, &part);
	assert(half == 0 || half == r);
	assert(r <= (ssize_t)n);
	if (r <= 0)
		return 0;
	if (!pp.local && !pp.unknown)
		again(&pp);
	return 0;
}
