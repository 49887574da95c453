/* envoy.filters.http.health_check: answers health checks of this process, or lets them through and
 * remembers the answer for a while. */
#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/http/filter.h"
#include "proxy/l4/chain.h"
#include "proxy/l4/local_health.h"
#include "proxy/policy/match.h"
#include "proxy/upstream/cluster.h"

#include "xds/proto/envoy/extensions/filters/http/health_check/v3/health_check.pb-c.h"
#include <errno.h>
#include <event2/buffer.h>
#include <stdatomic.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__HealthCheck__V3__HealthCheck check_msg;

enum stat { TOTAL, OK, FAILED, CACHED, NO_CLUSTER, EMPTY, UNHEALTHY, DEGRADED };
static const struct weft_scope_item items[] = {
	{"health_check.request_total", WEFT_COUNTER, "Health checks answered here"},
	{"health_check.ok", WEFT_COUNTER, "Health checks answered as healthy"},
	{"health_check.failed", WEFT_COUNTER, "Health checks answered as failed"},
	{"health_check.cached_response", WEFT_COUNTER, "Health checks answered from memory"},
	{"health_check.failed_cluster_not_found", WEFT_COUNTER,
	 "Health checks failed as a cluster is not there"},
	{"health_check.failed_cluster_empty", WEFT_COUNTER,
	 "Health checks failed as a cluster has no hosts"},
	{"health_check.failed_cluster_unhealthy", WEFT_COUNTER,
	 "Health checks failed as too few hosts of a cluster are healthy"},
	{"health_check.degraded", WEFT_COUNTER, "Health checks answered as degraded"},
};
static const struct weft_scope_class cls = {
	.prefix = "http",
	.tag = "envoy_http_conn_manager_prefix",
	.v = items,
	.n = sizeof(items) / sizeof(*items),
};

struct need {
	const char *cluster;
	double pct;
};
struct memory { /* of the last answer that went through; of all workers */
	_Atomic uint64_t until_ns;
	_Atomic uint32_t status; /* DEGRADED_BIT */
};
enum { DEGRADED_BIT = 1u << 16 };
struct conf {
	struct weft_scope *scope;
	const char *local_cluster;
	bool pass;
	uint64_t cache_ns; /* 0: nothing is remembered */
	struct memory *memory;
	const struct need *need;
	size_t n_need;
	const struct weft_hdrmatch *headers;
	size_t n_headers;
};
struct state {
	bool asked, handling;
};

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const check_msg *m = (const void *)msg;
	const struct weft_net_context *x = c->context;
	struct weft_path ph = {at, "headers", -1}, pc = {at, "cache_time", -1},
			 pm = {at, "cluster_min_healthy_percentages", -1};
	size_t n = m->n_cluster_min_healthy_percentages;
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	struct need *need = weft_arena_alloc(c->arena, (n + 1) * sizeof(*need));

	*ret = conf;
	conf->scope = weft_http_filter_scope(c, &cls);
	conf->local_cluster = weft_arena_strdup(c->arena, x && x->cluster ? x->cluster : "");
	conf->pass = weft_cfg_bool(m->pass_through_mode, false);
	conf->cache_ns = (uint64_t)weft_cfg_ms(m->cache_time, 0) * 1000000;
	conf->memory = weft_arena_alloc(c->arena, sizeof(*conf->memory));
	if (!conf->pass && conf->cache_ns)
		return weft_cfg_fail(c, &pc, "must not be set without pass_through_mode");
	if (conf->pass && n)
		return weft_cfg_fail(c, &pm, "must not be set with pass_through_mode");
	for (size_t i = 0; i < n; i++) {
		const Envoy__Extensions__Filters__Http__HealthCheck__V3__HealthCheck__ClusterMinHealthyPercentagesEntry
			*e = m->cluster_min_healthy_percentages[i];

		need[i].cluster = weft_arena_strdup(c->arena, e->key);
		need[i].pct = e->value ? e->value->value : 0;
	}
	conf->need = need;
	conf->n_need = n;
	conf->n_headers = m->n_headers;
	return weft_hdrmatches_prepare(c, &ph, m->headers, m->n_headers, &conf->headers);
}

/* ---- the verdict */

struct verdict {
	bool ok, degraded, cached;
	int status;
	const char *details;
	int why; /* enum stat; -1 */
};

static void ask_clusters(struct weft_stream *s, const struct conf *conf, struct verdict *v)
{
	for (size_t i = 0; i < conf->n_need; i++) {
		const struct need *n = &conf->need[i];
		struct weft_wcluster *wc = weft_wcluster_find(weft_stream_worker(s), n->cluster);
		struct weft_scope *sc = wc ? wc->cluster->scope : NULL;
		int64_t all = weft_scope_value(sc, WEFT_CLUSTER_membership_total);
		int64_t good = weft_scope_value(sc, WEFT_CLUSTER_membership_healthy) +
			       weft_scope_value(sc, WEFT_CLUSTER_membership_degraded);

		v->details = "health_check_ok_cluster_healthy";
		if (wc && (all ? 100.0 * (double)good >= (double)all * n->pct : n->pct <= 0))
			continue;
		v->status = 503;
		v->why = !wc ? NO_CLUSTER : !all ? EMPTY : UNHEALTHY;
		v->details = !wc    ? "health_check_failed_no_cluster_found"
			     : !all ? "health_check_failed_cluster_empty"
				    : "health_check_failed_cluster_unhealthy";
		return;
	}
}

static struct verdict decide(struct weft_stream *s, const struct conf *conf)
{
	struct verdict v = {.status = 200, .details = "health_check_ok", .why = -1};
	uint32_t m;

	if (weft_local_health_failed()) {
		v.status = 503;
		v.details = "health_check_failed";
	} else if (conf->cache_ns) {
		m = atomic_load(&conf->memory->status);
		v.status = (int)(m & 0xffff);
		v.degraded = m & DEGRADED_BIT;
		v.cached = true;
		v.details = "health_check_cached";
	} else {
		ask_clusters(s, conf, &v);
	}
	return v;
}

static void degraded_header(void *ctx, struct weft_headers *h)
{
	if (((const struct verdict *)ctx)->degraded)
		weft_headers_set(h, "x-envoy-degraded", 16, "", 0);
}

static enum weft_flow answer(struct weft_stream *s, const struct conf *conf)
{
	struct verdict v = decide(s, conf);

	weft_scope_add(conf->scope, TOTAL, 1);
	weft_scope_add(conf->scope, v.status / 100 == 2 ? OK : FAILED, 1);
	if (v.why >= 0)
		weft_scope_add(conf->scope, (unsigned)v.why, 1);
	if (v.cached)
		weft_scope_add(conf->scope, CACHED, 1);
	if (v.degraded)
		weft_scope_add(conf->scope, DEGRADED, 1);
	if (v.status / 100 != 2)
		weft_info_flag(weft_stream_info(s), WEFT_FLAG_LH);
	return weft_stream_reply(s, v.status, v.details, NULL, degraded_header, &v);
}

/* ---- callbacks */

static bool remembered(const struct conf *conf)
{
	return conf->cache_ns && atomic_load(&conf->memory->until_ns) > weft_now_ns();
}

static enum weft_flow request_headers(struct weft_stream *s, const struct conf *conf,
				      struct state *st, struct weft_headers *h, bool end)
{
	if (weft_hdrmatch_all(conf->headers, conf->n_headers, h) != WEFT_MATCH_YES)
		return WEFT_NEXT;
	st->asked = true;
	weft_stream_info(s)->health_check = true;
	st->handling = !conf->pass || weft_local_health_failed() || remembered(conf);
	if (!st->handling)
		return WEFT_NEXT;
	return end ? answer(s, conf) : WEFT_DONE; /* once its body was thrown away */
}

static void response_headers(const struct conf *conf, const struct state *st,
			     struct weft_headers *h)
{
	uint32_t status;

	if (!st->asked) {
		if (weft_local_health_failed())
			weft_headers_set(h, "x-envoy-immediate-health-check-fail", 35, "true", 4);
		return;
	}
	if (conf->cache_ns && !st->handling) {
		status = (uint32_t)weft_headers_status(h);
		if (weft_headers_find(h, "x-envoy-degraded", 16))
			status |= DEGRADED_BIT;
		atomic_store(&conf->memory->status, status);
		atomic_store(&conf->memory->until_ns, weft_now_ns() + conf->cache_ns);
	}
	weft_headers_set(h, "x-envoy-upstream-healthchecked-cluster", 38, conf->local_cluster,
			 strlen(conf->local_cluster));
}

static enum weft_flow headers(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	struct state *st = state;

	if (d == WEFT_REQUEST)
		return request_headers(s, conf, st, h, end);
	response_headers(conf, st, h);
	return WEFT_NEXT;
}

static enum weft_flow data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	const struct state *st = state;

	if (d == WEFT_RESPONSE || !st->handling)
		return WEFT_NEXT;
	evbuffer_drain(b, evbuffer_get_length(b));
	return end ? answer(s, conf) : WEFT_DONE;
}

static enum weft_flow trailers(struct weft_stream *s, const void *conf, void *state,
			       enum weft_dir d, struct weft_headers *h)
{
	const struct state *st = state;

	return d == WEFT_REQUEST && st->handling ? answer(s, conf) : WEFT_NEXT;
}

const struct weft_http_filter weft_http_filter_health_check = {
	.ext = {.name = "envoy.filters.http.health_check",
		.config =
			&envoy__extensions__filters__http__health_check__v3__health_check__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare},
	.headers = headers,
	.data = data,
	.trailers = trailers,
};
