/* The ordered end: not ready, no new connections, wait for those that live, force, done. Main
 * thread. */
#pragma once
#include "proxy/node/node_priv.h"

struct weft_drain;
/* Nothing happens before begin. done is called once, when no connection is left or all were forced.
 */
struct weft_drain *weft_drain_new(struct weft_node *n, void (*done)(void *owner), void *owner);
void weft_drain_free(struct weft_drain *d);
void weft_drain_start(struct weft_drain *d); /* the second time: forces at once */
