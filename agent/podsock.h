/* Sockets that live in a pod's namespace: the proxy's listeners, and unconnected ones. design.md
 * §3, ambient-contract §4.5. */
#pragma once
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { WEFT_PORT_OUTBOUND = 15001, WEFT_PORT_PLAIN = 15006, WEFT_PORT_HBONE = 15008 };
enum { WEFT_MARK_PROXY = 0x539, WEFT_MARK_SPOOF = 0x111 };

bool weft_podsock_is_listener(int kind); /* SocketKind */
bool weft_podsock_is_connect(int kind);
bool weft_podsock_is_v6(int kind);
uint16_t weft_podsock_port(int kind);	 /* of a listener */
const char *weft_podsock_name(int kind); /* "outbound4" */
/* n sockets of a kind, made inside the namespace, or none. -errno. */
int weft_podsock_make(int netns_fd, int kind, int *fds, unsigned n, struct weft_err *reterr);
/* Whether a foreign fd is a listener of this kind; cookie 0: in whatever namespace. -EINVAL. */
int weft_podsock_verify(int fd, int kind, uint64_t cookie);
