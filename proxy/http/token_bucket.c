/* Buckets, and tables of them where the values are not known before. */
#include "proxy/http/token_bucket.h"
#include "proxy/core/worker.h"

#include <math.h>

/* 73 years: a bucket that takes longer to fill begins with what comes in that time. */
static const double FILL_MAX_NS = (double)(1ull << 61);

int64_t weft_token_bucket_full(const struct weft_token_bucket *b, int64_t now)
{
	double ns = b->max ? ceil((double)b->max / b->per_ns) : 0;

	return now - (int64_t)(ns < FILL_MAX_NS ? ns : FILL_MAX_NS);
}

double weft_token_bucket_level(const struct weft_token_bucket *b, int64_t empty, int64_t now)
{
	double n = now > empty ? (double)(now - empty) * b->per_ns : 0;

	return n > (double)b->max ? (double)b->max : n;
}

bool weft_token_bucket_take(const struct weft_token_bucket *b, _Atomic int64_t *at)
{
	int64_t was = atomic_load_explicit(at, memory_order_relaxed), now, next;
	double there;

	do {
		now = (int64_t)weft_now_ns();
		there = weft_token_bucket_level(b, was, now);
		if (there < 1)
			return false;
		/* rounded in favour of the client, that no token is lost */
		next = now - (int64_t)fmin(ceil((there - 1) / b->per_ns), FILL_MAX_NS);
	} while (!atomic_compare_exchange_weak_explicit(at, &was, next, memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

/* The slot of these values among n. */
size_t weft_token_bucket_slot_of(struct weft_token_bucket_slot *v, size_t n, uint64_t hash,
				 const struct weft_token_bucket *b)
{
	int64_t now = (int64_t)weft_now_ns(), oldest = INT64_MAX;
	uint64_t was;
	size_t at = 0;

	hash = hash ?: 1;
	for (size_t i = 0; i < n; i++) {
		int64_t used = atomic_load_explicit(&v[i].used_ns, memory_order_relaxed);

		was = atomic_load_explicit(&v[i].hash, memory_order_relaxed);
		if (was == hash) {
			atomic_store_explicit(&v[i].used_ns, now, memory_order_relaxed);
			return i;
		}
		if (!was)
			used = INT64_MIN;
		if (used < oldest) {
			oldest = used;
			at = i;
		}
	}
	atomic_store_explicit(&v[at].empty_ns, weft_token_bucket_full(b, now),
			      memory_order_relaxed);
	atomic_store_explicit(&v[at].used_ns, now, memory_order_relaxed);
	atomic_store_explicit(&v[at].hash, hash, memory_order_relaxed);
	return at;
}
