/* /config_dump: what is configured, as messages of envoy.admin.v3. */
#include "proxy/policy/match.h"
#include "proxy/waypoint/admin_priv.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/admin/v3/config_dump.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"

#include <stdlib.h>
#include <string.h>

#define NEW(a, type) admin_new(a, &envoy__admin__v3__##type##__descriptor)

typedef Envoy__Extensions__TransportSockets__Tls__V3__Secret secret_msg;

struct dump {
	struct weft_arena *a;
	struct waypoint *w;
	const struct weft_regex *name; /* NULL: all */
	void *to;		       /* the message that is filled */
};

static bool wanted(const struct dump *d, const char *name)
{
	return !d->name || weft_regex_full(d->name, name, strlen(name)) == WEFT_MATCH_YES;
}

static Google__Protobuf__Any *shown(struct weft_arena *a, const ProtobufCMessage *m)
{
	return weft_cfg_any_new(a, admin_redact(a, m));
}

static char *text(struct weft_arena *a, const char *s)
{
	return s && *s ? weft_arena_strdup(a, s) : NULL;
}

/* ---- clusters and their endpoints */
static void one_cluster(void *ctx, const struct weft_cluster_view *v)
{
	struct dump *d = ctx;
	Envoy__Admin__V3__ClustersConfigDump *to = d->to;

	if (!wanted(d, v->cluster->name))
		return;
	if (!v->from_xds) {
		Envoy__Admin__V3__ClustersConfigDump__StaticCluster *s =
			NEW(d->a, clusters_config_dump__static_cluster);

		s->cluster = shown(d->a, &v->cluster->msg->base);
		s->last_updated = admin_time(d->a, v->updated_s);
		admin_push(d->a, &to->static_clusters, &to->n_static_clusters, s);
	} else {
		Envoy__Admin__V3__ClustersConfigDump__DynamicCluster *s =
			NEW(d->a, clusters_config_dump__dynamic_cluster);

		s->version_info = text(d->a, v->version);
		s->cluster = shown(d->a, &v->cluster->msg->base);
		s->last_updated = admin_time(d->a, v->updated_s);
		if (v->warming)
			admin_push(d->a, &to->dynamic_warming_clusters,
				   &to->n_dynamic_warming_clusters, s);
		else
			admin_push(d->a, &to->dynamic_active_clusters,
				   &to->n_dynamic_active_clusters, s);
	}
}

static Envoy__Config__Endpoint__V3__LbEndpoint *endpoint_of(struct weft_arena *a,
							    const struct weft_endpoint_entry *e)
{
	Envoy__Config__Endpoint__V3__LbEndpoint *l =
		admin_new(a, &envoy__config__endpoint__v3__lb_endpoint__descriptor);
	Envoy__Config__Endpoint__V3__Endpoint *p =
		admin_new(a, &envoy__config__endpoint__v3__endpoint__descriptor);

	p->address = admin_address(a, &e->host->addr, e->host->unix_path);
	p->hostname = text(a, e->host->hostname);
	l->host_identifier_case =
		ENVOY__CONFIG__ENDPOINT__V3__LB_ENDPOINT__HOST_IDENTIFIER_ENDPOINT;
	l->endpoint = p;
	l->has_health_status = true;
	l->health_status =
		weft_host_degraded(e->host)  ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DEGRADED
		: weft_host_healthy(e->host) ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__HEALTHY
					     : ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNHEALTHY;
	l->metadata = (Envoy__Config__Core__V3__Metadata *)e->metadata;
	l->load_balancing_weight = admin_new(a, &google__protobuf__uint32_value__descriptor);
	l->load_balancing_weight->has_value = true;
	l->load_balancing_weight->value = e->weight;
	return l;
}

static Envoy__Config__Core__V3__Locality *locality_of(struct weft_arena *a,
						      const struct weft_locality *l)
{
	Envoy__Config__Core__V3__Locality *m =
		admin_new(a, &envoy__config__core__v3__locality__descriptor);

	m->region = text(a, l->region);
	m->zone = text(a, l->zone);
	m->sub_zone = text(a, l->sub_zone);
	return m;
}

static Envoy__Config__Endpoint__V3__ClusterLoadAssignment *
assignment_of(struct weft_arena *a, const char *name, const struct weft_hosts *h)
{
	Envoy__Config__Endpoint__V3__ClusterLoadAssignment *m =
		admin_new(a, &envoy__config__endpoint__v3__cluster_load_assignment__descriptor);
	size_t i, k;

	m->cluster_name = weft_arena_strdup(a, name);
	for (k = 0; k < h->n_localities; k++) {
		Envoy__Config__Endpoint__V3__LocalityLbEndpoints *l = admin_new(
			a, &envoy__config__endpoint__v3__locality_lb_endpoints__descriptor);

		l->locality = locality_of(a, &h->localities[k].id);
		l->has_priority = h->localities[k].priority > 0;
		l->priority = h->localities[k].priority;
		l->load_balancing_weight =
			admin_new(a, &google__protobuf__uint32_value__descriptor);
		l->load_balancing_weight->has_value = true;
		l->load_balancing_weight->value = h->localities[k].weight;
		admin_push(a, &m->endpoints, &m->n_endpoints, l);
	}
	for (i = 0; i < h->n; i++)
		if (h->v[i].locality < m->n_endpoints)
			admin_push(a, &m->endpoints[h->v[i].locality]->lb_endpoints,
				   &m->endpoints[h->v[i].locality]->n_lb_endpoints,
				   endpoint_of(a, &h->v[i]));
	m->policy = admin_new(
		a, &envoy__config__endpoint__v3__cluster_load_assignment__policy__descriptor);
	m->policy->overprovisioning_factor =
		admin_new(a, &google__protobuf__uint32_value__descriptor);
	m->policy->overprovisioning_factor->has_value = true;
	m->policy->overprovisioning_factor->value = h->overprovisioning_pct;
	return m;
}

static void one_assignment(void *ctx, const struct weft_cluster_view *v)
{
	const Envoy__Config__Cluster__V3__Cluster *m = v->cluster->msg;
	struct dump *d = ctx;
	Envoy__Admin__V3__EndpointsConfigDump *to = d->to;
	Google__Protobuf__Any *any;
	const char *name = v->cluster->name;

	if (!v->hosts || v->warming || !wanted(d, v->cluster->name))
		return;
	if (m->eds_cluster_config && m->eds_cluster_config->service_name &&
	    *m->eds_cluster_config->service_name)
		name = m->eds_cluster_config->service_name;
	any = shown(d->a, &assignment_of(d->a, name, v->hosts)->base);
	if (v->from_xds) {
		Envoy__Admin__V3__EndpointsConfigDump__DynamicEndpointConfig *s =
			NEW(d->a, endpoints_config_dump__dynamic_endpoint_config);

		s->endpoint_config = any;
		s->version_info = text(d->a, v->eds_version);
		admin_push(d->a, &to->dynamic_endpoint_configs, &to->n_dynamic_endpoint_configs, s);
	} else {
		Envoy__Admin__V3__EndpointsConfigDump__StaticEndpointConfig *s =
			NEW(d->a, endpoints_config_dump__static_endpoint_config);

		s->endpoint_config = any;
		admin_push(d->a, &to->static_endpoint_configs, &to->n_static_endpoint_configs, s);
	}
}

/* ---- listeners */
static Envoy__Admin__V3__ListenersConfigDump__DynamicListenerState *
listener_state(struct weft_arena *a, const struct lconf *l)
{
	Envoy__Admin__V3__ListenersConfigDump__DynamicListenerState *s =
		NEW(a, listeners_config_dump__dynamic_listener_state);

	s->version_info = text(a, l->version);
	s->listener = shown(a, &l->msg->base);
	s->last_updated = admin_time(a, l->updated_s);
	return s;
}

static void one_listener(void *ctx, const struct listener_view *v)
{
	const struct lconf *l = v->active ? v->active : v->warming;
	struct dump *d = ctx;
	Envoy__Admin__V3__ListenersConfigDump *to = d->to;

	if (!wanted(d, l->name))
		return;
	if (!l->from_xds) {
		Envoy__Admin__V3__ListenersConfigDump__StaticListener *s =
			NEW(d->a, listeners_config_dump__static_listener);

		s->listener = shown(d->a, &l->msg->base);
		s->last_updated = admin_time(d->a, l->updated_s);
		admin_push(d->a, &to->static_listeners, &to->n_static_listeners, s);
	} else {
		Envoy__Admin__V3__ListenersConfigDump__DynamicListener *s =
			NEW(d->a, listeners_config_dump__dynamic_listener);

		s->name = text(d->a, l->name);
		if (v->active)
			s->active_state = listener_state(d->a, v->active);
		if (v->warming)
			s->warming_state = listener_state(d->a, v->warming);
		admin_push(d->a, &to->dynamic_listeners, &to->n_dynamic_listeners, s);
	}
}

/* ---- routes and secrets */
typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager hcm;
#define HCM_INLINE                                                                                 \
	ENVOY__EXTENSIONS__FILTERS__NETWORK__HTTP_CONNECTION_MANAGER__V3__HTTP_CONNECTION_MANAGER__ROUTE_SPECIFIER_ROUTE_CONFIG

static const hcm *hcm_of(struct weft_cfg *c, const Envoy__Config__Listener__V3__Filter *f)
{
	const ProtobufCMessageDescriptor *want =
		&envoy__extensions__filters__network__http_connection_manager__v3__http_connection_manager__descriptor;
	const ProtobufCMessage *m;

	if (f->config_type_case != ENVOY__CONFIG__LISTENER__V3__FILTER__CONFIG_TYPE_TYPED_CONFIG)
		return NULL;
	m = weft_cfg_any(c, NULL, f->typed_config, NULL);
	return m && m->descriptor == want ? (const hcm *)m : NULL;
}

/* Tables that stand in a connection manager. */
static void inline_tables(void *ctx, const struct listener_view *v)
{
	const struct lconf *l = v->active ? v->active : v->warming;
	struct dump *d = ctx;
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.arena = d->a, .errs = errs};
	Envoy__Admin__V3__RoutesConfigDump *to = d->to;
	size_t i, k;

	for (i = 0; i <= l->msg->n_filter_chains; i++) {
		const Envoy__Config__Listener__V3__FilterChain *ch =
			i < l->msg->n_filter_chains ? l->msg->filter_chains[i]
						    : l->msg->default_filter_chain;

		for (k = 0; ch && k < ch->n_filters; k++) {
			const hcm *m = hcm_of(&c, ch->filters[k]);
			Envoy__Admin__V3__RoutesConfigDump__StaticRouteConfig *s;

			if (!m || m->route_specifier_case != HCM_INLINE ||
			    !wanted(d, m->route_config->name ? m->route_config->name : ""))
				continue;
			s = NEW(d->a, routes_config_dump__static_route_config);
			s->route_config = shown(d->a, &m->route_config->base);
			s->last_updated = admin_time(d->a, l->updated_s);
			admin_push(d->a, &to->static_route_configs, &to->n_static_route_configs, s);
		}
	}
	free(errs);
}

static void one_table(void *ctx, const struct weft_route_table_view *v)
{
	struct dump *d = ctx;
	Envoy__Admin__V3__RoutesConfigDump *to = d->to;

	Envoy__Admin__V3__RoutesConfigDump__DynamicRouteConfig *s;

	if (v->fixed || !v->msg || !wanted(d, v->name))
		return;
	s = NEW(d->a, routes_config_dump__dynamic_route_config);
	s->version_info = text(d->a, v->version);
	s->route_config = shown(d->a, &v->msg->base);
	s->last_updated = admin_time(d->a, v->updated_s);
	admin_push(d->a, &to->dynamic_route_configs, &to->n_dynamic_route_configs, s);
}

static void one_secret(void *ctx, const char *name, const char *version, bool is_static,
		       uint64_t updated_s, const secret_msg *m)
{
	struct dump *d = ctx;
	Envoy__Admin__V3__SecretsConfigDump *to = d->to;

	if (!wanted(d, name))
		return;
	if (is_static) {
		Envoy__Admin__V3__SecretsConfigDump__StaticSecret *s =
			NEW(d->a, secrets_config_dump__static_secret);

		s->name = text(d->a, name);
		s->last_updated = admin_time(d->a, updated_s);
		s->secret = shown(d->a, &m->base);
		admin_push(d->a, &to->static_secrets, &to->n_static_secrets, s);
	} else {
		Envoy__Admin__V3__SecretsConfigDump__DynamicSecret *s =
			NEW(d->a, secrets_config_dump__dynamic_secret);

		s->name = text(d->a, name);
		s->version_info = text(d->a, version);
		if (!m) {
			admin_push(d->a, &to->dynamic_warming_secrets,
				   &to->n_dynamic_warming_secrets, s);
			return;
		}
		s->last_updated = admin_time(d->a, updated_s);
		s->secret = shown(d->a, &m->base);
		admin_push(d->a, &to->dynamic_active_secrets, &to->n_dynamic_active_secrets, s);
	}
}

/* ---- all of them */
static void build_bootstrap(struct dump *d)
{
	Envoy__Admin__V3__BootstrapConfigDump *to = d->to;

	to->bootstrap = (void *)admin_redact(d->a, &d->w->boot.msg->base);
	to->last_updated = admin_time(d->a, d->w->start_wall_s);
}

static void build_clusters(struct dump *d)
{
	weft_clusters_each(d->w->clusters, one_cluster, d);
}

static void build_endpoints(struct dump *d)
{
	weft_clusters_each(d->w->clusters, one_assignment, d);
}

static void build_listeners(struct dump *d)
{
	listeners_each(d->w->listeners, one_listener, d);
}

static void build_routes(struct dump *d)
{
	listeners_each(d->w->listeners, inline_tables, d);
	weft_route_tables_each(d->w->routes, one_table, d);
}

static void build_secrets(struct dump *d)
{
	secrets_each(d->w->secrets, one_secret, d);
}

static const struct {
	const ProtobufCMessageDescriptor *type;
	void (*build)(struct dump *d);
	bool eds;
} parts[] = {
	{&envoy__admin__v3__bootstrap_config_dump__descriptor, build_bootstrap, false},
	{&envoy__admin__v3__clusters_config_dump__descriptor, build_clusters, false},
	{&envoy__admin__v3__endpoints_config_dump__descriptor, build_endpoints, true},
	{&envoy__admin__v3__listeners_config_dump__descriptor, build_listeners, false},
	{&envoy__admin__v3__routes_config_dump__descriptor, build_routes, false},
	{&envoy__admin__v3__secrets_config_dump__descriptor, build_secrets, false},
};

static ProtobufCMessage *build(struct dump *d, size_t i)
{
	d->to = admin_new(d->a, parts[i].type);
	parts[i].build(d);
	return d->to;
}

/* Each element of the one repeated field of that name. */
static int resource(const struct areq *r, struct dump *d, Envoy__Admin__V3__ConfigDump *all,
		    const char *name, const char *mask)
{
	bool eds = areq_param(r, "include_eds") != NULL;
	size_t i, k, n;

	for (i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		const ProtobufCFieldDescriptor *f =
			protobuf_c_message_descriptor_get_field_by_name(parts[i].type, name);
		ProtobufCMessage *m, **v;

		if (!f || (parts[i].eds && !eds))
			continue;
		if (f->label != PROTOBUF_C_LABEL_REPEATED)
			return areq_text(r, 400,
					 "%s is not a repeated field. Use ?mask=%s to get only "
					 "this field\n",
					 name, name);
		m = build(d, i);
		v = *(ProtobufCMessage ***)((char *)m + f->offset);
		n = *(size_t *)((char *)m + f->quantifier_offset);
		for (k = 0; k < n; k++) {
			if (mask && !admin_mask(d->a, v[k], mask))
				return areq_text(r, 400,
						 "FieldMask %s could not be successfully used.\n",
						 mask);
			admin_push(d->a, &all->configs, &all->n_configs,
				   weft_cfg_any_new(d->a, v[k]));
		}
		return areq_json(r, &all->base);
	}
	return areq_text(r, 404, "%s not found in config dump\n", name);
}

int admin_config_dump(struct areq *r)
{
	const char *name = areq_param(r, "resource"), *mask = areq_param(r, "mask");
	const char *regex = areq_param(r, "name_regex");
	bool eds = areq_param(r, "include_eds") != NULL;
	Envoy__Admin__V3__ConfigDump *all = NEW(r->arena, config_dump);
	struct dump d = {.a = r->arena, .w = r->w};
	size_t i, n = 0;

	if (mask && !*mask)
		mask = NULL;
	if (regex) {
		struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
		struct weft_cfg c = {.arena = r->arena, .errs = errs};
		int err = weft_regex_compile(&c, NULL, regex, &d.name);

		if (err)
			areq_text(r, 400, "Error while parsing name_regex from %s: %s\n", regex,
				  errs->v[0].msg);
		free(errs);
		if (err)
			return 400;
	}
	if (name)
		return resource(r, &d, all, name, mask);
	for (i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		ProtobufCMessage *m;

		if (parts[i].eds && !eds)
			continue;
		m = build(&d, i);
		if (mask && !admin_mask(r->arena, m, mask))
			continue;
		n++;
		admin_push(r->arena, &all->configs, &all->n_configs, weft_cfg_any_new(r->arena, m));
	}
	if (mask && !n)
		return areq_text(r, 400, "FieldMask %s could not be successfully used.\n", mask);
	return areq_json(r, &all->base);
}
