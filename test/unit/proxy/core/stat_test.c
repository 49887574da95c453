/* Counters: series, expiry, overflow, and pages that promtool takes.
 * also built: tsan */
#include "proxy/core/stat.h"

#include <event2/buffer.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char *page(int openmetrics)
{
	struct evbuffer *b = evbuffer_new();
	char *text;
	size_t n;

	weft_stat_print(b, openmetrics);
	n = evbuffer_get_length(b);
	text = calloc(1, n + 1);
	assert_non_null(text);
	evbuffer_remove(b, text, n);
	evbuffer_free(b);
	return text;
}

static void expect_text(int openmetrics, const char *part, int there)
{
	char *text = page(openmetrics);

	if (!!strstr(text, part) != there)
		print_message("# wanted%s: %s\n# in:\n%s", there ? "" : " none of", part, text);
	assert_int_equal(!!strstr(text, part), there);
	free(text);
}

static const char *const two[] = {"source", "destination", NULL};
static struct weft_stat_family *bytes, *open_now;

static int setup(void **state)
{
	bytes = weft_stat_family_new("test_bytes", "Bytes \\ of\na \"test\"", WEFT_STAT_COUNTER,
				     two);
	open_now = weft_stat_family_new("test_open", "Open things", WEFT_STAT_GAUGE, NULL);
	return 0;
}

static void test_series(void **state)
{
	const char *ab[] = {"a", "b"}, *ba[] = {"b", "a"}, *glue[] = {"ab", ""};
	struct weft_stat *s = weft_stat_get(bytes, ab), *again = weft_stat_get(bytes, ab);
	struct weft_stat *other = weft_stat_get(bytes, ba), *glued = weft_stat_get(bytes, glue);

	assert_ptr_equal(s, again);
	assert_ptr_not_equal(s, other);
	assert_ptr_not_equal(s, glued);
	weft_stat_add(s, 3);
	weft_stat_add(again, 4);
	weft_stat_add(glued, 1);
	assert_int_equal(weft_stat_value(s), 7);
	expect_text(0, "\ntest_bytes_total{source=\"a\",destination=\"b\"} 7\n", 1);
	expect_text(0, "\ntest_bytes_total{source=\"ab\"} 1\n", 1); /* empty: left out */
	expect_text(0,
		    "# HELP test_bytes_total Bytes \\\\ of\\na \"test\"\n# TYPE test_bytes_total "
		    "counter\n",
		    1);
	expect_text(1, "# TYPE test_bytes counter\n", 1);
	expect_text(1, "test_bytes_total{source=\"a\",destination=\"b\"} 7\n", 1);
	weft_stat_unref(s);
	weft_stat_unref(again);
	weft_stat_unref(other);
	weft_stat_unref(glued);
	weft_stat_unref(NULL);
}

static void test_gauge(void **state)
{
	struct weft_stat *g = weft_stat_get(open_now, NULL);

	weft_stat_set(g, 5);
	weft_stat_add(g, -7);
	expect_text(0, "# TYPE test_open gauge\ntest_open -2\n", 1);
	weft_stat_unref(g);
}

static void test_escapes(void **state)
{
	const char *v[] = {"q\"b\\n\n", "\xff\xc3\xa9\xed\xa0\x80"};
	struct weft_stat *s = weft_stat_get(bytes, v);

	expect_text(0, "source=\"q\\\"b\\\\n\\n\"", 1);
	expect_text(0, "destination=\"\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"",
		    1);
	weft_stat_unref(s);
}

static void test_expire(void **state)
{
	const char *v[] = {"gone", "x"}, *w[] = {"held", "x"};
	struct weft_stat *s = weft_stat_get(bytes, v), *held = weft_stat_get(bytes, w);

	weft_stat_add(s, 1);
	weft_stat_unref(s);
	weft_stat_expire(0); /* sees the change */
	expect_text(0, "source=\"gone\"", 1);
	weft_stat_expire(3600 * 1000);
	expect_text(0, "source=\"gone\"", 1);
	weft_stat_expire(0);
	expect_text(0, "source=\"gone\"", 0);
	expect_text(0, "source=\"held\"", 1);
	weft_stat_unref(held);
	s = weft_stat_get(bytes, v);
	assert_int_equal(weft_stat_value(s), 0); /* a new series */
	weft_stat_unref(s);
}

static void run_promtool(int openmetrics)
{
	char *text = page(openmetrics), line[512], said[4096] = "";
	char path[] = "/tmp/weft-stat-XXXXXX", cmd[128];
	int fd = mkstemp(path), status;
	FILE *f;

	assert_true(fd >= 0);
	assert_true(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
	free(text);
	snprintf(cmd, sizeof(cmd), "promtool check metrics <%s 2>&1", path);
	f = popen(cmd, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		strncat(said, line, sizeof(said) - strlen(said) - 1);
	status = pclose(f);
	unlink(path);
	if (status)
		print_message("# promtool: %s", said);
	assert_int_equal(status, 0); /* 127: no promtool, which is a failure */
	assert_string_equal(said, "");
}

static void test_promtool(void **state)
{
	run_promtool(0);
}

enum { THREADS = 4, ROUNDS = 5000 };
static struct weft_stat_family *shared;

static void *count(void *arg)
{
	char name[16];
	const char *v[] = {name, "t"};

	for (int i = 0; i < ROUNDS; i++) {
		struct weft_stat *s;

		snprintf(name, sizeof(name), "w%d", i % 50);
		s = weft_stat_get(shared, v);
		weft_stat_add(s, 1);
		weft_stat_unref(s);
	}
	return NULL;
}

static void test_threads(void **state)
{
	const char *v[2] = {NULL, "t"};
	pthread_t t[THREADS];
	int64_t sum = 0;
	char name[16];

	shared = weft_stat_family_new("test_shared", "Counted by threads", WEFT_STAT_COUNTER, two);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, count, NULL), 0);
	for (int i = 0; i < 20; i++) {
		weft_stat_expire(3600 * 1000);
		free(page(i & 1));
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 50; i++) {
		struct weft_stat *s;

		snprintf(name, sizeof(name), "w%d", i);
		v[0] = name;
		s = weft_stat_get(shared, v);
		sum += weft_stat_value(s);
		weft_stat_unref(s);
	}
	assert_int_equal(sum, THREADS * ROUNDS);
}

static void test_overflow(void **state)
{
	struct weft_stat_family *f =
		weft_stat_family_new("test_full", "Too many series", WEFT_STAT_COUNTER, two);
	struct weft_stat *a, *b;
	char name[16];
	const char *v[] = {name, ""};

	for (int i = 0; i < 100000; i++) {
		snprintf(name, sizeof(name), "%d", i);
		weft_stat_unref(weft_stat_get(f, v));
	}
	strcpy(name, "more");
	a = weft_stat_get(f, v);
	strcpy(name, "and more");
	b = weft_stat_get(f, v);
	assert_ptr_equal(a, b);
	weft_stat_add(a, 2);
	strcpy(name, "7");
	weft_stat_unref(weft_stat_get(f, v)); /* known ones are still found */
	expect_text(0, "\ntest_full_total{source=\"overflow\",destination=\"overflow\"} 2\n", 1);
	expect_text(0, "\nweft_stat_overflow_total{family=\"test_full\"} 2\n", 1);
	weft_stat_unref(a);
	weft_stat_unref(b);
	weft_stat_expire(0);
	weft_stat_expire(0);
	run_promtool(0);
}

static void test_openmetrics_ends(void **state)
{
	char *text = page(1);
	size_t n = strlen(text);

	assert_true(n > 6 && !strcmp(text + n - 6, "# EOF\n"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_series),	 cmocka_unit_test(test_gauge),
		cmocka_unit_test(test_escapes),	 cmocka_unit_test(test_promtool),
		cmocka_unit_test(test_expire),	 cmocka_unit_test(test_threads),
		cmocka_unit_test(test_overflow), cmocka_unit_test(test_openmetrics_ends),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
