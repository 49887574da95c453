/* Active health checks, as others than the manager of clusters see them. */
#pragma once
#include "proxy/upstream/cluster.h"

/* An answer said x-envoy-immediate-health-check-fail: the host is out until a check of it succeeds.
 * Nothing where the cluster has no checks. Any thread. */
void weft_health_fail_now(struct weft_cluster *c, struct weft_host *h);

/* Files that events of checks are written to (event_log_path, the file sink of event_logger): the
 * program opens and writes them. Main thread. */
struct weft_event_files {
	/* A reference of the one for this path; NULL: it cannot be opened. */
	void *(*open)(const char *path, struct weft_err *reterr);
	void (*put)(void *file, const char *line, size_t n);
	void (*close)(void *file);
};
/* Once, before there are clusters; without it events go nowhere. */
void weft_health_events_to(const struct weft_event_files *f);
