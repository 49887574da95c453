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
		if (!r && !a) {
			if (!fits(b, strlen(n->name)))
				return false;
			add_gone(b, n->name);
		}
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
	bool same;

	for (struct xres *r = first_after(b->table, sub->sent_seq); r; r = TAILQ_NEXT(r, all)) {
		if (!weft_xds_sub_has(sub, r)) {
			/* not asked for */
		} else if (r->live) {
			if (!add_up(b, r, false))
				return false;
		} else if (r->seq > sub->start_seq) {
			if (!fits(b, strlen(r->name)))
				return false;
			known_take(sub, r->name, NULL, &same);
			add_gone(b, r->name);
		}
		sub->sent_seq = r->seq;
	}
	sub->sent_seq = b->table->seq;
	return true;
}

/* What the client still has from before and we have not. */
static bool take_known(struct batch *b)
{
	struct xname *n, *tmp;
	bool same;

	HASH_ITER (hh, b->sub->known, n, tmp) {
		if (!weft_xds_table_find(b->table, n->name)) {
			if (!fits(b, strlen(n->name)))
				return false;
			add_gone(b, n->name);
		}
		known_take(b->sub, n->name, NULL, &same);
	}
	return true;
}

static void fill_resource(Envoy__Service__Discovery__V3__Resource *r, Google__Protobuf__Any *any,
			  const struct xres *x, const struct weft_xds_type *t)
{
	*r = (Envoy__Service__Discovery__V3__Resource)ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
	google__protobuf__any__init(any);
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

static bool sub_build(struct xstream *st, int type)
{
	struct weft_xds_server *s = st->client->server;
	struct xsub *sub = &st->subs[type];
	struct batch b = {
		.server = s, .type = weft_xds_types[type], .table = &s->tables[type], .sub = sub};
	bool more, made;

	if (!sub->subscribed || sub->waiting ||
	    (!sub->first && TAILQ_EMPTY(&sub->due) && !sub->known && sub->sent_seq == b.table->seq))
		return false;
	s->stamp++;
	more = !take_due(&b) || !take_changes(&b) || !take_known(&b);
	made = sub->first || b.n_up || b.n_gone;
	if (made) {
		write_response(&b, st->out, more);
		sub->first = false;
		sub->waiting = true;
		sub->waiting_ns = weft_now_ns();
	}
	for (size_t i = 0; i < b.n_gone; i++)
		free(b.gone[i]);
	free(b.gone);
	free(b.up);
	return made;
}

bool weft_xds_stream_build(struct xstream *st)
{
	if (st->client->server->depth)
		return false;
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		if (sub_build(st, i))
			return true;
	return false;
}
