#include "proxy/policy/model_priv.h"
#include "test/unit/proxy/policy/build.h"

#include <malloc.h>
#include <pthread.h>
#include <time.h>

static uint64_t rng = 1;

static unsigned below(unsigned n)
{
	rng = rng * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)((rng >> 33) % n);
}

/* ---- the oracle: plain lists of what was set last, searched from end to end */

enum { N_W = 60, N_S = 20, N_P = 12 };
static const char *const networks[] = {"", "far"};
static const char *const spaces[] = {"a", "b", "c"};

struct plain_workload {
	bool there, hbone, host_network, pod;
	const char *network, *ns;
	char uid[80], name[16], hostname[16];
	unsigned ips[2], n_ips; /* 10.0.0.x */
	bool member[N_S];
	uint32_t capacity;
};
struct plain_service {
	bool there, canonical, private_ns;
	const char *ns;
	char key[32], hostname[24];
	const char *network;
	unsigned vip;	   /* 10.1.0.x, 0: none */
	unsigned cidr_len; /* 10.2.0.0/len, 0: none */
};
struct plain_policy {
	bool there;
	const char *ns;
	int scope;
	char name[16];
};
static struct plain_workload pw[N_W];
static struct plain_service ps[N_S];
static struct plain_policy pp[N_P];

static void workload_random(struct plain_workload *w, unsigned i)
{
	*w = (struct plain_workload){.there = true,
				     .hbone = below(2),
				     .host_network = !below(6),
				     .pod = i % 5,
				     .network = networks[!below(4)],
				     .ns = spaces[i % 3],
				     .capacity = below(3)};
	snprintf(w->name, sizeof(w->name), "w%u", i / 2); /* two may share a name */
	if (!below(4))
		snprintf(w->hostname, sizeof(w->hostname), "h%u", below(4));
	snprintf(w->uid, sizeof(w->uid), "K//%s/%s/w%u/%u", w->pod ? "Pod" : "Entry", w->ns, i / 2,
		 i);
	w->n_ips = below(3);
	w->ips[0] = 1 + below(40);
	w->ips[1] = 100 + below(10);
	for (unsigned s = 0; s < N_S; s++)
		w->member[s] = !below(5);
}

static void service_random(struct plain_service *s, unsigned i)
{
	*s = (struct plain_service){.there = true,
				    .canonical = below(2),
				    .private_ns = !below(4),
				    .ns = spaces[i % 3],
				    .network = networks[!below(4)],
				    .vip = below(3) ? 1 + below(8) : 0,
				    .cidr_len = below(2) ? 16 + below(12) : 0};
	snprintf(s->hostname, sizeof(s->hostname), "s%u.example",
		 i / 3); /* one host name in three namespaces */
	snprintf(s->key, sizeof(s->key), "%s/s%u.example", s->ns, i / 3);
}

static const char *vip_text(struct weft_arena *a, const struct plain_service *s)
{
	return weft_arena_printf(a, "10.1.0.%u", s->vip);
}

static struct weft_change workload_change(struct weft_arena *a, const struct plain_workload *w)
{
	Istio__Workload__Workload *m = workload(a, w->ns, w->name, NULL);

	m->uid = weft_arena_strdup(a, w->uid);
	m->network = (char *)(uintptr_t)w->network;
	m->hostname = weft_arena_strdup(a, w->hostname);
	m->tunnel_protocol = w->hbone ? ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE
				      : ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__NO_TUNNEL;
	m->network_mode = w->host_network ? ISTIO__WORKLOAD__WORKLOAD__NETWORK_MODE__HOST_NETWORK
					  : ISTIO__WORKLOAD__WORKLOAD__NETWORK_MODE__STANDARD;
	m->capacity = NEW(a, Google__Protobuf__UInt32Value, GOOGLE__PROTOBUF__UINT32_VALUE__INIT);
	m->capacity->value = w->capacity;
	for (unsigned i = 0; i < w->n_ips; i++)
		ADD(a, m->addresses, m->n_addresses,
		    ip_bytes(a, weft_arena_printf(a, "10.0.0.%u", w->ips[i])));
	for (unsigned i = 0; i < N_S; i++)
		if (w->member[i])
			member(a, m, weft_arena_printf(a, "%s/s%u.example", spaces[i % 3], i / 3),
			       80, 80);
	return set_workload(a, m);
}

static struct weft_change service_change(struct weft_arena *a, const struct plain_service *s)
{
	Istio__Workload__Service *m =
		service(a, s->ns, s->hostname, s->vip ? vip_text(a, s) : NULL, 80, 80);

	if (s->cidr_len)
		ADD(a, m->addresses, m->n_addresses,
		    service(a, "x", "x", weft_arena_printf(a, "10.2.0.0/%u", s->cidr_len), 0, 0)
			    ->addresses[0]);
	for (size_t i = 0; i < m->n_addresses; i++)
		m->addresses[i]->network = (char *)(uintptr_t)s->network;
	m->canonical = s->canonical;
	m->visibility = s->private_ns ? ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE
				      : ISTIO__WORKLOAD__SERVICE__VISIBILITY__PUBLIC;
	return set_service(a, m);
}

static struct weft_change change_random(struct weft_arena *a)
{
	unsigned kind = below(10), i;

	if (kind < 5) {
		i = below(N_W);
		if (pw[i].there && !below(3)) {
			pw[i].there = false;
			return del_address(weft_arena_strdup(a, pw[i].uid));
		}
		workload_random(&pw[i], i);
		return workload_change(a, &pw[i]);
	}
	if (kind < 8) {
		i = below(N_S);
		if (ps[i].there && !below(3)) {
			ps[i].there = false;
			return del_address(weft_arena_strdup(a, ps[i].key));
		}
		service_random(&ps[i], i);
		return service_change(a, &ps[i]);
	}
	i = below(N_P);
	snprintf(pp[i].name, sizeof(pp[i].name), "p%u", i);
	pp[i].ns = spaces[i % 3];
	if (pp[i].there && !below(3)) {
		pp[i].there = false;
		return (struct weft_change){.kind = WEFT_DEL_POLICY,
					    .name = weft_arena_printf(a, "%s/p%u", pp[i].ns, i)};
	}
	Istio__Security__Authorization *p =
		NEW(a, Istio__Security__Authorization, ISTIO__SECURITY__AUTHORIZATION__INIT);
	pp[i].there = true;
	pp[i].scope = (int)below(3);
	p->name = weft_arena_strdup(a, pp[i].name);
	p->namespace_ = (char *)(uintptr_t)pp[i].ns;
	p->scope = (Istio__Security__Scope)pp[i].scope;
	return set_policy(a, p);
}

static const char *expect_workload(const char *network, unsigned addr)
{
	const struct plain_workload *best = NULL;

	for (unsigned i = 0; i < N_W; i++) {
		const struct plain_workload *w = &pw[i];
		bool has =
			(w->n_ips > 0 && w->ips[0] == addr) || (w->n_ips > 1 && w->ips[1] == addr);

		if (!w->there || w->host_network || !has || strcmp(w->network, network))
			continue;
		if (!best || w->pod > best->pod ||
		    (w->pod == best->pod && w->hbone > best->hbone) ||
		    (w->pod == best->pod && w->hbone == best->hbone &&
		     strcmp(w->uid, best->uid) < 0))
			best = w;
	}
	return best ? best->uid : NULL;
}

static const char *expect_service(const char *network, const char *client, bool cidr, unsigned addr)
{
	const struct plain_service *best = NULL;

	for (unsigned i = 0; i < N_S; i++) {
		const struct plain_service *s = &ps[i];
		bool same = !strcmp(s->ns ? s->ns : "", client);
		bool best_same = best && !strcmp(best->ns, client);
		unsigned len = cidr ? s->cidr_len : 32,
			 best_len = best && cidr ? best->cidr_len : 32;

		if (!s->there || strcmp(s->network, network) || (s->private_ns && !same))
			continue;
		/* 10.2.0.0/len holds 10.2.x.y with x.y below 2^(32-len) */
		if (cidr ? !s->cidr_len || addr >> (32 - s->cidr_len) : s->vip != addr)
			continue;
		if (!best || same > best_same || (same == best_same && len > best_len) ||
		    (same == best_same && len == best_len && s->canonical > best->canonical) ||
		    (same == best_same && len == best_len && s->canonical == best->canonical &&
		     strcmp(s->key, best->key) < 0))
			best = s;
	}
	return best ? best->key : NULL;
}

static void expect_text(const char *got, const char *want)
{
	if (!got != !want || (got && strcmp(got, want)))
		fail_msg("got %s, want %s", got ? got : "nothing", want ? want : "nothing");
}

static void check_addresses(const struct weft_model *m)
{
	for (int n = 0; n < 2; n++) {
		for (unsigned addr = 1; addr < 112; addr++) {
			struct weft_ip at = {4, {10, 0, 0, (uint8_t)addr}};
			const struct weft_workload *w =
				weft_model_workload_by_ip(m, networks[n], &at);

			expect_text(w ? w->uid : NULL, expect_workload(networks[n], addr));
		}
		for (int c = 0; c < 3; c++) {
			for (unsigned addr = 1; addr < 10; addr++) {
				struct weft_ip at = {4, {10, 1, 0, (uint8_t)addr}};
				const struct weft_service *s =
					weft_model_service_by_ip(m, networks[n], &at, spaces[c]);

				expect_text(s ? s->key : NULL,
					    expect_service(networks[n], spaces[c], false, addr));
			}
			for (unsigned addr = 1; addr < 65536; addr = addr * 3 / 2 + 1) {
				struct weft_ip at = {4,
						     {10, 2, (uint8_t)(addr >> 8), (uint8_t)addr}};
				const struct weft_service *s =
					weft_model_service_by_ip(m, networks[n], &at, spaces[c]);

				expect_text(s ? s->key : NULL,
					    expect_service(networks[n], spaces[c], true, addr));
			}
		}
	}
}

static void check_endpoints(const struct weft_model *m)
{
	for (unsigned s = 0; s < N_S; s++) {
		char key[32];
		const struct weft_endpoints *e;
		uint64_t want = 0, sum = 0, capacity = 0;

		snprintf(key, sizeof(key), "%s/s%u.example", spaces[s % 3], s / 3);
		e = weft_model_endpoints(m, key);
		for (unsigned i = 0; i < N_W; i++) {
			if (!pw[i].there || !pw[i].member[s])
				continue;
			want++;
			capacity += pw[i].capacity;
		}
		assert_int_equal(e ? e->n : 0, want);
		assert_true(!e || want);
		for (uint32_t i = 0; e && i < e->n; i++) {
			const struct weft_workload *w =
				weft_model_workload_by_uid(m, e->v[i].w->uid);

			assert_ptr_equal(w, e->v[i].w); /* of this root, not of an older one */
			assert_string_equal(e->v[i].m->service, key);
			for (uint32_t k = 0; k < i; k++)
				assert_ptr_not_equal(e->v[k].w, e->v[i].w);
			sum += w->capacity;
			assert_int_equal(e->sums ? e->sums[i] : i + 1, e->sums ? sum : i + 1);
		}
		assert_int_equal(sum, capacity);
		assert_true(!e || e->sums || capacity == want);
	}
}

static void check_names(const struct weft_model *m)
{
	size_t n_w = 0, n_s = 0, n_p = 0, got_w, got_s, got_p;

	for (unsigned i = 0; i < N_W; i++) {
		const struct weft_workload *w =
			*pw[i].uid ? weft_model_workload_by_uid(m, pw[i].uid) : NULL;

		assert_int_equal(w != NULL, pw[i].there);
		n_w += pw[i].there;
		if (w)
			assert_non_null(weft_model_workload_by_pod(m, pw[i].ns, pw[i].name, NULL));
		if (w && *pw[i].hostname)
			assert_non_null(weft_model_workload_by_host(m, pw[i].ns, pw[i].hostname));
	}
	for (unsigned i = 0; i < N_S; i++) {
		assert_int_equal(*ps[i].key && weft_model_service(m, ps[i].key) != NULL,
				 ps[i].there);
		n_s += ps[i].there;
		for (int c = 0; c < 3 && *ps[i].key; c++) {
			const struct weft_service *s =
				weft_model_service_by_host(m, ps[i].hostname, spaces[c]);
			bool any = false;

			for (unsigned k = 0; k < N_S; k++)
				any = any ||
				      (ps[k].there && !strcmp(ps[k].hostname, ps[i].hostname) &&
				       (!ps[k].private_ns || !strcmp(ps[k].ns, spaces[c])));
			assert_int_equal(s != NULL, any);
		}
	}
	for (int c = 0; c < 4; c++) {
		const struct weft_policy_set *set =
			weft_model_policy_set(m, c < 3 ? spaces[c] : "");
		size_t want = 0;

		for (unsigned i = 0; i < N_P; i++)
			want += pp[i].there &&
				(c < 3 ? pp[i].scope == 1 && !strcmp(pp[i].ns, spaces[c])
				       : pp[i].scope == 0);
		assert_int_equal(set ? set->n : 0, want);
		for (uint32_t i = 1; set && i < set->n; i++)
			assert_true(strcmp(weft_policy_name(set->v[i - 1]),
					   weft_policy_name(set->v[i])) < 0);
	}
	for (unsigned i = 0; i < N_P; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s/p%u", pp[i].ns ? pp[i].ns : "", i);
		assert_int_equal(weft_model_policy(m, name) != NULL, pp[i].there);
		n_p += pp[i].there;
	}
	weft_model_counts(m, &got_w, &got_s, &got_p);
	assert_int_equal(got_w, n_w);
	assert_int_equal(got_s, n_s);
	assert_int_equal(got_p, n_p);
}

static void random_changes(void **state)
{
	struct weft_model *m = weft_model_empty(""), *kept[8] = {0};

	for (unsigned round = 0; round < 1500; round++) {
		struct weft_arena *a = weft_arena_new(0);
		struct weft_change c[12];
		unsigned n = 1 + below(12);

		for (unsigned i = 0; i < n; i++)
			c[i] = change_random(a);
		apply(&m, c, n);
		weft_arena_free(a); /* nothing is borrowed from the messages */
		check_names(m);
		check_endpoints(m);
		check_addresses(m);
		/* older roots live on, and go in any order */
		weft_model_unref(kept[round % 8]);
		kept[round % 8] = below(2) ? weft_model_ref(m) : NULL;
	}
	for (unsigned i = 0; i < 8; i++)
		weft_model_unref(kept[i]);
	weft_model_unref(m);
	assert_int_equal(weft_intern_count(), 0);
}

/* An older root still answers as it did. */
static void old_root(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_model *m = weft_model_empty(""), *old;
	struct weft_ip at = ip("10.0.0.1"), to = ip("10.0.0.2");
	struct weft_change c = set_workload(a, workload(a, "x", "p", "10.0.0.1"));
	const struct weft_workload *w;

	apply(&m, &c, 1);
	old = weft_model_ref(m);
	w = weft_workload_ref(weft_model_workload_by_ip(m, "", &at));
	c = set_workload(a, workload(a, "x", "p", "10.0.0.2"));
	apply(&m, &c, 1);
	assert_null(weft_model_workload_by_ip(m, "", &at));
	assert_non_null(weft_model_workload_by_ip(m, "", &to));
	assert_ptr_equal(weft_model_workload_by_ip(old, "", &at), w);
	assert_null(weft_model_workload_by_ip(old, "", &to));
	weft_model_unref(old);
	weft_model_unref(m);
	assert_string_equal(w->identity, "spiffe://cluster.local/ns/x/sa/p"); /* held on its own */
	weft_workload_unref((struct weft_workload *)(uintptr_t)w);
	weft_arena_free(a);
	assert_int_equal(weft_intern_count(), 0);
}

static void generation(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_model *m = weft_model_empty("");
	Istio__Workload__Workload *w = workload(a, "x", "p", "10.0.0.1");
	Istio__Security__Authorization *p =
		NEW(a, Istio__Security__Authorization, ISTIO__SECURITY__AUTHORIZATION__INIT);
	struct weft_change c = set_workload(a, w);
	uint64_t g = weft_model_policy_generation(m);

	apply(&m, &c, 1);
	w->status = ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY;
	apply(&m, &c, 1);
	assert_int_equal(weft_model_policy_generation(m), g);
	ADD(a, w->authorization_policies, w->n_authorization_policies, (char *)"x/p");
	apply(&m, &c, 1);
	assert_true(weft_model_policy_generation(m) > g);
	g = weft_model_policy_generation(m);
	apply(&m, &c, 1);
	assert_int_equal(weft_model_policy_generation(m), g);
	p->name = (char *)"p";
	p->namespace_ = (char *)"x";
	c = set_policy(a, p);
	apply(&m, &c, 1);
	assert_true(weft_model_policy_generation(m) > g);
	weft_model_unref(m);
	weft_arena_free(a);
}

/* ---- refusals: each with the field and the rule in its text, and the previous version stays */

static void refuse(struct weft_change c, const char *want)
{
	struct weft_model *m = weft_model_empty(""), *next = weft_model_apply(m, &c, 1);
	char text[600];
	size_t n[3];

	if (!c.err.code)
		fail_msg("accepted; want: %s", want);
	weft_err_text(&c.err, text, sizeof(text));
	if (!strstr(text, want))
		fail_msg("got \"%s\", want \"%s\"", text, want);
	weft_model_counts(next, &n[0], &n[1], &n[2]);
	assert_int_equal(n[0] + n[1] + n[2], 0);
	weft_model_unref(m);
	weft_model_unref(next);
}

static void refused_workloads(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	Istio__Workload__Workload *w;
	struct weft_change c;

#define BAD(change_it, want)                                                                       \
	w = workload(a, "x", "p", "10.0.0.1");                                                     \
	change_it;                                                                                 \
	refuse(set_workload(a, w), want)
	BAD(w->addresses[0].len = 3, "addresses[0]: an address must have 4 or 16 bytes, has 3");
	BAD(w->tunnel_protocol = 2, "tunnel_protocol: LEGACY_ISTIO_MTLS is not supported");
	BAD(w->tunnel_protocol = 7, "tunnel_protocol: unknown value 7");
	BAD(w->status = 2, "status: unknown value 2");
	BAD(w->network_mode = -1, "network_mode: unknown value -1");
	BAD(w->workload_type = 4, "workload_type: unknown value 4");
	BAD(w->service_account = "a/b", "service_account: must not contain '/'");
	BAD(w->trust_domain = "td\n", "trust_domain: must not contain");
	BAD(w->application_tunnel = NEW(a, Istio__Workload__ApplicationTunnel,
					ISTIO__WORKLOAD__APPLICATION_TUNNEL__INIT),
	    "application_tunnel: is not supported");
	BAD(member(a, w, "nohost", 80, 80),
	    "services[0]: must be namespace/hostname, is \"nohost\"");
	BAD(member(a, w, "a/b", 70000, 80),
	    "services[0].ports[0].service_port: must be 1..65535, is 70000");
	BAD(member(a, w, "a/b", 80, 65536),
	    "services[0].ports[0].target_port: must be 0..65535, is 65536");
	BAD(w->waypoint =
		    NEW(a, Istio__Workload__GatewayAddress, ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT),
	    "waypoint: must have a hostname or an address");
	BAD(ADD(a, w->authorization_policies, w->n_authorization_policies, (char *)"nope"),
	    "authorization_policies[0]: must be namespace/");
	w = workload(a, "x", "p", "10.0.0.1");
	c = set_workload(a, w);
	c.name = "other";
	refuse(c, "uid: must be the resource's name \"other\"");
	weft_arena_free(a);
}

static void refused_services(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	Istio__Workload__Service *s;
	Istio__Workload__LoadBalancing *lb;

#define BAD_S(change_it, want)                                                                     \
	s = service(a, "x", "h.example", "10.1.0.1", 80, 80);                                      \
	s->load_balancing = lb =                                                                   \
		NEW(a, Istio__Workload__LoadBalancing, ISTIO__WORKLOAD__LOAD_BALANCING__INIT);     \
	change_it;                                                                                 \
	refuse(set_service(a, s), want)
	BAD_S(s->addresses[0]->length = 33, "addresses[0]: prefix length must be 0..32, is 33");
	BAD_S(s->addresses[0]->address.len = 5,
	      "addresses[0]: an address must have 4 or 16 bytes, has 5");
	BAD_S(s->ports[0]->service_port = 0, "ports[0].service_port: must be 1..65535, is 0");
	BAD_S(s->ports[0]->target_port = 99999, "ports[0].target_port: must be 0..65535, is 99999");
	BAD_S(s->ip_families = 4, "ip_families: unknown value 4");
	BAD_S(s->visibility = 2, "visibility: unknown value 2");
	BAD_S(lb->mode = 4, "load_balancing.mode: unknown value 4");
	BAD_S(lb->health_policy = 9, "load_balancing.health_policy: unknown value 9");
	BAD_S(ADD(a, lb->routing_preference, lb->n_routing_preference, 0),
	      "load_balancing.routing_preference[0]: must be REGION..NETWORK (1..6), is 0");
	BAD_S(s->hostname = "", "hostname: must be set");
	BAD_S(ADD(a, s->weighted_waypoints, s->n_weighted_waypoints,
		  NEW(a, Istio__Workload__WeightedWaypoint,
		      ISTIO__WORKLOAD__WEIGHTED_WAYPOINT__INIT)),
	      "weighted_waypoints[0]: destination must be set");
	struct weft_change c = {
		.kind = WEFT_SET_ADDRESS,
		.name = "x",
		.msg = NEW(a, Istio__Workload__Address, ISTIO__WORKLOAD__ADDRESS__INIT)};
	refuse(c, "must have a workload or a service");
	weft_arena_free(a);
}

/* A refused change keeps what was there; the good ones of the same batch count. */
static void last_good_stays(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_model *m = weft_model_empty(""), *next;
	struct weft_change c[2] = {set_workload(a, workload(a, "x", "p", "10.0.0.1"))};
	Istio__Workload__Workload *bad = workload(a, "x", "p", "10.0.0.2");
	struct weft_ip one = ip("10.0.0.1"), three = ip("10.0.0.3");

	apply(&m, c, 1);
	bad->tunnel_protocol = 2;
	c[0] = set_workload(a, bad);
	c[1] = set_workload(a, workload(a, "x", "q", "10.0.0.3"));
	next = weft_model_apply(m, c, 2);
	assert_int_not_equal(c[0].err.code, 0);
	assert_int_equal(c[1].err.code, 0);
	assert_non_null(weft_model_workload_by_ip(next, "", &one));
	assert_non_null(weft_model_workload_by_ip(next, "", &three));
	weft_model_unref(m);
	weft_model_unref(next);
	weft_arena_free(a);
	assert_int_equal(weft_intern_count(), 0);
}

/* ---- threads: roots and parts are released anywhere while new roots are made */

static _Atomic(struct weft_model *) published;
static atomic_bool stop;
static pthread_mutex_t swap_lock =
	PTHREAD_MUTEX_INITIALIZER; /* guards taking a reference of `published` */

static void *reader(void *arg)
{
	struct weft_ip at = ip("10.0.0.7");
	uint64_t seen = 0;

	while (!atomic_load(&stop)) {
		struct weft_model *m;
		struct weft_workload *w;

		pthread_mutex_lock(&swap_lock);
		m = weft_model_ref(atomic_load(&published));
		pthread_mutex_unlock(&swap_lock);
		w = weft_workload_ref(weft_model_workload_by_ip(m, "", &at));
		weft_model_unref(m);
		if (w)
			seen += strlen(w->identity);
		weft_workload_unref(w);
	}
	return (void *)(uintptr_t)seen;
}

static void threads(void **state)
{
	struct weft_model *m = weft_model_empty(""), *old;
	pthread_t t[3];

	atomic_store(&stop, false);
	atomic_store(&published, m);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, reader, NULL), 0);
	for (unsigned round = 0; round < 3000; round++) {
		struct weft_arena *a = weft_arena_new(0);
		struct weft_change c[2];

		c[0] = set_workload(
			a, workload(a, "x", weft_arena_printf(a, "p%u", round % 5), "10.0.0.7"));
		c[1] = del_address(weft_arena_printf(a, "Kubernetes//Pod/x/p%u", (round + 3) % 5));
		old = m;
		m = weft_model_apply(old, c, 2);
		pthread_mutex_lock(&swap_lock);
		atomic_store(&published, m);
		pthread_mutex_unlock(&swap_lock);
		weft_model_unref(old);
		weft_arena_free(a);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	weft_model_unref(m);
	assert_int_equal(weft_intern_count(), 0);
}

/* ---- size: figures only, no limit is asserted */

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void size(void **state)
{
	enum { N = 100000, BATCH = 1000 };
	struct weft_model *m = weft_model_empty("");
	size_t before = mallinfo2().uordblks, after;
	double t0 = now_ms(), t1;
	struct weft_arena *a;
	struct weft_change one;

	for (unsigned i = 0; i < N; i += BATCH) {
		struct weft_change c[BATCH];

		a = weft_arena_new(1 << 16);
		for (unsigned k = 0; k < BATCH; k++) {
			unsigned id = i + k;
			Istio__Workload__Workload *w = workload(
				a, weft_arena_printf(a, "ns-%u", id % 100),
				weft_arena_printf(a, "app-%u-5d8f7c9b6d-%05u", id % 1000, id),
				weft_arena_printf(a, "10.%u.%u.%u", id >> 16, (id >> 8) & 255,
						  id & 255));

			w->service_account = weft_arena_printf(a, "app-%u", id % 1000);
			w->node = weft_arena_printf(a, "node-%u", id % 1000);
			w->canonical_name = w->workload_name = w->service_account;
			w->canonical_revision = (char *)"v1";
			w->tunnel_protocol = 1;
			member(a, w,
			       weft_arena_printf(a, "ns-%u/app-%u.ns-%u.svc.cluster.local",
						 id % 100, id % 1000, id % 100),
			       80, 8080);
			c[k] = set_workload(a, w);
		}
		apply(&m, c, BATCH);
		weft_arena_free(a);
	}
	t1 = now_ms();
	after = mallinfo2().uordblks;
	print_message("# %d workloads: %.1f MB, %.0f bytes each, made in %.0f ms\n", N,
		      (double)(after - before) / 1e6, (double)(after - before) / N, t1 - t0);
	t0 = now_ms();
	for (unsigned i = 0; i < 1000; i++) {
		a = weft_arena_new(0);
		one = set_workload(a, workload(a, "ns-1", "new", "10.200.0.1"));
		apply(&m, &one, 1);
		weft_arena_free(a);
	}
	print_message("# one change among them: %.1f us\n", now_ms() - t0);
	weft_model_unref(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_changes),   cmocka_unit_test(old_root),
		cmocka_unit_test(generation),	    cmocka_unit_test(refused_workloads),
		cmocka_unit_test(refused_services), cmocka_unit_test(last_good_stays),
		cmocka_unit_test(threads),	    cmocka_unit_test(size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
