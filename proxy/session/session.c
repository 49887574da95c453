#include "proxy/session/session_priv.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static void on_timer(evutil_socket_t fd, short what, void *arg);

/* The io goes when nobody can be reading its bytes any more. */
static void let_go(struct weft_session *s)
{
	if (!s->orderly)
		weft_io_free(s->io);
	else
		weft_io_close_after_flush(s->io, s->linger_ms);
}

static void release_memory(struct weft_session *s)
{
	struct weft_exchange *x;

	while ((x = TAILQ_FIRST(&s->grave))) {
		TAILQ_REMOVE(&s->grave, x, link);
		weft_exchange_recycle(x);
	}
	if (s->proto)
		s->proto->free(s);
	let_go(s);
	free(s);
}

static void look_idle(struct weft_session *s)
{
	bool idle = !s->n_open;

	if (idle == s->idle || s->freed || s->told)
		return;
	s->idle = idle;
	if (s->ops->idle)
		s->ops->idle(s, idle);
}

void weft_session_release(struct weft_session *s)
{
	struct weft_exchange *x;

	if (s->depth > 1) {
		s->depth--;
		return;
	}
	look_idle(s);
	s->depth--;
	if (s->freed) {
		release_memory(s);
		return;
	}
	while ((x = TAILQ_FIRST(&s->grave))) {
		TAILQ_REMOVE(&s->grave, x, link);
		weft_exchange_recycle(x);
	}
}

static void tell_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	if (s->told || s->freed)
		return;
	s->told = true;
	weft_session_timer(s, 0);
	s->ops->closed(s, why, err);
}

/* Whatever is open is cut; what had come to its end in order is told so. */
static void cut_all(struct weft_session *s, enum weft_reset why)
{
	struct weft_exchange *x;

	while (!s->freed && (x = TAILQ_FIRST(&s->open))) {
		if (x->finished)
			weft_exchange_tell_done(x);
		else
			weft_exchange_tell_reset(x, why);
	}
}

void weft_session_close(struct weft_session *s, enum weft_io_end why, int err, bool orderly)
{
	if (weft_session_over(s))
		return;
	s->closing = true;
	s->end = (uint8_t)why;
	s->err = (int16_t)err;
	s->orderly = orderly;
	weft_io_kick(s->io);
}

void weft_session_goaway(struct weft_session *s)
{
	if (s->went_away || s->freed || s->conf->server)
		return;
	s->went_away = true;
	if (s->ops->goaway)
		s->ops->goaway(s);
}

void weft_session_bad(struct weft_session *s, int status, const char *detail)
{
	if (s->ops->bad && !s->freed)
		s->ops->bad(s, status, detail);
}

void weft_session_timer(struct weft_session *s, unsigned ms)
{
	struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	if (!ms) {
		if (s->timer)
			event_free(s->timer);
		s->timer = NULL;
		return;
	}
	if (!s->timer)
		s->timer = event_new(weft_io_base(s->io), -1, 0, on_timer, s);
	if (!s->timer)
		abort();
	event_add(s->timer, &tv);
}

void weft_session_start(struct weft_session *s, const struct weft_session_proto *proto)
{
	s->proto = proto;
	s->version = proto == &weft_session_h2 ? WEFT_HTTP_2 : WEFT_HTTP_11;
	proto->begin(s);
	if (s->draining && !weft_session_over(s))
		proto->drain(s, s->grace_ms);
}

/* ---- which version: what ALPN chose, else the first bytes */

static void look_alpn(struct weft_session *s)
{
	const char *alpn = weft_io_info(s->io)->alpn;

	if (!strcmp(alpn, "h2"))
		weft_session_start(s, &weft_session_h2);
	else if (*alpn)
		weft_session_start(s, &weft_session_h1_server);
}

static bool look_preface(struct weft_session *s)
{
	struct evbuffer *in = weft_io_in(s->io);
	char first[sizeof(PREFACE) - 1];
	ssize_t n = evbuffer_copyout(in, first, sizeof(first));

	if (n > 0 && memcmp(first, PREFACE, (size_t)n) != 0)
		weft_session_start(s, &weft_session_h1_server);
	else if (n == (ssize_t)sizeof(first))
		weft_session_start(s, &weft_session_h2);
	else if (weft_io_eof(s->io))
		weft_session_close(s, WEFT_IO_EOF, 0, true);
	else if (n > 0 && !s->timer && s->conf->headers_ms)
		weft_session_timer(s, s->conf->headers_ms);
	return s->proto;
}

static bool find_out(struct weft_session *s)
{
	if (!s->proto)
		look_alpn(s);
	return s->proto || look_preface(s);
}

/* ---- what the io and the clock tell */

static void on_readable(struct weft_io *io)
{
	struct weft_session *s = weft_io_owner(io);

	if (weft_session_over(s)) {
		evbuffer_drain(weft_io_in(io), evbuffer_get_length(weft_io_in(io)));
		return;
	}
	weft_session_hold(s);
	if (find_out(s))
		s->proto->readable(s);
	weft_session_release(s);
}

static void on_writable(struct weft_io *io)
{
	struct weft_session *s = weft_io_owner(io);

	if (weft_session_over(s) || !s->proto)
		return;
	weft_session_hold(s);
	s->proto->writable(s);
	weft_session_release(s);
}

static void on_turn(struct weft_io *io)
{
	struct weft_session *s = weft_io_owner(io);

	weft_session_hold(s);
	if (!weft_session_over(s) && s->proto)
		s->proto->turn(s);
	if (s->closing && !s->told && !s->freed) {
		if (s->proto)
			s->proto->closing(s);
		cut_all(s, WEFT_RESET_REMOTE);
		tell_closed(s, s->end, s->err);
	}
	weft_session_release(s);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct weft_session *s = arg;

	weft_session_hold(s);
	if (weft_session_over(s))
		;
	else if (s->proto)
		s->proto->timer(s);
	else
		weft_session_close(s, WEFT_IO_TIMEOUT, ETIMEDOUT, true);
	weft_session_release(s);
}

static enum weft_reset reset_of(const struct weft_session *s, enum weft_io_end why)
{
	if (weft_io_is_ready(s->io))
		return WEFT_RESET_REMOTE;
	return why == WEFT_IO_TIMEOUT ? WEFT_RESET_TIMEOUT : WEFT_RESET_CONNECT;
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct weft_session *s = weft_io_owner(io);
	enum weft_reset cut = reset_of(s, why);
	bool was = weft_session_over(s);

	weft_session_hold(s);
	s->closing = true;
	s->orderly = false;
	if (s->proto && !was)
		s->proto->lost(s);
	weft_session_goaway(s);
	cut_all(s, cut);
	tell_closed(s, why, err);
	weft_session_release(s);
}

static const struct weft_io_ops io_ops = {
	.readable = on_readable,
	.writable = on_writable,
	.turn = on_turn,
	.closed = on_closed,
};

static const struct weft_io_ops no_ops;

/* ---- the owner's calls */

struct weft_session *weft_session_new(struct weft_io *io, const struct weft_session_conf *conf,
				      const struct weft_session_ops *ops, void *owner)
{
	struct weft_session *s = weft_xcalloc(1, sizeof(*s));

	s->io = io;
	s->conf = conf;
	s->ops = ops;
	s->owner = owner;
	s->idle = true;
	TAILQ_INIT(&s->open);
	TAILQ_INIT(&s->grave);
	s->version = (uint8_t)conf->version;
	weft_io_set_ops(io, &io_ops, s);
	if (conf->buffer_bytes) /* else the connection's own limit */
		weft_io_set_high(io, conf->buffer_bytes);
	if (conf->version == WEFT_HTTP_2)
		weft_session_start(s, &weft_session_h2);
	else if (!conf->server)
		weft_session_start(s, &weft_session_h1_client);
	else if (conf->version == WEFT_HTTP_11)
		weft_session_start(s, &weft_session_h1_server);
	return s;
}

void weft_session_free(struct weft_session *s)
{
	uint32_t ms;

	if (!s || s->freeing)
		return;
	s->freeing = true;
	weft_session_hold(s);
	weft_session_timer(s, 0);
	ms = s->conf->delayed_close_ms ?: WEFT_SESSION_LINGER_MS;
	if (s->conf->server && !s->n_open && !s->closing)
		s->orderly = true;
	s->linger_ms = ms == UINT32_MAX || !s->orderly || !s->conf->server ? 0 : ms;
	s->told = true;
	if (s->proto)
		s->proto->closing(s);
	cut_all(s, WEFT_RESET_LOCAL);
	s->freed = true;
	weft_io_set_ops(s->io, &no_ops, NULL);
	weft_session_release(s);
}

void *weft_session_owner(const struct weft_session *s)
{
	return s->owner;
}

struct weft_io *weft_session_io(const struct weft_session *s)
{
	return s->io;
}

enum weft_http weft_session_version(const struct weft_session *s)
{
	return s->version;
}

uint32_t weft_session_open_count(const struct weft_session *s)
{
	return s->n_open;
}

uint64_t weft_session_total(const struct weft_session *s)
{
	return s->total;
}

uint32_t weft_session_room(const struct weft_session *s)
{
	if (weft_session_over(s) || s->draining || s->went_away || !s->proto)
		return 0;
	return s->proto->room(s);
}

void weft_session_drain(struct weft_session *s, unsigned grace_ms)
{
	if (weft_session_over(s) || s->draining)
		return;
	s->draining = true;
	weft_session_hold(s);
	s->grace_ms = grace_ms;
	/* a connection that said nothing yet may still ask once: its owner waits no longer than
	 * grace_ms */
	if (s->proto)
		s->proto->drain(s, grace_ms);
	weft_session_release(s);
}
