/* ext_authz and what it asks: every option that changes the question, and what the answers do. */
#include "proxy/codec/grpc.h"
#include "test/unit/proxy/http/filters/call_fix.h"
#include "test/unit/proxy/upstream/build.h"
#include "xds/wire.h"

/* its question, with a certificate that the test gives */
static const char *fake_pem(struct weft_io *io);
#define weft_io_peer_pem fake_pem
#include "proxy/http/filters/ext_authz_check.c"
#undef weft_io_peer_pem

#define AUTHZ(service, more)                                                                       \
	"{name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http."           \
	"original_ip_detection.xff.v3.XffConfig}}\n  - {name: authz, typed_config: {" TYPE         \
	"ext_authz.v3.ExtAuthz, " service more "}}"
#define GRPC(more)                                                                                 \
	AUTHZ("transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: az}, "         \
	      "timeout: 1s, initial_metadata: [{key: x-init, value: i}]}",                         \
	      more)
#define HTTP(in, more)                                                                             \
	AUTHZ("http_service: {server_uri: {uri: 'http://az.example/', cluster: az, timeout: 1s}, " \
	      "path_prefix: /check" in "}",                                                        \
	      more)
#define ROUTES(more)                                                                               \
	"{name: all, domains: ['*'], routes: [{match: {prefix: /, headers: [{name: x-new, "        \
	"present_match: true}]}, name: new, route: {cluster: up}}, {match: {prefix: /}, name: "    \
	"old, route: {cluster: up}" more "}]}"
#define SETTINGS(body)                                                                             \
	", typed_per_filter_config: {authz: {" TYPE                                                \
	"ext_authz.v3.ExtAuthzPerRoute, check_settings: {" body "}}}"

static const char *fake_pem(struct weft_io *io)
{
	return "-----PEM-----";
}

/* Before it in the chain: test.ns has k: v. */
static enum weft_flow m_headers(struct weft_stream *s, const void *conf, void *state,
				enum weft_dir d, struct weft_headers *h, bool end)
{
	struct weft_info *i = weft_stream_info(s);

	if (d == WEFT_REQUEST)
		weft_struct_set_string(i->arena, weft_info_meta(i, "test.ns"), "k", "v");
	return WEFT_NEXT;
}

static const struct weft_http_filter meta_filter = {
	.ext = {.name = "test.meta",
		.config =
			&envoy__extensions__http__original_ip_detection__xff__v3__xff_config__descriptor},
	.headers = m_headers,
};

static struct env *open_with(const char *filter, const char *vhost)
{
	struct env *e;

	calls_clear();
	weft_http_filter_register(&meta_filter);
	e = filter_open(filter, vhost ?: ROUTES(""));
	term.status = 0; /* requests are held: what came is looked at */
	return e;
}

/* What the last call asked. */
static const http_msg *question(const context_msg **ret)
{
	const Envoy__Service__Auth__V3__CheckRequest *m;
	struct weft_call *c = &calls[n_calls - 1];
	size_t n = evbuffer_get_length(c->body);
	struct weft_err err = {0};

	assert_string_equal(asked(":path"), "/envoy.service.auth.v3.Authorization/Check");
	assert_true(n >= 5);
	m = (const void *)weft_wire_unpack(c->a,
					   &envoy__service__auth__v3__check_request__descriptor,
					   evbuffer_pullup(c->body, -1) + 5, n - 5, true, &err);
	assert_non_null(m);
	if (ret)
		*ret = m->attributes;
	return m->attributes->request->http;
}

static const char *told(const http_msg *m, const char *name)
{
	for (size_t i = 0; i < m->n_headers; i++)
		if (!strcmp(m->headers[i]->key, name))
			return m->headers[i]->value;
	return NULL;
}

/* Answers by gRPC with a CheckResponse in YAML. */
static void check_answer(struct env *e, const char *yaml)
{
	const ProtobufCMessage *m = yaml_message(
		calls[n_calls - 1].a, &envoy__service__auth__v3__check_response__descriptor, yaml);
	uint8_t packed[16384];
	size_t n = protobuf_c_message_get_packed_size(m);
	struct evbuffer *b = evbuffer_new();

	assert_true(n < sizeof(packed));
	protobuf_c_message_pack(m, packed);
	weft_grpc_out(b, packed, n);
	call_answer(e, 200, "content-type: application/grpc\n", evbuffer_pullup(b, -1),
		    evbuffer_get_length(b), "grpc-status: 0\n");
	evbuffer_free(b);
}
#define DENIED "{status: {code: 7}, denied_response: {status: {code: 402}, body: pay first}}"

static void shut(struct env *e)
{
	env_free(e);
	calls_clear();
}

/* ---- the question */
static void namespaces(void **state)
{
	struct env *e = open_with(GRPC(", metadata_context_namespaces: [none, test.ns], "
				       "route_metadata_context_namespaces: [route.ns]"),
				  ROUTES(", metadata: {filter_metadata: {route.ns: {r: 1}, other: "
					 "{o: 2}}}"));
	const context_msg *ctx;

	say(e, GET("/"));
	question(&ctx);
	assert_int_equal(ctx->metadata_context->n_filter_metadata, 1);
	assert_string_equal(ctx->metadata_context->filter_metadata[0]->key, "test.ns");
	assert_string_equal(ctx->metadata_context->filter_metadata[0]->value->fields[0]->key, "k");
	assert_int_equal(ctx->route_metadata_context->n_filter_metadata, 1);
	assert_string_equal(ctx->route_metadata_context->filter_metadata[0]->key, "route.ns");
	assert_string_equal(asked("x-init"), "i");
	shut(e);
	e = open_with(GRPC(""), NULL);
	say(e, GET("/"));
	question(&ctx);
	assert_int_equal(ctx->metadata_context->n_filter_metadata, 0);
	assert_int_equal(ctx->route_metadata_context->n_filter_metadata, 0);
	shut(e);
}

static void of_tls(void **state)
{
	static const char *const uri[] = {"spiffe://td/ns/a/sa/b", NULL}, *const none[] = {NULL};
	static const struct weft_tls_info tls = {.peer_uri = uri,
						 .peer_dns = none,
						 .peer_subject = "CN=b",
						 .local_uri = none,
						 .local_dns = none,
						 .local_subject = "CN=me"};
	static const char *const conf[] = {
		GRPC(""), GRPC(", include_peer_certificate: true, include_tls_session: true")};

	for (int on = 0; on < 2; on++) {
		struct env *e = open_with(conf[on], NULL);
		const context_msg *ctx;

		fix_tls = &tls;
		env_connect(e);
		say(e, GET("/"));
		question(&ctx);
		assert_string_equal(ctx->source->principal, uri[0]);
		assert_string_equal(ctx->destination->principal, "CN=me");
		assert_string_equal(ctx->source->certificate ?: "", on ? "-----PEM-----" : "");
		assert_int_equal(ctx->tls_session != NULL, on);
		if (on)
			assert_string_equal(ctx->tls_session->sni, "name.example");
		fix_tls = NULL;
		shut(e);
	}
}

#define LISTS                                                                                      \
	", allowed_headers: {patterns: [{prefix: x-}]}, disallowed_headers: {patterns: [{exact: "  \
	"x-secret}]}"
#define ASK                                                                                        \
	"GET /a HTTP/1.1\r\nhost: a\r\nx-open: 1\r\nx-open: 2\r\nx-secret: s\r\naccept: "          \
	"b\r\n\r\n"
static void lists(void **state)
{
	struct env *e = open_with(GRPC(""), NULL);
	const http_msg *m;

	say(e, ASK);
	m = question(NULL);
	assert_string_equal(told(m, "x-open"), "1,2");
	assert_string_equal(told(m, "x-secret"), "s");
	assert_string_equal(told(m, "accept"), "b");
	assert_null(m->header_map);
	shut(e);
	e = open_with(GRPC(LISTS), NULL);
	say(e, ASK);
	m = question(NULL);
	assert_string_equal(told(m, "x-open"), "1,2");
	assert_null(told(m, "x-secret"));
	assert_null(told(m, "accept"));
	shut(e);
	/* as bytes, each by itself */
	e = open_with(GRPC(LISTS ", encode_raw_headers: true"), NULL);
	say(e, ASK);
	m = question(NULL);
	assert_int_equal(m->n_headers, 0);
	for (size_t i = 0, n = 0; i < m->header_map->n_headers; i++) {
		const Envoy__Config__Core__V3__HeaderValue *h = m->header_map->headers[i];

		assert_string_not_equal(h->key, "x-secret");
		if (strcmp(h->key, "x-open") != 0)
			continue;
		assert_int_equal(h->raw_value.len, 1);
		assert_int_equal(h->raw_value.data[0], '1' + n++);
	}
	shut(e);
}

#define POST                                                                                       \
	"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab\xff"                            \
	"c"
static void bodies(void **state)
{
	struct env *e = open_with(GRPC(", with_request_body: {max_request_bytes: 9}"), NULL);
	const http_msg *m;

	say(e, POST);
	m = question(NULL);
	assert_string_equal(m->body, "ab!c"); /* a string is UTF-8 */
	assert_int_equal(m->raw_body.len, 0);
	shut(e);
	e = open_with(GRPC(", with_request_body: {max_request_bytes: 9, pack_as_bytes: true}"),
		      NULL);
	say(e, POST);
	m = question(NULL);
	assert_string_equal(m->body ?: "", "");
	assert_int_equal(m->raw_body.len, 4);
	assert_memory_equal(m->raw_body.data,
			    "ab\xff"
			    "c",
			    4);
	shut(e);
	e = open_with(GRPC(", with_request_body: {max_request_bytes: 9}"),
		      ROUTES(SETTINGS("disable_request_body_buffering: true")));
	say(e, POST);
	m = question(NULL);
	assert_string_equal(m->body ?: "", "");
	assert_null(told(m, "x-envoy-auth-partial-body"));
	shut(e);
}

/* A body is bytes: NULs in it end nothing. */
static void bodies_with_nul(void **state)
{
	static const char post[] = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n"
				   "a\0\xff\0\0\0\0z";
	struct env *e = open_with(GRPC(", with_request_body: {max_request_bytes: 9}"), NULL);

	assert_int_equal(write(e->fd, post, sizeof(post) - 1), sizeof(post) - 1);
	turn(e, 0);
	assert_string_equal(question(NULL)->body, "a!!!!!!z");
	shut(e);
}

static void settings_of_routes(void **state)
{
	struct env *e =
		open_with(GRPC(""), ROUTES(SETTINGS("context_extensions: {a: b}, grpc_service: "
						    "{envoy_grpc: {cluster_name: other}}")));
	const context_msg *ctx;

	say(e, GET("/"));
	question(&ctx);
	assert_int_equal(ctx->n_context_extensions, 1);
	assert_string_equal(ctx->context_extensions[0]->key, "a");
	assert_string_equal(ctx->context_extensions[0]->value, "b");
	assert_string_equal(asked(":authority"), "other");
	shut(e);
}

/* ---- answers by gRPC */
static void route_is_found_again(void **state)
{
	static const char ok[] = "ok_response: {headers: [{header: {key: x-new, value: '1'}}]}";
	struct env *e = open_with(GRPC(", clear_route_cache: true"), NULL);

	say(e, GET("/"));
	check_answer(e, ok);
	assert_string_equal(weft_stream_route(term.s)->name, "new");
	term_answer(e);
	say(e, GET("/"));
	check_answer(e, "ok_response: {}"); /* nothing changed */
	assert_string_equal(weft_stream_route(term.s)->name, "old");
	shut(e);
	e = open_with(GRPC(""), NULL);
	say(e, GET("/"));
	check_answer(e, ok);
	assert_string_equal(weft_stream_route(term.s)->name, "old");
	shut(e);
}

static void mutations(void **state)
{
	static const char bad_one[] =
		"ok_response: {headers: [{header: {key: 'x bad', value: v}}, {header: {key: "
		"x-good, value: g}}]}";
	struct env *e = open_with(GRPC(", validate_mutations: true"), NULL);

	say(e, GET("/"));
	check_answer(e, bad_one);
	assert_true(has(e, "HTTP/1.1 500"));
	assert_int_equal(named("http", "t", "ext_authz.invalid"), 1);
	shut(e);
	e = open_with(GRPC(""), NULL);
	say(e, GET("/"));
	check_answer(e, bad_one);
	assert_null(strstr(term.last_headers, "x bad"));
	assert_non_null(strstr(term.last_headers, "x-good=g\n"));
	shut(e);
}

#define RULES(body) GRPC(", decoder_header_mutation_rules: {" body "}")
#define OPT(name)   "{header: {key: " name ", value: new}}"
static void mutation_rules(void **state)
{
	static const char all[] =
		"ok_response: {headers: [" OPT("x-a") ", " OPT("x-envoy-b") ", " OPT(
			"host") ", " OPT("':path'") "], headers_to_remove: [x-secret]}";
	static const char ask[] = "GET /old HTTP/1.1\r\nhost: a\r\nx-secret: s\r\n\r\n";
	static const struct {
		const char *conf;
		bool a, b, host, path, removed;
	} v[] = {
		{GRPC(""), true, true, true, true, true},
		{RULES(""), true, false, false, true, true},
		{RULES("allow_all_routing: true"), true, false, true, true, true},
		{RULES("allow_envoy: true"), true, true, false, true, true},
		{RULES("disallow_system: true"), true, false, false, false, true},
		{RULES("disallow_all: true"), false, false, false, false, false},
		{RULES("disallow_all: true, allow_expression: {regex: 'x-a|host'}"), true, false,
		 true, false, false},
		{RULES("disallow_expression: {regex: 'x-[a-z]+'}, allow_expression: {regex: "
		       "'x-.*'}"),
		 false, true, false, true, false},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct env *e = open_with(v[i].conf, NULL);

		say(e, ask);
		check_answer(e, all);
		assert_int_equal(strstr(term.last_headers, "x-a=new\n") != NULL, v[i].a);
		assert_int_equal(strstr(term.last_headers, "x-envoy-b=new\n") != NULL, v[i].b);
		assert_int_equal(strstr(term.last_headers, ":authority=new\n") != NULL, v[i].host);
		assert_int_equal(strstr(term.last_headers, ":path=new\n") != NULL, v[i].path);
		assert_int_equal(strstr(term.last_headers, "x-secret=s\n") == NULL, v[i].removed);
		shut(e);
	}
}

static void mutation_errors(void **state)
{
	static const char *const v[] = {"ok_response: {headers: [" OPT("x-envoy-b") "]}",
					"ok_response: {headers_to_remove: [':path']}",
					"ok_response: {headers: [" OPT("x-a") "]}"};

	for (int i = 0; i < 3; i++) {
		struct env *e = open_with(RULES("disallow_is_error: true"), NULL);

		say(e, GET("/"));
		check_answer(e, v[i]);
		if (i < 2)
			assert_true(has(e, "HTTP/1.1 500"));
		else
			term_answer(e);
		shut(e);
	}
}

static void metadata_of_answers(void **state)
{
	static const char ok[] = "{ok_response: {}, dynamic_metadata: {who: me}}";
	struct env *e = open_with(GRPC(""), NULL);

	say(e, GET("/"));
	check_answer(e, ok);
	assert_string_equal(meta_string(AUTHZ_NAMESPACE, "who"), "me");
	shut(e);
	e = open_with(GRPC(", enable_dynamic_metadata_ingestion: false"), NULL);
	say(e, GET("/"));
	check_answer(e, ok);
	assert_null(meta_string(AUTHZ_NAMESPACE, "who"));
	assert_int_equal(named("http", "t", "ext_authz.ignored_dynamic_metadata"), 1);
	shut(e);
}

/* Parameters go as they were written, but for what would end the line. */
static void parameters(void **state)
{
	static const char ok[] =
		"ok_response: {query_parameters_to_set: [{key: b, value: 'x y/z%20'}]}";
	struct env *e = open_with(GRPC(""), NULL);

	say(e, GET("/?a=1"));
	check_answer(e, ok);
	assert_non_null(strstr(term.last_headers, ":path=/?a=1&b=x%20y/z%20\n"));
	shut(e);
	e = open_with(GRPC(", validate_mutations: true"), NULL);
	say(e, GET("/?a=1"));
	check_answer(e, ok);
	assert_true(has(e, "HTTP/1.1 500"));
	shut(e);
}

static void denied_bodies_are_cut(void **state)
{
	struct env *e = open_with(GRPC(", max_denied_response_body_bytes: 3"), NULL);

	say(e, GET("/"));
	check_answer(e, DENIED);
	assert_true(has(e, "HTTP/1.1 402"));
	assert_true(has(e, "content-length: 3\r\n"));
	shut(e);
	e = open_with(GRPC(""), NULL);
	say(e, GET("/"));
	check_answer(e, DENIED);
	assert_true(has(e, "\r\n\r\npay first"));
	shut(e);
}

static void by_metadata(void **state)
{
	struct env *e = open_with(GRPC(", filter_enabled_metadata: {filter: test.ns, path: [{key: "
				       "k}], value: {string_match: {exact: w}}}"),
				  NULL);

	say(e, GET("/"));
	assert_int_equal(n_calls, 0);
	term_answer(e);
	shut(e);
	e = open_with(GRPC(", filter_enabled_metadata: {filter: test.ns, path: [{key: k}], value: "
			   "{string_match: {exact: v}}}"),
		      NULL);
	say(e, GET("/"));
	assert_int_equal(n_calls, 1);
	shut(e);
}

static void charges_the_cluster(void **state)
{
	static const char *const conf[] = {GRPC(""),
					   GRPC(", charge_cluster_response_stats: false")};
	struct weft_worker *boss = weft_worker_new(-1, NULL);

	for (int i = 0; i < 2; i++) {
		struct env *e = open_with(conf[i], NULL);
		struct weft_clusters_conf cc = {
			.n_workers = 1, .workers = &e->w, .base = boss->base};
		struct weft_clusters *all = weft_clusters_new(&cc);
		const char *yaml = i ? "{name: up, type: STATIC, alt_stat_name: free}"
				     : "{name: up, type: STATIC, alt_stat_name: charged}";

		assert_int_equal(
			weft_clusters_set(
				all, &e->cfg, NULL,
				yaml_message(e->a, &envoy__config__cluster__v3__cluster__descriptor,
					     yaml),
				"1", false),
			1);
		for (int k = 0; k < 10; k++) {
			event_base_loop(boss->base, EVLOOP_NONBLOCK);
			turn(e, 1);
		}
		say(e, GET("/"));
		check_answer(e, DENIED);
		assert_true(has(e, "HTTP/1.1 402"));
		assert_int_equal(named("cluster", i ? "free" : "charged", "ext_authz.denied"), 1);
		assert_true(i ? named("cluster", "free", "upstream_rq_4xx") <= 0
			      : named("cluster", "charged", "upstream_rq_4xx") == 1);
		close(e->fd);
		e->fd = -1;
		for (int k = 0; k < 2000 && e->ch; k++)
			turn(e, 1);
		weft_clusters_free(all);
		shut(e);
	}
	weft_worker_free(boss);
}

/* ---- a service by HTTP */
#define HTTP_LISTS                                                                                 \
	", authorization_request: {allowed_headers: {patterns: [{exact: x-open}]}, "               \
	"headers_to_add: [{key: x-added, value: a}]}, authorization_response: {"                   \
	"allowed_upstream_headers: {patterns: [{exact: x-up}]}, "                                  \
	"allowed_upstream_headers_to_append: {patterns: [{exact: x-app}]}, "                       \
	"allowed_client_headers: {patterns: [{exact: x-no}]}, "                                    \
	"allowed_client_headers_on_success: {patterns: [{exact: x-yes}]}, "                        \
	"dynamic_metadata_from_headers: {patterns: [{exact: x-meta}]}}"
#define HEADS                                                                                      \
	"x-up: u\nx-app: two\nx-no: n\nx-yes: y\nx-meta: m\nx-other: "                             \
	"o\nx-envoy-auth-headers-to-remove: x-secret\n"
#define ASK_APP "GET /a?b HTTP/1.1\r\nhost: a\r\nx-open: 1\r\nx-secret: s\r\nx-app: one\r\n\r\n"
static void http_lists(void **state)
{
	struct env *e = open_with(HTTP(HTTP_LISTS, ""), NULL);

	say(e, ASK_APP);
	assert_string_equal(asked(":path"), "/check/a?b");
	assert_string_equal(asked(":authority"), "a");
	assert_string_equal(asked("x-open"), "1");
	assert_string_equal(asked("x-secret"), "");
	assert_string_equal(asked("x-added"), "a");
	call_answer(e, 200, HEADS, "", 0, NULL);
	assert_non_null(strstr(term.last_headers, "x-up=u\n"));
	assert_non_null(strstr(term.last_headers, "x-app=one\n"));
	assert_non_null(strstr(term.last_headers, "x-app=two\n"));
	assert_null(strstr(term.last_headers, "x-other"));
	assert_null(strstr(term.last_headers, "x-secret"));
	assert_string_equal(meta_string(AUTHZ_NAMESPACE, "x-meta"), "m");
	assert_null(meta_string(AUTHZ_NAMESPACE, "x-up"));
	answer(term.s, 200, "ok", true);
	turn(e, 0);
	assert_true(has(e, "x-yes: y\r\n"));
	assert_null(strstr(e->got, "x-no"));
	e->n = 0;
	say(e, ASK_APP);
	call_answer(e, 401, HEADS "www-authenticate: Basic\n", "why", 3, NULL);
	assert_true(has(e, "HTTP/1.1 401"));
	assert_true(has(e, "x-no: n\r\n"));
	assert_true(has(e, "www-authenticate: Basic\r\n"));
	assert_null(strstr(e->got, "x-other"));
	assert_true(has(e, "\r\n\r\nwhy"));
	shut(e);
}

/* Without lists: the service gets only what it must, the client all that a refusal has. */
static void http_without_lists(void **state)
{
	struct env *e = open_with(HTTP("", ""), NULL);

	say(e, ASK_APP);
	assert_string_equal(asked("x-open"), "");
	call_answer(e, 200, HEADS, "", 0, NULL);
	assert_null(strstr(term.last_headers, "x-up"));
	assert_non_null(strstr(term.last_headers, "x-app=one\n"));
	assert_null(strstr(term.last_headers, "x-app=two\n"));
	assert_null(meta_string(AUTHZ_NAMESPACE, "x-meta"));
	term_answer(e);
	say(e, ASK_APP);
	call_answer(e, 403, HEADS, "", 0, NULL);
	assert_true(has(e, "x-other: o\r\n"));
	e->n = 0;
	say(e, ASK_APP); /* a body is bytes */
	call_answer(e, 403, NULL, "a\0b\0\0\0\0\0\0z", 10, NULL);
	assert_true(has(e, "content-length: 10\r\n"));
	assert_memory_equal(e->got + e->n - 10, "a\0b\0\0\0\0\0\0z", 10);
	shut(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(namespaces),
		cmocka_unit_test(of_tls),
		cmocka_unit_test(lists),
		cmocka_unit_test(bodies),
		cmocka_unit_test(bodies_with_nul),
		cmocka_unit_test(settings_of_routes),
		cmocka_unit_test(route_is_found_again),
		cmocka_unit_test(mutations),
		cmocka_unit_test(mutation_rules),
		cmocka_unit_test(mutation_errors),
		cmocka_unit_test(metadata_of_answers),
		cmocka_unit_test(parameters),
		cmocka_unit_test(denied_bodies_are_cut),
		cmocka_unit_test(by_metadata),
		cmocka_unit_test(charges_the_cluster),
		cmocka_unit_test(http_lists),
		cmocka_unit_test(http_without_lists),
	};
	return cmocka_run_group_tests_name("ext_authz_call", tests, NULL, NULL);
}
