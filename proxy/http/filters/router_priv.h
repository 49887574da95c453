/* Inside of router*.c only: a request on its way upstream. */
#pragma once
#include "proxy/core/timer.h"
#include "proxy/http/filter.h"
#include "proxy/http/retry.h"
#include "proxy/http/route.h"
#include "proxy/http/route_stats.h"
#include "proxy/http/vcluster.h"
#include "proxy/upstream/pool.h"

enum { ROUTER_KEPT_MAX = 1 << 20, ROUTER_HOSTS_MAX = 32 };

struct router_conf {
	bool suppress;	       /* no x-envoy- headers of our own */
	bool respect_expected; /* an earlier proxy's x-envoy-expected-rq-timeout-ms is the timeout
				*/
	bool grpc_failures_quiet; /* suppress_grpc_request_failure_code_stats */
	uint32_t strict;	  /* bits: which header is checked */
};
struct router {
	struct weft_stream *s; /* NULL: not begun */
	const struct router_conf *conf;
	const struct weft_route *route;
	const struct weft_weighted *weighted;
	struct weft_wcluster *wc; /* referenced */
	struct weft_headers *req;
	struct weft_headers *trailers; /* of the request; NULL */
	struct evbuffer *out;	       /* body not yet given to this attempt; NULL: none */
	struct evbuffer
		*keep; /* all of the body, for another attempt or a mirror; NULL: not kept */
	struct weft_lease *lease;
	struct router_aside *asides; /* tries that timed out and may answer yet; NULL: none */
	struct tunnel *tunnel;	     /* NULL: not one */
	struct weft_scope *vc_stats; /* of its virtual cluster; NULL */
	struct weft_exchange *x;
	struct weft_timer total, per_try, per_try_idle, backoff, life;
	const struct weft_retry_policy *policy;
	uint64_t timeout_ms, per_try_ms, per_try_idle_ms, life_ms;
	uint64_t try_start_ns, sent_ns, begun_ns; /* begun: the first attempt */
	uint64_t hash;
	const char *set_cookie;
	uint32_t retry_on, retries_left, tries;
	const uint32_t *codes; /* of x-envoy-retriable-status-codes */
	size_t n_codes;
	const struct weft_hdrmatch *hdr_names; /* of x-envoy-retriable-header-names */
	size_t n_hdr_names;
	struct weft_host *tried[ROUTER_HOSTS_MAX]; /* referenced */
	unsigned n_tried;
	uint64_t tried_priorities;
	bool has_hash, body_expected; /* the request has more than a head */
	bool req_end;		      /* all of the request came */
	bool sent_end;		      /* all of it was given to this attempt */
	bool started;		      /* the answer's head went to the client */
	bool over;		      /* the answer is complete, or the stream was answered here */
	bool retrying;		      /* holds a place in the retry breaker */
	bool paused_down, paused_up;
	bool answer_whole;  /* the answer of this attempt came with its head */
	bool hedge;	    /* a try that times out goes on beside the next one */
	bool hedging;	    /* the retry that begins is such a one */
	bool retried;	    /* this try was retried already: its answer or end is final */
	bool timeout_retry; /* the next try follows a timeout */
	bool stale_retried; /* once, on a pooled connection that had died */
	bool expect;	    /* tells the upstream for how long an answer is waited */
};

/* Numbers of the route and of the virtual cluster, where there are any. */
static inline void router_stat(const struct router *r, enum weft_route_stat what)
{
	weft_scope_add(r->route->stats, what, 1);
	weft_scope_add(r->vc_stats, what, 1);
}
static inline void router_stat_code(const struct router *r, unsigned code)
{
	if (r->route->stats)
		weft_scope_code(r->route->stats, code);
	if (r->vc_stats)
		weft_scope_code(r->vc_stats, code);
}

/* router.c */
void router_expect(struct router *r); /* x-envoy-expected-rq-timeout-ms of this attempt */
uint64_t router_now(struct router *r);
void router_reply(struct router *r, int status, enum weft_flag flag, const char *details,
		  const char *body, bool overloaded);
void router_free_attempt(struct router *r, bool reset);
void router_timers_off(struct router *r);
/* router_attempt.c */
void router_attempt(struct router *r);
bool router_leave(struct router *r);	 /* whole both ways: it ends by itself; false: not yet */
void router_send_body(struct router *r); /* what waits in out, to the exchange */
void router_arm_request_done(struct router *r);
void router_timeout(struct router *r, bool per_try);
/* router_answer.c */
void router_host_answered(struct router *r, struct weft_headers *h);
void router_count_answer(struct router *r, const struct weft_headers *h, uint64_t now);
void router_own_headers(struct router *r, struct weft_headers *h, uint64_t now);
void router_note_upstream(struct router *r); /* which connection it is, for logs */
void router_adopted(struct router *r);	     /* another try's connection is the request's now */
/* router_retry.c */
void router_retry_init(struct router *r);
bool router_retry_reset(struct router *r, enum weft_reset why);
bool router_retry_headers(struct router *r, const struct weft_headers *h);
/* Begins another attempt after its back-off if budget and breaker allow. h: the answer that made
 * it, NULL: none. */
bool router_retry(struct router *r, const struct weft_headers *h);
void router_retry_done(struct router *r, bool success);
bool router_host_ok(void *owner, const struct weft_endpoint_entry *e);
void router_priorities(void *owner, uint32_t *pct, const uint32_t *there, size_t n);
/* router_answer: what follows the decision not to retry. router_reset: an end without one. */
void router_answer(struct router *r, struct weft_headers *h, bool end);
void router_reset(struct router *r, enum weft_reset why, const char *detail);
extern const struct weft_exchange_ops router_exchange_ops;
/* router_hedge.c: tries that timed out and are not given up. */
void router_hedge_init(struct router *r);
void router_hedge_timeout(struct router *r); /* of this try, softly */
void router_hedge_aside(struct router *r);   /* this try, to make room for the next */
void router_hedge_drop(struct router *r);    /* all of them */
/* router_redirect.c */
bool router_redirect(struct router *r, const struct weft_headers *h);
/* router_mirror.c: copies go out when the whole request is there. */
bool router_mirrors(const struct router *r);
void router_mirror_send(struct router *r);
/* router_tunnel.c: CONNECT ended here, to a TCP upstream. */
enum weft_flow router_tunnel(struct router *r);
void router_tunnel_data(struct router *r); /* bytes or the end wait in out */
void router_tunnel_closed(struct router *r);
