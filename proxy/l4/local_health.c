#include "proxy/l4/local_health.h"

#include <stdatomic.h>

static _Atomic bool is_failed;

void weft_local_health_fail(bool failed)
{
	atomic_store_explicit(&is_failed, failed, memory_order_relaxed);
}

bool weft_local_health_failed(void)
{
	return atomic_load_explicit(&is_failed, memory_order_relaxed);
}
