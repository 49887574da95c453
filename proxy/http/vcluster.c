#include "proxy/http/vcluster.h"
#include "proxy/http/route_priv.h"
#include "proxy/http/route_stats.h"

#include "proxy/policy/match.h"
#include <errno.h>

struct entry {
	struct weft_vcluster vc;
	const struct weft_hdrmatch *headers;
	size_t n;
};
struct route_vclusters {
	size_t n;
	struct entry other; /* what none matches */
	struct entry v[];
};

static const struct weft_scope_item items[] = {
#define STAT(name, kind, help) {#name, WEFT_##kind, help},
#include "proxy/http/route_stats.def"
#undef STAT
};
static const struct weft_scope_class vcluster_scope = {
	.prefix = "vhost",
	.tag = "envoy_virtual_host",
	.v = items,
	.n = sizeof(items) / sizeof(*items),
	.codes = true,
	.code_item = "upstream_rq",
	.infix = "vcluster",
	.tag2 = "envoy_virtual_cluster",
};

static void drop(void *arg)
{
	weft_scope_unref(arg);
}

static void name_it(struct weft_cfg *c, const char *vhost, const char *name, struct entry *e)
{
	e->vc.name = weft_arena_strdup(c->arena, name);
	e->vc.stats = weft_scope_get(&vcluster_scope,
				     weft_arena_printf(c->arena, "%s.vcluster.%s", vhost, name));
	weft_arena_cleanup(c->arena, drop, e->vc.stats);
}

int route_vclusters_prepare(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Config__Route__V3__VirtualHost *m,
			    const struct route_vclusters **ret)
{
	struct route_vclusters *x;
	int err = 0;

	*ret = NULL;
	if (!m->n_virtual_clusters)
		return 0;
	x = weft_arena_alloc(c->arena, sizeof(*x) + m->n_virtual_clusters * sizeof(x->v[0]));
	x->n = m->n_virtual_clusters;
	name_it(c, m->name, "other", &x->other);
	x->other.vc.name = NULL; /* of its numbers alone */
	for (size_t i = 0; i < x->n; i++) {
		const Envoy__Config__Route__V3__VirtualCluster *vc = m->virtual_clusters[i];
		struct weft_path p = {at, "virtual_clusters", (int)i}, ph = {&p, "headers", -1};

		if (!vc->n_headers) {
			err |= weft_cfg_fail(c, &ph, "must have an entry, has none");
			continue;
		}
		name_it(c, m->name, vc->name, &x->v[i]);
		x->v[i].n = vc->n_headers;
		err |= weft_hdrmatches_prepare(c, &ph, vc->headers, vc->n_headers,
					       &x->v[i].headers);
	}
	*ret = x;
	return err;
}

const struct weft_vcluster *weft_vhost_vcluster(const struct weft_vhost *v,
						const struct weft_headers *h)
{
	const struct route_vclusters *x = v->vclusters;

	for (size_t i = 0; x && i < x->n; i++)
		if (weft_hdrmatch_all(x->v[i].headers, x->v[i].n, h) == WEFT_MATCH_YES)
			return &x->v[i].vc;
	return x ? &x->other.vc : NULL;
}
