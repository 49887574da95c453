/* envoy.filters.http.ext_authz: asks a service, by gRPC or HTTP, whether a request may go on. */
#include "proxy/core/worker.h"
#include "proxy/http/filters/ext_authz_priv.h"
#include "proxy/upstream/cluster.h"

#include <event2/buffer.h>
#include <stdio.h>
#include <string.h>

static void count(const struct authz_state *st, const char *what)
{
	char name[160];

	snprintf(name, sizeof(name), "%s%s", st->conf->prefix, what);
	weft_scope_add_named(weft_stream_scope(st->s), name, 1);
}

/* The same for the cluster that the request would go to. */
static void count_cluster(const struct authz_state *st, const char *name, int status)
{
	const struct weft_route *r = weft_stream_route(st->s);
	struct weft_route_in in = {.h = weft_stream_headers(st->s, WEFT_REQUEST),
				   .info = weft_stream_info(st->s),
				   .random = weft_stream_random(st->s),
				   .tls = weft_stream_is_tls(st->s)};
	const struct weft_weighted *pick;
	const char *cluster =
		r && r->action == WEFT_ROUTE_FORWARD ? weft_route_cluster(r, &in, &pick) : NULL;
	struct weft_wcluster *wc =
		cluster ? weft_wcluster_find(weft_stream_worker(st->s), cluster) : NULL;

	if (!wc)
		return;
	weft_scope_add_named(wc->cluster->scope, name, 1);
	if (status && st->conf->charge)
		weft_scope_code(wc->cluster->scope, (unsigned)status);
}

/* ---- answers */
/* What the service names takes the place of what is there; of one name it may give several. */
static void deny_edit(void *ctx, struct weft_headers *h)
{
	const struct authz_changes *c = ctx;

	for (size_t i = 0; i < c->n; i++)
		weft_headers_remove(h, c->v[i].name, c->v[i].name_n);
	for (size_t i = 0; i < c->n; i++)
		weft_headers_add(h, c->v[i].name, c->v[i].name_n, c->v[i].value, c->v[i].value_n);
}

static enum weft_flow refuse(struct authz_state *st, int status, const char *details,
			     const struct authz_answer *a)
{
	struct weft_reply r = {.status = status, .details = details};

	st->done = true;
	weft_info_flag(weft_stream_info(st->s), WEFT_FLAG_UAEX);
	if (a && a->body_n) {
		r.body = a->body;
		r.body_n = a->body_n;
		if (st->conf->denied_body_max && r.body_n > st->conf->denied_body_max)
			r.body_n = st->conf->denied_body_max;
	}
	if (a && a->response.n) {
		r.edit = deny_edit;
		r.ctx = (void *)&a->response;
	}
	return weft_stream_answer(st->s, &r);
}

static enum weft_flow failed(struct authz_state *st, const struct authz_answer *a)
{
	count(st, "error");
	count_cluster(st, "ext_authz.error", 0);
	if (!st->conf->allow_on_failure)
		return refuse(st, a && a->status ? a->status : st->conf->status_on_error,
			      "ext_authz_error", a);
	count(st, "failure_mode_allowed");
	count_cluster(st, "ext_authz.failure_mode_allowed", 0);
	if (st->conf->failure_header)
		weft_headers_set(weft_stream_headers(st->s, WEFT_REQUEST),
				 "x-envoy-auth-failure-mode-allowed", 33, "true", 4);
	st->done = true;
	return WEFT_NEXT;
}

static void take_meta(struct authz_state *st, const struct authz_answer *a)
{
	struct weft_info *info = weft_stream_info(st->s);
	Google__Protobuf__Struct *to;

	if (!a->meta || !a->meta->n_fields)
		return;
	if (!st->conf->take_meta) {
		count(st, "ignored_dynamic_metadata");
		return;
	}
	to = weft_info_meta(info, AUTHZ_NAMESPACE);
	for (size_t i = 0; i < a->meta->n_fields; i++)
		weft_struct_set(info->arena, to, a->meta->fields[i]->key,
				a->meta->fields[i]->value);
	if (a->verdict == AUTHZ_OK)
		weft_struct_set_number(info->arena, to, "ext_authz_duration",
				       (double)((weft_now_ns() - st->start_ns) / 1000000));
}

static enum weft_flow allowed(struct authz_state *st, const struct authz_answer *a)
{
	struct weft_headers *h = weft_stream_headers(st->s, WEFT_REQUEST);

	count_cluster(st, "ext_authz.ok", 0);
	authz_apply(&a->request, h);
	authz_query(a, h);
	if (st->conf->clear_route && (a->request.n || a->n_query_set || a->n_query_remove))
		weft_stream_clear_route(st->s);
	st->answer = a;
	st->done = true;
	count(st, "ok");
	return WEFT_NEXT;
}

static enum weft_flow decided(struct authz_state *st, const struct authz_answer *a)
{
	if (a->verdict == AUTHZ_DENIED) { /* also where it then is invalid */
		count(st, "denied");
		count_cluster(st, "ext_authz.denied", a->status);
	}
	if (a->rejected || (a->invalid && st->conf->validate)) {
		count(st, "invalid");
		count_cluster(st, "ext_authz.invalid", 0);
		st->done = true;
		weft_info_flag(weft_stream_info(st->s), WEFT_FLAG_UAEX);
		return weft_stream_reply(st->s, 500, "ext_authz_invalid", NULL, NULL, NULL);
	}
	take_meta(st, a);
	switch (a->verdict) {
	case AUTHZ_OK:
		return allowed(st, a);
	case AUTHZ_DENIED:
		return refuse(st, a->status, "ext_authz_denied", a);
	default:
		return failed(st, a);
	}
}

/* ---- asking */
static void on_answer(void *owner, const struct weft_call_result *r)
{
	struct authz_state *st = owner;
	struct weft_stream *s = st->s;

	st->call = NULL;
	if (!r->status && r->why == WEFT_RESET_TIMEOUT)
		count(st, "timeout");
	if (decided(st, authz_read(st, r)) == WEFT_NEXT)
		weft_stream_resume(s, st, WEFT_REQUEST);
}

static enum weft_flow ask(struct authz_state *st, struct evbuffer *body)
{
	st->started = true;
	st->start_ns = weft_now_ns();
	if (!authz_ask(st, body, on_answer))
		return failed(st, NULL); /* no such cluster */
	return WEFT_WAIT;
}

static bool is_on(struct weft_stream *s, const struct authz_conf *c)
{
	const struct weft_metamatch *m = c->enabled_meta;

	if (!weft_fraction_hit(c->enabled, weft_stream_random(s)))
		return false;
	return !m ||
	       weft_metamatch(m, weft_info_meta_get(weft_stream_info(s), m->ns)) == WEFT_MATCH_YES;
}

static enum weft_flow request(struct authz_state *st, const struct authz_route_conf *route,
			      bool end)
{
	struct weft_stream *s = st->s;

	st->service = route && route->service ? route->service : st->conf->service;
	st->body = route && route->body ? *route->body : st->conf->body;
	st->body.bytes = st->conf->body.bytes; /* the filter's word, as in Envoy */
	st->buffering =
		st->body.max && !(route && route->no_body) && !end && !weft_stream_upgrade(s);
	if (!st->buffering)
		return ask(st, NULL);
	if (st->body.partial)
		weft_stream_buffer_fill(s, WEFT_REQUEST, st->body.max);
	else
		weft_stream_buffer_limit(s, WEFT_REQUEST, st->body.max);
	return WEFT_WAIT;
}

static enum weft_flow headers(struct weft_stream *s, const void *vconf, void *vstate,
			      enum weft_dir d, struct weft_headers *h, bool end)
{
	struct authz_state *st = vstate;
	const struct authz_route_conf *route;

	if (d == WEFT_RESPONSE) {
		if (st->answer)
			authz_apply(&st->answer->response, h);
		return WEFT_NEXT;
	}
	st->s = s;
	st->conf = weft_stream_chain_conf(s, vstate);
	route = weft_stream_route_conf(s, vstate);
	if (!weft_stream_route(s) || (route && route->disabled)) {
		st->done = true; /* nothing is behind it, or it wants no check */
		return WEFT_NEXT;
	}
	if (!is_on(s, st->conf)) {
		count(st, "disabled");
		if (st->conf->deny_at_disable)
			return refuse(st, st->conf->status_on_error, "ext_authz_error", NULL);
		st->done = true;
		return WEFT_NEXT;
	}
	return request(st, route, end);
}

static enum weft_flow data(struct weft_stream *s, const void *conf, void *vstate, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	struct authz_state *st = vstate;

	if (d == WEFT_RESPONSE || st->done)
		return WEFT_NEXT;
	if (st->started)
		return WEFT_WAIT;
	/* without allow_partial_message what comes here is all of it */
	st->whole = end || !st->body.partial;
	return ask(st, b);
}

static enum weft_flow trailers(struct weft_stream *s, const void *conf, void *vstate,
			       enum weft_dir d, struct weft_headers *h)
{
	struct authz_state *st = vstate;

	if (d == WEFT_RESPONSE || st->done)
		return WEFT_NEXT;
	if (st->started)
		return WEFT_WAIT;
	st->whole = true;
	return ask(st, weft_stream_buffered(s, WEFT_REQUEST));
}

static void closed(struct weft_stream *s, const void *conf, void *vstate)
{
	struct authz_state *st = vstate;

	weft_call_cancel(st->call);
	st->call = NULL;
}

const struct weft_http_filter weft_http_filter_ext_authz = {
	.ext = {.name = AUTHZ_NAMESPACE,
		.config = &envoy__extensions__filters__http__ext_authz__v3__ext_authz__descriptor,
		.per_route =
			&envoy__extensions__filters__http__ext_authz__v3__ext_authz_per_route__descriptor,
		.state_size = sizeof(struct authz_state),
		.prepare = authz_prepare,
		.prepare_route = authz_prepare_route},
	.headers = headers,
	.data = data,
	.trailers = trailers,
	.closed = closed,
};
