/* Golden files of configuration: what the checks say of each NAME.in.yaml must be NAME.out. Folder:
 * WEFT_GOLDEN_DIR, else test/golden/config. WEFT_GOLDEN_UPDATE=1 writes the .out files anew. */
#include "xds/check.h"
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

static char *run(const char *dir, const char *name)
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

static const char *folder(void)
{
	const char *dir = getenv("WEFT_GOLDEN_DIR");

	return dir ? dir : "test/golden/config";
}

static void test_one(void **state)
{
	const char *name = *state;
	char path[PATH_MAX];
	int stem = (int)(strlen(name) - strlen(suffix));
	char *got = run(folder(), name), *want;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%.*s.out", folder(), stem, name);
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

int main(void)
{
	struct dirent **names;
	int n = scandir(folder(), &names, is_case, alphasort), r;
	struct CMUnitTest *tests;

	if (n <= 0) {
		fprintf(stderr, "%s: no *%s files\n", folder(), suffix);
		return 1;
	}
	tests = calloc((size_t)n, sizeof(*tests));
	for (int i = 0; tests && i < n; i++) {
		tests[i].name = names[i]->d_name;
		tests[i].test_func = test_one;
		tests[i].initial_state = names[i]->d_name;
	}
	r = _cmocka_run_group_tests("golden/config", tests, (size_t)n, NULL, NULL);
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	free(tests);
	return r;
}
