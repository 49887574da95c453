#include "proxy/http/route_tables.h"

#include "proxy/core/worker.h"
#include "xds/wire.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

struct weft_routes_hold { /* of one worker */
	unsigned refs;
	struct weft_routes *r;
};
struct weft_route_table {
	TAILQ_ENTRY(weft_route_table) link;
	struct weft_route_tables *of; /* NULL: fixed */
	_Atomic unsigned refs;	      /* owners, and posts on their way */
	unsigned users;		      /* of refs: owners on the main thread */
	char *name;
	uint8_t *source; /* ConfigSource as bytes */
	size_t source_n;
	Envoy__Config__Core__V3__ConfigSource *cs; /* unpacked from it; NULL: ADS */
	struct weft_arena *arena;		   /* of cs */
	struct weft_routes *routes;		   /* newest; NULL: none */
	struct weft_routes_hold **slots;	   /* one a worker, touched by it only */
	size_t n_slots;
	char *version;
	uint64_t updated_s;
	bool ready;
};
struct weft_route_tables {
	struct weft_route_tables_conf conf;
	TAILQ_HEAD(, weft_route_table) tables;
	struct weft_route_deps *deps;
};
struct news { /* on its way to a worker */
	struct weft_route_table *t;
	struct weft_routes *r;
};

struct weft_route_tables *weft_route_tables_new(const struct weft_route_tables_conf *conf)
{
	struct weft_route_tables *ts = weft_xcalloc(1, sizeof(*ts));

	ts->conf = *conf;
	TAILQ_INIT(&ts->tables);
	return ts;
}

static void hold_drop(struct weft_routes_hold *h)
{
	if (!h || --h->refs)
		return;
	weft_routes_unref(h->r);
	free(h);
}

static void table_free(struct weft_route_table *t)
{
	for (size_t i = 0; i < t->n_slots; i++)
		hold_drop(t->slots[i]);
	weft_routes_unref(t->routes);
	weft_arena_free(t->arena);
	free(t->slots);
	free(t->version);
	free(t->source);
	free(t->name);
	free(t);
}

static void table_unref(struct weft_route_table *t)
{
	if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
		table_free(t);
}

void weft_route_tables_free(struct weft_route_tables *ts)
{
	struct weft_route_table *t;

	if (!ts)
		return;
	while ((t = TAILQ_FIRST(&ts->tables))) {
		/* those who still hold it keep it, without news */
		TAILQ_REMOVE(&ts->tables, t, link);
		t->of = NULL;
	}
	free(ts);
}

static bool same(const struct weft_route_table *t, const char *name, const uint8_t *source,
		 size_t n)
{
	return !strcmp(t->name, name) && t->source_n == n && !memcmp(t->source, source, n);
}

static void note(struct weft_route_deps *d, struct weft_route_table *t)
{
	if (!d)
		return;
	if (d->n == d->cap) {
		struct weft_route_table **v;

		d->cap = d->cap ? 2 * d->cap : 8;
		v = weft_arena_alloc(d->arena, d->cap * sizeof(*v));
		if (d->n)
			memcpy(v, d->v, d->n * sizeof(*v));
		d->v = v;
	}
	d->v[d->n++] = t;
}

static struct weft_route_table *table_new(struct weft_route_tables *ts, const char *name,
					  uint8_t *source, size_t n)
{
	struct weft_route_table *t = weft_xcalloc(1, sizeof(*t));
	struct weft_route_table *at;
	ProtobufCAllocator in;

	t->of = ts;
	t->name = weft_xstrdup(name);
	t->source = source;
	t->source_n = n;
	t->arena = weft_arena_new(0);
	if (n) {
		in = weft_wire_allocator(t->arena);
		t->cs = (void *)protobuf_c_message_unpack(
			&envoy__config__core__v3__config_source__descriptor, &in, n, source);
	}
	t->n_slots = ts->conf.n_workers;
	t->slots = weft_xcalloc(t->n_slots, sizeof(struct weft_routes_hold *));
	TAILQ_FOREACH (at, &ts->tables, link)
		if (strcmp(at->name, name) > 0)
			break;
	if (at)
		TAILQ_INSERT_BEFORE(at, t, link);
	else
		TAILQ_INSERT_TAIL(&ts->tables, t, link);
	return t;
}

struct weft_route_table *weft_route_table_take(struct weft_route_tables *ts,
					       const Envoy__Config__Core__V3__ConfigSource *cs,
					       const char *name)
{
	size_t n = cs ? protobuf_c_message_get_packed_size(&cs->base) : 0;
	uint8_t *source = weft_xcalloc(1, n);
	struct weft_route_table *t;

	if (n)
		protobuf_c_message_pack(&cs->base, source);
	TAILQ_FOREACH (t, &ts->tables, link)
		if (same(t, name, source, n))
			break;
	if (t)
		free(source);
	else
		t = table_new(ts, name, source, n);
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	note(ts->deps, t);
	if (!t->users++)
		ts->conf.want(ts->conf.owner, t, t->cs, t->name, true);
	return t;
}

struct weft_route_table *weft_route_table_fixed(struct weft_routes *r)
{
	struct weft_route_table *t = weft_xcalloc(1, sizeof(*t));

	t->name = weft_xstrdup(weft_routes_name(r));
	t->routes = r;
	t->ready = true;
	t->refs = t->users = 1;
	t->updated_s = (uint64_t)time(NULL);
	return t;
}

void weft_route_table_give(struct weft_route_table *t)
{
	if (!t)
		return;
	if (!--t->users && t->of) {
		t->of->conf.want(t->of->conf.owner, t, t->cs, t->name, false);
		TAILQ_REMOVE(&t->of->tables, t, link);
		t->of = NULL;
	}
	table_unref(t);
}

const char *weft_route_table_name(const struct weft_route_table *t)
{
	return t->name;
}

bool weft_route_table_is_ready(const struct weft_route_table *t)
{
	return t->ready;
}

/* ---- news */

static size_t slot_of(const struct weft_route_table *t, const struct weft_worker *w)
{
	return w->id < 0 ? t->n_slots : (size_t)w->id;
}

static void on_news(struct weft_worker *w, void *arg)
{
	struct news *n = arg;
	struct weft_route_table *t = n->t;
	struct weft_routes_hold *h = NULL;
	size_t i = slot_of(t, w);

	if (n->r) {
		h = weft_xcalloc(1, sizeof(*h));
		h->refs = 1;
		h->r = n->r;
	}
	if (i < t->n_slots) {
		hold_drop(t->slots[i]);
		t->slots[i] = h;
	} else {
		hold_drop(h);
	}
	free(n);
	table_unref(t);
}

static void publish(struct weft_route_table *t, struct weft_routes *r)
{
	bool first = !t->ready;

	if (!t->of) {
		weft_routes_unref(r);
		return;
	}
	for (size_t i = 0; i < t->of->conf.n_workers; i++) {
		struct news *n = weft_xcalloc(1, sizeof(*n));

		n->t = t;
		n->r = r;
		if (r)
			weft_routes_ref(r);
		atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
		weft_worker_post(t->of->conf.workers[i], on_news, n);
	}
	weft_routes_unref(t->routes);
	t->routes = r;
	t->ready = true;
	t->updated_s = (uint64_t)time(NULL);
	if (first && t->of->conf.ready)
		t->of->conf.ready(t->of->conf.owner, t);
}

int weft_route_table_set(struct weft_route_table *t, struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Route__V3__RouteConfiguration *m, const char *version)
{
	size_t n = protobuf_c_message_get_packed_size(&m->base);
	struct weft_arena *a;
	ProtobufCAllocator in;
	uint8_t *p;
	struct weft_cfg mine = *c;
	struct weft_routes *r = NULL;
	const void *copy;
	int err;

	/* the table outlives what it was read from */
	a = weft_arena_new(n < 65536 ? 4096 : 65536);
	in = weft_wire_allocator(a);
	p = weft_arena_alloc(a, n);
	protobuf_c_message_pack(&m->base, p);
	copy = protobuf_c_message_unpack(m->base.descriptor, &in, n, p);
	mine.arena = a;
	mine.marks = NULL;
	mine.decoded = NULL;
	err = copy ? weft_routes_new(&mine, at, copy, &r)
		   : weft_cfg_fail(c, at, "cannot be copied");
	if (err) {
		weft_arena_free(a);
		return err;
	}
	weft_routes_own(r, a);
	free(t->version);
	t->version = weft_xstrdup(version ?: "");
	publish(t, r);
	return 0;
}

void weft_route_table_gone(struct weft_route_table *t)
{
	free(t->version);
	t->version = NULL;
	publish(t, NULL);
}

void weft_route_table_timed_out(struct weft_route_table *t)
{
	if (t->ready)
		return;
	t->ready = true;
	if (t->of && t->of->conf.ready)
		t->of->conf.ready(t->of->conf.owner, t);
}

/* ---- who waits, who looks */

void weft_route_tables_note(struct weft_route_tables *ts, struct weft_route_deps *d)
{
	ts->deps = d;
}

bool weft_route_deps_ready(const struct weft_route_deps *d)
{
	for (size_t i = 0; i < d->n; i++)
		if (!d->v[i]->ready)
			return false;
	return true;
}

void weft_route_tables_each(struct weft_route_tables *ts,
			    void (*fn)(void *ctx, const struct weft_route_table_view *v), void *ctx)
{
	struct weft_route_table *t;

	TAILQ_FOREACH (t, &ts->tables, link) {
		struct weft_route_table_view v = {
			.name = t->name,
			.version = t->version ?: "",
			.msg = t->routes ? weft_routes_msg(t->routes) : NULL,
			.updated_s = t->updated_s,
		};

		fn(ctx, &v);
	}
}

/* ---- on workers */

const struct weft_routes *weft_route_table_get(struct weft_route_table *t, struct weft_worker *w,
					       struct weft_routes_hold **ret_hold)
{
	struct weft_routes_hold *h;
	size_t i;

	*ret_hold = NULL;
	/* one that is fixed never changes while its listener is there */
	if (!t->slots)
		return t->routes;
	i = slot_of(t, w);
	h = i < t->n_slots ? t->slots[i] : NULL;
	if (!h)
		return NULL;
	h->refs++;
	*ret_hold = h;
	return h->r;
}

void weft_routes_hold_give(struct weft_routes_hold *h)
{
	hold_drop(h);
}
