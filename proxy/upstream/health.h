/* Active health checks, as others than the manager of clusters see them. */
#pragma once
#include "proxy/upstream/cluster.h"

/* An answer said x-envoy-immediate-health-check-fail: the host is out until a check of it succeeds.
 * Nothing where the cluster has no checks. Any thread. */
void weft_health_fail_now(struct weft_cluster *c, struct weft_host *h);
