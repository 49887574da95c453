/* Timers: order, restart, clearing, from inside callbacks; and what setting one costs. */
#include "proxy/core/timer.h"
#include "proxy/core/worker.h"

#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static unsigned fired[4], order;
static struct weft_timer t[4];
static struct weft_timers *ts;

static void on_timer(struct weft_timer *x)
{
	fired[x - t] = ++order;
}

static void on_chain(struct weft_timer *x)
{
	order++;
	weft_timer_clear(&t[1]);
	weft_timer_set(ts, &t[2], 5, weft_now_ns(), on_timer);
}

static void run(struct weft_worker *w, unsigned ms)
{
	struct timeval tv = {0, (suseconds_t)ms * 1000};

	event_base_loopexit(w->base, &tv);
	event_base_dispatch(w->base);
}

static void fires_in_order(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);
	uint64_t now = weft_now_ns();

	order = 0;
	ts = weft_timers_of(w);
	assert_ptr_equal(ts, weft_timers_of(w));
	weft_timer_set(ts, &t[0], 30, now, on_timer);
	weft_timer_set(ts, &t[1], 10, now, on_timer);
	weft_timer_set(ts, &t[2], 20, now, on_timer);
	weft_timer_set(ts, &t[3], 10, now - 1000000, on_timer); /* an older clock goes before */
	weft_timer_set(ts, &t[2], 0, now, on_timer);
	assert_false(weft_timer_is_set(&t[2]));
	run(w, 60);
	assert_int_equal(fired[3], 1);
	assert_int_equal(fired[1], 2);
	assert_int_equal(fired[0], 3);
	assert_int_equal(fired[2], 0);
	weft_timer_set(ts, &t[0], 1000, weft_now_ns(), on_timer);
	weft_worker_free(w); /* one is still set */
	assert_false(weft_timer_is_set(&t[0]));
}

static void callbacks_may_set_and_clear(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);
	uint64_t now = weft_now_ns();

	order = 0;
	fired[1] = fired[2] = 0;
	ts = weft_timers_of(w);
	weft_timer_set(ts, &t[0], 5, now, on_chain);
	weft_timer_set(ts, &t[1], 5, now, on_timer);
	run(w, 40);
	assert_int_equal(fired[1], 0);
	assert_int_equal(fired[2], 2);
	weft_worker_free(w);
}

static void setting_is_cheap(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);
	uint64_t now = weft_now_ns(), took;
	unsigned n = 1000000;

	ts = weft_timers_of(w);
	for (unsigned i = 0; i < n; i++) {
		weft_timer_set(ts, &t[i % 4], 300000, now + i, on_timer);
		if (i % 3 == 0)
			weft_timer_clear(&t[i % 4]);
	}
	took = (weft_now_ns() - now) / n;
	print_message("# %u ns a timer set\n", (unsigned)took);
	assert_in_range(took, 0, 2000); /* sanitizers */
	weft_worker_free(w);
}

/* Peers may ask for any duration: that makes no more events than the limit. */
static void durations_share(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);
	uint64_t now = weft_now_ns();
	int n;

	ts = weft_timers_of(w);
	for (uint64_t ms = 100000; ms < 160000; ms++) {
		weft_timer_set(ts, &t[0], ms, now, on_timer);
		assert_in_range(t[0].due_ns, now + ms * 1000000, now + ms * 1040000);
	}
	n = event_base_get_num_events(w->base, EVENT_BASE_COUNT_ADDED);
	assert_in_range(n, 1024, 1200);
	weft_timer_set(ts, &t[1], UINT64_MAX / 1000, now, on_timer); /* no number of ns */
	assert_true(t[1].due_ns > now + (1ull << 62));
	weft_worker_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fires_in_order),
		cmocka_unit_test(callbacks_may_set_and_clear),
		cmocka_unit_test(setting_is_cheap),
		cmocka_unit_test(durations_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
