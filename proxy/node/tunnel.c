#include "proxy/node/tunnel.h"

#include "proxy/core/arena.h"
#include "proxy/node/link.h"
#include <assert.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	DRAIN_STEP_MS = 1000,	  /* between the two GOAWAYs: longer than a round trip */
	WINDOW_BUDGET = 32 << 20, /* of larger stream windows, a tunnel */
	HEADER_LIST = 64 << 10,	  /* server; as upstream */
};

enum phase { PHASE_TLS, PHASE_SETTINGS, PHASE_OPEN };

struct weft_tunnel {
	struct weft_wstate *ws;
	const struct weft_tunnel_ops *ops;
	void *owner;
	struct weft_tls *tls;
	struct weft_h2 *h2;
	int fd;
	bool server;
	enum phase phase;
	bool settings, goaway, retired, closing, broken, room_changed, h2_bad, wr_on;
	uint8_t drain_step;
	struct event rd, wr, timer;
	struct weft_turn turn;
	TAILQ_HEAD(, weft_link) links;
	TAILQ_HEAD(, weft_link) todo;
	unsigned n_links;
	uint32_t budget;
	uint64_t rx_ns, ping_ns, idle_ns,
		drain_ns; /* last received; PING sent (0: none); last without streams */
	enum weft_reason reason;
	char detail[160];
};

static const uint64_t MS = 1000000;

static struct weft_tunnel *of_turn(struct weft_turn *x)
{
	return (struct weft_tunnel *)((char *)x - offsetof(struct weft_tunnel, turn));
}

static void fail(struct weft_tunnel *t, enum weft_reason r, const char *detail)
{
	if (t->closing)
		return;
	t->closing = true;
	t->reason = r;
	snprintf(t->detail, sizeof(t->detail), "%s", detail ? detail : "");
	event_del(&t->rd);
	weft_turn_soon(t->ws, &t->turn);
}

static void arm(struct weft_tunnel *t, uint64_t ms)
{
	struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000) * 1000};

	evtimer_add(&t->timer, &tv);
}

/* ---- HTTP/2 callbacks: flags and lists only, the work is done when the session is not in its own
 * code */

static struct weft_tunnel *of_stream(const struct weft_h2_stream *s)
{
	return weft_h2_owner(weft_h2_stream_session(s));
}

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	struct weft_tunnel *t = of_stream(s);
	struct weft_link *k = weft_h2_stream_user(s);

	if (!t->server) {
		if (k)
			weft_link_on_answer(k, h, end);
		return;
	}
	if (t->closing)
		weft_h2_reset(s, 7); /* REFUSED_STREAM */
	else
		t->ops->request(t, s, h, end);
}

static void on_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	struct weft_link *k = weft_h2_stream_user(s);

	if (k)
		weft_link_on_data(k, p, n);
	else
		weft_h2_consume(s, n);
}

static void on_end(struct weft_h2_stream *s)
{
	struct weft_link *k = weft_h2_stream_user(s);

	if (k)
		weft_link_on_end(k);
}

static void on_closed(struct weft_h2_stream *s, uint32_t code)
{
	struct weft_link *k = weft_h2_stream_user(s);
	struct weft_tunnel *t = of_stream(s);

	t->room_changed = true;
	if (k)
		weft_link_on_closed(k, code, t->broken);
}

static ssize_t on_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	struct weft_link *k = weft_h2_stream_user(s);

	if (k)
		return weft_link_pull(k, dst, max, ret_end);
	*ret_end = true;
	return 0;
}

static void on_settings(struct weft_h2 *h)
{
	struct weft_tunnel *t = weft_h2_owner(h);

	t->settings = true;
	t->room_changed = true;
}

static void on_goaway(struct weft_h2 *h, uint32_t code, int32_t last)
{
	struct weft_tunnel *t = weft_h2_owner(h);

	t->goaway = true;
	t->room_changed = true;
	if (!t->server)
		t->retired = true;
}

static const struct weft_h2_ops h2_ops = {
	.headers = on_headers,
	.data = on_data,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.settings = on_settings,
	.goaway = on_goaway,
};

/* ---- after the session's code has returned */

static void run_todo(struct weft_tunnel *t)
{
	struct weft_link *k;

	while ((k = TAILQ_FIRST(&t->todo))) {
		TAILQ_REMOVE(&t->todo, k, todo);
		k->queued = false;
		weft_link_step(k);
	}
	if (t->room_changed && t->phase == PHASE_OPEN && !t->closing) {
		t->room_changed = false;
		if (t->ops->room)
			t->ops->room(t);
	}
}

static void want_write(struct weft_tunnel *t)
{
	if (t->wr_on)
		return;
	t->wr_on = true;
	event_add(&t->wr, NULL);
}

/* One send of what the session has, up to the thread's buffer. True: there may be more at once. */
static bool send_some(struct weft_tunnel *t)
{
	bool full = false;
	int r = weft_tls_flush(t->tls);

	while (r == 0) {
		size_t cap;
		uint8_t *dst = weft_tls_reserve(t->tls, &cap);
		ssize_t n;

		full = !dst;
		if (full)
			break;
		n = weft_h2_send(t->h2, dst, cap);
		if (n <= 0) {
			if (n < 0 && !t->closing)
				fail(t, WEFT_REASON_H2_FAILED, "protocol error");
			break;
		}
		r = weft_tls_commit(t->tls, (size_t)n);
	}
	if (r == 0)
		r = weft_tls_flush(t->tls);
	if (r == -EAGAIN)
		want_write(t);
	else if (r < 0)
		fail(t, WEFT_REASON_TUNNEL_LOST, strerror(-r));
	return r == 0 && full;
}

/* Ends it: what can be said is said, links are told, closed() is called, memory goes. */
static void finish(struct weft_tunnel *t)
{
	struct weft_link *k;

	if (t->h2 && t->phase != PHASE_TLS) {
		if (!t->h2_bad)
			weft_h2_goaway(t->h2, 0);
		send_some(t);
		weft_tls_close_notify(t->tls);
		weft_tls_flush(t->tls);
	}
	t->broken = true;
	if (t->h2)
		weft_h2_free(t->h2);
	t->h2 = NULL;
	run_todo(t);
	while ((k = TAILQ_FIRST(&t->links))) /* its stream is over, bytes wait for the app alone */
		weft_tunnel_detach(t, k);
	t->ops->closed(t, t->reason, t->detail);
	event_del(&t->rd);
	event_del(&t->wr);
	event_del(&t->timer);
	weft_turn_cancel(t->ws, &t->turn);
	weft_tls_free(t->tls);
	close(t->fd);
	free(t);
}

static void on_turn(struct weft_turn *x)
{
	struct weft_tunnel *t = of_turn(x);
	bool more = false;

	if (!t->closing && t->phase != PHASE_TLS) {
		more = send_some(t);
		run_todo(t);
		if (!t->closing && t->retired && t->n_links == 0 && !more &&
		    (!t->server || t->drain_step == 2 || t->goaway) && !weft_tls_pending(t->tls))
			fail(t, t->reason, t->detail);
		else if (!t->closing && weft_h2_done(t->h2))
			fail(t, WEFT_REASON_OK, "");
	}
	if (t->closing) {
		finish(t);
		return;
	}
	if (more || (!weft_tls_pending(t->tls) && t->h2 && weft_h2_want_send(t->h2)))
		weft_turn_next(t->ws, &t->turn);
}

void weft_tunnel_dirty(struct weft_tunnel *t)
{
	weft_turn_soon(t->ws, &t->turn);
}

/* ---- socket */

static int on_plain(void *owner, const uint8_t *p, size_t n)
{
	struct weft_tunnel *t = owner;
	int r = weft_h2_recv(t->h2, p, n);

	if (r < 0)
		t->h2_bad = true;
	return r;
}

static void read_failed(struct weft_tunnel *t, int r)
{
	if (t->h2_bad)
		fail(t, WEFT_REASON_H2_FAILED, "protocol error of the peer");
	else if (t->phase != PHASE_OPEN &&
		 r == -EPROTO) /* it refused our certificate: told after our handshake */
		fail(t, WEFT_REASON_TLS_FAILED, weft_tls_detail(t->tls));
	else if (t->phase != PHASE_OPEN)
		fail(t, WEFT_REASON_H2_FAILED, r ? strerror(-r) : "closed before SETTINGS");
	else if (r == 0 && t->n_links == 0)
		fail(t, WEFT_REASON_OK, "");
	else
		fail(t, WEFT_REASON_TUNNEL_LOST,
		     r == 0	    ? "the peer closed it"
		     : r == -EPROTO ? weft_tls_detail(t->tls)
				    : strerror(-r));
}

static void becomes_ready(struct weft_tunnel *t)
{
	t->phase = PHASE_OPEN;
	t->idle_ns = t->rx_ns;
	arm(t, t->ws->conf->ping_ms < t->ws->conf->pool_idle_ms ? t->ws->conf->ping_ms
								: t->ws->conf->pool_idle_ms);
	t->ops->ready(t);
	if (t->drain_step == 0 && t->retired)
		weft_tunnel_retire(t);
}

static void read_some(struct weft_tunnel *t)
{
	size_t done = 0;
	bool full = true;
	ssize_t r = 1;

	while (full && done < WEFT_TUNNEL_TURN && !t->closing) {
		full = false;
		r = weft_tls_read(t->tls, on_plain, t, &full);
		run_todo(t); /* before the next read: gathered bytes are in its buffer */
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	if (done > 0) {
		t->rx_ns = weft_now_ns();
		t->ping_ns = 0;
	}
	if (t->closing)
		return;
	if (r <= 0 && r != -EAGAIN) {
		read_failed(t, (int)r);
		return;
	}
	if (t->settings && t->phase == PHASE_SETTINGS)
		becomes_ready(t);
	if (weft_h2_want_send(t->h2) || weft_h2_done(t->h2) || weft_tls_pending(t->tls) ||
	    (t->retired && t->n_links == 0))
		weft_tunnel_dirty(t);
}

static void start_h2(struct weft_tunnel *t)
{
	const struct weft_node_conf *c = t->ws->conf;
	struct weft_h2_conf conf = {
		.server = t->server,
		.max_streams = c->max_streams,
		.stream_window = c->stream_window,
		.max_send_frame = WEFT_TLS_BATCH - 9, /* and its head; Envoy allows 16384 */
		.max_header_list = t->server ? HEADER_LIST : 0,
	};

	t->h2 = weft_h2_new(&conf, &h2_ops, t);
	t->phase = PHASE_SETTINGS;
	t->rx_ns = weft_now_ns();
	arm(t, c->preface_ms);
	weft_tunnel_dirty(t);
	read_some(t);
}

static void shake(struct weft_tunnel *t)
{
	int r = weft_tls_handshake(t->tls);

	if (r < 0)
		fail(t, weft_tls_reason(t->tls), weft_tls_detail(t->tls));
	else if (r == 1)
		start_h2(t);
	if (r >= 0 && weft_tls_pending(t->tls))
		want_write(t);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_tunnel *t = arg;

	if (t->closing)
		return;
	if (t->phase == PHASE_TLS)
		shake(t);
	else
		read_some(t);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct weft_tunnel *t = arg;

	t->wr_on = false;
	if (t->phase == PHASE_TLS && !t->closing) {
		if (weft_tls_flush(t->tls) == -EAGAIN)
			want_write(t);
		else
			shake(t);
		return;
	}
	weft_tunnel_dirty(t);
}

/* ---- time */

static void on_open_timer(struct weft_tunnel *t)
{
	const struct weft_node_conf *c = t->ws->conf;
	uint64_t now = weft_now_ns(), due, idle;

	if (t->drain_step == 1 && now >= t->drain_ns) {
		t->drain_step = 2;
		weft_h2_goaway(t->h2, 0);
		weft_tunnel_dirty(t);
	}
	if (t->ping_ns && now - t->ping_ns >= c->ping_timeout_ms * MS) {
		fail(t, WEFT_REASON_TUNNEL_LOST, "no answer to PING");
		return;
	}
	if (!t->ping_ns && now - t->rx_ns >= c->ping_ms * MS) {
		t->ping_ns = now;
		weft_h2_ping(t->h2);
		weft_tunnel_dirty(t);
	}
	due = t->ping_ns ? t->ping_ns + c->ping_timeout_ms * MS : t->rx_ns + c->ping_ms * MS;
	if (!t->server && t->n_links == 0) {
		idle = t->idle_ns + c->pool_idle_ms * MS;
		if (now >= idle) {
			fail(t, WEFT_REASON_OK, "idle");
			return;
		}
		due = due < idle ? due : idle;
	}
	if (t->drain_step == 1 && t->drain_ns < due)
		due = t->drain_ns;
	arm(t, due > now ? (due - now + MS - 1) / MS : 1);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct weft_tunnel *t = arg;

	if (t->closing)
		return;
	if (t->phase == PHASE_TLS)
		fail(t, WEFT_REASON_TLS_TIMEOUT, "");
	else if (t->phase == PHASE_SETTINGS)
		fail(t, WEFT_REASON_H2_TIMEOUT, "");
	else
		on_open_timer(t);
}

/* ---- */

struct weft_tunnel *weft_tunnel_new(const struct weft_tunnel_conf *conf)
{
	struct weft_tunnel *t = weft_xcalloc(1, sizeof(*t));
	struct event_base *base = conf->ws->w->base;

	t->ws = conf->ws;
	t->ops = conf->ops;
	t->owner = conf->owner;
	t->fd = conf->fd;
	t->server = conf->want.server;
	t->budget = WINDOW_BUDGET;
	t->turn.run = on_turn;
	TAILQ_INIT(&t->links);
	TAILQ_INIT(&t->todo);
	t->tls = weft_tls_new(conf->ctx, &conf->want, conf->fd);
	if (!t->tls) {
		close(t->fd);
		free(t);
		return NULL;
	}
	event_assign(&t->rd, base, t->fd, EV_READ | EV_PERSIST, on_readable, t);
	event_assign(&t->wr, base, t->fd, EV_WRITE, on_writable, t);
	event_assign(&t->timer, base, -1, 0, on_timer, t);
	event_add(&t->rd, NULL);
	arm(t, conf->ws->conf->tls_ms);
	if (!t->server)
		shake(t);
	return t;
}

void *weft_tunnel_owner(const struct weft_tunnel *t)
{
	return t->owner;
}

const char *weft_tunnel_peer(const struct weft_tunnel *t)
{
	return weft_tls_peer(t->tls);
}

bool weft_tunnel_finished(const struct weft_tunnel *t)
{
	return t->retired || t->closing;
}

unsigned weft_tunnel_streams(const struct weft_tunnel *t)
{
	return t->n_links;
}

unsigned weft_tunnel_room(const struct weft_tunnel *t)
{
	unsigned max, used;

	if (t->phase != PHASE_OPEN || weft_tunnel_finished(t))
		return 0;
	max = weft_h2_peer_max_streams(t->h2);
	max = max < WEFT_TUNNEL_STREAMS ? max : WEFT_TUNNEL_STREAMS;
	used = weft_h2_streams(t->h2);
	return used < max ? max - used : 0;
}

void weft_tunnel_retire(struct weft_tunnel *t)
{
	t->retired = true;
	if (t->closing || t->phase != PHASE_OPEN)
		return;
	if (t->server && t->drain_step == 0) {
		t->drain_step = 1;
		t->drain_ns = weft_now_ns() + DRAIN_STEP_MS * MS;
		weft_h2_shutdown_notice(t->h2);
		arm(t, DRAIN_STEP_MS);
	}
	weft_tunnel_dirty(t);
}

void weft_tunnel_close(struct weft_tunnel *t, enum weft_reason r, const char *detail)
{
	fail(t, r, detail);
}

void weft_tunnel_kill(struct weft_tunnel *t, enum weft_reason r, const char *detail)
{
	fail(t, r, detail);
	finish(t);
}

/* ---- for link.c */

struct weft_h2_stream *weft_tunnel_open(struct weft_tunnel *t, const struct weft_h2_header *v,
					size_t n, struct weft_link *k)
{
	struct weft_h2_stream *s =
		weft_tunnel_room(t) ? weft_h2_request(t->h2, v, n, true, k) : NULL;

	if (s)
		weft_tunnel_attach(t, k);
	return s;
}

void weft_tunnel_attach(struct weft_tunnel *t, struct weft_link *k)
{
	k->t = t;
	TAILQ_INSERT_TAIL(&t->links, k, on);
	t->n_links++;
	weft_tunnel_dirty(t);
}

void weft_tunnel_detach(struct weft_tunnel *t, struct weft_link *k)
{
	if (k->queued)
		TAILQ_REMOVE(&t->todo, k, todo);
	k->queued = false;
	k->t = NULL;
	TAILQ_REMOVE(&t->links, k, on);
	if (--t->n_links == 0)
		t->idle_ns = weft_now_ns();
	if (!t->broken)
		weft_tunnel_dirty(t);
}

void weft_tunnel_todo(struct weft_tunnel *t, struct weft_link *k)
{
	if (k->queued)
		return;
	k->queued = true;
	TAILQ_INSERT_TAIL(&t->todo, k, todo);
}

bool weft_tunnel_take_budget(struct weft_tunnel *t, uint32_t bytes)
{
	if (bytes > t->budget)
		return false;
	t->budget -= bytes;
	return true;
}

void weft_tunnel_give_budget(struct weft_tunnel *t, uint32_t bytes)
{
	t->budget += bytes;
}

enum weft_reason weft_tunnel_reason(const struct weft_tunnel *t, const char **ret_detail)
{
	*ret_detail = t->detail;
	return t->reason;
}
