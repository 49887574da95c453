/* Authorization against an oracle that reads the messages anew for every question, as the text of
 * the contract has it. */
#include "test/unit/proxy/policy/build.h"

typedef Istio__Security__Authorization Policy;
typedef Istio__Security__Match Match;
typedef Istio__Security__StringMatch Text;

static uint64_t rng = 7;

static unsigned below(unsigned n)
{
	rng = rng * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)((rng >> 33) % n);
}

/* ---- the oracle */

struct question {
	struct weft_ip src, dst;
	unsigned port;
	const char *td, *ns, *sa; /* td NULL: no identity */
};

static bool oracle_text(const Text *t, const char *s)
{
	size_t n = strlen(s), k;

	switch (t->match_type_case) {
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
		return !strcmp(t->exact, s);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
		return strstr(s, t->prefix) == s;
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
		k = strlen(t->suffix);
		return k <= n && !strcmp(s + (n - k), t->suffix);
	case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE:
		return s[0] != '\0';
	default:
		fail();
		return false;
	}
}

static bool oracle_in(const Istio__Security__IpRange *r, const struct weft_ip *ip)
{
	if (r->address.len != weft_ip_bytes(ip))
		return false;
	for (unsigned i = 0; i < r->length; i++) {
		unsigned mask = 0x80u >> (i % 8);

		if ((r->address.data[i / 8] & mask) != (ip->b[i / 8] & mask))
			return false;
	}
	return true;
}

#define ANY(list, n, one)                                                                          \
	({                                                                                         \
		bool any_ = false;                                                                 \
		for (size_t i = 0; i < (n); i++)                                                   \
			any_ = any_ || (one);                                                      \
		any_;                                                                              \
	})

static bool oracle_match(const Match *m, const struct question *q)
{
	char id[200] = "";
	const char *ns = q->td ? q->ns : "";
	bool empty = true, ok = true;

	if (q->td)
		snprintf(id, sizeof(id), "%s/ns/%s/sa/%s", q->td, q->ns, q->sa);
#define KIND(list, n, one)                                                                         \
	if (n) {                                                                                   \
		empty = false;                                                                     \
		ok = ok && ANY(list, n, one);                                                      \
	}
#define NOT_KIND(list, n, one)                                                                     \
	if (n) {                                                                                   \
		empty = false;                                                                     \
		ok = ok && !ANY(list, n, one);                                                     \
	}
	KIND(, m->n_namespaces, oracle_text(m->namespaces[i], ns))
	NOT_KIND(, m->n_not_namespaces, oracle_text(m->not_namespaces[i], ns))
	KIND(, m->n_principals, q->td && oracle_text(m->principals[i], id))
	NOT_KIND(, m->n_not_principals, q->td && oracle_text(m->not_principals[i], id))
	KIND(, m->n_source_ips, oracle_in(m->source_ips[i], &q->src))
	NOT_KIND(, m->n_not_source_ips, oracle_in(m->not_source_ips[i], &q->src))
	KIND(, m->n_destination_ips, oracle_in(m->destination_ips[i], &q->dst))
	NOT_KIND(, m->n_not_destination_ips, oracle_in(m->not_destination_ips[i], &q->dst))
	KIND(, m->n_destination_ports, m->destination_ports[i] == q->port)
	NOT_KIND(, m->n_not_destination_ports, m->not_destination_ports[i] == q->port)
#define SA(list)                                                                                   \
	(q->td && !strcmp(list[i]->namespace_, q->ns) && !strcmp(list[i]->service_account, q->sa))
	KIND(, m->n_service_accounts, SA(m->service_accounts))
	NOT_KIND(, m->n_not_service_accounts, SA(m->not_service_accounts))
	return !empty && ok;
}

static bool oracle_policy(const Policy *p, const struct question *q)
{
	for (size_t i = 0; i < p->n_rules; i++) {
		bool all = true;

		for (size_t k = 0; k < p->rules[i]->n_clauses; k++) {
			const Istio__Security__Clause *c = p->rules[i]->clauses[k];
			bool any = c->n_matches == 0;

			for (size_t j = 0; j < c->n_matches; j++)
				any = any || oracle_match(c->matches[j], q);
			all = all && any;
		}
		if (all)
			return true;
	}
	return false;
}

static bool applies(const Policy *p, const char *ns, char *const *named, size_t n_named)
{
	char name[64];

	if (p->scope == ISTIO__SECURITY__SCOPE__GLOBAL)
		return true;
	if (p->scope == ISTIO__SECURITY__SCOPE__NAMESPACE && !strcmp(p->namespace_, ns))
		return true;
	snprintf(name, sizeof(name), "%s/%s", p->namespace_, p->name);
	return ANY(named, n_named, !strcmp(named[i], name));
}

static bool oracle(Policy *const *v, size_t n, const char *ns, char *const *named, size_t n_named,
		   bool unknown, const struct question *q)
{
	bool has_allow = false, allowed = false;

	if (unknown)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (v[i]->dry_run || !applies(v[i], ns, named, n_named))
			continue;
		if (v[i]->action == ISTIO__SECURITY__ACTION__DENY) {
			if (oracle_policy(v[i], q))
				return false;
		} else {
			has_allow = true;
			allowed = allowed || oracle_policy(v[i], q);
		}
	}
	return !has_allow || allowed;
}

/* ---- random policies over a small world, so that they meet the questions */

static const char *const tds[] = {"td", "cluster.local"};
static const char *const spaces[] = {"a", "ab", "b"};
static const char *const accounts[] = {"x", "xy", "y"};
static const char *const ips[] = {"10.0.0.1", "10.0.0.130", "10.1.2.3", "fd00::1", "fd00:1::2"};
static const unsigned ports[] = {80, 443, 65535};

static Text *random_text(struct weft_arena *a, bool principal)
{
	Text *t = NEW(a, Text, ISTIO__SECURITY__STRING_MATCH__INIT);
	const char *ns = spaces[below(3)];
	const char *full = principal ? weft_arena_printf(a, "%s/ns/%s/sa/%s", tds[below(2)], ns,
							 accounts[below(3)])
				     : ns;
	size_t n = strlen(full), cut = below((unsigned)n + 1);

	switch (below(6)) {
	case 0:
	case 1:
		t->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
		t->exact = weft_arena_strdup(a, below(20) ? full : "");
		break;
	case 2:
	case 3:
		t->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX;
		t->prefix = weft_arena_strndup(a, full, cut);
		break;
	case 4:
		t->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX;
		t->suffix = weft_arena_strdup(a, full + cut);
		break;
	default:
		t->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
		t->presence = NEW(a, Google__Protobuf__Empty, GOOGLE__PROTOBUF__EMPTY__INIT);
	}
	return t;
}

static Istio__Security__IpRange *random_range(struct weft_arena *a)
{
	Istio__Security__IpRange *r =
		NEW(a, Istio__Security__IpRange, ISTIO__SECURITY__IP_RANGE__INIT);

	r->has_address = r->has_length = 1;
	r->address = ip_bytes(a, ips[below(5)]);
	r->length = below(5) ? (uint32_t)r->address.len * 8 - below(12) : 0;
	return r;
}

static Istio__Security__ServiceAccountMatch *random_sa(struct weft_arena *a)
{
	Istio__Security__ServiceAccountMatch *s = NEW(a, Istio__Security__ServiceAccountMatch,
						      ISTIO__SECURITY__SERVICE_ACCOUNT_MATCH__INIT);

	s->namespace_ = (char *)(uintptr_t)spaces[below(3)];
	s->service_account = (char *)(uintptr_t)accounts[below(3)];
	return s;
}

static Match *random_match(struct weft_arena *a)
{
	Match *m = NEW(a, Match, ISTIO__SECURITY__MATCH__INIT);

#define SOME(odds, list, n, v)                                                                     \
	for (unsigned k_ = below(odds) ? 0 : 1 + below(2); k_; k_--)                               \
	ADD(a, list, n, v)
	SOME(4, m->namespaces, m->n_namespaces, random_text(a, false));
	SOME(8, m->not_namespaces, m->n_not_namespaces, random_text(a, false));
	SOME(4, m->principals, m->n_principals, random_text(a, true));
	SOME(8, m->not_principals, m->n_not_principals, random_text(a, true));
	SOME(5, m->source_ips, m->n_source_ips, random_range(a));
	SOME(8, m->not_source_ips, m->n_not_source_ips, random_range(a));
	SOME(6, m->destination_ips, m->n_destination_ips, random_range(a));
	SOME(8, m->not_destination_ips, m->n_not_destination_ips, random_range(a));
	SOME(5, m->destination_ports, m->n_destination_ports, ports[below(3)]);
	SOME(8, m->not_destination_ports, m->n_not_destination_ports, ports[below(3)]);
	SOME(8, m->service_accounts, m->n_service_accounts, random_sa(a));
	SOME(8, m->not_service_accounts, m->n_not_service_accounts, random_sa(a));
	return m;
}

static Policy *random_policy(struct weft_arena *a, unsigned i)
{
	Policy *p = NEW(a, Policy, ISTIO__SECURITY__AUTHORIZATION__INIT);

	p->name = weft_arena_printf(a, "p%u", i);
	p->namespace_ = (char *)(uintptr_t)spaces[below(3)];
	p->scope = (Istio__Security__Scope)below(3);
	p->action = below(3) ? ISTIO__SECURITY__ACTION__DENY : ISTIO__SECURITY__ACTION__ALLOW;
	p->dry_run = !below(8);
	for (unsigned r = below(3); r; r--) {
		Istio__Security__Rule *rule =
			NEW(a, Istio__Security__Rule, ISTIO__SECURITY__RULE__INIT);

		for (unsigned c = below(12) ? 1 + below(2) : 0; c; c--) {
			Istio__Security__Clause *clause =
				NEW(a, Istio__Security__Clause, ISTIO__SECURITY__CLAUSE__INIT);

			for (unsigned k = below(8) ? 1 + below(2) : 0; k; k--)
				ADD(a, clause->matches, clause->n_matches, random_match(a));
			ADD(a, rule->clauses, rule->n_clauses, clause);
		}
		ADD(a, p->rules, p->n_rules, rule);
	}
	return p;
}

static void random_question(struct question *q, struct weft_authz_query *ask, char *id, size_t cap)
{
	*q = (struct question){
		.src = ip(ips[below(5)]), .dst = ip(ips[below(5)]), .port = ports[below(3)]};
	*ask = (struct weft_authz_query){.src = q->src, .dst = {q->dst, (uint16_t)q->port}};
	if (ask->src.family == 4 && below(2)) { /* the v4-mapped form of the same address */
		ask->src = (struct weft_ip){.family = 6, .b = {[10] = 0xff, [11] = 0xff}};
		memcpy(ask->src.b + 12, q->src.b, 4);
	}
	if (!below(4))
		return;
	q->td = tds[below(2)];
	q->ns = spaces[below(3)];
	q->sa = accounts[below(3)];
	snprintf(id, cap, "spiffe://%s/ns/%s/sa/%s", q->td, q->ns, q->sa);
	ask->peer = id;
}

struct tally {
	unsigned allow, deny, unknown;
};

static void one_world(struct tally *t)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_model *m = weft_model_empty("");
	Istio__Workload__Workload *w = workload(a, spaces[below(3)], "w", "10.0.0.1");
	unsigned n = below(7);
	Policy *v[8];
	struct weft_change c[8];
	bool unknown = !below(20);
	const struct weft_workload *made;

	for (unsigned i = 0; i < n; i++) {
		v[i] = random_policy(a, i);
		c[i] = set_policy(a, v[i]);
		if (below(2))
			ADD(a, w->authorization_policies, w->n_authorization_policies,
			    (char *)(uintptr_t)c[i].name);
	}
	if (unknown)
		ADD(a, w->authorization_policies, w->n_authorization_policies, (char *)"a/late");
	c[n] = set_workload(a, w);
	apply(&m, c, n + 1);
	made = weft_model_workload_by_uid(m, w->uid);
	for (unsigned i = 0; i < 40; i++) {
		struct weft_step steps[WEFT_STEPS_MAX];
		struct weft_authz_query ask;
		struct weft_verdict plain, told;
		struct question q;
		char id[200];
		bool want;

		random_question(&q, &ask, id, sizeof(id));
		want = oracle(v, n, w->namespace_, w->authorization_policies,
			      w->n_authorization_policies, unknown, &q);
		weft_authz_check(m, made, &ask, &plain, NULL, 0);
		weft_authz_check(m, made, &ask, &told, steps, WEFT_STEPS_MAX);
		assert_int_equal(plain.allow, want);
		/* telling changes nothing */
		assert_int_equal(told.allow, want);
		assert_int_equal(told.reason, plain.reason);
		assert_ptr_equal(told.decided, plain.decided);
		assert_int_equal(told.rule, plain.rule);
		assert_int_equal(plain.reason == WEFT_REASON_OK, want);
		for (size_t k = 0; k < told.n_steps; k++) {
			if (!steps[k].policy) {
				t->unknown++;
				continue;
			}
			const Policy *p = v[atoi(strchr(steps[k].name, '/') + 2)];

			assert_int_equal(steps[k].matched, oracle_policy(p, &q));
			assert_int_equal(steps[k].dry_run, p->dry_run);
			assert_int_equal(steps[k].matched, steps[k].rule >= 0);
		}
		t->allow += want;
		t->deny += !want;
	}
	weft_model_unref(m);
	weft_arena_free(a);
}

static void against_oracle(void **state)
{
	struct tally t = {0};

	for (unsigned i = 0; i < 6000; i++)
		one_world(&t);
	print_message("# %u allowed, %u denied, %u with an unknown policy\n", t.allow, t.deny,
		      t.unknown);
	assert_true(t.allow > 20000 && t.deny > 20000 && t.unknown > 1000);
}

/* ---- by hand: what the contract says in so many words */

struct bed {
	struct weft_arena *a;
	struct weft_model *m;
	Istio__Workload__Workload *w;
};

static int setup(void **state)
{
	struct bed *b = weft_xcalloc(1, sizeof(*b));
	struct weft_change c;

	b->a = weft_arena_new(0);
	b->m = weft_model_empty("");
	b->w = workload(b->a, "web", "w", "10.0.0.1");
	c = set_workload(b->a, b->w);
	apply(&b->m, &c, 1);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bed *b = *state;

	weft_model_unref(b->m);
	weft_arena_free(b->a);
	free(b);
	return 0;
}

static struct weft_verdict ask(struct bed *b, const char *peer, uint16_t port)
{
	struct weft_authz_query q = {
		.src = ip("10.9.9.9"), .dst = {ip("10.0.0.1"), port}, .peer = peer};
	struct weft_verdict v;

	weft_authz_check(b->m, weft_model_workload_by_uid(b->m, b->w->uid), &q, &v, NULL, 0);
	return v;
}

/* A policy with one rule, one clause, one match. */
static Policy *simple(struct bed *b, const char *ns, const char *name, int scope, int action,
		      Match **ret)
{
	Policy *p = NEW(b->a, Policy, ISTIO__SECURITY__AUTHORIZATION__INIT);
	Istio__Security__Rule *r = NEW(b->a, Istio__Security__Rule, ISTIO__SECURITY__RULE__INIT);
	Istio__Security__Clause *c =
		NEW(b->a, Istio__Security__Clause, ISTIO__SECURITY__CLAUSE__INIT);

	p->name = weft_arena_strdup(b->a, name);
	p->namespace_ = weft_arena_strdup(b->a, ns);
	p->scope = (Istio__Security__Scope)scope;
	p->action = (Istio__Security__Action)action;
	*ret = NEW(b->a, Match, ISTIO__SECURITY__MATCH__INIT);
	ADD(b->a, c->matches, c->n_matches, *ret);
	ADD(b->a, r->clauses, r->n_clauses, c);
	ADD(b->a, p->rules, p->n_rules, r);
	return p;
}

static void put(struct bed *b, Policy *p, bool name_it)
{
	struct weft_change c[2] = {set_policy(b->a, p)};

	if (name_it)
		ADD(b->a, b->w->authorization_policies, b->w->n_authorization_policies,
		    (char *)(uintptr_t)c[0].name);
	c[1] = set_workload(b->a, b->w);
	apply(&b->m, c, 2);
}

static Text *presence(struct bed *b)
{
	Text *t = NEW(b->a, Text, ISTIO__SECURITY__STRING_MATCH__INIT);

	t->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
	return t;
}

static Text *exact(struct bed *b, const char *s)
{
	Text *t = NEW(b->a, Text, ISTIO__SECURITY__STRING_MATCH__INIT);

	t->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
	t->exact = weft_arena_strdup(b->a, s);
	return t;
}

#define ME "spiffe://cluster.local/ns/web/sa/me"

static void nothing_allows(void **state)
{
	assert_true(ask(*state, NULL, 80).allow);
}

static void empty_allow_denies(void **state)
{
	struct bed *b = *state;
	Match *m;
	Policy *p = simple(b, "web", "none", ISTIO__SECURITY__SCOPE__NAMESPACE,
			   ISTIO__SECURITY__ACTION__ALLOW, &m);
	struct weft_verdict v;

	p->n_rules = 0; /* an ALLOW that never matches: nobody may */
	put(b, p, false);
	v = ask(b, ME, 80);
	assert_false(v.allow);
	assert_int_equal(v.reason, WEFT_REASON_POLICY_DENY);
	assert_null(v.decided);
}

static void empty_match_never_holds(void **state)
{
	struct bed *b = *state;
	Match *m;

	put(b,
	    simple(b, "web", "d", ISTIO__SECURITY__SCOPE__NAMESPACE, ISTIO__SECURITY__ACTION__DENY,
		   &m),
	    false);
	assert_true(ask(b, ME, 80).allow);
}

static void rule_without_clauses_holds(void **state)
{
	struct bed *b = *state;
	Match *m;
	Policy *p = simple(b, "web", "d", ISTIO__SECURITY__SCOPE__NAMESPACE,
			   ISTIO__SECURITY__ACTION__DENY, &m);
	struct weft_verdict v;

	p->rules[0]->n_clauses = 0;
	put(b, p, false);
	v = ask(b, ME, 80);
	assert_false(v.allow);
	assert_int_equal(v.rule, 0);
	assert_string_equal(weft_policy_name(v.decided), "web/d");
}

static void strict(void **state)
{
	struct bed *b = *state;
	Match *m;
	Policy *p = simple(b, "istio-system", "istio_converted_static_strict",
			   ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR, ISTIO__SECURITY__ACTION__DENY,
			   &m);

	ADD(b->a, m->not_principals, m->n_not_principals, presence(b));
	put(b, p, true);
	assert_true(ask(b, ME, 80).allow);
	assert_false(ask(b, NULL, 80).allow);
	assert_int_equal(ask(b, NULL, 80).reason, WEFT_REASON_POLICY_STRICT);
	assert_false(ask(b, "spiffe://not-of-this-form", 80).allow);
}

static void other_namespace_does_not_apply(void **state)
{
	struct bed *b = *state;
	Match *m;
	Policy *p = simple(b, "db", "d", ISTIO__SECURITY__SCOPE__NAMESPACE,
			   ISTIO__SECURITY__ACTION__DENY, &m);

	ADD(b->a, m->destination_ports, m->n_destination_ports, 80u);
	put(b, p, false);
	assert_true(ask(b, ME, 80).allow);
	p->scope = ISTIO__SECURITY__SCOPE__GLOBAL;
	put(b, p, false);
	assert_false(ask(b, ME, 80).allow);
	assert_true(ask(b, ME, 81).allow);
}

static void unknown_name_denies(void **state)
{
	struct bed *b = *state;
	struct weft_step steps[4];
	struct weft_authz_query q = {
		.src = ip("10.9.9.9"), .dst = {ip("10.0.0.1"), 80}, .peer = ME};
	struct weft_verdict v;
	Match *m;
	Policy *p = simple(b, "web", "allow", ISTIO__SECURITY__SCOPE__NAMESPACE,
			   ISTIO__SECURITY__ACTION__ALLOW, &m);

	ADD(b->a, m->principals, m->n_principals, exact(b, "cluster.local/ns/web/sa/me"));
	ADD(b->a, b->w->authorization_policies, b->w->n_authorization_policies, (char *)"web/late");
	put(b, p, false);
	weft_authz_check(b->m, weft_model_workload_by_uid(b->m, b->w->uid), &q, &v, steps, 4);
	assert_false(v.allow);
	assert_int_equal(v.reason, WEFT_REASON_POLICY_UNKNOWN);
	assert_int_equal(v.n_steps, 2);
	assert_null(steps[0].policy);
	assert_string_equal(steps[0].name, "web/late");
	p = simple(b, "web", "late", ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR,
		   ISTIO__SECURITY__ACTION__DENY, &m);
	put(b, p, false);
	assert_true(ask(b, ME, 80).allow);
	assert_false(ask(b, "spiffe://other/ns/web/sa/me", 80).allow);
}

static void refuse(struct bed *b, Policy *p, const char *want)
{
	struct weft_change c = set_policy(b->a, p);
	struct weft_model *next = weft_model_apply(b->m, &c, 1);
	char text[600];

	weft_err_text(&c.err, text, sizeof(text));
	if (!c.err.code || !strstr(text, want))
		fail_msg("got \"%s\", want \"%s\"", text, want);
	assert_null(weft_model_policy(next, c.name));
	weft_model_unref(next);
}

static void refused(void **state)
{
	struct bed *b = *state;
	Istio__Security__IpRange *r;
	Policy *p;
	Match *m;

#define BAD(change_it, want)                                                                       \
	p = simple(b, "web", "p", 1, 1, &m);                                                       \
	r = random_range(b->a);                                                                    \
	change_it;                                                                                 \
	refuse(b, p, want)
	BAD(p->scope = 3, "scope: unknown value 3");
	BAD(p->action = 2, "action: unknown value 2");
	BAD(ADD(b->a, m->destination_ports, m->n_destination_ports, 65536u),
	    "rules[0].clauses[0].matches[0].destination_ports[0]: must be 1..65535, is 65536");
	BAD(ADD(b->a, m->principals, m->n_principals,
		(Text *)NEW(b->a, Text, ISTIO__SECURITY__STRING_MATCH__INIT)),
	    "matches[0].principals[0]: must be exact, prefix, suffix or presence");
	BAD(r->address = ip_bytes(b->a, "10.0.0.1"); r->length = 33;
	    ADD(b->a, m->source_ips, m->n_source_ips, r),
	    "source_ips[0]: prefix length must be 0..32, is 33");
	BAD(r->address.len = 7; ADD(b->a, m->not_source_ips, m->n_not_source_ips, r),
				"not_source_ips[0]: an address must have 4 or 16 bytes, has 7");
	BAD(ADD(b->a, m->extensions, m->n_extensions,
		(Istio__Workload__Extension *)NEW(b->a, Istio__Workload__Extension,
						  ISTIO__WORKLOAD__EXTENSION__INIT)),
	    "matches[0].extensions: are not supported");
	BAD(p->namespace_ = "", "NAMESPACE needs a namespace");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_oracle),
		T(nothing_allows),
		T(empty_allow_denies),
		T(empty_match_never_holds),
		T(rule_without_clauses_holds),
		T(strict),
		T(other_namespace_does_not_apply),
		T(unknown_name_denies),
		T(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
