/* Listeners of a process with one worker, all on the test's thread: what they serve is a direct
 * answer of an HTTP connection manager. */
#pragma once
#include "proxy/http/hcm.h"
#include "proxy/waypoint/hbone_in.h"
#include "proxy/waypoint/waypoint.h"
#include "xds/yaml.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define HCM                                                                                        \
	"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."         \
	"HttpConnectionManager"
#define ROUTER "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
enum { TURNS = 2000 };

struct lfix {
	struct weft_worker *main, *w, *workers[1];
	struct wlisteners *ws;
	struct weft_route_tables *routes;
	struct weft_route_table *wanted; /* by RDS */
	struct secrets *secrets;
	struct listeners *m;
	struct weft_errs errs, warns;
	_Atomic uint64_t connections;
	unsigned live;
};
static struct lfix f;
static const char *hcm_more = ""; /* further fields of the connection manager: ", a: b" */

static void want_routes(void *owner, struct weft_route_table *t,
			const Envoy__Config__Core__V3__ConfigSource *cs, const char *name, bool on)
{
	f.wanted = on ? t : NULL;
}

static void routes_ready(void *owner, struct weft_route_table *t)
{
	if (f.m)
		listeners_look(f.m);
}

static void lives(void *owner, const char *name, bool on)
{
	f.live += on ? 1u : -1u;
}

static inline void turn(void)
{
	struct timeval tv = {0, 500};

	weft_worker_flush(f.w);
	event_base_loopexit(f.w->base, &tv);
	event_base_dispatch(f.w->base);
	weft_worker_flush(f.main);
	event_base_loop(f.main->base, EVLOOP_NONBLOCK);
}

static inline void turns(unsigned n)
{
	while (n--)
		turn();
}

static inline void fix_start(uint64_t max_connections)
{
	struct wlisteners_conf wc = {.max_connections = max_connections,
				     .connections = &f.connections,
				     .drain_ms = 60000};
	struct weft_route_tables_conf rc = {
		.workers = f.workers, .n_workers = 1, .want = want_routes, .ready = routes_ready};
	struct secrets_conf sc = {0};
	struct listeners_conf lc = {.workers = f.workers, .n_workers = 1, .live = lives};

	memset(&f, 0, sizeof(f));
	wc.connections = &f.connections;
	f.main = weft_worker_new(-1, NULL);
	f.w = wc.worker = f.workers[0] = weft_worker_new(0, NULL);
	f.ws = wlisteners_new(&wc);
	f.routes = lc.routes = weft_route_tables_new(&rc);
	f.secrets = lc.secrets = secrets_new(&sc);
	lc.main = f.main;
	f.m = listeners_new(&lc);
}

static inline int fix_setup(void **state)
{
	static bool once;

	if (!once) {
		weft_http_register();
		weft_hbone_register();
		once = true;
	}
	fix_start(0);
	return 0;
}

static inline int fix_end(void **state)
{
	turns(2);
	listeners_stop_accepting(f.m, false, true);
	turns(2);
	wlisteners_free(f.ws);
	listeners_free(f.m);
	weft_route_tables_free(f.routes);
	secrets_free(f.secrets);
	weft_worker_free(f.w);
	weft_worker_free(f.main);
	return 0;
}

static const ProtobufCMessageDescriptor *lpick(void *ctx, const char *v, const char *k,
					       bool *lenient, struct weft_err *e)
{
	return ctx;
}

static inline const ProtobufCMessage *of_text(struct weft_arena *a, const char *yaml,
					      const ProtobufCMessageDescriptor *d)
{
	struct weft_yaml_doc *docs = NULL;
	struct weft_errs errs = {0};
	size_t n = 0;

	weft_yaml_decode(a, "t", yaml, strlen(yaml), lpick, (void *)d, &docs, &n, &errs);
	if (errs.n)
		print_error("%s: %s: %s\n", errs.v[0].where, errs.v[0].path, errs.v[0].msg);
	assert_int_equal(errs.n, 0);
	return docs[0].msg;
}

/* A listener that says `word`; more: further fields. As listeners_set. */
static inline int set(const char *name, unsigned port, const char *word, const char *more,
		      bool from_xds)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = &f.errs, .warns = &f.warns, .file = true};
	char yaml[2000];

	snprintf(yaml, sizeof(yaml),
		 "name: %s\naddress: {socket_address: {address: 127.0.0.1, port_value: %u}}\n"
		 "filter_chains: [{filters: [{name: hcm, typed_config: {\"@type\": " HCM
		 ", stat_prefix: t%s, route_config: {virtual_hosts: [{name: v, domains: [\"*\"], "
		 "routes: [{match: {prefix: /}, direct_response: {status: 200, body: "
		 "{inline_string: %s}}}]}]}, http_filters: [{name: r, typed_config: {\"@type\": "
		 "" ROUTER "}}]}}]}]\n%s",
		 name, port, hcm_more, word, more ? more : "");
	memset(&f.errs, 0, sizeof(f.errs));
	memset(&f.warns, 0, sizeof(f.warns));
	return listeners_set(
		f.m, &c, NULL,
		(const void *)of_text(a, yaml, &envoy__config__listener__v3__listener__descriptor),
		a, "1", from_xds);
}

struct port_of {
	const char *name;
	unsigned port, warming;
};

static void find_port(void *ctx, const struct listener_view *v)
{
	const struct lconf *l = v->active ? v->active : v->warming;
	struct port_of *p = ctx;

	if (strcmp(l->name, p->name))
		return;
	p->port = v->active && v->n_bound ? v->bound[0].port : 0;
	p->warming = v->warming != NULL;
}

static inline unsigned port_of(const char *name)
{
	struct port_of p = {.name = name};

	listeners_each(f.m, find_port, &p);
	return p.port;
}

/* Connected, or -errno. Does not block from then on. */
static inline int dial(unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons((uint16_t)port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		return -errno;
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

/* What comes until `until` is in it or the peer ends; in a static buffer. */
static inline const char *hear(int fd, const char *until)
{
	static char got[8192];
	size_t n = 0;
	unsigned i;

	for (i = 0; i < TURNS; i++) {
		ssize_t r = recv(fd, got + n, sizeof(got) - 1 - n, 0);

		if (r > 0)
			n += (size_t)r;
		got[n] = 0;
		if (r == 0 || (r < 0 && errno != EAGAIN) || (n && strstr(got, until)))
			return got;
		turn();
	}
	fail_msg("nothing with \"%s\" came, but \"%s\"", until, got);
	return got;
}

static inline const char *get(int fd, const char *until)
{
	static const char req[] = "GET / HTTP/1.1\r\nhost: t\r\n\r\n";

	assert_int_equal(send(fd, req, sizeof(req) - 1, MSG_NOSIGNAL), sizeof(req) - 1);
	return hear(fd, until);
}
