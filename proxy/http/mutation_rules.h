/* Which headers of a request a service may change (envoy.config.common.mutation_rules.v3). */
#pragma once
#include "xds/cfg.h"
#include "xds/proto/envoy/config/common/mutation_rules/v3/mutation_rules.pb-c.h"

struct weft_regex;
struct weft_mutation_rules { /* compiled, immutable, any thread */
	bool routing, internal, no_system, none, is_error;
	const struct weft_regex *allow, *disallow; /* NULL: none */
};
enum weft_mutation_op { WEFT_MUTATE_SET, WEFT_MUTATE_APPEND, WEFT_MUTATE_REMOVE };
enum weft_mutation { WEFT_MUTATION_OK, WEFT_MUTATION_IGNORE, WEFT_MUTATION_ERROR };

int weft_mutation_rules_prepare(
	struct weft_cfg *c, const struct weft_path *at,
	const Envoy__Config__Common__MutationRules__V3__HeaderMutationRules *m,
	struct weft_mutation_rules *ret);
/* name: in lower case. */
enum weft_mutation weft_mutation_check(const struct weft_mutation_rules *r, const char *name,
				       enum weft_mutation_op op);
