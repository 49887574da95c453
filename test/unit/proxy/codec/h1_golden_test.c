/* Golden files of HTTP/1: the events of each test/golden/h1/NAME.in must be NAME.out, however the
 * bytes are cut. res-*: a response (-head-, -connect-, -upgrade-: to such a request), h10-*:
 * HTTP/1.0 is allowed. envoy-verdicts.txt says what Envoy did with each case: what it refuses,
 * we refuse. WEFT_GOLDEN_UPDATE=1 writes the .out files anew. */
#include "proxy/codec/h1.h"
#include <dirent.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char folder[] = "test/golden/h1", suffix[] = ".in";

enum { LONG_TEXT = 100 };

struct bytes {
	char *p;
	size_t n;
};

struct listing {
	FILE *f;
	FILE *body; /* slices of one body, put together */
	char *body_p;
	size_t body_n;
};

static struct bytes slurp(const char *path)
{
	struct bytes b = {0};
	FILE *in = fopen(path, "rb"), *out = open_memstream(&b.p, &b.n);
	char buf[4096];
	size_t got;

	while (in && (got = fread(buf, 1, sizeof(buf), in)) > 0)
		fwrite(buf, 1, got, out);
	if (in)
		fclose(in);
	fclose(out);
	return b;
}

static void put_text(FILE *f, const char *s, size_t n)
{
	for (size_t i = 0; i < n && i < LONG_TEXT; i++) {
		uint8_t c = (uint8_t)s[i];

		if (c < ' ' || c > '~' || c == '\\')
			fprintf(f, "\\x%02x", c);
		else
			fputc(c, f);
	}
	if (n > LONG_TEXT)
		fprintf(f, "... %zu", n);
}

static void put_slice(FILE *f, const char *what, struct weft_h1_slice s)
{
	if (!s.p)
		return;
	fprintf(f, " %s \"", what);
	put_text(f, s.p, s.n);
	fputc('"', f);
}

static void put_fields(FILE *f, const struct weft_h1_head *h)
{
	for (uint32_t i = 0; i < h->n; i++) {
		fputs("  ", f);
		put_text(f, h->v[i].name, h->v[i].name_len);
		fputs(": ", f);
		put_text(f, h->v[i].value, h->v[i].value_len);
		fputc('\n', f);
	}
}

static void put_head(FILE *f, const struct weft_h1_head *h, bool end)
{
	static const char *const forms[] = {"origin", "absolute", "authority", "asterisk"};

	fprintf(f, "head HTTP/1.%d", h->minor);
	if (h->status)
		fprintf(f, " %d", h->status);
	else
		fprintf(f, " %.*s %s", (int)h->method.n, h->method.p, forms[h->form]);
	put_slice(f, "reason", h->reason);
	put_slice(f, "scheme", h->scheme);
	put_slice(f, "authority", h->authority);
	put_slice(f, "path", h->path);
	if (h->content_length >= 0)
		fprintf(f, " length %lld", (long long)h->content_length);
	fprintf(f, "%s%s%s%s%s%s%s%s\n", h->chunked ? " chunked" : "",
		h->keep_alive ? " keep-alive" : " close", h->upgrade ? " upgrade" : "",
		h->connect ? " connect" : "", h->expect_continue ? " expects-100" : "",
		h->interim ? " interim" : "", h->until_close ? " until-close" : "",
		end ? " end" : "");
	put_fields(f, h);
}

static void flush_body(struct listing *l)
{
	fflush(l->body);
	if (!l->body_n)
		return;
	fputs("body \"", l->f);
	put_text(l->f, l->body_p, l->body_n);
	fputs("\"\n", l->f);
	rewind(l->body);
	fflush(l->body);
}

static void put_event(struct listing *l, const struct weft_h1_event *ev)
{
	if (ev->type == WEFT_H1_BODY) {
		fwrite(ev->body.p, 1, ev->body.n, l->body);
		if (!ev->end)
			return;
		flush_body(l);
		fputs("end\n", l->f);
		return;
	}
	if (ev->type == WEFT_H1_MORE)
		return;
	flush_body(l);
	switch (ev->type) {
	case WEFT_H1_HEAD:
		put_head(l->f, &ev->head, ev->end);
		break;
	case WEFT_H1_TRAILERS:
		fputs("trailers\n", l->f);
		put_fields(l->f, &ev->head);
		break;
	case WEFT_H1_END:
		fputs("end\n", l->f);
		break;
	case WEFT_H1_OPAQUE:
		fputs("opaque\n", l->f);
		break;
	default:
		fprintf(l->f, "fail %d %s %d\n", ev->error, weft_h1_error_text(ev->error),
			weft_h1_error_status(ev->error));
	}
}

static struct weft_h1_conf conf_of(const char *name)
{
	return (struct weft_h1_conf){
		.response = !strncmp(name, "res-", 4),
		.http10 = !strncmp(name, "h10-", 4),
	};
}

static enum weft_h1_asked asked_of(const char *name)
{
	if (!strncmp(name, "res-head-", 9))
		return WEFT_H1_ASKED_HEAD;
	if (!strncmp(name, "res-connect-", 12))
		return WEFT_H1_ASKED_CONNECT;
	return strncmp(name, "res-upgrade-", 12) ? WEFT_H1_ASKED_OTHER : WEFT_H1_ASKED_UPGRADE;
}

/* Each piece in a block of its very size, gone after its events: what is read beyond is seen. */
static bool feed_piece(struct weft_h1 *p, const char *s, size_t n, struct weft_h1_event *ev,
		       struct listing *l)
{
	char *exact = malloc(n);
	size_t at = 0;

	assert_non_null(exact);
	memcpy(exact, s, n);
	while (at < n) {
		size_t took = weft_h1_feed(p, exact + at, n - at, ev);

		assert_true(took <= n - at);
		put_event(l, ev);
		if (ev->type == WEFT_H1_FAIL || ev->type == WEFT_H1_OPAQUE)
			break;
		assert_true(took > 0);
		at += took;
		if (ev->type == WEFT_H1_HEAD && ev->head.connect && !p->conf->response)
			weft_h1_tunnel(p);
	}
	free(exact);
	return at == n;
}

/* cut: bytes of a piece; 0: all in one. */
static char *list(const char *name, struct bytes in, size_t cut)
{
	struct weft_h1_conf conf = conf_of(name);
	struct weft_h1_event ev = {0};
	struct listing l = {0};
	struct weft_h1 p;
	bool more = true;
	size_t n;
	char *text;

	l.f = open_memstream(&text, &n);
	l.body = open_memstream(&l.body_p, &l.body_n);
	assert_true(l.f && l.body);
	weft_h1_init(&p, &conf);
	if (conf.response)
		weft_h1_expect(&p, asked_of(name));
	for (size_t at = 0, len; more && at < in.n; at += len) {
		len = cut && cut < in.n - at ? cut : in.n - at;
		more = feed_piece(&p, in.p + at, len, &ev, &l);
	}
	if (more) {
		weft_h1_eof(&p, &ev);
		put_event(&l, &ev);
	}
	flush_body(&l);
	fclose(l.f);
	fclose(l.body);
	free(l.body_p);
	weft_h1_event_done(&ev);
	weft_h1_done(&p);
	return text;
}

static void test_one(void **state)
{
	static const size_t cuts[] = {1, 2, 3, 7, 64, 1000};
	const char *name = *state;
	int stem = (int)(strlen(name) - strlen(suffix));
	struct bytes in, want;
	char path[PATH_MAX], *got;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	in = slurp(path);
	got = list(name, in, 0);
	snprintf(path, sizeof(path), "%s/%.*s.out", folder, stem, name);
	if (getenv("WEFT_GOLDEN_UPDATE")) {
		f = fopen(path, "w");
		assert_non_null(f);
		fputs(got, f);
		assert_int_equal(fclose(f), 0);
	}
	want = slurp(path);
	assert_string_equal(got, want.p);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		char *again = list(name, in, cuts[i]);

		assert_string_equal(again, got);
		free(again);
	}
	/* what is called bad fails, and only that */
	if (strstr(name, "bad-") || strstr(name, "ok-"))
		assert_int_equal(!strstr(name, "bad-"), !strstr(got, "fail "));
	free(got);
	free(want.p);
	free(in.p);
}

/* "NAME refused ..." of envoy-verdicts.txt */
static void test_never_laxer(void **state)
{
	char path[PATH_MAX], line[512], name[256], verdict[32];
	int refused = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/envoy-verdicts.txt", folder);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	assert_int_equal(strncmp(line, "envoy 1.", 8), 0);
	while (fgets(line, sizeof(line), f)) {
		struct bytes in;
		char *got;

		assert_int_equal(sscanf(line, "%255s %31s", name, verdict), 2);
		if (strcmp(verdict, "refused"))
			continue;
		snprintf(path, sizeof(path), "%s/%s%s", folder, name, suffix);
		in = slurp(path);
		got = list(name, in, 0);
		if (!strstr(got, "fail "))
			fail_msg("%s: Envoy refuses it, weft does not:\n%s", name, got);
		refused++;
		free(got);
		free(in.p);
	}
	fclose(f);
	assert_true(refused > 100);
}

static int is_case(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return n > strlen(suffix) && !strcmp(d->d_name + n - strlen(suffix), suffix);
}

int main(void)
{
	struct dirent **names;
	int n = scandir(folder, &names, is_case, alphasort), r;
	struct CMUnitTest *tests;

	if (n <= 0) {
		fprintf(stderr, "%s: no *%s files\n", folder, suffix);
		return 1;
	}
	tests = calloc((size_t)n + 1, sizeof(*tests));
	for (int i = 0; tests && i < n; i++) {
		tests[i].name = names[i]->d_name;
		tests[i].test_func = test_one;
		tests[i].initial_state = names[i]->d_name;
	}
	if (tests)
		tests[n] = (struct CMUnitTest)cmocka_unit_test(test_never_laxer);
	r = _cmocka_run_group_tests("golden/h1", tests, (size_t)n + 1, NULL, NULL);
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	free(tests);
	return r;
}
