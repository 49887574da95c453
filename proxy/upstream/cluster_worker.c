/* A worker's clusters: a table by name, fed by posts of the main thread, one a changed cluster. */
#include "proxy/core/arena.h"
#include "proxy/core/worker_end.h"
#include "proxy/upstream/cluster_int.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct od_host { /* a host that a request asked for by address */
	UT_hash_handle hh;
	struct weft_endpoint_entry entry;
	bool used; /* since the last sweep */
};
struct wc {
	struct weft_wcluster pub;
	UT_hash_handle hh; /* by name, while in the table */
	struct od_host *od;
	struct event *sweep;
};
struct weft_wclusters {
	struct wc *by_name;
};

static uint64_t hash_seed;
static pthread_once_t hash_once = PTHREAD_ONCE_INIT;
static void hash_init(void)
{
	while (!hash_seed)
		hash_seed = weft_rand64();
}

unsigned weft_cluster_hash(const void *p, size_t n)
{
	pthread_once(&hash_once, hash_init);
	return (unsigned)XXH3_64bits_withSeed(p, n, hash_seed);
}

void cluster_workers_init(struct weft_worker *w)
{
	if (w->clusters)
		return;
	w->clusters = weft_xcalloc(1, sizeof(*w->clusters));
	weft_worker_at_end(w, cluster_workers_done);
}

void weft_wcluster_ref(struct weft_wcluster *wc)
{
	wc->refs++;
}

static void od_drop(struct wc *wc, struct od_host *o)
{
	HASH_DEL(wc->od, o);
	weft_scope_add(wc->pub.cluster->scope, WEFT_CLUSTER_membership_total, -1);
	weft_scope_add(wc->pub.cluster->scope, WEFT_CLUSTER_membership_healthy, -1);
	weft_host_unref(o->entry.host);
	free(o);
}

void weft_wcluster_unref(struct weft_wcluster *pub)
{
	struct wc *wc = (struct wc *)pub;
	struct od_host *o, *next;

	if (!pub || --pub->refs)
		return;
	pub->refs = 1; /* what is closed below may hold it for a moment */
	if (wc->sweep)
		event_free(wc->sweep);
	weft_pools_free(pub->pools);
	HASH_ITER (hh, wc->od, o, next)
		od_drop(wc, o);
	weft_lb_memory_free(pub->memory);
	weft_balancer_unref(pub->balancer);
	weft_cluster_unref(pub->cluster);
	free(wc);
}

static struct wc *find(struct weft_worker *w, const char *name)
{
	struct wc *wc = NULL;

	if (w->clusters)
		HASH_FIND(hh, w->clusters->by_name, name, strlen(name), wc);
	return wc;
}

struct weft_wcluster *weft_wcluster_find(struct weft_worker *w, const char *name)
{
	struct wc *wc = find(w, name);

	if (!wc)
		return NULL;
	/* ten thousand clusters that nobody calls have no pools */
	if (!wc->pub.pools)
		wc->pub.pools = weft_pools_new(&wc->pub);
	return &wc->pub;
}

/* ---- updates */
static void drop(struct weft_worker *w, struct wc *wc)
{
	HASH_DEL(w->clusters->by_name, wc);
	if (wc->pub.pools)
		weft_pools_drain(wc->pub.pools);
	weft_wcluster_unref(&wc->pub);
}

static void add(struct weft_worker *w, const struct cluster_update *u)
{
	struct wc *wc = weft_xcalloc(1, sizeof(*wc));

	wc->pub.refs = 1;
	wc->pub.w = w;
	wc->pub.cluster = u->cluster;
	weft_cluster_ref(u->cluster);
	wc->pub.balancer = u->balancer;
	weft_balancer_ref(u->balancer);
	HASH_ADD_KEYPTR(hh, w->clusters->by_name, u->cluster->name, strlen(u->cluster->name), wc);
}

static void change(struct wc *wc, const struct cluster_update *u)
{
	struct weft_pools *p = wc->pub.pools;

	/* the pools may let go of the last lease, and with it of the table's entry */
	weft_wcluster_ref(&wc->pub);
	if (u->balancer) {
		weft_balancer_ref(u->balancer);
		weft_balancer_unref(wc->pub.balancer);
		wc->pub.balancer = u->balancer;
	}
	if (p && u->drain)
		weft_pools_drain(p);
	for (size_t i = 0; p && i < u->n_gone; i++)
		weft_pools_host_gone(p, u->gone[i]);
	if (p && u->failed)
		weft_pools_host_failed(p, u->failed, wc->pub.cluster->close_on_health_failure);
	weft_wcluster_unref(&wc->pub);
}

static void update_free(struct cluster_update *u)
{
	for (size_t i = 0; i < u->n_gone; i++)
		weft_host_unref(u->gone[i]);
	free(u->gone);
	weft_host_unref(u->failed);
	weft_balancer_unref(u->balancer);
	weft_cluster_unref(u->cluster);
	free(u->name);
	free(u);
}

static void on_update(struct weft_worker *w, void *arg)
{
	struct cluster_update *u = arg;
	struct wc *wc;

	if (w->clusters) { /* else the manager has gone meanwhile */
		wc = find(w, u->cluster ? u->cluster->name : u->name);
		if (wc && wc->pub.cluster == u->cluster) {
			change(wc, u);
		} else if (!u->cluster || u->balancer) {
			if (wc)
				drop(w, wc);
			if (u->cluster)
				add(w, u);
		}
	}
	update_free(u);
}

void cluster_update_send(struct weft_worker *w, const struct cluster_update *u)
{
	struct cluster_update *mine = weft_xcalloc(1, sizeof(*mine));

	*mine = *u;
	mine->name = u->name ? weft_xstrdup(u->name) : NULL;
	if (mine->cluster)
		weft_cluster_ref(mine->cluster);
	if (mine->balancer)
		weft_balancer_ref(mine->balancer);
	if (mine->failed)
		weft_host_ref(mine->failed);
	mine->gone = NULL;
	if (u->n_gone)
		mine->gone = weft_xcalloc(u->n_gone, sizeof(struct weft_host *));
	for (size_t i = 0; i < u->n_gone; i++) {
		mine->gone[i] = u->gone[i];
		weft_host_ref(u->gone[i]);
	}
	weft_worker_post(w, on_update, mine);
}

void cluster_workers_done(struct weft_worker *w)
{
	struct wc *wc, *next;

	if (!w->clusters)
		return;
	HASH_ITER (hh, w->clusters->by_name, wc, next)
		drop(w, wc);
	free(w->clusters);
	w->clusters = NULL;
}

/* ---- original destinations */
static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct wc *wc = arg;
	struct od_host *o, *next;

	weft_wcluster_ref(&wc->pub);
	HASH_ITER (hh, wc->od, o, next) {
		if (o->used || atomic_load(&o->entry.host->cx_active)) {
			o->used = false;
			continue;
		}
		if (wc->pub.pools)
			weft_pools_host_gone(wc->pub.pools, o->entry.host);
		od_drop(wc, o);
	}
	weft_wcluster_unref(&wc->pub);
}

static void sweep_start(struct wc *wc)
{
	unsigned ms = wc->pub.cluster->priv->cleanup_ms;
	const struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	if (wc->sweep)
		return;
	wc->sweep = event_new(wc->pub.w->base, -1, EV_PERSIST, on_sweep, wc);
	if (!wc->sweep || event_add(wc->sweep, &tv))
		abort();
}

/* Where the request wants to go; family 0: nowhere that can be said. */
static struct weft_sockaddr od_address(const struct wc *wc, const struct weft_lb_ctx *ctx)
{
	const struct weft_original_dst_conf *k = wc->pub.cluster->priv->original_dst;
	struct weft_sockaddr a = {0};

	if (k->header && ctx->original_dst) {
		if (weft_sockaddr_parse(ctx->original_dst, &a)) {
			weft_scope_add(wc->pub.cluster->scope,
				       WEFT_CLUSTER_original_dst_host_invalid, 1);
			return (struct weft_sockaddr){0};
		}
	} else if (ctx->downstream_local) {
		a = *ctx->downstream_local;
	}
	if (a.ip.family && k->port)
		a.port = k->port;
	return a;
}

static const struct weft_endpoint_entry *od_pick(struct wc *wc, const struct weft_lb_ctx *ctx)
{
	const struct weft_cluster *c = wc->pub.cluster;
	struct weft_host_conf conf = {.addr = od_address(wc, ctx)};
	char text[WEFT_SOCKADDR_TEXT];
	struct od_host *o;

	if (!conf.addr.ip.family || !conf.addr.port)
		return NULL;
	weft_sockaddr_text(&conf.addr, text, sizeof(text));
	HASH_FIND(hh, wc->od, text, strlen(text), o);
	if (!o) {
		if (HASH_COUNT(wc->od) >= ORIGINAL_DST_MAX)
			return NULL;
		o = weft_xcalloc(1, sizeof(*o));
		o->entry.host = weft_host_new(&conf);
		o->entry.weight = 1;
		if (c->outlier)
			weft_outlier_host_init(o->entry.host);
		HASH_ADD_KEYPTR(hh, wc->od, o->entry.host->text, strlen(o->entry.host->text), o);
		weft_scope_add(c->scope, WEFT_CLUSTER_membership_total, 1);
		weft_scope_add(c->scope, WEFT_CLUSTER_membership_healthy, 1);
		sweep_start(wc);
	}
	o->used = true;
	return &o->entry;
}

struct weft_host *weft_wcluster_pick(struct weft_wcluster *pub, struct weft_lb_ctx *ctx,
				     const struct weft_endpoint_entry **ret_entry,
				     const char **ret_why)
{
	const struct weft_endpoint_entry *e;
	const char *drop_why = NULL;

	if (!pub->pools)
		pub->pools = weft_pools_new(pub);
	if (!pub->memory)
		pub->memory = weft_lb_memory_new();
	if (pub->cluster->type == WEFT_CLUSTER_ORIGINAL_DST)
		e = od_pick((struct wc *)pub, ctx);
	else
		e = weft_balancer_pick(pub->balancer, pub->memory, ctx, &drop_why);
	if (!e) {
		weft_scope_add(pub->cluster->scope,
			       drop_why ? WEFT_CLUSTER_upstream_rq_drop_overload
					: WEFT_CLUSTER_upstream_cx_none_healthy,
			       1);
		*ret_why = drop_why ? "drop_overload" : "no_healthy_upstream";
		return NULL;
	}
	if (ret_entry)
		*ret_entry = e;
	weft_host_ref(e->host);
	return e->host;
}
