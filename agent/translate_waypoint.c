/* Waypoints: labels that name a Gateway of class weft-waypoint, or a Service of waypoint pods that
 * get their configuration elsewhere. Its label istio.io/waypoint-for says whose traffic it takes.
 */
#include "agent/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct waypoint {
	const char *ns, *name;
	const struct weft_object *service; /* NULL: not there */
	struct tr_gateway *gw;		   /* NULL: not there */
};

/* The label on the object, else on its namespace; "none" opts out. False: no waypoint. */
static bool waypoint_of(struct tr *t, const struct weft_object *o, struct waypoint *ret)
{
	static const char key[] = "istio.io/use-waypoint",
			  key_ns[] = "istio.io/use-waypoint-namespace";
	const struct weft_object *ns = weft_objects_find(t->objs, WEFT_KIND_NAMESPACE, "", o->ns);
	const Weft__Kube__ObjectMeta *m = o->meta;

	*ret = (struct waypoint){.name = weft_meta_label(m, key)};
	if (!ret->name && ns) {
		m = ns->meta;
		ret->name = weft_meta_label(m, key);
	}
	if (!ret->name || !*ret->name || !strcmp(ret->name, "none"))
		return false;
	ret->ns = weft_meta_label(m, key_ns);
	if (!ret->ns || !*ret->ns)
		ret->ns = o->ns;
	ret->service = weft_objects_find(t->objs, WEFT_KIND_SERVICE, ret->ns, ret->name);
	ret->gw = tr_gateway_find(t, ret->ns, ret->name);
	return true;
}

/* One that is not there is used too, so that traffic waits for it instead of passing it by. */
static bool takes(const struct waypoint *w, const char *what)
{
	const char *traffic =
		w->service ? weft_meta_label(w->service->meta, "istio.io/waypoint-for") : NULL;

	if (w->gw)
		return w->gw->traffic & (*what == 's' ? GW_TRAFFIC_SERVICE : GW_TRAFFIC_WORKLOAD);
	traffic = traffic ? traffic : "service";
	return !strcmp(traffic, what) || !strcmp(traffic, "all");
}

/* By its Service where it has one, so that several pods share the work; else by its address. */
static Istio__Workload__GatewayAddress *address_of(struct tr *t, const char *ns, const char *name)
{
	Istio__Workload__GatewayAddress *g =
		tr_new(t, &istio__workload__gateway_address__descriptor);
	const struct tr_gateway *gw = tr_gateway_find(t, ns, name);

	if (gw && gw->n_addrs && !weft_objects_find(t->objs, WEFT_KIND_SERVICE, ns, name)) {
		const struct weft_ip *ip = &gw->addrs[0];

		g->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS;
		g->address = tr_new(t, &istio__workload__network_address__descriptor);
		if (*t->mesh.network)
			g->address->network = weft_arena_strdup(t->a, t->mesh.network);
		g->address->has_address = 1;
		g->address->address = (ProtobufCBinaryData){
			weft_ip_bytes(ip), weft_arena_memdup(t->a, ip->b, weft_ip_bytes(ip))};
		g->has_hbone_mtls_port = 1;
		g->hbone_mtls_port = TR_HBONE_PORT;
		return g;
	}

	g->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
	g->hostname = tr_new(t, &istio__workload__namespaced_hostname__descriptor);
	g->hostname->namespace_ = weft_arena_strdup(t->a, ns);
	g->hostname->hostname = tr_hostname(t, ns, name);
	g->has_hbone_mtls_port = 1;
	g->hbone_mtls_port = TR_HBONE_PORT;
	return g;
}

static const struct weft_path path_metadata = {NULL, "metadata", -1};
static const struct weft_path path_annotations = {&path_metadata, "annotations", -1};
static const char canary_weight[] = "istio.io/use-waypoint-canary-weight";
static const struct weft_path path_weight = {&path_annotations, canary_weight, -1};

/* Part of the connections through a second waypoint of the same namespace. */
static void canary(struct tr *t, const struct weft_object *o, const struct waypoint *w,
		   Istio__Workload__Service *s)
{
	const char *name = weft_meta_label(o->meta, "istio.io/use-waypoint-canary");
	const char *text = weft_meta_annotation(o->meta, canary_weight);
	char *end = NULL;
	long weight = text ? strtol(text, &end, 10) : 0;

	if (!name || !*name)
		return;
	if (!text || end == text || *end || weight < 0 || weight > 100) {
		tr_bad(t, o, o->meta, "annotations", -1, &path_weight,
		       "must be 0..100 where there is a canary, is \"%.20s\"; the canary is not "
		       "used",
		       text ? text : "");
		return;
	}
	for (int i = 0; i < 2; i++) {
		Istio__Workload__WeightedWaypoint *x =
			tr_new(t, &istio__workload__weighted_waypoint__descriptor);

		x->destination = address_of(t, w->ns, i ? name : w->name);
		x->has_weight = 1;
		x->weight = (uint32_t)(i ? weight : 100 - weight);
		TR_ADD(t, s->weighted_waypoints, s->n_weighted_waypoints, x);
	}
}

/* One that does not let the namespace in is named all the same: it has no chain for the service,
 * and refuses. */
static void check_serves(struct tr *t, const struct weft_object *o, const struct waypoint *w)
{
	if (w->gw && w->gw->class == GW_WAYPOINT && gw_serves_ns(t, w->gw, o->ns))
		return;
	if (w->gw)
		tr_bad(t, o, o->meta, "labels", -1, &path_metadata,
		       "Gateway %.60s/%.60s (%s:%d) %s; what goes to it is refused", w->ns, w->name,
		       w->gw->o->file, w->gw->o->line,
		       w->gw->class == GW_WAYPOINT ? "does not allow this namespace"
						   : "is no waypoint");
}

void tr_service_waypoint(struct tr *t, struct tr_svc *v)
{
	const char *second = weft_meta_label(v->o->meta, "istio.io/use-waypoint-canary");
	struct waypoint w;

	if (!waypoint_of(t, v->o, &w) || w.service == v->o || !takes(&w, "service"))
		return;
	v->s->waypoint = address_of(t, w.ns, w.name);
	canary(t, v->o, &w, v->s);
	check_serves(t, v->o, &w);
	if (w.gw && w.gw->class == GW_WAYPOINT && gw_serves_ns(t, w.gw, v->o->ns))
		v->gw = w.gw;
	if (v->s->n_weighted_waypoints)
		v->gw2 = tr_gateway_find(t, w.ns, second);
}

void tr_pod_waypoint(struct tr *t, struct tr_pod *p)
{
	Weft__Kube__ObjectMeta__LabelsEntry *const *selector;
	struct waypoint w;
	size_t n;

	if (!waypoint_of(t, p->o, &w) || !takes(&w, "workload"))
		return;
	/* the waypoint's own pods are not behind it */
	selector = w.service ? tr_service_selector((const Weft__Kube__Service *)w.service->msg, &n)
			     : NULL;
	if (selector && n && !strcmp(w.ns, p->o->ns) && tr_selects(selector, n, p->o->meta))
		return;
	for (size_t i = 0; w.gw && i < w.gw->n_addrs; i++)
		for (size_t k = 0; k < p->n_addrs; k++)
			if (weft_ip_eq(&w.gw->addrs[i], &p->addrs[k]))
				return;
	p->w->waypoint = address_of(t, w.ns, w.name);
	check_serves(t, p->o, &w);
	if (w.gw && w.gw->class == GW_WAYPOINT && gw_serves_ns(t, w.gw, p->o->ns))
		p->gw = w.gw;
}
