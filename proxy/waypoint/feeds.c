/* LDS, CDS, EDS and RDS: from sources into the managers of clusters, routes and listeners. */
#include "proxy/waypoint/resource.h"

#include "proxy/core/log.h"
#include "proxy/core/scope.h"
#include "proxy/waypoint/xds_stats.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { WARNS_MAX = 5 }; /* told of one resource */

static unsigned key_hash(const void *p, size_t n)
{
	static uint64_t seed;

	if (!seed)
		seed = weft_rand64() | 1;
	return (unsigned)XXH3_64bits_withSeed(p, n, seed);
}
#define HASH_FUNCTION(key, n, ret) ((ret) = key_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>

struct ep_feed { /* endpoints of one service name */
	UT_hash_handle hh;
	struct feeds *f;
	struct weft_xds_watch *watch;
	unsigned wants;
	char name[];
};
struct rt_feed {
	UT_hash_handle hh;
	struct weft_route_table *table; /* key */
	struct feeds *f;
	struct weft_xds_watch *watch;
	bool local;
};
struct feeds {
	struct waypoint *w;
	struct weft_xds_watch *lds, *cds;
	struct weft_xds_stat lds_stat, cds_stat; /* as they were last put */
	uint64_t rate_limited;
	bool lds_done, cds_done;
	struct ep_feed *eps;
	struct rt_feed *rts;
	struct weft_errs *errs, *warns; /* room for one resource's */
	bool cds_local, lds_local;
};

/* The first error is what the server is told; all are logged. */
void feeds_reject(struct weft_xds_reply *r, const char *kind, const struct weft_xds_resource *up,
		  struct weft_errs *errs)
{
	char what[160];
	int i;

	weft_xds_place(r, up, errs);
	waypoint_errs_once(errs);
	snprintf(what, sizeof(what), "%s refused name=\"%.100s\"", kind, up->name);
	for (i = 0; i < errs->n; i++)
		weft_log_err(WEFT_LOG_WARN, &errs->v[i], what);
	weft_xds_reject(r, up->name, &errs->v[0]);
}

/* local: from a file of ours, which may name other files; a control plane may not. */
static struct weft_cfg cfg_of(struct feeds *f, const struct weft_xds_resource *up, bool local)
{
	f->errs->n = f->errs->dropped = 0; /* not all of it: there are ten thousand */
	return (struct weft_cfg){.arena = up->arena, .errs = f->errs, .file = local};
}

/* Deprecated fields are told once a version: what did not change is not given again. */
static int checked(struct feeds *f, struct weft_cfg *c, const char *kind,
		   const struct weft_xds_resource *up)
{
	char what[160];
	int i, err;

	f->warns->n = f->warns->dropped = 0;
	c->warns = f->warns;
	err = weft_cfg_check(c, NULL, up->msg);
	c->warns = NULL; /* what builders would tell costs more than it is worth here */
	snprintf(what, sizeof(what), "%s name=\"%.100s\" version=\"%.40s\"", kind, up->name,
		 up->version);
	for (i = 0; !err && i < f->warns->n && i < WARNS_MAX; i++)
		weft_log_err(WEFT_LOG_WARN, &f->warns->v[i], what);
	if (!err && f->warns->n + f->warns->dropped > i)
		weft_log(WEFT_LOG_WARN, "%s: and %d more", what,
			 f->warns->n + f->warns->dropped - i);
	return err;
}

bool feeds_local(const Envoy__Config__Core__V3__ConfigSource *cs)
{
	return cs &&
	       (cs->config_source_specifier_case ==
			ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_PATH ||
		cs->config_source_specifier_case ==
			ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_PATH_CONFIG_SOURCE);
}

/* ---- clusters */
static void cds_apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		      size_t n_up, const char *const *removed, size_t n_removed)
{
	struct feeds *f = owner;
	size_t i;

	for (i = 0; i < n_up; i++) {
		struct weft_cfg c = cfg_of(f, &up[i], f->cds_local);

		if (checked(f, &c, "cluster", &up[i]) ||
		    weft_clusters_set(f->w->clusters, &c, NULL, (const void *)up[i].msg,
				      up[i].version, true) < 0)
			feeds_reject(r, "cluster", &up[i], f->errs);
	}
	for (i = 0; i < n_removed; i++)
		weft_clusters_remove(f->w->clusters, removed[i]);
}

static void cds_done(void *owner)
{
	struct feeds *f = owner;

	f->cds_done = true;
	waypoint_look(f->w);
}

static const struct weft_xds_sink cds_sink = {
	.apply = cds_apply, .complete = cds_done, .timed_out = cds_done, .arenas = true};

/* ---- endpoints */
static void eds_apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		      size_t n_up, const char *const *removed, size_t n_removed)
{
	struct ep_feed *e = owner;
	struct feeds *f = e->f;
	size_t i;

	for (i = 0; i < n_up; i++) {
		struct weft_cfg c = cfg_of(f, &up[i], false);

		if (checked(f, &c, "endpoints", &up[i]) ||
		    weft_clusters_endpoints(f->w->clusters, &c, NULL, e->name,
					    (const void *)up[i].msg, up[i].version) < 0)
			feeds_reject(r, "endpoints", &up[i], f->errs);
	}
	if (n_removed)
		weft_clusters_endpoints_gone(f->w->clusters, e->name);
}

static void eds_timed_out(void *owner)
{
	struct ep_feed *e = owner;

	weft_log(WEFT_LOG_WARN, "endpoints of \"%s\" did not come in time", e->name);
	weft_clusters_endpoints_gone(e->f->w->clusters, e->name);
}

static const struct weft_xds_sink eds_sink = {
	.apply = eds_apply, .timed_out = eds_timed_out, .arenas = true};

void feeds_want_endpoints(void *owner, const Envoy__Config__Core__V3__ConfigSource *cs,
			  const char *service, bool on)
{
	struct waypoint *w = owner;
	struct feeds *f = w->feeds;
	struct weft_err err = {0};
	struct ep_feed *e;

	if (!f) /* only validated */
		return;
	HASH_FIND_STR(f->eps, service, e);
	if (!on) {
		if (e && !--e->wants) {
			HASH_DEL(f->eps, e);
			weft_xds_unwatch(e->watch);
			free(e);
		}
		return;
	}
	if (!e) {
		size_t n = strlen(service) + 1;

		e = weft_xcalloc(1, sizeof(*e) + n);
		memcpy(e->name, service, n);
		e->f = f;
		HASH_ADD_STR(f->eps, name, e);
		e->watch = weft_xds_watch(w->sources, cs, &weft_xds_type_endpoint, e->name,
					  &eds_sink, e, &err);
		if (!e->watch)
			weft_log_err(WEFT_LOG_WARN, &err, "endpoints cannot be watched");
	}
	e->wants++;
}

/* ---- routes */
static bool validated(const ProtobufCMessage *m)
{
	return weft_cfg_bool(
		((const Envoy__Config__Route__V3__RouteConfiguration *)m)->validate_clusters,
		false);
}

static void rds_apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		      size_t n_up, const char *const *removed, size_t n_removed)
{
	struct rt_feed *t = owner;
	size_t i;

	for (i = 0; i < n_up; i++) {
		struct weft_cfg c = cfg_of(t->f, &up[i], t->local);

		if (checked(t->f, &c, "routes", &up[i]) ||
		    (validated(up[i].msg) &&
		     waypoint_resource_check(t->f->w, &c, up[i].msg, false)) ||
		    weft_route_table_set(t->table, &c, NULL, (const void *)up[i].msg,
					 up[i].version) < 0)
			feeds_reject(r, "routes", &up[i], t->f->errs);
	}
	if (n_removed)
		weft_route_table_gone(t->table);
}

static void rds_timed_out(void *owner)
{
	struct rt_feed *t = owner;

	weft_log(WEFT_LOG_WARN, "routes \"%s\" did not come in time",
		 weft_route_table_name(t->table));
	weft_route_table_timed_out(t->table);
}

static const struct weft_xds_sink rds_sink = {
	.apply = rds_apply, .timed_out = rds_timed_out, .arenas = true};

void feeds_want_routes(void *owner, struct weft_route_table *table,
		       const Envoy__Config__Core__V3__ConfigSource *cs, const char *name, bool on)
{
	struct waypoint *w = owner;
	struct feeds *f = w->feeds;
	struct weft_err err = {0};
	struct rt_feed *t;

	if (!f)
		return;
	HASH_FIND_PTR(f->rts, &table, t);
	if (!on) {
		if (t) {
			HASH_DEL(f->rts, t);
			weft_xds_unwatch(t->watch);
			free(t);
		}
		return;
	}
	t = weft_xcalloc(1, sizeof(*t));
	t->f = f;
	t->table = table;
	t->local = feeds_local(cs);
	HASH_ADD_PTR(f->rts, table, t);
	t->watch = weft_xds_watch(w->sources, cs, &weft_xds_type_route, name, &rds_sink, t, &err);
	if (!t->watch)
		weft_log_err(WEFT_LOG_WARN, &err, "routes cannot be watched");
}

/* ---- listeners */
static void lds_apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		      size_t n_up, const char *const *removed, size_t n_removed)
{
	struct feeds *f = owner;
	size_t i;

	/* first what leaves: its address may be another's now */
	for (i = 0; i < n_removed; i++)
		listeners_remove(f->w->listeners, removed[i]);
	for (i = 0; i < n_up; i++) {
		struct weft_cfg c = cfg_of(f, &up[i], f->lds_local);

		if (checked(f, &c, "listener", &up[i]) ||
		    waypoint_resource_check(f->w, &c, up[i].msg, true)) {
			feeds_reject(r, "listener", &up[i], f->errs);
			continue;
		}
		if (listeners_set(f->w->listeners, &c, NULL, (const void *)up[i].msg,
				  weft_xds_take(&up[i]), up[i].version, true) < 0)
			feeds_reject(r, "listener", &up[i], f->errs);
	}
}

static void lds_done(void *owner)
{
	struct feeds *f = owner;

	f->lds_done = true;
	waypoint_look(f->w);
}

static const struct weft_xds_sink lds_sink = {
	.apply = lds_apply, .complete = lds_done, .timed_out = lds_done, .arenas = true};

bool feeds_ready(const struct feeds *f)
{
	return f->lds_done && f->cds_done;
}

bool feeds_clusters_ready(const struct feeds *f)
{
	return f->cds_done;
}

int feeds_start_clusters(struct waypoint *w, struct weft_err *reterr)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap__DynamicResources *d =
		w->boot.msg->dynamic_resources;
	struct feeds *f = w->feeds;

	f->cds_done = !d || !d->cds_config;
	if (!f->cds_done) {
		f->cds_local = feeds_local(d->cds_config);
		f->cds = weft_xds_watch(w->sources, d->cds_config, &weft_xds_type_cluster, NULL,
					&cds_sink, f, reterr);
		if (!f->cds)
			return -EINVAL;
	}
	return 0;
}

int feeds_start_listeners(struct waypoint *w, struct weft_err *reterr)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap__DynamicResources *d =
		w->boot.msg->dynamic_resources;
	struct feeds *f = w->feeds;

	f->lds_done = !d || !d->lds_config;
	if (!f->lds_done && !f->lds) {
		f->lds_local = feeds_local(d->lds_config);
		f->lds = weft_xds_watch(w->sources, d->lds_config, &weft_xds_type_listener, NULL,
					&lds_sink, f, reterr);
		if (!f->lds)
			return -EINVAL;
	}
	return 0;
}

struct feeds *feeds_new(struct waypoint *w)
{
	struct feeds *f = weft_xcalloc(1, sizeof(*f));

	f->w = w;
	f->errs = weft_xcalloc(1, sizeof(*f->errs));
	f->warns = weft_xcalloc(1, sizeof(*f->warns));
	return f;
}

void feeds_free(struct feeds *f)
{
	struct ep_feed *e, *en;
	struct rt_feed *t, *tn;

	if (!f)
		return;
	weft_xds_unwatch(f->lds);
	weft_xds_unwatch(f->cds);
	HASH_ITER (hh, f->eps, e, en) {
		HASH_DEL(f->eps, e);
		weft_xds_unwatch(e->watch);
		free(e);
	}
	HASH_ITER (hh, f->rts, t, tn) {
		HASH_DEL(f->rts, t);
		weft_xds_unwatch(t->watch);
		free(t);
	}
	free(f->errs);
	free(f->warns);
	free(f);
}

void feeds_stats(struct feeds *f)
{
	const struct weft_xds_sources *s = f->w->sources;
	uint64_t limited = weft_xds_rate_limited(s);

	if (f->lds)
		xds_stats_put("listener_manager.lds.", f->lds, &f->lds_stat);
	if (f->cds)
		xds_stats_put("cluster_manager.cds.", f->cds, &f->cds_stat);
	if (f->w->boot.msg->dynamic_resources && f->w->boot.msg->dynamic_resources->ads_config)
		weft_scope_global_set("control_plane.connected_state", WEFT_GAUGE,
				      weft_xds_ads_connected(s));
	weft_scope_global_add("control_plane.rate_limit_enforced", WEFT_COUNTER,
			      (int64_t)(limited - f->rate_limited));
	f->rate_limited = limited;
}
