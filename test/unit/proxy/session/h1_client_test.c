/* An HTTP/1 client session; the server is raw bytes. */
#include "test/unit/proxy/session/fixture.h"

static struct side *cli;
static int fd;

static void start(void)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	fd = fds[0];
	side_start(cli, fds[1]);
}

static int up(void **state)
{
	cli = side_new(false, WEFT_HTTP_11);
	return 0;
}

static int down(void **state)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
	settle();
	side_free(cli);
	settle();
	return 0;
}

#define GET  ":method: GET\n:authority: h\n:path: /p"
#define POST ":method: POST\n:authority: h\n:path: /p"

static void a_connection_is_used_again(void **state)
{
	start();
	assert_int_equal(weft_session_room(cli->s), 1);
	ask(cli, GET "\n:scheme: http\nx-a: b", false);
	assert_int_equal(weft_session_room(cli->s), 0);
	assert_string_equal(get(fd), "GET /p HTTP/1.1\r\nhost: h\r\nx-a: b\r\n\r\n");
	put(fd, "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok");
	assert_log(cli, "headers :status=200 content-length=2\ndata ok END\ndone\nroom\n");
	ask(cli, POST, false);
	assert_string_equal(get(fd), "POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
	put(fd, "HTTP/1.1 204 No Content\r\n\r\n");
	assert_log(cli, "headers :status=204 END\ndone\nroom\n");
}

static void bodies_are_framed(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, POST, true);
	send_text(e, "abc", false);
	send_text(e, "d", true);
	assert_string_equal(get(fd), "POST /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n"
				     "\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
	put(fd, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
	assert_log(cli, "headers :status=200\ndata hi\ndata  END\ndone\nroom\n");
	e = ask(cli, POST "\ncontent-length: 3", true);
	send_text(e, "abc", true);
	assert_string_equal(get(fd), "POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc");
	put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
	assert_log(cli, "headers :status=200 content-length=0 END\ndone\nroom\n");
}

static void head_has_no_body(void **state)
{
	start();
	ask(cli, ":method: HEAD\n:authority: h\n:path: /", false);
	put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
	assert_log(cli, "headers :status=200 content-length=5 END\ndone\nroom\n");
}

/* What came so is written so by whoever writes it on: h1_server_test.c. */
static void spelling_comes_with_the_head(void **state)
{
	const struct weft_headers *h;

	cli->conf.h1.preserve_case = cli->conf.h1.preserve_reason = cli->conf.h1.proper_rest = true;
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 200 Fine By Me\r\nX-oNE: 1\r\nx-One: 2\r\ncontent-LENGTH: 0\r\n\r\n");
	assert_log(cli, "headers :status=200 x-one=1 x-one=2 content-length=0 END\ndone\nroom\n");
	h = cli->ex[0]->h;
	assert_string_equal(weft_headers_reason(h), "Fine By Me");
	assert_string_equal(weft_headers_spelling(h, "x-one", 5), "X-oNE");
	assert_string_equal(weft_headers_spelling(h, "content-length", 14), "content-LENGTH");
	assert_string_equal(weft_headers_spelling(h, "x-two", 5), "X-Two");
	cli->conf.h1.preserve_reason = false;
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n");
	settle();
	assert_null(weft_headers_reason(cli->ex[1]->h));
}

static void interim_answers_come_first(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
	assert_log(cli, "interim :status=100\ninterim :status=103 link=x\n"
			"headers :status=200 content-length=0 END\ndone\nroom\n");
}

static void a_body_until_close(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.0 200 OK\r\n\r\nsome");
	put(fd, "more");
	get(fd);
	close(fd);
	fd = -1;
	assert_log(cli, "goaway\nheaders :status=200\ndata some\ndata more\ndata  END\ndone\n"
			"closed eof\n");
}

static void connection_close_is_the_last(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
	assert_log(cli, "goaway\nheaders :status=200 content-length=1\ndata x END\ndone\n"
			"closed eof\n");
}

static void an_answer_before_the_end_of_the_request(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, POST, true);
	put(fd, "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
	assert_log(cli, "headers :status=413 content-length=0 END\ngoaway\n");
	assert_int_equal(weft_session_room(cli->s), 0);
	send_text(e, "rest", true);
	assert_log(cli, "done\nclosed eof\n");
}

static void a_peer_that_goes_while_idle(void **state)
{
	start();
	close(fd);
	fd = -1;
	assert_log(cli, "goaway\nclosed eof\n");
}

static void stray_bytes_close(void **state)
{
	start();
	put(fd, "HTTP/1.1 200 OK\r\n");
	assert_log(cli, "goaway\nclosed reset\n");
}

static void bytes_after_an_answer_close(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP");
	assert_log(cli, "headers :status=200 content-length=1\ndata x END\ndone\nroom\n"
			"goaway\nclosed reset\n");
}

static void lost_before_an_answer_on_a_used_connection(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
	ask(cli, GET, false);
	get(fd);
	close(fd);
	fd = -1;
	assert_log(cli, "headers :status=200 content-length=0 END\ndone\nroom\n"
			"goaway\nreset refused\nclosed eof\n");
}

static void lost_before_an_answer_on_a_fresh_one(void **state)
{
	start();
	ask(cli, GET, false);
	settle();
	close(fd);
	fd = -1;
	assert_log(cli, "goaway\nreset remote\nclosed reset\n");
}

static void cut_inside_an_answer(void **state)
{
	start();
	ask(cli, GET, false);
	get(fd);
	put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxyz");
	close(fd);
	fd = -1;
	assert_log(cli, "headers :status=200 content-length=10\ndata xyz\ngoaway\nreset protocol\n"
			"closed eof\n");
}

static void a_broken_answer(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 2x0 OK\r\n\r\n");
	assert_log(cli, "goaway\nreset protocol http1.codec_error\nclosed reset\n");
}

static void an_upgrade(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, GET "\nupgrade: websocket\nconnection: upgrade", true);
	assert_string_equal(get(fd), "GET /p HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n"
				     "connection: upgrade\r\n\r\n");
	put(fd, "HTTP/1.1 101 Yes\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\nhello");
	assert_log(cli, "goaway\nheaders :status=101 upgrade=websocket connection=upgrade\n"
			"data hello\n");
	send_text(e, "raw", false);
	assert_string_equal(get(fd), "raw");
	send_text(e, "end", true);
	assert_string_equal(get(fd), "end<EOF>");
	close(fd);
	fd = -1;
	assert_log(cli, "data  END\ndone\nclosed eof\n");
}

static void a_connect(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, ":method: CONNECT\n:authority: t:1", true);
	assert_string_equal(get(fd), "CONNECT t:1 HTTP/1.1\r\nhost: t:1\r\n\r\n");
	put(fd, "HTTP/1.1 200 OK\r\n\r\nxy");
	assert_log(cli, "goaway\nheaders :status=200\ndata xy\n");
	weft_exchange_reset(e->x, WEFT_RESET_LOCAL);
	assert_log(cli, "closed eof\n");
}

static void an_upgrade_nobody_asked_for(void **state)
{
	start();
	ask(cli, GET, false);
	put(fd, "HTTP/1.1 101 Yes\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n");
	assert_log(cli, "goaway\nreset protocol http1.codec_error\nclosed reset\n");
}

static void a_reset_closes(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, GET, false);
	weft_exchange_reset(e->x, WEFT_RESET_LOCAL);
	assert_log(cli, "closed eof\n");
	assert_non_null(strstr(get(fd), "<"));
}

static void a_pause_holds_the_answer(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, GET, false);
	put(fd, "HTTP/1.1 200 OK\r\n\r\nab");
	weft_exchange_pause(e->x);
	put(fd, "cd");
	get(fd);
	close(fd);
	fd = -1;
	assert_log(cli, "goaway\nheaders :status=200\ndata ab\n");
	weft_exchange_resume(e->x);
	assert_log(cli, "data cd\ndata  END\ndone\nclosed eof\n");
}

static void full_target(void **state)
{
	cli->conf.h1.send_fully_qualified_url = true;
	start();
	ask(cli, GET "\n:scheme: https", false);
	assert_string_equal(get(fd), "GET https://h/p HTTP/1.1\r\nhost: h\r\n\r\n");
}

static void what_would_split_a_head_is_refused(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, GET "\nx: a\rb", false);
	assert_true(e->over);
	assert_string_equal(get(fd), "");
	assert_int_equal(weft_session_room(cli->s), 1);
	ask(cli, GET, false);
	assert_string_equal(get(fd), "GET /p HTTP/1.1\r\nhost: h\r\n\r\n");
}

static void no_connection(void **state)
{
	struct weft_dial d = {.unix_path = "@weft-session-test-nobody-is-here"};
	struct weft_io *io;

	assert_int_equal(weft_io_dial(base, &d, NULL, NULL, &io), 0);
	cli->s = weft_session_new(io, &cli->conf, &session_ops, cli);
	ask(cli, GET, false);
	assert_log(cli, "goaway\nreset connect\nclosed refused\n");
	fd = -1;
}

#define T(name) cmocka_unit_test_setup_teardown(name, up, down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_connection_is_used_again),
		T(bodies_are_framed),
		T(head_has_no_body),
		T(spelling_comes_with_the_head),
		T(interim_answers_come_first),
		T(a_body_until_close),
		T(connection_close_is_the_last),
		T(an_answer_before_the_end_of_the_request),
		T(a_peer_that_goes_while_idle),
		T(stray_bytes_close),
		T(bytes_after_an_answer_close),
		T(lost_before_an_answer_on_a_used_connection),
		T(lost_before_an_answer_on_a_fresh_one),
		T(cut_inside_an_answer),
		T(a_broken_answer),
		T(an_upgrade),
		T(a_connect),
		T(an_upgrade_nobody_asked_for),
		T(a_reset_closes),
		T(a_pause_holds_the_answer),
		T(full_target),
		T(what_would_split_a_head_is_refused),
		T(no_connection),
	};

	return cmocka_run_group_tests_name("h1_client", tests, base_up, base_down);
}
