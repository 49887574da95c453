/* envoy.config.cluster.v3.Cluster into a struct weft_cluster. */
#include "proxy/core/arena.h"
#include "proxy/upstream/cluster_int.h"
#include "xds/wire.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Config__Cluster__V3__Cluster Cluster;
#define CLUSTER(x) ENVOY__CONFIG__CLUSTER__V3__CLUSTER__##x

/* What the parts share while a message is read. */
struct make {
	struct weft_cfg *c;
	const struct weft_path *at;
	struct weft_cluster *cl;
	const Cluster *m;
};

static struct weft_path field(const struct make *k, const char *name)
{
	return (struct weft_path){k->at, name, -1};
}

/* ---- type */
static void type(struct make *k)
{
	static const enum weft_cluster_type types[] = {
		[CLUSTER(DISCOVERY_TYPE__STATIC)] = WEFT_CLUSTER_STATIC,
		[CLUSTER(DISCOVERY_TYPE__STRICT_DNS)] = WEFT_CLUSTER_STRICT_DNS,
		[CLUSTER(DISCOVERY_TYPE__LOGICAL_DNS)] = WEFT_CLUSTER_LOGICAL_DNS,
		[CLUSTER(DISCOVERY_TYPE__EDS)] = WEFT_CLUSTER_EDS,
		[CLUSTER(DISCOVERY_TYPE__ORIGINAL_DST)] = WEFT_CLUSTER_ORIGINAL_DST,
	};
	const struct weft_path custom = field(k, "cluster_type"),
			       eds = field(k, "eds_cluster_config"),
			       load = field(k, "load_assignment");

	if (k->m->cluster_discovery_type_case == CLUSTER(CLUSTER_DISCOVERY_TYPE_CLUSTER_TYPE)) {
		weft_cfg_fail(k->c, &custom, "%.100s is not supported: use type",
			      k->m->cluster_type->name ? k->m->cluster_type->name : "");
		return;
	}
	if (k->m->type < sizeof(types) / sizeof(types[0]))
		k->cl->type = types[k->m->type];
	if (k->cl->type == WEFT_CLUSTER_EDS &&
	    (!k->m->eds_cluster_config || !k->m->eds_cluster_config->eds_config))
		weft_cfg_fail(k->c, &eds, "is required in a cluster of type EDS");
	if (k->cl->type != WEFT_CLUSTER_EDS && k->m->eds_cluster_config)
		weft_cfg_fail(k->c, &eds, "is for clusters of type EDS");
	if (k->m->load_assignment &&
	    (k->cl->type == WEFT_CLUSTER_EDS || k->cl->type == WEFT_CLUSTER_ORIGINAL_DST))
		weft_cfg_fail(k->c, &load,
			      "is for clusters of type STATIC, STRICT_DNS and LOGICAL_DNS");
}

static char *lower(struct weft_arena *a, const char *s)
{
	char *r = weft_arena_strdup(a, s);

	for (char *p = r; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p += 'a' - 'A';
	return r;
}

static void original_dst(struct make *k)
{
	const Envoy__Config__Cluster__V3__Cluster__OriginalDstLbConfig *m =
		k->m->lb_config_case == CLUSTER(LB_CONFIG_ORIGINAL_DST_LB_CONFIG)
			? k->m->original_dst_lb_config
			: NULL;
	const struct weft_path config = field(k, "original_dst_lb_config"),
			       port = {&config, "upstream_port_override", -1};
	struct weft_original_dst_conf *o;
	uint32_t p;

	if (k->cl->type != WEFT_CLUSTER_ORIGINAL_DST) {
		if (m)
			weft_cfg_fail(k->c, &config, "is for clusters of type ORIGINAL_DST");
		return;
	}
	o = weft_arena_alloc(k->cl->arena, sizeof(*o));
	k->cl->priv->original_dst = o;
	if (!m)
		return;
	p = weft_cfg_u32(m->upstream_port_override, 0);
	if (p > 65535)
		weft_cfg_fail(k->c, &port, "must be at most 65535, is %u", p);
	o->port = (uint16_t)p;
	if (m->use_http_header)
		o->header = m->http_header_name && *m->http_header_name
				    ? lower(k->cl->arena, m->http_header_name)
				    : "x-envoy-original-dst-host";
	k->cl->original_dst_header = o->header;
}

/* ---- load balancing */
static const ProtobufCMessage *chosen_policy(struct make *k, struct weft_path *ret_at,
					     struct weft_path *levels)
{
	const Envoy__Config__Cluster__V3__LoadBalancingPolicy *p = k->m->load_balancing_policy;

	levels[0] = field(k, "load_balancing_policy");
	for (size_t i = 0; i < p->n_policies; i++) {
		const Envoy__Config__Core__V3__TypedExtensionConfig *t =
			p->policies[i]->typed_extension_config;
		const ProtobufCMessageDescriptor *d =
			t && t->typed_config ? weft_cfg_type(t->typed_config->type_url) : NULL;

		levels[1] = (struct weft_path){&levels[0], "policies", (int)i};
		levels[2] = (struct weft_path){&levels[1], "typed_extension_config", -1};
		*ret_at = (struct weft_path){&levels[2], "typed_config", -1};
		/* as Envoy: the first one that is known */
		if (d && (weft_lb_policy_find(d) ||
			  !strcmp(d->name, "envoy.extensions.load_balancing_policies.cluster_"
					   "provided.v3.ClusterProvided")))
			return weft_cfg_any(k->c, ret_at, t->typed_config, NULL);
	}
	weft_cfg_fail(k->c, &levels[0], "has no policy that is supported");
	return NULL;
}

static void lb_policy(struct make *k)
{
	bool typed = k->m->load_balancing_policy, provided;
	const struct weft_path enumerated = field(k, "lb_policy");
	struct weft_path at = enumerated, levels[3];
	const ProtobufCMessage *m = NULL;

	provided = k->m->lb_policy == CLUSTER(LB_POLICY__CLUSTER_PROVIDED) && !typed;
	if (typed) {
		m = chosen_policy(k, &at, levels);
		if (!m)
			return;
		k->cl->lb = weft_lb_policy_find(m->descriptor);
		provided = !k->cl->lb;
	} else if (k->m->lb_policy == CLUSTER(LB_POLICY__LOAD_BALANCING_POLICY_CONFIG)) {
		weft_cfg_fail(k->c, &enumerated,
			      "LOAD_BALANCING_POLICY_CONFIG wants load_balancing_policy");
		return;
	}
	if (provided != (k->cl->type == WEFT_CLUSTER_ORIGINAL_DST)) {
		weft_cfg_fail(k->c, &at,
			      provided ? "CLUSTER_PROVIDED is for clusters of type ORIGINAL_DST"
				       : "must be CLUSTER_PROVIDED in a cluster of type "
					 "ORIGINAL_DST");
		return;
	}
	for (size_t i = 0; !typed && !provided && !m && weft_lb_policy_at(i); i++) {
		k->cl->lb = weft_lb_policy_at(i);
		m = k->cl->lb->of_cluster(k->c->arena, k->m);
	}
	if (!typed && k->m->lb_config_case != CLUSTER(LB_CONFIG__NOT_SET)) {
		const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(
			k->m->base.descriptor, (unsigned)k->m->lb_config_case);

		at = field(k, f->name);
	}
	if (m && k->cl->lb)
		k->cl->lb->ext.prepare(k->c, &at, m, &k->cl->lb_conf);
	else if (!provided)
		weft_cfg_fail(k->c, &enumerated, "%d is not supported", (int)k->m->lb_policy);
}

static const struct weft_locality_conf no_locality = {.routing_enabled_pct = 100,
						      .min_cluster_size = 6};

static void common_lb(struct make *k)
{
	const Envoy__Config__Cluster__V3__Cluster__CommonLbConfig *m = k->m->common_lb_config;
	struct weft_cluster_priv *p = k->cl->priv;
	const struct weft_lb_common *conf = k->cl->lb_conf;

	p->locality = conf ? &conf->locality : &no_locality;
	p->panic_pct = 50;
	p->merge_window_ms = 1000;
	p->override_statuses = 1u << ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNKNOWN |
			       1u << ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__HEALTHY |
			       1u << ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__DEGRADED;
	if (!m)
		return;
	if (m->healthy_panic_threshold)
		p->panic_pct = (uint32_t)lround(m->healthy_panic_threshold->value);
	p->merge_window_ms = (unsigned)weft_cfg_ms(m->update_merge_window, 1000);
	p->ignore_new_hosts_until_first_hc = m->ignore_new_hosts_until_first_hc;
	p->close_on_host_set_change = m->close_connections_on_host_set_change;
	if (!m->override_host_status)
		return;
	p->override_statuses = 0;
	for (size_t i = 0; i < m->override_host_status->n_statuses; i++)
		p->override_statuses |= 1u << m->override_host_status->statuses[i];
}

/* ---- circuit breakers */
typedef Envoy__Config__Cluster__V3__CircuitBreakers__Thresholds Thresholds;

static void one_breaker(struct make *k, const struct weft_path *at, const Thresholds *m)
{
	bool high = m->priority == ENVOY__CONFIG__CORE__V3__ROUTING_PRIORITY__HIGH;
	struct weft_breaker *b = &k->cl->breaker[high ? WEFT_PRIORITY_HIGH : WEFT_PRIORITY_DEFAULT];

	b->max_connections = weft_cfg_u32(m->max_connections, 1024);
	b->max_pending = weft_cfg_u32(m->max_pending_requests, 1024);
	b->max_requests = weft_cfg_u32(m->max_requests, 1024);
	b->max_retries = weft_cfg_u32(m->max_retries, 3);
	b->max_pools = weft_cfg_u32(m->max_connection_pools, UINT32_MAX);
	b->track_remaining = m->track_remaining;
	if (!m->retry_budget)
		return;
	b->budget_pct =
		m->retry_budget->budget_percent ? m->retry_budget->budget_percent->value : 20;
	b->budget_min = weft_cfg_u32(m->retry_budget->min_retry_concurrency, 3);
}

static void per_host(struct make *k, const struct weft_path *at, const Thresholds *m)
{
	if (m->max_pending_requests || m->max_requests || m->max_retries || m->retry_budget ||
	    m->max_connection_pools || m->track_remaining)
		weft_cfg_fail(k->c, at, "may only have max_connections");
	if (m->priority == ENVOY__CONFIG__CORE__V3__ROUTING_PRIORITY__DEFAULT && m->max_connections)
		k->cl->priv->per_host_max_connections = m->max_connections->value;
}

static void breakers(struct make *k)
{
	const Envoy__Config__Cluster__V3__CircuitBreakers *m = k->m->circuit_breakers;
	const struct weft_path at = field(k, "circuit_breakers");
	bool seen[WEFT_PRIORITIES] = {0};

	k->cl->breaker = weft_arena_alloc(k->cl->arena, WEFT_PRIORITIES * sizeof(*k->cl->breaker));
	k->cl->priv->per_host_max_connections = UINT32_MAX;
	for (int i = 0; i < WEFT_PRIORITIES; i++) {
		struct weft_breaker *b = &k->cl->breaker[i];

		b->max_connections = b->max_pending = b->max_requests = 1024;
		b->max_retries = 3;
		b->max_pools = UINT32_MAX;
		b->budget_pct = -1;
	}
	for (size_t i = 0; m && i < m->n_thresholds; i++) {
		const struct weft_path p = {&at, "thresholds", (int)i};
		bool high = m->thresholds[i]->priority ==
			    ENVOY__CONFIG__CORE__V3__ROUTING_PRIORITY__HIGH;

		/* as Envoy: of two for one priority the first holds */
		if (seen[high])
			weft_cfg_warn(k->c, &p, "is not used: there is one for this priority");
		else
			one_breaker(k, &p, m->thresholds[i]);
		seen[high] = true;
	}
	for (size_t i = 0; m && i < m->n_per_host_thresholds; i++) {
		const struct weft_path p = {&at, "per_host_thresholds", (int)i};

		per_host(k, &p, m->per_host_thresholds[i]);
	}
}

/* ---- connections */
static void keepalive(struct make *k)
{
	const Envoy__Config__Cluster__V3__UpstreamConnectionOptions *m =
		k->m->upstream_connection_options;
	struct weft_cluster_priv *p = k->cl->priv;

	if (!m || !m->tcp_keepalive)
		return;
	p->keep_probes = weft_cfg_u32(m->tcp_keepalive->keepalive_probes, 9);
	p->keep_idle_s = weft_cfg_u32(m->tcp_keepalive->keepalive_time, 7200);
	p->keep_interval_s = weft_cfg_u32(m->tcp_keepalive->keepalive_interval, 75);
}

static void source(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Core__V3__SocketAddress *m, struct weft_bind *b)
{
	const struct weft_path address = {at, "address", -1}, port = {at, "port_value", -1};
	struct weft_sockaddr a = {0}, *to;

	if (!m)
		return;
	if (weft_ip_parse(m->address ? m->address : "", &a.ip)) {
		weft_cfg_fail(c, &address, "must be an IP address, is \"%.100s\"",
			      m->address ? m->address : "");
		return;
	}
	if (m->port_value > 65535)
		weft_cfg_fail(c, &port, "must be at most 65535, is %u", m->port_value);
	a.port = (uint16_t)m->port_value;
	to = &b->source[a.ip.family == 6];
	if (to->ip.family)
		weft_cfg_fail(c, &address, "there is one of this family already");
	*to = a;
}

void cluster_bind(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Core__V3__BindConfig *m, struct weft_bind *b)
{
	const struct weft_path src = {at, "source_address", -1};

	source(c, &src, m->source_address, b);
	for (size_t i = 0; i < m->n_extra_source_addresses; i++) {
		const struct weft_path p = {at, "extra_source_addresses", (int)i},
				       a = {&p, "address", -1};

		source(c, &a, m->extra_source_addresses[i]->address, b);
	}
	for (size_t i = 0; i < m->n_socket_options; i++) {
		const struct weft_path p = {at, "socket_options", (int)i},
				       state = {&p, "state", -1};

		if (m->socket_options[i]->state ==
		    ENVOY__CONFIG__CORE__V3__SOCKET_OPTION__SOCKET_STATE__STATE_LISTENING)
			weft_cfg_fail(c, &state, "a connecting socket never listens");
	}
	b->freebind = weft_cfg_bool(m->freebind, false);
	b->options = (const Envoy__Config__Core__V3__SocketOption *const *)m->socket_options;
	b->n_options = m->n_socket_options;
}

static void plain(struct make *k)
{
	struct weft_cluster *cl = k->cl;
	const Cluster *m = k->m;

	cl->connect_ms = (unsigned)weft_cfg_ms(m->connect_timeout, 5000);
	cl->buffer_bytes = weft_cfg_u32(m->per_connection_buffer_limit_bytes, 1 << 20);
	cl->close_on_health_failure = m->close_connections_on_host_health_failure;
	cl->priv->ignore_health_on_removal = m->ignore_health_on_host_removal;
	cl->priv->pool_per_downstream = m->connection_pool_per_downstream_connection;
	cl->priv->cleanup_ms = (unsigned)weft_cfg_ms(m->cleanup_interval, 5000);
	cl->preconnect_ratio = 1;
	if (m->preconnect_policy && m->preconnect_policy->per_upstream_preconnect_ratio)
		cl->preconnect_ratio = m->preconnect_policy->per_upstream_preconnect_ratio->value;
}

/* ---- all of it */
static _Atomic uint64_t next_id = 1;

static struct weft_cluster *start(struct make *k, const uint8_t *packed, size_t n)
{
	/* most clusters fit into one block with little to spare */
	struct weft_arena *a = weft_arena_new((CLUSTER_ARENA + 4 * n + 15) & ~(size_t)15);
	struct weft_cluster *cl = weft_arena_alloc(a, sizeof(*cl));
	struct weft_err err = {0};

	cl->arena = a;
	atomic_init(&cl->refs, 1);
	cl->priv = weft_arena_alloc(a, sizeof(*cl->priv));
	cl->id = atomic_fetch_add(&next_id, 1);
	cl->msg = (const Cluster *)weft_wire_unpack(
		a, &envoy__config__cluster__v3__cluster__descriptor, packed, n, false, &err);
	if (!cl->msg) {
		weft_cfg_fail(k->c, k->at, "%s", err.msg);
		weft_arena_free(a);
		return NULL;
	}
	cl->name = cl->msg->name ? cl->msg->name : "";
	cl->alt_stat_name = cl->msg->alt_stat_name && *cl->msg->alt_stat_name
				    ? cl->msg->alt_stat_name
				    : cl->name;
	k->cl = cl;
	k->m = cl->msg;
	return cl;
}

static void unscope(void *arg)
{
	weft_scope_unref(arg);
}

/* Last, so that a refused cluster leaves no numbers behind. ':' is not for names of statistics. */
static void scope(struct weft_cluster *cl)
{
	char *name = weft_arena_strdup(cl->arena, cl->alt_stat_name);

	for (char *p = name; (p = strchr(p, ':'));)
		*p = '_';
	cl->scope = weft_scope_get(&weft_cluster_scope, name);
	weft_arena_cleanup(cl->arena, unscope, cl->scope);
}

static void untransport(void *arg)
{
	weft_transport_free(arg);
}

static void parts(struct make *k)
{
	const struct weft_path outlier = field(k, "outlier_detection"),
			       bind = field(k, "upstream_bind_config");
	struct weft_cluster *cl = k->cl;

	type(k);
	plain(k);
	original_dst(k);
	lb_policy(k);
	common_lb(k);
	breakers(k);
	keepalive(k);
	if (k->m->upstream_bind_config)
		cluster_bind(k->c, &bind, k->m->upstream_bind_config, &cl->priv->bind);
	cluster_http(k->c, k->at, cl);
	if (cl->msg->outlier_detection)
		weft_outlier_prepare(k->c, &outlier, cl);
	if (cl->msg->n_health_checks)
		weft_health_prepare(k->c, k->at, cl);
	if (cl->type == WEFT_CLUSTER_STRICT_DNS || cl->type == WEFT_CLUSTER_LOGICAL_DNS)
		weft_dns_check(k->c, k->at, cl->msg);
	if (!weft_transport_new(k->c, k->at, cl, &cl->transport))
		weft_arena_cleanup(cl->arena, untransport, cl->transport);
}

struct weft_cluster *cluster_make(struct weft_cfg *c, const struct weft_path *at, const Cluster *m,
				  const uint8_t *packed, size_t n_packed)
{
	struct weft_errs mine; /* slots are cleared when they are taken */
	struct weft_cfg sub = *c;
	struct make k = {.c = &sub, .at = at};
	struct weft_cluster *cl;

	mine.n = mine.dropped = 0;
	sub.errs = &mine;
	sub.marks = NULL; /* of another copy of the message */
	sub.decoded = NULL;
	cl = start(&k, packed, n_packed);
	if (cl) {
		sub.arena = cl->arena;
		parts(&k);
	}
	for (int i = 0; i < mine.n; i++) {
		struct weft_err *e = weft_errs_next(c->errs);

		if (e)
			*e = mine.v[i];
	}
	if (cl && !mine.n && !mine.dropped) {
		scope(cl);
		return cl;
	}
	if (cl)
		weft_arena_free(cl->arena);
	return NULL;
}

void weft_cluster_ref(struct weft_cluster *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void weft_cluster_unref(struct weft_cluster *c)
{
	if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
		weft_arena_free(c->arena);
}

#define STAT(n, k, h)	     {#n, WEFT_##k, h},
#define STAT_AS(id, n, k, h) {n, WEFT_##k, h},
static const struct weft_scope_item items[] = {
#include "proxy/upstream/stats.def"
};
#undef STAT
#undef STAT_AS
const struct weft_scope_class weft_cluster_scope = {
	.prefix = "cluster",
	.tag = "envoy_cluster_name",
	.v = items,
	.n = sizeof(items) / sizeof(items[0]),
	.codes = true,
	.code_item = "upstream_rq",
};
