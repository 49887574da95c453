/* A plaintext stream socket with an evbuffer each way, for control traffic (xDS, admin, metrics):
 * not the byte path. One thread. */
#pragma once
#include <event2/buffer.h>
#include <stdbool.h>
#include <stddef.h>

struct event_base;
struct weft_conn;
struct weft_conn_ops {
	void (*readable)(struct weft_conn *c); /* bytes were added to weft_conn_in */
	void (*drained)(struct weft_conn *c);  /* out is empty again; may be NULL */
	/* 0: the peer closed, or close_after_flush is done; else -errno (-ETIMEDOUT: idle). c is
	 * freed after it. */
	void (*closed)(struct weft_conn *c, int err);
};
enum { WEFT_CONN_IN_MAX = 1 << 20 }; /* reading stops while in holds more */
/* Takes fd (non-blocking, connected or connecting). owner's lifetime is the caller's. idle_ms 0:
 * none. */
struct weft_conn *weft_conn_new(struct event_base *base, int fd, const struct weft_conn_ops *ops,
				void *owner, unsigned idle_ms);
struct evbuffer *weft_conn_in(struct weft_conn *c);
struct evbuffer *weft_conn_out(struct weft_conn *c);
/* Writes what it can now, the rest later. Never calls ops: drained and closed come from the loop.
 */
void weft_conn_flush(struct weft_conn *c);
/* No more readable(); when out is written: FIN, up to 1 s for the peer's, then closed(c, 0). */
void weft_conn_close_after_flush(struct weft_conn *c);
void weft_conn_free(struct weft_conn *c); /* at once, without closed(); allowed inside callbacks */
void *weft_conn_owner(const struct weft_conn *c);
int weft_conn_fd(const struct weft_conn *c);
