/* L4 authorization, the one decision code for traffic and explain. ambient-contract §3. Pure; any
 * thread. */
#pragma once
#include "proxy/policy/model.h"

struct weft_authz_query {
	struct weft_ip src;
	struct weft_sockaddr dst; /* after resolution: the real target port */
	const char *peer;	  /* SPIFFE id with "spiffe://", or NULL: no identity */
};
enum { WEFT_STEPS_MAX = 64 };
struct weft_step {			  /* one policy looked at, for explain */
	const struct weft_policy *policy; /* NULL: a name not delivered */
	char name[160];
	bool deny_action, dry_run, matched;
	int rule; /* first matching rule, or -1 */
};
struct weft_verdict {
	bool allow;
	enum weft_reason reason; /* OK, POLICY_DENY, POLICY_STRICT, POLICY_UNKNOWN */
	const struct weft_policy
		*decided; /* borrowed; NULL: none in the set, or no ALLOW matched */
	int rule;
	size_t n_steps; /* filled only if steps was given */
};
/* steps may be NULL. Fails closed: a policy name of w that the model does not have denies
 * (POLICY_UNKNOWN). */
void weft_authz_check(const struct weft_model *m, const struct weft_workload *w,
		      const struct weft_authz_query *q, struct weft_verdict *ret,
		      struct weft_step *steps, size_t max_steps);
