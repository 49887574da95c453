/* Error texts, paths, bounded lists, suggestions. */
#include "proxy/core/err.h"

#include "proxy/core/reason.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_path_and_text(void **state)
{
	struct weft_path a = {NULL, "clusters", 3}, b = {&a, "endpoints", 0},
			 c = {&b, "weight", -1};
	struct weft_err e;
	char text[600];

	assert_int_equal(weft_fail(&e, &c, ERANGE, "must be 1..65535, is %d", 70000), -ERANGE);
	assert_int_equal(e.code, ERANGE);
	assert_string_equal(e.path, "clusters[3].endpoints[0].weight");
	assert_string_equal(weft_err_text(&e, text, sizeof(text)),
			    "clusters[3].endpoints[0].weight: must be 1..65535, is 70000");
	strcpy(e.where, "mesh.yaml:41:17");
	assert_string_equal(
		weft_err_text(&e, text, sizeof(text)),
		"mesh.yaml:41:17: clusters[3].endpoints[0].weight: must be 1..65535, is 70000");
	weft_err_text(&e, text, 12);
	assert_string_equal(text, "mesh.yaml:4");
}

static void test_no_slot(void **state)
{
	assert_int_equal(weft_fail(NULL, NULL, EINVAL, "x"), -EINVAL);
}

static void test_no_message(void **state)
{
	struct weft_err e = {.code = ENOENT};
	char text[64];

	assert_string_equal(weft_err_text(&e, text, sizeof(text)), strerror(ENOENT));
	e.code = 0;
	assert_string_equal(weft_err_text(&e, text, sizeof(text)), "no error");
}

static void test_long_parts_end(void **state)
{
	static struct weft_path deep[300];
	char big[1000], text[600];
	struct weft_err e;

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	for (int i = 0; i < 300; i++)
		deep[i] = (struct weft_path){i ? &deep[i - 1] : NULL, "field", i};
	weft_fail(&e, &deep[299], EINVAL, "%s", big);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	assert_true(strlen(e.path) < sizeof(e.path));
	assert_non_null(weft_err_text(&e, text, sizeof(text)));
}

static void test_list(void **state)
{
	struct weft_errs errs = {0};

	for (int i = 0; i < WEFT_ERRS_MAX + 5; i++) {
		struct weft_err *e = weft_errs_next(&errs);

		assert_true((i < WEFT_ERRS_MAX) == (e != NULL));
		weft_fail(e, NULL, EINVAL, "%d", i);
	}
	assert_int_equal(errs.n, WEFT_ERRS_MAX);
	assert_int_equal(errs.dropped, 5);
	assert_string_equal(errs.v[19].msg, "19");
	assert_null(weft_errs_next(NULL));
}

static void test_suggest(void **state)
{
	static const char *const names[] = {"policies", "ports", "to", "action", NULL, ""};
	const size_t n = sizeof(names) / sizeof(names[0]);
	char longest[300];

	assert_string_equal(weft_suggest("polices", names, n), "policies");
	assert_string_equal(weft_suggest("prots", names, n), "ports"); /* neighbours swapped */
	assert_string_equal(weft_suggest("acton", names, n), "action");
	assert_string_equal(weft_suggest("poliies_", names, n), "policies");
	assert_null(weft_suggest("selector", names, n));
	assert_null(weft_suggest("x", names, n));
	assert_null(weft_suggest("", names, n));
	assert_string_equal(weft_suggest("tp", names, n), "to");
	memset(longest, 'p', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_null(weft_suggest(longest, names, n));
}

static void test_reasons(void **state)
{
	for (int i = 0; i < WEFT_REASON_COUNT; i++) {
		const char *code = weft_reason_code((enum weft_reason)i);

		assert_true(strspn(code, "abcdefghijklmnopqrstuvwxyz_0123456789") == strlen(code));
		assert_true(*weft_reason_flag((enum weft_reason)i));
		assert_true(*weft_reason_text((enum weft_reason)i));
		for (int j = 0; j < i; j++)
			assert_string_not_equal(code, weft_reason_code((enum weft_reason)j));
	}
	assert_string_equal(weft_reason_code(WEFT_REASON_POLICY_DENY), "policy_deny");
	assert_string_equal(weft_reason_flag(WEFT_REASON_POLICY_DENY), "DENY");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_path_and_text), cmocka_unit_test(test_no_slot),
		cmocka_unit_test(test_no_message),    cmocka_unit_test(test_long_parts_end),
		cmocka_unit_test(test_list),	      cmocka_unit_test(test_suggest),
		cmocka_unit_test(test_reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
