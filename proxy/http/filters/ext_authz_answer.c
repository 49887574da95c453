/* What the service answered, as a verdict and as changes of headers. Its bytes are as foreign as a
 * client's: names and values are looked at before they go anywhere. */
#include "proxy/codec/grpc.h"
#include "proxy/http/filters/ext_authz_priv.h"
#include "xds/wire.h"

#include <ctype.h>
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Config__Core__V3__HeaderValueOption option_msg;
typedef Envoy__Service__Auth__V3__CheckResponse response_msg;
typedef Envoy__Service__Auth__V3__DeniedHttpResponse denied_msg;
typedef Envoy__Service__Auth__V3__OkHttpResponse ok_msg;

#define REMOVE_HEADER "x-envoy-auth-headers-to-remove"

/* ---- lists of changes */
static bool name_ok(const char *s, size_t n)
{
	size_t i = n && *s == ':';

	if (i == n)
		return false;
	for (; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && !strchr("!#$%&'*+-.^_`|~", s[i]))
			return false;
	return true;
}

static bool value_ok(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((unsigned char)s[i] < ' ' && s[i] != '\t') || s[i] == 0x7f)
			return false;
	return true;
}

/* Framing is ours. */
static bool is_framing(const char *s)
{
	static const char *const v[] = {
		"connection",	  "keep-alive", "proxy-connection", "transfer-encoding", "upgrade",
		"content-length", "te",		"trailer"};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++)
		if (!strcmp(s, v[i]))
			return true;
	return false;
}

static void change(struct weft_arena *a, struct authz_changes *c, const struct authz_change *add)
{
	struct authz_change *more;

	if (c->n == c->cap) {
		c->cap = c->cap ? 2 * c->cap : 8;
		more = weft_arena_alloc(a, c->cap * sizeof(*more));
		if (c->n)
			memcpy(more, c->v, c->n * sizeof(*more));
		c->v = more;
	}
	c->v[c->n++] = *add;
}

/* name in any case; "host" stands as ":authority". */
static void put(struct weft_arena *a, struct authz_answer *ans, struct authz_changes *c,
		const char *name, size_t name_n, const char *value, size_t value_n, int how)
{
	struct authz_change one = {.value = value, .value_n = value_n, .how = how};
	char *low;

	if (!name_n || (how == AUTHZ_REMOVE && !name_ok(name, name_n)))
		return; /* no header has that name */
	if (!name_ok(name, name_n) || !value_ok(value, value_n) || c->n == AUTHZ_MUTATIONS_MAX) {
		ans->invalid = true;
		return;
	}
	low = weft_arena_strndup(a, name, name_n);
	for (char *p = low; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	if (c == &ans->request && ans->rules) {
		enum weft_mutation_op op = how == AUTHZ_REMOVE ? WEFT_MUTATE_REMOVE
					   : how == AUTHZ_SET  ? WEFT_MUTATE_SET
							       : WEFT_MUTATE_APPEND;
		enum weft_mutation may = weft_mutation_check(ans->rules, low, op);

		ans->rejected |= may == WEFT_MUTATION_ERROR;
		if (may != WEFT_MUTATION_OK)
			return;
	}
	one.name = strcmp(low, "host") ? low : ":authority";
	one.name_n = strlen(one.name);
	if (is_framing(one.name))
		return;
	if (*one.name == ':' && how == AUTHZ_REMOVE)
		return; /* a request cannot be without */
	if (*one.name == ':') {
		if (!value_n) {
			ans->invalid = true;
			return;
		}
		one.how = AUTHZ_SET;
	}
	one.value = weft_arena_strndup(a, value, value_n);
	change(a, c, &one);
}

/* Of request headers append alone counts, and is false by default. */
static int how_of(const option_msg *m, bool request)
{
	if (request)
		return m->append && m->append->value ? AUTHZ_APPEND : AUTHZ_SET;
	if (m->append)
		return m->append->value ? AUTHZ_ADD : AUTHZ_SET;
	switch ((int)m->append_action) {
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__ADD_IF_ABSENT:
		return AUTHZ_ADD_ABSENT;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS:
		return AUTHZ_SET_EXISTING;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD:
		return AUTHZ_SET;
	default:
		return AUTHZ_ADD;
	}
}

static void options(struct weft_arena *a, struct authz_answer *ans, struct authz_changes *c,
		    option_msg *const *v, size_t n, bool local)
{
	for (size_t i = 0; i < n; i++) {
		const Envoy__Config__Core__V3__HeaderValue *h = v[i]->header;
		const char *value;
		size_t value_n;

		if (!h || !h->key)
			continue;
		value = h->has_raw_value && h->raw_value.len ? (const char *)h->raw_value.data
							     : h->value ?: "";
		value_n = h->has_raw_value && h->raw_value.len ? h->raw_value.len : strlen(value);
		if (local && *h->key == ':')
			continue;
		put(a, ans, c, h->key, strlen(h->key), value, value_n, how_of(v[i], !local));
	}
}

void authz_apply(const struct authz_changes *c, struct weft_headers *h)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct authz_change *o = &c->v[i];
		struct weft_header *f = weft_headers_find(h, o->name, o->name_n);
		const char *joined;
		size_t n = 0;

		switch (o->how) {
		case AUTHZ_REMOVE:
			weft_headers_remove(h, o->name, o->name_n);
			break;
		case AUTHZ_SET:
			weft_headers_set(h, o->name, o->name_n, o->value, o->value_n);
			break;
		case AUTHZ_SET_EXISTING:
			if (f)
				weft_headers_set(h, o->name, o->name_n, o->value, o->value_n);
			break;
		case AUTHZ_ADD_ABSENT:
			if (!f)
				weft_headers_add(h, o->name, o->name_n, o->value, o->value_n);
			break;
		case AUTHZ_APPEND:
			if (!f)
				break;
			joined = weft_headers_joined(h, o->name, o->name_n, &n);
			joined = weft_arena_printf(h->arena, "%.*s,%s", (int)n, joined, o->value);
			weft_headers_set(h, o->name, o->name_n, joined, strlen(joined));
			break;
		default:
			weft_headers_add(h, o->name, o->name_n, o->value, o->value_n);
		}
	}
}

/* ---- query parameters */
static bool is_param(const char *s, size_t n, const char *key)
{
	size_t len = strlen(key);

	return n >= len && !memcmp(s, key, len) && (n == len || s[len] == '=');
}

/* Which of those to be set it is; n_query_set: none. */
static size_t set_of(const struct authz_answer *a, const char *s, size_t n)
{
	size_t i = 0;

	while (i < a->n_query_set && !is_param(s, n, a->query_set[i].key))
		i++;
	return i;
}

static bool dropped(const struct authz_answer *a, const char *s, size_t n)
{
	for (size_t i = 0; i < a->n_query_remove; i++)
		if (is_param(s, n, a->query_remove[i]))
			return true;
	return false;
}

/* Envoy's word: a tilde is not. */
static bool is_unreserved(char c)
{
	return isalnum((unsigned char)c) || (c && strchr("-._", c));
}

static bool all_unreserved(const char *s)
{
	while (is_unreserved(*s))
		s++;
	return !*s;
}

/* As the service wrote it, but for what would end the line. */
static void escaped(struct evbuffer *b, const char *s)
{
	for (; *s; s++) {
		if (*s > ' ' && *s < 0x7f && *s != '#')
			evbuffer_add(b, s, 1);
		else
			evbuffer_add_printf(b, "%%%02X", (unsigned char)*s);
	}
}

static void param(struct evbuffer *b, const struct authz_pair *p)
{
	escaped(b, p->key);
	evbuffer_add(b, "=", 1);
	escaped(b, p->value);
}

void authz_query(const struct authz_answer *a, struct weft_headers *h)
{
	const struct weft_header *path = weft_headers_get(h, WEFT_H_PATH);
	const char *s, *end, *q;
	size_t n = a->n_query_set, at;
	struct evbuffer *b;
	bool first = true, *done;

	if (!path || (!a->n_query_set && !a->n_query_remove))
		return;
	done = weft_arena_alloc(h->arena, (n ?: 1) * sizeof(*done));
	b = evbuffer_new();
	q = path->value + strcspn(path->value, "?");
	evbuffer_add(b, path->value, (size_t)(q - path->value));
	for (s = *q ? q + 1 : q; *s; s = *end ? end + 1 : end) {
		end = s + strcspn(s, "&");
		if (end == s || dropped(a, s, (size_t)(end - s)))
			continue;
		at = set_of(a, s, (size_t)(end - s));
		if (at < n && done[at])
			continue;
		evbuffer_add(b, first ? "?" : "&", 1);
		first = false;
		if (at < n)
			param(b, &a->query_set[at]);
		else
			evbuffer_add(b, s, (size_t)(end - s));
		if (at < n)
			done[at] = true;
	}
	for (size_t i = 0; i < n; i++) {
		const char *key = a->query_set[i].key;

		if (done[i] || dropped(a, key, strlen(key)))
			continue;
		evbuffer_add(b, first ? "?" : "&", 1);
		first = false;
		param(b, &a->query_set[i]);
	}
	weft_headers_set_id(h, WEFT_H_PATH, (char *)evbuffer_pullup(b, -1), evbuffer_get_length(b));
	evbuffer_free(b);
}

/* ---- gRPC */
static int status_of(int code, int dflt)
{
	return code >= 200 && code <= 599 ? code : dflt;
}

static void read_denied(struct weft_arena *a, struct authz_answer *ans, const denied_msg *m)
{
	if (!m)
		return;
	if (m->status)
		ans->status = status_of((int)m->status->code, ans->status);
	ans->body = m->body ?: "";
	ans->body_n = strlen(ans->body);
	options(a, ans, &ans->response, m->headers, m->n_headers, true);
}

static void read_ok(struct weft_arena *a, struct authz_answer *ans, const ok_msg *m)
{
	struct authz_pair *set;

	options(a, ans, &ans->request, m->headers, m->n_headers, false);
	for (size_t i = 0; i < m->n_headers_to_remove; i++)
		put(a, ans, &ans->request, m->headers_to_remove[i], strlen(m->headers_to_remove[i]),
		    "", 0, AUTHZ_REMOVE);
	options(a, ans, &ans->response, m->response_headers_to_add, m->n_response_headers_to_add,
		true);
	ans->n_query_set = m->n_query_parameters_to_set;
	set = weft_arena_alloc(a, (ans->n_query_set ?: 1) * sizeof(*set));
	ans->query_set = set;
	for (size_t i = 0; i < ans->n_query_set; i++) {
		set[i].key = m->query_parameters_to_set[i]->key ?: "";
		set[i].value = m->query_parameters_to_set[i]->value ?: "";
		if (!all_unreserved(set[i].key) || !all_unreserved(set[i].value))
			ans->invalid = true;
	}
	ans->query_remove = m->query_parameters_to_remove;
	ans->n_query_remove = m->n_query_parameters_to_remove;
}

/* grpc-status 0, in the trailers or in a head that has no more. */
static bool grpc_ok(const struct weft_call_result *r)
{
	const struct weft_headers *t = r->trailers ?: r->headers;

	return r->status == 200 && !strcmp(weft_headers_value(t, WEFT_H_GRPC_STATUS), "0") &&
	       !strncmp(weft_headers_value(r->headers, WEFT_H_CONTENT_TYPE), "application/grpc",
			16);
}

static const response_msg *grpc_message(struct weft_arena *a, const struct weft_call_result *r,
					size_t max)
{
	size_t n = evbuffer_get_length(r->body), got_n;
	const response_msg *m = NULL;
	struct weft_grpc_in in;
	struct weft_err err;
	uint8_t *got;

	weft_grpc_in_init(&in, max);
	weft_grpc_in_feed(&in, evbuffer_pullup(r->body, -1), n);
	if (weft_grpc_in_next(&in, &got, &got_n) == 1) {
		m = (const void *)weft_wire_unpack(
			a, &envoy__service__auth__v3__check_response__descriptor, got, got_n, false,
			&err);
		free(got);
	}
	weft_grpc_in_done(&in);
	return m;
}

static void read_grpc(const struct authz_state *st, const struct weft_call_result *r,
		      struct authz_answer *ans)
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const response_msg *m = grpc_ok(r) ? grpc_message(a, r, st->service->answer_max) : NULL;
	const bool ok = m && (!m->status || !m->status->code);

	if (!m)
		return;
	ans->meta = m->dynamic_metadata;
	if (ok) {
		ans->verdict = AUTHZ_OK;
		if (m->http_response_case !=
		    ENVOY__SERVICE__AUTH__V3__CHECK_RESPONSE__HTTP_RESPONSE_OK_RESPONSE)
			return;
		read_ok(a, ans, m->ok_response);
		if (m->ok_response->dynamic_metadata)
			ans->meta = m->ok_response->dynamic_metadata;
		return;
	}
	if (m->http_response_case ==
	    ENVOY__SERVICE__AUTH__V3__CHECK_RESPONSE__HTTP_RESPONSE_ERROR_RESPONSE) {
		read_denied(a, ans, m->error_response);
		return;
	}
	ans->verdict = AUTHZ_DENIED;
	ans->status = 403;
	if (m->http_response_case ==
	    ENVOY__SERVICE__AUTH__V3__CHECK_RESPONSE__HTTP_RESPONSE_DENIED_RESPONSE)
		read_denied(a, ans, m->denied_response);
}

/* ---- HTTP */
static void remove_list(struct weft_arena *a, struct authz_answer *ans, const char *s)
{
	while (*s) {
		size_t n = strcspn(s, ","), from = strspn(s, " \t"), len;

		len = n > from ? n - from : 0;
		while (len && strchr(" \t", s[from + len - 1]))
			len--;
		if (len)
			put(a, ans, &ans->request, s + from, len, "", 0, AUTHZ_REMOVE);
		s += n + (s[n] == ',');
	}
}

static void meta_put(struct weft_arena *a, struct authz_answer *ans, const struct weft_header *f)
{
	Google__Protobuf__Struct *s = (Google__Protobuf__Struct *)ans->meta;

	if (!s) {
		s = weft_arena_alloc(a, sizeof(*s));
		weft_message_init(&google__protobuf__struct__descriptor, s);
		ans->meta = s;
	}
	weft_struct_set_string(a, s, f->name, weft_arena_strndup(a, f->value, f->value_len));
}

static void http_allowed(struct weft_arena *a, const struct authz_service *sv,
			 const struct weft_headers *h, struct authz_answer *ans)
{
	for (uint32_t i = 0; i < h->n; i++) {
		const struct weft_header *f = &h->v[i];

		if (!strcmp(f->name, REMOVE_HEADER)) {
			remove_list(a, ans, f->value);
			continue;
		}
		if (*f->name == ':')
			continue;
		if (authz_match(&sv->upstream, f->name, f->name_len, false))
			put(a, ans, &ans->request, f->name, f->name_len, f->value, f->value_len,
			    AUTHZ_SET);
		if (authz_match(&sv->append, f->name, f->name_len, false))
			put(a, ans, &ans->request, f->name, f->name_len, f->value, f->value_len,
			    AUTHZ_ADD);
		if (authz_match(&sv->client_ok, f->name, f->name_len, false))
			put(a, ans, &ans->response, f->name, f->name_len, f->value, f->value_len,
			    AUTHZ_ADD);
		if (authz_match(&sv->meta, f->name, f->name_len, false))
			meta_put(a, ans, f);
	}
}

/* Without a list all of them go to the client; with one, those and what an answer needs. */
static bool for_client(const struct authz_service *sv, const struct weft_header *f)
{
	if (*f->name == ':' || !strcmp(f->name, "host") || !strcmp(f->name, REMOVE_HEADER))
		return false;
	if (!sv->client.n || f->id == WEFT_H_LOCATION || !strcmp(f->name, "www-authenticate"))
		return true;
	return authz_match(&sv->client, f->name, f->name_len, false);
}

static void read_http(const struct authz_state *st, const struct weft_call_result *r,
		      struct authz_answer *ans)
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const struct authz_service *sv = st->service;
	size_t n;

	if (!r->status || r->status >= 500)
		return;
	if (r->status == 200) {
		ans->verdict = AUTHZ_OK;
		http_allowed(a, sv, r->headers, ans);
		return;
	}
	ans->verdict = AUTHZ_DENIED;
	ans->status = status_of(r->status, 403);
	n = r->body ? evbuffer_get_length(r->body) : 0;
	ans->body = n ? weft_arena_memdup(a, evbuffer_pullup(r->body, -1), n) : "";
	ans->body_n = n;
	for (uint32_t i = 0; i < r->headers->n; i++) {
		const struct weft_header *f = &r->headers->v[i];

		if (for_client(sv, f))
			put(a, ans, &ans->response, f->name, f->name_len, f->value, f->value_len,
			    AUTHZ_ADD);
		if (*f->name != ':' && authz_match(&sv->meta, f->name, f->name_len, false))
			meta_put(a, ans, f);
	}
}

const struct authz_answer *authz_read(const struct authz_state *st,
				      const struct weft_call_result *r)
{
	struct authz_answer *ans = weft_arena_alloc(weft_stream_arena(st->s), sizeof(*ans));

	ans->verdict = AUTHZ_ERROR;
	ans->rules = st->conf->rules;
	if (st->service->grpc)
		read_grpc(st, r, ans);
	else
		read_http(st, r, ans);
	return ans;
}
