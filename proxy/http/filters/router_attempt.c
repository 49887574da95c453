/* One attempt of a request: host, place on a session, exchange, answer. */
#include "proxy/http/filters/router_priv.h"

#include "proxy/core/decimal.h"
#include "proxy/core/worker.h"
#include "proxy/l4/format_want.h"
#include "proxy/net/tls_more.h"
#include "proxy/upstream/transport.h"
#include "xds/wire.h"
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct weft_timers *timers(struct router *r)
{
	return weft_timers_of(weft_stream_worker(r->s));
}

#define ROUTER_OF(t, field) ((struct router *)((char *)(t)-offsetof(struct router, field)))

static void on_total(struct weft_timer *t)
{
	router_timeout(ROUTER_OF(t, total), false);
}

static void on_per_try(struct weft_timer *t)
{
	struct router *r = ROUTER_OF(t, per_try);

	if (r->hedge) {
		router_hedge_timeout(r);
		return;
	}
	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_per_try_timeout, 1);
	router_timeout(r, true);
}

static void timed_out(struct router *r, bool per_try, const char *details);

static void on_per_try_idle(struct weft_timer *t)
{
	struct router *r = ROUTER_OF(t, per_try_idle);

	if (r->hedge && r->sent_end) { /* else nothing could go on beside it */
		router_hedge_timeout(r);
		return;
	}
	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_per_try_idle_timeout, 1);
	timed_out(r, true, "upstream_per_try_idle_timeout");
}

static void on_life(struct weft_timer *t)
{
	struct router *r = ROUTER_OF(t, life);

	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_max_duration_reached, 1);
	weft_info_flag(weft_stream_info(r->s), WEFT_FLAG_UMSDR);
	if (r->started) {
		r->over = true;
		router_free_attempt(r, true);
		weft_stream_cut(r->s, WEFT_RESET_LOCAL, "upstream_max_stream_duration_reached");
		return;
	}
	router_reply(r, 504, WEFT_FLAG_UMSDR, "upstream_max_stream_duration_reached",
		     "upstream max stream duration reached", false);
}

void router_arm_request_done(struct router *r)
{
	uint64_t now;

	if (!r->req_end || r->started || !(r->timeout_ms || r->per_try_ms))
		return;
	now = router_now(r);
	if (r->timeout_ms && !weft_timer_is_set(&r->total))
		weft_timer_set(timers(r), &r->total, r->timeout_ms, now, on_total);
	if (r->per_try_ms && r->x && !weft_timer_is_set(&r->per_try))
		weft_timer_set(timers(r), &r->per_try, r->per_try_ms, now, on_per_try);
}

static void touch_idle(struct router *r, uint64_t now)
{
	if (r->per_try_idle_ms)
		weft_timer_set(timers(r), &r->per_try_idle, r->per_try_idle_ms, now,
			       on_per_try_idle);
}

/* ---- the answer */
/* The answer is whole. Where the request is, too, the exchange ends by itself from the loop, after
 * the stream may be gone: the lease waits for it alone. */
static void tail_done(struct weft_exchange *x)
{
	weft_lease_done(weft_exchange_user(x));
}

static void tail_reset(struct weft_exchange *x, enum weft_reset why)
{
	weft_lease_done(weft_exchange_user(x));
}

static const struct weft_exchange_ops tail_ops = {.reset = tail_reset, .done = tail_done};

bool router_leave(struct router *r)
{
	if (!r->sent_end)
		return false;
	weft_exchange_set_user(r->x, &tail_ops, r->lease);
	r->x = NULL;
	r->lease = NULL;
	return true;
}

static void answered(struct router *r)
{
	struct weft_info *info = weft_stream_info(r->s);

	r->over = true;
	router_timers_off(r);
	weft_exchange_bytes(r->x, &info->up_rx_wire, &info->up_tx_wire);
	weft_exchange_head_bytes(r->x, &info->up_rx_head_wire, &info->up_tx_head_wire);
	if (info->up_tls && info->up_tls->more)
		weft_tls_more_renew(weft_session_io(weft_exchange_session(r->x)));
	(void)router_leave(r);
}

void router_answer(struct router *r, struct weft_headers *h, bool end)
{
	struct weft_info *info = weft_stream_info(r->s);
	uint64_t now = router_now(r);
	int status = weft_headers_status(h);

	info->up_first_rx_ns = info->up_last_rx_ns = now;
	info->up_rx_head_bytes = h->bytes;
	touch_idle(r, now);
	router_count_answer(r, h, now);
	r->answer_whole = end;
	router_hedge_drop(r);
	router_retry_done(r, status < 500);
	if (r->route->internal_redirect && router_redirect(r, h))
		return;
	weft_timer_clear(&r->per_try);
	r->started = true;
	info->status = status;
	info->details = "via_upstream";
	router_own_headers(r, h, now);
	if (end)
		answered(r);
	weft_stream_respond_headers(r->s, h, end);
}

static void x_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct router *r = weft_exchange_user(x);
	bool bad;

	router_host_answered(r, h);
	r->answer_whole = end;
	bad = router_retry_headers(r, h);
	if (bad && !r->retried && router_retry(r, h))
		return;
	if (bad && r->asides) { /* one of them may do better */
		router_free_attempt(r, true);
		return;
	}
	router_answer(r, h, end);
}

static void x_informational(struct weft_exchange *x, struct weft_headers *h)
{
	struct router *r = weft_exchange_user(x);

	weft_stream_respond_informational(r->s, h);
}

static void x_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct router *r = weft_exchange_user(x);
	struct weft_info *info = weft_stream_info(r->s);

	if (r->per_try_idle_ms) {
		info->up_last_rx_ns = router_now(r);
		touch_idle(r, info->up_last_rx_ns);
	}
	if (end) {
		info->up_last_rx_ns = router_now(r);
		answered(r);
	}
	weft_stream_respond_data(r->s, b, end);
}

static void x_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct router *r = weft_exchange_user(x);

	weft_stream_info(r->s)->up_last_rx_ns = router_now(r);
	weft_stream_info(r->s)->up_rx_head_bytes += h->bytes;
	answered(r);
	weft_stream_respond_trailers(r->s, h);
}

static void x_writable(struct weft_exchange *x)
{
	struct router *r = weft_exchange_user(x);

	if (r->paused_down) {
		r->paused_down = false;
		weft_stream_unpause(r->s, WEFT_REQUEST);
	}
}

/* ---- ends without an answer */
struct failure {
	const char *reason;
	enum weft_flag flag;
};

/* detail: why the session says so; "" for a connection that was closed. */
static struct failure failure_of(enum weft_reset why, const char *detail)
{
	switch (why) {
	case WEFT_RESET_CONNECT:
		return (struct failure){"remote connection failure", WEFT_FLAG_UF};
	case WEFT_RESET_TIMEOUT:
		return (struct failure){"connection timeout", WEFT_FLAG_UF};
	case WEFT_RESET_OVERFLOW:
		return (struct failure){"overflow", WEFT_FLAG_UO};
	case WEFT_RESET_PROTOCOL:
		return (struct failure){"protocol error", WEFT_FLAG_UPE};
	case WEFT_RESET_LOCAL:
		return (struct failure){"local reset", WEFT_FLAG_LR};
	default:
		if (!strcmp(detail, WEFT_DETAIL_REMOTE_RESET))
			return (struct failure){"remote reset", WEFT_FLAG_UR};
		if (!strcmp(detail, WEFT_DETAIL_REMOTE_REFUSED))
			return (struct failure){"remote refused stream reset", WEFT_FLAG_UR};
		return (struct failure){"connection termination", WEFT_FLAG_UC};
	}
}

/* when: "before" or "after" */
static const char *details_of(struct weft_arena *a, const char *when, const char *reason,
			      const char *detail)
{
	char *p, *s = weft_arena_printf(a, "upstream_reset_%s_response_started{%s%s%s}", when,
					reason, *detail ? "|" : "", detail);

	for (p = s; *p; p++)
		*p = *p == ' ' ? '_' : *p;
	return s;
}

/* A pooled connection that the peer had closed before it saw our request: nothing was lost yet. */
static bool stale(struct router *r, enum weft_reset why)
{
	const char *m = weft_headers_value(r->req, WEFT_H_METHOD);

	return why == WEFT_RESET_REFUSED && !r->retried && r->lease && !r->lease->fresh &&
	       !r->stale_retried && !router_retry_reset(r, why) && !r->body_expected &&
	       !weft_stream_upgrade(r->s) &&
	       (!strcmp(m, "GET") || !strcmp(m, "HEAD") || !strcmp(m, "OPTIONS"));
}

static void failed(struct router *r, enum weft_reset why, struct failure f, const char *transport)
{
	struct weft_arena *a = weft_stream_arena(r->s);
	int status = f.flag == WEFT_FLAG_UPE ? 502 : 503;

	if (stale(r, why)) {
		r->stale_retried = true;
		router_free_attempt(r, false);
		r->tries--;
		router_attempt(r);
		return;
	}
	if (why != WEFT_RESET_OVERFLOW && r->lease && r->lease->host)
		weft_host_outcome(r->wc, r->lease->host,
				  why == WEFT_RESET_CONNECT || why == WEFT_RESET_TIMEOUT
					  ? WEFT_OUT_LOCAL_CONNECT_FAILED
					  : WEFT_OUT_LOCAL_RESET,
				  0);
	if (!r->retried && router_retry_reset(r, why) && router_retry(r, NULL))
		return;
	router_retry_done(r, false);
	weft_scope_code(r->wc->cluster->scope, (unsigned)status);
	router_stat_code(r, (unsigned)status);
	if (r->asides) { /* one of them may answer yet */
		router_free_attempt(r, false);
		return;
	}
	router_reply(r, status, f.flag, details_of(a, "before", f.reason, transport),
		     weft_arena_printf(a,
				       "upstream connect error or disconnect/reset before headers. "
				       "%sreset reason: %s%s%s",
				       r->tries > 1 ? "retried and the latest " : "", f.reason,
				       *transport ? ", transport failure reason: " : "", transport),
		     why == WEFT_RESET_OVERFLOW);
}

void router_reset(struct router *r, enum weft_reset why, const char *detail)
{
	struct weft_stream *s = r->s;
	struct weft_info *info = weft_stream_info(s);
	struct failure f = failure_of(why, detail);

	r->x = NULL;
	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_rx_reset, 1);
	if (!r->started) {
		failed(r, why, f, "");
		return;
	}
	if (r->over) /* the answer was whole: only our own request was cut */
		return;
	r->over = true;
	weft_host_outcome(r->wc, r->lease->host, WEFT_OUT_LOCAL_RESET, 0);
	router_free_attempt(r, false);
	weft_info_flag(info, f.flag);
	info->details = details_of(weft_stream_arena(s), "after", f.reason, "");
	weft_stream_cut(s, WEFT_RESET_REMOTE, NULL);
}

static void x_reset(struct weft_exchange *x, enum weft_reset why)
{
	router_reset(weft_exchange_user(x), why, weft_exchange_detail(x));
}

static void x_done(struct weft_exchange *x)
{
	struct router *r = weft_exchange_user(x);

	r->x = NULL;
	router_free_attempt(r, false);
}

const struct weft_exchange_ops router_exchange_ops = {
	.headers = x_headers,
	.informational = x_informational,
	.data = x_data,
	.trailers = x_trailers,
	.writable = x_writable,
	.reset = x_reset,
	.done = x_done,
};

/* ---- the request */
void router_send_body(struct router *r)
{
	struct weft_info *info = weft_stream_info(r->s);
	bool end = r->req_end && !r->trailers;

	if (!r->x) { /* waits for a connection: not without limit */
		if (r->out && !r->paused_down && evbuffer_get_length(r->out) > ROUTER_KEPT_MAX) {
			r->paused_down = true;
			weft_stream_pause(r->s, WEFT_REQUEST);
		}
		router_arm_request_done(r);
		return;
	}
	if (r->sent_end) { /* with the head */
		router_arm_request_done(r);
		return;
	}
	if ((r->out && evbuffer_get_length(r->out)) || end) {
		if (!r->out)
			r->out = evbuffer_new();
		r->sent_end = end;
		if (!weft_exchange_send_data(r->x, r->out, end) && !end && !r->paused_down) {
			r->paused_down = true;
			weft_scope_add(r->wc->cluster->scope,
				       WEFT_CLUSTER_upstream_flow_control_backed_up_total, 1);
			weft_stream_pause(r->s, WEFT_REQUEST);
		}
	}
	if (r->trailers && r->req_end && !r->sent_end) {
		r->sent_end = true;
		info->up_tx_head_bytes += r->trailers->bytes;
		weft_exchange_send_trailers(r->x, r->trailers);
	}
	if (r->sent_end)
		info->up_last_tx_ns = router_now(r);
	router_arm_request_done(r);
}

/* connection_pool_per_downstream_connection: its upstream connections end with the client's. */
struct bound {
	struct weft_wcluster *wc; /* referenced */
	uint64_t id;
};

static void unbind(void *arg)
{
	struct bound *b = arg;

	weft_pool_downstream_gone(b->wc, b->id);
	weft_wcluster_unref(b->wc);
}

static void bind_downstream(struct router *r)
{
	struct weft_io *io = weft_stream_io(r->s);
	struct bound *b;

	if (!io)
		return;
	b = weft_arena_alloc(weft_io_arena(io), sizeof(*b));
	b->wc = r->wc;
	b->id = weft_io_info(io)->id;
	weft_wcluster_ref(b->wc);
	weft_arena_cleanup(weft_io_arena(io), unbind, b);
}

static void open_exchange(struct router *r)
{
	struct weft_stream *s = r->s;
	struct weft_info *info = weft_stream_info(s);
	bool body = r->body_expected || weft_stream_upgrade(s);
	char text[WEFT_DECIMAL];
	size_t n;
	int err;

	router_note_upstream(r);
	if (r->lease->fresh && weft_pool_per_downstream(r->wc->cluster))
		bind_downstream(r);
	if (r->route->include_attempt_count && !r->conf->suppress) {
		n = weft_decimal(text, r->tries);
		weft_headers_set_id(r->req, WEFT_H_X_ENVOY_ATTEMPT_COUNT, text, n);
	}
	weft_route_host_auto(r->route, r->req, r->lease->host->hostname);
	router_stat(r, WEFT_ROUTE_STAT_upstream_rq_total);
	r->retried = false;
	r->sent_end = !body;
	info->up_tx_head_bytes = r->req->bytes;
	err = weft_exchange_open(r->lease->session, &router_exchange_ops, r, weft_stream_arena(s),
				 r->req, body, &r->x);
	if (err) {
		r->x = NULL;
		failed(r, WEFT_RESET_REFUSED, failure_of(WEFT_RESET_REFUSED, ""), "");
		return;
	}
	r->sent_ns = info->up_first_tx_ns = router_now(r);
	if (!body)
		info->up_last_tx_ns = r->sent_ns;
	touch_idle(r, r->sent_ns);
	if (weft_stream_response_full(s)) {
		r->paused_up = true;
		weft_exchange_pause(r->x);
	}
	if (r->paused_down) {
		r->paused_down = false;
		weft_stream_unpause(s, WEFT_REQUEST);
	}
	router_send_body(r);
}

static void on_lease(void *owner, struct weft_lease *l)
{
	open_exchange(owner);
}

static void on_lease_failed(void *owner, struct weft_lease *l, enum weft_reset why,
			    const char *detail)
{
	struct router *r = owner;
	struct weft_arena *a = weft_stream_arena(r->s);

	weft_stream_info(r->s)->up_ready_ns = router_now(r);
	/* the words that Envoy's users search for */
	detail = !detail || !*detail ? ""
		 : why == WEFT_RESET_CONNECT && strncmp(detail, "TLS", 3)
			 ? weft_arena_printf(a, "delayed connect error: %s", detail)
			 : weft_arena_strdup(a, detail);
	if (*detail)
		weft_stream_info(r->s)->up_failure = detail;
	failed(r, why, failure_of(why, ""), detail);
}

static const struct weft_lease_ops lease_ops = {on_lease, on_lease_failed};

/* A copy for logs: the set of hosts that it stands in may be replaced before they are written. */
static void keep_metadata(struct router *r, const struct weft_endpoint_entry *e)
{
	struct weft_info *info = weft_stream_info(r->s);
	ProtobufCAllocator al = weft_wire_allocator(info->arena);
	uint8_t *b;
	size_t n;

	info->up_metadata = NULL;
	if (!e || !e->metadata || !weft_format_wants_host_metadata())
		return;
	n = protobuf_c_message_get_packed_size(&e->metadata->base);
	b = weft_arena_alloc(info->arena, n + 1);
	protobuf_c_message_pack(&e->metadata->base, b);
	info->up_metadata =
		(const void *)protobuf_c_message_unpack(e->metadata->base.descriptor, &al, n, b);
}

void router_attempt(struct router *r)
{
	struct weft_stream *s = r->s;
	struct weft_info *info = weft_stream_info(s);
	struct weft_cluster *c = r->wc->cluster;
	struct weft_lb_ctx ctx = {.has_hash = r->has_hash,
				  .hash = r->hash,
				  .random = weft_rand64(),
				  .downstream_local = &info->down->local,
				  .owner = r};
	struct weft_take how = {.priority = r->route->priority,
				.downstream = info->protocol,
				.downstream_id = info->down->id,
				.source = &info->remote,
				.dest = &info->down->local};
	const struct weft_endpoint_entry *e = NULL;
	char name[WEFT_NAME_BYTES];
	struct weft_host *host;
	const char *why = "no_healthy_upstream";
	enum weft_reset why_not;
	int rc;

	r->try_start_ns = ctx.now_ns = info->up_want_ns = router_now(r);
	info->up_ready_ns = 0;
	router_expect(r);
	info->attempts = ++r->tries;
	if (r->life_ms && !weft_timer_is_set(&r->life))
		weft_timer_set(timers(r), &r->life, r->life_ms, ctx.now_ns, on_life);
	if (r->policy && r->tries > 1) {
		ctx.accept = router_host_ok;
		ctx.max_tries = r->policy->host_attempts;
		if (r->policy->previous_priorities)
			ctx.priorities = router_priorities;
	}
	if (c->original_dst_header) {
		const struct weft_header *h = weft_headers_find(r->req, c->original_dst_header, 0);

		ctx.original_dst = h ? h->value : NULL;
	}
	host = weft_wcluster_pick(r->wc, &ctx, &e, &why);
	if (!host) {
		bool drop = !strcmp(why, "drop_overload");

		router_retry_done(r, false);
		router_reply(r, 503, drop ? WEFT_FLAG_DO : WEFT_FLAG_UH, why,
			     drop ? "drop overload" : "no healthy upstream", drop);
		return;
	}
	if (r->n_tried < ROUTER_HOSTS_MAX && r->retry_on) {
		weft_host_ref(host);
		r->tried[r->n_tried++] = host;
		if (e && e->priority < 64)
			r->tried_priorities |= 1ull << e->priority;
	}
	if (info->host)
		weft_host_unref(info->host);
	info->host = host; /* its reference is the info's now */
	how.metadata = e ? e->metadata : NULL;
	keep_metadata(r, e);
	weft_transport_names(c, r->req, name, &how);
	rc = weft_pool_take(r->wc, host, &how, &lease_ops, r, &r->lease);
	why_not = rc == -EBUSY ? WEFT_RESET_OVERFLOW : WEFT_RESET_CONNECT;
	if (rc == 1)
		open_exchange(r);
	else if (rc < 0)
		failed(r, why_not, failure_of(why_not, ""), "");
	else
		router_arm_request_done(r);
}

static void timed_out(struct router *r, bool per_try, const char *details)
{
	struct weft_stream *s = r->s;

	if (r->lease && r->lease->host)
		weft_host_outcome(r->wc, r->lease->host, WEFT_OUT_LOCAL_TIMEOUT, 0);
	if (r->started) {
		r->over = true;
		weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_timeout, 1);
		router_free_attempt(r, true);
		weft_info_flag(weft_stream_info(s), WEFT_FLAG_UT);
		weft_stream_cut(s, WEFT_RESET_LOCAL, details);
		return;
	}
	r->timeout_retry = per_try;
	/* a try that timed out counts as a reset; as a 504 for those who retry on status */
	if (per_try &&
	    (r->retry_on & (WEFT_RETRY_5XX | WEFT_RETRY_GATEWAY_ERROR | WEFT_RETRY_RESET)) &&
	    router_retry(r, NULL))
		return;
	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_timeout, 1);
	router_stat(r, WEFT_ROUTE_STAT_upstream_rq_timeout);
	router_retry_done(r, false);
	weft_scope_code(r->wc->cluster->scope, 504);
	router_stat_code(r, 504);
	router_reply(r, 504, WEFT_FLAG_UT, details, "upstream request timeout", false);
}

void router_timeout(struct router *r, bool per_try)
{
	timed_out(r, per_try, per_try ? "upstream_per_try_timeout" : "response_timeout");
}
