/* Endpoints on their way into a set. Private to hosts*.c. */
#pragma once
#include "proxy/upstream/cluster_int.h"

enum { HOST_ADDRESSES_MAX = 32 };

struct hosts_raw {		/* an endpoint before it has its place in the set */
	struct weft_host *host; /* referenced */
	const Envoy__Config__Core__V3__Metadata *metadata, *locality_metadata;
	struct weft_locality locality;
	uint32_t weight, priority, locality_weight;
	size_t order;
};
/* Sorted into a set of its own; takes the references of v. */
struct weft_hosts *hosts_set_make(struct hosts_raw *v, size_t n);
void hosts_set_policy(struct weft_hosts *h,
		      const Envoy__Config__Endpoint__V3__ClusterLoadAssignment__Policy *m);
/* All but the host. */
struct hosts_raw hosts_raw_of(const struct weft_hosts *h, const struct weft_endpoint_entry *e);
/* v[0..n), 1 <= n <= HOST_ADDRESSES_MAX, into the order they are tried in. */
void hosts_order(const struct weft_cluster *c, struct weft_sockaddr *v, size_t n);
struct weft_host *hosts_host_make(const struct weft_cluster *c, const struct weft_host_conf *conf);
