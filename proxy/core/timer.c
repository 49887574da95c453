#include "proxy/core/timer.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>

enum {
	BUCKETS = 64,
	TURN_MAX = 1000,
	LISTS_MAX = 1024, /* then durations share lists: peers may ask for any (grpc-timeout) */
	SHARED_BITS = 6,  /* of a duration in a shared list, rounded up: 3% at most */
};
#define MS_MAX (1ull << 43) /* 278 years: in ns it is a number yet */
TAILQ_HEAD(timers, weft_timer);
struct weft_timer_list {
	struct weft_timer_list *next; /* of its bucket */
	struct weft_timers *of;
	struct timers q;
	uint64_t ms;
	struct event ev;
	bool armed;
};
struct weft_timers {
	struct event_base *base;
	struct weft_timer_list *recent;
	struct weft_timer_list *buckets[BUCKETS];
	unsigned n_lists;
};

static void timers_done(struct weft_worker *w, void *part)
{
	struct weft_timers *ts = part;
	struct weft_timer *t;

	for (unsigned i = 0; i < BUCKETS; i++) {
		struct weft_timer_list *l;

		while ((l = ts->buckets[i])) {
			while ((t = TAILQ_FIRST(&l->q)))
				weft_timer_clear(t);
			event_del(&l->ev);
			ts->buckets[i] = l->next;
			free(l);
		}
	}
}

static const struct weft_worker_part part = {sizeof(struct weft_timers), timers_done};

struct weft_timers *weft_timers_of(struct weft_worker *w)
{
	struct weft_timers *ts = weft_worker_part(w, &part);

	ts->base = w->base;
	return ts;
}

static unsigned bucket_of(uint64_t ms)
{
	return (unsigned)(ms * 0x9e3779b97f4a7c15ull >> 58);
}

static void arm(struct weft_timer_list *l, uint64_t now)
{
	uint64_t due = TAILQ_FIRST(&l->q)->due_ns;
	uint64_t us = due > now ? (due - now + 999) / 1000 : 0;
	struct timeval tv = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};

	l->armed = true;
	event_add(&l->ev, &tv);
}

static void drop_list(struct weft_timer_list *l)
{
	struct weft_timer_list **at = &l->of->buckets[bucket_of(l->ms)];

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	l->of->n_lists--;
	if (l->of->recent == l)
		l->of->recent = NULL;
	free(l);
}

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct weft_timer_list *l = arg;
	uint64_t now = weft_now_ns();
	struct weft_timer *t;

	/* bounded, also where callbacks set anew by an old clock */
	for (unsigned n = 0; n < TURN_MAX; n++) {
		t = TAILQ_FIRST(&l->q);
		if (!t || t->due_ns > now)
			break;
		weft_timer_clear(t);
		t->fn(t);
	}
	l->armed = false;
	if (TAILQ_FIRST(&l->q))
		arm(l, now);
	else
		drop_list(l);
}

static struct weft_timer_list *there(struct weft_timers *ts, uint64_t ms)
{
	struct weft_timer_list *l;

	if (ts->recent && ts->recent->ms == ms)
		return ts->recent;
	for (l = ts->buckets[bucket_of(ms)]; l; l = l->next)
		if (l->ms == ms)
			return ts->recent = l;
	return NULL;
}

static uint64_t shared(uint64_t ms)
{
	int drop = 64 - __builtin_clzll(ms) - SHARED_BITS;
	uint64_t step = drop > 0 ? 1ull << drop : 1;

	return (ms + step - 1) / step * step;
}

static struct weft_timer_list *list_of(struct weft_timers *ts, uint64_t ms)
{
	struct weft_timer_list *l = there(ts, ms);
	unsigned b;

	if (!l && ts->n_lists >= LISTS_MAX) {
		ms = shared(ms);
		l = there(ts, ms);
	}
	if (l)
		return l;
	b = bucket_of(ms);
	ts->n_lists++;
	l = weft_xcalloc(1, sizeof(*l));
	l->of = ts;
	l->ms = ms;
	TAILQ_INIT(&l->q);
	event_assign(&l->ev, ts->base, -1, 0, on_due, l);
	l->next = ts->buckets[b];
	return ts->recent = ts->buckets[b] = l;
}

void weft_timer_set(struct weft_timers *ts, struct weft_timer *t, uint64_t ms, uint64_t now_ns,
		    void (*fn)(struct weft_timer *t))
{
	struct weft_timer_list *l;
	struct weft_timer *before;

	weft_timer_clear(t);
	if (!ms)
		return;
	l = list_of(ts, ms < MS_MAX ? ms : MS_MAX);
	t->list = l;
	t->fn = fn;
	t->due_ns = now_ns + l->ms * 1000000;
	/* a clock read a little earlier may ask for an earlier place */
	before = TAILQ_LAST(&l->q, timers);
	while (before && before->due_ns > t->due_ns)
		before = TAILQ_PREV(before, timers, link);
	if (before)
		TAILQ_INSERT_AFTER(&l->q, before, t, link);
	else
		TAILQ_INSERT_HEAD(&l->q, t, link);
	if (!l->armed)
		arm(l, now_ns);
}

void weft_timer_clear(struct weft_timer *t)
{
	if (!t->list)
		return;
	TAILQ_REMOVE(&t->list->q, t, link);
	t->list = NULL;
}
