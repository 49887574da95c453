#include "proxy/core/lpm.h"

#include "proxy/core/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A path-compressed binary trie. A node stands for the first `len` bits of `key`; its children
 * differ from each other in bit `len`. Nodes without a value exist only where two branches part. */
struct node {
	struct node *child[2];
	void *value;
	bool has_value;
	uint8_t len;
	uint8_t key[16];
};

struct weft_lpm {
	struct node *root[2]; /* v4, v6 */
};

static unsigned bit(const uint8_t *b, unsigned i)
{
	return (b[i / 8] >> (7 - i % 8)) & 1;
}

/* Number of leading bits that a and b share, at most max. */
static unsigned shared(const uint8_t *a, const uint8_t *b, unsigned max)
{
	for (unsigned i = 0; i * 8 < max; i++) {
		unsigned diff = a[i] ^ b[i], n;

		if (!diff)
			continue;
		n = i * 8 + (unsigned)__builtin_clz(diff) - 24;
		return n < max ? n : max;
	}
	return max;
}

struct weft_lpm *weft_lpm_new(void)
{
	return weft_xcalloc(1, sizeof(struct weft_lpm));
}

/* At most 129 deep: each level down has a longer prefix. */
static void node_free(struct node *n)
{
	if (!n)
		return;
	node_free(n->child[0]);
	node_free(n->child[1]);
	free(n);
}

void weft_lpm_free(struct weft_lpm *t)
{
	if (!t)
		return;
	node_free(t->root[0]);
	node_free(t->root[1]);
	free(t);
}

static struct node *node_new(const uint8_t *key, unsigned len)
{
	struct node *n = weft_xcalloc(1, sizeof(*n));

	n->len = (uint8_t)len;
	memcpy(n->key, key, (len + 7) / 8);
	if (len % 8)
		n->key[len / 8] &= (uint8_t)(0xff00u >> (len % 8));
	return n;
}

int weft_lpm_set(struct weft_lpm *t, const struct weft_cidr *c, void *value)
{
	size_t bytes = weft_ip_bytes(&c->ip);
	struct node **at = &t->root[bytes == 16], *n, *leaf;

	if (!bytes || c->len > bytes * 8)
		return -EINVAL;
	while ((n = *at)) {
		unsigned max = n->len < c->len ? n->len : c->len;
		unsigned same = shared(n->key, c->ip.b, max);

		if (same < n->len) {
			/* part here: a node of the shared bits takes n's place */
			struct node *mid = node_new(c->ip.b, same);

			mid->child[bit(n->key, same)] = n;
			*at = mid;
			n = mid;
		}
		if (n->len == c->len) {
			if (n->has_value)
				return -EEXIST;
			n->has_value = true;
			n->value = value;
			return 0;
		}
		at = &n->child[bit(c->ip.b, n->len)];
	}
	leaf = node_new(c->ip.b, c->len);
	leaf->has_value = true;
	leaf->value = value;
	*at = leaf;
	return 0;
}

void *weft_lpm_get(const struct weft_lpm *t, const struct weft_ip *ip)
{
	unsigned bits = (unsigned)weft_ip_bytes(ip) * 8;
	const struct node *n = bits ? t->root[bits == 128] : NULL;
	void *best = NULL;

	while (n && shared(n->key, ip->b, n->len) == n->len) {
		if (n->has_value)
			best = n->value;
		if (n->len == bits)
			break;
		n = n->child[bit(ip->b, n->len)];
	}
	return best;
}
