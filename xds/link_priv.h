/* What a link runs over: a unix socket of our own programs (link.c) or a stream of the data path
 * (link_io.c). */
#pragma once
#include "xds/link.h"

struct evbuffer;
struct weft_xds_pipe {
	struct evbuffer *(*in)(void *p);
	struct evbuffer *(*out)(void *p);
	void (*flush)(void *p); /* tells drained when all is out */
	void (*free)(void *p);
};
/* p may be NULL until weft_xds_link_attach; nothing is sent before. */
struct weft_xds_link *weft_xds_link_make(struct event_base *base,
					 const struct weft_xds_link_conf *conf);
void weft_xds_link_attach(struct weft_xds_link *l, const struct weft_xds_pipe *ops, void *p);
void weft_xds_link_readable(struct weft_xds_link *l, bool eof); /* eof: after these */
void weft_xds_link_drained(struct weft_xds_link *l);
/* freed: the pipe has freed itself. */
void weft_xds_link_ended(struct weft_xds_link *l, const char *why, bool freed);
