#include "proxy/upstream/outlier_priv.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/pool.h"

#include <event2/event.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Kinds of ejection; for each: how many of 100 are enforced, and its counters. */
enum kind {
	KIND_5XX,
	KIND_GATEWAY,
	KIND_LOCAL,
	KIND_SUCCESS_RATE,
	KIND_LOCAL_SUCCESS_RATE,
	KIND_FAILURE_PCT,
	KIND_LOCAL_FAILURE_PCT,
	KINDS
};
static const struct {
	enum weft_cluster_stat enforced, detected;
	const char *event;
	enum outlier_by by;
} kinds[KINDS] = {
#define KIND(name, event, by)                                                                      \
	{                                                                                          \
		WEFT_CLUSTER_outlier_ejections_enforced_##name,                                    \
			WEFT_CLUSTER_outlier_ejections_detected_##name, event, OUTLIER_BY_##by     \
	}
	[KIND_5XX] = KIND(consecutive_5xx, "CONSECUTIVE_5XX", RUN),
	[KIND_GATEWAY] = KIND(consecutive_gateway_failure, "CONSECUTIVE_GATEWAY_FAILURE", RUN),
	[KIND_LOCAL] =
		KIND(consecutive_local_origin_failure, "CONSECUTIVE_LOCAL_ORIGIN_FAILURE", RUN),
	[KIND_SUCCESS_RATE] = KIND(success_rate, "SUCCESS_RATE", RATE),
	[KIND_LOCAL_SUCCESS_RATE] =
		KIND(local_origin_success_rate, "SUCCESS_RATE_LOCAL_ORIGIN", RATE),
	[KIND_FAILURE_PCT] = KIND(failure_percentage, "FAILURE_PERCENTAGE", FAILURES),
	[KIND_LOCAL_FAILURE_PCT] =
		KIND(local_origin_failure_percentage, "FAILURE_PERCENTAGE_LOCAL_ORIGIN", FAILURES),
#undef KIND
};

struct weft_outlier_conf {
	uint32_t runs[KIND_LOCAL + 1]; /* how many in a row; 0: never */
	uint32_t enforce[KINDS];
	bool split; /* local failures are counted by themselves */
	unsigned interval_ms, base_ms, max_ms, jitter_ms;
	uint32_t max_pct, stdev_factor;
	uint32_t rate_hosts, rate_volume, failure_hosts, failure_volume, failure_pct;
	bool one_always, checks_uneject;
};

struct rate { /* of one interval */
	_Atomic uint32_t good, all;
};
struct weft_host_outlier {
	_Atomic uint32_t run[KIND_LOCAL + 1];
	_Atomic uint32_t seen; /* bits: runs that the main thread shall look at */
	struct rate origin, local;
	/* main thread */
	uint64_t ejected_ns, back_ns, jitter_ns; /* 0: never */
	uint32_t times;				 /* how long it stays away; forgotten in time */
	uint32_t ejections;			 /* of its life */
	double success[2]; /* last interval's, of_local: [1]; 0: none, else 1 more than it is */
};

int weft_outlier_prepare(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl)
{
	const Envoy__Config__Cluster__V3__OutlierDetection *m = cl->msg->outlier_detection;
	struct weft_outlier_conf *k = weft_arena_alloc(cl->arena, sizeof(*k));
	int64_t base = weft_cfg_ms(m->base_ejection_time, 30000);

	k->runs[KIND_5XX] = weft_cfg_u32(m->consecutive_5xx, 5);
	k->runs[KIND_GATEWAY] = weft_cfg_u32(m->consecutive_gateway_failure, 5);
	k->runs[KIND_LOCAL] = weft_cfg_u32(m->consecutive_local_origin_failure, 5);
	k->enforce[KIND_5XX] = weft_cfg_u32(m->enforcing_consecutive_5xx, 100);
	k->enforce[KIND_GATEWAY] = weft_cfg_u32(m->enforcing_consecutive_gateway_failure, 0);
	k->enforce[KIND_LOCAL] = weft_cfg_u32(m->enforcing_consecutive_local_origin_failure, 100);
	k->enforce[KIND_SUCCESS_RATE] = weft_cfg_u32(m->enforcing_success_rate, 100);
	k->enforce[KIND_LOCAL_SUCCESS_RATE] =
		weft_cfg_u32(m->enforcing_local_origin_success_rate, 100);
	k->enforce[KIND_FAILURE_PCT] = weft_cfg_u32(m->enforcing_failure_percentage, 0);
	k->enforce[KIND_LOCAL_FAILURE_PCT] =
		weft_cfg_u32(m->enforcing_failure_percentage_local_origin, 0);
	k->split = m->split_external_local_origin_errors;
	k->interval_ms = (unsigned)weft_cfg_ms(m->interval, 10000);
	k->base_ms = (unsigned)base;
	k->max_ms = (unsigned)weft_cfg_ms(m->max_ejection_time, base > 300000 ? base : 300000);
	k->jitter_ms = (unsigned)weft_cfg_ms(m->max_ejection_time_jitter, 0);
	k->max_pct = weft_cfg_u32(m->max_ejection_percent, 10);
	k->rate_hosts = weft_cfg_u32(m->success_rate_minimum_hosts, 5);
	k->rate_volume = weft_cfg_u32(m->success_rate_request_volume, 100);
	k->stdev_factor = weft_cfg_u32(m->success_rate_stdev_factor, 1900);
	k->failure_pct = weft_cfg_u32(m->failure_percentage_threshold, 85);
	k->failure_hosts = weft_cfg_u32(m->failure_percentage_minimum_hosts, 5);
	k->failure_volume = weft_cfg_u32(m->failure_percentage_request_volume, 50);
	k->one_always = weft_cfg_bool(m->always_eject_one_host, false);
	k->checks_uneject = weft_cfg_bool(m->successful_active_health_check_uneject_host, true);
	cl->outlier = k;
	if (k->max_ms < k->base_ms) {
		const struct weft_path max = {at, "max_ejection_time", -1};

		return weft_cfg_fail(c, &max,
				     "must be at least base_ejection_time (%u ms), is %u ms",
				     k->base_ms, k->max_ms);
	}
	return 0;
}

void weft_outlier_host_init(struct weft_host *h)
{
	h->outlier = weft_arena_alloc(h->arena, sizeof(*h->outlier));
}

/* ---- what requests met; any worker */
static void inc(_Atomic uint32_t *n)
{
	atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

static void zero(_Atomic uint32_t *n)
{
	/* most often it is: no write then, the line stays shared */
	if (atomic_load_explicit(n, memory_order_relaxed))
		atomic_store_explicit(n, 0, memory_order_relaxed);
}

static void run(struct weft_cluster *c, struct weft_host *h, enum kind k)
{
	struct weft_host_outlier *o = h->outlier;

	if (atomic_fetch_add_explicit(&o->run[k], 1, memory_order_relaxed) + 1 !=
	    c->outlier->runs[k])
		return;
	if (!atomic_fetch_or(&o->seen, 1u << k))
		weft_clusters_eject_look(c, h);
}

static void code(struct weft_cluster *c, struct weft_host *h, int status)
{
	struct weft_host_outlier *o = h->outlier;

	inc(&o->origin.all);
	if (status < 500) {
		inc(&o->origin.good);
		zero(&o->run[KIND_5XX]);
		zero(&o->run[KIND_GATEWAY]);
		return;
	}
	if (status >= 502 && status <= 504)
		run(c, h, KIND_GATEWAY);
	else
		zero(&o->run[KIND_GATEWAY]);
	run(c, h, KIND_5XX);
}

static void local(struct weft_cluster *c, struct weft_host *h, bool good)
{
	struct weft_host_outlier *o = h->outlier;

	inc(&o->local.all);
	if (good) {
		inc(&o->local.good);
		zero(&o->run[KIND_LOCAL]);
	} else {
		run(c, h, KIND_LOCAL);
	}
}

static void count_host(struct weft_host *h, enum weft_outcome o, int status)
{
	bool error = o == WEFT_OUT_LOCAL_CONNECT_FAILED || o == WEFT_OUT_LOCAL_RESET ||
		     o == WEFT_OUT_LOCAL_TIMEOUT || (o == WEFT_OUT_CODE && status >= 500);

	if (o == WEFT_OUT_CONNECTED)
		return;
	if (o == WEFT_OUT_LOCAL_TIMEOUT)
		atomic_fetch_add_explicit(&h->rq_timeout, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(error ? &h->rq_error : &h->rq_success, 1, memory_order_relaxed);
}

void weft_host_outcome(struct weft_wcluster *wc, struct weft_host *h, enum weft_outcome o,
		       int http_status)
{
	struct weft_cluster *c = wc->cluster;
	bool split = c->outlier && c->outlier->split;

	count_host(h, o, http_status);
	if (!c->outlier || !h->outlier)
		return;
	switch (o) {
	case WEFT_OUT_CODE:
		code(c, h, http_status);
		break;
	case WEFT_OUT_SUCCESS:
		code(c, h, 200);
		break;
	case WEFT_OUT_CONNECTED:
		if (split)
			local(c, h, true);
		break;
	case WEFT_OUT_LOCAL_TIMEOUT:
	case WEFT_OUT_LOCAL_CONNECT_FAILED:
	case WEFT_OUT_LOCAL_RESET:
		if (split)
			local(c, h, false);
		else
			code(c, h, o == WEFT_OUT_LOCAL_TIMEOUT ? 504 : 503);
	}
}

/* ---- decisions; main thread */
struct weft_outlier {
	struct weft_cluster *cl;
	const struct weft_outlier_conf *conf;
	struct weft_hosts *hosts;
	struct event *timer;
	void (*changed)(void *owner, struct weft_host *h);
	void *owner;
	void (*event)(void *owner, const char *line, size_t n); /* NULL */
	void *event_owner;
	size_t active;
};

static void count(const struct weft_outlier *o, enum weft_cluster_stat item)
{
	weft_scope_add(o->cl->scope, item, 1);
}

static bool ejected(const struct weft_host *h)
{
	return atomic_load(&h->flags) & WEFT_HOST_FAILED_OUTLIER;
}

static void set_active(struct weft_outlier *o, size_t n)
{
	if (n != o->active)
		weft_scope_set(o->cl->scope, WEFT_CLUSTER_outlier_ejections_active, (int64_t)n);
	o->active = n;
}

/* The longest time is reached after so many ejections: more would only take longer to forget. */
static uint32_t times_max(const struct weft_outlier_conf *k)
{
	return k->base_ms ? k->max_ms / k->base_ms + 1 : 1;
}

/* What is known of a host's interval when it is ejected for it. */
struct verdict {
	double rate, mean, threshold;
};

static void tell(const struct weft_outlier *o, const struct weft_host *h,
		 const struct outlier_event *e)
{
	char line[OUTLIER_LINE];
	struct outlier_event all = *e;

	if (!o->event)
		return;
	all.cluster = o->cl->name;
	all.host = h->text;
	all.times = h->outlier->ejections;
	o->event(o->event_owner, line, outlier_event_line(&all, line));
}

static void tell_eject(const struct weft_outlier *o, const struct weft_host *h, enum kind kind,
		       const struct verdict *v, bool enforced)
{
	const struct outlier_event e = {.type = kinds[kind].event,
					.by = kinds[kind].by,
					.eject = true,
					.enforced = enforced,
					.last_ns = h->outlier->back_ns,
					.rate = v->rate,
					.mean = v->mean,
					.threshold = v->threshold};

	tell(o, h, &e);
}

static void eject(struct weft_outlier *o, struct weft_host *h, enum kind kind,
		  const struct verdict *v)
{
	const struct weft_outlier_conf *k = o->conf;
	double pct = o->hosts->n ? 100.0 * (double)(o->active + 1) / (double)o->hosts->n : 100;
	bool may = pct <= k->max_pct || (k->one_always && !o->active);

	if (!may) {
		count(o, WEFT_CLUSTER_outlier_ejections_overflow);
		return;
	}
	if (kind == KIND_5XX || kind == KIND_SUCCESS_RATE)
		count(o, WEFT_CLUSTER_outlier_ejections_total);
	if (weft_rand64() % 100 >= k->enforce[kind]) {
		tell_eject(o, h, kind, v, false);
		return;
	}
	count(o, kinds[kind].enforced);
	count(o, WEFT_CLUSTER_outlier_ejections_enforced_total);
	h->outlier->ejected_ns = weft_now_ns();
	h->outlier->jitter_ns =
		k->jitter_ms ? weft_rand64() % ((uint64_t)k->jitter_ms * 1000000 + 1) : 0;
	if (h->outlier->times < times_max(k))
		h->outlier->times++;
	h->outlier->ejections++;
	atomic_fetch_or(&h->flags, WEFT_HOST_FAILED_OUTLIER);
	set_active(o, o->active + 1);
	tell_eject(o, h, kind, v, true);
	o->changed(o->owner, h);
}

static void uneject(struct weft_outlier *o, struct weft_host *h)
{
	for (int i = 0; i <= KIND_LOCAL; i++)
		atomic_store(&h->outlier->run[i], 0);
	atomic_store_explicit(&h->made_ns, weft_now_ns(), memory_order_relaxed);
	atomic_fetch_and(&h->flags, ~(uint32_t)WEFT_HOST_FAILED_OUTLIER);
	set_active(o, o->active - 1);
	h->outlier->back_ns = weft_now_ns();
	tell(o, h,
	     &(struct outlier_event){.type = kinds[KIND_5XX].event,
				     .last_ns = h->outlier->ejected_ns});
	o->changed(o->owner, h);
}

void weft_outlier_look(struct weft_outlier *o, struct weft_host *h)
{
	uint32_t seen = atomic_exchange(&h->outlier->seen, 0);
	bool here = false;

	for (size_t i = 0; i < o->hosts->n && !here; i++)
		here = o->hosts->v[i].host == h;
	for (int k = 0; k <= KIND_LOCAL; k++) {
		if (!(seen >> k & 1))
			continue;
		if (here && !ejected(h)) {
			count(o, kinds[k].detected);
			if (k == KIND_5XX)
				count(o, WEFT_CLUSTER_outlier_ejections_consecutive_5xx);
			eject(o, h, (enum kind)k, &(struct verdict){0});
		}
		/* a run that goes on counts again, whether it was enforced or not */
		atomic_store(&h->outlier->run[k], 0);
	}
}

void weft_outlier_checked(struct weft_outlier *o, struct weft_host *h)
{
	if (o->conf->checks_uneject && h->outlier && ejected(h))
		uneject(o, h);
}

static void check_time(struct weft_outlier *o, struct weft_host *h, uint64_t now)
{
	const struct weft_outlier_conf *k = o->conf;
	uint64_t ms = (uint64_t)k->base_ms * h->outlier->times;

	if (!ejected(h))
		return;
	if (ms > k->max_ms)
		ms = k->max_ms;
	if (now - h->outlier->ejected_ns >= ms * 1000000 + h->outlier->jitter_ns)
		uneject(o, h);
}

/* An interval without an ejection: the next one is shorter. Those of rates are decided before.
 * Timers are not exact: a tenth of an interval is no matter. */
static void forget(const struct weft_outlier *o, struct weft_host *h, uint64_t now)
{
	if (!ejected(h) && h->outlier->times &&
	    now >= h->outlier->back_ns + (uint64_t)o->conf->interval_ms * 900000)
		h->outlier->times--;
}

/* ---- rates of an interval */
struct sample {
	struct weft_host *host;
	double rate; /* 0..100 */
	uint32_t all;
};

static void by_rate(struct weft_outlier *o, const struct sample *v, size_t n, enum kind kind)
{
	double sum = 0, variance = 0, mean, threshold;
	size_t valid = 0;

	for (size_t i = 0; i < n; i++)
		if (v[i].all >= o->conf->rate_volume) {
			sum += v[i].rate;
			valid++;
		}
	if (!valid || valid < o->conf->rate_hosts)
		return;
	mean = sum / (double)valid;
	for (size_t i = 0; i < n; i++)
		if (v[i].all >= o->conf->rate_volume)
			variance += (v[i].rate - mean) * (v[i].rate - mean);
	threshold = mean - o->conf->stdev_factor / 1000.0 * sqrt(variance / (double)valid);
	for (size_t i = 0; i < n; i++)
		if (v[i].all >= o->conf->rate_volume && v[i].rate < threshold &&
		    !ejected(v[i].host)) {
			const struct verdict why = {v[i].rate, mean, threshold};

			count(o, kinds[kind].detected);
			count(o, WEFT_CLUSTER_outlier_ejections_success_rate);
			eject(o, v[i].host, kind, &why);
		}
}

static void by_failures(struct weft_outlier *o, const struct sample *v, size_t n, enum kind kind)
{
	size_t valid = 0;

	for (size_t i = 0; i < n; i++)
		valid += v[i].all >= o->conf->failure_volume;
	if (!valid || valid < o->conf->failure_hosts)
		return;
	for (size_t i = 0; i < n; i++)
		if (v[i].all >= o->conf->failure_volume &&
		    100 - v[i].rate >= o->conf->failure_pct && !ejected(v[i].host)) {
			const struct verdict why = {.rate = v[i].rate};

			count(o, kinds[kind].detected);
			eject(o, v[i].host, kind, &why);
		}
}

/* Takes the interval's numbers; hosts that are ejected have no say. */
static size_t samples(const struct weft_outlier *o, bool of_local, struct sample *v)
{
	uint32_t least = o->conf->rate_volume < o->conf->failure_volume ? o->conf->rate_volume
									: o->conf->failure_volume;
	size_t n = 0;

	for (size_t i = 0; i < o->hosts->n; i++) {
		struct weft_host *h = o->hosts->v[i].host;
		struct rate *r = of_local ? &h->outlier->local : &h->outlier->origin;
		uint32_t good = atomic_exchange(&r->good, 0), all = atomic_exchange(&r->all, 0);

		h->outlier->success[of_local] =
			all && all >= least && !ejected(h) ? 1 + 100.0 * good / all : 0;
		if (all && !ejected(h))
			v[n++] = (struct sample){h, 100.0 * good / all, all};
	}
	return n;
}

double weft_outlier_success_rate(const struct weft_host *h, bool local_origin)
{
	return h->outlier ? h->outlier->success[local_origin] - 1 : -1;
}

static void on_interval(evutil_socket_t fd, short what, void *arg)
{
	struct weft_outlier *o = arg;
	/* changed() may bring another set */
	struct weft_hosts *hosts = o->hosts;
	struct sample *v = weft_xcalloc(hosts->n + 1, sizeof(*v));
	uint64_t now = weft_now_ns();
	size_t n;

	weft_hosts_ref(hosts);
	for (size_t i = 0; i < hosts->n; i++)
		check_time(o, hosts->v[i].host, now);
	n = samples(o, false, v);
	by_rate(o, v, n, KIND_SUCCESS_RATE);
	by_failures(o, v, n, KIND_FAILURE_PCT);
	if (o->conf->split) {
		n = samples(o, true, v);
		by_rate(o, v, n, KIND_LOCAL_SUCCESS_RATE);
		by_failures(o, v, n, KIND_LOCAL_FAILURE_PCT);
	}
	for (size_t i = 0; i < hosts->n; i++)
		forget(o, hosts->v[i].host, now);
	weft_hosts_unref(hosts);
	free(v);
}

struct weft_outlier *weft_outlier_start(struct event_base *base, struct weft_cluster *cl,
					void (*changed)(void *owner, struct weft_host *h),
					void *owner)
{
	struct weft_outlier *o = weft_xcalloc(1, sizeof(*o));
	const struct timeval tv = {cl->outlier->interval_ms / 1000,
				   cl->outlier->interval_ms % 1000 * 1000};

	o->cl = cl;
	o->conf = cl->outlier;
	o->changed = changed;
	o->owner = owner;
	o->timer = event_new(base, -1, EV_PERSIST, on_interval, o);
	if (!o->timer || event_add(o->timer, &tv))
		abort();
	return o;
}

void weft_outlier_tell(struct weft_outlier *o,
		       void (*event)(void *owner, const char *line, size_t n), void *owner)
{
	o->event = event;
	o->event_owner = owner;
}

void weft_outlier_hosts(struct weft_outlier *o, struct weft_hosts *hosts)
{
	size_t n = 0;

	weft_hosts_ref(hosts);
	weft_hosts_unref(o->hosts);
	o->hosts = hosts;
	for (size_t i = 0; i < hosts->n; i++)
		n += ejected(hosts->v[i].host);
	set_active(o, n);
}

void weft_outlier_stop(struct weft_outlier *o)
{
	if (!o)
		return;
	event_free(o->timer);
	set_active(o, 0);
	weft_hosts_unref(o->hosts);
	free(o);
}
