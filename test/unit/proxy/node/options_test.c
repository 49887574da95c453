#include "proxy/node/options.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct weft_options o;

#define PARSE(...) parse((char *[]){(char *)"weft-proxy", __VA_ARGS__, NULL})
static int parse(char **argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	return weft_options_parse(argc, argv, &o);
}

static void test_defaults(void **state)
{
	char text[WEFT_SOCKADDR_TEXT];

	assert_int_equal(PARSE((char *)"--run-dir", (char *)"/run/x"), 0);
	assert_string_equal(o.run_dir, "/run/x");
	assert_string_equal(o.user, "weft");
	assert_int_equal(o.conf.connect_ms, 10000);
	assert_int_equal(o.conf.drain_ms, 25000);
	assert_int_equal(o.conf.workload_wait_ms, 5000);
	assert_int_equal(o.conf.max_conns, 200000);
	assert_int_equal(o.conf.max_handshakes, 4096);
	assert_int_equal(o.conf.stream_window, 262144);
	assert_int_equal(o.conf.max_streams, 200);
	assert_int_equal(o.conf.ping_ms, 10000);
	assert_int_equal(o.conf.ping_timeout_ms, 20000);
	assert_int_equal(o.conf.pool_idle_ms, 300000);
	assert_string_equal(weft_sockaddr_text(&o.metrics, text, sizeof(text)), "[::]:15020");
	assert_string_equal(weft_sockaddr_text(&o.ready, text, sizeof(text)), "[::]:15021");
	assert_string_equal(o.access_log, "-");
	assert_int_equal(o.access_format, WEFT_LOG_TEXT);
}

static void test_values(void **state)
{
	assert_int_equal(PARSE((char *)"--workers=3", (char *)"--metrics=off", (char *)"--ready",
			       (char *)"127.0.0.1:1", (char *)"--access-log=off",
			       (char *)"--access-log-format=json", (char *)"--drain-ms=7",
			       (char *)"--log-level=debug", (char *)"--no-seccomp",
			       (char *)"--stock-min=9", (char *)"--stock-max=10"),
			 0);
	assert_int_equal(o.conf.workers, 3);
	assert_int_equal(o.metrics.ip.family, 0);
	assert_int_equal(o.ready.port, 1);
	assert_null(o.access_log);
	assert_int_equal(o.access_format, WEFT_LOG_JSON);
	assert_int_equal(o.conf.drain_ms, 7);
	assert_int_equal(o.log_level, WEFT_LOG_DEBUG);
	assert_true(o.no_seccomp);
	assert_int_equal(o.stock_min, 9);
	assert_int_equal(o.stock_max, 10);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"--workers=257",
		"--workers=-1",
		"--workers=1x",
		"--workers=",
		"--connect-ms=0",
		"--metrics=localhost",
		"--ready=1.2.3.4",
		"--run-dir=run",
		"--access-log-format=xml",
		"--log-level=all",
		"--nonsense",
		"stray",
		"--stock-max=1",
		"--stream-window=99999999999999999999",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(PARSE((char *)bad[i]), -EINVAL);
}

static void test_help(void **state)
{
	assert_int_equal(parse((char *[]){(char *)"weft-proxy", NULL}), 1);
	assert_int_equal(PARSE((char *)"--help"), 1);
	assert_int_equal(PARSE((char *)"--version"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
