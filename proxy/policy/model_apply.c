/* prev + changes → a new root that shares every shard the changes did not touch. */
#include "proxy/core/arena.h"
#include "proxy/policy/model_root.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct apply {
	struct weft_model *m; /* the new root; nobody else has it yet */
	const char **dirty;   /* services whose endpoints need their sums, interned */
	size_t n_dirty, cap_dirty;
	bool cidrs_changed;
	bool policies_changed;
};

static void put(struct apply *a, enum weft_root_index k, uint64_t hash, const void *p)
{
	weft_index_put(&a->m->idx[k], &weft_root_ops[k], hash, (void *)(uintptr_t)p);
}

static bool del(struct apply *a, enum weft_root_index k, uint64_t hash, const void *p)
{
	return weft_index_del(&a->m->idx[k], &weft_root_ops[k], hash, p);
}

/* ---- endpoints */

/* The endpoints of a service, private to this apply; made if create. */
static struct weft_endpoints *endpoints_own(struct apply *a, const char *service, bool create)
{
	uint64_t hash = weft_hash_text(service);
	struct weft_endpoints *old = NULL, *e;
	struct weft_index_ent *ent;
	size_t n;

	ent = weft_index_own(&a->m->idx[ROOT_ENDPOINTS], &weft_root_ops[ROOT_ENDPOINTS], hash, &n);
	for (; n; ent++, n--) {
		old = ent->p;
		if (!strcmp(old->service, service))
			break;
	}
	if (!n && !create)
		return NULL;
	if (n && atomic_load_explicit(&old->refs, memory_order_acquire) == 1)
		return old;
	e = weft_xcalloc(1, sizeof(*e));
	atomic_init(&e->refs, 1);
	e->service = weft_intern(service);
	if (!n) {
		put(a, ROOT_ENDPOINTS, hash, e);
		return e;
	}
	e->n = old->n;
	e->cap = old->n + 1;
	e->v = weft_xcalloc(e->cap, sizeof(e->v[0]));
	memcpy(e->v, old->v, e->n * sizeof(e->v[0]));
	ent->p = e;
	weft_root_ops[ROOT_ENDPOINTS].unref(old);
	return e;
}

static void endpoints_dirty(struct apply *a, struct weft_endpoints *e)
{
	if (e->dirty)
		return;
	e->dirty = true;
	if (a->n_dirty == a->cap_dirty) {
		a->cap_dirty = a->cap_dirty ? a->cap_dirty * 2 : 16;
		a->dirty = weft_xrealloc(a->dirty, a->cap_dirty * sizeof(*a->dirty));
	}
	a->dirty[a->n_dirty++] = weft_intern(e->service);
}

static void endpoint_add(struct apply *a, const struct weft_workload *w,
			 const struct weft_membership *ms)
{
	struct weft_endpoints *e = endpoints_own(a, ms->service, true);

	if (e->n == e->cap) {
		e->cap = e->cap + e->cap / 2 + 1;
		e->v = weft_xrealloc(e->v, e->cap * sizeof(e->v[0]));
	}
	e->v[e->n++] = (struct weft_endpoint){w, ms};
	endpoints_dirty(a, e);
}

static void endpoint_del(struct apply *a, const struct weft_workload *w,
			 const struct weft_membership *ms)
{
	struct weft_endpoints *e = endpoints_own(a, ms->service, false);

	for (uint32_t i = 0; e && i < e->n; i++) {
		if (e->v[i].m != ms)
			continue;
		e->v[i] = e->v[--e->n];
		endpoints_dirty(a, e);
		break;
	}
	if (e && !e->n) {
		e->dirty = false; /* its name in the dirty list then finds nothing, or a new one */
		del(a, ROOT_ENDPOINTS, weft_hash_text(ms->service), e);
	}
}

/* A service that stays keeps its place, so that a re-sent workload costs a search and no more. */
static bool endpoint_swap(struct apply *a, const struct weft_membership *old,
			  const struct weft_workload *w, const struct weft_membership *ms)
{
	struct weft_endpoints *e = endpoints_own(a, ms->service, false);

	for (uint32_t i = 0; e && i < e->n; i++) {
		if (e->v[i].m != old)
			continue;
		e->v[i] = (struct weft_endpoint){w, ms};
		endpoints_dirty(a, e);
		return true;
	}
	return false;
}

static void sums_make(struct weft_endpoints *e)
{
	bool plain = true;
	uint64_t sum = 0;

	free(e->sums);
	e->sums = NULL;
	for (uint32_t i = 0; plain && i < e->n; i++)
		plain = e->v[i].w->capacity == 1;
	if (plain)
		return;
	e->sums = weft_xcalloc(e->n, sizeof(e->sums[0]));
	for (uint32_t i = 0; i < e->n; i++)
		e->sums[i] = sum += e->v[i].w->capacity;
}

static void sums_finish(struct apply *a)
{
	for (size_t i = 0; i < a->n_dirty; i++) {
		struct weft_endpoints *e = endpoints_own(a, a->dirty[i], false);

		if (e && e->dirty) {
			sums_make(e);
			e->dirty = false;
		}
		weft_intern_put((char *)(uintptr_t)a->dirty[i]);
	}
	free(a->dirty);
}

/* ---- workloads */

static void workload_index(struct apply *a, const struct weft_workload *w, bool on)
{
	uint64_t pod = weft_hash_pair(w->ns, w->name);

	for (size_t i = 0; !w->host_network && i < w->n_addrs; i++) {
		uint64_t hash = weft_hash_ip(w->network, &w->addrs[i]);

		if (on)
			put(a, ROOT_IP, hash, w);
		else
			del(a, ROOT_IP, hash, w);
	}
	if (on)
		put(a, ROOT_POD, pod, w);
	else
		del(a, ROOT_POD, pod, w);
	if (*w->hostname && on)
		put(a, ROOT_HOST, weft_hash_pair(w->ns, w->hostname), w);
	else if (*w->hostname)
		del(a, ROOT_HOST, weft_hash_pair(w->ns, w->hostname), w);
}

static const struct weft_membership *membership_find(const struct weft_workload *w,
						     const char *service)
{
	for (size_t i = 0; w && i < w->n_services; i++)
		if (w->services[i].service == service) /* both interned */
			return &w->services[i];
	return NULL;
}

static void workload_endpoints(struct apply *a, const struct weft_workload *old,
			       const struct weft_workload *w)
{
	for (size_t i = 0; old && i < old->n_services; i++)
		if (!membership_find(w, old->services[i].service))
			endpoint_del(a, old, &old->services[i]);
	for (size_t i = 0; w && i < w->n_services; i++) {
		const struct weft_membership *was = membership_find(old, w->services[i].service);

		if (membership_find(w, w->services[i].service) != &w->services[i])
			continue; /* named twice: the first counts */
		if (!was || !endpoint_swap(a, was, w, &w->services[i]))
			endpoint_add(a, w, &w->services[i]);
	}
}

static bool same_policies(const struct weft_workload *a, const struct weft_workload *b)
{
	if (!a || !b)
		return !(a ? a : b)->n_policies;
	if (a->n_policies != b->n_policies || a->ns != b->ns)
		return false;
	for (size_t i = 0; i < a->n_policies; i++)
		if (a->policies[i] != b->policies[i])
			return false;
	return true;
}

/* Puts w (its reference is taken) in old's place; either may be NULL. */
static void workload_replace(struct apply *a, const struct weft_workload *old,
			     struct weft_workload *w)
{
	if (!same_policies(old, w))
		a->policies_changed = true;
	workload_endpoints(a, old, w);
	if (old)
		workload_index(a, old, false);
	if (w) {
		workload_index(a, w, true);
		put(a, ROOT_UID, weft_hash_text(w->uid), w);
		a->m->n_workloads++;
	}
	if (old) {
		a->m->n_workloads--;
		del(a, ROOT_UID, weft_hash_text(old->uid), old);
	}
}

/* ---- services */

static bool has_cidr(const struct weft_service *s)
{
	for (size_t i = 0; i < s->n_vips; i++)
		if (s->vips[i].cidr.len < weft_ip_bytes(&s->vips[i].cidr.ip) * 8)
			return true;
	return false;
}

static void service_index(struct apply *a, const struct weft_service *s, bool on)
{
	uint64_t host = weft_hash_text(s->hostname);

	for (size_t i = 0; i < s->n_vips; i++) {
		const struct weft_service_vip *v = &s->vips[i];
		uint64_t hash = weft_hash_ip(v->network, &v->cidr.ip);

		if (v->cidr.len < weft_ip_bytes(&v->cidr.ip) * 8)
			continue;
		if (on)
			put(a, ROOT_VIP, hash, s);
		else
			del(a, ROOT_VIP, hash, s);
	}
	if (on)
		put(a, ROOT_SERVICE_HOST, host, s);
	else
		del(a, ROOT_SERVICE_HOST, host, s);
	if (has_cidr(s)) {
		a->cidrs_changed = true;
		a->m->n_cidr_services += on ? 1 : (size_t)-1;
	}
}

static void service_replace(struct apply *a, const struct weft_service *old, struct weft_service *s)
{
	if (old)
		service_index(a, old, false);
	if (s) {
		service_index(a, s, true);
		put(a, ROOT_SERVICE, weft_hash_text(s->key), s);
		a->m->n_services++;
	}
	if (old) {
		a->m->n_services--;
		del(a, ROOT_SERVICE, weft_hash_text(old->key), old);
	}
}

struct cidr_gather {
	const struct weft_service **v;
	size_t n;
};

static void cidr_gather_one(void *ctx, void *p)
{
	struct cidr_gather *g = ctx;

	if (has_cidr(p))
		g->v[g->n++] = p;
}

static void cidrs_finish(struct apply *a)
{
	struct cidr_gather g = {0};

	if (!a->cidrs_changed)
		return;
	g.v = weft_xcalloc(a->m->n_cidr_services, sizeof(const struct weft_service *));
	if (a->m->n_cidr_services)
		weft_index_each(a->m->idx[ROOT_SERVICE], cidr_gather_one, &g);
	weft_cidr_index_unref(a->m->cidrs);
	a->m->cidrs = weft_cidr_index_new(g.v, g.n);
	free(g.v);
}

/* ---- policies */

/* The set of a namespace without old and with p (either NULL), sorted by name. */
static void policy_set_change(struct apply *a, const char *ns, const struct weft_policy *old,
			      const struct weft_policy *p)
{
	const struct weft_policy_set *was = weft_model_policy_set(a->m, ns);
	uint32_t n = was ? was->n : 0;
	struct weft_policy_set *s =
		weft_xcalloc(1, sizeof(*s) + (n + 1) * sizeof(const struct weft_policy *));
	uint64_t hash = weft_hash_text(ns);

	atomic_init(&s->refs, 1);
	s->ns = weft_intern(ns);
	for (uint32_t i = 0; i < n; i++) {
		if (p && strcmp(p->name, was->v[i]->name) < 0) {
			s->v[s->n++] = p;
			p = NULL;
		}
		if (was->v[i] != old)
			s->v[s->n++] = was->v[i];
	}
	if (p)
		s->v[s->n++] = p;
	if (was)
		del(a, ROOT_POLICY_SET, hash, was);
	if (s->n)
		put(a, ROOT_POLICY_SET, hash, s);
	else
		weft_root_ops[ROOT_POLICY_SET].unref(s);
}

/* Whose set a policy is in: "" the mesh's; NULL: none, workloads name it. */
static const char *set_of(const struct weft_policy *p)
{
	return p->scope == WEFT_SCOPE_GLOBAL ? "" : p->scope == WEFT_SCOPE_NS ? p->ns : NULL;
}

static void policy_replace(struct apply *a, const struct weft_policy *old, struct weft_policy *p)
{
	const char *from = old ? set_of(old) : NULL, *to = p ? set_of(p) : NULL;

	if (from)
		policy_set_change(a, from, old, NULL);
	if (to)
		policy_set_change(a, to, NULL, p);
	if (p) {
		put(a, ROOT_POLICY, weft_hash_text(p->name), p);
		a->m->n_policies++;
	}
	if (old) {
		a->m->n_policies--;
		del(a, ROOT_POLICY, weft_hash_text(old->name), old);
	}
	a->policies_changed = true;
}

/* ---- changes */

static void address_set(struct apply *a, struct weft_change *c)
{
	const Istio__Workload__Address *m = c->msg;
	struct weft_workload *w;
	struct weft_service *s;

	switch (m->type_case) {
	case ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD:
		if (!weft_workload_decode(m->workload, c->name, &w, &c->err))
			workload_replace(a, weft_model_workload_by_uid(a->m, w->uid), w);
		break;
	case ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE:
		if (!weft_service_decode(m->service, c->name, &s, &c->err))
			service_replace(a, weft_model_service(a->m, s->key), s);
		break;
	default:
		weft_fail(&c->err, NULL, EINVAL, "must have a workload or a service");
	}
}

/* A name that is no known uid and has exactly one slash is a service's. */
static void address_del(struct apply *a, struct weft_change *c)
{
	const struct weft_workload *w = weft_model_workload_by_uid(a->m, c->name);
	const struct weft_service *s = w ? NULL : weft_model_service(a->m, c->name);

	if (w)
		workload_replace(a, w, NULL);
	else if (s)
		service_replace(a, s, NULL);
}

static void policy_set(struct apply *a, struct weft_change *c)
{
	struct weft_policy *p;

	if (!weft_policy_decode(c->msg, c->name, c->source, &p, &c->err))
		policy_replace(a, weft_model_policy(a->m, p->name), p);
}

static void policy_del(struct apply *a, struct weft_change *c)
{
	const struct weft_policy *p = weft_model_policy(a->m, c->name);

	if (p)
		policy_replace(a, p, NULL);
}

struct weft_model *weft_model_apply(const struct weft_model *prev, struct weft_change *c, size_t n)
{
	struct apply a = {.m = weft_xcalloc(1, sizeof(struct weft_model))};
	struct weft_model *m = a.m;

	atomic_init(&m->refs, 1);
	m->network = weft_intern(prev->network);
	for (int k = 0; k < WEFT_ROOT_INDEXES; k++)
		m->idx[k] = weft_index_ref(prev->idx[k]);
	m->cidrs = weft_cidr_index_ref(prev->cidrs);
	m->n_workloads = prev->n_workloads;
	m->n_services = prev->n_services;
	m->n_policies = prev->n_policies;
	m->n_cidr_services = prev->n_cidr_services;
	m->policy_generation = prev->policy_generation;
	for (size_t i = 0; i < n; i++) {
		c[i].err.code = 0;
		switch (c[i].kind) {
		case WEFT_SET_ADDRESS:
			address_set(&a, &c[i]);
			break;
		case WEFT_DEL_ADDRESS:
			address_del(&a, &c[i]);
			break;
		case WEFT_SET_POLICY:
			policy_set(&a, &c[i]);
			break;
		case WEFT_DEL_POLICY:
			policy_del(&a, &c[i]);
			break;
		}
	}
	sums_finish(&a);
	cidrs_finish(&a);
	if (a.policies_changed)
		m->policy_generation++;
	return m;
}
