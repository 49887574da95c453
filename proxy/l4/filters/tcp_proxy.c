/* envoy.filters.network.tcp_proxy: a connection to a host of a cluster, and bytes both ways. */
#include "proxy/l4/filters/tcp_priv.h"

#include "proxy/core/worker.h"
#include "xds/proto/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb-c.h"
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <xxhash.h>

enum {
	FLUSH_MS = 60 * 1000, /* for what a slow client has not taken when its upstream ended */
	OTHER_HOST_TRIES = 5, /* picks, until one is not the host that just failed */
	BACKOFF_STEPS_MAX = 16,
};

#define TCP_OF(timer, field) ((struct tcp *)((char *)(timer)-offsetof(struct tcp, field)))

static void connect_now(struct tcp *t);

static void write_log(struct tcp *t, const char *type)
{
	struct weft_format_in in = {.info = t->info, .log_type = type};

	weft_access_logs_write(t->conf->logs, &in);
}

static void wire(struct tcp *t)
{
	struct weft_io_stat s;

	if (t->down && weft_chain_io(t->ch)) {
		s = weft_io_stat(t->down);
		t->info->down_rx_wire = s.rx;
		t->info->down_tx_wire = s.tx;
	}
	if (t->up) {
		s = weft_io_stat(t->up);
		t->info->up_rx_wire = s.rx;
		t->info->up_tx_wire = s.tx;
	} else if (t->x) {
		weft_exchange_bytes(t->x, &t->info->up_rx_wire, &t->info->up_tx_wire);
	}
}

void tcp_count(struct tcp *t, size_t rx, size_t tx)
{
	t->info->rx_bytes += rx;
	t->info->tx_bytes += tx;
	if (rx)
		weft_scope_add(t->conf->scope, TCP_downstream_cx_rx_bytes_total, (int64_t)rx);
	if (tx)
		weft_scope_add(t->conf->scope, TCP_downstream_cx_tx_bytes_total, (int64_t)tx);
}

/* The end of a socket becomes a reset. */
static void make_reset(const struct weft_io *io)
{
	const struct linger now = {.l_onoff = 1};
	int fd = weft_io_fd(io);

	/* of a socket that is gone already it fails, and nothing is left to do */
	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

/* What belongs to one attempt. */
static void attempt_end(struct tcp *t)
{
	weft_timer_clear(&t->answer);
	tcp_tunnel_end(t);
	if (t->up)
		weft_upstream_io_free(t->up);
	t->up = NULL;
}

void tcp_finish(struct tcp *t, enum tcp_end how, const char *details)
{
	unsigned flush = 0;

	if (t->over)
		return;
	t->over = true;
	weft_timer_clear(&t->idle);
	weft_timer_clear(&t->age);
	weft_timer_clear(&t->again);
	weft_timer_clear(&t->log);
	weft_timer_clear(&t->tick);
	if (t->spliced)
		tcp_relay_counts(t);
	wire(t);
	t->info->end_ns = weft_now_ns();
	if (details && !t->info->termination_details)
		t->info->termination_details = details;
	write_log(t, "TcpConnectionEnd");
	if (how == TCP_END_DOWN_RESET && t->up)
		make_reset(t->up);
	attempt_end(t);
	if (weft_chain_io(t->ch)) {
		bool waiting = t->open && evbuffer_get_length(weft_io_out(t->down));

		if (how == TCP_END_ORDER || (how == TCP_END_UP_RESET && waiting))
			flush = FLUSH_MS;
		else if (how == TCP_END_UP_RESET)
			make_reset(t->down);
	}
	weft_chain_close(t->ch, flush, details);
}

/* ---- timers */
static void on_idle(struct weft_timer *timer)
{
	struct tcp *t = TCP_OF(timer, idle);
	uint64_t now = weft_now_ns(), idle_ms;

	if (t->spliced) { /* the kernel's side keeps its own clock */
		weft_timer_set(t->timers, timer, t->conf->idle_ms, now, on_idle);
		return;
	}
	idle_ms = (now - t->last_ns) / 1000000;
	if (idle_ms < t->conf->idle_ms) {
		weft_timer_set(t->timers, timer, t->conf->idle_ms - idle_ms, now, on_idle);
		return;
	}
	weft_scope_add(t->conf->scope, TCP_idle_timeout, 1);
	tcp_finish(t, TCP_END_LOCAL, NULL);
}

static void on_age(struct weft_timer *timer)
{
	struct tcp *t = TCP_OF(timer, age);

	weft_scope_add(t->conf->scope, TCP_max_downstream_connection_duration, 1);
	weft_info_flag(t->info, WEFT_FLAG_DT);
	tcp_finish(t, TCP_END_LOCAL, NULL);
}

static void on_again(struct weft_timer *timer)
{
	connect_now(TCP_OF(timer, again));
}

static void on_log(struct weft_timer *timer)
{
	struct tcp *t = TCP_OF(timer, log);

	if (t->spliced)
		tcp_relay_counts(t);
	wire(t);
	write_log(t, "TcpPeriodic");
	weft_timer_set(t->timers, timer, t->conf->log_every_ms, weft_now_ns(), on_log);
}

/* ---- the upstream */
static const struct tcp_target *route(const struct tcp_conf *c)
{
	uint64_t r = c->n_targets > 1 ? weft_rand64() % c->weights : 0;
	size_t lo = 0, hi = c->n_targets - 1;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (r < c->targets[mid].upto)
			hi = mid;
		else
			lo = mid + 1;
	}
	return &c->targets[lo];
}

static bool not_the_same(void *owner, const struct weft_endpoint_entry *e)
{
	const struct tcp *t = owner;

	return e->host != t->info->host;
}

static struct weft_host *pick(struct tcp *t, const struct weft_endpoint_entry **ret_entry)
{
	struct weft_lb_ctx ctx = {.random = weft_rand64(),
				  .now_ns = weft_now_ns(),
				  .downstream_local = &t->info->down->local};
	const char *why = NULL;
	char ip[64];
	struct weft_host *h;

	if (t->conf->hash_source && t->info->remote.ip.family) {
		weft_ip_text(&t->info->remote.ip, ip, sizeof(ip));
		ctx.has_hash = true;
		ctx.hash = XXH64(ip, strlen(ip), 0);
	}
	if (t->info->host) {
		ctx.accept = not_the_same;
		ctx.owner = t;
		ctx.max_tries = OTHER_HOST_TRIES;
	}
	t->info->up_want_ns = weft_now_ns();
	t->info->up_ready_ns = 0;
	h = weft_wcluster_pick(t->wc, &ctx, ret_entry, &why);
	if (!h) {
		weft_info_flag(t->info,
			       why && !strcmp(why, "drop_overload") ? WEFT_FLAG_DO : WEFT_FLAG_UH);
		tcp_finish(t, TCP_END_LOCAL, why ? why : "no_healthy_upstream");
	}
	return h;
}

static bool have_cluster(struct tcp *t)
{
	struct weft_wcluster *wc = weft_wcluster_find(weft_chain_worker(t->ch), t->target->cluster);

	if (!wc) {
		weft_scope_add(t->conf->scope, TCP_downstream_cx_no_route, 1);
		weft_info_flag(t->info, WEFT_FLAG_NC);
		tcp_finish(t, TCP_END_LOCAL, "cluster_not_found");
		return false;
	}
	if (wc == t->wc)
		return true;
	weft_wcluster_ref(wc);
	weft_wcluster_unref(t->wc);
	t->wc = wc;
	if (t->info->cluster)
		weft_cluster_unref(t->info->cluster);
	t->info->cluster = wc->cluster;
	weft_cluster_ref(wc->cluster);
	return true;
}

static bool attempts_left(struct tcp *t)
{
	if (t->info->attempts < t->conf->max_attempts)
		return true;
	weft_info_flag(t->info, WEFT_FLAG_URX);
	if (t->wc)
		weft_scope_add(t->wc->cluster->scope,
			       WEFT_CLUSTER_upstream_cx_connect_attempts_exceeded, 1);
	tcp_finish(t, TCP_END_LOCAL, NULL);
	return false;
}

static void connect_now(struct tcp *t)
{
	const struct weft_endpoint_entry *e = NULL;
	struct weft_take how = {.source = &t->info->remote, .dest = &t->info->down->local};
	struct weft_host *h;
	int err;

	if (!have_cluster(t) || !attempts_left(t))
		return;
	h = pick(t, &e);
	if (!h)
		return;
	weft_host_unref(t->info->host);
	t->info->host = h;
	t->info->attempts++;
	t->dial_ns = weft_now_ns();
	how.metadata = e ? e->metadata : NULL;
	how.downstream_id = t->info->down->id;
	err = t->conf->tunnel ? tcp_tunnel_start(t, h, &how)
			      : weft_upstream_dial(t->wc, h, &how, &tcp_up_ops, t, &t->up);
	if (err == -EBUSY) {
		/* there was no attempt */
		weft_host_unref(h);
		t->info->host = NULL;
		t->info->attempts--;
		weft_info_flag(t->info, WEFT_FLAG_UO);
		tcp_finish(t, TCP_END_LOCAL, "upstream_overflow");
	} else if (err) {
		tcp_failed(t, false, strerror(-err));
	}
}

void tcp_failed(struct tcp *t, bool timeout, const char *why)
{
	uint64_t ms = t->conf->backoff_ms;
	unsigned n = t->info->attempts;

	weft_host_outcome(t->wc, t->info->host,
			  timeout ? WEFT_OUT_LOCAL_TIMEOUT : WEFT_OUT_LOCAL_CONNECT_FAILED, 0);
	weft_info_flag(t->info, WEFT_FLAG_UF);
	if (why && *why)
		t->info->up_failure = weft_arena_strdup(t->info->arena, why);
	attempt_end(t);
	if (ms && n < t->conf->max_attempts) {
		ms <<= n - 1 < BACKOFF_STEPS_MAX ? n - 1 : BACKOFF_STEPS_MAX;
		if (ms > t->conf->backoff_max_ms)
			ms = t->conf->backoff_max_ms;
		ms = 1 + weft_rand64() % ms;
	} else {
		ms = 0;
	}
	/* from the loop: many failing attempts must not nest */
	if (n >= t->conf->max_attempts)
		attempts_left(t);
	else
		weft_timer_set(t->timers, &t->again, ms ? ms : 1, weft_now_ns(), on_again);
}

static void upstream_info(struct tcp *t)
{
	const struct weft_io *io = t->up ? t->up : weft_session_io(t->lease->session);
	const struct weft_io_info *i = weft_io_info(io);

	weft_info_upstream(t->info, i);
	if (i->tls && t->conf->logs)
		t->info->up_tls = weft_info_keep_tls(t->info->arena, i->tls);
}

/* Out of the order too, so that the next one has its place. */
static void unflag(struct weft_info *i, enum weft_flag f)
{
	uint64_t was = i->flag_order;
	unsigned n = 0;

	i->flags &= ~(1ull << f);
	i->flag_order = 0;
	for (; was; was >>= 8)
		if ((was & 0xff) != (uint64_t)f + 1)
			i->flag_order |= (was & 0xff) << (8 * n++);
}

void tcp_established(struct tcp *t)
{
	uint64_t now = weft_now_ns();

	t->open = true;
	t->last_ns = now;
	weft_timer_clear(&t->answer);
	/* of attempts before this one */
	unflag(t->info, WEFT_FLAG_UF);
	t->info->up_failure = NULL;
	if (t->up) /* a lease told so itself */
		weft_host_outcome(t->wc, t->info->host, WEFT_OUT_CONNECTED, 0);
	upstream_info(t);
	if (t->conf->log_connected)
		write_log(t, "TcpUpstreamConnected");
	if (t->conf->log_every_ms)
		weft_timer_set(t->timers, &t->log, t->conf->log_every_ms, now, on_log);
	if (t->conf->idle_ms)
		weft_timer_set(t->timers, &t->idle, t->conf->idle_ms, now, on_idle);
	tcp_relay_start(t);
}

/* ---- the filter */
static enum weft_flow take(struct weft_chain *ch, const void *conf, void *state, struct weft_io *io)
{
	struct tcp *t = state;
	uint64_t ms;

	t->ch = ch;
	t->conf = conf;
	t->info = weft_chain_info(ch);
	t->timers = weft_timers_of(weft_chain_worker(ch));
	t->down = io;
	t->target = route(t->conf);
	weft_scope_add(t->conf->scope, TCP_downstream_cx_total, 1);
	/* its bytes wait in the kernel until somebody takes them */
	weft_io_pause(io);
	weft_io_set_ops(io, &tcp_down_ops, t);
	if (t->conf->max_ms) {
		ms = t->conf->max_ms;
		if (t->conf->jitter > 0)
			ms += (uint64_t)((double)ms * t->conf->jitter *
					 ((double)(weft_rand64() >> 11) / 9007199254740992.0));
		weft_timer_set(t->timers, &t->age, ms, weft_now_ns(), on_age);
	}
	connect_now(t);
	return WEFT_DONE;
}

static void closed(struct weft_chain *ch, const void *conf, void *state)
{
	struct tcp *t = state;

	if (!t->ch)
		return; /* never taken */
	tcp_finish(t, TCP_END_LOCAL, NULL);
	weft_wcluster_unref(t->wc);
}

static void refused(struct weft_chain *ch, const void *arg)
{
	const struct tcp_conf *conf = arg;
	struct weft_format_in in = {.info = weft_chain_info(ch), .log_type = "TcpConnectionEnd"};

	weft_access_logs_write(conf->logs, &in);
}

const struct weft_net_filter weft_net_filter_tcp_proxy = {
	.ext = {.name = "envoy.filters.network.tcp_proxy",
		.config =
			&envoy__extensions__filters__network__tcp_proxy__v3__tcp_proxy__descriptor,
		.state_size = sizeof(struct tcp),
		.prepare = tcp_conf_prepare},
	.take = take,
	.closed = closed,
	.refused = refused,
};
