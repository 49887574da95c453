/* What the files of the byte path share on a worker: the list of users' connections, work put off
 * to the end of a loop turn, and waits for a pod's workload. Everything here is of one worker's
 * thread. */
#pragma once
#include "proxy/node/node.h"
#include "proxy/policy/authz.h"
#include <event2/event.h>
#include <sys/queue.h>

enum { WEFT_TICK_MS = 5000, WEFT_WALK_BATCH = 1000 };

/* ---- one user's connection; embedded in outbound's and inbound's */
struct weft_live {
	TAILQ_ENTRY(weft_live) next;
	struct weft_wstate *ws;
	struct weft_npod *pod; /* a reference */
	struct weft_flow flow;
	uint64_t ticked; /* bytes when last told */
	bool opened;	 /* weft_flow_open was called */
	bool checked;	 /* inbound: q was allowed; is asked again when policy changes */
	struct weft_sockaddr q_dst;
	/* Ends it at once: resets both sides, calls weft_live_end, frees itself and no other. */
	void (*cut)(struct weft_live *l, enum weft_reason r, const char *detail);
};
/* Registers it and starts its flow. False: conf.max_conns is reached; the caller ends it with
 * LIMIT. */
bool weft_live_begin(struct weft_live *l, struct weft_wstate *ws, struct weft_npod *pod,
		     bool inbound);
void weft_live_opened(struct weft_live *l);
void weft_live_end(struct weft_live *l, enum weft_reason r, const char *detail);
/* To another worker: leave on the old thread, join on the new one. */
void weft_live_leave(struct weft_live *l);
void weft_live_join(struct weft_live *l, struct weft_wstate *ws);
/* Inbound: may flow.src with identity flow.src_id (empty: none) reach dst at pod? Remembered for
 * later changes. */
enum weft_reason weft_live_check(struct weft_live *l, const struct weft_workload *w,
				 const struct weft_sockaddr *dst);

/* ---- end of the loop turn */
struct weft_turn {
	TAILQ_ENTRY(weft_turn) next;
	bool soon, later; /* which list it is on */
	void (*run)(struct weft_turn *t);
};
void weft_turn_soon(struct weft_wstate *ws,
		    struct weft_turn *t); /* after the events of this turn */
void weft_turn_next(struct weft_wstate *ws,
		    struct weft_turn *t); /* after the sockets were polled again */
void weft_turn_cancel(struct weft_wstate *ws, struct weft_turn *t);

/* ---- a pod's workload in the model */
const struct weft_workload *weft_conns_workload(const struct weft_wstate *ws,
						const struct weft_npod *pod); /* or NULL */
struct weft_wwait;
/* Waits up to conf.workload_wait_ms; got(NULL): it did not come. got is not called from within.
 * Freed by got's caller. */
struct weft_wwait *weft_wwait_new(struct weft_wstate *ws, struct weft_npod *pod,
				  void (*got)(void *arg, const struct weft_workload *w), void *arg);
void weft_wwait_free(struct weft_wwait *x);

struct weft_conns *
weft_conns_get(struct weft_wstate *ws); /* made at the first call; each get needs a put */
void weft_conns_put(struct weft_wstate *ws);
struct weft_listeners;
struct weft_listeners **weft_conns_listeners(struct weft_wstate *ws); /* accept.c's */
void weft_conns_recheck(struct weft_wstate *ws);
void weft_conns_model(struct weft_wstate *ws); /* wakes waits */
void weft_conns_cut(struct weft_wstate *ws, const struct weft_npod *p,
		    enum weft_reason r); /* p NULL: all */
