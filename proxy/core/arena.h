/* Arena: what dies together is allocated together, and never freed singly. One thread at a time. */
#pragma once
#include <stddef.h>

struct weft_arena;

struct weft_arena *weft_arena_new(size_t chunk_bytes); /* 0: 4096 */
void weft_arena_free(struct weft_arena *a); /* runs clean-ups, last first; NULL is fine */
/* As free and new, but one block is kept: what makes and drops many arenas keeps a few. */
void weft_arena_reset(struct weft_arena *a);

/* Zeroed, aligned to 16. Aborts when memory is out. Requests above 1 GiB return NULL. */
void *weft_arena_alloc(struct weft_arena *a, size_t n);
char *weft_arena_strndup(struct weft_arena *a, const char *s, size_t n);
char *weft_arena_strdup(struct weft_arena *a, const char *s);
void *weft_arena_memdup(struct weft_arena *a, const void *p, size_t n);
char *weft_arena_printf(struct weft_arena *a, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Calls fn(arg) when the arena is freed. */
void weft_arena_cleanup(struct weft_arena *a, void (*fn)(void *arg), void *arg);
size_t weft_arena_bytes(const struct weft_arena *a); /* taken from the heap */

/* calloc/realloc/strdup that abort when memory is out; freed with free(). */
void *weft_xcalloc(size_t n, size_t size);
void *weft_xrealloc(void *p, size_t n);
char *weft_xstrdup(const char *s);
