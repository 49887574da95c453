/* uthash with a seeded hash: names come from peers. */
#pragma once
#include "proxy/core/worker.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static inline unsigned weft_xds_name_hash(const void *p, size_t n)
{
	static _Thread_local uint64_t seed;

	if (!seed)
		seed = weft_rand64() | 1;
	return (unsigned)XXH3_64bits_withSeed(p, n, seed);
}
#define HASH_FUNCTION(key, n, ret) ((ret) = weft_xds_name_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>
