#include "xds/yaml_priv.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { ANCHORS_MAX = 1000, DIRECTIVES_MAX = 100 };

struct anchor {
	const char *name;
	uint32_t start;
	bool open; /* its node has not ended */
};
struct yaml_reader {
	yaml_parser_t p;
	const char *file;
	size_t chars; /* in the text, less blanks at its end: an error from there on means it was
			 cut */
	char *copy;   /* of the text, where it had to be changed; owned */
	bool many_directives;
	const char *text;
	size_t n;
	struct anchor *anchors;
	size_t n_anchors;
	struct weft_arena *a;
	struct yaml_keeper keeper;
	struct weft_err *err;
};

void yaml_err_place(struct weft_err *e, const char *file, int line, int col)
{
	size_t len = strlen(file), room = sizeof(e->where) - 32;

	if (len > room)
		file += len - room;
	if (line > 0)
		snprintf(e->where, sizeof(e->where), "%s:%d:%d", file, line, col);
	else
		snprintf(e->where, sizeof(e->where), "%s", file);
}

static int fail(struct yaml_reader *r, int line, int col, int code, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
static int fail(struct yaml_reader *r, int line, int col, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	weft_vfail(r->err, NULL, code, fmt, ap);
	va_end(ap);
	if (r->err)
		yaml_err_place(r->err, r->file, line, col);
	return -code;
}

static int hex4(const char *p)
{
	int v = 0;

	for (int i = 0; i < 4; i++) {
		const char *digits = "0123456789abcdef", *d;

		d = p[i] ? strchr(digits, p[i] | 0x20) : NULL;
		if (!d || (p[i] < '0'))
			return -1;
		v = v << 4 | (int)(d - digits);
	}
	return v;
}

/* JSON writes characters beyond U+FFFF as two escapes, which YAML does not know: they become
 * \U0010ffff two characters shorter. Returns a copy, or NULL where there is nothing to change. */
static char *join_surrogates(const char *text, size_t *n)
{
	size_t at = 0, out = 0;
	char *copy;

	while (at < *n && text[at] && strchr(" \t\r\n", text[at]))
		at++;
	if (at >= *n || (text[at] != '{' && text[at] != '[') || !memmem(text, *n, "\\u", 2))
		return NULL;
	copy = weft_xcalloc(*n + 1, 1);
	for (size_t i = 0; i < *n;) {
		int hi = -1, lo = -1;

		if (text[i] == '\\' && *n - i >= 12 && text[i + 1] == 'u' && text[i + 6] == '\\' &&
		    text[i + 7] == 'u') {
			hi = hex4(text + i + 2);
			lo = hex4(text + i + 8);
		}
		if (hi >= 0xd800 && hi < 0xdc00 && lo >= 0xdc00 && lo < 0xe000) {
			out += (size_t)sprintf(copy + out, "\\U%08x",
					       0x10000u + (((unsigned)hi & 0x3ff) << 10) +
						       ((unsigned)lo & 0x3ff));
			i += 12;
			continue;
		}
		copy[out++] = text[i];
		if (text[i++] == '\\' && i < *n) /* an escaped backslash begins nothing */
			copy[out++] = text[i++];
	}
	*n = out;
	return copy;
}

/* libyaml compares each %TAG with all before it. */
static bool many_directives(const char *text, size_t n)
{
	int count = 0;

	for (const char *p = text; p && p < text + n && count <= DIRECTIVES_MAX;
	     p = memchr(p, '\n', (size_t)(text + n - p)), p = p ? p + 1 : NULL)
		count += *p == '%';
	return count > DIRECTIVES_MAX;
}

struct yaml_reader *yaml_reader_new(const char *file, const char *text, size_t n)
{
	struct yaml_reader *r = weft_xcalloc(1, sizeof(*r));
	size_t end = n;

	if (!yaml_parser_initialize(&r->p))
		abort(); /* memory */
	if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
		text += 3;
		end = n -= 3;
	}
	r->copy = join_surrogates(text, &n);
	if (r->copy) {
		text = r->copy;
		end = n;
	}
	r->many_directives = many_directives(text, n);
	yaml_parser_set_encoding(&r->p, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r->p, (const unsigned char *)text, n);
	r->file = file;
	r->text = text;
	r->n = n;
	while (end && strchr(" \t\r\n", text[end - 1]) && text[end - 1])
		end--;
	for (size_t i = 0; i < end; i++)
		r->chars += ((unsigned char)text[i] & 0xc0) != 0x80;
	r->anchors = weft_xcalloc(ANCHORS_MAX, sizeof(*r->anchors));
	return r;
}

void yaml_reader_free(struct yaml_reader *r)
{
	yaml_parser_delete(&r->p);
	free(r->copy);
	free(r->anchors);
	free(r);
}

/* libyaml's reader (encoding, control bytes) tells an offset only. */
static int reader_error(struct yaml_reader *r)
{
	int line = 1, col = 1;
	size_t at = r->p.problem_offset < r->n ? r->p.problem_offset : r->n;

	for (size_t i = 0; i < at; i++) {
		if (r->text[i] == '\n') {
			line++;
			col = 1;
		} else if (((unsigned char)r->text[i] & 0xc0) != 0x80) {
			col++;
		}
	}
	if (at < r->n && r->text[at] == '\0')
		return fail(r, line, col, EINVAL, "a NUL byte is not text");
	if (r->p.problem_value >= 0)
		return fail(r, line, col, EINVAL, "%s: byte 0x%02x", r->p.problem,
			    (unsigned)r->p.problem_value);
	return fail(r, line, col, EINVAL, "%s", r->p.problem);
}

static int syntax_error(struct yaml_reader *r)
{
	const yaml_parser_t *p = &r->p;
	int line = (int)p->problem_mark.line + 1, col = (int)p->problem_mark.column + 1;
	const char *context = p->context ? p->context : "";
	char since[48] = "";

	if (p->error == YAML_MEMORY_ERROR)
		return fail(r, 0, 0, ENOMEM, "out of memory");
	if (p->error == YAML_READER_ERROR)
		return reader_error(r);
	if (p->context)
		snprintf(since, sizeof(since), " begun at %d:%d", (int)p->context_mark.line + 1,
			 (int)p->context_mark.column + 1);
	return fail(r, line, col, EINVAL, "%s%s%s%s%s",
		    p->problem_mark.index >= r->chars ? "the file ends too early: " : "",
		    p->problem ? p->problem : "syntax error", *context ? " " : "", context, since);
}

static struct yev *push(struct yaml_events *ev, const yaml_event_t *e, enum yev_type type)
{
	struct yev *y;

	if (ev->n == ev->cap) {
		ev->cap = ev->cap ? ev->cap * 2 : 64;
		ev->v = weft_xrealloc(ev->v, ev->cap * sizeof(*ev->v));
	}
	y = &ev->v[ev->n++];
	*y = (struct yev){.type = type,
			  .line = (int)e->start_mark.line + 1,
			  .col = (unsigned)e->start_mark.column + 1,
			  .next = (uint32_t)ev->n};
	return y;
}

static int note_anchor(struct yaml_reader *r, const yaml_char_t *name, const struct yaml_events *ev,
		       bool open)
{
	const struct yev *y = &ev->v[ev->n - 1];

	if (!name)
		return 0;
	if (r->n_anchors == ANCHORS_MAX)
		return fail(r, y->line, y->col, E2BIG, "a document may have %d anchors",
			    ANCHORS_MAX);
	r->anchors[r->n_anchors++] = (struct anchor){weft_arena_strdup(r->a, (const char *)name),
						     (uint32_t)(ev->n - 1), open};
	return 0;
}

static int alias(struct yaml_reader *r, struct yaml_events *ev, const yaml_event_t *e)
{
	struct yev *y = push(ev, e, YEV_ALIAS);
	const char *name = (const char *)e->data.alias.anchor;

	for (size_t i = r->n_anchors; i-- > 0;) {
		if (strcmp(r->anchors[i].name, name))
			continue;
		if (r->anchors[i].open)
			return fail(r, y->line, y->col, ELOOP,
				    "alias *%.40s stands inside its own anchor", name);
		y->target = r->anchors[i].start;
		return 0;
	}
	return fail(r, y->line, y->col, EINVAL, "alias *%.40s has no anchor before it", name);
}

/* Only the tags every YAML reader knows; !!str makes a plain scalar a string. */
static int check_tag(struct yaml_reader *r, struct yev *y, const yaml_char_t *tag)
{
	static const char *const known[] = {
		YAML_STR_TAG,	YAML_NULL_TAG, YAML_BOOL_TAG, YAML_INT_TAG,
		YAML_FLOAT_TAG, YAML_SEQ_TAG,  YAML_MAP_TAG,  "!"};

	if (!tag)
		return 0;
	if (!strcmp((const char *)tag, YAML_STR_TAG) || !strcmp((const char *)tag, "!"))
		y->plain = false;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp((const char *)tag, known[i]))
			return 0;
	return fail(r, y->line, y->col, EINVAL, "tag %.60s is not supported", (const char *)tag);
}

const char *yaml_keep(struct yaml_keeper *k, const char *s, size_t n)
{
	uint32_t h = (uint32_t)n;
	struct yaml_kept *e;

	if (n > YAML_KEPT_LEN_MAX)
		return weft_arena_memdup(k->a, s, n + 1); /* may hold NUL */
	for (size_t i = 0; i < n; i++)
		h = h * 31 + (unsigned char)s[i];
	e = &k->v[(h ^ h >> 15) % YAML_KEPT_MAX];
	if (!e->s || e->n != n || memcmp(e->s, s, n) != 0)
		*e = (struct yaml_kept){weft_arena_memdup(k->a, s, n + 1), n};
	return e->s;
}

static int scalar(struct yaml_reader *r, struct yaml_events *ev, const yaml_event_t *e)
{
	struct yev *y = push(ev, e, YEV_SCALAR);

	y->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	y->n = (uint32_t)e->data.scalar.length;
	y->v = yaml_keep(&r->keeper, (const char *)e->data.scalar.value, y->n);
	return check_tag(r, y, e->data.scalar.tag);
}

/* A container that is not closed. */
struct level {
	uint32_t start;
	size_t anchor; /* index + 1; 0: none */
};

static void close_level(struct yaml_reader *r, struct yaml_events *ev, const yaml_event_t *e,
			const struct level *l)
{
	push(ev, e, YEV_END);
	ev->v[l->start].next = (uint32_t)ev->n;
	if (l->anchor)
		r->anchors[l->anchor - 1].open = false;
}

static int take(struct yaml_reader *r, struct yaml_events *ev, const yaml_event_t *e,
		struct level *open, int *depth)
{
	const yaml_char_t *anchor = NULL, *tag = NULL;
	struct yev *y;
	int ret;

	switch (e->type) {
	case YAML_ALIAS_EVENT:
		return alias(r, ev, e);
	case YAML_SCALAR_EVENT:
		ret = scalar(r, ev, e);
		return ret < 0 ? ret : note_anchor(r, e->data.scalar.anchor, ev, false);
	case YAML_SEQUENCE_START_EVENT:
		anchor = e->data.sequence_start.anchor;
		tag = e->data.sequence_start.tag;
		y = push(ev, e, YEV_LIST);
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = e->data.mapping_start.anchor;
		tag = e->data.mapping_start.tag;
		y = push(ev, e, YEV_MAP);
		break;
	default: /* the end of a sequence or mapping */
		close_level(r, ev, e, &open[--*depth]);
		return 0;
	}
	if (*depth == WEFT_YAML_DEPTH_MAX)
		return fail(r, y->line, y->col, E2BIG, "nested deeper than %d levels",
			    WEFT_YAML_DEPTH_MAX);
	ret = check_tag(r, y, tag);
	if (ret == 0)
		ret = note_anchor(r, anchor, ev, true);
	open[(*depth)++] = (struct level){(uint32_t)(ev->n - 1), anchor ? r->n_anchors : 0};
	return ret;
}

int yaml_reader_next(struct yaml_reader *r, struct weft_arena *a, struct yaml_events *ev,
		     struct weft_err *reterr)
{
	struct level open[WEFT_YAML_DEPTH_MAX];
	int depth = 0, ret = 0;
	yaml_event_t e;

	r->a = a;
	r->err = reterr;
	r->n_anchors = 0;
	r->keeper = (struct yaml_keeper){.a = a};
	ev->n = 0;
	if (r->many_directives)
		return fail(r, 0, 0, E2BIG,
			    "a file may have %d directives (lines that begin with %%)",
			    DIRECTIVES_MAX);
	for (;;) {
		if (!yaml_parser_parse(&r->p, &e))
			return syntax_error(r);
		switch (e.type) {
		case YAML_STREAM_START_EVENT:
			break;
		case YAML_DOCUMENT_START_EVENT:
			ev->line = (int)e.start_mark.line + 1;
			break;
		case YAML_STREAM_END_EVENT:
		case YAML_NO_EVENT:
			yaml_event_delete(&e);
			return 0;
		case YAML_DOCUMENT_END_EVENT:
			ev->end_line = (int)e.end_mark.line + 1;
			yaml_event_delete(&e);
			return 1;
		default:
			ret = take(r, ev, &e, open, &depth);
			if (ret == 0 && ev->n > YAML_EVENTS_MAX)
				ret = fail(r, ev->v[ev->n - 1].line, ev->v[ev->n - 1].col, E2BIG,
					   "a document may have %d values", YAML_EVENTS_MAX);
		}
		yaml_event_delete(&e);
		if (ret < 0)
			return ret;
	}
}
