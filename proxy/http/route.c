/* A RouteConfiguration compiled, and the way from a request to its route. */
#include "proxy/http/route_priv.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { HOST_MAX = 1024 };

void weft_routes_ref(const struct weft_routes *r)
{
	((struct weft_routes *)r)->refs++;
}

void weft_routes_unref(const struct weft_routes *cr)
{
	struct weft_routes *r = (struct weft_routes *)cr;

	if (r && --r->refs == 0 && r->owned)
		weft_arena_free(r->owned);
}

void weft_routes_own(struct weft_routes *r, struct weft_arena *a)
{
	r->owned = a;
}

const char *weft_routes_name(const struct weft_routes *r)
{
	return r->name;
}

const Envoy__Config__Route__V3__RouteConfiguration *weft_routes_msg(const struct weft_routes *r)
{
	return r->msg;
}

/* ---- virtual hosts by domain */
static uint64_t hash_of(const char *s, size_t n)
{
	return XXH3_64bits(s, n);
}

static void table_init(struct weft_arena *a, struct domain_table *t, size_t n)
{
	size_t cap = 4;

	while (cap < 2 * n)
		cap *= 2;
	t->v = weft_arena_alloc(a, cap * sizeof(*t->v));
	t->mask = cap - 1;
}

static const struct weft_vhost *table_find(const struct domain_table *t, const char *s, size_t n)
{
	size_t i;

	if (!t->v)
		return NULL;
	for (i = hash_of(s, n) & t->mask; t->v[i].vhost; i = (i + 1) & t->mask)
		if (t->v[i].n == n && !memcmp(t->v[i].name, s, n))
			return t->v[i].vhost;
	return NULL;
}

/* NULL, or the virtual host that has it already. */
static const struct weft_vhost *table_add(struct domain_table *t, const char *s, size_t n,
					  const struct weft_vhost *v)
{
	size_t i;

	for (i = hash_of(s, n) & t->mask; t->v[i].vhost; i = (i + 1) & t->mask)
		if (t->v[i].n == n && !memcmp(t->v[i].name, s, n))
			return t->v[i].vhost;
	t->v[i] = (struct domain_slot){s, (uint32_t)n, v};
	return NULL;
}

static int longest_first(const void *a, const void *b)
{
	const struct domain_table *x = a, *y = b;

	return x->len < y->len ? 1 : x->len > y->len ? -1 : 0;
}

/* A table for each length of wildcard that is there. suffix: "*.foo". */
static void wild_tables(struct weft_arena *a, const struct weft_routes *r, bool suffix,
			struct domain_table **ret, size_t *ret_n)
{
	size_t *count = weft_xcalloc(HOST_MAX, sizeof(*count)), i, k, n = 0;
	struct domain_table *t;

	for (i = 0; i < r->n; i++)
		for (k = 0; k < r->v[i].n_domains; k++) {
			const char *d = r->v[i].domains[k];
			size_t len = strlen(d);

			if (len > 1 && len < HOST_MAX && (suffix ? d[0] : d[len - 1]) == '*' &&
			    !count[len - 1]++)
				n++;
		}
	t = weft_arena_alloc(a, (n + 1) * sizeof(*t));
	n = 0;
	for (i = 0; i < HOST_MAX; i++)
		if (count[i]) {
			table_init(a, &t[n], count[i]);
			t[n++].len = i;
		}
	free(count);
	if (n)
		qsort(t, n, sizeof(*t), longest_first);
	*ret = t;
	*ret_n = n;
}

static struct domain_table *table_of(struct domain_table *t, size_t n, size_t len)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (t[i].len == len)
			return &t[i];
	return NULL;
}

static int domain_add(struct weft_cfg *c, const struct weft_path *at, struct weft_routes *r,
		      const struct weft_vhost *v, const char *d)
{
	size_t n = strlen(d);
	const struct weft_vhost *other;

	if (!n || n >= HOST_MAX)
		return weft_cfg_fail(c, at, "must be 1..%d characters, has %zu", HOST_MAX - 1, n);
	if (!strcmp(d, "*")) {
		other = r->any;
		if (!other)
			r->any = v;
	} else if (*d == '*') {
		other = table_add(table_of(r->suffix, r->n_suffix, n - 1), d + 1, n - 1, v);
	} else if (d[n - 1] == '*') {
		other = table_add(table_of(r->prefix, r->n_prefix, n - 1), d, n - 1, v);
	} else {
		other = table_add(&r->exact, d, n, v);
	}
	if (strchr(*d == '*' ? d + 1 : d, '*') && strchr(*d == '*' ? d + 1 : d, '*') != d + n - 1)
		return weft_cfg_fail(c, at, "may have '*' at its beginning or end only, is \"%s\"",
				     d);
	if (other)
		return weft_cfg_fail(c, at, "\"%s\" stands already in virtual host \"%s\"", d,
				     other->name);
	return 0;
}

static int domains_prepare(struct weft_cfg *c, const struct weft_path *at, struct weft_routes *r)
{
	size_t i, k, n = 0;
	int err = 0;

	for (i = 0; i < r->n; i++)
		n += r->v[i].n_domains;
	table_init(c->arena, &r->exact, n);
	wild_tables(c->arena, r, true, &r->suffix, &r->n_suffix);
	wild_tables(c->arena, r, false, &r->prefix, &r->n_prefix);
	for (i = 0; i < r->n; i++)
		for (k = 0; k < r->v[i].n_domains; k++) {
			struct weft_path pv = {at, "virtual_hosts", (int)i},
					 pd = {&pv, "domains", (int)k};

			err |= domain_add(c, &pd, r, &r->v[i], r->v[i].domains[k]);
		}
	return err;
}

/* ---- routes of a virtual host */
static void unreachable(struct weft_cfg *c, const struct weft_path *at, const struct weft_vhost *v,
			uint32_t i)
{
	const struct weft_route_priv *p = v->v[i].priv;
	struct route_list l[ROUTE_DEPTH_MAX];
	struct weft_path pi = {at, "routes", (int)i};
	size_t n, k, j;

	if (!v->trie || p->ignore_case || p->kind > PATH_SEPARATED)
		return;
	n = route_trie_find(v->trie, p->path, p->path_n, l);
	for (k = 0; k < n; k++)
		for (j = 0; j < l[k].n && l[k].v[j] < i; j++) {
			const struct weft_route_priv *q = v->v[l[k].v[j]].priv;

			if (!q->plain || (q->kind == PATH_EXACT && p->kind != PATH_EXACT) ||
			    (q->kind == PATH_SEPARATED && p->kind == PATH_PREFIX))
				continue;
			weft_cfg_warn(c, &pi,
				      "is never reached: routes[%u] before it takes every path "
				      "under \"%s\"",
				      l[k].v[j], q->path);
			return;
		}
}

static void index_routes(struct weft_cfg *c, const struct weft_path *at, struct weft_vhost *v)
{
	uint32_t *rest = weft_arena_alloc(c->arena, (v->n + 1) * sizeof(*rest)), i;
	bool ok = true;

	for (i = 0; i < v->n; i++) {
		const struct weft_route_priv *p = v->v[i].priv;
		struct route_trie **t = p->ignore_case ? &v->trie_nocase : &v->trie;
		const char *path = p->path;
		size_t k;

		if (p->kind > PATH_SEPARATED) {
			rest[v->n_rest++] = i;
			continue;
		}
		if (!*t)
			*t = route_trie_new(c->arena);
		if (p->ignore_case) {
			char *low = weft_arena_strdup(c->arena, path);

			for (k = 0; k < p->path_n; k++)
				low[k] = (char)tolower((unsigned char)low[k]);
			path = low;
		}
		route_trie_add(*t, path, p->path_n, p->kind, i);
	}
	if (v->trie)
		ok = route_trie_seal(v->trie);
	if (v->trie_nocase)
		ok = ok && route_trie_seal(v->trie_nocase);
	if (!ok) {
		/* prefixes nested beyond reason: walked, as they stand */
		v->trie = v->trie_nocase = NULL;
		v->n_rest = v->n;
		for (i = 0; i < v->n; i++)
			rest[i] = i;
	}
	v->rest = rest;
	if (c->warns)
		for (i = 1; i < v->n; i++)
			unreachable(c, at, v, i);
}

static int vhost_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Route__V3__VirtualHost *m, struct weft_vhost *v)
{
	struct weft_path rqa = {at, "request_headers_to_add", -1},
			 rqd = {at, "request_headers_to_remove", -1},
			 rsa = {at, "response_headers_to_add", -1},
			 rsd = {at, "response_headers_to_remove", -1},
			 prt = {at, "retry_policy", -1}, pmi = {at, "request_mirror_policies", -1},
			 prl = {at, "rate_limits", -1};
	struct weft_route *routes = weft_arena_alloc(c->arena, (m->n_routes + 1) * sizeof(*routes));
	const char **domains = weft_arena_alloc(c->arena, (m->n_domains + 1) * sizeof(*domains));
	const struct weft_retry_policy *retry = NULL;
	const struct weft_mirror *mirrors = NULL;
	size_t n_mirrors = 0, i, k;
	int err = 0;

	v->msg = m;
	v->name = weft_arena_strdup(c->arena, m->name ? m->name : "");
	v->v = routes;
	v->n = m->n_routes;
	v->require_tls = (int)m->require_tls;
	for (i = 0; i < m->n_domains; i++) {
		char *low = weft_arena_strdup(c->arena, m->domains[i]);

		for (k = 0; low[k]; k++)
			low[k] = (char)tolower((unsigned char)low[k]);
		domains[i] = low;
	}
	v->domains = domains;
	v->n_domains = m->n_domains;
	err |= weft_hdrops_prepare(c, &rqa, m->request_headers_to_add, m->n_request_headers_to_add,
				   &v->req);
	err |= weft_hdrops_prepare_del(c, &rqd, m->request_headers_to_remove,
				       m->n_request_headers_to_remove, &v->req);
	err |= weft_hdrops_prepare(c, &rsa, m->response_headers_to_add,
				   m->n_response_headers_to_add, &v->resp);
	err |= weft_hdrops_prepare_del(c, &rsd, m->response_headers_to_remove,
				       m->n_response_headers_to_remove, &v->resp);
	err |= route_filters_prepare(c, at, (void *const *)m->typed_per_filter_config,
				     m->n_typed_per_filter_config, &v->filters);
	err |= weft_ratelimits_prepare(c, &prl, m->rate_limits, m->n_rate_limits, &v->ratelimits);
	err |= route_vclusters_prepare(c, at, m, &v->vclusters);
	if (m->retry_policy)
		err |= weft_retry_prepare(c, &prt, m->retry_policy, &retry);
	if (m->n_request_mirror_policies) {
		err |= route_mirrors_prepare(c, &pmi, m->request_mirror_policies,
					     m->n_request_mirror_policies, &mirrors);
		n_mirrors = m->n_request_mirror_policies;
	} else if (v->routes->msg->n_request_mirror_policies) {
		struct weft_path pt = {NULL, "request_mirror_policies", -1};

		err |= route_mirrors_prepare(c, &pt, v->routes->msg->request_mirror_policies,
					     v->routes->msg->n_request_mirror_policies, &mirrors);
		n_mirrors = v->routes->msg->n_request_mirror_policies;
	}
	v->hedge = m->hedge_policy && m->hedge_policy->hedge_on_per_try_timeout;
	for (i = 0; i < m->n_routes; i++) {
		struct weft_path pi = {at, "routes", (int)i};

		routes[i].vhost = v;
		routes[i].routes = v->routes;
		err |= route_prepare(c, &pi, m->routes[i], &routes[i]);
		if (routes[i].action != WEFT_ROUTE_FORWARD)
			continue;
		if (!routes[i].retry)
			routes[i].retry = retry;
		if (!routes[i].n_mirrors) {
			routes[i].mirrors = mirrors;
			routes[i].n_mirrors = n_mirrors;
		}
		routes[i].include_attempt_count = m->include_request_attempt_count;
		routes[i].include_attempt_count_in_response = m->include_attempt_count_in_response;
		routes[i].include_timeout_retry = m->include_is_timeout_retry_header;
	}
	if (!err)
		index_routes(c, at, v);
	return err;
}

int weft_routes_new(struct weft_cfg *c, const struct weft_path *at,
		    const Envoy__Config__Route__V3__RouteConfiguration *m, struct weft_routes **ret)
{
	struct weft_path rqa = {at, "request_headers_to_add", -1},
			 rqd = {at, "request_headers_to_remove", -1},
			 rsa = {at, "response_headers_to_add", -1},
			 rsd = {at, "response_headers_to_remove", -1};
	struct weft_routes *r = weft_arena_alloc(c->arena, sizeof(*r));
	size_t i;
	int err = 0;

	r->refs = 1;
	r->msg = m;
	r->name = weft_arena_strdup(c->arena, m->name ? m->name : "");
	r->ignore_port = m->ignore_port_in_host_matching;
	r->ignore_params = m->ignore_path_parameters_in_path_matching;
	r->most_specific = m->most_specific_header_mutations_wins;
	r->vhost_header = m->vhost_header && *m->vhost_header
				  ? weft_arena_strdup(c->arena, m->vhost_header)
				  : NULL;
	r->n = m->n_virtual_hosts;
	r->v = weft_arena_alloc(c->arena, (r->n + 1) * sizeof(*r->v));
	err |= weft_hdrops_prepare(c, &rqa, m->request_headers_to_add, m->n_request_headers_to_add,
				   &r->req);
	err |= weft_hdrops_prepare_del(c, &rqd, m->request_headers_to_remove,
				       m->n_request_headers_to_remove, &r->req);
	err |= weft_hdrops_prepare(c, &rsa, m->response_headers_to_add,
				   m->n_response_headers_to_add, &r->resp);
	err |= weft_hdrops_prepare_del(c, &rsd, m->response_headers_to_remove,
				       m->n_response_headers_to_remove, &r->resp);
	err |= route_filters_prepare(c, at, (void *const *)m->typed_per_filter_config,
				     m->n_typed_per_filter_config, &r->filters);
	for (i = 0; i < r->n; i++) {
		struct weft_path pv = {at, "virtual_hosts", (int)i};

		r->v[i].routes = r;
		err |= vhost_prepare(c, &pv, m->virtual_hosts[i], &r->v[i]);
	}
	err |= domains_prepare(c, at, r);
	*ret = r;
	return err ? -EINVAL : 0;
}

/* ---- finding */
size_t route_path_len(const char *path, size_t n)
{
	const char *q = memchr(path, '?', n), *f;

	if (q)
		n = (size_t)(q - path);
	f = memchr(path, '#', n);
	return f ? (size_t)(f - path) : n;
}

static const struct weft_vhost *vhost_find(const struct weft_routes *r,
					   const struct weft_headers *h)
{
	const struct weft_header *host = r->vhost_header ? weft_headers_find(h, r->vhost_header, 0)
							 : weft_headers_get(h, WEFT_H_AUTHORITY);
	const struct weft_vhost *v;
	char low[HOST_MAX];
	size_t n, i;

	if (r->n == 1 && r->any == &r->v[0] && r->v[0].n_domains == 1)
		return r->any;
	if (!host || host->value_len >= HOST_MAX)
		return r->any;
	n = host->value_len;
	for (i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)host->value[i];

		low[i] = (char)(ch >= 'A' && ch <= 'Z' ? ch + 32 : ch);
	}
	if (r->ignore_port && n) {
		size_t end = n;

		while (end && isdigit((unsigned char)low[end - 1]))
			end--;
		if (end && end < n && low[end - 1] == ':')
			n = end - 1;
	}
	v = table_find(&r->exact, low, n);
	for (i = 0; !v && i < r->n_suffix; i++) /* "*.foo" needs something in the star's place */
		if (n > r->suffix[i].len)
			v = table_find(&r->suffix[i], low + n - r->suffix[i].len, r->suffix[i].len);
	for (i = 0; !v && i < r->n_prefix; i++)
		if (n > r->prefix[i].len)
			v = table_find(&r->prefix[i], low, r->prefix[i].len);
	return v ? v : r->any;
}

static bool is_grpc(const struct weft_headers *h)
{
	const struct weft_header *t = weft_headers_get(h, WEFT_H_CONTENT_TYPE);

	return t && t->value_len >= 16 && !memcmp(t->value, "application/grpc", 16) &&
	       (t->value_len == 16 || t->value[16] == '+' || t->value[16] == ';');
}

static bool tls_fits(const struct weft_route_priv *p, const struct weft_route_in *in)
{
	const struct weft_tls_info *t = in->info && in->info->down ? in->info->down->tls : NULL;
	bool presented = t && t->peer_presented, verified = t && t->peer_verified;

	return (p->tls_presented < 0 || p->tls_presented == presented) &&
	       (p->tls_validated < 0 || p->tls_validated == verified);
}

/* Everything but the path. A limit of a regular expression counts as no. */
static bool fits(const struct weft_route_priv *p, const struct weft_route_in *in, const char *path,
		 size_t path_n, size_t full_n)
{
	size_t i;

	if (p->plain)
		return true;
	if (p->n_headers && weft_hdrmatch_all(p->headers, p->n_headers, in->h) != WEFT_MATCH_YES)
		return false;
	if (p->n_query) {
		size_t from = path_n < full_n && path[path_n] == '?' ? path_n + 1 : full_n;
		const char *hash = memchr(path + from, '#', full_n - from);
		size_t to = hash ? (size_t)(hash - path) : full_n;

		if (weft_querymatch_raw(p->query, p->n_query, path + from, to - from) !=
		    WEFT_MATCH_YES)
			return false;
	}
	if (p->grpc && !is_grpc(in->h))
		return false;
	if (p->has_tls && !tls_fits(p, in))
		return false;
	for (i = 0; i < p->n_meta; i++)
		if (weft_metamatch(&p->meta[i],
				   in->info ? weft_info_meta_get(in->info, p->meta[i].ns) : NULL) !=
		    WEFT_MATCH_YES)
			return false;
	return weft_fraction_hit(p->fraction, in->random);
}

/* Of the routes that no tree has. */
static bool rest_path_fits(const struct weft_route_priv *p, const char *path, size_t n,
			   bool connect)
{
	switch (p->kind) {
	case PATH_REGEX:
		return weft_regex_full(p->regex, path, n) == WEFT_MATCH_YES;
	case PATH_TEMPLATE:
		return route_template_match(p->tmpl, path, n);
	case PATH_CONNECT:
		return connect;
	case PATH_EXACT:
		return n == p->path_n &&
		       !(p->ignore_case ? strncasecmp(path, p->path, n) : memcmp(path, p->path, n));
	default:
		if (n < p->path_n || (p->ignore_case ? strncasecmp(path, p->path, p->path_n)
						     : memcmp(path, p->path, p->path_n)))
			return false;
		return p->kind == PATH_PREFIX || n == p->path_n || path[p->path_n] == '/';
	}
}

struct walk {
	struct route_list l[2 * ROUTE_DEPTH_MAX + 1];
	size_t n;
};

/* Lists of routes whose path may fit, each ascending. */
static void gather(const struct weft_vhost *v, const char *path, size_t n, struct walk *w)
{
	char low[512], *heap = NULL, *s = low;
	size_t i;

	w->n = 0;
	if (v->trie)
		w->n = route_trie_find(v->trie, path, n, w->l);
	if (v->trie_nocase) {
		if (n > sizeof(low))
			s = heap = weft_xcalloc(1, n);
		for (i = 0; i < n; i++)
			s[i] = (char)tolower((unsigned char)path[i]);
		w->n += route_trie_find(v->trie_nocase, s, n, w->l + w->n);
		free(heap);
	}
	if (v->n_rest)
		w->l[w->n++] = (struct route_list){v->rest, v->n_rest};
}

static const struct weft_route *route_find(const struct weft_vhost *v,
					   const struct weft_route_in *in)
{
	const struct weft_header *ph = weft_headers_get(in->h, WEFT_H_PATH), *m;
	const char *path = ph ? ph->value : "";
	size_t full = ph ? ph->value_len : 0, n = route_path_len(path, full);
	bool connect;
	struct walk w;

	m = weft_headers_get(in->h, WEFT_H_METHOD);
	connect = m && m->value_len == 7 && !memcmp(m->value, "CONNECT", 7);
	if (v->routes->ignore_params) {
		const char *semi = memchr(path, ';', n);

		if (semi)
			n = (size_t)(semi - path);
	}
	gather(v, path, n, &w);
	if (connect && !ph) { /* CONNECT without a path fits connect_matcher only */
		w.n = v->n_rest ? 1 : 0;
		w.l[0] = (struct route_list){v->rest, v->n_rest};
	}
	for (;;) {
		const struct route_list *rest = v->n_rest && w.n ? &w.l[w.n - 1] : NULL;
		size_t best = w.n, i;
		const struct weft_route *r;
		bool is_rest;

		for (i = 0; i < w.n; i++)
			if (w.l[i].n && (best == w.n || w.l[i].v[0] < w.l[best].v[0]))
				best = i;
		if (best == w.n)
			return NULL;
		r = &v->v[w.l[best].v[0]];
		is_rest = rest == &w.l[best];
		w.l[best].v++;
		w.l[best].n--;
		if (is_rest && !rest_path_fits(r->priv, path, n, connect))
			continue;
		if (fits(r->priv, in, path, route_path_len(path, full), full))
			return r;
	}
}

const struct weft_route *weft_routes_find(const struct weft_routes *r,
					  const struct weft_route_in *in, bool *ret_tls_redirect)
{
	const struct weft_vhost *v = vhost_find(r, in->h);

	*ret_tls_redirect = false;
	if (!v)
		return NULL;
	if (v->require_tls && !in->tls) {
		const struct weft_header *internal =
			weft_headers_get(in->h, WEFT_H_X_ENVOY_INTERNAL);

		if (v->require_tls ==
			    ENVOY__CONFIG__ROUTE__V3__VIRTUAL_HOST__TLS_REQUIREMENT_TYPE__ALL ||
		    !internal) {
			*ret_tls_redirect = true;
			return NULL;
		}
	}
	return route_find(v, in);
}

/* ---- telling why */
static const char *misfit(const struct weft_route_priv *p, const struct weft_route_in *in,
			  const char *path, size_t n, size_t full, char buf[160])
{
	struct weft_route_priv one = *p;
	size_t i;

	if (!rest_path_fits(p, path, n,
			    !strcmp(weft_headers_value(in->h, WEFT_H_METHOD), "CONNECT")))
		return "path";
	for (i = 0; i < p->n_headers; i++)
		if (weft_hdrmatch(&p->headers[i], in->h) != WEFT_MATCH_YES) {
			snprintf(buf, 160, "header %s", p->headers[i].name);
			return buf;
		}
	one.n_headers = 0;
	one.fraction = 1000000;
	one.plain = false;
	if (!fits(&one, in, path, n, full))
		return p->grpc ? "gRPC, query, TLS or metadata" : "query, TLS or metadata";
	return fits(p, in, path, n, full) ? NULL : "fraction of requests";
}

void weft_routes_explain(const struct weft_routes *r, const struct weft_route_in *in,
			 struct evbuffer *out)
{
	const struct weft_vhost *v = vhost_find(r, in->h);
	const char *path = weft_headers_value(in->h, WEFT_H_PATH);
	size_t full = strlen(path), n = route_path_len(path, full), i;
	const char *semi = r->ignore_params ? memchr(path, ';', n) : NULL;
	char buf[160];

	if (semi)
		n = (size_t)(semi - path);
	if (!v) {
		evbuffer_add_printf(out, "no virtual host of %s has the domain \"%s\"\n", r->name,
				    weft_headers_value(in->h, WEFT_H_AUTHORITY));
		return;
	}
	evbuffer_add_printf(out, "virtual host %s\n", v->name);
	for (i = 0; i < v->n; i++) {
		const char *why = misfit(v->v[i].priv, in, path, n, full, buf);

		evbuffer_add_printf(out, "routes[%zu]%s%s: %s%s\n", i, *v->v[i].name ? " " : "",
				    v->v[i].name, why ? "no: " : "taken", why ? why : "");
		if (!why)
			return;
	}
	evbuffer_add_printf(out, "no route takes it\n");
}
