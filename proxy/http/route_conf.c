/* A route as configured → as compiled: what it matches, and what every kind of route has. */
#include "proxy/http/filter.h"
#include "proxy/http/route_priv.h"

#include "xds/proto/envoy/extensions/path/match/uri_template/v3/uri_template_match.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *route_data(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__DataSource *d, size_t max, size_t *ret_n)
{
	const char *s = NULL;
	char *buf;
	ssize_t n;
	int fd;

	if (d->watched_directory) {
		weft_cfg_fail(c, at,
			      "watched_directory: is not supported here: the file is read once");
		return NULL;
	}
	switch (d->specifier_case) {
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_STRING:
		s = d->inline_string;
		*ret_n = strlen(s);
		break;
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_BYTES:
		s = (const char *)d->inline_bytes.data;
		*ret_n = d->inline_bytes.len;
		break;
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_ENVIRONMENT_VARIABLE:
		s = getenv(d->environment_variable);
		if (!s) {
			weft_cfg_fail(c, at, "environment variable \"%s\" is not set",
				      d->environment_variable);
			return NULL;
		}
		*ret_n = strlen(s);
		break;
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME:
		if (!c->file) {
			weft_cfg_fail(c, at, "must not name a file: it came from a server");
			return NULL;
		}
		fd = open(d->filename, O_RDONLY | O_CLOEXEC | O_NOCTTY);
		if (fd < 0) {
			weft_cfg_fail(c, at, "\"%s\": %s", d->filename, strerror(errno));
			return NULL;
		}
		buf = weft_arena_alloc(c->arena, max + 2);
		n = read(fd, buf, max + 1);
		close(fd);
		if (n < 0) {
			weft_cfg_fail(c, at, "\"%s\": cannot be read", d->filename);
			return NULL;
		}
		s = buf;
		*ret_n = (size_t)n;
		break;
	default:
		weft_cfg_fail(c, at,
			      "must have one of filename, inline_bytes, inline_string, "
			      "environment_variable; has none");
		return NULL;
	}
	if (*ret_n > max) {
		weft_cfg_fail(
			c, at, "must be at most %zu bytes, has %zu%s", max, *ret_n,
			d->specifier_case ==
					ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME
				? " or more"
				: "");
		return NULL;
	}
	return weft_arena_strndup(c->arena, s ? s : "", *ret_n);
}

/* ---- per-filter configuration */
#define HTTP_FILTER(name) &weft_http_filter_##name,
static const struct weft_http_filter *const all_filters[] = {
#include "proxy/http/filters/filters.def"
};
#undef HTTP_FILTER

static const struct weft_http_filter *by_route_type(const ProtobufCMessageDescriptor *d)
{
	size_t i;

	for (i = 0; i < sizeof(all_filters) / sizeof(*all_filters); i++)
		if (all_filters[i]->ext.per_route == d)
			return all_filters[i];
	return NULL;
}

static int filter_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Google__Protobuf__Any *any, struct route_filter *to)
{
	const ProtobufCMessage *m = weft_cfg_any(c, at, any, NULL);
	const struct weft_http_filter *f;
	bool optional = false;

	if (!m)
		return -EINVAL;
	if (m->descriptor == &envoy__config__route__v3__filter_config__descriptor) {
		const Envoy__Config__Route__V3__FilterConfig *fc = (const void *)m;
		struct weft_path pc = {at, "config", -1};

		to->disabled = fc->disabled;
		optional = fc->is_optional;
		if (!fc->config) {
			if (!fc->disabled)
				return weft_cfg_fail(c, &pc, "must be set, or disabled be true");
			return 0;
		}
		if (fc->disabled || (optional && !weft_cfg_type(fc->config->type_url)))
			return 0;
		m = weft_cfg_any(c, &pc, fc->config, NULL);
		if (!m)
			return -EINVAL;
	}
	f = by_route_type(m->descriptor);
	if (!f) {
		if (optional)
			return 0;
		return weft_cfg_fail(
			c, at,
			"%s is not the per-route configuration of a filter that is supported",
			m->descriptor->name);
	}
	to->conf = m;
	if (f->ext.prepare_route)
		return f->ext.prepare_route(c, at, m, &to->conf);
	return f->ext.per_route == f->ext.config && f->ext.prepare
		       ? f->ext.prepare(c, at, m, &to->conf)
		       : 0;
}

/* entries: map<string, Any> entries; every message's entry type has the same layout. */
int route_filters_prepare(struct weft_cfg *c, const struct weft_path *at, void *const *entries,
			  size_t n, const struct route_filters **ret)
{
	struct route_filters *to;
	struct route_filter *v;
	size_t i;
	int err = 0;

	*ret = NULL;
	if (!n)
		return 0;
	to = weft_arena_alloc(c->arena, sizeof(*to));
	v = weft_arena_alloc(c->arena, n * sizeof(*v));
	for (i = 0; i < n; i++) {
		const Envoy__Config__Route__V3__Route__TypedPerFilterConfigEntry *e = entries[i];
		char field[160];
		struct weft_path p = {at, field, -1};

		snprintf(field, sizeof(field), "typed_per_filter_config[%s]", e->key);
		v[i].name = weft_arena_strdup(c->arena, e->key);
		if (!e->value)
			err = weft_cfg_fail(c, &p, "must be set");
		else if (filter_prepare(c, &p, e->value, &v[i]))
			err = -EINVAL;
	}
	to->v = v;
	to->n = n;
	*ret = to;
	return err;
}

/* ---- what it matches */
#define PATH(x) ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_##x

static int path_prepare(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Config__Route__V3__RouteMatch *m, struct weft_route_priv *p)
{
	struct weft_path pr = {at, "safe_regex", -1}, prr = {&pr, "regex", -1},
			 pp = {at, "path_match_policy", -1}, ppt = {&pp, "typed_config", -1},
			 psep = {at, "path_separated_prefix", -1}, pc = {at, "case_sensitive", -1};
	const Envoy__Extensions__Path__Match__UriTemplate__V3__UriTemplateMatchConfig *t;
	const char *text = "";

	p->ignore_case = !weft_cfg_bool(m->case_sensitive, true);
	switch (m->path_specifier_case) {
	case PATH(PREFIX):
		p->kind = PATH_PREFIX;
		text = m->prefix;
		break;
	case PATH(PATH):
		p->kind = PATH_EXACT;
		text = m->path;
		break;
	case PATH(PATH_SEPARATED_PREFIX):
		p->kind = PATH_SEPARATED;
		text = m->path_separated_prefix;
		if (!*text || strpbrk(text, "?#") || text[strlen(text) - 1] == '/')
			return weft_cfg_fail(c, &psep,
					     "must be a path without '?', '#' and a '/' at its "
					     "end, is \"%.80s\"",
					     text);
		break;
	case PATH(SAFE_REGEX):
		p->kind = PATH_REGEX;
		if (p->ignore_case)
			return weft_cfg_fail(c, &pc,
					     "must not stand with safe_regex: write (?i) in the "
					     "expression");
		return weft_regex_compile(c, &prr, m->safe_regex->regex, &p->regex);
	case PATH(CONNECT_MATCHER):
		p->kind = PATH_CONNECT;
		break;
	case PATH(PATH_MATCH_POLICY):
		p->kind = PATH_TEMPLATE;
		if (!m->path_match_policy->typed_config)
			return weft_cfg_fail(c, &pp, "typed_config must be set");
		t = (const void *)weft_cfg_any(
			c, &ppt, m->path_match_policy->typed_config,
			&envoy__extensions__path__match__uri_template__v3__uri_template_match_config__descriptor);
		return t ? route_template_prepare(c, &ppt, t->path_template, &p->tmpl) : -EINVAL;
	default:
		return weft_cfg_fail(
			c, at,
			"must have one of prefix, path, path_separated_prefix, safe_regex, "
			"connect_matcher, path_match_policy; has none");
	}
	p->path = weft_arena_strdup(c->arena, text);
	p->path_n = strlen(text);
	return 0;
}

static int8_t tri(const Google__Protobuf__BoolValue *b)
{
	return b ? (int8_t) !!b->value : -1;
}

static int match_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Route__V3__RouteMatch *m, struct weft_route_priv *p)
{
	struct weft_path ph = {at, "headers", -1}, pq = {at, "query_parameters", -1};
	struct weft_metamatch *meta;
	size_t i;
	int err = path_prepare(c, at, m, p);

	err |= weft_hdrmatches_prepare(c, &ph, m->headers, m->n_headers, &p->headers);
	p->n_headers = m->n_headers;
	err |= weft_querymatches_prepare(c, &pq, m->query_parameters, m->n_query_parameters,
					 &p->query);
	p->n_query = m->n_query_parameters;
	p->grpc = m->grpc != NULL;
	p->tls_presented = p->tls_validated = -1;
	if (m->tls_context) {
		p->has_tls = true;
		p->tls_presented = tri(m->tls_context->presented);
		p->tls_validated = tri(m->tls_context->validated);
	}
	p->fraction = weft_fraction(m->runtime_fraction, 1000000);
	meta = weft_arena_alloc(c->arena, (m->n_dynamic_metadata + 1) * sizeof(*meta));
	for (i = 0; i < m->n_dynamic_metadata; i++) {
		struct weft_path pm = {at, "dynamic_metadata", (int)i};

		err |= weft_metamatch_prepare(c, &pm, m->dynamic_metadata[i], &meta[i]);
	}
	p->meta = meta;
	p->n_meta = m->n_dynamic_metadata;
	p->plain = !p->n_headers && !p->n_query && !p->grpc && !p->has_tls && !p->n_meta &&
		   p->fraction == 1000000;
	return err ? -EINVAL : 0;
}

static int direct_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Route__V3__DirectResponseAction *m,
			  struct weft_route *r)
{
	struct weft_path pb = {at, "body", -1}, pf = {at, "body_format", -1};
	size_t max = weft_cfg_u32(r->routes->msg->max_direct_response_body_size_bytes, 4096);
	struct weft_route_priv *p = r->priv;

	r->action = WEFT_ROUTE_DIRECT;
	p->status = (int)m->status;
	p->body = "";
	if (m->body) {
		p->body = route_data(c, &pb, m->body, max, &p->body_n);
		if (!p->body)
			return -EINVAL;
	}
	return m->body_format ? weft_format_prepare_msg(c, &pf, m->body_format, &p->body_format)
			      : 0;
}

int route_prepare(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Route__V3__Route *m, struct weft_route *r)
{
	struct weft_path pm = {at, "match", -1}, pa = {at, "route", -1}, pr = {at, "redirect", -1},
			 pd = {at, "direct_response", -1};
	struct weft_path rqa = {at, "request_headers_to_add", -1},
			 rqd = {at, "request_headers_to_remove", -1},
			 rsa = {at, "response_headers_to_add", -1},
			 rsd = {at, "response_headers_to_remove", -1};
	struct weft_route_priv *p = r->priv = weft_arena_alloc(c->arena, sizeof(*p));
	int err = 0;

	r->msg = m;
	r->name = weft_arena_strdup(c->arena, m->name ? m->name : "");
	r->timeout_ms = 15000;
	r->body_limit = route_body_limit(r->vhost->msg, m);
	r->hedge_on_try_timeout = r->vhost->hedge;
	if (m->stat_prefix && *m->stat_prefix)
		r->stats = route_stats_new(c, r->vhost->name, m->stat_prefix);
	r->flush_timeout_ms = r->max_grpc_ms = r->grpc_offset_ms = r->idle_timeout_ms =
		r->max_stream_ms = r->grpc_timeout_max_ms = r->grpc_timeout_offset_ms = -1;
	if (!m->match)
		return weft_cfg_fail(c, &pm, "must be set");
	err |= match_prepare(c, &pm, m->match, p);
	err |= weft_hdrops_prepare(c, &rqa, m->request_headers_to_add, m->n_request_headers_to_add,
				   &p->req);
	err |= weft_hdrops_prepare_del(c, &rqd, m->request_headers_to_remove,
				       m->n_request_headers_to_remove, &p->req);
	err |= weft_hdrops_prepare(c, &rsa, m->response_headers_to_add,
				   m->n_response_headers_to_add, &p->resp);
	err |= weft_hdrops_prepare_del(c, &rsd, m->response_headers_to_remove,
				       m->n_response_headers_to_remove, &p->resp);
	err |= route_filters_prepare(c, at, (void *const *)m->typed_per_filter_config,
				     m->n_typed_per_filter_config, &p->filters);
	switch (m->action_case) {
	case ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_ROUTE:
		r->action = WEFT_ROUTE_FORWARD;
		err |= route_action_prepare(c, &pa, m->route, r);
		break;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_REDIRECT:
		r->action = WEFT_ROUTE_REDIRECT;
		err |= route_redirect_prepare(c, &pr, m->redirect, r);
		break;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_DIRECT_RESPONSE:
		err |= direct_prepare(c, &pd, m->direct_response, r);
		break;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_NON_FORWARDING_ACTION:
		r->action = WEFT_ROUTE_NON_FORWARDING;
		break;
	default:
		err = weft_cfg_fail(c, at,
				    "must have one of route, redirect, direct_response, "
				    "non_forwarding_action; has none");
	}
	return err ? -EINVAL : 0;
}
