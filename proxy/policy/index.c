#include "proxy/policy/index.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct shard {
	atomic_uint refs;
	uint32_t n, cap;
	struct weft_index_ent v[];
};
struct weft_index {
	atomic_uint refs;
	struct shard *s[WEFT_INDEX_SHARDS];
};

static pthread_once_t seeded = PTHREAD_ONCE_INIT;
static uint64_t seed;

static void seed_make(void)
{
	seed = weft_rand64();
}

uint64_t weft_index_hash(const char *a, size_t n_a, const void *b, size_t n_b)
{
	uint64_t h;

	pthread_once(&seeded, seed_make);
	h = XXH3_64bits_withSeed(a, n_a, seed);
	return n_b ? XXH3_64bits_withSeed(b, n_b, h) : h;
}

static unsigned shard_of(uint64_t hash)
{
	return (unsigned)(hash >> 54);
}

static bool private(atomic_uint *refs)
{
	return atomic_load_explicit(refs, memory_order_acquire) == 1;
}

static void shard_unref(struct shard *s, const struct weft_index_ops *ops)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; ops->unref && i < s->n; i++)
		ops->unref(s->v[i].p);
	free(s);
}

struct weft_index *weft_index_ref(struct weft_index *i)
{
	if (i)
		atomic_fetch_add_explicit(&i->refs, 1, memory_order_relaxed);
	return i;
}

void weft_index_unref(struct weft_index *i, const struct weft_index_ops *ops)
{
	if (!i || atomic_fetch_sub_explicit(&i->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned k = 0; k < WEFT_INDEX_SHARDS; k++)
		shard_unref(i->s[k], ops);
	free(i);
}

/* Makes *at private: a copy of the array of shards, each of which gains a reference. */
static struct weft_index *index_own(struct weft_index **at, const struct weft_index_ops *ops)
{
	struct weft_index *old = *at, *i;

	if (old && private(&old->refs))
		return old;
	i = weft_xcalloc(1, sizeof(*i));
	atomic_init(&i->refs, 1);
	for (unsigned k = 0; old && k < WEFT_INDEX_SHARDS; k++) {
		i->s[k] = old->s[k];
		if (i->s[k])
			atomic_fetch_add_explicit(&i->s[k]->refs, 1, memory_order_relaxed);
	}
	weft_index_unref(old, ops);
	*at = i;
	return i;
}

/* Makes *at private with room for `room` more entries. */
static struct shard *shard_own(struct shard **at, const struct weft_index_ops *ops, uint32_t room)
{
	struct shard *old = *at, *s;
	uint32_t n = old ? old->n : 0, cap = n + room;
	bool mine = old && private(&old->refs);

	if (mine && cap <= old->cap)
		return old;
	if (mine && room)
		cap += n / 4 + 1; /* filled in a batch: grow by steps */
	if (mine) {
		s = weft_xrealloc(old, sizeof(*s) + cap * sizeof(s->v[0]));
	} else {
		s = weft_xcalloc(1, sizeof(*s) + cap * sizeof(s->v[0]));
		atomic_init(&s->refs, 1);
		s->n = n;
		if (n)
			memcpy(s->v, old->v, n * sizeof(s->v[0]));
		for (uint32_t i = 0; ops->ref && i < n; i++)
			ops->ref(s->v[i].p);
		shard_unref(old, ops);
	}
	s->cap = cap;
	*at = s;
	return s;
}

/* The first entry with a hash not below the one wanted. */
static uint32_t lower(const struct shard *s, uint64_t hash)
{
	uint32_t lo = 0, hi = s->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (s->v[mid].hash < hash)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void weft_index_put(struct weft_index **at, const struct weft_index_ops *ops, uint64_t hash,
		    void *p)
{
	struct weft_index *i = index_own(at, ops);
	struct shard *s = shard_own(&i->s[shard_of(hash)], ops, 1);
	uint32_t k = lower(s, hash);

	memmove(&s->v[k + 1], &s->v[k], (s->n - k) * sizeof(s->v[0]));
	s->v[k] = (struct weft_index_ent){hash, p};
	s->n++;
}

int weft_index_del(struct weft_index **at, const struct weft_index_ops *ops, uint64_t hash,
		   const void *p)
{
	size_t n;
	const struct weft_index_ent *e = weft_index_get(*at, hash, &n);
	struct weft_index *i;
	struct shard *s;

	while (n && e->p != p)
		e++, n--;
	if (!n)
		return 0;
	i = index_own(at, ops);
	s = shard_own(&i->s[shard_of(hash)], ops, 0);
	for (uint32_t k = lower(s, hash); k < s->n; k++) {
		if (s->v[k].p != p)
			continue;
		memmove(&s->v[k], &s->v[k + 1], (s->n - k - 1) * sizeof(s->v[0]));
		s->n--;
		break;
	}
	if (!s->n) {
		free(s);
		i->s[shard_of(hash)] = NULL;
	}
	if (ops->unref)
		ops->unref((void *)(uintptr_t)p);
	return 1;
}

const struct weft_index_ent *weft_index_get(const struct weft_index *i, uint64_t hash,
					    size_t *ret_n)
{
	const struct shard *s = i ? i->s[shard_of(hash)] : NULL;
	uint32_t k, end;

	*ret_n = 0;
	if (!s)
		return NULL;
	k = end = lower(s, hash);
	while (end < s->n && s->v[end].hash == hash)
		end++;
	*ret_n = end - k;
	return &s->v[k];
}

struct weft_index_ent *weft_index_own(struct weft_index **at, const struct weft_index_ops *ops,
				      uint64_t hash, size_t *ret_n)
{
	struct weft_index *i = index_own(at, ops);

	if (i->s[shard_of(hash)])
		shard_own(&i->s[shard_of(hash)], ops, 0);
	return (struct weft_index_ent *)(uintptr_t)weft_index_get(i, hash, ret_n);
}

void weft_index_each(const struct weft_index *i, void (*fn)(void *ctx, void *p), void *ctx)
{
	for (unsigned k = 0; i && k < WEFT_INDEX_SHARDS; k++)
		for (uint32_t j = 0; i->s[k] && j < i->s[k]->n; j++)
			fn(ctx, i->s[k]->v[j].p);
}
