/* A Listener message as compiled. */
#include "proxy/waypoint/listener.h"

#include "proxy/codec/sniff.h"
#include "proxy/l4/als.h"
#include "xds/proto/envoy/extensions/filters/listener/http_inspector/v3/http_inspector.pb-c.h"
#include "xds/proto/envoy/extensions/filters/listener/original_dst/v3/original_dst.pb-c.h"
#include "xds/proto/envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct weft_scope_item items[] = {
#define STAT(name, kind, help)	      {#name, WEFT_##kind, help},
#define STAT_AS(id, name, kind, help) {name, WEFT_##kind, help},
#include "proxy/waypoint/listener_stats.def"
#undef STAT_AS
#undef STAT
};
const struct weft_scope_class weft_listener_scope = {.prefix = "listener",
						     .tag = "envoy_listener_address",
						     .v = items,
						     .n = sizeof(items) / sizeof(*items)};

static struct weft_worker *free_on;

void lconf_free_on(struct weft_worker *main)
{
	free_on = main;
}

void lconf_ref(struct lconf *l)
{
	l->refs++;
}

static void conf_free(struct weft_worker *w, void *arg)
{
	struct lconf *l = arg;
	size_t i;

	for (i = 0; i < l->n_chain; i++)
		if (l->chain[i].tls)
			weft_tls_server_unref(l->chain[i].tls);
	if (l->fallback && l->fallback->tls)
		weft_tls_server_unref(l->fallback->tls);
	weft_scope_unref(l->scope);
	weft_arena_free(l->arena);
}

void lconf_unref(struct lconf *l)
{
	if (!l || --l->refs)
		return;
	/* route tables and scopes that its clean-ups give back belong to the main thread */
	if (free_on)
		weft_worker_post(free_on, conf_free, l);
	else
		conf_free(NULL, l);
}

/* ---- addresses and socket options */
int lsockopts_prepare(struct weft_cfg *c, const struct weft_path *at,
		      Envoy__Config__Core__V3__SocketOption *const *v, size_t n,
		      struct weft_listen_conf *to)
{
	struct weft_sockopt *o = weft_arena_alloc(c->arena, (n + 1) * sizeof(*o));
	size_t i;

	for (i = 0; i < n; i++) {
		struct weft_path p = {at, "socket_options", (int)i};

		o[i].level = (int)v[i]->level;
		o[i].name = (int)v[i]->name;
		o[i].when = (enum weft_sockopt_when)v[i]->state;
		switch (v[i]->value_case) {
		case ENVOY__CONFIG__CORE__V3__SOCKET_OPTION__VALUE_INT_VALUE:
			o[i].value = (int)v[i]->int_value;
			break;
		case ENVOY__CONFIG__CORE__V3__SOCKET_OPTION__VALUE_BUF_VALUE:
			o[i].is_bytes = true;
			o[i].bytes = v[i]->buf_value.data;
			o[i].bytes_n = (uint32_t)v[i]->buf_value.len;
			break;
		default:
			return weft_cfg_fail(c, &p,
					     "must have one of int_value, buf_value; has none");
		}
	}
	to->opts = o;
	to->n_opts = n;
	return 0;
}

static int addr_prepare(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Config__Core__V3__Address *m, struct weft_listen_conf *to)
{
	struct weft_path ps = {at, "socket_address", -1}, pa = {&ps, "address", -1},
			 pp = {&ps, "port_value", -1}, pn = {&ps, "named_port", -1},
			 pk = {at, "pipe", -1};
	const Envoy__Config__Core__V3__SocketAddress *s;

	if (m->address_case == ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_PIPE) {
		const char *path = m->pipe->path;

		if (strlen(path) > 107)
			return weft_cfg_fail(c, &pk, "path must be at most 107 bytes, has %zu",
					     strlen(path));
		to->unix_path = path;
		to->unix_mode = m->pipe->mode;
		return 0;
	}
	if (m->address_case != ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS)
		return weft_cfg_fail(
			c, at, "must have one of socket_address, pipe; has none that is supported");
	s = m->socket_address;
	if (s->protocol != ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PROTOCOL__TCP)
		return weft_cfg_fail(c, &ps, "protocol UDP is not supported");
	if (weft_ip_parse(s->address, &to->addr.ip))
		return weft_cfg_fail(c, &pa, "must be an IP address, is \"%.60s\"", s->address);
	if (s->port_specifier_case ==
	    ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_NAMED_PORT)
		return weft_cfg_fail(c, &pn, "is not supported for listeners");
	if (s->port_value > 65535)
		return weft_cfg_fail(c, &pp, "must be 0..65535, is %u", s->port_value);
	to->addr.port = (uint16_t)s->port_value;
	to->v4_compat = s->ipv4_compat;
	return 0;
}

static int addrs_prepare(struct weft_cfg *c, const struct weft_path *at, struct lconf *l)
{
	const Envoy__Config__Listener__V3__Listener *m = l->msg;
	struct weft_path pa = {at, "address", -1}, px = {at, "additional_addresses", -1};
	unsigned i;
	int err;

	if (!m->address)
		return weft_cfg_fail(c, &pa, "must be set");
	if (m->n_additional_addresses >= LISTENER_ADDRS_MAX)
		return weft_cfg_fail(c, &px, "must be at most %d, are %zu", LISTENER_ADDRS_MAX - 1,
				     m->n_additional_addresses);
	err = addr_prepare(c, &pa, m->address, &l->addr[0]);
	l->n_addr = 1;
	for (i = 0; i < m->n_additional_addresses; i++) {
		struct weft_path pi = {at, "additional_addresses", (int)i},
				 p = {&pi, "address", -1};

		if (!m->additional_addresses[i]->address)
			err = weft_cfg_fail(c, &p, "must be set");
		else
			err |= addr_prepare(c, &p, m->additional_addresses[i]->address,
					    &l->addr[l->n_addr++]);
	}
	for (i = 0; i < l->n_addr; i++) {
		const Envoy__Config__Core__V3__SocketOptionsOverride *own;
		struct weft_listen_conf *a = &l->addr[i];

		a->backlog = weft_cfg_u32(m->tcp_backlog_size, 0);
		a->fastopen = weft_cfg_u32(m->tcp_fast_open_queue_length, 0);
		a->transparent = weft_cfg_bool(m->transparent, false);
		a->freebind = weft_cfg_bool(m->freebind, false);
		a->mptcp = m->enable_mptcp;
		a->reuse_port = l->reuse_port && !a->unix_path;
		own = i ? m->additional_addresses[i - 1]->socket_options : NULL;
		if (own) {
			struct weft_path pi = {at, "additional_addresses", (int)i - 1},
					 po = {&pi, "socket_options", -1};

			err |= lsockopts_prepare(c, &po, own->socket_options, own->n_socket_options,
						 a);
		} else {
			err |= lsockopts_prepare(c, at, m->socket_options, m->n_socket_options, a);
		}
	}
	return err ? -EINVAL : 0;
}

/* ---- listener filters */
static int lfilter_prepare(struct weft_cfg *c, const struct weft_path *at,
			   const Envoy__Config__Listener__V3__ListenerFilter *m, struct lfilter *f)
{
	struct weft_path pt = {at, "typed_config", -1}, pv = {&pt, "disallowed_versions", -1},
			 ph = {&pt, "initial_read_buffer_size", -1};
	const ProtobufCMessage *any;
	size_t i;

	if (m->config_type_case !=
	    ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER__CONFIG_TYPE_TYPED_CONFIG)
		return weft_cfg_fail(c, at, "typed_config must be set (listener filter \"%s\")",
				     m->name);
	any = weft_cfg_any(c, &pt, m->typed_config, NULL);
	if (!any)
		return -EINVAL;
	f->disabled = m->filter_disabled;
	if (any->descriptor ==
	    &envoy__extensions__filters__listener__tls_inspector__v3__tls_inspector__descriptor) {
		const Envoy__Extensions__Filters__Listener__TlsInspector__V3__TlsInspector *t =
			(const void *)any;

		f->kind = LF_TLS_INSPECTOR;
		f->hello_max = weft_cfg_u32(t->max_client_hello_size, 16 << 10);
		f->prints =
			(weft_cfg_bool(t->enable_ja3_fingerprinting, false) ? WEFT_SNIFF_WANT_JA3
									    : 0) |
			(weft_cfg_bool(t->enable_ja4_fingerprinting, false) ? WEFT_SNIFF_WANT_JA4
									    : 0);
		if (t->initial_read_buffer_size && (t->initial_read_buffer_size->value < 256 ||
						    t->initial_read_buffer_size->value > 65536))
			return weft_cfg_fail(c, &ph, "must be 256..65536, is %u",
					     t->initial_read_buffer_size->value);
	} else if (
		any->descriptor ==
		&envoy__extensions__filters__listener__http_inspector__v3__http_inspector__descriptor) {
		f->kind = LF_HTTP_INSPECTOR;
	} else if (
		any->descriptor ==
		&envoy__extensions__filters__listener__original_dst__v3__original_dst__descriptor) {
		f->kind = LF_ORIGINAL_DST;
	} else if (
		any->descriptor ==
		&envoy__extensions__filters__listener__proxy_protocol__v3__proxy_protocol__descriptor) {
		const Envoy__Extensions__Filters__Listener__ProxyProtocol__V3__ProxyProtocol *p =
			(const void *)any;

		f->kind = LF_PROXY_PROTOCOL;
		f->pp_optional = p->allow_requests_without_proxy_protocol;
		for (i = 0; i < p->n_disallowed_versions; i++) {
			if (p->disallowed_versions[i] ==
			    ENVOY__CONFIG__CORE__V3__PROXY_PROTOCOL_CONFIG__VERSION__V1)
				f->pp_v1_off = true;
			else
				f->pp_v2_off = true;
		}
		if (f->pp_v1_off && f->pp_v2_off)
			return weft_cfg_fail(c, &pv, "must leave a version, has both");
	} else {
		return weft_cfg_fail(c, &pt, "%s is not a listener filter that is supported",
				     any->descriptor->name);
	}
	(void)ph;
	return 0;
}

static int lfilters_prepare(struct weft_cfg *c, const struct weft_path *at, struct lconf *l)
{
	const Envoy__Config__Listener__V3__Listener *m = l->msg;
	struct lfilter *v = weft_arena_alloc(c->arena, LISTENER_FILTERS_MAX * sizeof(*v));
	struct weft_path pf = {at, "listener_filters", -1};
	size_t i;
	int err = 0;

	if (m->n_listener_filters > LISTENER_FILTERS_MAX)
		return weft_cfg_fail(c, &pf, "must be at most %d, are %zu", LISTENER_FILTERS_MAX,
				     m->n_listener_filters);
	for (i = 0; i < m->n_listener_filters; i++) {
		struct weft_path p = {at, "listener_filters", (int)i};

		err |= lfilter_prepare(c, &p, m->listener_filters[i], &v[i]);
	}
	l->filter = v;
	l->n_filter = (unsigned)m->n_listener_filters;
	return err ? -EINVAL : 0;
}

/* ---- filter chains */
static int chain_tls(struct weft_cfg *c, const struct weft_path *at,
		     const Envoy__Config__Core__V3__TransportSocket *m,
		     const struct weft_tls_secrets *secrets, struct lconf *l, struct lchain *ch)
{
	struct weft_path pt = {at, "typed_config", -1};
	const ProtobufCMessage *any;
	int err;

	if (m->config_type_case !=
	    ENVOY__CONFIG__CORE__V3__TRANSPORT_SOCKET__CONFIG_TYPE_TYPED_CONFIG)
		return weft_cfg_fail(c, at, "typed_config must be set (transport socket \"%s\")",
				     m->name);
	any = weft_cfg_any(c, &pt, m->typed_config, NULL);
	if (!any)
		return -EINVAL;
	if (any->descriptor ==
	    &envoy__extensions__transport_sockets__raw_buffer__v3__raw_buffer__descriptor)
		return 0;
	if (any->descriptor !=
	    &envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor)
		return weft_cfg_fail(c, &pt,
				     "%s is not a downstream transport socket that is supported",
				     any->descriptor->name);
	err = weft_tls_server_new(c, &pt, (const void *)any, secrets, &ch->tls);
	if (err == -EAGAIN) {
		l->secrets_missing = true;
		return 0;
	}
	return err;
}

static int chain_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Listener__V3__FilterChain *m,
			 const struct weft_tls_secrets *secrets, struct lconf *l, struct lchain *ch)
{
	struct weft_path pf = {at, "filters", -1}, pt = {at, "transport_socket", -1};
	int err;

	ch->name = m->name && *m->name ? m->name : "";
	ch->match = m->filter_chain_match;
	ch->handshake_ms = (unsigned)weft_cfg_ms(m->transport_socket_connect_timeout, 0);
	err = weft_chain_prepare(c, &pf, m->filters, m->n_filters, &ch->filters);
	if (m->transport_socket)
		err |= chain_tls(c, &pt, m->transport_socket, secrets, l, ch);
	return err ? -EINVAL : 0;
}

static int chains_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const struct weft_tls_secrets *secrets, struct lconf *l)
{
	const Envoy__Config__Listener__V3__Listener *m = l->msg;
	struct lchain *v = weft_arena_alloc(c->arena, (m->n_filter_chains + 1) * sizeof(*v)), *f;
	struct weft_path pd = {at, "default_filter_chain", -1}, pn = {at, "filter_chains", -1};
	size_t i;
	int err = 0;

	if (!m->n_filter_chains && !m->default_filter_chain)
		return weft_cfg_fail(c, &pn, "must have a filter chain");
	l->chain = v;
	for (i = 0; i < m->n_filter_chains; i++) {
		struct weft_path p = {at, "filter_chains", (int)i};

		l->n_chain = i + 1;
		err |= chain_prepare(c, &p, m->filter_chains[i], secrets, l, &v[i]);
	}
	if (m->default_filter_chain) {
		l->fallback = f = weft_arena_alloc(c->arena, sizeof(*f));
		err |= chain_prepare(c, &pd, m->default_filter_chain, secrets, l, f);
	}
	return err ? -EINVAL : 0;
}

static const char *stat_name(struct lconf *l)
{
	char text[WEFT_SOCKADDR_TEXT], *p;

	if (l->msg->stat_prefix && *l->msg->stat_prefix)
		return l->msg->stat_prefix;
	if (l->addr[0].unix_path)
		return l->addr[0].unix_path;
	weft_sockaddr_text(&l->addr[0].addr, text, sizeof(text));
	for (p = text; *p; p++)
		*p = *p == ':' ? '_' : *p;
	return weft_arena_strdup(l->arena, text);
}

static int everything(struct weft_cfg *c, const struct weft_path *at, const struct lconf_in *in,
		      struct lconf *l)
{
	const Envoy__Config__Listener__V3__Listener *m = in->msg;
	struct weft_path pl = {at, "access_log", -1};
	int err;

	l->bind = weft_cfg_bool(
		m->bind_to_port,
		m->deprecated_v1 ? weft_cfg_bool(m->deprecated_v1->bind_to_port, true) : true);
	l->reuse_port = weft_cfg_bool(m->enable_reuse_port, true);
	l->use_original_dst = weft_cfg_bool(m->use_original_dst, false);
	l->filters_ms = (unsigned)weft_cfg_ms(m->listener_filters_timeout, 15000);
	l->continue_on_timeout = m->continue_on_listener_filters_timeout;
	l->buffer_bytes = weft_cfg_u32(m->per_connection_buffer_limit_bytes, 1 << 20);
	l->max_accept = weft_cfg_u32(m->max_connections_to_accept_per_socket_event, 0);
	l->ignore_global_limit = m->ignore_global_conn_limit;
	l->modify_only = l->context.modify_only =
		m->drain_type == ENVOY__CONFIG__LISTENER__V3__LISTENER__DRAIN_TYPE__MODIFY_ONLY;
	l->bypass_overload = l->context.bypass_overload = m->bypass_overload_manager;
	l->context.listener_name = l->name;
	l->context.routes = in->routes;
	l->context.cluster = in->node ? in->node->cluster : NULL;
	l->context.node = in->node ? in->node->id : NULL;
	c->context = &l->context;
	l->deps.arena = l->arena;
	err = addrs_prepare(c, at, l);
	err |= lfilters_prepare(c, at, l);
	weft_route_tables_note(in->routes, &l->deps);
	err |= chains_prepare(c, at, in->secrets, l);
	weft_route_tables_note(in->routes, NULL);
	if (!err)
		err = lmatch_build(c, at, l);
	err |= weft_access_logs_prepare(c, &pl, m->access_log, m->n_access_log, &l->logs);
	return err ? -EINVAL : 0;
}

int lconf_new(struct weft_cfg *outer, const struct weft_path *at, const struct lconf_in *in,
	      struct lconf **ret)
{
	struct lconf *l = weft_arena_alloc(in->arena, sizeof(*l));
	struct weft_cfg c = *outer;
	int err;

	l->refs = 1;
	l->arena = in->arena;
	l->msg = in->msg;
	l->name = weft_arena_strdup(l->arena, in->msg->name ? in->msg->name : "");
	l->version = weft_arena_strdup(l->arena, in->version ? in->version : "");
	l->updated_s = (uint64_t)time(NULL);
	l->from_xds = in->from_xds;
	l->files = outer->file;
	c.arena = l->arena;
	err = everything(&c, at, in, l);
	if (err) {
		conf_free(NULL, l);
		return -EINVAL;
	}
	l->stat_name = stat_name(l);
	l->scope = weft_scope_get(&weft_listener_scope, l->stat_name);
	*ret = l;
	return 0;
}
