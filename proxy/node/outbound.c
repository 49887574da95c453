/* Captured connections of this node's apps: decided, carried to the worker of their tunnel, joined
 * to a stream or to another TCP connection. Before the peer's 200 no byte of the app is read, so
 * every failure until then may be retried. */
#include "proxy/codec/hbone.h"
#include "proxy/core/arena.h"
#include "proxy/net/origdst.h"
#include "proxy/net/relay.h"
#include "proxy/node/accept.h"
#include "proxy/node/dial.h"
#include "proxy/node/link.h"
#include "proxy/node/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { ATTEMPTS = 3 };

/* Needed until bytes flow. */
struct setup {
	struct weft_sockaddr dst; /* original destination */
	struct weft_sockaddr dial;
	char authority[64];
	char *avoid; /* uid of an endpoint found unreachable */
	uint64_t rand;
	unsigned attempts;
	bool moved, service, via_waypoint;
	struct weft_wwait *wwait;
	struct weft_pool_wait *pwait;
	struct weft_dial *dialling;
	struct event *timer; /* for the answer to CONNECT */
};

struct out {
	struct weft_live live;
	struct weft_link link;
	struct weft_relay *relay;
	struct setup *set;
	int fd, up; /* the app's; the other side's, or -1 */
	bool v6_up;
};

struct weft_outbound {
	unsigned turn;
};

static void decide(struct out *o, const struct weft_workload *w);

static struct out *of_live(struct weft_live *l)
{
	return (struct out *)((char *)l - offsetof(struct out, live));
}

static struct out *of_link(struct weft_link *k)
{
	return (struct out *)((char *)k - offsetof(struct out, link));
}

static void setup_free(struct out *o)
{
	struct setup *s = o->set;

	o->set = NULL;
	if (!s)
		return;
	weft_wwait_free(s->wwait);
	weft_pool_cancel(s->pwait);
	weft_dial_cancel(s->dialling);
	if (s->timer)
		event_free(s->timer);
	free(s->avoid);
	free(s);
}

/* The app sees an orderly end only when there was one. */
static void out_end(struct out *o, enum weft_reason r, const char *detail)
{
	struct weft_wstate *ws = o->live.ws;
	enum weft_sock_kind kind = o->v6_up ? WEFT_SOCK_OUT6 : WEFT_SOCK_OUT4;
	bool ok = r == WEFT_REASON_OK;

	setup_free(o);
	weft_link_done(&o->link, 8 /* CANCEL */);
	weft_relay_free(o->relay);
	if (ok)
		close(o->fd);
	else
		weft_sock_abort(o->fd);
	if (o->up >= 0 && ok)
		weft_stock_give(ws, o->live.pod, kind, o->up);
	else if (o->up >= 0)
		weft_stock_abort(ws, o->live.pod, kind, o->up);
	weft_live_end(&o->live, r, detail);
	free(o);
}

static void out_cut(struct weft_live *l, enum weft_reason r, const char *detail)
{
	out_end(of_live(l), r, detail);
}

static bool may_retry(const struct out *o)
{
	return o->set && o->set->attempts < ATTEMPTS && !o->live.ws->draining &&
	       !atomic_load(&o->live.pod->removed);
}

static void decide_again(struct out *o)
{
	const struct weft_workload *w = weft_conns_workload(o->live.ws, o->live.pod);

	if (w)
		decide(o, w);
	else
		out_end(o, WEFT_REASON_NO_WORKLOAD, "");
}

/* An endpoint that cannot be reached: once more, elsewhere if the service has another. */
static bool retry_elsewhere(struct out *o)
{
	struct setup *s = o->set;

	if (!may_retry(o) || s->avoid || !s->service || !o->live.flow.dst_w)
		return false;
	s->avoid = weft_xstrdup(o->live.flow.dst_w->uid);
	s->rand = weft_rand64();
	decide_again(o);
	return true;
}

/* ---- HBONE */

static void on_answer(struct weft_link *k, int status, const char *why)
{
	struct out *o = of_link(k);
	char text[96];

	if (status == 200) {
		weft_live_opened(&o->live);
		setup_free(o);
		weft_link_join(k, o->fd);
		return;
	}
	snprintf(text, sizeof(text), "http status: %d%s%s", status, why[0] ? ", " : "", why);
	out_end(o,
		status == 401	? WEFT_REASON_PEER_DENY
		: status == 503 ? WEFT_REASON_PEER_UNAVAILABLE
				: WEFT_REASON_PEER_BAD_REQUEST,
		text);
}

static void on_ended(struct weft_link *k, enum weft_reason r, const char *detail, bool retry)
{
	struct out *o = of_link(k);

	if (retry && may_retry(o) && r != WEFT_REASON_POD_REMOVED && r != WEFT_REASON_DRAIN) {
		memset(&o->link, 0, sizeof(o->link));
		if (o->set->timer)
			event_free(o->set->timer);
		o->set->timer = NULL;
		decide_again(o);
		return;
	}
	out_end(o, r, detail);
}

static const struct weft_link_ops link_ops = {.answer = on_answer, .ended = on_ended};

static void on_answer_timeout(evutil_socket_t fd, short what, void *arg)
{
	out_end(arg, WEFT_REASON_TUNNEL_TIMEOUT, "");
}

static void baggage_of(const struct weft_workload *w, struct weft_baggage *b)
{
	memset(b, 0, sizeof(*b));
	if (!w)
		return;
	snprintf(b->cluster, sizeof(b->cluster), "%s", w->cluster);
	snprintf(b->ns, sizeof(b->ns), "%s", w->ns);
	snprintf(b->workload, sizeof(b->workload), "%s", w->workload_name);
	snprintf(b->workload_type, sizeof(b->workload_type), "%s", w->workload_type);
	snprintf(b->service, sizeof(b->service), "%s", w->canonical_name);
	snprintf(b->version, sizeof(b->version), "%s", w->canonical_revision);
	snprintf(b->region, sizeof(b->region), "%s", w->region);
	snprintf(b->zone, sizeof(b->zone), "%s", w->zone);
}

static void open_stream(struct out *o, struct weft_tunnel *t)
{
	struct weft_wstate *ws = o->live.ws;
	struct weft_flow *f = &o->live.flow;
	struct timeval tv = {ws->conf->answer_ms / 1000, (ws->conf->answer_ms % 1000) * 1000};
	uint64_t id[3] = {weft_rand64(), weft_rand64(), weft_rand64() | 1};
	struct weft_hbone_text text;
	struct weft_baggage b;
	char trace[56], trace_id[33];

	snprintf(trace_id, sizeof(trace_id), "%016llx%016llx", (unsigned long long)id[0],
		 (unsigned long long)id[1]);
	snprintf(trace, sizeof(trace), "00-%s-%016llx-00", trace_id, (unsigned long long)id[2]);
	weft_flow_set(&f->trace_id, trace_id);
	weft_flow_set(&f->src_id, o->live.pod->identity);
	weft_flow_set(&f->dst_id, weft_tunnel_peer(t));
	baggage_of(f->src_w, &b);
	if (weft_hbone_write(&text, o->set->authority, &b, &f->src,
			     f->dst_s ? f->dst_s->hostname : NULL, trace) < 0) {
		out_end(o, WEFT_REASON_INTERNAL, "CONNECT headers");
		return;
	}
	o->link.ops = &link_ops;
	o->link.flow = f;
	if (weft_link_open(&o->link, ws, t, text.v, text.n) < 0) {
		out_end(o, WEFT_REASON_H2_FAILED, "no stream");
		return;
	}
	o->set->timer = evtimer_new(ws->w->base, on_answer_timeout, o);
	assert(o->set->timer);
	evtimer_add(o->set->timer, &tv);
}

static void on_tunnel(void *arg, struct weft_tunnel *t, enum weft_reason r, const char *detail,
		      bool unreachable)
{
	struct out *o = arg;

	o->set->pwait = NULL;
	if (t) {
		open_stream(o, t);
		return;
	}
	if (unreachable && retry_elsewhere(o))
		return;
	if (unreachable && o->set->via_waypoint)
		r = WEFT_REASON_WAYPOINT_DOWN;
	out_end(o, r, detail);
}

static void start_hbone(struct out *o, const struct weft_route *r)
{
	struct weft_pool_ask ask = {
		.ws = o->live.ws, .pod = o->live.pod, .route = r, .got = on_tunnel, .arg = o};
	struct weft_tunnel *t;

	snprintf(o->set->authority, sizeof(o->set->authority), "%s", r->authority);
	o->live.flow.mtls = true;
	o->live.flow.dst = r->dial;
	if (weft_sockaddr_parse(r->authority, &o->live.flow.hbone) < 0)
		o->live.flow.hbone = o->set->dst;
	t = weft_pool_tunnel(&ask, &o->set->pwait);
	if (t)
		open_stream(o, t);
	else if (!o->set->pwait)
		out_end(o, WEFT_REASON_LIMIT, "too many accepted identities");
}

/* ---- plain TCP */

static void on_relay_end(void *owner, enum weft_relay_end why)
{
	struct out *o = owner;

	o->relay = NULL;
	out_end(o,
		why == WEFT_RELAY_OK	    ? WEFT_REASON_OK
		: why == WEFT_RELAY_A_RESET ? WEFT_REASON_CLIENT_RESET
					    : WEFT_REASON_SERVER_RESET,
		"");
}

static void on_dialled(void *arg, int fd, const char *why)
{
	struct out *o = arg;
	struct weft_relay_conf conf = {.base = o->live.ws->w->base,
				       .a = o->fd,
				       .b = fd,
				       .a_to_b = &o->live.flow.sent,
				       .b_to_a = &o->live.flow.received,
				       .ended = on_relay_end,
				       .owner = o};
	char text[128];

	o->set->dialling = NULL;
	if (fd >= 0) {
		o->up = fd;
		weft_live_opened(&o->live);
		setup_free(o);
		o->relay = weft_relay_new(&conf);
		return;
	}
	if (strcmp(why, "connect") == 0 && retry_elsewhere(o))
		return;
	snprintf(text, sizeof(text), "%s: %s", why, strerror(-fd));
	out_end(o, weft_dial_reason(fd), text);
}

static void start_tcp(struct out *o, const struct weft_route *r)
{
	struct weft_dial_conf conf = {
		.ws = o->live.ws, .pod = o->live.pod, .to = &r->dial, .done = on_dialled, .arg = o};

	o->live.flow.mtls = false;
	o->live.flow.dst = r->dial;
	o->live.flow.hbone = (struct weft_sockaddr){0};
	o->v6_up = r->dial.ip.family == 6;
	o->set->dialling = weft_dial_start(&conf);
}

/* ---- decision */

static void on_moved(struct weft_worker *w, void *arg)
{
	struct weft_wstate *ws = w->owner;
	struct out *o = arg;
	bool gone = !ws || !ws->conns;

	if (gone) { /* the worker has ended; so has the process, but for its memory */
		weft_sock_abort(o->fd);
		weft_flow_close(&o->live.flow, WEFT_REASON_DRAIN, "");
		weft_npod_unref(o->live.pod);
		setup_free(o);
		free(o);
		return;
	}
	weft_live_join(&o->live, ws);
	if (atomic_load(&o->live.pod->removed))
		out_end(o, WEFT_REASON_POD_REMOVED, "");
	else
		decide_again(o);
}

/* The tunnel's worker is chosen by what its key begins with, so that a pod and a peer meet on one
 * tunnel. Endpoints are chosen again there, by the same number: its model may be another by then.
 */
static bool move(struct out *o, const struct weft_route *r)
{
	struct weft_wstate *ws = o->live.ws, *to;
	char addr[WEFT_SOCKADDR_TEXT];
	uint64_t h;

	if (o->set->moved || !ws->all || ws->n_all < 2)
		return false;
	o->set->moved = true;
	if (r->kind == WEFT_ROUTE_HBONE) {
		weft_sockaddr_text(&r->dial, addr, sizeof(addr));
		h = XXH3_64bits(o->live.pod->uid, strlen(o->live.pod->uid));
		h = XXH3_64bits_withSeed(addr, strlen(addr), h);
	} else {
		h = ws->outbound->turn++;
	}
	to = ws->all[h % ws->n_all];
	if (to == ws)
		return false;
	weft_live_leave(&o->live);
	weft_worker_post(to->w, on_moved, o);
	return true;
}

static void keep_parts(struct weft_flow *f, const struct weft_workload *w,
		       const struct weft_route *r)
{
	struct weft_workload *sw = weft_workload_ref(w);
	struct weft_workload *dw = r->endpoint ? weft_workload_ref(r->endpoint) : NULL;
	struct weft_service *ds = r->service ? weft_service_ref(r->service) : NULL;

	weft_workload_unref(f->src_w);
	weft_workload_unref(f->dst_w);
	weft_service_unref(f->dst_s);
	f->src_w = sw;
	f->dst_w = dw;
	f->dst_s = ds;
}

static void decide(struct out *o, const struct weft_workload *w)
{
	struct setup *s = o->set;
	struct weft_route_query q = {.src = w,
				     .src_ip = o->live.flow.src.ip,
				     .dst = s->dst,
				     .rand = s->rand,
				     .avoid_uid = s->avoid};
	struct weft_route r = {0};

	weft_route_pick(o->live.ws->model, &q, &r);
	if (r.kind != WEFT_ROUTE_REFUSE && move(o, &r))
		return;
	keep_parts(&o->live.flow, w, &r);
	s->service = r.service != NULL;
	s->via_waypoint = r.via_waypoint;
	s->attempts++;
	switch (r.kind) {
	case WEFT_ROUTE_REFUSE:
		out_end(o, r.reason, "");
		break;
	case WEFT_ROUTE_HBONE:
		start_hbone(o, &r);
		break;
	case WEFT_ROUTE_TCP:
	case WEFT_ROUTE_PASSTHROUGH:
		start_tcp(o, &r);
		break;
	}
}

static void on_workload(void *arg, const struct weft_workload *w)
{
	struct out *o = arg;

	weft_wwait_free(o->set->wwait);
	o->set->wwait = NULL;
	if (w)
		decide(o, w);
	else
		out_end(o, WEFT_REASON_NO_WORKLOAD, "");
}

/* Capture goes over loopback: the client's address is its pod's, of the family that it dialled. */
static struct weft_ip client_ip(const struct weft_npod *pod, const struct weft_ip *peer,
				const struct weft_ip *dst)
{
	if (!weft_ip_is_loopback(peer))
		return *peer;
	for (size_t i = 0; i < pod->n_addrs; i++)
		if (pod->addrs[i].family == dst->family)
			return pod->addrs[i];
	return pod->n_addrs ? pod->addrs[0] : *peer;
}

/* A destination that would lead back here, round and round. Where connection tracking is on in the
 * pod, it answers for a connection that was not captured: an app that dialled 15001 itself. */
static bool leads_back(const struct weft_npod *pod, const struct weft_sockaddr *dst)
{
	bool own = weft_ip_is_loopback(&dst->ip);

	for (size_t i = 0; i < pod->n_addrs; i++)
		own |= weft_ip_eq(&pod->addrs[i], &dst->ip);
	return own && weft_port_illegal(dst->port);
}

void weft_outbound_accept(struct weft_wstate *ws, struct weft_npod *pod, int fd,
			  const struct weft_sockaddr *peer)
{
	struct out *o = weft_xcalloc(1, sizeof(*o));
	const struct weft_workload *w;
	bool room;

	o->fd = fd;
	o->up = -1;
	o->set = weft_xcalloc(1, sizeof(*o->set));
	o->set->rand = weft_rand64();
	o->live.cut = out_cut;
	room = weft_live_begin(&o->live, ws, pod, false);
	o->live.flow.src = *peer;
	if (weft_origdst(fd, &o->set->dst) < 0) {
		out_end(o, WEFT_REASON_NO_CAPTURE, "");
		return;
	}
	o->live.flow.dst = o->set->dst;
	o->live.flow.src.ip = client_ip(pod, &peer->ip, &o->set->dst.ip);
	if (!room) {
		out_end(o, WEFT_REASON_LIMIT, "connections");
		return;
	}
	if (leads_back(pod, &o->set->dst)) {
		out_end(o, WEFT_REASON_ILLEGAL_PORT, "");
		return;
	}
	w = weft_conns_workload(ws, pod);
	if (w)
		decide(o, w);
	else
		o->set->wwait = weft_wwait_new(ws, pod, on_workload, o);
}

int weft_outbound_init(struct weft_wstate *ws)
{
	weft_conns_get(ws);
	ws->outbound = weft_xcalloc(1, sizeof(*ws->outbound));
	return 0;
}

void weft_outbound_done(struct weft_wstate *ws)
{
	if (!ws->outbound)
		return;
	weft_listeners_close(ws, NULL);
	weft_conns_cut(ws, NULL, WEFT_REASON_DRAIN);
	free(ws->outbound);
	ws->outbound = NULL;
	weft_conns_put(ws);
}
