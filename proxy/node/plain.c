/* Plaintext from outside the mesh, steered to 15006: policy without an identity, then a relay to
 * the app with the client's address as source. */
#include "proxy/core/arena.h"
#include "proxy/net/origdst.h"
#include "proxy/net/relay.h"
#include "proxy/node/accept.h"
#include "proxy/node/dial.h"
#include "proxy/node/inbound.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct plain {
	struct weft_live live;
	struct weft_relay *relay;
	struct weft_wwait *wwait;
	struct weft_dial *dialling;
	int fd, app;
};

static struct plain *of_live(struct weft_live *l)
{
	return (struct plain *)((char *)l - offsetof(struct plain, live));
}

static void plain_end(struct plain *p, enum weft_reason r, const char *detail)
{
	struct weft_wstate *ws = p->live.ws;
	bool ok = r == WEFT_REASON_OK;

	weft_wwait_free(p->wwait);
	weft_dial_cancel(p->dialling);
	weft_relay_free(p->relay);
	if (ok)
		close(p->fd);
	else
		weft_sock_abort(p->fd);
	if (p->app >= 0 && ok)
		weft_stock_give(ws, p->live.pod, weft_dial_kind(true, &p->live.flow.dst), p->app);
	else if (p->app >= 0)
		weft_stock_abort(ws, p->live.pod, weft_dial_kind(true, &p->live.flow.dst), p->app);
	weft_live_end(&p->live, r, detail);
	free(p);
}

static void plain_cut(struct weft_live *l, enum weft_reason r, const char *detail)
{
	plain_end(of_live(l), r, detail);
}

static void on_relay_end(void *owner, enum weft_relay_end why)
{
	struct plain *p = owner;

	p->relay = NULL;
	plain_end(p,
		  why == WEFT_RELAY_OK	      ? WEFT_REASON_OK
		  : why == WEFT_RELAY_A_RESET ? WEFT_REASON_SERVER_RESET
					      : WEFT_REASON_CLIENT_RESET,
		  "");
}

static void on_dialled(void *arg, int fd, const char *why)
{
	struct plain *p = arg;
	struct weft_relay_conf conf = {.base = p->live.ws->w->base,
				       .a = fd,
				       .b = p->fd,
				       .a_to_b = &p->live.flow.sent,
				       .b_to_a = &p->live.flow.received,
				       .ended = on_relay_end,
				       .owner = p};
	char text[128];

	p->dialling = NULL;
	if (fd < 0) {
		snprintf(text, sizeof(text), "%s: %s", why, strerror(-fd));
		plain_end(p, weft_dial_reason(fd), text);
		return;
	}
	p->app = fd;
	weft_live_opened(&p->live);
	p->relay = weft_relay_new(&conf);
}

static void check(struct plain *p, const struct weft_workload *w)
{
	struct weft_flow *f = &p->live.flow;
	struct weft_dial_conf conf = {.ws = p->live.ws,
				      .pod = p->live.pod,
				      .to = &f->dst,
				      .from = &f->src.ip,
				      .done = on_dialled,
				      .arg = p};
	enum weft_reason r;

	weft_inbound_label(&p->live, w, "");
	r = weft_live_check(&p->live, w, &f->dst);
	if (r != WEFT_REASON_OK)
		plain_end(p, r, "");
	else
		p->dialling = weft_dial_start(&conf);
}

static void on_workload(void *arg, const struct weft_workload *w)
{
	struct plain *p = arg;

	weft_wwait_free(p->wwait);
	p->wwait = NULL;
	if (w)
		check(p, w);
	else
		plain_end(p, WEFT_REASON_NO_WORKLOAD, "");
}

void weft_plain_accept(struct weft_wstate *ws, struct weft_npod *pod, int fd,
		       const struct weft_sockaddr *peer)
{
	struct plain *p = weft_xcalloc(1, sizeof(*p));
	const struct weft_workload *w;
	bool room;

	p->fd = fd;
	p->app = -1;
	p->live.cut = plain_cut;
	room = weft_live_begin(&p->live, ws, pod, true);
	p->live.flow.src = *peer;
	if (weft_sock_local(fd, &p->live.flow.dst) < 0) {
		plain_end(p, WEFT_REASON_NO_CAPTURE, "");
		return;
	}
	if (!room) {
		plain_end(p, WEFT_REASON_LIMIT, "connections");
		return;
	}
	if (weft_port_illegal(p->live.flow.dst.port)) {
		plain_end(p, WEFT_REASON_ILLEGAL_PORT, "");
		return;
	}
	w = weft_conns_workload(ws, pod);
	if (w)
		check(p, w);
	else
		p->wwait = weft_wwait_new(ws, pod, on_workload, p);
}
