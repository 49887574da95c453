#include "proxy/node/drain.h"

#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/node/podtab.h"

#include <event2/event.h>
#include <stdlib.h>

enum { POLL_MS = 50, FORCED_MS = 1000, TELL_MS = 5000 };

struct weft_drain {
	struct weft_node *node;
	void (*done)(void *owner);
	void *owner;
	struct event *poll;
	uint64_t start_ns, forced_ns, told_ns;
};

static void on_begin(struct weft_worker *w, void *arg)
{
	struct weft_wstate *ws = w->owner;

	ws->draining = true;
	weft_drain_begin(ws);
}

static void on_force(struct weft_worker *w, void *arg)
{
	weft_drain_force(w->owner);
}

static void all(struct weft_drain *d, void (*fn)(struct weft_worker *w, void *arg))
{
	for (unsigned i = 0; i < d->node->n_ws; i++)
		weft_worker_post(d->node->ws[i].w, fn, NULL);
}

static void force(struct weft_drain *d)
{
	d->forced_ns = weft_now_ns();
	all(d, on_force);
	weft_node_ask_live(d->node);
}

static void finish(struct weft_drain *d)
{
	event_del(d->poll);
	d->done(d->owner);
}

static void on_poll(evutil_socket_t fd, short what, void *arg)
{
	struct weft_drain *d = arg;
	uint64_t now = weft_now_ns();
	unsigned live;

	if (!weft_node_live(d->node, &live)) {
		/* an agent that is away is waited for: it must have the listeners before we go */
		if (!live && (weft_podtab_left(d->node->podtab) || d->forced_ns)) {
			finish(d);
			return;
		}
		if (now - d->told_ns > TELL_MS * 1000000ull) {
			d->told_ns = now;
			weft_log(WEFT_LOG_INFO, "drain: connections=%u", live);
		}
		weft_node_ask_live(d->node);
	}
	if (d->forced_ns && now - d->forced_ns > FORCED_MS * 1000000ull) {
		weft_log(WEFT_LOG_WARN, "drain: not all connections could be closed in order");
		finish(d);
	} else if (!d->forced_ns && now - d->start_ns >= d->node->conf.drain_ms * 1000000ull) {
		weft_log(WEFT_LOG_WARN, "drain: time is over after %u ms: closing what is left",
			 d->node->conf.drain_ms);
		force(d);
	}
}

void weft_drain_start(struct weft_drain *d)
{
	static const struct timeval poll = {0, POLL_MS * 1000};

	if (d->start_ns) {
		if (!d->forced_ns)
			force(d);
		return;
	}
	weft_log(WEFT_LOG_INFO, "drain: begins, drain_ms=%u", d->node->conf.drain_ms);
	d->start_ns = d->told_ns = weft_now_ns();
	d->node->phase = WEFT_PHASE_DRAIN;
	all(d, on_begin);
	weft_podtab_leave(d->node->podtab);
	weft_node_ask_live(d->node);
	event_add(d->poll, &poll);
}

struct weft_drain *weft_drain_new(struct weft_node *n, void (*done)(void *owner), void *owner)
{
	struct weft_drain *d = weft_xcalloc(1, sizeof(*d));

	d->node = n;
	d->done = done;
	d->owner = owner;
	d->poll = event_new(n->main->base, -1, EV_PERSIST, on_poll, d);
	if (!d->poll)
		abort(); /* memory is out */
	return d;
}

void weft_drain_free(struct weft_drain *d)
{
	if (!d)
		return;
	event_free(d->poll);
	free(d);
}
