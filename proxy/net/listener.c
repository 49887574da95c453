#include "proxy/net/listener.h"

#include "proxy/core/arena.h"
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { ACCEPT_MAX = 16, PAUSE_MS = 100 };
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* ---- options */

int weft_sockopts_set(int fd, const struct weft_sockopt *v, size_t n, enum weft_sockopt_when when,
		      struct weft_err *reterr)
{
	for (size_t i = 0; i < n; i++) {
		const struct weft_sockopt *o = &v[i];
		const void *p = o->is_bytes ? o->bytes : &o->value;
		socklen_t k = o->is_bytes ? o->bytes_n : sizeof(o->value);

		if (o->when == when && setsockopt(fd, o->level, o->name, p, k) < 0)
			return weft_fail(reterr, NULL, errno,
					 "socket option level %d name %d cannot be set: %s",
					 o->level, o->name, strerror(errno));
	}
	return 0;
}

static int set_int(int fd, int level, int name, int v, const char *what, struct weft_err *reterr)
{
	if (setsockopt(fd, level, name, &v, sizeof(v)) < 0)
		return weft_fail(reterr, NULL, errno, "%s cannot be set: %s", what,
				 strerror(errno));
	return 0;
}

static int set_ip(int fd, const struct weft_listen_conf *c, int family, struct weft_err *reterr)
{
	bool v6 = family == AF_INET6;
	int r = 0;

	if (v6)
		r = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, !c->v4_compat, "IPV6_V6ONLY", reterr);
	if (r == 0 && c->transparent)
		r = set_int(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1,
			    "transparent", reterr);
	if (r == 0 && c->freebind)
		r = set_int(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_FREEBIND : IP_FREEBIND, 1,
			    "freebind", reterr);
	return r;
}

static int set_tcp(int fd, const struct weft_listen_conf *c, struct weft_err *reterr)
{
	int r = set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY", reterr);

	if (r == 0)
		r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR", reterr);
	if (r == 0 && c->reuse_port)
		r = set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT", reterr);
	if (r == 0 && c->keepalive)
		r = set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE", reterr);
	if (r == 0 && c->keepalive && c->keep_idle_s)
		r = set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)c->keep_idle_s, "TCP_KEEPIDLE",
			    reterr);
	if (r == 0 && c->keepalive && c->keep_interval_s)
		r = set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)c->keep_interval_s,
			    "TCP_KEEPINTVL", reterr);
	if (r == 0 && c->keepalive && c->keep_probes)
		r = set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)c->keep_probes, "TCP_KEEPCNT",
			    reterr);
	return r;
}

/* ---- unix paths */

static int unix_address(const char *path, struct sockaddr_un *un, socklen_t *ret_n,
			struct weft_err *reterr)
{
	size_t n = strlen(path);

	if (n == 0 || n >= sizeof(un->sun_path))
		return weft_fail(reterr, NULL, ENAMETOOLONG,
				 "the path of a unix socket must be 1..%zu bytes, is %zu",
				 sizeof(un->sun_path) - 1, n);
	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, n);
	*ret_n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] != '@'));
	if (path[0] == '@')
		un->sun_path[0] = 0;
	return 0;
}

/* What an ended process left is in the way; one that listens is not touched. */
static void remove_dead(const struct sockaddr_un *un, socklen_t n)
{
	struct stat st;
	int fd;

	if (un->sun_path[0] == 0 || stat(un->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)un, n) < 0 && errno == ECONNREFUSED)
		unlink(un->sun_path);
	close(fd);
}

static int bind_unix(int fd, const struct weft_listen_conf *c, struct weft_err *reterr)
{
	struct sockaddr_un un;
	socklen_t n = 0;
	int r = unix_address(c->unix_path, &un, &n, reterr);

	if (r < 0)
		return r;
	remove_dead(&un, n);
	if (bind(fd, (struct sockaddr *)&un, n) < 0)
		return weft_fail(reterr, NULL, errno, "cannot bind %s: %s", c->unix_path,
				 strerror(errno));
	if (c->unix_mode && un.sun_path[0] && chmod(un.sun_path, c->unix_mode) < 0) {
		r = weft_fail(reterr, NULL, errno, "cannot set the mode of %s to %o: %s",
			      c->unix_path, c->unix_mode, strerror(errno));
		unlink(un.sun_path);
	}
	return r;
}

static int bind_ip(int fd, const struct weft_listen_conf *c, struct weft_err *reterr)
{
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&c->addr, 0, &ss);
	char text[WEFT_SOCKADDR_TEXT];

	if (bind(fd, (struct sockaddr *)&ss, n) < 0)
		return weft_fail(reterr, NULL, errno, "cannot bind %s: %s",
				 weft_sockaddr_text(&c->addr, text, sizeof(text)), strerror(errno));
	return 0;
}

/* ---- listening */

static int set_up(int fd, const struct weft_listen_conf *c, int family, struct weft_err *reterr)
{
	int r = family == AF_UNIX ? 0 : set_tcp(fd, c, reterr);

	if (r == 0 && family != AF_UNIX)
		r = set_ip(fd, c, family, reterr);
	if (r == 0)
		r = weft_sockopts_set(fd, c->opts, c->n_opts, WEFT_SOCKOPT_PREBIND, reterr);
	if (r == 0)
		r = family == AF_UNIX ? bind_unix(fd, c, reterr) : bind_ip(fd, c, reterr);
	if (r == 0)
		r = weft_sockopts_set(fd, c->opts, c->n_opts, WEFT_SOCKOPT_BOUND, reterr);
	if (r == 0 && c->fastopen && family != AF_UNIX)
		r = set_int(fd, IPPROTO_TCP, TCP_FASTOPEN,
			    c->fastopen > INT_MAX ? INT_MAX : (int)c->fastopen, "TCP_FASTOPEN",
			    reterr);
	if (r == 0 &&
	    listen(fd, c->backlog && c->backlog < INT_MAX ? (int)c->backlog : INT_MAX) < 0)
		r = weft_fail(reterr, NULL, errno, "cannot listen: %s", strerror(errno));
	if (r == 0)
		r = weft_sockopts_set(fd, c->opts, c->n_opts, WEFT_SOCKOPT_LISTENING, reterr);
	return r;
}

int weft_listen(const struct weft_listen_conf *c, int *ret_fd, struct weft_err *reterr)
{
	int family = c->unix_path	      ? AF_UNIX
		     : c->addr.ip.family == 4 ? AF_INET
		     : c->addr.ip.family == 6 ? AF_INET6
					      : AF_UNSPEC;
	int fd, r;

	if (family == AF_UNSPEC)
		return weft_fail(reterr, NULL, EINVAL, "no address to listen on");
	fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
		    c->mptcp && family != AF_UNIX ? IPPROTO_MPTCP : 0);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "cannot make a socket: %s", strerror(errno));
	r = set_up(fd, c, family, reterr);
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* ---- accepting */

struct weft_acceptor {
	struct event_base *base;
	const struct weft_acceptor_ops *ops;
	void *owner;
	struct event ev, pause;
	int fd;
	int reserve;	     /* given up for a moment when descriptors ran out: see out_of_fds */
	unsigned max, batch; /* batch: of the next turn: fewer calls in vain */
	bool on, paused, told, freed, busy, full;
};

static int reserve_new(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC); /* -1: there is none, and no harm */
}

static void arm(struct weft_acceptor *a)
{
	if (a->on && !a->paused)
		event_add(&a->ev, NULL);
	else
		event_del(&a->ev);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
	struct weft_acceptor *a = arg;

	a->paused = false;
	if (a->reserve < 0)
		a->reserve = reserve_new();
	arm(a);
}

/* With the spare descriptor one connection is taken and closed, so that its client is told; then
 * those that wait stay in the backlog until there is room again. */
static void out_of_fds(struct weft_acceptor *a, int err)
{
	static const struct timeval tv = {0, PAUSE_MS * 1000};
	int c;

	if (a->reserve >= 0 && (err == EMFILE || err == ENFILE)) {
		close(a->reserve);
		c = accept4(a->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (c >= 0)
			close(c);
		a->reserve = reserve_new();
	}
	a->paused = true;
	arm(a);
	event_add(&a->pause, &tv);
	if (!a->told && a->ops->failed) {
		a->told = true;
		a->ops->failed(a->owner, err);
	}
}

/* False: no more this turn. */
static bool take(struct weft_acceptor *a)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);
	struct weft_sockaddr peer = {0};
	int fd = accept4(a->fd, (struct sockaddr *)&ss, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			out_of_fds(a, errno);
			return false;
		}
		/* what the peer gave up, and errors of its network (accept(2)), concern nobody */
		return errno != EAGAIN && errno != EBADF && errno != EINVAL;
	}
	a->told = false;
	if (n > sizeof(sa_family_t) && ss.ss_family != AF_UNIX)
		(void)weft_sockaddr_from_kernel(&ss, &peer);
	a->ops->accepted(a->owner, fd, &peer);
	return true;
}

static void on_listen(evutil_socket_t fd, short what, void *arg)
{
	struct weft_acceptor *a = arg;
	unsigned i = 0;

	a->busy = true;
	while (i < a->batch && a->on && !a->freed && take(a))
		i++;
	if (i < a->batch)
		a->batch = i > 0 ? i : 1;
	else if (a->full && a->batch < a->max)
		a->batch = 2 * a->batch < a->max ? 2 * a->batch : a->max;
	a->full = i == a->batch;
	a->busy = false;
	if (a->freed)
		free(a);
	else if (i && a->ops->turn)
		a->ops->turn(a->owner, i);
}

struct weft_acceptor *weft_acceptor_new(struct event_base *base, int fd, unsigned max,
					const struct weft_acceptor_ops *ops, void *owner)
{
	struct weft_acceptor *a = weft_xcalloc(1, sizeof(*a));

	a->base = base;
	a->fd = fd;
	a->max = max ? max : ACCEPT_MAX;
	a->batch = a->max;
	a->ops = ops;
	a->owner = owner;
	a->reserve = reserve_new();
	a->on = true;
	event_assign(&a->ev, base, fd, EV_READ | EV_PERSIST, on_listen, a);
	event_assign(&a->pause, base, -1, 0, on_pause_over, a);
	arm(a);
	return a;
}

void weft_acceptor_enable(struct weft_acceptor *a, bool on)
{
	a->on = on;
	arm(a);
}

void weft_acceptor_free(struct weft_acceptor *a)
{
	if (!a || a->freed)
		return;
	a->on = false;
	event_del(&a->ev);
	event_del(&a->pause);
	if (a->reserve >= 0)
		close(a->reserve);
	a->reserve = -1;
	a->freed = true;
	if (!a->busy)
		free(a);
}
