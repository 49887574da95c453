/* Ejections as lines of JSON: envoy.data.cluster.v3.OutlierDetectionEvent as Envoy writes it. */
#include "proxy/core/worker.h"
#include "proxy/upstream/outlier_priv.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { NAME = 1024 };

/* Whole UTF-8 goes as it is; cut where it does not fit. */
static const char *quoted(const char *s, char dst[NAME])
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;

	for (; *s && n + 7 < NAME; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\') {
			dst[n++] = '\\';
			dst[n++] = (char)c;
		} else if (c < 0x20 || c == 0x7f) {
			memcpy(dst + n, "\\u00", 4);
			dst[n + 4] = hex[c >> 4];
			dst[n + 5] = hex[c & 15];
			n += 6;
		} else {
			dst[n++] = (char)c;
		}
	}
	dst[n] = 0;
	return dst;
}

static void when(char *dst, size_t n)
{
	struct timespec now;
	struct tm tm;
	size_t k;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	k = strftime(dst, n, "%Y-%m-%dT%H:%M:%S", &tm);
	if (now.tv_nsec >= 1000000)
		k += (size_t)snprintf(dst + k, n - k, ".%03ld", now.tv_nsec / 1000000);
	snprintf(dst + k, n - k, "Z");
}

/* What the kind of ejection was decided by. */
static void why(const struct outlier_event *e, char *dst, size_t n)
{
	*dst = 0;
	if (!e->eject)
		return;
	if (e->by == OUTLIER_BY_RATE)
		snprintf(dst, n,
			 ",\"eject_success_rate_event\":{\"host_success_rate\":%u,"
			 "\"cluster_average_success_rate\":%u,"
			 "\"cluster_success_rate_ejection_threshold\":%u}",
			 (unsigned)e->rate, (unsigned)e->mean,
			 e->threshold > 0 ? (unsigned)e->threshold : 0);
	else if (e->by == OUTLIER_BY_FAILURES)
		snprintf(dst, n, ",\"eject_failure_percentage_event\":{\"host_success_rate\":%u}",
			 (unsigned)e->rate);
	else
		snprintf(dst, n, ",\"eject_consecutive_event\":{}");
}

size_t outlier_event_line(const struct outlier_event *e, char dst[OUTLIER_LINE])
{
	char cluster[NAME], host[NAME], time[40], since[64] = "", reason[256];
	int n;

	when(time, sizeof(time));
	why(e, reason, sizeof(reason));
	if (e->last_ns)
		snprintf(since, sizeof(since), "\"secs_since_last_action\":\"%llu\",",
			 (unsigned long long)((weft_now_ns() - e->last_ns) / 1000000000));
	n = snprintf(dst, OUTLIER_LINE,
		     "{\"type\":\"%s\",\"timestamp\":\"%s\",%s\"cluster_name\":\"%s\","
		     "\"upstream_url\":\"%s\",\"action\":\"%s\",\"num_ejections\":%u,"
		     "\"enforced\":%s%s}\n",
		     e->type, time, since, quoted(e->cluster, cluster), quoted(e->host, host),
		     e->eject ? "EJECT" : "UNEJECT", e->times, e->enforced ? "true" : "false",
		     reason);
	return (size_t)n;
}
