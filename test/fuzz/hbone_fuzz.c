/* Headers of a CONNECT from foreign bytes: lines of authority, forwarded, traceparent, baggage.
 * What was accepted must survive being written and parsed again. */
#include "proxy/codec/hbone.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t split(char *s, size_t n, struct weft_h2_header *v)
{
	static const char *const names[] = {":authority", "forwarded", "traceparent", "baggage"};
	size_t k = 1;

	v[0] = (struct weft_h2_header){":method", "CONNECT", 7, 7};
	for (int i = 0; i < 4; i++) {
		char *nl = memchr(s, '\n', n);
		size_t len = nl ? (size_t)(nl - s) : n;

		s[len] = '\0';
		v[k++] = (struct weft_h2_header){names[i], s, strlen(names[i]), len};
		if (!nl)
			break;
		s += len + 1;
		n -= len + 1;
	}
	return k;
}

static void check(const struct weft_hbone_request *r)
{
	char authority[WEFT_HBONE_HOST_MAX + 8], addr[WEFT_SOCKADDR_TEXT];
	struct weft_hbone_request again;
	struct weft_hbone_text t;

	assert(strlen(r->host) <= WEFT_HBONE_HOST_MAX);
	assert(r->by_host ? r->port && r->host[0] : r->addr.port && r->addr.ip.family);
	if (r->by_host)
		snprintf(authority, sizeof(authority), "%s:%u", r->host, r->port);
	else
		snprintf(authority, sizeof(authority), "%s",
			 weft_sockaddr_text(&r->addr, addr, sizeof(addr)));
	assert(!weft_hbone_write(&t, authority, &r->baggage, NULL,
				 r->forwarded_host[0] ? r->forwarded_host : NULL, NULL));
	assert(!weft_hbone_parse(&(struct weft_h2_headers){t.v, t.n}, &again));
	assert(again.by_host == r->by_host && again.port == r->port);
	assert(!strcmp(again.host, r->host) && weft_sockaddr_eq(&again.addr, &r->addr));
	assert(!strcmp(again.forwarded_host, r->forwarded_host));
	assert(!strcmp(again.baggage.workload, r->baggage.workload));
	assert(!strcmp(again.baggage.ns, r->baggage.ns));
	assert(!strcmp(again.baggage.zone, r->baggage.zone));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_hbone_request r;
	struct weft_h2_header v[5];
	char *s = malloc(n + 1);

	assert(s);
	memcpy(s, data, n);
	s[n] = '\0';
	if (!weft_hbone_parse(&(struct weft_h2_headers){v, split(s, n, v)}, &r))
		check(&r);
	free(s);
	return 0;
}
