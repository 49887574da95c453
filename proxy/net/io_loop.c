/* What a thread keeps for its ios: the loops they are on, and spares. */
#include "proxy/net/io_priv.h"

#include "proxy/core/arena.h"
#include <assert.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>

enum { SPARES = 32 }; /* empty evbuffers kept by a thread */

static __thread LIST_HEAD(, weft_io_loop) loops;
static __thread struct evbuffer *spares[SPARES];
static __thread unsigned n_spares;
static __thread bool watched; /* thread_end will run */
static pthread_key_t end_key;

static void thread_done(void)
{
	while (n_spares > 0)
		evbuffer_free(spares[--n_spares]);
	weft_pipes_done();
}

/* ios may outlive their thread, whose list of loops does not; but those that are nobody's. */
static void thread_end(void *arg)
{
	struct weft_io_loop *l;

	while ((l = LIST_FIRST(&loops))) {
		LIST_REMOVE(l, next);
		l->next.le_prev = NULL;
		l->refs++;
		while (!LIST_EMPTY(&l->closing))
			weft_io_free(LIST_FIRST(&l->closing));
		weft_io_loop_put(l);
	}
	watched = false;
	thread_done();
}

__attribute__((constructor)) static void make_key(void)
{
	if (pthread_key_create(&end_key, thread_end))
		abort();
}

bool weft_io_thread_watch(void)
{
	if (!watched)
		watched = !pthread_setspecific(end_key, &watched);
	return watched;
}

struct evbuffer *weft_evbuffer_take(void)
{
	struct evbuffer *b = n_spares > 0 ? spares[--n_spares] : evbuffer_new();

	assert(b);
	return b;
}

void weft_evbuffer_give(struct evbuffer *b)
{
	if (!b)
		return;
	if (weft_io_thread_watch() && n_spares < SPARES && evbuffer_get_length(b) == 0)
		spares[n_spares++] = b;
	else
		evbuffer_free(b);
}

struct weft_io_loop *weft_io_loop_get(struct event_base *base, event_callback_fn on_turn)
{
	struct weft_io_loop *l;

	LIST_FOREACH (l, &loops, next) {
		if (l->base == base) {
			l->refs++;
			return l;
		}
	}
	l = weft_xcalloc(1, sizeof(*l));
	l->base = base;
	l->refs = 1;
	TAILQ_INIT(&l->work);
	TAILQ_INIT(&l->writes);
	event_assign(&l->turn, base, -1, 0, on_turn, l);
	weft_io_thread_watch();
	LIST_INSERT_HEAD(&loops, l, next);
	return l;
}

void weft_io_loop_put(struct weft_io_loop *l)
{
	if (--l->refs > 0)
		return;
	event_del(&l->turn);
	if (l->next.le_prev)
		LIST_REMOVE(l, next);
	free(l);
	if (LIST_EMPTY(&loops))
		thread_done();
}
