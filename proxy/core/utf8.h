/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character at s, which is NUL-terminated: 1..4, or 0 when it is none. */
size_t weft_utf8_len(const char *s);
/* Whether all n bytes are. */
bool weft_utf8_is(const char *s, size_t n);
