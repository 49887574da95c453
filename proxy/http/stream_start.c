/* The beginning of a stream: its route, its filters, its timeouts. */
#include "proxy/http/grpc_timeout.h"
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define OF(t, member) ((struct weft_stream *)((char *)(t)-offsetof(struct weft_stream, member)))

/* ---- timeouts */

static void timed_out(struct weft_stream *s, int status, const char *details, const char *body)
{
	stream_enter(s);
	weft_stream_reply(s, status, details, body, NULL, NULL);
	weft_stream_leave(s);
}

static void on_idle(struct weft_timer *t)
{
	struct weft_stream *s = OF(t, idle);

	hcm_count(s->c, WEFT_HTTP_downstream_rq_idle_timeout);
	weft_info_flag(&s->info, WEFT_FLAG_SI);
	timed_out(s, s->rx_end ? 504 : 408, "stream_idle_timeout", "stream timeout");
}

static void on_request_late(struct weft_timer *t)
{
	struct weft_stream *s = OF(t, request);

	hcm_count(s->c, WEFT_HTTP_downstream_rq_timeout);
	timed_out(s, 408, "request_overall_timeout", "request timeout");
}

static void deadline_exceeded(void *ctx, struct weft_headers *h)
{
	if (ctx)
		weft_headers_set(h, "grpc-status", 11, "4", 1);
}

static void on_life_over(struct weft_timer *t)
{
	struct weft_stream *s = OF(t, life);

	hcm_count(s->c, WEFT_HTTP_downstream_rq_max_duration_reached);
	stream_enter(s);
	weft_stream_reply(s, s->rx_end ? 504 : 408, "max_duration_timeout",
			  "downstream duration timeout", deadline_exceeded, s->grpc ? s : NULL);
	weft_stream_leave(s);
}

static void on_log_due(struct weft_timer *t)
{
	struct weft_stream *s = OF(t, log_timer);

	weft_timer_set(s->c->w->timers, t, s->c->conf->ms.log_interval, weft_now_ns(), on_log_due);
	weft_stream_log(s, "DownstreamPeriodic");
}

void weft_stream_touch(struct weft_stream *s)
{
	s->now = weft_now_ns();
	if (s->idle_ms && !s->over)
		weft_timer_set(s->c->w->timers, &s->idle, s->idle_ms, s->now, on_idle);
}

/* What grpc-timeout says within the route's limits is told to those behind, too. */
static uint64_t life_ms(const struct weft_stream *s)
{
	const struct weft_route *r = s->route;
	int64_t ms;

	if (!r)
		return s->c->conf->ms.max_stream;
	ms = r->grpc_timeout_max_ms >= 0 ? weft_grpc_timeout(s->head[WEFT_REQUEST]) : -1;
	if (ms < 0)
		return r->max_stream_ms >= 0 ? (uint64_t)r->max_stream_ms
					     : s->c->conf->ms.max_stream;
	if (r->grpc_timeout_max_ms && ms > r->grpc_timeout_max_ms)
		ms = r->grpc_timeout_max_ms;
	if (r->grpc_timeout_offset_ms > 0)
		ms = ms > r->grpc_timeout_offset_ms ? ms - r->grpc_timeout_offset_ms : 0;
	weft_grpc_timeout_set(s->head[WEFT_REQUEST], (uint64_t)ms);
	return ms ? (uint64_t)ms : 1; /* no time is over at once: 0 would be without end */
}

void weft_stream_times(struct weft_stream *s)
{
	const struct hcm_times *ms = &s->c->conf->ms;
	struct weft_timers *ts = s->c->w->timers;

	s->idle_ms = ms->stream_idle;
	if (s->route && s->route->idle_timeout_ms >= 0)
		s->idle_ms = (uint64_t)s->route->idle_timeout_ms;
	weft_timer_set(ts, &s->idle, s->idle_ms, s->now, on_idle);
	weft_timer_set(ts, &s->life, life_ms(s), s->info.start_ns, on_life_over);
	if (ms->request && !s->rx_end)
		weft_timer_set(ts, &s->request, ms->request, s->info.start_ns, on_request_late);
	if (ms->log_interval && s->c->conf->logs)
		weft_timer_set(ts, &s->log_timer, ms->log_interval, s->now, on_log_due);
}

/* ---- the route */

static void find_route(struct weft_stream *s)
{
	struct weft_route_in in = {
		.h = s->head[WEFT_REQUEST],
		.info = &s->info,
		.random = weft_stream_random(s),
		.tls = weft_stream_is_tls(s),
	};
	bool redirect = false;

	s->routed = true;
	s->weighted = NULL;
	s->route = s->routes ? weft_routes_find(s->routes, &in, &redirect) : NULL;
	s->tls_redirect = redirect;
	if (!s->route)
		return;
	s->info.route_name = s->route->name;
	s->info.route_metadata = s->route->msg ? s->route->msg->metadata : NULL;
	s->info.vhost_metadata = weft_vhost_msg(s->route->vhost)->metadata;
	if (s->route->action == WEFT_ROUTE_FORWARD)
		weft_route_cluster(s->route, &in, &s->weighted);
}

const struct weft_route *weft_stream_route(struct weft_stream *s)
{
	if (!s->routed && s->head[WEFT_REQUEST])
		find_route(s);
	return s->route;
}

void weft_stream_clear_route(struct weft_stream *s)
{
	s->routed = false;
	s->route = NULL;
	s->weighted = NULL;
	s->tls_redirect = false;
}

bool weft_stream_tls_redirect(struct weft_stream *s)
{
	weft_stream_route(s);
	return s->tls_redirect;
}

/* ---- filters of this stream */

void weft_stream_choose_chain(struct weft_stream *s, const struct http_chain *ch)
{
	s->chain = ch;
	s->slot = weft_arena_alloc(s->arena, ch->n * sizeof(*s->slot));
	s->state = weft_arena_alloc(s->arena, ch->state_bytes);
	for (unsigned i = 0; i < ch->n; i++) {
		s->slot[i].conf = ch->v[i].conf;
		s->slot[i].off = ch->v[i].disabled;
	}
}

static void apply_route_conf(struct weft_stream *s)
{
	const struct weft_route *r = weft_stream_route(s);

	if (!r)
		return;
	for (unsigned i = 0; i < s->chain->n; i++) {
		const struct http_item *it = &s->chain->v[i];
		bool off = it->disabled;
		const void *conf;

		conf = weft_route_filter_conf(r, s->weighted, it->name, &off);
		s->slot[i].off = off && !it->f->terminal;
		if (conf)
			s->slot[i].conf = conf;
	}
}

static const struct http_item *item_of(const struct weft_stream *s, const void *state)
{
	for (unsigned i = 0; i < s->chain->n; i++)
		if (s->state + s->chain->v[i].state == state)
			return &s->chain->v[i];
	return NULL;
}

const void *weft_stream_route_conf(struct weft_stream *s, const void *state)
{
	const struct weft_route *r = weft_stream_route(s);
	const struct http_item *it = item_of(s, state);
	bool off = false;

	return r && it ? weft_route_filter_conf(r, s->weighted, it->name, &off) : NULL;
}

size_t weft_stream_route_confs(struct weft_stream *s, const void *state,
			       const void *ret[WEFT_ROUTE_LEVELS])
{
	const struct weft_route *r = weft_stream_route(s);
	const struct http_item *it = item_of(s, state);

	return r && it ? weft_route_filter_confs(r, s->weighted, it->name, ret) : 0;
}

const void *weft_stream_chain_conf(struct weft_stream *s, const void *state)
{
	const struct http_item *it = item_of(s, state);

	return it ? it->conf : NULL;
}

/* The chain of an upgrade; NULL: it is not allowed. */
static const struct http_chain *upgrade_chain(struct weft_stream *s)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	const struct weft_route *r = weft_stream_route(s);
	int said = r ? weft_route_upgrade(r, s->upgrade) : -1;

	for (size_t i = 0; i < conf->n_upgrades; i++) {
		const struct hcm_upgrade *u = &conf->upgrades[i];

		if (strcasecmp(u->type, s->upgrade) != 0)
			continue;
		if (said >= 0 ? said : u->enabled)
			return u->chain ?: conf->chain;
		return NULL;
	}
	return said > 0 ? conf->chain : NULL;
}

static void read_head(struct weft_stream *s)
{
	const struct weft_headers *h = s->head[WEFT_REQUEST];
	const struct weft_header *m = weft_headers_get(h, WEFT_H_METHOD);
	const struct weft_header *t = weft_headers_get(h, WEFT_H_CONTENT_TYPE);
	const struct weft_header *u = weft_headers_get(h, WEFT_H_UPGRADE);

	s->is_head = m && m->value_len == 4 && !memcmp(m->value, "HEAD", 4);
	s->is_connect = m && m->value_len == 7 && !memcmp(m->value, "CONNECT", 7);
	s->is_upgrade = u && !s->is_connect && weft_headers_get(h, WEFT_H_CONNECTION);
	s->upgrade = s->is_connect ? "CONNECT" : s->is_upgrade ? u->value : NULL;
	s->grpc = t && t->value_len >= 16 && !memcmp(t->value, "application/grpc", 16) &&
		  (t->value_len == 16 || t->value[16] == '+');
}

static void begin_filters(struct weft_stream *s)
{
	const struct http_chain *ch = s->c->conf->chain;

	weft_stream_route(s);
	weft_stream_times(s);
	/* a CONNECT that no route is for is answered by the router: 404 */
	if (s->upgrade && (s->route || !s->is_connect)) {
		ch = upgrade_chain(s);
		if (!ch) {
			hcm_count(s->c, WEFT_HTTP_downstream_rq_ws_on_non_ws_route);
			weft_stream_reply(s, 403, "upgrade_failed", NULL, NULL, NULL);
			return;
		}
	}
	weft_stream_choose_chain(s, ch);
	apply_route_conf(s);
	if (s->c->conf->log_new)
		weft_stream_log(s, "DownstreamStart");
	weft_stream_run_headers(s, WEFT_REQUEST, 0);
}

void weft_stream_start(struct weft_stream *s, bool end)
{
	read_head(s);
	s->routes = weft_route_table_get(s->c->conf->routes, s->c->worker, &s->routes_hold);
	if (!weft_hcm_request(s))
		return;
	begin_filters(s);
}

/* ---- again, with other headers (internal redirect) */

int weft_stream_restart_body(struct weft_stream *s, struct evbuffer *body)
{
	struct evbuffer *b = NULL;

	if (s->over || s->tx_head || s->local || !s->rx_end || s->trailers[WEFT_REQUEST] ||
	    s->upgrade)
		return -1;
	stream_enter(s);
	if (body && evbuffer_get_length(body)) {
		b = evbuffer_new();
		if (!b)
			abort();
		evbuffer_add_buffer(b, body);
	}
	weft_stream_log(s, "DownstreamEnd");
	weft_stream_reset_chain(s);
	s->writable = NULL;
	s->answering = s->resp_end = s->resp_head_end = s->told_full = false;
	s->head[WEFT_RESPONSE] = s->trailers[WEFT_RESPONSE] = NULL;
	s->limit_by[0] = s->limit_by[1] = -1;
	s->cur[0] = s->cur[1] = -1;
	s->chain = NULL;
	s->slot = NULL;
	s->info.details = NULL;
	s->info.attempts = 0;
	weft_stream_clear_route(s);
	s->head_end = !b;
	begin_filters(s);
	if (b && !s->over && !s->local)
		weft_stream_run_data(s, WEFT_REQUEST, 0, b, true);
	if (b)
		evbuffer_free(b);
	weft_stream_leave(s);
	return 0;
}

int weft_stream_restart(struct weft_stream *s)
{
	return s->info.rx_bytes ? -1 : weft_stream_restart_body(s, NULL);
}
