/* The way through a waypoint: its filter chain, filters, policies, route and endpoints, from
 * exactly the messages that it was sent, decided by the code of proxy/policy. */
#include "agent/explain_int.h"

#include "proxy/policy/match.h"
#include "proxy/policy/rbac.h"
#include "xds/proto/envoy/config/endpoint/v3/endpoint.pb-c.h"
#include "xds/proto/envoy/config/listener/v3/listener.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/ext_authz/v3/ext_authz.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/rbac/v3/rbac.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/rbac/v3/rbac.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb-c.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Config__Route__V3__Route Route;
typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager Hcm;

struct way {
	struct explain *t;
	const struct weft_store_gateway *g;
	struct weft_cfg c;
	struct weft_errs errs;
	struct weft_headers h;
	struct weft_io_info io;
	struct weft_tls_info tls;
	const char *uris[2];
	json_t *out, *filters;
	bool denied;
};

/* ---- templates of paths, as regular expressions */

static int template_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			    const void **ret)
{
	char *re = weft_arena_alloc(c->arena, 6 * strlen(text) + 1), *p = re;

	for (; *text; text++) {
		if (text[0] == '*' && text[1] == '*') {
			p = stpcpy(p, ".*");
			text++;
		} else if (*text == '*') {
			p = stpcpy(p, "[^/]+");
		} else {
			if (strchr(".+?()[]{}|^$\\", *text))
				*p++ = '\\';
			*p++ = *text;
		}
	}
	*p = '\0';
	return weft_regex_compile(c, at, re, (const struct weft_regex **)ret);
}

static bool template_match(const void *t, const char *path, size_t n)
{
	return weft_regex_full(t, path, n) == WEFT_MATCH_YES;
}

static const struct weft_rbac_template templates = {template_prepare, template_match};

/* ---- what it was sent */

static const void *find(const struct way *w, const struct weft_xds_type *type, const char *name)
{
	const struct weft_store_resource *v;
	size_t n = weft_store_resources(w->t->s, &v);

	for (size_t i = 0; i < n; i++)
		if (v[i].type == type && !strcmp(v[i].scope, w->g->scope) &&
		    !strcmp(v[i].name, name))
			return v[i].msg;
	return NULL;
}

static bool in_range(const Envoy__Config__Core__V3__CidrRange *r, const struct weft_ip *ip)
{
	struct weft_cidr c;
	struct weft_ip at;

	return !weft_ip_parse(r->address_prefix, &at) &&
	       !weft_cidr_make(&at, weft_cfg_u32(r->prefix_len, 0), &c) && weft_cidr_has(&c, ip);
}

/* ---- a gateway of the edge: listeners by address and port, chains by server name */

static const Envoy__Config__Listener__V3__Listener *edge_listener(const struct way *w)
{
	char name[32];

	snprintf(name, sizeof(name), "gateway|%u", w->t->dst.port);
	return find(w, &weft_xds_type_listener, name);
}

static bool address_is(const Envoy__Config__Core__V3__Address *a, const struct weft_ip *ip,
		       bool *ret_any)
{
	struct weft_ip at;

	if (weft_ip_parse(a->socket_address->address, &at))
		return false;
	*ret_any = *ret_any || !strcmp(a->socket_address->address, "::");
	return !weft_ip_cmp(&at, ip);
}

/* One that listens at every address is meant only where nothing else has this one. */
static bool edge_listens(const struct way *w)
{
	const Envoy__Config__Listener__V3__Listener *l = edge_listener(w);
	bool any = false;

	if (!l)
		return false;
	if (address_is(l->address, &w->t->dst.ip, &any))
		return true;
	for (size_t i = 0; i < l->n_additional_addresses; i++)
		if (address_is(l->additional_addresses[i]->address, &w->t->dst.ip, &any))
			return true;
	return any && !w->t->svc && !w->t->dst_w;
}

/* How well a pattern ("a.b", "*.b", "*") takes the host; 0: not. */
static size_t host_fits(const char *pattern, const char *host, size_t n)
{
	size_t len = strlen(pattern);

	if (!strcmp(pattern, "*"))
		return 1;
	if (*pattern == '*')
		return n > len - 1 && !strncasecmp(host + n - (len - 1), pattern + 1, len - 1) ? len
											       : 0;
	return n == len && !strncasecmp(pattern, host, n) ? 1000 + len : 0;
}

static const char *host_of(const struct way *w, size_t *ret_n)
{
	const char *host = weft_headers_value(&w->h, WEFT_H_AUTHORITY);
	const char *colon = strrchr(host, ':');

	*ret_n = colon && !strchr(colon, ']') ? (size_t)(colon - host) : strlen(host);
	return host;
}

static const Envoy__Config__Listener__V3__FilterChain *edge_chain(const struct way *w)
{
	const Envoy__Config__Listener__V3__Listener *l = edge_listener(w);
	const Envoy__Config__Listener__V3__FilterChain *best = NULL;
	size_t n, fits = 0;
	const char *host = host_of(w, &n);

	for (size_t i = 0; l && i < l->n_filter_chains; i++) {
		const Envoy__Config__Listener__V3__FilterChainMatch *m =
			l->filter_chains[i]->filter_chain_match;

		for (size_t k = 0; k < (m && m->n_server_names ? m->n_server_names : 1); k++) {
			size_t how = host_fits(m && m->n_server_names ? m->server_names[k] : "*",
					       host, n);

			if (how > fits) {
				fits = how;
				best = l->filter_chains[i];
			}
		}
	}
	return best;
}

static const Envoy__Config__Listener__V3__FilterChain *chain_of(const struct way *w)
{
	const Envoy__Config__Listener__V3__Listener *l =
		find(w, &weft_xds_type_listener, "main_internal");

	if (!w->g->waypoint)
		return edge_chain(w);
	for (size_t i = 0; l && i < l->n_filter_chains; i++) {
		const Envoy__Config__Listener__V3__FilterChainMatch *m =
			l->filter_chains[i]->filter_chain_match;

		if (weft_cfg_u32(m->destination_port, 0) != w->t->dst.port)
			continue;
		for (size_t k = 0; k < m->n_prefix_ranges; k++)
			if (in_range(m->prefix_ranges[k], &w->t->dst.ip))
				return l->filter_chains[i];
	}
	return NULL;
}

/* ---- filters */

static void filter_add(struct way *w, const char *name, const char *verdict, const char *policy)
{
	json_array_append_new(w->filters,
			      json_pack("{s:s,s:s,s:o}", "filter", name, "verdict", verdict,
					"policy", policy ? json_string(policy) : json_null()));
}

/* One half of an RBAC filter; enforced: its verdict counts. */
static void rbac(struct way *w, const char *name, const Envoy__Config__Rbac__V3__RBAC *rules,
		 bool http, bool enforced)
{
	struct weft_rbac_conf conf = {.rules = rules,
				      .rules_field = "rules",
				      .matcher_field = "matcher",
				      .http = http ? &templates : NULL};
	struct weft_rbac_in in = {.conn = &w->io, .remote = w->io.remote, .h = http ? &w->h : NULL};
	struct weft_rbac_out out = {0};
	const struct weft_path at = {NULL, name, -1};
	const struct weft_rbac *r = NULL;
	char text[96];
	bool ok;

	if (!rules)
		return;
	if (weft_rbac_prepare(&w->c, &at, &conf, &r) || !r) {
		filter_add(w, name, "cannot be told", NULL);
		return;
	}
	ok = weft_rbac_allowed(r, &in, &out);
	snprintf(text, sizeof(text), "%s%s",
		 rules->action == ENVOY__CONFIG__RBAC__V3__RBAC__ACTION__LOG
			 ? (out.hint ? "logged" : "not logged")
		 : ok ? "allowed"
		      : "denied",
		 enforced ? "" : ", not enforced");
	filter_add(w, name, text, out.policy);
	w->denied = w->denied || (enforced && !ok);
}

static void
http_filter(struct way *w,
	    const Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpFilter *f)
{
	const ProtobufCMessage *m = weft_cfg_any(&w->c, NULL, f->typed_config, NULL);

	if (!m)
		return;
	if (m->descriptor == &envoy__extensions__filters__http__rbac__v3__rbac__descriptor) {
		const Envoy__Extensions__Filters__Http__Rbac__V3__RBAC *r = (const void *)m;

		rbac(w, f->name, r->rules, true, true);
		rbac(w, f->name, r->shadow_rules, true, false);
	} else if (strcmp(f->name, "envoy.filters.http.router") != 0) {
		filter_add(w, f->name,
			   !strcmp(f->name, "envoy.filters.http.ext_authz")
				   ? "asks an external authorizer, whose answer is not known here"
			   : !strcmp(f->name, "envoy.filters.http.jwt_authn")
				   ? "a token that is there must be valid; the request has none"
				   : "passes",
			   NULL);
	}
}

/* ---- routes */

static bool starts(const char *path, size_t n, const char *prefix, bool whole_segments)
{
	size_t len = strlen(prefix);

	return n >= len && !memcmp(path, prefix, len) &&
	       (!whole_segments || n == len || path[len] == '/');
}

static bool route_takes(struct way *w, const Envoy__Config__Route__V3__RouteMatch *m)
{
	const struct weft_path at = {NULL, "match", -1};
	const char *path = weft_headers_value(&w->h, WEFT_H_PATH), *q = strchr(path, '?');
	size_t n = q ? (size_t)(q - path) : strlen(path);
	const struct weft_hdrmatch *hm = NULL;
	const struct weft_querymatch *qm = NULL;
	const struct weft_regex *re = NULL;
	bool ok;

	switch (m->path_specifier_case) {
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_PREFIX:
		ok = starts(path, n, m->prefix, false);
		break;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_PATH_SEPARATED_PREFIX:
		ok = starts(path, n, m->path_separated_prefix, true);
		break;
	case ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_PATH:
		ok = strlen(m->path) == n && !memcmp(path, m->path, n);
		break;
	default:
		ok = m->path_specifier_case ==
			     ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_SAFE_REGEX &&
		     !weft_regex_compile(&w->c, &at, m->safe_regex->regex, &re) &&
		     weft_regex_full(re, path, n) == WEFT_MATCH_YES;
		break;
	}
	if (!ok || weft_hdrmatches_prepare(&w->c, &at, m->headers, m->n_headers, &hm) ||
	    weft_querymatches_prepare(&w->c, &at, m->query_parameters, m->n_query_parameters, &qm))
		return false;
	if (m->grpc &&
	    strncmp(weft_headers_value(&w->h, WEFT_H_CONTENT_TYPE), "application/grpc", 16) != 0)
		return false;
	return weft_hdrmatch_all(hm, m->n_headers, &w->h) == WEFT_MATCH_YES &&
	       weft_querymatch_all(qm, m->n_query_parameters, q ? q + 1 : "",
				   q ? strlen(q + 1) : 0) == WEFT_MATCH_YES;
}

static json_t *endpoints_of(struct way *w, const char *cluster)
{
	const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *m =
		find(w, &weft_xds_type_endpoint, cluster);
	json_t *v = json_array();

	for (size_t i = 0; m && i < m->n_endpoints; i++)
		for (size_t k = 0; k < m->endpoints[i]->n_lb_endpoints; k++) {
			const Envoy__Config__Endpoint__V3__LbEndpoint *e =
				m->endpoints[i]->lb_endpoints[k];
			const Envoy__Config__Core__V3__SocketAddress *a =
				e->endpoint->address->socket_address;
			const Google__Protobuf__Struct *h =
				weft_metadata_ns(e->metadata, "weft.hbone");
			const Google__Protobuf__Value *id =
				h ? weft_struct_get(h, "identity") : NULL;
			struct weft_sockaddr at = {.port = (uint16_t)a->port_value};
			char text[WEFT_SOCKADDR_TEXT];

			if (weft_ip_parse(a->address, &at.ip))
				continue;
			json_array_append_new(
				v,
				json_pack("{s:s,s:o}", "address",
					  weft_sockaddr_text(&at, text, sizeof(text)), "identity",
					  id ? json_string(id->string_value) : json_null()));
		}
	return v;
}

static void cluster_add(struct way *w, json_t *list, const char *name, uint32_t weight)
{
	json_array_append_new(list,
			      json_pack("{s:s,s:I,s:o}", "cluster", name, "weight",
					(json_int_t)weight, "endpoints", endpoints_of(w, name)));
}

static void route_told(struct way *w, const Route *r)
{
	json_t *list = json_array();
	char text[64] = "";
	bool forwards = r->action_case == ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_ROUTE;

	if (forwards &&
	    r->route->cluster_specifier_case ==
		    ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__CLUSTER_SPECIFIER_WEIGHTED_CLUSTERS)
		for (size_t i = 0; i < r->route->weighted_clusters->n_clusters; i++)
			cluster_add(
				w, list, r->route->weighted_clusters->clusters[i]->name,
				weft_cfg_u32(r->route->weighted_clusters->clusters[i]->weight, 1));
	else if (forwards)
		cluster_add(w, list, r->route->cluster, 1);
	else if (r->action_case == ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_DIRECT_RESPONSE)
		snprintf(text, sizeof(text), "answers %u", r->direct_response->status);
	else
		snprintf(text, sizeof(text), "redirects");
	json_object_set_new(w->out, "route", json_string(r->name));
	json_object_set_new(w->out, "action", *text ? json_string(text) : json_null());
	json_object_set_new(w->out, "clusters", list);
}

static void routes(struct way *w, const char *table)
{
	const Envoy__Config__Route__V3__RouteConfiguration *m =
		find(w, &weft_xds_type_route, table);
	const Envoy__Config__Route__V3__VirtualHost *vh = NULL;
	size_t n, fits = 0;
	const char *host = host_of(w, &n);

	for (size_t i = 0; m && i < m->n_virtual_hosts; i++) {
		size_t how = host_fits(m->virtual_hosts[i]->domains[0], host, n);

		if (how > fits) {
			fits = how;
			vh = m->virtual_hosts[i];
		}
	}
	for (size_t i = 0; vh && i < vh->n_routes; i++)
		if (route_takes(w, vh->routes[i]->match)) {
			route_told(w, vh->routes[i]);
			return;
		}
	json_object_set_new(w->out, "route", json_null());
	json_object_set_new(w->out, "action", json_string("answers 404: no route takes it"));
}

/* ---- a chain */

static void network_filter(struct way *w, const Envoy__Config__Listener__V3__Filter *f)
{
	const ProtobufCMessage *m = weft_cfg_any(&w->c, NULL, f->typed_config, NULL);

	if (!m)
		return;
	if (m->descriptor ==
	    &envoy__extensions__filters__network__http_connection_manager__v3__http_connection_manager__descriptor) {
		const Hcm *hcm = (const void *)m;

		json_object_set_new(w->out, "protocol", json_string("http"));
		for (size_t i = 0; i < hcm->n_http_filters; i++)
			http_filter(w, hcm->http_filters[i]);
		routes(w, hcm->rds->route_config_name);
	} else if (m->descriptor ==
		   &envoy__extensions__filters__network__rbac__v3__rbac__descriptor) {
		const Envoy__Extensions__Filters__Network__Rbac__V3__RBAC *r = (const void *)m;

		rbac(w, f->name, r->rules, false, true);
		rbac(w, f->name, r->shadow_rules, false, false);
	} else if (m->descriptor ==
		   &envoy__extensions__filters__network__tcp_proxy__v3__tcp_proxy__descriptor) {
		const Envoy__Extensions__Filters__Network__TcpProxy__V3__TcpProxy *p =
			(const void *)m;
		json_t *list = json_array();
		bool weighted =
			p->cluster_specifier_case ==
			ENVOY__EXTENSIONS__FILTERS__NETWORK__TCP_PROXY__V3__TCP_PROXY__CLUSTER_SPECIFIER_WEIGHTED_CLUSTERS;

		for (size_t i = 0; weighted && i < p->weighted_clusters->n_clusters; i++)
			cluster_add(w, list, p->weighted_clusters->clusters[i]->name,
				    p->weighted_clusters->clusters[i]->weight);
		if (!weighted)
			cluster_add(w, list, p->cluster, 1);
		json_object_set_new(w->out, "protocol", json_string("tcp"));
		json_object_set_new(w->out, "clusters", list);
	}
}

static void request(struct way *w, const struct weft_explain_http *http)
{
	char host[WEFT_SOCKADDR_TEXT];

	weft_headers_init(&w->h, w->c.arena);
	weft_headers_set_id(&w->h, WEFT_H_METHOD, http->method, strlen(http->method));
	weft_headers_set_id(&w->h, WEFT_H_PATH, http->path, strlen(http->path));
	weft_sockaddr_text(&w->t->dst, host, sizeof(host));
	weft_headers_set_id(&w->h, WEFT_H_AUTHORITY, host, strlen(host));
	for (const char *line = http->headers; line && *line;) {
		size_t n = strcspn(line, "\n");
		const char *colon = memchr(line, ':', n);

		if (colon && colon > line) {
			const char *v = colon + 1 + strspn(colon + 1, " ");
			size_t name_n = (size_t)(colon - line);

			if (name_n == 4 && !strncasecmp(line, "host", 4))
				weft_headers_set_id(&w->h, WEFT_H_AUTHORITY, v,
						    (size_t)(line + n - v));
			else
				weft_headers_add(&w->h, line, name_n, v, (size_t)(line + n - v));
		}
		line += n + (line[n] == '\n');
	}
}

static const struct weft_store_gateway *gateway_of(const struct explain *t)
{
	const struct weft_store_gateway *g;
	size_t n = weft_store_gateways(t->s, &g);

	for (size_t i = 0; i < n; i++)
		if (g[i].waypoint && t->route.endpoint &&
		    !strcmp(g[i].identity, t->route.endpoint->identity))
			return &g[i];
	return NULL;
}

/* The gateway whose address it is. */
static const struct weft_store_gateway *edge_of(struct way *w)
{
	const struct weft_store_gateway *g;
	size_t n = weft_store_gateways(w->t->s, &g);

	for (size_t i = 0; i < n; i++) {
		w->g = &g[i];
		if (!g[i].waypoint && edge_listens(w))
			return &g[i];
	}
	return NULL;
}

struct json_t *explain_waypoint(struct explain *t, const struct weft_explain_http *http)
{
	struct way w = {.t = t};
	const Envoy__Config__Listener__V3__FilterChain *chain;
	size_t n;

	if (!t->allow)
		return NULL;
	w.g = t->route.via_waypoint ? gateway_of(t) : edge_of(&w);
	if (!w.g)
		return NULL;
	t->edge = !w.g->waypoint;
	w.c = (struct weft_cfg){.arena = weft_arena_new(0), .errs = &w.errs};
	w.out = json_pack("{s:s,s:s,s:s,s:b}", "gateway", w.g->scope, "identity", w.g->identity,
			  "object", w.g->source, "waypoint", w.g->waypoint);
	w.filters = json_array();
	w.uris[0] = t->src ? t->src->identity : NULL;
	w.tls.peer_uri = w.uris;
	w.tls.peer_presented = w.tls.peer_verified = true;
	w.io = (struct weft_io_info){.local = t->dst,
				     .remote = {.ip = t->src_ip},
				     .direct_remote = {.ip = t->src_ip},
				     .sni = "",
				     .alpn = "",
				     .tls = w.g->waypoint ? &w.tls : NULL};
	request(&w, http);
	chain = chain_of(&w);
	json_object_set_new(w.out, "chain", chain ? json_string(chain->name) : json_null());
	json_object_set_new(w.out, "request", json_sprintf("%s %s", http->method, http->path));
	for (n = 0; chain && n < chain->n_filters; n++)
		network_filter(&w, chain->filters[n]);
	json_object_set_new(w.out, "filters", w.filters);
	if (!chain || w.denied) {
		t->allow = false;
		t->reason = chain ? WEFT_REASON_POLICY_DENY : WEFT_REASON_NO_ENDPOINT;
	}
	weft_arena_free(w.c.arena);
	return w.out;
}

/* ---- text */

static const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

void explain_waypoint_text(FILE *f, const json_t *w)
{
	const json_t *x, *e;
	bool http = !strcmp(str(w, "protocol"), "http");
	size_t i, k;

	fprintf(f, "%s     Gateway %s (%s), %s\n",
		json_is_true(json_object_get(w, "waypoint")) ? "waypoint" : "gateway ",
		str(w, "gateway"), str(w, "object"), str(w, "identity"));
	if (!*str(w, "chain")) {
		fprintf(f, "             has no filter chain for this address and port: refused\n");
		return;
	}
	fprintf(f, "             filter chain %s, %s%s%s\n", str(w, "chain"), str(w, "protocol"),
		http ? ", request " : "", http ? str(w, "request") : "");
	json_array_foreach(json_object_get(w, "filters"), i, x)
		fprintf(f, "             %s: %s%s%s\n", str(x, "filter"), str(x, "verdict"),
			*str(x, "policy") ? " by " : "", str(x, "policy"));
	if (http)
		fprintf(f, "route        %s%s%s\n", *str(w, "route") ? str(w, "route") : "none",
			*str(w, "action") ? ": " : "", str(w, "action"));
	json_array_foreach(json_object_get(w, "clusters"), i, x)
	{
		fprintf(f, "%s%s, weight %lld\n", i ? "             " : "cluster      ",
			str(x, "cluster"),
			(long long)json_integer_value(json_object_get(x, "weight")));
		json_array_foreach(json_object_get(x, "endpoints"), k, e) fprintf(
			f, "               %s %s\n", str(e, "address"),
			*str(e, "identity") ? str(e, "identity") : "plain, not in the mesh");
	}
}
