#include "proxy/policy/endpoint.h"

#include "proxy/policy/model_priv.h"

#include <stdio.h>
#include <string.h>

enum { HBONE_PORT = 15008, TRIES = 8 };

/* What an endpoint is wanted for. */
struct want {
	const struct weft_model *m;
	const struct weft_route_query *q;
	const struct weft_service *s;
	uint16_t port;	/* the service's; of a waypoint: where it takes HBONE */
	uint8_t family; /* preferred */
};

bool weft_port_is_own(uint16_t port)
{
	return port == 15001 || port == 15006 || port == 15008;
}

/* splitmix64: more numbers from the one the caller gave */
static uint64_t rand_next(uint64_t *x)
{
	uint64_t z = (*x += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* x in [0, n): the high half of a product, so that no value is likelier by more than 2^-32 */
static uint64_t rand_below(uint64_t x, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)x * n) >> 64);
}

static const struct weft_port_map *port_find(const struct weft_port_map *v, size_t n, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].service_port == port)
			return &v[i];
	return NULL;
}

/* The endpoint's own mapping, else the service's; 0: none. */
static uint16_t port_resolve(const struct weft_service *s, const struct weft_membership *ms,
			     uint16_t port)
{
	const struct weft_port_map *own = port_find(ms->ports, ms->n_ports, port);
	const struct weft_port_map *of_service = port_find(s->ports, s->n_ports, port);

	if (!of_service)
		return 0;
	return own && own->target_port ? own->target_port : of_service->target_port;
}

static bool has_addr(const struct weft_workload *w, const struct weft_ip *ip)
{
	for (size_t i = 0; i < w->n_addrs; i++)
		if (weft_ip_eq(&w->addrs[i], ip))
			return true;
	return false;
}

/* The dialled address if it is the workload's own; else the first the service allows, of the
 * preferred family if there is one. NULL: none. */
static const struct weft_ip *addr_pick(const struct weft_workload *w, const struct weft_service *s,
				       const struct weft_ip *dialled, uint8_t family)
{
	const struct weft_ip *first = NULL;

	for (size_t i = 0; i < w->n_addrs; i++)
		if (weft_ip_eq(&w->addrs[i], dialled))
			return &w->addrs[i];
	for (size_t i = 0; i < w->n_addrs; i++) {
		const struct weft_ip *ip = &w->addrs[i];

		if (s && ((s->ip_families == 1 && ip->family != 4) ||
			  (s->ip_families == 2 && ip->family != 6)))
			continue;
		if (ip->family == family)
			return ip;
		if (!first)
			first = ip;
	}
	return first;
}

static bool usable(const struct want *x, const struct weft_endpoint *e)
{
	const struct weft_workload *w = e->w;

	return w->capacity && (w->healthy || x->s->all_health) &&
	       port_resolve(x->s, e->m, x->port) && !strcmp(w->network, weft_model_network(x->m)) &&
	       (!x->q->avoid_uid || strcmp(w->uid, x->q->avoid_uid) != 0) &&
	       addr_pick(w, x->s, &x->q->dst.ip, x->family);
}

static bool scope_matches(uint8_t scope, const struct weft_workload *a,
			  const struct weft_workload *b)
{
	switch (scope) {
	case ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__REGION:
		return !strcmp(a->region, b->region);
	case ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__ZONE:
		return !strcmp(a->zone, b->zone);
	case ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__SUBZONE:
		return !strcmp(a->subzone, b->subzone);
	case ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NODE:
		return !strcmp(a->node, b->node);
	case ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__CLUSTER:
		return !strcmp(a->cluster, b->cluster);
	default: /* NETWORK */
		return !strcmp(a->network, b->network);
	}
}

/* How near w is: preferences that match in order, up to the first that does not. A first preference
 * of NETWORK counts more than all others together, and failing it does not end the count. -1: not
 * to be used (STRICT). */
static int rank_of(const struct weft_service *s, const struct weft_workload *src,
		   const struct weft_workload *w)
{
	int rank = 0, matched = 0;

	if (!s->lb_mode)
		return 0;
	for (int i = 0; i < s->n_scopes; i++) {
		bool network =
			!i && s->scopes[i] == ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NETWORK;

		if (scope_matches(s->scopes[i], src, w)) {
			matched++;
			rank += network ? s->n_scopes : 1;
		} else if (!network) {
			break;
		}
	}
	if (s->lb_mode == ISTIO__WORKLOAD__LOAD_BALANCING__MODE__STRICT && matched < s->n_scopes)
		return -1;
	return rank;
}

/* The weighted choice among the usable endpoints of the best rank, by looking at each. */
static const struct weft_endpoint *pick_slow(const struct want *x, const struct weft_endpoints *e,
					     uint64_t rand)
{
	uint64_t sum = 0, at;
	int best = -1;

	for (uint32_t i = 0; i < e->n; i++) {
		int rank = usable(x, &e->v[i]) ? rank_of(x->s, x->q->src, e->v[i].w) : -1;

		if (rank > best) {
			best = rank;
			sum = 0;
		}
		if (rank >= 0 && rank == best)
			sum += e->v[i].w->capacity;
	}
	if (best < 0)
		return NULL;
	at = rand_below(rand, sum);
	for (uint32_t i = 0; i < e->n; i++) {
		if (!usable(x, &e->v[i]) || rank_of(x->s, x->q->src, e->v[i].w) != best)
			continue;
		if (at < e->v[i].w->capacity)
			return &e->v[i];
		at -= e->v[i].w->capacity;
	}
	return NULL;
}

static uint32_t sums_find(const struct weft_endpoints *e, uint64_t at)
{
	uint32_t lo = 0, hi = e->n - 1;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (e->sums[mid] > at)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* Most endpoints are usable: drawing among all until one is keeps the distribution and does not
 * look at thousands. */
static const struct weft_endpoint *pick(const struct want *x, const struct weft_endpoints *e)
{
	uint64_t rand = x->q->rand, total = e && e->n ? (e->sums ? e->sums[e->n - 1] : e->n) : 0;

	if (!total)
		return NULL;
	for (int i = 0; i < TRIES && !x->s->lb_mode; i++) {
		uint64_t at = rand_below(rand_next(&rand), total);
		const struct weft_endpoint *v = &e->v[e->sums ? sums_find(e, at) : at];

		if (usable(x, v))
			return v;
	}
	return pick_slow(x, e, rand_next(&rand));
}

static void refuse(struct weft_route *r, enum weft_reason why)
{
	r->kind = WEFT_ROUTE_REFUSE;
	r->reason = why;
}

static void hbone(struct weft_route *r, const struct weft_workload *w, const struct weft_ip *ip,
		  uint16_t port, const struct weft_sockaddr *authority,
		  const struct weft_service *sans)
{
	r->kind = WEFT_ROUTE_HBONE;
	r->endpoint = w;
	r->dial = (struct weft_sockaddr){*ip, port};
	weft_sockaddr_text(authority, r->authority, sizeof(r->authority));
	r->id = w->identity;
	if (sans) {
		r->sans = sans->sans;
		r->n_sans = sans->n_sans;
	}
}

/* ---- waypoints */

/* What a gateway reference names: a service or a workload. False: neither is there. */
static bool gateway_find(const struct weft_model *m, const struct weft_gateway_ref *g,
			 const char *client_ns, const struct weft_service **ret_s,
			 const struct weft_workload **ret_w)
{
	char key[600];

	*ret_s = NULL;
	*ret_w = NULL;
	if (g->by_host) {
		if ((size_t)snprintf(key, sizeof(key), "%s/%s", g->ns, g->hostname) < sizeof(key))
			*ret_s = weft_model_service(m, key);
		if (!*ret_s)
			*ret_w = weft_model_workload_by_host(m, g->ns, g->hostname);
	} else {
		*ret_w = weft_model_workload_by_ip(m, g->network, &g->ip);
		if (!*ret_w)
			*ret_s = weft_model_service_by_ip(m, g->network, &g->ip, client_ns);
	}
	return *ret_s || *ret_w;
}

static void to_waypoint(const struct weft_model *m, const struct weft_route_query *q,
			const struct weft_gateway_ref *g, struct weft_route *r)
{
	struct want x = {.m = m, .q = q, .port = g->hbone_port, .family = q->dst.ip.family};
	const struct weft_workload *w = NULL;
	const struct weft_endpoint *e;
	const struct weft_ip *ip;
	uint16_t port = g->hbone_port;

	r->via_waypoint = true;
	if (!gateway_find(m, g, q->src->ns, &x.s, &w)) {
		refuse(r, WEFT_REASON_NO_WAYPOINT);
		return;
	}
	if (x.s) {
		e = pick(&x, weft_model_endpoints(m, x.s->key));
		w = e ? e->w : NULL;
		port = e ? port_resolve(x.s, e->m, x.port) : 0;
	} else if (q->avoid_uid && !strcmp(w->uid, q->avoid_uid)) {
		w = NULL;
	}
	if (!w || strcmp(w->network, weft_model_network(m)) != 0 ||
	    !(ip = addr_pick(w, x.s, g->by_host ? &q->dst.ip : &g->ip, x.family))) {
		refuse(r, WEFT_REASON_NO_WAYPOINT);
		return;
	}
	hbone(r, w, ip, port, &q->dst, x.s);
}

/* By weight; all zero, or none: the one in `waypoint`. */
static const struct weft_gateway_ref *service_waypoint(const struct weft_service *s, uint64_t rand)
{
	uint64_t sum = 0, at;

	for (size_t i = 0; i < s->n_weighted; i++)
		sum += s->weighted_waypoints[i].weight;
	if (!sum)
		return s->waypoint.set ? &s->waypoint : NULL;
	rand = ~rand; /* not the same draw as the endpoint's */
	at = rand_below(rand_next(&rand), sum);
	for (size_t i = 0; i < s->n_weighted; i++) {
		if (at < s->weighted_waypoints[i].weight)
			return &s->weighted_waypoints[i].to;
		at -= s->weighted_waypoints[i].weight;
	}
	return NULL; /* not reached: at is below the sum */
}

static bool is_workload(const struct weft_route_query *q, const struct weft_workload *w)
{
	return !strcmp(w->identity, q->src->identity) && has_addr(w, &q->src_ip);
}

/* The source is the waypoint itself: identity and address are those of one of its workloads. */
static bool from_waypoint(const struct weft_model *m, const struct weft_route_query *q,
			  const struct weft_gateway_ref *g)
{
	const struct weft_endpoints *e;
	const struct weft_service *s;
	const struct weft_workload *w;

	if (!gateway_find(m, g, q->src->ns, &s, &w))
		return false;
	if (w)
		return is_workload(q, w);
	e = weft_model_endpoints(m, s->key);
	for (uint32_t i = 0; e && i < e->n; i++)
		if (is_workload(q, e->v[i].w))
			return true;
	return false;
}

/* ---- the route */

static void to_endpoint(const struct weft_route_query *q, const struct weft_workload *w,
			const struct weft_ip *ip, uint16_t port, struct weft_route *r)
{
	struct weft_sockaddr target = {*ip, port};

	if (!w->hbone) {
		r->kind = WEFT_ROUTE_TCP;
		r->endpoint = w;
		r->dial = target;
		return;
	}
	if (weft_port_is_own(port)) {
		refuse(r, WEFT_REASON_ILLEGAL_PORT);
		r->endpoint = w;
		return;
	}
	hbone(r, w, ip, HBONE_PORT, &target, r->service);
}

static void passthrough(const struct weft_route_query *q, struct weft_route *r)
{
	r->kind = WEFT_ROUTE_PASSTHROUGH;
	r->dial = q->dst;
}

/* Why a service gave nothing: the port first, since more endpoints would not help. */
static enum weft_reason service_lack(const struct want *x, const struct weft_endpoints *e)
{
	bool healthy = false, mapped = false;

	if (!port_find(x->s->ports, x->s->n_ports, x->port))
		return WEFT_REASON_NO_PORT;
	for (uint32_t i = 0; e && i < e->n; i++) {
		if (!e->v[i].w->healthy && !x->s->all_health)
			continue;
		healthy = true;
		mapped = mapped || port_resolve(x->s, e->v[i].m, x->port);
	}
	return healthy && !mapped ? WEFT_REASON_NO_PORT : WEFT_REASON_NO_ENDPOINT;
}

static void to_service(const struct weft_model *m, const struct weft_route_query *q,
		       const struct weft_service *s, struct weft_route *r)
{
	struct want x = {.m = m, .q = q, .s = s, .port = q->dst.port, .family = q->dst.ip.family};
	const struct weft_endpoints *all = weft_model_endpoints(m, s->key);
	const struct weft_endpoint *e;

	r->service = s;
	if (s->lb_mode == ISTIO__WORKLOAD__LOAD_BALANCING__MODE__PASSTHROUGH) {
		passthrough(q, r);
		return;
	}
	e = pick(&x, all);
	if (!e) {
		refuse(r, service_lack(&x, all));
		return;
	}
	to_endpoint(q, e->w, addr_pick(e->w, s, &q->dst.ip, x.family),
		    port_resolve(s, e->m, x.port), r);
}

static void to_workload(const struct weft_model *m, const struct weft_route_query *q,
			const struct weft_workload *w, struct weft_route *r)
{
	if (q->avoid_uid && !strcmp(q->avoid_uid, w->uid)) {
		refuse(r, WEFT_REASON_NO_ENDPOINT);
		return;
	}
	if (w->waypoint && !from_waypoint(m, q, w->waypoint)) {
		to_waypoint(m, q, w->waypoint, r);
		return;
	}
	to_endpoint(q, w, &q->dst.ip, q->dst.port, r);
}

void weft_route_pick(const struct weft_model *m, const struct weft_route_query *q,
		     struct weft_route *ret)
{
	const char *network = weft_model_network(m);
	const struct weft_workload *w;
	const struct weft_service *s;
	const struct weft_gateway_ref *g;

	*ret = (struct weft_route){.reason = WEFT_REASON_OK};
	if (weft_ip_is_loopback(&q->dst.ip) && weft_port_is_own(q->dst.port)) {
		refuse(ret, WEFT_REASON_ILLEGAL_PORT);
		return;
	}
	w = weft_model_workload_by_ip(m, network, &q->dst.ip);
	s = weft_model_service_by_ip(m, network, &q->dst.ip, q->src->ns);
	/* the waypoint's question looks at the workload first, the endpoint's at the service */
	g = s && !w ? service_waypoint(s, q->rand) : NULL;
	if (g) {
		ret->service = s;
		to_waypoint(m, q, g, ret);
	} else if (s) {
		to_service(m, q, s, ret);
	} else if (w) {
		to_workload(m, q, w, ret);
	} else {
		passthrough(q, ret);
	}
}

uint16_t weft_route_inbound_port(const struct weft_model *m, const struct weft_workload *w,
				 const char *host, uint16_t port)
{
	const struct weft_service *s = weft_model_service_by_host(m, host, w->ns);
	const struct weft_endpoints *e = s ? weft_model_endpoints(m, s->key) : NULL;

	for (uint32_t i = 0; e && i < e->n; i++)
		if (!strcmp(e->v[i].w->uid, w->uid))
			return port_resolve(s, e->v[i].m, port);
	return 0;
}

/* ---- the same, told */

static const char *why_not(const struct want *x, const struct weft_endpoint *e)
{
	const struct weft_workload *w = e->w;

	if (!w->healthy && !x->s->all_health)
		return "not healthy";
	if (!port_resolve(x->s, e->m, x->port))
		return "has no such port";
	if (!w->capacity)
		return "capacity 0";
	if (strcmp(w->network, weft_model_network(x->m)) != 0)
		return "on another network";
	if (!addr_pick(w, x->s, &x->q->dst.ip, x->family))
		return "has no address of a family the service allows";
	if (x->q->avoid_uid && !strcmp(w->uid, x->q->avoid_uid))
		return "avoided";
	return NULL;
}

size_t weft_route_choices(const struct weft_model *m, const struct weft_route_query *q,
			  const struct weft_service *s, struct weft_choice *v, size_t max)
{
	const struct weft_endpoints *e = weft_model_endpoints(m, s->key);
	struct want x = {.m = m, .q = q, .s = s, .port = q->dst.port, .family = q->dst.ip.family};
	int best = -1;

	for (uint32_t i = 0; e && i < e->n; i++) {
		int rank = usable(&x, &e->v[i]) ? rank_of(s, q->src, e->v[i].w) : -1;

		best = rank > best ? rank : best;
	}
	for (uint32_t i = 0; e && i < e->n && i < max; i++) {
		const struct weft_ip *ip = addr_pick(e->v[i].w, s, &q->dst.ip, x.family);

		v[i] = (struct weft_choice){.w = e->v[i].w, .why_not = why_not(&x, &e->v[i])};
		if (ip)
			v[i].target.ip = *ip;
		v[i].target.port = port_resolve(s, e->v[i].m, x.port);
		if (!v[i].why_not && rank_of(s, q->src, e->v[i].w) != best)
			v[i].why_not = "another is nearer, as the service prefers";
		else if (!v[i].why_not && best < 0)
			v[i].why_not = "not as near as the service demands";
	}
	return e ? e->n : 0;
}
