/* Names of endpoints by DNS: resolvers (c-ares on the main thread's loop, shared by all clusters of
 * equal options), and watches that resolve one name again and again. What the cluster manager uses
 * stands in cluster_priv.h. Main thread. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/scope.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/proto/envoy/config/core/v3/extension.pb-c.h"

struct event_base;
enum weft_dns_family {
	WEFT_DNS_AUTO, /* v6; v4 where there is none */
	WEFT_DNS_V4,
	WEFT_DNS_V6,
	WEFT_DNS_V4_PREFERRED,
	WEFT_DNS_ALL
};
enum { WEFT_DNS_ADDRESSES_MAX = 512, WEFT_DNS_SERVERS_MAX = 16 };
struct weft_dns_resolver_conf { /* two that are equal share a resolver */
	struct weft_sockaddr servers[WEFT_DNS_SERVERS_MAX]; /* port 0: 53 */
	unsigned n_servers;				    /* 0: the system's */
	bool fallback; /* servers only where the system has none */
	bool use_tcp, no_search, rotate, filter_families;
	uint32_t udp_max_queries, query_timeout_s, query_tries, edns0_bytes;
};
struct weft_dns_cluster_conf {
	struct weft_dns_resolver_conf resolver;
	enum weft_dns_family family;
	unsigned refresh_ms, jitter_ms;	    /* 5,000, 0 */
	unsigned fail_base_ms, fail_max_ms; /* 0: as refresh_ms */
	bool respect_ttl;
};
/* dns_refresh_rate, dns_failure_refresh_rate, dns_jitter, respect_dns_ttl, dns_lookup_family,
 * dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config. dflt:
 * the bootstrap's typed_dns_resolver_config; NULL. */
int weft_dns_cluster_conf(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Cluster__V3__Cluster *m,
			  const Envoy__Config__Core__V3__TypedExtensionConfig *dflt,
			  struct weft_dns_cluster_conf *ret);

struct weft_dns_answer {
	int code; /* 0 (v may be empty: the name has no addresses); -ETIMEDOUT, -EIO …: v is empty
		   */
	const struct weft_ip *v; /* in order of address, each once */
	size_t n;
	uint32_t ttl_s; /* least of all records; UINT32_MAX: literal or hosts file */
};
struct weft_dns_watch;
struct weft_dns_watch_conf {
	const char *name; /* a literal address, a name of /etc/hosts, or one to ask for; copied */
	const struct weft_dns_cluster_conf *conf; /* copied */
	struct weft_scope
		*scope; /* a cluster's: update_attempt, _success, _failure, _empty; NULL */
	/* Each answer, the first one soon; never from inside weft_dns_watch_new. May free the
	 * watch. */
	void (*answer)(void *owner, const struct weft_dns_answer *a);
	void *owner;
};
/* NULL: no resolver can be made (reterr). */
struct weft_dns_watch *weft_dns_watch_new(struct weft_dns *d,
					  const struct weft_dns_watch_conf *conf,
					  struct weft_err *reterr);
void weft_dns_watch_free(struct weft_dns_watch *w);
/* Asks now, unless it is asking already (a connection failed: logical DNS). */
void weft_dns_watch_again(struct weft_dns_watch *w);
