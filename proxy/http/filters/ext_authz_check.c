/* The question: as envoy.service.auth.v3.CheckRequest, or as an HTTP request. */
#include "proxy/codec/grpc.h"
#include "proxy/core/utf8.h"
#include "proxy/core/worker.h"
#include "proxy/http/filters/ext_authz_priv.h"
#include "xds/wire.h"

#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Service__Auth__V3__AttributeContext context_msg;
typedef Envoy__Service__Auth__V3__AttributeContext__Peer peer_msg;
typedef Envoy__Service__Auth__V3__AttributeContext__HttpRequest http_msg;
typedef Envoy__Service__Auth__V3__AttributeContext__HttpRequest__HeadersEntry header_entry;
typedef Envoy__Config__Core__V3__Metadata__FilterMetadataEntry meta_entry;
typedef Envoy__Service__Auth__V3__AttributeContext__ContextExtensionsEntry context_entry;

#define PARTIAL_HEADER "x-envoy-auth-partial-body"

static void *message(struct weft_arena *a, const ProtobufCMessageDescriptor *d)
{
	void *m = weft_arena_alloc(a, d->sizeof_message);

	weft_message_init(d, m);
	return m;
}
#define NEW(a, name) message(a, &envoy__##name##__descriptor)

/* A string field must be UTF-8; what is not becomes '!'. */
static char *utf8(struct weft_arena *a, const char *s, size_t n)
{
	char *out = weft_arena_alloc(a, n + 1); /* a body may have NULs: strndup ends at one */
	size_t i = 0;

	memcpy(out, s, n);
	out[n] = '\0';
	while (i < n) {
		size_t len = weft_utf8_len(out + i);

		if (!len || !out[i])
			out[i++] = '!';
		else
			i += len;
	}
	return out;
}

static char *value(struct weft_arena *a, const struct weft_headers *h, enum weft_hid id)
{
	const char *v = weft_headers_value(h, id);

	return utf8(a, v, strlen(v));
}

/* ---- peers */
static Envoy__Config__Core__V3__Address *address(struct weft_arena *a,
						 const struct weft_sockaddr *from)
{
	Envoy__Config__Core__V3__Address *to = NEW(a, config__core__v3__address);
	Envoy__Config__Core__V3__SocketAddress *s = NEW(a, config__core__v3__socket_address);
	char text[WEFT_IP_TEXT];

	if (!from->ip.family)
		return NULL;
	to->address_case = ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS;
	to->socket_address = s;
	s->address = weft_arena_strdup(a, weft_ip_text(&from->ip, text, sizeof(text)));
	s->port_specifier_case = ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_PORT_VALUE;
	s->port_value = from->port;
	return to;
}

static char *principal(struct weft_arena *a, const char *const *uri, const char *const *dns,
		       const char *subject)
{
	const char *s = uri && *uri ? *uri : dns && *dns ? *dns : subject;

	return s && *s ? utf8(a, s, strlen(s)) : NULL;
}

static void peers(struct authz_state *st, context_msg *ctx, const struct weft_headers *h)
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const struct weft_io_info *conn = weft_stream_downstream(st->s);
	const struct weft_tls_info *tls = conn->tls;
	peer_msg *src = NEW(a, service__auth__v3__attribute_context__peer),
		 *dst = NEW(a, service__auth__v3__attribute_context__peer);
	const char *service = weft_headers_value(h, WEFT_H_X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);

	ctx->source = src;
	ctx->destination = dst;
	src->address = address(a, &weft_stream_info(st->s)->remote);
	dst->address = address(a, &conn->local);
	if (*service)
		src->service = utf8(a, service, strlen(service));
	if (!tls)
		return;
	src->principal = principal(a, tls->peer_uri, tls->peer_dns, tls->peer_subject);
	dst->principal = principal(a, tls->local_uri, tls->local_dns, tls->local_subject);
	if (st->conf->peer_cert && weft_stream_io(st->s))
		src->certificate = weft_arena_strdup(a, weft_io_peer_pem(weft_stream_io(st->s)));
	if (st->conf->tls_session) {
		ctx->tls_session = NEW(a, service__auth__v3__attribute_context__tlssession);
		if (conn->sni && *conn->sni)
			ctx->tls_session->sni = utf8(a, conn->sni, strlen(conn->sni));
	}
}

/* ---- headers */
/* The filter's list holds, else the HTTP service's; a gRPC service without any gets all of them, an
 * HTTP service only what it cannot do without. */
static bool sent(const struct authz_state *st, const struct weft_header *f)
{
	const struct authz_conf *c = st->conf;
	const struct authz_matchers *m = c->allowed.set ? &c->allowed : &st->service->allowed;

	if (!strcmp(f->name, PARTIAL_HEADER)) /* ours to say */
		return false;
	if (authz_match(&c->disallowed, f->name, f->name_len, true))
		return false;
	switch (f->id) {
	case WEFT_H_METHOD:
	case WEFT_H_PATH:
	case WEFT_H_AUTHORITY:
	case WEFT_H_AUTHORIZATION:
		if (!st->service->grpc)
			return true;
		break;
	default:
		break;
	}
	if (st->service->grpc && !c->allowed.set)
		return true;
	return authz_match(m, f->name, f->name_len, false);
}

static void header_put(struct weft_arena *a, http_msg *m, const char *name, size_t name_n,
		       char *text)
{
	header_entry *e;

	for (size_t i = 0; i < m->n_headers; i++)
		if (!strcmp(m->headers[i]->key, name)) {
			m->headers[i]->value =
				weft_arena_printf(a, "%s,%s", m->headers[i]->value, text);
			return;
		}
	e = NEW(a, service__auth__v3__attribute_context__http_request__headers_entry);
	e->key = weft_arena_strndup(a, name, name_n);
	e->value = text;
	m->headers[m->n_headers++] = e;
}

static void header_raw(struct weft_arena *a, http_msg *m, const struct weft_header *f)
{
	Envoy__Config__Core__V3__HeaderValue *v = NEW(a, config__core__v3__header_value);

	v->key = weft_arena_strndup(a, f->name, f->name_len);
	v->has_raw_value = true;
	v->raw_value.data = (uint8_t *)f->value;
	v->raw_value.len = f->value_len;
	m->header_map->headers[m->header_map->n_headers++] = v;
}

static void headers(struct authz_state *st, http_msg *m, const struct weft_headers *h,
		    const char *partial)
{
	struct weft_arena *a = weft_stream_arena(st->s);
	struct weft_header own = {.name = PARTIAL_HEADER,
				  .name_len = sizeof(PARTIAL_HEADER) - 1,
				  .value = partial ?: "",
				  .value_len = partial ? (uint32_t)strlen(partial) : 0};

	m->headers = weft_arena_alloc(a, (h->n + 1) * sizeof(*m->headers));
	if (st->conf->raw_headers) {
		m->header_map = NEW(a, config__core__v3__header_map);
		m->header_map->headers =
			weft_arena_alloc(a, (h->n + 1) * sizeof(*m->header_map->headers));
	}
	for (uint32_t i = 0; i <= h->n; i++) {
		const struct weft_header *f = i < h->n ? &h->v[i] : &own;

		if (i < h->n ? !sent(st, f) : !partial)
			continue;
		if (m->header_map)
			header_raw(a, m, f);
		else
			header_put(a, m, f->name, f->name_len, utf8(a, f->value, f->value_len));
	}
}

static const char *protocol_of(enum weft_http v)
{
	return v == WEFT_HTTP_2 ? "HTTP/2" : v == WEFT_HTTP_10 ? "HTTP/1.0" : "HTTP/1.1";
}

static http_msg *http(struct authz_state *st, const struct weft_headers *h, struct evbuffer *body,
		      const char *partial)
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const struct weft_info *info = weft_stream_info(st->s);
	http_msg *m = NEW(a, service__auth__v3__attribute_context__http_request);
	size_t n = body ? evbuffer_get_length(body) : 0;
	uint8_t *copy;

	m->id = weft_arena_printf(a, "%llu", (unsigned long long)weft_stream_random(st->s));
	m->method = value(a, h, WEFT_H_METHOD);
	m->path = value(a, h, WEFT_H_PATH);
	m->host = value(a, h, WEFT_H_AUTHORITY);
	m->scheme = value(a, h, WEFT_H_SCHEME);
	m->has_size = true;
	m->size = (int64_t)info->rx_bytes;
	m->protocol = (char *)protocol_of(info->protocol);
	headers(st, m, h, partial);
	if (!n)
		return m;
	copy = weft_arena_alloc(a, n + 1);
	evbuffer_copyout(body, copy, n);
	if (st->body.bytes) {
		m->has_raw_body = true;
		m->raw_body.data = copy;
		m->raw_body.len = n;
	} else {
		m->body = utf8(a, (const char *)copy, n);
	}
	return m;
}

/* ---- the rest of the context */
static Envoy__Config__Core__V3__Metadata *
metadata(struct authz_state *st, char *const *ns, size_t n,
	 const Google__Protobuf__Struct *(*get)(struct authz_state *st, const char *ns))
{
	struct weft_arena *a = weft_stream_arena(st->s);
	Envoy__Config__Core__V3__Metadata *m = NEW(a, config__core__v3__metadata);

	m->filter_metadata = weft_arena_alloc(a, (n ?: 1) * sizeof(*m->filter_metadata));
	for (size_t i = 0; i < n; i++) {
		const Google__Protobuf__Struct *s = get(st, ns[i]);
		meta_entry *e;

		if (!s)
			continue;
		e = NEW(a, config__core__v3__metadata__filter_metadata_entry);
		e->key = ns[i];
		e->value = (Google__Protobuf__Struct *)s;
		m->filter_metadata[m->n_filter_metadata++] = e;
	}
	return m;
}

static const Google__Protobuf__Struct *dynamic(struct authz_state *st, const char *ns)
{
	return weft_info_meta_get(weft_stream_info(st->s), ns);
}

static const Google__Protobuf__Struct *of_route(struct authz_state *st, const char *ns)
{
	const struct weft_route *r = weft_stream_route(st->s);

	return r && r->msg ? weft_metadata_ns(r->msg->metadata, ns) : NULL;
}

static bool has_extension(const context_msg *ctx, const char *key)
{
	for (size_t i = 0; i < ctx->n_context_extensions; i++)
		if (!strcmp(ctx->context_extensions[i]->key, key))
			return true;
	return false;
}

/* Of all levels; the most specific one's word counts. */
static void extensions(struct authz_state *st, context_msg *ctx)
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const void *level[WEFT_ROUTE_LEVELS];
	size_t n = weft_stream_route_confs(st->s, st, level), room = 0;

	for (size_t i = 0; i < n; i++)
		room += ((const struct authz_route_conf *)level[i])->n;
	ctx->context_extensions = weft_arena_alloc(a, (room ?: 1) * sizeof(context_entry *));
	for (size_t i = 0; i < n; i++) {
		const struct authz_route_conf *r = level[i];

		for (size_t k = 0; k < r->n; k++) {
			context_entry *e;

			if (has_extension(ctx, r->v[k].key))
				continue;
			e = NEW(a, service__auth__v3__attribute_context__context_extensions_entry);
			e->key = (char *)r->v[k].key;
			e->value = (char *)r->v[k].value;
			ctx->context_extensions[ctx->n_context_extensions++] = e;
		}
	}
}

/* ---- asking */
static void start_call(struct authz_state *st, struct weft_headers *h, struct evbuffer *body,
		       void (*done)(void *owner, const struct weft_call_result *r))
{
	const struct weft_format_in in = {.info = weft_stream_info(st->s),
					  .req = weft_stream_headers(st->s, WEFT_REQUEST)};
	struct weft_call_conf conf = {
		.cluster = st->service->cluster,
		.headers = h,
		.body = body,
		.timeout_ms = st->service->timeout_ms,
		.body_max = st->service->answer_max,
		.done = done,
		.owner = st,
	};

	weft_hdrops_apply(&st->service->add, &in, h);
	st->call = weft_call_start(weft_stream_worker(st->s), &conf);
}

static void ask_grpc(struct authz_state *st, struct evbuffer *body, const char *partial,
		     void (*done)(void *owner, const struct weft_call_result *r))
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const struct weft_headers *req = weft_stream_headers(st->s, WEFT_REQUEST);
	const struct authz_service *sv = st->service;
	Envoy__Service__Auth__V3__CheckRequest *m = NEW(a, service__auth__v3__check_request);
	context_msg *ctx = NEW(a, service__auth__v3__attribute_context);
	uint64_t wall = weft_stream_info(st->s)->start_wall_ns;
	struct evbuffer *out = evbuffer_new();
	struct weft_headers h;
	uint8_t *packed;
	char text[24];

	m->attributes = ctx;
	peers(st, ctx, req);
	ctx->request = NEW(a, service__auth__v3__attribute_context__request);
	ctx->request->http = http(st, req, body, partial);
	ctx->request->time = message(a, &google__protobuf__timestamp__descriptor);
	ctx->request->time->has_seconds = ctx->request->time->has_nanos = true;
	ctx->request->time->seconds = (int64_t)(wall / 1000000000);
	ctx->request->time->nanos = (int32_t)(wall % 1000000000);
	extensions(st, ctx);
	ctx->metadata_context = metadata(st, st->conf->meta_ns, st->conf->n_meta_ns, dynamic);
	ctx->route_metadata_context =
		metadata(st, st->conf->route_meta_ns, st->conf->n_route_meta_ns, of_route);
	packed = weft_xcalloc(1, protobuf_c_message_get_packed_size(&m->base) + 1);
	weft_grpc_out(out, packed, protobuf_c_message_pack(&m->base, packed));
	free(packed);
	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_METHOD, "POST", 4);
	weft_headers_add_id(&h, WEFT_H_SCHEME, sv->scheme, strlen(sv->scheme));
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, sv->authority, strlen(sv->authority));
	weft_headers_add_id(&h, WEFT_H_PATH, "/envoy.service.auth.v3.Authorization/Check", 42);
	weft_headers_add_id(&h, WEFT_H_TE, "trailers", 8);
	weft_headers_add_id(&h, WEFT_H_CONTENT_TYPE, "application/grpc", 16);
	if (sv->timeout_ms) {
		snprintf(text, sizeof(text), "%um",
			 sv->timeout_ms < 99999999 ? sv->timeout_ms : 99999999);
		weft_headers_add_id(&h, WEFT_H_GRPC_TIMEOUT, text, strlen(text));
	}
	start_call(st, &h, out, done);
	evbuffer_free(out);
}

static void ask_http(struct authz_state *st, struct evbuffer *body, const char *partial,
		     void (*done)(void *owner, const struct weft_call_result *r))
{
	struct weft_arena *a = weft_stream_arena(st->s);
	const struct weft_headers *req = weft_stream_headers(st->s, WEFT_REQUEST);
	const char *prefix = st->service->path_prefix, *path;
	struct weft_headers h;
	char text[24];

	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_SCHEME, st->service->scheme, strlen(st->service->scheme));
	for (uint32_t i = 0; i < req->n; i++) {
		const struct weft_header *f = &req->v[i];

		if (f->id == WEFT_H_CONTENT_LENGTH || f->id == WEFT_H_SCHEME ||
		    f->id == WEFT_H_PROTOCOL || f->id == WEFT_H_TRANSFER_ENCODING ||
		    f->id == WEFT_H_CONNECTION || f->id == WEFT_H_UPGRADE ||
		    f->id == WEFT_H_EXPECT || !sent(st, f))
			continue;
		if (f->id == WEFT_H_PATH && *prefix) {
			path = weft_arena_printf(a, "%s%s", prefix, f->value);
			weft_headers_add_id(&h, WEFT_H_PATH, path, strlen(path));
		} else {
			weft_headers_add(&h, f->name, f->name_len, f->value, f->value_len);
		}
	}
	if (partial)
		weft_headers_add(&h, PARTIAL_HEADER, sizeof(PARTIAL_HEADER) - 1, partial,
				 strlen(partial));
	snprintf(text, sizeof(text), "%zu", body ? evbuffer_get_length(body) : 0);
	weft_headers_add_id(&h, WEFT_H_CONTENT_LENGTH, text, strlen(text));
	weft_headers_set_id(&h, WEFT_H_X_ENVOY_INTERNAL, "true", 4);
	if (st->service->timeout_ms) {
		snprintf(text, sizeof(text), "%u", st->service->timeout_ms);
		weft_headers_set_id(&h, WEFT_H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, text, strlen(text));
	}
	start_call(st, &h, body, done);
}

/* A copy of the first bytes: the request goes on with its own. */
static struct evbuffer *front(struct evbuffer *b, size_t n)
{
	struct evbuffer *to = evbuffer_new();
	struct evbuffer_iovec v;

	if (!n || evbuffer_reserve_space(to, (ev_ssize_t)n, &v, 1) != 1)
		return to;
	v.iov_len = (size_t)evbuffer_copyout(b, v.iov_base, n);
	evbuffer_commit_space(to, &v, 1);
	return to;
}

bool authz_ask(struct authz_state *st, struct evbuffer *body,
	       void (*done)(void *owner, const struct weft_call_result *r))
{
	size_t n = body ? evbuffer_get_length(body) : 0;
	const char *partial = NULL;
	struct evbuffer *copy = NULL;

	if (st->buffering) {
		partial = n > st->body.max || !st->whole ? "true" : "false";
		copy = front(body, n < st->body.max ? n : st->body.max);
	}
	if (st->service->grpc)
		ask_grpc(st, copy, partial, done);
	else
		ask_http(st, copy, partial, done);
	if (copy)
		evbuffer_free(copy);
	return st->call;
}
