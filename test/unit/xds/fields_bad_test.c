/* A bad configuration of every field that is acted on: a value of a wrong form, and one beyond each
 * of its rules. What is said of each must be the line in test/golden/fields/errors.txt. Folder:
 * WEFT_GOLDEN_DIR, else test/golden. WEFT_GOLDEN_UPDATE=1 writes it anew. */
#include "test/unit/xds/pages.h"
#include "xds/wire.h"
#include "xds/yaml.h"
#include "xds/yaml_priv.h"
#include <math.h>

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *e)
{
	return ctx;
}

static const struct weft_err *about(const struct weft_errs *errs, const char *field)
{
	size_t n = strlen(field);

	for (int i = 0; i < errs->n; i++)
		if (!strncmp(errs->v[i].path, field, n) &&
		    (!errs->v[i].path[n] || strchr(".[", errs->v[i].path[n])))
			return &errs->v[i];
	return NULL;
}

/* The first error about a field of a document, from reading it or from the check; false: none. */
static bool refused(const ProtobufCMessageDescriptor *d, const char *field, const char *text,
		    char *dst, size_t cap)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = a, .errs = &errs, .file = true};
	struct weft_yaml_doc *docs = NULL;
	const struct weft_err *e;
	size_t n = 0;

	weft_yaml_decode_partial(a, "", text, strlen(text), pick, (void *)d, &docs, &n, &errs);
	for (size_t i = 0; i < n && !errs.n; i++) {
		c.marks = docs[i].marks;
		weft_cfg_check(&c, NULL, docs[i].msg);
	}
	e = about(&errs, field);
	if (e)
		snprintf(dst, cap, "%s: %s", e->path, e->msg);
	weft_arena_free(a);
	return e;
}

/* A text of which much is one letter is shown by its length. */
static void print(FILE *out, const ProtobufCMessageDescriptor *d, const char *yaml,
		  const char *error)
{
	if (strlen(yaml) > 100)
		fprintf(out, "%s\t%.40s... (%zu bytes)\t%s\n", d->name, yaml, strlen(yaml), error);
	else
		fprintf(out, "%s\t%s\t%s\n", d->name, yaml, error);
}

struct bad {
	FILE *out;
	const ProtobufCMessageDescriptor *d;
	const struct cfg_field *f;
	size_t n, missed;
};

static void try(struct bad *b, const char *value)
{
	char *yaml, error[700];

	assert_true(asprintf(&yaml, "%s: %s", b->f->f->name, value) > 0);
	b->n++;
	if (refused(b->d, b->f->f->name, yaml, error, sizeof(error))) {
		print(b->out, b->d, yaml, error);
	} else {
		fprintf(stderr, "%s takes %.100s\n", b->d->name, yaml);
		b->missed++;
	}
	free(yaml);
}

/* No value that its form could have. */
static const char *wrong_form(const struct cfg_field *f)
{
	ProtobufCType t = f->f->type;

	if (f->form == CFG_MAP)
		return "[1]";
	if (f->f->label == PROTOBUF_C_LABEL_REPEATED)
		return "7";
	if (f->form == CFG_DURATION)
		return "soon";
	if (f->form == CFG_WRAPPER)
		t = ((const ProtobufCMessageDescriptor *)f->f->descriptor)->fields[0].type;
	switch (t) {
	case PROTOBUF_C_TYPE_STRING:
		return "[1]";
	case PROTOBUF_C_TYPE_BYTES:
		return "\"a b\"";
	case PROTOBUF_C_TYPE_MESSAGE:
		return "[1]";
	case PROTOBUF_C_TYPE_ENUM:
		return "NO_SUCH_NAME";
	default:
		return "many";
	}
}

/* Where a value stands: by itself, as the item of a list, as the key or a value of a map. */
enum place { ALONE, ITEM, KEY };
static void try_at(struct bad *b, enum place place, const char *value)
{
	char *text;

	if (place == ALONE)
		text = strdup(value);
	else if (b->f->form == CFG_MAP)
		assert_true(asprintf(&text, place == KEY ? "{%s: {}}" : "{k: %s}", value) > 0);
	else
		assert_true(asprintf(&text, "[%s]", value) > 0);
	assert_non_null(text);
	try(b, text);
	free(text);
}

static void beyond_text(struct bad *b, enum place place, const struct cfg_rule *r)
{
	size_t n = (size_t)r->number;
	char *s;

	switch (r->kind) {
	case RULE_MIN_LEN:
		if (!n--)
			return;
		break;
	case RULE_MAX_LEN:
		n++;
		break;
	case RULE_HEADER_NAME:
		try_at(b, place, "\"a b\"");
		return;
	case RULE_HEADER_VALUE:
		try_at(b, place, "\"a\\nb\"");
		return;
	case RULE_NOT_CONTAINS:
		assert_true(asprintf(&s, "\"%s\"", r->text) > 0);
		try_at(b, place, s);
		free(s);
		return;
	default:
		try_at(b, place, "\" ?\"");
		return;
	}
	s = malloc(n + 3);
	assert_non_null(s);
	memset(s, 'x', n + 2);
	s[0] = s[n + 1] = '"';
	s[n + 2] = 0;
	try_at(b, place, s);
	free(s);
}

static void beyond_number(struct bad *b, enum place place, const struct cfg_rule *r)
{
	bool duration = r->kind >= RULE_DUR_GT && r->kind <= RULE_DUR_LTE;
	double v = r->number;
	char text[64];

	if (r->kind == RULE_GTE || r->kind == RULE_DUR_GTE)
		v -= 1;
	if (r->kind == RULE_LTE || r->kind == RULE_DUR_LTE || r->kind == RULE_CONST)
		v += 1;
	if (duration)
		snprintf(text, sizeof(text), "\"%s%lld.%09llds\"", v < 0 ? "-" : "",
			 llabs((long long)v) / 1000000000, llabs((long long)v) % 1000000000);
	else
		snprintf(text, sizeof(text), "%.15g", v);
	try_at(b, place, text);
}

static void beyond_items(struct bad *b, const struct cfg_rule *r)
{
	size_t n = r->kind == RULE_MIN_ITEMS ? (size_t)r->number - 1 : (size_t)r->number + 1, got;
	bool plain = b->f->form == CFG_SCALAR;
	char *text = NULL;
	FILE *out = open_memstream(&text, &got);

	assert_non_null(out);
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s%s", i ? ", " : "[", plain ? "\"1\"" : "{}");
	fputs(n ? "]" : "[]", out);
	assert_int_equal(fclose(out), 0);
	try(b, text);
	free(text);
}

static void beyond(struct bad *b, enum place place, struct cfg_rules rules)
{
	for (size_t i = 0; i < rules.n; i++) {
		const struct cfg_rule *r = &rules.v[i];

		switch (r->kind) {
		case RULE_GT:
		case RULE_GTE:
		case RULE_LT:
		case RULE_LTE:
		case RULE_DUR_GT:
		case RULE_DUR_GTE:
		case RULE_DUR_LT:
		case RULE_DUR_LTE:
		case RULE_CONST:
		case RULE_NOT_IN:
			beyond_number(b, place, r);
			break;
		case RULE_DEFINED:
			try_at(b, place, "4711");
			break;
		case RULE_MIN_ITEMS:
		case RULE_MAX_ITEMS:
			beyond_items(b, r);
			break;
		case RULE_UNIQUE:
			try_at(b, place,
			       b->f->f->type == PROTOBUF_C_TYPE_STRING ? "[\"a\", \"a\"]"
								       : "[1, 1]");
			break;
		case RULE_ANY_OF:
			try_at(b, place, "{\"@type\": type.googleapis.com/google.protobuf.Empty}");
			break;
		case RULE_REQUIRED: /* a member of a oneof that is not set is another member */
			if (!(b->f->f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
				try_at(b, place, b->f->form == CFG_SCALAR ? "\"\"" : "null");
			break;
		case RULE_ONEOF:
		case RULE_IGNORE_EMPTY:
			break;
		default:
			beyond_text(b, place, r);
		}
	}
}

/* Whether one of the blank-separated fields is acted on. */
static bool is_acted(const struct cfg_kind *k, const char *fields)
{
	for (unsigned i = 0; i < k->d->n_fields; i++)
		if (k->fields[i].class == CFG_ACTED &&
		    cfg_word(fields, k->d->fields[i].name, strlen(k->d->fields[i].name)))
			return true;
	return false;
}

/* A message with none of the fields of which one is required. */
static bool nothing(FILE *out, const ProtobufCMessageDescriptor *d, const char *fields)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = a, .errs = &errs};
	ProtobufCMessage *m = weft_arena_alloc(a, d->sizeof_message);
	bool found = false;

	weft_message_init(d, m);
	weft_cfg_check(&c, NULL, m);
	for (int i = 0; i < errs.n && !found; i++) {
		found = !*errs.v[i].path && strstr(errs.v[i].msg, "one of");
		if (found)
			print(out, d, "{}", errs.v[i].msg);
	}
	weft_arena_free(a);
	return found;
}

static void of_message(FILE *out, const ProtobufCMessageDescriptor *d, size_t *missed)
{
	const struct cfg_kind *k = cfg_kind_of(d);

	for (unsigned i = 0; i < d->n_fields; i++) {
		struct bad b = {.out = out, .d = d, .f = &k->fields[i]};

		if (b.f->class != CFG_ACTED)
			continue;
		if (b.f->f->descriptor != &google__protobuf__value__descriptor)
			try(&b, wrong_form(b.f)); /* each form is one that a Value can have */
		beyond(&b, ALONE, b.f->rules);
		beyond(&b, ITEM, b.f->items);
		beyond(&b, KEY, b.f->keys);
		*missed += b.missed;
	}
	for (size_t i = 0; i < k->rules.n; i++)
		if (k->rules.v[i].kind == RULE_ONEOF && is_acted(k, k->rules.v[i].text))
			*missed += !nothing(out, d, k->rules.v[i].text);
}

static void test_fields(void **state)
{
	const char *dir = getenv("WEFT_GOLDEN_DIR");
	size_t n, missed = 0;
	char *text = NULL, at[PATH_MAX];
	FILE *out = open_memstream(&text, &n);

	assert_non_null(out);
	for (size_t i = 0; i < n_all; i++)
		if (is_told(all[i]))
			of_message(out, all[i], &missed);
	assert_int_equal(fclose(out), 0);
	assert_int_equal(missed, 0);
	snprintf(at, sizeof(at), "%s/fields", dir ? dir : "test/golden");
	page_compare(at, "errors.txt", text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_fields)};

	return cmocka_run_group_tests(tests, types_setup, NULL);
}
