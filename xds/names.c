#include "xds/names.h"
#include "proxy/core/worker.h"
#include <stdatomic.h>
#include <stdint.h>
#include <xxhash.h>

unsigned weft_xds_name_hash(const void *p, size_t n)
{
	static _Atomic uint64_t seed;
	uint64_t none = 0, now = atomic_load_explicit(&seed, memory_order_relaxed);

	if (!now) {
		now = weft_rand64() | 1;
		if (!atomic_compare_exchange_strong(&seed, &none, now))
			now = none; /* another thread was first */
	}
	return (unsigned)XXH3_64bits_withSeed(p, n, now);
}
