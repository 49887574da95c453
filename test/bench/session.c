/* Client sessions on one thread, server sessions on another, loopback between: requests for each
 * second of CPU that a side's thread used. session [h1|h2] [connections] [streams] [body] [ms] */
#include "proxy/session/session.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ARENAS = 256, CONNS_MAX = 1024 };

static int n_conns = 64, n_streams = 1, body_bytes = 100, run_ms = 2000;
static bool h2;
static char *body;
static char length_text[16];

struct side {
	struct event_base *base;
	struct weft_session_conf conf;
	struct weft_arena *arenas[ARENAS];
	unsigned n_arenas;
	uint64_t done;
	int fds[CONNS_MAX];
	struct weft_session *s[CONNS_MAX];
	double user, all;
	bool stop;
};
static struct side cli, srv;

struct one {
	struct side *side;
	struct weft_arena *arena;
	struct weft_exchange *x;
};

static struct one *one_new(struct side *d)
{
	struct weft_arena *a = d->n_arenas ? d->arenas[--d->n_arenas] : weft_arena_new(0);
	struct one *o = weft_arena_alloc(a, sizeof(*o));

	o->side = d;
	o->arena = a;
	return o;
}

static void one_free(struct one *o)
{
	struct side *d = o->side;
	struct weft_arena *a = o->arena;

	if (d->n_arenas == ARENAS) {
		weft_arena_free(a);
		return;
	}
	weft_arena_reset(a);
	d->arenas[d->n_arenas++] = a;
}

static void nothing_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
}

static void over(struct weft_exchange *x)
{
	struct one *o = weft_exchange_user(x);

	o->side->done++;
	one_free(o);
}

static void cut(struct weft_exchange *x, enum weft_reset why)
{
	one_free(weft_exchange_user(x));
}

/* ---- the server */

static void on_request(struct weft_exchange *x, struct weft_headers *in, bool end)
{
	struct one *o = weft_exchange_user(x);
	struct evbuffer *b = evbuffer_new();
	struct weft_headers h;

	weft_headers_init(&h, o->arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, "200", 3);
	weft_headers_add_id(&h, WEFT_H_CONTENT_LENGTH, length_text, strlen(length_text));
	weft_headers_add_id(&h, WEFT_H_CONTENT_TYPE, "text/plain", 10);
	weft_headers_add_id(&h, WEFT_H_DATE, "Sat, 21 Nov 2026 10:00:00 GMT", 29);
	weft_headers_add_id(&h, WEFT_H_SERVER, "weft", 4);
	weft_exchange_send_headers(x, &h, false);
	evbuffer_add_reference(b, body, (size_t)body_bytes, NULL, NULL);
	weft_exchange_send_data(x, b, true);
	evbuffer_free(b);
}

static const struct weft_exchange_ops srv_ops = {
	.headers = on_request,
	.data = nothing_data,
	.reset = cut,
	.done = over,
};

static const struct weft_exchange_ops *on_begin(struct weft_session *s, struct weft_exchange *x,
						void **ret_user, struct weft_arena **ret_arena)
{
	struct one *o = one_new(weft_session_owner(s));

	o->x = x;
	*ret_user = o;
	*ret_arena = o->arena;
	return &srv_ops;
}

static void on_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	struct side *d = weft_session_owner(s);

	for (int i = 0; i < n_conns; i++)
		if (d->s[i] == s)
			d->s[i] = NULL;
	weft_session_free(s);
}

/* ---- the client */

static void go(struct weft_session *s);

static void on_answer(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	if (weft_headers_status(h) != 200)
		abort();
}

static const struct weft_exchange_ops cli_ops = {
	.headers = on_answer,
	.data = nothing_data,
	.reset = cut,
	.done = over,
};

static void go(struct weft_session *s)
{
	struct side *d = weft_session_owner(s);

	while (!d->stop && (int)weft_session_open_count(s) < n_streams && weft_session_room(s)) {
		struct one *o = one_new(d);
		struct weft_headers h;

		weft_headers_init(&h, o->arena);
		weft_headers_add_id(&h, WEFT_H_METHOD, "GET", 3);
		weft_headers_add_id(&h, WEFT_H_SCHEME, "http", 4);
		weft_headers_add_id(&h, WEFT_H_AUTHORITY, "bench.example:8080", 18);
		weft_headers_add_id(&h, WEFT_H_PATH, "/some/path?with=query", 21);
		weft_headers_add_id(&h, WEFT_H_USER_AGENT, "bench/1.0", 9);
		weft_headers_add_id(&h, WEFT_H_ACCEPT, "*/*", 3);
		weft_headers_add_id(&h, WEFT_H_X_REQUEST_ID, "6f6b4d3c-1111-2222-3333-0123456789ab",
				    36);
		if (weft_exchange_open(s, &cli_ops, o, o->arena, &h, false, &o->x))
			abort();
	}
}

static const struct weft_session_ops cli_sops = {.closed = on_closed, .room = go};
static const struct weft_session_ops srv_sops = {.begin = on_begin, .closed = on_closed};

/* ---- both */

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void end_loop(evutil_socket_t fd, short what, void *arg)
{
	event_base_loopbreak(arg);
}

static void *side_run(void *arg)
{
	struct side *d = arg;
	struct timeval tv = {run_ms / 1000, run_ms % 1000 * 1000};
	struct event *ev;
	struct rusage a, b;

	d->base = event_base_new();
	for (int i = 0; i < n_conns; i++)
		d->s[i] = weft_session_new(weft_io_new(d->base, d->fds[i], NULL, NULL, NULL, NULL),
					   &d->conf, d->conf.server ? &srv_sops : &cli_sops, d);
	for (int i = 0; i < n_conns && !d->conf.server; i++)
		go(d->s[i]);
	ev = event_new(d->base, -1, 0, end_loop, d->base);
	event_add(ev, &tv);
	getrusage(RUSAGE_THREAD, &a);
	event_base_dispatch(d->base);
	getrusage(RUSAGE_THREAD, &b);
	event_free(ev);
	d->user = seconds(b.ru_utime) - seconds(a.ru_utime);
	d->all = d->user + seconds(b.ru_stime) - seconds(a.ru_stime);
	d->stop = true;
	for (int i = 0; i < n_conns; i++)
		weft_session_free(d->s[i]);
	event_base_loop(d->base, EVLOOP_NONBLOCK);
	while (d->n_arenas)
		weft_arena_free(d->arenas[--d->n_arenas]);
	event_base_free(d->base);
	return NULL;
}

static void connect_all(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sin);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(l, (struct sockaddr *)&sin, n) || listen(l, 1024) ||
	    getsockname(l, (struct sockaddr *)&sin, &n))
		abort();
	for (int i = 0; i < n_conns; i++) {
		cli.fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(cli.fds[i], (struct sockaddr *)&sin, n))
			abort();
		srv.fds[i] = accept(l, NULL, NULL);
		fcntl(cli.fds[i], F_SETFL, O_NONBLOCK);
		fcntl(srv.fds[i], F_SETFL, O_NONBLOCK);
	}
	close(l);
}

static void tell(const char *name, const struct side *d)
{
	printf("%s: %.0f requests a CPU second, %.2f us user a request\n", name,
	       (double)d->done / d->all, d->user * 1e6 / (double)d->done);
}

int main(int argc, char **argv)
{
	pthread_t t;

	h2 = argc > 1 && !strcmp(argv[1], "h2");
	n_conns = argc > 2 ? atoi(argv[2]) : h2 ? 8 : 64;
	n_streams = argc > 3 ? atoi(argv[3]) : h2 ? 16 : 1;
	body_bytes = argc > 4 ? atoi(argv[4]) : 100;
	run_ms = argc > 5 ? atoi(argv[5]) : 2000;
	if (n_conns < 1 || n_conns > CONNS_MAX || n_streams < 1 || body_bytes < 0 || run_ms < 1)
		return 2;
	body = calloc(1, (size_t)body_bytes + 1);
	snprintf(length_text, sizeof(length_text), "%d", body_bytes);
	srv.conf.server = true;
	cli.conf.version = srv.conf.version = h2 ? WEFT_HTTP_2 : WEFT_HTTP_11;
	cli.conf.h2.table_size = srv.conf.h2.table_size = UINT32_MAX;
	connect_all();
	pthread_create(&t, NULL, side_run, &srv);
	side_run(&cli);
	pthread_join(t, NULL);
	tell(h2 ? "h2 server" : "h1 server", &srv);
	tell(h2 ? "h2 client" : "h1 client", &cli);
	free(body);
	return 0;
}
