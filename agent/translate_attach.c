/* Which routes belong to which listener or service, and what their status says. */
#include "agent/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the four kinds have in common */

struct common {
	Weft__Kube__ParentRef *const *parents;
	size_t n_parents;
	char *const *hostnames;
	size_t n_hostnames;
};

static void common_of(const struct weft_object *o, struct common *ret)
{
	const Weft__Kube__HttpRouteSpec *h;
	const Weft__Kube__GrpcRouteSpec *g;
	const Weft__Kube__StreamRouteSpec *s;
	const Weft__Kube__TlsRouteSpec *l;

	switch (o->kind->id) {
	case WEFT_KIND_HTTP_ROUTE:
		h = ((const Weft__Kube__HttpRoute *)o->msg)->spec;
		*ret = (struct common){h->parent_refs, h->n_parent_refs, h->hostnames,
				       h->n_hostnames};
		break;
	case WEFT_KIND_GRPC_ROUTE:
		g = ((const Weft__Kube__GrpcRoute *)o->msg)->spec;
		*ret = (struct common){g->parent_refs, g->n_parent_refs, g->hostnames,
				       g->n_hostnames};
		break;
	case WEFT_KIND_TCP_ROUTE:
		s = ((const Weft__Kube__TcpRoute *)o->msg)->spec;
		*ret = (struct common){s->parent_refs, s->n_parent_refs, NULL, 0};
		break;
	default:
		l = ((const Weft__Kube__TlsRoute *)o->msg)->spec;
		*ret = (struct common){l->parent_refs, l->n_parent_refs, l->hostnames,
				       l->n_hostnames};
		break;
	}
}

/* The first backend that is not good: its reason, and which it is. */
struct unresolved {
	const char *reason;
	const char *ns, *name;
	int port;
};

static void look_at(struct tr *t, const struct weft_object *o, const char *ns, const char *name,
		    int port, struct unresolved *u)
{
	const char *reason;
	struct tr_svc *s;

	if (u->reason)
		return;
	reason = gw_backend_bad(t, o, ns, name, port, &s);
	if (reason)
		*u = (struct unresolved){reason, ns && *ns ? ns : o->ns, name, port};
}

static void look_backends(struct tr *t, const struct weft_object *o,
			  Weft__Kube__BackendRef *const *v, size_t n, struct unresolved *u)
{
	for (size_t i = 0; i < n; i++)
		look_at(t, o, v[i]->namespace_, v[i]->name, v[i]->port, u);
}

static void look_filters(struct tr *t, const struct weft_object *o,
			 Weft__Kube__RouteFilter *const *v, size_t n, struct unresolved *u)
{
	for (size_t i = 0; i < n; i++)
		if (v[i]->request_mirror)
			look_at(t, o, v[i]->request_mirror->backend_ref->namespace_,
				v[i]->request_mirror->backend_ref->name,
				v[i]->request_mirror->backend_ref->port, u);
}

static void unresolved_of(struct tr *t, const struct weft_object *o, struct unresolved *u)
{
	*u = (struct unresolved){0};
	if (o->kind->id == WEFT_KIND_HTTP_ROUTE) {
		const Weft__Kube__HttpRouteSpec *s = ((const Weft__Kube__HttpRoute *)o->msg)->spec;

		for (size_t i = 0; i < s->n_rules; i++) {
			look_backends(t, o, s->rules[i]->backend_refs, s->rules[i]->n_backend_refs,
				      u);
			look_filters(t, o, s->rules[i]->filters, s->rules[i]->n_filters, u);
		}
	} else if (o->kind->id == WEFT_KIND_GRPC_ROUTE) {
		const Weft__Kube__GrpcRouteSpec *s = ((const Weft__Kube__GrpcRoute *)o->msg)->spec;

		for (size_t i = 0; i < s->n_rules; i++) {
			look_backends(t, o, s->rules[i]->backend_refs, s->rules[i]->n_backend_refs,
				      u);
			look_filters(t, o, s->rules[i]->filters, s->rules[i]->n_filters, u);
		}
	} else {
		Weft__Kube__StreamRule *const *rules =
			o->kind->id == WEFT_KIND_TCP_ROUTE
				? ((const Weft__Kube__TcpRoute *)o->msg)->spec->rules
				: ((const Weft__Kube__TlsRoute *)o->msg)->spec->rules;

		look_backends(t, o, rules[0]->backend_refs, rules[0]->n_backend_refs, u);
	}
}

/* ---- hostnames */

static bool hostnames_meet(struct tr *t, const struct common *r, const char *listener,
			   struct gw_attach *a)
{
	bool any = !listener || !*listener;

	if (!r->n_hostnames) {
		TR_ADD(t, a->hostnames, a->n_hostnames, any ? "*" : listener);
		return true;
	}
	for (size_t i = 0; i < r->n_hostnames; i++) {
		const char *h = any ? r->hostnames[i] : gw_host_meet(listener, r->hostnames[i]);

		if (h)
			TR_ADD(t, a->hostnames, a->n_hostnames, h);
	}
	return a->n_hostnames > 0;
}

/* ---- listeners of a Gateway */

static const char gateway_group[] = "gateway.networking.k8s.io";

/* What a listener's protocol carries, up to two kinds. */
static const char *const *protocol_kinds(const Weft__Kube__GatewayListener *l)
{
	static const char *const http[] = {"HTTPRoute", "GRPCRoute", NULL},
				 *const tcp[] = {"TCPRoute", NULL},
				 *const tls[] = {"TLSRoute", NULL}, *const none[] = {NULL};
	bool pass = l->tls && l->tls->mode && !strcmp(l->tls->mode, "Passthrough");

	if (!strcmp(l->protocol, "HTTP") || !strcmp(l->protocol, "HTTPS"))
		return http;
	if (!strcmp(l->protocol, "TLS"))
		return pass ? tls : tcp;
	return !strcmp(l->protocol, "TCP") ? tcp : none;
}

static bool names_kind(const Weft__Kube__RouteGroupKind *k, const char *kind)
{
	return !strcmp(k->kind, kind) && (!k->group || !strcmp(k->group, gateway_group));
}

static bool kind_fits(const Weft__Kube__GatewayListener *l, const char *kind)
{
	const Weft__Kube__AllowedRoutes *a = l->allowed_routes;
	const char *const *v = protocol_kinds(l);

	while (*v && strcmp(*v, kind) != 0)
		v++;
	if (!*v)
		return false;
	for (size_t i = 0; a && i < a->n_kinds; i++)
		if (names_kind(a->kinds[i], kind))
			return true;
	return !a || !a->n_kinds;
}

static bool kinds_bad(const Weft__Kube__GatewayListener *l)
{
	const Weft__Kube__AllowedRoutes *a = l->allowed_routes;

	for (size_t i = 0; a && i < a->n_kinds; i++) {
		const char *const *v = protocol_kinds(l);

		while (*v && !names_kind(a->kinds[i], *v))
			v++;
		if (!*v)
			return true;
	}
	return false;
}

/* Plain HTTP, plain TCP and TLS do not go on one port. */
static int sort_of(const Weft__Kube__GatewayListener *l)
{
	return !strcmp(l->protocol, "HTTP") ? 0 : !strcmp(l->protocol, "TCP") ? 1 : 2;
}

void gw_conflicts(struct tr_gateway *g)
{
	for (size_t i = 0; i < g->n_listeners; i++) {
		struct gw_listener *a = &g->listeners[i];

		a->bad_kinds = kinds_bad(a->l);
		for (size_t k = 0; k < i; k++) {
			struct gw_listener *b = &g->listeners[k];
			int sort = sort_of(a->l);

			if (a->reason || b->reason || a->l->port != b->l->port)
				continue;
			if (sort != sort_of(b->l))
				a->conflict = b->conflict = "ProtocolConflict";
			else if (sort == 1 || !strcmp(a->l->hostname ? a->l->hostname : "",
						      b->l->hostname ? b->l->hostname : ""))
				a->conflict = b->conflict = "HostnameConflict";
		}
	}
}

struct verdict {
	const char *reason, *message; /* reason NULL: accepted */
};

static void attach_gateway(struct tr *t, const struct weft_object *o, const struct common *c,
			   const Weft__Kube__ParentRef *p, struct tr_gateway *g, struct verdict *v)
{
	const bool http =
		o->kind->id == WEFT_KIND_HTTP_ROUTE || o->kind->id == WEFT_KIND_GRPC_ROUTE;
	bool named = false, allowed = false, met = false, clash = false, taken = false;

	for (size_t i = 0; i < g->n_listeners; i++) {
		const Weft__Kube__GatewayListener *l = g->listeners[i].l;
		struct gw_attach a = {.o = o, .ref = p, .g = g, .listener = (int)i};

		if (g->listeners[i].reason || g->listeners[i].conflict ||
		    (p->section_name && *p->section_name && strcmp(p->section_name, l->name)) ||
		    (p->has_port && p->port != l->port))
			continue;
		named = true;
		if (!kind_fits(l, o->kind->kind) || !gw_allows_ns(t, g, l, o->ns))
			continue;
		allowed = true;
		if (!hostnames_meet(t, c, l->hostname, &a))
			continue;
		/* nothing would choose between two */
		if (o->kind->id == WEFT_KIND_TCP_ROUTE && g->listeners[i].attached) {
			taken = true;
			continue;
		}
		if (http && gw_hosts_clash(t, &a)) {
			clash = true;
			continue;
		}
		if (http)
			gw_hosts_note(t, &a);
		met = true;
		g->listeners[i].attached++;
		a.seq = t->n_attached;
		TR_ADD(t, t->attached, t->n_attached, a);
	}
	if (met)
		return;
	*v = taken ? (struct verdict){"NotAllowedByListeners", "an older TCPRoute has the listener"}
	     : clash	? (struct verdict){"HostnameConflict", "an older route of the other kind, "
								  "HTTPRoute or GRPCRoute, has one "
								  "of the hostnames"}
	     : !named	? (struct verdict){"NoMatchingParent", "the Gateway has no such listener"}
	     : !allowed ? (struct verdict){"NotAllowedByListeners",
					   "no listener takes this kind from this namespace"}
			: (struct verdict){"NoMatchingListenerHostname",
					   "no hostname is one of the listener's"};
}

/* The port that sectionName (a port's name) and port say; 0: all of them; -1: there is none. */
static int service_port(const struct tr_svc *s, const Weft__Kube__ParentRef *p)
{
	if (p->has_port && !gw_port(s, (uint32_t)p->port))
		return -1;
	if (!p->section_name || !*p->section_name)
		return p->has_port ? p->port : 0;
	for (size_t i = 0; i < s->spec->n_ports; i++) {
		const Weft__Kube__ServicePort *sp = s->spec->ports[i];

		if (sp->name && !strcmp(sp->name, p->section_name) &&
		    gw_port(s, (uint32_t)sp->port) && (!p->has_port || p->port == sp->port))
			return sp->port;
	}
	return -1;
}

/* Nothing would choose between two TCPRoutes: the older has a port. False: there is none left. */
static bool take_ports(struct tr *t, struct tr_svc *s, int port)
{
	bool any = false;

	if (!s->tcp_taken)
		s->tcp_taken = weft_arena_alloc(t->a, s->spec->n_ports * sizeof(bool));
	for (size_t i = 0; i < s->spec->n_ports; i++) {
		if (port && s->spec->ports[i]->port != port)
			continue;
		any = any || !s->tcp_taken[i];
		s->tcp_taken[i] = true;
	}
	return any;
}

/* Routes of a service are those of its own namespace: the service's owner says where it goes. */
static void attach_service(struct tr *t, const struct weft_object *o,
			   const Weft__Kube__ParentRef *p, const char *ns, struct verdict *v)
{
	struct tr_svc *s = tr_svc_find(t, ns, p->name);
	struct gw_attach a = {.o = o, .ref = p, .s = s};
	int port = s ? service_port(s, p) : -1;

	if (port < 0) {
		*v = (struct verdict){"NoMatchingParent", s ? "the Service has no such port"
							    : "there is no such Service"};
		return;
	}
	if (strcmp(ns, o->ns) != 0) {
		*v = (struct verdict){"NotAllowedByListeners",
				      "a route must be in the Service's own namespace"};
		return;
	}
	if (!s->gw) {
		*v = (struct verdict){"NoMatchingParent", "the Service is behind no waypoint"};
		return;
	}
	if (o->kind->id == WEFT_KIND_TCP_ROUTE && !take_ports(t, s, port)) {
		*v = (struct verdict){"NotAllowedByListeners",
				      port ? "an older TCPRoute has the port"
					   : "older TCPRoutes have all ports"};
		return;
	}
	a.port = (uint32_t)port;
	a.seq = t->n_attached;
	TR_ADD(t, t->attached, t->n_attached, a);
}

/* False: not ours. */
static bool attach(struct tr *t, const struct weft_object *o, const struct common *c,
		   const Weft__Kube__ParentRef *p, const char *bad, struct verdict *v)
{
	const char *ns = p->namespace_ && *p->namespace_ ? p->namespace_ : o->ns;
	const struct weft_object *obj;
	struct tr_gateway *g;

	*v = (struct verdict){bad ? "UnsupportedValue" : NULL, bad};
	if (p->kind && !strcmp(p->kind, "Service")) {
		if (!bad)
			attach_service(t, o, p, ns, v);
		return true;
	}
	g = tr_gateway_find(t, ns, p->name);
	obj = weft_objects_find(t->objs, WEFT_KIND_GATEWAY, ns, p->name);
	if (!g && obj)
		return false;
	if (bad)
		return true;
	if (!g)
		*v = (struct verdict){"NoMatchingParent", "there is no such Gateway"};
	else if (g->class == GW_WAYPOINT)
		*v = (struct verdict){"NotAllowedByListeners",
				      "routes of a waypoint name the Service as parent"};
	else
		attach_gateway(t, o, c, p, g, v);
	return true;
}

/* ---- status */

void gw_condition(json_t *list, const char *type, bool is, const char *reason, const char *message)
{
	json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:s}", "type", type, "status",
					      is ? "True" : "False", "reason", reason, "message",
					      message ? message : ""));
}

static json_t *parent_json(const struct weft_object *o, const Weft__Kube__ParentRef *p)
{
	json_t *j =
		json_pack("{s:s,s:s,s:s}", "kind", p->kind ? p->kind : "Gateway", "namespace",
			  p->namespace_ && *p->namespace_ ? p->namespace_ : o->ns, "name", p->name);

	if (p->section_name && *p->section_name)
		json_object_set_new(j, "sectionName", json_string(p->section_name));
	if (p->has_port)
		json_object_set_new(j, "port", json_integer(p->port));
	return j;
}

static const struct weft_path path_spec = {NULL, "spec", -1};

static void route(struct tr *t, const struct weft_object *o)
{
	json_t *parents = json_array();
	const char *bad = gw_route_bad(t, o);
	struct unresolved u;
	struct common c;
	char text[300];

	if (bad)
		tr_bad(t, o, NULL, NULL, -1, &path_spec, "%s; the route is not used", bad);
	common_of(o, &c);
	unresolved_of(t, o, &u);
	if (u.reason)
		snprintf(text, sizeof(text), "Service %.60s/%.60s port %d %s", u.ns, u.name, u.port,
			 !strcmp(u.reason, "BackendNotFound") ? "is not there"
							      : "needs a ReferenceGrant");
	for (size_t i = 0; i < c.n_parents; i++) {
		json_t *list;
		struct verdict v;

		if (!attach(t, o, &c, c.parents[i], bad, &v))
			continue;
		list = json_array();
		gw_condition(list, "Accepted", !v.reason, v.reason ? v.reason : "Accepted",
			     v.message);
		gw_condition(list, "ResolvedRefs", !u.reason, u.reason ? u.reason : "ResolvedRefs",
			     u.reason ? text : NULL);
		json_array_append_new(parents,
				      json_pack("{s:o,s:s,s:o}", "parentRef",
						parent_json(o, c.parents[i]), "controllerName",
						"weft.io/gateway", "conditions", list));
	}
	json_array_append_new(t->status, json_pack("{s:s,s:s,s:s,s:s,s:o}", "kind", o->kind->kind,
						   "namespace", o->ns, "name", o->name, "source",
						   tr_source(t, o), "parents", parents));
}

static const void *owner(const struct gw_attach *a)
{
	return a->g ? (const void *)a->g : a->s;
}

static int owner_order(const void *pa, const void *pb)
{
	const struct gw_attach *a = pa, *b = pb;
	const uintptr_t x = (uintptr_t)owner(a), y = (uintptr_t)owner(b);

	if (x != y)
		return x < y ? -1 : 1;
	return a->seq < b->seq ? -1 : a->seq > b->seq;
}

static int age_order(const void *pa, const void *pb)
{
	const struct weft_object *const *a = pa, *const *b = pb;
	int c = gw_older(*a, *b);

	return c ? c : (int)(*a)->kind->id - (int)(*b)->kind->id;
}

/* The older first, so that of two that cannot be together it is the one that stays. */
void tr_attach(struct tr *t)
{
	static const enum weft_kind_id kinds[] = {WEFT_KIND_HTTP_ROUTE, WEFT_KIND_GRPC_ROUTE,
						  WEFT_KIND_TCP_ROUTE, WEFT_KIND_TLS_ROUTE};
	const struct weft_object **all = NULL;
	size_t n_all = 0;

	for (size_t i = 0; i < t->n_gateways; i++)
		if (t->gateways[i].class == GW_EDGE)
			gw_conflicts(&t->gateways[i]);
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		size_t n;
		const struct weft_object *v = weft_objects_of(t->objs, kinds[k], &n);

		for (; n; v++, n--)
			TR_ADD(t, all, n_all, v);
	}
	if (n_all)
		qsort(all, n_all, sizeof(const struct weft_object *), age_order);
	for (size_t i = 0; i < n_all; i++)
		route(t, all[i]);
	gw_hosts_done(t);
	if (t->n_attached)
		qsort(t->attached, t->n_attached, sizeof(*t->attached), owner_order);
}

const struct gw_attach *gw_attached(const struct tr *t, const void *of, size_t *ret_n)
{
	size_t lo = 0, hi = t->n_attached, first;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if ((uintptr_t)owner(&t->attached[mid]) < (uintptr_t)of)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (first = lo; lo < t->n_attached && owner(&t->attached[lo]) == of;)
		lo++;
	*ret_n = lo - first;
	return t->attached ? t->attached + first : NULL;
}

size_t gw_attached_service(struct tr *t, const struct tr_svc *s, uint32_t port,
			   enum weft_kind_id kind, const struct weft_object ***ret)
{
	size_t n = 0, n_of;
	const struct gw_attach *a = gw_attached(t, s, &n_of);
	const struct weft_object **v = NULL;

	for (size_t i = 0; i < n_of; i++)
		if ((!a[i].port || a[i].port == port) && a[i].o->kind->id == kind &&
		    (!n || v[n - 1] != a[i].o))
			TR_ADD(t, v, n, a[i].o);
	*ret = v;
	return n;
}

static json_t *listener_json(const struct gw_listener *l)
{
	json_t *list = json_array(), *kinds = json_array();
	bool bad = l->reason != NULL, refs = !bad && (l->unresolved || l->bad_kinds);

	for (const char *const *v = protocol_kinds(l->l); *v; v++)
		if (kind_fits(l->l, *v))
			json_array_append_new(
				kinds, json_pack("{s:s,s:s}", "group", gateway_group, "kind", *v));
	gw_condition(list, "Accepted", !bad && !l->conflict,
		     bad	   ? l->reason
		     : l->conflict ? "PortUnavailable"
				   : "Accepted",
		     bad ? l->unresolved : NULL);
	gw_condition(
		list, "Conflicted", l->conflict != NULL, l->conflict ? l->conflict : "NoConflicts",
		l->conflict
			? "another listener has this port, with another protocol or this hostname"
			: NULL);
	gw_condition(list, "ResolvedRefs", !refs,
		     !refs	     ? "ResolvedRefs"
		     : l->unresolved ? "InvalidCertificateRef"
				     : "InvalidRouteKinds",
		     !refs ? NULL
		     : l->unresolved
			     ? l->unresolved
			     : "allowedRoutes.kinds has one that this protocol does not carry");
	gw_condition(list, "Programmed", !bad && !l->conflict && !l->unresolved,
		     bad || l->conflict || l->unresolved ? "Invalid" : "Programmed", NULL);
	return json_pack("{s:s,s:i,s:o,s:o}", "name", l->l->name, "attachedRoutes",
			 (int)l->attached, "supportedKinds", kinds, "conditions", list);
}

void tr_status(struct tr *t)
{
	for (size_t i = 0; i < t->n_gateways; i++) {
		const struct tr_gateway *g = &t->gateways[i];
		json_t *conditions = json_array(), *listeners = json_array(), *addrs = json_array();
		char text[WEFT_IP_TEXT];
		bool good = false, address = g->class == GW_EDGE || g->n_addrs || g->hostname ||
					     tr_svc_find(t, g->ns, g->name);

		for (size_t k = 0; k < g->n_listeners; k++) {
			good = good || (!g->listeners[k].reason && !g->listeners[k].conflict &&
					!g->listeners[k].unresolved);
			json_array_append_new(listeners, listener_json(&g->listeners[k]));
		}
		for (size_t k = 0; k < g->n_addrs; k++)
			json_array_append_new(
				addrs, json_string(weft_ip_text(&g->addrs[k], text, sizeof(text))));
		if (g->class != GW_OTHER) {
			gw_condition(conditions, "Accepted", good,
				     good ? "Accepted" : "ListenersNotValid", NULL);
			gw_condition(
				conditions, "Programmed", good && address,
				!good	  ? "Invalid"
				: address ? "Programmed"
					  : "AddressNotAssigned",
				address ? NULL
					: "neither spec.addresses nor a Service of its name says "
					  "where it is");
		}
		json_array_append_new(t->status,
				      json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:o}", "kind",
						"Gateway", "namespace", g->ns, "name", g->name,
						"class", g->spec->gateway_class_name, "identity",
						g->class == GW_OTHER ? "" : g->identity, "source",
						tr_source(t, g->o), "addresses", addrs,
						"conditions", conditions, "listeners", listeners));
	}
}
