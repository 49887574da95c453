#include "agent/podsock.h"
#include "agent/netns.h"
#include "proxy/core/addr.h"
#include "xds/proto/broker.pb-c.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

enum { BACKLOG = 4096, KEEP_IDLE_S = 180, KEEP_INTERVAL_S = 180, KEEP_PROBES = 9 };

static const struct {
	const char *name;
	uint16_t port;
	bool v6, spoof;
} kinds[] = {
	[WEFT__BROKER__SOCKET_KIND__LISTEN_OUTBOUND4] = {"outbound4", WEFT_PORT_OUTBOUND, false,
							 false},
	[WEFT__BROKER__SOCKET_KIND__LISTEN_OUTBOUND6] = {"outbound6", WEFT_PORT_OUTBOUND, true,
							 false},
	[WEFT__BROKER__SOCKET_KIND__LISTEN_HBONE4] = {"hbone4", WEFT_PORT_HBONE, false, true},
	[WEFT__BROKER__SOCKET_KIND__LISTEN_HBONE6] = {"hbone6", WEFT_PORT_HBONE, true, true},
	[WEFT__BROKER__SOCKET_KIND__LISTEN_PLAIN4] = {"plain4", WEFT_PORT_PLAIN, false, true},
	[WEFT__BROKER__SOCKET_KIND__LISTEN_PLAIN6] = {"plain6", WEFT_PORT_PLAIN, true, true},
	[WEFT__BROKER__SOCKET_KIND__CONNECT_OUT4] = {"out4", 0, false, false},
	[WEFT__BROKER__SOCKET_KIND__CONNECT_OUT6] = {"out6", 0, true, false},
	[WEFT__BROKER__SOCKET_KIND__CONNECT_IN4] = {"in4", 0, false, true},
	[WEFT__BROKER__SOCKET_KIND__CONNECT_IN6] = {"in6", 0, true, true},
};

static bool known(int kind)
{
	return kind > 0 && (size_t)kind < sizeof(kinds) / sizeof(kinds[0]);
}

bool weft_podsock_is_listener(int kind)
{
	return known(kind) && kinds[kind].port;
}

bool weft_podsock_is_connect(int kind)
{
	return known(kind) && !kinds[kind].port;
}

bool weft_podsock_is_v6(int kind)
{
	return known(kind) && kinds[kind].v6;
}

uint16_t weft_podsock_port(int kind)
{
	return known(kind) ? kinds[kind].port : 0;
}

const char *weft_podsock_name(int kind)
{
	return known(kind) ? kinds[kind].name : "unknown";
}

static int opt(int fd, int level, int name, int v)
{
	return setsockopt(fd, level, name, &v, sizeof(v)) < 0 ? -errno : 0;
}

static int transparent(int fd, bool v6)
{
	return v6 ? opt(fd, SOL_IPV6, IPV6_TRANSPARENT, 1) : opt(fd, SOL_IP, IP_TRANSPARENT, 1);
}

static int keepalive(int fd)
{
	int r;

	if ((r = opt(fd, SOL_SOCKET, SO_KEEPALIVE, 1)) < 0 ||
	    (r = opt(fd, SOL_TCP, TCP_KEEPIDLE, KEEP_IDLE_S)) < 0 ||
	    (r = opt(fd, SOL_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S)) < 0 ||
	    (r = opt(fd, SOL_TCP, TCP_KEEPCNT, KEEP_PROBES)) < 0)
		return r;
	return 0;
}

static int bind_listen(int fd, int kind)
{
	struct weft_sockaddr any = {.ip.family = kinds[kind].v6 ? 6 : 4, .port = kinds[kind].port};
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&any, 0, &ss);

	if (bind(fd, (struct sockaddr *)&ss, n) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	return 0;
}

/* Towards the app with the client's address. Bound to lo, where all of this flow runs: only so does
 * the kernel reuse a port in TIME_WAIT after a second, and 28,000 short connections a minute from
 * one client are not the limit. The range of ports cannot be set apart from real clients' here:
 * IP_LOCAL_PORT_RANGE only narrows the namespace's own range. */
static int spoofed(int fd, bool v6)
{
	int r;

	if ((r = transparent(fd, v6)) < 0 ||
	    (r = v6 ? opt(fd, SOL_IPV6, IPV6_FREEBIND, 1) : opt(fd, SOL_IP, IP_FREEBIND, 1)) < 0 ||
	    (r = opt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)) < 0 ||
	    (r = opt(fd, SOL_SOCKET, SO_REUSEADDR, 1)) < 0 ||
	    (r = setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0 ? -errno : 0) < 0)
		return r;
	return 0;
}

static int make_one(int kind)
{
	bool listener = kinds[kind].port != 0, v6 = kinds[kind].v6, spoof = kinds[kind].spoof;
	int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			IPPROTO_TCP),
	    r;

	if (fd < 0)
		return -errno;
	if ((v6 && (r = opt(fd, SOL_IPV6, IPV6_V6ONLY, 1)) < 0) ||
	    (r = opt(fd, SOL_TCP, TCP_NODELAY, 1)) < 0 ||
	    (r = opt(fd, SOL_SOCKET, SO_MARK,
		     spoof && !listener ? WEFT_MARK_SPOOF : WEFT_MARK_PROXY)) < 0)
		goto fail;
	if (listener) {
		/* HBONE and plaintext arrive by sk_lookup with whatever destination the pod owns */
		/* accepted sockets inherit keepalive: an app cannot learn by its own that a
		 * plaintext peer is gone, as its other end is the proxy. Tunnels have PINGs. */
		if ((r = opt(fd, SOL_SOCKET, SO_REUSEADDR, 1)) < 0 ||
		    (spoof && (r = transparent(fd, v6)) < 0) ||
		    (kinds[kind].port != WEFT_PORT_HBONE && (r = keepalive(fd)) < 0) ||
		    (r = bind_listen(fd, kind)) < 0)
			goto fail;
	} else if ((r = keepalive(fd)) < 0 || (spoof && (r = spoofed(fd, v6)) < 0)) {
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return r;
}

struct make_job {
	int kind, *fds;
	unsigned n;
};

static int make_all(void *arg)
{
	struct make_job *j = arg;
	unsigned i;

	for (i = 0; i < j->n; i++) {
		j->fds[i] = make_one(j->kind);
		if (j->fds[i] < 0) {
			int r = j->fds[i];

			while (i--)
				close(j->fds[i]);
			return r;
		}
	}
	return 0;
}

int weft_podsock_make(int netns_fd, int kind, int *fds, unsigned n, struct weft_err *reterr)
{
	struct make_job j = {.kind = kind, .fds = fds, .n = n};
	int r;

	if (!known(kind) || (kinds[kind].port && n != 1))
		return weft_fail(reterr, NULL, EINVAL, "socket kind %d: not known", kind);
	r = weft_netns_run(netns_fd, make_all, &j);
	if (r == -EADDRINUSE)
		return weft_fail(reterr, NULL, EADDRINUSE, "port %u (%s) is taken inside the pod",
				 kinds[kind].port, kinds[kind].name);
	return r < 0 ? weft_fail(reterr, NULL, -r, "socket %s: %s", kinds[kind].name, strerror(-r))
		     : 0;
}

int weft_podsock_verify(int fd, int kind, uint64_t cookie)
{
	int listening = 0, domain = 0, proto = 0;
	socklen_t n = sizeof(int), cn = sizeof(uint64_t), sn = sizeof(struct sockaddr_storage);
	struct sockaddr_storage ss;
	struct weft_sockaddr a;
	uint64_t have = 0;

	if (!weft_podsock_is_listener(kind) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &n) < 0 || !listening ||
	    proto != IPPROTO_TCP || domain != (kinds[kind].v6 ? AF_INET6 : AF_INET))
		return -EINVAL;
	if (getsockname(fd, (struct sockaddr *)&ss, &sn) < 0 ||
	    weft_sockaddr_from_kernel(&ss, &a) < 0 || a.port != kinds[kind].port ||
	    !weft_ip_is_any(&a.ip))
		return -EINVAL;
	if (cookie &&
	    (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &have, &cn) < 0 || have != cookie))
		return -EINVAL;
	return 0;
}
