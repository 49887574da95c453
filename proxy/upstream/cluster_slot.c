/* One configuration of a cluster on the main thread: what it waits for, its hosts, what goes to the
 * workers. */
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster_int.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct weft_clusters *slot_manager(const struct slot *s)
{
	return s->cluster->priv->manager;
}

struct slot *slot_new(struct weft_clusters *m, struct managed *of, struct weft_cluster *c,
		      struct weft_hosts *hosts, const char *version)
{
	struct slot *s = weft_xcalloc(1, sizeof(*s));

	c->priv->manager = m;
	s->of = of;
	s->cluster = c;
	s->hosts = hosts;
	s->version = version && *version ? weft_xstrdup(version) : NULL;
	s->updated_s = (uint64_t)time(NULL);
	return s;
}

/* ---- what goes to the workers */
static struct weft_lb_local local_of(const struct weft_clusters *m, struct weft_cluster **ret)
{
	struct weft_lb_local l = {.at = m->conf.local};
	struct managed *of = NULL;

	if (m->conf.local_cluster)
		HASH_FIND(hh, m->all, m->conf.local_cluster, strlen(m->conf.local_cluster), of);
	if (of && of->active)
		l.hosts = of->active->hosts;
	*ret = of && of->active ? of->active->cluster : NULL;
	return l;
}

static void gauges(const struct slot *s)
{
	struct weft_scope *scope = s->cluster->scope;
	int64_t healthy = 0, degraded = 0, excluded = 0;
	uint32_t weight = 0;

	if (s->cluster->type == WEFT_CLUSTER_ORIGINAL_DST)
		return; /* the workers count theirs */
	for (size_t i = 0; i < s->hosts->n; i++) {
		const struct weft_host *h = s->hosts->v[i].host;

		healthy += weft_host_healthy(h);
		degraded += weft_host_degraded(h);
		excluded += (atomic_load(&h->flags) & WEFT_HOST_EXCLUDED_IMMEDIATE_HC) ||
			    (s->cluster->priv->ignore_new_hosts_until_first_hc &&
			     (atomic_load(&h->flags) & WEFT_HOST_PENDING_ACTIVE_HC));
		if (s->hosts->v[i].weight > weight)
			weight = s->hosts->v[i].weight;
	}
	weft_scope_set(scope, WEFT_CLUSTER_membership_total, (int64_t)s->hosts->n);
	weft_scope_set(scope, WEFT_CLUSTER_membership_healthy, healthy);
	weft_scope_set(scope, WEFT_CLUSTER_membership_degraded, degraded);
	weft_scope_set(scope, WEFT_CLUSTER_membership_excluded, excluded);
	weft_scope_set(scope, WEFT_CLUSTER_max_host_weight, weight);
}

static int rebuild(struct slot *s)
{
	struct weft_cluster *local_cluster;
	const struct weft_lb_local local = local_of(slot_manager(s), &local_cluster);
	struct weft_balancer *b;

	/* the local cluster's own picks are not zone-aware: it would be compared with itself */
	b = weft_balancer_new(s->cluster, s->hosts,
			      local_cluster && local_cluster != s->cluster ? &local : NULL, NULL);
	if (!b)
		return -1; /* a table too large for memory: what was there serves on */
	weft_balancer_unref(s->balancer);
	s->balancer = b;
	return 0;
}

static void tell(const struct slot *s, const struct cluster_update *u)
{
	const struct weft_clusters *m = slot_manager(s);

	for (size_t i = 0; i < m->conf.n_workers; i++)
		cluster_update_send(m->conf.workers[i], u);
}

static void undirty(struct slot *s)
{
	if (s->dirty)
		TAILQ_REMOVE(&slot_manager(s)->dirty, s, dirty_link);
	s->dirty = false;
}

/* Zone shares of the others are those of the local cluster's hosts. */
static void others(const struct slot *s)
{
	const struct weft_clusters *m = slot_manager(s);

	if (!m->conf.local_cluster || strcmp(m->conf.local_cluster, s->cluster->name) != 0)
		return;
	for (struct managed *k = m->all; k; k = k->hh.next)
		if (k->active && k->active != s && k->active->hosts->n > 1)
			slot_push(k->active);
}

static void push(struct slot *s, struct cluster_update *u)
{
	undirty(s);
	/* one that warms shares its name's numbers with the one that serves */
	if (!s->active)
		return;
	gauges(s);
	if (rebuild(s))
		return;
	s->pushed_ns = weft_now_ns();
	u->cluster = s->cluster;
	u->balancer = s->balancer;
	tell(s, u);
	others(s);
}

void slot_push(struct slot *s)
{
	push(s, &(struct cluster_update){0});
}

/* ---- changes */
static bool removed_one_failed(const struct weft_hosts *h)
{
	for (size_t i = 0; i < h->n; i++) {
		uint32_t f = atomic_load(&h->v[i].host->flags);

		if ((f & WEFT_HOST_PENDING_REMOVAL) && (f & WEFT_HOST_FAILED_ACTIVE_HC))
			return true;
	}
	return false;
}

static bool may_wait(const struct slot *s)
{
	unsigned ms = s->cluster->priv->merge_window_ms;

	return ms && s->pushed_ns && s->active &&
	       weft_now_ns() - s->pushed_ns < (uint64_t)ms * 1000000;
}

static void wait_window(struct slot *s)
{
	struct weft_clusters *m = slot_manager(s);
	const struct timeval soon = {0, 50000};

	if (s->dirty)
		return;
	s->dirty = true;
	TAILQ_INSERT_TAIL(&m->dirty, s, dirty_link);
	if (!event_pending(m->tick, EV_TIMEOUT, NULL))
		event_add(m->tick, &soon);
}

/* Takes the new set; who left is told to the workers with it. */
static void set_hosts(struct slot *s, struct weft_hosts *hosts, bool merge)
{
	struct weft_hosts *old = s->hosts;
	struct cluster_update u = {0};
	struct weft_host **added;
	size_t n_added = hosts_minus(hosts, old, &added);

	free(added);
	u.n_gone = hosts_minus(old, hosts, &u.gone);
	if (n_added || u.n_gone) {
		weft_scope_add(s->cluster->scope, WEFT_CLUSTER_membership_change, 1);
		u.drain = s->cluster->priv->close_on_host_set_change;
	}
	s->hosts = hosts;
	if (s->health)
		weft_health_hosts(s->health, hosts);
	if (s->outlier)
		weft_outlier_hosts(s->outlier, hosts);
	/* a logical host's connections outlive its address */
	merge = merge && !n_added && !u.n_gone;
	if (s->cluster->type == WEFT_CLUSTER_LOGICAL_DNS) {
		free(u.gone);
		u.gone = NULL;
		u.n_gone = 0;
	}
	if (merge && may_wait(s))
		wait_window(s);
	else
		push(s, &u);
	free(u.gone);
	weft_hosts_unref(old);
}

void slot_changed(struct slot *s, struct weft_hosts *hosts, bool merge)
{
	if (!hosts && removed_one_failed(s->hosts)) {
		hosts = hosts_without_removed(s->hosts);
		merge = false;
	}
	if (hosts)
		set_hosts(s, hosts, merge);
	else if (merge && may_wait(s))
		wait_window(s);
	else
		push(s, &(struct cluster_update){0});
}

/* ---- health */
static void on_health(void *owner, struct weft_host *h)
{
	struct slot *s = owner;
	struct cluster_update u = {.cluster = s->cluster, .failed = h};

	if (h && s->active && (atomic_load(&h->flags) & WEFT_HOST_FAILED_ACTIVE_HC))
		tell(s, &u);
	slot_changed(s, NULL, true);
}

static void on_passed(void *owner, struct weft_host *h)
{
	struct slot *s = owner;

	if (s->outlier)
		weft_outlier_checked(s->outlier, h);
}

static void on_first_health(void *owner)
{
	slot_ready(owner, WAIT_HEALTH);
}

static void on_outlier(void *owner, struct weft_host *h)
{
	struct slot *s = owner;
	struct cluster_update u = {.cluster = s->cluster, .failed = h};

	if (h && s->active && (atomic_load(&h->flags) & WEFT_HOST_FAILED_OUTLIER))
		tell(s, &u);
	slot_changed(s, NULL, true);
}

/* Checks begin when there is somebody to check. */
static void start_checks(struct slot *s)
{
	struct weft_clusters *m = slot_manager(s);

	if (s->cluster->outlier && !s->outlier) {
		s->outlier = weft_outlier_start(m->conf.base, s->cluster, on_outlier, s);
		weft_outlier_tell(s->outlier, m->conf.outlier_event, m->conf.owner);
		weft_outlier_hosts(s->outlier, s->hosts);
	}
	if (s->cluster->n_health && !s->health) {
		s->health =
			weft_health_start(m->conf.base, s->cluster, on_health, on_first_health, s);
		if (s->health) {
			weft_health_on_pass(s->health, on_passed);
			weft_health_hosts(s->health, s->hosts);
		}
	}
	if (!s->health || !s->hosts->n)
		slot_ready(s, WAIT_HEALTH);
}

/* ---- warming */
void slot_unready(struct slot *s, unsigned what)
{
	s->wait |= what;
}

void slot_ready(struct slot *s, unsigned what)
{
	bool hosts = (s->wait & what) & WAIT_HOSTS;

	if (!(s->wait & what) || s->retired)
		return;
	s->wait &= ~what;
	if (hosts && s->started) {
		start_checks(s); /* may be the last thing it waited for */
		return;
	}
	if (!s->wait && s->started && !s->active)
		managed_activate(s);
}

/* A secret that others wanted before does not come again. One that does not fit leaves it waiting
 * for a better one. */
static void known_secret(struct slot *s, const char *name)
{
	struct weft_clusters *m = slot_manager(s);
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *msg =
		m->conf.have_secret ? m->conf.have_secret(m->conf.owner, name) : NULL;
	struct weft_errs *errs;
	struct weft_cfg c = {0};

	if (!msg)
		return;
	c.errs = errs = weft_xcalloc(1, sizeof(*errs));
	c.arena = weft_arena_new(0);
	c.file = true;
	if (weft_transport_secret(s->cluster->transport, &c, name, msg) < 0)
		weft_log_err(WEFT_LOG_WARN, &errs->v[0], s->cluster->name);
	weft_arena_free(c.arena);
	free(errs);
}

static void want_secrets(struct slot *s, bool on)
{
	struct weft_clusters *m = slot_manager(s);
	const Envoy__Config__Core__V3__ConfigSource *cs;
	const char *name;

	for (size_t i = 0; weft_transport_secret_at(s->cluster->transport, i, &cs, &name); i++) {
		if (on && !s->secrets) {
			s->secrets = true;
			LIST_INSERT_HEAD(&m->secret_slots, s, secret_link);
		}
		if (m->conf.want_secret)
			m->conf.want_secret(m->conf.owner, cs, name, on);
		if (on)
			known_secret(s, name);
	}
}

/* Everything it needs is asked for; then it waits, or is active at once. */
void slot_start(struct slot *s)
{
	const Google__Protobuf__BoolValue *wait = s->cluster->msg->wait_for_warm_on_init;
	bool at_once = wait && !wait->value && !s->of->active;

	s->wait = WAIT_HEALTH | WAIT_START;
	if (!weft_transport_ready(s->cluster->transport))
		s->wait |= WAIT_SECRETS;
	want_secrets(s, true);
	if (s->cluster->type == WEFT_CLUSTER_EDS)
		slot_eds_start(s);
	else if (s->cluster->type == WEFT_CLUSTER_STRICT_DNS ||
		 s->cluster->type == WEFT_CLUSTER_LOGICAL_DNS)
		slot_dns_start(s);
	if (weft_transport_ready(s->cluster->transport))
		s->wait &= ~(unsigned)WAIT_SECRETS;
	s->started = true;
	if (at_once)
		managed_activate(s);
	if (!(s->wait & WAIT_HOSTS))
		start_checks(s);
	slot_ready(s, WAIT_START);
}

void slot_free(struct slot *s)
{
	if (!s)
		return;
	undirty(s);
	weft_health_stop(s->health);
	weft_outlier_stop(s->outlier);
	slot_dns_stop(s);
	slot_eds_stop(s);
	if (s->stale)
		event_free(s->stale);
	want_secrets(s, false);
	if (s->secrets)
		LIST_REMOVE(s, secret_link);
	weft_balancer_unref(s->balancer);
	weft_hosts_unref(s->hosts);
	weft_cluster_unref(s->cluster);
	free(s->version);
	free(s->eds_version);
	free(s);
}
