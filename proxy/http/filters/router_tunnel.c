/* CONNECT that ends here: its bytes go to a TCP upstream as they are. */
#include "proxy/http/filters/router_priv.h"

#include "proxy/core/worker.h"
#include <errno.h>
#include <string.h>

/* In the stream's arena; the io is the only thing that outlives a callback. */
struct tunnel {
	struct router *r;
	struct weft_io *io;
	bool up, full, held, sent_end;
};

static void tunnel_end(struct tunnel *t, enum weft_flag flag, const char *details)
{
	struct router *r = t->r;

	weft_info_flag(weft_stream_info(r->s), flag);
	r->over = true;
	if (r->started)
		weft_stream_cut(r->s, WEFT_RESET_REMOTE, details);
	else
		weft_stream_reply(
			r->s, 503, details,
			"upstream connect error or disconnect/reset before headers. reset reason: "
			"connection failure",
			NULL, NULL);
}

/* Bytes of the client that came already. */
static void push(struct tunnel *t)
{
	struct router *r = t->r;

	if (!t->up)
		return;
	if (r->out && evbuffer_get_length(r->out)) {
		evbuffer_add_buffer(weft_io_out(t->io), r->out);
		weft_io_flush(t->io);
	}
	if (r->req_end && !t->sent_end) {
		t->sent_end = true;
		weft_io_shutdown(t->io);
	}
	if (weft_io_full(t->io) && !t->held) {
		t->held = true;
		weft_stream_pause(r->s, WEFT_REQUEST);
	}
}

static void on_ready(struct weft_io *io)
{
	struct tunnel *t = weft_io_owner(io);
	struct router *r = t->r;
	struct weft_headers *h = weft_arena_alloc(weft_stream_arena(r->s), sizeof(*h));

	t->up = r->started = true;
	weft_host_outcome(r->wc, weft_stream_info(r->s)->host, WEFT_OUT_CONNECTED, 0);
	weft_headers_init(h, weft_stream_arena(r->s));
	weft_headers_set_id(h, WEFT_H_STATUS, "200", 3);
	push(t);
	weft_stream_respond_headers(r->s, h, false);
}

static void on_readable(struct weft_io *io)
{
	struct tunnel *t = weft_io_owner(io);
	struct router *r = t->r;
	bool end = weft_io_eof(io);

	if (!t->up)
		return;
	r->over = end && r->req_end;
	weft_stream_respond_data(r->s, weft_io_in(io), end);
}

static void on_writable(struct weft_io *io)
{
	struct tunnel *t = weft_io_owner(io);

	if (t->held) {
		t->held = false;
		weft_stream_unpause(t->r->s, WEFT_REQUEST);
	}
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct tunnel *t = weft_io_owner(io);
	struct router *r = t->r;

	if (!t->up) {
		weft_host_outcome(r->wc, weft_stream_info(r->s)->host,
				  WEFT_OUT_LOCAL_CONNECT_FAILED, 0);
		weft_stream_info(r->s)->up_failure = weft_arena_strdup(
			weft_stream_arena(r->s),
			err ? strerror(err < 0 ? -err : err) : weft_io_detail(io));
		tunnel_end(t, WEFT_FLAG_UF,
			   "upstream_reset_before_response_started{connection_failure}");
		return;
	}
	tunnel_end(t, WEFT_FLAG_UC,
		   "upstream_reset_after_response_started{connection_termination}");
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready, .readable = on_readable, .writable = on_writable, .closed = on_closed};

static void client_full(void *ctx, bool full)
{
	struct tunnel *t = ctx;

	if (full == t->full)
		return;
	t->full = full;
	if (full)
		weft_io_pause(t->io);
	else
		weft_io_resume(t->io);
}

static void tunnel_free(void *arg)
{
	struct tunnel *t = arg;

	if (t->io)
		weft_upstream_io_free(t->io);
	t->io = NULL;
}

void router_tunnel_data(struct router *r)
{
	push(r->tunnel);
}

void router_tunnel_closed(struct router *r)
{
	tunnel_free(r->tunnel);
}

enum weft_flow router_tunnel(struct router *r)
{
	struct weft_stream *s = r->s;
	struct weft_info *info = weft_stream_info(s);
	struct weft_lb_ctx ctx = {.has_hash = r->has_hash,
				  .hash = r->hash,
				  .random = weft_rand64(),
				  .now_ns = router_now(r),
				  .downstream_local = &info->down->local};
	struct weft_take how = {.priority = r->route->priority,
				.source = &info->remote,
				.dest = &info->down->local};
	const struct weft_endpoint_entry *e = NULL;
	struct tunnel *t = weft_arena_alloc(weft_stream_arena(s), sizeof(*t));
	const char *why = "no_healthy_upstream";
	struct weft_host *host = weft_wcluster_pick(r->wc, &ctx, &e, &why);
	int err;

	t->r = r;
	info->attempts = r->tries = 1;
	if (!host) {
		router_reply(r, 503, WEFT_FLAG_UH, why, "no healthy upstream", false);
		return WEFT_DONE;
	}
	if (info->host)
		weft_host_unref(info->host);
	info->host = host;
	how.metadata = e ? e->metadata : NULL;
	err = weft_upstream_dial(r->wc, host, &how, &io_ops, t, &t->io);
	if (err) {
		router_reply(r, 503, err == -EBUSY ? WEFT_FLAG_UO : WEFT_FLAG_UF,
			     err == -EBUSY
				     ? "upstream_reset_before_response_started{overflow}"
				     : "upstream_reset_before_response_started{connection_failure}",
			     "upstream connect error or disconnect/reset before headers. reset "
			     "reason: connection "
			     "failure",
			     err == -EBUSY);
		return WEFT_DONE;
	}
	r->tunnel = t;
	weft_stream_on_writable(s, client_full, t);
	return WEFT_DONE;
}
