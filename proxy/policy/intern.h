/* Strings that many workloads share (namespace, node, identity …), kept once and counted. Any
 * thread. */
#pragma once
#include <stddef.h>

/* A shared copy of s, never NULL ("" for NULL). Equal strings have equal pointers while referenced.
 * Not to be written. */
char *weft_intern(const char *s);
char *weft_intern_n(const char *s, size_t n);
void weft_intern_put(char *s);	/* NULL is fine */
size_t weft_intern_count(void); /* distinct strings alive */
