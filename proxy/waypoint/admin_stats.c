/* /stats, and the numbers of the process itself. */
#include "proxy/core/scope_buckets.h"
#include "proxy/core/version.h"
#include "proxy/waypoint/admin_priv.h"
#include "proxy/waypoint/xds_stats.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FLUSH_S = 5 };

uint64_t waypoint_rss(void)
{
	unsigned long size, rss = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%lu %lu", &size, &rss) != 2)
		rss = 0;
	(void)fclose(f);
	return (uint64_t)rss * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void refresh(struct waypoint *w)
{
	size_t warming, active = listeners_count(w->listeners, &warming);
	struct mallinfo2 mi = mallinfo2();
	enum waypoint_state s = waypoint_state(w);
	static const int states[] = {2, 3, 0, 1}; /* ServerInfo.State */
	unsigned major = 0, minor = 0, patch = 0;

	if (sscanf(WEFT_VERSION, "%u.%u.%u", &major, &minor, &patch) < 1)
		major = 0;
	weft_scope_global_set("server.live", WEFT_GAUGE, s == WAYPOINT_LIVE);
	weft_scope_global_set("server.state", WEFT_GAUGE, states[s]);
	weft_scope_global_set("server.uptime", WEFT_GAUGE,
			      (int64_t)((weft_now_ns() - w->start_ns) / 1000000000));
	weft_scope_global_set("server.concurrency", WEFT_GAUGE, (int64_t)w->n_workers);
	weft_scope_global_set("server.version", WEFT_GAUGE,
			      (int64_t)(major * 10000 + minor * 100 + patch));
	weft_scope_global_set("server.total_connections", WEFT_GAUGE, (int64_t)w->connections);
	weft_scope_global_set("server.memory_allocated", WEFT_GAUGE,
			      (int64_t)(mi.uordblks + mi.hblkhd));
	weft_scope_global_set("server.memory_heap_size", WEFT_GAUGE,
			      (int64_t)(mi.arena + mi.hblkhd));
	weft_scope_global_set("server.memory_physical_size", WEFT_GAUGE, (int64_t)waypoint_rss());
	weft_scope_global_set("server.hot_restart_epoch", WEFT_GAUGE, 0);
	weft_scope_global_set("server.parent_connections", WEFT_GAUGE, 0);
	weft_scope_global_set("server.days_until_first_cert_expiring", WEFT_GAUGE,
			      waypoint_cert_days(w));
	weft_scope_global_set("listener_manager.total_listeners_active", WEFT_GAUGE,
			      (int64_t)active);
	weft_scope_global_set("listener_manager.total_listeners_warming", WEFT_GAUGE,
			      (int64_t)warming);
	weft_scope_global_set("listener_manager.workers_started", WEFT_GAUGE, w->started);
	if (w->feeds)
		feeds_stats(w->feeds);
	secrets_stats(w->secrets);
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
	refresh(arg);
	weft_scope_flush();
}

void waypoint_stats_start(struct waypoint *w)
{
	static const char *const zero[] = {
		"listener_manager.listener_added",
		"listener_manager.listener_modified",
		"listener_manager.listener_removed",
		"listener_manager.listener_create_success",
		"listener_manager.listener_create_failure",
		"cluster_manager.cluster_added",
		"cluster_manager.cluster_modified",
		"cluster_manager.cluster_removed",
	};
	const struct timeval tv = {.tv_sec = FLUSH_S};
	size_t i;

	for (i = 0; i < sizeof(zero) / sizeof(*zero); i++)
		weft_scope_global_add(zero[i], WEFT_COUNTER, 0);
	w->flush = event_new(w->main->base, -1, EV_PERSIST, on_flush, w);
	if (!w->flush || event_add(w->flush, &tv))
		abort(); /* memory is out */
	refresh(w);
}

/* What Envoy's parameters ask; 0, or the status that was answered. */
static int query(const struct areq *r, struct weft_scope_query *q, enum weft_scope_buckets *ret_how)
{
	static const enum weft_scope_buckets hows[] = {WEFT_BUCKETS_CUMULATIVE,
						       WEFT_BUCKETS_DISJOINT, WEFT_BUCKETS_DETAILED,
						       WEFT_BUCKETS_SUMMARY, WEFT_BUCKETS_SUMMARY};
	static const char *const hiddens[] = {"include", "only", "exclude"};
	static const char *const types[] = {"All", "Counters", "Histograms", "Gauges",
					    "TextReadouts"};
	static const char *const buckets[] = {"cumulative", "disjoint", "detailed", "summary",
					      "none"};
	const char *b = areq_param(r, "histogram_buckets"), *hidden = areq_param(r, "hidden");
	size_t i;

	*q = (struct weft_scope_query){.used_only = areq_param(r, "usedonly") != NULL,
				       .filter = areq_param(r, "filter"),
				       .type = areq_param(r, "type")};
	if (q->filter && !*q->filter)
		q->filter = NULL;
	if (q->type && !*q->type)
		q->type = NULL;
	for (i = 0; q->type && i < sizeof(types) / sizeof(*types); i++)
		if (!strcmp(q->type, types[i]))
			break;
	if (q->type && i == sizeof(types) / sizeof(*types))
		return areq_text(r, 400, "invalid &type= param\n");
	for (i = 0; b && i < sizeof(buckets) / sizeof(*buckets); i++)
		if (!strcmp(b, buckets[i]))
			break;
	if (b && i == sizeof(buckets) / sizeof(*buckets))
		return areq_text(r, 400,
				 "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|"
				 "summary)\n\n");
	*ret_how = b ? hows[i] : WEFT_BUCKETS_SUMMARY;
	for (i = 0; hidden && i < sizeof(hiddens) / sizeof(*hiddens); i++)
		if (!strcmp(hidden, hiddens[i])) /* no statistic of ours is hidden */
			break;
	if (hidden && i == sizeof(hiddens) / sizeof(*hiddens))
		return areq_text(r, 400, "usage: /stats?hidden=(include|only|exclude)\n\n");
	return 0;
}

int admin_prometheus(struct areq *r)
{
	enum weft_scope_buckets how;
	struct weft_scope_query q;
	int status = query(r, &q, &how);

	if (status)
		return status;
	refresh(r->w);
	if (weft_scope_prometheus(r->out, &q))
		return areq_text(r, 400, "Invalid regex\n");
	*r->ret_type = "text/plain; version=0.0.4; charset=utf-8";
	return 200;
}

int admin_stats(struct areq *r)
{
	const char *format = areq_param(r, "format");
	enum weft_scope_buckets how;
	struct weft_scope_query q;
	int status;

	if (format && !strcmp(format, "prometheus"))
		return admin_prometheus(r);
	if (format && *format && strcmp(format, "text") && strcmp(format, "json"))
		return areq_text(r, 400, "usage: /stats?format=(json|prometheus|text)\n\n");
	status = query(r, &q, &how);
	if (status)
		return status;
	refresh(r->w);
	if (format && !strcmp(format, "json")) {
		status = weft_scope_json_as(r->out, &q, how);
		*r->ret_type = "application/json";
	} else {
		status = weft_scope_text_as(r->out, &q, how);
	}
	if (!status)
		return 200;
	*r->ret_type = "text/plain; charset=utf-8";
	return areq_text(r, 400, "Invalid regex\n");
}
