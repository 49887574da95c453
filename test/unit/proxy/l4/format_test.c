/* Format strings: every operator, lengths, JSON, what is refused. Values are those Envoy 1.36
 * writes for the same request. */
#include "proxy/l4/als.h"
#include "proxy/net/tls_more.h"
#include "proxy/upstream/cluster.h"
#include "xds/yaml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

struct fix {
	struct weft_arena *a;
	struct weft_errs errs;
	struct weft_cfg c;
	struct weft_info info;
	struct weft_io_info down;
	struct weft_tls_info tls, up_tls;
	struct weft_tls_more more;
	struct weft_io_origin origin;
	struct weft_headers req, resp, trailers;
	struct weft_cluster cluster;
	struct weft_host host;
	struct weft_format_in in;
};

static struct weft_sockaddr addr(const char *ip, uint16_t port)
{
	struct weft_sockaddr s = {.port = port};

	assert_int_equal(weft_ip_parse(ip, &s.ip), 0);
	return s;
}

static void add(struct weft_headers *h, const char *name, const char *value)
{
	weft_headers_add(h, name, strlen(name), value, strlen(value));
}

static const char *const uris[] = {"spiffe://td/ns/a/sa/b", "urn:x", NULL};
static const char *const dns[] = {"a.example", "b.example", NULL};
static const char *const ips[] = {"10.0.0.1", NULL};

static void fill_tls(struct weft_tls_info *t, const char *who)
{
	*t = (struct weft_tls_info){.version = "TLSv1.3",
				    .cipher = "TLS_AES_128_GCM_SHA256",
				    .peer_subject = who,
				    .peer_issuer = "CN=ca",
				    .peer_serial = "1234",
				    .peer_sha256 = "abcd",
				    .peer_uri = uris,
				    .peer_dns = dns,
				    .peer_ip = ips,
				    .peer_email = dns,
				    .local_uri = uris,
				    .local_dns = dns,
				    .local_subject = "CN=me",
				    .peer_not_before = 1600000000,
				    .peer_not_after = 1700000000,
				    .peer_presented = true};
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	Google__Protobuf__Struct *meta, *inner;
	Google__Protobuf__Value *v;

	f->a = weft_arena_new(0);
	f->c = (struct weft_cfg){.arena = f->a, .errs = &f->errs, .file = true};
	weft_headers_init(&f->req, f->a);
	weft_headers_init(&f->resp, f->a);
	weft_headers_init(&f->trailers, f->a);
	add(&f->req, ":method", "GET");
	add(&f->req, ":path", "/p/a?x=12345&y=a%20b&empty=");
	add(&f->req, ":authority", "h.example:80");
	add(&f->req, "user-agent", "agent \"q\"");
	add(&f->req, "x-request-id", "rid");
	add(&f->req, "content-type", "application/grpc");
	add(&f->req, "empty", "");
	add(&f->resp, ":status", "200");
	add(&f->resp, "x-resp", "r1");
	add(&f->trailers, "grpc-status", "5");
	fill_tls(&f->tls, "CN=client");
	fill_tls(&f->up_tls, "CN=server");
	f->more = (struct weft_tls_more){.refs = 1,
					 .session_id = "00ff",
					 .peer_pem = "-----BEGIN%20",
					 .peer_sha1 = "aa",
					 .chain_sha1 = dns,
					 .chain_sha256 = ips,
					 .chain_serial = uris,
					 .peer_other = dns,
					 .local_email = dns,
					 .local_ip = ips,
					 .local_other = uris};
	f->tls.more = f->up_tls.more = &f->more;
	f->origin = (struct weft_io_origin){
		.direct_local = addr("10.5.5.5", 15001), .ja3 = "three", .ja4 = "four"};
	f->down = (struct weft_io_info){.local = addr("10.1.2.3", 443),
					.remote = addr("10.9.9.9", 5555),
					.direct_remote = addr("fd00::1", 7777),
					.sni = "sni.example",
					.tls = &f->tls,
					.id = 42,
					.start_ns = 1000000000,
					.ready_ns = 1009000000,
					.origin = &f->origin};
	f->cluster = (struct weft_cluster){.name = "cl", .alt_stat_name = "alt"};
	f->host = (struct weft_host){
		.addr = addr("10.4.4.4", 80), .text = "10.4.4.4:80", .hostname = "web.example"};
	f->info = (struct weft_info){.arena = f->a,
				     .down = &f->down,
				     .start_wall_ns = 1700000001234567891,
				     .start_ns = 1000000000,
				     .last_rx_ns = 1002000000,
				     .up_cx_ns = 1001000000,
				     .up_connected_ns = 1001500000,
				     .up_hs_ns = 1002000000,
				     .up_first_tx_ns = 1003000000,
				     .up_last_tx_ns = 1004000000,
				     .up_first_rx_ns = 1010000000,
				     .up_last_rx_ns = 1012500000,
				     .first_tx_ns = 1013000000,
				     .last_tx_ns = 1020000000,
				     .end_ns = 1021000000,
				     .flags = 1ull << WEFT_FLAG_UH | 1ull << WEFT_FLAG_DC,
				     .protocol = WEFT_HTTP_11,
				     .status = 200,
				     .details = "via upstream",
				     .termination_details = "some reason",
				     .rx_bytes = 3,
				     .tx_bytes = 5,
				     .rx_head_bytes = 30,
				     .tx_head_bytes = 50,
				     .rx_head_wire = 33,
				     .tx_head_wire = 55,
				     .up_rx_head_bytes = 60,
				     .up_tx_head_bytes = 61,
				     .up_rx_head_wire = 62,
				     .up_tx_head_wire = 63,
				     .up_want_ns = 1005000000,
				     .up_ready_ns = 1008000000,
				     .vcluster_name = "vc",
				     .up_rx_wire = 11,
				     .up_tx_wire = 12,
				     .down_rx_wire = 13,
				     .down_tx_wire = 14,
				     .route_name = "rt",
				     .vhost_name = "vh",
				     .filter_chain_name = "fc",
				     .remote = addr("1.2.3.4", 99),
				     .cluster = &f->cluster,
				     .host = &f->host,
				     .up_local = addr("10.0.0.7", 1001),
				     .up_remote = addr("fd00::2", 1002),
				     .up_tls = &f->up_tls,
				     .up_conn_id = 77,
				     .up_failure = "TLS error: bad cert",
				     .down_failure = "no cert",
				     .up_protocol = "HTTP/2",
				     .attempts = 2,
				     .request_id = "rid",
				     .trace_id = "tid"};
	meta = weft_info_meta(&f->info, "ns");
	weft_struct_set_string(f->a, meta, "s", "te\"xt");
	weft_struct_set_number(f->a, meta, "n", 1.5);
	weft_struct_set_number(f->a, meta, "i", 7);
	weft_struct_set_bool(f->a, meta, "b", true);
	inner = weft_arena_alloc(f->a, sizeof(*inner));
	google__protobuf__struct__init(inner);
	weft_struct_set_string(f->a, inner, "k", "v");
	v = weft_arena_alloc(f->a, sizeof(*v));
	google__protobuf__value__init(v);
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
	v->struct_value = inner;
	weft_struct_set(f->a, meta, "o", v);
	f->in = (struct weft_format_in){.info = &f->info,
					.req = &f->req,
					.resp = &f->resp,
					.trailers = &f->trailers,
					.body = "local body",
					.log_type = "DownstreamEnd"};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	weft_arena_free(f->a);
	free(f);
	return 0;
}

static char *written(const struct weft_format *f, const struct weft_format_in *in)
{
	struct evbuffer *b = evbuffer_new();
	size_t n;
	char *s;

	weft_format_write(f, in, b);
	n = evbuffer_get_length(b);
	s = calloc(1, n + 1);
	evbuffer_remove(b, s, n);
	evbuffer_free(b);
	return s;
}

static void check(struct fix *f, const char *format, const char *want)
{
	const struct weft_format *fmt;
	struct weft_path at = {NULL, "format", -1};
	char *got;

	if (weft_format_prepare(&f->c, &at, format, &fmt))
		fail_msg("%s: %s", format, f->errs.v[0].msg);
	got = written(fmt, &f->in);
	if (strcmp(got, want))
		fail_msg("%s: \"%s\", must be \"%s\"", format, got, want);
	free(got);
}

static void operators(void **state)
{
	static const struct {
		const char *format, *want;
	} t[] = {
		{"", ""},
		{"plain 100%% text%%", "plain 100% text%"},
		{"%REQ(:METHOD)%|%REQ(:Path):4%|%REQ(host)%", "GET|/p/a|h.example:80"},
		{"%REQ(nope?User-Agent):5%|%REQ(nope?none)%|%REQ(empty)%", "agent|-|"},
		{"%RESP(X-Resp)% %RESP(a)% %TRAILER(GRPC-STATUS)%", "r1 - 5"},
		{"%QUERY_PARAM(x):3%|%QUERY_PARAM(y)%|%QUERY_PARAM(z)%", "123|a b|-"},
		{"%PATH%|%PATH(NQ)%|%PATH(WQ:ORIG)%|%PATH(NQ:PATH):2%",
		 "/p/a?x=12345&y=a%20b&empty=|/p/a|-|/p"},
		{"%START_TIME%", "2023-11-14T22:13:21.234Z"},
		{"%START_TIME(%s.%3f %6f %f)%", "1700000001.234 234567 234567891"},
		{"%START_TIME(%Y/%m/%dT%H:%M:%S%z %E6S %%)%",
		 "2023/11/14T22:13:21+0000 21.234567 %"},
		{"%DURATION% %REQUEST_DURATION% %REQUEST_TX_DURATION%", "21 2 4"},
		{"%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %ROUNDTRIP_DURATION%", "10 10 -"},
		{"%DOWNSTREAM_HANDSHAKE_DURATION%", "9"},
		{"%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)% "
		 "%COMMON_DURATION(US_TX_BEG:DS_RX_END:ms)% %COMMON_DURATION(DS_RX_BEG:US_RX_END)%",
		 "12500 - 12"},
		{"%COMMON_DURATION(DS_RX_BEG:US_CX_BEG:us)% "
		 "%COMMON_DURATION(US_CX_BEG:US_CX_END:us)% "
		 "%COMMON_DURATION(US_CX_END:US_HS_END:us)%",
		 "1000 500 500"},
		{"%BYTES_RECEIVED% %BYTES_SENT% %BYTES_SENT()%", "3 5 5"},
		{"%DOWNSTREAM_HEADER_BYTES_RECEIVED% %DOWNSTREAM_HEADER_BYTES_SENT%", "33 55"},
		{"%DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED% "
		 "%DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT%",
		 "33 55"},
		{"%UPSTREAM_HEADER_BYTES_RECEIVED% %UPSTREAM_HEADER_BYTES_SENT% "
		 "%UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED% "
		 "%UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT%",
		 "62 63 60 61"},
		{"%UPSTREAM_CONNECTION_POOL_READY_DURATION% %VIRTUAL_CLUSTER_NAME%", "3 vc"},
		{"%TLS_JA3_FINGERPRINT% %TLS_JA4_FINGERPRINT%", "three four"},
		{"%STREAM_INFO_REQ(:METHOD)%", "GET"},
		{"%FILTER_STATE(a)% %FILTER_STATE(a:PLAIN):3% %FILTER_STATE(a:FIELD:b)% "
		 "%UPSTREAM_FILTER_STATE(a:TYPED)%",
		 "- - - -"},
		{"%DOWNSTREAM_DIRECT_LOCAL_ADDRESS% "
		 "%DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT% "
		 "%DOWNSTREAM_DIRECT_LOCAL_PORT%",
		 "10.5.5.5:15001 10.5.5.5 15001"},
		{"%DOWNSTREAM_TLS_SESSION_ID% %UPSTREAM_TLS_SESSION_ID% %DOWNSTREAM_PEER_CERT% "
		 "%UPSTREAM_PEER_CERT% %DOWNSTREAM_PEER_FINGERPRINT_1%",
		 "00ff 00ff -----BEGIN%20 -----BEGIN%20 aa"},
		{"%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1% %DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256% "
		 "%DOWNSTREAM_PEER_CHAIN_SERIALS% %DOWNSTREAM_PEER_OTHERNAME_SAN%",
		 "a.example,b.example 10.0.0.1 spiffe://td/ns/a/sa/b,urn:x a.example,b.example"},
		{"%DOWNSTREAM_LOCAL_EMAIL_SAN% %DOWNSTREAM_LOCAL_IP_SAN% "
		 "%DOWNSTREAM_LOCAL_OTHERNAME_SAN% %UPSTREAM_LOCAL_IP_SAN%",
		 "a.example,b.example 10.0.0.1 spiffe://td/ns/a/sa/b,urn:x 10.0.0.1"},
		{"%UPSTREAM_WIRE_BYTES_SENT% %UPSTREAM_WIRE_BYTES_RECEIVED% "
		 "%DOWNSTREAM_WIRE_BYTES_SENT% %DOWNSTREAM_WIRE_BYTES_RECEIVED%",
		 "12 11 14 13"},
		{"%BYTES_RETRANSMITTED%%PACKETS_RETRANSMITTED%", "00"},
		{"%RESPONSE_HEADERS_BYTES% %RESPONSE_TRAILERS_BYTES%", "18 12"},
		{"%UPSTREAM_REQUEST_ATTEMPT_COUNT% %CONNECTION_ID% %UPSTREAM_CONNECTION_ID%",
		 "2 42 77"},
		{"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
		 "200 UH,DC NoHealthyUpstream,DownstreamConnectionTermination"},
		{"%PROTOCOL% %UPSTREAM_PROTOCOL%", "HTTP/1.1 HTTP/2"},
		{"%RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
		 "via_upstream|via upstream"},
		{"%CONNECTION_TERMINATION_DETAILS%", "some_reason"},
		{"%UPSTREAM_TRANSPORT_FAILURE_REASON% %DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
		 "TLS_error:_bad_cert no_cert"},
		{"%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%",
		 "10.4.4.4:80 web.example web.example"},
		{"%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", "alt cl"},
		{"%REQUESTED_SERVER_NAME% %ROUTE_NAME% %FILTER_CHAIN_NAME%", "sni.example rt fc"},
		{"%ACCESS_LOG_TYPE% %LOCAL_REPLY_BODY%", "DownstreamEnd local body"},
		{"%TRACE_ID% %STREAM_ID% <%CUSTOM_FLAGS%>", "tid rid <>"},
		{"%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% "
		 "%UPSTREAM_LOCAL_PORT%",
		 "10.0.0.7:1001 10.0.0.7 1001"},
		{"%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% "
		 "%UPSTREAM_REMOTE_PORT%",
		 "[fd00::2]:1002 fd00::2 1002"},
		{"%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% "
		 "%DOWNSTREAM_LOCAL_PORT%",
		 "10.1.2.3:443 10.1.2.3 443"},
		{"%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% "
		 "%DOWNSTREAM_REMOTE_PORT%",
		 "1.2.3.4:99 1.2.3.4 99"},
		{"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% "
		 "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% "
		 "%DOWNSTREAM_DIRECT_REMOTE_PORT%",
		 "[fd00::1]:7777 fd00::1 7777"},
		{"%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %UPSTREAM_TLS_VERSION% "
		 "%UPSTREAM_TLS_CIPHER%",
		 "TLSv1.3 TLS_AES_128_GCM_SHA256 TLSv1.3 TLS_AES_128_GCM_SHA256"},
		{"%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_ISSUER% %DOWNSTREAM_PEER_SERIAL% "
		 "%DOWNSTREAM_PEER_FINGERPRINT_256% %DOWNSTREAM_LOCAL_SUBJECT%",
		 "CN=client CN=ca 1234 abcd CN=me"},
		{"%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_IP_SAN% "
		 "%DOWNSTREAM_PEER_EMAIL_SAN%",
		 "spiffe://td/ns/a/sa/b,urn:x a.example,b.example 10.0.0.1 a.example,b.example"},
		{"%DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_LOCAL_DNS_SAN%",
		 "spiffe://td/ns/a/sa/b,urn:x a.example,b.example"},
		{"%DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CERT_V_END(%s)%",
		 "2020-09-13T12:26:40.000Z 1700000000"},
		{"%UPSTREAM_PEER_SUBJECT% %UPSTREAM_PEER_ISSUER% %UPSTREAM_PEER_URI_SAN% "
		 "%UPSTREAM_PEER_DNS_SAN% %UPSTREAM_PEER_IP_SAN%",
		 "CN=server CN=ca spiffe://td/ns/a/sa/b,urn:x a.example,b.example 10.0.0.1"},
		{"%UPSTREAM_LOCAL_URI_SAN% %UPSTREAM_LOCAL_DNS_SAN%",
		 "spiffe://td/ns/a/sa/b,urn:x a.example,b.example"},
		{"%UPSTREAM_PEER_CERT_V_START(%Y)% %UPSTREAM_PEER_CERT_V_END(%Y)%", "2020 2023"},
		{"%DYNAMIC_METADATA(ns:s)% %DYNAMIC_METADATA(ns:n)% %DYNAMIC_METADATA(ns:i)% "
		 "%DYNAMIC_METADATA(ns:b)%",
		 "te\"xt 1.5 7 true"},
		{"%DYNAMIC_METADATA(ns:o)% %DYNAMIC_METADATA(ns:o:k)% %DYNAMIC_METADATA(ns:q)% "
		 "%DYNAMIC_METADATA(no:s)% %METADATA(DYNAMIC:ns:s):2%",
		 "{\"k\":\"v\"} v - - te"},
		{"%DYNAMIC_METADATA(ns)%",
		 "{\"s\":\"te\\\"xt\",\"n\":1.5,\"i\":7,\"b\":true,\"o\":{\"k\":\"v\"}}"},
		{"%CLUSTER_METADATA(a:b)%", "-"},
		{"%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% "
		 "%GRPC_STATUS_NUMBER%",
		 "NotFound NOT_FOUND 5 5"},
		{"%ENVIRONMENT(WEFT_FORMAT_TEST):3% %ENVIRONMENT(WEFT_FORMAT_NONE)%", "env -"},
	};
	size_t i;

	setenv("WEFT_FORMAT_TEST", "environment", 1);
	for (i = 0; i < sizeof(t) / sizeof(*t); i++)
		check(*state, t[i].format, t[i].want);
}

static Envoy__Config__Core__V3__Metadata *metadata(struct fix *f, const char *value)
{
	Envoy__Config__Core__V3__Metadata *m = weft_arena_alloc(f->a, sizeof(*m));
	Envoy__Config__Core__V3__Metadata__FilterMetadataEntry *e =
		weft_arena_alloc(f->a, sizeof(*e));

	m->base.descriptor = &envoy__config__core__v3__metadata__descriptor;
	e->base.descriptor = &envoy__config__core__v3__metadata__filter_metadata_entry__descriptor;
	e->key = (char *)"ns";
	e->value = weft_arena_alloc(f->a, sizeof(*e->value));
	google__protobuf__struct__init(e->value);
	weft_struct_set_string(f->a, e->value, "k", value);
	m->filter_metadata = weft_arena_memdup(f->a, &e, sizeof(e));
	m->n_filter_metadata = 1;
	return m;
}

static void metadata_of_others(void **state)
{
	struct fix *f = *state;

	f->info.up_metadata = metadata(f, "endpoint");
	f->info.route_metadata = metadata(f, "route");
	f->info.vhost_metadata = metadata(f, "vhost");
	f->info.listener_metadata = metadata(f, "listener");
	check(f,
	      "%UPSTREAM_METADATA(ns:k)% %METADATA(UPSTREAM_HOST:ns:k)% %METADATA(ROUTE:ns:k):3% "
	      "%METADATA(VIRTUAL_HOST:ns:k)% %METADATA(LISTENER:ns:k)% %METADATA(LISTENER:no:k)% "
	      "%METADATA(ROUTE:ns)% %METADATA(DYNAMIC)%",
	      "endpoint endpoint rou vhost listener - {\"k\":\"route\"} -");
}

/* What the kept copies of a connection are for: logs that are written after its end. */
static void kept(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);
	const struct weft_io_info *k = weft_info_keep(a, &f->down, true);

	assert_int_equal(f->more.refs, 2);
	assert_ptr_not_equal(k->origin, &f->origin);
	assert_string_equal(k->origin->ja4, "four");
	f->info.down = k;
	check(f, "%DOWNSTREAM_TLS_SESSION_ID% %TLS_JA3_FINGERPRINT%", "00ff three");
	f->info.down = &f->down;
	weft_arena_free(a);
	assert_int_equal(f->more.refs, 1);
}

/* A list longer than what stands in a value. */
static void long_lists(void **state)
{
	static char name[300];
	static const char *const v[] = {name, name, name, NULL};
	struct fix *f = *state;
	const struct weft_format *fmt;
	char *got;

	memset(name, 'n', sizeof(name) - 1);
	f->more.chain_sha256 = v;
	assert_int_equal(
		weft_format_prepare(&f->c, NULL, "%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256%", &fmt),
		0);
	got = written(fmt, &f->in);
	assert_int_equal(strlen(got), 3 * 299 + 2);
	free(got);
}

static void local_times(void **state)
{
	struct fix *f = *state;
	char *got;
	const struct weft_format *fmt;

	setenv("TZ", "UTC-3", 1);
	tzset();
	assert_int_equal(weft_format_prepare(&f->c, NULL, "%EMIT_TIME_LOCAL(%z)%", &fmt), 0);
	got = written(fmt, &f->in);
	assert_string_equal(got, "+0300");
	free(got);
	unsetenv("TZ");
	tzset();
}

static void nothing_known(void **state)
{
	struct fix *f = *state;

	f->in = (struct weft_format_in){0};
	check(f,
	      "%START_TIME% %REQ(a)% %PATH% %RESPONSE_CODE% %DURATION% %UPSTREAM_HOST% %PROTOCOL%",
	      "- - - - - - -");
	f->info = (struct weft_info){.arena = f->a, .start_ns = 1, .end_ns = 2};
	f->in.info = &f->info;
	check(f,
	      "%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_HOST% %DOWNSTREAM_REMOTE_ADDRESS% "
	      "%UPSTREAM_CLUSTER% %DOWNSTREAM_TLS_VERSION% %GRPC_STATUS% %ACCESS_LOG_TYPE% "
	      "%LOCAL_REPLY_BODY%",
	      "0 - - - - - - NotSet ");
}

static void generated(void **state)
{
	struct fix *f = *state;
	const struct weft_format *fmt;
	char *a, *b;

	assert_int_equal(weft_format_prepare(&f->c, NULL, "%UNIQUE_ID%", &fmt), 0);
	a = written(fmt, &f->in);
	b = written(fmt, &f->in);
	assert_int_equal(strlen(a), 36);
	assert_int_equal(a[14], '4');
	assert_string_not_equal(a, b);
	free(a);
	free(b);
	assert_int_equal(weft_format_prepare(&f->c, NULL, "%EMIT_TIME(%Y)%", &fmt), 0);
	a = written(fmt, &f->in);
	assert_true(atoi(a) >= 2024);
	free(a);
	setenv("TZ", "UTC-3", 1);
	tzset();
	check(f, "%START_TIME_LOCAL(%H)% %START_TIME(%H)%", "01 22");
	unsetenv("TZ");
	tzset();
}

/* The second's text is kept: other formats and fractions must not see it. */
static void times_are_kept_apart(void **state)
{
	struct fix *f = *state;

	check(f, "%START_TIME% %START_TIME(%S)% %START_TIME%",
	      "2023-11-14T22:13:21.234Z 21 2023-11-14T22:13:21.234Z");
	f->info.start_wall_ns += 1000000;
	check(f, "%START_TIME%", "2023-11-14T22:13:21.235Z");
	f->info.start_wall_ns += 1000000000;
	check(f, "%START_TIME%", "2023-11-14T22:13:22.235Z");
}

static void refused(void **state)
{
	static const struct {
		const char *format, *why;
	} t[] = {
		{"50% of", "begins no operator"},
		{"%", "begins no operator"},
		{"%NOPE%", "not a command operator"},
		{"%PROTOCAL%", "did you mean PROTOCOL"},
		{"%REQ%", "needs an argument"},
		{"%REQ()%", "needs an argument"},
		{"%REQ(a", "without ')'"},
		{"%REQ(a):x%", "number behind ':'"},
		{"%REQ(a):%", "number behind ':'"},
		{"%PROTOCOL:3%", "no length"},
		{"%PROTOCOL(x)%", "takes no arguments"},
		{"%HOSTNAME(x)%", "takes no arguments"},
		{"%GRPC_STATUS(X)%", "CAMEL_STRING"},
		{"%RESPONSE_CODE_DETAILS(X)%", "ALLOW_WHITESPACES"},
		{"%PATH(X)%", "WQ or NQ"},
		{"%PATH(WQ:X)%", "ORIG, PATH"},
		{"%COMMON_DURATION(A:B:ms)%", "time points"},
		{"%COMMON_DURATION(DS_RX_BEG:DS_RX_END:s)%", "ms|us|ns"},
		{"%METADATA(FOO:a:b)%", "has \"FOO\""},
		{"%DYNAMIC_METADATA(a:b):3%", "no length"},
		{"%START_TIME(%Y):3%", "no length"},
		{"%FILTER_STATE()%", "needs an argument"},
		{"%FILTER_STATE(:PLAIN)%", "needs a key"},
		{"%FILTER_STATE(a:X)%", "PLAIN, TYPED or FIELD"},
		{"%FILTER_STATE(a:FIELD)%", "FIELD alone"},
		{"%FILTER_STATE(a:PLAIN:b)%", "FIELD alone"},
		{"%REQ(a?b?c)%", "two with '?'"},
		{"%PROTOCOL:0%", "no length"},
		{"%XFCC_VALUE%", "needs an argument"},
		{"%XFCC_VALUE(san)%", "takes By, Hash"},
		{"%XFCC_VALUE(by):3%", "no length"},
		{"%REQ(a:b)%", "name one header"},
		{"%CEL(x)%", "not a command operator"},
	};
	struct fix *f = *state;
	const struct weft_format *fmt;
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(*t); i++) {
		f->errs.n = 0;
		assert_true(weft_format_prepare(&f->c, NULL, t[i].format, &fmt) < 0);
		assert_int_equal(f->errs.n, 1);
		if (!strstr(f->errs.v[0].msg, t[i].why))
			fail_msg("%s: \"%s\", must say \"%s\"", t[i].format, f->errs.v[0].msg,
				 t[i].why);
	}
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *err)
{
	return &envoy__config__core__v3__substitution_format_string__descriptor;
}

static const struct weft_format *from_yaml(struct fix *f, const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	const struct weft_format *fmt = NULL;
	struct weft_path at = {NULL, "log_format", -1};
	size_t n = 0;

	weft_yaml_decode(f->a, "t.yaml", yaml, strlen(yaml), pick, NULL, &docs, &n, &f->errs);
	assert_int_equal(f->errs.n, 0);
	if (weft_format_prepare_msg(&f->c, &at, (const void *)docs[0].msg, &fmt))
		return NULL;
	return fmt;
}

/* What peers choose: no byte of theirs begins a line, or ends a string of JSON. */
static void hostile(void **state)
{
	static const char *const odd[] = {"a\r\nb",
					  "c\x7f"
					  "d",
					  NULL};
	struct fix *f = *state;
	const struct weft_format *text, *json;
	char *got;

	f->tls.peer_uri = odd;
	f->info.requested_server_name = "a.ex\nAMPLE*_:1";
	add(&f->req, "x-odd", "c\xff\xc3\xa4\"");
	assert_int_equal(weft_format_prepare(&f->c, NULL,
					     "%DOWNSTREAM_PEER_URI_SAN% %REQUESTED_SERVER_NAME% "
					     "%REQ(X-Odd%)%%REQ(x-odd):0%",
					     &text),
			 0);
	got = written(text, &f->in);
	assert_string_equal(got, "a__b,c_d invalid:a.ex_ample___1 -");
	free(got);
	json = from_yaml(f, "json_format: {a: '%DOWNSTREAM_PEER_URI_SAN%', b: '%REQ(x-odd)%', "
			    "c: '%REQ(x-odd):4%', d: '%REQ(x-odd):3% '}");
	assert_non_null(json);
	got = written(json, &f->in);
	assert_string_equal(got,
			    "{\"a\":\"a\\r\\nb,c\\u007fd\",\"b\":\"c\\u00ff\\u00c3\\u00a4\\\"\","
			    "\"c\":\"c\\u00ff\\u00c3\\u00a4\",\"d\":\"c\\u00ff\\u00c3 \"}\n");
	free(got);
	f->info.requested_server_name = "a_b.c-d";
	assert_int_equal(weft_format_prepare(&f->c, NULL, "%REQUESTED_SERVER_NAME%", &text), 0);
	got = written(text, &f->in);
	assert_string_equal(got, "a_b.c-d");
	free(got);
}

static void xfcc(void **state)
{
	static const struct {
		const char *value, *format, *want;
	} t[] = {
		{"By=a;Hash=b;URI=c,By=d", "%XFCC_VALUE(by)% %XFCC_VALUE(URI)% %XFCC_VALUE(dns)%",
		 "a c -"},
		{"Hash=b,By=d", "%XFCC_VALUE(By)%", "d"},
		{"Subject=\"CN=a,O=\\\"x;y\\\"\";URI=u", "%XFCC_VALUE(subject)%|%XFCC_VALUE(uri)%",
		 "CN=a,O=\"x;y\"|u"},
		{" by = a b ;hash", "%XFCC_VALUE(by)%|%XFCC_VALUE(hash)%|", "a b||"},
		{"By=a;Hash=\"b", "%XFCC_VALUE(by)%", "-"},
		{"By=a,Hash=\"b,DNS=c", "%XFCC_VALUE(by)% %XFCC_VALUE(dns)%", "a -"},
		{"By=\"a\\\\\";DNS=c\\", "%XFCC_VALUE(by)% %XFCC_VALUE(dns)%", "a\\ c\\"},
		{"", "%XFCC_VALUE(by)%", "-"},
		{"=;,;\"", "%XFCC_VALUE(by)%", "-"},
	};
	struct fix *f = *state;

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		const struct weft_format *fmt;
		char *got;

		weft_headers_remove(&f->req, "x-forwarded-client-cert", 0);
		add(&f->req, "x-forwarded-client-cert", t[i].value);
		assert_int_equal(weft_format_prepare(&f->c, NULL, t[i].format, &fmt), 0);
		got = written(fmt, &f->in);
		assert_string_equal(got, t[i].want);
		free(got);
	}
}

static void json(void **state)
{
	static const struct {
		const char *yaml, *want;
	} t[] = {
		{"json_format: {b: '%RESPONSE_CODE%', a: 'x %PROTOCOL% %REQ(no)%', c: '%REQ(no)%'}",
		 "{\"a\":\"x HTTP/1.1 -\",\"b\":200,\"c\":null}\n"},
		{"json_format: {n: 3.5, i: 4, t: true, z: null, s: '100%%', l: ['%BYTES_SENT%', "
		 "[x]], "
		 "o: {p: {q: '%REQ(:METHOD)%'}}}",
		 "{\"i\":4,\"l\":[5,[\"x\"]],\"n\":3.5,\"o\":{\"p\":{\"q\":\"GET\"}},\"s\":\"100%"
		 "\","
		 "\"t\":true,\"z\":null}\n"},
		{"json_format: {'k\"\\': '%REQ(user-agent)%', m: '%DYNAMIC_METADATA(ns:o)%', "
		 "mm: 'm=%DYNAMIC_METADATA(ns:o)%'}",
		 "{\"k\\\"\\\\\":\"agent "
		 "\\\"q\\\"\",\"m\":{\"k\":\"v\"},\"mm\":\"m={\\\"k\\\":\\\"v\\\"}\"}\n"},
		{"omit_empty_values: true\njson_format: {a: '%REQ(no)%', b: 'x%REQ(no)%y', "
		 "c: ['%REQ(no)%', 1], d: '%PROTOCOL%'}",
		 "{\"a\":null,\"b\":\"xy\",\"c\":[null,1],\"d\":\"HTTP/1.1\"}\n"},
		{"text_format: 'a %PROTOCOL%'", "a HTTP/1.1"},
		{"text_format_source: {inline_string: '%REQ(no)%b'}", "-b"},
		{"omit_empty_values: true\ntext_format_source: {inline_string: '%REQ(no)%b'}", "b"},
	};
	struct fix *f = *state;
	char *got;
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(*t); i++) {
		const struct weft_format *fmt = from_yaml(f, t[i].yaml);

		assert_non_null(fmt);
		got = written(fmt, &f->in);
		assert_string_equal(got, t[i].want);
		free(got);
	}
	assert_true(weft_format_is_json(from_yaml(f, "json_format: {}")));
	assert_string_equal(weft_format_content_type(from_yaml(f, "json_format: {}")),
			    "application/json");
	assert_string_equal(
		weft_format_content_type(from_yaml(f, "text_format: x\ncontent_type: a/b")), "a/b");
	assert_null(from_yaml(f, "omit_empty_values: true"));
	f->errs.n = 0;
	assert_null(from_yaml(f, "json_format: {a: {b: ['%NO%']}}"));
	assert_string_equal(f->errs.v[0].path, "log_format.json_format.a.b[0]");
}

static void control_bytes(void **state)
{
	struct fix *f = *state;
	const struct weft_format *fmt = from_yaml(f, "json_format: {a: '%REQ(x)%'}");
	char *got;

	weft_headers_add(&f->req, "x", 1, "a\n\t\x01\x7f\\\"\xc3\xa9", 9);
	got = written(fmt, &f->in);
	assert_string_equal(got, "{\"a\":\"a\\n\\t\\u0001\\u007f\\\\\\\"\xc3\xa9\"}\n");
	free(got);
}

static void strings(void **state)
{
	struct fix *f = *state;
	const struct weft_format *fmt;
	bool empty;
	size_t n;

	assert_int_equal(weft_format_prepare(&f->c, NULL, "%REQ(no)%", &fmt), 0);
	assert_string_equal(weft_format_string(fmt, &f->in, f->a, &n, &empty), "");
	assert_true(empty);
	assert_int_equal(n, 0);
	assert_int_equal(weft_format_prepare(&f->c, NULL, "a%REQ(no)%b", &fmt), 0);
	assert_string_equal(weft_format_string(fmt, &f->in, f->a, &n, &empty), "ab");
	assert_false(empty);
}

static void long_ones(void **state)
{
	struct fix *f = *state;
	const struct weft_format *fmt;
	char *big = malloc(100001), *got;
	size_t i;

	memset(big, 'x', 100000);
	big[100000] = 0;
	weft_headers_add(&f->req, "big", 3, big, 100000);
	assert_int_equal(weft_format_prepare(&f->c, NULL, "<%REQ(big)%%REQ(big):3%>", &fmt), 0);
	got = written(fmt, &f->in);
	assert_int_equal(strlen(got), 100005);
	assert_int_equal(got[100004], '>');
	free(got);
	/* too many pieces */
	for (i = 0; i + 1 < 2000; i += 2)
		memcpy(big + i, "%%", 2);
	big[i] = 0;
	assert_true(weft_format_prepare(&f->c, NULL, big, &fmt) < 0);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(operators, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_known, setup, teardown),
		cmocka_unit_test_setup_teardown(metadata_of_others, setup, teardown),
		cmocka_unit_test_setup_teardown(kept, setup, teardown),
		cmocka_unit_test_setup_teardown(long_lists, setup, teardown),
		cmocka_unit_test_setup_teardown(local_times, setup, teardown),
		cmocka_unit_test_setup_teardown(generated, setup, teardown),
		cmocka_unit_test_setup_teardown(times_are_kept_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(refused, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(xfcc, setup, teardown),
		cmocka_unit_test_setup_teardown(json, setup, teardown),
		cmocka_unit_test_setup_teardown(control_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(strings, setup, teardown),
		cmocka_unit_test_setup_teardown(long_ones, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
