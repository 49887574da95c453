/* What can only be seen with all files together: duplicates, references, sets of objects. */
#include "xds/check_priv.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ref {
	const struct weft_object *o;
	size_t file;
	struct weft_ip ip; /* only in the list of addresses */
};
struct together {
	struct ref *v; /* by kind, namespace, name; then by file */
	size_t n;
	weft_found *found;
	void *ctx;
	int n_errors;
};

static int name_order(const struct weft_object *a, const struct weft_object *b)
{
	int c = (int)a->kind->id - (int)b->kind->id;

	c = c ? c : strcmp(a->ns, b->ns);
	return c ? c : strcmp(a->name, b->name);
}

static int place_order(const struct ref *x, const struct ref *y)
{
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return (x->o > y->o) - (x->o < y->o);
}

static int ref_order(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;
	int c = name_order(x->o, y->o);

	return c ? c : place_order(x, y);
}

static int ip_order(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;
	int c = weft_ip_cmp(&x->ip, &y->ip);

	return c ? c : place_order(x, y);
}

static void tell(struct together *t, enum weft_finding what, const struct ref *r,
		 struct weft_mark k, const struct weft_path *at, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
static void tell(struct together *t, enum weft_finding what, const struct ref *r,
		 struct weft_mark k, const struct weft_path *at, const char *fmt, ...)
{
	struct weft_err e = {0};
	va_list ap;

	va_start(ap, fmt);
	weft_vfail(&e, at, what == WEFT_FOUND_DUPLICATE ? EEXIST : ENOENT, fmt, ap);
	va_end(ap);
	yaml_err_place(&e, r->o->file, k.line, k.col);
	t->n_errors += what != WEFT_FOUND_WARNING;
	t->found(t->ctx, what, r->file, &e);
}

static struct weft_mark at(const struct ref *r, const void *m, const char *field, int idx)
{
	return weft_marks_get(r->o->marks, m, field, idx);
}

/* "demo/web", or "demo" for a kind without namespace. */
static const char *full_name(const struct weft_object *o, char *dst, size_t cap)
{
	snprintf(dst, cap, "%.63s%s%.100s", o->ns, *o->ns ? "/" : "", o->name);
	return dst;
}

static const struct weft_path metadata = {NULL, "metadata", -1};
static const struct weft_path metadata_name = {&metadata, "name", -1};
static const struct weft_path labels = {&metadata, "labels", -1};

static void check_duplicates(struct together *t)
{
	char name[176];

	for (size_t i = 1, first = 0; i < t->n; i++) {
		const struct ref *r = &t->v[i], *f = &t->v[first];
		struct weft_mark k;

		if (name_order(f->o, r->o) != 0) {
			first = i;
			continue;
		}
		k = at(f, f->o->meta, "name", -1);
		tell(t, WEFT_FOUND_DUPLICATE, r, at(r, r->o->meta, "name", -1), &metadata_name,
		     "%s %s is given twice; first at %s:%d:%d", r->o->kind->kind,
		     full_name(r->o, name, sizeof(name)), f->o->file, k.line, k.col);
	}
}

/* Kinds of which a namespace, or the mesh, may have one. */
static void check_single(struct together *t)
{
	const struct ref *config = NULL, *wide = NULL;

	for (size_t i = 0; i < t->n; i++) {
		const struct ref *r = &t->v[i], *first = NULL;
		const char *what = NULL;

		if (r->o->kind->id == WEFT_KIND_MESH_CONFIG) {
			first = config;
			config = config ? config : r;
			what = "there may be one MeshConfig";
		} else if (r->o->kind->id == WEFT_KIND_PEER_AUTHENTICATION) {
			const Weft__Kube__WorkloadSelector *s =
				((const Weft__Kube__PeerAuthentication *)r->o->msg)->spec->selector;

			if (s && s->n_match_labels)
				continue;
			first = wide && !strcmp(wide->o->ns, r->o->ns) ? wide : NULL;
			wide = first ? first : r;
			what = "a namespace may have one PeerAuthentication without selector";
		}
		if (first && strcmp(first->o->name, r->o->name) != 0)
			tell(t, WEFT_FOUND_DUPLICATE, r, at(r, r->o->meta, "name", -1),
			     &metadata_name, "%s; %.64s is at %s:%d", what, first->o->name,
			     first->o->file, first->o->line);
	}
}

static bool is_over(const Weft__Kube__Pod *p)
{
	const char *phase = p->status && p->status->phase ? p->status->phase : "";

	return !strcmp(phase, "Succeeded") || !strcmp(phase, "Failed") ||
	       p->metadata->deletion_timestamp;
}

struct addresses {
	struct ref *v;
	size_t n, cap;
};

static void add_address(struct addresses *a, const struct ref *r, const char *text)
{
	struct weft_ip ip;

	if (!text || weft_ip_parse(text, &ip) < 0)
		return;
	for (size_t i = a->n; i-- > 0 && a->v[i].o == r->o;)
		if (weft_ip_eq(&a->v[i].ip, &ip))
			return;
	if (a->n == a->cap) {
		a->cap = a->cap ? a->cap * 2 : 64;
		a->v = weft_xrealloc(a->v, a->cap * sizeof(*a->v));
	}
	a->v[a->n] = *r;
	a->v[a->n++].ip = ip;
}

static void add_addresses(struct addresses *a, const struct ref *r)
{
	const Weft__Kube__Pod *p = (const Weft__Kube__Pod *)r->o->msg;
	const Weft__Kube__Service *s = (const Weft__Kube__Service *)r->o->msg;

	if (r->o->kind->id == WEFT_KIND_POD && p->status && !p->spec->host_network && !is_over(p)) {
		add_address(a, r, p->status->pod_ip);
		for (size_t i = 0; i < p->status->n_pod_ips; i++)
			add_address(a, r, p->status->pod_ips[i]->ip);
	} else if (r->o->kind->id == WEFT_KIND_SERVICE) {
		add_address(a, r, s->spec->cluster_ip);
		for (size_t i = 0; i < s->spec->n_cluster_ips; i++)
			add_address(a, r, s->spec->cluster_ips[i]);
	}
}

/* An address is an identity: two live objects cannot share one. */
static void check_addresses(struct together *t)
{
	struct addresses a = {0};
	char name[176], text[WEFT_IP_TEXT];

	for (size_t i = 0; i < t->n; i++)
		add_addresses(&a, &t->v[i]);
	if (a.n)
		qsort(a.v, a.n, sizeof(*a.v), ip_order);
	for (size_t i = 1, first = 0; i < a.n; i++) {
		const struct ref *r = &a.v[i], *f = &a.v[first];

		if (!weft_ip_eq(&f->ip, &r->ip)) {
			first = i;
			continue;
		}
		/* the same object twice is told as such */
		if (name_order(f->o, r->o) != 0)
			tell(t, WEFT_FOUND_DUPLICATE, r, at(r, r->o->msg, NULL, -1), NULL,
			     "address %s is also that of %s %s (%s:%d)",
			     weft_ip_text(&r->ip, text, sizeof(text)), f->o->kind->kind,
			     full_name(f->o, name, sizeof(name)), f->o->file, f->o->line);
	}
	free(a.v);
}

static bool exists(const struct together *t, enum weft_kind_id kind, const char *ns,
		   const char *name)
{
	const struct weft_object key = {.kind = weft_kind_get(kind), .ns = ns, .name = name};
	size_t lo = 0, hi = t->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = name_order(t->v[mid].o, &key);

		if (c == 0)
			return true;
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

static struct weft_mark label_at(const struct ref *r, const char *key)
{
	const Weft__Kube__ObjectMeta *m = r->o->meta;

	for (size_t i = 0; i < m->n_labels; i++)
		if (!strcmp(m->labels[i]->key, key))
			return at(r, m->labels[i], "value", -1);
	return at(r, m, NULL, -1);
}

static void check_waypoint(struct together *t, const struct ref *r)
{
	static const char key[] = "istio.io/use-waypoint";
	const struct weft_path path = {&labels, key, -1};
	const char *name = weft_meta_label(r->o->meta, key);
	const char *ns = weft_meta_label(r->o->meta, "istio.io/use-waypoint-namespace");

	if (!name || !strcmp(name, "none"))
		return;
	if (!ns)
		ns = r->o->kind->id == WEFT_KIND_NAMESPACE ? r->o->name : r->o->ns;
	if (!exists(t, WEFT_KIND_GATEWAY, ns, name) && !exists(t, WEFT_KIND_SERVICE, ns, name))
		tell(t, WEFT_FOUND_WARNING, r, label_at(r, key), &path,
		     "there is no Gateway %.63s/%.63s to be the waypoint; until there is, what "
		     "goes "
		     "through it is refused",
		     ns, name);
}

static void check_target(struct together *t, const struct ref *r, struct weft_mark k,
			 const struct weft_path *path, const Weft__Kube__PolicyTargetReference *ref)
{
	if (ref->kind && ref->name && !strcmp(ref->kind, "Service") &&
	    !exists(t, WEFT_KIND_SERVICE, r->o->ns, ref->name))
		tell(t, WEFT_FOUND_REFERENCE, r, k, path, "there is no Service %.63s/%.63s",
		     r->o->ns, ref->name);
	if (ref->kind && ref->name && !strcmp(ref->kind, "Gateway") &&
	    !exists(t, WEFT_KIND_GATEWAY, r->o->ns, ref->name))
		tell(t, WEFT_FOUND_WARNING, r, k, path,
		     "there is no Gateway %.63s/%.63s: the policy holds nowhere", r->o->ns,
		     ref->name);
	if (ref->kind && !strcmp(ref->kind, "ServiceEntry"))
		tell(t, WEFT_FOUND_WARNING, r, k, path,
		     "there are no ServiceEntries: the policy holds nowhere");
}

static void check_policy(struct together *t, const struct ref *r)
{
	const Weft__Kube__AuthorizationPolicySpec *s =
		((const Weft__Kube__AuthorizationPolicy *)r->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1}, one = {&up, "targetRef", -1};

	if (s->target_ref)
		check_target(t, r, at(r, s, "target_ref", -1), &one, s->target_ref);
	for (size_t i = 0; i < s->n_target_refs; i++)
		check_target(t, r, at(r, s, "target_refs", (int)i),
			     &(struct weft_path){&up, "targetRefs", (int)i}, s->target_refs[i]);
}

static void check_tokens(struct together *t, const struct ref *r)
{
	const Weft__Kube__RequestAuthenticationSpec *s =
		((const Weft__Kube__RequestAuthentication *)r->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1}, one = {&up, "targetRef", -1};

	if (s->target_ref)
		check_target(t, r, at(r, s, "target_ref", -1), &one, s->target_ref);
	for (size_t i = 0; i < s->n_target_refs; i++)
		check_target(t, r, at(r, s, "target_refs", (int)i),
			     &(struct weft_path){&up, "targetRefs", (int)i}, s->target_refs[i]);
}

static void check_slice(struct together *t, const struct ref *r)
{
	static const char key[] = "kubernetes.io/service-name";
	const Weft__Kube__EndpointSlice *s = (const Weft__Kube__EndpointSlice *)r->o->msg;
	const struct weft_path path = {&labels, key, -1};
	const char *name = weft_meta_label(r->o->meta, key);

	if (!name)
		tell(t, WEFT_FOUND_WARNING, r, at(r, r->o->meta, "labels", -1), &path,
		     "missing: the slice belongs to no Service and is not used");
	else if (!exists(t, WEFT_KIND_SERVICE, r->o->ns, name))
		tell(t, WEFT_FOUND_REFERENCE, r, label_at(r, key), &path,
		     "there is no Service %.63s/%.63s", r->o->ns, name);
	for (size_t i = 0; i < s->n_endpoints; i++) {
		const Weft__Kube__ObjectReference *ref = s->endpoints[i]->target_ref;
		const struct weft_path up = {NULL, "endpoints", (int)i};

		if (ref && ref->kind && ref->name && !strcmp(ref->kind, "Pod") &&
		    !exists(t, WEFT_KIND_POD, ref->namespace_ ? ref->namespace_ : r->o->ns,
			    ref->name))
			tell(t, WEFT_FOUND_WARNING, r, at(r, ref, NULL, -1),
			     &(struct weft_path){&up, "targetRef", -1},
			     "there is no Pod %.63s/%.63s",
			     ref->namespace_ ? ref->namespace_ : r->o->ns, ref->name);
	}
}

static void check_pod_refs(struct together *t, const struct ref *r)
{
	const Weft__Kube__Pod *p = (const Weft__Kube__Pod *)r->o->msg;
	const struct weft_path spec = {NULL, "spec", -1}, sa = {&spec, "serviceAccountName", -1};
	const struct weft_path ns = {&metadata, "namespace", -1};
	const char *account = p->spec->service_account_name;

	if (account && strcmp(account, "default") != 0 &&
	    !exists(t, WEFT_KIND_SERVICE_ACCOUNT, r->o->ns, account))
		tell(t, WEFT_FOUND_WARNING, r, at(r, p->spec, "service_account_name", -1), &sa,
		     "there is no ServiceAccount %.63s/%.63s; the name is used all the same",
		     r->o->ns, account);
	if (!exists(t, WEFT_KIND_NAMESPACE, "", r->o->ns) &&
	    !weft_meta_label(r->o->meta, "weft.io/mesh") &&
	    !weft_meta_label(r->o->meta, "istio.io/dataplane-mode"))
		tell(t, WEFT_FOUND_WARNING, r, at(r, r->o->meta, "namespace", -1), &ns,
		     "there is no Namespace %.63s, so that no label enrols the Pod", r->o->ns);
}

static void check_references(struct together *t)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct ref *r = &t->v[i];

		switch (r->o->kind->id) {
		case WEFT_KIND_POD:
			check_pod_refs(t, r);
			check_waypoint(t, r);
			break;
		case WEFT_KIND_NAMESPACE:
		case WEFT_KIND_SERVICE:
			check_waypoint(t, r);
			break;
		case WEFT_KIND_ENDPOINT_SLICE:
			check_slice(t, r);
			break;
		case WEFT_KIND_AUTHORIZATION_POLICY:
			check_policy(t, r);
			break;
		case WEFT_KIND_REQUEST_AUTHENTICATION:
			check_tokens(t, r);
			break;
		default:
			break;
		}
	}
}

int weft_files_check(struct weft_file *const *files, size_t n, weft_found *found, void *ctx)
{
	struct together t = {.found = found, .ctx = ctx};

	for (size_t i = 0; i < n; i++)
		t.n += files[i]->n;
	t.v = weft_xcalloc(t.n + 1, sizeof(*t.v));
	t.n = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < files[i]->n; k++)
			t.v[t.n++] = (struct ref){.o = &files[i]->v[k], .file = i};
	qsort(t.v, t.n, sizeof(*t.v), ref_order);
	check_duplicates(&t);
	check_single(&t);
	check_addresses(&t);
	check_references(&t);
	free(t.v);
	return t.n_errors;
}
