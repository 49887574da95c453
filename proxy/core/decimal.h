/* Decimal digits without printf, for what is written for each request. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { WEFT_DECIMAL = 20 }; /* the most that an uint64_t takes */

/* Writes v to buf (WEFT_DECIMAL bytes; no NUL), gives the number of digits. Any thread. */
static inline size_t weft_decimal(char *buf, uint64_t v)
{
	char tmp[WEFT_DECIMAL];
	size_t n = 0;

	do
		tmp[WEFT_DECIMAL - ++n] = (char)('0' + v % 10);
	while (v /= 10);
	for (size_t i = 0; i < n; i++)
		buf[i] = tmp[WEFT_DECIMAL - n + i];
	return n;
}
