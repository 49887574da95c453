/* The header grpc-timeout: up to eight digits and a unit. */
#pragma once
#include "proxy/session/headers.h"

/* Of the request, in ms, rounded up; -1: none, or not one that can be read. */
int64_t weft_grpc_timeout(const struct weft_headers *h);
void weft_grpc_timeout_set(struct weft_headers *h, uint64_t ms);
