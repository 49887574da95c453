/* Changes of headers in the order of a list: Envoy's HeaderMutation. */
#include "proxy/http/mutations.h"
#include "proxy/http/header_ops.h"

#include <string.h>

struct weft_mutation {
	const char *remove; /* NULL: one of the others */
	const struct weft_hdrop *append;
	const struct weft_strmatch *match; /* remove_on_match */
};

static int one_prepare(struct weft_cfg *c, const struct weft_path *at, const weft_mutation_msg *m,
		       struct weft_mutation *to)
{
	struct weft_path pr = {at, "remove", -1}, pa = {at, "append", -1},
			 pm = {at, "remove_on_match", -1}, pk = {&pm, "key_matcher", -1};
	struct weft_strmatch *sm;

	switch (m->action_case) {
	case ENVOY__CONFIG__COMMON__MUTATION_RULES__V3__HEADER_MUTATION__ACTION_REMOVE:
		if (!*m->remove || *m->remove == ':' || !strcasecmp(m->remove, "host"))
			return weft_cfg_fail(c, &pr,
					     "must be a header that requests and answers can be "
					     "without, is \"%s\"",
					     m->remove);
		to->remove = weft_arena_strdup(c->arena, m->remove);
		return 0;
	case ENVOY__CONFIG__COMMON__MUTATION_RULES__V3__HEADER_MUTATION__ACTION_APPEND:
		return weft_hdrop_prepare(c, &pa, m->append, &to->append);
	case ENVOY__CONFIG__COMMON__MUTATION_RULES__V3__HEADER_MUTATION__ACTION_REMOVE_ON_MATCH:
		to->match = sm = weft_arena_alloc(c->arena, sizeof(*sm));
		return weft_strmatch_prepare(c, &pk, m->remove_on_match->key_matcher, sm);
	default:
		return weft_cfg_fail(c, at, "must have one of remove, append, remove_on_match");
	}
}

int weft_mutations_prepare(struct weft_cfg *c, const struct weft_path *at,
			   weft_mutation_msg *const *v, size_t n, struct weft_mutations *ret)
{
	struct weft_mutation *to = weft_arena_alloc(c->arena, (n + 1) * sizeof(*to));
	int err = 0;

	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		err |= one_prepare(c, &p, v[i], &to[i]);
	}
	*ret = (struct weft_mutations){to, n};
	return err;
}

static void drop_matching(const struct weft_strmatch *m, struct weft_headers *h)
{
	for (uint32_t i = h->n; i-- > 0;)
		if (*h->v[i].name != ':' &&
		    weft_strmatch(m, h->v[i].name, h->v[i].name_len) == WEFT_MATCH_YES)
			weft_headers_remove_at(h, i);
}

void weft_mutations_apply(const struct weft_mutations *l, const struct weft_format_in *in,
			  struct weft_headers *h)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct weft_mutation *m = &l->v[i];

		if (m->remove)
			weft_headers_remove(h, m->remove, strlen(m->remove));
		else if (m->match)
			drop_matching(m->match, h);
		else
			weft_hdrop_apply(m->append, in, h);
	}
}
