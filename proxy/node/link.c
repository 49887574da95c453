#include "proxy/node/link.h"

#include "proxy/core/arena.h"
#include "proxy/node/tunnel.h"
#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { H2_NO_ERROR = 0, H2_REFUSED = 7, H2_CANCEL = 8, WINDOW_FAST_MS = 100, WINDOW_MAX = 4 << 20 };

static void link_init(struct weft_link *k, struct weft_wstate *ws, bool client)
{
	k->ws = ws;
	k->client = client;
	k->fd = -1;
	k->window = ws->conf->stream_window;
	k->window_ns = weft_now_ns();
}

int weft_link_open(struct weft_link *k, struct weft_wstate *ws, struct weft_tunnel *t,
		   const struct weft_h2_header *v, size_t n)
{
	link_init(k, ws, true);
	k->s = weft_tunnel_open(t, v, n, k);
	return k->s ? 0 : -EAGAIN;
}

void weft_link_accept(struct weft_link *k, struct weft_wstate *ws, struct weft_tunnel *t,
		      struct weft_h2_stream *s)
{
	link_init(k, ws, false);
	k->s = s;
	weft_h2_stream_set_user(s, k);
	weft_tunnel_attach(t, k);
}

void weft_link_refuse(struct weft_tunnel *t, struct weft_h2_stream *s, int status, const char *why)
{
	struct weft_h2_header h = {"x-weft-reason", why, sizeof("x-weft-reason") - 1, strlen(why)};

	weft_h2_stream_set_user(s, NULL);
	if (weft_h2_respond(s, status, &h, 1, false) < 0)
		weft_h2_reset(s, H2_CANCEL);
	weft_tunnel_dirty(t);
}

void weft_link_done(struct weft_link *k, uint32_t code)
{
	struct weft_tunnel *t = k->t;

	if (k->joined) {
		event_del(&k->rd);
		event_del(&k->wr);
	}
	k->joined = false;
	if (k->held)
		evbuffer_free(k->held);
	k->held = NULL;
	free(k->iov);
	k->iov = NULL;
	k->n_iov = 0;
	if (k->s) {
		weft_h2_stream_set_user(k->s, NULL);
		weft_h2_reset(k->s, code);
		k->s = NULL;
	}
	if (t) {
		weft_tunnel_give_budget(t, k->window - k->ws->conf->stream_window);
		weft_tunnel_detach(t, k);
	}
}

static void end(struct weft_link *k, enum weft_reason r, const char *detail, bool retry)
{
	weft_link_done(k, H2_CANCEL);
	k->ops->ended(k, r, detail, retry);
}

/* ---- from the peer to the socket */

/* n bytes left for the app: their credit goes back, and a stream that empties its window fast gets
 * a larger one. */
static void credit(struct weft_link *k, size_t n)
{
	uint64_t now;

	k->flow->received += n;
	if (!k->s)
		return;
	weft_h2_consume(k->s, n);
	k->window_seen += (uint32_t)n;
	if (k->window_seen < k->window)
		return;
	now = weft_now_ns();
	if (now - k->window_ns < WINDOW_FAST_MS * 1000000ull && k->window <= WINDOW_MAX / 2 &&
	    weft_tunnel_take_budget(k->t, k->window)) {
		k->window *= 2;
		weft_h2_grow_window(k->s, k->window);
	}
	k->window_ns = now;
	k->window_seen = 0;
}

static void hold(struct weft_link *k, const uint8_t *p, size_t n)
{
	if (!k->held) {
		k->held = evbuffer_new();
		assert(k->held);
	}
	if (n > 0 && evbuffer_add(k->held, p, n) < 0)
		abort(); /* memory is out */
}

static void want_write(struct weft_link *k)
{
	if (k->wr_on || !k->joined)
		return;
	k->wr_on = true;
	event_add(&k->wr, NULL);
}

/* Writes what this turn gathered; the rest is copied, since the tunnel's buffer is used again. */
static void put(struct weft_link *k)
{
	ssize_t n = 0;
	unsigned i = 0;

	if (k->n_iov == 0)
		return;
	if (k->joined && !k->held && !k->app_gone) {
		struct msghdr m = {.msg_iov = k->iov, .msg_iovlen = k->n_iov};

		n = sendmsg(k->fd, &m, MSG_NOSIGNAL);
		if (n < 0) {
			k->app_gone = errno != EAGAIN;
			n = 0;
		}
		if (n > 0)
			credit(k, (size_t)n);
	}
	for (; i < k->n_iov && !k->app_gone; i++) {
		size_t len = k->iov[i].iov_len, skip = (size_t)n < len ? (size_t)n : len;

		n -= (ssize_t)skip;
		if (skip < len)
			hold(k, (uint8_t *)k->iov[i].iov_base + skip, len - skip);
	}
	k->n_iov = 0;
	if (k->held)
		want_write(k);
}

void weft_link_on_data(struct weft_link *k, const uint8_t *p, size_t n)
{
	struct iovec *last;

	weft_tunnel_todo(k->t, k);
	if (n == 0)
		return;
	if (!k->iov)
		k->iov = weft_xcalloc(WEFT_LINK_IOV, sizeof(*k->iov));
	last = k->n_iov ? &k->iov[k->n_iov - 1] : NULL;
	if (last && (uint8_t *)last->iov_base + last->iov_len == p) {
		last->iov_len += n;
		return;
	}
	if (k->n_iov == WEFT_LINK_IOV)
		put(k);
	k->iov[k->n_iov++] = (struct iovec){(void *)p, n};
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_link *k = arg;
	struct weft_tunnel *t = k->t;
	int n = evbuffer_write(k->held, fd);

	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return;
		k->app_gone = true;
		weft_link_step(k);
		return;
	}
	credit(k, (size_t)n);
	if (t)
		weft_tunnel_dirty(t);
	if (evbuffer_get_length(k->held) > 0)
		return;
	evbuffer_free(k->held);
	k->held = NULL;
	event_del(&k->wr);
	k->wr_on = false;
	weft_link_step(k);
}

/* ---- from the socket to the peer */

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_link *k = arg;

	if (!k->s || (k->readable && !k->pulled)) {
		/* the tunnel or the stream's window is full: the socket waits in the kernel */
		event_del(&k->rd);
		k->rd_on = false;
		return;
	}
	k->readable = true;
	k->pulled = false;
	weft_h2_resume(k->s);
	weft_tunnel_dirty(k->t);
}

static void drained(struct weft_link *k)
{
	k->readable = false;
	if (k->rd_on)
		return;
	k->rd_on = true;
	event_add(&k->rd, NULL);
}

static void stop_reading(struct weft_link *k)
{
	k->readable = false;
	event_del(&k->rd);
	k->rd_on = false;
}

ssize_t weft_link_pull(struct weft_link *k, uint8_t *dst, size_t max, bool *ret_end)
{
	ssize_t n;

	k->pulled = true;
	if (!k->readable || !k->joined)
		return 0;
	n = recv(k->fd, dst, max, 0);
	if (n > 0) {
		k->flow->sent += (uint64_t)n;
		if ((size_t)n < max)
			drained(k);
		return n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		drained(k);
		return 0;
	}
	stop_reading(k);
	if (n == 0) {
		k->app_eof = k->sent_end = true;
		*ret_end = true;
		return 0;
	}
	k->app_gone = true;
	weft_tunnel_todo(k->t, k);
	return 0;
}

int weft_link_join(struct weft_link *k, int fd)
{
	struct event_base *base = k->ws->w->base;

	if (!k->client && (!k->s || weft_h2_respond(k->s, 200, NULL, 0, true) < 0))
		return -ENOTCONN;
	k->fd = fd;
	k->joined = true;
	event_assign(&k->rd, base, fd, EV_READ | EV_PERSIST, on_readable, k);
	event_assign(&k->wr, base, fd, EV_WRITE | EV_PERSIST, on_writable, k);
	k->rd_on = true;
	event_add(&k->rd, NULL);
	if (k->client && k->s) { /* a client mostly spoke already: read with the first turn, not
				    after another poll */
		k->readable = true;
		weft_h2_resume(k->s);
	}
	if (k->held)
		want_write(k);
	if (k->t) {
		weft_tunnel_todo(k->t, k);
		weft_tunnel_dirty(k->t);
	}
	return 0;
}

/* ---- what the peer did */

void weft_link_on_answer(struct weft_link *k, const struct weft_h2_headers *h, bool end_stream)
{
	const char *status = weft_h2_headers_get(h, ":status");
	const char *why = weft_h2_headers_get(h, "x-weft-reason");

	k->status = status ? atoi(status) : 0;
	snprintf(k->why, sizeof(k->why), "%s", why ? why : "");
	k->got_answer = true;
	k->got_end |= end_stream;
	weft_tunnel_todo(k->t, k);
}

void weft_link_on_end(struct weft_link *k)
{
	k->got_end = true;
	weft_tunnel_todo(k->t, k);
}

void weft_link_on_closed(struct weft_link *k, uint32_t code, bool lost)
{
	k->gone = true;
	k->lost = lost;
	k->code = code;
	k->s = NULL;
	weft_tunnel_todo(k->t, k);
}

static void end_lost(struct weft_link *k)
{
	const char *detail = "";
	enum weft_reason r = k->t ? weft_tunnel_reason(k->t, &detail) : WEFT_REASON_TUNNEL_LOST;
	char text[160];

	snprintf(text, sizeof(text), "%s", detail);
	if (r == WEFT_REASON_OK)
		r = WEFT_REASON_TUNNEL_LOST;
	end(k, r, text, !k->got_answer);
}

/* The stream is over. True: the link has ended. */
static bool step_gone(struct weft_link *k)
{
	bool whole = k->got_end && k->sent_end;

	if (k->lost && !whole) {
		end_lost(k);
		return true;
	}
	if (k->client && !k->got_answer) {
		end(k, k->code == H2_REFUSED ? WEFT_REASON_TUNNEL_LOST : WEFT_REASON_SERVER_RESET,
		    "the peer reset the stream before its answer", k->code == H2_REFUSED);
		return true;
	}
	if (!k->joined || (k->code != H2_NO_ERROR && !whole)) {
		end(k, k->client ? WEFT_REASON_SERVER_RESET : WEFT_REASON_CLIENT_RESET,
		    "RST_STREAM", false);
		return true;
	}
	/* an orderly end may leave bytes that the app has yet to take: the tunnel need not wait for
	 * it */
	k->got_end = true;
	if (k->t) {
		weft_tunnel_give_budget(k->t, k->window - k->ws->conf->stream_window);
		weft_tunnel_detach(k->t, k);
	}
	return false;
}

void weft_link_step(struct weft_link *k)
{
	put(k);
	free(k->iov);
	k->iov = NULL;
	if (k->app_gone && !(k->gone && k->lost)) {
		end(k, k->client ? WEFT_REASON_CLIENT_RESET : WEFT_REASON_SERVER_RESET, "", false);
		return;
	}
	if (k->got_answer && !k->told_answer) {
		k->told_answer = true;
		if (k->gone || k->got_end)
			weft_tunnel_todo(k->t, k);
		k->ops->answer(k, k->status, k->why);
		return;
	}
	if (k->gone && step_gone(k))
		return;
	if (k->got_end && k->joined && !k->held && !k->shut) {
		k->shut = true;
		if (shutdown(k->fd, SHUT_WR) < 0 && errno != ENOTCONN) {
			end(k, k->client ? WEFT_REASON_CLIENT_RESET : WEFT_REASON_SERVER_RESET, "",
			    false);
			return;
		}
	}
	if (k->gone && k->shut)
		end(k, WEFT_REASON_OK, "", false);
}
