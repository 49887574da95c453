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

/* "*.example.com" takes every name below it, but not example.com. */
static bool within(const char *wild, const char *host)
{
	size_t n = strlen(wild + 1), len = strlen(host);

	return wild[0] == '*' && len > n && !strcmp(host + len - n, wild + 1);
}

/* What both take: the narrower of the two; NULL: nothing. */
static const char *meet(const char *a, const char *b)
{
	if (!strcmp(a, b) || within(a, b))
		return b;
	return within(b, a) ? a : NULL;
}

static bool hostnames_meet(struct tr *t, const struct common *r, const char *listener,
			   struct gw_attach *a)
{
	bool any = !listener || !*listener;

	if (!r->n_hostnames) {
		TR_ADD(t, a->hostnames, a->n_hostnames, any ? "*" : listener);
		return true;
	}
	for (size_t i = 0; i < r->n_hostnames; i++) {
		const char *h = any ? r->hostnames[i] : meet(listener, r->hostnames[i]);

		if (h)
			TR_ADD(t, a->hostnames, a->n_hostnames, h);
	}
	return a->n_hostnames > 0;
}

/* ---- listeners of a Gateway */

static bool kind_fits(const Weft__Kube__GatewayListener *l, const struct weft_object *o)
{
	const Weft__Kube__AllowedRoutes *a = l->allowed_routes;
	bool http = o->kind->id == WEFT_KIND_HTTP_ROUTE || o->kind->id == WEFT_KIND_GRPC_ROUTE;
	bool pass = l->tls && l->tls->mode && !strcmp(l->tls->mode, "Passthrough");

	if (!strcmp(l->protocol, "HTTP") || !strcmp(l->protocol, "HTTPS")) {
		if (!http)
			return false;
	} else if (!strcmp(l->protocol, "TLS")) {
		if (o->kind->id != (pass ? WEFT_KIND_TLS_ROUTE : WEFT_KIND_TCP_ROUTE))
			return false;
	} else if (!strcmp(l->protocol, "TCP")) {
		if (o->kind->id != WEFT_KIND_TCP_ROUTE)
			return false;
	} else {
		return false;
	}
	for (size_t i = 0; a && i < a->n_kinds; i++)
		if (!strcmp(a->kinds[i]->kind, o->kind->kind))
			return true;
	return !a || !a->n_kinds;
}

struct verdict {
	const char *reason, *message; /* reason NULL: accepted */
};

static void attach_gateway(struct tr *t, const struct weft_object *o, const struct common *c,
			   const Weft__Kube__ParentRef *p, struct tr_gateway *g, struct verdict *v)
{
	bool named = false, allowed = false, met = false;

	for (size_t i = 0; i < g->n_listeners; i++) {
		const Weft__Kube__GatewayListener *l = g->listeners[i].l;
		struct gw_attach a = {.o = o, .ref = p, .g = g, .listener = (int)i};

		if (g->listeners[i].reason ||
		    (p->section_name && *p->section_name && strcmp(p->section_name, l->name)) ||
		    (p->has_port && p->port != l->port))
			continue;
		named = true;
		if (!kind_fits(l, o) || !gw_allows_ns(t, g, l, o->ns))
			continue;
		allowed = true;
		if (!hostnames_meet(t, c, l->hostname, &a))
			continue;
		met = true;
		g->listeners[i].attached++;
		TR_ADD(t, t->attached, t->n_attached, a);
	}
	if (met)
		return;
	*v = !named	? (struct verdict){"NoMatchingParent", "the Gateway has no such listener"}
	     : !allowed ? (struct verdict){"NotAllowedByListeners",
					   "no listener takes this kind from this namespace"}
			: (struct verdict){"NoMatchingListenerHostname",
					   "no hostname is one of the listener's"};
}

/* Routes of a service are those of its own namespace: the service's owner says where it goes. */
static void attach_service(struct tr *t, const struct weft_object *o,
			   const Weft__Kube__ParentRef *p, const char *ns, struct verdict *v)
{
	struct tr_svc *s = tr_svc_find(t, ns, p->name);
	struct gw_attach a = {.o = o, .ref = p, .s = s};

	if (!s || (p->has_port && !gw_port(s, (uint32_t)p->port))) {
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
	a.port = p->has_port ? (uint32_t)p->port : 0;
	TR_ADD(t, t->attached, t->n_attached, a);
}

/* False: not ours. */
static bool attach(struct tr *t, const struct weft_object *o, const struct common *c,
		   const Weft__Kube__ParentRef *p, struct verdict *v)
{
	const char *ns = p->namespace_ && *p->namespace_ ? p->namespace_ : o->ns;
	const struct weft_object *obj;
	struct tr_gateway *g;

	*v = (struct verdict){0};
	if (p->kind && !strcmp(p->kind, "Service")) {
		attach_service(t, o, p, ns, v);
		return true;
	}
	g = tr_gateway_find(t, ns, p->name);
	obj = weft_objects_find(t->objs, WEFT_KIND_GATEWAY, ns, p->name);
	if (!g && obj)
		return false;
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

static void condition(json_t *list, const char *type, bool is, const char *reason,
		      const char *message)
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

static void route(struct tr *t, const struct weft_object *o)
{
	json_t *parents = json_array();
	struct unresolved u;
	struct common c;
	char text[300];

	common_of(o, &c);
	unresolved_of(t, o, &u);
	if (u.reason)
		snprintf(text, sizeof(text), "Service %.60s/%.60s port %d %s", u.ns, u.name, u.port,
			 !strcmp(u.reason, "BackendNotFound") ? "is not there"
							      : "needs a ReferenceGrant");
	for (size_t i = 0; i < c.n_parents; i++) {
		json_t *list;
		struct verdict v;

		if (!attach(t, o, &c, c.parents[i], &v))
			continue;
		list = json_array();
		condition(list, "Accepted", !v.reason, v.reason ? v.reason : "Accepted", v.message);
		condition(list, "ResolvedRefs", !u.reason, u.reason ? u.reason : "ResolvedRefs",
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

void tr_attach(struct tr *t)
{
	static const enum weft_kind_id kinds[] = {WEFT_KIND_HTTP_ROUTE, WEFT_KIND_GRPC_ROUTE,
						  WEFT_KIND_TCP_ROUTE, WEFT_KIND_TLS_ROUTE};

	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		size_t n;
		const struct weft_object *v = weft_objects_of(t->objs, kinds[k], &n);

		for (; n; v++, n--)
			route(t, v);
	}
}

size_t gw_attached_service(struct tr *t, const struct tr_svc *s, uint32_t port,
			   enum weft_kind_id kind, const struct weft_object **ret, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n_attached && n < max; i++) {
		const struct gw_attach *a = &t->attached[i];

		if (a->s == s && (!a->port || a->port == port) && a->o->kind->id == kind &&
		    (!n || ret[n - 1] != a->o))
			ret[n++] = a->o;
	}
	return n;
}

static json_t *listener_json(const struct gw_listener *l)
{
	json_t *list = json_array();
	bool bad = l->reason != NULL;

	condition(list, "Accepted", !bad && !l->conflicted,
		  bad		  ? l->reason
		  : l->conflicted ? "PortUnavailable"
				  : "Accepted",
		  bad ? l->unresolved : NULL);
	condition(list, "ResolvedRefs", !l->unresolved || bad,
		  l->unresolved && !bad ? "InvalidCertificateRef" : "ResolvedRefs",
		  bad ? NULL : l->unresolved);
	condition(list, "Programmed", !bad && !l->conflicted && !l->unresolved,
		  bad || l->conflicted || l->unresolved ? "Invalid" : "Programmed", NULL);
	return json_pack("{s:s,s:i,s:o}", "name", l->l->name, "attachedRoutes", (int)l->attached,
			 "conditions", list);
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
			good = good || (!g->listeners[k].reason && !g->listeners[k].unresolved);
			json_array_append_new(listeners, listener_json(&g->listeners[k]));
		}
		for (size_t k = 0; k < g->n_addrs; k++)
			json_array_append_new(
				addrs, json_string(weft_ip_text(&g->addrs[k], text, sizeof(text))));
		if (g->class != GW_OTHER) {
			condition(conditions, "Accepted", good,
				  good ? "Accepted" : "ListenersNotValid", NULL);
			condition(conditions, "Programmed", good && address,
				  !good	    ? "Invalid"
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
