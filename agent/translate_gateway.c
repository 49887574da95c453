/* Gateways: which are ours, where they are, who they are, whom they serve. */
#include "agent/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- classes */

static enum gw_class class_of(struct tr *t, const char *name)
{
	const struct weft_object *o = weft_objects_find(t->objs, WEFT_KIND_GATEWAY_CLASS, "", name);
	const char *controller =
		o ? ((const Weft__Kube__GatewayClass *)o->msg)->spec->controller_name : NULL;

	if (controller)
		return !strcmp(controller, "weft.io/waypoint")	? GW_WAYPOINT
		       : !strcmp(controller, "weft.io/gateway") ? GW_EDGE
								: GW_OTHER;
	return !strcmp(name, "weft-waypoint")  ? GW_WAYPOINT
	       : !strcmp(name, "weft-gateway") ? GW_EDGE
					       : GW_OTHER;
}

/* ---- selectors and grants */

static bool requirement_holds(const Weft__Kube__LabelSelector__Requirement *r, const char *v)
{
	bool in = false;

	for (size_t i = 0; v && i < r->n_values; i++)
		in = in || !strcmp(r->values[i], v);
	if (!strcmp(r->operator_, "In"))
		return in;
	if (!strcmp(r->operator_, "NotIn"))
		return !in;
	return !strcmp(r->operator_, "Exists") ? v != NULL : !v;
}

bool tr_label_selects(const Weft__Kube__LabelSelector *s, const Weft__Kube__ObjectMeta *m)
{
	_Static_assert(sizeof(Weft__Kube__ObjectMeta__LabelsEntry) ==
			       sizeof(Weft__Kube__LabelSelector__MatchLabelsEntry),
		       "map entries of strings are alike");
	if (!tr_selects((Weft__Kube__ObjectMeta__LabelsEntry *const *)(const void *)s->match_labels,
			s->n_match_labels, m))
		return false;
	for (size_t i = 0; i < s->n_match_expressions; i++)
		if (!requirement_holds(s->match_expressions[i],
				       weft_meta_label(m, s->match_expressions[i]->key)))
			return false;
	return true;
}

bool gw_allows_ns(struct tr *t, const struct tr_gateway *g, const Weft__Kube__GatewayListener *l,
		  const char *ns)
{
	const Weft__Kube__RouteNamespaces *n =
		l->allowed_routes ? l->allowed_routes->namespaces : NULL;
	const char *from = n && n->from ? n->from : "Same";
	const struct weft_object *o;

	if (!strcmp(from, "All"))
		return true;
	if (!strcmp(from, "Same"))
		return !strcmp(g->ns, ns);
	o = weft_objects_find(t->objs, WEFT_KIND_NAMESPACE, "", ns);
	return o && n->selector && tr_label_selects(n->selector, o->meta);
}

bool gw_serves_ns(struct tr *t, const struct tr_gateway *g, const char *ns)
{
	if (!strcmp(g->ns, ns))
		return true;
	for (size_t i = 0; i < g->n_listeners; i++)
		if (gw_allows_ns(t, g, g->listeners[i].l, ns))
			return true;
	return false;
}

bool gw_granted(struct tr *t, const char *group, const char *kind, const char *from_ns,
		const char *to_kind, const char *ns, const char *name)
{
	size_t n;
	const struct weft_object *v = weft_objects_in(t->objs, WEFT_KIND_REFERENCE_GRANT, ns, &n);

	if (!strcmp(from_ns, ns))
		return true;
	for (; n; v++, n--) {
		const Weft__Kube__ReferenceGrantSpec *s =
			((const Weft__Kube__ReferenceGrant *)v->msg)->spec;
		bool from = false, to = false;

		for (size_t i = 0; i < s->n_from; i++)
			from = from ||
			       (!strcmp(s->from[i]->group ? s->from[i]->group : "", group) &&
				!strcmp(s->from[i]->kind, kind) &&
				!strcmp(s->from[i]->namespace_, from_ns));
		for (size_t i = 0; i < s->n_to; i++)
			to = to || (!(s->to[i]->group && *s->to[i]->group) &&
				    !strcmp(s->to[i]->kind, to_kind) &&
				    (!s->to[i]->name || !*s->to[i]->name ||
				     !strcmp(s->to[i]->name, name)));
		if (from && to)
			return true;
	}
	return false;
}

/* ---- one Gateway */

static void gateway_addrs(struct tr *t, struct tr_gateway *g, const Weft__Kube__Gateway *m)
{
	bool own = g->spec->n_addresses > 0;
	size_t n = own ? g->spec->n_addresses : m->status ? m->status->n_addresses : 0;
	Weft__Kube__GatewayAddress *const *v = own	   ? g->spec->addresses
					       : m->status ? m->status->addresses
							   : NULL;

	for (size_t i = 0; i < n && g->n_addrs < GW_ADDRS; i++) {
		if (v[i]->type && !strcmp(v[i]->type, "Hostname"))
			g->hostname = weft_arena_strdup(t->a, v[i]->value);
		else if (!weft_ip_parse(v[i]->value, &g->addrs[g->n_addrs]))
			g->n_addrs++;
	}
}

static const Weft__Kube__Pod *pod_of(const struct weft_object *o)
{
	return (const Weft__Kube__Pod *)o->msg;
}

/* Its account is that of its pods, else one of the Gateway's name. */
static void gateway_identity(struct tr *t, struct tr_gateway *g)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_POD, &n);
	const struct weft_object *svc =
		weft_objects_find(t->objs, WEFT_KIND_SERVICE, g->ns, g->name);
	Weft__Kube__ObjectMeta__LabelsEntry *const *sel = NULL;
	size_t n_sel = 0;

	if (svc)
		sel = tr_service_selector((const Weft__Kube__Service *)svc->msg, &n_sel);
	g->sa = g->name;
	for (; n; v++, n--) {
		const char *label =
			weft_meta_label(v->meta, "gateway.networking.k8s.io/gateway-name");
		const char *sa = pod_of(v)->spec->service_account_name;

		if (strcmp(v->ns, g->ns) != 0)
			continue;
		if ((label && !strcmp(label, g->name)) ||
		    (n_sel && tr_selects(sel, n_sel, v->meta))) {
			g->sa = weft_arena_strdup(t->a, sa && *sa ? sa : "default");
			break;
		}
	}
	g->identity = weft_arena_printf(t->a, "spiffe://%s/ns/%s/sa/%s", t->mesh.trust_domain,
					g->ns, g->sa);
}

static const struct weft_path path_spec = {NULL, "spec", -1};

static void waypoint_listeners(struct tr *t, struct tr_gateway *g)
{
	bool hbone = false;

	for (size_t i = 0; i < g->n_listeners; i++) {
		const Weft__Kube__GatewayListener *l = g->listeners[i].l;
		const struct weft_path at = {&path_spec, "listeners", (int)i};

		if (!strcmp(l->protocol, "HBONE") && l->port == TR_HBONE_PORT) {
			hbone = true;
			continue;
		}
		g->listeners[i].unresolved = "a waypoint has one listener, HBONE on port 15008";
		g->listeners[i].reason = "UnsupportedProtocol";
		tr_bad(t, g->o, l, NULL, -1, &at,
		       "of a waypoint must be protocol HBONE, port %d; is %s, %d: it is not opened",
		       TR_HBONE_PORT, l->protocol, l->port);
	}
	if (!hbone)
		tr_bad(t, g->o, g->spec, "listeners", -1,
		       &(struct weft_path){&path_spec, "listeners", -1},
		       "a waypoint needs one of protocol HBONE, port %d", TR_HBONE_PORT);
}

static void gateway_make(struct tr *t, struct tr_gateway *g, const struct weft_object *o)
{
	const Weft__Kube__Gateway *m = (const Weft__Kube__Gateway *)o->msg;
	const char *traffic = weft_meta_label(o->meta, "istio.io/waypoint-for");

	*g = (struct tr_gateway){.o = o, .spec = m->spec, .n_listeners = m->spec->n_listeners};
	g->ns = weft_arena_strdup(t->a, o->ns);
	g->name = weft_arena_strdup(t->a, o->name);
	g->scope = weft_arena_printf(t->a, "%s/%s", o->ns, o->name);
	g->class = class_of(t, m->spec->gateway_class_name);
	g->traffic = !traffic || !strcmp(traffic, "service") ? GW_TRAFFIC_SERVICE
		     : !strcmp(traffic, "workload")	     ? GW_TRAFFIC_WORKLOAD
		     : !strcmp(traffic, "all") ? GW_TRAFFIC_SERVICE | GW_TRAFFIC_WORKLOAD
					       : 0;
	g->listeners = weft_arena_alloc(t->a, g->n_listeners * sizeof(*g->listeners));
	for (size_t i = 0; i < g->n_listeners; i++)
		g->listeners[i].l = m->spec->listeners[i];
	gateway_addrs(t, g, m);
	gateway_identity(t, g);
	if (g->class == GW_WAYPOINT)
		waypoint_listeners(t, g);
	for (size_t i = 0; g->class == GW_EDGE && i < g->n_listeners; i++)
		if (!strcmp(g->listeners[i].l->protocol, "HBONE")) {
			g->listeners[i].unresolved = "HBONE is a waypoint's";
			g->listeners[i].reason = "UnsupportedProtocol";
			tr_bad(t, o, g->listeners[i].l, "protocol", -1,
			       &(struct weft_path){&path_spec, "listeners", (int)i},
			       "HBONE is of class weft-waypoint; the listener is not opened");
		}
}

void tr_gateways(struct tr *t)
{
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_GATEWAY, &t->n_gateways);

	t->gateways = weft_arena_alloc(t->a, t->n_gateways * sizeof(*t->gateways));
	for (size_t i = 0; i < t->n_gateways; i++)
		gateway_make(t, &t->gateways[i], &v[i]);
}

struct tr_gateway *tr_gateway_find(struct tr *t, const char *ns, const char *name)
{
	for (size_t i = 0; i < t->n_gateways; i++)
		if (t->gateways[i].class != GW_OTHER && !strcmp(t->gateways[i].ns, ns) &&
		    !strcmp(t->gateways[i].name, name))
			return &t->gateways[i];
	return NULL;
}

struct tr_svc *tr_svc_find(struct tr *t, const char *ns, const char *name)
{
	size_t lo = 0, hi = t->n_svcs;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(t->svcs[mid].o->ns, ns);

		c = c ? c : strcmp(t->svcs[mid].o->name, name);
		if (!c)
			return &t->svcs[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

struct tr_svc *tr_svc_by_host(struct tr *t, const char *host)
{
	const char *dot = strchr(host, '.'), *end = dot ? strchr(dot + 1, '.') : NULL;
	struct tr_svc *s;

	if (!end)
		return NULL;
	s = tr_svc_find(t, weft_arena_strndup(t->a, dot + 1, (size_t)(end - dot - 1)),
			weft_arena_strndup(t->a, host, (size_t)(dot - host)));
	return s && !strcmp(s->s->hostname, host) ? s : NULL;
}

/* A waypoint on a host, without a Pod object: a workload of its own at the Gateway's addresses. */
static void own_workload(struct tr *t, struct tr_gateway *g)
{
	Istio__Workload__Workload *w;
	Istio__Workload__Address *m;
	const char **aliases = NULL;
	char text[WEFT_IP_TEXT];
	size_t n = 0;

	for (size_t i = 0; i < g->n_addrs; i++)
		if (tr_pod_by_ip(t, &g->addrs[i]))
			return;
	if (!g->n_addrs)
		return;
	w = tr_new(t, &istio__workload__workload__descriptor);
	w->uid = weft_arena_printf(t->a, "Kubernetes/gateway.networking.k8s.io/Gateway/%s/%s",
				   g->ns, g->name);
	w->name = w->workload_name = w->canonical_name = weft_arena_strdup(t->a, g->name);
	w->namespace_ = weft_arena_strdup(t->a, g->ns);
	w->service_account = weft_arena_strdup(t->a, g->sa);
	if (strcmp(t->mesh.trust_domain, "cluster.local") != 0)
		w->trust_domain = weft_arena_strdup(t->a, t->mesh.trust_domain);
	if (*t->mesh.network)
		w->network = weft_arena_strdup(t->a, t->mesh.network);
	w->has_tunnel_protocol = w->has_native_tunnel = w->native_tunnel = 1;
	w->tunnel_protocol = ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
	for (size_t i = 0; i < g->n_addrs; i++) {
		const struct weft_ip *ip = &g->addrs[i];

		TR_ADD(t, w->addresses, w->n_addresses,
		       ((ProtobufCBinaryData){weft_ip_bytes(ip),
					      weft_arena_memdup(t->a, ip->b, weft_ip_bytes(ip))}));
		TR_ADD(t, aliases, n,
		       weft_arena_printf(t->a, "%s/%s", t->mesh.network,
					 weft_ip_text(ip, text, sizeof(text))));
	}
	TR_ADD(t, aliases, n, NULL);
	m = tr_new(t, &istio__workload__address__descriptor);
	m->type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	m->workload = w;
	tr_out(t, &weft_xds_type_address, w->uid, &m->base, aliases, tr_source(t, g->o));
}

/* TLS of an application inside HBONE is not made: its pods in the mesh get nothing. */
static void tls_targets(struct tr *t, const struct weft_object *o)
{
	const Weft__Kube__BackendTlsPolicySpec *p =
		((const Weft__Kube__BackendTlsPolicy *)o->msg)->spec;

	for (size_t i = 0; i < p->n_target_refs; i++) {
		const struct tr_svc *s = tr_svc_find(t, o->ns, p->target_refs[i]->name);

		for (size_t k = 0; s && k < s->n_members; k++)
			if (s->members[k].w->tunnel_protocol ==
			    ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE) {
				tr_bad(t, o, p, "target_refs", (int)i, NULL,
				       "Pod %.60s/%.60s is in the mesh, where TLS of its own "
				       "inside "
				       "HBONE is not supported; it is left out",
				       s->members[k].w->namespace_, s->members[k].w->name);
				break;
			}
	}
}

void tr_gateways_out(struct tr *t)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_BACKEND_TLS_POLICY, &n);

	for (; n; v++, n--)
		tls_targets(t, v);
	for (size_t i = 0; i < t->n_gateways; i++) {
		struct tr_gateway *g = &t->gateways[i];

		if (g->class == GW_WAYPOINT) {
			own_workload(t, g);
			gw_waypoint_out(t, g);
		} else if (g->class == GW_EDGE) {
			gw_edge_out(t, g);
		}
	}
}
