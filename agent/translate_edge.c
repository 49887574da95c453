/* What a gateway at the edge of the mesh gets: a listener for each port of its listeners, their
 * certificates, and the routes that are attached. */
#include "agent/gateway.h"

#include "xds/proto/envoy/config/listener/v3/listener.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/router/v3/router.pb-c.h"
#include "xds/proto/envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/secret.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct edge {
	struct gw_clusters c;
	void *m; /* the Envoy listener */
	int port;
	const char *source;
	bool inspect; /* server names are looked at */
};

static bool is(const struct gw_listener *l, const char *protocol)
{
	return !strcmp(l->l->protocol, protocol);
}

static bool passes(const struct gw_listener *l)
{
	return l->l->tls && l->l->tls->mode && !strcmp(l->l->tls->mode, "Passthrough");
}

/* ---- certificates */

/* stringData is text, and comes first; data is bytes. NULL: neither has it. */
static const char *secret_value(struct tr *t, const Weft__Kube__Secret *s, const char *key)
{
	for (size_t i = 0; i < s->n_string_data; i++)
		if (!strcmp(s->string_data[i]->key, key))
			return s->string_data[i]->value;
	for (size_t i = 0; i < s->n_data; i++)
		if (!strcmp(s->data[i]->key, key))
			return weft_arena_strndup(t->a, (const char *)s->data[i]->value.data,
						  s->data[i]->value.len);
	return NULL;
}

/* The name by which the waypoint asks for it; NULL: why not is in the listener. */
static const char *certificate(struct edge *x, struct gw_listener *l,
			       const Weft__Kube__SecretRef *r)
{
	struct tr *t = x->c.t;
	const char *ns = r->namespace_ && *r->namespace_ ? r->namespace_ : x->c.g->ns;
	const struct weft_object *o = weft_objects_find(t->objs, WEFT_KIND_SECRET, ns, r->name);
	const Weft__Kube__Secret *s = o ? (const Weft__Kube__Secret *)o->msg : NULL;
	const char *name = weft_arena_printf(t->a, "secret|%s/%s", ns, r->name), *crt, *key;
	void *m;

	if (!gw_granted(t, "gateway.networking.k8s.io", "Gateway", x->c.g->ns, "Secret", ns,
			r->name)) {
		l->unresolved = "a Secret of another namespace needs a ReferenceGrant";
		return NULL;
	}
	crt = s ? secret_value(t, s, "tls.crt") : NULL;
	key = s ? secret_value(t, s, "tls.key") : NULL;
	if (!crt || !key || !strstr(crt, "-----BEGIN CERTIFICATE") ||
	    !strstr(key, "PRIVATE KEY-----") || (s->type && strcmp(s->type, "kubernetes.io/tls"))) {
		l->unresolved = weft_arena_printf(
			t->a, "Secret %s/%s %s", ns, r->name,
			s ? "is no kubernetes.io/tls with tls.crt and tls.key" : "is not there");
		return NULL;
	}
	m = eb_new(t->a, &envoy__extensions__transport_sockets__tls__v3__secret__descriptor);
	eb_str(t->a, m, "name", name);
	eb_str(t->a, m, "tls_certificate.certificate_chain.inline_bytes", crt);
	eb_str(t->a, m, "tls_certificate.private_key.inline_bytes", key);
	for (size_t i = 0; i < t->n_out; i++) /* two listeners may share it */
		if (t->out[i].type == &weft_xds_type_tls_secret &&
		    !strcmp(t->out[i].scope, x->c.g->scope) && !strcmp(t->out[i].name, name))
			return name;
	gw_out(t, x->c.g, &weft_xds_type_tls_secret, name, m, tr_source(t, o));
	return name;
}

/* False: not one of its certificates can be used. */
static bool terminate(struct edge *x, struct gw_listener *l, void *chain, bool http)
{
	struct tr *t = x->c.t;
	const Weft__Kube__ListenerTls *tls = l->l->tls;
	void *m = eb_new(
		t->a,
		&envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor);
	size_t n = 0;

	for (size_t i = 0; i < tls->n_certificate_refs; i++) {
		const char *name = certificate(x, l, tls->certificate_refs[i]);
		void *s;

		if (!name)
			continue;
		s = eb_in(t->a, m, "common_tls_context.tls_certificate_sds_secret_configs");
		eb_str(t->a, s, "name", name);
		eb_in(t->a, s, "sds_config.ads");
		eb_str(t->a, s, "sds_config.resource_api_version", "V3");
		n++;
	}
	if (http) {
		eb_str(t->a, m, "common_tls_context.alpn_protocols", "h2");
		eb_str(t->a, m, "common_tls_context.alpn_protocols", "http/1.1");
	}
	eb_typed(t->a, eb_in(t->a, chain, "transport_socket"), "envoy.transport_sockets.tls", m);
	return n > 0;
}

/* ---- HTTP */

static bool in(const char *const *v, size_t n, const char *s)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(v[i], s))
			return true;
	return false;
}

/* Of one listener, or of all HTTP listeners of the port. */
static bool wanted(const struct edge *x, int listener, int only)
{
	const struct gw_listener *l = &x->c.g->listeners[listener];

	return only >= 0 ? listener == only
			 : !l->reason && !l->conflict && l->l->port == x->port && is(l, "HTTP");
}

static const char *host_of(const struct gw_listener *l)
{
	return l->l->hostname && *l->l->hostname ? l->l->hostname : "*";
}

/* The listener that takes requests for the hostname: that with the narrowest. */
static int listener_of(const struct edge *x, const char *host, int only)
{
	int best = -1;

	for (int i = 0; i < (int)x->c.g->n_listeners; i++) {
		const char *mine = host_of(&x->c.g->listeners[i]);
		const char *met = wanted(x, i, only) ? gw_host_meet(mine, host) : NULL;

		if (met && !strcmp(met, host) &&
		    (best < 0 || strlen(mine) > strlen(host_of(&x->c.g->listeners[best])) ||
		     !strcmp(mine, host)))
			best = i;
	}
	return best;
}

struct hosted {
	const char *host;
	const struct gw_attach *a; /* NULL: a listener's own */
	size_t seq;
};

static int hosted_order(const void *pa, const void *pb)
{
	const struct hosted *a = pa, *b = pb;
	int c = strcmp(a->host, b->host);

	return c ? c : a->seq < b->seq ? -1 : a->seq > b->seq;
}

/* Every hostname of the table with each route that has it. The hostnames of its listeners are there
 * too, so that what one of them takes never falls to another. */
static struct hosted *hosted_all(struct edge *x, int only, size_t *ret_n)
{
	struct tr *t = x->c.t;
	struct hosted *v = NULL;
	size_t n = 0, n_a;
	const struct gw_attach *a = gw_attached(t, x->c.g, &n_a);
	int listeners = 0;

	for (size_t i = 0; i < n_a; i++)
		for (size_t k = 0; wanted(x, a[i].listener, only) && k < a[i].n_hostnames; k++)
			TR_ADD(t, v, n, ((struct hosted){a[i].hostnames[k], &a[i], n}));
	for (size_t i = 0; i < x->c.g->n_listeners; i++)
		listeners += wanted(x, (int)i, only);
	for (size_t i = 0; listeners > 1 && i < x->c.g->n_listeners; i++)
		if (wanted(x, (int)i, only))
			TR_ADD(t, v, n, ((struct hosted){host_of(&x->c.g->listeners[i]), NULL, n}));
	if (n)
		qsort(v, n, sizeof(*v), hosted_order);
	*ret_n = n;
	return v;
}

static size_t first_of(const struct hosted *v, size_t n, const char *host)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(v[mid].host, host) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Routes with the hostname itself come before those with a wildcard around it, whatever they
 * match. */
static bool vhost(struct edge *x, void *vh, const char *host, const struct hosted *v, size_t n,
		  int listener)
{
	struct gw_routes routes = {.clusters = &x->c, .port = x->port};

	eb_str(x->c.t->a, vh, "name", host);
	eb_str(x->c.t->a, vh, "domains", host);
	for (const char *h = host; h; h = gw_host_wider(x->c.t, h), routes.host++) {
		const struct weft_object *last = NULL;

		for (size_t i = first_of(v, n, h); i < n && !strcmp(v[i].host, h); i++) {
			if (!v[i].a || v[i].a->listener != listener || v[i].a->o == last)
				continue;
			last = v[i].a->o;
			gw_routes_add(&routes, last);
		}
		if (gw_routes_all(&routes))
			break;
	}
	gw_routes_put(&routes, vh);
	return routes.cors;
}

static bool table(struct edge *x, const char *name, int only)
{
	struct tr *t = x->c.t;
	void *m = eb_new(t->a, &envoy__config__route__v3__route_configuration__descriptor);
	size_t n;
	struct hosted *v = hosted_all(x, only, &n);
	bool cors = false;

	eb_str(t->a, m, "name", name);
	eb_num(t->a, m, "ignore_port_in_host_matching", 1);
	for (size_t i = 0; i < n; i++)
		if (!i || strcmp(v[i].host, v[i - 1].host) != 0)
			cors |= vhost(x, eb_in(t->a, m, "virtual_hosts"), v[i].host, v, n,
				      listener_of(x, v[i].host, only));
	gw_out(t, x->c.g, &weft_xds_type_route, name, m, x->source);
	return cors;
}

static void http(struct edge *x, void *chain, const char *name, int only)
{
	struct tr *t = x->c.t;
	void *hcm = gw_hcm_new(t, x->c.g, name);
	bool cors = table(x, name, only);

	gw_jwt_filter(t, x->c.g, NULL, hcm, &x->c);
	gw_policy_filters(t, x->c.g, NULL, hcm, &x->c);
	if (cors)
		gw_cors_filter(t, hcm);
	eb_typed(t->a, eb_in(t->a, hcm, "http_filters"), "envoy.filters.http.router",
		 eb_new(t->a, &envoy__extensions__filters__http__router__v3__router__descriptor));
	eb_typed(t->a, eb_in(t->a, chain, "filters"),
		 "envoy.filters.network.http_connection_manager", hcm);
}

/* ---- connections */

static void tcp(struct edge *x, void *chain, const struct weft_object *o, const char *name)
{
	struct tr *t = x->c.t;
	void *m = eb_new(
		t->a, &envoy__extensions__filters__network__tcp_proxy__v3__tcp_proxy__descriptor);

	eb_str(t->a, m, "stat_prefix", name);
	if (!o || !gw_stream_backends(&x->c, o, m))
		eb_str(t->a, m, "cluster", "no-backend");
	gw_policy_filters_tcp(t, x->c.g, NULL, chain);
	eb_typed(t->a, eb_in(t->a, chain, "filters"), "envoy.filters.network.tcp_proxy", m);
}

/* The first route attached to the listener, of those for connections. */
static const struct weft_object *first_route(struct edge *x, int listener)
{
	size_t n;
	const struct gw_attach *a = gw_attached(x->c.t, x->c.g, &n);

	for (; n; a++, n--)
		if (a->listener == listener)
			return a->o;
	return NULL;
}

static void server_names(struct edge *x, void *chain, const char *const *v, size_t n)
{
	struct tr *t = x->c.t;

	eb_str(t->a, chain, "filter_chain_match.transport_protocol", "tls");
	x->inspect = true;
	for (size_t i = 0; i < n; i++)
		if (strcmp(v[i], "*") != 0)
			eb_str(t->a, chain, "filter_chain_match.server_names", v[i]);
}

static void *chain_new(struct edge *x, const char *name)
{
	void *chain = eb_new(x->c.t->a, &envoy__config__listener__v3__filter_chain__descriptor);

	eb_str(x->c.t->a, chain, "name", name);
	return chain;
}

static void chain_put(struct edge *x, void *chain)
{
	Envoy__Config__Listener__V3__Listener *l = x->m;

	TR_ADD(x->c.t, l->filter_chains, l->n_filter_chains, chain);
}

/* A chain for each route: what they take is known by its server name. */
static void pass_through(struct edge *x, int listener)
{
	struct tr *t = x->c.t;
	const char **seen = NULL;
	size_t n_seen = 0, n_a;
	const struct gw_attach *a = gw_attached(t, x->c.g, &n_a);

	for (; n_a; a++, n_a--) {
		const char **names = NULL, *name;
		size_t n = 0;
		void *chain;

		if (a->listener != listener)
			continue;
		for (size_t k = 0; k < a->n_hostnames; k++)
			if (!in(seen, n_seen, a->hostnames[k])) {
				TR_ADD(t, seen, n_seen, a->hostnames[k]);
				TR_ADD(t, names, n, a->hostnames[k]);
			}
		if (!n)
			continue;
		name = weft_arena_printf(t->a, "tls|%d|%s/%s", x->port, a->o->ns, a->o->name);
		chain = chain_new(x, name);
		server_names(x, chain, names, n);
		tcp(x, chain, a->o, name);
		chain_put(x, chain);
	}
}

static void listener(struct edge *x, int i, bool *http_done)
{
	struct tr *t = x->c.t;
	struct gw_listener *l = &x->c.g->listeners[i];
	const char *host = host_of(l);
	const char *name = weft_arena_printf(t->a, "%s|%d|%s", is(l, "HTTPS") ? "https" : "tcp",
					     x->port, l->l->name);
	void *chain;

	if (is(l, "HTTP")) {
		if (*http_done)
			return;
		*http_done = true;
		name = weft_arena_printf(t->a, "http|%d", x->port);
		chain = chain_new(x, name);
		http(x, chain, name, -1);
		chain_put(x, chain);
		return;
	}
	if (is(l, "TLS") && passes(l)) {
		pass_through(x, i);
		return;
	}
	chain = chain_new(x, name);
	if (!is(l, "TCP")) {
		server_names(x, chain, &host, 1);
		if (!terminate(x, l, chain, is(l, "HTTPS")))
			return;
	}
	if (is(l, "HTTPS"))
		http(x, chain, name, i);
	else
		tcp(x, chain, first_route(x, i), name);
	chain_put(x, chain);
}

/* ---- ports */

static void address(struct edge *x, const struct weft_ip *ip, const char *path)
{
	struct weft_arena *a = x->c.t->a;
	void *sa = eb_in(a, x->m, path);
	char text[WEFT_IP_TEXT];

	eb_str(a, sa, "address", ip ? weft_ip_text(ip, text, sizeof(text)) : "::");
	eb_num(a, sa, "port_value", x->port);
	if (!ip)
		eb_num(a, sa, "ipv4_compat", 1);
}

static void port_out(struct tr *t, struct tr_gateway *g, struct gw_clusters *c, size_t first)
{
	struct edge x = {.c = *c, .port = g->listeners[first].l->port};
	const char *name = weft_arena_printf(t->a, "gateway|%d", x.port);
	bool http_done = false;

	x.source = tr_source(t, g->o);
	x.m = eb_new(t->a, &envoy__config__listener__v3__listener__descriptor);
	eb_str(t->a, x.m, "name", name);
	for (size_t i = 0; i < g->n_addrs; i++)
		address(&x, &g->addrs[i],
			i ? "additional_addresses.address.socket_address"
			  : "address.socket_address");
	if (!g->n_addrs)
		address(&x, NULL, "address.socket_address");
	eb_str(t->a, x.m, "traffic_direction", "OUTBOUND");
	for (size_t i = first; i < g->n_listeners; i++) {
		const struct gw_listener *l = &g->listeners[i];

		if (l->reason || l->conflict || l->l->port != x.port)
			continue;
		listener(&x, (int)i, &http_done);
	}
	*c = x.c;
	if (x.inspect)
		eb_typed(
			t->a, eb_in(t->a, x.m, "listener_filters"),
			"envoy.filters.listener.tls_inspector",
			eb_new(t->a,
			       &envoy__extensions__filters__listener__tls_inspector__v3__tls_inspector__descriptor));
	if (((const Envoy__Config__Listener__V3__Listener *)x.m)->n_filter_chains)
		gw_out(t, g, &weft_xds_type_listener, name, x.m, x.source);
}

void gw_edge_out(struct tr *t, struct tr_gateway *g)
{
	struct gw_clusters c = {.t = t, .g = g};

	for (size_t i = 0; i < g->n_listeners; i++) {
		bool before = g->listeners[i].reason || g->listeners[i].conflict;

		for (size_t k = 0; k < i && !before; k++)
			before = !g->listeners[k].reason && !g->listeners[k].conflict &&
				 g->listeners[k].l->port == g->listeners[i].l->port;
		if (!before)
			port_out(t, g, &c, i);
	}
	gw_clusters_done(&c);
}
