/* Mistakes between parts of a configuration that each part alone cannot see. Errors are what Envoy
 * refuses too; the rest is told, and keeps nothing from being used. */
#include "proxy/waypoint/resource.h"
#include "xds/proto/envoy/config/core/v3/grpc_service.pb-c.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"
#include "xds/proto/envoy/extensions/upstreams/http/v3/http_protocol_options.pb-c.h"
#include "xds/yaml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEPTH_MAX = 64 };

struct names {
	const char **v;
	size_t n, cap;
};
struct sem {
	struct weft_cfg c;
	struct weft_cfg strict; /* whose errors count */
	struct names used, have;
	bool collect;		     /* first walk: names only */
	bool dynamic;		     /* clusters and listeners also come from elsewhere */
	struct weft_clusters *there; /* of a resource: asked instead of have; NULL */
	bool must_by_default;	     /* of tables that do not say */
	bool must; /* inside of a table whose clusters Envoy looks for, or of a source */
	int err;
	const Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager
		*hcm; /* the one around; NULL */
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

static const char *near_of(const struct sem *s, const char *name)
{
	return s->have.n ? weft_suggest(name, s->have.v, s->have.n) : NULL;
}

static void not_there(struct sem *s, const struct weft_path *at, const char *name)
{
	const char *near = near_of(s, name);

	weft_cfg_warn(&s->c, at, "there is no cluster \"%s\"%s%s%s", name,
		      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Refused. */
static void missing(struct sem *s, const struct weft_path *at, const char *name, const char *where)
{
	const char *near = near_of(s, name);

	s->err |=
		weft_cfg_fail(&s->strict, at, "there is no cluster \"%s\"%s%s%s%s", name, where,
			      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
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

/* Paths begin with a slash; "*" is that of OPTIONS. */
static void no_slash(struct sem *s, const struct weft_path *at, const char *field, const char *v)
{
	struct weft_path p = {at, field, -1};

	if (v && *v && *v != '/' && strcmp(v, "*"))
		weft_cfg_warn(&s->c, &p,
			      "\"%s\" does not begin with \"/\": no request has such a path", v);
}

static void on_match(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Route__V3__RouteMatch *r = (const void *)m;

	if (r->path_specifier_case == ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_PREFIX)
		no_slash(s, at, "prefix", r->prefix);
	if (r->path_specifier_case == ENVOY__CONFIG__ROUTE__V3__ROUTE_MATCH__PATH_SPECIFIER_PATH)
		no_slash(s, at, "path", r->path);
}

/* A source of configuration is there before what it gives. */
static void on_api_source(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Core__V3__ApiConfigSource *a = (const void *)m;
	size_t i;

	for (i = 0; i < a->n_grpc_services; i++) {
		struct weft_path p = {at, "grpc_services", (int)i}, pg = {&p, "envoy_grpc", -1},
				 pc = {&pg, "cluster_name", -1};
		const Envoy__Config__Core__V3__GrpcService *g = a->grpc_services[i];
		const Envoy__Config__Cluster__V3__Cluster *cl;

		if (g->target_specifier_case !=
		    ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__TARGET_SPECIFIER_ENVOY_GRPC)
			continue;
		cl = cluster_named(s, g->envoy_grpc->cluster_name);
		if (!cl)
			missing(s, &pc, g->envoy_grpc->cluster_name,
				" in static_resources, where a source of configuration needs it");
		else if (cl->cluster_discovery_type_case ==
				 ENVOY__CONFIG__CLUSTER__V3__CLUSTER__CLUSTER_DISCOVERY_TYPE_TYPE &&
			 cl->type == ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DISCOVERY_TYPE__EDS)
			s->err |= weft_cfg_fail(&s->strict, &pc,
						"\"%s\" is of type EDS: a source of configuration "
						"needs a cluster whose hosts are known without one",
						cl->name);
	}
}

/* A file or folder that is watched is there from the start, as Envoy wants it. */
static void on_source(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Core__V3__ConfigSource *cs = (const void *)m;
	struct weft_path p = {at, "path", -1}, pc = {at, "path_config_source", -1},
			 pp = {&pc, "path", -1};
	bool old = cs->config_source_specifier_case ==
		   ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_PATH;
	const char *path;
	struct stat st;

	if (!old &&
	    cs->config_source_specifier_case !=
		    ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_PATH_CONFIG_SOURCE)
		return;
	path = old ? cs->path : cs->path_config_source->path;
	if (path && *path && stat(path, &st))
		s->err |= weft_cfg_fail(&s->strict, old ? &p : &pp, "\"%s\": %s", path,
					strerror(errno));
}

/* A key of typed_per_filter_config is the name of a filter. */
static void filter_names(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
			 const ProtobufCFieldDescriptor *f)
{
	size_t n = *(const size_t *)((const char *)m + f->quantifier_offset), i, k;
	ProtobufCMessage *const *v =
		*(ProtobufCMessage *const *const *)((const char *)m + f->offset);
	const char *names[64], *near;
	struct weft_path p = {at, f->name, -1};

	if (!s->hcm || s->hcm->n_http_filters > 64)
		return;
	for (k = 0; k < s->hcm->n_http_filters; k++)
		names[k] = s->hcm->http_filters[k]->name ? s->hcm->http_filters[k]->name : "";
	for (i = 0; i < n; i++) {
		const char *key = *(const char *const *)((const char *)v[i] +
							 v[i]->descriptor->fields[0].offset);
		struct weft_path pk = {&p, key ? key : "", -1};

		for (k = 0; key && k < s->hcm->n_http_filters; k++)
			if (!strcmp(names[k], key))
				break;
		if (!key || k < s->hcm->n_http_filters)
			continue;
		near = weft_suggest(key, names, k);
		weft_cfg_warn(&s->c, &pk, "no filter of http_filters has that name%s%s%s",
			      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	}
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

/* What no connection is ever found to have. */
static void transports(struct sem *s, const struct weft_path *at,
		       const Envoy__Config__Listener__V3__Listener *l)
{
	size_t i;

	for (i = 0; i < l->n_filter_chains; i++) {
		const Envoy__Config__Listener__V3__FilterChainMatch *k =
			l->filter_chains[i]->filter_chain_match;
		struct weft_path p = {at, "filter_chains", (int)i},
				 pm = {&p, "filter_chain_match", -1},
				 pt = {&pm, "transport_protocol", -1};
		const char *v = k ? k->transport_protocol : NULL;

		if (v && *v && strcmp(v, "tls") && strcmp(v, "raw_buffer"))
			weft_cfg_warn(&s->c, &pt,
				      "\"%s\" is never found: connections are \"tls\" or "
				      "\"raw_buffer\"",
				      v);
	}
}

static void on_listener(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m)
{
	const Envoy__Config__Listener__V3__Listener *l = (const void *)m;
	size_t i;

	transports(s, at, l);
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
	const ProtobufCMessageDescriptor *type;
	void (*run)(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m);
} checks[] = {
	{&envoy__config__core__v3__grpc_service__envoy_grpc__descriptor, on_grpc_service},
	{&envoy__config__route__v3__route__descriptor, on_route},
	{&envoy__config__core__v3__health_check__descriptor, on_health_check},
	{&envoy__config__listener__v3__listener__descriptor, on_listener},
	{&envoy__config__route__v3__route_match__descriptor, on_match},
	{&envoy__config__core__v3__api_config_source__descriptor, on_api_source},
	{&envoy__config__core__v3__config_source__descriptor, on_source},
};

/* ---- the tree */
static bool names_cluster(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *type = m->descriptor->name;

	if (*f->name != 'c' && *f->name != 'l' && *f->name != 'n') /* most fields */
		return false;
	if (!strcmp(f->name, "cluster") || !strcmp(f->name, "cluster_name") ||
	    !strcmp(f->name, "local_cluster_name"))
		return strcmp(type, "envoy.config.core.v3.Node") != 0 &&
		       strcmp(type, "envoy.config.endpoint.v3.ClusterLoadAssignment") != 0;
	return !strcmp(f->name, "name") &&
	       (!strcmp(type, "envoy.config.route.v3.WeightedCluster.ClusterWeight") ||
		!strcmp(type, "envoy.extensions.filters.network.tcp_proxy.v3."
			      "TcpProxy.WeightedCluster.ClusterWeight"));
}

/* Warming ones count, too; they come in order of name. */
static void name_of(void *ctx, const struct weft_cluster_view *v)
{
	name_add(ctx, v->cluster->name);
}

static void use(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
		const char *name)
{
	/* Envoy looks for those of a static table among the static clusters */
	bool must = s->must && !strncmp(m->descriptor->name, "envoy.config.route.v3.", 22);

	if (s->collect) {
		name_add(&s->used, name);
		return;
	}
	if (!name || !*name || (s->there && weft_clusters_find(s->there, name)))
		return;
	if (s->there && !s->have.n)
		weft_clusters_each(s->there, name_of, &s->have);
	if (names_has(&s->have, name))
		return;
	if (must || m->descriptor == &envoy__config__bootstrap__v3__cluster_manager__descriptor)
		missing(s, at, name, "");
	else if (!s->dynamic)
		not_there(s, at, name);
}

static void walk(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
		 unsigned depth);

/* A map's entry: its key stands in the path. */
static void walk_entry(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
		       unsigned depth)
{
	const ProtobufCFieldDescriptor *k = &m->descriptor->fields[0],
				       *f = &m->descriptor->fields[1];
	const char *key = k->type == PROTOBUF_C_TYPE_STRING
				  ? *(const char *const *)((const char *)m + k->offset)
				  : NULL;
	struct weft_path p = {at, key ? key : "value", -1};
	const ProtobufCMessage *v =
		f->type == PROTOBUF_C_TYPE_MESSAGE
			? *(const ProtobufCMessage *const *)((const char *)m + f->offset)
			: NULL;

	if (v)
		walk(s, &p, v, depth + 1);
}

static void walk_field(struct sem *s, const struct weft_path *up, const ProtobufCMessage *m,
		       const ProtobufCFieldDescriptor *f, unsigned depth)
{
	const char *at = (const char *)m + f->offset;
	bool many = f->label == PROTOBUF_C_LABEL_REPEATED, map = many && weft_yaml_is_map(f);
	const void *const *v = (const void *const *)at;
	size_t n = 1, i;

	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)((const char *)m + f->quantifier_offset) != f->id)
		return;
	if (many) {
		n = *(const size_t *)((const char *)m + f->quantifier_offset);
		v = *(const void *const *const *)at;
	}
	if (map && n && !s->collect && !strcmp(f->name, "typed_per_filter_config"))
		filter_names(s, up, m, f);
	for (i = 0; i < n; i++) {
		struct weft_path p = {up, f->name, many && !map ? (int)i : -1};

		if (map) {
			walk_entry(s, &p, v[i], depth + 1);
		} else if (f->type == PROTOBUF_C_TYPE_STRING && !many && names_cluster(m, f))
			use(s, &p, m, *v);
		else if (f->type == PROTOBUF_C_TYPE_MESSAGE && v[i])
			walk(s, &p, v[i], depth + 1);
	}
}

/* What is around changes what is below. */
static void enter(struct sem *s, const ProtobufCMessage *m, struct sem *ret_was)
{
	const Envoy__Config__Route__V3__RouteConfiguration *rc = (const void *)m;

	ret_was->must = s->must;
	ret_was->hcm = s->hcm;
	if (m->descriptor ==
	    &envoy__extensions__filters__network__http_connection_manager__v3__http_connection_manager__descriptor)
		s->hcm = (const void *)m;
	else if (m->descriptor == &envoy__config__route__v3__route_configuration__descriptor)
		s->must = weft_cfg_bool(rc->validate_clusters, s->must_by_default);
}

static void walk(struct sem *s, const struct weft_path *at, const ProtobufCMessage *m,
		 unsigned depth)
{
	struct sem was;
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
		if (m->descriptor == checks[i].type)
			checks[i].run(s, at, m);
	enter(s, m, &was);
	for (i = 0; i < m->descriptor->n_fields; i++)
		walk_field(s, at, m, &m->descriptor->fields[i], depth);
	s->must = was.must;
	s->hcm = was.hcm;
}

int waypoint_semantics(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns)
{
	const Envoy__Config__Bootstrap__V3__Bootstrap *m = w->boot.msg;
	const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *r =
		m ? m->static_resources : NULL;
	/* what an Any has wrong was told by others */
	struct weft_errs *told = weft_xcalloc(1, sizeof(*told));
	struct sem s = {
		.c = {.arena = weft_arena_new(0),
		      .errs = told,
		      .warns = warns,
		      .marks = w->boot.marks},
		.strict = {.errs = errs},
		.boot = m,
		.must_by_default = true,
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
		if (!s.dynamic && !w->boot.bad && r->clusters[i]->name && *r->clusters[i]->name &&
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
	free(told);
	weft_arena_free(s.c.arena);
	return s.err;
}

int waypoint_resource_check(struct waypoint *w, struct weft_cfg *c, const ProtobufCMessage *m,
			    bool must)
{
	struct weft_errs *told = weft_xcalloc(1, sizeof(*told));
	struct sem s = {.c = {.arena = c->arena, .errs = told, .marks = c->marks},
			.strict = {.errs = c->errs},
			.there = w->clusters,
			.boot = w->boot.msg,
			.must_by_default = must,
			.dynamic = true};

	walk(&s, NULL, m, 0);
	free(s.have.v);
	free(told);
	return s.err;
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
