/* envoy.filters.http.cors: answers preflights and tells browsers who may read an answer. What to
 * allow stands in routes and virtual hosts; what one level leaves out the next one says. */
#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/http/filter.h"
#include "proxy/http/route.h"
#include "proxy/policy/match.h"

#include "xds/proto/envoy/extensions/filters/http/cors/v3/cors.pb-c.h"
#include <errno.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__Cors__V3__CorsPolicy policy_msg;

enum stat { VALID, INVALID };
static const struct weft_scope_item items[] = {
	{"cors.origin_valid", WEFT_COUNTER, "Requests whose origin is allowed"},
	{"cors.origin_invalid", WEFT_COUNTER, "Requests whose origin is not allowed"},
};
static const struct weft_scope_class cls = {
	.prefix = "http",
	.tag = "envoy_http_conn_manager_prefix",
	.v = items,
	.n = sizeof(items) / sizeof(*items),
};

struct conf {
	struct weft_scope *scope;
};
struct policy {
	const struct weft_strmatch *origins;
	size_t n_origins;
	const char *methods, *headers, *expose, *max_age; /* NULL: not said */
	int8_t credentials, private_network, forward;	  /* -1: not said */
	uint32_t enabled, shadow;			  /* per million */
};
struct state {
	const char *origin; /* of a request that is answered so; NULL: none */
	bool allowed;
};

/* ---- configuration */

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret)
{
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	conf->scope = weft_http_filter_scope(c, &cls);
	*ret = conf;
	return 0;
}

static const char *keep(struct weft_cfg *c, const char *s)
{
	return s && *s ? weft_arena_strdup(c->arena, s) : NULL;
}

static int8_t tri(const Google__Protobuf__BoolValue *b)
{
	return b ? (int8_t) !!b->value : -1;
}

static int prepare_route(struct weft_cfg *c, const struct weft_path *at,
			 const ProtobufCMessage *msg, const void **ret)
{
	const policy_msg *m = (const void *)msg;
	size_t n = m->n_allow_origin_string_match;
	struct policy *p = weft_arena_alloc(c->arena, sizeof(*p));
	struct weft_strmatch *v = weft_arena_alloc(c->arena, (n + 1) * sizeof(*v));
	int err = 0;

	*ret = p;
	for (size_t i = 0; i < n; i++) {
		struct weft_path po = {at, "allow_origin_string_match", (int)i};

		err |= weft_strmatch_prepare(c, &po, m->allow_origin_string_match[i], &v[i]);
	}
	p->origins = v;
	p->n_origins = n;
	p->methods = keep(c, m->allow_methods);
	p->headers = keep(c, m->allow_headers);
	p->expose = keep(c, m->expose_headers);
	p->max_age = keep(c, m->max_age);
	p->credentials = tri(m->allow_credentials);
	p->private_network = tri(m->allow_private_network_access);
	p->forward = tri(m->forward_not_matching_preflights);
	p->enabled = weft_fraction(m->filter_enabled, 1000000);
	p->shadow = weft_fraction(m->shadow_enabled, 0);
	return err ? -EINVAL : 0;
}

/* ---- what the levels say together */

struct policies {
	const void *v[WEFT_ROUTE_LEVELS];
	size_t n;
};

static const char *text_of(const struct policies *p, size_t offset)
{
	const char *s = NULL;

	for (size_t i = 0; i < p->n && !s; i++)
		s = *(const char *const *)((const char *)p->v[i] + offset);
	return s;
}
#define TEXT(p, field) text_of(p, offsetof(struct policy, field))

static bool flag_of(const struct policies *p, size_t offset, bool dflt)
{
	int8_t v = -1;

	for (size_t i = 0; i < p->n && v < 0; i++)
		v = *(const int8_t *)((const char *)p->v[i] + offset);
	return v < 0 ? dflt : v;
}
#define FLAG(p, field, dflt) flag_of(p, offsetof(struct policy, field), dflt)

static bool origin_allowed(const struct policies *p, const struct weft_header *origin)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct policy *q = p->v[i];

		for (size_t k = 0; k < q->n_origins; k++)
			if (weft_strmatch(&q->origins[k], "*", 1) == WEFT_MATCH_YES ||
			    weft_strmatch(&q->origins[k], origin->value, origin->value_len) ==
				    WEFT_MATCH_YES)
				return true;
		if (q->n_origins)
			return false;
	}
	return false;
}

/* ---- callbacks */

static void set(struct weft_headers *h, const char *name, const char *value)
{
	if (value)
		weft_headers_set(h, name, strlen(name), value, strlen(value));
}

struct preflight {
	const struct policies *p;
	const struct weft_headers *req;
	const char *origin;
};

static void preflight_headers(void *ctx, struct weft_headers *h)
{
	const struct preflight *f = ctx;
	const struct weft_header *net =
		weft_headers_find(f->req, "access-control-request-private-network", 38);

	set(h, "access-control-allow-origin", f->origin);
	if (FLAG(f->p, credentials, false))
		set(h, "access-control-allow-credentials", "true");
	set(h, "access-control-allow-methods", TEXT(f->p, methods));
	set(h, "access-control-allow-headers", TEXT(f->p, headers));
	set(h, "access-control-max-age", TEXT(f->p, max_age));
	if (net && !strcmp(net->value, "true") && FLAG(f->p, private_network, false))
		set(h, "access-control-allow-private-network", "true");
}

static enum weft_flow request_headers(struct weft_stream *s, struct state *st,
				      struct weft_headers *h)
{
	const struct conf *conf = weft_stream_chain_conf(s, st);
	const struct weft_header *origin = weft_headers_find(h, "origin", 6), *ask;
	struct policies p;
	struct preflight f = {&p, h, NULL};
	const struct weft_route *r;
	bool on, shadow;

	if (!origin || !origin->value_len)
		return WEFT_NEXT;
	r = weft_stream_route(s);
	if (!r || r->action != WEFT_ROUTE_FORWARD)
		return WEFT_NEXT;
	p.n = weft_stream_route_confs(s, st, p.v);
	if (!p.n)
		return WEFT_NEXT;
	on = weft_fraction_hit(((const struct policy *)p.v[0])->enabled, weft_rand64());
	shadow = weft_fraction_hit(((const struct policy *)p.v[0])->shadow, weft_rand64());
	if (!on && !shadow)
		return WEFT_NEXT;
	st->allowed = origin_allowed(&p, origin);
	weft_scope_add(conf->scope, st->allowed ? VALID : INVALID, 1);
	if (!on)
		return WEFT_NEXT;
	st->origin = weft_arena_strdup(weft_stream_arena(s), origin->value);
	ask = weft_headers_find(h, "access-control-request-method", 29);
	if (strcmp(weft_headers_value(h, WEFT_H_METHOD), "OPTIONS") || !ask || !ask->value_len)
		return WEFT_NEXT;
	if (!st->allowed && FLAG(&p, forward, true))
		return WEFT_NEXT;
	f.origin = st->allowed ? st->origin : NULL;
	return weft_stream_reply(s, 200, "cors_response", NULL, preflight_headers, &f);
}

static enum weft_flow headers(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	struct state *st = state;
	struct policies p;

	if (d == WEFT_REQUEST)
		return request_headers(s, st, h);
	if (!st->origin || !st->allowed)
		return WEFT_NEXT;
	p.n = weft_stream_route_confs(s, st, p.v);
	set(h, "access-control-allow-origin", st->origin);
	if (FLAG(&p, credentials, false))
		set(h, "access-control-allow-credentials", "true");
	set(h, "access-control-expose-headers", TEXT(&p, expose));
	return WEFT_NEXT;
}

const struct weft_http_filter weft_http_filter_cors = {
	.ext = {.name = "envoy.filters.http.cors",
		.config = &envoy__extensions__filters__http__cors__v3__cors__descriptor,
		.per_route = &envoy__extensions__filters__http__cors__v3__cors_policy__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare,
		.prepare_route = prepare_route},
	.headers = headers,
};
