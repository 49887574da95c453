/* Envoy's statistics of subscriptions, put together when they are asked for. Main thread. */
#pragma once
#include "xds/source.h"

struct feeds;
struct secrets;

/* "cluster_manager.cds." and so on; last: what was put before (all 0 at first). */
void xds_stats_put(const char *prefix, const struct weft_xds_watch *w, struct weft_xds_stat *last);

void feeds_stats(struct feeds *f); /* listener_manager.lds, cluster_manager.cds, control_plane */
void secrets_stats(struct secrets *s); /* sds.NAME */
