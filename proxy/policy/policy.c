/* Authorization message → compiled policy. Whatever the message says and we could not hold to
 * refuses the whole policy. */
#include "proxy/core/arena.h"
#include "proxy/policy/model_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AT(name, up_, field_, idx_)                                                                \
	const struct weft_path name = {.up = (up_), .field = (field_), .idx = (idx_)}

static const char *text(const char *s)
{
	return s ? s : "";
}

struct build {
	struct weft_arena *a;
	struct weft_err *e;
};

static int texts_build(struct build *b, Istio__Security__StringMatch *const *v, size_t n,
		       const char *field, const struct weft_path *up, struct weft_texts *ret)
{
	struct weft_text_match *to = weft_arena_alloc(b->a, n * sizeof(*to));

	for (size_t i = 0; i < n; i++) {
		AT(at, up, field, (int)i);

		to[i].kind = (uint8_t)v[i]->match_type_case;
		switch (v[i]->match_type_case) {
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
			to[i].s = weft_arena_strdup(b->a, v[i]->exact);
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
			to[i].s = weft_arena_strdup(b->a, v[i]->prefix);
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
			to[i].s = weft_arena_strdup(b->a, v[i]->suffix);
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE:
			to[i].s = "";
			break;
		default:
			return weft_fail(
				b->e, &at, EINVAL,
				"must be exact, prefix, suffix or presence, is none of them");
		}
		to[i].len = (uint32_t)strlen(to[i].s);
	}
	*ret = (struct weft_texts){to, (uint32_t)n};
	return 0;
}

static int cidrs_build(struct build *b, Istio__Security__IpRange *const *v, size_t n,
		       const char *field, const struct weft_path *up, struct weft_cidrs *ret)
{
	struct weft_cidr *to = weft_arena_alloc(b->a, n * sizeof(*to));
	int err = 0;

	for (size_t i = 0; !err && i < n; i++) {
		AT(at, up, field, (int)i);
		uint32_t len = v[i]->length; /* absent is 0: proto3 does not send a zero */

		err = weft_cidr_decode(&v[i]->address, &len, &to[i], &at, b->e);
	}
	*ret = (struct weft_cidrs){to, (uint32_t)n};
	return err;
}

static int ports_build(struct build *b, const uint32_t *v, size_t n, const char *field,
		       const struct weft_path *up, struct weft_ports *ret)
{
	uint16_t *to = weft_arena_alloc(b->a, n * sizeof(*to));

	for (size_t i = 0; i < n; i++) {
		AT(at, up, field, (int)i);

		if (v[i] < 1 || v[i] > 65535)
			return weft_fail(b->e, &at, EINVAL, "must be 1..65535, is %u", v[i]);
		to[i] = (uint16_t)v[i];
	}
	*ret = (struct weft_ports){to, (uint32_t)n};
	return 0;
}

static int sas_build(struct build *b, Istio__Security__ServiceAccountMatch *const *v, size_t n,
		     const char *field, const struct weft_path *up, struct weft_sas *ret)
{
	struct weft_sa_match *to = weft_arena_alloc(b->a, n * sizeof(*to));

	for (size_t i = 0; i < n; i++) {
		AT(at, up, field, (int)i);

		if (!*text(v[i]->namespace_) || !*text(v[i]->service_account))
			return weft_fail(b->e, &at, EINVAL,
					 "namespace and service_account must be set");
		to[i].ns = weft_arena_strdup(b->a, v[i]->namespace_);
		to[i].sa = weft_arena_strdup(b->a, v[i]->service_account);
	}
	*ret = (struct weft_sas){to, (uint32_t)n};
	return 0;
}

static int match_build(struct build *b, const Istio__Security__Match *m, const struct weft_path *at,
		       struct weft_match *x)
{
	AT(at_ext, at, "extensions", -1);
	int err;

	if (m->n_extensions)
		return weft_fail(b->e, &at_ext, ENOTSUP, "are not supported");
	err = texts_build(b, m->namespaces, m->n_namespaces, "namespaces", at, &x->namespaces[0]);
	if (!err)
		err = texts_build(b, m->not_namespaces, m->n_not_namespaces, "not_namespaces", at,
				  &x->namespaces[1]);
	if (!err)
		err = texts_build(b, m->principals, m->n_principals, "principals", at,
				  &x->principals[0]);
	if (!err)
		err = texts_build(b, m->not_principals, m->n_not_principals, "not_principals", at,
				  &x->principals[1]);
	if (!err)
		err = cidrs_build(b, m->source_ips, m->n_source_ips, "source_ips", at, &x->src[0]);
	if (!err)
		err = cidrs_build(b, m->not_source_ips, m->n_not_source_ips, "not_source_ips", at,
				  &x->src[1]);
	if (!err)
		err = cidrs_build(b, m->destination_ips, m->n_destination_ips, "destination_ips",
				  at, &x->dst[0]);
	if (!err)
		err = cidrs_build(b, m->not_destination_ips, m->n_not_destination_ips,
				  "not_destination_ips", at, &x->dst[1]);
	if (!err)
		err = ports_build(b, m->destination_ports, m->n_destination_ports,
				  "destination_ports", at, &x->ports[0]);
	if (!err)
		err = ports_build(b, m->not_destination_ports, m->n_not_destination_ports,
				  "not_destination_ports", at, &x->ports[1]);
	if (!err)
		err = sas_build(b, m->service_accounts, m->n_service_accounts, "service_accounts",
				at, &x->sas[0]);
	if (!err)
		err = sas_build(b, m->not_service_accounts, m->n_not_service_accounts,
				"not_service_accounts", at, &x->sas[1]);
	return err;
}

static int clause_build(struct build *b, const Istio__Security__Clause *m,
			const struct weft_path *up, struct weft_clause *ret)
{
	struct weft_match *v = weft_arena_alloc(b->a, m->n_matches * sizeof(*v));
	int err = 0;

	for (size_t i = 0; !err && i < m->n_matches; i++) {
		AT(at, up, "matches", (int)i);

		err = match_build(b, m->matches[i], &at, &v[i]);
	}
	*ret = (struct weft_clause){v, (uint32_t)m->n_matches};
	return err;
}

static int rules_build(struct build *b, const Istio__Security__Authorization *m,
		       struct weft_policy *p)
{
	struct weft_rule *rules = weft_arena_alloc(b->a, m->n_rules * sizeof(*rules));
	int err = 0;

	for (size_t i = 0; !err && i < m->n_rules; i++) {
		AT(at_rule, NULL, "rules", (int)i);
		const Istio__Security__Rule *r = m->rules[i];
		struct weft_clause *clauses =
			weft_arena_alloc(b->a, r->n_clauses * sizeof(*clauses));

		for (size_t k = 0; !err && k < r->n_clauses; k++) {
			AT(at, &at_rule, "clauses", (int)k);

			err = clause_build(b, r->clauses[k], &at, &clauses[k]);
		}
		rules[i] = (struct weft_rule){clauses, (uint32_t)r->n_clauses};
	}
	p->rules = rules;
	p->n_rules = (uint32_t)m->n_rules;
	return err;
}

static int head_check(const Istio__Security__Authorization *m, const char *name, struct weft_err *e)
{
	size_t n = strlen(text(m->namespace_));
	AT(at_scope, NULL, "scope", -1);
	AT(at_action, NULL, "action", -1);
	AT(at_ext, NULL, "extensions", -1);

	if (!*text(m->name) || strncmp(name, text(m->namespace_), n) != 0 || name[n] != '/' ||
	    strcmp(name + n + 1, m->name) != 0)
		return weft_fail(
			e, NULL, EINVAL,
			"namespace/name must be the resource's name \"%.80s\", is \"%.80s/%.80s\"",
			name, text(m->namespace_), text(m->name));
	if ((unsigned)m->scope > ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR)
		return weft_fail(e, &at_scope, EINVAL, "unknown value %d", (int)m->scope);
	if (m->scope == ISTIO__SECURITY__SCOPE__NAMESPACE && !n)
		return weft_fail(e, &at_scope, EINVAL, "NAMESPACE needs a namespace");
	if ((unsigned)m->action > ISTIO__SECURITY__ACTION__DENY)
		return weft_fail(e, &at_action, EINVAL, "unknown value %d", (int)m->action);
	if (m->n_extensions)
		return weft_fail(e, &at_ext, ENOTSUP, "are not supported");
	return 0;
}

static bool is_peer_authentication(const char *name)
{
	static const char prefix[] = "converted_peer_authentication_";

	return !strcmp(name, "istio_converted_static_strict") ||
	       !strncmp(name, prefix, sizeof(prefix) - 1);
}

int weft_policy_decode(const Istio__Security__Authorization *m, const char *name,
		       const char *source, struct weft_policy **ret, struct weft_err *reterr)
{
	struct build b = {.e = reterr};
	struct weft_policy *p;
	int err = head_check(m, name, reterr);

	if (err)
		return err;
	p = weft_xcalloc(1, sizeof(*p));
	atomic_init(&p->refs, 1);
	p->name = weft_intern(name);
	p->ns = weft_intern(m->namespace_);
	p->source = weft_intern(source);
	p->deny = m->action == ISTIO__SECURITY__ACTION__DENY;
	p->dry_run = m->dry_run;
	p->strict = p->deny && is_peer_authentication(m->name);
	p->scope = m->scope == ISTIO__SECURITY__SCOPE__GLOBAL	   ? WEFT_SCOPE_GLOBAL
		   : m->scope == ISTIO__SECURITY__SCOPE__NAMESPACE ? WEFT_SCOPE_NS
								   : WEFT_SCOPE_SELECTOR;
	p->arena = b.a = weft_arena_new(512);
	err = rules_build(&b, m, p);
	if (err) {
		weft_policy_unref(p);
		return err;
	}
	*ret = p;
	return 0;
}

struct weft_policy *weft_policy_ref(const struct weft_policy *cp)
{
	struct weft_policy *p = (struct weft_policy *)(uintptr_t)cp;

	if (p)
		atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	return p;
}

void weft_policy_unref(struct weft_policy *p)
{
	if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
		return;
	weft_intern_put(p->name);
	weft_intern_put(p->ns);
	weft_intern_put(p->source);
	weft_arena_free(p->arena);
	free(p);
}

const char *weft_policy_name(const struct weft_policy *p)
{
	return p->name;
}

const char *weft_policy_source(const struct weft_policy *p)
{
	return p->source;
}

bool weft_policy_is_peer(const struct weft_policy *p)
{
	return p->strict;
}
