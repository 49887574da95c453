/* What an answer tells: of its host, in numbers, in logs, and in headers of our own. */
#include "proxy/http/filters/router_priv.h"

#include "proxy/core/decimal.h"
#include "proxy/upstream/health.h"
#include <stdlib.h>
#include <string.h>

static int grpc_http_status(const struct weft_headers *h)
{
	const char *v = weft_headers_value(h, WEFT_H_GRPC_STATUS);

	switch (*v ? strtol(v, NULL, 10) : -1) {
	case 0:
		return 200;
	case 1:
		return 499;
	case 3:
	case 9:
	case 11:
		return 400;
	case 4:
		return 504;
	case 5:
		return 404;
	case 6:
	case 10:
		return 409;
	case 7:
		return 403;
	case 8:
		return 429;
	case 12:
		return 501;
	case 14:
		return 503;
	case 16:
		return 401;
	case 2:
	case 13:
	case 15:
		return 500;
	default:
		return 0;
	}
}

/* What tells of the host: of gRPC, what its own status amounts to. */
static int code_of(struct router *r, const struct weft_headers *h)
{
	int status = weft_headers_status(h),
	    grpc = weft_stream_is_grpc(r->s) ? grpc_http_status(h) : 0;

	return grpc && status == 200 ? grpc : status;
}

/* Codes and times of what the client is given: what is tried again counts as a retry only. */
void router_count_answer(struct router *r, const struct weft_headers *h, uint64_t now)
{
	struct weft_cluster *c = r->wc->cluster;
	bool quiet = r->conf->grpc_failures_quiet && weft_stream_is_grpc(r->s);
	unsigned code = quiet ? 0 : (unsigned)weft_headers_status(h);
	uint64_t ms = (now - r->try_start_ns) / 1000000;

	weft_scope_code(c->scope, code);
	router_stat_code(r, code);
	weft_scope_record(c->scope, WEFT_CLUSTER_upstream_rq_time, ms);
	if (r->route->stats)
		weft_scope_record(r->route->stats, WEFT_ROUTE_STAT_upstream_rq_time, ms);
	if (r->vc_stats)
		weft_scope_record(r->vc_stats, WEFT_ROUTE_STAT_upstream_rq_time, ms);
}

/* The host asks to be left alone until its next check says otherwise. */
static void health_said(struct router *r, struct weft_headers *h)
{
	if (!weft_headers_get(h, WEFT_H_X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL))
		return;
	weft_health_fail_now(r->wc->cluster, r->lease->host);
	weft_headers_remove_id(h, WEFT_H_X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL);
}

void router_own_headers(struct router *r, struct weft_headers *h, uint64_t now)
{
	struct weft_info *info = weft_stream_info(r->s);
	struct weft_format_in in = {.info = info, .req = r->req, .resp = h};
	char text[WEFT_DECIMAL];
	size_t n;

	if (!r->conf->suppress) {
		n = weft_decimal(text, (now - r->try_start_ns) / 1000000);
		weft_headers_set_id(h, WEFT_H_X_ENVOY_UPSTREAM_SERVICE_TIME, text, n);
	}
	if (r->route->include_attempt_count_in_response) {
		n = weft_decimal(text, r->tries);
		weft_headers_set_id(h, WEFT_H_X_ENVOY_ATTEMPT_COUNT, text, n);
	}
	if (r->set_cookie)
		weft_headers_add_id(h, WEFT_H_SET_COOKIE, r->set_cookie, strlen(r->set_cookie));
	weft_route_response(r->route, r->weighted, &in, h);
}

void router_host_answered(struct router *r, struct weft_headers *h)
{
	weft_host_outcome(r->wc, r->lease->host, WEFT_OUT_CODE, code_of(r, h));
	health_said(r, h);
}

void router_note_upstream(struct router *r)
{
	struct weft_info *info = weft_stream_info(r->s);
	const struct weft_io_info *io = weft_io_info(weft_session_io(r->lease->session));

	weft_info_upstream(info, io);
	info->up_tls = weft_info_keep_tls(info->arena, io->tls); /* logs may outlive it */
	info->up_protocol =
		weft_session_version(r->lease->session) == WEFT_HTTP_2 ? "HTTP/2" : "HTTP/1.1";
}

void router_adopted(struct router *r)
{
	struct weft_info *info = weft_stream_info(r->s);
	uint64_t ready_ns = info->up_ready_ns; /* the last attempt's */

	router_note_upstream(r);
	info->up_ready_ns = ready_ns;
}
