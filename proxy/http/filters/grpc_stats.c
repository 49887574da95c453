/* envoy.filters.http.grpc_stats: counts gRPC calls and their messages, under the cluster's numbers.
 */
#include "proxy/core/scope.h"
#include "proxy/http/filter.h"
#include "proxy/http/route.h"
#include "proxy/upstream/cluster.h"

#include "xds/proto/envoy/extensions/filters/http/grpc_stats/v3/config.pb-c.h"
#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__GrpcStats__V3__FilterConfig stats_msg;

enum { NAME_MAX_BYTES = 256 /* of a service with its method, as a client says them */ };

struct conf {
	bool all, upstream_time, replace_dots;
	const char *const *allowed; /* "service/method", sorted */
	size_t n_allowed;
};
struct frames {	       /* of a direction */
	uint32_t left; /* of the message */
	uint8_t head;  /* bytes of the next head that were seen */
};
struct state {
	struct weft_cluster *cluster; /* referenced; NULL: nothing is counted */
	const char *prefix;	      /* "grpc.SERVICE.METHOD." or "grpc." */
	bool response;		      /* is of gRPC */
	struct frames frames[WEFT_DIRS];
};

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int allow_prepare(struct weft_cfg *c, const Envoy__Config__Core__V3__GrpcMethodList *m,
			 struct conf *conf)
{
	const char **v;
	size_t n = 0, k = 0;

	for (size_t i = 0; i < m->n_services; i++)
		n += m->services[i]->n_method_names;
	v = weft_arena_alloc(c->arena, (n + 1) * sizeof(*v));
	for (size_t i = 0; i < m->n_services; i++)
		for (size_t j = 0; j < m->services[i]->n_method_names; j++)
			v[k++] = weft_arena_printf(c->arena, "%s/%s", m->services[i]->name,
						   m->services[i]->method_names[j]);
	qsort(v, n, sizeof(*v), by_text);
	conf->allowed = v;
	conf->n_allowed = n;
	return 0;
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const stats_msg *m = (const void *)msg;
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	*ret = conf;
	conf->upstream_time = m->enable_upstream_stats;
	conf->replace_dots = m->replace_dots_in_grpc_service_name;
	switch (m->per_method_stat_specifier_case) {
	case ENVOY__EXTENSIONS__FILTERS__HTTP__GRPC_STATS__V3__FILTER_CONFIG__PER_METHOD_STAT_SPECIFIER_INDIVIDUAL_METHOD_STATS_ALLOWLIST:
		return allow_prepare(c, m->individual_method_stats_allowlist, conf);
	case ENVOY__EXTENSIONS__FILTERS__HTTP__GRPC_STATS__V3__FILTER_CONFIG__PER_METHOD_STAT_SPECIFIER_STATS_FOR_ALL_METHODS:
		conf->all = weft_cfg_bool(m->stats_for_all_methods, false);
		break;
	default:
		break;
	}
	return 0;
}

/* ---- which call it is */

static bool is_grpc(const struct weft_headers *h)
{
	const struct weft_header *t = weft_headers_get(h, WEFT_H_CONTENT_TYPE);

	return t && t->value_len >= 16 && !memcmp(t->value, "application/grpc", 16) &&
	       (t->value_len == 16 || t->value[16] == '+');
}

/* A path that names no method is no call; others that split() refuses are, without a name. */
static bool is_call(const struct weft_headers *h)
{
	const char *path = weft_headers_value(h, WEFT_H_PATH);
	size_t n = strcspn(path, "?");
	const char *p = n > 1 ? memchr(path + 1, '/', n - 1) : NULL;

	return *path == '/' && p && p > path + 1 && p + 1 < path + n &&
	       !memchr(p + 1, '/', (size_t)(path + n - p - 1));
}

/* "/service/method", with nothing more than a query; false: not of that form. */
static bool split(const struct weft_headers *h, struct weft_arena *a, char **service,
		  const char **method)
{
	const struct weft_header *path = weft_headers_get(h, WEFT_H_PATH);
	size_t n = path ? strcspn(path->value, "?") : 0;
	char *s, *p;

	if (n < 4 || n > NAME_MAX_BYTES || *path->value != '/')
		return false;
	s = weft_arena_strndup(a, path->value + 1, n - 1);
	for (p = s; *p; p++)
		if (*p < '!' || *p > '~')
			return false;
	p = strchr(s, '/');
	if (!p || p == s || !p[1] || strchr(p + 1, '/'))
		return false;
	*p = '\0';
	*service = s;
	*method = p + 1;
	return true;
}

static const char *prefix_of(const struct conf *conf, const struct weft_headers *h,
			     struct weft_arena *a)
{
	const char *method, *both;
	char *service;

	if (!split(h, a, &service, &method))
		return conf->all || !is_call(h) ? NULL : "grpc.";
	if (!conf->all) {
		both = weft_arena_printf(a, "%s/%s", service, method);
		if (!conf->n_allowed ||
		    !bsearch(&both, conf->allowed, conf->n_allowed, sizeof(both), by_text))
			return "grpc.";
	}
	for (char *p = service; conf->replace_dots && *p; p++)
		*p = *p == '.' ? '_' : *p;
	return weft_arena_printf(a, "grpc.%s.%s.", service, method);
}

static struct weft_cluster *cluster_of(struct weft_stream *s, const struct weft_headers *h)
{
	const struct weft_route *r = weft_stream_route(s);
	struct weft_route_in in = {h, weft_stream_info(s), weft_stream_random(s),
				   weft_stream_is_tls(s)};
	const struct weft_weighted *w;
	struct weft_wcluster *wc;
	const char *name;

	if (!r || r->action != WEFT_ROUTE_FORWARD)
		return NULL;
	name = weft_route_cluster(r, &in, &w);
	wc = name ? weft_wcluster_find(weft_stream_worker(s), name) : NULL;
	return wc ? wc->cluster : NULL;
}

/* ---- counting */

static void count(struct weft_stream *s, const struct state *st, const char *item, int64_t n)
{
	weft_scope_add_named(st->cluster->scope,
			     weft_arena_printf(weft_stream_arena(s), "%s%s", st->prefix, item), n);
}

static void count_status(struct weft_stream *s, const struct state *st,
			 const struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_GRPC_STATUS);

	if (!f)
		return;
	if (f->value_len && f->value_len < 10 && strspn(f->value, "0123456789") == f->value_len)
		count(s, st, f->value, 1);
	count(s, st, !strcmp(f->value, "0") ? "success" : "failure", 1);
	count(s, st, "total", 1);
}

static void count_time(struct weft_stream *s, const struct conf *conf, const struct state *st)
{
	const struct weft_info *i = weft_stream_info(s);

	if (conf->upstream_time && i->up_last_rx_ns && i->up_last_tx_ns &&
	    i->up_last_rx_ns >= i->up_last_tx_ns)
		weft_scope_record_named(
			st->cluster->scope,
			weft_arena_printf(weft_stream_arena(s), "%supstream_rq_time", st->prefix),
			(i->up_last_rx_ns - i->up_last_tx_ns) / 1000000);
}

/* How many messages begin in it. */
static unsigned frames_in(struct frames *f, const uint8_t *p, size_t n)
{
	unsigned began = 0;

	while (n) {
		if (!f->head && f->left) {
			size_t skip = f->left < n ? f->left : n;

			f->left -= (uint32_t)skip;
			p += skip;
			n -= skip;
			continue;
		}
		if (!f->head)
			began++;
		else
			f->left = f->left << 8 | *p;
		f->head = (uint8_t)((f->head + 1) % 5);
		p++;
		n--;
	}
	return began;
}

static unsigned messages(struct frames *f, struct evbuffer *b)
{
	struct evbuffer_iovec v[16];
	struct evbuffer_ptr at;
	unsigned began = 0;
	int n;

	evbuffer_ptr_set(b, &at, 0, EVBUFFER_PTR_SET);
	while (at.pos >= 0 && (size_t)at.pos < evbuffer_get_length(b) &&
	       (n = evbuffer_peek(b, -1, &at, v, 16)) > 0) {
		size_t seen = 0;

		for (int i = 0; i < n && i < 16; i++) {
			began += frames_in(f, v[i].iov_base, v[i].iov_len);
			seen += v[i].iov_len;
		}
		if (evbuffer_ptr_set(b, &at, seen, EVBUFFER_PTR_ADD) < 0)
			break;
	}
	return began;
}

/* ---- callbacks */

static void request(struct weft_stream *s, const struct conf *conf, struct state *st,
		    const struct weft_headers *h)
{
	struct weft_cluster *cluster = is_grpc(h) && !st->cluster ? cluster_of(s, h) : NULL;
	const char *prefix = cluster ? prefix_of(conf, h, weft_stream_arena(s)) : NULL;

	if (!prefix)
		return;
	weft_cluster_ref(cluster);
	st->cluster = cluster;
	st->prefix = prefix;
}

static enum weft_flow headers(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	struct state *st = state;

	if (d == WEFT_REQUEST) {
		request(s, conf, st, h);
		return WEFT_NEXT;
	}
	if (!st->cluster)
		return WEFT_NEXT;
	st->response = !end && weft_headers_status(h) == 200 && is_grpc(h);
	count_status(s, st, h);
	if (end)
		count_time(s, conf, st);
	return WEFT_NEXT;
}

static enum weft_flow data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	struct state *st = state;
	unsigned n;

	if (!st->cluster || (d == WEFT_RESPONSE && !st->response))
		return WEFT_NEXT;
	n = messages(&st->frames[d], b);
	if (n)
		count(s, st, d == WEFT_REQUEST ? "request_message_count" : "response_message_count",
		      n);
	if (end && d == WEFT_RESPONSE)
		count_time(s, conf, st);
	return WEFT_NEXT;
}

static enum weft_flow trailers(struct weft_stream *s, const void *conf, void *state,
			       enum weft_dir d, struct weft_headers *h)
{
	struct state *st = state;

	if (d == WEFT_REQUEST || !st->cluster)
		return WEFT_NEXT;
	count_status(s, st, h);
	count_time(s, conf, st);
	return WEFT_NEXT;
}

static void closed(struct weft_stream *s, const void *conf, void *state)
{
	struct state *st = state;

	if (st->cluster)
		weft_cluster_unref(st->cluster);
	st->cluster = NULL;
}

const struct weft_http_filter weft_http_filter_grpc_stats = {
	.ext = {.name = "envoy.filters.http.grpc_stats",
		.config =
			&envoy__extensions__filters__http__grpc_stats__v3__filter_config__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare},
	.headers = headers,
	.data = data,
	.trailers = trailers,
	.closed = closed,
};
