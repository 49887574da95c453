/* Names by DNS, inside of dns*.c: resolvers (c-ares on the main thread's loop, shared by all
 * clusters of equal options) and one lookup. What the cluster manager uses stands in
 * cluster_priv.h. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/upstream/cluster_priv.h"
#include "xds/cfg.h"

enum weft_dns_family {
	WEFT_DNS_AUTO, /* v6; v4 where there is none */
	WEFT_DNS_V4,
	WEFT_DNS_V6,
	WEFT_DNS_V4_PREFERRED, /* v4; v6 where there is none */
	WEFT_DNS_ALL
};
enum { WEFT_DNS_ADDRESSES_MAX = 512, WEFT_DNS_SERVERS_MAX = 16 };
struct weft_resolver_conf { /* zeroed before it is filled: compared as bytes */
	struct weft_sockaddr servers[WEFT_DNS_SERVERS_MAX];
	uint32_t n_servers; /* 0: the system's */
	bool fallback;	    /* servers only where the system has none */
	bool use_tcp, no_search, rotate;
	bool routable; /* no addresses of a family that no interface has */
	bool renew;    /* another channel after a query that nobody answered */
	uint32_t timeout_s, tries, edns0_bytes;
	uint32_t max_age_ms; /* of a channel; 0: none */
};
struct weft_dns_conf {
	struct weft_resolver_conf resolver;
	enum weft_dns_family family;
	unsigned refresh_ms, jitter_ms;	    /* 5,000, 0 */
	unsigned fail_base_ms, fail_max_ms; /* as refresh_ms where not given */
	bool respect_ttl;
};
/* dns_refresh_rate, dns_failure_refresh_rate, dns_jitter, respect_dns_ttl, dns_lookup_family,
 * dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config. */
int weft_dns_conf_read(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Cluster__V3__Cluster *m, struct weft_dns_conf *ret);

struct weft_resolver; /* one thread's */
/* One that is there with that base and conf, or a new one. */
struct weft_resolver *weft_resolver_get(struct event_base *base,
					const struct weft_resolver_conf *conf,
					struct weft_err *reterr);
void weft_resolver_put(struct weft_resolver *r); /* NULL is fine */

struct weft_lookup_answer {
	int err;		 /* 0, also when the name has no address; < 0: could not be asked */
	const struct weft_ip *v; /* in order, each once */
	size_t n;
	uint32_t ttl_s; /* the least; 0: not known */
};
struct weft_lookup;
/* answer() once: perhaps before it returns, then *ret is NULL. */
void weft_lookup_start(struct weft_resolver *r, const char *name, enum weft_dns_family family,
		       void (*answer)(void *owner, const struct weft_lookup_answer *a), void *owner,
		       struct weft_lookup **ret);
void weft_lookup_cancel(struct weft_lookup *l); /* NULL is fine; no answer() after it */
