#include "xds/yaml.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct loader {
	struct weft_arena *a;
	const char *file;
	weft_yaml_pick *pick;
	void *ctx;
	struct weft_yaml_doc *v;
	size_t n, cap;
	struct weft_errs *errs;
	int n_errors;
	bool partial;
};

static void add_error(struct loader *l, const struct weft_err *e)
{
	struct weft_err *slot = weft_errs_next(l->errs);

	l->n_errors++;
	if (slot)
		*slot = *e;
}

/* The text of a field at the top of a document, without decoding it; "" where it is not a string.
 */
static const char *head(const struct yaml_events *ev, const char *name)
{
	uint32_t value;

	if (ev->v[0].type != YEV_MAP)
		return "";
	for (uint32_t i = 1; ev->v[i].type != YEV_END; i = ev->v[value].next) {
		value = ev->v[i].next;
		if (ev->v[i].type == YEV_SCALAR && !strcmp(ev->v[i].v, name) &&
		    ev->v[value].type == YEV_SCALAR && strlen(ev->v[value].v) == ev->v[value].n)
			return ev->v[value].v;
	}
	return "";
}

static bool is_empty(const struct yaml_events *ev)
{
	return ev->n == 0 ||
	       (ev->v[0].type == YEV_SCALAR && yaml_scalar_sort(&ev->v[0]) == YAML_NULL);
}

static void load(struct loader *l, const struct yaml_events *ev)
{
	struct yaml_target t = {.a = l->a,
				.file = l->file,
				.errs = l->errs,
				.n_errors = &l->n_errors,
				.partial = l->partial};
	struct weft_err err = {0};
	struct weft_yaml_doc *doc;
	struct weft_marks *marks;
	ProtobufCMessage *m;

	if (is_empty(ev))
		return;
	yaml_err_place(&err, l->file, ev->v[0].line, ev->v[0].col);
	t.desc = l->pick(l->ctx, head(ev, "apiVersion"), head(ev, "kind"), &t.lenient, &err);
	if (!t.desc) {
		if (!err.code) /* skipped without an error */
			return;
		yaml_err_place(&err, l->file, ev->v[0].line, ev->v[0].col);
		add_error(l, &err);
		return;
	}
	m = yaml_decode_root(&t, ev, &marks);
	if (!m)
		return;
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 8;
		l->v = weft_xrealloc(l->v, l->cap * sizeof(*l->v));
	}
	doc = &l->v[l->n++];
	*doc = (struct weft_yaml_doc){.type = t.desc,
				      .msg = m,
				      .marks = marks,
				      .file = l->file,
				      .line = ev->v[0].line,
				      .end_line = ev->end_line};
}

static void too_big(struct loader *l)
{
	struct weft_err err = {0};

	weft_fail(&err, NULL, E2BIG, "a file may have %d MiB", WEFT_YAML_BYTES_MAX >> 20);
	yaml_err_place(&err, l->file, 0, 0);
	add_error(l, &err);
}

static bool load_json(struct loader *l, const char *text, size_t n, struct yaml_events *ev)
{
	struct weft_arena *scratch = weft_arena_new(0);
	bool ok = yaml_json_read(scratch, text, n, ev);

	if (ok)
		load(l, ev);
	weft_arena_free(scratch);
	return ok;
}

static int decode(struct loader l, const char *file, const char *text, size_t n,
		  struct weft_yaml_doc **ret_docs, size_t *ret_n)
{
	struct weft_arena *a = l.a;
	struct yaml_events ev = {0};
	struct yaml_reader *r;
	struct weft_err err;
	int more = 1;

	l.file = weft_arena_strdup(a, file);
	if (n > WEFT_YAML_BYTES_MAX) {
		too_big(&l);
	} else if (load_json(&l, text, n, &ev)) {
		more = 0;
	} else {
		r = yaml_reader_new(l.file, text, n);
		while (more > 0) {
			struct weft_arena *scratch = weft_arena_new(0);

			memset(&err, 0, sizeof(err));
			more = yaml_reader_next(r, scratch, &ev, &err);
			if (more < 0)
				add_error(&l, &err);
			else if (more > 0)
				load(&l, &ev);
			weft_arena_free(scratch);
		}
		yaml_reader_free(r);
	}
	*ret_docs = l.n ? weft_arena_memdup(a, l.v, l.n * sizeof(*l.v)) : NULL;
	*ret_n = l.n;
	free(l.v);
	free(ev.v);
	return l.n_errors;
}

int weft_yaml_decode(struct weft_arena *a, const char *file, const char *text, size_t n,
		     weft_yaml_pick *pick, void *ctx, struct weft_yaml_doc **ret_docs,
		     size_t *ret_n, struct weft_errs *errs)
{
	struct loader l = {.a = a, .pick = pick, .ctx = ctx, .errs = errs};

	return decode(l, file, text, n, ret_docs, ret_n);
}

int weft_yaml_decode_partial(struct weft_arena *a, const char *file, const char *text, size_t n,
			     weft_yaml_pick *pick, void *ctx, struct weft_yaml_doc **ret_docs,
			     size_t *ret_n, struct weft_errs *errs)
{
	struct loader l = {.a = a, .pick = pick, .ctx = ctx, .errs = errs, .partial = true};

	return decode(l, file, text, n, ret_docs, ret_n);
}
