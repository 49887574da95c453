/* What one stream asks for of a type, and what it holds, by name. */
#include "proxy/core/arena.h"
#include "xds/stream.h"
#include <errno.h>
#include <event2/event.h>

struct xheld *weft_xds_held_find(const struct xtype *t, const char *name)
{
	struct xheld *h;

	HASH_FIND(hh, t->held, name, strlen(name), h);
	return h;
}

struct xheld *weft_xds_held_get(struct xtype *t, const char *name)
{
	struct xheld *h = weft_xds_held_find(t, name);
	size_t len = strlen(name);

	if (!h) {
		h = weft_xcalloc(1, sizeof(*h) + len + 1);
		memcpy(h->name, name, len + 1);
		h->type = t;
		HASH_ADD_KEYPTR(hh, t->held, h->name, len, h);
	}
	return h;
}

static void held_free(struct xtype *t, struct xheld *h)
{
	HASH_DEL(t->held, h);
	if (h->queued)
		TAILQ_REMOVE(&t->queue, h, link);
	if (h->ttl)
		event_free(h->ttl);
	free(h->version);
	free(h->bytes);
	free(h);
}

void weft_xds_held_clear(struct xheld *h)
{
	if (!h)
		return;
	if (h->ttl)
		event_free(h->ttl);
	free(h->version);
	free(h->bytes);
	h->ttl = NULL;
	h->version = NULL;
	h->bytes = NULL;
	h->hash = h->n = 0;
	h->refused = h->unsure = false;
	if (!h->wanted && !h->told && !h->queued)
		held_free(h->type, h);
}

void weft_xds_held_free_all(struct xtype *t)
{
	struct xheld *h, *tmp;

	HASH_ITER (hh, t->held, h, tmp)
		held_free(t, h);
}

void weft_xds_held_queue(struct xtype *t, struct xheld *h)
{
	if (!h->queued)
		TAILQ_INSERT_TAIL(&t->queue, h, link);
	h->queued = t->due = true;
	weft_xds_stream_send_soon(t->stream);
}

/* What is asked for is another list now. */
static void names_changed(struct xtype *t)
{
	free(t->names);
	t->names = NULL;
}

void weft_xds_stream_want(struct xtype *t, const char *name)
{
	struct xheld *h = weft_xds_held_get(t, name);

	if (h->wanted)
		return;
	h->wanted = true;
	t->n_wanted++;
	names_changed(t);
	weft_xds_held_queue(t, h);
}

/* What it has stays until the server is told: it may be wanted again in this turn. */
void weft_xds_stream_unwant(struct xtype *t, const char *name)
{
	struct xheld *h = weft_xds_held_find(t, name);

	if (!h || !h->wanted)
		return;
	h->wanted = false;
	t->n_wanted--;
	names_changed(t);
	weft_xds_held_queue(t, h);
}

void weft_xds_stream_wild(struct xtype *t, bool on)
{
	struct xheld *h, *tmp;

	if (t->wild == on)
		return;
	t->wild = on;
	names_changed(t);
	if (!on)
		HASH_ITER (hh, t->held, h, tmp)
			if (!h->wanted)
				weft_xds_held_clear(h); /* it would grow old unnoticed */
	t->due = true;
	weft_xds_stream_send_soon(t->stream);
}

/* ---- time to live */

static void on_ttl(evutil_socket_t fd, short what, void *arg)
{
	struct xheld *h = arg;
	const char *name = h->name;

	weft_xds_stream_remove(h->type, &name, 1);
}

void weft_xds_held_ttl(struct xheld *h, const Google__Protobuf__Duration *ttl)
{
	struct timeval tv;

	if (!ttl) {
		if (h->ttl)
			event_free(h->ttl);
		h->ttl = NULL;
		return;
	}
	tv = (struct timeval){ttl->seconds, ttl->nanos / 1000};
	if (tv.tv_sec < 0 || tv.tv_usec < 0)
		tv = (struct timeval){0};
	if (!h->ttl)
		h->ttl = event_new(h->type->stream->base, -1, 0, on_ttl, h);
	if (!h->ttl || event_add(h->ttl, &tv))
		abort();
}
