/* AuthorizationPolicy with targetRefs → Envoy's RBAC in a waypoint or gateway. */
#include "agent/gateway.h"

#include "xds/proto/envoy/config/rbac/v3/rbac.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/rbac/v3/rbac.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/rbac/v3/rbac.pb-c.h"
#include "xds/proto/envoy/extensions/path/match/uri_template/v3/uri_template_match.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Weft__Kube__AuthorizationPolicySpec Spec;
enum {
	ALLOW = WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__ALLOW,
	DENY = WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__DENY,
	AUDIT = WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__AUDIT,
	CUSTOM = WEFT__KUBE__AUTHORIZATION_POLICY_SPEC__ACTION__CUSTOM
};

static const Spec *spec_of(const struct weft_object *o)
{
	return ((const Weft__Kube__AuthorizationPolicy *)o->msg)->spec;
}

static bool dry_run(const struct weft_object *o)
{
	const char *v = weft_meta_annotation(o->meta, "istio.io/dry-run");

	return v && !strcmp(v, "true");
}

/* ---- values. Lists of alternatives are or_rules (or_ids) of one member each; what must not hold
 * is the same below not_rule (not_id). */

struct side { /* permissions or principals: they are built alike */
	struct tr *t;
	const char *and, * or, *not ; /* "and_rules.rules", ... */
	bool http;
	bool *never; /* something that only HTTP has was asked of a connection */
};
static const struct side permission = {
	.and = "and_rules.rules", .or = "or_rules.rules", .not = "not_rule"};
static const struct side principal = {.and = "and_ids.ids", .or = "or_ids.ids", .not = "not_id"};

typedef void put_value(const struct side *x, void *to, const char *arg, const char *v);

/* and: where what must hold all together is collected. */
static void put_list(const struct side *x, void *and, put_value *put, const char *arg,
		     char *const *v, size_t n, bool negated)
{
	void *to, * or ;

	if (!n)
		return;
	to = eb_in(x->t->a, and, x->and);
	if (negated)
		to = eb_in(x->t->a, to, x->not );
	or = to;
	for (size_t i = 0; i < n; i++)
		put(x, eb_in(x->t->a, or, x->or), arg, v[i]);
}

static void put_both(const struct side *x, void *and, put_value *put, const char *arg,
		     char *const *v, size_t n, char *const *not_v, size_t n_not)
{
	put_list(x, and, put, arg, v, n, false);
	put_list(x, and, put, arg, not_v, n_not, true);
}

/* "*", "x*", "*x", or the text itself, of a StringMatcher. */
static void text(struct tr *t, void *m, const char *before, const char *s)
{
	size_t n = strlen(s);

	if (!strcmp(s, "*"))
		eb_str(t->a, m, "safe_regex.regex", ".+");
	else if (*s == '*')
		eb_str(t->a, m, "suffix", s + 1);
	else if (n && s[n - 1] == '*')
		eb_strf(t->a, m, "prefix", "%s%.*s", before, (int)n - 1, s);
	else
		eb_strf(t->a, m, "exact", "%s%s", before, s);
}

static void put_principal(const struct side *x, void *to, const char *arg, const char *v)
{
	void *m = eb_in(x->t->a, to, "authenticated");

	if (strcmp(v, "*") != 0)
		text(x->t, eb_in(x->t->a, m, "principal_name"), "spiffe://", v);
}

/* The pieces of an identity, each with its wildcard. */
static char *piece(struct tr *t, const char *s)
{
	size_t n = strlen(s);

	if (!strcmp(s, "*"))
		return weft_arena_strdup(t->a, "[^/]+");
	if (*s == '*')
		return weft_arena_printf(t->a, "[^/]*%s", eb_quote(t->a, s + 1));
	if (n && s[n - 1] == '*')
		return weft_arena_printf(t->a, "%s[^/]*",
					 eb_quote(t->a, weft_arena_strndup(t->a, s, n - 1)));
	return eb_quote(t->a, s);
}

static void put_namespace(const struct side *x, void *to, const char *arg, const char *v)
{
	eb_strf(x->t->a, to, "authenticated.principal_name.safe_regex.regex",
		"spiffe://[^/]+/ns/%s/sa/[^/]+", piece(x->t, v));
}

/* arg: the policy's namespace. */
static void put_account(const struct side *x, void *to, const char *arg, const char *v)
{
	const char *slash = strchr(v, '/');
	const char *ns = slash ? weft_arena_strndup(x->t->a, v, (size_t)(slash - v)) : arg;

	eb_strf(x->t->a, to, "authenticated.principal_name.safe_regex.regex",
		"spiffe://[^/]+/ns/%s/sa/%s", eb_quote(x->t->a, ns),
		eb_quote(x->t->a, slash ? slash + 1 : v));
}

/* arg: the field. */
static void put_cidr(const struct side *x, void *to, const char *arg, const char *v)
{
	void *m = eb_in(x->t->a, to, arg);
	struct weft_cidr c = {0};
	char buf[WEFT_IP_TEXT];

	if (weft_cidr_parse(v, &c)) /* the folder's check has parsed it */
		return;
	eb_str(x->t->a, m, "address_prefix", weft_ip_text(&c.ip, buf, sizeof(buf)));
	eb_num(x->t->a, m, "prefix_len", c.len);
}

static void put_port(const struct side *x, void *to, const char *arg, const char *v)
{
	eb_num(x->t->a, to, "destination_port", strtol(v, NULL, 10));
}

/* arg: the header's name, in lower case where it is ours. */
static void put_header(const struct side *x, void *to, const char *arg, const char *v)
{
	void *h = eb_in(x->t->a, to, "header");

	eb_str(x->t->a, h, "name", arg);
	if (!strcmp(v, "*")) {
		eb_num(x->t->a, h, "present_match", 1);
		return;
	}
	text(x->t, eb_in(x->t->a, h, "string_match"), "", v);
	if (!strcmp(arg, ":authority"))
		eb_num(x->t->a, h, "string_match.ignore_case", 1);
}

static void put_path(const struct side *x, void *to, const char *arg, const char *v)
{
	void *m;

	if (!strchr(v, '{')) {
		text(x->t, eb_in(x->t->a, to, "url_path.path"), "", v);
		return;
	}
	m = eb_new(
		x->t->a,
		&envoy__extensions__path__match__uri_template__v3__uri_template_match_config__descriptor);
	/* "{*}" is one segment, "{**}" any number: Envoy writes them without braces */
	char *p = weft_arena_strdup(x->t->a, v), *from = p, *at = p;

	for (; *from; from++)
		if (*from != '{' && *from != '}')
			*at++ = *from;
	*at = '\0';
	eb_str(x->t->a, m, "path_template", p);
	eb_typed(x->t->a, eb_in(x->t->a, to, "uri_template"),
		 "envoy.path.match.uri_template.uri_template_matcher", m);
}

static void put_sni(const struct side *x, void *to, const char *arg, const char *v)
{
	text(x->t, eb_in(x->t->a, to, "requested_server_name"), "", v);
}

/* ---- claims: what jwt_authn left in its metadata */

static void *metadata(const struct side *x, void *to, const char *const *path)
{
	void *m = eb_in(x->t->a, to, "metadata");

	eb_str(x->t->a, m, "filter", "envoy.filters.http.jwt_authn");
	for (; *path; path++)
		eb_str(x->t->a, eb_in(x->t->a, m, "path"), "key", *path);
	return eb_in(x->t->a, m, "value");
}

/* A text, or a list that has it. */
static void claim(const struct side *x, void *to, const char *const *path, const char *v)
{
	void *one = eb_in(x->t->a, to, x->or), *other = eb_in(x->t->a, to, x->or);

	text(x->t, eb_in(x->t->a, metadata(x, one, path), "string_match"), "", v);
	text(x->t, eb_in(x->t->a, metadata(x, other, path), "list_match.one_of.string_match"), "",
	     v);
}

static void put_audience(const struct side *x, void *to, const char *arg, const char *v)
{
	claim(x, to, (const char *const[]){"payload", arg, NULL}, v);
}

/* arg: "[a][b]". */
static void put_claim(const struct side *x, void *to, const char *arg, const char *v)
{
	const char *path[10] = {"payload"};
	size_t n = 1;

	while (*arg == '[' && n < 9) {
		size_t len = strcspn(arg + 1, "]");

		path[n++] = weft_arena_strndup(x->t->a, arg + 1, len);
		arg += len + 1 + (arg[len + 1] == ']');
	}
	path[n] = NULL;
	claim(x, to, path, v);
}

/* ISSUER/SUBJECT; a wildcard reaches into either. */
static void put_request_principal(const struct side *x, void *to, const char *arg, const char *v)
{
	static const char *const iss[] = {"payload", "iss", NULL}, *const sub[] = {"payload", "sub",
										   NULL};
	const char *slash = strrchr(v, '/');
	char *issuer = slash ? weft_arena_strndup(x->t->a, v, (size_t)(slash - v))
			     : weft_arena_strdup(x->t->a, *v == '*' ? "*" : v);
	const char *subject = slash ? slash + 1 : *v == '*' ? v : "*";

	text(x->t, eb_in(x->t->a, metadata(x, eb_in(x->t->a, to, x->and), iss), "string_match"), "",
	     issuer);
	text(x->t, eb_in(x->t->a, metadata(x, eb_in(x->t->a, to, x->and), sub), "string_match"), "",
	     subject);
}

/* ---- a rule */

static void from(const struct side *x, void *and, const char *ns, const Weft__Kube__Source *s)
{
	put_both(x, and, put_principal, NULL, s->principals, s->n_principals, s->not_principals,
		 s->n_not_principals);
	put_both(x, and, put_namespace, NULL, s->namespaces, s->n_namespaces, s->not_namespaces,
		 s->n_not_namespaces);
	put_both(x, and, put_account, ns, s->service_accounts, s->n_service_accounts,
		 s->not_service_accounts, s->n_not_service_accounts);
	put_both(x, and, put_cidr, "direct_remote_ip", s->ip_blocks, s->n_ip_blocks,
		 s->not_ip_blocks, s->n_not_ip_blocks);
	if (!x->http) {
		*x->never = *x->never || s->n_request_principals || s->n_not_request_principals ||
			    s->n_remote_ip_blocks || s->n_not_remote_ip_blocks;
		return;
	}
	put_both(x, and, put_request_principal, NULL, s->request_principals,
		 s->n_request_principals, s->not_request_principals, s->n_not_request_principals);
	put_both(x, and, put_cidr, "remote_ip", s->remote_ip_blocks, s->n_remote_ip_blocks,
		 s->not_remote_ip_blocks, s->n_not_remote_ip_blocks);
}

static void to(const struct side *x, void *and, const Weft__Kube__Operation *o)
{
	put_both(x, and, put_port, NULL, o->ports, o->n_ports, o->not_ports, o->n_not_ports);
	if (!x->http) {
		*x->never = *x->never || o->n_hosts || o->n_not_hosts || o->n_methods ||
			    o->n_not_methods || o->n_paths || o->n_not_paths;
		return;
	}
	put_both(x, and, put_header, ":authority", o->hosts, o->n_hosts, o->not_hosts,
		 o->n_not_hosts);
	put_both(x, and, put_header, ":method", o->methods, o->n_methods, o->not_methods,
		 o->n_not_methods);
	put_both(x, and, put_path, NULL, o->paths, o->n_paths, o->not_paths, o->n_not_paths);
}

/* What a condition's key is matched by. */
static const struct key {
	const char *key;
	put_value *put;
	const char *arg;
	bool permission, http;
} keys[] = {
	{"source.ip", put_cidr, "direct_remote_ip", false, false},
	{"remote.ip", put_cidr, "remote_ip", false, true},
	{"source.namespace", put_namespace, NULL, false, false},
	{"source.principal", put_principal, NULL, false, false},
	{"source.serviceAccount", put_account, NULL, false, false},
	{"destination.ip", put_cidr, "destination_ip", true, false},
	{"destination.port", put_port, NULL, true, false},
	{"connection.sni", put_sni, NULL, true, false},
	{"request.auth.principal", put_request_principal, NULL, false, true},
	{"request.auth.audiences", put_audience, "aud", false, true},
	{"request.auth.presenter", put_audience, "azp", false, true},
	{"request.auth.claims[", put_claim, NULL, false, true},
	{"request.headers[", put_header, NULL, false, true},
};

static const struct key *key_find(const char *key)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		size_t n = strlen(keys[i].key);

		if (keys[i].key[n - 1] == '[' ? !strncmp(keys[i].key, key, n)
					      : !strcmp(keys[i].key, key))
			return &keys[i];
	}
	return NULL;
}

/* In brackets: a header's name, or the claims as they stand. */
static const char *key_arg(struct tr *t, const struct key *k, const char *key, const char *ns)
{
	const char *open = strchr(key, '[');

	if (k->put == put_account)
		return ns;
	if (k->put == put_claim)
		return open;
	if (k->put != put_header)
		return k->arg;
	return weft_arena_strndup(t->a, open + 1, strcspn(open + 1, "]"));
}

static void when(struct tr *t, const struct side *perm, const struct side *prin, void *and_perm,
		 void *and_prin, const char *ns, const Weft__Kube__AuthorizationRule__Condition *c)
{
	const struct key *k = key_find(c->key);
	const struct side *x;

	if (!k || (k->http && !perm->http)) {
		*perm->never = true;
		return;
	}
	x = k->permission ? perm : prin;
	put_both(x, k->permission ? and_perm : and_prin, k->put, key_arg(t, k, c->key, ns),
		 c->values, c->n_values, c->not_values, c->n_not_values);
}

/* What and collected; with nothing in it everything holds. */
static void close_and(struct tr *t, void *and, size_t n)
{
	if (!n)
		eb_num(t->a, and, "any", 1);
}

static size_t n_and(const void *m)
{
	const ProtobufCMessage *p = m;

	if (p->descriptor == &envoy__config__rbac__v3__permission__descriptor) {
		const Envoy__Config__Rbac__V3__Permission *x = m;

		return x->rule_case == ENVOY__CONFIG__RBAC__V3__PERMISSION__RULE_AND_RULES
			       ? x->and_rules->n_rules
			       : 0;
	}
	return ((const Envoy__Config__Rbac__V3__Principal *)m)->identifier_case ==
			       ENVOY__CONFIG__RBAC__V3__PRINCIPAL__IDENTIFIER_AND_IDS
		       ? ((const Envoy__Config__Rbac__V3__Principal *)m)->and_ids->n_ids
		       : 0;
}

/* from is a list of alternatives, each with every condition; so is to. */
static void rule(struct tr *t, void *rbac, const struct weft_object *o, size_t index, bool http)
{
	const Weft__Kube__AuthorizationRule *r = spec_of(o)->rules[index];
	bool deny = (int)spec_of(o)->action != ALLOW, never = false;
	struct side perm = permission, prin = principal;
	void *policy = eb_new(t->a, &envoy__config__rbac__v3__policy__descriptor), *e;

	perm.t = prin.t = t;
	perm.http = prin.http = http;
	perm.never = prin.never = &never;
	for (size_t i = 0; i < r->n_to || i == 0; i++) {
		void *and = eb_in(t->a, policy, "permissions");

		if (r->n_to)
			to(&perm, and, r->to[i]->operation);
		for (size_t k = 0; k < r->n_when; k++) {
			const struct key *key = key_find(r->when[k]->key);

			if (!key || key->permission || (key->http && !http))
				when(t, &perm, &prin, and, NULL, o->ns, r->when[k]);
		}
		close_and(t, and, n_and(and));
	}
	for (size_t i = 0; i < r->n_from || i == 0; i++) {
		void *and = eb_in(t->a, policy, "principals");

		if (r->n_from)
			from(&prin, and, o->ns, r->from[i]->source);
		for (size_t k = 0; k < r->n_when; k++) {
			const struct key *key = key_find(r->when[k]->key);

			if (key && !key->permission && (!key->http || http))
				when(t, &perm, &prin, NULL, and, o->ns, r->when[k]);
		}
		close_and(t, and, n_and(and));
	}
	/* as on a node: what cannot be seen allows nothing, and does not save from a DENY */
	if (never && !deny)
		return;
	e = eb_in(t->a, rbac, "policies");
	eb_strf(t->a, e, "key", "ns[%s]-policy[%s]-rule[%zu]", o->ns, o->name, index);
	((Envoy__Config__Rbac__V3__RBAC__PoliciesEntry *)e)->value = policy;
}

/* ---- filters */

static struct gw_policies select_policies(struct tr *t, const struct tr_gateway *g,
					  const struct tr_svc *s, int action, bool dry)
{
	struct gw_policies x = gw_policies_of(t, &t->authorization, g, s);
	size_t n = 0;

	for (size_t i = 0; i < x.n; i++)
		if ((int)spec_of(x.v[i])->action == action && dry_run(x.v[i]) == dry)
			x.v[n++] = x.v[i];
	x.n = n;
	return x;
}

static void rules_into(struct tr *t, void *rbac, const struct gw_policies *x, const char *action,
		       bool http)
{
	eb_str(t->a, rbac, "action", action);
	for (size_t i = 0; i < x->n; i++)
		for (size_t k = 0; k < spec_of(x->v[i])->n_rules; k++)
			rule(t, rbac, x->v[i], k, http);
}

/* One filter an action: what is enforced, and beside it what is only tried. */
static void add_filter(struct tr *t, const struct tr_gateway *g, const struct tr_svc *s,
		       void *holder, bool http, int action)
{
	static const char *const names[] = {[ALLOW] = "ALLOW", [DENY] = "DENY", [AUDIT] = "LOG"};
	const struct gw_policies real = select_policies(t, g, s, action, false);
	const struct gw_policies tried = select_policies(t, g, s, action, true);
	void *f;

	if (!real.n && !tried.n)
		return;
	f = eb_new(t->a, http ? &envoy__extensions__filters__http__rbac__v3__rbac__descriptor
			      : &envoy__extensions__filters__network__rbac__v3__rbac__descriptor);
	if (real.n)
		rules_into(t, eb_in(t->a, f, "rules"), &real, names[action], http);
	if (tried.n) {
		rules_into(t, eb_in(t->a, f, "shadow_rules"), &tried, names[action], http);
		eb_str(t->a, f, "shadow_rules_stat_prefix", "dry_run_");
	}
	if (!http)
		eb_str(t->a, f, "stat_prefix", "tcp.");
	eb_typed(t->a, eb_in(t->a, holder, http ? "http_filters" : "filters"),
		 http ? "envoy.filters.http.rbac" : "envoy.filters.network.rbac", f);
}

bool gw_is_custom(const struct weft_object *o)
{
	return (int)spec_of(o)->action == CUSTOM && !dry_run(o);
}

void *gw_custom_rules(struct tr *t, const struct tr_gateway *g, const struct tr_svc *s,
		      const char *provider)
{
	const struct gw_policies all = select_policies(t, g, s, CUSTOM, false);
	struct gw_policies mine = {0};
	void *rbac = eb_new(t->a, &envoy__config__rbac__v3__rbac__descriptor);

	for (size_t i = 0; i < all.n; i++)
		if (!strcmp(spec_of(all.v[i])->provider->name, provider))
			TR_ADD(t, mine.v, mine.n, all.v[i]);
	rules_into(t, rbac, &mine, "DENY", true);
	return rbac;
}

void gw_policy_filters(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		       struct gw_clusters *c)
{
	gw_custom_filters(t, g, s, hcm, c);
	add_filter(t, g, s, hcm, true, AUDIT);
	add_filter(t, g, s, hcm, true, DENY);
	add_filter(t, g, s, hcm, true, ALLOW);
}

void gw_policy_filters_tcp(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *chain)
{
	if (gw_custom_tcp(t, g, s)) {
		void *f = eb_new(t->a,
				 &envoy__extensions__filters__network__rbac__v3__rbac__descriptor);

		eb_str(t->a, f, "rules.action", "ALLOW");
		eb_str(t->a, f, "stat_prefix", "custom.");
		eb_typed(t->a, eb_in(t->a, chain, "filters"), "envoy.filters.network.rbac", f);
	}
	add_filter(t, g, s, chain, false, AUDIT);
	add_filter(t, g, s, chain, false, DENY);
	add_filter(t, g, s, chain, false, ALLOW);
}

/* ---- what only a waypoint can enforce */

static bool any_enforced(struct tr *t, const struct tr_gateway *g, const struct tr_svc *s)
{
	const struct gw_policies x = gw_policies_of(t, &t->authorization, g, s);

	for (size_t i = 0; i < x.n; i++)
		if ((int)spec_of(x.v[i])->action != AUDIT && !dry_run(x.v[i]))
			return true;
	return gw_policies_of(t, &t->authentication, g, s).n > 0;
}

void tr_policies_l7(struct tr *t)
{
	for (size_t i = 0; i < t->n_gateways; i++)
		t->gateways[i].l7 = t->gateways[i].class == GW_WAYPOINT &&
				    any_enforced(t, &t->gateways[i], NULL);
	for (size_t i = 0; i < t->n_svcs; i++) {
		struct tr_svc *s = &t->svcs[i];

		s->l7 = s->gw && (s->gw->l7 || any_enforced(t, s->gw, s));
	}
}
