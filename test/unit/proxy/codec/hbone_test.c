#include "proxy/codec/hbone.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct weft_h2_header hdr(const char *name, const char *value)
{
	return (struct weft_h2_header){name, value, strlen(name), strlen(value)};
}

static int parse(const char *authority, struct weft_hbone_request *r)
{
	const struct weft_h2_header v[] = {hdr(":method", "CONNECT"), hdr(":authority", authority)};

	return weft_hbone_parse(&(struct weft_h2_headers){v, 2}, r);
}

static void addresses(void **st)
{
	static const struct {
		const char *in, *want;
	} t[] = {
		{"10.0.1.7:8080", "10.0.1.7:8080"},   {"10.0.1.7:1", "10.0.1.7:1"},
		{"10.0.1.7:65535", "10.0.1.7:65535"}, {"[fd00::1]:443", "[fd00::1]:443"},
		{"[FD00:0::1]:443", "[fd00::1]:443"}, {"[::ffff:10.0.1.7]:80", "10.0.1.7:80"},
	};
	struct weft_hbone_request r;
	char text[WEFT_SOCKADDR_TEXT];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_int_equal(parse(t[i].in, &r), 0);
		assert_false(r.by_host);
		assert_string_equal(weft_sockaddr_text(&r.addr, text, sizeof(text)), t[i].want);
	}
}

static void hosts(void **st)
{
	struct weft_hbone_request r;
	char s[400];

	assert_int_equal(parse("Web.NS.svc.Cluster.local:80", &r), 0);
	assert_true(r.by_host);
	assert_string_equal(r.host, "web.ns.svc.cluster.local");
	assert_int_equal(r.port, 80);
	assert_int_equal(parse("a_b-c.1st:65535", &r), 0);
	assert_int_equal(r.port, 65535);
	memset(s, 'a', sizeof(s)); /* 63 is the longest label */
	memcpy(s + 63, ":1", 3);
	assert_int_equal(parse(s, &r), 0);
	memcpy(s + 63, "a:1", 4);
	assert_int_equal(parse(s, &r), -EINVAL);
	for (int i = 0; i < 256; i++) /* 255 the longest name */
		s[i] = i % 32 == 31 ? '.' : 'a';
	memcpy(s + 255, ":1", 3);
	assert_int_equal(parse(s, &r), 0);
	assert_int_equal(strlen(r.host), 255);
	memcpy(s + 255, "a:1", 4);
	s[255] = 'b';
	s[254] = 'a';
	memmove(s + 256, ":1", 3);
	assert_int_equal(parse(s, &r), -EINVAL);
}

static void hostile_authorities(void **st)
{
	static const char *const bad[] = {
		"",
		":",
		":80",
		"host",
		"host:",
		"host:0",
		"host:65536",
		"host:080",
		"host:+80",
		"host: 80",
		"host:80 ",
		"host:99999999999999999999",
		"host:-1",
		"host:80:80",
		"10.0.1.7",
		"10.0.1.7:0",
		"10.0.1.7:65536",
		"10.0.1.7:http",
		"10.0.1.07:80",
		"10.0.1.256:80",
		"10.0.1:80",
		"167772423:80",
		"0x7f.0x1:80",
		"a.0x7f000001:80",
		"::1:80",
		"[::1]",
		"[::1]:0",
		"[::1]80",
		"[::1]:65536",
		"[::1%eth0]:80",
		"[::1:80",
		"::1]:80",
		"[10.0.0.1]:80",
		"[]:80",
		"[host]:80",
		".host:80",
		"host.:80",
		"a..b:80",
		"-a:80",
		"a-:80",
		"user@host:80",
		"http://host:80",
		"host:80/path",
		"ho st:80",
		"h\xc3\xb6st:80",
		"a,b:80",
		"*.ns:80",
	};
	struct weft_hbone_request r;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (parse(bad[i], &r) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
}

static void other_methods_and_pseudo_headers(void **st)
{
	struct weft_h2_header v[] = {hdr(":method", "CONNECT"), hdr(":authority", "h:1"),
				     hdr("x", "y")};
	struct weft_h2_headers h = {v, 3};
	struct weft_hbone_request r;

	assert_int_equal(weft_hbone_parse(&h, &r), 0);
	v[0] = hdr(":method", "GET");
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
	v[0] = hdr(":method", "connect");
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
	v[0] = hdr("a", "b");
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
	v[0] = hdr(":method", "CONNECT");
	v[2] = hdr(":path", "/");
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
	v[2] = hdr(":protocol", "websocket");
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
	v[2] = hdr("x", "y");
	v[1] = (struct weft_h2_header){":authority", "h:1\0x", 10, 5}; /* what C would not see */
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
	h.n = 1;
	assert_int_equal(weft_hbone_parse(&h, &r), -EINVAL);
}

static void baggage(void **st)
{
	struct weft_baggage b, c;
	char text[600], s[1200];
	size_t n;

	weft_baggage_parse("k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,"
			   "k8s.cronjob.name=web,service.name=web,service.version=v1,"
			   "cloud.region=r,cloud.availability_zone=z",
			   &b);
	assert_string_equal(b.cluster, "Kubernetes");
	assert_string_equal(b.ns, "ns");
	assert_string_equal(b.workload, "web");
	assert_string_equal(b.workload_type, "cronjob");
	assert_string_equal(b.service, "web");
	assert_string_equal(b.version, "v1");
	assert_string_equal(b.region, "r");
	assert_string_equal(b.zone, "z");
	n = weft_baggage_text(&b, text, sizeof(text));
	assert_int_equal(n, strlen(text));
	assert_string_equal(text, "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,"
				  "k8s.cronjob.name=web,service.name=web,service.version=v1,"
				  "cloud.region=r,cloud.availability_zone=z");
	weft_baggage_parse(text, &c);
	assert_memory_equal(&b, &c, sizeof(b));

	/* odd items: unknown, empty, no =, two =, quotes, spaces around, a control byte, not ASCII
	 */
	weft_baggage_parse(",,unknown=1,k8s.cluster.name=,k8s.namespace.name,service.name=a=b,"
			   " service.version=v2 ,cloud.region=a\"b,cloud.availability_zone=\xff,"
			   "k8s.x.name=1,k8s.name=2,k8s..name=3,=4,=",
			   &b);
	assert_string_equal(b.cluster, "");
	assert_string_equal(b.ns, "");
	assert_string_equal(b.service, "a");
	assert_string_equal(b.version, "v2");
	assert_string_equal(b.region, "");
	assert_string_equal(b.zone, "");
	assert_string_equal(b.workload, "");
	assert_string_equal(b.workload_type, "");

	strcpy(s, "service.name="); /* 253 bytes are kept, 254 are none */
	memset(s + 13, 'x', 254);
	s[13 + 254] = '\0';
	weft_baggage_parse(s, &b);
	assert_string_equal(b.service, "");
	s[13 + 253] = '\0';
	weft_baggage_parse(s, &b);
	assert_int_equal(strlen(b.service), 253);
	assert_int_equal(weft_baggage_text(&b, text, 20), 0); /* whole items only */

	memset(&b, 0, sizeof(b)); /* no type: pod */
	strcpy(b.workload, "w");
	weft_baggage_text(&b, text, sizeof(text));
	assert_string_equal(text, "k8s.pod.name=w");
	strcpy(b.workload, "a,service.name=evil");
	assert_int_equal(weft_baggage_text(&b, text, sizeof(text)), 0);
}

static const char *forwarded(const char *value)
{
	static struct weft_hbone_request r;
	const struct weft_h2_header v[] = {hdr(":method", "CONNECT"), hdr(":authority", "h:1"),
					   hdr("forwarded", value)};

	assert_int_equal(weft_hbone_parse(&(struct weft_h2_headers){v, 3}, &r), 0);
	return r.forwarded_host;
}

static void forwarded_hosts(void **st)
{
	char s[500] = "host=";

	assert_string_equal(forwarded("for=\"10.0.1.5:41822\";host=web.ns.svc.cluster.local"),
			    "web.ns.svc.cluster.local");
	assert_string_equal(forwarded("host=\"Web.ns\""), "web.ns");
	assert_string_equal(forwarded("for=\"[::1]:2\"; host=a ; host=b"), "a");
	assert_string_equal(forwarded("for=1.2.3.4"), "");
	assert_string_equal(forwarded("xhost=a"), "");
	assert_string_equal(forwarded("host="), "");
	assert_string_equal(forwarded("host=\""), "");
	assert_string_equal(forwarded("host=\"a"), "");
	assert_string_equal(forwarded("host=a b"), "");
	assert_string_equal(forwarded(";;;"), "");
	memset(s + 5, 'a', 490);
	assert_string_equal(forwarded(s), "");
}

static const char *trace(const char *value)
{
	static struct weft_hbone_request r;
	const struct weft_h2_header v[] = {hdr(":method", "CONNECT"), hdr(":authority", "h:1"),
					   hdr("traceparent", value)};

	assert_int_equal(weft_hbone_parse(&(struct weft_h2_headers){v, 3}, &r), 0);
	return r.trace_id;
}

static void traceparents(void **st)
{
	assert_string_equal(trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
			    "4bf92f3577b34da6a3ce929d0e0e4736");
	assert_string_equal(trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"), "");
	assert_string_equal(trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-000"), "");
	assert_string_equal(trace("00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), "");
	assert_string_equal(trace("00-00000000000000000000000000000000-00f067aa0ba902b7-00"), "");
	assert_string_equal(trace("00+4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), "");
	assert_string_equal(trace(""), "");
}

static void writing(void **st)
{
	struct weft_baggage b = {.ns = "ns", .workload = "web"};
	struct weft_sockaddr from;
	struct weft_hbone_text t;
	struct weft_hbone_request r;
	struct weft_h2_headers h;

	assert_int_equal(weft_sockaddr_parse("[fd00::5]:41822", &from), 0);
	assert_int_equal(
		weft_hbone_write(&t, "10.0.1.7:80", &b, &from, "Web.ns",
				 "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
		0);
	h = (struct weft_h2_headers){t.v, t.n};
	assert_int_equal(t.n, 5);
	assert_string_equal(weft_h2_headers_get(&h, "forwarded"),
			    "for=\"[fd00::5]:41822\";host=web.ns");
	assert_string_equal(weft_h2_headers_get(&h, "baggage"),
			    "k8s.namespace.name=ns,k8s.pod.name=web");
	assert_int_equal(weft_hbone_parse(&h, &r), 0);
	assert_string_equal(r.forwarded_host, "web.ns");
	assert_string_equal(r.baggage.ns, "ns");
	assert_string_equal(r.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");

	assert_int_equal(weft_hbone_write(&t, "web.ns:80", NULL, NULL, NULL, NULL), 0);
	assert_int_equal(t.n, 2);
	assert_int_equal(weft_hbone_write(&t, "web.ns:80", NULL, NULL, "h", NULL), 0);
	assert_string_equal(t.v[2].value, "host=h");
	assert_int_equal(weft_hbone_write(&t, "web.ns", NULL, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(weft_hbone_write(&t, "web.ns:1", NULL, NULL, "a\r\nb: c", NULL), -EINVAL);
	assert_int_equal(weft_hbone_write(&t, "web.ns:1", NULL, NULL, NULL, "00-1"), -EINVAL);
}

/* The longest of everything fits. */
static void writing_at_the_limits(void **st)
{
	struct weft_baggage b = {.workload_type = "deployment"};
	char *const f[] = {b.cluster, b.ns, b.workload, b.service, b.version, b.region, b.zone};
	char host[WEFT_HBONE_HOST_MAX + 1], authority[300];
	struct weft_sockaddr from;
	struct weft_hbone_text t;
	struct weft_hbone_request r;

	for (int i = 0; i < 7; i++)
		memset(f[i], 'a' + i, WEFT_HBONE_LABEL_MAX);
	for (int i = 0; i < WEFT_HBONE_HOST_MAX; i++)
		host[i] = i % 32 == 31 ? '.' : 'h';
	host[WEFT_HBONE_HOST_MAX] = '\0';
	snprintf(authority, sizeof(authority), "%s:65535", host);
	assert_int_equal(
		weft_sockaddr_parse("[2001:db8:1111:2222:3333:4444:5555:6666]:65535", &from), 0);
	assert_int_equal(
		weft_hbone_write(&t, authority, &b, &from, host,
				 "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
		0);
	assert_int_equal(weft_hbone_parse(&(struct weft_h2_headers){t.v, t.n}, &r), 0);
	assert_string_equal(r.host, host);
	assert_memory_equal(&r.baggage, &b, sizeof(b));
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(addresses),
		cmocka_unit_test(hosts),
		cmocka_unit_test(hostile_authorities),
		cmocka_unit_test(other_methods_and_pseudo_headers),
		cmocka_unit_test(baggage),
		cmocka_unit_test(forwarded_hosts),
		cmocka_unit_test(traceparents),
		cmocka_unit_test(writing),
		cmocka_unit_test(writing_at_the_limits),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
