/* Watches, and the streams and files that feed them. */
#include "proxy/core/arena.h"
#include "proxy/net/io.h"
#include "xds/source_priv.h"
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <xxhash.h>

enum { FETCH_TIMEOUT_MS = 15000 };

static void turn_soon(struct weft_xds_watch *w)
{
	struct weft_xds_sources *s = w->group->source->sources;

	if (w->turned || s->freeing)
		return;
	w->turned = true;
	TAILQ_INSERT_TAIL(&s->turn, w, turn);
	event_active(s->ev_turn, EV_TIMEOUT, 1);
}

/* ---- sources */

static int on_link(void *owner, struct event_base *base, const struct weft_xds_link_conf *conf,
		   struct weft_xds_link **ret, struct weft_err *reterr)
{
	struct xsource *src = owner;
	struct weft_xds_sources *s = src->sources;
	struct weft_io *io;
	int r = s->conf.dial(s->conf.owner, src->cluster, &io, reterr);

	if (r < 0)
		return r;
	*ret = weft_xds_link_over(base, io, conf);
	return 0;
}

static void count_failure(struct weft_xds_watch *w, bool up)
{
	w->stat.update_failure++;
	w->stat.update_attempt++;
}

static void on_lost(void *owner, const char *why)
{
	struct xsource *src = owner;
	const struct weft_xds_sources_conf *conf = &src->sources->conf;
	struct xgroup *g;

	TAILQ_FOREACH (g, &src->groups, link)
		weft_xds_group_each(g, count_failure, false);
	if (conf->lost)
		conf->lost(conf->owner, src->label, why);
}

static struct xsource *source_new(struct weft_xds_sources *s, const char *label)
{
	struct xsource *src = weft_xcalloc(1, sizeof(*src));

	src->sources = s;
	src->label = weft_xstrdup(label);
	TAILQ_INIT(&src->groups);
	TAILQ_INSERT_TAIL(&s->sources, src, link);
	return src;
}

static void group_free(struct xgroup *g)
{
	TAILQ_REMOVE(&g->source->groups, g, link);
	free(g);
}

static void source_free(struct xsource *src)
{
	struct xgroup *g;

	TAILQ_REMOVE(&src->sources->sources, src, link);
	weft_xds_stream_free(src->stream);
	while ((g = TAILQ_FIRST(&src->groups)))
		group_free(g);
	weft_xds_file_close(src->file);
	free(src->key);
	free(src->label);
	free(src->cluster);
	free(src);
}

static struct xsource *open_server(struct weft_xds_sources *s,
				   const Envoy__Config__Core__V3__ApiConfigSource *api,
				   const struct weft_xds_type *t, bool ads, struct weft_err *reterr)
{
	struct weft_xds_stream_conf conf;
	struct xsource *src;
	char *cluster;

	if (weft_xds_source_stream_conf(s, api, t, ads, &conf, &cluster)) {
		weft_fail(reterr, NULL, EINVAL, "api_config_source: not one that is supported");
		return NULL;
	}
	src = source_new(s, ads ? "ads" : cluster);
	src->cluster = cluster;
	conf.connect = on_link;
	conf.lost = on_lost;
	conf.owner = src;
	src->stream = weft_xds_stream_new(s->base, &conf);
	return src;
}

static struct xsource *open_file(struct weft_xds_sources *s, const char *path, const char *dir,
				 struct weft_err *reterr)
{
	struct xsource *src = source_new(s, path);
	const struct weft_xds_stream_conf conf = {
		.method = weft_xstrdup(""),
		.authority = weft_xstrdup(""),
		.keep = true,
		.node = s->conf.node,
		.lost = on_lost,
		.owner = src,
	};

	src->stream = weft_xds_stream_new(s->base, &conf);
	if (!weft_xds_file_open(src, path, dir, reterr))
		return src;
	source_free(src);
	return NULL;
}

/* Same source, same stream. The key: kind, type where it matters, and the message's bytes. */
static uint8_t *key_of(const Envoy__Config__Core__V3__ConfigSource *cs,
		       const struct weft_xds_type *t, size_t *ret_n)
{
	Envoy__Config__Core__V3__ConfigSource only = *cs;
	uint8_t *key;

	only.initial_fetch_timeout = NULL;
	only.has_resource_api_version = false;
	*ret_n = 1 + protobuf_c_message_get_packed_size(&only.base);
	key = weft_xcalloc(1, *ret_n);
	key[0] = (uint8_t)weft_xds_type_index(t->url);
	if (cs->config_source_specifier_case ==
		    ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_API_CONFIG_SOURCE &&
	    (cs->api_config_source->api_type ==
		     ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__API_TYPE__AGGREGATED_GRPC ||
	     cs->api_config_source->api_type ==
		     ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__API_TYPE__AGGREGATED_DELTA_GRPC))
		key[0] = UINT8_MAX;
	protobuf_c_message_pack(&only.base, key + 1);
	return key;
}

static struct xsource *open_source(struct weft_xds_sources *s,
				   const Envoy__Config__Core__V3__ConfigSource *cs,
				   const struct weft_xds_type *t, struct weft_err *reterr)
{
	switch (cs->config_source_specifier_case) {
	case ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_API_CONFIG_SOURCE:
		return open_server(s, cs->api_config_source, t, false, reterr);
	case ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_PATH:
		return open_file(s, cs->path, NULL, reterr);
	case ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_PATH_CONFIG_SOURCE:
		return open_file(s, cs->path_config_source->path ?: "",
				 cs->path_config_source->watched_directory
					 ? cs->path_config_source->watched_directory->path
					 : NULL,
				 reterr);
	default:
		weft_fail(reterr, NULL, EINVAL, "not a source of configuration that is supported");
		return NULL;
	}
}

static struct xsource *source_of(struct weft_xds_sources *s,
				 const Envoy__Config__Core__V3__ConfigSource *cs,
				 const struct weft_xds_type *t, struct weft_err *reterr)
{
	struct xsource *src;
	uint8_t *key;
	size_t n;

	if (!cs || cs->config_source_specifier_case ==
			   ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_ADS) {
		if (!s->ads)
			weft_fail(reterr, NULL, EINVAL,
				  "ads: the bootstrap has no dynamic_resources.ads_config");
		return s->ads;
	}
	key = key_of(cs, t, &n);
	TAILQ_FOREACH (src, &s->sources, link)
		if (src->n_key == n && !memcmp(src->key, key, n)) {
			free(key);
			return src;
		}
	src = open_source(s, cs, t, reterr);
	if (!src) {
		free(key);
		return NULL;
	}
	src->key = key;
	src->n_key = n;
	return src;
}

/* ---- watches */

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_watch *w = arg;

	weft_xds_watch_no_timeout(w);
	w->stat.init_fetch_timeout++;
	w->stat.update_attempt++;
	if (!w->dead && !w->complete && w->sink->timed_out)
		w->sink->timed_out(w->owner);
}

static void arm_timeout(struct weft_xds_watch *w, const Google__Protobuf__Duration *d)
{
	struct timeval tv = {FETCH_TIMEOUT_MS / 1000, 0};

	if (d)
		tv = (struct timeval){d->seconds, d->nanos / 1000};
	if (!tv.tv_sec && !tv.tv_usec)
		return;
	w->timeout = event_new(w->group->source->sources->base, -1, 0, on_timeout, w);
	if (!w->timeout || event_add(w->timeout, &tv))
		abort();
}

static void name_add(struct weft_xds_watch *w, const char *name)
{
	struct xgroup *g = w->group;
	struct xwname *n = weft_xds_group_name(g, name);
	size_t len = strlen(name);

	if (!n) {
		n = weft_xcalloc(1, sizeof(*n) + len + 1);
		memcpy(n->name, name, len + 1);
		TAILQ_INIT(&n->watches);
		HASH_ADD_KEYPTR(hh, g->names, n->name, len, n);
	}
	w->name = n;
	TAILQ_INSERT_TAIL(&n->watches, w, link);
	weft_xds_stream_want(g->x, name);
	/* In the middle of a response it is not yet known what will be held. */
	w->fresh = g->x->stream->applying || weft_xds_held_find(g->x, name)->version;
	if (w->fresh)
		turn_soon(w);
}

struct weft_xds_watch *weft_xds_watch(struct weft_xds_sources *s,
				      const Envoy__Config__Core__V3__ConfigSource *cs,
				      const struct weft_xds_type *t, const char *name,
				      const struct weft_xds_sink *sink, void *owner,
				      struct weft_err *reterr)
{
	struct xsource *src = source_of(s, cs, t, reterr);
	struct weft_xds_watch *w;
	struct xgroup *g;

	if (!src)
		return NULL;
	g = weft_xds_group_of(src, t);
	if (!name && g->all && !g->all->dead) {
		weft_fail(reterr, NULL, EEXIST, "everything of type %s is watched already",
			  t->brief);
		return NULL;
	}
	w = weft_xcalloc(1, sizeof(*w));
	w->group = g;
	w->sink = sink;
	w->owner = owner;
	w->stat.update_attempt = 1;
	src->n_watches++;
	if (name) {
		name_add(w, name);
	} else {
		g->all = w;
		w->fresh = g->x->wild; /* after one that is not yet gone */
		weft_xds_stream_wild(g->x, true);
		if (w->fresh)
			turn_soon(w);
	}
	arm_timeout(w, cs ? cs->initial_fetch_timeout : NULL);
	if (src->file)
		weft_xds_file_read_soon(src->file);
	else
		weft_xds_stream_start(src->stream);
	return w;
}

static void watch_free(struct weft_xds_watch *w)
{
	struct xgroup *g = w->group;
	struct xwname *n = w->name;

	weft_xds_watch_no_timeout(w);
	if (n) {
		TAILQ_REMOVE(&n->watches, w, link);
		if (TAILQ_EMPTY(&n->watches)) {
			weft_xds_stream_unwant(g->x, n->name);
			HASH_DEL(g->names, n);
			free(n);
		}
	} else if (g->all == w) { /* else another took its place */
		g->all = NULL;
		weft_xds_stream_wild(g->x, false);
	}
	g->source->n_watches--;
	free(w);
}

void weft_xds_unwatch(struct weft_xds_watch *w)
{
	if (!w || w->dead)
		return;
	w->dead = true;
	weft_xds_watch_no_timeout(w);
	turn_soon(w);
}

static void give_held(struct weft_xds_watch *w)
{
	struct xtype *x = w->group->x;
	struct xheld *h, *tmp;

	w->fresh = false;
	if (w->name) {
		if (weft_xds_stream_again(x, w->name->name, w->sink, w->owner))
			weft_xds_watch_complete(w);
		return;
	}
	HASH_ITER (hh, x->held, h, tmp)
		if (!w->dead)
			weft_xds_stream_again(x, h->name, w->sink, w->owner);
	if (x->complete)
		weft_xds_watch_complete(w);
}

/* What must not happen inside a callback: freeing, and giving what is held already. */
static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_sources *s = arg;
	struct weft_xds_watch *w;
	struct xsource *src;

	while ((w = TAILQ_FIRST(&s->turn))) {
		TAILQ_REMOVE(&s->turn, w, turn);
		w->turned = false;
		src = w->group->source;
		if (w->dead) {
			watch_free(w);
			if (!src->n_watches && src != s->ads)
				source_free(src);
		} else if (w->fresh) {
			give_held(w);
		}
	}
}

/* ---- all */

struct weft_xds_sources *weft_xds_sources_new(struct event_base *base,
					      const struct weft_xds_sources_conf *conf)
{
	struct weft_xds_sources *s = weft_xcalloc(1, sizeof(*s));

	s->base = base;
	s->conf = *conf;
	TAILQ_INIT(&s->sources);
	TAILQ_INIT(&s->turn);
	s->ev_turn = event_new(base, -1, 0, on_turn, s);
	if (!s->ev_turn)
		abort();
	if (conf->ads)
		s->ads = open_server(s, conf->ads, NULL, true, NULL);
	return s;
}

static void free_watches(struct xgroup *g)
{
	struct xwname *n, *tmp;
	struct weft_xds_watch *w;

	if (g->all)
		watch_free(g->all);
	HASH_ITER (hh, g->names, n, tmp)
		for (size_t left = 1; left;) {
			w = TAILQ_FIRST(&n->watches);
			left = TAILQ_NEXT(w, link) != NULL;
			watch_free(w); /* the last one frees n */
		}
}

void weft_xds_sources_free(struct weft_xds_sources *s)
{
	struct xsource *src;
	struct xgroup *g;

	if (!s)
		return;
	s->freeing = true;
	while ((src = TAILQ_FIRST(&s->sources))) {
		TAILQ_FOREACH (g, &src->groups, link)
			free_watches(g);
		source_free(src);
	}
	weft_xds_inotify_free(s->inotify);
	event_free(s->ev_turn);
	free(s);
}

struct weft_xds_stat weft_xds_watch_stat(const struct weft_xds_watch *w)
{
	const struct xtype *x = w->group->x;
	struct weft_xds_stat st = w->stat;
	struct xheld *h = w->name ? weft_xds_held_find(x, w->name->name) : NULL;

	st.version_text = (w->name ? h ? h->version : NULL : x->version) ?: "";
	if (!w->name)
		st.version = x->version ? XXH64(x->version, strlen(x->version), 0) : 0;
	st.connected = w->group->source->file || x->stream->connected;
	st.control_plane = x->stream->control_plane;
	return st;
}

bool weft_xds_ads_connected(const struct weft_xds_sources *s)
{
	return s->ads && s->ads->stream->connected;
}

uint64_t weft_xds_rate_limited(const struct weft_xds_sources *s)
{
	const struct xsource *src;
	uint64_t n = 0;

	TAILQ_FOREACH (src, &s->sources, link)
		n += src->stream->rate_limited;
	return n;
}
