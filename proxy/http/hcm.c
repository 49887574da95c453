/* The HTTP connection manager: a network filter that ends the chain. A connection here owns its
 * session and its streams. */
#include "proxy/http/hcm.h"
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct weft_scope_item items[] = {
#define STAT(name, kind, help) {#name, kind, help},
#include "proxy/http/http_stats.def"
#undef STAT
};
const struct weft_scope_class weft_http_scope_class = {
	.prefix = "http",
	.tag = "envoy_http_conn_manager_prefix",
	.v = items,
	.n = WEFT_HTTP_STATS,
};

/* ---- what a worker keeps */

static void worker_done(struct weft_worker *w, void *part)
{
	struct hcm_worker *mine = part;

	while (mine->n_spare)
		weft_arena_free(mine->spare[--mine->n_spare]);
}

static const struct weft_worker_part worker_part = {sizeof(struct hcm_worker), worker_done};

struct weft_arena *weft_hcm_arena_take(struct hcm_worker *w)
{
	return w->n_spare ? w->spare[--w->n_spare] : weft_arena_new(WEFT_STREAM_ARENA);
}

void weft_hcm_arena_give(struct hcm_worker *w, struct weft_arena *a)
{
	if (w->n_spare == WEFT_SPARE_ARENAS) {
		weft_arena_free(a);
		return;
	}
	weft_arena_reset(a);
	w->spare[w->n_spare++] = a;
}

const char *weft_hcm_date(struct hcm_worker *w, uint64_t now_ns)
{
	static const char day[] = "SunMonTueWedThuFriSat",
			  month[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	struct timespec ts;
	struct tm tm;
	uint64_t wall;

	if (now_ns < w->date_until_ns)
		return w->date;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	snprintf(w->date, sizeof(w->date), "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
		 day + 3 * tm.tm_wday, tm.tm_mday, month + 3 * tm.tm_mon,
		 (tm.tm_year + 1900) % 10000, tm.tm_hour, tm.tm_min, tm.tm_sec);
	now_ns = weft_now_ns();
	wall = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	w->wall_offset_ns = wall - now_ns;
	w->date_until_ns = now_ns + 1000000000u - (uint64_t)ts.tv_nsec;
	return w->date;
}

/* ---- the end of a connection */

static void count_end(struct hcm_conn *c, struct weft_io *io)
{
	struct weft_scope *s = c->conf->scope;
	const struct weft_io_info *info = weft_io_info(io);
	struct weft_io_stat st = weft_io_stat(io);
	bool active = !TAILQ_EMPTY(&c->streams);

	weft_scope_add(s, WEFT_HTTP_downstream_cx_active, -1);
	if (info->tls)
		weft_scope_add(s, WEFT_HTTP_downstream_cx_ssl_active, -1);
	if (c->counted)
		weft_scope_add(s,
			       c->version == WEFT_HTTP_2 ? WEFT_HTTP_downstream_cx_http2_active
							 : WEFT_HTTP_downstream_cx_http1_active,
			       -1);
	if (c->soft)
		weft_scope_add(s, WEFT_HTTP_downstream_cx_http1_soft_drain, -1);
	hcm_count(c, WEFT_HTTP_downstream_cx_destroy);
	hcm_count(c, c->remote_end ? WEFT_HTTP_downstream_cx_destroy_remote
				   : WEFT_HTTP_downstream_cx_destroy_local);
	if (active || c->had_active) {
		hcm_count(c, WEFT_HTTP_downstream_cx_destroy_active_rq);
		hcm_count(c, c->remote_end ? WEFT_HTTP_downstream_cx_destroy_remote_active_rq
					   : WEFT_HTTP_downstream_cx_destroy_local_active_rq);
	}
	weft_scope_add(s, WEFT_HTTP_downstream_cx_rx_bytes_total, (int64_t)st.rx);
	weft_scope_add(s, WEFT_HTTP_downstream_cx_tx_bytes_total, (int64_t)st.tx);
	weft_scope_record(s, WEFT_HTTP_downstream_cx_length_ms,
			  (weft_now_ns() - info->start_ns) / 1000000);
}

/* For the listener's access log. */
static void note_connection(struct hcm_conn *c, struct weft_io *io)
{
	struct weft_info *i = weft_chain_info(c->ch);
	struct weft_io_stat st = weft_io_stat(io);

	if (c->counted)
		i->protocol = c->version;
	i->rx_bytes = st.rx;
	i->tx_bytes = st.tx + evbuffer_get_length(weft_io_out(io)); /* will be written */
}

static void let_go(struct hcm_conn *c)
{
	struct weft_session *s = c->session;

	if (!s || c->ended)
		return;
	c->ended = true;
	weft_timer_clear(&c->idle);
	weft_timer_clear(&c->life);
	weft_timer_clear(&c->drain_timer);
	count_end(c, weft_session_io(s));
	note_connection(c, weft_session_io(s));
	weft_chain_forget_io(c->ch);
	weft_session_free(s); /* tells streams that are open: they find c->ended */
	c->session = NULL;
}

static void conn_close(struct hcm_conn *c, const char *details)
{
	if (c->ended)
		return;
	let_go(c);
	weft_chain_close(c->ch, 0, details);
}

void weft_hcm_stream_left(struct hcm_conn *c)
{
	if (!c->ended && c->drain == HCM_CLOSING && TAILQ_EMPTY(&c->streams))
		conn_close(c, NULL);
}

/* ---- timers */

#define OF(t, member) ((struct hcm_conn *)((char *)(t)-offsetof(struct hcm_conn, member)))

static void on_drain_over(struct weft_timer *t)
{
	struct hcm_conn *c = OF(t, drain_timer);

	c->drain = HCM_CLOSING;
	if (TAILQ_EMPTY(&c->streams))
		conn_close(c, NULL);
}

void weft_hcm_drain_begin(struct hcm_conn *c)
{
	uint64_t ms = c->conf->ms.drain ?: 1;

	if (c->drain != HCM_OPEN || c->ended)
		return;
	c->drain = HCM_DRAINING;
	weft_timer_set(c->w->timers, &c->drain_timer, ms, weft_now_ns(), on_drain_over);
	weft_session_drain(c->session, (unsigned)ms);
}

static void on_idle_late(struct weft_timer *t)
{
	struct hcm_conn *c = OF(t, idle);

	hcm_count(c, WEFT_HTTP_downstream_cx_idle_timeout);
	if (!c->counted) {
		conn_close(c, "idle_timeout");
		return;
	}
	weft_hcm_drain_begin(c);
}

static void on_life_over(struct weft_timer *t)
{
	struct hcm_conn *c = OF(t, life);

	hcm_count(c, WEFT_HTTP_downstream_cx_max_duration_reached);
	weft_info_flag(weft_chain_info(c->ch), WEFT_FLAG_DT);
	if (!c->counted) {
		conn_close(c, "max_connection_duration");
		return;
	}
	if (c->conf->safe_max_duration && c->version != WEFT_HTTP_2) {
		/* not before the next answer says so */
		c->soft = true;
		weft_scope_add(c->conf->scope, WEFT_HTTP_downstream_cx_http1_soft_drain, 1);
		return;
	}
	weft_hcm_drain_begin(c);
}

/* ---- what the session tells */

static void look_version(struct hcm_conn *c)
{
	bool h2;

	if (c->counted)
		return;
	c->counted = true;
	c->version = (uint8_t)weft_session_version(c->session);
	h2 = c->version == WEFT_HTTP_2;
	hcm_count(c,
		  h2 ? WEFT_HTTP_downstream_cx_http2_total : WEFT_HTTP_downstream_cx_http1_total);
	weft_scope_add(c->conf->scope,
		       h2 ? WEFT_HTTP_downstream_cx_http2_active
			  : WEFT_HTTP_downstream_cx_http1_active,
		       1);
}

static const struct weft_exchange_ops *on_begin(struct weft_session *session,
						struct weft_exchange *x, void **ret_user,
						struct weft_arena **ret_arena)
{
	struct hcm_conn *c = weft_session_owner(session);
	struct weft_stream *s;

	look_version(c);
	s = weft_stream_new(c, x);
	*ret_user = s;
	*ret_arena = s->arena;
	return &weft_stream_ops;
}

/* HTTP/2: a message that the session refused: the log and the counters are told. Its stream may
 * have begun, without a head. */
static void on_bad(struct weft_session *session, int status, const char *detail)
{
	struct hcm_conn *c = weft_session_owner(session);
	struct weft_stream *s;

	look_version(c);
	TAILQ_FOREACH (s, &c->streams, link)
		if (!s->head[WEFT_REQUEST])
			break;
	if (!s)
		s = weft_stream_new(c, NULL);
	s->depth++;
	s->x = NULL;
	s->info.status = status;
	s->info.details = detail && *detail ? weft_arena_strdup(s->arena, detail) : NULL;
	if (status == 408) {
		hcm_count(c, WEFT_HTTP_downstream_rq_header_timeout);
	} else {
		hcm_count(c, WEFT_HTTP_downstream_cx_protocol_error);
		weft_info_flag(&s->info, WEFT_FLAG_DPE);
	}
	hcm_count(c, WEFT_HTTP_downstream_rq_total);
	hcm_count(c, c->version == WEFT_HTTP_2 ? WEFT_HTTP_downstream_rq_http2_total
					       : WEFT_HTTP_downstream_rq_http1_total);
	weft_scope_add(c->conf->scope, WEFT_HTTP_downstream_rq_active, 1);
	weft_stream_complete(s);
	weft_stream_leave(s);
}

static void late_head(struct weft_stream *s, struct hcm_conn *c, const char **detail,
		      const char **body)
{
	switch (c->conf->late) {
	case HCM_LATE_REQUEST:
		hcm_count(c, WEFT_HTTP_downstream_rq_timeout);
		*detail = "request_overall_timeout";
		*body = "request timeout";
		return;
	case HCM_LATE_IDLE:
		hcm_count(c, WEFT_HTTP_downstream_rq_idle_timeout);
		weft_info_flag(&s->info, WEFT_FLAG_SI);
		*detail = "stream_idle_timeout";
		*body = "stream timeout";
		return;
	}
	hcm_count(c, WEFT_HTTP_downstream_rq_header_timeout);
}

/* An HTTP/1 request that is none: answered through the filters, logged with what is known. */
static void on_broken(struct weft_session *session, struct weft_exchange *x, struct weft_headers *h,
		      int status, const char *body)
{
	struct hcm_conn *c = weft_session_owner(session);
	struct weft_stream *s = weft_exchange_user(x);
	const char *detail = weft_exchange_detail(x);

	stream_enter(s);
	if (!s->head[WEFT_REQUEST]) {
		s->head[WEFT_REQUEST] = h;
		hcm_count(c, WEFT_HTTP_downstream_rq_total);
		hcm_count(c, WEFT_HTTP_downstream_rq_http1_total);
		weft_scope_add(c->conf->scope, WEFT_HTTP_downstream_rq_active, 1);
	}
	s->rx_end = true;
	weft_timer_clear(&s->request);
	if (status == 408) {
		late_head(s, c, &detail, &body);
	} else {
		hcm_count(c, WEFT_HTTP_downstream_cx_protocol_error);
		weft_info_flag(&s->info, WEFT_FLAG_DPE);
	}
	weft_stream_reply(s, status, detail, body, NULL, NULL);
	weft_stream_leave(s);
}

static void on_idle(struct weft_session *session, bool idle)
{
	struct hcm_conn *c = weft_session_owner(session);

	if (!idle)
		weft_timer_clear(&c->idle);
	else if (!c->ended)
		weft_timer_set(c->w->timers, &c->idle, c->conf->ms.idle, weft_now_ns(),
			       on_idle_late);
}

static void on_closed(struct weft_session *session, enum weft_io_end why, int err)
{
	struct hcm_conn *c = weft_session_owner(session);

	c->remote_end = c->drain == HCM_OPEN && why != WEFT_IO_TIMEOUT;
	if (c->drain == HCM_DRAINING)
		hcm_count(c, WEFT_HTTP_downstream_cx_drain_close);
	if (why == WEFT_IO_TLS)
		weft_info_flag(weft_chain_info(c->ch), WEFT_FLAG_DC);
	conn_close(c, NULL);
}

static const struct weft_session_ops session_ops = {
	.begin = on_begin,
	.bad = on_bad,
	.broken = on_broken,
	.idle = on_idle,
	.closed = on_closed,
};

/* ---- the network filter */

static enum hcm_codec codec_of(const struct weft_hcm_conf *conf, const struct weft_io *io)
{
	const char *alpn = weft_io_info(io)->alpn;

	if (conf->codec != HCM_AUTO || !alpn || !*alpn)
		return conf->codec;
	return !strcmp(alpn, "h2") ? HCM_H2 : HCM_H1;
}

static enum weft_flow take(struct weft_chain *ch, const void *vconf, void *state,
			   struct weft_io *io)
{
	const struct weft_hcm_conf *conf = vconf;
	struct hcm_conn *c = state;
	uint64_t now = weft_now_ns();

	c->ch = ch;
	c->conf = conf;
	c->worker = weft_chain_worker(ch);
	c->w = weft_worker_part(c->worker, &worker_part);
	if (!c->w->timers)
		c->w->timers = weft_timers_of(c->worker);
	TAILQ_INIT(&c->streams);
	hcm_count(c, WEFT_HTTP_downstream_cx_total);
	weft_scope_add(conf->scope, WEFT_HTTP_downstream_cx_active, 1);
	if (weft_io_info(io)->tls) {
		hcm_count(c, WEFT_HTTP_downstream_cx_ssl_total);
		weft_scope_add(conf->scope, WEFT_HTTP_downstream_cx_ssl_active, 1);
	}
	c->session = weft_session_new(io, &conf->session[codec_of(conf, io)], &session_ops, c);
	weft_timer_set(c->w->timers, &c->idle, conf->ms.idle, now, on_idle_late);
	weft_timer_set(c->w->timers, &c->life, conf->ms.max_connection, now, on_life_over);
	if (weft_chain_draining(ch))
		weft_hcm_drain_begin(c);
	return WEFT_DONE;
}

static void drain(struct weft_chain *ch, const void *conf, void *state)
{
	struct hcm_conn *c = state;

	if (c->session && c->drain == HCM_OPEN) {
		hcm_count(c, WEFT_HTTP_downstream_cx_drain_close);
		weft_hcm_drain_begin(c);
	}
}

/* Also where the chain was closed from outside. */
static void closed(struct weft_chain *ch, const void *conf, void *state)
{
	struct hcm_conn *c = state;

	let_go(c);
	weft_hcm_parts_free(c);
}

const struct weft_net_filter weft_net_filter_http_connection_manager = {
	.ext =
		{
			.name = "envoy.filters.network.http_connection_manager",
			.config =
				&envoy__extensions__filters__network__http_connection_manager__v3__http_connection_manager__descriptor,
			.state_size = sizeof(struct hcm_conn),
			.prepare = weft_hcm_prepare,
		},
	.take = take,
	.drain = drain,
	.closed = closed,
};

void weft_http_register(void)
{
	(void)weft_xff_self();
	weft_net_filter_register(&weft_net_filter_http_connection_manager);
}
