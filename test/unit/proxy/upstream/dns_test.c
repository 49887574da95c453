/* Names of a cluster against a DNS server on loopback that the test itself plays. */
#include "proxy/core/worker.h"
#include "proxy/upstream/dns.h"
#include "xds/yaml.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct server {
	int fd;
	uint16_t port;
	struct event *ev;
	unsigned asked, asked_a, asked_aaaa;
	int rcode;    /* of answers: 0, 2 SERVFAIL, 3 NXDOMAIN */
	unsigned n_a; /* addresses 10.1.0.1 .. */
	unsigned n_aaaa;
	uint32_t ttl;
	bool silent;
	unsigned payload; /* of the last query's OPT record; 0: it had none */
	char last[256];	  /* name */
};

/* The name in text; where it ends. */
static size_t name_text(const uint8_t *b, size_t at, char *ret)
{
	while (b[at]) {
		memcpy(ret, b + at + 1, b[at]);
		ret += b[at];
		*ret++ = '.';
		at += b[at] + 1u;
	}
	*ret = 0;
	return at + 1;
}

static size_t rr(uint8_t *p, uint16_t type, uint32_t ttl, const uint8_t *addr, uint16_t n)
{
	const uint8_t head[] = {0xc0,
				12,
				0,
				(uint8_t)type,
				0,
				1,
				(uint8_t)(ttl >> 24),
				(uint8_t)(ttl >> 16),
				(uint8_t)(ttl >> 8),
				(uint8_t)ttl,
				0,
				(uint8_t)n};

	memcpy(p, head, sizeof(head));
	memcpy(p + sizeof(head), addr, n);
	return sizeof(head) + n;
}

static void on_query(evutil_socket_t fd, short what, void *arg)
{
	struct server *s = arg;
	struct sockaddr_in from;
	socklen_t from_n = sizeof(from);
	uint8_t b[1500];
	ssize_t n = recvfrom(fd, b, 512, 0, (struct sockaddr *)&from, &from_n);
	size_t at = 12;
	uint16_t type;
	unsigned count;

	assert_true(n > 12);
	at = name_text(b, at, s->last);
	type = b[at + 1];
	at += 4;
	s->payload = b[11] ? b[at + 3] * 256u + b[at + 4] : 0;
	s->asked++;
	s->asked_a += type == 1;
	s->asked_aaaa += type == 28;
	if (s->silent)
		return;
	count = type == 1 ? s->n_a : type == 28 ? s->n_aaaa : 0;
	b[2] = 0x85;
	b[3] = (uint8_t)(0x80 | s->rcode);
	b[4] = 0, b[5] = 1;
	memset(b + 6, 0, 6);
	b[7] = (uint8_t)(s->rcode ? 0 : count);
	for (unsigned i = 0; !s->rcode && i < count; i++) {
		uint8_t v4[4] = {10, 1, 0, (uint8_t)(count - i)}, v6[16] = {0xfd, [15] = 1};

		v6[14] = (uint8_t)(count - i);
		at += type == 1 ? rr(b + at, 1, s->ttl, v4, 4) : rr(b + at, 28, s->ttl, v6, 16);
	}
	sendto(fd, b, at, 0, (struct sockaddr *)&from, from_n);
}

static void server_open(struct server *s, struct event_base *base)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);

	s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&a, n), 0);
	getsockname(s->fd, (struct sockaddr *)&a, &n);
	s->port = ntohs(a.sin_port);
	s->ttl = 60;
	s->ev = event_new(base, s->fd, EV_READ | EV_PERSIST, on_query, s);
	event_add(s->ev, NULL);
}

static void server_close(struct server *s)
{
	event_free(s->ev);
	close(s->fd);
}

struct fix {
	struct event_base *base;
	struct server server;
	Envoy__Config__Cluster__V3__Cluster msg;
	struct weft_cluster cl;
	Envoy__Config__Core__V3__Address addr, *addrs[1];
	Envoy__Config__Core__V3__SocketAddress sock;
	Google__Protobuf__Duration rate, fail_base;
	Envoy__Config__Cluster__V3__Cluster__RefreshRate fail;
	unsigned answers, failures;
	size_t wanted;
	struct weft_ip last[WEFT_DNS_ADDRESSES_MAX];
	size_t last_n;
	int last_err;
};

static int setup(void **state)
{
	static struct fix f;

	memset(&f, 0, sizeof(f));
	f.base = event_base_new();
	server_open(&f.server, f.base);
	f.msg.base.descriptor = &envoy__config__cluster__v3__cluster__descriptor;
	f.addr.base.descriptor = &envoy__config__core__v3__address__descriptor;
	f.sock.base.descriptor = &envoy__config__core__v3__socket_address__descriptor;
	f.rate.base.descriptor = &google__protobuf__duration__descriptor;
	f.sock.address = "127.0.0.1";
	f.sock.port_specifier_case =
		ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_PORT_VALUE;
	f.sock.port_value = f.server.port;
	f.addr.address_case = ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS;
	f.addr.socket_address = &f.sock;
	f.addrs[0] = &f.addr;
	f.msg.dns_resolvers = f.addrs;
	f.msg.n_dns_resolvers = 1;
	f.msg.dns_refresh_rate = &f.rate;
	f.rate.has_nanos = true;
	f.rate.nanos = 20000000;
	f.cl.msg = &f.msg;
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	server_close(&f->server);
	event_base_free(f->base);
	return 0;
}

static void on_answer(void *owner, size_t i, int err, const struct weft_ip *ips, size_t n)
{
	struct fix *f = owner;

	f->answers++;
	f->failures += err < 0;
	f->last_err = err;
	f->last_n = n;
	memcpy(f->last, ips, n * sizeof(*ips));
	if (f->answers >= f->wanted)
		event_base_loopbreak(f->base);
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	return &envoy__config__cluster__v3__cluster__descriptor;
}

static void run(struct fix *f, const char *name, unsigned answers)
{
	struct weft_dns *d;
	struct timeval tv = {4, 0};

	f->answers = f->failures = 0;
	f->wanted = answers;
	d = weft_dns_start(f->base, &f->cl, &name, 1, on_answer, f);
	assert_int_equal(f->answers, 0); /* never before it returns */
	event_base_loopexit(f->base, &tv);
	event_base_dispatch(f->base);
	weft_dns_stop(d);
	assert_true(f->answers >= answers);
}

static bool has(const struct fix *f, size_t i, const char *text)
{
	char b[WEFT_IP_TEXT];

	return i < f->last_n && !strcmp(weft_ip_text(&f->last[i], b, sizeof(b)), text);
}

static void test_addresses(void **state)
{
	struct fix *f = *state;

	f->server.n_a = 3;
	f->msg.has_dns_lookup_family = true;
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_ONLY;
	run(f, "web.test.", 2);
	assert_int_equal(f->failures, 0);
	assert_int_equal(f->last_n, 3);
	assert_true(has(f, 0, "10.1.0.1") && has(f, 1, "10.1.0.2") && has(f, 2, "10.1.0.3"));
	assert_true(f->server.asked_a >= 2); /* asked again after the rate */
	assert_int_equal(f->server.asked_aaaa, 0);
}

static void test_families(void **state)
{
	struct fix *f = *state;

	f->server.n_a = 1;
	f->server.n_aaaa = 1;
	f->msg.has_dns_lookup_family = true;
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__AUTO;
	run(f, "web.test.", 1);
	assert_true(f->last_n == 1 && has(f, 0, "fd00::101"));
	f->msg.dns_lookup_family =
		ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_PREFERRED;
	run(f, "web.test.", 1);
	assert_true(f->last_n == 1 && has(f, 0, "10.1.0.1"));
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__ALL;
	run(f, "web.test.", 1);
	assert_int_equal(f->last_n, 2);
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V6_ONLY;
	run(f, "web.test.", 1);
	assert_true(f->last_n == 1 && f->last[0].family == 6);
	/* the other family where there is none of the first */
	f->server.n_aaaa = 0;
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__AUTO;
	run(f, "web.test.", 1);
	assert_true(f->last_n == 1 && has(f, 0, "10.1.0.1"));
}

static void test_none_and_failures(void **state)
{
	struct fix *f = *state;

	f->msg.has_dns_lookup_family = true;
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_ONLY;
	f->server.rcode = 3; /* no such name: an answer without addresses */
	run(f, "web.test.", 1);
	assert_int_equal(f->last_err, 0);
	assert_int_equal(f->last_n, 0);
	f->server.rcode = 2;
	run(f, "web.test.", 2);
	assert_int_equal(f->failures, 2);
}

static void test_ttl(void **state)
{
	struct fix *f = *state;
	struct weft_dns *d;
	const char *name = "web.test.";
	struct timeval tv = {0, 200000};

	f->server.n_a = 1;
	f->server.ttl = 60;
	f->msg.has_dns_lookup_family = true;
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_ONLY;
	f->msg.has_respect_dns_ttl = f->msg.respect_dns_ttl = true;
	f->answers = 0;
	f->wanted = 100;
	d = weft_dns_start(f->base, &f->cl, &name, 1, on_answer, f);
	event_base_loopexit(f->base, &tv);
	event_base_dispatch(f->base);
	weft_dns_stop(d);
	assert_int_equal(f->answers, 1); /* not every 20 ms */
}

static void test_no_server_needed(void **state)
{
	struct fix *f = *state;

	run(f, "10.9.8.7", 1);
	assert_true(f->last_n == 1 && has(f, 0, "10.9.8.7"));
	f->msg.has_dns_lookup_family = true;
	f->msg.dns_lookup_family = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__DNS_LOOKUP_FAMILY__V4_ONLY;
	run(f, "localhost", 1); /* of the hosts file */
	assert_true(f->last_n >= 1 && weft_ip_is_loopback(&f->last[0]));
	assert_int_equal(f->server.asked, 0);
}

static void test_stop_while_asking(void **state)
{
	struct fix *f = *state;
	const char *names[] = {"a.test.", "b.test."};
	struct timeval tv = {0, 30000};
	struct weft_dns *d;

	f->server.silent = true;
	f->answers = 0;
	d = weft_dns_start(f->base, &f->cl, names, 2, on_answer, f);
	event_base_loopexit(f->base, &tv);
	event_base_dispatch(f->base);
	assert_true(f->server.asked >= 2);
	weft_dns_stop(d);
	event_base_loop(f->base, EVLOOP_NONBLOCK);
	assert_int_equal(f->answers, 0);
}

/* The typed form, read again from the message alone when the cluster starts. */
static void test_typed(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);
	struct weft_cfg c = {.arena = a};
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	struct weft_dns_conf conf;
	size_t n;
	char text[512];

	snprintf(text, sizeof(text),
		 "{name: x, dns_lookup_family: V4_ONLY, typed_dns_resolver_config: {name: c, "
		 "typed_config: {\"@type\": "
		 "type.googleapis.com/envoy.extensions.network.dns_resolver."
		 "cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: {address: "
		 "127.0.0.1, "
		 "port_value: %u}}], query_tries: 2, rotate_nameservers: true}}}",
		 f->server.port);
	weft_yaml_decode(a, "t", text, strlen(text), pick, NULL, &docs, &n, &errs);
	assert_int_equal(errs.n, 0);
	assert_int_equal(weft_dns_conf_read(&c, NULL, (const void *)docs[0].msg, &conf), 0);
	assert_int_equal(conf.resolver.n_servers, 1);
	assert_int_equal(conf.resolver.tries, 2);
	assert_true(conf.resolver.rotate);
	f->server.n_a = 1;
	f->cl.msg = (const void *)docs[0].msg;
	run(f, "web.test.", 1);
	assert_true(has(f, 0, "10.1.0.1"));
	weft_arena_free(a);
}

/* A cluster with a typed resolver of our server and more. */
static void typed(struct fix *f, struct weft_arena *a, const char *more)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = a, .errs = &errs};
	struct weft_yaml_doc *docs;
	char text[1024];
	size_t n;

	snprintf(text, sizeof(text),
		 "{name: x, dns_lookup_family: V4_ONLY, dns_refresh_rate: 0.02s, "
		 "typed_dns_resolver_config: {name: c, typed_config: {\"@type\": "
		 "type.googleapis.com/envoy.extensions.network.dns_resolver."
		 "cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: {address: "
		 "127.0.0.1, port_value: %u}}]%s}}}",
		 f->server.port, more);
	weft_yaml_decode(a, "t", text, strlen(text), pick, NULL, &docs, &n, &errs);
	assert_int_equal(errs.n, 0);
	f->cl.msg = (const void *)docs[0].msg;
	assert_int_equal(weft_dns_check(&c, NULL, f->cl.msg), 0);
}

static void test_edns0(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);

	f->server.n_a = 1;
	typed(f, a, "");
	run(f, "web.test.", 1);
	assert_int_equal(f->server.payload, 0);
	typed(f, a, ", edns0_max_payload_size: 1400");
	run(f, "web.test.", 1);
	assert_int_equal(f->server.payload, 1400);
	weft_arena_free(a);
}

static void test_search(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);

	setenv("LOCALDOMAIN", "corp.test", 1);
	f->server.n_a = 1;
	typed(f, a, "");
	run(f, "web", 1);
	assert_string_equal(f->server.last, "web.corp.test.");
	typed(f, a, ", dns_resolver_options: {no_default_search_domain: true}");
	run(f, "web", 1);
	assert_string_equal(f->server.last, "web.");
	unsetenv("LOCALDOMAIN");
	weft_arena_free(a);
}

/* The deprecated form, with options of its own. */
static void test_resolution_config(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	char text[512];
	size_t n;

	setenv("LOCALDOMAIN", "corp.test", 1);
	snprintf(text, sizeof(text),
		 "{name: x, dns_lookup_family: V4_ONLY, dns_resolvers: [{socket_address: {address: "
		 "127.0.0.1, port_value: 1}}], dns_resolution_config: {resolvers: "
		 "[{socket_address: {address: 127.0.0.1, port_value: %u}}], dns_resolver_options: "
		 "{no_default_search_domain: true}}}",
		 f->server.port);
	weft_yaml_decode(a, "t", text, strlen(text), pick, NULL, &docs, &n, &errs);
	assert_int_equal(errs.n, 0);
	f->cl.msg = (const void *)docs[0].msg;
	f->server.n_a = 1;
	run(f, "web", 1);
	assert_true(has(f, 0, "10.1.0.1"));
	assert_string_equal(f->server.last, "web.");
	unsetenv("LOCALDOMAIN");
	weft_arena_free(a);
}

static bool system_has_resolvers(void)
{
	FILE *r = fopen("/etc/resolv.conf", "r");
	char line[256], at[256];
	bool found = false;

	while (r && fgets(line, sizeof(line), r))
		found |= sscanf(line, "nameserver %255s", at) == 1 && strcmp(at, "127.0.0.1") != 0;
	if (r)
		fclose(r);
	return found;
}

static void test_fallback(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);
	const char *name = "web.test.";
	struct timeval tv = {0, 200000};
	struct weft_dns *d;

	f->server.n_a = 1;
	typed(f, a, ", use_resolvers_as_fallback: true");
	f->wanted = 1;
	d = weft_dns_start(f->base, &f->cl, &name, 1, on_answer, f);
	event_base_loopexit(f->base, &tv);
	event_base_dispatch(f->base);
	weft_dns_stop(d);
	assert_int_equal(f->server.asked > 0, !system_has_resolvers());
	weft_arena_free(a);
}

/* Asks n times for "web"; the search domain of the system changes after the first answer. */
static void ask_while_domain_changes(struct fix *f, const char *more, unsigned n)
{
	struct weft_arena *a = weft_arena_new(0);
	const char *name = "web";
	struct timeval tv = {20, 0}; /* in case; the next call must not meet it */
	struct weft_dns *d;

	setenv("LOCALDOMAIN", "one.test", 1);
	typed(f, a, more);
	f->answers = 0;
	d = weft_dns_start(f->base, &f->cl, &name, 1, on_answer, f);
	event_base_loopexit(f->base, &tv);
	f->wanted = 1;
	event_base_dispatch(f->base);
	assert_string_equal(f->server.last, "web.one.test.");
	setenv("LOCALDOMAIN", "two.test", 1);
	f->wanted = n;
	event_base_dispatch(f->base);
	assert_true(f->answers >= n);
	weft_dns_stop(d);
	unsetenv("LOCALDOMAIN");
	weft_arena_free(a);
}

static void test_renew(void **state)
{
	struct fix *f = *state;

	f->server.silent = true;
	ask_while_domain_changes(f, ", query_timeout_seconds: 1, query_tries: 1", 2);
	assert_int_equal(f->failures, 2);
	assert_string_equal(f->server.last, "web.one.test.");
	ask_while_domain_changes(
		f, ", query_timeout_seconds: 1, query_tries: 1, reinit_channel_on_timeout: true",
		2);
	assert_string_equal(f->server.last, "web.two.test.");
}

/* One query or another is always under way: the next one goes by the new settings all the same. */
static void test_renew_busy(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);
	struct timeval half = {0, 500000}, rest = {0, 300000}, most = {5, 0};
	const char *name = "web";
	struct weft_dns *d[2];

	f->server.silent = true;
	setenv("LOCALDOMAIN", "one.test", 1);
	typed(f, a, ", query_timeout_seconds: 1, query_tries: 1, reinit_channel_on_timeout: true");
	f->answers = 0;
	f->wanted = 100;
	d[0] = weft_dns_start(f->base, &f->cl, &name, 1, on_answer, f);
	event_base_loopexit(f->base, &half);
	event_base_dispatch(f->base);
	d[1] = weft_dns_start(f->base, &f->cl, &name, 1, on_answer, f);
	f->wanted = 1;
	event_base_loopexit(f->base, &most);
	event_base_dispatch(f->base);
	assert_true(f->answers >= 1); /* the first's; the second still waits */
	assert_string_equal(f->server.last, "web.one.test.");
	setenv("LOCALDOMAIN", "two.test", 1);
	f->wanted = 100;
	event_base_loopexit(f->base, &rest);
	event_base_dispatch(f->base);
	assert_string_equal(f->server.last, "web.two.test.");
	f->server.silent = false; /* and the old channel's query still ends */
	f->server.n_a = 1;
	f->wanted = f->answers + 1;
	event_base_dispatch(f->base);
	assert_true(f->answers >= f->wanted);
	weft_dns_stop(d[1]);
	weft_dns_stop(d[0]);
	unsetenv("LOCALDOMAIN");
	weft_arena_free(a);
}

static void test_age(void **state)
{
	struct fix *f = *state;

	f->server.n_a = 1;
	ask_while_domain_changes(f, "", 4);
	assert_string_equal(f->server.last, "web.one.test.");
	ask_while_domain_changes(f, ", max_udp_channel_duration: 0.001s", 4);
	assert_string_equal(f->server.last, "web.two.test.");
	assert_int_equal(f->failures, 0);
}

/* Last: the process has no interface but loopback from here on. */
static void test_routable(void **state)
{
	struct fix *f = *state;
	struct weft_arena *a = weft_arena_new(0);
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd;

	if (unshare(CLONE_NEWNET))
		skip();
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &lo), 0);
	close(fd);
	server_close(&f->server);
	server_open(&f->server, f->base);
	f->server.n_a = 2;
	typed(f, a, "");
	run(f, "web.test.", 1);
	assert_int_equal(f->last_n, 2);
	typed(f, a, ", filter_unroutable_families: true");
	run(f, "web.test.", 1);
	assert_int_equal(f->last_n, 0);
	assert_int_equal(f->failures, 0);
	weft_arena_free(a);
}

static void test_bad_conf(void **state)
{
	struct fix *f = *state;
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = weft_arena_new(0), .errs = &errs};

	assert_int_equal(weft_dns_check(&c, NULL, &f->msg), 0);
	f->sock.address = "dns.example";
	assert_int_equal(weft_dns_check(&c, NULL, &f->msg), -EINVAL);
	assert_string_equal(errs.v[0].path, "dns_resolvers[0]");
	assert_non_null(strstr(errs.v[0].msg, "must be an IP address"));
	weft_arena_free(c.arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_families, setup, teardown),
		cmocka_unit_test_setup_teardown(test_none_and_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ttl, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_server_needed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_while_asking, setup, teardown),
		cmocka_unit_test_setup_teardown(test_typed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_conf, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edns0, setup, teardown),
		cmocka_unit_test_setup_teardown(test_search, setup, teardown),
		cmocka_unit_test_setup_teardown(test_resolution_config, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fallback, setup, teardown),
		cmocka_unit_test_setup_teardown(test_renew, setup, teardown),
		cmocka_unit_test_setup_teardown(test_renew_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_age, setup, teardown),
		cmocka_unit_test_setup_teardown(test_routable, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
