/* What a waypoint gets: where HBONE comes in, and a chain for each port of what it serves. */
#include "agent/gateway.h"

#include "xds/proto/envoy/config/listener/v3/listener.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/router/v3/router.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include "xds/proto/waypoint.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHAIN_PORT = 15001 }; /* of the listener that binds nowhere */
static const char inner[] = "main_internal";

static void listener_address(struct tr *t, void *m, const char *ip, uint32_t port)
{
	void *sa = eb_in(t->a, m, "address.socket_address");

	eb_str(t->a, sa, "address", ip);
	eb_num(t->a, sa, "port_value", port);
}

/* ---- HBONE in */

static void terminate_out(struct tr *t, struct tr_gateway *g)
{
	void *m = eb_new(t->a, &envoy__config__listener__v3__listener__descriptor);
	void *tls = eb_new(
		t->a,
		&envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor);
	void *hbone = eb_new(t->a, &weft__waypoint__hbone__descriptor);
	void *chain;
	bool v6 = false;

	for (size_t i = 0; i < g->n_addrs; i++)
		v6 = v6 || g->addrs[i].family == 6;
	eb_str(t->a, m, "name", "connect_terminate");
	listener_address(t, m, v6 ? "::" : "0.0.0.0", TR_HBONE_PORT);
	if (v6)
		eb_num(t->a, m, "address.socket_address.ipv4_compat", 1);
	eb_str(t->a, m, "traffic_direction", "INBOUND");
	chain = eb_in(t->a, m, "filter_chains");
	eb_str(t->a, chain, "name", "hbone");
	gw_tls(t, g, eb_in(t->a, tls, "common_tls_context"), "h2");
	eb_num(t->a, tls, "require_client_certificate", 1);
	eb_num(t->a, tls, "disable_stateless_session_resumption", 1);
	eb_num(t->a, tls, "disable_stateful_session_resumption", 1);
	eb_typed(t->a, eb_in(t->a, chain, "transport_socket"), "envoy.transport_sockets.tls", tls);
	eb_str(t->a, hbone, "listener", inner);
	eb_str(t->a, hbone, "trust_domains", t->mesh.trust_domain);
	eb_typed(t->a, eb_in(t->a, chain, "filters"), "weft.filters.network.hbone", hbone);
	gw_out(t, g, &weft_xds_type_listener, "connect_terminate", m, tr_source(t, g->o));
}

/* ---- chains */

static void router(struct tr *t, void *hcm)
{
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.router",
		 eb_new(t->a, &envoy__extensions__filters__http__router__v3__router__descriptor));
}

/* The client's identity for the application, where the Gateway says so; otherwise the header is
 * taken away, since nobody here would have set it. */
static void client_cert(struct tr *t, const struct tr_gateway *g, void *hcm)
{
	const char *v =
		weft_meta_annotation(g->o->meta, "ambient.istio.io/xfcc-include-client-identity");

	if (!v || strcmp(v, "true") != 0)
		return;
	eb_str(t->a, hcm, "forward_client_cert_details", "SANITIZE_SET");
	eb_num(t->a, hcm, "set_current_client_cert_details.uri", 1);
}

void *gw_hcm_new(struct tr *t, const struct tr_gateway *g, const char *name)
{
	void *hcm = eb_new(
		t->a,
		&envoy__extensions__filters__network__http_connection_manager__v3__http_connection_manager__descriptor);

	eb_str(t->a, hcm, "stat_prefix", name);
	eb_in(t->a, hcm, "rds.config_source.ads");
	eb_str(t->a, hcm, "rds.config_source.resource_api_version", "V3");
	eb_str(t->a, hcm, "rds.route_config_name", name);
	eb_num(t->a, hcm, "normalize_path", 1);
	eb_str(t->a, eb_in(t->a, hcm, "upgrade_configs"), "upgrade_type", "websocket");
	if (g->class == GW_EDGE) {
		eb_num(t->a, hcm, "use_remote_address", 1);
		eb_str(t->a, hcm, "path_with_escaped_slashes_action", "UNESCAPE_AND_REDIRECT");
		eb_num(t->a, hcm, "merge_slashes", 1);
		return hcm;
	}
	eb_str(t->a, hcm, "server_header_transformation", "PASS_THROUGH");
	/* the TLS around it is the mesh's, not the client's */
	eb_str(t->a, hcm, "scheme_header_transformation.scheme_to_overwrite", "http");
	client_cert(t, g, hcm);
	return hcm;
}

struct serving { /* one port of a service, or of a workload */
	struct gw_clusters *c;
	struct tr_svc *s;
	uint32_t port;
	const char *name, *cluster, *source;
	void *listener;
	bool http;
	const struct weft_object **http_routes, **grpc_routes, **tcp_routes;
	size_t n_http, n_grpc, n_tcp;
};

/* What no route of the folder takes goes to the service itself; once a route is attached, only what
 * it takes does. */
static void route_table(struct serving *x, bool *ret_cors)
{
	struct tr *t = x->c->t;
	void *m = eb_new(t->a, &envoy__config__route__v3__route_configuration__descriptor);
	void *vh = eb_in(t->a, m, "virtual_hosts"), *r;
	struct gw_routes routes = {.clusters = x->c, .port = (int)x->port};

	eb_str(t->a, m, "name", x->name);
	eb_str(t->a, vh, "name", x->name);
	eb_str(t->a, vh, "domains", "*");
	for (size_t i = 0; i < x->n_grpc; i++)
		gw_routes_add(&routes, x->grpc_routes[i]);
	for (size_t i = 0; i < x->n_http; i++)
		gw_routes_add(&routes, x->http_routes[i]);
	gw_routes_put(&routes, vh);
	if (!x->n_http && !x->n_grpc) {
		r = eb_in(t->a, vh, "routes");
		eb_str(t->a, r, "name", "default");
		eb_str(t->a, r, "match.prefix", "/");
		eb_str(t->a, r, "route.cluster", x->cluster);
		gw_route_defaults(t, eb_in(t->a, r, "route"));
	}
	*ret_cors = routes.cors;
	gw_out(t, x->c->g, &weft_xds_type_route, x->name, m, x->source);
}

static void chain_match(struct tr *t, void *chain, const uint8_t *addr, size_t len, uint32_t port)
{
	void *match = eb_in(t->a, chain, "filter_chain_match"), *range;
	char text[WEFT_IP_TEXT];
	struct weft_ip ip = {0};

	weft_ip_from_bytes(addr, len, &ip);
	range = eb_in(t->a, match, "prefix_ranges");
	eb_str(t->a, range, "address_prefix", weft_ip_text(&ip, text, sizeof(text)));
	eb_num(t->a, range, "prefix_len", len == 4 ? 32 : 128);
	eb_num(t->a, match, "destination_port", port);
}

static void chain_http(struct serving *x, void *chain)
{
	struct tr *t = x->c->t;
	void *hcm = gw_hcm_new(t, x->c->g, x->name);
	bool cors;

	route_table(x, &cors);
	gw_jwt_filter(t, x->c->g, x->s, hcm, x->c);
	gw_policy_filters(t, x->c->g, x->s, hcm, x->c);
	if (cors)
		gw_cors_filter(t, hcm);
	router(t, hcm);
	eb_typed(t->a, eb_in(t->a, chain, "filters"),
		 "envoy.filters.network.http_connection_manager", hcm);
}

static void chain_tcp(struct serving *x, void *chain)
{
	struct tr *t = x->c->t;
	void *tcp = eb_new(
		t->a, &envoy__extensions__filters__network__tcp_proxy__v3__tcp_proxy__descriptor);

	eb_str(t->a, tcp, "stat_prefix", x->name);
	if (!x->n_tcp || !gw_stream_backends(x->c, x->tcp_routes[0], tcp))
		eb_str(t->a, tcp, "cluster", x->n_tcp ? "no-backend" : x->cluster);
	gw_policy_filters_tcp(t, x->c->g, x->s, chain);
	eb_typed(t->a, eb_in(t->a, chain, "filters"), "envoy.filters.network.tcp_proxy", tcp);
}

static void *chain_begin(struct serving *x)
{
	void *chain = eb_in(x->c->t->a, x->listener, "filter_chains");

	eb_str(x->c->t->a, chain, "name", x->name);
	return chain;
}

static void service_port(struct gw_clusters *c, void *listener, struct tr_svc *s,
			 const Istio__Workload__Port *p)
{
	struct tr *t = c->t;
	struct serving *x = weft_arena_alloc(t->a, sizeof(*x));
	void *chain;

	*x = (struct serving){.c = c, .s = s, .port = p->service_port, .listener = listener};
	x->source = tr_source(t, s->o);
	x->n_http = gw_attached_service(t, s, x->port, WEFT_KIND_HTTP_ROUTE, &x->http_routes);
	x->n_grpc = gw_attached_service(t, s, x->port, WEFT_KIND_GRPC_ROUTE, &x->grpc_routes);
	x->n_tcp = gw_attached_service(t, s, x->port, WEFT_KIND_TCP_ROUTE, &x->tcp_routes);
	if (!x->n_tcp)
		x->n_tcp = gw_attached_service(t, s, x->port, WEFT_KIND_TLS_ROUTE, &x->tcp_routes);
	x->http = gw_is_http(p) || x->n_http || x->n_grpc;
	x->cluster = gw_cluster(c, s, x->port);
	x->name = x->cluster;
	chain = chain_begin(x);
	for (size_t i = 0; i < s->s->n_addresses; i++)
		chain_match(t, chain, s->s->addresses[i]->address.data,
			    s->s->addresses[i]->address.len, x->port);
	if (x->http)
		chain_http(x, chain);
	else
		chain_tcp(x, chain);
}

/* The ports of a pod that are known: its containers', and those its services lead to. */
static void pod_ports(struct tr *t, const struct tr_pod *p, uint32_t **ports, size_t *n,
		      bool **http)
{
	size_t n_http = 0;

	for (size_t i = 0; i < p->w->n_services; i++) {
		const char *slash = strchr(p->w->services[i]->key, '/');
		const struct tr_svc *s = slash ? tr_svc_by_host(t, slash + 1) : NULL;
		const struct tr_member m = {p->w, p->w->services[i]->value};

		for (size_t j = 0; s && j < s->s->n_ports; j++) {
			uint32_t to = gw_member_port(&m, s->s->ports[j]);
			size_t have = 0;

			while (have < *n && (*ports)[have] != to)
				have++;
			if (!to || have < *n)
				continue;
			TR_ADD(t, *ports, *n, to);
			TR_ADD(t, *http, n_http, gw_is_http(s->s->ports[j]));
		}
	}
	for (size_t i = 0; i < p->pod->spec->n_containers; i++)
		for (size_t k = 0; k < p->pod->spec->containers[i]->n_ports; k++) {
			uint32_t to =
				(uint32_t)p->pod->spec->containers[i]->ports[k]->container_port;
			size_t have = 0;

			while (have < *n && (*ports)[have] != to)
				have++;
			if (have < *n)
				continue;
			TR_ADD(t, *ports, *n, to);
			TR_ADD(t, *http, n_http, false);
		}
}

static void workload_chains(struct gw_clusters *c, void *listener, const struct tr_pod *p)
{
	struct tr *t = c->t;
	uint32_t *ports = NULL;
	bool *http = NULL;
	size_t n = 0;

	pod_ports(t, p, &ports, &n, &http);
	for (size_t i = 0; i < n; i++) {
		struct serving *x = weft_arena_alloc(t->a, sizeof(*x));
		void *chain;

		*x = (struct serving){.c = c, .port = ports[i], .listener = listener};
		x->http = http[i];
		x->source = p->source;
		x->name = x->cluster = gw_cluster_workload(c, p->w, ports[i]);
		chain = chain_begin(x);
		for (size_t k = 0; k < p->w->n_addresses; k++)
			chain_match(t, chain, p->w->addresses[k].data, p->w->addresses[k].len,
				    ports[i]);
		if (x->http)
			chain_http(x, chain);
		else
			chain_tcp(x, chain);
	}
}

void gw_waypoint_out(struct tr *t, struct tr_gateway *g)
{
	struct gw_clusters c = {.t = t, .g = g};
	void *m = eb_new(t->a, &envoy__config__listener__v3__listener__descriptor);

	terminate_out(t, g);
	eb_str(t->a, m, "name", inner);
	listener_address(t, m, "0.0.0.0", CHAIN_PORT);
	eb_num(t->a, m, "bind_to_port", 0);
	eb_str(t->a, m, "traffic_direction", "INBOUND");
	for (size_t i = 0; i < t->n_svcs; i++) {
		struct tr_svc *s = &t->svcs[i];

		if ((s->gw != g && s->gw2 != g) || !s->s->n_addresses)
			continue;
		for (size_t k = 0; k < s->s->n_ports; k++)
			service_port(&c, m, s, s->s->ports[k]);
	}
	for (size_t i = 0; i < t->n_pods; i++)
		if (t->pods[i].live && t->pods[i].gw == g)
			workload_chains(&c, m, &t->pods[i]);
	if (((const Envoy__Config__Listener__V3__Listener *)m)->n_filter_chains)
		gw_out(t, g, &weft_xds_type_listener, inner, m, tr_source(t, g->o));
	gw_clusters_done(&c);
}
