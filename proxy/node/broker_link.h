/* One SOCK_SEQPACKET connection to the agent's broker: whole messages with descriptors, both ways,
 * never blocking. Main thread. */
#pragma once
#include "proxy/core/err.h"
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct weft_broker_link;

enum { WEFT_BROKER_MSG_MAX = 8192, WEFT_BROKER_FDS_MAX = 64, WEFT_BROKER_QUEUE_MAX = 16384 };

struct weft_broker_link_ops {
	/* The descriptors are the callee's. -errno with reterr: the link is given up, lost()
	 * follows. */
	int (*message)(void *owner, const uint8_t *p, size_t n, const int *fds, size_t n_fds,
		       struct weft_err *reterr);
	/* The link is over and must be freed here or later; why tells. Never called from inside
	 * connect, send or free. */
	void (*lost)(void *owner, const struct weft_err *why);
};
/* Connects at once (a unix socket does) or fails. */
int weft_broker_link_open(struct event_base *base, const char *path,
			  const struct weft_broker_link_ops *ops, void *owner,
			  struct weft_broker_link **ret, struct weft_err *reterr);
/* Takes fd already connected; for tests. */
struct weft_broker_link *weft_broker_link_new(struct event_base *base, int fd,
					      const struct weft_broker_link_ops *ops, void *owner);
void weft_broker_link_free(struct weft_broker_link *l);
/* Sends or queues a copy. fd (-1: none) stays the caller's. A link that breaks tells it by lost(),
 * in the next turn. */
void weft_broker_link_send(struct weft_broker_link *l, const uint8_t *p, size_t n, int fd);
