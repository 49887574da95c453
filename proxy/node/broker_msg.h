/* Messages to the broker, and the checks of those that come from it. Main thread. */
#pragma once
#include "proxy/node/broker_link.h"
#include "proxy/node/node_priv.h"
#include "xds/proto/broker.pb-c.h"

enum { WEFT_BROKER_VERSION = 1, WEFT_LISTEN_KINDS = 6, WEFT_BROKER_NAME_MAX = 253 };

void weft_broker_send_hello(struct weft_broker_link *l, const char *proxy_version);
void weft_broker_send_holding(struct weft_broker_link *l, const char *uid, int kind, int fd);
void weft_broker_send_held(struct weft_broker_link *l); /* that was all */
void weft_broker_send_want(struct weft_broker_link *l, const char *uid, enum weft_sock_kind k,
			   unsigned count);
void weft_broker_send_ack(struct weft_broker_link *l, const char *uid, const struct weft_err *why);

bool weft_broker_name_ok(const char *s);
/* kinds are listeners', each once, one a descriptor; the fields are there and in bounds. ret
 * borrows from m. */
int weft_broker_check_pod(const Weft__Broker__PodAdd *m, size_t n_fds, const char *network,
			  struct weft_npod_conf *ret, struct weft_err *reterr);
