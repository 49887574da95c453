/* What the rules say, the strongest word first: disallow_expression, allow_expression, then the
 * switches. */
#include "proxy/http/mutation_rules.h"
#include "proxy/policy/match.h"

#include <errno.h>
#include <string.h>

static int expression(struct weft_cfg *c, const struct weft_path *at, const char *field,
		      const Envoy__Type__Matcher__V3__RegexMatcher *m,
		      const struct weft_regex **ret)
{
	struct weft_path p = {at, field, -1}, pr = {&p, "regex", -1};

	return m ? weft_regex_compile(c, &pr, m->regex ?: "", ret) : 0;
}

int weft_mutation_rules_prepare(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Config__Common__MutationRules__V3__HeaderMutationRules *m,
	struct weft_mutation_rules *ret)
{
	int err = expression(c, at, "allow_expression", m->allow_expression, &ret->allow);

	err |= expression(c, at, "disallow_expression", m->disallow_expression, &ret->disallow);
	ret->routing = weft_cfg_bool(m->allow_all_routing, false);
	ret->internal = weft_cfg_bool(m->allow_envoy, false);
	ret->no_system = weft_cfg_bool(m->disallow_system, false);
	ret->none = weft_cfg_bool(m->disallow_all, false);
	ret->is_error = weft_cfg_bool(m->disallow_is_error, false);
	return err ? -EINVAL : 0;
}

/* What decides where a request goes. */
static bool is_routing(const char *name)
{
	return !strcmp(name, "host") || !strcmp(name, ":authority") || !strcmp(name, ":scheme") ||
	       !strcmp(name, ":method");
}

/* A limit of an expression counts as what lets less through. */
static bool allowed(const struct weft_mutation_rules *r, const char *name, enum weft_mutation_op op)
{
	size_t n = strlen(name);

	/* a request cannot be without these */
	if (op == WEFT_MUTATE_REMOVE && (*name == ':' || !strcmp(name, "host")))
		return false;
	if (r->disallow && weft_regex_full(r->disallow, name, n) != WEFT_MATCH_NO)
		return false;
	if (r->allow && weft_regex_full(r->allow, name, n) == WEFT_MATCH_YES)
		return true;
	if (op == WEFT_MUTATE_APPEND && *name == ':' && strcmp(name, ":authority") != 0)
		return false; /* a second one is none */
	if (r->none || (r->no_system && *name == ':') || (!r->routing && is_routing(name)))
		return false;
	return r->internal || strncmp(name, "x-envoy", 7) != 0;
}

enum weft_mutation weft_mutation_check(const struct weft_mutation_rules *r, const char *name,
				       enum weft_mutation_op op)
{
	if (allowed(r, name, op))
		return WEFT_MUTATION_OK;
	return r->is_error ? WEFT_MUTATION_ERROR : WEFT_MUTATION_IGNORE;
}
