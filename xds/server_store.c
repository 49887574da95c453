/* The server's resources: by name, by alias, and in the order of their last change. */
#include "proxy/core/arena.h"
#include "xds/server_priv.h"
#include <event2/event.h>
#include <stdio.h>
#include <xxhash.h>

static void aliases_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}

static void alias_drop(struct xtable *t, const char *name, const struct xres *r)
{
	struct xalias *a = weft_xds_table_alias(t, name);

	for (size_t i = 0; a && i < a->n; i++)
		if (a->v[i] == r)
			a->v[i--] = a->v[--a->n];
	if (!a || a->n)
		return;
	HASH_DEL(t->by_alias, a);
	free(a->v);
	free(a);
}

static void alias_put(struct xtable *t, const char *name, struct xres *r)
{
	struct xalias *a = weft_xds_table_alias(t, name);
	size_t len = strlen(name);

	if (!a) {
		a = weft_xcalloc(1, sizeof(*a) + len + 1);
		memcpy(a->name, name, len + 1);
		HASH_ADD_KEYPTR(hh, t->by_alias, a->name, len, a);
	}
	a->v = weft_xrealloc(a->v, (a->n + 1) * sizeof(struct xres *));
	a->v[a->n++] = r;
}

/* A grave keeps its aliases, so that who asked by one of them is told, but is found no more. */
static void unindex(struct xtable *t, struct xres *r)
{
	for (size_t i = 0; r->aliases && r->aliases[i]; i++)
		alias_drop(t, r->aliases[i], r);
}

static void res_free(struct xtable *t, struct xres *r)
{
	HASH_DEL(t->by_name, r);
	TAILQ_REMOVE(&t->all, r, all);
	if (!r->live)
		TAILQ_REMOVE(&t->graves, r, grave);
	aliases_free(r->aliases);
	free(r->bytes);
	free(r);
}

static void table_done(struct xtable *t)
{
	struct xres *r;

	while ((r = TAILQ_FIRST(&t->all))) {
		if (r->live)
			unindex(t, r);
		res_free(t, r);
	}
}

static struct xscope *scope_find(const struct weft_xds_server *s, const char *name)
{
	struct xscope *sc;

	HASH_FIND(hh, s->scopes, name, strlen(name), sc);
	return sc;
}

struct xscope *weft_xds_scope_get(struct weft_xds_server *s, const char *name)
{
	struct xscope *sc = scope_find(s, name);
	size_t len = strlen(name);

	if (sc)
		return sc;
	sc = weft_xcalloc(1, sizeof(*sc) + len + 1);
	memcpy(sc->name, name, len + 1);
	for (int i = 0; i < WEFT_XDS_TYPES; i++) {
		TAILQ_INIT(&sc->tables[i].all);
		TAILQ_INIT(&sc->tables[i].graves);
	}
	HASH_ADD_KEYPTR(hh, s->scopes, sc->name, len, sc);
	return sc;
}

void weft_xds_scope_free(struct weft_xds_server *s, struct xscope *sc)
{
	HASH_DEL(s->scopes, sc);
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		table_done(&sc->tables[i]);
	free(sc);
}

bool weft_xds_scope_empty(const struct xscope *sc)
{
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		if (!TAILQ_EMPTY(&sc->tables[i].all))
			return false;
	return true;
}

struct xres *weft_xds_table_any(struct xtable *t, const char *name)
{
	struct xres *r;

	HASH_FIND(hh, t->by_name, name, strlen(name), r);
	return r;
}

struct xres *weft_xds_table_find(struct xtable *t, const char *name)
{
	struct xres *r = weft_xds_table_any(t, name);

	return r && r->live ? r : NULL;
}

struct xalias *weft_xds_table_alias(struct xtable *t, const char *name)
{
	struct xalias *a;

	HASH_FIND(hh, t->by_alias, name, strlen(name), a);
	return a;
}

void weft_xds_table_bury(struct xtable *t, uint64_t told)
{
	struct xres *r;

	while ((r = TAILQ_FIRST(&t->graves)) && r->seq <= told)
		res_free(t, r);
}

static struct xres *res_new(struct xtable *t, const char *name)
{
	size_t len = strlen(name);
	struct xres *r = weft_xcalloc(1, sizeof(*r) + len + 1);

	memcpy(r->name, name, len + 1);
	HASH_ADD_KEYPTR(hh, t->by_name, r->name, len, r);
	TAILQ_INSERT_TAIL(&t->all, r, all);
	return r;
}

/* All versions together, in no order: what a state of the world is called. */
static void stir(struct xtable *t, const struct xres *r)
{
	t->hash ^= XXH3_64bits_withSeed(r->version, strlen(r->version),
					XXH3_64bits(r->name, strlen(r->name)));
}

static void touch(struct xtable *t, struct xres *r)
{
	r->seq = ++t->seq;
	TAILQ_REMOVE(&t->all, r, all);
	TAILQ_INSERT_TAIL(&t->all, r, all);
}

static void remove_one(struct xtable *t, struct xres *r)
{
	unindex(t, r);
	stir(t, r);
	r->live = false; /* its bytes stay: who sees the whole state may be shown it until last */
	t->live--;
	touch(t, r);
	TAILQ_INSERT_TAIL(&t->graves, r, grave);
}

/* Constant for one content, whichever process computes it: clients keep versions over our restarts.
 */
static void version_of(const uint8_t *p, size_t n, const char *const *aliases, char dst[20])
{
	uint64_t h = XXH3_64bits(p, n);

	for (size_t i = 0; aliases && aliases[i]; i++)
		h = XXH3_64bits_withSeed(aliases[i], strlen(aliases[i]) + 1, h);
	snprintf(dst, 20, "%016llx", (unsigned long long)h);
}

static void set_one(struct xtable *t, struct xres *r, uint8_t *bytes, size_t n,
		    const char *const *aliases)
{
	size_t k = 0;

	if (r->live) {
		unindex(t, r);
	} else {
		if (r->seq)
			TAILQ_REMOVE(&t->graves, r, grave);
		r->live = true;
		t->live++;
	}
	aliases_free(r->aliases);
	r->aliases = NULL;
	free(r->bytes);
	r->bytes = bytes;
	r->n = n;
	while (aliases && aliases[k])
		k++;
	if (k)
		r->aliases = weft_xcalloc(k + 1, sizeof(char *));
	for (size_t i = 0; i < k; i++) {
		r->aliases[i] = weft_xstrdup(aliases[i]);
		alias_put(t, aliases[i], r);
	}
	touch(t, r);
}

static struct xtable *table_of(struct xscope *sc, const struct weft_xds_type *t)
{
	int i = weft_xds_type_index(t->url);

	if (i < 0)
		abort(); /* not of types.def */
	return &sc->tables[i];
}

static void changed(struct weft_xds_server *s)
{
	s->dirty = true;
	if (!s->depth)
		event_active(s->ev_push, EV_TIMEOUT, 1);
}

void weft_xds_publish(struct weft_xds_server *s, const struct weft_xds_type *t, const char *name,
		      const ProtobufCMessage *m, const char *const *aliases)
{
	weft_xds_publish_to(s, "", t, name, m, aliases);
}

void weft_xds_publish_to(struct weft_xds_server *s, const char *scope,
			 const struct weft_xds_type *t, const char *name, const ProtobufCMessage *m,
			 const char *const *aliases)
{
	struct xtable *tab = table_of(weft_xds_scope_get(s, scope), t);
	struct xres *r = weft_xds_table_any(tab, name);
	char version[20];
	uint8_t *bytes;
	size_t n;

	if (!m) {
		if (!r || !r->live)
			return;
		remove_one(tab, r);
		changed(s);
		return;
	}
	n = protobuf_c_message_get_packed_size(m);
	bytes = weft_xcalloc(1, n ? n : 1);
	protobuf_c_message_pack(m, bytes);
	version_of(bytes, n, aliases, version);
	if (r && r->live && !strcmp(r->version, version)) {
		free(bytes);
		return;
	}
	if (!r)
		r = res_new(tab, name);
	if (r->live)
		stir(tab, r);
	memcpy(r->version, version, sizeof(version));
	stir(tab, r);
	set_one(tab, r, bytes, n, aliases);
	changed(s);
}

void weft_xds_server_begin(struct weft_xds_server *s)
{
	s->depth++;
}

void weft_xds_server_end(struct weft_xds_server *s)
{
	if (!--s->depth && s->dirty)
		event_active(s->ev_push, EV_TIMEOUT, 1);
}

void weft_xds_unpublish_all(struct weft_xds_server *s, const char *scope)
{
	struct xscope *sc = scope_find(s, scope);
	struct xres *r, *next;

	for (int i = 0; sc && i < WEFT_XDS_TYPES; i++) {
		uint64_t last = sc->tables[i].seq; /* graves move to the end */

		for (r = TAILQ_FIRST(&sc->tables[i].all); r && r->seq <= last; r = next) {
			next = TAILQ_NEXT(r, all);
			if (r->live)
				remove_one(&sc->tables[i], r);
		}
	}
	if (sc)
		changed(s);
}

size_t weft_xds_server_count(const struct weft_xds_server *s, const struct weft_xds_type *t)
{
	return table_of(s->common, t)->live;
}
