/* Log lines as they arrive on descriptor 2. */
#include "proxy/core/log.h"

#include "proxy/core/err.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char got[8192];

/* Descriptor 2 is a pipe while `line` is made. */
#define CAPTURE(line)                                                                              \
	do {                                                                                       \
		int p[2], saved = dup(2);                                                          \
		ssize_t n;                                                                         \
                                                                                                   \
		assert_true(saved >= 0 && !pipe2(p, O_NONBLOCK | O_CLOEXEC));                      \
		assert_true(dup2(p[1], 2) == 2);                                                   \
		line;                                                                              \
		dup2(saved, 2);                                                                    \
		n = read(p[0], got, sizeof(got) - 1);                                              \
		got[n > 0 ? n : 0] = '\0';                                                         \
		close(p[0]);                                                                       \
		close(p[1]);                                                                       \
		close(saved);                                                                      \
	} while (0)

static void test_levels(void **state)
{
	enum weft_log_level l;

	assert_int_equal(weft_log_level_parse("debug", &l), 0);
	assert_int_equal(l, WEFT_LOG_DEBUG);
	assert_int_equal(weft_log_level_parse("error", &l), 0);
	assert_int_equal(l, WEFT_LOG_ERROR);
	assert_int_equal(weft_log_level_parse("loud", &l), -EINVAL);
	weft_log_setup("weft-test", WEFT_LOG_WARN, false);
	assert_true(weft_log_on(WEFT_LOG_ERROR) && weft_log_on(WEFT_LOG_WARN));
	assert_false(weft_log_on(WEFT_LOG_INFO));
	CAPTURE(weft_log(WEFT_LOG_INFO, "quiet"));
	assert_string_equal(got, "");
}

static void test_text(void **state)
{
	weft_log_setup("weft-test", WEFT_LOG_INFO, false);
	errno = EPIPE;
	CAPTURE(weft_log(WEFT_LOG_INFO, "pod=%s added", "a\nb\x1b[31m"));
	assert_non_null(strstr(got, "Z info weft-test: pod=a\\nb\\x1b[31m added\n"));
	assert_int_equal(strlen(strchr(got, '\n')), 1);
}

static void test_json(void **state)
{
	json_error_t e;
	json_t *j;

	weft_log_setup("weft-test", WEFT_LOG_INFO, true);
	CAPTURE(weft_log(WEFT_LOG_WARN, "say \"%s\" \\ \x01 \t", "hi"));
	j = json_loads(got, 0, &e);
	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "level")), "warn");
	assert_string_equal(json_string_value(json_object_get(j, "program")), "weft-test");
	assert_string_equal(json_string_value(json_object_get(j, "msg")), "say \"hi\" \\ \x01 \t");
	json_decref(j);
}

static void test_cut(void **state)
{
	char big[6000];
	json_t *j;

	for (size_t i = 0; i + 3 < sizeof(big); i += 3)
		memcpy(big + i, "\xe2\x82\xac", 3); /* a cut inside of it would not be UTF-8 */
	big[5997] = '\0';
	weft_log_setup("weft-test", WEFT_LOG_INFO, true);
	for (int shift = 0; shift < 3; shift++) {
		CAPTURE(weft_log(WEFT_LOG_INFO, "%.*s%s", shift, "xx", big));
		assert_true(strlen(got) <= 4096);
		j = json_loads(got, 0, NULL);
		assert_non_null(j);
		json_decref(j);
	}
	memset(big, '\x01', 5000);
	big[5000] = '\0';
	CAPTURE(weft_log(WEFT_LOG_INFO, "%s", big));
	assert_true(strlen(got) <= 4096);
	j = json_loads(got, 0, NULL);
	assert_non_null(j);
	json_decref(j);
}

static void test_err(void **state)
{
	struct weft_err e;

	weft_log_setup("weft-test", WEFT_LOG_INFO, false);
	weft_fail(&e, NULL, EINVAL, "must be a number, is \"x\"");
	CAPTURE(weft_log_err(WEFT_LOG_ERROR, &e, "mesh.yaml"));
	assert_non_null(strstr(got, " error weft-test: mesh.yaml: must be a number, is \"x\"\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_levels), cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),   cmocka_unit_test(test_cut),
		cmocka_unit_test(test_err),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
