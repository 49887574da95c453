/* URI templates as path matchers and rewrites: "/a/{name}/{rest=**}". Compiled to a regular
 * expression over the path. */
#include "proxy/http/route_priv.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

enum { NAMES_MAX = 5, TEXT_MAX = 4096 };

struct piece { /* of a rewrite: text, then the variable (index), or -1 */
	const char *text;
	size_t n;
	int var;
};
struct weft_template {
	const struct weft_regex *re;
	const char *name[NAMES_MAX];
	size_t n_names;
	const struct piece *v; /* rewrites only */
	size_t n;
};

struct out {
	char s[TEXT_MAX];
	size_t n;
	bool full;
};

static void put(struct out *o, const char *s)
{
	size_t n = strlen(s);

	if (o->n + n >= sizeof(o->s)) {
		o->full = true;
		return;
	}
	memcpy(o->s + o->n, s, n + 1);
	o->n += n;
}

static void put_literal(struct out *o, char ch)
{
	char two[3] = {'\\', ch, 0};

	put(o, isalnum((unsigned char)ch) || ch == '/' || ch == '_' || ch == '-' ? two + 1 : two);
}

#define SEGMENT "[a-zA-Z0-9\\-._~%!$&'()+,;:@]+" /* pchar without '*' and '=' */
#define REST	"[a-zA-Z0-9\\-._~%!$&'()+,;:@/*=]*"

static bool path_char(char ch)
{
	return isalnum((unsigned char)ch) || strchr("-._~%!$&'()+,;:@", ch) != NULL;
}

/* The pattern inside braces behind '=': literals, '*', '**', '/'. */
static const char *inner(struct out *o, const char *s, const char *end, bool *ret_rest)
{
	for (; s < end; s++) {
		if (s[0] == '*' && s + 1 < end && s[1] == '*') {
			if (s + 2 != end)
				return "** must be the last of a variable";
			put(o, REST);
			*ret_rest = true;
			return NULL;
		}
		if (*s == '*')
			put(o, SEGMENT);
		else if (*s == '/' || path_char(*s))
			put_literal(o, *s);
		else
			return "a character that a path cannot have";
	}
	return NULL;
}

static const char *variable(struct weft_cfg *c, struct weft_template *t, struct out *o,
			    const char *s, const char *end, bool *ret_rest)
{
	const char *eq = memchr(s, '=', (size_t)(end - s)), *stop = eq ? eq : end, *p, *bad = NULL;
	size_t i;

	if (t->n_names == NAMES_MAX)
		return "more than 5 variables";
	if (stop == s || stop - s > 16)
		return "a variable name that is not 1..16 characters long";
	for (p = s; p < stop; p++)
		if (!(p == s ? isalpha((unsigned char)*p)
			     : isalnum((unsigned char)*p) || *p == '_'))
			return "a variable name that is not letters, digits and '_'";
	for (i = 0; i < t->n_names; i++)
		if (strlen(t->name[i]) == (size_t)(stop - s) &&
		    !memcmp(t->name[i], s, (size_t)(stop - s)))
			return "a variable twice";
	t->name[t->n_names++] = weft_arena_strndup(c->arena, s, (size_t)(stop - s));
	put(o, "(");
	if (eq)
		bad = inner(o, eq + 1, end, ret_rest);
	else
		put(o, SEGMENT);
	put(o, ")");
	return bad;
}

static const char *compile(struct weft_cfg *c, struct weft_template *t, struct out *o,
			   const char *text)
{
	const char *s = text, *bad = NULL;
	bool rest = false;

	if (*s != '/')
		return "no '/' at its beginning";
	while (*s && !bad) {
		if (rest)
			return "something behind **";
		if (*s == '{') {
			const char *end = strchr(s, '}');

			if (!end)
				return "a '{' without '}'";
			bad = variable(c, t, o, s + 1, end, &rest);
			s = end + 1;
		} else if (*s == '*') {
			rest = s[1] == '*';
			put(o, rest ? REST : SEGMENT);
			s += rest ? 2 : 1;
		} else if (*s == '/' && s[1] == '/') {
			return "an empty segment";
		} else if (*s == '/' || path_char(*s)) {
			put_literal(o, *s++);
		} else {
			return "a character that a path cannot have";
		}
	}
	return bad;
}

int route_template_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			   const struct weft_template **ret)
{
	struct weft_template *t = weft_arena_alloc(c->arena, sizeof(*t));
	struct out o = {.n = 0};
	const char *bad = compile(c, t, &o, text);

	if (!bad && o.full)
		bad = "too many pieces";
	if (bad)
		return weft_cfg_fail(c, at, "must be a URI template, has %s: \"%.80s\"", bad, text);
	*ret = t;
	return weft_regex_compile(c, at, o.s, &t->re);
}

bool route_template_match(const struct weft_template *t, const char *path, size_t n)
{
	return weft_regex_full(t->re, path, n) == WEFT_MATCH_YES;
}

int route_template_rewrite_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
				   const struct weft_template *match,
				   const struct weft_template **ret)
{
	struct weft_template *t = weft_arena_alloc(c->arena, sizeof(*t));
	struct piece *v = weft_arena_alloc(c->arena, (strlen(text) + 1) * sizeof(*v));
	const char *s = text;

	if (*s != '/' || strlen(s) >= TEXT_MAX)
		return weft_cfg_fail(c, at,
				     "must begin with '/' and be shorter than %d, is \"%.80s\"",
				     TEXT_MAX, text);
	text = weft_arena_strdup(c->arena, text);
	for (s = text; *s;) {
		const char *open = strchr(s, '{'), *end = open ? strchr(open, '}') : NULL;
		size_t i, n;

		v[t->n].text = s;
		v[t->n].n = open ? (size_t)(open - s) : strlen(s);
		v[t->n].var = -1;
		if (!open) {
			t->n++;
			break;
		}
		if (!end)
			return weft_cfg_fail(c, at, "has a '{' without '}': \"%.80s\"", text);
		n = (size_t)(end - open - 1);
		for (i = 0; i < match->n_names; i++)
			if (strlen(match->name[i]) == n && !memcmp(match->name[i], open + 1, n))
				v[t->n].var = (int)i;
		if (v[t->n].var < 0)
			return weft_cfg_fail(
				c, at, "names the variable \"%.*s\", which the match does not have",
				(int)n, open + 1);
		t->n++;
		s = end + 1;
	}
	t->v = v;
	*ret = t;
	return 0;
}

const char *route_template_rewrite(const struct weft_template *rewrite,
				   const struct weft_template *match, const char *path, size_t n,
				   struct weft_arena *a, size_t *ret_n)
{
	size_t g[2 * (NAMES_MAX + 1)], have, i, len = 0;
	char *out;

	have = weft_regex_groups(match->re, path, n, g, NAMES_MAX + 1);
	if (!have)
		return NULL;
	out = weft_arena_alloc(a, n * (rewrite->n + 1) + TEXT_MAX);
	for (i = 0; i < rewrite->n; i++) {
		const struct piece *p = &rewrite->v[i];

		memcpy(out + len, p->text, p->n);
		len += p->n;
		if (p->var >= 0 && (size_t)p->var + 1 < have && g[2 * (p->var + 1)] != SIZE_MAX) {
			size_t from = g[2 * (p->var + 1)], to = g[2 * (p->var + 1) + 1];

			memcpy(out + len, path + from, to - from);
			len += to - from;
		}
	}
	*ret_n = len;
	return out;
}
