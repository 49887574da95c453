/* PeerAuthentication → DENY policies on "no identity". Precedence: workload, namespace, mesh; UNSET
 * takes the next one's. Where several hold for a workload each must be satisfied, so the strictest
 * decides. */
#include "agent/translate.h"

#include <stdio.h>
#include <string.h>

typedef Weft__Kube__PeerAuthenticationSpec Spec;

static const char static_strict[] = "istio_converted_static_strict";

enum mode { UNSET, PERMISSIVE, STRICT };

/* DISABLE is what PERMISSIVE is: plaintext is taken, and inside the mesh TLS is spoken all the
 * same. */
static enum mode mode_of(const Weft__Kube__MutualTls *m)
{
	switch (m ? m->mode : WEFT__KUBE__MUTUAL_TLS__MODE__UNSET) {
	case WEFT__KUBE__MUTUAL_TLS__MODE__STRICT:
		return STRICT;
	case WEFT__KUBE__MUTUAL_TLS__MODE__PERMISSIVE:
	case WEFT__KUBE__MUTUAL_TLS__MODE__DISABLE:
		return PERMISSIVE;
	default:
		return UNSET;
	}
}

static bool selective(const Spec *s)
{
	return s->selector && s->selector->n_match_labels;
}

/* The mode of the PeerAuthentications of a namespace that have no selector. */
static enum mode wide_mode(struct tr *t, const struct weft_object *v, size_t n, const char *ns)
{
	enum mode best = UNSET;

	for (size_t i = 0; i < n; i++) {
		const Spec *s = ((const Weft__Kube__PeerAuthentication *)v[i].msg)->spec;
		enum mode m = mode_of(s->mtls);

		if (!strcmp(v[i].ns, ns) && !selective(s) && m > best)
			best = m;
	}
	return best;
}

static Istio__Security__Match *no_identity(struct tr *t)
{
	Istio__Security__Match *m = tr_new(t, &istio__security__match__descriptor);
	Istio__Security__StringMatch *any = tr_new(t, &istio__security__string_match__descriptor);

	any->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
	any->presence = tr_new(t, &google__protobuf__empty__descriptor);
	TR_ADD(t, m->not_principals, m->n_not_principals, any);
	return m;
}

static Istio__Security__Rule *rule_with(struct tr *t, Istio__Security__Match *m,
					Istio__Security__Match *and)
{
	Istio__Security__Rule *r = tr_new(t, &istio__security__rule__descriptor);
	Istio__Security__Match *const all[] = {m, and};

	for (int i = 0; i < 2 && all[i]; i++) {
		Istio__Security__Clause *c = tr_new(t, &istio__security__clause__descriptor);

		TR_ADD(t, c->matches, c->n_matches, all[i]);
		TR_ADD(t, r->clauses, r->n_clauses, c);
	}
	return r;
}

static void policy_out(struct tr *t, const char *ns, const char *name, Istio__Security__Rule *rule,
		       const char *source)
{
	Istio__Security__Authorization *p = tr_new(t, &istio__security__authorization__descriptor);

	p->name = weft_arena_strdup(t->a, name);
	p->namespace_ = weft_arena_strdup(t->a, ns);
	p->has_scope = p->has_action = 1;
	p->scope = ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR;
	p->action = ISTIO__SECURITY__ACTION__DENY;
	TR_ADD(t, p->rules, p->n_rules, rule);
	tr_out(t, &weft_xds_type_authorization, weft_arena_printf(t->a, "%s/%s", ns, name),
	       &p->base, NULL, source);
}

/* The ports whose mode is not the workload's; *ret_n 0: none. */
static uint32_t *exceptions(struct tr *t, const Spec *s, enum mode mode, size_t *ret_n)
{
	uint32_t *v = NULL;

	*ret_n = 0;
	for (size_t i = 0; i < s->n_port_level_mtls; i++) {
		enum mode m = mode_of(s->port_level_mtls[i]->value);

		if (m != UNSET && m != mode)
			TR_ADD(t, v, *ret_n, s->port_level_mtls[i]->key);
	}
	return v;
}

static void refer(struct tr *t, struct tr_pod *p, char *name)
{
	for (size_t i = 0; i < p->w->n_authorization_policies; i++)
		if (!strcmp(p->w->authorization_policies[i], name))
			return;
	TR_ADD(t, p->w->authorization_policies, p->w->n_authorization_policies, name);
}

/* One with a selector: STRICT is the static policy, ports that differ make one of its own. Returns
 * the name to refer to, or NULL: it lets everything in. */
static char *convert(struct tr *t, const struct weft_object *o, const Spec *s, enum mode mode)
{
	char *name = weft_arena_printf(t->a, "converted_peer_authentication_%s", o->name);
	Istio__Security__Match *m = no_identity(t), *and = NULL;
	size_t n;
	uint32_t *ports = exceptions(t, s, mode, &n);

	if (!n)
		return mode == STRICT ? weft_arena_printf(t->a, "%s/%s", t->mesh.root_namespace,
							  static_strict)
				      : NULL;
	if (mode == STRICT) {
		and = tr_new(t, &istio__security__match__descriptor);
		and->not_destination_ports = ports;
		and->n_not_destination_ports = n;
	} else {
		m->destination_ports = ports;
		m->n_destination_ports = n;
	}
	policy_out(t, o->ns, name, rule_with(t, m, and), tr_source(t, o));
	return weft_arena_printf(t->a, "%s/%s", o->ns, name);
}

/* What stands without a selector, for a pod that no other one picks. source: for explain. */
static void wide(struct tr *t, const struct weft_object *v, size_t n, const bool *picked,
		 enum mode mesh)
{
	char *strict = weft_arena_printf(t->a, "%s/%s", t->mesh.root_namespace, static_strict);
	const char *ns = NULL;
	enum mode mode = UNSET;

	for (size_t i = 0; i < t->n_pods; i++) {
		struct tr_pod *p = &t->pods[i];

		if (!ns || strcmp(ns, p->o->ns) != 0) {
			ns = p->o->ns;
			mode = wide_mode(t, v, n, ns);
			mode = mode == UNSET ? mesh : mode;
		}
		if (p->live && !picked[i] && mode == STRICT)
			refer(t, p, strict);
	}
}

/* The first STRICT one stands for the static policy, which all of them share. */
static const char *strict_source(struct tr *t, const struct weft_object *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (mode_of(((const Weft__Kube__PeerAuthentication *)v[i].msg)->spec->mtls) ==
		    STRICT)
			return tr_source(t, &v[i]);
	return tr_source(t, &v[0]);
}

void tr_peers(struct tr *t)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_PEER_AUTHENTICATION, &n);
	bool *picked = weft_arena_alloc(t->a, t->n_pods * sizeof(*picked));
	enum mode mesh;

	if (!n)
		return;
	mesh = wide_mode(t, v, n, t->mesh.root_namespace);
	mesh = mesh == UNSET ? PERMISSIVE : mesh;
	policy_out(t, t->mesh.root_namespace, static_strict, rule_with(t, no_identity(t), NULL),
		   strict_source(t, v, n));
	for (size_t i = 0; i < n; i++) {
		const Spec *s = ((const Weft__Kube__PeerAuthentication *)v[i].msg)->spec;
		enum mode mode = mode_of(s->mtls);
		struct tr_pod *p;
		size_t n_pods;
		char *name;

		if (!selective(s))
			continue;
		if (mode == UNSET)
			mode = wide_mode(t, v, n, v[i].ns);
		mode = mode == UNSET ? mesh : mode;
		name = convert(t, &v[i], s, mode);
		p = tr_pods_of(t, v[i].ns, &n_pods);
		for (; n_pods; p++, n_pods--) {
			if (!p->live ||
			    !tr_selects((Weft__Kube__ObjectMeta__LabelsEntry *const *)(const void *)
						s->selector->match_labels,
					s->selector->n_match_labels, p->o->meta))
				continue;
			picked[p - t->pods] = true;
			if (name)
				refer(t, p, name);
		}
	}
	wide(t, v, n, picked, mesh);
}
