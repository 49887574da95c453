/* Tokens whose signature was found good, of each worker and provider; the one not used for longest
 * makes room. An entry counts only beside the very keys that it was checked with. */
#include "proxy/core/worker.h"
#include "proxy/http/filters/jwt_authn_priv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct jwt_life {
	_Atomic unsigned refs;
	_Atomic bool gone;
};
struct entry {
	TAILQ_ENTRY(entry) link; /* the last used one first */
	struct entry *next;	 /* in its bucket */
	uint64_t hash;
	struct weft_jwt *t;
	struct weft_jwks *keys; /* referenced */
};
struct cache {
	TAILQ_ENTRY(cache) link;
	struct jwt_life *life; /* which provider: referenced */
	TAILQ_HEAD(entry_list, entry) used;
	size_t n, max;
	struct entry *bucket[]; /* max of them */
};
struct caches {
	TAILQ_HEAD(, cache) all;
	uint64_t seed;
};

static void caches_done(struct weft_worker *w, void *part);
static const struct weft_worker_part part_of = {sizeof(struct caches), caches_done};

static void life_unref(struct jwt_life *l)
{
	if (atomic_fetch_sub(&l->refs, 1) == 1)
		free(l);
}

struct jwt_life *jwt_life_new(void)
{
	struct jwt_life *l = weft_xcalloc(1, sizeof(*l));

	l->refs = 1;
	return l;
}

void jwt_life_end(struct jwt_life *l)
{
	atomic_store(&l->gone, true);
	life_unref(l);
}

static struct entry **place_of(struct cache *c, uint64_t hash, const char *s, size_t n)
{
	struct entry **at = &c->bucket[hash % c->max];

	while (*at && ((*at)->hash != hash || strlen((*at)->t->text) != n ||
		       memcmp((*at)->t->text, s, n) != 0))
		at = &(*at)->next;
	return at;
}

static void entry_free(struct cache *c, struct entry **at)
{
	struct entry *e = *at;

	*at = e->next;
	TAILQ_REMOVE(&c->used, e, link);
	c->n--;
	weft_jwt_free(e->t);
	weft_jwks_unref(e->keys);
	free(e);
}

static void oldest_free(struct cache *c)
{
	struct entry *e = TAILQ_LAST(&c->used, entry_list), **at = &c->bucket[e->hash % c->max];

	while (*at != e)
		at = &(*at)->next;
	entry_free(c, at);
}

static void cache_free(struct caches *all, struct cache *c)
{
	TAILQ_REMOVE(&all->all, c, link);
	while (c->n)
		oldest_free(c);
	life_unref(c->life);
	free(c);
}

static void caches_done(struct weft_worker *w, void *part)
{
	struct caches *all = part;
	struct cache *c;

	while (all->seed && (c = TAILQ_FIRST(&all->all)))
		cache_free(all, c);
}

static struct caches *caches_of(struct weft_worker *w)
{
	struct caches *all = weft_worker_part(w, &part_of);

	if (!all->seed) {
		TAILQ_INIT(&all->all);
		all->seed = weft_rand64() | 1;
	}
	return all;
}

static struct cache *find(struct caches *all, const struct jwt_provider *p)
{
	struct cache *c;

	TAILQ_FOREACH (c, &all->all, link)
		if (c->life == p->life)
			return c;
	return NULL;
}

const struct weft_jwt *jwt_cache_get(struct weft_worker *w, const struct jwt_provider *p,
				     const char *token, size_t n, const struct weft_jwks *keys)
{
	struct caches *all;
	struct cache *c;
	struct entry *e;

	if (!p->cache_size || n > p->cache_token)
		return NULL;
	all = caches_of(w);
	c = find(all, p);
	if (!c)
		return NULL;
	e = *place_of(c, XXH3_64bits_withSeed(token, n, all->seed), token, n);
	if (!e || e->keys != keys)
		return NULL;
	TAILQ_REMOVE(&c->used, e, link);
	TAILQ_INSERT_HEAD(&c->used, e, link);
	return e->t;
}

static struct cache *cache_new(struct caches *all, const struct jwt_provider *p)
{
	struct cache *c, *next;

	/* those of configurations that are gone make room */
	for (c = TAILQ_FIRST(&all->all); c; c = next) {
		next = TAILQ_NEXT(c, link);
		if (atomic_load(&c->life->gone))
			cache_free(all, c);
	}
	c = weft_xcalloc(1, sizeof(*c) + p->cache_size * sizeof(c->bucket[0]));
	c->max = p->cache_size;
	TAILQ_INIT(&c->used);
	c->life = p->life;
	atomic_fetch_add(&c->life->refs, 1);
	TAILQ_INSERT_HEAD(&all->all, c, link);
	return c;
}

void jwt_cache_put(struct weft_worker *w, const struct jwt_provider *p, struct weft_jwt *t,
		   struct weft_jwks *keys)
{
	struct caches *all = caches_of(w);
	size_t n = strlen(t->text);
	uint64_t hash = XXH3_64bits_withSeed(t->text, n, all->seed);
	struct cache *c = find(all, p) ?: cache_new(all, p);
	struct entry **at = place_of(c, hash, t->text, n), *e;

	if (*at) /* of keys that are gone */
		entry_free(c, at);
	if (c->n == c->max)
		oldest_free(c);
	e = weft_xcalloc(1, sizeof(*e));
	e->hash = hash;
	e->t = t;
	e->keys = weft_jwks_ref(keys);
	e->next = c->bucket[hash % c->max];
	c->bucket[hash % c->max] = e;
	TAILQ_INSERT_HEAD(&c->used, e, link);
	c->n++;
}
