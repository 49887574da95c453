/* Search in sorted arrays of structs that begin with their key, a `const char *`. */
#pragma once
#include <stddef.h>

/* The index of the first whose key is not below this one: where its equals begin; n: all are. */
size_t weft_first(const void *v, size_t n, size_t size, const char *key);
#define WEFT_FIRST(v, n, key) weft_first(v, n, sizeof(*(v)), key)
