/* Who manages clusters on the main thread. */
#include "proxy/upstream/cluster.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <xxhash.h>

typedef Envoy__Config__Cluster__V3__Cluster Cluster;

static struct managed *find(const struct weft_clusters *m, const char *name)
{
	struct managed *k;

	HASH_FIND(hh, m->all, name, strlen(name), k);
	return k;
}

/* ---- slots come and go */
static void gauges(const struct weft_clusters *m)
{
	weft_scope_global_set("cluster_manager.active_clusters", WEFT_GAUGE,
			      (int64_t)(HASH_COUNT(m->all) - m->n_warming + m->n_replacing));
	weft_scope_global_set("cluster_manager.warming_clusters", WEFT_GAUGE,
			      (int64_t)m->n_warming);
}

static void on_reap(evutil_socket_t fd, short what, void *arg)
{
	struct weft_clusters *m = arg;
	struct slot *s;

	while ((s = LIST_FIRST(&m->grave))) {
		LIST_REMOVE(s, grave_link);
		slot_free(s);
	}
}

/* Whoever walks over slots may be further up the stack: it goes when the loop is back. */
static void retire(struct weft_clusters *m, struct slot *s)
{
	if (!s)
		return;
	s->active = false;
	s->retired = true;
	LIST_INSERT_HEAD(&m->grave, s, grave_link);
	event_active(m->reap, EV_TIMEOUT, 1);
}

void managed_activate(struct slot *s)
{
	struct weft_clusters *m = slot_manager(s);
	struct managed *k = s->of;

	assert(k->warming == s);
	k->warming = NULL;
	m->n_warming--;
	m->n_replacing -= k->active != NULL;
	weft_scope_set(s->cluster->scope, WEFT_CLUSTER_warming_state, 0);
	retire(m, k->active);
	k->active = s;
	s->active = true;
	slot_push(s);
	gauges(m);
	if (m->conf.live)
		m->conf.live(m->conf.owner, s->cluster->name, true);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct weft_clusters *m = arg;
	const struct timeval soon = {0, 50000};
	uint64_t now = weft_now_ns();
	struct slot *s, *next;

	for (s = TAILQ_FIRST(&m->dirty); s; s = next) {
		next = TAILQ_NEXT(s, dirty_link);
		if (s->retired ||
		    now - s->pushed_ns >= (uint64_t)s->cluster->priv->merge_window_ms * 1000000)
			slot_push(s);
	}
	if (!TAILQ_EMPTY(&m->dirty))
		event_add(m->tick, &soon);
}

/* ---- outlier detection: what workers saw */
void weft_clusters_eject_look(struct weft_cluster *cl, struct weft_host *h)
{
	struct weft_clusters *m = cl->priv->manager;
	struct look *l = weft_xcalloc(1, sizeof(*l)), *head;
	uint64_t one = 1;

	l->cluster = cl;
	l->host = h;
	weft_cluster_ref(cl);
	weft_host_ref(h);
	head = atomic_load_explicit(&m->looks, memory_order_relaxed);
	do {
		l->next = head;
	} while (!atomic_compare_exchange_weak(&m->looks, &head, l));
	while (!head && write(m->look_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void looks_done(struct weft_clusters *m, bool decide)
{
	struct look *l = atomic_exchange(&m->looks, NULL), *next;

	for (; l; l = next) {
		struct managed *k = find(m, l->cluster->name);

		next = l->next;
		if (decide && k && k->active && k->active->cluster == l->cluster) {
			if (k->active->outlier)
				weft_outlier_look(k->active->outlier, l->host);
			if (k->active->health)
				weft_health_look(k->active->health, l->host);
		}
		weft_host_unref(l->host);
		weft_cluster_unref(l->cluster);
		free(l);
	}
}

static void on_looks(evutil_socket_t fd, short what, void *arg)
{
	uint64_t n;

	/* -EAGAIN only: the count was taken already */
	if (read(fd, &n, sizeof(n)) < 0)
		assert(errno == EAGAIN || errno == EINTR);
	looks_done(arg, true);
}

/* ---- the manager */
struct weft_clusters *weft_clusters_new(const struct weft_clusters_conf *conf)
{
	struct weft_clusters *m = weft_xcalloc(1, sizeof(*m));

	m->conf = *conf;
	m->conf.local.region = conf->local.region ? conf->local.region : "";
	m->conf.local.zone = conf->local.zone ? conf->local.zone : "";
	m->conf.local.sub_zone = conf->local.sub_zone ? conf->local.sub_zone : "";
	TAILQ_INIT(&m->dirty);
	LIST_INIT(&m->secret_slots);
	LIST_INIT(&m->grave);
	m->look_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	m->tick = event_new(conf->base, -1, 0, on_tick, m);
	m->reap = event_new(conf->base, -1, 0, on_reap, m);
	if (m->look_fd >= 0)
		m->look_event =
			event_new(conf->base, m->look_fd, EV_READ | EV_PERSIST, on_looks, m);
	if (!m->tick || !m->reap || !m->look_event || event_add(m->look_event, NULL))
		abort();
	for (size_t i = 0; i < conf->n_workers; i++)
		cluster_workers_init(conf->workers[i]);
	return m;
}

int weft_clusters_bind(struct weft_clusters *m, struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__BindConfig *msg)
{
	int had = c->errs->n + c->errs->dropped;

	cluster_bind(c, at, msg, &m->bind);
	return c->errs->n + c->errs->dropped > had ? -EINVAL : 0;
}

static void managed_free(struct weft_clusters *m, struct managed *k)
{
	m->n_warming -= k->warming != NULL;
	m->n_replacing -= k->warming && k->active;
	retire(m, k->warming);
	retire(m, k->active);
	HASH_DEL(m->all, k);
	free(k);
	gauges(m);
}

void weft_clusters_free(struct weft_clusters *m)
{
	struct managed *k, *next;

	if (!m)
		return;
	HASH_ITER (hh, m->all, k, next)
		managed_free(m, k); /* NOLINT(clang-analyzer-*): next was read before */
	for (size_t i = 0; i < m->conf.n_workers; i++)
		cluster_workers_done(m->conf.workers[i]);
	on_reap(-1, 0, m);
	event_free(m->look_event);
	looks_done(m, false);
	close(m->look_fd);
	event_free(m->tick);
	event_free(m->reap);
	free(m);
}

/* The first hosts: an assignment that stands in the message; else none so far. */
static int first_hosts(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		       struct weft_hosts **ret)
{
	const struct weft_path load = {at, "load_assignment", -1};
	const struct hosts_want want = {.cluster = cl};

	return hosts_make(c, &load, &want, cl->msg->load_assignment, ret);
}

static struct managed *managed_new(struct weft_clusters *m, const char *name)
{
	struct managed *k = weft_xcalloc(1, sizeof(*k) + strlen(name) + 1);

	memcpy(k->name, name, strlen(name));
	HASH_ADD_KEYPTR(hh, m->all, k->name, strlen(name), k);
	return k;
}

/* Takes cl and hosts. */
static void put(struct weft_clusters *m, struct weft_cluster *cl, struct weft_hosts *hosts,
		struct managed *k, const char *version)
{
	if (k->warming) {
		m->n_warming--;
		m->n_replacing -= k->active != NULL;
		retire(m, k->warming);
	}
	k->warming = slot_new(m, k, cl, hosts, version);
	m->n_warming++;
	m->n_replacing += k->active != NULL;
	gauges(m);
	weft_scope_set(cl->scope, WEFT_CLUSTER_warming_state, 1);
	slot_start(k->warming);
}

int weft_clusters_set(struct weft_clusters *m, struct weft_cfg *c, const struct weft_path *at,
		      const Cluster *msg, const char *version, bool from_xds)
{
	const struct weft_path name = {at, "name", -1};
	struct managed *k = find(m, msg->name ? msg->name : "");
	struct weft_hosts *hosts = NULL;
	size_t n = protobuf_c_message_get_packed_size(&msg->base);
	uint8_t *packed;
	struct weft_cluster *cl = NULL;
	uint64_t digest;

	if (!msg->name || !*msg->name)
		return weft_cfg_fail(c, &name, "is required");
	if (k && from_xds && !k->from_xds)
		return weft_cfg_fail(c, &name, "\"%.100s\" is a cluster of the bootstrap",
				     msg->name);
	packed = weft_xcalloc(1, n + 1);
	protobuf_c_message_pack(&msg->base, packed);
	digest = XXH3_64bits(packed, n);
	if (k && k->digest == digest) {
		free(packed);
		return 0;
	}
	cl = cluster_make(c, at, msg, packed, n);
	free(packed);
	if (!cl)
		return -EINVAL;
	if (!cl->msg->upstream_bind_config)
		cl->priv->bind = m->bind;
	if (first_hosts(c, at, cl, &hosts)) {
		weft_cluster_unref(cl);
		return -EINVAL;
	}
	weft_scope_global_add(k ? "cluster_manager.cluster_modified"
				: "cluster_manager.cluster_added",
			      WEFT_COUNTER, 1);
	if (!k)
		k = managed_new(m, msg->name);
	k->digest = digest;
	k->from_xds = from_xds;
	put(m, cl, hosts, k, version);
	return 1;
}

int weft_clusters_remove(struct weft_clusters *m, const char *name)
{
	struct managed *k = find(m, name);
	struct cluster_update u = {.name = (char *)name};
	bool was_live = k && k->active;

	if (!k)
		return -ENOENT;
	if (!k->from_xds)
		return -EPERM;
	for (size_t i = 0; i < m->conf.n_workers; i++)
		cluster_update_send(m->conf.workers[i], &u);
	weft_scope_global_add("cluster_manager.cluster_removed", WEFT_COUNTER, 1);
	/* name may be the cluster's own, which is retired: it lives until the loop is back */
	managed_free(m, k);
	if (was_live && m->conf.live)
		m->conf.live(m->conf.owner, name, false);
	return 0;
}

int weft_clusters_secret(struct weft_clusters *m, struct weft_cfg *c, const char *name,
			 const Envoy__Extensions__TransportSockets__Tls__V3__Secret *msg)
{
	struct slot *s, *next;
	int err = 0;

	for (s = LIST_FIRST(&m->secret_slots); s; s = next) {
		int one;

		next = LIST_NEXT(s, secret_link);
		if (s->retired)
			continue;
		one = weft_transport_secret(s->cluster->transport, c, name, msg);
		err = err ? err : one;
		if (weft_transport_ready(s->cluster->transport))
			slot_ready(s, WAIT_SECRETS);
	}
	return err;
}

struct weft_cluster *weft_clusters_find(struct weft_clusters *m, const char *name)
{
	struct managed *k = find(m, name);

	return k && k->active ? k->active->cluster : NULL;
}

size_t weft_clusters_count(const struct weft_clusters *m, size_t *ret_warming)
{
	if (ret_warming)
		*ret_warming = m->n_warming;
	return HASH_COUNT(m->all);
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct managed *const *)a)->name, (*(struct managed *const *)b)->name);
}

static void show(const struct managed *k, const struct slot *s,
		 void (*fn)(void *ctx, const struct weft_cluster_view *v), void *ctx)
{
	const struct weft_cluster_view v = {
		.cluster = s->cluster,
		.hosts = s->hosts,
		.version = s->version ? s->version : "",
		.eds_version = s->eds_version ? s->eds_version : "",
		.updated_s = s->updated_s,
		.warming = !s->active,
		.from_xds = k->from_xds,
	};

	fn(ctx, &v);
}

void weft_clusters_each(struct weft_clusters *m,
			void (*fn)(void *ctx, const struct weft_cluster_view *v), void *ctx)
{
	size_t n = 0;
	struct managed **v = weft_xcalloc(HASH_COUNT(m->all) + 1, sizeof(*v));

	for (struct managed *k = m->all; k; k = k->hh.next)
		v[n++] = k;
	qsort(v, n, sizeof(*v), by_name);
	for (size_t i = 0; i < n; i++) {
		if (v[i]->active)
			show(v[i], v[i]->active, fn, ctx);
		if (v[i]->warming)
			show(v[i], v[i]->warming, fn, ctx);
	}
	free(v);
}
