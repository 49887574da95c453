/* docs/config.md says of every field what it does: its tables are made from the descriptors and
 * xds/fields.def. Folder: WEFT_DOCS_DIR, else docs. WEFT_GOLDEN_UPDATE=1 writes them anew. */
#include "xds/check.h"
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

static const char begin[] =
	"<!-- fields: made by test/unit/xds/config_doc_test.c from xds/fields.def -->\n";
static const char end[] = "<!-- end of fields -->\n";

static struct about {
	const char *message, *field, *what;
	int used;
} about[] = {
#define FIELD(message_, field_, what_) {#message_, #field_, what_, 0},
#include "xds/fields.def"
#undef FIELD
};
enum { ABOUT = sizeof(about) / sizeof(about[0]) };

static const struct {
	const char *message, *field, *why;
} without_effect[] = {
#define WITHOUT_EFFECT(message_, field_, why_) {message_, field_, why_},
#include "xds/without_effect.def"
#undef WITHOUT_EFFECT
};
enum { WITHOUT = sizeof(without_effect) / sizeof(without_effect[0]) };

static const char *what_of(const ProtobufCMessageDescriptor *d, const char *field)
{
	char name[96];

	/* the one name that two messages have */
	snprintf(name, sizeof(name), "%s%s",
		 strstr(d->name, "AuthorizationRule.Condition") ? "AuthorizationRule_" : "",
		 d->short_name);
	for (int i = 0; i < ABOUT; i++) {
		if (strcmp(about[i].message, name) != 0 || strcmp(about[i].field, field) != 0)
			continue;
		about[i].used = 1;
		return about[i].what;
	}
	fail_msg("xds/fields.def says nothing of %s.%s", name, field);
	return NULL;
}

static const char *type_of(const ProtobufCFieldDescriptor *f, char dst[64])
{
	const ProtobufCMessageDescriptor *d = f->descriptor;
	const char *t = f->type == PROTOBUF_C_TYPE_STRING    ? "string"
			: f->type == PROTOBUF_C_TYPE_BOOL    ? "true, false"
			: f->type == PROTOBUF_C_TYPE_ENUM    ? "name"
			: f->type != PROTOBUF_C_TYPE_MESSAGE ? "number"
			: yaml_is_map(f)		     ? "mapping"
			: yaml_form_of(d) == YAML_DURATION   ? "duration"
							     : "object";

	snprintf(dst, 64, "%s%s",
		 f->label == PROTOBUF_C_LABEL_REPEATED && !yaml_is_map(f) ? "list of " : "", t);
	if (!strncmp(dst, "list of ", 8))
		strcat(dst, "s");
	return dst;
}

static void rows(FILE *out, const ProtobufCMessageDescriptor *d, const char *path)
{
	char name[YAML_NAME_MAX], type[64], sub[256];

	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		const char *what;

		if (!strcmp(f->name, "api_version") || (!*path && !strcmp(f->name, "kind")) ||
		    !strcmp(f->name, "metadata"))
			continue;
		snprintf(sub, sizeof(sub), "%s%s%s%s", path, *path ? "." : "",
			 yaml_field_name(d, f, name),
			 f->label == PROTOBUF_C_LABEL_REPEATED && !yaml_is_map(f) ? "[]" : "");
		if (*path || (strcmp(f->name, "spec") != 0 && strcmp(f->name, "status") != 0)) {
			what = what_of(d, f->name);
			if (*what)
				fprintf(out, "| `%s` | %s | %s |\n", sub, type_of(f, type), what);
		}
		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (!yaml_is_map(f) && yaml_is_kube(f->descriptor)) {
			rows(out, f->descriptor, sub);
		} else if (yaml_is_map(f)) {
			const ProtobufCMessageDescriptor *entry = f->descriptor;

			if (entry->fields[1].type != PROTOBUF_C_TYPE_MESSAGE)
				continue;
			snprintf(sub + strlen(sub), sizeof(sub) - strlen(sub), ".PORT");
			rows(out, entry->fields[1].descriptor, sub);
		}
	}
}

static void kind_text(FILE *out, const struct weft_kind *k)
{
	const char *slash = *k->group ? "/" : "";

	fprintf(out, "### %s\n\n`apiVersion: %s%s%s`", k->kind, k->group, slash, k->versions[0]);
	if (k->versions[1])
		fprintf(out, " (or `%s%s%s`)", k->group, slash, k->versions[1]);
	fprintf(out, "; %s; %s.\n\n",
		k->no_ns ? "belongs to no namespace" : "belongs to a namespace",
		k->lenient ? "other fields are skipped" : "other fields are errors");
	if (k->desc->n_fields <= 3) {
		fputs("Only its metadata is read.\n\n", out);
		return;
	}
	fputs("| field | is | what it does |\n| --- | --- | --- |\n", out);
	rows(out, k->desc, "");
	fputs("\n", out);
}

static char *make(void)
{
	char *text = NULL;
	size_t n;
	FILE *out = open_memstream(&text, &n);

	assert_non_null(out);
	fputs("### metadata\n\nOf every kind.\n\n| field | is | what it does |\n| --- | --- | --- "
	      "|\n",
	      out);
	rows(out, &weft__kube__object_meta__descriptor, "metadata");
	fputs("\n", out);
	for (int i = 0; i < WEFT_KIND_COUNT; i++)
		kind_text(out, weft_kind_get((enum weft_kind_id)i));
	fputs("### Accepted without effect\n\n"
	      "In kinds whose other unknown fields are errors.\n\n"
	      "| field | because |\n| --- | --- |\n",
	      out);
	for (int i = 0; i < WITHOUT; i++)
		fprintf(out, "| `%s.%s` | %s |\n", strrchr(without_effect[i].message, '.') + 1,
			without_effect[i].field, without_effect[i].why);
	fputs("\n### Refused kinds\n\n| kind | group | instead |\n| --- | --- | --- |\n", out);
#define REFUSED(group_, kind_, advice_)                                                            \
	fprintf(out, "| %s | `%s` | %s |\n", strcmp(kind_, "*") ? kind_ : "every other", group_,   \
		advice_);
#include "xds/refused.def"
#undef REFUSED
	fputs("\n", out);
	assert_int_equal(fclose(out), 0);
	for (int i = 0; i < ABOUT; i++)
		if (!about[i].used)
			fail_msg("xds/fields.def: there is no %s.%s", about[i].message,
				 about[i].field);
	return text;
}

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "r"), *out;
	char *text = NULL, buf[4096];
	size_t n, got;

	if (!f)
		fail_msg("%s: cannot be read", path);
	out = open_memstream(&text, &n);
	while ((got = fread(buf, 1, sizeof(buf), f)) > 0)
		fwrite(buf, 1, got, out);
	fclose(f);
	fclose(out);
	return text;
}

static void test_page(void **state)
{
	const char *dir = getenv("WEFT_DOCS_DIR");
	char path[PATH_MAX], *page, *from, *to, *want = make();
	FILE *f;

	snprintf(path, sizeof(path), "%s/config.md", dir ? dir : "docs");
	page = slurp(path);
	from = strstr(page, begin);
	assert_non_null(from);
	from += strlen(begin);
	to = strstr(from, end);
	assert_non_null(to);
	if (getenv("WEFT_GOLDEN_UPDATE")) {
		f = fopen(path, "w");
		assert_non_null(f);
		fprintf(f, "%.*s\n%s%s", (int)(from - page), page, want, to);
		assert_int_equal(fclose(f), 0);
	} else {
		*to = '\0';
		assert_string_equal(from + 1, want);
	}
	free(want);
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_page)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
