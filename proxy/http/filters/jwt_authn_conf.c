/* What envoy.filters.http.jwt_authn is told: providers, rules, requirements. */
#include "proxy/http/filters/jwt_authn_priv.h"
#include "xds/tls_conf.h"
#include "xds/wire.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sorted names */
static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool jwt_names_has(const struct jwt_names *l, const char *s)
{
	return l->n && bsearch(&s, l->v, l->n, sizeof(*l->v), by_text);
}

const char *jwt_audience(const char *s, size_t *ret_n)
{
	size_t n;

	if (!strncmp(s, "https://", 8))
		s += 8;
	else if (!strncmp(s, "http://", 7))
		s += 7;
	n = strlen(s);
	*ret_n = n && s[n - 1] == '/' ? n - 1 : n;
	return s;
}

static void names(struct weft_arena *a, char *const *v, size_t n, bool audiences,
		  struct jwt_names *ret)
{
	ret->n = n;
	ret->v = weft_arena_alloc(a, (n ?: 1) * sizeof(*ret->v));
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(v[i]);
		const char *s = audiences ? jwt_audience(v[i], &len) : v[i];

		ret->v[i] = weft_arena_strndup(a, s, len);
	}
	qsort(ret->v, n, sizeof(*ret->v), by_text);
}

static const char *lower(struct weft_arena *a, const char *s)
{
	char *low = weft_arena_strdup(a, s);

	for (char *p = low; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return low;
}

static const char *or_null(struct weft_arena *a, const char *s)
{
	return s && *s ? weft_arena_strdup(a, s) : NULL;
}

/* ---- providers */
static void location(struct weft_arena *a, struct jwt_provider *p, struct jwt_location *l, int kind,
		     const char *name)
{
	l->kind = kind;
	l->name = kind == JWT_IN_HEADER ? lower(a, name) : weft_arena_strdup(a, name);
	l->name_n = strlen(l->name);
	l->prefix = "";
	l->issuer = p->issuer;
	p->n_locations++;
}

static void locations(struct weft_arena *a, const jwt_provider_msg *m, struct jwt_provider *p)
{
	size_t n = m->n_from_headers + m->n_from_params + m->n_from_cookies;
	struct jwt_location *v = weft_arena_alloc(a, (n + 2) * sizeof(*v));

	p->locations = v;
	for (size_t i = 0; i < m->n_from_headers; i++) {
		struct jwt_location *l = &v[p->n_locations];

		location(a, p, l, JWT_IN_HEADER, m->from_headers[i]->name);
		l->prefix = weft_arena_strdup(a, m->from_headers[i]->value_prefix ?: "");
		l->prefix_n = strlen(l->prefix);
	}
	for (size_t i = 0; i < m->n_from_params; i++)
		location(a, p, &v[p->n_locations], JWT_IN_PARAM, m->from_params[i]);
	for (size_t i = 0; i < m->n_from_cookies; i++)
		location(a, p, &v[p->n_locations], JWT_IN_COOKIE, m->from_cookies[i]);
	if (n)
		return;
	location(a, p, &v[0], JWT_IN_HEADER, "authorization");
	v[0].prefix = "Bearer ";
	v[0].prefix_n = 7;
	location(a, p, &v[1], JWT_IN_PARAM, "access_token");
}

static int header_name(struct weft_cfg *c, const struct weft_path *at, const char *s)
{
	if (*s && *s != ':' && strcasecmp(s, "host") != 0)
		return 0;
	return weft_cfg_fail(c, at, "must be the name of a header that may be set, is \"%.60s\"",
			     s);
}

static int claims(struct weft_cfg *c, const struct weft_path *at, const jwt_provider_msg *m,
		  struct jwt_provider *p)
{
	struct jwt_claim *v = weft_arena_alloc(c->arena, (m->n_claim_to_headers ?: 1) * sizeof(*v));
	struct weft_path pf = {at, "forward_payload_header", -1};
	int err = 0;

	p->claims = v;
	p->n_claims = m->n_claim_to_headers;
	for (size_t i = 0; i < m->n_claim_to_headers; i++) {
		struct weft_path pc = {at, "claim_to_headers", (int)i},
				 ph = {&pc, "header_name", -1};

		v[i].claim = weft_arena_strdup(c->arena, m->claim_to_headers[i]->claim_name ?: "");
		v[i].header = lower(c->arena, m->claim_to_headers[i]->header_name ?: "");
		if (header_name(c, &ph, v[i].header))
			err = -EINVAL;
	}
	if (m->forward_payload_header && *m->forward_payload_header) {
		p->payload_header = lower(c->arena, m->forward_payload_header);
		if (header_name(c, &pf, p->payload_header))
			err = -EINVAL;
	}
	return err;
}

static void jwks_drop(void *k)
{
	weft_jwks_unref(k);
}

static void remote_drop(void *r)
{
	jwt_remote_drop(r);
}

static void life_end(void *l)
{
	jwt_life_end(l);
}

static int key_source(struct weft_cfg *c, const struct weft_path *at, const jwt_provider_msg *m,
		      struct jwt_provider *p)
{
	struct weft_path pr = {at, "remote_jwks", -1}, pl = {at, "local_jwks", -1};
	enum weft_jwt_status st;
	const char *text;
	size_t n;

	switch (m->jwks_source_specifier_case) {
	case ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__JWT_PROVIDER__JWKS_SOURCE_SPECIFIER_REMOTE_JWKS:
		p->remote = jwt_remote_new(c, &pr, m->remote_jwks);
		if (!p->remote)
			return -EINVAL;
		weft_arena_cleanup(c->arena, remote_drop, p->remote);
		return 0;
	case ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__JWT_PROVIDER__JWKS_SOURCE_SPECIFIER_LOCAL_JWKS:
		if (m->local_jwks->watched_directory)
			return weft_cfg_fail(c, &pl,
					     "watched_directory: is not supported here: the file "
					     "is read once");
		text = weft_data_source(c, &pl, m->local_jwks, "key set", &n);
		if (!text)
			return -EINVAL;
		st = weft_jwks_parse(text, n, &p->local);
		if (st) /* whoever needs it is refused */
			weft_cfg_warn(c, &pl, "no token will be found good: %s", weft_jwt_text(st));
		else
			weft_arena_cleanup(c->arena, jwks_drop, p->local);
		return 0;
	default:
		return weft_cfg_fail(c, at, "must have remote_jwks or local_jwks");
	}
}

static int cache_size(struct weft_cfg *c, const struct weft_path *at, const jwt_provider_msg *m,
		      struct jwt_provider *p)
{
	struct weft_path pc = {at, "jwt_cache_config", -1}, ps = {&pc, "jwt_cache_size", -1};

	p->life = jwt_life_new();
	weft_arena_cleanup(c->arena, life_end, p->life);
	if (!m->jwt_cache_config)
		return 0;
	p->cache_size = m->jwt_cache_config->jwt_cache_size ?: JWT_CACHE_SIZE;
	p->cache_token = m->jwt_cache_config->jwt_max_token_size ?: JWT_CACHE_TOKEN;
	if (p->cache_size > JWT_CACHE_MAX)
		return weft_cfg_fail(c, &ps, "must be at most %d, is %u", JWT_CACHE_MAX,
				     p->cache_size);
	return 0;
}

static int provider(struct weft_cfg *c, const struct weft_path *at, const char *name,
		    const jwt_provider_msg *m, struct jwt_provider *p)
{
	struct weft_path ps = {at, "subjects", -1};
	struct weft_arena *a = c->arena;
	int err;

	p->name = weft_arena_strdup(a, name);
	p->issuer = weft_arena_strdup(a, m->issuer ?: "");
	names(a, m->audiences, m->n_audiences, true, &p->audiences);
	locations(a, m, p);
	p->forward = m->forward;
	p->pad = m->pad_forward_payload_header;
	p->clear_route = m->clear_route_cache;
	p->require_exp = m->require_expiration;
	p->payload_meta = or_null(a, m->payload_in_metadata);
	p->header_meta = or_null(a, m->header_in_metadata);
	p->failed_meta = or_null(a, m->failed_status_in_metadata);
	if (m->normalize_payload_in_metadata)
		names(a, m->normalize_payload_in_metadata->space_delimited_claims,
		      m->normalize_payload_in_metadata->n_space_delimited_claims, false,
		      &p->spaced);
	p->skew_s = m->clock_skew_seconds ?: JWT_SKEW_S;
	p->max_life_s = m->max_lifetime ? weft_cfg_ms(m->max_lifetime, 0) / 1000 : -1;
	err = claims(c, at, m, p);
	if (key_source(c, at, m, p))
		err = -EINVAL;
	if (cache_size(c, at, m, p))
		err = -EINVAL;
	p->has_subjects = m->subjects != NULL;
	if (m->subjects && weft_strmatch_prepare(c, &ps, m->subjects, &p->subjects))
		err = -EINVAL;
	return err;
}

static int by_provider(const void *a, const void *b)
{
	return strcmp(((const struct jwt_provider *)a)->name,
		      ((const struct jwt_provider *)b)->name);
}

static int providers(struct weft_cfg *c, const struct weft_path *at, const jwt_msg *m,
		     struct jwt_conf *conf)
{
	struct weft_path p = {at, "providers", -1};
	int err = 0;

	conf->n_providers = m->n_providers;
	conf->providers =
		weft_arena_alloc(c->arena, (m->n_providers ?: 1) * sizeof(*conf->providers));
	for (size_t i = 0; i < m->n_providers; i++) {
		const char *key = m->providers[i]->key ?: "";
		struct weft_path pi = {&p, *key ? key : "\"\"", -1};

		if (provider(c, &pi, key, m->providers[i]->value, &conf->providers[i]))
			err = -EINVAL;
	}
	qsort(conf->providers, conf->n_providers, sizeof(*conf->providers), by_provider);
	return err;
}

/* ---- requirements */
static const struct jwt_provider *provider_find(struct weft_cfg *c, const struct weft_path *at,
						const struct jwt_conf *conf, const char *name)
{
	struct jwt_provider key = {.name = name ?: ""};
	const struct jwt_provider *p =
		bsearch(&key, conf->providers, conf->n_providers, sizeof(key), by_provider);

	if (!p)
		weft_cfg_fail(c, at, "must name one of providers, is \"%.80s\"", name ?: "");
	return p;
}

struct below { /* how requirements are walked down */
	struct weft_cfg *c;
	const struct jwt_conf *conf;
	unsigned depth;
	/* of the list that a bypass stands in */
	const struct jwt_provider *const *siblings;
	size_t n_siblings;
};

static int requirement(const struct below *b, const struct weft_path *at,
		       const jwt_requirement_msg *m, struct jwt_req *ret);

static int one_provider(const struct below *b, const struct weft_path *at, const char *name,
			struct jwt_req *ret)
{
	const struct jwt_provider **v = weft_arena_alloc(b->c->arena, sizeof(*v));

	*v = provider_find(b->c, at, b->conf, name);
	ret->kind = JWT_REQ_PROVIDER;
	ret->providers = v;
	ret->n_providers = 1;
	return *v ? 0 : -EINVAL;
}

static bool is_bypass(const jwt_requirement_msg *m)
{
	return m->requires_type_case ==
		       ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__JWT_REQUIREMENT__REQUIRES_TYPE_ALLOW_MISSING ||
	       m->requires_type_case ==
		       ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__JWT_REQUIREMENT__REQUIRES_TYPE_ALLOW_MISSING_OR_FAILED;
}

/* Of a list with a bypass the one that lets more through stands last, and looks at the tokens of
 * the list's own providers. */
static int list_any(const struct below *b, const struct weft_path *at,
		    jwt_requirement_msg *const *v, size_t n, struct jwt_req *ret)
{
	const struct jwt_provider **siblings =
		weft_arena_alloc(b->c->arena, (n ?: 1) * sizeof(*siblings));
	struct jwt_req *to = weft_arena_alloc(b->c->arena, (n ?: 1) * sizeof(*to));
	struct below down = {b->c, b->conf, b->depth + 1, NULL, 0};
	struct jwt_req *bypass = NULL;
	int err = 0;

	ret->kind = JWT_REQ_ANY;
	ret->v = to;
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at, "requirements", (int)i};
		struct jwt_req *r = &to[ret->n];

		if (is_bypass(v[i]))
			continue;
		ret->n++;
		if (requirement(&down, &p, v[i], r))
			err = -EINVAL;
		else if (r->kind == JWT_REQ_PROVIDER)
			siblings[down.n_siblings++] = r->providers[0];
	}
	down.siblings = siblings;
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at, "requirements", (int)i};

		if (!is_bypass(v[i]) || (bypass && bypass->kind == JWT_REQ_FAILED))
			continue;
		if (!bypass)
			bypass = &to[ret->n++];
		if (requirement(&down, &p, v[i], bypass))
			err = -EINVAL;
	}
	return err;
}

static int list_all(const struct below *b, const struct weft_path *at,
		    jwt_requirement_msg *const *v, size_t n, struct jwt_req *ret)
{
	struct jwt_req *to = weft_arena_alloc(b->c->arena, (n ?: 1) * sizeof(*to));
	struct below down = {b->c, b->conf, b->depth + 1, NULL, 0};
	int err = 0;

	ret->kind = JWT_REQ_ALL;
	ret->v = to;
	ret->n = n;
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at, "requirements", (int)i};

		if (requirement(&down, &p, v[i], &to[i]))
			err = -EINVAL;
	}
	return err;
}

#define R(x) ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__JWT_REQUIREMENT__REQUIRES_TYPE_##x
static int requirement(const struct below *b, const struct weft_path *at,
		       const jwt_requirement_msg *m, struct jwt_req *ret)
{
	struct weft_path pn = {at, "provider_name", -1}, pa = {at, "provider_and_audiences", -1},
			 pan = {&pa, "provider_name", -1}, py = {at, "requires_any", -1},
			 pl = {at, "requires_all", -1};

	if (b->depth > JWT_DEPTH_MAX)
		return weft_cfg_fail(b->c, at, "must be nested at most %d deep", JWT_DEPTH_MAX);
	switch (m->requires_type_case) {
	case R(PROVIDER_NAME):
		return one_provider(b, &pn, m->provider_name, ret);
	case R(PROVIDER_AND_AUDIENCES):
		ret->own_audiences = m->provider_and_audiences->n_audiences;
		names(b->c->arena, m->provider_and_audiences->audiences,
		      m->provider_and_audiences->n_audiences, true, &ret->audiences);
		return one_provider(b, &pan, m->provider_and_audiences->provider_name, ret);
	case R(REQUIRES_ANY):
		return list_any(b, &py, m->requires_any->requirements,
				m->requires_any->n_requirements, ret);
	case R(REQUIRES_ALL):
		return list_all(b, &pl, m->requires_all->requirements,
				m->requires_all->n_requirements, ret);
	case R(ALLOW_MISSING):
	case R(ALLOW_MISSING_OR_FAILED):
		ret->kind = m->requires_type_case == R(ALLOW_MISSING) ? JWT_REQ_MISSING
								      : JWT_REQ_FAILED;
		ret->providers = b->siblings;
		ret->n_providers = b->n_siblings;
		return 0;
	default:
		ret->kind = JWT_REQ_ALLOW;
		return 0;
	}
}
#undef R

static int by_named(const void *a, const void *b)
{
	return strcmp(((const struct jwt_named *)a)->name, ((const struct jwt_named *)b)->name);
}

static int named(struct weft_cfg *c, const struct weft_path *at, const jwt_msg *m,
		 struct jwt_conf *conf)
{
	struct weft_path p = {at, "requirement_map", -1};
	struct jwt_named *v = weft_arena_alloc(c->arena, (m->n_requirement_map ?: 1) * sizeof(*v));
	struct below b = {.c = c, .conf = conf, .depth = 1};
	const char *all = "";
	int err = 0;

	conf->map = v;
	conf->n_map = m->n_requirement_map;
	for (size_t i = 0; i < conf->n_map; i++) {
		const char *key = m->requirement_map[i]->key ?: "";
		struct weft_path pi = {&p, *key ? key : "\"\"", -1};

		v[i].name = weft_arena_strdup(c->arena, key);
		if (m->requirement_map[i]->value &&
		    requirement(&b, &pi, m->requirement_map[i]->value, &v[i].req))
			err = -EINVAL;
	}
	qsort(v, conf->n_map, sizeof(*v), by_named);
	for (size_t i = 0; i < conf->n_map && strlen(all) < 4096; i++)
		all = weft_arena_printf(c->arena, "%s%s%s", all, i ? "," : "", v[i].name);
	conf->map_names = all;
	return err;
}

/* ---- rules */
#define RULE(x)                                                                                    \
	ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__REQUIREMENT_RULE__REQUIREMENT_TYPE_##x
static int rule_requires(struct weft_cfg *c, const struct weft_path *at, const jwt_msg *m, size_t i,
			 struct jwt_conf *conf)
{
	const Envoy__Extensions__Filters__Http__JwtAuthn__V3__RequirementRule *r = m->rules[i];
	struct weft_path pr = {at, "requires", -1}, pn = {at, "requirement_name", -1};
	struct below b = {.c = c, .conf = conf, .depth = 1};
	struct jwt_named key, *found;
	struct jwt_req *req;

	switch (r->requirement_type_case) {
	case RULE(REQUIRES):
		req = weft_arena_alloc(c->arena, sizeof(*req));
		conf->rules[i] = req;
		return requirement(&b, &pr, r->requires, req);
	case RULE(REQUIREMENT_NAME):
		key.name = r->requirement_name;
		found = bsearch(&key, conf->map, conf->n_map, sizeof(key), by_named);
		if (!found)
			return weft_cfg_fail(c, &pn,
					     "must name one of requirement_map, is \"%.80s\"",
					     r->requirement_name);
		conf->rules[i] = &found->req;
		return 0;
	default:
		return 0; /* nothing is required */
	}
}
#undef RULE

/* Errors of the table that stands for the rules are told where the rules are. */
static void move_errors(struct weft_cfg *c, const struct weft_path *at,
			const struct weft_errs *errs)
{
	static const char inside[] = "virtual_hosts[0].routes[";
	struct weft_err head;

	weft_fail(&head, at, EINVAL, "x");
	for (int i = 0; i < errs->n; i++) {
		struct weft_err *e = weft_errs_next(c->errs);
		const char *p = strstr(errs->v[i].path, inside);

		if (!e)
			return;
		*e = errs->v[i];
		if (p)
			snprintf(e->path, sizeof(e->path), "%.100s%srules[%.200s", head.path,
				 *head.path ? "." : "", p + sizeof(inside) - 1);
	}
}

/* Rules are found as routes are: compiled, the first that matches. */
static int match_table(struct weft_cfg *c, const struct weft_path *at, const jwt_msg *m,
		       struct jwt_conf *conf)
{
	struct weft_arena *a = c->arena;
	Envoy__Config__Route__V3__RouteConfiguration *t = weft_arena_alloc(a, sizeof(*t));
	Envoy__Config__Route__V3__VirtualHost *v = weft_arena_alloc(a, sizeof(*v));
	Envoy__Config__Route__V3__NonForwardingAction *act = weft_arena_alloc(a, sizeof(*act));
	Envoy__Config__Route__V3__Route *r = weft_arena_alloc(a, m->n_rules * sizeof(*r));
	static char *any[] = {(char *)"*"};
	struct weft_errs errs = {0};
	struct weft_cfg inner = *c;
	int err;

	weft_message_init(&envoy__config__route__v3__route_configuration__descriptor, t);
	weft_message_init(&envoy__config__route__v3__virtual_host__descriptor, v);
	weft_message_init(&envoy__config__route__v3__non_forwarding_action__descriptor, act);
	t->name = weft_arena_strdup(a, "rules");
	t->n_virtual_hosts = 1;
	t->virtual_hosts = weft_arena_memdup(a, &v, sizeof(v));
	v->name = t->name;
	v->n_domains = 1;
	v->domains = any;
	v->n_routes = m->n_rules;
	v->routes = weft_arena_alloc(a, m->n_rules * sizeof(*v->routes));
	for (size_t i = 0; i < m->n_rules; i++) {
		weft_message_init(&envoy__config__route__v3__route__descriptor, &r[i]);
		r[i].name = weft_arena_printf(a, "%zu", i);
		r[i].match = m->rules[i]->match;
		r[i].action_case = ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_NON_FORWARDING_ACTION;
		r[i].non_forwarding_action = act;
		v->routes[i] = &r[i];
	}
	inner.errs = &errs;
	inner.warns = NULL;
	inner.notes = NULL;
	err = weft_routes_new(&inner, at, t, &conf->routes);
	move_errors(c, at, &errs);
	return err;
}

static void routes_drop(void *r)
{
	weft_routes_unref(r);
}

static int rules(struct weft_cfg *c, const struct weft_path *at, const jwt_msg *m,
		 struct jwt_conf *conf)
{
	int err = 0;

	conf->n_rules = m->n_rules;
	conf->rules = weft_arena_alloc(c->arena, (m->n_rules ?: 1) * sizeof(*conf->rules));
	for (size_t i = 0; i < m->n_rules; i++) {
		struct weft_path p = {at, "rules", (int)i}, pm = {&p, "match", -1};

		if (rule_requires(c, &p, m, i, conf))
			err = -EINVAL;
		if (!m->rules[i]->match)
			return weft_cfg_fail(c, &pm, "must be set");
	}
	if (!m->n_rules)
		return err;
	if (match_table(c, at, m, conf))
		return -EINVAL;
	weft_arena_cleanup(c->arena, routes_drop, conf->routes);
	return err;
}

int jwt_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		const void **ret)
{
	const jwt_msg *m = (const void *)msg;
	struct weft_path pf = {at, "filter_state_rules", -1};
	struct jwt_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	int err = providers(c, at, m, conf);

	*ret = conf;
	if (m->filter_state_rules)
		err = weft_cfg_fail(c, &pf, "is not supported: there is no filter state");
	conf->bypass_cors = m->bypass_cors_preflight;
	conf->strip = m->strip_failure_response;
	conf->prefix = weft_arena_printf(c->arena, "jwt_authn.%s%s", m->stat_prefix ?: "",
					 m->stat_prefix && *m->stat_prefix ? "." : "");
	if (named(c, at, m, conf))
		err = -EINVAL;
	if (rules(c, at, m, conf))
		err = -EINVAL;
	return err;
}

int jwt_prepare_route(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		      const void **ret)
{
	const Envoy__Extensions__Filters__Http__JwtAuthn__V3__PerRouteConfig *m = (const void *)msg;
	struct jwt_route_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	*ret = conf;
	if (m->requirement_specifier_case ==
	    ENVOY__EXTENSIONS__FILTERS__HTTP__JWT_AUTHN__V3__PER_ROUTE_CONFIG__REQUIREMENT_SPECIFIER_REQUIREMENT_NAME)
		conf->requirement = weft_arena_strdup(c->arena, m->requirement_name);
	else
		conf->disabled = m->disabled;
	return 0;
}
