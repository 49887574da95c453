/* requireWaypoint: destinations that take only their waypoint. Said to node proxies as a DENY
 * policy for everybody else, so that it is enforced, logged and explained like any policy, and
 * holds at the other side of a mesh that knows no waypoints. */
#include "agent/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Istio__Security__Match Match;

bool tr_requires_waypoint(const struct tr *t, bool l7)
{
	const Weft__Kube__MeshConfigSpec *c = t->config;
	int how = c && c->has_require_waypoint
			  ? (int)c->require_waypoint
			  : (int)WEFT__KUBE__MESH_CONFIG_SPEC__REQUIRE_WAYPOINT__policies;

	if (how == WEFT__KUBE__MESH_CONFIG_SPEC__REQUIRE_WAYPOINT__never)
		return false;
	return l7 || how == WEFT__KUBE__MESH_CONFIG_SPEC__REQUIRE_WAYPOINT__always;
}

/* What a waypoint may say it is: "td/ns/x/sa/y" of the Gateways. */
static void not_from(struct tr *t, Match *m, const struct tr_gateway *g)
{
	Istio__Security__StringMatch *s = tr_new(t, &istio__security__string_match__descriptor);

	if (!g)
		return;
	for (size_t i = 0; i < m->n_not_principals; i++)
		if (!strcmp(m->not_principals[i]->exact, g->identity + strlen("spiffe://")))
			return;
	s->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
	s->exact = weft_arena_strdup(t->a, g->identity + strlen("spiffe://"));
	TR_ADD(t, m->not_principals, m->n_not_principals, s);
}

/* A pod may be behind another Service with a waypoint of its own, which must get through too. */
static void not_from_others(struct tr *t, Match *m, const struct tr_svc *s)
{
	for (size_t i = 0; s && i < s->n_members; i++)
		for (size_t k = 0; k < s->members[i].w->n_services; k++) {
			const char *key = s->members[i].w->services[k]->key;
			const char *slash = strchr(key, '/'), *dot = strchr(key, '.');
			const struct tr_svc *o =
				slash && dot > slash
					? tr_svc_find(t,
						      weft_arena_strndup(t->a, key,
									 (size_t)(slash - key)),
						      weft_arena_strndup(t->a, slash + 1,
									 (size_t)(dot - slash - 1)))
					: NULL;

			if (o && o->gw && o->gw != s->gw && o->gw != s->gw2)
				not_from(t, m, o->gw);
		}
}

static void rule_add(struct tr *t, Istio__Security__Authorization *p, const uint32_t *ports,
		     size_t n, const struct tr_gateway *g, const struct tr_svc *svc)
{
	Istio__Security__Rule *r = tr_new(t, &istio__security__rule__descriptor);
	Istio__Security__Clause *who = tr_new(t, &istio__security__clause__descriptor);
	Istio__Security__Clause *where = tr_new(t, &istio__security__clause__descriptor);
	Match *a = tr_new(t, &istio__security__match__descriptor);
	Match *b = tr_new(t, &istio__security__match__descriptor);

	not_from(t, a, g);
	not_from(t, a, svc ? svc->gw2 : NULL);
	not_from_others(t, a, svc);
	TR_ADD(t, who->matches, who->n_matches, a);
	TR_ADD(t, r->clauses, r->n_clauses, who);
	for (size_t i = 0; i < n; i++)
		TR_ADD(t, b->destination_ports, b->n_destination_ports, ports[i]);
	if (n) {
		TR_ADD(t, where->matches, where->n_matches, b);
		TR_ADD(t, r->clauses, r->n_clauses, where);
	}
	TR_ADD(t, p->rules, p->n_rules, r);
}

static Istio__Security__Authorization *policy_new(struct tr *t, const char *ns, const char *name)
{
	Istio__Security__Authorization *p = tr_new(t, &istio__security__authorization__descriptor);

	p->name = weft_arena_strdup(t->a, name);
	p->namespace_ = weft_arena_strdup(t->a, ns);
	p->has_scope = p->has_action = 1;
	p->scope = ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR;
	p->action = ISTIO__SECURITY__ACTION__DENY;
	return p;
}

static void policy_out(struct tr *t, Istio__Security__Authorization *p, const char *source)
{
	tr_out(t, &weft_xds_type_authorization,
	       weft_arena_printf(t->a, "%s/%s", p->namespace_, p->name), &p->base, NULL, source);
}

/* Named where no object of a folder can be: '.' may not begin a name. */
static void service(struct tr *t, const struct tr_svc *s)
{
	const char *name = weft_arena_printf(t->a, ".require-waypoint.%s", s->o->name);
	Istio__Security__Authorization *p;
	uint32_t *ports = NULL;
	size_t n = 0;

	/* at a port whose number differs from pod to pod, every one of them */
	for (size_t i = 0; i < s->n_members; i++)
		for (size_t k = 0; k < s->s->n_ports; k++) {
			uint32_t to = gw_member_port(&s->members[i], s->s->ports[k]);
			size_t have = 0;

			while (have < n && ports[have] != to)
				have++;
			if (to && have == n)
				TR_ADD(t, ports, n, to);
		}
	if (!n)
		return;
	p = policy_new(t, s->o->ns, name);
	rule_add(t, p, ports, n, s->gw, s);
	policy_out(t, p, tr_source(t, s->gw->o));
	for (size_t i = 0; i < s->n_members; i++)
		TR_ADD(t, s->members[i].w->authorization_policies,
		       s->members[i].w->n_authorization_policies,
		       weft_arena_printf(t->a, "%s/%s", s->o->ns, name));
}

static void pod(struct tr *t, struct tr_pod *p)
{
	const char *name = weft_arena_printf(t->a, ".require-waypoint.pod.%s", p->o->name);
	Istio__Security__Authorization *a = policy_new(t, p->o->ns, name);

	rule_add(t, a, NULL, 0, p->gw, NULL);
	policy_out(t, a, tr_source(t, p->gw->o));
	TR_ADD(t, p->w->authorization_policies, p->w->n_authorization_policies,
	       weft_arena_printf(t->a, "%s/%s", p->o->ns, name));
}

void tr_require_waypoint(struct tr *t)
{
	for (size_t i = 0; i < t->n_svcs; i++)
		if (t->svcs[i].gw && tr_requires_waypoint(t, t->svcs[i].l7))
			service(t, &t->svcs[i]);
	for (size_t i = 0; i < t->n_pods; i++)
		if (t->pods[i].live && t->pods[i].gw && tr_requires_waypoint(t, t->pods[i].gw->l7))
			pod(t, &t->pods[i]);
}
