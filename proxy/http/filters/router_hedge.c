/* Hedging: a try whose time is over is not given up: another begins beside it, and the first good
 * answer of any of them is taken. */
#include "proxy/http/filters/router_priv.h"

#include <string.h>

struct router_aside {
	struct router_aside *next;
	struct router *r;
	struct weft_exchange *x;
	struct weft_lease *lease;
	uint64_t try_start_ns, sent_ns;
};

void router_hedge_init(struct router *r)
{
	const char *v = weft_headers_value(r->req, WEFT_H_X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT);

	r->hedge = r->route->hedge_on_try_timeout;
	if (!strcmp(v, "true"))
		r->hedge = true;
	else if (!strcmp(v, "false"))
		r->hedge = false;
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT);
}

void router_hedge_timeout(struct router *r)
{
	if (r->lease && r->lease->host)
		weft_host_outcome(r->wc, r->lease->host, WEFT_OUT_LOCAL_TIMEOUT, 0);
	if (r->started || !r->retry_on || !r->x || !r->sent_end)
		return;
	r->hedging = r->timeout_retry = true;
	(void)router_retry(r, NULL); /* if there is none, this try has until the end of all */
	r->hedging = r->timeout_retry = false;
}

static void release(struct router *r, struct router_aside *a)
{
	if (a->x) {
		weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_tx_reset, 1);
		weft_exchange_reset(a->x, WEFT_RESET_LOCAL);
	}
	if (a->lease)
		weft_lease_done(a->lease);
	a->x = NULL;
	a->lease = NULL;
}

static void unlink_aside(struct router_aside *a)
{
	struct router_aside **p = &a->r->asides;

	while (*p != a)
		p = &(*p)->next;
	*p = a->next;
}

/* Its place is the newest try's, which takes its. */
static void swap(struct router_aside *a)
{
	struct router *r = a->r;
	struct router_aside was = *a;

	a->x = r->x;
	a->lease = r->lease;
	a->try_start_ns = r->try_start_ns;
	a->sent_ns = r->sent_ns;
	r->x = was.x;
	r->lease = was.lease;
	r->try_start_ns = was.try_start_ns;
	r->sent_ns = was.sent_ns;
}

/* Something else may answer yet. */
static bool others(const struct router_aside *a)
{
	const struct router *r = a->r;

	return r->x || r->lease || weft_timer_is_set(&r->backoff) || r->asides != a || a->next;
}

/* It stands for the request from here on. */
static void adopt(struct router_aside *a)
{
	struct router *r = a->r;
	struct weft_info *info = weft_stream_info(r->s);

	unlink_aside(a);
	swap(a);
	release(r, a);
	weft_timer_clear(&r->backoff);
	weft_timer_clear(&r->per_try);
	weft_timer_clear(&r->per_try_idle);
	r->retried = r->sent_end = true;
	if (info->host != r->lease->host) {
		if (info->host)
			weft_host_unref(info->host);
		weft_host_ref(r->lease->host);
		info->host = r->lease->host;
	}
	if (r->x)
		weft_exchange_set_user(r->x, &router_exchange_ops, r);
}

static void aside_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct router_aside *a = weft_exchange_user(x);
	struct router *r = a->r;

	swap(a);
	router_host_answered(r, h);
	swap(a);
	if (router_retry_headers(r, h) && others(a)) {
		unlink_aside(a);
		release(r, a);
		return;
	}
	adopt(a);
	router_adopted(r);
	router_retry_done(r, false); /* it is not the retry that succeeded */
	router_answer(r, h, end);
}

static void aside_informational(struct weft_exchange *x, struct weft_headers *h)
{
	struct router_aside *a = weft_exchange_user(x);

	weft_stream_respond_informational(a->r->s, h);
}

static void aside_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct router_aside *a = weft_exchange_user(x);
	struct router *r = a->r;
	unsigned status = why == WEFT_RESET_PROTOCOL ? 502 : 503;

	if (!others(a)) {
		adopt(a);
		router_reset(r, why, weft_exchange_detail(x));
		return;
	}
	a->x = NULL;
	unlink_aside(a);
	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_rx_reset, 1);
	weft_host_outcome(r->wc, a->lease->host, WEFT_OUT_LOCAL_RESET, 0);
	weft_scope_code(r->wc->cluster->scope, status);
	router_stat_code(r, status);
	release(r, a);
}

static const struct weft_exchange_ops aside_ops = {
	.headers = aside_headers, .informational = aside_informational, .reset = aside_reset};

void router_hedge_aside(struct router *r)
{
	struct router_aside *a = weft_arena_alloc(weft_stream_arena(r->s), sizeof(*a));

	a->r = r;
	swap(a);
	weft_exchange_set_user(a->x, &aside_ops, a);
	a->next = r->asides;
	r->asides = a;
	weft_timer_clear(&r->per_try);
	weft_timer_clear(&r->per_try_idle);
	r->paused_up = false;
}

void router_hedge_drop(struct router *r)
{
	struct router_aside *a;

	while ((a = r->asides) != NULL) {
		r->asides = a->next;
		release(r, a);
	}
}
