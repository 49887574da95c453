/* Services → Clusters and their endpoints, of one Gateway. Pods of the mesh are reached inside
 * HBONE by their own node's proxy, with exactly their identity; others plainly. */
#include "agent/gateway.h"
#include "xds/names.h"

#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/proto/envoy/config/endpoint/v3/endpoint.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include "xds/proto/envoy/extensions/upstreams/http/v3/http_protocol_options.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECT_MS = 10000 };

void gw_out(struct tr *t, const struct tr_gateway *g, const struct weft_xds_type *type,
	    const char *name, const void *m, const char *source)
{
	tr_out(t, type, weft_arena_strdup(t->a, name), m, NULL, source);
	t->out[t->n_out - 1].scope = g->scope;
}

const Istio__Workload__Port *gw_port(const struct tr_svc *s, uint32_t port)
{
	for (size_t i = 0; i < s->s->n_ports; i++)
		if (s->s->ports[i]->service_port == port)
			return s->s->ports[i];
	return NULL;
}

bool gw_is_http(const Istio__Workload__Port *p)
{
	return p->app_protocol == ISTIO__WORKLOAD__APP_PROTOCOL__HTTP11 ||
	       p->app_protocol == ISTIO__WORKLOAD__APP_PROTOCOL__HTTP2 ||
	       p->app_protocol == ISTIO__WORKLOAD__APP_PROTOCOL__GRPC;
}

void gw_tls(struct tr *t, const struct tr_gateway *g, void *common, const char *alpn)
{
	void *s = eb_in(t->a, common, "tls_certificate_sds_secret_configs");

	eb_str(t->a, s, "name", g->identity);
	eb_in(t->a, s, "sds_config.ads");
	eb_str(t->a, s, "sds_config.resource_api_version", "V3");
	s = eb_in(t->a, common, "validation_context_sds_secret_config");
	eb_str(t->a, s, "name", "ROOTCA");
	eb_in(t->a, s, "sds_config.ads");
	eb_str(t->a, s, "sds_config.resource_api_version", "V3");
	eb_str(t->a, common, "alpn_protocols", alpn);
	eb_str(t->a, common, "tls_params.tls_minimum_protocol_version", "TLSv1_3");
	eb_str(t->a, common, "tls_params.tls_maximum_protocol_version", "TLSv1_3");
}

static void trust_system(struct weft_arena *a, void *validation)
{
	eb_in(a, validation, "system_root_certs");
}

void gw_san_is(struct weft_arena *a, void *validation, const char *type, const char *value)
{
	void *m = eb_in(a, validation, "match_typed_subject_alt_names");

	eb_str(a, m, "san_type", type);
	eb_str(a, m, "matcher.exact", value);
}

/* ---- endpoints */

static const char *identity_of(struct tr *t, const Istio__Workload__Workload *w)
{
	return weft_arena_printf(t->a, "spiffe://%s/ns/%s/sa/%s",
				 w->trust_domain ? w->trust_domain : "cluster.local", w->namespace_,
				 w->service_account ? w->service_account : "default");
}

static bool tunnels(const Istio__Workload__Workload *w)
{
	return w->tunnel_protocol == ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
}

static void endpoint_add(struct gw_clusters *c, void *locality, const Istio__Workload__Workload *w,
			 const ProtobufCBinaryData *addr, uint32_t port)
{
	struct weft_arena *a = c->t->a;
	void *e = eb_in(a, locality, "lb_endpoints");
	void *sa = eb_in(a, e, "endpoint.address.socket_address");
	char text[WEFT_IP_TEXT];
	struct weft_ip ip = {0};

	weft_ip_from_bytes(addr->data, addr->len, &ip);
	eb_str(a, sa, "address", weft_ip_text(&ip, text, sizeof(text)));
	eb_num(a, sa, "port_value", port);
	if (w->capacity && w->capacity->has_value)
		eb_num(a, e, "load_balancing_weight", w->capacity->value);
	if (!tunnels(w))
		return;
	eb_meta(a, e, "envoy.transport_socket_match", "tunnel", "hbone");
	eb_meta(a, e, "weft.hbone", "tunnel", "15008");
	eb_meta(a, e, "weft.hbone", "identity", identity_of(c->t, w));
}

uint32_t gw_member_port(const struct tr_member *m, const Istio__Workload__Port *p)
{
	for (size_t i = 0; i < m->ports->n_ports; i++)
		if (m->ports->ports[i]->service_port == p->service_port)
			return m->ports->ports[i]->target_port;
	return p->has_target_port ? p->target_port : 0;
}

static const ProtobufCBinaryData *member_addr(const struct tr_svc *s,
					      const Istio__Workload__Workload *w)
{
	size_t want = s && s->s->n_addresses ? s->s->addresses[0]->address.len : 4;

	for (size_t i = 0; i < w->n_addresses; i++)
		if (w->addresses[i].len == want)
			return &w->addresses[i];
	return w->n_addresses ? &w->addresses[0] : NULL;
}

static void *assignment_new(struct gw_clusters *c, const char *name)
{
	void *m =
		eb_new(c->t->a, &envoy__config__endpoint__v3__cluster_load_assignment__descriptor);

	eb_str(c->t->a, m, "cluster_name", name);
	return m;
}

static bool text_same(const char *a, const char *b)
{
	return !strcmp(a ? a : "", b ? b : "");
}

/* The group of endpoints of a workload's region, zone and subzone. */
static void *locality_of(struct gw_clusters *c, void *m, const Istio__Workload__Workload *w)
{
	const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *a = m;
	const Istio__Workload__Locality *l = w->locality;
	const char *v[3] = {l ? l->region : NULL, l ? l->zone : NULL, l ? l->subzone : NULL};
	void *to;

	for (size_t i = 0; i < a->n_endpoints; i++) {
		const Envoy__Config__Core__V3__Locality *at = a->endpoints[i]->locality;

		if (text_same(at ? at->region : NULL, v[0]) &&
		    text_same(at ? at->zone : NULL, v[1]) &&
		    text_same(at ? at->sub_zone : NULL, v[2]))
			return a->endpoints[i];
	}
	to = eb_in(c->t->a, m, "endpoints");
	if (l) {
		eb_str(c->t->a, to, "locality.region", v[0]);
		eb_str(c->t->a, to, "locality.zone", v[1]);
		eb_str(c->t->a, to, "locality.sub_zone", v[2]);
	}
	return to;
}

/* Through the service's own waypoint: one endpoint an address of it, which is told the VIP. */
static void endpoints_waypoint(struct gw_clusters *c, const struct tr_svc *s, uint32_t port,
			       void *m)
{
	struct weft_arena *a = c->t->a;
	const ProtobufCBinaryData *vip = &s->s->addresses[0]->address;
	const struct tr_svc *of = tr_svc_find(c->t, s->gw->ns, s->gw->name);
	char text[WEFT_IP_TEXT], *authority;
	struct weft_ip ip = {0};
	void *locality = NULL;

	weft_ip_from_bytes(vip->data, vip->len, &ip);
	authority = weft_arena_printf(a, ip.family == 6 ? "[%s]:%u" : "%s:%u",
				      weft_ip_text(&ip, text, sizeof(text)), port);
	for (size_t i = 0; i < (of ? of->n_members : s->gw->n_addrs); i++) {
		const ProtobufCBinaryData *addr = of ? member_addr(of, of->members[i].w) : NULL;
		const struct weft_ip *at = of ? &ip : &s->gw->addrs[i];
		void *e, *sa;

		if (of && (!addr || weft_ip_from_bytes(addr->data, addr->len, &ip)))
			continue;
		if (!locality)
			locality = eb_in(a, m, "endpoints");
		e = eb_in(a, locality, "lb_endpoints");
		sa = eb_in(a, e, "endpoint.address.socket_address");
		eb_str(a, sa, "address", weft_ip_text(at, text, sizeof(text)));
		eb_num(a, sa, "port_value", TR_HBONE_PORT);
		eb_meta(a, e, "envoy.transport_socket_match", "tunnel", "hbone");
		eb_meta(a, e, "weft.hbone", "tunnel", "15008");
		eb_meta(a, e, "weft.hbone", "authority", authority);
		eb_meta(a, e, "weft.hbone", "identity", s->gw->identity);
	}
}

/* What its destinations would refuse from elsewhere goes through the waypoint, and what is asked
 * to. */
static bool via_waypoint(const struct gw_clusters *c, const struct tr_svc *s)
{
	const char *label = weft_meta_label(s->o->meta, "istio.io/ingress-use-waypoint");

	return s->gw && s->gw != c->g && s->gw2 != c->g && s->s->n_addresses &&
	       (tr_requires_waypoint(c->t, s->l7) || (label && !strcmp(label, "true")));
}

/* As node proxies choose: one that is not healthy is not there, unless the service says otherwise.
 */
static void endpoints_out(struct gw_clusters *c, const struct tr_svc *s,
			  const Istio__Workload__Port *p, const char *name, bool own_tls)
{
	const char *source = tr_source(c->t, s->o);
	const Istio__Workload__LoadBalancing *lb = s->s->load_balancing;
	bool all = lb &&
		   lb->health_policy == ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
	void *m = assignment_new(c, name);

	if (!own_tls && via_waypoint(c, s)) {
		endpoints_waypoint(c, s, p->service_port, m);
		gw_out(c->t, c->g, &weft_xds_type_endpoint, name, m, source);
		return;
	}
	for (size_t i = 0; i < s->n_members; i++) {
		const Istio__Workload__Workload *w = s->members[i].w;
		const ProtobufCBinaryData *addr = member_addr(s, w);
		uint32_t port = gw_member_port(&s->members[i], p);

		if (own_tls && tunnels(w)) /* told by tls_usable */
			continue;
		if (!addr || !port ||
		    (!all && w->status == ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY))
			continue;
		endpoint_add(c, locality_of(c, m, w), w, addr, port);
	}
	gw_out(c->t, c->g, &weft_xds_type_endpoint, name, m, source);
}

/* ---- clusters */

static void transport(struct gw_clusters *c, void *m)
{
	struct weft_arena *a = c->t->a;
	void *tls = eb_new(
		a,
		&envoy__extensions__transport_sockets__tls__v3__upstream_tls_context__descriptor);
	void *match = eb_in(a, m, "transport_socket_matches");

	gw_tls(c->t, c->g, eb_in(a, tls, "common_tls_context"), "h2");
	eb_str(a, match, "name", "hbone");
	eb_struct(a, match, "match", "tunnel", "hbone");
	eb_typed(a, eb_in(a, match, "transport_socket"), "envoy.transport_sockets.tls", tls);
}

/* What HTTP the application speaks. */
static void protocol(struct gw_clusters *c, void *m, const Istio__Workload__Port *p)
{
	struct weft_arena *a = c->t->a;
	void *o = eb_new(
		a, &envoy__extensions__upstreams__http__v3__http_protocol_options__descriptor);
	void *e;

	if (p && (p->app_protocol == ISTIO__WORKLOAD__APP_PROTOCOL__HTTP2 ||
		  p->app_protocol == ISTIO__WORKLOAD__APP_PROTOCOL__GRPC))
		eb_in(a, o, "explicit_http_config.http2_protocol_options");
	else if (p && p->app_protocol == ISTIO__WORKLOAD__APP_PROTOCOL__HTTP11)
		eb_in(a, o, "explicit_http_config.http_protocol_options");
	else {
		eb_in(a, o, "use_downstream_protocol_config.http_protocol_options");
		eb_in(a, o, "use_downstream_protocol_config.http2_protocol_options");
	}
	e = eb_in(a, m, "typed_extension_protocol_options");
	eb_str(a, e, "key", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
	eb_any(a, e, "value", o);
}

static void *cluster_new(struct gw_clusters *c, const char *name)
{
	struct weft_arena *a = c->t->a;
	void *m = eb_new(a, &envoy__config__cluster__v3__cluster__descriptor);

	eb_str(a, m, "name", name);
	eb_str(a, m, "type", "EDS");
	eb_in(a, m, "eds_cluster_config.eds_config.ads");
	eb_str(a, m, "eds_cluster_config.eds_config.resource_api_version", "V3");
	eb_ms(a, m, "connect_timeout", CONNECT_MS);
	eb_str(a, m, "lb_policy", "LEAST_REQUEST");
	return m;
}

struct gw_cluster_name {
	const char *name;
	UT_hash_handle hh;
};

static bool known(struct gw_clusters *c, const char *name)
{
	size_t n = strlen(name);
	struct gw_cluster_name *e;

	HASH_FIND(hh, c->names, name, n, e);
	if (e)
		return true;
	e = weft_arena_alloc(c->t->a, sizeof(*e));
	*e = (struct gw_cluster_name){.name = name};
	HASH_ADD_KEYPTR(hh, c->names, e->name, n, e);
	return false;
}

void gw_clusters_done(struct gw_clusters *c)
{
	HASH_CLEAR(hh, c->names);
}

const char *gw_cluster(struct gw_clusters *c, struct tr_svc *s, uint32_t port)
{
	const Istio__Workload__Port *p = gw_port(s, port);
	const char *source = tr_source(c->t, s->o), *name;
	bool own = s->gw == c->g || s->gw2 == c->g;
	const struct gw_tls_policy *policy;
	void *m;

	if (!p)
		return NULL;
	policy = gw_backend_tls_of(c->t, c->g, s, port);
	if (own)
		name = weft_arena_printf(c->t->a, "inbound-vip|%u|%s|%s", port,
					 gw_is_http(p) ? "http" : "tcp", s->s->hostname);
	else
		name = weft_arena_printf(c->t->a, "outbound|%u||%s", port, s->s->hostname);
	if (known(c, name))
		return name;
	m = cluster_new(c, name);
	if (policy)
		gw_backend_tls_put(c->t, m, policy);
	else
		transport(c, m);
	protocol(c, m, p);
	gw_out(c->t, c->g, &weft_xds_type_cluster, name, m, source);
	if (policy && !gw_backend_tls_usable(policy))
		gw_out(c->t, c->g, &weft_xds_type_endpoint, name, assignment_new(c, name), source);
	else
		endpoints_out(c, s, p, name, policy != NULL);
	return name;
}

const char *gw_cluster_workload(struct gw_clusters *c, Istio__Workload__Workload *w, uint32_t port)
{
	struct weft_arena *a = c->t->a;
	const char *name =
		weft_arena_printf(a, "inbound-pod|%u||%s.%s", port, w->name, w->namespace_);
	void *m, *e;

	if (!w->n_addresses || known(c, name))
		return name;
	m = cluster_new(c, name);
	transport(c, m);
	gw_out(c->t, c->g, &weft_xds_type_cluster, name, m, "");
	e = assignment_new(c, name);
	endpoint_add(c, eb_in(a, e, "endpoints"), w, &w->addresses[0], port);
	gw_out(c->t, c->g, &weft_xds_type_endpoint, name, e, "");
	return name;
}

const char *gw_cluster_dns(struct gw_clusters *c, const char *host, uint32_t port, bool tls)
{
	struct weft_arena *a = c->t->a;
	const char *name = weft_arena_printf(a, "outbound|%u|%s|%s", port, tls ? "tls" : "", host);
	void *m, *sa, *ctx;

	if (known(c, name))
		return name;
	m = eb_new(a, &envoy__config__cluster__v3__cluster__descriptor);
	eb_str(a, m, "name", name);
	eb_str(a, m, "type", "STRICT_DNS");
	eb_ms(a, m, "connect_timeout", CONNECT_MS);
	eb_str(a, m, "load_assignment.cluster_name", name);
	sa = eb_in(a, m, "load_assignment.endpoints.lb_endpoints.endpoint.address.socket_address");
	eb_str(a, sa, "address", host);
	eb_num(a, sa, "port_value", port);
	if (tls) {
		ctx = eb_new(
			a,
			&envoy__extensions__transport_sockets__tls__v3__upstream_tls_context__descriptor);
		eb_str(a, ctx, "sni", host);
		trust_system(a, eb_in(a, ctx, "common_tls_context.validation_context"));
		gw_san_is(a, eb_in(a, ctx, "common_tls_context.validation_context"), "DNS", host);
		eb_typed(a, eb_in(a, m, "transport_socket"), "envoy.transport_sockets.tls", ctx);
	}
	gw_out(c->t, c->g, &weft_xds_type_cluster, name, m, "");
	return name;
}
