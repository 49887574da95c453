/* A cluster made by hand with its pools, hosts on loopback that the test serves itself, and
 * requests that tell what became of them. */
#pragma once
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/pool.h"
#include "proxy/upstream/transport.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a host */

struct served { /* a request that has no answer yet */
	TAILQ_ENTRY(served) link;
	struct weft_exchange *x;
	struct weft_arena *arena;
	struct server *s;
};
struct server {
	struct event_base *base;
	int fd;
	struct event *ev;
	struct weft_session_conf conf;
	const struct weft_io_tls *tls;
	TAILQ_HEAD(, served) open;
	struct peer {
		struct weft_session *session;
		struct weft_io *io;
	} peers[256];
	unsigned conns, requests;
	bool hold; /* answers only by server_answer */
	bool raw;  /* no HTTP: echoes bytes */
	const char *status;
	struct weft_host host;
	char text[WEFT_SOCKADDR_TEXT];
};

static void served_free(struct served *r)
{
	TAILQ_REMOVE(&r->s->open, r, link);
	weft_arena_free(r->arena);
	free(r);
}

static inline void answer(struct served *r)
{
	struct weft_headers h;

	weft_headers_init(&h, r->arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, r->s->status, 3);
	weft_headers_add(&h, "content-length", 14, "0", 1);
	weft_exchange_send_headers(r->x, &h, true);
}

static void sx_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct served *r = weft_exchange_user(x);

	r->s->requests++;
	if (!r->s->hold)
		answer(r);
}

static void sx_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
}

static void sx_trailers(struct weft_exchange *x, struct weft_headers *h)
{
}

static void sx_reset(struct weft_exchange *x, enum weft_reset why)
{
	served_free(weft_exchange_user(x));
}

static void sx_done(struct weft_exchange *x)
{
	served_free(weft_exchange_user(x));
}

static const struct weft_exchange_ops sx_ops = {
	.headers = sx_headers,
	.data = sx_data,
	.trailers = sx_trailers,
	.writable = sx_done,
	.reset = sx_reset,
	.done = sx_done,
};

static const struct weft_exchange_ops *ss_begin(struct weft_session *session,
						struct weft_exchange *x, void **ret_user,
						struct weft_arena **ret_arena)
{
	struct server *s = weft_session_owner(session);
	struct served *r = calloc(1, sizeof(*r));

	r->x = x;
	r->s = s;
	r->arena = weft_arena_new(0);
	TAILQ_INSERT_TAIL(&s->open, r, link);
	*ret_user = r;
	*ret_arena = r->arena;
	return &sx_ops;
}

static void ss_closed(struct weft_session *session, enum weft_io_end why, int err)
{
	struct server *s = weft_session_owner(session);

	for (size_t i = 0; i < 256; i++)
		if (s->peers[i].session == session)
			s->peers[i].session = NULL;
	weft_session_free(session);
}

static const struct weft_session_ops ss_ops = {.begin = ss_begin, .closed = ss_closed};

static void raw_readable(struct weft_io *io)
{
	evbuffer_add_buffer(weft_io_out(io), weft_io_in(io));
	weft_io_flush(io);
	if (weft_io_eof(io))
		weft_io_shutdown(io);
}

static void raw_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct server *s = weft_io_owner(io);

	for (size_t i = 0; i < 256; i++)
		if (s->peers[i].io == io)
			s->peers[i].io = NULL;
	weft_io_free(io);
}

static const struct weft_io_ops raw_ops = {.readable = raw_readable, .closed = raw_closed};

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	struct server *s = arg;
	int c = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct weft_io *io;
	size_t i = 0;

	if (c < 0)
		return;
	s->conns++;
	while (s->peers[i].session || s->peers[i].io)
		i++;
	io = weft_io_new(s->base, c, s->tls, NULL, &raw_ops, s);
	if (s->raw)
		s->peers[i].io = io;
	else
		s->peers[i].session = weft_session_new(io, &s->conf, &ss_ops, s);
}

static inline void server_open(struct server *s, struct event_base *base, enum weft_http version)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);

	s->base = base;
	s->status = "200";
	s->conf.server = true;
	s->conf.version = version;
	s->conf.h2.table_size = UINT32_MAX;
	s->conf.h2.allow_connect = true;
	TAILQ_INIT(&s->open);
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(s->fd, 128), 0);
	getsockname(s->fd, (struct sockaddr *)&a, &n);
	weft_ip_parse("127.0.0.1", &s->host.addr.ip);
	s->host.addr.port = ntohs(a.sin_port);
	s->host.hc_addr = s->host.addr;
	s->host.text = weft_sockaddr_text(&s->host.addr, s->text, sizeof(s->text));
	s->host.hostname = s->host.hc_hostname = "";
	atomic_store(&s->host.refs, 1000000);
	s->ev = event_new(base, s->fd, EV_READ | EV_PERSIST, on_accept, s);
	event_add(s->ev, NULL);
}

static inline unsigned server_peers(const struct server *s)
{
	unsigned n = 0;

	for (size_t i = 0; i < 256; i++)
		n += s->peers[i].session || s->peers[i].io;
	return n;
}

static void server_drop(struct server *s) /* all its connections */
{
	for (size_t i = 0; i < 256; i++) {
		weft_session_free(s->peers[i].session);
		weft_io_free(s->peers[i].io);
		s->peers[i] = (struct peer){0};
	}
}

static void server_close(struct server *s)
{
	server_drop(s);
	event_free(s->ev);
	close(s->fd);
}

/* ---- the cluster */

struct fix {
	struct weft_worker *w;
	struct event_base *base;
	Envoy__Config__Cluster__V3__Cluster msg;
	struct weft_cluster cl;
	struct weft_cluster_priv priv;
	struct weft_breaker breaker[WEFT_PRIORITIES];
	struct weft_wcluster wc;
	struct weft_arena *arena;
	struct server server;
	struct weft_take how;
};

static inline int64_t stat_of(const struct fix *f, enum weft_cluster_stat item)
{
	return weft_scope_value(f->cl.scope, item);
}
#define STAT_IS(f, item, v) assert_int_equal(stat_of(f, WEFT_CLUSTER_##item), v)

static inline void transport_make(struct fix *f)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = f->arena, .errs = &errs, .file = true};

	if (weft_transport_new(&c, NULL, &f->cl, &f->cl.transport) < 0) {
		print_error("%s: %s\n", errs.v[0].path, errs.v[0].msg);
		fail();
	}
}

static inline int fix_open(struct fix *f, enum weft_http version)
{
	static unsigned n;
	char name[32];

	memset(f, 0, sizeof(*f));
	snprintf(name, sizeof(name), "t%u", n++);
	f->w = weft_worker_new(-1, NULL);
	f->base = f->w->base;
	f->arena = weft_arena_new(0);
	f->msg.base.descriptor = &envoy__config__cluster__v3__cluster__descriptor;
	f->priv.per_host_max_connections = UINT32_MAX;
	for (int i = 0; i < WEFT_PRIORITIES; i++)
		f->breaker[i] = (struct weft_breaker){.max_connections = 1024,
						      .max_pending = 1024,
						      .max_requests = 1024,
						      .max_retries = 3,
						      .max_pools = UINT32_MAX,
						      .budget_pct = -1,
						      .track_remaining = true};
	f->cl.msg = &f->msg;
	f->cl.name = "t";
	f->cl.priv = &f->priv;
	f->cl.breaker = f->breaker;
	f->cl.connect_ms = 2000;
	f->cl.http = version == WEFT_HTTP_2 ? WEFT_UP_H2 : WEFT_UP_H1;
	f->cl.session_h1.version = WEFT_HTTP_11;
	f->cl.session_h2.version = WEFT_HTTP_2;
	f->cl.session_h2.h2.table_size = UINT32_MAX;
	f->cl.preconnect_ratio = 1;
	f->cl.scope = weft_scope_get(&weft_cluster_scope, name);
	atomic_store(&f->cl.refs, 1000000);
	transport_make(f);
	f->wc.refs = 1000000;
	f->wc.w = f->w;
	f->wc.cluster = &f->cl;
	f->wc.pools = weft_pools_new(&f->wc);
	server_open(&f->server, f->base, version);
	return 0;
}

static inline void turn(struct fix *f)
{
	event_base_loop(f->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

static inline void fix_close(struct fix *f)
{
	weft_pools_free(f->wc.pools);
	server_close(&f->server);
	for (int i = 0; i < 20; i++)
		turn(f);
	assert_int_equal(f->wc.refs, 1000000); /* every lease and connection gave it back */
	assert_int_equal(f->server.host.refs, 1000000);
	assert_int_equal(f->breaker[0].connections, 0);
	assert_int_equal(f->breaker[0].pending, 0);
	assert_int_equal(f->breaker[0].requests, 0);
	assert_int_equal(f->breaker[0].pools, 0);
	STAT_IS(f, upstream_cx_active, 0);
	STAT_IS(f, upstream_rq_active, 0);
	STAT_IS(f, upstream_rq_pending_active, 0);
	weft_transport_free(f->cl.transport);
	weft_scope_unref(f->cl.scope);
	weft_arena_free(f->arena);
	weft_worker_free(f->w);
}

/* Until cond is true, or ten seconds: the assertion after it fails then. */
#define UNTIL(f, cond)                                                                             \
	do {                                                                                       \
		uint64_t end_ = weft_now_ns() + 10000000000ull;                                    \
		struct timeval tv_ = {0, 2000};                                                    \
		while (!(cond) && weft_now_ns() < end_) {                                          \
			event_base_loopexit((f)->base, &tv_);                                      \
			event_base_loop((f)->base, EVLOOP_ONCE);                                   \
		}                                                                                  \
		assert_true(cond);                                                                 \
	} while (0)

/* ---- requests */

struct rq {
	struct fix *f;
	struct weft_lease *lease;
	struct weft_exchange *x;
	struct weft_arena *arena;
	int took, status;
	bool fresh, over, cut, failed;
	unsigned order; /* of its place */
	enum weft_reset why;
	char detail[128];
};
static unsigned rq_order;

static void rq_over(struct rq *r)
{
	r->over = true;
	if (r->lease)
		weft_lease_done(r->lease);
	r->lease = NULL;
	r->x = NULL;
}

static void cx_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct rq *r = weft_exchange_user(x);

	r->status = weft_headers_status(h);
}

static void cx_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
}

static void cx_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct rq *r = weft_exchange_user(x);

	r->cut = true;
	r->why = why;
	rq_over(r);
}

static void cx_done(struct weft_exchange *x)
{
	rq_over(weft_exchange_user(x));
}

static const struct weft_exchange_ops cx_ops = {
	.headers = cx_headers,
	.data = cx_data,
	.trailers = sx_trailers,
	.reset = cx_reset,
	.done = cx_done,
};

static void rq_begin(struct rq *r)
{
	struct weft_headers h;

	r->order = ++rq_order;
	r->fresh = r->lease->fresh;
	weft_headers_init(&h, r->arena);
	weft_headers_add_id(&h, WEFT_H_METHOD, "GET", 3);
	weft_headers_add_id(&h, WEFT_H_PATH, "/", 1);
	weft_headers_add_id(&h, WEFT_H_SCHEME, "http", 4);
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, "web.test", 8);
	assert_int_equal(
		weft_exchange_open(r->lease->session, &cx_ops, r, r->arena, &h, false, &r->x), 0);
}

static void rq_ready(void *owner, struct weft_lease *l)
{
	struct rq *r = owner;

	assert_ptr_equal(r->lease, l);
	rq_begin(r);
}

static void rq_failed(void *owner, struct weft_lease *l, enum weft_reset why, const char *detail)
{
	struct rq *r = owner;

	r->failed = true;
	r->why = why;
	snprintf(r->detail, sizeof(r->detail), "%s", detail);
	rq_over(r);
}

static const struct weft_lease_ops rq_ops = {.ready = rq_ready, .failed = rq_failed};

static inline int rq_start(struct rq *r, struct fix *f)
{
	memset(r, 0, sizeof(*r));
	r->f = f;
	r->arena = weft_arena_new(0);
	r->took = weft_pool_take(&f->wc, &f->server.host, &f->how, &rq_ops, r, &r->lease);
	if (r->took == 1)
		rq_begin(r);
	return r->took;
}

static inline void rq_free(struct rq *r)
{
	if (r->x)
		weft_exchange_reset(r->x, WEFT_RESET_LOCAL);
	if (r->lease)
		weft_lease_done(r->lease);
	weft_arena_free(r->arena);
	memset(r, 0, sizeof(*r));
}

static inline void rq_whole(struct fix *f, bool fresh) /* one, alone */
{
	struct rq r;

	rq_start(&r, f);
	UNTIL(f, r.over);
	assert_int_equal(r.status, 200);
	assert_int_equal(r.fresh, fresh);
	rq_free(&r);
}
