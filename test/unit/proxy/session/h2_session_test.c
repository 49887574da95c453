/* An HTTP/2 client session and a server session back to back. */
#include "test/unit/proxy/session/fixture.h"

static struct side *cli, *srv;

static void start(void)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	side_start(cli, fds[0]);
	side_start(srv, fds[1]);
	settle();
}

static int up(void **state)
{
	cli = side_new(false, WEFT_HTTP_2);
	srv = side_new(true, WEFT_HTTP_2);
	cli->conf.h2.table_size = srv->conf.h2.table_size = UINT32_MAX;
	srv->conf.h2.allow_connect = true;
	return 0;
}

static int down(void **state)
{
	side_free(cli);
	settle();
	side_free(srv);
	settle();
	return 0;
}

#define HEAD(m) ":method: " m "\n:scheme: http\n:authority: h\n:path: /p"
#define SAW(m)	"headers :method=" m " :scheme=http :path=/p :authority=h"

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

static void a_request_is_answered(void **state)
{
	srv->on_headers = ok;
	start();
	assert_int_equal(weft_session_room(cli->s), INT32_MAX);
	cli->log[0] = 0;
	ask(cli, HEAD("GET") "\nx-a: b\nconnection: close\nte: gzip", false);
	assert_log(srv, SAW("GET") " x-a=b END\ndone\n");
	assert_log(cli, "headers :status=200 content-length=2\ndata ok END\ndone\nroom\n");
	assert_int_equal(weft_session_open_count(srv->s), 0);
}

static void bodies_and_trailers_both_ways(void **state)
{
	struct ex *e;

	start();
	cli->log[0] = 0;
	e = ask(cli, HEAD("POST"), true);
	send_text(e, "one", false);
	assert_log(srv, SAW("POST") "\ndata one\n");
	send_text(e, "two", false);
	assert_int_equal(weft_exchange_send_trailers(e->x, list(e, "t: 1")), 0);
	assert_log(srv, "data two\ntrailers t=1 END\n");
	e = srv->ex[0];
	answer(e, ":status: 200", false);
	send_text(e, "abc", false);
	assert_int_equal(weft_exchange_send_trailers(e->x, list(e, "grpc-status: 0")), 0);
	assert_log(cli, "headers :status=200\ndata abc\ntrailers grpc-status=0 END\ndone\nroom\n");
	assert_log(srv, "done\n");
}

static struct {
	uint64_t head_rx, head_tx, rx, tx;
} seen;

static void count_late(struct ex *e, struct evbuffer *b, bool end)
{
	weft_exchange_head_bytes(e->x, &seen.head_rx, &seen.head_tx);
	weft_exchange_bytes(e->x, &seen.rx, &seen.tx);
}

/* HEADERS frames with their heads; DATA beside them. */
static void heads_are_counted(void **state)
{
	struct ex *e;

	srv->on_data = count_late;
	start();
	e = ask(cli, HEAD("POST") "\nx-long: abcdefghijklmnopqrstuvwxyz", true);
	send_text(e, "12345", true);
	settle();
	assert_int_equal(seen.head_tx, 0); /* nothing is answered yet */
	assert_in_range(seen.head_rx, 9 + 20, 9 + 100);
	assert_int_equal(seen.rx, seen.head_rx + 9 + 5);
	weft_exchange_head_bytes(e->x, &seen.head_rx, &seen.head_tx);
	assert_int_equal(seen.head_tx, seen.rx - 14);
	assert_int_equal(seen.head_rx, 0);
}

static void cookies_are_joined(void **state)
{
	start();
	ask(cli, HEAD("GET") "\ncookie: a=1\nx: y\ncookie: b=2\ncookie: c=3", false);
	assert_log(srv, SAW("GET") " cookie=a=1; b=2; c=3 x=y END\n");
}

static void te_trailers_travels(void **state)
{
	start();
	ask(cli, HEAD("GET") "\nte: trailers\nkeep-alive: 1\nupgrade-insecure: 1", false);
	assert_log(srv, SAW("GET") " te=trailers upgrade-insecure=1 END\n");
}

static void informational_comes_first(void **state)
{
	struct ex *e;

	start();
	cli->log[0] = 0;
	e = ask(cli, HEAD("POST") "\nexpect: 100-continue", true);
	assert_log(srv, SAW("POST") " expect=100-continue\n");
	assert_int_equal(
		weft_exchange_send_informational(srv->ex[0]->x, list(srv->ex[0], ":status: 100")),
		0);
	assert_log(cli, "interim :status=100\n");
	srv->on_data = ok_at_end;
	send_text(e, "x", true);
	assert_log(cli, "headers :status=200 content-length=2\ndata ok END\ndone\nroom\n");
}

static void an_upgrade_looks_like_that_of_h1(void **state)
{
	struct ex *e;

	start();
	cli->log[0] = 0;
	e = ask(cli, HEAD("GET") "\nupgrade: websocket\nconnection: upgrade", true);
	assert_log(srv, SAW("GET") " upgrade=websocket connection=upgrade\n");
	answer(srv->ex[0], ":status: 101\nupgrade: websocket\nconnection: upgrade", false);
	send_text(srv->ex[0], "hi", false);
	assert_log(cli, "headers :status=101 upgrade=websocket connection=upgrade\ndata hi\n");
	send_text(e, "up", true);
	assert_log(srv, "data up END\n");
	send_text(srv->ex[0], "bye", true);
	assert_log(srv, "done\n");
	assert_log(cli, "data bye END\ndone\nroom\n");
}

static void a_refused_upgrade(void **state)
{
	start();
	cli->log[0] = 0;
	ask(cli, HEAD("GET") "\nupgrade: websocket\nconnection: upgrade", true);
	settle();
	answer(srv->ex[0], ":status: 403", true);
	assert_log(cli, "headers :status=403 END\ndone\nroom\n");
	assert_true(srv->ex[0]->over);
}

static void a_connect(void **state)
{
	struct ex *e;

	start();
	cli->log[0] = 0;
	e = ask(cli, ":method: CONNECT\n:authority: t:1", true);
	assert_log(srv, "headers :method=CONNECT :authority=t:1\n");
	answer(srv->ex[0], ":status: 200", false);
	send_text(srv->ex[0], "x", true);
	assert_log(cli, "headers :status=200\ndata x END\n");
	send_text(e, "y", false);
	assert_log(srv, "data y\n");
	send_text(e, "z", true);
	assert_log(srv, "data z END\ndone\n");
	assert_log(cli, "done\nroom\n");
}

static void early_answer_stops_the_request(void **state)
{
	start();
	cli->log[0] = 0;
	ask(cli, HEAD("POST"), true);
	settle();
	answer(srv->ex[0], ":status: 413", true);
	assert_log(cli, "headers :status=413 END\ndone\nroom\n");
	assert_log(srv, SAW("POST") "\ndone\n");
}

static void resets(void **state)
{
	struct ex *e;

	start();
	cli->log[0] = 0;
	e = ask(cli, HEAD("POST"), true);
	settle();
	weft_exchange_reset(e->x, WEFT_RESET_LOCAL);
	assert_log(srv, SAW("POST") "\nreset remote http2.remote_reset\n");
	assert_log(cli, "room\n");
	ask(cli, HEAD("GET"), false);
	settle();
	weft_exchange_reset(srv->ex[1]->x, WEFT_RESET_REFUSED);
	assert_log(cli, "reset refused http2.remote_refuse\nroom\n");
	ask(cli, HEAD("GET"), false);
	settle();
	answer(srv->ex[2], ":status: 200", false);
	weft_exchange_reset(srv->ex[2]->x, WEFT_RESET_LOCAL);
	settle();
	assert_string_equal(strstr(cli->log, "reset"), "reset remote http2.remote_reset\nroom\n");
	srv->refuse = true;
	cli->log[0] = 0;
	ask(cli, HEAD("GET"), false);
	assert_log(cli, "reset refused http2.remote_refuse\nroom\n");
}

static void a_short_body_breaks_the_rule(void **state)
{
	struct ex *e;

	start();
	e = ask(cli, HEAD("POST") "\ncontent-length: 5", true);
	send_text(e, "123", true);
	settle();
	assert_non_null(strstr(srv->log, "reset protocol http2.violation.of.messaging.rule\n"));
	assert_false(srv->closed);
}

static void a_bad_field_ends_the_connection(void **state)
{
	start();
	ask(cli, HEAD("POST") "\nx: 1\nb d: 1", true);
	settle();
	assert_string_equal(srv->log, "bad 400 http2.invalid.header.field\nclosed reset\n");
	assert_true(srv->closed);
	assert_true(cli->closed);
}

static void too_many_fields(void **state)
{
	srv->conf.h2.max_headers = 6;
	start();
	ask(cli, HEAD("GET") "\na: 1\nb: 1\nc: 1", false);
	assert_log(srv, "bad 431 http2.too_many_headers\n");
	settle();
	assert_non_null(strstr(cli->log, "headers :status=431"));
}

static void drain_lets_exchanges_end(void **state)
{
	start();
	cli->log[0] = 0;
	ask(cli, HEAD("GET"), false);
	settle();
	weft_session_drain(srv->s, 0);
	assert_log(cli, "goaway\n");
	assert_int_equal(weft_session_room(cli->s), 0);
	ok(srv->ex[0], true);
	assert_log(cli, "headers :status=200 content-length=2\ndata ok END\ndone\nclosed eof\n");
	assert_true(srv->closed);
}

static void drain_with_grace(void **state)
{
	srv->on_headers = ok;
	start();
	cli->log[0] = 0;
	weft_session_drain(srv->s, 5);
	assert_log(cli, "goaway\nclosed eof\n");
	usleep(8000);
	settle();
	assert_true(srv->closed);
}

static void a_limit_of_streams(void **state)
{
	struct ex *e[3];

	srv->conf.h2.max_streams = 2;
	start();
	assert_int_equal(weft_session_room(cli->s), 2);
	e[0] = ask(cli, HEAD("GET"), false);
	e[1] = ask(cli, HEAD("GET"), false);
	e[2] = ask(cli, HEAD("GET"), false);
	assert_false(e[0]->over || e[1]->over);
	assert_true(e[2]->over);
	settle();
	cli->log[0] = 0;
	ok(srv->ex[1], true);
	assert_log(cli, "headers :status=200 content-length=2\ndata ok END\ndone\nroom\n");
	assert_int_equal(weft_session_room(cli->s), 1);
}

static void pings_that_nobody_answers(void **state)
{
	int fds[2];

	cli->conf.h2.ping_interval_ms = 3;
	cli->conf.h2.ping_timeout_ms = 3;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	side_start(cli, fds[0]);
	ask(cli, HEAD("GET"), false);
	for (int i = 0; i < 50 && !cli->closed; i++) {
		usleep(1000);
		settle();
	}
	assert_log(cli, "goaway\nreset remote\nclosed timeout\n");
	close(fds[1]);
}

static void pings_that_are_answered(void **state)
{
	cli->conf.h2.ping_interval_ms = 2;
	cli->conf.h2.ping_timeout_ms = 50;
	start();
	for (int i = 0; i < 20; i++) {
		usleep(1000);
		settle();
	}
	assert_false(cli->closed);
}

static void the_peer_goes(void **state)
{
	start();
	cli->log[0] = 0;
	ask(cli, HEAD("GET"), false);
	settle();
	weft_session_free(srv->s);
	srv->s = NULL;
	assert_log(srv, SAW("GET") " END\nreset local\n");
	settle();
	assert_non_null(strstr(cli->log, "reset remote\n"));
	assert_true(cli->closed);
}

static void send_many(struct ex *e, size_t bytes)
{
	char piece[1001];

	memset(piece, 'x', 1000);
	piece[1000] = 0;
	for (; bytes; bytes -= 1000)
		send_text(e, piece, false);
}

static void a_pause_holds_just_one_window(void **state)
{
	struct ex *a, *b;

	srv->conf.h2.stream_window = 65535;
	srv->conf.h2.conn_window = 1 << 20;
	cli->conf.buffer_bytes = 50000;
	srv->quiet = cli->quiet = true;
	start();
	a = ask(cli, HEAD("POST"), true);
	b = ask(cli, HEAD("POST"), true);
	settle();
	weft_exchange_pause(srv->ex[0]->x);
	send_many(a, 200000);
	assert_int_equal(send_text(a, "x", false), 0);
	send_many(b, 200000);
	settle();
	assert_int_equal(srv->ex[0]->got, 0);
	assert_int_equal(srv->ex[1]->got, 200000);
	cli->log[0] = 0;
	weft_exchange_resume(srv->ex[0]->x);
	settle();
	assert_int_equal(srv->ex[0]->got, 200001);
}

static void a_full_buffer_stops_the_owner(void **state)
{
	struct ex *e;

	srv->conf.h2.stream_window = 65535;
	srv->conf.h2.conn_window = 65535;
	cli->conf.buffer_bytes = 50000;
	srv->quiet = true;
	start();
	e = ask(cli, HEAD("POST"), true);
	settle();
	weft_exchange_pause(srv->ex[0]->x);
	send_many(e, 110000);
	assert_int_equal(send_text(e, "x", false), 0);
	settle();
	/* 65,535 are the peer's, 44,466 wait: over half of the mark, nothing is told */
	assert_null(strstr(cli->log, "writable"));
	weft_exchange_resume(srv->ex[0]->x);
	settle();
	assert_non_null(strstr(cli->log, "writable"));
	assert_int_equal(send_text(e, "x", true), 1);
	settle();
	assert_int_equal(srv->ex[0]->got, 110002);
}

static void auto_finds_h2(void **state)
{
	srv->conf.version = WEFT_HTTP_10;
	srv->on_headers = ok;
	start();
	ask(cli, HEAD("GET"), false);
	settle();
	assert_int_equal(weft_session_version(srv->s), WEFT_HTTP_2);
	assert_non_null(strstr(cli->log, "data ok END\n"));
}

static void auto_finds_h1(void **state)
{
	cli->conf.version = WEFT_HTTP_11;
	srv->conf.version = WEFT_HTTP_10;
	srv->on_headers = ok;
	start();
	ask(cli, HEAD("POST"), false);
	settle();
	assert_int_equal(weft_session_version(srv->s), WEFT_HTTP_11);
	assert_non_null(strstr(cli->log, "data ok END\n"));
}

static void free_inside(struct ex *e, bool end)
{
	weft_session_free(e->side->s);
	e->side->s = NULL;
}

static void sessions_may_be_freed_inside_callbacks(void **state)
{
	srv->on_headers = free_inside;
	start();
	ask(cli, HEAD("GET"), false);
	ask(cli, HEAD("GET"), false);
	assert_log(srv, SAW("GET") " END\nreset local\n");
	settle();
	assert_true(cli->closed);
}

#define T(name) cmocka_unit_test_setup_teardown(name, up, down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_request_is_answered),
		T(heads_are_counted),
		T(bodies_and_trailers_both_ways),
		T(cookies_are_joined),
		T(te_trailers_travels),
		T(informational_comes_first),
		T(an_upgrade_looks_like_that_of_h1),
		T(a_refused_upgrade),
		T(a_connect),
		T(early_answer_stops_the_request),
		T(resets),
		T(a_short_body_breaks_the_rule),
		T(a_bad_field_ends_the_connection),
		T(too_many_fields),
		T(drain_lets_exchanges_end),
		T(drain_with_grace),
		T(a_limit_of_streams),
		T(pings_that_nobody_answers),
		T(pings_that_are_answered),
		T(the_peer_goes),
		T(a_pause_holds_just_one_window),
		T(a_full_buffer_stops_the_owner),
		T(auto_finds_h2),
		T(auto_finds_h1),
		T(sessions_may_be_freed_inside_callbacks),
	};

	return cmocka_run_group_tests_name("h2_session", tests, base_up, base_down);
}
