/* The process's parts, put together: built from the bootstrap, warmed in order, taken apart. */
#include "proxy/waypoint/waypoint.h"

#include "proxy/core/log.h"
#include "proxy/http/hcm.h"
#include "proxy/l4/als.h"
#include "proxy/l4/logsink.h"
#include "proxy/upstream/transport.h"
#include "proxy/waypoint/event_files.h"
#include "proxy/waypoint/hbone_in.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- callbacks of the managers */
static void on_cluster(void *owner, const char *name, bool on)
{
	waypoint_look(owner);
}

static void on_ejection(void *owner, const char *line, size_t n)
{
	struct waypoint *w = owner;

	if (weft_log_sink_put(w->ejections, line, n) < n)
		weft_log(WEFT_LOG_WARN, "the log of ejections does not take a line");
}

static void on_table(void *owner, struct weft_route_table *t)
{
	struct waypoint *w = owner;

	if (w->listeners)
		listeners_look(w->listeners);
	waypoint_look(w);
}

static void on_secret(void *owner, const char *name)
{
	struct waypoint *w = owner;
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = errs, .file = true};

	if (weft_clusters_secret(w->clusters, &c, name, secrets_get(w->secrets, name)))
		weft_log_err(WEFT_LOG_WARN, &errs->v[0], "new secret not used");
	listeners_secret(w->listeners, name);
	weft_arena_free(a);
	free(errs);
}

static void want_secret(void *owner, const Envoy__Config__Core__V3__ConfigSource *cs,
			const char *name, bool on)
{
	struct waypoint *w = owner;

	if (w->opt.mode == MODE_SERVE)
		secrets_want(w->secrets, cs, name, on);
}

static const Envoy__Extensions__TransportSockets__Tls__V3__Secret *have_secret(void *owner,
									       const char *name)
{
	return secrets_get(((struct waypoint *)owner)->secrets, name);
}

static void on_listener(void *owner, const char *name, bool on)
{
	waypoint_look(owner);
}

static void on_lost(void *owner, const char *source, const char *why)
{
	weft_log(WEFT_LOG_WARN, "configuration source lost source=%s: %s", source, why);
}

/* A byte stream to the control plane's cluster; the main thread's own worker has clusters too. */
static int dial(void *owner, const char *cluster, struct weft_io **ret, struct weft_err *reterr)
{
	static const struct weft_io_ops none;
	static const char *const h2[] = {"h2", NULL};
	struct waypoint *w = owner;
	struct weft_wcluster *wc = weft_wcluster_find(w->main, cluster);
	struct weft_lb_ctx ctx = {.random = weft_rand64(), .now_ns = weft_now_ns()};
	struct weft_take how = {0};
	const struct weft_endpoint_entry *e;
	const char *why = "it has no host";
	struct weft_tdial td;
	struct weft_host *h;
	int err;

	if (!wc)
		return weft_fail(reterr, NULL, ENOENT, "cluster \"%s\" is not there", cluster);
	h = weft_wcluster_pick(wc, &ctx, &e, &why);
	if (!h)
		return weft_fail(reterr, NULL, EHOSTUNREACH, "cluster \"%s\": %s", cluster, why);
	how.metadata = e ? e->metadata : NULL;
	err = weft_transport_prepare(
		wc->cluster->transport,
		&(struct weft_tdial_want){

			.socket = weft_transport_pick(wc->cluster->transport, how.metadata),
			.host = h,
			.how = &how,
			.alpn = h2},
		&td);
	if (!err) {
		err = weft_io_dial(w->main->base, &td.dial, &none, NULL, ret);
		weft_tdial_done(&td);
	}
	weft_host_unref(h);
	return err < 0 ? weft_fail(reterr, NULL, -err, "cluster \"%s\": %s", cluster,
				   strerror(-err))
		       : 0;
}

/* ---- building */
static void managers(struct waypoint *w)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap *m = w->boot.msg;
	bool dry = w->opt.mode == MODE_VALIDATE;
	struct weft_xds_sources_conf xs = {
		.node = m->node,
		.ads = m->dynamic_resources ? m->dynamic_resources->ads_config : NULL,
		.dial = dial,
		.lost = on_lost,
		.owner = w};
	struct weft_worker **all = weft_xcalloc(w->n_workers + 1, sizeof(struct weft_worker *));
	struct weft_clusters_conf cc = {.base = w->main->base,
					.workers = all,
					.n_workers = dry ? 0 : w->n_workers + 1,
					.want_endpoints = feeds_want_endpoints,
					.want_secret = want_secret,
					.have_secret = have_secret,
					.live = on_cluster,
					.owner = w};
	struct weft_route_tables_conf rc = {.workers = w->workers,
					    .n_workers = dry ? 0 : w->n_workers,
					    .want = feeds_want_routes,
					    .ready = on_table,
					    .owner = w};
	struct secrets_conf sc = {
		.base = dry ? NULL : w->main->base, .changed = on_secret, .owner = w};
	struct listeners_conf lc = {.main = w->main,
				    .workers = w->workers,
				    .n_workers = dry ? 0 : w->n_workers,
				    .dry = dry,
				    .live = on_listener,
				    .owner = w};

	if (w->n_workers)
		memcpy(all, w->workers, w->n_workers * sizeof(*all));
	all[w->n_workers] = w->main;
	w->all_workers = all;
	if (m->cluster_manager && m->cluster_manager->local_cluster_name &&
	    *m->cluster_manager->local_cluster_name)
		cc.local_cluster = m->cluster_manager->local_cluster_name;
	if (w->ejections)
		cc.outlier_event = on_ejection;
	if (m->node && m->node->locality)
		cc.local =
			(struct weft_locality){m->node->locality->region, m->node->locality->zone,
					       m->node->locality->sub_zone};
	if (!dry) {
		event_files_use();
		w->sources = weft_xds_sources_new(w->main->base, &xs);
		w->feeds = feeds_new(w);
	}
	sc.sources = w->sources;
	w->secrets = secrets_new(&sc);
	w->clusters = weft_clusters_new(&cc);
	w->routes = weft_route_tables_new(&rc);
	lc.routes = w->routes;
	lc.node = w->boot.msg->node;
	lc.secrets = w->secrets;
	w->listeners = listeners_new(&lc);
}

/* Nothing is missing in it: builders may rely on what must be there being there. */
static bool sound(const struct weft_errs *errs, const char *kind, size_t i)
{
	char path[64];
	size_t n = (size_t)snprintf(path, sizeof(path), "static_resources.%s[%zu]", kind, i);
	int k;

	for (k = 0; k < errs->n; k++)
		if (errs->v[k].code == WEFT_CFG_MISSING && !strncmp(errs->v[k].path, path, n) &&
		    (!errs->v[k].path[n] || errs->v[k].path[n] == '.'))
			return false;
	return !errs->dropped;
}

static const char *ejections_path(const struct waypoint *w)
{
	const Envoy__Config__Bootstrap__V3__ClusterManager *m = w->boot.msg->cluster_manager;
	const char *path = m && m->outlier_detection ? m->outlier_detection->event_log_path : NULL;

	return path && *path ? path : NULL;
}

/* Before there are clusters: they tell it from their beginning. */
static int ejections_open(struct waypoint *w, struct weft_cfg *c)
{
	const struct weft_path m = {NULL, "cluster_manager", -1}, o = {&m, "outlier_detection", -1},
			       p = {&o, "event_log_path", -1};
	const char *path = ejections_path(w);
	struct weft_err err = {0};

	if (!path || w->opt.mode == MODE_VALIDATE)
		return 0;
	if (weft_log_sink_open(path, &w->ejections, &err))
		return weft_cfg_fail(c, &p, "%s", err.msg);
	return 0;
}

void waypoint_logs_reopen(struct waypoint *w)
{
	struct weft_err err = {0};

	weft_access_logs_reopen();
	event_files_reopen();
	if (w->ejections && weft_log_sink_reopen(w->ejections, ejections_path(w), &err))
		weft_log_err(WEFT_LOG_WARN, &err, "the log of ejections stays where it was");
}

static int common_bind(struct waypoint *w, struct weft_cfg *c)
{
	const Envoy__Config__Bootstrap__V3__ClusterManager *m = w->boot.msg->cluster_manager;
	const struct weft_path top = {NULL, "cluster_manager", -1},
			       at = {&top, "upstream_bind_config", -1};

	return m && m->upstream_bind_config
		       ? weft_clusters_bind(w->clusters, c, &at, m->upstream_bind_config)
		       : 0;
}

int waypoint_build(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *s =
		w->boot.msg->static_resources;
	struct weft_path top = {NULL, "static_resources", -1};
	struct weft_cfg c = {.arena = w->boot.arena,
			     .errs = errs,
			     .warns = warns,
			     .marks = w->boot.marks,
			     .file = true};
	int err = 0;
	size_t i;

	weft_http_register();
	weft_hbone_register();
	err |= ejections_open(w, &c);
	managers(w);
	err |= common_bind(w, &c);
	err |= waypoint_duplicates(&c, s);
	for (i = 0; s && i < s->n_secrets; i++) {
		struct weft_path p = {&top, "secrets", (int)i};

		if (sound(errs, "secrets", i))
			err |= secrets_add_static(w->secrets, &c, &p, s->secrets[i]);
	}
	for (i = 0; s && i < s->n_clusters; i++) {
		struct weft_path p = {&top, "clusters", (int)i};
		int r = sound(errs, "clusters", i)
				? weft_clusters_set(w->clusters, &c, &p, s->clusters[i], "", false)
				: 0;

		err |= r < 0 ? r : 0;
	}
	for (i = 0; s && i < s->n_listeners; i++) {
		struct weft_path p = {&top, "listeners", (int)i};
		/* the message lives in the bootstrap; what is built of it has an arena of its own
		 */
		int r = sound(errs, "listeners", i)
				? listeners_set(w->listeners, &c, &p, s->listeners[i],
						weft_arena_new(0), "", false)
				: 0;

		err |= r < 0 ? r : 0;
	}
	return err ? -EINVAL : 0;
}

/* Clusters first, then listeners: what a listener routes to is there when it opens. */
void waypoint_look(struct waypoint *w)
{
	struct weft_err err = {0};
	size_t warming;

	if (w->state != WAYPOINT_INIT || w->looking)
		return;
	w->looking = true;
	weft_clusters_count(w->clusters, &warming);
	if (!w->started && feeds_clusters_ready(w->feeds) && !warming) {
		w->started = true;
		listeners_start(w->listeners);
		if (feeds_start_listeners(w, &err))
			weft_log_err(WEFT_LOG_ERROR, &err, "listeners cannot be watched");
	}
	w->looking = false;
	if (!w->started || !feeds_ready(w->feeds))
		return;
	listeners_count(w->listeners, &warming);
	if (warming)
		return;
	w->state = WAYPOINT_LIVE;
	weft_log(WEFT_LOG_INFO, "all clusters and listeners are ready");
}

void waypoint_free(struct waypoint *w)
{
	waypoint_admin_free(w->admin);
	feeds_free(w->feeds);
	w->feeds = NULL;
	listeners_free(w->listeners);
	weft_route_tables_free(w->routes);
	weft_clusters_free(w->clusters);
	weft_log_sink_free(w->ejections);
	secrets_free(w->secrets);
	weft_xds_sources_free(w->sources);
	free(w->all_workers);
	bootstrap_free(&w->boot);
}
