/* Paths of requests made safe to compare: dot segments, escapes, slashes. RFC 3986 §6.2.2. Pure. */
#pragma once
#include "proxy/core/arena.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum weft_path_slashes { /* path_with_escaped_slashes_action */
			 WEFT_SLASHES_KEEP,
			 WEFT_SLASHES_REJECT,
			 WEFT_SLASHES_REDIRECT,
			 WEFT_SLASHES_FORWARD,
};
struct weft_path_conf {
	bool normalize, merge;
	uint8_t slashes; /* enum weft_path_slashes */
};
enum weft_path_verdict { WEFT_PATH_OK, WEFT_PATH_REJECT, WEFT_PATH_REDIRECT };
/* What is after '?' is left alone; a '#' is refused. *ret is p itself where nothing changes, else
 * in a and NUL-terminated. REDIRECT: the client should ask for *ret. */
enum weft_path_verdict weft_path_fix(const struct weft_path_conf *conf, struct weft_arena *a,
				     const char *p, size_t n, const char **ret, size_t *ret_n);
