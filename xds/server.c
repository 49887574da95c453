#include "xds/server.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/server_priv.h"
#include "xds/wire.h"
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
	GRPC_OK = 0,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
};
static const char ads_path[] =
	"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

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

__attribute__((format(printf, 3, 4))) static void finish(struct xstream *st, int status,
							 const char *fmt, ...)
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
	weft_grpc_in_done(&st->in);
	evbuffer_free(st->out);
	free(st);
}

/* ---- requests */

static void take_answer(struct xstream *st, struct xsub *sub, int type,
			const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *m)
{
	const struct weft_xds_server_conf *conf = &st->client->server->conf;
	char text[WEFT_XDS_TEXT_MAX + 1];

	if (!sub->waiting || !m->response_nonce || strcmp(m->response_nonce, sub->nonce))
		return; /* no answer, or to something older */
	sub->waiting = false;
	if (!m->error_detail || !conf->nacked)
		return;
	snprintf(text, sizeof(text), "%s", m->error_detail->message ?: "no reason given");
	conf->nacked(conf->owner, st->node, weft_xds_types[type], text);
}

static void request(struct xstream *st,
		    const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *m)
{
	int type = weft_xds_type_index(m->type_url ?: "");
	struct xtable *t;
	struct xsub *sub;

	if (!st->node[0]) {
		if (!m->node || !m->node->id || !m->node->id[0]) {
			finish(st, GRPC_INVALID_ARGUMENT, "node.id: must be set");
			return;
		}
		snprintf(st->node, sizeof(st->node), "%s", m->node->id);
	}
	if (type < 0) {
		finish(st, GRPC_INVALID_ARGUMENT, "type_url: not served: \"%.128s\"",
		       m->type_url ?: "");
		return;
	}
	t = &st->client->server->tables[type];
	sub = &st->subs[type];
	if (sub->subscribed) {
		take_answer(st, sub, type, m);
	} else {
		weft_xds_sub_open(sub, t);
		if (!m->n_resource_names_subscribe)
			(void)weft_xds_sub_add(sub, t, "*");
		for (size_t i = 0; i < m->n_initial_resource_versions; i++)
			weft_xds_sub_known(sub, m->initial_resource_versions[i]->key ?: "",
					   m->initial_resource_versions[i]->value ?: "");
	}
	for (size_t i = 0; i < m->n_resource_names_subscribe; i++)
		if (weft_xds_sub_add(sub, t, m->resource_names_subscribe[i])) {
			finish(st, GRPC_RESOURCE_EXHAUSTED,
			       "resource_names_subscribe: at most %d names of a type",
			       WEFT_XDS_NAMES_MAX);
			return;
		}
	for (size_t i = 0; i < m->n_resource_names_unsubscribe; i++)
		weft_xds_sub_del(sub, m->resource_names_unsubscribe[i]);
}

static void message(struct xstream *st, const uint8_t *p, size_t n)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_err err = {0};
	char text[600];
	ProtobufCMessage *m = weft_wire_unpack(
		a, &envoy__service__discovery__v3__delta_discovery_request__descriptor, p, n, false,
		&err);

	if (m)
		request(st, (const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *)m);
	else
		finish(st, GRPC_INVALID_ARGUMENT, "%s", weft_err_text(&err, text, sizeof(text)));
	weft_arena_free(a);
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

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	static const struct weft_h2_header type = {"content-type", "application/grpc", 12, 16};
	struct xclient *c = weft_h2_owner(weft_h2_stream_session(s));
	const char *path = weft_h2_headers_get(h, ":path");
	const char *method = weft_h2_headers_get(h, ":method");
	struct xstream *st;

	if (!method || strcmp(method, "POST")) {
		refuse(s, 405, 0, "");
	} else if (!is_grpc(weft_h2_headers_get(h, "content-type"))) {
		refuse(s, 415, 0, "");
	} else if (!path || strcmp(path, ads_path)) {
		refuse(s, 200, GRPC_UNIMPLEMENTED, "only DeltaAggregatedResources is served");
	} else if (end) {
		refuse(s, 200, GRPC_OK, "");
	} else {
		st = weft_xcalloc(1, sizeof(*st));
		st->client = c;
		st->s = s;
		st->status = -1;
		weft_grpc_in_init(&st->in, WEFT_XDS_REQUEST_MAX);
		st->out = evbuffer_new();
		if (!st->out)
			abort();
		TAILQ_INSERT_TAIL(&c->streams, st, list);
		weft_h2_stream_set_user(s, st);
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
		message(st, m, len);
		free(m);
	}
	if (r == -EMSGSIZE)
		finish(st, GRPC_RESOURCE_EXHAUSTED, "a request must be at most %d bytes",
		       WEFT_XDS_REQUEST_MAX);
	else if (r < 0)
		finish(st, GRPC_INTERNAL, "requests may not be compressed");
	weft_h2_resume(s);
}

static void on_end(struct weft_h2_stream *s)
{
	struct xstream *st = weft_h2_stream_user(s);

	if (st)
		finish(st, GRPC_OK, "%s", "");
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

static bool allowed(const struct weft_xds_server *s, int fd)
{
	struct ucred u;
	socklen_t n = sizeof(u);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n))
		return false;
	if (s->conf.allow)
		return s->conf.allow(s->conf.owner, u.pid, u.uid);
	return u.uid == 0 || u.uid == geteuid();
}

static void client_new(struct weft_xds_server *s, int fd)
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
		int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				event_del(l->ev);
			return;
		}
		if (s->n_clients >= WEFT_XDS_CLIENTS_MAX || !allowed(s, fd))
			close(fd);
		else
			client_new(s, fd);
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

/* Graves that every subscriber was told of. */
static void bury(struct weft_xds_server *s, int type)
{
	uint64_t told = UINT64_MAX;
	struct xclient *c;
	struct xstream *st;

	TAILQ_FOREACH (c, &s->clients, list)
		TAILQ_FOREACH (st, &c->streams, list)
			if (st->subs[type].subscribed && st->subs[type].sent_seq < told)
				told = st->subs[type].sent_seq;
	weft_xds_table_bury(&s->tables[type], told);
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
					finish(st, GRPC_DEADLINE_EXCEEDED,
					       "no answer to response %s of %s", st->subs[i].nonce,
					       weft_xds_types[i]->brief);
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		if (!s->depth)
			bury(s, i);
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
	weft_xds_tables_init(s);
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
	weft_xds_tables_done(s);
	event_free(s->ev_push);
	event_free(s->ev_tick);
	free(s);
}

size_t weft_xds_server_clients(const struct weft_xds_server *s)
{
	return s->n_clients;
}
