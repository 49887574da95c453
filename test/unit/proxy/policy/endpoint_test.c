#include "test/unit/proxy/policy/build.h"

/* client web/client 10.0.0.1; service web/a.example 10.1.0.1:80 → 8080 with endpoints e1 (HBONE),
 * e2, and so on by test */
struct bed {
	struct weft_arena *a;
	struct weft_model *m;
};

static int setup(void **state)
{
	struct bed *b = weft_xcalloc(1, sizeof(*b));
	struct weft_change c;

	b->a = weft_arena_new(0);
	b->m = weft_model_empty("");
	c = set_workload(b->a, workload(b->a, "web", "client", "10.0.0.1"));
	apply(&b->m, &c, 1);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bed *b = *state;

	weft_model_unref(b->m);
	weft_arena_free(b->a);
	free(b);
	return 0;
}

static void put_workload(struct bed *b, Istio__Workload__Workload *w)
{
	struct weft_change c = set_workload(b->a, w);

	apply(&b->m, &c, 1);
}

static void put_service(struct bed *b, Istio__Workload__Service *s)
{
	struct weft_change c = set_service(b->a, s);

	apply(&b->m, &c, 1);
}

static Istio__Workload__Workload *endpoint(struct bed *b, const char *name, const char *addr)
{
	Istio__Workload__Workload *w = workload(b->a, "web", name, addr);

	member(b->a, w, "web/a.example", 80, 0);
	return w;
}

static void hbone_on(Istio__Workload__Workload *w)
{
	w->has_tunnel_protocol = 1;
	w->tunnel_protocol = ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
}

static struct weft_route go(struct bed *b, const char *dst, uint64_t rand)
{
	struct weft_route_query q = {
		.src = weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/client"),
		.src_ip = ip("10.0.0.1"),
		.dst = sa(dst),
		.rand = rand};
	struct weft_route r;

	assert_non_null(q.src);
	weft_route_pick(b->m, &q, &r);
	return r;
}

static void expect_dial(const struct weft_route *r, enum weft_route_kind kind, const char *dial)
{
	char text[WEFT_SOCKADDR_TEXT];

	assert_int_equal(r->reason, WEFT_REASON_OK);
	assert_int_equal(r->kind, kind);
	assert_string_equal(weft_sockaddr_text(&r->dial, text, sizeof(text)), dial);
}

static void expect_refused(const struct weft_route *r, enum weft_reason why)
{
	assert_int_equal(r->kind, WEFT_ROUTE_REFUSE);
	assert_string_equal(weft_reason_code(r->reason), weft_reason_code(why));
}

static void unknown_passes(void **state)
{
	struct weft_route r = go(*state, "203.0.113.9:443", 1);

	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "203.0.113.9:443");
	assert_null(r.endpoint);
}

static void own_ports(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Workload *w = workload(b->a, "web", "e1", "10.0.0.2");
	struct weft_route r = go(b, "127.0.0.1:15001", 1);

	expect_refused(&r, WEFT_REASON_ILLEGAL_PORT);
	r = go(b, "10.0.0.9:15001", 1);
	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "10.0.0.9:15001");
	hbone_on(w);
	put_workload(b, w);
	r = go(b, "10.0.0.2:15008", 1);
	expect_refused(&r, WEFT_REASON_ILLEGAL_PORT);
}

static void workload_addressed(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Workload *w = workload(b->a, "web", "e1", "10.0.0.2");
	struct weft_route r;

	put_workload(b, w);
	r = go(b, "10.0.0.2:8080", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
	hbone_on(w);
	w->has_status = 1;
	w->status = ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY; /* says nothing about who dials it
								     by its address */
	put_workload(b, w);
	r = go(b, "10.0.0.2:8080", 1);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.0.2:15008");
	assert_string_equal(r.authority, "10.0.0.2:8080");
	assert_string_equal(r.id, "spiffe://cluster.local/ns/web/sa/e1");
	assert_int_equal(r.n_sans, 0);
}

static void service_addressed(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	Istio__Workload__Workload *w = endpoint(b, "e1", "10.0.0.2");
	struct weft_route r;

	hbone_on(w);
	put_workload(b, w); /* before its service */
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "10.1.0.1:80");
	ADD(b->a, s->subject_alt_names, s->n_subject_alt_names, (char *)"spiffe://x/ns/y/sa/z");
	ADD(b->a, s->subject_alt_names, s->n_subject_alt_names, (char *)"dns:not-an-id");
	put_service(b, s);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.0.2:15008");
	assert_string_equal(r.authority, "10.0.0.2:8080");
	assert_string_equal(r.service->key, "web/a.example");
	assert_int_equal(r.n_sans, 1);
	assert_string_equal(r.sans[0], "spiffe://x/ns/y/sa/z");
	r = go(b, "10.1.0.1:81", 1);
	expect_refused(&r, WEFT_REASON_NO_PORT);
	put_service(b, s); /* again: keeps its endpoints */
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.0.2:15008");
	w->n_services = 0;
	put_workload(b, w);
	r = go(b, "10.1.0.1:80", 1);
	expect_refused(&r, WEFT_REASON_NO_ENDPOINT);
}

static void ports(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s =
		service(b->a, "web", "a.example", "10.1.0.1", 80, 0); /* named target */
	Istio__Workload__Workload *w = workload(b->a, "web", "e1", "10.0.0.2");
	struct weft_route r;

	member(b->a, w, "web/a.example", 80, 9090);
	put_workload(b, w);
	put_workload(b, endpoint(b, "e2", "10.0.0.3")); /* has no port of that name */
	put_service(b, s);
	for (uint64_t i = 0; i < 50; i++) {
		r = go(b, "10.1.0.1:80", i * 0x9e3779b97f4a7c15u);
		expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:9090");
	}
	assert_int_equal(weft_route_inbound_port(
				 b->m, weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/e1"),
				 "a.example", 80),
			 9090);
	assert_int_equal(weft_route_inbound_port(
				 b->m, weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/e2"),
				 "a.example", 80),
			 0);
	assert_int_equal(weft_route_inbound_port(
				 b->m, weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/e1"),
				 "a.example", 81),
			 0);
	assert_int_equal(weft_route_inbound_port(
				 b->m,
				 weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/client"),
				 "a.example", 80),
			 0);
	assert_int_equal(weft_route_inbound_port(
				 b->m, weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/e1"),
				 "b.example", 80),
			 0);
}

static void health(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	Istio__Workload__Workload *w = endpoint(b, "e1", "10.0.0.2");
	struct weft_route r;

	w->has_status = 1;
	w->status = ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY;
	put_service(b, s);
	put_workload(b, w);
	r = go(b, "10.1.0.1:80", 1);
	expect_refused(&r, WEFT_REASON_NO_ENDPOINT);
	s->load_balancing =
		NEW(b->a, Istio__Workload__LoadBalancing, ISTIO__WORKLOAD__LOAD_BALANCING__INIT);
	s->load_balancing->health_policy =
		ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
	put_service(b, s); /* gets back what it had left out */
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
}

static void avoid(void **state)
{
	struct bed *b = *state;
	struct weft_route_query q = {.src_ip = ip("10.0.0.1"), .dst = sa("10.1.0.1:80")};
	struct weft_route r;

	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 8080));
	put_workload(b, endpoint(b, "e1", "10.0.0.2"));
	put_workload(b, endpoint(b, "e2", "10.0.0.3"));
	q.src = weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/client");
	q.avoid_uid = "Kubernetes//Pod/web/e1";
	for (q.rand = 0; q.rand < 100; q.rand++) {
		weft_route_pick(b->m, &q, &r);
		expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.3:8080");
	}
	q.avoid_uid = "Kubernetes//Pod/web/e2";
	q.dst = sa("10.0.0.3:8080");
	weft_route_pick(b->m, &q, &r);
	expect_refused(&r, WEFT_REASON_NO_ENDPOINT);
}

static void families(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	Istio__Workload__Workload *w = endpoint(b, "e1", "fd00::2");
	struct weft_route r;

	ADD(b->a, s->addresses, s->n_addresses,
	    service(b->a, "x", "x", "fd01::1", 0, 0)->addresses[0]);
	put_service(b, s);
	put_workload(b, w);
	r = go(b, "10.1.0.1:80", 1); /* other family: better than none */
	expect_dial(&r, WEFT_ROUTE_TCP, "[fd00::2]:8080");
	ADD(b->a, w->addresses, w->n_addresses, ip_bytes(b->a, "10.0.0.2"));
	put_workload(b, w);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
	r = go(b, "[fd01::1]:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "[fd00::2]:8080");
	s->ip_families = ISTIO__WORKLOAD__SERVICE__IPFAMILIES__IPV6_ONLY;
	put_service(b, s);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "[fd00::2]:8080");
	w->n_addresses = 1;
	s->ip_families = ISTIO__WORKLOAD__SERVICE__IPFAMILIES__IPV4_ONLY;
	put_service(b, s);
	put_workload(b, w);
	r = go(b, "10.1.0.1:80", 1);
	expect_refused(&r, WEFT_REASON_NO_ENDPOINT);
}

static void other_network(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Workload *w = endpoint(b, "e1", "10.0.0.2");
	struct weft_route r;

	w->network = weft_arena_strdup(b->a, "far");
	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 8080));
	put_workload(b, w);
	r = go(b, "10.1.0.1:80", 1);
	expect_refused(&r, WEFT_REASON_NO_ENDPOINT);
	r = go(b, "10.0.0.2:80", 1); /* another network's address is nobody's here */
	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "10.0.0.2:80");
}

static void visibility(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *other = service(b->a, "aaa", "a.example", "10.1.0.1", 80, 1111);
	Istio__Workload__Service *canonical =
		service(b->a, "bbb", "a.example", "10.1.0.1", 80, 2222);
	Istio__Workload__Workload *w = workload(b->a, "web", "e1", "10.0.0.2");
	struct weft_route r;

	member(b->a, w, "aaa/a.example", 80, 0);
	member(b->a, w, "bbb/a.example", 80, 0);
	member(b->a, w, "web/a.example", 80, 0);
	put_workload(b, w);
	other->visibility = ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE;
	put_service(b, other);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "10.1.0.1:80");
	other->visibility = ISTIO__WORKLOAD__SERVICE__VISIBILITY__PUBLIC;
	canonical->canonical = 1;
	put_service(b, other);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:1111");
	put_service(b, canonical);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:2222");
	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 3333));
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:3333");
}

static void cidr_vips(void **state)
{
	struct bed *b = *state;
	const struct weft_service *s;
	struct weft_ip at = ip("10.7.3.4");

	put_service(b, service(b->a, "aaa", "wide", "10.7.0.0/16", 80, 1));
	put_service(b, service(b->a, "aaa", "narrow", "10.7.3.0/24", 80, 1));
	s = weft_model_service_by_ip(b->m, "", &at, "web");
	assert_string_equal(s->key, "aaa/narrow");
	put_service(b, service(b->a, "web", "mine", "10.0.0.0/8", 80,
			       1)); /* own namespace before a narrower one */
	s = weft_model_service_by_ip(b->m, "", &at, "web");
	assert_string_equal(s->key, "web/mine");
	s = weft_model_service_by_ip(b->m, "", &at, "zzz");
	assert_string_equal(s->key, "aaa/narrow");
	assert_null(weft_model_service_by_ip(b->m, "far", &at, "zzz"));
	put_service(b, service(b->a, "zzz", "one", "10.7.3.4", 80, 1));
	s = weft_model_service_by_ip(b->m, "", &at, "web");
	assert_string_equal(s->key, "zzz/one");
}

static void host_network(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Workload *w = endpoint(b, "e1", "10.0.0.2");
	struct weft_route r;

	w->network_mode = ISTIO__WORKLOAD__WORKLOAD__NETWORK_MODE__HOST_NETWORK;
	put_workload(b, w);
	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 8080));
	r = go(b, "10.0.0.2:8080", 1); /* the node's address is not the pod's */
	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "10.0.0.2:8080");
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
}

static Istio__Workload__GatewayAddress *by_host(struct bed *b, const char *ns, const char *host)
{
	Istio__Workload__GatewayAddress *g =
		NEW(b->a, Istio__Workload__GatewayAddress, ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT);

	g->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
	g->hostname = NEW(b->a, Istio__Workload__NamespacedHostname,
			  ISTIO__WORKLOAD__NAMESPACED_HOSTNAME__INIT);
	g->hostname->namespace_ = weft_arena_strdup(b->a, ns);
	g->hostname->hostname = weft_arena_strdup(b->a, host);
	g->has_hbone_mtls_port = 1;
	g->hbone_mtls_port = 15008;
	return g;
}

static void put_waypoint(struct bed *b, const char *name, const char *addr, const char *vip)
{
	Istio__Workload__Workload *w = workload(b->a, "gw", name, addr);
	Istio__Workload__Service *s = service(b->a, "gw", name, vip, 15008, 15008);

	member(b->a, w, weft_arena_printf(b->a, "gw/%s", name), 15008, 0);
	ADD(b->a, s->subject_alt_names, s->n_subject_alt_names,
	    (char *)"spiffe://cluster.local/ns/gw/sa/extra");
	put_workload(b, w);
	put_service(b, s);
}

static void service_waypoint(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	struct weft_route r;

	s->waypoint = by_host(b, "gw", "wp");
	put_service(b, s);
	put_workload(b, endpoint(b, "e1", "10.0.0.2"));
	r = go(b, "10.1.0.1:80", 1);
	expect_refused(&r, WEFT_REASON_NO_WAYPOINT); /* never around it */
	assert_true(r.via_waypoint);
	put_waypoint(b, "wp", "10.0.9.1", "10.1.9.1");
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.9.1:15008");
	assert_string_equal(r.authority, "10.1.0.1:80");
	assert_string_equal(r.id, "spiffe://cluster.local/ns/gw/sa/wp");
	assert_int_equal(r.n_sans, 1);
	assert_string_equal(r.service->key, "web/a.example");
	r = go(b, "10.0.0.2:8080",
	       1); /* a workload of the service by its own address: not the service's waypoint */
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
}

static void weighted_waypoints(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	static const uint32_t weights[] = {90, 10, 0};
	static const char *const names[] = {"wp", "canary", "never"};
	unsigned seen[3] = {0};

	s->waypoint = by_host(b, "gw", "plain");
	for (int i = 0; i < 3; i++) {
		Istio__Workload__WeightedWaypoint *x =
			NEW(b->a, Istio__Workload__WeightedWaypoint,
			    ISTIO__WORKLOAD__WEIGHTED_WAYPOINT__INIT);

		x->destination = by_host(b, "gw", names[i]);
		x->weight = weights[i];
		ADD(b->a, s->weighted_waypoints, s->n_weighted_waypoints, x);
	}
	put_waypoint(b, "wp", "10.0.9.1", "10.1.9.1");
	put_waypoint(b, "canary", "10.0.9.2", "10.1.9.2");
	put_waypoint(b, "never", "10.0.9.3", "10.1.9.3");
	put_waypoint(b, "plain", "10.0.9.4", "10.1.9.4");
	put_service(b, s);
	for (uint64_t i = 0; i < 10000; i++) {
		struct weft_route r = go(b, "10.1.0.1:80", i * 0x9e3779b97f4a7c15u);

		assert_int_equal(r.kind, WEFT_ROUTE_HBONE);
		assert_in_range(r.dial.ip.b[3], 1, 3);
		seen[r.dial.ip.b[3] - 1]++;
	}
	assert_in_range(seen[0], 8800, 9200);
	assert_int_equal(seen[2], 0);
	for (int i = 0; i < 3; i++)
		s->weighted_waypoints[i]->weight = 0;
	put_service(b, s);
	struct weft_route r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.9.4:15008");
}

static void workload_waypoint(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Workload *w = endpoint(b, "e1", "10.0.0.2");
	struct weft_route_query q = {.dst = sa("10.0.0.2:8080"), .rand = 1};
	struct weft_route r;

	w->waypoint = by_host(b, "gw", "wp");
	put_workload(b, w);
	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 8080));
	r = go(b, "10.0.0.2:8080", 1);
	expect_refused(&r, WEFT_REASON_NO_WAYPOINT);
	put_waypoint(b, "wp", "10.0.9.1", "10.1.9.1");
	r = go(b, "10.0.0.2:8080", 1);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.9.1:15008");
	assert_string_equal(r.authority, "10.0.0.2:8080");
	r = go(b, "10.1.0.1:80", 1); /* service-addressed: a workload's waypoint says nothing */
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
	/* the waypoint itself goes straight; who only borrows its address does not */
	q.src = weft_model_workload_by_uid(b->m, "Kubernetes//Pod/gw/wp");
	q.src_ip = ip("10.0.9.1");
	weft_route_pick(b->m, &q, &r);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.2:8080");
	q.src = weft_model_workload_by_uid(b->m, "Kubernetes//Pod/web/client");
	weft_route_pick(b->m, &q, &r);
	expect_dial(&r, WEFT_ROUTE_HBONE, "10.0.9.1:15008");
}

static void passthrough_service(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	struct weft_route r;

	s->load_balancing =
		NEW(b->a, Istio__Workload__LoadBalancing, ISTIO__WORKLOAD__LOAD_BALANCING__INIT);
	s->load_balancing->mode = ISTIO__WORKLOAD__LOAD_BALANCING__MODE__PASSTHROUGH;
	put_service(b, s);
	put_workload(b, endpoint(b, "e1", "10.0.0.2"));
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_PASSTHROUGH, "10.1.0.1:80");
}

/* scopes as numbers, e.g. {6, 1, 2}: network, region, zone */
static void prefer(struct bed *b, Istio__Workload__Service *s, int mode, const int *scopes,
		   size_t n)
{
	s->load_balancing =
		NEW(b->a, Istio__Workload__LoadBalancing, ISTIO__WORKLOAD__LOAD_BALANCING__INIT);
	s->load_balancing->mode = (Istio__Workload__LoadBalancing__Mode)mode;
	for (size_t i = 0; i < n; i++)
		ADD(b->a, s->load_balancing->routing_preference,
		    s->load_balancing->n_routing_preference,
		    (Istio__Workload__LoadBalancing__Scope)scopes[i]);
	put_service(b, s);
}

static void preferences(void **state)
{
	struct bed *b = *state;
	Istio__Workload__Service *s = service(b->a, "web", "a.example", "10.1.0.1", 80, 8080);
	Istio__Workload__Workload *client = workload(b->a, "web", "client", "10.0.0.1");
	static const char *const zones[] = {"z1", "z2", "z2"};
	static const char *const nodes[] = {"n1", "n2", "n3"};
	Istio__Workload__Workload *w[3];
	struct weft_route r;

	for (int i = 0; i < 3; i++) {
		w[i] = endpoint(b, weft_arena_printf(b->a, "e%d", i),
				weft_arena_printf(b->a, "10.0.0.%d", 10 + i));
		w[i]->locality =
			NEW(b->a, Istio__Workload__Locality, ISTIO__WORKLOAD__LOCALITY__INIT);
		w[i]->locality->region = (char *)"r";
		w[i]->locality->zone = (char *)zones[i];
		w[i]->node = (char *)nodes[i];
		put_workload(b, w[i]);
	}
	client->locality = NEW(b->a, Istio__Workload__Locality, ISTIO__WORKLOAD__LOCALITY__INIT);
	client->locality->region = (char *)"r";
	client->locality->zone = (char *)"z1";
	client->node = (char *)"n9";
	put_workload(b, client);
	prefer(b, s, 2, (const int[]){6, 1, 2}, 3); /* FAILOVER: the one in the zone, always */
	for (uint64_t i = 0; i < 100; i++) {
		r = go(b, "10.1.0.1:80", i);
		expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.10:8080");
	}
	w[0]->status = ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY;
	put_workload(b, w[0]);
	r = go(b, "10.1.0.1:80", 1); /* then the region */
	assert_in_range(r.dial.ip.b[3], 11, 12);
	prefer(b, s, 1, (const int[]){4}, 1); /* STRICT on the node: none is there */
	r = go(b, "10.1.0.1:80", 1);
	expect_refused(&r, WEFT_REASON_NO_ENDPOINT);
	client->node = (char *)"n3";
	put_workload(b, client);
	r = go(b, "10.1.0.1:80", 1);
	expect_dial(&r, WEFT_ROUTE_TCP, "10.0.0.12:8080");
}

static void weights(void **state)
{
	struct bed *b = *state;
	static const uint32_t capacity[] = {1, 2, 5, 0, 2};
	unsigned seen[5] = {0}, total = 100000;

	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 8080));
	for (unsigned i = 0; i < 5; i++) {
		Istio__Workload__Workload *w =
			endpoint(b, weft_arena_printf(b->a, "e%u", i),
				 weft_arena_printf(b->a, "10.0.0.%u", 10 + i));

		w->capacity = NEW(b->a, Google__Protobuf__UInt32Value,
				  GOOGLE__PROTOBUF__UINT32_VALUE__INIT);
		w->capacity->has_value = 1;
		w->capacity->value = capacity[i];
		put_workload(b, w);
	}
	for (unsigned i = 0; i < total; i++)
		seen[go(b, "10.1.0.1:80", i * 0xd1342543de82ef95u).dial.ip.b[3] - 10]++;
	for (unsigned i = 0; i < 5; i++) {
		unsigned want = total / 10 * capacity[i];

		print_message("# capacity %u: %u of %u\n", capacity[i], seen[i], total);
		assert_in_range(seen[i], want - want / 20, want + want / 20);
	}
}

/* Draws must not depend on how many unusable ones stand between. */
static void weights_among_unhealthy(void **state)
{
	struct bed *b = *state;
	unsigned seen[64] = {0}, total = 60000;

	put_service(b, service(b->a, "web", "a.example", "10.1.0.1", 80, 8080));
	for (unsigned i = 0; i < 64; i++) {
		Istio__Workload__Workload *w =
			endpoint(b, weft_arena_printf(b->a, "e%u", i),
				 weft_arena_printf(b->a, "10.0.0.%u", 100 + i));

		w->status = i % 16 ? ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY
				   : ISTIO__WORKLOAD__WORKLOAD__STATUS__HEALTHY;
		put_workload(b, w);
	}
	for (unsigned i = 0; i < total; i++)
		seen[go(b, "10.1.0.1:80", i * 0xd1342543de82ef95u).dial.ip.b[3] - 100]++;
	for (unsigned i = 0; i < 64; i++)
		assert_in_range(seen[i], i % 16 ? 0 : total / 4 - total / 80,
				i % 16 ? 0 : total / 4 + total / 80);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(unknown_passes),
		T(own_ports),
		T(workload_addressed),
		T(service_addressed),
		T(ports),
		T(health),
		T(avoid),
		T(families),
		T(other_network),
		T(visibility),
		T(cidr_vips),
		T(host_network),
		T(service_waypoint),
		T(weighted_waypoints),
		T(workload_waypoint),
		T(passthrough_service),
		T(preferences),
		T(weights),
		T(weights_among_unhealthy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
