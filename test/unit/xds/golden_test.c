/* Golden files: what the checks say of each config/NAME.in.yaml, and what bootstrap/NAME.in.yaml is
 * read as, must be NAME.out. Folder of both: WEFT_GOLDEN_DIR, else test/golden.
 * WEFT_GOLDEN_UPDATE=1 writes the .out files anew. */
#include "xds/check.h"
#include "xds/proto/envoy/config/bootstrap/v3/bootstrap.pb-c.h"
#include "xds/yaml.h"
#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const char suffix[] = ".in.yaml";

struct report {
	FILE *f;
	int found;
};

static void print_errs(FILE *f, const char *what, const struct weft_errs *e)
{
	char text[700];

	for (int i = 0; e && i < e->n; i++)
		fprintf(f, "%s%s\n", what, weft_err_text(&e->v[i], text, sizeof(text)));
}

static void found(void *ctx, enum weft_finding what, size_t file, const struct weft_err *e)
{
	static const char *const kinds[] = {"duplicate: ", "reference: ", "note: "};
	struct report *r = ctx;
	char text[700];

	r->found += what != WEFT_FOUND_WARNING;
	fprintf(r->f, "%s%s\n", kinds[what], weft_err_text(e, text, sizeof(text)));
}

static char *run_objects(const char *dir, const char *name)
{
	char path[PATH_MAX], *text = NULL;
	struct report r = {0};
	struct weft_file *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	r.f = open_memstream(&text, &n);
	assert_non_null(r.f);
	f = weft_file_read(AT_FDCWD, path, name);
	print_errs(r.f, "", f->errs);
	if (f->errs && f->errs->dropped)
		fprintf(r.f, "and %d more\n", f->errs->dropped);
	print_errs(r.f, "note: ", f->notes);
	if (!f->n_errors) /* as programs do */
		weft_files_check(&f, 1, found, &r);
	fprintf(r.f, "%d errors, %zu objects\n", f->n_errors + r.found, f->n);
	assert_int_equal(fclose(r.f), 0);
	weft_file_unref(f);
	return text;
}

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = NULL;
	size_t n, got;
	char buf[4096];
	FILE *out = open_memstream(&text, &n);

	while (f && (got = fread(buf, 1, sizeof(buf), f)) > 0)
		fwrite(buf, 1, got, out);
	if (f)
		fclose(f);
	fclose(out);
	return text;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *e)
{
	return &envoy__config__bootstrap__v3__bootstrap__descriptor;
}

/* Errors, or the document written again: as YAML and, where the name begins so, as JSON. */
static char *run_bootstrap(const char *dir, const char *name)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	char path[PATH_MAX], *text, *in;
	size_t n, n_docs;
	FILE *out = open_memstream(&text, &n);

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	in = slurp(path);
	weft_yaml_decode(a, name, in, strlen(in), pick, NULL, &docs, &n_docs, &errs);
	print_errs(out, "", &errs);
	for (size_t i = 0; i < n_docs; i++) {
		char *again = weft_yaml_encode(docs[i].msg, !strncmp(name, "json", 4));

		fputs(again, out);
		free(again);
	}
	assert_int_equal(fclose(out), 0);
	free(in);
	weft_arena_free(a);
	return text;
}

static const struct area {
	const char *folder;
	char *(*run)(const char *dir, const char *name);
} areas[] = {{"config", run_objects}, {"bootstrap", run_bootstrap}};
enum { AREAS = sizeof(areas) / sizeof(areas[0]) };

struct golden {
	const struct area *area;
	char *name;
};

static const char *folder(const struct area *a)
{
	static char path[PATH_MAX];
	const char *dir = getenv("WEFT_GOLDEN_DIR");

	snprintf(path, sizeof(path), "%s/%s", dir ? dir : "test/golden", a->folder);
	return path;
}

static void test_one(void **state)
{
	const struct golden *g = *state;
	const char *dir = folder(g->area);
	char path[PATH_MAX + 256], *got = g->area->run(dir, g->name), *want;
	int stem = (int)(strlen(g->name) - strlen(suffix));
	FILE *f;

	snprintf(path, sizeof(path), "%s/%.*s.out", dir, stem, g->name);
	if (getenv("WEFT_GOLDEN_UPDATE")) {
		f = fopen(path, "w");
		assert_non_null(f);
		fputs(got, f);
		assert_int_equal(fclose(f), 0);
	}
	want = slurp(path);
	assert_string_equal(got, want);
	free(got);
	free(want);
}

static int is_case(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return n > strlen(suffix) && !strcmp(d->d_name + n - strlen(suffix), suffix);
}

enum { CASES_MAX = 500 };
static struct golden cases[CASES_MAX];
static struct CMUnitTest tests[CASES_MAX];

int main(void)
{
	size_t n = 0;
	int r;

	for (int i = 0; i < AREAS; i++) {
		struct dirent **names;
		int found_n = scandir(folder(&areas[i]), &names, is_case, alphasort);

		if (found_n <= 0 || n + (size_t)found_n > CASES_MAX) {
			fprintf(stderr, "%s: %d *%s files\n", folder(&areas[i]), found_n, suffix);
			return 1;
		}
		for (int k = 0; k < found_n; k++, n++) {
			assert(asprintf(&cases[n].name, "%s", names[k]->d_name) > 0);
			cases[n].area = &areas[i];
			assert(asprintf((char **)&tests[n].name, "%s/%s", areas[i].folder,
					names[k]->d_name) > 0);
			tests[n].test_func = test_one;
			tests[n].initial_state = &cases[n];
			free(names[k]);
		}
		free(names);
	}
	r = _cmocka_run_group_tests("golden", tests, n, NULL, NULL);
	for (size_t i = 0; i < n; i++) {
		free(cases[i].name);
		free((char *)tests[i].name);
	}
	return r;
}
