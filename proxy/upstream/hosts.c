/* A ClusterLoadAssignment into a set of hosts; who stays keeps its object, and so its connections.
 */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/hosts_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

typedef Envoy__Config__Endpoint__V3__ClusterLoadAssignment Assignment;
typedef Envoy__Config__Endpoint__V3__LocalityLbEndpoints Locality;
typedef Envoy__Config__Endpoint__V3__LbEndpoint Endpoint;

struct known { /* a host by its text */
	UT_hash_handle hh;
	struct weft_host *host;
	uint32_t priority; /* of this update; UINT32_MAX: not in it so far */
};
struct maker {
	struct weft_cfg *c;
	const struct hosts_want *want;
	struct hosts_raw *v;
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

struct weft_host *hosts_host_make(const struct weft_cluster *c, const struct weft_host_conf *conf)
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

static void raw_add(struct maker *k, const struct hosts_raw *r)
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
static void host_add(struct maker *k, const struct weft_host_conf *conf, struct hosts_raw *r,
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
		if (conf->logical)
			weft_host_tries_set(r->host, conf);
		n->priority = r->priority;
	} else {
		r->host = hosts_host_make(k->want->cluster, conf);
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

/* What a logical host's name stands for, the one it is known by first. */
static size_t all_of(const struct weft_cluster *c, const struct dns_name *d, size_t own,
		     uint16_t port, struct weft_sockaddr *v)
{
	size_t n = 0;

	v[n++] = (struct weft_sockaddr){d->ips[own], port};
	for (size_t i = 0; i < d->n && n < HOST_ADDRESSES_MAX; i++)
		if (i != own)
			v[n++] = (struct weft_sockaddr){d->ips[i], port};
	hosts_order(c, v, n);
	return n;
}

/* A host for each address that the name has; for a logical one its first, or the one that was used
 * as long as it stands in the answer. */
static void named(struct maker *k, struct weft_host_conf *conf, const struct hosts_raw *r,
		  size_t nth, Envoy__Config__Core__V3__HealthStatus status)
{
	const struct dns_name *d = nth < k->want->n_names ? &k->want->names[nth] : NULL;
	bool own_check = conf->hc_addr.ip.family;
	uint16_t check_port = conf->hc_addr.port;
	const struct weft_hosts *old = k->want->old;
	struct weft_sockaddr tries[HOST_ADDRESSES_MAX];
	size_t from = 0, to = d ? d->n : 0;

	if (k->want->cluster->type == WEFT_CLUSTER_LOGICAL_DNS && to) {
		for (size_t i = 0; old && old->n && i < d->n; i++)
			if (weft_ip_eq(&d->ips[i], &old->v[0].host->addr.ip))
				from = i;
		to = from + 1;
		conf->logical = true;
		conf->tries = tries;
		conf->n_tries = all_of(k->want->cluster, d, from, conf->addr.port, tries);
	}
	for (size_t i = from; i < to; i++) {
		struct hosts_raw one = *r;

		conf->addr.ip = d->ips[i];
		if (check_port && !own_check)
			conf->hc_addr = (struct weft_sockaddr){d->ips[i], check_port};
		host_add(k, conf, &one, status);
		if (!own_check)
			conf->hc_addr = (struct weft_sockaddr){.port = check_port};
	}
}

/* ---- hosts of several addresses: happy eyeballs */

/* In the order of RFC 8305, section 4: so many of the first family, one of the other, and again.
 * v[0] is the host's own address; its family is the first where none is configured. */
void hosts_order(const struct weft_cluster *c, struct weft_sockaddr *v, size_t n)
{
	const Envoy__Config__Cluster__V3__UpstreamConnectionOptions *o =
		c->msg->upstream_connection_options;
	const Envoy__Config__Cluster__V3__UpstreamConnectionOptions__HappyEyeballsConfig *m =
		o ? o->happy_eyeballs_config : NULL;
	uint32_t each = m ? weft_cfg_u32(m->first_address_family_count, 1) : 1, given = 0;
	struct weft_sockaddr in[HOST_ADDRESSES_MAX];
	size_t at[2] = {0, 0}, out = 0;
	int first = v[0].ip.family;

	if (m && m->first_address_family_version)
		first = m->first_address_family_version ==
					ENVOY__CONFIG__CLUSTER__V3__UPSTREAM_CONNECTION_OPTIONS__FIRST_ADDRESS_FAMILY_VERSION__V4
				? 4
				: 6;
	memcpy(in, v, n * sizeof(*v));
	for (bool other = false; out < n;) {
		size_t *i = &at[other];

		while (*i < n && (in[*i].ip.family == first) == other)
			++*i;
		if (*i < n)
			v[out++] = in[(*i)++];
		if (other || *i == n || ++given == each) {
			other = !other;
			given = 0;
		}
	}
}

static int more_addresses(struct maker *k, const struct weft_path *at,
			  const Envoy__Config__Endpoint__V3__Endpoint *m,
			  struct weft_host_conf *conf, struct weft_sockaddr *v)
{
	const struct weft_path all = {at, "additional_addresses", -1};

	if (!m->n_additional_addresses)
		return 0;
	if (by_name(k->want->cluster))
		return weft_cfg_fail(k->c, &all,
				     "is for clusters that are not of type STRICT_DNS or "
				     "LOGICAL_DNS: a name has all the addresses it resolves to");
	if (conf->unix_path)
		return weft_cfg_fail(k->c, &all, "must not stand beside a pipe");
	if (m->n_additional_addresses >= HOST_ADDRESSES_MAX)
		return weft_cfg_fail(k->c, &all, "must be at most %d, are %zu",
				     HOST_ADDRESSES_MAX - 1, m->n_additional_addresses);
	v[0] = conf->addr;
	for (size_t i = 0; i < m->n_additional_addresses; i++) {
		const struct weft_path one = {at, "additional_addresses", (int)i},
				       a = {&one, "address", -1}, sock = {&a, "socket_address", -1};
		const Envoy__Config__Core__V3__Address *m1 = m->additional_addresses[i]->address;

		if (!m1 ||
		    m1->address_case != ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS)
			return weft_cfg_fail(k->c, &a, "must be a socket_address");
		if (socket_address(k, &sock, m1->socket_address) ||
		    ip_address(k, &sock, m1->socket_address, &v[i + 1]))
			return -EINVAL;
	}
	conf->tries = v;
	conf->n_tries = m->n_additional_addresses + 1;
	hosts_order(k->want->cluster, v, conf->n_tries);
	return 0;
}

static int endpoint(struct maker *k, const struct weft_path *at, const Endpoint *m,
		    struct hosts_raw *r)
{
	const struct weft_path ep = {at, "endpoint", -1}, a = {&ep, "address", -1},
			       hc = {&ep, "health_check_config", -1};
	struct weft_sockaddr tries[HOST_ADDRESSES_MAX];
	struct weft_host_conf conf = {0};
	size_t nth = k->nth++;

	if (m->host_identifier_case !=
	    ENVOY__CONFIG__ENDPOINT__V3__LB_ENDPOINT__HOST_IDENTIFIER_ENDPOINT)
		return weft_cfg_fail(k->c, &ep, "is required");
	if (!m->endpoint->address)
		return weft_cfg_fail(k->c, &a, "is required");
	if (address(k, &a, m->endpoint->address, &conf) ||
	    check_config(k, &hc, m->endpoint->health_check_config, &conf) ||
	    more_addresses(k, &ep, m->endpoint, &conf, tries))
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
	struct hosts_raw r = {.priority = m->priority,
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
		struct hosts_raw r = hosts_raw_of(old, &old->v[i]);

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
		*ret = hosts_set_make(k.v, k.n);
		hosts_set_policy(*ret, m ? m->policy : NULL);
	}
	free(k.v);
	return k.err;
}
