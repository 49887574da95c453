#include "xds/server.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/server_priv.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ACK_MS = 60000,
	TICK_MS = 1000,
	ACCEPTS_A_TURN = 16,
};
static const char ads_service[] = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/* ---- a stream's end */

/* Bytes that may not stand in a header are written %XX. */
static void percent(char *dst, size_t cap, const char *s)
{
	size_t n = 0;

	for (; *s && n + 4 < cap; s++) {
		if (*s >= ' ' && *s <= '~' && *s != '%')
			dst[n++] = *s;
		else
			n += (size_t)snprintf(dst + n, cap - n, "%%%02X", (unsigned char)*s);
	}
	dst[n] = '\0';
}

void weft_xds_finish(struct xstream *st, int status, const char *fmt, ...)
{
	char text[sizeof(st->message)];
	va_list ap;

	if (st->status >= 0)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	percent(st->message, sizeof(st->message), text);
	st->status = status;
	evbuffer_drain(st->out, evbuffer_get_length(st->out));
	weft_h2_resume(st->s);
	weft_xds_link_push(st->client->link);
}

static size_t status_headers(struct weft_h2_header v[2], char number[12], int status,
			     const char *message)
{
	int n = snprintf(number, 12, "%d", status);

	v[0] = (struct weft_h2_header){"grpc-status", number, 11, (size_t)n};
	v[1] = (struct weft_h2_header){"grpc-message", message, 12, strlen(message)};
	return v[1].value_len ? 2 : 1;
}

static void stream_free(struct xstream *st)
{
	TAILQ_REMOVE(&st->client->streams, st, list);
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		weft_xds_sub_done(&st->subs[i]);
	if (st->scope)
		st->scope->n_streams--;
	weft_grpc_in_done(&st->in);
	evbuffer_free(st->out);
	free(st->authorization);
	free(st);
}

/* ---- HTTP/2 */

static bool is_grpc(const char *type)
{
	return type && !strncmp(type, "application/grpc", 16) &&
	       (!type[16] || type[16] == '+' || type[16] == ';');
}

/* An answer that is only trailers, or a plain HTTP status where the peer does not speak gRPC. */
static void refuse(struct weft_h2_stream *s, int http, int status, const char *text)
{
	struct weft_h2_header v[3] = {{"content-type", "application/grpc", 12, 16}};
	char number[12];
	size_t n = 0;

	if (http == 200)
		n = 1 + status_headers(v + 1, number, status, text);
	if (weft_h2_respond(s, http, v, n, false))
		weft_h2_reset(s, WEFT_H2_INTERNAL_ERROR);
}

/* "StreamX" or "DeltaX" of a service. */
static bool is_method(const char *path, const char *noun, bool *ret_delta)
{
	*ret_delta = !strncmp(path, "Delta", 5);
	return (*ret_delta || !strncmp(path, "Stream", 6)) &&
	       !strcmp(path + (*ret_delta ? 5 : 6), noun);
}

static bool find_method(const char *path, bool *ret_delta, int *ret_only)
{
	size_t n = sizeof(ads_service) - 1;

	*ret_only = -1;
	if (!strncmp(path, ads_service, n))
		return is_method(path + n, "AggregatedResources", ret_delta);
	for (int i = 0; i < WEFT_XDS_TYPES; i++) {
		const struct weft_xds_type *t = weft_xds_types[i];

		n = t->service ? strlen(t->service) : 0;
		if (!n || path[0] != '/' || strncmp(path + 1, t->service, n) || path[n + 1] != '/')
			continue;
		*ret_only = i;
		return is_method(path + n + 2, t->noun, ret_delta);
	}
	return false;
}

static struct xstream *stream_new(struct xclient *c, struct weft_h2_stream *s,
				  const struct weft_h2_headers *h)
{
	struct xstream *st = weft_xcalloc(1, sizeof(*st));

	st->client = c;
	st->s = s;
	st->status = -1;
	st->authorization = weft_xstrdup(weft_h2_headers_get(h, "authorization") ?: "");
	weft_grpc_in_init(&st->in, WEFT_XDS_REQUEST_MAX);
	st->out = evbuffer_new();
	if (!st->out)
		abort();
	TAILQ_INSERT_TAIL(&c->streams, st, list);
	weft_h2_stream_set_user(s, st);
	return st;
}

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	static const struct weft_h2_header type = {"content-type", "application/grpc", 12, 16};
	struct xclient *c = weft_h2_owner(weft_h2_stream_session(s));
	const char *path = weft_h2_headers_get(h, ":path");
	const char *method = weft_h2_headers_get(h, ":method");
	struct xstream *st;
	bool delta;
	int only;

	if (!method || strcmp(method, "POST")) {
		refuse(s, 405, 0, "");
	} else if (!is_grpc(weft_h2_headers_get(h, "content-type"))) {
		refuse(s, 415, 0, "");
	} else if (!path || !find_method(path, &delta, &only)) {
		refuse(s, 200, GRPC_UNIMPLEMENTED, "no such method");
	} else if (end) {
		refuse(s, 200, GRPC_OK, "");
	} else {
		st = stream_new(c, s, h);
		st->delta = delta;
		st->only = only;
		if (weft_h2_respond(s, 200, &type, 1, true))
			weft_h2_reset(s, WEFT_H2_INTERNAL_ERROR);
	}
}

static void on_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	struct xstream *st = weft_h2_stream_user(s);
	uint8_t *m;
	size_t len;
	int r = 0;

	weft_h2_consume(s, n);
	if (!st || st->status >= 0)
		return;
	weft_grpc_in_feed(&st->in, p, n);
	while (st->status < 0 && (r = weft_grpc_in_next(&st->in, &m, &len)) == 1) {
		weft_xds_request(st, m, len);
		free(m);
	}
	if (r == -EMSGSIZE)
		weft_xds_finish(st, GRPC_RESOURCE_EXHAUSTED, "a request must be at most %d bytes",
				WEFT_XDS_REQUEST_MAX);
	else if (r < 0)
		weft_xds_finish(st, GRPC_INTERNAL, "requests may not be compressed");
	weft_h2_resume(s);
}

static void on_end(struct weft_h2_stream *s)
{
	struct xstream *st = weft_h2_stream_user(s);

	if (st)
		weft_xds_finish(st, GRPC_OK, "%s", "");
}

static void on_stream_closed(struct weft_h2_stream *s, uint32_t code)
{
	struct xstream *st = weft_h2_stream_user(s);

	if (st)
		stream_free(st);
}

static ssize_t on_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	struct xstream *st = weft_h2_stream_user(s);
	struct weft_h2_header v[2];
	char number[12];

	if (!evbuffer_get_length(st->out) && st->status < 0)
		(void)weft_xds_stream_build(st);
	if (!evbuffer_get_length(st->out) && st->status >= 0) {
		if (weft_h2_trailers(s, v, status_headers(v, number, st->status, st->message)))
			return -EINVAL;
		*ret_end = true;
		return 0;
	}
	return evbuffer_remove(st->out, dst, max);
}

static void on_settings(struct weft_h2 *h)
{
	struct xclient *c = weft_h2_owner(h);

	weft_xds_link_up(c->link);
}

static const struct weft_h2_ops h2_ops = {
	.headers = on_headers,
	.data = on_data,
	.end = on_end,
	.closed = on_stream_closed,
	.pull = on_pull,
	.settings = on_settings,
};

/* ---- clients */

static void client_free(struct xclient *c)
{
	TAILQ_REMOVE(&c->server->clients, c, list);
	c->server->n_clients--;
	weft_xds_link_free(c->link);
	free(c);
}

static void on_down(void *owner, const char *why)
{
	client_free(owner);
}

static bool allowed(const struct weft_xds_server *s, int fd, pid_t *ret_pid, uid_t *ret_uid)
{
	struct ucred u = {.uid = (uid_t)-1};
	socklen_t n = sizeof(u);
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &len))
		return false;
	if (a.ss_family == AF_UNIX && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n))
		return false;
	*ret_pid = u.pid;
	*ret_uid = u.uid;
	if (s->conf.allow)
		return s->conf.allow(s->conf.owner, u.pid, u.uid);
	return a.ss_family == AF_UNIX && (u.uid == 0 || u.uid == geteuid());
}

static void client_new(struct weft_xds_server *s, int fd, pid_t pid, uid_t uid)
{
	struct xclient *c = weft_xcalloc(1, sizeof(*c));
	const struct weft_xds_link_conf conf = {
		.h2 = {.server = true, .max_streams = WEFT_XDS_STREAMS_MAX},
		.ops = &h2_ops,
		.times = s->conf.times,
		.down = on_down,
		.owner = c,
	};

	c->server = s;
	c->pid = pid;
	c->uid = uid;
	TAILQ_INIT(&c->streams);
	TAILQ_INSERT_TAIL(&s->clients, c, list);
	s->n_clients++;
	c->link = weft_xds_link_new(s->base, fd, &conf);
}

/* The listening socket rests until the next tick when descriptors are out. */
static void on_accept(evutil_socket_t lfd, short what, void *arg)
{
	struct xlistener *l = arg;
	struct weft_xds_server *s = l->server;

	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		pid_t pid;
		uid_t uid;
		int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				event_del(l->ev);
			return;
		}
		if (s->n_clients >= WEFT_XDS_CLIENTS_MAX || !allowed(s, fd, &pid, &uid))
			close(fd);
		else
			client_new(s, fd, pid, uid);
	}
}

/* ---- the server */

static void on_push(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_server *s = arg;
	struct xclient *c;
	struct xstream *st;

	if (s->depth)
		return;
	s->dirty = false;
	TAILQ_FOREACH (c, &s->clients, list) {
		TAILQ_FOREACH (st, &c->streams, list)
			weft_h2_resume(st->s);
		weft_xds_link_push(c->link);
	}
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Graves that every subscriber was told of. */
static void bury(struct weft_xds_server *s, struct xscope *sc, int type)
{
	uint64_t told = UINT64_MAX;
	struct xclient *c;
	struct xstream *st;

	TAILQ_FOREACH (c, &s->clients, list)
		TAILQ_FOREACH (st, &c->streams, list) {
			const struct xsub *sub = &st->subs[type];

			if (st->scope == sc && sub->subscribed)
				told = smaller(told, smaller(sub->sent_seq, sub->gone_seq));
		}
	weft_xds_table_bury(&sc->tables[type], told);
}

static void bury_all(struct weft_xds_server *s)
{
	struct xscope *sc, *tmp;

	HASH_ITER (hh, s->scopes, sc, tmp) {
		for (int i = 0; i < WEFT_XDS_TYPES; i++)
			if (!TAILQ_EMPTY(&sc->tables[i].graves))
				bury(s, sc, i);
		if (sc != s->common && !sc->n_streams && weft_xds_scope_empty(sc))
			weft_xds_scope_free(s, sc);
	}
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_server *s = arg;
	uint64_t now = weft_now_ns(), limit = (uint64_t)s->conf.ack_ms * 1000000;
	struct xlistener *l;
	struct xclient *c;
	struct xstream *st;

	TAILQ_FOREACH (c, &s->clients, list)
		TAILQ_FOREACH (st, &c->streams, list)
			for (int i = 0; i < WEFT_XDS_TYPES; i++)
				if (st->subs[i].waiting && now - st->subs[i].waiting_ns > limit)
					weft_xds_finish(st, GRPC_DEADLINE_EXCEEDED,
							"no answer to response %s of %s",
							st->subs[i].nonce,
							weft_xds_types[i]->brief);
	if (!s->depth)
		bury_all(s);
	TAILQ_FOREACH (l, &s->listeners, list)
		event_add(l->ev, NULL);
}

struct weft_xds_server *weft_xds_server_new(struct event_base *base,
					    const struct weft_xds_server_conf *conf)
{
	const struct timeval tick = {TICK_MS / 1000, TICK_MS % 1000 * 1000};
	struct weft_xds_server *s = weft_xcalloc(1, sizeof(*s));

	s->base = base;
	s->conf = *conf;
	s->conf.ack_ms = s->conf.ack_ms ?: ACK_MS;
	s->nonce = weft_rand64(); /* a nonce of an earlier process is stale */
	TAILQ_INIT(&s->clients);
	TAILQ_INIT(&s->listeners);
	s->common = weft_xds_scope_get(s, "");
	s->ev_push = event_new(base, -1, 0, on_push, s);
	s->ev_tick = event_new(base, -1, EV_PERSIST, on_tick, s);
	if (!s->ev_push || !s->ev_tick || event_add(s->ev_tick, &tick))
		abort();
	return s;
}

int weft_xds_server_listen(struct weft_xds_server *s, int fd, struct weft_err *reterr)
{
	int flags = fcntl(fd, F_GETFL), listening = 0;
	socklen_t n = sizeof(listening);
	struct xlistener *l;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) || !listening) {
		close(fd);
		return weft_fail(reterr, NULL, EINVAL, "xDS socket: must be a listening socket");
	}
	l = weft_xcalloc(1, sizeof(*l));
	l->server = s;
	l->fd = fd;
	l->ev = event_new(s->base, fd, EV_READ | EV_PERSIST, on_accept, l);
	if (!l->ev || event_add(l->ev, NULL))
		abort();
	TAILQ_INSERT_TAIL(&s->listeners, l, list);
	return 0;
}

void weft_xds_server_free(struct weft_xds_server *s)
{
	struct xscope *sc, *tmp;
	struct xlistener *l;

	if (!s)
		return;
	while (!TAILQ_EMPTY(&s->clients))
		client_free(TAILQ_FIRST(&s->clients));
	while ((l = TAILQ_FIRST(&s->listeners))) {
		TAILQ_REMOVE(&s->listeners, l, list);
		event_free(l->ev);
		close(l->fd);
		free(l);
	}
	HASH_ITER (hh, s->scopes, sc, tmp)
		weft_xds_scope_free(s, sc);
	event_free(s->ev_push);
	event_free(s->ev_tick);
	free(s);
}

size_t weft_xds_server_clients(const struct weft_xds_server *s)
{
	return s->n_clients;
}
