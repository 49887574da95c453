/* UpstreamTlsContext by its options: names, sessions kept, what handshakes are counted by. */
#include "tls_fix.h"

static struct fix f;
static struct tls t;

static int setup(void **state)
{
	fix_open(&f, WEFT_HTTP_11);
	tls_open(&t);
	tls_serve(&t, &f, "[http/1.1]");
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

/* One request on a connection of its own; the SNI that the server saw. */
static const char *sni(const char *more)
{
	static char seen[64];

	with_tls(more);
	rq_whole(&f, true);
	snprintf(seen, sizeof(seen), "%s",
		 weft_io_info(weft_session_io(f.server.peers[0].session))->sni);
	weft_pools_host_failed(f.wc.pools, &f.server.host, true);
	return seen;
}

static void test_auto_host_sni(void **state)
{
	f.server.host.hostname = "web.test";
	assert_string_equal(sni("sni: other.test, auto_host_sni: true,"), "web.test");
}

static void test_no_auto_host_sni(void **state)
{
	f.server.host.hostname = "web.test";
	assert_string_equal(sni("sni: other.test,"), "other.test");
}

/* An address is no name. */
static void test_auto_host_sni_address(void **state)
{
	f.server.host.hostname = "127.0.0.1";
	assert_string_equal(sni("sni: other.test, auto_host_sni: true,"), "other.test");
}

static void handshakes(int n)
{
	while (n-- > 0) {
		rq_whole(&f, true);
		weft_pools_host_failed(f.wc.pools, &f.server.host, true);
	}
}

static void test_sessions(void **state)
{
	with_tls("");
	handshakes(3);
	STAT_IS(&f, ssl_handshake, 3);
	STAT_IS(&f, ssl_session_reused, 2);
}

static void test_max_session_keys(void **state)
{
	with_tls("max_session_keys: 0,");
	handshakes(3);
	STAT_IS(&f, ssl_handshake, 3);
	STAT_IS(&f, ssl_session_reused, 0);
}

static void test_counters(void **state)
{
	with_tls("");
	handshakes(1);
	assert_int_equal(weft_scope_value_named(f.cl.scope, "ssl.versions.TLSv1.2"), 1);
	assert_int_equal(weft_scope_value_named(f.cl.scope, "ssl.curves.X25519"), 1);
	assert_int_equal(
		weft_scope_value_named(f.cl.scope, "ssl.ciphers.ECDHE-ECDSA-AES128-GCM-SHA256"), 1);
	assert_int_equal(weft_scope_value_named(f.cl.scope, "ssl.sigalgs.ecdsa_secp256r1_sha256"),
			 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_auto_host_sni), T(test_no_auto_host_sni), T(test_auto_host_sni_address),
		T(test_sessions),      T(test_max_session_keys), T(test_counters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
