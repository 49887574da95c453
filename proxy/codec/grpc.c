#include "proxy/codec/grpc.h"
#include "proxy/core/arena.h"
#include <errno.h>
#include <event2/buffer.h>
#include <stdlib.h>

enum { PREFIX = 5 }; /* a flag and the length */

void weft_grpc_in_init(struct weft_grpc_in *g, size_t max_bytes)
{
	g->buf = evbuffer_new();
	if (!g->buf)
		abort();
	g->max_bytes = max_bytes;
}

void weft_grpc_in_done(struct weft_grpc_in *g)
{
	if (g->buf)
		evbuffer_free(g->buf);
	g->buf = NULL;
}

void weft_grpc_in_feed(struct weft_grpc_in *g, const uint8_t *p, size_t n)
{
	if (evbuffer_add(g->buf, p, n))
		abort();
}

int weft_grpc_in_next(struct weft_grpc_in *g, uint8_t **ret, size_t *ret_n)
{
	uint8_t head[PREFIX];
	uint8_t *msg;
	size_t n;

	if (evbuffer_copyout(g->buf, head, PREFIX) < PREFIX)
		return 0;
	if (head[0]) /* 1 is compressed; we never offered it */
		return -EPROTO;
	n = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];
	if (n > g->max_bytes)
		return -EMSGSIZE;
	if (evbuffer_get_length(g->buf) < PREFIX + n)
		return 0;
	msg = weft_xcalloc(1, n ? n : 1);
	evbuffer_drain(g->buf, PREFIX);
	evbuffer_remove(g->buf, msg, n);
	*ret = msg;
	*ret_n = n;
	return 1;
}

void weft_grpc_out(struct evbuffer *dst, const void *msg, size_t n)
{
	const uint8_t head[PREFIX] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
				      (uint8_t)n};

	if (evbuffer_expand(dst, PREFIX + n) || evbuffer_add(dst, head, PREFIX) ||
	    evbuffer_add(dst, msg, n))
		abort();
}

int weft_grpc_of_http(int status)
{
	switch (status) {
	case 400:
		return 13;
	case 401:
		return 16;
	case 403:
		return 7;
	case 404:
		return 12;
	case 429:
	case 502:
	case 503:
	case 504:
		return 14;
	}
	return 2;
}
