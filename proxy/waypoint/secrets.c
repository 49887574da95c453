/* TLS secrets: of the bootstrap, and by SDS. */
#include "proxy/waypoint/waypoint.h"

#include "proxy/core/log.h"
#include "xds/tls_conf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

typedef Envoy__Extensions__TransportSockets__Tls__V3__Secret secret_msg;

struct secret {
	TAILQ_ENTRY(secret) link;
	struct secrets *all;
	char *name, *version;
	unsigned wants;
	bool is_static;
	bool local; /* its source is a file, which may name others */
	struct weft_xds_watch *watch;
	struct weft_arena *arena; /* of msg; NULL for static ones */
	const secret_msg *msg;	  /* NULL: did not come yet */
	uint64_t updated_s;
};
struct secrets {
	struct secrets_conf conf;
	TAILQ_HEAD(, secret) list;
};

struct secrets *secrets_new(const struct secrets_conf *conf)
{
	struct secrets *s = weft_xcalloc(1, sizeof(*s));

	s->conf = *conf;
	TAILQ_INIT(&s->list);
	return s;
}

static struct secret *look(struct secrets *s, const char *name)
{
	struct secret *e;

	TAILQ_FOREACH (e, &s->list, link)
		if (!strcmp(e->name, name))
			return e;
	return NULL;
}

static struct secret *make(struct secrets *s, const char *name)
{
	struct secret *e = weft_xcalloc(1, sizeof(*e));

	e->all = s;
	e->name = weft_xstrdup(name);
	e->version = weft_xstrdup("");
	TAILQ_INSERT_TAIL(&s->list, e, link);
	return e;
}

static void drop(struct secret *e)
{
	TAILQ_REMOVE(&e->all->list, e, link);
	weft_xds_unwatch(e->watch);
	if (e->arena)
		weft_arena_free(e->arena);
	free(e->name);
	free(e->version);
	free(e);
}

void secrets_free(struct secrets *s)
{
	if (!s)
		return;
	while (!TAILQ_EMPTY(&s->list))
		drop(TAILQ_FIRST(&s->list));
	free(s);
}

int secrets_add_static(struct secrets *s, struct weft_cfg *c, const struct weft_path *at,
		       const secret_msg *m)
{
	struct weft_path pn = {at, "name", -1};
	struct secret *e;

	if (look(s, m->name ? m->name : ""))
		return weft_cfg_fail(c, &pn, "\"%s\" stands twice", m->name ? m->name : "");
	e = make(s, m->name ? m->name : "");
	e->is_static = true;
	e->msg = m;
	e->updated_s = (uint64_t)time(NULL);
	return 0;
}

/* ---- SDS */
static int resolve(struct weft_cfg *c, const struct weft_path *at, ProtobufCMessage *m);

/* What a file or the environment holds stands in the secret from here on. */
static int resolve_one(struct weft_cfg *c, const struct weft_path *at, ProtobufCMessage *m)
{
	Envoy__Config__Core__V3__DataSource *d = (void *)m;
	const char *text;
	size_t n;

	if (m->descriptor != &envoy__config__core__v3__data_source__descriptor)
		return resolve(c, at, m);
	if (d->specifier_case != ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME &&
	    d->specifier_case !=
		    ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_ENVIRONMENT_VARIABLE)
		return 0;
	text = weft_data_source(c, at, d, at->field, &n);
	if (!text)
		return -EINVAL;
	d->specifier_case = ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_BYTES;
	d->inline_bytes = (ProtobufCBinaryData){n, (uint8_t *)text};
	return 0;
}

static int resolve(struct weft_cfg *c, const struct weft_path *at, ProtobufCMessage *m)
{
	int err = 0;

	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		char *p = (char *)m + f->offset;
		const void *q = (const char *)m + f->quantifier_offset;
		size_t n;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE ||
		    (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && *(const uint32_t *)q != f->id))
			continue;
		n = f->label == PROTOBUF_C_LABEL_REPEATED ? *(const size_t *)q : 1;
		for (size_t k = 0; k < n; k++) {
			ProtobufCMessage *sub = f->label == PROTOBUF_C_LABEL_REPEATED
							? (*(ProtobufCMessage ***)p)[k]
							: *(ProtobufCMessage **)p;
			const struct weft_path sp = {
				at, f->name, f->label == PROTOBUF_C_LABEL_REPEATED ? (int)k : -1};

			if (sub && resolve_one(c, &sp, sub))
				err = -EINVAL;
		}
	}
	return err;
}

static void apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		  size_t n_up, const char *const *removed, size_t n_removed)
{
	struct secret *e = owner;
	struct weft_errs *errs;
	struct weft_arena *old = NULL;
	struct weft_cfg c = {.file = e->local};
	size_t i;

	for (i = 0; i < n_up; i++) {
		errs = weft_xcalloc(1, sizeof(*errs));
		c.errs = errs;
		c.arena = up[i].arena;
		if (weft_cfg_check(&c, NULL, up[i].msg) ||
		    resolve(&c, NULL, (ProtobufCMessage *)up[i].msg) ||
		    weft_tls_secret_check(&c, NULL, (const secret_msg *)up[i].msg)) {
			feeds_reject(r, "secret", &up[i], errs);
		} else {
			old = e->arena;
			e->arena = weft_xds_take(&up[i]);
			e->msg = (const secret_msg *)up[i].msg;
			free(e->version);
			e->version = weft_xstrdup(up[i].version ? up[i].version : "");
			e->updated_s = (uint64_t)time(NULL);
			e->all->conf.changed(e->all->conf.owner, e->name);
			if (old)
				weft_arena_free(old);
		}
		free(errs);
	}
	/* a secret that was removed goes on serving: there is nothing better */
}

static void timed_out(void *owner)
{
	struct secret *e = owner;

	weft_log(WEFT_LOG_WARN, "secret \"%s\" did not come in time", e->name);
}

static const struct weft_xds_sink sink = {.apply = apply, .timed_out = timed_out, .arenas = true};

void secrets_want(struct secrets *s, const Envoy__Config__Core__V3__ConfigSource *cs,
		  const char *name, bool on)
{
	struct secret *e = look(s, name);
	struct weft_err err = {0};

	if (!on) {
		if (e && !e->is_static && e->wants && !--e->wants)
			drop(e);
		return;
	}
	if (e && e->is_static)
		return;
	if (!e)
		e = make(s, name);
	if (e->wants++)
		return;
	e->local = feeds_local(cs);
	e->watch = weft_xds_watch(s->conf.sources, cs, &weft_xds_type_tls_secret, e->name, &sink, e,
				  &err);
	if (!e->watch)
		weft_log_err(WEFT_LOG_WARN, &err, "secret cannot be watched");
}

static const secret_msg *get(void *ctx, const char *name,
			     const Envoy__Config__Core__V3__ConfigSource *source)
{
	const struct secret *e = look(ctx, name);

	return e ? e->msg : NULL;
}

struct weft_tls_secrets secrets_lookup(struct secrets *s)
{
	return (struct weft_tls_secrets){get, s};
}

const secret_msg *secrets_get(struct secrets *s, const char *name)
{
	return get(s, name, NULL);
}

void secrets_each(struct secrets *s,
		  void (*fn)(void *ctx, const char *name, const char *version, bool is_static,
			     uint64_t updated_s, const secret_msg *m),
		  void *ctx)
{
	const struct secret *e;

	TAILQ_FOREACH (e, &s->list, link)
		fn(ctx, e->name, e->version, e->is_static, e->updated_s, e->msg);
}
