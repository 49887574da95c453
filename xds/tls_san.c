#include "xds/tls_priv.h"

#include "proxy/core/addr.h"
#include <ctype.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <strings.h>

enum { SANS_MAX = 1024, REGEX_LIMIT = 100000, REGEX_DEPTH = 1000 };

static void free_regex(void *re)
{
	pcre2_code_free(re);
}

/* RE2's language, which Envoy speaks, has neither back-references nor lookaround. */
static int compile(struct weft_tls_build *b, const struct weft_path *at, const char *text,
		   bool ignore_case, pcre2_code **ret)
{
	uint32_t flags = PCRE2_UTF | PCRE2_NO_UTF_CHECK | (ignore_case ? PCRE2_CASELESS : 0);
	uint32_t backrefs = 0, behind = 0;
	PCRE2_UCHAR why[128];
	PCRE2_SIZE off;
	int e;

	if (strstr(text, "(?=") || strstr(text, "(?!") || strstr(text, "(?<=") ||
	    strstr(text, "(?<!"))
		return weft_cfg_fail(b->c, at, "lookaround is not supported in \"%s\"", text);
	*ret = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, flags, &e, &off, NULL);
	if (!*ret) {
		pcre2_get_error_message(e, why, sizeof(why));
		return weft_cfg_fail(b->c, at, "not a regular expression: %s at %zu in \"%s\"",
				     (const char *)why, (size_t)off, text);
	}
	weft_arena_cleanup(b->p->arena, free_regex, *ret);
	pcre2_pattern_info(*ret, PCRE2_INFO_BACKREFMAX, &backrefs);
	pcre2_pattern_info(*ret, PCRE2_INFO_MAXLOOKBEHIND, &behind);
	if (backrefs > 0)
		return weft_cfg_fail(b->c, at, "back-references are not supported in \"%s\"", text);
	return 0;
}

int weft_tls_san_prepare(struct weft_tls_build *b, const struct weft_path *at, int type,
			 const Envoy__Type__Matcher__V3__StringMatcher *m, struct weft_tls_san *ret)
{
	const struct weft_path re = {at, "safe_regex", -1};
	const char *v = NULL;

	*ret = (struct weft_tls_san){.type = type};
	ret->ignore_case = m && m->ignore_case;
	switch (m ? m->match_pattern_case : 0) {
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_EXACT:
		ret->how = TLS_SAN_EXACT;
		v = m->exact;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_PREFIX:
		ret->how = TLS_SAN_PREFIX;
		v = m->prefix;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_SUFFIX:
		ret->how = TLS_SAN_SUFFIX;
		v = m->suffix;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_CONTAINS:
		ret->how = TLS_SAN_CONTAINS;
		v = m->contains;
		break;
	case ENVOY__TYPE__MATCHER__V3__STRING_MATCHER__MATCH_PATTERN_SAFE_REGEX:
		ret->how = TLS_SAN_REGEX;
		return compile(b, &re, m->safe_regex->regex ? m->safe_regex->regex : "",
			       ret->ignore_case, &ret->re);
	default:
		return weft_cfg_fail(b->c, at,
				     "must be exact, prefix, suffix, contains or safe_regex");
	}
	ret->v = weft_arena_strdup(b->p->arena, v);
	ret->n = strlen(v);
	return 0;
}

/* ---- matching; s is not NUL-terminated, and a NUL in it is a byte like any other */

static bool same(const struct weft_tls_san *m, const char *s)
{
	return (m->ignore_case ? strncasecmp(s, m->v, m->n) : memcmp(s, m->v, m->n)) == 0;
}

static bool has(const struct weft_tls_san *m, const char *s, size_t n)
{
	for (size_t i = 0; i + m->n <= n; i++) {
		if (same(m, s + i))
			return true;
	}
	return false;
}

static bool regex(const struct weft_tls_san *m, const char *s, size_t n)
{
	pcre2_match_data *md = pcre2_match_data_create(1, NULL);
	pcre2_match_context *mc = pcre2_match_context_create(NULL);
	int r = -1;

	if (md && mc) {
		pcre2_set_match_limit(mc, REGEX_LIMIT);
		pcre2_set_depth_limit(mc, REGEX_DEPTH);
		r = pcre2_match(m->re, (PCRE2_SPTR)s, n, 0, PCRE2_ANCHORED | PCRE2_ENDANCHORED, md,
				mc);
	}
	pcre2_match_data_free(md);
	pcre2_match_context_free(mc);
	return r >= 0;
}

/* A DNS name of a certificate against a host: without case; '*' stands for one whole first label.
 */
static bool dns_eq(const char *pattern, size_t n, const char *host)
{
	const char *dot = strchr(host, '.');
	size_t k = strlen(host);

	if (n == k && strncasecmp(pattern, host, n) == 0)
		return true;
	if (n < 3 || pattern[0] != '*' || pattern[1] != '.' || !dot || dot == host)
		return false;
	return strlen(dot) == n - 1 && strncasecmp(pattern + 1, dot, n - 1) == 0;
}

static bool match_text(const struct weft_tls_san *m, int type, const char *s, size_t n)
{
	switch (m->how) {
	case TLS_SAN_EXACT:
		if (type == GEN_DNS && m->type == GEN_DNS && dns_eq(s, n, m->v))
			return true;
		return n == m->n && same(m, s);
	case TLS_SAN_PREFIX:
		return n >= m->n && same(m, s);
	case TLS_SAN_SUFFIX:
		return n >= m->n && same(m, s + n - m->n);
	case TLS_SAN_CONTAINS:
		return has(m, s, n);
	default:
		return regex(m, s, n);
	}
}

static bool match_one(const struct weft_tls_san *m, const GENERAL_NAME *g)
{
	const ASN1_STRING *s;
	char text[WEFT_IP_TEXT];
	struct weft_ip ip;

	if (g->type != GEN_DNS && g->type != GEN_URI && g->type != GEN_EMAIL &&
	    g->type != GEN_IPADD)
		return false;
	if (m->type >= 0 && m->type != g->type)
		return false;
	s = g->type == GEN_IPADD ? g->d.iPAddress : g->d.ia5;
	if (g->type == GEN_IPADD) {
		if (weft_ip_from_bytes(ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s),
				       &ip) < 0)
			return false;
		weft_ip_text(&ip, text, sizeof(text));
		return match_text(m, g->type, text, strlen(text));
	}
	return match_text(m, g->type, (const char *)ASN1_STRING_get0_data(s),
			  (size_t)ASN1_STRING_length(s));
}

bool weft_tls_san_match(const struct weft_tls_san *v, size_t n, X509 *leaf)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	int k = names ? sk_GENERAL_NAME_num(names) : 0;
	bool ok = false;

	for (int i = 0; !ok && i < k && i < SANS_MAX; i++) {
		for (size_t j = 0; !ok && j < n; j++)
			ok = match_one(&v[j], sk_GENERAL_NAME_value(names, i));
	}
	GENERAL_NAMES_free(names);
	return ok;
}

bool weft_tls_san_is(X509 *leaf, const char *want)
{
	struct weft_tls_san m = {.type = GEN_DNS,
				 .how = TLS_SAN_EXACT,
				 .v = want,
				 .n = strlen(want),
				 .ignore_case = true};
	char text[WEFT_IP_TEXT];
	struct weft_ip ip;

	if (weft_ip_parse(want, &ip) == 0) {
		m.type = GEN_IPADD;
		m.v = weft_ip_text(&ip, text, sizeof(text));
		m.n = strlen(m.v);
	}
	return weft_tls_san_match(&m, 1, leaf);
}
