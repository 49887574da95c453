#include "proxy/session/headers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;

static int set_up(void **state)
{
	arena = weft_arena_new(0);
	return 0;
}

static int tear_down(void **state)
{
	weft_arena_free(arena);
	return 0;
}

static void add(struct weft_headers *h, const char *name, const char *value)
{
	weft_headers_add(h, name, strlen(name), value, strlen(value));
}

static void assert_list(const struct weft_headers *h, const char *want)
{
	char text[1024] = "";
	uint32_t bytes = 0;

	for (uint32_t i = 0; i < h->n; i++) {
		size_t at = strlen(text);

		snprintf(text + at, sizeof(text) - at, "%s=%s;", h->v[i].name, h->v[i].value);
		assert_int_equal(h->v[i].name_len, strlen(h->v[i].name));
		assert_int_equal(h->v[i].value_len, strlen(h->v[i].value));
		assert_int_equal(h->v[i].id, weft_hid_of(h->v[i].name, h->v[i].name_len));
		bytes += h->v[i].name_len + h->v[i].value_len;
	}
	assert_string_equal(text, want);
	assert_int_equal(h->bytes, bytes);
}

static void every_name_is_found_by_id(void **state)
{
	for (unsigned id = 1; id < WEFT_H_COUNT; id++) {
		char near[64];
		size_t n = weft_hid_len(id);

		assert_int_equal(weft_hid_of(weft_hid_name(id), n), id);
		memcpy(near, weft_hid_name(id), n + 1);
		near[n - 1] ^= 1;
		assert_int_not_equal(weft_hid_of(near, n), id);
		assert_int_not_equal(weft_hid_of(weft_hid_name(id), n - 1), id);
	}
	assert_int_equal(weft_hid_of("", 0), WEFT_H_OTHER);
	assert_int_equal(weft_hid_of("x", 1), WEFT_H_OTHER);
	assert_int_equal(weft_hid_of("x-anything", 10), WEFT_H_OTHER);
}

static void fields_are_added_found_and_removed(void **state)
{
	struct weft_headers h;

	weft_headers_init(&h, arena);
	assert_null(weft_headers_get(&h, WEFT_H_HOST));
	assert_string_equal(weft_headers_value(&h, WEFT_H_HOST), "");
	add(&h, "Content-Type", "a");
	add(&h, "X-Odd", "1");
	add(&h, "cookie", "c");
	add(&h, "x-odd", "2");
	assert_list(&h, "content-type=a;x-odd=1;cookie=c;x-odd=2;");
	assert_string_equal(weft_headers_find(&h, "X-ODD", 0)->value, "1");
	assert_string_equal(weft_headers_find(&h, "COOKIE", 0)->value, "c");
	assert_string_equal(weft_headers_value(&h, WEFT_H_COOKIE), "c");
	assert_int_equal(weft_headers_remove(&h, "X-odd", 0), 2);
	assert_int_equal(weft_headers_remove(&h, "x-odd", 0), 0);
	assert_list(&h, "content-type=a;cookie=c;");
	assert_string_equal(weft_headers_value(&h, WEFT_H_COOKIE), "c");
	assert_int_equal(weft_headers_remove_id(&h, WEFT_H_CONTENT_TYPE), 1);
	assert_null(weft_headers_get(&h, WEFT_H_CONTENT_TYPE));
	assert_string_equal(weft_headers_value(&h, WEFT_H_COOKIE), "c");
	weft_headers_remove_at(&h, 0);
	assert_list(&h, "");
	assert_null(weft_headers_get(&h, WEFT_H_COOKIE));
}

static void set_takes_the_place_of_the_first(void **state)
{
	struct weft_headers h;

	weft_headers_init(&h, arena);
	add(&h, "via", "1");
	add(&h, "te", "x");
	add(&h, "via", "2");
	add(&h, "via", "3");
	weft_headers_set(&h, "Via", 3, "new", 3);
	assert_list(&h, "via=new;te=x;");
	weft_headers_set_id(&h, WEFT_H_TE, "", 0);
	weft_headers_set(&h, "X-New", 0, "v", 1);
	weft_headers_set_id(&h, WEFT_H_HOST, "h", 1);
	assert_list(&h, "via=new;te=;x-new=v;host=h;");
	weft_headers_append(&h, WEFT_H_VIA, "b", 1);
	weft_headers_append(&h, WEFT_H_TE, "t", 1);
	weft_headers_append(&h, WEFT_H_DATE, "d", 1);
	assert_list(&h, "via=new,b;te=t;x-new=v;host=h;date=d;");
}

static void values_are_joined(void **state)
{
	struct weft_headers h;
	size_t n = 99;

	weft_headers_init(&h, arena);
	assert_null(weft_headers_joined(&h, "x-a", 3, &n));
	add(&h, "x-a", "1");
	assert_ptr_equal(weft_headers_joined(&h, "x-a", 3, &n), h.v[0].value);
	assert_int_equal(n, 1);
	add(&h, "accept", "z");
	add(&h, "x-a", "");
	add(&h, "x-a", "22");
	add(&h, "accept", "y");
	assert_string_equal(weft_headers_joined(&h, "X-A", 0, &n), "1,,22");
	assert_int_equal(n, 5);
	assert_string_equal(weft_headers_joined(&h, "accept", 6, NULL), "z,y");
}

static void hundreds_of_fields_are_found(void **state)
{
	struct weft_headers h, copy;
	char name[16];

	weft_headers_init(&h, arena);
	for (int i = 0; i < 400; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		add(&h, name, "v");
	}
	add(&h, "host", "far");
	assert_string_equal(weft_headers_value(&h, WEFT_H_HOST), "far");
	assert_string_equal(weft_headers_find(&h, "n399", 4)->value, "v");
	assert_null(weft_headers_get(&h, WEFT_H_DATE));
	weft_headers_init(&copy, arena);
	weft_headers_copy(&copy, &h);
	assert_int_equal(copy.n, 401);
	assert_int_equal(copy.bytes, h.bytes);
	assert_string_equal(weft_headers_value(&copy, WEFT_H_HOST), "far");
	for (int i = 0; i < 400; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(weft_headers_remove(&h, name, 0), 1);
	}
	assert_list(&h, "host=far;");
	assert_string_equal(weft_headers_value(&h, WEFT_H_HOST), "far");
}

static void a_copy_stands_alone(void **state)
{
	struct weft_headers h, copy;
	struct weft_arena *other = weft_arena_new(0);

	weft_headers_init(&h, other);
	weft_headers_init(&copy, arena);
	add(&h, ":status", "207");
	add(&h, "x-Own", "1");
	h.v[1].no_index = true;
	weft_headers_spell(&h, false);
	weft_headers_spell_name(&h, "X-Own", 5);
	weft_headers_spell_name(&h, "x-own", 5); /* the first counts */
	weft_headers_spell_reason(&h, "Many", 4);
	weft_headers_copy(&copy, &h);
	weft_arena_free(other);
	assert_list(&copy, ":status=207;x-own=1;");
	assert_true(copy.v[1].no_index);
	assert_int_equal(weft_headers_status(&copy), 207);
	assert_string_equal(weft_headers_spelling(&copy, "x-own", 5), "X-Own");
	assert_null(weft_headers_spelling(&copy, "x-ow", 4));
	assert_string_equal(weft_headers_reason(&copy), "Many");
	weft_headers_spell(&copy, true);
	assert_string_equal(weft_headers_spelling(&copy, "x-own", 5), "X-Own");
	assert_string_equal(weft_headers_spelling(&copy, "x2-ow_n4a", 9), "X2-Ow_N4a");
	weft_headers_set_id(&copy, WEFT_H_STATUS, "2x7", 3);
	assert_int_equal(weft_headers_status(&copy), 0);
	weft_headers_remove_id(&copy, WEFT_H_STATUS);
	assert_int_equal(weft_headers_status(&copy), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_name_is_found_by_id),
		cmocka_unit_test(fields_are_added_found_and_removed),
		cmocka_unit_test(set_takes_the_place_of_the_first),
		cmocka_unit_test(values_are_joined),
		cmocka_unit_test(hundreds_of_fields_are_found),
		cmocka_unit_test(a_copy_stands_alone),
	};

	return cmocka_run_group_tests_name("headers", tests, set_up, tear_down);
}
