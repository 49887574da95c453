#include "proxy/policy/authz.h"

#include "proxy/policy/model_priv.h"

#include <stdio.h>
#include <string.h>

/* The query taken apart once. */
struct subject {
	struct weft_ip src, dst;
	uint16_t port;
	bool known;	/* an identity of the form td/ns/x/sa/y */
	const char *id; /* without "spiffe://"; whatever the certificate said */
	size_t id_len;
	const char *ns, *sa; /* "" without identity */
	size_t ns_len, sa_len;
};

static struct weft_ip canonical(const struct weft_ip *ip)
{
	struct weft_ip r = *ip;

	if (ip->family == 6)
		weft_ip_from_bytes(ip->b, 16, &r);
	return r;
}

static void subject_init(struct subject *s, const struct weft_authz_query *q)
{
	const char *ns, *sa;

	*s = (struct subject){.src = canonical(&q->src),
			      .dst = canonical(&q->dst.ip),
			      .port = q->dst.port,
			      .ns = "",
			      .sa = ""};
	if (!q->peer || strncmp(q->peer, "spiffe://", 9) != 0)
		return;
	s->id = q->peer + 9;
	s->id_len = strlen(s->id);
	ns = strchr(s->id, '/');
	if (!ns || strncmp(ns, "/ns/", 4) != 0)
		goto none;
	ns += 4;
	sa = strchr(ns, '/');
	if (!sa || strncmp(sa, "/sa/", 4) != 0 || strchr(sa + 4, '/'))
		goto none;
	s->ns = ns;
	s->ns_len = (size_t)(sa - ns);
	s->sa = sa + 4;
	s->sa_len = strlen(s->sa);
	s->known = true;
	return;
none:
	s->id = NULL; /* not an identity that a policy could name */
}

static bool text_matches(const struct weft_text_match *m, const char *s, size_t len)
{
	switch (m->kind) {
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
		return len == m->len && !memcmp(s, m->s, len);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
		return len >= m->len && !memcmp(s, m->s, m->len);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
		return len >= m->len && !memcmp(s + len - m->len, m->s, m->len);
	default: /* presence */
		return len > 0;
	}
}

static bool texts_any(const struct weft_texts *t, const char *s, size_t len)
{
	for (uint32_t i = 0; s && i < t->n; i++)
		if (text_matches(&t->v[i], s, len))
			return true;
	return false;
}

static bool cidrs_any(const struct weft_cidrs *c, const struct weft_ip *ip)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (weft_cidr_has(&c->v[i], ip))
			return true;
	return false;
}

static bool ports_any(const struct weft_ports *p, uint16_t port)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (p->v[i] == port)
			return true;
	return false;
}

static bool piece_is(const char *want, const char *s, size_t len)
{
	return strlen(want) == len && !memcmp(want, s, len);
}

static bool sas_any(const struct weft_sas *v, const struct subject *s)
{
	for (uint32_t i = 0; s->known && i < v->n; i++)
		if (piece_is(v->v[i].ns, s->ns, s->ns_len) &&
		    piece_is(v->v[i].sa, s->sa, s->sa_len))
			return true;
	return false;
}

/* One kind holds if one of its values does and none of its not_ values; an empty list says nothing.
 */
#define HOLDS(list, any, ...)                                                                      \
	((!(list)[0].n || any(&(list)[0], __VA_ARGS__)) &&                                         \
	 !((list)[1].n && any(&(list)[1], __VA_ARGS__)))
#define SAYS(list) ((list)[0].n || (list)[1].n)

static bool match_holds(const struct weft_match *m, const struct subject *s)
{
	if (!SAYS(m->namespaces) && !SAYS(m->principals) && !SAYS(m->src) && !SAYS(m->dst) &&
	    !SAYS(m->ports) && !SAYS(m->sas))
		return false; /* a match with nothing in it never holds */
	return HOLDS(m->namespaces, texts_any, s->ns, s->ns_len) &&
	       HOLDS(m->principals, texts_any, s->id, s->id_len) &&
	       HOLDS(m->src, cidrs_any, &s->src) && HOLDS(m->dst, cidrs_any, &s->dst) &&
	       HOLDS(m->ports, ports_any, s->port) && HOLDS(m->sas, sas_any, s);
}

static bool clause_holds(const struct weft_clause *c, const struct subject *s)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (match_holds(&c->v[i], s))
			return true;
	return !c->n;
}

/* The first rule that holds, or -1. */
static int rule_find(const struct weft_policy *p, const struct subject *s)
{
	for (uint32_t i = 0; i < p->n_rules; i++) {
		const struct weft_rule *r = &p->rules[i];
		uint32_t k = 0;

		while (k < r->n && clause_holds(&r->v[k], s))
			k++;
		if (k == r->n)
			return (int)i;
	}
	return -1;
}

/* One pass over the policies that apply: mesh, namespace, then those the workload names. */
struct pass {
	const struct subject *s;
	struct weft_verdict *v;
	struct weft_step *steps;
	size_t max_steps;
	bool deny;	/* looks at DENY policies, else at ALLOW */
	bool has_allow; /* an enforced ALLOW is in the set */
	bool decided;
	bool unknown; /* a name the model does not have */
};

static struct weft_step *step_next(struct pass *x)
{
	return x->steps && x->v->n_steps < x->max_steps ? &x->steps[x->v->n_steps++] : NULL;
}

static void policy_look(struct pass *x, const struct weft_policy *p)
{
	struct weft_step *step;
	int rule;

	if (p->deny != x->deny || (p->dry_run && !x->steps))
		return;
	if (!p->deny && !p->dry_run)
		x->has_allow = true;
	if (x->decided && !x->steps)
		return;
	rule = rule_find(p, x->s);
	step = step_next(x);
	if (step) {
		*step = (struct weft_step){.policy = p,
					   .deny_action = p->deny,
					   .dry_run = p->dry_run,
					   .matched = rule >= 0,
					   .rule = rule};
		snprintf(step->name, sizeof(step->name), "%s", p->name);
	}
	if (rule < 0 || p->dry_run || x->decided)
		return;
	x->decided = true;
	x->v->decided = p;
	x->v->rule = rule;
}

static void set_look(struct pass *x, const struct weft_policy_set *set)
{
	for (uint32_t i = 0; set && i < set->n; i++)
		policy_look(x, set->v[i]);
}

static void named_look(struct pass *x, const struct weft_model *m, const struct weft_workload *w)
{
	for (size_t i = 0; i < w->n_policies; i++) {
		const struct weft_policy *p = weft_model_policy(m, w->policies[i]);
		struct weft_step *step;

		if (p) {
			policy_look(x, p);
			continue;
		}
		x->unknown = true;
		step = x->deny ? step_next(x) : NULL; /* told once */
		if (!step)
			continue;
		*step = (struct weft_step){.rule = -1};
		snprintf(step->name, sizeof(step->name), "%s", w->policies[i]);
	}
}

static void pass_run(struct pass *x, const struct weft_model *m, const struct weft_workload *w)
{
	set_look(x, weft_model_policy_set(m, ""));
	if (*w->ns)
		set_look(x, weft_model_policy_set(m, w->ns));
	named_look(x, m, w);
}

void weft_authz_check(const struct weft_model *m, const struct weft_workload *w,
		      const struct weft_authz_query *q, struct weft_verdict *ret,
		      struct weft_step *steps, size_t max_steps)
{
	struct subject s;
	struct pass deny = {
		.s = &s, .v = ret, .steps = steps, .max_steps = max_steps, .deny = true};
	struct pass allow = {.s = &s, .v = ret, .steps = steps, .max_steps = max_steps};
	bool denied;

	subject_init(&s, q);
	*ret = (struct weft_verdict){.rule = -1};
	pass_run(&deny, m, w);
	denied = deny.decided || deny.unknown;
	if (deny.decided)
		ret->reason =
			ret->decided->strict ? WEFT_REASON_POLICY_STRICT : WEFT_REASON_POLICY_DENY;
	else if (deny.unknown)
		ret->reason = WEFT_REASON_POLICY_UNKNOWN;
	if (denied && !steps)
		return;
	allow.decided = denied; /* what follows is only told */
	pass_run(&allow, m, w);
	if (denied)
		return;
	ret->allow = allow.decided || !allow.has_allow;
	ret->reason = ret->allow ? WEFT_REASON_OK : WEFT_REASON_POLICY_DENY;
}
