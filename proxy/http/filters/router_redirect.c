/* Internal redirects: an answer that points elsewhere is followed here instead of by the client. */
#include "proxy/http/filters/router_priv.h"

#include "xds/proto/envoy/extensions/internal_redirect/allow_listed_routes/v3/allow_listed_routes_config.pb-c.h"
#include "xds/proto/envoy/extensions/internal_redirect/previous_routes/v3/previous_routes_config.pb-c.h"
#include "xds/proto/envoy/extensions/internal_redirect/safe_cross_scheme/v3/safe_cross_scheme_config.pb-c.h"
#include <ctype.h>
#include <string.h>
#include <strings.h>

typedef Envoy__Config__Route__V3__InternalRedirectPolicy policy_msg;

static bool code_wanted(const policy_msg *p, int status)
{
	size_t i;

	if (!p->n_redirect_response_codes)
		return status == 302;
	for (i = 0; i < p->n_redirect_response_codes; i++)
		if (p->redirect_response_codes[i] == (uint32_t)status)
			return true;
	return false;
}

struct target {
	const char *scheme, *host, *path;
};

/* An absolute URL: as in Envoy a path of the same host is the client's to follow. */
static bool parse(struct router *r, const char *s, struct target *t)
{
	struct weft_arena *a = weft_stream_arena(r->s);
	const char *host;
	size_t n;

	if (!strncasecmp(s, "http://", 7))
		t->scheme = "http";
	else if (!strncasecmp(s, "https://", 8))
		t->scheme = "https";
	else
		return false;
	host = strstr(s, "://") + 3;
	n = strcspn(host, "/?#");
	if (!n || memchr(host, '@', n))
		return false;
	t->host = weft_arena_strndup(a, host, n);
	t->path = host[n] == '/' ? host + n : weft_arena_printf(a, "/%s", host + n);
	n = strcspn(t->path, "#");
	t->path = weft_arena_strndup(a, t->path, n);
	return true;
}

static const ProtobufCMessageDescriptor *type_of(const Google__Protobuf__Any *any)
{
	return any ? weft_cfg_type(any->type_url) : NULL;
}

/* What the predicates say of the route that the new request would take. */
static bool predicates_pass(struct router *r, const policy_msg *p, const struct weft_route *next,
			    bool to_tls)
{
	size_t i;

	for (i = 0; i < p->n_predicates; i++) {
		const ProtobufCMessageDescriptor *d = type_of(p->predicates[i]->typed_config);

		if (d ==
		    &envoy__extensions__internal_redirect__safe_cross_scheme__v3__safe_cross_scheme_config__descriptor) {
			if (!weft_stream_is_tls(r->s) && to_tls)
				return false;
		} else if (
			d ==
			&envoy__extensions__internal_redirect__previous_routes__v3__previous_routes_config__descriptor) {
			if (next == r->route)
				return false;
		} else if (
			d ==
			&envoy__extensions__internal_redirect__allow_listed_routes__v3__allow_listed_routes_config__descriptor) {
			if (!weft_route_allowed_redirect(r->route, next->name))
				return false;
		}
	}
	return true;
}

bool router_redirect(struct router *r, const struct weft_headers *h)
{
	const policy_msg *p = r->route->msg->route->internal_redirect_policy;
	struct weft_cluster *c = r->wc->cluster;
	struct weft_info *info = weft_stream_info(r->s);
	const char *location = weft_headers_value(h, WEFT_H_LOCATION);
	struct weft_headers probe;
	const struct weft_route *next;
	struct target t;
	bool tls_redirect, https;
	size_t i;

	if (!code_wanted(p, weft_headers_status(h)))
		return false;
	if (!*location || !r->req_end || r->trailers || weft_stream_upgrade(r->s) ||
	    (r->body_expected && !r->keep) ||
	    info->internal_redirects >= weft_cfg_u32(p->max_internal_redirects, 1) ||
	    !parse(r, location, &t))
		goto refuse;
	https = !strcmp(t.scheme, "https");
	if (https != weft_stream_is_tls(r->s) && !p->allow_cross_scheme_redirect)
		goto refuse;
	weft_headers_init(&probe, weft_stream_arena(r->s));
	weft_headers_copy(&probe, r->req);
	weft_headers_set_id(&probe, WEFT_H_SCHEME, t.scheme, strlen(t.scheme));
	weft_headers_set_id(&probe, WEFT_H_AUTHORITY, t.host, strlen(t.host));
	weft_headers_set_id(&probe, WEFT_H_PATH, t.path, strlen(t.path));
	next = weft_routes_find(
		r->route->routes,
		&(struct weft_route_in){&probe, info, weft_stream_random(r->s), https},
		&tls_redirect);
	if (!next || !predicates_pass(r, p, next, https))
		goto refuse;
	weft_headers_set(r->req, "x-envoy-original-url", 20,
			 weft_arena_printf(weft_stream_arena(r->s), "%s://%s%s",
					   weft_headers_value(r->req, WEFT_H_SCHEME),
					   weft_headers_value(r->req, WEFT_H_AUTHORITY),
					   weft_headers_value(r->req, WEFT_H_PATH)),
			 strlen(weft_headers_value(r->req, WEFT_H_SCHEME)) +
				 strlen(weft_headers_value(r->req, WEFT_H_AUTHORITY)) +
				 strlen(weft_headers_value(r->req, WEFT_H_PATH)) + 3);
	for (i = 0; i < p->n_response_headers_to_copy; i++) {
		const char *name = p->response_headers_to_copy[i];
		const struct weft_header *f = weft_headers_find(h, name, 0);

		weft_headers_remove(r->req, name, strlen(name));
		if (f)
			weft_headers_set(r->req, name, strlen(name), f->value, f->value_len);
	}
	if (weft_headers_status(h) == 303 &&
	    strcmp(weft_headers_value(r->req, WEFT_H_METHOD), "GET") &&
	    strcmp(weft_headers_value(r->req, WEFT_H_METHOD), "HEAD")) {
		weft_headers_set_id(r->req, WEFT_H_METHOD, "GET", 3);
		weft_headers_remove_id(r->req, WEFT_H_CONTENT_LENGTH);
		weft_headers_remove_id(r->req, WEFT_H_TRANSFER_ENCODING);
		if (r->keep)
			evbuffer_drain(r->keep, evbuffer_get_length(r->keep));
	}
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_ORIGINAL_PATH);
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_ORIGINAL_HOST);
	weft_headers_set_id(r->req, WEFT_H_SCHEME, t.scheme, strlen(t.scheme));
	weft_headers_set_id(r->req, WEFT_H_AUTHORITY, t.host, strlen(t.host));
	weft_headers_set_id(r->req, WEFT_H_PATH, t.path, strlen(t.path));
	info->internal_redirects++;
	info->status = weft_headers_status(h); /* for the log of what ends here */
	info->details = "internal_redirect";
	weft_scope_add(c->scope, WEFT_CLUSTER_upstream_internal_redirect_succeeded_total, 1);
	router_free_attempt(r, true);
	router_timers_off(r);
	/* r is gone after this: the chain begins anew */
	if (weft_stream_restart_body(r->s, r->keep))
		router_reply(r, 503, WEFT_FLAG_LR, "internal_redirect_failed", NULL, false);
	return true;
refuse:
	weft_scope_add(c->scope, WEFT_CLUSTER_upstream_internal_redirect_failed_total, 1);
	return false;
}
