/* route and redirect actions, as compiled. */
#include "proxy/http/route_priv.h"

#include "proxy/upstream/cluster.h"
#include "xds/proto/envoy/extensions/internal_redirect/allow_listed_routes/v3/allow_listed_routes_config.pb-c.h"
#include "xds/proto/envoy/extensions/internal_redirect/previous_routes/v3/previous_routes_config.pb-c.h"
#include "xds/proto/envoy/extensions/internal_redirect/safe_cross_scheme/v3/safe_cross_scheme_config.pb-c.h"
#include "xds/proto/envoy/extensions/path/rewrite/uri_template/v3/uri_template_rewrite.pb-c.h"
#include <errno.h>
#include <string.h>

#define CLUSTER(x) ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__CLUSTER_SPECIFIER_##x
#define HOST(x)	   ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__HOST_REWRITE_SPECIFIER_##x

static const char *keep(struct weft_cfg *c, const char *s)
{
	return s && *s ? weft_arena_strdup(c->arena, s) : NULL;
}

static const char *keep_lower(struct weft_cfg *c, const char *s)
{
	char *low = weft_arena_strdup(c->arena, s ? s : ""), *p;

	for (p = low; *p; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
	return low;
}

static int weighted_one(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Config__Route__V3__WeightedCluster__ClusterWeight *m,
			struct weft_weighted *to)
{
	struct weft_path rqa = {at, "request_headers_to_add", -1},
			 rqd = {at, "request_headers_to_remove", -1},
			 rsa = {at, "response_headers_to_add", -1},
			 rsd = {at, "response_headers_to_remove", -1};
	int err = 0;

	to->cluster = keep(c, m->name);
	to->cluster_header = keep(c, m->cluster_header);
	if (!!to->cluster == !!to->cluster_header)
		err = weft_cfg_fail(c, at, "must have one of name, cluster_header; has %s",
				    to->cluster ? "both" : "none");
	to->metadata_match = m->metadata_match;
	if (m->host_rewrite_specifier_case ==
	    ENVOY__CONFIG__ROUTE__V3__WEIGHTED_CLUSTER__CLUSTER_WEIGHT__HOST_REWRITE_SPECIFIER_HOST_REWRITE_LITERAL)
		to->host_rewrite = keep(c, m->host_rewrite_literal);
	err |= weft_hdrops_prepare(c, &rqa, m->request_headers_to_add, m->n_request_headers_to_add,
				   &to->req);
	err |= weft_hdrops_prepare_del(c, &rqd, m->request_headers_to_remove,
				       m->n_request_headers_to_remove, &to->req);
	err |= weft_hdrops_prepare(c, &rsa, m->response_headers_to_add,
				   m->n_response_headers_to_add, &to->resp);
	err |= weft_hdrops_prepare_del(c, &rsd, m->response_headers_to_remove,
				       m->n_response_headers_to_remove, &to->resp);
	err |= route_filters_prepare(c, at, (void *const *)m->typed_per_filter_config,
				     m->n_typed_per_filter_config, &to->filters);
	return err;
}

static int weighted_prepare(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Config__Route__V3__WeightedCluster *m,
			    struct weft_route_priv *p)
{
	struct weft_weighted *v = weft_arena_alloc(c->arena, (m->n_clusters + 1) * sizeof(*v));
	struct weft_path pc = {at, "clusters", -1}, pt = {at, "total_weight", -1};
	uint64_t sum = 0;
	size_t i;
	int err = 0;

	for (i = 0; i < m->n_clusters; i++) {
		struct weft_path pi = {at, "clusters", (int)i}, pw = {&pi, "weight", -1};
		uint32_t w = weft_cfg_u32(m->clusters[i]->weight, 0);

		err |= weighted_one(c, &pi, m->clusters[i], &v[i]);
		if (!w)
			weft_cfg_warn(c, &pw, "is 0: no request goes to \"%s\"",
				      v[i].cluster ? v[i].cluster : v[i].cluster_header);
		sum += w;
		v[i].upto = sum;
	}
	if (!sum)
		err = weft_cfg_fail(c, &pc, "must have weights whose sum is above 0, is 0");
	if (sum > UINT32_MAX)
		err = weft_cfg_fail(c, &pc, "must have weights whose sum is at most %u, is %llu",
				    UINT32_MAX, (unsigned long long)sum);
	if (m->total_weight && m->total_weight->value != sum)
		err = weft_cfg_fail(c, &pt, "must be the sum of the weights (%llu), is %u",
				    (unsigned long long)sum, m->total_weight->value);
	if (m->random_value_specifier_case ==
	    ENVOY__CONFIG__ROUTE__V3__WEIGHTED_CLUSTER__RANDOM_VALUE_SPECIFIER_HEADER_NAME)
		p->weight_header = keep_lower(c, m->header_name);
	else if (m->random_value_specifier_case ==
		 ENVOY__CONFIG__ROUTE__V3__WEIGHTED_CLUSTER__RANDOM_VALUE_SPECIFIER_USE_HASH_POLICY)
		p->weight_hash = m->use_hash_policy->value;
	p->weighted = v;
	p->n_weighted = m->n_clusters;
	p->weights = sum;
	return err;
}

static int hash_one(struct weft_cfg *c, const struct weft_path *at,
		    const Envoy__Config__Route__V3__RouteAction__HashPolicy *m,
		    struct route_hash *to)
{
	struct weft_path ph = {at, "header", -1}, pr = {&ph, "regex_rewrite", -1},
			 pc = {at, "connection_properties", -1};
	const char *attr = "";
	size_t i;

	to->terminal = m->terminal;
	switch (m->policy_specifier_case) {
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__HASH_POLICY__POLICY_SPECIFIER_HEADER:
		to->kind = HASH_HEADER;
		to->name = keep_lower(c, m->header->header_name);
		to->id = weft_hid_of(to->name, strlen(to->name));
		to->has_rewrite = m->header->regex_rewrite != NULL;
		return to->has_rewrite ? weft_rewrite_prepare(c, &pr, m->header->regex_rewrite,
							      &to->rewrite)
				       : 0;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__HASH_POLICY__POLICY_SPECIFIER_COOKIE:
		to->kind = HASH_COOKIE;
		to->name = keep(c, m->cookie->name);
		to->make_cookie = m->cookie->ttl != NULL;
		to->ttl_s = m->cookie->ttl ? m->cookie->ttl->seconds : -1;
		if (m->cookie->path && *m->cookie->path)
			attr = weft_arena_printf(c->arena, "; Path=%s", m->cookie->path);
		for (i = 0; i < m->cookie->n_attributes; i++) {
			const char *v = m->cookie->attributes[i]->value;

			attr = weft_arena_printf(c->arena, "%s; %s%s%s", attr,
						 m->cookie->attributes[i]->name, v && *v ? "=" : "",
						 v ? v : "");
		}
		to->attributes = attr;
		return 0;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__HASH_POLICY__POLICY_SPECIFIER_CONNECTION_PROPERTIES:
		to->kind = HASH_SOURCE_IP;
		if (!m->connection_properties->source_ip)
			return weft_cfg_fail(c, &pc, "source_ip must be true: it is all there is");
		return 0;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__HASH_POLICY__POLICY_SPECIFIER_QUERY_PARAMETER:
		to->kind = HASH_QUERY;
		to->name = keep(c, m->query_parameter->name);
		return 0;
	default:
		return weft_cfg_fail(c, at,
				     "must have one of header, cookie, connection_properties, "
				     "query_parameter; has none that is supported");
	}
}

int route_mirrors_prepare(struct weft_cfg *c, const struct weft_path *at,
			  Envoy__Config__Route__V3__RouteAction__RequestMirrorPolicy *const *v,
			  size_t n, const struct weft_mirror **ret)
{
	struct weft_mirror *to = weft_arena_alloc(c->arena, (n + 1) * sizeof(*to));
	size_t i;
	int err = 0;

	for (i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		to[i].cluster = keep(c, v[i]->cluster);
		to[i].cluster_header = v[i]->cluster_header && *v[i]->cluster_header
					       ? keep_lower(c, v[i]->cluster_header)
					       : NULL;
		to[i].fraction = weft_fraction(v[i]->runtime_fraction, 1000000);
		to[i].append_shadow = !v[i]->disable_shadow_host_suffix_append;
		if (!!to[i].cluster == !!to[i].cluster_header)
			err = weft_cfg_fail(c, &p,
					    "must have one of cluster, cluster_header; has %s",
					    to[i].cluster ? "both" : "none");
	}
	*ret = to;
	return err;
}

static int rewrite_prepare(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Config__Route__V3__RouteAction *m, struct weft_route *r)
{
	struct weft_path pre = {at, "regex_rewrite", -1}, phr = {at, "host_rewrite_path_regex", -1},
			 pp = {at, "path_rewrite_policy", -1}, ppt = {&pp, "typed_config", -1},
			 ppx = {at, "prefix_rewrite", -1};
	struct weft_route_priv *p = r->priv;
	int err = 0;

	p->prefix_rewrite = keep(c, m->prefix_rewrite);
	if (p->prefix_rewrite && p->kind != PATH_PREFIX && p->kind != PATH_EXACT &&
	    p->kind != PATH_SEPARATED && p->kind != PATH_CONNECT)
		err = weft_cfg_fail(c, &ppx,
				    "needs a match by prefix, path or path_separated_prefix");
	if (m->regex_rewrite) {
		p->has_regex_rewrite = true;
		err |= weft_rewrite_prepare(c, &pre, m->regex_rewrite, &p->regex_rewrite);
	}
	if (m->path_rewrite_policy) {
		const Envoy__Extensions__Path__Rewrite__UriTemplate__V3__UriTemplateRewriteConfig
			*t;

		if (p->kind != PATH_TEMPLATE || !p->tmpl)
			return weft_cfg_fail(
				c, &pp, "needs a match by path_match_policy with a URI template");
		if (!m->path_rewrite_policy->typed_config)
			return weft_cfg_fail(c, &pp, "typed_config must be set");
		t = (const void *)weft_cfg_any(
			c, &ppt, m->path_rewrite_policy->typed_config,
			&envoy__extensions__path__rewrite__uri_template__v3__uri_template_rewrite_config__descriptor);
		err |= t ? route_template_rewrite_prepare(c, &ppt, t->path_template_rewrite,
							  p->tmpl, &p->tmpl_rewrite)
			 : -EINVAL;
	}
	if (!!p->prefix_rewrite + !!m->regex_rewrite + !!m->path_rewrite_policy > 1)
		err = weft_cfg_fail(
			c, at,
			"must have one of prefix_rewrite, regex_rewrite, path_rewrite_policy; "
			"has several");
	switch (m->host_rewrite_specifier_case) {
	case HOST(HOST_REWRITE_LITERAL):
		p->host_literal = keep(c, m->host_rewrite_literal);
		break;
	case HOST(AUTO_HOST_REWRITE):
		r->auto_host_rewrite = m->auto_host_rewrite->value;
		break;
	case HOST(HOST_REWRITE_HEADER):
		p->host_header = keep_lower(c, m->host_rewrite_header);
		break;
	case HOST(HOST_REWRITE_PATH_REGEX):
		p->has_host_regex = true;
		err |= weft_rewrite_prepare(c, &phr, m->host_rewrite_path_regex, &p->host_regex);
		break;
	default:
		break;
	}
	p->append_forwarded_host = m->append_x_forwarded_host;
	return err;
}

static int upgrades_prepare(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Config__Route__V3__RouteAction *m, struct weft_route *r)
{
	struct route_upgrade *v =
		weft_arena_alloc(c->arena, (m->n_upgrade_configs + 1) * sizeof(*v));
	size_t i;
	int err = 0;

	for (i = 0; i < m->n_upgrade_configs; i++) {
		struct weft_path p = {at, "upgrade_configs", (int)i},
				 pc = {&p, "connect_config", -1};

		v[i].type = keep_lower(c, m->upgrade_configs[i]->upgrade_type);
		v[i].enabled = weft_cfg_bool(m->upgrade_configs[i]->enabled, true);
		v[i].connect = m->upgrade_configs[i]->connect_config != NULL;
		if (v[i].connect && strcmp(v[i].type, "connect"))
			err = weft_cfg_fail(c, &pc, "needs upgrade_type CONNECT, is \"%s\"",
					    v[i].type);
		if (v[i].connect && v[i].enabled)
			r->is_tunnel = true;
	}
	r->priv->upgrades = v;
	r->priv->n_upgrades = m->n_upgrade_configs;
	r->upgrade_set = m->n_upgrade_configs > 0;
	return err;
}

static int retry_and_times(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Config__Route__V3__RouteAction *m, struct weft_route *r)
{
	struct weft_path prt = {at, "retry_policy", -1}, ppt = {&prt, "per_try_timeout", -1};
	int err = 0;

	r->timeout_ms = weft_cfg_ms(m->timeout, 15000);
	r->idle_timeout_ms = weft_cfg_ms(m->idle_timeout, -1);
	r->flush_timeout_ms = weft_cfg_ms(m->flush_timeout, -1);
	if (m->hedge_policy)
		r->hedge_on_try_timeout = m->hedge_policy->hedge_on_per_try_timeout;
	if (m->max_stream_duration) { /* takes the place of timeout, as in Envoy */
		r->timeout_ms = 0;
		r->max_stream_ms = weft_cfg_ms(m->max_stream_duration->max_stream_duration, -1);
		r->grpc_timeout_max_ms =
			weft_cfg_ms(m->max_stream_duration->grpc_timeout_header_max, -1);
		r->grpc_timeout_offset_ms =
			weft_cfg_ms(m->max_stream_duration->grpc_timeout_header_offset, -1);
	} else if (m->max_grpc_timeout) {
		r->max_grpc_ms = weft_cfg_ms(m->max_grpc_timeout, -1);
		r->grpc_offset_ms = weft_cfg_ms(m->grpc_timeout_offset, -1);
	}
	if (m->retry_policy)
		err = weft_retry_prepare(c, &prt, m->retry_policy, &r->retry);
	if (r->retry && r->timeout_ms && r->retry->per_try_ms > r->timeout_ms)
		weft_cfg_warn(
			c, &ppt,
			"is %lld ms, beyond the route's timeout of %lld ms: it never ends a try",
			(long long)r->retry->per_try_ms, (long long)r->timeout_ms);
	return err;
}

static int redirect_policy(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Config__Route__V3__RouteAction *m, struct weft_route *r)
{
	const Envoy__Config__Route__V3__InternalRedirectPolicy *p = m->internal_redirect_policy;
	struct weft_path pp = {at, "internal_redirect_policy", -1},
			 pc = {&pp, "redirect_response_codes", -1};
	size_t i;
	int err = 0;

	r->internal_redirect = p != NULL;
	if (!p)
		return 0;
	for (i = 0; i < p->n_redirect_response_codes; i++)
		if (p->redirect_response_codes[i] < 301 || p->redirect_response_codes[i] > 308 ||
		    (p->redirect_response_codes[i] > 303 && p->redirect_response_codes[i] < 307))
			err = weft_cfg_fail(c, &pc, "must be 301, 302, 303, 307 or 308, has %u",
					    p->redirect_response_codes[i]);
	for (i = 0; i < p->n_predicates; i++) {
		struct weft_path pi = {&pp, "predicates", (int)i}, pt = {&pi, "typed_config", -1};
		const ProtobufCMessage *any;

		if (!p->predicates[i]->typed_config) {
			err = weft_cfg_fail(c, &pi, "typed_config must be set");
			continue;
		}
		any = weft_cfg_any(c, &pt, p->predicates[i]->typed_config, NULL);
		if (!any) {
			err = -EINVAL;
		} else if (
			any->descriptor ==
			&envoy__extensions__internal_redirect__allow_listed_routes__v3__allow_listed_routes_config__descriptor) {
			const Envoy__Extensions__InternalRedirect__AllowListedRoutes__V3__AllowListedRoutesConfig
				*a = (const void *)any;

			r->priv->redirect_to = a->allowed_route_names;
			r->priv->n_redirect_to = a->n_allowed_route_names;
		} else if (
			any->descriptor !=
				&envoy__extensions__internal_redirect__previous_routes__v3__previous_routes_config__descriptor &&
			any->descriptor !=
				&envoy__extensions__internal_redirect__safe_cross_scheme__v3__safe_cross_scheme_config__descriptor) {
			err = weft_cfg_fail(c, &pt, "%s is not a predicate that is supported",
					    any->descriptor->name);
		}
	}
	return err;
}

int route_action_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Route__V3__RouteAction *m, struct weft_route *r)
{
	struct weft_path pw = {at, "weighted_clusters", -1},
			 pm = {at, "request_mirror_policies", -1}, prl = {at, "rate_limits", -1};
	struct weft_route_priv *p = r->priv;
	struct route_hash *hash =
		weft_arena_alloc(c->arena, (m->n_hash_policy + 1) * sizeof(*hash));
	size_t i;
	int err = 0;

	switch (m->cluster_specifier_case) {
	case CLUSTER(CLUSTER):
		p->cluster = keep(c, m->cluster);
		break;
	case CLUSTER(CLUSTER_HEADER):
		p->cluster_header = keep_lower(c, m->cluster_header);
		break;
	case CLUSTER(WEIGHTED_CLUSTERS):
		err |= weighted_prepare(c, &pw, m->weighted_clusters, p);
		break;
	default:
		err = weft_cfg_fail(
			c, at,
			"must have one of cluster, cluster_header, weighted_clusters; has "
			"none that is supported");
	}
	r->priority = m->priority == ENVOY__CONFIG__CORE__V3__ROUTING_PRIORITY__HIGH
			      ? WEFT_PRIORITY_HIGH
			      : WEFT_PRIORITY_DEFAULT;
	for (i = 0; i < m->n_hash_policy; i++) {
		struct weft_path ph = {at, "hash_policy", (int)i};

		err |= hash_one(c, &ph, m->hash_policy[i], &hash[i]);
	}
	p->hash = hash;
	p->n_hash = m->n_hash_policy;
	r->has_hash = m->n_hash_policy > 0;
	if (m->n_request_mirror_policies) {
		err |= route_mirrors_prepare(c, &pm, m->request_mirror_policies,
					     m->n_request_mirror_policies, &r->mirrors);
		r->n_mirrors = m->n_request_mirror_policies;
	}
	err |= redirect_policy(c, at, m, r);
	err |= rewrite_prepare(c, at, m, r);
	err |= upgrades_prepare(c, at, m, r);
	err |= retry_and_times(c, at, m, r);
	err |= weft_ratelimits_prepare(c, &prl, m->rate_limits, m->n_rate_limits, &p->ratelimits);
	return err ? -EINVAL : 0;
}

int route_redirect_prepare(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Config__Route__V3__RedirectAction *m, struct weft_route *r)
{
	static const int codes[] = {301, 302, 303, 307, 308};
	struct weft_path pr = {at, "regex_rewrite", -1}, pp = {at, "port_redirect", -1};
	struct route_redirect *to = weft_arena_alloc(c->arena, sizeof(*to));

	r->priv->redirect = to;
	to->status = (unsigned)m->response_code < 5 ? codes[m->response_code] : 301;
	to->host = keep(c, m->host_redirect);
	to->strip_query = m->strip_query;
	to->port = m->port_redirect;
	if (to->port > 65535)
		return weft_cfg_fail(c, &pp, "must be 0..65535, is %u", to->port);
	if (m->scheme_rewrite_specifier_case ==
	    ENVOY__CONFIG__ROUTE__V3__REDIRECT_ACTION__SCHEME_REWRITE_SPECIFIER_HTTPS_REDIRECT)
		to->https = m->https_redirect;
	else if (
		m->scheme_rewrite_specifier_case ==
		ENVOY__CONFIG__ROUTE__V3__REDIRECT_ACTION__SCHEME_REWRITE_SPECIFIER_SCHEME_REDIRECT)
		to->scheme = keep(c, m->scheme_redirect);
	switch (m->path_rewrite_specifier_case) {
	case ENVOY__CONFIG__ROUTE__V3__REDIRECT_ACTION__PATH_REWRITE_SPECIFIER_PATH_REDIRECT:
		to->path = keep(c, m->path_redirect);
		break;
	case ENVOY__CONFIG__ROUTE__V3__REDIRECT_ACTION__PATH_REWRITE_SPECIFIER_PREFIX_REWRITE:
		to->prefix = weft_arena_strdup(c->arena, m->prefix_rewrite);
		break;
	case ENVOY__CONFIG__ROUTE__V3__REDIRECT_ACTION__PATH_REWRITE_SPECIFIER_REGEX_REWRITE:
		to->has_regex = true;
		return weft_rewrite_prepare(c, &pr, m->regex_rewrite, &to->regex);
	default:
		break;
	}
	return 0;
}
