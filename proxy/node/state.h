/* Configuration by xDS → model and certificates → workers. Main thread. */
#pragma once
#include "proxy/node/node_priv.h"
#include "xds/client.h"

enum { WEFT_PUBLISH_JOIN_MS = 50 }; /* changes within this time reach workers together */

struct weft_state *weft_state_new(struct weft_node *n, const char *xds_path);
void weft_state_free(struct weft_state *s);
/* Starts the client at the first call; later calls only check that nothing changed. */
void weft_state_welcome(struct weft_state *s, const char *node, const char *network);
void weft_state_publish(struct weft_state *s); /* now, instead of within the join time */

const struct weft_model *weft_state_model(const struct weft_state *s);	   /* borrowed */
const struct weft_secrets *weft_state_secrets(const struct weft_state *s); /* borrowed */
bool weft_state_ready(const struct weft_state *s); /* every type was acked in full, and published */
bool weft_state_connected(const struct weft_state *s);
uint64_t weft_state_rejected(const struct weft_state *s); /* resources, since start */
const char *weft_state_last_reject(const struct weft_state *s);
