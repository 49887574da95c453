/* Retry policies as compiled from routes and virtual hosts, and from x-envoy-retry-* headers.
 * Immutable. */
#pragma once
#include "proxy/policy/match.h"
#include "proxy/session/session.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/route/v3/route_components.pb-c.h"

enum weft_retry_on { /* bits */
		     WEFT_RETRY_5XX = 1 << 0,
		     WEFT_RETRY_GATEWAY_ERROR = 1 << 1,
		     WEFT_RETRY_RESET = 1 << 2,
		     WEFT_RETRY_CONNECT_FAILURE = 1 << 3,
		     WEFT_RETRY_RETRIABLE_4XX = 1 << 4,
		     WEFT_RETRY_REFUSED_STREAM = 1 << 5,
		     WEFT_RETRY_STATUS_CODES = 1 << 6,
		     WEFT_RETRY_HEADERS = 1 << 7,
		     WEFT_RETRY_RATELIMITED = 1 << 8,
		     WEFT_RETRY_RESET_BEFORE_REQUEST = 1 << 9,
		     WEFT_RETRY_GRPC_CANCELLED = 1 << 10,
		     WEFT_RETRY_GRPC_DEADLINE = 1 << 11,
		     WEFT_RETRY_GRPC_INTERNAL = 1 << 12,
		     WEFT_RETRY_GRPC_EXHAUSTED = 1 << 13,
		     WEFT_RETRY_GRPC_UNAVAILABLE = 1 << 14,
};
struct weft_retry_policy {
	uint32_t on;
	uint32_t retries;		     /* 1 */
	int64_t per_try_ms, per_try_idle_ms; /* 0: none */
	uint64_t base_ms, max_ms;	     /* 25, 250 */
	const uint32_t *codes;
	size_t n_codes;
	const struct weft_hdrmatch *headers, *request_headers;
	size_t n_headers, n_request_headers;
	const struct weft_retry_reset {
		const char *name;
		size_t name_n;
		bool unix_time;
	} *resets; /* rate limited back-off */
	size_t n_resets;
	uint64_t resets_max_ms;
	bool not_previous_hosts, not_canary, previous_priorities;
	const Envoy__Config__Core__V3__Metadata
		*not_metadata;	 /* hosts with all of it are not taken; NULL */
	uint32_t priority_every; /* update_frequency */
	uint32_t host_attempts;	 /* 1 */
};
int weft_retry_prepare(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Route__V3__RetryPolicy *m,
		       const struct weft_retry_policy **ret);
/* Bits of "5xx,reset"; unknown words are skipped, *ret_unknown (may be NULL) is the first of them.
 */
uint32_t weft_retry_on_parse(const char *s, size_t n, const char **ret_unknown,
			     size_t *ret_unknown_n);
uint32_t weft_retry_grpc_on_parse(const char *s, size_t n);
