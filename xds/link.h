/* HTTP/2 on a control connection: socket, session, handshake limit, keepalive. Shared by the ADS
 * server and client. One thread. */
#pragma once
#include "proxy/codec/h2.h"
#include <stdbool.h>

struct event_base;
struct weft_xds_link;

struct weft_xds_times {	    /* ms; 0: the default */
	unsigned handshake; /* until the peer's SETTINGS; 10,000 */
	unsigned ping;	    /* silence before a PING; 30,000 */
	unsigned pong;	    /* silence after it; 10,000 */
};
struct weft_xds_link_conf {
	struct weft_h2_conf h2;
	const struct weft_h2_ops
		*ops; /* its settings() calls weft_xds_link_up; the session's owner is `owner` */
	struct weft_xds_times times;
	/* The connection is of no more use. Never within a callback of ops. Told once; link is to
	 * be freed, here or later. */
	void (*down)(void *owner, const char *why);
	void *owner;
};
/* Takes fd: non-blocking, connected. conf is copied. */
struct weft_xds_link *weft_xds_link_new(struct event_base *base, int fd,
					const struct weft_xds_link_conf *conf);
/* The same over io, ready or still connecting; io is taken, its ops are replaced. */
struct weft_io;
struct weft_xds_link *weft_xds_link_over(struct event_base *base, struct weft_io *io,
					 const struct weft_xds_link_conf *conf);
void weft_xds_link_free(struct weft_xds_link *l); /* not within a callback of ops; NULL is fine */
struct weft_h2 *weft_xds_link_h2(struct weft_xds_link *l);
void weft_xds_link_up(struct weft_xds_link *l);
void weft_xds_link_push(
	struct weft_xds_link *l); /* sends soon what the session has; from anywhere */
void weft_xds_link_drop(struct weft_xds_link *l,
			const char *why); /* down() follows soon; from anywhere; why is static */
