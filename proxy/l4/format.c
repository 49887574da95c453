/* Format strings of access logs, header values and local replies: text or JSON with Envoy's command
 * operators. */
#include "proxy/l4/format_priv.h"

#include "proxy/core/utf8.h"
#include "xds/tls_conf.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	OPS_MAX = 512,
	JSON_DEPTH_MAX = 16,
	FIRST_BYTES = 2048, /* on the stack */
	TEXT_MAX = 1 << 20  /* bytes a format may give */
};

struct jnode { /* of a JSON format */
	enum { J_OPS, J_OBJECT, J_ARRAY, J_LITERAL } kind;
	const char *key; /* escaped, quoted, with its colon; NULL in arrays */
	size_t key_n;
	const struct fop *ops;
	size_t n;
	const struct jnode *child;
	const char *literal;
};
struct weft_format {
	const struct fop *ops;
	size_t n;
	const struct jnode *json; /* NULL: text */
	bool omit_empty, newline;
	const char *content_type;
};

/* ---- compiling */
static int parse(struct weft_cfg *c, const struct weft_path *at, const char *s,
		 const struct fop **ret, size_t *ret_n)
{
	struct fop *v = weft_xcalloc(OPS_MAX, sizeof(*v));
	const char *start = s, *text = weft_arena_strdup(c->arena, s);
	size_t n = 0;
	int err = 0;

	s = text;
	while (*s && !err) {
		const char *pct = strchr(s, '%'), *end, *args = NULL, *colon;
		size_t name_n, args_n = 0, max = SIZE_MAX;

		if (n + 2 >= OPS_MAX) {
			err = weft_cfg_fail(c, at, "has more than %d pieces", OPS_MAX);
			break;
		}
		if (pct != s) {
			v[n].s = s;
			v[n++].n = pct ? (size_t)(pct - s) : strlen(s);
		}
		if (!pct)
			break;
		if (pct[1] == '%') {
			v[n].s = pct;
			v[n++].n = 1;
			s = pct + 2;
			continue;
		}
		for (name_n = 0; isupper((unsigned char)pct[1 + name_n]) ||
				 isdigit((unsigned char)pct[1 + name_n]) || pct[1 + name_n] == '_';
		     name_n++)
			;
		end = pct + 1 + name_n;
		if (name_n && *end == '(') {
			args = end + 1;
			end = strchr(args, ')');
			if (!end) {
				err = weft_cfg_fail(c, at, "has a '(' without ')' at byte %zu",
						    (size_t)(pct - text));
				break;
			}
			args_n = (size_t)(end - args);
			end++;
		}
		if (*end == ':') {
			char *stop;

			colon = end;
			max = strtoul(colon + 1, &stop, 10);
			if (stop == colon + 1 || !isdigit((unsigned char)colon[1])) {
				err = weft_cfg_fail(c, at,
						    "must have a number behind ':' at byte %zu",
						    (size_t)(colon - text));
				break;
			}
			end = stop;
		}
		if (!name_n || *end != '%') {
			err = weft_cfg_fail(
				c, at,
				"is no format string: '%%' at byte %zu begins no operator, in "
				"\"%.60s\" (a percent sign itself is '%%%%')",
				(size_t)(pct - text), start);
			break;
		}
		err = format_op(c, at, pct + 1, name_n, args, args_n, args != NULL, max, &v[n++]);
		s = end + 1;
	}
	if (!err) {
		*ret = weft_arena_memdup(c->arena, v, (n + 1) * sizeof(*v));
		*ret_n = n;
	}
	free(v);
	return err;
}

static const char *quoted(struct weft_arena *a, const char *s)
{
	char *out = weft_arena_alloc(a, 6 * strlen(s) + 4);
	size_t n = 0;

	out[n++] = '"';
	for (; *s; s++) {
		if (*s == '"' || *s == '\\') {
			out[n++] = '\\';
			out[n++] = *s;
		} else if ((unsigned char)*s < 0x20) {
			n += (size_t)snprintf(out + n, 7, "\\u%04x", *s);
		} else {
			out[n++] = *s;
		}
	}
	out[n++] = '"';
	return out;
}

static int json_value(struct weft_cfg *c, const struct weft_path *at,
		      const Google__Protobuf__Value *v, struct jnode *to, unsigned depth);

static int by_key(const void *a, const void *b)
{
	const Google__Protobuf__Struct__FieldsEntry *const *x = a, *const *y = b;

	return strcmp((*x)->key, (*y)->key);
}

static int json_object(struct weft_cfg *c, const struct weft_path *at,
		       const Google__Protobuf__Struct *s, struct jnode *to, unsigned depth)
{
	struct jnode *child = weft_arena_alloc(c->arena, (s->n_fields + 1) * sizeof(*child));
	const Google__Protobuf__Struct__FieldsEntry **v =
		weft_arena_alloc(c->arena, (s->n_fields + 1) * sizeof(*v));
	size_t i;
	int err = 0;

	to->kind = J_OBJECT;
	to->child = child;
	to->n = s->n_fields;
	/* as Envoy: in the order of the keys */
	for (i = 0; i < s->n_fields; i++)
		v[i] = s->fields[i];
	qsort(v, s->n_fields, sizeof(*v), by_key);
	for (i = 0; i < s->n_fields; i++) {
		struct weft_path p = {at, v[i]->key, -1};

		child[i].key = weft_arena_printf(c->arena, "%s:", quoted(c->arena, v[i]->key));
		child[i].key_n = strlen(child[i].key);
		err |= json_value(c, &p, v[i]->value, &child[i], depth + 1);
	}
	return err;
}

static int json_value(struct weft_cfg *c, const struct weft_path *at,
		      const Google__Protobuf__Value *v, struct jnode *to, unsigned depth)
{
	struct jnode *child;
	size_t i;
	int err = 0;

	if (depth > JSON_DEPTH_MAX)
		return weft_cfg_fail(c, at, "is nested deeper than %d", JSON_DEPTH_MAX);
	switch (v->kind_case) {
	case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
		to->kind = J_OPS;
		return parse(c, at, v->string_value, &to->ops, &to->n);
	case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
		return json_object(c, at, v->struct_value, to, depth);
	case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
		child = weft_arena_alloc(c->arena, (v->list_value->n_values + 1) * sizeof(*child));
		to->kind = J_ARRAY;
		to->child = child;
		to->n = v->list_value->n_values;
		for (i = 0; i < to->n; i++) {
			struct weft_path p = {at->up, at->field, (int)i};

			err |= json_value(c, &p, v->list_value->values[i], &child[i], depth + 1);
		}
		return err;
	case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
		to->kind = J_LITERAL;
		to->literal = weft_arena_printf(c->arena, "%.17g", v->number_value);
		return 0;
	case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
		to->kind = J_LITERAL;
		to->literal = v->bool_value ? "true" : "false";
		return 0;
	default:
		to->kind = J_LITERAL;
		to->literal = "null";
		return 0;
	}
}

int weft_format_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			const struct weft_format **ret)
{
	struct weft_format *f = weft_arena_alloc(c->arena, sizeof(*f));

	f->content_type = "text/plain";
	*ret = f;
	return parse(c, at, text, &f->ops, &f->n);
}

int weft_format_prepare_json(struct weft_cfg *c, const struct weft_path *at,
			     const Google__Protobuf__Struct *s, const struct weft_format **ret)
{
	struct weft_format *f = weft_arena_alloc(c->arena, sizeof(*f));
	struct jnode *root = weft_arena_alloc(c->arena, sizeof(*root));

	f->json = root;
	f->newline = true;
	f->content_type = "application/json";
	*ret = f;
	return json_object(c, at, s, root, 0);
}

int weft_format_prepare_msg(struct weft_cfg *c, const struct weft_path *at,
			    const Envoy__Config__Core__V3__SubstitutionFormatString *m,
			    const struct weft_format **ret)
{
	struct weft_path pt = {at, "text_format", -1}, pj = {at, "json_format", -1},
			 ps = {at, "text_format_source", -1};
	const char *text;
	struct weft_format *f;
	size_t n;
	int err;

	switch (m->format_case) {
	case ENVOY__CONFIG__CORE__V3__SUBSTITUTION_FORMAT_STRING__FORMAT_TEXT_FORMAT:
		err = weft_format_prepare(c, &pt, m->text_format, ret);
		break;
	case ENVOY__CONFIG__CORE__V3__SUBSTITUTION_FORMAT_STRING__FORMAT_TEXT_FORMAT_SOURCE:
		if (m->text_format_source->watched_directory)
			return weft_cfg_fail(c, &ps,
					     "watched_directory: is not supported here: the file "
					     "is read once");
		text = weft_data_source(c, &ps, m->text_format_source, "format", &n);
		if (!text)
			return -EINVAL;
		if (strlen(text) != n)
			return weft_cfg_fail(c, &ps, "must have no NUL byte");
		err = weft_format_prepare(c, &ps, text, ret);
		break;
	case ENVOY__CONFIG__CORE__V3__SUBSTITUTION_FORMAT_STRING__FORMAT_JSON_FORMAT:
		err = weft_format_prepare_json(c, &pj, m->json_format, ret);
		break;
	default:
		return weft_cfg_fail(c, at,
				     "must have one of text_format_source, json_format; has none");
	}
	if (err)
		return err;
	f = (struct weft_format *)*ret;
	f->omit_empty = m->omit_empty_values;
	if (m->content_type && *m->content_type)
		f->content_type = weft_arena_strdup(c->arena, m->content_type);
	return 0;
}

bool weft_format_is_json(const struct weft_format *f)
{
	return f->json != NULL;
}

const char *weft_format_content_type(const struct weft_format *f)
{
	return f->content_type;
}

/* ---- writing */
void fbuf_grow(struct fbuf *b, size_t n)
{
	size_t cap = b->cap * 2;
	char *p;

	if (b->cut || n > b->max || b->n > b->max - n) {
		b->cut = true;
		b->cap = b->n; /* nothing more goes in */
		return;
	}
	while (cap < b->n + n)
		cap *= 2;
	p = weft_xrealloc(b->heap ? b->p : NULL, cap);
	if (!b->heap)
		memcpy(p, b->p, b->n);
	b->p = p;
	b->cap = cap;
	b->heap = true;
}

void fbuf_number(struct fbuf *b, int64_t v)
{
	uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
	char text[24];
	size_t at = sizeof(text);

	do
		text[--at] = (char)('0' + u % 10);
	while (u /= 10);
	if (v < 0)
		text[--at] = '-';
	fbuf_add(b, text + at, sizeof(text) - at);
}

static void put_double(struct fbuf *out, double d)
{
	char text[40];

	if (d == floor(d) && fabs(d) < 1e15)
		fbuf_number(out, (int64_t)d);
	else
		fbuf_add(out, text, (size_t)snprintf(text, sizeof(text), "%.17g", d));
}

static void read_op(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	v->kind = FV_NONE;
	v->n = 0;
	if (!op->read) {
		v->kind = FV_STRING;
		v->s = op->s;
		v->n = op->n;
		return;
	}
	op->read(op, in, v);
	if (v->kind == FV_STRING && v->n > op->max)
		v->n = op->max;
}

/* Inside of text a string of metadata is a string like any other. */
static void read_text(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	read_op(op, in, v);
	if (v->kind != FV_STRUCT || v->v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE)
		return;
	v->kind = FV_STRING;
	v->s = v->v->string_value;
	v->n = strlen(v->s);
	if (v->n > op->max)
		v->n = op->max;
}

/* As Envoy: bytes of what is not UTF-8 are told as if they were Latin-1. */
static void json_text(struct fbuf *out, const char *s, size_t n)
{
	const bool latin1 = !weft_utf8_is(s, n);
	size_t i, from = 0;
	char esc[8];

	for (i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)s[i];
		const char *e = ch == '"'    ? "\\\""
				: ch == '\\' ? "\\\\"
				: ch == '\n' ? "\\n"
				: ch == '\r' ? "\\r"
				: ch == '\t' ? "\\t"
					     : NULL;

		if (!e && ch >= 0x20 && ch != 0x7f && !(latin1 && ch >= 0x80))
			continue;
		if (!e) {
			snprintf(esc, sizeof(esc), "\\u%04x", ch);
			e = esc;
		}
		fbuf_add(out, s + from, i - from);
		fbuf_add(out, e, strlen(e));
		from = i + 1;
	}
	fbuf_add(out, s + from, n - from);
}

static void json_struct(struct fbuf *out, const Google__Protobuf__Value *v, unsigned depth)
{
	size_t i;

	if (depth > JSON_DEPTH_MAX) {
		fbuf_add(out, "null", 4);
		return;
	}
	switch (v->kind_case) {
	case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
		fbuf_add(out, "\"", 1);
		json_text(out, v->string_value, strlen(v->string_value));
		fbuf_add(out, "\"", 1);
		return;
	case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
		put_double(out, v->number_value);
		return;
	case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
		fbuf_add(out, v->bool_value ? "true" : "false", v->bool_value ? 4 : 5);
		return;
	case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
		fbuf_add(out, "{", 1);
		for (i = 0; i < v->struct_value->n_fields; i++) {
			const char *k = v->struct_value->fields[i]->key;

			fbuf_add(out, i ? ",\"" : "\"", i ? 2 : 1);
			json_text(out, k, strlen(k));
			fbuf_add(out, "\":", 2);
			json_struct(out, v->struct_value->fields[i]->value, depth + 1);
		}
		fbuf_add(out, "}", 1);
		return;
	case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
		fbuf_add(out, "[", 1);
		for (i = 0; i < v->list_value->n_values; i++) {
			if (i)
				fbuf_add(out, ",", 1);
			json_struct(out, v->list_value->values[i], depth + 1);
		}
		fbuf_add(out, "]", 1);
		return;
	default:
		fbuf_add(out, "null", 4);
	}
}

static void text_value(struct fbuf *out, const struct fval *v, bool omit_empty)
{
	switch (v->kind) {
	case FV_STRING:
		fbuf_add(out, v->s, v->n);
		break;
	case FV_NUMBER:
		fbuf_number(out, v->num);
		break;
	case FV_STRUCT:
		json_struct(out, v->v, 0);
		break;
	default:
		if (!omit_empty)
			fbuf_add(out, "-", 1);
	}
}

/* A struct inside a JSON string: its quotes are escaped. */
static void json_quoted(struct fbuf *out, const struct fval *v)
{
	char first[FIRST_BYTES];
	struct fbuf b = {.p = first, .cap = sizeof(first), .max = TEXT_MAX};

	text_value(&b, v, false);
	json_text(out, b.p, b.n);
	if (b.heap)
		free(b.p);
}

/* omit_empty_values leaves keys as they are, in Envoy, too: only texts of several operators have
 * nothing in the place of what is empty. */
static void json_node(const struct weft_format *f, const struct jnode *j,
		      const struct weft_format_in *in, struct fbuf *out)
{
	struct fval v;
	size_t i;

	switch (j->kind) {
	case J_LITERAL:
		fbuf_add(out, j->literal, strlen(j->literal));
		return;
	case J_OBJECT:
	case J_ARRAY:
		fbuf_add(out, j->kind == J_OBJECT ? "{" : "[", 1);
		for (i = 0; i < j->n; i++) {
			if (i)
				fbuf_add(out, ",", 1);
			if (j->child[i].key)
				fbuf_add(out, j->child[i].key, j->child[i].key_n);
			json_node(f, &j->child[i], in, out);
		}
		fbuf_add(out, j->kind == J_OBJECT ? "}" : "]", 1);
		return;
	case J_OPS:
		break;
	}
	if (j->n == 1) { /* a lone operator keeps its type */
		read_op(&j->ops[0], in, &v);
		if (v.kind == FV_NONE) {
			fbuf_add(out, "null", 4);
		} else if (v.kind == FV_NUMBER) {
			fbuf_number(out, v.num);
		} else if (v.kind == FV_STRUCT) {
			json_struct(out, v.v, 0);
		} else {
			fbuf_add(out, "\"", 1);
			json_text(out, v.s, v.n);
			fbuf_add(out, "\"", 1);
		}
		return;
	}
	fbuf_add(out, "\"", 1);
	for (i = 0; i < j->n; i++) {
		read_text(&j->ops[i], in, &v);
		if (v.kind == FV_STRING)
			json_text(out, v.s, v.n);
		else if (v.kind == FV_STRUCT)
			json_quoted(out, &v);
		else
			text_value(out, &v, f->omit_empty);
	}
	fbuf_add(out, "\"", 1);
}

/* What a peer's certificate says may have any bytes: none of them begins another line. */
static void put_names(struct fbuf *out, const struct fval *v)
{
	for (size_t i = 0; i < v->n; i++)
		fbuf_add(out, iscntrl((unsigned char)v->s[i]) ? "_" : v->s + i, 1);
}

void format_put(const struct weft_format *f, const struct weft_format_in *in, struct fbuf *out)
{
	struct fval v;
	size_t i;

	if (f->json) {
		json_node(f, f->json, in, out);
		if (f->newline)
			fbuf_add(out, "\n", 1);
		return;
	}
	for (i = 0; i < f->n; i++) {
		if (!f->ops[i].read) {
			fbuf_add(out, f->ops[i].s, f->ops[i].n);
			continue;
		}
		read_text(&f->ops[i], in, &v);
		if (f->ops[i].read == fop_tls && v.kind == FV_STRING)
			put_names(out, &v);
		else
			text_value(out, &v, f->omit_empty);
	}
}

void weft_format_write(const struct weft_format *f, const struct weft_format_in *in,
		       struct evbuffer *out)
{
	char first[FIRST_BYTES];
	struct fbuf b = {.p = first, .cap = sizeof(first), .max = TEXT_MAX};

	format_put(f, in, &b);
	evbuffer_add(out, b.p, b.n);
	if (b.heap)
		free(b.p);
}

const char *weft_format_string(const struct weft_format *f, const struct weft_format_in *in,
			       struct weft_arena *a, size_t *ret_n, bool *ret_empty)
{
	char first[FIRST_BYTES], *s;
	struct fbuf b = {.p = first, .cap = sizeof(first), .max = TEXT_MAX};
	struct fval v;
	size_t i;

	*ret_empty = true;
	if (f->json) {
		*ret_empty = false;
		format_put(f, in, &b);
	}
	for (i = 0; !f->json && i < f->n; i++) {
		read_text(&f->ops[i], in, &v);
		if (v.kind != FV_NONE)
			*ret_empty = false;
		text_value(&b, &v,
			   true); /* header values have nothing in the place of what is empty */
	}
	*ret_n = b.n;
	s = weft_arena_strndup(a, b.p, b.n);
	if (b.heap)
		free(b.p);
	return s;
}
