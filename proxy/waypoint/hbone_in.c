/* weft.filters.network.hbone: ends HBONE. One mTLS HTTP/2 connection carries many tunnels; each
 * becomes a connection of the listener that the configuration names, with the identity of the outer
 * peer. ambient-contract §1. */
#include "proxy/waypoint/hbone_in.h"

#include "proxy/codec/hbone.h"
#include "proxy/core/worker.h"
#include "proxy/net/identity.h"
#include "proxy/session/session.h"
#include "proxy/waypoint/listener.h"
#include "xds/proto/waypoint.pb-c.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
	MAX_STREAMS = 100,
	STREAM_WINDOW = 256 << 10,
	CONN_WINDOW = 16 << 20,
	PING_MS = 10000,
	PONG_MS = 20000
};

struct hbone_conf {
	const char *listener;
	char *const *trust_domains;
	size_t n_trust_domains;
	struct weft_session_conf session;
};
struct tunnel;
struct hbone { /* of one outer connection; in the filter's state */
	struct weft_chain *ch;
	const struct hbone_conf *conf;
	struct weft_session *s;
	TAILQ_HEAD(, tunnel) tunnels;
	struct weft_identity peer;
	bool identified;
};
struct tunnel { /* state of its weft_io, once there is one; before: alone */
	TAILQ_ENTRY(tunnel) link;
	struct hbone *h;	  /* NULL: the outer connection is gone */
	struct weft_exchange *x;  /* NULL: ended */
	struct weft_io *io;	  /* NULL: not accepted yet, or gone */
	struct weft_arena *arena; /* of the request's head */
	bool paused, tx_end, full;
};

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const Weft__Waypoint__Hbone *m = (const void *)msg;
	struct weft_path pl = {at, "listener", -1};
	struct hbone_conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	if (!m->listener || !*m->listener)
		return weft_cfg_fail(c, &pl,
				     "must name the listener that takes what the tunnels carry");
	conf->listener = weft_arena_strdup(c->arena, m->listener);
	conf->trust_domains = m->trust_domains;
	conf->n_trust_domains = m->n_trust_domains;
	conf->session.server = true;
	conf->session.version = WEFT_HTTP_2;
	conf->session.h2.allow_connect = true;
	conf->session.h2.max_streams = m->max_streams ? m->max_streams : MAX_STREAMS;
	conf->session.h2.stream_window = STREAM_WINDOW;
	conf->session.h2.conn_window = CONN_WINDOW;
	conf->session.h2.table_size = UINT32_MAX;
	conf->session.h2.stream_error_on_invalid = true;
	conf->session.h2.ping_interval_ms = PING_MS;
	conf->session.h2.ping_timeout_ms = PONG_MS;
	*ret = conf;
	return 0;
}

/* ---- the stream of bytes that is inside */
static void forget(struct tunnel *t)
{
	if (t->h)
		TAILQ_REMOVE(&t->h->tunnels, t, link);
	t->h = NULL;
	t->x = NULL;
}

static void kind_write(struct weft_io *io)
{
	struct tunnel *t = weft_io_state(io);

	if (!t->x) {
		evbuffer_drain(weft_io_out(io), evbuffer_get_length(weft_io_out(io)));
		return;
	}
	if (t->full)
		return;
	t->full = !weft_exchange_send_data(t->x, weft_io_out(io), false);
	weft_io_tell_drained(io);
}

static void kind_read(struct weft_io *io, bool on)
{
	struct tunnel *t = weft_io_state(io);

	if (!t->x || t->paused != on)
		return;
	t->paused = !on;
	if (on)
		weft_exchange_resume(t->x);
	else
		weft_exchange_pause(t->x);
}

static void kind_shutdown(struct weft_io *io)
{
	struct tunnel *t = weft_io_state(io);
	struct evbuffer *none;

	if (!t->x || t->tx_end)
		return;
	t->tx_end = true;
	none = evbuffer_new();
	weft_exchange_send_data(t->x, none, true);
	evbuffer_free(none);
}

static void kind_destroy(struct weft_io *io, bool reset)
{
	struct tunnel *t = weft_io_state(io);
	struct weft_exchange *x = t->x;

	forget(t);
	t->io = NULL;
	if (x)
		weft_exchange_reset(x, WEFT_RESET_LOCAL);
	if (t->arena)
		weft_arena_free(t->arena);
	t->arena = NULL;
}

static const struct weft_io_kind kind = {.want_write = kind_write,
					 .want_read = kind_read,
					 .shutdown = kind_shutdown,
					 .destroy = kind_destroy};

/* ---- the exchange that carries it */
static void x_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct tunnel *t = weft_exchange_user(x);

	evbuffer_add_buffer(weft_io_in(t->io), b);
	weft_io_tell_readable(t->io, end);
}

static void x_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	weft_io_tell_readable(((struct tunnel *)weft_exchange_user(x))->io, true);
}

static void x_writable(struct weft_exchange *x)
{
	struct tunnel *t = weft_exchange_user(x);

	t->full = false;
	if (evbuffer_get_length(weft_io_out(t->io)))
		kind_write(t->io);
	else
		weft_io_tell_drained(t->io);
}

static void x_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct tunnel *t = weft_exchange_user(x);

	forget(t);
	weft_io_tell_closed(t->io, WEFT_IO_RESET, ECONNRESET, "tunnel reset");
}

static void x_done(struct weft_exchange *x)
{
	struct tunnel *t = weft_exchange_user(x);

	forget(t); /* both directions ended in order; the io is freed by its owner */
}

static const struct weft_exchange_ops x_ops = {.data = x_data,
					       .trailers = x_trailers,
					       .writable = x_writable,
					       .reset = x_reset,
					       .done = x_done};

/* ---- a request for one */
static void answer(struct weft_exchange *x, struct weft_arena *a, const char *status, bool end)
{
	struct weft_headers h;

	weft_headers_init(&h, a);
	weft_headers_set_id(&h, WEFT_H_STATUS, status, 3);
	weft_exchange_send_headers(x, &h, end);
}

struct refused { /* lives until the exchange does */
	struct weft_arena *arena;
};

static void r_end(struct weft_exchange *x)
{
	struct refused *r = weft_exchange_user(x);

	weft_arena_free(r->arena);
}

static void r_reset(struct weft_exchange *x, enum weft_reset why)
{
	r_end(x);
}

static const struct weft_exchange_ops refused_ops = {.reset = r_reset, .done = r_end};

/* The source that the peer speaks for: "for=1.2.3.4" of `forwarded`, else the peer itself. */
static void source_of(const struct weft_headers *h, struct weft_sockaddr *ret)
{
	const char *v = weft_headers_value(h, WEFT_H_FORWARDED), *f = strstr(v, "for=");
	struct weft_sockaddr a = {0};
	char text[WEFT_SOCKADDR_TEXT];
	size_t n;

	if (!f)
		return;
	f += 4;
	if (*f == '"')
		f++;
	n = strcspn(f, "\";,");
	if (n >= sizeof(text))
		return;
	memcpy(text, f, n);
	text[n] = 0;
	if (!weft_sockaddr_parse(text, &a) || !weft_ip_parse(text, &a.ip))
		*ret = a;
}

static int destination(const struct weft_headers *h, struct weft_sockaddr *ret)
{
	if (strcmp(weft_headers_value(h, WEFT_H_METHOD), "CONNECT"))
		return -EINVAL;
	return weft_sockaddr_parse(weft_headers_value(h, WEFT_H_AUTHORITY), ret);
}

static void refuse(struct weft_exchange *x, struct weft_arena *a, const char *status)
{
	struct refused *r = weft_arena_alloc(a, sizeof(*r));

	r->arena = a;
	weft_exchange_set_user(x, &refused_ops, r);
	answer(x, a, status, true);
}

static void begun(struct weft_exchange *x, struct weft_headers *head, bool end)
{
	struct hbone *hb = weft_session_owner(weft_exchange_session(x));
	struct wlisteners *ws = wlisteners_of(weft_chain_worker(hb->ch));
	struct weft_arena *a = head->arena;
	const struct weft_io_info *outer = weft_io_info(weft_session_io(hb->s));
	struct weft_io_info *info;
	struct weft_sockaddr dst;
	struct tunnel *t;
	struct weft_io *io;
	void *state;

	if (destination(head, &dst)) {
		refuse(x, a, "400");
		return;
	}
	io = weft_io_make(weft_chain_worker(hb->ch)->base, &kind, sizeof(*t), &state, NULL, NULL);
	t = state;
	t->h = hb;
	t->io = io;
	t->arena = a;
	t->x = x;
	TAILQ_INSERT_TAIL(&hb->tunnels, t, link);
	info = weft_io_info_edit(io);
	info->local = dst;
	info->remote = info->direct_remote = outer->remote;
	source_of(head, &info->remote);
	info->sni = info->alpn = "";
	info->start_ns = info->ready_ns = weft_now_ns();
	/* the outer connection may end first */
	info->tls =
		weft_info_keep_tls(weft_io_arena(io), weft_io_info(weft_session_io(hb->s))->tls);
	if (!wlistener_takes(ws, hb->conf->listener, io)) {
		t->x = NULL;
		TAILQ_REMOVE(&hb->tunnels, t, link);
		t->h = NULL;
		t->arena = NULL;
		weft_io_free(io);
		refuse(x, a, "404");
		return;
	}
	weft_exchange_set_user(x, &x_ops, t);
	answer(x, a, "200", false);
	weft_io_tell_ready(io);
	if (end)
		weft_io_tell_readable(io, true);
	wlistener_accept_io(ws, hb->conf->listener, io);
}

static const struct weft_exchange_ops begun_ops = {
	.headers = begun, .reset = r_reset, .done = r_end};

/* ---- the outer connection */
static const struct weft_exchange_ops *begin(struct weft_session *s, struct weft_exchange *x,
					     void **ret_user, struct weft_arena **ret_arena)
{
	struct weft_arena *a = weft_arena_new(2048);
	struct refused *r = weft_arena_alloc(a, sizeof(*r));

	r->arena = a;
	*ret_user = r;
	*ret_arena = a;
	return &begun_ops;
}

static void closed(struct weft_session *s, enum weft_io_end why, int err)
{
	struct hbone *hb = weft_session_owner(s);

	weft_chain_close(hb->ch, 0, NULL);
}

static const struct weft_session_ops session_ops = {.begin = begin, .closed = closed};

static bool trusted(struct hbone *hb, const struct weft_tls_info *t)
{
	size_t i, k;

	for (i = 0; t && t->peer_uri && t->peer_uri[i]; i++) {
		if (weft_identity_parse(t->peer_uri[i], strlen(t->peer_uri[i]), &hb->peer))
			continue;
		hb->identified = true;
		if (!hb->conf->n_trust_domains)
			return true;
		for (k = 0; k < hb->conf->n_trust_domains; k++)
			if (!strcmp(hb->conf->trust_domains[k], hb->peer.trust_domain))
				return true;
		return false;
	}
	return false;
}

static enum weft_flow take(struct weft_chain *ch, const void *conf, void *state, struct weft_io *io)
{
	struct hbone *hb = state;

	hb->ch = ch;
	hb->conf = conf;
	TAILQ_INIT(&hb->tunnels);
	if (!trusted(hb, weft_io_info(io)->tls)) {
		weft_chain_close(ch, 0, "hbone_peer_without_identity");
		return WEFT_DONE;
	}
	weft_chain_forget_io(ch);
	hb->s = weft_session_new(io, &hb->conf->session, &session_ops, hb);
	return WEFT_DONE;
}

static void chain_closed(struct weft_chain *ch, const void *conf, void *state)
{
	struct hbone *hb = state;

	/* every tunnel that is open hears of it by its exchange's reset() */
	weft_session_free(hb->s);
	hb->s = NULL;
}

static void drain(struct weft_chain *ch, const void *conf, void *state)
{
	struct hbone *hb = state;

	if (hb->s)
		weft_session_drain(hb->s, 5000);
}

static const struct weft_net_filter hbone_filter = {
	.ext = {.name = "weft.filters.network.hbone",
		.config = &weft__waypoint__hbone__descriptor,
		.state_size = sizeof(struct hbone),
		.prepare = prepare},
	.take = take,
	.closed = chain_closed,
	.drain = drain,
};

void weft_hbone_register(void)
{
	weft_net_filter_register(&hbone_filter);
}
