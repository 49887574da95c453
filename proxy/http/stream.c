/* A request with its answer: from the session's first word of it to the last. */
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"
#include "proxy/l4/format_want.h"
#include "proxy/upstream/cluster.h"

#include <stdlib.h>
#include <string.h>

/* Not called while one of its callers is on the stack: see stream_enter. */
static void stream_free(struct weft_stream *s)
{
	struct hcm_conn *c = s->c;
	struct hcm_worker *w = c->w;

	weft_timer_clear(&s->idle);
	weft_timer_clear(&s->life);
	weft_timer_clear(&s->request);
	weft_timer_clear(&s->log_timer);
	TAILQ_REMOVE(&c->streams, s, link);
	weft_routes_hold_give(s->routes_hold);
	if (s->info.cluster)
		weft_cluster_unref(s->info.cluster);
	if (s->info.host)
		weft_host_unref(s->info.host);
	weft_hcm_arena_give(w, s->arena);
	weft_hcm_stream_left(c);
}

void weft_stream_leave(struct weft_stream *s)
{
	if (--s->depth || !s->over || !s->gone)
		return;
	stream_free(s);
}

struct weft_stream *weft_stream_new(struct hcm_conn *c, struct weft_exchange *x)
{
	struct weft_arena *a = weft_hcm_arena_take(c->w);
	struct weft_stream *s = weft_arena_alloc(a, sizeof(*s));
	const struct weft_info *ci = weft_chain_info(c->ch);
	struct weft_info *i = &s->info;

	s->c = c;
	s->x = x;
	s->arena = a;
	s->cur[0] = s->cur[1] = s->reached = -1;
	s->limit_by[0] = s->limit_by[1] = -1;
	s->now = weft_now_ns();
	weft_hcm_date(c->w, s->now);
	i->arena = a;
	i->down = weft_io_info(weft_session_io(c->session));
	i->start_ns = i->last_rx_ns = s->now;
	i->start_wall_ns = s->now + c->w->wall_offset_ns;
	i->protocol = weft_session_version(c->session);
	i->filter_chain_name = ci->filter_chain_name;
	i->listener_metadata = ci->listener_metadata;
	i->listener_name = ci->listener_name;
	i->requested_server_name = i->down->sni;
	i->remote = i->down->remote;
	TAILQ_INSERT_TAIL(&c->streams, s, link);
	return s;
}

/* ---- the end */

static void note_wire(struct weft_info *i, const struct weft_exchange *x)
{
	weft_exchange_bytes(x, &i->down_rx_wire, &i->down_tx_wire);
	weft_exchange_head_bytes(x, &i->rx_head_wire, &i->tx_head_wire);
}

void weft_stream_log(struct weft_stream *s, const char *type)
{
	struct weft_format_in in = {
		.info = &s->info,
		.req = s->head[WEFT_REQUEST],
		.resp = s->head[WEFT_RESPONSE],
		.trailers = s->trailers[WEFT_RESPONSE],
		.log_type = type,
	};
	uint64_t last_rx = s->info.last_rx_ns;

	if (!s->c->conf->logs)
		return;
	if (s->x)
		note_wire(&s->info, s->x);
	if (!s->rx_end) /* how long the request took is not known */
		s->info.last_rx_ns = 0;
	weft_access_logs_write(s->c->conf->logs, &in);
	s->info.last_rx_ns = last_rx;
}

static void run_log(struct weft_stream *s)
{
	for (int i = 0; i <= s->reached; i++)
		if (s->chain->v[i].f->log && !s->slot[i].off)
			s->chain->v[i].f->log(s, s->slot[i].conf, s->state + s->chain->v[i].state);
}

static void run_closed(struct weft_stream *s)
{
	int reached = s->reached;

	s->reached = -1;
	for (int i = 0; i <= reached; i++)
		if (s->chain->v[i].f->closed && !s->slot[i].off)
			s->chain->v[i].f->closed(s, s->slot[i].conf,
						 s->state + s->chain->v[i].state);
}

void weft_stream_reset_chain(struct weft_stream *s)
{
	run_closed(s);
	s->epoch[0]++;
	s->epoch[1]++;
	if (!s->chain)
		return;
	weft_stream_drop_holds(s, WEFT_REQUEST);
	weft_stream_drop_holds(s, WEFT_RESPONSE);
}

static void count_end(struct weft_stream *s)
{
	struct weft_scope *sc = s->c->conf->scope;
	int class = s->info.status / 100;

	weft_scope_add(sc, WEFT_HTTP_downstream_rq_active, -1);
	weft_scope_record(sc, WEFT_HTTP_downstream_rq_time,
			  (s->info.end_ns - s->info.start_ns) / 1000000);
	if (s->counted_upgrade)
		weft_scope_add(sc, WEFT_HTTP_downstream_cx_upgrades_active, -1);
	if (class < 1 || class > 5)
		return;
	weft_scope_add(sc, WEFT_HTTP_downstream_rq_completed, 1);
	weft_scope_add(sc, WEFT_HTTP_downstream_rq_1xx + (unsigned)class - 1, 1);
}

static void log_late(struct weft_stream *s)
{
	if (!s->log_due)
		return;
	s->log_due = false;
	weft_stream_log(s, "DownstreamEnd");
}

static void on_flush_late(struct weft_timer *t)
{
	struct weft_stream *s = (void *)((char *)t - offsetof(struct weft_stream, idle));

	stream_enter(s);
	log_late(s);
	if (s->x)
		weft_exchange_reset(s->x, WEFT_RESET_LOCAL);
	hcm_count(s->c, WEFT_HTTP_downstream_rq_tx_reset);
	s->x = NULL;
	s->gone = true;
	weft_stream_leave(s);
}

static uint64_t flush_ms(const struct weft_stream *s)
{
	return s->route && s->route->flush_timeout_ms >= 0 ? (uint64_t)s->route->flush_timeout_ms
							   : s->c->conf->ms.flush;
}

void weft_stream_complete(struct weft_stream *s)
{
	if (s->over)
		return;
	s->info.end_ns = s->info.last_tx_ns ?: weft_now_ns();
	run_log(s);
	count_end(s);
	/* HTTP/2 makes frames at the end of the turn: only then it is known how many bytes */
	s->log_due = s->x && s->info.protocol == WEFT_HTTP_2 && weft_format_wants_sent();
	if (!s->log_due)
		weft_stream_log(s, "DownstreamEnd");
	s->over = true;
	weft_stream_reset_chain(s);
	weft_timer_clear(&s->life);
	weft_timer_clear(&s->request);
	weft_timer_clear(&s->log_timer);
	weft_timer_clear(&s->idle);
	if (!s->x) {
		s->gone = true;
		return;
	}
	if (s->paused[WEFT_REQUEST])
		weft_exchange_resume(s->x);
	/* done() follows when the client took it all; what it still sends is thrown away */
	weft_timer_set(s->c->w->timers, &s->idle, flush_ms(s), s->info.end_ns, on_flush_late);
}

void weft_stream_cut(struct weft_stream *s, enum weft_reset why, const char *details)
{
	struct weft_exchange *x = s->x;

	if (s->over)
		return;
	stream_enter(s);
	if (details)
		s->info.details = weft_arena_strdup(s->arena, details);
	hcm_count(s->c, WEFT_HTTP_downstream_rq_tx_reset);
	if (x && s->c->conf->logs)
		note_wire(&s->info, x);
	s->x = NULL;
	weft_stream_complete(s);
	if (x)
		weft_exchange_reset(x, why == WEFT_RESET_NONE ? WEFT_RESET_LOCAL : why);
	weft_stream_leave(s);
}

/* ---- what the session tells */

static void on_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct weft_stream *s = weft_exchange_user(x);

	stream_enter(s);
	s->head[WEFT_REQUEST] = h;
	s->head_end = s->rx_end = end;
	s->info.rx_head_bytes = h->bytes;
	s->info.head_rx_ns = s->now;
	weft_stream_start(s, end);
	weft_stream_leave(s);
}

static void on_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct weft_stream *s = weft_exchange_user(x);

	s->info.rx_bytes += evbuffer_get_length(b);
	s->rx_end |= end;
	if (s->over)
		return;
	stream_enter(s);
	weft_stream_touch(s);
	s->info.last_rx_ns = s->now;
	if (end)
		weft_timer_clear(&s->request);
	if (!s->local)
		weft_stream_run_data(s, WEFT_REQUEST, 0, b, end);
	if (end && s->tx_end)
		weft_stream_complete(s);
	weft_stream_leave(s);
}

static void on_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct weft_stream *s = weft_exchange_user(x);

	s->rx_end = true;
	s->info.rx_head_bytes += h->bytes;
	if (s->over)
		return;
	stream_enter(s);
	weft_stream_touch(s);
	s->info.last_rx_ns = s->now;
	weft_timer_clear(&s->request);
	s->trailers[WEFT_REQUEST] = h;
	if (!s->local)
		weft_stream_run_trailers(s, WEFT_REQUEST, 0);
	if (s->tx_end)
		weft_stream_complete(s);
	weft_stream_leave(s);
}

static void on_writable(struct weft_exchange *x)
{
	struct weft_stream *s = weft_exchange_user(x);

	if (s->over || !s->full)
		return;
	stream_enter(s);
	weft_stream_touch(s);
	s->full = false;
	weft_stream_tell_full(s);
	weft_stream_leave(s);
}

static void on_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct weft_stream *s = weft_exchange_user(x);
	const char *detail = weft_exchange_detail(x);

	stream_enter(s);
	note_wire(&s->info, x);
	s->x = NULL;
	s->gone = true;
	log_late(s);
	if (!s->over) {
		if (why == WEFT_RESET_PROTOCOL) {
			weft_info_flag(&s->info, WEFT_FLAG_DPE);
			hcm_count(s->c, WEFT_HTTP_downstream_cx_protocol_error);
		} else if (why != WEFT_RESET_LOCAL) {
			weft_info_flag(&s->info, strcmp(detail, WEFT_DETAIL_REMOTE_RESET)
							 ? WEFT_FLAG_DC
							 : WEFT_FLAG_DR);
			s->c->had_active |= s->c->version != WEFT_HTTP_2;
		}
		hcm_count(s->c, why == WEFT_RESET_LOCAL ? WEFT_HTTP_downstream_rq_tx_reset
							: WEFT_HTTP_downstream_rq_rx_reset);
		/* over what was said when the answer began */
		s->info.details = *detail ? weft_arena_strdup(s->arena, detail)
					  : "downstream_remote_disconnect";
		weft_stream_complete(s);
	}
	weft_stream_leave(s);
}

static void on_done(struct weft_exchange *x)
{
	struct weft_stream *s = weft_exchange_user(x);

	stream_enter(s);
	note_wire(&s->info, x);
	s->x = NULL;
	s->gone = true;
	log_late(s);
	weft_stream_complete(s);
	weft_stream_leave(s);
}

const struct weft_exchange_ops weft_stream_ops = {
	.headers = on_headers,
	.data = on_data,
	.trailers = on_trailers,
	.writable = on_writable,
	.reset = on_reset,
	.done = on_done,
};
