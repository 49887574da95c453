/* RequestAuthentication → jwt_authn. A token that is there must be valid; a request without one
 * goes on, and an AuthorizationPolicy may ask for it. */
#include "agent/gateway.h"

#include "xds/proto/envoy/extensions/filters/http/jwt_authn/v3/config.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FETCH_MS = 5000 };

static const Weft__Kube__RequestAuthenticationSpec *spec_of(const struct weft_object *o)
{
	return ((const Weft__Kube__RequestAuthentication *)o->msg)->spec;
}

/* The cluster for a URI of a Service of the mesh; others are looked up by name. */
static const char *uri_cluster(struct tr *t, struct gw_clusters *c, const char *uri)
{
	bool tls = !strncmp(uri, "https://", 8);
	const char *host = uri + (tls ? 8 : 7);
	size_t n = strcspn(host, ":/");
	const char *name = weft_arena_strndup(t->a, host, n);
	long port = host[n] == ':' ? strtol(host + n + 1, NULL, 10) : tls ? 443 : 80;

	struct tr_svc *s = tls ? NULL : tr_svc_by_host(t, name);

	if (s)
		return gw_cluster(c, s, (uint32_t)port);
	return gw_cluster_dns(c, name, (uint32_t)port, tls);
}

static void provider(struct tr *t, struct gw_clusters *c, void *p, const Weft__Kube__JwtRule *r)
{
	struct weft_arena *a = t->a;

	eb_str(a, p, "issuer", r->issuer);
	for (size_t i = 0; i < r->n_audiences; i++)
		eb_str(a, p, "audiences", r->audiences[i]);
	if (r->jwks) {
		eb_str(a, p, "local_jwks.inline_string", r->jwks);
	} else {
		const char *cluster = uri_cluster(t, c, r->jwks_uri);

		eb_str(a, p, "remote_jwks.http_uri.uri", r->jwks_uri);
		eb_str(a, p, "remote_jwks.http_uri.cluster", cluster ? cluster : "no-backend");
		eb_ms(a, p, "remote_jwks.http_uri.timeout",
		      r->timeout ? r->timeout->seconds * 1000 + r->timeout->nanos / 1000000
				 : FETCH_MS);
		eb_ms(a, p, "remote_jwks.cache_duration", 300000);
		eb_in(a, p, "remote_jwks.async_fetch");
	}
	for (size_t i = 0; i < r->n_from_headers; i++) {
		void *h = eb_in(a, p, "from_headers");

		eb_str(a, h, "name", r->from_headers[i]->name);
		eb_str(a, h, "value_prefix", r->from_headers[i]->prefix);
	}
	for (size_t i = 0; i < r->n_from_params; i++)
		eb_str(a, p, "from_params", r->from_params[i]);
	for (size_t i = 0; i < r->n_from_cookies; i++)
		eb_str(a, p, "from_cookies", r->from_cookies[i]);
	eb_num(a, p, "forward", r->forward_original_token);
	eb_str(a, p, "forward_payload_header", r->output_payload_to_header);
	eb_str(a, p, "payload_in_metadata", "payload");
	eb_str(a, p, "normalize_payload_in_metadata.space_delimited_claims", "scope");
	eb_str(a, p, "normalize_payload_in_metadata.space_delimited_claims", "permission");
	for (size_t i = 0; i < r->n_space_delimited_claims; i++)
		eb_str(a, p, "normalize_payload_in_metadata.space_delimited_claims",
		       r->space_delimited_claims[i]);
	for (size_t i = 0; i < r->n_output_claim_to_headers; i++) {
		void *h = eb_in(a, p, "claim_to_headers");

		eb_str(a, h, "header_name", r->output_claim_to_headers[i]->header);
		eb_str(a, h, "claim_name", r->output_claim_to_headers[i]->claim);
	}
}

void gw_jwt_filter(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		   struct gw_clusters *c)
{
	const struct gw_policies x = gw_policies_of(t, &t->authentication, g, s);
	void *f = NULL, *rule = NULL, *any = NULL;

	for (size_t k = 0; k < x.n; k++) {
		const struct weft_object *v = x.v[k];
		const Weft__Kube__RequestAuthenticationSpec *p = spec_of(v);

		for (size_t i = 0; i < p->n_jwt_rules; i++) {
			const char *name = weft_arena_printf(t->a, "%s/%s/%zu", v->ns, v->name, i);

			if (!f) {
				f = eb_new(
					t->a,
					&envoy__extensions__filters__http__jwt_authn__v3__jwt_authentication__descriptor);
				rule = eb_in(t->a, f, "rules");
				eb_str(t->a, rule, "match.prefix", "/");
				any = eb_in(t->a, rule, "requires.requires_any");
			}
			provider(t, c, eb_entry(t->a, f, "providers", name), p->jwt_rules[i]);
			eb_str(t->a, eb_in(t->a, any, "requirements"), "provider_name", name);
		}
	}
	if (!f)
		return;
	eb_in(t->a, eb_in(t->a, any, "requirements"), "allow_missing");
	eb_num(t->a, f, "bypass_cors_preflight", 1);
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.jwt_authn", f);
}
