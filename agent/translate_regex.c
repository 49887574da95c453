/* Regular expressions of routes. A waypoint refuses a whole table for one that does not compile, so
 * such a route is not attached. */
#include "agent/gateway.h"

#include "proxy/policy/match.h"
#include <stdio.h>
#include <string.h>

struct tried {
	struct tr *t;
	const char *why; /* of the first that is bad; NULL: none */
};

static void try(struct tried *x, const char *what, const char *type, const char *text)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = x->t->a, .errs = &errs};
	const struct weft_path at = {NULL, what, -1};
	const struct weft_regex *re;

	if (x->why || !text || !type || strcmp(type, "RegularExpression") != 0 ||
	    !weft_regex_compile(&c, &at, text, &re))
		return;
	x->why = weft_arena_printf(x->t->a, "%s: \"%.80s\": %.150s", what, text,
				   errs.n ? errs.v[0].msg : "is no regular expression");
}

static void try_pairs(struct tried *x, const char *what, Weft__Kube__StringMatch *const *v,
		      size_t n)
{
	for (size_t i = 0; i < n; i++)
		try(x, what, v[i]->type, v[i]->value);
}

static void http(struct tried *x, const Weft__Kube__HttpRouteSpec *s)
{
	for (size_t i = 0; i < s->n_rules; i++)
		for (size_t k = 0; k < s->rules[i]->n_matches; k++) {
			const Weft__Kube__HttpMatch *m = s->rules[i]->matches[k];

			if (m->path)
				try(x, "path", m->path->type, m->path->value);
			try_pairs(x, "headers", m->headers, m->n_headers);
			try_pairs(x, "queryParams", m->query_params, m->n_query_params);
		}
}

static void grpc(struct tried *x, const Weft__Kube__GrpcRouteSpec *s)
{
	for (size_t i = 0; i < s->n_rules; i++)
		for (size_t k = 0; k < s->rules[i]->n_matches; k++) {
			const Weft__Kube__GrpcMatch *m = s->rules[i]->matches[k];

			if (m->method) {
				try(x, "method.service", m->method->type, m->method->service);
				try(x, "method.method", m->method->type, m->method->method);
			}
			try_pairs(x, "headers", m->headers, m->n_headers);
		}
}

const char *gw_route_bad(struct tr *t, const struct weft_object *o)
{
	struct tried x = {.t = t};

	if (o->kind->id == WEFT_KIND_HTTP_ROUTE)
		http(&x, ((const Weft__Kube__HttpRoute *)o->msg)->spec);
	else if (o->kind->id == WEFT_KIND_GRPC_ROUTE)
		grpc(&x, ((const Weft__Kube__GrpcRoute *)o->msg)->spec);
	return x.why;
}
