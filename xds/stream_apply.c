/* A response: read resource by resource, so that a bad one refuses only itself. */
#include "proxy/core/arena.h"
#include "proxy/core/utf8.h"
#include "proxy/core/worker.h"
#include "xds/stream.h"
#include "xds/stream_split.h"
#include "xds/wire.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <xxhash.h>

enum { OWN_ARENA_MIN = 512, OWN_ARENA_MAX = 64 << 10, OWN_ARENA_GROWTH = 4 };

static const char wrapper_url[] = "type.googleapis.com/envoy.service.discovery.v3.Resource";

struct batch {
	struct weft_arena *a;
	struct weft_xds_resource *up;
	struct xheld **held;
	uint64_t *hash;
	size_t n_up;
};

static bool text(struct weft_arena *a, struct xspan s, const char **ret)
{
	char *t = weft_arena_strndup(a, (const char *)s.p ?: "", s.n);

	*ret = t;
	while (*t) {
		size_t n = weft_utf8_len(t);

		if (!n)
			return false;
		t += n;
	}
	return true;
}

static bool equals(struct xspan s, const char *text_)
{
	size_t n = strlen(text_);

	return s.n == n && !memcmp(s.p, text_, n);
}

/* ---- refusals */

static void nack(struct weft_xds_reply *r, const char *name, const char *why)
{
	size_t room = sizeof(r->nack) - r->nack_n;
	int n;

	r->nacks++;
	if (room < 2)
		return;
	n = snprintf(r->nack + r->nack_n, room, "%s%s: %s", r->nack_n ? "; " : "", name, why);
	if (n < 0 || (size_t)n >= room) { /* whole ones only, unless it is the first */
		if (r->nack_n)
			r->nack[r->nack_n] = '\0';
		else
			r->nack_n = room - 1;
		return;
	}
	r->nack_n += (size_t)n;
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

void weft_xds_reject(struct weft_xds_reply *r, const char *name, const struct weft_err *why)
{
	struct xheld *h = weft_xds_held_find(r->type, name);
	char t[600];

	if (h)
		h->refused = true;
	weft_err_text(why, t, sizeof(t));
	utf8_trim(t, strlen(t));
	nack(r, name, t);
}

/* In a file: the resource may stand in a wrapper. */
void weft_xds_place(const struct weft_xds_reply *r, const struct weft_xds_resource *up,
		    struct weft_errs *errs)
{
	const struct weft_yaml_doc *doc = r->type->stream->doc;
	const Envoy__Service__Discovery__V3__DiscoveryResponse *m;
	const char *below = "";
	char path[512];
	int i;

	if (!doc)
		return;
	m = (const void *)doc->msg;
	if (up->index < m->n_resources && m->resources[up->index]->type_url &&
	    !strcmp(m->resources[up->index]->type_url, wrapper_url))
		below = "resource.";
	for (i = 0; i < errs->n; i++) {
		struct weft_err *e = &errs->v[i];
		struct weft_mark at;

		if (e->where[0])
			continue;
		snprintf(path, sizeof(path), "resources[%zu].%s%s", up->index, below, e->path);
		at = weft_marks_locate(doc->marks, doc->msg, path);
		yaml_err_place(e, doc->file, at.line, at.col);
	}
}

/* What the sink will not see. Of a file: there is no server to tell. */
static void refuse(struct weft_xds_reply *r, const char *name, const struct weft_err *why)
{
	struct weft_xds_stream *s = r->type->stream;
	struct weft_errs one = {.n = 1};
	char text_[600];

	weft_xds_reject(r, name, why);
	if (s->doc && s->conf.lost) {
		one.v[0] = *why;
		weft_xds_place(r, &(struct weft_xds_resource){.index = r->index}, &one);
		s->conf.lost(s->conf.owner, weft_err_text(&one.v[0], text_, sizeof(text_)));
	}
	if (r->type->refused)
		r->type->refused(r->type->owner, name);
}

struct weft_arena *weft_xds_take(const struct weft_xds_resource *r)
{
	struct weft_arena *a = r->arena;

	((struct weft_xds_resource *)r)->arena = NULL; /* of our own batch */
	return a;
}

/* ---- reading */

/* One resource, found in its wrappers. */
struct found {
	const char *name, *version;
	struct xspan value;
	bool body; /* false: a heartbeat */
	Google__Protobuf__Duration *ttl;
};

static int find_wrapped(struct weft_arena *a, struct xspan s, struct found *f,
			struct xspan *ret_url, struct weft_err *err)
{
	struct xitem item;

	if (!weft_xds_split_item(s, &item) || !text(a, item.name, &f->name) ||
	    (item.version.p && !text(a, item.version, &f->version)))
		return weft_fail(err, NULL, EINVAL, "the bytes are not a Resource");
	if (!f->name[0])
		return weft_fail(err, NULL, EINVAL, "name must be set");
	f->body = item.any.p;
	if (f->body && !weft_xds_split_any(item.any, ret_url, &f->value))
		return weft_fail(err, NULL, EINVAL, "the bytes are not an Any");
	if (item.ttl.p) {
		f->ttl = (Google__Protobuf__Duration *)weft_wire_unpack(
			a, &google__protobuf__duration__descriptor, item.ttl.p, item.ttl.n, false,
			err);
		if (!f->ttl)
			return -EINVAL;
	}
	return 0;
}

static int find(const struct xtype *t, struct weft_arena *a, struct xspan s, struct found *f,
		struct weft_err *err)
{
	struct xspan url, name;
	int r = 0;

	if (t->stream->conf.delta) {
		r = find_wrapped(a, s, f, &url, err);
	} else {
		if (!weft_xds_split_any(s, &url, &f->value))
			return weft_fail(err, NULL, EINVAL, "the bytes are not an Any");
		f->body = true;
		if (equals(url, wrapper_url)) {
			r = find_wrapped(a, f->value, f, &url, err);
		} else if (!weft_xds_split_name(f->value, &name) || !text(a, name, &f->name)) {
			f->name = NULL;
			r = weft_fail(err, NULL, EINVAL, "the bytes are not a %s",
				      t->type->desc->short_name);
		} else if (!f->name[0]) {
			r = weft_fail(err, NULL, EINVAL, "name must be set");
		}
	}
	if (!r && f->body && !equals(url, t->type->url))
		r = weft_fail(err, NULL, EINVAL, "type must be %s, is \"%.*s\"", t->type->url,
			      (int)(url.n < 128 ? url.n : 128), (const char *)url.p ?: "");
	return r;
}

static void set_version(struct xheld *h, const char *version)
{
	if (h->version && !strcmp(h->version, version))
		return;
	free(h->version);
	h->version = weft_xstrdup(version);
}

/* False: nothing to tell the sink. */
static bool note(struct weft_xds_reply *r, struct xheld *h, const struct found *f, uint64_t hash,
		 struct weft_err *err)
{
	if (h->round == r->type->round)
		return weft_fail(err, NULL, EINVAL, "given twice in one response") >= 0;
	h->round = r->type->round;
	h->unsure = false;
	weft_xds_held_ttl(h, f->ttl);
	if (!f->body) {
		if (!h->version || !f->ttl)
			weft_fail(err, NULL, EINVAL, "resource must be set");
		return false;
	}
	h->refused = false;
	if (h->version && h->hash == hash && h->n == f->value.n) {
		set_version(h, f->version);
		return false;
	}
	return true;
}

static const ProtobufCMessage *unpack(const struct xtype *t, struct batch *b, const struct found *f,
				      struct weft_arena **ret_own, struct weft_err *err)
{
	struct weft_arena *a = b->a;
	const ProtobufCMessage *m;
	size_t chunk = f->value.n * OWN_ARENA_GROWTH;

	*ret_own = NULL;
	if (t->sink->arenas) {
		chunk = chunk < OWN_ARENA_MIN ? OWN_ARENA_MIN : chunk;
		a = *ret_own = weft_arena_new(chunk > OWN_ARENA_MAX ? OWN_ARENA_MAX : chunk);
	}
	m = weft_wire_unpack(a, t->type->desc, f->value.p, f->value.n, false, err);
	if (!m) {
		weft_arena_free(*ret_own);
		*ret_own = NULL;
	}
	return m;
}

/* Reads one resource into the batch; what cannot be read is refused here. */
static void take(struct weft_xds_reply *r, struct batch *b, struct xspan s, const char *version,
		 size_t index)
{
	struct xtype *t = r->type;
	struct found f = {.version = version};
	const ProtobufCMessage *m;
	struct weft_err err = {0};
	struct weft_arena *own;
	struct xheld *h;
	char where[32];
	uint64_t hash;

	r->index = index;
	if (find(t, b->a, s, &f, &err)) {
		snprintf(where, sizeof(where), "resources[%zu]", index);
		r->unnamed |= !f.name || !f.name[0];
		if (f.name && f.name[0] && (h = weft_xds_held_find(t, f.name)))
			h->round = t->round; /* still there */
		refuse(r, f.name && f.name[0] ? f.name : where, &err);
		return;
	}
	h = t->wild ? weft_xds_held_get(t, f.name) : weft_xds_held_find(t, f.name);
	if (!h || (!t->wild && !h->wanted))
		return; /* not asked for, or no more */
	hash = XXH3_64bits(f.value.p, f.value.n);
	if (note(r, h, &f, hash, &err) && (m = unpack(t, b, &f, &own, &err))) {
		b->held[b->n_up] = h;
		b->hash[b->n_up] = hash;
		b->up[b->n_up++] = (struct weft_xds_resource){.name = f.name,
							      .version = f.version,
							      .msg = m,
							      .bytes = f.value.p,
							      .n = f.value.n,
							      .arena = own,
							      .index = index};
	}
	if (err.code)
		refuse(r, f.name, &err);
}

/* ---- applying */

/* After the sink has seen them: what was accepted is the last good. */
static void settle(struct xtype *t, const struct batch *b)
{
	for (size_t i = 0; i < b->n_up; i++) {
		struct xheld *h = b->held[i];

		weft_arena_free(b->up[i].arena);
		if (h->refused)
			continue;
		set_version(h, b->up[i].version);
		h->hash = b->hash[i];
		h->n = b->up[i].n;
		if (!t->stream->conf.keep)
			continue;
		free(h->bytes);
		h->bytes = weft_xcalloc(1, h->n + 1);
		if (h->n)
			memcpy(h->bytes, b->up[i].bytes, h->n);
	}
}

static void forget_never_accepted(struct xtype *t)
{
	struct xheld *h, *tmp;

	HASH_ITER (hh, t->held, h, tmp)
		if (!h->version && !h->wanted)
			weft_xds_held_clear(h);
}

static void call(struct weft_xds_reply *r, const struct batch *b, const char *const *gone,
		 size_t n_gone)
{
	struct xtype *t = r->type;

	if (b->n_up || n_gone)
		t->sink->apply(t->owner, r, b->up, b->n_up, gone, n_gone);
	settle(t, b);
	for (size_t i = 0; i < n_gone; i++)
		weft_xds_held_clear(weft_xds_held_find(t, gone[i]));
}

/* Of the type's resources those that the server no longer has. delta: it has sent all it has, so
 * what it was not told of and did not send is gone. State of the world: of whole types, what the
 * response has not is gone. */
static size_t absent(const struct xtype *t, bool delta, const char **gone)
{
	struct xheld *h, *tmp;
	size_t n = 0;

	HASH_ITER (hh, t->held, h, tmp)
		if (h->version && (delta ? h->unsure : h->round != t->round))
			gone[n++] = h->name;
	return n;
}

/* Resources [from, to) of p; with the last ones go the removals. */
static void apply_batch(struct weft_xds_reply *r, const struct xresponse *p, const char *version,
			size_t from, size_t to)
{
	struct batch b = {.a = weft_arena_new(64 << 10)};
	size_t n_gone = 0, n = to - from + 1;
	const char **gone = NULL;
	bool whole;

	b.up = weft_xcalloc(n, sizeof(*b.up));
	b.held = weft_xcalloc(n, sizeof(struct xheld *));
	b.hash = weft_xcalloc(n, sizeof(*b.hash));
	for (size_t i = from; i < to; i++)
		take(r, &b, p->up.v[i], version, i);
	if (to == p->up.n) {
		whole = !r->type->stream->conf.delta && r->type->type->whole && !r->unnamed;
		gone = weft_xcalloc(p->gone.n + (whole ? HASH_COUNT(r->type->held) : 0) + 1,
				    sizeof(*gone));
		for (size_t i = 0; i < p->gone.n; i++)
			if (text(b.a, p->gone.v[i], &gone[n_gone]) &&
			    weft_xds_held_find(r->type, gone[n_gone]))
				n_gone++;
		if (whole)
			n_gone += absent(r->type, false, gone + n_gone);
	}
	call(r, &b, gone, n_gone);
	weft_arena_free(b.a);
	free(gone);
	free(b.up);
	free(b.held);
	free(b.hash);
}

static void apply_all(struct weft_xds_reply *r, const struct xresponse *p, const char *version)
{
	size_t from = 0, bytes = 0, most = WEFT_XDS_BATCH_BYTES;

	if (r->type->type == &weft_xds_type_listener)
		most = WEFT_XDS_WHOLE_BYTES;
	for (size_t i = 0; i < p->up.n; i++) {
		bytes += p->up.v[i].n;
		if (bytes >= most && i + 1 < p->up.n) {
			apply_batch(r, p, version, from, i + 1);
			from = i + 1;
			bytes = 0;
		}
	}
	apply_batch(r, p, version, from, p->up.n);
	if (r->nacks)
		forget_never_accepted(r->type);
}

void weft_xds_stream_remove(struct xtype *t, const char *const *names, size_t n)
{
	struct weft_xds_reply *r = weft_xcalloc(1, sizeof(*r));
	bool inside = t->stream->applying;

	r->type = t;
	t->stream->applying = true;
	call(r, &(struct batch){0}, names, n);
	t->stream->applying = inside;
	free(r);
	if (!inside)
		weft_xds_stream_send(t->stream);
}

static void remove_absent(struct weft_xds_reply *r)
{
	struct xtype *t = r->type;
	const char **gone = weft_xcalloc(HASH_COUNT(t->held) + 1, sizeof(*gone));
	size_t n = absent(t, true, gone);

	if (n)
		call(r, &(struct batch){0}, gone, n);
	free(gone);
}

/* Gives what is held, as an update to one sink that came later. */
bool weft_xds_stream_again(struct xtype *t, const char *name, const struct weft_xds_sink *sink,
			   void *owner)
{
	struct xheld *h = weft_xds_held_find(t, name);
	struct batch b = {0};
	struct found f = {.body = true};
	struct weft_xds_resource up;
	struct weft_xds_reply *r;
	struct weft_err err;
	bool was;

	if (!h || !h->bytes)
		return false;
	f.value = (struct xspan){h->bytes, h->n};
	b.a = weft_arena_new(0);
	up = (struct weft_xds_resource){
		.name = h->name, .version = h->version, .bytes = h->bytes, .n = h->n};
	up.msg = unpack(t, &b, &f, &up.arena, &err);
	r = weft_xcalloc(1, sizeof(*r));
	r->type = t;
	was = h->refused; /* a refusal here concerns this one sink, not the server */
	if (up.msg)
		sink->apply(owner, r, &up, 1, NULL, 0);
	h->refused = was;
	weft_arena_free(up.arena);
	weft_arena_free(b.a);
	free(r);
	return true;
}

/* ---- a response */

static void first_state(struct xtype *t, bool all, bool good)
{
	t->ready |= all && good;
	if (!all || t->complete)
		return;
	t->complete = true;
	if (t->sink->complete)
		t->sink->complete(t->owner);
}

static void slow_refusals(struct xtype *t, const char *version)
{
	bool again = t->refused_version && !strcmp(t->refused_version, version);

	t->hold_ns = 0;
	if (!again) {
		free(t->refused_version);
		t->refused_version = weft_xstrdup(version);
		t->refused_ms = WEFT_XDS_NACK_MIN_MS;
		return;
	}
	t->hold_ns = weft_now_ns() + (uint64_t)t->refused_ms * 1000000;
	t->refused_ms =
		t->refused_ms * 2 < WEFT_XDS_NACK_MAX_MS ? t->refused_ms * 2 : WEFT_XDS_NACK_MAX_MS;
}

static void apply(struct xtype *t, const struct xresponse *p, const char *version,
		  const char *nonce)
{
	struct weft_xds_stream *s = t->stream;
	struct weft_xds_reply *r = weft_xcalloc(1, sizeof(*r));
	size_t len = strlen(version);
	struct timespec now;
	bool more;

	/* our own server says so when more of the same state follows */
	more = s->conf.delta && len && version[len - 1] == '+' &&
	       !strncmp(s->control_plane, "weft", 4);
	r->type = t;
	t->round++;
	apply_all(r, p, version);
	if (s->conf.delta && t->syncing && !more)
		remove_absent(r);
	if (!more)
		t->syncing = false;
	first_state(t, !more, !r->nacks);
	if (!r->nacks || s->conf.delta) {
		free(t->version);
		t->version = weft_xstrdup(version);
		clock_gettime(CLOCK_REALTIME, &now);
		t->update_time_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	}
	if (r->nacks && !s->conf.delta)
		slow_refusals(t, version);
	free(t->nonce);
	t->nonce = weft_xstrdup(nonce);
	weft_xds_stream_ack(t, nonce, r->nacks ? r->nack : NULL);
	free(r);
}

int weft_xds_stream_response(struct weft_xds_stream *s, const uint8_t *p, size_t n)
{
	struct weft_arena *a = weft_arena_new(0);
	const char *url, *version, *nonce, *plane;
	struct xresponse r = {0};
	struct xtype *t;
	int err = -EINVAL;

	if (!weft_xds_split((struct xspan){p, n}, s->conf.delta, &r) ||
	    !text(a, r.type_url, &url) || !text(a, r.version, &version) ||
	    !text(a, r.nonce, &nonce) || !text(a, r.control_plane, &plane))
		goto out;
	snprintf(s->control_plane, sizeof(s->control_plane), "%s", plane);
	t = weft_xds_stream_find(s, url);
	if (t && t->asked) { /* another is not ours to answer */
		s->applying = true;
		apply(t, &r, version, nonce);
		s->applying = false;
		weft_xds_stream_send(s);
	}
	err = 0;
out:
	weft_arena_free(a);
	free(r.up.v);
	free(r.gone.v);
	return err;
}
