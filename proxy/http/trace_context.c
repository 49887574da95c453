/* Trace contexts of requests, W3C and B3: they go through untouched; logs tell the trace id. */
#include "proxy/http/hcm_priv.h"

#include <string.h>

static bool is_hex(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f') ||
		      (s[i] >= 'A' && s[i] <= 'F')))
			return false;
	return true;
}

/* Of "s", the part before '-', where it is a trace id: 64 or 128 bits. */
static const char *id_part(const char *s, size_t n, struct weft_arena *a)
{
	const char *dash = memchr(s, '-', n);
	size_t len = dash ? (size_t)(dash - s) : n;

	if ((len != 16 && len != 32) || !is_hex(s, len))
		return NULL;
	return weft_arena_strndup(a, s, len);
}

const char *weft_trace_id_of(const struct weft_headers *h, struct weft_arena *a)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_TRACEPARENT);

	/* version "-" trace-id "-" parent-id "-" flags */
	if (f && f->value_len >= 55 && f->value[2] == '-' && f->value[35] == '-' &&
	    is_hex(f->value + 3, 32))
		return weft_arena_strndup(a, f->value + 3, 32);
	f = weft_headers_get(h, WEFT_H_X_B3_TRACEID);
	if (!f)
		f = weft_headers_get(h, WEFT_H_B3);
	return f ? id_part(f->value, f->value_len, a) : NULL;
}
