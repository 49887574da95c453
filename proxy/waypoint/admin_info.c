/* What admin tells of the process: addresses, certificates, options, memory, what is waited for. */
#include "proxy/core/version.h"
#include "proxy/upstream/transport.h"
#include "proxy/waypoint/admin_priv.h"
#include "xds/proto/envoy/admin/v3/certs.pb-c.h"
#include "xds/proto/envoy/admin/v3/init_dump.pb-c.h"
#include "xds/proto/envoy/admin/v3/listeners.pb-c.h"
#include "xds/proto/envoy/admin/v3/memory.pb-c.h"
#include "xds/proto/envoy/admin/v3/server_info.pb-c.h"

#include <event2/buffer.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NEW(a, type) admin_new(a, &envoy__admin__v3__##type##__descriptor)

/* ---- listeners */
static void text_listener(void *ctx, const struct listener_view *v)
{
	char text[256];
	unsigned i;

	for (i = 0; v->active && i < v->n_bound; i++)
		evbuffer_add_printf(ctx, "%s::%s\n", v->active->name,
				    admin_address_text(&v->bound[i], v->active->addr[i].unix_path,
						       text, sizeof(text)));
}

struct listing {
	struct weft_arena *a;
	Envoy__Admin__V3__Listeners *to;
};

static void json_listener(void *ctx, const struct listener_view *v)
{
	struct listing *l = ctx;
	Envoy__Admin__V3__ListenerStatus *m;
	unsigned i;

	if (!v->active)
		return;
	m = NEW(l->a, listener_status);
	m->name = weft_arena_strdup(l->a, v->active->name);
	for (i = 0; i < v->n_bound; i++) {
		Envoy__Config__Core__V3__Address *at =
			admin_address(l->a, &v->bound[i], v->active->addr[i].unix_path);

		if (i)
			admin_push(l->a, &m->additional_local_addresses,
				   &m->n_additional_local_addresses, at);
		else
			m->local_address = at;
	}
	admin_push(l->a, &l->to->listener_statuses, &l->to->n_listener_statuses, m);
}

int admin_listeners(struct areq *r)
{
	const char *format = areq_param(r, "format");
	struct listing l = {.a = r->arena};

	if (!format || strcmp(format, "json")) {
		listeners_each(r->w->listeners, text_listener, r->out);
		return 200;
	}
	l.to = NEW(r->arena, listeners);
	listeners_each(r->w->listeners, json_listener, &l);
	return areq_json(r, &l.to->base);
}

/* ---- certificates: of each context one entry */
struct certs_walk {
	void (*fn)(void *ctx, const struct weft_tls_cert *v, size_t n);
	void *ctx;
};

static void listener_certs(void *ctx, const struct listener_view *v)
{
	const struct lconf *l = v->active ? v->active : v->warming;
	struct certs_walk *w = ctx;
	size_t i;

	for (i = 0; i <= l->n_chain; i++) {
		const struct lchain *ch = i < l->n_chain ? &l->chain[i] : l->fallback;

		if (ch && ch->tls && ch->tls->n_certs)
			w->fn(w->ctx, ch->tls->certs, ch->tls->n_certs);
	}
}

static void cluster_certs(void *ctx, const struct weft_cluster_view *v)
{
	struct certs_walk *w = ctx;

	if (!v->warming && v->cluster->transport)
		weft_transport_certs(v->cluster->transport, w->fn, w->ctx);
}

static void each_certs(struct waypoint *w,
		       void (*fn)(void *ctx, const struct weft_tls_cert *v, size_t n), void *ctx)
{
	struct certs_walk walk = {fn, ctx};

	listeners_each(w->listeners, listener_certs, &walk);
	weft_clusters_each(w->clusters, cluster_certs, &walk);
}

struct cert_list {
	struct weft_arena *a;
	Envoy__Admin__V3__Certificates *to;
	int64_t now;
};

static void names_add(struct weft_arena *a, Envoy__Admin__V3__CertificateDetails *d,
		      const char *const *v, Envoy__Admin__V3__SubjectAlternateName__NameCase kind)
{
	for (; v && *v; v++) {
		Envoy__Admin__V3__SubjectAlternateName *s = NEW(a, subject_alternate_name);

		s->name_case = kind;
		s->dns = weft_arena_strdup(a, *v); /* all three of the union are strings */
		admin_push(a, &d->subject_alt_names, &d->n_subject_alt_names, s);
	}
}

static void one_certs(void *ctx, const struct weft_tls_cert *v, size_t n)
{
	struct cert_list *l = ctx;
	Envoy__Admin__V3__Certificate *m = NEW(l->a, certificate);
	size_t i;

	for (i = 0; i < n; i++) {
		Envoy__Admin__V3__CertificateDetails *d = NEW(l->a, certificate_details);

		d->path = weft_arena_strdup(l->a, v[i].path);
		d->serial_number = weft_arena_strdup(l->a, v[i].serial);
		names_add(l->a, d, v[i].dns, ENVOY__ADMIN__V3__SUBJECT_ALTERNATE_NAME__NAME_DNS);
		names_add(l->a, d, v[i].uri, ENVOY__ADMIN__V3__SUBJECT_ALTERNATE_NAME__NAME_URI);
		names_add(l->a, d, v[i].ip,
			  ENVOY__ADMIN__V3__SUBJECT_ALTERNATE_NAME__NAME_IP_ADDRESS);
		d->has_days_until_expiration = true;
		d->days_until_expiration = weft_tls_cert_days(&v[i], l->now);
		d->valid_from = admin_time(l->a, (uint64_t)v[i].not_before);
		d->expiration_time = admin_time(l->a, (uint64_t)v[i].not_after);
		if (v[i].ca)
			admin_push(l->a, &m->ca_cert, &m->n_ca_cert, d);
		else
			admin_push(l->a, &m->cert_chain, &m->n_cert_chain, d);
	}
	admin_push(l->a, &l->to->certificates, &l->to->n_certificates, m);
}

int admin_certs(struct areq *r)
{
	struct cert_list l = {r->arena, NEW(r->arena, certificates), (int64_t)time(NULL)};

	each_certs(r->w, one_certs, &l);
	return areq_json(r, &l.to->base);
}

struct soonest {
	int64_t days, now;
};

static void look_days(void *ctx, const struct weft_tls_cert *v, size_t n)
{
	struct soonest *s = ctx;
	size_t i;

	for (i = 0; i < n; i++) {
		int64_t days = weft_tls_cert_days(&v[i], s->now);

		if (days < s->days)
			s->days = days;
	}
}

int64_t waypoint_cert_days(struct waypoint *w)
{
	struct soonest s = {UINT32_MAX, (int64_t)time(NULL)}; /* Envoy's when there is none */

	each_certs(w, look_days, &s);
	return s.days;
}

/* ---- the server */
static Google__Protobuf__Duration *seconds(struct weft_arena *a, uint64_t s)
{
	Google__Protobuf__Duration *d = admin_new(a, &google__protobuf__duration__descriptor);

	d->has_seconds = true;
	d->seconds = (int64_t)s;
	return d;
}

static char *text(struct weft_arena *a, const char *s)
{
	return weft_arena_strdup(a, s ? s : "");
}

static Envoy__Admin__V3__CommandLineOptions *options_of(struct areq *r)
{
	Envoy__Admin__V3__CommandLineOptions *m = NEW(r->arena, command_line_options);
	const struct waypoint_options *o = &r->w->opt;

	m->has_concurrency = true;
	m->concurrency = (uint32_t)r->w->n_workers;
	m->config_path = text(r->arena, o->config_path);
	m->config_yaml = text(r->arena, o->config_yaml ? "[redacted]" : "");
	m->admin_address_path = text(r->arena, o->admin_address_file);
	m->log_level = text(r->arena, waypoint_level());
	m->service_cluster = text(r->arena, o->node_cluster);
	m->service_node = text(r->arena, o->node_id);
	m->service_zone = text(r->arena, o->node_zone);
	m->drain_time = seconds(r->arena, o->drain_s);
	m->has_drain_strategy = true;
	m->drain_strategy =
		o->drain_immediate
			? ENVOY__ADMIN__V3__COMMAND_LINE_OPTIONS__DRAIN_STRATEGY__Immediate
			: ENVOY__ADMIN__V3__COMMAND_LINE_OPTIONS__DRAIN_STRATEGY__Gradual;
	m->has_mode = true;
	m->mode = ENVOY__ADMIN__V3__COMMAND_LINE_OPTIONS__MODE__Serve;
	m->has_disable_hot_restart = m->disable_hot_restart = true;
	m->has_restart_epoch = true;
	return m;
}

int admin_server_info(struct areq *r)
{
	static const Envoy__Admin__V3__ServerInfo__State states[] = {
		ENVOY__ADMIN__V3__SERVER_INFO__STATE__PRE_INITIALIZING,
		ENVOY__ADMIN__V3__SERVER_INFO__STATE__INITIALIZING,
		ENVOY__ADMIN__V3__SERVER_INFO__STATE__LIVE,
		ENVOY__ADMIN__V3__SERVER_INFO__STATE__DRAINING};
	Envoy__Admin__V3__ServerInfo *m = NEW(r->arena, server_info);
	uint64_t up = (weft_now_ns() - r->w->start_ns) / 1000000000;

	/* revision/version/status/build/TLS library, as Envoy has it */
	m->version = text(r->arena, "weft/" WEFT_VERSION "/Clean/RELEASE/OpenSSL");
	m->has_state = true;
	m->state = states[waypoint_state(r->w)];
	m->uptime_current_epoch = seconds(r->arena, up);
	m->uptime_all_epochs = seconds(r->arena, up);
	m->hot_restart_version = text(r->arena, "disabled");
	m->command_line_options = options_of(r);
	m->node = r->w->boot.msg->node;
	return areq_json(r, &m->base);
}

int admin_memory(struct areq *r)
{
	Envoy__Admin__V3__Memory *m = NEW(r->arena, memory);
	struct mallinfo2 mi = mallinfo2();

	m->has_allocated = m->has_heap_size = m->has_pageheap_unmapped = true;
	m->has_pageheap_free = m->has_total_thread_cache = m->has_total_physical_bytes = true;
	m->allocated = mi.uordblks + mi.hblkhd;
	m->heap_size = mi.arena + mi.hblkhd;
	m->pageheap_free = mi.fordblks;
	m->total_thread_cache = mi.fsmblks;
	m->total_physical_bytes = waypoint_rss();
	return areq_json(r, &m->base);
}

/* ---- what is waited for */
struct unready {
	struct weft_arena *a;
	Envoy__Admin__V3__UnreadyTargetsDumps *to;
};

static void unready_listener(void *ctx, const struct listener_view *v)
{
	struct unready *u = ctx;
	Envoy__Admin__V3__UnreadyTargetsDumps__UnreadyTargetsDump *m;
	size_t i;

	if (!v->warming)
		return;
	m = NEW(u->a, unready_targets_dumps__unready_targets_dump);
	m->name = weft_arena_printf(u->a, "listener %s", v->warming->name);
	for (i = 0; i < v->warming->deps.n; i++)
		if (!weft_route_table_is_ready(v->warming->deps.v[i]))
			admin_push(u->a, &m->target_names, &m->n_target_names,
				   weft_arena_printf(u->a, "routes %s",
						     weft_route_table_name(v->warming->deps.v[i])));
	if (v->warming->secrets_missing)
		admin_push(u->a, &m->target_names, &m->n_target_names,
			   weft_arena_strdup(u->a, "a TLS secret"));
	admin_push(u->a, &u->to->unready_targets_dumps, &u->to->n_unready_targets_dumps, m);
}

static void unready_cluster(void *ctx, const struct weft_cluster_view *v)
{
	struct unready *u = ctx;
	Envoy__Admin__V3__UnreadyTargetsDumps__UnreadyTargetsDump *m;

	if (!v->warming)
		return;
	m = NEW(u->a, unready_targets_dumps__unready_targets_dump);
	m->name = weft_arena_printf(u->a, "cluster %s", v->cluster->name);
	admin_push(u->a, &u->to->unready_targets_dumps, &u->to->n_unready_targets_dumps, m);
}

int admin_init_dump(struct areq *r)
{
	struct unready u = {r->arena, NEW(r->arena, unready_targets_dumps)};
	const char *mask = areq_param(r, "mask");

	if (!mask || !*mask || !strcmp(mask, "listener"))
		listeners_each(r->w->listeners, unready_listener, &u);
	if (!mask || !*mask)
		weft_clusters_each(r->w->clusters, unready_cluster, &u);
	return areq_json(r, &u.to->base);
}
