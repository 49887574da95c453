/* AuthorizationPolicies of action CUSTOM. */
#include "agent/gateway.h"

#include "xds/proto/envoy/extensions/filters/http/rbac/v3/rbac.pb-c.h"

/* Without anybody to ask, what the policy is for is denied. */
void gw_custom_filters(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		       struct gw_clusters *c)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_AUTHORIZATION_POLICY, &n);
	void *f;

	for (; n; v++, n--) {
		const Weft__Kube__AuthorizationPolicySpec *p =
			((const Weft__Kube__AuthorizationPolicy *)v->msg)->spec;

		if (p->action != WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__CUSTOM ||
		    !gw_targets(t, v, p->target_ref, p->target_refs, p->n_target_refs, g, s))
			continue;
		tr_bad(t, v, p, "action", -1, NULL,
		       "CUSTOM is not supported: what it is for is denied");
		f = eb_new(t->a, &envoy__extensions__filters__http__rbac__v3__rbac__descriptor);
		eb_str(t->a, f, "rules.action", "ALLOW");
		eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.rbac", f);
		return;
	}
}
