/* An HTTP/1 server session; the client is raw bytes. */
#include "test/unit/proxy/session/fixture.h"

static struct side *srv;
static int fd;

static void start(void)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	fd = fds[0];
	side_start(srv, fds[1]);
}

static int up(void **state)
{
	srv = side_new(true, WEFT_HTTP_11);
	return 0;
}

static int down(void **state)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
	settle();
	side_free(srv);
	settle();
	return 0;
}

static void ok(struct ex *e, bool end)
{
	if (!end)
		return;
	assert_int_equal(answer(e, ":status: 200\ncontent-length: 2", false), 0);
	assert_int_equal(send_text(e, "ok", true), 1);
}

static void ok_at_end(struct ex *e, struct evbuffer *b, bool end)
{
	ok(e, end);
}

#define OK "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

static void a_request_is_answered(void **state)
{
	srv->on_headers = ok;
	start();
	put(fd, "GET /a?b HTTP/1.1\r\nHost: h:1\r\nX-One:  v \r\n\r\n");
	assert_log(srv, "headers :authority=h:1 :path=/a?b :method=GET :scheme=http x-one=v END\n"
			"done\n");
	assert_string_equal(get(fd), OK);
	assert_int_equal(weft_session_total(srv->s), 1);
	assert_int_equal(weft_session_open_count(srv->s), 0);
}

static uint64_t head_rx, head_tx, rx, tx;

static void count_heads(struct ex *e, bool end)
{
	ok(e, end);
	weft_exchange_head_bytes(e->x, &head_rx, &head_tx);
	weft_exchange_bytes(e->x, &rx, &tx);
}

/* As Envoy counts: names, values and three bytes of what came, four of what goes. */
static void heads_are_counted(void **state)
{
	static const char ask[] = "GET /a?b HTTP/1.1\r\nHost: h:1\r\nX-One:  v \r\n\r\n";

	srv->on_headers = count_heads;
	start();
	put(fd, ask);
	assert_string_equal(get(fd), OK);
	assert_int_equal(head_rx, (4 + 3 + 3) + (5 + 1 + 3));
	assert_int_equal(head_tx, strlen("content-length: 2\r\n"));
	assert_int_equal(rx, strlen(ask));
	assert_int_equal(tx, strlen(OK));
}

static void pipelined_requests_come_one_by_one(void **state)
{
	start();
	put(fd, "GET /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\n\r\n"
		"GET /3 HTTP/1.1\r\nhost: h\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/1 :method=GET :scheme=http END\n");
	ok(srv->ex[0], true);
	assert_log(srv, "done\nheaders :authority=h :path=/2 :method=GET :scheme=http END\n");
	put(fd, "GET /4 HTTP/1.1\r\nhost: h\r\n\r\n");
	ok(srv->ex[1], true);
	srv->on_headers = ok;
	assert_log(srv, "done\nheaders :authority=h :path=/3 :method=GET :scheme=http END\n"
			"done\nheaders :authority=h :path=/4 :method=GET :scheme=http END\ndone\n");
	assert_string_equal(get(fd), OK OK OK OK);
}

static void bodies_are_told_with_their_end(void **state)
{
	srv->on_data = ok_at_end;
	start();
	put(fd, "POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello"
		"POST /2 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
		"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/1 :method=POST :scheme=http content-length=5\n"
			"data hello END\ndone\n"
			"headers :authority=h :path=/2 :method=POST :scheme=http\n"
			"data abc\ndata defg\ndata  END\ndone\n");
	assert_string_equal(get(fd), OK OK);
}

static void chunks_win_over_a_length_where_allowed(void **state)
{
	srv->conf.h1.allow_chunked_length = true;
	srv->on_data = ok_at_end;
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n"
		"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http\ndata a\n"
			"data  END\ndone\n");
	assert_string_equal(get(fd), OK);
}

static void a_body_comes_in_pieces(void **state)
{
	srv->on_data = ok_at_end;
	start();
	put(fd, "POST / HTTP/1.1\r\nho");
	put(fd, "st: h\r\ncontent-length: 5\r\n\r");
	assert_log(srv, "");
	put(fd, "\nhe");
	put(fd, "ll");
	put(fd, "o");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http content-length=5\n"
			"data he\ndata ll\ndata o END\ndone\n");
	assert_string_equal(get(fd), OK);
}

static void chunked_answers_and_trailers(void **state)
{
	srv->conf.h1.enable_trailers = true;
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
		"1\r\nx\r\n0\r\nX-T: 1\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http\ndata x\n"
			"trailers x-t=1 END\n");
	assert_int_equal(answer(srv->ex[0], ":status: 201\nx: y", false), 0);
	assert_int_equal(send_text(srv->ex[0], "0123456789abcdef", false), 1);
	assert_int_equal(weft_exchange_send_trailers(srv->ex[0]->x, list(srv->ex[0], "t: 2")), 0);
	assert_string_equal(get(fd), "HTTP/1.1 201 Created\r\nx: y\r\ntransfer-encoding: chunked"
				     "\r\n\r\n10\r\n0123456789abcdef\r\n0\r\nt: 2\r\n\r\n");
	assert_log(srv, "done\n");
}

static void trailers_are_dropped_unless_wanted(void **state)
{
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
		"1\r\nx\r\n0\r\nX-T: 1\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http\ndata x\n"
			"data  END\n");
	answer(srv->ex[0], ":status: 200", false);
	weft_exchange_send_trailers(srv->ex[0]->x, list(srv->ex[0], "t: 2"));
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
				     "0\r\n\r\n");
}

static void answers_without_a_body(void **state)
{
	start();
	put(fd, "HEAD / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[0], ":status: 200\ncontent-length: 7", false);
	send_text(srv->ex[0], "ignored", true);
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n");
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[1], ":status: 204\ncontent-length: 3", true);
	assert_string_equal(get(fd), "HTTP/1.1 204 No Content\r\n\r\n");
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[2], ":status: 304\ncontent-length: 3", true);
	assert_string_equal(get(fd), "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n");
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[3], ":status: 404", true);
	assert_string_equal(get(fd), "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
}

static void fields_of_the_connection_stay_here(void **state)
{
	start();
	put(fd, "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Gone, te\r\n"
		"Keep-Alive: 3\r\nX-Gone: 1\r\nProxy-Connection: x\r\nTE: gzip, trailers;q=1\r\n"
		"Upgrade: nobody\r\nX-Kept: 1\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http x-kept=1 "
			"te=trailers END\n");
	answer(srv->ex[0],
	       ":status: 200\nconnection: close\nkeep-alive: 1\ntransfer-encoding: x\na: b", true);
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 0\r\n"
				     "connection: close\r\n\r\n<EOF>");
	assert_log(srv, "done\nclosed eof\n");
}

static void some_fields_must_not_be_named(void **state)
{
	start();
	put(fd, "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-forwarded-for\r\n\r\n");
	assert_log(srv, "bad 400 http1.connection_header_rejected\nclosed eof\n");
	assert_non_null(strstr(get(fd), "HTTP/1.1 400 Bad Request\r\n"));
}

static void connection_close_is_kept(void **state)
{
	srv->on_headers = ok;
	start();
	put(fd, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close"
				     "\r\n\r\nok<EOF>");
}

static void http_10_where_allowed(void **state)
{
	srv->conf.h1.accept_http_10 = true;
	srv->conf.h1.default_host = "def";
	start();
	put(fd, "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
	ok(srv->ex[0], true);
	assert_string_equal(get(fd), "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: "
				     "keep-alive\r\n\r\nok");
	put(fd, "GET /2 HTTP/1.0\r\n\r\n");
	assert_log(srv, "headers :authority=def :path=/1 :method=GET :scheme=http END\ndone\n"
			"headers :authority=def :path=/2 :method=GET :scheme=http END\n");
	answer(srv->ex[1], ":status: 200", false);
	send_text(srv->ex[1], "until", false);
	send_text(srv->ex[1], "close", true);
	assert_string_equal(get(fd), "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nuntilclose<EOF>");
}

static void http_10_is_refused(void **state)
{
	start();
	put(fd, "GET /1 HTTP/1.0\r\nhost: h\r\n\r\n");
	assert_log(srv, "bad 426 low_version\nclosed eof\n");
	assert_non_null(strstr(get(fd), "HTTP/1.1 426 Upgrade Required\r\n"));
}

static void absolute_targets(void **state)
{
	srv->on_headers = ok;
	start();
	put(fd, "GET https://a.b:8/p/q HTTP/1.1\r\nHost: other\r\n\r\n"
		"GET http://a.b HTTP/1.1\r\nHost: other\r\n\r\n");
	assert_log(srv, "headers :authority=a.b:8 :path=/p/q :method=GET :scheme=https END\ndone\n"
			"headers :authority=a.b :path=/ :method=GET :scheme=http END\ndone\n");
}

static void bad_heads_are_answered(void **state)
{
	static const struct {
		const char *bytes, *log, *status;
	} cases[] = {
		{"GET / HTTP/1.1\r\nhost: h\r\nbad line\r\n\r\n", "bad 400 http1.codec_error\n",
		 "HTTP/1.1 400 "},
		{"GET / HTTP/1.1\r\n\r\n", "bad 400 missing_host_header\n", "HTTP/1.1 400 "},
		{"GET / HTTP/1.1\r\nhost: h\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n",
		 "bad 431 http1.too_many_headers\n", "HTTP/1.1 431 "},
		{"GET /0123456789012345678901234567890123456789012345678901234567890123456789012345"
		 "678901234567890123456789 HTTP/1.1\r\nhost: h\r\n\r\n",
		 "bad 431 http1.headers_too_large\n", "HTTP/1.1 431 "},
		{"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n"
		 "transfer-encoding: chunked\r\n\r\n",
		 "bad 400 http1.content_length_and_chunked_not_allowed\n", "HTTP/1.1 400 "},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		srv->conf.h1.max_headers = 4;
		srv->conf.h1.max_header_bytes = 100;
		start();
		put(fd, cases[i].bytes);
		settle();
		assert_true(srv->closed);
		assert_memory_equal(srv->log, cases[i].log, strlen(cases[i].log));
		assert_memory_equal(get(fd), cases[i].status, strlen(cases[i].status));
		assert_non_null(strstr(raw, "connection: close\r\n"));
		close(fd);
		settle();
		side_free(srv);
		srv = side_new(true, WEFT_HTTP_11);
	}
	fd = -1;
}

static void a_bad_host_need_not_close(void **state)
{
	srv->conf.h1.stream_error_on_invalid = true;
	srv->on_headers = ok;
	start();
	put(fd, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n");
	assert_log(srv, "bad 400 missing_host_header\n"
			"headers :authority=h :path=/ :method=GET :scheme=http END\ndone\n");
	assert_string_equal(get(fd), "HTTP/1.1 400 Bad Request\r\ncontent-length: 11\r\n"
				     "content-type: text/plain\r\n\r\nBad Request" OK);
	put(fd, "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n");
	assert_log(srv, "bad 400 missing_host_header\nclosed eof\n");
}

static void broken_chunks_cut_the_exchange(void **state)
{
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http\n"
			"reset protocol http1.codec_error\nclosed eof\n");
	assert_non_null(strstr(get(fd), "HTTP/1.1 400 Bad Request\r\n"));
}

static void expect_continue(void **state)
{
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http "
			"expect=100-continue content-length=2\n");
	assert_int_equal(
		weft_exchange_send_informational(srv->ex[0]->x, list(srv->ex[0], ":status: 100")),
		0);
	assert_string_equal(get(fd), "HTTP/1.1 100 Continue\r\n\r\n");
	srv->on_data = ok_at_end;
	put(fd, "hi");
	assert_log(srv, "data hi END\ndone\n");
	assert_string_equal(get(fd), OK);
}

static void early_answer_closes_unless_the_body_is_here(void **state)
{
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nh");
	answer(srv->ex[0], ":status: 413", true);
	put(fd, "i");
	assert_string_equal(get(fd), "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n"
				     "<EOF>");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http content-length=2\n"
			"data h\ndone\nclosed eof\n");
}

static void refuse_at_once(struct ex *e, bool end)
{
	answer(e, ":status: 413", true);
}

static void early_answer_to_a_short_body_goes_on(void **state)
{
	srv->on_headers = refuse_at_once;
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi");
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http content-length=2\n"
			"done\nheaders :authority=h :path=/ :method=GET :scheme=http END\ndone\n");
}

static void an_upgrade_is_opaque_both_ways(void **state)
{
	start();
	put(fd, "GET /ws HTTP/1.1\r\nhost: h\r\nConnection: keep-alive, Upgrade\r\n"
		"Upgrade: WebSocket\r\n\r\nearly");
	assert_log(srv, "headers :authority=h :path=/ws :method=GET :scheme=http upgrade=WebSocket "
			"connection=upgrade\ndata early\n");
	answer(srv->ex[0], ":status: 101\nupgrade: websocket\nconnection: upgrade", false);
	send_text(srv->ex[0], "down", false);
	assert_string_equal(get(fd), "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n"
				     "connection: upgrade\r\n\r\ndown");
	put(fd, "GET / HTTP/1.1\r\n\r\n");
	assert_log(srv, "data GET / HTTP/1.1\r\n\r\n\n");
	shutdown(fd, SHUT_WR);
	assert_log(srv, "data  END\n");
	send_text(srv->ex[0], "bye", true);
	assert_string_equal(get(fd), "bye<EOF>");
	assert_log(srv, "done\nclosed eof\n");
}

static void a_refused_upgrade_closes(void **state)
{
	start();
	put(fd, "GET /ws HTTP/1.1\r\nhost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
	answer(srv->ex[0], ":status: 403\nupgrade: x", true);
	assert_string_equal(get(fd), "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n<EOF>");
}

static void h2c_is_not_heard(void **state)
{
	srv->on_headers = ok;
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n"
		"Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http END\ndone\n");
	assert_string_equal(get(fd), OK);
}

static void connect_is_a_tunnel(void **state)
{
	start();
	put(fd, "CONNECT a.b:443 HTTP/1.1\r\nhost: c\r\n\r\n");
	assert_log(srv, "headers :authority=a.b:443 :method=CONNECT\n");
	answer(srv->ex[0], ":status: 200", false);
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\n\r\n");
	put(fd, "bytes");
	send_text(srv->ex[0], "more", true);
	assert_string_equal(get(fd), "more<EOF>");
	assert_log(srv, "data bytes\n");
	close(fd);
	fd = -1;
	assert_log(srv, "data  END\ndone\nclosed eof\n");
}

static void a_client_that_goes_cuts_the_exchange(void **state)
{
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	close(fd);
	fd = -1;
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http END\n"
			"reset remote\nclosed eof\n");
}

static void a_reset_closes(void **state)
{
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[0], ":status: 200", false);
	send_text(srv->ex[0], "part", false);
	weft_exchange_reset(srv->ex[0]->x, WEFT_RESET_LOCAL);
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
				     "4\r\npart\r\n<EOF>");
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http END\nclosed eof\n");
}

static void reset_when_answered(struct ex *e, bool end)
{
	struct weft_exchange *x = e->x;

	ok(e, end);
	e->x = NULL;
	weft_exchange_reset(x, WEFT_RESET_LOCAL);
}

static void a_reset_after_the_answer_is_nothing(void **state)
{
	start();
	put(fd, "GET /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\n\r\n");
	reset_when_answered(srv->ex[0], true);
	srv->on_headers = reset_when_answered;
	put(fd, "GET /3 HTTP/1.1\r\nhost: h\r\n\r\n");
	put(fd, "GET /4 HTTP/1.1\r\nhost: h\r\n\r\n");
	assert_string_equal(get(fd), OK OK OK OK);
	assert_false(srv->closed);
}

static void a_wrong_length_is_not_sent(void **state)
{
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[0], ":status: 200\ncontent-length: 3", false);
	assert_int_equal(send_text(srv->ex[0], "four", false), -EPROTO);
	weft_exchange_reset(srv->ex[0]->x, WEFT_RESET_LOCAL);
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n<EOF>");
}

static void a_pause_holds_the_body(void **state)
{
	start();
	put(fd, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nab");
	weft_exchange_pause(srv->ex[0]->x);
	weft_exchange_pause(srv->ex[0]->x);
	put(fd, "cdef");
	assert_log(srv, "headers :authority=h :path=/ :method=POST :scheme=http content-length=6\n"
			"data ab\n");
	weft_exchange_resume(srv->ex[0]->x);
	assert_log(srv, "");
	weft_exchange_resume(srv->ex[0]->x);
	assert_log(srv, "data cdef END\n");
}

static void drain_ends_with_the_next_answer(void **state)
{
	srv->on_headers = ok;
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	get(fd);
	weft_session_drain(srv->s, 60000);
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close"
				     "\r\n\r\nok<EOF>");
	assert_true(srv->closed);
}

static void a_slow_head_times_out(void **state)
{
	srv->conf.headers_ms = 5;
	start();
	put(fd, "GET / HTTP/1.1\r\n");
	for (int i = 0; i < 200 && !srv->log[0]; i++) {
		usleep(10000);
		settle();
	}
	assert_log(srv, "bad 408 request_header_timeout\nclosed eof\n");
	assert_memory_equal(get(fd), "HTTP/1.1 408 Request Timeout\r\n", 30);
}

static void fill(struct ex *e)
{
	while (send_text(e, "0123456789012345678901234567890123456789", false) == 1)
		;
}

static void full_buffers_stop_the_owner(void **state)
{
	size_t n = 0;

	srv->conf.buffer_bytes = 50000;
	srv->quiet = true;
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	answer(srv->ex[0], ":status: 200", false);
	srv->on_writable = fill;
	fill(srv->ex[0]);
	for (int i = 0; i < 40; i++)
		n += strlen(get(fd));
	assert_true(n > 2 * srv->conf.buffer_bytes);
	srv->on_writable = NULL;
}

static void a_refused_exchange_closes(void **state)
{
	srv->refuse = true;
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
	assert_string_equal(get(fd), "<EOF>");
	assert_log(srv, "closed eof\n");
}

static void free_inside(struct ex *e, bool end)
{
	weft_session_free(e->side->s);
	e->side->s = NULL;
}

static void a_session_may_be_freed_inside_a_callback(void **state)
{
	srv->on_headers = free_inside;
	start();
	put(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\nGET / HTTP/1.1\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http END\n"
			"reset local\n");
}

#define T(name) cmocka_unit_test_setup_teardown(name, up, down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_request_is_answered),
		T(heads_are_counted),
		T(pipelined_requests_come_one_by_one),
		T(bodies_are_told_with_their_end),
		T(chunks_win_over_a_length_where_allowed),
		T(a_body_comes_in_pieces),
		T(chunked_answers_and_trailers),
		T(trailers_are_dropped_unless_wanted),
		T(answers_without_a_body),
		T(fields_of_the_connection_stay_here),
		T(some_fields_must_not_be_named),
		T(connection_close_is_kept),
		T(http_10_where_allowed),
		T(http_10_is_refused),
		T(absolute_targets),
		T(bad_heads_are_answered),
		T(a_bad_host_need_not_close),
		T(broken_chunks_cut_the_exchange),
		T(expect_continue),
		T(early_answer_closes_unless_the_body_is_here),
		T(early_answer_to_a_short_body_goes_on),
		T(an_upgrade_is_opaque_both_ways),
		T(a_refused_upgrade_closes),
		T(h2c_is_not_heard),
		T(connect_is_a_tunnel),
		T(a_client_that_goes_cuts_the_exchange),
		T(a_reset_closes),
		T(a_reset_after_the_answer_is_nothing),
		T(a_wrong_length_is_not_sent),
		T(a_pause_holds_the_body),
		T(drain_ends_with_the_next_answer),
		T(a_slow_head_times_out),
		T(full_buffers_stop_the_owner),
		T(a_refused_exchange_closes),
		T(a_session_may_be_freed_inside_a_callback),
	};

	return cmocka_run_group_tests_name("h1_server", tests, base_up, base_down);
}
