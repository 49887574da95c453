#include "proxy/waypoint/xds_stats.h"

#include "proxy/core/scope.h"
#include <stdio.h>

static const char *name_of(char *dst, size_t cap, const char *prefix, const char *what)
{
	snprintf(dst, cap, "%s%s", prefix, what);
	return dst;
}

void xds_stats_put(const char *prefix, const struct weft_xds_watch *w, struct weft_xds_stat *last)
{
	const struct weft_xds_stat now = weft_xds_watch_stat(w);
	const struct {
		const char *name;
		uint64_t now, last;
	} counters[] = {
		{"update_attempt", now.update_attempt, last->update_attempt},
		{"update_success", now.update_success, last->update_success},
		{"update_failure", now.update_failure, last->update_failure},
		{"update_rejected", now.update_rejected, last->update_rejected},
		{"init_fetch_timeout", now.init_fetch_timeout, last->init_fetch_timeout},
	};
	char name[256];

	/* added, so that /reset_counters holds */
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		weft_scope_global_add(name_of(name, sizeof(name), prefix, counters[i].name),
				      WEFT_COUNTER, (int64_t)(counters[i].now - counters[i].last));
	weft_scope_global_set(name_of(name, sizeof(name), prefix, "version"), WEFT_GAUGE,
			      (int64_t)now.version);
	weft_scope_global_set(name_of(name, sizeof(name), prefix, "update_time"), WEFT_GAUGE,
			      (int64_t)now.update_time_ms);
	*last = now;
}
