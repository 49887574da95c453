/* The names of a cluster, resolved again and again. */
#include "proxy/upstream/dns.h"

#include "proxy/core/worker.h"
#include "proxy/upstream/dns_default.h"
#include "xds/proto/envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.pb-c.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#define CARES                                                                                      \
	envoy__extensions__network__dns_resolver__cares__v3__cares_dns_resolver_config__descriptor
typedef Envoy__Config__Cluster__V3__Cluster Cluster;
typedef Envoy__Config__Core__V3__Address Address;
typedef Envoy__Config__Core__V3__DnsResolverOptions Options;
typedef Envoy__Extensions__Network__DnsResolver__Cares__V3__CaresDnsResolverConfig Cares;

enum { REFRESH_MS = 5000 };

/* ---- reading */

static int read_servers(struct weft_cfg *c, const struct weft_path *at, Address *const *v, size_t n,
			struct weft_resolver_conf *ret)
{
	if (n > WEFT_DNS_SERVERS_MAX)
		return weft_cfg_fail(c, at, "must have at most %d resolvers, has %zu",
				     WEFT_DNS_SERVERS_MAX, n);
	for (size_t i = 0; i < n; i++) {
		struct weft_path one = {at->up, at->field, (int)i};
		const Envoy__Config__Core__V3__SocketAddress *a = v[i]->socket_address;
		struct weft_sockaddr *s = &ret->servers[i];

		if (v[i]->address_case != ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS)
			return weft_cfg_fail(c, &one, "must be a socket_address");
		if (weft_ip_parse(a->address ? a->address : "", &s->ip) < 0)
			return weft_cfg_fail(c, &one, "must be an IP address, is \"%.64s\"",
					     a->address ? a->address : "");
		if (a->port_specifier_case ==
		    ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_NAMED_PORT)
			return weft_cfg_fail(c, &one, "named_port is not supported here");
		s->port = a->port_value ? (uint16_t)a->port_value : 53;
	}
	ret->n_servers = (uint32_t)n;
	return 0;
}

static void read_options(const Options *o, struct weft_resolver_conf *ret)
{
	if (!o)
		return;
	ret->use_tcp |= o->use_tcp_for_dns_lookups;
	ret->no_search |= o->no_default_search_domain;
}

static int read_cares(struct weft_cfg *c, const struct weft_path *at, const Cares *m,
		      struct weft_resolver_conf *ret)
{
	struct weft_path servers = {at, "resolvers", -1};

	read_options(m->dns_resolver_options, ret);
	ret->fallback = m->use_resolvers_as_fallback;
	ret->rotate = m->rotate_nameservers;
	ret->routable = m->filter_unroutable_families;
	ret->renew = m->reinit_channel_on_timeout;
	ret->max_age_ms = (uint32_t)weft_cfg_ms(m->max_udp_channel_duration, 0);
	ret->tries = weft_cfg_u32(m->query_tries, 0);
	ret->edns0_bytes = weft_cfg_u32(m->edns0_max_payload_size, 0);
	if (m->query_timeout_seconds) {
		if (m->query_timeout_seconds->value > 3600)
			return weft_cfg_fail(c, at,
					     "query_timeout_seconds must be 1..3600, is %llu",
					     (unsigned long long)m->query_timeout_seconds->value);
		ret->timeout_s = (uint32_t)m->query_timeout_seconds->value;
	}
	return read_servers(c, &servers, m->resolvers, m->n_resolvers, ret);
}

/* Of clusters that say nothing of it; what it points to lives as long as the program. */
static struct weft_resolver_conf dflt;
static bool has_dflt;

int weft_dns_default(struct weft_cfg *c, const struct weft_path *at,
		     const Envoy__Config__Core__V3__TypedExtensionConfig *m)
{
	struct weft_path typed = {at, "typed_dns_resolver_config", -1};
	struct weft_path any = {&typed, "typed_config", -1};
	const ProtobufCMessage *conf;

	has_dflt = false;
	memset(&dflt, 0, sizeof(dflt));
	if (!m)
		return 0;
	conf = weft_cfg_any(c, &any, m->typed_config, &CARES);
	if (!conf || read_cares(c, &any, (const Cares *)conf, &dflt))
		return -EINVAL;
	has_dflt = true;
	return 0;
}

static int read_resolver(struct weft_cfg *c, const struct weft_path *at, const Cluster *m,
			 struct weft_resolver_conf *ret)
{
	struct weft_path typed = {at, "typed_dns_resolver_config", -1};
	struct weft_path any = {&typed, "typed_config", -1};
	struct weft_path old = {at, "dns_resolvers", -1};
	struct weft_path resolution = {at, "dns_resolution_config", -1};
	struct weft_path servers = {&resolution, "resolvers", -1};

	if (m->typed_dns_resolver_config) {
		const ProtobufCMessage *conf =
			weft_cfg_any(c, &any, m->typed_dns_resolver_config->typed_config, &CARES);

		return conf ? read_cares(c, &any, (const Cares *)conf, ret) : -EINVAL;
	}
	if (m->dns_resolution_config) {
		read_options(m->dns_resolution_config->dns_resolver_options, ret);
		return read_servers(c, &servers, m->dns_resolution_config->resolvers,
				    m->dns_resolution_config->n_resolvers, ret);
	}
	if (has_dflt && !m->n_dns_resolvers && !m->use_tcp_for_dns_lookups) {
		*ret = dflt;
		return 0;
	}
	ret->use_tcp = m->use_tcp_for_dns_lookups;
	return read_servers(c, &old, m->dns_resolvers, m->n_dns_resolvers, ret);
}

int weft_dns_conf_read(struct weft_cfg *c, const struct weft_path *at, const Cluster *m,
		       struct weft_dns_conf *ret)
{
	static const enum weft_dns_family family[] = {
		[ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__AUTO] = WEFT_DNS_AUTO,
		[ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_ONLY] = WEFT_DNS_V4,
		[ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V6_ONLY] = WEFT_DNS_V6,
		[ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_PREFERRED] =
			WEFT_DNS_V4_PREFERRED,
		[ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__ALL] = WEFT_DNS_ALL,
	};
	struct weft_path fail = {at, "dns_failure_refresh_rate", -1};

	memset(ret, 0, sizeof(*ret));
	ret->family = m->has_dns_lookup_family ? family[m->dns_lookup_family] : WEFT_DNS_AUTO;
	ret->refresh_ms = (unsigned)weft_cfg_ms(m->dns_refresh_rate, REFRESH_MS);
	ret->jitter_ms = (unsigned)weft_cfg_ms(m->dns_jitter, 0);
	ret->respect_ttl = m->respect_dns_ttl;
	ret->fail_base_ms = ret->fail_max_ms = ret->refresh_ms;
	if (m->dns_failure_refresh_rate) {
		ret->fail_base_ms =
			(unsigned)weft_cfg_ms(m->dns_failure_refresh_rate->base_interval, 0);
		ret->fail_max_ms = (unsigned)weft_cfg_ms(m->dns_failure_refresh_rate->max_interval,
							 10 * (int64_t)ret->fail_base_ms);
		if (ret->fail_max_ms < ret->fail_base_ms)
			return weft_cfg_fail(c, &fail,
					     "max_interval must not be below base_interval");
	}
	return read_resolver(c, at, m, &ret->resolver);
}

int weft_dns_check(struct weft_cfg *c, const struct weft_path *at, const Cluster *msg)
{
	struct weft_dns_conf conf;

	return weft_dns_conf_read(c, at, msg, &conf);
}

/* ---- names of a cluster */

struct name {
	struct weft_dns *d;
	size_t i;
	char *text;
	struct weft_lookup *asking;
	unsigned failures; /* in a row */
	struct event timer;
};
struct weft_dns {
	struct weft_dns_conf conf;
	struct weft_resolver *resolver; /* NULL: none could be made; every answer is a failure */
	struct weft_scope *scope;
	void (*answer)(void *owner, size_t i, int err, const struct weft_ip *ips, size_t n_ips);
	void *owner;
	size_t n;
	struct name v[];
};

static void later(struct name *m, uint64_t ms)
{
	const struct weft_dns_conf *c = &m->d->conf;
	struct timeval tv;

	if (c->jitter_ms)
		ms += weft_rand64() % c->jitter_ms;
	tv = (struct timeval){(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};
	evtimer_add(&m->timer, &tv);
}

/* Full jitter, as Envoy's back-off has it. */
static uint64_t backoff_ms(struct name *m)
{
	const struct weft_dns_conf *c = &m->d->conf;
	uint64_t most = c->fail_base_ms;

	if (c->fail_base_ms == c->fail_max_ms)
		return c->fail_base_ms;
	for (unsigned i = 0; i < m->failures && most < c->fail_max_ms; i++)
		most *= 2;
	if (most > c->fail_max_ms)
		most = c->fail_max_ms;
	m->failures++;
	return 1 + weft_rand64() % most;
}

static void on_answer(void *owner, const struct weft_lookup_answer *a)
{
	struct name *m = owner;
	struct weft_dns *d = m->d;
	uint64_t ms = d->conf.refresh_ms;

	m->asking = NULL;
	if (a->err < 0) {
		weft_scope_add(d->scope, WEFT_CLUSTER_update_failure, 1);
		later(m, backoff_ms(m));
	} else {
		m->failures = 0;
		weft_scope_add(d->scope, WEFT_CLUSTER_update_success, 1);
		if (!a->n)
			weft_scope_add(d->scope, WEFT_CLUSTER_update_empty, 1);
		if (d->conf.respect_ttl && a->ttl_s)
			ms = (uint64_t)a->ttl_s * 1000;
		later(m, ms);
	}
	d->answer(d->owner, m->i, a->err, a->v, a->n);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct name *m = arg;
	struct weft_dns *d = m->d;
	static const struct weft_lookup_answer none = {.err = -EIO};
	struct weft_ip literal;
	struct weft_lookup_answer is = {.v = &literal, .n = 1};

	weft_scope_add(d->scope, WEFT_CLUSTER_update_attempt, 1);
	if (weft_ip_parse(m->text, &literal) == 0)
		on_answer(m, &is);
	else if (d->resolver)
		weft_lookup_start(d->resolver, m->text, d->conf.family, on_answer, m, &m->asking);
	else
		on_answer(m, &none);
}

struct weft_dns *weft_dns_start(struct event_base *base, struct weft_cluster *cl,
				const char *const *names, size_t n,
				void (*answer)(void *owner, size_t i, int err,
					       const struct weft_ip *ips, size_t n_ips),
				void *owner)
{
	struct weft_dns *d = weft_xcalloc(1, sizeof(*d) + n * sizeof(d->v[0]));
	struct weft_cfg c = {.arena = weft_arena_new(0)};

	weft_dns_conf_read(&c, NULL, cl->msg, &d->conf); /* was checked: cannot fail */
	weft_arena_free(c.arena);
	d->resolver = weft_resolver_get(base, &d->conf.resolver, NULL);
	d->scope = cl->scope;
	d->answer = answer;
	d->owner = owner;
	d->n = n;
	for (size_t i = 0; i < n; i++) {
		struct timeval now = {0};
		struct name *m = &d->v[i];

		m->d = d;
		m->i = i;
		m->text = weft_xstrdup(names[i]);
		evtimer_assign(&m->timer, base, on_timer, m);
		evtimer_add(&m->timer, &now);
	}
	return d;
}

void weft_dns_stop(struct weft_dns *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n; i++) {
		event_del(&d->v[i].timer);
		weft_lookup_cancel(d->v[i].asking);
		free(d->v[i].text);
	}
	weft_resolver_put(d->resolver);
	free(d);
}
