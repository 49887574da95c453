/* Services, which pods are behind them, and endpoints written by hand in EndpointSlices. */
#include "agent/gateway.h"
#include "proxy/core/first.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_tcp(const char *protocol)
{
	return !protocol || !strcmp(protocol, "TCP");
}

/* A map entry of the same shape in every message: base, key, value. */
Weft__Kube__ObjectMeta__LabelsEntry *const *tr_service_selector(const Weft__Kube__Service *s,
								size_t *ret_n)
{
	_Static_assert(sizeof(Weft__Kube__ObjectMeta__LabelsEntry) ==
			       sizeof(Weft__Kube__ServiceSpec__SelectorEntry),
		       "map entries of strings are alike");
	*ret_n = s->spec->n_selector;
	return (Weft__Kube__ObjectMeta__LabelsEntry *const *)(const void *)s->spec->selector;
}

char *tr_hostname(struct tr *t, const char *ns, const char *name)
{
	return weft_arena_printf(t->a, "%s.%s.svc.%s", name, ns, t->mesh.cluster_domain);
}

/* 0: a name, to be looked up at each pod */
static uint32_t target_number(const Weft__Kube__ServicePort *p)
{
	char *end;
	long v;

	if (!p->target_port || !*p->target_port)
		return (uint32_t)p->port;
	v = strtol(p->target_port, &end, 10);
	return *end || v < 1 || v > 65535 ? 0 : (uint32_t)v;
}

static Istio__Workload__AppProtocol app_protocol(const Weft__Kube__ServicePort *p)
{
	static const struct {
		const char *name;
		Istio__Workload__AppProtocol is;
	} known[] = {{"http", ISTIO__WORKLOAD__APP_PROTOCOL__HTTP11},
		     {"http2", ISTIO__WORKLOAD__APP_PROTOCOL__HTTP2},
		     {"kubernetes.io/h2c", ISTIO__WORKLOAD__APP_PROTOCOL__HTTP2},
		     {"grpc", ISTIO__WORKLOAD__APP_PROTOCOL__GRPC},
		     {"tcp", ISTIO__WORKLOAD__APP_PROTOCOL__TCP},
		     {"tls", ISTIO__WORKLOAD__APP_PROTOCOL__TLS},
		     {"https", ISTIO__WORKLOAD__APP_PROTOCOL__TLS}};
	const char *s = p->app_protocol ? p->app_protocol : p->name ? p->name : "";
	size_t n = p->app_protocol ? strlen(s)
				   : strcspn(s, "-"); /* a port's name begins with it: "http-web" */

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (n == strlen(known[i].name) && !strncmp(s, known[i].name, n))
			return known[i].is;
	return ISTIO__WORKLOAD__APP_PROTOCOL__UNKNOWN;
}

static Istio__Workload__Port *port_new(struct tr *t, uint32_t from, uint32_t to)
{
	Istio__Workload__Port *p = tr_new(t, &istio__workload__port__descriptor);

	p->has_service_port = 1;
	p->service_port = from;
	p->has_target_port = to != 0;
	p->target_port = to;
	return p;
}

/* ---- the service itself */

static void service_vip(struct tr *t, Istio__Workload__Service *s, const char *text)
{
	Istio__Workload__NetworkAddress *a;
	struct weft_ip ip;

	if (!text || weft_ip_parse(text, &ip)) /* headless: "", "None" */
		return;
	for (size_t i = 0; i < s->n_addresses; i++)
		if (s->addresses[i]->address.len == weft_ip_bytes(&ip) &&
		    !memcmp(s->addresses[i]->address.data, ip.b, weft_ip_bytes(&ip)))
			return;
	a = tr_new(t, &istio__workload__network_address__descriptor);
	if (*t->mesh.network)
		a->network = weft_arena_strdup(t->a, t->mesh.network);
	a->has_address = 1;
	a->address = (ProtobufCBinaryData){weft_ip_bytes(&ip),
					   weft_arena_memdup(t->a, ip.b, weft_ip_bytes(&ip))};
	TR_ADD(t, s->addresses, s->n_addresses, a);
}

static void service_families(const Weft__Kube__ServiceSpec *spec, Istio__Workload__Service *s)
{
	bool v4 = false, v6 = false;

	for (size_t i = 0; i < spec->n_ip_families; i++) {
		v4 = v4 || !strcmp(spec->ip_families[i], "IPv4");
		v6 = v6 || !strcmp(spec->ip_families[i], "IPv6");
	}
	if (!v4 && !v6)
		return;
	s->has_ip_families = 1;
	s->ip_families = v4 && v6 ? ISTIO__WORKLOAD__SERVICE__IPFAMILIES__DUAL
			 : v4	  ? ISTIO__WORKLOAD__SERVICE__IPFAMILIES__IPV4_ONLY
				  : ISTIO__WORKLOAD__SERVICE__IPFAMILIES__IPV6_ONLY;
}

static void prefer(struct tr *t, Istio__Workload__Service *s,
		   Istio__Workload__LoadBalancing__Mode mode, const int *scopes, size_t n)
{
	if (!s->load_balancing)
		s->load_balancing = tr_new(t, &istio__workload__load_balancing__descriptor);
	s->load_balancing->has_mode = 1;
	s->load_balancing->mode = mode;
	for (size_t i = 0; i < n; i++)
		TR_ADD(t, s->load_balancing->routing_preference,
		       s->load_balancing->n_routing_preference,
		       (Istio__Workload__LoadBalancing__Scope)scopes[i]);
}

static void service_preferences(struct tr *t, const struct weft_object *o,
				const Weft__Kube__ServiceSpec *spec, Istio__Workload__Service *s)
{
	static const int node[] = {4}, zone[] = {6, 1, 2}, same_node[] = {6, 1, 2, 3, 4};
	static const char key[] = "networking.istio.io/traffic-distribution";
	const struct weft_object *ns = weft_objects_find(t->objs, WEFT_KIND_NAMESPACE, "", o->ns);
	const char *how = spec->traffic_distribution;

	if (!how)
		how = weft_meta_annotation(o->meta, key);
	if (!how && ns)
		how = weft_meta_annotation(ns->meta, key);
	if (spec->internal_traffic_policy && !strcmp(spec->internal_traffic_policy, "Local"))
		prefer(t, s, ISTIO__WORKLOAD__LOAD_BALANCING__MODE__STRICT, node, 1);
	else if (how && !strcmp(how, "PreferSameNode"))
		prefer(t, s, ISTIO__WORKLOAD__LOAD_BALANCING__MODE__FAILOVER, same_node, 5);
	else if (how)
		prefer(t, s, ISTIO__WORKLOAD__LOAD_BALANCING__MODE__FAILOVER, zone, 3);
	if (!spec->publish_not_ready_addresses)
		return;
	if (!s->load_balancing)
		s->load_balancing = tr_new(t, &istio__workload__load_balancing__descriptor);
	s->load_balancing->has_health_policy = 1;
	s->load_balancing->health_policy =
		ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
}

static void service_make(struct tr *t, const struct weft_object *o, struct tr_svc *v)
{
	const Weft__Kube__ServiceSpec *spec = ((const Weft__Kube__Service *)o->msg)->spec;
	Istio__Workload__Service *s = tr_new(t, &istio__workload__service__descriptor);

	s->name = weft_arena_strdup(t->a, o->name);
	s->namespace_ = weft_arena_strdup(t->a, o->ns);
	s->hostname = tr_hostname(t, o->ns, o->name);
	service_vip(t, s, spec->cluster_ip);
	for (size_t i = 0; i < spec->n_cluster_ips; i++)
		service_vip(t, s, spec->cluster_ips[i]);
	for (size_t i = 0; i < spec->n_ports; i++) {
		Istio__Workload__Port *p;

		if (!is_tcp(spec->ports[i]->protocol))
			continue;
		p = port_new(t, (uint32_t)spec->ports[i]->port, target_number(spec->ports[i]));
		p->app_protocol = app_protocol(spec->ports[i]);
		p->has_app_protocol = p->app_protocol != ISTIO__WORKLOAD__APP_PROTOCOL__UNKNOWN;
		TR_ADD(t, s->ports, s->n_ports, p);
	}
	s->has_canonical = s->canonical = 1;
	service_families(spec, s);
	service_preferences(t, o, spec, s);
	*v = (struct tr_svc){.o = o, .spec = spec, .s = s};
	v->key = weft_arena_printf(t->a, "%s/%s", s->namespace_, s->hostname);
	tr_service_waypoint(t, v);
}

static void service_out(struct tr *t, const struct weft_object *o, Istio__Workload__Service *s)
{
	Istio__Workload__Address *m = tr_new(t, &istio__workload__address__descriptor);
	const char **aliases = NULL;
	size_t n = 0;
	char text[WEFT_IP_TEXT];

	for (size_t i = 0; i < s->n_addresses; i++) {
		struct weft_ip ip = {0};

		weft_ip_from_bytes(s->addresses[i]->address.data, s->addresses[i]->address.len,
				   &ip);
		TR_ADD(t, aliases, n,
		       weft_arena_printf(t->a, "%s/%s", t->mesh.network,
					 weft_ip_text(&ip, text, sizeof(text))));
	}
	if (n)
		TR_ADD(t, aliases, n, NULL);
	m->type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	m->service = s;
	tr_out(t, &weft_xds_type_address,
	       weft_arena_printf(t->a, "%s/%s", s->namespace_, s->hostname), &m->base, aliases,
	       tr_source(t, o));
}

/* ---- who is behind it */

static Istio__Workload__PortList *member_of(struct tr *t, Istio__Workload__Workload *w,
					    struct tr_svc *v)
{
	Istio__Workload__Workload__ServicesEntry *e;

	for (size_t i = 0; i < w->n_services; i++)
		if (!strcmp(w->services[i]->key, v->key))
			return w->services[i]->value;
	e = tr_new(t, &istio__workload__workload__services_entry__descriptor);
	e->key = weft_arena_strdup(t->a, v->key);
	e->value = tr_new(t, &istio__workload__port_list__descriptor);
	TR_ADD(t, w->services, w->n_services, e);
	TR_ADD(t, v->members, v->n_members, ((struct tr_member){w, e->value}));
	return e->value;
}

/* The number of a container port, or 0. */
static uint32_t container_port(const Weft__Kube__Pod *pod, const char *name)
{
	for (size_t i = 0; i < pod->spec->n_containers; i++)
		for (size_t k = 0; k < pod->spec->containers[i]->n_ports; k++) {
			const Weft__Kube__ContainerPort *p = pod->spec->containers[i]->ports[k];

			if (p->name && !strcmp(p->name, name) && is_tcp(p->protocol))
				return (uint32_t)p->container_port;
		}
	return 0;
}

/* Pods by each of their labels, "ns key=value". */
struct labelled {
	const char *label;
	struct tr_pod *p;
};
struct labels {
	struct labelled *v;
	size_t n;
};

static int labelled_order(const void *pa, const void *pb)
{
	const struct labelled *a = pa, *b = pb;
	int c = strcmp(a->label, b->label);

	return c ? c : a->p < b->p ? -1 : a->p > b->p;
}

static void labels_make(struct tr *t, struct labels *x)
{
	for (size_t i = 0; i < t->n_pods; i++) {
		const Weft__Kube__ObjectMeta *m = t->pods[i].o->meta;

		for (size_t k = 0; t->pods[i].live && k < m->n_labels; k++)
			TR_ADD(t, x->v, x->n,
			       ((struct labelled){
				       weft_arena_printf(t->a, "%s %s=%s", t->pods[i].o->ns,
							 m->labels[k]->key, m->labels[k]->value),
				       &t->pods[i]}));
	}
	if (x->n)
		qsort(x->v, x->n, sizeof(*x->v), labelled_order);
}

static void selected_pods(struct tr *t, struct tr_svc *v, const struct labels *x)
{
	const struct weft_object *o = v->o;
	const Weft__Kube__Service *svc = (const Weft__Kube__Service *)o->msg;
	size_t n_selector;
	Weft__Kube__ObjectMeta__LabelsEntry *const *selector =
		tr_service_selector(svc, &n_selector);
	const char *label =
		weft_arena_printf(t->a, "%s %s=%s", o->ns, selector[0]->key, selector[0]->value);

	for (size_t at = WEFT_FIRST(x->v, x->n, label); at < x->n && !strcmp(x->v[at].label, label);
	     at++) {
		struct tr_pod *p = x->v[at].p;
		Istio__Workload__PortList *list;

		if (!tr_selects(selector, n_selector, p->o->meta))
			continue;
		list = member_of(t, p->w, v);
		for (size_t i = 0; i < svc->spec->n_ports; i++) {
			const Weft__Kube__ServicePort *sp = svc->spec->ports[i];
			uint32_t to;

			if (!is_tcp(sp->protocol) || target_number(sp))
				continue;
			to = container_port(p->pod, sp->target_port);
			if (to)
				TR_ADD(t, list->ports, list->n_ports,
				       port_new(t, (uint32_t)sp->port, to));
		}
	}
}

/* A slice's port stands for the service's port of the same name; one without a number keeps the
 * service's. */
static void slice_ports(struct tr *t, const Weft__Kube__EndpointSlice *slice,
			const Weft__Kube__ServiceSpec *spec, Istio__Workload__PortList *list)
{
	for (size_t i = 0; i < spec->n_ports; i++) {
		const Weft__Kube__ServicePort *sp = spec->ports[i];

		for (size_t k = 0; is_tcp(sp->protocol) && k < slice->n_ports; k++) {
			const Weft__Kube__EndpointPort *ep = slice->ports[k];

			if (strcmp(sp->name ? sp->name : "", ep->name ? ep->name : "") != 0 ||
			    !is_tcp(ep->protocol))
				continue;
			TR_ADD(t, list->ports, list->n_ports,
			       port_new(t, (uint32_t)sp->port,
					(uint32_t)(ep->has_port ? ep->port : sp->port)));
			break;
		}
	}
}

static bool endpoint_ready(const Weft__Kube__Endpoint *e)
{
	const Weft__Kube__EndpointConditions *c = e->conditions;

	return !c || ((!c->has_ready || c->ready) && !c->terminating);
}

/* An endpoint that is no pod of ours: a workload of its own, plain, never found by its address. */
static Istio__Workload__Workload *own_workload(struct tr *t, const struct weft_object *o,
					       const Weft__Kube__Endpoint *e,
					       const struct weft_ip *ip, bool *ret_new)
{
	char text[WEFT_IP_TEXT];
	const char *uid =
		weft_arena_printf(t->a, "Kubernetes//discovery.k8s.io/EndpointSlice/%s/%s/%s",
				  o->ns, o->name, weft_ip_text(ip, text, sizeof(text)));
	Istio__Workload__Workload *w = tr_new(t, &istio__workload__workload__descriptor);

	w->uid = weft_arena_strdup(t->a, uid);
	w->name = w->workload_name = w->canonical_name = weft_arena_strdup(t->a, o->name);
	w->namespace_ = weft_arena_strdup(t->a, o->ns);
	if (*t->mesh.network)
		w->network = weft_arena_strdup(t->a, t->mesh.network);
	TR_ADD(t, w->addresses, w->n_addresses,
	       ((ProtobufCBinaryData){weft_ip_bytes(ip),
				      weft_arena_memdup(t->a, ip->b, weft_ip_bytes(ip))}));
	w->has_network_mode = 1;
	w->network_mode = ISTIO__WORKLOAD__WORKLOAD__NETWORK_MODE__HOST_NETWORK;
	w->has_status = 1;
	w->status = endpoint_ready(e) ? ISTIO__WORKLOAD__WORKLOAD__STATUS__HEALTHY
				      : ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY;
	if (e->node_name)
		w->node = weft_arena_strdup(t->a, e->node_name);
	if (e->zone) {
		w->locality = tr_new(t, &istio__workload__locality__descriptor);
		w->locality->zone = weft_arena_strdup(t->a, e->zone);
	}
	*ret_new = true;
	return w;
}

/* The pod meant by an endpoint: named, or found by the address. */
static struct tr_pod *endpoint_pod(struct tr *t, const struct weft_object *o,
				   const Weft__Kube__Endpoint *e, const struct weft_ip *ip)
{
	const Weft__Kube__ObjectReference *r = e->target_ref;
	struct tr_pod *p = NULL;

	if (r && r->name && r->kind && !strcmp(r->kind, "Pod"))
		p = tr_pod_find(t, r->namespace_ && *r->namespace_ ? r->namespace_ : o->ns,
				r->name);
	if (!p)
		p = tr_pod_by_ip(t, ip);
	return p && p->live ? p : NULL;
}

static void slice_endpoints(struct tr *t, const struct weft_object *o, struct tr_svc *v)
{
	const Weft__Kube__EndpointSlice *slice = (const Weft__Kube__EndpointSlice *)o->msg;

	for (size_t i = 0; i < slice->n_endpoints; i++) {
		const Weft__Kube__Endpoint *e = slice->endpoints[i];

		for (size_t k = 0; k < e->n_addresses; k++) {
			struct tr_pod *p;
			struct weft_ip ip;
			Istio__Workload__Workload *w;
			Istio__Workload__Address *m;
			bool made = false;

			if (weft_ip_parse(e->addresses[k], &ip))
				continue; /* a host name: endpoints by name are not used */
			p = endpoint_pod(t, o, e, &ip);
			w = p ? p->w : own_workload(t, o, e, &ip, &made);
			slice_ports(t, slice, v->spec, member_of(t, w, v));
			if (!made)
				continue;
			m = tr_new(t, &istio__workload__address__descriptor);
			m->type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
			m->workload = w;
			tr_out(t, &weft_xds_type_address, w->uid, &m->base, NULL, tr_source(t, o));
		}
	}
}

void tr_services(struct tr *t)
{
	size_t n, n_slices;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_SERVICE, &n);
	const struct weft_object *slices =
		weft_objects_of(t->objs, WEFT_KIND_ENDPOINT_SLICE, &n_slices);

	struct labels labels = {0};

	labels_make(t, &labels);
	t->svcs = weft_arena_alloc(t->a, n * sizeof(*t->svcs));
	for (size_t i = 0; i < n; i++) {
		const Weft__Kube__ServiceSpec *spec = ((const Weft__Kube__Service *)v[i].msg)->spec;
		struct tr_svc *s;

		if (spec->type && !strcmp(spec->type, "ExternalName"))
			continue;
		s = &t->svcs[t->n_svcs++];
		service_make(t, &v[i], s);
		service_out(t, &v[i], s->s);
		if (spec->n_selector)
			selected_pods(t, s, &labels);
	}
	for (size_t i = 0; i < n_slices; i++) {
		const char *name = weft_meta_label(slices[i].meta, "kubernetes.io/service-name");
		struct tr_svc *s = name ? tr_svc_find(t, slices[i].ns, name) : NULL;

		/* with a selector the pods themselves say it better */
		if (s && !s->spec->n_selector)
			slice_endpoints(t, &slices[i], s);
	}
}
