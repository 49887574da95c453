#include "proxy/core/arena.h"

#include <assert.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n)   ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
enum { ARENA_GAP = 16 }; /* poisoned bytes after each object, so that an overrun is seen */
#else
#define POISON(p, n)   ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
enum { ARENA_GAP = 0 };
#endif

enum { ARENA_ALIGN = 16, ARENA_CHUNK = 4096 };
static const size_t ARENA_MAX = (size_t)1 << 30;

struct chunk {
	struct chunk *next;
	size_t size; /* of the whole heap block */
	alignas(ARENA_ALIGN) unsigned char data[];
};

struct cleanup {
	struct cleanup *next;
	void (*fn)(void *arg);
	void *arg;
};

struct weft_arena {
	struct chunk *chunks; /* the one being filled is first */
	struct cleanup *cleanups;
	size_t used; /* of the first chunk's data */
	size_t chunk_bytes;
	size_t bytes;
};

static void die_no_memory(size_t n)
{
	fprintf(stderr, "out of memory: %zu bytes\n", n);
	abort();
}

void *weft_xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (!p)
		die_no_memory(size && n > SIZE_MAX / size ? SIZE_MAX : n * size);
	return p;
}

void *weft_xrealloc(void *p, size_t n)
{
	void *q = realloc(p, n ? n : 1);

	if (!q)
		die_no_memory(n);
	return q;
}

char *weft_xstrdup(const char *s)
{
	char *p = strdup(s);

	if (!p)
		die_no_memory(strlen(s) + 1);
	return p;
}

struct weft_arena *weft_arena_new(size_t chunk_bytes)
{
	struct weft_arena *a = weft_xcalloc(1, sizeof(*a));

	a->chunk_bytes = chunk_bytes ? chunk_bytes : ARENA_CHUNK;
	if (a->chunk_bytes < sizeof(struct chunk) + ARENA_ALIGN)
		a->chunk_bytes = sizeof(struct chunk) + ARENA_ALIGN;
	a->bytes = sizeof(*a);
	return a;
}

static void run_cleanups(struct weft_arena *a)
{
	/* a clean-up may register another one: always take the head */
	while (a->cleanups) {
		struct cleanup *c = a->cleanups;

		a->cleanups = c->next;
		c->fn(c->arg);
	}
}

static void free_chunks(struct weft_arena *a, struct chunk *c)
{
	while (c) {
		struct chunk *next = c->next;

		a->bytes -= c->size;
		UNPOISON(c, c->size);
		free(c);
		c = next;
	}
}

void weft_arena_free(struct weft_arena *a)
{
	if (!a)
		return;
	run_cleanups(a);
	free_chunks(a, a->chunks);
	free(a);
}

void weft_arena_reset(struct weft_arena *a)
{
	struct chunk *c;

	run_cleanups(a);
	c = a->chunks;
	if (!c)
		return;
	/* the block being filled: the only one of which the used part is known */
	free_chunks(a, c->next);
	c->next = NULL;
	if (c->size > 2 * a->chunk_bytes) {
		free_chunks(a, c);
		a->chunks = NULL;
	} else {
		UNPOISON(c->data, c->size - sizeof(*c));
		memset(c->data, 0, a->used);
		POISON(c->data, c->size - sizeof(*c));
	}
	a->used = 0;
}

static struct chunk *chunk_new(struct weft_arena *a, size_t data_bytes)
{
	struct chunk *c = weft_xcalloc(1, sizeof(*c) + data_bytes);

	c->size = sizeof(*c) + data_bytes;
	a->bytes += c->size;
	POISON(c->data, data_bytes);
	return c;
}

void *weft_arena_alloc(struct weft_arena *a, size_t n)
{
	struct chunk *c = a->chunks;
	size_t need, room = c ? c->size - sizeof(*c) - a->used : 0;
	void *p;

	if (n > ARENA_MAX)
		return NULL;
	need = ((n ? n : 1) + ARENA_GAP + ARENA_ALIGN - 1) & ~((size_t)ARENA_ALIGN - 1);
	if (need > room) {
		size_t fresh = a->chunk_bytes - sizeof(*c);

		if (need > fresh / 2 && c) {
			/* a big one gets a block of its own behind the one being filled */
			struct chunk *big = chunk_new(a, need);

			big->next = c->next;
			c->next = big;
			UNPOISON(big->data, n);
			return big->data;
		}
		c = chunk_new(a, need > fresh ? need : fresh);
		c->next = a->chunks;
		a->chunks = c;
		a->used = 0;
	}
	p = c->data + a->used;
	a->used += need;
	UNPOISON(p, n);
	return p; /* chunks come zeroed from calloc or reset */
}

void *weft_arena_memdup(struct weft_arena *a, const void *p, size_t n)
{
	void *q = weft_arena_alloc(a, n);

	if (q && n)
		memcpy(q, p, n);
	return q;
}

char *weft_arena_strndup(struct weft_arena *a, const char *s, size_t n)
{
	size_t len =
		n ? strnlen(s, n) : 0; /* nothing may be NULL: an empty name of a certificate */
	char *q = weft_arena_alloc(a, len + 1);

	if (q && len)
		memcpy(q, s, len);
	return q;
}

char *weft_arena_strdup(struct weft_arena *a, const char *s)
{
	return weft_arena_memdup(a, s, strlen(s) + 1);
}

char *weft_arena_printf(struct weft_arena *a, const char *fmt, ...)
{
	va_list ap, again;
	char *p;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	assert(n >= 0);
	p = weft_arena_alloc(a, (size_t)n + 1);
	if (p)
		vsnprintf(p, (size_t)n + 1, fmt, again);
	va_end(again);
	return p;
}

void weft_arena_cleanup(struct weft_arena *a, void (*fn)(void *arg), void *arg)
{
	struct cleanup *c = weft_arena_alloc(a, sizeof(*c));

	c->fn = fn;
	c->arg = arg;
	c->next = a->cleanups;
	a->cleanups = c;
}

size_t weft_arena_bytes(const struct weft_arena *a)
{
	return a->bytes;
}
