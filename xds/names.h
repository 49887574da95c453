/* uthash with a seeded hash: names come from peers. */
#pragma once
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

unsigned weft_xds_name_hash(const void *p, size_t n); /* one seed a process */
#define HASH_FUNCTION(key, n, ret) ((ret) = weft_xds_name_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>
