/* Rate limits of routes and virtual hosts: lists of actions that make a descriptor of a request.
 * Compiled once, immutable, any thread. */
#pragma once
#include "proxy/http/route.h"
#include "proxy/l4/info.h"

enum { WEFT_RATELIMIT_ENTRIES_MAX = 32, WEFT_RATELIMITS_MAX = 64 };
struct weft_ratelimits;
struct weft_ratelimit_entry {
	const char *key, *value;
};
struct weft_ratelimit_descriptor {
	struct weft_ratelimit_entry v[WEFT_RATELIMIT_ENTRIES_MAX];
	size_t n;
	uint64_t hash; /* of all entries in their order */
};
struct weft_ratelimit_in {
	const struct weft_headers *h;
	const struct weft_info *info;
	const struct weft_route *route; /* NULL */
	const char *route_cluster;	/* destination_cluster; NULL: none */
	const char *local_cluster;	/* source_cluster: of the node; NULL: "" */
	struct weft_arena *arena;
};
/* *ret NULL where n is 0. */
int weft_ratelimits_prepare(struct weft_cfg *c, const struct weft_path *at,
			    Envoy__Config__Route__V3__RateLimit *const *v, size_t n,
			    const struct weft_ratelimits **ret);
/* Those of a stage, up to max; how many. l NULL: 0. A rate limit one of whose actions finds nothing
 * gives no descriptor. */
size_t weft_ratelimits_run(const struct weft_ratelimits *l, uint32_t stage,
			   const struct weft_ratelimit_in *in,
			   struct weft_ratelimit_descriptor *ret, size_t max);
size_t weft_ratelimits_count(const struct weft_ratelimits *l); /* NULL: 0 */
uint64_t weft_ratelimit_hash(const struct weft_ratelimit_entry *v, size_t n);
/* Of the route, and of its virtual host; NULL: none. (route*.c) */
const struct weft_ratelimits *weft_route_ratelimits(const struct weft_route *r);
const struct weft_ratelimits *weft_vhost_ratelimits(const struct weft_vhost *v);
