/* The retry gate of a cluster's circuit breakers: max_retries, or a budget relative to the requests
 * that are open. */
#pragma once
#include "proxy/upstream/cluster.h"

/* A place for a retry, or false: none is left. Any thread. Give it back when the retry has its
 * answer or failed. */
bool weft_breaker_retry_take(struct weft_cluster *c, enum weft_priority p);
void weft_breaker_retry_give(struct weft_cluster *c, enum weft_priority p);
