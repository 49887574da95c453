/* A token bucket that threads share without a lock: tokens come evenly, as many as max wait. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct weft_bucket {
	_Atomic double empty_ns; /* when it would have been empty: what came since is there */
	double token_ns, max;
};
/* tokens in each interval; it begins full. */
void weft_bucket_init(struct weft_bucket *b, uint32_t max, uint32_t tokens, uint64_t interval_ns,
		      uint64_t now_ns);
bool weft_bucket_take(struct weft_bucket *b, uint32_t n, uint64_t now_ns);
uint32_t weft_bucket_left(const struct weft_bucket *b, uint64_t now_ns);
uint64_t weft_bucket_wait_ns(const struct weft_bucket *b, uint64_t now_ns); /* to the next token */
