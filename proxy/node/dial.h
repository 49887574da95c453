/* A TCP connect from a pod's namespace: socket from the stock, optional source address, one time
 * limit for all of it. */
#pragma once
#include "proxy/node/node.h"

struct weft_dial;
struct weft_dial_conf {
	struct weft_wstate *ws;
	struct weft_npod *pod;
	const struct weft_sockaddr *to;
	const struct weft_ip *from; /* the source address to show (inbound), or NULL */
	/* fd >= 0: connected, the receiver's; -errno: failed, why says where. Not called from
	 * weft_dial_start; the dial is freed. */
	void (*done)(void *arg, int fd, const char *why);
	void *arg;
};
struct weft_dial *weft_dial_start(const struct weft_dial_conf *conf);
void weft_dial_cancel(struct weft_dial *d); /* NULL is fine */
enum weft_sock_kind weft_dial_kind(bool inbound, const struct weft_sockaddr *to);
/* -errno of done → reason */
enum weft_reason weft_dial_reason(int err);
