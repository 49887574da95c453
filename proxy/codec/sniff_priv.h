/* A ClientHello taken apart: sniff.c and fingerprint.c only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SNIFF_EXT_SERVER_NAME = 0, SNIFF_EXT_ALPN = 16 };

/* A span being read; bad once something did not fit. */
struct span {
	const uint8_t *p;
	size_t n;
	bool bad;
};
static inline const uint8_t *span_take(struct span *s, size_t n)
{
	const uint8_t *p = s->p;

	if (s->bad || n > s->n) {
		s->bad = true;
		s->n = 0;
		return NULL;
	}
	s->p += n;
	s->n -= n;
	return p;
}
static inline uint32_t span_int(struct span *s, size_t bytes)
{
	const uint8_t *p = span_take(s, bytes);
	uint32_t v = 0;

	for (size_t i = 0; p && i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}
/* A vector with its length in front. */
static inline struct span span_vector(struct span *s, size_t length_bytes)
{
	size_t n = span_int(s, length_bytes);
	const uint8_t *p = span_take(s, n);

	return (struct span){p, p ? n : 0, s->bad};
}
static inline bool sniff_grease(uint32_t v) /* RFC 8701 */
{
	return (v & 0x0f0f) == 0x0a0a && v >> 8 == (v & 0xff);
}

struct hello_parts {
	uint16_t version; /* legacy_version */
	struct span ciphers, extensions;
};
void weft_sniff_ja3(const struct hello_parts *h, char *ret);
void weft_sniff_ja4(const struct hello_parts *h, char *ret);
