#include "proxy/core/first.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

struct pair {
	const char *key;
	int value;
};

static void test_first(void **state)
{
	static const struct pair v[] = {{"b", 1}, {"b", 2}, {"c", 3}, {"e", 4}, {"e", 5}, {"e", 6}};
	static const struct {
		const char *key;
		size_t want;
	} c[] = {{"", 0}, {"a", 0}, {"b", 0}, {"bb", 2}, {"c", 2}, {"d", 3}, {"e", 3}, {"f", 6}};

	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++)
		assert_int_equal(WEFT_FIRST(v, 6, c[i].key), c[i].want);
	assert_int_equal(WEFT_FIRST(v, 0, "a"), 0);
	assert_int_equal(WEFT_FIRST(v, 1, "b"), 0);
	assert_int_equal(WEFT_FIRST(v, 1, "c"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_first)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
