/* What tests of proxy/upstream have in common: messages out of YAML, a manager with one worker
 * whose loop runs here. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster.h"
#include "proxy/upstream/pool.h"
#include "xds/cfg.h"
#include "xds/yaml.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static inline const ProtobufCMessageDescriptor *yaml_pick(void *ctx, const char *api_version,
							  const char *kind, bool *ret_lenient,
							  struct weft_err *reterr)
{
	return ctx;
}

static inline const void *yaml_message(struct weft_arena *a, const ProtobufCMessageDescriptor *d,
				       const char *text)
{
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	size_t n = 0;

	weft_yaml_decode(a, "test.yaml", text, strlen(text), yaml_pick, (void *)d, &docs, &n,
			 &errs);
	for (int i = 0; i < errs.n; i++)
		print_message("# %s: %s: %s\n", errs.v[i].where, errs.v[i].path, errs.v[i].msg);
	assert_int_equal(errs.n, 0);
	assert_int_equal(n, 1);
	return docs[0].msg;
}

struct bed {
	struct weft_arena *a;
	struct weft_worker *main, *w;
	struct weft_clusters *m;
	struct weft_errs errs;
	char wanted[256], live[256]; /* what was told, one after the other */
};

static inline void bed_want_endpoints(void *owner, const Envoy__Config__Core__V3__ConfigSource *cs,
				      const char *service, bool on)
{
	struct bed *b = owner;

	snprintf(b->wanted + strlen(b->wanted), sizeof(b->wanted) - strlen(b->wanted), "%s%s ",
		 on ? "+" : "-", service);
}

static inline void bed_live(void *owner, const char *name, bool on)
{
	struct bed *b = owner;

	snprintf(b->live + strlen(b->live), sizeof(b->live) - strlen(b->live), "%s%s ",
		 on ? "+" : "-", name);
}

static inline struct bed *bed_new(const struct weft_clusters_conf *like)
{
	struct bed *b = weft_xcalloc(1, sizeof(*b));
	struct weft_clusters_conf conf = {0};

	if (like)
		conf = *like;
	b->a = weft_arena_new(0);
	b->main = weft_worker_new(-1, NULL);
	b->w = weft_worker_new(0, NULL);
	conf.base = b->main->base;
	conf.workers = &b->w;
	conf.n_workers = 1;
	conf.want_endpoints = bed_want_endpoints;
	conf.live = bed_live;
	conf.owner = b;
	b->m = weft_clusters_new(&conf);
	return b;
}

static inline void bed_run(struct bed *b)
{
	for (int i = 0; i < 4; i++) {
		event_base_loop(b->main->base, EVLOOP_NONBLOCK);
		event_base_loop(b->w->base, EVLOOP_NONBLOCK);
	}
}

static inline void bed_free(struct bed *b)
{
	bed_run(b);
	weft_clusters_free(b->m);
	weft_worker_free(b->w);
	weft_worker_free(b->main);
	weft_arena_free(b->a);
	free(b);
}

static inline struct weft_cfg bed_cfg(struct bed *b)
{
	memset(&b->errs, 0, sizeof(b->errs));
	return (struct weft_cfg){.arena = b->a, .errs = &b->errs};
}

/* Without a turn of any loop. */
static inline int bed_set_only(struct bed *b, bool from_xds, const char *yaml)
{
	const Envoy__Config__Cluster__V3__Cluster *m =
		yaml_message(b->a, &envoy__config__cluster__v3__cluster__descriptor, yaml);
	struct weft_cfg c = bed_cfg(b);

	return weft_clusters_set(b->m, &c, NULL, m, "v1", from_xds);
}

static inline int bed_set(struct bed *b, bool from_xds, const char *yaml)
{
	int r = bed_set_only(b, from_xds, yaml);

	bed_run(b);
	return r;
}

static inline int bed_endpoints(struct bed *b, const char *service, const char *yaml,
				const char *version)
{
	const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *m = yaml_message(
		b->a, &envoy__config__endpoint__v3__cluster_load_assignment__descriptor, yaml);
	struct weft_cfg c = bed_cfg(b);
	int r = weft_clusters_endpoints(b->m, &c, NULL, service, m, version);

	bed_run(b);
	return r;
}

/* The next host's text, "" none. */
static inline const char *bed_pick_with(struct bed *b, const char *cluster, struct weft_lb_ctx *ctx)
{
	static char text[128];
	struct weft_wcluster *wc = weft_wcluster_find(b->w, cluster);
	const char *why = NULL;
	struct weft_host *h;

	assert_non_null(wc);
	h = weft_wcluster_pick(wc, ctx, NULL, &why);
	snprintf(text, sizeof(text), "%s", h ? h->text : "");
	if (!h)
		assert_non_null(why);
	weft_host_unref(h);
	return text;
}

static inline const char *bed_pick(struct bed *b, const char *cluster)
{
	struct weft_lb_ctx ctx = {.random = weft_rand64(), .now_ns = weft_now_ns()};

	return bed_pick_with(b, cluster, &ctx);
}

static inline int64_t bed_stat(struct bed *b, const char *cluster, enum weft_cluster_stat item)
{
	struct weft_cluster *c = weft_clusters_find(b->m, cluster);

	assert_non_null(c);
	return weft_scope_value(c->scope, item);
}

static inline void bed_expect_error(struct bed *b, const char *part)
{
	char text[512] = "";

	for (int i = 0; i < b->errs.n; i++)
		if (strstr(weft_err_text(&b->errs.v[i], text, sizeof(text)), part))
			return;
	print_message("# wanted: %s\n# last of %d: %s\n", part, b->errs.n, text);
	fail();
}
