/* Errors that say where, what rule, and what was found. */
#pragma once
#include <stdarg.h>
#include <stddef.h>

/* One level of a field path; lives on the C stack of whoever walks a message. idx < 0: no index. */
struct weft_path {
	const struct weft_path *up;
	const char *field;
	int idx;
};

struct weft_err {
	int code;	/* positive errno; 0: no error */
	char path[320]; /* "clusters[3].weight", may be empty */
	char where[96]; /* "mesh.yaml:41:17" or "cds v17", may be empty */
	char msg[256];	/* rule and value found */
};

/* Fills e (may be NULL) and returns -code. at may be NULL. */
int weft_fail(struct weft_err *e, const struct weft_path *at, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int weft_vfail(struct weft_err *e, const struct weft_path *at, int code, const char *fmt,
	       va_list ap) __attribute__((format(printf, 4, 0)));

/* "where: path: msg" with the parts that are there. Always terminates; returns dst. */
const char *weft_err_text(const struct weft_err *e, char *dst, size_t cap);

/* A bounded list of errors, so that one run reports many. */
enum { WEFT_ERRS_MAX = 20 };
struct weft_errs {
	int n;	     /* kept in v */
	int dropped; /* found beyond WEFT_ERRS_MAX */
	struct weft_err v[WEFT_ERRS_MAX];
};
/* A slot for the next error, or NULL (and dropped grows) when full; errs may be NULL. Pass it as a
 * reterr. */
struct weft_err *weft_errs_next(struct weft_errs *errs);

/* The candidate nearest to name by edit distance, at most 2 edits (1 for short names), or NULL. */
const char *weft_suggest(const char *name, const char *const *candidates, size_t n);
