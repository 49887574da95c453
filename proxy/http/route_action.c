/* What a route does to a request and its answer. */
#include "proxy/http/route_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

const char *weft_route_cluster(const struct weft_route *r, const struct weft_route_in *in,
			       const struct weft_weighted **ret_pick)
{
	const struct weft_route_priv *p = r->priv;
	const struct weft_header *h;
	uint64_t x = in->random;
	size_t lo = 0, hi;

	*ret_pick = NULL;
	if (p->cluster)
		return p->cluster;
	if (p->cluster_header) {
		h = weft_headers_find(in->h, p->cluster_header, 0);
		return h && h->value_len ? h->value : NULL;
	}
	if (!p->n_weighted)
		return NULL;
	if (p->weight_header) {
		h = weft_headers_find(in->h, p->weight_header, 0);
		if (h && h->value_len && h->value[0] >= '0' && h->value[0] <= '9')
			x = strtoull(h->value, NULL, 10);
	} else if (p->weight_hash) {
		uint64_t hash;

		if (weft_route_hash(r, in, NULL, &hash, NULL))
			x = hash;
	}
	x %= p->weights;
	hi = p->n_weighted - 1;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (p->weighted[mid].upto <= x)
			lo = mid + 1;
		else
			hi = mid;
	}
	*ret_pick = &p->weighted[lo];
	if (p->weighted[lo].cluster)
		return p->weighted[lo].cluster;
	h = weft_headers_find(in->h, p->weighted[lo].cluster_header, 0);
	return h && h->value_len ? h->value : NULL;
}

/* ---- rewrites */
static void path_set(struct weft_headers *h, const char *path, size_t n, const char *rest,
		     size_t rest_n)
{
	const struct weft_header *old = weft_headers_get(h, WEFT_H_PATH);
	char *s = weft_arena_alloc(h->arena, n + rest_n + 2);
	size_t k = 0;

	if (!n || path[0] != '/') /* a rewrite must leave a path */
		s[k++] = '/';
	memcpy(s + k, path, n);
	memcpy(s + k + n, rest, rest_n);
	if (old && !weft_headers_get(h, WEFT_H_X_ENVOY_ORIGINAL_PATH))
		weft_headers_set_id(h, WEFT_H_X_ENVOY_ORIGINAL_PATH, old->value, old->value_len);
	weft_headers_set_id(h, WEFT_H_PATH, s, k + n + rest_n);
}

static void prefix_replace(const struct weft_route_priv *p, const char *to, const char *path,
			   size_t n, size_t full, struct weft_headers *h)
{
	size_t to_n = strlen(to),
	       cut = p->kind == PATH_PREFIX || p->kind == PATH_SEPARATED ? p->path_n : n;
	char *s;

	if (cut > n)
		cut = n;
	s = weft_arena_alloc(h->arena, to_n + (n - cut) + 1);
	memcpy(s, to, to_n);
	memcpy(s + to_n, path + cut, n - cut);
	path_set(h, s, to_n + n - cut, path + n, full - n);
}

static void path_rewrite(const struct weft_route *r, struct weft_headers *h)
{
	const struct weft_route_priv *p = r->priv;
	const struct weft_header *ph = weft_headers_get(h, WEFT_H_PATH);
	const char *path, *s = NULL;
	size_t full, n, len = 0;

	if (!ph)
		return;
	path = ph->value;
	full = ph->value_len;
	n = route_path_len(path, full);
	if (p->prefix_rewrite) {
		prefix_replace(p, p->prefix_rewrite, path, n, full, h);
		return;
	}
	if (p->has_regex_rewrite)
		s = weft_regex_replace(p->regex_rewrite.re, p->regex_rewrite.subst, path, n,
				       h->arena, &len);
	else if (p->tmpl_rewrite)
		s = route_template_rewrite(p->tmpl_rewrite, p->tmpl, path, n, h->arena, &len);
	if (s)
		path_set(h, s, len, path + n, full - n);
}

static void host_set(const struct weft_route_priv *p, struct weft_headers *h, const char *host,
		     size_t n)
{
	const struct weft_header *old = weft_headers_get(h, WEFT_H_AUTHORITY);

	if (old && p->append_forwarded_host)
		weft_headers_append(h, WEFT_H_X_FORWARDED_HOST, old->value, old->value_len);
	if (old && !weft_headers_get(h, WEFT_H_X_ENVOY_ORIGINAL_HOST))
		weft_headers_set_id(h, WEFT_H_X_ENVOY_ORIGINAL_HOST, old->value, old->value_len);
	weft_headers_set_id(h, WEFT_H_AUTHORITY, host, n);
}

static void host_rewrite(const struct weft_route *r, const struct weft_weighted *w,
			 struct weft_headers *h)
{
	const struct weft_route_priv *p = r->priv;
	const struct weft_header *f;

	if (w && w->host_rewrite) {
		host_set(p, h, w->host_rewrite, strlen(w->host_rewrite));
	} else if (p->host_literal) {
		host_set(p, h, p->host_literal, strlen(p->host_literal));
	} else if (p->host_header) {
		f = weft_headers_find(h, p->host_header, 0);
		if (f && f->value_len)
			host_set(p, h, f->value, f->value_len);
	} else if (p->has_host_regex) {
		const char *path = weft_headers_value(h, WEFT_H_PATH), *s;
		size_t n;

		s = weft_regex_replace(p->host_regex.re, p->host_regex.subst, path,
				       route_path_len(path, strlen(path)), h->arena, &n);
		if (s && n)
			host_set(p, h, s, n);
	}
}

void weft_route_host_auto(const struct weft_route *r, struct weft_headers *h, const char *hostname)
{
	if (r->auto_host_rewrite && *hostname)
		host_set(r->priv, h, hostname, strlen(hostname));
}

/* Most specific first, so that the least specific has the last word, unless told otherwise. */
static void ops_in_order(const struct weft_route *r, const struct weft_weighted *w,
			 const struct weft_format_in *in, struct weft_headers *h, bool request)
{
	const struct weft_hdrops *o[4];
	size_t n = 0, i;

	if (w)
		o[n++] = request ? &w->req : &w->resp;
	o[n++] = request ? &r->priv->req : &r->priv->resp;
	o[n++] = request ? &r->vhost->req : &r->vhost->resp;
	o[n++] = request ? &r->routes->req : &r->routes->resp;
	for (i = 0; i < n; i++)
		weft_hdrops_apply(r->routes->most_specific ? o[n - 1 - i] : o[i], in, h);
}

void weft_route_request(const struct weft_route *r, const struct weft_weighted *w,
			const struct weft_format_in *in, struct weft_headers *h)
{
	ops_in_order(r, w, in, h, true);
	host_rewrite(r, w, h);
	path_rewrite(r, h);
}

void weft_route_response(const struct weft_route *r, const struct weft_weighted *w,
			 const struct weft_format_in *in, struct weft_headers *h)
{
	ops_in_order(r, w, in, h, false);
}

int weft_route_redirect(const struct weft_route *r, const struct weft_route_in *in,
			struct weft_arena *a, const char **ret_location)
{
	const struct weft_route_priv *p = r->priv;
	const struct route_redirect *d = p->redirect;
	const char *scheme = weft_headers_value(in->h, WEFT_H_SCHEME),
		   *host = weft_headers_value(in->h, WEFT_H_AUTHORITY),
		   *path = weft_headers_value(in->h, WEFT_H_PATH);
	size_t host_n = strlen(host), full = strlen(path), n = route_path_len(path, full), len = 0;
	const char *query = path + n, *colon;
	char port[16] = "";

	if (!*scheme)
		scheme = in->tls ? "https" : "http";
	colon = memrchr(host, ':', host_n);
	if (colon && memchr(colon, ']', host_n - (size_t)(colon - host)))
		colon = NULL; /* of an IPv6 address */
	if (d->https || d->scheme) {
		const char *to = d->https ? "https" : d->scheme;

		/* a port that is the old scheme's default does not fit the new one */
		if (colon && ((!strcmp(scheme, "http") && !strcmp(colon, ":80")) ||
			      (!strcmp(scheme, "https") && !strcmp(colon, ":443"))))
			host_n = (size_t)(colon - host);
		scheme = to;
	}
	if (d->host) {
		host = d->host;
		host_n = strlen(host);
	}
	if (d->port) {
		colon = memrchr(host, ':', host_n);
		if (colon && !memchr(colon, ']', host_n - (size_t)(colon - host)))
			host_n = (size_t)(colon - host);
		snprintf(port, sizeof(port), ":%u", d->port);
	}
	if (d->path) {
		path = d->path;
		n = strlen(path);
		if (strchr(path, '?'))
			query = "";
	} else if (d->prefix) {
		size_t cut = p->kind == PATH_PREFIX || p->kind == PATH_SEPARATED ? p->path_n : n;

		path = weft_arena_printf(a, "%s%.*s", d->prefix, (int)(n > cut ? n - cut : 0),
					 path + (cut < n ? cut : n));
		n = strlen(path);
	} else if (d->has_regex) {
		const char *s = weft_regex_replace(d->regex.re, d->regex.subst, path, n, a, &len);

		if (s) {
			path = s;
			n = len;
		}
	}
	*ret_location = weft_arena_printf(a, "%s://%.*s%s%.*s%s", scheme, (int)host_n, host, port,
					  (int)n, path, d->strip_query ? "" : query);
	return d->status;
}

int weft_route_direct(const struct weft_route *r, const struct weft_format_in *in,
		      const char **ret_body, size_t *ret_n, const struct weft_format **ret_format)
{
	*ret_body = r->priv->body;
	*ret_n = r->priv->body_n;
	*ret_format = r->priv->body_format;
	return r->priv->status;
}

/* ---- hash policies */
static bool hash_header(const struct route_hash *k, const struct weft_headers *h, uint64_t *ret)
{
	size_t n, len;
	const char *v = weft_headers_joined(h, k->name, strlen(k->name), &n), *s;

	if (!v)
		return false;
	if (k->has_rewrite) {
		s = weft_regex_replace(k->rewrite.re, k->rewrite.subst, v, n, h->arena, &len);
		if (!s)
			return false;
		v = s;
		n = len;
	}
	*ret = XXH64(v, n, 0);
	return true;
}

static bool hash_cookie(const struct route_hash *k, const struct weft_route_in *in,
			struct weft_arena *a, uint64_t *ret, const char **ret_set)
{
	size_t n;
	const char *v = weft_cookie_get(in->h, k->name, in->h->arena, &n);
	char value[17];

	if (v && n) {
		*ret = XXH64(v, n, 0);
		return true;
	}
	if (!k->make_cookie || !a || !ret_set)
		return false;
	snprintf(value, sizeof(value), "%016llx", (unsigned long long)in->random);
	if (k->ttl_s > 0)
		*ret_set = weft_arena_printf(a, "%s=\"%s\"; Max-Age=%lld%s; HttpOnly", k->name,
					     value, (long long)k->ttl_s, k->attributes);
	else
		*ret_set = weft_arena_printf(a, "%s=\"%s\"%s; HttpOnly", k->name, value,
					     k->attributes);
	*ret = XXH64(value, 16, 0);
	return true;
}

static bool hash_one(const struct route_hash *k, const struct weft_route_in *in,
		     struct weft_arena *a, uint64_t *ret, const char **ret_set)
{
	const char *path, *q, *v;
	char text[WEFT_IP_TEXT];
	size_t n;

	switch (k->kind) {
	case HASH_HEADER:
		return hash_header(k, in->h, ret);
	case HASH_COOKIE:
		return hash_cookie(k, in, a, ret, ret_set);
	case HASH_SOURCE_IP:
		if (!in->info || !in->info->remote.ip.family)
			return false;
		weft_ip_text(&in->info->remote.ip, text, sizeof(text));
		*ret = XXH64(text, strlen(text), 0);
		return true;
	case HASH_QUERY:
		path = weft_headers_value(in->h, WEFT_H_PATH);
		q = strchr(path, '?');
		v = q ? weft_query_get(q + 1, strlen(q + 1), k->name, in->h->arena, &n) : NULL;
		if (!v)
			return false;
		*ret = XXH64(v, n, 0);
		return true;
	}
	return false;
}

bool weft_route_hash(const struct weft_route *r, const struct weft_route_in *in,
		     struct weft_arena *a, uint64_t *ret, const char **ret_set_cookie)
{
	const struct weft_route_priv *p = r->priv;
	uint64_t all = 0, one;
	bool any = false;
	size_t i;

	for (i = 0; i < p->n_hash; i++) {
		if (hash_one(&p->hash[i], in, a, &one, ret_set_cookie)) {
			all = any ? ((all << 1) | (all >> 63)) ^ one : one;
			any = true;
		}
		if (any && p->hash[i].terminal)
			break;
	}
	*ret = all;
	return any;
}

/* ---- of filters */
static const struct route_filter *look(const struct route_filters *f, const char *name)
{
	size_t i;

	for (i = 0; f && i < f->n; i++)
		if (!strcmp(f->v[i].name, name))
			return &f->v[i];
	return NULL;
}

const void *weft_route_filter_conf(const struct weft_route *r, const struct weft_weighted *w,
				   const char *name, bool *ret_disabled)
{
	const struct route_filter *f = w ? look(w->filters, name) : NULL;

	if (!f)
		f = look(r->priv->filters, name);
	if (!f)
		f = look(r->vhost->filters, name);
	if (!f)
		f = look(r->routes->filters, name);
	*ret_disabled = f && f->disabled;
	return f ? f->conf : NULL;
}

size_t weft_route_filter_confs(const struct weft_route *r, const struct weft_weighted *w,
			       const char *name, const void *ret[4])
{
	const struct route_filters *levels[] = {w ? w->filters : NULL, r->priv->filters,
						r->vhost->filters, r->routes->filters};
	size_t n = 0, i;

	for (i = 0; i < 4; i++) {
		const struct route_filter *f = look(levels[i], name);

		if (f && f->conf)
			ret[n++] = f->conf;
	}
	return n;
}

const struct weft_ratelimits *weft_route_ratelimits(const struct weft_route *r)
{
	return r->priv->ratelimits;
}

const struct weft_ratelimits *weft_vhost_ratelimits(const struct weft_vhost *v)
{
	return v->ratelimits;
}

bool weft_route_has_filter_confs(const struct weft_route *r, const struct weft_weighted *w)
{
	return (w && w->filters) || r->priv->filters || r->vhost->filters || r->routes->filters;
}

int weft_route_upgrade(const struct weft_route *r, const char *type)
{
	size_t i;

	for (i = 0; i < r->priv->n_upgrades; i++)
		if (!strcasecmp(r->priv->upgrades[i].type, type))
			return r->priv->upgrades[i].enabled;
	return -1;
}

const char *weft_vhost_name(const struct weft_vhost *v)
{
	return v->name;
}

const Envoy__Config__Route__V3__VirtualHost *weft_vhost_msg(const struct weft_vhost *v)
{
	return v->msg;
}

const Envoy__Config__Core__V3__Metadata *weft_weighted_metadata(const struct weft_weighted *w)
{
	return w ? w->metadata_match : NULL;
}

bool weft_route_allowed_redirect(const struct weft_route *r, const char *to)
{
	size_t i;

	for (i = 0; i < r->priv->n_redirect_to; i++)
		if (!strcmp(r->priv->redirect_to[i], to))
			return true;
	return false;
}
