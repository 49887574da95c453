/* HBONE: the CONNECT request's headers, parsed and written. ambient-contract §1.1. Pure. */
#pragma once
#include "proxy/codec/h2.h"
#include "proxy/core/addr.h"

enum { WEFT_HBONE_HOST_MAX = 255, WEFT_HBONE_LABEL_MAX = 253, WEFT_HBONE_HEADERS = 8 };

struct weft_baggage { /* labels only: unsigned, never for policy. Empty: unset. */
	char cluster[WEFT_HBONE_LABEL_MAX + 1], ns[WEFT_HBONE_LABEL_MAX + 1],
		workload[WEFT_HBONE_LABEL_MAX + 1], service[WEFT_HBONE_LABEL_MAX + 1],
		version[WEFT_HBONE_LABEL_MAX + 1], region[WEFT_HBONE_LABEL_MAX + 1],
		zone[WEFT_HBONE_LABEL_MAX + 1];
	char workload_type[12]; /* deployment, cronjob, pod, job */
};
struct weft_hbone_request {
	bool by_host;			    /* authority is host:port */
	struct weft_sockaddr addr;	    /* if !by_host */
	char host[WEFT_HBONE_HOST_MAX + 1]; /* if by_host, lower case */
	uint16_t port;			    /* if by_host */
	char forwarded_host[WEFT_HBONE_HOST_MAX + 1];
	char trace_id[33]; /* 32 lower-case hex, or empty */
	struct weft_baggage baggage;
};
/* 0; -EINVAL: not CONNECT, or the authority cannot be parsed (answer 400). */
int weft_hbone_parse(const struct weft_h2_headers *h, struct weft_hbone_request *ret);

struct weft_hbone_text { /* storage the written headers point into */
	struct weft_h2_header v[WEFT_HBONE_HEADERS];
	size_t n;
	char buf[2560];
};
/* Headers of a request. authority is required; baggage, forwarded_for, forwarded_host, traceparent
 * may be NULL. */
int weft_hbone_write(struct weft_hbone_text *t, const char *authority, const struct weft_baggage *b,
		     const struct weft_sockaddr *forwarded_for, const char *forwarded_host,
		     const char *traceparent);
size_t weft_baggage_text(const struct weft_baggage *b, char *dst, size_t cap);
void weft_baggage_parse(const char *s, struct weft_baggage *ret);
