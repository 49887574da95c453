/* A connection manager with a router over loopback, beside an upstream that answers as it is told.
 */
#pragma once
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
static const char SILENT[] = "-", CUT[] = "!", EARLY[] = "e", BIG[] = "B", LATE[] = "l",
		  LATE_BAD[] = "L", LATE_CUT[] = "c";
#define OK    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
#define EMPTY "HTTP/1.1 503 Bad\r\ncontent-length: 0\r\n\r\n"
#define BAD   "HTTP/1.1 503 Bad\r\ncontent-length: 3\r\n\r\nbad"

/* ---- the upstream: does with each request what `answers` says */
static const char *answers[ANSWERS];
static unsigned n_requests, n_conns;
static char requests[4 << 20];
static struct evconnlistener *listener;
static bool echoing;
static unsigned late_ms; /* until LATE, LATE_BAD and LATE_CUT */

struct late {
	struct bufferevent *b;
	const char *what;
	struct event *ev;
};
static struct late late[ANSWERS];

static void up_event(struct bufferevent *b, short what, void *arg)
{
	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	for (int i = 0; i < ANSWERS; i++)
		if (late[i].b == b)
			late[i].b = NULL;
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

/* The proxy may have closed it meanwhile: what is written to it goes nowhere. */
static void up_late(evutil_socket_t fd, short what, void *arg)
{
	struct late *l = arg;

	event_free(l->ev);
	l->ev = NULL;
	if (!l->b)
		return;
	if (l->what == LATE_CUT)
		bufferevent_free(l->b);
	else
		bufferevent_write(l->b, l->what == LATE ? OK : BAD,
				  strlen(l->what == LATE ? OK : BAD));
	l->b = NULL;
}

static void up_later(struct bufferevent *b, const char *what)
{
	struct timeval tv = {0, (suseconds_t)late_ms * 1000};
	struct late *l = late;

	while (l->ev)
		l++;
	l->b = b;
	l->what = what;
	l->ev = event_new(bufferevent_get_base(b), -1, 0, up_late, l);
	event_add(l->ev, &tv);
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
		if (a == LATE || a == LATE_BAD || a == LATE_CUT) {
			up_later(b, a);
			continue;
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

/* What stands beside it, with a comma before: of the table, the virtual host, the manager; and in
 * the router. */
static const char *table_more = "", *vhost_more = "", *router_more = "";

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
		 "route_config: {name: r, virtual_hosts: [{name: v, domains: ['*'], routes: "
		 "%s%s}]%s}, "
		 "http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/"
		 "envoy.extensions.filters.http.router.v3.Router%s}}]}}",
		 *route == '[' ? route : one, vhost_more, table_more, router_more);
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
	table_more = vhost_more = router_more = "";
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
