/* Token buckets that any thread takes from: a bucket is the time at which it would have been empty,
 * in one atomic. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct weft_token_bucket {
	uint64_t max;
	double per_ns; /* tokens */
};
/* Of one value of a descriptor of any: the one not asked for longest makes room. Two workers that
 * claim one at a time may take it from each other: a value then starts with a full bucket. */
struct weft_token_bucket_slot {
	_Atomic uint64_t hash; /* 0: free */
	_Atomic int64_t empty_ns, used_ns;
};

int64_t weft_token_bucket_full(const struct weft_token_bucket *b,
			       int64_t now_ns); /* when it was empty */
double weft_token_bucket_level(const struct weft_token_bucket *b, int64_t empty_ns, int64_t now_ns);
bool weft_token_bucket_take(const struct weft_token_bucket *b, _Atomic int64_t *empty_ns);
/* The slot of a value among n, by its hash. */
size_t weft_token_bucket_slot_of(struct weft_token_bucket_slot *v, size_t n, uint64_t hash,
				 const struct weft_token_bucket *b);
