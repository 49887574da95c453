/* Key sets of other servers: fetched when a request needs one that is not there or too old, and
 * with async_fetch again before it grows old. */
#include "proxy/core/worker.h"
#include "proxy/http/filters/jwt_authn_priv.h"
#include "proxy/http/stats.h"
#include "proxy/upstream/pool.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CACHE_MS = 600000,
	FAILED_MS = 1000,
	EARLY_MS = 5000, /* before it grows old */
	BACKOFF_MS = 1000,
	BACKOFF_MAX_MS = 10000,
};

struct jwt_remote {
	_Atomic unsigned refs;
	_Atomic bool gone;	/* its configuration is */
	_Atomic bool refreshed; /* some worker does that */
	pthread_mutex_t lock;	/* guards jwks and until_ns: taken for a reference and a time */
	struct weft_jwks *jwks;
	uint64_t until_ns;
	char *cluster, *scheme, *authority, *path;
	unsigned timeout_ms, retries;
	uint64_t cache_ms, failed_ms, backoff_ms, backoff_max_ms;
	bool async;
};
/* On a worker: a call that is out, or the time until the next one. */
struct jwt_fetch {
	TAILQ_ENTRY(jwt_fetch) link;
	struct fetches *in;
	struct jwt_remote *r; /* referenced */
	struct weft_call *call;
	struct weft_scope *scope;
	char prefix[128];
	unsigned tries;
	bool idle;    /* nobody waits; the timer is for the next refresh */
	bool owner;   /* of the refreshing */
	bool telling; /* those in told, one by one */
	struct event timer;
	TAILQ_HEAD(jwt_waits, jwt_wait) waits, told;
};
struct fetches { /* of a worker */
	TAILQ_HEAD(, jwt_fetch) all;
	struct weft_worker *w;
};

static void fetches_done(struct weft_worker *w, void *part);
static const struct weft_worker_part part_of = {sizeof(struct fetches), fetches_done};

/* ---- the shared object */
static void unref(struct jwt_remote *r)
{
	if (atomic_fetch_sub(&r->refs, 1) != 1)
		return;
	weft_jwks_unref(r->jwks);
	pthread_mutex_destroy(&r->lock);
	free(r->cluster);
	free(r->scheme);
	free(r->authority);
	free(r->path);
	free(r);
}

void jwt_remote_drop(struct jwt_remote *r)
{
	atomic_store(&r->gone, true);
	unref(r);
}

struct weft_jwks *jwt_remote_get(struct jwt_remote *r)
{
	struct weft_jwks *k = NULL;

	pthread_mutex_lock(&r->lock);
	if (r->jwks && weft_now_ns() < r->until_ns)
		k = weft_jwks_ref(r->jwks);
	pthread_mutex_unlock(&r->lock);
	return k;
}

static void publish(struct jwt_remote *r, struct weft_jwks *k)
{
	struct weft_jwks *old;

	pthread_mutex_lock(&r->lock);
	old = r->jwks;
	r->jwks = k;
	r->until_ns = weft_now_ns() + r->cache_ms * 1000000;
	pthread_mutex_unlock(&r->lock);
	weft_jwks_unref(old);
}

/* scheme://authority/path */
static int split(struct weft_cfg *c, const struct weft_path *at, const char *uri,
		 struct jwt_remote *r)
{
	const char *sep = strstr(uri, "://"), *host = sep ? sep + 3 : uri;
	size_t n = strcspn(host, "/?#"), path_n = strcspn(host + n, "#");

	if (sep && strncmp(uri, "http://", 7) && strncmp(uri, "https://", 8))
		return weft_cfg_fail(c, at, "must begin with http:// or https://, is \"%.80s\"",
				     uri);
	for (const char *p = uri; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return weft_cfg_fail(c, at, "must have no spaces or control characters");
	if (!n || memchr(host, '@', n))
		return weft_cfg_fail(c, at, "must name a host, is \"%.80s\"", uri);
	r->scheme = weft_xstrdup(sep && uri[4] == ':' ? "http" : "https");
	r->authority = strndup(host, n);
	r->path = weft_xcalloc(1, path_n + 2);
	sprintf(r->path, "%s%.*s", host[n] == '/' ? "" : "/", (int)path_n, host + n);
	return 0;
}

static int retries_read(struct weft_cfg *c, const struct weft_path *at, const jwt_remote_msg *m,
			struct jwt_remote *r)
{
	const Envoy__Config__Core__V3__RetryPolicy *p = m->retry_policy;
	struct weft_path pr = {at, "retry_policy", -1}, pn = {&pr, "num_retries", -1},
			 pb = {&pr, "retry_back_off", -1};

	r->backoff_ms = BACKOFF_MS;
	r->backoff_max_ms = BACKOFF_MAX_MS;
	if (!p)
		return 0;
	r->retries = weft_cfg_u32(p->num_retries, 1);
	if (r->retries > JWT_RETRIES_MAX)
		return weft_cfg_fail(c, &pn, "must be at most %d, is %u", JWT_RETRIES_MAX,
				     r->retries);
	if (!p->retry_back_off)
		return 0;
	r->backoff_ms = (uint64_t)weft_cfg_ms(p->retry_back_off->base_interval, BACKOFF_MS);
	r->backoff_max_ms =
		(uint64_t)weft_cfg_ms(p->retry_back_off->max_interval, (int64_t)r->backoff_ms * 10);
	if (r->backoff_max_ms < r->backoff_ms)
		return weft_cfg_fail(c, &pb, "max_interval must not be below base_interval");
	return 0;
}

struct jwt_remote *jwt_remote_new(struct weft_cfg *c, const struct weft_path *at,
				  const jwt_remote_msg *m)
{
	struct jwt_remote *r = weft_xcalloc(1, sizeof(*r));
	struct weft_path ph = {at, "http_uri", -1}, pu = {&ph, "uri", -1},
			 pc = {&ph, "cluster", -1};
	const Envoy__Config__Core__V3__HttpUri *u = m->http_uri;
	int err = 0;

	r->refs = 1;
	pthread_mutex_init(&r->lock, NULL);
	if (!u)
		err = weft_cfg_fail(c, &ph, "must be set");
	else if (!u->cluster || !*u->cluster)
		err = weft_cfg_fail(c, &pc, "must name a cluster");
	if (!err)
		err = split(c, &pu, u->uri ?: "", r);
	if (!err)
		err = retries_read(c, at, m, r);
	if (err) {
		jwt_remote_drop(r);
		return NULL;
	}
	r->cluster = weft_xstrdup(u->cluster);
	r->timeout_ms = (unsigned)weft_cfg_ms(u->timeout, 1000);
	r->cache_ms = (uint64_t)weft_cfg_ms(m->cache_duration, CACHE_MS);
	r->async = m->async_fetch != NULL;
	r->failed_ms = (uint64_t)weft_cfg_ms(
		m->async_fetch ? m->async_fetch->failed_refetch_duration : NULL, FAILED_MS);
	return r;
}

/* ---- fetching */
static void fetch_free(struct jwt_fetch *f)
{
	TAILQ_REMOVE(&f->in->all, f, link);
	event_del(&f->timer);
	weft_call_cancel(f->call);
	if (f->owner)
		atomic_store(&f->r->refreshed, false);
	weft_scope_unref(f->scope);
	unref(f->r);
	free(f);
}

static void sleep_ms(struct jwt_fetch *f, uint64_t ms)
{
	struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

	evtimer_add(&f->timer, &tv);
}

static void count(struct jwt_fetch *f, bool ok)
{
	char name[160];

	snprintf(name, sizeof(name), "%sjwks_fetch_%s", f->prefix, ok ? "success" : "failed");
	weft_scope_add_named(f->scope, name, 1);
}

/* Tells those who wait; whoever refreshes sleeps on, others end. One that is told may cancel
 * others, and new ones may come. */
static void fetched(struct jwt_fetch *f, bool ok)
{
	struct jwt_remote *r = f->r;
	struct jwt_wait *w;
	uint64_t early;

	count(f, ok);
	f->telling = true;
	TAILQ_CONCAT(&f->told, &f->waits, link);
	TAILQ_FOREACH (w, &f->told, link)
		w->told = true;
	while ((w = TAILQ_FIRST(&f->told))) {
		TAILQ_REMOVE(&f->told, w, link);
		w->fetch = NULL;
		w->done(w, ok);
	}
	f->telling = false;
	if (!TAILQ_EMPTY(&f->waits)) {
		f->tries = 0;
		sleep_ms(f, 0);
		return;
	}
	if (!r->async || atomic_load(&r->gone) ||
	    (!f->owner && atomic_exchange(&r->refreshed, true))) {
		fetch_free(f);
		return;
	}
	f->owner = true;
	f->idle = true;
	early = r->cache_ms > 2 * EARLY_MS ? r->cache_ms - EARLY_MS : r->cache_ms / 2;
	sleep_ms(f, ok ? early + 1 : r->failed_ms + 1);
}

static void on_answer(void *owner, const struct weft_call_result *res)
{
	struct jwt_fetch *f = owner;
	struct weft_jwks *k = NULL;
	size_t n = res->body ? evbuffer_get_length(res->body) : 0;
	bool again;

	f->call = NULL;
	if (res->status == 200 && n &&
	    weft_jwks_parse((char *)evbuffer_pullup(res->body, -1), n, &k) == WEFT_JWT_OK) {
		publish(f->r, k);
		fetched(f, true);
		return;
	}
	again = (!res->status || res->status >= 500) && f->tries < f->r->retries;
	if (again) {
		uint64_t ms = f->r->backoff_ms << (f->tries < 16 ? f->tries : 16);

		f->tries++;
		ms = ms > f->r->backoff_max_ms ? f->r->backoff_max_ms : ms;
		sleep_ms(f, 1 + weft_rand64() % (ms ?: 1));
		return;
	}
	fetched(f, false);
}

static void ask(struct jwt_fetch *f)
{
	struct weft_arena *a = weft_arena_new(0);
	const struct jwt_remote *r = f->r;
	struct weft_headers h;
	struct weft_call_conf conf = {
		.cluster = r->cluster,
		.headers = &h,
		.timeout_ms = r->timeout_ms,
		.body_max = WEFT_JWKS_BYTES_MAX,
		.done = on_answer,
		.owner = f,
	};

	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_METHOD, "GET", 3);
	weft_headers_add_id(&h, WEFT_H_SCHEME, r->scheme, strlen(r->scheme));
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, r->authority, strlen(r->authority));
	weft_headers_add_id(&h, WEFT_H_PATH, r->path, strlen(r->path));
	f->call = weft_call_start(f->in->w, &conf);
	weft_arena_free(a);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct jwt_fetch *f = arg;

	if (f->idle) {
		if (atomic_load(&f->r->gone)) {
			fetch_free(f);
			return;
		}
		f->idle = false;
		f->tries = 0;
	}
	ask(f);
	if (!f->call)
		fetched(f, false); /* no such cluster */
}

static void fetches_done(struct weft_worker *w, void *part)
{
	struct fetches *all = part;
	struct jwt_fetch *f;

	if (!all->w)
		return;
	while ((f = TAILQ_FIRST(&all->all))) {
		struct jwt_wait *wait;

		TAILQ_FOREACH (wait, &f->waits, link)
			wait->fetch = NULL;
		fetch_free(f);
	}
}

static struct jwt_fetch *fetch_new(struct fetches *all, struct jwt_remote *r,
				   struct weft_scope *scope, const char *prefix)
{
	struct jwt_fetch *f = weft_xcalloc(1, sizeof(*f));

	f->in = all;
	f->r = r;
	atomic_fetch_add(&r->refs, 1);
	TAILQ_INIT(&f->waits);
	TAILQ_INIT(&f->told);
	snprintf(f->prefix, sizeof(f->prefix), "%s", prefix);
	f->scope = weft_scope_get(&weft_http_scope_class, weft_scope_name(scope));
	evtimer_assign(&f->timer, all->w->base, on_timer, f);
	TAILQ_INSERT_TAIL(&all->all, f, link);
	return f;
}

void jwt_remote_wait(struct weft_worker *w, struct jwt_remote *r, struct weft_scope *scope,
		     const char *prefix, struct jwt_wait *wait)
{
	struct fetches *all = weft_worker_part(w, &part_of);
	struct jwt_fetch *f;

	if (!all->w) {
		all->w = w;
		TAILQ_INIT(&all->all);
	}
	TAILQ_FOREACH (f, &all->all, link)
		if (f->r == r)
			break;
	if (!f)
		f = fetch_new(all, r, scope, prefix);
	if (!f->telling && !f->call && (f->idle || !evtimer_pending(&f->timer, NULL))) {
		f->idle = false;
		f->tries = 0;
		sleep_ms(f, 0);
	}
	TAILQ_INSERT_TAIL(&f->waits, wait, link);
	wait->fetch = f;
	wait->told = false;
}

void jwt_wait_cancel(struct jwt_wait *wait)
{
	struct jwt_fetch *f = wait->fetch;

	if (f && wait->told)
		TAILQ_REMOVE(&f->told, wait, link);
	else if (f)
		TAILQ_REMOVE(&f->waits, wait, link);
	wait->fetch = NULL;
}
