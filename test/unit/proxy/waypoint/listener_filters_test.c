/* What runs before a chain is chosen: each listener filter, their order, and how it ends. */
#include "proxy/codec/sniff.h"
#include "proxy/waypoint/listener.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { ROUNDS = 400 };
#define V1 "PROXY TCP4 9.8.7.6 5.4.3.2 1111 2222\r\n"

static struct event_base *base;
static struct lfilter filter[4];
static struct lconf conf;
static int ends[2];
static struct lpre *pre, *over;
static struct {
	unsigned n;
	bool ok, restored;
	char sni[256], transport[16], alpn[4][32], bytes[8192];
	size_t n_alpn, n_bytes;
	struct weft_sockaddr local, remote, direct, direct_local;
	char ja3[64], ja4[64];
} got;

static void done(void *owner, struct lpre *p, const struct lpre_done *d, bool ok)
{
	over = p;
	got.n++;
	got.ok = ok;
	got.restored = d->restored;
	got.local = d->local;
	got.remote = d->remote;
	got.direct = d->direct_remote;
	got.direct_local = d->direct_local;
	snprintf(got.ja3, sizeof(got.ja3), "%s", d->ja3 ? d->ja3 : "");
	snprintf(got.ja4, sizeof(got.ja4), "%s", d->ja4 ? d->ja4 : "");
	snprintf(got.sni, sizeof(got.sni), "%s", d->sni);
	snprintf(got.transport, sizeof(got.transport), "%s", d->transport);
	for (; d->alpn && d->alpn[got.n_alpn] && got.n_alpn < 4; got.n_alpn++)
		snprintf(got.alpn[got.n_alpn], sizeof(got.alpn[0]), "%s", d->alpn[got.n_alpn]);
	if (d->already)
		got.n_bytes = (size_t)evbuffer_copyout(d->already, got.bytes, sizeof(got.bytes));
}

static int setup(void **state)
{
	base = event_base_new();
	memset(&conf, 0, sizeof(conf));
	memset(&got, 0, sizeof(got));
	memset(filter, 0, sizeof(filter));
	conf.filter = filter;
	conf.filters_ms = 15000;
	conf.scope = weft_scope_get(&weft_listener_scope, "t");
	pre = over = NULL;
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends);
}

static int teardown(void **state)
{
	lpre_free(over ? over : pre);
	close(ends[0]);
	if (ends[1] >= 0)
		close(ends[1]);
	event_base_free(base);
	return 0;
}

static struct lfilter *add(enum lfilter_kind kind)
{
	filter[conf.n_filter].kind = kind;
	filter[conf.n_filter].hello_max = 16 << 10;
	return &filter[conf.n_filter++];
}

static void start(void)
{
	struct weft_sockaddr peer = {.ip.family = 4, .port = 77};

	pre = lpre_start(base, &conf, ends[0], &peer, done, NULL);
}

static void turn(void)
{
	event_base_loop(base, EVLOOP_NONBLOCK);
}

static void say(const void *p, size_t n)
{
	assert_int_equal(write(ends[1], p, n), n);
	turn();
}

static void hang_up(void)
{
	close(ends[1]);
	ends[1] = -1;
	turn();
}

static void decided(bool ok)
{
	assert_int_equal(got.n, 1);
	assert_int_equal(got.ok, ok);
}

static int64_t counter(enum weft_listener_stat s)
{
	return (int64_t)weft_scope_value(conf.scope, s);
}

/* A ClientHello as OpenSSL writes it. */
static size_t hello(uint8_t *dst, size_t cap, const char *sni)
{
	static const uint8_t alpn[] = "\x02h2\x08http/1.1";
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	int n;

	SSL_set_bio(ssl, in, out);
	SSL_set_tlsext_host_name(ssl, sni);
	SSL_set_alpn_protos(ssl, alpn, sizeof(alpn) - 1);
	SSL_set_connect_state(ssl);
	assert_true(SSL_do_handshake(ssl) < 0);
	n = BIO_read(out, dst, (int)cap);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return (size_t)n;
}

static void no_filters(void **state)
{
	start();
	assert_null(pre);
	decided(true);
	assert_string_equal(got.transport, "raw_buffer");
	assert_string_equal(got.sni, "");
	assert_int_equal(got.remote.port, 77);
	assert_int_equal(got.n_bytes, 0);
}

static void tls(void **state)
{
	uint8_t b[4096];
	size_t n = hello(b, sizeof(b), "A.Example"), i;

	add(LF_TLS_INSPECTOR);
	add(LF_HTTP_INSPECTOR);
	start();
	for (i = 0; i + 1 < n; i++) { /* byte for byte: nothing before the last */
		say(b + i, 1);
		assert_int_equal(got.n, 0);
	}
	say(b + i, 1);
	decided(true);
	assert_string_equal(got.transport, "tls");
	assert_string_equal(got.sni, "a.example");
	assert_int_equal(got.n_alpn, 2);
	assert_string_equal(got.alpn[0], "h2");
	assert_string_equal(got.alpn[1], "http/1.1");
	assert_int_equal(got.n_bytes, n);
	assert_memory_equal(got.bytes, b, n);
}

/* Only what is asked for. */
static void fingerprints(void **state)
{
	uint8_t b[4096];
	size_t n = hello(b, sizeof(b), "a.example");

	add(LF_TLS_INSPECTOR)->prints = WEFT_SNIFF_WANT_JA4;
	start();
	say(b, n);
	decided(true);
	assert_string_equal(got.ja3, "");
	assert_memory_equal(got.ja4, "t13d", 4);
	assert_memory_equal(got.ja4 + 8, "h2_", 3);
	assert_int_equal(strlen(got.ja4), WEFT_SNIFF_JA4 - 2);
	assert_true(weft_sockaddr_eq(&got.direct_local, &got.local));
}

static void tls_too_large(void **state)
{
	int64_t before = counter(WEFT_LISTENER_downstream_listener_filter_error);
	uint8_t b[4096];
	size_t n = hello(b, sizeof(b), "a.example");

	add(LF_TLS_INSPECTOR)->hello_max = 128;
	start();
	say(b, n);
	decided(false);
	assert_int_equal(counter(WEFT_LISTENER_downstream_listener_filter_error), before + 1);
}

static void not_tls(void **state)
{
	static const char get[] = "GET / HTTP/1.1\r\n\r\n";

	add(LF_TLS_INSPECTOR);
	start();
	say(get, sizeof(get) - 1);
	decided(true);
	assert_string_equal(got.transport, "raw_buffer");
	assert_int_equal(got.n_bytes, sizeof(get) - 1);
}

static void half_a_hello(void **state)
{
	uint8_t b[4096];

	hello(b, sizeof(b), "a.example");
	add(LF_TLS_INSPECTOR);
	start();
	say(b, 20);
	assert_int_equal(got.n, 0);
	hang_up();
	decided(true); /* what there is goes to the chain for plaintext */
	assert_string_equal(got.transport, "raw_buffer");
	assert_int_equal(got.n_bytes, 20);
}

static void gone_at_once(void **state)
{
	int64_t before = counter(WEFT_LISTENER_downstream_listener_filter_remote_close);

	add(LF_TLS_INSPECTOR);
	start();
	hang_up();
	decided(false);
	assert_int_equal(counter(WEFT_LISTENER_downstream_listener_filter_remote_close),
			 before + 1);
}

static void http(void **state)
{
	static const struct {
		const char *bytes, *alpn;
	} v[] = {{"GET / HTTP/1.1\r\n", "http/1.1"},
		 {"GET / HTTP/1.0\r\n", "http/1.0"},
		 {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "h2c"},
		 {"\x01\x02\x03\x04 no http\r\n", NULL}};
	size_t i;

	for (i = 0; i < 4; i++) {
		if (i) {
			teardown(NULL);
			setup(NULL);
		}
		add(LF_HTTP_INSPECTOR);
		start();
		say(v[i].bytes, strlen(v[i].bytes));
		decided(true);
		assert_int_equal(got.n_alpn, v[i].alpn != NULL);
		if (v[i].alpn)
			assert_string_equal(got.alpn[0], v[i].alpn);
	}
}

static void proxy(void **state)
{
	char text[WEFT_SOCKADDR_TEXT];

	add(LF_PROXY_PROTOCOL);
	add(LF_HTTP_INSPECTOR);
	start();
	say(V1, 10);
	assert_int_equal(got.n, 0);
	say(&V1[10], strlen(V1) - 10);
	assert_int_equal(got.n, 0); /* the next filter waits */
	say("GET / HTTP/1.1\r\n", 16);
	decided(true);
	assert_string_equal(weft_sockaddr_text(&got.remote, text, sizeof(text)), "9.8.7.6:1111");
	assert_string_equal(weft_sockaddr_text(&got.local, text, sizeof(text)), "5.4.3.2:2222");
	assert_int_equal(got.direct.port, 77);
	assert_true(got.restored);
	assert_int_equal(got.n_bytes, 16);
	assert_memory_equal(got.bytes, "GET / HTTP/1.1\r\n", 16);
	assert_string_equal(got.alpn[0], "http/1.1");
}

static void proxy_missing(void **state)
{
	add(LF_PROXY_PROTOCOL);
	start();
	say("GET / HTTP/1.1\r\n", 16);
	decided(false);
}

static void proxy_optional(void **state)
{
	add(LF_PROXY_PROTOCOL)->pp_optional = true;
	start();
	say("GET / HTTP/1.1\r\n", 16);
	decided(true);
	assert_int_equal(got.remote.port, 77);
	assert_int_equal(got.n_bytes, 16);
}

static void proxy_version_off(void **state)
{
	add(LF_PROXY_PROTOCOL)->pp_v1_off = true;
	start();
	say(V1, strlen(V1));
	decided(false);
}

static void proxy_version_off_optional(void **state)
{
	struct lfilter *f = add(LF_PROXY_PROTOCOL);

	f->pp_v1_off = f->pp_optional = true;
	start();
	say(V1, strlen(V1));
	decided(true); /* its bytes are the connection's */
	assert_int_equal(got.n_bytes, strlen(V1));
	assert_int_equal(got.remote.port, 77);
}

static void proxy_endless(void **state)
{
	char b[300];

	memset(b, 'A', sizeof(b));
	memcpy(b, "PROXY ", 6);
	add(LF_PROXY_PROTOCOL);
	start();
	say(b, sizeof(b));
	decided(false);
}

static void disabled(void **state)
{
	Envoy__Type__V3__Int32Range range = ENVOY__TYPE__V3__INT32_RANGE__INIT;
	Envoy__Config__Listener__V3__ListenerFilterChainMatchPredicate
		port = ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__INIT,
		no = port, *rules[] = {&port};
	Envoy__Config__Listener__V3__ListenerFilterChainMatchPredicate__MatchSet set =
		ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__MATCH_SET__INIT;

	/* not (one of: ports 1..9): a unix socket has port 0 */
	range.has_start = range.has_end = true;
	range.start = 1;
	range.end = 10;
	port.rule_case =
		ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_DESTINATION_PORT_RANGE;
	port.destination_port_range = &range;
	set.rules = rules;
	set.n_rules = 1;
	no.rule_case =
		ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_NOT_MATCH;
	no.not_match = &port;
	add(LF_PROXY_PROTOCOL)->disabled = &no;
	start();
	decided(true);
	assert_null(pre);
	lpre_free(over);
	over = NULL; /* the same with "or" around it, and without "not" */
	memset(&got, 0, sizeof(got));
	no.rule_case =
		ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_OR_MATCH;
	no.or_match = &set;
	start();
	assert_int_equal(got.n, 0);
	assert_non_null(pre);
}

static void waits(unsigned ms)
{
	struct timeval tv = {0, (int)ms * 1000};

	event_base_loopexit(base, &tv);
	event_base_dispatch(base);
}

static void times_out(void **state)
{
	int64_t before = counter(WEFT_LISTENER_downstream_pre_cx_timeout);
	unsigned i;

	conf.filters_ms = 1;
	add(LF_TLS_INSPECTOR);
	start();
	for (i = 0; i < ROUNDS && !got.n; i++)
		waits(5);
	decided(false);
	assert_int_equal(counter(WEFT_LISTENER_downstream_pre_cx_timeout), before + 1);
}

static void goes_on_after_timeout(void **state)
{
	unsigned i;

	conf.filters_ms = 1;
	conf.continue_on_timeout = true;
	add(LF_TLS_INSPECTOR);
	start();
	say("\x16\x03", 2);
	for (i = 0; i < ROUNDS && !got.n; i++)
		waits(5);
	decided(true);
	assert_int_equal(got.n_bytes, 2);
	assert_string_equal(got.transport, "raw_buffer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(no_filters, setup, teardown),
		cmocka_unit_test_setup_teardown(tls, setup, teardown),
		cmocka_unit_test_setup_teardown(tls_too_large, setup, teardown),
		cmocka_unit_test_setup_teardown(not_tls, setup, teardown),
		cmocka_unit_test_setup_teardown(half_a_hello, setup, teardown),
		cmocka_unit_test_setup_teardown(fingerprints, setup, teardown),
		cmocka_unit_test_setup_teardown(gone_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(http, setup, teardown),
		cmocka_unit_test_setup_teardown(proxy, setup, teardown),
		cmocka_unit_test_setup_teardown(proxy_missing, setup, teardown),
		cmocka_unit_test_setup_teardown(proxy_optional, setup, teardown),
		cmocka_unit_test_setup_teardown(proxy_version_off, setup, teardown),
		cmocka_unit_test_setup_teardown(proxy_version_off_optional, setup, teardown),
		cmocka_unit_test_setup_teardown(proxy_endless, setup, teardown),
		cmocka_unit_test_setup_teardown(disabled, setup, teardown),
		cmocka_unit_test_setup_teardown(times_out, setup, teardown),
		cmocka_unit_test_setup_teardown(goes_on_after_timeout, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
