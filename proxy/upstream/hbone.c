/* Streams inside HBONE tunnels: one mTLS HTTP/2 session to an endpoint's proxy carries many CONNECT
 * streams, each a weft_io. Pooled by {our certificate, peer's identity, peer's address}. RFC 9113
 * §8.5; ambient-contract §1. Peers speak TLS 1.3 only: the transport's tls_params must allow it
 * (the default of clients ends at 1.2, as Envoy's does). */
#include "proxy/core/worker.h"
#include "proxy/upstream/pool_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	HBONE_STREAMS_MAX = 100, /* of one tunnel, as node proxies do */
	HBONE_IDLE_S = 300,
};

TAILQ_HEAD(stream_list, hbone_stream);
struct hbone_peer {
	TAILQ_ENTRY(hbone_peer) link;
	struct weft_pools *all;
	struct weft_host *host; /* referenced: SNI and names are of it */
	const struct weft_tsocket *socket;
	struct weft_sockaddr addr;
	char *identity; /* NULL: what the transport checks */
	TAILQ_HEAD(, hbone_tunnel) tunnels;
	struct stream_list waits;
	unsigned n_connecting;
};
struct hbone_tunnel {
	TAILQ_ENTRY(hbone_tunnel) link;
	struct hbone_peer *peer;
	struct weft_io *io; /* until there is a session */
	struct weft_session *session;
	unsigned streams;
	bool draining, freeing;
	int dial_err;
	struct event timer;
};
struct hbone_stream {			/* the state of a weft_io */
	TAILQ_ENTRY(hbone_stream) link; /* in waits */
	struct weft_io *io;
	struct hbone_peer *peer;     /* while waiting */
	struct hbone_tunnel *tunnel; /* after it */
	struct weft_exchange *x;
	char *authority;
	bool waits, answered, blocked, ended, paused;
	struct event timer;
};

static const struct weft_session_conf conf = {
	.version = WEFT_HTTP_2,
	.h2 = {.stream_window = 1 << 20,
	       .conn_window = 16 << 20,
	       .table_size = UINT32_MAX,
	       .allow_connect = true,
	       .ping_interval_ms = 10000,
	       .ping_timeout_ms = 20000},
};

/* ---- tunnels */

static void tunnel_connect(struct hbone_peer *p);

static void peer_look(struct hbone_peer *p)
{
	if (!TAILQ_EMPTY(&p->tunnels) || !TAILQ_EMPTY(&p->waits))
		return;
	TAILQ_REMOVE(&p->all->peers, p, link);
	weft_host_unref(p->host);
	free(p->identity);
	free(p);
}

static void tunnel_free(struct hbone_tunnel *t)
{
	struct hbone_peer *p = t->peer;

	t->freeing = true;
	event_del(&t->timer);
	TAILQ_REMOVE(&p->tunnels, t, link);
	if (!t->session)
		p->n_connecting--;
	weft_session_free(t->session);
	weft_io_free(t->io);
	free(t);
}

static void tunnel_idle(struct hbone_tunnel *t)
{
	struct hbone_peer *p = t->peer;
	struct timeval tv = {HBONE_IDLE_S, 0};

	if (!t->draining && !p->all->draining) {
		evtimer_add(&t->timer, &tv);
		return;
	}
	tunnel_free(t);
	peer_look(p);
}

/* Callbacks of the streams come from the loop: nothing of theirs runs inside. */
static void waits_fail(struct hbone_peer *p, enum weft_io_end why, int err, const char *detail)
{
	struct hbone_stream *s;

	while ((s = TAILQ_FIRST(&p->waits))) {
		TAILQ_REMOVE(&p->waits, s, link);
		s->waits = false;
		s->peer = NULL;
		weft_io_tell_closed(s->io, why, err, detail);
	}
}

static void stream_open(struct hbone_tunnel *t, struct hbone_stream *s);

static bool tunnel_room(const struct hbone_tunnel *t)
{
	return t->session && !t->draining && t->streams < HBONE_STREAMS_MAX &&
	       weft_session_room(t->session);
}

static void peer_serve(struct hbone_peer *p)
{
	struct hbone_tunnel *t;

	TAILQ_FOREACH (t, &p->tunnels, link)
		while (!TAILQ_EMPTY(&p->waits) && tunnel_room(t))
			stream_open(t, TAILQ_FIRST(&p->waits));
	if (!TAILQ_EMPTY(&p->waits) && !p->n_connecting)
		tunnel_connect(p);
}

static void tunnel_failed(struct hbone_tunnel *t, enum weft_io_end why, int err, const char *detail)
{
	struct hbone_peer *p = t->peer;
	char text[200];

	snprintf(text, sizeof(text), "HBONE tunnel: %s", detail);
	tunnel_free(t);
	waits_fail(p, why, err, text);
	peer_look(p);
}

static void on_goaway(struct weft_session *session)
{
	struct hbone_tunnel *t = weft_session_owner(session);

	t->draining = true;
	if (!t->streams)
		tunnel_idle(t);
}

static void on_room(struct weft_session *session)
{
	struct hbone_tunnel *t = weft_session_owner(session);

	peer_serve(t->peer);
}

static void on_session_closed(struct weft_session *session, enum weft_io_end why, int err)
{
	struct hbone_tunnel *t = weft_session_owner(session);
	struct hbone_peer *p = t->peer;

	tunnel_free(t); /* the streams were told by their exchanges, and hold nothing of it */
	peer_serve(p);
	peer_look(p);
}

static const struct weft_session_ops session_ops = {
	.goaway = on_goaway,
	.room = on_room,
	.closed = on_session_closed,
};

static bool is_peer(const struct weft_tls_info *tls, const char *identity)
{
	for (size_t i = 0; tls->peer_uri && tls->peer_uri[i]; i++)
		if (!strcmp(tls->peer_uri[i], identity))
			return true;
	return false;
}

static void on_ready(struct weft_io *io)
{
	struct hbone_tunnel *t = weft_io_owner(io);
	const struct weft_io_info *info = weft_io_info(io);
	struct hbone_peer *p = t->peer;

	/* The handshake refused it already where the identity was given; once more, as everything
	 * rests on it. */
	if (!info->tls || strcmp(info->alpn, "h2") != 0 ||
	    (p->identity && !is_peer(info->tls, p->identity))) {
		tunnel_failed(t, WEFT_IO_TLS, EPROTO,
			      !info->tls || strcmp(info->alpn, "h2") != 0
				      ? "the peer speaks no HTTP/2 over TLS"
				      : "the peer has another identity");
		return;
	}
	event_del(&t->timer);
	p->n_connecting--;
	t->io = NULL;
	t->session = weft_session_new(io, &conf, &session_ops, t);
	peer_serve(p);
	if (!t->streams)
		tunnel_idle(t);
}

static void on_readable(struct weft_io *io)
{
}

static void on_io_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct hbone_tunnel *t = weft_io_owner(io);
	const char *detail = weft_io_detail(io);
	char text[160];

	snprintf(text, sizeof(text), "%s", *detail ? detail : err ? strerror(err) : "closed");
	tunnel_failed(t, why, err, text);
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready,
	.readable = on_readable,
	.closed = on_io_closed,
};

static void on_tunnel_timer(evutil_socket_t fd, short what, void *arg)
{
	struct hbone_tunnel *t = arg;

	if (t->session) {
		t->draining = true;
		if (!t->streams)
			tunnel_idle(t);
	} else if (t->dial_err < 0) {
		tunnel_failed(t, WEFT_IO_REFUSED, -t->dial_err,
			      t->dial_err == -EAGAIN   ? "TLS secret is not there yet"
			      : t->dial_err == -EINVAL ? "the transport socket is not TLS"
						       : strerror(-t->dial_err));
	} else {
		tunnel_failed(t, WEFT_IO_TIMEOUT, ETIMEDOUT, "connect timeout");
	}
}

static int tunnel_dial(struct hbone_tunnel *t)
{
	struct hbone_peer *p = t->peer;
	struct weft_wcluster *wc = p->all->wc;
	struct weft_take how = {.identity = p->identity};
	struct weft_tdial_want want = {
		.socket = p->socket, .host = p->host, .to = &p->addr, .how = &how, .tunnel = true};
	struct weft_tdial d;
	int r = weft_transport_prepare(wc->cluster->transport, &want, &d);

	if (r < 0)
		return r;
	r = weft_io_dial(wc->w->base, &d.dial, &io_ops, t, &t->io);
	weft_tdial_done(&d);
	return r;
}

static void tunnel_connect(struct hbone_peer *p)
{
	struct hbone_tunnel *t = weft_xcalloc(1, sizeof(*t));
	struct weft_wcluster *wc = p->all->wc;
	unsigned ms = wc->cluster->connect_ms ? wc->cluster->connect_ms : 5000;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	t->peer = p;
	TAILQ_INSERT_TAIL(&p->tunnels, t, link);
	p->n_connecting++;
	evtimer_assign(&t->timer, wc->w->base, on_tunnel_timer, t);
	t->dial_err = tunnel_dial(t);
	if (t->dial_err < 0)
		tv = (struct timeval){0};
	evtimer_add(&t->timer, &tv);
}

static struct hbone_peer *peer_get(struct weft_pools *a, const struct hbone_ask *ask,
				   const struct weft_sockaddr *addr)
{
	struct hbone_peer *p;
	const char *id = ask->to.identity;

	TAILQ_FOREACH (p, &a->peers, link)
		if (p->socket == ask->socket && weft_sockaddr_eq(&p->addr, addr) &&
		    (id ? p->identity && !strcmp(p->identity, id) : !p->identity))
			return p;
	p = weft_xcalloc(1, sizeof(*p));
	p->all = a;
	p->host = ask->host;
	weft_host_ref(p->host);
	p->socket = ask->socket;
	p->addr = *addr;
	p->identity = id ? weft_xstrdup(id) : NULL;
	TAILQ_INIT(&p->tunnels);
	TAILQ_INIT(&p->waits);
	TAILQ_INSERT_HEAD(&a->peers, p, link);
	return p;
}

/* ---- streams */

/* The exchange is over, or was never opened: the place in the tunnel is free. */
static void stream_leave(struct hbone_stream *s)
{
	struct hbone_tunnel *t = s->tunnel;

	s->x = NULL;
	if (!t)
		return;
	s->tunnel = NULL;
	if (!--t->streams && !t->freeing)
		tunnel_idle(t);
}

static void send_out(struct hbone_stream *s)
{
	struct evbuffer *out;

	if (!s->x || !s->answered || s->blocked || s->ended)
		return;
	out = weft_io_out(s->io);
	if (!evbuffer_get_length(out))
		return;
	s->blocked = !weft_exchange_send_data(s->x, out, false);
	weft_io_tell_drained(s->io);
}

static void x_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct hbone_stream *s = weft_exchange_user(x);
	int status = weft_headers_status(h);
	char text[64];

	if (status != 200) {
		snprintf(text, sizeof(text), "HBONE CONNECT was answered %d", status);
		weft_exchange_reset(x, WEFT_RESET_LOCAL);
		stream_leave(s);
		weft_io_tell_closed(s->io, WEFT_IO_REFUSED,
				    status == 401 || status == 403 ? EACCES : ECONNREFUSED, text);
		return;
	}
	event_del(&s->timer);
	s->answered = true;
	weft_io_tell_ready(s->io);
	if (end)
		weft_io_tell_readable(s->io, true);
	else
		send_out(s);
}

static void x_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct hbone_stream *s = weft_exchange_user(x);

	evbuffer_add_buffer(weft_io_in(s->io), b);
	weft_io_tell_readable(s->io, end);
}

static void x_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct hbone_stream *s = weft_exchange_user(x);

	weft_io_tell_readable(s->io, true);
}

static void x_writable(struct weft_exchange *x)
{
	struct hbone_stream *s = weft_exchange_user(x);

	s->blocked = false;
	send_out(s);
}

static void x_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct hbone_stream *s = weft_exchange_user(x);

	stream_leave(s);
	weft_io_tell_closed(s->io, s->answered ? WEFT_IO_RESET : WEFT_IO_REFUSED, ECONNRESET,
			    "HBONE stream was reset");
}

static void x_done(struct weft_exchange *x)
{
	stream_leave(weft_exchange_user(x));
}

static const struct weft_exchange_ops exchange_ops = {
	.headers = x_headers,
	.data = x_data,
	.trailers = x_trailers,
	.writable = x_writable,
	.reset = x_reset,
	.done = x_done,
};

static void stream_open(struct hbone_tunnel *t, struct hbone_stream *s)
{
	struct weft_arena *a = weft_io_arena(s->io);
	struct weft_headers h;
	struct weft_io_info *info = weft_io_info_edit(s->io);
	const struct weft_io_info *outer = weft_io_info(weft_session_io(t->session));
	int r;

	TAILQ_REMOVE(&s->peer->waits, s, link);
	s->waits = false;
	s->peer = NULL;
	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_METHOD, "CONNECT", 7);
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, s->authority, strlen(s->authority));
	r = weft_exchange_open(t->session, &exchange_ops, s, a, &h, true, &s->x);
	if (r < 0) {
		s->x = NULL;
		weft_io_tell_closed(s->io, WEFT_IO_REFUSED, -r, "HBONE tunnel has no room");
		return;
	}
	s->tunnel = t;
	t->streams++;
	event_del(&t->timer);
	info->local = outer->local;
	if (weft_sockaddr_parse(s->authority, &info->remote) < 0)
		info->remote = outer->remote;
	info->direct_remote = outer->remote;
	if (s->paused)
		weft_exchange_pause(s->x);
}

static void want_write(struct weft_io *io)
{
	send_out(weft_io_state(io));
}

static void want_read(struct weft_io *io, bool on)
{
	struct hbone_stream *s = weft_io_state(io);

	if (s->paused == !on)
		return;
	s->paused = !on;
	if (s->x && on)
		weft_exchange_resume(s->x);
	else if (s->x)
		weft_exchange_pause(s->x);
}

static void stream_shutdown(struct weft_io *io)
{
	struct hbone_stream *s = weft_io_state(io);
	struct evbuffer *none;

	if (!s->x || s->ended)
		return;
	none = evbuffer_new();
	s->ended = true;
	weft_exchange_send_data(s->x, none, true);
	evbuffer_free(none);
}

static void stream_destroy(struct weft_io *io, bool reset)
{
	struct hbone_stream *s = weft_io_state(io);
	struct hbone_peer *p = s->peer;

	event_del(&s->timer);
	free(s->authority);
	s->authority = NULL;
	if (s->x) {
		struct weft_exchange *x = s->x;

		s->x = NULL;
		weft_exchange_reset(x, WEFT_RESET_LOCAL);
		stream_leave(s);
	}
	if (s->waits) {
		TAILQ_REMOVE(&p->waits, s, link);
		peer_look(p);
	}
}

static const struct weft_io_kind kind = {
	.want_write = want_write,
	.want_read = want_read,
	.shutdown = stream_shutdown,
	.destroy = stream_destroy,
};

static void on_stream_timer(evutil_socket_t fd, short what, void *arg)
{
	struct hbone_stream *s = arg;

	if (s->waits) {
		TAILQ_REMOVE(&s->peer->waits, s, link);
		s->waits = false;
		s->peer = NULL;
	}
	weft_io_tell_closed(s->io, WEFT_IO_TIMEOUT, ETIMEDOUT, "HBONE CONNECT was not answered");
}

int weft_hbone_dial(struct weft_pools *a, const struct hbone_ask *ask,
		    const struct weft_io_ops *ops, void *owner, struct weft_io **ret)
{
	struct event_base *base = a->wc->w->base;
	unsigned ms = a->wc->cluster->connect_ms ? a->wc->cluster->connect_ms : 5000;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	struct weft_sockaddr addr;
	struct hbone_stream *s;
	struct hbone_peer *p;
	void *state;

	if (weft_hbone_addr(ask, &addr) < 0 || !*ask->to.authority)
		return -EINVAL;
	p = peer_get(a, ask, &addr);
	*ret = weft_io_make(base, &kind, sizeof(*s), &state, ops, owner);
	s = state;
	s->io = *ret;
	s->peer = p;
	s->authority = weft_xstrdup(ask->to.authority);
	s->waits = true;
	TAILQ_INSERT_TAIL(&p->waits, s, link);
	evtimer_assign(&s->timer, base, on_stream_timer, s);
	evtimer_add(&s->timer, &tv);
	peer_serve(p);
	return 0;
}

/* ---- ends */

static void peer_drain(struct hbone_peer *p)
{
	struct hbone_tunnel *t, *next;

	for (t = TAILQ_FIRST(&p->tunnels); t; t = next) {
		next = TAILQ_NEXT(t, link);
		if (!t->session)
			continue;
		t->draining = true;
		if (!t->streams)
			tunnel_free(t);
	}
	peer_look(p);
}

void weft_hbone_drain(struct weft_pools *a, const struct weft_host *h)
{
	struct hbone_peer *p, *next;

	for (p = TAILQ_FIRST(&a->peers); p; p = next) {
		next = TAILQ_NEXT(p, link);
		if (!h || p->host == h || weft_ip_eq(&p->addr.ip, &h->addr.ip))
			peer_drain(p);
	}
}

void weft_hbone_free(struct weft_pools *a)
{
	struct hbone_peer *p;

	while ((p = TAILQ_FIRST(&a->peers))) {
		struct hbone_tunnel *t;

		while ((t = TAILQ_FIRST(&p->tunnels)))
			tunnel_free(t);
		waits_fail(p, WEFT_IO_RESET, ECONNABORTED, "the cluster is gone");
		peer_look(p);
	}
}
