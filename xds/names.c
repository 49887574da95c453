#include "xds/names.h"
#include "proxy/core/worker.h"
#include <stdint.h>
#include <xxhash.h>

unsigned weft_xds_name_hash(const void *p, size_t n)
{
	static _Thread_local uint64_t seed;

	if (!seed)
		seed = weft_rand64() | 1;
	return (unsigned)XXH3_64bits_withSeed(p, n, seed);
}
