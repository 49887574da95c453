/* How an HTTP/1 server session writes names, and what of Upgrade it does not hear. */
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

static void names_keep_their_case(void **state)
{
	srv->conf.h1.preserve_case = true;
	start();
	put(fd, "GET / HTTP/1.1\r\nHost: h\r\nX-ODD: 1\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http x-odd=1 END\n");
	srv->ex[0]->h->n = 0;
	weft_headers_add(srv->ex[0]->h, ":status", 7, "200", 3);
	weft_headers_add(srv->ex[0]->h, "x-odd", 5, "2", 1);
	weft_exchange_send_headers(srv->ex[0]->x, srv->ex[0]->h, true);
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\nX-ODD: 2\r\ncontent-length: 0\r\n\r\n");
}

/* A head with a spelling is written by it, whatever this connection keeps: framing too. */
static void a_spelling_is_written(void **state)
{
	struct weft_headers *h;

	srv->conf.h1.proper_case = true; /* what came spelt goes before it */
	start();
	put(fd, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
	settle();
	h = srv->ex[0]->h;
	h->n = 0;
	weft_headers_add(h, ":status", 7, "200", 3);
	weft_headers_add(h, "x-odd", 5, "2", 1);
	weft_headers_add(h, "x-mine", 6, "3", 1);
	weft_headers_spell(h, false);
	weft_headers_spell_name(h, "X-ODD", 5);
	weft_headers_spell_name(h, "Transfer-ENCODING", 17);
	weft_headers_spell_reason(h, "Sure", 4);
	weft_exchange_send_headers(srv->ex[0]->x, h, false);
	assert_string_equal(get(fd), "HTTP/1.1 200 Sure\r\nX-ODD: 2\r\nx-mine: 3\r\n"
				     "Transfer-ENCODING: chunked\r\n\r\n");
}

static void names_of_trailers_are_lowered(void **state)
{
	srv->conf.h1.preserve_case = srv->conf.h1.enable_trailers = true;
	start();
	put(fd,
	    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n");
	assert_log(srv,
		   "headers :authority=h :path=/ :method=POST :scheme=http\ntrailers x-t=1 END\n");
}

static bool short_one(const void *ctx, const char *protocol, size_t n)
{
	assert_ptr_equal(ctx, srv);
	return n < 3;
}

static void upgrades_are_passed_over(void **state)
{
	static const char *const v[] = {"ab", "ab, cd", "a,b ,c"};
	char text[256];

	srv->conf.h1.ignore_upgrade = short_one;
	srv->conf.h1.ignore_ctx = srv;
	srv->on_headers = ok;
	start();
	for (size_t i = 0; i < 3; i++) {
		snprintf(text, sizeof(text),
			 "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: %s\r\n\r\n",
			 v[i]);
		put(fd, text);
		assert_log(srv,
			   "headers :authority=h :path=/ :method=GET :scheme=http END\ndone\n");
	}
	srv->on_headers = NULL;
	put(fd,
	    "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: ab,abc , d,efg\r\n\r\n");
	assert_log(srv, "headers :authority=h :path=/ :method=GET :scheme=http upgrade=abc,efg "
			"connection=upgrade\n");
}

static void names_in_proper_case(void **state)
{
	srv->conf.h1.proper_case = true;
	srv->on_headers = ok;
	start();
	put(fd, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
	assert_string_equal(get(fd), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
}

#define T(name) cmocka_unit_test_setup_teardown(name, up, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(names_keep_their_case),	  T(a_spelling_is_written),
		T(names_of_trailers_are_lowered), T(upgrades_are_passed_over),
		T(names_in_proper_case),
	};

	return cmocka_run_group_tests_name("h1_names", tests, base_up, base_down);
}
