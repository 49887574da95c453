/* Reads the head of an admin request. Pure; strict: what can be read two ways is refused. Private
 * to proxy/net. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum { WEFT_HTTP_HEAD_MAX = 8192 };
struct weft_http_head {
	const char *method, *path,
		*query;	       /* in the caller's buffer; path is decoded, query is not */
	size_t content_length; /* at most 2^31 */
	bool expect_continue;
	const char *bearer; /* of "Authorization: Bearer"; NULL: none */
};
/* buf holds n bytes that end in an empty line, and has room for a NUL after them; it is written to.
 * 0, or the HTTP status to refuse with. */
int weft_http_head_parse(char *buf, size_t n, struct weft_http_head *ret);
/* Decodes %XX of n bytes at s into dst (may be s); plus: '+' is a space. The length, or -EINVAL
 * (also for %00), -E2BIG. */
int weft_http_decode(const char *s, size_t n, bool plus, char *dst, size_t cap);
