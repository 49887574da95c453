/* Permissions and principals: compiled to one kind of tree, and its truth. */
#include "proxy/policy/rbac_priv.h"

#include "xds/proto/envoy/extensions/path/match/uri_template/v3/uri_template_match.pb-c.h"
#include <errno.h>
#include <string.h>

typedef Envoy__Config__Rbac__V3__Permission permission;
typedef Envoy__Config__Rbac__V3__Principal principal;
typedef Envoy__Extensions__Path__Match__UriTemplate__V3__UriTemplateMatchConfig template_msg;

/* How a list of rules is walked down. */
struct down {
	struct weft_cfg *c;
	const struct weft_rbac_template *http;
	unsigned depth;
};

/* ---- configuration */
static int too_deep(const struct down *d, const struct weft_path *at)
{
	return weft_cfg_fail(d->c, at, "rules must be nested at most %d deep", RBAC_DEPTH_MAX);
}

static int cidr(const struct down *d, const struct weft_path *at, const char *field,
		enum rbac_op op, const Envoy__Config__Core__V3__CidrRange *m, struct rbac_node *ret)
{
	struct weft_path p = {at, field, -1}, pa = {&p, "address_prefix", -1},
			 pl = {&p, "prefix_len", -1};
	uint32_t len = weft_cfg_u32(m->prefix_len, 0);
	struct weft_ip ip;

	ret->op = op;
	if (weft_ip_parse(m->address_prefix ?: "", &ip))
		return weft_cfg_fail(d->c, &pa, "must be an IP address, is \"%.60s\"",
				     m->address_prefix ?: "");
	if (weft_cidr_make(&ip, len, &ret->cidr))
		return weft_cfg_fail(d->c, &pl, "must be 0..%d, is %u", ip.family == 4 ? 32 : 128,
				     len);
	return 0;
}

static int header(const struct down *d, const struct weft_path *at,
		  const Envoy__Config__Route__V3__HeaderMatcher *m, struct rbac_node *ret)
{
	struct weft_path p = {at, "header", -1};

	ret->op = RBAC_HEADER;
	if (!d->http)
		return weft_cfg_fail(d->c, &p, "a connection has no headers, is \"%.60s\"",
				     m->name ?: "");
	return weft_hdrmatch_prepare(d->c, &p, m, &ret->header);
}

static int url_path(const struct down *d, const struct weft_path *at,
		    const Envoy__Type__Matcher__V3__PathMatcher *m, struct rbac_node *ret)
{
	struct weft_path p = {at, "url_path", -1}, pp = {&p, "path", -1};

	ret->op = RBAC_PATH;
	if (m->rule_case != ENVOY__TYPE__MATCHER__V3__PATH_MATCHER__RULE_PATH)
		return weft_cfg_fail(d->c, &p, "must have path");
	return weft_strmatch_prepare(d->c, &pp, m->path, &ret->str);
}

static int metadata(const struct down *d, const struct weft_path *at, const char *field,
		    const Envoy__Type__Matcher__V3__MetadataMatcher *m, struct rbac_node *ret)
{
	struct weft_path p = {at, field, -1};

	ret->op = RBAC_META;
	return weft_metamatch_prepare(d->c, &p, m, &ret->meta);
}

static int sourced(const struct down *d, const struct weft_path *at,
		   const Envoy__Config__Rbac__V3__SourcedMetadata *m, struct rbac_node *ret)
{
	struct weft_path p = {at, "sourced_metadata", -1};

	if (!m->metadata_matcher)
		return weft_cfg_fail(d->c, &p, "must have metadata_matcher");
	if (metadata(d, &p, "metadata_matcher", m->metadata_matcher, ret))
		return -EINVAL;
	if (m->metadata_source == ENVOY__CONFIG__RBAC__V3__METADATA_SOURCE__ROUTE)
		ret->op = RBAC_ROUTE_META;
	return 0;
}

static int uri_template(const struct down *d, const struct weft_path *at,
			const Envoy__Config__Core__V3__TypedExtensionConfig *m,
			struct rbac_node *ret)
{
	struct weft_path p = {at, "uri_template", -1}, pt = {&p, "typed_config", -1},
			 pp = {&pt, "path_template", -1};
	const template_msg *t;

	ret->op = RBAC_TEMPLATE;
	if (!d->http)
		return weft_cfg_fail(d->c, &p, "a connection has no path");
	t = (const void *)weft_cfg_any(
		d->c, &pt, m->typed_config,
		&envoy__extensions__path__match__uri_template__v3__uri_template_match_config__descriptor);
	if (!t)
		return -EINVAL;
	return d->http->prepare(d->c, &pp, t->path_template ?: "", &ret->tmpl);
}

static int port_range(const struct down *d, const struct weft_path *at,
		      const Envoy__Type__V3__Int32Range *m, struct rbac_node *ret)
{
	struct weft_path p = {at, "destination_port_range", -1};

	ret->op = RBAC_DEST_PORT;
	if (m->start < 0 || m->start > 65535 || m->end < 0 || m->end > 65536)
		return weft_cfg_fail(d->c, &p,
				     "must lie within 0..65535 (end is not in it: up to 65536), "
				     "is [%d, %d)",
				     m->start, m->end);
	if (m->start >= m->end)
		return weft_cfg_fail(d->c, &p, "must have end beyond start, is [%d, %d)", m->start,
				     m->end);
	ret->port.from = (uint32_t)m->start;
	ret->port.to = (uint32_t)m->end;
	return 0;
}

static int set_any(bool any, struct rbac_node *ret)
{
	ret->op = any ? RBAC_ANY : RBAC_NEVER;
	return 0;
}

static int permission_one(const struct down *d, const struct weft_path *at, const permission *m,
			  struct rbac_node *ret);
static int principal_one(const struct down *d, const struct weft_path *at, const principal *m,
			 struct rbac_node *ret);

static int permission_set(const struct down *d, const struct weft_path *at, const char *field,
			  const Envoy__Config__Rbac__V3__Permission__Set *m, enum rbac_op op,
			  struct rbac_node *ret)
{
	struct weft_path p = {at, field, -1}, pr = {&p, "rules", -1};
	int err = rbac_permissions(d->c, &pr, m->rules, m->n_rules, d->http, d->depth + 1, ret);

	ret->op = op;
	return err;
}

static int permission_not(const struct down *d, const struct weft_path *at, const permission *m,
			  struct rbac_node *ret)
{
	struct weft_path p = {at, "not_rule", -1};
	struct down below = {d->c, d->http, d->depth + 1};
	struct rbac_node *v = weft_arena_alloc(d->c->arena, sizeof(*v));

	ret->op = RBAC_NOT;
	ret->n = 1;
	ret->v = v;
	return permission_one(&below, &p, m, v);
}

#define P(x) ENVOY__CONFIG__RBAC__V3__PERMISSION__RULE_##x
static int permission_one(const struct down *d, const struct weft_path *at, const permission *m,
			  struct rbac_node *ret)
{
	struct weft_path p = {at, "requested_server_name", -1}, pm = {at, "matcher", -1};

	if (d->depth > RBAC_DEPTH_MAX)
		return too_deep(d, at);
	switch (m->rule_case) {
	case P(AND_RULES):
		return permission_set(d, at, "and_rules", m->and_rules, RBAC_AND, ret);
	case P(OR_RULES):
		return permission_set(d, at, "or_rules", m->or_rules, RBAC_OR, ret);
	case P(NOT_RULE):
		return permission_not(d, at, m->not_rule, ret);
	case P(ANY):
		return set_any(m->any, ret);
	case P(HEADER):
		return header(d, at, m->header, ret);
	case P(URL_PATH):
		return url_path(d, at, m->url_path, ret);
	case P(URI_TEMPLATE):
		return uri_template(d, at, m->uri_template, ret);
	case P(DESTINATION_IP):
		return cidr(d, at, "destination_ip", RBAC_DEST_IP, m->destination_ip, ret);
	case P(DESTINATION_PORT):
		ret->op = RBAC_DEST_PORT;
		ret->port.from = m->destination_port;
		ret->port.to = m->destination_port + 1;
		return 0;
	case P(DESTINATION_PORT_RANGE):
		return port_range(d, at, m->destination_port_range, ret);
	case P(METADATA):
		return metadata(d, at, "metadata", m->metadata, ret);
	case P(SOURCED_METADATA):
		return sourced(d, at, m->sourced_metadata, ret);
	case P(REQUESTED_SERVER_NAME):
		ret->op = RBAC_SNI;
		return weft_strmatch_prepare(d->c, &p, m->requested_server_name, &ret->str);
	case P(MATCHER):
		return weft_cfg_fail(d->c, &pm, "\"%.60s\" is not supported",
				     m->matcher->name ?: "");
	default:
		return weft_cfg_fail(d->c, at, "must have a rule");
	}
}
#undef P

int rbac_permissions(struct weft_cfg *c, const struct weft_path *at, permission *const *v, size_t n,
		     const struct weft_rbac_template *http, unsigned depth, struct rbac_node *ret)
{
	struct rbac_node *to = weft_arena_alloc(c->arena, (n ?: 1) * sizeof(*to));
	struct down d = {c, http, depth};
	int err = 0;

	ret->op = RBAC_OR;
	ret->n = n;
	ret->v = to;
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		if (permission_one(&d, &p, v[i], &to[i]))
			err = -EINVAL;
	}
	return err;
}

static int principal_set(const struct down *d, const struct weft_path *at, const char *field,
			 const Envoy__Config__Rbac__V3__Principal__Set *m, enum rbac_op op,
			 struct rbac_node *ret)
{
	struct weft_path p = {at, field, -1}, pr = {&p, "ids", -1};
	int err = rbac_principals(d->c, &pr, m->ids, m->n_ids, d->http, d->depth + 1, ret);

	ret->op = op;
	return err;
}

static int principal_not(const struct down *d, const struct weft_path *at, const principal *m,
			 struct rbac_node *ret)
{
	struct weft_path p = {at, "not_id", -1};
	struct down below = {d->c, d->http, d->depth + 1};
	struct rbac_node *v = weft_arena_alloc(d->c->arena, sizeof(*v));

	ret->op = RBAC_NOT;
	ret->n = 1;
	ret->v = v;
	return principal_one(&below, &p, m, v);
}

static int authenticated(const struct down *d, const struct weft_path *at,
			 const Envoy__Config__Rbac__V3__Principal__Authenticated *m,
			 struct rbac_node *ret)
{
	struct weft_path p = {at, "authenticated", -1}, pn = {&p, "principal_name", -1};

	ret->op = m->principal_name ? RBAC_PRINCIPAL : RBAC_TLS;
	return m->principal_name ? weft_strmatch_prepare(d->c, &pn, m->principal_name, &ret->str)
				 : 0;
}

#define I(x) ENVOY__CONFIG__RBAC__V3__PRINCIPAL__IDENTIFIER_##x
static int principal_one(const struct down *d, const struct weft_path *at, const principal *m,
			 struct rbac_node *ret)
{
	struct weft_path pf = {at, "filter_state", -1}, pc = {at, "custom", -1};

	if (d->depth > RBAC_DEPTH_MAX)
		return too_deep(d, at);
	switch (m->identifier_case) {
	case I(AND_IDS):
		return principal_set(d, at, "and_ids", m->and_ids, RBAC_AND, ret);
	case I(OR_IDS):
		return principal_set(d, at, "or_ids", m->or_ids, RBAC_OR, ret);
	case I(NOT_ID):
		return principal_not(d, at, m->not_id, ret);
	case I(ANY):
		return set_any(m->any, ret);
	case I(AUTHENTICATED):
		return authenticated(d, at, m->authenticated, ret);
	case I(SOURCE_IP):
		return cidr(d, at, "source_ip", RBAC_CONN_IP, m->source_ip, ret);
	case I(DIRECT_REMOTE_IP):
		return cidr(d, at, "direct_remote_ip", RBAC_DIRECT_IP, m->direct_remote_ip, ret);
	case I(REMOTE_IP):
		return cidr(d, at, "remote_ip", RBAC_REMOTE_IP, m->remote_ip, ret);
	case I(HEADER):
		return header(d, at, m->header, ret);
	case I(URL_PATH):
		return url_path(d, at, m->url_path, ret);
	case I(METADATA):
		return metadata(d, at, "metadata", m->metadata, ret);
	case I(SOURCED_METADATA):
		return sourced(d, at, m->sourced_metadata, ret);
	case I(FILTER_STATE):
		return weft_cfg_fail(d->c, &pf, "is not supported: there is no filter state");
	case I(CUSTOM):
		return weft_cfg_fail(d->c, &pc, "\"%.60s\" is not supported",
				     m->custom->name ?: "");
	default:
		return weft_cfg_fail(d->c, at, "must have an identifier");
	}
}
#undef I

int rbac_principals(struct weft_cfg *c, const struct weft_path *at, principal *const *v, size_t n,
		    const struct weft_rbac_template *http, unsigned depth, struct rbac_node *ret)
{
	struct rbac_node *to = weft_arena_alloc(c->arena, (n ?: 1) * sizeof(*to));
	struct down d = {c, http, depth};
	int err = 0;

	ret->op = RBAC_OR;
	ret->n = n;
	ret->v = to;
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		if (principal_one(&d, &p, v[i], &to[i]))
			err = -EINVAL;
	}
	return err;
}

/* ---- truth */
static enum weft_match names_match(const struct weft_strmatch *m, const char *const *v)
{
	enum weft_match got = WEFT_MATCH_NO, one;

	for (; v && *v; v++) {
		one = weft_strmatch(m, *v, strlen(*v));
		if (one == WEFT_MATCH_YES)
			return one;
		if (one == WEFT_MATCH_LIMIT)
			got = one;
	}
	return got;
}

static enum weft_match principal_match(const struct weft_strmatch *m, const struct weft_tls_info *t)
{
	enum weft_match uri, dns, subject;
	const char *s;

	if (!t)
		return WEFT_MATCH_NO;
	uri = names_match(m, t->peer_uri);
	if (uri == WEFT_MATCH_YES)
		return uri;
	dns = names_match(m, t->peer_dns);
	if (dns == WEFT_MATCH_YES)
		return dns;
	s = t->peer_subject ?: "";
	subject = weft_strmatch(m, s, strlen(s));
	if (subject == WEFT_MATCH_YES)
		return subject;
	return uri || dns || subject ? WEFT_MATCH_LIMIT : WEFT_MATCH_NO;
}

static enum weft_match all_of(const struct rbac_node *n, const struct rbac_view *v)
{
	enum weft_match got = WEFT_MATCH_YES;

	for (size_t i = 0; i < n->n; i++) {
		enum weft_match one = rbac_eval(&n->v[i], v);

		if (one == WEFT_MATCH_NO)
			return one;
		if (one == WEFT_MATCH_LIMIT)
			got = one;
	}
	return got;
}

static enum weft_match any_of(const struct rbac_node *n, const struct rbac_view *v)
{
	enum weft_match got = WEFT_MATCH_NO;

	for (size_t i = 0; i < n->n; i++) {
		enum weft_match one = rbac_eval(&n->v[i], v);

		if (one == WEFT_MATCH_YES)
			return one;
		if (one == WEFT_MATCH_LIMIT)
			got = one;
	}
	return got;
}

static enum weft_match negated(enum weft_match m)
{
	return m == WEFT_MATCH_LIMIT ? m : m == WEFT_MATCH_NO ? WEFT_MATCH_YES : WEFT_MATCH_NO;
}

enum weft_match rbac_eval(const struct rbac_node *n, const struct rbac_view *v)
{
	const struct weft_rbac_in *in = v->in;

	switch (n->op) {
	case RBAC_AND:
		return all_of(n, v);
	case RBAC_OR:
		return any_of(n, v);
	case RBAC_NOT:
		return negated(rbac_eval(n->v, v));
	case RBAC_ANY:
		return WEFT_MATCH_YES;
	case RBAC_NEVER:
		return WEFT_MATCH_NO;
	case RBAC_HEADER:
		return weft_hdrmatch(&n->header, v->h);
	case RBAC_PATH:
		return v->path ? weft_strmatch(&n->str, v->path, v->path_n) : WEFT_MATCH_NO;
	case RBAC_TEMPLATE:
		return v->path && v->http->match(n->tmpl, v->path, v->path_n);
	case RBAC_DEST_IP:
		return weft_cidr_has(&n->cidr, &in->conn->local.ip);
	case RBAC_DEST_PORT:
		return in->conn->local.ip.family && in->conn->local.port >= n->port.from &&
		       in->conn->local.port < n->port.to;
	case RBAC_SNI:
		return weft_strmatch(&n->str, v->sni, strlen(v->sni));
	case RBAC_META:
		return weft_metamatch(&n->meta,
				      in->meta ? in->meta(in->meta_ctx, n->meta.ns) : NULL);
	case RBAC_ROUTE_META:
		return weft_metamatch(&n->meta, weft_metadata_ns(in->route_meta, n->meta.ns));
	case RBAC_TLS:
		return in->conn->tls != NULL;
	case RBAC_PRINCIPAL:
		return principal_match(&n->str, in->conn->tls);
	case RBAC_CONN_IP:
		return weft_cidr_has(&n->cidr, &in->conn->remote.ip);
	case RBAC_DIRECT_IP:
		return weft_cidr_has(&n->cidr, &rbac_direct(in)->ip);
	case RBAC_REMOTE_IP:
		return weft_cidr_has(&n->cidr, &in->remote.ip);
	}
	return WEFT_MATCH_NO;
}
