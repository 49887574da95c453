#include "proxy/core/scope.h"

#include "proxy/core/arena.h"
#include "proxy/core/scope_priv.h"
#include "proxy/core/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static uint64_t hash_seed; /* written once, under the lock */

static uint64_t key_hash(const void *key, size_t n)
{
	return XXH3_64bits_withSeed(key, n, hash_seed);
}

#define HASH_FUNCTION(key, n, ret) ((ret) = (unsigned)key_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>

struct code {
	struct code *next;
	unsigned status;
	_Atomic int64_t n;
};
struct weft_scope {
	const struct weft_scope_class *cls;
	size_t refs; /* under the lock */
	UT_hash_handle hh;
	_Atomic(struct scope_buckets *) named;
	_Atomic(struct code *) codes;
	char *name; /* behind the key's class */
	_Atomic(struct scope_group *) groups[];
};

/* Guards the registry: which scopes there are. Never taken where numbers are added. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct weft_scope *scopes;
static struct weft_scope *globals; /* one of no class; made with the first number */
static const struct weft_scope_class global_class = {.prefix = ""};

static void seed(void)
{
	while (!hash_seed)
		hash_seed = weft_rand64();
}

static struct weft_scope *scope_new(const struct weft_scope_class *cls, const char *key, size_t n)
{
	size_t groups = (cls->n + SCOPE_GROUP - 1) / SCOPE_GROUP;
	struct weft_scope *s = weft_xcalloc(1, sizeof(*s) + groups * sizeof(s->groups[0]) + n + 1);
	char *k = (char *)&s->groups[groups];

	memcpy(k, key, n);
	s->cls = cls;
	s->name = k + sizeof(cls);
	return s;
}

struct weft_scope *weft_scope_get(const struct weft_scope_class *cls, const char *name)
{
	size_t len = strlen(name), n = sizeof(cls) + len;
	char small[512], *key = n <= sizeof(small) ? small : weft_xcalloc(1, n);
	struct weft_scope *s;

	memcpy(key, &cls, sizeof(cls));
	memcpy(key + sizeof(cls), name, len);
	pthread_mutex_lock(&lock);
	seed();
	HASH_FIND(hh, scopes, key, n, s);
	if (!s) {
		s = scope_new(cls, key, n);
		HASH_ADD_KEYPTR(hh, scopes, s->name - sizeof(cls), n, s);
	}
	s->refs++;
	pthread_mutex_unlock(&lock);
	if (key != small)
		free(key);
	return s;
}

static struct scope_group *group_of(const struct weft_scope *s, unsigned item)
{
	return atomic_load_explicit(&s->groups[item / SCOPE_GROUP], memory_order_acquire);
}

static void scope_free(struct weft_scope *s)
{
	struct scope_buckets *b = atomic_load(&s->named);
	struct code *c = atomic_load(&s->codes), *next;

	for (unsigned i = 0; i < s->cls->n; i++) {
		struct scope_group *g = group_of(s, i);

		if (g && s->cls->v[i].kind == WEFT_HISTOGRAM)
			hist_free((struct hist *)(uintptr_t)atomic_load(&g->v[i % SCOPE_GROUP]));
	}
	for (unsigned i = 0; i < s->cls->n; i += SCOPE_GROUP)
		free(group_of(s, i));
	for (unsigned i = 0; b && i < SCOPE_BUCKETS; i++)
		for (struct scope_named *n = atomic_load(&b->v[i]), *after; n; n = after) {
			after = n->next;
			hist_free(atomic_load(&n->hist));
			free(n);
		}
	free(b);
	for (; c; c = next) {
		next = c->next;
		free(c);
	}
	free(s);
}

void weft_scope_unref(struct weft_scope *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&lock);
	assert(s->refs > 0);
	if (--s->refs)
		s = NULL;
	else
		HASH_DEL(scopes, s);
	pthread_mutex_unlock(&lock);
	if (s)
		scope_free(s);
}

const char *weft_scope_name(const struct weft_scope *s)
{
	return s->name;
}

static struct scope_group *group_make(struct weft_scope *s, unsigned item)
{
	struct scope_group *g = group_of(s, item), *seen = NULL;

	if (g)
		return g;
	g = weft_xcalloc(1, sizeof(*g));
	if (!atomic_compare_exchange_strong(&s->groups[item / SCOPE_GROUP], &seen, g)) {
		free(g);
		g = seen;
	}
	return g;
}

/* The number's place, marked as used. */
static _Atomic int64_t *slot(struct weft_scope *s, unsigned item)
{
	struct scope_group *g = group_make(s, item);
	uint64_t bit = (uint64_t)1 << item % SCOPE_GROUP;

	if (!(atomic_load_explicit(&g->used, memory_order_relaxed) & bit))
		atomic_fetch_or_explicit(&g->used, bit, memory_order_relaxed);
	return &g->v[item % SCOPE_GROUP];
}

void weft_scope_add(struct weft_scope *s, unsigned item, int64_t n)
{
	if (s)
		atomic_fetch_add_explicit(slot(s, item), n, memory_order_relaxed);
}

void weft_scope_set(struct weft_scope *s, unsigned item, int64_t v)
{
	if (s)
		atomic_store_explicit(slot(s, item), v, memory_order_relaxed);
}

int64_t weft_scope_value(const struct weft_scope *s, unsigned item)
{
	struct scope_group *g = s ? group_of(s, item) : NULL;
	int64_t v = g ? atomic_load_explicit(&g->v[item % SCOPE_GROUP], memory_order_acquire) : 0;

	if (v && s->cls->v[item].kind == WEFT_HISTOGRAM)
		return (int64_t)hist_count((struct hist *)(uintptr_t)v);
	return v;
}

void weft_scope_record(struct weft_scope *s, unsigned item, uint64_t v)
{
	_Atomic int64_t *at;
	int64_t was;

	if (!s)
		return;
	assert(s->cls->v[item].kind == WEFT_HISTOGRAM);
	at = slot(s, item);
	was = atomic_load_explicit(at, memory_order_acquire);
	if (!was) {
		struct hist *h = hist_new();

		if (atomic_compare_exchange_strong(at, &was, (int64_t)(uintptr_t)h))
			was = (int64_t)(uintptr_t)h;
		else
			hist_free(h);
	}
	hist_record((struct hist *)(uintptr_t)was, v);
}

void weft_scope_code(struct weft_scope *s, unsigned http_status)
{
	struct code *head, *c, *fresh = NULL;

	if (!s || (http_status && http_status < 100) || http_status > 599)
		return;
	head = atomic_load_explicit(&s->codes, memory_order_acquire);
	for (;;) {
		for (c = head; c && c->status != http_status; c = c->next)
			;
		if (c)
			break;
		if (!fresh)
			fresh = weft_xcalloc(1, sizeof(*fresh));
		fresh->status = http_status;
		fresh->next = head;
		if (atomic_compare_exchange_strong(&s->codes, &head, fresh)) {
			c = fresh;
			fresh = NULL;
			break;
		}
	}
	free(fresh);
	atomic_fetch_add_explicit(&c->n, 1, memory_order_relaxed);
}

/* ---- numbers by name */
static struct scope_buckets *buckets_make(struct weft_scope *s)
{
	struct scope_buckets *b = atomic_load_explicit(&s->named, memory_order_acquire),
			     *seen = NULL;

	if (b)
		return b;
	b = weft_xcalloc(1, sizeof(*b));
	if (!atomic_compare_exchange_strong(&s->named, &seen, b)) {
		free(b);
		b = seen;
	}
	return b;
}

static struct scope_named *named_find(struct scope_named *n, uint64_t hash, const char *name)
{
	while (n && (n->hash != hash || strcmp(n->name, name) != 0))
		n = n->next;
	return n;
}

static struct scope_named *named_get(struct weft_scope *s, const char *name,
				     enum weft_scope_kind kind)
{
	struct scope_buckets *b = buckets_make(s);
	size_t len = strlen(name);
	uint64_t hash = key_hash(name, len);
	_Atomic(struct scope_named *) *bucket = &b->v[hash % SCOPE_BUCKETS];
	struct scope_named *head = atomic_load_explicit(bucket, memory_order_acquire), *n, *fresh;

	n = named_find(head, hash, name);
	if (n)
		return n;
	if (atomic_fetch_add(&b->n, 1) >= SCOPE_NAMED_MAX) {
		atomic_fetch_sub(&b->n, 1);
		return NULL;
	}
	fresh = weft_xcalloc(1, sizeof(*fresh) + len + 1);
	memcpy(fresh->name, name, len);
	fresh->hash = hash;
	fresh->kind = kind;
	do {
		n = named_find(head, hash, name);
		if (n) {
			atomic_fetch_sub(&b->n, 1);
			free(fresh);
			return n;
		}
		fresh->next = head;
	} while (!atomic_compare_exchange_weak(bucket, &head, fresh));
	return fresh;
}

static void named_touch(struct scope_named *n)
{
	if (!atomic_load_explicit(&n->used, memory_order_relaxed))
		atomic_store_explicit(&n->used, true, memory_order_relaxed);
}

void weft_scope_add_named(struct weft_scope *s, const char *item, int64_t v)
{
	struct scope_named *n = s ? named_get(s, item, WEFT_COUNTER) : NULL;

	if (!n || n->kind == WEFT_HISTOGRAM)
		return;
	named_touch(n);
	atomic_fetch_add_explicit(&n->value, v, memory_order_relaxed);
}

void weft_scope_record_named(struct weft_scope *s, const char *item, uint64_t v)
{
	struct scope_named *n = s ? named_get(s, item, WEFT_HISTOGRAM) : NULL;
	struct hist *h, *seen = NULL;

	if (!n || n->kind != WEFT_HISTOGRAM)
		return;
	named_touch(n);
	h = atomic_load_explicit(&n->hist, memory_order_acquire);
	if (!h) {
		h = hist_new();
		if (!atomic_compare_exchange_strong(&n->hist, &seen, h)) {
			hist_free(h);
			h = seen;
		}
	}
	hist_record(h, v);
}

int64_t weft_scope_value_named(const struct weft_scope *s, const char *item)
{
	struct scope_buckets *b = s ? atomic_load_explicit(&s->named, memory_order_acquire) : NULL;
	uint64_t hash = key_hash(item, strlen(item));
	struct scope_named *n =
		b ? named_find(atomic_load(&b->v[hash % SCOPE_BUCKETS]), hash, item) : NULL;

	if (n && n->kind == WEFT_HISTOGRAM)
		return atomic_load(&n->hist) ? (int64_t)hist_count(atomic_load(&n->hist)) : 0;
	return n ? atomic_load_explicit(&n->value, memory_order_relaxed) : 0;
}

static struct weft_scope *globals_get(void)
{
	struct weft_scope *s;

	pthread_mutex_lock(&lock);
	seed();
	if (!globals) {
		char key[sizeof(void *)] = {0};

		globals = scope_new(&global_class, key, sizeof(key));
		globals->refs = 1;
	}
	s = globals;
	pthread_mutex_unlock(&lock);
	return s;
}

static struct scope_named *global(const char *full_name, enum weft_scope_kind kind)
{
	struct scope_named *n = named_get(globals_get(), full_name, kind);

	if (n)
		named_touch(n);
	return n;
}

void weft_scope_global_set(const char *full_name, enum weft_scope_kind kind, int64_t v)
{
	struct scope_named *n = global(full_name, kind);

	if (n)
		atomic_store_explicit(&n->value, v, memory_order_relaxed);
}

void weft_scope_global_add(const char *full_name, enum weft_scope_kind kind, int64_t v)
{
	struct scope_named *n = global(full_name, kind);

	if (n)
		atomic_fetch_add_explicit(&n->value, v, memory_order_relaxed);
}

/* ---- for those who print */
static int by_name(const void *a, const void *b)
{
	const struct weft_scope *x = *(const struct weft_scope *const *)a,
				*y = *(const struct weft_scope *const *)b;
	int d = x->cls == y->cls ? 0 : strcmp(x->cls->prefix, y->cls->prefix);

	if (!d && x->cls != y->cls)
		d = x->cls < y->cls ? -1 : 1;
	return d ? d : strcmp(x->name, y->name);
}

struct scope_list scope_list_lock(void)
{
	struct scope_list l = {0};

	pthread_mutex_lock(&lock);
	l.v = weft_xcalloc(HASH_COUNT(scopes) + 1, sizeof(l.v[0]));
	for (struct weft_scope *s = scopes; s; s = s->hh.next)
		l.v[l.n++] = s;
	if (globals)
		l.v[l.n++] = globals;
	qsort(l.v, l.n, sizeof(l.v[0]), by_name);
	return l;
}

void scope_list_unlock(struct scope_list *l)
{
	pthread_mutex_unlock(&lock);
	free(l->v);
	*l = (struct scope_list){0};
}

const struct weft_scope_class *scope_class(const struct weft_scope *s)
{
	return s->cls;
}

struct scope_number scope_item(const struct weft_scope *s, unsigned item)
{
	const struct weft_scope_item *i = &s->cls->v[item];
	struct scope_number n = {
		.item = i->name, .kind = i->kind, .help = i->help, .fixed = true, .index = item};
	struct scope_group *g = group_of(s, item);
	int64_t v;

	if (!g)
		return n;
	v = atomic_load_explicit(&g->v[item % SCOPE_GROUP], memory_order_acquire);
	n.used = atomic_load_explicit(&g->used, memory_order_relaxed) >> item % SCOPE_GROUP & 1;
	if (i->kind == WEFT_HISTOGRAM)
		n.hist = (struct hist *)(uintptr_t)v;
	else
		n.value = v;
	return n;
}

static int by_item(const void *a, const void *b)
{
	return strcmp(((const struct scope_number *)a)->item,
		      ((const struct scope_number *)b)->item);
}

/* "upstream_rq_200", "upstream_rq_2xx", "upstream_rq_completed" */
static char *code_name(const struct weft_scope *s, unsigned code)
{
	const char *item = s->cls->code_item;
	char *ret;
	int len = code >= 100 ? asprintf(&ret, "%s_%u", item, code)
		  : code      ? asprintf(&ret, "%s_%uxx", item, code)
			      : asprintf(&ret, "%s_completed", item);

	if (len < 0)
		abort();
	return ret;
}

static size_t extra_codes(const struct weft_scope *s, struct scope_number *v)
{
	int64_t classes[6] = {0}, all = 0;
	size_t n = 0;

	for (struct code *c = atomic_load(&s->codes); c; c = c->next) {
		int64_t times = atomic_load_explicit(&c->n, memory_order_relaxed);

		if (c->status)
			v[n++] = (struct scope_number){
				.item = code_name(s, c->status), .value = times, .used = true};
		classes[c->status / 100] += times;
		all += times;
	}
	if (!all)
		return 0;
	for (unsigned i = 1; i < 6; i++)
		if (classes[i])
			v[n++] = (struct scope_number){
				.item = code_name(s, i), .value = classes[i], .used = true};
	v[n++] = (struct scope_number){.item = code_name(s, 0), .value = all, .used = true};
	return n;
}

struct scope_number *scope_extra(const struct weft_scope *s, size_t *ret_n)
{
	struct scope_buckets *b = atomic_load(&s->named);
	size_t n = 0, room = b ? atomic_load(&b->n) : 0;
	struct scope_number *v;

	for (struct code *c = atomic_load(&s->codes); c; c = c->next)
		room++;
	*ret_n = 0;
	if (!room)
		return NULL;
	/* others may add meanwhile: what is beyond the room waits for the next time */
	v = weft_xcalloc(room + 600, sizeof(*v));
	n = extra_codes(s, v);
	for (unsigned i = 0; b && i < SCOPE_BUCKETS; i++)
		for (struct scope_named *k = atomic_load(&b->v[i]); k && n < room + 600;
		     k = k->next)
			v[n++] = (struct scope_number){.item = weft_xstrdup(k->name),
						       .kind = k->kind,
						       .value = atomic_load(&k->value),
						       .hist = atomic_load(&k->hist),
						       .used = atomic_load(&k->used)};
	qsort(v, n, sizeof(*v), by_item);
	*ret_n = n;
	return v;
}

void scope_extra_free(struct scope_number *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free((char *)v[i].item);
	free(v);
}

/* ---- all of them */
static void each_hist(struct weft_scope *s, void (*fn)(struct hist *h))
{
	struct scope_buckets *b = atomic_load(&s->named);

	for (unsigned i = 0; i < s->cls->n; i++) {
		if (!group_of(s, i)) {
			i += SCOPE_GROUP - 1 - i % SCOPE_GROUP; /* none of it was ever used */
		} else if (s->cls->v[i].kind == WEFT_HISTOGRAM) {
			struct scope_number n = scope_item(s, i);

			if (n.hist)
				fn((struct hist *)n.hist);
		}
	}
	for (unsigned i = 0; b && i < SCOPE_BUCKETS; i++)
		for (struct scope_named *k = atomic_load(&b->v[i]); k; k = k->next)
			if (atomic_load(&k->hist))
				fn(atomic_load(&k->hist));
}

void weft_scope_flush(void)
{
	struct scope_list l = scope_list_lock();

	for (size_t i = 0; i < l.n; i++)
		each_hist((struct weft_scope *)l.v[i], hist_flush);
	scope_list_unlock(&l);
}

static void reset_one(struct weft_scope *s)
{
	struct scope_buckets *b = atomic_load(&s->named);

	for (unsigned i = 0; i < s->cls->n; i++) {
		struct scope_group *g = group_of(s, i);

		if (g && s->cls->v[i].kind == WEFT_COUNTER)
			atomic_store(&g->v[i % SCOPE_GROUP], 0);
	}
	for (unsigned i = 0; b && i < SCOPE_BUCKETS; i++)
		for (struct scope_named *k = atomic_load(&b->v[i]); k; k = k->next)
			if (k->kind == WEFT_COUNTER)
				atomic_store(&k->value, 0);
	for (struct code *c = atomic_load(&s->codes); c; c = c->next)
		atomic_store(&c->n, 0);
	each_hist(s, hist_reset);
}

void weft_scope_reset_counters(void)
{
	struct scope_list l = scope_list_lock();

	for (size_t i = 0; i < l.n; i++)
		reset_one((struct weft_scope *)l.v[i]);
	scope_list_unlock(&l);
}

static size_t bytes_of(const struct weft_scope *s)
{
	struct scope_buckets *b = atomic_load(&s->named);
	size_t n = sizeof(*s) + strlen(s->name) + 1 + sizeof(void *);

	for (unsigned i = 0; i < s->cls->n; i++) {
		struct scope_number k = scope_item(s, i);

		n += k.hist ? hist_bytes(k.hist) : 0;
		if (i % SCOPE_GROUP == 0)
			n += sizeof(s->groups[0]) +
			     (group_of(s, i) ? sizeof(struct scope_group) : 0);
	}
	n += b ? sizeof(*b) : 0;
	for (unsigned i = 0; b && i < SCOPE_BUCKETS; i++)
		for (struct scope_named *k = atomic_load(&b->v[i]); k; k = k->next)
			n += sizeof(*k) + strlen(k->name) + 1 +
			     (atomic_load(&k->hist) ? hist_bytes(atomic_load(&k->hist)) : 0);
	for (struct code *c = atomic_load(&s->codes); c; c = c->next)
		n += sizeof(*c);
	return n;
}

size_t weft_scope_bytes(void)
{
	struct scope_list l = scope_list_lock();
	size_t n = 0;

	for (size_t i = 0; i < l.n; i++)
		n += bytes_of(l.v[i]);
	scope_list_unlock(&l);
	return n;
}
