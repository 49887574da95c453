/* A server of ours, sources that dial it, and watches that count what they get. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/net/io.h"
#include "xds/cfg.h"
#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/proto/envoy/config/endpoint/v3/endpoint.pb-c.h"
#include "xds/proto/envoy/config/listener/v3/listener.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/server.h"
#include "xds/source.h"
#include <errno.h>
#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define HELPER __attribute__((unused)) static

enum { WAIT_MS = 20000, MANY = 10000 };
#define API(x) ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__API_TYPE__##x
#define CS(x)  ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_##x

struct env;
struct seen {
	struct env *e;
	struct weft_xds_watch *w;
	int updates, removals, completes, timeouts, calls, ups;
	char last[64], version[64], gone[64];
	const char *refuse;
	struct weft_arena *kept;
	const ProtobufCMessage *kept_msg;
	bool follow; /* watches the endpoints of each cluster */
	const struct seen *beside;
	int beside_updates; /* of beside, when the last removal came */
};
struct env {
	struct event_base *base;
	struct weft_xds_server *server;
	struct weft_xds_sources *sources;
	char dir[64], path[96], file[96], nacked[WEFT_XDS_TEXT_MAX + 1], lost_why[512];
	int nacks, lost;
	char scope[32], node_seen[64];
	Envoy__Config__Core__V3__Node node;
	Envoy__Config__Core__V3__ApiConfigSource api;
	Envoy__Config__Core__V3__GrpcService grpc, *grpcs[2];
	Envoy__Config__Core__V3__GrpcService__EnvoyGrpc envoy;
	Envoy__Config__Core__V3__ConfigSource cs;
	Google__Protobuf__Duration timeout;
	struct seen *many;
	int n_many;
};

static void spin(struct env *e, unsigned ms)
{
	const struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	event_base_loopexit(e->base, &tv);
	event_base_dispatch(e->base);
}

#define UNTIL(e, cond)                                                                             \
	do {                                                                                       \
		uint64_t until_ = weft_now_ns() + (uint64_t)WAIT_MS * 1000000;                     \
		while (!(cond)) {                                                                  \
			if (weft_now_ns() > until_)                                                \
				fail_msg("line %d: not within %d ms: %s (lost: %s)", __LINE__,     \
					 WAIT_MS, #cond, (e)->lost_why);                           \
			spin(e, 2);                                                                \
		}                                                                                  \
	} while (0)

/* ---- what is watched */

static const struct weft_xds_sink sink;

static void apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		  size_t n_up, const char *const *removed, size_t n_removed)
{
	struct seen *s = owner;

	s->calls++;
	for (size_t i = 0; i < n_up; i++) {
		assert_int_equal(protobuf_c_message_get_packed_size(up[i].msg), up[i].n);
		if (s->refuse && !strcmp(s->refuse, up[i].name)) {
			struct weft_err err = {0};

			weft_fail(&err, NULL, EINVAL, "must not be, is");
			weft_xds_reject(r, up[i].name, &err);
			continue;
		}
		s->updates++;
		snprintf(s->last, sizeof(s->last), "%s", up[i].name);
		snprintf(s->version, sizeof(s->version), "%s", up[i].version);
		assert_non_null(up[i].arena);
		if (!s->follow) {
			weft_arena_free(s->kept);
			s->kept = weft_xds_take(&up[i]);
			s->kept_msg = up[i].msg;
			continue;
		}
		s->e->many[s->e->n_many].e = s->e;
		s->e->many[s->e->n_many].w =
			weft_xds_watch(s->e->sources, NULL, &weft_xds_type_endpoint, up[i].name,
				       &sink, &s->e->many[s->e->n_many], NULL);
		s->e->n_many++;
	}
	for (size_t i = 0; i < n_removed; i++) {
		s->removals++;
		s->beside_updates = s->beside ? s->beside->updates : 0;
		snprintf(s->gone, sizeof(s->gone), "%s", removed[i]);
	}
}

static void connected(void *owner, bool up)
{
	((struct seen *)owner)->ups += up;
}

static void complete(void *owner)
{
	((struct seen *)owner)->completes++;
}

static void timed_out(void *owner)
{
	((struct seen *)owner)->timeouts++;
}

static const struct weft_xds_sink sink = {
	.apply = apply, .connected = connected, .complete = complete, .timed_out = timed_out};

HELPER void watch(struct env *e, struct seen *s, const struct weft_xds_type *t, const char *name)
{
	struct weft_err err = {0};

	s->e = e;
	s->w = weft_xds_watch(e->sources, &e->cs, t, name, &sink, s, &err);
	if (!s->w)
		fail_msg("%s", err.msg);
}

HELPER void done(struct seen *s)
{
	weft_arena_free(s->kept);
	s->kept = NULL;
}

/* ---- the server */

HELPER void put_cluster(struct env *e, const char *name, const char *alt)
{
	Envoy__Config__Cluster__V3__Cluster c = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__INIT;

	c.name = (char *)name;
	c.alt_stat_name = (char *)alt;
	weft_xds_publish_to(e->server, e->scope, &weft_xds_type_cluster, name, alt ? &c.base : NULL,
			    NULL);
}

HELPER void put_endpoints(struct env *e, const char *name, int weight)
{
	Envoy__Config__Endpoint__V3__ClusterLoadAssignment c =
		ENVOY__CONFIG__ENDPOINT__V3__CLUSTER_LOAD_ASSIGNMENT__INIT;
	Envoy__Config__Endpoint__V3__LocalityLbEndpoints l =
		ENVOY__CONFIG__ENDPOINT__V3__LOCALITY_LB_ENDPOINTS__INIT;
	Envoy__Config__Endpoint__V3__LocalityLbEndpoints *pl = &l;

	c.cluster_name = (char *)name;
	c.endpoints = &pl;
	c.n_endpoints = 1;
	l.has_priority = true;
	l.priority = (uint32_t)weight;
	weft_xds_publish_to(e->server, e->scope, &weft_xds_type_endpoint, name,
			    weight ? &c.base : NULL, NULL);
}

/* value: 0 removes it. */
HELPER void put_route(struct env *e, const char *name, int value)
{
	Envoy__Config__Route__V3__RouteConfiguration r =
		ENVOY__CONFIG__ROUTE__V3__ROUTE_CONFIGURATION__INIT;

	r.name = (char *)name;
	r.has_ignore_port_in_host_matching = true;
	r.ignore_port_in_host_matching = value == 1;
	weft_xds_publish_to(e->server, e->scope, &weft_xds_type_route, name, value ? &r.base : NULL,
			    NULL);
}

static void nacked(void *owner, const char *node, const struct weft_xds_type *t, const char *text)
{
	struct env *e = owner;

	e->nacks++;
	snprintf(e->nacked, sizeof(e->nacked), "%s", text);
}

static int admit(void *owner, const struct weft_xds_peer *p, char ret_scope[WEFT_XDS_SCOPE_MAX],
		 struct weft_err *reterr)
{
	struct env *e = owner;

	assert_int_equal(p->pid, getpid());
	snprintf(e->node_seen, sizeof(e->node_seen), "%s %s", p->node->id, p->authorization);
	snprintf(ret_scope, WEFT_XDS_SCOPE_MAX, "%s", e->scope);
	if (!strcmp(e->scope, "none"))
		return weft_fail(reterr, NULL, EACCES, "not a gateway of ours");
	return 0;
}

HELPER void server_up(struct env *e)
{
	const struct weft_xds_server_conf conf = {.nacked = nacked, .admit = admit, .owner = e};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(e->path);
	strcpy(a.sun_path, e->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 64), 0);
	e->server = weft_xds_server_new(e->base, &conf);
	assert_int_equal(weft_xds_server_listen(e->server, fd, NULL), 0);
}

HELPER void server_down(struct env *e)
{
	weft_xds_server_free(e->server);
	e->server = NULL;
}

/* ---- the sources */

static const struct weft_io_ops no_ops;

static int dial(void *owner, const char *cluster, struct weft_io **ret, struct weft_err *reterr)
{
	struct env *e = owner;
	const struct weft_dial to = {.unix_path = e->path};
	int r;

	assert_string_equal(cluster, "xds_cluster");
	r = weft_io_dial(e->base, &to, &no_ops, NULL, ret);
	return r < 0 ? weft_fail(reterr, NULL, -r, "%s", strerror(-r)) : 0;
}

static void lost(void *owner, const char *source, const char *why)
{
	struct env *e = owner;

	e->lost++;
	snprintf(e->lost_why, sizeof(e->lost_why), "%s: %s", source, why);
}

/* ads: as the bootstrap's ads_config; else e->cs names it. */
HELPER void sources_up(struct env *e, int api_type, bool ads)
{
	struct weft_xds_sources_conf conf = {.node = &e->node,
					     .dial = dial,
					     .lost = lost,
					     .owner = e,
					     .backoff_min_ms = 20,
					     .backoff_max_ms = 200};

	e->api.api_type = api_type;
	e->api.has_api_type = true;
	if (ads)
		conf.ads = &e->api;
	e->cs.config_source_specifier_case = ads ? CS(ADS) : CS(API_CONFIG_SOURCE);
	if (!ads)
		e->cs.api_config_source = &e->api;
	e->sources = weft_xds_sources_new(e->base, &conf);
}

HELPER int setup(void **st)
{
	struct env *e = weft_xcalloc(1, sizeof(*e));

	snprintf(e->dir, sizeof(e->dir), "/tmp/source_test.XXXXXX");
	if (!mkdtemp(e->dir))
		return -1;
	snprintf(e->path, sizeof(e->path), "%s/xds.sock", e->dir);
	snprintf(e->file, sizeof(e->file), "%s/f.yaml", e->dir);
	e->base = event_base_new();
	e->node = (Envoy__Config__Core__V3__Node)ENVOY__CONFIG__CORE__V3__NODE__INIT;
	e->node.id = (char *)"way-1";
	e->api = (Envoy__Config__Core__V3__ApiConfigSource)
		ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__INIT;
	e->grpc = (Envoy__Config__Core__V3__GrpcService)ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__INIT;
	e->envoy = (Envoy__Config__Core__V3__GrpcService__EnvoyGrpc)
		ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__ENVOY_GRPC__INIT;
	e->cs = (Envoy__Config__Core__V3__ConfigSource)ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__INIT;
	e->timeout = (Google__Protobuf__Duration)GOOGLE__PROTOBUF__DURATION__INIT;
	e->envoy.cluster_name = (char *)"xds_cluster";
	e->grpc.target_specifier_case =
		ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__TARGET_SPECIFIER_ENVOY_GRPC;
	e->grpc.envoy_grpc = &e->envoy;
	e->grpcs[0] = e->grpcs[1] = &e->grpc;
	e->api.grpc_services = e->grpcs;
	e->api.n_grpc_services = 1;
	e->api.has_transport_api_version = true;
	e->api.transport_api_version = ENVOY__CONFIG__CORE__V3__API_VERSION__V3;
	*st = e;
	return 0;
}

HELPER int teardown(void **st)
{
	struct env *e = *st;
	char cmd[128];

	weft_xds_sources_free(e->sources);
	weft_xds_server_free(e->server);
	spin(e, 1);
	event_base_free(e->base);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", e->dir);
	free(e->many);
	free(e);
	return system(cmd);
}
