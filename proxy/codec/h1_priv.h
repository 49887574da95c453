/* Shared by h1*.c: character classes, and the parts of the parser. */
#pragma once
#include "proxy/codec/h1.h"
#include <string.h>

extern const uint8_t weft_h1_class[256];
enum { CLASS_TOKEN = 1, CLASS_HOST = 2, CLASS_HEX = 4, CLASS_TARGET = 8 };

/* Values: HT, SP and above but DEL. */
static inline bool weft_h1_is_value(char c)
{
	return ((uint8_t)c >= 0x20 && c != 0x7f) || c == '\t';
}

static inline bool weft_h1_is(char c, uint8_t classes)
{
	return weft_h1_class[(uint8_t)c] & classes;
}

static inline char weft_h1_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* lit is lower-case. */
static inline bool weft_h1_same(const char *s, size_t n, const char *lit, size_t lit_n)
{
	if (n != lit_n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (weft_h1_lower(s[i]) != lit[i])
			return false;
	return true;
}

/* First byte at or after s that ends a value: CR, LF or any other control but HT; end if none. */
const char *weft_h1_value_end(const char *s, const char *end);

/* Header block at [s, end). > 0: its length, ev->head is filled; 0: not complete; < 0: minus an
 * enum weft_h1_error. */
ssize_t weft_h1_parse_head(struct weft_h1 *p, const char *s, const char *end,
			   struct weft_h1_event *ev);
/* The last line of p->buf, whole, by itself: 0 or minus an error. */
int weft_h1_check_line(const struct weft_h1 *p, bool start_line, uint32_t fields_before);
/* Trailer fields with their empty line, alike. */
ssize_t weft_h1_parse_trailers(struct weft_h1 *p, const char *s, const char *end,
			       struct weft_h1_event *ev);
/* Framing and routing by the fields of ev->head; 0 or minus an error (h1_fields.c). */
int weft_h1_check_request(const struct weft_h1 *p, struct weft_h1_head *h);
int weft_h1_check_response(const struct weft_h1 *p, struct weft_h1_head *h);
int weft_h1_split_target(const struct weft_h1 *p, struct weft_h1_head *h);
bool weft_h1_known_method(const char *s, size_t n);
