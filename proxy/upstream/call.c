/* One request to a cluster and its whole answer, for filters that ask somebody. */
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/pool.h"
#include "proxy/upstream/transport.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct weft_call {
	struct weft_worker *w;
	struct weft_wcluster *wc; /* referenced */
	struct weft_host *host;	  /* referenced; NULL: none was found */
	struct weft_lease *lease;
	struct weft_exchange *x;
	struct weft_arena *arena;
	struct weft_headers request, *answer, *trailers;
	struct evbuffer *body, *got; /* body NULL: none */
	size_t body_max;
	int status;
	bool timed_out, told;
	enum weft_reset why;
	char detail[128];
	struct event timer;
	void (*done)(void *owner, const struct weft_call_result *r);
	void *owner;
};

static void call_free(struct weft_call *c)
{
	struct weft_wcluster *wc = c->wc;

	event_del(&c->timer);
	if (c->x)
		weft_exchange_reset(c->x, WEFT_RESET_LOCAL);
	if (c->lease)
		weft_lease_done(c->lease);
	weft_host_unref(c->host);
	if (c->body)
		evbuffer_free(c->body);
	if (c->got)
		evbuffer_free(c->got);
	weft_arena_free(c->arena);
	free(c);
	weft_wcluster_unref(wc);
}

static void outcome(struct weft_call *c)
{
	if (!c->host)
		return;
	if (c->status) {
		weft_scope_code(c->wc->cluster->scope, (unsigned)c->status);
		weft_host_outcome(c->wc, c->host, WEFT_OUT_CODE, c->status);
	} else if (c->timed_out || c->why == WEFT_RESET_TIMEOUT) {
		weft_host_outcome(c->wc, c->host, WEFT_OUT_LOCAL_TIMEOUT, 0);
	} else if (c->why == WEFT_RESET_CONNECT) {
		weft_host_outcome(c->wc, c->host, WEFT_OUT_LOCAL_CONNECT_FAILED, 0);
	} else if (c->why != WEFT_RESET_OVERFLOW && c->why != WEFT_RESET_LOCAL) {
		weft_host_outcome(c->wc, c->host, WEFT_OUT_LOCAL_RESET, 0);
	}
}

static void tell(struct weft_call *c)
{
	struct weft_call_result r = {.status = c->status,
				     .headers = c->status ? c->answer : NULL,
				     .trailers = c->status ? c->trailers : NULL,
				     .body = c->got,
				     .detail = c->detail,
				     .why = c->why};

	outcome(c);
	c->told = true;
	c->done(c->owner, &r);
}

/* Failed: the place is free before the owner may ask for another one. */
static void finish(struct weft_call *c)
{
	if (c->x) {
		weft_exchange_reset(c->x, WEFT_RESET_LOCAL);
		c->x = NULL;
	}
	if (c->lease) {
		weft_lease_done(c->lease);
		c->lease = NULL;
	}
	tell(c);
	call_free(c);
}

/* The answer is whole. Its exchange ends by itself, so that the connection can be used again; one
 * whose request is still on its way, unread, is not waited for long. */
static void answered(struct weft_call *c)
{
	static const struct timeval tail = {1, 0};

	evtimer_add(&c->timer, &tail);
	tell(c);
}

static void fail(struct weft_call *c, enum weft_reset why, const char *detail)
{
	c->status = 0;
	c->why = why;
	snprintf(c->detail, sizeof(c->detail), "%s", detail);
	finish(c);
}

/* ---- the exchange tells */

static void x_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct weft_call *c = weft_exchange_user(x);

	c->answer = weft_arena_alloc(c->arena, sizeof(*c->answer));
	*c->answer = *h;
	c->status = weft_headers_status(h);
	if (end)
		answered(c);
}

static void x_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct weft_call *c = weft_exchange_user(x);

	if (evbuffer_get_length(c->got) + evbuffer_get_length(b) > c->body_max) {
		fail(c, WEFT_RESET_LOCAL, "the answer's body is too large");
		return;
	}
	evbuffer_add_buffer(c->got, b);
	if (end)
		answered(c);
}

static void x_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct weft_call *c = weft_exchange_user(x);

	c->trailers = h;
	answered(c);
}

static void x_reset(struct weft_exchange *x, enum weft_reset why)
{
	static const char *const text[] = {
		[WEFT_RESET_NONE] = "the exchange ended",
		[WEFT_RESET_REMOTE] = "the peer cut the exchange",
		[WEFT_RESET_REFUSED] = "the peer refused the request",
		[WEFT_RESET_LOCAL] = "the connection was closed",
		[WEFT_RESET_CONNECT] = "the connection failed",
		[WEFT_RESET_PROTOCOL] = "the peer broke the protocol",
		[WEFT_RESET_OVERFLOW] = "overflow",
		[WEFT_RESET_TIMEOUT] = "timeout",
	};
	struct weft_call *c = weft_exchange_user(x);

	c->x = NULL;
	if (c->told)
		call_free(c);
	else
		fail(c, why, text[why]);
}

static void x_done(struct weft_exchange *x)
{
	struct weft_call *c = weft_exchange_user(x);

	c->x = NULL;
	if (c->told)
		call_free(c);
}

static void x_writable(struct weft_exchange *x)
{
}

static const struct weft_exchange_ops exchange_ops = {
	.headers = x_headers,
	.data = x_data,
	.trailers = x_trailers,
	.writable = x_writable,
	.reset = x_reset,
	.done = x_done,
};

/* ---- beginning */

static void soon(struct weft_call *c, enum weft_reset why, const char *detail)
{
	c->why = why;
	snprintf(c->detail, sizeof(c->detail), "%s", detail);
	event_active(&c->timer, EV_TIMEOUT, 0);
}

static void begin(struct weft_call *c)
{
	bool body = c->body && evbuffer_get_length(c->body);
	int r = weft_exchange_open(c->lease->session, &exchange_ops, c, c->arena, &c->request, body,
				   &c->x);

	if (r < 0) {
		c->x = NULL;
		soon(c, WEFT_RESET_REFUSED, "the connection took no request");
		return;
	}
	if (body)
		weft_exchange_send_data(c->x, c->body, true);
}

static void on_lease(void *owner, struct weft_lease *l)
{
	begin(owner);
}

static void on_lease_failed(void *owner, struct weft_lease *l, enum weft_reset why,
			    const char *detail)
{
	fail(owner, why, detail);
}

static const struct weft_lease_ops lease_ops = {.ready = on_lease, .failed = on_lease_failed};

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct weft_call *c = arg;

	if (c->told) {
		call_free(c);
		return;
	}
	if (c->detail[0]) { /* failed before it began */
		finish(c);
		return;
	}
	c->timed_out = true;
	if (c->host)
		weft_scope_add(c->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_timeout, 1);
	fail(c, WEFT_RESET_TIMEOUT, "timeout");
}

static void find_place(struct weft_call *c)
{
	struct weft_lb_ctx ctx = {.random = weft_rand64(), .now_ns = weft_now_ns()};
	const struct weft_endpoint_entry *entry = NULL;
	struct weft_take how = {.downstream = WEFT_HTTP_11};
	char name[WEFT_NAME_BYTES];
	const char *why = "";
	int r;

	c->host = weft_wcluster_pick(c->wc, &ctx, &entry, &why);
	if (!c->host) {
		soon(c, WEFT_RESET_CONNECT, why && *why ? why : "no_healthy_upstream");
		return;
	}
	how.metadata = entry ? entry->metadata : NULL;
	weft_transport_names(c->wc->cluster, &c->request, name, &how);
	r = weft_pool_take(c->wc, c->host, &how, &lease_ops, c, &c->lease);
	if (r < 0)
		soon(c, WEFT_RESET_OVERFLOW, "overflow");
	else if (r)
		begin(c);
}

struct weft_call *weft_call_start(struct weft_worker *w, const struct weft_call_conf *conf)
{
	struct weft_wcluster *wc = weft_wcluster_find(w, conf->cluster);
	struct timeval tv = {conf->timeout_ms / 1000, conf->timeout_ms % 1000 * 1000};
	struct weft_call *c;
	char text[24];

	if (!wc)
		return NULL;
	weft_wcluster_ref(wc);
	c = weft_xcalloc(1, sizeof(*c));
	c->w = w;
	c->wc = wc;
	c->arena = weft_arena_new(0);
	c->got = evbuffer_new();
	c->body_max = conf->body_max;
	c->done = conf->done;
	c->owner = conf->owner;
	weft_headers_init(&c->request, c->arena);
	weft_headers_copy(&c->request, conf->headers);
	if (conf->body && evbuffer_get_length(conf->body)) {
		c->body = evbuffer_new();
		evbuffer_add_buffer(c->body, conf->body);
		if (!weft_headers_get(&c->request, WEFT_H_CONTENT_LENGTH)) {
			int n = snprintf(text, sizeof(text), "%zu", evbuffer_get_length(c->body));

			weft_headers_add_id(&c->request, WEFT_H_CONTENT_LENGTH, text, (size_t)n);
		}
	}
	evtimer_assign(&c->timer, w->base, on_timer, c);
	if (conf->timeout_ms)
		evtimer_add(&c->timer, &tv);
	find_place(c);
	return c;
}

void weft_call_cancel(struct weft_call *c)
{
	if (c)
		call_free(c);
}
