/* Retry policies as compiled from routes and virtual hosts, and from x-envoy-retry-* headers. */
#pragma once
#include "proxy/session/session.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/route/v3/route_components.pb-c.h"

enum weft_retry_on { /* bits; retry_on texts in retry.c */
		     WEFT_RETRY_5XX = 1,
		     WEFT_RETRY_GATEWAY_ERROR = 2,
		     WEFT_RETRY_RESET = 4,
		     WEFT_RETRY_CONNECT_FAILURE = 8,
		     WEFT_RETRY_RETRIABLE_4XX = 16,
		     WEFT_RETRY_REFUSED_STREAM = 32,
		     WEFT_RETRY_STATUS_CODES = 64,
		     WEFT_RETRY_HEADERS = 128,
		     WEFT_RETRY_ENVOY_RATELIMITED = 256,
		     WEFT_RETRY_HTTP3_POST_CONNECT = 512,
		     WEFT_RETRY_GRPC_CANCELLED = 1024,
		     WEFT_RETRY_GRPC_DEADLINE = 2048,
		     WEFT_RETRY_GRPC_INTERNAL = 4096,
		     WEFT_RETRY_GRPC_EXHAUSTED = 8192,
		     WEFT_RETRY_GRPC_UNAVAILABLE = 16384,
		     WEFT_RETRY_RESET_BEFORE_REQUEST = 32768,
};
