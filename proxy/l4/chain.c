/* A connection running through its network filters. */
#include "proxy/l4/als.h"
#include "proxy/l4/chain_conf.h"

#include "proxy/core/timer.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster.h"
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stddef.h>
#include <time.h>

enum {
	/* for all that filters wait for before the last one takes over: as long as an idle
	 * connection may live */
	WAIT_MS = 3600 * 1000,
};

struct weft_chain {
	struct weft_chain_start s;
	struct weft_arena *arena;
	struct weft_io *io; /* NULL: gone, or another's */
	struct weft_info info;
	char *state;
	size_t at;	 /* the filter that is asked next, or that waits */
	size_t n_opened; /* filters whose closed() is owed */
	/* BYTES: for the client, no filter said WAIT but the one at `at` has not seen any. DATA:
	 * the filter has seen what came and said WAIT; more bytes or a resume ask it again. */
	enum { WAITS_NOT, WAITS_OPENED, WAITS_BYTES, WAITS_DATA } waits;
	bool running, resumed; /* resumed from inside of the call that says WAIT */
	bool taken, closing, draining;
	struct weft_timer timer;
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
	if (ch->n_opened < conf->n && conf->v[conf->n - 1].f->refused)
		conf->v[conf->n - 1].f->refused(ch, conf->v[conf->n - 1].conf);
	weft_access_logs_write(ch->s.logs, &in);
	weft_host_unref(ch->info.host);
	if (ch->info.cluster)
		weft_cluster_unref(ch->info.cluster);
	if (ch->io)
		weft_io_free(ch->io);
	ch->s.closed(ch->s.owner, ch);
	weft_arena_free(ch->arena);
}

static const struct weft_io_ops io_ops;

void weft_chain_close(struct weft_chain *ch, unsigned flush_ms, const char *details)
{
	struct weft_io *io = ch->io;

	if (ch->closing)
		return;
	ch->closing = true;
	weft_timer_clear(&ch->timer);
	if (details && !ch->info.termination_details)
		ch->info.termination_details = details;
	if (io && flush_ms) {
		/* what is asked of it afterwards (logs) reads the info, not the io */
		weft_chain_forget_io(ch);
		weft_io_close_after_flush(io, flush_ms);
	} else if (io) {
		/* no filter hears of it any more */
		weft_io_set_ops(io, &io_ops, ch);
	}
	event_active(&ch->ev, EV_TIMEOUT, 0);
}

static void on_late(struct weft_timer *t)
{
	struct weft_chain *ch =
		(struct weft_chain *)((char *)t - offsetof(struct weft_chain, timer));

	weft_chain_close(ch, 0, "filter_wait_timeout");
}

/* What the filter at `at` says now. */
static enum weft_flow ask(struct weft_chain *ch)
{
	const struct weft_chain_item *it = &ch->s.conf->v[ch->at];
	void *st = state_of(ch, ch->at);
	enum weft_flow r = WEFT_NEXT;
	struct evbuffer *in;

	if (ch->n_opened == ch->at) {
		ch->n_opened++;
		ch->waits = WAITS_OPENED;
		if (it->f->opened)
			r = it->f->opened(ch, it->conf, st);
	}
	if (ch->closing || r != WEFT_NEXT)
		return r;
	if (it->f->take) {
		ch->taken = true;
		ch->waits = WAITS_NOT;
		weft_timer_clear(&ch->timer);
		it->f->take(ch, it->conf, st, ch->io);
		return WEFT_DONE;
	}
	if (!it->f->data)
		return WEFT_NEXT;
	in = weft_io_in(ch->io);
	ch->waits = WAITS_BYTES;
	if (!evbuffer_get_length(in) && !weft_io_eof(ch->io))
		return WEFT_WAIT;
	ch->waits = WAITS_DATA;
	return it->f->data(ch, it->conf, st, in, weft_io_eof(ch->io));
}

/* Runs filters from ch->at: first their opened(), then the bytes that are there. The chain is there
 * until the loop runs again, whatever a filter does. */
static void run(struct weft_chain *ch)
{
	ch->running = true;
	while (!ch->closing && ch->at < ch->s.conf->n) {
		enum weft_flow r;

		ch->resumed = false;
		r = ask(ch);
		if (ch->closing || r == WEFT_DONE)
			break;
		if (r == WEFT_WAIT && (!ch->resumed || ch->waits == WAITS_BYTES)) {
			if (!weft_timer_is_set(&ch->timer))
				weft_timer_set(weft_timers_of(ch->s.worker), &ch->timer, WAIT_MS,
					       weft_now_ns(), on_late);
			break;
		}
		/* it waited in opened(), was resumed at once, and has bytes to look at still */
		if (r == WEFT_WAIT && ch->waits == WAITS_OPENED && ch->s.conf->v[ch->at].f->data)
			continue;
		ch->waits = WAITS_NOT;
		ch->at++;
	}
	ch->running = false;
}

static void on_ready(struct weft_io *io)
{
	struct weft_chain *ch = weft_io_owner(io);

	if (ch->closing)
		return;
	ch->info.requested_server_name = ch->info.down->sni;
	run(ch);
}

static void on_readable(struct weft_io *io)
{
	struct weft_chain *ch = weft_io_owner(io);

	/* only a filter that waits for bytes is woken by bytes */
	if (!ch->closing && !ch->taken && !ch->running && ch->waits >= WAITS_BYTES)
		run(ch);
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct weft_chain *ch = weft_io_owner(io);
	const char *detail = weft_io_detail(io);

	if (ch->closing)
		return;
	if (why == WEFT_IO_TLS && *detail)
		ch->info.down_failure = weft_arena_strdup(ch->arena, detail);
	else if (why == WEFT_IO_RESET)
		weft_info_flag(&ch->info, WEFT_FLAG_DC);
	weft_chain_close(ch, 0, NULL);
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready, .readable = on_readable, .closed = on_closed};

struct weft_chain *weft_chain_new(const struct weft_chain_start *start)
{
	/* one block: many connections are idle */
	struct weft_arena *a =
		weft_arena_new(sizeof(struct weft_chain) + start->conf->state_bytes + 96);
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
	ch->info.listener_metadata = start->listener_metadata;
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
	const struct weft_chain_item *it;

	if (ch->closing || ch->taken)
		return;
	if (ch->running) {
		ch->resumed = true;
		return;
	}
	/* bytes are not the filter's to promise */
	if (ch->waits != WAITS_OPENED && ch->waits != WAITS_DATA)
		return;
	it = &ch->s.conf->v[ch->at];
	/* content in opened(): its bytes come next, where it wants some */
	if (ch->waits == WAITS_OPENED && !it->f->data && !it->f->take) {
		ch->at++;
		ch->waits = WAITS_NOT;
	}
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
	if (!ch->io)
		return;
	/* logs are written after the io is gone */
	ch->info.down = weft_info_keep(ch->arena, ch->info.down, ch->s.logs != NULL);
	ch->info.requested_server_name = ch->info.down->sni;
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
