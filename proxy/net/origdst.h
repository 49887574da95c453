/* Where a captured connection was going. */
#pragma once
#include "proxy/core/addr.h"

/* By getsockopt(SO_ORIGINAL_DST), which our capture programs and iptables both answer. 0; -ENOENT:
 * not recorded; -errno. */
int weft_origdst(int fd, struct weft_sockaddr *ret);
/* getsockname and getpeername in our form. 0 or -errno. */
int weft_sock_local(int fd, struct weft_sockaddr *ret);
int weft_sock_peer(int fd, struct weft_sockaddr *ret);
/* close() that sends RST: what a proxy owes the other side of an aborted connection. */
void weft_sock_abort(int fd);
