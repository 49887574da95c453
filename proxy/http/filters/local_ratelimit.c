/* envoy.filters.http.local_ratelimit: token buckets of this process. All workers take from one; a
 * bucket is the time at which it would have been empty, in one atomic. */
#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/http/filter.h"
#include "proxy/http/header_ops.h"
#include "proxy/http/ratelimit_actions.h"
#include "proxy/http/token_bucket.h"
#include "proxy/l4/chain.h"
#include "proxy/policy/match.h"

#include "xds/proto/envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.pb-c.h"
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__LocalRatelimit__V3__LocalRateLimit limit_msg;
typedef Envoy__Extensions__Common__Ratelimit__V3__LocalRateLimitDescriptor descriptor_msg;

enum {
	FILL_MIN_MS = 50,
	DESCRIPTORS_MAX = 10000,
	DYNAMIC = 20,	      /* buckets of a descriptor of any value */
	DYNAMIC_MAX = 1000,   /* of one */
	DYNAMIC_ALL = 100000, /* of a filter */
};

enum stat { ENABLED, ENFORCED, LIMITED, OK };
static const struct weft_scope_item items[] = {
	{"http_local_rate_limit.enabled", WEFT_COUNTER, "Requests the filter looked at"},
	{"http_local_rate_limit.enforced", WEFT_COUNTER, "Requests answered with 429"},
	{"http_local_rate_limit.rate_limited", WEFT_COUNTER, "Requests beyond the limit"},
	{"http_local_rate_limit.ok", WEFT_COUNTER, "Requests within the limit"},
};
static const struct weft_scope_class cls = {
	.prefix = "",
	.tag = "envoy_local_http_ratelimit_prefix",
	.v = items,
	.n = sizeof(items) / sizeof(*items),
};

struct limited {			/* a descriptor that has a bucket */
	struct weft_ratelimit_entry *v; /* value NULL: any */
	size_t n;
	uint64_t hash;
	unsigned bucket;
};
struct conf {
	uint64_t id;
	struct weft_scope *scope;
	const char *local_cluster; /* NULL: of a route */
	int status;
	uint32_t enabled, enforced; /* per million */
	struct weft_hdrops request, response;
	struct weft_token_bucket *bucket; /* [0] is the one for all */
	_Atomic int64_t *empty_ns; /* of each: when it was empty; then slots, n_slots of each that
				      is wild; NULL: a connection has its own */
	size_t n_buckets;
	const struct limited *wild; /* in their order */
	size_t n_wild, n_slots;
	const struct limited *descriptor; /* by hash */
	size_t n_descriptors;
	const struct weft_ratelimits *own; /* instead of the route's; NULL */
	uint32_t stage;
	int vhost; /* VhRateLimitsOptions */
	bool always_default, per_connection, show, exhausted;
};
struct state {
	bool counted;
	unsigned place; /* whose numbers are shown */
};

/* ---- configuration */

static int bucket_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Type__V3__TokenBucket *m, struct weft_token_bucket *b)
{
	struct weft_path p = {at, "fill_interval", -1};
	int64_t ms = weft_cfg_ms(m->fill_interval, 0);

	if (ms < FILL_MIN_MS)
		return weft_cfg_fail(c, &p, "must be at least %d ms, is %lld ms", FILL_MIN_MS,
				     (long long)ms);
	b->max = m->max_tokens;
	b->per_ns = (double)weft_cfg_u32(m->tokens_per_fill, 1) / ((double)ms * 1e6);
	return 0;
}

static bool same(const struct weft_ratelimit_entry *a, const struct weft_ratelimit_entry *b,
		 size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(a[i].key, b[i].key) || strcmp(a[i].value, b[i].value))
			return false;
	return true;
}

static bool is_wild(const struct limited *d)
{
	for (size_t i = 0; i < d->n; i++)
		if (!d->v[i].value)
			return true;
	return false;
}

static int descriptor_prepare(struct weft_cfg *c, const struct weft_path *at,
			      const descriptor_msg *m, struct limited *to)
{
	to->n = m->n_entries;
	to->v = weft_arena_alloc(c->arena, (to->n + 1) * sizeof(*to->v));
	for (size_t i = 0; i < to->n; i++) {
		const char *value = m->entries[i]->value;

		to->v[i].key = weft_arena_strdup(c->arena, m->entries[i]->key ?: "");
		to->v[i].value = value && *value ? weft_arena_strdup(c->arena, value) : NULL;
	}
	to->hash = is_wild(to) ? 0 : weft_ratelimit_hash(to->v, to->n);
	return 0;
}

/* *v: those of any value go from it to their own list. */
static int wild_prepare(struct weft_cfg *c, const struct weft_path *at, const limit_msg *m,
			struct limited *v, struct conf *conf)
{
	struct weft_path pd = {at, "max_dynamic_descriptors", -1};
	struct limited *wild = weft_arena_alloc(c->arena, (m->n_descriptors + 1) * sizeof(*wild));
	size_t n = 0;

	for (size_t i = 0; i < m->n_descriptors; i++) {
		if (is_wild(&v[i]))
			wild[conf->n_wild++] = v[i];
		else
			v[n++] = v[i];
	}
	conf->wild = wild;
	conf->n_descriptors = n;
	conf->n_slots = weft_cfg_u32(m->max_dynamic_descriptors, DYNAMIC);
	if (!conf->n_slots || conf->n_slots > DYNAMIC_MAX ||
	    conf->n_wild * conf->n_slots > DYNAMIC_ALL)
		return weft_cfg_fail(c, &pd,
				     "must be 1..%d, and %d for all descriptors of any value, is "
				     "%zu",
				     DYNAMIC_MAX, DYNAMIC_ALL, conf->n_slots);
	return 0;
}

static int by_hash(const void *a, const void *b)
{
	const struct limited *x = a, *y = b;

	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

static int descriptors_prepare(struct weft_cfg *c, const struct weft_path *at, const limit_msg *m,
			       struct conf *conf)
{
	struct weft_path pd = {at, "descriptors", -1};
	struct limited *v = weft_arena_alloc(c->arena, (m->n_descriptors + 1) * sizeof(*v));
	int err = 0;

	if (m->n_descriptors > DESCRIPTORS_MAX)
		return weft_cfg_fail(c, &pd, "must have at most %d items, has %zu", DESCRIPTORS_MAX,
				     m->n_descriptors);
	for (size_t i = 0; i < m->n_descriptors; i++) {
		struct weft_path p = {at, "descriptors", (int)i}, pt = {&p, "token_bucket", -1};

		err |= descriptor_prepare(c, &p, m->descriptors[i], &v[i]);
		if (m->descriptors[i]->token_bucket)
			err |= bucket_prepare(c, &pt, m->descriptors[i]->token_bucket,
					      &conf->bucket[i + 1]);
		v[i].bucket = (unsigned)i + 1;
	}
	if (err || wild_prepare(c, at, m, v, conf))
		return -EINVAL;
	qsort(v, conf->n_descriptors, sizeof(*v), by_hash);
	for (size_t i = 1; i < conf->n_descriptors; i++)
		if (v[i].hash == v[i - 1].hash && v[i].n == v[i - 1].n &&
		    same(v[i].v, v[i - 1].v, v[i].n))
			err = weft_cfg_fail(c, &pd,
					    "must not name a descriptor twice (\"%.40s\": "
					    "\"%.40s\" …)",
					    v[i].v[0].key, v[i].v[0].value);
	conf->descriptor = v;
	return err;
}

static void fill(const struct conf *conf, _Atomic int64_t *empty_ns)
{
	int64_t now = (int64_t)weft_now_ns();

	for (size_t i = 0; i < conf->n_buckets; i++)
		atomic_store(&empty_ns[i], weft_token_bucket_full(&conf->bucket[i], now));
}

/* Bytes of what changes: of the process, or of a connection. */
static size_t room(const struct conf *conf)
{
	return conf->n_buckets * sizeof(*conf->empty_ns) +
	       conf->n_wild * conf->n_slots * sizeof(struct weft_token_bucket_slot);
}

static int buckets_prepare(struct weft_cfg *c, const struct weft_path *at, const limit_msg *m,
			   struct conf *conf)
{
	struct weft_path pt = {at, "token_bucket", -1};
	int err = 0;

	conf->n_buckets = m->n_descriptors + 1;
	conf->bucket = weft_arena_alloc(c->arena, conf->n_buckets * sizeof(*conf->bucket));
	if (m->token_bucket)
		err |= bucket_prepare(c, &pt, m->token_bucket, &conf->bucket[0]);
	err |= descriptors_prepare(c, at, m, conf);
	if (conf->per_connection || err)
		return err;
	conf->empty_ns = weft_arena_alloc(c->arena, room(conf));
	fill(conf, conf->empty_ns);
	return 0;
}

static void unref_scope(void *s)
{
	weft_scope_unref(s);
}

static int limit_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const ProtobufCMessage *msg, bool chain, const void **ret)
{
	const limit_msg *m = (const void *)msg;
	struct weft_path pq = {at, "request_headers_to_add_when_not_enforced", -1},
			 ps = {at, "response_headers_to_add", -1}, pr = {at, "rate_limits", -1},
			 pt = {at, "token_bucket", -1};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	int err = 0;

	*ret = conf;
	if (!m->token_bucket && !chain)
		err |= weft_cfg_fail(c, &pt, "must be set");
	conf->id = weft_http_filter_id();
	conf->scope = weft_scope_get(&cls, m->stat_prefix ?: "");
	weft_arena_cleanup(c->arena, unref_scope, conf->scope);
	conf->status = m->status && (int)m->status->code >= 400 ? (int)m->status->code : 429;
	conf->enabled = weft_fraction(m->filter_enabled, 0);
	conf->enforced = weft_fraction(m->filter_enforced, 0);
	conf->stage = m->stage;
	conf->vhost = (int)m->vh_rate_limits;
	conf->always_default = weft_cfg_bool(m->always_consume_default_token_bucket, true);
	conf->per_connection = m->local_rate_limit_per_downstream_connection;
	conf->show =
		m->enable_x_ratelimit_headers ==
		ENVOY__EXTENSIONS__COMMON__RATELIMIT__V3__XRATE_LIMIT_HEADERS_RFCVERSION__DRAFT_VERSION_03;
	conf->exhausted = m->rate_limited_as_resource_exhausted;
	err |= weft_hdrops_prepare(c, &pq, m->request_headers_to_add_when_not_enforced,
				   m->n_request_headers_to_add_when_not_enforced, &conf->request);
	err |= weft_hdrops_prepare(c, &ps, m->response_headers_to_add, m->n_response_headers_to_add,
				   &conf->response);
	err |= weft_ratelimits_prepare(c, &pr, m->rate_limits, m->n_rate_limits, &conf->own);
	for (size_t i = 0; i < m->n_rate_limits; i++) {
		struct weft_path p = {at, "rate_limits", (int)i};

		if (m->rate_limits[i]->stage ||
		    (m->rate_limits[i]->disable_key && *m->rate_limits[i]->disable_key))
			err |= weft_cfg_fail(c, &p, "must not have stage or disable_key here");
	}
	err |= buckets_prepare(c, at, m, conf);
	return err ? -EINVAL : 0;
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret)
{
	const struct weft_net_context *x = c->context;
	int err = limit_prepare(c, at, m, true, ret);

	((struct conf *)*ret)->local_cluster =
		x && x->cluster ? weft_arena_strdup(c->arena, x->cluster) : "";
	return err;
}

static int prepare_route(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
			 const void **ret)
{
	return limit_prepare(c, at, m, false, ret);
}

/* ---- buckets */

static _Atomic int64_t *levels(struct weft_stream *s, const struct conf *conf)
{
	_Atomic int64_t *v = conf->empty_ns;
	bool fresh;

	if (v)
		return v;
	v = weft_stream_conn_part(s, conf->id, room(conf), &fresh);
	if (fresh)
		fill(conf, v);
	return v;
}

/* Places: buckets, then slots. */
static struct weft_token_bucket_slot *slots(const struct conf *conf, _Atomic int64_t *at)
{
	return (struct weft_token_bucket_slot *)(at + conf->n_buckets);
}

static const struct weft_token_bucket *bucket_of(const struct conf *conf, unsigned place)
{
	if (place < conf->n_buckets)
		return &conf->bucket[place];
	return &conf->bucket[conf->wild[(place - conf->n_buckets) / conf->n_slots].bucket];
}

static _Atomic int64_t *level_of(const struct conf *conf, _Atomic int64_t *at, unsigned place)
{
	return place < conf->n_buckets ? &at[place]
				       : &slots(conf, at)[place - conf->n_buckets].empty_ns;
}

/* ---- descriptors of a request */

static bool matches(const struct limited *l, const struct weft_ratelimit_descriptor *d)
{
	if (l->n != d->n)
		return false;
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i].key, d->v[i].key) ||
		    (l->v[i].value && strcmp(l->v[i].value, d->v[i].value)))
			return false;
	return true;
}

/* *ret: the place of a descriptor of any value. */
static bool find_wild(const struct conf *conf, _Atomic int64_t *at,
		      const struct weft_ratelimit_descriptor *d, unsigned *ret)
{
	for (size_t i = 0; i < conf->n_wild; i++) {
		size_t first = i * conf->n_slots;

		if (!matches(&conf->wild[i], d))
			continue;
		first += weft_token_bucket_slot_of(slots(conf, at) + first, conf->n_slots, d->hash,
						   &conf->bucket[conf->wild[i].bucket]);
		*ret = (unsigned)(conf->n_buckets + first);
		return true;
	}
	return false;
}

static const struct limited *find(const struct conf *conf,
				  const struct weft_ratelimit_descriptor *d)
{
	size_t lo = 0, hi = conf->n_descriptors;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (conf->descriptor[mid].hash < d->hash)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < conf->n_descriptors && conf->descriptor[lo].hash == d->hash; lo++)
		if (conf->descriptor[lo].n == d->n && same(conf->descriptor[lo].v, d->v, d->n))
			return &conf->descriptor[lo];
	return NULL;
}

/* Slowest first: what refuses most is asked before tokens of others are spent. */
static void insert(const struct conf *conf, unsigned *v, size_t n, unsigned at)
{
	while (n && bucket_of(conf, v[n - 1])->per_ns > bucket_of(conf, at)->per_ns) {
		v[n] = v[n - 1];
		n--;
	}
	v[n] = at;
}

static size_t match(struct weft_stream *s, const struct conf *conf, const void *state,
		    _Atomic int64_t *at, unsigned **ret)
{
	struct weft_headers *h = weft_stream_headers(s, WEFT_REQUEST);
	const struct conf *chain = weft_stream_chain_conf(s, state);
	const struct weft_route *r = weft_stream_route(s);
	const struct weft_ratelimits *l[2] = {conf->own, NULL};
	struct weft_route_in rin = {h, weft_stream_info(s), weft_stream_random(s),
				    weft_stream_is_tls(s)};
	struct weft_ratelimit_in in = {.h = h,
				       .info = rin.info,
				       .route = r,
				       .local_cluster = chain->local_cluster,
				       .arena = weft_stream_arena(s)};
	struct weft_ratelimit_descriptor *d;
	const struct weft_weighted *w;
	size_t n = 0, found = 0, max;

	if (!conf->own) {
		if (!r || r->action != WEFT_ROUTE_FORWARD)
			return 0;
		l[0] = weft_route_ratelimits(r);
		if (conf->vhost ==
			    ENVOY__EXTENSIONS__COMMON__RATELIMIT__V3__VH_RATE_LIMITS_OPTIONS__INCLUDE ||
		    (conf->vhost ==
			     ENVOY__EXTENSIONS__COMMON__RATELIMIT__V3__VH_RATE_LIMITS_OPTIONS__OVERRIDE &&
		     !l[0]))
			l[1] = weft_vhost_ratelimits(r->vhost);
	}
	max = weft_ratelimits_count(l[0]) + weft_ratelimits_count(l[1]);
	if (!max)
		return 0;
	if (r && r->action == WEFT_ROUTE_FORWARD)
		in.route_cluster = weft_route_cluster(r, &rin, &w);
	d = weft_arena_alloc(in.arena, max * sizeof(*d));
	*ret = weft_arena_alloc(in.arena, max * sizeof(**ret));
	for (unsigned k = 0; k < 2; k++)
		n += weft_ratelimits_run(l[k], conf->own ? 0 : conf->stage, &in, d + n, max - n);
	for (size_t i = 0; i < n; i++) {
		const struct limited *f = find(conf, &d[i]);
		unsigned place = f ? f->bucket : 0;

		if (f || find_wild(conf, at, &d[i], &place))
			insert(conf, *ret, found++, place);
	}
	return found;
}

/* *ret: the bucket whose numbers the answer shows. */
static bool allowed(struct weft_stream *s, const struct conf *conf, const void *state,
		    unsigned *ret)
{
	_Atomic int64_t *at = levels(s, conf);
	unsigned *v = NULL;
	size_t n = conf->n_descriptors || conf->n_wild ? match(s, conf, state, at, &v) : 0;

	for (size_t i = 0; i < n; i++) {
		*ret = v[i];
		if (!weft_token_bucket_take(bucket_of(conf, *ret), level_of(conf, at, *ret)))
			return false;
	}
	*ret = n ? v[0] : 0;
	if (!conf->bucket[0].max || (n && !conf->always_default))
		return true;
	if (weft_token_bucket_take(&conf->bucket[0], &at[0]))
		return true;
	*ret = 0;
	return false;
}

/* ---- callbacks */

struct edit {
	const struct conf *conf;
	struct weft_stream *s;
};

static struct weft_format_in format_in(struct weft_stream *s)
{
	return (struct weft_format_in){
		.info = weft_stream_info(s),
		.req = weft_stream_headers(s, WEFT_REQUEST),
	};
}

static void limited_headers(void *ctx, struct weft_headers *h)
{
	const struct edit *e = ctx;
	struct weft_format_in in = format_in(e->s);

	in.resp = h;
	weft_hdrops_apply(&e->conf->response, &in, h);
}

static void put_number(struct weft_headers *h, const char *name, uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	weft_headers_add(h, name, strlen(name), text, strlen(text));
}

static void show(struct weft_stream *s, const struct conf *conf, const struct state *st,
		 struct weft_headers *h)
{
	const struct weft_token_bucket *b = bucket_of(conf, st->place);
	_Atomic int64_t *at = level_of(conf, levels(s, conf), st->place);
	double n = weft_token_bucket_level(b, atomic_load(at), (int64_t)weft_now_ns());
	double s_left = n < 1 ? (1 - n) / b->per_ns / 1e9 : 0;

	put_number(h, "x-ratelimit-limit", b->max);
	put_number(h, "x-ratelimit-remaining", (uint64_t)n);
	put_number(h, "x-ratelimit-reset", (uint64_t)s_left);
}

static enum weft_flow refuse(struct weft_stream *s, const struct conf *conf)
{
	struct edit e = {conf, s};
	struct weft_reply a = {
		.status = conf->status,
		.details = "local_rate_limited",
		.body = "local_rate_limited",
		.body_n = 18,
		.has_grpc_status = conf->exhausted,
		.grpc_status = 8,
		.edit = limited_headers,
		.ctx = &e,
	};

	weft_scope_add(conf->scope, ENFORCED, 1);
	weft_info_flag(weft_stream_info(s), WEFT_FLAG_RL);
	return weft_stream_answer(s, &a);
}

static enum weft_flow headers(struct weft_stream *s, const void *c, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	const struct conf *conf = c;
	struct weft_format_in in;
	struct state *st = state;

	if (d == WEFT_RESPONSE) {
		if (st->counted && conf->show && bucket_of(conf, st->place)->max)
			show(s, conf, st, h);
		return WEFT_NEXT;
	}
	if (!conf->enabled || !weft_fraction_hit(conf->enabled, weft_rand64()))
		return WEFT_NEXT;
	weft_scope_add(conf->scope, ENABLED, 1);
	st->counted = true;
	if (allowed(s, conf, state, &st->place)) {
		weft_scope_add(conf->scope, OK, 1);
		return WEFT_NEXT;
	}
	weft_scope_add(conf->scope, LIMITED, 1);
	if (weft_fraction_hit(conf->enforced, weft_rand64()))
		return refuse(s, conf);
	in = format_in(s);
	weft_hdrops_apply(&conf->request, &in, h);
	return WEFT_NEXT;
}

const struct weft_http_filter weft_http_filter_local_ratelimit = {
	.ext = {.name = "envoy.filters.http.local_ratelimit",
		.config =
			&envoy__extensions__filters__http__local_ratelimit__v3__local_rate_limit__descriptor,
		.per_route =
			&envoy__extensions__filters__http__local_ratelimit__v3__local_rate_limit__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare,
		.prepare_route = prepare_route},
	.headers = headers,
};
