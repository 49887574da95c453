/* The engine: policies in the order of their names, the first that matches decides. */
#include "proxy/policy/rbac_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Config__Rbac__V3__RBAC rbac_msg;
typedef Envoy__Config__Rbac__V3__Policy policy_msg;
typedef Envoy__Config__Rbac__V3__RBAC__PoliciesEntry policy_entry;

enum {
	RULES_ALLOW = ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__ALLOW,
	RULES_DENY = ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__DENY,
	RULES_LOG = ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__LOG
};

/* ---- configuration */
static int policy_prepare(struct weft_cfg *c, const struct weft_path *at, const policy_entry *e,
			  const struct weft_rbac_template *http, struct rbac_policy *ret)
{
	const policy_msg *m = e->value;
	/* the key stands in the path of a map's value */
	struct weft_path p = {at, e->key && *e->key ? e->key : "\"\"", -1},
			 pm = {&p, "permissions", -1}, pp = {&p, "principals", -1},
			 pc = {&p, "condition", -1}, px = {&p, "checked_condition", -1},
			 pl = {&p, "cel_config", -1};
	struct rbac_node *two = weft_arena_alloc(c->arena, 2 * sizeof(*two));
	int err = 0;

	ret->name = weft_arena_strdup(c->arena, e->key ?: "");
	ret->root = (struct rbac_node){.op = RBAC_AND, .n = 2, .v = two};
	if (!m)
		return weft_cfg_fail(c, &p, "must have permissions and principals");
	if (m->condition)
		err = weft_cfg_fail(c, &pc, "is not supported: there is no CEL");
	if (m->checked_condition)
		err = weft_cfg_fail(c, &px, "is not supported: there is no CEL");
	if (m->cel_config)
		err = weft_cfg_fail(c, &pl, "is not supported: there is no CEL");
	if (rbac_permissions(c, &pm, m->permissions, m->n_permissions, http, 1, &two[0]))
		err = -EINVAL;
	if (rbac_principals(c, &pp, m->principals, m->n_principals, http, 1, &two[1]))
		err = -EINVAL;
	return err;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(policy_entry *const *)a)->key ?: "",
		      (*(policy_entry *const *)b)->key ?: "");
}

static int rules_prepare(struct weft_cfg *c, const struct weft_path *at, const rbac_msg *m,
			 struct weft_rbac *r)
{
	struct weft_path p = {at, "policies", -1}, pa = {at, "audit_logging_options", -1};
	struct rbac_policy *v;
	policy_entry **sorted;
	int err = 0;

	r->action = m->action;
	if (m->audit_logging_options)
		err = weft_cfg_fail(c, &pa, "is not supported");
	if (m->n_policies > RBAC_POLICIES_MAX)
		return weft_cfg_fail(c, &p, "must have at most %d policies, has %zu",
				     RBAC_POLICIES_MAX, m->n_policies);
	v = weft_arena_alloc(c->arena, (m->n_policies ?: 1) * sizeof(*v));
	sorted = weft_xcalloc(m->n_policies + 1, sizeof(policy_entry *));
	for (size_t i = 0; i < m->n_policies; i++)
		sorted[i] = m->policies[i];
	qsort(sorted, m->n_policies, sizeof(*sorted), by_name);
	for (size_t i = 0; i < m->n_policies; i++) {
		/* of two with one key the last one stands, as in any map */
		if (i + 1 < m->n_policies && !by_name(&sorted[i], &sorted[i + 1]))
			continue;
		if (policy_prepare(c, &p, sorted[i], r->http, &v[r->n++]))
			err = -EINVAL;
	}
	free(sorted);
	r->v = v;
	if (!err)
		r->index = rbac_index_new(c->arena, v, r->n);
	return err;
}

int weft_rbac_prepare(struct weft_cfg *c, const struct weft_path *at,
		      const struct weft_rbac_conf *conf, const struct weft_rbac **ret)
{
	struct weft_path pr = {at, conf->rules_field, -1}, pm = {at, conf->matcher_field, -1};
	struct weft_rbac *r;

	*ret = NULL;
	if (!conf->rules && !conf->matcher)
		return 0;
	r = weft_arena_alloc(c->arena, sizeof(*r));
	r->http = conf->http;
	*ret = r;
	if (conf->rules && conf->matcher)
		weft_cfg_warn(c, &pr, "is without effect beside %s", conf->matcher_field);
	if (conf->matcher)
		return rbac_matcher_prepare(c, &pm, conf->matcher, conf->http != NULL, &r->matcher);
	return rules_prepare(c, &pr, conf->rules, r);
}

const char *weft_rbac_policy(const struct weft_rbac *r, size_t i)
{
	return i < r->n ? r->v[i].name : NULL;
}

/* ---- decisions */
const struct weft_sockaddr *rbac_direct(const struct weft_rbac_in *in)
{
	return in->conn->direct_remote.ip.family ? &in->conn->direct_remote : &in->conn->remote;
}

void rbac_view_init(struct rbac_view *v, const struct weft_rbac *r, const struct weft_rbac_in *in)
{
	static const struct weft_headers none;
	const struct weft_header *path;

	v->in = in;
	v->http = r->http;
	v->h = in->h ?: &none;
	v->sni = in->sni ?: in->conn->sni ?: "";
	v->path = NULL;
	v->path_n = 0;
	path = weft_headers_get(v->h, WEFT_H_PATH);
	if (path) {
		v->path = path->value;
		v->path_n = strcspn(path->value, "?#");
	}
}

bool weft_rbac_allowed(const struct weft_rbac *r, const struct weft_rbac_in *in,
		       struct weft_rbac_out *ret)
{
	struct rbac_view v;
	struct rbac_walk w;
	bool matched = false;
	int64_t i;

	memset(ret, 0, sizeof(*ret));
	rbac_view_init(&v, r, in);
	if (r->matcher)
		return rbac_matcher_allowed(r->matcher, &v, ret);
	rbac_walk_init(&w, r->index, &v);
	while (!matched && (i = rbac_walk_next(&w)) >= 0) {
		enum weft_match m = rbac_eval(&r->v[i].root, &v);

		matched = m == WEFT_MATCH_YES ||
			  (m == WEFT_MATCH_LIMIT && (int)r->action == RULES_DENY);
		if (matched)
			ret->policy = r->v[i].name;
	}
	switch ((int)r->action) {
	case RULES_ALLOW:
		return matched;
	case RULES_LOG:
		ret->hint_set = true;
		ret->hint = matched;
		return true;
	default:
		return !matched;
	}
}
