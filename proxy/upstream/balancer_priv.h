/* How a cluster's hosts are split. Private to balancer*.c. */
#pragma once
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/lb_util.h"

struct list { /* one list a policy picks from */
	struct weft_lb_list l;
	const void *table;
	uint32_t id; /* of its counter in a worker's memory */
};
struct places { /* the same hosts by locality; the local one first where there is one */
	struct list *v;
	size_t n;
	struct weft_spread spread; /* n 0: no locality has a share */
	uint32_t id;
};
enum route { ROUTE_ANY, ROUTE_LOCAL, ROUTE_RESIDUAL };
struct prio {
	struct list healthy, degraded, all; /* all: in panic only */
	struct places healthy_at, degraded_at;
	bool panic;
	uint32_t healthy_pct, degraded_pct;
	size_t n, n_healthy, n_degraded, n_excluded;
	enum route route;     /* zone-aware: P0 only */
	uint32_t local_share; /* of 10,000 */
	uint64_t *residual;   /* running sums by place */
};
struct weft_balancer {
	_Atomic unsigned refs;
	const struct weft_cluster *c;
	struct weft_hosts *hosts;
	struct weft_arena *arena; /* NULL: at most one host, no tables */
	struct prio *prios;
	uint32_t n_prios, n_ids;
	bool local_panic; /* the local cluster is */
};
struct weft_lb_memory {
	uint64_t *seq;
	uint32_t n;
	uint64_t last; /* of lists beyond what could be kept */
};

bool balancer_excluded(const struct weft_cluster *c, const struct weft_host *h);
uint32_t balancer_panic_pct(const struct weft_cluster *c);
/* Loads and panic of each priority out of their numbers. */
void balancer_loads(struct prio *p, uint32_t n, const struct weft_hosts *h,
		    const struct weft_cluster *c);
bool balancer_in_panic(const struct prio *p, uint32_t threshold_pct);
/* Fills route, local_share, residual of P0; its healthy_at begins with the local zone's list. */
void balancer_zone(struct weft_balancer *b, struct prio *p, const struct weft_lb_local *local);
bool balancer_same_locality(const struct weft_locality *a, const struct weft_locality *b);
