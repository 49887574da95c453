/* envoy.filters.http.router: the last filter. Finds cluster and host, carries the request there,
 * tries again, and gives the answer back. */
#include "proxy/http/filters/router_priv.h"

#include "proxy/core/decimal.h"
#include "proxy/core/worker.h"
#include "proxy/http/grpc_timeout.h"
#include "xds/proto/envoy/extensions/filters/http/router/v3/router.pb-c.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__Router__V3__Router router_msg;

static const enum weft_hid strict_ids[] = {
	WEFT_H_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
	WEFT_H_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
	WEFT_H_X_ENVOY_MAX_RETRIES,
	WEFT_H_X_ENVOY_RETRY_ON,
	WEFT_H_X_ENVOY_RETRY_GRPC_ON,
};
enum { STRICT_NUMBERS = 3, STRICT = sizeof(strict_ids) / sizeof(*strict_ids) };

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const router_msg *m = (const void *)msg;
	struct router_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	size_t i, k;

	conf->suppress = m->suppress_envoy_headers;
	conf->respect_expected = m->respect_expected_rq_timeout;
	conf->grpc_failures_quiet = m->suppress_grpc_request_failure_code_stats;
	for (i = 0; i < m->n_strict_check_headers; i++) {
		for (k = 0; k < STRICT; k++)
			if (!strcasecmp(m->strict_check_headers[i], weft_hid_name(strict_ids[k])))
				conf->strict |= 1u << k;
	}
	*ret = conf;
	return 0;
}

uint64_t router_now(struct router *r)
{
	return weft_now_ns();
}

static void overloaded_header(void *ctx, struct weft_headers *h)
{
	weft_headers_add(h, "x-envoy-overloaded", 18, "true", 4);
}

/* Nothing of r may be touched after it. */
void router_reply(struct router *r, int status, enum weft_flag flag, const char *details,
		  const char *body, bool overloaded)
{
	struct weft_stream *s = r->s;

	r->over = true;
	router_free_attempt(r, true);
	router_hedge_drop(r);
	router_timers_off(r);
	weft_info_flag(weft_stream_info(s), flag);
	weft_stream_reply(s, status, details, body,
			  overloaded && !r->conf->suppress ? overloaded_header : NULL, NULL);
}

/* ---- the request's own wishes */
static bool ms_of(const struct weft_headers *h, enum weft_hid id, uint64_t *ret)
{
	const char *v = weft_headers_value(h, id);
	char *end;
	unsigned long long n;

	if (*v < '0' || *v > '9')
		return false;
	errno = 0;
	n = strtoull(v, &end, 10);
	if (*end || errno || n > UINT32_MAX)
		return false;
	*ret = n;
	return true;
}

/* max_grpc_timeout: no grpc-timeout is without end, as 0 is. */
static uint64_t old_grpc_ms(const struct router *r)
{
	int64_t ms = weft_grpc_timeout(r->req), max = r->route->max_grpc_ms,
		offset = r->route->grpc_offset_ms;

	if (ms < 0)
		ms = 0;
	if (offset > 0 && offset < ms)
		ms -= offset;
	return (uint64_t)(max && (!ms || ms > max) ? max : ms);
}

static void times_init(struct router *r)
{
	const struct weft_route *rt = r->route;
	uint64_t ms, cluster_life = r->wc->cluster->max_stream_ms;

	r->timeout_ms = (uint64_t)rt->timeout_ms;
	if (r->policy) {
		r->per_try_ms = (uint64_t)r->policy->per_try_ms;
		r->per_try_idle_ms = (uint64_t)r->policy->per_try_idle_ms;
	}
	r->life_ms = cluster_life;
	if (rt->max_grpc_ms >= 0 && weft_stream_is_grpc(r->s))
		r->timeout_ms = old_grpc_ms(r);
	if (ms_of(r->req, WEFT_H_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS, &ms))
		r->timeout_ms = ms;
	else if (r->conf->respect_expected &&
		 ms_of(r->req, WEFT_H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, &ms))
		r->timeout_ms = ms;
	if (ms_of(r->req, WEFT_H_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS, &ms))
		r->per_try_ms = ms;
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS);
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS);
	if (r->timeout_ms && r->per_try_ms >= r->timeout_ms)
		r->per_try_ms = 0;
	r->expect = !r->conf->suppress &&
		    (!r->conf->respect_expected ||
		     !weft_headers_get(r->req, WEFT_H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS));
}

void router_expect(struct router *r)
{
	uint64_t gone = 0, ms = r->timeout_ms;
	char text[WEFT_DECIMAL];
	size_t n;

	if (!r->begun_ns)
		r->begun_ns = r->try_start_ns;
	else
		gone = (r->try_start_ns - r->begun_ns) / 1000000;
	if (ms)
		ms = ms > gone ? ms - gone : 1;
	if (r->per_try_ms && !r->hedge && (!ms || r->per_try_ms < ms))
		ms = r->per_try_ms;
	if (!ms)
		return;
	if (r->route->max_grpc_ms >= 0 && weft_stream_is_grpc(r->s))
		weft_grpc_timeout_set(r->req, ms);
	if (!r->expect)
		return;
	n = weft_decimal(text, ms);
	weft_headers_set_id(r->req, WEFT_H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, text, n);
}

/* A header that strict_check_headers names and that has a bad value; NULL: none. */
static const char *strict_fault(const struct router *r, const struct weft_headers *h)
{
	unsigned k;

	for (k = 0; k < STRICT; k++) {
		const struct weft_header *f = weft_headers_get(h, strict_ids[k]);
		const char *unknown = NULL;
		size_t n;
		uint64_t ms;

		if (!f || !(r->conf->strict & 1u << k))
			continue;
		if (k < STRICT_NUMBERS
			    ? !ms_of(h, strict_ids[k], &ms)
			    : ((void)weft_retry_on_parse(f->value, f->value_len, &unknown, &n),
			       unknown != NULL))
			return weft_hid_name(strict_ids[k]);
	}
	return NULL;
}

/* ---- routes that answer by themselves */
static void location_add(void *ctx, struct weft_headers *h)
{
	const char *location = ctx;

	weft_headers_set_id(h, WEFT_H_LOCATION, location, strlen(location));
}

struct direct {
	const struct weft_route *route;
	const struct weft_format_in *in;
	const struct weft_format *format;
	const char *location;
};

static void direct_headers(void *ctx, struct weft_headers *h)
{
	struct direct *d = ctx;

	if (d->location)
		location_add((void *)d->location, h);
	weft_route_response(d->route, NULL, d->in, h);
}

static enum weft_flow answer_here(struct router *r, const struct weft_route_in *in)
{
	struct weft_stream *s = r->s;
	struct weft_info *info = weft_stream_info(s);
	struct weft_arena *a = weft_stream_arena(s);
	struct weft_format_in fin = {.info = info, .req = r->req};
	struct direct d = {r->route, &fin, NULL, NULL};
	struct weft_reply reply = {.details = "direct_response", .edit = direct_headers, .ctx = &d};
	const char *body;
	size_t n;
	int status;

	r->over = true;
	if (r->route->action == WEFT_ROUTE_REDIRECT) {
		status = weft_route_redirect(r->route, in, a, &d.location);
		return weft_stream_reply(s, status, "direct_response", NULL, direct_headers, &d);
	}
	status = weft_route_direct(r->route, &fin, &body, &n, &d.format);
	if (d.format) {
		bool empty;

		info->status = status; /* for %RESPONSE_CODE% */
		fin.body = body;
		body = weft_format_string(d.format, &fin, a, &n, &empty);
		body = weft_arena_strndup(a, body, n);
		reply.content_type = weft_format_content_type(d.format);
	}
	reply.status = status;
	reply.body = body;
	reply.body_n = n;
	return weft_stream_answer(s, &reply);
}

/* ---- callbacks of the chain */
static int not_found_status(const struct weft_route *rt)
{
	static const int codes[] = {503, 404, 500};
	unsigned i = rt->msg->action_case == ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_ROUTE
			     ? (unsigned)rt->msg->route->cluster_not_found_response_code
			     : 0;

	return codes[i < 3 ? i : 0];
}

static void internal_only(struct router *r)
{
	const Envoy__Config__Route__V3__RouteConfiguration *m = weft_routes_msg(r->route->routes);
	size_t i;

	if (!m->n_internal_only_headers || weft_headers_get(r->req, WEFT_H_X_ENVOY_INTERNAL))
		return;
	for (i = 0; i < m->n_internal_only_headers; i++)
		weft_headers_remove(r->req, m->internal_only_headers[i],
				    strlen(m->internal_only_headers[i]));
}

static void on_writable(void *ctx, bool full)
{
	struct router *r = ctx;

	if (!r->x || full == r->paused_up)
		return;
	r->paused_up = full;
	if (full) {
		weft_scope_add(r->wc->cluster->scope,
			       WEFT_CLUSTER_upstream_flow_control_paused_reading_total, 1);
		weft_exchange_pause(r->x);
	} else {
		weft_scope_add(r->wc->cluster->scope,
			       WEFT_CLUSTER_upstream_flow_control_resumed_reading_total, 1);
		weft_exchange_resume(r->x);
	}
}

static enum weft_flow begin(struct router *r, bool end)
{
	struct weft_stream *s = r->s;
	struct weft_info *info = weft_stream_info(s);
	struct weft_route_in in = {r->req, info, weft_stream_random(s), weft_stream_is_tls(s)};
	struct weft_format_in fin = {.info = info, .req = r->req};
	const char *name, *bad;

	if (r->route->action == WEFT_ROUTE_REDIRECT || r->route->action == WEFT_ROUTE_DIRECT)
		return answer_here(r, &in);
	if (r->route->action == WEFT_ROUTE_NON_FORWARDING) {
		router_reply(r, 503, WEFT_FLAG_NC, "cluster_not_found", NULL, false);
		return WEFT_DONE;
	}
	internal_only(r);
	bad = r->conf->strict ? strict_fault(r, r->req) : NULL;
	if (bad) {
		struct weft_arena *a = weft_stream_arena(s);

		router_reply(r, 400, WEFT_FLAG_IH,
			     weft_arena_printf(a, "request_headers_failed_strict_check{%s}", bad),
			     weft_arena_printf(a, "invalid header '%s' with value '%s'", bad,
					       weft_headers_find(r->req, bad, 0)->value),
			     false);
		return WEFT_DONE;
	}
	name = weft_route_cluster(r->route, &in, &r->weighted);
	r->wc = name ? weft_wcluster_find(weft_stream_worker(s), name) : NULL;
	if (!r->wc) {
		router_reply(r, not_found_status(r->route), WEFT_FLAG_NC, "cluster_not_found", NULL,
			     false);
		return WEFT_DONE;
	}
	weft_wcluster_ref(r->wc);
	weft_cluster_ref(r->wc->cluster);
	if (info->cluster)
		weft_cluster_unref(info->cluster);
	info->cluster = r->wc->cluster;
	r->policy = r->route->retry;
	if (r->route->has_hash && r->wc->cluster->lb->by_hash)
		r->has_hash = weft_route_hash(r->route, &in, weft_stream_arena(s), &r->hash,
					      &r->set_cookie);
	times_init(r);
	weft_route_request(r->route, r->weighted, &fin, r->req);
	if (r->conf->suppress) {
		weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_ORIGINAL_PATH);
		weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_ORIGINAL_HOST);
	}
	router_retry_init(r);
	router_hedge_init(r);
	if (weft_stream_upgrade(s) && r->route->is_tunnel &&
	    !strcasecmp(weft_stream_upgrade(s), "CONNECT"))
		return router_tunnel(r);
	if ((r->retry_on || router_mirrors(r) || r->route->internal_redirect) && !end)
		r->keep = evbuffer_new();
	weft_stream_on_writable(s, on_writable, r);
	if (end)
		router_mirror_send(r);
	router_attempt(r);
	return WEFT_DONE; /* it is the last filter; what follows comes by callbacks */
}

static enum weft_flow headers(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	const struct weft_vcluster *vc;
	struct router *r = state;

	if (d == WEFT_RESPONSE)
		return WEFT_NEXT;
	r->s = s;
	r->conf = conf;
	r->req = h;
	r->body_expected = !end;
	r->req_end = end;
	r->route = weft_stream_route(s);
	if (!r->route) {
		if (weft_stream_tls_redirect(s)) {
			const char *path = weft_headers_value(h, WEFT_H_PATH);
			const char *host = weft_headers_value(h, WEFT_H_AUTHORITY);

			r->over = true;
			return weft_stream_reply(s, 301, "direct_response", NULL, location_add,
						 weft_arena_printf(weft_stream_arena(s),
								   "https://%s%s", host, path));
		}
		router_reply(r, 404, WEFT_FLAG_NR, "route_not_found", NULL, false);
		return WEFT_DONE;
	}
	vc = r->route->action == WEFT_ROUTE_FORWARD ? weft_vhost_vcluster(r->route->vhost, h)
						    : NULL;
	if (vc) {
		weft_stream_info(s)->vcluster_name = vc->name;
		r->vc_stats = vc->stats;
	}
	return begin(r, end);
}

/* A copy: what is kept is lent to each attempt, and a buffer's chunks can be lent once only. */
static int copy(struct evbuffer *to, struct evbuffer *from)
{
	struct evbuffer_iovec few[8], *v = few;
	int n = evbuffer_peek(from, -1, NULL, NULL, 0), i, err = 0;

	if (n > 8)
		v = weft_xcalloc((size_t)n, sizeof(*v));
	n = evbuffer_peek(from, -1, NULL, v, n);
	for (i = 0; i < n && !err; i++)
		err = evbuffer_add(to, v[i].iov_base, v[i].iov_len);
	if (v != few)
		free(v);
	return err;
}

/* Keeps what another attempt or a mirror may need; beyond the limit there is none. */
static void keep(struct router *r, struct evbuffer *b)
{
	if (!r->keep)
		return;
	if (evbuffer_get_length(r->keep) + evbuffer_get_length(b) > r->route->body_limit ||
	    copy(r->keep, b)) {
		evbuffer_free(r->keep);
		r->keep = NULL;
		r->retry_on = 0;
		weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_retry_or_shadow_abandoned, 1);
	}
}

static enum weft_flow data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	struct router *r = state;

	if (d == WEFT_RESPONSE)
		return WEFT_NEXT;
	if (r->over) {
		evbuffer_drain(b, evbuffer_get_length(b));
		return WEFT_DONE;
	}
	r->req_end = end;
	keep(r, b);
	if (!r->out)
		r->out = evbuffer_new();
	evbuffer_add_buffer(r->out, b);
	if (r->tunnel) {
		router_tunnel_data(r);
		return WEFT_DONE;
	}
	if (end)
		router_mirror_send(r);
	router_send_body(r);
	return WEFT_DONE;
}

static enum weft_flow trailers(struct weft_stream *s, const void *conf, void *state,
			       enum weft_dir d, struct weft_headers *h)
{
	struct router *r = state;

	if (d == WEFT_RESPONSE)
		return WEFT_NEXT;
	if (r->over)
		return WEFT_DONE;
	r->trailers = h;
	r->req_end = true;
	router_mirror_send(r);
	router_send_body(r);
	return WEFT_DONE;
}

void router_timers_off(struct router *r)
{
	weft_timer_clear(&r->total);
	weft_timer_clear(&r->per_try);
	weft_timer_clear(&r->per_try_idle);
	weft_timer_clear(&r->backoff);
	weft_timer_clear(&r->life);
}

void router_free_attempt(struct router *r, bool reset)
{
	struct weft_exchange *x;
	struct weft_lease *l;

	if (reset && r->x && r->answer_whole)
		(void)router_leave(r);
	r->answer_whole = false;
	x = r->x;
	l = r->lease;
	weft_timer_clear(&r->per_try);
	weft_timer_clear(&r->per_try_idle);
	r->x = NULL;
	r->lease = NULL;
	r->paused_up = false;
	if (x && reset) {
		weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_tx_reset, 1);
		weft_exchange_reset(x, WEFT_RESET_LOCAL);
	}
	if (l)
		weft_lease_done(l);
}

static void closed(struct weft_stream *s, const void *conf, void *state)
{
	struct router *r = state;
	unsigned i;

	if (!r->s)
		return;
	r->over = true;
	weft_stream_on_writable(s, NULL, NULL);
	if (r->tunnel)
		router_tunnel_closed(r);
	router_free_attempt(r, true);
	router_hedge_drop(r);
	router_retry_done(r, false);
	router_timers_off(r);
	for (i = 0; i < r->n_tried; i++)
		weft_host_unref(r->tried[i]);
	r->n_tried = 0;
	if (r->out)
		evbuffer_free(r->out);
	if (r->keep)
		evbuffer_free(r->keep);
	r->out = r->keep = NULL;
	if (r->wc)
		weft_wcluster_unref(r->wc);
	r->wc = NULL;
	r->s = NULL;
}

const struct weft_http_filter weft_http_filter_router = {
	.ext = {.name = "envoy.filters.http.router",
		.config = &envoy__extensions__filters__http__router__v3__router__descriptor,
		.state_size = sizeof(struct router),
		.prepare = prepare},
	.headers = headers,
	.data = data,
	.trailers = trailers,
	.closed = closed,
	.terminal = true,
};
