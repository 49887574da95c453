#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "proxy/net/conn.h"
#include "xds/link_priv.h"
#include <event2/event.h>
#include <stdlib.h>

enum {
	HANDSHAKE_MS = 10000,
	PING_MS = 30000,
	PONG_MS = 10000,
	CHUNK = 64 << 10,
	OUT_MAX = 256 << 10, /* bytes waiting in the connection before streams are asked for more */
};

struct weft_xds_link {
	const struct weft_xds_pipe *ops;
	void *pipe; /* NULL: none yet, or no more */
	struct weft_h2 *h2;
	struct weft_xds_link_conf conf;
	struct event *ev_push, *ev_time;
	uint64_t heard_ns, pinged_ns; /* pinged_ns 0: no PING is out */
	const char *drop;	      /* why it is to go */
	bool up, dead;
};

/* Nothing of l may be touched after it. */
static void down(struct weft_xds_link *l, const char *why)
{
	if (l->dead)
		return;
	l->dead = true;
	event_del(l->ev_push);
	event_del(l->ev_time);
	l->conf.down(l->conf.owner, why);
}

static void fill(struct weft_xds_link *l)
{
	struct evbuffer *out = l->pipe ? l->ops->out(l->pipe) : NULL;

	while (out && evbuffer_get_length(out) < OUT_MAX && weft_h2_want_send(l->h2)) {
		struct evbuffer_iovec v;
		ssize_t n;

		if (evbuffer_reserve_space(out, CHUNK, &v, 1) != 1)
			abort();
		n = weft_h2_send(l->h2, v.iov_base, CHUNK);
		v.iov_len = n > 0 ? (size_t)n : 0;
		evbuffer_commit_space(out, &v, 1);
		if (n < 0 && !l->drop)
			l->drop = "protocol error";
		if (n <= 0)
			break;
	}
	if (out)
		l->ops->flush(l->pipe);
}

/* Last in its caller. */
static void turn(struct weft_xds_link *l)
{
	fill(l);
	if (!l->drop && weft_h2_done(l->h2))
		l->drop = "session ended";
	if (l->drop)
		down(l, l->drop);
}

void weft_xds_link_readable(struct weft_xds_link *l, bool eof)
{
	struct evbuffer *in = l->ops->in(l->pipe);
	struct evbuffer_iovec v;

	l->heard_ns = weft_now_ns();
	while (!l->drop && evbuffer_peek(in, CHUNK, NULL, &v, 1) >= 1 && v.iov_len) {
		size_t n = v.iov_len < CHUNK ? v.iov_len : CHUNK;

		if (weft_h2_recv(l->h2, v.iov_base, n) && !l->drop)
			l->drop = "protocol error";
		evbuffer_drain(in, n);
	}
	if (eof && !l->drop)
		l->drop = "closed by the peer";
	turn(l);
}

void weft_xds_link_drained(struct weft_xds_link *l)
{
	turn(l);
}

void weft_xds_link_ended(struct weft_xds_link *l, const char *why, bool freed)
{
	if (freed)
		l->pipe = NULL;
	down(l, why);
}

/* ---- over a unix socket */

static struct evbuffer *conn_in(void *p)
{
	return weft_conn_in(p);
}

static struct evbuffer *conn_out(void *p)
{
	return weft_conn_out(p);
}

static void conn_flush(void *p)
{
	weft_conn_flush(p);
}

static void conn_free(void *p)
{
	weft_conn_free(p);
}

static const struct weft_xds_pipe conn_pipe = {conn_in, conn_out, conn_flush, conn_free};

static void on_readable(struct weft_conn *c)
{
	weft_xds_link_readable(weft_conn_owner(c), false);
}

static void on_drained(struct weft_conn *c)
{
	weft_xds_link_drained(weft_conn_owner(c));
}

static void on_closed(struct weft_conn *c, int err)
{
	weft_xds_link_ended(weft_conn_owner(c), err ? "connection lost" : "closed by the peer",
			    true);
}

static const struct weft_conn_ops conn_ops = {
	.readable = on_readable,
	.drained = on_drained,
	.closed = on_closed,
};

/* ---- any */

static void on_push(evutil_socket_t fd, short what, void *arg)
{
	turn(arg);
}

static void arm(struct weft_xds_link *l, uint64_t ms)
{
	struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

	event_add(l->ev_time, &tv);
}

static void on_time(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_link *l = arg;
	uint64_t quiet = (weft_now_ns() - l->heard_ns) / 1000000;

	if (!l->up) {
		down(l, "no HTTP/2 handshake in time");
	} else if (l->pinged_ns && l->heard_ns < l->pinged_ns) {
		down(l, "no answer to a ping");
	} else if (quiet < l->conf.times.ping) {
		l->pinged_ns = 0;
		arm(l, l->conf.times.ping - quiet);
	} else {
		l->pinged_ns = weft_now_ns();
		weft_h2_ping(l->h2);
		arm(l, l->conf.times.pong);
		turn(l);
	}
}

void weft_xds_link_up(struct weft_xds_link *l)
{
	l->up = true;
	arm(l, l->conf.times.ping);
}

void weft_xds_link_push(struct weft_xds_link *l)
{
	if (!l->dead)
		event_active(l->ev_push, EV_TIMEOUT, 1);
}

void weft_xds_link_drop(struct weft_xds_link *l, const char *why)
{
	if (!l->drop)
		l->drop = why;
	weft_xds_link_push(l);
}

struct weft_h2 *weft_xds_link_h2(struct weft_xds_link *l)
{
	return l->h2;
}

struct weft_xds_link *weft_xds_link_make(struct event_base *base,
					 const struct weft_xds_link_conf *conf)
{
	struct weft_xds_link *l = weft_xcalloc(1, sizeof(*l));
	struct weft_xds_times *t = &l->conf.times;

	l->conf = *conf;
	t->handshake = t->handshake ?: HANDSHAKE_MS;
	t->ping = t->ping ?: PING_MS;
	t->pong = t->pong ?: PONG_MS;
	l->heard_ns = weft_now_ns();
	l->h2 = weft_h2_new(&l->conf.h2, l->conf.ops, l->conf.owner);
	l->ev_push = event_new(base, -1, 0, on_push, l);
	l->ev_time = event_new(base, -1, 0, on_time, l);
	if (!l->ev_push || !l->ev_time)
		abort();
	arm(l, t->handshake);
	return l;
}

void weft_xds_link_attach(struct weft_xds_link *l, const struct weft_xds_pipe *ops, void *p)
{
	l->ops = ops;
	l->pipe = p;
	weft_xds_link_push(l);
}

struct weft_xds_link *weft_xds_link_new(struct event_base *base, int fd,
					const struct weft_xds_link_conf *conf)
{
	struct weft_xds_link *l = weft_xds_link_make(base, conf);

	weft_xds_link_attach(l, &conn_pipe, weft_conn_new(base, fd, &conn_ops, l, 0));
	return l;
}

void weft_xds_link_free(struct weft_xds_link *l)
{
	if (!l)
		return;
	l->dead = true;
	event_free(l->ev_push);
	event_free(l->ev_time);
	weft_h2_free(l->h2);
	if (l->pipe)
		l->ops->free(l->pipe);
	free(l);
}
