/* xds.type.matcher.v3.Matcher whose actions are envoy.config.rbac.v3.Action. */
#include "proxy/policy/rbac_priv.h"

#include "xds/proto/envoy/extensions/matching/common_inputs/network/v3/network_inputs.pb-c.h"
#include "xds/proto/envoy/extensions/matching/common_inputs/ssl/v3/ssl_inputs.pb-c.h"
#include "xds/proto/envoy/type/matcher/v3/http_inputs.pb-c.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Xds__Type__Matcher__V3__Matcher matcher_msg;
typedef Xds__Type__Matcher__V3__Matcher__OnMatch on_match_msg;
typedef Xds__Type__Matcher__V3__Matcher__MatcherList__Predicate predicate_msg;
typedef Xds__Type__Matcher__V3__Matcher__MatcherList__Predicate__PredicateList predicates_msg;
typedef Xds__Type__Matcher__V3__Matcher__MatcherList__Predicate__SinglePredicate single_msg;
typedef Xds__Type__Matcher__V3__Matcher__MatcherTree tree_msg;
typedef Xds__Type__Matcher__V3__Matcher__MatcherTree__MatchMap map_msg;
typedef Xds__Type__Matcher__V3__StringMatcher string_msg;

enum { INPUT_MAX = 16384 };
enum input_kind {
	IN_HEADER,
	IN_DEST_IP,
	IN_DEST_PORT,
	IN_SOURCE_IP,
	IN_SOURCE_PORT,
	IN_DIRECT_IP,
	IN_SNI,
	IN_URI_SAN,
	IN_DNS_SAN,
	IN_SUBJECT,
};
struct input {
	enum input_kind kind;
	const char *name; /* of a header */
	size_t name_n;
};
struct value { /* what an input gave; NULL: nothing */
	const char *s;
	size_t n;
	char text[WEFT_IP_TEXT];
	char *heap;
};
struct on_match {
	const struct rbac_match *nested; /* NULL: an action */
	const char *name;		 /* of the action */
	Envoy__Config__Rbac__V3__RBAC__Action action;
};
enum pred_op { PRED_ONE, PRED_OR, PRED_AND, PRED_NOT };
struct pred {
	enum pred_op op;
	struct input input;
	struct weft_strmatch str;
	const struct pred *v;
	size_t n;
};
struct entry { /* of a map, by key */
	const char *key;
	size_t n;
	struct on_match on;
};
struct rbac_match {
	enum { M_LIST, M_EXACT, M_PREFIX } kind;
	struct input input;
	size_t n;
	const struct pred *pred; /* M_LIST: n of them */
	const struct on_match *on;
	const struct entry *map;
	size_t longest;			    /* key */
	bool logs;			    /* of the root: some action is LOG */
	const struct on_match *on_no_match; /* NULL: none */
};
struct down {
	struct weft_cfg *c;
	bool http;
	bool *logs; /* some action is LOG */
	unsigned depth;
};

/* ---- configuration */
#define NET(x) envoy__extensions__matching__common_inputs__network__v3__##x##__descriptor
#define SSL(x) envoy__extensions__matching__common_inputs__ssl__v3__##x##__descriptor
static const struct {
	const ProtobufCMessageDescriptor *d;
	enum input_kind kind;
	bool http_only;
} inputs[] = {
	{&envoy__type__matcher__v3__http_request_header_match_input__descriptor, IN_HEADER, true},
	{&NET(destination_ipinput), IN_DEST_IP, false},
	{&NET(destination_port_input), IN_DEST_PORT, false},
	{&NET(source_ipinput), IN_SOURCE_IP, false},
	{&NET(source_port_input), IN_SOURCE_PORT, false},
	{&NET(direct_source_ipinput), IN_DIRECT_IP, false},
	{&NET(server_name_input), IN_SNI, false},
	{&SSL(uri_san_input), IN_URI_SAN, false},
	{&SSL(dns_san_input), IN_DNS_SAN, false},
	{&SSL(subject_input), IN_SUBJECT, false},
};

static int header_input(const struct down *d, const struct weft_path *at, const ProtobufCMessage *m,
			struct input *ret)
{
	const Envoy__Type__Matcher__V3__HttpRequestHeaderMatchInput *h = (const void *)m;
	struct weft_path p = {at, "header_name", -1};
	char *low = weft_arena_strdup(d->c->arena, h->header_name ?: "");

	for (char *s = low; *s; s++)
		*s = (char)tolower((unsigned char)*s);
	if (!*low)
		return weft_cfg_fail(d->c, &p, "must not be empty");
	ret->name = strcmp(low, "host") ? low : ":authority";
	ret->name_n = strlen(ret->name);
	return 0;
}

static int input_prepare(const struct down *d, const struct weft_path *at,
			 const Xds__Core__V3__TypedExtensionConfig *m, struct input *ret)
{
	struct weft_path p = {at, "input", -1}, pt = {&p, "typed_config", -1};
	const ProtobufCMessage *msg;

	if (!m || !m->typed_config)
		return weft_cfg_fail(d->c, &p, "must have typed_config");
	msg = weft_cfg_any(d->c, &pt, m->typed_config, NULL);
	if (!msg)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++) {
		if (inputs[i].d != msg->descriptor)
			continue;
		if (inputs[i].http_only && !d->http)
			return weft_cfg_fail(d->c, &pt, "%s is not for connections",
					     msg->descriptor->name);
		ret->kind = inputs[i].kind;
		return ret->kind == IN_HEADER ? header_input(d, &pt, msg, ret) : 0;
	}
	return weft_cfg_fail(d->c, &pt, "%s is not supported as an input", msg->descriptor->name);
}

static int string_prepare(const struct down *d, const struct weft_path *at, const string_msg *m,
			  struct weft_strmatch *ret)
{
	struct weft_path p = {at, "value_match", -1}, pr = {&p, "safe_regex", -1},
			 px = {&pr, "regex", -1};
	const char *v = NULL;

	memset(ret, 0, sizeof(*ret));
	ret->ignore_case = m->ignore_case;
	switch (m->match_pattern_case) {
	case XDS__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_EXACT:
		ret->kind = WEFT_STR_EXACT;
		v = m->exact;
		break;
	case XDS__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_PREFIX:
		ret->kind = WEFT_STR_PREFIX;
		v = m->prefix;
		break;
	case XDS__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_SUFFIX:
		ret->kind = WEFT_STR_SUFFIX;
		v = m->suffix;
		break;
	case XDS__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_CONTAINS:
		ret->kind = WEFT_STR_CONTAINS;
		v = m->contains;
		break;
	case XDS__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_SAFE_REGEX:
		ret->kind = WEFT_STR_REGEX;
		if (m->ignore_case)
			return weft_cfg_fail(d->c, &p,
					     "ignore_case must not stand with safe_regex: write "
					     "(?i) in the expression");
		return weft_regex_compile(d->c, &px, m->safe_regex->regex ?: "", &ret->re);
	default:
		return weft_cfg_fail(d->c, &p,
				     "must have one of exact, prefix, suffix, contains, "
				     "safe_regex");
	}
	ret->v = weft_arena_strdup(d->c->arena, v ?: "");
	ret->n = strlen(ret->v);
	return 0;
}

static int matcher_prepare(const struct down *d, const struct weft_path *at, const matcher_msg *m,
			   const struct rbac_match **ret);

static int on_prepare(const struct down *d, const struct weft_path *at, const on_match_msg *m,
		      struct on_match *ret)
{
	struct weft_path pm = {at, "matcher", -1}, pa = {at, "action", -1},
			 pt = {&pa, "typed_config", -1};
	struct down below = {d->c, d->http, d->logs, d->depth + 1};
	const Envoy__Config__Rbac__V3__Action *a;

	if (!m)
		return weft_cfg_fail(d->c, at, "must have matcher or action");
	if (m->on_match_case == XDS__TYPE__MATCHER__V3__MATCHER__ON_MATCH__ON_MATCH_MATCHER)
		return matcher_prepare(&below, &pm, m->matcher, &ret->nested);
	if (m->on_match_case != XDS__TYPE__MATCHER__V3__MATCHER__ON_MATCH__ON_MATCH_ACTION ||
	    !m->action->typed_config)
		return weft_cfg_fail(d->c, at, "must have matcher or action");
	a = (const void *)weft_cfg_any(d->c, &pt, m->action->typed_config,
				       &envoy__config__rbac__v3__action__descriptor);
	if (!a)
		return -EINVAL;
	ret->name = weft_arena_strdup(d->c->arena, a->name ?: "");
	ret->action = a->action;
	if (a->action == ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__LOG)
		*d->logs = true;
	return 0;
}

static int pred_prepare(const struct down *d, const struct weft_path *at, const predicate_msg *m,
			struct pred *ret);

static int preds_prepare(const struct down *d, const struct weft_path *at, const char *field,
			 const predicates_msg *m, struct pred *ret)
{
	struct weft_path p = {at, field, -1};
	struct down below = {d->c, d->http, d->logs, d->depth + 1};
	struct pred *v = weft_arena_alloc(d->c->arena, (m->n_predicate ?: 1) * sizeof(*v));
	int err = 0;

	ret->v = v;
	ret->n = m->n_predicate;
	for (size_t i = 0; i < m->n_predicate; i++) {
		struct weft_path pi = {&p, "predicate", (int)i};

		if (pred_prepare(&below, &pi, m->predicate[i], &v[i]))
			err = -EINVAL;
	}
	return err;
}

static int single_prepare(const struct down *d, const struct weft_path *at, const single_msg *m,
			  struct pred *ret)
{
	struct weft_path p = {at, "single_predicate", -1}, pc = {&p, "custom_match", -1};
	int err = input_prepare(d, &p, m->input, &ret->input);

	if (m->matcher_case !=
	    XDS__TYPE__MATCHER__V3__MATCHER__MATCHER_LIST__PREDICATE__SINGLE_PREDICATE__MATCHER_VALUE_MATCH)
		return weft_cfg_fail(d->c, &pc, "is not supported: use value_match");
	if (string_prepare(d, &p, m->value_match, &ret->str))
		err = -EINVAL;
	return err;
}

static int not_prepare(const struct down *d, const struct weft_path *at, const predicate_msg *m,
		       struct pred *ret)
{
	struct weft_path p = {at, "not_matcher", -1};
	struct down below = {d->c, d->http, d->logs, d->depth + 1};
	struct pred *v = weft_arena_alloc(d->c->arena, sizeof(*v));

	ret->v = v;
	ret->n = 1;
	return pred_prepare(&below, &p, m, v);
}

#define P(x) XDS__TYPE__MATCHER__V3__MATCHER__MATCHER_LIST__PREDICATE__MATCH_TYPE_##x
static int pred_prepare(const struct down *d, const struct weft_path *at, const predicate_msg *m,
			struct pred *ret)
{
	if (d->depth > RBAC_DEPTH_MAX)
		return weft_cfg_fail(d->c, at, "must be nested at most %d deep", RBAC_DEPTH_MAX);
	switch (m ? m->match_type_case : 0) {
	case P(SINGLE_PREDICATE):
		ret->op = PRED_ONE;
		return single_prepare(d, at, m->single_predicate, ret);
	case P(OR_MATCHER):
		ret->op = PRED_OR;
		return preds_prepare(d, at, "or_matcher", m->or_matcher, ret);
	case P(AND_MATCHER):
		ret->op = PRED_AND;
		return preds_prepare(d, at, "and_matcher", m->and_matcher, ret);
	case P(NOT_MATCHER):
		ret->op = PRED_NOT;
		return not_prepare(d, at, m->not_matcher, ret);
	default:
		return weft_cfg_fail(d->c, at, "must have a predicate");
	}
}
#undef P

static int list_prepare(const struct down *d, const struct weft_path *at,
			const Xds__Type__Matcher__V3__Matcher__MatcherList *m,
			struct rbac_match *ret)
{
	struct weft_path p = {at, "matcher_list", -1};
	struct pred *v = weft_arena_alloc(d->c->arena, (m->n_matchers ?: 1) * sizeof(*v));
	struct on_match *on = weft_arena_alloc(d->c->arena, (m->n_matchers ?: 1) * sizeof(*on));
	int err = 0;

	ret->kind = M_LIST;
	ret->n = m->n_matchers;
	ret->pred = v;
	ret->on = on;
	for (size_t i = 0; i < m->n_matchers; i++) {
		struct weft_path pi = {&p, "matchers", (int)i}, pp = {&pi, "predicate", -1},
				 po = {&pi, "on_match", -1};

		if (pred_prepare(d, &pp, m->matchers[i]->predicate, &v[i]))
			err = -EINVAL;
		if (on_prepare(d, &po, m->matchers[i]->on_match, &on[i]))
			err = -EINVAL;
	}
	return err;
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

static int map_prepare(const struct down *d, const struct weft_path *at, const char *field,
		       const map_msg *m, struct rbac_match *ret)
{
	struct weft_path p = {at, field, -1}, pm = {&p, "map", -1};
	struct entry *v = weft_arena_alloc(d->c->arena, (m->n_map ?: 1) * sizeof(*v));
	int err = 0;

	ret->map = v;
	ret->n = m->n_map;
	for (size_t i = 0; i < m->n_map; i++) {
		struct weft_path pi = {&pm, m->map[i]->key, -1};

		v[i].key = weft_arena_strdup(d->c->arena, m->map[i]->key ?: "");
		v[i].n = strlen(v[i].key);
		if (v[i].n > ret->longest)
			ret->longest = v[i].n;
		if (on_prepare(d, &pi, m->map[i]->value, &v[i].on))
			err = -EINVAL;
	}
	qsort(v, ret->n, sizeof(*v), by_key);
	return err;
}

static int tree_prepare(const struct down *d, const struct weft_path *at, const tree_msg *m,
			struct rbac_match *ret)
{
	struct weft_path p = {at, "matcher_tree", -1}, pc = {&p, "custom_match", -1};
	int err = input_prepare(d, &p, m->input, &ret->input);

	switch (m->tree_type_case) {
	case XDS__TYPE__MATCHER__V3__MATCHER__MATCHER_TREE__TREE_TYPE_EXACT_MATCH_MAP:
		ret->kind = M_EXACT;
		return map_prepare(d, &p, "exact_match_map", m->exact_match_map, ret) ?: err;
	case XDS__TYPE__MATCHER__V3__MATCHER__MATCHER_TREE__TREE_TYPE_PREFIX_MATCH_MAP:
		ret->kind = M_PREFIX;
		return map_prepare(d, &p, "prefix_match_map", m->prefix_match_map, ret) ?: err;
	default:
		return weft_cfg_fail(d->c, &pc,
				     "is not supported: use exact_match_map or prefix_match_map");
	}
}

static int matcher_prepare(const struct down *d, const struct weft_path *at, const matcher_msg *m,
			   const struct rbac_match **ret)
{
	struct rbac_match *r = weft_arena_alloc(d->c->arena, sizeof(*r));
	struct weft_path pn = {at, "on_no_match", -1};
	struct on_match *no;
	int err = 0;

	*ret = r;
	if (d->depth > RBAC_DEPTH_MAX)
		return weft_cfg_fail(d->c, at, "must be nested at most %d deep", RBAC_DEPTH_MAX);
	if (m->matcher_type_case == XDS__TYPE__MATCHER__V3__MATCHER__MATCHER_TYPE_MATCHER_LIST)
		err = list_prepare(d, at, m->matcher_list, r);
	else if (m->matcher_type_case == XDS__TYPE__MATCHER__V3__MATCHER__MATCHER_TYPE_MATCHER_TREE)
		err = tree_prepare(d, at, m->matcher_tree, r);
	if (!m->on_no_match)
		return err;
	no = weft_arena_alloc(d->c->arena, sizeof(*no));
	r->on_no_match = no;
	return on_prepare(d, &pn, m->on_no_match, no) ?: err;
}

int rbac_matcher_prepare(struct weft_cfg *c, const struct weft_path *at, const matcher_msg *m,
			 bool http, const struct rbac_match **ret)
{
	bool logs = false;
	struct down d = {.c = c, .http = http, .logs = &logs, .depth = 1};
	int err = matcher_prepare(&d, at, m, ret);

	((struct rbac_match *)*ret)->logs = logs;
	return err;
}

/* ---- decisions */
static void from_text(struct value *v, const char *s)
{
	if (s && *s) {
		v->s = s;
		v->n = strlen(s);
	}
}

static void from_ip(struct value *v, const struct weft_ip *ip)
{
	if (ip->family)
		from_text(v, weft_ip_text(ip, v->text, sizeof(v->text)));
}

static void from_port(struct value *v, const struct weft_sockaddr *a)
{
	if (!a->ip.family)
		return;
	snprintf(v->text, sizeof(v->text), "%u", a->port);
	from_text(v, v->text);
}

/* All names, joined by commas. */
static void from_names(struct value *v, const char *const *names)
{
	size_t n = 0, at = 0;

	if (!names || !names[0])
		return;
	if (!names[1]) {
		from_text(v, names[0]);
		return;
	}
	for (size_t i = 0; names[i]; i++)
		n += strlen(names[i]) + 1;
	if (n > INPUT_MAX)
		return;
	v->heap = weft_xcalloc(1, n + 1);
	for (size_t i = 0; names[i]; i++)
		at += (size_t)sprintf(v->heap + at, "%s%s", i ? "," : "", names[i]);
	v->s = v->heap;
	v->n = at;
}

static void input_get(const struct input *in, const struct rbac_view *view, struct value *v)
{
	const struct weft_io_info *conn = view->in->conn;
	const struct weft_tls_info *tls = conn->tls;

	v->s = NULL;
	v->n = 0;
	v->heap = NULL;
	switch (in->kind) {
	case IN_HEADER:
		v->s = weft_headers_joined(view->h, in->name, in->name_n, &v->n);
		break;
	case IN_DEST_IP:
		from_ip(v, &conn->local.ip);
		break;
	case IN_DEST_PORT:
		from_port(v, &conn->local);
		break;
	case IN_SOURCE_IP:
		from_ip(v, &view->in->remote.ip);
		break;
	case IN_SOURCE_PORT:
		from_port(v, &view->in->remote);
		break;
	case IN_DIRECT_IP:
		from_ip(v, &rbac_direct(view->in)->ip);
		break;
	case IN_SNI:
		from_text(v, view->sni);
		break;
	case IN_URI_SAN:
		from_names(v, tls ? tls->peer_uri : NULL);
		break;
	case IN_DNS_SAN:
		from_names(v, tls ? tls->peer_dns : NULL);
		break;
	case IN_SUBJECT:
		from_text(v, tls ? tls->peer_subject : NULL);
		break;
	}
}

static enum weft_match pred_eval(const struct pred *p, const struct rbac_view *view)
{
	enum weft_match got = p->op == PRED_AND ? WEFT_MATCH_YES : WEFT_MATCH_NO, one;
	struct value v;

	if (p->op == PRED_ONE) {
		input_get(&p->input, view, &v);
		one = v.s ? weft_strmatch(&p->str, v.s, v.n) : WEFT_MATCH_NO;
		free(v.heap);
		return one;
	}
	if (p->op == PRED_NOT) {
		one = pred_eval(p->v, view);
		return one == WEFT_MATCH_LIMIT ? one
		       : one == WEFT_MATCH_NO  ? WEFT_MATCH_YES
					       : WEFT_MATCH_NO;
	}
	for (size_t i = 0; i < p->n; i++) {
		one = pred_eval(&p->v[i], view);
		if (one == (p->op == PRED_AND ? WEFT_MATCH_NO : WEFT_MATCH_YES))
			return one;
		if (one == WEFT_MATCH_LIMIT)
			got = one;
	}
	return got;
}

/* The action, or NULL; *limit: a regular expression gave up on the way, nothing is known. */
static const struct on_match *find(const struct rbac_match *m, const struct rbac_view *view,
				   bool *limit);

static const struct on_match *follow(const struct on_match *on, const struct rbac_view *view,
				     bool *limit)
{
	return on->nested ? find(on->nested, view, limit) : on;
}

static const struct entry *map_get(const struct rbac_match *m, const char *s, size_t n)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2, k = m->map[mid].n < n ? m->map[mid].n : n;
		int cmp = memcmp(m->map[mid].key, s, k);

		if (!cmp)
			cmp = m->map[mid].n < n ? -1 : m->map[mid].n > n;
		if (!cmp)
			return &m->map[mid];
		if (cmp < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static const struct on_match *find_in_map(const struct rbac_match *m, const struct rbac_view *view,
					  bool *limit)
{
	const struct on_match *got = NULL;
	const struct entry *e;
	struct value v;
	size_t n;

	input_get(&m->input, view, &v);
	n = m->kind == M_PREFIX && v.n > m->longest ? m->longest : v.n;
	for (; v.s && !got && !*limit; n--) {
		e = map_get(m, v.s, n);
		if (e)
			got = follow(&e->on, view, limit);
		if (m->kind == M_EXACT || !n)
			break;
	}
	free(v.heap);
	return got;
}

static const struct on_match *find(const struct rbac_match *m, const struct rbac_view *view,
				   bool *limit)
{
	const struct on_match *got = NULL;
	enum weft_match one;

	if (m->kind != M_LIST)
		got = find_in_map(m, view, limit);
	for (size_t i = 0; m->kind == M_LIST && i < m->n && !got && !*limit; i++) {
		one = pred_eval(&m->pred[i], view);
		if (one == WEFT_MATCH_LIMIT)
			*limit = true;
		else if (one == WEFT_MATCH_YES)
			got = follow(&m->on[i], view, limit);
	}
	if (!got && !*limit && m->on_no_match)
		got = follow(m->on_no_match, view, limit);
	return got;
}

bool rbac_matcher_allowed(const struct rbac_match *m, const struct rbac_view *v,
			  struct weft_rbac_out *ret)
{
	bool limit = false;
	const struct on_match *on = find(m, v, &limit);

	if (!on || limit)
		return false;
	ret->policy = on->name;
	ret->hint_set = m->logs;
	ret->hint = on->action == ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__LOG;
	return on->action != ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__DENY;
}
