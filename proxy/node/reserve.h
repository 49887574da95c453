/* Main thread's half of the stock: what the broker gave ahead of need, a pod and kind; workers'
 * stocks are filled from it. */
#pragma once
#include "proxy/node/node.h"

struct weft_node;
struct weft_reserve;

enum {
	WEFT_WANT_MAX = 32,	/* sockets a Want */
	WEFT_WANT_INFLIGHT = 8, /* Wants without an answer, a pod and kind */
	WEFT_WANT_ANSWER_MS = 10000
};

struct weft_reserve_conf {
	unsigned min, max; /* sockets kept, a pod and kind; grows from min to max with the rate they
			      are taken at */
	unsigned total; /* kept in all; above it only what is waited for is asked of the broker */
	/* The kernel gives the lowest free descriptor: one from here on says that few are left, and
	 * for a few seconds nothing is kept ahead. 0: no such limit. */
	int fd_tight;
	/* Asks the broker; 0 or -errno (then asked again when the link is up). */
	int (*want)(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count);
	void *owner;
};
struct weft_reserve_count {
	unsigned kept, target, asked, waiting;
};

struct weft_reserve *weft_reserve_new(struct weft_node *n, const struct weft_reserve_conf *conf);
void weft_reserve_free(struct weft_reserve *r);
void weft_reserve_pod_add(struct weft_reserve *r,
			  struct weft_npod *p); /* starts a stock for its address families */
void weft_reserve_pod_del(struct weft_reserve *r, struct weft_npod *p);
/* A worker asks; it gets what is there at once and the rest when the broker gave it. */
void weft_reserve_demand(struct weft_reserve *r, struct weft_npod *p, enum weft_sock_kind k,
			 unsigned worker, unsigned count);
/* A worker hands back; takes fd. */
void weft_reserve_put(struct weft_reserve *r, struct weft_npod *p, enum weft_sock_kind k, int fd);
/* The broker's answer to the oldest Want; takes the fds. failed: it gave none because of an error.
 */
void weft_reserve_got(struct weft_reserve *r, struct weft_npod *p, enum weft_sock_kind k,
		      const int *fds, unsigned n, bool failed);
void weft_reserve_link(struct weft_reserve *r, bool up);
/* Once a second: follows the rate, closes what is too much. -ETIMEDOUT: the broker did not answer a
 * Want in time. */
int weft_reserve_tick(struct weft_reserve *r, uint64_t now_ns);
void weft_reserve_count(const struct weft_reserve *r, const struct weft_npod *p,
			enum weft_sock_kind k, struct weft_reserve_count *ret);
