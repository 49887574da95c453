/* The next response of a stream. Only the newest state is sent: a slow client skips what it missed.
 */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/server_priv.h"
#include <event2/buffer.h>
#include <stdio.h>

enum { ITEM_OVERHEAD = 64 };

struct batch {
	struct weft_xds_server *server;
	const struct weft_xds_type *type;
	struct xtable *table;
	struct xsub *sub;
	struct xres **up;
	char **gone; /* owned */
	size_t n_up, n_gone, bytes;
	bool silent; /* what is not there is not told */
	bool made;   /* there is a response, if only an empty one */
};

static bool fits(const struct batch *b, size_t n)
{
	return !b->bytes || b->bytes + n + ITEM_OVERHEAD <= WEFT_XDS_RESPONSE_BYTES;
}

static void *grown(void *v, size_t n, size_t size)
{
	return n & (n - 1) ? v : weft_xrealloc(v, (n ? 2 * n : 1) * size);
}

static void add_gone(struct batch *b, const char *name)
{
	b->gone = grown(b->gone, b->n_gone, sizeof(char *));
	b->gone[b->n_gone++] = weft_xstrdup(name);
	b->bytes += strlen(name) + ITEM_OVERHEAD;
}

/* Takes name out of what the client said it has; same: with this very version. */
static bool known_take(struct xsub *sub, const char *name, const char *version, bool *ret_same)
{
	struct xname *n;

	HASH_FIND(hh, sub->known, name, strlen(name), n);
	if (!n)
		return false;
	*ret_same = version && !strcmp(n->version, version);
	HASH_DEL(sub->known, n);
	free(n->version);
	free(n);
	return true;
}

static size_t size_of(const struct xres *r)
{
	size_t n = r->n + strlen(r->name) + sizeof(r->version) + ITEM_OVERHEAD;

	for (size_t i = 0; r->aliases && r->aliases[i]; i++)
		n += strlen(r->aliases[i]) + 4;
	return n;
}

/* force: even if the response grows beyond its size. */
static bool add_up(struct batch *b, struct xres *r, bool force)
{
	bool same = false;

	if (r->stamp == b->server->stamp)
		return true;
	if (known_take(b->sub, r->name, r->version, &same) && same)
		return true;
	if (!force && !fits(b, size_of(r)))
		return false;
	r->stamp = b->server->stamp;
	b->up = grown(b->up, b->n_up, sizeof(struct xres *));
	b->up[b->n_up++] = r;
	b->bytes += size_of(r);
	return true;
}

/* A name is told once, though it may be asked for, known from before and buried. */
static bool add_absent(struct batch *b, const char *name)
{
	struct xres *grave = weft_xds_table_any(b->table, name);
	bool same;

	if (grave && grave->stamp == b->server->stamp)
		return true;
	if (!fits(b, strlen(name)))
		return false;
	if (grave)
		grave->stamp = b->server->stamp;
	add_gone(b, name);
	known_take(b->sub, name, NULL, &same); /* last: name may be its */
	return true;
}

/* Names just asked for: each is answered, by what it names or as gone. */
static bool take_due(struct batch *b)
{
	struct xname *n;

	while ((n = TAILQ_FIRST(&b->sub->due))) {
		struct xres *r = weft_xds_table_find(b->table, n->name);
		struct xalias *a = weft_xds_table_alias(b->table, n->name);

		if (r && !add_up(b, r, false))
			return false;
		for (size_t i = 0; a && i < a->n; i++)
			if (!add_up(b, a->v[i], i > 0))
				return false;
		if (!r && !a && !b->silent && !add_absent(b, n->name))
			return false;
		n->due = false;
		TAILQ_REMOVE(&b->sub->due, n, list);
	}
	return true;
}

static struct xres *first_after(struct xtable *t, uint64_t seq)
{
	struct xres *r, *first = NULL;

	if (!seq)
		return TAILQ_FIRST(&t->all);
	TAILQ_FOREACH_REVERSE(r, &t->all, xres_list, all)
	{
		if (r->seq <= seq)
			break;
		first = r;
	}
	return first;
}

static bool take_changes(struct batch *b)
{
	struct xsub *sub = b->sub;

	for (struct xres *r = first_after(b->table, sub->sent_seq); r; r = TAILQ_NEXT(r, all)) {
		if (r->live && weft_xds_sub_has(sub, r) && !add_up(b, r, false))
			return false;
		sub->sent_seq = r->seq;
	}
	sub->sent_seq = b->table->seq;
	return true;
}

static struct xres *first_grave(struct xtable *t, uint64_t seq)
{
	struct xres *r, *first = NULL;

	TAILQ_FOREACH_REVERSE(r, &t->graves, xres_list, grave)
	{
		if (r->seq <= seq)
			break;
		first = r;
	}
	return first;
}

static bool take_gone(struct batch *b)
{
	struct xsub *sub = b->sub;

	for (struct xres *r = first_grave(b->table, sub->gone_seq); r; r = TAILQ_NEXT(r, grave)) {
		if (weft_xds_sub_has(sub, r) && !add_absent(b, r->name))
			return false;
		sub->gone_seq = r->seq;
	}
	sub->gone_seq = b->table->seq;
	return true;
}

static bool take_known_gone(struct batch *b, struct xname *n)
{
	struct xres *grave = weft_xds_table_any(b->table, n->name);
	bool same;

	if (!grave || grave->stamp != b->server->stamp)
		return add_absent(b, n->name); /* takes n out */
	known_take(b->sub, n->name, NULL, &same);
	return true;
}

/* What the client still has from before and we have not. */
static bool take_known(struct batch *b)
{
	struct xname *n, *tmp;
	bool same;

	HASH_ITER (hh, b->sub->known, n, tmp) {
		if (weft_xds_table_find(b->table, n->name))
			known_take(b->sub, n->name, NULL, &same);
		else if (!take_known_gone(b, n))
			return false;
	}
	return true;
}

static void fill_resource(Envoy__Service__Discovery__V3__Resource *r, Google__Protobuf__Any *any,
			  const struct xres *x, const struct weft_xds_type *t)
{
	*r = (Envoy__Service__Discovery__V3__Resource)ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
	*any = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
	any->type_url = (char *)t->url;
	any->has_value = true;
	any->value = (ProtobufCBinaryData){x->n, x->bytes};
	r->name = (char *)x->name;
	r->version = (char *)x->version;
	r->resource = any;
	r->aliases = x->aliases;
	while (x->aliases && x->aliases[r->n_aliases])
		r->n_aliases++;
}

static void write_message(struct evbuffer *out, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = weft_xcalloc(1, n ? n : 1);

	protobuf_c_message_pack(m, p);
	weft_grpc_out(out, p, n);
	free(p);
}

/* A "+" after the version says that more of the same state follows; other clients do not read it.
 */
static void write_response(struct batch *b, struct evbuffer *out, bool more)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryResponse m =
		ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Envoy__Service__Discovery__V3__Resource *v = weft_xcalloc(b->n_up + 1, sizeof(*v));
	Envoy__Service__Discovery__V3__Resource **pv = weft_xcalloc(b->n_up + 1, sizeof(*pv));
	Google__Protobuf__Any *any = weft_xcalloc(b->n_up + 1, sizeof(*any));
	Envoy__Config__Core__V3__ControlPlane plane = ENVOY__CONFIG__CORE__V3__CONTROL_PLANE__INIT;
	char version[32];

	for (size_t i = 0; i < b->n_up; i++) {
		fill_resource(&v[i], &any[i], b->up[i], b->type);
		pv[i] = &v[i];
	}
	snprintf(version, sizeof(version), "%llu%s", (unsigned long long)b->sub->sent_seq,
		 more ? "+" : "");
	snprintf(b->sub->nonce, sizeof(b->sub->nonce), "%016llx",
		 (unsigned long long)++b->server->nonce);
	plane.identifier = (char *)"weft";
	m.control_plane = &plane;
	m.system_version_info = version;
	m.type_url = (char *)b->type->url;
	m.nonce = b->sub->nonce;
	m.resources = pv;
	m.n_resources = b->n_up;
	m.removed_resources = b->gone;
	m.n_removed_resources = b->n_gone;
	write_message(out, &m.base);
	free(v);
	free(pv);
	free(any);
}

/* ---- state of the world */

/* Types without a stream of their own do not carry their names: these go in a Resource. */
static void fill_wrapped(Google__Protobuf__Any *any, const struct xres *x,
			 const struct weft_xds_type *t)
{
	Envoy__Service__Discovery__V3__Resource r;
	Google__Protobuf__Any inner;

	fill_resource(&r, &inner, x, t);
	*any = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
	any->type_url = (char *)"type.googleapis.com/envoy.service.discovery.v3.Resource";
	any->has_value = true;
	any->value.len = protobuf_c_message_get_packed_size(&r.base);
	any->value.data = weft_xcalloc(1, any->value.len + 1);
	protobuf_c_message_pack(&r.base, any->value.data);
}

static void write_sotw(struct batch *b, struct evbuffer *out)
{
	Envoy__Service__Discovery__V3__DiscoveryResponse m =
		ENVOY__SERVICE__DISCOVERY__V3__DISCOVERY_RESPONSE__INIT;
	Envoy__Config__Core__V3__ControlPlane plane = ENVOY__CONFIG__CORE__V3__CONTROL_PLANE__INIT;
	Google__Protobuf__Any *any = weft_xcalloc(b->n_up + 1, sizeof(*any));
	Google__Protobuf__Any **pv = weft_xcalloc(b->n_up + 1, sizeof(*pv));
	bool wrap = !b->type->service;
	char version[32];

	for (size_t i = 0; i < b->n_up; i++) {
		pv[i] = &any[i];
		if (wrap) {
			fill_wrapped(&any[i], b->up[i], b->type);
			continue;
		}
		any[i] = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
		any[i].type_url = (char *)b->type->url;
		any[i].has_value = true;
		any[i].value = (ProtobufCBinaryData){b->up[i]->n, b->up[i]->bytes};
	}
	snprintf(version, sizeof(version), "%016llx", (unsigned long long)b->table->hash);
	snprintf(b->sub->nonce, sizeof(b->sub->nonce), "%016llx",
		 (unsigned long long)++b->server->nonce);
	plane.identifier = (char *)"weft";
	m.control_plane = &plane;
	m.version_info = version;
	m.type_url = (char *)b->type->url;
	m.nonce = b->sub->nonce;
	m.resources = pv;
	m.n_resources = b->n_up;
	write_message(out, &m.base);
	for (size_t i = 0; wrap && i < b->n_up; i++)
		free(any[i].value.data);
	free(any);
	free(pv);
}

static bool any_visible(struct batch *b, bool hold)
{
	struct xres *r;

	for (r = first_after(b->table, b->sub->sent_seq); r; r = TAILQ_NEXT(r, all))
		if (r->live && weft_xds_sub_has(b->sub, r))
			return true;
	for (r = hold ? NULL : first_grave(b->table, b->sub->gone_seq); r; r = TAILQ_NEXT(r, grave))
		if (weft_xds_sub_has(b->sub, r))
			return true;
	return false;
}

static void drop_due(struct xsub *sub)
{
	struct xname *n;

	while ((n = TAILQ_FIRST(&sub->due))) {
		n->due = false;
		TAILQ_REMOVE(&sub->due, n, list);
	}
}

/* Everything that is asked for; while removals are held back, also what is gone. */
static void take_whole(struct batch *b, bool hold)
{
	struct xsub *sub = b->sub;
	bool changed = sub->first || !TAILQ_EMPTY(&sub->due) || any_visible(b, hold);
	struct xres *r;

	drop_due(sub);
	TAILQ_FOREACH (r, &b->table->all, all)
		if (changed && (r->live || (hold && r->seq > sub->gone_seq)) &&
		    weft_xds_sub_has(sub, r))
			add_up(b, r, true);
	b->made |= changed;
	sub->sent_seq = b->table->seq;
	if (!hold)
		sub->gone_seq = b->table->seq;
}

/* ---- a subscription's next response */

/* Something that may still refer to what is gone has not been told or not been acked. */
static bool holds(const struct xstream *st, int type)
{
	static const int after[] = {WEFT_XDS_INDEX_listener, WEFT_XDS_INDEX_route};

	if (type != WEFT_XDS_INDEX_cluster && type != WEFT_XDS_INDEX_endpoint)
		return false;
	for (size_t i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
		const struct xsub *sub = &st->subs[after[i]];
		uint64_t seq = st->scope->tables[after[i]].seq;

		if (sub->subscribed && (sub->waiting || sub->first || !TAILQ_EMPTY(&sub->due) ||
					sub->sent_seq != seq || sub->gone_seq != seq))
			return true;
	}
	return false;
}

static bool take_all(struct batch *b, bool delta, bool hold)
{
	bool more;

	if (!delta && b->type->whole) {
		take_whole(b, hold);
		return false;
	}
	more = !take_due(b) || !take_changes(b);
	if (delta)
		return more || (!hold && !take_gone(b)) || !take_known(b);
	b->sub->gone_seq = b->table->seq; /* it cannot be said */
	b->sub->first = false;
	return more;
}

static bool sub_build(struct xstream *st, int type)
{
	struct weft_xds_server *s = st->client->server;
	struct xsub *sub = &st->subs[type];
	struct batch b = {.server = s,
			  .type = weft_xds_types[type],
			  .table = &st->scope->tables[type],
			  .sub = sub,
			  .silent = !st->delta};
	uint64_t seq = b.table->seq;
	bool more, hold;

	if (!sub->subscribed || sub->waiting)
		return false;
	if (!sub->first && TAILQ_EMPTY(&sub->due) && !sub->known && sub->sent_seq == seq &&
	    sub->gone_seq == seq)
		return false;
	s->stamp++;
	hold = holds(st, type);
	more = take_all(&b, st->delta, hold);
	b.made |= (sub->first && st->delta) || b.n_up || b.n_gone;
	if (b.made) {
		if (st->delta)
			write_response(&b, st->out, more);
		else
			write_sotw(&b, st->out);
		sub->first = false;
		sub->waiting = true;
		sub->waiting_ns = weft_now_ns();
	}
	for (size_t i = 0; i < b.n_gone; i++)
		free(b.gone[i]);
	free(b.gone);
	free(b.up);
	return b.made;
}

/* Twice: what a later type has not to say may free what an earlier one held back. */
bool weft_xds_stream_build(struct xstream *st)
{
	if (st->client->server->depth || !st->scope)
		return false;
	for (int i = 0; i < 2 * WEFT_XDS_TYPES; i++)
		if (sub_build(st, i % WEFT_XDS_TYPES))
			return true;
	return false;
}
