/* Checks of HTTPRoute, GRPCRoute, TCPRoute and TLSRoute, each object by itself. */
#include "xds/check_priv.h"
#include "xds/proto/gateway.pb-c.h"
#include <stdio.h>
#include <string.h>

enum {
	PARENTS_MAX = 32,
	HOSTNAMES_MAX = 16,
	RULES_MAX = 128,
	MATCHES_MAX = 64,
	BACKENDS_MAX = 16,
	FILTERS_MAX = 16,
	HEADERS_MAX = 16,
	WEIGHT_MAX = 1000000
};

static void check_count(struct check *c, const struct weft_path *up, const void *m,
			const char *field, const char *name, size_t n, size_t max)
{
	if (n > max)
		check_bad(c, check_at(c, m, field, -1), &(struct weft_path){up, name, -1},
			  "must have at most %zu, has %zu", max, n);
}

static bool is_token(const char *s)
{
	static const char ok[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	return *s && strlen(s) <= 256 && !s[strspn(s, ok)];
}

static void check_header_name(struct check *c, const struct weft_path *up, const void *m,
			      const char *s)
{
	check_required(c, up, m, "name", "name", s);
	if (s && *s && !is_token(s))
		check_bad(c, check_at(c, m, "name", -1), &(struct weft_path){up, "name", -1},
			  "must be a header's name, is \"%.80s\"", s);
}

/* ---- parents and hostnames */

static void check_parents(struct check *c, const struct weft_path *up, const void *spec,
			  Weft__Kube__ParentRef *const *v, size_t n)
{
	check_count(c, up, spec, "parent_refs", "parentRefs", n, PARENTS_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct weft_path at = {up, "parentRefs", (int)i};
		const char *group = v[i]->group ? v[i]->group : "gateway.networking.k8s.io";
		const char *kind = v[i]->kind ? v[i]->kind : "Gateway";
		bool gateway =
			!strcmp(kind, "Gateway") && !strcmp(group, "gateway.networking.k8s.io");
		bool service = !strcmp(kind, "Service") && (!*group || !strcmp(group, "core"));

		check_required(c, &at, v[i], "name", "name", v[i]->name);
		if (!gateway && !service)
			check_bad(c, check_at(c, v[i], "kind", -1), &at,
				  "must be a Gateway of gateway.networking.k8s.io or a Service of "
				  "group \"\", is %.40s of \"%.60s\"",
				  kind, group);
		if (v[i]->has_port)
			check_number(c, &at, v[i], "port", "port", v[i]->port, 1, 65535);
	}
}

static void check_route_hostnames(struct check *c, const struct weft_path *up, const void *spec,
				  char *const *v, size_t n)
{
	check_count(c, up, spec, "hostnames", "hostnames", n, HOSTNAMES_MAX);
	for (size_t i = 0; i < n; i++)
		if (!check_hostname(v[i], true))
			check_bad(c, check_at(c, spec, "hostnames", (int)i),
				  &(struct weft_path){up, "hostnames", (int)i},
				  "must be a DNS name, or *. and one, is \"%.80s\"", v[i]);
}

static void check_default_gateways(struct check *c, const struct weft_path *up, const void *spec,
				   const char *use)
{
	if (use && strcmp(use, "None") != 0)
		check_refused(c, up, spec, "use_default_gateways", "useDefaultGateways",
			      "name the Gateway in parentRefs");
}

/* ---- matches */

static const char *const match_types[] = {"Exact", "RegularExpression", NULL};

static void check_pairs(struct check *c, const struct weft_path *up, const void *m,
			const char *field, const char *name, Weft__Kube__StringMatch *const *v,
			size_t n, bool header)
{
	check_count(c, up, m, field, name, n, HEADERS_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct weft_path at = {up, name, (int)i};

		check_one_of(c, &(struct weft_path){&at, "type", -1}, check_at(c, v[i], "type", -1),
			     v[i]->type, match_types);
		if (header)
			check_header_name(c, &at, v[i], v[i]->name);
		else
			check_required(c, &at, v[i], "name", "name", v[i]->name);
		if (!v[i]->value)
			check_required(c, &at, v[i], "value", "value", NULL);
	}
}

static void check_path_match(struct check *c, const struct weft_path *up,
			     const Weft__Kube__PathMatch *p)
{
	static const char *const types[] = {"Exact", "PathPrefix", "RegularExpression", NULL};
	const struct weft_path at = {up, "path", -1}, value = {&at, "value", -1};
	bool regex = p->type && !strcmp(p->type, "RegularExpression");

	check_one_of(c, &(struct weft_path){&at, "type", -1}, check_at(c, p, "type", -1), p->type,
		     types);
	if (!regex && p->value && *p->value != '/')
		check_bad(c, check_at(c, p, "value", -1), &value, "must begin with /, is \"%.80s\"",
			  p->value);
	else if (!regex && p->value &&
		 (strstr(p->value, "//") || strstr(p->value, "/./") || strstr(p->value, "/../") ||
		  strchr(p->value, '#') || strchr(p->value, '?')))
		check_bad(c, check_at(c, p, "value", -1), &value,
			  "must have no //, /./, /../, # or ?, is \"%.80s\"", p->value);
}

static void check_http_match(struct check *c, const struct weft_path *at,
			     const Weft__Kube__HttpMatch *m)
{
	static const char *const methods[] = {"GET",	 "HEAD",    "POST",  "PUT",   "DELETE",
					      "CONNECT", "OPTIONS", "TRACE", "PATCH", NULL};

	if (m->path)
		check_path_match(c, at, m->path);
	check_pairs(c, at, m, "headers", "headers", m->headers, m->n_headers, true);
	check_pairs(c, at, m, "query_params", "queryParams", m->query_params, m->n_query_params,
		    false);
	check_one_of(c, &(struct weft_path){at, "method", -1}, check_at(c, m, "method", -1),
		     m->method, methods);
}

static void check_grpc_match(struct check *c, const struct weft_path *at,
			     const Weft__Kube__GrpcMatch *m)
{
	const struct weft_path method = {at, "method", -1};

	if (m->method) {
		check_one_of(c, &(struct weft_path){&method, "type", -1},
			     check_at(c, m->method, "type", -1), m->method->type, match_types);
		if ((!m->method->service || !*m->method->service) &&
		    (!m->method->method || !*m->method->method))
			check_bad(c, check_at(c, m->method, NULL, -1), &method,
				  "must have one of service, method");
	}
	check_pairs(c, at, m, "headers", "headers", m->headers, m->n_headers, true);
}

/* ---- filters */

static void check_modifier(struct check *c, const struct weft_path *at,
			   const Weft__Kube__HeaderModifier *m)
{
	Weft__Kube__HeaderPair *const *lists[] = {m->set, m->add};
	const size_t n[] = {m->n_set, m->n_add};
	static const char *const names[] = {"set", "add"};

	for (int k = 0; k < 2; k++) {
		check_count(c, at, m, names[k], names[k], n[k], HEADERS_MAX);
		for (size_t i = 0; i < n[k]; i++) {
			const struct weft_path p = {at, names[k], (int)i};

			check_header_name(c, &p, lists[k][i], lists[k][i]->name);
			if (!lists[k][i]->value)
				check_required(c, &p, lists[k][i], "value", "value", NULL);
		}
	}
	check_count(c, at, m, "remove", "remove", m->n_remove, HEADERS_MAX);
	for (size_t i = 0; i < m->n_remove; i++)
		if (!is_token(m->remove[i]))
			check_bad(c, check_at(c, m, "remove", (int)i),
				  &(struct weft_path){at, "remove", (int)i},
				  "must be a header's name, is \"%.80s\"", m->remove[i]);
}

static void check_backend(struct check *c, const struct weft_path *at, const ProtobufCMessage *m,
			  const char *group, const char *kind, const char *name, bool has_port,
			  int port)
{
	check_required(c, at, m, "name", "name", name);
	if ((kind && strcmp(kind, "Service") != 0) || (group && *group))
		check_bad(c, check_at(c, m, "kind", -1), at,
			  "must be a Service of group \"\", is %.40s of \"%.60s\"",
			  kind ? kind : "Service", group ? group : "");
	else if (!has_port)
		check_bad(c, check_at(c, m, NULL, -1), &(struct weft_path){at, "port", -1},
			  "required with a Service");
	if (has_port)
		check_number(c, at, m, "port", "port", port, 1, 65535);
}

static void check_mirror(struct check *c, const struct weft_path *at,
			 const Weft__Kube__MirrorFilter *m)
{
	const Weft__Kube__BackendObject *b = m->backend_ref;
	const struct weft_path ref = {at, "backendRef", -1}, fraction = {at, "fraction", -1};

	if (!b)
		check_bad(c, check_at(c, m, NULL, -1), &ref, "required, but missing");
	else
		check_backend(c, &ref, &b->base, b->group, b->kind, b->name, b->has_port, b->port);
	if (m->has_percent && m->fraction)
		check_bad(c, check_at(c, m, "percent", -1), &fraction,
			  "cannot stand beside percent");
	if (m->has_percent)
		check_number(c, at, m, "percent", "percent", m->percent, 0, 100);
	if (m->fraction) {
		long max = m->fraction->has_denominator ? m->fraction->denominator : 100;

		check_number(c, &fraction, m->fraction, "denominator", "denominator", max, 1,
			     1000000);
		check_number(c, &fraction, m->fraction, "numerator", "numerator",
			     m->fraction->numerator, 0, max);
	}
}

static void check_path_modifier(struct check *c, const struct weft_path *up,
				const Weft__Kube__PathModifier *p)
{
	static const char *const types[] = {"ReplaceFullPath", "ReplacePrefixMatch", NULL};
	const struct weft_path at = {up, "path", -1};
	bool full = p->type && !strcmp(p->type, "ReplaceFullPath");

	check_required(c, &at, p, "type", "type", p->type);
	check_one_of(c, &(struct weft_path){&at, "type", -1}, check_at(c, p, "type", -1), p->type,
		     types);
	if (full ? !p->replace_full_path || p->replace_prefix_match
		 : !p->replace_prefix_match || p->replace_full_path)
		check_bad(c, check_at(c, p, NULL, -1), &at, "must have %s, and no other value",
			  full ? "replaceFullPath" : "replacePrefixMatch");
}

static void check_redirect(struct check *c, const struct weft_path *at,
			   const Weft__Kube__RedirectFilter *r)
{
	static const char *const schemes[] = {"http", "https", NULL};
	const int code = r->has_status_code ? r->status_code : 302;

	check_one_of(c, &(struct weft_path){at, "scheme", -1}, check_at(c, r, "scheme", -1),
		     r->scheme, schemes);
	if (r->hostname && !check_hostname(r->hostname, false))
		check_bad(c, check_at(c, r, "hostname", -1),
			  &(struct weft_path){at, "hostname", -1},
			  "must be a DNS name, is \"%.80s\"", r->hostname);
	if (r->has_port)
		check_number(c, at, r, "port", "port", r->port, 1, 65535);
	if (code != 301 && code != 302 && code != 303 && code != 307 && code != 308)
		check_bad(c, check_at(c, r, "status_code", -1),
			  &(struct weft_path){at, "statusCode", -1},
			  "must be one of 301, 302, 303, 307, 308, is %d", code);
	if (r->path)
		check_path_modifier(c, at, r->path);
}

/* What a filter's type is, and the field that goes with it. */
static const struct filter_kind {
	const char *type, *field, *name, *refused;
	bool grpc, backend; /* allowed in a GRPCRoute; on a backend */
} filter_kinds[] = {
	{"RequestHeaderModifier", "request_header_modifier", "requestHeaderModifier", NULL, true,
	 true},
	{"ResponseHeaderModifier", "response_header_modifier", "responseHeaderModifier", NULL, true,
	 true},
	{"RequestMirror", "request_mirror", "requestMirror", NULL, true, false},
	{"RequestRedirect", "request_redirect", "requestRedirect", NULL, false, false},
	{"URLRewrite", "url_rewrite", "urlRewrite", NULL, false, false},
	{"CORS", "cors", "cors", NULL, false, false},
	{"ExternalAuth", "external_auth", "externalAuth",
	 "write an AuthorizationPolicy of action CUSTOM", true, false},
	{"ExtensionRef", "extension_ref", "extensionRef", "no kinds of filters are known", true,
	 false},
};
enum { FILTER_KINDS = sizeof(filter_kinds) / sizeof(filter_kinds[0]) };

static const struct filter_kind *filter_find(struct check *c, const struct weft_path *at,
					     const Weft__Kube__RouteFilter *f)
{
	const char *names[FILTER_KINDS + 1] = {NULL};

	for (int i = 0; i < FILTER_KINDS; i++) {
		names[i] = filter_kinds[i].type;
		if (f->type && !strcmp(f->type, names[i]))
			return &filter_kinds[i];
	}
	check_required(c, at, f, "type", "type", f->type);
	check_one_of(c, &(struct weft_path){at, "type", -1}, check_at(c, f, "type", -1), f->type,
		     names);
	return NULL;
}

static const ProtobufCMessage *filter_value(const Weft__Kube__RouteFilter *f, const char *field)
{
	const ProtobufCFieldDescriptor *d =
		protobuf_c_message_descriptor_get_field_by_name(f->base.descriptor, field);

	return *(const ProtobufCMessage *const *)((const char *)f + d->offset);
}

static void check_filter(struct check *c, const struct weft_path *at,
			 const Weft__Kube__RouteFilter *f, bool grpc, bool backend)
{
	const struct filter_kind *k = filter_find(c, at, f);
	struct weft_path p = {at, k ? k->name : "", -1};

	if (!k)
		return;
	for (int i = 0; i < FILTER_KINDS; i++)
		if (&filter_kinds[i] != k && filter_value(f, filter_kinds[i].field))
			check_bad(c, check_at(c, f, filter_kinds[i].field, -1),
				  &(struct weft_path){at, filter_kinds[i].name, -1},
				  "cannot stand in a filter of type %s", k->type);
	if (k->refused || (grpc && !k->grpc) || (backend && !k->backend)) {
		check_bad(c, check_at(c, f, "type", -1), &(struct weft_path){at, "type", -1},
			  "%s is not supported%s: %s", k->type,
			  k->refused ? ""
			  : grpc     ? " in a GRPCRoute"
				     : " on a backend",
			  k->refused ? k->refused
			  : grpc     ? "it is for HTTPRoutes"
				     : "write it in the rule");
		return;
	}
	if (!filter_value(f, k->field)) {
		check_bad(c, check_at(c, f, NULL, -1), &p, "required with type %s", k->type);
		return;
	}
	if (f->request_header_modifier)
		check_modifier(c, &p, f->request_header_modifier);
	if (f->response_header_modifier)
		check_modifier(c, &p, f->response_header_modifier);
	if (f->request_mirror)
		check_mirror(c, &p, f->request_mirror);
	if (f->request_redirect)
		check_redirect(c, &p, f->request_redirect);
	if (f->url_rewrite && f->url_rewrite->path)
		check_path_modifier(c, &p, f->url_rewrite->path);
	if (f->url_rewrite && f->url_rewrite->hostname &&
	    !check_hostname(f->url_rewrite->hostname, false))
		check_bad(c, check_at(c, f->url_rewrite, "hostname", -1),
			  &(struct weft_path){&p, "hostname", -1},
			  "must be a DNS name, is \"%.80s\"", f->url_rewrite->hostname);
}

struct filters {
	Weft__Kube__RouteFilter *const *v;
	size_t n;
	bool grpc, backend;
	size_t n_matches, n_backends;
	bool prefixes; /* every match is a PathPrefix */
};

static void check_filters(struct check *c, const struct weft_path *up, const void *m,
			  const struct filters *x)
{
	bool redirect = false, rewrite = false;

	check_count(c, up, m, "filters", "filters", x->n, FILTERS_MAX);
	for (size_t i = 0; i < x->n; i++) {
		const Weft__Kube__RouteFilter *f = x->v[i];
		const struct weft_path at = {up, "filters", (int)i};
		const Weft__Kube__PathModifier *p = f->request_redirect ? f->request_redirect->path
						    : f->url_rewrite	? f->url_rewrite->path
									: NULL;

		check_filter(c, &at, f, x->grpc, x->backend);
		redirect |= f->request_redirect != NULL;
		rewrite |= f->url_rewrite != NULL;
		for (size_t k = 0; k < i; k++)
			if (f->type && x->v[k]->type && !strcmp(f->type, x->v[k]->type) &&
			    strcmp(f->type, "RequestMirror") != 0)
				check_bad(c, check_at(c, f, "type", -1),
					  &(struct weft_path){&at, "type", -1},
					  "%s may stand once in a rule", f->type);
		if (p && p->replace_prefix_match && !x->prefixes)
			check_bad(c, check_at(c, p, NULL, -1), &at,
				  "ReplacePrefixMatch needs every match of the rule to be a "
				  "PathPrefix");
	}
	if (redirect && (rewrite || x->n_backends))
		check_bad(c, check_at(c, m, "filters", -1), &(struct weft_path){up, "filters", -1},
			  "RequestRedirect cannot stand beside %s",
			  rewrite ? "URLRewrite" : "backendRefs");
}

/* ---- rules */

static void check_backends(struct check *c, const struct weft_path *up, const void *m,
			   Weft__Kube__BackendRef *const *v, size_t n, int form)
{
	check_count(c, up, m, "backend_refs", "backendRefs", n, BACKENDS_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct weft_path at = {up, "backendRefs", (int)i};
		const struct filters f = {v[i]->filters, v[i]->n_filters, form == 1, true, 0, 0,
					  false};

		check_backend(c, &at, &v[i]->base, v[i]->group, v[i]->kind, v[i]->name,
			      v[i]->has_port, v[i]->port);
		if (v[i]->has_weight)
			check_number(c, &at, v[i], "weight", "weight", v[i]->weight, 0, WEIGHT_MAX);
		if (form == 2 && v[i]->n_filters)
			check_bad(c, check_at(c, v[i], "filters", -1),
				  &(struct weft_path){&at, "filters", -1},
				  "are for HTTPRoute and GRPCRoute");
		else
			check_filters(c, &at, v[i], &f);
	}
}

static void check_duration(struct check *c, const struct weft_path *up, const void *m,
			   const char *field, const char *name, const char *s)
{
	if (s && weft_gateway_duration(s) < 0)
		check_bad(c, check_at(c, m, field, -1), &(struct weft_path){up, name, -1},
			  "must be a duration as 1h30m, 5s, 500ms, is \"%.40s\"", s);
}

static void check_retry(struct check *c, const struct weft_path *up,
			const Weft__Kube__RouteRetry *r)
{
	const struct weft_path at = {up, "retry", -1};

	for (size_t i = 0; i < r->n_codes; i++)
		if (r->codes[i] < 400 || r->codes[i] > 599)
			check_bad(c, check_at(c, r, "codes", (int)i),
				  &(struct weft_path){&at, "codes", (int)i},
				  "must be 400..599, is %d", r->codes[i]);
	if (r->has_attempts)
		check_number(c, &at, r, "attempts", "attempts", r->attempts, 0, 100);
	check_duration(c, &at, r, "backoff", "backoff", r->backoff);
}

static void check_timeouts(struct check *c, const struct weft_path *up,
			   const Weft__Kube__RouteTimeouts *t)
{
	const struct weft_path at = {up, "timeouts", -1};
	int64_t all = t->request ? weft_gateway_duration(t->request) : 0;
	int64_t one = t->backend_request ? weft_gateway_duration(t->backend_request) : 0;

	check_duration(c, &at, t, "request", "request", t->request);
	check_duration(c, &at, t, "backend_request", "backendRequest", t->backend_request);
	if (all > 0 && one > all)
		check_bad(c, check_at(c, t, "backend_request", -1),
			  &(struct weft_path){&at, "backendRequest", -1},
			  "must not be beyond request, %.20s, is %.20s", t->request,
			  t->backend_request);
}

static void check_http_rule(struct check *c, const struct weft_path *at,
			    const Weft__Kube__HttpRule *r)
{
	struct filters f = {.v = r->filters,
			    .n = r->n_filters,
			    .n_matches = r->n_matches,
			    .n_backends = r->n_backend_refs,
			    .prefixes = true};

	check_count(c, at, r, "matches", "matches", r->n_matches, MATCHES_MAX);
	for (size_t i = 0; i < r->n_matches; i++) {
		const Weft__Kube__PathMatch *p = r->matches[i]->path;

		check_http_match(c, &(struct weft_path){at, "matches", (int)i}, r->matches[i]);
		if (p && p->type && strcmp(p->type, "PathPrefix") != 0)
			f.prefixes = false;
	}
	check_filters(c, at, r, &f);
	check_backends(c, at, r, r->backend_refs, r->n_backend_refs, 0);
	if (r->timeouts)
		check_timeouts(c, at, r->timeouts);
	if (r->retry)
		check_retry(c, at, r->retry);
	if (r->session_persistence)
		check_refused(c, at, r, "session_persistence", "sessionPersistence",
			      "no cookies are made");
}

void check_http_route(struct check *c)
{
	const Weft__Kube__HttpRouteSpec *s = ((const Weft__Kube__HttpRoute *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	check_parents(c, &up, s, s->parent_refs, s->n_parent_refs);
	check_default_gateways(c, &up, s, s->use_default_gateways);
	check_route_hostnames(c, &up, s, s->hostnames, s->n_hostnames);
	check_count(c, &up, s, "rules", "rules", s->n_rules, RULES_MAX);
	for (size_t i = 0; i < s->n_rules; i++)
		check_http_rule(c, &(struct weft_path){&up, "rules", (int)i}, s->rules[i]);
}

void check_grpc_route(struct check *c)
{
	const Weft__Kube__GrpcRouteSpec *s = ((const Weft__Kube__GrpcRoute *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	check_parents(c, &up, s, s->parent_refs, s->n_parent_refs);
	check_default_gateways(c, &up, s, s->use_default_gateways);
	check_route_hostnames(c, &up, s, s->hostnames, s->n_hostnames);
	check_count(c, &up, s, "rules", "rules", s->n_rules, RULES_MAX);
	for (size_t i = 0; i < s->n_rules; i++) {
		const Weft__Kube__GrpcRule *r = s->rules[i];
		const struct weft_path at = {&up, "rules", (int)i};
		const struct filters f = {
			.v = r->filters, .n = r->n_filters, .grpc = true, .prefixes = true};

		check_count(c, &at, r, "matches", "matches", r->n_matches, MATCHES_MAX);
		for (size_t k = 0; k < r->n_matches; k++)
			check_grpc_match(c, &(struct weft_path){&at, "matches", (int)k},
					 r->matches[k]);
		check_filters(c, &at, r, &f);
		check_backends(c, &at, r, r->backend_refs, r->n_backend_refs, 1);
		if (r->session_persistence)
			check_refused(c, &at, r, "session_persistence", "sessionPersistence",
				      "no cookies are made");
	}
}

static void check_stream_rules(struct check *c, const struct weft_path *up, const void *spec,
			       Weft__Kube__StreamRule *const *v, size_t n)
{
	if (n != 1)
		check_bad(c, check_at(c, spec, n ? "rules" : NULL, -1),
			  &(struct weft_path){up, "rules", -1},
			  "must have one rule, has %zu: nothing would choose between them", n);
	for (size_t i = 0; i < n; i++) {
		const struct weft_path at = {up, "rules", (int)i};

		if (!v[i]->n_backend_refs)
			check_bad(c, check_at(c, v[i], NULL, -1),
				  &(struct weft_path){&at, "backendRefs", -1},
				  "required, but missing");
		check_backends(c, &at, v[i], v[i]->backend_refs, v[i]->n_backend_refs, 2);
	}
}

void check_tcp_route(struct check *c)
{
	const Weft__Kube__StreamRouteSpec *s = ((const Weft__Kube__TcpRoute *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	check_parents(c, &up, s, s->parent_refs, s->n_parent_refs);
	check_default_gateways(c, &up, s, s->use_default_gateways);
	check_stream_rules(c, &up, s, s->rules, s->n_rules);
}

void check_tls_route(struct check *c)
{
	const Weft__Kube__TlsRouteSpec *s = ((const Weft__Kube__TlsRoute *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	check_parents(c, &up, s, s->parent_refs, s->n_parent_refs);
	check_default_gateways(c, &up, s, s->use_default_gateways);
	if (!s->n_hostnames)
		check_bad(c, check_at(c, s, NULL, -1), &(struct weft_path){&up, "hostnames", -1},
			  "required, but missing");
	check_route_hostnames(c, &up, s, s->hostnames, s->n_hostnames);
	check_stream_rules(c, &up, s, s->rules, s->n_rules);
}
