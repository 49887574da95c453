/* A list of header changes that are made in its order. Immutable; any thread. */
#pragma once
#include "proxy/l4/als.h"
#include "proxy/session/headers.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/common/mutation_rules/v3/mutation_rules.pb-c.h"

typedef Envoy__Config__Common__MutationRules__V3__HeaderMutation weft_mutation_msg;
struct weft_mutation;
struct weft_mutations {
	const struct weft_mutation *v;
	size_t n;
};
/* at: the list's path, its last piece without index. */
int weft_mutations_prepare(struct weft_cfg *c, const struct weft_path *at,
			   weft_mutation_msg *const *v, size_t n, struct weft_mutations *ret);
void weft_mutations_apply(const struct weft_mutations *l, const struct weft_format_in *in,
			  struct weft_headers *h);
