/* envoy.filters.http.buffer: holds a request until all of it is there. */
#include "proxy/http/filter.h"

#include "xds/proto/envoy/extensions/filters/http/buffer/v3/buffer.pb-c.h"
#include <event2/buffer.h>
#include <stdio.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Http__Buffer__V3__Buffer buffer_msg;
typedef Envoy__Extensions__Filters__Http__Buffer__V3__BufferPerRoute route_msg;

struct conf {
	bool off;
	uint32_t max;
};
struct state {
	bool whole; /* the body is held to its end, and its length not known yet */
};

static int max_of(struct weft_cfg *c, const struct weft_path *at, const buffer_msg *m,
		  struct conf *conf)
{
	struct weft_path p = {at, "max_request_bytes", -1};

	conf->max = weft_cfg_u32(m->max_request_bytes, 0);
	return conf->max ? 0 : weft_cfg_fail(c, &p, "must be greater than 0");
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	*ret = conf;
	return max_of(c, at, (const buffer_msg *)msg, conf);
}

static int prepare_route(struct weft_cfg *c, const struct weft_path *at,
			 const ProtobufCMessage *msg, const void **ret)
{
	const route_msg *m = (const void *)msg;
	struct weft_path p = {at, "buffer", -1}, pd = {at, "disabled", -1};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));

	*ret = conf;
	switch (m->override_case) {
	case ENVOY__EXTENSIONS__FILTERS__HTTP__BUFFER__V3__BUFFER_PER_ROUTE__OVERRIDE_BUFFER:
		return max_of(c, &p, m->buffer, conf);
	case ENVOY__EXTENSIONS__FILTERS__HTTP__BUFFER__V3__BUFFER_PER_ROUTE__OVERRIDE_DISABLED:
		conf->off = true;
		return m->disabled ? 0 : weft_cfg_fail(c, &pd, "must be true, is false");
	default:
		return weft_cfg_fail(c, at, "must have one of disabled, buffer");
	}
}

static enum weft_flow headers(struct weft_stream *s, const void *c, void *state, enum weft_dir d,
			      struct weft_headers *h, bool end)
{
	const struct conf *conf = c;
	struct state *st = state;

	/* what an upgrade sends has no end to wait for */
	if (d == WEFT_RESPONSE || end || conf->off || weft_stream_upgrade(s))
		return WEFT_NEXT;
	st->whole = true;
	weft_stream_buffer_limit(s, d, conf->max);
	return WEFT_WAIT;
}

/* All of it: its length is known now. */
static enum weft_flow data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	struct weft_headers *h = weft_stream_headers(s, d);
	struct state *st = state;
	char text[24];

	if (d == WEFT_RESPONSE || !st->whole)
		return WEFT_NEXT;
	st->whole = false;
	if (end && !weft_headers_get(h, WEFT_H_CONTENT_LENGTH)) { /* trailers need chunks */
		snprintf(text, sizeof(text), "%zu", evbuffer_get_length(b));
		weft_headers_remove_id(h, WEFT_H_TRANSFER_ENCODING);
		weft_headers_set_id(h, WEFT_H_CONTENT_LENGTH, text, strlen(text));
	}
	return WEFT_NEXT;
}

const struct weft_http_filter weft_http_filter_buffer = {
	.ext = {.name = "envoy.filters.http.buffer",
		.config = &envoy__extensions__filters__http__buffer__v3__buffer__descriptor,
		.per_route =
			&envoy__extensions__filters__http__buffer__v3__buffer_per_route__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare,
		.prepare_route = prepare_route},
	.headers = headers,
	.data = data,
};
