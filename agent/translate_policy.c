/* AuthorizationPolicy → Authorization. The node's proxy sees addresses, ports and identities only.
 * What it cannot see makes an ALLOW rule allow nothing, and in a DENY rule counts as matching:
 * never more gets through than the author wrote. */
#include "agent/translate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Weft__Kube__AuthorizationPolicySpec Spec;
typedef Istio__Security__Match Match;

/* ---- values */

/* "*", "x*", "*x", or the text itself. */
static Istio__Security__StringMatch *text_match(struct tr *t, const char *s)
{
	Istio__Security__StringMatch *m = tr_new(t, &istio__security__string_match__descriptor);
	size_t n = strlen(s);

	if (!strcmp(s, "*")) {
		m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
		m->presence = tr_new(t, &google__protobuf__empty__descriptor);
	} else if (*s == '*') {
		m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX;
		m->suffix = weft_arena_strdup(t->a, s + 1);
	} else if (n && s[n - 1] == '*') {
		m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX;
		m->prefix = weft_arena_strndup(t->a, s, n - 1);
	} else {
		m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
		m->exact = weft_arena_strdup(t->a, s);
	}
	return m;
}

static void texts(struct tr *t, char *const *v, size_t n, Istio__Security__StringMatch ***list,
		  size_t *ret_n)
{
	for (size_t i = 0; i < n; i++)
		TR_ADD(t, *list, *ret_n, text_match(t, v[i]));
}

/* The folder's check has parsed them; one that does not parse all the same must not vanish from its
 * list. */
static void ranges(struct tr *t, char *const *v, size_t n, Istio__Security__IpRange ***list,
		   size_t *ret_n)
{
	for (size_t i = 0; i < n; i++) {
		Istio__Security__IpRange *r = tr_new(t, &istio__security__ip_range__descriptor);
		struct weft_cidr c = {0};

		if (!weft_cidr_parse(v[i], &c)) {
			r->has_address = r->has_length = 1;
			r->address = (ProtobufCBinaryData){
				weft_ip_bytes(&c.ip),
				weft_arena_memdup(t->a, c.ip.b, weft_ip_bytes(&c.ip))};
			r->length = c.len;
		}
		TR_ADD(t, *list, *ret_n, r);
	}
}

static void ports(struct tr *t, char *const *v, size_t n, uint32_t **list, size_t *ret_n)
{
	for (size_t i = 0; i < n; i++)
		TR_ADD(t, *list, *ret_n, (uint32_t)strtoul(v[i], NULL, 10));
}

/* "account" is of the policy's namespace; or "namespace/account". */
static void accounts(struct tr *t, const char *ns, char *const *v, size_t n,
		     Istio__Security__ServiceAccountMatch ***list, size_t *ret_n)
{
	for (size_t i = 0; i < n; i++) {
		Istio__Security__ServiceAccountMatch *m =
			tr_new(t, &istio__security__service_account_match__descriptor);
		const char *slash = strchr(v[i], '/');

		m->namespace_ = slash ? weft_arena_strndup(t->a, v[i], (size_t)(slash - v[i]))
				      : weft_arena_strdup(t->a, ns);
		m->service_account = weft_arena_strdup(t->a, slash ? slash + 1 : v[i]);
		TR_ADD(t, *list, *ret_n, m);
	}
}

/* ---- from, to, when: each a match; what only a waypoint sees is told in *l7 */

static Match *from_match(struct tr *t, const char *ns, const Weft__Kube__Source *s, bool *l7)
{
	Match *m = tr_new(t, &istio__security__match__descriptor);

	texts(t, s->principals, s->n_principals, &m->principals, &m->n_principals);
	texts(t, s->not_principals, s->n_not_principals, &m->not_principals, &m->n_not_principals);
	texts(t, s->namespaces, s->n_namespaces, &m->namespaces, &m->n_namespaces);
	texts(t, s->not_namespaces, s->n_not_namespaces, &m->not_namespaces, &m->n_not_namespaces);
	ranges(t, s->ip_blocks, s->n_ip_blocks, &m->source_ips, &m->n_source_ips);
	ranges(t, s->not_ip_blocks, s->n_not_ip_blocks, &m->not_source_ips, &m->n_not_source_ips);
	accounts(t, ns, s->service_accounts, s->n_service_accounts, &m->service_accounts,
		 &m->n_service_accounts);
	accounts(t, ns, s->not_service_accounts, s->n_not_service_accounts,
		 &m->not_service_accounts, &m->n_not_service_accounts);
	*l7 = *l7 || s->n_request_principals || s->n_not_request_principals ||
	      s->n_remote_ip_blocks || s->n_not_remote_ip_blocks;
	return m;
}

static Match *to_match(struct tr *t, const Weft__Kube__Operation *o, bool *l7)
{
	Match *m = tr_new(t, &istio__security__match__descriptor);

	ports(t, o->ports, o->n_ports, &m->destination_ports, &m->n_destination_ports);
	ports(t, o->not_ports, o->n_not_ports, &m->not_destination_ports,
	      &m->n_not_destination_ports);
	*l7 = *l7 || o->n_hosts || o->n_not_hosts || o->n_methods || o->n_not_methods ||
	      o->n_paths || o->n_not_paths;
	return m;
}

static Match *when_match(struct tr *t, const char *ns,
			 const Weft__Kube__AuthorizationRule__Condition *c, bool *l7)
{
	Match *m = tr_new(t, &istio__security__match__descriptor);

	if (!strcmp(c->key, "source.ip")) {
		ranges(t, c->values, c->n_values, &m->source_ips, &m->n_source_ips);
		ranges(t, c->not_values, c->n_not_values, &m->not_source_ips, &m->n_not_source_ips);
	} else if (!strcmp(c->key, "source.namespace")) {
		texts(t, c->values, c->n_values, &m->namespaces, &m->n_namespaces);
		texts(t, c->not_values, c->n_not_values, &m->not_namespaces, &m->n_not_namespaces);
	} else if (!strcmp(c->key, "source.principal")) {
		texts(t, c->values, c->n_values, &m->principals, &m->n_principals);
		texts(t, c->not_values, c->n_not_values, &m->not_principals, &m->n_not_principals);
	} else if (!strcmp(c->key, "source.serviceAccount")) {
		accounts(t, ns, c->values, c->n_values, &m->service_accounts,
			 &m->n_service_accounts);
		accounts(t, ns, c->not_values, c->n_not_values, &m->not_service_accounts,
			 &m->n_not_service_accounts);
	} else if (!strcmp(c->key, "destination.ip")) {
		ranges(t, c->values, c->n_values, &m->destination_ips, &m->n_destination_ips);
		ranges(t, c->not_values, c->n_not_values, &m->not_destination_ips,
		       &m->n_not_destination_ips);
	} else if (!strcmp(c->key, "destination.port")) {
		ports(t, c->values, c->n_values, &m->destination_ports, &m->n_destination_ports);
		ports(t, c->not_values, c->n_not_values, &m->not_destination_ports,
		      &m->n_not_destination_ports);
	} else {
		*l7 = true;
	}
	return m;
}

static bool says_something(const Match *m)
{
	return m->n_namespaces || m->n_not_namespaces || m->n_principals || m->n_not_principals ||
	       m->n_source_ips || m->n_not_source_ips || m->n_destination_ips ||
	       m->n_not_destination_ips || m->n_destination_ports || m->n_not_destination_ports ||
	       m->n_service_accounts || m->n_not_service_accounts;
}

/* ---- rules */

static Istio__Security__Clause *clause_new(struct tr *t)
{
	return tr_new(t, &istio__security__clause__descriptor);
}

/* An alternative with nothing left that the proxy sees matches everything, and so does its clause.
 */
static void clause_add(struct tr *t, Istio__Security__Rule *r, Istio__Security__Clause *c)
{
	for (size_t i = 0; i < c->n_matches; i++)
		if (!says_something(c->matches[i]))
			return;
	if (c->n_matches)
		TR_ADD(t, r->clauses, r->n_clauses, c);
}

/* A match that says nothing never holds. The rule keeps its place, so that rules[3] is the same in
 * the file and in explain. */
static void rule_never(struct tr *t, Istio__Security__Rule *r)
{
	Istio__Security__Clause *c = clause_new(t);

	TR_ADD(t, c->matches, c->n_matches, tr_new(t, &istio__security__match__descriptor));
	r->n_clauses = 0;
	TR_ADD(t, r->clauses, r->n_clauses, c);
}

static Istio__Security__Rule *rule_make(struct tr *t, const char *ns,
					const Weft__Kube__AuthorizationRule *src, bool deny)
{
	Istio__Security__Rule *r = tr_new(t, &istio__security__rule__descriptor);
	Istio__Security__Clause *from = clause_new(t), *to = clause_new(t);
	bool l7 = false;

	for (size_t i = 0; i < src->n_from; i++)
		TR_ADD(t, from->matches, from->n_matches,
		       from_match(t, ns, src->from[i]->source, &l7));
	for (size_t i = 0; i < src->n_to; i++)
		TR_ADD(t, to->matches, to->n_matches, to_match(t, src->to[i]->operation, &l7));
	clause_add(t, r, from);
	clause_add(t, r, to);
	for (size_t i = 0; i < src->n_when; i++) {
		Istio__Security__Clause *c = clause_new(t);

		TR_ADD(t, c->matches, c->n_matches, when_match(t, ns, src->when[i], &l7));
		clause_add(t, r, c);
	}
	if (l7 && !deny)
		rule_never(t, r);
	return r;
}

static Istio__Security__Authorization *policy_make(struct tr *t, const struct weft_object *o,
						   const Spec *s)
{
	Istio__Security__Authorization *p = tr_new(t, &istio__security__authorization__descriptor);
	bool deny = s->action == WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__DENY;
	const char *dry_run = weft_meta_annotation(o->meta, "istio.io/dry-run");

	p->name = weft_arena_strdup(t->a, o->name);
	p->namespace_ = weft_arena_strdup(t->a, o->ns);
	p->has_scope = p->has_action = 1;
	p->scope = s->selector && s->selector->n_match_labels
			   ? ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR
		   : !strcmp(o->ns, t->mesh.root_namespace) ? ISTIO__SECURITY__SCOPE__GLOBAL
							    : ISTIO__SECURITY__SCOPE__NAMESPACE;
	p->action = deny ? ISTIO__SECURITY__ACTION__DENY : ISTIO__SECURITY__ACTION__ALLOW;
	p->has_dry_run = p->dry_run = dry_run && !strcmp(dry_run, "true");
	for (size_t i = 0; i < s->n_rules; i++)
		TR_ADD(t, p->rules, p->n_rules, rule_make(t, o->ns, s->rules[i], deny));
	return p;
}

/* A selector reaches its own namespace; in the root namespace, the whole mesh. */
static void select_workloads(struct tr *t, const struct weft_object *o, const Spec *s, char *name)
{
	Weft__Kube__ObjectMeta__LabelsEntry *const *selector =
		(Weft__Kube__ObjectMeta__LabelsEntry *const *)(const void *)
			s->selector->match_labels;
	size_t n;
	struct tr_pod *p = tr_pods_of(t, strcmp(o->ns, t->mesh.root_namespace) ? o->ns : NULL, &n);

	_Static_assert(sizeof(Weft__Kube__ObjectMeta__LabelsEntry) ==
			       sizeof(Weft__Kube__WorkloadSelector__MatchLabelsEntry),
		       "map entries of strings are alike");
	for (; n; p++, n--)
		if (p->live && tr_selects(selector, s->selector->n_match_labels, p->o->meta))
			TR_ADD(t, p->w->authorization_policies, p->w->n_authorization_policies,
			       name);
}

void tr_policies(struct tr *t)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_AUTHORIZATION_POLICY, &n);

	for (size_t i = 0; i < n; i++) {
		const Spec *s = ((const Weft__Kube__AuthorizationPolicy *)v[i].msg)->spec;
		Istio__Security__Authorization *p;
		char *name;

		if (s->target_ref || s->n_target_refs)
			continue; /* a waypoint's */
		if (s->action != WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__ALLOW &&
		    s->action != WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__DENY)
			continue; /* refused by the folder's check */
		p = policy_make(t, &v[i], s);
		name = weft_arena_printf(t->a, "%s/%s", v[i].ns, v[i].name);
		tr_out(t, &weft_xds_type_authorization, name, &p->base, NULL, tr_source(t, &v[i]));
		if (p->scope == ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR)
			select_workloads(t, &v[i], s, name);
	}
}
