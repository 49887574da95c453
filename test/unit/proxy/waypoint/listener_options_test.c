/* Options of a listener: what its sockets are told, and what those that come meet. */
#include "test/unit/proxy/waypoint/listener_fix.h"

#include "proxy/codec/sniff.h"
#include "proxy/core/overload.h"
#include <netinet/tcp.h>

#define LF "type.googleapis.com/envoy.extensions.filters.listener."
enum { PROTO_MPTCP = 262 };

static unsigned count(const char *name, enum weft_listener_stat s)
{
	return (unsigned)weft_scope_value(weft_scope_get(&weft_listener_scope, name), s);
}

/* Listening sockets of this process at a port; the first in *ret. */
static unsigned sockets(unsigned port, int *ret)
{
	unsigned n = 0;
	int fd, on;

	for (fd = 3; fd < 256; fd++) {
		struct sockaddr_in a;
		socklen_t len = sizeof(a), k = sizeof(on);

		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &k) || !on)
			continue;
		if (getsockname(fd, (struct sockaddr *)&a, &len) || ntohs(a.sin_port) != port)
			continue;
		if (!n++)
			*ret = fd;
	}
	return n;
}

static int option(const char *name, int level, int what)
{
	socklen_t n = sizeof(int);
	int fd = -1, v = -1;

	assert_true(sockets(port_of(name), &fd) > 0);
	assert_int_equal(getsockopt(fd, level, what, &v, &n), 0);
	return v;
}

static void sockets_are_told(void **state)
{
	listeners_start(f.m);
	assert_int_equal(set("plain", 0, "x", NULL, true), 1);
	assert_int_equal(set("fast", 0, "x", "tcp_fast_open_queue_length: 9", true), 1);
	assert_int_equal(set("alone", 0, "x", "enable_reuse_port: false", true), 1);
	assert_int_equal(option("plain", IPPROTO_TCP, TCP_FASTOPEN), 0);
	assert_int_equal(option("fast", IPPROTO_TCP, TCP_FASTOPEN), 9);
	assert_int_equal(option("plain", SOL_SOCKET, SO_REUSEPORT), 1);
	assert_int_equal(option("alone", SOL_SOCKET, SO_REUSEPORT), 0);
	assert_int_equal(option("plain", SOL_IP, IP_FREEBIND), 0);
	assert_int_equal(set("free", 0, "x", "freebind: true", true), 1);
	assert_int_equal(option("free", SOL_IP, IP_FREEBIND), 1);
}

static void transparent(void **state)
{
	listeners_start(f.m);
	if (set("l", 0, "x", "transparent: true", true) == 1)
		assert_int_equal(option("l", SOL_IP, IP_TRANSPARENT), 1);
	else /* it takes CAP_NET_ADMIN: then it is told, not left out */
		assert_non_null(strstr(f.errs.v[0].msg, "transparent cannot be set"));
}

static void mptcp(void **state)
{
	int fd = socket(AF_INET, SOCK_STREAM, PROTO_MPTCP);

	if (fd < 0) {
		print_message("the kernel has no MPTCP\n");
		skip();
	}
	close(fd);
	listeners_start(f.m);
	assert_int_equal(set("plain", 0, "x", NULL, true), 1);
	assert_int_equal(set("m", 0, "x", "enable_mptcp: true", true), 1);
	assert_int_equal(option("plain", SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
	assert_int_equal(option("m", SOL_SOCKET, SO_PROTOCOL), PROTO_MPTCP);
}

struct bounds {
	unsigned n, port[4];
};

static void note_bounds(void *ctx, const struct listener_view *v)
{
	struct bounds *b = ctx;
	unsigned i;

	for (i = 0; i < v->n_bound; i++)
		b->port[b->n++] = v->bound[i].port;
}

static void additional_addresses(void **state)
{
	struct bounds b = {0};
	int x, y, idle;
	socklen_t n = sizeof(idle);

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "word",
			     "additional_addresses: [{address: {socket_address: {address: "
			     "127.0.0.1, port_value: 0}}}, {address: {socket_address: {address: "
			     "127.0.0.1, port_value: 0}}, socket_options: {socket_options: "
			     "[{level: 1, name: 9, int_value: 1}, {level: 6, name: 4, int_value: "
			     "33}]}}]\n"
			     "socket_options: [{level: 1, name: 9, int_value: 1}, {level: 6, name: "
			     "4, int_value: 55}]",
			     true),
			 1);
	turns(2);
	listeners_each(f.m, note_bounds, &b);
	assert_int_equal(b.n, 3);
	assert_int_not_equal(b.port[0], b.port[1]);
	x = dial(b.port[0]);
	y = dial(b.port[1]);
	assert_non_null(strstr(get(x, "word"), "200 OK"));
	assert_non_null(strstr(get(y, "word"), "200 OK"));
	close(x);
	close(y);
	assert_int_equal(sockets(b.port[1], &x), 1);
	assert_int_equal(getsockopt(x, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &n), 0);
	assert_int_equal(idle, 55); /* socket_options hold there too */
	assert_int_equal(sockets(b.port[2], &x), 1);
	assert_int_equal(getsockopt(x, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &n), 0);
	assert_int_equal(idle, 33); /* but where it has its own */
}

static void not_bound(void **state)
{
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "x", "deprecated_v1: {bind_to_port: false}", true), 1);
	assert_int_equal(set("m", 0, "x", "deprecated_v1: {bind_to_port: true}", true), 1);
	turns(2);
	assert_int_equal(port_of("l"), 0);
	assert_int_equal(sockets(port_of("m"), &fd), 1);
}

/* Ten wait when the loop turns: with a limit no turn takes more. */
static void accepted_in_a_turn(void **state)
{
	int fd[10];
	unsigned i;

	listeners_start(f.m);
	assert_int_equal(set("few", 0, "x",
			     "max_connections_to_accept_per_socket_event: 2\nstat_prefix: few",
			     true),
			 1);
	assert_int_equal(set("many", 0, "x", "stat_prefix: many", true), 1);
	turns(2);
	for (i = 0; i < 10; i++)
		fd[i] = dial(port_of("few"));
	for (i = 0; i < TURNS && count("few", WEFT_LISTENER_downstream_cx_total) < 10; i++)
		turn();
	/* five events of two, or more where the limit had fallen */
	assert_true(count("few", WEFT_LISTENER_connections_accepted_per_socket_event) >= 5);
	for (i = 0; i < 10; i++) {
		close(fd[i]);
		fd[i] = dial(port_of("many"));
	}
	for (i = 0; i < TURNS && count("many", WEFT_LISTENER_downstream_cx_total) < 10; i++)
		turn();
	assert_true(count("many", WEFT_LISTENER_connections_accepted_per_socket_event) < 5);
	for (i = 0; i < 10; i++)
		close(fd[i]);
}

/* ---- listener filters as configured */
static const char *said(const char *name, const char *first)
{
	static char got[8192];
	int fd = dial(port_of(name));
	const char *p;

	if (*first)
		assert_int_equal(send(fd, first, strlen(first), MSG_NOSIGNAL), strlen(first));
	p = get(fd, "HTTP/1.1");
	snprintf(got, sizeof(got), "%.3s", strlen(p) > 9 ? p + 9 : "---");
	close(fd);
	return got;
}
#define V1 "PROXY TCP4 9.8.7.6 5.4.3.2 1111 2222\r\n"
#define PP "{name: pp, typed_config: {\"@type\": " LF "proxy_protocol.v3.ProxyProtocol"

static void filter_set(const char *name, const char *more)
{
	char text[900];

	snprintf(text, sizeof(text), "listener_filters: [" PP "%s}]\n", more);
	assert_int_equal(set(name, 0, "word", text, true), 1);
	turns(2);
}

static void proxy_protocol(void **state)
{
	listeners_start(f.m);
	filter_set("must", "}");
	assert_string_equal(said("must", ""), "---");
	assert_string_equal(said("must", V1), "200");
	filter_set("may", ", allow_requests_without_proxy_protocol: true}");
	assert_string_equal(said("may", ""), "200");
	assert_string_equal(said("may", V1), "200");
	filter_set("nov1", ", disallowed_versions: [V1]}");
	assert_string_equal(said("nov1", V1), "---");
	filter_set("nov2", ", disallowed_versions: [V2]}");
	assert_string_equal(said("nov2", V1), "200");
}

static void filter_disabled(void **state)
{
	listeners_start(f.m);
	filter_set("any", "}, filter_disabled: {any_match: true}");
	assert_string_equal(said("any", ""), "200");
	filter_set("not", "}, filter_disabled: {not_match: {any_match: true}}");
	assert_string_equal(said("not", ""), "---");
	filter_set("and", "}, filter_disabled: {and_match: {rules: [{any_match: true}, {not_match: "
			  "{destination_port_range: {start: 1, end: 65536}}}]}}");
	assert_string_equal(said("and", ""), "---");
	filter_set("both", "}, filter_disabled: {and_match: {rules: [{any_match: true}, "
			   "{destination_port_range: {start: 1, end: 65536}}]}}");
	assert_string_equal(said("both", ""), "200");
	filter_set("or", "}, filter_disabled: {or_match: {rules: [{destination_port_range: {start: "
			 "1, end: 2}}, {any_match: true}]}}");
	assert_string_equal(said("or", ""), "200");
}

static void goes_on_after_timeout(void **state)
{
	static const char inspect[] =
		"listener_filters: [{name: h, typed_config: {\"@type\": " LF
		"http_inspector.v3.HttpInspector}}]\nlistener_filters_timeout: 0.02s\n"
		"continue_on_listener_filters_timeout: %s\nstat_prefix: %s\n";
	static const char *const how[] = {"true", "false"}, *const name[] = {"goes", "ends"};
	char text[500];
	unsigned i, k;

	listeners_start(f.m);
	for (k = 0; k < 2; k++) {
		int fd;

		snprintf(text, sizeof(text), inspect, how[k], name[k]);
		assert_int_equal(set(name[k], 0, "word", text, true), 1);
		turns(2);
		fd = dial(port_of(name[k]));
		for (i = 0; i < TURNS && !count(name[k], WEFT_LISTENER_downstream_pre_cx_timeout);
		     i++)
			turn();
		if (k)
			assert_string_equal(hear(fd, "\n"), "");
		else
			assert_non_null(strstr(get(fd, "word"), "200 OK"));
		close(fd);
	}
}

/* A ClientHello that says it has 3000 bytes. */
static void hello_size(void **state)
{
	static const uint8_t big[] = {22, 3, 1, 0x0b, 0xbc, 1, 0, 0x0b, 0xb8, 3, 3};
	static const char *const more[] = {"", ", max_client_hello_size: 1024"};
	char text[500];
	unsigned i, k;

	listeners_start(f.m);
	for (k = 0; k < 2; k++) {
		const char *name = k ? "small" : "large";
		int fd;

		snprintf(text, sizeof(text),
			 "listener_filters: [{name: t, typed_config: {\"@type\": " LF
			 "tls_inspector.v3.TlsInspector%s}}]\nstat_prefix: %s",
			 more[k], name);
		assert_int_equal(set(name, 0, "word", text, true), 1);
		turns(2);
		fd = dial(port_of(name));
		assert_int_equal(send(fd, big, sizeof(big), MSG_NOSIGNAL), sizeof(big));
		if (k) {
			assert_string_equal(hear(fd, "\n"), "");
			assert_int_equal(
				count(name, WEFT_LISTENER_downstream_listener_filter_error), 1);
		} else { /* the rest is waited for */
			for (i = 0; i < 50; i++)
				turn();
			assert_int_equal(count(name, WEFT_LISTENER_downstream_pre_cx_active), 1);
		}
		close(fd);
	}
}

/* Only what is asked for is computed; what it comes to: listener_filters_test.c. */
static void prints_of(void *ctx, const struct listener_view *v)
{
	*(unsigned *)ctx = v->active->filter[0].prints;
}

static void fingerprints(void **state)
{
	static const struct {
		const char *more;
		unsigned want;
	} v[] = {{"", 0},
		 {", enable_ja3_fingerprinting: true", WEFT_SNIFF_WANT_JA3},
		 {", enable_ja4_fingerprinting: true", WEFT_SNIFF_WANT_JA4},
		 {", enable_ja3_fingerprinting: true, enable_ja4_fingerprinting: true",
		  WEFT_SNIFF_WANT_JA3 | WEFT_SNIFF_WANT_JA4}};
	char text[300];

	listeners_start(f.m);
	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		unsigned got = ~0u;

		snprintf(text, sizeof(text),
			 "listener_filters: [{name: t, typed_config: {\"@type\": " LF
			 "tls_inspector.v3.TlsInspector%s}}]",
			 v[i].more);
		assert_int_equal(set("l", 0, "x", text, true), 1);
		listeners_each(f.m, prints_of, &got);
		assert_int_equal(got, v[i].want);
	}
}

/* ---- overload */
static void refuses_connections(void **state)
{
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "word", "stat_prefix: rej", true), 1);
	assert_int_equal(set("free", 0, "word", "bypass_overload_manager: true", true), 1);
	turns(2);
	weft_overload_set(WEFT_OVERLOAD_REJECT, WEFT_OVERLOAD_FULL);
	fd = dial(port_of("l"));
	assert_string_equal(hear(fd, "\n"), "");
	close(fd);
	assert_int_equal(count("rej", WEFT_LISTENER_downstream_cx_overload_reject), 1);
	assert_string_equal(said("free", ""), "200");
	weft_overload_set(WEFT_OVERLOAD_REJECT, 0);
	assert_string_equal(said("l", ""), "200");
}

static void holds_connections(void **state)
{
	int fd, i;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "word", "stat_prefix: held", true), 1);
	assert_int_equal(set("free", 0, "word", "bypass_overload_manager: true", true), 1);
	turns(2);
	listeners_pause(f.m, true);
	turns(2);
	fd = dial(port_of("l"));
	for (i = 0; i < 20; i++)
		turn();
	assert_int_equal(count("held", WEFT_LISTENER_downstream_cx_total), 0);
	assert_string_equal(said("free", ""), "200");
	/* one that comes meanwhile holds too */
	assert_int_equal(set("new", 0, "word", "stat_prefix: new", true), 1);
	turns(2);
	i = dial(port_of("new"));
	turns(20);
	assert_int_equal(count("new", WEFT_LISTENER_downstream_cx_total), 0);
	close(i);
	listeners_pause(f.m, false);
	assert_non_null(strstr(get(fd, "word"), "200 OK"));
	close(fd);
}

static void refuses_requests(void **state)
{
	const char *got;
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "word", NULL, true), 1);
	turns(2);
	weft_overload_set(WEFT_OVERLOAD_STOP_REQUESTS, WEFT_OVERLOAD_FULL);
	fd = dial(port_of("l"));
	got = get(fd, "overloaded");
	assert_non_null(strstr(got, "503 Service Unavailable"));
	assert_null(strstr(got, "x-envoy-local-overloaded"));
	close(fd);
	hcm_more = ", append_local_overload: true";
	assert_int_equal(set("tells", 0, "word", NULL, true), 1);
	hcm_more = "";
	turns(2);
	fd = dial(port_of("tells"));
	assert_non_null(strstr(get(fd, "envoy overloaded"), "x-envoy-local-overloaded: true"));
	close(fd);
	weft_overload_set(WEFT_OVERLOAD_STOP_REQUESTS, 0);
	weft_overload_set(WEFT_OVERLOAD_NO_KEEPALIVE, WEFT_OVERLOAD_FULL);
	fd = dial(port_of("l"));
	assert_non_null(strstr(get(fd, "word"), "connection: close"));
	close(fd);
	weft_overload_set(WEFT_OVERLOAD_NO_KEEPALIVE, 0);
	fd = dial(port_of("l"));
	assert_null(strstr(get(fd, "word"), "connection: close"));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sockets_are_told, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(transparent, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(mptcp, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(additional_addresses, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(not_bound, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(accepted_in_a_turn, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(proxy_protocol, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(filter_disabled, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(goes_on_after_timeout, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(hello_size, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(fingerprints, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(refuses_connections, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(holds_connections, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(refuses_requests, fix_setup, fix_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
