#include "proxy/core/err.h"

#include <assert.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Levels of a path that are printed: more than wire.c lets a message nest. */
enum { PATH_DEPTH = 72, SUGGEST_NAME_MAX = 64 };

static void path_print(const struct weft_path *at, char *dst, size_t cap)
{
	const struct weft_path *v[PATH_DEPTH];
	size_t n = 0, used = 0;

	for (; at && n < PATH_DEPTH; at = at->up)
		v[n++] = at;
	dst[0] = '\0';
	while (n--) {
		const struct weft_path *p = v[n];
		const char *dot = used && p->field && *p->field ? "." : "";
		int w;

		if (p->idx >= 0)
			w = snprintf(dst + used, cap - used, "%s%s[%d]", dot,
				     p->field ? p->field : "", p->idx);
		else
			w = snprintf(dst + used, cap - used, "%s%s", dot, p->field ? p->field : "");
		if (w < 0 || (size_t)w >= cap - used)
			return;
		used += (size_t)w;
	}
}

int weft_vfail(struct weft_err *e, const struct weft_path *at, int code, const char *fmt,
	       va_list ap)
{
	assert(code > 0);
	if (!e)
		return -code;
	e->code = code;
	e->where[0] = '\0';
	path_print(at, e->path, sizeof(e->path));
	if (vsnprintf(e->msg, sizeof(e->msg), fmt, ap) < 0)
		e->msg[0] = '\0';
	return -code;
}

int weft_fail(struct weft_err *e, const struct weft_path *at, int code, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = weft_vfail(e, at, code, fmt, ap);
	va_end(ap);
	return ret;
}

const char *weft_err_text(const struct weft_err *e, char *dst, size_t cap)
{
	const char *msg = e->msg[0] ? e->msg : e->code ? strerror(e->code) : "no error";

	if (cap)
		snprintf(dst, cap, "%s%s%s%s%s", e->where, e->where[0] ? ": " : "", e->path,
			 e->path[0] ? ": " : "", msg);
	return dst;
}

struct weft_err *weft_errs_next(struct weft_errs *errs)
{
	if (!errs)
		return NULL;
	if (errs->n >= WEFT_ERRS_MAX) {
		if (errs->dropped < INT_MAX)
			errs->dropped++;
		return NULL;
	}
	memset(&errs->v[errs->n], 0, sizeof(errs->v[0]));
	return &errs->v[errs->n++];
}

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;

	return m < c ? m : c;
}

/* Edits to get from a to b: insert, delete, replace, or swap two neighbours. */
static unsigned edits(const char *a, size_t na, const char *b, size_t nb)
{
	unsigned row[3][SUGGEST_NAME_MAX + 1];
	unsigned *before = row[0], *prev = row[1], *cur = row[2], *t;

	for (size_t j = 0; j <= nb; j++)
		prev[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		cur[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			cur[j] = min3(prev[j] + 1, cur[j - 1] + 1,
				      prev[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    before[j - 2] + 1 < cur[j])
				cur[j] = before[j - 2] + 1;
		}
		t = before;
		before = prev;
		prev = cur;
		cur = t;
	}
	return prev[nb];
}

const char *weft_suggest(const char *name, const char *const *candidates, size_t n)
{
	size_t len = strlen(name);
	unsigned best = len <= 4 ? 2 : 3;
	const char *ret = NULL;

	if (!len || len > SUGGEST_NAME_MAX)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		size_t cl = candidates[i] ? strlen(candidates[i]) : 0;
		unsigned d;

		if (!cl || cl > SUGGEST_NAME_MAX)
			continue;
		d = edits(name, len, candidates[i], cl);
		/* a name that shares nothing is no suggestion: "ip" for "no" */
		if (d < best && d < len) {
			best = d;
			ret = candidates[i];
		}
	}
	return ret;
}
