#include "proxy/net/io_priv.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include <assert.h>
#include <event2/event.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
	TURN_ITEMS = 4096, /* done in a turn before the sockets are polled again */
	STATE_ALIGN = 16,
};

static atomic_uint_fast64_t last_id;

static void on_turn(evutil_socket_t fd, short what, void *arg);

static void loop_arm(struct weft_io_loop *l)
{
	if (l->armed || l->running)
		return;
	l->armed = true;
	event_active(&l->turn, EV_TIMEOUT, 0);
}

static void unqueue(struct weft_io *io)
{
	if (!io->queued)
		return;
	if (io->q_writes)
		TAILQ_REMOVE(&io->loop->writes, io, link);
	else
		TAILQ_REMOVE(&io->loop->work, io, link);
	io->queued = false;
}

void weft_io_todo(struct weft_io *io, unsigned what)
{
	bool writes;

	if (io->freed || io->dead)
		return;
	io->todo |= what;
	writes = io->sock && (io->todo & ~(unsigned)WEFT_IO_T_FLUSH) == 0;
	if (io->queued && io->q_writes == writes)
		return;
	unqueue(io);
	if (writes)
		TAILQ_INSERT_TAIL(&io->loop->writes, io, link);
	else
		TAILQ_INSERT_TAIL(&io->loop->work, io, link);
	io->q_writes = writes;
	io->queued = true;
	loop_arm(io->loop);
}

/* ---- calls out: the callee may free the io */

static void io_release_memory(struct weft_io *io)
{
	struct weft_io_loop *l = io->loop;

	free(io->detail);
	weft_arena_free(io->arena);
	free(io);
	weft_io_loop_put(l);
}

bool weft_io_hold(struct weft_io *io)
{
	io->busy++;
	return true;
}

static void give_buffers(struct weft_io *io)
{
	if (io->in && !io->in_cb && evbuffer_get_length(io->in) == 0) {
		weft_evbuffer_give(io->in);
		io->in = NULL;
	}
	if (io->out && evbuffer_get_length(io->out) == 0) {
		weft_evbuffer_give(io->out);
		io->out = NULL;
	}
}

bool weft_io_release(struct weft_io *io)
{
	if (--io->busy > 0)
		return !io->freed;
	if (io->freed) {
		io_release_memory(io);
		return false;
	}
	give_buffers(io);
	return true;
}

static void destroy(struct weft_io *io, bool reset)
{
	if (io->freed)
		return;
	io->freed = true;
	io->ops = NULL;
	if (io->closing)
		LIST_REMOVE(io, close_link);
	unqueue(io);
	io->kind->destroy(io, reset);
	weft_io_timer(io, 0, NULL);
	if (io->in)
		evbuffer_free(io->in);
	if (io->out)
		evbuffer_free(io->out);
	io->in = io->out = NULL;
	io->in_cb = NULL;
	if (io->busy == 0)
		io_release_memory(io);
}

/* ---- reading */

void weft_io_reading(struct weft_io *io)
{
	bool on = io->ready && io->pauses == 0 && !io->stuffed && !io->eof && !io->dead;

	if (io->freed || io->reading == on)
		return;
	io->reading = on;
	io->kind->want_read(io, on);
}

static void on_in_taken(struct evbuffer *b, const struct evbuffer_cb_info *info, void *arg)
{
	struct weft_io *io = arg;

	if (evbuffer_get_length(b) >= io->high)
		return;
	evbuffer_remove_cb_entry(b, io->in_cb);
	io->in_cb = NULL;
	io->stuffed = false;
	weft_io_reading(io);
}

static void look_stuffed(struct weft_io *io)
{
	if (io->stuffed || !io->in || evbuffer_get_length(io->in) < io->high)
		return;
	io->stuffed = true;
	io->in_cb = evbuffer_add_cb(io->in, on_in_taken, io);
	assert(io->in_cb);
	weft_io_reading(io);
}

static void finish_closing(struct weft_io *io)
{
	destroy(io, false);
}

void weft_io_deliver(struct weft_io *io)
{
	if (io->freed || io->dead)
		return;
	if (io->closing) {
		if (io->in)
			evbuffer_drain(io->in, evbuffer_get_length(io->in));
		if (io->eof && io->fin_done)
			finish_closing(io);
		else
			weft_io_reading(io);
		return;
	}
	if (io->ops && io->ops->readable)
		io->ops->readable(io);
	if (io->freed)
		return;
	look_stuffed(io);
	weft_io_reading(io);
}

void weft_io_deliver_ready(struct weft_io *io)
{
	if (io->ready || io->freed || io->dead)
		return;
	io->ready = true;
	io->info.ready_ns = weft_now_ns();
	weft_io_reading(io);
	if (io->ops && io->ops->ready)
		io->ops->ready(io);
	if (!io->freed && (weft_io_out_len(io) > 0 || io->fin_asked || io->want_drained))
		weft_io_todo(io, WEFT_IO_T_FLUSH);
}

/* ---- writing */

size_t weft_io_out_len(const struct weft_io *io)
{
	return io->out ? evbuffer_get_length(io->out) : 0;
}

static bool all_written(const struct weft_io *io)
{
	const struct weft_sock *s = io->sock ? weft_sock_of(io) : NULL;

	return weft_io_out_len(io) == 0 && !(s && s->tls && weft_tls_sess_pending(s->tls));
}

static void look_closing(struct weft_io *io)
{
	if (!io->linger || io->eof) {
		finish_closing(io);
		return;
	}
	io->pauses = 0;
	if (io->in)
		evbuffer_drain(io->in, evbuffer_get_length(io->in));
	weft_io_reading(io);
}

void weft_io_marks(struct weft_io *io)
{
	if (io->freed || io->dead || (io->sock && weft_sock_of(io)->werr))
		return;
	if (io->was_full && weft_io_out_len(io) <= io->high / 2) {
		io->was_full = false;
		if (io->ops && io->ops->writable)
			io->ops->writable(io);
		if (io->freed)
			return;
	}
	if (!io->ready || !all_written(io))
		return;
	if (io->want_drained) {
		io->want_drained = false;
		if (io->ops && io->ops->drained)
			io->ops->drained(io);
		if (io->freed || weft_io_out_len(io) > 0)
			return;
	}
	if (io->fin_asked && !io->fin_done) {
		io->fin_done = true;
		io->kind->shutdown(io);
	}
	if (!io->freed && io->closing && io->fin_done)
		look_closing(io);
}

/* ---- a turn */

static void run_closed(struct weft_io *io)
{
	if (io->closing) {
		destroy(io, true);
		return;
	}
	io->dead = true;
	unqueue(io);
	if (io->sock) /* also where the owner's side said so */
		weft_sock_quiet(io);
	weft_io_timer(io, 0, NULL);
	if (io->ops && io->ops->closed)
		io->ops->closed(io, io->end, io->err);
}

static void run(struct weft_io *io)
{
	unsigned todo = io->todo;

	io->todo = 0;
	weft_io_hold(io);
	if (todo & WEFT_IO_T_READY)
		weft_io_deliver_ready(io);
	/* while paused it waits; resume offers it */
	if (todo & WEFT_IO_T_READ && !io->freed && (io->pauses == 0 || todo & WEFT_IO_T_CLOSED))
		weft_io_deliver(io);
	if (todo & WEFT_IO_T_KICK && !io->freed && !io->dead && io->ops && io->ops->turn)
		io->ops->turn(io);
	if (!(todo & WEFT_IO_T_CLOSED)) {
		if (todo & WEFT_IO_T_FLUSH && !io->freed && !io->dead && io->ready)
			io->kind->want_write(io);
		if (todo & (WEFT_IO_T_MARKS | WEFT_IO_T_FLUSH))
			weft_io_marks(io);
	} else if (!io->freed && !io->dead) {
		run_closed(io);
	}
	weft_io_release(io);
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval now = {0, 0};
	struct weft_io_loop *l = arg;
	struct weft_io *io;

	l->armed = false;
	l->running = true;
	l->refs++;
	for (int i = 0; i < TURN_ITEMS; i++) {
		io = TAILQ_FIRST(&l->work);
		if (!io)
			io = TAILQ_FIRST(&l->writes);
		if (!io)
			break;
		unqueue(io);
		run(io);
	}
	l->running = false;
	if (!TAILQ_EMPTY(&l->work) || !TAILQ_EMPTY(&l->writes)) {
		l->armed = true;
		event_add(&l->turn, &now);
	}
	weft_io_loop_put(l);
}

/* ---- timer */

static void timer_fired(evutil_socket_t fd, short what, void *arg)
{
	struct weft_io *io = arg;
	void (*fn)(struct weft_io *) = io->on_timer;

	weft_io_hold(io);
	if (fn)
		fn(io);
	weft_io_release(io);
}

void weft_io_timer(struct weft_io *io, unsigned ms, void (*fn)(struct weft_io *io))
{
	struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	io->on_timer = fn;
	if (ms == 0) {
		if (io->timer)
			event_free(io->timer);
		io->timer = NULL;
		return;
	}
	if (!io->timer)
		io->timer = event_new(io->loop->base, -1, 0, timer_fired, io);
	assert(io->timer);
	event_add(io->timer, &tv);
}

/* ---- the owner's calls */

struct weft_io *weft_io_make(struct event_base *base, const struct weft_io_kind *kind, size_t size,
			     void **ret_state, const struct weft_io_ops *ops, void *owner)
{
	size_t head = (sizeof(struct weft_io) + STATE_ALIGN - 1) & ~(size_t)(STATE_ALIGN - 1);
	struct weft_io *io = weft_xcalloc(1, head + size);

	io->kind = kind;
	io->ops = ops;
	io->owner = owner;
	io->loop = weft_io_loop_get(base, on_turn);
	io->high = WEFT_IO_HIGH;
	io->info.id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
	io->info.start_ns = weft_now_ns();
	io->info.sni = io->info.alpn = "";
	if (ret_state)
		*ret_state = weft_io_state(io);
	return io;
}

void *weft_io_state(const struct weft_io *io)
{
	size_t head = (sizeof(struct weft_io) + STATE_ALIGN - 1) & ~(size_t)(STATE_ALIGN - 1);

	return (char *)io + head;
}

void weft_io_free(struct weft_io *io)
{
	if (io)
		destroy(io, io->ready && !all_written(io));
}

void weft_io_reset(struct weft_io *io)
{
	if (io)
		destroy(io, true);
}

void *weft_io_owner(const struct weft_io *io)
{
	return io->owner;
}

void weft_io_set_ops(struct weft_io *io, const struct weft_io_ops *ops, void *owner)
{
	io->ops = ops;
	io->owner = owner;
	if (io->ready && ((io->in && evbuffer_get_length(io->in) > 0) || io->eof))
		weft_io_todo(io, WEFT_IO_T_READ);
}

struct event_base *weft_io_base(const struct weft_io *io)
{
	return io->loop->base;
}

struct evbuffer *weft_io_in(struct weft_io *io)
{
	if (!io->in)
		io->in = weft_evbuffer_take();
	return io->in;
}

struct evbuffer *weft_io_out(struct weft_io *io)
{
	if (!io->out)
		io->out = weft_evbuffer_take();
	return io->out;
}

bool weft_io_eof(const struct weft_io *io)
{
	return io->eof;
}

bool weft_io_is_ready(const struct weft_io *io)
{
	return io->ready;
}

struct weft_arena *weft_io_arena(struct weft_io *io)
{
	if (!io->arena)
		io->arena = weft_arena_new(192); /* weft_tls_info and a short name */
	return io->arena;
}

struct weft_io_stat weft_io_stat(const struct weft_io *io)
{
	return io->stat;
}

const char *weft_io_detail(const struct weft_io *io)
{
	return io->detail ? io->detail : "";
}

void weft_io_set_detail(struct weft_io *io, const char *text)
{
	if (!io->detail && text && *text)
		io->detail = weft_xstrdup(text);
}

void weft_io_flush(struct weft_io *io)
{
	weft_io_todo(io, WEFT_IO_T_FLUSH);
}

void weft_io_kick(struct weft_io *io)
{
	weft_io_todo(io, WEFT_IO_T_KICK);
}

void weft_io_shutdown(struct weft_io *io)
{
	io->fin_asked = true;
	weft_io_todo(io, WEFT_IO_T_FLUSH);
}

static void close_timeout(struct weft_io *io)
{
	destroy(io, !all_written(io));
}

void weft_io_close_after_flush(struct weft_io *io, unsigned ms)
{
	if (!io || io->freed)
		return;
	if (io->dead || !io->ready || io->todo & WEFT_IO_T_CLOSED) {
		weft_io_free(io);
		return;
	}
	io->ops = NULL;
	if (!io->closing)
		LIST_INSERT_HEAD(&io->loop->closing, io, close_link);
	io->closing = true;
	io->linger = ms > 0;
	io->fin_asked = true;
	weft_io_timer(io, ms > 0 && ms < WEFT_IO_CLOSE_MAX_MS ? ms : WEFT_IO_CLOSE_MAX_MS,
		      close_timeout);
	weft_io_todo(io, WEFT_IO_T_FLUSH);
}

void weft_io_pause(struct weft_io *io)
{
	io->pauses++;
	assert(io->pauses > 0);
	weft_io_reading(io);
}

void weft_io_resume(struct weft_io *io)
{
	assert(io->pauses > 0);
	if (--io->pauses > 0)
		return;
	weft_io_reading(io);
	if (io->ready && io->in && evbuffer_get_length(io->in) > 0)
		weft_io_todo(io, WEFT_IO_T_READ);
}

void weft_io_set_high(struct weft_io *io, size_t bytes)
{
	io->high = bytes > 0 ? bytes : 1;
	if (io->was_full)
		weft_io_todo(io, WEFT_IO_T_MARKS);
}

size_t weft_io_high(const struct weft_io *io)
{
	return io->high;
}

bool weft_io_full(const struct weft_io *io)
{
	bool full = weft_io_out_len(io) >= io->high;

	if (full) /* whoever saw it waits for writable() */
		((struct weft_io *)io)->was_full = true;
	return full;
}

void weft_io_want_drained(struct weft_io *io)
{
	io->want_drained = true;
	weft_io_todo(io, WEFT_IO_T_FLUSH);
}

/* ---- the kind tells */

void weft_io_tell_ready(struct weft_io *io)
{
	weft_io_todo(io, WEFT_IO_T_READY);
}

void weft_io_tell_readable(struct weft_io *io, bool eof)
{
	if (eof)
		io->eof = true;
	weft_io_todo(io, WEFT_IO_T_READ);
}

void weft_io_tell_drained(struct weft_io *io)
{
	weft_io_todo(io, WEFT_IO_T_MARKS);
}

void weft_io_tell_closed(struct weft_io *io, enum weft_io_end why, int err, const char *detail)
{
	if (io->freed || io->dead || io->todo & WEFT_IO_T_CLOSED)
		return;
	io->end = (uint8_t)why;
	io->err = err;
	weft_io_set_detail(io, detail);
	weft_io_todo(io, WEFT_IO_T_CLOSED);
}
