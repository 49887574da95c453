/* Proxy-Status: what each kind of trouble is called, and what its parameters tell. */
#include "proxy/http/proxy_status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;

/* flag 0xff: none; *ret_status as it goes out. */
static const char *told(const struct weft_proxy_status *p, unsigned flag, const char *details,
			int *ret_status)
{
	struct weft_info info = {.arena = arena, .details = details};
	static struct weft_headers h;

	weft_headers_init(&h, arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, "503", 3);
	info.termination_details = details && strchr(details, 't') ? "gone" : NULL;
	if (flag != 0xff)
		weft_info_flag(&info, (enum weft_flag)flag);
	weft_proxy_status_apply(p, &info, &h);
	*ret_status = weft_headers_status(&h);
	return weft_headers_find(&h, "proxy-status", 12)
		       ? weft_headers_find(&h, "proxy-status", 12)->value
		       : NULL;
}

static void trouble_has_a_name_and_a_code(void **state)
{
	static const struct weft_proxy_status as_is = {.name = "p"},
					      coded = {.name = "p", .set_code = true};
	static const struct {
		enum weft_flag flag;
		int code;
		const char *want;
	} v[] = {
		{WEFT_FLAG_UH, 503, "p; error=destination_unavailable"},
		{WEFT_FLAG_UT, 504, "p; error=http_response_timeout"},
		{WEFT_FLAG_LR, 504, "p; error=connection_timeout"},
		{WEFT_FLAG_UF, 502, "p; error=connection_refused"},
		{WEFT_FLAG_UC, 502, "p; error=connection_terminated"},
		{WEFT_FLAG_UO, 503, "p; error=connection_limit_reached"},
		{WEFT_FLAG_NR, 500, "p; error=destination_not_found"},
		{WEFT_FLAG_IH, 503, "p; error=http_request_error"}, /* none is recommended */
		{WEFT_FLAG_UPE, 502, "p; error=http_protocol_error"},
		{WEFT_FLAG_DF, 502, "p; error=dns_error"},
	};
	int status;

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		assert_string_equal(told(&as_is, v[i].flag, "x", &status), v[i].want);
		assert_int_equal(status, 503);
		assert_string_equal(told(&coded, v[i].flag, "x", &status), v[i].want);
		assert_int_equal(status, v[i].code);
	}
	assert_null(told(&coded, 0xff, "via_upstream", &status));
	assert_null(told(&coded, WEFT_FLAG_DI, "via_upstream", &status));
}

static void parameters(void **state)
{
	static const struct weft_proxy_status all = {"p", true, true, true, false},
					      no_flags = {"p", true, true, false, false},
					      no_end = {"p", true, false, true, false},
					      bare = {"p", false, true, true, false};
	int st;

	assert_string_equal(told(&all, WEFT_FLAG_UF, "at", &st),
			    "p; error=connection_refused; details=\"at; gone; UF\"");
	assert_string_equal(told(&no_flags, WEFT_FLAG_UF, "at", &st),
			    "p; error=connection_refused; details=\"at; gone\"");
	assert_string_equal(told(&no_end, WEFT_FLAG_UF, "at", &st),
			    "p; error=connection_refused; details=\"at; UF\"");
	assert_string_equal(told(&bare, WEFT_FLAG_UF, "at", &st), "p; error=connection_refused");
	assert_string_equal(told(&all, WEFT_FLAG_UF, NULL, &st), "p; error=connection_refused");
	assert_string_equal(told(&no_end, WEFT_FLAG_UF, "a\"b\\c\n", &st),
			    "p; error=connection_refused; details=\"a\\\"b\\\\c ; UF\"");
}

static void members_are_added(void **state)
{
	static const struct weft_proxy_status p = {.name = "mine"};
	struct weft_info info = {.arena = arena};
	struct weft_headers h;

	weft_info_flag(&info, WEFT_FLAG_UC);
	weft_headers_init(&h, arena);
	weft_headers_add(&h, "Proxy-Status", 12, "theirs; error=dns_error", 23);
	weft_headers_add(&h, "proxy-status", 12, "more", 4);
	weft_proxy_status_apply(&p, &info, &h);
	assert_int_equal(h.n, 1);
	assert_string_equal(weft_headers_find(&h, "proxy-status", 12)->value,
			    "theirs; error=dns_error,more, mine; error=connection_terminated");
}

static int up(void **state)
{
	arena = weft_arena_new(0);
	return 0;
}

static int down(void **state)
{
	weft_arena_free(arena);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trouble_has_a_name_and_a_code),
		cmocka_unit_test(parameters),
		cmocka_unit_test(members_are_added),
	};

	return cmocka_run_group_tests(tests, up, down);
}
