/* Persistent hash index: 1,024 shards, each an array sorted by hash. A change copies the shard it
 * touches and the array of shards, unless they are already private (held by one reference). NULL is
 * an empty index. Readers: any thread; a change belongs to one thread, and whoever shares the index
 * must keep its reference meanwhile. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { WEFT_INDEX_SHARDS = 1024 };
struct weft_index;
struct weft_index_ent {
	uint64_t hash;
	void *p;
};
/* How an index holds its items; both NULL: it does not (another index of the same root does). */
struct weft_index_ops {
	void (*ref)(void *p);
	void (*unref)(void *p);
};

struct weft_index *weft_index_ref(struct weft_index *i);
void weft_index_unref(struct weft_index *i, const struct weft_index_ops *ops);
/* Takes the caller's reference to p. */
void weft_index_put(struct weft_index **at, const struct weft_index_ops *ops, uint64_t hash,
		    void *p);
/* Removes p and drops the index's reference to it. False: it was not there. */
int weft_index_del(struct weft_index **at, const struct weft_index_ops *ops, uint64_t hash,
		   const void *p);
/* The entries of a hash stand side by side. Returns the first; *ret_n is their number, 0 if none.
 */
const struct weft_index_ent *weft_index_get(const struct weft_index *i, uint64_t hash,
					    size_t *ret_n);
/* The same, in a private shard, so that the caller may exchange p (ops' references are then the
 * caller's affair). */
struct weft_index_ent *weft_index_own(struct weft_index **at, const struct weft_index_ops *ops,
				      uint64_t hash, size_t *ret_n);
void weft_index_each(const struct weft_index *i, void (*fn)(void *ctx, void *p), void *ctx);
uint64_t weft_index_hash(const char *a, size_t n_a, const void *b, size_t n_b); /* seeded */
