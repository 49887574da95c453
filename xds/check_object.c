/* Checks of the core Kubernetes kinds and of MeshConfig, each object by itself. */
#include "xds/check_priv.h"
#include "xds/yaml_priv.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct weft_mark check_at(const struct check *c, const void *m, const char *field, int idx)
{
	return weft_marks_get(c->o->marks, m, field, idx);
}

static void tell(const struct check *c, struct weft_err *e, struct weft_mark k,
		 const struct weft_path *at, const char *fmt, va_list ap)
	__attribute__((format(printf, 5, 0)));
static void tell(const struct check *c, struct weft_err *e, struct weft_mark k,
		 const struct weft_path *at, const char *fmt, va_list ap)
{
	weft_vfail(e, at, EINVAL, fmt, ap);
	if (e)
		yaml_err_place(e, c->o->file, k.line, k.col);
}

void check_bad(struct check *c, struct weft_mark k, const struct weft_path *at, const char *fmt,
	       ...)
{
	va_list ap;

	(*c->n_errors)++;
	va_start(ap, fmt);
	tell(c, weft_errs_next(c->errs), k, at, fmt, ap);
	va_end(ap);
}

void check_note(struct check *c, struct weft_mark k, const struct weft_path *at, const char *fmt,
		...)
{
	va_list ap;

	va_start(ap, fmt);
	tell(c, weft_errs_next(c->notes), k, at, fmt, ap);
	va_end(ap);
}

bool check_dns_label(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return n && n <= 63 && !s[n] && s[0] != '-' && s[n - 1] != '-';
}

bool check_dns_name(const char *s)
{
	char label[64];

	if (strlen(s) > 253)
		return false;
	for (;;) {
		size_t n = strcspn(s, ".");

		if (n >= sizeof(label))
			return false;
		memcpy(label, s, n);
		label[n] = '\0';
		if (!check_dns_label(label))
			return false;
		if (!s[n])
			return true;
		s += n + 1;
	}
}

bool check_label_value(const char *s)
{
	size_t n = strlen(s);

	if (n == 0)
		return true;
	if (n > 63 || !isalnum((unsigned char)s[0]) || !isalnum((unsigned char)s[n - 1]))
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-_.", *s))
			return false;
	return true;
}

bool check_label_key(const char *s)
{
	const char *slash = strchr(s, '/');
	char prefix[256];

	if (slash) {
		if ((size_t)(slash - s) >= sizeof(prefix))
			return false;
		memcpy(prefix, s, (size_t)(slash - s));
		prefix[slash - s] = '\0';
		if (!check_dns_name(prefix))
			return false;
		s = slash + 1;
	}
	return *s && check_label_value(s);
}

bool check_trust_domain(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-._");

	return n && n <= 255 && !s[n];
}

int check_port_text(const char *s)
{
	size_t n = strspn(s, "0123456789");
	int v = n && n <= 5 && !s[n] && s[0] != '0' ? atoi(s) : 0;

	return v <= 65535 ? v : 0;
}

void check_one_of(struct check *c, const struct weft_path *at, struct weft_mark k, const char *s,
		  const char *const *v)
{
	char all[160] = "";
	size_t n = 0, used = 0;
	const char *near;

	if (!s)
		return;
	for (; v[n]; n++) {
		if (!strcmp(s, v[n]))
			return;
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s",
						 n ? ", " : "", v[n]);
	}
	near = weft_suggest(s, v, n);
	check_bad(c, k, at, "must be %s%s, is \"%.64s\"%s%s%s", n > 1 ? "one of " : "", all, s,
		  near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static void check_labels(struct check *c, const struct weft_path *meta)
{
	const Weft__Kube__ObjectMeta *m = c->o->meta;
	const struct weft_path up = {meta, "labels", -1};

	for (size_t i = 0; i < m->n_labels; i++) {
		const Weft__Kube__ObjectMeta__LabelsEntry *e = m->labels[i];
		const struct weft_path at = {&up, e->key, -1};

		if (!check_label_key(e->key))
			check_bad(c, check_at(c, e, NULL, -1), &at, "is not a label's name");
		if (!check_label_value(e->value))
			check_bad(c, check_at(c, e, "value", -1), &at,
				  "must be at most 63 letters, digits and -_. inside, is \"%.80s\"",
				  e->value);
	}
}

static struct weft_mark label_at(struct check *c, const char *key)
{
	const Weft__Kube__ObjectMeta *m = c->o->meta;

	for (size_t i = 0; i < m->n_labels; i++)
		if (!strcmp(m->labels[i]->key, key))
			return check_at(c, m->labels[i], "value", -1);
	for (size_t i = 0; i < m->n_annotations; i++)
		if (!strcmp(m->annotations[i]->key, key))
			return check_at(c, m->annotations[i], "value", -1);
	return check_at(c, m, NULL, -1);
}

static void label_one_of(struct check *c, const char *key, const char *const *v)
{
	const struct weft_path meta = {NULL, "metadata", -1}, up = {&meta, "labels", -1};
	const struct weft_path at = {&up, key, -1};

	check_one_of(c, &at, label_at(c, key), weft_meta_label(c->o->meta, key), v);
}

static void label_dns(struct check *c, const char *key)
{
	const struct weft_path meta = {NULL, "metadata", -1}, up = {&meta, "labels", -1};
	const struct weft_path at = {&up, key, -1};
	const char *s = weft_meta_label(c->o->meta, key);

	if (s && !check_dns_label(s))
		check_bad(c, label_at(c, key), &at, "must be a name or none, is \"%.64s\"", s);
}

/* Labels by which the mesh is told something; a mistake in them would silently do nothing. */
static void check_mesh_labels(struct check *c)
{
	static const char *const mesh[] = {"enabled", "none", NULL};
	static const char *const mode[] = {"ambient", "none", NULL};

	label_one_of(c, "weft.io/mesh", mesh);
	label_one_of(c, "istio.io/dataplane-mode", mode);
	label_dns(c, "istio.io/use-waypoint");
	label_dns(c, "istio.io/use-waypoint-namespace");
}

static void check_traffic_annotation(struct check *c, const char *const *v)
{
	static const char key[] = "networking.istio.io/traffic-distribution";
	const struct weft_path meta = {NULL, "metadata", -1}, up = {&meta, "annotations", -1};
	const struct weft_path at = {&up, key, -1};

	check_one_of(c, &at, label_at(c, key), weft_meta_annotation(c->o->meta, key), v);
}

static const char *const distributions[] = {"PreferClose", "PreferSameZone", "PreferSameNode",
					    NULL};

void check_meta(struct check *c, bool label)
{
	const struct weft_object *o = c->o;
	const struct weft_path meta = {NULL, "metadata", -1};
	const struct weft_path name = {&meta, "name", -1}, ns = {&meta, "namespace", -1};

	if (!*o->name)
		check_bad(c, check_at(c, o->meta, "name", -1), &name, "required, but missing");
	else if (label ? !check_dns_label(o->name) : !check_dns_name(o->name))
		check_bad(c, check_at(c, o->meta, "name", -1), &name,
			  "must be a DNS %s of lower-case letters, digits and '-', is \"%.64s\"",
			  label ? "label" : "name", o->name);
	if (o->kind->no_ns && *o->ns)
		check_bad(c, check_at(c, o->meta, "namespace", -1), &ns,
			  "a %s belongs to no namespace; leave it out", o->kind->kind);
	else if (!o->kind->no_ns && !*o->ns)
		check_bad(c, check_at(c, o->meta, "namespace", -1), &ns,
			  "required, but missing: a folder has no default namespace");
	else if (*o->ns && !check_dns_label(o->ns))
		check_bad(c, check_at(c, o->meta, "namespace", -1), &ns,
			  "must be a DNS label of lower-case letters, digits and '-', is \"%.64s\"",
			  o->ns);
	check_labels(c, &meta);
}

void check_namespace(struct check *c)
{
	check_meta(c, true);
	check_mesh_labels(c);
	check_traffic_annotation(c, distributions);
}

void check_node(struct check *c)
{
	check_meta(c, false);
}

void check_service_account(struct check *c)
{
	check_meta(c, false);
}

static void check_port(struct check *c, const struct weft_path *up, const char *name,
		       const ProtobufCMessage *m, const char *field, int32_t port)
{
	const struct weft_path at = {up, name, -1};

	if (port < 1 || port > 65535)
		check_bad(c, check_at(c, m, field, -1), &at, "must be 1..65535, is %d", port);
}

static const char *const protocols[] = {"TCP", "UDP", "SCTP", NULL};

static bool check_ip(struct check *c, const struct weft_path *at, struct weft_mark k, const char *s,
		     struct weft_ip *ret)
{
	struct weft_ip ip;

	if (weft_ip_parse(s, ret ? ret : &ip) == 0)
		return true;
	check_bad(c, k, at, "must be an IP address, is \"%.64s\"", s);
	return false;
}

static void check_containers(struct check *c, const Weft__Kube__PodSpec *spec,
			     const struct weft_path *up)
{
	for (size_t i = 0; i < spec->n_containers; i++) {
		const struct weft_path container = {up, "containers", (int)i};

		for (size_t k = 0; k < spec->containers[i]->n_ports; k++) {
			const Weft__Kube__ContainerPort *p = spec->containers[i]->ports[k];
			const struct weft_path at = {&container, "ports", (int)k};
			const struct weft_path proto = {&at, "protocol", -1};

			check_port(c, &at, "containerPort", &p->base, "container_port",
				   p->container_port);
			check_one_of(c, &proto, check_at(c, p, "protocol", -1), p->protocol,
				     protocols);
		}
	}
}

static void check_pod_status(struct check *c, const Weft__Kube__PodStatus *s)
{
	static const char *const phases[] = {"Pending", "Running", "Succeeded",
					     "Failed",	"Unknown", NULL};
	const struct weft_path up = {NULL, "status", -1}, phase = {&up, "phase", -1};
	const struct weft_path pod_ip = {&up, "podIP", -1};
	bool listed = s->n_pod_ips == 0;

	check_one_of(c, &phase, check_at(c, s, "phase", -1), s->phase, phases);
	if (s->pod_ip)
		check_ip(c, &pod_ip, check_at(c, s, "pod_ip", -1), s->pod_ip, NULL);
	for (size_t i = 0; i < s->n_pod_ips; i++) {
		const Weft__Kube__PodIP *ip = s->pod_ips[i];
		const struct weft_path at = {&up, "podIPs", (int)i}, field = {&at, "ip", -1};

		if (!ip->ip)
			check_bad(c, check_at(c, ip, NULL, -1), &field, "required, but missing");
		else
			check_ip(c, &field, check_at(c, ip, "ip", -1), ip->ip, NULL);
		listed |= ip->ip && s->pod_ip && !strcmp(ip->ip, s->pod_ip);
	}
	if (s->pod_ip && !listed)
		check_bad(c, check_at(c, s, "pod_ip", -1), &pod_ip,
			  "must be one of podIPs, is \"%.64s\"", s->pod_ip);
}

static void check_netns(struct check *c)
{
	static const char key[] = "weft.io/netns";
	const struct weft_path meta = {NULL, "metadata", -1}, up = {&meta, "annotations", -1};
	const struct weft_path at = {&up, key, -1};
	const char *path = weft_meta_annotation(c->o->meta, key);

	if (path && (path[0] != '/' || strstr(path, "/../")))
		check_bad(c, label_at(c, key), &at,
			  "must be the absolute path of a network namespace, is \"%.80s\"", path);
}

void check_pod(struct check *c)
{
	const Weft__Kube__Pod *p = (const Weft__Kube__Pod *)c->o->msg;
	const struct weft_path spec = {NULL, "spec", -1}, sa = {&spec, "serviceAccountName", -1};
	const struct weft_path node = {&spec, "nodeName", -1};

	check_meta(c, false);
	check_mesh_labels(c);
	check_netns(c);
	if (p->spec->service_account_name && !check_dns_name(p->spec->service_account_name))
		check_bad(c, check_at(c, p->spec, "service_account_name", -1), &sa,
			  "must be a DNS name, is \"%.64s\"", p->spec->service_account_name);
	if (p->spec->node_name && !check_dns_name(p->spec->node_name))
		check_bad(c, check_at(c, p->spec, "node_name", -1), &node,
			  "must be a DNS name, is \"%.64s\"", p->spec->node_name);
	check_containers(c, p->spec, &spec);
	if (p->status)
		check_pod_status(c, p->status);
}

static void check_target_port(struct check *c, const struct weft_path *up,
			      const Weft__Kube__ServicePort *p)
{
	const struct weft_path at = {up, "targetPort", -1};
	const char *s = p->target_port;

	if (!s)
		return;
	if (s[strspn(s, "0123456789")] ? !check_dns_label(s) || strlen(s) > 15
				       : !check_port_text(s))
		check_bad(c, check_at(c, p, "target_port", -1), &at,
			  "must be 1..65535 or a container port's name, is \"%.64s\"", s);
}

static void check_service_ports(struct check *c, const Weft__Kube__ServiceSpec *spec,
				const struct weft_path *up)
{
	for (size_t i = 0; i < spec->n_ports; i++) {
		const Weft__Kube__ServicePort *p = spec->ports[i];
		const struct weft_path at = {up, "ports", (int)i}, name = {&at, "name", -1};
		const struct weft_path proto = {&at, "protocol", -1};

		check_port(c, &at, "port", &p->base, "port", p->port);
		check_target_port(c, &at, p);
		check_one_of(c, &proto, check_at(c, p, "protocol", -1), p->protocol, protocols);
		if (!p->name && spec->n_ports > 1)
			check_bad(c, check_at(c, p, NULL, -1), &name,
				  "required where a Service has several ports");
		for (size_t k = 0; k < i; k++) {
			const Weft__Kube__ServicePort *q = spec->ports[k];
			struct weft_mark first = check_at(c, q, "name", -1);

			if (p->name && q->name && !strcmp(p->name, q->name))
				check_bad(c, check_at(c, p, "name", -1), &name,
					  "\"%.40s\" is given twice; first at %d:%d", p->name,
					  first.line, first.col);
		}
	}
}

static bool is_none(const char *s)
{
	return !*s || !strcmp(s, "None");
}

void check_service(struct check *c)
{
	static const char *const types[] = {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName",
					    NULL};
	static const char *const policies[] = {"Cluster", "Local", NULL};
	static const char *const families[] = {"IPv4", "IPv6", NULL};
	const Weft__Kube__ServiceSpec *s = ((const Weft__Kube__Service *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1}, type = {&up, "type", -1};
	const struct weft_path ip = {&up, "clusterIP", -1};
	const struct weft_path policy = {&up, "internalTrafficPolicy", -1};
	const struct weft_path distribution = {&up, "trafficDistribution", -1};

	check_meta(c, true);
	check_mesh_labels(c);
	check_traffic_annotation(c, distributions);
	check_one_of(c, &type, check_at(c, s, "type", -1), s->type, types);
	check_one_of(c, &policy, check_at(c, s, "internal_traffic_policy", -1),
		     s->internal_traffic_policy, policies);
	check_one_of(c, &distribution, check_at(c, s, "traffic_distribution", -1),
		     s->traffic_distribution, distributions);
	if (s->cluster_ip && !is_none(s->cluster_ip))
		check_ip(c, &ip, check_at(c, s, "cluster_ip", -1), s->cluster_ip, NULL);
	for (size_t i = 0; i < s->n_cluster_ips; i++) {
		const struct weft_path at = {&up, "clusterIPs", (int)i};

		if (!is_none(s->cluster_ips[i]))
			check_ip(c, &at, check_at(c, s, "cluster_ips", (int)i), s->cluster_ips[i],
				 NULL);
	}
	for (size_t i = 0; i < s->n_ip_families; i++) {
		const struct weft_path at = {&up, "ipFamilies", (int)i};

		check_one_of(c, &at, check_at(c, s, "ip_families", (int)i), s->ip_families[i],
			     families);
	}
	check_service_ports(c, s, &up);
}

static void check_endpoint(struct check *c, const Weft__Kube__Endpoint *e, int family,
			   const struct weft_path *up)
{
	const struct weft_path none = {up, "addresses", -1};

	if (e->n_addresses == 0)
		check_bad(c, check_at(c, e, NULL, -1), &none, "required, but missing");
	for (size_t i = 0; i < e->n_addresses; i++) {
		const struct weft_path at = {up, "addresses", (int)i};
		struct weft_mark k = check_at(c, e, "addresses", (int)i);
		struct weft_ip ip;

		if (family && check_ip(c, &at, k, e->addresses[i], &ip) && ip.family != family)
			check_bad(c, k, &at, "addressType is IPv%d, is \"%.64s\"", family,
				  e->addresses[i]);
	}
}

void check_endpoint_slice(struct check *c)
{
	static const char *const types[] = {"IPv4", "IPv6", "FQDN", NULL};
	const Weft__Kube__EndpointSlice *s = (const Weft__Kube__EndpointSlice *)c->o->msg;
	const struct weft_path type = {NULL, "addressType", -1};
	const char *t = s->address_type;
	int family = t && !strcmp(t, "IPv4") ? 4 : t && !strcmp(t, "IPv6") ? 6 : 0;

	check_meta(c, false);
	if (!t)
		check_bad(c, check_at(c, s, NULL, -1), &type, "required, but missing");
	check_one_of(c, &type, check_at(c, s, "address_type", -1), t, types);
	if (t && !strcmp(t, "FQDN"))
		check_note(c, check_at(c, s, "address_type", -1), &type,
			   "endpoints by name are not used");
	for (size_t i = 0; i < s->n_endpoints; i++) {
		const struct weft_path at = {NULL, "endpoints", (int)i};

		check_endpoint(c, s->endpoints[i], family, &at);
	}
	for (size_t i = 0; i < s->n_ports; i++) {
		const struct weft_path at = {NULL, "ports", (int)i}, proto = {&at, "protocol", -1};

		if (s->ports[i]->has_port)
			check_port(c, &at, "port", &s->ports[i]->base, "port", s->ports[i]->port);
		check_one_of(c, &proto, check_at(c, s->ports[i], "protocol", -1),
			     s->ports[i]->protocol, protocols);
	}
}

static void check_cert_ttl(struct check *c, const Weft__Kube__MeshConfigSpec *s,
			   const struct weft_path *up)
{
	const struct weft_path at = {up, "certTtl", -1};
	int64_t v = s->cert_ttl ? s->cert_ttl->seconds : 86400;
	char text[48];

	if (v >= 10 && v <= 366 * 86400)
		return;
	yaml_duration_text(v, s->cert_ttl->nanos, text, sizeof(text));
	check_bad(c, check_at(c, s, "cert_ttl", -1), &at, "must be 10s..8784h, is %s", text);
}

static void check_authorizer(struct check *c, const struct weft_path *at, const void *m,
			     const char *service, int32_t port, const char *status)
{
	const char *slash = service ? strchr(service, '/') : NULL;
	int code = status ? check_port_text(status) : 403;

	check_required(c, at, m, "service", "service", service);
	if (service && *service && !check_hostname(slash ? slash + 1 : service, false))
		check_bad(c, check_at(c, m, "service", -1), &(struct weft_path){at, "service", -1},
			  "must be HOST or NAMESPACE/HOST, is \"%.80s\"", service);
	check_number(c, at, m, "port", "port", port, 1, 65535);
	if (code < 200 || code > 599)
		check_bad(c, check_at(c, m, "status_on_error", -1),
			  &(struct weft_path){at, "statusOnError", -1},
			  "must be 200..599, is \"%.20s\"", status);
}

static void check_provider(struct check *c, const struct weft_path *at,
			   Weft__Kube__MeshExtensionProvider *const *v, size_t i)
{
	const struct weft_path http = {at, "envoyExtAuthzHttp", -1};
	const struct weft_path grpc = {at, "envoyExtAuthzGrpc", -1};
	const Weft__Kube__ExtAuthzHttp *h = v[i]->envoy_ext_authz_http;
	const Weft__Kube__ExtAuthzGrpc *g = v[i]->envoy_ext_authz_grpc;

	check_required(c, at, v[i], "name", "name", v[i]->name);
	for (size_t k = 0; k < i; k++)
		if (v[i]->name && v[k]->name && !strcmp(v[i]->name, v[k]->name))
			check_bad(c, check_at(c, v[i], "name", -1),
				  &(struct weft_path){at, "name", -1}, "\"%.60s\" is given twice",
				  v[i]->name);
	if (!h == !g)
		check_bad(c, check_at(c, v[i], NULL, -1), at,
			  "must have one of envoyExtAuthzHttp, envoyExtAuthzGrpc");
	if (h)
		check_authorizer(c, &http, h, h->service, h->port, h->status_on_error);
	if (g)
		check_authorizer(c, &grpc, g, g->service, g->port, g->status_on_error);
}

void check_mesh_config(struct check *c)
{
	const Weft__Kube__MeshConfigSpec *s = ((const Weft__Kube__MeshConfig *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1}, domain = {&up, "trustDomain", -1};
	const struct weft_path root = {&up, "rootNamespace", -1}, network = {&up, "network", -1};

	check_meta(c, false);
	if (s->trust_domain && !check_trust_domain(s->trust_domain))
		check_bad(c, check_at(c, s, "trust_domain", -1), &domain,
			  "must be 1..255 lower-case letters, digits and -._, is \"%.64s\"",
			  s->trust_domain);
	if (s->root_namespace && !check_dns_label(s->root_namespace))
		check_bad(c, check_at(c, s, "root_namespace", -1), &root,
			  "must be a namespace's name, is \"%.64s\"", s->root_namespace);
	if (s->network && !check_label_value(s->network))
		check_bad(c, check_at(c, s, "network", -1), &network,
			  "must be at most 63 letters, digits and -_. inside, is \"%.80s\"",
			  s->network);
	check_cert_ttl(c, s, &up);
	for (size_t i = 0; i < s->n_extension_providers; i++)
		check_provider(c, &(struct weft_path){&up, "extensionProviders", (int)i},
			       s->extension_providers, i);
	for (size_t i = 0; i < s->n_excluded_namespaces; i++) {
		const struct weft_path at = {&up, "excludedNamespaces", (int)i};

		if (!check_dns_label(s->excluded_namespaces[i]))
			check_bad(c, check_at(c, s, "excluded_namespaces", (int)i), &at,
				  "must be a namespace's name, is \"%.64s\"",
				  s->excluded_namespaces[i]);
	}
}
