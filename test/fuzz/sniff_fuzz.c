/* First bytes of a connection: the verdict on a part is MORE or that on the whole. */
#include "proxy/codec/sniff.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void look(const uint8_t *data, size_t n, enum weft_sniff *tls, enum weft_sniff *http)
{
	struct weft_sniff_hello h = {0};
	uint8_t *exact = malloc(n ? n : 1);
	const char *s;
	size_t at = 0, k;

	assert(exact);
	memcpy(exact, data, n);
	*http = weft_sniff_http(exact, n);
	*tls = weft_sniff_tls(exact, n, WEFT_SNIFF_HELLO_MAX,
			      WEFT_SNIFF_WANT_JA3 | WEFT_SNIFF_WANT_JA4, &h);
	free(exact);
	if (*tls != WEFT_SNIFF_TLS)
		return;
	assert(strlen(h.server_name) <= WEFT_SNIFF_NAME_MAX);
	assert(strlen(h.ja3) == WEFT_SNIFF_JA3);
	assert(strlen(h.ja4) == WEFT_SNIFF_JA4 || strlen(h.ja4) == WEFT_SNIFF_JA4 - 2);
	while ((k = weft_sniff_alpn(&h, &at, &s)))
		assert((const uint8_t *)s + k <= h.alpn + h.alpn_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	enum weft_sniff tls, http, part_tls, part_http;

	look(data, n, &tls, &http);
	look(data, n / 2, &part_tls, &part_http);
	assert(part_tls == WEFT_SNIFF_MORE || part_tls == tls);
	assert(n > WEFT_SNIFF_HTTP_MAX || part_http == WEFT_SNIFF_MORE || part_http == http);
	return 0;
}
