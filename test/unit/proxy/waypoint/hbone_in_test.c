/* HBONE that ends here: tunnels into a listener, what is refused, both ends of a tunnel, the end of
 * the outer connection. */
#include "listener_fix.h"

#include <event2/buffer.h>

static const char *const id_web[] = {"spiffe://td/ns/a/sa/web", NULL};
static const char *const no_ids[] = {NULL};
static const char *const odd_ids[] = {"https://x", NULL};

struct tun { /* a tunnel, at the client's */
	struct weft_exchange *x;
	struct weft_arena *arena;
	char status[8], got[4096];
	size_t n;
	bool end, reset, done;
};
static struct weft_chain *chain;
static struct weft_session *client;
static struct weft_tls_info tls;
static struct weft_chain_conf const *conf;
static struct weft_arena *arena;
static bool outer_closed, client_closed;
static const struct weft_path at = {NULL, "filters", -1};

/* ---- the client */
static void x_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct tun *t = weft_exchange_user(x);

	snprintf(t->status, sizeof(t->status), "%s", weft_headers_value(h, WEFT_H_STATUS));
	t->end |= end;
}

static void x_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct tun *t = weft_exchange_user(x);
	int n = evbuffer_remove(b, t->got + t->n, sizeof(t->got) - 1 - t->n);

	t->n += n > 0 ? (size_t)n : 0;
	evbuffer_drain(b, evbuffer_get_length(b));
	t->end |= end;
}

static void x_trailers(struct weft_exchange *x, struct weft_headers *h)
{
}

static void x_writable(struct weft_exchange *x)
{
}

static void x_reset(struct weft_exchange *x, enum weft_reset why)
{
	((struct tun *)weft_exchange_user(x))->reset = true;
	((struct tun *)weft_exchange_user(x))->x = NULL;
}

static void x_done(struct weft_exchange *x)
{
	((struct tun *)weft_exchange_user(x))->done = true;
	((struct tun *)weft_exchange_user(x))->x = NULL;
}

static const struct weft_exchange_ops x_ops = {.headers = x_headers,
					       .data = x_data,
					       .trailers = x_trailers,
					       .writable = x_writable,
					       .reset = x_reset,
					       .done = x_done};

static void s_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	client_closed = true;
}

static const struct weft_session_ops s_ops = {.closed = s_closed};
static const struct weft_session_conf s_conf = {.version = WEFT_HTTP_2};
static const struct weft_io_ops no_ops;

static void connect_to(struct tun *t, const char *method, const char *authority,
		       const char *forwarded)
{
	struct weft_headers h;

	memset(t, 0, sizeof(*t));
	t->arena = weft_arena_new(0);
	weft_headers_init(&h, t->arena);
	weft_headers_add_id(&h, WEFT_H_METHOD, method, strlen(method));
	if (strcmp(method, "CONNECT")) {
		weft_headers_add_id(&h, WEFT_H_SCHEME, "http", 4);
		weft_headers_add_id(&h, WEFT_H_PATH, "/", 1);
	}
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, authority, strlen(authority));
	if (forwarded)
		weft_headers_add(&h, "forwarded", 9, forwarded, strlen(forwarded));
	assert_int_equal(weft_exchange_open(client, &x_ops, t, t->arena, &h, true, &t->x), 0);
}

static void say(struct tun *t, const char *text, bool end)
{
	struct evbuffer *b = evbuffer_new();

	evbuffer_add(b, text, strlen(text));
	weft_exchange_send_data(t->x, b, end);
	evbuffer_free(b);
}

static void until(const bool *what)
{
	unsigned i;

	for (i = 0; i < TURNS && !*what; i++)
		turn();
	assert_true(*what);
}

static void answered(struct tun *t, const char *status)
{
	unsigned i;

	for (i = 0; i < TURNS && !*t->status; i++)
		turn();
	assert_string_equal(t->status, status);
}

static void hears(struct tun *t, const char *text)
{
	unsigned i;

	for (i = 0; i < TURNS && !strstr(t->got, text); i++)
		turn();
	if (!strstr(t->got, text))
		fail_msg("no \"%s\" in \"%s\" (status %s end %d reset %d done %d)", text, t->got,
			 t->status, t->end, t->reset, t->done);
}

static void over(struct tun *t)
{
	if (t->x)
		weft_exchange_reset(t->x, WEFT_RESET_LOCAL);
	weft_arena_free(t->arena);
}

/* ---- the outer connection */
static void on_outer_closed(void *owner, struct weft_chain *ch)
{
	outer_closed = true;
	chain = NULL;
}

static void outer(const char *const *ids, const char *hbone)
{
	struct weft_chain_start s = {.worker = f.w,
				     .listener_name = "outer",
				     .filter_chain_name = "",
				     .closed = on_outer_closed};
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = arena, .errs = &errs, .file = true};
	char yaml[600];
	const Envoy__Config__Listener__V3__FilterChain *m;
	int ends[2];

	snprintf(yaml, sizeof(yaml),
		 "filters: [{name: h, typed_config: {\"@type\": "
		 "type.googleapis.com/weft.waypoint.Hbone, %s}}]",
		 hbone);
	m = (const void *)of_text(arena, yaml,
				  &envoy__config__listener__v3__filter_chain__descriptor);
	assert_int_equal(weft_chain_prepare(&c, &at, m->filters, m->n_filters, &conf), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
	tls = (struct weft_tls_info){.version = "TLSv1.3",
				     .cipher = "",
				     .peer_subject = "",
				     .peer_issuer = "",
				     .peer_serial = "",
				     .peer_sha256 = "",
				     .peer_uri = ids,
				     .peer_dns = no_ids,
				     .peer_email = no_ids,
				     .peer_ip = no_ids,
				     .local_uri = no_ids,
				     .local_dns = no_ids,
				     .local_subject = ""};
	s.conf = conf;
	s.io = weft_io_new(f.w->base, ends[0], NULL, NULL, &no_ops, NULL);
	weft_io_info_edit(s.io)->tls = &tls;
	outer_closed = client_closed = false;
	chain = weft_chain_new(&s);
	client = weft_session_new(weft_io_new(f.w->base, ends[1], NULL, NULL, &no_ops, NULL),
				  &s_conf, &s_ops, NULL);
	turns(4);
}

static int setup(void **state)
{
	fix_setup(NULL);
	arena = weft_arena_new(0);
	listeners_start(f.m);
	assert_int_equal(set("inner", 0, "inside", "bind_to_port: false", true), 1);
	turns(2);
	return 0;
}

static int teardown(void **state)
{
	weft_session_free(client);
	client = NULL;
	if (chain)
		weft_chain_close(chain, 0, NULL);
	turns(4);
	assert_null(chain);
	assert_int_equal(wlisteners_open(f.ws), 0); /* no tunnel outlives its connection */
	fix_end(NULL);
	weft_arena_free(arena);
	return 0;
}

static void carries_http(void **state)
{
	struct tun a, b;

	outer(id_web, "listener: inner, trust_domains: [other, td]");
	connect_to(&a, "CONNECT", "10.0.0.1:80", NULL);
	connect_to(&b, "CONNECT", "[fd00::1]:80", "for=10.9.8.7");
	answered(&a, "200");
	answered(&b, "200");
	assert_int_equal(wlisteners_open(f.ws), 2);
	say(&a, "GET / HTTP/1.1\r\nhost: t\r\n\r\n", false);
	hears(&a, "inside");
	say(&b, "GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", false);
	hears(&b, "inside");
	until(&b.end);
	until(&b.done);
	assert_null(strstr(b.got, "400"));
	assert_int_equal(wlisteners_open(f.ws), 1);
	over(&a);
	over(&b);
	turns(4);
	assert_int_equal(wlisteners_open(f.ws), 0);
}

static void refuses_requests(void **state)
{
	static const struct {
		const char *method, *authority, *status;
	} v[] = {{"GET", "10.0.0.1:80", "400"},
		 {"CONNECT", "host.example:80", "400"},
		 {"CONNECT", "10.0.0.1", "400"},
		 {"CONNECT", "10.0.0.1:99999", "400"}};
	struct tun t;
	size_t i;

	outer(id_web, "listener: inner");
	for (i = 0; i < sizeof(v) / sizeof(*v); i++) {
		connect_to(&t, v[i].method, v[i].authority, NULL);
		answered(&t, v[i].status);
		assert_true(t.end);
		over(&t);
		turns(2);
	}
	connect_to(&t, "CONNECT", "10.0.0.1:80", NULL); /* the others go on */
	answered(&t, "200");
	over(&t);
}

static void no_such_listener(void **state)
{
	struct tun t;

	outer(id_web, "listener: nowhere");
	connect_to(&t, "CONNECT", "10.0.0.1:80", NULL);
	answered(&t, "404");
	assert_true(t.end);
	over(&t);
}

static void needs_an_identity(void **state)
{
	outer(odd_ids, "listener: inner");
	until(&outer_closed);
	until(&client_closed);
	weft_session_free(client);
	client = NULL;
	outer(no_ids, "listener: inner");
	until(&outer_closed);
	weft_session_free(client);
	client = NULL;
	outer(id_web, "listener: inner, trust_domains: [other]");
	until(&outer_closed);
}

static void outer_ends(void **state)
{
	struct tun a, b;

	outer(id_web, "listener: inner");
	connect_to(&a, "CONNECT", "10.0.0.1:80", NULL);
	connect_to(&b, "CONNECT", "10.0.0.2:80", NULL);
	answered(&a, "200");
	answered(&b, "200");
	say(&a, "GET / HT", false); /* in the middle of a request */
	turns(2);
	assert_int_equal(wlisteners_open(f.ws), 2);
	weft_session_free(client);
	client = NULL;
	assert_true(a.reset && b.reset);
	until(&outer_closed);
	turns(4);
	assert_int_equal(wlisteners_open(f.ws), 0);
	over(&a);
	over(&b);
}

static void client_cuts_a_tunnel(void **state)
{
	struct tun a, b;

	outer(id_web, "listener: inner");
	connect_to(&a, "CONNECT", "10.0.0.1:80", NULL);
	connect_to(&b, "CONNECT", "10.0.0.1:80", NULL);
	answered(&a, "200");
	answered(&b, "200");
	over(&a);
	turns(8);
	assert_int_equal(wlisteners_open(f.ws), 1);
	say(&b, "GET / HTTP/1.1\r\nhost: t\r\n\r\n", false);
	hears(&b, "inside");
	over(&b);
}

static void the_listener_is_replaced(void **state)
{
	struct tun a, b;

	outer(id_web, "listener: inner");
	connect_to(&a, "CONNECT", "10.0.0.1:80", NULL);
	answered(&a, "200");
	say(&a, "GET / HTTP/1.1\r\nhost: t\r\n\r\n", false);
	hears(&a, "inside");
	assert_int_equal(set("inner", 0, "other", "bind_to_port: false", true), 1);
	turns(2);
	connect_to(&b, "CONNECT", "10.0.0.1:80", NULL);
	answered(&b, "200");
	say(&b, "GET / HTTP/1.1\r\nhost: t\r\n\r\n", false);
	hears(&b, "other");
	say(&a, "GET / HTTP/1.1\r\nhost: t\r\n\r\n", false);
	hears(&a, "connection: close");
	over(&a);
	over(&b);
}

static void must_name_a_listener(void **state)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = arena, .errs = &errs, .file = true};
	const Envoy__Config__Listener__V3__FilterChain *m =
		(const void *)of_text(arena,
				      "filters: [{name: h, typed_config: {\"@type\": "
				      "type.googleapis.com/weft.waypoint.Hbone}}]",
				      &envoy__config__listener__v3__filter_chain__descriptor);

	assert_int_equal(weft_chain_prepare(&c, &at, m->filters, m->n_filters, &conf), -EINVAL);
	assert_non_null(strstr(errs.v[0].path, "listener"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(carries_http, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(no_such_listener, setup, teardown),
		cmocka_unit_test_setup_teardown(needs_an_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(outer_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(client_cuts_a_tunnel, setup, teardown),
		cmocka_unit_test_setup_teardown(the_listener_is_replaced, setup, teardown),
		cmocka_unit_test_setup_teardown(must_name_a_listener, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
