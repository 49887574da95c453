/* One value of x-forwarded-client-cert: elements with ',' between, each of pairs with ';' between;
 * of those that have the key the first, for it is the oldest. */
#include "proxy/l4/format_priv.h"

#include <strings.h>

struct piece {
	const char *s;
	size_t n;
};

/* Up to a separator that is not in quotes, and past it. False: none is left, or quotes stay open.
 */
static bool next(struct piece *rest, char sep, struct piece *ret)
{
	size_t i, slashes = 0;
	bool in = false;

	if (!rest->s)
		return false;
	for (i = 0; i < rest->n && (in || rest->s[i] != sep); i++) {
		if (rest->s[i] == '"' && slashes % 2 == 0)
			in = !in;
		slashes = rest->s[i] == '\\' ? slashes + 1 : 0;
	}
	*ret = (struct piece){rest->s, i};
	if (i < rest->n)
		*rest = (struct piece){rest->s + i + 1, rest->n - i - 1};
	else
		*rest = (struct piece){NULL, 0};
	return !in;
}

static bool blank(char c)
{
	return c && strchr(" \t\n\v\f\r", c);
}

static struct piece trim(const char *s, size_t n)
{
	for (; n && blank(*s); n--)
		s++;
	while (n && blank(s[n - 1]))
		n--;
	return (struct piece){s, n};
}

static void take(struct piece v, struct weft_arena *a, struct fval *to)
{
	char *text;

	if (v.n >= 2 && v.s[0] == '"' && v.s[v.n - 1] == '"')
		v = (struct piece){v.s + 1, v.n - 2};
	to->kind = FV_STRING;
	to->s = v.s;
	to->n = v.n;
	if (!memchr(v.s, '\\', v.n))
		return;
	to->s = text = weft_arena_alloc(a, v.n);
	to->n = 0;
	for (size_t i = 0; i < v.n; i++) {
		if (v.s[i] == '\\' && i + 1 < v.n && (v.s[i + 1] == '"' || v.s[i + 1] == '\\'))
			i++;
		text[to->n++] = v.s[i];
	}
}

void fop_xfcc(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_header *h =
		in->req ? weft_headers_find(in->req, "x-forwarded-client-cert", 0) : NULL;
	struct piece all = {h ? h->value : NULL, h ? h->value_len : 0}, element, pair;

	while (next(&all, ',', &element))
		while (next(&element, ';', &pair)) {
			const char *eq = memchr(pair.s, '=', pair.n);
			size_t n = eq ? (size_t)(eq - pair.s) : pair.n;
			struct piece key = trim(pair.s, n);

			if (key.n != strlen(op->s) || strncasecmp(key.s, op->s, key.n) != 0)
				continue;
			take(eq ? trim(eq + 1, pair.n - n - 1) : (struct piece){"", 0},
			     in->req->arena, v);
			return;
		}
}
