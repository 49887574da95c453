#include "proxy/node/metrics.h"
#include "proxy/node/podtab.h"
#include "proxy/node/state.h"

#include <string.h>

struct missing {
	const struct weft_node *n;
	struct evbuffer *out;
	size_t secrets;
};

static void need_secret(void *ctx, const struct weft_npod *p)
{
	struct missing *m = ctx;

	if (!weft_secrets_find(weft_state_secrets(m->n->state), p->identity))
		m->secrets++;
}

bool weft_ready_print(const struct weft_node *n, struct evbuffer *out)
{
	struct missing m = {.n = n, .out = out};
	size_t before = evbuffer_get_length(out);

	if (n->phase == WEFT_PHASE_DRAIN)
		evbuffer_add_printf(out, "draining\n");
	/* once there, they may go away again: the proxy serves on with what it has */
	if (!weft_podtab_synced(n->podtab))
		evbuffer_add_printf(out, "pods of this node (broker: %s)\n",
				    weft_podtab_last_error(n->podtab));
	if (!weft_state_ready(n->state))
		evbuffer_add_printf(out, "configuration (xds: %s)\n",
				    weft_state_connected(n->state) ? "waiting for resources"
								   : "not connected");
	weft_podtab_each(n->podtab, need_secret, &m);
	if (m.secrets)
		evbuffer_add_printf(out, "certificates of %zu pods\n", m.secrets);
	return evbuffer_get_length(out) == before;
}

int weft_ready_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		       const char **ret_type)
{
	if (strcmp(r->path, "/healthz/ready") != 0)
		return 404;
	if (strcmp(r->method, "GET") != 0)
		return 405;
	if (!weft_ready_print(owner, out))
		return 500;
	evbuffer_add_printf(out, "ready\n");
	return 200;
}
