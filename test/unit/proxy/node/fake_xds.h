/* Stands in for the xDS client: keeps the sinks, counts what was refused. */
#pragma once
#include "proxy/core/err.h"
#include "xds/client.h"
#include <stdio.h>

static struct {
	const struct weft_xds_type *types[4];
	const struct weft_xds_sink *sinks[4];
	void *owner;
	int n, started, rejects;
	char rejected[128], why[512];
	bool ready;
	char node_id[256];
} xds;
static char client;

struct weft_xds_client *weft_xds_client_new(struct event_base *base,
					    const struct weft_xds_client_conf *conf)
{
	snprintf(xds.node_id, sizeof(xds.node_id), "%s", conf->node_id);
	return (struct weft_xds_client *)&client;
}
int weft_xds_subscribe(struct weft_xds_client *c, const struct weft_xds_type *t,
		       const struct weft_xds_sink *sink, void *owner)
{
	xds.types[xds.n] = t;
	xds.owner = owner;
	xds.sinks[xds.n++] = sink;
	return 0;
}
void weft_xds_client_start(struct weft_xds_client *c)
{
	xds.started++;
}
void weft_xds_client_free(struct weft_xds_client *c)
{
}
void weft_xds_reject(struct weft_xds_reply *c, const char *name, const struct weft_err *why)
{
	xds.rejects++;
	snprintf(xds.rejected, sizeof(xds.rejected), "%s", name);
	weft_err_text(why, xds.why, sizeof(xds.why));
}
bool weft_xds_ready(const struct weft_xds_client *c)
{
	return xds.ready;
}
bool weft_xds_connected(const struct weft_xds_client *c)
{
	return true;
}
