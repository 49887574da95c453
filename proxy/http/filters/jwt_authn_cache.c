/* Tokens whose signature was found good. A table of slots a worker and provider; a newcomer takes
 * its slot. An entry counts only beside the very keys that it was checked with. */
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
struct slot {
	struct weft_jwt *t;
	struct weft_jwks *keys; /* referenced */
};
struct cache {
	TAILQ_ENTRY(cache) link;
	struct jwt_life *life; /* which provider: referenced */
	size_t n;
	struct slot v[];
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

static void slot_done(struct slot *s)
{
	weft_jwt_free(s->t);
	weft_jwks_unref(s->keys);
	s->t = NULL;
	s->keys = NULL;
}

static void cache_free(struct caches *all, struct cache *c)
{
	TAILQ_REMOVE(&all->all, c, link);
	for (size_t i = 0; i < c->n; i++)
		slot_done(&c->v[i]);
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

static struct slot *slot_of(const struct caches *all, struct cache *c, const char *s, size_t n)
{
	return &c->v[XXH3_64bits_withSeed(s, n, all->seed) % c->n];
}

const struct weft_jwt *jwt_cache_get(struct weft_worker *w, const struct jwt_provider *p,
				     const char *token, size_t n, const struct weft_jwks *keys)
{
	struct caches *all;
	struct cache *c;
	struct slot *s;

	if (!p->cache_size || n > p->cache_token)
		return NULL;
	all = caches_of(w);
	c = find(all, p);
	if (!c)
		return NULL;
	s = slot_of(all, c, token, n);
	if (!s->t || s->keys != keys || strlen(s->t->text) != n ||
	    memcmp(s->t->text, token, n) != 0)
		return NULL;
	return s->t;
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
	c = weft_xcalloc(1, sizeof(*c) + p->cache_size * sizeof(c->v[0]));
	c->n = p->cache_size;
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
	struct cache *c = find(all, p) ?: cache_new(all, p);
	struct slot *s = slot_of(all, c, t->text, n);

	slot_done(s);
	s->t = t;
	s->keys = weft_jwks_ref(keys);
}
