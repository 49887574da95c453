/* What inbound.c and plain.c share: how a connection from outside reaches the app. */
#pragma once
#include "proxy/node/conns.h"

/* Fills peer, workload and service of an inbound flow, as far as the model knows them. w: the local
 * workload; host: the service the client meant, or "". */
void weft_inbound_label(struct weft_live *l, const struct weft_workload *w, const char *host);
