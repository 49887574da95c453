#include "proxy/node/dial.h"

#include "proxy/core/arena.h"
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

enum { ODD_TRIES = 4 };

struct weft_dial {
	struct weft_dial_conf conf;
	struct weft_sockaddr to;
	struct weft_ip from;
	enum weft_sock_kind kind;
	struct weft_sock_wait *wait;
	struct event timer, ready;
	int fd, result;
	const char *why;
};

enum weft_sock_kind weft_dial_kind(bool inbound, const struct weft_sockaddr *to)
{
	if (inbound)
		return to->ip.family == 6 ? WEFT_SOCK_IN6 : WEFT_SOCK_IN4;
	return to->ip.family == 6 ? WEFT_SOCK_OUT6 : WEFT_SOCK_OUT4;
}

enum weft_reason weft_dial_reason(int err)
{
	switch (err) {
	case -ECONNREFUSED:
		return WEFT_REASON_CONNECT_REFUSED;
	case -ETIMEDOUT:
		return WEFT_REASON_CONNECT_TIMEOUT;
	case -ECANCELED:
		return WEFT_REASON_POD_REMOVED;
	case -ENOBUFS:
		return WEFT_REASON_LIMIT;
	default:
		return WEFT_REASON_CONNECT_FAILED;
	}
}

static void dial_free(struct weft_dial *d)
{
	event_del(&d->timer);
	event_del(&d->ready);
	if (d->wait)
		weft_stock_cancel(d->wait);
	if (d->fd >= 0)
		weft_stock_abort(d->conf.ws, d->conf.pod, d->kind, d->fd);
	weft_npod_unref(d->conf.pod);
	free(d);
}

void weft_dial_cancel(struct weft_dial *d)
{
	if (d)
		dial_free(d);
}

static void finish(struct weft_dial *d, int fd_or_err, const char *why)
{
	struct weft_dial_conf conf = d->conf;

	if (fd_or_err >= 0)
		d->fd = -1;
	dial_free(d);
	conf.done(conf.arg, fd_or_err, why);
}

/* Not from within weft_dial_start, but in the same turn of the loop. */
static void finish_later(struct weft_dial *d, int result, const char *why)
{
	d->result = result;
	d->why = why;
	event_active(&d->timer, EV_TIMEOUT, 0);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct weft_dial *d = arg;

	if (d->result == 1)
		finish(d, d->fd, "");
	else if (d->result < 0)
		finish(d, d->result, d->why);
	else
		finish(d, -ETIMEDOUT, d->fd < 0 ? "no socket from the agent in time" : "connect");
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct weft_dial *d = arg;
	int err = 0;
	socklen_t n = sizeof(err);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
		err = errno;
	if (err)
		finish(d, -err, "connect");
	else
		finish(d, d->fd, "");
}

/* A client's real connections to the pod (plaintext ones, which end at the proxy) and ours in its
 * name to the app have the same four numbers with other ports, and meet in one table: on the same
 * port each would get the other's packets. Linux gives even ports to connect(), so ours are odd,
 * one at a time. */
static bool odd_port(int fd)
{
	uint64_t r = weft_rand64() % ((60999 - 32768 + 1) / 2);
	uint32_t port = 32769 + 2 * (uint32_t)r, range = port | port << 16;

	return !setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
}

/* Before Linux 6.3, and when many ports are taken, the kernel chooses. */
static int connect_spoofed(int fd, const struct sockaddr *to, socklen_t n)
{
	static const uint32_t any;

	for (int i = 0; i < ODD_TRIES && odd_port(fd); i++) {
		int r = connect(fd, to, n);

		if (!r || errno != EADDRNOTAVAIL)
			return r;
	}
	(void)setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &any, sizeof(any));
	return connect(fd, to, n);
}

/* 1: connected, 0: in progress, -errno with d->why. */
static int connect_now(struct weft_dial *d)
{
	bool in = d->kind == WEFT_SOCK_IN4 || d->kind == WEFT_SOCK_IN6;
	bool v6 = d->kind == WEFT_SOCK_OUT6 || d->kind == WEFT_SOCK_IN6;
	/* its own address needs no spoofing, and binding it would take a port away from the app */
	bool spoof = d->from.family && !weft_ip_eq(&d->from, &d->to.ip);
	struct sockaddr_storage ss;
	socklen_t n;
	int r;

	if (spoof) {
		struct weft_sockaddr src = {d->from, 0};

		n = weft_sockaddr_to_kernel(&src, v6 ? AF_INET6 : AF_INET, &ss);
		if (bind(d->fd, (struct sockaddr *)&ss, n) < 0) {
			d->why = "bind to the client's address";
			return -errno;
		}
	}
	n = weft_sockaddr_to_kernel(&d->to, v6 ? AF_INET6 : AF_INET, &ss);
	r = spoof ? connect_spoofed(d->fd, (struct sockaddr *)&ss, n)
		  : connect(d->fd, (struct sockaddr *)&ss, n);
	/* towards the app in the same namespace the handshake is over by now: ask once more instead
	 * of polling */
	if (r < 0 && errno == EINPROGRESS && in)
		r = connect(d->fd, (struct sockaddr *)&ss, n);
	if (r == 0 || errno == EISCONN)
		return 1;
	if (errno == EINPROGRESS || errno == EALREADY)
		return 0;
	d->why = "connect";
	return -errno;
}

static void have_fd(struct weft_dial *d, int fd)
{
	int r;

	d->fd = fd;
	r = connect_now(d);
	if (r != 0) {
		finish_later(d, r, d->why);
		return;
	}
	event_assign(&d->ready, d->conf.ws->w->base, fd, EV_WRITE, on_ready, d);
	event_add(&d->ready, NULL);
}

static void got_socket(void *arg, int fd)
{
	struct weft_dial *d = arg;

	d->wait = NULL;
	if (fd < 0)
		finish(d, fd, "no socket from the agent");
	else
		have_fd(d, fd);
}

struct weft_dial *weft_dial_start(const struct weft_dial_conf *conf)
{
	struct weft_dial *d = weft_xcalloc(1, sizeof(*d));
	unsigned ms = conf->ws->conf->connect_ms;
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};
	int fd;

	d->conf = *conf;
	d->to = *conf->to;
	if (conf->from)
		d->from = *conf->from;
	d->conf.pod = weft_npod_ref(conf->pod);
	d->kind = weft_dial_kind(conf->from != NULL, conf->to);
	d->fd = -1;
	event_assign(&d->timer, conf->ws->w->base, -1, 0, on_timer, d);
	event_assign(&d->ready, conf->ws->w->base, -1, 0, on_ready, d);
	evtimer_add(&d->timer, &tv);
	fd = weft_stock_take(conf->ws, conf->pod, d->kind, got_socket, d, &d->wait);
	if (fd >= 0)
		have_fd(d, fd);
	else if (fd != -EAGAIN)
		finish_later(d, fd, "no socket from the agent");
	return d;
}
