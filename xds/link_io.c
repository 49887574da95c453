/* A link over a stream of the data path: TCP, unix or TLS. */
#include "proxy/core/arena.h"
#include "proxy/net/io.h"
#include "xds/link_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct over {
	struct weft_xds_link *link;
	struct weft_io *io;
	char why[256];
};

static struct evbuffer *io_in(void *p)
{
	return weft_io_in(((struct over *)p)->io);
}

static struct evbuffer *io_out(void *p)
{
	return weft_io_out(((struct over *)p)->io);
}

static void io_flush(void *p)
{
	struct over *o = p;

	if (evbuffer_get_length(weft_io_out(o->io)))
		weft_io_want_drained(o->io);
	weft_io_flush(o->io);
}

static void io_free(void *p)
{
	struct over *o = p;

	weft_io_free(o->io);
	free(o);
}

static const struct weft_xds_pipe io_pipe = {io_in, io_out, io_flush, io_free};

static void on_ready(struct weft_io *io)
{
	struct over *o = weft_io_owner(io);

	weft_xds_link_attach(o->link, &io_pipe, o);
}

static void on_readable(struct weft_io *io)
{
	struct over *o = weft_io_owner(io);

	weft_xds_link_readable(o->link, weft_io_eof(io));
}

static void on_drained(struct weft_io *io)
{
	struct over *o = weft_io_owner(io);

	weft_xds_link_drained(o->link);
}

static void on_writable(struct weft_io *io)
{
	on_drained(io);
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct over *o = weft_io_owner(io);
	const char *detail = weft_io_detail(io);

	snprintf(o->why, sizeof(o->why), "%s%s%s",
		 why == WEFT_IO_REFUSED	  ? "cannot connect"
		 : why == WEFT_IO_TLS	  ? "TLS"
		 : why == WEFT_IO_TIMEOUT ? "not connected in time"
					  : "connection lost",
		 detail[0] || err ? ": " : "",
		 detail[0] ? detail
		 : err	   ? strerror(err)
			   : "");
	weft_xds_link_ended(o->link, o->why, false);
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready,
	.readable = on_readable,
	.writable = on_writable,
	.drained = on_drained,
	.closed = on_closed,
};

static struct evbuffer *none(void *p)
{
	return NULL;
}

static void nothing(void *p)
{
}

/* Until it is connected nothing is written; it is freed all the same. */
static const struct weft_xds_pipe early_pipe = {none, none, nothing, io_free};

struct weft_xds_link *weft_xds_link_over(struct event_base *base, struct weft_io *io,
					 const struct weft_xds_link_conf *conf)
{
	struct over *o = weft_xcalloc(1, sizeof(*o));

	o->io = io;
	o->link = weft_xds_link_make(base, conf);
	weft_io_set_ops(io, &io_ops, o);
	weft_xds_link_attach(o->link, weft_io_is_ready(io) ? &io_pipe : &early_pipe, o);
	return o->link;
}
