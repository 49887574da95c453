/* Options of clusters and endpoints: what each of them changes. */
#include "build.h"

#include "proxy/session/headers.h"
#include "proxy/upstream/cluster_int.h"
#include "proxy/upstream/hosts_priv.h"
#include "proxy/upstream/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static struct weft_cluster *made(struct bed *b, const char *more)
{
	static int n;
	char yaml[2048], name[32];

	snprintf(name, sizeof(name), "c%d", n++);
	snprintf(yaml, sizeof(yaml), "name: %s\ntype: STATIC\n%s", name, more);
	assert_int_equal(bed_set(b, true, yaml), 1);
	return weft_clusters_find(b->m, name);
}

static void refused(struct bed *b, const char *more, const char *why)
{
	char yaml[2048];

	snprintf(yaml, sizeof(yaml), "name: bad\n%s", more);
	assert_int_equal(bed_set(b, true, yaml), -EINVAL);
	bed_expect_error(b, why);
}

#define HTTP(fields)                                                                               \
	"typed_extension_protocol_options: "                                                       \
	"{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: "                                \
	"{\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, " \
	"" fields "}}\n"
#define H1 "explicit_http_config: {http_protocol_options: {}}"
#define TLS                                                                                        \
	"transport_socket: {name: tls, typed_config: {\"@type\": "                                 \
	"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}\n"

/* ---- HTTP */

static void the_version_is_chosen(void **state)
{
	struct bed *b = bed_new(NULL);

	assert_int_equal(made(b, "")->http, WEFT_UP_H1);
	assert_int_equal(made(b, "http2_protocol_options: {}\n")->http, WEFT_UP_H2);
	assert_int_equal(made(b, "protocol_selection: USE_DOWNSTREAM_PROTOCOL\n")->http,
			 WEFT_UP_DOWNSTREAM);
	assert_int_equal(made(b, "protocol_selection: USE_CONFIGURED_PROTOCOL\n")->http,
			 WEFT_UP_H1);
	assert_int_equal(made(b, HTTP("use_downstream_protocol_config: {}"))->http,
			 WEFT_UP_DOWNSTREAM);
	assert_int_equal(made(b, TLS HTTP("auto_config: {}"))->http, WEFT_UP_AUTO);
	refused(b, HTTP("auto_config: {}"), "wants a transport_socket that negotiates by ALPN");
	bed_free(b);
}

static void heads_of_answers_are_limited(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_cluster *c =
		made(b, HTTP(H1 ", common_http_protocol_options: {max_response_headers_kb: 8}"));

	assert_int_equal(c->session_h1.h1.max_header_bytes, 8192);
	assert_int_equal(c->session_h2.h2.max_header_bytes, 8192);
	c = made(b, HTTP(H1 ", common_http_protocol_options: {}"));
	assert_int_equal(c->session_h1.h1.max_header_bytes, 60 * 1024);
	bed_free(b);
}

static void named(struct weft_cluster *c, const char *authority, const char *other,
		  const char *want_sni, const char *want_san)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_take how = {0};
	struct weft_headers h;
	char buf[WEFT_NAME_BYTES];

	weft_headers_init(&h, a);
	weft_headers_add_id(&h, WEFT_H_AUTHORITY, authority, strlen(authority));
	if (other)
		weft_headers_add(&h, "x-sni", 5, other, strlen(other));
	weft_transport_names(c, &h, buf, &how);
	if (want_sni)
		assert_string_equal(how.sni, want_sni);
	else
		assert_null(how.sni);
	if (want_san)
		assert_string_equal(how.san, want_san);
	else
		assert_null(how.san);
	weft_arena_free(a);
}

/* auto_sni, auto_san_validation and override_auto_sni_header, in both places they may stand. */
static void names_come_from_requests(void **state)
{
	static const struct {
		const char *fields, *sni, *san, *other_sni;
	} cases[] = {
		{"", NULL, NULL, NULL},
		{"auto_sni: true", "web.test", NULL, "web.test"},
		{"auto_sni: true, auto_san_validation: true", "web.test", "web.test", "web.test"},
		{"auto_san_validation: true", NULL, "web.test", NULL},
		{"auto_sni: true, override_auto_sni_header: x-sni", "web.test", NULL, "other.test"},
	};
	struct bed *b = bed_new(NULL);

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char typed[1024], old[512];

		snprintf(typed, sizeof(typed),
			 TLS HTTP(H1 ", upstream_http_protocol_options: {%s}"), cases[i].fields);
		snprintf(old, sizeof(old), TLS "upstream_http_protocol_options: {%s}\n",
			 cases[i].fields);
		for (int k = 0; k < 2; k++) {
			struct weft_cluster *c = made(b, k ? old : typed);

			named(c, "web.test:443", NULL, cases[i].sni, cases[i].san);
			named(c, "web.test:443", "other.test", cases[i].other_sni, cases[i].san);
		}
	}
	bed_free(b);
}

/* ---- sockets */

static void prepared(struct weft_cluster *c, const char *to, struct weft_tdial *ret)
{
	struct weft_sockaddr a;
	const struct weft_host_conf conf = {.addr = (weft_sockaddr_parse(to, &a), a)};
	struct weft_host *h = weft_host_new(&conf);
	const struct weft_tdial_want want = {.socket = weft_transport_pick(c->transport, NULL),
					     .host = h,
					     .how = &(struct weft_take){0}};

	assert_int_equal(weft_transport_prepare(c->transport, &want, ret), 0);
	weft_host_unref(h);
}

static int option(const struct weft_tdial *d, int level, int name)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), v = -1;
	socklen_t n = sizeof(v);

	if (d->dial.prepare)
		assert_int_equal(d->dial.prepare(d->dial.prepare_ctx, fd), 0);
	assert_int_equal(getsockopt(fd, level, name, &v, &n), 0);
	close(fd);
	return v;
}

static void sockets_have_options(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_tdial d;

	prepared(made(b, ""), "10.0.0.1:80", &d);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 0);
	assert_int_equal(option(&d, IPPROTO_IP, IP_FREEBIND), 0);
	prepared(made(b, "upstream_bind_config: {freebind: true, socket_options: [{level: 1, name: "
			 "9, int_value: 1}]}\n"),
		 "10.0.0.1:80", &d);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option(&d, IPPROTO_IP, IP_FREEBIND), 1);
	prepared(made(b, "upstream_bind_config: {socket_options: [{level: 1, name: 9, buf_value: "
			 "AQAAAA==}]}\n"),
		 "10.0.0.1:80", &d);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 1);
	bed_free(b);
}

static void bound_to(struct weft_cluster *c, const char *to, const char *want)
{
	char text[WEFT_SOCKADDR_TEXT] = "";
	struct weft_tdial d;

	prepared(c, to, &d);
	if (d.dial.from.ip.family)
		weft_sockaddr_text(&d.dial.from, text, sizeof(text));
	assert_string_equal(text, want);
}

/* The manager's serves those that have none; of two families each has its own. */
static void connections_are_bound(void **state)
{
	struct bed *b = bed_new(NULL);
	struct weft_cfg c = bed_cfg(b);
	const Envoy__Config__Core__V3__BindConfig *m =
		yaml_message(b->a, &envoy__config__core__v3__bind_config__descriptor,
			     "source_address: {address: 10.0.0.9, port_value: 0}\n");
	static const char own[] = "upstream_bind_config: {source_address: {address: \"::9\", "
				  "port_value: 0}, extra_source_addresses: [{address: {address: "
				  "10.0.0.8, port_value: 0}}]}\n";

	bound_to(made(b, ""), "10.0.0.1:80", "");
	assert_int_equal(weft_clusters_bind(b->m, &c, NULL, m), 0);
	bound_to(made(b, ""), "10.0.0.1:80", "10.0.0.9:0");
	bound_to(made(b, ""), "[::1]:80", "");
	bound_to(made(b, own), "10.0.0.1:80", "10.0.0.8:0");
	bound_to(made(b, own), "[::1]:80", "[::9]:0");
	m = yaml_message(b->a, &envoy__config__core__v3__bind_config__descriptor,
			 "source_address: {address: nowhere, port_value: 0}\n");
	assert_int_equal(weft_clusters_bind(b->m, &c, NULL, m), -EINVAL);
	bed_expect_error(b, "source_address.address: must be an IP address");
	bed_free(b);
}

/* ---- hosts of several addresses */

static const char *order(struct bed *b, const char *config, const char *more)
{
	static char text[512];
	char yaml[2048];
	const struct weft_host *h;
	struct weft_cluster *c;
	char one[WEFT_SOCKADDR_TEXT];
	size_t at = 0;

	snprintf(yaml, sizeof(yaml),
		 "%sload_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: "
		 "{address: {socket_address: {address: 10.0.0.1, port_value: 80}}%s}}]}]}\n",
		 config, more);
	c = made(b, yaml);
	h = weft_balancer_hosts(weft_wcluster_find(b->w, c->name)->balancer)->v[0].host;
	text[0] = 0;
	for (size_t i = 0; i < h->n_tries; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s ",
				       weft_sockaddr_text(&h->tries[i], one, sizeof(one)));
	return text;
}

#define MORE(...)    ", additional_addresses: [" __VA_ARGS__ "]"
#define AT(ip, port) "{address: {socket_address: {address: \"" ip "\", port_value: " #port "}}},"
#define EYES(fields) "upstream_connection_options: {happy_eyeballs_config: {" fields "}}\n"

static void addresses_are_tried_in_order(void **state)
{
	static const char many[] = MORE(AT("10.0.0.2", 81) AT("::1", 80) AT("::2", 80));
	struct bed *b = bed_new(NULL);

	assert_string_equal(order(b, "", ""), "");
	/* RFC 8305: families take turns, the first is that of the host's own */
	assert_string_equal(order(b, "", many), "10.0.0.1:80 [::1]:80 10.0.0.2:81 [::2]:80 ");
	assert_string_equal(order(b, EYES("first_address_family_version: V6"), many),
			    "[::1]:80 10.0.0.1:80 [::2]:80 10.0.0.2:81 ");
	assert_string_equal(order(b, EYES("first_address_family_version: V4"), many),
			    "10.0.0.1:80 [::1]:80 10.0.0.2:81 [::2]:80 ");
	assert_string_equal(order(b, EYES("first_address_family_count: 2"), many),
			    "10.0.0.1:80 10.0.0.2:81 [::1]:80 [::2]:80 ");
	assert_string_equal(order(b,
				  EYES("first_address_family_version: V6, "
				       "first_address_family_count: 3"),
				  many),
			    "[::1]:80 [::2]:80 10.0.0.1:80 10.0.0.2:81 ");
	/* one family alone is as it is given */
	assert_string_equal(order(b, EYES("first_address_family_version: V6"),
				  MORE(AT("10.0.0.3", 80) AT("10.0.0.2", 80))),
			    "10.0.0.1:80 10.0.0.3:80 10.0.0.2:80 ");
	bed_free(b);
}

#define LOAD(endpoint)                                                                             \
	"load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {" endpoint     \
	"}}]}]}\n"
#define TEN "address: {socket_address: {address: 10.0.0.1, port_value: 80}}"

static void bad_addresses_are_refused(void **state)
{
	struct bed *b = bed_new(NULL);

	refused(b, "type: STATIC\n" LOAD(TEN MORE("{address: {pipe: {path: /x}}}")),
		"additional_addresses[0].address: must be a socket_address");
	refused(b, "type: STATIC\n" LOAD(TEN MORE(AT("::1", 80) AT("name.test", 80))),
		"additional_addresses[1].address.socket_address.address: must be an IP address");
	refused(b, "type: STATIC\n" LOAD(TEN MORE(AT("::1", 0))),
		"additional_addresses[0].address.socket_address.port_value: must be 1..65535");
	refused(b, "type: STATIC\n" LOAD("address: {pipe: {path: /x}}" MORE(AT("::1", 80))),
		"additional_addresses: must not stand beside a pipe");
	refused(b, "type: STRICT_DNS\n" LOAD(TEN MORE(AT("::1", 80))),
		"additional_addresses: is for clusters that are not of type STRICT_DNS");
	bed_free(b);
}

/* A logical host is all that its name stands for; it stays itself while that is the same. */
static void a_logical_host_has_every_address(void **state)
{
	static const char yaml[] = "name: log\ntype: LOGICAL_DNS\ndns_lookup_family: ALL\n" LOAD(
		"address: {socket_address: {address: l.test, port_value: 80}}");
	struct weft_errs errs = {0};
	struct bed *b = bed_new(NULL);
	struct weft_cfg c = {.arena = b->a, .errs = &errs};
	const Envoy__Config__Cluster__V3__Cluster *m =
		yaml_message(b->a, &envoy__config__cluster__v3__cluster__descriptor, yaml);
	size_t n = protobuf_c_message_get_packed_size(&m->base);
	uint8_t *packed = weft_xcalloc(1, n);
	struct weft_ip ips[3];
	struct dns_name name = {.ips = ips, .n = 3, .known = true};
	struct hosts_want want = {.names = &name, .n_names = 1};
	struct weft_sockaddr v[8];
	struct weft_hosts *one, *two;
	struct weft_cluster *cl;

	protobuf_c_message_pack(&m->base, packed);
	cl = cluster_make(&c, NULL, m, packed, n);
	assert_non_null(cl);
	weft_ip_parse("10.0.0.1", &ips[0]);
	weft_ip_parse("10.0.0.2", &ips[1]);
	weft_ip_parse("::1", &ips[2]);
	want.cluster = cl;
	assert_int_equal(hosts_make(&c, NULL, &want, cl->msg->load_assignment, &one), 0);
	assert_int_equal(one->n, 1);
	assert_int_equal(one->v[0].host->n_tries, 3);
	assert_int_equal(one->v[0].host->tries[1].ip.family, 6);
	assert_int_equal(one->v[0].host->tries[2].port, 80);
	/* the answer in another order */
	want.old = one;
	weft_ip_parse("10.0.0.2", &ips[0]);
	weft_ip_parse("10.0.0.1", &ips[1]);
	assert_int_equal(hosts_make(&c, NULL, &want, cl->msg->load_assignment, &two), 0);
	assert_ptr_equal(two->v[0].host, one->v[0].host);
	weft_hosts_unref(two);
	name.n = 2;
	assert_int_equal(hosts_make(&c, NULL, &want, cl->msg->load_assignment, &two), 0);
	/* one went: its connections, checks and ejections are not begun anew */
	assert_ptr_equal(two->v[0].host, one->v[0].host);
	assert_int_equal(two->v[0].host->n_tries, 2);
	weft_hosts_unref(two);
	weft_ip_parse("10.0.0.9", &ips[0]);
	assert_int_equal(hosts_make(&c, NULL, &want, cl->msg->load_assignment, &two), 0);
	assert_ptr_equal(two->v[0].host, one->v[0].host);
	assert_int_equal(weft_host_tries(two->v[0].host, v, 8), 2);
	assert_true(weft_ip_eq(&v[1].ip, &ips[0]));
	weft_hosts_unref(two);
	name.n = 1;
	weft_ip_parse("10.0.0.1", &ips[0]);
	assert_int_equal(hosts_make(&c, NULL, &want, cl->msg->load_assignment, &two), 0);
	assert_ptr_equal(two->v[0].host, one->v[0].host);
	assert_int_equal(weft_host_tries(two->v[0].host, v, 8), 0);
	/* its own address went: another host */
	weft_hosts_unref(two);
	weft_ip_parse("10.0.0.9", &ips[0]);
	assert_int_equal(hosts_make(&c, NULL, &want, cl->msg->load_assignment, &two), 0);
	assert_ptr_not_equal(two->v[0].host, one->v[0].host);
	weft_hosts_unref(two);
	weft_hosts_unref(one);
	weft_cluster_unref(cl);
	free(packed);
	bed_free(b);
}

/* ---- endpoints */

static void flags_of(void *ctx, const struct weft_cluster_view *v)
{
	uint32_t *flags = ctx;

	for (size_t i = 0; i < v->hosts->n && i < 2; i++)
		flags[i] = atomic_load(&v->hosts->v[i].host->flags);
}

/* disable_active_health_check: nobody waits for its check. */
static void a_host_may_go_unchecked(void **state)
{
	struct bed *b = bed_new(NULL);
	uint32_t flags[2] = {0, 0};

	assert_int_equal(
		bed_set_only(
			b, true,
			"name: hc\ntype: STATIC\nhealth_checks: [{timeout: 1s, interval: 1s, "
			"unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]\n"
			"load_assignment: {cluster_name: hc, endpoints: [{lb_endpoints: ["
			"{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: "
			"1}}, health_check_config: {disable_active_health_check: true}}}, "
			"{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: "
			"2}}}}]}]}\n"),
		1);
	weft_clusters_each(b->m, flags_of, flags);
	assert_int_equal(flags[0], 0);
	assert_int_equal(flags[1], WEFT_HOST_PENDING_ACTIVE_HC | WEFT_HOST_FAILED_ACTIVE_HC);
	bed_free(b);
}

/* One of two hosts is well, with a tenth of the weight: by hosts half of it is, by weight a tenth;
 * 1.4 times that stays in the first priority. */
static void priorities_spill_by_weight(void **state)
{
	for (int by_weight = 0; by_weight < 2; by_weight++) {
		struct bed *b = bed_new(NULL);
		char yaml[1024];
		int first = 0;

		snprintf(yaml, sizeof(yaml),
			 "name: w\ntype: STATIC\nload_assignment: {cluster_name: w, policy: "
			 "{weighted_priority_health: %s}, endpoints: [{lb_endpoints: ["
			 "{load_balancing_weight: 1, endpoint: {address: {socket_address: "
			 "{address: 10.0.0.1, port_value: 80}}}}, {load_balancing_weight: 9, "
			 "health_status: UNHEALTHY, endpoint: {address: {socket_address: "
			 "{address: 10.0.0.2, port_value: 80}}}}]}, {priority: 1, lb_endpoints: "
			 "[{endpoint: {address: {socket_address: {address: 10.0.0.3, port_value: "
			 "80}}}}]}]}\n",
			 by_weight ? "true" : "false");
		assert_int_equal(bed_set(b, true, yaml), 1);
		for (int i = 0; i < 1000; i++)
			first += !strcmp(bed_pick(b, "w"), "10.0.0.1:80");
		assert_in_range(first, by_weight ? 80 : 620, by_weight ? 200 : 780);
		bed_free(b);
	}
}

/* ---- close_connections_on_host_health_failure */

struct tcp {
	bool ready, closed;
};

static void tcp_ready(struct weft_io *io)
{
	((struct tcp *)weft_io_owner(io))->ready = true;
}

static void tcp_readable(struct weft_io *io)
{
}

static void tcp_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	((struct tcp *)weft_io_owner(io))->closed = true;
}

static const struct weft_io_ops tcp_ops = {
	.ready = tcp_ready, .readable = tcp_readable, .closed = tcp_closed};

static void streams_end_with_the_hosts_health(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(fd, 16), 0);
	getsockname(fd, (struct sockaddr *)&a, &n);
	for (int on = 0; on < 2; on++) {
		struct bed *b = bed_new(NULL);
		struct weft_take how = {0};
		struct weft_wcluster *wc;
		struct tcp t = {0};
		struct weft_host *h;
		struct weft_io *io;
		char yaml[1024];

		snprintf(yaml, sizeof(yaml),
			 "name: t\ntype: STATIC\nclose_connections_on_host_health_failure: %s\n"
			 "outlier_detection: {always_eject_one_host: true}\n"
			 "load_assignment: {cluster_name: t, endpoints: [{lb_endpoints: "
			 "[{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: "
			 "%d}}}}]}]}\n",
			 on ? "true" : "false", ntohs(a.sin_port));
		assert_int_equal(bed_set(b, true, yaml), 1);
		wc = weft_wcluster_find(b->w, "t");
		h = weft_balancer_hosts(wc->balancer)->v[0].host;
		assert_int_equal(weft_upstream_dial(wc, h, &how, &tcp_ops, &t, &io), 0);
		for (int i = 0; i < 100 && !t.ready; i++)
			event_base_loop(b->w->base, EVLOOP_ONCE);
		assert_true(t.ready);
		for (int i = 0; i < 5; i++)
			weft_host_outcome(wc, h, WEFT_OUT_CODE, 500);
		bed_run(b);
		bed_run(b);
		assert_true(atomic_load(&h->flags) & WEFT_HOST_FAILED_OUTLIER);
		assert_int_equal(t.closed, on);
		weft_upstream_io_free(io);
		bed_free(b);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_version_is_chosen),
		cmocka_unit_test(heads_of_answers_are_limited),
		cmocka_unit_test(names_come_from_requests),
		cmocka_unit_test(sockets_have_options),
		cmocka_unit_test(connections_are_bound),
		cmocka_unit_test(addresses_are_tried_in_order),
		cmocka_unit_test(bad_addresses_are_refused),
		cmocka_unit_test(a_logical_host_has_every_address),
		cmocka_unit_test(a_host_may_go_unchecked),
		cmocka_unit_test(priorities_spill_by_weight),
		cmocka_unit_test(streams_end_with_the_hosts_health),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
