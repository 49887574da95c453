/* docs/xds-coverage.md says of every field of every message what becomes of it: made from the
 * descriptors and xds/coverage. Folder: WEFT_DOCS_DIR, else docs. WEFT_GOLDEN_UPDATE=1 writes it
 * anew. And every name in xds/coverage, deprecated.def and rules.def is one that exists. */
#include "xds/cfg_priv.h"
#include "xds/yaml_priv.h"
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MESSAGES_MAX = 2000 };
static const ProtobufCMessageDescriptor *all[MESSAGES_MAX];
static size_t n_all;

static void reach(const ProtobufCMessageDescriptor *d)
{
	for (size_t i = 0; i < n_all; i++)
		if (all[i] == d)
			return;
	assert_true(n_all < MESSAGES_MAX);
	all[n_all++] = d;
	for (unsigned i = 0; i < d->n_fields; i++)
		if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			reach(d->fields[i].descriptor);
}

static int order(const void *a, const void *b)
{
	const ProtobufCMessageDescriptor *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static int setup(void **state)
{
	const ProtobufCMessageDescriptor *d;

	for (size_t i = 0; (d = weft_cfg_types(i, NULL)); i++)
		reach(d);
	qsort(all, n_all, sizeof(all[0]), order);
	return 0;
}

static const ProtobufCMessageDescriptor *message(const char *name)
{
	for (size_t i = 0; i < n_all; i++)
		if (!strcmp(all[i]->name, name))
			return all[i];
	return NULL;
}

static bool is_entry(const ProtobufCMessageDescriptor *d)
{
	size_t n = strlen(d->short_name);

	return n > 5 && !strcmp(d->short_name + n - 5, "Entry") && d->n_fields == 2 &&
	       !strcmp(d->fields[0].name, "key");
}

/* Configuration, rather than answers, calls and what needs no coverage. */
static bool is_told(const ProtobufCMessageDescriptor *d)
{
	static const char *const other[] = {"google.", "envoy.admin.", "envoy.service."};

	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		if (!strncmp(d->name, other[i], strlen(other[i])))
			return false;
	return !is_entry(d);
}

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

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "r"), *out;
	char *text = NULL, buf[4096];
	size_t n, got;

	out = open_memstream(&text, &n);
	assert_non_null(out);
	while (f && (got = fread(buf, 1, sizeof(buf), f)) > 0)
		fwrite(buf, 1, got, out);
	if (f)
		fclose(f);
	fclose(out);
	return text;
}

/* cmocka shows whole texts; the first line that differs is enough. */
static void first_difference(const char *path, const char *have, const char *want)
{
	size_t i = 0, line = 1, start = 0;

	for (; have[i] && have[i] == want[i]; i++) {
		if (have[i] != '\n')
			continue;
		line++;
		start = i + 1;
	}
	if (have[i] != want[i])
		fail_msg("%s:%zu: is old (make golden-update): has \"%.*s\", should be \"%.*s\"",
			 path, line, (int)strcspn(have + start, "\n"), have + start,
			 (int)strcspn(want + start, "\n"), want + start);
}

static void test_page(void **state)
{
	const char *dir = getenv("WEFT_DOCS_DIR");
	char path[PATH_MAX], *want = make(), *have;
	FILE *f;

	snprintf(path, sizeof(path), "%s/xds-coverage.md", dir ? dir : "docs");
	if (getenv("WEFT_GOLDEN_UPDATE")) {
		f = fopen(path, "w");
		assert_non_null(f);
		fputs(want, f);
		assert_int_equal(fclose(f), 0);
	}
	have = slurp(path);
	first_difference(path, have, want);
	free(have);
	free(want);
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

	return cmocka_run_group_tests(tests, setup, NULL);
}
