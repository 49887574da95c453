#include "proxy/net/origdst.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

enum { ORIGINAL_DST = 80 }; /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST */

int weft_origdst(int fd, struct weft_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);
	int r;

	memset(&ss, 0, sizeof(ss));
	r = getsockopt(fd, SOL_IP, ORIGINAL_DST, &ss, &n);
	if (r < 0 || n < sizeof(struct sockaddr_in) || ss.ss_family == AF_UNSPEC) {
		memset(&ss, 0, sizeof(ss));
		n = sizeof(ss);
		r = getsockopt(fd, SOL_IPV6, ORIGINAL_DST, &ss, &n);
		if (r < 0 || n < sizeof(struct sockaddr_in) || ss.ss_family == AF_UNSPEC)
			return -ENOENT;
	}
	r = weft_sockaddr_from_kernel(&ss, ret);
	return r < 0 || ret->port == 0 ? -ENOENT : 0;
}

int weft_sock_local(int fd, struct weft_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	memset(&ss, 0, sizeof(ss));
	return getsockname(fd, (struct sockaddr *)&ss, &n) < 0
		       ? -errno
		       : weft_sockaddr_from_kernel(&ss, ret);
}

int weft_sock_peer(int fd, struct weft_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	memset(&ss, 0, sizeof(ss));
	return getpeername(fd, (struct sockaddr *)&ss, &n) < 0
		       ? -errno
		       : weft_sockaddr_from_kernel(&ss, ret);
}

void weft_sock_abort(int fd)
{
	struct linger l = {1, 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}
