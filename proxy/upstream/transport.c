/* Which way a host is reached, and everything its dial needs. */
#include "proxy/upstream/transport_priv.h"

#include "xds/proto/envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.pb-c.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define RAW envoy__extensions__transport_sockets__raw_buffer__v3__raw_buffer__descriptor
#define TLS envoy__extensions__transport_sockets__tls__v3__upstream_tls_context__descriptor
#define PROXY                                                                                      \
	envoy__extensions__transport_sockets__proxy_protocol__v3__proxy_protocol_upstream_transport__descriptor
typedef Envoy__Config__Core__V3__TransportSocket TransportSocket;
typedef Envoy__Extensions__TransportSockets__ProxyProtocol__V3__ProxyProtocolUpstreamTransport
	ProxyTransport;

/* ---- reading */

static int read_socket(struct weft_cfg *c, const struct weft_path *at, struct weft_transport *t,
		       const TransportSocket *m, struct weft_tsocket *s);

static int read_proxy(struct weft_cfg *c, const struct weft_path *at, struct weft_transport *t,
		      const ProxyTransport *m, struct weft_tsocket *s)
{
	struct weft_path inner = {at, "transport_socket", -1};

	if (s->proxy)
		return weft_cfg_fail(c, at, "must not wrap a PROXY protocol socket in another one");
	s->proxy = m;
	if (weft_proxy_header_check(c, at, m) < 0)
		return -EINVAL;
	return m->transport_socket ? read_socket(c, &inner, t, m->transport_socket, s) : 0;
}

static int read_socket(struct weft_cfg *c, const struct weft_path *at, struct weft_transport *t,
		       const TransportSocket *m, struct weft_tsocket *s)
{
	struct weft_path any = {at, "typed_config", -1};
	const ProtobufCMessage *conf;

	if (m->config_type_case !=
	    ENVOY__CONFIG__CORE__V3__TRANSPORT_SOCKET__CONFIG_TYPE_TYPED_CONFIG) {
		if (m->name && !strcmp(m->name, "envoy.transport_sockets.raw_buffer"))
			return 0;
		return weft_cfg_fail(c, at, "must have a typed_config");
	}
	conf = weft_cfg_any(c, &any, m->typed_config, NULL);
	if (!conf)
		return -EINVAL;
	if (conf->descriptor == &RAW)
		return 0;
	if (conf->descriptor == &PROXY)
		return read_proxy(c, &any, t, (const ProxyTransport *)conf, s);
	if (conf->descriptor != &TLS)
		return weft_cfg_fail(
			c, &any,
			"%s is not supported as transport socket of a cluster: must be "
			"raw_buffer, tls (UpstreamTlsContext) or upstream proxy_protocol",
			conf->descriptor->name);
	s->tls = weft_upstream_tls_new(
		c, &any, t->cl,
		(const Envoy__Extensions__TransportSockets__Tls__V3__UpstreamTlsContext *)conf);
	return s->tls ? 0 : -EINVAL;
}

int weft_transport_new(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl,
		       struct weft_transport **ret)
{
	const Envoy__Config__Cluster__V3__Cluster *m = cl->msg;
	struct weft_transport *t = weft_arena_alloc(c->arena, sizeof(*t));
	struct weft_path own = {at, "transport_socket", -1};
	int r = 0;

	t->cl = cl;
	t->n_matches = m->n_transport_socket_matches;
	t->matches = weft_arena_alloc(c->arena, (t->n_matches + 1) * sizeof(*t->matches));
	if (m->transport_socket)
		r = read_socket(c, &own, t, m->transport_socket, &t->own);
	for (size_t i = 0; i < t->n_matches; i++) {
		const Envoy__Config__Cluster__V3__Cluster__TransportSocketMatch *tm =
			m->transport_socket_matches[i];
		static const Google__Protobuf__Struct any = {
			.base = PROTOBUF_C_MESSAGE_INIT(&google__protobuf__struct__descriptor)};
		struct weft_path match = {at, "transport_socket_matches", (int)i};
		struct weft_path sub = {&match, "transport_socket", -1};

		t->matches[i].match = tm->match ? tm->match : &any;
		if (tm->transport_socket &&
		    read_socket(c, &sub, t, tm->transport_socket, &t->matches[i]) < 0)
			r = -EINVAL;
	}
	if (r < 0) {
		weft_transport_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void weft_transport_free(struct weft_transport *t)
{
	if (!t)
		return;
	weft_upstream_tls_done(t->own.tls);
	for (size_t i = 0; i < t->n_matches; i++)
		weft_upstream_tls_done(t->matches[i].tls);
	t->own.tls = NULL;
	t->n_matches = 0;
}

/* ---- secrets */

static struct upstream_tls *tls_at(const struct weft_transport *t, size_t i)
{
	return i == 0 ? t->own.tls : t->matches[i - 1].tls;
}

bool weft_transport_secret_at(const struct weft_transport *t, size_t i,
			      const Envoy__Config__Core__V3__ConfigSource **ret_source,
			      const char **ret_name)
{
	for (size_t k = 0; k <= t->n_matches; k++)
		for (size_t n = 0;
		     tls_at(t, k) && weft_upstream_tls_want(tls_at(t, k), n, ret_source, ret_name);
		     n++)
			if (!i--)
				return true;
	return false;
}

bool weft_transport_ready(const struct weft_transport *t)
{
	for (size_t k = 0; k <= t->n_matches; k++)
		if (tls_at(t, k) && !weft_upstream_tls_ready(tls_at(t, k)))
			return false;
	return true;
}

int weft_transport_secret(struct weft_transport *t, struct weft_cfg *c, const char *name,
			  const Envoy__Extensions__TransportSockets__Tls__V3__Secret *msg)
{
	int r = 0;

	for (size_t k = 0; k <= t->n_matches; k++)
		if (tls_at(t, k) && weft_upstream_tls_secret(tls_at(t, k), c, name, msg) < 0)
			r = -EINVAL;
	return r;
}

/* ---- picking */

static bool struct_has(const Google__Protobuf__Struct *s, const Google__Protobuf__Struct *want,
		       int depth);

static bool value_eq(const Google__Protobuf__Value *a, const Google__Protobuf__Value *b, int depth)
{
	if (!a || !b || a->kind_case != b->kind_case || depth > 32)
		return false;
	switch (a->kind_case) {
	case GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE:
		return true;
	case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
		return a->number_value == b->number_value;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
		return !strcmp(a->string_value, b->string_value);
	case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
		return !a->bool_value == !b->bool_value;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
		return a->struct_value->n_fields == b->struct_value->n_fields &&
		       struct_has(a->struct_value, b->struct_value, depth + 1);
	case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
		if (a->list_value->n_values != b->list_value->n_values)
			return false;
		for (size_t i = 0; i < a->list_value->n_values; i++)
			if (!value_eq(a->list_value->values[i], b->list_value->values[i],
				      depth + 1))
				return false;
		return true;
	default:
		return false;
	}
}

static bool struct_has(const Google__Protobuf__Struct *s, const Google__Protobuf__Struct *want,
		       int depth)
{
	for (size_t i = 0; i < want->n_fields; i++) {
		size_t k = 0;

		while (s && k < s->n_fields && strcmp(s->fields[k]->key, want->fields[i]->key) != 0)
			k++;
		if (!s || k == s->n_fields ||
		    !value_eq(s->fields[k]->value, want->fields[i]->value, depth))
			return false;
	}
	return true;
}

const struct weft_tsocket *weft_transport_pick_criteria(const struct weft_transport *t,
							const Google__Protobuf__Struct *criteria)
{
	for (size_t i = 0; i < t->n_matches; i++)
		if (struct_has(criteria, t->matches[i].match, 0))
			return &t->matches[i];
	return &t->own;
}

const struct weft_tsocket *weft_transport_pick(const struct weft_transport *t,
					       const Envoy__Config__Core__V3__Metadata *md)
{
	const Google__Protobuf__Struct *s = NULL;

	if (!t->n_matches)
		return &t->own;
	for (size_t i = 0; md && i < md->n_filter_metadata; i++)
		if (!strcmp(md->filter_metadata[i]->key, "envoy.transport_socket_match"))
			s = md->filter_metadata[i]->value;
	return weft_transport_pick_criteria(t, s);
}

bool weft_tsocket_tls(const struct weft_tsocket *s)
{
	return s->tls;
}

bool weft_tsocket_per_client(const struct weft_tsocket *s)
{
	return s->proxy;
}

/* ---- dialling */

static int set_option(int fd, const Envoy__Config__Core__V3__SocketOption *o)
{
	int v = (int)o->int_value;
	const void *p = &v;
	socklen_t n = sizeof(v);

	if (o->value_case == ENVOY__CONFIG__CORE__V3__SOCKET_OPTION__VALUE_BUF_VALUE) {
		p = o->buf_value.data;
		n = (socklen_t)o->buf_value.len;
	}
	return setsockopt(fd, (int)o->level, (int)o->name, p, n) < 0 ? -errno : 0;
}

/* Before bind. Options of a bound or listening socket have no other moment here. */
static int prepare_socket(void *ctx, int fd)
{
	const struct weft_bind *b = ctx;
	int one = 1, r = 0, family;
	socklen_t n = sizeof(family);

	if (b->freebind) {
		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &n) < 0)
			return -errno;
		r = family == AF_INET6
			    ? setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof(one))
		    : family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof(one))
					: 0;
		if (r < 0)
			return -errno;
	}
	for (size_t i = 0; r == 0 && i < b->n_options; i++)
		r = set_option(fd, b->options[i]);
	return r;
}

static struct weft_sockaddr source_for(const struct weft_cluster_priv *p,
				       const struct weft_sockaddr *to)
{
	for (size_t i = 0; p && i < 2; i++)
		if (p->bind.source[i].ip.family == to->ip.family)
			return p->bind.source[i];
	return (struct weft_sockaddr){0};
}

static void bind_to(const struct weft_cluster_priv *p, struct weft_dial *d)
{
	if (!d->unix_path)
		d->from = source_for(p, &d->to);
	d->keep_idle_s = p->keep_idle_s;
	d->keep_interval_s = p->keep_interval_s;
	d->keep_probes = p->keep_probes;
	if (p->bind.freebind || p->bind.n_options) {
		d->prepare = prepare_socket;
		d->prepare_ctx = (void *)&p->bind;
	}
}

int weft_transport_prepare(const struct weft_transport *t, const struct weft_tdial_want *want,
			   struct weft_tdial *ret)
{
	const struct weft_tsocket *s = want->socket;

	ret->dial = (struct weft_dial){.to = want->to ? *want->to : want->host->addr,
				       .unix_path = want->to ? NULL : want->host->unix_path,
				       .connect_ms = t->cl->connect_ms};
	ret->client = NULL;
	ret->tls = (struct weft_io_tls){.handshake_ms = t->cl->connect_ms};
	if (t->cl->priv)
		bind_to(t->cl->priv, &ret->dial);
	if (want->tunnel && !s->tls)
		return -EINVAL;
	if (s->proxy && !want->tunnel)
		weft_proxy_header(s, want->how, ret);
	if (!s->tls)
		return 0;
	ret->dial.tls = &ret->tls;
	return weft_upstream_tls_prepare(s->tls, want, ret);
}

size_t weft_transport_tries(const struct weft_transport *t, struct weft_host *h,
			    struct weft_race_try v[WEFT_RACE_MAX])
{
	struct weft_sockaddr to[WEFT_RACE_MAX];
	size_t n = weft_host_tries(h, to, WEFT_RACE_MAX);

	for (size_t i = 0; i < n; i++)
		v[i] = (struct weft_race_try){to[i], source_for(t->cl->priv, &to[i])};
	return n;
}
