/* Actions of rate limits: what of a request becomes a descriptor. */
#include "proxy/http/ratelimit_actions.h"

#include "proxy/policy/match.h"
#include <errno.h>
#include <string.h>
#include <xxhash.h>

typedef Envoy__Config__Route__V3__RateLimit limit_msg;
typedef Envoy__Config__Route__V3__RateLimit__Action action_msg;
typedef Envoy__Config__Route__V3__RateLimit__Action__MetaData metadata_msg;
#define KIND(x) ENVOY__CONFIG__ROUTE__V3__RATE_LIMIT__ACTION__ACTION_SPECIFIER_##x

struct action {
	int kind; /* action_specifier_case */
	const char *key, *value;
	const char *name; /* of a header or query parameter */
	bool skip;	  /* absent: this entry is left out, not the descriptor */
	bool expect;
	uint8_t v4, v6; /* bits kept */
	const struct weft_hdrmatch *headers;
	const struct weft_querymatch *query;
	size_t n_match;
	bool of_route; /* metadata */
	const char *ns;
	const char **path;
	size_t n_path;
};
struct limit {
	uint32_t stage;
	const struct action *v;
	size_t n;
};
struct weft_ratelimits {
	const struct limit *v;
	size_t n;
};

/* ---- configuration */

static const char *dup_or(struct weft_cfg *c, const char *s, const char *dflt)
{
	return s && *s ? weft_arena_strdup(c->arena, s) : dflt;
}

static int metadata_prepare(struct weft_cfg *c, const struct weft_path *at, const metadata_msg *m,
			    struct action *a)
{
	struct weft_path pk = {at, "metadata_key", -1};
	const Envoy__Type__Metadata__V3__MetadataKey *k = m->metadata_key;

	if (!k)
		return weft_cfg_fail(c, &pk, "must be set");
	a->key = dup_or(c, m->descriptor_key, "");
	a->value = dup_or(c, m->default_value, "");
	a->skip = m->skip_if_absent;
	a->of_route = m->source ==
		      ENVOY__CONFIG__ROUTE__V3__RATE_LIMIT__ACTION__META_DATA__SOURCE__ROUTE_ENTRY;
	a->ns = dup_or(c, k->key, "");
	a->path = weft_arena_alloc(c->arena, (k->n_path + 1) * sizeof(*a->path));
	for (size_t i = 0; i < k->n_path; i++)
		a->path[i] = dup_or(c, k->path[i]->key, "");
	a->n_path = k->n_path;
	return 0;
}

static int match_prepare(struct weft_cfg *c, const struct weft_path *at, const action_msg *m,
			 struct action *a)
{
	struct weft_path ph = {at, "header_value_match", -1}, phh = {&ph, "headers", -1},
			 pq = {at, "query_parameter_value_match", -1},
			 pqq = {&pq, "query_parameters", -1};

	if (a->kind == KIND(HEADER_VALUE_MATCH)) {
		a->key = dup_or(c, m->header_value_match->descriptor_key, "header_match");
		a->value = dup_or(c, m->header_value_match->descriptor_value, "");
		a->expect = weft_cfg_bool(m->header_value_match->expect_match, true);
		a->n_match = m->header_value_match->n_headers;
		return weft_hdrmatches_prepare(c, &phh, m->header_value_match->headers, a->n_match,
					       &a->headers);
	}
	a->key = dup_or(c, m->query_parameter_value_match->descriptor_key, "query_match");
	a->value = dup_or(c, m->query_parameter_value_match->descriptor_value, "");
	a->expect = weft_cfg_bool(m->query_parameter_value_match->expect_match, true);
	a->n_match = m->query_parameter_value_match->n_query_parameters;
	return weft_querymatches_prepare(c, &pqq, m->query_parameter_value_match->query_parameters,
					 a->n_match, &a->query);
}

static int action_prepare(struct weft_cfg *c, const struct weft_path *at, const action_msg *m,
			  struct action *a)
{
	struct weft_path pm = {at, "metadata", -1};

	a->kind = (int)m->action_specifier_case;
	switch (a->kind) {
	case KIND(SOURCE_CLUSTER):
	case KIND(DESTINATION_CLUSTER):
	case KIND(REMOTE_ADDRESS):
		return 0;
	case KIND(MASKED_REMOTE_ADDRESS):
		a->v4 = (uint8_t)weft_cfg_u32(m->masked_remote_address->v4_prefix_mask_len, 32);
		a->v6 = (uint8_t)weft_cfg_u32(m->masked_remote_address->v6_prefix_mask_len, 128);
		return 0;
	case KIND(REQUEST_HEADERS):
		a->key = dup_or(c, m->request_headers->descriptor_key, "");
		a->name = dup_or(c, m->request_headers->header_name, "");
		a->skip = m->request_headers->skip_if_absent;
		return 0;
	case KIND(QUERY_PARAMETERS):
		a->key = dup_or(c, m->query_parameters->descriptor_key, "");
		a->name = dup_or(c, m->query_parameters->query_parameter_name, "");
		a->skip = m->query_parameters->skip_if_absent;
		return 0;
	case KIND(GENERIC_KEY):
		a->key = dup_or(c, m->generic_key->descriptor_key, "generic_key");
		a->value = dup_or(c, m->generic_key->descriptor_value, "");
		return 0;
	case KIND(HEADER_VALUE_MATCH):
	case KIND(QUERY_PARAMETER_VALUE_MATCH):
		return match_prepare(c, at, m, a);
	case KIND(METADATA):
		return metadata_prepare(c, &pm, m->metadata, a);
	default:
		return weft_cfg_fail(c, at,
				     "must have one of source_cluster, destination_cluster, "
				     "request_headers, query_parameters, remote_address, "
				     "masked_remote_address, generic_key, header_value_match, "
				     "query_parameter_value_match, metadata; has none that is "
				     "supported");
	}
}

static int limit_prepare(struct weft_cfg *c, const struct weft_path *at, const limit_msg *m,
			 struct limit *to)
{
	struct weft_path pa = {at, "actions", -1};
	struct action *v = weft_arena_alloc(c->arena, (m->n_actions + 1) * sizeof(*v));
	int err = 0;

	if (m->n_actions > WEFT_RATELIMIT_ENTRIES_MAX)
		return weft_cfg_fail(c, &pa, "must have at most %d items, has %zu",
				     WEFT_RATELIMIT_ENTRIES_MAX, m->n_actions);
	to->stage = weft_cfg_u32(m->stage, 0);
	for (size_t i = 0; i < m->n_actions; i++) {
		struct weft_path p = {at, "actions", (int)i};

		err |= action_prepare(c, &p, m->actions[i], &v[i]);
	}
	to->v = v;
	to->n = m->n_actions;
	return err;
}

int weft_ratelimits_prepare(struct weft_cfg *c, const struct weft_path *at, limit_msg *const *v,
			    size_t n, const struct weft_ratelimits **ret)
{
	struct weft_ratelimits *l;
	struct limit *to;
	int err = 0;

	*ret = NULL;
	if (!n)
		return 0;
	if (n > WEFT_RATELIMITS_MAX)
		return weft_cfg_fail(c, at, "must have at most %d items, has %zu",
				     WEFT_RATELIMITS_MAX, n);
	l = weft_arena_alloc(c->arena, sizeof(*l));
	to = weft_arena_alloc(c->arena, n * sizeof(*to));
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		err |= limit_prepare(c, &p, v[i], &to[i]);
	}
	*l = (struct weft_ratelimits){to, n};
	*ret = l;
	return err ? -EINVAL : 0;
}

/* ---- of a request */

static const char *query_value(const struct weft_ratelimit_in *in, const char *name)
{
	const struct weft_header *path = weft_headers_get(in->h, WEFT_H_PATH);
	const char *ask = path ? memchr(path->value, '?', path->value_len) : NULL;
	size_t n;

	return ask ? weft_query_get(ask + 1, path->value_len - (size_t)(ask + 1 - path->value),
				    name, in->arena, &n)
		   : NULL;
}

static bool matches(const struct action *a, const struct weft_ratelimit_in *in)
{
	const struct weft_header *path = weft_headers_get(in->h, WEFT_H_PATH);
	const char *ask = path ? memchr(path->value, '?', path->value_len) : NULL;
	enum weft_match m;

	if (a->kind == KIND(HEADER_VALUE_MATCH))
		m = weft_hdrmatch_all(a->headers, a->n_match, in->h);
	else
		m = weft_querymatch_all(a->query, a->n_match, ask ? ask + 1 : "",
					ask ? path->value_len - (size_t)(ask + 1 - path->value)
					    : 0);
	/* what cannot be decided is limited */
	return m == WEFT_MATCH_LIMIT || (m == WEFT_MATCH_YES) == a->expect;
}

static const char *metadata_value(const struct action *a, const struct weft_ratelimit_in *in)
{
	const Google__Protobuf__Struct *s;
	const Google__Protobuf__Value *v;

	if (a->of_route)
		s = in->route ? weft_metadata_ns(in->route->msg->metadata, a->ns) : NULL;
	else
		s = weft_info_meta_get(in->info, a->ns);
	v = s ? weft_struct_path(s, a->path, a->n_path) : NULL;
	if (v && v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE && *v->string_value)
		return v->string_value;
	return *a->value ? a->value : NULL;
}

static const char *address(const struct action *a, const struct weft_ratelimit_in *in)
{
	const struct weft_ip *ip = &in->info->remote.ip;
	char *text = weft_arena_alloc(in->arena, WEFT_CIDR_TEXT);
	struct weft_cidr cidr;

	if (!ip->family)
		return NULL;
	if (a->kind == KIND(REMOTE_ADDRESS))
		return weft_ip_text(ip, text, WEFT_CIDR_TEXT);
	if (weft_cidr_make(ip, ip->family == 4 ? a->v4 : a->v6, &cidr))
		return NULL;
	return weft_cidr_text(&cidr, text, WEFT_CIDR_TEXT);
}

/* False: no descriptor. An entry without key is left out. */
static bool entry(const struct action *a, const struct weft_ratelimit_in *in,
		  struct weft_ratelimit_entry *e)
{
	const struct weft_header *f;

	*e = (struct weft_ratelimit_entry){a->key, a->value};
	switch (a->kind) {
	case KIND(SOURCE_CLUSTER):
		*e = (struct weft_ratelimit_entry){"source_cluster", in->local_cluster ?: ""};
		return true;
	case KIND(DESTINATION_CLUSTER):
		*e = (struct weft_ratelimit_entry){"destination_cluster", in->route_cluster};
		return in->route_cluster;
	case KIND(REMOTE_ADDRESS):
		*e = (struct weft_ratelimit_entry){"remote_address", address(a, in)};
		return e->value;
	case KIND(MASKED_REMOTE_ADDRESS):
		*e = (struct weft_ratelimit_entry){"masked_remote_address", address(a, in)};
		return e->value;
	case KIND(REQUEST_HEADERS):
		f = weft_headers_find(in->h, a->name, 0);
		e->value = f ? f->value : NULL;
		break;
	case KIND(QUERY_PARAMETERS):
		e->value = query_value(in, a->name);
		break;
	case KIND(METADATA):
		e->value = metadata_value(a, in);
		break;
	case KIND(HEADER_VALUE_MATCH):
	case KIND(QUERY_PARAMETER_VALUE_MATCH):
		return matches(a, in);
	}
	if (e->value)
		return true;
	e->key = "";
	return a->skip;
}

uint64_t weft_ratelimit_hash(const struct weft_ratelimit_entry *v, size_t n)
{
	uint64_t h = n;

	for (size_t i = 0; i < n; i++) {
		h = XXH3_64bits_withSeed(v[i].key, strlen(v[i].key), h);
		h = XXH3_64bits_withSeed(v[i].value, strlen(v[i].value), h + 1);
	}
	return h;
}

static bool descriptor(const struct limit *l, const struct weft_ratelimit_in *in,
		       struct weft_ratelimit_descriptor *d)
{
	d->n = 0;
	for (size_t i = 0; i < l->n; i++) {
		struct weft_ratelimit_entry e;

		if (!entry(&l->v[i], in, &e))
			return false;
		if (*e.key)
			d->v[d->n++] = e;
	}
	if (!d->n)
		return false;
	d->hash = weft_ratelimit_hash(d->v, d->n);
	return true;
}

size_t weft_ratelimits_count(const struct weft_ratelimits *l)
{
	return l ? l->n : 0;
}

size_t weft_ratelimits_run(const struct weft_ratelimits *l, uint32_t stage,
			   const struct weft_ratelimit_in *in,
			   struct weft_ratelimit_descriptor *ret, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; l && i < l->n && n < max; i++)
		if (l->v[i].stage == stage && descriptor(&l->v[i], in, &ret[n]))
			n++;
	return n;
}
