/* Paths as Envoy 1.36 makes them canonical: the table was read off its answers. */
#include "proxy/http/path.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct weft_path_conf norm = {.normalize = true};
static const struct weft_path_conf merge = {.merge = true};
static const struct weft_path_conf both = {.normalize = true, .merge = true};
static const struct weft_path_conf reject = {.slashes = WEFT_SLASHES_REJECT};
static const struct weft_path_conf redirect = {.normalize = true, .slashes = WEFT_SLASHES_REDIRECT};
static const struct weft_path_conf fwd = {
	.normalize = true, .merge = true, .slashes = WEFT_SLASHES_FORWARD};
static const struct weft_path_conf none = {.normalize = false};
static const struct {
	const struct weft_path_conf *conf;
	const char *in;
	enum weft_path_verdict verdict;
	const char *out; /* NULL: refused */
} cases[] = {
	{&norm, "/a/b", WEFT_PATH_OK, "/a/b"},
	{&norm, "/a//b", WEFT_PATH_OK, "/a//b"},
	{&norm, "/a/./b", WEFT_PATH_OK, "/a/b"},
	{&norm, "/a/../b", WEFT_PATH_OK, "/b"},
	{&norm, "/../a", WEFT_PATH_OK, "/a"},
	{&norm, "/a/..", WEFT_PATH_OK, "/"},
	{&norm, "/a/.", WEFT_PATH_OK, "/a/"},
	{&norm, "/a/%2e/b", WEFT_PATH_OK, "/a/b"},
	{&norm, "/a/%2E%2e/b", WEFT_PATH_OK, "/b"},
	{&norm, "/a/.%2e/b", WEFT_PATH_OK, "/b"},
	{&norm, "/%7Ea%41", WEFT_PATH_OK, "/~aA"},
	{&norm, "/a%2fb", WEFT_PATH_OK, "/a%2fb"},
	{&norm, "/a%5cb", WEFT_PATH_OK, "/a%5cb"},
	{&norm, "/a\\b", WEFT_PATH_OK, "/a/b"},
	{&norm, "/a\\..\\b", WEFT_PATH_OK, "/b"},
	{&norm, "/a%20b", WEFT_PATH_OK, "/a%20b"},
	{&norm, "/a%zzb", WEFT_PATH_OK, "/a%zzb"},
	{&norm, "/a%", WEFT_PATH_OK, "/a%"},
	{&norm, "/a%00b", WEFT_PATH_REJECT, NULL},
	{&norm, "/a?x/../y//%2f", WEFT_PATH_OK, "/a?x/../y//%2f"},
	{&norm, "/a/..?q", WEFT_PATH_OK, "/?q"},
	{&norm, "//a", WEFT_PATH_OK, "//a"},
	{&norm, "/a///b/", WEFT_PATH_OK, "/a///b/"},
	{&norm, "/a;b=c/..;d/e", WEFT_PATH_OK, "/a;b=c/..;d/e"},
	{&norm, "/a^b", WEFT_PATH_OK, "/a%5Eb"},
	{&norm, "/a`b", WEFT_PATH_OK, "/a%60b"},
	{&norm, "/a|b", WEFT_PATH_OK, "/a%7Cb"},
	{&norm, "/a{b}", WEFT_PATH_OK, "/a%7Bb%7D"},
	{&norm, "/a<b>", WEFT_PATH_OK, "/a%3Cb%3E"},
	{&norm, "/a\"b", WEFT_PATH_OK, "/a%22b"},
	{&norm, "/...", WEFT_PATH_OK, "/..."},
	{&norm, "/..a", WEFT_PATH_OK, "/..a"},
	{&norm, "/a/..b/c", WEFT_PATH_OK, "/a/..b/c"},
	{&norm, "/a..", WEFT_PATH_OK, "/a.."},
	{&norm, "/%2F", WEFT_PATH_OK, "/%2F"},
	{&norm, "/a%2F%2e%2e%2Fb", WEFT_PATH_OK, "/a%2F..%2Fb"},
	{&norm, "/a#b", WEFT_PATH_REJECT, NULL},
	{&norm, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&norm, "/a!$&'()*+,-.:=@_~b", WEFT_PATH_OK, "/a!$&'()*+,-.:=@_~b"},
	{&norm, "/a%5Bb[c]", WEFT_PATH_OK, "/a%5Bb[c]"},
	{&norm, "/a/../..", WEFT_PATH_OK, "/"},
	{&norm, "/%2e", WEFT_PATH_OK, "/"},
	{&norm, "/%2e%2e", WEFT_PATH_OK, "/"},
	{&norm, "/a/b/../../../c", WEFT_PATH_OK, "/c"},
	{&norm, "/.", WEFT_PATH_OK, "/"},
	{&norm, "/./", WEFT_PATH_OK, "/"},
	{&norm, "/a/%2e", WEFT_PATH_OK, "/a/"},
	{&norm, "/a%2e%2e/b", WEFT_PATH_OK, "/a../b"},
	{&norm, "/a%25b", WEFT_PATH_OK, "/a%25b"},
	{&norm, "/%61%62", WEFT_PATH_OK, "/ab"},
	{&norm, "/a/.//b", WEFT_PATH_OK, "/a//b"},
	{&norm, "/a//../b", WEFT_PATH_OK, "/a/b"},
	{&merge, "/a//b", WEFT_PATH_OK, "/a/b"},
	{&merge, "//a", WEFT_PATH_OK, "/a"},
	{&merge, "/a///b/", WEFT_PATH_OK, "/a/b/"},
	{&merge, "/a#b", WEFT_PATH_REJECT, NULL},
	{&merge, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&merge, "/a/.//b", WEFT_PATH_OK, "/a/./b"},
	{&merge, "/a//../b", WEFT_PATH_OK, "/a/../b"},
	{&both, "/a//b", WEFT_PATH_OK, "/a/b"},
	{&both, "/a/./b", WEFT_PATH_OK, "/a/b"},
	{&both, "/a/../b", WEFT_PATH_OK, "/b"},
	{&both, "/../a", WEFT_PATH_OK, "/a"},
	{&both, "/a/..", WEFT_PATH_OK, "/"},
	{&both, "/a/.", WEFT_PATH_OK, "/a/"},
	{&both, "/a/%2e/b", WEFT_PATH_OK, "/a/b"},
	{&both, "/a/%2E%2e/b", WEFT_PATH_OK, "/b"},
	{&both, "/a/.%2e/b", WEFT_PATH_OK, "/b"},
	{&both, "/%7Ea%41", WEFT_PATH_OK, "/~aA"},
	{&both, "/a\\b", WEFT_PATH_OK, "/a/b"},
	{&both, "/a\\..\\b", WEFT_PATH_OK, "/b"},
	{&both, "/a%00b", WEFT_PATH_REJECT, NULL},
	{&both, "/a/..?q", WEFT_PATH_OK, "/?q"},
	{&both, "//a", WEFT_PATH_OK, "/a"},
	{&both, "/a///b/", WEFT_PATH_OK, "/a/b/"},
	{&both, "/a^b", WEFT_PATH_OK, "/a%5Eb"},
	{&both, "/a`b", WEFT_PATH_OK, "/a%60b"},
	{&both, "/a|b", WEFT_PATH_OK, "/a%7Cb"},
	{&both, "/a{b}", WEFT_PATH_OK, "/a%7Bb%7D"},
	{&both, "/a<b>", WEFT_PATH_OK, "/a%3Cb%3E"},
	{&both, "/a\"b", WEFT_PATH_OK, "/a%22b"},
	{&both, "/a%2F%2e%2e%2Fb", WEFT_PATH_OK, "/a%2F..%2Fb"},
	{&both, "/a#b", WEFT_PATH_REJECT, NULL},
	{&both, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&both, "/a/../..", WEFT_PATH_OK, "/"},
	{&both, "/%2e", WEFT_PATH_OK, "/"},
	{&both, "/%2e%2e", WEFT_PATH_OK, "/"},
	{&both, "/a/b/../../../c", WEFT_PATH_OK, "/c"},
	{&both, "/.", WEFT_PATH_OK, "/"},
	{&both, "/./", WEFT_PATH_OK, "/"},
	{&both, "/a/%2e", WEFT_PATH_OK, "/a/"},
	{&both, "/a%2e%2e/b", WEFT_PATH_OK, "/a../b"},
	{&both, "/%61%62", WEFT_PATH_OK, "/ab"},
	{&both, "/a/.//b", WEFT_PATH_OK, "/a/b"},
	{&both, "/a//../b", WEFT_PATH_OK, "/a/b"},
	{&reject, "/a%2fb", WEFT_PATH_REJECT, NULL},
	{&reject, "/a%5cb", WEFT_PATH_REJECT, NULL},
	{&reject, "/%2F", WEFT_PATH_REJECT, NULL},
	{&reject, "/a%2F%2e%2e%2Fb", WEFT_PATH_REJECT, NULL},
	{&reject, "/a#b", WEFT_PATH_REJECT, NULL},
	{&reject, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&redirect, "/a/./b", WEFT_PATH_OK, "/a/b"},
	{&redirect, "/a/../b", WEFT_PATH_OK, "/b"},
	{&redirect, "/../a", WEFT_PATH_OK, "/a"},
	{&redirect, "/a/..", WEFT_PATH_OK, "/"},
	{&redirect, "/a/.", WEFT_PATH_OK, "/a/"},
	{&redirect, "/a/%2e/b", WEFT_PATH_OK, "/a/b"},
	{&redirect, "/a/%2E%2e/b", WEFT_PATH_OK, "/b"},
	{&redirect, "/a/.%2e/b", WEFT_PATH_OK, "/b"},
	{&redirect, "/%7Ea%41", WEFT_PATH_OK, "/~aA"},
	{&redirect, "/a%2fb", WEFT_PATH_REDIRECT, "/a/b"},
	{&redirect, "/a%5cb", WEFT_PATH_REDIRECT, "/a/b"},
	{&redirect, "/a\\b", WEFT_PATH_OK, "/a/b"},
	{&redirect, "/a\\..\\b", WEFT_PATH_OK, "/b"},
	{&redirect, "/a%00b", WEFT_PATH_REJECT, NULL},
	{&redirect, "/a/..?q", WEFT_PATH_OK, "/?q"},
	{&redirect, "/a^b", WEFT_PATH_OK, "/a%5Eb"},
	{&redirect, "/a`b", WEFT_PATH_OK, "/a%60b"},
	{&redirect, "/a|b", WEFT_PATH_OK, "/a%7Cb"},
	{&redirect, "/a{b}", WEFT_PATH_OK, "/a%7Bb%7D"},
	{&redirect, "/a<b>", WEFT_PATH_OK, "/a%3Cb%3E"},
	{&redirect, "/a\"b", WEFT_PATH_OK, "/a%22b"},
	{&redirect, "/%2F", WEFT_PATH_REDIRECT, "//"},
	{&redirect, "/a%2F%2e%2e%2Fb", WEFT_PATH_REDIRECT, "/b"},
	{&redirect, "/a#b", WEFT_PATH_REJECT, NULL},
	{&redirect, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&redirect, "/a/../..", WEFT_PATH_OK, "/"},
	{&redirect, "/%2e", WEFT_PATH_OK, "/"},
	{&redirect, "/%2e%2e", WEFT_PATH_OK, "/"},
	{&redirect, "/a/b/../../../c", WEFT_PATH_OK, "/c"},
	{&redirect, "/.", WEFT_PATH_OK, "/"},
	{&redirect, "/./", WEFT_PATH_OK, "/"},
	{&redirect, "/a/%2e", WEFT_PATH_OK, "/a/"},
	{&redirect, "/a%2e%2e/b", WEFT_PATH_OK, "/a../b"},
	{&redirect, "/%61%62", WEFT_PATH_OK, "/ab"},
	{&redirect, "/a/.//b", WEFT_PATH_OK, "/a//b"},
	{&redirect, "/a//../b", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a//b", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a/./b", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a/../b", WEFT_PATH_OK, "/b"},
	{&fwd, "/../a", WEFT_PATH_OK, "/a"},
	{&fwd, "/a/..", WEFT_PATH_OK, "/"},
	{&fwd, "/a/.", WEFT_PATH_OK, "/a/"},
	{&fwd, "/a/%2e/b", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a/%2E%2e/b", WEFT_PATH_OK, "/b"},
	{&fwd, "/a/.%2e/b", WEFT_PATH_OK, "/b"},
	{&fwd, "/%7Ea%41", WEFT_PATH_OK, "/~aA"},
	{&fwd, "/a%2fb", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a%5cb", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a\\b", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a\\..\\b", WEFT_PATH_OK, "/b"},
	{&fwd, "/a%00b", WEFT_PATH_REJECT, NULL},
	{&fwd, "/a/..?q", WEFT_PATH_OK, "/?q"},
	{&fwd, "//a", WEFT_PATH_OK, "/a"},
	{&fwd, "/a///b/", WEFT_PATH_OK, "/a/b/"},
	{&fwd, "/a^b", WEFT_PATH_OK, "/a%5Eb"},
	{&fwd, "/a`b", WEFT_PATH_OK, "/a%60b"},
	{&fwd, "/a|b", WEFT_PATH_OK, "/a%7Cb"},
	{&fwd, "/a{b}", WEFT_PATH_OK, "/a%7Bb%7D"},
	{&fwd, "/a<b>", WEFT_PATH_OK, "/a%3Cb%3E"},
	{&fwd, "/a\"b", WEFT_PATH_OK, "/a%22b"},
	{&fwd, "/a%2F%2e%2e%2Fb", WEFT_PATH_OK, "/b"},
	{&fwd, "/a#b", WEFT_PATH_REJECT, NULL},
	{&fwd, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&fwd, "/a/../..", WEFT_PATH_OK, "/"},
	{&fwd, "/%2e", WEFT_PATH_OK, "/"},
	{&fwd, "/%2e%2e", WEFT_PATH_OK, "/"},
	{&fwd, "/a/b/../../../c", WEFT_PATH_OK, "/c"},
	{&fwd, "/.", WEFT_PATH_OK, "/"},
	{&fwd, "/./", WEFT_PATH_OK, "/"},
	{&fwd, "/a/%2e", WEFT_PATH_OK, "/a/"},
	{&fwd, "/a%2e%2e/b", WEFT_PATH_OK, "/a../b"},
	{&fwd, "/%61%62", WEFT_PATH_OK, "/ab"},
	{&fwd, "/a/.//b", WEFT_PATH_OK, "/a/b"},
	{&fwd, "/a//../b", WEFT_PATH_OK, "/a/b"},
	{&none, "/a/b", WEFT_PATH_OK, "/a/b"},
	{&none, "/a//b", WEFT_PATH_OK, "/a//b"},
	{&none, "/a/./b", WEFT_PATH_OK, "/a/./b"},
	{&none, "/a/../b", WEFT_PATH_OK, "/a/../b"},
	{&none, "/../a", WEFT_PATH_OK, "/../a"},
	{&none, "/a/..", WEFT_PATH_OK, "/a/.."},
	{&none, "/a/.", WEFT_PATH_OK, "/a/."},
	{&none, "/a/%2e/b", WEFT_PATH_OK, "/a/%2e/b"},
	{&none, "/a/%2E%2e/b", WEFT_PATH_OK, "/a/%2E%2e/b"},
	{&none, "/a/.%2e/b", WEFT_PATH_OK, "/a/.%2e/b"},
	{&none, "/%7Ea%41", WEFT_PATH_OK, "/%7Ea%41"},
	{&none, "/a%2fb", WEFT_PATH_OK, "/a%2fb"},
	{&none, "/a%5cb", WEFT_PATH_OK, "/a%5cb"},
	{&none, "/a\\b", WEFT_PATH_OK, "/a\\b"},
	{&none, "/a\\..\\b", WEFT_PATH_OK, "/a\\..\\b"},
	{&none, "/a%20b", WEFT_PATH_OK, "/a%20b"},
	{&none, "/a%zzb", WEFT_PATH_OK, "/a%zzb"},
	{&none, "/a%", WEFT_PATH_OK, "/a%"},
	{&none, "/a%00b", WEFT_PATH_OK, "/a%00b"},
	{&none, "/a?x/../y//%2f", WEFT_PATH_OK, "/a?x/../y//%2f"},
	{&none, "/a/..?q", WEFT_PATH_OK, "/a/..?q"},
	{&none, "//a", WEFT_PATH_OK, "//a"},
	{&none, "/a///b/", WEFT_PATH_OK, "/a///b/"},
	{&none, "/a;b=c/..;d/e", WEFT_PATH_OK, "/a;b=c/..;d/e"},
	{&none, "/a^b", WEFT_PATH_OK, "/a^b"},
	{&none, "/a`b", WEFT_PATH_OK, "/a`b"},
	{&none, "/a|b", WEFT_PATH_OK, "/a|b"},
	{&none, "/a{b}", WEFT_PATH_OK, "/a{b}"},
	{&none, "/a<b>", WEFT_PATH_OK, "/a<b>"},
	{&none, "/a\"b", WEFT_PATH_OK, "/a\"b"},
	{&none, "/...", WEFT_PATH_OK, "/..."},
	{&none, "/..a", WEFT_PATH_OK, "/..a"},
	{&none, "/a/..b/c", WEFT_PATH_OK, "/a/..b/c"},
	{&none, "/a..", WEFT_PATH_OK, "/a.."},
	{&none, "/%2F", WEFT_PATH_OK, "/%2F"},
	{&none, "/a%2F%2e%2e%2Fb", WEFT_PATH_OK, "/a%2F%2e%2e%2Fb"},
	{&none, "/a#b", WEFT_PATH_REJECT, NULL},
	{&none, "/a?b#c", WEFT_PATH_REJECT, NULL},
	{&none, "/a!$&'()*+,-.:=@_~b", WEFT_PATH_OK, "/a!$&'()*+,-.:=@_~b"},
	{&none, "/a%5Bb[c]", WEFT_PATH_OK, "/a%5Bb[c]"},
	{&none, "/a/../..", WEFT_PATH_OK, "/a/../.."},
	{&none, "/%2e", WEFT_PATH_OK, "/%2e"},
	{&none, "/%2e%2e", WEFT_PATH_OK, "/%2e%2e"},
	{&none, "/a/b/../../../c", WEFT_PATH_OK, "/a/b/../../../c"},
	{&none, "/.", WEFT_PATH_OK, "/."},
	{&none, "/./", WEFT_PATH_OK, "/./"},
	{&none, "/a/%2e", WEFT_PATH_OK, "/a/%2e"},
	{&none, "/a%2e%2e/b", WEFT_PATH_OK, "/a%2e%2e/b"},
	{&none, "/a%25b", WEFT_PATH_OK, "/a%25b"},
	{&none, "/%61%62", WEFT_PATH_OK, "/%61%62"},
	{&none, "/a/.//b", WEFT_PATH_OK, "/a/.//b"},
	{&none, "/a//../b", WEFT_PATH_OK, "/a//../b"},
};

static void as_envoy(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct weft_arena *a = weft_arena_new(0);
		const char *got = NULL;
		size_t n = 0;
		enum weft_path_verdict v;

		v = weft_path_fix(cases[i].conf, a, cases[i].in, strlen(cases[i].in), &got, &n);
		if (v != cases[i].verdict || (cases[i].out && (strlen(cases[i].out) != n ||
							       memcmp(got, cases[i].out, n) != 0)))
			print_message("# %s: %d \"%.*s\", not %d \"%s\"\n", cases[i].in, v, (int)n,
				      got, cases[i].verdict, cases[i].out ?: "");
		assert_int_equal(v, cases[i].verdict);
		if (cases[i].out) {
			assert_int_equal(strlen(cases[i].out), n);
			assert_memory_equal(got, cases[i].out, n);
		}
		weft_arena_free(a);
	}
}

/* What is canonical stays so, whatever it was made from. */
static void twice_is_once(void **state)
{
	static const char alphabet[] = "/.%2eE5cCf\\ab?#;";
	uint64_t r = 88172645463325252ull;

	for (unsigned i = 0; i < 200000; i++) {
		struct weft_arena *a = weft_arena_new(1024);
		const char *one, *two;
		char in[24] = "/";
		size_t n = 1, n1, n2;

		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		while (n < 2 + (r & 15)) {
			in[n] = alphabet[(r >> (4 + n * 2)) % (sizeof(alphabet) - 1)];
			n++;
		}
		if (weft_path_fix(&both, a, in, n, &one, &n1) == WEFT_PATH_OK) {
			assert_int_equal(one[0], '/');
			assert_int_equal(weft_path_fix(&both, a, one, n1, &two, &n2), WEFT_PATH_OK);
			assert_int_equal(n1, n2);
			assert_memory_equal(one, two, n1);
		}
		weft_arena_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_envoy),
		cmocka_unit_test(twice_is_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
