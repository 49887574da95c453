/* What is done while a resource is short, as far as connections and requests meet it. One for the
 * process; any thread. */
#pragma once
#include <stdbool.h>

enum weft_overload {
	WEFT_OVERLOAD_STOP_REQUESTS,
	WEFT_OVERLOAD_NO_KEEPALIVE,
	WEFT_OVERLOAD_STOP_ACCEPTING,
	WEFT_OVERLOAD_REJECT,
	WEFT_OVERLOAD_SHRINK,
	WEFT_OVERLOADS
};
enum { WEFT_OVERLOAD_FULL = 10000 };

void weft_overload_set(enum weft_overload what, unsigned level); /* 0: off .. WEFT_OVERLOAD_FULL */
unsigned weft_overload_level(enum weft_overload what);
/* Whether it meets this one: as many of them as the level says. */
bool weft_overload_hit(enum weft_overload what);
