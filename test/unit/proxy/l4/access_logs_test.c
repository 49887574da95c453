/* Access loggers: filters, sinks shared over threads, a target that takes nothing, files that are
 * moved away.
 * also built: tsan */
#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/l4/als.h"
#include "xds/yaml.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fix {
	struct weft_arena *a;
	struct weft_errs errs;
	struct weft_cfg c;
	struct weft_info info;
	struct weft_headers req, resp, trailers;
	struct weft_format_in in;
	char dir[64], path[128];
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	signal(SIGPIPE, SIG_IGN);
	f->a = weft_arena_new(0);
	f->c = (struct weft_cfg){.arena = f->a, .errs = &f->errs, .file = true};
	weft_headers_init(&f->req, f->a);
	weft_headers_init(&f->resp, f->a);
	weft_headers_init(&f->trailers, f->a);
	f->info =
		(struct weft_info){.arena = f->a, .start_ns = 1, .end_ns = 50000001, .status = 404};
	f->in = (struct weft_format_in){.info = &f->info,
					.req = &f->req,
					.resp = &f->resp,
					.trailers = &f->trailers,
					.log_type = "DownstreamEnd"};
	strcpy(f->dir, "/tmp/weft-als-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/log", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;
	char old[160];

	weft_arena_free(f->a);
	unlink(f->path);
	snprintf(old, sizeof(old), "%s.old", f->path);
	unlink(old);
	rmdir(f->dir);
	free(f);
	return 0;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *err)
{
	return ctx;
}

static const void *decode(struct fix *f, const ProtobufCMessageDescriptor *d, const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;

	weft_yaml_decode(f->a, "t.yaml", yaml, strlen(yaml), pick, (void *)d, &docs, &n, &f->errs);
	if (f->errs.n)
		fail_msg("%s: %s", yaml, f->errs.v[0].msg);
	f->c.marks = docs[0].marks;
	return docs[0].msg;
}

/* ---- filters */
static const struct weft_access_filter *filter(struct fix *f, const char *yaml)
{
	const struct weft_access_filter *r = NULL;
	struct weft_path at = {NULL, "filter", -1};

	if (weft_access_filter_prepare(
		    &f->c, &at,
		    decode(f, &envoy__config__accesslog__v3__access_log_filter__descriptor, yaml),
		    &r))
		return NULL;
	return r;
}

static void expect(struct fix *f, const char *yaml, bool want)
{
	const struct weft_access_filter *a = filter(f, yaml);

	assert_non_null(a);
	if (weft_access_filter_match(a, &f->in) != want)
		fail_msg("%s: must be %d", yaml, want);
}

#define CMP(op, v) "{comparison: {op: " op ", value: {default_value: " v ", runtime_key: k}}}"

static void filters(void **state)
{
	static const struct {
		const char *yaml;
		bool want;
	} t[] = {
		{"status_code_filter: " CMP("EQ", "404"), true},
		{"status_code_filter: " CMP("EQ", "405"), false},
		{"status_code_filter: " CMP("GE", "404"), true},
		{"status_code_filter: " CMP("GE", "405"), false},
		{"status_code_filter: " CMP("LE", "404"), true},
		{"status_code_filter: " CMP("LE", "403"), false},
		{"status_code_filter: " CMP("NE", "404"), false},
		{"duration_filter: " CMP("GE", "50"), true},
		{"duration_filter: " CMP("GE", "51"), false},
		{"not_health_check_filter: {}", true},
		{"runtime_filter: {runtime_key: k, percent_sampled: {numerator: 100}}", true},
		{"runtime_filter: {runtime_key: k, percent_sampled: {numerator: 0}}", false},
		{"runtime_filter: {runtime_key: k}", false},
		{"runtime_filter: {runtime_key: k, use_independent_randomness: true, "
		 "percent_sampled: {numerator: 1000000, denominator: MILLION}}",
		 true},
		{"and_filter: {filters: [{not_health_check_filter: {}}, {not_health_check_filter: "
		 "{}}]}",
		 true},
		{"and_filter: {filters: [{not_health_check_filter: {}}, {runtime_filter: "
		 "{runtime_key: k}}]}",
		 false},
		{"or_filter: {filters: [{runtime_filter: {runtime_key: k}}, "
		 "{not_health_check_filter: {}}]}",
		 true},
		{"or_filter: {filters: [{runtime_filter: {runtime_key: k}}, {runtime_filter: "
		 "{runtime_key: k}}]}",
		 false},
		{"header_filter: {header: {name: x-a, present_match: true}}", true},
		{"header_filter: {header: {name: x-a, string_match: {exact: v}}}", true},
		{"header_filter: {header: {name: x-b, present_match: true}}", false},
		{"header_filter: {header: {name: x-b, present_match: true, invert_match: true}}",
		 true},
		{"response_flag_filter: {}", true},
		{"response_flag_filter: {flags: [UH, UF]}", true},
		{"response_flag_filter: {flags: [UF]}", false},
		{"grpc_status_filter: {statuses: [NOT_FOUND]}", true},
		{"grpc_status_filter: {statuses: [OK, UNKNOWN]}", false},
		{"grpc_status_filter: {statuses: [NOT_FOUND], exclude: true}", false},
		{"metadata_filter: {matcher: {filter: ns, path: [{key: k}], value: {string_match: "
		 "{exact: v}}}}",
		 true},
		{"metadata_filter: {matcher: {filter: ns, path: [{key: k}], value: {string_match: "
		 "{exact: w}}}}",
		 false},
		{"metadata_filter: {matcher: {filter: ns, path: [{key: q}], value: {string_match: "
		 "{exact: w}}}}",
		 true},
		{"metadata_filter: {match_if_key_not_found: false, matcher: {filter: none, path: "
		 "[{key: q}], value: {string_match: {exact: w}}}}",
		 false},
		{"log_type_filter: {types: [DownstreamEnd]}", true},
		{"log_type_filter: {types: [TcpPeriodic, NotSet]}", false},
		{"log_type_filter: {types: [TcpPeriodic], exclude: true}", true},
	};
	struct fix *f = *state;
	size_t i;

	weft_headers_add(&f->req, "x-a", 3, "v", 1);
	weft_headers_add(&f->trailers, "grpc-status", 11, "5", 1);
	weft_info_flag(&f->info, WEFT_FLAG_UH);
	weft_struct_set_string(f->a, weft_info_meta(&f->info, "ns"), "k", "v");
	for (i = 0; i < sizeof(t) / sizeof(*t); i++)
		expect(f, t[i].yaml, t[i].want);
	f->info.flags = 0;
	expect(f, "response_flag_filter: {}", false);
	f->info.health_check = true;
	expect(f, "not_health_check_filter: {}", false);
	f->in.trailers = NULL;
	expect(f, "grpc_status_filter: {statuses: [UNIMPLEMENTED]}", true); /* of 404 */
	f->in.req = NULL;
	expect(f, "header_filter: {header: {name: x-a, present_match: true}}", false);
	f->in.log_type = NULL;
	expect(f, "log_type_filter: {types: [NotSet]}", true);
	f->info.status = 0;
	expect(f, "status_code_filter: " CMP("EQ", "0"), true);
}

static void samples(void **state)
{
	struct fix *f = *state;
	const struct weft_access_filter *a =
		filter(f, "runtime_filter: {runtime_key: k, percent_sampled: {numerator: 30}}");
	char id[32];
	unsigned i, hits = 0;

	f->info.request_id = id;
	for (i = 0; i < 10000; i++) {
		bool hit;

		snprintf(id, sizeof(id), "%08x-4000", i * 104729);
		hit = weft_access_filter_match(a, &f->in);
		assert_int_equal(hit, weft_access_filter_match(a, &f->in));
		hits += hit;
	}
	assert_in_range(hits, 2700, 3300);
	/* as Envoy: the first eight digits, modulo the denominator */
	strcpy(id, "0000001d-1");
	assert_true(weft_access_filter_match(a, &f->in)); /* 29 of 100 */
	strcpy(id, "0000001e-1");
	assert_false(weft_access_filter_match(a, &f->in));
	a = filter(f, "runtime_filter: {runtime_key: k, percent_sampled: {numerator: 30, "
		      "denominator: TEN_THOUSAND}}");
	strcpy(id, "00002729-1"); /* 10025 */
	assert_true(weft_access_filter_match(a, &f->in));
	strcpy(id, "00000029-1");
	assert_false(weft_access_filter_match(a, &f->in));
	/* by itself: both verdicts come for one id */
	a = filter(f, "runtime_filter: {runtime_key: k, use_independent_randomness: true, "
		      "percent_sampled: {numerator: 50}}");
	for (i = hits = 0; i < 1000; i++)
		hits += weft_access_filter_match(a, &f->in);
	assert_in_range(hits, 350, 650);
}

static void filters_refused(void **state)
{
	static const struct {
		const char *yaml, *path, *why;
	} t[] = {
		{"traceable_filter: {}", "filter.traceable_filter", "not an access log filter"},
		{"extension_filter: {name: x}", "filter.extension_filter",
		 "not an access log filter"},
		{"status_code_filter: {}", "filter.status_code_filter.comparison", "must be set"},
		{"header_filter: {}", "filter.header_filter.header", "must be set"},
		{"response_flag_filter: {flags: [UH, XX]}", "filter.response_flag_filter.flags[1]",
		 "\"XX\""},
		{"or_filter: {filters: [{status_code_filter: {}}, {not_health_check_filter: {}}]}",
		 "filter.or_filter.filters[0].status_code_filter.comparison", "must be set"},
	};
	struct fix *f = *state;
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(*t); i++) {
		f->errs.n = 0;
		assert_null(filter(f, t[i].yaml));
		assert_string_equal(f->errs.v[0].path, t[i].path);
		assert_non_null(strstr(f->errs.v[0].msg, t[i].why));
		f->errs.n = 0;
	}
}

/* ---- loggers */
static const struct weft_access_logs *logs(struct fix *f, const char *format)
{
	const struct weft_access_logs *l = NULL;
	struct weft_path at = {NULL, "access_log", -1};
	char yaml[1024];
	Envoy__Config__Accesslog__V3__AccessLog *m;

	snprintf(yaml, sizeof(yaml),
		 "name: x\ntyped_config:\n  '@type': "
		 "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n"
		 "  path: '%s'\n%s",
		 f->path, format);
	m = (void *)decode(f, &envoy__config__accesslog__v3__access_log__descriptor, yaml);
	return weft_access_logs_prepare(&f->c, &at, &m, 1, &l) ? NULL : l;
}

static size_t content(const char *path, char *to, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, to, cap - 1);

	to[n < 0 ? 0 : n] = 0;
	if (fd >= 0)
		close(fd);
	return n < 0 ? 0 : (size_t)n;
}

static void formats(void **state)
{
	struct fix *f = *state;
	char got[1024];

	/* a thread without a loop: written at once */
	weft_access_logs_write(logs(f, "  format: \"a %RESPONSE_CODE%\\n\"\n"), &f->in);
	weft_access_logs_write(logs(f, "  json_format: {c: '%RESPONSE_CODE%'}\n"), &f->in);
	weft_access_logs_write(logs(f, "  typed_json_format: {t: '%RESPONSE_CODE%'}\n"), &f->in);
	weft_access_logs_write(logs(f, "  log_format: {json_format: {l: x}}\n"), &f->in);
	content(f->path, got, sizeof(got));
	assert_string_equal(got, "a 404\n{\"c\":404}\n{\"t\":404}\n{\"l\":\"x\"}\n");
	unlink(f->path);
	weft_access_logs_reopen();
	weft_access_logs_write(logs(f, ""), &f->in);
	content(f->path, got, sizeof(got));
	assert_non_null(strstr(got, "] \"- - -\" 404 - 0 0 50 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"));
	weft_access_logs_write(NULL, &f->in);
}

static void cannot_open(void **state)
{
	struct fix *f = *state;

	snprintf(f->path, sizeof(f->path), "%s/none/log", f->dir);
	assert_null(logs(f, ""));
	assert_string_equal(f->errs.v[0].path, "access_log[0].typed_config");
	assert_non_null(strstr(f->errs.v[0].msg, "No such file"));
}

enum { LINES = 5000 };
struct writer {
	const struct weft_access_logs *l;
	struct weft_worker *w;
	struct weft_info info;
	unsigned n, id;
	struct event *ev;
};

static void write_some(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval now = {0, 100};
	struct writer *x = arg;
	struct weft_format_in in = {.info = &x->info};
	unsigned i;

	for (i = 0; i < 100 && x->n < LINES; i++, x->n++) {
		x->info.status = (int)x->n;
		weft_access_logs_write(x->l, &in);
	}
	if (x->n < LINES)
		event_add(x->ev, &now);
	else
		weft_worker_stop(x->w);
}

static void begin(struct weft_worker *w, void *arg)
{
	struct writer *x = arg;

	x->ev = evtimer_new(w->base, write_some, x);
	write_some(-1, 0, x);
}

/* Two workers, one file that is moved away meanwhile: every line whole, once, each worker's in
 * order. */
static void shared(void **state)
{
	struct fix *f = *state;
	struct writer x[2] = {0};
	char old[160], *got = calloc(1, 4 << 20), *p, *save;
	unsigned next[2] = {0, 0};
	size_t n;
	int i;

	snprintf(old, sizeof(old), "%s.old", f->path);
	for (i = 0; i < 2; i++) {
		char format[64];

		snprintf(format, sizeof(format), "  format: \"%d %%RESPONSE_CODE%% end\\n\"\n", i);
		x[i].l = logs(f, format);
		x[i].w = weft_worker_new(i, NULL);
		weft_worker_post(x[i].w, begin, &x[i]);
		assert_int_equal(weft_worker_start(x[i].w, false), 0);
	}
	usleep(20000);
	assert_int_equal(rename(f->path, old), 0);
	weft_access_logs_reopen();
	for (i = 0; i < 2; i++)
		weft_worker_join(x[i].w);
	weft_access_logs_flush();
	for (i = 0; i < 2; i++) {
		event_free(x[i].ev);
		weft_worker_free(x[i].w);
	}
	n = content(old, got, 2 << 20);
	content(f->path, got + n, 2 << 20);
	for (p = strtok_r(got, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
		unsigned id, at;
		char end[8];

		assert_int_equal(sscanf(p, "%u %u %7s", &id, &at, end), 3);
		assert_string_equal(end, "end");
		assert_in_range(id, 0, 1);
		assert_int_equal(at, next[id]);
		next[id]++;
	}
	assert_int_equal(next[0], LINES);
	assert_int_equal(next[1], LINES);
	free(got);
}

static void stop_soon(evutil_socket_t fd, short what, void *arg)
{
	weft_worker_stop(arg);
}

static int64_t stat_of(const char *name)
{
	struct evbuffer *b = evbuffer_new();
	const struct weft_scope_query q = {.filter = "^filesystem"};
	char *text, *at;
	int64_t v = -1;

	weft_scope_text(b, &q);
	evbuffer_add(b, "", 1);
	text = (char *)evbuffer_pullup(b, -1);
	at = strstr(text, name);
	if (at)
		v = strtoll(at + strlen(name) + 2, NULL, 10);
	evbuffer_free(b);
	return v;
}

static void fill_pipe(struct weft_worker *w, void *arg)
{
	struct writer *x = arg;
	struct weft_format_in in = {.info = &x->info};
	uint64_t t = weft_now_ns();
	struct timeval soon = {0, 150000};

	for (; x->n < 20000; x->n++)
		weft_access_logs_write(x->l, &in);
	/* nobody reads: the worker did not wait */
	assert_true(weft_now_ns() - t < 2000000000);
	x->ev = evtimer_new(w->base, stop_soon, w);
	event_add(x->ev, &soon);
}

/* A pipe that is full: lines are dropped and counted, and what comes out is whole lines. */
static void full_pipe(void **state)
{
	struct fix *f = *state;
	struct writer x = {0};
	char *got = calloc(1, 1 << 20), *p, *save;
	int64_t lost = stat_of("write_failed");
	unsigned lines = 0;
	ssize_t n, all = 0;
	int fd;

	assert_int_equal(mkfifo(f->path, 0600), 0);
	fd = open(f->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	x.l = logs(f, "  format: \"0123456789012345678901234567890123456789\\n\"\n");
	assert_non_null(x.l);
	x.w = weft_worker_new(0, NULL);
	weft_worker_post(x.w, fill_pipe, &x);
	weft_worker_run(x.w);
	event_free(x.ev);
	while ((n = read(fd, got + all, (1 << 20) - 1 - (size_t)all)) > 0)
		all += n;
	weft_worker_free(x.w);
	while ((n = read(fd, got + all, (1 << 20) - 1 - (size_t)all)) > 0)
		all += n;
	close(fd);
	for (p = strtok_r(got, "\n", &save); p; p = strtok_r(NULL, "\n", &save), lines++)
		assert_int_equal(strlen(p), 40);
	lost = stat_of("write_failed") - (lost < 0 ? 0 : lost);
	assert_true(lines > 1000 && lines < 20000);
	assert_int_equal(lines + lost, 20000);
	free(got);
}

static void too_long(void **state)
{
	struct fix *f = *state;
	const struct weft_access_logs *l = logs(f, "  format: \"%REQ(a)%\\n\"\n");
	char *big = malloc(300000), got[64];

	memset(big, 'x', 300000);
	weft_headers_add(&f->req, "a", 1, big, 300000);
	weft_access_logs_write(l, &f->in);
	weft_headers_set(&f->req, "a", 1, "ok", 2);
	weft_access_logs_write(l, &f->in);
	content(f->path, got, sizeof(got));
	assert_string_equal(got, "ok\n");
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(filters, setup, teardown),
		cmocka_unit_test_setup_teardown(samples, setup, teardown),
		cmocka_unit_test_setup_teardown(filters_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(formats, setup, teardown),
		cmocka_unit_test_setup_teardown(cannot_open, setup, teardown),
		cmocka_unit_test_setup_teardown(shared, setup, teardown),
		cmocka_unit_test_setup_teardown(full_pipe, setup, teardown),
		cmocka_unit_test_setup_teardown(too_long, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
