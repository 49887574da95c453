/* Strings, headers, query parameters. */
#include "proxy/policy/match.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int weft_strmatch_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Type__Matcher__V3__StringMatcher *m,
			  struct weft_strmatch *ret)
{
	struct weft_path p = {at, "safe_regex", -1}, pr = {&p, "regex", -1};

	memset(ret, 0, sizeof(*ret));
	ret->ignore_case = m->ignore_case;
	switch (m->match_pattern_case) {
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_EXACT:
		ret->kind = WEFT_STR_EXACT;
		ret->v = m->exact;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_PREFIX:
		ret->kind = WEFT_STR_PREFIX;
		ret->v = m->prefix;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_SUFFIX:
		ret->kind = WEFT_STR_SUFFIX;
		ret->v = m->suffix;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_CONTAINS:
		ret->kind = WEFT_STR_CONTAINS;
		ret->v = m->contains;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_SAFE_REGEX:
		ret->kind = WEFT_STR_REGEX;
		if (m->ignore_case)
			return weft_cfg_fail(c, at,
					     "ignore_case must not stand with safe_regex: "
					     "write (?i) in the expression");
		return weft_regex_compile(c, &pr, m->safe_regex->regex, &ret->re);
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_CUSTOM:
		return weft_cfg_fail(c, at, "custom is not supported");
	default:
		return weft_cfg_fail(c, at,
				     "must have one of exact, prefix, suffix, contains, "
				     "safe_regex; has none");
	}
	ret->v = weft_arena_strdup(c->arena, ret->v ? ret->v : "");
	ret->n = strlen(ret->v);
	return 0;
}

static bool same(const struct weft_strmatch *m, const char *s)
{
	return m->ignore_case ? !strncasecmp(s, m->v, m->n) : !memcmp(s, m->v, m->n);
}

static bool contains(const struct weft_strmatch *m, const char *s, size_t n)
{
	size_t i;

	if (!m->ignore_case)
		return memmem(s, n, m->v, m->n) != NULL;
	for (i = 0; i + m->n <= n; i++)
		if (!strncasecmp(s + i, m->v, m->n))
			return true;
	return false;
}

enum weft_match weft_strmatch(const struct weft_strmatch *m, const char *s, size_t n)
{
	switch (m->kind) {
	case WEFT_STR_EXACT:
		return n == m->n && same(m, s);
	case WEFT_STR_PREFIX:
		return n >= m->n && same(m, s);
	case WEFT_STR_SUFFIX:
		return n >= m->n && same(m, s + n - m->n);
	case WEFT_STR_CONTAINS:
		return n >= m->n && contains(m, s, n);
	case WEFT_STR_REGEX:
		return weft_regex_full(m->re, s, n);
	case WEFT_STR_ANY:
		return WEFT_MATCH_YES;
	}
	return WEFT_MATCH_NO;
}

static int plain(struct weft_cfg *c, struct weft_hdrmatch *ret, enum weft_str_kind kind,
		 const char *v)
{
	ret->kind = WEFT_HM_STRING;
	ret->str.kind = kind;
	ret->str.v = weft_arena_strdup(c->arena, v);
	ret->str.n = strlen(v);
	return 0;
}

int weft_hdrmatch_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Route__V3__HeaderMatcher *m,
			  struct weft_hdrmatch *ret)
{
	struct weft_path p = {at, "string_match", -1}, ps = {at, "safe_regex_match", -1},
			 pr = {&ps, "regex", -1}, rg = {at, "range_match", -1};
	char *low;
	size_t i;

	memset(ret, 0, sizeof(*ret));
	low = weft_arena_strdup(c->arena, m->name ? m->name : "");
	for (i = 0; low[i]; i++)
		low[i] = (char)tolower((unsigned char)low[i]);
	if (!strcmp(low, "host")) /* stands as :authority whatever the version */
		low = weft_arena_strdup(c->arena, ":authority");
	ret->name = low;
	ret->name_n = strlen(low);
	ret->id = weft_hid_of(low, ret->name_n);
	ret->invert = m->invert_match;
	ret->missing_as_empty = m->treat_missing_header_as_empty;
	switch (m->header_match_specifier_case) {
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_STRING_MATCH:
		ret->kind = WEFT_HM_STRING;
		return weft_strmatch_prepare(c, &p, m->string_match, &ret->str);
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_RANGE_MATCH:
		ret->kind = WEFT_HM_RANGE;
		ret->from = m->range_match->start;
		ret->to = m->range_match->end;
		if (ret->to <= ret->from)
			return weft_cfg_fail(c, &rg, "must have end beyond start, is [%lld, %lld)",
					     (long long)ret->from, (long long)ret->to);
		return 0;
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_PRESENT_MATCH:
		ret->kind = m->present_match ? WEFT_HM_PRESENT : WEFT_HM_ABSENT;
		return 0;
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_EXACT_MATCH:
		return plain(c, ret, WEFT_STR_EXACT, m->exact_match);
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_PREFIX_MATCH:
		return plain(c, ret, WEFT_STR_PREFIX, m->prefix_match);
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_SUFFIX_MATCH:
		return plain(c, ret, WEFT_STR_SUFFIX, m->suffix_match);
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_CONTAINS_MATCH:
		return plain(c, ret, WEFT_STR_CONTAINS, m->contains_match);
	case ENVOY__CONFIG__ROUTE__V3__HEADER_MATCHER__HEADER_MATCH_SPECIFIER_SAFE_REGEX_MATCH:
		ret->kind = WEFT_HM_STRING;
		ret->str.kind = WEFT_STR_REGEX;
		return weft_regex_compile(c, &pr, m->safe_regex_match->regex, &ret->str.re);
	default:
		ret->kind = WEFT_HM_PRESENT;
		return 0;
	}
}

int weft_hdrmatches_prepare(struct weft_cfg *c, const struct weft_path *at,
			    Envoy__Config__Route__V3__HeaderMatcher *const *v, size_t n,
			    const struct weft_hdrmatch **ret)
{
	struct weft_hdrmatch *to;
	size_t i;
	int err = 0;

	*ret = NULL;
	if (!n)
		return 0;
	to = weft_arena_alloc(c->arena, n * sizeof(*to));
	for (i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		if (weft_hdrmatch_prepare(c, &p, v[i], &to[i]))
			err = -EINVAL;
	}
	*ret = to;
	return err;
}

static enum weft_match in_range(const struct weft_hdrmatch *m, const char *s, size_t n)
{
	char buf[24], *end;
	long long v;

	if (!n || n >= sizeof(buf))
		return WEFT_MATCH_NO;
	memcpy(buf, s, n);
	buf[n] = 0;
	if (isspace((unsigned char)buf[0]) || buf[0] == '+')
		return WEFT_MATCH_NO;
	errno = 0;
	v = strtoll(buf, &end, 10);
	return !*end && !errno && v >= m->from && v < m->to;
}

enum weft_match weft_hdrmatch(const struct weft_hdrmatch *m, const struct weft_headers *h)
{
	const struct weft_header *f =
		m->id ? weft_headers_get(h, m->id) : weft_headers_find(h, m->name, m->name_n);
	enum weft_match r;
	const char *s = "";
	size_t n = 0;

	/* present and absent are about the field itself: missing_as_empty makes it present */
	if (m->kind == WEFT_HM_PRESENT || m->kind == WEFT_HM_ABSENT)
		return ((f || m->missing_as_empty) == (m->kind == WEFT_HM_PRESENT)) != m->invert;
	if (!f && !m->missing_as_empty)
		return WEFT_MATCH_NO; /* also when inverted: there is nothing to compare */
	if (f)
		s = weft_headers_joined(h, m->name, m->name_n, &n);
	r = m->kind == WEFT_HM_RANGE ? in_range(m, s, n) : weft_strmatch(&m->str, s, n);
	if (r == WEFT_MATCH_LIMIT)
		return r;
	return (r == WEFT_MATCH_YES) != m->invert;
}

enum weft_match weft_hdrmatch_all(const struct weft_hdrmatch *v, size_t n,
				  const struct weft_headers *h)
{
	enum weft_match all = WEFT_MATCH_YES;
	size_t i;

	for (i = 0; i < n; i++) {
		enum weft_match r = weft_hdrmatch(&v[i], h);

		if (r == WEFT_MATCH_NO)
			return r;
		if (r == WEFT_MATCH_LIMIT)
			all = r;
	}
	return all;
}

/* ---- query parameters */
static int hex(int ch)
{
	return ch >= '0' && ch <= '9'		      ? ch - '0'
	       : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10
						      : -1;
}

/* Decoded into dst (n bytes at least); broken escapes stay as they are. */
static size_t decode(char *dst, const char *s, size_t n)
{
	size_t i, k = 0;

	for (i = 0; i < n; i++) {
		if (s[i] == '%' && i + 2 < n && hex(s[i + 1]) >= 0 && hex(s[i + 2]) >= 0) {
			dst[k++] = (char)(hex(s[i + 1]) << 4 | hex(s[i + 2]));
			i += 2;
		} else {
			dst[k++] = s[i];
		}
	}
	return k;
}

/* The first value of name in query; NULL: absent. */
static const char *query_find(const char *query, size_t n, const char *name, size_t name_n,
			      size_t *ret_n)
{
	const char *end = query + n;

	while (query < end) {
		const char *amp = memchr(query, '&', (size_t)(end - query)), *eq;
		size_t len;

		if (!amp)
			amp = end;
		eq = memchr(query, '=', (size_t)(amp - query));
		len = (size_t)((eq ? eq : amp) - query);
		if (len == name_n && !memcmp(query, name, len)) {
			*ret_n = eq ? (size_t)(amp - eq - 1) : 0;
			return eq ? eq + 1 : amp;
		}
		query = amp + 1;
	}
	return NULL;
}

const char *weft_query_get(const char *query, size_t n, const char *name, struct weft_arena *a,
			   size_t *ret_n)
{
	size_t len;
	const char *v = query_find(query, n, name, strlen(name), &len);
	char *out;

	if (!v)
		return NULL;
	out = weft_arena_alloc(a, len + 1);
	*ret_n = decode(out, v, len);
	return out;
}

int weft_querymatches_prepare(struct weft_cfg *c, const struct weft_path *at,
			      Envoy__Config__Route__V3__QueryParameterMatcher *const *v, size_t n,
			      const struct weft_querymatch **ret)
{
	struct weft_querymatch *to;
	size_t i;
	int err = 0;

	*ret = NULL;
	if (!n)
		return 0;
	to = weft_arena_alloc(c->arena, n * sizeof(*to));
	for (i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i}, ps = {&p, "string_match", -1},
				 pp = {&p, "present_match", -1};

		to[i].name = weft_arena_strdup(c->arena, v[i]->name);
		to[i].name_n = strlen(to[i].name);
		switch (v[i]->query_parameter_match_specifier_case) {
		case ENVOY__CONFIG__ROUTE__V3__QUERY_PARAMETER_MATCHER__QUERY_PARAMETER_MATCH_SPECIFIER_STRING_MATCH:
			err |= weft_strmatch_prepare(c, &ps, v[i]->string_match, &to[i].str);
			break;
		case ENVOY__CONFIG__ROUTE__V3__QUERY_PARAMETER_MATCHER__QUERY_PARAMETER_MATCH_SPECIFIER_PRESENT_MATCH:
			if (!v[i]->present_match)
				err = weft_cfg_fail(c, &pp, "must be true, is false");
			to[i].present = true;
			break;
		default:
			to[i].present = true;
		}
	}
	*ret = to;
	return err ? -EINVAL : 0;
}

static enum weft_match query_all(const struct weft_querymatch *v, size_t n, const char *query,
				 size_t query_n, bool raw)
{
	enum weft_match all = WEFT_MATCH_YES, r;
	size_t i, len;

	for (i = 0; i < n; i++) {
		const char *s = query_find(query, query_n, v[i].name, v[i].name_n, &len);
		char buf[256], *to = buf;

		if (!s)
			return WEFT_MATCH_NO;
		if (v[i].present)
			continue;
		if (raw) {
			r = weft_strmatch(&v[i].str, s, len);
			goto told;
		}
		if (len > sizeof(buf))
			to = weft_xcalloc(1, len);
		r = weft_strmatch(&v[i].str, to, decode(to, s, len));
		if (to != buf)
			free(to);
	told:
		if (r == WEFT_MATCH_NO)
			return r;
		if (r == WEFT_MATCH_LIMIT)
			all = r;
	}
	return all;
}

enum weft_match weft_querymatch_all(const struct weft_querymatch *v, size_t n, const char *query,
				    size_t query_n)
{
	return query_all(v, n, query, query_n, false);
}

enum weft_match weft_querymatch_raw(const struct weft_querymatch *v, size_t n, const char *query,
				    size_t query_n)
{
	return query_all(v, n, query, query_n, true);
}

const char *weft_cookie_get(const struct weft_headers *h, const char *name, struct weft_arena *a,
			    size_t *ret_n)
{
	size_t i, name_n = strlen(name);

	for (i = 0; i < h->n; i++) {
		const char *s = h->v[i].value, *end = s + h->v[i].value_len;

		if (h->v[i].id != WEFT_H_COOKIE)
			continue;
		while (s < end) {
			const char *semi = memchr(s, ';', (size_t)(end - s));
			size_t n;

			while (s < end && *s == ' ')
				s++;
			if (!semi)
				semi = end;
			n = semi > s ? (size_t)(semi - s) : 0;
			if (n > name_n && s[name_n] == '=' && !memcmp(s, name, name_n)) {
				s += name_n + 1;
				n -= name_n + 1;
				while (n && s[n - 1] == ' ')
					n--;
				if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
					s++;
					n -= 2;
				}
				*ret_n = n;
				return weft_arena_strndup(a, s, n);
			}
			s = semi + 1;
		}
	}
	return NULL;
}

uint32_t weft_percent(const Envoy__Type__V3__FractionalPercent *m, uint32_t dflt)
{
	uint64_t v;

	if (!m)
		return dflt;
	v = m->numerator;
	if (m->denominator == ENVOY__TYPE__V3__FRACTIONAL_PERCENT__DENOMINATOR_TYPE__HUNDRED)
		v *= 10000;
	else if (m->denominator ==
		 ENVOY__TYPE__V3__FRACTIONAL_PERCENT__DENOMINATOR_TYPE__TEN_THOUSAND)
		v *= 100;
	return v > 1000000 ? 1000000 : (uint32_t)v;
}

uint32_t weft_fraction(const Envoy__Config__Core__V3__RuntimeFractionalPercent *m, uint32_t dflt)
{
	return m ? weft_percent(m->default_value, dflt) : dflt;
}

bool weft_fraction_hit(uint32_t per_million, uint64_t random)
{
	return random % 1000000 < per_million;
}
