/* HBONE: TCP streams and whole HTTP sessions inside pooled mTLS tunnels, with the exact identity of
 * the peer. */
#include "tls_fix.h"

/* The peer: a node proxy that answers CONNECT and connects to the authority. */
struct relay {
	TAILQ_ENTRY(relay) link;
	struct weft_exchange *x;
	struct weft_io *io;
	struct weft_arena *arena;
	bool up;
};
struct node {
	struct server outer;
	TAILQ_HEAD(, relay) relays;
	unsigned connects;
	char authority[128];
	const char *refuse; /* status; NULL: 200 */
	bool silent;
};
static struct fix f;
static struct tls t;
static struct node n;

static void relay_free(struct relay *r)
{
	TAILQ_REMOVE(&n.relays, r, link);
	weft_io_free(r->io);
	weft_arena_free(r->arena);
	free(r);
}

static void relay_ready(struct weft_io *io)
{
	struct relay *r = weft_io_owner(io);
	struct weft_headers h;

	weft_headers_init(&h, r->arena);
	weft_headers_add_id(&h, WEFT_H_STATUS, "200", 3);
	weft_exchange_send_headers(r->x, &h, false);
	r->up = true;
}

static void relay_readable(struct weft_io *io)
{
	struct relay *r = weft_io_owner(io);

	weft_exchange_send_data(r->x, weft_io_in(io), weft_io_eof(io));
}

static void relay_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct relay *r = weft_io_owner(io);

	weft_exchange_reset(r->x, WEFT_RESET_LOCAL);
	relay_free(r);
}

static const struct weft_io_ops relay_ops = {
	.ready = relay_ready, .readable = relay_readable, .closed = relay_closed};

static void nx_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct relay *r = weft_exchange_user(x);
	struct weft_dial d = {0};
	struct weft_headers a;

	n.connects++;
	assert_string_equal(weft_headers_value(h, WEFT_H_METHOD), "CONNECT");
	assert_false(end);
	snprintf(n.authority, sizeof(n.authority), "%s", weft_headers_value(h, WEFT_H_AUTHORITY));
	if (n.silent)
		return;
	if (n.refuse) {
		weft_headers_init(&a, r->arena);
		weft_headers_add_id(&a, WEFT_H_STATUS, n.refuse, 3);
		weft_exchange_send_headers(x, &a, true);
		return;
	}
	assert_int_equal(weft_sockaddr_parse(n.authority, &d.to), 0);
	assert_int_equal(weft_io_dial(f.base, &d, &relay_ops, r, &r->io), 0);
}

static void nx_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct relay *r = weft_exchange_user(x);

	if (!r->io)
		return;
	evbuffer_add_buffer(weft_io_out(r->io), b);
	weft_io_flush(r->io);
	if (end)
		weft_io_shutdown(r->io);
}

static void nx_reset(struct weft_exchange *x, enum weft_reset why)
{
	relay_free(weft_exchange_user(x));
}

static void nx_done(struct weft_exchange *x)
{
	relay_free(weft_exchange_user(x));
}

static void nx_writable(struct weft_exchange *x)
{
}

static const struct weft_exchange_ops nx_ops = {
	.headers = nx_headers,
	.data = nx_data,
	.trailers = sx_trailers,
	.writable = nx_writable,
	.reset = nx_reset,
	.done = nx_done,
};

static const struct weft_exchange_ops *ns_begin(struct weft_session *s, struct weft_exchange *x,
						void **ret_user, struct weft_arena **ret_arena)
{
	struct relay *r = calloc(1, sizeof(*r));

	r->x = x;
	r->arena = weft_arena_new(0);
	TAILQ_INSERT_TAIL(&n.relays, r, link);
	*ret_user = r;
	*ret_arena = r->arena;
	return &nx_ops;
}

static const struct weft_session_ops ns_ops = {.begin = ns_begin, .closed = ss_closed};

static void node_accept(evutil_socket_t fd, short what, void *arg)
{
	int c = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	size_t i = 0;

	if (c < 0)
		return;
	n.outer.conns++;
	while (n.outer.peers[i].session)
		i++;
	n.outer.peers[i].session =
		weft_session_new(weft_io_new(f.base, c, n.outer.tls, NULL, &raw_ops, &n.outer),
				 &n.outer.conf, &ns_ops, &n.outer);
}

static int setup(void **state)
{
	memset(&n, 0, sizeof(n));
	TAILQ_INIT(&n.relays);
	fix_open(&f, WEFT_HTTP_11);
	tls_open(&t);
	tls_serve(&t, &f, "[h2]");
	server_open(&n.outer, f.base, WEFT_HTTP_2);
	event_free(n.outer.ev);
	n.outer.ev = event_new(f.base, n.outer.fd, EV_READ | EV_PERSIST, node_accept, NULL);
	event_add(n.outer.ev, NULL);
	n.outer.tls = f.server.tls;
	f.server.tls = NULL; /* the application speaks plainly, behind its proxy */
	cluster_must(&f, weft_arena_printf(f.arena, "{name: x, transport_socket: %s}",
					   tls_socket(&f, &t.way, &t.ca, "sni: never.sent,")));
	f.how.metadata = (void *)of_yaml(
		f.arena,
		weft_arena_printf(f.arena,
				  "{filter_metadata: {weft.hbone: {tunnel: %u, identity: \"%s\"}}}",
				  n.outer.host.addr.port, WEB),
		&envoy__config__core__v3__metadata__descriptor, NULL);
	return 0;
}

static int teardown(void **state)
{
	f.how.metadata = NULL;
	weft_pools_free(f.wc.pools);
	f.wc.pools = weft_pools_new(&f.wc);
	for (int i = 0; i < 20; i++)
		turn(&f);
	server_close(&n.outer);
	for (int i = 0; i < 20; i++)
		turn(&f);
	assert_true(TAILQ_EMPTY(&n.relays));
	fix_close(&f);
	tls_close(&t);
	return 0;
}

/* ---- TCP */

struct tcp {
	struct weft_io *io;
	bool ready, closed, eof;
	enum weft_io_end why;
	size_t got;
	char detail[128];
};

static void tcp_ready(struct weft_io *io)
{
	struct tcp *c = weft_io_owner(io);

	c->ready = true;
}

static void tcp_readable(struct weft_io *io)
{
	struct tcp *c = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);

	c->got += evbuffer_get_length(in);
	evbuffer_drain(in, evbuffer_get_length(in));
	c->eof = weft_io_eof(io);
}

static void tcp_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct tcp *c = weft_io_owner(io);

	c->closed = true;
	c->why = why;
	snprintf(c->detail, sizeof(c->detail), "%s", weft_io_detail(io));
}

static const struct weft_io_ops tcp_ops = {
	.ready = tcp_ready, .readable = tcp_readable, .closed = tcp_closed};

static void tcp_dial(struct tcp *c)
{
	memset(c, 0, sizeof(*c));
	assert_int_equal(weft_upstream_dial(&f.wc, &f.server.host, &f.how, &tcp_ops, c, &c->io), 0);
}

static void test_tcp(void **state)
{
	enum { BYTES = 3 << 20 };
	char *big = calloc(1, BYTES);
	struct tcp a, b;

	f.server.raw = true;
	tcp_dial(&a);
	tcp_dial(&b);
	UNTIL(&f, a.ready && b.ready);
	assert_int_equal(n.outer.conns, 1); /* both in one tunnel */
	assert_int_equal(n.connects, 2);
	assert_string_equal(n.authority, f.server.host.text);
	assert_string_equal(weft_io_info(weft_session_io(n.outer.peers[0].session))->sni, "");
	STAT_IS(&f, upstream_cx_active, 2);
	evbuffer_add(weft_io_out(b.io), "hello", 5);
	weft_io_flush(b.io);
	UNTIL(&f, b.got == 5);
	evbuffer_add(weft_io_out(a.io), big, BYTES);
	weft_io_flush(a.io);
	UNTIL(&f, a.got == BYTES);
	weft_io_shutdown(a.io); /* half close, there and back */
	UNTIL(&f, a.eof);
	weft_upstream_io_free(a.io);
	weft_upstream_io_free(b.io);
	STAT_IS(&f, upstream_cx_active, 0);
	/* the tunnel waits for the next one */
	tcp_dial(&a);
	UNTIL(&f, a.ready);
	assert_int_equal(n.outer.conns, 1);
	weft_upstream_io_free(a.io);
	free(big);
}

static void test_http(void **state)
{
	rq_whole(&f, true);
	rq_whole(&f, false); /* the same session in the same stream */
	assert_int_equal(n.outer.conns, 1);
	assert_int_equal(n.connects, 1);
	assert_int_equal(f.server.conns, 1);
	STAT_IS(&f, upstream_cx_http1_total, 1);
}

static void test_http2_inside(void **state)
{
	struct rq r[20];

	f.cl.http = WEFT_UP_H2;
	f.server.conf.version = WEFT_HTTP_2;
	for (int i = 0; i < 20; i++)
		rq_start(&r[i], &f);
	for (int i = 0; i < 20; i++) {
		UNTIL(&f, r[i].over);
		assert_int_equal(r[i].status, 200);
		rq_free(&r[i]);
	}
	assert_int_equal(f.server.conns, 1);
}

/* The certificate is good, the trust domain is right, and it is somebody else. */
static void test_other_identity(void **state)
{
	struct tcp a;
	struct rq r;

	f.how.identity = "spiffe://td/ns/a/sa/other";
	tcp_dial(&a);
	UNTIL(&f, a.closed);
	assert_false(a.ready);
	assert_int_equal(a.why, WEFT_IO_TLS);
	assert_non_null(strstr(a.detail, "HBONE tunnel: "));
	weft_upstream_io_free(a.io);
	rq_start(&r, &f);
	UNTIL(&f, r.over);
	assert_true(r.failed);
	assert_int_equal(r.why, WEFT_RESET_CONNECT);
	rq_free(&r);
	assert_int_equal(n.connects, 0); /* not a byte went to it */
	f.how.identity = NULL;
	rq_whole(&f, true);
}

static void test_refused(void **state)
{
	struct tcp a;

	n.refuse = "503";
	tcp_dial(&a);
	UNTIL(&f, a.closed);
	assert_int_equal(a.why, WEFT_IO_REFUSED);
	assert_string_equal(a.detail, "HBONE CONNECT was answered 503");
	weft_upstream_io_free(a.io);
	STAT_IS(&f, upstream_cx_connect_fail, 1);
	n.refuse = NULL;
	f.server.raw = true;
	tcp_dial(&a);
	UNTIL(&f, a.ready);
	assert_int_equal(n.outer.conns, 1); /* the tunnel was not at fault */
	weft_upstream_io_free(a.io);
}

static void test_no_answer(void **state)
{
	struct tcp a;

	n.silent = true;
	f.cl.connect_ms = 300;
	tcp_dial(&a);
	UNTIL(&f, a.closed);
	assert_int_equal(a.why, WEFT_IO_TIMEOUT);
	weft_upstream_io_free(a.io);
	STAT_IS(&f, upstream_cx_connect_timeout, 1);
}

static void test_tunnel_breaks(void **state)
{
	struct tcp a;

	f.server.raw = true;
	tcp_dial(&a);
	UNTIL(&f, a.ready);
	server_drop(&n.outer);
	UNTIL(&f, a.closed);
	assert_int_equal(a.why, WEFT_IO_RESET);
	weft_upstream_io_free(a.io);
	tcp_dial(&a);
	UNTIL(&f, a.ready);
	assert_int_equal(n.outer.conns, 2);
	/* the peer goes away in order: open streams stay, new ones go elsewhere */
	for (size_t i = 0; i < 256; i++)
		if (n.outer.peers[i].session)
			weft_session_drain(n.outer.peers[i].session, 0);
	for (int i = 0; i < 50; i++)
		turn(&f);
	{
		struct tcp b;

		tcp_dial(&b);
		UNTIL(&f, b.ready);
		assert_int_equal(n.outer.conns, 3);
		evbuffer_add(weft_io_out(a.io), "x", 1);
		weft_io_flush(a.io);
		UNTIL(&f, a.got == 1);
		weft_upstream_io_free(b.io);
	}
	weft_upstream_io_free(a.io);
}

static void test_nobody_there(void **state)
{
	struct tcp a;

	event_del(n.outer.ev);
	close(n.outer.fd);
	n.outer.fd = dup(0);
	tcp_dial(&a);
	UNTIL(&f, a.closed);
	assert_int_equal(a.why, WEFT_IO_REFUSED);
	weft_upstream_io_free(a.io);
}

static void test_freed_while_waiting(void **state)
{
	struct tcp a;

	tcp_dial(&a);
	weft_upstream_io_free(a.io);
	tcp_dial(&a);
	UNTIL(&f, n.outer.conns >= 1);
	weft_upstream_io_free(a.io);
	STAT_IS(&f, upstream_rq_cancelled, 2);
}

static void test_plain_socket(void **state)
{
	struct tcp a;

	cluster_must(&f, "{name: x}");
	tcp_dial(&a);
	UNTIL(&f, a.closed);
	assert_non_null(strstr(a.detail, "the transport socket is not TLS"));
	weft_upstream_io_free(a.io);
}

static void test_host_gone(void **state)
{
	struct tcp a;

	f.server.raw = true;
	tcp_dial(&a);
	UNTIL(&f, a.ready);
	weft_pools_host_gone(f.wc.pools, &f.server.host);
	assert_false(a.closed);
	weft_upstream_io_free(a.io);
	UNTIL(&f, !server_peers(&n.outer)); /* whoever has that address next is dialled anew */
	tcp_dial(&a);
	UNTIL(&f, a.ready);
	assert_int_equal(n.outer.conns, 2);
	weft_upstream_io_free(a.io);
}

#define T(x) cmocka_unit_test_setup_teardown(x, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_tcp),
		T(test_http),
		T(test_http2_inside),
		T(test_other_identity),
		T(test_refused),
		T(test_no_answer),
		T(test_tunnel_breaks),
		T(test_nobody_there),
		T(test_freed_while_waiting),
		T(test_plain_socket),
		T(test_host_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
