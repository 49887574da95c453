/* The ADS server on foreign requests: a byte chooses the method, then comes a row of messages, each
 * behind two bytes of length, sent on one stream. What the server answers is acked by nobody, so it
 * must stay bounded. */
#include "xds/server.c"

#include "xds/proto/workload.pb-c.h"
#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { SEND_CAP = 16384 + 9, SEND_MAX = 1 << 20 };

static void fuzz_nacked(void *owner, const char *node, const struct weft_xds_type *t,
			const char *text)
{
	assert(node[0] && t->url && strlen(text) <= WEFT_XDS_TEXT_MAX);
}

static struct weft_xds_server *fuzz_server(struct event_base *base)
{
	static const char *const aliases[] = {"/10.0.0.1", "both", NULL};
	const struct weft_xds_server_conf conf = {.nacked = fuzz_nacked};
	struct weft_xds_server *s = weft_xds_server_new(base, &conf);
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	Istio__Workload__Service v = ISTIO__WORKLOAD__SERVICE__INIT;

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	a.service = &v;
	v.name = (char *)"a";
	weft_xds_publish(s, &weft_xds_type_address, "ns/a", &a.base, aliases);
	weft_xds_publish(s, &weft_xds_type_address, "ns/b", &a.base, aliases + 1);
	weft_xds_publish(s, &weft_xds_type_address, "ns/c", &a.base, NULL);
	weft_xds_publish(s, &weft_xds_type_address, "ns/c", NULL, NULL);
	return s;
}

static size_t frame(uint8_t *b, uint8_t type, uint8_t flags, uint8_t id, const void *p, size_t n)
{
	const uint8_t head[9] = {
		(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, type, flags, 0, 0, 0, id};

	memcpy(b, head, 9);
	if (n)
		memcpy(b + 9, p, n);
	return 9 + n;
}

static void drain(struct weft_h2 *h)
{
	static uint8_t buf[SEND_CAP];
	size_t sum = 0;
	ssize_t n;

	while ((n = weft_h2_send(h, buf, sizeof(buf))) > 0)
		sum += (size_t)n;
	assert(sum < SEND_MAX);
}

/* POST, http, authority, path, content-type as HPACK literals. */
static size_t open_stream(uint8_t *b, unsigned method)
{
	static const char *const methods[] = {
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
		"/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
		"/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
	};
	const char *path = methods[method % 4];
	uint8_t block[256] = {0x83, 0x86, 0x01, 0x01, 'h', 0x04, (uint8_t)strlen(path)};
	size_t n = 7;

	memcpy(block + n, path, strlen(path));
	n += strlen(path);
	memcpy(block + n,
	       "\x0f\x10\x10"
	       "application/grpc",
	       19);
	return frame(b, 1, 4, 1, block, n + 19);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct event_base *base;
	static struct weft_xds_server *s;
	static uint8_t b[70000], msg[70000];
	struct xclient *c;
	struct weft_h2 *h;
	int sv[2];

	if (!base) {
		base = event_base_new();
		s = fuzz_server(base);
	}
	if (!n)
		return 0;
	assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv));
	client_new(s, sv[0], getpid(), getuid());
	c = TAILQ_FIRST(&s->clients);
	h = weft_xds_link_h2(c->link);
	weft_h2_recv(h, (const uint8_t *)"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	weft_h2_recv(h, b, frame(b, 4, 0, 0, NULL, 0));
	weft_h2_recv(h, b, open_stream(b, *data));
	assert(!TAILQ_EMPTY(&c->streams));
	data++;
	n--;
	while (n > 2) {
		size_t len = (size_t)data[0] << 8 | data[1];

		len = len < n - 2 ? len : n - 2;
		memcpy(msg, (const uint8_t[5]){0, 0, 0, (uint8_t)(len >> 8), (uint8_t)len}, 5);
		memcpy(msg + 5, data + 2, len);
		weft_h2_recv(h, b, frame(b, 0, 0, 1, msg, len + 5));
		drain(h);
		data += 2 + len;
		n -= 2 + len;
	}
	client_free(c);
	close(sv[1]);
	return 0;
}
