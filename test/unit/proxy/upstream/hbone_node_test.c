/* HBONE of a cluster towards the node proxy itself: its inbound side runs in this process. */
#include "proxy/node/link.h"
#include "test/unit/proxy/node/apps.c"
#include "test/unit/proxy/upstream/build.h"

#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/transport.h"

static struct weft_worker w;
static struct weft_arena *a;
static struct weft_cluster cl;
static struct weft_cluster_priv priv = {.per_host_max_connections = UINT32_MAX};
static struct weft_breaker breakers[WEFT_PRIORITIES];
static struct weft_wcluster wc;
static struct weft_host host;
static struct weft_take how;

/* A PEM as JSON text. */
static const char *quoted(const char *pem)
{
	char *out = weft_arena_alloc(a, 2 * strlen(pem) + 3), *p = out;

	*p++ = '"';
	for (; *pem; pem++) {
		if (*pem == '\n')
			*p++ = '\\';
		*p++ = *pem == '\n' ? 'n' : *pem;
	}
	*p++ = '"';
	*p = 0;
	return out;
}

static void cluster_up(void)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.errs = &errs, .file = true};
	static char text[WEFT_SOCKADDR_TEXT];
	const char *yaml;

	a = c.arena = weft_arena_new(0);
	yaml = weft_arena_printf(
		a,
		"{name: c, transport_socket: {name: t, typed_config: {\"@type\": "
		"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, "
		"common_tls_context: {tls_params: {tls_minimum_protocol_version: TLSv1_3, "
		"tls_maximum_protocol_version: TLSv1_3}, tls_certificates: [{certificate_chain: "
		"{inline_string: %s}, "
		"private_key: {inline_string: %s}}], validation_context: {trusted_ca: "
		"{inline_string: %s}}}}}}",
		quoted(leaf_a.pem), quoted(leaf_a.key_pem), quoted(ca.pem));
	memset(&cl, 0, sizeof(cl));
	for (int i = 0; i < WEFT_PRIORITIES; i++)
		breakers[i] = (struct weft_breaker){.max_connections = 1024,
						    .max_pending = 1024,
						    .max_requests = 1024,
						    .max_pools = UINT32_MAX};
	cl.msg = yaml_message(a, &envoy__config__cluster__v3__cluster__descriptor, yaml);
	cl.name = "c";
	cl.priv = &priv;
	cl.breaker = breakers;
	cl.connect_ms = 3000;
	assert_int_equal(weft_transport_new(&c, NULL, &cl, &cl.transport), 0);
	w = (struct weft_worker){.base = base};
	wc = (struct weft_wcluster){.refs = 1000, .w = &w, .cluster = &cl};
	wc.pools = weft_pools_new(&wc);
	memset(&host, 0, sizeof(host));
	atomic_store(&host.refs, 1000);
	host.addr = server_addr;
	host.text = weft_sockaddr_text(&server_addr, text, sizeof(text));
	host.hostname = "";
	how = (struct weft_take){
		.metadata = yaml_message(
			a, &envoy__config__core__v3__metadata__descriptor,
			weft_arena_printf(a, "{filter_metadata: {weft.hbone: {identity: \"%s\"}}}",
					  id_b))};
}

static void cluster_down(void)
{
	weft_pools_free(wc.pools);
	weft_transport_free(cl.transport);
	loop_ms(20);
	assert_int_equal(wc.refs, 1000);
	assert_int_equal(host.refs, 1000);
	weft_arena_free(a);
}

struct stream {
	struct weft_io *io;
	atomic_uint ready, over;
	enum weft_io_end why;
	size_t want, got;
	bool eof;
};

static void s_ready(struct weft_io *io)
{
	struct stream *s = weft_io_owner(io);

	atomic_store(&s->ready, 1);
}

static void s_readable(struct weft_io *io)
{
	struct stream *s = weft_io_owner(io);
	struct evbuffer *in = weft_io_in(io);

	s->got += evbuffer_get_length(in);
	evbuffer_drain(in, evbuffer_get_length(in));
	s->eof = weft_io_eof(io);
	if (s->eof)
		atomic_store(&s->over, 1);
}

static void s_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct stream *s = weft_io_owner(io);

	s->why = why;
	if (*weft_io_detail(io))
		print_message("# %s\n", weft_io_detail(io));
	atomic_store(&s->over, 1);
}

static const struct weft_io_ops s_ops = {
	.ready = s_ready, .readable = s_readable, .closed = s_closed};

static void s_open(struct stream *s)
{
	memset(s, 0, sizeof(*s));
	assert_int_equal(weft_upstream_dial(&wc, &host, &how, &s_ops, s, &s->io), 0);
}

static void through(void **state)
{
	enum { BYTES = 1 << 20, N = 20 };
	static char bytes[BYTES];
	struct stream s[N];

	server_up();
	cluster_up();
	for (int i = 0; i < N; i++)
		s_open(&s[i]);
	for (int i = 0; i < N; i++) {
		assert_true(loop_until(flag_set, &s[i].ready, 5000));
		evbuffer_add(weft_io_out(s[i].io), bytes, BYTES);
		weft_io_shutdown(s[i].io);
	}
	for (int i = 0; i < N; i++) {
		assert_true(loop_until(flag_set, &s[i].over, 10000));
		assert_true(s[i].eof);
		assert_int_equal(s[i].got, BYTES);
		weft_upstream_io_free(s[i].io);
	}
	assert_true(wait_ended(N, 5000));
	assert_string_equal(ended[0].src_id, id_a); /* who the node proxy saw */
	cluster_down();
	server_down();
}

static void somebody_else(void **state)
{
	struct stream s;

	server_up();
	cluster_up();
	how.identity = id_a; /* of the mesh, and not of that pod */
	s_open(&s);
	assert_true(loop_until(flag_set, &s.over, 5000));
	assert_false(atomic_load(&s.ready));
	assert_int_equal(s.why, WEFT_IO_TLS);
	weft_upstream_io_free(s.io);
	assert_int_equal(atomic_load(&server_conns), 0);
	/* nobody listens at the port asked for: the node proxy says 503 */
	how.identity = NULL;
	host.addr.port = 1;
	how.tunnel = weft_arena_printf(a, "%s:1", ip_b);
	s_open(&s);
	assert_true(loop_until(flag_set, &s.over, 5000));
	assert_int_equal(s.why, WEFT_IO_REFUSED);
	assert_non_null(strstr(weft_io_detail(s.io), "503"));
	weft_upstream_io_free(s.io);
	cluster_down();
	server_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(through, nodes_up, nodes_down),
		cmocka_unit_test_setup_teardown(somebody_else, nodes_up, nodes_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
