/* Outlier detection: hosts whose answers are bad are left out for a while. What requests met is
 * counted in the host by whoever made them; decisions are made on the main thread. */
#pragma once
#include "proxy/upstream/cluster_priv.h"

struct weft_outlier;
/* From cl->msg->outlier_detection into cl->outlier; 0 or -EINVAL. */
int weft_outlier_prepare(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl);
/* Gives h the state that weft_host_outcome counts in; before h is shared. */
void weft_outlier_host_init(struct weft_host *h);

/* ---- main thread. changed(): flags of h changed: the cluster's balancer wants to be made anew. */
struct weft_outlier *weft_outlier_start(struct event_base *base, struct weft_cluster *cl,
					void (*changed)(void *owner, struct weft_host *h),
					void *owner);
/* From now on a line of JSON for each ejection and each end of one. */
void weft_outlier_tell(struct weft_outlier *o,
		       void (*event)(void *owner, const char *line, size_t n), void *owner);
void weft_outlier_hosts(struct weft_outlier *o, struct weft_hosts *hosts);
/* A worker saw a run of failures: decides. */
void weft_outlier_look(struct weft_outlier *o, struct weft_host *h);
/* An active check of h succeeded: successful_active_health_check_uneject_host. */
void weft_outlier_checked(struct weft_outlier *o, struct weft_host *h);
/* Of h in the last interval, 0..100; -1: too few requests. Main thread. */
double weft_outlier_success_rate(const struct weft_host *h, bool local_origin);
void weft_outlier_stop(struct weft_outlier *o); /* NULL is fine */
