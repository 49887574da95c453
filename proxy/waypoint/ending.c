/* Signals, and how the process ends: SIGTERM lets connections finish, a second one and SIGINT end
 * it at once. */
#include "proxy/core/log.h"
#include "proxy/l4/als.h"
#include "proxy/waypoint/waypoint.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>

enum { LOOK_MS = 50 };

struct ending {
	struct waypoint *w;
	struct event *sig[4], *look;
	uint64_t end_ns;
};

/* While draining: gone when nobody is left, or time is over. */
static void on_look(evutil_socket_t fd, short what, void *arg)
{
	struct ending *e = arg;
	uint64_t left = e->w->connections;

	if (left && weft_now_ns() < e->end_ns)
		return;
	if (left)
		weft_log(WEFT_LOG_WARN, "drain time is over connections=%llu",
			 (unsigned long long)left);
	waypoint_quit(e->w);
}

static void on_term(evutil_socket_t sig, short what, void *arg)
{
	const struct timeval tv = {.tv_usec = LOOK_MS * 1000};
	struct ending *e = arg;
	struct waypoint *w = e->w;

	if (sig == SIGINT || e->end_ns) {
		weft_log(WEFT_LOG_INFO, "signal=%s: ending at once",
			 sig == SIGTERM ? "SIGTERM" : "SIGINT");
		waypoint_quit(w);
		return;
	}
	weft_log(WEFT_LOG_INFO, "signal=SIGTERM: draining connections=%llu for at most %u s",
		 (unsigned long long)w->connections, w->opt.drain_s);
	e->end_ns = weft_now_ns() + (uint64_t)w->opt.drain_s * 1000000000;
	w->draining = true;
	listeners_stop_accepting(w->listeners, false, true);
	if (!w->connections) {
		waypoint_quit(w);
		return;
	}
	if (event_add(e->look, &tv))
		waypoint_quit(w);
}

static void on_usr1(evutil_socket_t sig, short what, void *arg)
{
	struct ending *e = arg;

	waypoint_logs_reopen(e->w);
}

static void on_hup(evutil_socket_t sig, short what, void *arg)
{
	weft_log(WEFT_LOG_INFO, "signal=SIGHUP: nothing is done on it");
}

struct ending *waypoint_signals(struct waypoint *w)
{
	struct ending *e = weft_xcalloc(1, sizeof(*e));
	size_t i;

	e->w = w;
	e->sig[0] = evsignal_new(w->main->base, SIGTERM, on_term, e);
	e->sig[1] = evsignal_new(w->main->base, SIGINT, on_term, e);
	e->sig[2] = evsignal_new(w->main->base, SIGUSR1, on_usr1, e);
	e->sig[3] = evsignal_new(w->main->base, SIGHUP, on_hup, e);
	e->look = event_new(w->main->base, -1, EV_PERSIST, on_look, e);
	for (i = 0; i < 4; i++)
		if (!e->sig[i] || event_add(e->sig[i], NULL))
			abort(); /* memory is out */
	return e;
}

void waypoint_signals_end(struct ending *e)
{
	size_t i;

	for (i = 0; i < 4; i++)
		event_free(e->sig[i]);
	event_free(e->look);
	free(e);
}

void waypoint_quit(struct waypoint *w)
{
	w->state = WAYPOINT_DRAINING;
	weft_worker_stop(w->main);
}
