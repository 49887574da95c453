/* Requests: subscriptions, versions held, acks; joined over a turn of the loop and, where the
 * configuration says so, held back to a rate. */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/stream.h"
#include <event2/buffer.h>
#include <event2/event.h>

enum { ENTRY_OVERHEAD = 16, NAMES_BYTES = 3 << 20 /* of one request */ };

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry entry;
typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest delta_request;
typedef Envoy__Service__Discovery__V3__DiscoveryRequest sotw_request;

void weft_xds_stream_send_soon(struct weft_xds_stream *s)
{
	if (s->s && !s->applying) /* else it is sent with the ack */
		event_active(s->ev_send, EV_TIMEOUT, 1);
}

/* more: packed fields that stand behind m's. */
static void put(struct weft_xds_stream *s, const ProtobufCMessage *m, const uint8_t *more,
		size_t n_more)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = weft_xcalloc(1, n + n_more + 1);

	protobuf_c_message_pack(m, p);
	if (n_more)
		memcpy(p + n, more, n_more);
	weft_grpc_out(s->out, p, n + n_more);
	free(p);
	s->node_sent = true;
	weft_h2_resume(s->s);
	weft_xds_link_push(s->link);
}

static Envoy__Config__Core__V3__Node *node_of(const struct weft_xds_stream *s)
{
	return s->conf.node_always || !s->node_sent ? (Envoy__Config__Core__V3__Node *)s->conf.node
						    : NULL;
}

void weft_xds_stream_ack(struct xtype *t, const char *nonce, const char *error)
{
	struct xack *a;

	if (!t->stream->s)
		return;
	a = weft_xcalloc(1, sizeof(*a));
	a->nonce = weft_xstrdup(nonce);
	a->error = error ? weft_xstrdup(error) : NULL;
	TAILQ_INSERT_TAIL(&t->acks, a, link);
}

static void ack_free(struct xtype *t, struct xack *a)
{
	if (!a)
		return;
	TAILQ_REMOVE(&t->acks, a, link);
	free(a->nonce);
	free(a->error);
	free(a);
}

void weft_xds_stream_renew(struct weft_xds_stream *s)
{
	struct xheld *h, *tmp;
	struct xtype *t;

	s->node_sent = false;
	TAILQ_FOREACH (t, &s->types, link) {
		while (!TAILQ_EMPTY(&t->acks))
			ack_free(t, TAILQ_FIRST(&t->acks));
		free(t->nonce);
		t->nonce = NULL;
		t->asked = t->wild_told = false;
		t->hold_ns = 0;
		t->syncing = true;
		t->due = true;
		HASH_ITER (hh, t->held, h, tmp) {
			h->told = false;
			if (h->wanted && !h->queued) {
				h->queued = true;
				TAILQ_INSERT_TAIL(&t->queue, h, link);
			}
		}
	}
}

/* ---- delta */

/* Names that are too many to be told are looked at when the first state is complete. */
static size_t list_versions(struct xtype *t, entry **ret)
{
	entry *v = weft_xcalloc(HASH_COUNT(t->held) + 1, sizeof(*v));
	struct xheld *h, *tmp;
	size_t n = 0, bytes = 0;

	HASH_ITER (hh, t->held, h, tmp) {
		size_t need;

		h->unsure = false;
		if (!h->version || (!h->wanted && !t->wild))
			continue;
		need = strlen(h->name) + strlen(h->version) + ENTRY_OVERHEAD;
		h->unsure = bytes + need > WEFT_XDS_VERSIONS_BYTES;
		if (h->unsure)
			continue;
		v[n] = (entry)
			ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INITIAL_RESOURCE_VERSIONS_ENTRY__INIT;
		v[n].key = h->name;
		v[n++].value = h->version;
		bytes += need;
	}
	*ret = v;
	return n;
}

struct names {
	char **add, **del;
	size_t n_add, n_del, bytes;
};

static char **grown(char **v, size_t n)
{
	return n & (n - 1) ? v : weft_xrealloc(v, (n ? 2 * n : 1) * sizeof(*v));
}

/* Of the queue as many names as one request takes. Those given up stay in the table until the
 * request is written: their names are needed. */
static void take_names(struct xtype *t, struct names *ns)
{
	struct xheld *h;

	while (ns->bytes <= NAMES_BYTES && (h = TAILQ_FIRST(&t->queue))) {
		TAILQ_REMOVE(&t->queue, h, link);
		h->queued = false;
		ns->bytes += strlen(h->name) + 4;
		if (h->wanted && !h->told) {
			ns->add = grown(ns->add, ns->n_add);
			ns->add[ns->n_add++] = h->name;
			h->told = true;
		} else if (!h->wanted && h->told) {
			ns->del = grown(ns->del, ns->n_del);
			ns->del[ns->n_del++] = h->name;
			h->told = false;
		} else if (!h->wanted && !t->wild) {
			weft_xds_held_clear(h);
		}
	}
}

static void wild_name(struct xtype *t, struct names *ns)
{
	static char star[] = "*";

	if (t->wild && !t->wild_told && (t->asked || ns->n_add || t->n_wanted)) {
		ns->add = grown(ns->add, ns->n_add);
		ns->add[ns->n_add++] = star;
	}
	if (!t->wild && t->wild_told) {
		ns->del = grown(ns->del, ns->n_del);
		ns->del[ns->n_del++] = star;
	}
	t->wild_told = t->wild;
}

/* No request is to name them. */
static void settle_names(struct xtype *t)
{
	struct xheld *h;

	while ((h = TAILQ_FIRST(&t->queue))) {
		TAILQ_REMOVE(&t->queue, h, link);
		h->queued = false;
		h->told = h->wanted;
		if (!h->wanted && !t->wild)
			weft_xds_held_clear(h);
	}
}

/* True: a request was written. */
static bool send_delta(struct xtype *t)
{
	delta_request m = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
	struct xack *a = TAILQ_FIRST(&t->acks);
	struct names ns = {0};
	entry *v = NULL, **pv = NULL;

	if (!t->asked && !t->wild && !t->n_wanted) { /* an empty one would ask for everything */
		settle_names(t);
		t->due = false;
	}
	if (!a && !t->due)
		return false;
	if (!t->asked) {
		m.n_initial_resource_versions = list_versions(t, &v);
		pv = weft_xcalloc(m.n_initial_resource_versions + 1, sizeof(*pv));
		for (size_t i = 0; i < m.n_initial_resource_versions; i++)
			pv[i] = &v[i];
		m.initial_resource_versions = pv;
	}
	take_names(t, &ns);
	wild_name(t, &ns);
	t->due = !TAILQ_EMPTY(&t->queue);
	m.node = node_of(t->stream);
	m.type_url = (char *)t->type->url;
	m.resource_names_subscribe = ns.add;
	m.n_resource_names_subscribe = ns.n_add;
	m.resource_names_unsubscribe = ns.del;
	m.n_resource_names_unsubscribe = ns.n_del;
	if (a)
		m.response_nonce = a->nonce;
	status.has_code = true;
	status.code = 3; /* INVALID_ARGUMENT */
	status.message = a ? a->error : NULL;
	if (status.message)
		m.error_detail = &status;
	if (a || !t->asked || ns.n_add || ns.n_del)
		put(t->stream, &m.base, NULL, 0);
	t->asked = true;
	for (size_t i = 0; i < ns.n_del; i++) {
		struct xheld *h = weft_xds_held_find(t, ns.del[i]);

		if (!t->wild)
			weft_xds_held_clear(h);
	}
	ack_free(t, a);
	free(ns.add);
	free(ns.del);
	free(v);
	free(pv);
	return true;
}

/* ---- state of the world */

static void pack_names(struct xtype *t)
{
	static char star[] = "*";
	sotw_request m = ENVOY__SERVICE__DISCOVERY__V3__DISCOVERY_REQUEST__INIT;
	struct xheld *h, *tmp;

	m.resource_names = weft_xcalloc(t->n_wanted + 2, sizeof(char *));
	if (t->wild && t->n_wanted)
		m.resource_names[m.n_resource_names++] = star;
	if (t->n_wanted)
		HASH_ITER (hh, t->held, h, tmp)
			if (h->wanted)
				m.resource_names[m.n_resource_names++] = h->name;
	t->n_names = protobuf_c_message_get_packed_size(&m.base);
	t->names = weft_xcalloc(1, t->n_names + 1);
	protobuf_c_message_pack(&m.base, t->names);
	free(m.resource_names);
}

static bool send_sotw(struct xtype *t)
{
	sotw_request m = ENVOY__SERVICE__DISCOVERY__V3__DISCOVERY_REQUEST__INIT;
	Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
	struct xack *a = TAILQ_FIRST(&t->acks);

	if (!t->asked && !t->wild && !t->n_wanted) {
		settle_names(t);
		t->due = false;
	}
	if (!a && !t->due)
		return false;
	settle_names(t);
	if (!t->names)
		pack_names(t);
	m.node = node_of(t->stream);
	m.type_url = (char *)t->type->url;
	m.version_info = t->version;
	m.response_nonce = a ? a->nonce : t->nonce;
	status.has_code = true;
	status.code = 3;
	status.message = a ? a->error : NULL;
	if (status.message)
		m.error_detail = &status;
	put(t->stream, &m.base, t->names, t->n_names);
	t->asked = true;
	t->wild_told = t->wild;
	t->due = false;
	ack_free(t, a);
	return true;
}

/* ---- all of a stream */

/* A request may go; else the timer is set for when it may. */
static bool token(struct weft_xds_stream *s)
{
	uint64_t now = weft_now_ns();
	double wait;
	struct timeval tv;

	if (s->conf.fill_rate <= 0)
		return true;
	s->tokens += (double)(now - s->tokens_ns) * s->conf.fill_rate / 1e9;
	s->tokens_ns = now;
	if (s->tokens > s->conf.max_tokens)
		s->tokens = s->conf.max_tokens;
	if (s->tokens >= 1)
		return true;
	wait = (1 - s->tokens) / s->conf.fill_rate;
	tv = (struct timeval){(time_t)wait, (suseconds_t)((wait - (double)(time_t)wait) * 1e6) + 1};
	s->rate_limited++;
	event_add(s->ev_send, &tv);
	return false;
}

static bool has_due(const struct xtype *t)
{
	return t->due || !TAILQ_EMPTY(&t->acks);
}

static void wake_in(struct weft_xds_stream *s, uint64_t ns)
{
	const struct timeval tv = {(time_t)(ns / 1000000000),
				   (suseconds_t)(ns % 1000000000 / 1000) + 1};

	event_add(s->ev_send, &tv);
}

void weft_xds_stream_send(struct weft_xds_stream *s)
{
	uint64_t now = weft_now_ns(), wait = UINT64_MAX;
	struct xtype *t;

	if (!s->s || s->applying)
		return;
	TAILQ_FOREACH (t, &s->types, link) {
		if (t->hold_ns > now) {
			wait = t->hold_ns - now < wait ? t->hold_ns - now : wait;
			continue;
		}
		while (has_due(t)) {
			if (!token(s))
				return;
			if (s->conf.delta ? send_delta(t) : send_sotw(t))
				s->tokens -= 1;
		}
	}
	if (wait != UINT64_MAX)
		wake_in(s, wait);
}
