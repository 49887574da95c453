/* What the proxy tells of itself: metrics text, readiness. Main thread. */
#pragma once
#include "proxy/net/http_admin.h"
#include "proxy/node/node_priv.h"

void weft_metrics_setup(void); /* istio_build; once */
void weft_metrics_print(struct evbuffer *out,
			bool openmetrics); /* all families and the process's own figures */
/* What is still missing before traffic can be served, one a line; returns whether nothing is. */
bool weft_ready_print(const struct weft_node *n, struct evbuffer *out);

/* Handlers for weft_http_admin_new; owner is the node. */
int weft_metrics_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
			 const char **ret_type);
int weft_ready_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		       const char **ret_type);
/* A listening socket; [::] takes v4 too, and is 0.0.0.0 where there is no IPv6. fd or -errno. */
int weft_metrics_listen(const struct weft_sockaddr *at, struct weft_err *reterr);
