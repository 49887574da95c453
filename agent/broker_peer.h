/* One connection of a proxy to the broker: datagrams with descriptors, queued when the peer is
 * slow. Main thread. */
#pragma once
#include "proxy/core/err.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

struct event_base;
enum {
	WEFT_BROKER_MSG_MAX = 8192,
	WEFT_BROKER_FDS_MAX = 64,
	WEFT_BROKER_SEND_FDS = 32,
	WEFT_BROKER_QUEUE_MAX = 16384
};

struct weft_bpeer;
struct weft_bpeer_ops {
	/* One datagram. Takes fds. Negative: the peer broke a rule and is closed; *reterr says
	 * which. */
	int (*message)(void *owner, const uint8_t *p, size_t n, int *fds, unsigned n_fds,
		       struct weft_err *reterr);
	/* Closed by the peer (code 0), by a broken rule or an error. Must free the peer; the last
	 * call. */
	void (*closed)(void *owner, const struct weft_err *why);
};
struct weft_bpeer *weft_bpeer_new(struct event_base *base, int fd, const struct weft_bpeer_ops *ops,
				  void *owner); /* takes fd */
void weft_bpeer_free(struct weft_bpeer *p);	/* allowed inside callbacks */
/* fds: duplicated where the message must wait; the caller keeps its own. n_fds <= 32. A peer that
 * does not read is closed, later. */
void weft_bpeer_send(struct weft_bpeer *p, const ProtobufCMessage *m, const int *fds,
		     unsigned n_fds);
unsigned weft_bpeer_queued(const struct weft_bpeer *p);
void weft_bpeer_cut(struct weft_bpeer *p,
		    const struct weft_err *why); /* closed() follows from the loop */
