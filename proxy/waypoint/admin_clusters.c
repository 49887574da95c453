/* /clusters: hosts with their health, numbers and places, as text and as JSON. */
#include "proxy/upstream/outlier.h"
#include "proxy/waypoint/admin_priv.h"
#include "xds/proto/envoy/admin/v3/clusters.pb-c.h"

#include <event2/buffer.h>
#include <string.h>

#define NEW(a, type) admin_new(a, &envoy__admin__v3__##type##__descriptor)

enum { NUMBERS = 8 };
struct numbers {
	const char *name[NUMBERS];
	uint64_t v[NUMBERS];
	bool gauge[NUMBERS];
};

static struct numbers numbers_of(struct weft_host *h)
{
	return (struct numbers){{"cx_active", "cx_connect_fail", "cx_total", "rq_active",
				 "rq_error", "rq_success", "rq_timeout", "rq_total"},
				{h->cx_active, h->cx_connect_fail, h->cx_total, h->rq_active,
				 h->rq_error, h->rq_success, h->rq_timeout, h->rq_total},
				{true, false, false, true, false, false, false, false}};
}

static const struct {
	uint32_t flag;
	const char *text;
} flags[] = {
	{WEFT_HOST_FAILED_ACTIVE_HC, "failed_active_hc"},
	{WEFT_HOST_FAILED_OUTLIER, "failed_outlier_check"},
	{WEFT_HOST_FAILED_EDS, "failed_eds_health"},
	{WEFT_HOST_DEGRADED_ACTIVE_HC, "degraded_active_hc"},
	{WEFT_HOST_DEGRADED_EDS, "degraded_eds_health"},
	{WEFT_HOST_PENDING_REMOVAL, "pending_dynamic_removal"},
	{WEFT_HOST_PENDING_ACTIVE_HC, "pending_active_hc"},
	{WEFT_HOST_EXCLUDED_IMMEDIATE_HC, "excluded_via_immediate_hc_fail"},
	{WEFT_HOST_DRAINING_EDS, "eds_status_draining"},
};

static const char *eds_name(const struct weft_cluster *c)
{
	const Envoy__Config__Cluster__V3__Cluster *m = c->msg;

	return m->eds_cluster_config && m->eds_cluster_config->service_name
		       ? m->eds_cluster_config->service_name
		       : "";
}

static const char *seen_name(const struct weft_cluster *c)
{
	return c->alt_stat_name && *c->alt_stat_name ? c->alt_stat_name : c->name;
}

/* ---- text */
static void text_host(struct evbuffer *out, const struct weft_cluster *c,
		      const struct weft_hosts *hosts, const struct weft_endpoint_entry *e)
{
	const struct weft_locality *l = &hosts->localities[e->locality].id;
	struct weft_host *h = e->host;
	struct numbers n = numbers_of(h);
	uint32_t set = h->flags;
	size_t i;

	for (i = 0; i < NUMBERS; i++)
		evbuffer_add_printf(out, "%s::%s::%s::%llu\n", c->name, h->text, n.name[i],
				    (unsigned long long)n.v[i]);
	evbuffer_add_printf(out, "%s::%s::hostname::%s\n", c->name, h->text, h->hostname);
	evbuffer_add_printf(out, "%s::%s::health_flags::", c->name, h->text);
	if (!set)
		evbuffer_add_printf(out, "healthy");
	for (i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (set & flags[i].flag)
			evbuffer_add_printf(out, "/%s", flags[i].text);
	evbuffer_add_printf(out, "\n%s::%s::weight::%u\n", c->name, h->text, e->weight);
	evbuffer_add_printf(out, "%s::%s::region::%s\n", c->name, h->text, l->region);
	evbuffer_add_printf(out, "%s::%s::zone::%s\n", c->name, h->text, l->zone);
	evbuffer_add_printf(out, "%s::%s::sub_zone::%s\n", c->name, h->text, l->sub_zone);
	evbuffer_add_printf(out, "%s::%s::canary::%s\n", c->name, h->text,
			    e->canary ? "true" : "false");
	evbuffer_add_printf(out, "%s::%s::priority::%u\n", c->name, h->text, e->priority);
	evbuffer_add_printf(out, "%s::%s::success_rate::%g\n", c->name, h->text,
			    weft_outlier_success_rate(h, false));
	evbuffer_add_printf(out, "%s::%s::local_origin_success_rate::%g\n", c->name, h->text,
			    weft_outlier_success_rate(h, true));
}

static void text_cluster(void *ctx, const struct weft_cluster_view *v)
{
	static const char *const names[] = {"default_priority", "high_priority"};
	const struct weft_cluster *c = v->cluster;
	struct evbuffer *out = ctx;
	size_t i;

	if (v->warming)
		return;
	evbuffer_add_printf(out, "%s::observability_name::%s\n", c->name, seen_name(c));
	for (i = 0; i < WEFT_PRIORITIES; i++) {
		const struct weft_breaker *b = &c->breaker[i];

		evbuffer_add_printf(out, "%s::%s::max_connections::%u\n", c->name, names[i],
				    b->max_connections);
		evbuffer_add_printf(out, "%s::%s::max_pending_requests::%u\n", c->name, names[i],
				    b->max_pending);
		evbuffer_add_printf(out, "%s::%s::max_requests::%u\n", c->name, names[i],
				    b->max_requests);
		evbuffer_add_printf(out, "%s::%s::max_retries::%u\n", c->name, names[i],
				    b->max_retries);
	}
	evbuffer_add_printf(out, "%s::added_via_api::%s\n", c->name,
			    v->from_xds ? "true" : "false");
	if (*eds_name(c))
		evbuffer_add_printf(out, "%s::eds_service_name::%s\n", c->name, eds_name(c));
	for (i = 0; v->hosts && i < v->hosts->n; i++)
		text_host(out, c, v->hosts, &v->hosts->v[i]);
}

/* ---- messages */
struct json_ctx {
	struct weft_arena *a;
	Envoy__Admin__V3__Clusters *to;
};

static Envoy__Admin__V3__HostHealthStatus *health_of(struct weft_arena *a, uint32_t set)
{
	Envoy__Admin__V3__HostHealthStatus *m = NEW(a, host_health_status);

	m->has_failed_active_health_check = m->failed_active_health_check =
		set & WEFT_HOST_FAILED_ACTIVE_HC;
	m->has_failed_outlier_check = m->failed_outlier_check = set & WEFT_HOST_FAILED_OUTLIER;
	m->has_failed_active_degraded_check = m->failed_active_degraded_check =
		(set & WEFT_HOST_DEGRADED_ACTIVE_HC) != 0;
	m->has_pending_dynamic_removal = m->pending_dynamic_removal =
		(set & WEFT_HOST_PENDING_REMOVAL) != 0;
	m->has_pending_active_hc = m->pending_active_hc = (set & WEFT_HOST_PENDING_ACTIVE_HC) != 0;
	m->has_excluded_via_immediate_hc_fail = m->excluded_via_immediate_hc_fail =
		(set & WEFT_HOST_EXCLUDED_IMMEDIATE_HC) != 0;
	m->has_eds_health_status = true;
	m->eds_health_status =
		set & WEFT_HOST_FAILED_EDS     ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNHEALTHY
		: set & WEFT_HOST_DRAINING_EDS ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DRAINING
		: set & WEFT_HOST_DEGRADED_EDS ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DEGRADED
					       : ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__HEALTHY;
	return m;
}

static Envoy__Type__V3__Percent *percent(struct weft_arena *a, double v)
{
	Envoy__Type__V3__Percent *p;

	if (v < 0)
		return NULL;
	p = admin_new(a, &envoy__type__v3__percent__descriptor);
	p->has_value = true;
	p->value = v;
	return p;
}

static char *text(struct weft_arena *a, const char *s)
{
	return s && *s ? weft_arena_strdup(a, s) : NULL;
}

static Envoy__Admin__V3__HostStatus *host_of(struct weft_arena *a, const struct weft_hosts *hosts,
					     const struct weft_endpoint_entry *e)
{
	static const unsigned order[NUMBERS] = {1, 2, 4, 5, 6, 7, 0, 3}; /* counters first */
	const struct weft_locality *l = &hosts->localities[e->locality].id;
	Envoy__Admin__V3__HostStatus *m = NEW(a, host_status);
	struct numbers n = numbers_of(e->host);
	size_t i;

	m->address = admin_address(a, &e->host->addr, e->host->unix_path);
	for (i = 0; i < NUMBERS; i++) {
		Envoy__Admin__V3__SimpleMetric *s = NEW(a, simple_metric);
		unsigned k = order[i];

		s->name = (char *)n.name[k];
		s->has_value = n.v[k] != 0;
		s->value = n.v[k];
		s->has_type = n.gauge[k];
		s->type = ENVOY__ADMIN__V3__SIMPLE_METRIC__TYPE__GAUGE;
		admin_push(a, &m->stats, &m->n_stats, s);
	}
	m->health_status = health_of(a, e->host->flags);
	m->success_rate = percent(a, weft_outlier_success_rate(e->host, false));
	m->local_origin_success_rate = percent(a, weft_outlier_success_rate(e->host, true));
	m->has_weight = true;
	m->weight = e->weight;
	m->hostname = text(a, e->host->hostname);
	m->has_priority = e->priority != 0;
	m->priority = e->priority;
	m->locality = admin_new(a, &envoy__config__core__v3__locality__descriptor);
	m->locality->region = text(a, l->region);
	m->locality->zone = text(a, l->zone);
	m->locality->sub_zone = text(a, l->sub_zone);
	return m;
}

static Google__Protobuf__UInt32Value *u32(struct weft_arena *a, uint32_t v)
{
	Google__Protobuf__UInt32Value *m =
		admin_new(a, &google__protobuf__uint32_value__descriptor);

	m->has_value = true;
	m->value = v;
	return m;
}

static Envoy__Config__Cluster__V3__CircuitBreakers *breakers_of(struct weft_arena *a,
								const struct weft_cluster *c)
{
	Envoy__Config__Cluster__V3__CircuitBreakers *m =
		admin_new(a, &envoy__config__cluster__v3__circuit_breakers__descriptor);
	size_t i;

	for (i = 0; i < WEFT_PRIORITIES; i++) {
		Envoy__Config__Cluster__V3__CircuitBreakers__Thresholds *t = admin_new(
			a, &envoy__config__cluster__v3__circuit_breakers__thresholds__descriptor);

		t->has_priority = i == WEFT_PRIORITY_HIGH;
		t->priority = ENVOY__CONFIG__CORE__V3__ROUTING_PRIORITY__HIGH;
		t->max_connections = u32(a, c->breaker[i].max_connections);
		t->max_pending_requests = u32(a, c->breaker[i].max_pending);
		t->max_requests = u32(a, c->breaker[i].max_requests);
		t->max_retries = u32(a, c->breaker[i].max_retries);
		admin_push(a, &m->thresholds, &m->n_thresholds, t);
	}
	return m;
}

static void json_cluster(void *ctx, const struct weft_cluster_view *v)
{
	const struct weft_cluster *c = v->cluster;
	struct json_ctx *j = ctx;
	Envoy__Admin__V3__ClusterStatus *m;
	size_t i;

	if (v->warming)
		return;
	m = NEW(j->a, cluster_status);
	m->name = weft_arena_strdup(j->a, c->name);
	m->has_added_via_api = m->added_via_api = v->from_xds;
	for (i = 0; v->hosts && i < v->hosts->n; i++)
		admin_push(j->a, &m->host_statuses, &m->n_host_statuses,
			   host_of(j->a, v->hosts, &v->hosts->v[i]));
	m->circuit_breakers = breakers_of(j->a, c);
	m->observability_name = weft_arena_strdup(j->a, seen_name(c));
	m->eds_service_name = text(j->a, eds_name(c));
	admin_push(j->a, &j->to->cluster_statuses, &j->to->n_cluster_statuses, m);
}

int admin_clusters(struct areq *r)
{
	const char *format = areq_param(r, "format");
	struct json_ctx j = {.a = r->arena};

	if (!format || strcmp(format, "json")) {
		weft_clusters_each(r->w->clusters, text_cluster, r->out);
		return 200;
	}
	j.to = NEW(r->arena, clusters);
	weft_clusters_each(r->w->clusters, json_cluster, &j);
	return areq_json(r, &j.to->base);
}
