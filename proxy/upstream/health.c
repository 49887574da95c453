/* The machine behind health checks: when a host is asked, and what its answers make of it. */
#include "proxy/core/worker.h"
#include "proxy/upstream/health_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum transition { UNCHANGED, PENDING, CHANGED };

static void count(const struct check *c, unsigned item, int64_t n)
{
	weft_scope_add(c->h->cl->scope, item, n);
}
#define COUNT(c, item, n) count(c, WEFT_CLUSTER_health_check_##item, n)

static bool has(const struct weft_host *h, uint32_t flag)
{
	return atomic_load(&h->flags) & flag;
}

/* The gauges follow the flags, which others may change as well. */
static void gauges(struct check *c, bool on)
{
	bool healthy = on && !has(c->host, WEFT_HOST_FAILED_ACTIVE_HC);
	bool degraded = on && has(c->host, WEFT_HOST_DEGRADED_ACTIVE_HC);

	if (healthy != c->counted)
		COUNT(c, healthy, healthy ? 1 : -1);
	if (degraded != c->counted_degraded)
		COUNT(c, degraded, degraded ? 1 : -1);
	c->counted = healthy;
	c->counted_degraded = degraded;
}

/* ---- connections */

void weft_check_close(struct check *c)
{
	struct weft_session *s = c->session;
	struct weft_io *io = c->io;

	c->x = NULL;
	c->session = NULL;
	c->io = NULL;
	weft_session_free(s);
	weft_io_free(io);
	weft_arena_free(c->arena);
	c->arena = NULL;
}

int weft_check_dial(struct check *c, const char *const *alpn, const struct weft_io_ops *ops)
{
	struct weft_transport *t = c->h->cl->transport;
	const struct weft_hc_conf *conf = c->h->conf;
	struct weft_tdial_want want = {
		.socket = conf->criteria ? weft_transport_pick_criteria(t, conf->criteria)
					 : weft_transport_pick(t, c->metadata),
		.host = c->host,
		.to = c->host->hc_addr.ip.family ? &c->host->hc_addr : NULL,
		.alpn = alpn,
		.alpn_first = conf->alpn};
	struct weft_tdial d;
	int r = weft_transport_prepare(t, &want, &d);

	if (r < 0)
		return r;
	d.dial.connect_ms = conf->timeout_ms;
	d.tls.handshake_ms = conf->timeout_ms;
	r = weft_io_dial(c->h->base, &d.dial, ops, c, &c->io);
	weft_tdial_done(&d);
	return r;
}

/* ---- time */

static void set(struct event *ev, uint64_t ms)
{
	struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

	evtimer_add(ev, &tv);
}

static uint64_t next_ms(const struct check *c, bool healthy, enum transition t)
{
	const struct weft_hc_conf *k = c->h->conf;
	uint64_t ms, pct;

	if (weft_scope_value(c->h->cl->scope, WEFT_CLUSTER_upstream_cx_total))
		ms = healthy ? (t == PENDING ? k->healthy_edge_ms : k->interval_ms)
			     : (t == PENDING ? k->unhealthy_edge_ms : k->unhealthy_ms);
	else
		ms = healthy && t != PENDING ? k->no_traffic_healthy_ms : k->no_traffic_ms;
	pct = ms * k->jitter_pct / 100;
	if (pct)
		ms += weft_rand64() % pct;
	if (k->jitter_ms)
		ms += weft_rand64() % k->jitter_ms;
	return ms;
}

static void on_interval(evutil_socket_t fd, short what, void *arg)
{
	struct check *c = arg;

	COUNT(c, attempt, 1);
	c->active = true;
	set(&c->timeout, c->h->conf->timeout_ms);
	if (c->h->conf->kind == HC_TCP)
		weft_check_tcp(c);
	else
		weft_check_http(c);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct check *c = arg;

	weft_check_close(c);
	weft_check_failed(c, HC_TIMEOUT);
}

/* ---- results */

static void health_free(struct weft_health *h);

static void check_free(struct check *c)
{
	if (c->body)
		evbuffer_free(c->body);
	weft_host_unref(c->host);
	free(c);
}

static void bury(struct weft_health *h)
{
	struct check *c;

	while ((c = TAILQ_FIRST(&h->dead))) {
		TAILQ_REMOVE(&h->dead, c, link);
		check_free(c);
	}
}

static void first_look(struct weft_health *h)
{
	if (h->first_due && !h->first_told && !h->unchecked && !h->stopped) {
		h->first_told = true;
		if (h->first)
			h->first(h->owner);
	}
}

static void on_soon(evutil_socket_t fd, short what, void *arg)
{
	struct weft_health *h = arg;

	bury(h);
	h->busy++;
	first_look(h);
	if (!--h->busy && h->stopped)
		health_free(h);
}

static enum transition clear_pending(struct check *c, enum transition t)
{
	if (!has(c->host, WEFT_HOST_PENDING_ACTIVE_HC))
		return t;
	atomic_fetch_and(&c->host->flags, ~(uint32_t)WEFT_HOST_PENDING_ACTIVE_HC);
	return CHANGED;
}

/* Last of a result: whoever is told may end all checks. */
static void settle(struct check *c, bool healthy, enum transition t)
{
	struct weft_health *h = c->h;
	struct weft_host *host = c->host;
	bool was_first = c->first;

	c->first = false;
	c->active = false;
	evtimer_del(&c->timeout);
	gauges(c, true);
	set(&c->interval, next_ms(c, healthy, t));
	h->busy++;
	if (was_first && h->unchecked)
		h->unchecked--;
	if (healthy && h->passed && has(host, WEFT_HOST_FAILED_OUTLIER) &&
	    !has(host, WEFT_HOST_FAILED_ACTIVE_HC))
		h->passed(h->owner, host);
	if (t == CHANGED && h->changed)
		h->changed(h->owner, host);
	first_look(h);
	if (!--h->busy && h->stopped)
		health_free(h);
}

void weft_health_on_pass(struct weft_health *h, void (*passed)(void *owner, struct weft_host *h))
{
	h->passed = passed;
}

void weft_check_succeeded(struct check *c, bool degraded)
{
	struct weft_host *host = c->host;
	enum transition t = UNCHANGED;

	c->unhealthy = 0;
	if (has(host, WEFT_HOST_FAILED_ACTIVE_HC)) {
		/* The very first answer counts at once. */
		if (c->first || ++c->healthy >= c->h->conf->healthy_threshold) {
			atomic_store(&host->made_ns, weft_now_ns());
			atomic_fetch_and(&host->flags,
					 ~(uint32_t)(WEFT_HOST_FAILED_ACTIVE_HC |
						     WEFT_HOST_EXCLUDED_IMMEDIATE_HC));
			t = CHANGED;
			weft_check_tell(c, HC_EVENT_ADD, HC_ACTIVE);
		} else {
			t = PENDING;
		}
	}
	t = clear_pending(c, t);
	if (degraded != has(host, WEFT_HOST_DEGRADED_ACTIVE_HC)) {
		atomic_fetch_xor(&host->flags, WEFT_HOST_DEGRADED_ACTIVE_HC);
		t = CHANGED;
		weft_check_tell(c, degraded ? HC_EVENT_DEGRADED : HC_EVENT_RESTORED, HC_ACTIVE);
	}
	if (c->h->conf->log_successes)
		weft_check_tell(c, HC_EVENT_SUCCESS, HC_ACTIVE);
	COUNT(c, success, 1);
	settle(c, true, t);
}

static void tell_failure(struct check *c, enum hc_failure why)
{
	if (c->first || c->h->conf->log_failures)
		weft_check_tell(c, HC_EVENT_FAILURE, why);
}

void weft_check_failed(struct check *c, enum hc_failure why)
{
	struct weft_host *host = c->host;
	enum transition t = UNCHANGED;

	c->healthy = 0;
	if (!has(host, WEFT_HOST_FAILED_ACTIVE_HC)) {
		/* A bad answer counts at once; silence, and what may pass, by the threshold. */
		if (why == HC_ACTIVE || ++c->unhealthy >= c->h->conf->unhealthy_threshold) {
			atomic_fetch_or(&host->flags, WEFT_HOST_FAILED_ACTIVE_HC);
			t = CHANGED;
			weft_check_tell(c, HC_EVENT_EJECT, why);
		} else {
			t = PENDING;
		}
	}
	t = clear_pending(c, t);
	tell_failure(c, why);
	COUNT(c, failure, 1);
	if (why >= HC_NETWORK)
		COUNT(c, network_failure, 1);
	settle(c, false, t);
}

void weft_health_fail_now(struct weft_cluster *cl, struct weft_host *h)
{
	uint32_t was;

	if (!cl->n_health || h->hc_disabled)
		return;
	was = atomic_fetch_or(&h->flags,
			      WEFT_HOST_FAILED_ACTIVE_HC | WEFT_HOST_EXCLUDED_IMMEDIATE_HC);
	if (was & WEFT_HOST_FAILED_ACTIVE_HC)
		return;
	weft_scope_add(cl->scope, WEFT_CLUSTER_health_check_passive_failure, 1);
	weft_scope_add(cl->scope, WEFT_CLUSTER_health_check_failure, 1);
	if (cl->priv->manager)
		weft_clusters_eject_look(cl, h);
}

void weft_health_look(struct weft_health *h, struct weft_host *host)
{
	struct check *c;

	TAILQ_FOREACH (c, &h->checks, link)
		if (c->host == host && c->counted && has(host, WEFT_HOST_EXCLUDED_IMMEDIATE_HC)) {
			gauges(c, true); /* so that it is told once */
			weft_check_tell(c, HC_EVENT_EJECT, HC_PASSIVE);
			tell_failure(c, HC_PASSIVE);
			h->changed(h->owner, host);
			return;
		}
}

/* ---- hosts */

static void check_add(struct weft_health *h, struct weft_host *host)
{
	struct check *c = weft_xcalloc(1, sizeof(*c));
	unsigned jitter = h->conf->initial_jitter_ms;

	c->h = h;
	c->host = host;
	weft_host_ref(host);
	c->first = has(host, WEFT_HOST_PENDING_ACTIVE_HC);
	c->seen = true;
	evtimer_assign(&c->interval, h->base, on_interval, c);
	evtimer_assign(&c->timeout, h->base, on_timeout, c);
	TAILQ_INSERT_TAIL(&h->checks, c, link);
	gauges(c, true);
	set(&c->interval, jitter ? weft_rand64() % jitter : 0);
}

static void check_end(struct check *c)
{
	struct weft_health *h = c->h;

	c->dead = true;
	event_del(&c->interval);
	event_del(&c->timeout);
	weft_check_close(c);
	gauges(c, false);
	if (c->first && h->unchecked)
		h->unchecked--;
	TAILQ_REMOVE(&h->checks, c, link);
	TAILQ_INSERT_TAIL(&h->dead, c, link);
	event_active(&h->soon, EV_TIMEOUT, 0);
}

static int by_host(const void *a, const void *b)
{
	const struct check *x = *(struct check *const *)a, *y = *(struct check *const *)b;

	return x->host < y->host ? -1 : x->host > y->host;
}

static struct check **sorted(struct weft_health *h, size_t *ret_n)
{
	struct check **v, *c;
	size_t n = 0;

	TAILQ_FOREACH (c, &h->checks, link)
		n++;
	v = weft_xcalloc(n + 1, sizeof(*v));
	*ret_n = n;
	n = 0;
	TAILQ_FOREACH (c, &h->checks, link) {
		c->seen = false;
		v[n++] = c;
	}
	qsort(v, n, sizeof(*v), by_host);
	return v;
}

void weft_health_hosts(struct weft_health *h, struct weft_hosts *hosts)
{
	struct weft_hosts *old = h->hosts;
	struct check **v, *c, *next;
	size_t n;

	weft_hosts_ref(hosts);
	h->hosts = hosts;
	v = sorted(h, &n);
	for (size_t i = 0; i < hosts->n; i++) {
		struct check key = {.host = hosts->v[i].host}, *k = &key, **found;

		if (key.host->hc_disabled)
			continue;
		found = n ? bsearch(&k, v, n, sizeof(*v), by_host) : NULL;
		if (!found)
			check_add(h, key.host);
		c = found ? *found : TAILQ_LAST(&h->checks, check_list);
		c->seen = true;
		c->metadata = hosts->v[i].metadata;
		c->locality =
			hosts->n_localities ? &hosts->localities[hosts->v[i].locality].id : NULL;
	}
	free(v);
	for (c = TAILQ_FIRST(&h->checks); c; c = next) {
		next = TAILQ_NEXT(c, link);
		if (!c->seen)
			check_end(c);
	}
	if (!h->first_due) {
		h->first_due = true;
		TAILQ_FOREACH (c, &h->checks, link)
			h->unchecked += c->first;
	}
	if (!h->unchecked && !h->first_told)
		event_active(&h->soon, EV_TIMEOUT, 0);
	if (old)
		weft_hosts_unref(old);
}

struct weft_health *weft_health_start(struct event_base *base, struct weft_cluster *cl,
				      void (*changed)(void *owner, struct weft_host *h),
				      void (*first)(void *owner), void *owner)
{
	struct weft_health *h = weft_xcalloc(1, sizeof(*h));

	h->base = base;
	h->cl = cl;
	weft_cluster_ref(cl);
	h->conf = cl->health;
	h->changed = changed;
	h->first = first;
	h->owner = owner;
	weft_hc_files_open(h);
	TAILQ_INIT(&h->checks);
	TAILQ_INIT(&h->dead);
	event_assign(&h->soon, base, -1, 0, on_soon, h);
	return h;
}

static void health_free(struct weft_health *h)
{
	event_del(&h->soon);
	bury(h);
	if (h->hosts)
		weft_hosts_unref(h->hosts);
	weft_hc_files_close(h);
	weft_cluster_unref(h->cl);
	free(h);
}

void weft_health_stop(struct weft_health *h)
{
	struct check *c;

	if (!h)
		return;
	h->stopped = true;
	while ((c = TAILQ_FIRST(&h->checks)))
		check_end(c);
	if (!h->busy)
		health_free(h);
}
