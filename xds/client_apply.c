/* A response: read resource by resource, so that a bad one refuses only itself. */
#include "proxy/core/arena.h"
#include "xds/client_priv.h"
#include "xds/wire.h"
#include <errno.h>
#include <stdio.h>

struct span {
	const uint8_t *p;
	size_t n;
};
struct spans {
	struct span *v;
	size_t n;
};
struct response { /* the fields of a DeltaDiscoveryResponse, unread */
	struct span version, type_url, nonce;
	struct spans up, gone;
};
struct batch {
	struct weft_arena *a;
	struct weft_xds_resource *up;
	size_t n_up;
};

/* ---- the outer message, by hand: its resources may be larger together than one message should be
 */

static bool varint(struct span *s, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 10 && s->n; i++) {
		uint8_t b = *s->p++;

		s->n--;
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (!(b & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

static bool cut(struct span *s, uint64_t n, struct span *ret)
{
	if (n > s->n)
		return false;
	*ret = (struct span){s->p, (size_t)n};
	s->p += n;
	s->n -= (size_t)n;
	return true;
}

static void spans_add(struct spans *v, struct span s)
{
	if (!(v->n & (v->n - 1)))
		v->v = weft_xrealloc(v->v, (v->n ? 2 * v->n : 1) * sizeof(*v->v));
	v->v[v->n++] = s;
}

static void keep(struct response *r, uint64_t field, struct span value)
{
	switch (field) {
	case 1:
		r->version = value;
		break;
	case 2:
		spans_add(&r->up, value);
		break;
	case 4:
		r->type_url = value;
		break;
	case 5:
		r->nonce = value;
		break;
	case 6:
		spans_add(&r->gone, value);
		break;
	default:
		break;
	}
}

static bool split(struct span s, struct response *r)
{
	while (s.n) {
		struct span value;
		uint64_t tag, n;
		bool ok;

		if (!varint(&s, &tag) || tag >> 3 == 0)
			return false;
		switch (tag & 7) {
		case 0:
			ok = varint(&s, &n);
			break;
		case 1:
			ok = cut(&s, 8, &value);
			break;
		case 2:
			ok = varint(&s, &n) && cut(&s, n, &value);
			if (ok)
				keep(r, tag >> 3, value);
			break;
		case 5:
			ok = cut(&s, 4, &value);
			break;
		default:
			ok = false;
			break;
		}
		if (!ok)
			return false;
	}
	return true;
}

static bool is_text(struct span s)
{
	return !s.n || !memchr(s.p, 0, s.n);
}

/* ---- what is held */

static struct xheld *held_find(struct xtype *t, const char *name)
{
	struct xheld *h;

	HASH_FIND(hh, t->held, name, strlen(name), h);
	return h;
}

static void held_drop(struct xtype *t, struct xheld *h)
{
	if (!h)
		return;
	HASH_DEL(t->held, h);
	free(h->version);
	free(h);
}

static struct xheld *held_get(struct xtype *t, const char *name)
{
	struct xheld *h = held_find(t, name);
	size_t len = strlen(name);

	if (!h) {
		h = weft_xcalloc(1, sizeof(*h) + len + 1);
		memcpy(h->name, name, len + 1);
		HASH_ADD_KEYPTR(hh, t->held, h->name, len, h);
	}
	return h;
}

/* ---- refusals */

static void nack(struct weft_xds_client *c, const char *name, const char *why)
{
	size_t room = sizeof(c->nack) - c->nack_n;
	int n;

	c->nacks++;
	if (room < 2)
		return;
	n = snprintf(c->nack + c->nack_n, room, "%s%s: %s", c->nack_n ? "; " : "", name, why);
	if (n < 0 || (size_t)n >= room) { /* whole ones only, unless it is the first */
		if (c->nack_n)
			c->nack[c->nack_n] = '\0';
		else
			c->nack_n = room - 1;
		return;
	}
	c->nack_n += (size_t)n;
}

/* Text that was cut off may not end inside a UTF-8 character: the server would not read it. */
static void utf8_trim(char *s, size_t n)
{
	size_t i = n;

	while (i && ((unsigned char)s[i - 1] & 0xc0) == 0x80)
		i--;
	if (i && (unsigned char)s[i - 1] >= 0xc0) {
		unsigned char c = (unsigned char)s[i - 1];
		size_t want = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

		if (n - (i - 1) < want)
			s[i - 1] = '\0';
	}
}

void weft_xds_reject(struct weft_xds_client *c, const char *name, const struct weft_err *why)
{
	char text[600];
	struct xheld *h;

	if (!c->applying)
		abort(); /* the program's mistake */
	h = held_find(c->applying, name);
	if (h)
		h->refused = true;
	weft_err_text(why, text, sizeof(text));
	utf8_trim(text, strlen(text));
	nack(c, name, text);
}

/* ---- applying */

/* Reads one resource into the batch; what cannot be read is refused here. */
static void take(struct weft_xds_client *c, struct xtype *t, struct batch *b, struct span s,
		 size_t index)
{
	struct weft_err err = {0};
	Envoy__Discovery__Resource *r;
	ProtobufCMessage *m;
	char where[32];

	snprintf(where, sizeof(where), "resources[%zu]", index);
	r = (Envoy__Discovery__Resource *)weft_wire_unpack(
		b->a, &envoy__discovery__resource__descriptor, s.p, s.n, false, &err);
	if (r && (!r->name || !r->name[0]))
		weft_fail(&err, NULL, EINVAL, "name must be set");
	else if (r && (!r->resource || !r->resource->has_value))
		weft_fail(&err, NULL, EINVAL, "resource must be set");
	if (err.code) {
		weft_xds_reject(c, r && r->name && r->name[0] ? r->name : where, &err);
		return;
	}
	held_get(t, r->name)->unsure = false;
	m = weft_wire_unpack(b->a, t->type->desc, r->resource->value.data, r->resource->value.len,
			     false, &err);
	if (!m) {
		weft_xds_reject(c, r->name, &err);
		return;
	}
	held_find(t, r->name)->refused = false;
	b->up[b->n_up++] = (struct weft_xds_resource){
		.name = r->name,
		.version = r->version ?: "",
		.msg = m,
		.bytes = r->resource->value.data,
		.n = r->resource->value.len,
	};
}

/* After the sink has seen them: versions of accepted ones are kept, names never accepted are not.
 */
static void settle(struct xtype *t, const struct batch *b)
{
	for (size_t i = 0; i < b->n_up; i++) {
		struct xheld *h = held_find(t, b->up[i].name);

		if (!h || h->refused)
			continue;
		free(h->version);
		h->version = weft_xstrdup(b->up[i].version);
	}
}

static void forget_never_accepted(struct xtype *t)
{
	struct xheld *h, *tmp;

	HASH_ITER (hh, t->held, h, tmp)
		if (!h->version)
			held_drop(t, h);
}

/* Resources [from, to) of r; with the last ones go the removals. */
static void apply_batch(struct weft_xds_client *c, struct xtype *t, const struct response *r,
			size_t from, size_t to)
{
	struct batch b = {.a = weft_arena_new(64 << 10)};
	size_t n_gone = to == r->up.n ? r->gone.n : 0;
	char **gone = weft_arena_alloc(b.a, (n_gone + 1) * sizeof(*gone));

	b.up = weft_arena_alloc(b.a, (to - from + 1) * sizeof(*b.up));
	for (size_t i = from; i < to; i++)
		take(c, t, &b, r->up.v[i], i);
	for (size_t i = 0; i < n_gone; i++)
		gone[i] = weft_arena_strndup(b.a, (const char *)r->gone.v[i].p, r->gone.v[i].n);
	if (b.n_up || n_gone)
		t->sink->apply(t->owner, c, b.up, b.n_up, (const char *const *)gone, n_gone);
	settle(t, &b);
	for (size_t i = 0; i < n_gone; i++)
		held_drop(t, held_find(t, gone[i]));
	if (c->nacks)
		forget_never_accepted(t);
	weft_arena_free(b.a);
}

static void apply_all(struct weft_xds_client *c, struct xtype *t, const struct response *r)
{
	size_t from = 0, bytes = 0;

	c->applying = t;
	for (size_t i = 0; i < r->up.n; i++) {
		bytes += r->up.v[i].n;
		if (bytes >= WEFT_XDS_BATCH_BYTES && i + 1 < r->up.n) {
			apply_batch(c, t, r, from, i + 1);
			from = i + 1;
			bytes = 0;
		}
	}
	apply_batch(c, t, r, from, r->up.n);
	c->applying = NULL;
}

/* The server has sent all it has: what it was not told of and did not send is gone. */
static void sync_done(struct weft_xds_client *c, struct xtype *t)
{
	char **gone = weft_xcalloc(HASH_COUNT(t->held) + 1, sizeof(*gone));
	struct xheld *h, *tmp;
	size_t n = 0;

	t->syncing = false;
	HASH_ITER (hh, t->held, h, tmp)
		if (h->unsure)
			gone[n++] = h->name;
	if (n) {
		c->applying = t;
		t->sink->apply(t->owner, c, NULL, 0, (const char *const *)gone, n);
		c->applying = NULL;
	}
	for (size_t i = 0; i < n; i++)
		held_drop(t, held_find(t, gone[i]));
	free(gone);
}

static char *text_of(struct span s)
{
	char *t = weft_xcalloc(1, s.n + 1);

	if (s.n)
		memcpy(t, s.p, s.n);
	return t;
}

static void answer(struct weft_xds_client *c, char *type_url, char *nonce)
{
	Envoy__Discovery__DeltaDiscoveryRequest m = ENVOY__DISCOVERY__DELTA_DISCOVERY_REQUEST__INIT;
	Google__Protobuf__RpcStatus status = GOOGLE__PROTOBUF__RPC_STATUS__INIT;

	m.type_url = type_url;
	m.response_nonce = nonce;
	if (c->nacks) {
		status.message = c->nack;
		m.error_detail = &status;
	}
	weft_xds_client_send(c, &m.base);
}

static struct xtype *type_of(struct weft_xds_client *c, const char *url)
{
	for (size_t i = 0; i < c->n_types; i++)
		if (!strcmp(c->types[i].type->url, url))
			return &c->types[i];
	return NULL;
}

int weft_xds_client_response(struct weft_xds_client *c, const uint8_t *p, size_t n)
{
	struct response r = {0};
	char *type_url = NULL, *nonce = NULL;
	struct xtype *t;
	int err = -EINVAL;
	bool more;

	if (!split((struct span){p, n}, &r) || !is_text(r.type_url) || !is_text(r.nonce))
		goto out;
	for (size_t i = 0; i < r.gone.n; i++)
		if (!is_text(r.gone.v[i]))
			goto out;
	type_url = text_of(r.type_url);
	nonce = text_of(r.nonce);
	c->nack_n = c->nacks = 0;
	c->nack[0] = '\0';
	t = type_of(c, type_url);
	if (t) { /* a type we did not ask for is acked */
		more = r.version.n && r.version.p[r.version.n - 1] == '+';
		apply_all(c, t, &r);
		if (t->syncing && !more)
			sync_done(c, t);
		t->ready |= !more && !c->nacks;
		if (!more && !t->complete) {
			t->complete = true;
			if (t->sink->complete)
				t->sink->complete(t->owner);
		}
	}
	answer(c, type_url, nonce);
	err = 0;
out:
	free(type_url);
	free(nonce);
	free(r.up.v);
	free(r.gone.v);
	return err;
}
