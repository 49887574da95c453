/* Threads with an event loop each. They speak only by weft_worker_post. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct weft_worker {
	struct event_base *base;	 /* owned */
	int id;				 /* 0..n-1; -1: the main thread's */
	void *owner;			 /* the program's per-worker state */
	struct weft_wclusters *clusters; /* proxy/upstream's table of this worker; NULL */
	struct weft_worker_priv *priv;
};

/* Makes the loop and its wake-up eventfd; no thread yet. id -1 for the main thread. */
struct weft_worker *weft_worker_new(int id, void *owner);
int weft_worker_start(struct weft_worker *w, bool pin_cpu); /* starts the thread; -errno */
/* Runs fn(w, arg) on w's thread, in order, soon; any thread. Never fails; wakes w once for many
 * posts. */
void weft_worker_post(struct weft_worker *w, void (*fn)(struct weft_worker *w, void *arg),
		      void *arg);
int weft_worker_run(struct weft_worker *w);   /* the loop, on the calling thread, until stop */
void weft_worker_stop(struct weft_worker *w); /* any thread */
struct weft_worker *weft_worker_self(void);   /* whose loop runs on this thread; NULL: none */
void weft_worker_join(struct weft_worker *w);
/* Runs what was posted, here and now; its thread is not running, or is this one. */
void weft_worker_flush(struct weft_worker *w);
void weft_worker_free(struct weft_worker *w); /* after join; pending posts are run first */
/* What a part of the program keeps for each worker: zeroed, made when first asked for, by the
 * address of a static description. w's thread (or before it starts). done (may be NULL): with w,
 * while its loop is still there. */
struct weft_worker_part {
	size_t size;
	void (*done)(struct weft_worker *w, void *part);
};
void *weft_worker_part(struct weft_worker *w, const struct weft_worker_part *what);
uint64_t weft_now_ns(void); /* CLOCK_MONOTONIC */
uint64_t weft_rand64(void); /* per-thread PRNG seeded from getrandom; not for secrets */
