/* A ClusterLoadAssignment into a set of hosts; who stays keeps its object, and so its connections.
 */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster_int.h"
#include "xds/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

typedef Envoy__Config__Endpoint__V3__ClusterLoadAssignment Assignment;
typedef Envoy__Config__Endpoint__V3__LocalityLbEndpoints Locality;
typedef Envoy__Config__Endpoint__V3__LbEndpoint Endpoint;
typedef Envoy__Config__Core__V3__Metadata Metadata;

struct raw {			/* an endpoint before it has its place in the set */
	struct weft_host *host; /* referenced */
	const Metadata *metadata, *locality_metadata;
	struct weft_locality locality;
	uint32_t weight, priority, locality_weight;
	size_t order;
};
struct known { /* a host by its text */
	UT_hash_handle hh;
	struct weft_host *host;
	uint32_t priority; /* of this update; UINT32_MAX: not in it so far */
};
struct maker {
	struct weft_cfg *c;
	const struct hosts_want *want;
	struct raw *v;
	size_t n, cap, nth; /* nth: endpoints met so far */
	struct known *known;
	int err;
};

static const char *text(const char *s)
{
	return s ? s : "";
}

/* ---- addresses */
static int ip_address(struct maker *k, const struct weft_path *at,
		      const Envoy__Config__Core__V3__SocketAddress *m, struct weft_sockaddr *ret)
{
	const struct weft_path address = {at, "address", -1};

	if (weft_ip_parse(text(m->address), &ret->ip))
		return weft_cfg_fail(k->c, &address,
				     "must be an IP address in a cluster that is not of type "
				     "STRICT_DNS or LOGICAL_DNS, is \"%s\"",
				     text(m->address));
	ret->port = (uint16_t)m->port_value;
	return 0;
}

static int socket_address(struct maker *k, const struct weft_path *at,
			  const Envoy__Config__Core__V3__SocketAddress *m)
{
	const struct weft_path protocol = {at, "protocol", -1}, named = {at, "named_port", -1},
			       port = {at, "port_value", -1};

	if (m->protocol != ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PROTOCOL__TCP)
		return weft_cfg_fail(k->c, &protocol, "UDP is not supported for upstream hosts");
	if (m->port_specifier_case ==
	    ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_NAMED_PORT)
		return weft_cfg_fail(k->c, &named, "is not supported: give port_value");
	if (!m->port_value || m->port_value > 65535)
		return weft_cfg_fail(k->c, &port, "must be 1..65535, is %u", m->port_value);
	return 0;
}

static int pipe_address(struct maker *k, const struct weft_path *at, const char *path)
{
	const struct weft_path p = {at, "path", -1};

	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return weft_cfg_fail(k->c, &p, "must be at most %zu bytes long, is %zu",
				     sizeof(((struct sockaddr_un *)0)->sun_path) - 1, strlen(path));
	return 0;
}

static bool by_name(const struct weft_cluster *c)
{
	return c->type == WEFT_CLUSTER_STRICT_DNS || c->type == WEFT_CLUSTER_LOGICAL_DNS;
}

/* Checks it, and fills conf but where the address has to be resolved. */
static int address(struct maker *k, const struct weft_path *at,
		   const Envoy__Config__Core__V3__Address *m, struct weft_host_conf *conf)
{
	const struct weft_path sock = {at, "socket_address", -1}, pipe = {at, "pipe", -1};
	int err;

	switch (m->address_case) {
	case ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS:
		err = socket_address(k, &sock, m->socket_address);
		if (err)
			return err;
		conf->addr.port = (uint16_t)m->socket_address->port_value;
		return by_name(k->want->cluster)
			       ? 0
			       : ip_address(k, &sock, m->socket_address, &conf->addr);
	case ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_PIPE:
		if (by_name(k->want->cluster))
			return weft_cfg_fail(k->c, &pipe, "has no name to resolve");
		conf->unix_path = text(m->pipe->path);
		return pipe_address(k, &pipe, conf->unix_path);
	default:
		return weft_cfg_fail(k->c, at, "must be a socket_address or a pipe");
	}
}

/* ---- hosts */
static struct known *known_find(struct maker *k, const char *name)
{
	struct known *n;

	HASH_FIND(hh, k->known, name, strlen(name), n);
	return n;
}

static void known_add(struct maker *k, struct weft_host *h, uint32_t priority)
{
	struct known *n = weft_xcalloc(1, sizeof(*n));

	n->host = h;
	n->priority = priority;
	HASH_ADD_KEYPTR(hh, k->known, h->text, strlen(h->text), n);
}

static void known_free(struct maker *k)
{
	struct known *n, *next;

	HASH_ITER (hh, k->known, n, next) {
		HASH_DEL(k->known, n); /* NOLINT(clang-analyzer-*): next was read before */
		free(n);
	}
}

static struct weft_host *host_make(const struct weft_cluster *c, const struct weft_host_conf *conf)
{
	struct weft_host *h = weft_host_new(conf);

	if (c->n_health && !h->hc_disabled)
		atomic_store(&h->flags, WEFT_HOST_PENDING_ACTIVE_HC | WEFT_HOST_FAILED_ACTIVE_HC);
	if (c->outlier)
		weft_outlier_host_init(h);
	return h;
}

/* What the assignment says of a host's health; its other flags stay. */
static void set_status(struct weft_host *h, Envoy__Config__Core__V3__HealthStatus status)
{
	const uint32_t all = WEFT_HOST_FAILED_EDS | WEFT_HOST_DRAINING_EDS |
			     WEFT_HOST_DEGRADED_EDS | WEFT_HOST_PENDING_REMOVAL;
	uint32_t set = 0, was = atomic_load(&h->flags);

	if (status == ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNHEALTHY ||
	    status == ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__TIMEOUT)
		set = WEFT_HOST_FAILED_EDS;
	else if (status == ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DRAINING)
		set = WEFT_HOST_DRAINING_EDS;
	else if (status == ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DEGRADED)
		set = WEFT_HOST_DEGRADED_EDS;
	while (!atomic_compare_exchange_weak(&h->flags, &was, (was & ~all) | set))
		;
}

static void raw_add(struct maker *k, const struct raw *r)
{
	if (k->n == k->cap) {
		k->cap = k->cap ? 2 * k->cap : 4;
		k->v = weft_xrealloc(k->v, k->cap * sizeof(*k->v));
	}
	k->v[k->n] = *r;
	k->v[k->n].order = k->n;
	k->n++;
}

/* The host that is there already, or a new one. One that stands twice in a priority counts once,
 * but in a static cluster. */
static void host_add(struct maker *k, const struct weft_host_conf *conf, struct raw *r,
		     Envoy__Config__Core__V3__HealthStatus status)
{
	char name[WEFT_SOCKADDR_TEXT];
	const char *key = conf->unix_path ? conf->unix_path
					  : weft_sockaddr_text(&conf->addr, name, sizeof(name));
	struct known *n = known_find(k, key);

	if (n && n->priority == r->priority && k->want->cluster->type != WEFT_CLUSTER_STATIC)
		return;
	if (n && weft_host_is(n->host, conf)) {
		r->host = n->host;
		weft_host_ref(r->host);
		n->priority = r->priority;
	} else {
		r->host = host_make(k->want->cluster, conf);
		if (n) {
			HASH_DEL(k->known, n);
			free(n);
		}
		known_add(k, r->host, r->priority);
	}
	set_status(r->host, status);
	raw_add(k, r);
}

/* ---- endpoints */
static int check_config(struct maker *k, const struct weft_path *at,
			const Envoy__Config__Endpoint__V3__Endpoint__HealthCheckConfig *m,
			struct weft_host_conf *conf)
{
	const struct weft_path a = {at, "address", -1}, port = {at, "port_value", -1};
	struct weft_host_conf hc = {0};

	if (!m)
		return 0;
	conf->hc_hostname = m->hostname;
	conf->hc_disabled = m->disable_active_health_check;
	if (m->port_value > 65535)
		return weft_cfg_fail(k->c, &port, "must be at most 65535, is %u", m->port_value);
	if (m->address) {
		const struct weft_path sock = {&a, "socket_address", -1};

		if (m->address->address_case !=
		    ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS)
			return weft_cfg_fail(k->c, &a, "must be a socket_address");
		if (ip_address(k, &sock, m->address->socket_address, &hc.addr))
			return -EINVAL;
		conf->hc_addr = hc.addr;
	}
	if (m->port_value) {
		if (!conf->hc_addr.ip.family)
			conf->hc_addr.ip = conf->addr.ip;
		conf->hc_addr.port = (uint16_t)m->port_value;
	}
	return 0;
}

static int more_addresses(struct maker *k, const struct weft_path *at,
			  const Envoy__Config__Endpoint__V3__Endpoint *m,
			  struct weft_host_conf *conf, struct weft_sockaddr *room, size_t cap)
{
	for (size_t i = 0; i < m->n_additional_addresses; i++) {
		const struct weft_path p = {at, "additional_addresses", (int)i},
				       a = {&p, "address", -1};
		struct weft_host_conf one = {0};

		if (i >= cap)
			return weft_cfg_fail(k->c, &p, "has more than %zu addresses", cap);
		if (!m->additional_addresses[i]->address ||
		    address(k, &a, m->additional_addresses[i]->address, &one))
			return -EINVAL;
		if (one.unix_path)
			return weft_cfg_fail(k->c, &a, "must be a socket_address");
		room[i] = one.addr;
	}
	conf->more = room;
	conf->n_more = m->n_additional_addresses;
	return 0;
}

/* A host for each address that the name has; for a logical one its first, or the one that was used
 * as long as it stands in the answer. */
static void named(struct maker *k, struct weft_host_conf *conf, const struct raw *r, size_t nth,
		  Envoy__Config__Core__V3__HealthStatus status)
{
	const struct dns_name *d = nth < k->want->n_names ? &k->want->names[nth] : NULL;
	bool own_check = conf->hc_addr.ip.family;
	uint16_t check_port = conf->hc_addr.port;
	const struct weft_hosts *old = k->want->old;
	size_t from = 0, to = d ? d->n : 0;

	if (k->want->cluster->type == WEFT_CLUSTER_LOGICAL_DNS && to) {
		for (size_t i = 0; old && old->n && i < d->n; i++)
			if (weft_ip_eq(&d->ips[i], &old->v[0].host->addr.ip))
				from = i;
		to = from + 1;
	}
	for (size_t i = from; i < to; i++) {
		struct raw one = *r;

		conf->addr.ip = d->ips[i];
		if (check_port && !own_check)
			conf->hc_addr = (struct weft_sockaddr){d->ips[i], check_port};
		host_add(k, conf, &one, status);
		if (!own_check)
			conf->hc_addr = (struct weft_sockaddr){.port = check_port};
	}
}

enum { MORE_MAX = 16 };
static int endpoint(struct maker *k, const struct weft_path *at, const Endpoint *m, struct raw *r)
{
	const struct weft_path ep = {at, "endpoint", -1}, a = {&ep, "address", -1},
			       hc = {&ep, "health_check_config", -1};
	struct weft_sockaddr more[MORE_MAX];
	struct weft_host_conf conf = {0};
	size_t nth = k->nth++;

	if (m->host_identifier_case !=
	    ENVOY__CONFIG__ENDPOINT__V3__LB_ENDPOINT__HOST_IDENTIFIER_ENDPOINT)
		return weft_cfg_fail(k->c, &ep, "is required");
	if (!m->endpoint->address)
		return weft_cfg_fail(k->c, &a, "is required");
	if (address(k, &a, m->endpoint->address, &conf) ||
	    check_config(k, &hc, m->endpoint->health_check_config, &conf) ||
	    more_addresses(k, &ep, m->endpoint, &conf, more, MORE_MAX))
		return -EINVAL;
	conf.hostname = m->endpoint->hostname;
	if (k->n >= CLUSTER_HOSTS_MAX)
		return weft_cfg_fail(k->c, at, "has more than %d endpoints", CLUSTER_HOSTS_MAX);
	r->weight = weft_cfg_u32(m->load_balancing_weight, 1);
	r->metadata = m->metadata;
	if (!by_name(k->want->cluster)) {
		host_add(k, &conf, r, m->health_status);
		return 0;
	}
	if (!conf.hostname || !*conf.hostname)
		conf.hostname = m->endpoint->address->socket_address->address;
	named(k, &conf, r, nth, m->health_status);
	return 0;
}

static void locality(struct maker *k, const struct weft_path *at, const Locality *m)
{
	struct raw r = {.priority = m->priority,
			.locality_weight = weft_cfg_u32(m->load_balancing_weight, 0),
			.locality_metadata = m->metadata,
			.locality = {"", "", ""}};
	const struct weft_path prio = {at, "priority", -1};
	uint64_t sum = 0;

	if (m->locality)
		r.locality =
			(struct weft_locality){text(m->locality->region), text(m->locality->zone),
					       text(m->locality->sub_zone)};
	if (m->priority > CLUSTER_PRIORITIES_MAX) {
		k->err = weft_cfg_fail(k->c, &prio, "must be at most %d, is %u",
				       CLUSTER_PRIORITIES_MAX, m->priority);
		return;
	}
	for (size_t i = 0; i < m->n_lb_endpoints; i++) {
		const struct weft_path p = {at, "lb_endpoints", (int)i};

		sum += weft_cfg_u32(m->lb_endpoints[i]->load_balancing_weight, 1);
		if (endpoint(k, &p, m->lb_endpoints[i], &r))
			k->err = -EINVAL;
	}
	if (sum > UINT32_MAX)
		k->err = weft_cfg_fail(k->c, at,
				       "the weights of its endpoints add up to %llu, must be at "
				       "most 4294967295",
				       (unsigned long long)sum);
}

/* ---- the set */
static int by_place(const void *a, const void *b)
{
	const struct raw *x = a, *y = b;
	int d = (x->priority > y->priority) - (x->priority < y->priority);

	d = d ? d : strcmp(x->locality.region, y->locality.region);
	d = d ? d : strcmp(x->locality.zone, y->locality.zone);
	d = d ? d : strcmp(x->locality.sub_zone, y->locality.sub_zone);
	return d ? d : (x->order > y->order) - (x->order < y->order);
}

static bool same_place(const struct raw *a, const struct raw *b)
{
	return a->priority == b->priority && !strcmp(a->locality.region, b->locality.region) &&
	       !strcmp(a->locality.zone, b->locality.zone) &&
	       !strcmp(a->locality.sub_zone, b->locality.sub_zone);
}

static const Metadata *metadata_copy(struct weft_arena *a, const Metadata *m)
{
	size_t n = m ? protobuf_c_message_get_packed_size(&m->base) : 0;
	const Metadata *ret;
	uint8_t *bytes;

	if (!n)
		return NULL;
	bytes = weft_xcalloc(1, n);
	protobuf_c_message_pack(&m->base, bytes);
	ret = (const Metadata *)weft_wire_unpack(a, &envoy__config__core__v3__metadata__descriptor,
						 bytes, n, false, NULL);
	free(bytes);
	return ret;
}

static bool is_canary(const Metadata *m)
{
	for (size_t i = 0; m && i < m->n_filter_metadata; i++) {
		const Google__Protobuf__Struct *s = m->filter_metadata[i]->value;

		if (!s || strcmp(text(m->filter_metadata[i]->key), "envoy.lb") != 0)
			continue;
		for (size_t k = 0; k < s->n_fields; k++)
			if (!strcmp(text(s->fields[k]->key), "canary") && s->fields[k]->value)
				return s->fields[k]->value->bool_value &&
				       s->fields[k]->value->kind_case ==
					       GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
	}
	return false;
}

/* Takes the references of v. */
static struct weft_hosts *set_make(struct raw *v, size_t n)
{
	struct weft_arena *a = weft_arena_new(n < 2 ? 256 : 0);
	struct weft_hosts *h = weft_arena_alloc(a, sizeof(*h));
	struct weft_endpoint_entry *e = weft_arena_alloc(a, (n + !n) * sizeof(*e));
	struct weft_locality_entry *l;
	const Metadata *last = NULL, *last_copy = NULL;
	size_t places = 0;

	atomic_init(&h->refs, 1);
	h->arena = a;
	h->overprovisioning_pct = 140;
	if (n)
		qsort(v, n, sizeof(*v), by_place);
	for (size_t i = 0; i < n; i++)
		places += !i || !same_place(&v[i], &v[i - 1]);
	l = weft_arena_alloc(a, (places + !places) * sizeof(*l));
	for (size_t i = 0; i < n; i++) {
		if (!i || !same_place(&v[i], &v[i - 1]))
			l[h->n_localities++] = (struct weft_locality_entry){
				{weft_arena_strdup(a, v[i].locality.region),
				 weft_arena_strdup(a, v[i].locality.zone),
				 weft_arena_strdup(a, v[i].locality.sub_zone)},
				v[i].locality_weight,
				v[i].priority};
		if (v[i].locality_metadata != last) {
			last = v[i].locality_metadata;
			last_copy = metadata_copy(a, last);
		}
		e[i] = (struct weft_endpoint_entry){
			.host = v[i].host,
			.weight = v[i].weight,
			.priority = v[i].priority,
			.locality = (uint32_t)h->n_localities - 1,
			.metadata = metadata_copy(a, v[i].metadata),
			.locality_metadata = last ? last_copy : NULL,
			.canary = is_canary(v[i].metadata),
		};
	}
	h->v = e;
	h->n = n;
	h->localities = l;
	h->n_priorities = n ? v[n - 1].priority + 1 : 0;
	return h;
}

static uint32_t per_million(const Envoy__Type__V3__FractionalPercent *p)
{
	uint64_t n = p ? p->numerator : 0;

	if (p && p->denominator == ENVOY__TYPE__V3__FRACTIONAL_PERCENT__DENOMINATOR_TYPE__HUNDRED)
		n *= 10000;
	else if (p && p->denominator ==
			      ENVOY__TYPE__V3__FRACTIONAL_PERCENT__DENOMINATOR_TYPE__TEN_THOUSAND)
		n *= 100;
	return n < 1000000 ? (uint32_t)n : 1000000;
}

static void policy(struct weft_hosts *h,
		   const Envoy__Config__Endpoint__V3__ClusterLoadAssignment__Policy *m)
{
	if (!m)
		return;
	h->overprovisioning_pct = weft_cfg_u32(m->overprovisioning_factor, 140);
	h->weighted_priority_health = m->weighted_priority_health;
	h->n_drops = m->n_drop_overloads;
	h->drops = weft_arena_alloc(h->arena, (h->n_drops + 1) * sizeof(*h->drops));
	for (size_t i = 0; i < h->n_drops; i++) {
		h->drops[i].category =
			weft_arena_strdup(h->arena, text(m->drop_overloads[i]->category));
		h->drops[i].per_million = per_million(m->drop_overloads[i]->drop_percentage);
	}
}

static struct raw raw_of(const struct weft_hosts *h, const struct weft_endpoint_entry *e)
{
	return (struct raw){.metadata = e->metadata,
			    .locality_metadata = e->locality_metadata,
			    .locality = h->localities[e->locality].id,
			    .weight = e->weight,
			    .priority = e->priority,
			    .locality_weight = h->localities[e->locality].weight};
}

/* Hosts that left the assignment but pass their checks stay until they fail one. */
static void keep_checked(struct maker *k)
{
	const struct weft_hosts *old = k->want->old;
	const struct weft_cluster *c = k->want->cluster;

	if (!c->n_health || c->priv->ignore_health_on_removal)
		return;
	for (size_t i = 0; i < old->n; i++) {
		struct weft_host *h = old->v[i].host;
		struct known *n = known_find(k, h->text);
		struct raw r = raw_of(old, &old->v[i]);

		if (!n || n->host != h || n->priority != UINT32_MAX || h->hc_disabled ||
		    (atomic_load(&h->flags) & WEFT_HOST_FAILED_ACTIVE_HC))
			continue;
		n->priority = r.priority;
		atomic_fetch_or(&h->flags, WEFT_HOST_PENDING_REMOVAL);
		r.host = h;
		weft_host_ref(h);
		raw_add(k, &r);
	}
}

int hosts_make(struct weft_cfg *c, const struct weft_path *at, const struct hosts_want *want,
	       const Assignment *m, struct weft_hosts **ret)
{
	struct maker k = {.c = c, .want = want};
	uint64_t weights = 0;

	for (size_t i = 0; want->old && i < want->old->n; i++)
		if (!known_find(&k, want->old->v[i].host->text))
			known_add(&k, want->old->v[i].host, UINT32_MAX);
	for (size_t i = 0; m && i < m->n_endpoints; i++) {
		const struct weft_path p = {at, "endpoints", (int)i};

		weights += weft_cfg_u32(m->endpoints[i]->load_balancing_weight, 0);
		locality(&k, &p, m->endpoints[i]);
	}
	if (weights > UINT32_MAX)
		k.err = weft_cfg_fail(c, at,
				      "the weights of its localities add up to %llu, must be at "
				      "most 4294967295",
				      (unsigned long long)weights);
	if (want->cluster->type == WEFT_CLUSTER_LOGICAL_DNS && k.nth != 1)
		k.err = weft_cfg_fail(
			c, at, "a LOGICAL_DNS cluster must have one endpoint, has %zu", k.nth);
	if (!k.err && want->old)
		keep_checked(&k);
	known_free(&k);
	if (k.err) {
		for (size_t i = 0; i < k.n; i++)
			weft_host_unref(k.v[i].host);
	} else {
		*ret = set_make(k.v, k.n);
		policy(*ret, m ? m->policy : NULL);
	}
	free(k.v);
	return k.err;
}

static void policy_copy(struct weft_hosts *to, const struct weft_hosts *from)
{
	to->overprovisioning_pct = from->overprovisioning_pct;
	to->weighted_priority_health = from->weighted_priority_health;
	to->n_drops = from->n_drops;
	to->drops = weft_arena_alloc(to->arena, (to->n_drops + 1) * sizeof(*to->drops));
	for (size_t i = 0; i < to->n_drops; i++) {
		to->drops[i] = from->drops[i];
		to->drops[i].category = weft_arena_strdup(to->arena, from->drops[i].category);
	}
}

struct weft_hosts *hosts_copy(struct weft_cluster *to, const struct weft_hosts *from)
{
	struct raw *v = weft_xcalloc(from->n + 1, sizeof(*v));
	const uint32_t eds = WEFT_HOST_FAILED_EDS | WEFT_HOST_DRAINING_EDS | WEFT_HOST_DEGRADED_EDS;
	struct weft_hosts *ret;

	for (size_t i = 0; i < from->n; i++) {
		const struct weft_host *h = from->v[i].host;
		const struct weft_host_conf conf = {h->addr,	    h->unix_path, h->hostname,
						    h->hc_hostname, h->hc_addr,	  h->hc_disabled,
						    h->more,	    h->n_more};

		v[i] = raw_of(from, &from->v[i]);
		v[i].order = i;
		v[i].host = host_make(to, &conf);
		atomic_fetch_or(&v[i].host->flags, atomic_load(&h->flags) & eds);
	}
	ret = set_make(v, from->n);
	policy_copy(ret, from);
	free(v);
	return ret;
}

struct weft_hosts *hosts_without_removed(const struct weft_hosts *from)
{
	struct raw *v = weft_xcalloc(from->n + 1, sizeof(*v));
	struct weft_hosts *ret;
	size_t n = 0;

	for (size_t i = 0; i < from->n; i++) {
		uint32_t f = atomic_load(&from->v[i].host->flags);

		if ((f & WEFT_HOST_PENDING_REMOVAL) && (f & WEFT_HOST_FAILED_ACTIVE_HC))
			continue;
		v[n] = raw_of(from, &from->v[i]);
		v[n].order = n;
		v[n].host = from->v[i].host;
		weft_host_ref(v[n++].host);
	}
	ret = set_make(v, n);
	policy_copy(ret, from);
	free(v);
	return ret;
}

static int by_pointer(const void *a, const void *b)
{
	const struct weft_host *x = *(struct weft_host *const *)a,
			       *y = *(struct weft_host *const *)b;

	return (x > y) - (x < y);
}

size_t hosts_minus(const struct weft_hosts *a, const struct weft_hosts *b,
		   struct weft_host ***ret_v)
{
	struct weft_host **have = weft_xcalloc(b ? b->n + 1 : 1, sizeof(struct weft_host *)), **v;
	size_t n = 0;

	*ret_v = NULL;
	for (size_t i = 0; b && i < b->n; i++)
		have[i] = b->v[i].host;
	if (b && b->n)
		qsort(have, b->n, sizeof(struct weft_host *), by_pointer);
	v = weft_xcalloc(a ? a->n + 1 : 1, sizeof(struct weft_host *));
	for (size_t i = 0; a && i < a->n; i++)
		if (!b || !b->n ||
		    !bsearch(&a->v[i].host, have, b->n, sizeof(struct weft_host *), by_pointer))
			v[n++] = a->v[i].host;
	free(have);
	if (n)
		*ret_v = v;
	else
		free(v);
	return n;
}

size_t hosts_names(struct weft_arena *a, const Assignment *m, const char *const **ret_names)
{
	size_t n = 0;
	const char **v;

	for (size_t i = 0; m && i < m->n_endpoints; i++)
		n += m->endpoints[i]->n_lb_endpoints;
	v = weft_arena_alloc(a, (n + 1) * sizeof(*v));
	n = 0;
	for (size_t i = 0; m && i < m->n_endpoints; i++)
		for (size_t k = 0; k < m->endpoints[i]->n_lb_endpoints; k++)
			v[n++] = weft_arena_strdup(
				a, text(m->endpoints[i]
						->lb_endpoints[k]
						->endpoint->address->socket_address->address));
	*ret_names = v;
	return n;
}
