/* TCP checks: a connection, and perhaps bytes each way. */
#include "proxy/upstream/health_priv.h"

#include <string.h>

static void send_payload(struct check *c)
{
	const struct hc_bytes *b = &c->h->conf->send;

	if (b->n)
		evbuffer_add(weft_io_out(c->io), b->p, b->n);
	weft_io_flush(c->io);
}

/* v1 tells the addresses of this connection, v2 that nobody else stands behind it. */
static void put_proxy(struct check *c)
{
	static const char v2[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0";
	const struct weft_io_info *i = weft_io_info(c->io);
	const struct weft_sockaddr *from = &i->local, *to = &i->remote;
	char a[WEFT_IP_TEXT], b[WEFT_IP_TEXT];

	if (c->h->conf->proxy == 2)
		evbuffer_add(weft_io_out(c->io), v2, sizeof(v2));
	else if (!to->ip.family)
		evbuffer_add_printf(weft_io_out(c->io), "PROXY UNKNOWN\r\n");
	else
		evbuffer_add_printf(weft_io_out(c->io), "PROXY TCP%d %s %s %u %u\r\n",
				    to->ip.family, weft_ip_text(&from->ip, a, sizeof(a)),
				    weft_ip_text(&to->ip, b, sizeof(b)), from->port, to->port);
}

static void on_ready(struct weft_io *io)
{
	struct check *c = weft_io_owner(io);

	if (c->h->conf->proxy)
		put_proxy(c);
	if (!c->h->conf->n_receive) { /* that it can be connected to is all that was asked */
		if (c->h->conf->send.n || c->h->conf->proxy) {
			send_payload(c);
			weft_io_close_after_flush(c->io, 1000);
			c->io = NULL;
		}
		weft_check_close(c);
		weft_check_succeeded(c, false);
		return;
	}
	send_payload(c);
}

/* Each expected run of bytes is looked for behind the one before. */
static bool all_there(struct check *c, struct evbuffer *in)
{
	const struct weft_hc_conf *k = c->h->conf;

	while (c->matched < k->n_receive) {
		const struct hc_bytes *b = &k->receive[c->matched];
		struct evbuffer_ptr at = evbuffer_search(in, (const char *)b->p, b->n, NULL);

		if (at.pos < 0)
			return false;
		evbuffer_drain(in, (size_t)at.pos + b->n);
		c->matched++;
	}
	return true;
}

enum { TCP_IN_MAX = 1 << 20 }; /* bytes without what was expected */

static void on_readable(struct weft_io *io)
{
	struct check *c = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);
	bool eof = weft_io_eof(io);

	if (c->active && all_there(c, in)) {
		evbuffer_drain(in, evbuffer_get_length(in));
		if (!c->h->conf->reuse || eof)
			weft_check_close(c);
		weft_check_succeeded(c, false);
		return;
	}
	if (!c->active)
		evbuffer_drain(in, evbuffer_get_length(in));
	if (!eof && evbuffer_get_length(in) <= TCP_IN_MAX)
		return;
	weft_check_close(c);
	if (c->active)
		weft_check_failed(c, HC_NETWORK);
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct check *c = weft_io_owner(io);

	weft_check_close(c);
	if (c->active)
		weft_check_failed(c, HC_NETWORK);
}

static const struct weft_io_ops ops = {
	.ready = on_ready,
	.readable = on_readable,
	.closed = on_closed,
};

void weft_check_tcp(struct check *c)
{
	c->matched = 0;
	if (c->io) {
		send_payload(c);
		return;
	}
	if (weft_check_dial(c, NULL, &ops) < 0) {
		c->io = NULL;
		weft_check_failed(c, HC_NETWORK);
	}
}
