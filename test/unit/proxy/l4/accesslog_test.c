#include "proxy/l4/accesslog.h"

#include "proxy/core/stat.h"
#include "proxy/core/worker.h"

#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

static struct weft_sockaddr src, dst, hbone;

static struct weft_access_rec record(void)
{
	struct weft_access_rec r = {
		.level = WEFT_ACCESS_INFO,
		.message = "connection complete",
		.src = {&src, "curl", "shop", "spiffe://cluster.local/ns/shop/sa/curl",
			"Kubernetes"},
		.dst = {&dst, "web-1", "shop", "spiffe://cluster.local/ns/shop/sa/web",
			"Kubernetes"},
		.hbone = &hbone,
		.service = "web.shop.svc.cluster.local",
		.inbound = true,
		.sent = 239,
		.received = 130,
		.duration_ms = 52,
		.reason = "ok",
		.time_us = 1766000000123456,
	};

	weft_sockaddr_parse("10.0.0.5:41822", &src);
	weft_sockaddr_parse("[fd00::7]:15008", &dst);
	weft_sockaddr_parse("10.0.1.7:8080", &hbone);
	return r;
}

static void check(enum weft_log_format f, const struct weft_access_rec *r, const char *wanted)
{
	char line[WEFT_ACCESS_LINE_MAX + 1];
	size_t n = weft_access_format(f, r, line);

	line[n] = 0;
	assert_string_equal(line, wanted);
}

static void test_text(void **state)
{
	struct weft_access_rec r = record();

	check(WEFT_LOG_TEXT, &r,
	      "2025-12-17T19:33:20.123456Z\tinfo\taccess\tconnection complete\t"
	      "src.addr=10.0.0.5:41822 src.workload=\"curl\" src.namespace=\"shop\" "
	      "src.identity=\"spiffe://cluster.local/ns/shop/sa/curl\" src.cluster=\"Kubernetes\" "
	      "dst.addr=[fd00::7]:15008 dst.hbone_addr=10.0.1.7:8080 "
	      "dst.service=\"web.shop.svc.cluster.local\" dst.workload=\"web-1\" "
	      "dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/web\" "
	      "dst.cluster=\"Kubernetes\" direction=\"inbound\" bytes_sent=239 bytes_recv=130 "
	      "duration=\"52ms\" reason=\"ok\"\n");
}

static void test_json(void **state)
{
	struct weft_access_rec r = record();

	r.level = WEFT_ACCESS_ERROR;
	r.inbound = false;
	r.reason = "policy_deny";
	r.error = "denied";
	check(WEFT_LOG_JSON, &r,
	      "{\"level\":\"error\",\"time\":\"2025-12-17T19:33:20.123456Z\",\"scope\":\"access\","
	      "\"message\":\"connection complete\",\"src.addr\":\"10.0.0.5:41822\","
	      "\"src.workload\":\"curl\",\"src.namespace\":\"shop\","
	      "\"src.identity\":\"spiffe://cluster.local/ns/shop/sa/curl\","
	      "\"src.cluster\":\"Kubernetes\",\"dst.addr\":\"[fd00::7]:15008\","
	      "\"dst.hbone_addr\":\"10.0.1.7:8080\",\"dst.service\":\"web.shop.svc.cluster.local\","
	      "\"dst.workload\":\"web-1\",\"dst.namespace\":\"shop\","
	      "\"dst.identity\":\"spiffe://cluster.local/ns/shop/sa/web\","
	      "\"dst.cluster\":\"Kubernetes\",\"direction\":\"outbound\",\"bytes_sent\":239,"
	      "\"bytes_recv\":130,\"duration\":\"52ms\",\"reason\":\"policy_deny\","
	      "\"error\":\"denied\"}\n");
}

static void test_absent_fields(void **state)
{
	struct weft_access_rec r = {.level = WEFT_ACCESS_WARN,
				    .message = "connection failed",
				    .reason = "no_original_dst",
				    .error = "x"};

	check(WEFT_LOG_TEXT, &r,
	      "1970-01-01T00:00:00.000000Z\twarn\taccess\tconnection failed\t"
	      "direction=\"outbound\" bytes_sent=0 bytes_recv=0 duration=\"0ms\" "
	      "reason=\"no_original_dst\" error=\"x\"\n");
}

/* Whatever a peer puts into its names, a line stays one line and JSON stays JSON. */
static void test_hostile_names(void **state)
{
	static const char evil[] =
		"a\"b\\c\nd\te\x1b[31m\x7f\xc3\xa9\xff\xc0\x80\xed\xa0\x80\xc2\x85z";
	struct weft_access_rec r = record();
	char line[WEFT_ACCESS_LINE_MAX + 1];
	json_error_t err;
	json_t *j;
	size_t n;

	r.src.workload = evil;
	n = weft_access_format(WEFT_LOG_TEXT, &r, line);
	line[n] = 0;
	assert_ptr_equal(strchr(line, '\n'), line + n - 1);
	for (size_t i = 0; i + 1 < n; i++)
		assert_true(line[i] == '\t' || (unsigned char)line[i] >= 0x20);
	assert_non_null(strstr(
		line, "src.workload=\"a\\\"b\\\\c\\u000ad\\u0009e\\u001b[31m\\u007f"
		      "\xc3\xa9\\u00ff\\u00c0\\u0080\\u00ed\\u00a0\\u0080\\u00c2\\u0085z\""));
	n = weft_access_format(WEFT_LOG_JSON, &r, line);
	j = json_loadb(line, n, 0, &err);
	assert_non_null(j);
	json_decref(j);
}

static void test_long_names(void **state)
{
	struct weft_access_rec r = record();
	char longest[2001], line[WEFT_ACCESS_LINE_MAX];
	json_error_t err;
	json_t *j;
	size_t n;

	memset(longest, 1, sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	r.src = (struct weft_access_side){&src, longest, longest, longest, longest};
	r.dst = (struct weft_access_side){&dst, longest, longest, longest, longest};
	r.service = r.error = r.trace_id = longest;
	n = weft_access_format(WEFT_LOG_JSON, &r, line);
	assert_true(n <= sizeof(line));
	j = json_loadb(line, n, 0, &err);
	assert_non_null(j);
	json_decref(j);
}

static const char *const none[] = {NULL};
static struct weft_stat_family *lost_f, *over_f;
static struct weft_stat *lost, *over;

/* The log's own references: it gives them up at its end. */
static struct weft_access_log *new_log(struct event_base *base, struct weft_log_sink *sink,
				       unsigned threads)
{
	return weft_access_log_new(base, sink, WEFT_LOG_TEXT, threads, weft_stat_get(lost_f, none),
				   weft_stat_get(over_f, none));
}

static size_t count_lines_of(const char *file)
{
	FILE *f = fopen(file, "r");
	size_t n = 0;

	for (int c; (c = fgetc(f)) != EOF;)
		n += c == '\n';
	fclose(f);
	return n;
}

static void test_file_and_budget(void **state)
{
	char path[] = "/tmp/weft-access-XXXXXX";
	struct event_base *base = event_base_new();
	struct weft_access_rec r = record();
	struct weft_err err = {0};
	struct weft_log_sink *sink;
	struct weft_access_log *l;
	int64_t over0 = weft_stat_value(over);

	close(mkstemp(path));
	assert_int_equal(weft_log_sink_open(path, &sink, &err), 0);
	l = new_log(base, sink, 4);
	/* a quarter of the budget is this thread's; the second may turn meanwhile */
	for (int i = 0; i < 2000; i++)
		weft_access_log_write(l, "Kubernetes//Pod/shop/busy", &r);
	weft_access_log_write(l, "Kubernetes//Pod/shop/quiet", &r);
	assert_in_range(weft_stat_value(over) - over0, 1500, 1750);
	for (int i = 0; i < 30; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(50000);
	}
	weft_access_log_free(l);
	weft_log_sink_free(sink);
	event_base_free(base);
	/* those within the budget, the quiet one's, and what was dropped */
	assert_int_equal(count_lines_of(path), 2000 - (weft_stat_value(over) - over0) + 2);
	unlink(path);
}

static void test_pipe_that_nobody_reads(void **state)
{
	int p[2], out;
	struct event_base *base = event_base_new();
	struct weft_access_rec r = record();
	struct weft_err err = {0};
	struct weft_log_sink *sink;
	struct weft_access_log *l;
	int64_t lost0 = weft_stat_value(lost);
	char buf[1 << 17];
	ssize_t n, at = 0;
	size_t lines = 0;

	/* standard output as a parent gives it: blocking */
	assert_int_equal(pipe(p), 0);
	fflush(stdout);
	out = dup(1);
	dup2(p[1], 1);
	assert_int_equal(weft_log_sink_open("-", &sink, &err), 0);
	dup2(out, 1);
	close(out);
	l = new_log(base, sink, 1);
	for (int i = 0; i < 3000; i++) {
		char who[32];

		snprintf(who, sizeof(who), "w%d", i % 7);
		weft_access_log_write(l, who, &r);
	}
	weft_access_log_flush(l);
	assert_true(weft_stat_value(lost) - lost0 > 0);
	assert_false(fcntl(p[1], F_GETFL) & O_NONBLOCK); /* the parent's end was left alone */
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	while ((n = read(p[0], buf + at, sizeof(buf) - (size_t)at)) > 0)
		at += n;
	for (ssize_t i = 0; i < at; i++)
		lines += buf[i] == '\n';
	assert_int_equal(buf[at - 1], '\n'); /* whole lines only */
	assert_int_equal((int64_t)lines + weft_stat_value(lost) - lost0, 3000);
	weft_access_log_free(l);
	weft_log_sink_free(sink);
	event_base_free(base);
	close(p[0]);
	close(p[1]);
}

static void test_cannot_open(void **state)
{
	struct weft_err err = {0};
	struct weft_log_sink *sink;

	assert_int_equal(weft_log_sink_open("/nonexistent/x", &sink, &err), -2);
	assert_string_equal(err.msg, "access log \"/nonexistent/x\": No such file or directory");
}

static int setup(void **state)
{
	lost_f = weft_stat_family_new("test_lost", "x", WEFT_STAT_COUNTER, none);
	over_f = weft_stat_family_new("test_over", "x", WEFT_STAT_COUNTER, none);
	lost = weft_stat_get(lost_f, none);
	over = weft_stat_get(over_f, none);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_absent_fields),
		cmocka_unit_test(test_hostile_names),
		cmocka_unit_test(test_long_names),
		cmocka_unit_test(test_file_and_budget),
		cmocka_unit_test(test_pipe_that_nobody_reads),
		cmocka_unit_test(test_cannot_open),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
