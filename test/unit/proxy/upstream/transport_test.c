/* Transport sockets of clusters: TLS, secrets, PROXY protocol, matches, bind addresses. */
#include "tls_fix.h"

static struct fix f;
static struct tls t;

static int setup(void **state)
{
	fix_open(&f, WEFT_HTTP_11);
	tls_open(&t);
	return 0;
}

static int teardown(void **state)
{
	fix_close(&f);
	tls_close(&t);
	return 0;
}

static void with_tls(const char *more)
{
	cluster_must(&f, weft_arena_printf(f.arena, "{name: x, transport_socket: %s}",
					   tls_socket(&f, &t.way, &t.ca, more)));
}

static void test_tls_h1(void **state)
{
	tls_serve(&t, &f, "[http/1.1]");
	with_tls("sni: web.test,");
	rq_whole(&f, true);
	rq_whole(&f, false);
	STAT_IS(&f, ssl_handshake, 1);
	STAT_IS(&f, upstream_cx_http1_total, 1);
	assert_string_equal(weft_io_info(weft_session_io(f.server.peers[0].session))->sni,
			    "web.test");
}

static void test_alpn(void **state)
{
	f.cl.http = WEFT_UP_AUTO;
	f.server.conf.version = WEFT_HTTP_10; /* as ALPN says */
	tls_serve(&t, &f, "[h2, http/1.1]");
	with_tls("");
	rq_whole(&f, true);
	STAT_IS(&f, upstream_cx_http2_total, 1);
	weft_pools_host_failed(f.wc.pools, &f.server.host, true);
	weft_tls_server_unref(t.server);
	tls_serve(&t, &f, "[http/1.1]");
	rq_whole(&f, true);
	STAT_IS(&f, upstream_cx_http1_total, 1);
}

static void test_untrusted(void **state)
{
	struct rq r;

	tls_serve(&t, &f, "[http/1.1]");
	cluster_must(&f, weft_arena_printf(f.arena, "{name: x, transport_socket: %s}",
					   tls_socket(&f, &t.way, &t.foreign_ca, "")));
	rq_start(&r, &f);
	UNTIL(&f, r.over);
	assert_true(r.failed);
	assert_int_equal(r.why, WEFT_RESET_CONNECT);
	STAT_IS(&f, ssl_fail_verify_error, 1);
	STAT_IS(&f, upstream_cx_connect_fail, 1);
	rq_free(&r);
}

static void test_sni_is_a_pool(void **state)
{
	tls_serve(&t, &f, "[http/1.1]");
	with_tls("");
	f.how.sni = "a.test";
	rq_whole(&f, true);
	f.how.sni = "b.test";
	rq_whole(&f, true);
	f.how.sni = "a.test";
	rq_whole(&f, false);
	assert_int_equal(f.server.conns, 2);
	/* a certificate of another name */
	f.how.san = "a.test";
	{
		struct rq r;

		rq_start(&r, &f);
		UNTIL(&f, r.over);
		assert_true(r.failed);
		STAT_IS(&f, ssl_fail_verify_san, 1);
		rq_free(&r);
	}
}

static void test_secrets(void **state)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = f.arena, .errs = &errs, .file = true};
	const Envoy__Config__Core__V3__ConfigSource *source;
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *secret;
	const char *name;
	struct rq r;

	tls_serve(&t, &f, "[http/1.1]");
	cluster_must(
		&f,
		weft_arena_printf(
			f.arena,
			"{name: x, transport_socket: {name: tls, typed_config: {" UPSTREAM_TLS
			", common_tls_context: {tls_certificate_sds_secret_configs: [{name: own, "
			"sds_config: {ads: {}}}], validation_context: %s}}}}",
			ca_yaml(f.arena, &t.ca)));
	assert_false(weft_transport_ready(f.cl.transport));
	assert_true(weft_transport_secret_at(f.cl.transport, 0, &source, &name));
	assert_string_equal(name, "own");
	assert_non_null(source);
	assert_false(weft_transport_secret_at(f.cl.transport, 1, &source, &name));
	rq_start(&r, &f);
	UNTIL(&f, r.over);
	assert_true(r.failed);
	assert_string_equal(r.detail, "TLS secret is not there yet");
	rq_free(&r);
	secret = (const void *)of_yaml(
		f.arena,
		weft_arena_printf(f.arena, "{name: own, tls_certificate: %s}",
				  cert_yaml(f.arena, &t.way)),
		&envoy__extensions__transport_sockets__tls__v3__secret__descriptor, NULL);
	assert_int_equal(weft_transport_secret(f.cl.transport, &c, "other", secret), 0);
	assert_false(weft_transport_ready(f.cl.transport));
	assert_int_equal(weft_transport_secret(f.cl.transport, &c, "own", secret), 0);
	assert_true(weft_transport_ready(f.cl.transport));
	rq_whole(&f, true);
	/* one that cannot be used changes nothing */
	secret = (const void *)of_yaml(
		f.arena,
		"{name: own, tls_certificate: {certificate_chain: {inline_string: x}, private_key: "
		"{inline_string: x}}}",
		&envoy__extensions__transport_sockets__tls__v3__secret__descriptor, NULL);
	assert_int_equal(weft_transport_secret(f.cl.transport, &c, "own", secret), -EINVAL);
	assert_true(errs.n > 0);
	weft_pools_host_failed(f.wc.pools, &f.server.host, true);
	rq_whole(&f, true);
}

static void test_matches(void **state)
{
	Envoy__Config__Core__V3__Metadata *md;

	tls_serve(&t, &f, "[http/1.1]");
	cluster_must(&f,
		     weft_arena_printf(
			     f.arena,
			     "{name: x, transport_socket_matches: [{name: m, match: {mtls: true}, "
			     "transport_socket: %s}, {name: n, match: {tier: [1, {a: b}]}}]}",
			     tls_socket(&f, &t.way, &t.ca, "")));
	assert_false(weft_tsocket_tls(weft_transport_pick(f.cl.transport, NULL)));
	md = (void *)of_yaml(
		f.arena, "{filter_metadata: {envoy.transport_socket_match: {mtls: true, x: y}}}",
		&envoy__config__core__v3__metadata__descriptor, NULL);
	assert_true(weft_tsocket_tls(weft_transport_pick(f.cl.transport, md)));
	f.how.metadata = md;
	rq_whole(&f, true);
	STAT_IS(&f, ssl_handshake, 1);
	md = (void *)of_yaml(f.arena,
			     "{filter_metadata: {envoy.transport_socket_match: {mtls: \"true\"}}}",
			     &envoy__config__core__v3__metadata__descriptor, NULL);
	assert_false(weft_tsocket_tls(weft_transport_pick(f.cl.transport, md)));
	md = (void *)of_yaml(
		f.arena, "{filter_metadata: {envoy.transport_socket_match: {tier: [1, {a: b}]}}}",
		&envoy__config__core__v3__metadata__descriptor, NULL);
	assert_ptr_not_equal(weft_transport_pick(f.cl.transport, md),
			     weft_transport_pick(f.cl.transport, NULL));
	f.how.metadata = NULL;
}

/* ---- PROXY protocol: the server sees the header as the first bytes */

struct seen {
	struct weft_io *io;
	char b[256];
	size_t n;
};

static void seen_readable(struct weft_io *io)
{
	struct seen *s = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);
	int n = evbuffer_remove(in, s->b + s->n, sizeof(s->b) - s->n);

	s->n += n > 0 ? (size_t)n : 0;
}

static void seen_closed(struct weft_io *io, enum weft_io_end why, int err)
{
}

static const struct weft_io_ops seen_ops = {.readable = seen_readable, .closed = seen_closed};

#define PROXY                                                                                      \
	"{name: x, transport_socket: {name: p, typed_config: {\"@type\": "                         \
	"type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3."                \
	"ProxyProtocolUpstreamTransport, config: {%s}, transport_socket: {name: "                  \
	"envoy.transport_sockets.raw_buffer}}}}"

static void header(const char *conf, const char *want, size_t n)
{
	struct seen s = {0};

	cluster_must(&f, weft_arena_printf(f.arena, PROXY, conf));
	f.server.raw = true; /* echoes what it sees */
	assert_int_equal(weft_upstream_dial(&f.wc, &f.server.host, &f.how, &seen_ops, &s, &s.io),
			 0);
	UNTIL(&f, s.n >= n);
	assert_int_equal(s.n, n);
	assert_memory_equal(s.b, want, n);
	weft_upstream_io_free(s.io);
}

static void test_proxy_header(void **state)
{
	struct weft_sockaddr from, to;
	static const char v1[] = "PROXY TCP4 10.0.0.1 10.0.0.2 4711 80\r\n";
	static const char v1_6[] = "PROXY TCP6 fd00::1 fd00::2 4711 80\r\n";
	static const char v2[] =
		"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\x0a\0\0\1\x0a\0\0\2\x12\x67\0\x50"
		"\xe0\0\3abc";
	static const char local[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

	weft_sockaddr_parse("10.0.0.1:4711", &from);
	weft_sockaddr_parse("10.0.0.2:80", &to);
	header("version: V1", "PROXY UNKNOWN\r\n", 15); /* nobody is spoken for */
	header("version: V2", local, sizeof(local) - 1);
	f.how.source = &from;
	f.how.dest = &to;
	header("version: V1", v1, sizeof(v1) - 1);
	header("version: V2, added_tlvs: [{type: 224, value: YWJj}]", v2, sizeof(v2) - 1);
	weft_sockaddr_parse("[fd00::1]:4711", &from);
	weft_sockaddr_parse("[fd00::2]:80", &to);
	header("", v1_6, sizeof(v1_6) - 1);
	/* two clients share no connection */
	assert_true(weft_tsocket_per_client(weft_transport_pick(f.cl.transport, NULL)));
	f.how.source = f.how.dest = NULL;
}

static void test_bind(void **state)
{
	struct rq r;

	f.server.hold = true;
	weft_ip_parse("127.0.0.9", &f.priv.bind.source[0].ip);
	rq_start(&r, &f);
	UNTIL(&f, f.server.requests == 1);
	{
		const struct weft_io_info *i =
			weft_io_info(weft_session_io(f.server.peers[0].session));
		char b[WEFT_IP_TEXT];

		assert_string_equal(weft_ip_text(&i->remote.ip, b, sizeof(b)), "127.0.0.9");
	}
	answer(TAILQ_FIRST(&f.server.open));
	UNTIL(&f, r.over);
	rq_free(&r);
	weft_pools_host_failed(f.wc.pools, &f.server.host, true);
	f.server.hold = false;
	weft_ip_parse("192.0.2.77", &f.priv.bind.source[0].ip); /* not ours */
	rq_start(&r, &f);
	UNTIL(&f, r.over);
	assert_true(r.failed);
	STAT_IS(&f, bind_errors, 1);
	rq_free(&r);
}

static void test_names(void **state)
{
	const char *dns[] = {"web.test", "*.wild.test", "*.org", NULL}, *ip[] = {"10.0.0.1", NULL};
	const struct weft_tls_info tls = {.peer_dns = dns, .peer_ip = ip};
	struct weft_headers h;
	struct weft_take how = {0};
	char buf[WEFT_NAME_BYTES];

	assert_true(weft_transport_san_ok(&tls, "WEB.test"));
	assert_true(weft_transport_san_ok(&tls, "a.wild.test"));
	assert_false(weft_transport_san_ok(&tls, "a.b.wild.test"));
	assert_false(weft_transport_san_ok(&tls, "wild.test"));
	assert_false(weft_transport_san_ok(&tls, ".wild.test"));
	assert_false(weft_transport_san_ok(&tls, "any.org")); /* a star for all of a top domain */
	assert_true(weft_transport_san_ok(&tls, "10.0.0.1"));
	assert_false(weft_transport_san_ok(&tls, "10.0.0.2"));
	weft_headers_init(&h, f.arena);
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, "web.test:8080", 13);
	weft_transport_names(&f.cl, &h, buf, &how);
	assert_null(how.sni);
	f.priv.auto_sni = f.priv.auto_san = true;
	weft_transport_names(&f.cl, &h, buf, &how);
	assert_string_equal(how.sni, "web.test");
	assert_string_equal(how.san, "web.test");
	weft_headers_set_id(&h, WEFT_H_AUTHORITY, "[fd00::1]:80", 12);
	how = (struct weft_take){0};
	weft_transport_names(&f.cl, &h, buf, &how);
	assert_null(how.sni); /* RFC 6066: names only */
	assert_string_equal(how.san, "fd00::1");
	f.priv.auto_sni_header = "x-sni";
	weft_headers_add(&h, "x-sni", 5, "b.test", 6);
	weft_transport_names(&f.cl, &h, buf, &how);
	assert_string_equal(how.sni, "b.test");
}

/* Every field that transports, DNS and health checks read is told to be so, and what they do not is
 * refused by its name. */
static void test_fields(void **state)
{
	static const struct {
		const char *text, *refused; /* NULL: all is fine */
	} v[] = {
		{"{name: x, type: STRICT_DNS, dns_refresh_rate: 1s, dns_jitter: 0.1s, "
		 "dns_lookup_family: V4_ONLY, dns_failure_refresh_rate: {base_interval: 1s, "
		 "max_interval: 2s}, respect_dns_ttl: true, typed_dns_resolver_config: {name: c, "
		 "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.network."
		 "dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: "
		 "{address: 127.0.0.1, port_value: 53}}], dns_resolver_options: "
		 "{use_tcp_for_dns_lookups: true, no_default_search_domain: true}, query_tries: 2, "
		 "query_timeout_seconds: 3}}, load_assignment: {cluster_name: x}}",
		 NULL},
		{"{name: x, transport_socket_matches: [{name: a, match: {b: c}, transport_socket: "
		 "{name: d, typed_config: {\"@type\": type.googleapis.com/envoy.extensions."
		 "transport_sockets.tls.v3.UpstreamTlsContext, sni: e}}}], transport_socket: "
		 "{name: "
		 "f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions."
		 "transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: "
		 "{version: V2, added_tlvs: [{type: 1, value: YQ==}]}, transport_socket: {name: g, "
		 "typed_config: {\"@type\": type.googleapis.com/envoy.extensions."
		 "transport_sockets.raw_buffer.v3.RawBuffer}}}}}",
		 NULL},
		{"{name: x, health_checks: [{timeout: 1s, interval: 1s, initial_jitter: 1s, "
		 "interval_jitter: 1s, interval_jitter_percent: 5, unhealthy_threshold: 1, "
		 "healthy_threshold: 1, reuse_connection: false, no_traffic_interval: 1s, "
		 "no_traffic_healthy_interval: 1s, unhealthy_interval: 1s, "
		 "unhealthy_edge_interval: "
		 "1s, healthy_edge_interval: 1s, tls_options: {alpn_protocols: [a]}, "
		 "transport_socket_match_criteria: {a: b}, http_health_check: {host: a, path: /, "
		 "request_headers_to_add: [{header: {key: a, value: b}}], "
		 "request_headers_to_remove: [c], expected_statuses: [{start: 200, end: 300}], "
		 "retriable_statuses: [{start: 500, end: 501}], codec_client_type: HTTP2, method: "
		 "HEAD, service_name_matcher: {prefix: a}}}]}",
		 NULL},
		{"{name: x, health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, "
		 "healthy_threshold: 1, alt_port: 80, tcp_health_check: {}}]}",
		 "alt_port"},
		{"{name: x, health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, "
		 "healthy_threshold: 1, tcp_health_check: {proxy_protocol_config: "
		 "{pass_through_tlvs: {}}}}]}",
		 "pass_through_tlvs"},
		{"{name: x, upstream_connection_options: "
		 "{set_local_interface_name_on_upstream_connections: true}}",
		 "set_local_interface_name_on_upstream_connections"},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct weft_errs errs = {0};
		struct weft_cfg c = {.arena = f.arena, .errs = &errs, .file = true};
		const ProtobufCMessage *m =
			of_yaml(f.arena, v[i].text,
				&envoy__config__cluster__v3__cluster__descriptor, &c.marks);
		int r = weft_cfg_check(&c, NULL, m);

		if (!v[i].refused && r < 0)
			print_error("%zu: %s: %s\n", i, errs.v[0].path, errs.v[0].msg);
		assert_int_equal(r, v[i].refused ? -EINVAL : 0);
		if (v[i].refused)
			assert_non_null(strstr(errs.v[0].path, v[i].refused));
	}
}

static void test_bad_conf(void **state)
{
	static const struct {
		const char *text, *path, *msg;
	} bad[] = {
		{"{name: x, transport_socket: {name: what}}", "transport_socket",
		 "must have a typed_config"},
		{"{name: x, transport_socket: {name: a, typed_config: {\"@type\": "
		 "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
		 "DownstreamTlsContext}}}",
		 "transport_socket.typed_config", "is not supported as transport socket"},
		{"{name: x, transport_socket: {name: p, typed_config: {\"@type\": "
		 "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3."
		 "ProxyProtocolUpstreamTransport, config: {added_tlvs: [{type: 300, value: "
		 "YQ==}]}}}}",
		 "transport_socket.typed_config.config.added_tlvs[0]", "must be 0..255"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct weft_errs errs = {0};

		assert_int_equal(cluster_conf(&f, bad[i].text, &errs), -EINVAL);
		assert_string_equal(errs.v[0].path, bad[i].path);
		assert_non_null(strstr(errs.v[0].msg, bad[i].msg));
	}
	cluster_must(&f, "{name: x}");
}

#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_tls_h1),	 T(test_alpn),	   T(test_untrusted),	 T(test_sni_is_a_pool),
		T(test_secrets), T(test_matches),  T(test_proxy_header), T(test_bind),
		T(test_names),	 T(test_bad_conf), T(test_fields),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
