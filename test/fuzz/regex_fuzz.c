/* A regular expression, a substitution and a text, each a line: compiled or refused with a reason;
 * matched and replaced within limits. */
#include "proxy/policy/match.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const uint8_t *a = memchr(data, '\n', n), *b;
	struct weft_errs errs = {0};
	struct weft_cfg c = {.errs = &errs};
	struct weft_path at = {NULL, "re", -1};
	Envoy__Type__Matcher__V3__RegexMatcher re = ENVOY__TYPE__MATCHER__V3__REGEX_MATCHER__INIT;
	Envoy__Type__Matcher__V3__RegexMatchAndSubstitute m =
		ENVOY__TYPE__MATCHER__V3__REGEX_MATCH_AND_SUBSTITUTE__INIT;
	struct weft_rewrite rw;
	size_t left, len = 0, pairs[20];

	b = a ? memchr(a + 1, '\n', n - (size_t)(a + 1 - data)) : NULL;
	if (!b)
		return 0;
	c.arena = weft_arena_new(0);
	re.regex = weft_arena_strndup(c.arena, (const char *)data, (size_t)(a - data));
	m.pattern = &re;
	m.substitution = weft_arena_strndup(c.arena, (const char *)a + 1, (size_t)(b - a - 1));
	left = n - (size_t)(b + 1 - data);
	if (weft_rewrite_prepare(&c, &at, &m, &rw)) {
		assert(errs.n > 0);
	} else {
		const char *s = (const char *)b + 1;
		enum weft_match full = weft_regex_full(rw.re, s, left);
		size_t g = weft_regex_groups(rw.re, s, left, pairs, 10), i;
		const char *out;

		assert((full == WEFT_MATCH_YES) == (g > 0));
		for (i = 0; i < g; i++)
			assert(pairs[2 * i] == SIZE_MAX || pairs[2 * i + 1] <= left);
		out = weft_regex_replace(rw.re, rw.subst, s, left, c.arena, &len);
		assert(!out || !len || out[len - 1] == out[len - 1]);
	}
	weft_arena_free(c.arena);
	return 0;
}
