/* Bytes between the client and a stream of the upstream. */
#include "proxy/l4/filters/tcp_priv.h"

#include "proxy/core/worker.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum {
	SPLICE_FROM = 16 << 10, /* bytes at once: bulk, which the kernel can move by itself */
	TICK_MS = 5000,		/* how often what was spliced is counted */
};

static void paused(struct tcp *t, bool on)
{
	weft_scope_add(t->conf->scope,
		       on ? TCP_downstream_flow_control_paused_reading_total
			  : TCP_downstream_flow_control_resumed_reading_total,
		       1);
}

/* ---- splicing */
void tcp_relay_counts(struct tcp *t)
{
	struct weft_io_stat s = weft_io_stat(t->down);

	if (s.rx != t->spliced_rx || s.tx != t->spliced_tx)
		t->last_ns = weft_now_ns();
	tcp_count(t, (size_t)(s.rx - t->spliced_rx), (size_t)(s.tx - t->spliced_tx));
	t->spliced_rx = s.rx;
	t->spliced_tx = s.tx;
}

static void on_tick(struct weft_timer *timer)
{
	struct tcp *t = (struct tcp *)((char *)timer - offsetof(struct tcp, tick));

	tcp_relay_counts(t);
	weft_timer_set(t->timers, timer, TICK_MS, weft_now_ns(), on_tick);
}

static void on_spliced(void *owner, enum weft_io_end down, enum weft_io_end up)
{
	struct tcp *t = owner;

	if (down == WEFT_IO_TIMEOUT) {
		weft_scope_add(t->conf->scope, TCP_idle_timeout, 1);
		tcp_finish(t, TCP_END_LOCAL, NULL);
	} else if (down == WEFT_IO_EOF && up == WEFT_IO_EOF) {
		tcp_finish(t, TCP_END_ORDER, NULL);
	} else if (down != WEFT_IO_EOF) {
		weft_info_flag(t->info, WEFT_FLAG_DC);
		tcp_finish(t, TCP_END_DOWN_RESET, NULL);
	} else {
		weft_info_flag(t->info, WEFT_FLAG_UC);
		tcp_finish(t, TCP_END_UP_RESET, NULL);
	}
}

static void try_splice(struct tcp *t)
{
	struct weft_io_stat s;

	if (t->no_splice || t->down_eof || t->up_eof || t->down_held || t->up_held)
		return;
	s = weft_io_stat(t->down);
	t->spliced_rx = s.rx;
	/* what waits to be written was counted when it came */
	t->spliced_tx = s.tx + evbuffer_get_length(weft_io_out(t->down));
	if (weft_io_splice(t->down, t->up, on_spliced, t, (unsigned)t->conf->idle_ms)) {
		t->no_splice = true;
		return;
	}
	t->spliced = true;
	weft_timer_set(t->timers, &t->tick, TICK_MS, weft_now_ns(), on_tick);
}

/* ---- by hand */
static void over(struct tcp *t)
{
	if (!t->down_eof || !t->up_eof)
		return;
	if (t->up && evbuffer_get_length(weft_io_out(t->up))) {
		weft_io_want_drained(t->up);
		return;
	}
	if (!t->up && t->x)
		return; /* done() comes when all is sent */
	tcp_finish(t, TCP_END_ORDER, NULL);
}

static void down_readable(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);
	size_t n = evbuffer_get_length(in);
	bool end = weft_io_eof(io) && !t->down_eof;

	if (t->over || !t->open || (!n && !end))
		return;
	t->last_ns = weft_now_ns();
	tcp_count(t, n, 0);
	t->down_eof |= end;
	if (!t->up) {
		tcp_tunnel_send(t, in, end);
		over(t);
		return;
	}
	if (n) {
		evbuffer_add_buffer(weft_io_out(t->up), in);
		weft_io_flush(t->up);
	}
	if (end)
		weft_io_shutdown(t->up);
	if (weft_io_full(t->up) && !t->down_held) {
		t->down_held = true;
		paused(t, true);
		weft_io_pause(io);
	}
	if (n >= SPLICE_FROM)
		try_splice(t);
	over(t);
}

static void down_writable(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);

	if (!t->up_held || t->over)
		return;
	t->up_held = false;
	if (t->up)
		weft_io_resume(t->up);
	else
		tcp_tunnel_resume(t);
}

static void down_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct tcp *t = weft_io_owner(io);

	weft_info_flag(t->info, WEFT_FLAG_DC);
	tcp_finish(t, TCP_END_DOWN_RESET, NULL);
}

const struct weft_io_ops tcp_down_ops = {
	.readable = down_readable, .writable = down_writable, .closed = down_closed};

static void up_ready(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);

	if (!t->over)
		tcp_established(t);
}

static void up_readable(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);
	size_t n = evbuffer_get_length(in);
	bool end = weft_io_eof(io) && !t->up_eof;

	if (t->over || !t->open || (!n && !end))
		return;
	t->last_ns = weft_now_ns();
	tcp_count(t, 0, n);
	t->up_eof |= end;
	if (n) {
		evbuffer_add_buffer(weft_io_out(t->down), in);
		weft_io_flush(t->down);
	}
	if (end)
		weft_io_shutdown(t->down);
	if (weft_io_full(t->down) && !t->up_held) {
		t->up_held = true;
		weft_io_pause(io);
	}
	if (n >= SPLICE_FROM)
		try_splice(t);
	over(t);
}

static void up_writable(struct weft_io *io)
{
	struct tcp *t = weft_io_owner(io);

	if (!t->down_held || t->over)
		return;
	t->down_held = false;
	paused(t, false);
	weft_io_resume(t->down);
}

static void up_drained(struct weft_io *io)
{
	over(weft_io_owner(io));
}

static void up_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct tcp *t = weft_io_owner(io);

	if (t->over)
		return;
	if (!t->open) {
		const char *detail = weft_io_detail(io);
		char text[128];

		if (why == WEFT_IO_REFUSED || !*detail) {
			snprintf(text, sizeof(text), "delayed connect error: %s",
				 strerror(err < 0 ? -err : err));
			detail = text;
		}
		tcp_failed(t, why == WEFT_IO_TIMEOUT, detail);
		return;
	}
	weft_info_flag(t->info, WEFT_FLAG_UC);
	tcp_finish(t, TCP_END_UP_RESET, NULL);
}

const struct weft_io_ops tcp_up_ops = {.ready = up_ready,
				       .readable = up_readable,
				       .writable = up_writable,
				       .drained = up_drained,
				       .closed = up_closed};

void tcp_relay_start(struct tcp *t)
{
	weft_io_resume(t->down);
}
