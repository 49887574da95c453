/* Checks of AuthorizationPolicy and PeerAuthentication, each object by itself. */
#include "xds/check_priv.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { TARGETS_MAX = 16, VALUES_MAX = 512 };

typedef const char *value_rule(const char *s); /* NULL: fine; else what it must be */

static const char *rule_cidr(const char *s)
{
	struct weft_cidr cidr;

	return weft_cidr_parse(s, &cidr) < 0 ? "an IP address or CIDR block" : NULL;
}

static const char *rule_port(const char *s)
{
	return check_port_text(s) ? NULL : "a port 1..65535";
}

/* "*" alone, before or after a text: anything else never matches, so it is a mistake. Returns the
 * text without it. */
static const char *rule_wildcard(const char *s, bool *ret_exact)
{
	const char *star = strchr(s, '*');

	*ret_exact = !star;
	if (!star || (star == s && !strchr(s + 1, '*')) || !star[1])
		return NULL;
	return "a text with one * at its beginning or end";
}

static const char *rule_namespace(const char *s)
{
	bool exact;
	const char *want = rule_wildcard(s, &exact);

	if (want)
		return want;
	return exact && !check_dns_label(s) ? "a namespace's name" : NULL;
}

static const char *rule_principal(const char *s)
{
	static const char want[] = "TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or with one * at an end";
	bool exact;
	const char *ns, *sa, *bad = rule_wildcard(s, &exact);

	if (bad)
		return bad;
	if (!strncmp(s, "spiffe://", 9))
		return "written without spiffe://";
	if (!exact)
		return NULL;
	ns = strstr(s, "/ns/");
	sa = ns ? strstr(ns + 4, "/sa/") : NULL;
	if (!sa || ns == s || sa == ns + 4 || !sa[4] || strchr(sa + 4, '/') ||
	    memchr(ns + 4, '/', (size_t)(sa - ns - 4)))
		return want;
	return NULL;
}

static const char *rule_account(const char *s)
{
	const char *slash = strchr(s, '/');
	char ns[64];

	if (strlen(s) > 320 || strchr(s, '*'))
		return "ACCOUNT or NAMESPACE/ACCOUNT, without *";
	if (!slash)
		return check_dns_name(s) ? NULL : "ACCOUNT or NAMESPACE/ACCOUNT";
	if ((size_t)(slash - s) >= sizeof(ns))
		return "ACCOUNT or NAMESPACE/ACCOUNT";
	memcpy(ns, s, (size_t)(slash - s));
	ns[slash - s] = '\0';
	return check_dns_label(ns) && check_dns_name(slash + 1) ? NULL
								: "ACCOUNT or NAMESPACE/ACCOUNT";
}

static const char *rule_text(const char *s)
{
	return NULL;
}

/* One list of values. */
struct values {
	const char *field, *name; /* in the proto, as written */
	size_t n;
	char *const *v;
	value_rule *rule;
	bool l7;
};

static void check_values(struct check *c, const struct weft_path *up, const void *m,
			 const struct values *x)
{
	if (x->n > VALUES_MAX) {
		const struct weft_path at = {up, x->name, -1};

		check_bad(c, check_at(c, m, x->field, -1), &at,
			  "must have at most %d values, has %zu", VALUES_MAX, x->n);
	}
	for (size_t i = 0; i < x->n; i++) {
		const struct weft_path at = {up, x->name, (int)i};
		const char *want = *x->v[i] ? x->rule(x->v[i]) : "a text that is not empty";

		if (want)
			check_bad(c, check_at(c, m, x->field, (int)i), &at,
				  "must be %s, is \"%.80s\"", want, x->v[i]);
	}
}

/* Tells whether the lists hold anything, and whether anything that only a waypoint can see. */
static bool check_lists(struct check *c, const struct weft_path *up, const void *m,
			const struct values *v, size_t n, bool *ret_l7)
{
	bool any = false;

	for (size_t i = 0; i < n; i++) {
		check_values(c, up, m, &v[i]);
		any |= v[i].n > 0;
		*ret_l7 |= v[i].l7 && v[i].n > 0;
	}
	return any;
}

#define VALUES(m, f, name, rule, l7)                                                               \
	{                                                                                          \
		#f, name, (m)->n_##f, (m)->f, rule, l7                                             \
	}

static void check_source(struct check *c, const struct weft_path *up,
			 const Weft__Kube__AuthorizationRule__From *from, bool *ret_l7)
{
	const struct weft_path at = {up, "source", -1}, accounts = {&at, "serviceAccounts", -1};
	const Weft__Kube__Source *s = from->source;

	if (!s) {
		check_bad(c, check_at(c, from, NULL, -1), &at, "required, but missing");
		return;
	}
	const struct values v[] = {
		VALUES(s, principals, "principals", rule_principal, false),
		VALUES(s, not_principals, "notPrincipals", rule_principal, false),
		VALUES(s, request_principals, "requestPrincipals", rule_text, true),
		VALUES(s, not_request_principals, "notRequestPrincipals", rule_text, true),
		VALUES(s, namespaces, "namespaces", rule_namespace, false),
		VALUES(s, not_namespaces, "notNamespaces", rule_namespace, false),
		VALUES(s, ip_blocks, "ipBlocks", rule_cidr, false),
		VALUES(s, not_ip_blocks, "notIpBlocks", rule_cidr, false),
		VALUES(s, remote_ip_blocks, "remoteIpBlocks", rule_cidr, true),
		VALUES(s, not_remote_ip_blocks, "notRemoteIpBlocks", rule_cidr, true),
		VALUES(s, service_accounts, "serviceAccounts", rule_account, false),
		VALUES(s, not_service_accounts, "notServiceAccounts", rule_account, false),
	};

	if (!check_lists(c, &at, s, v, sizeof(v) / sizeof(v[0]), ret_l7))
		check_bad(c, check_at(c, from, "source", -1), &at,
			  "is empty: it would match nothing; leave from out to match every source");
	if ((s->n_service_accounts || s->n_not_service_accounts) &&
	    (s->n_principals || s->n_not_principals || s->n_namespaces || s->n_not_namespaces))
		check_bad(c, check_at(c, s, "service_accounts", -1), &accounts,
			  "cannot stand beside principals or namespaces");
}

static void check_operation(struct check *c, const struct weft_path *up,
			    const Weft__Kube__AuthorizationRule__To *to, bool *ret_l7)
{
	const struct weft_path at = {up, "operation", -1};
	const Weft__Kube__Operation *o = to->operation;

	if (!o) {
		check_bad(c, check_at(c, to, NULL, -1), &at, "required, but missing");
		return;
	}
	const struct values v[] = {
		VALUES(o, hosts, "hosts", rule_text, true),
		VALUES(o, not_hosts, "notHosts", rule_text, true),
		VALUES(o, ports, "ports", rule_port, false),
		VALUES(o, not_ports, "notPorts", rule_port, false),
		VALUES(o, methods, "methods", rule_text, true),
		VALUES(o, not_methods, "notMethods", rule_text, true),
		VALUES(o, paths, "paths", rule_text, true),
		VALUES(o, not_paths, "notPaths", rule_text, true),
	};

	if (!check_lists(c, &at, o, v, sizeof(v) / sizeof(v[0]), ret_l7))
		check_bad(c, check_at(c, to, "operation", -1), &at,
			  "is empty: it would match nothing; leave to out to match everything");
}

/* Keys of conditions. A key that ends in [ takes a name and ]. */
static const struct condition_key {
	const char *key;
	value_rule *rule;
	bool l7;
} condition_keys[] = {
	{"source.ip", rule_cidr, false},
	{"source.namespace", rule_namespace, false},
	{"source.principal", rule_principal, false},
	{"source.serviceAccount", rule_account, false},
	{"destination.ip", rule_cidr, false},
	{"destination.port", rule_port, false},
	{"remote.ip", rule_cidr, true},
	{"connection.sni", rule_text, true},
	{"request.auth.principal", rule_text, true},
	{"request.auth.audiences", rule_text, true},
	{"request.auth.presenter", rule_text, true},
	{"request.auth.claims[", rule_text, true},
	{"request.headers[", rule_text, true},
	{"experimental.envoy.filters.", rule_text, true},
};
enum { CONDITION_KEYS = sizeof(condition_keys) / sizeof(condition_keys[0]) };

static const struct condition_key *condition_find(const char *key)
{
	size_t len = strlen(key);

	for (size_t i = 0; i < CONDITION_KEYS; i++) {
		const char *k = condition_keys[i].key;
		size_t n = strlen(k);

		if (k[n - 1] == '['   ? len > n + 1 && !strncmp(k, key, n) && key[len - 1] == ']'
		    : k[n - 1] == '.' ? len > n && !strncmp(k, key, n)
				      : !strcmp(k, key))
			return &condition_keys[i];
	}
	return NULL;
}

static void unknown_key(struct check *c, const struct weft_path *up,
			const Weft__Kube__AuthorizationRule__Condition *w)
{
	const struct weft_path at = {up, "key", -1};
	const char *names[CONDITION_KEYS], *near;

	for (size_t i = 0; i < CONDITION_KEYS; i++)
		names[i] = condition_keys[i].key;
	near = weft_suggest(w->key, names, CONDITION_KEYS);
	check_bad(c, check_at(c, w, "key", -1), &at, "unknown attribute \"%.64s\"%s%s%s%s", w->key,
		  near ? "; did you mean " : "", near ? near : "",
		  near && near[strlen(near) - 1] == '[' ? "...]" : "", near ? "?" : "");
}

static void check_when(struct check *c, const struct weft_path *up,
		       const Weft__Kube__AuthorizationRule__Condition *w, bool *ret_l7)
{
	const struct weft_path key = {up, "key", -1}, values = {up, "values", -1};
	const struct condition_key *k;

	if (!w->key || !*w->key) {
		check_bad(c, check_at(c, w, NULL, -1), &key, "required, but missing");
		return;
	}
	k = condition_find(w->key);
	if (!k) {
		unknown_key(c, up, w);
		return;
	}
	const struct values v[] = {VALUES(w, values, "values", k->rule, k->l7),
				   VALUES(w, not_values, "notValues", k->rule, k->l7)};

	if (!check_lists(c, up, w, v, 2, ret_l7))
		check_bad(c, check_at(c, w, NULL, -1), &values, "values or notValues is required");
}

static void check_rule(struct check *c, const struct weft_path *at,
		       const Weft__Kube__AuthorizationRule *r, bool *ret_l7)
{
	for (size_t i = 0; i < r->n_from; i++)
		check_source(c, &(struct weft_path){at, "from", (int)i}, r->from[i], ret_l7);
	for (size_t i = 0; i < r->n_to; i++)
		check_operation(c, &(struct weft_path){at, "to", (int)i}, r->to[i], ret_l7);
	for (size_t i = 0; i < r->n_when; i++)
		check_when(c, &(struct weft_path){at, "when", (int)i}, r->when[i], ret_l7);
}

static void check_target(struct check *c, const struct weft_path *at, struct weft_mark k,
			 const Weft__Kube__PolicyTargetReference *t)
{
	static const struct {
		const char *group, *kind;
	} known[] = {{"", "Service"},
		     {"core", "Service"},
		     {"gateway.networking.k8s.io", "Gateway"},
		     {"gateway.networking.k8s.io", "GatewayClass"},
		     {"networking.istio.io", "ServiceEntry"}};
	const char *group = t->group ? t->group : "", *kind = t->kind ? t->kind : "";
	const struct weft_path name = {at, "name", -1}, ns = {at, "namespace", -1};
	bool found = false;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		found |= !strcmp(known[i].group, group) && !strcmp(known[i].kind, kind);
	if (!found)
		check_bad(
			c, k, at,
			"must be a Service, Gateway, GatewayClass or ServiceEntry with its group, "
			"is %.40s of group \"%.60s\"",
			*kind ? kind : "nothing", group);
	if (!t->name || !*t->name)
		check_bad(c, k, &name, "required, but missing");
	if (t->namespace_ && *t->namespace_ && strcmp(t->namespace_, c->o->ns) != 0)
		check_bad(c, check_at(c, t, "namespace", -1), &ns,
			  "must be the policy's own namespace %.63s, is \"%.63s\"", c->o->ns,
			  t->namespace_);
}

static void check_selector(struct check *c, const struct weft_path *up,
			   const Weft__Kube__WorkloadSelector *s)
{
	const struct weft_path at = {up, "selector", -1}, labels = {&at, "matchLabels", -1};

	for (size_t i = 0; s && i < s->n_match_labels; i++) {
		const Weft__Kube__WorkloadSelector__MatchLabelsEntry *e = s->match_labels[i];
		const struct weft_path entry = {&labels, e->key, -1};

		if (!check_label_key(e->key))
			check_bad(c, check_at(c, e, NULL, -1), &entry, "is not a label's name");
		if (!check_label_value(e->value))
			check_bad(c, check_at(c, e, "value", -1), &entry,
				  "must be a label's value, is \"%.80s\"", e->value);
	}
}

void check_policy_targets(struct check *c, const struct weft_path *up,
			  const Weft__Kube__WorkloadSelector *selector,
			  Weft__Kube__PolicyTargetReference *target_ref,
			  Weft__Kube__PolicyTargetReference *const *target_refs, size_t n)
{
	const struct weft_path sel = {up, "selector", -1}, ref = {up, "targetRef", -1};
	const struct weft_path refs = {up, "targetRefs", -1};
	const void *spec = ((const Weft__Kube__AuthorizationPolicy *)c->o->msg)->spec;

	check_selector(c, up, selector);
	if (selector && (target_ref || n))
		check_bad(c, check_at(c, spec, "selector", -1), &sel,
			  "cannot stand beside %s: a policy is for workloads or for a waypoint",
			  target_ref ? "targetRef" : "targetRefs");
	if (target_ref && n)
		check_bad(c, check_at(c, spec, "target_ref", -1), &ref,
			  "cannot stand beside targetRefs");
	if (target_ref)
		check_target(c, &ref, check_at(c, spec, "target_ref", -1), target_ref);
	if (n > TARGETS_MAX)
		check_bad(c, check_at(c, spec, "target_refs", -1), &refs,
			  "must have at most %d targets, has %zu", TARGETS_MAX, n);
	for (size_t i = 0; i < n; i++)
		check_target(c, &(struct weft_path){up, "targetRefs", (int)i},
			     check_at(c, spec, "target_refs", (int)i), target_refs[i]);
}

static void check_action(struct check *c, const struct weft_path *up,
			 const Weft__Kube__AuthorizationPolicySpec *s)
{
	const struct weft_path at = {up, "action", -1}, provider = {up, "provider", -1};
	const struct weft_path rules = {up, "rules", -1};

	switch (s->action) {
	case WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__AUDIT:
	case WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__CUSTOM:
		if (!s->target_ref && !s->n_target_refs)
			check_bad(
				c, check_at(c, s, "action", -1), &at, "%s",
				s->action == WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__AUDIT
					? "AUDIT needs targetRefs: a waypoint does it; of a node's "
					  "proxy the access log has every connection"
					: "CUSTOM needs targetRefs: only a waypoint asks an "
					  "external authorizer");
		if (s->action == WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__CUSTOM &&
		    (!s->provider || !s->provider->name || !*s->provider->name))
			check_bad(c, check_at(c, s, NULL, -1), &provider,
				  "required with action CUSTOM: a name of "
				  "MeshConfig.extensionProviders");
		break;
	case WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__DENY:
		if (!s->n_rules)
			check_bad(c, check_at(c, s, NULL, -1), &rules,
				  "a DENY policy without rules denies nothing; "
				  "write rules: [{}] to deny everything");
		break;
	default:
		break;
	}
	if (s->provider && s->action != WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__CUSTOM)
		check_bad(c, check_at(c, s, "provider", -1), &provider, "belongs to action CUSTOM");
}

void check_authorization_policy(struct check *c)
{
	static const char *const booleans[] = {"true", "false", NULL};
	const Weft__Kube__AuthorizationPolicySpec *s =
		((const Weft__Kube__AuthorizationPolicy *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};
	const struct weft_path meta = {NULL, "metadata", -1}, notes = {&meta, "annotations", -1};
	const struct weft_path dry_run = {&notes, "istio.io/dry-run", -1};
	bool deny = s->action == WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__DENY;

	check_meta(c, false);
	check_one_of(c, &dry_run, check_at(c, c->o->meta, "annotations", -1),
		     weft_meta_annotation(c->o->meta, "istio.io/dry-run"), booleans);
	check_policy_targets(c, &up, s->selector, s->target_ref, s->target_refs, s->n_target_refs);
	check_action(c, &up, s);
	for (size_t i = 0; i < s->n_rules; i++) {
		const struct weft_path at = {&up, "rules", (int)i};
		bool l7 = false;

		check_rule(c, &at, s->rules[i], &l7);
		if (l7 && !s->target_ref && !s->n_target_refs)
			check_note(
				c, check_at(c, s, "rules", (int)i), &at,
				"has attributes of HTTP, which the node's proxy does not see: %s",
				deny ? "they are taken as matching, so that more is denied"
				     : "the rule allows nothing");
	}
}

void check_peer_authentication(struct check *c)
{
	const Weft__Kube__PeerAuthenticationSpec *s =
		((const Weft__Kube__PeerAuthentication *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1}, ports = {&up, "portLevelMtls", -1};

	check_meta(c, false);
	check_selector(c, &up, s->selector);
	if (s->n_port_level_mtls && (!s->selector || !s->selector->n_match_labels))
		check_bad(c, check_at(c, s, "port_level_mtls", -1), &ports,
			  "needs a selector with matchLabels");
	for (size_t i = 0; i < s->n_port_level_mtls; i++) {
		const Weft__Kube__PeerAuthenticationSpec__PortLevelMtlsEntry *e =
			s->port_level_mtls[i];
		char key[16];
		const struct weft_path at = {&ports, key, -1};

		snprintf(key, sizeof(key), "%u", e->key);
		if (e->key < 1 || e->key > 65535)
			check_bad(c, check_at(c, e, NULL, -1), &at, "port must be 1..65535, is %u",
				  e->key);
	}
	if (s->mtls && s->mtls->mode == WEFT__KUBE__MUTUAL_TLS__MODE__DISABLE)
		check_note(c, check_at(c, s->mtls, "mode", -1),
			   &(struct weft_path){&(struct weft_path){&up, "mtls", -1}, "mode", -1},
			   "DISABLE is taken as PERMISSIVE: between pods of the mesh TLS is always "
			   "used");
}
