/* Workload and Service messages → parts of the model. Everything that could be read two ways is
 * refused: a resource that is kept half would let traffic go where it should not. */
#include "proxy/core/arena.h"
#include "proxy/policy/model_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 253, UID_MAX = 1024, HBONE_PORT = 15008 };

#define AT(name, up_, field_, idx_)                                                                \
	const struct weft_path name = {.up = (up_), .field = (field_), .idx = (idx_)}

static const char *text(const char *s)
{
	return s ? s : "";
}

static bool full_prefix(const struct weft_cidr *c)
{
	return c->len == weft_ip_bytes(&c->ip) * 8;
}

/* A piece of a name or of a SPIFFE id: no slash, no control byte, not too long. */
static int text_check(const char *s, const char *field, struct weft_err *e)
{
	AT(at, NULL, field, -1);

	if (!s)
		return 0;
	if (strlen(s) > TEXT_MAX)
		return weft_fail(e, &at, EINVAL, "must have at most %d bytes, has %zu", TEXT_MAX,
				 strlen(s));
	for (; *s; s++)
		if (*s == '/' || (unsigned char)*s <= ' ' || *s == 0x7f)
			return weft_fail(e, &at, EINVAL,
					 "must not contain '/', blanks or control bytes");
	return 0;
}

static int port_check(uint32_t v, bool zero, const char *field, const struct weft_path *up,
		      struct weft_err *e)
{
	AT(at, up, field, -1);

	if (v > 65535 || (!v && !zero))
		return weft_fail(e, &at, EINVAL, "must be %s65535, is %u", zero ? "0.." : "1..", v);
	return 0;
}

static int enum_check(int v, int max, const char *field, struct weft_err *e)
{
	AT(at, NULL, field, -1);

	if (v < 0 || v > max)
		return weft_fail(e, &at, EINVAL, "unknown value %d", v);
	return 0;
}

int weft_cidr_decode(const ProtobufCBinaryData *b, const uint32_t *len, struct weft_cidr *ret,
		     const struct weft_path *at, struct weft_err *reterr)
{
	struct weft_ip ip;
	uint32_t n;

	if (weft_ip_from_bytes(b->data, b->len, &ip))
		return weft_fail(reterr, at, EINVAL, "an address must have 4 or 16 bytes, has %zu",
				 b->len);
	n = len ? *len : (uint32_t)b->len * 8;
	if (n > b->len * 8)
		return weft_fail(reterr, at, EINVAL, "prefix length must be 0..%zu, is %u",
				 b->len * 8, n);
	if (b->len == 16 && ip.family == 4) {
		if (n < 96)
			return weft_fail(
				reterr, at, EINVAL,
				"prefix length of a v4-mapped range must be 96..128, is %u", n);
		n -= 96;
	}
	return weft_cidr_make(&ip, n, ret);
}

static int key_check(const char *key, const struct weft_path *at, struct weft_err *e)
{
	const char *slash = key ? strchr(key, '/') : NULL;

	if (!slash || !slash[1] || strchr(slash + 1, '/'))
		return weft_fail(e, at, EINVAL, "must be namespace/hostname, is \"%s\"", text(key));
	return 0;
}

static int ports_check(Istio__Workload__Port *const *v, size_t n, const struct weft_path *up,
		       struct weft_err *e)
{
	int err = 0;

	for (size_t i = 0; !err && i < n; i++) {
		AT(at, up, "ports", (int)i);

		err = port_check(v[i]->service_port, false, "service_port", &at, e);
		if (!err)
			err = port_check(v[i]->target_port, true, "target_port", &at, e);
	}
	return err;
}

static void ports_fill(struct weft_port_map *to, Istio__Workload__Port *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (struct weft_port_map){(uint16_t)v[i]->service_port,
					       (uint16_t)v[i]->target_port};
}

static void gateway_done(const struct weft_gateway_ref *g)
{
	weft_intern_put(g->ns);
	weft_intern_put(g->hostname);
	weft_intern_put(g->network);
}

/* On failure nothing is held in g. */
static int gateway_decode(const Istio__Workload__GatewayAddress *m, const char *field, int idx,
			  struct weft_gateway_ref *g, struct weft_err *e)
{
	AT(at, NULL, field, idx);
	AT(at_address, &at, "address", -1);
	struct weft_cidr c;
	int err;

	if (!m)
		return 0;
	err = port_check(m->hbone_mtls_port, true, "hbone_mtls_port", &at, e);
	if (err)
		return err;
	switch (m->destination_case) {
	case ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME:
		if (!m->hostname->hostname || !*m->hostname->hostname)
			return weft_fail(e, &at, EINVAL, "hostname.hostname must be set");
		g->by_host = true;
		g->ns = weft_intern(m->hostname->namespace_);
		g->hostname = weft_intern(m->hostname->hostname);
		break;
	case ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS:
		if (m->address->has_length && m->address->length != m->address->address.len * 8)
			return weft_fail(e, &at_address, EINVAL,
					 "must be one address, has length %u", m->address->length);
		err = weft_cidr_decode(&m->address->address, NULL, &c, &at_address, e);
		if (err)
			return err;
		g->network = weft_intern(m->address->network);
		g->ip = c.ip;
		break;
	default:
		return weft_fail(e, &at, EINVAL, "must have a hostname or an address");
	}
	g->set = true;
	g->hbone_port = m->hbone_mtls_port ? (uint16_t)m->hbone_mtls_port : HBONE_PORT;
	return 0;
}

static int workload_check(const Istio__Workload__Workload *m, const char *name, struct weft_err *e)
{
	AT(at_uid, NULL, "uid", -1);
	AT(at_tunnel, NULL, "tunnel_protocol", -1);
	AT(at_app, NULL, "application_tunnel", -1);
	const struct {
		const char *s, *field;
	} texts[] = {{m->namespace_, "namespace"},
		     {m->hostname, "hostname"},
		     {m->network, "network"},
		     {m->trust_domain, "trust_domain"},
		     {m->service_account, "service_account"}};
	int err = 0;

	if (!m->uid || !*m->uid || strlen(m->uid) > UID_MAX)
		return weft_fail(e, &at_uid, EINVAL, "must have 1..%d bytes", UID_MAX);
	if (strcmp(m->uid, name) != 0)
		return weft_fail(e, &at_uid, EINVAL,
				 "must be the resource's name \"%.80s\", is \"%.80s\"", name,
				 m->uid);
	for (size_t i = 0; !err && i < sizeof(texts) / sizeof(texts[0]); i++)
		err = text_check(texts[i].s, texts[i].field, e);
	if (!err)
		err = enum_check((int)m->tunnel_protocol, 2, "tunnel_protocol", e);
	if (!err &&
	    m->tunnel_protocol == ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__LEGACY_ISTIO_MTLS)
		err = weft_fail(e, &at_tunnel, ENOTSUP, "LEGACY_ISTIO_MTLS is not supported");
	if (!err)
		err = enum_check((int)m->workload_type, 3, "workload_type", e);
	if (!err)
		err = enum_check((int)m->status, 1, "status", e);
	if (!err)
		err = enum_check((int)m->network_mode, 1, "network_mode", e);
	if (!err && m->application_tunnel)
		err = weft_fail(e, &at_app, ENOTSUP, "is not supported");
	for (size_t i = 0; !err && i < m->n_addresses; i++) {
		AT(at, NULL, "addresses", (int)i);
		struct weft_cidr c;

		err = weft_cidr_decode(&m->addresses[i], NULL, &c, &at, e);
	}
	for (size_t i = 0; !err && i < m->n_services; i++) {
		AT(at, NULL, "services", (int)i);

		err = key_check(m->services[i]->key, &at, e);
		if (!err && m->services[i]->value)
			err = ports_check(m->services[i]->value->ports,
					  m->services[i]->value->n_ports, &at, e);
	}
	for (size_t i = 0; !err && i < m->n_authorization_policies; i++) {
		AT(at, NULL, "authorization_policies", (int)i);

		err = key_check(m->authorization_policies[i], &at, e);
	}
	return err;
}

/* Where the next array of a part goes; sizes were added up before. */
static void *carve(char **at, size_t bytes)
{
	char *p = *at;

	*at += bytes;
	return p;
}

static char *identity_make(const struct weft_workload *w)
{
	char id[4 * TEXT_MAX + 32];
	int n;

	if (!*w->ns)
		return weft_intern(""); /* no Kubernetes identity: no certificate can match it */
	n = snprintf(id, sizeof(id), "spiffe://%s/ns/%s/sa/%s", w->trust_domain, w->ns, w->sa);
	return weft_intern_n(id, (size_t)n);
}

static void workload_texts(struct weft_workload *w, const Istio__Workload__Workload *m)
{
	static const char *const types[] = {"deployment", "cronjob", "pod", "job"};

	w->ns = weft_intern(m->namespace_);
	w->sa = weft_intern(*text(m->service_account) ? m->service_account : "default");
	w->trust_domain = weft_intern(*text(m->trust_domain) ? m->trust_domain : "cluster.local");
	w->network = weft_intern(m->network);
	w->node = weft_intern(m->node);
	w->cluster = weft_intern(*text(m->cluster_id) ? m->cluster_id : "Kubernetes");
	w->identity = identity_make(w);
	w->canonical_name = weft_intern(m->canonical_name);
	w->canonical_revision = weft_intern(m->canonical_revision);
	w->workload_name = weft_intern(m->workload_name);
	w->workload_type = weft_intern(types[m->workload_type]);
	w->hostname = weft_intern(m->hostname);
	w->region = weft_intern(m->locality ? m->locality->region : NULL);
	w->zone = weft_intern(m->locality ? m->locality->zone : NULL);
	w->subzone = weft_intern(m->locality ? m->locality->subzone : NULL);
	w->hbone = m->tunnel_protocol == ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
	w->healthy = m->status == ISTIO__WORKLOAD__WORKLOAD__STATUS__HEALTHY;
	w->host_network = m->network_mode == ISTIO__WORKLOAD__WORKLOAD__NETWORK_MODE__HOST_NETWORK;
	w->capacity = m->capacity ? m->capacity->value : 1;
}

static const Istio__Workload__PortList no_ports = ISTIO__WORKLOAD__PORT_LIST__INIT;

static const Istio__Workload__PortList *
entry_ports(const Istio__Workload__Workload__ServicesEntry *x)
{
	return x->value ? x->value : &no_ports;
}

/* One heap block: the struct, its arrays by falling alignment, uid and (unless it is uid's end)
 * name. */
static struct weft_workload *workload_alloc(const Istio__Workload__Workload *m,
					    const struct weft_gateway_ref *waypoint)
{
	size_t n_ports = 0, n_uid = strlen(m->uid), n_name = strlen(text(m->name));
	bool tail = n_name <= n_uid && !strcmp(m->uid + n_uid - n_name, text(m->name));
	struct weft_workload *w;
	char *at;

	for (size_t i = 0; i < m->n_services; i++)
		n_ports += entry_ports(m->services[i])->n_ports;
	w = weft_xcalloc(1, sizeof(*w) + (waypoint->set ? sizeof(*waypoint) : 0) +
				    m->n_services * sizeof(w->services[0]) +
				    m->n_authorization_policies * sizeof(w->policies[0]) +
				    n_ports * sizeof(struct weft_port_map) +
				    m->n_addresses * sizeof(w->addrs[0]) + n_uid + 1 +
				    (tail ? 0 : n_name + 1));
	atomic_init(&w->refs, 1);
	at = (char *)(w + 1);
	if (waypoint->set)
		w->waypoint = memcpy(carve(&at, sizeof(*waypoint)), waypoint, sizeof(*waypoint));
	w->n_services = m->n_services;
	w->services = carve(&at, m->n_services * sizeof(w->services[0]));
	w->n_policies = m->n_authorization_policies;
	w->policies = carve(&at, w->n_policies * sizeof(w->policies[0]));
	for (size_t i = 0; i < m->n_services; i++) {
		const Istio__Workload__PortList *ports = entry_ports(m->services[i]);

		w->services[i].n_ports = ports->n_ports;
		w->services[i].ports = carve(&at, ports->n_ports * sizeof(struct weft_port_map));
		ports_fill(w->services[i].ports, ports->ports, ports->n_ports);
		w->services[i].service = weft_intern(m->services[i]->key);
	}
	for (size_t i = 0; i < w->n_policies; i++)
		w->policies[i] = weft_intern(m->authorization_policies[i]);
	w->n_addrs = m->n_addresses;
	w->addrs = carve(&at, w->n_addrs * sizeof(w->addrs[0]));
	for (size_t i = 0; i < w->n_addrs; i++)
		weft_ip_from_bytes(m->addresses[i].data, m->addresses[i].len, &w->addrs[i]);
	w->uid = memcpy(carve(&at, n_uid + 1), m->uid, n_uid + 1);
	w->name = tail ? w->uid + n_uid - n_name
		       : memcpy(carve(&at, n_name + 1), m->name, n_name + 1);
	return w;
}

int weft_workload_decode(const Istio__Workload__Workload *m, const char *name,
			 struct weft_workload **ret, struct weft_err *reterr)
{
	struct weft_gateway_ref waypoint = {0}, gateway = {0};
	struct weft_workload *w;
	int err = workload_check(m, name, reterr);

	if (!err)
		err = gateway_decode(m->waypoint, "waypoint", -1, &waypoint, reterr);
	if (!err)
		err = gateway_decode(m->network_gateway, "network_gateway", -1, &gateway, reterr);
	if (err) {
		gateway_done(&waypoint);
		return err;
	}
	gateway_done(&gateway); /* other networks are not reached: checked, and not kept */
	w = workload_alloc(m, &waypoint);
	workload_texts(w, m);
	*ret = w;
	return 0;
}

struct weft_workload *weft_workload_ref(const struct weft_workload *cw)
{
	struct weft_workload *w = (struct weft_workload *)(uintptr_t)cw;

	if (w)
		atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
	return w;
}

void weft_workload_unref(struct weft_workload *w)
{
	if (!w || atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) != 1)
		return;
	char *const texts[] = {w->ns,
			       w->sa,
			       w->trust_domain,
			       w->network,
			       w->node,
			       w->cluster,
			       w->identity,
			       w->canonical_name,
			       w->canonical_revision,
			       w->workload_name,
			       w->workload_type,
			       w->hostname,
			       w->region,
			       w->zone,
			       w->subzone};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		weft_intern_put(texts[i]);
	for (size_t i = 0; i < w->n_services; i++)
		weft_intern_put(w->services[i].service);
	for (size_t i = 0; i < w->n_policies; i++)
		weft_intern_put(w->policies[i]);
	if (w->waypoint)
		gateway_done(w->waypoint);
	free(w);
}

/* ---- services */

static int lb_check(const Istio__Workload__LoadBalancing *lb, struct weft_err *e)
{
	AT(up, NULL, "load_balancing", -1);
	unsigned seen = 0;
	int err;

	if (!lb)
		return 0;
	err = enum_check((int)lb->mode, 3, "load_balancing.mode", e);
	if (!err)
		err = enum_check((int)lb->health_policy, 1, "load_balancing.health_policy", e);
	for (size_t i = 0; !err && i < lb->n_routing_preference; i++) {
		AT(at, &up, "routing_preference", (int)i);
		int scope = (int)lb->routing_preference[i];

		if (scope < 1 || scope > 6)
			err = weft_fail(e, &at, EINVAL, "must be REGION..NETWORK (1..6), is %d",
					scope);
		else if (seen & (1u << scope))
			err = weft_fail(e, &at, EINVAL, "%d is there twice", scope);
		seen |= 1u << scope;
	}
	return err;
}

static int service_check(const Istio__Workload__Service *m, const char *name, struct weft_err *e)
{
	AT(at_host, NULL, "hostname", -1);
	size_t n_ns = strlen(text(m->namespace_));
	int err;

	err = text_check(m->name, "name", e);
	if (!err)
		err = text_check(m->namespace_, "namespace", e);
	if (!err)
		err = text_check(m->hostname, "hostname", e);
	if (err)
		return err;
	if (!m->hostname || !*m->hostname)
		return weft_fail(e, &at_host, EINVAL, "must be set");
	if (strncmp(name, text(m->namespace_), n_ns) != 0 || name[n_ns] != '/' ||
	    strcmp(name + n_ns + 1, m->hostname) != 0)
		return weft_fail(e, NULL, EINVAL,
				 "namespace/hostname must be the resource's name \"%.80s\"", name);
	err = enum_check((int)m->ip_families, 3, "ip_families", e);
	if (!err)
		err = enum_check((int)m->visibility, 1, "visibility", e);
	if (!err)
		err = lb_check(m->load_balancing, e);
	if (!err)
		err = ports_check(m->ports, m->n_ports, NULL, e);
	for (size_t i = 0; !err && i < m->n_addresses; i++) {
		AT(at, NULL, "addresses", (int)i);
		const Istio__Workload__NetworkAddress *a = m->addresses[i];
		struct weft_cidr c;

		err = weft_cidr_decode(&a->address, a->has_length ? &a->length : NULL, &c, &at, e);
		if (!err && text_check(a->network, "network", NULL))
			err = weft_fail(e, &at, EINVAL,
					"network must not contain '/', blanks or control bytes");
	}
	return err;
}

/* spiffe://<td>/ns/<ns>/sa/<sa> with no empty piece */
static bool spiffe_ok(const char *s)
{
	const char *ns, *sa;

	if (strncmp(s, "spiffe://", 9) != 0)
		return false;
	s += 9;
	ns = strchr(s, '/');
	if (!ns || ns == s || strncmp(ns, "/ns/", 4) != 0)
		return false;
	ns += 4;
	sa = strchr(ns, '/');
	return sa && sa != ns && !strncmp(sa, "/sa/", 4) && sa[4] && !strchr(sa + 4, '/');
}

static void service_fill(struct weft_service *s, const Istio__Workload__Service *m,
			 const char *name)
{
	const Istio__Workload__LoadBalancing *lb = m->load_balancing;

	s->key = weft_intern(name);
	s->name = weft_intern(m->name);
	s->ns = weft_intern(m->namespace_);
	s->hostname = weft_intern(m->hostname);
	s->n_vips = m->n_addresses;
	s->vips = weft_xcalloc(s->n_vips, sizeof(s->vips[0]));
	for (size_t i = 0; i < s->n_vips; i++) {
		const Istio__Workload__NetworkAddress *a = m->addresses[i];

		weft_cidr_decode(&a->address, a->has_length ? &a->length : NULL, &s->vips[i].cidr,
				 NULL, NULL);
		s->vips[i].network = weft_intern(a->network);
	}
	s->n_ports = m->n_ports;
	s->ports = weft_xcalloc(s->n_ports, sizeof(s->ports[0]));
	ports_fill(s->ports, m->ports, m->n_ports);
	s->sans = weft_xcalloc(m->n_subject_alt_names, sizeof(s->sans[0]));
	for (size_t i = 0; i < m->n_subject_alt_names; i++)
		if (spiffe_ok(m->subject_alt_names[i]))
			s->sans[s->n_sans++] = weft_intern(m->subject_alt_names[i]);
	s->ip_families = (uint8_t)m->ip_families;
	s->canonical = m->canonical;
	s->private_ns = m->visibility == ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE;
	if (!lb)
		return;
	s->lb_mode = (uint8_t)lb->mode;
	s->all_health =
		lb->health_policy == ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
	for (size_t i = 0; i < lb->n_routing_preference; i++)
		s->scopes[s->n_scopes++] = (uint8_t)lb->routing_preference[i];
}

int weft_service_decode(const Istio__Workload__Service *m, const char *name,
			struct weft_service **ret, struct weft_err *reterr)
{
	struct weft_service *s;
	int err = service_check(m, name, reterr);

	if (err)
		return err;
	s = weft_xcalloc(1, sizeof(*s));
	atomic_init(&s->refs, 1);
	service_fill(s, m, name);
	err = gateway_decode(m->waypoint, "waypoint", -1, &s->waypoint, reterr);
	s->weighted_waypoints =
		weft_xcalloc(m->n_weighted_waypoints, sizeof(s->weighted_waypoints[0]));
	for (size_t i = 0; !err && i < m->n_weighted_waypoints; i++) {
		const Istio__Workload__WeightedWaypoint *x = m->weighted_waypoints[i];
		AT(at, NULL, "weighted_waypoints", (int)i);

		if (!x->destination)
			err = weft_fail(reterr, &at, EINVAL, "destination must be set");
		else
			err = gateway_decode(x->destination, "weighted_waypoints", (int)i,
					     &s->weighted_waypoints[i].to, reterr);
		s->weighted_waypoints[i].weight = x->weight;
		s->n_weighted++;
	}
	if (err) {
		weft_service_unref(s);
		return err;
	}
	*ret = s;
	return 0;
}

struct weft_service *weft_service_ref(const struct weft_service *cs)
{
	struct weft_service *s = (struct weft_service *)(uintptr_t)cs;

	if (s)
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void weft_service_unref(struct weft_service *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	weft_intern_put(s->key);
	weft_intern_put(s->name);
	weft_intern_put(s->ns);
	weft_intern_put(s->hostname);
	for (size_t i = 0; i < s->n_vips; i++)
		weft_intern_put(s->vips[i].network);
	for (size_t i = 0; i < s->n_sans; i++)
		weft_intern_put(s->sans[i]);
	for (size_t i = 0; i < s->n_weighted; i++)
		gateway_done(&s->weighted_waypoints[i].to);
	gateway_done(&s->waypoint);
	free(s->vips);
	free(s->ports);
	free(s->sans);
	free(s->weighted_waypoints);
	free(s);
}

bool weft_service_has_vip(const struct weft_service *s, const char *network,
			  const struct weft_ip *ip)
{
	for (size_t i = 0; i < s->n_vips; i++)
		if (full_prefix(&s->vips[i].cidr) && weft_ip_eq(&s->vips[i].cidr.ip, ip) &&
		    !strcmp(s->vips[i].network, network))
			return true;
	return false;
}
