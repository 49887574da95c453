/* AuthorizationPolicies of action CUSTOM: their rules say of which requests an external authorizer
 * of MeshConfig is asked. */
#include "agent/gateway.h"

#include "xds/proto/envoy/extensions/filters/http/ext_authz/v3/ext_authz.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/rbac/v3/rbac.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Weft__Kube__MeshExtensionProvider Provider;
enum { ASK_MS = 600000 };

static const Weft__Kube__AuthorizationPolicySpec *spec_of(const struct weft_object *o)
{
	return ((const Weft__Kube__AuthorizationPolicy *)o->msg)->spec;
}

static const Provider *provider_find(const struct tr *t, const char *name)
{
	for (size_t i = 0; t->config && i < t->config->n_extension_providers; i++)
		if (!strcmp(t->config->extension_providers[i]->name, name))
			return t->config->extension_providers[i];
	return NULL;
}

/* "NAMESPACE/HOST" or "HOST": a Service of the mesh, else a name to look up. */
static const char *cluster_of(struct tr *t, struct gw_clusters *c, const char *service,
			      uint32_t port)
{
	const char *slash = strchr(service, '/'), *host = slash ? slash + 1 : service;

	struct tr_svc *s = tr_svc_by_host(t, host);

	if (s)
		return gw_cluster(c, s, port);
	return gw_cluster_dns(c, host, port, false);
}

static int64_t ms_of(const Google__Protobuf__Duration *d)
{
	return d ? d->seconds * 1000 + d->nanos / 1000000 : ASK_MS;
}

/* "x-*", or the name itself; any case. */
static void patterns(struct tr *t, void *m, const char *path, char *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		void *p = eb_in(t->a, m, path);
		size_t len = strlen(v[i]);

		if (len && v[i][len - 1] == '*')
			eb_strf(t->a, p, "prefix", "%.*s", (int)len - 1, v[i]);
		else
			eb_str(t->a, p, "exact", v[i]);
		eb_num(t->a, p, "ignore_case", 1);
	}
}

static void ask_http(struct tr *t, struct gw_clusters *c, void *f,
		     const Weft__Kube__ExtAuthzHttp *p)
{
	const char *slash = strchr(p->service, '/');
	const char *cluster = cluster_of(t, c, p->service, (uint32_t)p->port);
	void *h = eb_in(t->a, f, "http_service");

	eb_strf(t->a, h, "server_uri.uri", "http://%s:%d", slash ? slash + 1 : p->service, p->port);
	eb_str(t->a, h, "server_uri.cluster", cluster ? cluster : "no-backend");
	eb_ms(t->a, h, "server_uri.timeout", ms_of(p->timeout));
	eb_str(t->a, h, "path_prefix", p->path_prefix);
	for (size_t i = 0; i < p->n_include_additional_headers_in_check; i++) {
		void *e = eb_in(t->a, h, "authorization_request.headers_to_add");

		eb_str(t->a, e, "key", p->include_additional_headers_in_check[i]->key);
		eb_str(t->a, e, "value", p->include_additional_headers_in_check[i]->value);
	}
	patterns(t, f, "allowed_headers.patterns", p->include_request_headers_in_check,
		 p->n_include_request_headers_in_check);
	patterns(t, h, "authorization_response.allowed_upstream_headers.patterns",
		 p->headers_to_upstream_on_allow, p->n_headers_to_upstream_on_allow);
	patterns(t, h, "authorization_response.allowed_client_headers.patterns",
		 p->headers_to_downstream_on_deny, p->n_headers_to_downstream_on_deny);
	eb_num(t->a, f, "failure_mode_allow", p->fail_open);
	if (p->status_on_error)
		eb_num(t->a, f, "status_on_error.code", strtol(p->status_on_error, NULL, 10));
}

static void ask_grpc(struct tr *t, struct gw_clusters *c, void *f,
		     const Weft__Kube__ExtAuthzGrpc *p)
{
	const char *cluster = cluster_of(t, c, p->service, (uint32_t)p->port);

	eb_str(t->a, f, "grpc_service.envoy_grpc.cluster_name", cluster ? cluster : "no-backend");
	eb_ms(t->a, f, "grpc_service.timeout", ms_of(p->timeout));
	eb_num(t->a, f, "failure_mode_allow", p->fail_open);
	if (p->status_on_error)
		eb_num(t->a, f, "status_on_error.code", strtol(p->status_on_error, NULL, 10));
}

/* The rules are tried as a DENY that only leaves its verdict; where it is "denied", one asks. */
static void ask(struct tr *t, struct gw_clusters *c, void *hcm, const Provider *p, void *rules)
{
	void *shadow = eb_new(t->a, &envoy__extensions__filters__http__rbac__v3__rbac__descriptor);
	void *f = eb_new(t->a,
			 &envoy__extensions__filters__http__ext_authz__v3__ext_authz__descriptor);
	const char *prefix = weft_arena_printf(t->a, "ext_authz_%s_", p->name);
	void *m;

	((Envoy__Extensions__Filters__Http__Rbac__V3__RBAC *)shadow)->shadow_rules = rules;
	eb_str(t->a, shadow, "shadow_rules_stat_prefix", prefix);
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.rbac", shadow);
	if (p->envoy_ext_authz_http)
		ask_http(t, c, f, p->envoy_ext_authz_http);
	else
		ask_grpc(t, c, f, p->envoy_ext_authz_grpc);
	eb_str(t->a, f, "transport_api_version", "V3");
	m = eb_in(t->a, f, "filter_enabled_metadata");
	eb_str(t->a, m, "filter", "envoy.filters.http.rbac");
	eb_strf(t->a, eb_in(t->a, m, "path"), "key", "%sshadow_engine_result", prefix);
	eb_str(t->a, m, "value.string_match.exact", "denied");
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.ext_authz", f);
}

/* Without anybody to ask, nothing that the policy is for goes on. */
static void deny(struct tr *t, const struct weft_object *o, void *hcm)
{
	void *f = eb_new(t->a, &envoy__extensions__filters__http__rbac__v3__rbac__descriptor);

	tr_bad(t, o, spec_of(o)->provider, "name", -1, NULL,
	       "there is no extensionProvider \"%.60s\" in MeshConfig; what the policy is for is "
	       "denied",
	       spec_of(o)->provider->name);
	eb_str(t->a, f, "rules.action", "ALLOW");
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.rbac", f);
}

void gw_custom_filters(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		       struct gw_clusters *c)
{
	const struct gw_policies x = gw_policies_of(t, &t->authorization, g, s);

	for (size_t i = 0; i < x.n; i++) {
		const Provider *to;
		bool before = false;

		if (!gw_is_custom(x.v[i]))
			continue;
		to = provider_find(t, spec_of(x.v[i])->provider->name);
		if (!to) {
			deny(t, x.v[i], hcm);
			continue;
		}
		for (size_t k = 0; k < i; k++)
			before = before || (gw_is_custom(x.v[k]) &&
					    !strcmp(spec_of(x.v[k])->provider->name, to->name));
		if (before)
			continue; /* asked for all its policies at once */
		ask(t, c, hcm, to, gw_custom_rules(t, g, s, to->name));
	}
}

/* A connection shows nothing that an authorizer would be asked about: it does not go on. */
bool gw_custom_tcp(struct tr *t, struct tr_gateway *g, struct tr_svc *s)
{
	const struct gw_policies x = gw_policies_of(t, &t->authorization, g, s);

	for (size_t i = 0; i < x.n; i++)
		if (gw_is_custom(x.v[i]))
			return true;
	return false;
}
