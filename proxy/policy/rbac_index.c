/* Which policies may match at all: each policy that cannot be true without one of some plain values
 * (a principal, a path, a header ...) stands in a hash table under those values, so that a decision
 * looks at few of many. What has no such values is always looked at. */
#include "proxy/policy/rbac_priv.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum kind {
	K_NONE,
	K_PRINCIPAL,
	K_PATH,
	K_PREFIX, /* of a path */
	K_SNI,
	K_PORT,
	K_DEST,
	K_CONN,
	K_DIRECT,
	K_REMOTE,
	K_HEADER, /* + position of its name */
	KINDS = K_HEADER + RBAC_HEADERS_MAX,
};
/* What a key costs: the fewer requests share its value, the better. */
enum { COST_VALUE = 1, COST_PREFIX = 4, COST_CIDR = 8, COST_PORT = 64 };

struct key {
	unsigned kind;
	const void *v;
	uint32_t n; /* bytes; prefix length for addresses */
	uint8_t family;
};
struct keys {
	struct key v[RBAC_KEYS_MAX];
	size_t n;
	unsigned cost;
};
struct post { /* a key's policies */
	struct key key;
	uint32_t *v;
	uint32_t n, cap;
};
struct length {
	uint32_t n;
	uint8_t family;
};
struct rbac_index {
	uint32_t n; /* policies */
	bool all;   /* nothing to be won */
	struct post *slot;
	size_t mask, used;
	struct post rest;
	bool has[KINDS];
	struct length *lengths[KINDS]; /* of prefixes and CIDRs, those that occur */
	size_t n_lengths[KINDS];
	const struct weft_hdrmatch *header[RBAC_HEADERS_MAX];
	size_t n_headers;
};

/* ---- building */
static unsigned header_kind(struct rbac_index *x, const struct weft_hdrmatch *m)
{
	size_t i;

	if (m->kind != WEFT_HM_STRING || m->invert || m->missing_as_empty ||
	    m->str.kind != WEFT_STR_EXACT || m->str.ignore_case)
		return K_NONE;
	for (i = 0; i < x->n_headers; i++)
		if (!strcmp(x->header[i]->name, m->name))
			return (unsigned)(K_HEADER + i);
	if (i == RBAC_HEADERS_MAX)
		return K_NONE;
	x->header[x->n_headers++] = m;
	return (unsigned)(K_HEADER + i);
}

static bool one_key(struct keys *ret, unsigned kind, const void *v, uint32_t n, unsigned cost)
{
	ret->v[0] = (struct key){.kind = kind, .v = v, .n = n};
	ret->n = 1;
	ret->cost = cost;
	return kind != K_NONE;
}

static bool text_key(struct keys *ret, unsigned kind, unsigned prefix_kind,
		     const struct weft_strmatch *m)
{
	if (m->ignore_case)
		return false;
	if (m->kind == WEFT_STR_EXACT)
		return one_key(ret, kind, m->v, (uint32_t)m->n, COST_VALUE);
	if (m->kind == WEFT_STR_PREFIX && prefix_kind && m->n)
		return one_key(ret, prefix_kind, m->v, (uint32_t)m->n, COST_PREFIX);
	return false;
}

static bool cidr_key(struct keys *ret, unsigned kind, const struct weft_cidr *c)
{
	one_key(ret, kind, c->ip.b, c->len, c->len >= 24 ? COST_CIDR : 4 * COST_CIDR);
	ret->v[0].family = c->ip.family;
	return true;
}

static bool cover(struct rbac_index *x, const struct rbac_node *n, struct keys *ret);

static bool cover_and(struct rbac_index *x, const struct rbac_node *n, struct keys *ret)
{
	struct keys *one = weft_xcalloc(1, sizeof(*one));
	bool found = false;

	for (size_t i = 0; i < n->n; i++) {
		if (!cover(x, &n->v[i], one))
			continue;
		if (!found || one->cost < ret->cost ||
		    (one->cost == ret->cost && one->n < ret->n)) {
			memcpy(ret->v, one->v, one->n * sizeof(*one->v));
			ret->n = one->n;
			ret->cost = one->cost;
			found = true;
		}
	}
	free(one);
	return found;
}

static bool cover_or(struct rbac_index *x, const struct rbac_node *n, struct keys *ret)
{
	struct keys *one = weft_xcalloc(1, sizeof(*one));
	bool ok = n->n > 0;

	ret->n = 0;
	ret->cost = 0;
	for (size_t i = 0; i < n->n && ok; i++) {
		ok = cover(x, &n->v[i], one) && ret->n + one->n <= RBAC_KEYS_MAX;
		if (!ok)
			break;
		memcpy(ret->v + ret->n, one->v, one->n * sizeof(*one->v));
		ret->n += one->n;
		if (one->cost > ret->cost)
			ret->cost = one->cost;
	}
	free(one);
	return ok;
}

/* Keys one of which must be there for n to be anything but false. */
static bool cover(struct rbac_index *x, const struct rbac_node *n, struct keys *ret)
{
	switch (n->op) {
	case RBAC_AND:
		return cover_and(x, n, ret);
	case RBAC_OR:
		return cover_or(x, n, ret);
	case RBAC_HEADER:
		return one_key(ret, header_kind(x, &n->header), n->header.str.v,
			       (uint32_t)n->header.str.n, COST_VALUE);
	case RBAC_PATH:
		return text_key(ret, K_PATH, K_PREFIX, &n->str);
	case RBAC_PRINCIPAL:
		return text_key(ret, K_PRINCIPAL, K_NONE, &n->str);
	case RBAC_SNI:
		return text_key(ret, K_SNI, K_NONE, &n->str);
	case RBAC_DEST_PORT:
		return n->port.to == n->port.from + 1 &&
		       one_key(ret, K_PORT, &n->port.from, sizeof(n->port.from), COST_PORT);
	case RBAC_DEST_IP:
		return cidr_key(ret, K_DEST, &n->cidr);
	case RBAC_CONN_IP:
		return cidr_key(ret, K_CONN, &n->cidr);
	case RBAC_DIRECT_IP:
		return cidr_key(ret, K_DIRECT, &n->cidr);
	case RBAC_REMOTE_IP:
		return cidr_key(ret, K_REMOTE, &n->cidr);
	default:
		return false;
	}
}

static size_t key_bytes(const struct key *k)
{
	return k->family ? (k->n + 7) / 8 : k->n;
}

static uint64_t key_hash(const struct key *k)
{
	return XXH3_64bits_withSeed(k->v, key_bytes(k),
				    ((uint64_t)k->kind << 40) | ((uint64_t)k->family << 32) | k->n);
}

static bool key_same(const struct key *a, const struct key *b)
{
	return a->kind == b->kind && a->n == b->n && a->family == b->family &&
	       !memcmp(a->v, b->v, key_bytes(a));
}

static struct post *post_find(const struct rbac_index *x, const struct key *k)
{
	size_t i = key_hash(k) & x->mask;

	for (; x->slot[i].key.kind; i = (i + 1) & x->mask)
		if (key_same(&x->slot[i].key, k))
			break;
	return &x->slot[i];
}

static void index_grow(struct weft_arena *a, struct rbac_index *x)
{
	struct post *old = x->slot;
	size_t n = old ? x->mask + 1 : 0, i;

	x->mask = n ? 2 * n - 1 : 63;
	x->slot = weft_arena_alloc(a, (x->mask + 1) * sizeof(*x->slot));
	for (i = 0; i < n; i++)
		if (old[i].key.kind)
			*post_find(x, &old[i].key) = old[i];
}

static void post_add(struct weft_arena *a, struct post *p, uint32_t policy)
{
	uint32_t *more;

	if (p->n && p->v[p->n - 1] == policy)
		return;
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 2;
		more = weft_arena_alloc(a, p->cap * sizeof(*more));
		if (p->n)
			memcpy(more, p->v, p->n * sizeof(*more));
		p->v = more;
	}
	p->v[p->n++] = policy;
}

static void length_note(struct weft_arena *a, struct rbac_index *x, const struct key *k)
{
	struct length *more;
	size_t n = x->n_lengths[k->kind];

	for (size_t i = 0; i < n; i++)
		if (x->lengths[k->kind][i].n == k->n && x->lengths[k->kind][i].family == k->family)
			return;
	more = weft_arena_alloc(a, (n + 1) * sizeof(*more));
	if (n)
		memcpy(more, x->lengths[k->kind], n * sizeof(*more));
	more[n] = (struct length){k->n, k->family};
	x->lengths[k->kind] = more;
	x->n_lengths[k->kind] = n + 1;
}

static void put(struct weft_arena *a, struct rbac_index *x, const struct key *k, uint32_t policy)
{
	struct post *p;

	if (x->used * 2 >= x->mask)
		index_grow(a, x);
	p = post_find(x, k);
	if (!p->key.kind) {
		p->key = *k;
		x->used++;
	}
	post_add(a, p, policy);
	x->has[k->kind] = true;
	if (k->family || k->kind == K_PREFIX)
		length_note(a, x, k);
}

const struct rbac_index *rbac_index_new(struct weft_arena *a, const struct rbac_policy *v, size_t n)
{
	struct rbac_index *x = weft_arena_alloc(a, sizeof(*x));
	struct keys *keys;

	x->n = (uint32_t)n;
	x->all = n < 8; /* a handful is walked faster than looked up */
	if (x->all)
		return x;
	keys = weft_xcalloc(1, sizeof(*keys));
	index_grow(a, x);
	for (size_t i = 0; i < n; i++) {
		if (!cover(x, &v[i].root, keys)) {
			post_add(a, &x->rest, (uint32_t)i);
			continue;
		}
		for (size_t k = 0; k < keys->n; k++)
			put(a, x, &keys->v[k], (uint32_t)i);
	}
	free(keys);
	return x;
}

/* ---- looking up */
static void walk_add(struct rbac_walk *w, const struct post *p)
{
	if (!p->n || w->all)
		return;
	if (w->n_cursors == RBAC_CURSORS_MAX) {
		w->all = true;
		return;
	}
	w->cursor[w->n_cursors].v = p->v;
	w->cursor[w->n_cursors++].n = p->n;
}

static void look(struct rbac_walk *w, const struct rbac_index *x, unsigned kind, const void *v,
		 size_t n)
{
	struct key k = {.kind = kind, .v = v, .n = (uint32_t)n};

	walk_add(w, post_find(x, &k));
}

static void look_names(struct rbac_walk *w, const struct rbac_index *x, const char *const *v)
{
	for (; v && *v && !w->all; v++)
		look(w, x, K_PRINCIPAL, *v, strlen(*v));
}

static void look_ip(struct rbac_walk *w, const struct rbac_index *x, unsigned kind,
		    const struct weft_ip *ip)
{
	for (size_t i = 0; i < x->n_lengths[kind]; i++) {
		const struct length *l = &x->lengths[kind][i];
		struct weft_cidr c;
		struct key k;

		if (l->family != ip->family || weft_cidr_make(ip, l->n, &c))
			continue;
		k = (struct key){.kind = kind, .v = c.ip.b, .n = l->n, .family = l->family};
		walk_add(w, post_find(x, &k));
	}
}

static void look_path(struct rbac_walk *w, const struct rbac_index *x, const struct rbac_view *v)
{
	if (x->has[K_PATH])
		look(w, x, K_PATH, v->path, v->path_n);
	for (size_t i = 0; i < x->n_lengths[K_PREFIX]; i++)
		if (x->lengths[K_PREFIX][i].n <= v->path_n)
			look(w, x, K_PREFIX, v->path, x->lengths[K_PREFIX][i].n);
}

static void look_headers(struct rbac_walk *w, const struct rbac_index *x, const struct rbac_view *v)
{
	for (size_t i = 0; i < x->n_headers; i++) {
		size_t n = 0;
		const char *s;

		if (!x->has[K_HEADER + i])
			continue;
		s = weft_headers_joined(v->h, x->header[i]->name, x->header[i]->name_n, &n);
		if (s)
			look(w, x, (unsigned)(K_HEADER + i), s, n);
	}
}

static void look_principal(struct rbac_walk *w, const struct rbac_index *x,
			   const struct weft_tls_info *t)
{
	look_names(w, x, t->peer_uri);
	look_names(w, x, t->peer_dns);
	look(w, x, K_PRINCIPAL, t->peer_subject ?: "", strlen(t->peer_subject ?: ""));
}

void rbac_walk_init(struct rbac_walk *w, const struct rbac_index *x, const struct rbac_view *v)
{
	const struct weft_io_info *conn = v->in->conn;
	uint32_t port = conn->local.port;

	w->n_cursors = 0;
	w->next = 0;
	w->n = x->n;
	w->all = x->all;
	if (w->all)
		return;
	walk_add(w, &x->rest);
	if (x->has[K_PRINCIPAL] && conn->tls)
		look_principal(w, x, conn->tls);
	if (v->path)
		look_path(w, x, v);
	if (x->has[K_SNI])
		look(w, x, K_SNI, v->sni, strlen(v->sni));
	if (x->has[K_PORT])
		look(w, x, K_PORT, &port, sizeof(port));
	look_ip(w, x, K_DEST, &conn->local.ip);
	look_ip(w, x, K_CONN, &conn->remote.ip);
	look_ip(w, x, K_DIRECT, &rbac_direct(v->in)->ip);
	look_ip(w, x, K_REMOTE, &v->in->remote.ip);
	look_headers(w, x, v);
}

int64_t rbac_walk_next(struct rbac_walk *w)
{
	uint32_t least = UINT32_MAX;
	unsigned i;

	if (w->all)
		return w->next < w->n ? (int64_t)w->next++ : -1;
	for (i = 0; i < w->n_cursors; i++)
		if (w->cursor[i].n && *w->cursor[i].v < least)
			least = *w->cursor[i].v;
	if (least == UINT32_MAX)
		return -1;
	for (i = 0; i < w->n_cursors; i++)
		if (w->cursor[i].n && *w->cursor[i].v == least) {
			w->cursor[i].v++;
			w->cursor[i].n--;
		}
	return least;
}
