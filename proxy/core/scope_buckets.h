/* Envoy's /stats?histogram_buckets=: what is printed of a histogram. Main thread. */
#pragma once
#include "proxy/core/scope.h"

enum weft_scope_buckets {
	WEFT_BUCKETS_SUMMARY,	 /* quantiles */
	WEFT_BUCKETS_CUMULATIVE, /* values up to each bound */
	WEFT_BUCKETS_DISJOINT,	 /* values between two bounds */
	WEFT_BUCKETS_DETAILED,	 /* bins as they are kept, and quantiles */
};
/* As weft_scope_text and _json. */
int weft_scope_text_as(struct evbuffer *out, const struct weft_scope_query *q,
		       enum weft_scope_buckets how);
int weft_scope_json_as(struct evbuffer *out, const struct weft_scope_query *q,
		       enum weft_scope_buckets how);
