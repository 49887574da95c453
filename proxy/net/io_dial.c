/* Dialling, and what is known of both ends of a socket. */
#include "proxy/net/io_priv.h"

#include "proxy/core/arena.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int set_int(int fd, int level, int name, int v)
{
	return setsockopt(fd, level, name, &v, sizeof(v)) < 0 ? -errno : 0;
}

static int set_keepalive(int fd, const struct weft_dial *d)
{
	int r;

	if (!d->keep_idle_s && !d->keep_interval_s && !d->keep_probes)
		return 0;
	r = set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	if (r == 0 && d->keep_idle_s)
		r = set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)d->keep_idle_s);
	if (r == 0 && d->keep_interval_s)
		r = set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)d->keep_interval_s);
	if (r == 0 && d->keep_probes)
		r = set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)d->keep_probes);
	return r;
}

static int bind_from(int fd, const struct weft_dial *d, int family)
{
	struct sockaddr_storage ss;
	socklen_t n;
	int r = 0;

	if (d->transparent)
		r = family == AF_INET6 ? set_int(fd, SOL_IPV6, IPV6_TRANSPARENT, 1)
				       : set_int(fd, SOL_IP, IP_TRANSPARENT, 1);
	if (r < 0 || d->from.ip.family == 0)
		return r;
	if (d->from.port == 0)
		r = set_int(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	if (r < 0)
		return r;
	n = weft_sockaddr_to_kernel(&d->from, family, &ss);
	return bind(fd, (struct sockaddr *)&ss, n) < 0 ? -errno : 0;
}

int weft_dial_socket(int fd, const struct weft_dial *d, int family)
{
	int r = 0;

	if (family != AF_UNIX) {
		if (d->mark)
			r = set_int(fd, SOL_SOCKET, SO_MARK, (int)d->mark);
		if (r == 0)
			r = set_keepalive(fd, d);
	}
	if (r == 0 && d->prepare)
		r = d->prepare(d->prepare_ctx, fd);
	if (r == 0 && family != AF_UNIX)
		r = bind_from(fd, d, family);
	return r;
}

static int address(const struct weft_dial *d, struct sockaddr_storage *ss, socklen_t *ret_n)
{
	struct sockaddr_un *un = (struct sockaddr_un *)ss;
	size_t n;

	if (!d->unix_path) {
		*ret_n = weft_sockaddr_to_kernel(&d->to, 0, ss);
		return *ret_n > 0 ? ss->ss_family : -EINVAL;
	}
	n = strlen(d->unix_path);
	if (n == 0 || n >= sizeof(un->sun_path))
		return -ENAMETOOLONG;
	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, d->unix_path, n + 1);
	*ret_n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
	if (d->unix_path[0] == '@') { /* Envoy: an abstract name */
		un->sun_path[0] = 0;
		*ret_n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	}
	return AF_UNIX;
}

static void preamble(struct weft_io *io, const struct weft_dial *d)
{
	struct weft_sock *s = weft_sock_of(io);

	if (d->preamble_n == 0)
		return;
	if (s->tls)
		weft_tls_sess_raw(s->tls, d->preamble, d->preamble_n);
	else
		evbuffer_add(weft_io_out(io), d->preamble, d->preamble_n);
}

int weft_io_dial(struct event_base *base, const struct weft_dial *d, const struct weft_io_ops *ops,
		 void *owner, struct weft_io **ret)
{
	struct sockaddr_storage ss;
	struct weft_io *io;
	socklen_t n;
	int family = address(d, &ss, &n), fd, r;

	if (family < 0)
		return family;
	fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	r = weft_dial_socket(fd, d, family);
	if (r < 0) {
		close(fd);
		return r;
	}
	io = weft_sock_make(base, fd, d->tls, false, ops, owner);
	*ret = io;
	if (d->tls && !weft_sock_of(io)->tls) {
		weft_io_tell_closed(io, WEFT_IO_TLS, ENOMEM, "TLS_error:|no session:TLS_error_end");
		return 0;
	}
	preamble(io, d);
	if (d->unix_path)
		io->info.unix_path = weft_arena_strdup(weft_io_arena(io), d->unix_path);
	else
		io->info.remote = io->info.direct_remote = d->to;
	if (connect(fd, (struct sockaddr *)&ss, n) < 0 && errno != EINPROGRESS) {
		weft_io_tell_closed(io, WEFT_IO_REFUSED, errno, NULL);
		return 0;
	}
	/* connected at once (unix): the event comes at once, and ready() from the loop */
	weft_sock_await(io, d->connect_ms);
	return 0;
}

int weft_io_dial_race(struct event_base *base, const struct weft_race_want *want,
		      const struct weft_io_ops *ops, void *owner, struct weft_io **ret)
{
	const struct weft_dial *d = want->dial;
	struct weft_race *race;
	struct weft_io *io;
	int err = -EINVAL;

	if (!want->n || want->n > WEFT_RACE_MAX)
		return err;
	race = weft_race_new(base, want, &err);
	if (!race)
		return err;
	io = weft_sock_make(base, -1, d->tls, false, ops, owner);
	*ret = io;
	if (d->tls && !weft_sock_of(io)->tls) {
		weft_race_free(race);
		weft_io_tell_closed(io, WEFT_IO_TLS, ENOMEM, "TLS_error:|no session:TLS_error_end");
		return 0;
	}
	preamble(io, d);
	io->info.remote = io->info.direct_remote = want->v[0].to;
	weft_sock_of(io)->race = race;
	weft_race_run(race, io);
	weft_sock_await(io, d->connect_ms);
	return 0;
}

/* ---- what is known of both ends */

static void ask(int fd, int (*fn)(int, struct sockaddr *, socklen_t *), struct weft_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	if (ret->ip.family == 0 && fn(fd, (struct sockaddr *)&ss, &n) == 0)
		(void)weft_sockaddr_from_kernel(&ss, ret); /* unix: stays none */
}

static int local_name(int fd, struct sockaddr *sa, socklen_t *n)
{
	return getsockname(fd, sa, n);
}

static int peer_name(int fd, struct sockaddr *sa, socklen_t *n)
{
	return getpeername(fd, sa, n);
}

struct weft_io_info *weft_io_info_edit(struct weft_io *io)
{
	struct weft_sock *s = io->sock ? weft_sock_of(io) : NULL;

	if (!s || s->fd < 0)
		return &io->info;
	if (!io->info_filled && s->state != WEFT_SOCK_CONNECT) {
		io->info_filled = true;
		if (!io->info.unix_path) {
			ask(s->fd, local_name, &io->info.local);
			ask(s->fd, peer_name, &io->info.remote);
			if (io->info.direct_remote.ip.family == 0)
				io->info.direct_remote = io->info.remote;
		}
	}
	if (s->tls && !io->info.tls && s->state == WEFT_SOCK_OPEN)
		io->info.tls = weft_tls_sess_info(s->tls);
	return &io->info;
}

const struct weft_io_info *weft_io_info(const struct weft_io *io)
{
	return weft_io_info_edit((struct weft_io *)io);
}

void weft_io_set_peer(struct weft_io *io, const struct weft_sockaddr *peer)
{
	io->info.remote = io->info.direct_remote = *peer;
}

enum weft_tls_fault weft_io_tls_fault(const struct weft_io *io)
{
	const struct weft_sock *s = io->sock ? weft_sock_of(io) : NULL;

	return s && s->tls ? weft_tls_sess_fault(s->tls) : WEFT_TLS_FAULT_NONE;
}

const char *weft_io_peer_pem(struct weft_io *io)
{
	struct weft_sock *s = io->sock ? weft_sock_of(io) : NULL;

	return s && s->tls ? weft_tls_sess_pem(s->tls) : "";
}

const char *weft_io_peer_chain_pem(struct weft_io *io)
{
	struct weft_sock *s = io->sock ? weft_sock_of(io) : NULL;

	return s && s->tls ? weft_tls_sess_chain_pem(s->tls) : "";
}

int weft_io_fd(const struct weft_io *io)
{
	return io->sock ? weft_sock_of(io)->fd : -1;
}
