/* envoy.filters.http.header_mutation: changes heads, trailers and query parameters in the order of
 * the list: the chain's changes first, then those of routes. */
#include "proxy/http/filter.h"
#include "proxy/http/mutations.h"

#include "xds/proto/envoy/extensions/filters/http/header_mutation/v3/header_mutation.pb-c.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__HeaderMutation__V3__HeaderMutation filter_msg;
typedef Envoy__Extensions__Filters__Http__HeaderMutation__V3__HeaderMutationPerRoute route_msg;
typedef Envoy__Extensions__Filters__Http__HeaderMutation__V3__Mutations mutations_msg;

enum { QUERY_MAX = 256 }; /* parameters of one request */

struct query_mutation {
	const char *key;
	const char *value; /* NULL: remove */
	size_t value_n;
	const struct weft_format *format;
	int how;
};
struct conf {
	struct weft_mutations head[WEFT_DIRS], trailers[WEFT_DIRS];
	const struct query_mutation *query;
	size_t n_query;
	bool specific_wins;
};

static int query_one(struct weft_cfg *c, const struct weft_path *at,
		     const Envoy__Config__Core__V3__KeyValueMutation *m, struct query_mutation *to)
{
	struct weft_path pa = {at, "append", -1}, pr = {&pa, "record", -1}, pk = {&pr, "key", -1},
			 pv = {&pr, "value", -1};
	const Envoy__Config__Core__V3__KeyValuePair *kv = m->append ? m->append->record : NULL;
	const char *v;

	if (!m->append == !(m->remove && *m->remove))
		return weft_cfg_fail(c, at, "must have one of append and remove");
	if (!m->append) {
		to->key = weft_arena_strdup(c->arena, m->remove);
		return 0;
	}
	if (!kv)
		return weft_cfg_fail(c, &pr, "must be set");
	if (!kv->key || !*kv->key)
		return weft_cfg_fail(c, &pk, "must not be empty");
	if (!kv->value || kv->value->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE)
		return weft_cfg_fail(c, &pv, "must be a string");
	v = kv->value->string_value;
	to->key = weft_arena_strdup(c->arena, kv->key);
	to->value = weft_arena_strdup(c->arena, v);
	to->value_n = strlen(v);
	to->how = (int)m->append->action;
	return strchr(v, '%') ? weft_format_prepare(c, &pv, v, &to->format) : 0;
}

static int mutations_prepare(struct weft_cfg *c, const struct weft_path *up, const mutations_msg *m,
			     struct conf *conf)
{
	struct weft_path at = {up, "mutations", -1}, rq = {&at, "request_mutations", -1},
			 rs = {&at, "response_mutations", -1},
			 qt = {&at, "request_trailers_mutations", -1},
			 st = {&at, "response_trailers_mutations", -1};
	struct query_mutation *q;
	int err = 0;

	if (!m)
		return 0;
	err |= weft_mutations_prepare(c, &rq, m->request_mutations, m->n_request_mutations,
				      &conf->head[WEFT_REQUEST]);
	err |= weft_mutations_prepare(c, &rs, m->response_mutations, m->n_response_mutations,
				      &conf->head[WEFT_RESPONSE]);
	err |= weft_mutations_prepare(c, &qt, m->request_trailers_mutations,
				      m->n_request_trailers_mutations,
				      &conf->trailers[WEFT_REQUEST]);
	err |= weft_mutations_prepare(c, &st, m->response_trailers_mutations,
				      m->n_response_trailers_mutations,
				      &conf->trailers[WEFT_RESPONSE]);
	q = weft_arena_alloc(c->arena, (m->n_query_parameter_mutations + 1) * sizeof(*q));
	for (size_t i = 0; i < m->n_query_parameter_mutations; i++) {
		struct weft_path p = {&at, "query_parameter_mutations", (int)i};

		err |= query_one(c, &p, m->query_parameter_mutations[i], &q[i]);
	}
	conf->query = q;
	conf->n_query = m->n_query_parameter_mutations;
	return err ? -EINVAL : 0;
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const filter_msg *m = (const void *)msg;
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	*ret = conf;
	conf->specific_wins = m->most_specific_header_mutations_wins;
	return mutations_prepare(c, at, m->mutations, conf);
}

static int prepare_route(struct weft_cfg *c, const struct weft_path *at,
			 const ProtobufCMessage *msg, const void **ret)
{
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	*ret = conf;
	return mutations_prepare(c, at, ((const route_msg *)msg)->mutations, conf);
}

/* ---- heads and trailers */

/* What comes of operators goes into a start line. */
static bool path_ok(const char *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)v[i] <= ' ' || v[i] == 0x7f)
			return false;
	return n;
}

/* ---- query parameters */

struct param {
	const char *key, *value;
	size_t key_n, value_n;
};
struct params {
	struct param v[QUERY_MAX];
	size_t n;
	bool full;
};

static void params_add(struct params *q, struct param p)
{
	size_t at = q->n;

	if (q->n == QUERY_MAX) {
		q->full = true;
		return;
	}
	/* in order of key, those of one key as they came */
	while (at) {
		const struct param *b = &q->v[at - 1];
		size_t n = b->key_n < p.key_n ? b->key_n : p.key_n;
		int d = memcmp(b->key, p.key, n);

		if (d < 0 || (!d && b->key_n <= p.key_n))
			break;
		at--;
	}
	memmove(&q->v[at + 1], &q->v[at], (q->n - at) * sizeof(p));
	q->v[at] = p;
	q->n++;
}

static int hex(int ch)
{
	return ch >= '0' && ch <= '9'		      ? ch - '0'
	       : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10
						      : -1;
}

/* Escapes are undone where the character means nothing by itself: the result is written as it is.
 */
static const char *plain(struct weft_arena *a, const char *v, size_t *n)
{
	char *out, *to;

	if (!memchr(v, '%', *n))
		return v;
	out = to = weft_arena_alloc(a, *n + 1);
	for (size_t i = 0; i < *n; i++) {
		int hi = v[i] == '%' && i + 3 <= *n ? hex(v[i + 1]) : -1;
		int lo = hi >= 0 ? hex(v[i + 2]) : -1, ch = 16 * hi + lo;

		if (lo >= 0 && ch > ' ' && ch < 0x7f && !strchr("%&=+#?", ch)) {
			*to++ = (char)ch;
			i += 2;
		} else {
			*to++ = v[i];
		}
	}
	*n = (size_t)(to - out);
	return out;
}

static void params_read(struct params *q, struct weft_arena *a, const char *s, size_t n)
{
	const char *end = s + n;

	while (s < end) {
		const char *amp = memchr(s, '&', (size_t)(end - s)) ?: end;
		const char *eq = memchr(s, '=', (size_t)(amp - s));
		struct param p = {s, eq ? eq + 1 : "", (size_t)((eq ?: amp) - s),
				  eq ? (size_t)(amp - eq - 1) : 0};

		p.key = plain(a, p.key, &p.key_n);
		p.value = plain(a, p.value, &p.value_n);
		params_add(q, p);
		s = amp + 1;
	}
}

static bool params_drop(struct params *q, const char *key)
{
	size_t to = 0, n = strlen(key);

	for (size_t i = 0; i < q->n; i++)
		if (q->v[i].key_n != n || memcmp(q->v[i].key, key, n))
			q->v[to++] = q->v[i];
	n = q->n - to;
	q->n = to;
	return n;
}

static bool params_has(const struct params *q, const char *key)
{
	size_t n = strlen(key);

	for (size_t i = 0; i < q->n; i++)
		if (q->v[i].key_n == n && !memcmp(q->v[i].key, key, n))
			return true;
	return false;
}

static void query_apply(const struct query_mutation *m, const struct weft_format_in *in,
			struct weft_arena *a, struct params *q)
{
	struct param p = {m->key, m->value, strlen(m->key), m->value_n};
	bool there = params_has(q, m->key), empty;

	if (!m->value) {
		params_drop(q, m->key);
		return;
	}
	if (m->format)
		p.value = weft_format_string(m->format, in, a, &p.value_n, &empty);
	switch (m->how) {
	case ENVOY__CONFIG__CORE__V3__KEY_VALUE_APPEND__KEY_VALUE_APPEND_ACTION__ADD_IF_ABSENT:
		if (there)
			return;
		break;
	case ENVOY__CONFIG__CORE__V3__KEY_VALUE_APPEND__KEY_VALUE_APPEND_ACTION__OVERWRITE_IF_EXISTS:
		if (!there)
			return;
		/* fall through */
	case ENVOY__CONFIG__CORE__V3__KEY_VALUE_APPEND__KEY_VALUE_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD:
		params_drop(q, m->key);
		break;
	}
	params_add(q, p);
}

static void put_path(struct weft_headers *h, const char *path, size_t n, const struct params *q)
{
	size_t total = n + 1;
	char *p, *to;

	for (size_t i = 0; i < q->n; i++)
		total += q->v[i].key_n + q->v[i].value_n + 2;
	p = to = weft_arena_alloc(h->arena, total);
	memcpy(to, path, n);
	to += n;
	for (size_t i = 0; i < q->n; i++) {
		*to++ = i ? '&' : '?';
		memcpy(to, q->v[i].key, q->v[i].key_n);
		to += q->v[i].key_n;
		*to++ = '=';
		memcpy(to, q->v[i].value, q->v[i].value_n);
		to += q->v[i].value_n;
	}
	if (path_ok(p, (size_t)(to - p)))
		weft_headers_set_id(h, WEFT_H_PATH, p, (size_t)(to - p));
}

static void query_change(const struct conf *conf, const struct weft_format_in *in,
			 struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_PATH);
	const char *ask;
	struct params *q;
	size_t n;

	if (!conf->n_query || !f)
		return;
	q = weft_arena_alloc(h->arena, sizeof(*q));
	ask = memchr(f->value, '?', f->value_len);
	n = ask ? (size_t)(ask - f->value) : f->value_len;
	if (ask)
		params_read(q, h->arena, ask + 1, f->value_len - n - 1);
	for (size_t i = 0; i < conf->n_query; i++)
		query_apply(&conf->query[i], in, h->arena, q);
	if (!q->full) /* more than a request may have: left as it came */
		put_path(h, f->value, n, q);
}

/* ---- callbacks */

static void run(struct weft_stream *s, const void *state, enum weft_dir d, bool trailers,
		struct weft_headers *h)
{
	const struct conf *chain = weft_stream_chain_conf(s, state);
	const void *v[WEFT_ROUTE_LEVELS];
	const struct conf *order[WEFT_ROUTE_LEVELS + 1] = {chain};
	size_t n = weft_stream_route_confs(s, state, v);
	struct weft_format_in in = {
		.info = weft_stream_info(s),
		.req = weft_stream_headers(s, WEFT_REQUEST),
		.resp = weft_stream_headers(s, WEFT_RESPONSE),
		.trailers = weft_stream_trailers(s, WEFT_RESPONSE),
	};

	for (size_t i = 0; i < n; i++)
		order[i + 1] = v[chain->specific_wins ? n - 1 - i : i];
	for (size_t i = 0; i <= n; i++) {
		weft_mutations_apply(trailers ? &order[i]->trailers[d] : &order[i]->head[d], &in,
				     h);
		if (!trailers && d == WEFT_REQUEST)
			query_change(order[i], &in, h);
	}
}

static enum weft_flow headers(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	run(s, state, d, false, h);
	return WEFT_NEXT;
}

static enum weft_flow trailers(struct weft_stream *s, const void *conf, void *state,
			       enum weft_dir d, struct weft_headers *h)
{
	run(s, state, d, true, h);
	return WEFT_NEXT;
}

const struct weft_http_filter weft_http_filter_header_mutation = {
	.ext = {.name = "envoy.filters.http.header_mutation",
		.config =
			&envoy__extensions__filters__http__header_mutation__v3__header_mutation__descriptor,
		.per_route =
			&envoy__extensions__filters__http__header_mutation__v3__header_mutation_per_route__descriptor,
		.prepare = prepare,
		.prepare_route = prepare_route},
	.headers = headers,
	.trailers = trailers,
};
