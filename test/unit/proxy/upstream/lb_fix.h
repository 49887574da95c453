/* What tests of load balancing have in common: clusters of hosts by priority and zone, and counts
 * of who was picked. */
#pragma once
#include "build.h"

#include "proxy/upstream/lb_util.h"

#include <math.h>

/* Hosts 10.PRIORITY.ZONE.N, n of them a locality, some of them unhealthy or degraded. */
struct place {
	const char *zone;
	int n, bad, degraded;
	unsigned weight, priority; /* weight 0: not given */
	unsigned host_weight;	   /* 0: 1 */
};

static inline char *endpoints(const char *cluster, const struct place *p, size_t n,
			      const char *policy)
{
	size_t cap = 1 << 20, at = 0;
	char *s = weft_xcalloc(1, cap);

	at += (size_t)snprintf(s, cap, "cluster_name: %s\n%sendpoints:\n", cluster, policy);
	for (size_t i = 0; i < n; i++) {
		at += (size_t)snprintf(s + at, cap - at, "- locality: {zone: %s}\n  priority: %u\n",
				       p[i].zone, p[i].priority);
		if (p[i].weight)
			at += (size_t)snprintf(s + at, cap - at, "  load_balancing_weight: %u\n",
					       p[i].weight);
		at += (size_t)snprintf(s + at, cap - at, "  lb_endpoints:\n");
		for (int k = 0; k < p[i].n; k++)
			at += (size_t)snprintf(
				s + at, cap - at,
				"  - {health_status: %s, load_balancing_weight: %u, endpoint: "
				"{address: {socket_address: {address: 10.%u.%zu.%d, port_value: "
				"80}}}}\n",
				k < p[i].bad		       ? "UNHEALTHY"
				: k < p[i].bad + p[i].degraded ? "DEGRADED"
							       : "HEALTHY",
				p[i].host_weight ? p[i].host_weight : 1, p[i].priority, i, k);
	}
	return s;
}

static inline struct bed *bed_with(const char *conf, const struct place *p, size_t n,
				   const char *policy)
{
	struct bed *b = bed_new(NULL);
	char yaml[2048], *eps = endpoints("c", p, n, policy);

	snprintf(yaml, sizeof(yaml),
		 "name: c\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n%s", conf);
	assert_int_equal(bed_set(b, true, yaml), 1);
	assert_int_equal(bed_endpoints(b, "c", eps, "1"), 0);
	free(eps);
	return b;
}

struct counted {
	unsigned prio[8], zone[16], host[8][16][64], none, all;
};

static inline struct counted picks(struct bed *b, unsigned n)
{
	struct counted *c = weft_xcalloc(1, sizeof(*c)), ret;

	for (unsigned i = 0; i < n; i++) {
		unsigned prio, zone, host;
		const char *s = bed_pick(b, "c");

		c->all++;
		if (!*s) {
			c->none++;
			continue;
		}
		assert_int_equal(sscanf(s, "10.%u.%u.%u:80", &prio, &zone, &host), 3);
		c->prio[prio]++;
		c->zone[zone]++;
		c->host[prio][zone][host]++;
	}
	ret = *c;
	free(c);
	return ret;
}

/* Within five standard deviations of a share of n picks. */
static inline void near(unsigned got, double share, unsigned n)
{
	double want = share * n, dev = sqrt(n * share * (1 - share));

	if (fabs(got - want) > 5 * dev + 1)
		print_message("# got %u of %u, wanted %f\n", got, n, want);
	assert_true(fabs(got - want) <= 5 * dev + 1);
}

static inline struct weft_host *host_of(struct bed *b, const char *text)
{
	struct weft_hosts *h = weft_balancer_hosts(weft_wcluster_find(b->w, "c")->balancer);

	for (size_t i = 0; i < h->n; i++)
		if (!strcmp(h->v[i].host->text, text))
			return h->v[i].host;
	return NULL;
}

#define TYPED(folder, name, conf)                                                                  \
	"load_balancing_policy: {policies: [{typed_extension_config: {name: x, typed_config: "     \
	"{\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies." folder         \
	".v3." name ", " conf "}}}]}\n"

static inline uint64_t hash_pick(struct bed *b, uint64_t hash, char *ret)
{
	struct weft_lb_ctx ctx = {.has_hash = true, .hash = hash, .random = weft_rand64()};

	strcpy(ret, bed_pick_with(b, "c", &ctx));
	return hash;
}

static inline struct bed *zones_of(const char *policy, const struct place *local, size_t n_local,
				   const struct place *up, size_t n_up)
{
	const struct weft_clusters_conf conf = {.local_cluster = "me", .local = {.zone = "a"}};
	struct bed *b = bed_new(&conf);
	char *eps, yaml[1024];

	bed_set(b, true, "name: me\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n");
	snprintf(yaml, sizeof(yaml),
		 "name: c\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n%s", policy);
	bed_set(b, true, yaml);
	eps = endpoints("c", up, n_up, "");
	bed_endpoints(b, "c", eps, "1");
	free(eps);
	eps = endpoints("me", local, n_local, "");
	bed_endpoints(b, "me", eps, "1");
	free(eps);
	return b;
}
