/* Look-ups and life of a model; model_apply.c makes new ones. */
#include "proxy/policy/model.h"

#include "proxy/core/arena.h"
#include "proxy/policy/model_root.h"

#include <stdlib.h>
#include <string.h>

/* ---- how the indexes hold their items */

static void workload_ref(void *p)
{
	weft_workload_ref(p);
}

static void workload_unref(void *p)
{
	weft_workload_unref(p);
}

static void service_ref(void *p)
{
	weft_service_ref(p);
}

static void service_unref(void *p)
{
	weft_service_unref(p);
}

static void policy_ref(void *p)
{
	weft_policy_ref(p);
}

static void policy_unref(void *p)
{
	weft_policy_unref(p);
}

static void endpoints_ref(void *p)
{
	struct weft_endpoints *e = p;

	atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
}

static void endpoints_unref(void *p)
{
	struct weft_endpoints *e = p;

	if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
		return;
	weft_intern_put(e->service);
	free(e->sums);
	free(e->v);
	free(e);
}

static void policy_set_ref(void *p)
{
	struct weft_policy_set *s = p;

	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

static void policy_set_unref(void *p)
{
	struct weft_policy_set *s = p;

	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	weft_intern_put(s->ns);
	free(s);
}

const struct weft_index_ops weft_root_ops[WEFT_ROOT_INDEXES] = {
	[ROOT_UID] = {workload_ref, workload_unref},
	[ROOT_SERVICE] = {service_ref, service_unref},
	[ROOT_POLICY] = {policy_ref, policy_unref},
	[ROOT_ENDPOINTS] = {endpoints_ref, endpoints_unref},
	[ROOT_POLICY_SET] = {policy_set_ref, policy_set_unref},
};

/* ---- life */

struct weft_model *weft_model_empty(const char *network)
{
	struct weft_model *m = weft_xcalloc(1, sizeof(*m));

	atomic_init(&m->refs, 1);
	m->network = weft_intern(network);
	return m;
}

struct weft_model *weft_model_ref(struct weft_model *m)
{
	if (m)
		atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
	return m;
}

void weft_model_unref(struct weft_model *m)
{
	if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	/* the indexes that borrow go first */
	weft_cidr_index_unref(m->cidrs);
	for (int k = WEFT_ROOT_INDEXES - 1; k >= 0; k--)
		weft_index_unref(m->idx[k], &weft_root_ops[k]);
	weft_intern_put(m->network);
	free(m);
}

const char *weft_model_network(const struct weft_model *m)
{
	return m->network;
}

uint64_t weft_model_policy_generation(const struct weft_model *m)
{
	return m->policy_generation;
}

void weft_model_counts(const struct weft_model *m, size_t *ret_workloads, size_t *ret_services,
		       size_t *ret_policies)
{
	*ret_workloads = m->n_workloads;
	*ret_services = m->n_services;
	*ret_policies = m->n_policies;
}

/* ---- hashes: one a kind of key */

uint64_t weft_hash_text(const char *s)
{
	return weft_index_hash(s, strlen(s), NULL, 0);
}

uint64_t weft_hash_ip(const char *network, const struct weft_ip *ip)
{
	return weft_index_hash(network, strlen(network), ip, sizeof(*ip));
}

uint64_t weft_hash_pair(const char *a, const char *b)
{
	return weft_index_hash(a, strlen(a) + 1, b, strlen(b) + 1);
}

/* ---- look-ups */

static const struct weft_index_ent *find(const struct weft_model *m, enum weft_root_index k,
					 uint64_t hash, size_t *ret_n)
{
	return weft_index_get(m->idx[k], hash, ret_n);
}

const struct weft_workload *weft_model_workload_by_uid(const struct weft_model *m, const char *uid)
{
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_UID, weft_hash_text(uid), &n); n;
	     e++, n--)
		if (!strcmp(((const struct weft_workload *)e->p)->uid, uid))
			return e->p;
	return NULL;
}

static bool has_addr(const struct weft_workload *w, const struct weft_ip *ip)
{
	for (size_t i = 0; i < w->n_addrs; i++)
		if (weft_ip_eq(&w->addrs[i], ip))
			return true;
	return false;
}

/* Several on one address: a pod before the rest, then one with a tunnel, then the first uid. */
static bool better(const struct weft_workload *a, const struct weft_workload *b)
{
	bool a_pod = strstr(a->uid, "//Pod/"), b_pod = strstr(b->uid, "//Pod/");

	if (a_pod != b_pod)
		return a_pod;
	if (a->hbone != b->hbone)
		return a->hbone;
	return strcmp(a->uid, b->uid) < 0;
}

const struct weft_workload *weft_model_workload_by_ip(const struct weft_model *m,
						      const char *network, const struct weft_ip *ip)
{
	const struct weft_workload *best = NULL;
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_IP, weft_hash_ip(network, ip), &n); n;
	     e++, n--) {
		const struct weft_workload *w = e->p;

		if (!strcmp(w->network, network) && has_addr(w, ip) && (!best || better(w, best)))
			best = w;
	}
	return best;
}

const struct weft_workload *weft_model_workload_by_pod(const struct weft_model *m, const char *ns,
						       const char *name, const char *sa)
{
	const struct weft_workload *best = NULL;
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_POD, weft_hash_pair(ns, name), &n); n;
	     e++, n--) {
		const struct weft_workload *w = e->p;

		if (!strcmp(w->ns, ns) && !strcmp(w->name, name) && (!sa || !strcmp(w->sa, sa)) &&
		    (!best || better(w, best)))
			best = w;
	}
	return best;
}

const struct weft_workload *weft_model_workload_by_host(const struct weft_model *m, const char *ns,
							const char *hostname)
{
	const struct weft_workload *best = NULL;
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_HOST, weft_hash_pair(ns, hostname), &n);
	     n; e++, n--) {
		const struct weft_workload *w = e->p;

		if (!strcmp(w->ns, ns) && !strcmp(w->hostname, hostname) &&
		    (!best || better(w, best)))
			best = w;
	}
	return best;
}

const struct weft_service *weft_model_service(const struct weft_model *m, const char *key)
{
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_SERVICE, weft_hash_text(key), &n); n;
	     e++, n--)
		if (!strcmp(((const struct weft_service *)e->p)->key, key))
			return e->p;
	return NULL;
}

/* The client's own namespace first, then a canonical one, then the first by key. */
static bool service_better(const struct weft_service *a, const struct weft_service *b,
			   const char *client_ns)
{
	bool a_same = !strcmp(a->ns, client_ns), b_same = !strcmp(b->ns, client_ns);

	if (a_same != b_same)
		return a_same;
	if (a->canonical != b->canonical)
		return a->canonical;
	return strcmp(a->key, b->key) < 0;
}

static bool visible(const struct weft_service *s, const char *client_ns)
{
	return !s->private_ns || !strcmp(s->ns, client_ns);
}

const struct weft_service *weft_model_service_by_ip(const struct weft_model *m, const char *network,
						    const struct weft_ip *ip, const char *client_ns)
{
	const struct weft_service *best = NULL;
	size_t n;

	client_ns = client_ns ? client_ns : "";
	for (const struct weft_index_ent *e = find(m, ROOT_VIP, weft_hash_ip(network, ip), &n); n;
	     e++, n--) {
		const struct weft_service *s = e->p;

		if (visible(s, client_ns) && weft_service_has_vip(s, network, ip) &&
		    (!best || service_better(s, best, client_ns)))
			best = s;
	}
	return best ? best : weft_cidr_index_get(m->cidrs, network, ip, client_ns);
}

const struct weft_service *weft_model_service_by_host(const struct weft_model *m,
						      const char *hostname, const char *client_ns)
{
	const struct weft_service *best = NULL;
	size_t n;

	for (const struct weft_index_ent *e =
		     find(m, ROOT_SERVICE_HOST, weft_hash_text(hostname), &n);
	     n; e++, n--) {
		const struct weft_service *s = e->p;

		if (visible(s, client_ns) && !strcmp(s->hostname, hostname) &&
		    (!best || service_better(s, best, client_ns)))
			best = s;
	}
	return best;
}

const struct weft_endpoints *weft_model_endpoints(const struct weft_model *m, const char *service)
{
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_ENDPOINTS, weft_hash_text(service), &n);
	     n; e++, n--)
		if (!strcmp(((const struct weft_endpoints *)e->p)->service, service))
			return e->p;
	return NULL;
}

const struct weft_policy *weft_model_policy(const struct weft_model *m, const char *name)
{
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_POLICY, weft_hash_text(name), &n); n;
	     e++, n--)
		if (!strcmp(((const struct weft_policy *)e->p)->name, name))
			return e->p;
	return NULL;
}

const struct weft_policy_set *weft_model_policy_set(const struct weft_model *m, const char *ns)
{
	size_t n;

	for (const struct weft_index_ent *e = find(m, ROOT_POLICY_SET, weft_hash_text(ns), &n); n;
	     e++, n--)
		if (!strcmp(((const struct weft_policy_set *)e->p)->ns, ns))
			return e->p;
	return NULL;
}

/* ---- visiting */

struct gather {
	void **v;
	size_t n;
};

static void gather_one(void *ctx, void *p)
{
	struct gather *g = ctx;

	g->v[g->n++] = p;
}

static int by_uid(const void *a, const void *b)
{
	return strcmp((*(struct weft_workload *const *)a)->uid,
		      (*(struct weft_workload *const *)b)->uid);
}

static int by_key(const void *a, const void *b)
{
	return strcmp((*(struct weft_service *const *)a)->key,
		      (*(struct weft_service *const *)b)->key);
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct weft_policy *const *)a)->name,
		      (*(struct weft_policy *const *)b)->name);
}

static void gather(struct gather *g, const struct weft_index *i, size_t n,
		   int (*cmp)(const void *, const void *))
{
	*g = (struct gather){weft_xcalloc(n, sizeof(void *)), 0};
	weft_index_each(i, gather_one, g);
	if (g->n)
		qsort(g->v, g->n, sizeof(g->v[0]), cmp);
}

void weft_model_each(const struct weft_model *m, void (*w)(void *ctx, const struct weft_workload *),
		     void (*s)(void *ctx, const struct weft_service *),
		     void (*p)(void *ctx, const struct weft_policy *), void *ctx)
{
	struct gather g;

	if (w) {
		gather(&g, m->idx[ROOT_UID], m->n_workloads, by_uid);
		for (size_t i = 0; i < g.n; i++)
			w(ctx, g.v[i]);
		free(g.v);
	}
	if (s) {
		gather(&g, m->idx[ROOT_SERVICE], m->n_services, by_key);
		for (size_t i = 0; i < g.n; i++)
			s(ctx, g.v[i]);
		free(g.v);
	}
	if (p) {
		gather(&g, m->idx[ROOT_POLICY], m->n_policies, by_name);
		for (size_t i = 0; i < g.n; i++)
			p(ctx, g.v[i]);
		free(g.v);
	}
}
