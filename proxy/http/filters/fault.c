/* envoy.filters.http.fault: delays requests, aborts them, slows answers down. */
#include "proxy/core/timer.h"
#include "proxy/core/worker.h"
#include "proxy/http/filter.h"
#include "proxy/http/route.h"
#include "proxy/policy/match.h"

#include "xds/proto/envoy/extensions/filters/http/fault/v3/fault.pb-c.h"
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__Fault__V3__HTTPFault fault_msg;
typedef Envoy__Extensions__Filters__Http__Fault__V3__FaultAbort abort_msg;

enum {
	SLICE_MS = 50,
	SLICES = 1000 / SLICE_MS, /* a second */
	HELD_HIGH = 256 << 10,	  /* bytes of a slowed answer that are kept here */
	CLUSTER_MAX = 64	  /* bytes of a client's name in a counter */
};

enum stat { ABORTS, DELAYS, OVERFLOWS, LIMITED, ACTIVE };
static const struct weft_scope_item items[] = {
	{"fault.aborts_injected", WEFT_COUNTER, "Requests aborted by fault injection"},
	{"fault.delays_injected", WEFT_COUNTER, "Requests delayed by fault injection"},
	{"fault.faults_overflow", WEFT_COUNTER, "Faults left out because of max_active_faults"},
	{"fault.response_rl_injected", WEFT_COUNTER, "Answers slowed by fault injection"},
	{"fault.active_faults", WEFT_GAUGE, "Requests with a fault now"},
};
static const struct weft_scope_class cls = {
	.prefix = "http",
	.tag = "envoy_http_conn_manager_prefix",
	.v = items,
	.n = sizeof(items) / sizeof(*items),
};

struct chance {
	uint32_t of, numerator;
};
struct conf {
	struct weft_scope *scope; /* NULL: a route's */
	bool has_delay, has_abort, has_limit;
	bool delay_by_header, abort_by_header, limit_by_header;
	struct chance delay_chance, abort_chance, limit_chance;
	uint64_t delay_ms, kbps;
	int status, grpc_status; /* -1: not that kind */
	const char *cluster;	 /* NULL: any */
	const struct weft_hdrmatch *headers;
	size_t n_headers;
	char *const *nodes;
	size_t n_nodes;
	uint32_t max_active;
	bool no_cluster_stats;
	const Google__Protobuf__Struct *metadata;
};
struct state {
	struct weft_stream *s; /* NULL: no fault */
	const struct conf *conf;
	struct weft_scope *scope;
	struct weft_timer timer;
	bool active, delayed, paused, end, trailers;
	uint64_t slice; /* bytes; 0: the answer goes as it is */
	uint64_t filled_ns;
	unsigned tokens;
	struct evbuffer *held;
};

/* ---- configuration */

static struct chance chance_of(const Envoy__Type__V3__FractionalPercent *m)
{
	static const uint32_t of[] = {100, 10000, 1000000};

	if (!m)
		return (struct chance){100, 0};
	return (struct chance){of[m->denominator <= 2 ? m->denominator : 0], m->numerator};
}

static int delay_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Extensions__Filters__Common__Fault__V3__FaultDelay *m,
			 struct conf *conf)
{
	conf->has_delay = true;
	conf->delay_chance = chance_of(m->percentage);
	switch (m->fault_delay_secifier_case) {
	case ENVOY__EXTENSIONS__FILTERS__COMMON__FAULT__V3__FAULT_DELAY__FAULT_DELAY_SECIFIER_FIXED_DELAY:
		conf->delay_ms = (uint64_t)weft_cfg_ms(m->fixed_delay, 0);
		return 0;
	case ENVOY__EXTENSIONS__FILTERS__COMMON__FAULT__V3__FAULT_DELAY__FAULT_DELAY_SECIFIER_HEADER_DELAY:
		conf->delay_by_header = true;
		return 0;
	default:
		return weft_cfg_fail(c, at, "must have one of fixed_delay, header_delay");
	}
}

static int abort_prepare(struct weft_cfg *c, const struct weft_path *at, const abort_msg *m,
			 struct conf *conf)
{
	conf->has_abort = true;
	conf->abort_chance = chance_of(m->percentage);
	switch (m->error_type_case) {
	case ENVOY__EXTENSIONS__FILTERS__HTTP__FAULT__V3__FAULT_ABORT__ERROR_TYPE_HTTP_STATUS:
		conf->status = (int)m->http_status;
		return 0;
	case ENVOY__EXTENSIONS__FILTERS__HTTP__FAULT__V3__FAULT_ABORT__ERROR_TYPE_GRPC_STATUS:
		conf->grpc_status = (int)m->grpc_status;
		return 0;
	case ENVOY__EXTENSIONS__FILTERS__HTTP__FAULT__V3__FAULT_ABORT__ERROR_TYPE_HEADER_ABORT:
		conf->abort_by_header = true;
		return 0;
	default:
		return weft_cfg_fail(c, at,
				     "must have one of http_status, grpc_status, "
				     "header_abort");
	}
}

static int limit_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Extensions__Filters__Common__Fault__V3__FaultRateLimit *m,
			 struct conf *conf)
{
	conf->has_limit = true;
	conf->limit_chance = chance_of(m->percentage);
	switch (m->limit_type_case) {
	case ENVOY__EXTENSIONS__FILTERS__COMMON__FAULT__V3__FAULT_RATE_LIMIT__LIMIT_TYPE_FIXED_LIMIT:
		conf->kbps = m->fixed_limit->limit_kbps;
		return 0;
	case ENVOY__EXTENSIONS__FILTERS__COMMON__FAULT__V3__FAULT_RATE_LIMIT__LIMIT_TYPE_HEADER_LIMIT:
		conf->limit_by_header = true;
		return 0;
	default:
		return weft_cfg_fail(c, at, "must have one of fixed_limit, header_limit");
	}
}

static int prepare_route(struct weft_cfg *c, const struct weft_path *at,
			 const ProtobufCMessage *msg, const void **ret)
{
	const fault_msg *m = (const void *)msg;
	struct weft_path pd = {at, "delay", -1}, pa = {at, "abort", -1}, ph = {at, "headers", -1},
			 pl = {at, "response_rate_limit", -1};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	char **nodes = weft_arena_alloc(c->arena, (m->n_downstream_nodes + 1) * sizeof(*nodes));
	int err = 0;

	*ret = conf;
	conf->status = conf->grpc_status = -1;
	conf->max_active = weft_cfg_u32(m->max_active_faults, UINT32_MAX);
	conf->no_cluster_stats = m->disable_downstream_cluster_stats;
	conf->metadata = m->filter_metadata;
	if (m->upstream_cluster && *m->upstream_cluster)
		conf->cluster = weft_arena_strdup(c->arena, m->upstream_cluster);
	if (m->delay)
		err |= delay_prepare(c, &pd, m->delay, conf);
	if (m->abort)
		err |= abort_prepare(c, &pa, m->abort, conf);
	if (m->response_rate_limit)
		err |= limit_prepare(c, &pl, m->response_rate_limit, conf);
	err |= weft_hdrmatches_prepare(c, &ph, m->headers, m->n_headers, &conf->headers);
	conf->n_headers = m->n_headers;
	for (size_t i = 0; i < m->n_downstream_nodes; i++)
		nodes[i] = weft_arena_strdup(c->arena, m->downstream_nodes[i]);
	conf->nodes = nodes;
	conf->n_nodes = m->n_downstream_nodes;
	return err ? -EINVAL : 0;
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret)
{
	int err = prepare_route(c, at, m, ret);

	((struct conf *)*ret)->scope = weft_http_filter_scope(c, &cls);
	return err;
}

/* ---- what applies */

static bool number(const struct weft_headers *h, const char *name, uint64_t *ret)
{
	const struct weft_header *f = weft_headers_find(h, name, 0);
	uint64_t v = 0;

	if (!f || !f->value_len || f->value_len > 18)
		return false;
	for (uint32_t i = 0; i < f->value_len; i++) {
		if (f->value[i] < '0' || f->value[i] > '9')
			return false;
		v = 10 * v + (uint64_t)(f->value[i] - '0');
	}
	*ret = v;
	return true;
}

/* A header may lower the chance, where faults by header are allowed at all. */
static bool hit(struct chance ch, bool by_header, const struct weft_headers *h, const char *name)
{
	uint64_t n;

	if (by_header && number(h, name, &n) && n < ch.numerator)
		ch.numerator = (uint32_t)n;
	return weft_rand64() % ch.of < ch.numerator;
}

static bool node_matches(const struct conf *conf, const struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_find(h, "x-envoy-downstream-service-node", 31);

	if (!conf->n_nodes)
		return true;
	for (size_t i = 0; f && i < conf->n_nodes; i++)
		if (!strcmp(conf->nodes[i], f->value))
			return true;
	return false;
}

static bool cluster_matches(struct weft_stream *s, const struct conf *conf,
			    const struct weft_headers *h)
{
	const struct weft_route *r = conf->cluster ? weft_stream_route(s) : NULL;
	struct weft_route_in in = {h, weft_stream_info(s), weft_stream_random(s),
				   weft_stream_is_tls(s)};
	const struct weft_weighted *w;
	const char *name;

	if (!conf->cluster)
		return true;
	if (!r || r->action != WEFT_ROUTE_FORWARD)
		return false;
	name = weft_route_cluster(r, &in, &w);
	return name && !strcmp(name, conf->cluster);
}

/* One request is one active fault, whatever is done to it. */
static bool activate(struct state *st)
{
	if (st->active)
		return true;
	if (weft_scope_value(st->scope, ACTIVE) >= (int64_t)st->conf->max_active) {
		weft_scope_add(st->scope, OVERFLOWS, 1);
		return false;
	}
	weft_scope_add(st->scope, ACTIVE, 1);
	st->active = true;
	return true;
}

static void injected(struct state *st, enum stat what)
{
	static const char plain[] = "0123456789abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-.";
	struct weft_info *info = weft_stream_info(st->s);
	const struct weft_header *f = weft_headers_find(weft_stream_headers(st->s, WEFT_REQUEST),
							"x-envoy-downstream-service-cluster", 34);

	weft_scope_add(st->scope, what, 1);
	if (f && f->value_len && f->value_len <= CLUSTER_MAX && !st->conf->no_cluster_stats &&
	    strspn(f->value, plain) == f->value_len)
		weft_scope_add_named(st->scope,
				     weft_arena_printf(weft_stream_arena(st->s), "fault.%s.%s",
						       f->value, items[what].name + 6),
				     1);
	if (st->conf->metadata) {
		const Google__Protobuf__Struct *m = st->conf->metadata;
		Google__Protobuf__Struct *to = weft_info_meta(info, "envoy.filters.http.fault");

		for (size_t i = 0; i < m->n_fields; i++)
			weft_struct_set(info->arena, to, m->fields[i]->key, m->fields[i]->value);
	}
}

static bool abort_status(const struct conf *conf, const struct weft_headers *h,
			 struct weft_reply *a)
{
	uint64_t v;

	a->status = conf->status;
	a->grpc_status = conf->grpc_status;
	if (conf->abort_by_header) {
		if (number(h, "x-envoy-fault-abort-request", &v) && v >= 200 && v < 600)
			a->status = (int)v;
		else if (number(h, "x-envoy-fault-abort-grpc-request", &v) && v <= INT32_MAX)
			a->grpc_status = (int)v;
	}
	if (a->status < 0 && a->grpc_status < 0)
		return false;
	a->has_grpc_status = a->status < 0;
	if (a->has_grpc_status)
		a->status = 200;
	return true;
}

static bool aborts(struct state *st)
{
	const struct conf *conf = st->conf;
	const struct weft_headers *h = weft_stream_headers(st->s, WEFT_REQUEST);
	struct weft_reply a = {
		.details = "fault_filter_abort", .body = "fault filter abort", .body_n = 18};

	if (!conf->has_abort || !hit(conf->abort_chance, conf->abort_by_header, h,
				     "x-envoy-fault-abort-request-percentage"))
		return false;
	if (!abort_status(conf, h, &a) || !activate(st))
		return false;
	injected(st, ABORTS);
	weft_info_flag(weft_stream_info(st->s), WEFT_FLAG_FI);
	weft_stream_answer(st->s, &a);
	return true;
}

static struct state *of_timer(struct weft_timer *t)
{
	return (void *)((char *)t - offsetof(struct state, timer));
}

static void on_delayed(struct weft_timer *t)
{
	struct state *st = of_timer(t);

	st->delayed = false;
	if (!aborts(st))
		weft_stream_resume(st->s, st, WEFT_REQUEST);
}

static bool delays(struct state *st, const struct weft_headers *h)
{
	const struct conf *conf = st->conf;
	uint64_t ms = conf->delay_ms;

	if (!conf->has_delay || !hit(conf->delay_chance, conf->delay_by_header, h,
				     "x-envoy-fault-delay-request-percentage"))
		return false;
	if (conf->delay_by_header && !number(h, "x-envoy-fault-delay-request", &ms))
		return false;
	if (!ms || !activate(st))
		return false;
	st->delayed = true;
	weft_timer_set(weft_timers_of(weft_stream_worker(st->s)), &st->timer, ms, weft_now_ns(),
		       on_delayed);
	injected(st, DELAYS);
	weft_info_flag(weft_stream_info(st->s), WEFT_FLAG_DI);
	return true;
}

static void slows(struct state *st, const struct weft_headers *h)
{
	const struct conf *conf = st->conf;
	uint64_t kbps = conf->kbps;

	if (!conf->has_limit || !hit(conf->limit_chance, conf->limit_by_header, h,
				     "x-envoy-fault-throughput-response-percentage"))
		return;
	if (conf->limit_by_header &&
	    (!number(h, "x-envoy-fault-throughput-response", &kbps) || !kbps))
		return;
	if (kbps > UINT32_MAX)
		kbps = UINT32_MAX;
	if (!activate(st))
		return;
	st->slice = kbps * 1024 / SLICES;
	st->tokens = 1;
	st->filled_ns = weft_now_ns();
	weft_scope_add(st->scope, LIMITED, 1);
}

static enum weft_flow request_headers(struct weft_stream *s, const struct conf *conf,
				      struct state *st, const struct weft_headers *h)
{
	if (!cluster_matches(s, conf, h) || !node_matches(conf, h) ||
	    weft_hdrmatch_all(conf->headers, conf->n_headers, h) != WEFT_MATCH_YES)
		return WEFT_NEXT;
	st->s = s;
	st->conf = conf;
	st->scope = ((const struct conf *)weft_stream_chain_conf(s, st))->scope;
	slows(st, h);
	if (delays(st, h))
		return WEFT_WAIT;
	return aborts(st) ? WEFT_DONE : WEFT_NEXT;
}

static enum weft_flow headers(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	struct state *st = state;

	if (d == WEFT_REQUEST)
		return st->s ? WEFT_NEXT : request_headers(s, conf, st, h);
	return WEFT_NEXT;
}

/* ---- slow answers: slices of 50 ms */

static void on_slice(struct weft_timer *t);

static void arm(struct state *st)
{
	if (!weft_timer_is_set(&st->timer))
		weft_timer_set(weft_timers_of(weft_stream_worker(st->s)), &st->timer, SLICE_MS,
			       weft_now_ns(), on_slice);
}

static void refill(struct state *st)
{
	uint64_t n = (weft_now_ns() - st->filled_ns) / (SLICE_MS * 1000000ull);

	st->filled_ns += n * SLICE_MS * 1000000ull;
	st->tokens = n + st->tokens > SLICES ? SLICES : (unsigned)(n + st->tokens);
}

/* Moves on what there are tokens for. Stream and st may be gone after it. */
static void release(struct state *st)
{
	struct weft_stream *s = st->s;
	size_t n = evbuffer_get_length(st->held), give;
	uint64_t need = (n + st->slice - 1) / st->slice;
	struct evbuffer *b;
	bool end;

	if (!n && st->trailers) {
		weft_stream_resume(s, st, WEFT_RESPONSE);
		return;
	}
	refill(st);
	if (need > st->tokens)
		need = st->tokens;
	give = need * st->slice < n ? (size_t)(need * st->slice) : n;
	if (n && !give) {
		arm(st);
		return;
	}
	st->tokens -= (unsigned)need;
	b = evbuffer_new();
	if (!b)
		abort();
	evbuffer_remove_buffer(st->held, b, give);
	end = st->end && give == n;
	if (give < n || st->trailers)
		arm(st);
	if (st->paused && n - give < HELD_HIGH / 2) {
		st->paused = false;
		weft_stream_unpause(s, WEFT_RESPONSE);
	}
	if (give || end)
		weft_stream_inject(s, st, WEFT_RESPONSE, b, end);
	evbuffer_free(b);
}

static void on_slice(struct weft_timer *t)
{
	release(of_timer(t));
}

static enum weft_flow data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	struct state *st = state;

	if (d == WEFT_REQUEST || !st->slice)
		return WEFT_NEXT;
	if (!st->held && !(st->held = evbuffer_new()))
		abort();
	evbuffer_add_buffer(st->held, b);
	st->end = end;
	if (evbuffer_get_length(st->held) > HELD_HIGH && !st->paused) {
		st->paused = true;
		weft_stream_pause(s, WEFT_RESPONSE);
	}
	if (!weft_timer_is_set(&st->timer))
		release(st);
	return WEFT_DONE;
}

static enum weft_flow trailers(struct weft_stream *s, const void *conf, void *state,
			       enum weft_dir d, struct weft_headers *h)
{
	struct state *st = state;

	if (d == WEFT_REQUEST || !st->held || !evbuffer_get_length(st->held))
		return WEFT_NEXT;
	st->trailers = true;
	return WEFT_WAIT;
}

static void closed(struct weft_stream *s, const void *conf, void *state)
{
	struct state *st = state;

	weft_timer_clear(&st->timer);
	if (st->active)
		weft_scope_add(st->scope, ACTIVE, -1);
	if (st->held)
		evbuffer_free(st->held);
	memset(st, 0, sizeof(*st));
}

const struct weft_http_filter weft_http_filter_fault = {
	.ext = {.name = "envoy.filters.http.fault",
		.config = &envoy__extensions__filters__http__fault__v3__httpfault__descriptor,
		.per_route = &envoy__extensions__filters__http__fault__v3__httpfault__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare,
		.prepare_route = prepare_route},
	.headers = headers,
	.data = data,
	.trailers = trailers,
	.closed = closed,
};
