/* Watches types at an xDS server, for tests: xds_watch ADDRESS MODE. ADDRESS: a unix socket's path,
 * or 127.0.0.1:PORT. MODE: ads-sotw, ads-delta, sotw, delta (a stream a type). Reads commands:
 *   watch TYPE [NAME]   follow (endpoints of clusters, routes of listeners, by their own names)
 *   unwatch TYPE [NAME] refuse NAME   accept   count   stat TYPE [NAME]
 * Writes a line an event, or with `quiet` only what is asked for by count and stat. Leaves when
 * input ends. */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/net/io.h"
#include "xds/names.h"
#include "xds/source.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>

#define API(x) ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__API_TYPE__##x

struct prog;
struct item {
	UT_hash_handle hh;
	struct prog *p;
	struct weft_xds_watch *w;
	const struct weft_xds_type *type;
	const char *name; /* NULL: everything */
	char key[];	  /* "type name" */
};
struct prog {
	struct event_base *base;
	struct weft_xds_sources *sources;
	struct weft_dial to;
	struct evbuffer *in;
	struct item *items;
	Envoy__Config__Core__V3__ConfigSource cs;
	bool follow, quiet;
	char refuse[256];
	size_t ups[WEFT_XDS_TYPES], gones[WEFT_XDS_TYPES], completes[WEFT_XDS_TYPES];
	uint64_t start_ns, last_ns;
};

static void watch(struct prog *p, const struct weft_xds_type *t, const char *name);

static void follow(struct prog *p, const struct weft_xds_type *t, const char *name)
{
	if (t == &weft_xds_type_cluster)
		watch(p, &weft_xds_type_endpoint, name);
	if (t == &weft_xds_type_listener)
		watch(p, &weft_xds_type_route, name);
}

static void apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		  size_t n_up, const char *const *gone, size_t n_gone)
{
	struct item *i = owner;
	struct prog *p = i->p;
	int type = weft_xds_type_index(i->type->url);

	p->last_ns = weft_now_ns();
	for (size_t k = 0; k < n_up; k++) {
		if (!strcmp(up[k].name, p->refuse)) {
			struct weft_err err = {0};

			weft_fail(&err, NULL, EINVAL, "must not be");
			weft_xds_reject(r, up[k].name, &err);
			printf("refused %s %s\n", i->type->brief, up[k].name);
			continue;
		}
		p->ups[type]++;
		if (!p->quiet)
			printf("up %s %s %s %zu\n", i->type->brief, up[k].name, up[k].version,
			       up[k].n);
		if (p->follow)
			follow(p, i->type, up[k].name);
	}
	for (size_t k = 0; k < n_gone; k++) {
		p->gones[type]++;
		if (!p->quiet)
			printf("gone %s %s\n", i->type->brief, gone[k]);
	}
}

static void complete(void *owner)
{
	struct item *i = owner;

	i->p->completes[weft_xds_type_index(i->type->url)]++;
	if (!i->p->quiet)
		printf("complete %s %s\n", i->type->brief, i->name ?: "*");
}

static void timed_out(void *owner)
{
	struct item *i = owner;

	printf("timeout %s %s\n", i->type->brief, i->name ?: "*");
}

static const struct weft_xds_sink sink = {
	.apply = apply, .complete = complete, .timed_out = timed_out};

/* ---- commands */

static struct item *find(struct prog *p, const struct weft_xds_type *t, const char *name,
			 char **key)
{
	struct item *i;

	if (asprintf(key, "%s %s", t->brief, name ?: "*") < 0)
		abort();
	HASH_FIND(hh, p->items, *key, strlen(*key), i);
	return i;
}

static void watch(struct prog *p, const struct weft_xds_type *t, const char *name)
{
	struct weft_err err = {0};
	struct item *i;
	char *key;

	if (!find(p, t, name, &key)) {
		i = weft_xcalloc(1, sizeof(*i) + strlen(key) + 1);
		strcpy(i->key, key);
		i->p = p;
		i->type = t;
		i->name = name ? i->key + strlen(t->brief) + 1 : NULL;
		i->w = weft_xds_watch(p->sources, &p->cs, t, name, &sink, i, &err);
		if (!i->w)
			printf("error %s\n", err.msg);
		HASH_ADD_KEYPTR(hh, p->items, i->key, strlen(i->key), i);
	}
	free(key);
}

static void unwatch(struct prog *p, const struct weft_xds_type *t, const char *name)
{
	char *key;
	struct item *i = find(p, t, name, &key);

	free(key);
	if (!i)
		return;
	weft_xds_unwatch(i->w);
	HASH_DEL(p->items, i);
	free(i);
}

static void count(const struct prog *p)
{
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		if (p->ups[i] + p->gones[i] + p->completes[i])
			printf("count %s up=%zu gone=%zu complete=%zu\n", weft_xds_types[i]->brief,
			       p->ups[i], p->gones[i], p->completes[i]);
	printf("counted after %llu ms\n",
	       (unsigned long long)((p->last_ns - p->start_ns) / 1000000));
}

static void stat(struct prog *p, const struct weft_xds_type *t, const char *name)
{
	char *key;
	struct item *i = find(p, t, name, &key);
	struct weft_xds_stat s = {0};

	free(key);
	if (i)
		s = weft_xds_watch_stat(i->w);
	printf("stat attempt=%llu success=%llu failure=%llu rejected=%llu version=%s "
	       "connected=%d control_plane=%s\n",
	       (unsigned long long)s.update_attempt, (unsigned long long)s.update_success,
	       (unsigned long long)s.update_failure, (unsigned long long)s.update_rejected,
	       s.version_text ?: "", s.connected, s.control_plane ?: "");
}

static void of_type(struct prog *p, const char *verb, const char *type, const char *name)
{
	for (int i = 0; i < WEFT_XDS_TYPES; i++) {
		const struct weft_xds_type *t = weft_xds_types[i];

		if (strcmp(t->brief, type))
			continue;
		if (!strcmp(verb, "watch"))
			watch(p, t, name);
		else if (!strcmp(verb, "unwatch"))
			unwatch(p, t, name);
		else
			stat(p, t, name);
	}
}

static void command(struct prog *p, char *line)
{
	char *verb = strtok(line, " "), *a = strtok(NULL, " "), *b = strtok(NULL, " ");

	if (!verb)
		return;
	if (!strcmp(verb, "follow"))
		p->follow = true;
	else if (!strcmp(verb, "quiet"))
		p->quiet = true;
	else if (!strcmp(verb, "count"))
		count(p);
	else if (!strcmp(verb, "accept"))
		p->refuse[0] = '\0';
	else if (!strcmp(verb, "refuse") && a)
		snprintf(p->refuse, sizeof(p->refuse), "%s", a);
	else if (a)
		of_type(p, verb, a, b);
	else
		fprintf(stderr, "xds_watch: %s: no such command\n", verb);
}

static void on_input(evutil_socket_t fd, short what, void *arg)
{
	struct prog *p = arg;
	char *line;

	if (evbuffer_read(p->in, fd, 4096) <= 0) {
		event_base_loopbreak(p->base);
		return;
	}
	while ((line = evbuffer_readln(p->in, NULL, EVBUFFER_EOL_LF))) {
		command(p, line);
		free(line);
	}
}

/* ---- start */

static const struct weft_io_ops no_ops;

static int dial(void *owner, const char *cluster, struct weft_io **ret, struct weft_err *reterr)
{
	struct prog *p = owner;
	int r = weft_io_dial(p->base, &p->to, &no_ops, NULL, ret);

	return r < 0 ? weft_fail(reterr, NULL, -r, "%s", strerror(-r)) : 0;
}

static void lost(void *owner, const char *source, const char *why)
{
	printf("lost %s %s\n", source, why);
}

static bool address(struct prog *p, const char *text)
{
	if (text[0] == '/') {
		p->to.unix_path = text;
		return true;
	}
	return weft_sockaddr_parse(text, &p->to.to) == 0;
}

static int api_type(const char *mode, bool *ret_ads)
{
	*ret_ads = !strncmp(mode, "ads-", 4);
	mode += *ret_ads ? 4 : 0;
	return !strcmp(mode, "sotw") ? API(GRPC) : !strcmp(mode, "delta") ? API(DELTA_GRPC) : -1;
}

int main(int argc, char **argv)
{
	Envoy__Config__Core__V3__Node node = ENVOY__CONFIG__CORE__V3__NODE__INIT;
	Envoy__Config__Core__V3__ApiConfigSource api =
		ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__INIT;
	Envoy__Config__Core__V3__GrpcService grpc = ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__INIT;
	Envoy__Config__Core__V3__GrpcService *grpcs[] = {&grpc};
	Envoy__Config__Core__V3__GrpcService__EnvoyGrpc envoy =
		ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__ENVOY_GRPC__INIT;
	struct prog p = {.base = event_base_new(), .in = evbuffer_new()};
	struct weft_xds_sources_conf conf = {
		.node = &node, .dial = dial, .lost = lost, .owner = &p, .backoff_min_ms = 50};
	struct item *i, *tmp;
	struct event *ev;
	bool ads = false;
	int type = argc == 3 ? api_type(argv[2], &ads) : -1;

	if (type < 0 || !address(&p, argv[1])) {
		fprintf(stderr, "usage: xds_watch ADDRESS ads-sotw|ads-delta|sotw|delta\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	node.id = (char *)"watcher";
	node.cluster = (char *)"test";
	node.user_agent_name = (char *)"weft";
	envoy.cluster_name = (char *)"xds";
	grpc.target_specifier_case =
		ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__TARGET_SPECIFIER_ENVOY_GRPC;
	grpc.envoy_grpc = &envoy;
	api.has_api_type = api.has_transport_api_version = true;
	api.api_type = type;
	api.transport_api_version = ENVOY__CONFIG__CORE__V3__API_VERSION__V3;
	api.grpc_services = grpcs;
	api.n_grpc_services = 1;
	p.cs = (Envoy__Config__Core__V3__ConfigSource)ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__INIT;
	p.cs.config_source_specifier_case =
		ads ? ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_ADS
		    : ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_API_CONFIG_SOURCE;
	if (ads)
		conf.ads = &api;
	else
		p.cs.api_config_source = &api;
	p.start_ns = weft_now_ns();
	p.sources = weft_xds_sources_new(p.base, &conf);
	ev = event_new(p.base, 0, EV_READ | EV_PERSIST, on_input, &p);
	event_add(ev, NULL);
	puts("ready");
	event_base_dispatch(p.base);
	event_free(ev);
	weft_xds_sources_free(p.sources);
	HASH_ITER (hh, p.items, i, tmp) {
		HASH_DEL(p.items, i);
		free(i);
	}
	evbuffer_free(p.in);
	event_base_free(p.base);
	return 0;
}
