/* TLS secrets: of the bootstrap, and by SDS. */
#include "proxy/waypoint/waypoint.h"

#include "proxy/core/log.h"
#include "proxy/core/scope.h"
#include "proxy/waypoint/secret_files.h"
#include "proxy/waypoint/xds_stats.h"
#include "xds/folders.h"
#include "xds/tls_conf.h"
#include <errno.h>
#include <stdio.h>
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
	struct weft_arena *arena;   /* of msg; NULL for static ones */
	const secret_msg *msg;	    /* NULL: did not come yet */
	struct secret_files *files; /* NULL: it names none */
	uint64_t updated_s;
	struct weft_xds_stat put; /* its statistics as they were last put */
};
struct secrets {
	struct secrets_conf conf;
	TAILQ_HEAD(, secret) list;
	struct weft_folders *folders; /* NULL: nothing is watched here */
};

struct secrets *secrets_new(const struct secrets_conf *conf)
{
	struct secrets *s = weft_xcalloc(1, sizeof(*s));

	s->conf = *conf;
	TAILQ_INIT(&s->list);
	if (conf->base)
		s->folders = weft_folders_new(conf->base);
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
	secret_files_free(e->files);
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
	weft_folders_free(s->folders);
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
	if ((m->type_case ==
		     ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_TLS_CERTIFICATE &&
	     m->tls_certificate->watched_directory) ||
	    (m->type_case ==
		     ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_VALIDATION_CONTEXT &&
	     m->validation_context->watched_directory))
		weft_cfg_warn(c, at,
			      "has a watched_directory, which has no effect here: only in secrets "
			      "that come by SDS (from a file, too)");
	e->updated_s = (uint64_t)time(NULL);
	return 0;
}

/* ---- SDS */
static void take(struct secret *e, const secret_msg *m, struct weft_arena *a)
{
	struct weft_arena *old = e->arena;

	e->arena = a;
	e->msg = m;
	e->updated_s = (uint64_t)time(NULL);
	e->all->conf.changed(e->all->conf.owner, e->name);
	if (old)
		weft_arena_free(old);
}

static bool same(const secret_msg *a, const secret_msg *b)
{
	size_t n = protobuf_c_message_get_packed_size(&a->base);
	uint8_t *p;
	bool is;

	if (n != protobuf_c_message_get_packed_size(&b->base))
		return false;
	p = weft_xcalloc(2, n + 1);
	protobuf_c_message_pack(&a->base, p);
	protobuf_c_message_pack(&b->base, p + n);
	is = !memcmp(p, p + n, n);
	explicit_bzero(p, 2 * n); /* it may be a key */
	free(p);
	return is;
}

/* Its files were moved: the same secret with what they hold now, or what there was stays. */
static void on_moved(void *owner)
{
	struct secret *e = owner;
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.arena = a, .errs = errs, .file = true};
	secret_msg *m = secret_files_names(e->files, a);
	char stat[200];

	if (secret_files_read(&c, m) || weft_tls_secret_check(&c, NULL, m)) {
		snprintf(stat, sizeof(stat), "sds.%.150s.key_rotation_failed", e->name);
		weft_scope_global_add(stat, WEFT_COUNTER, 1);
		snprintf(stat, sizeof(stat), "files of a secret not used name=\"%.150s\"", e->name);
		for (int i = 0; i < errs->n; i++)
			weft_log_err(WEFT_LOG_WARN, &errs->v[i], stat);
		weft_arena_free(a);
	} else if (same(m, e->msg)) {
		weft_arena_free(a);
	} else {
		weft_log(WEFT_LOG_INFO, "secret read again from its files name=\"%s\"", e->name);
		take(e, m, a);
	}
	free(errs);
}

/* One that was delivered. Watched before it is read: what is moved from then on is told. */
static int take_delivered(struct secret *e, struct weft_cfg *c, const struct weft_xds_resource *up)
{
	secret_msg *m = (secret_msg *)up->msg;
	struct secrets *all = e->all;
	struct secret_files *files = NULL;

	if (weft_cfg_check(c, NULL, &m->base) ||
	    (c->file && all->folders &&
	     secret_files_new(all->folders, all->conf.base, c, m, on_moved, e, &files)))
		return -EINVAL;
	if (secret_files_read(c, m) || weft_tls_secret_check(c, NULL, m)) {
		secret_files_free(files);
		return -EINVAL;
	}
	secret_files_free(e->files);
	e->files = files;
	free(e->version);
	e->version = weft_xstrdup(up->version ? up->version : "");
	take(e, m, weft_xds_take(up));
	return 0;
}

static void apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		  size_t n_up, const char *const *removed, size_t n_removed)
{
	struct secret *e = owner;
	struct weft_errs *errs;
	struct weft_cfg c = {.file = e->local};
	size_t i;

	for (i = 0; i < n_up; i++) {
		errs = weft_xcalloc(1, sizeof(*errs));
		c.errs = errs;
		c.arena = up[i].arena;
		if (take_delivered(e, &c, &up[i]))
			feeds_reject(r, "secret", &up[i], errs);
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

void secrets_stats(struct secrets *s)
{
	struct secret *e;
	char prefix[200];

	TAILQ_FOREACH (e, &s->list, link) {
		if (!e->watch)
			continue;
		snprintf(prefix, sizeof(prefix), "sds.%.150s.", e->name);
		xds_stats_put(prefix, e->watch, &e->put);
	}
}
