#include "proxy/policy/intern.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct str {
	struct str *next;
	uint32_t hash;
	atomic_uint refs;
	char s[];
};

/* guards the table; taken by whoever makes a string or drops the last reference to one */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct str **buckets;
static size_t n_buckets, n_strings;
static uint64_t seed;

static void grow(void)
{
	size_t n = n_buckets ? n_buckets * 2 : 1024;
	struct str **to = weft_xcalloc(n, sizeof(struct str *));

	if (!n_buckets)
		seed = weft_rand64();
	for (size_t i = 0; i < n_buckets; i++) {
		for (struct str *s = buckets[i], *next; s; s = next) {
			next = s->next;
			s->next = to[s->hash & (n - 1)];
			to[s->hash & (n - 1)] = s;
		}
	}
	free(buckets);
	buckets = to;
	n_buckets = n;
}

char *weft_intern_n(const char *s, size_t n)
{
	struct str *e;
	uint32_t hash;

	pthread_mutex_lock(&lock);
	if (n_strings >= n_buckets)
		grow();
	hash = (uint32_t)XXH3_64bits_withSeed(s, n, seed);
	for (e = buckets[hash & (n_buckets - 1)]; e; e = e->next)
		if (e->hash == hash && !strncmp(e->s, s, n) && !e->s[n])
			break;
	if (e) {
		atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
	} else {
		e = weft_xcalloc(1, sizeof(*e) + n + 1);
		e->hash = hash;
		atomic_init(&e->refs, 1);
		memcpy(e->s, s, n);
		e->next = buckets[hash & (n_buckets - 1)];
		buckets[hash & (n_buckets - 1)] = e;
		n_strings++;
	}
	pthread_mutex_unlock(&lock);
	return e->s;
}

char *weft_intern(const char *s)
{
	return weft_intern_n(s ? s : "", s ? strlen(s) : 0);
}

void weft_intern_put(char *s)
{
	struct str *e, **at;
	unsigned refs;

	if (!s)
		return;
	e = (struct str *)(void *)(s - offsetof(struct str, s));
	refs = atomic_load_explicit(&e->refs, memory_order_relaxed);
	while (refs > 1)
		if (atomic_compare_exchange_weak_explicit(
			    &e->refs, &refs, refs - 1, memory_order_release, memory_order_relaxed))
			return;
	/* perhaps the last one: decide under the lock, where a new reference may appear */
	pthread_mutex_lock(&lock);
	if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) == 1) {
		for (at = &buckets[e->hash & (n_buckets - 1)]; *at != e; at = &(*at)->next)
			assert(*at);
		*at = e->next;
		n_strings--;
		free(e);
	}
	pthread_mutex_unlock(&lock);
}

size_t weft_intern_count(void)
{
	size_t n;

	pthread_mutex_lock(&lock);
	n = n_strings;
	pthread_mutex_unlock(&lock);
	return n;
}
