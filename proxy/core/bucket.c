#include "proxy/core/bucket.h"

void weft_bucket_init(struct weft_bucket *b, uint32_t max, uint32_t tokens, uint64_t interval_ns,
		      uint64_t now_ns)
{
	b->token_ns = (double)interval_ns / tokens;
	b->max = max;
	atomic_store_explicit(&b->empty_ns, (double)now_ns - b->token_ns * max,
			      memory_order_relaxed);
}

/* What came long ago has run over. */
static double since(const struct weft_bucket *b, double empty, double now)
{
	double first = now - b->token_ns * b->max;

	return empty > first ? empty : first;
}

bool weft_bucket_take(struct weft_bucket *b, uint32_t n, uint64_t now_ns)
{
	double was = atomic_load_explicit(&b->empty_ns, memory_order_relaxed), now = (double)now_ns;
	double then;

	do {
		then = since(b, was, now) + b->token_ns * n;
		/* rounding must not cost the last token */
		if (then > now + 0.5)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		&b->empty_ns, &was, then, memory_order_relaxed, memory_order_relaxed));
	return true;
}

uint32_t weft_bucket_left(const struct weft_bucket *b, uint64_t now_ns)
{
	double now = (double)now_ns;
	double from = since(b, atomic_load_explicit(&b->empty_ns, memory_order_relaxed), now);

	return now + 0.5 < from ? 0 : (uint32_t)((now + 0.5 - from) / b->token_ns);
}

uint64_t weft_bucket_wait_ns(const struct weft_bucket *b, uint64_t now_ns)
{
	double now = (double)now_ns;
	double due = since(b, atomic_load_explicit(&b->empty_ns, memory_order_relaxed), now) +
		     b->token_ns;

	return due > now ? (uint64_t)(due - now) : 0;
}
