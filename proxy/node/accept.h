/* Listeners of this node's pods: accepts in small batches and deals connections out. Worker thread.
 */
#pragma once
#include "proxy/node/conns.h"

enum { WEFT_ACCEPT_BATCH = 32, WEFT_ACCEPT_PAUSE_MS = 100 };

/* fd is taken; peer: its address as accept told it. */
void weft_outbound_accept(struct weft_wstate *ws, struct weft_npod *pod, int fd,
			  const struct weft_sockaddr *peer);
void weft_inbound_accept(struct weft_wstate *ws, struct weft_npod *pod, int fd,
			 const struct weft_sockaddr *peer);
void weft_plain_accept(struct weft_wstate *ws, struct weft_npod *pod, int fd,
		       const struct weft_sockaddr *peer);
void weft_listeners_close(struct weft_wstate *ws, const struct weft_npod *pod); /* NULL: all */
bool weft_port_illegal(uint16_t port);

/* ---- inbound.c */
void weft_inbound_drop(struct weft_wstate *ws, const struct weft_npod *pod,
		       enum weft_reason r); /* NULL: all */
void weft_inbound_drain(struct weft_wstate *ws);
void weft_inbound_cert(struct weft_wstate *ws, const char *identity);
