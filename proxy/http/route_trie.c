/* Paths and prefixes of a virtual host in one radix tree: one way down meets every route whose path
 * fits. */
#include "proxy/http/route_priv.h"

#include <string.h>

enum { LISTS = 3 }; /* PATH_PREFIX, PATH_EXACT, PATH_SEPARATED */

struct list {
	uint32_t *v;
	uint32_t n, cap;
};
struct node {
	const char *label;
	size_t label_n;
	struct node **child; /* ordered by the first byte of their labels */
	uint32_t n, cap;
	struct list list[LISTS];
};
struct route_trie {
	struct weft_arena *a;
	struct node root;
};

struct route_trie *route_trie_new(struct weft_arena *a)
{
	struct route_trie *t = weft_arena_alloc(a, sizeof(*t));

	t->a = a;
	return t;
}

static void *grow(struct weft_arena *a, void *old, uint32_t *cap, size_t size)
{
	uint32_t more = *cap ? *cap * 2 : 2;
	void *v = weft_arena_alloc(a, more * size);

	if (*cap)
		memcpy(v, old, *cap * size);
	*cap = more;
	return v;
}

/* The place of a child that begins with ch, or where it would be. */
static uint32_t place(const struct node *n, unsigned char ch)
{
	uint32_t lo = 0, hi = n->n;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if ((unsigned char)n->child[mid]->label[0] < ch)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct node *child_add(struct route_trie *t, struct node *n, uint32_t at, const char *label,
			      size_t label_n)
{
	struct node *c = weft_arena_alloc(t->a, sizeof(*c));

	c->label = label;
	c->label_n = label_n;
	if (n->n == n->cap)
		n->child = grow(t->a, n->child, &n->cap, sizeof(*n->child));
	memmove(&n->child[at + 1], &n->child[at], (n->n - at) * sizeof(*n->child));
	n->child[at] = c;
	n->n++;
	return c;
}

/* Cuts c's label after k bytes: a new node between holds the first part. */
static struct node *split(struct route_trie *t, struct node **slot, size_t k)
{
	struct node *c = *slot, *mid = weft_arena_alloc(t->a, sizeof(*mid));

	mid->label = c->label;
	mid->label_n = k;
	c->label += k;
	c->label_n -= k;
	mid->child = grow(t->a, NULL, &mid->cap, sizeof(*mid->child));
	mid->child[0] = c;
	mid->n = 1;
	*slot = mid;
	return mid;
}

static size_t common(const char *a, size_t an, const char *b, size_t bn)
{
	size_t i = 0;

	while (i < an && i < bn && a[i] == b[i])
		i++;
	return i;
}

void route_trie_add(struct route_trie *t, const char *path, size_t n, enum route_path kind,
		    uint32_t route)
{
	struct node *at = &t->root;
	struct list *l;

	while (n) {
		uint32_t i = place(at, (unsigned char)*path);
		size_t k;

		if (i == at->n || at->child[i]->label[0] != *path) {
			at = child_add(t, at, i, path, n);
			break;
		}
		k = common(at->child[i]->label, at->child[i]->label_n, path, n);
		at = k < at->child[i]->label_n ? split(t, &at->child[i], k) : at->child[i];
		path += k;
		n -= k;
	}
	l = &at->list[kind];
	if (l->n == l->cap)
		l->v = grow(t->a, l->v, &l->cap, sizeof(*l->v));
	l->v[l->n++] = route;
}

/* Lists on the longest way down; paths that configuration gives are short, so this may recurse. */
static size_t deepest(const struct node *n, size_t level)
{
	size_t own = (n->list[PATH_PREFIX].n != 0) + (n->list[PATH_SEPARATED].n != 0), most = 0;
	uint32_t i;

	if (level > 16 * ROUTE_DEPTH_MAX)
		return ROUTE_DEPTH_MAX + 1;
	for (i = 0; i < n->n; i++) {
		size_t d = deepest(n->child[i], level + 1);

		if (d > most)
			most = d;
	}
	return own + most;
}

bool route_trie_seal(struct route_trie *t)
{
	return deepest(&t->root, 0) + 1 <= ROUTE_DEPTH_MAX; /* and one exact */
}

static size_t push(const struct list *l, struct route_list *ret, size_t k)
{
	if (l->n && k < ROUTE_DEPTH_MAX)
		ret[k++] = (struct route_list){l->v, l->n};
	return k;
}

size_t route_trie_find(const struct route_trie *t, const char *path, size_t n,
		       struct route_list ret[ROUTE_DEPTH_MAX])
{
	const struct node *at = &t->root;
	size_t k = 0;

	for (;;) {
		uint32_t i;

		k = push(&at->list[PATH_PREFIX], ret, k);
		if (!n || *path == '/')
			k = push(&at->list[PATH_SEPARATED], ret, k);
		if (!n)
			return push(&at->list[PATH_EXACT], ret, k);
		i = place(at, (unsigned char)*path);
		if (i == at->n)
			return k;
		at = at->child[i];
		if (at->label_n > n || memcmp(at->label, path, at->label_n))
			return k;
		path += at->label_n;
		n -= at->label_n;
	}
}
