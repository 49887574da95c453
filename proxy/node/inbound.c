/* HBONE from other nodes, accepted on 15008: TLS with the pod's certificate, then for each CONNECT
 * the checks of ambient-contract §1.2 in their order, the app, and only then the 200. */
#include "proxy/node/inbound.h"

#include "proxy/codec/hbone.h"
#include "proxy/core/arena.h"
#include "proxy/net/origdst.h"
#include "proxy/node/accept.h"
#include "proxy/node/dial.h"
#include "proxy/node/link.h"
#include "proxy/node/tunnel.h"
#include "proxy/policy/endpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct in_tunnel {
	TAILQ_ENTRY(in_tunnel) next;
	struct weft_wstate *ws;
	struct weft_npod *pod;
	struct weft_tunnel *t; /* NULL: waits for the pod's certificate */
	struct event *cert_wait;
	struct weft_sockaddr src, dst;
	int fd; /* while t is NULL */
	bool ready;
};

struct in_stream {
	struct weft_live live;
	struct weft_link link;
	struct weft_hbone_request *req; /* until checked */
	struct weft_wwait *wwait;
	struct weft_dial *dialling;
	int app;
};

TAILQ_HEAD(in_tunnels, in_tunnel);
struct weft_inbound {
	struct in_tunnels young, ready; /* young: in their handshakes, the oldest first */
	unsigned n_young;
};

static struct in_stream *of_live(struct weft_live *l)
{
	return (struct in_stream *)((char *)l - offsetof(struct in_stream, live));
}

static struct in_stream *of_link(struct weft_link *k)
{
	return (struct in_stream *)((char *)k - offsetof(struct in_stream, link));
}

/* ---- labels */

static struct weft_service *service_of(const struct weft_model *m, const struct weft_workload *w,
				       const char *host)
{
	for (size_t i = 0; i < w->n_services && host[0]; i++) {
		const char *key = w->services[i].service, *slash = strchr(key, '/');
		const struct weft_service *s;

		if (!slash || strcasecmp(slash + 1, host) != 0)
			continue;
		s = weft_model_service(m, key);
		return s ? weft_service_ref(s) : NULL;
	}
	return NULL;
}

void weft_inbound_label(struct weft_live *l, const struct weft_workload *w, const char *host)
{
	struct weft_flow *f = &l->flow;
	const struct weft_model *m = l->ws->model;
	const struct weft_workload *src = weft_model_workload_by_ip(m, w->network, &f->src.ip);

	if (!f->dst_w)
		f->dst_w = weft_workload_ref(w);
	if (!f->src_w && src)
		f->src_w = weft_workload_ref(src);
	if (!f->dst_s)
		f->dst_s = service_of(m, w, host);
	weft_flow_set(&f->dst_host, host);
	weft_flow_set(&f->dst_id, l->pod->identity);
}

static void label_baggage(struct weft_flow *f, const struct weft_baggage *b)
{
	weft_flow_set(&f->src_labels_ns, b->ns);
	weft_flow_set(&f->src_labels_workload, b->workload);
	weft_flow_set(&f->src_labels_app, b->service);
	weft_flow_set(&f->src_labels_version, b->version);
	weft_flow_set(&f->src_labels_cluster, b->cluster);
}

/* ---- streams */

static void in_end(struct in_stream *s, enum weft_reason r, const char *detail)
{
	struct weft_wstate *ws = s->live.ws;
	enum weft_sock_kind kind = weft_dial_kind(true, &s->live.flow.hbone);
	/* both ends were heard: the app's socket can be used again */
	bool whole = r == WEFT_REASON_OK && s->link.app_eof && s->link.shut;

	weft_wwait_free(s->wwait);
	weft_dial_cancel(s->dialling);
	weft_link_done(&s->link, 8 /* CANCEL */);
	if (s->app >= 0 && whole)
		weft_stock_give(ws, s->live.pod, kind, s->app);
	else if (s->app >= 0 && r == WEFT_REASON_OK)
		close(s->app);
	else if (s->app >= 0)
		weft_stock_abort(ws, s->live.pod, kind, s->app);
	free(s->req);
	weft_live_end(&s->live, r, detail);
	free(s);
}

static void in_cut(struct weft_live *l, enum weft_reason r, const char *detail)
{
	in_end(of_live(l), r, detail);
}

/* Answers with a status, then the stream is the session's alone. */
static void refuse(struct in_stream *s, int status, enum weft_reason r, const char *detail)
{
	struct weft_tunnel *t = s->link.t;
	struct weft_h2_stream *h2s = s->link.s;

	s->link.s = NULL;
	if (h2s && t)
		weft_link_refuse(t, h2s, status, weft_reason_code(r));
	in_end(s, r, detail);
}

static void on_ended(struct weft_link *k, enum weft_reason r, const char *detail, bool retry)
{
	in_end(of_link(k), r, detail);
}

static const struct weft_link_ops link_ops = {.ended = on_ended};

static void on_dialled(void *arg, int fd, const char *why)
{
	struct in_stream *s = arg;
	char text[128];

	s->dialling = NULL;
	if (fd < 0) {
		snprintf(text, sizeof(text), "%s: %s", why, strerror(-fd));
		refuse(s, 503, weft_dial_reason(fd), text);
		return;
	}
	s->app = fd;
	if (weft_link_join(&s->link, fd) < 0) {
		in_end(s, WEFT_REASON_CLIENT_RESET, "before the answer");
		return;
	}
	weft_live_opened(&s->live);
}

/* Where it goes on this pod. 0 or the status to refuse with. */
static int target(struct in_stream *s, const struct weft_workload *w, struct weft_sockaddr *ret,
		  enum weft_reason *ret_r)
{
	const struct weft_hbone_request *q = s->req;

	ret->ip = s->live.flow.dst.ip;
	*ret_r = WEFT_REASON_BAD_REQUEST;
	if (!q->by_host && !weft_ip_eq(&q->addr.ip, &ret->ip))
		return 400;
	ret->port = q->by_host ? weft_route_inbound_port(s->live.ws->model, w, q->host, q->port)
			       : q->addr.port;
	*ret_r = WEFT_REASON_NO_PORT;
	if (ret->port == 0)
		return 503;
	*ret_r = WEFT_REASON_ILLEGAL_PORT;
	return weft_port_illegal(ret->port) ? 503 : 0;
}

static void check(struct in_stream *s, const struct weft_workload *w)
{
	struct weft_flow *f = &s->live.flow;
	struct weft_dial_conf conf = {.ws = s->live.ws,
				      .pod = s->live.pod,
				      .to = &f->hbone,
				      .from = &f->src.ip,
				      .done = on_dialled,
				      .arg = s};
	enum weft_reason r;
	int status;

	weft_inbound_label(&s->live, w, s->req->by_host ? s->req->host : s->req->forwarded_host);
	status = target(s, w, &f->hbone, &r);
	free(s->req);
	s->req = NULL;
	if (status) {
		refuse(s, status, r, "");
		return;
	}
	r = weft_live_check(&s->live, w, &f->hbone);
	if (r != WEFT_REASON_OK)
		refuse(s, 401, r, "");
	else
		s->dialling = weft_dial_start(&conf);
}

static void on_workload(void *arg, const struct weft_workload *w)
{
	struct in_stream *s = arg;

	weft_wwait_free(s->wwait);
	s->wwait = NULL;
	if (w)
		check(s, w);
	else
		refuse(s, 503, WEFT_REASON_NO_WORKLOAD, "");
}

static void on_request(struct weft_tunnel *t, struct weft_h2_stream *h2s,
		       const struct weft_h2_headers *h, bool end)
{
	struct in_tunnel *n = weft_tunnel_owner(t);
	struct in_stream *s = weft_xcalloc(1, sizeof(*s));
	struct weft_flow *f = &s->live.flow;
	const struct weft_workload *w;
	bool room;

	s->app = -1;
	s->live.cut = in_cut;
	s->req = weft_xcalloc(1, sizeof(*s->req));
	room = weft_live_begin(&s->live, n->ws, n->pod, true);
	f->mtls = true;
	f->src = n->src;
	f->dst = n->dst;
	weft_flow_set(&f->src_id, weft_tunnel_peer(t));
	s->link.ops = &link_ops;
	s->link.flow = f;
	weft_link_accept(&s->link, n->ws, t, h2s);
	s->link.got_end = end;
	if (weft_hbone_parse(h, s->req) < 0) {
		refuse(s, 400, WEFT_REASON_BAD_REQUEST, "");
		return;
	}
	weft_flow_set(&f->trace_id, s->req->trace_id);
	label_baggage(f, &s->req->baggage);
	if (!s->req->by_host)
		f->hbone = s->req->addr;
	if (!room) {
		refuse(s, 503, WEFT_REASON_LIMIT, "connections");
		return;
	}
	w = weft_conns_workload(n->ws, n->pod);
	if (w)
		check(s, w);
	else
		s->wwait = weft_wwait_new(n->ws, n->pod, on_workload, s);
}

/* ---- tunnels */

/* A connection that ended before it had a stream: told in log and metrics as one of its own. */
static void tell_failure(struct in_tunnel *n, enum weft_reason r, const char *detail)
{
	struct weft_flow *f = weft_xcalloc(1, sizeof(*f));
	const struct weft_workload *w = weft_conns_workload(n->ws, n->pod);

	weft_flow_init(f, n->ws, true);
	f->src = n->src;
	f->dst = n->dst;
	f->dst_w = w ? weft_workload_ref(w) : NULL;
	weft_flow_close(f, r, detail);
	free(f);
}

static void in_tunnel_free(struct in_tunnel *n)
{
	struct weft_inbound *in = n->ws->inbound;

	if (!n->ready)
		in->n_young--;
	TAILQ_REMOVE(n->ready ? &in->ready : &in->young, n, next);
	if (n->cert_wait)
		event_free(n->cert_wait);
	if (n->fd >= 0)
		weft_sock_abort(n->fd);
	weft_npod_unref(n->pod);
	free(n);
}

static void on_ready(struct weft_tunnel *t)
{
	struct in_tunnel *n = weft_tunnel_owner(t);
	struct weft_inbound *in = n->ws->inbound;

	n->ready = true;
	in->n_young--;
	TAILQ_REMOVE(&in->young, n, next);
	TAILQ_INSERT_TAIL(&in->ready, n, next);
	if (n->ws->draining)
		weft_tunnel_retire(t);
}

static void on_closed(struct weft_tunnel *t, enum weft_reason r, const char *detail)
{
	struct in_tunnel *n = weft_tunnel_owner(t);

	if (!n->ready)
		tell_failure(n, r == WEFT_REASON_OK ? WEFT_REASON_H2_FAILED : r, detail);
	in_tunnel_free(n);
}

static const struct weft_tunnel_ops tunnel_ops = {
	.ready = on_ready,
	.request = on_request,
	.closed = on_closed,
};

static bool start_tls(struct in_tunnel *n)
{
	struct weft_secret *s = weft_secret_get(n->ws, n->pod->identity);
	struct weft_tunnel_conf conf = {.ws = n->ws, .fd = n->fd, .ops = &tunnel_ops, .owner = n};

	if (!s)
		return false;
	conf.ctx = s->server;
	conf.want.server = true;
	conf.want.trust_domain = s->trust_domain;
	n->fd = -1;
	n->t = weft_tunnel_new(&conf);
	weft_secret_unref(s);
	if (n->cert_wait)
		event_free(n->cert_wait);
	n->cert_wait = NULL;
	if (!n->t) {
		tell_failure(n, WEFT_REASON_INTERNAL, "TLS session");
		in_tunnel_free(n);
	}
	return true;
}

static void drop(struct in_tunnel *n, enum weft_reason r, const char *detail)
{
	if (n->t) {
		weft_tunnel_kill(n->t, r, detail);
		return;
	}
	tell_failure(n, r, detail);
	in_tunnel_free(n);
}

static void on_no_cert(evutil_socket_t fd, short what, void *arg)
{
	struct in_tunnel *n = arg;

	tell_failure(n, WEFT_REASON_NO_CERT, n->pod->identity);
	in_tunnel_free(n);
}

void weft_inbound_accept(struct weft_wstate *ws, struct weft_npod *pod, int fd,
			 const struct weft_sockaddr *peer)
{
	unsigned ms = ws->conf->workload_wait_ms;
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};
	struct in_tunnel *n = weft_xcalloc(1, sizeof(*n));

	n->ws = ws;
	n->pod = weft_npod_ref(pod);
	n->fd = fd;
	n->src = *peer;
	TAILQ_INSERT_TAIL(&ws->inbound->young, n, next);
	ws->inbound->n_young++;
	if (weft_sock_local(fd, &n->dst) < 0) {
		tell_failure(n, WEFT_REASON_INTERNAL, "no local address");
		in_tunnel_free(n);
		return;
	}
	/* The oldest has had the most time: whoever fills this without finishing makes room for
	 * those that finish. */
	if (ws->inbound->n_young > ws->conf->max_handshakes)
		drop(TAILQ_FIRST(&ws->inbound->young), WEFT_REASON_LIMIT, "handshakes");
	if (start_tls(n))
		return;
	n->cert_wait = evtimer_new(ws->w->base, on_no_cert, n);
	assert(n->cert_wait);
	evtimer_add(n->cert_wait, &tv);
}

/* ---- what the main thread asks */

void weft_inbound_cert(struct weft_wstate *ws, const char *identity)
{
	struct in_tunnel *n, *next;

	for (n = ws->inbound ? TAILQ_FIRST(&ws->inbound->young) : NULL; n; n = next) {
		next = TAILQ_NEXT(n, next);
		if (!n->t && strcmp(n->pod->identity, identity) == 0)
			start_tls(n);
	}
}

static void drop_all(struct in_tunnels *all, const struct weft_npod *pod, enum weft_reason r)
{
	struct in_tunnel *n, *next;

	for (n = TAILQ_FIRST(all); n; n = next) {
		next = TAILQ_NEXT(n, next);
		if (!pod || n->pod == pod)
			drop(n, r, "");
	}
}

void weft_inbound_drop(struct weft_wstate *ws, const struct weft_npod *pod, enum weft_reason r)
{
	if (!ws->inbound)
		return;
	drop_all(&ws->inbound->young, pod, r);
	drop_all(&ws->inbound->ready, pod, r);
}

void weft_inbound_drain(struct weft_wstate *ws)
{
	struct in_tunnel *n;

	if (!ws->inbound)
		return;
	TAILQ_FOREACH (n, &ws->inbound->young, next)
		if (n->t)
			weft_tunnel_retire(n->t);
	TAILQ_FOREACH (n, &ws->inbound->ready, next)
		weft_tunnel_retire(n->t);
}

int weft_inbound_init(struct weft_wstate *ws)
{
	weft_conns_get(ws);
	ws->inbound = weft_xcalloc(1, sizeof(*ws->inbound));
	TAILQ_INIT(&ws->inbound->young);
	TAILQ_INIT(&ws->inbound->ready);
	return 0;
}

void weft_inbound_done(struct weft_wstate *ws)
{
	if (!ws->inbound)
		return;
	weft_listeners_close(ws, NULL);
	weft_conns_cut(ws, NULL, WEFT_REASON_DRAIN);
	weft_inbound_drop(ws, NULL, WEFT_REASON_DRAIN);
	free(ws->inbound);
	ws->inbound = NULL;
	weft_conns_put(ws);
}
