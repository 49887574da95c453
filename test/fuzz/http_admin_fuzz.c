/* The admin server's request head and query parser on foreign bytes. */
#include "proxy/net/http_parse.c"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_http_head h;
	char *buf, value[64];
	int status;

	if (n > WEFT_HTTP_HEAD_MAX)
		return 0;
	buf = malloc(n + 1);
	assert(buf);
	memcpy(buf, data, n);
	status = weft_http_head_parse(buf, n, &h);
	assert(status == 0 || (status >= 400 && status <= 599));
	if (!status) {
		assert(h.path[0] == '/' && strlen(h.path) < n && h.content_length <= LENGTH_MAX);
		assert(is_token(h.method, strlen(h.method)));
		for (const char *p = h.path; *p; p++)
			assert((unsigned char)*p >= ' ' && *p != 0x7f);
		if (!weft_http_query(h.query, "a", value, sizeof(value)))
			assert(strlen(value) < sizeof(value));
		(void)weft_http_query(h.query, "", value, 1);
	}
	free(buf);
	return 0;
}
