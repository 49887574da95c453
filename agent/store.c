#include "agent/store.h"

#include "agent/gateway.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* One result of a load. */
struct result {
	struct weft_arena *a;
	struct weft_store_mesh mesh;
	struct weft_store_resource *v; /* sorted by type and name */
	XXH128_hash_t *sums;	       /* of the packed messages */
	size_t n;
	struct tr_pod *pods;
	size_t n_pods;
	struct weft_store_gateway *gateways;
	size_t n_gateways;
	json_t *status; /* NULL: none yet */
};
struct weft_store {
	struct result now;
	struct weft_store_resource *changes;
	size_t n_changes;
	struct weft_model *model;
	char *network; /* the model's */
	/* answers for a node, made anew at each call */
	struct weft_store_pod *node_pods;
	const char **node_ids;
};

struct weft_store *weft_store_new(void)
{
	struct weft_store *s = weft_xcalloc(1, sizeof(*s));

	s->now.a = weft_arena_new(0);
	s->now.mesh =
		(struct weft_store_mesh){"cluster.local", "istio-system", "", "cluster.local", ""};
	s->model = weft_model_empty("");
	s->network = weft_xstrdup("");
	return s;
}

static void result_done(struct result *r)
{
	free(r->v);
	free(r->sums);
	json_decref(r->status);
	weft_arena_free(r->a);
}

void weft_store_free(struct weft_store *s)
{
	if (!s)
		return;
	result_done(&s->now);
	free(s->changes);
	free(s->node_pods);
	free(s->node_ids);
	weft_model_unref(s->model);
	free(s->network);
	free(s);
}

/* ---- load */

/* Policies before what they hold for. */
static int type_rank(const struct weft_xds_type *t)
{
	return t == &weft_xds_type_authorization ? 0
	       : t == &weft_xds_type_address	 ? 1
						 : 2 + weft_xds_type_index(t->url);
}

static int resource_order(const void *pa, const void *pb)
{
	const struct weft_store_resource *a = pa, *b = pb;
	int c = strcmp(a->scope, b->scope);

	c = c ? c : type_rank(a->type) - type_rank(b->type);
	return c ? c : strcmp(a->name, b->name);
}

/* Two objects that come to one resource (an endpoint named twice in a slice): the first counts. */
static void drop_twins(struct tr *t)
{
	size_t kept = 0;

	for (size_t i = 0; i < t->n_out; i++) {
		struct weft_err *e;

		if (!kept || resource_order(&t->out[kept - 1], &t->out[i])) {
			t->out[kept++] = t->out[i];
			continue;
		}
		t->n_errors++;
		e = weft_errs_next(t->errs);
		weft_fail(e, NULL, EEXIST,
			  "\"%.120s\" comes from two places; the one at %.60s counts",
			  t->out[i].name, t->out[kept - 1].source);
		if (e)
			snprintf(e->where, sizeof(e->where), "%s", t->out[i].source);
	}
	t->n_out = kept;
}

static XXH128_hash_t sum_of(const ProtobufCMessage *m, uint8_t **buf, size_t *cap)
{
	size_t n = protobuf_c_message_get_packed_size(m);

	if (n > *cap) {
		*cap = n * 2;
		*buf = weft_xrealloc(*buf, *cap);
	}
	protobuf_c_message_pack(m, *buf);
	return XXH3_128bits(*buf, n);
}

static void sums_make(struct result *r)
{
	uint8_t *buf = NULL;
	size_t cap = 0;

	r->sums = weft_xcalloc(r->n, sizeof(*r->sums));
	for (size_t i = 0; i < r->n; i++)
		r->sums[i] = sum_of(r->v[i].msg, &buf, &cap);
	free(buf);
}

static struct weft_change change_of(const struct weft_store_resource *r)
{
	bool policy = r->type == &weft_xds_type_authorization;

	if (!r->msg)
		return (struct weft_change){.kind = policy ? WEFT_DEL_POLICY : WEFT_DEL_ADDRESS,
					    .name = r->name};
	return (struct weft_change){.kind = policy ? WEFT_SET_POLICY : WEFT_SET_ADDRESS,
				    .name = r->name,
				    .msg = r->msg,
				    .source = r->source};
}

/* Walks old and new side by side. Fills the changes to publish, and those of the model (which also
 * has the sources). */
struct diff {
	struct weft_store_resource *set, *gone;
	struct weft_change *model;
	size_t n_set, n_gone, n_model;
};

static void diff_make(struct diff *d, const struct result *old, const struct result *new)
{
	size_t i = 0, k = 0;

	d->set = weft_xcalloc(old->n + new->n, sizeof(*d->set));
	d->gone = weft_xcalloc(old->n, sizeof(*d->gone));
	d->model = weft_xcalloc(old->n + new->n, sizeof(*d->model));
	while (i < old->n || k < new->n) {
		int c = i == old->n ? 1 : k == new->n ? -1 : resource_order(&old->v[i], &new->v[k]);

		if (c < 0) {
			struct weft_store_resource r = old->v[i++];

			d->gone[d->n_gone++] =
				(struct weft_store_resource){r.type,
							     weft_arena_strdup(new->a, r.name),
							     NULL,
							     NULL,
							     weft_arena_strdup(new->a, r.source),
							     weft_arena_strdup(new->a, r.scope)};
			continue;
		}
		bool same = !c && XXH128_isEqual(old->sums[i], new->sums[k]);

		if (!same)
			d->set[d->n_set++] = new->v[k];
		if (!*new->v[k].scope && (!same || strcmp(old->v[i].source, new->v[k].source) != 0))
			d->model[d->n_model++] = change_of(&new->v[k]);
		i += !c;
		k++;
	}
	for (i = 0; i < d->n_gone; i++) {
		d->set[d->n_set++] = d->gone[i];
		if (!*d->gone[i].scope)
			d->model[d->n_model++] = change_of(&d->gone[i]);
	}
}

/* What the model refuses was made by us: told like any other mistake, so that it is not silent. */
static void model_errors(struct tr *t, struct weft_change *c, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct weft_err *e;

		if (!c[i].err.code)
			continue;
		t->n_errors++;
		e = weft_errs_next(t->errs);
		if (!e)
			continue;
		*e = c[i].err;
		snprintf(e->where, sizeof(e->where), "%s", c[i].source);
	}
}

static void model_update(struct weft_store *s, struct tr *t, struct diff *d)
{
	struct weft_model *old = s->model;

	if (strcmp(s->network, t->mesh.network) != 0) { /* every look-up starts from it */
		free(s->network);
		s->network = weft_xstrdup(t->mesh.network);
		weft_model_unref(old);
		old = weft_model_empty(s->network);
		d->n_model = 0;
		d->model = weft_xrealloc(d->model, (s->now.n ? s->now.n : 1) * sizeof(*d->model));
		for (size_t i = 0; i < s->now.n && !*s->now.v[i].scope; i++)
			d->model[d->n_model++] = change_of(&s->now.v[i]);
	}
	s->model = weft_model_apply(old, d->model, d->n_model);
	weft_model_unref(old);
	model_errors(t, d->model, d->n_model);
}

static void gateways_keep(struct result *r, struct tr *t)
{
	r->gateways = weft_arena_alloc(t->a, t->n_gateways * sizeof(*r->gateways));
	for (size_t i = 0; i < t->n_gateways; i++) {
		const struct tr_gateway *g = &t->gateways[i];

		if (g->class != GW_OTHER)
			r->gateways[r->n_gateways++] =
				(struct weft_store_gateway){.scope = g->scope,
							    .ns = g->ns,
							    .name = g->name,
							    .identity = g->identity,
							    .source = tr_source(t, g->o),
							    .waypoint = g->class == GW_WAYPOINT};
	}
}

int weft_store_load(struct weft_store *s, const struct weft_objects *objs, struct weft_errs *errs)
{
	struct tr t = {.a = weft_arena_new(1 << 16), .objs = objs, .errs = errs};
	struct result old = s->now;
	struct diff d = {0};

	t.status = json_array();
	tr_mesh(&t);
	tr_gateways(&t);
	tr_pods(&t);
	tr_services(&t);
	tr_policies(&t);
	tr_peers(&t);
	tr_attach(&t);
	tr_targets(&t);
	tr_backend_tls(&t);
	tr_policies_l7(&t);
	tr_gateways_out(&t);
	tr_status(&t);
	tr_backend_tls_status(&t);
	tr_require_waypoint(&t);
	tr_pods_out(&t);
	if (t.n_out)
		qsort(t.out, t.n_out, sizeof(*t.out), resource_order);
	drop_twins(&t);
	s->now = (struct result){.a = t.a,
				 .mesh = t.mesh,
				 .v = t.out,
				 .n = t.n_out,
				 .pods = t.pods,
				 .n_pods = t.n_pods,
				 .status = t.status};
	gateways_keep(&s->now, &t);
	sums_make(&s->now);
	diff_make(&d, &old, &s->now);
	free(s->changes);
	s->changes = d.set;
	s->n_changes = d.n_set;
	model_update(s, &t, &d);
	free(d.gone);
	free(d.model);
	result_done(&old);
	return t.n_errors;
}

/* ---- answers */

size_t weft_store_resources(const struct weft_store *s, const struct weft_store_resource **ret)
{
	*ret = s->now.v;
	return s->now.n;
}

size_t weft_store_changes(const struct weft_store *s, const struct weft_store_resource **ret)
{
	*ret = s->changes;
	return s->n_changes;
}

const struct weft_store_mesh *weft_store_mesh(const struct weft_store *s)
{
	return &s->now.mesh;
}

size_t weft_store_gateways(const struct weft_store *s, const struct weft_store_gateway **ret)
{
	*ret = s->now.gateways;
	return s->now.n_gateways;
}

const struct json_t *weft_store_status(const struct weft_store *s)
{
	return s->now.status;
}

const struct weft_model *weft_store_model(const struct weft_store *s)
{
	return s->model;
}

const char *weft_store_source(const struct weft_store *s, const struct weft_xds_type *t,
			      const char *name)
{
	const struct weft_store_resource key = {.type = t, .name = name, .scope = ""}, *r;

	r = s->now.n ? bsearch(&key, s->now.v, s->now.n, sizeof(*s->now.v), resource_order) : NULL;
	return r ? r->source : "";
}

bool weft_store_pod_unusable(const struct weft_store *s, const char *node, const char *uid)
{
	const struct result *r = &s->now;

	for (size_t i = 0; i < r->n_pods; i++)
		if (r->pods[i].unusable && !strcmp(r->pods[i].node, node) &&
		    !strcmp(r->pods[i].uid, uid))
			return true;
	return false;
}

size_t weft_store_pods(struct weft_store *s, const char *node, const struct weft_store_pod **ret)
{
	const struct result *r = &s->now;
	size_t n = 0;

	s->node_pods =
		weft_xrealloc(s->node_pods, (r->n_pods ? r->n_pods : 1) * sizeof(*s->node_pods));
	for (size_t i = 0; i < r->n_pods; i++) {
		const struct tr_pod *p = &r->pods[i];
		struct weft_store_pod *to = &s->node_pods[n];

		if (!p->enrolled || strcmp(p->node, node) != 0)
			continue;
		*to = (struct weft_store_pod){.identity = p->identity, .source = p->source};
		to->conf = (struct weft_pod_conf){.uid = p->uid,
						  .name = p->w->name,
						  .ns = p->w->namespace_,
						  .sa = p->sa,
						  .trust_domain = r->mesh.trust_domain,
						  .workload_uid = p->w->uid,
						  .netns_path = p->netns,
						  .n_addrs = p->n_addrs};
		memcpy(to->conf.addrs, p->addrs, p->n_addrs * sizeof(p->addrs[0]));
		n++;
	}
	*ret = s->node_pods;
	return n;
}

static int text_order(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

size_t weft_store_identities(struct weft_store *s, const char *node, const char *const **ret)
{
	const struct weft_store_pod *pods;
	size_t n = weft_store_pods(s, node, &pods), kept = 0;

	s->node_ids = weft_xrealloc(s->node_ids, (n ? n : 1) * sizeof(*s->node_ids));
	for (size_t i = 0; i < n; i++)
		s->node_ids[i] = pods[i].identity;
	if (n)
		qsort(s->node_ids, n, sizeof(*s->node_ids), text_order);
	for (size_t i = 0; i < n; i++)
		if (!kept || strcmp(s->node_ids[kept - 1], s->node_ids[i]) != 0)
			s->node_ids[kept++] = s->node_ids[i];
	*ret = s->node_ids;
	return kept;
}
