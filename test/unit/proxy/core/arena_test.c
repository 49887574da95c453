/* Arena: alignment, zeroing, big blocks, limits, order of clean-ups, poisoning. */
#include "proxy/core/arena.h"

#include <stdint.h>
#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char order[16];
static size_t order_n;

static void note(void *arg)
{
	order[order_n++] = *(char *)arg;
}

static struct weft_arena *late_arena;
static void note_late(void *arg)
{
	static char z = 'z';

	note(arg);
	weft_arena_cleanup(late_arena, note, &z);
}

static void test_cleanup_order(void **state)
{
	struct weft_arena *a = weft_arena_new(0);

	order_n = 0;
	for (const char *c = "abc"; *c; c++)
		weft_arena_cleanup(a, note, weft_arena_memdup(a, c, 1));
	weft_arena_free(a);
	assert_memory_equal(order, "cba", 3);
}

static void test_cleanup_adds_cleanup(void **state)
{
	char a = 'a', b = 'b';

	late_arena = weft_arena_new(0);
	order_n = 0;
	weft_arena_cleanup(late_arena, note, &a);
	weft_arena_cleanup(late_arena, note_late, &b);
	weft_arena_free(late_arena);
	assert_int_equal(order_n, 3);
	assert_memory_equal(order, "bza", 3);
}

static void test_sizes(void **state)
{
	struct weft_arena *a = weft_arena_new(256);
	size_t before = weft_arena_bytes(a);
	uint8_t *p[400];

	for (size_t i = 0; i < 400; i++) {
		p[i] = weft_arena_alloc(a, i);
		assert_non_null(p[i]);
		assert_int_equal((uintptr_t)p[i] % 16, 0);
		for (size_t j = 0; j < i; j++)
			assert_int_equal(p[i][j], 0);
		memset(p[i], (int)i, i);
	}
	for (size_t i = 0; i < 400; i++)
		for (size_t j = 0; j < i; j++)
			assert_int_equal(p[i][j], (uint8_t)i);
	assert_true(weft_arena_bytes(a) > before + 400 * 399 / 2);
	weft_arena_free(a);
}

static void test_limit(void **state)
{
	struct weft_arena *a = weft_arena_new(0);

	assert_null(weft_arena_alloc(a, ((size_t)1 << 30) + 1));
	assert_null(weft_arena_alloc(a, SIZE_MAX));
	assert_non_null(weft_arena_alloc(a, 1 << 20));
	weft_arena_free(a);
	weft_arena_free(NULL);
}

static void test_strings(void **state)
{
	struct weft_arena *a = weft_arena_new(64);

	assert_string_equal(weft_arena_strdup(a, "hello"), "hello");
	assert_string_equal(weft_arena_strndup(a, "hello", 2), "he");
	assert_string_equal(weft_arena_strndup(a, "he", 10), "he");
	assert_string_equal(weft_arena_strndup(a, NULL, 0), "");
	assert_string_equal(weft_arena_printf(a, "%s-%d", "n", 7), "n-7");
	assert_string_equal(weft_arena_printf(a, "%0500d", 0) + 498, "00");
	assert_memory_equal(weft_arena_memdup(a, "a\0b", 3), "a\0b", 3);
	assert_non_null(weft_arena_memdup(a, "", 0));
	weft_arena_free(a);
}

static void test_poison(void **state)
{
#ifdef __SANITIZE_ADDRESS__
	struct weft_arena *a = weft_arena_new(0);
	char *p = weft_arena_alloc(a, 24), *q = weft_arena_alloc(a, 5000);

	assert_false(__asan_address_is_poisoned(p + 23));
	assert_true(__asan_address_is_poisoned(p + 24));
	assert_false(__asan_address_is_poisoned(q + 4999));
	assert_true(__asan_address_is_poisoned(q + 5000));
	weft_arena_free(a);
#else
	print_message("# SKIP built without AddressSanitizer\n");
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cleanup_order), cmocka_unit_test(test_cleanup_adds_cleanup),
		cmocka_unit_test(test_sizes),	      cmocka_unit_test(test_limit),
		cmocka_unit_test(test_strings),	      cmocka_unit_test(test_poison),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
