/* HBONE tunnels out, kept by key and shared by the connections of one pod to one peer. Worker
 * thread. Key: source pod, dialled address, endpoint's uid, accepted identities in order; compared
 * whole. First requests at the same time share one dial; tunnels that got GOAWAY, whose certificate
 * was rotated or whose endpoint left the configuration take no new streams. */
#pragma once
#include "proxy/node/tunnel.h"
#include "proxy/policy/endpoint.h"

enum { WEFT_POOL_KEY_MAX = 64 << 10 };

struct weft_pool_wait;
struct weft_pool_ask {
	struct weft_wstate *ws;
	struct weft_npod *pod;
	const struct weft_route *route; /* HBONE; read during the call */
	/* t: a tunnel with room for one stream, to be opened before return; or NULL with the reason
	 * of the failed dial. dialled: the endpoint's TCP port could not be reached at all. Never
	 * called from weft_pool_tunnel. */
	void (*got)(void *arg, struct weft_tunnel *t, enum weft_reason r, const char *detail,
		    bool unreachable);
	void *arg;
};
/* A tunnel at once, or NULL and got() later. */
struct weft_tunnel *weft_pool_tunnel(const struct weft_pool_ask *ask,
				     struct weft_pool_wait **ret_wait);
void weft_pool_cancel(struct weft_pool_wait *w); /* NULL is fine */

void weft_pool_purge(struct weft_wstate *ws); /* after a model change */
void weft_pool_rotated(struct weft_wstate *ws, const char *identity);
void weft_pool_drop(struct weft_wstate *ws, const struct weft_npod *pod,
		    enum weft_reason r); /* NULL: all */
void weft_pool_drain(struct weft_wstate *ws);
unsigned weft_pool_tunnels(const struct weft_wstate *ws);
