/* HTTPRoute and GRPCRoute → Envoy's routes, in the Gateway API's order of precedence. */
#include "agent/gateway.h"

#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/cors/v3/cors.pb-c.h"
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

static char *prefix_of(struct tr *t, const char *path)
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
		const char *prefix = prefix_of(t, value);

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
		void *q = eb_in(t->a, match, "query_parameters");

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
			: regex	 ? service
				 : eb_quote(t->a, service),
			!method ? "[^/]+"
			: regex ? method
				: eb_quote(t->a, method));
	eb_in(t->a, match, "grpc");
	if (!m)
		return;
	r->headers = (int)m->n_headers;
	headers_match(t, match, m->headers, m->n_headers);
}

/* ---- filters */

/* to: a Route or a ClusterWeight. */
static void modify(struct tr *t, void *to, const Weft__Kube__HeaderModifier *m, const char *add,
		   const char *remove)
{
	for (size_t i = 0; i < m->n_set + m->n_add; i++) {
		const Weft__Kube__HeaderPair *p = i < m->n_set ? m->set[i] : m->add[i - m->n_set];
		void *h = eb_in(t->a, to, add);

		eb_str(t->a, h, "header.key", p->name);
		eb_str(t->a, h, "header.value", p->value);
		eb_str(t->a, h, "append_action",
		       i < m->n_set ? "OVERWRITE_IF_EXISTS_OR_ADD" : "APPEND_IF_EXISTS_OR_ADD");
		if (!*p->value)
			eb_num(t->a, h, "keep_empty_value", 1);
	}
	for (size_t i = 0; i < m->n_remove; i++)
		eb_str(t->a, to, remove, m->remove[i]);
}

static void modifiers(struct tr *t, void *to, Weft__Kube__RouteFilter *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (v[i]->request_header_modifier)
			modify(t, to, v[i]->request_header_modifier, "request_headers_to_add",
			       "request_headers_to_remove");
		if (v[i]->response_header_modifier)
			modify(t, to, v[i]->response_header_modifier, "response_headers_to_add",
			       "response_headers_to_remove");
	}
}

/* As the text of a substitution: a backslash refers to a group. */
static char *substitution(struct tr *t, const char *s)
{
	char *to = weft_arena_alloc(t->a, 2 * strlen(s) + 1), *p = to;

	for (; *s; s++) {
		if (*s == '\\')
			*p++ = '\\';
		*p++ = *s;
	}
	*p = '\0';
	return to;
}

static void path_regex(struct tr *t, void *to, const char *pattern, const char *with)
{
	eb_str(t->a, to, "regex_rewrite.pattern.regex", pattern);
	eb_str(t->a, to, "regex_rewrite.substitution", substitution(t, with));
}

/* The prefix goes with the slashes around it, so that "/a" by "/" and "/" by "/a" keep one. */
static void path_modify(struct tr *t, void *to, const Weft__Kube__PathModifier *p,
			const Weft__Kube__PathMatch *match, bool redirect)
{
	const char *from = prefix_of(t, match && match->value ? match->value : "/");
	const char *with;

	if (p->replace_full_path) {
		if (redirect)
			eb_str(t->a, to, "path_redirect", p->replace_full_path);
		else
			path_regex(t, to, "^.*$", p->replace_full_path);
		return;
	}
	with = prefix_of(t, *p->replace_prefix_match ? p->replace_prefix_match : "/");
	if (!strcmp(from, "/"))
		eb_strf(t->a, to, "prefix_rewrite", "%s%s", with, strcmp(with, "/") ? "/" : "");
	else if (!strcmp(with, "/"))
		path_regex(t, to, weft_arena_printf(t->a, "^%s/*", eb_quote(t->a, from)), "/");
	else
		eb_str(t->a, to, "prefix_rewrite", with);
}

static void redirect(struct gw_routes *x, void *route, const Weft__Kube__RedirectFilter *f,
		     const Weft__Kube__PathMatch *match)
{
	static const struct {
		int code;
		const char *name;
	} codes[] = {{301, "MOVED_PERMANENTLY"},
		     {302, "FOUND"},
		     {303, "SEE_OTHER"},
		     {307, "TEMPORARY_REDIRECT"},
		     {308, "PERMANENT_REDIRECT"}};
	struct weft_arena *a = x->clusters->t->a;
	void *r = eb_in(a, route, "redirect");
	int code = f->has_status_code ? f->status_code : 302;

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].code == code)
			eb_str(a, r, "response_code", codes[i].name);
	eb_str(a, r, "scheme_redirect", f->scheme);
	eb_str(a, r, "host_redirect", f->hostname);
	if (f->has_port)
		eb_num(a, r, "port_redirect", f->port);
	else if (!f->scheme && x->port && x->port != 80 && x->port != 443)
		eb_num(a, r, "port_redirect", x->port);
	if (f->path)
		path_modify(x->clusters->t, r, f->path, match, true);
}

static void rewrite(struct tr *t, void *action, const Weft__Kube__RewriteFilter *f,
		    const Weft__Kube__PathMatch *match)
{
	eb_str(t->a, action, "host_rewrite_literal", f->hostname);
	if (f->path)
		path_modify(t, action, f->path, match, false);
}

/* Millionths, the finest that Envoy knows. */
static void mirror(struct gw_routes *x, void *action, const struct weft_object *o,
		   const Weft__Kube__MirrorFilter *f)
{
	struct tr *t = x->clusters->t;
	const Weft__Kube__BackendObject *b = f->backend_ref;
	const char *cluster = NULL;
	struct tr_svc *s;
	long long parts = 1000000;
	void *m;

	if (!gw_backend_bad(t, o, b->namespace_, b->name, b->port, &s))
		cluster = gw_cluster(x->clusters, s, (uint32_t)b->port);
	if (!cluster)
		return; /* ResolvedRefs says so */
	if (f->has_percent)
		parts = f->percent * 10000LL;
	if (f->fraction)
		parts = 1000000LL * f->fraction->numerator /
			(f->fraction->has_denominator ? f->fraction->denominator : 100);
	m = eb_in(t->a, action, "request_mirror_policies");
	eb_str(t->a, m, "cluster", cluster);
	eb_num(t->a, m, "disable_shadow_host_suffix_append", 1);
	if (parts == 1000000)
		return;
	eb_num(t->a, m, "runtime_fraction.default_value.numerator", parts);
	eb_str(t->a, m, "runtime_fraction.default_value.denominator", "MILLION");
}

static char *join(struct tr *t, char *const *v, size_t n)
{
	char *s = weft_arena_strdup(t->a, "");

	for (size_t i = 0; i < n; i++)
		s = weft_arena_printf(t->a, "%s%s%s", s, i ? "," : "", v[i]);
	return s;
}

static void cors(struct gw_routes *x, void *route, const Weft__Kube__CorsFilter *f)
{
	struct tr *t = x->clusters->t;
	void *p =
		eb_new(t->a, &envoy__extensions__filters__http__cors__v3__cors_policy__descriptor);
	void *e;

	for (size_t i = 0; i < f->n_allow_origins; i++) {
		void *m = eb_in(t->a, p, "allow_origin_string_match");
		const char *star = strchr(f->allow_origins[i], '*');

		if (!star)
			eb_str(t->a, m, "exact", f->allow_origins[i]);
		else if (star == f->allow_origins[i] && !star[1])
			eb_str(t->a, m, "safe_regex.regex", ".*");
		else
			eb_strf(t->a, m, "safe_regex.regex", "%s.+%s",
				eb_quote(t->a,
					 weft_arena_strndup(t->a, f->allow_origins[i],
							    (size_t)(star - f->allow_origins[i]))),
				eb_quote(t->a, star + 1));
	}
	if (f->n_allow_methods)
		eb_str(t->a, p, "allow_methods", join(t, f->allow_methods, f->n_allow_methods));
	if (f->n_allow_headers)
		eb_str(t->a, p, "allow_headers", join(t, f->allow_headers, f->n_allow_headers));
	if (f->n_expose_headers)
		eb_str(t->a, p, "expose_headers", join(t, f->expose_headers, f->n_expose_headers));
	eb_strf(t->a, p, "max_age", "%d", f->has_max_age ? f->max_age : 5);
	eb_num(t->a, p, "allow_credentials", f->allow_credentials);
	e = eb_in(t->a, route, "typed_per_filter_config");
	eb_str(t->a, e, "key", "envoy.filters.http.cors");
	eb_any(t->a, e, "value", p);
	x->cors = true;
}

void gw_cors_filter(struct tr *t, void *hcm)
{
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.cors",
		 eb_new(t->a, &envoy__extensions__filters__http__cors__v3__cors__descriptor));
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
		modifiers(t, route, b[0].b->filters, b[0].b->n_filters);
		return true;
	}
	eb_str(t->a, action, "cluster_not_found_response_code", "INTERNAL_SERVER_ERROR");
	for (size_t i = 0; i < k; i++) {
		void *w = eb_in(t->a, action, "weighted_clusters.clusters");

		eb_str(t->a, w, "name", b[i].cluster ? b[i].cluster : "no-backend");
		eb_num(t->a, w, "weight", b[i].weight);
		modifiers(t, w, b[i].b->filters, b[i].b->n_filters);
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

	*e = (struct gw_route){.o = r->o, .rule = r->index, .match = match};
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
	modifiers(t, e->route, r->filters, r->n_filters);
	for (size_t i = 0; i < r->n_filters; i++)
		if (r->filters[i]->cors)
			cors(x, e->route, r->filters[i]->cors);
	if (away)
		redirect(x, e->route, away, path);
	else if (forward(x, e->route, r->o, r->backends, r->n_backends)) {
		action = eb_in(t->a, e->route, "route");
		timing(t, action, r->timeouts, r->retry);
		for (size_t i = 0; i < r->n_filters; i++) {
			if (r->filters[i]->url_rewrite)
				rewrite(t, action, r->filters[i]->url_rewrite, path);
			if (r->filters[i]->request_mirror)
				mirror(x, action, r->o, r->filters[i]->request_mirror);
		}
	}
	TR_ADD(t, x->v, x->n, *e);
}

static void add_http(struct gw_routes *x, const struct weft_object *o)
{
	const Weft__Kube__HttpRouteSpec *s = ((const Weft__Kube__HttpRoute *)o->msg)->spec;

	for (size_t i = 0; i < s->n_rules; i++) {
		const Weft__Kube__HttpRule *m = s->rules[i];
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

	for (size_t i = 0; i < s->n_rules; i++) {
		const Weft__Kube__GrpcRule *m = s->rules[i];
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

/* The most exact first; of two alike the object that comes first by name, then the first rule. */
static int precedence(const void *pa, const void *pb)
{
	const struct gw_route *a = pa, *b = pb;
	const int v[] = {b->path_rank - a->path_rank, b->path_len - a->path_len,
			 b->method - a->method, b->headers - a->headers, b->queries - a->queries};
	int c;

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++)
		if (v[i])
			return v[i];
	c = strcmp(a->o->ns, b->o->ns);
	c = c ? c : strcmp(a->o->name, b->o->name);
	c = c ? c : a->rule - b->rule;
	return c ? c : a->match - b->match;
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
