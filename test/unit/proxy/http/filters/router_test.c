/* The router with real sessions over loopback: retries, timeouts, mirrors, internal redirects,
 * tunnels, back-pressure, answers that come early and clients that leave. */
#include "proxy/core/worker.h"
#include "proxy/http/hcm.h"
#include "proxy/l4/chain.h"
#include "proxy/upstream/cluster.h"
#include "xds/yaml.h"
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { GOT = 16 << 20, ANSWERS = 8, BODY = 200000 };
static const char SILENT[] = "-", CUT[] = "!", EARLY[] = "e", BIG[] = "B";
#define OK    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
#define EMPTY "HTTP/1.1 503 Bad\r\ncontent-length: 0\r\n\r\n"
#define BAD   "HTTP/1.1 503 Bad\r\ncontent-length: 3\r\n\r\nbad"

/* ---- the upstream: does with each request what `answers` says */
static const char *answers[ANSWERS];
static unsigned n_requests, n_conns;
static char requests[4 << 20];
static struct evconnlistener *listener;
static bool echoing;

static void up_event(struct bufferevent *b, short what, void *arg)
{
	if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
		bufferevent_free(b);
}

/* Bytes of a whole request at the front; 0: not yet. */
static size_t whole(struct evbuffer *in, bool *ret_head)
{
	struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
	char head[8192] = "", *cl;
	size_t n;

	*ret_head = end.pos >= 0;
	if (end.pos < 0)
		return 0;
	n = (size_t)end.pos + 4;
	evbuffer_copyout(in, head, n < sizeof(head) - 1 ? n : sizeof(head) - 1);
	cl = strstr(head, "content-length: ");
	if (cl)
		n += strtoul(cl + 16, NULL, 10);
	return evbuffer_get_length(in) >= n ? n : 0;
}

static void up_ignore(struct bufferevent *b, void *arg)
{
	evbuffer_drain(bufferevent_get_input(b), evbuffer_get_length(bufferevent_get_input(b)));
}

static void up_read(struct bufferevent *b, void *arg)
{
	struct evbuffer *in = bufferevent_get_input(b);
	bool head;
	size_t n;

	if (echoing) {
		bufferevent_write_buffer(b, in);
		return;
	}
	while ((n = whole(in, &head)) || (head && answers[n_requests % ANSWERS] == EARLY)) {
		const char *a = answers[n_requests++ % ANSWERS];
		size_t at = strlen(requests);

		if (n) {
			evbuffer_remove(in, requests + at, n);
			requests[at + n] = '\0';
		}
		if (a == CUT) {
			bufferevent_free(b);
			return;
		}
		if (a == EARLY) {
			bufferevent_write(b, OK, strlen(OK));
			evbuffer_drain(in, evbuffer_get_length(in));
			bufferevent_setcb(b, up_ignore, NULL, up_event, NULL);
			return;
		}
		if (a == BIG) {
			char *body = calloc(1, 8 << 20);

			memset(body, 'b', 8 << 20);
			evbuffer_add_printf(bufferevent_get_output(b),
					    "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n",
					    8 << 20);
			bufferevent_write(b, body, 8 << 20);
			free(body);
		} else if (a != SILENT) {
			bufferevent_write(b, a, strlen(a));
		}
	}
}

static void up_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n,
		      void *arg)
{
	struct bufferevent *b =
		bufferevent_socket_new(evconnlistener_get_base(l), fd, BEV_OPT_CLOSE_ON_FREE);

	n_conns++;
	bufferevent_setcb(b, up_read, NULL, up_event, NULL);
	bufferevent_enable(b, EV_READ | EV_WRITE);
}

/* ---- the connection manager */
static struct weft_worker *w, *boss;
static struct weft_clusters *clusters;
static struct weft_arena *arena;
static struct weft_errs errs;
static struct weft_net_context net;
static const struct weft_chain_conf *chain_conf;
static struct weft_chain *chain;
static int fd = -1;
static char *got;
static size_t n_got;
static bool reads = true;

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return ctx;
}

static void *decode(struct weft_cfg *c, const ProtobufCMessageDescriptor *d, const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;
	char text[600];

	if (weft_yaml_decode(arena, "t", yaml, strlen(yaml), pick, (void *)d, &docs, &n, &errs) ||
	    weft_cfg_check(c, NULL, docs[0].msg))
		fail_msg("%s", weft_err_text(&errs.v[0], text, sizeof(text)));
	return docs[0].msg;
}

static void turn(unsigned ms)
{
	uint64_t until = weft_now_ns() + ms * 1000000ull;
	ssize_t r;

	do {
		for (int i = 0; i < 20; i++) {
			event_base_loop(w->base, EVLOOP_NONBLOCK);
			event_base_loop(boss->base, EVLOOP_NONBLOCK);
			while (fd >= 0 && reads && n_got < GOT - 1 &&
			       (r = read(fd, got + n_got, GOT - 1 - n_got)) > 0)
				n_got += (size_t)r;
		}
		got[n_got] = '\0';
		if (ms)
			usleep(300);
	} while (weft_now_ns() < until);
}

static bool comes(const char *text)
{
	for (int i = 0; i < 3000 && !strstr(got, text); i++)
		turn(1);
	if (!strstr(got, text))
		print_message("# no \"%s\" in %.600s\n", text, got);
	return strstr(got, text) != NULL;
}

static void chain_closed(void *owner, struct weft_chain *ch)
{
	chain = NULL;
}

static const struct weft_io_ops no_ops;

static void client(void)
{
	struct weft_chain_start start = {
		.worker = w, .conf = chain_conf, .listener_name = "l", .closed = chain_closed};
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	fd = pair[1];
	n_got = 0;
	got[0] = '\0';
	start.io = weft_io_new(w->base, pair[0], NULL, NULL, &no_ops, NULL);
	chain = weft_chain_new(&start);
}

/* route: what stands in a route beside its match, or a list of routes that begins with '['. */
static void open_with(const char *route, const char *cluster_more)
{
	struct weft_clusters_conf cc = {.n_workers = 1, .workers = &w};
	struct weft_path at = {NULL, "filters", -1};
	struct weft_cfg c = {.errs = &errs, .context = &net, .file = true};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	Envoy__Config__Listener__V3__Filter *f;
	socklen_t n = sizeof(a);
	char yaml[4096], one[2048];

	signal(SIGPIPE, SIG_IGN);
	weft_http_register();
	w = weft_worker_new(0, NULL);
	boss = weft_worker_new(-1, NULL);
	cc.base = boss->base;
	arena = c.arena = weft_arena_new(0);
	memset(&errs, 0, sizeof(errs));
	clusters = weft_clusters_new(&cc);
	n_requests = n_conns = 0;
	echoing = false;
	reads = true;
	requests[0] = '\0';
	got = calloc(1, GOT);
	for (int i = 0; i < ANSWERS; i++)
		answers[i] = OK;
	listener = evconnlistener_new_bind(w->base, up_accept, NULL, LEV_OPT_CLOSE_ON_FREE, -1,
					   (struct sockaddr *)&a, sizeof(a));
	getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&a, &n);
	snprintf(
		yaml, sizeof(yaml),
		"{name: up, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: up, "
		"endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "
		"127.0.0.1, port_value: %d}}}}]}]}%s}",
		ntohs(a.sin_port), cluster_more);
	assert_int_equal(weft_clusters_set(
				 clusters, &c, NULL,
				 decode(&c, &envoy__config__cluster__v3__cluster__descriptor, yaml),
				 "1", false),
			 1);
	snprintf(one, sizeof(one), "[{match: {prefix: /}, %s}]", route);
	snprintf(yaml, sizeof(yaml),
		 "{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters."
		 "network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: t, "
		 "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: "
		 "8}]}, "
		 "upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}], "
		 "route_config: {name: r, virtual_hosts: [{name: v, domains: ['*'], routes: %s}]}, "
		 "http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/"
		 "envoy.extensions.filters.http.router.v3.Router}}]}}",
		 *route == '[' ? route : one);
	f = decode(&c, &envoy__config__listener__v3__filter__descriptor, yaml);
	if (weft_chain_prepare(&c, &at, &f, 1, &chain_conf))
		fail_msg("%s: %s", errs.v[0].path, errs.v[0].msg);
	turn(5);
	client();
}

static void leave(void)
{
	if (fd >= 0)
		close(fd);
	fd = -1;
	for (int i = 0; i < 5000 && chain; i++)
		turn(1);
	assert_null(chain);
}

static void shut(void)
{
	leave();
	if (listener)
		evconnlistener_free(listener);
	turn(5);
	weft_clusters_free(clusters);
	turn(5);
	weft_worker_free(w);
	weft_worker_free(boss);
	weft_arena_free(arena);
	free(got);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	char text[4096];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	assert_int_equal(write(fd, text, (size_t)n), n);
	turn(0);
}

static void body(size_t n)
{
	static char piece[4096];

	memset(piece, 'y', sizeof(piece));
	while (n) {
		ssize_t r = write(fd, piece, n < sizeof(piece) ? n : sizeof(piece));

		if (r > 0)
			n -= (size_t)r;
		turn(0);
	}
}

static void get(const char *path)
{
	say("GET %s HTTP/1.1\r\nhost: h\r\n\r\n", path);
}

static void post(size_t n)
{
	say("POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: %zu\r\n\r\n", n);
	body(n);
}

/* The n-th request that the upstream read has a body of that many 'y'. */
static size_t ys(unsigned nth)
{
	const char *p = requests;
	size_t n = 0;

	while (nth-- && (p = strstr(p, "\r\n\r\n")) != NULL)
		p += 4;
	for (; p && *p == 'y'; p++)
		n++;
	return n;
}

#define RETRY(on, more)                                                                            \
	"route: {cluster: up, retry_policy: {retry_on: '" on "', retry_back_off: {base_interval: " \
	"0.001s}, " more "}}"

static void retries_with_their_body(void **state)
{
	open_with(RETRY("5xx", "num_retries: 3"), "");
	answers[0] = answers[1] = EMPTY;
	post(BODY);
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 3);
	assert_int_equal(ys(1), BODY);
	assert_int_equal(ys(2), BODY);
	assert_int_equal(ys(3), BODY);
	assert_int_equal(n_conns, 1); /* whole answers leave their connection usable */
	shut();
}

static void retries_have_an_end(void **state)
{
	open_with(RETRY("5xx", "num_retries: 2"), "");
	for (int i = 0; i < ANSWERS; i++)
		answers[i] = BAD;
	get("/");
	assert_true(comes("503"));
	assert_true(comes("bad"));
	assert_int_equal(n_requests, 3);
	shut();
}

static void retries_after_a_cut(void **state)
{
	open_with(RETRY("reset", "num_retries: 2"), "");
	answers[0] = CUT;
	post(100);
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	open_with("route: {cluster: up}", "");
	answers[0] = CUT;
	post(100);
	assert_true(comes("503"));
	assert_true(comes("upstream connect error or disconnect/reset before headers"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void a_body_too_large_to_keep(void **state)
{
	open_with(RETRY("5xx", "num_retries: 2"), "");
	answers[0] = BAD;
	post((1 << 20) + 1);
	assert_true(comes("503"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void breaker_of_retries(void **state)
{
	open_with(RETRY("5xx", "num_retries: 2"),
		  ", circuit_breakers: {thresholds: [{max_retries: 0}]}");
	answers[0] = BAD;
	get("/");
	assert_true(comes("503"));
	assert_int_equal(n_requests, 1);
	shut();
}

static void wishes_of_the_request(void **state)
{
	open_with("route: {cluster: up}", "");
	answers[0] = "HTTP/1.1 418 T\r\ncontent-length: 0\r\n\r\n";
	say("GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 10.0.0.1\r\nx-envoy-retry-on: "
	    "retriable-status-codes\r\n"
	    "x-envoy-retriable-status-codes: 418\r\nx-envoy-max-retries: 2\r\n\r\n");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	assert_null(strstr(requests, "x-envoy-retry-on"));
	shut();
}

static void times(void **state)
{
	open_with(RETRY("5xx", "per_try_timeout: 0.03s, num_retries: 1"), "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("200 OK"));
	assert_int_equal(n_requests, 2);
	shut();
	open_with("route: {cluster: up, timeout: 0.03s}", "");
	answers[0] = SILENT;
	get("/");
	assert_true(comes("504"));
	assert_true(comes("upstream request timeout"));
	shut();
}

/* The time is up while another attempt waits: it is not made. */
static void times_in_a_back_off(void **state)
{
	open_with("route: {cluster: up, timeout: 0.02s, retry_policy: {retry_on: 5xx, num_retries: "
		  "9, rate_limited_retry_back_off: {reset_headers: [{name: again, format: "
		  "SECONDS}]}}}",
		  "");
	answers[0] = "HTTP/1.1 503 B\r\nagain: 1\r\ncontent-length: 0\r\n\r\n";
	say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nyyy");
	assert_true(comes("504"));
	turn(1600);
	assert_int_equal(n_requests, 1);
	assert_null(strstr(got, "200 OK"));
	shut();
}

static void early_answer(void **state)
{
	open_with(RETRY("5xx", "num_retries: 1"), "");
	answers[0] = EARLY;
	say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\nyyy");
	assert_true(comes("200 OK"));
	shut();
}

static void mirrors(void **state)
{
	open_with("route: {cluster: up, request_mirror_policies: [{cluster: up}, {cluster: none}, "
		  "{cluster: up}]}",
		  "");
	post(5000);
	assert_true(comes("200 OK"));
	for (int i = 0; i < 500 && n_requests < 3; i++)
		turn(1);
	assert_int_equal(n_requests, 3);
	assert_int_equal(ys(1), 5000);
	assert_int_equal(ys(2), 5000);
	assert_int_equal(ys(3), 5000);
	assert_non_null(strstr(requests, "h-shadow"));
	shut();
}

#define REDIRECT(code)                                                                             \
	"HTTP/1.1 " code " R\r\nlocation: http://other/to?x\r\ncontent-length: 0\r\n\r\n"

static void internal_redirects(void **state)
{
	open_with("route: {cluster: up, internal_redirect_policy: {redirect_response_codes: [302, "
		  "303, 307]}}",
		  "");
	answers[0] = REDIRECT("307");
	post(3000);
	assert_true(comes("200 OK"));
	assert_int_equal(ys(2), 3000);
	assert_non_null(strstr(requests, "POST /to?x HTTP/1.1"));
	leave();
	client();
	answers[2] = REDIRECT("303");
	post(3000);
	assert_true(comes("200 OK"));
	assert_non_null(strstr(requests, "GET /to?x HTTP/1.1"));
	leave();
	client();
	answers[4] = answers[5] = REDIRECT("302"); /* one is the limit */
	get("/");
	assert_true(comes("302"));
	assert_int_equal(n_requests, 6);
	shut();
}

static void redirect_in_an_upgrade(void **state)
{
	open_with("route: {cluster: up, internal_redirect_policy: {}}", "");
	answers[0] = REDIRECT("302");
	say("GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
	turn(20);
	assert_int_equal(n_requests, 1);
	shut();
}

static void tunnels(void **state)
{
	open_with("[{match: {connect_matcher: {}}, route: {cluster: up, upgrade_configs: "
		  "[{upgrade_type: CONNECT, connect_config: {}}]}}]",
		  "");
	echoing = true;
	say("CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n");
	assert_true(comes("200 OK"));
	say("hello there");
	assert_true(comes("hello there"));
	shut();
	open_with("[{match: {connect_matcher: {}}, route: {cluster: up, upgrade_configs: "
		  "[{upgrade_type: CONNECT, connect_config: {}}]}}]",
		  "");
	evconnlistener_disable(listener);
	say("CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n");
	close(fd); /* the client leaves while it is dialed, and the upstream says nothing */
	fd = -1;
	turn(5);
	evconnlistener_free(listener);
	listener = NULL;
	shut();
}

static void answers_of_routes(void **state)
{
	open_with("redirect: {path_redirect: /n}, response_headers_to_add: [{header: {key: x-r, "
		  "value: 'yes'}}]",
		  "");
	get("/");
	assert_true(comes("301"));
	assert_true(comes("location: http://h/n"));
	assert_true(comes("x-r: yes"));
	shut();
	open_with("route: {cluster_header: x-c, cluster_not_found_response_code: NOT_FOUND}", "");
	get("/");
	assert_true(comes("404"));
	shut();
	open_with("route: {cluster: none, cluster_not_found_response_code: NOT_FOUND}", "");
	get("/");
	assert_true(comes("404"));
	shut();
}

/* A client that does not read holds the upstream, and gets everything when it does. */
static void back_pressure(void **state)
{
	open_with("route: {cluster: up}", "");
	answers[0] = BIG;
	reads = false;
	get("/");
	turn(100);
	reads = true;
	for (int i = 0; i < 5000 && n_got < 8 << 20; i++)
		turn(1);
	assert_true(n_got > 8 << 20);
	shut();
}

/* Clients that leave at every moment. */
static void leavers(void **state)
{
	static const char *const what[] = {OK, BAD, SILENT, CUT, EARLY, BIG};

	open_with(RETRY("5xx,reset", "num_retries: 2"), "");
	for (unsigned i = 0; i < 6; i++)
		for (unsigned turns = 0; turns < 12; turns++) {
			for (int k = 0; k < ANSWERS; k++)
				answers[k] = what[i];
			n_requests = 0;
			requests[0] = '\0';
			say("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nyyy");
			for (unsigned k = 0; k < turns; k++) {
				event_base_loop(w->base, EVLOOP_NONBLOCK);
				if (k == turns / 2)
					(void)!write(fd, "yyy", 3);
			}
			leave();
			client();
		}
	shut();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(retries_with_their_body),
		cmocka_unit_test(retries_have_an_end),
		cmocka_unit_test(retries_after_a_cut),
		cmocka_unit_test(a_body_too_large_to_keep),
		cmocka_unit_test(breaker_of_retries),
		cmocka_unit_test(wishes_of_the_request),
		cmocka_unit_test(times),
		cmocka_unit_test(times_in_a_back_off),
		cmocka_unit_test(early_answer),
		cmocka_unit_test(mirrors),
		cmocka_unit_test(internal_redirects),
		cmocka_unit_test(redirect_in_an_upgrade),
		cmocka_unit_test(tunnels),
		cmocka_unit_test(answers_of_routes),
		cmocka_unit_test(back_pressure),
		cmocka_unit_test(leavers),
	};

	return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
