/* Timeouts that are set often and seldom fire: a list for each duration, in order of expiry, with
 * one event of the loop for its head. Setting and clearing touch a list, no heap and no system
 * call. One thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct weft_worker;
struct weft_timers; /* of a worker */
struct weft_timer {
	TAILQ_ENTRY(weft_timer) link;
	struct weft_timer_list *list; /* NULL: not set */
	uint64_t due_ns;
	void (*fn)(struct weft_timer *t); /* it is cleared before the call */
};
struct weft_timers *weft_timers_of(struct weft_worker *w);
/* (Re)starts t, zeroed or set before: fn after ms (not earlier, about a millisecond later). now_ns:
 * of weft_now_ns, a little old is fine. ms 0: cleared. */
void weft_timer_set(struct weft_timers *ts, struct weft_timer *t, uint64_t ms, uint64_t now_ns,
		    void (*fn)(struct weft_timer *t));
void weft_timer_clear(struct weft_timer *t);
static inline bool weft_timer_is_set(const struct weft_timer *t)
{
	return t->list;
}
