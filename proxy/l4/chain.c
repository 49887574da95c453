/* A connection running through its network filters. */
#include "proxy/l4/als.h"
#include "proxy/l4/chain_conf.h"

#include "proxy/core/worker.h"
#include <event2/event.h>
#include <event2/event_struct.h>
#include <string.h>
#include <time.h>

struct weft_chain {
	struct weft_chain_start s;
	struct weft_arena *arena;
	struct weft_io *io; /* ours until a terminal filter took it; NULL: gone */
	struct weft_info info;
	char *state;
	size_t at;	 /* the filter that is asked next, or that waits */
	size_t n_opened; /* filters whose closed() is owed */
	bool waits, taken, closing, read_paused, draining;
	bool opened_all; /* every opened() was run; data goes to the terminal one */
	struct event ev; /* the last call comes from the loop */
};

static void *state_of(struct weft_chain *ch, size_t i)
{
	return ch->state + ch->s.conf->v[i].state;
}

static void destroy(evutil_socket_t fd, short what, void *arg)
{
	struct weft_chain *ch = arg;
	const struct weft_chain_conf *conf = ch->s.conf;
	struct weft_format_in in = {.info = &ch->info};
	size_t i;

	for (i = ch->n_opened; i-- > 0;)
		if (conf->v[i].f->closed)
			conf->v[i].f->closed(ch, conf->v[i].conf, state_of(ch, i));
	ch->info.end_ns = weft_now_ns();
	weft_access_logs_write(ch->s.logs, &in);
	if (ch->io)
		weft_io_free(ch->io);
	ch->s.closed(ch->s.owner, ch);
	weft_arena_free(ch->arena);
}

void weft_chain_close(struct weft_chain *ch, unsigned flush_ms, const char *details)
{
	if (ch->closing)
		return;
	ch->closing = true;
	if (details && !ch->info.termination_details)
		ch->info.termination_details = details;
	if (ch->io && flush_ms) {
		struct weft_io *io = ch->io;

		/* what is asked of it afterwards (logs) reads the info, not the io */
		weft_chain_forget_io(ch);
		weft_io_close_after_flush(io, flush_ms);
	}
	event_active(&ch->ev, EV_TIMEOUT, 0);
}

/* Runs filters from ch->at: first their opened(), then the bytes that are there. */
static void run(struct weft_chain *ch)
{
	const struct weft_chain_conf *conf = ch->s.conf;

	while (!ch->closing && !ch->taken && ch->at < conf->n) {
		const struct weft_chain_item *it = &conf->v[ch->at];
		void *st = state_of(ch, ch->at);
		enum weft_flow r = WEFT_NEXT;

		if (ch->n_opened == ch->at) {
			ch->n_opened++;
			if (it->f->opened)
				r = it->f->opened(ch, it->conf, st);
		}
		if (ch->closing || r == WEFT_DONE)
			return;
		if (r == WEFT_NEXT && it->f->take) {
			ch->taken = true;
			it->f->take(ch, it->conf, st, ch->io);
			return;
		}
		if (r == WEFT_NEXT && it->f->data) {
			struct evbuffer *in = weft_io_in(ch->io);

			/* a filter that wants bytes gets what has come; the chain goes on when it
			 * is content, and that is when it says NEXT */
			if (!evbuffer_get_length(in) && !weft_io_eof(ch->io))
				r = WEFT_WAIT;
			else
				r = it->f->data(ch, it->conf, st, in, weft_io_eof(ch->io));
		}
		if (ch->closing || r == WEFT_DONE)
			return;
		if (r == WEFT_WAIT) {
			ch->waits = true;
			return;
		}
		ch->at++;
	}
}

static void on_ready(struct weft_io *io)
{
	run(weft_io_owner(io));
}

static void on_readable(struct weft_io *io)
{
	struct weft_chain *ch = weft_io_owner(io);
	const struct weft_chain_item *it = &ch->s.conf->v[ch->at];

	if (!weft_io_is_ready(io) || ch->closing)
		return;
	/* only a filter that waits for bytes is woken by bytes */
	if (ch->waits && it->f->data && ch->n_opened > ch->at) {
		ch->waits = false;
		run(ch);
	}
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct weft_chain *ch = weft_io_owner(io);

	if (why == WEFT_IO_TLS || why == WEFT_IO_TIMEOUT)
		ch->info.up_failure = NULL;
	weft_info_flag(&ch->info, WEFT_FLAG_DC);
	weft_chain_close(ch, 0,
			 why == WEFT_IO_TLS ? weft_arena_strdup(ch->arena, weft_io_detail(io))
					    : NULL);
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready, .readable = on_readable, .closed = on_closed};

struct weft_chain *weft_chain_new(const struct weft_chain_start *start)
{
	struct weft_arena *a = weft_arena_new(512);
	struct weft_chain *ch = weft_arena_alloc(a, sizeof(*ch));
	struct timespec ts;

	ch->s = *start;
	ch->arena = a;
	ch->io = start->io;
	ch->state = weft_arena_alloc(a, start->conf->state_bytes + 1);
	clock_gettime(CLOCK_REALTIME, &ts);
	ch->info.arena = a;
	ch->info.down = weft_io_info(ch->io);
	ch->info.start_ns = weft_now_ns();
	ch->info.start_wall_ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	ch->info.listener_name = start->listener_name;
	ch->info.filter_chain_name = start->filter_chain_name;
	ch->info.requested_server_name = ch->info.down->sni;
	ch->info.remote = ch->info.down->remote;
	event_assign(&ch->ev, weft_io_base(ch->io), -1, 0, destroy, ch);
	weft_io_set_ops(ch->io, &io_ops, ch);
	if (weft_io_is_ready(ch->io))
		run(ch);
	return ch;
}

void weft_chain_resume(struct weft_chain *ch)
{
	if (!ch->waits || ch->closing)
		return;
	ch->waits = false;
	/* it waited in opened() and is content now, or in data() */
	if (!ch->s.conf->v[ch->at].f->data)
		ch->at++;
	run(ch);
}

void weft_chain_drain(struct weft_chain *ch)
{
	const struct weft_chain_item *it = &ch->s.conf->v[ch->s.conf->n - 1];

	ch->draining = true;
	if (ch->taken && !ch->closing && it->f->drain)
		it->f->drain(ch, it->conf, state_of(ch, ch->s.conf->n - 1));
}

bool weft_chain_draining(const struct weft_chain *ch)
{
	return ch->draining;
}

/* The terminal filter's io ended, or another owner has it now. */
void weft_chain_forget_io(struct weft_chain *ch)
{
	/* logs are written after the io is gone */
	ch->info.down = weft_info_keep(ch->arena, ch->info.down, ch->s.logs != NULL);
	ch->io = NULL;
}

struct weft_io *weft_chain_io(struct weft_chain *ch)
{
	return ch->io;
}

struct weft_info *weft_chain_info(struct weft_chain *ch)
{
	return &ch->info;
}

struct weft_worker *weft_chain_worker(struct weft_chain *ch)
{
	return ch->s.worker;
}

struct weft_arena *weft_chain_arena(struct weft_chain *ch)
{
	return ch->arena;
}
