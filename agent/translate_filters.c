/* Filters of HTTPRoute and GRPCRoute → fields of Envoy's routes. */
#include "agent/gateway.h"

#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/cors/v3/cors.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nothing in it is a command operator. */
static char *literal(struct tr *t, const char *s)
{
	char *to = weft_arena_alloc(t->a, 2 * strlen(s) + 1), *p = to;

	for (; *s; s++) {
		if (*s == '%')
			*p++ = '%';
		*p++ = *s;
	}
	*p = '\0';
	return to;
}

/* to: a Route or a ClusterWeight. */
static void modify(struct tr *t, void *to, const Weft__Kube__HeaderModifier *m, const char *add,
		   const char *remove)
{
	for (size_t i = 0; i < m->n_set + m->n_add; i++) {
		const Weft__Kube__HeaderPair *p = i < m->n_set ? m->set[i] : m->add[i - m->n_set];
		void *h = eb_in(t->a, to, add);

		eb_str(t->a, h, "header.key", p->name);
		eb_str(t->a, h, "header.value", literal(t, p->value));
		eb_str(t->a, h, "append_action",
		       i < m->n_set ? "OVERWRITE_IF_EXISTS_OR_ADD" : "APPEND_IF_EXISTS_OR_ADD");
		if (!*p->value)
			eb_num(t->a, h, "keep_empty_value", 1);
	}
	for (size_t i = 0; i < m->n_remove; i++)
		eb_str(t->a, to, remove, m->remove[i]);
}

void gw_modifiers(struct tr *t, void *to, Weft__Kube__RouteFilter *const *v, size_t n)
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
	const char *from = gw_prefix(t, match && match->value ? match->value : "/");
	const char *with;

	if (p->replace_full_path) {
		if (redirect)
			eb_str(t->a, to, "path_redirect", p->replace_full_path);
		else
			path_regex(t, to, "^.*$", p->replace_full_path);
		return;
	}
	with = gw_prefix(t, *p->replace_prefix_match ? p->replace_prefix_match : "/");
	if (!strcmp(from, "/"))
		eb_strf(t->a, to, "prefix_rewrite", "%s%s", with, strcmp(with, "/") ? "/" : "");
	else if (!strcmp(with, "/"))
		path_regex(t, to, weft_arena_printf(t->a, "^%s/*", eb_quote(t->a, from)), "/");
	else
		eb_str(t->a, to, "prefix_rewrite", with);
}

void gw_redirect(struct gw_routes *x, void *route, const Weft__Kube__RedirectFilter *f,
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
	/* Envoy keeps the port of the request's host, and takes only a well-known one away */
	if (f->has_port)
		eb_num(a, r, "port_redirect", f->port);
	else if (x->port && x->port != 80 && x->port != 443)
		eb_num(a, r, "port_redirect",
		       !f->scheme		     ? x->port
		       : !strcmp(f->scheme, "https") ? 443
						     : 80);
	if (f->path)
		path_modify(x->clusters->t, r, f->path, match, true);
}

void gw_rewrite(struct tr *t, void *action, const Weft__Kube__RewriteFilter *f,
		const Weft__Kube__PathMatch *match)
{
	eb_str(t->a, action, "host_rewrite_literal", f->hostname);
	if (f->path)
		path_modify(t, action, f->path, match, false);
}

/* Millionths, the finest that Envoy knows. */
void gw_mirror(struct gw_routes *x, void *action, const struct weft_object *o,
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

void gw_cors(struct gw_routes *x, void *route, const Weft__Kube__CorsFilter *f)
{
	struct tr *t = x->clusters->t;
	void *p =
		eb_new(t->a, &envoy__extensions__filters__http__cors__v3__cors_policy__descriptor);
	void *e;

	for (size_t i = 0; i < f->n_allow_origins; i++) {
		void *m = eb_in(t->a, p, "allow_origin_string_match");
		const char *from = f->allow_origins[i], *star = strchr(from, '*');
		char *re = weft_arena_strdup(t->a, "");

		if (!star) {
			eb_str(t->a, m, "exact", from);
			continue;
		}
		if (!strcmp(from, "*")) {
			eb_str(t->a, m, "safe_regex.regex", ".*");
			continue;
		}
		for (; star; from = star + 1, star = strchr(from, '*'))
			re = weft_arena_printf(
				t->a, "%s%s.+", re,
				eb_quote(t->a,
					 weft_arena_strndup(t->a, from, (size_t)(star - from))));
		eb_strf(t->a, m, "safe_regex.regex", "%s%s", re, eb_quote(t->a, from));
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
