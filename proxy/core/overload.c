#include "proxy/core/overload.h"

#include "proxy/core/worker.h"
#include <stdatomic.h>

static _Atomic unsigned levels[WEFT_OVERLOADS];

void weft_overload_set(enum weft_overload what, unsigned level)
{
	atomic_store_explicit(&levels[what], level, memory_order_relaxed);
}

unsigned weft_overload_level(enum weft_overload what)
{
	return atomic_load_explicit(&levels[what], memory_order_relaxed);
}

bool weft_overload_hit(enum weft_overload what)
{
	unsigned level = weft_overload_level(what);

	return level && (level >= WEFT_OVERLOAD_FULL || weft_rand64() % WEFT_OVERLOAD_FULL < level);
}
