/* tcp_proxy's configuration. */
#include "proxy/l4/filters/tcp_priv.h"

#include "xds/proto/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb-c.h"
#include <ctype.h>
#include <errno.h>
#include <string.h>

enum { IDLE_MS = 3600 * 1000, CLUSTERS_MAX = 10000 };

typedef Envoy__Extensions__Filters__Network__TcpProxy__V3__TcpProxy msg_t;
typedef Envoy__Extensions__Filters__Network__TcpProxy__V3__TcpProxy__TunnelingConfig tunnel_t;
typedef Envoy__Extensions__Filters__Network__TcpProxy__V3__TcpProxy__WeightedCluster weighted_t;

static const struct weft_scope_item items[] = {
#define STAT(name, kind, help) {#name, WEFT_##kind, help},
#include "proxy/l4/filters/tcp_stats.def"
#undef STAT
};
static const struct weft_scope_class tcp_class = {.prefix = "tcp",
						  .tag = "envoy_tcp_prefix",
						  .v = items,
						  .n = sizeof(items) / sizeof(*items)};

static void scope_unref(void *arg)
{
	weft_scope_unref(arg);
}

static int targets(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		   struct tcp_conf *conf)
{
	struct weft_path pw = {at, "weighted_clusters", -1}, pc = {&pw, "clusters", -1};
	const weighted_t *w = m->weighted_clusters;
	struct tcp_target *v;
	size_t i;

	if (m->cluster_specifier_case ==
	    ENVOY__EXTENSIONS__FILTERS__NETWORK__TCP_PROXY__V3__TCP_PROXY__CLUSTER_SPECIFIER_CLUSTER) {
		v = weft_arena_alloc(c->arena, sizeof(*v));
		v->cluster = weft_arena_strdup(c->arena, m->cluster);
		v->upto = 1;
		conf->n_targets = 1;
	} else {
		if (w->n_clusters > CLUSTERS_MAX)
			return weft_cfg_fail(c, &pc, "has %zu clusters, more than %d",
					     w->n_clusters, CLUSTERS_MAX);
		v = weft_arena_alloc(c->arena, (w->n_clusters + 1) * sizeof(*v));
		conf->n_targets = w->n_clusters;
		for (i = 0; i < w->n_clusters; i++) {
			v[i].cluster = weft_arena_strdup(c->arena, w->clusters[i]->name);
			v[i].upto = (i ? v[i - 1].upto : 0) + w->clusters[i]->weight;
		}
	}
	conf->targets = v;
	conf->weights = v[conf->n_targets - 1].upto;
	return 0;
}

static int header(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Core__V3__HeaderValueOption *m, struct tcp_header *to)
{
	struct weft_path ph = {at, "header", -1}, pv = {&ph, "value", -1}, pk = {&ph, "key", -1};
	char *name, *p;
	bool append = weft_cfg_bool(m->append, true);

	if (!m->header || !m->header->key || !*m->header->key)
		return weft_cfg_fail(c, &pk, "must be set");
	if (m->header->key[0] == ':' || !strcasecmp(m->header->key, "host"))
		return weft_cfg_fail(c, &pk, "%s is not a header that can be added here",
				     m->header->key);
	name = weft_arena_strdup(c->arena, m->header->key);
	for (p = name; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	to->name = name;
	to->keep_empty = m->keep_empty_value;
	switch (m->append_action) {
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__ADD_IF_ABSENT:
		to->how = TCP_IF_ABSENT;
		break;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS:
		to->how = TCP_IF_PRESENT;
		break;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD:
		to->how = TCP_OVERWRITE;
		break;
	default:
		to->how = append ? TCP_APPEND : TCP_OVERWRITE;
	}
	return weft_format_prepare(c, &pv, m->header->value ?: "", &to->value);
}

static int tunnel(struct weft_cfg *c, const struct weft_path *at, const tunnel_t *m,
		  const struct tcp_tunnel_conf **ret)
{
	struct weft_path ph = {at, "hostname", -1}, pp = {at, "post_path", -1};
	struct tcp_tunnel_conf *t = weft_arena_alloc(c->arena, sizeof(*t));
	struct tcp_header *v = weft_arena_alloc(c->arena, (m->n_headers_to_add + 1) * sizeof(*v));
	size_t i;
	int err = weft_format_prepare(c, &ph, m->hostname ?: "", &t->hostname);

	if (m->post_path && *m->post_path && !m->use_post)
		err = weft_cfg_fail(c, &pp, "must not be set without use_post");
	if (m->use_post)
		t->post_path = m->post_path && *m->post_path
				       ? weft_arena_strdup(c->arena, m->post_path)
				       : "/";
	for (i = 0; i < m->n_headers_to_add; i++) {
		struct weft_path p = {at, "headers_to_add", (int)i};

		err |= header(c, &p, m->headers_to_add[i], &v[i]);
	}
	t->headers = v;
	t->n_headers = m->n_headers_to_add;
	*ret = t;
	return err ? -EINVAL : 0;
}

static int backoff(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		   struct tcp_conf *conf)
{
	struct weft_path p = {at, "backoff_options", -1}, px = {&p, "max_interval", -1};
	int64_t base, max;

	if (!m->backoff_options)
		return 0;
	base = weft_cfg_ms(m->backoff_options->base_interval, 0);
	max = weft_cfg_ms(m->backoff_options->max_interval, base * 10);
	if (max < base)
		return weft_cfg_fail(c, &px,
				     "must not be less than base_interval (%lld ms), is %lld ms",
				     (long long)base, (long long)max);
	conf->backoff_ms = (uint64_t)base;
	conf->backoff_max_ms = (uint64_t)max;
	return 0;
}

static int logging(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		   struct tcp_conf *conf)
{
	struct weft_path pl = {at, "access_log", -1},
			 pf = {at, "flush_access_log_on_connected", -1};

	if (m->access_log_options &&
	    (m->access_log_flush_interval || m->flush_access_log_on_connected))
		return weft_cfg_fail(c, &pf,
				     "and access_log_flush_interval must not be set beside "
				     "access_log_options");
	conf->log_connected = m->flush_access_log_on_connected;
	conf->log_every_ms = (uint64_t)weft_cfg_ms(m->access_log_flush_interval, 0);
	if (m->access_log_options) {
		conf->log_connected = m->access_log_options->flush_access_log_on_connected;
		conf->log_every_ms =
			(uint64_t)weft_cfg_ms(m->access_log_options->access_log_flush_interval, 0);
	}
	return weft_access_logs_prepare(c, &pl, m->access_log, m->n_access_log, &conf->logs);
}

static int hashing(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		   struct tcp_conf *conf)
{
	struct weft_path p = {at, "hash_policy", 0};

	if (!m->n_hash_policy)
		return 0;
	if (m->hash_policy[0]->policy_specifier_case !=
	    ENVOY__TYPE__V3__HASH_POLICY__POLICY_SPECIFIER_SOURCE_IP)
		return weft_cfg_fail(c, &p, "must be source_ip");
	conf->hash_source = true;
	return 0;
}

int tcp_conf_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		     const void **ret)
{
	struct weft_path pt = {at, "tunneling_config", -1};
	const msg_t *m = (const void *)msg;
	struct tcp_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	int err = 0;

	if (targets(c, at, m, conf))
		return -EINVAL;
	conf->idle_ms = (uint64_t)weft_cfg_ms(m->idle_timeout, IDLE_MS);
	conf->max_ms = (uint64_t)weft_cfg_ms(m->max_downstream_connection_duration, 0);
	if (m->max_downstream_connection_duration_jitter_percentage)
		conf->jitter = m->max_downstream_connection_duration_jitter_percentage->value / 100;
	conf->max_attempts = weft_cfg_u32(m->max_connect_attempts, 1);
	err |= hashing(c, at, m, conf);
	err |= backoff(c, at, m, conf);
	err |= logging(c, at, m, conf);
	if (m->tunneling_config)
		err |= tunnel(c, &pt, m->tunneling_config, &conf->tunnel);
	if (err)
		return -EINVAL;
	conf->scope = weft_scope_get(&tcp_class, m->stat_prefix ?: "");
	weft_arena_cleanup(c->arena, scope_unref, conf->scope);
	*ret = conf;
	return 0;
}
