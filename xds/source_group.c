/* A type on a source: what comes is given to the watches it concerns. */
#include "proxy/core/arena.h"
#include "xds/source_priv.h"
#include "xds/wire.h"
#include <event2/event.h>
#include <time.h>
#include <xxhash.h>

void weft_xds_watch_no_timeout(struct weft_xds_watch *w)
{
	if (w->timeout)
		event_free(w->timeout);
	w->timeout = NULL;
}

void weft_xds_watch_complete(struct weft_xds_watch *w)
{
	weft_xds_watch_no_timeout(w);
	if (w->dead || w->complete)
		return;
	w->complete = true;
	if (w->sink->complete)
		w->sink->complete(w->owner);
}

static void succeeded(struct weft_xds_watch *w, const char *version)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	w->stat.update_success++;
	w->stat.update_attempt++;
	w->stat.update_time_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	w->stat.version = version && version[0] ? XXH64(version, strlen(version), 0) : 0;
}

static void rejected(struct weft_xds_watch *w)
{
	w->stat.update_rejected++;
	w->stat.update_attempt++;
}

/* Updates of one watch. An earlier one may have taken the messages: then they are read again. */
static void give(struct weft_xds_watch *w, struct weft_xds_reply *r,
		 const struct weft_xds_resource *up, size_t n_up, const char *const *gone,
		 size_t n_gone)
{
	size_t before = r->nacks;

	if (w->dead || w->fresh)
		return;
	if (n_up == 1 && !up->arena) {
		struct weft_xds_resource copy = *up;
		struct weft_err err;

		copy.arena = weft_arena_new(0);
		copy.msg = weft_wire_unpack(copy.arena, r->type->type->desc, up->bytes, up->n,
					    false, &err);
		if (copy.msg)
			w->sink->apply(w->owner, r, &copy, 1, gone, n_gone);
		weft_arena_free(copy.arena);
	} else {
		w->sink->apply(w->owner, r, up, n_up, gone, n_gone);
	}
	if (r->nacks > before)
		rejected(w);
	else
		succeeded(w, n_up ? up[n_up - 1].version : r->type->version);
}

/* ---- a type on a source */

struct xwname *weft_xds_group_name(const struct xgroup *g, const char *name)
{
	struct xwname *n;

	HASH_FIND(hh, g->names, name, strlen(name), n);
	return n;
}

static void give_name(struct xgroup *g, struct weft_xds_reply *r, const char *name,
		      const struct weft_xds_resource *up)
{
	struct xwname *n = weft_xds_group_name(g, name);
	struct weft_xds_watch *w;

	if (!n)
		return;
	TAILQ_FOREACH (w, &n->watches, link) { /* unlinked only from the loop */
		give(w, r, up, up ? 1 : 0, &name, up ? 0 : 1);
		if (!w->fresh)
			weft_xds_watch_complete(w);
	}
}

static void on_apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		     size_t n_up, const char *const *gone, size_t n_gone)
{
	struct xgroup *g = owner;

	if (g->all)
		give(g->all, r, up, n_up, gone, n_gone);
	if (!g->names)
		return;
	for (size_t i = 0; i < n_up; i++)
		give_name(g, r, up[i].name, &up[i]);
	for (size_t i = 0; i < n_gone; i++)
		give_name(g, r, gone[i], NULL);
}

static void on_refused(void *owner, const char *name)
{
	struct xgroup *g = owner;
	struct xwname *n = weft_xds_group_name(g, name);
	struct weft_xds_watch *w;

	if (g->all)
		rejected(g->all);
	if (!n)
		return;
	TAILQ_FOREACH (w, &n->watches, link) {
		rejected(w);
		weft_xds_watch_complete(w);
	}
}

static void on_complete(void *owner)
{
	struct xgroup *g = owner;

	if (g->all)
		weft_xds_watch_complete(g->all);
}

void weft_xds_group_each(struct xgroup *g, void (*fn)(struct weft_xds_watch *w, bool up), bool up)
{
	struct xwname *n, *tmp;
	struct weft_xds_watch *w;

	if (g->all && !g->all->dead)
		fn(g->all, up);
	HASH_ITER (hh, g->names, n, tmp)
		TAILQ_FOREACH (w, &n->watches, link)
			if (!w->dead)
				fn(w, up);
}

static void tell_connected(struct weft_xds_watch *w, bool up)
{
	if (w->sink->connected)
		w->sink->connected(w->owner, up);
}

static void on_connected(void *owner, bool up)
{
	weft_xds_group_each(owner, tell_connected, up);
}

static const struct weft_xds_sink group_sink = {
	.apply = on_apply,
	.connected = on_connected,
	.complete = on_complete,
	.arenas = true,
};

struct xgroup *weft_xds_group_of(struct xsource *src, const struct weft_xds_type *t)
{
	struct xgroup *g;

	TAILQ_FOREACH (g, &src->groups, link)
		if (g->x->type == t)
			return g;
	g = weft_xcalloc(1, sizeof(*g));
	g->source = src;
	g->x = weft_xds_stream_type(src->stream, t, &group_sink, g);
	g->x->refused = on_refused;
	TAILQ_INSERT_TAIL(&src->groups, g, link);
	return g;
}
