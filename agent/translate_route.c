/* HTTPRoute and GRPCRoute → Envoy's routes, in the Gateway API's order of precedence. */
#include "agent/gateway.h"

#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK_PREFIX, RANK_REGEX, RANK_EXACT };

void gw_route_defaults(struct tr *t, void *action)
{
	eb_ms(t->a, action, "timeout", 0);
	eb_str(t->a, action, "retry_policy.retry_on", "connect-failure,refused-stream");
	eb_num(t->a, action, "retry_policy.num_retries", 2);
}

/* ---- matches */

static void string_match(struct tr *t, void *m, const char *type, const char *value)
{
	if (type && !strcmp(type, "RegularExpression"))
		eb_str(t->a, m, "safe_regex.regex", value);
	else
		eb_str(t->a, m, "exact", value);
}

static void headers_match(struct tr *t, void *match, Weft__Kube__StringMatch *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		void *h;
		bool twice = false;

		/* of two for one header the first holds */
		for (size_t k = 0; k < i; k++)
			twice = twice || !strcasecmp(v[k]->name, v[i]->name);
		if (twice)
			continue;
		h = eb_in(t->a, match, "headers");
		eb_str(t->a, h, "name", v[i]->name);
		string_match(t, eb_in(t->a, h, "string_match"), v[i]->type, v[i]->value);
	}
}

char *gw_prefix(struct tr *t, const char *path)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	return weft_arena_strndup(t->a, path, n);
}

static void path_match(struct tr *t, struct gw_route *r, void *match,
		       const Weft__Kube__PathMatch *p)
{
	const char *type = p && p->type ? p->type : "PathPrefix";
	const char *value = p && p->value ? p->value : "/";

	r->path_len = (int)strlen(value);
	if (!strcmp(type, "Exact")) {
		r->path_rank = RANK_EXACT;
		eb_str(t->a, match, "path", value);
	} else if (!strcmp(type, "RegularExpression")) {
		r->path_rank = RANK_REGEX;
		eb_str(t->a, match, "safe_regex.regex", value);
	} else {
		const char *prefix = gw_prefix(t, value);

		r->path_rank = RANK_PREFIX;
		eb_str(t->a, match, strcmp(prefix, "/") ? "path_separated_prefix" : "prefix",
		       prefix);
	}
}

static void http_match(struct tr *t, struct gw_route *r, void *match,
		       const Weft__Kube__HttpMatch *m)
{
	path_match(t, r, match, m ? m->path : NULL);
	if (!m)
		return;
	r->method = m->method != NULL;
	r->headers = (int)m->n_headers;
	r->queries = (int)m->n_query_params;
	if (m->method) {
		void *h = eb_in(t->a, match, "headers");

		eb_str(t->a, h, "name", ":method");
		eb_str(t->a, h, "string_match.exact", m->method);
	}
	headers_match(t, match, m->headers, m->n_headers);
	for (size_t i = 0; i < m->n_query_params; i++) {
		bool twice = false;
		void *q;

		for (size_t k = 0; k < i; k++)
			twice = twice ||
				!strcmp(m->query_params[k]->name, m->query_params[i]->name);
		if (twice)
			continue;
		q = eb_in(t->a, match, "query_parameters");
		eb_str(t->a, q, "name", m->query_params[i]->name);
		string_match(t, eb_in(t->a, q, "string_match"), m->query_params[i]->type,
			     m->query_params[i]->value);
	}
}

static void grpc_match(struct tr *t, struct gw_route *r, void *match,
		       const Weft__Kube__GrpcMatch *m)
{
	const Weft__Kube__GrpcMethod *g = m ? m->method : NULL;
	const char *service = g && g->service && *g->service ? g->service : NULL;
	const char *method = g && g->method && *g->method ? g->method : NULL;
	bool regex = g && g->type && !strcmp(g->type, "RegularExpression");

	/* the longer the name that is asked for, the more it counts */
	r->path_len = (int)((service ? strlen(service) : 0) * 512 + (method ? strlen(method) : 0));
	r->path_rank = !g ? RANK_PREFIX : regex ? RANK_REGEX : RANK_EXACT;
	if (!g)
		eb_str(t->a, match, "prefix", "/");
	else if (!regex && service && method)
		eb_strf(t->a, match, "path", "/%s/%s", service, method);
	else if (!regex && service)
		eb_strf(t->a, match, "prefix", "/%s/", service);
	else
		eb_strf(t->a, match, "safe_regex.regex", "/%s/%s",
			!service ? "[^/]+"
			: regex	 ? weft_arena_printf(t->a, "(?:%s)", service)
				 : eb_quote(t->a, service),
			!method ? "[^/]+"
			: regex ? weft_arena_printf(t->a, "(?:%s)", method)
				: eb_quote(t->a, method));
	eb_in(t->a, match, "grpc");
	if (!m)
		return;
	r->headers = (int)m->n_headers;
	headers_match(t, match, m->headers, m->n_headers);
}

/* ---- where it goes */

const char *gw_backend_bad(struct tr *t, const struct weft_object *o, const char *ns,
			   const char *name, int port, struct tr_svc **ret)
{
	const char *in = ns && *ns ? ns : o->ns;

	*ret = tr_svc_find(t, in, name);
	if (!gw_granted(t, "gateway.networking.k8s.io", o->kind->kind, o->ns, "Service", in, name))
		return "RefNotPermitted";
	return !*ret || !gw_port(*ret, (uint32_t)port) ? "BackendNotFound" : NULL;
}

struct backend {
	const Weft__Kube__BackendRef *b;
	const char *cluster; /* NULL: cannot be used */
	long weight;
};

/* Those with a weight; the number of those that can be used. */
static size_t backends_of(struct gw_clusters *c, const struct weft_object *o,
			  Weft__Kube__BackendRef *const *v, size_t n, struct backend *out,
			  size_t *ret_n)
{
	size_t good = 0;

	*ret_n = 0;
	for (size_t i = 0; i < n; i++) {
		struct backend *b = &out[*ret_n];
		struct tr_svc *s;

		*b = (struct backend){v[i], NULL, v[i]->has_weight ? v[i]->weight : 1};
		if (!b->weight)
			continue;
		if (!gw_backend_bad(c->t, o, v[i]->namespace_, v[i]->name, v[i]->port, &s))
			b->cluster = gw_cluster(c, s, (uint32_t)v[i]->port);
		good += b->cluster != NULL;
		++*ret_n;
	}
	return good;
}

/* A backend that cannot be used gets its share of requests, and answers 500. */
static bool forward(struct gw_routes *x, void *route, const struct weft_object *o,
		    Weft__Kube__BackendRef *const *v, size_t n)
{
	struct tr *t = x->clusters->t;
	struct backend *b = weft_arena_alloc(t->a, (n + 1) * sizeof(*b));
	size_t k;
	void *action;

	if (!backends_of(x->clusters, o, v, n, b, &k)) {
		eb_num(t->a, route, "direct_response.status", 500);
		return false;
	}
	action = eb_in(t->a, route, "route");
	if (k == 1) {
		eb_str(t->a, action, "cluster", b[0].cluster);
		gw_modifiers(t, route, b[0].b->filters, b[0].b->n_filters);
		return true;
	}
	eb_str(t->a, action, "cluster_not_found_response_code", "INTERNAL_SERVER_ERROR");
	for (size_t i = 0; i < k; i++) {
		void *w = eb_in(t->a, action, "weighted_clusters.clusters");

		eb_str(t->a, w, "name", b[i].cluster ? b[i].cluster : "no-backend");
		eb_num(t->a, w, "weight", b[i].weight);
		gw_modifiers(t, w, b[i].b->filters, b[i].b->n_filters);
	}
	return true;
}

bool gw_stream_backends(struct gw_clusters *c, const struct weft_object *o, void *tcp_proxy)
{
	Weft__Kube__StreamRule *const *rules =
		o->kind->id == WEFT_KIND_TCP_ROUTE
			? ((const Weft__Kube__TcpRoute *)o->msg)->spec->rules
			: ((const Weft__Kube__TlsRoute *)o->msg)->spec->rules;
	struct backend *b = weft_arena_alloc(c->t->a, (rules[0]->n_backend_refs + 1) * sizeof(*b));
	size_t k;

	if (!backends_of(c, o, rules[0]->backend_refs, rules[0]->n_backend_refs, b, &k))
		return false;
	if (k == 1) {
		eb_str(c->t->a, tcp_proxy, "cluster", b[0].cluster);
		return true;
	}
	for (size_t i = 0; i < k; i++) {
		void *w = eb_in(c->t->a, tcp_proxy, "weighted_clusters.clusters");

		eb_str(c->t->a, w, "name", b[i].cluster ? b[i].cluster : "no-backend");
		eb_num(c->t->a, w, "weight", b[i].weight);
	}
	return true;
}

static void retry(struct tr *t, void *action, const Weft__Kube__RouteRetry *r)
{
	void *p = eb_in(t->a, action, "retry_policy");
	int64_t ms = r->backoff ? weft_gateway_duration(r->backoff) : 0;

	eb_str(t->a, p, "retry_on",
	       r->n_codes ? "connect-failure,refused-stream,reset,retriable-status-codes"
			  : "connect-failure,refused-stream,reset");
	for (size_t i = 0; i < r->n_codes; i++)
		eb_num(t->a, p, "retriable_status_codes", r->codes[i]);
	eb_num(t->a, p, "num_retries", r->has_attempts ? r->attempts : 1);
	if (ms > 0) {
		eb_ms(t->a, p, "retry_back_off.base_interval", ms);
		eb_ms(t->a, p, "retry_back_off.max_interval", ms * 10);
	}
}

static void timing(struct tr *t, void *action, const Weft__Kube__RouteTimeouts *timeouts,
		   const Weft__Kube__RouteRetry *r)
{
	int64_t all = timeouts && timeouts->request ? weft_gateway_duration(timeouts->request) : 0;
	int64_t one = timeouts && timeouts->backend_request
			      ? weft_gateway_duration(timeouts->backend_request)
			      : 0;

	if (r)
		retry(t, action, r);
	else
		gw_route_defaults(t, action);
	eb_ms(t->a, action, "timeout", all);
	if (one > 0)
		eb_ms(t->a, action, "retry_policy.per_try_timeout", one);
}

/* ---- one rule */

struct rule {
	const struct weft_object *o;
	int index;
	Weft__Kube__RouteFilter *const *filters;
	size_t n_filters;
	Weft__Kube__BackendRef *const *backends;
	size_t n_backends;
	const Weft__Kube__RouteTimeouts *timeouts;
	const Weft__Kube__RouteRetry *retry;
};

static struct gw_route *route_new(struct gw_routes *x, const struct rule *r, int match,
				  struct gw_route *e)
{
	struct weft_arena *a = x->clusters->t->a;

	*e = (struct gw_route){.o = r->o, .rule = r->index, .match = match, .host = x->host};
	e->route = eb_new(a, &envoy__config__route__v3__route__descriptor);
	eb_strf(a, e->route, "name", "%s/%s.%d", r->o->ns, r->o->name, r->index);
	eb_in(a, e->route, "match");
	return e;
}

static void route_fill(struct gw_routes *x, const struct rule *r, struct gw_route *e,
		       const Weft__Kube__PathMatch *path)
{
	struct tr *t = x->clusters->t;
	const Weft__Kube__RedirectFilter *away = NULL;
	void *action;

	for (size_t i = 0; i < r->n_filters; i++)
		if (r->filters[i]->request_redirect)
			away = r->filters[i]->request_redirect;
	gw_modifiers(t, e->route, r->filters, r->n_filters);
	for (size_t i = 0; i < r->n_filters; i++)
		if (r->filters[i]->cors)
			gw_cors(x, e->route, r->filters[i]->cors);
	if (away)
		gw_redirect(x, e->route, away, path);
	else if (forward(x, e->route, r->o, r->backends, r->n_backends)) {
		action = eb_in(t->a, e->route, "route");
		timing(t, action, r->timeouts, r->retry);
		for (size_t i = 0; i < r->n_filters; i++) {
			if (r->filters[i]->url_rewrite)
				gw_rewrite(t, action, r->filters[i]->url_rewrite, path);
			if (r->filters[i]->request_mirror)
				gw_mirror(x, action, r->o, r->filters[i]->request_mirror);
		}
	}
	TR_ADD(t, x->v, x->n, *e);
}

/* Without rules there is one, which takes everything and leads nowhere. */
static void add_http(struct gw_routes *x, const struct weft_object *o)
{
	const Weft__Kube__HttpRouteSpec *s = ((const Weft__Kube__HttpRoute *)o->msg)->spec;
	static const Weft__Kube__HttpRule none = WEFT__KUBE__HTTP_RULE__INIT;

	for (size_t i = 0; i < s->n_rules || i == 0; i++) {
		const Weft__Kube__HttpRule *m = s->n_rules ? s->rules[i] : &none;
		const struct rule r = {o,
				       (int)i,
				       m->filters,
				       m->n_filters,
				       m->backend_refs,
				       m->n_backend_refs,
				       m->timeouts,
				       m->retry};

		for (size_t k = 0; k < m->n_matches || k == 0; k++) {
			const Weft__Kube__HttpMatch *h = m->n_matches ? m->matches[k] : NULL;
			struct gw_route e;

			route_new(x, &r, (int)k, &e);
			http_match(x->clusters->t, &e, eb_in(x->clusters->t->a, e.route, "match"),
				   h);
			route_fill(x, &r, &e, h ? h->path : NULL);
		}
	}
}

static void add_grpc(struct gw_routes *x, const struct weft_object *o)
{
	const Weft__Kube__GrpcRouteSpec *s = ((const Weft__Kube__GrpcRoute *)o->msg)->spec;
	static const Weft__Kube__GrpcRule none = WEFT__KUBE__GRPC_RULE__INIT;

	for (size_t i = 0; i < s->n_rules || i == 0; i++) {
		const Weft__Kube__GrpcRule *m = s->n_rules ? s->rules[i] : &none;
		const struct rule r = {
			o,    (int)i, m->filters, m->n_filters, m->backend_refs, m->n_backend_refs,
			NULL, NULL};

		for (size_t k = 0; k < m->n_matches || k == 0; k++) {
			struct gw_route e;

			route_new(x, &r, (int)k, &e);
			grpc_match(x->clusters->t, &e, eb_in(x->clusters->t->a, e.route, "match"),
				   m->n_matches ? m->matches[k] : NULL);
			route_fill(x, &r, &e, NULL);
		}
	}
}

void gw_routes_add(struct gw_routes *r, const struct weft_object *o)
{
	if (o->kind->id == WEFT_KIND_HTTP_ROUTE)
		add_http(r, o);
	else
		add_grpc(r, o);
}

int gw_older(const struct weft_object *a, const struct weft_object *b)
{
	const char *ta = a->meta->creation_timestamp, *tb = b->meta->creation_timestamp;
	int c = ta && tb ? strcmp(ta, tb) : !ta - !tb;
	/* "a-b/x" comes before "a/b": it is the whole text that counts */
	size_t na = strlen(a->ns), nb = strlen(b->ns), n = na < nb ? na : nb;

	if (c)
		return c;
	c = strncmp(a->ns, b->ns, n);
	if (!c && na != nb)
		c = na < nb ? '/' - b->ns[n] : a->ns[n] - '/';
	return c ? c : strcmp(a->name, b->name);
}

/* The hostname first, then the most exact; of two alike the older object, then the first rule. */
static int precedence(const void *pa, const void *pb)
{
	const struct gw_route *a = pa, *b = pb;
	const int v[] = {a->host - b->host,	    b->path_rank - a->path_rank,
			 b->path_len - a->path_len, b->method - a->method,
			 b->headers - a->headers,   b->queries - a->queries};
	int c;

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++)
		if (v[i])
			return v[i];
	c = gw_older(a->o, b->o);
	c = c ? c : a->rule - b->rule;
	return c ? c : a->match - b->match;
}

bool gw_routes_all(const struct gw_routes *r)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct gw_route *e = &r->v[i];

		if (e->o->kind->id == WEFT_KIND_HTTP_ROUTE && e->path_rank == RANK_PREFIX &&
		    e->path_len <= 1 && !e->method && !e->headers && !e->queries)
			return true;
	}
	return false;
}

void gw_routes_put(struct gw_routes *r, void *vhost)
{
	struct tr *t = r->clusters->t;
	Envoy__Config__Route__V3__VirtualHost *vh = vhost;

	if (r->n)
		qsort(r->v, r->n, sizeof(*r->v), precedence);
	vh->n_routes = r->n;
	vh->routes = weft_arena_alloc(t->a, (r->n + 1) * sizeof(*vh->routes));
	for (size_t i = 0; i < r->n; i++)
		vh->routes[i] = r->v[i].route;
}
