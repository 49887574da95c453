/* Which policies are for a Gateway or a Service: looked up, since there may be thousands of both.
 */
#include "agent/gateway.h"
#include "proxy/core/first.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tr_target {
	const char *key; /* "Kind ns/name" */
	const struct weft_object *o;
};

static int target_order(const void *pa, const void *pb)
{
	const struct tr_target *a = pa, *b = pb;
	int c = strcmp(a->key, b->key);

	return c ? c : a->o < b->o ? -1 : a->o > b->o;
}

static void target_add(struct tr *t, struct tr_targets *x, const struct weft_object *o,
		       const Weft__Kube__PolicyTargetReference *r)
{
	TR_ADD(t, x->v, x->n,
	       ((struct tr_target){weft_arena_printf(t->a, "%s %s/%s", r->kind, o->ns, r->name),
				   o}));
}

void tr_targets(struct tr *t)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_AUTHORIZATION_POLICY, &n);

	for (; n; v++, n--) {
		const Weft__Kube__AuthorizationPolicySpec *p =
			((const Weft__Kube__AuthorizationPolicy *)v->msg)->spec;

		if (p->target_ref)
			target_add(t, &t->authorization, v, p->target_ref);
		for (size_t i = 0; i < p->n_target_refs; i++)
			target_add(t, &t->authorization, v, p->target_refs[i]);
	}
	v = weft_objects_of(t->objs, WEFT_KIND_REQUEST_AUTHENTICATION, &n);
	for (; n; v++, n--) {
		const Weft__Kube__RequestAuthenticationSpec *p =
			((const Weft__Kube__RequestAuthentication *)v->msg)->spec;

		if (p->target_ref)
			target_add(t, &t->authentication, v, p->target_ref);
		for (size_t i = 0; i < p->n_target_refs; i++)
			target_add(t, &t->authentication, v, p->target_refs[i]);
	}
	if (t->authorization.n)
		qsort(t->authorization.v, t->authorization.n, sizeof(struct tr_target),
		      target_order);
	if (t->authentication.n)
		qsort(t->authentication.v, t->authentication.n, sizeof(struct tr_target),
		      target_order);
}

static void found(struct tr *t, const struct tr_targets *x, const char *kind, const char *ns,
		  const char *name, struct gw_policies *to)
{
	const char *key = weft_arena_printf(t->a, "%s %s/%s", kind, ns, name);

	for (size_t i = WEFT_FIRST(x->v, x->n, key); i < x->n && !strcmp(x->v[i].key, key); i++)
		TR_ADD(t, to->v, to->n, x->v[i].o);
}

static int object_order(const void *pa, const void *pb)
{
	const struct weft_object *const *a = pa, *const *b = pb;

	return *a < *b ? -1 : *a > *b;
}

struct gw_policies gw_policies_of(struct tr *t, const struct tr_targets *x,
				  const struct tr_gateway *g, const struct tr_svc *s)
{
	struct gw_policies r = {0};
	size_t kept = 0;

	if (!x->n)
		return r;
	found(t, x, "Gateway", g->ns, g->name, &r);
	found(t, x, "GatewayClass", t->mesh.root_namespace, g->spec->gateway_class_name, &r);
	if (s)
		found(t, x, "Service", s->o->ns, s->o->name, &r);
	if (r.n > 1) { /* in the order of the folder, each once */
		qsort(r.v, r.n, sizeof(const struct weft_object *), object_order);
		for (size_t i = 0; i < r.n; i++)
			if (!i || r.v[i] != r.v[i - 1])
				r.v[kept++] = r.v[i];
		r.n = kept;
	}
	return r;
}
