/* A RouteConfiguration from a server, then a request that goes through it: two bytes of length, the
 * message, and "host\npath\nname value\n...". */
#include "proxy/http/route_priv.h"
#include "xds/wire.h"
#include <assert.h>
#include <event2/buffer.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { HEADERS_MAX = 20 };

static const char *line(struct weft_arena *a, const uint8_t **p, const uint8_t *end)
{
	const uint8_t *nl = memchr(*p, '\n', (size_t)(end - *p));
	size_t n = (size_t)((nl ? nl : end) - *p), i;
	char *s = weft_arena_alloc(a, n + 1);

	memcpy(s, *p, n);
	for (i = 0; i < n; i++)
		if (!s[i]) /* a session lets none through */
			s[i] = '0';
	*p += n + (nl != NULL);
	return s;
}

static void request(struct weft_headers *h, const uint8_t *p, const uint8_t *end)
{
	const char *s = line(h->arena, &p, end), *v;
	int i;

	weft_headers_add_id(h, WEFT_H_METHOD, "GET", 3);
	weft_headers_add_id(h, WEFT_H_AUTHORITY, s, strlen(s));
	s = line(h->arena, &p, end);
	weft_headers_add_id(h, WEFT_H_PATH, s, strlen(s));
	for (i = 0; p < end && i < HEADERS_MAX; i++) {
		s = line(h->arena, &p, end);
		v = strchr(s, ' ');
		if (v && v > s)
			weft_headers_add(h, s, (size_t)(v - s), v + 1, strlen(v + 1));
	}
}

static void walk(const struct weft_routes *rt, struct weft_arena *a, const struct weft_route_in *in,
		 struct weft_headers *h)
{
	struct weft_format_in fin = {.info = in->info, .req = h};
	struct evbuffer *out = evbuffer_new();
	const struct weft_weighted *w = NULL;
	const char *text = NULL, *set = NULL;
	const struct weft_route *r;
	uint64_t hash;
	bool tls;

	weft_routes_explain(rt, in, out);
	evbuffer_free(out);
	r = weft_routes_find(rt, in, &tls);
	if (!r)
		return;
	if (r->action == WEFT_ROUTE_REDIRECT) {
		(void)weft_route_redirect(r, in, a, &text);
		assert(text);
	} else if (r->action == WEFT_ROUTE_FORWARD) {
		(void)weft_route_cluster(r, in, &w);
		(void)weft_route_hash(r, in, a, &hash, &set);
		weft_route_request(r, w, &fin, h);
	}
	weft_route_response(r, w, &fin, h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_errs errs = {0}, warns = {0};
	struct weft_cfg c = {.errs = &errs, .warns = &warns};
	struct weft_io_info down = {0};
	struct weft_info info = {.down = &down};
	struct weft_routes *rt = NULL;
	struct weft_headers h;
	ProtobufCMessage *m;
	size_t len;

	if (n < 2)
		return 0;
	len = (size_t)data[0] << 8 | data[1];
	if (len > n - 2)
		return 0;
	c.arena = info.arena = weft_arena_new(0);
	m = weft_wire_unpack(c.arena, &envoy__config__route__v3__route_configuration__descriptor,
			     data + 2, len, true, NULL);
	if (m && !weft_cfg_check(&c, NULL, m)) {
		int r = weft_routes_new(&c, NULL, (const void *)m, &rt);

		assert((r < 0) == (errs.n > 0));
		if (!r) {
			struct weft_route_in in = {&h, &info, len * 2654435761u, len & 1};

			weft_headers_init(&h, c.arena);
			request(&h, data + 2 + len, data + n);
			walk(rt, c.arena, &in, &h);
		}
	}
	weft_arena_free(c.arena);
	return 0;
}
