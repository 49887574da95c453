/* envoy.filters.http.jwt_authn: lets requests go on whose tokens are as the rule for their path
 * wants. */
#include "proxy/core/worker.h"
#include "proxy/http/filters/jwt_authn_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REALM_MAX = 256, /* bytes of the path in it */ ROUNDS_MAX = 64 /* of waiting */ };

struct state {
	struct jwt_wait wait;
	struct weft_stream *s;
	const struct jwt_conf *conf;
	const struct jwt_req *req;
	struct jwt_failed *failed;
	const struct jwt_remote *remote; /* waited for */
	const char *realm;
	unsigned rounds;
};

static void count(struct weft_stream *s, const struct jwt_conf *conf, const char *what)
{
	char name[128];

	snprintf(name, sizeof(name), "%s%s", conf->prefix, what);
	weft_scope_add_named(weft_stream_scope(s), name, 1);
}

/* ---- answers */
struct challenge {
	const char *realm;
	bool invalid;
};

static void challenge_edit(void *ctx, struct weft_headers *h)
{
	const struct challenge *c = ctx;
	const char *v = weft_arena_printf(h->arena, "Bearer realm=\"%s\"%s", c->realm,
					  c->invalid ? ", error=\"invalid_token\"" : "");

	weft_headers_set(h, "www-authenticate", 16, v, strlen(v));
}

static const char *details_of(struct weft_stream *s, const char *why)
{
	char *d = weft_arena_printf(weft_stream_arena(s), "jwt_authn_access_denied{%s}", why);

	for (char *p = d; *p; p++)
		if (*p == ' ')
			*p = '_';
	return d;
}

static enum weft_flow deny(struct state *st, enum weft_jwt_status why)
{
	struct challenge c = {st->realm, why != WEFT_JWT_MISSED};
	const char *text = weft_jwt_text(why), *details = details_of(st->s, text);
	int status = why == WEFT_JWT_AUDIENCE ? 403 : 401;

	count(st->s, st->conf, "denied");
	if (st->conf->strip)
		return weft_stream_reply(st->s, status, details, NULL, NULL, NULL);
	return weft_stream_reply(st->s, status, details, text, challenge_edit, &c);
}

/* What the client asked for, before filters change it. Quotes cannot end it early. */
static const char *realm_of(struct weft_stream *s, const struct weft_headers *h)
{
	const char *path = weft_headers_value(h, WEFT_H_PATH);
	char *text = weft_arena_printf(weft_stream_arena(s), "%s://%s%.*s",
				       weft_headers_value(h, WEFT_H_SCHEME),
				       weft_headers_value(h, WEFT_H_AUTHORITY), REALM_MAX, path);

	for (char *p = text; *p; p++)
		if (*p == '"' || *p == '\\')
			*p = '_';
	return text;
}

/* ---- which requirement */
static bool is_preflight(const struct weft_headers *h)
{
	return !strcmp(weft_headers_value(h, WEFT_H_METHOD), "OPTIONS") &&
	       *weft_headers_value(h, WEFT_H_ORIGIN) &&
	       *weft_headers_value(h, WEFT_H_ACCESS_CONTROL_REQUEST_METHOD);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct jwt_named *)a)->name, ((const struct jwt_named *)b)->name);
}

static const struct jwt_req *req_of_rules(struct weft_stream *s, const struct jwt_conf *conf,
					  const struct weft_headers *h)
{
	struct weft_route_in in = {.h = h,
				   .info = weft_stream_info(s),
				   .random = weft_stream_random(s),
				   .tls = weft_stream_is_tls(s)};
	const struct weft_route *r;
	bool tls;

	if (!conf->routes)
		return NULL;
	r = weft_routes_find(conf->routes, &in, &tls);
	return r ? conf->rules[strtoul(r->name, NULL, 10)] : NULL;
}

static enum weft_flow unknown_name(struct weft_stream *s, const struct jwt_conf *conf,
				   const char *name)
{
	struct weft_arena *a = weft_stream_arena(s);
	const char *why = weft_arena_printf(
		a, "Wrong requirement_name: %s. It should be one of [%s]", name, conf->map_names);

	count(s, conf, "denied");
	return weft_stream_reply(s, 403, details_of(s, why),
				 weft_arena_printf(a, "Failed JWT authentication: %s", why), NULL,
				 NULL);
}

/* ---- running */
static void fetched(struct jwt_wait *w, bool ok);

static enum weft_flow run(struct state *st, struct weft_headers *h)
{
	struct jwt_eval e = {.s = st->s,
			     .conf = st->conf,
			     .h = h,
			     .failed = st->failed,
			     .scope = weft_stream_scope(st->s),
			     .now_s = (uint64_t)time(NULL)};
	int r;

	e.last = &e.first;
	r = jwt_eval(&e, st->req);
	if (r == JWT_PENDING) {
		st->remote = e.pending;
		st->wait.done = fetched;
		jwt_remote_wait(weft_stream_worker(st->s), e.pending, e.scope, st->conf->prefix,
				&st->wait);
		return WEFT_WAIT;
	}
	jwt_effects(&e, r == WEFT_JWT_OK);
	if (r)
		return deny(st, (enum weft_jwt_status)r);
	count(st->s, st->conf, "allowed");
	return WEFT_NEXT;
}

static void fetched(struct jwt_wait *w, bool ok)
{
	struct state *st = (struct state *)((char *)w - offsetof(struct state, wait));
	struct weft_stream *s = st->s;
	struct jwt_failed *f;

	/* keys that are too old at once would be asked for without end */
	if (!ok || ++st->rounds > ROUNDS_MAX) {
		f = weft_arena_alloc(weft_stream_arena(s), sizeof(*f));
		f->remote = st->remote;
		f->next = st->failed;
		st->failed = f;
	}
	if (run(st, weft_stream_headers(s, WEFT_REQUEST)) == WEFT_NEXT)
		weft_stream_resume(s, st, WEFT_REQUEST);
}

static enum weft_flow headers(struct weft_stream *s, const void *vconf, void *vstate,
			      enum weft_dir d, struct weft_headers *h, bool end)
{
	const struct jwt_conf *conf = weft_stream_chain_conf(s, vstate);
	const struct jwt_route_conf *route = weft_stream_route_conf(s, vstate);
	struct jwt_named key;
	const struct jwt_named *named;
	struct state *st = vstate;

	if (d != WEFT_REQUEST)
		return WEFT_NEXT;
	st->s = s;
	st->conf = conf;
	if (conf->bypass_cors && is_preflight(h)) {
		count(s, conf, "cors_preflight_bypassed");
		count(s, conf, "allowed");
		return WEFT_NEXT;
	}
	if (route && route->requirement) {
		key.name = route->requirement;
		named = conf->n_map ? bsearch(&key, conf->map, conf->n_map, sizeof(key), by_name)
				    : NULL;
		if (!named)
			return unknown_name(s, conf, route->requirement);
		st->req = &named->req;
	} else if (!route) {
		st->req = req_of_rules(s, conf, h);
	}
	if (!st->req) {
		count(s, conf, "allowed");
		return WEFT_NEXT;
	}
	st->realm = realm_of(s, h);
	jwt_sanitize(st->req, h);
	return run(st, h);
}

static void closed(struct weft_stream *s, const void *conf, void *vstate)
{
	struct state *st = vstate;

	jwt_wait_cancel(&st->wait);
}

const struct weft_http_filter weft_http_filter_jwt_authn = {
	.ext = {.name = JWT_NAMESPACE,
		.config =
			&envoy__extensions__filters__http__jwt_authn__v3__jwt_authentication__descriptor,
		.per_route =
			&envoy__extensions__filters__http__jwt_authn__v3__per_route_config__descriptor,
		.state_size = sizeof(struct state),
		.prepare = jwt_prepare,
		.prepare_route = jwt_prepare_route},
	.headers = headers,
	.closed = closed,
};
