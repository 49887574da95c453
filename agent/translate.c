/* MeshConfig, enrolment, and pods → workloads. */
#include "agent/translate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what all the files of the translation use */

void tr_bad(struct tr *t, const struct weft_object *o, const void *m, const char *name, int idx,
	    const struct weft_path *at, const char *fmt, ...)
{
	struct weft_err *e = weft_errs_next(t->errs);
	struct weft_mark k = weft_marks_get(o->marks, m, name, idx);
	va_list ap;

	t->n_errors++;
	if (!e)
		return;
	va_start(ap, fmt);
	weft_vfail(e, at, EINVAL, fmt, ap);
	va_end(ap);
	snprintf(e->where, sizeof(e->where), "%.70s:%d:%d", o->file, k.line ? k.line : o->line,
		 k.col ? k.col : 1);
}

void tr_out(struct tr *t, const struct weft_xds_type *type, const char *name,
	    const ProtobufCMessage *msg, const char *const *aliases, const char *source)
{
	if (t->n_out == t->cap_out) {
		t->cap_out = t->cap_out ? t->cap_out * 2 : 256;
		t->out = weft_xrealloc(t->out, t->cap_out * sizeof(*t->out));
	}
	t->out[t->n_out++] = (struct weft_store_resource){type, name, msg, aliases, source, ""};
}

const char *tr_source(struct tr *t, const struct weft_object *o)
{
	return weft_arena_printf(t->a, "%s:%d", o->file, o->line);
}

void *tr_new(struct tr *t, const ProtobufCMessageDescriptor *d)
{
	void *m = weft_arena_alloc(t->a, d->sizeof_message);

	protobuf_c_message_init(d, m);
	return m;
}

void *tr_add(struct tr *t, void *v, size_t *n, const void *e, size_t size)
{
	/* room is doubled at each power of two, so that the length alone says when */
	if (!(*n & (*n - 1))) {
		char *to = weft_arena_alloc(t->a, (*n ? *n * 2 : 1) * size);

		if (*n)
			memcpy(to, v, *n * size);
		v = to;
	}
	memcpy((char *)v + *n * size, e, size);
	++*n;
	return v;
}

bool tr_selects(Weft__Kube__ObjectMeta__LabelsEntry *const *selector, size_t n,
		const Weft__Kube__ObjectMeta *m)
{
	for (size_t i = 0; i < n; i++) {
		const char *v = weft_meta_label(m, selector[i]->key);

		if (!v || strcmp(v, selector[i]->value ? selector[i]->value : "") != 0)
			return false;
	}
	return true;
}

/* ---- the mesh */

void tr_mesh(struct tr *t)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_MESH_CONFIG, &n);
	const Weft__Kube__MeshConfigSpec *s;

	t->mesh =
		(struct weft_store_mesh){"cluster.local", "istio-system", "", "cluster.local", ""};
	for (size_t i = 1; i < n; i++)
		tr_bad(t, &v[i], v[i].meta, "name", -1, NULL,
		       "a second MeshConfig; the one in force is %.60s (%s:%d)", v[0].name,
		       v[0].file, v[0].line);
	if (!n)
		return;
	s = t->config = ((const Weft__Kube__MeshConfig *)v[0].msg)->spec;
	t->mesh.source = tr_source(t, &v[0]);
	if (s->trust_domain && *s->trust_domain)
		t->mesh.trust_domain = weft_arena_strdup(t->a, s->trust_domain);
	if (s->root_namespace && *s->root_namespace)
		t->mesh.root_namespace = weft_arena_strdup(t->a, s->root_namespace);
	if (s->network)
		t->mesh.network = weft_arena_strdup(t->a, s->network);
}

static bool excluded(const struct tr *t, const char *ns)
{
	if (!t->config || !t->config->n_excluded_namespaces)
		return !strcmp(ns, "kube-system") || !strcmp(ns, t->mesh.root_namespace);
	for (size_t i = 0; i < t->config->n_excluded_namespaces; i++)
		if (!strcmp(t->config->excluded_namespaces[i], ns))
			return true;
	return false;
}

/* 1: in, -1: out, 0: says nothing */
static int mode_of(const Weft__Kube__ObjectMeta *m)
{
	const char *own = weft_meta_label(m, "weft.io/mesh"),
		   *istio = weft_meta_label(m, "istio.io/dataplane-mode");

	if ((own && !strcmp(own, "none")) || (istio && !strcmp(istio, "none")))
		return -1;
	return (own && !strcmp(own, "enabled")) || (istio && !strcmp(istio, "ambient"));
}

static bool enrolled(const struct tr *t, const struct tr_pod *p)
{
	const struct weft_object *ns;
	int mode = mode_of(p->o->meta);

	if (p->pod->spec->host_network ||
	    weft_meta_annotation(p->o->meta, "sidecar.istio.io/status") || excluded(t, p->o->ns) ||
	    mode < 0)
		return false;
	ns = weft_objects_find(t->objs, WEFT_KIND_NAMESPACE, "", p->o->ns);
	return mode > 0 || (ns && mode_of(ns->meta) > 0);
}

/* ---- pods */

static const struct weft_path path_status = {NULL, "status", -1};
static const struct weft_path path_ips = {&path_status, "podIPs", -1};

static void pod_addr(struct tr *t, struct tr_pod *p, const char *text)
{
	struct weft_ip ip;

	if (!text || weft_ip_parse(text, &ip))
		return;
	for (size_t i = 0; i < p->n_addrs; i++)
		if (weft_ip_eq(&p->addrs[i], &ip))
			return;
	if (p->n_addrs == TR_POD_ADDRS) {
		tr_bad(t, p->o, p->pod->status, "pod_ips", -1, &path_ips,
		       "must have at most %d addresses; %s is not used", TR_POD_ADDRS, text);
		return;
	}
	p->addrs[p->n_addrs++] = ip;
}

static void pod_addrs(struct tr *t, struct tr_pod *p)
{
	const Weft__Kube__PodStatus *s = p->pod->status;

	if (!s)
		return;
	pod_addr(t, p, s->pod_ip);
	for (size_t i = 0; i < s->n_pod_ips; i++)
		pod_addr(t, p, s->pod_ips[i]->ip);
}

static bool is_over(const struct tr_pod *p)
{
	const char *phase = p->pod->status && p->pod->status->phase ? p->pod->status->phase : "";

	return !strcmp(phase, "Succeeded") || !strcmp(phase, "Failed");
}

static bool ready(const struct tr_pod *p)
{
	const Weft__Kube__PodStatus *s = p->pod->status;

	if (p->o->meta->deletion_timestamp)
		return false;
	for (size_t i = 0; s && i < s->n_conditions; i++)
		if (s->conditions[i]->type && !strcmp(s->conditions[i]->type, "Ready"))
			return s->conditions[i]->status &&
			       !strcmp(s->conditions[i]->status, "True");
	return !s || !s->phase || strcmp(s->phase, "Pending") != 0;
}

/* The name that the pods of one deployment have in common. */
static char *workload_name(struct tr *t, const struct tr_pod *p)
{
	const Weft__Kube__ObjectMeta *m = p->o->meta;
	const char *hash = weft_meta_label(m, "pod-template-hash"), *at;
	size_t n;

	for (size_t i = 0; i < m->n_owner_references; i++) {
		const Weft__Kube__OwnerReference *o = m->owner_references[i];

		if (!o->controller || !o->name)
			continue;
		/* a ReplicaSet is named after its Deployment and the template's hash */
		if (o->kind && !strcmp(o->kind, "ReplicaSet") && (at = strrchr(o->name, '-')) &&
		    at > o->name)
			return weft_arena_strndup(t->a, o->name, (size_t)(at - o->name));
		return weft_arena_strdup(t->a, o->name);
	}
	if (hash && *hash && (at = strstr(p->o->name, hash)) && at > p->o->name + 1 &&
	    at[-1] == '-')
		return weft_arena_strndup(t->a, p->o->name, (size_t)(at - 1 - p->o->name));
	n = m->generate_name ? strlen(m->generate_name) : 0;
	if (n > 1 && m->generate_name[n - 1] == '-' && !strncmp(p->o->name, m->generate_name, n))
		return weft_arena_strndup(t->a, m->generate_name, n - 1);
	return weft_arena_strdup(t->a, p->o->name);
}

static char *first_label(struct tr *t, const struct tr_pod *p, const char *const *keys,
			 const char *otherwise)
{
	for (; *keys; keys++) {
		const char *v = weft_meta_label(p->o->meta, *keys);

		if (v && *v)
			return weft_arena_strdup(t->a, v);
	}
	return weft_arena_strdup(t->a, otherwise);
}

static void pod_locality(struct tr *t, const struct tr_pod *p, Istio__Workload__Workload *w)
{
	static const char *const keys[] = {"topology.kubernetes.io/region",
					   "topology.kubernetes.io/zone",
					   "topology.istio.io/subzone"};
	const struct weft_object *node = weft_objects_find(t->objs, WEFT_KIND_NODE, "", p->node);
	const char *v[3];
	bool any = false;

	for (int i = 0; i < 3; i++) {
		v[i] = weft_meta_label(p->o->meta, keys[i]);
		if (!v[i] && node)
			v[i] = weft_meta_label(node->meta, keys[i]);
		any = any || v[i];
	}
	if (!any)
		return;
	w->locality = tr_new(t, &istio__workload__locality__descriptor);
	w->locality->region = v[0] ? weft_arena_strdup(t->a, v[0]) : NULL;
	w->locality->zone = v[1] ? weft_arena_strdup(t->a, v[1]) : NULL;
	w->locality->subzone = v[2] ? weft_arena_strdup(t->a, v[2]) : NULL;
}

static void pod_workload(struct tr *t, struct tr_pod *p)
{
	static const char *const names[] = {"service.istio.io/canonical-name",
					    "app.kubernetes.io/name", "app", NULL};
	static const char *const revisions[] = {"service.istio.io/canonical-revision",
						"app.kubernetes.io/version", "version", NULL};
	Istio__Workload__Workload *w = p->w = tr_new(t, &istio__workload__workload__descriptor);
	const char *tunnel = weft_meta_label(p->o->meta, "networking.istio.io/tunnel");

	w->uid = weft_arena_printf(t->a, "Kubernetes//Pod/%s/%s", p->o->ns, p->o->name);
	w->name = weft_arena_strdup(t->a, p->o->name);
	w->namespace_ = weft_arena_strdup(t->a, p->o->ns);
	w->service_account = weft_arena_strdup(t->a, p->sa);
	if (strcmp(t->mesh.trust_domain, "cluster.local") != 0)
		w->trust_domain = weft_arena_strdup(t->a, t->mesh.trust_domain);
	if (*t->mesh.network)
		w->network = weft_arena_strdup(t->a, t->mesh.network);
	if (*p->node)
		w->node = weft_arena_strdup(t->a, p->node);
	w->workload_name = workload_name(t, p);
	w->canonical_name = first_label(t, p, names, w->workload_name);
	w->canonical_revision = first_label(t, p, revisions, "latest");
	w->has_workload_type = 1;
	w->workload_type = ISTIO__WORKLOAD__WORKLOAD__WORKLOAD_TYPE__POD;
	for (size_t i = 0; i < p->n_addrs; i++)
		TR_ADD(t, w->addresses, w->n_addresses,
		       ((ProtobufCBinaryData){weft_ip_bytes(&p->addrs[i]),
					      weft_arena_memdup(t->a, p->addrs[i].b,
								weft_ip_bytes(&p->addrs[i]))}));
	w->has_native_tunnel = w->native_tunnel =
		!p->pod->spec->host_network && tunnel && strstr(tunnel, "http");
	w->has_tunnel_protocol = 1;
	w->tunnel_protocol = p->enrolled || w->native_tunnel
				     ? ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE
				     : ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__NO_TUNNEL;
	w->has_status = 1;
	w->status = ready(p) ? ISTIO__WORKLOAD__WORKLOAD__STATUS__HEALTHY
			     : ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY;
	if (p->pod->spec->host_network) {
		w->has_network_mode = 1;
		w->network_mode = ISTIO__WORKLOAD__WORKLOAD__NETWORK_MODE__HOST_NETWORK;
	}
	pod_locality(t, p, w);
}

static int ip_order(const void *pa, const void *pb)
{
	const struct tr_ip *a = pa, *b = pb;
	int c = weft_ip_cmp(&a->ip, &b->ip);

	return c ? c : (a->pod > b->pod) - (a->pod < b->pod);
}

/* An address is whom policy thinks it talks to: of two pods on one address the later is left out.
 */
static void pods_ips(struct tr *t)
{
	size_t n = 0, kept = 0;
	char text[WEFT_IP_TEXT];

	for (size_t i = 0; i < t->n_pods; i++)
		n += t->pods[i].n_addrs;
	t->ips = weft_arena_alloc(t->a, n * sizeof(*t->ips));
	for (size_t i = 0; i < t->n_pods; i++)
		for (size_t k = 0; t->pods[i].live && !t->pods[i].pod->spec->host_network &&
				   k < t->pods[i].n_addrs;
		     k++)
			t->ips[t->n_ips++] = (struct tr_ip){t->pods[i].addrs[k], &t->pods[i]};
	qsort(t->ips, t->n_ips, sizeof(*t->ips), ip_order);
	for (size_t i = 0; i < t->n_ips; i++) {
		const struct tr_ip *first = kept ? &t->ips[kept - 1] : NULL;
		struct tr_pod *p = t->ips[i].pod;

		if (!first || !weft_ip_eq(&first->ip, &t->ips[i].ip)) {
			t->ips[kept++] = t->ips[i];
			continue;
		}
		tr_bad(t, p->o, p->pod->status, "pod_ips", -1, &path_ips,
		       "%s is also the address of Pod %.60s/%.60s (%s:%d)",
		       weft_ip_text(&first->ip, text, sizeof(text)), first->pod->o->ns,
		       first->pod->o->name, first->pod->o->file, first->pod->o->line);
		p->unusable = p->enrolled;
		p->live = p->enrolled = false;
	}
	t->n_ips = kept;
}

/* It names files: one that could not is not used. */
static const char *pod_uid(struct tr *t, const struct weft_object *o)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
	const char *uid = o->meta->uid;
	size_t n = uid ? strspn(uid, letters) : 0;

	if (n && n <= 64 && !uid[n])
		return weft_arena_strdup(t->a, uid);
	return weft_arena_printf(t->a, "%s_%s", o->ns, o->name);
}

void tr_pods(struct tr *t)
{
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_POD, &t->n_pods);

	t->pods = weft_arena_alloc(t->a, t->n_pods * sizeof(*t->pods));
	for (size_t i = 0; i < t->n_pods; i++) {
		struct tr_pod *p = &t->pods[i];
		const char *netns;

		p->o = &v[i];
		p->pod = (const Weft__Kube__Pod *)v[i].msg;
		p->sa = weft_arena_strdup(t->a, p->pod->spec->service_account_name &&
								*p->pod->spec->service_account_name
							? p->pod->spec->service_account_name
							: "default");
		p->node = weft_arena_strdup(t->a,
					    p->pod->spec->node_name ? p->pod->spec->node_name : "");
		p->identity = weft_arena_printf(t->a, "spiffe://%s/ns/%s/sa/%s",
						t->mesh.trust_domain, v[i].ns, p->sa);
		p->uid = pod_uid(t, &v[i]);
		netns = weft_meta_annotation(v[i].meta, "weft.io/netns");
		p->netns = netns ? weft_arena_strdup(t->a, netns) : NULL;
		p->source = tr_source(t, &v[i]);
		pod_addrs(t, p);
		p->live = p->n_addrs && !is_over(p);
		p->enrolled = p->live && enrolled(t, p);
		p->unusable = !p->n_addrs && !is_over(p) && enrolled(t, p) && netns;
		if (p->unusable)
			tr_bad(t, p->o, p->pod->status ? (const void *)p->pod->status : p->pod,
			       NULL, -1, &path_ips, "required to enrol a pod, but missing");
	}
	pods_ips(t);
	for (size_t i = 0; i < t->n_pods; i++) {
		if (!t->pods[i].live)
			continue;
		pod_workload(t, &t->pods[i]);
		tr_pod_waypoint(t, &t->pods[i]);
	}
}

static int membership_order(const void *a, const void *b)
{
	return strcmp((*(Istio__Workload__Workload__ServicesEntry *const *)a)->key,
		      (*(Istio__Workload__Workload__ServicesEntry *const *)b)->key);
}

void tr_pods_out(struct tr *t)
{
	char text[WEFT_IP_TEXT];

	for (size_t i = 0; i < t->n_pods; i++) {
		struct tr_pod *p = &t->pods[i];
		Istio__Workload__Address *m;
		const char **aliases = NULL;
		size_t n = 0;

		if (!p->live)
			continue;
		if (p->w->n_services)
			qsort(p->w->services, p->w->n_services, sizeof(void *), membership_order);
		for (size_t k = 0; !p->pod->spec->host_network && k < p->n_addrs; k++)
			TR_ADD(t, aliases, n,
			       weft_arena_printf(t->a, "%s/%s", t->mesh.network,
						 weft_ip_text(&p->addrs[k], text, sizeof(text))));
		if (n)
			TR_ADD(t, aliases, n, NULL);
		m = tr_new(t, &istio__workload__address__descriptor);
		m->type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
		m->workload = p->w;
		tr_out(t, &weft_xds_type_address, p->w->uid, &m->base, aliases, p->source);
	}
}

struct tr_pod *tr_pods_of(struct tr *t, const char *ns, size_t *ret_n)
{
	size_t lo = 0, hi = t->n_pods, end;

	while (ns && lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(t->pods[mid].o->ns, ns) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (end = ns ? lo : t->n_pods; end < t->n_pods && !strcmp(t->pods[end].o->ns, ns);)
		end++;
	*ret_n = end - lo;
	return t->pods + lo;
}

struct tr_pod *tr_pod_find(struct tr *t, const char *ns, const char *name)
{
	size_t lo = 0, hi = t->n_pods;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(t->pods[mid].o->ns, ns);

		c = c ? c : strcmp(t->pods[mid].o->name, name);
		if (!c)
			return &t->pods[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

struct tr_pod *tr_pod_by_ip(struct tr *t, const struct weft_ip *ip)
{
	size_t lo = 0, hi = t->n_ips;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = weft_ip_cmp(&t->ips[mid].ip, ip);

		if (!c)
			return t->ips[mid].pod;
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}
