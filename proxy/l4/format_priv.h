/* Inside of format*.c only: command operators. */
#pragma once
#include "proxy/l4/als.h"
#include <string.h>

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
/* A line as it grows: memory of the caller's first, then of the heap. */
struct fbuf {
	char *p;
	size_t n, cap;
	size_t max;	/* bytes; beyond: cut */
	bool cut, heap; /* heap: p is to be freed */
};
void fbuf_grow(struct fbuf *b, size_t n);
static inline void fbuf_add(struct fbuf *b, const char *s, size_t n)
{
	if (n > b->cap - b->n) {
		fbuf_grow(b, n);
		if (n > b->cap - b->n)
			return;
	}
	memcpy(b->p + b->n, s, n);
	b->n += n;
}
void fbuf_number(struct fbuf *b, int64_t v);
void format_put(const struct weft_format *f, const struct weft_format_in *in, struct fbuf *out);

/* strings: every value is a string (json_format of FileAccessLog, before typed_json_format). */
int format_prepare_json(struct weft_cfg *c, const struct weft_path *at,
			const Google__Protobuf__Struct *s, bool strings,
			const struct weft_format **ret);
/* Of trailers, else headers, else the HTTP status; -1: none. */
int format_grpc_status(const struct weft_format_in *in);

/* One operator "%NAME(args):max%" without its percent signs. -EINVAL: the error was added. */
int format_op(struct weft_cfg *c, const struct weft_path *at, const char *name, size_t name_n,
	      const char *args, size_t args_n, bool has_args, size_t max, struct fop *op);
