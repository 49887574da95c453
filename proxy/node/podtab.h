/* The pods of this node, from the agent's broker: listeners to workers, sockets to the reserve. The
 * link may be lost for any time: what is held goes on, and is handed to the next agent. Main
 * thread. Contract: xds/proto/broker.proto. */
#pragma once
#include "proxy/node/broker_link.h"
#include "proxy/node/node_priv.h"

enum {
	WEFT_PODS_MAX = 4096,
	WEFT_BROKER_RETRY_FIRST_MS = 20,
	/* a proxy that ends before the next agent has its listeners takes them along: come back
	   soon */
	WEFT_BROKER_RETRY_MAX_MS = 250,
	WEFT_BROKER_WELCOME_MS = 5000
};
struct weft_podtab_conf {
	const char *path; /* of the broker's socket */
	const char *version;
	/* Told at each Welcome, before its pods come. */
	void (*welcome)(void *owner, const char *node, const char *network,
			const char *trust_domain);
	void *owner;
};
struct weft_podtab *weft_podtab_new(struct weft_node *n, const struct weft_podtab_conf *conf);
void weft_podtab_free(struct weft_podtab *t);
void weft_podtab_start(struct weft_podtab *t);
/* Drain: closes the link and every held listener, so that the agent may serve a successor. Not
 * before the agent is known to have them too: while it is away the next connections wait in them,
 * and it is waited for. Pods stay as they are. */
void weft_podtab_leave(struct weft_podtab *t);
bool weft_podtab_left(const struct weft_podtab *t);
/* For the reserve: 0, or -ENOTCONN. */
int weft_podtab_want(struct weft_podtab *t, const struct weft_npod *p, enum weft_sock_kind k,
		     unsigned count);

bool weft_podtab_welcomed(const struct weft_podtab *t); /* the link is up now */
bool weft_podtab_synced(const struct weft_podtab *t);	/* a full list of pods came, once */
size_t weft_podtab_count(const struct weft_podtab *t);
const char *weft_podtab_last_error(const struct weft_podtab *t); /* "" when up */
void weft_podtab_each(const struct weft_podtab *t, void (*fn)(void *ctx, const struct weft_npod *p),
		      void *ctx);
