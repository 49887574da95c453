/* Mistakes between parts of a configuration that each part alone cannot see. */
#include "proxy/waypoint/waypoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every string field whose name says that it is a cluster's name, in the whole tree. */
struct uses {
	const char **v;
	size_t n, cap;
};

static void use(struct uses *u, const char *name)
{
	if (!name || !*name)
		return;
	if (u->n == u->cap) {
		u->cap = u->cap ? u->cap * 2 : 64;
		u->v = weft_xrealloc(u->v, u->cap * sizeof(*u->v));
	}
	u->v[u->n++] = name;
}

static bool names_cluster(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	if (f->type != PROTOBUF_C_TYPE_STRING)
		return false;
	if (!strcmp(f->name, "cluster") || !strcmp(f->name, "cluster_name") ||
	    !strcmp(f->name, "local_cluster_name"))
		return strcmp(m->descriptor->name, "envoy.config.core.v3.Node") != 0;
	return !strcmp(f->name, "name") &&
	       (!strcmp(m->descriptor->name,
			"envoy.config.route.v3.WeightedCluster.ClusterWeight") ||
		!strcmp(m->descriptor->name, "envoy.extensions.filters.network.tcp_proxy.v3."
					     "TcpProxy.WeightedCluster.ClusterWeight"));
}

static void walk(struct weft_cfg *c, struct uses *u, const ProtobufCMessage *m, unsigned depth);

static void walk_field(struct weft_cfg *c, struct uses *u, const ProtobufCMessage *m,
		       const ProtobufCFieldDescriptor *f, unsigned depth)
{
	const char *at = (const char *)m + f->offset;
	size_t n = 1, i;
	const void *const *v = (const void *const *)at;

	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)((const char *)m + f->quantifier_offset) != f->id)
		return;
	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		n = *(const size_t *)((const char *)m + f->quantifier_offset);
		v = *(const void *const *const *)at;
	}
	if (f->type == PROTOBUF_C_TYPE_STRING && f->label != PROTOBUF_C_LABEL_REPEATED) {
		if (names_cluster(m, f))
			use(u, *(const char *const *)at);
		return;
	}
	if (f->type != PROTOBUF_C_TYPE_MESSAGE)
		return;
	for (i = 0; i < n; i++)
		if (v[i])
			walk(c, u, v[i], depth + 1);
}

static void walk(struct weft_cfg *c, struct uses *u, const ProtobufCMessage *m, unsigned depth)
{
	unsigned i;

	if (depth > 64)
		return;
	if (m->descriptor == &google__protobuf__any__descriptor) {
		const ProtobufCMessage *in =
			weft_cfg_any(c, NULL, (const Google__Protobuf__Any *)m, NULL);

		if (in)
			walk(c, u, in, depth + 1);
		return;
	}
	for (i = 0; i < m->descriptor->n_fields; i++)
		walk_field(c, u, m, &m->descriptor->fields[i], depth);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool has(const struct uses *u, const char *name)
{
	return u->n && bsearch(&name, u->v, u->n, sizeof(*u->v), by_text);
}

void waypoint_semantics(struct waypoint *w, struct weft_errs *warns)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap *m = w->boot.msg;
	const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *s =
		m ? m->static_resources : NULL;
	bool dynamic = m && m->dynamic_resources &&
		       (m->dynamic_resources->cds_config || m->dynamic_resources->lds_config);
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.arena = a, .errs = errs, .warns = warns, .marks = w->boot.marks};
	struct weft_path top = {NULL, "static_resources", -1};
	struct uses used = {0}, have = {0};
	size_t i;

	if (m)
		walk(&c, &used, &m->base, 0);
	if (used.n)
		qsort(used.v, used.n, sizeof(*used.v), by_text);
	for (i = 0; s && i < s->n_clusters; i++) {
		struct weft_path p = {&top, "clusters", (int)i}, pn = {&p, "name", -1};

		use(&have, s->clusters[i]->name);
		if (!dynamic && s->clusters[i]->name && !has(&used, s->clusters[i]->name))
			weft_cfg_warn(&c, &pn, "nothing uses the cluster \"%s\"",
				      s->clusters[i]->name);
	}
	if (have.n)
		qsort(have.v, have.n, sizeof(*have.v), by_text);
	for (i = 0; !dynamic && i < used.n; i++)
		if ((!i || strcmp(used.v[i], used.v[i - 1])) && !has(&have, used.v[i])) {
			const char *near = have.n ? weft_suggest(used.v[i], have.v, have.n) : NULL;

			weft_cfg_warn(&c, &top, "the cluster \"%s\" is used and not there%s%s%s",
				      used.v[i], near ? "; did you mean \"" : "", near ? near : "",
				      near ? "\"?" : "");
		}
	free(used.v);
	free(have.v);
	free(errs);
	weft_arena_free(a);
}
