/* The admin server with clients of every kind on a unix socket, and its own client. */
#include "proxy/net/http_admin.h"

#include "proxy/core/worker.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct weft_worker *worker;
static struct weft_http_admin *admin;
static char dir[] = "/tmp/weft-admin-XXXXXX", path[64];
static _Atomic int calls;

static int handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		   const char **ret_type)
{
	char value[8];

	assert_ptr_equal(owner, &calls);
	atomic_fetch_add(&calls, 1);
	if (!strcmp(r->path, "/big")) {
		char *p = calloc(1, 6 << 20);

		assert_non_null(p);
		memset(p, 'b', 6 << 20);
		evbuffer_add(out, p, 6 << 20);
		free(p);
		return 200;
	}
	if (!strcmp(r->path, "/json")) {
		*ret_type = "application/json";
		evbuffer_add_printf(out, "{}");
		return 503;
	}
	evbuffer_add_printf(out, "%s|%s|%s|%zu|%.*s", r->method, r->path, r->query, r->body_n,
			    (int)(r->body_n > 20 ? 20 : r->body_n), r->body);
	if (!weft_http_query(r->query, "v", value, sizeof(value)))
		evbuffer_add_printf(out, "|v=%s", value);
	return 200;
}

static int setup(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&un, sizeof(un)) || listen(fd, 64))
		return -1;
	worker = weft_worker_new(0, NULL);
	admin = weft_http_admin_new(worker->base, fd, handler, &calls);
	return weft_worker_start(worker, false);
}

static int teardown(void **state)
{
	weft_worker_stop(worker);
	weft_worker_join(worker);
	weft_http_admin_free(admin); /* with clients still there */
	weft_http_admin_free(NULL);
	weft_worker_free(worker);
	unlink(path);
	return rmdir(dir);
}

static int dial(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct timeval limit = {15, 0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static char answer[8192];

/* All the server says until it closes. */
static void read_answer(int fd)
{
	size_t n = 0;

	for (;;) {
		ssize_t r = read(fd, answer + n, sizeof(answer) - 1 - n);

		if (r < 0)
			assert_int_equal(errno, ECONNRESET);
		if (r <= 0)
			break;
		n += (size_t)r;
	}
	answer[n] = '\0';
	close(fd);
}

/* Sends bytes as they are; the answer's status. */
static int raw(const char *p, size_t n)
{
	int fd = dial();

	while (n) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);

		if (w <= 0)
			break; /* it has heard enough */
		p += w;
		n -= (size_t)w;
	}
	read_answer(fd);
	return strncmp(answer, "HTTP/1.1 ", 9) ? -1 : atoi(answer + 9);
}
#define RAW(s) raw(s, sizeof(s) - 1)

static int get(const char *method, const char *target, const char *body, size_t n, char **ret)
{
	struct weft_err e = {0};
	size_t got;
	int status = weft_http_unix(path, method, target, body, n, 15000, ret, &got, &e);

	if (status < 0)
		print_message("# %s\n", e.msg);
	assert_true(status < 0 || strlen(*ret) == got);
	return status;
}

static void test_requests(void **state)
{
	char *body;

	assert_int_equal(get("GET", "/a%20b/c?x=1&v=%41+b", NULL, 0, &body), 200);
	assert_string_equal(body, "GET|/a b/c|x=1&v=%41+b|0||v=A b");
	free(body);
	assert_int_equal(get("POST", "/p", "hello", 5, &body), 200);
	assert_string_equal(body, "POST|/p||5|hello");
	free(body);
	assert_int_equal(get("GET", "/json", NULL, 0, &body), 503);
	assert_string_equal(body, "{}");
	free(body);
	assert_int_equal(get("HEAD", "/json", NULL, 0, &body), 503);
	assert_string_equal(body, "");
	free(body);
	assert_int_equal(get("GET", "/big", NULL, 0, &body), 200);
	assert_int_equal(strspn(body, "b"), 6 << 20);
	free(body);
	assert_int_equal(RAW("GET /json HTTP/1.0\r\n\r\n"), 503);
	assert_non_null(
		strstr(answer, "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"));
	assert_non_null(strstr(answer, "\r\n\r\n{}"));
}

static void test_large_body(void **state)
{
	size_t n = 1 << 20;
	char *big = calloc(1, n + 1), *body;

	assert_non_null(big);
	memset(big, 'z', n + 1);
	assert_int_equal(get("POST", "/p", big, n, &body), 200);
	assert_non_null(strstr(body, "|1048576|zzzz"));
	free(body);
	assert_int_equal(get("POST", "/p", big, n + 1, &body), 413);
	free(body);
	free(big);
	assert_int_equal(
		RAW("POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nabcd"),
		200);
}

static void test_continue(void **state)
{
	static const char head[] =
		"POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
	int fd = dial();
	char got[64];

	assert_int_equal(write(fd, head, sizeof(head) - 1), sizeof(head) - 1);
	assert_int_equal(read(fd, got, sizeof(got)), 25);
	assert_memory_equal(got, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	assert_int_equal(write(fd, "abcd", 4), 4);
	read_answer(fd);
	assert_non_null(strstr(answer, "POST|/||4|abcd"));
}

static void test_refused(void **state)
{
	int before = atomic_load(&calls);

	assert_int_equal(RAW("\r\n\r\n"), 400);
	assert_int_equal(RAW("GET /\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1 \r\n\r\n"), 505);
	assert_int_equal(RAW("GET / HTTP/2.0\r\n\r\n"), 505);
	assert_int_equal(RAW("GET / SPDY/1\r\n\r\n"), 400);
	assert_int_equal(RAW("GET http://x/ HTTP/1.1\r\n\r\n"), 400);
	assert_int_equal(RAW("G(T / HTTP/1.1\r\n\r\n"), 400);
	assert_int_equal(RAW("GET /%00 HTTP/1.1\r\n\r\n"), 400);
	assert_int_equal(RAW("GET /%0a HTTP/1.1\r\n\r\n"), 400);
	assert_int_equal(RAW("GET /%4 HTTP/1.1\r\n\r\n"), 400);
	assert_int_equal(RAW("GET /%zz HTTP/1.1\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\nA: b\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nA : b\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nA: \0\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nno colon\r\n\r\n"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\na"), 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
			 400);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"),
			 413);
	assert_int_equal(RAW("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 501);
	assert_int_equal(RAW("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n"),
			 400);
	assert_int_equal(atomic_load(&calls), before);
}

/* One request a connection: what follows is not read as another. */
static void test_pipelined_garbage(void **state)
{
	char *junk = malloc(300000);
	int before = atomic_load(&calls);
	size_t n;

	assert_non_null(junk);
	memset(junk, 'j', 300000);
	n = (size_t)sprintf(junk, "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
	junk[n] = 'j';
	assert_int_equal(raw(junk, 300000), 200);
	assert_int_equal(atomic_load(&calls), before + 1);
	assert_non_null(strstr(answer, "GET|/a||0|"));
	assert_null(strstr(answer, "/b"));
	free(junk);
}

static void test_oversized_head(void **state)
{
	char *head = malloc(100000);
	size_t n;

	assert_non_null(head);
	memset(head, 'a', 100000);
	n = (size_t)sprintf(head, "GET / HTTP/1.1\r\nX: ");
	head[n] = 'a';
	assert_int_equal(raw(head, 100000), 431);
	memcpy(head + 8192 - 4, "\r\n\r\n", 4);
	assert_int_equal(raw(head, 8192), 200);
	memset(head + 8192 - 4, 'a', 4);
	memcpy(head + 8193 - 4, "\r\n\r\n", 4);
	assert_int_equal(raw(head, 8193), 431);
	n = (size_t)sprintf(head, "GET / HTTP/1.1\r\n");
	for (int i = 0; i < 100; i++)
		n += (size_t)sprintf(head + n, "X: %d\r\n", i);
	n += (size_t)sprintf(head + n, "\r\n");
	assert_int_equal(raw(head, n), 431);
	free(head);
}

/* Slow clients do not keep others waiting, and none keeps its connection beyond 10 s. */
static void test_slow_clients(void **state)
{
	uint64_t from = weft_now_ns();
	int fd[40];
	char *body;

	for (int i = 0; i < 40; i++) {
		fd[i] = dial();
		assert_int_equal(write(fd[i], "GET / HT", 8), 8);
	}
	assert_int_equal(get("GET", "/quick", NULL, 0, &body), 200);
	free(body);
	for (int i = 0; i < 40; i++) {
		struct pollfd p = {.fd = fd[i], .events = POLLIN};

		/* a byte now and then does not help it */
		(void)send(fd[i], "x", 1, MSG_NOSIGNAL);
		assert_int_equal(poll(&p, 1, 14000), 1);
		read_answer(fd[i]);
		assert_string_equal(answer, "");
	}
	assert_in_range((weft_now_ns() - from) / 1000000, 9000, 14000);
}

static void test_client_errors(void **state)
{
	char *body = (char *)"x";
	struct weft_err e;
	size_t n = 1;
	int fd;

	assert_int_equal(weft_http_unix("/nonexistent/s", "GET", "/", NULL, 0, 100, &body, &n, &e),
			 -ENOENT);
	assert_string_equal(e.msg, "/nonexistent/s: GET /: No such file or directory");
	assert_null(body);
	assert_int_equal(n, 0);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	{
		struct sockaddr_un un = {.sun_family = AF_UNIX};
		char silent[80];

		snprintf(silent, sizeof(silent), "%s/silent", dir);
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", silent);
		assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
		assert_int_equal(listen(fd, 0), 0);
		assert_int_equal(weft_http_unix(silent, "GET", "/", NULL, 0, 50, &body, &n, &e),
				 -ETIMEDOUT);
		/* the backlog is full now */
		assert_int_equal(weft_http_unix(silent, "GET", "/", NULL, 0, 50, &body, &n, &e),
				 -ETIMEDOUT);
		close(fd);
		unlink(silent);
	}
}

/* Connections that ask nothing keep nobody out, and the first of them end. */
static void test_idle_make_room(void **state)
{
	struct weft_err e;
	char *body, c;
	int fds[300];
	size_t n;

	for (int i = 0; i < 300; i++)
		fds[i] = dial();
	/* sooner than the 10 s after which they end by themselves */
	assert_int_equal(weft_http_unix(path, "GET", "/ok", NULL, 0, 5000, &body, &n, &e), 200);
	free(body);
	errno = 0;
	assert_true(recv(fds[0], &c, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
	assert_int_equal(recv(fds[299], &c, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	for (int i = 0; i < 300; i++)
		close(fds[i]);
}

static void test_query(void **state)
{
	char v[6];

	assert_int_equal(weft_http_query("a=1&b=2", "b", v, sizeof(v)), 0);
	assert_string_equal(v, "2");
	assert_int_equal(weft_http_query("ab=1&a", "a", v, sizeof(v)), 0);
	assert_string_equal(v, "");
	assert_int_equal(weft_http_query("a=12345", "a", v, sizeof(v)), 0);
	assert_int_equal(weft_http_query("a=123456", "a", v, sizeof(v)), -E2BIG);
	assert_int_equal(weft_http_query("a=%4", "a", v, sizeof(v)), -EINVAL);
	assert_int_equal(weft_http_query("a=%00", "a", v, sizeof(v)), -EINVAL);
	assert_int_equal(weft_http_query("", "a", v, sizeof(v)), -ENOENT);
	assert_int_equal(weft_http_query("&&x&", "a", v, sizeof(v)), -ENOENT);
	assert_int_equal(weft_http_query("a=b=c", "a", v, sizeof(v)), 0);
	assert_string_equal(v, "b=c");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_large_body),
		cmocka_unit_test(test_continue),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_pipelined_garbage),
		cmocka_unit_test(test_oversized_head),
		cmocka_unit_test(test_idle_make_room),
		cmocka_unit_test(test_client_errors),
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_slow_clients),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
