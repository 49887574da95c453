/* nghttp2 takes and gives back some twenty small blocks a stream, many streams at a time: more than
 * the C library keeps close by. Blocks up to SMALL stay with their thread, by size. */
#include "proxy/codec/h2_priv.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* sanitizers must see each block end */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEP 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KEEP 0
#endif
#endif
#ifndef KEEP
#define KEEP 256 /* blocks of a size and a thread */
#endif

enum { STEP = 16, LEAST = 24, SMALL = 512, CLASSES = (SMALL - LEAST) / STEP + 1 };

struct block {
	struct block *next;
};

static __thread struct {
	struct block *first;
	int n;
} kept[CLASSES];

/* The least class whose blocks hold n bytes. */
static unsigned class_for(size_t n)
{
	return n <= LEAST ? 0 : (unsigned)((n - LEAST + STEP - 1) / STEP);
}

static void *mem_malloc(size_t n, void *arg)
{
	unsigned c = class_for(n);
	struct block *b;

	if (c >= CLASSES || !kept[c].first)
		return malloc(n);
	b = kept[c].first;
	kept[c].first = b->next;
	kept[c].n--;
	return b;
}

static void mem_free(void *p, void *arg)
{
	size_t room = p && KEEP ? malloc_usable_size(p) : 0;
	unsigned c;

	if (room < LEAST || (room - LEAST) / STEP >= CLASSES) {
		free(p);
		return;
	}
	c = (unsigned)((room - LEAST) / STEP); /* what it holds for certain */
	if (kept[c].n >= KEEP) {
		free(p);
		return;
	}
	((struct block *)p)->next = kept[c].first;
	kept[c].first = p;
	kept[c].n++;
}

static void *mem_calloc(size_t n, size_t size, void *arg)
{
	void *p;

	if (size && n > SMALL / size)
		return calloc(n, size);
	p = mem_malloc(n * size, arg);
	if (p)
		memset(p, 0, n * size);
	return p;
}

static void *mem_realloc(void *p, size_t n, void *arg)
{
	return realloc(p, n);
}

nghttp2_mem *weft_h2_mem(void)
{
	static nghttp2_mem mem = {NULL, mem_malloc, mem_free, mem_calloc, mem_realloc};

	return &mem;
}
