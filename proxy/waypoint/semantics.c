/* Mistakes between parts of a configuration that each part alone cannot see. Warnings: nothing here
 * keeps a configuration from being used. */
#include "proxy/waypoint/waypoint.h"
#include "xds/proto/envoy/config/core/v3/grpc_service.pb-c.h"
#include "xds/proto/envoy/extensions/upstreams/http/v3/http_protocol_options.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

struct names {
	const char **v;
	size_t n, cap;
};
struct sem {
	struct weft_cfg c;
	struct names used, have;
	bool collect; /* first walk: names only */
	bool dynamic; /* clusters and listeners also come from elsewhere */
	const Envoy__Config__Bootstrap__V3__Bootstrap *boot;
};

static void name_add(struct names *u, const char *name)
{
	if (!name || !*name)
		return;
	if (u->n == u->cap) {
		u->cap = u->cap ? u->cap * 2 : 64;
		u->v = weft_xrealloc(u->v, u->cap * sizeof(*u->v));
	}
	u->v[u->n++] = name;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void names_sort(struct names *u)
{
	if (u->n)
		qsort(u->v, u->n, sizeof(*u->v), by_text);
}

static bool names_has(const struct names *u, const char *name)
{
	return u->n && bsearch(&name, u->v, u->n, sizeof(*u->v), by_text);
}

/* ---- checks of single messages, run for each in the tree */
static const Envoy__Config__Cluster__V3__Cluster *cluster_named(const struct sem *s,
								const char *name)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *r =
		s->boot->static_resources;
	size_t i;

	for (i = 0; r && name && i < r->n_clusters; i++)
		if (r->clusters[i]->name && !strcmp(r->clusters[i]->name, name))
			return r->clusters[i];
	return NULL;
}

/* It speaks HTTP/1 only, whatever the client does. */
static bool only_h1(struct sem *s, const Envoy__Config__Cluster__V3__Cluster *m)
{
	typedef Envoy__Extensions__Upstreams__Http__V3__HttpProtocolOptions options;
	const ProtobufCMessage *in;
	const options *o;
	size_t i;

	if (m->http2_protocol_options)
		return false;
	for (i = 0; i < m->n_typed_extension_protocol_options; i++) {
		in = m->typed_extension_protocol_options[i]->value
			     ? weft_cfg_any(&s->c, NULL,
					    m->typed_extension_protocol_options[i]->value, NULL)
			     : NULL;
		if (!in ||
		    in->descriptor !=
			    &envoy__extensions__upstreams__http__v3__http_protocol_options__descriptor)
			continue;
		o = (const options *)in;
		if (o->upstream_protocol_options_case !=
		    ENVOY__EXTENSIONS__UPSTREAMS__HTTP__V3__HTTP_PROTOCOL_OPTIONS__UPSTREAM_PROTOCOL_OPTIONS_EXPLICIT_HTTP_CONFIG)
			return false;
		return o->explicit_http_config->protocol_config_case ==
		       ENVOY__EXTENSIONS__UPSTREAMS__HTTP__V3__HTTP_PROTOCOL_OPTIONS__EXPLICIT_HTTP_CONFIG__PROTOCOL_CONFIG_HTTP_PROTOCOL_OPTIONS;
	}
	return true;
}

static void grpc_cluster(struct sem *s, const struct weft_path *at, const char *name)
{
	const Envoy__Config__Cluster__V3__Cluster *m = cluster_named(s, name);

	if (m && only_h1(s, m))
		weft_cfg_warn(&s->c, at,
			      "\"%s\" is for gRPC, and the cluster speaks HTTP/1: it wants "
			      "explicit_http_config.http2_protocol_options",
			      name);
}

static void on_grpc_service(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Core__V3__GrpcService__EnvoyGrpc *g = (const void *)m;
	struct weft_path p = {at, "cluster_name", -1};

	grpc_cluster(s, &p, g->cluster_name);
}

static void on_route(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Route__V3__Route *r = (const void *)m;
	const Envoy__Config__Route__V3__RouteAction *a;
	struct weft_path p = {at, "route", -1}, pc = {&p, "cluster", -1}, pt = {&p, "timeout", -1},
			 pr = {&p, "retry_policy", -1};

	if (r->action_case != ENVOY__CONFIG__ROUTE__V3__ROUTE__ACTION_ROUTE)
		return;
	a = r->route;
	if (r->match && r->match->grpc &&
	    a->cluster_specifier_case ==
		    ENVOY__CONFIG__ROUTE__V3__ROUTE_ACTION__CLUSTER_SPECIFIER_CLUSTER)
		grpc_cluster(s, &pc, a->cluster);
	if (a->retry_policy && (!a->retry_policy->retry_on || !*a->retry_policy->retry_on))
		weft_cfg_warn(&s->c, &pr, "has no retry_on: nothing is retried");
	if (a->retry_policy && a->timeout && !weft_cfg_ms(a->timeout, 0) &&
	    !a->retry_policy->per_try_timeout)
		weft_cfg_warn(&s->c, &pt,
			      "is 0, which is no timeout: a try that hangs is never given up "
			      "without retry_policy.per_try_timeout");
}

static void on_health_check(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Core__V3__HealthCheck *h = (const void *)m;
	struct weft_path p = {at, "timeout", -1};
	long long t = weft_cfg_ms(h->timeout, 0), i = weft_cfg_ms(h->interval, 0);

	if (i && t > i)
		weft_cfg_warn(&s->c, &p,
			      "is %lld ms, beyond the interval of %lld ms: checks come later than "
			      "that",
			      t, i);
}

static void on_listener(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Listener__V3__Listener *l = (const void *)m;
	size_t i;

	for (i = 0; i < l->n_listener_filters; i++) {
		const Envoy__Config__Listener__V3__ListenerFilter *f = l->listener_filters[i];

		if (f->config_type_case ==
			    ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER__CONFIG_TYPE_TYPED_CONFIG &&
		    f->typed_config->type_url &&
		    strstr(f->typed_config->type_url, ".tls_inspector."))
			return;
	}
	for (i = 0; i < l->n_filter_chains; i++) {
		const Envoy__Config__Listener__V3__FilterChainMatch *k =
			l->filter_chains[i]->filter_chain_match;
		struct weft_path p = {at, "filter_chains", (int)i},
				 pm = {&p, "filter_chain_match", -1};
		const char *by = NULL;

		if (k && k->n_server_names)
			by = "server_names";
		else if (k && k->transport_protocol && !strcmp(k->transport_protocol, "tls"))
			by = "transport_protocol";
		if (by) {
			struct weft_path pb = {&pm, by, -1};

			weft_cfg_warn(&s->c, &pb,
				      "nothing reads it from the connection: listener_filters has "
				      "no envoy.filters.listener.tls_inspector");
			return;
		}
	}
}

static const struct {
	const char *type;
	void (*run)(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m);
} checks[] = {
	{"envoy.config.core.v3.GrpcService.EnvoyGrpc", on_grpc_service},
	{"envoy.config.route.v3.Route", on_route},
	{"envoy.config.core.v3.HealthCheck", on_health_check},
	{"envoy.config.listener.v3.Listener", on_listener},
};

/* ---- the tree */
static bool names_cluster(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *type = m->descriptor->name;

	if (!strcmp(f->name, "cluster") || !strcmp(f->name, "cluster_name") ||
	    !strcmp(f->name, "local_cluster_name"))
		return strcmp(type, "envoy.config.core.v3.Node") != 0 &&
		       strcmp(type, "envoy.config.endpoint.v3.ClusterLoadAssignment") != 0;
	return !strcmp(f->name, "name") &&
	       (!strcmp(type, "envoy.config.route.v3.WeightedCluster.ClusterWeight") ||
		!strcmp(type, "envoy.extensions.filters.network.tcp_proxy.v3."
			      "TcpProxy.WeightedCluster.ClusterWeight"));
}

static void use(struct sem *s, const struct weft_path *at, const char *name)
{
	const char *near;

	if (s->collect) {
		name_add(&s->used, name);
		return;
	}
	if (!name || !*name || s->dynamic || names_has(&s->have, name))
		return;
	near = s->have.n ? weft_suggest(name, s->have.v, s->have.n) : NULL;
	weft_cfg_warn(&s->c, at, "there is no cluster \"%s\"%s%s%s", name,
		      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static void walk(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
		 unsigned depth);

static void walk_field(struct sem *s, const struct weft_path *up, const ProtobufCMessage *m,
		       const ProtobufCFieldDescriptor *f, unsigned depth)
{
	const char *at = (const char *)m + f->offset;
	bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
	const void *const *v = (const void *const *)at;
	size_t n = 1, i;

	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)((const char *)m + f->quantifier_offset) != f->id)
		return;
	if (many) {
		n = *(const size_t *)((const char *)m + f->quantifier_offset);
		v = *(const void *const *const *)at;
	}
	for (i = 0; i < n; i++) {
		struct weft_path p = {up, f->name, many ? (int)i : -1};

		if (f->type == PROTOBUF_C_TYPE_STRING && !many && names_cluster(m, f))
			use(s, &p, *v);
		else if (f->type == PROTOBUF_C_TYPE_MESSAGE && v[i])
			walk(s, &p, v[i], depth + 1);
	}
}

static void walk(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
		 unsigned depth)
{
	unsigned i;

	if (depth > DEPTH_MAX)
		return;
	if (m->descriptor == &google__protobuf__any__descriptor) {
		const ProtobufCMessage *in = weft_cfg_any(&s->c, NULL, (const void *)m, NULL);

		if (in)
			walk(s, at, in, depth + 1);
		return;
	}
	for (i = 0; !s->collect && i < sizeof(checks) / sizeof(*checks); i++)
		if (!strcmp(m->descriptor->name, checks[i].type))
			checks[i].run(s, at, m);
	for (i = 0; i < m->descriptor->n_fields; i++)
		walk_field(s, at, m, &m->descriptor->fields[i], depth);
}

void waypoint_semantics(struct waypoint *w, struct weft_errs *warns)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap *m = w->boot.msg;
	const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *r =
		m ? m->static_resources : NULL;
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct sem s = {
		.c = {.arena = weft_arena_new(0),
		      .errs = errs,
		      .warns = warns,
		      .marks = w->boot.marks},
		.boot = m,
		.dynamic = m && m->dynamic_resources &&
			   (m->dynamic_resources->cds_config || m->dynamic_resources->lds_config)};
	struct weft_path top = {NULL, "static_resources", -1};
	size_t i;

	if (!m)
		goto out;
	s.collect = true;
	walk(&s, NULL, &m->base, 0);
	names_sort(&s.used);
	for (i = 0; r && i < r->n_clusters; i++) {
		struct weft_path p = {&top, "clusters", (int)i}, pn = {&p, "name", -1};

		name_add(&s.have, r->clusters[i]->name);
		if (!s.dynamic && r->clusters[i]->name && *r->clusters[i]->name &&
		    !names_has(&s.used, r->clusters[i]->name))
			weft_cfg_warn(&s.c, &pn, "nothing uses the cluster \"%s\"",
				      r->clusters[i]->name);
	}
	names_sort(&s.have);
	s.collect = false;
	walk(&s, NULL, &m->base, 0);
out:
	free(s.used.v);
	free(s.have.v);
	free(errs);
	weft_arena_free(s.c.arena);
}

struct at {
	const char *name;
	size_t i;
};

static int by_name(const void *a, const void *b)
{
	const struct at *x = a, *y = b;
	int d = strcmp(x->name, y->name);

	return d ? d : x->i < y->i ? -1 : 1;
}

int waypoint_duplicates(struct weft_cfg *c,
			const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *r)
{
	struct weft_path top = {NULL, "static_resources", -1};
	struct at *v;
	size_t i;
	int err = 0;

	if (!r || !r->n_clusters)
		return 0;
	v = weft_xcalloc(r->n_clusters, sizeof(*v));
	for (i = 0; i < r->n_clusters; i++)
		v[i] = (struct at){r->clusters[i]->name ? r->clusters[i]->name : "", i};
	qsort(v, r->n_clusters, sizeof(*v), by_name);
	for (i = 1; i < r->n_clusters; i++)
		if (*v[i].name && !strcmp(v[i].name, v[i - 1].name)) {
			struct weft_path p = {&top, "clusters", (int)v[i].i}, pn = {&p, "name", -1};

			err |= weft_cfg_fail(c, &pn, "\"%s\" is the name of clusters[%zu] too",
					     v[i].name, v[i - 1].i);
		}
	free(v);
	return err;
}
