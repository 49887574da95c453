#include "proxy/core/first.h"

#include <string.h>

size_t weft_first(const void *v, size_t n, size_t size, const char *key)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const char *const *k = (const void *)((const char *)v + mid * size);

		if (strcmp(*k, key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}
