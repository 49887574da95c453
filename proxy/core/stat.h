/* Counters and gauges with labels, Prometheus text. Series are made on first use and may expire
 * when idle. add/set: any thread, relaxed atomics, no lock. get: takes the family's lock; keep the
 * pointer with the connection. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct evbuffer;
enum weft_stat_kind { WEFT_STAT_COUNTER, WEFT_STAT_GAUGE };
struct weft_stat_family;
struct weft_stat; /* one series; refcounted */

/* name without _total (added on exposition for counters); help ends without a full stop; static
 * strings. label_names: NULL-terminated. Never freed. */
struct weft_stat_family *weft_stat_family_new(const char *name, const char *help,
					      enum weft_stat_kind kind,
					      const char *const *label_names);
/* values: one per label name; an empty value leaves the label out. Returns a reference. At most
 * 100,000 series a family; beyond that one series with every label "overflow" is shared and
 * weft_stat_overflow counts. */
struct weft_stat *weft_stat_get(struct weft_stat_family *f, const char *const *values);
void weft_stat_unref(struct weft_stat *s);
void weft_stat_add(struct weft_stat *s, int64_t n);
void weft_stat_set(struct weft_stat *s, int64_t v);
int64_t weft_stat_value(const struct weft_stat *s);
/* Drops series that nobody references and that did not change for idle_ms. Main thread. */
void weft_stat_expire(uint64_t idle_ms);
/* All families, text format 0.0.4 or OpenMetrics (ends "# EOF\n"). Main thread. */
void weft_stat_print(struct evbuffer *out, int openmetrics);
