/* Users' connections as metrics and access log lines. Series are looked up in a worker's own cache:
 * the registry's lock is taken once for a new kind of flow, not for a connection. */
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/node/flowtext.h"
#include "proxy/node/node_priv.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uthash.h>
#include <xxhash.h>

enum {
	SERIES_MAX = 8192, /* kinds of flow kept a worker; more than that take the lock each time */
	SERIES_IDLE_S = 300,
	SWEEP_S = 30
};

/* X(name): the labels of istio_tcp_*, in the order of ambient-contract §8. */
#define LABELS                                                                                     \
	X(reporter)                                                                                \
	X(source_workload)                                                                         \
	X(source_canonical_service)                                                                \
	X(source_canonical_revision)                                                               \
	X(source_workload_namespace)                                                               \
	X(source_principal)                                                                        \
	X(source_app)                                                                              \
	X(source_version)                                                                          \
	X(source_cluster)                                                                          \
	X(destination_service)                                                                     \
	X(destination_service_namespace)                                                           \
	X(destination_service_name)                                                                \
	X(destination_workload)                                                                    \
	X(destination_canonical_service)                                                           \
	X(destination_canonical_revision)                                                          \
	X(destination_workload_namespace)                                                          \
	X(destination_principal)                                                                   \
	X(destination_app)                                                                         \
	X(destination_version)                                                                     \
	X(destination_cluster)                                                                     \
	X(request_protocol)                                                                        \
	X(response_flags)                                                                          \
	X(connection_security_policy)                                                              \
	X(source_region)                                                                           \
	X(source_zone)                                                                             \
	X(destination_region)                                                                      \
	X(destination_zone)

enum label {
#define X(name) L_##name,
	LABELS
#undef X
		L_COUNT
};
static const char *const label_names[] = {
#define X(name) #name,
	LABELS
#undef X
		NULL};

static struct {
	struct weft_stat_family *opened, *closed, *failed, *sent, *received, *open, *ended,
		*log_lost;
} fam;

/* What decides all labels but response_flags. Compared as bytes: no padding, strings behind it. */
struct key {
	const void *src_w, *dst_w, *dst_s;
	uint32_t flags;
	uint32_t text_n;
	char text[256 * 7];
};
struct weft_series {
	struct weft_flows *owner; /* NULL: not cached, ends with its flow */
	struct weft_workload *src_w, *dst_w;
	struct weft_service *dst_s;
	unsigned users;
	uint64_t used_s;
	char *values[L_COUNT]; /* into text or the objects' strings */
	char *text;
	struct weft_stat *opened, *sent, *received;
	struct weft_stat *closed[WEFT_REASON_COUNT], *failed[WEFT_REASON_COUNT]; /* on first use */
	size_t key_n;
	UT_hash_handle hh;
	char key[];
};
struct weft_flows {
	struct weft_series *series;
	struct event *sweep;
	uint64_t seed;
	struct weft_stat *open[2]; /* by inbound */
	struct weft_stat *ended[2][WEFT_REASON_COUNT];
	struct weft_access_log *log; /* NULL: off */
};
static const char *const reporters[] = {"source", "destination"};

void weft_flowlog_setup(struct weft_node *n)
{
	static const char *const reporter[] = {"reporter", NULL};
	static const char *const reason[] = {"reporter", "reason", NULL};
	static const char *const why[] = {"why", NULL};

	if (fam.opened)
		return;
	fam.opened = weft_stat_family_new("istio_tcp_connections_opened", "TCP connections opened",
					  WEFT_STAT_COUNTER, label_names);
	fam.closed = weft_stat_family_new("istio_tcp_connections_closed", "TCP connections closed",
					  WEFT_STAT_COUNTER, label_names);
	fam.failed = weft_stat_family_new("istio_tcp_connections_failed",
					  "TCP connections that ended before they were open",
					  WEFT_STAT_COUNTER, label_names);
	fam.sent = weft_stat_family_new("istio_tcp_sent_bytes",
					"Bytes of responses: from upstream to downstream",
					WEFT_STAT_COUNTER, label_names);
	fam.received = weft_stat_family_new("istio_tcp_received_bytes",
					    "Bytes of requests: from downstream to upstream",
					    WEFT_STAT_COUNTER, label_names);
	fam.open = weft_stat_family_new("istio_tcp_sockets_open", "TCP connections open now",
					WEFT_STAT_GAUGE, reporter);
	fam.ended = weft_stat_family_new("weft_connections_ended",
					 "Users' connections ended, by reason (docs/reasons.md)",
					 WEFT_STAT_COUNTER, reason);
	fam.log_lost = weft_stat_family_new("weft_access_log_dropped",
					    "Access log lines not written: beyond the workload's "
					    "budget, or the target did not take them",
					    WEFT_STAT_COUNTER, why);
}

/* ---- labels */

static char *or_unknown(const char *s)
{
	return (char *)(s && s[0] ? s : "unknown");
}

/* Upstream's order of trust: the workload found by address, else what the peer said of itself in
 * baggage. */
static char *pick(const char *known, const struct weft_workload *w, const char *said)
{
	return or_unknown(w ? known : said);
}

static void source_labels(struct weft_series *s, const struct weft_flow *f)
{
	const struct weft_workload *w = s->src_w;

	s->values[L_source_workload] = pick(w ? w->workload_name : NULL, w, f->src_labels_workload);
	s->values[L_source_canonical_service] =
		pick(w ? w->canonical_name : NULL, w, f->src_labels_app);
	s->values[L_source_canonical_revision] =
		pick(w ? w->canonical_revision : NULL, w, f->src_labels_version);
	s->values[L_source_workload_namespace] = pick(w ? w->ns : NULL, w, f->src_labels_ns);
	s->values[L_source_cluster] = pick(w ? w->cluster : NULL, w, f->src_labels_cluster);
	s->values[L_source_app] = s->values[L_source_canonical_service];
	s->values[L_source_version] = s->values[L_source_canonical_revision];
	s->values[L_source_principal] = or_unknown(f->mtls ? f->src_id : NULL);
}

static void destination_labels(struct weft_series *s, const struct weft_flow *f)
{
	const struct weft_workload *w = s->dst_w;
	const struct weft_service *sv = s->dst_s;

	s->values[L_destination_service] = or_unknown(sv ? sv->hostname : NULL);
	s->values[L_destination_service_namespace] = or_unknown(sv ? sv->ns : NULL);
	s->values[L_destination_service_name] = or_unknown(sv ? sv->name : NULL);
	s->values[L_destination_workload] = or_unknown(w ? w->workload_name : NULL);
	s->values[L_destination_canonical_service] = or_unknown(w ? w->canonical_name : NULL);
	s->values[L_destination_canonical_revision] = or_unknown(w ? w->canonical_revision : NULL);
	s->values[L_destination_workload_namespace] = or_unknown(w ? w->ns : NULL);
	s->values[L_destination_cluster] = or_unknown(w ? w->cluster : NULL);
	s->values[L_destination_app] = s->values[L_destination_canonical_service];
	s->values[L_destination_version] = s->values[L_destination_canonical_revision];
	s->values[L_destination_principal] = or_unknown(!f->mtls       ? NULL
							: f->dst_id[0] ? f->dst_id
							: w	       ? w->identity
								       : NULL);
}

static bool located(const struct weft_workload *w)
{
	return w && (w->region[0] || w->zone[0]);
}

static void other_labels(struct weft_series *s, const struct weft_flow *f)
{
	bool any = located(s->src_w) || located(s->dst_w);
	char *none = (char *)"";

	s->values[L_reporter] = (char *)reporters[f->inbound];
	s->values[L_request_protocol] = (char *)"tcp";
	s->values[L_response_flags] = (char *)"-";
	s->values[L_connection_security_policy] = (char *)(f->mtls ? "mutual_tls" : "unknown");
	s->values[L_source_region] = any ? or_unknown(s->src_w ? s->src_w->region : NULL) : none;
	s->values[L_source_zone] = any ? or_unknown(s->src_w ? s->src_w->zone : NULL) : none;
	s->values[L_destination_region] =
		any ? or_unknown(s->dst_w ? s->dst_w->region : NULL) : none;
	s->values[L_destination_zone] = any ? or_unknown(s->dst_w ? s->dst_w->zone : NULL) : none;
}

/* ---- series */

static struct weft_flows *flows_of(const struct weft_flow *f)
{
	const struct weft_wstate *ws = f->worker->owner;

	return ws->flows;
}

static void key_text(struct key *k, const char *s)
{
	size_t n = strlen(s) + 1;

	if (k->text_n + n > sizeof(k->text))
		n = sizeof(k->text) - k->text_n;
	memcpy(k->text + k->text_n, s, n);
	k->text_n += (uint32_t)n;
}

static size_t key_make(struct key *k, const struct weft_flow *f)
{
	k->src_w = f->src_w;
	k->dst_w = f->dst_w;
	k->dst_s = f->dst_s;
	k->flags = (f->inbound ? 1u : 0) | (f->mtls ? 2u : 0);
	k->text_n = 0;
	key_text(k, f->src_id);
	key_text(k, f->dst_id);
	if (!f->src_w) {
		key_text(k, f->src_labels_workload);
		key_text(k, f->src_labels_app);
		key_text(k, f->src_labels_version);
		key_text(k, f->src_labels_ns);
		key_text(k, f->src_labels_cluster);
	}
	return offsetof(struct key, text) + k->text_n;
}

static bool is_flow_text(const struct weft_flow *f, const char *v)
{
	const char *const own[] = {f->src_id,
				   f->dst_id,
				   f->src_labels_ns,
				   f->src_labels_workload,
				   f->src_labels_app,
				   f->src_labels_version,
				   f->src_labels_cluster};

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (v == own[i])
			return true;
	return false;
}

/* Label strings of the flow itself do not outlive it: the series keeps copies. */
static void own_text(struct weft_series *s, const struct weft_flow *f)
{
	size_t n = 0, at = 0;

	for (int i = 0; i < L_COUNT; i++)
		if (is_flow_text(f, s->values[i]))
			n += strlen(s->values[i]) + 1;
	s->text = weft_xcalloc(1, n + 1);
	for (int i = 0; i < L_COUNT; i++) {
		size_t len;

		if (!is_flow_text(f, s->values[i]))
			continue;
		len = strlen(s->values[i]) + 1;
		memcpy(s->text + at, s->values[i], len);
		s->values[i] = s->text + at;
		at += len;
	}
}

static struct weft_series *series_make(const struct weft_flow *f, const struct key *k, size_t n)
{
	struct weft_series *s = weft_xcalloc(1, sizeof(*s) + n);

	memcpy(s->key, k, n);
	s->key_n = n;
	s->src_w = f->src_w ? weft_workload_ref(f->src_w) : NULL;
	s->dst_w = f->dst_w ? weft_workload_ref(f->dst_w) : NULL;
	s->dst_s = f->dst_s ? weft_service_ref(f->dst_s) : NULL;
	source_labels(s, f);
	destination_labels(s, f);
	other_labels(s, f);
	own_text(s, f);
	return s;
}

static void series_free(struct weft_series *s)
{
	weft_workload_unref(s->src_w);
	weft_workload_unref(s->dst_w);
	weft_service_unref(s->dst_s);
	weft_stat_unref(s->opened);
	weft_stat_unref(s->sent);
	weft_stat_unref(s->received);
	for (int i = 0; i < WEFT_REASON_COUNT; i++) {
		weft_stat_unref(s->closed[i]);
		weft_stat_unref(s->failed[i]);
	}
	free(s->text);
	free(s);
}

static struct weft_series *series_get(struct weft_flows *fl, const struct weft_flow *f)
{
	static const struct timeval sweep = {SWEEP_S, 0};
	struct key k;
	size_t n = key_make(&k, f);
	unsigned hash = (unsigned)XXH3_64bits_withSeed(&k, n, fl->seed);
	struct weft_series *s;

	HASH_FIND_BYHASHVALUE(hh, fl->series, &k, n, hash, s);
	if (!s) {
		s = series_make(f, &k, n);
		if (HASH_COUNT(fl->series) < SERIES_MAX) {
			s->owner = fl;
			HASH_ADD_KEYPTR_BYHASHVALUE(hh, fl->series, s->key, n, hash, s);
			if (!event_pending(fl->sweep, EV_TIMEOUT, NULL))
				event_add(fl->sweep, &sweep);
		}
	}
	s->users++;
	return s;
}

static void series_put(struct weft_series *s)
{
	s->users--;
	if (!s->owner && !s->users)
		series_free(s);
	else
		s->used_s = weft_now_ns() / 1000000000;
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval sweep = {SWEEP_S, 0};
	struct weft_flows *fl = arg;
	uint64_t now = weft_now_ns() / 1000000000;
	struct weft_series *s, *next;

	HASH_ITER (hh, fl->series, s, next) {
		if (s->users || now - s->used_s < SERIES_IDLE_S)
			continue;
		HASH_DEL(fl->series, s);
		series_free(s);
	}
	if (fl->series)
		event_add(fl->sweep, &sweep);
}

static struct weft_stat *stat_of(struct weft_stat **at, struct weft_stat_family *fa,
				 struct weft_series *s, const char *flag)
{
	const char *values[L_COUNT];

	if (*at)
		return *at;
	memcpy(values, s->values, sizeof(values));
	values[L_response_flags] = flag;
	*at = weft_stat_get(fa, values);
	return *at;
}

/* ---- a worker */

int weft_flowlog_init(struct weft_wstate *ws)
{
	static const char *const budget[] = {"budget"}, *const blocked[] = {"blocked"};
	struct weft_flows *fl = weft_xcalloc(1, sizeof(*fl));
	const struct weft_node *n = ws->node;

	fl->seed = weft_rand64();
	fl->sweep = evtimer_new(ws->w->base, on_sweep, fl);
	if (!fl->sweep)
		abort(); /* memory is out */
	for (int i = 0; i < 2; i++)
		fl->open[i] = weft_stat_get(fam.open, &reporters[i]);
	if (n->access_log)
		fl->log = weft_access_log_new(ws->w->base, n->access_log, n->access_format, n->n_ws,
					      weft_stat_get(fam.log_lost, blocked),
					      weft_stat_get(fam.log_lost, budget));
	ws->flows = fl;
	return 0;
}

void weft_flowlog_done(struct weft_wstate *ws)
{
	struct weft_flows *fl = ws->flows;
	struct weft_series *s, *next;

	if (!fl)
		return;
	weft_access_log_free(fl->log);
	HASH_ITER (hh, fl->series, s, next) {
		HASH_DEL(fl->series, s);
		/* connections that outlive the worker's end keep theirs: there are none after a
		 * drain */
		if (s->users)
			s->owner = NULL;
		else
			series_free(s);
	}
	event_free(fl->sweep);
	for (int i = 0; i < 2; i++) {
		weft_stat_unref(fl->open[i]);
		for (int r = 0; r < WEFT_REASON_COUNT; r++)
			weft_stat_unref(fl->ended[i][r]);
	}
	free(fl);
	ws->flows = NULL;
}

/* ---- a flow */

void weft_flow_init(struct weft_flow *f, struct weft_wstate *ws, bool inbound)
{
	f->inbound = inbound;
	f->mtls = false;
	f->src = f->dst = f->hbone = (struct weft_sockaddr){0};
	f->src_w = f->dst_w = NULL;
	f->dst_s = NULL;
	weft_flow_texts_init(f);
	f->t0_ns = weft_now_ns();
	f->sent = f->received = f->told_sent = f->told_received = 0;
	f->series = NULL;
	f->worker = ws->w;
}

/* The log counts as the local workload sees it; metrics count requests as received, responses as
 * sent, on both sides. */
void weft_flow_tick(struct weft_flow *f)
{
	uint64_t sent = f->sent - f->told_sent, received = f->received - f->told_received;
	uint64_t requests = f->inbound ? received : sent, responses = f->inbound ? sent : received;
	struct weft_series *s = f->series;

	if (!s)
		return;
	if (requests)
		weft_stat_add(stat_of(&s->received, fam.received, s, "-"), (int64_t)requests);
	if (responses)
		weft_stat_add(stat_of(&s->sent, fam.sent, s, "-"), (int64_t)responses);
	f->told_sent = f->sent;
	f->told_received = f->received;
}

static void side(struct weft_access_side *a, const struct weft_sockaddr *addr,
		 const struct weft_workload *w, const char *identity)
{
	a->addr = addr;
	a->identity = identity;
	if (!w)
		return;
	a->workload = w->name;
	a->ns = w->ns;
	a->cluster = w->cluster;
}

/* Who speaks with whom, and when. */
static void rec_ends(struct weft_access_rec *rec, const struct weft_flow *f)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	rec->time_us = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
	rec->inbound = f->inbound;
	rec->trace_id = f->trace_id;
	side(&rec->src, &f->src, f->src_w, f->mtls ? f->src_id : NULL);
	side(&rec->dst, &f->dst, f->dst_w,
	     !f->mtls	    ? NULL
	     : f->dst_id[0] ? f->dst_id
	     : f->dst_w	    ? f->dst_w->identity
			    : NULL);
	if (!f->src_w) {
		rec->src.workload = f->src_labels_workload;
		rec->src.ns = f->src_labels_ns;
		rec->src.cluster = f->src_labels_cluster;
	}
	if (f->hbone.ip.family)
		rec->hbone = &f->hbone;
	rec->service = f->dst_s ? f->dst_s->hostname : f->dst_host;
}

static void rec_write(const struct weft_flow *f, const struct weft_access_rec *rec)
{
	const struct weft_workload *local = f->inbound ? f->dst_w : f->src_w;

	weft_access_log_write(flows_of(f)->log, local ? local->uid : "", rec);
}

static void log_opened(const struct weft_flow *f)
{
	struct weft_access_rec rec = {.level = WEFT_ACCESS_DEBUG, .message = "connection opened"};

	rec_ends(&rec, f);
	rec_write(f, &rec);
}

static void log_ended(const struct weft_flow *f, enum weft_reason r, const char *detail)
{
	struct weft_access_rec rec = {.message = "connection complete",
				      .sent = f->sent,
				      .received = f->received,
				      .duration_ms = (weft_now_ns() - f->t0_ns) / 1000000,
				      .reason = weft_reason_code(r)};
	char error[256];

	if (r != WEFT_REASON_OK) {
		rec.level = WEFT_ACCESS_ERROR;
		snprintf(error, sizeof(error), "%s%s%s", weft_reason_text(r),
			 detail && detail[0] ? ": " : "", detail ? detail : "");
		rec.error = error;
		/* too early to know who it was */
		if (!f->series && !f->src_w && !f->dst_w) {
			rec.level = WEFT_ACCESS_WARN;
			rec.message = "connection failed";
		}
	}
	rec_ends(&rec, f);
	rec_write(f, &rec);
}

void weft_flow_open(struct weft_flow *f)
{
	struct weft_flows *fl = flows_of(f);
	struct weft_series *s;

	if (f->series)
		return;
	if (f->src_w)
		weft_flow_labels_drop(f);
	f->series = s = series_get(fl, f);
	weft_stat_add(stat_of(&s->opened, fam.opened, s, "-"), 1);
	weft_stat_add(fl->open[f->inbound], 1);
	if (fl->log && weft_log_on(WEFT_LOG_DEBUG))
		log_opened(f);
}

static void count_end(struct weft_flow *f, enum weft_reason r)
{
	struct weft_flows *fl = flows_of(f);
	struct weft_stat **ended = &fl->ended[f->inbound][r];
	struct weft_series *s = f->series;

	if (!*ended) {
		const char *values[] = {reporters[f->inbound], weft_reason_code(r)};

		*ended = weft_stat_get(fam.ended, values);
	}
	weft_stat_add(*ended, 1);
	if (s) {
		weft_flow_tick(f);
		weft_stat_add(stat_of(&s->closed[r], fam.closed, s, weft_reason_flag(r)), 1);
		weft_stat_add(fl->open[f->inbound], -1);
	} else {
		s = series_get(fl, f);
		weft_stat_add(stat_of(&s->failed[r], fam.failed, s, weft_reason_flag(r)), 1);
	}
	series_put(s);
	f->series = NULL;
}

void weft_flow_close(struct weft_flow *f, enum weft_reason r, const char *detail)
{
	if (flows_of(f)->log)
		log_ended(f, r, detail);
	count_end(f, r);
	weft_flow_texts_done(f);
	weft_workload_unref(f->src_w);
	weft_workload_unref(f->dst_w);
	weft_service_unref(f->dst_s);
	f->src_w = f->dst_w = NULL;
	f->dst_s = NULL;
}
