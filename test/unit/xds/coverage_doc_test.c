/* docs/xds-coverage.md says of every field of every message what becomes of it: made from the
 * descriptors and xds/coverage. Folder: WEFT_DOCS_DIR, else docs. WEFT_GOLDEN_UPDATE=1 writes it
 * anew. And every name in xds/coverage, deprecated.def and rules.def is one that exists. */
#include "test/unit/xds/pages.h"
#include "xds/yaml_priv.h"

static void fields_of(FILE *out, const struct cfg_kind *k, enum cfg_class class, const char *title)
{
	bool any = false;

	for (unsigned i = 0; i < k->d->n_fields; i++) {
		const struct cfg_field *f = &k->fields[i];

		if (f->class != class)
			continue;
		fprintf(out, "%s`%s`%s", any ? ", " : title, f->f->name,
			f->f->flags & PROTOBUF_C_FIELD_FLAG_DEPRECATED ? " (deprecated)" : "");
		any = true;
	}
	if (any)
		fputs("\n", out);
}

static void message_text(FILE *out, const ProtobufCMessageDescriptor *d)
{
	const struct cfg_kind *k = cfg_kind_of(d);

	fprintf(out, "\n### %s\n\n", d->name);
	if (!d->n_fields)
		fputs("- has no fields\n", out);
	fields_of(out, k, CFG_ACTED, "- acted on: ");
	for (unsigned i = 0; i < d->n_fields; i++)
		if (k->fields[i].class == CFG_QUIET)
			fprintf(out, "- without effect: `%s`%s, because: %s\n",
				k->fields[i].f->name,
				k->fields[i].f->flags & PROTOBUF_C_FIELD_FLAG_DEPRECATED
					? " (deprecated)"
					: "",
				k->fields[i].because);
	fields_of(out, k, CFG_REFUSED, "- refused: ");
}

/* Messages that something acted on holds, but of which nothing is: holder and held belong to
 * different areas, or an area is not there yet. */
static void refused_whole(FILE *out, const ProtobufCMessageDescriptor *d, const char *holder)
{
	static const ProtobufCMessageDescriptor *seen[MESSAGES_MAX];
	static size_t n_seen;
	const struct cfg_kind *k = cfg_kind_of(d);
	bool any = !d->n_fields || is_entry(d) || !strncmp(d->name, "google.", 7);

	for (size_t i = 0; i < n_seen; i++)
		if (seen[i] == d)
			return;
	assert_true(n_seen < MESSAGES_MAX);
	seen[n_seen++] = d;
	for (unsigned i = 0; i < d->n_fields; i++)
		any = any || k->fields[i].class != CFG_REFUSED;
	if (!any)
		fprintf(out, "- %s, in %s\n", d->name, holder);
	for (unsigned i = 0; any && i < d->n_fields; i++)
		if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE &&
		    (is_entry(d) || k->fields[i].class == CFG_ACTED))
			refused_whole(out, d->fields[i].descriptor, is_entry(d) ? holder : d->name);
}

static char *make(void)
{
	size_t n, count[3] = {0}, messages = 0;
	const ProtobufCMessageDescriptor *d;
	char *text = NULL;
	FILE *out = open_memstream(&text, &n);

	assert_non_null(out);
	for (size_t i = 0; i < n_all; i++) {
		if (!is_told(all[i]))
			continue;
		messages++;
		for (unsigned k = 0; k < all[i]->n_fields; k++)
			count[cfg_kind_of(all[i])->fields[k].class]++;
	}
	fprintf(out,
		"# What becomes of each field of Envoy's configuration\n\n"
		"Made by test/unit/xds/coverage_doc_test.c from the messages and xds/coverage;\n"
		"`make golden-update` writes it anew.\n\n"
		"Every field that a configuration sets is one of three: **acted on**; **without\n"
		"effect**, for the reason that stands there; **refused** by name, with its place. "
		"A\n"
		"field of an extension (an Any) whose type is not in this list is refused with "
		"the\n"
		"type. A single value of a field that is acted on may still be refused, by "
		"name.\n\n"
		"%zu messages; %zu fields acted on, %zu without effect, %zu refused.\n",
		messages, count[CFG_ACTED], count[CFG_QUIET], count[CFG_REFUSED]);
	fputs("\n## Refused whole\n\nMessages that a field acted on, or an extension, may hold and "
	      "of "
	      "which every field is\nrefused.\n\n",
	      out);
	for (size_t i = 0; (d = weft_cfg_types(i, NULL)); i++)
		if (is_told(d) && !strstr(d->name, "TypedStruct"))
			refused_whole(out, d, "an extension");
	fputs("\n## Messages\n", out);
	for (size_t i = 0; i < n_all; i++)
		if (is_told(all[i]))
			message_text(out, all[i]);
	assert_int_equal(fclose(out), 0);
	return text;
}

static void test_page(void **state)
{
	const char *dir = getenv("WEFT_DOCS_DIR");

	page_compare(dir ? dir : "docs", "xds-coverage.md", make());
}

/* "message.field" of every line, to find what stands twice. */
static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void test_coverage(void **state)
{
	size_t n, n_seen = 0, cap = 0, bad = 0;
	const struct cfg_cover *v = cfg_covers(&n);
	char **seen = NULL;

	for (size_t i = 0; i < n; i++) {
		const ProtobufCMessageDescriptor *d = message(v[i].message);

		if (!d) {
			fprintf(stderr, "xds/coverage: there is no %s\n", v[i].message);
			bad++;
			continue;
		}
		bad += v[i].because && !*v[i].because;
		for (const char *p = v[i].fields; *p; p += strspn(p, " ")) {
			size_t len = strcspn(p, " ");
			char name[128];

			snprintf(name, sizeof(name), "%.*s", (int)len, p);
			if (!protobuf_c_message_descriptor_get_field_by_name(d, name)) {
				fprintf(stderr, "xds/coverage: %s has no %s\n", d->name, name);
				bad++;
			}
			if (n_seen == cap) {
				cap = cap ? 2 * cap : 256;
				seen = weft_xrealloc(seen, cap * sizeof(*seen));
			}
			assert_true(asprintf(&seen[n_seen++], "%s.%s", d->name, name) > 0);
			p += len;
		}
	}
	qsort(seen, n_seen, sizeof(*seen), by_text);
	for (size_t i = 0; i < n_seen; i++) {
		if (i && !strcmp(seen[i - 1], seen[i])) {
			fprintf(stderr, "xds/coverage: %s stands twice\n", seen[i]);
			bad++;
		}
	}
	for (size_t i = 0; i < n_seen; i++)
		free(seen[i]);
	free(seen);
	assert_int_equal(bad, 0);
}

static void test_deprecated(void **state)
{
	static const struct {
		const char *message, *field, *instead;
	} v[] = {
#define DEPRECATED(message_, field_, instead_) {message_, field_, instead_},
#include "xds/deprecated.def"
#undef DEPRECATED
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		const ProtobufCMessageDescriptor *d = message(v[i].message);
		const ProtobufCFieldDescriptor *f =
			d ? protobuf_c_message_descriptor_get_field_by_name(d, v[i].field) : NULL;

		if (!f || !(f->flags & PROTOBUF_C_FIELD_FLAG_DEPRECATED))
			fail_msg("xds/deprecated.def: %s.%s is not a deprecated field",
				 v[i].message, v[i].field);
		assert_string_equal(cfg_replacement(v[i].message, v[i].field), v[i].instead);
	}
}

static void test_rules(void **state)
{
	size_t told = 0;

	for (size_t i = 0; i < n_all; i++) {
		struct cfg_rules r = cfg_rules_of(all[i]->name);

		told += r.n;
		for (size_t k = 0; k < r.n; k++) {
			char name[128];
			const char *end = r.v[k].field + strcspn(r.v[k].field, "[{");

			snprintf(name, sizeof(name), "%.*s", (int)(end - r.v[k].field),
				 r.v[k].field);
			if (r.v[k].kind != RULE_ONEOF &&
			    !protobuf_c_message_descriptor_get_field_by_name(all[i], name))
				fail_msg("xds/rules.def: %s has no %s", all[i]->name, name);
		}
	}
	assert_true(told > 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_coverage),
		cmocka_unit_test(test_deprecated),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_page),
	};

	return cmocka_run_group_tests(tests, types_setup, NULL);
}
