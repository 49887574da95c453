/* The folder source on a real folder: bad after good, half-written, vanished, back, renamed,
 * mounted by links. */
#include "agent/source_file.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[64], keep[80], base_dir[48];
	struct event_base *base;
	struct weft_source_file *s;
	int changes;
	char said[65536]; /* every message, a line each */
};

static void changed(void *owner, struct weft_objects *set)
{
	struct fixture *f = owner;

	assert_non_null(set);
	f->changes++;
}

static void told(void *owner, enum weft_log_level level, const char *text)
{
	struct fixture *f = owner;
	size_t n = strlen(f->said);

	snprintf(f->said + n, sizeof(f->said) - n, "%d %s\n", (int)level, text);
}

static void put(struct fixture *f, const char *name, const char *text)
{
	char path[PATH_MAX];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	out = fopen(path, "w");
	assert_non_null(out);
	fputs(text, out);
	assert_int_equal(fclose(out), 0);
}

static void drop(struct fixture *f, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	assert_int_equal(unlink(path), 0);
}

static const char *ns_yaml(const char *name)
{
	static char text[256];

	snprintf(text, sizeof(text), "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n",
		 name);
	return text;
}

static bool has(const struct fixture *f, const char *ns)
{
	return weft_objects_find(weft_source_file_set(f->s), WEFT_KIND_NAMESPACE, NULL, ns) != NULL;
}

static bool said(const struct fixture *f, const char *text)
{
	return strstr(f->said, text) != NULL;
}

static int times_said(const struct fixture *f, const char *text)
{
	int n = 0;

	for (const char *p = f->said; (p = strstr(p, text)); p++)
		n++;
	return n;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void turn(struct fixture *f, unsigned ms)
{
	struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	event_base_loopexit(f->base, &tv);
	assert_true(event_base_dispatch(f->base) >= 0);
}

#define UNTIL(f, cond)                                                                             \
	do {                                                                                       \
		double until_end = now() + 15;                                                     \
		while (!(cond) && now() < until_end)                                               \
			turn(f, 10);                                                               \
		if (!(cond))                                                                       \
			print_message("said:\n%s", (f)->said);                                     \
		assert_true(cond);                                                                 \
	} while (0)

static void open_source(struct fixture *f)
{
	struct weft_err err = {0};
	const struct weft_source_file_conf conf = {.dir = f->dir,
						   .keep_dir = f->keep,
						   .rescan_ms = 300,
						   .changed = changed,
						   .told = told,
						   .owner = f};

	assert_int_equal(weft_source_file_open(f->base, &conf, &f->s, &err), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->base_dir, "/tmp/weft-source-XXXXXX");
	assert_non_null(mkdtemp(f->base_dir));
	snprintf(f->dir, sizeof(f->dir), "%s/config", f->base_dir);
	snprintf(f->keep, sizeof(f->keep), "%s/keep", f->base_dir);
	assert_int_equal(mkdir(f->dir, 0700), 0);
	f->base = event_base_new();
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char cmd[96];

	weft_source_file_close(f->s);
	event_base_free(f->base);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", f->base_dir);
	assert_int_equal(system(cmd), 0);
	free(f);
	return 0;
}

static void test_first_and_change(void **state)
{
	struct fixture *f = *state;
	struct weft_source_file_stat st;

	put(f, "a.yaml", ns_yaml("one"));
	put(f, "b.json",
	    "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"two\"}}");
	put(f, ".hidden.yaml", "not: [read");
	put(f, "notes.txt", "not: [read");
	open_source(f);
	assert_int_equal(f->changes, 1);
	assert_true(has(f, "one") && has(f, "two"));
	put(f, "c.yml", ns_yaml("three"));
	UNTIL(f, has(f, "three"));
	drop(f, "a.yaml");
	UNTIL(f, !has(f, "one"));
	assert_true(has(f, "two") && has(f, "three"));
	assert_string_equal(f->said, "");
	weft_source_file_stat(f->s, &st);
	assert_int_equal(st.files, 2);
	assert_int_equal(st.bad_files, 0);
	assert_int_equal(st.objects, 2);
}

static void test_unchanged_is_not_told(void **state)
{
	struct fixture *f = *state;

	put(f, "a.yaml", ns_yaml("one"));
	open_source(f);
	put(f, "a.yaml", ns_yaml("one")); /* the same bytes again */
	turn(f, 1500);
	assert_int_equal(f->changes, 1);
}

static void test_bad_after_good(void **state)
{
	struct fixture *f = *state;
	struct weft_source_file_stat st;

	put(f, "a.yaml", ns_yaml("one"));
	put(f, "b.yaml", ns_yaml("two"));
	open_source(f);
	put(f, "a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: UPPER, labels: [x]}\n");
	put(f, "b.yaml", ns_yaml("three"));
	UNTIL(f, has(f, "three"));
	UNTIL(f, said(f, "a.yaml: 1 error, its last good configuration stays"));
	assert_true(said(f, "a.yaml:3:33: metadata.labels: must be a mapping, is a list"));
	assert_true(has(f, "one"));
	assert_false(has(f, "two"));
	turn(f, 1000); /* rescans do not repeat it */
	assert_int_equal(times_said(f, "a.yaml: 1 error"), 1);
	weft_source_file_stat(f->s, &st);
	assert_int_equal(st.bad_files, 1);
	put(f, "a.yaml", ns_yaml("four"));
	UNTIL(f, has(f, "four"));
	assert_false(has(f, "one"));
	assert_true(said(f, "a.yaml: is right again and in use"));
}

static void test_half_written(void **state)
{
	struct fixture *f = *state;

	put(f, "a.yaml", ns_yaml("one"));
	open_source(f);
	put(f, "a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: two, labels: {a: b");
	UNTIL(f, said(f, "a.yaml: 1 error, its last good configuration stays"));
	assert_true(said(f, "the file ends too early"));
	assert_true(has(f, "one"));
}

/* While the writer has the file open nothing of it is taken, however it looks. */
static void test_slow_writer(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];
	FILE *out;

	put(f, "a.yaml", ns_yaml("one"));
	open_source(f);
	snprintf(path, sizeof(path), "%s/a.yaml", f->dir);
	out = fopen(path, "w");
	assert_non_null(out);
	fputs("apiVersion: v1\nkind: Namespace\nmetadata: {name: two", out);
	fflush(out);
	turn(f, 1500);
	assert_true(has(f, "one"));
	assert_string_equal(f->said, "");
	fputs("-halves}\n", out);
	assert_int_equal(fclose(out), 0);
	UNTIL(f, has(f, "two-halves"));
	assert_string_equal(f->said, "");
}

static void test_new_file_bad(void **state)
{
	struct fixture *f = *state;

	put(f, "a.yaml", "apiVersion: v1\nkind: Namespace\n");
	open_source(f);
	assert_int_equal(f->changes, 1); /* an empty set is a set */
	assert_true(said(f, "a.yaml: 1 error, none of it is used"));
	put(f, "a.yaml", ns_yaml("one"));
	UNTIL(f, has(f, "one"));
}

static void test_vanish_and_return(void **state)
{
	struct fixture *f = *state;
	char away[96];
	struct weft_source_file_stat st;

	put(f, "a.yaml", ns_yaml("one"));
	open_source(f);
	snprintf(away, sizeof(away), "%s/away", f->base_dir);
	assert_int_equal(rename(f->dir, away), 0);
	UNTIL(f, said(f, "the folder is gone"));
	turn(f, 1000);
	assert_int_equal(times_said(f, "the folder is gone"), 1);
	assert_true(has(f, "one"));
	weft_source_file_stat(f->s, &st);
	assert_true(st.folder_gone);
	/* another folder by the same path, filled file by file */
	assert_int_equal(mkdir(f->dir, 0700), 0);
	UNTIL(f, said(f, "the folder is back"));
	assert_true(has(f, "one"));
	put(f, "b.yaml", ns_yaml("two"));
	turn(f, 200);
	assert_true(has(f, "one")); /* not taken apart while it is being filled */
	UNTIL(f, has(f, "two"));
	assert_false(has(f, "one"));
	put(f, "b.yaml", ns_yaml("three")); /* and the new folder is watched */
	UNTIL(f, has(f, "three"));
}

static void test_rename(void **state)
{
	struct fixture *f = *state;
	char from[PATH_MAX], to[PATH_MAX];

	put(f, "a.yaml", ns_yaml("one"));
	open_source(f);
	put(f, ".a.yaml.new", ns_yaml("two"));
	turn(f, 300);
	assert_true(has(f, "one") && !has(f, "two"));
	snprintf(from, sizeof(from), "%s/.a.yaml.new", f->dir);
	snprintf(to, sizeof(to), "%s/a.yaml", f->dir);
	assert_int_equal(rename(from, to), 0);
	UNTIL(f, has(f, "two") && !has(f, "one"));
	/* an object moves to another file in one step: no duplicate is seen */
	snprintf(from, sizeof(from), "%s/z.yaml", f->dir);
	assert_int_equal(rename(to, from), 0);
	turn(f, 600);
	assert_true(has(f, "two"));
	assert_string_equal(f->said, "");
}

static void test_duplicate(void **state)
{
	struct fixture *f = *state;

	put(f, "m.yaml", ns_yaml("one"));
	open_source(f);
	/* the newcomer is told, though it comes first by name */
	put(f, "a.yaml", ns_yaml("one"));
	UNTIL(f, said(f, "a.yaml: 1 error, none of it is used"));
	assert_true(said(
		f, "a.yaml:4:9: metadata.name: Namespace one is given twice; first at m.yaml:4:9"));
	drop(f, "m.yaml");
	UNTIL(f, said(f, "a.yaml: is right again"));
	assert_true(has(f, "one"));
}

static const char slice[] =
	"apiVersion: discovery.k8s.io/v1\n"
	"kind: EndpointSlice\n"
	"metadata: {name: s, namespace: demo, labels: {kubernetes.io/service-name: web}}\n"
	"addressType: IPv4\n";
static const char service[] =
	"apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: demo}\n";

static bool has_slice(const struct fixture *f)
{
	return weft_objects_find(weft_source_file_set(f->s), WEFT_KIND_ENDPOINT_SLICE, "demo",
				 "s") != NULL;
}

static void test_reference(void **state)
{
	struct fixture *f = *state;

	open_source(f);
	put(f, "slice.yaml", slice);
	UNTIL(f, said(f, "slice.yaml: 1 error, none of it is used"));
	assert_true(said(f, "there is no Service demo/web"));
	put(f, "web.yaml", service);
	UNTIL(f, has_slice(f));
	/* what is in use stays when the other end goes */
	drop(f, "web.yaml");
	UNTIL(f, times_said(f, "there is no Service demo/web") == 2);
	assert_true(has_slice(f));
}

static void test_links(void **state)
{
	struct fixture *f = *state;
	char v1[96], v2[96], data[96], next[96], file[96];

	/* as a ConfigMap is mounted: file → ..data/file, ..data → a folder, swapped by rename */
	snprintf(v1, sizeof(v1), "%s/..v1", f->dir);
	snprintf(v2, sizeof(v2), "%s/..v2", f->dir);
	snprintf(data, sizeof(data), "%s/..data", f->dir);
	snprintf(next, sizeof(next), "%s/..data_tmp", f->dir);
	snprintf(file, sizeof(file), "%s/a.yaml", f->dir);
	assert_int_equal(mkdir(v1, 0700), 0);
	assert_int_equal(mkdir(v2, 0700), 0);
	put(f, "..v1/a.yaml", ns_yaml("one"));
	put(f, "..v2/a.yaml", ns_yaml("two"));
	assert_int_equal(symlink("..v1", data), 0);
	assert_int_equal(symlink("..data/a.yaml", file), 0);
	open_source(f);
	assert_true(has(f, "one"));
	assert_int_equal(symlink("..v2", next), 0);
	assert_int_equal(rename(next, data), 0);
	UNTIL(f, has(f, "two") && !has(f, "one"));
	/* a link that leads nowhere is a bad file, not a removed one */
	assert_int_equal(unlink(data), 0);
	UNTIL(f, said(f, "a.yaml: 1 error, its last good configuration stays"));
	assert_true(has(f, "two"));
}

static void test_kept_for_next_start(void **state)
{
	struct fixture *f = *state;

	put(f, "a.yaml", ns_yaml("one"));
	put(f, "b.yaml", ns_yaml("two"));
	open_source(f);
	weft_source_file_close(f->s);
	f->s = NULL;
	put(f, "a.yaml", "kind: [");
	drop(f, "b.yaml");
	open_source(f);
	assert_true(has(f, "one")); /* from before the restart */
	assert_false(has(f, "two"));
	assert_true(said(f, "a.yaml: 1 error, its last good configuration stays"));
	/* what went away while nobody looked is not kept: it does not come back years later */
	weft_source_file_close(f->s);
	f->s = NULL;
	put(f, "b.yaml", "kind: [");
	open_source(f);
	assert_false(has(f, "two"));
	assert_true(said(f, "b.yaml: 1 error, none of it is used"));
}

static void test_missing_folder(void **state)
{
	struct fixture *f = *state;
	struct weft_source_file_conf conf = {
		.dir = "/nonexistent/folder", .changed = changed, .owner = f};
	struct weft_source_file *s;
	struct weft_err err = {0};
	char text[600];

	assert_int_equal(weft_source_file_open(f->base, &conf, &s, &err), -ENOENT);
	assert_null(s);
	assert_string_equal(
		weft_err_text(&err, text, sizeof(text)),
		"/nonexistent/folder: the folder cannot be read: No such file or directory");
}

static void test_size_limit(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/big.yaml", f->dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, WEFT_YAML_BYTES_MAX + 1), 0);
	close(fd);
	open_source(f);
	assert_true(said(f, "big.yaml: a file may have 16 MiB"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_first_and_change),
		T(test_unchanged_is_not_told),
		T(test_bad_after_good),
		T(test_half_written),
		T(test_slow_writer),
		T(test_new_file_bad),
		T(test_vanish_and_return),
		T(test_rename),
		T(test_duplicate),
		T(test_reference),
		T(test_links),
		T(test_kept_for_next_start),
		T(test_missing_folder),
		T(test_size_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
