/* Inside of format*.c only: command operators. */
#pragma once
#include "proxy/l4/als.h"

enum { FVAL_TEXT = 512 };
struct fval {
	enum { FV_NONE, FV_STRING, FV_NUMBER, FV_STRUCT } kind;
	const char *s; /* may point into text */
	size_t n;
	int64_t num;
	const Google__Protobuf__Value *v; /* FV_STRUCT */
	char text[FVAL_TEXT];
};
struct fop;
typedef void fop_read(const struct fop *op, const struct weft_format_in *in, struct fval *v);
struct fop {
	fop_read *read;	     /* NULL: literal text */
	const char *s, *alt; /* literal; header names; first argument */
	size_t n;
	enum weft_hid id, alt_id;
	const char *const *path; /* NULL-terminated: metadata keys */
	unsigned arg;		 /* what kind, of a family of operators */
	size_t max;		 /* ":Z"; 0: whole */
};
/* One operator "%NAME(args):max%" without its percent signs. -EINVAL: the error was added. */
int format_op(struct weft_cfg *c, const struct weft_path *at, const char *name, size_t name_n,
	      const char *args, size_t args_n, bool has_args, size_t max, struct fop *op);
