/* RE2's language by PCRE2, with limits: what RE2 refuses (back-references, lookaround, atomic
 * groups) we refuse too. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "proxy/policy/match.h"

#include <ctype.h>
#include <pcre2.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
	REPLACED_MAX = 64 << 10,
	REPEAT_MAX = 1000,
	JIT_STACK_MIN = 32 << 10,
	JIT_STACK_MAX = 512 << 10
};

struct weft_regex {
	pcre2_code *code;
	uint32_t groups;
};

/* Each thread has its own: match data and the limits' context. Gone with the thread. */
struct matcher {
	pcre2_match_data *data;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;
};
static _Thread_local pcre2_match_data *td_match;
static _Thread_local pcre2_match_context *td_context;
static pthread_key_t td_key;
static pthread_once_t td_once = PTHREAD_ONCE_INIT;

static void matcher_free(void *p)
{
	struct matcher *m = p;

	td_match = NULL;
	td_context = NULL;
	pcre2_match_data_free(m->data);
	pcre2_match_context_free(m->context);
	pcre2_jit_stack_free(m->stack);
	free(m);
}

static void key_make(void)
{
	if (pthread_key_create(&td_key, matcher_free))
		abort();
}

static bool thread_ready(void)
{
	struct matcher *m;

	if (td_match && td_context)
		return true;
	pthread_once(&td_once, key_make);
	m = weft_xcalloc(1, sizeof(*m));
	m->data = pcre2_match_data_create(16, NULL);
	m->context = pcre2_match_context_create(NULL);
	/* long paths need more than the 32 KiB there are without it */
	m->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
	if (!m->data || !m->context || pthread_setspecific(td_key, m)) {
		matcher_free(m);
		return false;
	}
	pcre2_set_match_limit(m->context, WEFT_REGEX_MATCH_LIMIT);
	pcre2_set_depth_limit(m->context, WEFT_REGEX_DEPTH_LIMIT);
	pcre2_jit_stack_assign(m->context, NULL, m->stack);
	td_match = m->data;
	td_context = m->context;
	return true;
}

static void regex_free(void *p)
{
	pcre2_code_free(p);
}

/* "{m}", "{m,}", "{m,n}" as it stands at s: its length, 0: it is text. */
static size_t repeat(const char *s, bool *ret_large)
{
	const char *p = s + 1;
	unsigned long m = strtoul(p, (char **)&p, 10), n = m;

	if (!isdigit((unsigned char)s[1]))
		return 0;
	if (*p == ',')
		n = isdigit((unsigned char)*++p) ? strtoul(p, (char **)&p, 10) : m;
	if (*p != '}')
		return 0;
	*ret_large = m > REPEAT_MAX || n > REPEAT_MAX;
	return (size_t)(p - s) + 1;
}

/* The construct that RE2 does not have, or NULL. */
static const char *foreign(const char *s)
{
	bool set = false, large = false;
	size_t n;

	for (; *s; s++) {
		if (*s == '\\' && s[1]) {
			s++;
			if (*s == 'Q') { /* text up to \E */
				const char *end = strstr(s, "\\E");

				s = end ? end + 1 : s + strlen(s) - 1;
				continue;
			}
			if (!set && ((*s >= '1' && *s <= '9') || *s == 'g' || *s == 'k'))
				return "back-references";
			if (isalpha((unsigned char)*s) && !strchr("aftnrvdDsSwWbBAzpPxE", *s))
				return "this escape";
			continue;
		}
		if (set) {
			set = *s != ']';
			continue;
		}
		if (*s == '[') {
			set = true;
			if (s[1] == '^')
				s++;
			if (s[1] == ']')
				s++;
			continue;
		}
		n = *s == '*' || *s == '+' || *s == '?' ? 1 : *s == '{' ? repeat(s, &large) : 0;
		if (n) {
			if (*s == '{' && large)
				return "repetition of more than 1000";
			if (s[n] == '+')
				return "possessive repetition";
			s += n - 1;
			continue;
		}
		if (*s == '(' && s[1] == '*')
			return "verbs";
		if (*s != '(' || s[1] != '?')
			continue;
		if (s[2] == '=' || s[2] == '!' || (s[2] == '<' && (s[3] == '=' || s[3] == '!')))
			return "lookaround";
		if (s[2] == '>' || s[2] == '|' || s[2] == '(' || s[2] == '&' || s[2] == 'R' ||
		    s[2] == '#' || s[2] == 'C' || s[2] == '+' || isdigit((unsigned char)s[2]) ||
		    (s[2] == 'P' && (s[3] == '>' || s[3] == '=')))
			return "this kind of group";
	}
	return NULL;
}

int weft_regex_compile(struct weft_cfg *c, const struct weft_path *at, const char *text,
		       const struct weft_regex **ret)
{
	struct weft_regex *r = weft_arena_alloc(c->arena, sizeof(*r));
	const char *bad = foreign(text ? text : "");
	PCRE2_SIZE off = 0;
	int code = 0;

	if (!text || !*text)
		return weft_cfg_fail(c, at, "must be a regular expression, is empty");
	if (strlen(text) > WEFT_REGEX_BYTES_MAX)
		return weft_cfg_fail(c, at, "must be at most %d bytes, has %zu",
				     WEFT_REGEX_BYTES_MAX, strlen(text));
	if (bad)
		return weft_cfg_fail(c, at, "must be RE2 syntax, which has no %s, is \"%.80s\"",
				     bad, text);
	r->code = pcre2_compile((PCRE2_SPTR)text, strlen(text),
				PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C |
					PCRE2_DOLLAR_ENDONLY,
				&code, &off, NULL);
	if (!r->code) {
		char why[128] = "";

		pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof(why));
		return weft_cfg_fail(c, at,
				     "is not a regular expression: %s at byte %zu of "
				     "\"%.80s\"",
				     why, (size_t)off, text);
	}
	weft_arena_cleanup(c->arena, regex_free, r->code);
	/* without JIT memory (a sealed program) it is interpreted: slower, same answers */
	(void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
	pcre2_pattern_info(r->code, PCRE2_INFO_CAPTURECOUNT, &r->groups);
	*ret = r;
	return 0;
}

static int match(const struct weft_regex *r, const char *s, size_t n, uint32_t options)
{
	if (!thread_ready())
		return PCRE2_ERROR_NOMEMORY;
	return pcre2_match(r->code, (PCRE2_SPTR)s, n, 0, options, td_match, td_context);
}

static enum weft_match verdict(int rc)
{
	return rc >= 0			   ? WEFT_MATCH_YES
	       : rc == PCRE2_ERROR_NOMATCH ? WEFT_MATCH_NO
					   : WEFT_MATCH_LIMIT;
}

enum weft_match weft_regex_full(const struct weft_regex *r, const char *s, size_t n)
{
	return verdict(match(r, s, n, PCRE2_ANCHORED | PCRE2_ENDANCHORED));
}

enum weft_match weft_regex_search(const struct weft_regex *r, const char *s, size_t n)
{
	return verdict(match(r, s, n, 0));
}

size_t weft_regex_groups(const struct weft_regex *r, const char *s, size_t n, size_t *ret_pairs,
			 size_t max_pairs)
{
	int rc = match(r, s, n, PCRE2_ANCHORED | PCRE2_ENDANCHORED);
	size_t have, i;
	PCRE2_SIZE *ov;

	if (rc < 0)
		return 0;
	have = rc == 0 ? 16 : (size_t)rc;
	if (have > max_pairs)
		have = max_pairs;
	ov = pcre2_get_ovector_pointer(td_match);
	for (i = 0; i < 2 * have; i++)
		ret_pairs[i] = ov[i] == PCRE2_UNSET ? SIZE_MAX : ov[i];
	return have;
}

int weft_rewrite_prepare(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Type__Matcher__V3__RegexMatchAndSubstitute *m,
			 struct weft_rewrite *ret)
{
	struct weft_path p = {at, "pattern", -1}, pr = {&p, "regex", -1},
			 ps = {at, "substitution", -1};
	const char *s;
	int err;

	if (!m->pattern)
		return weft_cfg_fail(c, &p, "must be set");
	err = weft_regex_compile(c, &pr, m->pattern->regex, &ret->re);
	if (err)
		return err;
	ret->subst = weft_arena_strdup(c->arena, m->substitution ? m->substitution : "");
	for (s = ret->subst; *s; s++) {
		if (*s != '\\')
			continue;
		s++;
		if (*s == '\\')
			continue;
		if (!isdigit((unsigned char)*s))
			return weft_cfg_fail(c, &ps,
					     "after '\\' must come a digit or '\\', in "
					     "\"%.80s\"",
					     ret->subst);
		if ((uint32_t)(*s - '0') > ret->re->groups)
			return weft_cfg_fail(c, &ps,
					     "names group %c, but the pattern has %u groups", *s,
					     ret->re->groups);
	}
	return 0;
}

/* dst NULL: only counts. */
static size_t substitute(char *dst, const char *subst, const char *s, const PCRE2_SIZE *ov)
{
	size_t n = 0;

	for (; *subst; subst++) {
		if (*subst == '\\' && isdigit((unsigned char)subst[1])) {
			size_t g = (size_t)(*++subst - '0');
			size_t from = ov[2 * g],
			       len = from == PCRE2_UNSET ? 0 : ov[2 * g + 1] - from;

			if (dst && len)
				memcpy(dst + n, s + from, len);
			n += len;
			continue;
		}
		if (*subst == '\\' && subst[1] == '\\')
			subst++;
		if (dst)
			dst[n] = *subst;
		n++;
	}
	return n;
}

static size_t next_char(const char *s, size_t n, size_t at)
{
	do
		at++;
	while (at < n && ((unsigned char)s[at] & 0xc0) == 0x80);
	return at;
}

const char *weft_regex_replace(const struct weft_regex *r, const char *subst, const char *s,
			       size_t n, struct weft_arena *a, size_t *ret_n)
{
	char *out = NULL;
	size_t pass, len = 0;

	if (!thread_ready())
		return NULL;
	for (pass = 0; pass < 2; pass++) { /* count, then write */
		size_t at = 0, from = 0;
		bool any = false;

		len = 0;
		while (at <= n) {
			PCRE2_SIZE *ov;
			int rc =
				pcre2_match(r->code, (PCRE2_SPTR)s, n, at, 0, td_match, td_context);

			if (rc == PCRE2_ERROR_NOMATCH)
				break;
			if (rc < 0)
				return NULL;
			ov = pcre2_get_ovector_pointer(td_match);
			/* as RE2: nothing where the last match ended is no match */
			if (any && ov[1] == from) {
				at = next_char(s, n, from);
				continue;
			}
			any = true;
			if (out)
				memcpy(out + len, s + from, ov[0] - from);
			len += ov[0] - from;
			len += substitute(out ? out + len : NULL, subst, s, ov);
			from = ov[1];
			at = ov[1] > ov[0] ? ov[1] : next_char(s, n, ov[1]);
			if (len > REPLACED_MAX)
				return NULL;
		}
		if (out && from < n)
			memcpy(out + len, s + from, n - from);
		len += n - (from < n ? from : n);
		if (!out)
			out = weft_arena_alloc(a, len + 1);
	}
	*ret_n = len;
	return out;
}
