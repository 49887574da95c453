/* The proxy's admin socket: run-dir/proxy/admin.sock. GET /status /metrics /ready, POST
 * /logging?level= /quitquitquit. */
#pragma once
#include "proxy/net/http_admin.h"
#include "proxy/node/options.h"

struct weft_admin {
	struct weft_node *node;
	const struct weft_options *opt;
	void (*quit)(void *owner);
	void *owner;
};
/* Makes DIR/proxy when it is missing (owned by uid) and the socket in it, mode 0600. Before the
 * seal. fd or -errno. */
int weft_admin_listen(const char *run_dir, uid_t uid, gid_t gid, struct weft_err *reterr);
int weft_admin_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		       const char **ret_type);
